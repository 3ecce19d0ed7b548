"""What the explorer starts from: data reduced to the variances of their modes, once.

Linear models see the modes of their target alone (`linvae.theory.modes`), so a change of a slider
needs no matrix of the data:

| model      | modes                                                              |
|------------|--------------------------------------------------------------------|
| vae, hvae  | of Cov(y); a condition of the data is left aside                   |
| cvae       | of Cov(y|x) where the data have a condition, else of a synthetic x |

The synthetic condition has `condition_dim` components of variance 1; component i has the
correlation `correlation` with mode i of the target and none with the others.

Equality that a test checks: `solve` on the whole moments, for every model, is `solve` on these.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from linvae.explorer.state import State
from linvae.moments import Moments
from linvae.spec import ARVAESpec, CVAESpec, VAESpec
from linvae.theory.advice import mode_correlations
from linvae.theory.modes import mode_decomposition

__all__ = ["Given", "Source", "modes_at"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Given:
    """What a condition leaves: mode variances of Cov(y|x), (d,), and the strongest of them.

    `correlation`: of the condition with the target along it; `target_variance`: without condition.
    """

    variances: Array
    correlation: float
    target_variance: float


@dataclass(frozen=True, eq=False)
class Source:
    """Mode variances of the data, (d,), data units^2, descending; `note`: what was done to them.

    `given`: None where the data have no condition. `innovation`: largest innovation variance, what
    an autoregressive decoder that sees all before leaves of the strongest coordinate.
    """

    name: str
    variances: Array
    given: Given | None = None
    innovation: float | None = None
    note: str = ""

    @property
    def title(self) -> str:
        """Name and note."""
        return f"{self.name}; {self.note}" if self.note else self.name

    @classmethod
    def of(cls, name: str, moments: Moments, note: str = "") -> Source:
        """The modes of `moments`; ValueError where a condition explains all of the target."""
        target = moments
        if moments.condition_dim:
            target = Moments.from_covariance(moments.target_covariance)
        innovation = mode_decomposition(ARVAESpec(1), target).variances[0]
        return cls(
            name=name,
            variances=mode_decomposition(VAESpec(1), target).variances,
            given=_given(moments, name) if moments.condition_dim else None,
            innovation=float(innovation),
            note=note,
        )


def _given(moments: Moments, name: str) -> Given:
    variances = mode_decomposition(CVAESpec(1), moments).variances
    if not variances[0] > 0:
        raise ValueError(
            f"the condition of {name} explains all of its target: nothing is left for latents"
        )
    top = mode_correlations(CVAESpec(1), moments)
    return Given(variances, float(top.correlations[0]), float(top.target_variances[0]))


def modes_at(state: State, source: Source | None) -> Source:
    """The modes that `state` asks for; `given` is there for cvae.

    Raises ValueError for the spectrum of data where there are none.
    """
    if state.spectrum == "data":
        if source is None:
            raise ValueError("spectrum='data' needs --dataset, --data or --covariance")
        found = source
    else:
        found = Source(f"{state.spectrum}, {state.dim} dimensions", _synthetic(state))
    if state.model != "cvae" or found.given is not None:
        return found
    return replace(found, given=_synthetic_condition(state, found.variances))


def _synthetic(state: State) -> Array:
    """largest i^-decay, largest exp(-decay (i - 1)), or all equal."""
    i = np.arange(1, state.dim + 1)
    shape = {
        "power law": i**-state.decay,
        "exponential": np.exp(-state.decay * (i - 1)),
        "equal": np.ones(state.dim),
    }
    return np.asarray(state.largest * shape[state.spectrum])


def _synthetic_condition(state: State, variances: Array) -> Given:
    """The block of modes that x knows is solved as a joint covariance; the others stay."""
    n = min(state.condition_dim, int(np.count_nonzero(variances)))
    known, rest = variances[:n], variances[n:]
    cross = np.diag(state.correlation * np.sqrt(known))
    joint = np.block([[np.eye(n), cross], [cross, np.diag(known)]])
    block = _given(Moments.from_covariance(joint, condition_dim=n), "the page")
    merged = np.sort(np.concatenate([block.variances, rest]))[::-1]
    if len(rest) and rest[0] > block.variances[0]:
        return Given(merged, 0.0, float(rest[0]))
    return Given(merged, block.correlation, block.target_variance)
