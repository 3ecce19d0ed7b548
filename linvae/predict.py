"""`python -m linvae.predict`: thresholds, rates and advice from the data alone, in seconds.

data -> moments -> solve over a grid -> advice. Nothing is trained, and no formula stands here: see
`linvae.theory` and `linvae.theory.advice`. Exit code 0 = ran, 2 = usage or unusable data, 3 = data
missing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linvae.advice_words import now_words, units_text, why_words
from linvae.cli import (
    Parser,
    add_data_arguments,
    add_output_arguments,
    all_or_nothing,
    check_writable,
    exit_codes,
    load_named,
    positive_float,
    positive_int,
    print_json,
    progress_bars,
    write_run_file,
)

if TYPE_CHECKING:
    from linvae.data import Dataset
    from linvae.data.own import Batch, OwnData
    from linvae.moments import Moments
    from linvae.report import Table
    from linvae.spec import LinearSpec
    from linvae.theory.advice import Advice

MODELS = ("vae", "cvae", "hvae")
OF_DATASETS = ("split", "image_size", "max_samples", "data_dir")
OF_FILES = ("array", "scale", "condition_dim")
GRID = 7  # betas from half the lowest threshold to a quarter above the highest
MODES_SHOWN = 8
EXAMPLES = """\
examples:
  python -m linvae.predict --data latents.npy --keep-units 4
  python -m linvae.predict --data table.csv --condition-dim 3       its first 3 columns are given
  python -m linvae.predict --data photos/ --scale 0.00392157        pixels to [0, 1]
  python -m linvae.predict --dataset mnist --rate 10 --squared-error 20
  python -m linvae.predict --dataset digits --model hvae --beta 0.5 --beta 1 --json
"""


def parser() -> Parser:
    """All options, with units and defaults."""
    p = Parser(
        prog="linvae predict",
        description="Posterior collapse of linear VAEs on your data: closed forms, no training.",
        examples=EXAMPLES,
        config=True,
    )
    own = p.add_argument_group("your own data")
    own.add_argument(
        "--data", type=Path, help=".npy, .npz, .csv, .parquet, .h5, or a folder of images"
    )
    own.add_argument("--array", help="name of the array in an .npz or .h5 file")
    own.add_argument("--condition-dim", type=positive_int, help="columns that are given, the first")
    own.add_argument("--scale", type=positive_float, help="factor on all values (default 1)")
    add_data_arguments(p)
    p.add_argument("--model", choices=MODELS, help="default vae; cvae where there is a condition")
    p.add_argument("--latent-dim", type=positive_int, default=8, help="units per level, default 8")
    p.add_argument(
        "--decoder-variance",
        type=positive_float,
        action="append",
        help="variance of p(y|z), data units squared (default 1); repeat for a grid",
    )
    p.add_argument(
        "--beta",
        type=positive_float,
        action="append",
        help="weight of the KL, no unit; repeat for a grid (default: around the thresholds)",
    )
    asked = p.add_argument_group("advice: which beta, or decoder variance")
    asked.add_argument("--keep-units", type=int, metavar="K", help="keeps K units active")
    asked.add_argument("--rate", type=float, metavar="NATS", help="spends so many nats in all")
    asked.add_argument(
        "--squared-error", type=float, metavar="E", help="data units squared, sum over dimensions"
    )
    p.add_argument("--out", type=Path, help="folder for prediction.json (default: none written)")
    add_output_arguments(p, json="print all numbers as JSON", quiet="print the advice only")
    p.set_defaults(dataset=None)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    with exit_codes(arguments) as status:
        args = _parse(arguments)
        if args.out:
            check_writable(args.out)
        data = _load(args)
        prediction = _predict(args, data)
        if args.out:
            _write(args, prediction)
        if args.json:
            print_json(prediction.to_json())
        elif args.quiet:
            print(*prediction.advice, sep="\n")
        else:
            _render(prediction)
    return status.code


def _write(args: argparse.Namespace, prediction: Prediction) -> None:
    """prediction.json, and run.toml that makes it again."""
    from linvae.comparison import write_text

    with all_or_nothing(args.out, outputs=("prediction", "run")) as staged:
        write_text(staged / "prediction.json", json.dumps(prediction.to_json(), indent=2) + "\n")
        write_run_file(staged, "linvae predict", args)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments, none of them idle."""
    p = parser()
    args = p.parse_args(argv)
    if args.data and args.dataset:
        p.error("--data and --dataset are two sources: leave one of them out")
    idle, where = (OF_DATASETS, "--data") if args.data else (OF_FILES, "--dataset")
    for name in idle:
        if getattr(args, name) is not None:
            p.error(f"--{name.replace('_', '-')} has no effect with {where}: leave it out")
    for name in ("keep_units", "rate", "squared_error"):
        if args.model == "hvae" and getattr(args, name) is not None:
            p.error(f"--{name.replace('_', '-')} is for vae and cvae: hvae has one price per level")
    args.dataset = args.dataset or "digits"
    return args


# --- data ---------------------------------------------------------------------------------------


def _load(args: argparse.Namespace) -> Dataset | OwnData:
    if args.data is None:
        return load_named(args)
    from linvae.data.own import open_own_data

    return open_own_data(
        args.data,
        array=args.array,
        condition_dim=args.condition_dim or 0,
        scale=args.scale or 1.0,
    )


def _moments(args: argparse.Namespace, data: Dataset | OwnData) -> Moments:
    from linvae.data import Dataset
    from linvae.moments import Moments

    _refuse_too_wide(data)
    if isinstance(data, Dataset):
        return Moments.from_data(data.target, data.condition)
    with progress_bars(args.quiet or args.json) as progress:
        return Moments.from_batches(_told(data, progress))


def _told(data: OwnData, progress: Callable[[str, int, int], None] | None) -> Iterator[Batch]:
    """The batches; `progress` hears of every one."""
    done = 0
    for batch in data.batches():
        yield batch
        done += len(batch[0] if isinstance(batch, tuple) else batch)
        if progress:
            progress("reading samples", done, data.n_samples)


def _refuse_too_wide(data: Dataset | OwnData) -> None:
    """Moments and their decomposition hold about four matrices of doubles."""
    needed = 4 * 8 * (data.target_dim + data.condition_dim) ** 2
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise ValueError(
            f"{data.name} has {data.target_dim + data.condition_dim} dimensions, whose covariance "
            f"takes {needed / 2**30:.0f} GiB to decompose, and this machine has "
            f"{there / 2**30:.0f}: shrink the images, or leave columns out"
        )


def _model(args: argparse.Namespace, data: Dataset | OwnData) -> LinearSpec:
    """The spec of `--model`, which must fit what the data give."""
    from linvae.spec import default_spec

    model = args.model or ("cvae" if data.condition_dim else "vae")
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
    spec = default_spec(model, args.latent_dim, (args.decoder_variance or [1.0])[0])
    return spec.scale_betas(args.beta[0]) if args.beta else spec


# --- prediction ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """One optimum of the grid; nats per sample, squared error in data units squared."""

    beta: float
    decoder_variance: float
    active_units: tuple[int, ...]
    rates_nats: tuple[float, ...]
    distortion_nats: float
    squared_error: float
    negative_elbo_nats: float
    negative_log_likelihood_nats: float


@dataclass(frozen=True, eq=False)
class Prediction:
    """Everything that is printed."""

    data: str
    note: str
    spec: LinearSpec
    thresholds: list[dict[str, Any]]
    grid: list[Point]
    asked: list[dict[str, Any]]
    advice: list[str]

    def to_json(self) -> dict[str, Any]:
        """The numbers; NaN as null, infinities as text."""
        from linvae.comparison import json_safe
        from linvae.version import __version__

        content = {
            "linvae": __version__,
            "data": self.data,
            "note": self.note,
            "spec": repr(self.spec),
            "thresholds": self.thresholds,
            "predictions": [asdict(point) for point in self.grid],
            "asked": self.asked,
            "advice": self.advice,
        }
        safe: dict[str, Any] = json_safe(content)
        return safe


def _predict(args: argparse.Namespace, data: Dataset | OwnData) -> Prediction:
    spec = _model(args, data)
    moments = _moments(args, data)
    betas = sorted(set(args.beta)) if args.beta else _betas(spec, moments)
    variances = sorted(set(args.decoder_variance or [1.0]))
    thresholds = _thresholds(spec, moments)
    if not thresholds:
        raise ValueError(
            f"the condition of {data.name} explains all of its target: nothing is left for latents"
        )
    asked = list(_asked(args, spec, moments, len(thresholds)))
    return Prediction(
        data=data.describe(),
        note=data.note,
        spec=spec,
        thresholds=thresholds,
        grid=[_point(args, spec, moments, beta, s) for s in variances for beta in betas],
        asked=[{"asked": words, **advice.to_rows()[0]} for words, advice in asked],
        advice=[
            *now_words(spec, moments),
            *(_words(words, advice) for words, advice in asked),
            *why_words(spec, moments),
        ],
    )


def _betas(spec: LinearSpec, moments: Moments) -> list[float]:
    """A grid around the thresholds, two digits each, and beta = 1."""
    import numpy as np

    from linvae.theory import solve

    critical = solve(spec, moments).level_critical_betas
    critical = critical[np.isfinite(critical) & (critical > 0)]
    if critical.size == 0:
        return [1.0]
    low, high = max(critical.min(), critical.max() / 1e3), critical.max()
    grid = np.geomspace(low / 2, 1.25 * high, GRID)
    return sorted({1.0, *(float(f"{beta:.2g}") for beta in grid)})


def _point(
    args: argparse.Namespace, spec: LinearSpec, moments: Moments, beta: float, s: float
) -> Point:
    from linvae.spec import default_spec
    from linvae.theory import solve
    from linvae.theory.marginal import log_likelihood

    name = {"VAESpec": "vae", "CVAESpec": "cvae"}.get(type(spec).__name__, "hvae")
    at = default_spec(name, args.latent_dim, s).scale_betas(beta)
    solution = solve(at, moments)
    return Point(
        beta=beta,
        decoder_variance=s,
        active_units=tuple(solution.active_units.tolist()),
        rates_nats=tuple(solution.rates.tolist()),
        distortion_nats=solution.distortion,
        squared_error=solution.squared_error,
        negative_elbo_nats=solution.distortion + float(solution.rates.sum()),
        negative_log_likelihood_nats=-log_likelihood(at, moments, solution.weights),
    )


def _thresholds(spec: LinearSpec, moments: Moments) -> list[dict[str, Any]]:
    """One row per mode that has a unit."""
    from linvae.spec import CVAESpec
    from linvae.theory import solve
    from linvae.theory.advice import mode_correlations

    solution = solve(spec, moments)
    with_unit = min(max(spec.latent_dims), len(solution.mode_variances))
    rows: list[dict[str, Any]] = [
        {
            "mode": mode + 1,
            "variance": float(solution.mode_variances[mode]),
            "critical_betas": solution.level_critical_betas[:, mode].tolist(),
            "critical_decoder_variance": float(solution.critical_decoder_variance[mode]),
        }
        for mode in range(with_unit)
        if solution.mode_variances[mode] > 0
    ]
    if isinstance(spec, CVAESpec):
        for row, found in zip(rows, mode_correlations(spec, moments).to_rows(), strict=False):
            row |= {key: found[key] for key in ("correlation", "critical_correlation")}
    return rows


# --- advice -------------------------------------------------------------------------------------


def _asked(
    args: argparse.Namespace, spec: LinearSpec, moments: Moments, most_units: int
) -> Iterator[tuple[str, Advice]]:
    """What was asked for; how all units stay, where nothing was."""
    from linvae.spec import VAESpec
    from linvae.theory.advice import keep_units, reach_error, reach_rate

    if not isinstance(spec, VAESpec):
        return
    units = args.keep_units
    if units is None and args.rate is None and args.squared_error is None:
        units = most_units
    if units is not None:
        yield f"To keep {units_text(units)}", keep_units(spec, moments, units)
    if args.rate is not None:
        yield f"To spend {args.rate:g} nats", reach_rate(spec, moments, args.rate)
    if args.squared_error is not None:
        advice = reach_error(spec, moments, args.squared_error)
        yield f"For a squared error of {args.squared_error:g}", advice


def _words(asked: str, advice: Advice) -> str:
    """One sentence: beta, or the decoder variance, and what one has then."""
    spec = advice.spec
    beta = _value("beta", advice.beta, advice.beta_range)
    s = _value("decoder variance", advice.decoder_variance, advice.decoder_variance_range)
    return (
        f"{asked}: {beta} at decoder variance {float(spec.decoder_variance):g}, or {s} at beta "
        f"{spec.beta:g}; then {units_text(advice.active_units)} active, rate "
        f"{advice.rate_nats:.4g} nats, squared error {advice.squared_error:.4g}."
    )


def _value(name: str, value: float, bounds: tuple[float, float]) -> str:
    """`name` and its value, with the interval that does as well."""
    low, high = bounds
    if low == high:
        return f"{name} {value:.4g}"
    if low == 0:
        return f"{name} below {high:.4g} (say {value:.4g})"
    if math.isinf(high):
        return f"{name} {low:.4g} or more"
    return f"{name} from {low:.4g} to {high:.4g} (say {value:.4g})"


# --- text ---------------------------------------------------------------------------------------


def _render(prediction: Prediction) -> None:
    """Data, thresholds, grid and advice; plain text when piped."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    from linvae.report import rich_table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=100)
    console.print(f"data: {prediction.data}", markup=False)
    for line in (prediction.note, f"{prediction.spec}, theory only"):
        if line:
            console.print(Padding(Text(line), (0, 0, 0, 2), expand=False))
    for table in (_threshold_table(prediction), _grid_table(prediction)):
        console.print(f"\n{table.caption}", style="bold", markup=False)
        console.print(rich_table(table))
    console.print("\nAdvice", style="bold")
    for line in prediction.advice:
        console.print(Padding(Text(line), (0, 0, 0, 2), expand=False))


def _threshold_table(prediction: Prediction) -> Table:
    from linvae.report import Table
    from linvae.wording import number

    levels = len(prediction.spec.latent_dims)
    betas = (
        ("critical beta",)
        if levels == 1
        else tuple(f"level {level + 1} critical beta" for level in range(levels))
    )
    extra = [k for k in ("correlation", "critical_correlation") if k in prediction.thresholds[0]]
    header = (
        "mode",
        "variance",
        *betas,
        "critical decoder variance",
        *(name.replace("_", " ") for name in extra),
    )
    rows = tuple(
        (
            str(row["mode"]),
            number(row["variance"]),
            *map(number, row["critical_betas"]),
            number(row["critical_decoder_variance"]),
            *(number(row[name]) for name in extra),
        )
        for row in prediction.thresholds[:MODES_SHOWN]
    )
    hidden = len(prediction.thresholds) - len(rows)
    more = f" ({hidden} weaker ones not shown, see --json)" if hidden else ""
    return Table(f"Thresholds: a mode is collapsed above{more}", header, rows)


def _grid_table(prediction: Prediction) -> Table:
    from linvae.report import Table
    from linvae.wording import number, plain

    rows = tuple(
        (
            plain(p.beta),
            plain(p.decoder_variance),
            ", ".join(map(str, p.active_units)),
            ", ".join(number(rate) for rate in p.rates_nats),
            number(p.distortion_nats),
            number(p.squared_error),
            number(p.negative_elbo_nats),
            number(p.negative_log_likelihood_nats),
        )
        for p in prediction.grid
    )
    header = (
        "beta",
        "decoder variance",
        "active units",
        "rate nats",
        "distortion nats",
        "squared error",
        "-ELBO nats",
        "-log p(y) nats",
    )
    return Table("Predicted optimum", header, rows)


if __name__ == "__main__":
    sys.exit(main())
