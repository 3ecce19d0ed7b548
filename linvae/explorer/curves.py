"""State -> curves: everything that the page shows, from `linvae.solve`, in milliseconds.

Only the leading modes can have a unit, so `solve` gets as many as the widest level has units; the
others keep their variance, which is added to the squared error. All betas rise in proportion along
the curves, as in `Solution.level_critical_betas`, and beta is that of level 1.

| field          | meaning                                           | shape           | unit   |
|----------------|---------------------------------------------------|-----------------|--------|
| betas          | a grid, with the thresholds of units that are shown | (n,)          | -      |
| unit_rates     | KL of each unit                                   | (levels, units, n) | nats |
| rates          | KL of each level                                  | (levels, n)     | nats   |
| step_betas     | the ends, and where a number of active units changes | (m,)         | -      |
| active_units   | that number from there to the next, end excluded  | (levels, m)     | -      |
| squared_errors | E|y - decoded mean|^2                             | (n,)            | data^2 |
| thresholds     | beta from which the unit is collapsed; inf = never | (levels, units)| -      |
| variances      | theta_i^2 of the modes that are shown             | (modes,)        | data^2 |
| states         | "active", "collapsed" or "no unit", of level 1    | (modes,)        |        |
| waterlines     | variance that a mode of level 1 has to exceed; a  | (1,) or (2,)    | data^2 |
|                | second one for modes beyond the width of level 2  |                 |        |

Equalities that tests check: every one of these is that of `solve` on the whole moments.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linvae.advice_words import condition_words, now_words, units_text, why_words
from linvae.explorer.source import Given, Source, modes_at
from linvae.explorer.state import State
from linvae.moments import Moments
from linvae.spec import ARVAESpec, CVAESpec, HVAESpec, VAESpec
from linvae.theory import Solution, UnboundedObjectiveError, solve
from linvae.theory.stability import critical_correlation, stability
from linvae.wording import nats

__all__ = ["Curves", "Unsolvable", "curves"]

Array = npt.NDArray[np.float64]
# betas besides the thresholds, between which rates are all but straight lines; by number of levels,
# since a hierarchy takes three times as long to solve
GRID = {1: 33, 2: 9}
UNITS_SHOWN = 8  # of every level: more curves cannot be told apart
MODES_SHOWN = 64
SPAN = 1e3  # the axis of beta begins at most so far below the highest threshold
SAME = 1e-6  # waterlines as close as that are printed alike, and drawn as one
MARGIN = 2.0  # factor by which it goes beyond the thresholds and the beta of the state


@dataclass(frozen=True, eq=False)
class Curves:
    """What is drawn and said at a state; fields in the module's table, words in sentences."""

    source: str
    beta: float
    betas: Array
    unit_rates: Array
    rates: Array
    step_betas: Array
    active_units: Array
    squared_errors: Array
    thresholds: Array
    variances: Array
    states: tuple[str, ...]
    waterlines: Array
    now: Solution
    squared_error: float
    words: tuple[str, ...]


@dataclass(frozen=True)
class Unsolvable:
    """A state without an optimum, and why."""

    source: str
    words: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class _Problem:
    """The state on its leading modes: `spec` is one that needs no condition."""

    spec: VAESpec | HVAESpec
    moments: Moments
    variances: Array  # of all modes
    rest: float  # sum of those that can have no unit

    def solve(self, factor: float = 1.0) -> Solution:
        return solve(self.spec.scale_betas(factor), self.moments)

    def squared_error(self, solution: Solution) -> float:
        return solution.squared_error + self.rest


def curves(state: State, source: Source | None = None) -> Curves | Unsolvable:
    """Everything at `state`, on the data of `source` or a synthetic spectrum.

    Raises ValueError for the spectrum of data where there are none.
    """
    modes = modes_at(state, source)
    problem = _problem(state, modes)
    try:
        now = problem.solve()
    except UnboundedObjectiveError as error:
        return Unsolvable(modes.title, (f"There is no optimum: {error}.",))
    critical = now.level_critical_betas
    shown = min(UNITS_SHOWN, max(problem.spec.latent_dims))
    low, high = _ends(state.beta, critical)
    grid = np.geomspace(low, high, GRID[len(critical)])
    betas = _joined(grid, critical[:, :shown])
    path = [problem.solve(beta / state.beta) for beta in betas]
    steps = _joined(grid[[0, -1]], critical)
    return Curves(
        source=modes.title,
        beta=state.beta,
        betas=betas,
        unit_rates=np.stack([at.mode_rates[:, :shown] for at in path], axis=2),
        rates=np.stack([at.rates for at in path], axis=1),
        step_betas=steps,
        active_units=np.sum(critical[:, :, None] > steps, axis=1),
        squared_errors=np.array([problem.squared_error(at) for at in path]),
        thresholds=critical[:, :shown],
        variances=problem.variances[:MODES_SHOWN],
        states=tuple(_mode_states(problem, now)),
        waterlines=_waterlines(problem, now),
        now=now,
        squared_error=problem.squared_error(now),
        words=(*_words(state, modes, problem, now), *_floors(path[-1])),
    )


def _problem(state: State, modes: Source) -> _Problem:
    """The conditional model is the plain one on the modes that the condition leaves."""
    spec, variances = state.spec, modes.variances
    if isinstance(spec, CVAESpec):
        assert isinstance(modes.given, Given)
        variances = modes.given.variances
        spec = VAESpec(
            spec.latent_dim,
            beta=spec.beta,
            decoder_variance=spec.decoder_variance,
            prior_variance=spec.prior_variance,
            encoder_variance=spec.encoder_variance,
        )
    n = max(spec.latent_dims)
    moments = Moments.from_covariance(np.diag(variances[:n]))
    return _Problem(spec, moments, variances, float(variances[n:].sum()))


def _ends(beta: float, critical: Array) -> tuple[float, float]:
    """The axis of beta: around the thresholds and `beta`."""
    known = critical[np.isfinite(critical) & (critical > 0)]
    near = known[known >= known.max() / SPAN] if known.size else known
    ends = np.append(near, beta)
    return float(ends.min() / MARGIN), float(ends.max() * MARGIN)


def _joined(grid: Array, critical: Array) -> Array:
    """`grid` and the thresholds between its ends, ascending."""
    inside = critical[(critical > grid[0]) & (critical < grid[-1])]
    return np.unique(np.concatenate([grid, inside]))


def _mode_states(problem: _Problem, now: Solution) -> Iterator[str]:
    width = problem.spec.latent_dims[0]
    for mode in range(min(MODES_SHOWN, len(problem.variances))):
        if mode >= width:
            yield "no unit"
        else:
            yield "collapsed" if now.collapsed[0, mode] else "active"


def _waterlines(problem: _Problem, now: Solution) -> Array:
    """The variance whose critical beta is the present one: thresholds grow in proportion to it.

    Modes that level 2 is too narrow for pay the price of level 1 alone.
    """
    width, *upper = problem.spec.latent_dims
    known = min(width, int(np.count_nonzero(problem.variances)))
    firsts = [0, *(index for index in upper if index < known)]
    theta2, critical = now.mode_variances[firsts], now.level_critical_betas[0, firsts]
    found = theta2 * problem.spec.betas[0] / critical
    return np.asarray(found if np.ptp(found) > SAME * found[0] else found[:1])


# --- words --------------------------------------------------------------------------------------


def _words(state: State, modes: Source, problem: _Problem, now: Solution) -> Iterator[str]:
    """What happens at this setting, and what to change."""
    if state.model == "hvae":
        yield _levels_now(state, now)
        yield from why_words(problem.spec, problem.moments)
    else:
        yield from now_words(problem.spec, problem.moments)
    yield _change(now, problem)
    if state.model == "cvae" and state.encoder == "learned" and modes.given:
        critical = critical_correlation(
            beta=state.beta,
            decoder_variance=state.decoder_variance,
            target_variance=modes.given.target_variance,
        )
        yield condition_words(problem.spec, modes.given.correlation, critical)
    if state.model == "vae" and modes.innovation:
        yield _autoregressive(state, modes.innovation)


def _levels_now(state: State, now: Solution) -> str:
    widths = (state.latent_dim, state.latent_dim_2)
    parts = [
        f"level {level + 1} has {active} of {units_text(widths[level])} active"
        for level, active in enumerate(now.active_units)
    ]
    return (
        f"At betas {state.beta:g} and {state.beta_2:g} and decoder variance "
        f"{state.decoder_variance:g}: {', '.join(parts)}."
    )


def _change(now: Solution, problem: _Problem) -> str:
    """Which beta or decoder variance brings the next unit of level 1, or takes the last."""
    width = min(problem.spec.latent_dims[0], int(np.count_nonzero(problem.variances)))
    active = int(now.active_units[0])
    on, where = "", ""
    if len(problem.spec.latent_dims) > 1:
        on, where = " of level 1", ", all betas in proportion"
    index = min(active, width - 1)
    beta, s = now.critical_beta[index], now.critical_decoder_variance[index]
    if active >= width:
        return (
            f"Every mode that has a unit{on} is carried; unit {width} is the first to die, at "
            f"beta {beta:.4g}{where}, or at decoder variance {s:.4g}."
        )
    return (
        f"To wake unit {active + 1}{on}, take beta below {beta:.4g}{where}, or the decoder "
        f"variance below {s:.4g}."
    )


def _floors(beyond: Solution) -> Iterator[str]:
    """What dead units of fixed encoder variance cost; `beyond` all thresholds that are finite."""
    for level, (rates, dead) in enumerate(zip(beyond.mode_rates, beyond.collapsed, strict=True)):
        if dead[0] and rates[0] > 0:
            yield (
                f"A dead unit of level {level + 1} costs {nats(rates[0])} nats and says nothing: "
                "its encoder variance is fixed."
            )


def _autoregressive(state: State, innovation: float) -> str:
    """Where the collapsed point of a decoder that sees all coordinates before becomes stable."""
    spec = ARVAESpec(1, decoder_variance=state.decoder_variance)
    threshold = stability(spec, Moments.from_covariance([[innovation]])).critical_beta[0]
    return (
        "An autoregressive decoder, which also sees every earlier coordinate (ARVAESpec), has a "
        f"collapsed state that is stable from beta {threshold:.4g} on."
    )
