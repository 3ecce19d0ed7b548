"""`linvae SUBCOMMAND`: the same as `python -m linvae.SUBCOMMAND`."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "predict": ("linvae.predict", "thresholds and advice for a dataset or a file, in seconds"),
    "explore": ("linvae.explore", "a local page with sliders: thresholds and rates at once"),
    "compare": ("linvae.compare", "predicted against observed collapse of a dataset"),
    "diagnose": ("linvae.diagnose", "a trained encoder: predicted collapse, or failed training"),
    "text": ("linvae.text", "train a VAE of sentences, and see what it says"),
    "data": ("linvae.data.__main__", "list, download and verify datasets"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Dispatch to a subcommand; 0 = ran, 2 = usage, 3 = data missing."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if arguments[0] == "--version":
        import linvae

        print(f"linvae {linvae.__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        print(f"linvae: unknown command {name!r}{hint}\n\n{_usage()}", file=sys.stderr)
        return 2
    code: int = importlib.import_module(COMMANDS[name][0]).main(rest)
    return code


def _usage() -> str:
    lines = [f"  {name:10}{text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(["usage: linvae COMMAND [options]", "", *lines, "", "linvae COMMAND --help"])


if __name__ == "__main__":
    sys.exit(main())
