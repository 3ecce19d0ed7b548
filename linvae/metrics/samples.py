"""Pictures that an image VAE makes: prior samples, reconstructions, latent traversals.

    sample          z_L ~ N(0, eta_L^2 I), z_(l-1) ~ N(g_l(z_l), eta_(l-1)^2 I), E[y|z_1, x]
    reconstruction  E[y|z_1, x] at the mean of q(z_1|v)
    traversal       E[y|z_1, x], one unit of z_L at t eta_L for t from -3 to 3, its others at the
                    mean of q(z_L|v) of one image, levels below at their prior's means

All are means of p(y|z_1, x): no decoder noise is added, and a VAE's p(y) is wider than them. They
are in data units, the mean that training took off put back; with a condition that is part of the
image, as after `Dataset.quarter_task`, it is the data's own and is pasted in.

| symbol | here                   | shape                                | unit       |
|--------|------------------------|--------------------------------------|------------|
| E[y|z] | prior_samples, ...     | (n_seeds, n_points, rows, H, W, C)   | data units |
| KL     | unit_rates             | (n_seeds, n_points, k_L)             | nats       |

Equalities that tests check: the mean and covariance of samples of a linear model; reconstructions
against matrices; a linear traversal is a straight line along a column of the decoder.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from linvae.data import Dataset, ImageLayout
from linvae.data.sheet import Sheet, as_bytes
from linvae.metrics.observe import evaluating, pieces
from linvae.models import StackedVAE
from linvae.train.data import Noise, TrainingData, stream

__all__ = [
    "Pictures",
    "prior_samples",
    "reconstruction_sheet",
    "reconstructions",
    "sample_sheet",
    "traversal_sheet",
    "traversals",
    "unit_rates",
]

Array = npt.NDArray[np.float64]
Images = npt.NDArray[np.float32]
Members = Mapping[str, tuple[int, int]]
FARTHEST = 3.0  # prior standard deviations of a traversal
ROWS = 128  # images that all members make at a time


@dataclass(frozen=True, eq=False)
class Pictures:
    """A stack of VAEs and the images it is shown, with what turns its outputs into pictures.

    `data`: as the model takes them, less `mean` (d,) and the condition's; `range`: black and white
    of a picture, (0, 1) where the data lie within, else their extremes.
    """

    model: StackedVAE
    dataset: Dataset
    data: TrainingData
    layout: ImageLayout
    mean: Array
    range: tuple[float, float]

    @classmethod
    def of(
        cls, model: StackedVAE, dataset: Dataset, *, trained_on: Dataset | None = None
    ) -> Pictures:
        """For the images of `dataset`; `trained_on` where the model was trained on others.

        Raises ValueError where the coordinates are no pixels.
        """
        layout, source = dataset.image_layout(), trained_on or dataset
        if layout is None:
            raise ValueError(
                f"dataset {dataset.name!r} has no image layout and its coordinates cannot be drawn "
                "(rotated_to_span loses it): train on the pixels themselves, more samples than "
                "dimensions, or with an architecture of images"
            )
        mean = _mean(source.target, model)
        condition: Array | None = None
        if dataset.condition is not None and source.condition is not None:
            condition = dataset.condition - _mean(source.condition, model)
        data = TrainingData.from_arrays(
            dataset.target - mean,
            condition,
            centered=False,
            device=next(model.parameters()).device,
            image=layout,
        )
        low, high = float(source.target.min()), float(source.target.max())
        limits = (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
        return cls(model, dataset, data, layout, mean, limits)

    def originals(self, rows: Sequence[int] | npt.NDArray[np.intp]) -> Images:
        """The images of the data set themselves, (rows, H, W, C)."""
        return self._placed(self.dataset.target[np.asarray(rows)], rows)

    @torch.no_grad()
    def decoded(self, latent: Tensor, rows: Sequence[int] | npt.NDArray[np.intp]) -> Images:
        """Means of p(y|z_1, x) for z_1 (n_seeds, n_points, rows, k_1), conditions those of rows."""
        index = torch.as_tensor(np.asarray(rows), device=latent.device)
        _, condition = self.data.take(index[None])
        with evaluating(self.model):
            output = self.model.decode(latent, condition)
        return self._placed(output.cpu().numpy() + self.mean, rows)

    def _placed(
        self, target: npt.NDArray[np.floating], rows: Sequence[int] | npt.NDArray[np.intp]
    ) -> Images:
        """Target values (..., rows, d) as images, with the conditions of these rows."""
        images = np.zeros((*target.shape[:-1], self.layout.size), dtype=np.float32)
        images[..., list(self.layout.target_index)] = target
        if self.layout.condition is not None and self.dataset.condition is not None:
            images[..., list(self.layout.condition)] = self.dataset.condition[np.asarray(rows)]
        return images.reshape(*target.shape[:-1], *self.layout.shape)


def prior_samples(
    pictures: Pictures, rows: Sequence[int] | npt.NDArray[np.intp], *, seed: int = 0
) -> Iterator[Images]:
    """One sample for every row, some rows at a time; all members get the same noise.

    A row says whose condition a conditional decoder is given; others need their number only.
    """
    widths, device = list(pictures.model.spec.latent_dims), pictures.data.target.device
    generator = stream("prior samples", seed)
    for some in _some(rows):
        drawn = torch.randn((1, len(some), sum(widths)), generator=generator).to(device)
        with torch.no_grad(), evaluating(pictures.model):
            latent = pictures.model.prior_latents(torch.split(drawn, widths, dim=-1))
        yield pictures.decoded(latent, some)


def reconstructions(
    pictures: Pictures, rows: Sequence[int] | npt.NDArray[np.intp]
) -> Iterator[Images]:
    """E[y|z_1, x] at the posterior mean of every row, some rows at a time."""
    for some in _some(rows):
        index = torch.as_tensor(some, device=pictures.data.target.device)
        with torch.no_grad(), evaluating(pictures.model):
            latent = pictures.model.posterior(*pictures.data.take(index[None])).mean
        yield pictures.decoded(latent, some)


@torch.no_grad()
def unit_rates(pictures: Pictures, *, seed: int = 0) -> Array:
    """E KL of every unit of the top level over all data, in the units' own order, nats."""
    model, data = pictures.model, pictures.data
    noise = Noise(model.spec.latent_dims, [seed], data.target.device)
    total: Tensor | float = 0.0
    for batch, draw in pieces(model, data, lambda index: noise.next(len(index))):
        with evaluating(model):
            rates = model.rates_per_unit(*model.sample_latents(*batch, draw))[-1]
        total = total + rates.double().mean(-2) * (batch[0].shape[1] / len(data))
    return np.asarray(torch.as_tensor(total).cpu(), dtype=np.float64)


@torch.no_grad()
def traversals(
    pictures: Pictures,
    row: int,
    units: Sequence[int] | npt.NDArray[np.intp],
    steps: Sequence[float] | Array,
) -> Images:
    """Every unit at every step, (n_seeds, n_points, len(units), len(steps), H, W, C)."""
    model, device = pictures.model, pictures.data.target.device
    count = len(units) * len(steps)
    latent = np.repeat(_top_mean(pictures, row)[:, :, None], count, axis=2)
    for i, unit in enumerate(units):
        latent[:, :, i * len(steps) : (i + 1) * len(steps), unit] = steps
    noise = [torch.zeros((1, count, k), device=device) for k in model.spec.latent_dims]
    noise[-1] = torch.as_tensor(latent, dtype=torch.float32, device=device)
    with evaluating(model):
        below = model.prior_latents(noise)
    made = pictures.decoded(below, [row] * count)
    return made.reshape(*made.shape[:2], len(units), len(steps), *made.shape[3:])


# --- sheets -------------------------------------------------------------------------------------


def sample_sheet(
    pictures: Pictures,
    row: int = 0,
    *,
    columns: int = 12,
    members: Members | None = None,
    seed: int = 0,
) -> Sheet:
    """A row of prior samples for every member: a column is the same z in all of them.

    Labels: total variance of the pictures shown, as a share of the data's; 0 where z is ignored.
    `members`: {label: (seed index, point)}, all of the stack where it is left out. A conditional
    decoder is given the condition of image `row`, the same in every column.
    """
    members = _all(pictures.model) if members is None else members
    made = np.concatenate(list(prior_samples(pictures, [row] * columns, seed=seed)), axis=2)
    shown = np.stack([made[member] for member in members.values()])
    given = f" given the condition of image {row}" if pictures.dataset.condition_dim else ""
    total = float(pictures.dataset.target.var(axis=0, dtype=np.float64).sum())
    spread = shown.var(axis=1, ddof=1, dtype=np.float64).sum(axis=(1, 2, 3)) / total
    return _sheet(
        pictures,
        "samples",
        f"Prior samples{given}: means of the decoder, one z per column",
        shown,
        [f"{name}, {100 * share:.0f} % of the data's variance"
         for name, share in zip(members, spread, strict=True)],
    )  # fmt: skip


def reconstruction_sheet(
    pictures: Pictures, rows: Sequence[int] | None = None, *, members: Members | None = None
) -> Sheet:
    """Originals in the first row, then what every member makes of their posterior means.

    Labels: |image - reconstruction|^2, data units squared, mean over the images shown.
    """
    members = _all(pictures.model) if members is None else members
    chosen = np.arange(min(12, len(pictures.data))) if rows is None else np.asarray(rows)
    original = pictures.originals(chosen)
    made = np.concatenate(list(reconstructions(pictures, chosen)), axis=2)
    shown = [made[member] for member in members.values()]
    errors = [np.square(image - original).sum(axis=(1, 2, 3)).mean() for image in shown]
    labels = [f"{name}, error {error:.3g}" for name, error in zip(members, errors, strict=True)]
    title = "Originals and their reconstructions"
    every = np.stack([original, *shown])
    return _sheet(pictures, "reconstructions", title, every, ["original", *labels])


def traversal_sheet(
    pictures: Pictures,
    row: int = 0,
    *,
    units: int = 8,
    columns: int = 7,
    seed_index: int = 0,
    point: int = 0,
    seed: int = 0,
    of: str = "",
) -> Sheet:
    """A row of `traversals` for each of the `units` with the largest KL of one member.

    `of`: the member's name, in front of the labels.
    """
    rates = unit_rates(pictures, seed=seed)[seed_index, point]
    order = np.argsort(-rates, kind="stable")[:units]
    steps = np.linspace(-FARTHEST, FARTHEST, columns)
    return _sheet(
        pictures,
        "traversals",
        f"Traversals from image {row}, prior standard deviations",
        traversals(pictures, row, order, steps)[seed_index, point],
        [f"{of} unit {unit}, KL {rates[unit]:.2f} nats".lstrip() for unit in order],
        [f"{step:.3g}" for step in steps],
    )


def _top_mean(pictures: Pictures, row: int) -> Array:
    """Mean of q(z_L|v) along the means of the levels below, over eta_L, (seeds, points, k_L)."""
    model, device = pictures.model, pictures.data.target.device
    zeros = [torch.zeros((1, 1, k), device=device) for k in model.spec.latent_dims]
    one = pictures.data.take(torch.tensor([[row]], device=device))
    with evaluating(model):
        levels, _ = model.sample_latents(*one, zeros)
    mean = levels[-1].mean[:, :, 0] / math.sqrt(model.spec.prior_variances[-1])
    return np.asarray(mean.cpu(), dtype=np.float64)


def _sheet(
    pictures: Pictures,
    name: str,
    title: str,
    images: npt.NDArray[np.floating],
    row_labels: Sequence[str],
    column_labels: Sequence[str] = (),
) -> Sheet:
    height, width, _ = pictures.layout.shape
    alt = f"{title}. {images.shape[1]} pictures of {height}x{width} a row: {'; '.join(row_labels)}."
    shown = as_bytes(images, *pictures.range)
    return Sheet(name, title, shown, tuple(row_labels), tuple(column_labels), alt)


def _all(model: StackedVAE) -> Members:
    return {
        f"seed {seed}, point {point}": (i, point)
        for i, seed in enumerate(model.seeds)
        for point in range(model.n_points)
    }


def _some(rows: Sequence[int] | npt.NDArray[np.intp]) -> Iterator[npt.NDArray[np.intp]]:
    every = np.asarray(rows, dtype=np.intp)
    return (every[i : i + ROWS] for i in range(0, len(every), ROWS))


def _mean(values: npt.NDArray[np.float32], model: StackedVAE) -> Array:
    """What training takes off: nothing from data of a Bernoulli likelihood."""
    mean: Array = values.mean(axis=0, dtype=np.float64)
    return 0 * mean if model.is_bernoulli else mean
