"""Why nonlinear thresholds are not the linear ones, shown by one further run for each.

    python -m analysis.causes [--data-dir DIR] [--datasets ...] [--models ...] [--architectures ...]
        [--cause NAME] [--rows FILE] [--out FILE] [--members FOLDER]
    python -m analysis.causes --table                    # the rows of OUT as Markdown

A row of ROWS, nonlinear_thresholds.json, whose locator is outside 0.95-1.05 names a cause
(`linvae.verdicts.cause`). Here it is measured once more, same steps and seeds, with that cause
taken away. Ratios are over the linear prediction of the changed data, which is the same but where
residuals are exchanged:

| cause      | taken away by                                                                     |
|------------|-----------------------------------------------------------------------------------|
| skewness   | adding the mirror image of the data: no odd moment is left                        |
| regression | exchanging the residuals of linear regression between samples: nothing more can   |
|            | be known of the target from the condition, its mean or its spread (the prediction |
|            | moves by about dx/n)                                                              |
| features   | four times as many dense hidden units in the encoder, the decoder as it was       |
| line       | keeping only the leading component: no curve through others that one unit codes   |
| time       | twice the steps; so also unknown and bound                                        |

Predicted before the run: the shift log(ratio) goes; with twice the steps half of it, as of one that
falls with 1/steps, the slowest. "shown": more than half of what is predicted goes, no shift of half
the size appears on the other side, and no seed is among those before, which by chance three and
three do in a given direction once in twenty. What carries less than half is not the cause to name;
--cause tries another one.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import linvae
from analysis.nonlinear_thresholds import OPTIONS, case_parser, finite, markdown, spread, words
from linvae.comparison import write_text
from linvae.data import Dataset, load_dataset
from linvae.metrics import ThresholdEstimate, estimate_threshold
from linvae.models import Architecture
from linvae.moments import Moments
from linvae.pipeline import default_spec, make_plan, training_data
from linvae.spec import LinearSpec
from linvae.theory import solve
from linvae.train import CellStore, TrainConfig, pick_device

Array = npt.NDArray[np.float64]
Row = dict[str, Any]
Spread = list[float | None]  # mean, least and largest over seeds
INSIDE = (0.95, 1.05)
ROWS = Path(__file__).with_name("nonlinear_thresholds.json")
KEY = (
    "data", "sha256", "model", "architecture", "level", "steps", "batch_size", "n_seeds", "cause",
)  # fmt: skip
COLUMNS = (
    "data", "model", "network", "level", "cause", "further run", "before", "after", "predicted",
    "number", "was", "is", "share gone", "verdict",
)  # fmt: skip
LONGER, WIDER = 2, 4
SHARE = 0.5  # of the predicted change of the shift that must be seen, and of what may overshoot


@dataclass(frozen=True)
class Case:
    """Everything that decides a threshold: what an intervention may change."""

    dataset: Dataset
    spec: LinearSpec
    network: Architecture
    config: TrainConfig
    seeds: tuple[int, ...]
    level: int = 1


def as_measured(row: Row, dataset: Dataset) -> Case:
    """The case of a row of nonlinear_thresholds.json."""
    name = row["architecture"]
    effort = row["steps"] / TrainConfig().steps
    plan = make_plan(
        architectures=(name,), n_seeds=row["n_seeds"], effort=effort, options=OPTIONS[name]
    )
    plan = replace(plan, control_batch_size=row["batch_size"])
    spec = default_spec(row["model"], 1, 1.0)
    config = plan.config_for(name, row["level"])
    config = replace(config, learning_rate=row["learning_rate"])
    return Case(dataset, spec, plan.network(name), config, plan.seeds, row["level"])


def mirrored(case: Case) -> Case:
    """Every sample and its mirror image, 2 mean - sample: the same covariance, no odd moment.

    Condition and target together, which also takes even regressions away.
    """
    dataset = case.dataset
    if not case.network.needs_image:
        dataset = dataset.rotated_to_span()  # before there are twice as many samples
    both = {
        name: np.concatenate([v, 2 * v.mean(axis=0, dtype=np.float64) - v])
        for name, v in (("target", dataset.target), ("condition", dataset.condition))
        if v is not None
    }
    return replace(case, dataset=replace(dataset, **both, labels=None, sha256=""))


def exchanged(case: Case) -> Case:
    """Each target: its linear regression on the condition, and the residual of another sample."""
    if case.dataset.condition is None:
        raise ValueError(
            f"--cause regression needs a condition, which {case.dataset.name!r} has not here: "
            "choose rows with --models cvae"
        )
    linear, rest = _regression(case.dataset)
    return _with_target(case, linear + np.random.default_rng(0).permutation(rest))


def widened(case: Case) -> Case:
    """Hidden layers of the encoder `WIDER` times as wide; the decoder as it was.

    Except in a decoder of images, whose own encoder of the condition widens too.
    """
    hidden = tuple(WIDER * width for width in case.network.encoder_widths)
    network = replace(case.network, hidden=hidden, decoder_hidden=case.network.decoder_widths)
    return replace(case, network=network)


def longer(case: Case) -> Case:
    """`LONGER` times the steps."""
    return replace(case, config=replace(case.config, steps=LONGER * case.config.steps))


def straightened(case: Case) -> Case:
    """Only the leading component of what the condition leaves of the target: no curve in it."""
    linear, rest = _regression(case.dataset)
    axis = np.linalg.svd(rest, full_matrices=False)[2][0]
    return _with_target(case, linear + np.outer(rest @ axis, axis))


def _regression(dataset: Dataset) -> tuple[Array, Array]:
    """Linear regression of the target on the condition (its mean without one), and residual."""
    y = np.asarray(dataset.target, np.float64)
    linear = np.broadcast_to(y.mean(axis=0), y.shape)
    if dataset.condition is not None:
        x = dataset.condition - dataset.condition.mean(axis=0, dtype=np.float64)
        linear = linear + x @ np.linalg.lstsq(x, y - linear, rcond=None)[0]
    return linear, y - linear


def _with_target(case: Case, target: Array) -> Case:
    return replace(case, dataset=replace(case.dataset, target=target, labels=None, sha256=""))


@dataclass(frozen=True)
class Intervention:
    """A change of the case, in words too, and the share of the shift predicted to go with it."""

    change: Callable[[Case], Case]
    words: str
    quantity: str
    expected: float = 1.0


LONGER_RUN = Intervention(longer, "twice the steps", "largest drift", 1 - 1 / LONGER)
INTERVENTIONS = {
    "skewness": Intervention(mirrored, "data and their mirror image", "certified / predicted"),
    "regression": Intervention(exchanged, "residuals exchanged", "residual / predicted"),
    "features": Intervention(
        widened, "dense encoder layers four times as wide", "local / residual"
    ),
    "line": Intervention(straightened, "only the leading component kept", "slope per nat"),
    **dict.fromkeys(("time", "unknown", "bound"), LONGER_RUN),
}


def recorded(row: Row, quantity: str) -> float | None:
    """The supporting number of a row."""
    certified, residual, local = (
        row[f"{name}_beta"][0] for name in ("certified", "residual", "local")
    )
    return {
        "certified / predicted": certified,
        "residual / predicted": residual,
        "local / residual": local and finite(local / residual),
        "slope per nat": row["slope_per_nat"],
        "largest drift": row["largest_drift"],
    }[quantity]


def observed(found: ThresholdEstimate, predicted: float, quantity: str) -> float | None:
    """The same of the further run."""
    return {
        "certified / predicted": spread(found.certified_factors / predicted)[0],
        "residual / predicted": spread(found.residual_factors / predicted)[0],
        "local / residual": spread(found.local_factors / found.residual_factors)[0],
        "slope per nat": spread(found.slopes)[0],
        "largest drift": spread(np.abs(found.drifts).ravel())[2],
    }[quantity]


def measure(
    case: Case, store: CellStore | None = None, *, bracket: bool = False
) -> tuple[float, ThresholdEstimate]:
    """Predicted threshold and what is observed, both in factors on beta."""
    reduced = case.dataset.rotated_to_span()
    moments = Moments.from_data(reduced.target, reduced.condition)
    predicted = solve(case.spec, moments).level_critical_betas[case.level - 1, 0]
    data = training_data(case.dataset, reduced, case.network, pick_device())
    found = estimate_threshold(
        case.spec, data, architecture=case.network, level=case.level, seeds=case.seeds,
        config=case.config, store=store, bracket=bracket,
    )  # fmt: skip
    return float(predicted) / case.spec.betas[0], found


def verdict(before: Spread, after: Spread, expected: float = 1.0) -> tuple[float | None, str]:
    """Share of the shift that is gone, and whether that shows the cause."""
    if None in after:
        return None, "no threshold"
    (old, old_low, old_high), (new, low, high) = before, after
    gone = 1 - math.log(new) / math.log(old)
    apart = low > old_high or high < old_low
    shown = apart and SHARE * expected <= gone <= 1 + SHARE
    return round(gone, 3), "shown" if shown else "not shown"


def explain(row: Row, dataset: Dataset, store: CellStore | None = None) -> Row:
    """The further run of a row, and what it says."""
    start = time.perf_counter()
    chosen = INTERVENTIONS[row["cause"]]
    case = chosen.change(as_measured(row, dataset))
    certified = chosen.quantity.startswith("certified")  # by branches too, as in the row
    predicted, found = measure(case, store, bracket=certified)
    lost = np.isnan(found.critical_factors).any()  # a seed that reached too few set-points
    after = [None] * 3 if lost else spread(found.critical_factors / predicted)
    gone, word = verdict(row["locator"], after, chosen.expected)
    return {
        **{name: row[name] for name in KEY}, "intervention": chosen.words,
        "predicted_beta": predicted, "before": row["locator"], "after": after,
        "expected": finite(row["locator"][0] ** (1 - chosen.expected)),
        "quantity": chosen.quantity, "quantity_before": recorded(row, chosen.quantity),
        "quantity_after": observed(found, predicted, chosen.quantity),
        "gone": gone, "verdict": word, "control_steps": case.config.steps,
        "seconds": round(time.perf_counter() - start),
    }  # fmt: skip


def measured(path: Path, cause: str | None = None) -> list[Row]:
    """Rows that name a cause, `cause` instead of it."""
    rows = json.loads(path.read_text())["rows"]
    return [row | {"cause": cause or row["cause"]["name"]} for row in rows if row["cause"]]


def wanted(rows: list[Row], found: list[Row], args: argparse.Namespace) -> list[Row]:
    """Rows outside `INSIDE` that were asked for and have no further run yet."""
    done = {tuple(row[name] for name in KEY) for row in found}
    return [
        row
        for row in rows
        if row["locator"][0] is not None
        and not INSIDE[0] <= row["locator"][0] <= INSIDE[1]
        and row["data"] in (args.datasets or [row["data"]])
        and row["model"] in args.models
        and row["architecture"] in args.architectures
        and tuple(row[name] for name in KEY) not in done
    ]


def table(found: list[Row]) -> str:
    """Markdown: ratios as mean of seeds with their range."""
    lines: list[tuple[str, ...]] = [COLUMNS, ("---",) * len(COLUMNS)]
    for row in found:
        numbers = (_number(row[f"quantity_{when}"]) for when in ("before", "after"))
        lines.append(
            (
                row["data"], row["model"], row["architecture"], str(row["level"]), row["cause"],
                row["intervention"], words(row["before"]), words(row["after"]),
                _number(row["expected"]), row["quantity"], *numbers, _number(row["gone"]),
                row["verdict"],
            )
        )  # fmt: skip
    return markdown(lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def main() -> None:
    """Make the runs that are missing and write the JSON after every case."""
    parser = case_parser(__doc__.splitlines()[0], Path(__file__).with_suffix(".json"))
    parser.add_argument("--cause", choices=INTERVENTIONS, help="try this one instead")
    parser.add_argument("--rows", type=Path, default=ROWS)
    args = parser.parse_args()
    found = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
    if args.table:
        print(table(found))
        return
    for row in wanted(measured(args.rows, args.cause), found, args):
        conditional = row["model"] == "cvae"
        dataset = load_dataset(
            row["data"],
            data_dir=args.data_dir,
            conditional=conditional,
            image_size=row.get("image_size"),
        )
        found.append(explain(row, dataset, CellStore(args.members)))
        print(table(found[-1:]), flush=True)
        text = json.dumps({"version": linvae.__version__, "rows": found}, indent=1)
        write_text(args.out, text + "\n")


if __name__ == "__main__":
    main()
