"""Is this collapse the one that theory predicts, or a failure of the training?

A trained encoder is held against the optimum of the linear VAE of the same beta, decoder variance
and latent dimension on the same data (`linvae.solve`), unit by unit:

    observed_j  = mean over the data of KL(q(z_j|x) || p),  descending
    predicted_j = the rate of mode j at the linear optimum, descending

both less what an idle unit costs (nothing, unless the encoder variance is fixed). Units of a
trained network are in no order and may be rotated, so ranks are compared, and sums of ranks: at
every stationary point of a linear VAE each unit in use carries a mode of its own, so no sum of the
largest observed rates exceeds that of the predicted ones. With t_j the tolerance below,

| verdict                                  | where                                               |
|------------------------------------------|-----------------------------------------------------|
| alive beyond the linear theory           | observed_j > predicted_j + t_j, and the sum to rank |
|                                          | j exceeds its own tolerance or predicted_j = 0      |
| collapsed below the threshold: optimisation | observed_j < t_j and < predicted_j - t_j         |
| alive in both                            | otherwise, both above `ALIVE` nats, at any rate     |
| collapsed as theory predicts             | the rest: mode variance below beta s, or so close   |
|                                          | above it that t_j does not tell                     |

A unit that theory keeps alive is "beyond" too, although collapsed, where units beyond the theory
hold its nats already (the sum to its rank), or where a `decoder` is given and the network's
objective is below the linear optimum's: then there is nothing that the collapse has lost. Where it
is above, units that theory keeps alive are not "beyond": their rate does not pay.

| symbol  | argument               | shape           | unit                            |
|---------|------------------------|-----------------|---------------------------------|
| y, x    | target, condition      | (n, d), (n, dx) | data units                      |
| beta, s | beta, decoder_variance | scalar          | -, data units^2                 |
| eta^2   | prior_variance         | scalar          | latent units^2                  |
| sigma^2 | encoder_variance       | scalar          | latent units^2, None: learned   |
| t_j     | tolerance_nats         | (k,)            | nats                            |

**Tolerance**: t_j = max(0.1 nats, 5 % of predicted_j) + z sqrt(se_j^2 + sd_j^2). The first term is
what compare grants to training (`linvae.verdicts.RATE_TOLERANCE`). se_j: standard error of the mean
KL over independent samples. sd_j: of the prediction, by the delta method, from the relative
standard deviation sqrt(2/n) of a sample eigenvalue of Gaussian data: for a unit in use 1/sqrt(2 n).
z: both signs of k units are wrong in 1 % of the cases. Of a sum the first term is that of the
summed prediction, se_j that of the summed KL, and the sd_j, of nearly independent eigenvalues, add
in squares.

Errors: ValueError for outputs of an encoder that are no pair of finite (n, k) arrays, variances
where log-variances should be, a learned decoder variance (give the number that was learned), and as
`Moments.from_data` and `VAESpec`. Source: ours; the optimum is that of `linvae.theory.vae`.
Equality that a test checks: the encoder of `solve`'s weights has observed = predicted.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import ndtri

from linvae.encoders import NetworkFunction, as_function
from linvae.metrics.observe import principal_axes
from linvae.moments import Moments
from linvae.objectives import GaussianLevel, gaussian_distortion, gaussian_rate_per_unit
from linvae.plots import LOOKS, QUIET, THEORY, Drawing, new_figure
from linvae.spec import CVAESpec, VAESpec
from linvae.theory import Solution, solve
from linvae.theory.finite_training import escape_times
from linvae.theory.noise_estimation import FALSE_ALARM
from linvae.verdicts import RATE_TOLERANCE, REMEDY_WORDS
from linvae.wording import nats, number, plain

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "ALIVE_AS_PREDICTED",
    "BEYOND",
    "COLLAPSED_AS_PREDICTED",
    "OPTIMISATION",
    "Diagnosis",
    "UnitDiagnosis",
    "diagnose",
]

Array = npt.NDArray[np.float64]

COLLAPSED_AS_PREDICTED = "collapsed as theory predicts"
OPTIMISATION = "collapsed below the threshold: optimisation"
ALIVE_AS_PREDICTED = "alive in both"
BEYOND = "alive beyond the linear theory"
ALIVE = 0.01  # nats, the cutoff of active units in `linvae.metrics.observe`
ROWS = 4096  # samples that networks see at a time
# E z^2 over the prior variance is 1 at an optimum; variances v in place of their logarithms make
# it 1 - v + e^v >= 2: half-way
TOO_WIDE = 1.5


@dataclass(frozen=True)
class UnitDiagnosis:
    """One unit; rates in nats without beta, less that of an idle unit.

    | field                     | meaning                                             | unit   |
    |---------------------------|-----------------------------------------------------|--------|
    | unit                      | of the encoder, from 1 (a principal axis where the  | -      |
    |                           | encoder variance is fixed)                          |        |
    | predicted_nats            | of the mode of the same rank, at the linear optimum | nats   |
    | observed_nats             | mean over the data                                  | nats   |
    | standard_error            | of `observed_nats`                                  | nats   |
    | tolerance_nats            | t_j of the module                                   | nats   |
    | critical_beta             | above it the mode collapses                         | -      |
    | critical_decoder_variance | the same, all else fixed                            | data^2 |
    | escape_time               | of plain descent from small weights, in steps times | time   |
    |                           | learning rate; NaN: not known                       |        |
    | aggressive_escape_time    | the same with the encoder at its best response      | time   |
    | verdict, advice           | words, and what to do                               |        |
    """

    unit: int
    predicted_nats: float
    observed_nats: float
    standard_error: float
    tolerance_nats: float
    critical_beta: float
    critical_decoder_variance: float
    escape_time: float
    aggressive_escape_time: float
    verdict: str

    @property
    def advice(self) -> str:
        """What to do about the unit."""
        return _ADVICE[self.verdict](self)


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """Units by descending observed rate, and what they say together.

    `linear`: the linear optimum. `objective_nats`: that of the network, to hold against
    `linear.objective`, and its Monte-Carlo error; NaN without a decoder.
    """

    units: tuple[UnitDiagnosis, ...]
    spec: VAESpec
    n_samples: int
    objective_nats: float
    objective_error: float
    linear: Solution

    @property
    def verdict(self) -> str:
        """Optimisation where any unit says so, then beyond, then alive in both."""
        found = {unit.verdict for unit in self.units}
        return next(
            v
            for v in (OPTIMISATION, BEYOND, ALIVE_AS_PREDICTED, COLLAPSED_AS_PREDICTED)
            if v in found
        )

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
        unit = next(unit for unit in self.units if unit.verdict == self.verdict)
        return (
            f"{self.verdict[0].upper()}{self.verdict[1:]}. Of {len(self.units)} units at beta = "
            f"{plain(self.spec.beta)}, decoder variance {plain(self.linear.decoder_variance)}: "
            f"{found}; "
            f"{nats(self.observed_rate)} nats in {self.observed_active_units} active units, "
            f"{nats(self.predicted_rate)} in {self.predicted_active_units} at the linear optimum"
            f"{self._objectives()}. Unit {unit.unit}: {unit.advice}."
        )

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

    def table(self) -> Table:
        """The units as a table of rich."""
        from rich.table import Table

        shown = Table(title=self.verdict)
        for name in ("unit", "predicted, nats", "observed, nats", "critical beta"):
            shown.add_column(name, justify="right")
        shown.add_column("verdict")
        for u in self.units:
            seen = f"{nats(u.observed_nats)} ± {nats(u.standard_error)}"
            critical = number(u.critical_beta)
            shown.add_row(str(u.unit), nats(u.predicted_nats), seen, critical, u.verdict)
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
    seed: int = 0,
) -> Diagnosis:
    """Hold a trained encoder against the linear optimum on `target` (n, d); see the module.

    `encoder`: of any kind in `linvae.encoders`; called with batches of the target, and of the
    condition after it, returns means and log-variances, (n, k) each. `decoder`, if there is one:
    latents (n, k), and condition, to the mean of the target; four draws per sample, two of them the
    others reflected, `seed`. Data should be those, or of the kind, that the network was trained on,
    in the same units.
    Raises ValueError as the module says.
    """
    if not isinstance(decoder_variance, (int, float)):
        raise ValueError(
            f"decoder_variance={decoder_variance!r} must be a number in diagnose: give the value "
            "that the network has learned"
        )
    y = np.asarray(target)
    x = None if condition is None else np.asarray(condition)
    moments = Moments.from_data(y, x)
    mean, log_variance = _posteriors(as_function(encoder), y, x)
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
    rates = _above_idle(mean, log_variance, spec)
    lead, doubt = solution.objective - objective, _quantile(1) * error
    units = _units(spec, moments, solution, rates, lead > doubt, lead < -doubt)
    return Diagnosis(units, spec, len(y), objective, error, solution)


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
        parts.append(_checked_pair(output, len(y[rows])))
    widths = {mean.shape[1] for mean, _ in parts}
    if len(widths) > 1:
        raise ValueError(f"encoder returned {sorted(widths)} units in different batches")
    mean, log_variance = (np.concatenate(part) for part in zip(*parts, strict=True))
    return mean, log_variance


def _checked_pair(output: Any, n: int) -> tuple[Array, Array]:
    if hasattr(output, "embedding") and hasattr(output, "log_covariance"):
        output = output.embedding, output.log_covariance
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
            f"prior_variance={prior_variance}: it returns variances or standard deviations; return "
            "their logarithm, log sigma^2"
        )


def _rates(mean: Array, log_variance: Array, prior_variance: float) -> Array:
    """KL of every sample and unit, (n, k), nats."""
    q = GaussianLevel(torch.from_numpy(mean), torch.from_numpy(log_variance))
    square = q.mean.square() + q.log_variance.exp()
    rates: Array = gaussian_rate_per_unit(q, square, torch.tensor(prior_variance).double()).numpy()
    return rates


def _above_idle(mean: Array, log_variance: Array, spec: VAESpec) -> Array:
    """Rates less those of an idle unit; with a fixed variance, along principal axes."""
    if spec.encoder_variance is None:
        return _rates(mean, log_variance, spec.prior_variance)
    axes = principal_axes(torch.from_numpy(mean)).numpy()
    idle = _rates(0 * mean[:1], log_variance[:1], spec.prior_variance)
    return np.asarray(_rates(axes, log_variance, spec.prior_variance) - idle)


def _objective(
    spec: VAESpec, q: GaussianLevel, decoder: NetworkFunction, y: Any, x: Any, seed: int
) -> tuple[float, float]:
    """Objective of the network on these data, nats per sample, and its Monte-Carlo error.

    Two pairs of reflected draws; the difference of the pairs gives the error.
    """
    rng = np.random.default_rng(seed)
    s, d = torch.tensor(float(spec.decoder_variance)).double(), y.shape[1]
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
        output = getattr(output, "reconstruction", output)
        decoded = np.asarray(output, dtype=np.float64).reshape(len(z[rows]), -1)
        if decoded.shape != y[rows].shape:
            raise ValueError(
                f"decoder returned {decoded.shape} for {z[rows].shape} latents but the target has "
                f"{y[rows].shape}: it must return the mean of the target"
            )
        errors.append(np.sum((y[rows] - decoded) ** 2, axis=1))
    return np.concatenate(errors)


# --- what it means ------------------------------------------------------------------------------


def _units(
    spec: VAESpec, moments: Moments, solution: Solution, rates: Array, better: bool, worse: bool
) -> tuple[UnitDiagnosis, ...]:
    k, n = spec.latent_dim, len(rates)
    order = np.argsort(-rates.mean(axis=0), kind="stable")
    rates = rates[:, order]
    observed = rates.mean(axis=0)
    predicted, wider = (_predicted(spec, part) for part in (solution, _wider(spec, moments)))
    sd = wider - predicted
    error = rates.std(axis=0, ddof=1) / math.sqrt(n)
    tolerance = _tolerance(predicted, error, sd, k)
    sums = np.cumsum(rates, axis=1)
    sum_error = sums.std(axis=0, ddof=1) / math.sqrt(n)
    slack = _tolerance(np.cumsum(predicted), sum_error, np.sqrt(np.cumsum(sd**2)), k)
    found = _verdicts(predicted, observed, tolerance, slack, better, worse)
    times = [_escape_times(spec, moments, solution, update) for update in ("joint", "aggressive")]
    return tuple(
        UnitDiagnosis(
            unit=int(order[j]) + 1,
            predicted_nats=float(predicted[j]),
            observed_nats=float(observed[j]),
            standard_error=float(error[j]),
            tolerance_nats=float(tolerance[j]),
            critical_beta=float(solution.critical_beta[j]),
            critical_decoder_variance=float(solution.critical_decoder_variance[j]),
            escape_time=float(times[0][j]),
            aggressive_escape_time=float(times[1][j]),
            verdict=found[j],
        )
        for j in range(k)
    )


def _predicted(spec: VAESpec, solution: Solution) -> Array:
    """Rates of the modes with a unit, less that of an idle unit."""
    rates: Array = solution.mode_rates[0, : spec.latent_dim]
    if spec.encoder_variance is None:
        return rates
    idle = np.log(np.full((1, 1), spec.encoder_variance))
    return np.asarray(rates - _rates(0 * idle, idle, spec.prior_variance)[0])


def _wider(spec: VAESpec, moments: Moments) -> Solution:
    """The optimum where every eigenvalue is a standard deviation above that of the sample."""
    assert moments.n_samples is not None
    wider = moments.covariance * (1 + math.sqrt(2 / moments.n_samples))
    return solve(spec, Moments.from_covariance(wider, condition_dim=moments.condition_dim))


def _tolerance(predicted: Array, error: Array, sd: Array, k: int) -> Array:
    """t_j of the module; `predicted`, its errors: of units or of sums of units."""
    least, share = RATE_TOLERANCE
    tolerance: Array = np.maximum(least, share * predicted)
    return tolerance + _quantile(k) * np.sqrt(error**2 + sd**2)


def _quantile(k: int) -> float:
    """Of the normal distribution: one of k units is outside, on either side, in 1 % of cases."""
    return float(-ndtri(FALSE_ALARM / (2 * k)))


def _verdicts(
    predicted: Array,
    observed: Array,
    tolerance: Array,
    slack: Array,
    better: bool = False,
    worse: bool = False,
) -> list[str]:
    """Of every rank; the module's table. Objective `better`, `worse` than the linear optimum's."""
    excess = observed - predicted
    total = np.cumsum(excess)
    beyond = (excess > tolerance) & (((total > slack) & (not worse)) | (predicted <= 0))
    missing = (excess < -tolerance) & (observed < tolerance)
    held = (total >= 0) & np.logical_or.accumulate(beyond)
    alive = np.minimum(predicted, observed) > ALIVE
    found = np.where(alive, ALIVE_AS_PREDICTED, COLLAPSED_AS_PREDICTED)
    found = np.where(missing, OPTIMISATION, found)
    found = np.where(beyond | (missing & (held | better)), BEYOND, found)
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
    where = (
        f"beta = {number(u.critical_beta)} or decoder variance = "
        f"{number(u.critical_decoder_variance)}"
    )
    if u.predicted_nats > 0:
        return f"its threshold, {where}, is so near that its rate is within the tolerance; go below"
    return f"to wake it go below {where}"


def _change_training(u: UnitDiagnosis) -> str:
    ways = f"{REMEDY_WORDS['aggressive']} or {REMEDY_WORDS['annealing']}"
    start = (
        f"theory keeps as many units alive up to beta = {number(u.critical_beta)} (which mode is "
        f"missing ranks do not tell): train longer, or {ways}"
    )
    if math.isnan(u.escape_time):
        return start
    return (
        f"{start}; from weights of 1e-3 plain descent leaves collapse after steps * learning rate ="
        f" {number(u.escape_time, 3)}, aggressive training after "
        f"{number(u.aggressive_escape_time, 3)}"
    )


def _keep(u: UnitDiagnosis) -> str:
    kept = f"stays alive up to beta = {number(u.critical_beta)}"
    if abs(u.observed_nats - u.predicted_nats) <= u.tolerance_nats:
        return kept
    return (
        f"{kept}, but its rate is not that of the linear optimum: units that still turn towards "
        "the modes (train longer), or a code of another shape"
    )


def _curved(u: UnitDiagnosis) -> str:
    if u.observed_nats < u.predicted_nats:
        return "collapsed, but curved units hold what linear theory would give it"
    return (
        f"holds {nats(u.observed_nats)} nats where a linear model holds {nats(u.predicted_nats)}: "
        "curved structure, which linvae.universal_threshold bounds, or a network that is not at "
        "its optimum, which its decoder would show, if beta, decoder variance and the scale of the "
        "data are those of the training"
    )


_ADVICE = {  # in the order of the sentence
    ALIVE_AS_PREDICTED: _keep,
    COLLAPSED_AS_PREDICTED: _change_price,
    OPTIMISATION: _change_training,
    BEYOND: _curved,
}
