"""How much a decoder stretches: its two-sided Lipschitz constants.

With g(z) the mean of p(y|z, x) at a given x, 0 <= l <= L the best constants of

    l |z1 - z2| <= |g(z1) - g(z2)| <= L |z1 - z2|

and s_1(z) >= ... >= s_k(z) the singular values of its Jacobian, (d, k), 0 where k > d,

    L = sup_z s_1(z)        l <= inf_z s_k(z)

Over n draws of the prior the largest and the smallest are **estimates from one side**: L is at
least `upper`, l at most `lower`, exact for a linear decoder. l can be smaller still where g comes
back near to where it has been. A collapsed unit is a direction with l = 0, so that the bi-Lipschitz
constant max(L, 1/l) diverges with collapse.

Published instead: the 95 % and the 5 % quantile of |g(z1) - g(z2)|/|z1 - z2| over random pairs, and
1/l from a floor of 1e-3. They are quantiles of a mean over directions, and in many dimensions see
neither end.

| symbol | here                   | shape           | unit                     |
|--------|------------------------|-----------------|--------------------------|
| L, l   | upper, lower           | (seeds, points) | data units per latent    |
| -      | pair_upper, pair_lower | (seeds, points) | data units per latent    |

Data units are probabilities with a Bernoulli likelihood. Sources: the quantiles are those of the
code of Song, Kim, Lee 2025. Equality that a test checks: `upper` and `lower` of a linear model are
the extreme singular values of U.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.func import jvp

from linvae.metrics.observe import evaluating
from linvae.metrics.reencoding import conditions, one_level, prior_latents, row_parts
from linvae.models import StackedVAE
from linvae.train.data import TrainingData

__all__ = ["LipschitzConstants", "decoder_lipschitz"]

Array = npt.NDArray[np.float64]
QUANTILES = (0.95, 0.05)  # of pairs, as published
FLOOR = 1e-3  # of the lower quantile, as published; per latent unit


@dataclass(frozen=True, eq=False)
class LipschitzConstants:
    """Of every member's decoder, (n_seeds, n_points); fields in the module's table."""

    upper: Array
    lower: Array
    pair_upper: Array
    pair_lower: Array

    @property
    def bi_lipschitz(self) -> Array:
        """max(L, 1/l), infinite where a direction is dead; at most the true one."""
        with np.errstate(divide="ignore"):
            return np.maximum(self.upper, 1 / self.lower)

    @property
    def published_bi_lipschitz(self) -> Array:
        """The same of the quantiles, at most 1000 where l decides."""
        return np.maximum(self.pair_upper, 1 / np.maximum(self.pair_lower, FLOOR))


@torch.no_grad()
def decoder_lipschitz(
    model: StackedVAE,
    data: TrainingData,
    *,
    n_latents: int = 256,
    n_pairs: int = 10_000,
    seed: int = 0,
) -> LipschitzConstants:
    """From Jacobians at `n_latents` draws of the prior, and from `n_pairs` pairs of draws.

    With a condition every draw, or pair, has that of a random sample. Raises ValueError for several
    levels, and for a decoder that sees the target.
    """
    one_level(model, "decoder_lipschitz")
    with evaluating(model):
        values = _singular_values(model, data, n_latents, seed)
        ratios = _pair_ratios(model, data, n_pairs, seed)
    upper, lower = np.quantile(ratios, QUANTILES, axis=-1)
    return LipschitzConstants(
        upper=values[..., 0].max(axis=-1),
        lower=values[..., -1].min(axis=-1),
        pair_upper=upper,
        pair_lower=lower,
    )


def _singular_values(model: StackedVAE, data: TrainingData, n: int, seed: int) -> Array:
    """Of the Jacobian at every draw, descending, (n_seeds, n_points, n, k)."""
    z, condition = prior_latents(model, n, seed), conditions(model, data, n, seed)
    k, found = z.shape[-1], []
    for rows in row_parts(model, n, copies=k):
        some, x = z[:, :, rows], None if condition is None else condition[None, rows]

        def decode(latent: Tensor, x: Tensor | None = x) -> Tensor:
            return model.decode(latent, x)

        columns = [
            jvp(decode, (some,), (unit.expand_as(some),))[1]
            for unit in torch.eye(k, device=z.device)
        ]
        jacobian = torch.stack(columns, dim=-1).double()
        values = np.linalg.svd(jacobian.cpu().numpy(), compute_uv=False)
        found.append(np.pad(values, [(0, 0)] * 3 + [(0, k - values.shape[-1])]))
    return np.concatenate(found, axis=2)


def _pair_ratios(model: StackedVAE, data: TrainingData, n: int, seed: int) -> Array:
    """|g(z1) - g(z2)|/|z1 - z2| of every pair, (n_seeds, n_points, n)."""
    first, second = prior_latents(model, 2 * n, seed).chunk(2, dim=2)
    condition, found = conditions(model, data, n, seed), []
    for rows in row_parts(model, n, copies=2):
        x = None if condition is None else condition[None, rows]
        a, b = first[:, :, rows], second[:, :, rows]
        change = (model.decode(a, x) - model.decode(b, x)).norm(dim=-1)
        found.append((change / (a - b).norm(dim=-1)).double().cpu().numpy())
    return np.concatenate(found, axis=2)
