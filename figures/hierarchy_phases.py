"""Two levels: which of them is active over (beta_1, beta_2), for every mix of encoder variances."""

from __future__ import annotations

import itertools

import numpy as np

from figures.style import Axes, Canvas, Row, Rows, panels, select, title
from linvae import HVAESpec, Moments, solve

MODE_VARIANCE, DECODER_VARIANCE = 4.0, 1.0
FIXED = 0.5
BETAS = np.geomspace(0.25, 32.0, 36)
# name -> (colour, hatch): hatches tell them apart in black and white
PHASES = {
    "both levels active": ("#0072B2", ""),
    "level 1 alone active": ("#56B4E9", "..."),
    "level 2 active on noise alone": ("#F0E442", "xx"),
    "both collapsed": ("#f2f2f2", ""),
    "unbounded: no optimum": ("#D55E00", "///"),
}


def rows() -> list[Row]:
    """The phase at every pair of betas, for the four mixes of learned and fixed variances."""
    moments = Moments.from_covariance(np.array([[MODE_VARIANCE]]))
    found = []
    for fixed in itertools.product((False, True), repeat=2):
        variances = tuple(FIXED if f else None for f in fixed)
        for first, second in itertools.product(BETAS, repeat=2):
            spec = HVAESpec(
                (1, 1),
                betas=(float(first), float(second)),
                decoder_variance=DECODER_VARIANCE,
                encoder_variances=variances,
            )
            found.append(
                {
                    "level_1": "fixed" if fixed[0] else "learned",
                    "level_2": "fixed" if fixed[1] else "learned",
                    "beta_1": float(first),
                    "beta_2": float(second),
                    "phase": phase(spec, moments),
                }
            )
    return found


def phase(spec: HVAESpec, moments: Moments) -> str:
    """Name of the state of the global optimum."""
    solution = solve(spec, moments, allow_unbounded=True)
    if solution.status == "unbounded":
        return "unbounded: no optimum"
    first, second = solution.active_units > 0
    if first:
        return "both levels active" if second else "level 1 alone active"
    return "level 2 active on noise alone" if second else "both collapsed"


def draw(rows: Rows) -> Canvas:
    """Four panels of filled phases."""
    from matplotlib.patches import Patch

    figure, axes = panels(2, 2, size=(7.4, 7.2), sharex=True, sharey=True)
    kinds = itertools.product(("learned", "fixed"), repeat=2)
    for panel, (first, second) in zip(axes, kinds, strict=True):
        _panel(panel, select(rows, level_1=first, level_2=second))
        title(panel, f"level 1 {first}, level 2 {second}")
    for panel in axes[2:]:
        panel.set_xlabel(r"$\beta_1$ (log scale)")
    for panel in axes[::2]:
        panel.set_ylabel(r"$\beta_2$ (log scale)")
    shown = {row["phase"] for row in rows}
    patches = [
        Patch(facecolor=colour, hatch=hatch, edgecolor="black", lw=0.5, label=name)
        for name, (colour, hatch) in PHASES.items()
        if name in shown
    ]
    figure.legend(handles=patches, loc="outside upper left", ncols=3, title=(
        rf"$\theta^2$ = {MODE_VARIANCE:g}, s = {DECODER_VARIANCE:g}, prior variances 1, "
        f"fixed encoder variances {FIXED:g}"
    ), alignment="left")  # fmt: skip
    return figure


def _panel(axes: Axes, rows: Rows) -> None:
    """Every phase filled up to half-way between the grid points."""
    first = sorted({row["beta_1"] for row in rows})
    second = sorted({row["beta_2"] for row in rows})
    state = {(row["beta_1"], row["beta_2"]): row["phase"] for row in rows}
    for name, (colour, hatch) in PHASES.items():
        inside = np.array([[float(state[a, b] == name) for a in first] for b in second])
        if inside.any():
            axes.contourf(
                np.log2(first), np.log2(second), inside,
                levels=[0.5, 1.5], colors=[colour], hatches=[hatch or None],
            )  # fmt: skip
    ends = np.log2([first[0], first[-1]])
    axes.plot(ends, ends, color="black", lw=0.8, ls=":")
    white = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    axes.text(ends[0] + 1, ends[0] + 1, r"$\beta_1 = \beta_2$", ha="center", fontsize=8, bbox=white)
    ticks = range(int(np.ceil(ends[0])), int(ends[1]) + 1)
    names = [f"{2.0**t:g}" for t in ticks]
    axes.set_xticks(ticks, names)
    axes.set_yticks(ticks, names)
