"""run.toml: the options of a run, written beside its result and read by --config.

Keys are long options without their hyphens, `decoder-variance` or `decoder_variance`, or the names
of positional arguments. Repeated options and tuples are lists, flags true or false, paths text,
relative to where the command runs, as on the command line.

A value becomes what would stand on the command line, so its type, choices and message are those of
the option, and the file says no more than a command can. ConfigArgParse does this too, in 2500
lines; it takes beta = "4" and beta = [4], knows no positional arguments, and its messages name
neither the file nor the nearest key.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from linvae.nearest import nearest
from linvae.version import __version__

__all__ = ["RUN_FILE", "run_file_text", "run_values"]

RUN_FILE = "run.toml"
# how one run is shown, not what it does
NOT_OF_A_RUN = ("config_file", "debug", "help", "version", "json", "quiet")
MOST_BYTES = 2**16  # tomllib takes longer than in proportion for keys of many dots
KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "text", list: "a list"}


def run_file_text(command: str, values: Mapping[str, Any]) -> str:
    """The file: `values` by destination, as parsed."""
    import tomli_w

    table = {
        name.replace("_", "-"): _plain(value)
        for name, value in values.items()
        if name not in NOT_OF_A_RUN
    }
    how = f"# linvae {__version__}; run it again with: {command} --config {RUN_FILE}\n"
    return how + tomli_w.dumps(table)


def run_values(
    file: Path,
    actions: Sequence[argparse.Action],
    check_choice: Callable[[argparse.Action, Any], None],
) -> dict[str, list[str]]:
    """Destination -> command line arguments, checked; ValueError naming the file and the key."""
    known = {action.dest: action for action in actions if action.dest not in NOT_OF_A_RUN}
    found: dict[str, list[str]] = {}
    for key, value in _read(file).items():
        action = known.get(key.replace("-", "_"))
        if action is None:
            hint = nearest(key, [name.replace("_", "-") for name in known])
            raise ValueError(f"{file}: unknown key {key!r}{hint}")
        try:
            found[action.dest] = _arguments(action, value, check_choice)
        except (ValueError, argparse.ArgumentTypeError) as error:
            raise ValueError(f"{file}: {key} = {_shown(value)}: {error}") from error
        except argparse.ArgumentError as error:
            raise ValueError(f"{file}: {key}: {error.message}") from error
    return found


def _read(file: Path) -> dict[str, Any]:
    import tomllib

    try:
        with file.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES} bytes, which no {RUN_FILE} has")
        return tomllib.loads(content.decode())
    except FileNotFoundError as error:
        raise ValueError(f"--config {file} does not exist: give a file as {RUN_FILE}") from error
    except (OSError, ValueError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise ValueError(f"--config {file} is no readable TOML file: {why}") from error


def _shown(value: Any) -> str:
    """A value in a message, cut short."""
    try:
        return f"{value!r:.200}"
    except ValueError:  # Python writes no integer of more than 4300 digits
        return "an integer of thousands of digits"


def _arguments(
    action: argparse.Action, value: Any, check_choice: Callable[[argparse.Action, Any], None]
) -> list[str]:
    """What gives an option this value on the command line."""
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError("must be true or false")
        return _flag(action, value)
    several = isinstance(action, argparse._AppendAction) or action.nargs == "+"
    texts = [
        _text(action, part, check_choice)
        for part in (value if several and isinstance(value, list) else [value])
    ]
    return [f"{action.option_strings[-1]}={t}" for t in texts] if action.option_strings else texts


def _flag(action: argparse.Action, value: bool) -> list[str]:
    names = {name.startswith("--no-"): name for name in action.option_strings}
    return [names[not value]] if (not value) in names else []


def _text(
    action: argparse.Action, value: Any, check_choice: Callable[[argparse.Action, Any], None]
) -> str:
    """One value as it would be typed; of a tuple with commas."""
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    convert: Any = action.type or str
    parsed = convert(text)
    if not _is_kind(value, _plain(parsed)):
        raise ValueError(f"must be {KINDS[type(_plain(parsed))]}")
    check_choice(action, parsed)
    return text


def _is_kind(value: Any, example: Any) -> bool:
    """True where both are of one TOML type; an integer is a number."""
    return type(value) is type(example) or (type(value) is int and type(example) is float)


def _plain(value: Any) -> Any:
    """A value of TOML: paths are text, tuples lists."""
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value
