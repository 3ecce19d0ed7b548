"""Peak memory of training, predicted before the start against measured; writes memory.json.

    python analysis/benchmarks/memory.py [--device cpu] [--out FILE]

Every setting runs in a process of its own. CPU: the largest resident set while training, above the
one after importing torch and training a small stack (VmHWM; its record is reset first). CUDA:
`torch.cuda.max_memory_allocated`. The data arrays are made before the baseline on the CPU, the
resident float32 copy of them after it. On the CPU each setting is measured twice: as the allocator
is by default, against the prediction with its share; and with MALLOC_MMAP_THRESHOLD_=1048576, which
keeps tensors off its heap, against the tensors in use.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from linvae import CVAESpec, HVAESpec, VAESpec
from linvae.data import ImageLayout
from linvae.models import Architecture, StackedVAE, build_model
from linvae.spec import LatentReconstruction, LinearSpec
from linvae.train import Remedy, RemedyBetas, TrainConfig, TrainingData, train
from linvae.train.memory import MemoryPrediction, predict_memory

HIERARCHY = HVAESpec((64, 32))
#                           spec           kind      hidden points seeds batch target cond  samples
SETTINGS: dict[str, tuple[LinearSpec, str, int, int, int, int, int, int, int]] = {
    "784-512-32, 16 members": (VAESpec(32), "mlp", 512, 16, 1, 128, 784, 0, 2000),
    "784-512-32, 3 x 16 members": (VAESpec(32), "mlp", 512, 16, 3, 128, 784, 0, 2000),
    "linear vae": (VAESpec(64), "linear", 1, 64, 3, 128, 784, 0, 2000),
    "linear vae, many samples": (VAESpec(8), "linear", 1, 9, 3, 32, 784, 0, 100_000),
    "linear hvae": (HIERARCHY, "linear", 1, 64, 3, 128, 784, 0, 2000),
    "mlp cvae": (CVAESpec(32), "mlp", 512, 12, 1, 128, 392, 392, 2000),
    "mlp hvae": (HIERARCHY, "mlp", 256, 9, 3, 128, 784, 0, 2000),
    "mlp vae, large batch": (VAESpec(16), "mlp", 256, 16, 1, 2048, 256, 0, 4096),
    "small: digits, hidden 64": (VAESpec(8), "mlp", 64, 9, 3, 32, 64, 0, 1797),
    "conv vae, 28 x 28": (VAESpec(32), "conv", 64, 6, 3, 128, 784, 0, 2000),
    "conv vae, 64 x 64 x 3": (VAESpec(32), "conv", 64, 3, 3, 32, 12288, 0, 500),
    "resnet vae, 28 x 28": (VAESpec(32), "resnet", 64, 4, 3, 128, 784, 0, 2000),
    "mlp vae, latent reconstruction": (VAESpec(32), "mlp", 512, 12, 1, 512, 784, 0, 2000),
    "conv vae, latent reconstruction": (VAESpec(32), "conv", 64, 6, 3, 128, 784, 0, 2000),
}
LOSS = Remedy(latent_reconstruction=LatentReconstruction())
SHAPES = {784: (28, 28, 1), 12288: (64, 64, 3)}
STEPS = 8


def network(kind: str, hidden: int, target: int) -> dict[str, Any]:
    """Architecture, and which pixel is where if it needs to know."""
    found = Architecture(kind, hidden=hidden)
    if not found.needs_image:
        return {"architecture": found}
    return {"architecture": replace(found, channels=(8, 16)), "image": ImageLayout(SHAPES[target])}


def build(name: str) -> StackedVAE:
    """The stack of a setting, without data."""
    spec, kind, hidden, points, seeds, _, target, condition, _ = SETTINGS[name]
    return StackedVAE(
        spec, target_dim=target, condition_dim=condition, n_points=points,
        seeds=tuple(range(seeds)), **network(kind, hidden, target),
    )  # fmt: skip


def predicted(name: str, device: str) -> MemoryPrediction:
    """Bytes, from `predict_memory`."""
    *_, batch, _, _, n = SETTINGS[name]
    config = TrainConfig(steps=STEPS, batch_size=batch)
    return predict_memory(
        lambda: build(name), config, n_samples=n, device=device, reconstructs=_remedy(name) == LOSS
    )


def _remedy(name: str) -> Remedy:
    return LOSS if "latent reconstruction" in name else Remedy()


def measured(name: str, device: str) -> int:
    """Bytes; for a process that has done nothing else."""
    spec, kind, hidden, points, seeds, batch, d, dx, n = SETTINGS[name]
    tiny = (VAESpec(2), "mlp", 16, 2, 1, 32, _array(64, 8), None)
    _train(*tiny, device, Remedy())  # imports, threads
    target, condition = _array(n, d), _array(n, dx) if dx else None
    before = _start(device)
    _train(spec, kind, hidden, points, seeds, batch, target, condition, device, _remedy(name))
    return _peak(device) - before


def _train(
    spec: LinearSpec, kind: str, hidden: int, points: int, seeds: int, batch: int,
    target: np.ndarray, condition: np.ndarray | None, device: str, remedy: Remedy,
) -> None:  # fmt: skip
    data = TrainingData.from_arrays(target, condition, device=device)
    model = build_model(
        spec, data.target, data.condition, n_points=points,
        seeds=tuple(range(seeds)), **network(kind, hidden, target.shape[1]),
    )  # fmt: skip
    betas = RemedyBetas([remedy] * points, spec.betas, seeds, data.target.device)
    train(model, data, betas, TrainConfig(steps=STEPS, batch_size=batch, learning_rate=1e-5))


def _array(n: int, d: int) -> np.ndarray:
    return np.random.default_rng(0).random((n, d), dtype=np.float32)


def _start(device: str) -> int:
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew from VmRSS
    return _status("VmRSS")


def _peak(device: str) -> int:
    return _status("VmHWM") if device == "cpu" else torch.cuda.max_memory_allocated()


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def compare(name: str, device: str) -> dict[str, Any]:
    """Both, and predicted over measured."""
    bytes_predicted = predicted(name, device)
    default = _in_a_process(name, device, {})
    found = {
        "predicted": asdict(bytes_predicted) | {"total": bytes_predicted.total},
        "measured": default,
        "ratio": bytes_predicted.total / default,
    }
    if device == "cpu":
        off_heap = _in_a_process(name, device, {"MALLOC_MMAP_THRESHOLD_": "1048576"})
        found |= {
            "measured_off_heap": off_heap,
            "ratio_off_heap": bytes_predicted.in_use / off_heap,
        }
    return found


def _in_a_process(name: str, device: str, settings: dict[str, str]) -> int:
    command = [sys.executable, __file__, "--device", device, "--measure", name]
    environment = os.environ | settings
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(found.stdout)


def main() -> None:
    """Predict and measure all settings and write them with the facts of the machine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--measure", choices=SETTINGS, help="one setting, measured here: bytes")
    args = parser.parse_args()
    if args.measure:
        print(measured(args.measure, args.device))
        return
    found: dict[str, Any] = {}
    for name in SETTINGS:
        found[name] = compare(name, args.device)
        ratios = {k: round(v, 3) for k, v in found[name].items() if k.startswith("ratio")}
        print(f"{name:30s} {found[name]['measured'] / 2**20:8.0f} MiB {ratios}", flush=True)
    found["machine"] = {
        "device": args.device if args.device == "cpu" else torch.cuda.get_device_name(args.device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "platform": platform.platform(),
    }
    args.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
