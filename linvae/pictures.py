"""Pictures of the networks of a comparison, at the smallest beta of its sweep.

Samples, reconstructions and traversals of the first seed, one sheet of each kind per architecture,
plain networks and remedies in rows. Networks come from the store where the sweep left them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace

from linvae.comparison import Comparison
from linvae.data import Dataset
from linvae.data.sheet import Sheet, joined
from linvae.jobs import LocalRunner, ModelJob, Runner
from linvae.metrics.samples import Pictures, reconstruction_sheet, sample_sheet, traversal_sheet
from linvae.models import Architecture, StackedVAE
from linvae.pipeline import Plan, sweep_jobs, training_data
from linvae.spec import LinearSpec
from linvae.train import DivergedError, TrainingData, pick_device

__all__ = ["SHEETS", "draw_pictures"]

KINDS = ("samples", "reconstructions", "traversals")
COLUMNS = 12  # pictures in a row
UNITS = 4  # of each network, in its traversals
SHEETS = tuple(f"{kind}_{name}" for kind in KINDS for name in ("linear", "mlp", "conv", "resnet"))


def draw_pictures(
    dataset: Dataset,
    spec: LinearSpec,
    plan: Plan,
    comparison: Comparison,
    make_runner: Callable[[TrainingData], Runner] = LocalRunner,
) -> list[Sheet]:
    """Sheets of every architecture whose output is an image.

    None without a sweep or a store (networks would be trained again), for data that are no images
    or were rotated to their span, of autoregressive decoders, whose mean is no picture, and of
    networks that diverged.
    """
    if plan.store is None or not plan.sweep:
        return []
    reduced = dataset.rotated_to_span()
    return [
        sheet
        for name in plan.architectures
        for sheet in _of_architecture(name, dataset, reduced, spec, plan, comparison, make_runner)
    ]


def _of_architecture(
    name: str,
    dataset: Dataset,
    reduced: Dataset,
    spec: LinearSpec,
    plan: Plan,
    comparison: Comparison,
    make_runner: Callable[[TrainingData], Runner],
) -> Iterator[Sheet]:
    network = plan.network(name)
    shown = _shown(network, dataset, reduced)
    if shown is None:
        return
    factor = comparison.settings["betas_swept"][0] / spec.betas[0]
    sweeps = sweep_jobs(spec, (factor,), name, plan)
    data = training_data(dataset, reduced, network, pick_device(plan.device))
    models = {}
    for label, sweep in sweeps.items():
        with suppress(DivergedError):  # it has no pictures
            (done,) = make_runner(data).run([ModelJob.of(sweep, factor)])
            models[label] = done.result
    if models:
        yield from _sheets(name, models, shown)


def _shown(network: Architecture, dataset: Dataset, reduced: Dataset) -> Dataset | None:
    """What the network was trained on, where it is made of pixels."""
    source = dataset if network.needs_image else reduced
    drawable = source.image_layout() is not None and network.decoder != "pixelcnn"
    return source if drawable else None


def _sheets(name: str, models: Mapping[str, StackedVAE], dataset: Dataset) -> Iterator[Sheet]:
    """One of each kind; the first image is traversed."""
    shown = {label: Pictures.of(model, dataset) for label, model in models.items()}
    one = {label: {label: (0, 0)} for label in shown}
    rows = list(range(min(COLUMNS, dataset.n_samples)))
    made = {
        "samples": [
            sample_sheet(p, columns=COLUMNS, members=one[label]) for label, p in shown.items()
        ],
        "reconstructions": [
            reconstruction_sheet(p, rows, members=one[label]) for label, p in shown.items()
        ],
        "traversals": [traversal_sheet(p, units=UNITS, of=label) for label, p in shown.items()],
    }
    for kind, sheets in made.items():
        sheet = joined(f"{kind}_{name}", sheets)
        yield replace(sheet, title=f"{sheet.title} ({name})")
