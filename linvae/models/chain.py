"""Trained counterparts of every spec: a stack of chains v -> z_1 -> ... -> z_L -> y.

    q(z_1|v) = N(f_1(v), Sigma_1)    q(z_l|z_{l-1}) = N(f_l(z_{l-1}), Sigma_l)
    p(y|z_1, x) = N(g_1(z_1, x), s I)    p(z_{l-1}|z_l) = N(g_l(z_l), eta_{l-1}^2 I)

`architecture="linear"`: f and g are theory's matrices, no biases (the data are centred), one
learned variance per unit; `weights(seed, point)` returns them under theory's names, so that
`linvae.theory.objective` reads them. `architecture="mlp"`: one hidden ReLU layer each, a learned
variance depends on the input. The data are divided by their root total variance inside the model,
which changes the parametrisation and nothing else.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from linvae.models.architecture import Architecture
from linvae.models.layers import StackedLinear, StackedMLP, StackShape
from linvae.objectives import GaussianLevel, Terms, gaussian_distortion, gaussian_rate_per_unit
from linvae.spec import ARVAESpec, CVAESpec, HVAESpec, LinearSpec, VAESpec

__all__ = ["Rows", "StackedVAE", "build_model", "mean_square"]

Array = npt.NDArray[np.float64]
CHUNK = 512  # rows at a time in sums over all samples: no float64 copy of the data
INITIAL_STD = 0.1  # of the latent mean and of the reconstruction, in units of the scaled data


class Rows(Protocol):
    """What is read of training data: a tensor (n, d), or rows that are fetched when asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, d)."""

    @property
    def device(self) -> torch.device:
        """Where the rows are when taken."""

    def __len__(self) -> int:
        """Number of rows."""

    def __getitem__(self, index: slice) -> Tensor:
        """Some rows."""


class StackedVAE(nn.Module):
    """`n_seeds` x `n_points` VAEs of one spec and architecture; see the module's docstring."""

    def __init__(
        self,
        spec: LinearSpec,
        *,
        target_dim: int,
        condition_dim: int = 0,
        scale: float = 1.0,
        condition_scale: float = 1.0,
        architecture: str | Architecture = "linear",
        seeds: Sequence[int] = (0,),
        n_points: int = 1,
    ) -> None:
        super().__init__()
        _refuse_untrained(spec)
        self.spec, self.architecture = spec, Architecture.of(architecture)
        self.target_dim, self.condition_dim = target_dim, condition_dim
        self.scale, self.condition_scale = scale, condition_scale
        stack = StackShape(seeds, n_points)
        self.seeds, self.n_points = stack.seeds, n_points
        self.encoder_sees_target = condition_dim == 0 or isinstance(spec, CVAESpec | HVAESpec)
        self.decoder_sees_condition = condition_dim > 0 and self.encoder_sees_target
        target_only = isinstance(spec, CVAESpec) and spec.encoder_sees == "target"
        self.encoder_sees_condition = condition_dim > 0 and not target_only
        sees = condition_dim * self.encoder_sees_condition + target_dim * self.encoder_sees_target
        widths = [sees, *spec.latent_dims]
        self.encoders = nn.ModuleList()
        self.decoders = nn.ModuleList()
        self.log_variances = nn.ParameterList()
        for level, k in enumerate(spec.latent_dims):
            per_input = not self.is_linear and spec.encoder_variances[level] is None
            norm = math.sqrt(1 + (sees > target_dim)) if level == 0 else math.sqrt(widths[level])
            self.encoders.append(self._map(stack, widths[level], k * (1 + per_input), norm))
            below = target_dim if level == 0 else widths[level]
            extra = condition_dim if level == 0 and self.decoder_sees_condition else 0
            self.decoders.append(self._map(stack, k + extra, below, math.sqrt(k + (extra > 0))))
            self.log_variances.append(stack.constant(k))
        self.log_s = stack.constant() if spec.decoder_variance == "learned" else None

    @property
    def is_linear(self) -> bool:
        """True where the networks are matrices, theory's own."""
        return self.architecture.name == "linear"

    def _map(self, stack: StackShape, d_in: int, d_out: int, input_norm: float) -> nn.Module:
        """A network of the architecture whose typical input has norm `input_norm`."""
        if not self.is_linear:
            hidden = self.architecture.hidden
            return StackedMLP(stack, d_in, hidden, d_out, input_scale=input_norm)
        std = INITIAL_STD / input_norm / math.sqrt(d_out)
        return StackedLinear(stack, d_in, d_out, std=std, bias=False)

    def encode(self, level: int, below: Tensor) -> GaussianLevel:
        """q(z_l | what is below)."""
        out = self.encoders[level](below).to(below.dtype)  # where the products are bfloat16
        fixed = self.spec.encoder_variances[level]
        if fixed is not None:
            variance = torch.as_tensor(fixed, dtype=out.dtype, device=out.device)
            return GaussianLevel(out, torch.log(variance).expand_as(out))
        if self.is_linear:
            return GaussianLevel(out, self.log_variances[level][:, :, None].expand_as(out))
        mean, log_variance = out.chunk(2, dim=-1)
        return GaussianLevel(mean, log_variance)

    def forward(self, target: Tensor, condition: Tensor | None, noise: Sequence[Tensor]) -> Terms:
        """Objective terms on one batch; arguments as in `forward_with_latents`."""
        return self.forward_with_latents(target, condition, noise)[0]

    def forward_with_latents(
        self, target: Tensor, condition: Tensor | None, noise: Sequence[Tensor]
    ) -> tuple[Terms, list[Tensor]]:
        """Objective terms on one batch, and the sampled latents of every level.

        `target` (n_seeds, batch, d) and `condition` (n_seeds, batch, dx): centred, data units;
        `noise`: standard normal, one (n_seeds, draws * batch, k_l) per level, shared by all
        points: `draws` latents of every sample.
        """
        draws = noise[0].shape[1] // target.shape[1]
        y = target[:, None] / self.scale
        x = None if condition is None else condition[:, None] / self.condition_scale
        below = _join(
            x if self.encoder_sees_condition else None, y if self.encoder_sees_target else None
        )
        levels: list[GaussianLevel] = []
        latents: list[Tensor] = []
        for level in range(len(self.spec.latent_dims)):
            levels.append(self.encode(level, below).repeat(draws if level == 0 else 1))
            below = levels[-1].sample(noise[level][:, None])
            latents.append(below)
        error = self.squared_error(latents[0], x, y).mean(-1) * self.scale**2
        distortion = gaussian_distortion(error, self.target_dim, self.decoder_variance())
        rates = [r.sum(-1).mean(-1) for r in self.rates_per_unit(levels, latents)]
        return Terms(distortion, torch.stack(rates, dim=-1), tuple(levels)), latents

    def decoder_variance(self) -> Tensor:
        """s in data units^2: of each member where learned, else one number."""
        if self.log_s is not None:  # starts at the mean variance of a scaled coordinate
            return torch.exp(self.log_s) * (self.scale**2 / self.target_dim)
        return torch.tensor(float(self.spec.decoder_variance))

    @property
    def curvature(self) -> float:
        """Of the distortion in the scaled output: scale^2/s; of its start where s is learned."""
        s = self.spec.decoder_variance
        return self.target_dim if s == "learned" else self.scale**2 / float(s)

    def squared_error(self, latent: Tensor, x: Tensor | None, y: Tensor) -> Tensor:
        """|y - mean of p(y|z_1, x)|^2 in scaled units, (n_seeds, n_points, draws * batch)."""
        decoder = cast(StackedLinear | StackedMLP, self.decoders[0])
        return decoder.squared_error(latent, y, x if self.decoder_sees_condition else None)

    def rates_per_unit(
        self, levels: Sequence[GaussianLevel], latents: Sequence[Tensor]
    ) -> list[Tensor]:
        """Rate of every level, sample and unit, nats: [(n_seeds, n_points, batch, k_l)]."""
        rates = []
        for level, q in enumerate(levels):
            if level + 1 < len(levels):
                square = (latents[level] - self.decoders[level + 1](latents[level + 1])).square()
            else:
                square = q.mean.square() + torch.exp(q.log_variance)
            rates.append(gaussian_rate_per_unit(q, square, self.spec.prior_variances[level]))
        return rates

    def last_layers(
        self, target: Tensor, condition: Tensor | None, seed_index: int, point: int, n_latents: int
    ) -> tuple[Array, Array, Array, Array]:
        """What one member of one level knows of target and latent before its last layers.

        The encoder's last hidden layer phi on the data (n, h); the decoder's psi (m, h) and the z
        (m, k) it saw, quantiles of the prior, with conditions in turn; the target less the output
        at z = 0, (n, d), data units. A linear network has the inputs themselves.
        """
        y = target[None, None] / self.scale
        x = None if condition is None else condition[None, None] / self.condition_scale
        sees = _join(
            x if self.encoder_sees_condition else None, y if self.encoder_sees_target else None
        )
        k, eta2 = self.spec.latent_dims[0], self.spec.prior_variances[0]
        quantiles = (
            torch.arange(n_latents, dtype=torch.float64, device=y.device) + 0.5
        ) / n_latents
        z = math.sqrt(eta2) * torch.special.ndtri(quantiles).to(y.dtype)[:, None].expand(-1, k)
        shared = x if self.decoder_sees_condition else None
        latents, given = z[None, None], None
        if shared is not None:
            given = shared[:, :, torch.arange(n_latents, device=y.device) % shared.shape[2]]
        decoder = _alone(self.decoders[0], seed_index, point)
        psi = decoder.hidden(latents, given)
        output = decoder(torch.zeros_like(y[..., :1]).expand(*y.shape[:-1], k), shared)
        phi = _alone(self.encoders[0], seed_index, point).hidden(sees, None)
        residual = (y - output) * self.scale
        parts = (phi, psi, latents, residual)
        phi, psi, z, residual = (np.asarray(v[0, 0].double().cpu(), np.float64) for v in parts)
        return phi, psi, z, residual

    def weights(self, seed_index: int, point: int) -> dict[str, npt.NDArray[np.float64]]:
        """Matrices of one linear member in data units, names as in `linvae.theory.elbo`."""
        if not self.is_linear:
            raise ValueError(
                f"architecture={self.architecture.name!r} has no matrices: use 'linear'"
            )

        levels = range(len(self.spec.latent_dims))
        W = [_member(self.encoders[i].weight, seed_index, point) for i in levels]
        U = [_member(self.decoders[i].weight, seed_index, point) for i in levels]
        Sigma = [np.diag(self._variance(i, seed_index, point)) for i in levels]
        dx, k = self.condition_dim, self.spec.latent_dims[0]
        seen = dx if self.encoder_sees_condition else 0
        on_x, on_y = W[0][:, :seen] / self.condition_scale, W[0][:, seen:] / self.scale
        on_z, from_x = U[0][:, :k] * self.scale, U[0][:, k:] * self.scale / self.condition_scale
        s = self.decoder_variance().expand(len(self.seeds), self.n_points)
        learned = {} if self.log_s is None else {"s": _member(s, seed_index, point)}
        if isinstance(self.spec, CVAESpec):
            named = {"W2": on_y, "U1": on_z, "U2": from_x, "Sigma": Sigma[0]} | learned
            return named | ({"W1": on_x} if self.encoder_sees_condition else {})
        if not isinstance(self.spec, HVAESpec):
            return {"W": on_y if dx == 0 else on_x, "U": on_z, "Sigma": Sigma[0]} | learned
        named = {"W1": on_y, "U1": on_z} | ({"A": on_x, "B": from_x} if dx else {})
        for i in levels:
            named |= {f"Sigma{i + 1}": Sigma[i]}
            named |= {f"W{i + 1}": W[i], f"U{i + 1}": U[i]} if i else {}
        return named

    def _variance(self, level: int, seed_index: int, point: int) -> npt.NDArray[np.float64]:
        fixed = self.spec.encoder_variances[level]
        if fixed is None:
            return np.exp(_member(self.log_variances[level], seed_index, point))
        return np.broadcast_to(np.asarray(fixed, float), self.spec.latent_dims[level])


def build_model(
    spec: LinearSpec,
    target: Rows,
    condition: Rows | None = None,
    *,
    architecture: str | Architecture = "linear",
    seeds: Sequence[int] = (0,),
    n_points: int = 1,
) -> StackedVAE:
    """A stack for centred training data: `target` (n, d), `condition` (n, dx) or None."""
    return StackedVAE(
        spec,
        target_dim=target.shape[1],
        condition_dim=0 if condition is None else condition.shape[1],
        scale=_root_total_variance(target),
        condition_scale=1.0 if condition is None else _root_total_variance(condition),
        architecture=architecture,
        seeds=seeds,
        n_points=n_points,
    ).to(target.device)


def _refuse_untrained(spec: LinearSpec) -> None:
    """ValueError for what theory knows and no network here trains yet."""
    if isinstance(spec, ARVAESpec):
        raise ValueError("ARVAESpec has no network yet: only its theory is there")
    if isinstance(spec, VAESpec) and (spec.penalised or spec.likelihood != "gaussian"):
        raise ValueError(
            f"likelihood={spec.likelihood!r}, latent_reconstruction={spec.latent_reconstruction}, "
            f"weight_decay={spec.weight_decay} are not trained yet: networks need "
            "likelihood='gaussian' and no penalty"
        )


def _alone(network: nn.Module, seed_index: int, point: int) -> Any:
    """The network of one member as a stack of one, sharing its values."""
    alone = copy.copy(network)
    alone._modules = {
        name: _alone(module, seed_index, point) for name, module in network.named_children()
    }
    alone._parameters = {
        name: None if p is None else nn.Parameter(p[seed_index, point][None, None], False)
        for name, p in network._parameters.items()
    }
    return alone


def _member(values: Any, seed_index: int, point: int) -> npt.NDArray[np.float64]:
    """The entries of one member, float64 on the CPU."""
    return np.asarray(values[seed_index, point].detach().cpu(), dtype=np.float64)


def mean_square(data: Rows) -> float:
    """Mean over the rows of their squared norm, in float64."""
    parts = (data[i : i + CHUNK].double() for i in range(0, len(data), CHUNK))
    return sum(float(part.square().sum()) for part in parts) / len(data)


def _root_total_variance(data: Rows) -> float:
    total = mean_square(data)
    return math.sqrt(total) if total > 0 else 1.0


def _join(x: Tensor | None, y: Tensor | None) -> Tensor:
    parts = [part for part in (x, y) if part is not None]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
