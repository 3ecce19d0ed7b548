"""Escape from collapse, measured in the training engine, against theory: rates, times, cost.

    python -m analysis.escape_rates [--only PART] [--out FILE]       writes escape_rates.json

`rates`: linear VAEs of one unit on Gaussian data of exact moments, all samples in every batch,
gradient descent without momentum, in float64. The start lies on the leading mode and is so small
that the part of it that grows holds `FIRST` of the optimum's nats. A step of flow time h multiplies
that part by 1 + h * rate, whatever h, so the slope of log(KL)/2 per step gives the rate without a
discretisation error. It is taken between `LOW` and `HIGH` of the optimum's KL K*: what decays has
lost a further LOW/FIRST by then, and saturation K = G/(1 + G/K*) flattens the slope by
HIGH/log(HIGH/LOW) = 0.2 %. "aggressive": the inner loop has as many steps as bring the rate within
`LAG` of its limit.

**Inner loops of finite length.** At the collapsed point one step of the encoder and one of the
decoder are, with the symbols of `linvae.theory.mode_system`,

    E: lambda <- lambda + h rho (theta u/s - beta lambda/eta^2)
    D: u      <- u      + h (theta lambda/s - eta^2 u/s)

and m steps of the encoder before each of the decoder grow as the largest eigenvalue of D E^m. For
small h that is the flow with m rho in the place of rho: **an inner loop of m steps is an encoder
with m times the learning rate.** growth(m rho) <= m growth(rho), the maximum of
c/(y1^2 + y2^2/rho) over directions y, so m + 1 passes gain less than m joint ones: where a pass of
the encoder alone costs as much as a joint one, as in this engine, no inner loop pays in a linear
VAE. It pays where the encoder's pass costs less than `break_even` of a joint one.

`inner_loops`: the published rule, windows of 10 steps and at most 99, on minibatches and on all
samples. Averages over windows of minibatches near collapse differ by noise alone; the first of
independent ones that is above the one before is number e on average, so a loop takes
10 e = 27.2 steps whatever beta. Without noise the loss falls until rounding, or the cap, ends it.
`break_even`: see above; costs and gains are ratios of aggressive and joint runs until the escape.

`rates` has the steps until KL = `EPSILON` too, `networks` those of networks
(`analysis.network_escape`). `units`: several units on one spectrum. `adam`: the published
optimiser, for information: its clock is another one.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import linvae
from linvae import VAESpec
from linvae.comparison import write_text
from linvae.data import gaussian, load_dataset
from linvae.models import StackedVAE, build_model
from linvae.theory.dynamics import escape_rates
from linvae.theory.finite_training import escape_times
from linvae.theory.mode_system import ModeSystem, Update, mode_system
from linvae.train import Aggressive, Remedy, RemedyBetas, TrainConfig, TrainingData, TrainResult
from linvae.train import train as train_stack

Array = npt.NDArray[np.float64]

FIRST, LOW, HIGH = 1e-6, 1e-4, 1e-2  # of the optimum's KL
EPSILON = 0.01  # nats: a unit that holds more has escaped
LAG = 0.005  # of the rate, what an inner loop may leave
STEP = 0.2  # largest growth of the weights in a step of the decoder
RATE = 0.5  # largest learning rate times the steepest curvature: 2 diverges
MARGIN = 1.3  # steps beyond the predicted ones
N_SAMPLES = 64
DESCENT = TrainConfig(optimizer="sgd", momentum=0.0, schedule="constant", log_every=1)


@dataclass(frozen=True)
class Setting:
    """One linear VAE of one unit.

    | field     | meaning                                        | unit           |
    |-----------|------------------------------------------------|----------------|
    | spectrum  | eigenvalues of the covariance, the first leads | data units^2   |
    | s, eta2   | variances of the decoder and of the prior      | data units^2, latent units^2 |
    | ratio     | beta over the critical one                     | -              |
    | update    | "joint" or "aggressive"                        | -              |
    """

    spectrum: tuple[float, ...]
    s: float
    eta2: float
    ratio: float
    update: Update

    @property
    def share(self) -> float:
        """theta^2 of the leading mode in the scaled data: its share of the variance."""
        return self.spectrum[0] / sum(self.spectrum)

    @property
    def scaled_s(self) -> float:
        """s in the scaled data."""
        return self.s / sum(self.spectrum)

    @property
    def beta(self) -> float:
        """ratio * theta^2/s."""
        return self.ratio * self.spectrum[0] / self.s

    @property
    def _setting(self) -> dict[str, Any]:
        """The leading mode's as `linvae.theory.dynamics` takes it, in the scaled data."""
        return {
            "beta": self.beta,
            "decoder_variance": self.scaled_s,
            "prior_variance": self.eta2,
            "update": self.update,
        }

    @property
    def final(self) -> float:
        """KL at the optimum, nats."""
        return -math.log(self.ratio) / 2

    @property
    def system(self) -> ModeSystem:
        """The flow of the leading mode in the parameters of the stack."""
        return mode_system([self.share], self.scaled_s, self.eta2, self.update, "raw")

    @property
    def rate(self) -> float:
        """Predicted growth, per unit of flow time."""
        return float(escape_rates([self.share], **self._setting)[0])

    @property
    def learning_rate(self) -> float:
        """In units of 1/curvature: neither a step nor a growth that is too large."""
        steepest = max(self.eta2, self.share**2 / self.eta2)  # of the decoder, of the encoder
        return min(RATE / steepest, STEP / (self.rate * self.scaled_s))

    @property
    def flow_step(self) -> float:
        """h, the flow time of one step."""
        return self.learning_rate * self.scaled_s

    @property
    def inner_steps(self) -> int:
        """Steps of the encoder that bring the rate within `LAG` of the limit; 0: joint."""
        if self.update == "joint":
            return 0
        closed, most = self.rate, 1
        while inner_loop_rate(self, most) < (1 - LAG) * closed:
            most = math.ceil(1.1 * most)
        return most

    @property
    def start(self) -> float:
        """u = w at time 0."""
        beta, one = np.array([self.beta]), np.ones((1, 3))
        one[0, 1] = math.sqrt(self.share)  # lambda = theta w
        grown = float(self.system.growing_rate(one, beta)[0])
        return math.sqrt(FIRST * self.final / grown)

    @property
    def time(self) -> float:
        """Predicted flow time until KL = `EPSILON`."""
        times = escape_times(
            [self.share], **self._setting, start_weights=self.start, epsilon_nats=EPSILON
        )
        return float(times[0])

    @property
    def discrete_steps(self) -> float:
        """The same in steps, each of which multiplies the growing part by 1 + h * rate."""
        return self.time * self.rate / math.log1p(self.flow_step * self.rate)


FAMILIES = (  # spectrum, s, eta^2; the leading mode has 100 %, 50 %, 25 % and 10 % of the variance
    ((1.0,), 1.0, 1.0),
    ((4.0, 2.0, 1.0, 1.0), 1.0, 0.7),
    ((0.02,) + (0.01,) * 6, 0.1, 0.15),
    ((10.0,) + (6.0,) * 15, 2.0, 0.05),
)
RATIOS = (0.3, 0.5, 0.7, 0.85, 0.95)
LAGGING = (((1.0,) + (0.75,) * 32, 0.25, 0.1), ((10.0,) + (6.0,) * 15, 2.0, 0.4))
SLOW_RATIOS = (0.3, 0.5, 0.7)


def all_settings() -> list[Setting]:
    """Joint and aggressive.

    Where the encoder lags far behind (rho beta s/eta^4 small) joint only: an inner loop would take
    thousands of steps.
    """
    updates: tuple[Update, ...] = ("joint", "aggressive")
    both = [Setting(*f, r, update) for update in updates for f in FAMILIES for r in RATIOS]
    return both + [Setting(*f, r, "joint") for f in LAGGING for r in SLOW_RATIOS]


# --- theory of inner loops of finite length -------------------------------------------------------


def inner_loop_rate(setting: Setting, inner_steps: int) -> float:
    """Growth rate at collapse with that many encoder steps before each step of the decoder.

    (largest eigenvalue of D E^m - 1)/h, see the module. Without end it is the aggressive rate.
    """
    h, s, eta2 = setting.flow_step, setting.scaled_s, setting.eta2
    theta, rho = math.sqrt(setting.share), setting.share
    encoder = np.array([[1.0, 0.0], [h * rho * theta / s, 1 - h * rho * setting.beta / eta2]])
    decoder = np.array([[1 - h * eta2 / s, h * theta / s], [0.0, 1.0]])
    loop = decoder @ np.linalg.matrix_power(encoder, inner_steps)
    return float(np.max(np.linalg.eigvals(loop).real) - 1) / h


# --- measurement ----------------------------------------------------------------------------------


def growth_per_step(steps: npt.ArrayLike, rates: npt.ArrayLike, final: float) -> float:
    """Slope of log(KL)/2 per step between `LOW` and `HIGH` of `final`, by least squares.

    Raises ValueError where fewer than three rows lie between them.
    """
    n, k = np.asarray(steps, dtype=float), np.asarray(rates, dtype=float)
    seen = (k > LOW * final) & (k < HIGH * final)
    if seen.sum() < 3:
        raise ValueError(
            f"{seen.sum()} rows have a KL between {LOW:g} and {HIGH:g} of {final:.3g} nats but a "
            "slope needs 3: train longer, or with a smaller learning rate"
        )
    return float(np.polyfit(n[seen], np.log(k[seen]) / 2, 1)[0])


def passage(steps: npt.ArrayLike, rates: npt.ArrayLike, level: float = EPSILON) -> float:
    """Steps until KL first exceeds `level`, log-linear between rows; infinite: never."""
    n, k = np.asarray(steps, dtype=float), np.asarray(rates, dtype=float)
    above = np.flatnonzero(k > level)
    if not len(above) or above[0] == 0:
        return math.inf if not len(above) else float(n[0])
    before, after = above[0] - 1, above[0]
    part = math.log(level / k[before]) / math.log(k[after] / k[before])
    return float(n[before] + part * (n[after] - n[before]))


def decoder_rows(result: TrainResult, point: int = 0) -> tuple[Array, Array]:
    """Steps of the decoder of a point and the KL in each of them, nats."""
    found: dict[int, float] = {}
    for row in result.history:
        if row["point"] == point:
            found.setdefault(int(row["step"]), row["rate_nats"])
    return np.array(list(found), dtype=float), np.array(list(found.values()))


def exact_data(setting: Setting, n_samples: int = N_SAMPLES) -> TrainingData:
    """Gaussian samples of exactly that spectrum, float64."""
    sample = gaussian(setting.spectrum, n_samples, seed=1).target.astype(np.float64)
    return TrainingData(torch.as_tensor(sample - sample.mean(axis=0)), None)


def collapsed_stack(setting: Setting, data: TrainingData, n_points: int = 1) -> StackedVAE:
    """A stack of one unit with u and w of size `start` on the leading mode, and v = eta^2."""
    spec = VAESpec(1, decoder_variance=setting.s, prior_variance=setting.eta2)
    model = build_model(spec, data.target, n_points=n_points).to(data.target.dtype)
    target = np.asarray(data.target, dtype=np.float64)
    leading = torch.as_tensor(np.linalg.eigh(target.T @ target)[1][:, -1])
    with torch.no_grad():
        model.decoders[0].weight.copy_(setting.start * leading[:, None])
        model.encoders[0].weight.copy_(setting.start * leading[None])
        model.log_variances[0].fill_(math.log(setting.eta2))
    return model


def run(
    setting: Setting, data: TrainingData, inner: Aggressive | None, **options: Any
) -> tuple[TrainResult, StackedVAE]:
    """Train one member for `MARGIN` times the predicted steps; `options` of TrainConfig."""
    model = collapsed_stack(setting, data)
    weight = RemedyBetas(
        [Remedy(beta=setting.beta, aggressive=inner)], (1.0,), 1, data.target.device
    )
    steps = math.ceil(MARGIN * setting.discrete_steps)
    config = replace(
        DESCENT, steps=steps, batch_size=len(data), learning_rate=setting.learning_rate, **options
    )
    return train_stack(model, data, weight, config), model


def measure(setting: Setting) -> dict[str, Any]:
    """Rate and time of one run, against theory."""
    m = setting.inner_steps
    inner = Aggressive(window=m, most_steps=m, falls=None) if m else None
    result, _ = run(setting, exact_data(setting), inner)
    steps, rates = decoder_rows(result)
    measured = math.expm1(growth_per_step(steps, rates, setting.final)) / setting.flow_step
    seen = passage(steps, rates)
    return {
        "update": setting.update,
        "share": setting.share,
        "dim": len(setting.spectrum),
        "decoder_variance": setting.s,
        "prior_variance": setting.eta2,
        "beta_over_critical": setting.ratio,
        "learning_rate": setting.learning_rate,
        "inner_steps": m,
        "predicted_rate": setting.rate,
        "measured_rate": measured,
        "measured_over_predicted": measured / setting.rate,
        "growth_of_a_step": setting.flow_step * setting.rate,
        "predicted_steps": setting.time / setting.flow_step,
        "predicted_steps_discrete": setting.discrete_steps,
        "measured_steps": seen,
        "passes": seen * (m + 1),
        "seconds": round(result.seconds, 2),
    }


# --- inner loops as published ---------------------------------------------------------------------

LOOP_SPECTRUM, LOOP_S, LOOP_ETA2 = (4.0, 2.0, 1.0, 1.0), 1.0, 1.0
LOOP_SAMPLES, LOOP_BATCH = 2000, 50
LOOP_RATIOS = (0.3, 0.5, 0.7, 0.85)
LOOP_RATE, LOOP_WINDOW, LOOP_MOST = 0.4, 10, 99
BY_CHANCE = LOOP_WINDOW * math.e


@dataclass(frozen=True)
class Loop(Setting):
    """A setting with the learning rate of the inner loops, the same at every beta."""

    @property
    def learning_rate(self) -> float:
        """`LOOP_RATE`."""
        return LOOP_RATE


def loop_stack(update: Update, batch: int, dtype: torch.dtype) -> tuple[TrainResult, list[Loop]]:
    """All ratios in one stack, joint or with inner loops by the published rule."""
    settings = [Loop(LOOP_SPECTRUM, LOOP_S, LOOP_ETA2, r, update) for r in LOOP_RATIOS]
    exact = exact_data(settings[0], LOOP_SAMPLES)
    data = TrainingData(exact.target.to(dtype), None)
    model = collapsed_stack(settings[0], data, len(settings))
    for point, setting in enumerate(settings):  # every point with its own start
        for p in (model.encoders[0].weight, model.decoders[0].weight):
            p.data[:, point] *= setting.start / settings[0].start
    inner = Aggressive(LOOP_WINDOW, LOOP_MOST, falls=None) if update == "aggressive" else None
    weight = RemedyBetas(
        [Remedy(beta=s.beta, aggressive=inner) for s in settings], (1.0,), 1, data.target.device
    )
    slowest = settings[-1]  # of a finite loop: slower than the limit
    rate = min(slowest.rate, inner_loop_rate(slowest, 15)) if inner else slowest.rate
    steps = MARGIN * slowest.time * slowest.rate / math.log1p(slowest.flow_step * rate)
    config = replace(DESCENT, steps=math.ceil(steps), batch_size=batch, learning_rate=LOOP_RATE)
    return train_stack(model, data, weight, config), settings


def loop_rows() -> Iterator[dict[str, Any]]:
    """Length of the loops, rates and cost of an escape, at every ratio."""
    for batch, dtype in ((LOOP_BATCH, torch.float64), (LOOP_SAMPLES, torch.float32)):
        joint, settings = loop_stack("joint", batch, dtype)
        loops, _ = loop_stack("aggressive", batch, dtype)
        for point, setting in enumerate(settings):
            yield _loop_row(joint, loops, setting, point, batch, dtype)


def _loop_row(
    joint: TrainResult,
    loops: TrainResult,
    setting: Loop,
    point: int,
    batch: int,
    dtype: torch.dtype,
) -> dict[str, Any]:
    seen = {}
    for name, result in (("joint", joint), ("aggressive", loops)):
        steps, rates = decoder_rows(result, point)
        escaped = passage(steps, rates)
        seen |= {f"{name}_steps": escaped, f"{name}_nats": float(rates[-1])}
    mean, spread = loop_length(loops, point, seen["aggressive_steps"])
    together = replace(setting, update="joint").rate
    looped = inner_loop_rate(setting, round(mean))
    gain = math.log1p(setting.flow_step * looped) / math.log1p(setting.flow_step * together)
    passes = seen["aggressive_steps"] * (mean + 1)
    per_pass = {"joint": joint.seconds / joint.steps, "aggressive": _seconds_per_pass(loops)}
    return {
        "beta_over_critical": setting.ratio, "batch_size": batch, "dtype": str(dtype)[6:],
        "encoder_steps_per_decoder_step": mean, "standard_deviation": spread,
        "by_chance": BY_CHANCE,
        "predicted_gain_in_decoder_steps": gain,
        "measured_gain_in_decoder_steps": seen["joint_steps"] / seen["aggressive_steps"],
        "predicted_cost_in_passes": (mean + 1) / gain,
        "measured_cost_in_passes": passes / seen["joint_steps"],
        "break_even": (gain - 1) / mean,
        "seconds_joint": seen["joint_steps"] * per_pass["joint"],
        "seconds_aggressive": passes * per_pass["aggressive"],
    } | seen  # fmt: skip


def loop_length(result: TrainResult, point: int, until: float) -> tuple[float, float]:
    """Passes of the encoder alone per decoder step until the escape: mean, standard deviation."""
    counts: dict[int, int] = {}
    for row in result.history:
        if row["point"] == point and row["step"] < until - 1:
            counts[int(row["step"])] = counts.get(int(row["step"]), 0) + 1
    lengths = np.array(list(counts.values())[1:]) - 1.0  # a row is the decoder's own
    return float(lengths.mean()), float(lengths.std())


def _seconds_per_pass(result: TrainResult) -> float:
    encoder, decoder = (result.counts[f"{side}_steps"] for side in ("encoder", "decoder"))
    return result.seconds / float((encoder + decoder).max())


# --- several units, and Adam ----------------------------------------------------------------------

UNITS = 3


def unit_row(ratio: float, update: Update) -> dict[str, Any]:
    """Rate of a stack of `UNITS` units that start where the engine draws them, scaled down."""
    setting = Setting(*FAMILIES[1], ratio, update)
    data, m = exact_data(setting, 16 * N_SAMPLES), setting.inner_steps
    spec = VAESpec(UNITS, decoder_variance=setting.s, prior_variance=setting.eta2)
    model = build_model(spec, data.target).to(torch.float64)
    with torch.no_grad():
        for p in (model.encoders[0].weight, model.decoders[0].weight):
            p *= 0.1 * setting.start / p.norm()
        model.log_variances[0].fill_(math.log(setting.eta2))
    inner = Aggressive(m, m, None) if m else None
    weight = RemedyBetas(
        [Remedy(beta=setting.beta, aggressive=inner)], (1.0,), 1, data.target.device
    )
    steps = math.ceil(2 * setting.discrete_steps)
    rate = setting.learning_rate
    config = replace(DESCENT, steps=steps, batch_size=len(data), learning_rate=rate)
    result = train_stack(model, data, weight, config)
    measured = math.expm1(growth_per_step(*decoder_rows(result), setting.final)) / setting.flow_step
    return {
        "update": update, "units": UNITS, "beta_over_critical": ratio,
        "predicted_rate": setting.rate, "measured_rate": measured,
        "measured_over_predicted": measured / setting.rate,
    }  # fmt: skip


ADAM = TrainConfig(batch_size=50, learning_rate=1e-3, schedule="constant", log_every=1)
ADAM_RATIOS, ADAM_STEPS = (0.3, 0.5, 0.7, 0.85), {"joint": 2500, "aggressive": 250}


def adam_rows() -> Iterator[dict[str, Any]]:
    """Steps and passes to escape on digits, linear, from a tenth of the engine's start."""
    data = TrainingData.from_arrays(load_dataset("digits").target)
    target = np.asarray(data.target, dtype=np.float64)
    critical = float(np.linalg.eigvalsh(target.T @ target / len(target))[-1])
    for update, steps in ADAM_STEPS.items():
        inner = Aggressive(falls=None) if update == "aggressive" else None
        model = build_model(
            VAESpec(1, decoder_variance=1.0), data.target, n_points=len(ADAM_RATIOS)
        )
        with torch.no_grad():
            for p in model.parameters():
                p *= 0.1
        remedies = [Remedy(beta=r * critical, aggressive=inner) for r in ADAM_RATIOS]
        weight = RemedyBetas(remedies, (1.0,), 1, data.target.device)
        result = train_stack(model, data, weight, replace(ADAM, steps=steps))
        for point, ratio in enumerate(ADAM_RATIOS):
            seen = passage(*decoder_rows(result, point))
            mean = loop_length(result, point, seen)[0] if inner else 0.0
            yield {
                "update": update, "beta_over_critical": ratio, "measured_steps": seen,
                "encoder_steps_per_decoder_step": mean, "passes": seen * (mean + 1),
            }  # fmt: skip


def sections() -> dict[str, Iterator[dict[str, Any]]]:
    """Rows of every part of the JSON, measured as they are asked for."""
    from analysis import network_escape

    units = (unit_row(r, u) for u in ("joint", "aggressive") for r in (0.7, 0.85))
    return {
        "rates": map(measure, all_settings()),
        "units": units,
        "inner_loops": loop_rows(),
        "adam": adam_rows(),
        "networks": network_escape.rows(),
    }


def main() -> None:
    """Measure all or one part, print every row and the worst ratio, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--only", choices=tuple(sections()), help="measure this part again")
    args = parser.parse_args()
    record = json.loads(args.out.read_text()) if args.only and args.out.exists() else {}
    record["settings"] = {
        "first": FIRST, "low": LOW, "high": HIGH, "epsilon_nats": EPSILON, "lag": LAG,
        "n_samples": N_SAMPLES, "loop_samples": LOOP_SAMPLES, "loop_learning_rate": LOOP_RATE,
        "versions": {
            "linvae": linvae.__version__, "numpy": np.__version__, "torch": torch.__version__,
        },
    }  # fmt: skip
    for name, rows in sections().items():
        if args.only in (None, name):
            record[name] = []
            for row in rows:
                record[name].append(_finite(row))
                print(json.dumps(record[name][-1]), flush=True)
                write_text(args.out, json.dumps(record, indent=1) + "\n")
    gaps = [abs(row["measured_over_predicted"] - 1) for row in record.get("rates", ())]
    print(f"{len(gaps)} rates, largest deviation {max(gaps, default=math.nan):.2%}")


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no infinity: null."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


if __name__ == "__main__":
    main()
