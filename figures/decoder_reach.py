"""The further a decoder sees, the less a latent has to say: predicted, and what networks did."""

from __future__ import annotations

from figures.rows import kept
from figures.style import (
    LOOKS,
    THEORY,
    Axes,
    Canvas,
    Row,
    Rows,
    legend,
    line,
    note,
    panels,
    select,
    spread_points,
    title,
)

DECODERS = {"n-gram": "words", "logistic": "pixels"}  # of analysis/decoder_reach.py, their reach
NETWORKS = {
    "digits": (
        "radius of a PixelCNN, pixels", "digits, trained PixelCNNs",
        "observed: line of controlled runs to 0 nats",
    ),
    "short_yelp": (
        "units of both LSTMs", "short_yelp, trained LSTMs",
        "observed: highest constant beta that stays alive",
    ),
}  # fmt: skip
FAMILIES = {
    "fixed": "predicted: the same pull everywhere",
    "own": "predicted: all that the decoder can do",
    "encoder": "... of what the trained encoder sees",
}
OBSERVED = {  # source: look and label
    "observed": (3, "observed"),
    "alive_at": (3, "observed"),
    "certified": (4, "certified: a trained model beats collapse"),
}


def rows() -> list[Row]:
    """Predictions for new data of both kinds; predicted and observed of trained networks."""
    found = [
        {
            "source": "fitted", "data": row["data"], "reach": row["reach"],
            "critical_beta": row["held_out_critical_beta"],
        }
        for row in kept("decoder_reach")["rows"]
        if row["decoder"] in DECODERS
    ]  # fmt: skip
    return found + [one for row in kept("reach_observed")["rows"] for one in _of_network(row)]


def _of_network(row: Row) -> list[Row]:
    """One row per number that the figure shows."""
    place = {"data": row["data"], "reach": row["reach"], "seed": row["seed"]}
    numbers = {family: found["critical_beta"] for family, found in row["predicted"].items()}
    numbers |= {name: row[name] for name in OBSERVED if row.get(name) is not None}
    return [place | {"source": name, "critical_beta": value} for name, value in numbers.items()]


def draw(rows: Rows) -> Canvas:
    """All data on the left; one panel for each kind of network beside it."""
    figure, (left, *others) = panels(3, size=(11.0, 4.2))
    fitted = select(rows, source="fitted")
    for look, name in enumerate(dict.fromkeys(row["data"] for row in fitted)):
        line(
            left, select(fitted, data=name), "reach", "critical_beta", look, marker="o", label=name
        )
    left.set_xticks(range(4))
    left.set_xlabel("reach: words before, or pixels around")
    left.set_ylabel(r"critical $\beta$")
    left.set_yscale("log")
    left.set_ylim(0.6, 60)
    left.legend(loc="upper right")
    title(left, "fitted decoders on new data, predicted")
    for axes, (name, words) in zip(others, NETWORKS.items(), strict=True):
        _network(axes, [row for row in select(rows, data=name) if row["source"] != "fitted"])
        axes.set_xlabel(words[0])
        title(axes, words[1])
        note(axes, words[2], 0.03, 0.1)
    for axes in (left, *others):
        axes.axhline(1, color=THEORY, lw=0.8)
    note(left, r"$\beta = 1$: any perfect decoder", 0.03, 0.08)
    legend(figure, others, columns=3)
    return figure


def _network(axes: Axes, rows: Rows) -> None:
    """Predicted in sample, and what training found; ranges over seeds."""
    places = sorted({row["reach"] for row in rows})
    shown = [{**row, "place": places.index(row["reach"])} for row in rows]
    looks = {family: (i, label) for i, (family, label) in enumerate(FAMILIES.items())} | OBSERVED
    for source, (look, label) in looks.items():
        found = select(shown, source=source)
        ls = LOOKS[look][2] if source in FAMILIES else "none"
        if found:
            spread_points(axes, found, "place", "critical_beta", look, label=label, ls=ls)
    axes.set_xticks(range(len(places)), [str(place) for place in places])
    axes.set_yscale("log")
    axes.set_ylim(0.02, 12)
