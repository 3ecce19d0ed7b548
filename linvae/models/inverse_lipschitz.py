"""A decoder that keeps latents apart: |g(z, x) - g(z', x)| >= L |z - z'| for every condition x.

    g(z, x) = B (T_2(T_1(z)) + c(x)) + (I - B B^T) N(z, x)
    T_1(z) = z + grad phi_1(z),   T_2(u) = L u + grad phi_2(u)

phi_1, phi_2 are convex networks of z (Amos et al. 2017), N any network, B (d, k) has orthonormal
columns, trained. The gradient of a convex function is monotone, so T_1 expands distances by 1 at
least and T_2 by L (gradients of strongly convex functions, Brenier maps), and what N says is
orthogonal to both: **the bound is L, whatever the parameters are**. For L > 0 no two latents give
one output, so that the posterior cannot be the prior. Linear networks of this form are, up to a
rotation of z, all matrices U with U^T U >= L^2 I (B: their left singular vectors).

    phi(z) = v . h_n,   h_l = softplus(V_l h_(l-1) + W_l z + b_l),   V_l, v >= 0 (squares)
    grad phi = sum_l W_l^T delta_l,   delta_n = v o h_n',   delta_(l-1) = (V_l^T delta_l) o h_(l-1)'

written out, so that training differentiates an ordinary forward pass.

| symbol | argument          | shape  | unit                                       |
|--------|-------------------|--------|--------------------------------------------|
| L      | inverse_lipschitz | scalar | output units/latent unit                   |
| B      | columns, before   | (d, k) | -                                          |
|        | orthogonalisation |        |                                            |
| c(x)   | shift             | (k,)   | output units; constant without a condition |

Source: Wang, Blei & Cunningham 2021, who have T_1 in R^k, a matrix, and T_2 in R^d. Ours: B^T of
their output is T_2(T_1(z)) as here (B^T grad phi(B u) is the gradient of a convex function of u),
but what is orthogonal to B comes from the same potential there and is free here. On digits (8
units, 64 hidden, 2000 steps, one seed, beta s from 0.005 to 0.2, L = 0.1) their form, with this B,
ended 1.4 to 1.9 nats above an MLP, this one 0.1 below to 0.25 above. Equality that a
test checks: grad phi is torch's.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from linvae.models.architecture import Architecture
from linvae.models.blocks import HEAD_STD, dense_network
from linvae.models.members import MemberNetwork

__all__ = ["ConvexGradient", "InverseLipschitzDecoder", "inverse_lipschitz_decoder"]

GAIN = 2.0  # standard deviation of what a softplus sees where the network starts


class ConvexGradient(nn.Module):
    """x -> the gradient of a convex network of x, for inputs with entries of order 1.

    Starts at a norm below `HEAD_STD`.
    """

    def __init__(self, generator: Generator, d_in: int, widths: Sequence[int]) -> None:
        super().__init__()
        self._widths = list(widths)
        draw = torch.randn(sum(widths), d_in, generator=generator)
        self.weight = nn.Parameter(GAIN / math.sqrt(d_in) * draw)
        self.bias = nn.Parameter(torch.zeros(sum(widths)))
        self.mixing = nn.ParameterList(
            torch.randn(width, below, generator=generator) / math.sqrt(below)
            for below, width in itertools.pairwise(widths)
        )
        # v, its square: slopes follow their weights, so that h units add up as h, not sqrt(h)
        self.readout = nn.Parameter(torch.full((widths[-1],), math.sqrt(HEAD_STD / widths[-1])))

    def forward(self, x: Tensor) -> Tensor:
        """(rows, d_in) -> grad phi, the same shape."""
        own = torch.split(F.linear(x, self.weight, self.bias), self._widths, -1)
        seen = [own[0]]  # what each softplus is of
        for i, part in enumerate(own[1:]):
            seen.append(part + F.linear(F.softplus(seen[-1]), self.mixing[i].square()))
        deltas = [self.readout.square() * torch.sigmoid(seen[-1])]
        for i in range(len(self.mixing) - 1, -1, -1):
            deltas.append((deltas[-1] @ self.mixing[i].square()) * torch.sigmoid(seen[i]))
        return torch.cat(deltas[::-1], dim=-1) @ self.weight


class InverseLipschitzDecoder(MemberNetwork):
    """The module's g; `shift` is a network of the condition, or None."""

    def __init__(
        self,
        generator: Generator,
        free: MemberNetwork,
        shift: MemberNetwork | None,
        size: tuple[int, int],
        widths: Sequence[int],
        bound: float,
    ) -> None:
        super().__init__()
        d, k = size
        self._bound = bound
        self.first = ConvexGradient(generator, k, widths)
        self.second = ConvexGradient(generator, k, widths)
        self.columns = nn.Parameter(torch.randn(d, k, generator=generator) / math.sqrt(d))
        self.free, self.shift = free, shift
        if shift is None:
            self.constant = nn.Parameter(torch.zeros(k))

    def forward(
        self,
        x: Tensor,
        shared: Tensor | None = None,
        target: Tensor | None = None,
        *,
        hidden_only: bool = False,
    ) -> Tensor:
        """As `MemberNetwork.forward`; the output is linear in N's last hidden layer and T(z)."""
        free = self.free(x, shared, hidden_only=hidden_only)
        with torch.autocast(x.device.type, enabled=False):  # terms that cancel: never bfloat16
            inside, free = self._inside(x, shared), free.to(x.dtype)
            if hidden_only:
                return torch.cat([free, inside], dim=-1)
            basis = orthonormal(self.columns)
            output: Tensor = free + (inside - free @ basis) @ basis.mT
            return output

    def _inside(self, z: Tensor, shared: Tensor | None) -> Tensor:
        """T_2(T_1(z)) + c(x), (rows, k)."""
        u = z + self.first(z)
        expanded: Tensor = self._bound * u + self.second(u)
        if self.shift is None:
            return expanded + self.constant
        given: Tensor = self.shift(shared)
        return (torch.unflatten(expanded, 0, (-1, len(given))) + given).flatten(0, 1)


def orthonormal(columns: Tensor) -> Tensor:
    """Gram-Schmidt of the columns, (..., d, k): continuous in them, the signs of LAPACK are not."""
    basis, triangle = torch.linalg.qr(columns)
    signs = torch.sign(torch.diagonal(triangle, dim1=-2, dim2=-1))
    fixed: Tensor = basis * signs[..., None, :]
    return fixed


def inverse_lipschitz_decoder(
    generator: Generator,
    architecture: Architecture,
    latent_dim: int,
    d_out: int,
    *,
    bound: float,
    condition_dim: int = 0,
) -> InverseLipschitzDecoder:
    """For latents of unit variance; N, c, phi_1 and phi_2 have the decoder's hidden layers.

    `bound`: L in units of the output, which N and c treat as `blocks.dense_network` does. Raises
    ValueError for more latents than outputs.
    """
    if latent_dim > d_out:
        raise ValueError(
            f"latent_dim={latent_dim} must be at most the {d_out} coordinates of the target with "
            "decoder='inverse-lipschitz': a map onto fewer cannot keep all latents apart"
        )
    widths = architecture.decoder_widths
    free = dense_network(
        generator, architecture, widths, latent_dim, d_out,
        input_norm=math.sqrt(latent_dim + (condition_dim > 0)), condition_dim=condition_dim,
        latent_skip=architecture.latent_skip,
    )  # fmt: skip
    shift = None
    if condition_dim:
        shift = dense_network(
            generator, architecture, widths, condition_dim, latent_dim, input_norm=1
        )
    size = (d_out, latent_dim)
    return InverseLipschitzDecoder(generator, free, shift, size, widths, bound)
