"""The mutants of analysis/mutants.py: what is changed, that it runs, what is counted."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("mutmut", reason='pip install "linvae[mutants]"')

from analysis import mutants

SOURCE = '''
from dataclasses import dataclass
from functools import lru_cache

BOUND = 3.0


@dataclass(frozen=True)
class Area:
    side: float

    @property
    def size(self) -> float:
        return self.side * 2


@lru_cache
def is_small(side: float, slack: float = 1.0) -> bool:
    if side < 0:
        raise ValueError(f"side={side + 1} must be >= 0")
    return Area(side).size < BOUND + slack


def unused(values: list[float]) -> float:
    """No test calls it."""
    return max(values)


def endless(n: int) -> int:
    while n > 0:
        n -= 1
    return n
'''
TESTS = """
import pytest

from linvae.theory.area import BOUND, Area, endless, is_small

CALLED_AT_IMPORT = is_small(1.0), is_small(2.0)


def test_area():
    assert Area(3.0).size == 6.0


@pytest.mark.parametrize("side", [1.0, 2.25])
def test_small(side):
    assert is_small(side) == (side == 1.0)


def test_end():
    assert endless(3) == 0
"""

MORE_TESTS = """
from linvae.theory.area import unused

def test_unused():
    assert unused([1.0, 2.0]) == 2.0
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A package with one module and its tests, named as ours are."""
    for folder, name, text in (
        ("linvae/theory", "area.py", SOURCE),
        ("tests/theory", "test_area.py", TESTS),
    ):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / name).write_text(text)
    for package in ("linvae", "linvae/theory"):
        (tmp_path / package / "__init__.py").touch()
    return tmp_path


def test_changes_of_a_file(project, monkeypatch):
    monkeypatch.chdir(project)
    found = mutants.mutants_of(Path("linvae/theory/area.py"))
    changes = {(m.function, m.before, m.after) for m in found}
    assert {
        ("BOUND", "3.0", "4.0"),
        ("Area.size", "self.side * 2", "self.side / 2"),
        ("is_small", "1.0", "2.0"),
        ("is_small", "side < 0", "not (side < 0)"),
        ("unused", "max", "min"),
    } <= changes
    assert ("is_small", "side + 1", "side - 1") not in changes  # in what is raised


def test_every_beginning_has_its_share_of_every_file(project, monkeypatch):
    monkeypatch.chdir(project)
    some = list(mutants.mutants_of(Path("linvae/theory/area.py")))
    files = [[replace(m, path=path) for m in some[:n]] for path, n in (("a", 16), ("b", 4))]
    order = mutants.in_fair_order(files, seed=1)
    assert len(order) == 20
    for length in range(1, 21):
        share = Counter(m.path for m in order[:length])["a"]
        assert abs(share - 0.8 * length) <= 1
    assert order == mutants.in_fair_order(files, seed=1) != mutants.in_fair_order(files, seed=2)


def run(project: Path, *options: str) -> tuple[str, dict[tuple[str, ...], str]]:
    """What is printed last, and the outcome of every change in the table."""
    here = os.pathsep.join([str(project), str(Path(mutants.__file__).parents[1])])
    command = [sys.executable, "-m", "analysis.mutants", "--out", "out", *options]
    environment = os.environ | {"PYTHONPATH": here}
    done = subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    with (project / "out" / "mutants.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    outcomes = {(row["function"], row["before"], row["after"]): row["outcome"] for row in rows}
    assert len(outcomes) == len(rows)
    return done.stdout.splitlines()[-1], outcomes


def test_survivors_with_a_reason_are_not_told_again(project, monkeypatch, tmp_path):
    monkeypatch.chdir(project)
    monkeypatch.setattr(mutants, "LEFT", tmp_path / "left.csv")
    alive = ("linvae/theory/area.py", "19", "7", "is_small", " < 0", " <= 0")
    names = ("path", "line", "column", "function", "before", "after")
    row = dict(zip(names, alive, strict=True)) | {"outcome": "survived"}
    killed = row | {"outcome": "killed"}
    assert mutants.unexplained([row, killed]) == [row]
    text = (
        "path,function,code,before,after,reason\nlinvae/theory/area.py,is_small,{}, < 0, <= 0,tie\n"
    )
    mutants.LEFT.write_text(text.format("if side < 0:"))
    assert mutants.unexplained([row, killed]) == []
    assert mutants.unexplained([row | {"line": "5"}]) == [row | {"line": "5"}]  # another line


def test_the_list_of_what_is_left_is_of_these_sources():
    """Else a reason stays behind where its line is gone."""
    sources = {}
    for row in mutants.rows_of(mutants.LEFT):
        if row["path"] not in sources:
            text = Path(row["path"]).read_text()
            sources[row["path"]] = {line.strip() for line in text.splitlines()}
        assert row["code"] in sources[row["path"]], row
        assert row["reason"]


def test_outcomes(project):
    """Each of the four; a second call has nothing left to do, `--again` takes what was alive."""
    said, outcomes = run(project)
    assert outcomes["Area.size", "self.side * 2", "self.side / 2"] == "killed"
    assert outcomes["BOUND", "3.0", "4.0"] == "killed"
    assert outcomes["is_small", " < 0", " <= 0"] == "survived"
    assert outcomes["unused", "max", "min"] == "no test"
    assert outcomes["endless", "n -= 1", "n += 1"] == "timed out"
    assert run(project) == (said, outcomes)
    (project / "tests" / "theory" / "test_more.py").write_text(MORE_TESTS)
    _, again = run(project, "--again")
    alive = {change for change, outcome in outcomes.items() if outcome in ("survived", "no test")}
    assert set(again) == alive
    assert again["unused", "max", "min"] == "killed"
