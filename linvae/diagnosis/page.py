"""A diagnosis as a page of the same kind as that of a comparison: verdict, figure, units, modes."""

from __future__ import annotations

from pathlib import Path

from linvae.diagnosis.records import Diagnosis
from linvae.report import FigureRecord, Table, embedded, write_page
from linvae.wording import nats, number

__all__ = ["write_diagnosis_report"]

UNIT_COLUMNS = ("unit", "mode", "predicted, nats", "observed, nats", "critical beta", "verdict")
MODE_COLUMNS = ("mode", "variance", "predicted, nats", "held, nats", "critical beta", "missing")


def write_diagnosis_report(
    found: Diagnosis, figure: FigureRecord, folder: Path, command: str = ""
) -> Path:
    """Write report.html, one file that needs no other.

    `figure`: that of `found`, on disk; `command`: what repeats it, "" if none does.
    """
    return write_page(
        folder / "report.html",
        "diagnosis.html",
        verdict=found.verdict,
        data_line=f"{found.n_samples} samples, {len(found.units)} units; {found.spec!r}",
        sentence=found.sentence,
        shown=figure,
        png=embedded(figure.png_path),
        units=_units(found),
        modes=_modes(found),
        advice=_advice(found),
        command=command,
    )


def _units(found: Diagnosis) -> Table:
    rows = tuple(
        (
            str(u.unit), str(u.mode), nats(u.predicted_nats), f"{nats(u.observed_nats)} ± "
            f"{nats(u.standard_error)}", number(u.critical_beta), u.verdict,
        )
        for u in found.units
    )  # fmt: skip
    return Table("KL of every unit, by descending observed value", UNIT_COLUMNS, rows)


def _modes(found: Diagnosis) -> Table:
    rows = tuple(
        (
            str(m.mode), number(m.variance), nats(m.predicted_nats), nats(m.held_nats),
            number(m.critical_beta), "missing" if m.missing else "no",
        )
        for m in found.modes
    )  # fmt: skip
    return Table("What a linear decoder reads of every mode off all units", MODE_COLUMNS, rows)


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
