"""Useful and spurious units against samples per dimension: limits, and simulated samples."""

from __future__ import annotations

import numpy as np

from figures.rows import kept
from figures.style import LOOKS, Canvas, Row, Rows, legend, line, panels, select, title
from linvae.theory.active_units import expected_active_units

SPIKES, NOISE, DIM, LATENT_DIM = (9.0, 5.0, 2.0), 1.0, 200, 20  # as analysis/finite_samples.py
SAMPLES = np.geomspace(60, 6400, 160)
KINDS = ("useful", "spurious")


def rows() -> list[Row]:
    """Limits at every number of samples, and the means over simulated samples."""
    simulated = kept("finite_samples")["units"]
    found = []
    for beta in sorted({row["beta"] for row in simulated}):
        for n in SAMPLES:
            useful, spurious = expected_active_units(
                SPIKES, NOISE, dim=DIM, n_samples=round(n), beta=beta, decoder_variance=1.0,
                latent_dim=LATENT_DIM,
            )  # fmt: skip
            found.append({"source": "limit", "beta": beta, "samples_per_dim": round(n) / DIM,
                          "useful": useful, "spurious": spurious})  # fmt: skip
    names = ("beta", "samples_per_dim", *KINDS)
    return found + [{"source": "sample"} | {k: row[k] for k in names} for row in simulated]


def draw(rows: Rows) -> Canvas:
    """A panel per beta."""
    betas = sorted({row["beta"] for row in rows})
    figure, axes = panels(len(betas), size=(3.4 * len(betas), 4.0), sharey=True)
    for panel, beta in zip(axes, betas, strict=True):
        for look, kind in enumerate(KINDS):
            colour, marker, _ = LOOKS[look]
            curve = select(rows, source="limit", beta=beta)
            line(panel, curve, "samples_per_dim", kind, look=look, label=f"{kind}, limit")
            points = select(rows, source="sample", beta=beta)
            panel.plot(
                [row["samples_per_dim"] for row in points], [row[kind] for row in points],
                color=colour, marker=marker, ls="none", mfc="none" if look else colour,
                label=f"{kind}, simulated (mean of 5 samples)",
            )  # fmt: skip
        panel.set_xscale("log")
        panel.set_xticks([0.5, 1, 2, 4, 8, 16, 32], ["0.5", "1", "2", "4", "8", "16", "32"])
        panel.minorticks_off()
        panel.set_xlabel("samples per dimension, n/d (log scale)")
        title(panel, rf"$\beta$ s = {beta:g} times the noise variance")
    axes[0].set_yticks(range(0, 21, 5))
    axes[0].set_ylabel(f"active units of {LATENT_DIM}")
    legend(figure, axes[0])
    return figure
