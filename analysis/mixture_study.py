"""Local collapse on eight clusters in the plane (Song, Kim, Lee 2025); writes mixture_study.json.

    python -m analysis.mixture_study [--steps 39063] [--seeds 4]

VAEs of two latents with and without the latent reconstruction loss, plain and with its z detached:
rate, information, locally collapsed cells of the latent and of the plane, the decoder's two-sided
Lipschitz constants, and members whose latent scale blew up. Networks and training as in the
authors' study (MLP 64, 128, 64; Adam 1e-3; 1000 epochs of batches of 256); where the clusters lie
is ours, and so is the activation, ReLU. Finished members are kept (`--members`).
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from linvae.data import gaussian_mixture
from linvae.models import Architecture
from linvae.spec import LatentReconstruction, VAESpec
from linvae.train import (
    BlowUpWarning,
    CellStore,
    Remedy,
    RemedyBetas,
    TrainConfig,
    Trained,
    TrainingData,
    train_cells,
)

BETAS, ALPHAS = (0.1, 0.3, 0.6), (0.0, 0.1, 0.4)
SPEC = VAESpec(2, decoder_variance=0.5)
NETWORK = Architecture("mlp", hidden=(64, 128, 64))
POINTS = 10_000


def settings() -> dict[tuple[float, float, str], Remedy]:
    """Every (beta, alpha, what is detached) of the study."""
    found = {}
    for beta in BETAS:
        for alpha in ALPHAS:
            for detach in ("none", "both") if alpha == max(ALPHAS) else ("none",):
                loss = LatentReconstruction(2 * alpha, "posterior", detach) if alpha else None
                found[beta, alpha, detach] = Remedy(beta, latent_reconstruction=loss)
    return found


def trained(steps: int, seeds: Sequence[int], store: CellStore | None) -> Trained:
    """All members in one stack."""
    data = TrainingData.from_arrays(gaussian_mixture(POINTS).target)
    config = TrainConfig(
        steps=steps, batch_size=256, learning_rate=1e-3, draws=1, schedule="constant"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BlowUpWarning)  # the rows say it
        return train_cells(
            SPEC,
            data,
            points=tuple(settings().values()),
            kl_weight=lambda points, n: RemedyBetas(points, SPEC.betas, n, torch.device("cpu")),
            config=config,
            architecture=NETWORK,
            seeds=seeds,
            store=store,
            progress=lambda step: print(step, flush=True) if step % 1000 == 0 else None,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=39_063)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--members", type=Path, default=Path("results/mixture"))
    args = parser.parse_args()
    trained(args.steps, range(args.seeds), CellStore(args.members))


if __name__ == "__main__":
    main()
