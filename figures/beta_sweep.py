"""Linear VAE: weights and encoder variance of every mode against beta, from `solve`."""

from __future__ import annotations

import numpy as np

from figures.style import QUIET, Axes, Canvas, Row, Rows, legend, line, panels, select, title
from linvae import Moments, VAESpec, solve

MODE_VARIANCES = (4.0, 2.5, 1.5, 0.7)
DECODER_VARIANCE = 0.5
ENCODERS = {"learned": None, "fixed": 0.5}
BETAS = np.linspace(0.05, 18.0, 360)


def rows() -> list[Row]:
    """Per kind of encoder variance, beta and mode.

    The covariance is diagonal, so mode i is coordinate i, and the norms of column i of W and row i
    of U are the singular values.
    """
    moments = Moments.from_covariance(np.diag(MODE_VARIANCES))
    found = []
    for kind, variance in ENCODERS.items():
        for beta in BETAS:
            spec = VAESpec(
                len(MODE_VARIANCES),
                beta=float(beta),
                decoder_variance=DECODER_VARIANCE,
                encoder_variance=variance,
            )
            solution = solve(spec, moments)
            W, U = solution.weights["W"], solution.weights["U"]
            for i, theta2 in enumerate(MODE_VARIANCES):
                found.append(
                    {
                        "encoder_variance_is": kind,
                        "beta": float(beta),
                        "mode": i + 1,
                        "mode_variance": theta2,
                        "encoder_singular_value": float(np.linalg.norm(W[:, i])),
                        "decoder_singular_value": float(np.linalg.norm(U[i])),
                        "encoder_variance": float(solution.encoder_variances[0, i]),
                        "critical_beta": float(solution.critical_beta[i]),
                    }
                )
    return found


def draw(rows: Rows) -> Canvas:
    """Three quantities by two kinds of encoder variance, a line per mode."""
    figure, axes = panels(3, 2, sharex="row", sharey="col", size=(10.2, 6.2))
    quantities = {
        "encoder_singular_value": "encoder weight, latent / data unit",
        "decoder_singular_value": "decoder weight, data / latent unit",
        "encoder_variance": "encoder variance, latent units squared",
    }
    for i, kind in enumerate(ENCODERS):
        for j, (quantity, label) in enumerate(quantities.items()):
            panel = axes[3 * i + j]
            _panel(panel, select(rows, encoder_variance_is=kind), quantity)
            panel.set_ylabel(label)
            title(panel, f"encoder variance {kind}")
    for panel in axes[3:]:
        panel.set_xlabel(r"$\beta$")
    legend(figure, axes[0], columns=5)
    return figure


def _panel(axes: Axes, rows: Rows, quantity: str) -> None:
    for i in range(len(MODE_VARIANCES)):
        mode = select(rows, mode=i + 1)
        label = rf"mode of variance $\theta^2$ = {mode[0]['mode_variance']:g}"
        line(axes, mode, "beta", quantity, look=i, label=label)
    for i in range(len(MODE_VARIANCES)):
        at = select(rows, mode=i + 1)[0]["critical_beta"]
        axes.axvline(at, color=QUIET, ls=":", lw=0.8, zorder=0, label="predicted threshold")
    axes.set_xlim(0, max(row["beta"] for row in rows))
