"""Local collapse: the law of the KL over samples, and over conditions, predicted beside trained.

    python -m analysis.local_collapse [--only TABLE ...]      updates local_collapse.json

`law`: KL of 2,000 fresh samples under trained linear VAEs against 2,000 draws of the exact law:
Kolmogorov-Smirnov distance and p of the first pair, the share of 100 pairs that are told apart at
1 % (0.01 expected), and power: the share where the law is that of a beta off by some per cent, no
training in it. `conditional`: MLP CVAEs on data whose spread depends on the condition, from a
network that is alive (trained at a small beta) and, some, from their own initial values, beside the
rate of unrestricted networks, on fresh data; `gain`: what the objective is below that of collapse,
and its standard error; `by_condition`: means over eighths of |phi|, the spread falling.
`data`: spread of real targets in cells of their condition, over the linear residual threshold.
On one core: `law` 30 s, `conditional` and `data` a minute each.
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
import torch
from scipy.stats import ks_2samp

import linvae
from linvae.comparison import write_text
from linvae.data import Heteroscedastic, MissingDataError, gaussian, load_dataset
from linvae.metrics import collapsed_point, observe, sample_rates
from linvae.models import Architecture, StackedVAE
from linvae.moments import Moments
from linvae.spec import CVAESpec, LinearSpec, VAESpec
from linvae.theory import solve
from linvae.theory.conditional_threshold import conditional_threshold
from linvae.theory.local_spectrum import local_residual_spectrum
from linvae.theory.observables import RateDistribution, rate_distribution
from linvae.train import ConstantBetas, TrainConfig, TrainingData, copies, train_cells

Array = npt.NDArray[np.float64]
Row = dict[str, Any]
OUT = Path(__file__).with_suffix(".json")

LAWS: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...] = (
    ((4.0, 2.0, 1.0, 0.5), (0.3, 0.6, 0.9, 1.05)),
    ((2.0,) * 6, (0.5, 1.8, 1.9)),  # 10 % and 5 % below the threshold of all six modes
    (tuple(0.85**i for i in range(20)), (0.1, 0.3)),
)
SAMPLES, PAIRS, LEVEL = 2000, 100, 0.01
OFF = (0.01, 0.02, 0.05, 0.1)
FAMILIES = (Heteroscedastic(1.0, 1.0), Heteroscedastic(0.2, 1.0))
BETAS = (0.25, 0.4, 0.55, 0.7, 0.8, 0.9, 1.05)
ALIVE_BETA, NETWORK = 0.15, Architecture("mlp", hidden=32, depth=2, activation="tanh")
EIGHTHS = 8
OWN_BETAS = (0.25, 0.55, 0.7, 1.05)
DATA = tuple((name, (16, 64)) for name in ("digits", "mnist", "fashion-mnist", "omniglot"))
MOST = 10_000


def fit(
    spec: LinearSpec,
    data: TrainingData,
    betas: tuple[float, ...],
    config: TrainConfig,
    architecture: str | Architecture = "linear",
    start: StackedVAE | None = None,
) -> StackedVAE:
    """One member for every beta."""
    return train_cells(
        spec,
        data,
        points=betas,
        kl_weight=lambda points, n: ConstantBetas(points, spec.betas, data.target.device),
        config=config,
        architecture=architecture,
        start=start,
    ).model


def law_rows(case: tuple[tuple[float, ...], tuple[float, ...]]) -> list[Row]:
    """Trained linear VAEs of one spectrum."""
    spectrum, betas = case
    data = TrainingData.from_arrays(gaussian(spectrum, 20_000, seed=1).target)
    moments, spec = Moments.from_data(data.target.numpy()), VAESpec(len(spectrum))
    config = TrainConfig(steps=3000, batch_size=256, learning_rate=1e-2)
    model = fit(spec, data, betas, config)
    rng = np.random.default_rng(5)
    found = []
    for _ in range(PAIRS):
        fresh = rng.multivariate_normal(np.zeros(len(spectrum)), moments.covariance, SAMPLES)
        one = TrainingData.from_arrays(fresh, centered=False)
        found.append(sample_rates(model, one).sum(-1)[0])
    return [
        law_row(spec.scale_betas(b), moments, np.array(found)[:, i]) for i, b in enumerate(betas)
    ]


def law_row(spec: VAESpec, moments: Moments, found: Array) -> Row:
    """One beta: `found` (pairs, samples) against draws of the exact law."""
    law = rate_distribution(spec, solve(spec, moments))
    tests = [ks_2samp(f, law.sample(SAMPLES, seed)) for seed, f in enumerate(found)]
    others = {
        off: [scaled_law(spec, moments, factor) for factor in (1 - off, 1 + off)] for off in OFF
    }
    return {
        "modes": len(moments.mean),
        "beta": spec.beta,
        "rate": law.mean_nats,
        "distance": float(tests[0].statistic),
        "p": float(tests[0].pvalue),
        "told_apart": float(np.mean([t.pvalue < LEVEL for t in tests])),
        "power": {f"{off:.0%}": [power(law, other) for other in others[off]] for off in OFF},
    }


def scaled_law(spec: VAESpec, moments: Moments, factor: float) -> RateDistribution:
    """Of another beta."""
    spec = spec.scale_betas(factor)
    return rate_distribution(spec, solve(spec, moments))


def power(law: RateDistribution, other: RateDistribution) -> float:
    """Share of pairs of samples of two laws that are told apart."""
    pairs = ((law.sample(SAMPLES, 2 * i), other.sample(SAMPLES, 2 * i + 1)) for i in range(PAIRS))
    return float(np.mean([ks_2samp(a, b).pvalue < LEVEL for a, b in pairs]))


def conditional_rows(family: Heteroscedastic) -> list[Row]:
    """MLP CVAEs of one unit, both branches, and what unrestricted networks have."""
    half = (np.arange(128) + 0.5) * np.pi / 128
    angles, spec = np.concatenate([half, -half]), CVAESpec(1)
    predicted = conditional_threshold(spec, family.covariances(angles))
    given, fresh = family.dataset(20_000, seed=0), family.dataset(20_000, seed=1)
    assert fresh.condition is not None
    data = TrainingData.from_arrays(given.target, given.condition)
    new = TrainingData.from_arrays(fresh.target, fresh.condition, centered=False)
    phi = np.arctan2(fresh.condition[:, 1], fresh.condition[:, 0])
    config = TrainConfig(steps=3000, batch_size=128)
    first = fit(spec, data, (ALIVE_BETA,), config, NETWORK)
    start = copies(first, np.zeros((1, len(BETAS)), dtype=np.intp))
    model = fit(spec, data, BETAS, config, NETWORK, start)
    alive, gains = sample_rates(model, new).sum(-1)[0], gains_of(model, new)
    own = fit(spec, data, OWN_BETAS, config, NETWORK)
    own_rates = dict(
        zip(OWN_BETAS, sample_rates(own, new).sum((-2, -1))[0] / len(new), strict=True)
    )
    dead = collapsed_point(own, data, len(OWN_BETAS) - 1)
    whole = {
        "lowest": family.lowest,
        "predicted_threshold": predicted.critical_beta,
        "linear_threshold": predicted.average_critical_beta,
        "local_threshold_of_dead": float(dead.thresholds[0]),
    }
    return [
        whole
        | {
            "beta": beta,
            "predicted": predicted.rate(beta),
            "alive": float(alive[i].mean()),
            "gain": [float(v) for v in gains[:, i]],
            "own_start": float(own_rates[beta]) if beta in own_rates else None,
            "share_collapsed": predicted.share_collapsed(beta),
            "predicted_by_condition": by_eighths(angles, predicted.rates(beta)),
            "alive_by_condition": by_eighths(phi, alive[i]),
        }
        for i, beta in enumerate(BETAS)
    ]


def gains_of(model: StackedVAE, data: TrainingData) -> Array:
    """Objective of collapse less that of every member, and its standard error, (2, betas).

    Collapsed is a constant mean of 0, the target's own: the best there is without a latent.
    """
    assert isinstance(data.target, torch.Tensor)
    assert isinstance(data.condition, torch.Tensor)
    found = []
    for y, x in zip(data.target.chunk(10), data.condition.chunk(10), strict=True):
        idle = y.shape[1] / 2 * math.log(2 * math.pi) + float(y.square().sum(-1).mean()) / 2
        seen = observe(model, TrainingData(y, x))
        found.append(idle - seen.distortion[0] - np.array(BETAS) * seen.rates[0, :, 0])
    gains = np.array(found)
    return np.stack([gains.mean(axis=0), gains.std(axis=0, ddof=1) / math.sqrt(len(gains))])


def by_eighths(angles: Array, values: Array) -> list[float]:
    """Means over eighths of |phi|."""
    place = np.minimum(np.abs(angles) / np.pi * EIGHTHS, EIGHTHS - 1).astype(int)
    return [round(float(values[place == i].mean()), 4) for i in range(EIGHTHS)]


def data_rows(case: tuple[str, tuple[int, ...]]) -> list[Row]:
    """Quarter tasks of images: how much the spread of the rest varies with the quarter given."""
    name, cells = case
    try:
        images = load_dataset(
            name, conditional=True, max_samples=None if name == "digits" else MOST
        )
    except MissingDataError:
        return []
    assert images.condition is not None
    rows = []
    for n_cells in cells:
        found = local_residual_spectrum(images.target, images.condition, n_cells=n_cells)
        rows.append(
            {
                "dataset": name,
                "n_samples": images.n_samples,
                "cells": n_cells,
                "linear": found.linear,
                "average_over_linear": found.average / found.linear,
                "first_over_linear": found.first / found.linear,
                "first_error": found.first_error / found.linear,
                "in_sample_over_linear": float(found.in_sample.max()) / found.linear,
                "share_above_linear": found.share_above(found.linear),
            }
        )
    return rows


TABLES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "law": (law_rows, LAWS),
    "conditional": (conditional_rows, FAMILIES),
    "data": (data_rows, DATA),
}


def main() -> None:
    """Run the tables asked for, print every row, and leave the other tables as they are."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    for name in args.only:
        make_rows, cases = TABLES[name]
        rows, start = [], time.perf_counter()
        for case in cases:
            for row in make_rows(case):
                rows.append(row)
                print(name, json.dumps(row), flush=True)
        record = json.loads(args.out.read_text()) if args.out.exists() else {}
        record |= {name: rows, f"{name}_seconds": round(time.perf_counter() - start, 1)}
        record |= {"versions": {"linvae": linvae.__version__, "numpy": np.__version__}}
        write_text(args.out, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
