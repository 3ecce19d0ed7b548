"""What a comparison says: verdicts in plain words, tables for the terminal, one HTML page.

Everything is read from the rows and the settings; nothing is computed beyond means, ranges and
differences. A `Table` of strings is the common form of what the terminal and the page show.
"""

from __future__ import annotations

import base64
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from linvae.comparison import Comparison, Row, Threshold, write_text

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["FigureRecord", "Table", "Verdict", "render_text", "tables", "verdicts", "write_report"]

THRESHOLD_TOLERANCE = 0.02  # linear: |observed / predicted - 1| that still counts as agreement
SLOPE_TOLERANCE = 0.15  # a fit slope further off than this share comes from under-training
SKEWNESS = 0.5  # of the leading component, above which a first-order transition is to be expected
NEAR_THRESHOLD = 0.1  # closer to the threshold than this share, training slows down critically
RATE_TOLERANCE = (0.1, 0.05)  # nats, share of the predicted rate: the larger of the two
COUNT_SHARE = 0.9  # of (beta, seed) points whose count of active units is within 1

Level = Literal["agrees", "differs", "note"]


@dataclass(frozen=True)
class Verdict:
    """One claim of the theory held against the observation.

    level: "agrees", "differs", or "note" where the theory makes no binding claim.
    """

    level: Level
    claim: str
    text: str
    why: str = ""


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


# --- verdicts -----------------------------------------------------------------------------------


def verdicts(comparison: Comparison) -> list[Verdict]:
    """Thresholds by level and architecture, then active units, then the rate of linear models."""
    found = [_threshold_verdict(comparison, t) for t in _by_level(comparison)]
    found += [v for a in comparison.architectures for v in _count_verdict(comparison, a)]
    return [*found, *_rate_verdict(comparison)]


def _by_level(comparison: Comparison) -> list[Threshold]:
    return sorted(comparison.thresholds(), key=lambda t: t.level)


def _threshold_verdict(comparison: Comparison, row: Threshold) -> Verdict:
    claim = f"threshold{_of_level(comparison, row.level)}, {row.architecture}"
    if row.predicted in (0, math.inf):
        return _certain_verdict(comparison, row, claim)
    if math.isnan(row.predicted):
        seen = f"observed {_range(row)}" if row.seeds else "none was estimated"
        text = f"linear theory has no threshold here; {seen}."
        return Verdict("note", claim, text)
    if not row.seeds:
        why = _missed_set_points(comparison, row) or "no control run gave a usable fit"
        text = f"{_predicts(comparison, row)}; no threshold could be estimated from the training."
        return Verdict("differs" if row.architecture == "linear" else "note", claim, text, why)
    judge = _linear_verdict if row.architecture == "linear" else _nonlinear_verdict
    return judge(comparison, row, claim)


def _certain_verdict(comparison: Comparison, row: Threshold, claim: str) -> Verdict:
    """A level that theory says is always active (predicted inf) or never (0)."""
    always = row.predicted == math.inf
    what = (
        "never collapses: it is active on encoder noise alone, whatever the data"
        if always
        else "is never active: it is collapsed at every beta, whatever the data"
    )
    counts = [r.observed for r in _sweep_rows(comparison, "active_units", row)]
    kept = sum((count >= 1) is always for count in counts)
    start = f"linear theory predicts that{_of_level(comparison, row.level, ' ')} {what}"
    if not counts:
        return Verdict("note", claim, f"{start}; not observed.")
    state = "active" if always else "collapsed"
    text = f"{start}; observed {state} in {kept} of {len(counts)} runs of the sweep."
    if kept == len(counts):
        return Verdict("agrees", claim, text)
    why = "near a collapse of the level below, the level learns too slowly; try more steps"
    return Verdict("differs" if row.architecture == "linear" else "note", claim, text, why)


def _linear_verdict(comparison: Comparison, row: Threshold, claim: str) -> Verdict:
    text = (
        f"{_predicts(comparison, row)}; observed {_range(row)}, linear, {_seeds(row)}, "
        f"{row.ratio:.3f} of the prediction."
    )
    agrees = abs(row.ratio - 1) <= THRESHOLD_TOLERANCE
    why = _missed_set_points(comparison, row) or _slope_off(row)
    if not (agrees or why):
        why = "no sign of under-training; repeat with more seeds and twice the steps"
    return Verdict("agrees" if agrees else "differs", claim, text, why)


def _nonlinear_verdict(comparison: Comparison, row: Threshold, claim: str) -> Verdict:
    text = (
        f"locator, empirical: the {row.architecture} network collapses"
        f"{_of_level(comparison, row.level, ' on ')} near beta = {_range(row)}, {_seeds(row)}, "
        f"{row.ratio:.3f} of the linear prediction {_number(row.predicted)}."
    )
    return Verdict("note", claim, text, _nonlinear_reason(comparison, row))


def _nonlinear_reason(comparison: Comparison, row: Threshold) -> str:
    """Why a nonlinear network may differ, by the sign of the difference."""
    missed = _missed_set_points(comparison, row)
    skewness = comparison.settings.get("leading_skewness")
    if missed:
        return missed
    if row.ratio < 1 - THRESHOLD_TOLERANCE:
        if comparison.settings.get("model") == "cvae":
            return "the network regresses the target on the condition better than the linear theory"
        return "the encoder's features and the training time limit what a nonlinear unit picks up"
    if skewness is not None and abs(skewness) > SKEWNESS:
        return (
            f"skewed leading component ({skewness:.2f}): a nonlinear network can stay alive above "
            "the linear threshold (first-order transition)"
        )
    if row.ratio > 1 + THRESHOLD_TOLERANCE:
        return (
            f"a nonlinear unit codes a curve, so its line ({row.slope:.2f} per nat, linear theory "
            f"{row.predicted_slope:.2f}) bends and its end at information 0 is less certain"
        )
    return ""


def _missed_set_points(comparison: Comparison, row: Threshold) -> str:
    """How many control runs of a level did not hold their information; "" if all did."""
    runs = comparison.select(
        "factor_at_information", architecture=row.architecture, level=row.level
    )
    missed = sum(math.isnan(run.observed) for run in runs)
    if not missed:
        return ""
    return f"{missed} of {len(runs)} control runs did not reach their set-point; try more steps"


def _slope_off(row: Threshold) -> str:
    """What a fit slope away from that of the linear theory means; "" if it is close."""
    if not abs(row.slope / row.predicted_slope - 1) > SLOPE_TOLERANCE:
        return ""
    return (
        f"the fit slope {row.slope:.2f} per nat is not the {row.predicted_slope:.2f} of the linear "
        "theory, a sign of under-training; try more steps"
    )


def _count_verdict(comparison: Comparison, architecture: str) -> Iterator[Verdict]:
    """Share of runs whose number of active units is within 1 of the predicted one."""
    rows = [
        row
        for row in comparison.select("active_units", architecture=architecture, index=0)
        if math.isfinite(row.predicted) and math.isfinite(row.observed)
    ]
    if not rows:
        return
    gaps = [row.observed - row.predicted for row in rows]
    within = sum(abs(gap) <= 1 for gap in gaps)
    agrees = within >= COUNT_SHARE * len(rows)
    level: Level = "agrees" if agrees else "differs" if architecture == "linear" else "note"
    text = (
        f"the number of active units of the {architecture} network is within 1 of theory in "
        f"{within} of {len(rows)} runs of the sweep ({within / len(rows):.0%})."
    )
    yield Verdict(level, f"active units, {architecture}", text, "" if agrees else _lean(gaps))


def _lean(gaps: Sequence[float]) -> str:
    if statistics.fmean(gaps) > 0:
        return "more units than predicted: idle units still carry information; try more steps"
    return "fewer units than predicted: weak modes are still being learned; try more steps"


def _rate_verdict(comparison: Comparison) -> Iterator[Verdict]:
    """Largest difference of the linear rate, mean over seeds, away from the threshold."""
    gaps = []
    for level in _levels(comparison):
        edge = _critical_beta(comparison, level)
        for beta, rows in _sweep(comparison, "rate_nats", "linear", level).items():
            seen, predicted = _mean(r.observed for r in rows), rows[0].predicted
            near = edge > 0 and abs(beta / edge - 1) <= NEAR_THRESHOLD
            if not near and math.isfinite(seen) and math.isfinite(predicted):
                gaps.append((abs(seen - predicted), seen, predicted, beta, level))
    if not gaps:
        return
    gap, seen, predicted, beta, level = max(gaps)
    nats, share = RATE_TOLERANCE
    agrees = all(g[0] <= max(nats, share * g[2]) for g in gaps)
    text = (
        f"away from the threshold the rate of the linear network is at most {_number(gap, 2)} nats "
        f"from theory at {len(gaps)} betas; worst{_of_level(comparison, level)} at "
        f"beta = {_beta(beta)}: {_number(seen, 3)} observed, {_number(predicted, 3)} predicted."
    )
    why = "" if agrees else _lean([seen - predicted]).replace("units", "nats", 1)
    yield Verdict("agrees" if agrees else "differs", "rate, linear", text, why)


# --- reading rows -------------------------------------------------------------------------------


def _levels(comparison: Comparison) -> list[int]:
    rows = comparison.select("critical_beta") + comparison.select("rate_nats")
    return sorted({row.level for row in rows})


def _of_level(comparison: Comparison, level: int, prefix: str = " of ") -> str:
    """ " of level 2" in a hierarchy, nothing where there is one level only."""
    return f"{prefix}level {level}" if len(_levels(comparison)) > 1 else ""


def _critical_beta(comparison: Comparison, level: int) -> float:
    rows = comparison.select("critical_beta", level=level)
    return rows[0].predicted if rows else math.nan


def _sweep_rows(comparison: Comparison, quantity: str, row: Threshold) -> list[Row]:
    """Rows of the sweep with a finite observation."""
    rows = comparison.select(quantity, architecture=row.architecture, level=row.level, index=0)
    return [r for r in rows if math.isfinite(r.observed)]


def _sweep(
    comparison: Comparison, quantity: str, architecture: str, level: int
) -> dict[float, list[Row]]:
    """Rows of all seeds by beta, ascending."""
    rows = comparison.select(quantity, architecture=architecture, level=level, index=0)
    return {b: [r for r in rows if r.beta == b] for b in sorted({r.beta for r in rows})}


def _predicts(comparison: Comparison, row: Threshold) -> str:
    settings = comparison.settings
    variance = settings.get("decoder_variance")
    variance = _plain(variance) if isinstance(variance, (int, float)) else str(variance)
    total = "collapse" if _of_level(comparison, row.level) else "total collapse"
    return (
        f"linear theory predicts {total}{_of_level(comparison, row.level)} of "
        f"{settings.get('dataset', 'the data')} at beta = {_number(row.predicted)} "
        f"(decoder variance {variance})"
    )


def _range(row: Threshold) -> str:
    if not row.seeds:
        return "-"
    low, high, mean = _number(row.low), _number(row.high), _number(row.observed)
    return mean if low == high else f"{mean} ({low}-{high})"


def _seeds(row: Threshold) -> str:
    return f"{row.seeds} seed" + "s" * (row.seeds != 1)


# --- numbers as text ----------------------------------------------------------------------------


def _number(value: float, digits: int = 4) -> str:
    """Significant digits; "-" for NaN; whole numbers without decimals."""
    if math.isnan(value):
        return "-"
    if math.isinf(value) or value == round(value) or abs(value) >= 10**digits:
        return f"{value:.0f}"
    return f"{value:#.{digits}g}".rstrip(".") if abs(value) >= 1e-4 else f"{value:.1e}"


def _plain(value: float) -> str:
    return f"{value:.6g}"


def _beta(value: float) -> str:
    return f"{value:.4g}"


def _nats(value: float) -> str:
    """Three digits, at most three of them decimals, and no minus before a zero."""
    if math.isnan(value) or abs(value) >= 1:
        return _number(value, 3)
    return f"{value:.3f}" if abs(value) >= 0.0005 else "0.000"


def _count(value: float) -> str:
    return _number(value) if value == round(value) or math.isnan(value) else f"{value:.1f}"


def _slope(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _mean(values: Iterable[float]) -> float:
    finite = [v for v in values if math.isfinite(v)]
    return statistics.fmean(finite) if finite else math.nan


def _mean_and_range(values: Iterable[float], text: Callable[[float], str]) -> str:
    """`mean (low-high)`; the mean alone where all are the same in print."""
    finite = [v for v in values if math.isfinite(v)]
    if not finite:
        return "-"
    low, high, mean = text(min(finite)), text(max(finite)), text(statistics.fmean(finite))
    return mean if low == high else f"{mean} ({low}-{high})"


# --- tables -------------------------------------------------------------------------------------


def tables(comparison: Comparison, *, wide: bool = True) -> tuple[Table, list[Table]]:
    """The table of thresholds, and those of the sweep: one per level if wide, else two."""
    together = wide and len(comparison.architectures) <= 2
    groups = [tuple(SWEEP_COLUMNS)] if together else [(name,) for name in SWEEP_COLUMNS]
    sweeps = [
        table
        for level in _levels(comparison)
        for quantities in groups
        for table in _sweep_table(comparison, level, quantities)
    ]
    return _threshold_table(comparison), sweeps


def _threshold_table(comparison: Comparison) -> Table:
    header = ("level", "network", "predicted beta", "observed (range)", "ratio",
              "fit slope", "theory slope", "seeds")  # fmt: skip
    rows = [
        (
            str(t.level), t.architecture, _number(t.predicted), _range(t),
            f"{t.observed / t.predicted:.3f}" if t.seeds and t.predicted > 0 else "-",
            _slope(t.slope), _slope(t.predicted_slope), str(t.seeds),
        )
        for t in _by_level(comparison)
    ]  # fmt: skip
    caption = "Thresholds: beta above which the model is collapsed"
    if len(_levels(comparison)) > 1:
        caption = "Thresholds of every level, in beta of level 1 (betas in fixed proportion)"
    return Table(caption, header, tuple(rows), row_headers=2)


# quantity: (name in the caption, name in the header, how a number is written)
SWEEP_COLUMNS: Mapping[str, tuple[str, str, Callable[[float], str]]] = {
    "rate_nats": ("rate in nats", "rate", _nats),
    "active_units": ("active units", "units", _count),
}


def _sweep_table(comparison: Comparison, level: int, quantities: Sequence[str]) -> Iterator[Table]:
    """Predicted and observed against beta, side by side; none without a sweep."""
    columns = [c for q in quantities for c in _sweep_columns(comparison, q, level)]
    betas = sorted({beta for _, cells in columns for beta in cells})
    if not betas:
        return
    edge = _critical_beta(comparison, level)
    rows = [
        (
            _beta(beta),
            f"{beta / edge:.3f}" if 0 < edge < math.inf else "-",
            *(cells.get(beta, "-") for _, cells in columns),
        )
        for beta in betas
    ]
    what = " and ".join(SWEEP_COLUMNS[q][0] for q in quantities)
    yield Table(
        f"Sweep{_of_level(comparison, level)}: {what}, mean and range of seeds",
        ("beta", "beta / critical", *(title for title, _ in columns)),
        tuple(rows),
    )


def _sweep_columns(
    comparison: Comparison, quantity: str, level: int
) -> Iterator[tuple[str, dict[float, str]]]:
    """Title and cells by beta: the prediction, then every architecture."""
    _, short, text = SWEEP_COLUMNS[quantity]
    seen = {a: _sweep(comparison, quantity, a, level) for a in comparison.architectures}
    predicted = {b: rows[0].predicted for cells in seen.values() for b, rows in cells.items()}
    yield f"{short} theory", {beta: text(value) for beta, value in predicted.items()}
    for architecture, cells in seen.items():
        yield (
            f"{short} {architecture}",
            {
                beta: _mean_and_range((row.observed for row in rows), text)
                for beta, rows in cells.items()
            },
        )


READING = (
    "Linear networks must meet the predicted threshold within 2 %: if they do not, suspect the "
    "training, not the theory. The fit slope is its check.",
    "Above the threshold every unit is idle whatever the optimiser does: lower beta or the "
    "decoder variance. Units idle well below it were not learned: change the training.",
    "For nonlinear networks the threshold is a locator: read it with its range and its reason. "
    "Next to a threshold training is slow, and rates and counts lag there.",
)


WIDE = 98  # columns of a terminal that shows rate and units side by side


def render_text(comparison: Comparison, console: Console | None = None) -> None:
    """Print data, thresholds, sweep, verdicts and how to read them; plain text when piped."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    if console is None:
        console = Console(highlight=False)
        if not console.is_terminal:
            console = Console(highlight=False, width=100)
    thresholds, sweeps = tables(comparison, wide=console.width >= WIDE)
    console.print(_data_line(comparison), markup=False)
    for table in (thresholds, *sweeps):
        console.print(f"\n{table.caption}", style="bold", markup=False)
        console.print(_rich_table(table))
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


def _data_line(comparison: Comparison) -> str:
    settings = comparison.settings
    condition = settings.get("condition_dim")
    return (
        f"{settings.get('dataset')}: n {settings.get('n_samples')}, "
        f"dim {settings.get('target_dim')}"
        + (f", condition dim {condition}" if condition else "")
        + f", sha256 {str(settings.get('data_sha256', ''))[:12]}; {settings.get('spec')}"
    )


def _rich_table(table: Table) -> Any:
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
    "spec": "model",
    "architectures": "trained networks",
    "hidden": "hidden units (mlp)",
    "seeds": "seeds",
    "steps": "steps",
    "batch_size": "batch size",
    "optimizer": "optimiser",
    "learning_rate": "learning rate",
    "set_points": "set-points of the control runs, nats",
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
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("linvae"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    thresholds, sweeps = tables(comparison)
    found = verdicts(comparison)
    html = environment.get_template("report.html").render(
        settings=comparison.settings,
        data_line=_data_line(comparison),
        verdicts=found,
        counts=Counter(v.level for v in found),
        thresholds=thresholds,
        sweeps=sweeps,
        reading=READING,
        figures=[(f, base64.b64encode(f.png_path.read_bytes()).decode()) for f in figures],
        setting_rows=_setting_rows(comparison),
        preprocessing=[_step(step) for step in comparison.settings.get("preprocessing") or ()],
        seconds=_seconds(comparison),
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "report.html"
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
        return _plain(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(_setting(v) for v in value)
    return str(value)


def _step(step: Mapping[str, Any]) -> str:
    """One step of the preprocessing: its name and its parameters."""
    rest = ", ".join(f"{key} = {_setting(v)}" for key, v in step.items() if key != "step")
    return f"{step.get('step', 'step')}: {rest}" if rest else str(step.get("step", "step"))
