"""Shared by all tests."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before NumPy is imported, and for the processes that tests start: the matrices here are small, and
# threads of BLAS that wait for each other cost three to five times the time where cores are shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# as filterwarnings in pyproject.toml, for the processes that tests start
os.environ.setdefault("PYTHONWARNINGS", "error,ignore:`torch.jit:DeprecationWarning")

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# Of every property test, but those that say why they take a share. `make fuzz` takes the second.
settings.register_profile(
    "ci",
    max_examples=200,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.register_profile(
    "nightly", settings.get_profile("ci"), max_examples=10_000, derandomize=False, print_blob=True
)
settings.load_profile("ci")

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Not every Python has a build of torch; "make test-theory" tests what needs none.
TORCH = find_spec("torch") is not None
NEEDS_TORCH = r"^(import torch|import autograd_oracle|from linvae\.(metrics|models|testing|train))"
collect_ignore = [
    str(file)
    for file in Path(__file__).parent.rglob("test_*.py")
    if not TORCH and re.search(NEEDS_TORCH, file.read_text(encoding="utf-8"), re.MULTILINE)
]


def pytest_sessionfinish() -> None:
    """Save what was covered: xdist kills a worker that takes more than 10 s to end."""
    coverage = sys.modules.get("coverage")
    if coverage and (running := coverage.Coverage.current()):
        running.save()


def pytest_report_header() -> str | None:
    """Say what is not tested."""
    return None if TORCH else f"no torch: {len(collect_ignore)} files that import it are left out"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """The stacks here are small, and results then do not depend on the machine's cores."""
    if not TORCH:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def real_data(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Return the root of the real samples, or skip, saying what is missing and where."""
    root = Path(os.environ.get("LINVAE_DATA", "LINVAE_DATA-is-not-set"))
    monkeypatch.delenv("LINVAE_DATA", raising=False)

    def require(relative: str) -> Path:
        if not (root / relative).exists():
            pytest.skip(f"no real sample {relative} in {root}; set LINVAE_DATA")
        return root

    return require


@pytest.fixture
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of 20 steps: for tests that look at what is written, not at the numbers."""
    import linvae.pipeline as pipeline

    full = pipeline.make_plan

    def short(**options: Any) -> Any:
        plan = full(**options)
        return replace(plan, config=replace(plan.config, steps=20))

    monkeypatch.setattr(pipeline, "make_plan", short)


@pytest.fixture
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are empty files: for tests that look at the members and the table."""
    monkeypatch.setattr("linvae.drawing.save_figure", lambda figure, path: path.touch())


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium of this machine; nothing is downloaded.

    Of one module: while it is open the thread has a running event loop, which others may not want.
    """
    sync_api = pytest.importorskip("playwright.sync_api", reason='pip install "linvae[browser]"')
    found = [path for name in CHROMIUM if (path := shutil.which(name))]
    if not found:
        pytest.skip(f"no browser on the PATH: none of {', '.join(CHROMIUM)}")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found[0], args=["--disable-gpu"])
        yield opened
        opened.close()


@pytest.fixture
def browser_page(browser: Browser) -> Iterator[Page]:
    """An empty page with nothing remembered; after the test its console must hold no error."""
    context = browser.new_context()
    page = context.new_page()
    errors: list[str] = []
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: errors.append(str(e)))
    yield page
    context.close()
    assert not errors, f"errors in the browser's console: {errors}"
