"""Nonlinear thresholds over the suite: predicted, observed, and everything known about each.

    python -m analysis.nonlinear_thresholds [--data-dir DIR] [--effort X] [--batch-size N]
        [--seeds N] [--image-size N] [--datasets ...] [--models ...] [--architectures ...]
        [--out FILE] [--members FOLDER]
    python -m analysis.nonlinear_thresholds --table          # the rows of FILE as Markdown

One row per data set, model, network and level; factors are over the linear prediction. Rows that
FILE has, with the same version, steps, batches and size of images, are kept; members of a run that
was stopped are kept in FOLDER. Images of N pixels a side; not given, as published.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import linvae
from linvae.comparison import Comparison, Threshold, write_text
from linvae.data import Dataset, load_dataset
from linvae.metrics import CONTROL_BATCH_SIZE
from linvae.pipeline import default_spec, make_plan, run_comparison
from linvae.train import CellStore
from linvae.verdicts import cause

DATASETS = ("digits", "mnist", "fashion-mnist", "omniglot", "celeba", "ffhq")
MODELS = ("vae", "cvae", "hvae")
OPTIONS: dict[str, dict[str, Any]] = {"mlp": {}, "conv": {"channels": (8, 16)}}
EVIDENCE = ("certified_beta", "local_beta", "residual_beta", "bracket_low", "bracket_high")
COLUMNS = {
    "locator": "locator",
    "certified_beta": "certified",
    "bracket_low": "bracket from",
    "bracket_high": "to",
    "local_beta": "local",
    "residual_beta": "residual",
}


def compare(
    dataset: Dataset, model: str, architecture: str, args: argparse.Namespace
) -> Comparison:
    """Thresholds alone, of one unit per level."""
    plan = make_plan(
        architectures=(architecture,),
        n_seeds=args.seeds,
        effort=args.effort,
        options=OPTIONS[architecture],
        store=CellStore(args.members),
    )
    plan = replace(plan, sweep=False, control_batch_size=args.batch_size)
    return run_comparison(dataset, default_spec(model, 1, 1.0), plan)


def rows(
    comparison: Comparison, seconds: float, image_size: int | None = None
) -> Iterator[dict[str, Any]]:
    """One per level; None where there is no value."""
    settings = comparison.settings
    bounds = settings["bounds_of_any_network"] or {}
    for threshold in comparison.thresholds():
        at = {"architecture": threshold.architecture, "level": threshold.level}
        why = cause(comparison, threshold)
        training = settings["training"][f"{threshold.architecture}, control of level 1"]
        yield {
            "data": settings["dataset"], "sha256": settings["data_sha256"],
            "n": settings["n_samples"], "dim": settings["target_dim"], "image_size": image_size,
            "model": settings["model"], **at,
            "predicted_beta": threshold.predicted,
            "locator": _locator(threshold),
            **{name: _spread(comparison, name, at, threshold.predicted) for name in EVIDENCE},
            "universal": [
                finite(bounds.get(name, math.nan) / threshold.predicted)
                for name in ("found", "proven")
            ] if threshold.level == 1 else [None, None],
            "leading_skewness": settings["leading_skewness"],
            "slope_per_nat": finite(threshold.slope),
            "largest_drift": finite(_largest_drift(comparison, at)),
            "cause": why and {"name": why.name, "text": why.text},
            "steps": training["steps"], "batch_size": training["batch_size"],
            "learning_rate": training["learning_rate"],
            "n_seeds": len(settings["seeds"]), "version": settings["version"],
            "seconds": round(seconds),
        }  # fmt: skip


def _largest_drift(comparison: Comparison, at: dict[str, Any]) -> float:
    drifts = [abs(row.observed) for row in comparison.select("control_drift", **at)]
    return max((d for d in drifts if math.isfinite(d)), default=math.nan)


def _locator(threshold: Threshold) -> list[float | None]:
    ends = (threshold.observed, threshold.low, threshold.high)
    return [finite(value / threshold.predicted) for value in ends]


def _spread(
    comparison: Comparison, quantity: str, at: dict[str, Any], predicted: float
) -> list[float | None]:
    return spread([row.observed / predicted for row in comparison.select(quantity, **at)])


def spread(values: Iterable[float]) -> list[float | None]:
    """Mean, least and largest of the values of seeds, None where there is none."""
    found = [float(v) for v in values if not math.isnan(v)]
    if not found:
        return [None, None, None]
    return [finite(v) for v in (statistics.fmean(found), min(found), max(found))]


def finite(value: float) -> float | None:
    """Four decimals; None for what JSON has no number for."""
    return round(value, 4) if math.isfinite(value) else None


def table(found: list[dict[str, Any]]) -> str:
    """Markdown: mean of seeds with their range."""
    names = (
        "data", "model", "network", "level", *COLUMNS.values(), "universal", "skewness", "why",
        "steps x batch",
    )  # fmt: skip
    lines = [names, ("---",) * len(names)]
    for row in found:
        universal = row["universal"]
        lines.append(
            (
                sized(row), row["model"], row["architecture"], str(row["level"]),
                *(words(row[name]) for name in COLUMNS),
                "-" if None in universal else f"{universal[0]:.2f} / {universal[1]:.2f}",
                f"{row['leading_skewness']:.2f}",
                row["cause"]["name"] if row["cause"] else "-",
                f"{row['level'] * row['steps']} x {row['batch_size']}",
            )
        )  # fmt: skip
    return markdown(lines)


def sized(row: dict[str, Any]) -> str:
    """Name of the data, with the size of images that are not as published."""
    size = row.get("image_size")
    return row["data"] if size is None else f"{row['data']}, {size} px"


def markdown(lines: Iterable[Iterable[str]]) -> str:
    """Cells of every line, the header and what is under it among them, as a Markdown table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def words(found: list[float | None]) -> str:
    """Mean with the range; a level that some seeds never lose is above the least."""
    mean, low, high = found
    if mean is None:
        return "-" if low is None else f"above {low:.2f}"
    return f"{mean:.3f} ({low:.3f}-{high:.3f})"


def case_parser(
    description: str, out: Path, datasets: Iterable[str] | None = None
) -> argparse.ArgumentParser:
    """Which cases, where the data are and where to write: `datasets` None, all of the rows."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--datasets", nargs="+", default=datasets)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--architectures", nargs="+", default=tuple(OPTIONS))
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--members", type=Path, default=Path("results/members"))
    parser.add_argument("--table", action="store_true", help="print OUT, train nothing")
    return parser


def main() -> None:
    """Measure what is missing and write the JSON after every case."""
    parser = case_parser(__doc__.splitlines()[0], Path(__file__).with_suffix(".json"), DATASETS)
    parser.add_argument("--effort", type=float, default=1.0, help="times the default steps")
    parser.add_argument("--batch-size", type=int, default=CONTROL_BATCH_SIZE)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--image-size", type=int)
    args = parser.parse_args()
    found = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
    if args.table:
        print(table(found))
        return
    plan = make_plan(effort=args.effort)
    asked = (linvae.__version__, plan.config.steps, args.batch_size, args.seeds)
    done = {
        (row["data"], row["model"], row["architecture"])
        for row in found
        if (row["version"], row["steps"], row["batch_size"], row["n_seeds"]) == asked
        and row.get("image_size") == args.image_size
        and row["learning_rate"] == plan.config_for(row["architecture"], level=1).learning_rate
    }
    for architecture, name, model in itertools.product(
        args.architectures, args.datasets, args.models
    ):
        if (name, model, architecture) in done:
            continue
        dataset = load_dataset(
            name,
            data_dir=args.data_dir,
            conditional=model == "cvae",
            image_size=args.image_size,
        )
        start = time.perf_counter()
        try:
            comparison = compare(dataset, model, architecture, args)
        except ValueError as error:
            if "explains the target" not in str(error):
                raise
            print(f"{name} {model} {architecture}: {error}", flush=True)  # nothing to locate
            continue
        new = list(rows(comparison, time.perf_counter() - start, args.image_size))
        found += new
        print(table(new), flush=True)
        write_text(
            args.out, json.dumps({"version": linvae.__version__, "rows": found}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
