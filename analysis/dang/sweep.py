"""One sweep: points of one architecture trained on one data set, predicted beside observed.

A row is one number of one member: experiment, architecture, setting (what is swept), value (of it),
level (0: of the whole model), quantity, seed, predicted, observed. Rows of architecture "theory"
are the curves behind the points, of seed -1 and without `observed`.

| quantity         | meaning                                                      | unit  |
|------------------|--------------------------------------------------------------|-------|
| rate_nats        | E KL of the level, without beta                              | nats  |
| active_units     | units whose posterior mean has a variance above ACTIVE       | -     |
| collapsed_share  | pairs of sample and unit of the last level with KL < EPSILON | share |
| distortion_nats  | E[-log p(y|z)]                                               | nats  |

`collapsed_share` is what the published scripts count. Its prediction is exact for Gaussian data,
KL = floor + a chi^2_1 per unit as in `linvae.theory.observables`; the others need second moments
only.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import chdtr

from linvae import Moments, Solution, solve
from linvae.data import Dataset, load_dataset
from linvae.metrics.observe import observe, pieces
from linvae.models import Architecture, StackedVAE, build_model
from linvae.objectives import GaussianLevel, gaussian_rate_per_unit
from linvae.spec import LinearSpec
from linvae.theory.observables import active_unit_counts
from linvae.train import ConstantBetas, TrainConfig, TrainingData, train
from linvae.train.data import Noise

ACTIVE, EPSILON = 0.01, 0.01  # latent units^2; nats
NETWORK_RATE = 1 / 3  # learning rate of networks over that of linear models
PUBLISHED_PIXELS = 784

Row = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How much of everything; `architectures` name what is trained, in order."""

    architectures: dict[str, Architecture] = field(default_factory=dict)
    dataset: str = "mnist"
    image_size: int | None = 14  # pixels a side, None: as published
    samples: int | None = 3000  # drawn at random, None: all
    latent_dim: int = 16  # of the conditional VAE
    dim: int = 64  # of target, condition and latents of the correlation study
    steps: int = 1500
    batch_size: int = 32
    learning_rate: float = 1e-2  # of linear models
    seeds: tuple[int, ...] = (0, 1, 2)
    data_dir: Path | None = None

    def config(self, architecture: Architecture) -> TrainConfig:
        """How an architecture is trained."""
        share = 1.0 if architecture.name == "linear" else NETWORK_RATE
        return TrainConfig(self.steps, self.batch_size, share * self.learning_rate)

    def load(self, conditional: bool = False) -> Dataset:
        """All images asked for, or a random subset of them."""
        dataset = load_dataset(
            self.dataset,
            data_dir=self.data_dir,
            image_size=None if self.dataset == "digits" else self.image_size,
            conditional=conditional,
        )
        if self.samples is None or self.samples >= dataset.n_samples:
            return dataset
        return dataset.subset(self.samples, seed=0)


def variance_unit(dataset: Dataset) -> float:
    """Data units^2 of one published unit of variance: number of pixels over 784."""
    return (dataset.target_dim + dataset.condition_dim) / PUBLISHED_PIXELS


@dataclass(frozen=True)
class Point:
    """A model of a sweep, and the value of what is swept."""

    value: float
    spec: LinearSpec


class PointBetas(ConstantBetas):
    """Constant KL weights, (1, n_points, levels), that need not be in proportion."""

    def __init__(self, points: Sequence[Point], device: torch.device) -> None:
        grid = [point.spec.betas for point in points]
        self._betas = torch.tensor(grid, dtype=torch.float32, device=device)[None]


def sweep_rows(
    experiment: str, setting: str, points: Sequence[Point], dataset: Dataset, size: Size
) -> list[Row]:
    """Train every architecture of `size` at every point; rows of all members."""
    spanned = dataset.rotated_to_span()
    moments = Moments.from_data(spanned.target, spanned.condition)
    data = TrainingData.from_arrays(spanned.target, spanned.condition)
    expected = {point: predictions(point.spec, moments) for point in points}
    rows = []
    for name, architecture in size.architectures.items():
        for group in _stackable(points):
            for point, seed, level, quantity, value in _observed(group, data, architecture, size):
                predicted = expected[point][level, quantity]
                rows.append(
                    _row(experiment, name, setting, point, level, quantity, seed, predicted, value)
                )
    return rows


def theory_rows(
    experiment: str, setting: str, points: Iterable[Point], dataset: Dataset
) -> list[Row]:
    """What theory says at every point, nothing trained."""
    spanned = dataset.rotated_to_span()
    moments = Moments.from_data(spanned.target, spanned.condition)
    return [
        _row(experiment, "theory", setting, point, level, quantity, -1, predicted, math.nan)
        for point in points
        for (level, quantity), predicted in predictions(point.spec, moments).items()
    ]


def predictions(spec: LinearSpec, moments: Moments) -> dict[tuple[int, str], float]:
    """(level, quantity) -> prediction; the table of the module."""
    solution = solve(spec, moments)
    levels = range(1, len(spec.latent_dims) + 1)
    counts = active_unit_counts(solution, ACTIVE)
    found = {(level, "rate_nats"): float(solution.rates[level - 1]) for level in levels}
    found |= {(level, "active_units"): float(counts[level - 1]) for level in levels}
    found[levels[-1], "collapsed_share"] = predicted_collapsed_share(spec, solution)
    found[0, "distortion_nats"] = solution.distortion
    return found


def predicted_collapsed_share(spec: LinearSpec, solution: Solution) -> float:
    """Share of pairs of sample and unit of the last level with KL < EPSILON, Gaussian data.

    A unit has KL = (v - 1 - log v)/2 + mu^2/(2 eta^2), v = sigma^2/eta^2, and mu of variance
    m (1 - r). Equality that a test checks: the share among drawn samples.
    """
    variance, r = solution.encoder_variances[-1], solution.noise_fractions[-1]
    has_unit = np.isfinite(variance)
    variance, r, eta2 = variance[has_unit], r[has_unit], spec.prior_variances[-1]
    ratio = variance / eta2
    room = EPSILON - (ratio - 1 - np.log(ratio)) / 2
    scale = variance * (1 / r - 1) / (2 * eta2)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = np.where(scale > 0, chdtr(1, np.maximum(room, 0) / scale), room > 0)
    return float(shares.mean())


def _stackable(points: Sequence[Point]) -> Iterator[list[Point]]:
    """Runs of points whose models differ in their betas only: one stack each."""

    def rest(point: Point) -> tuple[Any, ...]:
        spec = point.spec
        return (spec.decoder_variance, spec.prior_variances, spec.encoder_variances)

    for _, group in itertools.groupby(points, key=rest):
        yield list(group)


def _observed(
    points: list[Point], data: TrainingData, architecture: Architecture, size: Size
) -> Iterator[tuple[Point, int, int, str, float]]:
    """Point, seed, level, quantity and value of every member of one stack; NaN where it is lost."""
    model = build_model(
        points[0].spec,
        data.target,
        data.condition,
        architecture=architecture,
        seeds=size.seeds,
        n_points=len(points),
    )
    train(model, data, PointBetas(points, data.target.device), size.config(architecture))
    seen, shares = observe(model, data, threshold=ACTIVE), observed_collapsed_share(model, data)
    for (i, seed), (j, point) in itertools.product(enumerate(size.seeds), enumerate(points)):
        lost = not math.isfinite(seen.distortion[i, j])
        levels = range(1, seen.rates.shape[-1] + 1)
        for level in levels:
            yield point, seed, level, "rate_nats", float(seen.rates[i, j, level - 1])
            count = math.nan if lost else float(seen.active_units[i, j, level - 1])
            yield point, seed, level, "active_units", count
        yield point, seed, levels[-1], "collapsed_share", math.nan if lost else float(shares[i, j])
        yield point, seed, 0, "distortion_nats", float(seen.distortion[i, j])


@torch.no_grad()
def observed_collapsed_share(model: StackedVAE, data: TrainingData) -> np.ndarray:
    """As `predicted_collapsed_share`, over all samples of `data`, (n_seeds, n_points)."""
    noise = Noise(model.spec.latent_dims, [0], data.target.device)
    share = torch.zeros(len(model.seeds), model.n_points, dtype=torch.float64)
    for batch, draw in pieces(model, data, lambda index: noise.next(len(index))):
        last, n = model(*batch, draw).levels[-1], batch[0].shape[1]
        last = GaussianLevel(last.mean[:, :, :n], last.log_variance[:, :, :n])
        square = last.mean.square() + torch.exp(last.log_variance)
        kl = gaussian_rate_per_unit(last, square, model.spec.prior_variances[-1])
        share += (kl < EPSILON).double().mean((-2, -1)).cpu() * (n / len(data))
    return share.numpy()


def _row(
    experiment: str,
    architecture: str,
    setting: str,
    point: Point,
    level: int,
    quantity: str,
    seed: int,
    predicted: float,
    observed: float,
) -> Row:
    return {
        "experiment": experiment,
        "architecture": architecture,
        "setting": setting,
        "value": float(f"{point.value:.6g}"),
        "level": level,
        "quantity": quantity,
        "seed": seed,
        "predicted": float(f"{predicted:.5g}"),
        "observed": float(f"{observed:.5g}"),
    }


def with_size(size: Size, **changes: Any) -> Size:
    """The same size with changes, None meaning no change."""
    return replace(size, **{k: v for k, v in changes.items() if v is not None})
