"""Import arrows: prediction cannot read observation, observation cannot read prediction.

    version, nearest, printable, spec, prices, notebook, comparison < data < moments < theory
                                      | objectives < models < train < metrics
                                      models < text_samples, encoders
                                      | wording < verdicts < report, plots < sheets
                                      metrics < jobs < cluster
                                      < compare, predict, diagnose, diagnosis, testing,
                                        pipeline, run_file, result_folder, cli,
                                        completion, explore, explorer, measured,
                                        advice_words, every __main__

A module imports from lower layers only, and the three groups divided by bars do not see each
other. Theory takes moments, not data sets; data knows nothing of the rest; verdicts, report and
plots read comparison rows only, sheets pictures that are there already.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import linvae

PACKAGE = Path(linvae.__file__).parent
TOP = {
    "compare",
    "predict",
    "diagnose",
    "diagnosis",
    "advice_words",
    "explore",
    "explorer",
    "measured",
    "testing",
    "text",
    "pictures",
    "pipeline",
    "remedy_rows",
    "rows",
    "run_file",
    "result_folder",
    "cli",
    "completion",
    "__main__",
}
BELOW_MODELS = {"spec", "prices", "comparison", "data", "moments", "objectives"}
MAY_IMPORT: dict[str, set[str]] = {
    "version": set(),
    "nearest": set(),
    "printable": set(),
    "spec": set(),
    "prices": set(),
    "notebook": set(),
    "comparison": {"spec", "notebook"},
    "data": {"nearest", "printable"},
    "moments": {"spec"},
    "theory": {"spec", "prices", "notebook", "moments"},
    "objectives": {"spec"},
    "models": BELOW_MODELS,
    "train": BELOW_MODELS | {"models", "version"},
    "text_samples": {"models", "printable"},
    "encoders": {"models"},
    "metrics": BELOW_MODELS | {"models", "train"},
    "jobs": BELOW_MODELS | {"models", "train", "metrics"},
    "cluster": BELOW_MODELS | {"models", "train", "metrics", "jobs"},
    "wording": {"comparison"},
    "verdicts": {"comparison", "wording"},
    "report": {"spec", "comparison", "wording", "verdicts"},
    "drawing": {"comparison"},
    "sweep_plots": {"comparison", "drawing", "wording"},
    "plots": {"spec", "comparison", "drawing", "sweep_plots", "wording"},
    "sheets": {"data", "plots"},
    "__init__": {"spec", "moments", "theory", "version"},  # the public names
}
EVERYTHING = {*MAY_IMPORT, *TOP}
MAY_IMPORT |= dict.fromkeys(TOP, EVERYTHING)
# the layers that may import torch
NETWORKS = {
    "objectives",
    "models",
    "text_samples",
    "encoders",
    "train",
    "metrics",
    "jobs",
    "cluster",
    *TOP,
}
# typing_extensions: for type checkers only
NUMERICAL = {"numpy", "scipy", "typing_extensions", *sys.stdlib_module_names}
ONLY_NUMERICAL = {
    "spec",
    "prices",
    "moments",
    "theory",
}  # standard library, numpy, scipy and nothing else


def layer_of(module: str) -> str:
    """Layer of a dotted name inside the package: its second part, "__init__" for the root.

    A `__main__` is a command, wherever it lies.
    """
    parts = module.split(".")
    if parts[-1] == "__main__":
        return "__main__"
    return parts[1] if len(parts) > 1 else "__init__"


def imported_modules(path: Path, package: Path) -> set[str]:
    """Dotted names that a file imports anywhere, relative ones resolved.

    `from package import name` counts as `package.name` where that is a module or a subpackage.
    """
    here = [package.name, *path.relative_to(package).with_suffix("").parts]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            found.add(source)
            if source == package.name:
                found.discard(source)
                found |= {_member(source, alias.name, package) for alias in node.names}
    return found


def _member(source: str, name: str, package: Path) -> str:
    is_module = (package / name).is_dir() or (package / f"{name}.py").exists()
    return f"{source}.{name}" if is_module else source


def violations(path: Path, package: Path) -> list[str]:
    """Every forbidden arrow of one file, in words."""
    shown = path.relative_to(package.parent).as_posix()
    own = layer_of(".".join([package.name, *path.relative_to(package).with_suffix("").parts]))
    if own not in MAY_IMPORT:
        return [f"{shown} has no layer: add {own!r} to MAY_IMPORT in this test"]
    problems = []
    for module in sorted(imported_modules(path, package)):
        root = module.split(".")[0]
        if root == package.name:
            target = layer_of(module)
            if target != own and target not in MAY_IMPORT[own]:
                problems.append(f"{shown} imports {module}: arrow {own} -> {target} is forbidden")
        elif root == "torch" and own not in NETWORKS:
            problems.append(f"{shown} imports {module}: {own} must not know torch")
        elif own in ONLY_NUMERICAL and root not in NUMERICAL:
            problems.append(f"{shown} imports {module}: {own} is numpy and scipy only")
    return problems


def _sources(package: Path) -> list[Path]:
    return sorted(package.rglob("*.py"))


@pytest.mark.parametrize("path", _sources(PACKAGE), ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_follow_the_arrows(path):
    assert violations(path, PACKAGE) == []


def test_layers_have_no_cycle():
    """Below the top, the table itself is an order."""
    remaining = {name: set(MAY_IMPORT[name]) for name in MAY_IMPORT if name not in TOP}
    while remaining:
        free = {name for name, needs in remaining.items() if not needs & set(remaining)}
        assert free, f"cycle among {sorted(remaining)}"
        remaining = {name: needs for name, needs in remaining.items() if name not in free}


FORBIDDEN = {
    "theory-torch": ("theory/x.py", "import torch", "theory must not know torch"),
    "theory-torch-inside": ("theory/x.py", "def f():\n    import torch.nn", "not know torch"),
    "theory-sklearn": ("theory/x.py", "from sklearn import svm", "theory is numpy and scipy only"),
    "theory-data": ("theory/x.py", "from linvae.data import a", "theory -> data is forbidden"),
    "theory-models": ("theory/x.py", "from linvae.models import a", "theory -> models"),
    "theory-relative": ("theory/x.py", "from ..metrics import a", "theory -> metrics"),
    "theory-from-root": ("theory/x.py", "from linvae import models", "theory -> models"),
    "theory-public-names": ("theory/x.py", "from linvae import solve", "theory -> __init__"),
    "models-theory": ("models/x.py", "from linvae.theory.vae import a", "models -> theory"),
    "models-train": ("models/x.py", "import linvae.train", "models -> train is forbidden"),
    "train-theory": ("train/__init__.py", "from ..theory import solve", "train -> theory"),
    "train-metrics": ("train/x.py", "from linvae.metrics import a", "train -> metrics"),
    "metrics-theory": ("metrics/x.py", "from linvae import theory", "metrics -> theory"),
    "objectives-models": ("objectives.py", "from .models import a", "objectives -> models"),
    "moments-data": ("moments.py", "from .data import a", "moments -> data is forbidden"),
    "data-spec": ("data/x.py", "from linvae.spec import VAESpec", "data -> spec is forbidden"),
    "data-torch": ("data/x.py", "import torch", "data must not know torch"),
    "report-theory": ("report.py", "from linvae.theory import solve", "report -> theory"),
    "plots-metrics": ("plots.py", "from linvae import metrics", "plots -> metrics"),
    "sweep-plots-theory": ("sweep_plots.py", "from linvae import theory", "sweep_plots -> theory"),
    "plots-torch": ("plots.py", "import torch", "plots must not know torch"),
    "root-train": ("__init__.py", "from linvae.train import train", "__init__ -> train"),
    "type-checking": (
        "theory/x.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from linvae.models import a",
        "theory -> models",
    ),
    "newcomer": ("surprise.py", "import math", "has no layer: add 'surprise'"),
}


def _package(folder: Path, name: str, text: str) -> tuple[Path, Path]:
    package = folder / "linvae"
    for layer in ("data", "theory", "models", "train", "metrics"):
        (package / layer).mkdir(parents=True)
        (package / layer / "__init__.py").touch()
    path = package / name
    path.write_text(text)
    return path, package


@pytest.mark.parametrize("case", FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_forbidden_arrow_is_named(case, tmp_path):
    name, text, message = case
    problems = violations(*_package(tmp_path, name, text))
    assert len(problems) == 1
    assert problems[0].startswith(f"linvae/{name} ")
    assert message in problems[0]


ALLOWED = {
    "theory": ("theory/x.py", "import numpy\nimport scipy.linalg\nfrom linvae.moments import M"),
    "theory-relative": ("theory/x.py", "from . import hvae\nfrom ..spec import b"),
    "metrics": ("metrics/x.py", "import torch\nfrom ..train import a\nfrom linvae.models import b"),
    "report": ("report.py", "import matplotlib\nfrom linvae.comparison import a"),
    "compare": ("compare.py", "import torch\nfrom . import theory, metrics, report\nimport linvae"),
    "main": ("__main__.py", "from linvae import compare, predict"),
    "root": ("__init__.py", "from linvae.theory import solve\nfrom .spec import VAESpec"),
    "data": ("data/x.py", "import pooch\nfrom .files import a"),
}


@pytest.mark.parametrize("case", ALLOWED.values(), ids=ALLOWED.keys())
def test_allowed_arrow_passes(case, tmp_path):
    assert violations(*_package(tmp_path, *case)) == []


def test_public_names_load_when_asked_for():
    """In a fresh interpreter: every name, the modules behind them, and no others."""
    code = (
        "import linvae\nprint('scipy' in __import__('sys').modules)\n"
        "print(linvae.theory.solve is linvae.solve, linvae.spec.VAESpec is linvae.VAESpec)\n"
        "print([n for n in linvae.__all__ if getattr(linvae, n) is None or n not in dir(linvae)])\n"
        "print(getattr(linvae, 'sovle', 'none'))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert result.stdout.splitlines() == ["False", "True True", "[]", "none"]
    with pytest.raises(AttributeError, match="module 'linvae' has no attribute 'sovle'"):
        _ = linvae.sovle


@pytest.mark.parametrize("statement", ["import linvae", "import linvae.theory"])
def test_importing_stays_light(statement):
    heavy = (
        "torch",
        "sklearn",
        "matplotlib",
        "pandas",
        "sympy",
        "PIL",
        "pooch",
        "dask",
        "linvae.data",
    )
    code = f"{statement}\nimport sys\nprint([m for m in {heavy!r} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert result.stdout.strip() == "[]"
