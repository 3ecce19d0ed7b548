"""Weight decay: threshold of the collapsed point and of the global optimum, which part company."""

from __future__ import annotations

import numpy as np

from figures.style import LOOKS, Canvas, Row, Rows, legend, line, panels, select, title
from linvae import Moments, VAESpec, solve, stability

MODE_VARIANCES = (2.0, 1.0)
DECAYS = np.linspace(0.0, 1.6, 41)
SWEPT_DECAYS = (0.0, 0.3, 0.55)
BETAS = np.linspace(0.005, 1.02, 45)
TOGETHER = 1e-6  # a gap below this share of the threshold is that of root finding


def rows() -> list[Row]:
    """Both thresholds against the decay, per mode; rate against beta at some decays."""
    found = []
    for theta2 in MODE_VARIANCES:
        moments = Moments.from_covariance(np.array([[theta2]]))
        for decay in DECAYS:
            spec = VAESpec(1, weight_decay=float(decay))
            local = float(stability(spec, moments).critical_beta[0])
            best = float(solve(spec, moments).critical_beta[0])
            found.append(
                {
                    "kind": "threshold",
                    "mode_variance": theta2,
                    "weight_decay": float(decay),
                    "local_critical_beta": max(local, 0.0),
                    "global_critical_beta": best,
                    "first_order": best - max(local, 0.0) > TOGETHER * theta2,
                }
            )
    moments = Moments.from_covariance(np.array([[MODE_VARIANCES[-1]]]))
    for decay in SWEPT_DECAYS:
        for beta in BETAS:
            solution = solve(VAESpec(1, beta=float(beta), weight_decay=decay), moments)
            found.append({"kind": "rate", "mode_variance": MODE_VARIANCES[-1],
                          "weight_decay": decay, "beta": float(beta),
                          "rate_nats": float(solution.rates[0])})  # fmt: skip
    return found


def draw(rows: Rows) -> Canvas:
    """Thresholds with the window between them shaded; the jump of the rate."""
    figure, (left, right) = panels(2, size=(9.2, 4.2))
    for i, theta2 in enumerate(MODE_VARIANCES):
        curve = select(rows, kind="threshold", mode_variance=theta2)
        line(left, curve, "weight_decay", "global_critical_beta", look=i, ls="-",
             label=rf"$\theta^2$ = {theta2:g}: alive is optimal below")  # fmt: skip
        line(left, curve, "weight_decay", "local_critical_beta", look=i, ls=(0, (1, 1.2)),
             label=rf"$\theta^2$ = {theta2:g}: collapse is stable above")  # fmt: skip
        window = [row for row in curve if row["first_order"]]
        left.fill_between(
            [row["weight_decay"] for row in window],
            [row["local_critical_beta"] for row in window],
            [row["global_critical_beta"] for row in window],
            color=LOOKS[i][0], alpha=0.2, lw=0, hatch=("///", "...")[i],
            label=rf"$\theta^2$ = {theta2:g}: window, first-order",
        )  # fmt: skip
    left.set_xlabel(r"weight decay $\kappa$, nats")
    left.set_ylabel(r"critical $\beta$ (linear below 0.1, logarithmic above)")
    left.set_xlim(0, float(DECAYS[-1]))
    left.set_yscale("symlog", linthresh=0.1)
    left.set_ylim(0, 3)
    left.set_yticks([0, 0.05, 0.1, 0.5, 1, 2], ["0", "0.05", "0.1", "0.5", "1", "2"])
    left.minorticks_off()
    title(left, "threshold, s = prior variance = 1")
    for i, decay in enumerate(SWEPT_DECAYS):
        curve = select(rows, kind="rate", weight_decay=decay)
        line(right, curve, "beta", "rate_nats", look=i, label=rf"$\kappa$ = {decay:g}")
    right.set_yscale("log")
    right.set_ylim(1e-3, 5)
    right.set_xlim(0, float(BETAS[-1]))
    right.set_xlabel(r"$\beta$")
    right.set_ylabel("rate of the optimum, nats (log scale)")
    right.legend(loc="upper right")
    title(right, rf"$\theta^2$ = {MODE_VARIANCES[-1]:g}: the rate ends in a jump in the window")
    legend(figure, left, columns=2)
    return figure
