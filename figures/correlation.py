"""Conditional VAE: collapse against the correlation of condition and target.

Scalar x and y. With an encoder that sees both, one threshold. With one that sees the target only,
`stability` gives where the collapsed point turns stable, `solve` where it turns optimal, and an
alive optimum exists up to the largest slope -dD/d rate of the exact objective, read off along all
linear encoders, each with its best decoder.
"""

from __future__ import annotations

import numpy as np

from figures.style import LOOKS, Axes, Canvas, Row, Rows, legend, line, panels, title
from linvae import CVAESpec, Moments, objective, solve, stability

TARGET_VARIANCE, DECODER_VARIANCE = 1.0, 0.2
CORRELATIONS = np.linspace(0.0, 0.99, 100)
NOISE_FRACTIONS = 1 - np.geomspace(1e-3, 0.998, 250)
RATE_BETAS = (0.5, 1.0, 2.0)


def rows() -> list[Row]:
    """Thresholds of both encoders at every correlation, and rates of the published one."""
    found = []
    for rho in CORRELATIONS:
        moments = _moments(float(rho))
        both, target = (
            CVAESpec(1, decoder_variance=DECODER_VARIANCE, encoder_sees=sees)
            for sees in ("both", "target")
        )
        found.append(
            {
                "correlation": float(rho),
                "critical_beta_both": float(solve(both, moments).critical_beta[0]),
                "critical_beta_target_local": float(stability(target, moments).critical_beta[0]),
                "alive_is_better_up_to": float(solve(target, moments).critical_beta[0]),
                "alive_exists_up_to": _last_alive_beta(target, moments),
            }
            | {
                f"rate_nats_at_beta_{beta:g}": float(
                    solve(both.scale_betas(beta), moments).rates[0]
                )
                for beta in RATE_BETAS
            }
        )
    return found


def _moments(rho: float) -> Moments:
    covariance = rho * np.sqrt(TARGET_VARIANCE)
    return Moments.from_covariance(
        np.array([[1.0, covariance], [covariance, TARGET_VARIANCE]]), condition_dim=1
    )


def _last_alive_beta(spec: CVAESpec, moments: Moments) -> float:
    """Largest slope -dD/d rate along the linear encoders that see y only."""
    terms = [_terms(spec, moments, float(r)) for r in (1.0, *NOISE_FRACTIONS)]
    distortion, rate = (np.array(column) for column in zip(*terms, strict=True))
    return float(np.max(-np.diff(distortion) / np.diff(rate)))


def _terms(spec: CVAESpec, moments: Moments, r: float) -> tuple[float, float]:
    """Distortion and rate of the encoder with noise fraction r and its best linear decoder."""
    w, C = np.sqrt((1 - r) / TARGET_VARIANCE), moments.covariance
    to_zx = np.array([[0.0, w], [1.0, 0.0]])  # (z without noise, x) from (x, y)
    inputs = to_zx @ C @ to_zx.T + np.diag([r, 0.0])
    U1, U2 = np.linalg.solve(inputs, to_zx @ C[:, 1])
    scalars = {"W2": w, "U1": U1, "U2": U2, "Sigma": r}
    terms = objective(spec, moments, {name: np.array([[v]]) for name, v in scalars.items()})
    return terms.distortion, float(terms.rates[0])


def draw(rows: Rows) -> Canvas:
    """Thresholds of both encoders, and the rate of the published one."""
    figure, (left, right) = panels(2, size=(9.2, 4.3))
    x = "correlation"
    line(left, rows, x, "critical_beta_both", label="encoder sees both")
    line(left, rows, x, "critical_beta_target_local", look=1,
         label="encoder sees the target: collapse is locally stable above")  # fmt: skip
    line(left, rows, x, "alive_is_better_up_to", look=2,
         label="encoder sees the target: alive is better below")  # fmt: skip
    _shade(left, rows)
    left.set_yscale("log")
    left.set_ylim(0.02, 1.4 / DECODER_VARIANCE)
    left.set_ylabel(r"critical $\beta$ (log scale)")
    title(left, f"Var(y) = {TARGET_VARIANCE:g}, decoder variance s = {DECODER_VARIANCE:g}")
    left.text(
        0.03, 0.04,
        "encoder sees the target: Var(y) $(1-\\rho^2)^2/s$ is local\n"
        "stability only. For $\\rho^2 > 1/2$ an alive optimum exists\n"
        "beyond it, up to Var(y) $(1-\\rho^2)/(4 \\rho^2 s)$ (shaded)",
        transform=left.transAxes, fontsize=8, va="bottom",
    )  # fmt: skip
    for i, beta in enumerate(RATE_BETAS):
        line(right, rows, x, f"rate_nats_at_beta_{beta:g}", look=i, label=rf"$\beta$ = {beta:g}")
    right.set_ylabel("rate of the encoder that sees both, nats")
    right.legend(loc="upper right")
    title(right, "the rate goes to 0 before the correlation is 1")
    for panel in (left, right):
        panel.set_xlabel(r"correlation $\rho$ of condition and target")
        panel.set_xlim(0, 1)
    legend(figure, left, columns=2)
    return figure


def _shade(axes: Axes, rows: Rows) -> None:
    """Between local stability and the end of the alive optimum, both optima exist."""
    low = [row["critical_beta_target_local"] for row in rows]
    high = [max(row["alive_exists_up_to"], lo) for row, lo in zip(rows, low, strict=True)]
    axes.fill_between(
        [row["correlation"] for row in rows], low, high,
        color=LOOKS[1][0], alpha=0.2, lw=0, hatch="///",
        label="encoder sees the target: both are local optima",
    )  # fmt: skip
