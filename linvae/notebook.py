"""Tables of results as HTML, for notebooks: what `_repr_html_` of the records returns.

Plain markup without style: a notebook has its own, light or dark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

__all__ = ["MOST_ROWS", "html_table"]

MOST_ROWS = 20  # of a table; how many more there are stands below it


def html_table(caption: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of equal keys as a table; the keys name the columns, the first column the rows.

    Floats have four significant digits, NaN is "-", and names lose their underscores.
    """
    head = "".join(f'<th scope="col">{_text(key)}</th>' for key in (rows[0] if rows else ()))
    body = "".join(_row(row) for row in rows[:MOST_ROWS])
    more = len(rows) - MOST_ROWS
    note = f"<p>and {more} more: see to_rows()</p>" if more > 0 else ""
    return (
        f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>{note}"
    )


def _row(row: Mapping[str, Any]) -> str:
    first, *rest = row.values()
    cells = "".join(f"<td>{_text(value)}</td>" for value in rest)
    return f'<tr><th scope="row">{_text(first)}</th>{cells}</tr>'


def _text(value: Any) -> str:
    if isinstance(value, float):
        return "-" if value != value else f"{value:.4g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return escape(str(value).replace("_", " "))
