"""What to set: the beta, or the decoder variance, that keeps k units, r nats or a given error.

A linear VAE or conditional VAE with learned encoder variance depends on beta and the decoder
variance s through its water level w = beta s alone (`linvae.theory.rate_distortion`), so every
question about its optimum is one about w, answered by beta = w/s or by s = w/beta:

| asked for        | water level                                 | from                   |
|------------------|---------------------------------------------|------------------------|
| k active units   | theta_{k+1}^2 <= w < theta_k^2              | active iff theta^2 > w |
| rate r           | (prod_{i<=m} theta_i^2)^(1/m) exp(-2 r/m)   | m the modes above w    |
| squared error E  | (E - sum_{i>m} theta_i^2 - unexplained)/m   | m the modes above w    |

| symbol      | argument or field              | shape    | unit            |
|-------------|--------------------------------|----------|-----------------|
| w           | Advice.water_level             | scalar   | data units^2    |
| k           | units                          | int      | -               |
| r           | rate_nats                      | scalar   | nats            |
| E, a sum over target dimensions | squared_error | scalar | data units^2    |
| beta, s     | Advice.beta, .decoder_variance | scalar   | -, data units^2 |
| rho_i       | correlations                   | (modes,) | -               |
| v_i         | target_variances               | (modes,) | data units^2    |

**Other models** - a learned decoder variance, a fixed encoder variance, a hierarchy - are searched:
`search_beta` scales all betas by one factor, along which the rate that they pay for falls, and
halves the interval in which `solve` passes what was asked for.

**Conditional**: along mode i of Cov(y|x), of target variance v_i, the condition has the correlation
rho_i = sqrt(1 - theta_i^2/v_i) with the target, and the mode collapses from sqrt(1 - beta s/v_i) on
(`linvae.theory.stability.critical_correlation`; Dang et al. 2024, Theorem 2).

**Hierarchies**: prices of information do not fall from level to level (`linvae.theory.hvae`), so
of the levels that data keep alive **none outlives one below it**. A level above another may live
longer only by copying the noise of its encoder, without limit.

Source: reverse water-filling, Cover & Thomas 2006, Theorem 10.3.3; the rest follows from the
theorems of `vae` and `hvae`. Equality that a test checks: `solve` at the advised beta, and at the
advised decoder variance, has what was asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from linvae.moments import Moments
from linvae.spec import CVAESpec, HVAESpec, LinearSpec, VAESpec
from linvae.theory import solve
from linvae.theory.modes import Modes, mode_decomposition
from linvae.theory.rate_distortion import (
    rate_distortion_curve,
    water_level,
    water_level_of_error,
)
from linvae.theory.solution import ROUNDING, Solution
from linvae.theory.stability import critical_correlation

__all__ = [
    "Advice",
    "BetaAdvice",
    "LevelOrder",
    "ModeCorrelations",
    "keep_units",
    "level_order",
    "mode_correlations",
    "reach_error",
    "reach_rate",
    "search_beta",
]

Array = npt.NDArray[np.float64]
Reason = Literal["data", "price", "starved", "noise", "never"]
FARTHEST = 25.0  # log of the factors on beta that are searched, 7e10 either way
PRECISION = 1e-12  # of its logarithm
SEARCHED = 1e-6  # share by which what is found may miss what was asked for
OPEN_END = 2.0  # an interval open to 0 or infinity: the suggestion lies so far inside its end


@dataclass(frozen=True)
class Advice:
    """A water level, read as beta at the decoder variance of `spec`, or the reverse.

    `low` <= w < `high` do as well where a number of units was asked for; else all three are equal.
    `active_units`, `rate_nats` and `squared_error` are those at `water_level`.
    """

    spec: VAESpec
    water_level: float
    low: float
    high: float
    active_units: int
    rate_nats: float
    squared_error: float

    @property
    def beta(self) -> float:
        """w/s, the decoder variance kept."""
        return self.water_level / float(self.spec.decoder_variance)

    @property
    def beta_range(self) -> tuple[float, float]:
        """The betas that do as well, the second excluded."""
        s = float(self.spec.decoder_variance)
        return self.low / s, self.high / s

    @property
    def decoder_variance(self) -> float:
        """w/beta, beta kept, data units^2."""
        return self.water_level / self.spec.beta

    @property
    def decoder_variance_range(self) -> tuple[float, float]:
        """The decoder variances that do as well, the second excluded, data units^2."""
        return self.low / self.spec.beta, self.high / self.spec.beta

    def to_rows(self) -> list[dict[str, Any]]:
        """One row."""
        (beta_low, beta_high), (s_low, s_high) = self.beta_range, self.decoder_variance_range
        return [
            {
                "water_level": self.water_level,
                "beta": self.beta,
                "beta_low": beta_low,
                "beta_high": beta_high,
                "decoder_variance": self.decoder_variance,
                "decoder_variance_low": s_low,
                "decoder_variance_high": s_high,
                "active_units": self.active_units,
                "rate_nats": self.rate_nats,
                "squared_error": self.squared_error,
            }
        ]


def keep_units(spec: VAESpec, moments: Moments, units: int) -> Advice:
    """The water levels at which exactly `units` units are active; the geometric mean suggested.

    Raises ValueError where there are not so many units or modes, where modes k and k + 1 have one
    variance, and for models other than those of this module. Equality that a test checks:
    `solve(...).active_units` is `units` at both ends of the interval, just inside.
    """
    modes = _modes(spec, moments, "keep_units")
    used = modes.variances[: spec.latent_dim]
    most = int(np.count_nonzero(used))
    if not 0 <= units <= most:
        raise ValueError(
            f"units={units} must be between 0 and {most} in keep_units: latent_dim is "
            f"{spec.latent_dim} and {np.count_nonzero(modes.variances)} modes have a variance"
        )
    edges = np.concatenate([[np.inf], used, [0.0]])
    high, low = float(edges[units]), float(edges[units + 1])
    if high <= low * (1 + ROUNDING):
        raise ValueError(
            f"units={units}: no beta keeps exactly so many, since modes {units} and {units + 1} "
            f"have one variance, {high:.6g}, and collapse together; ask for fewer or more"
        )
    return _advice(spec, modes, _middle(low, high), low, high)


def _middle(low: float, high: float) -> float:
    if low == 0 and high == np.inf:
        return 1.0  # any does
    if low == 0 or high == np.inf:
        return high / OPEN_END if low == 0 else low * OPEN_END
    return float(np.sqrt(low) * np.sqrt(high))


def reach_rate(spec: VAESpec, moments: Moments, rate_nats: float) -> Advice:
    """The water level at which the optimum spends `rate_nats` in all, over its latent units.

    Raises ValueError for a rate that is negative or so high that no float64 water level has it, and
    for models other than those of this module. Equality that a test checks: `solve(...).rates`.
    """
    modes = _modes(spec, moments, "reach_rate")
    w = water_level(modes.variances[: spec.latent_dim], rate_nats=rate_nats)
    if w == 0:
        raise ValueError(
            f"rate_nats={rate_nats} needs a water level below the smallest number: ask for less"
        )
    return _advice(spec, modes, w, w, w)


def reach_error(spec: VAESpec, moments: Moments, squared_error: float) -> Advice:
    """The water level of that mean squared error, data units^2, summed over the target dimensions.

    Raises ValueError for an error that the collapsed model undercuts or that no code of
    `latent_dim` units reaches, and for models other than those of this module. Equality that a test
    checks: the distortion of `solve`.
    """
    modes = _modes(spec, moments, "reach_error")
    w = water_level_of_error(
        modes.variances,
        squared_error=squared_error,
        latent_dim=spec.latent_dim,
        unexplained=modes.unexplained,
    )
    return _advice(spec, modes, w, w, w)


def _modes(spec: LinearSpec, moments: Moments, where: str) -> Modes:
    """The modes, of a model that beta s alone decides; else ValueError."""
    known = type(spec) is VAESpec or (type(spec) is CVAESpec and spec.encoder_sees == "both")
    if (
        not known
        or spec.encoder_variances != (None,)
        or spec.decoder_variance == "learned"
        or getattr(spec, "penalised", False)
        or getattr(spec, "likelihood", "gaussian") != "gaussian"
    ):
        raise ValueError(
            f"spec={spec!r} is not one that beta * decoder_variance alone decides, which {where} "
            "needs: a Gaussian VAESpec, or CVAESpec that sees both, with learned encoder variance, "
            "given decoder variance and no penalty; search over solve(spec, moments) instead"
        )
    modes = mode_decomposition(spec, moments)
    if where != "mode_correlations" and not modes.variances[0] > 0:
        raise ValueError(
            f"no mode has any variance, so no unit is active at any beta, in {where}: the "
            "condition explains all of the target, or, to an encoder that sees it alone, nothing"
        )
    return modes


def _advice(spec: VAESpec, modes: Modes, w: float, low: float, high: float) -> Advice:
    at = rate_distortion_curve(modes.variances, w, latent_dim=spec.latent_dim)
    return Advice(
        spec=spec,
        water_level=w,
        low=low,
        high=high,
        active_units=int(at.active_modes[0]),
        rate_nats=float(at.rates[0]),
        squared_error=float(at.squared_errors[0]) + modes.unexplained,
    )


@dataclass(frozen=True)
class BetaAdvice:
    """A beta, of level 1 where there are more, the others in proportion; all else as in `spec`.

    `low` <= beta < `high` do as well where a number of units was asked for; else all are equal.
    `active_units` and `rates_nats`, one per level, and `squared_error` are those at `beta`.
    """

    spec: LinearSpec
    beta: float
    low: float
    high: float
    active_units: tuple[int, ...]
    rates_nats: tuple[float, ...]
    squared_error: float

    def to_rows(self) -> list[dict[str, Any]]:
        """One row."""
        return [
            {
                "beta": self.beta,
                "beta_low": self.low,
                "beta_high": self.high,
                "active_units": list(self.active_units),
                "rate_nats": float(sum(self.rates_nats)),
                "rates_nats": list(self.rates_nats),
                "squared_error": self.squared_error,
            }
        ]


def search_beta(
    spec: LinearSpec,
    moments: Moments,
    *,
    units: int | None = None,
    rate_nats: float | None = None,
    squared_error: float | None = None,
) -> BetaAdvice:
    """The beta that keeps so many units on level 1, or has such a rate in all, or such an error.

    Of any model that `solve` knows; exactly one of the three is given, the error in data units^2.
    Raises ValueError where no beta has it, as at a jump, and as `solve`. Equality that a test
    checks: `solve` at the advised beta has what was asked for, and the closed forms agree.
    """
    asked = {"units": units, "rate_nats": rate_nats, "squared_error": squared_error}
    given = {name: value for name, value in asked.items() if value is not None}
    if len(given) != 1:
        raise ValueError(f"search_beta needs exactly one of {', '.join(asked)}, got {list(given)}")
    ((name, value),) = given.items()
    if not (np.isfinite(value) and (value > 0 or (name == "units" and value == 0))):
        raise ValueError(f"{name}={value!r} must be a finite number > 0 in search_beta")
    if name == "units":
        low = _crossing(spec, moments, lambda at: at.active_units[0] <= value)
        high = np.inf if value == 0 else _crossing(
            spec, moments, lambda at: at.active_units[0] < value
        )  # fmt: skip
        factor = _middle(low, high)
    else:
        met = {
            "rate_nats": lambda at: at.rates.sum() <= value,
            "squared_error": lambda at: at.squared_error >= value,
        }[name]
        factor = low = high = _crossing(spec, moments, met)
    found = _at(spec, moments, factor) if 0 < factor < np.inf else None
    if found is None or not _meets(found, name, value):
        near = "" if found is None else f" beta = {spec.betas[0] * factor:.6g} is nearest;"
        raise ValueError(
            f"{name}={value}: no beta of {spec!r} has exactly that on these data;{near} the "
            "optimum jumps over it, or never comes to it: ask for more or less"
        )
    beta = spec.betas[0]
    return BetaAdvice(
        spec=spec,
        beta=beta * factor,
        low=beta * low,
        high=beta * high,
        active_units=tuple(found.active_units.tolist()),
        rates_nats=tuple(found.rates.tolist()),
        squared_error=found.squared_error,
    )


def _at(spec: LinearSpec, moments: Moments, factor: float) -> Solution | None:
    """The optimum with all betas times `factor`; None where there is none."""
    found = solve(spec.scale_betas(factor), moments, allow_unbounded=True)
    return None if found.status == "unbounded" else found


def _meets(found: Solution, name: str, value: float) -> bool:
    if name == "units":
        return bool(found.active_units[0] == value)
    seen = found.rates.sum() if name == "rate_nats" else found.squared_error
    return bool(abs(seen - value) <= SEARCHED * value)


def _crossing(spec: LinearSpec, moments: Moments, met: Callable[[Solution], bool]) -> float:
    """The factor on all betas from which on `met` is true; 0 and infinity: always and never."""

    def beyond(log_factor: float) -> bool:
        found = _at(spec, moments, float(np.exp(log_factor)))
        return found is not None and bool(met(found))

    low, high = -FARTHEST, FARTHEST
    if beyond(low):
        return 0.0
    if not beyond(high):
        return float(np.inf)
    while high - low > PRECISION:
        middle = (low + high) / 2
        low, high = (low, middle) if beyond(middle) else (middle, high)
    return float(np.exp(high))


@dataclass(frozen=True, eq=False)
class ModeCorrelations:
    """How well the condition predicts each mode, and from where on nothing is left for latents.

    `correlations` and `critical_correlations`, (modes,): multiple correlation of the condition with
    the target along the mode, and the one from which the mode is collapsed at the spec's beta and
    decoder variance (0: collapsed without a condition too). `target_variances`: data units^2. NaN
    along directions in which the target does not vary.
    """

    target_variances: Array
    correlations: Array
    critical_correlations: Array

    def to_rows(self) -> list[dict[str, Any]]:
        """One row per mode."""
        columns = (self.target_variances, self.correlations, self.critical_correlations)
        return [
            {
                "mode": i + 1,
                "target_variance": float(v),
                "correlation": float(rho),
                "critical_correlation": float(critical),
            }
            for i, (v, rho, critical) in enumerate(zip(*columns, strict=True))
        ]


def mode_correlations(spec: CVAESpec, moments: Moments) -> ModeCorrelations:
    """Correlation and critical correlation of every mode of a conditional VAE.

    Raises ValueError for other models. Equality that a test checks: with the covariance of x and y
    scaled until a mode's correlation is the critical one, its critical beta is the spec's.
    """
    if not isinstance(spec, CVAESpec):
        raise ValueError(f"spec={spec!r} must be a CVAESpec in mode_correlations")
    modes = _modes(spec, moments, "mode_correlations")
    v = np.einsum("ji,jk,ki->i", modes.basis, moments.target_covariance, modes.basis)
    v = np.where(v > ROUNDING * v.max(), v, np.nan)
    critical = [_critical(spec, variance) for variance in v]
    share = np.clip(modes.variances / v, 0.0, 1.0)
    return ModeCorrelations(v, np.sqrt(1 - share), np.array(critical))


def _critical(spec: CVAESpec, variance: float) -> float:
    if np.isnan(variance):
        return np.nan
    return critical_correlation(
        beta=spec.beta, decoder_variance=float(spec.decoder_variance), target_variance=variance
    )


@dataclass(frozen=True, eq=False)
class LevelOrder:
    """Which level of a hierarchy dies first as all betas rise in proportion, and why.

    `critical_betas`, (levels,): beta of level 1 above which the level carries nothing at all.
    `order`: levels, counted from 1, the first to die first, upper ones first where they die
    together. `reasons`, one per level:

    | reason  | meaning                                                                        |
    |---------|--------------------------------------------------------------------------------|
    | data    | level 1: its price exceeds what the strongest mode of the data pays            |
    | price   | its nat costs more than one of the level below, which lives on                 |
    | starved | its nat costs as much as one below: it dies with that level                    |
    | noise   | never dies: it copies encoder noise of a fixed variance below it               |
    | never   | idle at every beta                                                             |
    """

    critical_betas: Array
    order: tuple[int, ...]
    reasons: tuple[Reason, ...]

    def to_rows(self) -> list[dict[str, Any]]:
        """One row per level, from the bottom."""
        return [
            {
                "level": i + 1,
                "critical_beta": float(beta),
                "dies": self.order.index(i + 1) + 1,
                "reason": reason,
            }
            for i, (beta, reason) in enumerate(zip(self.critical_betas, self.reasons, strict=True))
        ]


def level_order(spec: HVAESpec, moments: Moments) -> LevelOrder:
    """The order in which the levels of a hierarchy die.

    Raises ValueError for other models, and as `solve` where there is no optimum. Equality that a
    test checks: a hundredth below its critical beta a level is active, a hundredth above it is not.
    """
    if not isinstance(spec, HVAESpec):
        raise ValueError(f"spec={spec!r} must be an HVAESpec in level_order")
    critical = np.nanmax(solve(spec, moments).level_critical_betas, axis=1)
    order = sorted(range(len(critical)), key=lambda level: (critical[level], -level))
    reasons = tuple(_reason(critical, level) for level in range(len(critical)))
    return LevelOrder(critical, tuple(level + 1 for level in order), reasons)


def _reason(critical: Array, level: int) -> Reason:
    beta = critical[level]
    if not 0 < beta < np.inf:
        return "never" if beta == 0 else "noise"
    if level == 0:
        return "data"
    return "price" if beta < critical[level - 1] * (1 - ROUNDING) else "starved"
