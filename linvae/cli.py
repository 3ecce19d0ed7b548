"""What the command lines share: their parser, data options, argument types, exit codes.

A command is `parser()`, a `Parser`, and `main(argv)`, which parses and works within `exit_codes`:

    def main(argv: Sequence[str] | None = None) -> int:
        arguments = list(sys.argv[1:] if argv is None else argv)
        with exit_codes(arguments) as status:
            args = parser().parse_args(arguments)
            ...
        return status.code

What is asked for goes to stdout, with --json as JSON alone; all else to stderr.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from linvae.nearest import nearest
from linvae.printable import printable
from linvae.run_file import RUN_FILE, run_file_text, run_values
from linvae.spec import LATENT_SOURCES, Detached, LatentReconstruction
from linvae.version import __version__

if TYPE_CHECKING:
    from linvae.data import Dataset
    from linvae.data.own import OwnData

__all__ = [
    "OF_DATASETS",
    "OF_FILES",
    "Parser",
    "add_data_arguments",
    "add_output_arguments",
    "add_own_data_arguments",
    "add_reconstruction_arguments",
    "data_lines",
    "exit_codes",
    "fitting_model",
    "load_named",
    "non_negative_float",
    "open_own",
    "open_source",
    "positive_float",
    "positive_int",
    "positive_ints",
    "print_json",
    "progress_bars",
    "reconstruction_of",
    "refuse_idle_data",
    "refuse_idle_reconstruction",
    "variance",
    "write_run_file",
]

# fields of the latent reconstruction that --lr-... set
RECONSTRUCTION = ("weight", "source", "detach", "encoder_share")
OF_DATASETS = ("split", "image_size", "max_samples", "data_dir", "download")
OF_FILES = ("array", "scale", "condition_dim")
WARMUPS = ("none", "linear", "exponential", "kl-adaptive")  # as in linvae.train
UNUSABLE, MISSING, INTERNAL, INTERRUPTED, PIPE_CLOSED = 2, 3, 70, 130, 141
EXIT_CODES = (
    "exit codes: 0 ran, 2 usage or unusable input, 3 data missing, 70 internal error (a defect of "
    "linvae),\n  130 interrupted\n"
)


class Parser(argparse.ArgumentParser):
    """Of every command: errors are one line that names the nearest option; no abbreviations.

    `examples` and the exit codes end its help. With `config=True` it has --config FILE: options,
    and positional arguments, from TOML, of which the command line wins. `args.given` has the names
    of what was given, for `write_run_file`.
    """

    def __init__(
        self, *args: Any, examples: str = "", config: bool = False, **options: Any
    ) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        options.setdefault("epilog", f"{examples}\n{EXIT_CODES}" if examples else EXIT_CODES)
        super().__init__(*args, **{**options, "allow_abbrev": False})
        self.add_argument("--version", action="version", version=f"linvae {__version__}")
        self.add_argument("--debug", action="store_true", help="show where an error came from")
        if config:
            self.add_argument(
                "--config",
                dest="config_file",  # presets have a field `config`
                type=Path,
                metavar="FILE",
                help=f"options as in the {RUN_FILE} beside a result: latent-dim = 4; those given "
                "here win (default: none)",
            )

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As ever, with the values of --config; nothing is left over, but refused."""
        arguments = list(sys.argv[1:] if args is None else args)
        given, positional = self._given(arguments)
        if given.get("config_file"):
            arguments = self._with_file(Path(given["config_file"]), arguments, given, positional)
            given, positional = self._given(arguments)
        found, extra = super().parse_known_args(arguments, namespace)
        if extra:
            self.error(f"{extra[0]!r} is one argument too many")
        if self._subparsers is None:  # else the subcommand has said it
            names = [action.dest for action in self._positional()[:positional]]
            found.given = (*given, *names)
        return found, []

    def error(self, message: str) -> Any:
        """One line, and where to read more; exit code 2."""
        self.exit(UNUSABLE, f"{self.prog}: {printable(message)} (see {self.prog} --help)\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = ", ".join(map(str, action.choices))
            hint = nearest(str(value), map(str, action.choices))
            raise argparse.ArgumentError(action, f"{value!r} must be one of {known}{hint}")

    def _positional(self) -> list[argparse.Action]:
        return [action for action in self._actions if not action.option_strings]

    def _given(self, arguments: Sequence[str]) -> tuple[dict[str, str], int]:
        """Options given, with their last value, and how many positional arguments.

        Every option here takes one value or none, so this needs no parsing.
        """
        given: dict[str, str] = {}
        positional = 0
        tokens = iter(arguments)
        for token in tokens:
            if token == "--":
                return given, positional + len(list(tokens))
            if not _is_option(token):
                positional += 1
                if self._subparsers is not None:  # the rest is the subcommand's
                    break
                continue
            action, value = self._option(token)
            if action.nargs == 0:
                given[action.dest] = token
            else:
                given[action.dest] = next(tokens, "") if value is None else value
        return given, positional

    def _option(self, token: str) -> tuple[argparse.Action, str | None]:
        """The action of an option, and the value that is joined to it: --beta=4, -n5."""
        known = self._option_string_actions
        name, equals, value = token.partition("=")
        if name in known:
            return known[name], value if equals else None
        if token[:2] in known:
            return known[token[:2]], token[2:]
        return self.error(f"unknown option {name}{nearest(name, known)}")  # type: ignore[no-any-return]

    def _with_file(
        self, file: Path, arguments: list[str], given: dict[str, str], positional: int
    ) -> list[str]:
        """The arguments, with those of the file that they do not give."""
        overruled = {*given, *self._rivals(given)}
        overruled |= {action.dest for action in self._positional()[:positional]}
        try:
            values = run_values(file, self._actions, self._check_value)
        except ValueError as error:
            self.error(str(error))
        kept = {dest: tokens for dest, tokens in values.items() if dest not in overruled}
        names = [action.dest for action in self._positional()]
        options = [token for dest in kept if dest not in names for token in kept[dest]]
        last = [token for name in names for token in kept.get(name, ())]
        separator = ["--"] if last and "--" not in arguments else []
        return [*options, *arguments, *separator, *last]

    def _rivals(self, given: Iterable[str]) -> set[str]:
        """What excludes one of the options given: --full on the command line, quick in the file."""
        groups = [
            {action.dest for action in group._group_actions}
            for group in self._mutually_exclusive_groups
        ]
        return set().union(*(group for group in groups if group & set(given)))


def _is_option(token: str) -> bool:
    """As argparse has it: no negative number, nothing with spaces, no lone hyphen."""
    name = token.partition("=")[0]
    return name.startswith("-") and " " not in name and name != "-" and not name[1:2].isdigit()


def add_output_arguments(parser: argparse.ArgumentParser, *, json: str, quiet: str) -> None:
    """--json and --quiet, with what they do to this command."""
    parser.add_argument("--json", action="store_true", help=json)
    parser.add_argument("--quiet", action="store_true", help=quiet)


def print_json(content: Any) -> None:
    """To stdout; NaN as null, infinities as text."""
    from linvae.comparison import json_text

    print(json_text(content))


def write_run_file(folder: Path, command: str, args: argparse.Namespace) -> None:
    """run.toml: what was given, so that `linvae COMMAND --config FOLDER/run.toml` runs it again."""
    from linvae.comparison import write_text  # here: --help needs no rows

    text = run_file_text(command, {name: getattr(args, name) for name in args.given})
    write_text(folder / RUN_FILE, text)


@contextmanager
def progress_bars(silent: bool) -> Iterator[Callable[[str, int, int], None] | None]:
    """(what, done, total) -> a bar with the time left, on a terminal only; None where silent."""
    if silent or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress, TaskID

    with Progress(console=Console(stderr=True), transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def update(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done)

        yield update


def add_data_arguments(parser: argparse.ArgumentParser, default: str = "digits") -> None:
    """Which data: --dataset, --data-dir, --split, --max-samples, --image-size, --download."""
    group = parser.add_argument_group("data")
    words = f"name (default {default}; see linvae data)"
    group.add_argument("--dataset", default="digits", help=words)
    group.add_argument(
        "--data-dir",
        type=Path,
        help="folder with the files (default: LINVAE_DATA, then the user cache)",
    )
    group.add_argument("--split", help="default: the training split, or what is there")
    group.add_argument(
        "--max-samples", type=positive_int, help="random subset of this size (default: all)"
    )
    group.add_argument(
        "--image-size",
        type=positive_int,
        help="shrink images to so many pixels a side (default: 28, of celeba and ffhq 64)",
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


def add_own_data_arguments(parser: argparse.ArgumentParser, default: str = "digits") -> None:
    """A file of one's own, and the options of named datasets; none is set where none is given.

    `default`: what is taken without both, in words.
    """
    own = parser.add_argument_group("your own data")
    own.add_argument(
        "--data",
        type=Path,
        help=".npy, .npz, .csv, .parquet, .h5, or a folder of images (default: --dataset)",
    )
    own.add_argument("--array", help="name in an .npz or .h5 file (default: its one, or target)")
    own.add_argument(
        "--condition-dim", type=positive_int, help="columns that are given, the first (default 0)"
    )
    own.add_argument("--scale", type=positive_float, help="factor on all its values (default 1)")
    add_data_arguments(parser, default)
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


def open_source(args: argparse.Namespace) -> Dataset | OwnData:
    """The file of --data, or else the dataset that is named."""
    return open_own(args) if args.data else load_named(args)


def data_lines(data: Dataset | OwnData) -> str:
    """Which data, and what a reader should know of them."""
    return "\n  ".join([f"data: {data.describe()}", *([data.note] if data.note else [])])


def fitting_model(model: str | None, data: Dataset | OwnData) -> str:
    """`model`, or what the data are for where it is None; refused where they do not fit it."""
    model = model or ("cvae" if data.condition_dim else "vae")
    if model == "cvae" and not data.condition_dim:
        raise ValueError(
            f"model='cvae' needs a condition and {data.name} has none: say how many columns are "
            "given with --condition-dim, or store arrays 'target' and 'condition' in an .npz"
        )
    if model == "vae" and data.condition_dim:
        raise ValueError(
            f"model='vae' has no use for the condition of {data.name}: use --model cvae, or leave "
            "the condition out"
        )
    return model


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


def variance(text: str) -> float | str:
    """Argument type: finite number > 0, or "learned"."""
    return text if text == "learned" else positive_float(text)


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


def non_negative_float(text: str) -> float:
    """Argument type: finite number >= 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text!r} must be a finite number >= 0")
    return value


@dataclass
class Status:
    """Exit code of a command."""

    code: int = 0


@contextmanager
def exit_codes(arguments: Sequence[str] = ()) -> Iterator[Status]:
    """Turn errors into one line and an exit code; with --debug among `arguments` a traceback too.

    2: unusable input, training that diverged, or too little memory; 3: data missing; 70: a defect
    of ours; 130: interrupted; 141: who read our output has closed it.
    """
    status = Status()
    try:
        yield status
        sys.stdout.flush()
    except BrokenPipeError:
        status.code = PIPE_CLOSED
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to flush
    except KeyboardInterrupt:
        status.code = INTERRUPTED
        words = "interrupted; given again, training goes on from what is stored"
        print(f"linvae: {words}", file=sys.stderr)
    except Exception as error:
        status.code = _code(error)
        if "--debug" in arguments:
            import traceback

            traceback.print_exc()
        print(f"linvae: {printable(_words(error, status.code))}", file=sys.stderr)


def _code(error: Exception) -> int:
    from linvae.data import MissingDataError  # here: --help needs no data

    if isinstance(error, MissingDataError):
        return MISSING
    expected = (ValueError, OSError, ArithmeticError, MemoryError)
    return UNUSABLE if isinstance(error, expected) else INTERNAL


def _words(error: Exception, code: int) -> str:
    if code != INTERNAL:
        return str(error) or "out of memory"
    what = " ".join(f"{type(error).__name__}: {error}".split())
    return f"internal error ({what}); run again with --debug and report it"
