"""`linvae completion bash|zsh|tcsh`: a script that completes commands, options, choices, files.

Written by shtab from the parsers themselves.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from linvae.cli import Parser, exit_codes

SHELLS = ("bash", "zsh", "tcsh")
EXAMPLES = """\
examples:
  eval "$(linvae completion bash)"                              # in ~/.bashrc
  linvae completion zsh > ~/.zfunc/_linvae                      # in a folder of fpath
  linvae completion tcsh > ~/.linvae.tcsh                       # and source it in ~/.tcshrc
"""


def parser() -> Parser:
    """The one argument: which shell."""
    p = Parser(
        prog="linvae completion",
        description="Print a script with which the shell completes linvae's commands and options.",
        examples=EXAMPLES,
    )
    p.add_argument("shell", choices=SHELLS, help=f"one of {', '.join(SHELLS)}")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    with exit_codes(arguments) as status:
        import shtab

        args = parser().parse_args(arguments)
        # the name of a shell; none is started
        print(shtab.complete(every_command(), shell=args.shell))  # nosec B604
    return status.code


def every_command() -> Parser:
    """`linvae` as one parser, with files where an option takes a path."""
    from linvae.__main__ import COMMANDS

    root = Parser(prog="linvae", description="Posterior collapse: predicted, checked, explained.")
    commands = root.add_subparsers(dest="command", parser_class=cast(Any, _parser_of))
    for name, (_, text) in COMMANDS.items():
        _complete_files(commands.add_parser(name, help=text))
    return root


def _parser_of(*, prog: str, **_: Any) -> Parser:
    """The parser of a command, as `add_subparsers` asks for it: by `linvae COMMAND`."""
    from linvae.__main__ import COMMANDS

    made: Parser = importlib.import_module(COMMANDS[prog.split()[-1]][0]).parser()
    return made


def _complete_files(p: argparse.ArgumentParser) -> None:
    import shtab

    for action in p._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                _complete_files(child)
        elif action.type is Path:
            action.complete = shtab.FILE  # type: ignore[attr-defined]


if __name__ == "__main__":
    sys.exit(main())
