"""`linvae SUBCOMMAND`: the same as `python -m linvae.SUBCOMMAND`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from linvae.cli import EXIT_CODES, exit_codes
from linvae.nearest import nearest
from linvae.version import __version__

COMMANDS = {
    "predict": ("linvae.predict", "thresholds and advice for a dataset or a file, in seconds"),
    "explore": ("linvae.explore", "a local page with sliders: thresholds and rates at once"),
    "compare": ("linvae.compare", "predicted against observed collapse of a dataset"),
    "diagnose": ("linvae.diagnose", "a trained encoder: predicted collapse, or failed training"),
    "text": ("linvae.text", "train a VAE of sentences, and see what it says"),
    "data": ("linvae.data.__main__", "list, download and verify datasets"),
    "completion": ("linvae.completion", "a script for bash, zsh or tcsh that completes all this"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Dispatch to a subcommand; see `linvae.cli.EXIT_CODES`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if arguments[0] == "--version":
        print(f"linvae {__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        what = "option" if name.startswith("-") else "command"
        hint = nearest(name, (*COMMANDS, "--help", "--version"))
        print(f"linvae: unknown {what} {name!r}{hint} (see linvae --help)", file=sys.stderr)
        return 2
    with exit_codes(rest) as status:
        status.code = importlib.import_module(COMMANDS[name][0]).main(rest)
    return status.code


def _usage() -> str:
    lines = [f"  {name:12}{text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        ["usage: linvae COMMAND [options]", "", *lines, "", "linvae COMMAND --help", "", EXIT_CODES]
    ).rstrip()


if __name__ == "__main__":
    sys.exit(main())
