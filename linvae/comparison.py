"""The tidy table in the middle: predicted beside observed, one row per quantity and member.

`compare` writes rows; the report, the plots and the figures read rows and compute nothing.
Settings and provenance travel with the rows: `comparison.csv` repeats the short ones as columns,
`summary.json` has all of them, and both are read back.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import math
import os
import statistics
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from linvae.notebook import html_table

if TYPE_CHECKING:
    import pandas

__all__ = [
    "LINEAR_TOLERANCE",
    "METHODS",
    "WITH",
    "Boundary",
    "Comparison",
    "CurvePoint",
    "Estimate",
    "Row",
    "Threshold",
    "json_safe",
    "json_text",
    "with_remedy",
    "without_remedy",
    "write_bytes",
    "write_text",
]

R = TypeVar("R", "Row", "CurvePoint", "Boundary")
WITH = " + "  # between a network and its remedy, in the name of both
LINEAR_TOLERANCE = 0.02  # a linear network within this share of its threshold agrees with theory
QUANTITIES = {
    "critical_beta": "beta at which the level collapses (its first mode); observed: per seed",
    "universal_beta": "beta from which no network of any architecture can be worth its rate",
    "certified_beta": "a trained network beats collapse at every beta below, of level 1",
    "certified_error": "Monte-Carlo standard error of it, three of which are taken off already",
    "local_beta": "below it the collapsed network itself is unstable",
    "residual_beta": "that of the target's residual under the collapsed network's decoder",
    "bracket_low": "largest beta at which networks that started collapsed are alive",
    "bracket_high": "beta from which on networks that started alive are dead",
    "control_drift": "change of log beta over the last sixth of a control run",
    "doubled_steps_beta": "the observed critical_beta again, after twice the steps",
    "alive_branch_nats": "information of the level in a network that started alive; index: quarter",
    "collapsed_branch_nats": "the same in one that started collapsed",
    "alive_branch_free_energy": "objective less that of collapse, nats, of one that started alive",
    "collapsed_branch_free_energy": "the same of one that started collapsed",
    "alive_branch_free_energy_error": "Monte-Carlo standard error of it",
    "collapsed_branch_free_energy_error": "Monte-Carlo standard error of it",
    "fit_slope": "slope of the fitted line of log beta against information, per nat",
    "fitted_critical_beta": "where a line through theory's own points at the set-points ends",
    "factor_at_information": "factor on all betas that holds the level at `information_nats`",
    "rate_nats": "E KL of the level, nats per sample, without beta",
    "unit_rate_nats": "E KL of one unit of the level, nats, units in descending order",
    "information_nats": "rate of the level against its best Gaussian prior, nats",
    "active_units": "units whose posterior mean varies by more than 0.01",
    "units_above_cutoff": "units with KL > `cutoff_nats`: modes above beta s exp(2 cutoff)",
    "collapsed_units": "units with KL < eps for a share 1 - delta of the samples",
    "collapsed_share": "share of samples whose KL of the level is below 0.1 nats: local collapse",
    "blown_up": "1 where the latent scale blew up on the way (`linvae.train.BlownUp`)",
    "distortion_nats": "E[-log p(y|z)], nats per sample",
    "mode_variance": "theta_i^2, what mode i has to explain, data units^2",
}
METHODS = {
    "control": "held information",
    "bracket": "two branches",
    "certificate": "exchange ratio",
    "local": "collapsed network",
    "naive": "naive grid",
}
SUMMARY = "summary.json"
COLUMN_SETTINGS = ("dataset", "model", "latent_dims", "decoder_variance", "data_sha256", "version")


def with_remedy(architecture: str, remedy: str) -> str:
    """Name of a network trained with a remedy, as rows have it."""
    return f"{architecture}{WITH}{remedy}"


def without_remedy(name: str) -> tuple[str, str]:
    """Network and remedy of a name, the latter "" without one."""
    architecture, _, remedy = name.partition(WITH)
    return architecture, remedy


@dataclass(frozen=True)
class Row:
    """One number twice: as predicted and as observed. NaN where one side has none.

    | field            | meaning                                                               |
    |------------------|-----------------------------------------------------------------------|
    | quantity         | key of `QUANTITIES`                                                   |
    | architecture     | "theory" (dense curve, predicted only), "linear", "mlp"               |
    | level            | 1, 2, ... of a hierarchy; 0 where it does not apply                   |
    | index            | unit or mode, 1 ... in descending order; 0 = the whole level          |
    | beta             | first beta of the run; NaN where the row is not at one beta           |
    | information_nats | measured information of a control run; NaN elsewhere                  |
    | seed             | seed of the run; -1 for theory                                        |
    """

    quantity: str
    architecture: str
    level: int
    index: int
    beta: float
    information_nats: float
    seed: int
    predicted: float
    observed: float

    @property
    def is_plain(self) -> bool:
        """Without a remedy, which may have a prediction of its own, or none."""
        return not without_remedy(self.architecture)[1]


@dataclass(frozen=True)
class CurvePoint:
    """A member of the sweep while it trains, after `step` steps: means over one batch, nats.

    `objective_nats`: what the step lowered, with beta and a remedy's terms.
    """

    architecture: str
    beta: float
    seed: int
    step: int
    distortion_nats: float
    rate_nats: float
    objective_nats: float


@dataclass(frozen=True)
class Boundary:
    """First beta at which a unit is collapsed as predicted: inf, never; 0, it is never alive.

    `at`: the decoder variance there; of a hierarchy beta of level 2 / beta of level 1.
    """

    level: int
    unit: int
    at: float
    critical_beta: float


@dataclass(frozen=True)
class Estimate:
    """One threshold by one method, in beta of level 1 or as a factor on it.

    | field               | meaning                                                            |
    |---------------------|--------------------------------------------------------------------|
    | method              | key of `METHODS`                                                   |
    | kind                | "certain" up to the stated Monte-Carlo error, or "empirical"       |
    | value               | mean over seeds; of a certificate the largest                      |
    | low, high           | bracket of all seeds; -inf and inf where the method has no end     |
    | seed_low, seed_high | range of the values of the seeds                                   |
    | seeds               | those that gave a finite value                                     |
    | runs                | networks trained for it, all seeds                                 |
    | seconds             | of training and evaluation; what several methods share counts for each |
    | note                | what a reader must know, "" if nothing                             |
    """

    method: str
    kind: Literal["certain", "empirical"]
    value: float
    low: float
    high: float
    seed_low: float
    seed_high: float
    seeds: int
    runs: int
    seconds: float
    note: str = ""

    @classmethod
    def of_seeds(
        cls,
        method: str,
        values: Iterable[float],
        *,
        low: float = -math.inf,
        high: float = math.inf,
        runs: int,
        seconds: float,
        kind: Literal["certain", "empirical"] = "empirical",
        note: str = "",
    ) -> Self:
        """From one value per seed; of the finite ones."""
        if method not in METHODS:
            raise ValueError(f"method={method!r} must be one of {sorted(METHODS)} in Estimate")
        known = [float(v) for v in values if math.isfinite(v)]
        least, most = min(known, default=math.nan), max(known, default=math.nan)
        mean = statistics.fmean(known) if known else math.nan
        value = most if method == "certificate" else mean
        return cls(
            method, kind, value, float(low), float(high), least, most, len(known), runs, seconds,
            note,
        )  # fmt: skip

    def to_record(self) -> dict[str, Any]:
        """The fields for `settings`, JSON-able: NaN as None, infinities as text."""
        record: dict[str, Any] = json_safe(dataclasses.asdict(self))
        return record

    def scaled(self, beta: float) -> Self:
        """A factor on beta as a beta."""
        names = ("value", "low", "high", "seed_low", "seed_high")
        return dataclasses.replace(self, **{n: beta * getattr(self, n) for n in names})


@dataclass(frozen=True)
class Threshold:
    """Predicted and observed threshold of one level under one architecture.

    `observed` is the mean over the `seeds` whose estimate succeeded, `low` and `high` their range,
    `slope` the mean slope of their fits. `predicted_slope` and `predicted_fit` are slope and end of
    the same line through theory's own points: away from `predicted` where the law of the level is
    not one line. NaN where no seed succeeded.
    """

    architecture: str
    level: int
    predicted: float
    observed: float
    low: float
    high: float
    seeds: int
    slope: float
    predicted_slope: float
    predicted_fit: float

    @property
    def ratio(self) -> float:
        """observed / predicted; NaN where the prediction is 0 (never active)."""
        return self.observed / self.predicted if self.predicted else math.nan


@dataclass(frozen=True, repr=False)
class Comparison:
    """Settings (JSON-able) and rows of one `compare` run, its training and its phases."""

    settings: Mapping[str, Any]
    rows: tuple[Row, ...]
    curves: tuple[CurvePoint, ...] = ()
    boundaries: tuple[Boundary, ...] = ()

    def select(self, quantity: str, **where: Any) -> list[Row]:
        """Rows of a quantity, filtered by equality of fields."""
        if quantity not in QUANTITIES:
            raise ValueError(f"quantity={quantity!r} must be one of {sorted(QUANTITIES)}")
        return [
            row
            for row in self.rows
            if row.quantity == quantity and all(getattr(row, k) == v for k, v in where.items())
        ]

    @property
    def architectures(self) -> list[str]:
        """Trained architectures, in the order of the rows."""
        names = dict.fromkeys(row.architecture for row in self.rows)
        return [name for name in names if name != "theory"]

    @property
    def levels(self) -> list[int]:
        """Levels that have a threshold or a rate, ascending."""
        rows = self.select("critical_beta") + self.select("rate_nats")
        return sorted({row.level for row in rows})

    def critical_beta(self, level: int) -> float:
        """Predicted threshold of a level in the first beta; NaN where no row has one."""
        rows = self.select("critical_beta", level=level)
        return rows[0].predicted if rows else math.nan

    def sweep(self, quantity: str, architecture: str, level: int) -> dict[float, list[Row]]:
        """Rows of a whole level, all seeds, by beta, ascending."""
        rows = self.select(quantity, architecture=architecture, level=level, index=0)
        betas = sorted({row.beta for row in rows if math.isfinite(row.beta)})
        return {beta: [row for row in rows if row.beta == beta] for beta in betas}

    def thresholds(self) -> list[Threshold]:
        """Summary of the critical_beta rows: mean and range over seeds."""
        keys = dict.fromkeys((r.architecture, r.level) for r in self.select("critical_beta"))
        return [self._threshold(*key) for key in keys if key[0] != "theory"]

    def _threshold(self, architecture: str, level: int) -> Threshold:
        rows = self.select("critical_beta", architecture=architecture, level=level)
        slopes = self.select("fit_slope", architecture=architecture, level=level)
        fits = self.select("fitted_critical_beta", architecture=architecture, level=level)
        observed = [r.observed for r in rows if math.isfinite(r.observed)]
        finite = [r.observed for r in slopes if math.isfinite(r.observed)]
        nan = math.nan
        return Threshold(
            architecture=architecture,
            level=level,
            predicted=rows[0].predicted,
            observed=statistics.fmean(observed) if observed else nan,
            low=min(observed, default=nan),
            high=max(observed, default=nan),
            seeds=len(observed),
            slope=statistics.fmean(finite) if finite else nan,
            predicted_slope=slopes[0].predicted if slopes else nan,
            predicted_fit=fits[0].predicted if fits else nan,
        )

    def estimates(self, architecture: str, level: int) -> list[Estimate]:
        """Every estimate of one threshold, in beta of level 1; from `settings["estimates"]`."""
        names = [f.name for f in dataclasses.fields(Estimate)]
        return [
            Estimate(**{name: _number(entry[name]) for name in names})
            for entry in self.settings.get("estimates") or ()
            if (entry["architecture"], entry["level"]) == (architecture, level)
        ]

    def to_rows(self) -> list[dict[str, Any]]:
        """Rows as dictionaries with the short settings repeated as columns."""
        shared = {key: self.settings.get(key) for key in COLUMN_SETTINGS}
        return [shared | dataclasses.asdict(row) for row in self.rows]

    def to_pandas(self) -> pandas.DataFrame:
        """`to_rows` as a data frame, settings in its `attrs`; needs pandas."""
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "Comparison.to_pandas needs pandas: pip install pandas, or use to_rows()"
            ) from error
        frame = pandas.DataFrame(self.to_rows())
        frame.attrs = json_safe(self.settings)
        return frame

    def __repr__(self) -> str:
        """What was compared and the thresholds; the numbers are in `rows`."""
        found = ", ".join(
            f"{t.architecture} level {t.level}: {t.observed:.4g} of {t.predicted:.4g}"
            for t in self.thresholds()
        )
        named = f"dataset={self.settings.get('dataset')!r}, model={self.settings.get('model')!r}"
        return f"Comparison({named}, {len(self.rows)} rows; critical beta, observed: {found})"

    def _repr_html_(self) -> str:
        """The thresholds as a table, in notebooks."""
        rows = [dataclasses.asdict(t) | {"ratio": t.ratio} for t in self.thresholds()]
        caption = f"Comparison of {self.settings.get('dataset')}, {self.settings.get('model')}"
        return html_table(f"{caption}: beta above which the model is collapsed", rows)

    def to_json(self) -> dict[str, Any]:
        """Settings and threshold summary; NaN becomes null, so that any reader accepts it."""
        thresholds = [dataclasses.asdict(t) | {"ratio": t.ratio} for t in self.thresholds()]
        summary: dict[str, Any] = json_safe({"settings": self.settings, "thresholds": thresholds})
        return summary

    def write(self, folder: str | Path) -> list[Path]:
        """Write comparison.csv and summary.json, curves.csv and phases.csv where there are such.

        Each appears whole or not at all; summary.json, the last, has the sha256 of all of them.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tables = {
            "comparison": self.to_rows(),
            "curves": [dataclasses.asdict(point) for point in self.curves],
            "phases": [dataclasses.asdict(boundary) for boundary in self.boundaries],
        }
        texts = {
            f"{name}.csv": _csv(
                [list(table[0]) if table else [], *([_cell(v) for v in r.values()] for r in table)]
            )
            for name, table in tables.items()
            if table or name == "comparison"
        }
        tables_sha256 = {name: _sha256(text.encode()) for name, text in texts.items()}
        summary = self.to_json() | {"tables_sha256": tables_sha256}
        own = _sha256(json_text(summary).encode())
        texts[SUMMARY] = json_text(summary | {"sha256": own}) + "\n"
        for name, text in texts.items():
            write_text(folder / name, text)
        return [folder / name for name in texts]

    @classmethod
    def read(cls, folder: str | Path) -> Comparison:
        """Read what `write` wrote.

        Raises FileNotFoundError where a file is missing, ValueError for one that is not as it was
        written. Results of a linvae that wrote no sha256 are read unchecked, with a warning.
        """
        folder = Path(folder)
        settings, sums = _summary(folder)
        rows = tuple(_read(folder, "comparison.csv", sums, Row))
        curves = tuple(_read(folder, "curves.csv", sums, CurvePoint))
        phases = tuple(_read(folder, "phases.csv", sums, Boundary))
        return cls(settings, rows, curves, phases)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write so that `path` is the old file or the new one at any moment."""
    stream = tempfile.NamedTemporaryFile(  # noqa: SIM115 (closed below, on success and failure)
        dir=path.parent, prefix=f".{path.name}.", delete=False
    )
    try:
        with stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(stream.name, 0o644)
        os.replace(stream.name, path)
    except BaseException:
        os.unlink(stream.name)
        raise


def _cell(value: Any) -> str:
    """Text of a cell; an apostrophe before a name that a spreadsheet would run as a formula."""
    formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if formula else str(value)


def _csv(lines: Iterable[Iterable[str]]) -> str:
    out = io.StringIO()
    csv.writer(out).writerows(lines)
    return out.getvalue()


def _summary(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Settings, and sha256 of the tables that were written with them, "" where none was."""
    path = folder / SUMMARY
    try:
        content = json.loads(path.read_bytes())
        settings: dict[str, Any] = dict(content["settings"].items())
        if not {"sha256", "tables_sha256"} & content.keys():
            return settings, _without_sha256(folder)
        if content.pop("sha256") == _sha256(json_text(content).encode()):
            return settings, dict(content["tables_sha256"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass  # no JSON, or of other content
    raise _changed(path)


def _without_sha256(folder: Path) -> dict[str, str]:
    """The tables of an older linvae, none of which can be checked."""
    warnings.warn(
        f"{folder} was written by a linvae that wrote no sha256: read unchecked", stacklevel=4
    )
    optional = [name for name in ("curves.csv", "phases.csv") if (folder / name).exists()]
    return dict.fromkeys(("comparison.csv", *optional), "")


def _read(folder: Path, name: str, sums: Mapping[str, str], record: type[R]) -> Iterator[R]:
    """The records of a file that was written, none of another; other columns are left out."""
    kinds: Mapping[str, Callable[[str], Any]] = {"str": str, "int": int, "float": float}
    fields = [(f.name, kinds[str(f.type)]) for f in dataclasses.fields(record)]
    if name not in sums:
        return
    content = (folder / name).read_bytes()
    if sums[name] not in ("", _sha256(content)):
        raise _changed(folder / name)
    try:
        for line in csv.DictReader(io.StringIO(content.decode(), newline="")):
            yield record(**{field: kind(line[field]) for field, kind in fields})
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise _changed(folder / name) from error


def _changed(path: Path) -> ValueError:
    return ValueError(
        f"{path} is not as it was written: by its content, or its sha256 in {SUMMARY}, it was "
        "damaged or changed, or is of another run; put a copy of the folder back, or repeat the "
        f"run: linvae compare --config {path.parent / 'run.toml'}"
    )


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _number(value: Any) -> Any:
    """What `json_safe` wrote, back: None is NaN, infinities are words."""
    if value is None:
        return math.nan
    return float(value) if value in ("inf", "-inf") else value


def json_text(content: Any) -> str:
    """Indented JSON, `json_safe`."""
    return json.dumps(json_safe(content), indent=2, allow_nan=False)


def json_safe(value: Any) -> Any:
    """The same structure with NaN and infinities as None or text, which JSON allows."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, Mapping):
        return {k: json_safe(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(v) for v in value]
    return value
