"""A diagnosis as a page of the same kind as that of a comparison: verdict, figure, units."""

from __future__ import annotations

from pathlib import Path

from linvae.diagnosis import Diagnosis
from linvae.report import FigureRecord, Table, embedded, write_page
from linvae.wording import nats, number

__all__ = ["write_diagnosis_report"]

UNIT_COLUMNS = ("unit", "predicted, nats", "observed, nats", "critical beta", "verdict")


def write_diagnosis_report(found: Diagnosis, figure: FigureRecord, folder: Path) -> Path:
    """Write report.html, one file that needs no other; `figure`: that of `found`, on disk."""
    return write_page(
        folder / "report.html",
        "diagnosis.html",
        verdict=found.verdict,
        data_line=f"{found.n_samples} samples, {len(found.units)} units",
        sentence=found.sentence,
        shown=figure,
        png=embedded(figure.png_path),
        units=_units(found),
        advice=_advice(found),
    )


def _units(found: Diagnosis) -> Table:
    rows = tuple(
        (
            str(u.unit), nats(u.predicted_nats), f"{nats(u.observed_nats)} ± "
            f"{nats(u.standard_error)}", number(u.critical_beta), u.verdict,
        )
        for u in found.units
    )  # fmt: skip
    return Table("KL of every unit, by descending observed value", UNIT_COLUMNS, rows)


def _advice(found: Diagnosis) -> list[str]:
    """What to do about the units, said once for all of which it is true."""
    units: dict[str, list[str]] = {}
    for u in found.units:
        units.setdefault(u.advice, []).append(str(u.unit))
    return [
        f"Unit{'s' if len(names) > 1 else ''} {', '.join(names)}: {text}"
        for text, names in units.items()
        if text
    ]
