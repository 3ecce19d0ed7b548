"""Our docstrings as Markdown: what a terminal reads as it stands, and a site must be told.

A bar that something follows at once, as in |w|^2 or Cov(y|x), is no border of a cell, and lines
that start with `>>>` are code, not quotations.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"(?:^>>> .*\n(?:^(?!>>>)\S.*\n|^ +.*\n)*)+", re.MULTILINE)
RULE = re.compile(r"[-:| ]+$")  # the line under the header of a table
INNER_BAR = re.compile(r"\|(?=\S)")


def as_markdown(docstring: str) -> str:
    """The docstring with bars inside cells escaped and examples fenced."""
    lines = [_row(line) if line.startswith("| ") else line for line in docstring.split("\n")]
    text = "\n".join(lines)
    return EXAMPLE.sub(lambda found: f"```pycon\n{found[0]}```\n", f"{text}\n").rstrip("\n")


def _row(line: str) -> str:
    return line if RULE.match(line) else "|" + INNER_BAR.sub("&#124;", line[1:])


class Docstrings(griffe.Extension):
    """Applies `as_markdown` to every docstring that is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite one docstring in place."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
