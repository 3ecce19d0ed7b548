"""`python -m figures`: write all figures, or one of them, as PNG, PDF and CSV, animations as GIF.

Exit codes: 0 = written, 2 = usage.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from figures import NAMES, write_figure


def main(argv: Sequence[str] | None = None) -> int:
    """Write the figures asked for and say where they are."""
    parser = argparse.ArgumentParser(prog="python -m figures", description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="NAME", help="one of: " + ", ".join(NAMES))
    parser.add_argument(
        "--out", type=Path, default=Path("results/figures"), help="folder (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    if args.only is not None and args.only not in NAMES:
        parser.error(f"--only {args.only}: no such figure; the figures are {', '.join(NAMES)}")
    if args.out.exists() and not args.out.is_dir():
        parser.error(f"--out {args.out}: is a file, not a folder")
    start = time.perf_counter()
    for name in [args.only] if args.only else NAMES:
        begin = time.perf_counter()
        write_figure(name, args.out)
        print(f"{name:24s}{time.perf_counter() - begin:6.1f} s", flush=True)
    print(f"PNG, PDF, CSV and GIF in {args.out} after {time.perf_counter() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
