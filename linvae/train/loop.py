"""The training loop: one visible `for` that trains all members of a stack at once."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from linvae.models.chain import StackedVAE
from linvae.models.reconstruction import ReEncoder, Routing
from linvae.objectives import Floors, GaussianLevel, Terms, gaussian_rate_per_unit
from linvae.train.checkpoint import Checkpoint, stack_identity, study_identity
from linvae.train.config import Precision, TrainConfig
from linvae.train.data import BatchOrder, Binarisation, Noise, TrainingData
from linvae.train.early_stop import EarlyStop
from linvae.train.kl_weight import InformationControl, KLWeight
from linvae.train.optimizer import MemberOptimizer, clip_gradients, make_optimizer
from linvae.train.run import BLOW_UP, BlownUp, BlowUpWarning, Diverged, Run, Saver, Stopped
from linvae.train.validation import PlateauRates, validate
from linvae.train.walk import JointWalk, MemberWalk

__all__ = [
    "DivergedError",
    "Log",
    "Prices",
    "TrainResult",
    "new_optimizer",
    "train",
    "update",
]

LEAST = 1e-20  # of what gradients are divided by: where a beta is 0 they are 0 and stay so
Log = Callable[[list[dict[str, float]]], None]
UPPER_SHARE = 0.25  # of the steps of upper levels: latents have variances of several eta^2


class DivergedError(ArithmeticError):
    """No member is left whose objective is finite; the message says which failed first.

    `result`: of the run up to there.
    """

    def __init__(self, result: TrainResult) -> None:
        self.result = result
        first = min(result.diverged, key=lambda d: d.step)
        super().__init__(
            f"training diverged: the objective of all {len(result.diverged)} members is not finite "
            f"(first seed {first.seed} point {first.point}, at step {first.step}); lower the "
            "learning rate" + "".join(f"; before that {b.text}" for b in result.blown_up[:1])
        )

    def __reduce__(self) -> tuple[type[DivergedError], tuple[TrainResult]]:
        """Made again from its result when it comes from another process."""
        return DivergedError, (self.result,)


@dataclass(frozen=True)
class Prices:
    """What a step makes of its terms: betas, free bits, and the latent reconstruction's weights."""

    betas: Tensor
    floors: Floors | None = None
    gammas: Tensor | None = None
    routing: Routing | None = None

    @property
    def all(self) -> Tensor:
        """Betas and weights in one tensor, (n_seeds, n_points, levels + 1): steady or not."""
        if self.gammas is None:
            return self.betas
        shape = (*self.gammas.shape, self.betas.shape[-1])
        return torch.cat([self.betas.expand(shape), self.gammas[..., None]], dim=-1)


@dataclass(frozen=True)
class TrainResult:
    """History rows and seconds; a row: step, seed, point, mean distortion, rate, objective, beta.

    `diverged`: members that are lost, with NaN in their parameters and rows, or with a plateau the
    best parameters before; the others are not touched by them. `stopped`: members that stopped
    early, with the parameters they had then; they have no rows after that. `stacks`: in how many,
    one after another, they were trained now (0: all came from a store). `steps`: of decoders.
    `blown_up`: members whose rate once cost more than collapse could (`linvae.train.run.BlownUp`).
    `counts`, (n_seeds, n_points) each: where members go their own way, the steps of their encoders
    and decoders, and the step that ended their phase of inner loops
    (`linvae.train.walk.MemberWalk`).
    """

    history: list[dict[str, float]]
    seconds: float
    steps: int
    diverged: tuple[Diverged, ...] = ()
    stopped: tuple[Stopped, ...] = ()
    stacks: int = 1
    counts: dict[str, Tensor] = field(default_factory=dict)
    blown_up: tuple[BlownUp, ...] = ()


def train(
    model: StackedVAE,
    data: TrainingData,
    kl_weight: KLWeight,
    config: TrainConfig,
    progress: Callable[[int], None] | None = None,
    checkpoint: Checkpoint | None = None,
    validation: TrainingData | None = None,
    log: Log | None = None,
) -> TrainResult:
    """Train every member of `model` on `data`; parameters are updated in place.

    Members never interact: the loss is their sum, the optimiser works entry by entry, and members
    of one seed see the same batches and the same noise, so a member's result does not depend on
    what else is in the stack. With inner loops (`kl_weight.aggressive`) or a plateau every member
    goes its own way (`linvae.train.walk`), and the steps of `config` are those of decoders.
    `validation`: what ends inner loops and lowers the rate, after every epoch; None: `data`.
    `progress` is called with the number of steps done, `log` with the new rows of the history.
    A member that diverges is reported in the result and stays as it is; raises DivergedError where
    all do.
    With a `checkpoint` the run goes on from its file where there is one, and writes it as it goes
    (`linvae.train.checkpoint`, errors there); `model` and `kl_weight` must be as if new.
    """
    device = data.target.device
    _check_run(model, config, kl_weight, device)
    run = _new_run(model, data, kl_weight, config)
    forward = torch.compile(model) if config.compile else model
    saver = _saver(run, data, config, checkpoint, validation)
    start = time.perf_counter() - run.seconds
    while not run.ended(config.steps):
        _prepare(run, config)
        index = run.walk.next()
        target, condition = data.take(index)
        if run.binarisation:
            target = run.binarisation.next(target)
        prices = Prices(kl_weight.betas(), kl_weight.floors, kl_weight.gammas(), kl_weight.routing)
        batch = (target, condition, run.noise.next(target.shape[-2]))
        prior = None if run.prior is None else run.prior.next(target.shape[-2])[0]
        terms, members = update(model, run.optimizer, batch, prices, config, forward, prior)
        betas = prices.betas
        run.step += 1
        stepped = run.walk.observe(members, index)
        moved = None if stepped is None else torch.as_tensor(stepped)
        kl_weight.observe(terms, (run.step - 1) / config.steps, moved)
        _end_epochs(run, stepped, data if validation is None else validation, config)
        some_stop = run.stop is not None and run.stop.observe(run.step, model, members, prices.all)
        last = run.ended(config.steps)
        due = last or some_stop or run.step % config.log_every == 0
        logged = _logged(run, stepped, due)
        if logged is not None:
            _note_diverged(run.diverged, members, logged, model, run.step)
            _note_blown_up(run.blown_up, terms, betas, logged, model, run.step)
            run.walk.stop(_members_at(run.diverged, model))
            rows = _history_rows(run, terms, members, betas, logged)
            run.history += rows
            if log:
                log(rows)
            if progress:
                progress(config.steps if last else run.walk.step)
        run.seconds = time.perf_counter() - start
        if len(run.diverged) == members.numel():
            raise DivergedError(_result(run))
        if saver:
            saver.after_step(last=last)
    _put_back(run)
    return _result(run)


def _new_run(
    model: StackedVAE, data: TrainingData, kl_weight: KLWeight, config: TrainConfig
) -> Run:
    """Everything that changes, as it is before the first step."""
    shape = (len(model.seeds), model.n_points)
    own_ways = any(kl_weight.aggressive) or config.plateau is not None
    walk = _member_walk if own_ways else _joint_walk
    stops = config.stop_tolerance is not None
    return Run(
        model,
        new_optimizer(model, config, by_member=own_ways),
        walk(model, data, kl_weight, config),
        Noise(model.spec.latent_dims, model.seeds, data.target.device, config.draws),
        kl_weight,
        EarlyStop(model, config.stop_tolerance or 0.0, config.stop_window) if stops else None,
        PlateauRates(config.plateau, shape) if config.plateau else None,
        Binarisation(model.seeds) if config.binarise else None,
        _prior_noise(model, kl_weight, data.target.device),
    )


def _prior_noise(model: StackedVAE, kl_weight: KLWeight, device: torch.device) -> Noise | None:
    """Draws of z from the prior, where a latent reconstruction takes them."""
    if kl_weight.routing is None or not kl_weight.routing.needs_prior:
        return None
    scale = math.sqrt(model.spec.prior_variances[0])
    return Noise(model.spec.latent_dims[:1], model.seeds, device, 1, purpose="prior", scale=scale)


def _joint_walk(
    model: StackedVAE, data: TrainingData, kl_weight: KLWeight, config: TrainConfig
) -> JointWalk | MemberWalk:
    return JointWalk(BatchOrder(len(data), config.batch_size, model.seeds, data.lengths))


def _member_walk(
    model: StackedVAE, data: TrainingData, kl_weight: KLWeight, config: TrainConfig
) -> JointWalk | MemberWalk:
    every = [seed for seed in model.seeds for _ in range(model.n_points)]
    outer, others = (
        BatchOrder(len(data), config.batch_size, every, data.lengths, purpose)
        for purpose in ("order", "inner loop")
    )
    return MemberWalk(
        kl_weight.aggressive or (None,) * model.n_points,
        outer,
        others,
        len(model.seeds),
        most=config.steps,
        sizes=data.sizes,
        device=data.target.device,
    )


def _prepare(run: Run, config: TrainConfig) -> None:
    """Learning rates of this step, and whose sides take it."""
    rate = _learning_rate(run.model, config)
    if not isinstance(run.walk, MemberWalk):
        for group in run.optimizer.param_groups:
            group["lr"] = rate * config.learning_rate_factor(run.step)
        return
    shares = np.vectorize(config.learning_rate_factor, otypes=[float])(run.walk.decoder_steps)
    if run.plateau:
        shares = shares * run.plateau.share
    sides = dict(zip(("encoder", "decoder"), run.walk.sides(), strict=True))
    for group in run.optimizer.param_groups:
        group["lr"] = torch.as_tensor(rate * shares)
        group["members"] = sides[group["side"]]


def _end_epochs(
    run: Run, stepped: npt.NDArray[np.bool_] | None, data: TrainingData, config: TrainConfig
) -> None:
    """What is heard from the validation of members whose epoch ends with this step."""
    walk = run.walk
    if stepped is None or not isinstance(walk, MemberWalk):
        return
    due = stepped & (walk.decoder_steps % walk.epoch == 0)
    if due.any() and (run.plateau or (due & walk.listens()).any()):
        seen = validate(run.model, data, config.batch_size)
        walk.hear(seen.information, due)
        if run.plateau:
            epochs = walk.decoder_steps // walk.epoch
            fell, ended = run.plateau.hear(run.model, seen.objective, due, epochs)
            cast(MemberOptimizer, run.optimizer).forget(torch.as_tensor(fell))
            walk.stop(ended)
    finished = torch.as_tensor(stepped & walk.still)
    if bool(finished.any()):
        run.finished.keep(run.model, finished.to(data.target.device))


def _put_back(run: Run) -> None:
    """Members that ended before others have what they had then; with a plateau, their best."""
    if run.stop:
        run.stop.put_back(run.model)
    run.finished.put_back(run.model)
    if run.plateau:
        run.plateau.put_back(run.model)


def _members_at(
    lost: Mapping[tuple[int, int], Diverged], model: StackedVAE
) -> npt.NDArray[np.bool_]:
    mask = np.zeros((len(model.seeds), model.n_points), bool)
    for member in lost:
        mask[member] = True
    return mask


def _result(run: Run) -> TrainResult:
    lost, stopped = tuple(run.diverged.values()), _stopped(run.stop, run.model)
    counts, history, steps = run.walk.counts(), run.history, run.step
    if counts:
        order = {seed: i for i, seed in enumerate(run.model.seeds)}
        history = sorted(history, key=lambda r: (r["step"], order[int(r["seed"])], r["point"]))
        steps = int(counts["decoder_steps"].max())
    blown_up = tuple(run.blown_up.values())
    return TrainResult(history, run.seconds, steps, lost, stopped, counts=counts, blown_up=blown_up)


def _saver(
    run: Run,
    data: TrainingData,
    config: TrainConfig,
    checkpoint: Checkpoint | None,
    validation: TrainingData | None,
) -> Saver | None:
    if checkpoint is None:
        return None
    study = study_identity(run.model, data, config, validation)
    return Saver(checkpoint, stack_identity(study, run.model, run.kl_weight), run)


def _learning_rate(model: StackedVAE, config: TrainConfig) -> float:
    """Of the first step: for SGD in units of 1/curvature."""
    return config.learning_rate / (model.curvature if config.optimizer == "sgd" else 1.0)


def update(
    model: StackedVAE,
    optimizer: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor | None, Sequence[Tensor]],
    prices: Prices,
    config: TrainConfig,
    forward: Callable[..., Any] | None = None,
    prior: Tensor | None = None,
) -> tuple[Terms, Tensor]:
    """One step of all members on `batch` (target, condition, noise): terms and objectives.

    `forward`: the compiled forward pass of the model; None, its own. `prior`: draws of z for the
    latent reconstruction. The gradients are dropped before it, so that they and its activations are
    not there together.
    """
    device = batch[0].device
    optimizer.zero_grad(set_to_none=True)
    with _tensor_cores(config.precision, device):
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            run = model if forward is None else forward
            lost = () if prices.routing is None else (prices.routing, prior)
            terms: Terms = run(*batch, *lost)
        members = terms.objective(prices.betas, prices.floors, prices.gammas)
        torch.autograd.backward(members.sum())
    _balance(model, prices.betas)
    if config.clip_norm is not None:
        clip_gradients(model, config.clip_norm)
    optimizer.step()
    return terms, members.detach()


@torch.no_grad()
def _balance(model: StackedVAE, betas: Tensor) -> None:
    """Gradients of upper levels as if their betas gave them the curvature of the distortion.

    That of a decoder is beta_(l-1)/eta_(l-1)^2, that of an encoder beta_l/eta_l^2 where this is
    more. Without it they stand still where beta is small, under Adam too, below the 1e-8 that it
    adds to every gradient.
    """
    etas = model.spec.prior_variances
    for level in range(1, len(etas)):
        told = betas[..., level - 1] / etas[level - 1]
        seen = torch.maximum(told, betas[..., level] / etas[level])
        decoder, encoder = model.level_parameters(level)
        for own, parameters in ((told, decoder), (seen, encoder)):
            factor = UPPER_SHARE * model.curvature / own.clamp(min=LEAST)
            for p in parameters:
                if p.grad is not None:
                    scale = factor.clamp(max=1 / LEAST).expand(p.shape[:2])
                    p.grad *= scale.reshape(*scale.shape, *[1] * (p.ndim - 2))


@contextmanager
def _tensor_cores(precision: Precision, device: torch.device) -> Iterator[None]:
    """Products of float32 matrices on CUDA in TF32 for "tf32" and never else; put back after."""
    if device.type != "cuda":
        yield
        return
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


def _check_run(
    model: StackedVAE, config: TrainConfig, kl_weight: KLWeight, device: torch.device
) -> None:
    """Refuse options that this model, this device, or these KL weights cannot have."""
    if config.binarise and not getattr(model, "is_bernoulli", False):
        raise ValueError(
            "binarise=True draws black and white pixels, which need likelihood='bernoulli': leave "
            "it out of TrainConfig, or change the spec"
        )
    if kl_weight.routing is not None:
        _check_reconstruction(model, kl_weight.routing)
    if config.precision == "tf32" and device.type != "cuda":
        raise ValueError(
            f"precision='tf32' needs a CUDA device, the data are on {str(device)!r}: use 'float32'"
        )
    if config.stop_tolerance is not None and isinstance(kl_weight, InformationControl):
        raise ValueError(
            f"stop_tolerance={config.stop_tolerance} must be None with InformationControl: its "
            "betas, and with them the objective, move until the end"
        )
    if config.stop_tolerance is not None and (any(kl_weight.aggressive) or config.plateau):
        raise ValueError(
            f"stop_tolerance={config.stop_tolerance} must be None with inner loops or a plateau: "
            "the plateau is what stops their members"
        )


def _check_reconstruction(model: StackedVAE, routing: Routing) -> None:
    """Refuse what cannot be decoded, or whose encoder cannot read it."""
    what = f"a latent reconstruction loss in {type(model).__name__}"
    if not isinstance(model, ReEncoder) or len(model.spec.latent_dims) > 1:
        raise ValueError(f"{what} needs one level of latents and an encoder: leave the loss out")
    if not getattr(model, "encoder_sees_target", True):
        raise ValueError(
            f"{what} needs an encoder that sees the target, and this one sees the condition only: "
            "use CVAESpec"
        )
    if routing.needs_prior and model.is_autoregressive:
        raise ValueError(
            f"{what} with source='prior' needs a decoder that sees z alone, and this one reads the "
            "past of the target, which a z of the prior has not: use source='posterior'"
        )


def _logged(
    run: Run, stepped: npt.NDArray[np.bool_] | None, due: bool
) -> npt.NDArray[np.bool_] | None:
    """Members with a row of this step: all that run where one is `due`, and who ends with it."""
    if stepped is not None and isinstance(run.walk, MemberWalk):
        logged = (~run.walk.still & due) | (stepped & run.walk.still)
        return logged if logged.any() else None
    if not due:
        return None
    if run.stop is None:
        return np.ones((len(run.model.seeds), run.model.n_points), bool)
    stopped_at = run.stop.stopped_at.cpu().numpy()
    running: npt.NDArray[np.bool_] = (stopped_at == 0) | (stopped_at == run.step)
    return running


def _stopped(stop: EarlyStop | None, model: StackedVAE) -> tuple[Stopped, ...]:
    if stop is None:
        return ()
    steps = stop.stopped_at.tolist()
    found = torch.nonzero(stop.stopped_at).tolist()
    return tuple(Stopped(model.seeds[s], point, steps[s][point]) for s, point in found)


def new_optimizer(
    model: StackedVAE, config: TrainConfig, *, by_member: bool = False
) -> torch.optim.Optimizer:
    """The optimiser of `config` for all members; `by_member`: each with steps of its own."""
    rate = _learning_rate(model, config)
    return make_optimizer(model, config.optimizer, rate, config.momentum, by_member=by_member)


def _note_diverged(
    found: dict[tuple[int, int], Diverged],
    members: Tensor,
    running: npt.NDArray[np.bool_],
    model: StackedVAE,
    step: int,
) -> None:
    """Add running members that are no longer finite to `found`."""
    lost = ~torch.isfinite(members).cpu().numpy() & running
    for s, point in np.argwhere(lost).tolist():
        found.setdefault((s, point), Diverged(model.seeds[s], point, step))


def _note_blown_up(
    found: dict[tuple[int, int], BlownUp],
    terms: Terms,
    betas: Tensor,
    running: npt.NDArray[np.bool_],
    model: StackedVAE,
    step: int,
) -> None:
    """Add running members whose rates cost `BLOW_UP` times what collapse does; warn once of each.

    What a fixed variance makes a collapsed level pay is no part of it. A rate that is not a number
    is that of a member that diverged.
    """
    rates = terms.rates.detach() - _idle_rates(model).to(terms.rates)
    ratios = (betas * rates).sum(-1) / model.collapse_cost_nats().detach()
    beyond = (ratios > BLOW_UP) & torch.isfinite(betas).all(-1)
    for s, point in np.argwhere(beyond.cpu().numpy() & running).tolist():
        if (s, point) not in found:
            rate, ratio = float(rates[s, point].sum()), float(ratios[s, point])
            new = BlownUp(model.seeds[s], point, step, rate, ratio)
            warnings.warn(new.text, BlowUpWarning, stacklevel=3)
            found[s, point] = new


def _idle_rates(model: StackedVAE) -> Tensor:
    """Rates of a collapsed model, nats per level: not 0 where the encoder variance is fixed."""
    spec, found = model.spec, []
    levels = zip(spec.latent_dims, spec.encoder_variances, spec.prior_variances, strict=True)
    for k, fixed, eta2 in levels:
        v = torch.as_tensor(eta2 if fixed is None else fixed, dtype=torch.float64).expand(k)
        idle = GaussianLevel(torch.zeros_like(v), torch.log(v))
        found.append(gaussian_rate_per_unit(idle, v, torch.as_tensor(eta2, dtype=v.dtype)).sum())
    return torch.stack(found)


def _history_rows(
    run: Run, terms: Terms, members: Tensor, betas: Tensor, logged: npt.NDArray[np.bool_]
) -> list[dict[str, float]]:
    """One row for every such member, with the steps of its decoder."""
    rates = terms.rates.detach()
    seen = [terms.distortion.detach(), rates.sum(-1), members, betas.expand_as(rates)[..., 0]]
    values = torch.stack([value.double() for value in seen], dim=-1).cpu().numpy()  # one copy
    steps = run.walk.decoder_steps if isinstance(run.walk, MemberWalk) else None
    names = ("distortion_nats", "rate_nats", "objective_nats", "first_beta")
    return [
        {
            "step": run.step if steps is None else int(steps[s, point]),
            "seed": run.model.seeds[s],
            "point": point,
            **dict(zip(names, values[s, point].tolist(), strict=True)),
        }
        for s, point in np.argwhere(logged).tolist()
    ]
