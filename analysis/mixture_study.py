"""Local collapse on eight clusters in the plane (Song, Kim, Lee 2025); writes mixture_study.json.

    python -m analysis.mixture_study [--steps 39063] [--seeds 4] [--page]

VAEs of two latents with and without the latent reconstruction loss, plain and with its z detached:
rate, information, locally collapsed samples and cells of the latent and of the plane, the decoder's
two-sided Lipschitz constants, whether a code comes back, and members whose latent scale blew up.
Networks and training as in the authors' study (MLP 64, 128, 64; Adam 1e-3; 1000 epochs of batches
of 256); where the clusters lie is ours, and so is the activation, ReLU. Finished members are kept
(`--members`), and the rows are written with docs/local_collapse.md.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import linvae
from analysis.mixture_page import page
from linvae.comparison import write_text
from linvae.data import gaussian_mixture
from linvae.metrics import (
    decoder_lipschitz,
    identifiability,
    local_collapse,
    mutual_information,
    observe,
)
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
BATCH = 1024  # of the information: its cap, 6.9 nats, is far above that of the labels, log 8
PRICES = Path(__file__).with_name("reconstruction_price.json")
DOCS = Path(__file__).parent.parent / "docs" / "local_collapse.md"


def settings() -> dict[tuple[float, float, str], Remedy]:
    """Every (beta, alpha, what is detached) of the study."""
    found = {}
    for beta in BETAS:
        for alpha in ALPHAS:
            for detach in ("none", "both") if alpha == max(ALPHAS) else ("none",):
                loss = LatentReconstruction(2 * alpha, "posterior", detach) if alpha else None
                found[beta, alpha, detach] = Remedy(beta, latent_reconstruction=loss)
    return found


def clusters() -> TrainingData:
    """The plane."""
    return TrainingData.from_arrays(gaussian_mixture(POINTS).target)


def trained(steps: int, seeds: Sequence[int], store: CellStore | None) -> Trained:
    """All members in one stack."""
    data = clusters()
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


def rows(result: Trained) -> Iterator[dict[str, Any]]:
    """One row per member, on the data it was trained on; null: not finite."""
    columns = measured(result, clusters())
    blown = {(b.seed, b.point): b for b in result.result.blown_up}
    for point, (beta, alpha, detach) in enumerate(settings()):
        for s, seed in enumerate(result.model.seeds):
            numbers = {name: float(values[s, point]) for name, values in columns.items()}
            blow_up = blown.get((seed, point))
            yield {
                "beta": beta, "alpha": alpha, "detach": detach, "seed": seed,
                **{k: float(f"{v:.6g}") if math.isfinite(v) else None for k, v in numbers.items()},
                "blown_up_at": blow_up.step if blow_up else None,
            }  # fmt: skip


def measured(result: Trained, data: TrainingData) -> dict[str, Any]:
    """Columns of the rows, (n_seeds, n_points); nats, shares, data units per latent unit."""
    model = result.model
    seen, local = observe(model, data), local_collapse(model, data)
    stretch, back = decoder_lipschitz(model, data), identifiability(model, data)
    return {
        "rate_nats": seen.rates[..., 0],
        "information_nats": mutual_information(model, data, batch=BATCH).nats,
        "distortion_nats": seen.distortion,
        "share_of_samples": local.share_of_samples,
        "share_of_data_cells": local.share_of_data_cells,
        "share_of_latent_cells": local.share_of_latent_cells,
        "published_bi_lipschitz": stretch.published_bi_lipschitz,
        "bi_lipschitz": stretch.bi_lipschitz,
        "prior_identifiability": back.prior_score,
        "posterior_identifiability": back.posterior_score,
    }


def main() -> None:
    """Train what is missing, measure it, and write rows and page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=39_063)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--members", type=Path, default=Path("results/mixture"))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--docs", type=Path, default=DOCS)
    parser.add_argument("--page", action="store_true", help="write the page, train nothing")
    args = parser.parse_args()
    if not args.page:
        found = list(rows(trained(args.steps, range(args.seeds), CellStore(args.members))))
        document = {"version": linvae.__version__, "steps": args.steps, "rows": found}
        write_text(args.out, json.dumps(document, indent=1) + "\n")
    prices = json.loads(PRICES.read_text())
    write_text(args.docs, page(json.loads(args.out.read_text()), prices))


if __name__ == "__main__":
    main()
