"""Mutants of linvae/theory: does a test of theory see each single change of its code?

    python -m analysis.mutants --out results/mutants              # all: hours, `make mutants`
    python -m analysis.mutants --out results/mutants --limit 500  # a fair sample
    python -m analysis.mutants --out results/mutants --again      # the survivors once more
    python -m analysis.mutants --out results/second --part 2 2    # the second of two halves

mutmut says what can be changed: numbers, operators, comparisons, arguments, conditions; here also
whole conditions, max for min and sum for mean. Left out: strings, what is raised, annotations,
fields of classes. mutmut's own runner collects the tests anew for each mutant and leaves decorated
functions and constants out; here they are collected once, each mutant is a fork in which the code
of one function (or one constant) is replaced, and it meets only the tests that reach its line,
those of its own file first. Mutants come in a random order in which every file has its share, so
a run may be stopped at any time; called again it goes on. A folder belongs to one state of the
sources. Survivors that stay, each with its reason: mutants_left.csv beside this file; a run ends
with those that are not there. The last run in numbers: mutants.md.

What tests compute while they are imported does not see the mutant, so a survivor is one only once
its change was made by hand and the tests were run. Memory and time of each mutant are bounded.
"""

from __future__ import annotations

import argparse
import ast
import csv
import importlib.util
import json
import math
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import types
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import coverage
import libcst as cst
import pytest
from hypothesis import HealthCheck, Phase, settings
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation.file_mutation import MutationVisitor, OuterFunctionProvider, deep_replace
from mutmut.mutation.mutators import mutation_operators, operator_arg_removal
from mutmut.mutation.pragma_handling import IgnoredCode

SOURCES = Path("linvae/theory")
TESTS = "tests/theory"
LEFT = Path(__file__).with_name("mutants_left.csv")  # path, function, code, before, after, reason
FIELDS = ("outcome", "path", "line", "column", "function", "before", "after", "test", "seconds")
KILLED, SURVIVED, TIMED_OUT, UNREACHED = "killed", "survived", "timed out", "no test"
OPPOSITE = {"max": "min", "maximum": "minimum", "argmax": "argmin", "sum": "mean", "ceil": "floor"}
OPPOSITE |= {other: one for one, other in OPPOSITE.items()}
SLOWER = 10  # a mutant has this many times the CPU time of each test ...
GRACE = 5.0  # ... and these seconds, before it counts as timed out
MEMORY = 4 * 2**30  # bytes that a mutant may ask for beyond what is there


# --- what can be changed --------------------------------------------------------------------------


@dataclass(frozen=True)
class Mutant:
    """One change: where, from what to what, and the whole text of the file with it."""

    path: str
    line: int
    column: int
    function: str  # qualified name, or that of a constant of the module
    before: str
    after: str
    lines: range  # a test that reaches none of them cannot see it
    module: cst.Module
    nodes: tuple[cst.CSTNode, cst.CSTNode]

    @property
    def key(self) -> tuple[str, ...]:
        """What names it in the table, within one state of the sources."""
        return (self.path, str(self.line), str(self.column), self.before, self.after)

    def source(self) -> str:
        """The file's text with the change."""
        return deep_replace(self.module, *self.nodes).code


def opposite(node: cst.Name) -> Iterator[cst.Name]:
    if node.value in OPPOSITE:
        yield node.with_changes(value=OPPOSITE[node.value])


def negated(node: cst.If) -> Iterator[cst.If]:
    inner = node.test.with_changes(lpar=[cst.LeftParen()], rpar=[cst.RightParen()])
    yield node.with_changes(test=cst.UnaryOperation(cst.Not(), inner))


def without_argument(node: cst.Call) -> Iterator[cst.Call]:
    """Arguments dropped, not also replaced by None as mutmut does: that ends in a TypeError."""
    for changed in operator_arg_removal(node):
        if len(changed.args) < len(node.args):
            yield changed


OPERATORS = [
    (kind, without_argument if operator is operator_arg_removal else operator)
    for kind, operator in mutation_operators
] + [(cst.Name, opposite), (cst.If, negated)]


class Changes(MutationVisitor):
    """Changes, also of decorated functions; none of strings and of what is raised."""

    def _skip_node_and_children(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.FunctionDef):
            return False
        texts = (cst.BaseString, cst.Raise, cst.Decorator)
        return isinstance(node, texts) or super()._skip_node_and_children(node)


def mutants_of(path: Path) -> Iterator[Mutant]:
    """All mutants of one file, in its order."""
    text = path.read_text()
    wrapper = MetadataWrapper(cst.parse_module(text))
    changes = Changes(OPERATORS, IgnoredCode(set(), set(), set()))
    module = wrapper.visit(changes)
    names, places = names_of(wrapper.module), wrapper.resolve(PositionProvider)
    owners = wrapper.resolve(OuterFunctionProvider)
    statements = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt)]
    for change in changes.mutations:
        node = change.original_node
        name = names.get(owners.get(node)) or names.get(top_level(wrapper.module, node))
        if name is None:
            continue
        place = places[node].start
        before, after = (shown(module, n) for n in (node, change.mutated_node))
        lines = lines_of(statements, place.line)
        nodes = (node, change.mutated_node)
        where = (str(path), place.line, place.column, name)
        yield Mutant(*where, before, after, lines, module, nodes)


def shown(module: cst.Module, node: cst.CSTNode) -> str:
    return module.code_for_node(node.test if isinstance(node, cst.If) else node)


def names_of(module: cst.Module) -> dict[cst.CSTNode | None, str]:
    """Qualified names of functions, methods and upper-case constants."""
    names: dict[cst.CSTNode | None, str] = {}
    for node in module.body:
        if isinstance(node, cst.FunctionDef):
            names[node] = node.name.value
        elif isinstance(node, cst.ClassDef):
            for method in node.body.body:
                if isinstance(method, cst.FunctionDef):
                    names[method] = f"{node.name.value}.{method.name.value}"
        elif isinstance(node, cst.SimpleStatementLine) and isinstance(node.body[0], cst.Assign):
            target = node.body[0].targets[0].target
            if isinstance(target, cst.Name) and target.value.isupper():
                names[node] = target.value
    return names


def top_level(module: cst.Module, node: cst.CSTNode) -> cst.CSTNode | None:
    """The statement of the module that holds `node`, if it is no function and no class."""
    for statement in module.body:
        if isinstance(statement, cst.SimpleStatementLine) and contains(statement, node):
            return statement
    return None


def contains(tree: cst.CSTNode, node: cst.CSTNode) -> bool:
    return tree is node or any(contains(child, node) for child in tree.children)


def lines_of(statements: list[ast.stmt], line: int) -> range:
    """The innermost statement around a line; of a block only its head, of a function all."""
    around = [s for s in statements if s.lineno <= line <= (s.end_lineno or s.lineno)]
    inner = max(around, key=lambda s: (s.lineno, -(s.end_lineno or s.lineno)))
    last = inner.end_lineno or inner.lineno
    body = getattr(inner, "body", None)
    if body and not isinstance(inner, ast.FunctionDef | ast.ClassDef):
        last = max(line, body[0].lineno - 1)
    return range(inner.lineno, last + 1)


def in_fair_order(files: list[list[Mutant]], seed: int) -> list[Mutant]:
    """Random, but every beginning of it holds about the same share of every file."""
    rng = random.Random(seed)
    placed: list[tuple[float, int, Mutant]] = []
    for mutants in files:
        offset = rng.random()
        shuffled = rng.sample(mutants, len(mutants))
        for i, mutant in enumerate(shuffled):
            placed.append(((i + offset) / len(shuffled), len(placed), mutant))
    return [mutant for *_, mutant in sorted(placed, key=lambda entry: entry[:2])]


# --- in the fork ----------------------------------------------------------------------------------


def install(mutant: Mutant) -> None:
    """Replace the code of one function, or one constant wherever it was imported."""
    name = mutant.path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    module, fresh = importlib.import_module(name), imported(name, mutant.source())
    if mutant.function.isupper():
        replace_constant(mutant.function, vars(module)[mutant.function], vars(fresh))
    else:
        old, new = function_of(module, mutant.function), function_of(fresh, mutant.function)
        old.__code__, old.__defaults__ = new.__code__, new.__defaults__
        old.__kwdefaults__ = new.__kwdefaults__
    forget()  # also what was made at import


def imported(name: str, source: str) -> types.ModuleType:
    """A module of this text, beside the one of its name that everybody uses."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "mutant.py"
        file.write_text(source)
        spec = importlib.util.spec_from_file_location(name, file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module


def replace_constant(name: str, old: object, fresh: dict[str, Any]) -> None:
    for module in list(sys.modules.values()):
        if getattr(module, "__dict__", {}).get(name) is old:
            vars(module)[name] = fresh[name]


def function_of(module: types.ModuleType, name: str) -> Any:
    """The function itself, below its decorator."""
    found: Any = module
    for part in name.split("."):
        found = vars(found)[part]
    for inside in ("fget", "func", "__func__", "__wrapped__"):
        found = getattr(found, inside, None) or found
    return found


def forget() -> None:
    """Empty the caches of linvae and of the tests: they hold what the code said before."""
    ours = tuple(str(Path.cwd() / folder) for folder in ("linvae", "tests"))
    for module in list(sys.modules.values()):
        if (getattr(module, "__file__", None) or "").startswith(ours):
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


# --- which test reaches which line ----------------------------------------------------------------


class Watch:
    """Runs the tests once: the lines that each reaches, and its CPU time, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds: dict[str, float] = {}
        self.coverage = coverage.Coverage(
            str(folder / "lines"), source=[str(SOURCES)], config_file=False
        )

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Lines and time of one test, as if it were the first."""
        forget()
        self.coverage.switch_context(item.nodeid)
        before = sum(os.times()[:2])
        result = yield
        self.seconds[item.nodeid] = sum(os.times()[:2]) - before
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self, session: pytest.Session) -> Iterator[None]:
        """All tests, then the two files."""
        self.coverage.start()
        result = yield
        self.coverage.stop()
        self.coverage.save()
        (self.folder / "seconds.json").write_text(json.dumps(self.seconds))
        return result


def tests_by_line(folder: Path) -> dict[str, dict[int, list[str]]]:
    data = coverage.CoverageData(str(folder / "lines"))
    data.read()
    here = Path.cwd()
    return {
        str(Path(file).relative_to(here)): data.contexts_by_lineno(file)
        for file in data.measured_files()
    }


# --- the run --------------------------------------------------------------------------------------


class Run:
    """Instead of the tests: every mutant in a fork of its own, with the tests that reach it."""

    def __init__(
        self, folder: Path, mutants: list[Mutant], done: set[tuple[str, ...]], most: float
    ) -> None:
        self.folder, self.mutants, self.done, self.most = folder, mutants, done, most
        self.reached = tests_by_line(folder)
        self.seconds: dict[str, float] = json.loads((folder / "seconds.json").read_text())
        self.pipe = -1

    @cached_property
    def table(self) -> Any:
        """Writer of the table, with its head where it is new; every row is there at once."""
        path = self.folder / "mutants.csv"
        fresh = not path.exists()
        file = path.open("a", newline="", buffering=1)
        writer = csv.writer(file)
        if fresh:
            writer.writerow(FIELDS)
        return writer

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """One row per mutant; the tests themselves are not run."""
        items = {item.nodeid: item for item in session.items}
        for mutant in self.mutants:
            if mutant.key in self.done:
                continue
            outcome, test, seconds = self.meet(mutant, self.chosen(mutant, items))
            path, line, column, before, after = mutant.key
            row = (outcome, path, line, column, mutant.function, before, after, test)
            self.table.writerow((*row, f"{seconds:.2f}"))
        return True

    def chosen(self, mutant: Mutant, items: dict[str, pytest.Item]) -> list[pytest.Item]:
        """The tests that reach the mutant: those of its own file first, quick ones first."""
        at = self.reached.get(mutant.path, {})
        if mutant.function.isupper():  # read when used: any test of the file may see it
            names = {test for tests in at.values() for test in tests}
        else:
            names = {test for line in mutant.lines for test in at.get(line, ())}
        own = f"test_{Path(mutant.path).stem}.py"
        known = [items[name] for name in names if name in items]
        known.sort(key=lambda item: (own not in item.nodeid, self.seconds[item.nodeid]))
        spent = accumulate(self.seconds[item.nodeid] for item in known)
        return [item for item, total in zip(known, spent, strict=True) if total <= self.most]

    def meet(self, mutant: Mutant, items: list[pytest.Item]) -> tuple[str, str, float]:
        """Outcome, the test that failed, CPU seconds."""
        if not items:
            return UNREACHED, "", 0.0
        read, self.pipe = os.pipe()
        child = os.fork()
        if child == 0:
            self.play(mutant, items)
        os.close(self.pipe)
        with os.fdopen(read) as said:
            test = said.read()
        _, status, usage = os.wait4(child, 0)
        seconds = usage.ru_utime + usage.ru_stime
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF:
            return TIMED_OUT, "", seconds
        return (SURVIVED if os.waitstatus_to_exitcode(status) == 0 else KILLED), test, seconds

    def play(self, mutant: Mutant, items: list[pytest.Item]) -> None:
        """In the fork: never returns."""
        try:
            quiet = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):  # a terminal would stop what reads from it in the background
                os.dup2(quiet, stream)
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
            install(mutant)
            for item, following in zip(items, [*items[1:], None], strict=True):
                limit = GRACE + SLOWER * self.seconds.get(item.nodeid, 0.0)
                signal.setitimer(signal.ITIMER_PROF, limit)
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        except BaseException as error:  # the file cannot be run at all
            os.write(self.pipe, repr(error)[:200].encode())
            os._exit(1)
        os._exit(0)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """In the fork: the first failure is the end, and its name what is said."""
        if report.failed:
            os.write(self.pipe, report.nodeid.encode())
            os._exit(1)


def summary(rows: list[dict[str, str]], total: int) -> str:
    """Counts per file, and the share that was killed with its 95 % interval (Wilson)."""
    by_file: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        by_file[row["path"]][row["outcome"]] += 1
    kinds = (KILLED, TIMED_OUT, SURVIVED, UNREACHED)
    lines = [f"| file | {' | '.join(kinds)} |", "|---" * 5 + "|"]
    lines += [
        f"| {Path(path).name} | {' | '.join(str(counts[kind]) for kind in kinds)} |"
        for path, counts in sorted(by_file.items())
    ]
    n = len(rows)
    seen = sum(row["outcome"] in (KILLED, TIMED_OUT) for row in rows)
    share, z2 = seen / n, 1.96**2
    middle, half = share + z2 / (2 * n), (z2 * (share * (1 - share) / n + z2 / (4 * n**2))) ** 0.5
    low, high = (middle - half) / (1 + z2 / n), (middle + half) / (1 + z2 / n)
    lines.append(f"\n{seen} of {n} seen: {share:.1%} (95 %: {low:.1%} to {high:.1%}), of {total}")
    return "\n".join(lines)


def unexplained(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Survivors that LEFT gives no reason for; what is left is known by the text of its line."""
    left = {(*key_in_text(r), r["code"]) for r in rows_of(LEFT)}
    alive = [row for row in rows if row["outcome"] in (SURVIVED, UNREACHED)]
    return [r for r in alive if (*key_in_text(r), code_of(r)) not in left]


def key_in_text(row: dict[str, str]) -> tuple[str, ...]:
    """What names a change wherever its line stands."""
    return tuple(row[field] for field in ("path", "function", "before", "after"))


def code_of(row: dict[str, str]) -> str:
    """The line of the source where a mutant begins."""
    return Path(row["path"]).read_text().splitlines()[int(row["line"]) - 1].strip()


def rows_of(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def key_of(row: dict[str, str]) -> tuple[str, ...]:
    return tuple(row[field] for field in ("path", "line", "column", "before", "after"))


def pytest_with(plugin: object, options: argparse.Namespace) -> int:
    # a failure need not be shrunk: that it fails is enough
    phases = [phase for phase in Phase if phase not in (Phase.shrink, Phase.explain)]
    settings.register_profile(
        "mutants",
        max_examples=options.examples,
        phases=phases,
        database=None,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    # -s: what a fork prints must not pass through a file that pytest holds
    words = ["-q", "-s", "--tb=no", "--no-header", "--hypothesis-profile=mutants"]
    # both are of the tools that are imported here; what linvae warns of is an error as ever
    for kind in ("pytest.PytestAssertRewriteWarning", "coverage.exceptions.CoverageWarning"):
        words += ["-W", f"ignore::{kind}"]
    words += [
        text for name in ("cacheprovider", "xdist", "randomly") for text in ("-p", f"no:{name}")
    ]
    return int(pytest.main([*words, *options.tests], plugins=[plugin]))


def parser() -> argparse.ArgumentParser:
    parsed = argparse.ArgumentParser(description="Mutants of linvae/theory.")
    parsed.add_argument(
        "--out", type=Path, required=True, help="folder of the table; goes on there"
    )
    parsed.add_argument("--limit", type=int, help="mutants at most, beginning with the first")
    parsed.add_argument("--seed", type=int, default=0, help="of their order")
    parsed.add_argument("--most", type=float, default=math.inf, help="CPU seconds of tests each")
    parsed.add_argument("--examples", type=int, default=100, help="draws of each property test")
    parsed.add_argument(
        "--part", type=int, nargs=2, default=(1, 1), metavar=("I", "N"), help="the I-th of N parts"
    )
    parsed.add_argument("--again", action="store_true", help="the survivors only")
    parsed.add_argument("--tests", nargs="+", default=[TESTS], help="files or folders of tests")
    parsed.add_argument("--watch", action="store_true", help=argparse.SUPPRESS)
    return parsed


def main(argv: list[str] | None = None) -> int:
    """Watch the tests, unless done, then run the mutants; the table is printed at the end."""
    options = parser().parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.watch:
        return pytest_with(Watch(options.out), options)
    if options.again:
        (options.out / "seconds.json").unlink(missing_ok=True)  # tests may be new
    if not (options.out / "seconds.json").exists():  # in a process of its own: it fills caches
        arguments = ["--out", str(options.out), "--tests", *options.tests, "--watch"]
        arguments += ["--examples", str(options.examples)]
        subprocess.run([sys.executable, "-m", "analysis.mutants", *arguments], check=True)
    files = [list(mutants_of(path)) for path in sorted(SOURCES.glob("*.py"))]
    part, parts = options.part
    mutants = in_fair_order([file for file in files if file], options.seed)[part - 1 :: parts]
    print(f"{len(mutants)} mutants of {len(files)} files", flush=True)
    table = options.out / "mutants.csv"
    if options.again:
        alive = {key_of(r) for r in rows_of(table) if r["outcome"] in (SURVIVED, UNREACHED)}
        table.rename(table.with_suffix(".before.csv"))
        mutants = [mutant for mutant in mutants if mutant.key in alive]
    done = {key_of(row) for row in rows_of(table)}
    run = Run(options.out, mutants[: options.limit], done, options.most)
    code = pytest_with(run, options)
    rows = rows_of(table)
    for row in unexplained(rows):
        print(f"{row['path']}:{row['line']}: {row['before']!r} to {row['after']!r} survives")
    print(summary(rows, len(mutants)))
    return code


if __name__ == "__main__":
    sys.exit(main())
