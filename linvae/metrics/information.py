"""Mutual information of data and latents under the encoder, by aggregate posteriors of batches.

    I_q = E KL(q(z|v)||p(z)) - KL(q(z)||p(z)) = E log q(z|v)/q(z),    q(z) = E_v q(z|v)

z = z_1, v what the encoder sees. From a batch of B samples v_j, with one z_i from each q(z|v_i),

    q_B(z) = (1/B) sum_j q(z|v_j)        I_B = mean_i [log q(z_i|v_i) - log q_B(z_i)] <= log B

The sample's own term keeps every summand at most log B, and I_B low on average: with
r = q(z|v)/q(z), own terms lower it by E(r - 1)/B = chi^2/B, the scatter of the others raises it by
half of that, and with E r = 1 + chi^2

    E I_B - I_q = -chi^2/(2 B) + O(1/B^2),    chi^2 >= exp(I_q) - 1

and chi^2 = exp(2 I_q) - 1 in a linear model: there a batch is too small where I_q is half of log B.
`capped` is the rule for this and for I_B next to log B: an estimated bias of more than `LOW` nats.
As the mean of r is at least exp(I_B), it holds for every I_B above log(1 + 2 LOW B), 1.6 nats below
the cap. To first order the batch that all terms share adds nothing to their scatter, so that the
error of a mean of independent terms is the error.

| symbol   | here                          | shape           | unit  |
|----------|-------------------------------|-----------------|-------|
| I_B      | MutualInformation.nats        | (seeds, points) | nats  |
| log B    | MutualInformation.cap_nats    | scalar          | nats  |
| -chi^2/2B| MutualInformation.biases      | (seeds, points) | nats  |

The published estimate (He et al. 2019, batches of 32 or 50) has E log q(z|v) in closed form and the
sampled log q_B alone: the same mean, but terms that do not cancel, so that noise can take it above
log B and below 0. Sources: Hoffman & Johnson 2016 (I_q); the bias is ours. Equality that a test
checks: a linear model has I_q = 1/2 log det(W C W^T + Sigma)/det Sigma.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from linvae.metrics.observe import Stack, evaluating, pieces
from linvae.objectives import GaussianLevel, entropies, pair_log_densities
from linvae.train.data import TrainingData, stream

__all__ = [
    "MutualInformation",
    "mutual_information",
    "posteriors",
    "published_mutual_information",
]

Array = npt.NDArray[np.float64]
LARGE = 4096  # samples of a batch unless another number is asked for
LOW = 0.1  # nats of estimated bias, above which an estimate counts as capped
PAIRS = 2**23  # of z and v, of all members at a time: 64 MiB


@dataclass(frozen=True, eq=False)
class MutualInformation:
    """I_B of every member, (n_seeds, n_points), nats; NaN for members that diverged.

    `errors`: standard errors, over data and draws; `biases`: expected I_B - I_q to leading order,
    itself too small in size where `capped`. `batch`: samples in the largest batch.
    """

    nats: Array
    errors: Array
    biases: Array
    batch: int

    @property
    def cap_nats(self) -> float:
        """log B, that no mean of the terms exceeds."""
        return math.log(self.batch)

    @property
    def capped(self) -> npt.NDArray[np.bool_]:
        """True where the batch is too small for an error below `LOW` nats."""
        return np.asarray(self.biases < -LOW)


def mutual_information(
    model: Stack,
    data: TrainingData,
    *,
    batch: int | None = None,
    draws: int = 1,
    seed: int = 0,
) -> MutualInformation:
    """I_B of q(z_1|v) over all samples, in equal random batches of `batch` or a few more.

    None: one batch of all samples, from 8192 on several of at least 4096. `draws`: latents of every
    sample. Raises ValueError where there are fewer samples than `batch`, or `batch` or `draws` is
    too small.
    """
    return _estimate(model, data, min(len(data), LARGE) if batch is None else batch, draws, seed)


def published_mutual_information(
    model: Stack, data: TrainingData, *, batch: int = 32, seed: int = 0
) -> MutualInformation:
    """The estimate of published tables, one latent of every sample, entropies in closed form.

    He et al. 2019: `batch` 32 for text, 50 for images. Their text batches hold sentences of one
    length, ours are random. Errors as `mutual_information`.
    """
    return _estimate(model, data, batch, 1, seed, closed_entropy=True)


@torch.no_grad()
def posteriors(model: Stack, data: TrainingData) -> GaussianLevel:
    """q(z_1|v) of all samples in order, float64, (n_seeds, n_points, n, k_1)."""
    means, log_variances = [], []
    with evaluating(model):
        for given, _ in pieces(model, data, lambda index: []):
            level = model.posterior(*given)
            means.append(level.mean.double())
            log_variances.append(level.log_variance.double())
    return GaussianLevel(torch.cat(means, dim=2), torch.cat(log_variances, dim=2))


def _estimate(
    model: Stack,
    data: TrainingData,
    batch: int,
    draws: int,
    seed: int,
    *,
    closed_entropy: bool = False,
) -> MutualInformation:
    _check(len(data), batch, draws)
    level, generator = posteriors(model, data), stream("information", seed)
    order = torch.randperm(len(data), generator=generator).to(level.mean.device)
    terms, ratios, largest = [], [], 0
    for index in order.tensor_split(len(data) // batch):
        members = GaussianLevel(level.mean[:, :, index], level.log_variance[:, :, index])
        own, aggregate = _log_densities(members, draws, generator)
        ratios.append((own - aggregate).exp().mean(2))
        if closed_entropy:
            own = -entropies(members)[:, :, None]
        terms.append((own - aggregate).mean(2))
        largest = max(largest, len(index))
    per_sample = torch.cat(terms, dim=-1)
    excess = torch.cat(ratios, dim=-1).mean(-1) - 1
    return MutualInformation(
        nats=_numpy(per_sample.mean(-1)),
        errors=_numpy(per_sample.std(-1) / math.sqrt(len(data))),
        biases=_numpy(-excess / (2 * largest)),
        batch=largest,
    )


def _check(n: int, batch: int, draws: int) -> None:
    if not 2 <= batch <= n:
        raise ValueError(
            f"batch={batch} must be between 2 and the number of samples {n} in mutual_information: "
            "one sample tells nothing of the aggregate posterior"
        )
    if draws < 1:
        raise ValueError(f"draws={draws} must be >= 1 in mutual_information")


def _log_densities(
    level: GaussianLevel, draws: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """log q(z_i|v_i) and log q_B(z_i), (n_seeds, n_points, draws, B), z shared noise."""
    seeds, points, n, k = level.mean.shape
    found = []
    for _ in range(draws):
        noise = torch.randn(n, k, generator=generator, dtype=torch.float64)
        z = level.sample(noise.to(level.mean.device))
        size = max(1, PAIRS // (seeds * points * n))
        some = [pair_log_densities(level, z, rows) for rows in torch.split(torch.arange(n), size)]
        found.append(torch.cat(some, dim=-1))
    own, aggregate = torch.stack(found, dim=3)
    return own, aggregate


def _numpy(values: Tensor) -> Array:
    return np.asarray(values.cpu(), dtype=np.float64)
