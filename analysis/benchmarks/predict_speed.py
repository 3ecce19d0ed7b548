"""Speed of `linvae predict`, whole processes; writes predict_speed.json.

    python analysis/benchmarks/predict_speed.py [--out FILE] [--repeats N]

60,000 x 784 float32 from an .npy and from a packed .npz, the file just written and so in the page
cache, and --help; median seconds, and those of the processors, which neighbours do not change much.
Threads of the linear algebra: OMP_NUM_THREADS.
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


def median_seconds(arguments: list[str], repeats: int) -> tuple[float, float]:
    """Wall and processor time of `python -m linvae.predict` with these arguments."""
    seconds = []
    for _ in range(repeats):
        start, before = time.perf_counter(), os.times()
        command = [sys.executable, "-m", "linvae.predict", *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        cpu = after.children_user + after.children_system
        cpu -= before.children_user + before.children_system
        seconds.append((time.perf_counter() - start, cpu))
    wall, cpus = zip(*seconds, strict=True)
    return statistics.median(wall), statistics.median(cpus)


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
        result: dict[str, object] = {}
        for name, arguments in {
            "help": ["--help"],
            "npy": ["--data", f"{folder}/data.npy"],
            "npz_packed": ["--data", f"{folder}/data.npz"],
        }.items():
            result[f"{name}_s"], result[f"{name}_processor_s"] = median_seconds(
                arguments, args.repeats
            )
    result["threads"] = os.environ.get("OMP_NUM_THREADS", "all")
    result["load_average"] = os.getloadavg()[0]
    result["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, numpy {np.__version__}"
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
