"""Small runs that tests stop: made the same way in a test and in a process that it kills."""

from __future__ import annotations

import os
import signal
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch

from linvae.models import Architecture, build_model
from linvae.spec import VAESpec
from linvae.train import (
    Aggressive,
    Annealing,
    CellStore,
    Checkpoint,
    ConstantBetas,
    Cyclical,
    InformationControl,
    Remedy,
    RemedyBetas,
    TrainConfig,
    TrainingData,
    checkpoint,
    train,
    train_cells,
)

CPU = torch.device("cpu")
SPEC = VAESpec(2, decoder_variance=0.5)
NETWORK = Architecture("mlp", hidden=6)
SEEDS, POINTS = (0, 3), (0.1, 0.4, 1.0)
REMEDIES = {  # of the points; inner loops that end, and a phase that does
    0.1: {"aggressive": Aggressive(window=2, most_steps=5, falls=2)},
    0.4: {"aggressive": Aggressive(window=3, falls=1), "schedule": Annealing(20)},
    1.0: {"schedule": Cyclical(40), "floor_nats": 0.2},
}
STEPS = 100
EVERY = 7  # steps between two checkpoints: many, and at no round number


def data() -> TrainingData:
    """50 samples: batches of 16 leave a rest of every epoch for the next."""
    return TrainingData.from_arrays(np.random.default_rng(0).normal(size=(50, 5)))


def config(optimizer: str, steps: int = STEPS, **options) -> TrainConfig:
    """Logs often, so that the history has many rows."""
    rate = 3e-3 if optimizer == "adam" else 1e-3
    return TrainConfig(
        steps, batch_size=16, learning_rate=rate, optimizer=optimizer, log_every=5, **options
    )


def kl_weight(kind: str, points=POINTS, n_seeds=2):
    """Of every kind, for the same points: betas, nats, or betas under remedies."""
    if kind == "constant":
        return ConstantBetas(points, SPEC.betas, CPU)
    if kind == "remedies":
        remedies = [Remedy(beta=p, **REMEDIES[p]) for p in points]
        return RemedyBetas(remedies, SPEC.betas, n_seeds, CPU)
    return InformationControl(points, SPEC.betas, n_seeds, 0, CPU)


def run(optimizer: str, kind: str, steps: int = STEPS, *, plateau=None, **options):
    """Model, KL weight and result of one training."""
    torch.set_num_threads(1)
    model = build_model(
        SPEC, data().target, architecture=NETWORK, seeds=SEEDS, n_points=len(POINTS)
    )
    weight = kl_weight(kind)
    how = config(optimizer, steps, plateau=plateau)
    return model, weight, train(model, data(), weight, how, **options)


def cells(kind: str, store: CellStore | None, *, seeds=SEEDS, points=POINTS, **options):
    """The same members as cells."""
    torch.set_num_threads(1)
    return train_cells(
        SPEC, data(), points=points, kl_weight=partial(kl_weight, kind), config=config("adam"),
        architecture=NETWORK, seeds=seeds, store=store, **options,
    )  # fmt: skip


def report_steps(optimizer: str, kind: str, path: Path, connection: Connection) -> None:
    """Train with checkpoints and tell the number of steps done, until killed."""
    run(optimizer, kind, checkpoint=Checkpoint(path, every_steps=EVERY), progress=connection.send)


def die_in_write(number: int, moment: str) -> None:
    """Arrange that this process is killed at a moment of the write of that number, from 0."""
    whole, rename, count = checkpoint.save_file, os.replace, iter(range(10**6))

    def save_file(tensors, path, metadata):
        whole(tensors, path, metadata)
        if moment == "half a file" and next(count) == number:
            os.truncate(path, os.path.getsize(path) // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def replace(source, target):
        if moment == "half a file" or next(count) != number:
            return rename(source, target)
        if moment == "after its rename":
            rename(source, target)
        return os.kill(os.getpid(), signal.SIGKILL)

    checkpoint.save_file, os.replace = save_file, replace


def run_and_die(path: Path, number: int, moment: str) -> None:
    """Train with checkpoints up to that moment."""
    die_in_write(number, moment)
    run("adam", "control", checkpoint=Checkpoint(path, every_steps=EVERY))


def cells_and_die(folder: Path, kind: str, number: int, moment: str) -> None:
    """Train cells up to that moment."""
    die_in_write(number, moment)
    cells(kind, CellStore(folder, every_steps=40))
