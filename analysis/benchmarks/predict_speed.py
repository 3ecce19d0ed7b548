"""Speed of `linvae predict`, whole processes; writes predict_speed.json.

    python analysis/benchmarks/predict_speed.py [--out FILE] [--repeats N]

60,000 x 784 float32 from an .npy and from a packed .npz, the file just written and so in the page
cache, and --help; median seconds. Threads of the linear algebra: OMP_NUM_THREADS.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def median_seconds(arguments: list[str], repeats: int) -> float:
    """Wall time of `python -m linvae.predict` with these arguments."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        command = [sys.executable, "-m", "linvae.predict", *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main() -> None:
    """Run all and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = np.random.default_rng(0).normal(size=(60_000, 784)).astype(np.float32)
        np.save(f"{folder}/data.npy", data)
        np.savez_compressed(f"{folder}/data.npz", data)
        del data
        result: dict[str, object] = {
            name: median_seconds(arguments, args.repeats)
            for name, arguments in {
                "help_s": ["--help"],
                "npy_s": ["--data", f"{folder}/data.npy"],
                "npz_packed_s": ["--data", f"{folder}/data.npz"],
            }.items()
        }
    result["threads"] = os.environ.get("OMP_NUM_THREADS", "all")
    result["load_average"] = os.getloadavg()[0]
    result["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, numpy {np.__version__}"
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
