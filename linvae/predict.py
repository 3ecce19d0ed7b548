"""`python -m linvae.predict`: thresholds, rates and advice from the data alone, in seconds.

data -> moments -> solve over a grid -> advice. Nothing is trained, and no formula stands here: see
`linvae.theory` and `linvae.theory.advice`. Exit code 0 = ran, 2 = usage or unusable data, 3 = data
missing.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linvae.advice_words import now_words, units_text, why_words
from linvae.cli import (
    Parser,
    add_output_arguments,
    add_own_data_arguments,
    count,
    exit_codes,
    fitting_model,
    non_negative_float,
    open_source,
    positive_float,
    positive_int,
    print_json,
    refuse_idle_data,
    variance,
    write_run_file,
)
from linvae.measured import moments_of
from linvae.result_folder import all_or_nothing, alone_in, check_writable

if TYPE_CHECKING:
    from linvae.data import Dataset
    from linvae.data.own import OwnData
    from linvae.moments import Moments
    from linvae.report import Table
    from linvae.spec import LinearSpec
    from linvae.theory.advice import Advice, BetaAdvice
    from linvae.theory.solution import Solution

MODELS = ("vae", "cvae", "hvae")
GRID = 7  # betas from half the lowest threshold, or 1/2000 of the highest, to a quarter above that
CALM = 2048  # dimensions up to which one thread of linear algebra is enough, a minute at most
MODES_SHOWN = 8
OPTIONS = {"units": "--keep-units", "rate_nats": "--rate", "squared_error": "--squared-error"}
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
    add_own_data_arguments(p)
    p.add_argument("--model", choices=MODELS, help="default vae; cvae where there is a condition")
    p.add_argument("--latent-dim", type=positive_int, default=8, help="units per level, default 8")
    p.add_argument(
        "--decoder-variance",
        type=variance,
        action="append",
        help="variance of p(y|z), data units squared, or learned (default 1); repeat for a grid",
    )
    p.add_argument(
        "--beta",
        type=positive_float,
        action="append",
        help="weight of the KL, no unit; repeat for a grid (default: around the thresholds)",
    )
    asked = p.add_argument_group("advice: which beta, or decoder variance")
    asked.add_argument(
        "--keep-units", type=count, metavar="K", help="keeps K units active (default: all)"
    )
    asked.add_argument(
        "--rate",
        type=non_negative_float,
        metavar="NATS",
        help="spends so many nats (default: not asked)",
    )
    asked.add_argument(
        "--squared-error",
        type=positive_float,
        metavar="E",
        help="data units squared, sum over dimensions (default: not asked)",
    )
    p.add_argument("--out", type=Path, help="folder for prediction.json (default: none written)")
    add_output_arguments(p, json="print all numbers as JSON", quiet="print the advice only")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    with exit_codes(arguments) as status:
        args = _parse(arguments)
        if args.out:
            check_writable(args.out)
        data = open_source(args)
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
    from linvae.comparison import json_text, write_text

    with alone_in(args.out), all_or_nothing(args.out, outputs=("prediction", "run")) as staged:
        write_text(staged / "prediction.json", json_text(prediction.to_json()) + "\n")
        write_run_file(staged, "linvae predict", args)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments, none of them idle."""
    p = parser()
    args = p.parse_args(argv)
    refuse_idle_data(p, args)
    if args.model == "hvae" and "learned" in (args.decoder_variance or ()):
        p.error("--decoder-variance learned is for vae and cvae: give hvae a number")
    return args


def _model(args: argparse.Namespace, data: Dataset | OwnData) -> LinearSpec:
    """The spec of `--model`, which must fit what the data give."""
    from linvae.spec import default_spec

    model = fitting_model(args.model, data)
    spec = default_spec(model, args.latent_dim, (args.decoder_variance or [1.0])[0])
    return spec.scale_betas(args.beta[0]) if args.beta else spec


# --- prediction ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """One optimum of the grid; nats per sample, squared error in data units squared."""

    beta: float
    decoder_variance: float  # the optimal one where it is learned
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
    at: float | str  # the decoder variance that thresholds and advice are for
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
            "thresholds_at": {"beta": self.spec.betas[0], "decoder_variance": self.at},
            "thresholds": self.thresholds,
            "predictions": [asdict(point) for point in self.grid],
            "asked": self.asked,
            "advice": self.advice,
        }
        safe: dict[str, Any] = json_safe(content)
        return safe


def _predict(args: argparse.Namespace, data: Dataset | OwnData) -> Prediction:
    with _calm(data):
        return _prediction(args, data)


def _calm(data: Dataset | OwnData) -> AbstractContextManager[object]:
    """One thread of linear algebra: several wait for each other, turning, where cores are busy."""
    from threadpoolctl import threadpool_limits

    import linvae.theory  # noqa: F401  only libraries that are loaded are limited

    if data.target_dim + data.condition_dim > CALM:
        return nullcontext()
    calm: AbstractContextManager[object] = threadpool_limits(1, user_api="blas")
    return calm


def _prediction(args: argparse.Namespace, data: Dataset | OwnData) -> Prediction:
    spec = _model(args, data)
    moments = moments_of(data, silent=args.quiet or args.json)
    betas = sorted(set(args.beta)) if args.beta else _betas(spec, moments)
    variances = sorted(set(args.decoder_variance or [1.0]), key=str)
    variances.sort(key=lambda s: math.inf if s == "learned" else s)
    thresholds = _thresholds(spec, moments)
    if not thresholds:
        raise ValueError(
            f"the condition of {data.name} explains all of its target: nothing is left for latents"
        )
    _refuse_too_many_units(args, len(thresholds))
    with _by_option():
        asked = list(_asked(args, spec, moments, len(thresholds)))
    return Prediction(
        data=data.describe(),
        note=data.note,
        spec=spec,
        at=spec.decoder_variance,
        thresholds=thresholds,
        grid=[_point(args, spec, moments, beta, s) for s in variances for beta in betas],
        asked=[{"asked": words, **advice.to_rows()[0]} for words, advice in asked],
        advice=[
            *now_words(spec, moments, collapse=thresholds[0]["critical_betas"][0]),
            *(_words(words, advice) for words, advice in asked),
            *why_words(spec, moments),
        ],
    )


def _betas(spec: LinearSpec, moments: Moments) -> list[float]:
    """A grid around the thresholds, two digits each, and beta = 1."""
    import numpy as np

    from linvae.theory import solve

    critical = _critical_betas(spec, moments, solve(spec, moments))
    critical = critical[np.isfinite(critical) & (critical > 0)]
    if critical.size == 0:
        return [1.0]
    low, high = max(critical.min(), critical.max() / 1e3), critical.max()
    grid = np.geomspace(low / 2, 1.25 * high, GRID)
    return sorted({1.0, *(float(f"{beta:.2g}") for beta in grid)})


def _point(
    args: argparse.Namespace, spec: LinearSpec, moments: Moments, beta: float, s: Any
) -> Point:
    from linvae.spec import default_spec, model_name
    from linvae.theory import solve
    from linvae.theory.marginal import log_likelihood

    at = default_spec(model_name(spec), args.latent_dim, s).scale_betas(beta)
    solution = solve(at, moments)
    return Point(
        beta=beta,
        decoder_variance=solution.decoder_variance,
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
    critical = _critical_betas(spec, moments, solution)
    rows: list[dict[str, Any]] = [
        {
            "mode": mode + 1,
            "variance": float(solution.mode_variances[mode]),
            "critical_betas": critical[:, mode].tolist(),
            "critical_decoder_variance": float(solution.critical_decoder_variance[mode]),
        }
        for mode in range(with_unit)
        if solution.mode_variances[mode] > 0
    ]
    if isinstance(spec, CVAESpec) and spec.decoder_variance != "learned":
        for row, found in zip(rows, mode_correlations(spec, moments).to_rows(), strict=False):
            row |= {key: found[key] for key in ("correlation", "critical_correlation")}
    return rows


def _critical_betas(spec: LinearSpec, moments: Moments, solution: Solution) -> Any:
    """(levels, modes), those of a learned decoder variance too."""
    import numpy as np

    from linvae.spec import VAESpec
    from linvae.theory.modes import mode_decomposition
    from linvae.theory.vae import learned_critical_betas

    if not isinstance(spec, VAESpec) or spec.decoder_variance != "learned":
        return solution.level_critical_betas
    critical = learned_critical_betas(spec, mode_decomposition(spec, moments))
    beyond = np.full(len(solution.mode_variances) - len(critical), np.nan)
    return np.append(critical, beyond)[None]


# --- advice -------------------------------------------------------------------------------------


def _refuse_too_many_units(args: argparse.Namespace, most: int) -> None:
    """ValueError where more units are to be kept than can be active."""
    if args.keep_units is None or args.keep_units <= most:
        return
    few = most < args.latent_dim
    why = "the data have no more modes" if few else "or raise --latent-dim"
    raise ValueError(f"--keep-units {args.keep_units}: ask for {most} at most, {why}")


@contextmanager
def _by_option() -> Iterator[None]:
    """Refusals of the functions that are asked, with the option for their argument."""
    try:
        yield
    except ValueError as error:
        name, _, rest = str(error).partition("=")
        raise ValueError(f"{OPTIONS[name]} {rest}" if name in OPTIONS else str(error)) from error


def _asked(
    args: argparse.Namespace, spec: LinearSpec, moments: Moments, most_units: int
) -> Iterator[tuple[str, Advice | BetaAdvice]]:
    """What was asked for; how all units of one level stay, where nothing was."""
    from linvae.spec import VAESpec
    from linvae.theory.advice import keep_units, reach_error, reach_rate, search_beta

    units, level = args.keep_units, " on level 1" if len(spec.latent_dims) > 1 else ""
    if units is None and args.rate is None and args.squared_error is None and not level:
        units = most_units
    if isinstance(spec, VAESpec) and spec.decoder_variance != "learned":
        if units is not None:
            yield f"To keep {units_text(units)}", keep_units(spec, moments, units)
        if args.rate is not None:
            yield f"To spend {args.rate:g} nats", reach_rate(spec, moments, args.rate)
        if args.squared_error is not None:
            advice = reach_error(spec, moments, args.squared_error)
            yield f"For a squared error of {args.squared_error:g}", advice
        return
    if units is not None:
        yield f"To keep {units_text(units)}{level}", search_beta(spec, moments, units=units)
    if args.rate is not None:
        yield f"To spend {args.rate:g} nats", search_beta(spec, moments, rate_nats=args.rate)
    if args.squared_error is not None:
        found = search_beta(spec, moments, squared_error=args.squared_error)
        yield f"For a squared error of {args.squared_error:g}", found


def _words(asked: str, advice: Advice | BetaAdvice) -> str:
    """One sentence: beta, or the decoder variance, and what one has then."""
    from linvae.theory.advice import Advice

    if not isinstance(advice, Advice):
        beta = _value("beta", advice.beta, (advice.low, advice.high))
        levels = len(advice.rates_nats) > 1
        units = ", ".join(map(str, advice.active_units))
        then = f"{units} units on the levels" if levels else units_text(advice.active_units[0])
        return (
            f"{asked}: {beta}{', of level 1, the others in proportion' if levels else ''}; then "
            f"{then} active, rate {sum(advice.rates_nats):.4g} nats, squared error "
            f"{advice.squared_error:.4g}."
        )
    beta = _value("beta", advice.beta, advice.beta_range)
    s = _value("decoder variance", advice.decoder_variance, advice.decoder_variance_range)
    return (
        f"{asked}: {beta} at decoder variance {float(advice.spec.decoder_variance):g}, or {s} at "
        f"beta {advice.spec.beta:g}; then {units_text(advice.active_units)} active, rate "
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
    from rich.padding import Padding
    from rich.text import Text

    from linvae.report import rich_table, terminal

    console = terminal()
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
    return Table(f"Thresholds{_place(prediction)}: a mode is collapsed above{more}", header, rows)


def _place(prediction: Prediction) -> str:
    """Which point of a grid; the critical betas are of every beta, decoder variances of one."""
    places = []
    if len({point.decoder_variance for point in prediction.grid}) > 1:
        at = prediction.at
        places.append(f"{at} decoder variance" if at == "learned" else f"decoder variance {at:g}")
    if len({point.beta for point in prediction.grid}) > 1 and prediction.at != "learned":
        places.append(f"beta {prediction.spec.betas[0]:g}")
    return f" at {' and '.join(places)}" if places else ""


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
