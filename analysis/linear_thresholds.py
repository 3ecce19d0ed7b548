"""Observed thresholds of linear networks, started blind, against the known ones.

    python -m analysis.linear_thresholds [--data-dir DIR] [--spectra N] [--seeds N]
        [--models ...] [--optimizers ...] [--out FILE]

On digits, mnist, omniglot and on random spectra; VAE, CVAE and both levels of a hierarchy; Adam and
SGD. Every run starts at beta = 1 and never sees the prediction; settings of Adam are the package's
own, those of SGD stand here, and the rule by which a seed is trained again for longer is the
package's too. Spectra: 5 to 80 gamma variates with a random shape and a random scale over four
decades, 4096 samples each, axes rotated at random; with a condition the first third of the
coordinates is given. Finished rows of an earlier run with the same version and settings are kept.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
import torch

import linvae
from linvae import Moments, solve
from linvae.comparison import write_text
from linvae.data import Dataset, gaussian, load_dataset
from linvae.metrics import CONTROL_BATCH_SIZE, estimate_threshold
from linvae.pipeline import default_spec
from linvae.train import TrainConfig, TrainingData

# spectra 7000 ... 7004 chose the batch size, 100 ... 102 the rate of SGD, 9002 `LONGER`; level 2 of
# 9000 ... 9002 how upper levels train; 9001 and 9003 the batch of hierarchies with SGD, by whether
# there were lines and how they drifted
FIRST_SEED = 9000
SGD_RATE = 1.0
SGD_BATCH = {"vae": CONTROL_BATCH_SIZE, "cvae": CONTROL_BATCH_SIZE, "hvae": 2048}
MODELS = ("vae", "cvae", "hvae")
OPTIMIZERS = ("adam", "sgd")
KEY = ("data", "model", "optimizer", "learning_rate", "batch_size")


def random_spectrum(seed: int) -> np.ndarray:
    """Descending eigenvalues, data units squared."""
    rng = np.random.default_rng(seed)
    variances = rng.gamma(rng.uniform(0.3, 3), size=int(rng.integers(5, 80)))
    return np.sort(variances)[::-1] * 10 ** rng.uniform(-2, 2)


def random_data(seed: int, conditional: bool) -> Dataset:
    """Gaussian samples of a random spectrum in rotated axes."""
    spectrum = random_spectrum(seed)
    axes = scipy.stats.ortho_group.rvs(len(spectrum), random_state=seed)
    samples = gaussian(spectrum, 4096, seed=seed).target @ axes
    given = len(spectrum) // 3 if conditional else 0
    return Dataset(
        name=f"spectrum {seed}",
        target=samples[:, given:],
        condition=samples[:, :given] if given else None,
    )


def cases(
    models: Sequence[str], spectra: int, data_dir: Path | None
) -> Iterator[tuple[str, Dataset]]:
    """(model, data) of every case, the quick ones first."""
    for model in models:
        conditional = model == "cvae"
        for seed in range(FIRST_SEED, FIRST_SEED + spectra):
            yield model, random_data(seed, conditional)
        for name in ("digits", "mnist", "omniglot"):
            yield model, load_dataset(name, data_dir=data_dir, conditional=conditional)


def config_of(optimizer: str, model: str, level: int) -> TrainConfig:
    """The package's own, with twice the steps for level 2 as `compare` has them."""
    config = TrainConfig(batch_size=CONTROL_BATCH_SIZE)
    if optimizer == "sgd":
        config = replace(
            config, optimizer="sgd", learning_rate=SGD_RATE, batch_size=SGD_BATCH[model]
        )
    return replace(config, steps=level * config.steps)


def measure(model: str, dataset: Dataset, optimizer: str, n_seeds: int) -> Iterator[dict[str, Any]]:
    """One row per level."""
    spec = default_spec(model, 1, decoder_variance=1.0)
    moments = Moments.from_data(dataset.target, dataset.condition)
    data = TrainingData.from_arrays(dataset.target, dataset.condition)
    predicted = solve(spec, moments).level_critical_betas[:, 0] / spec.betas[0]
    for level, factor in enumerate(predicted, start=1):
        config = config_of(optimizer, model, level)
        found = estimate_threshold(
            spec, data, level=level, seeds=tuple(range(n_seeds)), config=config
        )
        yield {
            "data": dataset.name, "sha256": dataset.sha256, "model": model, "level": level,
            "optimizer": optimizer, "learning_rate": config.learning_rate,
            "batch_size": config.batch_size, "dim": dataset.target_dim,
            "runs_per_seed": (len(found.factors.T) * (1 + found.trained_longer)).tolist(),
            "predicted_factor": float(factor),
            "observed_over_predicted": (found.critical_factors / factor).round(5).tolist(),
            "slopes_per_nat": found.slopes.round(4).tolist(),
            "largest_drifts": np.abs(found.drifts).max(axis=1).round(4).tolist(),
            "end_drifts": found.end_drifts.round(4).tolist(),
            "seconds": round(found.seconds, 1),
        }  # fmt: skip


def main() -> None:
    """Measure what is missing, print one line per row, write the JSON after every case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--spectra", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=OPTIMIZERS)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    versions = {"linvae": linvae.__version__, "torch": torch.__version__}
    earlier = json.loads(args.out.read_text()) if args.out.exists() else {"rows": []}
    if earlier.get("versions", versions) != versions:
        parser.error(
            f"{args.out} is of {earlier['versions']}, this is {versions}: give another --out"
        )
    rows = earlier["rows"]
    done = {tuple(row[name] for name in KEY) for row in rows}
    for (model, dataset), optimizer in itertools.product(
        cases(args.models, args.spectra, args.data_dir), args.optimizers
    ):
        config = config_of(optimizer, model, level=1)
        asked = (dataset.name, model, optimizer, config.learning_rate, config.batch_size)
        if asked in done:
            continue
        for row in measure(model, dataset, optimizer, args.seeds):
            rows.append(row)
            print(json.dumps(row), flush=True)
        write_text(args.out, json.dumps({"versions": versions, "rows": rows}, indent=1) + "\n")
    worst = max(rows, key=lambda r: np.abs(np.array(r["observed_over_predicted"]) - 1).max())
    print(f"{len(rows)} rows; worst: {json.dumps(worst)}")


if __name__ == "__main__":
    main()
