"""Effect of bfloat16 and TF32 products on observed thresholds of digits; writes precision.json.

    python -m analysis.precision [--out FILE] [--steps N] [--device cpu]

Fixed-information control as in `compare`, the same seeds in every precision: observed over
predicted factor of every seed, linear and mlp. TF32 is there on CUDA only.
"""

from __future__ import annotations

import argparse
import itertools
import json
from dataclasses import replace
from pathlib import Path

import torch

from analysis.benchmarks.sweep_speed import machine
from linvae import Moments, VAESpec, solve
from linvae.data import load_dataset
from linvae.metrics import estimate_threshold
from linvae.pipeline import make_plan
from linvae.train import TrainingData

SEEDS = (0, 1, 2)
PRECISIONS = {"cpu": ("float32", "bf16"), "cuda": ("float32", "tf32", "bf16")}


def rows(steps: int, device: torch.device) -> list[dict[str, object]]:
    """One row per architecture, precision and seed."""
    plan = make_plan()
    digits = load_dataset("digits").rotated_to_span()
    spec = VAESpec(1)
    predicted = float(solve(spec, Moments.from_data(digits.target)).critical_beta[0])
    data = TrainingData.from_arrays(digits.target, device=device)
    found: list[dict[str, object]] = []
    for architecture, precision in itertools.product(("linear", "mlp"), PRECISIONS[device.type]):
        config = plan.config_for(architecture, level=1)
        config = replace(config, steps=steps, precision=precision)
        estimate = estimate_threshold(
            spec, data, architecture=architecture, seeds=SEEDS, config=config
        )
        for seed, factor in zip(SEEDS, estimate.critical_factors, strict=True):
            ratio = float(factor) / predicted
            found.append(
                    {"architecture": architecture, "precision": precision, "seed": seed,
                     "observed_over_predicted": ratio}
                )  # fmt: skip
            print(found[-1], flush=True)
    return found


def main() -> None:
    """Train and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    found = {
        "rows": rows(args.steps, torch.device(args.device)),
        "steps": args.steps,
        "machine": machine(args.device),
    }
    args.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
