"""README and docs/: their code runs, their commands are commands, and the site needs no network."""

from __future__ import annotations

import argparse
import contextlib
import doctest
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from unittest import SkipTest

import pytest
import sybil
from sybil.example import Example
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
RUNS = ("linvae", "analysis", "figures", "paper_checks")  # packages whose commands we document


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# --- code blocks --------------------------------------------------------------------------------


def commands(block: str) -> list[tuple[list[str], str]]:
    """(command as words, what it prints) of a console block: "$ " before commands, or no output."""
    text = block.replace("\\\n", " ")
    if not text.startswith("$ "):
        return [(shlex.split(line, comments=True), "") for line in text.splitlines() if line]
    parts = [part.partition("\n") for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]]
    return [(shlex.split(command, comments=True), output) for command, _, output in parts]


def entry(words: list[str]) -> tuple[str, list[str]] | None:
    """(module, arguments) of one of our commands; None for make, pip and the like."""
    if words[:2] == ["python", "-m"] and words[2].split(".")[0] in RUNS:
        return words[2], words[3:]
    return ("linvae", words[1:]) if words[0] == "linvae" else None


def main_of(module: str):
    """`main` of a module, or of a package's __main__."""
    found = importlib.import_module(module)
    if hasattr(found, "__path__"):
        found = importlib.import_module(f"{module}.__main__")
    return found.main


def run(words: list[str]) -> str:
    """Standard output of one of our commands, which must exit with 0."""
    module, arguments = entry(words)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert not main_of(module)(arguments), words
    return out.getvalue()


def evaluate_console(example: Example) -> None:
    """Run the commands that show what they print, and compare."""
    for words, expected in commands(example.parsed):
        if expected:
            found = run(words)
            same = doctest.OutputChecker().check_output(expected, found, OPTIONS)
            assert same, f"{shlex.join(words)} printed\n{found}\nbut the page says\n{expected}"


def examples(path: Path) -> list[Example]:
    parsers = [
        PythonCodeBlockParser(doctest_optionflags=OPTIONS),
        CodeBlockParser("console", evaluate_console),
        SkipParser(),
    ]
    return list(sybil.Sybil(parsers, path=str(path.parent), pattern=path.name).parse(path))


@pytest.mark.parametrize("page", [p for p in PAGES if examples(p)], ids=name)
def test_code_of_a_page(page, tmp_path, monkeypatch):
    """Block after block, as a reader would: names and files of one are there in the next."""
    monkeypatch.chdir(tmp_path)
    for example in examples(page):
        with contextlib.suppress(SkipTest):  # a package that is not installed
            example.evaluate()


class Parsed(Exception):
    """A parser has taken the arguments."""


def console_commands(path: Path) -> list[list[str]]:
    blocks = re.findall(r"^```console\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)
    return [words for block in blocks for words, _ in commands(block) if entry(words)]


COMMANDS = [(page, words) for page in PAGES for words in console_commands(page)]


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=lambda v: shlex.join(v) if isinstance(v, list) else name(v))  # fmt: skip  # noqa: E501
def test_a_command_is_what_its_parser_takes(page, words, monkeypatch):
    original = argparse.ArgumentParser.parse_args

    def parse_only(parser, args=None, namespace=None):
        original(parser, args, namespace)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    module, arguments = entry(words)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    main = main_of(module)
    if arguments == ["--version"]:
        return
    with pytest.raises(Parsed):
        main() if main.__code__.co_argcount == 0 else main(arguments)


def test_no_block_hides_from_the_tests():
    """Every fence names its language, and a command of ours stands in a console block."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        fences = re.findall(r"^```(.*)$", text, re.MULTILINE)
        assert set(fences[::2]) <= {"python", "console", "text", "bibtex", "html"}, name(page)
        plain = "".join(re.findall(r"^```text\n(.*?)^```", text, re.M | re.S))
        assert not re.search(r"^(\$ )?(python -m |linvae )", plain, re.MULTILINE), name(page)
