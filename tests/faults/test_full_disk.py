"""A disk that is full at any operation: one line, exit code 2, and what was there is as it was.

Every operation of a command that opens a file for writing, renames one or makes a folder fails in
turn with the error of a full disk, until none is left to fail. Where this process may mount, small
disks are really filled too.
"""

from __future__ import annotations

import errno
import itertools
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from linvae.compare import UNFINISHED
from linvae.result_folder import LOCK

from . import watched
from .test_kills import FULL, contents, left_earlier, no_drawing

COMPARE = shlex.split(
    "compare --dataset gaussian --max-samples 60 --latent-dim 1 --seeds 1 --architecture linear "
    "--no-bracket --out out --quiet"
)
PREDICT = shlex.split("predict --dataset gaussian --max-samples 60 --out out --quiet")
TEXT = shlex.split(
    "text train --dataset synthetic --max-sentences 8 --words 20 --embedding 2 --hidden 2 "
    "--epochs 1 --out out --quiet"
)
WAYS_OUT = ("free space", "choose another result folder", "give another folder")
# operations between two that are tried; all with `make faults`
STEPS = {"predict": 1, "text": 1 if FULL else 5, "compare": 1 if FULL else 27}


def fill(number: int, marker: Path) -> None:
    """Have this operation in the result folder fail as on a full disk, counted from 0."""
    counter = itertools.count()
    handle = os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def full(event: str, arguments: tuple) -> None:
        writes = (
            event == "os.rename"
            or (event == "os.mkdir" and not os.path.isdir(arguments[0]))
            or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR))
        )
        in_folder = writes and str(arguments[0]).startswith("out")
        if in_folder and next(counter) == number:
            os.write(handle, str(arguments[0]).encode())
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))

    sys.addaudithook(full)


def one_line(command: watched.Command) -> str:
    """What a command says that has failed as it should."""
    said = command.said()
    assert "Traceback" not in said, said
    lines = [line for line in said.splitlines() if line.startswith("linvae: ")]
    assert len(lines) == 1, said
    return lines[0]


@pytest.mark.parametrize("arguments", [PREDICT, COMPARE, TEXT], ids=lambda a: a[0])
def test_every_operation_that_can_find_the_disk_full(arguments, tmp_path):
    """Earlier results stay to the byte; once there is room the command ends as ever."""
    prepare = no_drawing if arguments is COMPARE else None
    whole = watched.forked(arguments, tmp_path / "whole", prepare)
    assert whole.wait() == 0, whole.said()
    expected = contents(tmp_path / "whole" / "out")
    run = tmp_path / "run"
    out = run / "out"
    earlier = left_earlier(out, expected)
    marker, times = tmp_path / "marker", 0
    for number in itertools.count(0, STEPS[arguments[0]]):
        command = watched.forked(arguments, run, partial(_prepared, prepare, number, marker))
        code, failed = command.wait(), marker.read_text()
        if not failed:
            break
        times += 1
        if code == 0:  # the number of the process that holds the lock; a trial with a second way
            assert failed in ("out/members", f"out/{UNFINISHED}", f"out/{LOCK}")
            left_earlier(out, expected)
            continue
        assert code == 2, command.said()
        line = one_line(command)
        assert "No space left on device" in line
        assert "out" in line
        assert any(words in line for words in WAYS_OUT), line
        assert contents(out) == earlier, failed
        assert not list(out.glob(".unfinished-*"))
    print(f"\n{arguments[0]}: the disk was full {times} times, of {number} or more operations")
    assert times >= 3
    assert contents(out) == expected
    assert not (out / UNFINISHED).exists()


def _prepared(prepare: Callable[[], None] | None, number: int, marker: Path) -> None:
    if prepare:
        prepare()
    fill(number, marker)


@pytest.fixture
def disk(tmp_path) -> Iterator[Callable[[int], Path]]:
    """`disk(KiB)`: a disk of that size, or the one there is, of that size now."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs"]
    done = subprocess.run([*mount, "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip(f"this process may not mount: {done.stderr.decode().strip()}")

    def resized(kib: int) -> Path:
        options = f"remount,size={kib}k"
        subprocess.run([*mount, "-o", options, "tmpfs", str(folder)], check=True)
        return folder

    yield resized
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("arguments", [PREDICT, COMPARE], ids=lambda a: a[0])
def test_disk_that_really_fills(arguments, disk, tmp_path):
    """From 8 KiB to what is enough; the members that fitted are there when there is more room."""
    prepare = no_drawing if arguments is COMPARE else None
    whole = watched.forked(arguments, tmp_path / "whole", prepare)
    assert whole.wait() == 0, whole.said()
    expected = contents(tmp_path / "whole" / "out")
    refused = 0
    for kib in np.geomspace(8, 4096, 7).astype(int).tolist():
        folder = disk(kib)
        command = watched.forked(arguments, tmp_path / "run", partial(_there, prepare, folder))
        if command.wait() == 0:
            break
        assert command.code == 2
        assert "No space left on device" in one_line(command)
        assert not contents(folder / "out") if (folder / "out").exists() else True
        refused += 1
    assert refused > 0
    assert contents(folder / "out") == expected


def _there(prepare: Callable[[], None] | None, folder: Path) -> None:
    if prepare:
        prepare()
    os.chdir(folder)


def test_read_only_disk(disk, tmp_path):
    """Which root cannot write either; refused before any work."""
    folder = disk(64)
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    command = watched.forked(PREDICT, tmp_path / "run", partial(_there, None, folder))
    assert command.wait() == 2
    assert one_line(command) == (
        "linvae: out='out' is no folder that can be made or written (Read-only file system); "
        "choose another result folder"
    )
