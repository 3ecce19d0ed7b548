"""Posterior mean space: how far the encoder lags behind the model, basic and aggressive training.

Every point is one sample: the mean of the model's posterior against that of the encoder's. On the
diagonal nothing lags. Points of the linear toy move along the flow of theory, drawn for y = 1, 2
and their negatives; joint training leaves collapse at the slope

    w/x = 1/(1 + growth eta^2/(rho beta)),   x = u/(u^2 + beta s/eta^2)

of `linvae.theory.mode_system`'s growing direction, aggressive training at 1. `frames` is the same
as an animation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.lines import Line2D

from figures.rows import kept
from figures.style import (
    LOOKS,
    QUIET,
    THEORY,
    Axes,
    Canvas,
    Row,
    Rows,
    legend,
    note,
    panels,
    select,
    title,
)
from linvae.theory.dynamics import escape_rates, mode_flow

FLOWS: dict[str, Literal["joint", "aggressive"]] = {"basic": "joint", "aggressive": "aggressive"}
RUNS = tuple((toy, update) for toy in ("text", "linear") for update in FLOWS)
DRAWN = (-2.0, -1.0, 1.0, 2.0)  # samples of the linear toy whose flow is drawn
TIMES = 200  # of a flow line
FRAMES, TAIL = 40, 6  # of the animation; looks back that a tail reaches
REACH = {"text": 2.6, "linear": 3.2}  # of both axes, latent units
NEAR = 1.3  # of the panel with the single points of basic training on texts
THOUSAND = 1000
PLACE: dict[str, Any] = {
    "marker": "o", "ls": "none", "ms": 5, "mfc": "none", "color": THEORY, "zorder": 4,
    "label": "flow at this step",
}  # fmt: skip


def rows() -> list[Row]:
    """The points, what is known of each cloud, and the flow of the linear toy."""
    measured = kept("posterior_means")
    found: list[Row] = []
    for cloud in measured["clouds"]:
        own = {name: cloud[name] for name in ("toy", "update", "step")}
        numbers = {name: cloud[name] for name in ("lag", "rate_nats", "information_nats")}
        found.append({"kind": "cloud", **own, "points": len(cloud["model_means"]), **numbers})
        pairs = zip(cloud["model_means"], cloud["encoder_means"], strict=True)
        found += [
            {"kind": "point", **own, "point": i} | _means(x / THOUSAND, y / THOUSAND)
            for i, (x, y) in enumerate(pairs)
        ]
    settings = measured["settings"]["linear"]
    for update, last in zip(FLOWS, settings["steps"], strict=True):
        steps = [cloud["step"] for cloud in select(measured["clouds"], toy="linear", update=update)]
        steps = sorted({*steps, *np.linspace(0, last, TIMES).tolist()})
        found += flow_rows(
            update, np.array(steps), rate=settings["rate"], s=settings["decoder_variance"],
            start=settings["start"],
        )  # fmt: skip
    return found


def flow_rows(update: str, steps: Any, *, rate: float, s: float, start: float) -> list[Row]:
    """Means of both posteriors for y = 1 along the flow, prior variance and beta 1.

    Of any other y they are that times y. The last row is the slope at which collapse is left.
    """
    flow = mode_flow(
        [1.0], times=steps * rate, decoder_variance=s, update=FLOWS[update], start_weights=start
    )
    u, w = flow.decoder_weights[:, 0], flow.encoder_weights[:, 0]
    own = {"toy": "linear", "update": update}
    found = [
        {"kind": "flow", **own, "step": float(step)} | _means(x, y)
        for step, x, y in zip(steps, u / (u**2 + s), w, strict=True)
    ]
    return [*found, {"kind": "slope", **own, "slope": escape_slope(update, s)}]


def _means(x: float, y: float) -> Row:
    return {"model_mean": float(x), "encoder_mean": float(y)}


def escape_slope(update: str, s: float) -> float:
    """Encoder's over model's posterior mean where collapse is left; mode and prior variance 1."""
    if FLOWS[update] == "aggressive":
        return 1.0
    return 1 / (1 + float(escape_rates([1.0], decoder_variance=s)[0]))


def draw(rows: Rows) -> Canvas:
    """A row of panels per toy and training: all points at chosen steps, then single ones."""
    chosen = {run: chosen_steps(rows, run) for run in RUNS}
    columns = max(map(len, chosen.values())) + 1
    figure, axes = panels(columns, len(RUNS), size=(2.5 * columns, 2.5 * len(RUNS) + 0.5))
    for i, (run, steps) in enumerate(chosen.items()):
        across = axes[i * columns : (i + 1) * columns]
        looks = by_step(rows, run)
        for one, step in zip(across, steps, strict=False):
            _background(one, rows, run, REACH[run[0]])
            points = np.array(looks[step])
            one.plot(*points.T, ".", ms=2.5, color=_colour(run), label=_label(run))
            if run[0] == "linear":
                one.plot(*_places(rows, run)[step].T, **PLACE)
            title(one, f"step {step}")
            _numbers(one, rows, run, step)
        near = NEAR if run == RUNS[0] else REACH[run[0]]
        _background(across[-1], rows, run, near)
        _paths(across[-1], looks, run)
        title(across[-1], "single points" + (", nearer" if near == NEAR else ""))
        across[0].set_ylabel(f"{run[0]}, {run[1]}\nencoder's mean, latent units")
    for one in axes[-columns:]:
        one.set_xlabel("model's mean, latent units")
    legend(figure, axes)
    return figure


def chosen_steps(rows: Rows, run: tuple[str, str]) -> list[int]:
    """Steps at which all points of a run were seen."""
    clouds = select(rows, kind="cloud", toy=run[0], update=run[1])
    most = max(cloud["points"] for cloud in clouds)
    return [cloud["step"] for cloud in clouds if cloud["points"] == most]


def by_step(rows: Rows, run: tuple[str, str]) -> dict[int, list[tuple[float, float]]]:
    """(model's, encoder's mean) of the points at every step that was looked at."""
    found: dict[int, list[tuple[float, float]]] = {}
    for row in select(rows, kind="point", toy=run[0], update=run[1]):
        found.setdefault(row["step"], []).append((row["model_mean"], row["encoder_mean"]))
    return found


def _background(axes: Axes, rows: Rows, run: tuple[str, str], reach: float) -> None:
    """Limits, diagonal, and what theory draws."""
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    axes.locator_params(nbins=5)
    axes.plot([-reach, reach], [-reach, reach], color=QUIET, lw=0.8, label="no lag")
    flow = select(rows, kind="flow", toy=run[0], update=run[1])
    x, y = (np.array([row[name] for row in flow]) for name in ("model_mean", "encoder_mean"))
    for sample in DRAWN if flow else ():
        axes.plot(
            sample * x, sample * y, color=THEORY, lw=0.9, zorder=3,
            label=r"linear flow (theory) of y = $\pm$1, $\pm$2",
        )  # fmt: skip
    for row in select(rows, kind="slope", toy=run[0], update=run[1]):
        colour, _, dashes = LOOKS[2]
        style: dict[str, Any] = {"color": colour, "ls": dashes, "lw": 0.9}
        axes.axline((0, 0), slope=row["slope"], label="slope at the start (theory)", **style)


def _places(rows: Rows, run: tuple[str, str]) -> dict[float, np.ndarray]:
    """Where the flow has the `DRAWN` samples at every step, (samples, 2)."""
    flow = select(rows, kind="flow", toy=run[0], update=run[1])
    return {row["step"]: np.outer(DRAWN, [row["model_mean"], row["encoder_mean"]]) for row in flow}


def _numbers(axes: Axes, rows: Rows, run: tuple[str, str], step: int) -> None:
    (cloud,) = select(rows, kind="cloud", toy=run[0], update=run[1], step=step)
    information = max(0.0, cloud["information_nats"])  # no minus before 0.00
    text = f"lag {cloud['lag']:.2f}\nI {information:.2f} nats"
    note(axes, text, 0.04, 0.97)


def _paths(axes: Axes, looks: dict[int, list[tuple[float, float]]], run: tuple[str, str]) -> None:
    """Single points from their first place to their last, a dot there."""
    paths = _followed(looks)
    axes.plot(*_joined(paths).T, color=_colour(run), lw=0.5, alpha=0.6)
    axes.plot(*paths[-1].T, ".", ms=3.5, color=_colour(run))


def _followed(looks: dict[int, list[tuple[float, float]]]) -> np.ndarray:
    """(looks, points, 2) of the points that every look has, in the order of steps."""
    least = min(map(len, looks.values()))
    return np.array([looks[step][:least] for step in sorted(looks)])


def _joined(paths: np.ndarray) -> np.ndarray:
    """(rows, 2): one line through all paths (looks, points, 2), broken between points."""
    gap = np.full((1, *paths.shape[1:]), np.nan)
    return np.concatenate([paths, gap]).transpose(1, 0, 2).reshape(-1, 2)


def _colour(run: tuple[str, str]) -> str:
    return str(LOOKS[list(FLOWS).index(run[1])][0])


def _label(run: tuple[str, str]) -> str:
    return f"{run[1]}, one point per sample"


def frames(rows: Rows) -> Iterator[Canvas]:
    """The figure of the animation, again and again: single points of the four runs, with tails."""
    figure, axes = panels(2, 2, size=(5.6, 6.0))
    moving = [_Moving.begin(one, rows, run) for one, run in zip(axes, RUNS, strict=True)]
    legend(figure, axes, columns=2)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # panels stay where they are
    for frame in range(FRAMES):
        for panel in moving:
            panel.show(frame / (FRAMES - 1))
        yield figure


@dataclass(frozen=True)
class _Moving:
    """One panel of the animation."""

    axes: Axes
    run: tuple[str, str]
    marks: dict[str, Line2D]
    steps: list[int]
    paths: np.ndarray  # (looks, points, 2)
    places: dict[float, np.ndarray]

    @classmethod
    def begin(cls, axes: Axes, rows: Rows, run: tuple[str, str]) -> _Moving:
        """The panel without points."""
        _background(axes, rows, run, REACH[run[0]])
        axes.set(xlabel="model's mean, latent units", ylabel="encoder's mean, latent units")
        looks, places = by_step(rows, run), _places(rows, run)
        styles = {
            "tails": {"color": _colour(run), "lw": 0.6, "alpha": 0.6},
            "points": {
                "color": _colour(run), "marker": ".", "ms": 4, "ls": "none", "label": _label(run)
            },
        } | ({"places": PLACE} if places else {})  # fmt: skip
        marks = {name: axes.plot([], [], **style)[0] for name, style in styles.items()}
        panel = cls(axes, run, marks, sorted(looks), _followed(looks), places)
        panel.show(0.0)
        return panel

    def show(self, share: float) -> None:
        """The look at this share of them, with its tails."""
        at = round(share * (len(self.steps) - 1))
        self.marks["tails"].set_data(*_joined(self.paths[max(0, at - TAIL) : at + 1]).T)
        self.marks["points"].set_data(*self.paths[at].T)
        if self.places:
            self.marks["places"].set_data(*self.places[self.steps[at]].T)
        title(self.axes, f"{self.run[0]}, {self.run[1]}, step {self.steps[at]}")
