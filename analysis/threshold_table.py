"""One Markdown table of the thresholds of several `compare` runs.

    python analysis/threshold_table.py results/omniglot-vae results/digits-hvae ...

Reads the summary.json of each folder; ratios are observed over predicted, mean and range of seeds.
"""

from __future__ import annotations

import sys
from pathlib import Path

from linvae.comparison import Comparison, Threshold
from linvae.wording import Spread, number

HEADER = ("data", "model", "n x dim", "level", "predicted beta", "linear", "mlp", "minutes")


def ratio(threshold: Threshold) -> str:
    """Mean of observed / predicted and its range, with the number of seeds where not all did."""
    if not threshold.seeds:
        return "no estimate"
    ends = (threshold.observed, threshold.low, threshold.high)
    mean, low, high = (value / threshold.predicted for value in ends)
    return Spread(mean, low, high, threshold.seeds).text(lambda value: f"{value:.3f}")


def rows(folder: Path) -> list[tuple[str, ...]]:
    """One row per level."""
    comparison = Comparison.read(folder)
    settings = comparison.settings
    found = {(t.level, t.architecture): t for t in comparison.thresholds()}
    size = f"{settings['n_samples']} x {settings['target_dim']}"
    minutes = f"{settings['seconds']['total'] / 60:.1f}"
    return [
        (
            settings["dataset"], settings["model"], size, str(level),
            number(comparison.critical_beta(level)),
            *(ratio(found[level, a]) if (level, a) in found else "-" for a in ("linear", "mlp")),
            minutes,
        )
        for level in comparison.levels
    ]  # fmt: skip


def main() -> None:
    """Print the table."""
    lines = [HEADER, ("---",) * len(HEADER)]
    for folder in sys.argv[1:]:
        lines += rows(Path(folder))
    print("\n".join("| " + " | ".join(line) + " |" for line in lines))


if __name__ == "__main__":
    main()
