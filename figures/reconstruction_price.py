"""The latent reconstruction loss in trained networks: thresholds, what units carry, the price.

Lines: the optimum of linear VAEs. Above: one unit on one mode of variance 1, where its last branch
ends, and what it explains somewhat below; units that are counted as active. Then rates, and the
distortion above the least of linear VAEs at that rate, z from q: four units on the spectrum 4, 2,
1, 0.5, two units on it, and four on data of the same covariance that follow a curve.
"""

from __future__ import annotations

from analysis.reconstruction_price import FACTORS
from figures.rows import kept
from figures.style import (
    QUIET,
    Axes,
    Canvas,
    Row,
    Rows,
    legend,
    line,
    panels,
    select,
    spread_points,
    title,
)

SOURCES = {"prior": 0, "posterior": 1}  # and their looks
BETAS = {0.25: 2, 1.5: 3, 3.0: 4}
COUNTED = 3.0  # beta of the active units
CASES = {
    "four units": ("gaussian", 4),
    "two units": ("gaussian", 2),
    "four units, curved data": ("curved", 4),
}
NETWORKS = {"linear": "none", "mlp": "full"}  # marks, open and filled
NEAR, TICKS = 0.02, (0, 0.02, 0.1, 0.5, 2)  # gamma, linear below the first


def rows() -> list[Row]:
    """Thresholds and ends of every seed, beside what is predicted."""
    runs, found = kept("reconstruction_price"), []
    for row in runs["thresholds"]:
        place = {name: row[name] for name in ("network", "gamma", "source", "seed")}
        explained = {
            "kind": "explained",
            "predicted": row["predicted_explained"][0],
            "observed": row["explained"][0],
        }
        found.append(place | explained)
        if row["network"] == "linear":
            critical = {
                "kind": "threshold",
                "predicted": row["predicted_by_line"],
                "observed": row["critical_beta"],
            }
            found.append(place | critical)
    for row in runs["ends"]:
        names = ("data", "network", "latent_dim", "beta", "gamma", "source", "seed")
        place = {name: row[name] for name in names}
        for kind in ("rate_nats", "price_nats", "active_units"):
            both = {"predicted": row[f"predicted_{kind}"], "observed": row[kind]}
            found.append({"kind": kind} | place | both)
    return found


def draw(rows: Rows) -> Canvas:
    """Three panels of one mode and of counts, then rates and prices of three cases."""
    figure, axes = panels(3, 3, size=(11.4, 10.2))
    counted = select(rows, kind="active_units", data="gaussian", latent_dim=4, beta=COUNTED)
    top = (
        (select(rows, kind="threshold"), r"critical $\beta$", "threshold of one mode"),
        (select(rows, kind="explained"), "share of the variance of y", "what one unit explains"),
        (counted, "active units", rf"four units, $\beta$ = {COUNTED:g}"),
    )
    for one, (own, label, text) in zip(axes, top, strict=False):
        for source, look in SOURCES.items():
            _both(one, _with_source(own, source), look, f"z from the {source}")
        one.set_ylabel(label)
        title(one, text)
    axes[0].set_yscale("log")
    axes[0].set_yticks([1, 2, 5, 9], ["1", "2", "5", "9"])
    axes[0].minorticks_off()
    title(axes[1], rf"what one unit explains at {FACTORS[0]:g} of it")
    for column, (text, (data, latent_dim)) in enumerate(CASES.items()):
        for place, kind in ((3, "rate_nats"), (6, "price_nats")):
            one = axes[place + column]
            own = select(rows, kind=kind, data=data, latent_dim=latent_dim)
            for beta, look in BETAS.items():
                chosen = select(_with_source(own, "posterior"), beta=beta)
                _both(one, chosen, look, rf"$\beta$ = {beta:g}")
            title(one, text)
        title(axes[3 + column], f"{text}, z from the posterior")
    axes[3].set_ylabel("rate, nats per sample")
    axes[6].set_ylabel("distortion above the least\nof linear VAEs at that rate, nats")
    for one in axes[6:]:
        one.axhline(0, color=QUIET, lw=0.8, zorder=0)
        one.set_xlabel(r"weight $\gamma$ of the loss, nats / latent unit squared")
    for one in axes:
        one.set_xscale("symlog", linthresh=NEAR, linscale=0.4)
        one.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
        one.minorticks_off()
        one.set_xlim(-0.004, 2.6)
    for network, fill in NETWORKS.items():
        axes[0].plot([], [], color=QUIET, marker="o", ls="none", mfc=_face(fill), label=network)
    legend(figure, axes, columns=7)
    return figure


def _face(fill: str) -> str:
    return "none" if fill == "none" else QUIET


def _with_source(rows: Rows, source: str) -> Rows:
    """Without the loss both are the same."""
    return [row for row in rows if row["source"] == source or row["gamma"] == 0]


def _both(axes: Axes, rows: Rows, look: int, label: str) -> None:
    """The prediction as a line, seeds of every network as a mean with their range."""
    first = rows[0]
    predicted = select(rows, network=first["network"], seed=first["seed"])
    line(axes, predicted, "gamma", "predicted", look, label=label)
    for network, fill in NETWORKS.items():
        own = select(rows, network=network)
        if own:
            style = {"mfc": "none"} if fill == "none" else {}
            spread_points(axes, own, "gamma", "observed", look, **style)
