"""What the figures show of trained networks: frontier, escape times, skewed data, thresholds.

    python analysis/figure_runs.py                        writes figure_runs.json, 3 minutes
    python analysis/figure_runs.py --thresholds FOLDER ... writes thresholds.json from the folders
                                                           of `compare` runs

`frontier`: one VAE per beta on the bundled digits; its rate and squared error over all samples.
`escape`: plain gradient descent of a linear VAE on minibatches, from small weights; time is steps
times learning rate. "aggressive": `ENCODER_STEPS` steps of the encoder before each of the decoder.
`skewness`: one-dimensional laws of variance 1, two points and Gaussian noise. MLPs are trained at
half the linear threshold, then at `factors` times it. At each end the **exchange ratio**
(D_0 - D)/(2 s KL) is measured over many draws of the latent: for any beta below it this network is
better than full collapse, whatever beta it was trained at. The largest of a seed, less two standard
errors, is a lower bound of the threshold of the architecture; D_0 is that of the best constant.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import linvae
from linvae import VAESpec
from linvae.comparison import Comparison, write_text
from linvae.data import load_dataset
from linvae.metrics import observe
from linvae.models import Architecture, StackedVAE, build_model
from linvae.train import ConstantBetas, TrainConfig, TrainingData, train
from linvae.train.data import BatchOrder, Noise

Array = npt.NDArray[np.float64]
OUT = Path(__file__).with_suffix(".json")
SEEDS = (0, 1, 2)
HIDDEN = {"digits": 64, "skewness": 32}

FRONTIER_SPEC = VAESpec(16, decoder_variance=0.05)
FRONTIER_BETAS = (0.5, 1.0, 2.0, 3.5, 6.0, 9.0, 13.0)
FRONTIER_CONFIGS = {
    "linear": TrainConfig(steps=3000),
    "mlp": TrainConfig(steps=4000, learning_rate=1e-3),
}

ESCAPE_SPEC = VAESpec(1, decoder_variance=1.0)  # on data of variance 1: the threshold is beta = 1
ESCAPE_BETAS = {
    "joint": (0.1, 0.25, 0.4, 0.55, 0.7, 0.8, 0.9),
    "aggressive": (0.3, 0.45, 0.6, 0.75, 0.85),
}
ESCAPE_START, ESCAPE_NATS = 0.01, 0.01
ESCAPE_RATE, ESCAPE_END = 0.02, {"joint": 80.0, "aggressive": 20.0}
ESCAPE_SAMPLES, ESCAPE_BATCH = 1000, 100
ENCODER_RATE, ENCODER_STEPS = 0.5, 15

SKEW_SPEC = VAESpec(1, decoder_variance=1.0)
SKEW_PROBABILITIES = (0.5, 0.24, 0.1, 0.05)
NOISE_SHARE = 0.02  # of the variance 1
SKEW_SAMPLES = 1000
SKEW_FACTORS = (0.8, 1.0, 1.3, 1.8, 2.5)
SKEW_CONFIG = TrainConfig(steps=1500, batch_size=100, learning_rate=3e-3)
DRAWS = 16  # evaluations of each network, for the standard error of its distortion
LEAST_NATS = 0.01  # below it the exchange ratio is a quotient of two errors


def two_point_law(probability: float, n_samples: int = SKEW_SAMPLES) -> Array:
    """(n, 1) samples of a rare event and noise, mean 0 and variance 1, the same at every call.

    Shares and noise quantiles are exact, so the sample has the moments of the law.
    """
    high = round(probability * n_samples)
    from scipy.stats import norm

    def noise(n: int) -> Array:
        quantiles = norm.ppf((np.arange(n) + 0.5) / n)
        return np.asarray(quantiles / quantiles.std())

    event = np.repeat([1.0, 0.0], [high, n_samples - high])
    event = (event - event.mean()) / event.std()
    spread = np.concatenate([noise(high), noise(n_samples - high)])
    y = math.sqrt(1 - NOISE_SHARE) * event + math.sqrt(NOISE_SHARE) * spread
    return np.asarray(y[:, None])


def frontier_rows(architecture: str) -> list[dict[str, Any]]:
    """Rate and squared error of every member, over all samples."""
    digits = load_dataset("digits").rotated_to_span()
    data = TrainingData.from_arrays(digits.target)
    model = _stack(FRONTIER_SPEC, data, architecture, len(FRONTIER_BETAS))
    train(model, data, _betas(data, FRONTIER_BETAS), FRONTIER_CONFIGS[architecture])
    seen = observe(model, data)
    s, d = float(FRONTIER_SPEC.decoder_variance), data.target.shape[1]
    squared = 2 * s * (seen.distortion - d / 2 * math.log(2 * math.pi * s))
    return [
        {
            "architecture": architecture,
            "seed": seed,
            "beta": beta,
            "rate_nats": float(seen.rates[i, j, 0]),
            "squared_error": float(squared[i, j]),
        }
        for i, seed in enumerate(SEEDS)
        for j, beta in enumerate(FRONTIER_BETAS)
    ]


def escape_rows(update: str) -> list[dict[str, Any]]:
    """Time at which the KL divergence of every member first exceeds `ESCAPE_NATS`."""
    y = np.random.default_rng(0).normal(size=(ESCAPE_SAMPLES, 1))
    data = TrainingData.from_arrays((y - y.mean()) / y.std())
    betas = ESCAPE_BETAS[update]
    model = _stack(ESCAPE_SPEC, data, "linear", len(betas))
    for weight in (*model.encoders.parameters(), *model.decoders.parameters()):
        weight.data.fill_(ESCAPE_START)
    times = _escape_times(model, data, betas, update)
    return [
        {"update": update, "seed": seed, "beta": beta, "time": float(times[i, j])}
        for i, seed in enumerate(SEEDS)
        for j, beta in enumerate(betas)
    ]


def _escape_times(
    model: StackedVAE, data: TrainingData, betas: tuple[float, ...], update: str
) -> Array:
    """Gradient descent until all members have escaped, or to the end."""
    import torch

    order = BatchOrder(len(data), ESCAPE_BATCH, SEEDS)
    noise = Noise((1,), SEEDS, data.target.device)
    weights = _betas(data, betas).betas()
    decoder = list(model.decoders.parameters())
    encoder = [p for p in model.parameters() if all(p is not other for other in decoder)]
    together = update == "joint"
    outer = torch.optim.SGD(decoder + encoder if together else decoder, lr=ESCAPE_RATE)
    inner = torch.optim.SGD(encoder, lr=ENCODER_RATE)
    times = np.full((len(SEEDS), len(betas)), np.inf)
    for step in range(1, round(ESCAPE_END[update] / ESCAPE_RATE) + 1):
        for optimizer in [outer] if together else [inner] * ENCODER_STEPS + [outer]:
            target, _ = data.take(order.next())
            model.zero_grad()
            terms = model(target, None, noise.next(ESCAPE_BATCH))
            terms.objective(weights).sum().backward()
            optimizer.step()
        escaped = _rates(model, data)[..., 0] > ESCAPE_NATS
        times = np.where(escaped & np.isinf(times), step * ESCAPE_RATE, times)
        if np.isfinite(times).all():
            break
    return times


def _rates(model: StackedVAE, data: TrainingData) -> Array:
    """Rate of every member over all samples; no latent is drawn."""
    import torch

    with torch.no_grad():
        level = model.encode(0, data.target[None, None] / model.scale)
        rates = model.rates_per_unit([level], [level.mean])[0].mean(-2)
    return np.asarray(rates, dtype=np.float64)


def skewness_rows(probability: float) -> list[dict[str, Any]]:
    """The largest exchange ratio of each seed, less two standard errors."""
    y = two_point_law(probability)
    data = TrainingData.from_arrays(y)
    model = _stack(SKEW_SPEC, data, "mlp", len(SKEW_FACTORS))
    train(model, data, _betas(data, (0.5,) * len(SKEW_FACTORS)), SKEW_CONFIG)
    train(model, data, _betas(data, SKEW_FACTORS), SKEW_CONFIG)
    ratio, error, rate = exchange_ratios(model, data)
    bound = np.where(rate > LEAST_NATS, ratio - 2 * error, -np.inf)
    best = bound.argmax(axis=1)
    return [
        {
            "probability": probability,
            "skewness": float(np.mean(y**3) / np.mean(y**2) ** 1.5),
            "seed": seed,
            "exchange_ratio": float(ratio[i, best[i]]),
            "standard_error": float(error[i, best[i]]),
            "lower_bound": float(bound[i, best[i]]),
            "trained_at": float(SKEW_FACTORS[best[i]]),
            "rate_nats": float(rate[i, best[i]]),
        }
        for i, seed in enumerate(SEEDS)
    ]


def exchange_ratios(model: StackedVAE, data: TrainingData) -> tuple[Array, Array, Array]:
    """(D_0 - D)/(2 s KL), its standard error and KL of every member, (seeds, points)."""
    s, d = float(SKEW_SPEC.decoder_variance), data.target.shape[1]
    variance = float(data.target.double().var(dim=0, correction=0).sum())
    collapsed = d / 2 * math.log(2 * math.pi * s) + variance / (2 * s)
    seen = [observe(model, data, seed=draw) for draw in range(DRAWS)]
    rate = seen[0].rates[..., 0]
    saved = np.stack([collapsed - one.distortion for one in seen]) / np.maximum(rate, 1e-12)
    return saved.mean(0), saved.std(0, ddof=1) / math.sqrt(DRAWS), rate


def _stack(spec: VAESpec, data: TrainingData, architecture: str, n_points: int) -> StackedVAE:
    hidden = HIDDEN["digits" if spec is FRONTIER_SPEC else "skewness"]
    return build_model(
        spec,
        data.target,
        architecture=Architecture(architecture, hidden),
        seeds=SEEDS,
        n_points=n_points,
    )


def _betas(data: TrainingData, betas: tuple[float, ...]) -> ConstantBetas:
    return ConstantBetas(betas, (1.0,), data.target.device)


def threshold_rows(folder: Path) -> list[dict[str, Any]]:
    """Predicted and observed threshold of a `compare` run; None where no seed gave an estimate."""
    comparison = Comparison.read(folder)
    settings = comparison.settings
    return [
        {
            "dataset": settings["dataset"],
            "model": settings["model"],
            "n_samples": settings["n_samples"],
            "target_dim": settings["target_dim"],
            "condition_dim": settings["condition_dim"],
            "level": t.level,
            "architecture": t.architecture,
            "predicted": t.predicted,
            "observed": t.observed if t.seeds else None,
            "observed_low": t.low if t.seeds else None,
            "observed_high": t.high if t.seeds else None,
            "seeds": t.seeds,
            "leading_skewness": settings.get("leading_skewness"),
            "version": settings["version"],
        }
        for t in comparison.thresholds()
    ]


def main() -> None:
    """Train, or read the folders given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--thresholds", nargs="+", type=Path, metavar="FOLDER")
    folders = parser.parse_args().thresholds
    if folders:
        rows = [row for folder in folders for row in threshold_rows(folder)]
        write_text(OUT.with_name("thresholds.json"), json.dumps(rows, indent=1) + "\n")
    else:
        train_all()


def train_all() -> None:
    """Train, and write the rows with their settings."""
    import torch

    start = time.perf_counter()
    skewness = [row for probability in SKEW_PROBABILITIES for row in skewness_rows(probability)]
    print(f"skewness: {time.perf_counter() - start:.0f} s", flush=True)
    frontier = [row for name in FRONTIER_CONFIGS for row in frontier_rows(name)]
    print(f"frontier: {time.perf_counter() - start:.0f} s", flush=True)
    escape = [row for update in ESCAPE_BETAS for row in escape_rows(update)]
    print(f"escape: {time.perf_counter() - start:.0f} s", flush=True)
    settings = {
        "seeds": SEEDS,
        "hidden": HIDDEN,
        "frontier": {
            "dataset": "digits",
            "spec": repr(FRONTIER_SPEC),
            "latent_dim": FRONTIER_SPEC.latent_dim,
            "decoder_variance": FRONTIER_SPEC.decoder_variance,
            "training": {name: asdict(config) for name, config in FRONTIER_CONFIGS.items()},
        },
        "escape": {
            "spec": repr(ESCAPE_SPEC),
            "n_samples": ESCAPE_SAMPLES,
            "batch_size": ESCAPE_BATCH,
            "start": ESCAPE_START,
            "escaped_nats": ESCAPE_NATS,
            "learning_rate": ESCAPE_RATE,
            "encoder_learning_rate": ENCODER_RATE,
            "encoder_steps": ENCODER_STEPS,
        },
        "skewness": {
            "spec": repr(SKEW_SPEC),
            "n_samples": SKEW_SAMPLES,
            "noise_share": NOISE_SHARE,
            "factors": SKEW_FACTORS,
            "training": asdict(SKEW_CONFIG),
            "draws": DRAWS,
            "least_nats": LEAST_NATS,
        },
        "seconds": round(time.perf_counter() - start, 1),
        "versions": {
            "linvae": linvae.__version__,
            "numpy": np.__version__,
            "torch": torch.__version__,
        },
    }
    record = {"settings": settings, "frontier": frontier, "escape": escape, "skewness": skewness}
    write_text(OUT, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
