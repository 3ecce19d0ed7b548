"""`python -m figures`: write all figures, or some, as PNG, PDF and CSV, animations as GIF."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from figures import NAMES, write_figure
from linvae.cli import Parser, add_output_arguments, exit_codes, print_json
from linvae.result_folder import all_or_nothing, alone_in, check_writable

EXAMPLES = """\
examples:
  python -m figures
  python -m figures --only thresholds --out /tmp/figures
"""


def parser() -> Parser:
    """All options."""
    p = Parser(
        prog="python -m figures",
        description="Write all figures, or some, as PNG, PDF and CSV, animations as GIF.",
        examples=EXAMPLES,
    )
    p.add_argument(
        "--only", metavar="NAME", action="append", choices=NAMES,
        help=f"one figure, repeatable (default: all): {', '.join(NAMES)}",
    )  # fmt: skip
    p.add_argument(
        "--out", type=Path, default=Path("results/figures"), help="folder (default: %(default)s)"
    )
    add_output_arguments(p, json="print the list of files as JSON", quiet="print nothing")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Write the figures asked for and say where they are."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    with exit_codes(arguments) as status:
        args = parser().parse_args(arguments)
        check_writable(args.out)
        say = (lambda text: None) if args.json or args.quiet else partial(print, flush=True)
        start, paths = time.perf_counter(), []
        with alone_in(args.out):
            for name in args.only or NAMES:
                begin = time.perf_counter()
                with all_or_nothing(args.out, outputs=(name,)) as staged:
                    paths += [args.out / path.name for path in write_figure(name, staged)]
                say(f"{name:24s}{time.perf_counter() - begin:6.1f} s")
        say(f"PNG, PDF, CSV and GIF in {args.out} after {time.perf_counter() - start:.0f} s")
        if args.json:
            print_json([str(path) for path in paths])
    return status.code


if __name__ == "__main__":
    sys.exit(main())
