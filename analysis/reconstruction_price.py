"""What the latent reconstruction loss does to trained networks; writes reconstruction_price.json.

    python -m analysis.reconstruction_price [--only PART] [--members FOLDER]

Linear VAEs and MLPs, three seeds, gamma over two decades, z from the prior and from the posterior,
each beside the linear optimum of the same setting (`linvae.theory.mixed_units`).

`thresholds`: one unit on one mode of variance 1, s = eta^2 = 1, where gamma and beta are all there
is: theta^2, s and eta^2 scale them. Trained at `FACTORS` of the predicted critical beta. Below it
the variance of the posterior's mean falls to 0 along what is nearly a line in beta: `critical_beta`
is where the line through the two betas below it ends, `predicted_by_line` the end of the same line
through the optimum's variances, so that its bend cancels. null where it does not fall. `explained`:
share of the variance of y that the decoder has at the posterior's mean; `decoded_deviation`: of the
decoder's mean where z is drawn from the prior, data units.

`ends`: spectrum `SPECTRUM` with a unit for each mode, and with two units, which mix two modes each;
rate, distortion, active units (variance of the posterior's mean above 0.01), the objective with the
loss in it, and the price, distortion less the least that any linear VAE has at the same rate.
`curved`: y_2 = h^2 - 1 where y_1 = 2 h, and two Gaussian directions, the covariance that of the
Gaussian data: what is predicted is the same, and what is new is that networks may follow the curve.
MLPs only. Distortions by two draws for each of 10,000 samples, good to 0.01 nats; moments of the
Gaussian data are exact.

**Found.** Linear networks are where theory has them. MLPs are while gamma s/theta^2 is well below
0.1, or beta is small; beyond they do better than any linear VAE, also on Gaussian data, where
without the loss nothing can that has a unit for each mode. Decoder and encoder make a code of their
own within a tenth of a deviation of the mean, where few samples lie, and so give z back without the
data: the data leave a unit long before the predicted threshold, and the unit counts as active long
after.

On one core: 10 minutes.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

import linvae
from linvae.comparison import write_text
from linvae.data import gaussian
from linvae.metrics import observe
from linvae.metrics.information import posteriors
from linvae.metrics.reencoding import prior_latents, reencoded
from linvae.models import Architecture, StackedVAE
from linvae.spec import LatentReconstruction, VAESpec
from linvae.theory.latent_reconstruction import reconstruction_critical_beta, reconstruction_rest
from linvae.theory.mixed_units import ReconstructionOptimum, reconstruction_optimum
from linvae.theory.rate_distortion import rate_distortion_curve, water_level
from linvae.train import (
    CellStore,
    Remedy,
    RemedyBetas,
    TrainConfig,
    Trained,
    TrainingData,
    train_cells,
)

Array = np.ndarray[Any, np.dtype[np.float64]]
Row = dict[str, Any]

SPECTRUM = (4.0, 2.0, 1.0, 0.5)
UNITS = {"decoder_variance": 1.0, "prior_variance": 1.0}
WEIGHTS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
SOURCES = ("prior", "posterior")
BETAS = (0.25, 1.5, 3.0)
FACTORS = (0.8, 0.9, 1.1, 1.25)  # of the predicted critical beta, two on either side
SEEDS = (0, 1, 2)
SAMPLES = 10_000
ACTIVE = 0.01  # variance of the posterior's mean, latent units^2
NETWORKS = {"linear": Architecture(), "mlp": Architecture("mlp", hidden=32)}
CONFIG = TrainConfig(steps=2000, batch_size=256, learning_rate=1e-2)
PRICES = (  # data, network, latent_dim
    ("gaussian", "linear", 4),
    ("gaussian", "linear", 2),
    ("gaussian", "mlp", 4),
    ("gaussian", "mlp", 2),
    ("curved", "mlp", 4),
)


def losses() -> list[LatentReconstruction]:
    """Every gamma and source; without the loss there is no source to tell apart."""
    return [
        LatentReconstruction(weight, source)
        for weight, source in product(WEIGHTS, SOURCES)
        if weight or source == SOURCES[0]
    ]


def data_of(name: str, n_samples: int = SAMPLES) -> TrainingData:
    """ "gaussian", "curved", or "mode", one direction of variance 1."""
    if name == "mode":
        target = gaussian((1.0,), n_samples, seed=1).target
    else:
        target = gaussian(SPECTRUM, n_samples, seed=1).target
    if name == "curved":
        h, *rest = np.random.default_rng(1).standard_normal((3, n_samples))
        target = np.stack([2 * h, h**2 - 1, rest[0], math.sqrt(0.5) * rest[1]], axis=1)
    return TrainingData.from_arrays(target.astype(np.float32))


def trained(
    data: TrainingData,
    latent_dim: int,
    network: str,
    members: Sequence[tuple[float, LatentReconstruction]],
    config: TrainConfig,
    store: CellStore | None,
) -> Trained:
    """A stack of all seeds, one point for every (beta, loss)."""
    spec = VAESpec(latent_dim)
    points = [
        Remedy(beta, latent_reconstruction=loss if loss.weight else None) for beta, loss in members
    ]
    return train_cells(
        spec,
        data,
        points=points,
        kl_weight=lambda points, n: RemedyBetas(points, spec.betas, n, data.target.device),
        config=config,
        architecture=NETWORKS[network],
        seeds=SEEDS,
        store=store,
    )


# --- thresholds -----------------------------------------------------------------------------------


def threshold_rows(
    network: str, config: TrainConfig = CONFIG, store: CellStore | None = None
) -> Iterator[Row]:
    """Of one mode: variances beside the threshold, and where their line ends."""
    data, every = data_of("mode"), losses()
    predicted = [float(reconstruction_critical_beta(1.0, loss, **UNITS)) for loss in every]
    members = [(f * b, loss) for b, loss in zip(predicted, every, strict=True) for f in FACTORS]
    found = trained(data, 1, network, members, config, store)
    variances = posteriors(found.model, data).mean[..., 0].var(dim=-1, correction=0).numpy()
    shares, spread = explained(found.model, data), decoded_deviation(found.model)
    for i, (critical, loss) in enumerate(zip(predicted, every, strict=True)):
        betas = critical * np.array(FACTORS)
        rests = [reconstruction_rest(1.0, loss, beta=b, **UNITS) for b in betas]
        expected = [float(rest.mean_variances) for rest in rests]
        members_of_it = slice(len(FACTORS) * i, len(FACTORS) * (i + 1))
        for s, seed in enumerate(SEEDS):
            seen = variances[s, members_of_it]
            yield {
                "network": network, "gamma": loss.weight, "source": loss.source, "seed": seed,
                "predicted_critical_beta": critical,
                "predicted_by_line": end_of_line(betas, expected),
                "critical_beta": end_of_line(betas, seen),
                "predicted_mean_variances": _five(expected),
                "mean_variances": _five(seen),
                "predicted_explained": _five([1 - float(rest.lost) ** 2 for rest in rests]),
                "explained": _five(shares[s, members_of_it]),
                "predicted_decoded_deviation": _five([float(rest.decoder) for rest in rests]),
                "decoded_deviation": _five(spread[s, members_of_it]),
            }  # fmt: skip


@torch.no_grad()
def explained(model: StackedVAE, data: TrainingData) -> Array:
    """1 - E|y - g(mean of q)|^2/E|y|^2 of centred data, (n_seeds, n_points)."""
    y = data.target[:]
    left = (y - model.decode(posteriors(model, data).mean.float(), None)).square().sum(-1).mean(-1)
    return np.asarray(1 - left / y.square().sum(-1).mean(), dtype=np.float64)


@torch.no_grad()
def decoded_deviation(model: StackedVAE) -> Array:
    """Of g(z) with z of the prior, all directions together, (n_seeds, n_points)."""
    decoded = model.decode(_of_all(model, prior_latents(model, SAMPLES, seed=0)), None)
    return np.asarray(decoded.var(dim=2, correction=0).sum(-1).sqrt(), dtype=np.float64)


@torch.no_grad()
def latent_errors(model: StackedVAE, data: TrainingData) -> dict[str, Array]:
    """E|mu(g(z)) - z|^2 by source of z, (n_seeds, n_points), latent units^2."""
    q, generator = posteriors(model, data), torch.Generator().manual_seed(0)
    noise = torch.randn(q.mean.shape[2:], generator=generator)
    drawn = {
        "prior": _of_all(model, prior_latents(model, SAMPLES, seed=0)),
        "posterior": q.sample(noise.to(q.mean)).float(),
    }
    found = {}
    for source, z in drawn.items():
        back = torch.cat([level.mean for level in reencoded(model, z, None)], dim=2)
        found[source] = (back - z).square().sum(-1).mean(-1).numpy()
    return found


def _of_all(model: StackedVAE, latents: torch.Tensor) -> torch.Tensor:
    return latents.expand(len(model.seeds), model.n_points, -1, -1)


def _five(values: Sequence[float] | Array) -> list[float]:
    return [round(float(v), 5) for v in values]


def end_of_line(betas: Sequence[float] | Array, variances: Sequence[float] | Array) -> float | None:
    """Where the line through the first two is 0; None where it does not fall."""
    (b, c), (v, w) = betas[:2], variances[:2]
    return float(c + w * (c - b) / (v - w)) if v > w else None


# --- rates, distortions, prices -------------------------------------------------------------------


def price_rows(
    data_name: str,
    network: str,
    latent_dim: int,
    config: TrainConfig = CONFIG,
    store: CellStore | None = None,
) -> Iterator[Row]:
    """Of one stack: every beta, loss and seed."""
    data, members = data_of(data_name), list(product(BETAS, losses()))
    found = trained(data, latent_dim, network, members, config, store)
    seen = observe(found.model, data, threshold=ACTIVE)
    errors = latent_errors(found.model, data)
    blown = {(b.seed, b.point) for b in found.result.blown_up}
    for i, (beta, loss) in enumerate(members):
        best = optimum(loss, beta, latent_dim)
        for s, seed in enumerate(SEEDS):
            rate, distortion = float(seen.rates[s, i, 0]), float(seen.distortion[s, i])
            penalty = loss.weight / 2 * float(errors[loss.source][s, i])
            yield {
                "data": data_name, "network": network, "latent_dim": latent_dim, "beta": beta,
                "gamma": loss.weight, "source": loss.source, "seed": seed,
                **_rounded("predicted_", float(best.rates_nats.sum()), best.distortion, latent_dim),
                "predicted_active_units": best.active_units(ACTIVE),
                "predicted_objective_nats": round(best.objective, 5),
                **_rounded("", rate, distortion, latent_dim),
                "active_units": int(seen.active_units[s, i, 0]),
                "objective_nats": round(distortion + beta * rate + penalty, 5),
                "blown_up": (seed, i) in blown,
            }  # fmt: skip


def optimum(loss: LatentReconstruction, beta: float, latent_dim: int) -> ReconstructionOptimum:
    """Of a linear VAE on this spectrum."""
    return reconstruction_optimum(SPECTRUM, loss, latent_dim=latent_dim, beta=beta, **UNITS)


def _rounded(prefix: str, rate: float, distortion: float, latent_dim: int) -> Row:
    price = distortion - least_distortion(rate, latent_dim)
    numbers = {"rate_nats": rate, "distortion_nats": distortion, "price_nats": price}
    return {prefix + name: round(value, 5) for name, value in numbers.items()}


def least_distortion(rate: float, latent_dim: int) -> float:
    """Of linear VAEs with that rate, nats."""
    level = water_level(SPECTRUM[:latent_dim], rate_nats=max(rate, 0.0))
    curve = rate_distortion_curve(SPECTRUM, level, latent_dim=latent_dim)
    s = UNITS["decoder_variance"]
    return len(SPECTRUM) / 2 * math.log(2 * math.pi * s) + float(curve.squared_errors[0]) / (2 * s)


# --- what was found -------------------------------------------------------------------------------


def summary(record: dict[str, Any]) -> str:
    """What holds of linear networks and what of MLPs, from the rows."""
    return f"{_linear(record)}\n\n{_mlp(record)}"


def _linear(record: dict[str, Any]) -> str:
    thresholds = [row for row in record["thresholds"] if row["network"] == "linear"]
    off = max(abs(row["critical_beta"] / row["predicted_by_line"] - 1) for row in thresholds)
    ends = [row for row in record["ends"] if row["network"] == "linear"]
    least = min(row["beta"] for row in ends)
    others = [row for row in ends if row["beta"] > least]
    equal = sum(row["active_units"] == row["predicted_active_units"] for row in ends)
    raised = max(row["predicted_critical_beta"] for row in thresholds)
    return (
        f"**Linear networks** are where theory has them. The threshold of a mode of variance 1, "
        f"raised up to {raised:.0f} times, is met within {off:.1%}; active units are those "
        f"predicted in {equal} of {len(ends)} trainings; rates within "
        f"{gap(others, 'rate_nats'):.3f} nats, {gap(ends, 'rate_nats'):.3f} at beta {least:g}, "
        f"where some have not settled after {CONFIG.steps} steps; distortions within "
        f"{gap(ends, 'distortion_nats'):.3f} nats."
    )


def gap(rows: Sequence[Row], key: str) -> float:
    """Largest distance from what is predicted."""
    return max(abs(row[key] - row[f"predicted_{key}"]) for row in rows)


def _mlp(record: dict[str, Any]) -> str:
    ends = [row for row in record["ends"] if row["network"] == "mlp" and row["data"] == "gaussian"]
    least = min(row["beta"] for row in ends)
    near = [row for row in ends if row["beta"] == least and row["latent_dim"] == len(SPECTRUM)]
    gains = [row["predicted_objective_nats"] - row["objective_nats"] for row in ends]
    plain = max(gain for gain, row in zip(gains, ends, strict=True) if not row["gamma"])
    more = sum(row["active_units"] > row["predicted_active_units"] for row in ends)
    units = [row for row in record["thresholds"] if row["network"] == "mlp" and row["gamma"] >= 0.2]
    known, own, spread = (
        [row[key][0] for row in units]
        for key in ("predicted_explained", "explained", "decoded_deviation")
    )
    return (
        f"**MLPs** on the same Gaussian data are there too at beta {least:g} (rates within "
        f"{gap(near, 'rate_nats'):.3f} nats, four units), and beyond do better than any linear VAE "
        f"can, by up to {max(gains):.2f} nats of the objective (without the loss {plain:.3f} at "
        "most). They give z back without the data: decoder and encoder share a code near the mean, "
        f"where few samples lie. One unit at {FACTORS[0]:g} of its threshold, gamma from 0.2, "
        f"decodes the prior to a deviation of {min(spread):.2f} to {max(spread):.2f} of the data's "
        f"and explains {min(own):.1%} to {max(own):.1%} of their variance (linear {min(known):.0%} "
        f"to {max(known):.0%}). Its mean varies enough to count as active: {more} of {len(ends)} "
        "trainings count more units than predicted. A unit that is active, and a rate, are no "
        "information."
    )


# --- command line ---------------------------------------------------------------------------------


def stacks(store: CellStore | None) -> dict[str, list[Callable[[], Iterator[Row]]]]:
    """Rows of every part of the JSON, a stack at a time."""

    def threshold(network: str) -> Callable[[], Iterator[Row]]:
        return lambda: threshold_rows(network, store=store)

    def price(case: tuple[str, str, int]) -> Callable[[], Iterator[Row]]:
        return lambda: price_rows(*case, store=store)

    return {
        "thresholds": [threshold(network) for network in NETWORKS],
        "ends": [price(case) for case in PRICES],
    }


def main() -> None:
    """Measure all or one part; the rows are written after every stack."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=tuple(stacks(None)), help="measure this part again")
    parser.add_argument("--members", type=Path, help="keep finished members in this folder")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    record = json.loads(args.out.read_text()) if args.out.exists() else {}
    record["versions"] = {
        "linvae": linvae.__version__, "numpy": np.__version__, "torch": torch.__version__,
    }  # fmt: skip
    store = None if args.members is None else CellStore(args.members)
    for part, every in stacks(store).items():
        if args.only in (None, part):
            rows: list[Row] = []
            for one in every:
                rows += one()
                print(f"{part}: {len(rows)} rows", flush=True)
                write_text(args.out, lines({**record, part: rows}))
            record[part] = rows


def lines(record: dict[str, Any]) -> str:
    """JSON with a line for every row."""
    shown = ",\n".join(
        f" {json.dumps(name)}: "
        + (
            "[\n" + ",\n".join(f"  {json.dumps(row)}" for row in value) + "\n ]"
            if isinstance(value, list)
            else json.dumps(value)
        )
        for name, value in record.items()
    )
    return f"{{\n{shown}\n}}\n"


if __name__ == "__main__":
    main()
