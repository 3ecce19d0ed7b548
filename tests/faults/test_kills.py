"""Killed at random moments a comparison ends with the bytes of one that nothing disturbed.

`make faults` kills 20 runs of a new interpreter with all figures; the tests of every day kill
forks, without drawing.
"""

from __future__ import annotations

import os
import shlex
import signal
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from linvae.compare import UNFINISHED
from linvae.train.cells import CELL
from linvae.train.checkpoint import read_file

from . import watched

FULL = os.environ.get("LINVAE_FAULTS") == "full"
ARGUMENTS = shlex.split(
    "compare --dataset gaussian --max-samples 60 --latent-dim 2 --seeds 1 --hidden 4 --no-bracket "
    "--out out --quiet"
)
# kills while a phase lasts, and seconds from its beginning within which they come
OFTEN = {
    "start-up": (3, 4.0), "training": (4, 0.3), "checkpoint": (4, 0.004), "cell": (4, 0.004),
    "table": (1, 0.002), "figure": (2, 0.3), "report": (1, 0.01), "exchange": (1, 0.002),
}  # fmt: skip
SELDOM = {
    "training": (1, 0.1),
    "checkpoint": (1, 0.002),
    "cell": (1, 0.002),
    "exchange": (1, 0.001),
}
EARLIER = b"of an earlier run"


def no_drawing() -> None:
    """Figures are their names."""
    import linvae.drawing as drawing

    drawing.save_figure = lambda figure, path: path.write_bytes(path.name.encode())


def start(folder: Path) -> watched.Command:
    if FULL:
        return watched.started(ARGUMENTS, folder)
    return watched.forked([*ARGUMENTS, "--architecture", "linear"], folder, no_drawing)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def members(store: Path) -> dict[str, bytes]:
    """What the cells of a store hold; safetensors orders the bytes of a file as it likes."""
    found = {}
    for path in store.glob(f"*{CELL}"):
        tensors, header = read_file(path, "cell")
        found[path.name] = repr((header, [(n, tensors[n].tolist()) for n in sorted(tensors)]))
    return {name: text.encode() for name, text in found.items()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, bytes]:
    """What a run writes that nothing disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    command = start(folder)
    assert command.wait() == 0, command.said()
    assert [path.name for path in (folder / "out").iterdir() if path.is_dir()] == []
    return contents(folder / "out")


def lost_bytes(now: dict[str, bytes], before: dict[str, bytes], later: dict[str, bytes]) -> int:
    """Of finished files, those that are gone or neither as they were nor as they will be."""
    return sum(
        len(content)
        for name, content in before.items()
        if now.get(name) not in (content, later.get(name, content))
    )


def left_earlier(out: Path, names: Iterable[str]) -> dict[str, bytes]:
    """Write files of these names, as an earlier run might have, and return them."""
    out.mkdir(parents=True, exist_ok=True)
    earlier = dict.fromkeys(names, EARLIER)
    for name, content in earlier.items():
        (out / name).write_bytes(content)
    return earlier


def test_killed_comparison_ends_with_the_same_bytes(undisturbed, tmp_path):
    """Of all files; at any moment every file of an earlier run is whole, and every member kept."""
    rng = np.random.default_rng(8)
    folder = tmp_path / "run"
    out = folder / "out"
    earlier = left_earlier(out, undisturbed)
    hits: Counter[str] = Counter()
    finished: dict[str, bytes] = {}
    lost = 0
    for phase, (times, within) in (OFTEN if FULL else SELDOM).items():
        for _ in range(times):
            command = start(folder)
            assert phase == "start-up" or command.wait_for(phase), command.said()
            watched.time.sleep(rng.uniform(0, within))
            assert command.kill() in (-signal.SIGKILL, 0)
            hits[command.hit() or f"no write, {phase}"] += 1
            lost += lost_bytes(contents(out), earlier, undisturbed)
            if contents(out) != undisturbed:  # else it had ended, and members go
                lost += lost_bytes(members(out / UNFINISHED), finished, {})
            finished = members(out / UNFINISHED)
            assert len(list(out.glob(".unfinished-*"))) <= 2  # no more with every kill
    command = start(folder)
    assert command.wait() == 0, command.said()
    print(f"\n{sum(hits.values())} kills: {dict(hits)}; {lost} bytes lost")
    assert lost == 0
    assert contents(out) == undisturbed
    assert [path.name for path in out.iterdir() if path.is_dir()] == []
