"""What a trained stack does, measured on the whole data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from linvae.models import StackedTextVAE, StackedVAE
from linvae.models.layers import evaluating
from linvae.objectives import GaussianLevel, gaussian_rate_per_unit
from linvae.train.data import Noise, TrainingData
from linvae.train.kl_weight import information, unit_statistics

__all__ = ["Observation", "Stack", "evaluating", "observe", "parts", "pieces", "principal_axes"]

Array = npt.NDArray[np.float64]
Stack = StackedVAE | StackedTextVAE
CHUNK = 500  # samples evaluated at a time, at most
VALUES = 1_000_000  # of images that all members make at a time on a CPU
GATES = 2**24  # of the LSTMs of all members at a time, 64 MiB


@dataclass(frozen=True, eq=False)
class Observation:
    """Means over samples; arrays (n_seeds, n_points), with a last axis for levels.

    | field           | meaning                                                        | unit |
    |-----------------|----------------------------------------------------------------|------|
    | distortion      | E[-log p(y|z)], two antithetic draws per sample                | nats |
    | rates           | E KL of each level, without beta                               | nats |
    | information     | rate against the best Gaussian prior (`kl_weight.information`) | nats |
    | unit_rates      | per level: rate of each unit, (..., k_l), descending           | nats |
    | active_units    | units whose posterior mean has variance > `threshold`          | -    |
    | collapsed_units | units with KL < `epsilon` for a share >= 1 - `delta` of samples | -    |
    | collapsed_share | of samples, those whose KL of the level is below `local_nats`  | -    |
    | blown_up        | True where the training says so; None where it was not asked   | -    |
    | curves          | (..., CURVE_POINTS, CURVE_COLUMNS) of the training; None: same | nats |

    Where the variance of a level is fixed and isotropic, its axes are free: there `active_units`
    and `collapsed_units` count principal axes of the posterior mean instead of units.
    A member that diverged has NaN in the first three and the shares, and 0 in the counts.
    The KL of `collapsed_units` is to the prior N(0, eta^2) in a model of one level with a learned
    variance, and to the best Gaussian prior elsewhere: a fixed variance keeps the first from 0.
    """

    distortion: Array
    rates: Array
    information: Array
    unit_rates: tuple[Array, ...]
    active_units: npt.NDArray[np.intp]
    collapsed_units: npt.NDArray[np.intp]
    collapsed_share: Array
    blown_up: npt.NDArray[np.bool_] | None = None
    curves: Array | None = None

    def units_above(self, cutoff_nats: float) -> npt.NDArray[np.intp]:
        """Units with a rate above `cutoff_nats`, (n_seeds, n_points, levels)."""
        counts = [(rates > cutoff_nats).sum(axis=-1) for rates in self.unit_rates]
        return np.asarray(np.stack(counts, axis=-1), dtype=np.intp)


@torch.no_grad()
def observe(
    model: Stack,
    data: TrainingData,
    *,
    threshold: float = 0.01,
    epsilon: float = 0.01,
    delta: float = 0.01,
    local_nats: float = 0.1,
    seed: int = 0,
) -> Observation:
    """Evaluate every member on all samples of `data`, in order, none dropped.

    Batch normalisation uses its running statistics meanwhile, and nothing is dropped out. A stack
    of texts is observed on `TrainingData(tokens, None)`.
    """
    noise = Noise(model.spec.latent_dims, [seed], data.target.device)
    distortion: Tensor | float = 0.0
    unit_rates: list[Tensor] | None = None
    local: Tensor | float = 0.0
    means, log_variances = [], []
    for batch, draw in pieces(model, data, lambda index: noise.next(len(index))):
        with evaluating(model):
            terms, latents = model.forward_with_latents(*batch, draw)
            per_unit = model.rates_per_unit(terms.levels, latents)
        n = batch[0].shape[1]
        share = n / len(data)
        distortion = distortion + share * terms.distortion
        rates = [share * r.mean(-2) for r in per_unit]
        local = local + share * torch.stack([_below(r, n, local_nats) for r in per_unit], -1)
        unit_rates = (
            rates if unit_rates is None else [a + b for a, b in zip(unit_rates, rates, strict=True)]
        )
        means.append([level.mean[:, :, :n] for level in terms.levels])
        log_variances.append([level.log_variance[:, :, :n] for level in terms.levels])
    assert unit_rates is not None  # data have at least two samples
    levels = range(len(unit_rates))
    mean = [torch.cat([chunk[i] for chunk in means], dim=-2) for i in levels]
    log_variance = [torch.cat([chunk[i] for chunk in log_variances], dim=-2) for i in levels]
    mean = [
        principal_axes(m) if isinstance(fixed, float) else m
        for m, fixed in zip(mean, model.spec.encoder_variances, strict=True)
    ]
    stats = [
        unit_statistics(m.double(), v.double()) for m, v in zip(mean, log_variance, strict=True)
    ]
    active = [(_variance(m) > threshold).sum(-1) for m in mean]
    collapsed = [
        _collapsed_units(model, mean[i], log_variance[i], stats[i], epsilon, delta) for i in levels
    ]
    return Observation(
        distortion=_numpy(torch.as_tensor(distortion)),
        rates=_numpy(torch.stack([r.sum(-1) for r in unit_rates], -1)),
        information=_numpy(torch.stack([information(s) for s in stats], -1)),
        unit_rates=tuple(_numpy(r.sort(-1, descending=True).values) for r in unit_rates),
        active_units=np.asarray(torch.stack(active, -1).cpu(), dtype=np.intp),
        collapsed_units=np.asarray(torch.stack(collapsed, -1).cpu(), dtype=np.intp),
        collapsed_share=_numpy(torch.as_tensor(local)),
    )


def parts(data: TrainingData) -> tuple[Tensor, ...]:
    """Indices of all samples in order, at most CHUNK at a time; equal parts: no short last one."""
    every = torch.arange(len(data), device=data.target.device)
    return every.tensor_split(-(-len(data) // CHUNK))


def pieces(
    model: Stack,
    data: TrainingData,
    noise: Callable[[Tensor], Sequence[Tensor]],
    draws: int = 2,
) -> Iterator[tuple[tuple[Tensor, Tensor | None], list[Tensor]]]:
    """Target and condition of all samples, so many at a time as `model` takes, with their noise.

    `noise` is asked for whole parts, (1, draws * len(part), k) per level: what a sample gets does
    not depend on the model.
    """
    at_once = max(1, 2 * _rows_at_once(model, data) // draws)
    for index in parts(data):
        n, drawn = len(index), noise(index)
        for rows in torch.arange(n).tensor_split(-(-n // at_once)):
            some = [torch.unflatten(d, 1, (-1, n))[:, :, rows].flatten(1, 2) for d in drawn]
            yield data.take(index[None, rows]), some


def _rows_at_once(model: Stack, data: TrainingData) -> int:
    """Samples of two draws; few of images on a CPU (`linvae.train.parts.quick_size` says why)."""
    members, width = len(model.seeds) * model.n_points, data.target.shape[1]
    if isinstance(model, StackedTextVAE):
        return min(CHUNK, max(1, GATES // (2 * members * width * 4 * model.sizes.hidden)))
    on_cpu = next(model.parameters()).device.type == "cpu"
    if not (on_cpu and model.architecture.needs_image):
        return CHUNK
    return max(1, VALUES // (members * model.target_dim))


def _collapsed_units(
    model: Stack, mean: Tensor, log_variance: Tensor, stats: Tensor, eps: float, delta: float
) -> Tensor:
    """(epsilon, delta)-collapsed units of one level, (n_seeds, n_points)."""
    one_learned = model.spec.encoder_variances == (None,)
    centre, prior = stats[0], stats[1] - stats[0].square()
    if one_learned:
        centre = torch.zeros_like(centre)
        prior = torch.full_like(prior, model.spec.prior_variances[0])
    square = (mean - centre[:, :, None]).square() + torch.exp(log_variance)
    kl = gaussian_rate_per_unit(GaussianLevel(mean, log_variance), square, prior[:, :, None])
    return ((kl < eps).float().mean(-2) >= 1 - delta).sum(-1)


def _below(unit_rates: Tensor, n: int, nats: float) -> Tensor:
    """Share of the n samples, several draws of each, whose rate is below; NaN stays NaN."""
    rate = torch.unflatten(unit_rates.sum(-1), -1, (-1, n)).mean(-2)
    return (rate < nats).to(rate.dtype).mean(-1) + 0 * rate.mean(-1)


def principal_axes(mean: Tensor) -> Tensor:
    """Means rotated onto their principal axes.

    A fixed isotropic variance leaves the axes of the latent free, so a count of units would say
    more about the rotation than about the model; a learned variance pins them.
    """
    centred = mean.double() - mean.double().mean(dim=-2, keepdim=True)
    # members that diverged are NaN before and after
    axes = torch.linalg.eigh(torch.nan_to_num(centred.mT @ centred, 0, 0, 0)).eigenvectors
    rotated: Tensor = (mean.double() @ axes).to(mean.dtype)
    return rotated


def _variance(mean: Tensor) -> Tensor:
    return mean.double().var(dim=-2, correction=0)


def _numpy(values: Tensor) -> Array:
    return np.asarray(values.cpu(), dtype=np.float64)
