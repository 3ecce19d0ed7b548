"""README and docs/: their code runs, their commands are commands, and the site needs no network."""

# ruff: noqa: E402  (what follows importorskip, and the site's tools, which are no package)
from __future__ import annotations

import argparse
import ast
import contextlib
import doctest
import functools
import html
import importlib
import io
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import get_args
from unittest import SkipTest

import pytest

sybil = pytest.importorskip("sybil", reason='pip install "linvae[docs]"')
from filelock import FileLock
from sybil.example import Example
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

import linvae
from linvae import comparison, plots, report, verdicts
from linvae.__main__ import COMMANDS as SUBCOMMANDS
from linvae.data import dataset_names, text_names
from linvae.diagnosis import records
from linvae.run_file import RUN_FILE

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))  # the site's own tools are no package

from docstrings import as_markdown
from hooks import commands as help_of_commands

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


class Parsed(BaseException):
    """A parser has taken the arguments; no command takes this for an error of its own."""


def console_commands(path: Path) -> list[list[str]]:
    blocks = re.findall(r"^```console\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)
    found = [command for block in blocks for command in commands(block)]
    return [words for words, output in found if entry(words) and not output]


COMMANDS = [(page, words) for page in PAGES for words in console_commands(page)]


@pytest.mark.parametrize(
    ("page", "words"),
    COMMANDS,
    ids=[f"{name(page)}: {shlex.join(words)}" for page, words in COMMANDS],
)
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


# --- what the pages must say --------------------------------------------------------------------


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def test_lengths():
    """A README is read in one go, and what adds something has a page of its own."""
    assert text_of("README.md").count("\n") < 200
    for page in (DOCS / "adding").glob("*.md"):
        assert text_of(name(page)).count("\n") <= 60, page


LOCAL_LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")


def test_links_of_the_readme_lead_somewhere():
    """Those of the pages are checked by the strict build."""
    links = LOCAL_LINK.findall(text_of("README.md"))
    assert [link for link in links if not (ROOT / link).exists()] == []
    assert "make docs" in text_of("README.md")


def test_every_dataset_is_in_the_readme():
    table = text_of("README.md").partition("## Data")[2].partition("## Map")[0]
    rows = re.findall(r"^\| ([\w, -]+) \|", table, re.MULTILINE)
    names = {name for row in rows for name in row.split(", ")}
    assert {*dataset_names(), *text_names()} <= names | {"synthetic"}


def documented(page: str) -> set[str]:
    return set(re.findall(r"^::: (\S+)", text_of(f"docs/api/{page}.md"), re.MULTILINE))


def test_public_names_are_in_the_reference():
    assert documented("linvae") == {f"linvae.{n}" for n in linvae.__all__ if n != "__version__"}


def test_every_module_of_theory_is_in_the_reference():
    helpers = {"__init__", "arguments", "eigenvalues", "roots"}
    modules = {path.stem for path in (ROOT / "linvae/theory").glob("*.py")} - helpers
    assert documented("theory") == {f"linvae.theory.{module}" for module in modules}


def test_every_row_of_a_report_is_explained():
    """Methods, kinds, causes, levels of a verdict, captions, verdicts of a diagnosis."""
    page = text_of("docs/report.md").lower()
    rows = [*comparison.METHODS.values(), *get_args(verdicts.CauseName), *get_args(verdicts.Level)]
    assert [row for row in rows if f"\n| {row} |" not in page] == []
    words = [caption for caption, *_ in report.SWEEP_COLUMNS.values()]
    words += ["how sure", "fit slope", "theory slope", "certain", "empirical"]
    assert [word for word in words if word not in page] == []
    found = text_of("docs/howto/collapse.md")
    assert [verdict for verdict in records._ADVICE if verdict not in found] == []


def test_every_figure_and_file_of_a_report_is_explained():
    page = text_of("docs/report.md")
    words = page.partition("8. **Figures**: ")[2].partition("\n\n")[0]
    assert [int(n) for n in re.findall(r"\d+", words)] == [*range(1, 1 + len(plots.FIGURES))]
    files = ["comparison.csv", "curves.csv", "phases.csv", "summary.json", "report.html"]
    assert [file for file in [*files, RUN_FILE] if f"\n| `{file}` |" not in page] == []


def test_every_remedy_is_in_the_how_to():
    page = text_of("docs/howto/remedies.md")
    single = [remedy for remedy in verdicts.REMEDY_WORDS if remedy != "aggressive-annealing"]
    assert [remedy for remedy in single if f"`{remedy}`" not in page] == []


# --- docstrings ---------------------------------------------------------------------------------


def docstrings(path: Path) -> list[str]:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    found = [ast.get_docstring(node) for node in nodes if isinstance(node, kinds)]
    return [docstring for docstring in found if docstring]


def cells(row: str) -> int:
    return row.removesuffix("|").count("|")


@pytest.mark.parametrize("path", sorted((ROOT / "linvae").rglob("*.py")), ids=name)
def test_tables_of_docstrings_have_whole_rows(path):
    """As Markdown every row has the cells of its header: no bar of |x| or p(y|z) splits one."""
    for docstring in docstrings(path):
        for table in re.findall(r"(?:^\|[ -].*\|?\n?)+", as_markdown(docstring), re.MULTILINE):
            rows = [row.rstrip() for row in table.splitlines()]
            torn = [row for row in rows if cells(row) != cells(rows[0]) or not row.endswith("|")]
            assert torn == []


def test_docstrings_as_markdown():
    """Bars inside cells are escaped, borders and other text are not, examples are fenced."""
    table = "| a | b |\n|---|---|\n"
    assert as_markdown(f"{table}| |w|^2 | p(y|z) |") == (
        f"{table}| &#124;w&#124;^2 | p(y&#124;z) |"
    )
    assert as_markdown("|w| is a norm") == "|w| is a norm"
    assert as_markdown("One.\n\n>>> f()\n1\n>>> g()\n\nTwo.") == (
        "One.\n\n```pycon\n>>> f()\n1\n>>> g()\n```\n\nTwo."
    )


# --- the site -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def site(tmp_path_factory) -> Path:
    """The built site, strictly: no page missing, no link or anchor broken, no name unknown.

    Built once, whichever worker of xdist asks first.
    """
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with FileLock(shared / "site.lock"):
        if not (shared / "site.built").exists():
            build(shared / "site")
            (shared / "site.built").touch()
    return shared / "site"


def build(folder: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Page(HTMLParser):
    """What a browser fetches for a page, and the text of its formulas."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.formulas: list[str] = []
        self.depth = 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.fetched += [given[a] for a in ("src", "poster", "data") if given.get(a)]
        self.fetched += (given.get("srcset") or "").split()
        if tag == "link" and given.get("rel") != "canonical":
            self.fetched.append(given.get("href") or "")
        self.depth += tag == "math"

    def handle_endtag(self, tag):
        self.depth -= tag == "math"

    def handle_data(self, data):
        if self.depth:
            self.formulas.append(data)


@pytest.fixture(scope="session")
def built(site) -> dict[str, tuple[str, Page]]:
    paths = sorted(site.rglob("*.html"))
    texts = {p.relative_to(site).as_posix(): p.read_text(encoding="utf-8") for p in paths}
    return {page: (text, Page(text)) for page, text in texts.items()}


def test_site_has_every_page(built):
    pages = {path.relative_to(DOCS).with_suffix(".html").as_posix() for path in DOCS.rglob("*.md")}
    assert pages <= built.keys()


def test_site_fetches_nothing_from_elsewhere(site, built):
    """Scripts, styles, fonts, images: all from its own folder."""
    for page, (text, found) in built.items():
        assert [url for url in found.fetched if re.match(r"(https?:)?//", url)] == [], page
        assert not re.search(r"@import|url\(\s*[\"']?(https?:)?//", text), page
    for style in site.rglob("*.css"):
        sheet = style.read_text(encoding="utf-8")
        assert not re.search(r"url\(\s*[\"']?(https?:)?//", sheet), style


def test_formulas_are_mathml(built):
    """No dollar or backslash is left where a browser would show it, and there are formulas."""
    for page, (text, found) in built.items():
        assert 'class="arithmatex"' not in text, page
        assert [part for part in found.formulas if "\\" in part] == [], page
    theory = [page for page in built if page.startswith("theory/")]
    assert len(theory) == 9
    assert all(built[page][0].count("<math") >= 5 for page in theory)


def test_site_has_the_help_of_every_command(built):
    """The very text that --help prints, of commands and their subcommands."""
    page = html.unescape(built["commands.html"][0])
    headings = re.findall(r"^##+ (linvae .*)$", help_of_commands(), re.MULTILINE)
    assert {f"linvae {command}" for command in SUBCOMMANDS} < set(headings)
    assert "linvae text train" in headings
    for heading in headings:
        assert heading in page
    assert "--keep-units K" in page
    assert "--inverse-lipschitz L" in page


# --- in a browser -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(site) -> Iterator[str]:
    """The site behind a server of this machine: a browser searches in nothing else."""
    handler = functools.partial(Quiet, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and says nothing."""

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page", ["index", "tutorial", "theory/linear", "api/linvae"])
def test_a_page_in_a_browser(address, browser_page, page, scheme):
    """Nothing is asked of another host, formulas take room, the colours are the reader's."""
    asked = []
    browser_page.on("request", lambda request: asked.append(request.url))
    browser_page.emulate_media(color_scheme=scheme)
    browser_page.goto(f"{address}/{page}.html", wait_until="networkidle")
    assert [url for url in asked if not url.startswith((address, "data:"))] == []
    heights = browser_page.locator("math").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect().height)"
    )
    assert len(heights) > 20 if page == "theory/linear" else not heights
    assert all(height > 5 for height in heights)  # pixels; a formula that is not drawn has none
    shown = browser_page.locator("body").get_attribute("data-md-color-scheme")
    assert shown == {"light": "default", "dark": "slate"}[scheme]


def test_search_finds_a_page(address, browser_page):
    from playwright.sync_api import expect  # there: browser_page skips without

    browser_page.goto(f"{address}/index.html", wait_until="networkidle")
    search = browser_page.get_by_placeholder("Search")
    search.click()
    meta = browser_page.locator(".md-search-result__meta")
    expect(meta).not_to_have_text("Initializing search")  # words said before are lost
    search.press_sequentially("isotonic regression")
    found = browser_page.locator(".md-search-result__link").first  # another while one types
    expect(found).to_have_attribute("href", re.compile("theory"), timeout=30_000)
