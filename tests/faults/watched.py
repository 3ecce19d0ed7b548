"""Commands in processes of their own that say what they write, so that they can be killed there.

A command is forked from this process, which has torch loaded, or started anew by the interpreter,
which takes seconds and is what a user does. It writes a line to its log where a phase begins and
ends; the last phase that has begun and not ended is what a kill has hit.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PHASES = ("training", "checkpoint", "cell", "table", "figure", "report", "exchange")
STEPS, EVERY = 20, 5  # of the runs here, and between two checkpoints
WAIT = 300.0  # seconds, after which a process that should have ended is a failure


@dataclass
class Command:
    """A command line that runs in `folder`; `log` has its phases, `errors` its stderr."""

    process: int
    log: Path
    errors: Path
    code: int | None = None  # as the shell has it; negative where a signal ended it

    def wait_for(self, phase: str) -> bool:
        """Until the phase begins; False where the command has ended without it."""
        end = time.monotonic() + WAIT
        while f"begin {phase}" not in self.lines():
            if self.ended():
                return f"begin {phase}" in self.lines()
            assert time.monotonic() < end, f"no {phase} in {WAIT} s"
            time.sleep(0.0005)
        return True

    def ended(self) -> bool:
        """Whether it has, without waiting."""
        if self.code is None:
            found, status = os.waitpid(self.process, os.WNOHANG)
            if found:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def wait(self) -> int:
        """Its exit code."""
        end = time.monotonic() + WAIT
        while not self.ended():
            assert time.monotonic() < end, f"has not ended in {WAIT} s"
            time.sleep(0.002)
        assert self.code is not None
        return self.code

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Signal its whole process group; returns the exit code."""
        if not self.ended():
            with suppress(ProcessLookupError):
                os.killpg(self.process, number)
        return self.wait()

    def lines(self) -> list[str]:
        """Of the log."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def hit(self) -> str:
        """What was being written when it ended, "" if nothing."""
        open_phases: list[str] = []
        for line in self.lines():
            what, _, phase = line.partition(" ")
            if what == "begin":
                open_phases.append(phase)
            elif what == "end":
                open_phases.remove(phase)
        writes = [phase for phase in open_phases if phase != "training"]
        return writes[-1] if writes else ""

    def said(self) -> str:
        """Its stderr."""
        return self.errors.read_text()


def forked(
    arguments: Sequence[str], folder: Path, prepare: Callable[[], None] | None = None
) -> Command:
    """`linvae ARGUMENTS` in a fork of this process, in a process group of its own."""
    log, errors = _names(folder)
    process = os.fork()
    if process == 0:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = 70
        try:
            with errors.open("w") as err, redirect_stderr(err), redirect_stdout(io.StringIO()):
                try:
                    code = run(arguments, folder, log, prepare)
                except BaseException:
                    traceback.print_exc(file=err)
        finally:
            os._exit(code)
    return Command(process, log, errors)


def started(arguments: Sequence[str], folder: Path) -> Command:
    """The same by a new interpreter."""
    log, errors = _names(folder)
    paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    with errors.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "faults.watched", str(folder), str(log), *arguments],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdout=subprocess.DEVNULL,
            stderr=stream,
            start_new_session=True,
            # a shell's background job would ignore Ctrl-C
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    process.returncode = 0  # waited for in Command
    return Command(process.pid, log, errors)


def _names(folder: Path) -> tuple[Path, Path]:
    """Log and errors of the next command, beside its folder."""
    folder.mkdir(exist_ok=True)
    number = len(list(folder.parent.glob(f"{folder.name}-*.log")))
    log = folder.parent / f"{folder.name}-{number}.log"
    log.touch()
    return log, log.with_suffix(".err")


def run(
    arguments: Sequence[str],
    folder: Path,
    log: Path,
    prepare: Callable[[], None] | None = None,
) -> int:
    """The command in this process: of few steps, with many checkpoints, watched."""
    import linvae.__main__

    os.chdir(folder)
    shorten()
    watch(log)
    if prepare:
        prepare()
    try:
        return linvae.__main__.main(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)


def shorten() -> None:
    """Few steps, a checkpoint after every few of them; the clock stands, so that bytes compare."""
    import torch

    import linvae.pipeline as pipeline
    from linvae.train import Checkpoint

    torch.set_num_threads(1)
    full = pipeline.make_plan

    def short(**options: Any) -> Any:
        plan = full(**options)
        return replace(plan, config=replace(plan.config, steps=STEPS))

    pipeline.make_plan = short
    Checkpoint.due = lambda self, steps, *_: steps >= EVERY
    time.perf_counter = lambda: 0.0


def watch(log: Path) -> None:
    """Have everything that writes say so."""
    import linvae.comparison as comparison
    import linvae.drawing as drawing
    import linvae.report as report
    import linvae.result_folder as result_folder
    import linvae.train.cells as cells
    import linvae.train.checkpoint as checkpoint

    handle = os.open(log, os.O_WRONLY | os.O_APPEND)

    def tell(text: str) -> None:
        os.write(handle, f"{text}\n".encode())

    def watched(module: Any, name: str, phase: Callable[..., str]) -> None:
        function = getattr(module, name)

        @wraps(function)
        def telling(*args: Any, **options: Any) -> Any:
            what = phase(*args)
            tell(f"begin {what}")
            result = function(*args, **options)
            tell(f"end {what}")
            return result

        setattr(module, name, telling)

    for module in (cells, checkpoint):
        watched(module, "write_file", lambda path, kind, *_: kind)
    watched(cells, "train", lambda *_: "training")
    watched(comparison, "write_text", lambda *_: "table")
    watched(report, "write_text", lambda *_: "report")
    watched(drawing, "save_figure", lambda *_: "figure")
    watched(result_folder, "_exchange", lambda *_: "exchange")


if __name__ == "__main__":
    sys.exit(run(sys.argv[3:], Path(sys.argv[1]), Path(sys.argv[2])))
