"""What the command lines share: data options, argument types, exit codes."""

from __future__ import annotations

import argparse
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from linvae.spec import LATENT_SOURCES, Detached, LatentReconstruction

if TYPE_CHECKING:
    from linvae.data import Dataset
    from linvae.data.own import OwnData

__all__ = [
    "add_data_arguments",
    "add_own_data_arguments",
    "add_reconstruction_arguments",
    "all_or_nothing",
    "check_writable",
    "exit_codes",
    "load_named",
    "open_own",
    "positive_float",
    "positive_int",
    "positive_ints",
    "reconstruction_of",
    "refuse_idle_data",
    "refuse_idle_reconstruction",
]

# fields of the latent reconstruction that --lr-... set
RECONSTRUCTION = ("weight", "source", "detach", "encoder_share")
OF_DATASETS = ("split", "image_size", "max_samples", "data_dir", "download")
OF_FILES = ("array", "scale", "condition_dim")
WARMUPS = ("none", "linear", "exponential", "kl-adaptive")  # as in linvae.train


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Which data: --dataset, --data-dir, --split, --max-samples, --image-size, --download."""
    group = parser.add_argument_group("data")
    group.add_argument("--dataset", default="digits", help="name (default digits; see linvae data)")
    group.add_argument(
        "--data-dir", type=Path, help="folder with the files (else LINVAE_DATA, else user cache)"
    )
    group.add_argument("--split", help="default: the training split, or what is there")
    group.add_argument("--max-samples", type=positive_int, help="random subset of this size")
    group.add_argument(
        "--image-size",
        type=positive_int,
        help="shrink images to so many pixels a side (celeba, ffhq: 64 else)",
    )
    group.add_argument(
        "--download",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="fetch missing files of mnist, fashion-mnist, omniglot (default: no)",
    )


def load_named(args: argparse.Namespace) -> Dataset:
    """The dataset of `add_data_arguments`; `--model cvae` gives it a condition."""
    from linvae.data import load_dataset

    dataset = load_dataset(
        args.dataset,
        split=args.split,
        data_dir=args.data_dir,
        download=args.download,
        image_size=args.image_size,
        conditional=args.model == "cvae",
    )
    if args.max_samples and args.max_samples < dataset.n_samples:
        dataset = dataset.subset(args.max_samples, seed=0)
    return dataset


def add_own_data_arguments(parser: argparse.ArgumentParser) -> None:
    """A file of one's own, and the options of named datasets; none is set where none is given."""
    own = parser.add_argument_group("your own data")
    own.add_argument(
        "--data", type=Path, help=".npy, .npz, .csv, .parquet, .h5, or a folder of images"
    )
    own.add_argument("--array", help="name of the array in an .npz or .h5 file")
    own.add_argument("--condition-dim", type=positive_int, help="columns that are given, the first")
    own.add_argument("--scale", type=positive_float, help="factor on all its values (default 1)")
    add_data_arguments(parser)
    parser.set_defaults(dataset=None, download=None)


def refuse_idle_data(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with a usage error on options of the source that is not used; sets the dataset."""
    if args.data and args.dataset:
        parser.error("--data and --dataset are two sources: leave one of them out")
    idle, where = (OF_DATASETS, "--data") if args.data else (OF_FILES, "--dataset")
    for name in idle:
        if getattr(args, name) is not None:
            parser.error(f"--{name.replace('_', '-')} has no effect with {where}: leave it out")
    args.dataset = args.dataset or "digits"


def open_own(args: argparse.Namespace) -> OwnData:
    """The file of `add_own_data_arguments`."""
    from linvae.data.own import open_own_data

    return open_own_data(
        args.data,
        array=args.array,
        condition_dim=args.condition_dim or 0,
        scale=args.scale or 1.0,
    )


def add_reconstruction_arguments(parser: argparse.ArgumentParser) -> None:
    """Weight, routing and warm-up of the loss; None where not given, so that idle ones are seen."""
    group = parser.add_argument_group("--remedy latent-reconstruction")
    group.add_argument(
        "--lr-weight",
        type=positive_float,
        help="gamma of gamma/2 |mu(dec(z)) - z|^2, nats per latent unit squared, twice the alpha "
        f"of the paper (default {LatentReconstruction().weight})",
    )
    group.add_argument(
        "--lr-source",
        choices=LATENT_SOURCES,
        help="where z comes from (default posterior); to-mean: the mean should come back",
    )
    group.add_argument(
        "--lr-detach", choices=get_args(Detached), help="z without gradient (default none)"
    )
    group.add_argument(
        "--lr-encoder-share",
        type=float,
        metavar="SHARE",
        help="factor on the encoder's gradient of it (default 1; published too: 1e-4)",
    )
    group.add_argument(
        "--lr-warmup",
        choices=WARMUPS,
        help="of the weight, over half of the steps (default linear)",
    )


def refuse_idle_reconstruction(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with a usage error where an option of the loss is given without its remedy."""
    if "latent-reconstruction" in (args.remedy or ()):
        return
    for field in (*RECONSTRUCTION, "warmup"):
        if getattr(args, f"lr_{field}") is not None:
            option = field.replace("_", "-")
            parser.error(f"--lr-{option} has no effect: add --remedy latent-reconstruction")


def reconstruction_of(args: argparse.Namespace) -> dict[str, Any]:
    """`reconstruction` and `warmup`, from the options that were given."""
    given = {name: getattr(args, f"lr_{name}") for name in RECONSTRUCTION}
    given = {name: value for name, value in given.items() if value is not None}
    warmup = args.lr_warmup or "linear"
    return {"reconstruction": LatentReconstruction(**given), "warmup": warmup}


def positive_int(text: str) -> int:
    """Argument type: integer >= 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be an integer >= 1")
    return value


def count(text: str) -> int:
    """Argument type: integer >= 0 that fits 63 bits."""
    if not (text.isascii() and text.isdigit() and int(text) < 2**63):
        raise argparse.ArgumentTypeError(f"{text!r} must be an integer >= 0 and below 2^63")
    return int(text)


def positive_ints(text: str) -> tuple[int, ...]:
    """Argument type: integers >= 1 with commas between them."""
    return tuple(positive_int(part) for part in text.split(","))


def positive_float(text: str) -> float:
    """Argument type: finite number > 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} must be a finite number > 0")
    return value


def check_writable(folder: Path) -> None:
    """Refuse a result folder that cannot be written, before any work, without creating it."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        why = "is not a folder" if not there.is_dir() else "is not writable"
        raise ValueError(f"out={str(folder)!r}: {there} {why}; choose another result folder")


@contextmanager
def all_or_nothing(folder: Path, outputs: Sequence[str]) -> Iterator[Path]:
    """A temporary folder whose files replace those of an earlier run at the end, or never.

    `outputs`: stems of all files that a run may write; older ones are removed with the rest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(dir=folder, prefix=".unfinished-"))
    try:
        yield staged
        new = {path.name for path in staged.iterdir()}
        for path in folder.iterdir():
            if path.is_file() and path.stem in outputs and path.name not in new:
                path.unlink()
        for path in staged.iterdir():
            os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


@dataclass
class Status:
    """Exit code of a command."""

    code: int = 0


@contextmanager
def exit_codes() -> Iterator[Status]:
    """Turn expected errors into one line and an exit code.

    2: unusable input, training that diverged, or too little memory; 3: data missing; 130:
    interrupted.
    """
    from linvae.data import MissingDataError  # here: --help needs no data

    status = Status()
    try:
        yield status
    except MissingDataError as error:
        status.code = 3
        print(f"linvae: {error}", file=sys.stderr)
    except (ValueError, OSError, ArithmeticError, MemoryError) as error:
        status.code = 2
        print(f"linvae: {error or 'out of memory'}", file=sys.stderr)
    except KeyboardInterrupt:
        status.code = 130
        print("linvae: interrupted; the same command goes on from what is stored", file=sys.stderr)
