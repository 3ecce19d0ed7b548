"""What a comparison says: verdicts in plain words, tables for the terminal, one HTML page.

Everything is read from the rows and the settings; nothing is computed beyond means, ranges and
differences. A `Table` of strings is the common form of what the terminal and the page show.
"""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from linvae import wording
from linvae.comparison import (
    LINEAR_TOLERANCE,
    METHODS,
    Comparison,
    Estimate,
    without_remedy,
    write_text,
)
from linvae.verdicts import Level, Verdict, by_level, threshold_range, verdicts
from linvae.wording import Spread, level_text, number, plain

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "FigureRecord",
    "Table",
    "Verdict",
    "embedded",
    "how_sure",
    "render_text",
    "rich_table",
    "tables",
    "terminal",
    "verdicts",
    "write_page",
    "write_report",
]


@dataclass(frozen=True)
class Table:
    """A table of strings; the first `row_headers` columns name the row."""

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    row_headers: int = 1


class FigureRecord(Protocol):
    """What the page needs to know of a figure; `linvae.plots.Figure` is one."""

    @property
    def name(self) -> str:
        """File name without suffix."""

    @property
    def title(self) -> str:
        """Caption."""

    @property
    def alt(self) -> str:
        """Its key numbers in one sentence."""

    @property
    def png_path(self) -> Path:
        """The picture."""


# --- tables -------------------------------------------------------------------------------------


def tables(comparison: Comparison, *, wide: bool = True) -> tuple[Table, list[Table]]:
    """The table of thresholds, and those of the sweep: one per level if wide, else two."""
    remedied = bool(comparison.settings.get("remedies"))  # whose names are long
    together = wide and len(comparison.architectures) <= 2 and not remedied
    groups = [tuple(SWEEP_COLUMNS)] if together else [(name,) for name in SWEEP_COLUMNS]
    sweeps = [
        table
        for level in comparison.levels
        for quantities in groups
        for table in _sweep_table(comparison, level, quantities)
    ]
    return _threshold_table(comparison), sweeps


def _threshold_table(comparison: Comparison) -> Table:
    header = ("level", "network", "predicted beta", "observed (range)", "ratio",
              "fit slope", "theory slope", "seeds")  # fmt: skip
    rows = [
        (
            str(t.level), t.architecture, number(t.predicted), threshold_range(t),
            f"{t.observed / t.predicted:.3f}" if t.seeds and t.predicted > 0 else "-",
            wording.slope(t.slope), wording.slope(t.predicted_slope), str(t.seeds),
        )
        for t in by_level(comparison)
    ]  # fmt: skip
    caption = "Thresholds: beta above which the model is collapsed"
    if len(comparison.levels) > 1:
        caption = "Thresholds of every level, in beta of level 1 (betas in fixed proportion)"
    return Table(caption, header, tuple(rows), row_headers=2)


def how_sure(comparison: Comparison, *, wide: bool = True) -> Table | None:
    """Every estimate of every threshold with its kind; None where none was recorded.

    Narrow: without runs and seconds.
    """
    rows = tuple(
        _sure_row(t.level, t.architecture, e)
        for t in by_level(comparison)
        for e in comparison.estimates(t.architecture, t.level)
    )
    kept = len(SURE_COLUMNS) - 2 * (not wide)
    narrow = tuple(row[:kept] for row in rows)
    return Table("How sure is this threshold", SURE_COLUMNS[:kept], narrow, 4) if rows else None


SURE_COLUMNS: tuple[str, ...] = (
    "level", "network", "method", "kind", "beta (seeds)", "bracket", "runs", "seconds",
)  # fmt: skip


def _sure_row(level: int, architecture: str, e: Estimate) -> tuple[str, ...]:
    return (
        str(level), architecture, METHODS[e.method], e.kind, _value(e), _ends(e), str(e.runs),
        number(e.seconds, 3),
    )  # fmt: skip


def _value(estimate: Estimate) -> str:
    if not estimate.seeds:
        return "-"
    low, high = estimate.seed_low, estimate.seed_high
    return Spread(estimate.value, low, high, estimate.seeds).text()


def _ends(estimate: Estimate) -> str:
    """`low-high`, or the one end that there is."""
    low, high = estimate.low, estimate.high
    if math.isfinite(low) and math.isfinite(high):
        return f"{number(low)}-{number(high)}"
    if math.isfinite(low):
        return f"above {number(low)}"
    return f"below {number(high)}" if math.isfinite(high) else "-"


def _notes(comparison: Comparison) -> list[str]:
    """What a reader must know of single estimates, one line each."""
    return [
        f"{t.architecture}{level_text(comparison, t.level, ', ')}, {METHODS[e.method]}: {e.note}."
        for t in by_level(comparison)
        for e in comparison.estimates(t.architecture, t.level)
        if e.note
    ]


# quantity: (name in the caption, name in the header, how a number is written)
SWEEP_COLUMNS: Mapping[str, tuple[str, str, Callable[[float], str]]] = {
    "rate_nats": ("rate in nats", "rate", wording.nats),
    "active_units": ("active units", "units", wording.count),
}


def _sweep_table(comparison: Comparison, level: int, quantities: Sequence[str]) -> Iterator[Table]:
    """Predicted and observed against beta, side by side; none without a sweep."""
    columns = [c for q in quantities for c in _sweep_columns(comparison, q, level)]
    betas = sorted({beta for _, cells in columns for beta in cells})
    if not betas:
        return
    edge = comparison.critical_beta(level)
    rows = [
        (
            plain(beta, 4),
            f"{beta / edge:.3f}" if 0 < edge < math.inf else "-",
            *(cells.get(beta, "-") for _, cells in columns),
        )
        for beta in betas
    ]
    what = " and ".join(SWEEP_COLUMNS[q][0] for q in quantities)
    yield Table(
        f"Sweep{level_text(comparison, level, ' of ')}: {what}, mean and range of seeds",
        ("beta", "beta / critical", *(title for title, _ in columns)),
        tuple(rows),
    )


def _sweep_columns(
    comparison: Comparison, quantity: str, level: int
) -> Iterator[tuple[str, dict[float, str]]]:
    """Title and cells by beta: the plain optimum, then every network, remedies with their own.

    A remedy's prediction has a column in front of it where it is not the plain one.
    """
    _, short, text = SWEEP_COLUMNS[quantity]
    seen = {a: comparison.sweep(quantity, a, level) for a in comparison.architectures}
    plain = {
        beta: rows[0].predicted
        for name, cells in seen.items()
        if not without_remedy(name)[1]
        for beta, rows in cells.items()
    }
    yield f"{short} theory", {beta: text(value) for beta, value in plain.items()}
    for architecture, cells in seen.items():
        own = {beta: rows[0].predicted for beta, rows in cells.items()}
        if own != plain and not all(math.isnan(value) for value in own.values()):
            yield (
                f"{short} theory, {without_remedy(architecture)[1]}",
                {beta: text(value) for beta, value in own.items()},
            )
        yield (
            f"{short} {architecture}",
            {
                beta: Spread.of(row.observed for row in rows).text(text)
                for beta, rows in cells.items()
            },
        )


READING = (
    f"Linear networks must meet the predicted threshold within {100 * LINEAR_TOLERANCE:.0f} %: if "
    "they do not, suspect the training, not the theory. The fit slope is its check.",
    "Above the threshold every unit is idle whatever the optimiser does: lower beta or the "
    "decoder variance. Units idle well below it were not learned: change the training.",
    "For nonlinear networks the threshold is a locator: read it with its range and its reason. "
    "Next to a threshold training is slow, and rates and counts lag there.",
)

SURENESS = (
    "Certain: below a certified beta a trained network is better than every collapsed one, up to "
    "the Monte-Carlo error, three of which are taken off. Everything else is empirical: a better "
    "optimum may have been missed, and a run may have been too short."
)
SECONDS = (
    "Seconds are of training and evaluation: runs that several methods share count for each, and "
    "what a store held counts what it took when it was trained."
)


WIDE = 98  # columns of a terminal that shows rate and units side by side


def render_text(comparison: Comparison, console: Console | None = None) -> None:
    """Print data, thresholds, sweep, verdicts and how to read them; plain text when piped."""
    from rich.padding import Padding
    from rich.text import Text

    if console is None:
        console = terminal()
    thresholds, sweeps = tables(comparison, wide=console.width >= WIDE)
    console.print(_data_line(comparison), markup=False)
    sure = how_sure(comparison, wide=console.width >= WIDE)
    notes = [*([SECONDS] if console.width >= WIDE else []), *_notes(comparison)]
    for table in (thresholds, *([sure] if sure else []), *sweeps):
        console.print(f"\n{table.caption}", style="bold", markup=False)
        console.print(rich_table(table))
        for line in notes if table is sure else ():
            console.print(Padding(Text(line), (0, 0, 0, 2), expand=False))
    console.print("\nVerdict", style="bold")
    for verdict in verdicts(comparison):
        console.print(Padding(_rich_claim(verdict), (0, 0, 0, 2), expand=False))
        for line in (verdict.text, f"why: {verdict.why}" if verdict.why else ""):
            if line:
                console.print(Padding(Text(line), (0, 0, 0, 4), expand=False))
    console.print("\nWhat to look for", style="bold")
    for line in READING:
        console.print(Padding(Text(line), (0, 0, 0, 2), expand=False))
    console.print(f"\nseconds: {_seconds(comparison)}", markup=False)


def terminal(piped_width: int = 100) -> Console:
    """The terminal; as wide as that where there is none."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=piped_width)


def _data_line(comparison: Comparison) -> str:
    settings = comparison.settings
    condition = settings.get("condition_dim")
    return (
        f"{settings.get('dataset')}: n {settings.get('n_samples')}, "
        f"dim {settings.get('target_dim')}"
        + (f", condition dim {condition}" if condition else "")
        + f", sha256 {str(settings.get('data_sha256', ''))[:12]}; {settings.get('spec')}"
    )


def rich_table(table: Table) -> Any:
    """The table for a terminal, numbers to the right."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True, padding=(0, 1)
    )
    for i, title in enumerate(table.header):
        side: Literal["left", "right"] = "left" if 1 < table.row_headers > i else "right"
        widest = max((len(row[i]) for row in table.rows), default=0)
        shown.add_column(Text(_stacked(title)), justify=side, min_width=widest)
    for row in table.rows:
        shown.add_row(*(Text(cell) for cell in row))
    return shown


def _stacked(title: str) -> str:
    """The title of a column on two lines, the last word below."""
    return "\n".join(title.rsplit(" ", 1))


_STYLES: Mapping[Level, str] = {"agrees": "green", "differs": "bold red", "note": "yellow"}


def _rich_claim(verdict: Verdict) -> Any:
    from rich.text import Text

    label = verdict.level.upper() if verdict.level == "differs" else verdict.level
    return Text.assemble((f"{label}: ", _STYLES[verdict.level]), (verdict.claim, "bold"))


def _seconds(comparison: Comparison) -> str:
    parts = comparison.settings.get("seconds") or {}
    return ", ".join(f"{name} {value:.3g}" for name, value in parts.items()) or "-"


# --- the page -----------------------------------------------------------------------------------

SETTING_LABELS = {
    "data_description": "data",
    "data_sha256": "sha256 of the data",
    "data_note": "note on the data",
    "leading_skewness": "skewness of the leading component",
    "skewness_shift": "shift of a network's threshold predicted from it",
    "spec": "model",
    "architectures": "trained networks",
    "network_options": "sizes of networks that are not linear",
    "latent_reconstruction": "latent reconstruction loss",
    "inverse_lipschitz": "least stretch of the inverse-Lipschitz decoder",
    "seeds": "seeds",
    "optimizer": "optimiser",
    "training": "training",
    "set_points": "set-points of the control runs, nats",
    "cutoff_nats": "cut-off of units counted by their KL, nats",
    "active_units_threshold": "a unit is active if its mean varies by more than",
    "epsilon": "a unit is collapsed if its KL, nats, is below",
    "delta": "... but for a share of the samples of at most",
    "device": "device",
    "platform": "platform",
    "version": "linvae",
    "torch_version": "torch",
    "numpy_version": "numpy",
}


def write_report(
    comparison: Comparison, folder: Path, figures: Sequence[FigureRecord] = ()
) -> Path:
    """Write report.html, one file that needs no other, whole or not at all; returns its path."""
    thresholds, sweeps = tables(comparison)
    found = verdicts(comparison)
    return write_page(
        folder / "report.html",
        "report.html",
        settings=comparison.settings,
        data_line=_data_line(comparison),
        verdicts=found,
        counts=Counter(v.level for v in found),
        thresholds=thresholds,
        sure=how_sure(comparison),
        sureness=f"{SURENESS} {SECONDS}",
        notes=_notes(comparison),
        sweeps=sweeps,
        reading=READING,
        figures=[(f, embedded(f.png_path)) for f in figures],
        setting_rows=_setting_rows(comparison),
        preprocessing=[_step(step) for step in comparison.settings.get("preprocessing") or ()],
        seconds=_seconds(comparison),
    )


def embedded(png: Path) -> str:
    """A picture as text, for a page that needs no other file."""
    return base64.b64encode(png.read_bytes()).decode()


def write_page(path: Path, template: str, **content: Any) -> Path:
    """A page of `linvae/templates`, written whole or not at all; returns its path."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("linvae"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    html = environment.get_template(template).render(content)
    path.parent.mkdir(parents=True, exist_ok=True)
    # pure ASCII, so that the page reads the same whatever the encoding of the machine
    write_text(path, html.encode("ascii", "xmlcharrefreplace").decode("ascii"))
    return path


def _setting_rows(comparison: Comparison) -> list[tuple[str, str]]:
    settings = comparison.settings
    return [
        (label, _setting(settings[key]))
        for key, label in SETTING_LABELS.items()
        if settings.get(key) not in (None, "", [])
    ]


def _setting(value: Any) -> str:
    if isinstance(value, float):
        return plain(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(_setting(v) for v in value)
    if isinstance(value, Mapping):
        nested = any(isinstance(v, Mapping) for v in value.values())
        between, end = (": ", "; ") if nested else (" ", ", ")
        return end.join(
            f"{str(k).replace('_', ' ')}{between}{_setting(v)}" for k, v in value.items()
        )
    return str(value)


def _step(step: Mapping[str, Any]) -> str:
    """One step of the preprocessing: its name and its parameters."""
    rest = ", ".join(f"{key} = {_setting(v)}" for key, v in step.items() if key != "step")
    return f"{step.get('step', 'step')}: {rest}" if rest else str(step.get("step", "step"))
