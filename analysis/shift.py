"""How far above the linear threshold a nonlinear VAE stays alive: predicted beside observed.

    python analysis/shift.py [--only TABLE ...]      updates shift.json

`laws`: one-dimensional laws of variance 1 with a rare event (`figure_runs.two_point_law`): law of
small skewness, Gaussian encoder, every encoder. What MLPs reached on three of them is in
figure_runs.json. `symmetric`: laws without skewness, 0 or +-1 and noise: kurtosis alone.
`datasets`: the same for image sets, on their leading components, and what fixed-information
control finds with the optimal Gaussian encoder (the line through beta at its set-points), beside
what it found with MLPs (thresholds.json). `networks`: that comparison on new samples, 10
dimensions, with the certified lower bound of the networks. All shifts are relative to the linear
threshold: threshold / linear threshold - 1.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import linvae
from analysis.figure_runs import two_point_law
from linvae import VAESpec, universal_threshold
from linvae.comparison import write_text
from linvae.data import load_dataset
from linvae.metrics import estimate_threshold
from linvae.models import Architecture
from linvae.theory.gaussian_encoder import (
    alive_branch,
    gaussian_encoder_threshold,
    held_out_shift,
)
from linvae.theory.skewness_shift import skewness_shift_of
from linvae.train import TrainingData

Array = npt.NDArray[np.float64]
Row = dict[str, Any]
OUT = Path(__file__).with_suffix(".json")

PROBABILITIES = (0.45, 0.4, 0.35, 0.3, 0.24, 0.18, 0.14, 0.1, 0.08, 0.06, 0.05, 0.035)
KURTOSES = (1.5, 2.0, 3.0, 4.0, 4.5, 4.8, 5.2, 5.5, 6.0, 7.0, 8.0)
BRANCH_NATS = (0.003, 0.006, 0.012, 0.025, 0.05, 0.1, 0.2)
DATASETS = ("digits", "omniglot", "mnist", "fashion-mnist", "celeba", "ffhq")
COMPONENTS = 20  # leading ones: what is left out makes the Gaussian shift a lower bound
LINE_NATS = (0.05, 0.15, 0.3)  # three of the set-points of fixed-information control
NETWORK_PROBABILITIES = (0.1, 0.25, 0.05, 0.5)
NETWORK_SAMPLES, NETWORK_DIM, NETWORK_SEEDS = 1000, 10, (0, 1)


def predictions(y: Array) -> Row:
    """Predicted shifts of samples (n, d), and the moments that the law is made of."""
    law = skewness_shift_of(y)
    first = skewness_shift_of(_scores(y, 1))
    gaussian = gaussian_encoder_threshold(y)
    return {
        "skewness": law.skewness,
        "kurtosis": law.kurtosis,
        "law_shift": _finite(law.shift),
        "law_shift_first_component": _finite(first.shift),
        "gaussian_shift": gaussian.shift,
        "gaussian_information": gaussian.information,
        "variance_of_means": float(np.var(gaussian.encoder_means)),
    }


def universal_shift(y: Array) -> float:
    """The shift that no encoder can pass."""
    bound = universal_threshold(y)
    return bound.critical_beta / bound.linear_critical_beta - 1


def law_row(probability: float) -> Row:
    """A rare event: shifts, and where the alive branch ends."""
    y = two_point_law(probability)
    end = alive_branch(y, BRANCH_NATS).end_beta / float(np.var(y)) - 1
    row = {"probability": probability} | predictions(y)
    return row | {"alive_branch_end": end, "universal_shift": universal_shift(y)}


def symmetric_row(kurtosis: float) -> Row:
    """0, or +-1 with the probability that gives about that kurtosis, and noise."""
    y = symmetric_law(kurtosis)
    return predictions(y) | {"universal_shift": universal_shift(y)}


def symmetric_law(kurtosis: float, n_noise: int = 9) -> Array:
    """(n, 1) samples with the exact kurtosis of the law, up to the rounding of its shares.

    x = e + noise of variance v E[e^2] has kurtosis (k + 6 v + 3 v^2)/(1 + v)^2, k that of e.
    """
    from scipy.stats import norm

    v = 0.02
    share = 1 / (kurtosis * (1 + v) ** 2 - 6 * v - 3 * v**2)
    half = 100
    ones = round(half * share)
    noise = norm.ppf((np.arange(n_noise) + 0.5) / n_noise)
    noise *= math.sqrt(v * ones / half) / noise.std()
    event = np.repeat([0.0, 1.0, -1.0], [2 * (half - ones), ones, ones])
    return np.asarray((event[:, None] + noise).reshape(-1, 1))


def dataset_row(name: str) -> Row:
    """One image set: predicted shifts, held out, and the line of fixed-information control."""
    start = time.perf_counter()
    y = load_dataset(name).target.astype(np.float64)
    scores = _scores(y, COMPONENTS)
    row = {"dataset": name, "n_samples": len(y), "target_dim": y.shape[1]} | predictions(scores)
    shift, error = held_out_shift(scores)
    row |= {
        "gaussian_shift_first_component": gaussian_encoder_threshold(_scores(y, 1)).shift,
        "held_out_shift": _finite(shift),
        "held_out_standard_error": _finite(error),
        "control_shift": control_prediction(scores)["control_shift"],
    }
    return row | mlp_control(name) | {"seconds": round(time.perf_counter() - start, 1)}


def mlp_control(name: str) -> Row:
    """What fixed-information control found with MLPs: mean, lowest and highest seed."""
    rows = json.loads(OUT.with_name("thresholds.json").read_text())
    wanted = [name, "vae", "mlp"]
    (row,) = (r for r in rows if [r["dataset"], r["model"], r["architecture"]] == wanted)
    ends = ("", "_low", "_high")
    return {f"mlp_control{end}": row[f"observed{end}"] / row["predicted"] - 1 for end in ends}


def control_prediction(y: Array) -> Row:
    """Line through log beta at the set-points of fixed-information control, and ratios there."""
    branch = alive_branch(y, LINE_NATS)
    linear = float(np.linalg.eigvalsh(np.cov(y.T, bias=True).reshape(y.shape[1], -1))[-1])
    slope, start = np.polyfit(branch.information, np.log(branch.betas / linear), 1)
    best = float(branch.exchange_ratios.max()) / linear - 1
    return {"control_shift": math.expm1(start), "control_slope": slope, "ratio_shift": best}


def network_samples(probability: float) -> Array:
    """The law of rare events along one of ten directions, Gaussian noise of variance 0.2 else."""
    rng = np.random.default_rng(round(1000 * probability))
    others = rng.normal(size=(NETWORK_SAMPLES, NETWORK_DIM - 1)) * math.sqrt(0.2)
    first = rng.permutation(two_point_law(probability, NETWORK_SAMPLES))
    rotation = np.linalg.qr(rng.normal(size=(NETWORK_DIM, NETWORK_DIM)))[0]
    return np.asarray(np.concatenate([first, others], axis=1) @ rotation)


def network_row(probability: float) -> Row:
    """MLPs under fixed-information control, and what is predicted for them."""
    y = network_samples(probability)
    scores = _scores(y, NETWORK_DIM)
    linear = float(np.var(scores[:, 0]))
    spec = VAESpec(1, beta=1.0, decoder_variance=linear)  # the linear threshold is factor 1
    found = estimate_threshold(
        spec,
        TrainingData.from_arrays(y),
        architecture=Architecture("mlp", 64),
        seeds=NETWORK_SEEDS,
    )
    row = {"probability": probability} | predictions(scores) | control_prediction(scores)
    return row | {
        "mlp_control": [_finite(v - 1) for v in found.critical_factors],
        "mlp_certified": [_finite(v - 1) for v in found.certified_factors],
        "mlp_certified_error": [_finite(v) for v in found.certified_errors],
        "mlp_local": [_finite(v - 1) for v in found.local_factors],
        "seconds": round(found.seconds, 1),
    }


def _scores(y: Array, components: int) -> Array:
    """Leading principal scores, (n, components)."""
    y = y - y.mean(axis=0)
    if len(y) < y.shape[1]:
        left, values, _ = np.linalg.svd(y, full_matrices=False)
        return np.asarray((left * values)[:, : min(components, len(y) - 1)])
    axes = np.linalg.eigh(y.T @ y)[1][:, ::-1]
    return np.asarray(y @ axes[:, :components])


def _finite(value: float) -> float | None:
    """Value, or None where the theory or the runs give none."""
    return float(value) if math.isfinite(value) else None


TABLES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "laws": (law_row, PROBABILITIES),
    "symmetric": (symmetric_row, KURTOSES),
    "datasets": (dataset_row, DATASETS),
    "networks": (network_row, NETWORK_PROBABILITIES),
}


def main() -> None:
    """Run the tables asked for, print every row, and leave the other tables as they are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    for name in args.only:
        make_row, cases = TABLES[name]
        rows = []
        for case in cases:
            rows.append(make_row(case))
            print(name, json.dumps(rows[-1]), flush=True)
        record = json.loads(args.out.read_text()) if args.out.exists() else {}
        record |= {name: rows, "versions": {"linvae": linvae.__version__, "numpy": np.__version__}}
        write_text(args.out, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
