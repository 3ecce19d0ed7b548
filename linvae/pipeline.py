"""From a dataset and a spec to a `Comparison`: the steps that `compare` runs, one function each.

Prediction and observation meet here for the first time; no formula of either stands here.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

import linvae
from linvae.comparison import Comparison, Row
from linvae.data import Dataset
from linvae.metrics import (
    CONTROL_BATCH_SIZE,
    SET_POINTS,
    Observation,
    ThresholdEstimate,
    estimate_threshold,
    fit_threshold,
    observe,
)
from linvae.models import Architecture, build_model
from linvae.moments import Moments
from linvae.spec import CVAESpec, HVAESpec, LinearSpec, VAESpec
from linvae.theory import Solution, solve
from linvae.theory.control import factor_at_information
from linvae.theory.modes import mode_decomposition
from linvae.theory.network_bounds import network_bounds
from linvae.theory.observables import active_unit_counts, collapsed_unit_counts, units_above
from linvae.train import ConstantBetas, TrainConfig, TrainingData, pick_device, train

__all__ = ["Plan", "default_spec", "make_plan", "run_comparison"]

SWEEP = (0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0, 1.15)  # x the predicted threshold of level 1
CURVE_POINTS = 120
SPECTRUM_ROWS = 50
NETWORK_RATE = {"sweep": 1 / 3, "control": 2 / 3}  # of the learning rate of linear models
EPSILON, DELTA, ACTIVE = 0.01, 0.01, 0.01
CUTOFF = 0.05  # nats, of units that count as alive by their KL

Progress = Callable[[str, int, int], None]  # what, steps done, steps in all


@dataclass(frozen=True)
class Plan:
    """Everything about a run that is neither data nor spec."""

    architectures: tuple[str, ...] = ("linear", "mlp")
    hidden: int = 64
    seeds: tuple[int, ...] = (0, 1, 2)
    device: str = "auto"
    config: TrainConfig = field(default_factory=TrainConfig)
    bracket: bool = True  # two branches for every threshold, about the cost of its control runs
    check_convergence: bool = False  # control runs again with twice the steps: three times the cost
    command: str = ""

    def network(self, architecture: str) -> Architecture:
        """The named architecture with the sizes of the plan."""
        return Architecture(architecture, hidden=self.hidden)

    def config_for(self, architecture: str, level: int = 0) -> TrainConfig:
        """Config of the sweep (level 0) or of the control runs of a level.

        Upper levels learn after the ones below them: `level` times the steps.
        """
        config = self.config
        if level:
            config = replace(config, steps=level * config.steps, batch_size=CONTROL_BATCH_SIZE)
        if architecture == "linear":
            return config
        share = NETWORK_RATE["control" if level else "sweep"]
        return replace(config, learning_rate=share * config.learning_rate)


def make_plan(
    *,
    architectures: tuple[str, ...] = ("linear", "mlp"),
    hidden: int = 64,
    n_seeds: int = 3,
    device: str = "auto",
    effort: float = 1.0,
    bracket: bool = True,
    check_convergence: bool = False,
    command: str = "",
) -> Plan:
    """A plan with seeds 0, 1, ... and `effort` times the default number of steps."""
    config = TrainConfig()
    config = replace(config, steps=max(config.log_every, round(config.steps * effort)))
    return Plan(
        architectures, hidden, tuple(range(n_seeds)), device, config, bracket, check_convergence,
        command,
    )  # fmt: skip


def default_spec(model: str, latent_dim: int, decoder_variance: float) -> LinearSpec:
    """The spec that `compare --model` stands for.

    hvae: two levels as published (p(z_1|z_2) has the decoder variance), the encoder variance of
    level 1 fixed at half the decoder variance, that of level 2 learned: then the two levels
    collapse at different betas, a factor 4 apart.
    """
    if model == "vae":
        return VAESpec(latent_dim, decoder_variance=decoder_variance)
    if model == "cvae":
        return CVAESpec(latent_dim, decoder_variance=decoder_variance)
    if model == "hvae":
        return HVAESpec.markovian(
            (latent_dim, latent_dim),
            decoder_variance=decoder_variance,
            encoder_variances=(decoder_variance / 2, None),
        )
    raise ValueError(f"model={model!r} must be one of vae, cvae, hvae")


def run_comparison(
    dataset: Dataset, spec: LinearSpec, plan: Plan, progress: Progress | None = None
) -> Comparison:
    """Predict, train, observe and join: the whole path of the package."""
    start = time.perf_counter()
    seconds: dict[str, float] = {}
    reduced = dataset.rotated_to_span()
    moments = Moments.from_data(reduced.target, reduced.condition)
    seconds["moments"] = time.perf_counter() - start
    solution = _checked(solve(spec, moments), dataset)
    rows = list(_theory_rows(spec, moments, solution))
    bounds = network_bounds(spec, reduced.target, reduced.condition)
    if bounds:
        beta = bounds.found
        rows.append(Row("universal_beta", "theory", 1, 0, math.nan, math.nan, -1, beta, math.nan))
    seconds["theory"] = time.perf_counter() - start - seconds["moments"]
    device = pick_device(plan.device)
    data = TrainingData.from_arrays(reduced.target, reduced.condition, device=device)
    estimates: list[dict[str, object]] = []
    for architecture in plan.architectures:
        begin = time.perf_counter()
        for estimate, predicted in _estimates(spec, moments, data, architecture, plan, progress):
            rows += _threshold_rows(estimate, predicted, spec, moments, architecture)
            estimates += _estimate_records(estimate, spec, architecture)
        rows += _sweep_rows(spec, moments, solution, data, architecture, plan, progress)
        seconds[architecture] = time.perf_counter() - begin
    seconds["total"] = time.perf_counter() - start
    settings = _settings(dataset, reduced, spec, plan, str(device), seconds)
    settings["betas_swept"] = _sweep_betas(spec, solution)
    settings["estimates"] = estimates
    settings["bounds_of_any_network"] = bounds and dict(vars(bounds))
    settings["leading_skewness"] = _leading_skewness(reduced, moments, spec)
    return Comparison(settings, tuple(rows))


def _checked(solution: Solution, dataset: Dataset) -> Solution:
    """Refuse data whose first mode has nothing to explain: there is no threshold to observe."""
    if solution.critical_beta[0] > 0:
        return solution
    if math.isnan(solution.critical_beta[0]):
        raise ValueError(
            "decoder_variance='learned' has no threshold in beta alone: the decoder variance moves "
            "with beta; give a fixed decoder_variance to compare thresholds"
        )
    raise ValueError(
        f"the condition explains the target of dataset {dataset.name!r} exactly "
        f"(n_samples={dataset.n_samples}, condition_dim={dataset.condition_dim}): every mode "
        "variance is 0 and the model is collapsed at any beta; use more samples than condition "
        "dimensions, a smaller condition, or --model vae"
    )


def _theory_rows(spec: LinearSpec, moments: Moments, solution: Solution) -> Iterator[Row]:
    """Mode variances, and curves over beta."""
    for i, variance in enumerate(solution.mode_variances[:SPECTRUM_ROWS]):
        yield Row("mode_variance", "theory", 0, i + 1, math.nan, math.nan, -1, variance, math.nan)
    low, high = 0.5 * min(SWEEP), 1.15 * max(SWEEP)
    for factor in solution.critical_beta[0] / spec.betas[0] * np.geomspace(low, high, CURVE_POINTS):
        scaled = spec.scale_betas(float(factor))
        at_beta = solve(scaled, moments)
        for quantity, values in _predictions(scaled, at_beta).items():
            for level, value in enumerate(values, start=1):
                yield Row(
                    quantity, "theory", level, 0, scaled.betas[0], math.nan, -1, value, math.nan
                )


def _predictions(spec: LinearSpec, solution: Solution) -> dict[str, npt.NDArray[np.float64]]:
    """Predicted value of every quantity with one number per level."""
    return {
        "rate_nats": solution.rates,
        "information_nats": solution.information.sum(axis=1),
        "active_units": active_unit_counts(solution, ACTIVE).astype(float),
        "collapsed_units": collapsed_unit_counts(spec, solution, EPSILON, DELTA).astype(float),
    }


def _estimates(
    spec: LinearSpec,
    moments: Moments,
    data: TrainingData,
    architecture: str,
    plan: Plan,
    progress: Progress | None,
) -> Iterator[tuple[ThresholdEstimate | int, float]]:
    """Observed and predicted threshold of every level; the level alone where there is none."""
    one = spec.with_one_unit()
    critical = solve(one, moments).level_critical_betas[:, 0]
    for level, predicted in enumerate(critical, start=1):
        if not 0 < predicted < math.inf:  # never, or always alive: there is nothing to locate
            yield level, float(predicted)
            continue
        config = plan.config_for(architecture, level)
        estimate = estimate_threshold(
            one,
            data,
            architecture=plan.network(architecture),
            level=level,
            seeds=plan.seeds,
            config=config,
            bracket=plan.bracket,
            check_convergence=plan.check_convergence,
            progress=_named(progress, f"{architecture}: threshold of level {level}", config.steps),
        )
        yield estimate, float(predicted)


def _estimate_records(
    estimate: ThresholdEstimate | int, spec: LinearSpec, architecture: str
) -> list[dict[str, object]]:
    """Every method's estimate, in beta of level 1."""
    if isinstance(estimate, int):
        return []
    where = {"architecture": architecture, "level": estimate.level}
    found = [e.scaled(spec.betas[0]) for e in estimate.estimates()]
    return [where | e.to_record() for e in found]


def _threshold_rows(
    estimate: ThresholdEstimate | int,
    predicted: float,
    spec: LinearSpec,
    moments: Moments,
    architecture: str,
) -> Iterator[Row]:
    """Threshold, line and points of every seed, beside the same line through theory's points."""
    nan = math.nan
    if isinstance(estimate, int):
        yield Row("critical_beta", architecture, estimate, 1, nan, nan, -1, predicted, nan)
        return
    level, beta, one = estimate.level, spec.betas[0], spec.with_one_unit()
    points = [factor_at_information(one, moments, level, nats) for nats in SET_POINTS]
    every = np.ones(len(points), dtype=bool)
    line, slope = fit_threshold(np.asarray(SET_POINTS), np.asarray(points), every)
    end = beta * line
    yield Row("fitted_critical_beta", architecture, level, 1, nan, nan, -1, end, nan)
    for s, seed in enumerate(estimate.seeds):
        known = {
            "critical_beta": (predicted, beta * estimate.critical_factors[s]),
            "fit_slope": (slope, estimate.slopes[s]),
        }
        for quantity, (theory, seen) in known.items():
            yield Row(quantity, architecture, level, 1, nan, nan, seed, theory, float(seen))
        for quantity, factors in _evidence(estimate).items():
            if not math.isnan(factors[s]):
                seen = beta * float(factors[s])
                yield Row(quantity, architecture, level, 1, nan, nan, seed, nan, seen)
        yield from _control_rows(estimate, s, one, moments, architecture)
        yield from _branch_rows(estimate, s, beta, architecture)


def _evidence(estimate: ThresholdEstimate) -> dict[str, npt.NDArray[np.float64]]:
    """What stands beside the line, (seeds,), in factors on beta."""
    found = {
        "certified_beta": estimate.certified_factors,
        "certified_error": estimate.certified_errors,
        "local_beta": estimate.local_factors,
        "residual_beta": estimate.residual_factors,
        "doubled_steps_beta": estimate.doubled_factors,
    }
    if estimate.bracket is None:
        return found
    return found | {"bracket_low": estimate.bracket.lows, "bracket_high": estimate.bracket.highs}


def _control_rows(
    estimate: ThresholdEstimate, s: int, spec: LinearSpec, moments: Moments, architecture: str
) -> Iterator[Row]:
    """Factor and drift of every control run of seed number `s`."""
    level, seed = estimate.level, estimate.seeds[s]
    for i, nats in enumerate(estimate.information[s]):
        factor, held = float(estimate.factors[s, i]), bool(estimate.converged[s, i])
        at = (architecture, level, 1, spec.betas[0] * factor, float(nats), seed)
        theory = factor_at_information(spec, moments, level, float(nats))
        yield Row("factor_at_information", *at, theory, factor if held else math.nan)
        yield Row("control_drift", *at, math.nan, float(estimate.drifts[s, i]))


def _branch_rows(
    estimate: ThresholdEstimate, s: int, beta: float, architecture: str
) -> Iterator[Row]:
    """Both branches of seed number `s`: information by checkpoint; free energy and its error."""
    if estimate.bracket is None:
        return
    branches = {"alive": estimate.bracket.alive, "collapsed": estimate.bracket.collapsed}
    for name, branch in branches.items():
        for i, factor in enumerate(branch.factors):
            nats = branch.information[:, s, i]
            seen = [(f"{name}_branch_nats", k, v) for k, v in enumerate(nats, start=1)]
            if math.isfinite(branch.free_energies[s, i]):
                free, error = branch.free_energies[s, i], branch.errors[s, i]
                seen += [(f"{name}_branch_free_energy", 0, free)]
                seen += [(f"{name}_branch_free_energy_error", 0, error)]
            for quantity, index, value in seen:
                yield Row(
                    quantity, architecture, estimate.level, index, float(beta * factor),
                    float(nats[-1]), estimate.seeds[s], math.nan, float(value),
                )  # fmt: skip


def _sweep_betas(spec: LinearSpec, solution: Solution) -> list[float]:
    return [float(solution.critical_beta[0] * x) for x in SWEEP]


def _sweep_rows(
    spec: LinearSpec,
    moments: Moments,
    solution: Solution,
    data: TrainingData,
    architecture: str,
    plan: Plan,
    progress: Progress | None,
) -> Iterator[Row]:
    """Train all betas and seeds at once and put every observation beside its prediction."""
    factors = [beta / spec.betas[0] for beta in _sweep_betas(spec, solution)]
    config = plan.config_for(architecture)
    model = build_model(
        spec,
        data.target,
        data.condition,
        architecture=plan.network(architecture),
        seeds=plan.seeds,
        n_points=len(factors),
    )
    betas = ConstantBetas(factors, spec.betas, data.target.device)
    train(
        model, data, betas, config, _named(progress, f"{architecture}: sweep of beta", config.steps)
    )
    observation = observe(model, data, threshold=ACTIVE, epsilon=EPSILON, delta=DELTA)
    for point, factor in enumerate(factors):
        scaled = spec.scale_betas(factor)
        at_beta = solve(scaled, moments)
        for s, seed in enumerate(plan.seeds):
            yield from _member_rows(scaled, at_beta, observation, (s, point), architecture, seed)


def _member_rows(
    spec: LinearSpec,
    solution: Solution,
    observation: Observation,
    member: tuple[int, int],
    architecture: str,
    seed: int,
) -> Iterator[Row]:
    lost = not math.isfinite(observation.distortion[member])  # diverged: its counts mean nothing

    def row(quantity: str, level: int, index: int, predicted: float, observed: float) -> Row:
        return Row(
            quantity, architecture, level, index, spec.betas[0], math.nan, seed,
            float(predicted), math.nan if lost else float(observed),
        )  # fmt: skip

    observed = {
        "rate_nats": observation.rates,
        "information_nats": observation.information,
        "active_units": observation.active_units,
        "collapsed_units": observation.collapsed_units,
    }
    for quantity, predicted in _predictions(spec, solution).items():
        for i, value in enumerate(predicted):
            yield row(quantity, i + 1, 0, value, observed[quantity][member][i])
    theory, seen = units_above(solution, CUTOFF), observation.units_above(CUTOFF)[member]
    for i, units in enumerate(observation.unit_rates):
        if isinstance(spec.encoder_variances[i], float):
            continue  # its axes are free: a unit is no mode
        yield row("units_above_cutoff", i + 1, 0, theory[i], seen[i])
        best = np.sort(solution.mode_rates[i])[::-1]
        for unit, value in enumerate(units[member]):
            yield row("unit_rate_nats", i + 1, unit + 1, best[unit], value)
    yield row("distortion_nats", 0, 0, solution.distortion, observation.distortion[member])


def _leading_skewness(dataset: Dataset, moments: Moments, spec: LinearSpec) -> float:
    """Skewness of the leading mode's score: what opens the gap above the linear threshold."""
    parts = [part for part in (dataset.condition, dataset.target) if part is not None]
    scores = (np.concatenate(parts, axis=1) - moments.mean) @ mode_decomposition(
        spec, moments
    ).readout[0]
    return float(np.mean(scores**3) / np.mean(scores**2) ** 1.5)


def _named(progress: Progress | None, what: str, steps: int) -> Callable[[int], None] | None:
    if progress is None:
        return None
    return lambda done: progress(what, done, steps)


def _settings(
    dataset: Dataset,
    reduced: Dataset,
    spec: LinearSpec,
    plan: Plan,
    device: str,
    seconds: dict[str, float],
) -> dict[str, object]:
    """Everything needed to know what was run, and to run it again."""
    import torch

    model = {"VAESpec": "vae", "CVAESpec": "cvae", "HVAESpec": "hvae"}[type(spec).__name__]
    return {
        "dataset": dataset.name,
        "data_description": dataset.describe(),
        "data_sha256": dataset.sha256,
        "data_note": dataset.note,
        "preprocessing": [dict(step) for step in reduced.preprocessing],
        "n_samples": dataset.n_samples,
        "target_dim": dataset.target_dim,
        "condition_dim": dataset.condition_dim,
        "model": model,
        "spec": repr(spec),
        "latent_dims": list(spec.latent_dims),
        "betas": list(spec.betas),
        "decoder_variance": spec.decoder_variance,
        "prior_variances": list(spec.prior_variances),
        "encoder_variances": list(spec.encoder_variances),
        "architectures": list(plan.architectures),
        "hidden": plan.hidden,
        "seeds": list(plan.seeds),
        "device": device,
        "training": {
            f"{architecture}, {name}": {
                "learning_rate": config.learning_rate,
                "batch_size": config.batch_size,
                "steps": config.steps,
            }
            for architecture in plan.architectures
            for name, config in (
                ("sweep", plan.config_for(architecture)),
                *(
                    (f"control of level {level}", plan.config_for(architecture, level))
                    for level in range(1, len(spec.latent_dims) + 1)
                ),
            )
        },
        "optimizer": plan.config.optimizer,
        "set_points": list(SET_POINTS),
        "epsilon": EPSILON,
        "delta": DELTA,
        "active_units_threshold": ACTIVE,
        "cutoff_nats": CUTOFF,
        "version": linvae.__version__,
        "torch_version": torch.__version__,
        "numpy_version": np.__version__,
        "platform": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "command": plan.command,
        "seconds": seconds,
        "citations": _citations(model),
    }


def _citations(model: str) -> list[str]:
    common = ["Wang & Ziyin 2022, Posterior collapse of a linear latent variable model"]
    dang = "Dang, Tran, Nguyen & Ho 2024, Beyond vanilla variational autoencoders (ICLR 2024)"
    return common if model == "vae" else [*common, dang]
