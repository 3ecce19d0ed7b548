"""Is this collapse the one that theory predicts, or a failure of the training?

A trained encoder is held against the optimum of the linear VAE of the same beta, decoder variance
and latent dimension on the same data (`linvae.solve`), unit by unit:

    observed_j  = mean over the data of KL(q(z_j|x) || p)
    predicted_j = the rate of its mode at the linear optimum

both less what an idle unit costs (nothing, unless the encoder variance is fixed). Units are in no
order and may be rotated. **The mode of a unit** is found from the data: what share of each mode's
variance the means hold (`linvae.theory.held_modes`); units that hold none take the modes that are
left. A mode is **missing** where all units together hold less of it than theory by more than its
tolerance, and less than that in all. Of excess, ranks decide: at every stationary point of a linear
VAE each unit in use carries a mode of its own, so no sum of the largest observed rates exceeds that
of the largest predicted ones. With t_j the tolerance below,

| verdict                                  | where                                               |
|------------------------------------------|-----------------------------------------------------|
| alive beyond the linear theory           | by rank, observed and its sum to that rank exceed   |
|                                          | the predicted ones by more than their tolerances    |
| collapsed below the threshold: optimisation | observed_j < t_j and < predicted_j - t_j         |
| alive, not at the optimum                | otherwise further than t_j from predicted_j         |
| alive in both                            | within t_j, both above `ALIVE` nats                 |
| collapsed as theory predicts             | the rest: mode variance below beta s, or so close   |
|                                          | above it that t_j does not tell                     |

A unit that theory keeps alive is "beyond" too, although collapsed, where units beyond the theory
hold its nats already (the sum to its rank), or where the code **pays**: its objective is below the
linear optimum's, so there is nothing that the collapse has lost. Where it **costs**, nothing is
"beyond". With a `decoder` the objective is the network's. Without one two bounds of any decoder's
are taken instead (`linvae.theory.any_decoder`; with a condition the code costs only where its rate
alone does, since the condition may tell every sample), and where they do not tell, "beyond" says
that it cannot tell: an untrained network may be such a code. Either way a difference counts from
`MARGIN` beta nats on, and from the error of draws and samples.

| symbol  | argument               | shape           | unit                            |
|---------|------------------------|-----------------|---------------------------------|
| y, x    | target, condition      | (n, d), (n, dx) | data units                      |
| beta, s | beta, decoder_variance | scalar          | -, data units^2                 |
| eta^2   | prior_variance         | scalar          | latent units^2                  |
| sigma^2 | encoder_variance       | scalar          | latent units^2, None: learned   |
| t_j     | tolerance_nats         | (k,)            | nats                            |

**Tolerance**: t_j = max(0.1 nats, 5 % of predicted_j) + z se_j. The first term is what compare
grants to training (`linvae.verdicts.RATE_TOLERANCE`). se_j: standard error of observed_j -
predicted_j over independent samples, which both are means of: of the KL of a sample less
a_j (e^2/theta_j^2 - 1), e its score of the mode and a_j = d predicted_j / d log theta_j^2, 1/2 for
a unit in use. z: of all k units any is wrong, on either side, in 1 % of the cases, to first order
in 1/sqrt(n): a lost mode of 0.18 nats is found half the time among 8 units and 1000 samples. On
samples other than those of the training this needs modes further apart than their errors: sample
variances of close modes part by up to 4 sqrt(k/n) in their logarithm (64 equal modes and 2000 fresh
samples: some unit is called off the optimum 8 times in 10). Sums alike.

One level, a Gaussian decoder, an encoder that sees the condition if there is one; anything else is
refused, with the call that answers. Errors: ValueError for outputs of an encoder that are no pair
of finite (n, k) arrays, variances where log-variances should be, a learned decoder variance (give
the number that was learned), and as `Moments.from_data` and `VAESpec`. Source: ours; the optimum is
that of `linvae.theory.vae`. Equality that a test checks: the encoder of `solve`'s weights has
observed = predicted, and a mode that it lacks is named.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import ndtri

from linvae.encoders import NetworkFunction, as_arrays, as_function
from linvae.metrics.observe import principal_axes
from linvae.moments import Moments
from linvae.notebook import html_table
from linvae.objectives import GaussianLevel, gaussian_distortion, gaussian_rate_per_unit
from linvae.plots import LOOKS, QUIET, THEORY, Drawing, new_figure
from linvae.spec import CVAESpec, VAESpec
from linvae.theory import Solution, solve
from linvae.theory.any_decoder import best_decoder_errors
from linvae.theory.elbo import Chain
from linvae.theory.finite_training import escape_times
from linvae.theory.held_modes import ALIKE, HeldModes, assign_units, held_modes, turned_scores
from linvae.theory.modes import Modes, mode_decomposition
from linvae.theory.noise_estimation import FALSE_ALARM
from linvae.verdicts import RATE_TOLERANCE, REMEDY_WORDS
from linvae.wording import nats, number, plain

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "ALIVE_AS_PREDICTED",
    "BEYOND",
    "COLLAPSED_AS_PREDICTED",
    "OFF_OPTIMUM",
    "OPTIMISATION",
    "Diagnosis",
    "ModeDiagnosis",
    "UnitDiagnosis",
    "diagnose",
]

Array = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Evidence = Literal["pays", "costs", "even", "unknown"]

COLLAPSED_AS_PREDICTED = "collapsed as theory predicts"
OPTIMISATION = "collapsed below the threshold: optimisation"
ALIVE_AS_PREDICTED = "alive in both"
OFF_OPTIMUM = "alive, not at the optimum"
BEYOND = "alive beyond the linear theory"
SETTINGS = "beta, decoder variance and the scale of the data"
ALIVE = 0.01  # nats, the cutoff of active units in `linvae.metrics.observe`
ROWS = 4096  # samples that networks see at a time
SUBSET = 2000  # samples whose pairs are compared where no decoder is given: 32 MB of doubles
# times beta, nats: what the optimum loses with a mode of 0.1 nats, (e^0.2 - 1.2)/2
MARGIN = 0.0107
# E z^2 over the prior variance is 1 at an optimum; variances v in place of their logarithms make
# it 1 - v + e^v >= 2: half-way
TOO_WIDE = 1.5


@dataclass(frozen=True)
class ModeDiagnosis:
    """One mode of the data that has a unit at the linear optimum; nats without beta.

    | field                     | meaning                                             | unit   |
    |---------------------------|-----------------------------------------------------|--------|
    | mode                      | from 1, by descending variance                      | -      |
    | variance                  | theta^2                                             | data^2 |
    | predicted_nats            | information at the linear optimum                   | nats   |
    | held_nats                 | what a linear decoder reads of it off all units     | nats   |
    | tolerance_nats            | of the difference                                   | nats   |
    | missing                   | True where it is in no unit and should be           | -      |
    | critical_beta             | above it the mode collapses                         | -      |
    | critical_decoder_variance | the same, all else fixed                            | data^2 |
    | escape_time               | of plain descent from small weights, in steps times | time   |
    |                           | learning rate; NaN: not known                       |        |
    | aggressive_escape_time    | the same with the encoder at its best response      | time   |
    """

    mode: int
    variance: float
    predicted_nats: float
    held_nats: float
    tolerance_nats: float
    missing: bool
    critical_beta: float
    critical_decoder_variance: float
    escape_time: float
    aggressive_escape_time: float


@dataclass(frozen=True)
class UnitDiagnosis:
    """One unit; rates in nats without beta, less that of an idle unit.

    | field                     | meaning                                             | unit   |
    |---------------------------|-----------------------------------------------------|--------|
    | unit                      | of the encoder, from 1 (a principal axis where the  | -      |
    |                           | encoder variance is fixed)                          |        |
    | mode                      | the one that it carries, or should, from 1          | -      |
    | mode_missing              | True where no unit holds that mode                  | -      |
    | predicted_nats            | of the mode, at the linear optimum                  | nats   |
    | observed_nats             | mean over the data                                  | nats   |
    | standard_error            | of `observed_nats`                                  | nats   |
    | tolerance_nats            | t_j of the module                                   | nats   |
    | critical_beta and the     | of the mode, as in `ModeDiagnosis`                  |        |
    | three after it            |                                                     |        |
    | evidence                  | whether the code of all units "pays", "costs", is   | -      |
    |                           | "even" with the linear optimum, or "unknown"        |        |
    | verdict, advice           | words, and what to do                               |        |
    """

    unit: int
    mode: int
    mode_missing: bool
    predicted_nats: float
    observed_nats: float
    standard_error: float
    tolerance_nats: float
    critical_beta: float
    critical_decoder_variance: float
    escape_time: float
    aggressive_escape_time: float
    evidence: Evidence
    verdict: str

    @property
    def advice(self) -> str:
        """What to do about the unit."""
        return _ADVICE[self.verdict](self)


@dataclass(frozen=True, eq=False, repr=False)
class Diagnosis:
    """Units by descending observed rate, the modes, and what they say together.

    `linear`: the linear optimum. `objective_nats`: that of the network, to hold against
    `linear.objective`, and its Monte-Carlo error; NaN without a decoder.
    """

    units: tuple[UnitDiagnosis, ...]
    modes: tuple[ModeDiagnosis, ...]
    spec: VAESpec
    n_samples: int
    objective_nats: float
    objective_error: float
    linear: Solution

    @property
    def verdict(self) -> str:
        """Of the unit that matters most: "alive in both" where there is nothing else to say."""
        found = {unit.verdict for unit in self.units}
        order = (OPTIMISATION, BEYOND, OFF_OPTIMUM, COLLAPSED_AS_PREDICTED, ALIVE_AS_PREDICTED)
        return next(v for v in order if v in found)

    @property
    def missing_modes(self) -> tuple[ModeDiagnosis, ...]:
        """Modes that no linear decoder reads off the units, although theory keeps them alive."""
        return tuple(mode for mode in self.modes if mode.missing)

    @property
    def predicted_rate(self) -> float:
        """Sum over units, nats."""
        return math.fsum(unit.predicted_nats for unit in self.units)

    @property
    def observed_rate(self) -> float:
        """Sum over units, nats."""
        return math.fsum(unit.observed_nats for unit in self.units)

    @property
    def predicted_active_units(self) -> int:
        """Units that the linear optimum has above `ALIVE` nats."""
        return sum(unit.predicted_nats > ALIVE for unit in self.units)

    @property
    def observed_active_units(self) -> int:
        """Units of the network above `ALIVE` nats."""
        return sum(unit.observed_nats > ALIVE for unit in self.units)

    @property
    def sentence(self) -> str:
        """The verdict with its numbers and the way out."""
        counts = Counter(unit.verdict for unit in self.units)
        found = ", ".join(f"{counts[v]} {v}" for v in _ADVICE if v in counts)
        return (
            f"{self.verdict[0].upper()}{self.verdict[1:]}. Of {len(self.units)} units at beta = "
            f"{plain(self.spec.beta)}, decoder variance {plain(self.linear.decoder_variance)}: "
            f"{found}; "
            f"{nats(self.observed_rate)} nats, {self.observed_active_units} active, against "
            f"{nats(self.predicted_rate)}, {self.predicted_active_units} active, at the linear "
            f"optimum{self._objectives()}. {self._missing()}{self._way_out()}."
        )

    def _way_out(self) -> str:
        """Advice for the first unit of the verdict; where theory keeps several dead, for all."""
        units = [unit for unit in self.units if unit.verdict == self.verdict]
        first = max(units, key=lambda u: u.critical_beta) if self._predicted_dead else units[0]
        words = f"Unit {first.unit}: {first.advice}"
        last = min(units, key=lambda u: u.critical_beta)
        if not self._predicted_dead or last is first or not last.critical_beta > 0:
            return words
        return f"{words}; to wake all {len(units)}, below {_threshold(last)}"

    @property
    def _predicted_dead(self) -> bool:
        return self.verdict == COLLAPSED_AS_PREDICTED

    def _missing(self) -> str:
        """Which modes, where training is to blame; a curved code may hold them all the same."""
        if not self.missing_modes or self.verdict not in (OPTIMISATION, OFF_OPTIMUM):
            return ""
        modes = [
            f"{m.mode} ({nats(m.held_nats)} of {nats(m.predicted_nats)} nats, alive up to beta = "
            f"{number(m.critical_beta)})"
            for m in self.missing_modes
        ]
        return f"Missing {'mode' if len(modes) == 1 else 'modes'}: {', '.join(modes)}. "

    def _objectives(self) -> str:
        if math.isnan(self.objective_nats):
            return ""
        return (
            f", objective {number(self.objective_nats)} (error {number(self.objective_error, 2)}) "
            f"against {number(self.linear.objective)} (lower is better)"
        )

    def to_rows(self) -> list[dict[str, Any]]:
        """One row per unit, by descending observed rate."""
        return [
            {"rank": rank + 1} | asdict(unit) | {"advice": unit.advice}
            for rank, unit in enumerate(self.units)
        ]

    def __repr__(self) -> str:
        """The sentence; `table` and `to_rows` have the numbers."""
        return f"Diagnosis({self.sentence!r})"

    def _repr_html_(self) -> str:
        """The units as a table, in notebooks."""
        shown = ("unit", "mode", "predicted_nats", "observed_nats", "standard_error", "verdict")
        rows = [{name: row[name] for name in shown} for row in self.to_rows()]
        return html_table(self.sentence, rows)

    def table(self) -> Table:
        """The units as a table of rich."""
        from rich.table import Table

        shown = Table(title=self.verdict)
        for name in ("unit", "mode", "predicted, nats", "observed, nats", "critical beta"):
            shown.add_column(name, justify="right")
        shown.add_column("verdict")
        for u in self.units:
            seen = f"{nats(u.observed_nats)} ± {nats(u.standard_error)}"
            critical = number(u.critical_beta)
            shown.add_row(
                str(u.unit), str(u.mode), nats(u.predicted_nats), seen, critical, u.verdict
            )
        return shown

    def draw(self) -> Drawing:
        """Observed against predicted rate of every unit, and the band that agrees."""
        with new_figure(1, size=(6.4, 5.2)) as (figure, (axes,)):
            top = max(max(u.predicted_nats, u.observed_nats) for u in self.units)
            end = 1.08 * max(top, 2 * RATE_TOLERANCE[0])
            axes.plot((0, end), (0, end), color=THEORY, label="theory: observed = predicted")
            axes.axhline(ALIVE, color=QUIET, lw=0.8, ls=":", label=f"active above {ALIVE} nats")
            for verdict, (colour, marker, _) in zip(_ADVICE, LOOKS, strict=False):
                units = [u for u in self.units if u.verdict == verdict]
                if units:
                    axes.errorbar(
                        [u.predicted_nats for u in units],
                        [u.observed_nats for u in units],
                        yerr=[u.tolerance_nats for u in units],
                        color=colour, marker=marker, ls="none", lw=0.8, label=verdict,
                    )  # fmt: skip
            axes.set_xlim(-0.04 * end, end)
            axes.set_ylim(-0.04 * end, end)
            axes.set_xlabel("predicted KL of the unit, nats (linear optimum)")
            axes.set_ylabel("observed KL of the unit, nats (bars: tolerance)")
            handles, labels = axes.get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside upper left", ncols=2)
        return Drawing(figure, f"Observed against predicted KL per unit. {self.sentence}")


def diagnose(
    encoder: Any,
    target: npt.ArrayLike,
    *,
    condition: npt.ArrayLike | None = None,
    beta: float = 1.0,
    decoder_variance: float = 1.0,
    prior_variance: float = 1.0,
    encoder_variance: float | None = None,
    decoder: Any = None,
    likelihood: str = "gaussian",
    encoder_sees: str = "both",
    trust_log_variances: bool = False,
    seed: int = 0,
) -> Diagnosis:
    """Hold a trained encoder against the linear optimum on `target` (n, d); see the module.

    `encoder`: of any kind in `linvae.encoders`; called with batches of the target, and of the
    condition after it, returns means and log-variances, (n, k) each. `decoder`, if there is one:
    latents (n, k), and condition, to the mean of the target; four draws per sample, two of them the
    others reflected, `seed`. Data should be those, or of the kind, that the network was trained on,
    in the same units. `trust_log_variances`: take them even where they look like variances.
    Raises ValueError as the module says.
    """
    _check_model(decoder_variance, likelihood, encoder_sees)
    y = np.asarray(target)
    x = None if condition is None else np.asarray(condition)
    moments = Moments.from_data(y, x)
    mean, log_variance = _posteriors(as_function(encoder), y, x)
    if not trust_log_variances and encoder_variance is None:
        _refuse_variances(mean, log_variance, prior_variance)
    kind = VAESpec if x is None else CVAESpec
    spec = kind(
        mean.shape[1],
        beta=beta,
        decoder_variance=decoder_variance,
        prior_variance=prior_variance,
        encoder_variance=encoder_variance,
    )
    if encoder_variance is not None:
        _check_fixed(log_variance, encoder_variance)
    solution = solve(spec, moments)
    objective, error = math.nan, math.nan
    if decoder is not None:
        q = GaussianLevel(torch.from_numpy(mean), torch.from_numpy(log_variance))
        objective, error = _objective(spec, q, as_function(decoder, "decoder"), y, x, seed)
        evidence = _evidence(spec, solution.objective - objective, error)
    else:
        evidence = _evidence_of_bounds(spec, moments, solution, mean, log_variance, y, x, seed)
    code = _code(mean, log_variance, spec)
    units, modes = _judged(spec, moments, solution, code, _scores(spec, moments, y, x), evidence, x)
    return Diagnosis(units, modes, spec, len(y), objective, error, solution)


def _check_model(decoder_variance: Any, likelihood: str, encoder_sees: str) -> None:
    """Refuse what has no known optimum to be held against, with the call that answers instead."""
    if isinstance(decoder_variance, bool) or not isinstance(decoder_variance, Real):
        raise ValueError(
            f"decoder_variance={decoder_variance!r} must be a number in diagnose: give the value "
            "that the network has learned"
        )
    if likelihood != "gaussian":
        raise ValueError(
            f"likelihood={likelihood!r} must be 'gaussian' in diagnose: of other decoders the "
            "optimum is not known, only when total collapse is stable; hold beta against "
            f"linvae.stability(VAESpec(k, likelihood={likelihood!r}), moments).critical_beta[0]: "
            "collapsed in all units below it is a failure of training"
        )
    if encoder_sees != "both":
        raise ValueError(
            f"encoder_sees={encoder_sees!r} must be 'both' in diagnose: an encoder that does not "
            "see the condition collapses earlier; hold its rate against "
            "linvae.solve(CVAESpec(k, encoder_sees='target', ...), moments).rates (one unit or a "
            "scalar target), or beta against linvae.stability of the same"
        )


def _check_fixed(log_variance: Array, encoder_variance: float) -> None:
    """Refuse an encoder whose variance is not the fixed one; 1 %: it may be kept in float32."""
    low, high = float(np.exp(log_variance.min())), float(np.exp(log_variance.max()))
    if not (low > 0.99 * encoder_variance and high < 1.01 * encoder_variance):
        raise ValueError(
            f"encoder_variance={encoder_variance} is not what the encoder gives: its variances are "
            f"{low:.3g} to {high:.3g} in diagnose; leave it out where they are learned"
        )


# --- what is observed ---------------------------------------------------------------------------


def _posteriors(encoder: NetworkFunction, y: Any, x: Any) -> tuple[Array, Array]:
    """Means and log-variances of all samples, in batches."""
    parts = []
    for start in range(0, len(y), ROWS):
        rows = slice(start, start + ROWS)
        output = encoder(y[rows]) if x is None else encoder(y[rows], x[rows])
        parts.append(_checked_pair(as_arrays(output), len(y[rows])))
    widths = {mean.shape[1] for mean, _ in parts}
    if len(widths) > 1:
        raise ValueError(f"encoder returned {sorted(widths)} units in different batches")
    mean, log_variance = (np.concatenate(part) for part in zip(*parts, strict=True))
    return mean, log_variance


def _checked_pair(output: Any, n: int) -> tuple[Array, Array]:
    if isinstance(output, (tuple, list)) and any(isinstance(v, (tuple, list)) for v in output):
        raise ValueError(
            f"encoder returned {len(output)} pairs, as a hierarchy of as many levels does: "
            "diagnose knows one level; hold the rates of the levels against "
            "linvae.solve(HVAESpec(...), moments).rates"
        )
    if not isinstance(output, (tuple, list)) or len(output) != 2:
        what = (
            f"{len(output)} parts" if isinstance(output, (tuple, list)) else type(output).__name__
        )
        raise ValueError(
            f"encoder returned {what} but must return a pair (mean, log_variance), each (n, k)"
        )
    mean, log_variance = (np.asarray(part, dtype=np.float64) for part in output)
    if mean.ndim != 2 or len(mean) != n or mean.shape[1] == 0:
        raise ValueError(
            f"encoder returned means of shape {mean.shape} but must return ({n}, k) for {n} samples"
        )
    if log_variance.shape != mean.shape:
        raise ValueError(
            f"encoder returned log-variances of shape {log_variance.shape} but its means have "
            f"{mean.shape}: one log-variance per mean (repeat those that are shared)"
        )
    for name, values in (("means", mean), ("log-variances", log_variance)):
        bad = int(np.sum(~np.isfinite(values)))
        if bad:
            raise ValueError(
                f"encoder returned {bad} of {values.size} {name} that are NaN or infinite: the "
                "training diverged, or the data are not scaled as in training"
            )
    return mean, log_variance


def _refuse_variances(mean: Array, log_variance: Array, prior_variance: float) -> None:
    """ValueError where log-variances make no sense unless they are variances."""
    widest = np.mean(mean**2) + np.mean(np.exp(np.minimum(log_variance, 50.0)))
    every = np.all(log_variance > math.log(prior_variance))
    if every and widest > TOO_WIDE * prior_variance:
        raise ValueError(
            f"encoder's log-variances are all above log(prior_variance)="
            f"{math.log(prior_variance):.3g} and E z^2 is {widest:.3g}, beyond {TOO_WIDE} * "
            f"prior_variance={prior_variance}: probably it returns variances or standard "
            "deviations; return their logarithm, log sigma^2, or give trust_log_variances=True "
            "(--trust-log-variances) if it does"
        )


def _double(value: Any) -> torch.Tensor:
    """A number as it is: torch rounds to 3e-8 of it unless told, nats where variances are far."""
    return torch.tensor(float(value), dtype=torch.float64)


def _rates(mean: Array, log_variance: Array, prior_variance: float) -> Array:
    """KL of every sample and unit, (n, k), nats."""
    q = GaussianLevel(torch.from_numpy(mean), torch.from_numpy(log_variance))
    square = q.mean.square() + q.log_variance.exp()
    rates: Array = gaussian_rate_per_unit(q, square, _double(prior_variance)).numpy()
    return rates


@dataclass(frozen=True)
class _Code:
    """Means and variances, along principal axes where the latter are fixed; rates above idle."""

    mean: Array
    variance: Array
    rates: Array


def _code(mean: Array, log_variance: Array, spec: VAESpec) -> _Code:
    variance = np.exp(log_variance)
    if spec.encoder_variance is None:
        return _Code(mean, variance, _rates(mean, log_variance, spec.prior_variance))
    axes = principal_axes(torch.from_numpy(mean)).numpy()
    idle = _rates(0 * mean[:1], log_variance[:1], spec.prior_variance)
    return _Code(axes, variance, _rates(axes, log_variance, spec.prior_variance) - idle)


def _scores(spec: VAESpec, moments: Moments, y: Any, x: Any) -> Array:
    """Centred scores of the modes that may have a unit, and of those like the last, (n, m)."""
    modes: Modes = mode_decomposition(spec, moments)
    last = modes.variances[min(spec.latent_dim, len(modes.variances)) - 1]
    shown = max(spec.latent_dim, int(np.sum(modes.variances * ALIKE >= last))) if last > 0 else None
    readout = modes.readout[:shown].T
    parts = []
    for start in range(0, len(y), ROWS):
        rows = slice(start, start + ROWS)
        v = y[rows] if x is None else np.concatenate([x[rows], y[rows]], axis=1)
        parts.append((v - moments.mean) @ readout)
    return np.concatenate(parts) * (modes.variances[:shown] > 0)


def _beyond_condition(mean: Array, x: Any) -> Array:
    """Means less their regression on the condition, which the decoder sees anyhow."""
    if x is None:
        return mean
    given = np.column_stack([np.ones(len(x)), x]).astype(np.float64)
    return np.asarray(mean - given @ np.linalg.lstsq(given, mean, rcond=None)[0])


def _objective(
    spec: VAESpec, q: GaussianLevel, decoder: NetworkFunction, y: Any, x: Any, seed: int
) -> tuple[float, float]:
    """Objective of the network on these data, nats per sample, and its Monte-Carlo error.

    Two pairs of reflected draws; the difference of the pairs gives the error.
    """
    rng = np.random.default_rng(seed)
    s, d = _double(spec.decoder_variance), y.shape[1]
    pairs = []
    for _ in range(2):
        noise = torch.from_numpy(rng.standard_normal(q.mean.shape))
        errors = [_squared_errors(decoder, q.sample(e).numpy(), y, x) for e in (noise, -noise)]
        pairs.append(gaussian_distortion(torch.from_numpy(sum(errors) / 2), d, s).numpy())
    rate = _rates(q.mean.numpy(), q.log_variance.numpy(), spec.prior_variance).sum(axis=1)
    objective = np.mean((pairs[0] + pairs[1]) / 2 + spec.beta * rate)
    error = math.sqrt(np.mean(((pairs[0] - pairs[1]) / 2) ** 2) / len(y))
    return float(objective), error


def _squared_errors(decoder: NetworkFunction, z: Array, y: Any, x: Any) -> Array:
    """|y - decoder mean|^2 of every sample, (n,)."""
    errors = []
    for start in range(0, len(y), ROWS):
        rows = slice(start, start + ROWS)
        output = decoder(z[rows]) if x is None else decoder(z[rows], x[rows])
        decoded = np.asarray(as_arrays(output), dtype=np.float64).reshape(len(z[rows]), -1)
        if decoded.shape != y[rows].shape:
            raise ValueError(
                f"decoder returned {decoded.shape} for {z[rows].shape} latents but the target has "
                f"{y[rows].shape}: it must return the mean of the target"
            )
        errors.append(np.sum((y[rows] - decoded) ** 2, axis=1))
    return np.concatenate(errors)


def _evidence(spec: VAESpec, lead: float, error: float) -> Evidence:
    """What an objective below the linear optimum's by `lead` says, beyond margin and error."""
    doubt = MARGIN * spec.beta + _quantile(1) * error
    if not abs(lead) > doubt:  # NaN, where variances overflow, says nothing
        return "even"
    return "pays" if lead > 0 else "costs"


def _evidence_of_bounds(
    spec: VAESpec,
    moments: Moments,
    solution: Solution,
    mean: Array,
    log_variance: Array,
    y: Any,
    x: Any,
    seed: int,
) -> Evidence:
    """What every decoder, and one that can be had, would make of the code of some samples.

    Held against the linear optimum of all samples, on those; two pairs of reflected draws.
    """
    rng = np.random.default_rng(seed)
    some = np.sort(rng.permutation(len(y))[:SUBSET])
    v = (y if x is None else np.concatenate([x, y], axis=1))[some].astype(np.float64)
    copies = np.unique(y[some], axis=0, return_inverse=True)[1].reshape(-1)
    v = v - moments.mean
    dx = moments.condition_dim
    target = v[:, dx:] - v[:, :dx] @ moments.regression.T
    mu, variance = _beyond_condition(mean, x)[some], np.exp(log_variance[some])
    rate = _rates(mean[some], log_variance[some], spec.prior_variance).sum(axis=1)
    linear = _linear_objectives(spec, moments, solution, v)
    s = _double(spec.decoder_variance)
    pairs = []
    for _ in range(2):
        noise = rng.standard_normal(mu.shape)
        draws = [best_decoder_errors(target, mu, variance, e, copies) for e in (noise, -noise)]
        pairs.append(np.mean(draws, axis=0) * [[x is None], [1.0]])  # a condition can tell all
    paid = gaussian_distortion(torch.from_numpy(np.array(pairs)), y.shape[1], s).numpy()
    lead = linear - paid.mean(axis=0) - spec.beta * rate  # of the bound, of one to be had; samples
    left_out = (1 - len(some) / len(y)) * lead.var(axis=1, ddof=1)
    error = np.sqrt((np.mean(((paid[0] - paid[1]) / 2) ** 2, axis=1) + left_out) / len(some))
    least, had = (_evidence(spec, o, e) for o, e in zip(lead.mean(axis=1), error, strict=True))
    if least == "costs":
        return "costs"
    return "pays" if had == "pays" else "unknown"


def _linear_objectives(spec: VAESpec, moments: Moments, solution: Solution, v: Array) -> Array:
    """Objective of the linear optimum on every sample of centred v = (x, y), (n,), nats."""
    chain = Chain.from_weights(spec, moments, solution.weights)
    mu, variance = v @ chain.encoder.T, np.diag(chain.Sigma[0])
    d, U = moments.target_dim, chain.U[0]
    left = v[:, moments.condition_dim :] - mu @ U.T - v @ chain.skip.T
    square = np.sum(left**2, axis=1) + np.sum(U**2 * variance)
    s = _double(chain.s)
    rate = _rates(mu, np.log(variance) + 0 * mu, spec.prior_variance).sum(axis=1)
    paid = gaussian_distortion(torch.from_numpy(square), d, s).numpy()
    return np.asarray(paid + spec.beta * rate)


# --- what it means ------------------------------------------------------------------------------


def _judged(
    spec: VAESpec,
    moments: Moments,
    solution: Solution,
    code: _Code,
    scores: Array,
    evidence: Evidence,
    x: Any,
) -> tuple[tuple[UnitDiagnosis, ...], tuple[ModeDiagnosis, ...]]:
    """Units by descending rate, and modes."""
    predicted, slope = _predicted(spec, solution), _slope(spec, moments, solution)
    surprise = slope * _relative_squares(scores[:, : spec.latent_dim], spec.latent_dim)
    mean = _beyond_condition(code.mean, x)
    turned = turned_scores(scores, mean, code.variance, spec.latent_dim)
    held = held_modes(turned, mean, code.variance)
    modes = _modes(spec, moments, solution, held, surprise)
    order = np.argsort(-code.rates.mean(axis=0), kind="stable")
    rates = code.rates[:, order]
    carried = assign_units(held.unit_shares[:, order], rates.mean(axis=0))
    observed, error = rates.mean(axis=0), _error(rates)
    tolerance = _tolerance(
        predicted[carried], _error(rates - surprise[:, carried]), spec.latent_dim
    )
    beyond, full = _beyond(predicted, surprise, rates)
    found = _verdicts(predicted[carried], observed, tolerance, beyond, full, evidence)
    units = []
    for j, mode in enumerate(modes[i] for i in carried):
        units.append(
            UnitDiagnosis(
                unit=int(order[j]) + 1,
                mode=mode.mode,
                mode_missing=mode.missing,
                predicted_nats=float(predicted[carried[j]]),
                observed_nats=float(observed[j]),
                standard_error=float(error[j]),
                tolerance_nats=float(tolerance[j]),
                critical_beta=mode.critical_beta,
                critical_decoder_variance=mode.critical_decoder_variance,
                escape_time=mode.escape_time,
                aggressive_escape_time=mode.aggressive_escape_time,
                evidence=evidence,
                verdict=found[j],
            )
        )
    return tuple(units), modes


def _modes(
    spec: VAESpec, moments: Moments, solution: Solution, held: HeldModes, surprise: Array
) -> tuple[ModeDiagnosis, ...]:
    """The first k; those beyond the target's dimensions have no variance and are held by nobody."""
    k, m = spec.latent_dim, len(held.shares)
    predicted, seen = solution.information[0, :k], np.zeros(k)
    seen[:m] = held.held_nats
    influence = -surprise
    influence[:, :m] += held.influence
    tolerance = _tolerance(predicted, _error(influence), k)
    missing = _missing(predicted, seen, tolerance)
    times = [_escape_times(spec, moments, solution, update) for update in ("joint", "aggressive")]
    return tuple(
        ModeDiagnosis(
            mode=i + 1,
            variance=float(solution.mode_variances[i]),
            predicted_nats=float(predicted[i]),
            held_nats=float(seen[i]),
            tolerance_nats=float(tolerance[i]),
            missing=bool(missing[i]),
            critical_beta=float(solution.critical_beta[i]),
            critical_decoder_variance=float(solution.critical_decoder_variance[i]),
            escape_time=float(times[0][i]),
            aggressive_escape_time=float(times[1][i]),
        )
        for i in range(k)
    )


def _predicted(spec: VAESpec, solution: Solution) -> Array:
    """Rates of the modes with a unit, less that of an idle unit."""
    rates: Array = solution.mode_rates[0, : spec.latent_dim]
    if spec.encoder_variance is None:
        return rates
    idle = np.log(np.full((1, 1), spec.encoder_variance))
    return np.asarray(rates - _rates(0 * idle, idle, spec.prior_variance)[0])


def _slope(spec: VAESpec, moments: Moments, solution: Solution) -> Array:
    """d predicted / d log theta^2, over a standard deviation of a sample eigenvalue, sqrt(2/n)."""
    assert moments.n_samples is not None
    step = math.sqrt(2 / moments.n_samples)
    wider = Moments.from_covariance(
        moments.covariance * (1 + step), condition_dim=moments.condition_dim
    )
    rise = _predicted(spec, solve(spec, wider)) - _predicted(spec, solution)
    return np.asarray(rise / math.log1p(step))


def _relative_squares(scores: Array, k: int) -> Array:
    """e^2/theta^2 - 1 of every sample, (n, k): its share in the error of a sample eigenvalue."""
    squares = np.zeros((len(scores), k))
    theta2 = np.mean(scores**2, axis=0)
    squares[:, : len(theta2)] = scores**2 / np.where(theta2 > 0, theta2, 1.0) - (theta2 > 0)
    return squares


def _error(values: Array) -> Array:
    """Standard error of the mean over samples."""
    error: Array = values.std(axis=0, ddof=1) / math.sqrt(len(values))
    return error


def _tolerance(predicted: Array, error: Array, k: int) -> Array:
    """t_j of the module; `predicted` and the error of the difference: of units, sums or modes."""
    least, share = RATE_TOLERANCE
    tolerance: Array = np.maximum(least, share * predicted) + _quantile(k) * error
    return tolerance


def _quantile(k: int) -> float:
    """Of the normal distribution: one of k units is outside, on either side, in 1 % of cases."""
    return float(-ndtri(FALSE_ALARM / (2 * k)))


def _missing(predicted: Array, seen: Array, tolerance: Array) -> Bools:
    """Where next to nothing is there of what should be."""
    return np.asarray((seen < predicted - tolerance) & (seen < tolerance))


def _beyond(predicted: Array, surprise: Array, rates: Array) -> tuple[Bools, Bools]:
    """Of every rank: beyond the theory; whether such units hold all nats up to there."""
    k, observed = len(predicted), rates.mean(axis=0)
    tolerance = _tolerance(predicted, _error(rates - surprise), k)
    sums = _error(np.cumsum(rates - surprise, axis=1))
    slack = _tolerance(np.cumsum(predicted), sums, k)
    return _beyond_ranks(predicted, observed, tolerance, slack)


def _beyond_ranks(
    predicted: Array, observed: Array, tolerance: Array, slack: Array
) -> tuple[Bools, Bools]:
    excess = observed - predicted
    total = np.cumsum(excess)
    beyond = (excess > tolerance) & (total > slack)
    return beyond, (total >= 0) & np.logical_or.accumulate(beyond)


def _verdicts(
    predicted: Array,
    observed: Array,
    tolerance: Array,
    beyond: Bools,
    full: Bools,
    evidence: Evidence,
) -> list[str]:
    """Of every unit, with the rate of its mode; the module's table."""
    missing = _missing(predicted, observed, tolerance)
    excused = missing & (full | (evidence == "pays"))
    found = np.where(
        np.minimum(predicted, observed) > ALIVE, ALIVE_AS_PREDICTED, COLLAPSED_AS_PREDICTED
    )
    found = np.where(np.abs(observed - predicted) > tolerance, OFF_OPTIMUM, found)
    found = np.where(missing, OPTIMISATION, found)
    if evidence != "costs":
        found = np.where(beyond | excused, BEYOND, found)
    return [str(verdict) for verdict in found]


def _escape_times(spec: VAESpec, moments: Moments, solution: Solution, update: Any) -> Array:
    """Until the modes hold `ALIVE` nats; known for a plain VAE that learns its variances."""
    k = spec.latent_dim
    if moments.condition_dim or spec.encoder_variance is not None:
        return np.full(k, np.nan)
    times: Array = escape_times(
        solution.mode_variances[:k],
        beta=spec.beta,
        decoder_variance=solution.decoder_variance,
        prior_variance=spec.prior_variance,
        epsilon_nats=ALIVE,
        update=update,
    )
    return times


# --- advice -------------------------------------------------------------------------------------


def _change_price(u: UnitDiagnosis) -> str:
    if not u.critical_beta > 0:
        return "no variance is left for it at any beta: use fewer latent units"
    where = _threshold(u)
    if u.predicted_nats > 0:
        return f"its threshold, {where}, is so near that its rate is within the tolerance; go below"
    return f"to wake it go below {where}"


def _threshold(u: UnitDiagnosis) -> str:
    return (
        f"beta = {number(u.critical_beta)} or decoder variance = "
        f"{number(u.critical_decoder_variance)}"
    )


def _change_training(u: UnitDiagnosis) -> str:
    ways = f"{REMEDY_WORDS['aggressive']} or {REMEDY_WORDS['annealing']}"
    state = "is in no unit" if u.mode_missing else "is held by others in part, not by a unit alone"
    start = (
        f"mode {u.mode}, which theory keeps alive up to beta = {number(u.critical_beta)}, {state}: "
        f"train longer, or {ways}"
    )
    if math.isnan(u.escape_time):
        return start
    return (
        f"{start}; from weights of 1e-3 plain descent leaves collapse after steps * learning rate ="
        f" {number(u.escape_time, 3)}, aggressive training after "
        f"{number(u.aggressive_escape_time, 3)}"
    )


def _keep(u: UnitDiagnosis) -> str:
    return f"stays alive up to beta = {number(u.critical_beta)}"


def _settle(u: UnitDiagnosis) -> str:
    start = (
        f"holds {nats(u.observed_nats)} nats where mode {u.mode} has {nats(u.predicted_nats)} at "
        "the linear optimum"
    )
    if u.evidence == "costs" and u.observed_nats > u.predicted_nats:
        return (
            f"{start}, and its nats do not pay: train longer, or {SETTINGS} are not those of the "
            "training"
        )
    return (
        f"{start}: units that still grow or turn towards the modes (train longer), a code of "
        f"another shape, or {SETTINGS} are not those of the training"
    )


def _curved(u: UnitDiagnosis) -> str:
    known = u.evidence == "pays"
    if u.observed_nats < u.predicted_nats:
        return f"collapsed, but {'curved' if known else 'other'} units hold its nats"
    start = (
        f"holds {nats(u.observed_nats)} nats where a linear model holds {nats(u.predicted_nats)}"
    )
    if known:
        return (
            f"{start}, and they pay: curved structure, which linvae.universal_threshold bounds, if "
            f"{SETTINGS} are those of the training"
        )
    why = (
        "its objective is that of the linear optimum"
        if u.evidence == "even"
        else "cannot tell without decoder (give it)"
    )
    return f"{start}: curved structure, or a network that is not at its optimum; {why}"


_ADVICE = {  # in the order of the sentence
    ALIVE_AS_PREDICTED: _keep,
    COLLAPSED_AS_PREDICTED: _change_price,
    OPTIMISATION: _change_training,
    BEYOND: _curved,
    OFF_OPTIMUM: _settle,
}
