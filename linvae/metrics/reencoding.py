"""What comes back of a latent that is decoded and encoded again; networks of one level.

z is decoded to the mean of p(y|z, x), which is encoded again, z' ~ q(.|dec(z, x), x) of mean mu and
covariance Sigma:

    score        = 1 - E|mu - z|^2/E|z - E z|^2                       at most 1
    linear_score = 1 - min_{A,b} E|A z' + b - z|^2/E|z - E z|^2
                 = tr (Cov(z,mu) (Cov(mu) + E Sigma)^-1 Cov(mu,z))/tr Cov(z)     between 0 and 1

for z of the prior and of the aggregate posterior, x from the data. score is 1 where encoder and
decoder are inverse to each other, falls with the shrinkage that every rate has, and is below 0
where their scales differ. linear_score forgives every affine map, and measures what comes back
against the encoder's own noise: regressed on mu itself, a mean of size 1e-6 would come back whole.

*Cells of latent space* are one z for each equal share of the prior: the medians of a grid of its
quantiles for one or two units, Sobol points for more, so that a share of cells is a probability.

| symbol             | here               | shape                  | unit         |
|--------------------|--------------------|------------------------|--------------|
| z                  | latents            | (seeds, points, n, k)  | latent units |
| score, linear_score| Identifiability    | (seeds, points)        | -            |
| KL(q(.|dec(z))||p) | latent_cell_rates  | (seeds, points, cells) | nats         |

Source: ours; 256 cells on a grid of two latents are those of the code of Song, Kim, Lee 2025, whose
range is not known. Equality that a test checks: `linvae.theory.reencoding` for a linear model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import ndtri
from scipy.stats import qmc
from torch import Tensor

from linvae.metrics.observe import Stack, evaluating
from linvae.models import StackedVAE
from linvae.objectives import GaussianLevel
from linvae.train.data import TrainingData, stream

__all__ = [
    "CELLS",
    "Identifiability",
    "can_reencode",
    "conditions",
    "identifiability",
    "latent_cell_rates",
    "one_level",
    "prior_latents",
    "reencoded",
    "row_parts",
]

Array = npt.NDArray[np.float64]
CELLS = 256  # as published: 16 x 16
GIVEN = 16  # conditions at which the latent of a cell is decoded
VALUES = 2**22  # of decoded data of all members at a time: 16 MiB


@dataclass(frozen=True, eq=False)
class Identifiability:
    """Scores of the module's docstring, (n_seeds, n_points); NaN for members that diverged.

    `prior...`: z from the prior; `posterior...`: one z from the posterior of each sample.
    """

    prior_score: Array
    prior_linear_score: Array
    posterior_score: Array
    posterior_linear_score: Array


def can_reencode(model: StackedVAE) -> bool:
    """True where the decoder has a mean given z and the encoder sees the target."""
    return model.encoder_sees_target and not model.is_autoregressive


@torch.no_grad()
def identifiability(
    model: StackedVAE, data: TrainingData, *, n_latents: int = 4096, seed: int = 0
) -> Identifiability:
    """Of every member, from `n_latents` draws of the prior and as many samples, or all of `data`.

    `linear_score` is high by about k/n_latents. Raises ValueError for several levels, an encoder
    that does not see the target and a decoder that does, and fewer than 2 latents.
    """
    _check(model, "identifiability")
    if n_latents < 2:
        raise ValueError(f"n_latents={n_latents} must be at least 2 in identifiability")
    n = min(n_latents, len(data))
    order = torch.randperm(len(data), generator=stream("samples", seed))[:n]
    target, x = data.take(order[None].to(data.target.device))
    with evaluating(model):
        q = model.posterior(target, x)
        noise = torch.randn(n, q.mean.shape[-1], generator=stream("posterior latents", seed))
        drawn = q.sample(noise.to(q.mean))
        prior = _scores(
            model,
            prior_latents(model, n_latents, seed),
            conditions(model, data, n_latents, seed),
        )
        posterior = _scores(model, drawn, None if x is None else x[0])
    return Identifiability(*prior, *posterior)


@torch.no_grad()
def latent_cell_rates(
    model: StackedVAE, data: TrainingData, n_cells: int = CELLS, *, seed: int = 0
) -> Array:
    """KL(q(.|dec(z, x), x) || p(z)) of about `n_cells` equal shares of the prior, nats.

    (n_seeds, n_points, cells); with a condition the mean over `GIVEN` of those of `data`, the same
    for every cell. Raises ValueError as `identifiability`, and for `n_cells` below 1.
    """
    _check(model, "latent_cell_rates")
    if n_cells < 1:
        raise ValueError(f"n_cells={n_cells} must be at least 1 in latent_cell_rates")
    z, x = _cells(model, n_cells, seed), conditions(model, data, GIVEN, seed)
    given = 1 if x is None else len(x)
    each = None if x is None else x.repeat(z.shape[2], 1)
    with evaluating(model):
        rates = torch.cat(
            [
                model.rates_per_unit([level], [])[0].sum(-1)
                for level in reencoded(model, z.repeat_interleave(given, 2), each)
            ],
            dim=2,
        )
    return _numpy(torch.unflatten(rates, 2, (-1, given)).mean(-1))


def reencoded(
    model: StackedVAE, latents: Tensor, condition: Tensor | None
) -> Iterator[GaussianLevel]:
    """q(.|dec(z, x), x) of every row, float64, some rows at a time.

    `latents` (n_seeds or 1, n_points or 1, rows, k), `condition` (rows, dx).
    """
    for rows in row_parts(model, latents.shape[2]):
        x = None if condition is None else condition[None, rows]
        y = model.decode(latents[:, :, rows], x)
        if x is not None:  # every member sees another target: one condition for each, as well
            x = x[:, None].expand(*y.shape[:2], -1, -1)
        level = model.posterior(y, x)
        yield GaussianLevel(level.mean.double(), level.log_variance.double())


def row_parts(model: StackedVAE, rows: int, copies: int = 1) -> Iterator[slice]:
    """All rows, so many at a time that `copies` decoded targets of each fit."""
    size = len(model.seeds) * model.n_points * model.target_dim * copies
    at_once = max(1, VALUES // size)
    return (slice(i, i + at_once) for i in range(0, rows, at_once))


def prior_latents(model: StackedVAE, n: int, seed: int) -> Tensor:
    """z of the prior, the same for all members, (1, 1, n, k)."""
    drawn = torch.randn(n, model.spec.latent_dims[0], generator=stream("prior latents", seed))
    return (drawn * math.sqrt(model.spec.prior_variances[0])).to(_device(model))[None, None]


def conditions(model: StackedVAE, data: TrainingData, n: int, seed: int) -> Tensor | None:
    """Conditions of `n` random samples, with replacement, (n, dx); None without."""
    rows = torch.randint(len(data), (n,), generator=stream("conditions", seed))
    return data.take(rows.to(data.target.device))[1]


def one_level(model: Stack, what: str) -> None:
    """ValueError for a hierarchy."""
    if len(model.spec.latent_dims) > 1:
        raise ValueError(
            f"spec has {len(model.spec.latent_dims)} levels but {what} needs one: what a level "
            "pays depends on the sample of the level above"
        )


def _check(model: StackedVAE, what: str) -> None:
    one_level(model, what)
    if not can_reencode(model):
        raise ValueError(
            f"{what} needs an encoder that sees the target and a decoder that does not, but "
            f"spec={model.spec!r} with decoder={model.architecture.decoder!r} has neither or one"
        )


def _cells(model: StackedVAE, n_cells: int, seed: int) -> Tensor:
    """One z for each of about `n_cells` equal shares of the prior, (1, 1, cells, k)."""
    k = model.spec.latent_dims[0]
    if k <= 2:
        side = round(n_cells ** (1 / k))
        medians = (np.arange(side) + 0.5) / side
        shares = np.stack(np.meshgrid(*[medians] * k, indexing="ij"), axis=-1).reshape(-1, k)
    else:
        sobol = qmc.Sobol(k, seed=np.random.default_rng(seed))
        shares = sobol.random_base2(round(math.log2(n_cells)))
    z = ndtri(shares) * math.sqrt(model.spec.prior_variances[0])
    return torch.as_tensor(z, dtype=torch.float32, device=_device(model))[None, None]


def _scores(model: StackedVAE, z: Tensor, x: Tensor | None) -> tuple[Array, Array]:
    """score and linear_score, (n_seeds, n_points)."""
    levels = list(reencoded(model, z, x))
    mu = torch.cat([level.mean for level in levels], dim=2)
    noise = torch.cat([level.log_variance.exp() for level in levels], dim=2).mean(2)
    z = z.double().expand_as(mu)
    missed = (mu - z).square().sum((2, 3))
    z, mu = z - z.mean(2, keepdim=True), mu - mu.mean(2, keepdim=True)
    total, n = z.square().sum((2, 3)), z.shape[2]
    cross = mu.mT @ z / n
    seen = torch.nan_to_num(mu.mT @ mu / n) + torch.diag_embed(torch.nan_to_num(noise, 1, 1))
    told = (cross * torch.linalg.solve(seen, cross)).sum((2, 3)) * n
    return _numpy(1 - missed / total), _numpy(told / total)


def _device(model: StackedVAE) -> torch.device:
    return next(model.parameters()).device


def _numpy(values: Tensor) -> Array:
    return np.asarray(values.cpu(), dtype=np.float64)
