"""Marginal likelihood of any trained decoder by importance sampling, and perplexity.

With latents z_1 ... z_K of all levels drawn from the encoder's chain q(z|v) of a sample v = (x, y),

    w_k = p(y, z_k|x)/q(z_k|v)    log p_K = log (1/K) sum_k w_k    ELBO = (1/K) sum_k log w_k

Mean w is p(y|x) exactly, so that the mean of log p_K is a lower bound of log p(y|x) that grows with
K from the ELBO at K = 1. To leading order, with the effective sample size of the weights ESS,

    ESS = (sum_k w_k)^2 / sum_k w_k^2    v = 1/ESS - 1/K
    mean log p_K - log p = -v/2          variance of log p_K = v

where ESS is large. Samples with a small one have a p_K that is too low by more than that: their q
misses most of the posterior. Where q has less than half of its variance, as a fixed variance can,
the weights have no finite variance and both come out too small. KL(q(z|v)||p(z|y, x)) =
log p(y|x) - ELBO, the gap.

| symbol    | here                                 | shape            | unit            |
|-----------|--------------------------------------|------------------|-----------------|
| log p_K   | ImportanceWeighted.log_likelihood    | (seeds, points)  | nats per sample |
| ELBO      | ImportanceWeighted.elbo              | (seeds, points)  | nats per sample |
| K         | samples                              | scalar           | -               |
| ESS       | ImportanceWeighted.effective_samples | (seeds, points)  | draws           |
| -v/2      | ImportanceWeighted.biases            | (seeds, points)  | nats per sample |

Betas play no part: this is the likelihood of the decoder, seen through its encoder. Of a sequence
the start token is given, and a nat is one of the whole sequence.

Sources: Burda et al. 2016 (the bound); Kong 1992 (ESS); published with K = 500 by He et al. 2019.
Equalities that tests check: the exact marginal of linear models, hierarchies and conditions
included; the ELBO of `linvae.theory`; K = 1 is the ELBO.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from linvae.metrics.observe import Stack, evaluating, parts, pieces
from linvae.models.recurrent import PADDING
from linvae.objectives import gaussian_rate_per_unit
from linvae.train.data import TrainingData, stream

__all__ = ["ImportanceWeighted", "importance_weighted_likelihood", "log_weights", "perplexity"]

Array = npt.NDArray[np.float64]
FEW = 10.0  # effective draws, below which a sample counts in `few_shares`


@dataclass(frozen=True, eq=False)
class ImportanceWeighted:
    """Means over samples, (n_seeds, n_points), nats; NaN for members that diverged.

    `errors`: standard errors over the data, that is of the population's mean; `noise`: of the
    weights alone, on these data, to leading order. `biases`: expected error of `log_likelihood`,
    to leading order. `effective_samples`: mean ESS; `few_shares`: share of samples whose ESS is
    below 10, where both are too small in size. `per_sample`: log p_K of every sample, (n_seeds,
    n_points, n), None unless asked for.
    """

    samples: int
    log_likelihood: Array
    errors: Array
    noise: Array
    biases: Array
    elbo: Array
    effective_samples: Array
    few_shares: Array
    per_sample: Array | None

    @property
    def inference_gap(self) -> Array:
        """log p_K - ELBO, at most E KL(q(z|v)||p(z|y, x)) on average; never negative."""
        return self.log_likelihood - self.elbo


@torch.no_grad()
def importance_weighted_likelihood(
    model: Stack,
    data: TrainingData,
    *,
    samples: int = 500,
    chunk: int = 50,
    seed: int = 0,
    per_sample: bool = False,
) -> ImportanceWeighted:
    """log p_K of all samples, K = `samples`, for every member of a stack.

    `chunk` draws of some rows are held at a time; their noise depends on `seed`, their number and
    the sample's place only, so that the result does not depend on `chunk`. Raises ValueError where
    `samples` or `chunk` is below 1.
    """
    for name, value in (("samples", samples), ("chunk", chunk)):
        if value < 1:
            raise ValueError(f"{name}={value} must be >= 1 in importance_weighted_likelihood")
    streams = {int(i[0]): stream(f"likelihood {int(i[0])}", seed) for i in parts(data)}
    sums: Tensor | None = None
    with evaluating(model):
        for start in range(0, samples, chunk):
            draws = min(chunk, samples - start)
            noise = functools.partial(_noise, model, streams, draws)
            batches = pieces(model, data, noise, draws)
            more = torch.cat(list(_sums(model, batches, draws)), dim=-1)
            sums = more if sums is None else _added(sums, more)
    assert sums is not None
    return _result(np.asarray(sums.cpu()), samples, per_sample)


def log_weights(
    model: Stack, target: Tensor, condition: Tensor | None, noise: list[Tensor]
) -> Tensor:
    """log p(y, z|x)/q(z|v) of every row, nats, (n_seeds, n_points, draws * batch).

    Arguments as in `forward_with_latents`. Of a level log q - log p is what the rate is the
    expectation of: the same with the drawn square for the expected one, and the noise's square
    for 1.
    """
    levels, latents = model.sample_latents(target, condition, noise)
    rates = model.rates_per_unit(levels, latents)
    top = latents[-1].square()
    rates[-1] = gaussian_rate_per_unit(levels[-1], top, model.spec.prior_variances[-1])
    nats = model.log_likelihood_per_sample(latents[0], target, condition)
    for rate, drawn in zip(rates, noise, strict=True):
        nats = nats - (rate + (1 - drawn[:, None].square()) / 2).sum(-1)
    return nats


def perplexity(log_likelihood: npt.ArrayLike, data: TrainingData) -> Array:
    """exp(-sum log p / number of predicted tokens); start tokens and padding are not predicted.

    `log_likelihood`: mean nats per sequence of `data`, as in `ImportanceWeighted`. Raises
    ValueError where the data are no tokens. Equality that a test checks: a uniform model of V
    tokens has V.
    """
    tokens = data.target
    if not isinstance(tokens, Tensor) or tokens.dtype != torch.long:
        raise ValueError(
            "data must be TrainingData(tokens, None) with int64 tokens in perplexity: other data "
            "have no tokens to predict, give their nats per sample instead"
        )
    predicted = int((tokens != PADDING).sum()) - len(tokens)
    return np.exp(-np.asarray(log_likelihood, dtype=np.float64) * len(tokens) / predicted)


def _noise(
    model: Stack, streams: dict[int, torch.Generator], draws: int, index: Tensor
) -> list[Tensor]:
    """The next `draws` of the samples `index`, (1, draws * len(index), k_l) per level.

    One draw at a time: a generator's numbers depend on how many are asked for at once.
    """
    widths, one = list(model.spec.latent_dims), next(model.parameters())
    shape, generator = (len(index), sum(widths)), streams[int(index[0])]
    drawn = torch.cat([torch.randn(shape, generator=generator) for _ in range(draws)])
    return list(torch.split(drawn.to(one.device, one.dtype)[None], widths, dim=-1))


def _sums(
    model: Stack,
    batches: Iterator[tuple[tuple[Tensor, Tensor | None], list[Tensor]]],
    draws: int,
) -> Iterator[Tensor]:
    """log sum w, log sum w^2 and sum log w over the draws, (3, n_seeds, n_points, rows)."""
    for batch, noise in batches:
        weights = log_weights(model, *batch, noise).double()
        by_draw = torch.unflatten(weights, 2, (draws, -1))
        yield torch.stack(
            [by_draw.logsumexp(2), (2 * by_draw).logsumexp(2), by_draw.sum(2)],
        )


def _added(sums: Tensor, more: Tensor) -> Tensor:
    return torch.cat([torch.logaddexp(sums[:2], more[:2]), sums[2:] + more[2:]])


def _result(sums: Array, draws: int, per_sample: bool) -> ImportanceWeighted:
    log_sum, log_squares, total = sums
    log_p, n = log_sum - math.log(draws), sums.shape[-1]
    effective = np.exp(2 * log_sum - log_squares)
    spread = np.maximum(1 / effective - 1 / draws, 0)  # rounding
    known = np.isfinite(log_p).all(axis=-1)
    return ImportanceWeighted(
        samples=draws,
        log_likelihood=log_p.mean(axis=-1),
        errors=log_p.std(axis=-1, ddof=1) / math.sqrt(n),
        noise=np.sqrt(spread.sum(axis=-1)) / n,
        biases=-spread.mean(axis=-1) / 2,
        elbo=total.mean(axis=-1) / draws,
        effective_samples=effective.mean(axis=-1),
        few_shares=np.where(known, (effective < FEW).mean(axis=-1), np.nan),
        per_sample=log_p if per_sample else None,
    )
