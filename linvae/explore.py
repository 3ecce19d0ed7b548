"""`python -m linvae.explore`: one local page with sliders; curves redraw from the closed forms.

data -> moments -> modes, once; then state -> curves (`linvae.explorer.curves`) at every change. The
page is on 127.0.0.1 only and needs no network. Exit code 0 = ended by Ctrl-C, 2 = usage or unusable
data, 3 = data missing.
"""

from __future__ import annotations

import argparse
import sys
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linvae.cli import (
    OF_DATASETS,
    OF_FILES,
    Parser,
    add_own_data_arguments,
    exit_codes,
    open_source,
)
from linvae.measured import moments_of

if TYPE_CHECKING:
    from linvae.explorer.source import Source
    from linvae.explorer.state import State
    from linvae.moments import Moments

EXAMPLES = """\
examples:
  python -m linvae.explore                                   a synthetic spectrum
  python -m linvae.explore --dataset digits
  python -m linvae.explore --data table.csv --condition-dim 3
  python -m linvae.explore --covariance cov.npy --port 8080 --no-browser
"""
# source -> the options that it has
SOURCES = {"dataset": OF_DATASETS, "data": OF_FILES, "covariance": ("condition_dim",)}


def parser() -> Parser:
    """All options, with their defaults."""
    p = Parser(
        prog="linvae explore",
        description="Sliders for beta, variances and widths: rates and thresholds redraw at once.\n"
        "On 127.0.0.1 only; Ctrl-C ends it.",
        examples=EXAMPLES,
    )
    add_own_data_arguments(p, default="a synthetic spectrum")
    p.add_argument(
        "--covariance",
        type=Path,
        help=".npy of a joint covariance, condition first, instead of data (default: none)",
    )
    p.add_argument(
        "--model",
        choices=("vae", "cvae", "hvae"),
        help="the first to be shown; cvae gives a --dataset a condition (default vae; cvae where "
        "the data have one)",
    )
    p.add_argument("--port", type=_port, default=0, help="default 0: any free one")
    p.add_argument("--no-browser", action="store_true", help="print the address only")
    return p


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"{text!r} must be an integer between 0 and 65535")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    with exit_codes(arguments) as status:
        args = _parse(arguments)
        _require_bokeh()
        from linvae.explorer.page import page
        from linvae.explorer.server import Server

        source = _source(args)
        server = Server(page(_start(args, source), source), args.port)
        with suppress(KeyboardInterrupt):  # the way to end it: no failure
            print(f"{server.url}  (Ctrl-C ends it)", flush=True)
            if not args.no_browser:
                webbrowser.open(server.url)
            server.run()
    return status.code


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The arguments, one source at most."""
    p = parser()
    args = p.parse_args(arguments)
    given = [name for name in SOURCES if getattr(args, name) is not None]
    if len(given) > 1:
        p.error(f"--{given[0]} and --{given[1]} are two sources: leave one of them out")
    for name in sorted({*OF_DATASETS, *OF_FILES} - {of for g in given for of in SOURCES[g]}):
        if getattr(args, name) is not None:
            needs = " or ".join(f"--{source}" for source in SOURCES if name in SOURCES[source])
            option = name.replace("_", "-")
            p.error(f"--{option} has no effect without {needs}: leave it out")
    return args


def _require_bokeh() -> None:
    try:
        import bokeh.server.server  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "linvae explore needs Bokeh, which is not installed: pip install 'linvae[explore]'"
        ) from error


# --- data ---------------------------------------------------------------------------------------


def _source(args: argparse.Namespace) -> Source | None:
    """What was asked for, reduced to its modes; None for a synthetic spectrum."""
    from linvae.explorer.source import Source

    if args.covariance:
        return Source.of(args.covariance.name, _given_covariance(args))
    if args.data or args.dataset:
        data = open_source(args)
        return Source.of(data.describe(), moments_of(data), data.note)
    return None


def _given_covariance(args: argparse.Namespace) -> Moments:
    from linvae.data import MissingDataError
    from linvae.data.own import map_array
    from linvae.moments import Moments

    path = args.covariance
    if not path.exists():
        raise MissingDataError(f"covariance={str(path)!r} does not exist: give a .npy file")
    try:
        values = map_array(path)
    except ValueError as error:
        raise ValueError(
            f"covariance={str(path)!r} is no .npy file of numbers: write it with numpy.save "
            f"({error})"
        ) from error
    return Moments.from_covariance(values, condition_dim=args.condition_dim or 0)


def _start(args: argparse.Namespace, source: Source | None) -> State:
    """The first state: beta and decoder variance 1, variances of the latents as the model has."""
    from linvae.explorer.state import State, preset

    fields: dict[str, Any] = {"spectrum": "data"} if source else {}
    model = args.model or ("cvae" if source and source.given else "vae")
    return State(model=model, **(fields | preset(model)))


if __name__ == "__main__":
    sys.exit(main())
