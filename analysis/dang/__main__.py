"""`python -m analysis.dang`: train the experiments, write rows (CSV), settings (JSON), figures.

Exit codes: 0 = written, 2 = usage or unusable data, 3 = data missing.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib as mpl
import numpy as np
import torch

import linvae
from analysis.dang import NAMES
from analysis.dang.sweep import Row, Size, with_size
from figures.style import STYLE, csv_text
from linvae.cli import exit_codes, positive_int
from linvae.comparison import write_text
from linvae.plots import save_figure
from linvae.result_folder import check_writable

MEASURED = Path(__file__).with_name("measured")  # rows and settings kept with the code
# published: 28 x 28 pixels, all images, 64 latents, 100 epochs of 60,000 images in batches of 128
FULL = Size(
    image_size=None, samples=None, latent_dim=64, dim=128, steps=46_900, batch_size=128,
    learning_rate=1e-3,
)  # fmt: skip


def module_of(name: str) -> ModuleType:
    """The module of an experiment."""
    return importlib.import_module(f"analysis.dang.{name}")


def run(name: str, size: Size, folder: Path) -> list[Row]:
    """Train one experiment and write NAME.csv and NAME.json into `folder`."""
    module, start = module_of(name), time.perf_counter()
    size = size if size.architectures else with_size(size, architectures=module.ARCHITECTURES)
    rows: list[Row] = module.rows(size)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{name}.csv", csv_text(rows))
    seconds = time.perf_counter() - start
    record = _settings(size, seconds) | {"deviations": deviations(rows)}
    if hasattr(module, "rank_correlations"):
        record["rank_correlations"] = module.rank_correlations(rows)
    write_text(folder / f"{name}.json", json.dumps(record, indent=1) + "\n")
    return rows


def read_rows(name: str, folder: Path) -> list[Row]:
    """The rows that `run` wrote."""
    path = folder / f"{name}.csv"
    if not path.exists():
        raise ValueError(f"{path} is missing: python -m analysis.dang {name} --out {folder}")
    with path.open(encoding="utf-8") as stream:
        return [_typed(row) for row in csv.DictReader(stream)]


def _typed(row: dict[str, str]) -> Row:
    kinds: dict[str, Any] = {"level": int, "seed": int}
    kinds |= dict.fromkeys(("value", "predicted", "observed"), float)
    return {key: kinds.get(key, str)(text) for key, text in row.items()}


def draw(name: str, rows: list[Row], folder: Path) -> None:
    """NAME.png and NAME.pdf."""
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(STYLE):
        figure = module_of(name).draw(rows)
        for suffix in (".png", ".pdf"):
            save_figure(figure, folder / f"{name}{suffix}")


def deviations(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Typical and worst |mean over seeds - predicted| of every sweep, in units of the quantity.

    `range` is the spread of the predictions over the sweep, to compare with.
    """
    found = []
    keys = ("architecture", "setting", "level", "quantity")
    for case in dict.fromkeys(tuple(row[key] for key in keys) for row in rows):
        if case[0] == "theory":
            continue
        some = [row for row in rows if tuple(row[key] for key in keys) == case]
        gaps, predicted = [], []
        for value in dict.fromkeys(row["value"] for row in some):
            same = [row for row in some if row["value"] == value]
            predicted.append(same[0]["predicted"])
            seen = [row["observed"] for row in same if np.isfinite(row["observed"])]
            gaps += [abs(statistics.fmean(seen) - predicted[-1])] if seen else []
        found.append(
            dict(zip(keys, case, strict=True))
            | {
                "typical": round(statistics.median(gaps), 4) if gaps else None,
                "worst": round(max(gaps), 4) if gaps else None,
                "range": [min(predicted), max(predicted)],
            }
        )
    return found


def _settings(size: Size, seconds: float) -> dict[str, Any]:
    fields = asdict(size) | {"data_dir": None}
    return {
        "size": fields,
        "seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
        "versions": {
            "linvae": linvae.__version__,
            "numpy": np.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }


def parser() -> argparse.ArgumentParser:
    """All options."""
    p = argparse.ArgumentParser(prog="python -m analysis.dang", description=__doc__.splitlines()[0])
    p.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help="of: " + ", ".join(NAMES))
    p.add_argument("--dataset", default="mnist", help="images (default mnist; digits: no files)")
    p.add_argument("--data-dir", type=Path, help="folder with the files (else LINVAE_DATA)")
    p.add_argument("--out", type=Path, default=Path("results/dang"), help="default: %(default)s")
    p.add_argument("--seeds", type=positive_int, help="number of seeds, default 3")
    p.add_argument("--steps", type=positive_int, help="steps of training, default 1500")
    p.add_argument("--full", action="store_true", help="published sizes: hours on two cores")
    p.add_argument("--draw", action="store_true", help="only draw the rows kept with the code")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run or draw the experiments asked for."""
    arguments = parser()
    args = arguments.parse_args(argv)
    unknown = sorted(set(args.experiments) - set(NAMES))
    if unknown:
        arguments.error(f"experiment {unknown[0]!r} must be one of {', '.join(NAMES)}")
    seeds = None if args.seeds is None else tuple(range(args.seeds))
    size = with_size(
        FULL if args.full else Size(),
        dataset=args.dataset, data_dir=args.data_dir, seeds=seeds, steps=args.steps,
    )  # fmt: skip
    with exit_codes() as status:
        check_writable(args.out)
        for name in args.experiments or NAMES:
            start = time.perf_counter()
            rows = read_rows(name, MEASURED) if args.draw else run(name, size, args.out)
            draw(name, rows, args.out)
            print(f"{name:12s}{time.perf_counter() - start:7.1f} s  {args.out}", flush=True)
    return status.code


if __name__ == "__main__":
    sys.exit(main())
