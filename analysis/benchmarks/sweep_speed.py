"""Speed of a stacked sweep against pythae's own trainer and against its members one after another.

    pip install pythae==0.1.2
    python analysis/benchmarks/sweep_speed.py [--device cpu] [--out FILE] [--repeats N]

Seconds per member and training step, in turn, ratios within one run:
1. 16 members of a 784-512-32 MLP VAE, batch 128, against pythae's VAE with its default networks of
   the same sizes (`BaseTrainer`, Adam, same number of threads), trained on the same samples;
2. 32 members on 64-dimensional digits, hidden 64, against the same members trained one at a time.

One draw of the latent per sample, as pythae has; with two antithetic ones, linvae's default, beside
it. Seconds by the clock and of the processor: the latter are steadier where other work runs. The
data are random where only their size matters. On an accelerator: --device cuda, 64 members; there
also the share of the bandwidth floor, the time in which parameters, gradients and both moments of
Adam could be read and written once at the bandwidth that a copy reaches.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from linvae import VAESpec
from linvae.data import load_dataset
from linvae.models import Architecture, build_model
from linvae.train import ConstantBetas, TrainConfig, TrainingData, train

CONFIG = TrainConfig(steps=100, batch_size=128, learning_rate=1e-3, log_every=100, draws=1)
Seconds = tuple[float, float]  # by the clock, of the processor


def stacked(
    data: TrainingData, latent_dim: int, hidden: int, seeds: int, points: int, config: TrainConfig
) -> Seconds:
    """Seconds per member and step of one stack; a short run first, so that all is warm."""
    spec = VAESpec(latent_dim)
    times = []
    for steps in (5, config.steps):
        model = build_model(
            spec, data.target, architecture=Architecture("mlp", hidden=hidden),
            seeds=tuple(range(seeds)), n_points=points,
        )  # fmt: skip
        betas = ConstantBetas(np.linspace(0.5, 2, points).tolist(), spec.betas, data.target.device)
        wait(data.target.device)
        start = _now()
        train(model, data, betas, replace(config, steps=steps))
        wait(data.target.device)
        times.append(_since(start, steps * seeds * points))
    return times[-1]


def _now() -> Seconds:
    return time.perf_counter(), time.process_time()


def _since(start: Seconds, parts: int) -> Seconds:
    clock, processor = _now()
    return (clock - start[0]) / parts, (processor - start[1]) / parts


def one_by_one(
    data: TrainingData, latent_dim: int, hidden: int, members: int, config: TrainConfig
) -> Seconds:
    """The same members in stacks of one; a quarter of them stands for all."""
    few = max(1, members // 4)
    found = [stacked(data, latent_dim, hidden, 1, 1, config) for _ in range(few)]
    return statistics.fmean(f[0] for f in found), statistics.fmean(f[1] for f in found)


def pythae_trainer(data: TrainingData, latent_dim: int, steps: int, batch: int) -> Seconds:
    """Seconds per step of pythae's trainer, without its checkpoints at the end."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    samples = data.target[: steps * batch].cpu()
    epochs = max(1, steps * batch // len(samples))
    dataset = BaseDataset(samples, torch.zeros(len(samples)))
    with tempfile.TemporaryDirectory() as folder:
        config = BaseTrainerConfig(
            output_dir=folder, num_epochs=epochs, per_device_train_batch_size=batch,
            learning_rate=1e-3, no_cuda=data.target.device.type == "cpu",
        )  # fmt: skip
        model = VAE(VAEConfig(input_dim=(data.target.shape[1],), latent_dim=latent_dim))
        trainer = BaseTrainer(model=model, train_dataset=dataset, training_config=config)
        trainer.prepare_training()
        begin = _now()
        for epoch in range(1, epochs + 1):
            trainer.train_step(epoch)
        wait(data.target.device)
        return _since(begin, epochs * -(-len(samples) // batch))


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def against_pythae(device: str, members: int, draws: int, repeats: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    data = TrainingData.from_arrays(rng.random((12_800, 784)).astype(np.float32), device=device)
    config = replace(CONFIG, draws=draws)
    pairs = []
    for _ in range(repeats):
        ours = stacked(data, 32, 512, 1, members, config)
        pairs.append((ours, pythae_trainer(data, 32, CONFIG.steps, CONFIG.batch_size)))
    found = _summary(pairs, "linvae_s", "pythae_s") | {"members": members, "draws": draws}
    if device != "cpu":
        found["share_of_bandwidth_floor"] = bandwidth_floor(members, device) / found["linvae_s"]
    return found


def bandwidth_floor(members: int, device: str) -> float:
    """Seconds per member to read and write what one step of Adam must: 7 values per parameter.

    Parameter, gradient and two moments are read, parameter and moments written; the bandwidth is
    that of copying 1 GiB on the device.
    """
    model = build_model(
        VAESpec(32), torch.zeros(2, 784), architecture=Architecture("mlp", hidden=512)
    )
    n_bytes = 7 * 4 * sum(p.numel() for p in model.parameters())
    block = torch.empty(2**28, device=device)
    other = torch.empty_like(block)
    for _ in range(3):
        other.copy_(block)
    wait(block.device)
    start = time.perf_counter()
    for _ in range(10):
        other.copy_(block)
    wait(block.device)
    bytes_per_s = 10 * 2 * 4 * 2**28 / (time.perf_counter() - start)
    return n_bytes / bytes_per_s


def against_one_by_one(device: str, members: int, draws: int, repeats: int) -> dict[str, Any]:
    digits = load_dataset("digits")
    data = TrainingData.from_arrays(digits.target, device=device)
    config = replace(CONFIG, draws=draws)
    pairs = []
    for _ in range(repeats):
        ours = stacked(data, 8, 64, 1, members, config)
        pairs.append((ours, one_by_one(data, 8, 64, members, config)))
    return _summary(pairs, "stacked_s", "alone_s") | {"members": members, "draws": draws}


def _summary(pairs: list[tuple[Seconds, Seconds]], ours: str, theirs: str) -> dict[str, Any]:
    """Medians of seconds by the clock, and of the ratios of every pair, both ways of counting."""
    return {
        ours: statistics.median(a[0] for a, _ in pairs),
        theirs: statistics.median(b[0] for _, b in pairs),
        "ratio": statistics.median(a[0] / b[0] for a, b in pairs),
        "speed_up": statistics.median(b[0] / a[0] for a, b in pairs),
        "ratio_processor": statistics.median(a[1] / b[1] for a, b in pairs),
        "speed_up_processor": statistics.median(b[1] / a[1] for a, b in pairs),
    }


def arguments(description: str, script: str) -> argparse.Namespace:
    """Device, repeats and where to write: next to the script unless told."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(script).with_suffix(".json"))
    return parser.parse_args()


def _processor() -> str:
    """Name and family as Linux tells them, else what Python knows."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return platform.processor()
    lines = (line.partition(":") for line in path.read_text(encoding="ascii").splitlines())
    found = {name.strip(): value.strip() for name, _, value in lines}
    names = ("model name", "cpu family", "model")
    return ", ".join(f"{name} {found[name]}" for name in names if name in found)


def machine(device: str) -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "device": device if device == "cpu" else torch.cuda.get_device_name(device),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "platform": platform.platform(),
    }


def write_rows(
    args: argparse.Namespace,
    cases: Iterable[tuple[Any, ...]],
    row: Callable[..., dict[str, Any]],
) -> None:
    """`row(*case, device, repeats)` of every case, printed and written with the machine's facts."""
    rows = []
    for case in cases:
        rows.append(row(*case, args.device, args.repeats))
        print(rows[-1], flush=True)
    found = {"rows": rows, "machine": machine(args.device)}
    args.out.write_text(json.dumps(found, indent=2) + "\n")


def main() -> None:
    """Run both and write them with the facts of the machine."""
    args = arguments(__doc__, __file__)
    members = 16 if args.device == "cpu" else 64
    found = {
        "784-512-32, batch 128, against pythae": [
            against_pythae(args.device, members, draws, args.repeats) for draws in (1, 2)
        ],
        "digits, hidden 64, against one by one": [
            against_one_by_one(args.device, 32, draws, args.repeats) for draws in (1, 2)
        ],
        "machine": machine(args.device),
    }
    args.out.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
