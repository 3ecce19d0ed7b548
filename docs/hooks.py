"""What the site makes while it is built: mathematics as MathML, and the help of every command."""

from __future__ import annotations

import contextlib
import html
import importlib
import io
import os
import re
from typing import Any

from latex2mathml.converter import convert

from linvae.__main__ import COMMANDS, main

MARK = "<!-- commands -->"
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
SUBCOMMANDS = re.compile(r"^usage:[^{]*\{([\w,-]+)\} \.\.\.", re.MULTILINE)
COLUMNS = "88"  # of the help, which argparse wraps


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the help of every command, as it is now, in the place of the mark."""
    return markdown.replace(MARK, commands()) if MARK in markdown else markdown


def on_page_content(text: str, **_: Any) -> str:
    """LaTeX between dollars as MathML, which browsers draw without any script."""
    return FORMULA.sub(_mathml, text)


def _mathml(found: re.Match[str]) -> str:
    display = "inline" if found[1] == "span" else "block"
    return convert(html.unescape(found[2]).strip(), display=display)


def commands() -> str:
    """One section per command and subcommand, in Markdown."""
    parts = []
    for name, (module, what) in COMMANDS.items():
        text = command_help(module)
        parts.append(f"## linvae {name}\n\n{what}\n\n```text\n{text}\n```\n")
        nested = SUBCOMMANDS.search(text)
        for sub in nested[1].split(",") if nested else ():
            text = command_help(module, sub)
            parts.append(f"### linvae {name} {sub}\n\n```text\n{text}\n```\n")
    overview = _printed(main, ["--help"])
    return "\n".join([f"```text\n{overview}\n```\n", *parts])


def command_help(module: str, *subcommand: str) -> str:
    """What `--help` prints."""
    return _printed(importlib.import_module(module).main, [*subcommand, "--help"])


def _printed(command: Any, arguments: list[str]) -> str:
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = COLUMNS
    try:
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
            command(arguments)
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    return out.getvalue().strip()
