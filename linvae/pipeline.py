"""From a dataset and a spec to a `Comparison`: the steps that `compare` runs, one function each.

Prediction and observation meet here for the first time; no formula of either stands here.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch

import linvae
from linvae.comparison import Comparison, CurvePoint, Row, with_remedy
from linvae.data import Dataset
from linvae.jobs import Job, LocalRunner, Progress, Runner, SweepJob, ThresholdJob
from linvae.metrics import CONTROL_BATCH_SIZE, CURVE_POINTS, SET_POINTS
from linvae.models import Architecture
from linvae.moments import Moments
from linvae.remedy_rows import predictor
from linvae.rows import (
    ACTIVE,
    CUTOFF,
    DELTA,
    EPSILON,
    LOCAL,
    SWEEP,
    curve_points,
    estimate_records,
    phase_boundaries,
    sweep_rows,
    theory_rows,
    threshold_rows,
)
from linvae.spec import LatentReconstruction, LinearSpec, default_spec, model_name
from linvae.theory import Solution, solve
from linvae.theory.modes import mode_decomposition
from linvae.theory.network_bounds import network_bounds
from linvae.theory.skewness_shift import SkewnessShift, skewness_shift
from linvae.train import (
    Annealing,
    CellStore,
    Remedy,
    TrainConfig,
    TrainingData,
    named_remedy,
    pick_device,
)

__all__ = [
    "Plan",
    "default_spec",
    "make_plan",
    "run_comparison",
    "sweep_jobs",
    "training_data",
]

NETWORK_RATE = {"sweep": 1 / 3, "control": 2 / 3}  # of the learning rate of linear models
# networks of images under control: at 2/3 the local threshold of one seed of digits (conv) was 0.42
# of the prediction instead of 0.75, and its runs of little information left the line
IMAGE_RATE = 1 / 4
# of a sweep's steps, in which the betas of networks of images rise from 0: constant ones collapse
# convolutions of digits at 0.35 of the threshold, of CelebA (16 pixels) at 0.1, where both can live
IMAGE_WARMUP = 1 / 4
LARGE_IMAGE = 32 * 32  # pixels: batches of control runs hold no more than of images of this size

# remedies that are another decoder; linear models have none: z fed to every layer is U z again, and
# a bound on U is theory's alone
NETWORK_REMEDIES: Mapping[str, Mapping[str, Any]] = {
    "inverse-lipschitz": {"decoder": "inverse-lipschitz"},
    "latent-skip": {"latent_skip": True},
}


@dataclass(frozen=True)
class Plan:
    """Everything about a run that is neither data nor spec."""

    architectures: tuple[str, ...] = ("linear", "mlp")
    seeds: tuple[int, ...] = (0, 1, 2)
    device: str = "auto"
    config: TrainConfig = field(default_factory=TrainConfig)
    bracket: bool = True  # two branches for every threshold, about the cost of its control runs
    check_convergence: bool = False  # control runs again with twice the steps: three times the cost
    command: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)  # sizes of the networks, by field
    store: CellStore | None = None
    sweep: bool = True  # rates and units over beta; without: thresholds alone
    control_batch_size: int = CONTROL_BATCH_SIZE
    remedies: tuple[str, ...] = ()  # a sweep more of every architecture for each, by name
    reconstruction: LatentReconstruction | None = None  # of the remedy of that name
    warmup: str = "linear"  # of its weight
    inverse_lipschitz: float | None = None  # of the remedy of that name; None: its default
    pixels: int = 0  # of an image of the data

    def network(self, architecture: str) -> Architecture:
        """The named architecture with the sizes of the plan."""
        options = {} if architecture == "linear" else self.options
        return Architecture(architecture, **options)

    def remedy(self, name: str, steps: int) -> Remedy:
        """The named remedy, with what the plan says of it, for a run of `steps` steps."""
        if name in NETWORK_REMEDIES:
            return Remedy()
        return named_remedy(name, steps, reconstruction=self.reconstruction, warmup=self.warmup)

    def warmup_steps(self, architecture: str) -> int:
        """In which the betas of a sweep rise to their value."""
        if not self.network(architecture).needs_image:
            return 0
        return max(1, round(IMAGE_WARMUP * self.config_for(architecture).steps))

    def warmed_up(self, remedy: Remedy, architecture: str) -> Remedy:
        """The remedy with such a rise, but for those that change how training starts."""
        steps = self.warmup_steps(architecture)
        if not steps or remedy.schedule or remedy.aggressive:
            return remedy
        return replace(remedy, schedule=Annealing(steps))

    def remedied_network(self, architecture: str, remedy: str) -> Architecture:
        """The network that a remedy trains: another decoder, or the same."""
        network = self.network(architecture)
        changes = dict(NETWORK_REMEDIES.get(remedy, {}))
        if remedy == "inverse-lipschitz" and self.inverse_lipschitz is not None:
            changes["inverse_lipschitz"] = self.inverse_lipschitz
        return replace(network, **changes)

    def config_for(self, architecture: str, level: int = 0) -> TrainConfig:
        """Config of the sweep (level 0) or of the control runs of a level.

        Upper levels learn after the ones below them: `level` times the steps.
        """
        config, sees_images = self.config, self.network(architecture).needs_image
        if not level:  # as many points as a curve of the report has
            config = replace(config, log_every=-(-config.steps // CURVE_POINTS))
        if level:
            batch = self.control_batch_size
            if sees_images and self.pixels > LARGE_IMAGE:
                batch = max(config.batch_size, batch * LARGE_IMAGE // self.pixels)
            config = replace(config, steps=level * config.steps, batch_size=batch)
        if architecture == "linear":
            return config
        share = NETWORK_RATE["control" if level else "sweep"]
        if level and sees_images:
            share = IMAGE_RATE
        return replace(config, learning_rate=share * config.learning_rate)


def make_plan(
    *,
    architectures: tuple[str, ...] = ("linear", "mlp"),
    n_seeds: int = 3,
    device: str = "auto",
    effort: float = 1.0,
    bracket: bool = True,
    check_convergence: bool = False,
    command: str = "",
    options: Mapping[str, Any] | None = None,
    store: CellStore | None = None,
    remedies: tuple[str, ...] = (),
    reconstruction: LatentReconstruction | None = None,
    warmup: str = "linear",
    inverse_lipschitz: float | None = None,
    pixels: int = 0,
) -> Plan:
    """A plan with seeds 0, 1, ... and `effort` times the default number of steps."""
    config = TrainConfig()
    config = replace(config, steps=max(config.log_every, round(config.steps * effort)))
    return Plan(
        architectures, tuple(range(n_seeds)), device, config, bracket, check_convergence,
        command, options or {}, store, remedies=remedies, reconstruction=reconstruction,
        warmup=warmup, inverse_lipschitz=inverse_lipschitz, pixels=pixels,
    )  # fmt: skip


def run_comparison(
    dataset: Dataset,
    spec: LinearSpec,
    plan: Plan,
    progress: Progress | None = None,
    make_runner: Callable[[TrainingData], Runner] = LocalRunner,
) -> Comparison:
    """Predict, train, observe and join: the whole path of the package.

    `make_runner` says what trains: this process, or a cluster (`linvae.cluster.ClusterRunner`).
    """
    _check_remedies(spec, plan, dataset)
    start = time.perf_counter()
    seconds: dict[str, float] = {}
    reduced = dataset.rotated_to_span()
    moments = Moments.from_data(reduced.target, reduced.condition)
    seconds["moments"] = time.perf_counter() - start
    solution = _checked(solve(spec, moments), dataset)
    rows = list(theory_rows(spec, moments, solution))
    boundaries = tuple(phase_boundaries(spec, moments))
    curves: list[CurvePoint] = []
    bounds = network_bounds(spec, reduced.target, reduced.condition)
    if bounds:
        beta = bounds.found
        rows.append(Row("universal_beta", "theory", 1, 0, math.nan, math.nan, -1, beta, math.nan))
    seconds["theory"] = time.perf_counter() - start - seconds["moments"]
    device = pick_device(plan.device)
    factors = tuple(beta / spec.betas[0] for beta in _sweep_betas(spec, solution))
    estimates: list[dict[str, object]] = []
    for architecture in plan.architectures:
        begin = time.perf_counter()
        data = training_data(dataset, reduced, plan.network(architecture), device)
        runner = make_runner(data)
        thresholds = _threshold_jobs(spec, moments, architecture, plan)
        jobs: list[Job[Any]] = [job for _, job in thresholds if job is not None]
        sweeps = sweep_jobs(spec, factors, architecture, plan)
        jobs += sweeps.values()
        results = iter([done.result for done in runner.run(jobs, progress)])
        for level, (predicted, job) in enumerate(thresholds, start=1):
            estimate = level if job is None else next(results)
            rows += threshold_rows(estimate, predicted, spec, moments, architecture)
            estimates += estimate_records(estimate, spec, architecture)
        for name, sweep in sweeps.items():
            seen = next(results)
            rows += sweep_rows(
                spec, moments, seen, factors, plan.seeds, name,
                predictor(sweep.remedy, sweep.architecture),
            )  # fmt: skip
            curves += curve_points(seen, spec, factors, plan.seeds, name)
        seconds[architecture] = time.perf_counter() - begin
    seconds["total"] = time.perf_counter() - start
    settings = _settings(dataset, reduced, spec, plan, str(device), seconds)
    settings["betas_swept"] = _sweep_betas(spec, solution)
    settings["estimates"] = estimates
    settings["bounds_of_any_network"] = bounds and dict(vars(bounds))
    law = _law_of_leading_mode(reduced, moments, spec)
    settings["leading_skewness"] = law.skewness
    settings["skewness_shift"] = law.shift
    return Comparison(settings, tuple(rows), tuple(curves), boundaries)


def _check_remedies(spec: LinearSpec, plan: Plan, dataset: Dataset) -> None:
    """Refuse before anything is trained what no network of the plan can have."""
    if "latent-reconstruction" in plan.remedies and len(spec.latent_dims) > 1:
        raise ValueError(
            f"--remedy latent-reconstruction needs one level of latents, and {type(spec).__name__} "
            f"has {len(spec.latent_dims)}: use --model vae or cvae"
        )
    networks = [name for name in plan.architectures if name != "linear"]
    bounded = "inverse-lipschitz" in plan.remedies and networks
    if bounded and spec.latent_dims[0] > dataset.target_dim:
        raise ValueError(
            f"--remedy inverse-lipschitz keeps latents apart: latent_dim={spec.latent_dims[0]} "
            f"must be at most the target's {dataset.target_dim} dimensions"
        )
    if bounded and "pixelcnn" in networks:
        raise ValueError(
            "--remedy inverse-lipschitz is a dense decoder, another model than architecture "
            "'pixelcnn': use mlp, conv or resnet"
        )
    shallow = [n for n in networks if n == "mlp" and len(plan.network(n).decoder_widths) < 2]
    if "latent-skip" in plan.remedies and shallow:
        raise ValueError(
            "--remedy latent-skip feeds z to hidden layers after the first, and mlp has one: give "
            "--depth 2 or more"
        )


def training_data(
    dataset: Dataset, reduced: Dataset, network: Architecture, device: torch.device
) -> TrainingData:
    """Pixels for networks of images; for all others the coordinates that moments are taken of.

    Both have the same thresholds, rates and squared errors.
    """
    if not network.needs_image:
        return TrainingData.from_arrays(
            reduced.target, reduced.condition, device=device, resident="auto"
        )
    return TrainingData.from_arrays(
        dataset.target, dataset.condition, device=device, resident="auto",
        image=dataset.image_layout(),
    )  # fmt: skip


def _threshold_jobs(
    spec: LinearSpec, moments: Moments, architecture: str, plan: Plan
) -> list[tuple[float, ThresholdJob | None]]:
    """Predicted threshold and job of every level; None where there is nothing to locate."""
    one = spec.with_one_unit()
    critical = solve(one, moments).level_critical_betas[:, 0].tolist()
    found: list[tuple[float, ThresholdJob | None]] = []
    for level, predicted in enumerate(critical, start=1):
        job = ThresholdJob(
            one,
            plan.network(architecture),
            plan.seeds,
            plan.config_for(architecture, level),
            level,
            bracket=plan.bracket,
            check_convergence=plan.check_convergence,
            store=plan.store,
        )
        locatable = 0 < predicted < math.inf  # else never, or always alive
        found.append((predicted, job if locatable else None))
    return found


def sweep_jobs(
    spec: LinearSpec, factors: tuple[float, ...], architecture: str, plan: Plan
) -> dict[str, SweepJob]:
    """All betas and seeds of one architecture, by its name in the rows; plain, then remedies."""
    config = plan.config_for(architecture)
    plain = SweepJob(
        spec, plan.network(architecture), plan.seeds, config, factors,
        remedy=plan.warmed_up(Remedy(), architecture), threshold=ACTIVE, epsilon=EPSILON,
        delta=DELTA, local_nats=LOCAL, store=plan.store,
    )  # fmt: skip
    if not plan.sweep:
        return {}
    remedied = {
        with_remedy(architecture, name): replace(
            plain,
            remedy_name=name,
            remedy=plan.warmed_up(plan.remedy(name, config.steps), architecture),
            architecture=plan.remedied_network(architecture, name),
        )
        for name in plan.remedies
        if architecture != "linear" or name not in NETWORK_REMEDIES
    }
    return {architecture: plain} | remedied


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


def _sweep_betas(spec: LinearSpec, solution: Solution) -> list[float]:
    return [float(solution.critical_beta[0] * x) for x in SWEEP]


def _law_of_leading_mode(dataset: Dataset, moments: Moments, spec: LinearSpec) -> SkewnessShift:
    """What the leading mode's score says of the gap above the linear threshold."""
    parts = [part for part in (dataset.condition, dataset.target) if part is not None]
    readout = mode_decomposition(spec, moments).readout[0]
    scores = (np.concatenate(parts, axis=1) - moments.mean) @ readout
    scores = scores / np.sqrt(np.mean(scores**2))
    return skewness_shift(float(np.mean(scores**3)), float(np.mean(scores**4)))


def _settings(
    dataset: Dataset,
    reduced: Dataset,
    spec: LinearSpec,
    plan: Plan,
    device: str,
    seconds: dict[str, float],
) -> dict[str, object]:
    """Everything needed to know what was run, and to run it again."""
    model = model_name(spec)
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
        "network_options": dict(plan.options),
        "remedies": list(plan.remedies),
        **_remedy_settings(plan),
        "seeds": list(plan.seeds),
        "device": device,
        "training": _training_settings(plan, len(spec.latent_dims)),
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


def _training_settings(plan: Plan, levels: int) -> dict[str, dict[str, float]]:
    """Of every architecture's sweep and control runs."""
    found = {}
    for architecture in plan.architectures:
        for level in range(levels + 1):
            config = plan.config_for(architecture, level)
            name = f"control of level {level}" if level else "sweep"
            found[f"{architecture}, {name}"] = {
                "learning_rate": config.learning_rate,
                "batch_size": config.batch_size,
                "steps": config.steps,
            }
        if rise := plan.warmup_steps(architecture):
            found[f"{architecture}, sweep"]["beta_rises_over_steps"] = rise
    return found


def _remedy_settings(plan: Plan) -> dict[str, object]:
    """Weight, routing and warm-up of the latent reconstruction, and L, as they were used."""
    found: dict[str, object] = {}
    if "latent-reconstruction" in plan.remedies:
        loss = plan.reconstruction or LatentReconstruction()
        found["latent_reconstruction"] = asdict(loss) | {"warmup": plan.warmup}
    if "inverse-lipschitz" in plan.remedies:
        found["inverse_lipschitz"] = {
            name: plan.remedied_network(name, "inverse-lipschitz").inverse_lipschitz
            for name in plan.architectures
            if name != "linear"
        }
    return found


def _citations(model: str) -> list[str]:
    common = ["Wang & Ziyin 2022, Posterior collapse of a linear latent variable model"]
    dang = "Dang, Tran, Nguyen & Ho 2024, Beyond vanilla variational autoencoders (ICLR 2024)"
    return common if model == "vae" else [*common, dang]
