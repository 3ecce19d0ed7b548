"""Effect of bfloat16 products on observed thresholds of digits; writes precision.json.

    python analysis/precision.py [--out FILE] [--steps N]

Fixed-information control as in `compare`, the same seeds in both precisions: observed over
predicted factor of every seed, linear and mlp.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from linvae import Moments, VAESpec, solve
from linvae.data import load_dataset
from linvae.metrics import CONTROL_BATCH_SIZE, estimate_threshold
from linvae.train import TrainConfig, TrainingData

SEEDS = (0, 1, 2)
RATES = {"linear": 3e-3, "mlp": 2e-3}


def rows(steps: int) -> list[dict[str, object]]:
    """One row per architecture, precision and seed."""
    digits = load_dataset("digits").rotated_to_span()
    spec = VAESpec(1)
    predicted = float(solve(spec, Moments.from_data(digits.target)).critical_beta[0])
    data = TrainingData.from_arrays(digits.target)
    found: list[dict[str, object]] = []
    for architecture, rate in RATES.items():
        base = TrainConfig(steps=steps, batch_size=CONTROL_BATCH_SIZE, learning_rate=rate)
        for precision in ("float32", "bf16"):
            config = replace(base, precision=precision)
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
    args = parser.parse_args()
    found = {"rows": rows(args.steps), "steps": args.steps, "torch": torch.__version__}
    args.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
