"""Where torch.compile pays: a step of training with it and without, in turn, in one run.

    python -m analysis.benchmarks.compiled [--device cpu] [--out FILE] [--repeats N]

18 members (3 seeds, 6 constant betas), digits, batch 128: the sizes of control runs of `compare`.
Steps in seconds of the processor on a CPU, where other work may run beside, else by the clock. By
the clock what compiling costs without anything cached, and after how many steps that is paid back:
None, never.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from analysis.benchmarks.sweep_speed import arguments, wait, write_rows
from analysis.nonlinear_thresholds import OPTIONS
from linvae.data import load_dataset
from linvae.models import Architecture, build_model
from linvae.pipeline import default_spec, make_plan, training_data
from linvae.spec import LinearSpec
from linvae.train import ConstantBetas, TrainConfig, TrainingData, train

CASES = (("vae", "linear"), ("hvae", "linear"), ("vae", "mlp"), ("vae", "conv"))
SEEDS, FACTORS, STEPS = (0, 1, 2), np.linspace(0.5, 1.0, 6), 100


def seconds(
    spec: LinearSpec,
    network: Architecture,
    data: TrainingData,
    config: TrainConfig,
    now: Callable[[], float],
) -> float:
    """Of one run, by the clock `now`."""
    model = build_model(
        spec, data.target, architecture=network, seeds=SEEDS, n_points=len(FACTORS),
        image=data.image,
    )  # fmt: skip
    betas = ConstantBetas(FACTORS.tolist(), spec.betas, data.target.device)
    start = now()
    train(model, data, betas, config)
    wait(data.target.device)
    return now() - start


def row(model: str, architecture: str, device: str, repeats: int) -> dict[str, Any]:
    """Seconds per step of the stack, with the median of the ratios of neighbouring runs."""
    digits, spec = load_dataset("digits"), default_spec(model, 1, 1.0)
    plan = make_plan(options=OPTIONS.get(architecture, {}))
    reduced, network = digits.rotated_to_span(), plan.network(architecture)
    data = training_data(digits, reduced, network, torch.device(device))
    eager = replace(plan.config_for(architecture, level=1), steps=STEPS)
    configs = (eager, replace(eager, compile=True))
    wall = time.perf_counter
    first = [seconds(spec, network, data, replace(c, steps=3), wall) for c in configs]
    now = time.process_time if device == "cpu" else wall
    pairs = [[seconds(spec, network, data, c, now) for c in configs] for _ in range(repeats)]
    eager_s, compiled_s = (statistics.median(p[i] for p in pairs) / STEPS for i in (0, 1))
    gain, cost = eager_s - compiled_s, first[1] - first[0]
    return {
        "model": model, "architecture": architecture, "eager_s": eager_s,
        "compiled_s": compiled_s,
        "ratio": statistics.median(p[1] / p[0] for p in pairs),
        "compiling_s": cost, "paid_back_after_steps": round(cost / gain) if gain > 0 else None,
    }  # fmt: skip


def main() -> None:
    """Run all cases and write them with the facts of the machine."""
    args = arguments(__doc__, __file__)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        write_rows(args, CASES, row)


if __name__ == "__main__":
    main()
