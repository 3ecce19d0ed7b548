"""How many members of convolutional networks a CPU trains at once: seconds per member and step.

    python -m analysis.benchmarks.stack_size [--device cpu] [--out FILE] [--repeats N]

18 members in stacks of one size, one after another, at the sizes of MNIST and CelebA, processor
seconds on a CPU, else by the clock. The allocator of the C library gives large blocks back to the
system and gets them again, empty, in every step; `linvae.train.parts.quick_size` keeps below that.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from analysis.benchmarks.sweep_speed import arguments, wait, write_rows
from analysis.nonlinear_thresholds import OPTIONS
from linvae.data import ImageLayout
from linvae.models import build_model
from linvae.pipeline import make_plan
from linvae.spec import VAESpec
from linvae.train import ConstantBetas, TrainConfig, TrainingData, train
from linvae.train.parts import quick_size

MEMBERS, STEPS = 18, 10
SIZES = (18, 9, 6, 3, 1)
CASES = (((28, 28, 1), 32), ((28, 28, 1), 128), ((64, 64, 3), 32))


def images(shape: tuple[int, int, int], device: str) -> TrainingData:
    """Noise: what a step takes does not depend on it."""
    values = np.random.default_rng(0).normal(size=(256, int(np.prod(shape))))
    return TrainingData.from_arrays(values, image=ImageLayout(shape), device=device)


def seconds_per_member_step(data: TrainingData, members: int, batch: int, steps: int) -> float:
    """Of stacks of `members` of one seed, all `MEMBERS` trained one stack after another."""
    spec, network = VAESpec(1), make_plan(options=OPTIONS["conv"]).network("conv")
    config = TrainConfig(steps=steps, batch_size=batch)
    spent = 0.0
    for _ in range(MEMBERS // members):
        model = build_model(
            spec, data.target, architecture=network, n_points=members, image=data.image
        )
        betas = ConstantBetas(np.linspace(0.5, 1, members), spec.betas, data.target.device)
        now = time.process_time if data.target.device.type == "cpu" else time.perf_counter
        start = now()
        train(model, data, betas, config)
        wait(data.target.device)
        spent += now() - start
    return spent / (steps * MEMBERS)


def row(shape: tuple[int, int, int], batch: int, device: str, repeats: int) -> dict[str, Any]:
    """Milliseconds by size of the stack, and the size that the engine takes."""
    data = images(shape, device)
    found: dict[int, list[float]] = {size: [] for size in SIZES}
    for size in SIZES:
        seconds_per_member_step(data, size, batch, steps=2)  # warm
    for _ in range(repeats):
        for size in SIZES:
            found[size].append(1e3 * seconds_per_member_step(data, size, batch, STEPS))
    model = build_model(
        VAESpec(1), data.target, architecture=make_plan(options=OPTIONS["conv"]).network("conv"),
        n_points=MEMBERS, image=data.image,
    )  # fmt: skip
    config = TrainConfig(batch_size=batch)
    return {
        "shape": shape, "batch_size": batch,
        "taken": quick_size((1, MEMBERS), model, data, config)[1],
        "ms_per_member_step": {size: statistics.median(v) for size, v in found.items()},
    }  # fmt: skip


def main() -> None:
    """Run all cases and write them with the facts of the machine."""
    write_rows(arguments(__doc__, __file__), CASES, row)


if __name__ == "__main__":
    main()
