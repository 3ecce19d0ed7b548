"""Predictions as sentences: what one has at a setting, and which level dies and why.

The numbers come from `linvae.theory`; no formula stands here. Shared by `linvae.predict` and the
explorer, and light to import: `predict --help` does so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from linvae.moments import Moments
    from linvae.spec import LinearSpec

__all__ = ["condition_words", "level_words", "now_words", "units_text", "why_words"]

WHY = {
    "data": "no mode of the data pays for it any longer",
    "price": "a nat of it costs more than one of the level below, which lives on",
    "starved": "a nat of it costs as much as one of the level below, and both die together",
    "noise": "it copies the noise of the encoder below it",
    "never": "a learned encoder below leaves it nothing to say",
}


def now_words(spec: LinearSpec, moments: Moments, collapse: float = math.nan) -> Iterator[str]:
    """What one has at the spec's own beta; levels of a hierarchy have their own sentences.

    `collapse`: beta of total collapse where the solution has none, as with a learned variance.
    """
    from linvae.theory import solve

    if len(spec.latent_dims) > 1:
        return
    solution = solve(spec, moments)
    if math.isnan(collapse):
        collapse = float(solution.critical_beta[0])
    yield (
        f"At beta {spec.betas[0]:g} and {_variance_words(spec, solution.decoder_variance)}: "
        f"{solution.active_units[0]} of {units_text(spec.latent_dims[0])} active; all are "
        f"collapsed from beta {collapse:.4g} on."
    )


def _variance_words(spec: LinearSpec, s: float) -> str:
    if spec.decoder_variance == "learned":
        return f"a learned decoder variance, {s:.4g}"
    return f"decoder variance {s:g}"


def why_words(spec: LinearSpec, moments: Moments) -> Iterator[str]:
    """What decides besides beta and s: the condition of a CVAE, the levels of a hierarchy."""
    from linvae.spec import CVAESpec, HVAESpec
    from linvae.theory.advice import level_order, mode_correlations

    if isinstance(spec, CVAESpec) and spec.decoder_variance != "learned":
        top = mode_correlations(spec, moments).to_rows()[0]
        yield condition_words(spec, top["correlation"], top["critical_correlation"])
    if isinstance(spec, HVAESpec):
        order = level_order(spec, moments)
        for place, level in enumerate(order.order):
            yield level_words(
                level, float(order.critical_betas[level - 1]), order.reasons[level - 1], place == 0
            )


def condition_words(spec: LinearSpec, rho: float, critical: float) -> str:
    """What the correlation `rho` of the condition with the strongest mode does to it."""
    where = f"at beta {spec.betas[0]:g} and decoder variance {float(spec.decoder_variance):g}"
    known = f"The condition predicts the strongest mode with correlation {rho:.4g}"
    if critical == 0:
        return f"{known}; {where} that mode is collapsed whatever the condition."
    state = "so it is collapsed" if rho >= critical else "so it is alive"
    return f"{known}; {where} the mode collapses from {critical:.4g} on, {state}."


def level_words(level: int, critical: float, reason: str, first: bool) -> str:
    """When a level of a hierarchy dies, and why; reasons as in `linvae.theory.advice`."""
    if reason in ("noise", "never"):
        what = "never dies" if reason == "noise" else "is idle at every beta"
        return f"Level {level} {what}: {WHY[reason]}."
    dies = "dies first," if first else "dies"
    return f"Level {level} {dies} when beta, of level 1, exceeds {critical:.4g}: {WHY[reason]}."


def units_text(n: int) -> str:
    """`1 unit`, `2 units`."""
    return f"{n} unit" if n == 1 else f"{n} units"
