"""`python -m linvae.compare`: predicted against observed collapse, for a dataset, in minutes.

load -> moments -> solve -> train -> observe -> rows -> report. Exit code 0 = ran, 2 = usage or
unusable data, 3 = data missing.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linvae.cli import (
    Parser,
    add_output_arguments,
    add_own_data_arguments,
    add_reconstruction_arguments,
    data_lines,
    exit_codes,
    fitting_model,
    load_named,
    open_own,
    positive_float,
    positive_int,
    positive_ints,
    print_json,
    progress_bars,
    reconstruction_of,
    refuse_idle_data,
    refuse_idle_reconstruction,
    write_run_file,
)
from linvae.result_folder import all_or_nothing, alone_in, check_writable

if TYPE_CHECKING:
    from linvae.data import Dataset
    from linvae.data.own import OwnData
    from linvae.jobs import Job, Runner
    from linvae.models import Preset
    from linvae.spec import LinearSpec
    from linvae.train import CellStore, TensorBoard, TrainingData

# as in linvae.models, whose import takes seconds
ARCHITECTURES = ("linear", "mlp", "conv", "resnet", "pixelcnn")
TRAINING_REMEDIES = (
    "aggressive", "annealing", "aggressive-annealing", "cyclical", "free-bits", "total-free-bits",
    "latent-reconstruction",
)  # fmt: skip
NETWORK_REMEDIES = ("inverse-lipschitz", "latent-skip")  # another decoder, none of linear models
REMEDIES = TRAINING_REMEDIES + NETWORK_REMEDIES
ACTIVATIONS = ("relu", "gelu", "tanh", "elu", "leaky_relu")
PRESET_NAMES = (
    "dang-vae", "dang-vae-fixed", "dang-vae-mlp", "dang-cvae", "dang-cvae-mlp", "dang-cvae-conv",
    "dang-hvae", "dang-hvae-fixed", "dang-hvae-mlp", "dang-hvae-conv", "song-mnist",
    "song-omniglot", "song-fashion-mnist", "song-celeba", "song-ffhq", "lidvae-mnist",
    "lidvae-fashion-mnist", "lidvae-celeba",
)  # fmt: skip
UNFINISHED = ".members"  # finished members of a run that has not ended, in its result folder
EXAMPLES = """\
examples:
  python -m linvae.compare                                    digits, no files needed
  python -m linvae.compare --dataset omniglot --download
  python -m linvae.compare --data samples.csv --latent-dim 4  your own data
  python -m linvae.compare --dataset mnist --model cvae       bottom-left quarter -> the rest
  python -m linvae.compare --dataset digits --model hvae --architecture linear --json
  python -m linvae.compare --architecture mlp --activation tanh --depth 2
  python -m linvae.compare --dataset fashion-mnist --remedy latent-reconstruction --lr-weight 1
  python -m linvae.compare --preset dang-hvae-mlp --dataset digits
  python -m linvae.compare --dataset mnist --scheduler tcp://127.0.0.1:8786
"""


def parser() -> Parser:
    """All options, with units and defaults."""
    p = Parser(
        prog="linvae compare",
        description="Predicted against observed posterior collapse of linear and nonlinear VAEs.",
        examples=EXAMPLES,
        config=True,
    )
    add_own_data_arguments(p)
    p.add_argument(
        "--preset",
        choices=PRESET_NAMES,
        metavar="NAME",
        help="published networks, latents, variances and betas, on the published data unless "
        "--dataset says otherwise; trained as everything here (default: none): "
        + ", ".join(PRESET_NAMES),
    )
    p.add_argument(
        "--model",
        choices=("vae", "cvae", "hvae"),
        default="vae",
        help="default vae; cvae where --data has a condition",
    )
    p.add_argument(
        "--architecture",
        action="append",
        choices=ARCHITECTURES,
        help="trained counterparts; repeat for several (default: linear and mlp)",
    )
    sizes = p.add_argument_group("networks")
    sizes.add_argument("--hidden", type=positive_int, default=64, help="hidden units, default 64")
    sizes.add_argument("--depth", type=positive_int, help="hidden layers (default 1)")
    sizes.add_argument("--activation", choices=ACTIVATIONS, help="default relu")
    sizes.add_argument(
        "--channels",
        type=positive_ints,
        help="feature maps per level of conv, resnet (default 16,32)",
    )
    sizes.add_argument("--skip", action="store_true", help="every level of hvae reads the data")
    p.add_argument(
        "--remedy",
        action="append",
        choices=REMEDIES,
        metavar="NAME",
        help="train the sweep once more with this remedy, beside the plain one (default: none); "
        "repeat for several; inner loops of aggressive take up to thirty times the sweep's time: "
        + ", ".join(REMEDIES),
    )
    add_reconstruction_arguments(p)
    p.add_argument(
        "--inverse-lipschitz",
        type=positive_float,
        metavar="L",
        help="of --remedy inverse-lipschitz: least distance of decoded latents over theirs, data "
        "units per latent unit (default 0.1, of a preset its own); the decoder is dense",
    )
    p.add_argument("--latent-dim", type=positive_int, default=8, help="units per level, default 8")
    p.add_argument(
        "--decoder-variance",
        type=positive_float,
        default=1.0,
        help="variance of p(y|z), data units squared (default 1: beta is in data units squared)",
    )
    p.add_argument(
        "--seeds",
        type=positive_int,
        help="number of seeds (default 3; 5 with --full; 1, and half the steps, of all networks, "
        "where one of images sees more than 32x32 pixels)",
    )
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    p.add_argument(
        "--bracket",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="bracket every threshold between two branches (about twice the time; default: yes)",
    )
    p.add_argument(
        "--check-convergence",
        action="store_true",
        help="control runs again with twice the steps (three times the time)",
    )
    p.add_argument(
        "--store",
        type=Path,
        help="keep finished members in this folder and take them from it (default: within --out, "
        "until the run has ended: a run that was stopped goes on)",
    )
    p.add_argument(
        "--tensorboard",
        type=Path,
        metavar="FOLDER",
        help="curves of the sweep while it trains, one run per member (default: none)",
    )
    p.add_argument(
        "--scheduler",
        help="tcp://HOST:PORT of a Dask scheduler: train on its workers (default: here)",
    )
    p.add_argument("--out", type=Path, help="result folder (default results/DATASET-MODEL)")
    size = p.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a third of the steps")
    size.add_argument("--full", action="store_true", help="four times the steps")
    add_output_arguments(
        p, json="print summary.json instead of tables", quiet="no progress, no tables"
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    with exit_codes(arguments) as status:
        args = _parse(arguments)
        own = _open(args)
        folder = args.out or Path("results") / f"{_data_name(args)}-{args.preset or args.model}"
        check_writable(folder)
        dataset = own.dataset() if own else load_named(args)
        command = shlex.join(["python", "-m", "linvae.compare", *arguments])
        with alone_in(folder):
            _run(args, dataset, folder, command)
    return status.code


def _open(args: argparse.Namespace) -> OwnData | None:
    """The file of --data, not read yet; it says which model where none was asked for."""
    if args.data is None:
        return None
    own = open_own(args)
    asked = args.model if args.preset or "model" in args.given else None
    args.model = fitting_model(asked, own)
    return own


def _data_name(args: argparse.Namespace) -> str:
    from linvae.data import resolve_name  # here: --help needs no data

    return args.data.stem if args.data else resolve_name(args.dataset)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The arguments; a preset stands for those that were not given."""
    p = parser()
    args = p.parse_args(arguments)
    refuse_idle_reconstruction(p, args)
    if args.inverse_lipschitz and "inverse-lipschitz" not in (args.remedy or ()):
        p.error("--inverse-lipschitz has no effect: add --remedy inverse-lipschitz")
    if args.tensorboard and args.scheduler:
        p.error("--tensorboard has no effect with --scheduler, whose workers train: leave one out")
    if args.preset is None:
        refuse_idle_data(p, args)
        _refuse_idle(p, args)
        return args
    preset = _preset(args)
    fixed = ("model", "architecture", "latent_dim", "decoder_variance")
    given = p.parse_args(arguments, argparse.Namespace(**dict.fromkeys(fixed)))
    for name in fixed:
        if getattr(given, name):
            option = name.replace("_", "-")
            p.error(f"--{option} is set by --preset {args.preset}: leave one of them out")
    names = dict.fromkeys(("linear", preset.architecture.name))
    p.set_defaults(model=preset.model, architecture=list(names), hidden=None)
    if not args.data:
        p.set_defaults(dataset=preset.dataset)
    args = p.parse_args(arguments)
    refuse_idle_data(p, args)
    _refuse_idle_decoders(p, args, set(names))
    sizes = _network_options(args)
    if preset.architecture.name == "linear" and sizes:
        p.error(f"--{next(iter(sizes))} has no effect on --preset {args.preset}: it is linear")
    return args


def _refuse_idle(p: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Options of networks that none of those asked for has."""
    from linvae.models import Architecture

    networks = [Architecture(name) for name in args.architecture or ("linear", "mlp")]
    names = ", ".join(network.name for network in networks)
    if args.channels and not any(network.needs_image for network in networks):
        p.error(f"--channels has no effect on {names}: add --architecture conv, or leave it out")
    if args.skip and args.model != "hvae":
        p.error(f"--skip has no effect on --model {args.model}: it is for hvae, or leave it out")
    _refuse_idle_decoders(p, args, {network.name for network in networks})
    for option in ("depth", "activation"):
        if getattr(args, option) and {network.name for network in networks} == {"linear"}:
            p.error(f"--{option} has no effect on linear networks: leave it out")


def _refuse_idle_decoders(
    p: argparse.ArgumentParser, args: argparse.Namespace, names: set[str]
) -> None:
    """Remedies that are another decoder, where all networks are linear."""
    idle = sorted(set(args.remedy or ()) & set(NETWORK_REMEDIES))
    if idle and names == {"linear"}:
        p.error(
            f"--remedy {idle[0]} is another decoder, which linear networks have not: add "
            "--architecture mlp, or leave it out"
        )


def _run(args: argparse.Namespace, dataset: Dataset, folder: Path, command: str) -> None:
    from linvae.pictures import SHEETS, draw_pictures
    from linvae.pipeline import LARGE_IMAGE, make_plan, run_comparison
    from linvae.plots import FIGURES, save_figures
    from linvae.report import render_text, write_report
    from linvae.sheets import save_sheets

    spec = _spec(args)
    silent = args.quiet or args.json
    pixels = _pixels(dataset)
    large = pixels > LARGE_IMAGE and _any_of_images(args)
    plan = make_plan(
        architectures=tuple(args.architecture or ("linear", "mlp")),
        n_seeds=args.seeds or (5 if args.full else 1 if large else 3),
        device=args.device,
        effort=1 / 3 if args.quick else 4.0 if args.full else 0.5 if large else 1.0,
        bracket=args.bracket,
        check_convergence=args.check_convergence,
        command=command,
        options=_network_options(args),
        remedies=tuple(dict.fromkeys(args.remedy or ())),
        inverse_lipschitz=args.inverse_lipschitz,
        pixels=pixels,
        **reconstruction_of(args),
    )
    if not silent:
        print(data_lines(dataset))
    with (
        _members(args, folder) as store,
        progress_bars(silent) as progress,
        _runner(args.scheduler, args.tensorboard) as make_runner,
    ):
        plan = replace(plan, store=store)
        comparison = run_comparison(dataset, spec, plan, progress, make_runner)
        sheets = draw_pictures(dataset, spec, plan, comparison, make_runner)
    results = ("comparison", "curves", "phases", "summary", "report", "run")
    written = (*results, *FIGURES, *SHEETS)
    with all_or_nothing(folder, outputs=written) as staged:
        comparison.write(staged)
        figures = save_figures(comparison, staged) + save_sheets(sheets, staged)
        write_report(comparison, staged, figures)
        write_run_file(staged, "linvae compare", args)
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
    if args.json:
        print_json(comparison.to_json())
    elif not args.quiet:
        render_text(comparison)
        print(f"files: {folder}/report.html, comparison.csv, summary.json, figures (PNG, PDF)")


def _pixels(dataset: Dataset) -> int:
    """Of an image; 0 of what is none."""
    layout = dataset.image_layout()
    return layout.shape[0] * layout.shape[1] if layout else 0


def _any_of_images(args: argparse.Namespace) -> bool:
    """True where a network has maps: at 64x64 pixels an hour of a core, as it is then."""
    from linvae.models import Architecture

    return any(Architecture(name).needs_image for name in args.architecture or ())


@contextmanager
def _members(args: argparse.Namespace, folder: Path) -> Iterator[CellStore | None]:
    """Where finished members are kept; without --store until the run has ended.

    Workers of a scheduler need a folder that they can see: only --store.
    """
    from linvae.train import CellStore

    if args.store or args.scheduler:
        yield CellStore(args.store) if args.store else None
        return
    kept = folder / UNFINISHED
    try:
        yield CellStore(kept)
    finally:
        with suppress(OSError):  # nothing was trained: nothing is left
            kept.rmdir()


def _spec(args: argparse.Namespace) -> LinearSpec:
    """The model of the preset, or of the options."""
    from linvae.pipeline import default_spec

    if args.preset is None:
        return default_spec(args.model, args.latent_dim, args.decoder_variance)
    return _preset(args).spec


def _preset(args: argparse.Namespace) -> Preset:
    from linvae.models import PRESETS

    return PRESETS[args.preset]


def _network_options(args: argparse.Namespace) -> dict[str, Any]:
    """Sizes of the networks: of the preset, and what was given."""
    sizes: dict[str, Any] = {}
    if args.preset is not None:
        network = _preset(args).architecture
        plain = asdict(type(network)(network.name))
        sizes = {k: v for k, v in asdict(network).items() if v != plain[k]}
    given = {name: getattr(args, name) for name in ("hidden", "depth", "activation", "channels")}
    given = {name: value for name, value in given.items() if value is not None}
    return sizes | given | ({"skip": True} if args.skip else {})


@contextmanager
def _runner(
    scheduler: str | None, tensorboard: Path | None
) -> Iterator[Callable[[TrainingData], Runner]]:
    """What trains: this process, or the workers of a scheduler."""
    from linvae.jobs import LocalRunner

    if tensorboard is not None:
        from linvae.train import TensorBoard

        with TensorBoard(tensorboard) as board:
            yield lambda data: LocalRunner(data, partial(_log, board))
        return
    if scheduler is None:
        yield LocalRunner
        return
    from linvae.cluster import ClusterRunner, connect

    client = connect(scheduler)
    try:
        yield lambda data: ClusterRunner(client, data)
    finally:
        client.close()


def _log(board: TensorBoard, job: Job[Any], rows: list[dict[str, float]]) -> None:
    """Rows of a sweep, each member in a run of its own name."""
    from linvae.jobs import SweepJob

    assert isinstance(job, SweepJob)  # no other logs
    what = f"{job.architecture.name} + {job.remedy_name}".removesuffix(" + ")
    for row in rows:
        beta = job.spec.betas[0] * job.factors[int(row["point"])]
        board.add(f"{what}, beta {beta:.4g}, seed {row['seed']:.0f}", row)


if __name__ == "__main__":
    sys.exit(main())
