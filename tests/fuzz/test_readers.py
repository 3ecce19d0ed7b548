"""Every target on its seeds and on what some damage makes of them: the fuzzing of each change.

No time is measured: what hangs ends by the number of its calls. `make fuzz` looks further.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from .limits import TooMuch, attempt, limited_work, traced
from .targets import TARGETS, Target

CUTS, FLIPS, SWAPS = 64, 32, 8  # of each seed
FEWER = {"config": 8, "images": 16, "npz-inside": 32, "covariance": 32, "npy": 32}


def damaged(seed: bytes, most: int, source: random.Random) -> Iterator[bytes]:
    """The seed, cut short (at every length of a short one), with bits flipped, parts exchanged."""
    yield seed
    for length in range(0, len(seed), max(1, len(seed) // min(CUTS, most))):
        yield seed[:length]
    for _ in range(min(FLIPS, most) if seed else 0):
        content = bytearray(seed)
        for _ in range(source.choice((1, 1, 2, 4))):
            content[source.randrange(len(content))] ^= 1 << source.randrange(8)
        yield bytes(content)
    for _ in range(min(SWAPS, most)):
        a, b, c = sorted(source.randrange(len(seed) + 1) for _ in range(3))
        yield seed[:a] + seed[b:c] + seed[a:b] + seed[c:]


@pytest.mark.filterwarnings("ignore")  # of Pillow, on metadata that is damaged
@pytest.mark.parametrize("name", TARGETS)
def test_damage_is_read_or_refused_as_documented(name, tmp_path):
    source = random.Random(0)
    inputs = [
        content
        for seed in TARGETS[name].seeds
        for content in damaged(seed, FEWER.get(name, CUTS), source)
    ]
    for seed in TARGETS[name].seeds:  # what is imported on first use counts for none
        attempt(TARGETS[name], seed, tmp_path)
    with traced():
        for content in inputs:
            with limited_work(len(content)):
                attempt(TARGETS[name], content, tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TARGETS)
def test_a_target_reads_and_refuses(name, tmp_path):
    """A target that refuses all, or none, tests nothing."""
    ends = set()
    for seed in TARGETS[name].seeds:
        for content in (seed, seed[: len(seed) // 2], b"\xff" * 9):
            refused: list[str] = []
            attempt(TARGETS[name], content, tmp_path, refused)
            ends.add(bool(refused))
    always = {"cell": {False}, "model": {True}}  # trained again; a model.json without its model
    assert ends == always.get(name, {True, False})


# --- the conditions themselves ----------------------------------------------------------------


def endless(content: bytes, folder: Path) -> None:
    while True:
        len(content)


def large(content: bytes, folder: Path) -> None:
    bytearray(2**26)


def wrong(content: bytes, folder: Path) -> None:
    raise KeyError(content)


@pytest.mark.parametrize(
    ("read", "error"), [(endless, TooMuch), (large, TooMuch), (wrong, KeyError)]
)
def test_the_conditions_can_fail(read, error, tmp_path):
    with traced(), limited_work(9), pytest.raises(error):
        attempt(Target(read, [b""]), b"content", tmp_path)
