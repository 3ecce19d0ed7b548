"""What the command lines share: data options, argument types, exit codes."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from linvae.data import MissingDataError

__all__ = ["add_data_arguments", "exit_codes", "positive_float", "positive_int"]


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Which data: --dataset, --data-dir, --split, --max-samples, --image-size, --download."""
    group = parser.add_argument_group("data")
    group.add_argument("--dataset", default="digits", help="name (default digits; see linvae data)")
    group.add_argument(
        "--data-dir", type=Path, help="folder with the files (else LINVAE_DATA, else user cache)"
    )
    group.add_argument("--split", help="default: the training split, or what is there")
    group.add_argument("--max-samples", type=positive_int, help="random subset of this size")
    group.add_argument("--image-size", type=positive_int, help="ffhq: 64 (default) or 128 pixels")
    group.add_argument(
        "--download",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="fetch missing files of mnist, fashion-mnist, omniglot (default: no)",
    )


def positive_int(text: str) -> int:
    """Argument type: integer >= 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be an integer >= 1")
    return value


def positive_float(text: str) -> float:
    """Argument type: finite number > 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} must be a finite number > 0")
    return value


@dataclass
class Status:
    """Exit code of a command."""

    code: int = 0


@contextmanager
def exit_codes() -> Iterator[Status]:
    """Turn expected errors into one line and an exit code.

    2: unusable input, or training that diverged; 3: data missing; 130: interrupted.
    """
    status = Status()
    try:
        yield status
    except MissingDataError as error:
        status.code = 3
        print(f"linvae: {error}", file=sys.stderr)
    except (ValueError, OSError, ArithmeticError) as error:
        status.code = 2
        print(f"linvae: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        status.code = 130
        print("linvae: interrupted, nothing was written", file=sys.stderr)
