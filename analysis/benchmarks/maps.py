"""Where networks of images run at once on a CPU, and where one after another is quicker.

    python -m analysis.benchmarks.maps [--out FILE] [--repeats N]

A stack of so many of 9 members as train at once (`linvae.train.parts.quick_size`), random images,
the default sizes of `compare`: seconds of the processor per step and member, under vmap (a grouped
convolution of all members) and in a loop, in turn, with the median of the ratios of neighbouring
runs. `pixels`: of all rows that an encoder sees; decoders have twice as many.
`linvae.models.members.LARGE` is where the loop begins to be the quicker one.
"""

from __future__ import annotations

import math
import statistics
import time
from typing import Any

import torch

from analysis.benchmarks.sweep_speed import arguments, write_rows
from linvae import VAESpec
from linvae.data import ImageLayout
from linvae.models import Architecture, StackedVAE, build_model, members
from linvae.train import ConstantBetas, TrainConfig, TrainingData, train
from linvae.train.parts import quick_size

CASES = (
    ("conv", 8, 1, 32), ("conv", 16, 1, 128), ("conv", 16, 3, 32), ("conv", 16, 3, 128),
    ("conv", 28, 1, 32), ("conv", 28, 1, 128), ("conv", 32, 3, 32), ("conv", 64, 1, 32),
    ("resnet", 28, 1, 128), ("pixelcnn", 28, 1, 128),
)  # fmt: skip
POINTS, STEPS = 9, 8


def seconds(data: TrainingData, network: str, batch: int, large: float) -> tuple[float, int]:
    """Of one step and member, where maps from `large` pixels on run one by one; members at once."""
    members.LARGE = large
    spec = VAESpec(8)
    config = TrainConfig(steps=STEPS, batch_size=batch, log_every=STEPS)

    def model(points: int) -> StackedVAE:
        return build_model(
            spec, data.target, architecture=Architecture(network), n_points=points, image=data.image
        )

    _, points = quick_size((1, POINTS), model(1), data, config)
    betas, stack = ConstantBetas([1.0] * points, spec.betas, data.target.device), model(points)
    start = time.process_time()
    train(stack, data, betas, config)
    return (time.process_time() - start) / STEPS / points, points


def row(
    network: str, size: int, channels: int, batch: int, device: str, repeats: int
) -> dict[str, Any]:
    """Both ways in turn; the first pair warms up."""
    layout = ImageLayout((size, size, channels))
    values = torch.randn(256, layout.size, generator=torch.Generator().manual_seed(0))
    data = TrainingData.from_arrays(values.numpy(), device=torch.device(device), image=layout)
    pairs = [
        [seconds(data, network, batch, large) for large in (math.inf, 0)]
        for _ in range(repeats + 1)
    ][1:]
    at_once, loop = (1e3 * statistics.median(pair[i][0] for pair in pairs) for i in (0, 1))
    return {
        "architecture": network, "image": f"{size}x{size}x{channels}", "batch": batch,
        "members": pairs[0][0][1],
        "pixels": batch * size**2, "at_once_ms": round(at_once, 2), "loop_ms": round(loop, 2),
        "ratio": round(statistics.median(pair[1][0] / pair[0][0] for pair in pairs), 3),
    }  # fmt: skip


def main() -> None:
    """Run all cases and write them with the facts of the machine."""
    write_rows(arguments(__doc__, __file__), CASES, row)


if __name__ == "__main__":
    main()
