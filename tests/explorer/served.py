"""The command, started as a user starts it, for the tests of its server and its page."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def explorer(*arguments: str, **limits: float) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address that `linvae explore --no-browser` prints, and its process; ended by Ctrl-C.

    `limits`: constants of `linvae.explorer.server` that have another value there.
    """
    command = [sys.executable, "-m", "linvae.explore", "--no-browser", *arguments]
    if limits:
        lines = ["import sys, linvae.explore, linvae.explorer.server as server"]
        lines += [f"server.{name} = {value}" for name, value in limits.items()]
        run = "; ".join([*lines, "sys.exit(linvae.explore.main())"])
        command[1:3] = ["-c", run]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        # what is started in the background of a shell ignores Ctrl-C, and its children with it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert process.stdout is not None
    first = process.stdout.readline()
    try:
        assert first, f"no address: {process.communicate(timeout=60)}"
        yield first.split()[0], process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
