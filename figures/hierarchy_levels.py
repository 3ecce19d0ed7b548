"""Hierarchies of one to five levels: how many levels are active against the data's deviation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from figures.style import LOOKS, Axes, Canvas, Row, Rows, legend, panels, select, title
from linvae import HVAESpec, Moments, solve

DEPTHS = (1, 2, 3, 4, 5)
DECODER_VARIANCE, FIXED = 1.0, 0.5
THETAS = np.geomspace(0.3, 12.0, 200)
BETAS: dict[str, Callable[[int], float]] = {
    "beta grows upwards": lambda level: 1.25**level,
    "beta falls upwards": lambda level: 1.25**-level,
}


def rows() -> list[Row]:
    """Active levels at every depth, law of the betas and theta; all encoder variances fixed."""
    found = []
    for law, beta in BETAS.items():
        for depth in DEPTHS:
            spec = HVAESpec(
                (1,) * depth,
                betas=[beta(level) for level in range(depth)],
                decoder_variance=DECODER_VARIANCE,
                encoder_variances=(FIXED,) * depth,
            )
            for theta in THETAS:
                solution = solve(spec, Moments.from_covariance(np.array([[float(theta) ** 2]])))
                found.append(
                    {
                        "law": law,
                        "levels": depth,
                        "theta": float(theta),
                        "active_levels": int(solution.active_units.sum()),
                        "level_1_active": int(solution.active_units[0]),
                    }
                )
    return found


def draw(rows: Rows) -> Canvas:
    """Steps, moved apart by a little where they coincide."""
    figure, axes = panels(2, size=(9.2, 4.0), sharey=True)
    words = (
        r"$\beta_l = 1.25^{l-1}$: the levels wake one by one, lowest first",
        r"$\beta_l = 1.25^{1-l}$: upper levels live on noise; the lowest wakes last",
    )
    for panel, law, text in zip(axes, BETAS, words, strict=True):
        for i, depth in enumerate(DEPTHS):
            curve = select(rows, law=law, levels=depth)
            _steps(panel, curve, i, f"{depth} level{'s' if depth > 1 else ''}")
        panel.set_xscale("log")
        panel.set_xticks([0.5, 1, 2, 5, 10], ["0.5", "1", "2", "5", "10"])
        panel.minorticks_off()
        panel.set_xlabel(r"$\theta$, data units (log scale)")
        title(panel, text)
    axes[0].set_ylabel("active levels (lines moved apart by 0.05)")
    legend(figure, axes[0], columns=5)
    return figure


def _steps(axes: Axes, rows: Rows, i: int, label: str) -> None:
    colour, marker, dashes = LOOKS[i]
    axes.plot(
        [row["theta"] for row in rows],
        [row["active_levels"] + 0.05 * (i - 2) for row in rows],
        color=colour, ls=dashes if i else "-", marker=marker, markevery=(5 * i, 60),
        markersize=4, drawstyle="steps-mid", label=label,
    )  # fmt: skip
