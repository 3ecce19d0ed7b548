"""Observed thresholds of linear VAEs on random spectra, started blind; writes blind_spectra.json.

    python analysis/blind_spectra.py [--spectra N] [--seeds N] [--out FILE]

Spectra of 5 to 80 gamma variates with a random shape and a random scale over four decades, 4096
samples each. The estimator starts at beta = 1 and never sees the prediction.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

import linvae
from linvae import Moments, VAESpec, solve
from linvae.data import gaussian
from linvae.metrics import estimate_threshold
from linvae.train import TrainingData

FIRST_SEED = 7000


def random_spectrum(seed: int) -> np.ndarray:
    """Descending eigenvalues, data units squared."""
    rng = np.random.default_rng(seed)
    variances = rng.gamma(rng.uniform(0.3, 3), size=int(rng.integers(5, 80)))
    return np.sort(variances)[::-1] * 10 ** rng.uniform(-2, 2)


def measure(seed: int, n_seeds: int) -> dict[str, object]:
    """Prediction and observations for one spectrum."""
    spectrum = random_spectrum(seed)
    target = gaussian(spectrum, 4096, seed=seed).target
    predicted = float(solve(VAESpec(1), Moments.from_data(target)).critical_beta[0])
    data = TrainingData.from_arrays(target)
    estimate = estimate_threshold(VAESpec(1), data, seeds=tuple(range(n_seeds)))
    return {
        "spectrum_seed": seed,
        "dim": len(spectrum),
        "second_over_first": float(spectrum[1] / spectrum[0]),
        "predicted_beta": predicted,
        "observed_over_predicted": (estimate.critical_factors / predicted).round(5).tolist(),
        "slopes_per_nat": estimate.slopes.round(4).tolist(),
        "seconds": round(estimate.seconds, 1),
    }


def main() -> None:
    """Measure all spectra, print one line each, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spectra", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    results = []
    for seed in range(FIRST_SEED, FIRST_SEED + args.spectra):
        results.append(measure(seed, args.seeds))
        print(json.dumps(results[-1]), flush=True)
    versions = {"linvae": linvae.__version__, "torch": torch.__version__}
    args.out.write_text(json.dumps({"versions": versions, "spectra": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
