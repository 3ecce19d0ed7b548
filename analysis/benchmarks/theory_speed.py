"""Speed of moments and of the closed forms, as ratios in one run; writes theory_speed.json.

    python analysis/benchmarks/theory_speed.py [--out FILE] [--repeats N]

Moments of 60,000 x 784 against scikit-learn's PCA(svd_solver="covariance_eigh") on the same array
(which also decomposes, and which computes in the array's own precision: float32 input is summed in
float32 there and in float64 here), in turn; solving 784 modes x 3 levels, first call (decomposes)
and later ones.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA

from linvae import HVAESpec, Moments, solve


def seconds(function: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def moments_against_pca(dtype: str, repeats: int) -> dict[str, float]:
    """Median seconds of both and the median of their ratio, in turn."""
    data = np.random.default_rng(0).normal(size=(60_000, 784)).astype(dtype) + 3
    pairs = [
        (
            seconds(lambda: Moments.from_data(data)),
            seconds(lambda: PCA(svd_solver="covariance_eigh").fit(data)),
        )
        for _ in range(repeats)
    ]
    ours, theirs = zip(*pairs[1:], strict=True)
    ratios = [a / b for a, b in pairs[1:]]
    return {
        "moments_s": statistics.median(ours),
        "pca_s": statistics.median(theirs),
        "ratio": statistics.median(ratios),
    }


def peak_memory_mb() -> float:
    """Peak of streaming 60,000 x 784 from batches that are made one at a time."""
    rng = np.random.default_rng(0)
    tracemalloc.start()
    Moments.from_batches(rng.normal(size=(512, 784)) for _ in range(118))
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return peak


def solve_hierarchy(repeats: int) -> dict[str, float]:
    """Milliseconds for 784 modes x 3 levels: the first call on some moments, and later ones."""
    rng = np.random.default_rng(0)
    first, later = [], []
    for repeat in range(repeats):
        moments = Moments.from_data(rng.normal(size=(2000, 784)) * np.linspace(0.1, 2, 784))
        for call in range(4):
            spec = HVAESpec(
                (784, 784, 784),
                encoder_variances=(0.5, None, 0.2),
                betas=(0.3 + call + repeat, 0.5, 0.2),
            )
            (later if call else first).append(1e3 * seconds(lambda s=spec, m=moments: solve(s, m)))
    return {"first_ms": statistics.median(first[1:]), "later_ms": statistics.median(later)}


def main() -> None:
    """Run all and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--repeats", type=int, default=6)
    args = parser.parse_args()
    result = {
        "moments_float64": moments_against_pca("float64", args.repeats),
        "moments_float32": moments_against_pca("float32", args.repeats),
        "streaming_peak_mb": peak_memory_mb(),
        "solve_784_modes_3_levels": solve_hierarchy(args.repeats),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, numpy {np.__version__}",
    }
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
