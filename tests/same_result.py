"""What a seed gives, as text: moments, a solution and a tiny training. A process of its own.

python tests/same_result.py THREADS     (and OMP_NUM_THREADS and the like, before NumPy starts)
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch

from linvae import CVAESpec, HVAESpec, Moments, VAESpec, solve, stability
from linvae.data import gaussian
from linvae.models import Architecture, build_model
from linvae.train import ConstantBetas, TrainConfig, TrainingData, train

SIZE = 300  # columns: enough for BLAS and LAPACK to share the work


def moments_and_theory() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(1000, SIZE)) @ rng.normal(size=(SIZE, SIZE)) / SIZE**0.5
    moments = Moments.from_data(rows[:, 50:], rows[:, :50])
    found = {"mean": moments.mean, "covariance": moments.covariance}
    for spec in (VAESpec(5), CVAESpec(5), HVAESpec([5, 3])):
        solution, name = solve(spec, moments), type(spec).__name__
        found[f"{name}.modes"] = solution.mode_variances
        found[f"{name}.objective"] = np.array(solution.objective)
        found[f"{name}.stability"] = stability(spec, moments).critical_beta
    return found


def training(device: str = "cpu") -> dict[str, np.ndarray]:
    """60 steps of an MLP wide enough for two threads."""
    rows = gaussian((4.0, 2.0, 1.0, 0.5), 512, seed=2).target
    data = TrainingData.from_arrays(rows, device=device)
    network = Architecture("mlp", hidden=256)
    model = build_model(VAESpec(2), data.target, architecture=network, seeds=(0, 1), n_points=2)
    model = model.to(device)
    betas = ConstantBetas((0.5, 1.0), (1.0,), torch.device(device))
    train(model, data, betas, TrainConfig(steps=60, batch_size=128))
    return {name: value.detach().cpu().numpy() for name, value in model.named_parameters()}


def main(threads: int) -> None:
    torch.set_num_threads(threads)
    found = {"theory": moments_and_theory(), "training": training()}
    json.dump(
        {part: {k: v.tolist() for k, v in values.items()} for part, values in found.items()},
        sys.stdout,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
