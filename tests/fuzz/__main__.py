"""Coverage-guided fuzzing of every reader: python -m tests.fuzz [--seconds 60] [TARGET ...].

Each target runs in a process of its own, with limits on memory and on the time of an input. What
fails is left in the folder `fuzz/TARGET`, as a file that `--replay FILE TARGET` reads again.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

RSS_MB = 2048  # of the process, torch and coverage tables among them
TIMEOUT = 20  # seconds for one input
MAX_BYTES = 16384
# where coverage guides; what is compiled guides by its errors only
INSTRUMENTED = (
    *("linvae.data", "linvae.cli", "linvae.run_file", "linvae.comparison", "linvae.encoders"),
    *("linvae.models.saved", "linvae.train.cells", "linvae.train.checkpoint", "linvae.explore"),
    *("PIL", "zipfile", "gzip", "tomllib", "csv", "json", "numpy.lib._format_impl"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Fuzz every target, or those named; exit code 1 where one failed."""
    args = _parser().parse_args(argv)
    if args.one:
        _fuzz(args.targets[0], args.seconds, args.folder)
    if args.replay:
        return _replay(args.targets[0], args.replay)
    failed = [name for name in args.targets or _names() if _run(name, args.seconds, args.folder)]
    print(f"failed: {', '.join(failed) or 'none'}")
    return int(bool(failed))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default 60)")
    parser.add_argument("--folder", type=Path, default=Path("fuzz"), help="corpus (default fuzz)")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="read this file again")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    return parser


def _names() -> tuple[str, ...]:
    """All but TorchScript, whose reader allocates the lengths that a file declares: see README."""
    from .targets import TARGETS

    return tuple(name for name in TARGETS if name != "script")


def _run(name: str, seconds: int, folder: Path) -> int:
    print(f"== {name}", flush=True)
    options = ["--one", "--seconds", str(seconds), "--folder", str(folder), name]
    command = [sys.executable, "-W", "ignore", "-m", "tests.fuzz", *options]
    with _scratch() as place:  # here: libFuzzer ends its process without cleaning up
        return subprocess.run(
            command, check=False, env=os.environ | {"TMPDIR": str(place)}
        ).returncode


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder in memory where there is one: each input becomes a file."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Path(folder)


def _one_input(name: str, folder: Path) -> Callable[[bytes], None]:
    from .limits import attempt
    from .targets import TARGETS

    for seed in TARGETS[name].seeds:  # what is imported on first use counts for none
        with contextlib.suppress(Exception):
            TARGETS[name].read(seed, folder)
    return lambda content: attempt(TARGETS[name], bytes(content), folder)


def _fuzz(name: str, seconds: int, folder: Path) -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        from .targets import TARGETS
    corpus = folder / name
    corpus.mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(TARGETS[name].seeds):
        (corpus / f"seed{i}").write_bytes(seed)
    one = _one_input(name, Path(tempfile.mkdtemp()))
    tracemalloc.start()
    options = {
        "max_total_time": seconds, "rss_limit_mb": RSS_MB, "timeout": TIMEOUT, "verbosity": 1,
        "max_len": MAX_BYTES, "print_final_stats": 1, "artifact_prefix": f"{corpus}/",
    }  # fmt: skip
    atheris.Setup(["fuzz", *(f"-{k}={v}" for k, v in options.items()), str(corpus)], one)
    atheris.Fuzz()


def _replay(name: str, file: Path) -> int:
    from .limits import traced

    with _scratch() as folder, traced():
        _one_input(name, folder)(file.read_bytes())
    print(f"{file}: read, or refused as documented")
    return 0


if __name__ == "__main__":
    sys.exit(main())
