"""Autoregressive decoders on the digits: what is left to explain, and the threshold."""

from __future__ import annotations

import numpy as np

from figures.style import Canvas, Row, Rows, legend, line, panels, select, title
from linvae import ARVAESpec, Moments, VAESpec, stability
from linvae.data import load_dataset
from linvae.theory.modes import mode_decomposition

ORDERS = (0, 1, 2, 4, 8, 16, 32, None)
DECODER_VARIANCE = 0.05


def rows() -> list[Row]:
    """Spectra, and the threshold at every order; pixels row by row."""
    moments = Moments.from_data(load_dataset("digits").target)
    d = moments.target_dim
    plain = VAESpec(d, decoder_variance=DECODER_VARIANCE)
    full = ARVAESpec(d, decoder_variance=DECODER_VARIANCE)
    found = []
    for name, spec in {"eigenvalue": plain, "innovation variance": full}.items():
        variances = np.sort(mode_decomposition(spec, moments).variances)[::-1]
        found += [
            {"kind": name, "mode": i, "variance": float(v)} for i, v in enumerate(variances, 1)
        ]
    for order in ORDERS:
        spec = ARVAESpec(d, decoder_variance=DECODER_VARIANCE, order=order)
        critical = stability(spec, moments).critical_beta
        found.append(
            {
                "kind": "threshold",
                "order": d - 1 if order is None else order,
                "critical_beta": float(critical[0]),
                "second_critical_beta": float(critical[1]),
            }
        )
    return found


def draw(rows: Rows) -> Canvas:
    """Spectra on the left, thresholds on the right."""
    figure, (left, right) = panels(2, size=(9.2, 4.0))
    spectra = {
        "eigenvalue": "eigenvalues of the covariance: independent decoder",
        "innovation variance": "innovation variances: full autoregressive decoder",
    }
    for look, (kind, label) in enumerate(spectra.items()):
        shown = [row for row in select(rows, kind=kind) if row["variance"] > 0]
        line(left, shown, "mode", "variance", look=look, label=label,
             marker="os"[look], markevery=4, markersize=4)  # fmt: skip
    left.set_yscale("log")
    left.set_xlabel("mode, in descending order (zeros not shown)")
    left.set_ylabel("variance to explain, data units squared (log scale)")
    thresholds = select(rows, kind="threshold")
    line(right, thresholds, "order", "critical_beta", marker="o", label="first mode")
    line(right, thresholds, "order", "second_critical_beta", look=1, marker="s",
         label="second mode")  # fmt: skip
    right.set_xscale("symlog", linthresh=1)
    orders = [row["order"] for row in thresholds]
    names = [str(o) for o in orders[:-1]] + ["full"]
    right.set_xticks(orders, names)
    right.minorticks_off()
    right.set_ylim(bottom=0)
    right.set_xlabel("order: pixels before it that each pixel sees")
    right.set_ylabel(r"critical $\beta$ (local stability)")
    right.legend(loc="upper right")
    title(left, "digits, 64 pixels row by row")
    title(right, f"collapse comes earlier, s = {DECODER_VARIANCE:g}")
    legend(figure, left, columns=2)
    return figure
