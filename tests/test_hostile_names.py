"""Names that strangers give, of files, arrays, columns and members: shown, never obeyed."""

from __future__ import annotations

import csv
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from test_comparison import vae_comparison

import linvae.data.__main__
import linvae.predict
from linvae import drawing
from linvae.cli import Parser, exit_codes
from linvae.comparison import Comparison
from linvae.data.own import open_own_data
from linvae.diagnosis import diagnose
from linvae.diagnosis.page import write_diagnosis_report
from linvae.notebook import html_table
from linvae.plots import Figure
from linvae.printable import printable
from linvae.report import render_text, terminal, write_report
from linvae.text_samples import Said

MARKUP = "<script>owned = 1</script><img src=x onerror='owned = 1'>\"'&$\\frac$ {{ 7 * 7 }}"
OBEYED = (
    "\x1b]0;owned\x07\x1b[2J\x9b31m\r\x08\u202etxt.\u2066"  # title, wipe, colour, right to left
)
FORMULA = "=cmd|' /C calc'!A0"
SAMPLES = np.random.default_rng(0).normal(size=(60, 3)) * [3, 2, 1]
SHOWN = r"\x1b]0;owned\x07\x1b[2J\x9b31m\r\x08\u202etxt.\u2066"


def obeyed(text: str) -> list[str]:
    """What a terminal would obey, or hide."""
    return [c for c in text if not c.isprintable() and c not in "\n\t"]


def test_printable():
    assert printable(OBEYED) == SHOWN
    assert printable("Grüße, β = 1 → 2\n\tdone") == "Grüße, β = 1 → 2\n\tdone"
    assert printable("\udcff") == r"\udcff"  # a byte of a file name that is no UTF-8
    assert obeyed(printable("".join(map(chr, (*range(0x3000), *range(0xD800, 0x10000)))))) == []


# --- terminal -----------------------------------------------------------------------------------


@pytest.fixture
def hostile_files(tmp_path) -> Path:
    np.save(tmp_path / f"a{OBEYED}.npy", SAMPLES)
    np.savez(tmp_path / "arrays.npz", **{f"a{OBEYED}": SAMPLES, "b": SAMPLES})
    rows = "\n".join(",".join(map(str, row)) for row in SAMPLES)
    (tmp_path / "head.csv").write_text(f"a{OBEYED.replace(chr(13), '')},b,c\n{rows}\n")
    (tmp_path / "cell.csv").write_text("a,b\n1,2\n3,q\x1b[2J\n")
    (tmp_path / "omniglot").mkdir()
    for name in ("images_background.zip", f"images_{OBEYED}.zip"):
        with zipfile.ZipFile(tmp_path / "omniglot" / name, "w") as archive:
            archive.writestr(f"top/{OBEYED}.png", b"no image")
    (tmp_path / "text" / "ptb").mkdir(parents=True)
    (tmp_path / "text" / "ptb" / f"{OBEYED}.zip").write_bytes(b"no archive")
    return tmp_path


COMMANDS = {
    "file": (linvae.predict, "--data", f"a{OBEYED}.npy"),
    "array": (linvae.predict, "--data", "arrays.npz"),
    "header": (linvae.predict, "--data", "head.csv"),
    "cell": (linvae.predict, "--data", "cell.csv"),
    "missing": (linvae.predict, "--data", f"b{OBEYED}.npy"),
    "option": (linvae.predict, f"--b{OBEYED}"),
    "choice": (linvae.predict, "--dataset", OBEYED),
    "member": (linvae.predict, "--dataset", "omniglot", "--data-dir", "."),
    "list": (linvae.data.__main__, "list", "--data-dir", "."),
    "verify": (linvae.data.__main__, "verify", "--data-dir", "."),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_terminal_is_told_nothing_by_names(command, hostile_files, monkeypatch, capsys):
    monkeypatch.chdir(hostile_files)
    monkeypatch.delenv("LINVAE_DATA", raising=False)
    module, *arguments = COMMANDS[command]
    with suppress(SystemExit):
        module.main(arguments)
    found = capsys.readouterr()
    assert obeyed(found.out + found.err) == []
    assert r"\x1b" in found.out + found.err


def test_errors_and_usage_are_printable(capsys):
    with exit_codes():
        raise ValueError(f"{OBEYED} is no number")
    with pytest.raises(SystemExit):
        Parser(prog="x").error(OBEYED)
    assert capsys.readouterr().err == f"linvae: {SHOWN} is no number\nx: {SHOWN} (see x --help)\n"


def test_words_of_a_text_are_printable():
    said = Said("", "samples", ((("1", f"a {OBEYED} b"),),), columns=200)
    assert SHOWN in "\n".join(said.lines)
    assert obeyed("\n".join(said.lines)) == []


def test_the_label_of_own_data_is_printable_everywhere(hostile_files, capsys):
    data = open_own_data(hostile_files / f"a{OBEYED}.npy")
    assert data.name == f"a{SHOWN}.npy"
    render_text(vae_comparison(dataset=data.name), terminal())
    assert obeyed(capsys.readouterr().out) == []
    note = open_own_data(hostile_files / "head.csv").note
    assert r"\x1b]0;owned" in note and obeyed(note) == []


# --- tables -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [FORMULA, "+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_cell_of_a_table_is_a_formula(name, tmp_path):
    comparison = vae_comparison(dataset=name)
    comparison.write(tmp_path)
    with (tmp_path / "comparison.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["dataset"] for row in rows} == {f"'{name}"}
    assert any(row["observed"].startswith("-") for row in rows)  # numbers stay numbers
    again = Comparison.read(tmp_path)
    assert again.settings["dataset"] == name
    assert repr(again.rows) == repr(comparison.rows)


# --- pages --------------------------------------------------------------------------------------


def hostile_report(folder: Path) -> Path:
    """A report whose every text of a stranger is markup."""
    settings = dict.fromkeys(("dataset", "data_description", "data_note", "spec", "device"), MARKUP)
    settings["preprocessing"] = [{"step": MARKUP, MARKUP: MARKUP}]
    settings["training"] = {MARKUP: {MARKUP: MARKUP}}
    picture = folder / "picture.png"
    picture.write_bytes(b"none")
    figure = Figure("picture", MARKUP, MARKUP, picture)
    return write_report(vae_comparison(**settings), folder, [figure])


def hostile_diagnosis(folder: Path) -> Path:
    found = diagnose(lambda y: (np.zeros((len(y), 2)), np.zeros((len(y), 2))), SAMPLES, beta=1.0)
    figure = drawing.save_drawing(found.draw(), "diagnosis", MARKUP, folder)
    return write_diagnosis_report(found, figure, folder, MARKUP)


def hostile_table(folder: Path) -> Path:
    """What a notebook shows of a comparison, and any table of records."""
    html = vae_comparison(dataset=MARKUP)._repr_html_() + html_table(MARKUP, [{MARKUP: MARKUP}])
    (folder / "table.html").write_text(f"<!DOCTYPE html><meta charset=utf-8>{html}")
    return folder / "table.html"


PAGES = (hostile_report, hostile_diagnosis, hostile_table)


@pytest.mark.parametrize("make", PAGES, ids=lambda make: make.__name__)
def test_names_are_text_on_every_page(make, tmp_path, browser_page):
    asked: list[str] = []
    path = make(tmp_path)
    browser_page.on("request", lambda request: asked.append(request.url))
    browser_page.goto(path.as_uri())
    assert browser_page.evaluate("typeof owned") == "undefined"
    assert browser_page.locator("script, img[onerror], img[src=x]").count() == 0
    assert MARKUP in browser_page.locator("body").inner_text().replace("\u00a0", " ")
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]


@pytest.mark.parametrize("make", PAGES, ids=lambda make: make.__name__)
def test_names_are_escaped_where_no_browser_is(make, tmp_path):
    html = make(tmp_path).read_text()
    assert "<script>" not in html and "<img src=x" not in html
    assert "&lt;script&gt;" in html
