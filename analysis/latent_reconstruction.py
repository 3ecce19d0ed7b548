"""Remedies against collapse over the image suite; writes latent_reconstruction.json.

    python -m analysis.latent_reconstruction [--dataset fashion-mnist] [--preset small] [--page]

VAE, a smaller beta, one that rises over 250 steps (annealing), an inverse-Lipschitz decoder
(LIDVAE), a decoder with skips, aggressive training (lagging inference) and the latent
reconstruction loss of Song, Kim, Lee 2025, at the published beta 0.1 and at one where linear theory
has half of the units collapsed: active units, KL, information, likelihood, distortion, local
collapse, the decoder's Lipschitz constants, and the quality of samples in the features of a
classifier trained on the set itself, which is not FID.

`small`: convolutions, images of 14 or 16 pixels, for a CPU. `published`: the presets `song-...`,
the whole images, at the published beta alone, for a GPU; `quarter`: the same with a quarter of the
channels, for a CPU. `deep`: ten layers of 32 units, as in the authors' depth tests: there the plain
VAE loses units that linear theory keeps; `deep-fast`: at the rate of the published images, 1e-2,
where the loss is unstable.

Tried on Fashion-MNIST at beta 0.1 for a share of active units like the published 0.13 and 0.95,
shares of three seeds:

| networks and training                                   | VAE           | LR, alpha 1           |
|---------------------------------------------------------|---------------|-----------------------|
| `quarter`, 100 epochs of the sample (1700 steps of 1e-2) | 1 1 1        | not run               |
| `deep-fast`: 4000 steps of 1e-2                         | .11 .14 .11   | .11 0 1: blew up      |
| deep, 4000 steps of 1e-2, full weight from the start    | the same      | 0 0 .14: collapses    |
| deep, 1000 steps of 1e-2                                | .93 0 .18     | .96 0 0               |
| `deep`: 4000 steps of 3e-3                              | .43 .32 .39   | .96 .54 .50           |

A quarter of the images is held out; everything is measured on it, but for the features, which see
labels of the others. `--inception FILE`, a TorchScript of Inception, adds FID and KID. Finished
members are kept (`--members`).
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import linvae
from analysis.benchmarks.sweep_speed import machine
from analysis.latent_reconstruction_page import page
from linvae.comparison import write_text
from linvae.data import Dataset, load_dataset
from linvae.metrics import (
    decoder_lipschitz,
    identifiability,
    importance_weighted_likelihood,
    inception_space,
    mutual_information,
    observe,
    sample_quality,
    trained_space,
)
from linvae.metrics.samples import Pictures
from linvae.models import PRESETS, Architecture
from linvae.moments import Moments
from linvae.pipeline import NETWORK_REMEDIES
from linvae.spec import LatentReconstruction, VAESpec
from linvae.theory import solve
from linvae.theory.mixed_units import reconstruction_optimum
from linvae.train import (
    Aggressive,
    Annealing,
    BlowUpWarning,
    CellStore,
    Remedy,
    RemedyBetas,
    TrainConfig,
    Trained,
    TrainingData,
    pick_device,
    train_cells,
)

DOCS = Path(__file__).parent.parent / "docs" / "latent_reconstruction.md"
SETS = ("mnist", "fashion-mnist", "omniglot", "celeba", "ffhq")
PUBLISHED_BETA, S = 0.1, 0.5
LOSS = LatentReconstruction(0.2)  # alpha 0.1
STRONG = LatentReconstruction(2.0)
REMEDIES = {
    "vae": Remedy(),
    "beta 0.2": Remedy(beta=0.2),
    "lr 0.1": Remedy(latent_reconstruction=LOSS),
    "lr 1": Remedy(latent_reconstruction=STRONG),
    "lr 1, prior": Remedy(latent_reconstruction=replace(STRONG, source="prior")),
    "lr 1, detached": Remedy(
        latent_reconstruction=replace(STRONG, detach="both", encoder_share=1e-4)
    ),
    "annealing": Remedy(schedule=Annealing(250)),
    "lagging": Remedy(aggressive=Aggressive(10, most_steps=20)),
    "lidvae": Remedy(),
    "skip": Remedy(),
}
PRESET_NAMES = ("small", "deep", "deep-fast", "quarter", "published")
DECODERS: dict[str, Mapping[str, Any]] = {
    "lidvae": NETWORK_REMEDIES["inverse-lipschitz"],
    "skip": NETWORK_REMEDIES["latent-skip"],
}
PRESET_OF = {
    "mnist": "song-mnist", "fashion-mnist": "song-fashion-mnist", "omniglot": "song-omniglot",
    "celeba": "song-celeba", "ffhq": "song-ffhq",
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """Networks, training and evaluation; `most`: images at most, None: all there are."""

    network: Architecture
    latent_dim: int
    config: TrainConfig
    image_size: int | None
    most: int | None = None
    draws: int = 100


SMALL = Setting(
    Architecture("conv", channels=(16, 32), hidden=(32, 32), activation="leaky_relu"),
    8,
    TrainConfig(steps=1000, batch_size=64, learning_rate=2e-3, draws=1, constant_share=0.0),
    image_size=14,
    most=3000,
)


DEEP = Setting(
    Architecture("mlp", hidden=32, depth=10, activation="leaky_relu"),
    28,
    TrainConfig(steps=4000, batch_size=128, learning_rate=3e-3, draws=1, constant_share=0.0),
    image_size=None,
)


def setting_of(name: str, preset: str, n: int) -> Setting:
    """Of a data set with n images to train on."""
    if preset == "small":
        return replace(SMALL, image_size=16 if name in ("celeba", "ffhq") else 14)
    if preset == "deep":
        return DEEP
    if preset == "deep-fast":
        return replace(DEEP, config=replace(DEEP.config, learning_rate=1e-2))
    published = PRESETS[PRESET_OF[name]]
    epochs = -(-n // published.batch_size) * published.epochs
    config = TrainConfig(
        steps=epochs, batch_size=published.batch_size, learning_rate=published.learning_rate,
        draws=1, constant_share=0.0,
    )  # fmt: skip
    size = 64 if name in ("celeba", "ffhq") else None
    network = published.architecture
    if preset == "quarter":
        network = replace(network, channels=tuple(c // 4 for c in network.channels))
    return Setting(network, published.spec.latent_dims[0], config, size)


@dataclass(frozen=True, eq=False)
class Parts:
    """Images to train on and images held out, and the betas that they are compared at."""

    name: str
    setting: Setting
    train: Dataset
    test: Dataset
    betas: tuple[float, ...]


def parts_of(name: str, preset: str, data_dir: Path | None) -> Parts:
    """A quarter held out at random; the second beta leaves half of the units to linear theory."""
    first = setting_of(name, preset, 1)
    whole = load_dataset(name, data_dir=data_dir, image_size=first.image_size)
    if first.most and whole.n_samples > first.most:
        whole = whole.subset(first.most, seed=0)
    order = np.random.default_rng(0).permutation(whole.n_samples)
    held = whole.n_samples // 4
    train, test = (_taken(whole, np.sort(rows)) for rows in (order[held:], order[:held]))
    setting = setting_of(name, preset, train.n_samples)
    if preset != "small":
        return Parts(name, setting, train, test, (PUBLISHED_BETA,))
    spec = VAESpec(setting.latent_dim, decoder_variance=S)
    critical = solve(spec, Moments.from_data(train.target)).critical_beta
    half = float(np.median(critical[: min(setting.latent_dim, train.n_samples - 1)]))
    return Parts(name, setting, train, test, (PUBLISHED_BETA, float(f"{half:.2g}")))


def _taken(dataset: Dataset, rows: np.ndarray) -> Dataset:
    """Some images with their labels."""
    labels = None if dataset.labels is None else dataset.labels[rows]
    step = {"step": "some rows", "n": len(rows)}
    steps = (*dataset.preprocessing, step)
    return replace(dataset, target=dataset.target[rows], labels=labels, preprocessing=steps)


def trained(parts: Parts, remedy: str, seeds: Sequence[int], store: CellStore | None) -> Trained:
    """Both betas and all seeds in one stack."""
    setting, device = parts.setting, pick_device("auto")
    spec = VAESpec(setting.latent_dim, decoder_variance=S)
    network = replace(setting.network, **DECODERS.get(remedy, {}))
    data = training_data(parts.train)
    one = REMEDIES[remedy]
    over = setting.config.steps // (2 if setting.most else 1)  # published: the whole training
    warmup = Annealing(over) if one.latent_reconstruction else None
    points = tuple(replace(one, beta=one.beta * beta, warmup=warmup) for beta in parts.betas)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BlowUpWarning)  # the rows say it
        return train_cells(
            spec,
            data,
            points=points,
            kl_weight=lambda some, n: RemedyBetas(some, spec.betas, n, device),
            config=setting.config,
            architecture=network,
            seeds=seeds,
            store=store,
            progress=lambda step: (
                print(f"  {remedy}: {step} of {setting.config.steps} steps", flush=True)
                if step % 500 == 0
                else None
            ),
        )


def training_data(dataset: Dataset) -> TrainingData:
    """Pixels, less their mean."""
    layout = dataset.image_layout()
    return TrainingData.from_arrays(dataset.target, device=pick_device("auto"), image=layout)


def rows(
    parts: Parts, remedy: str, result: Trained, preset: str, inception: Path | None = None
) -> Iterator[dict[str, Any]]:
    """One row per beta and seed, measured on the images held out."""
    model = result.model
    pictures = Pictures.of(model, parts.test, trained_on=parts.train)
    columns = _columns(pictures, parts)
    if inception is not None:
        quality = sample_quality(pictures, inception_space(inception, (0.0, 1.0)))
        columns |= {"fid": quality.frechet_distance, "kid": quality.kernel_distance}
    blown = {(b.seed, b.point): b.rate_nats for b in result.result.blown_up}
    for (s, seed), (p, beta) in (
        (a, b) for a in enumerate(model.seeds) for b in enumerate(parts.betas)
    ):
        found = {key: _rounded(values[s, p]) for key, values in columns.items()}
        yield {
            "data": parts.name, "preset": preset, "remedy": remedy, "beta": beta, "seed": seed,
            **found, "blown_up_nats": blown.get((seed, p)),
            "seconds": round(result.result.seconds / result.runs, 1),
        }  # fmt: skip


def _rounded(value: Any) -> float | None:
    return round(float(value), 5) if np.isfinite(value) else None


def _columns(pictures: Pictures, parts: Parts) -> dict[str, np.ndarray]:
    """Everything that is measured of the members, (n_seeds, n_points) each."""
    model, data = pictures.model, pictures.data
    seen, mi = observe(model, data), mutual_information(model, data)
    weighted = importance_weighted_likelihood(model, data, samples=parts.setting.draws)
    stretch, score = decoder_lipschitz(model, data), identifiability(model, data)
    found = {
        "active_share": seen.active_units[..., 0] / model.spec.latent_dims[0],
        "kl": seen.rates[..., 0],
        "mi": mi.nats,
        "nll": -weighted.log_likelihood,
        "few_weights": weighted.few_shares,
        "distortion": seen.distortion,
        "collapsed_share": seen.collapsed_share[..., 0],
        "lipschitz": stretch.upper,
        "inverse_lipschitz": stretch.lower,
        "identifiability": score.prior_score,
    }
    if parts.test.n_samples < 40:  # of fewer no distance means anything
        return found
    space = trained_space(_images(parts.train), parts.train.labels, dataset=parts.name)
    quality = sample_quality(pictures, space)
    names = ("frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage")
    return found | {name: np.asarray(getattr(quality, name)) for name in names}


def _images(dataset: Dataset) -> np.ndarray:
    """(n, H, W, C)."""
    shape = dataset.image_layout().shape
    return dataset.target.reshape(dataset.n_samples, *shape)


def predictions(parts: Parts) -> list[dict[str, Any]]:
    """Share of active units of linear theory at both betas, with each weight of the loss."""
    spec = VAESpec(parts.setting.latent_dim, decoder_variance=S)
    variances = solve(spec, Moments.from_data(parts.train.target)).mode_variances
    losses = {"vae": LatentReconstruction(0.0)} | {
        name: remedy.latent_reconstruction
        for name, remedy in REMEDIES.items()
        if remedy.latent_reconstruction and remedy.latent_reconstruction.encoder_share == 1
    }
    return [
        {
            "data": parts.name, "remedy": name, "beta": beta,
            "active_share": reconstruction_optimum(
                variances, loss, latent_dim=spec.latent_dim, beta=beta, decoder_variance=S,
                prior_variance=1.0,
            ).active_units(0.01) / spec.latent_dim,
        }
        for name, loss in losses.items()
        for beta in parts.betas
    ]  # fmt: skip


def main() -> None:
    """Train and evaluate what is missing and write the rows after every remedy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--preset", choices=PRESET_NAMES, default="small")
    parser.add_argument("--remedies", nargs="+", choices=tuple(REMEDIES), default=tuple(REMEDIES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--members", type=Path, default=Path("results/latent_reconstruction"))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--inception", type=Path, help="TorchScript file: FID and KID as well")
    parser.add_argument("--page", action="store_true", help="write the page, train nothing")
    args = parser.parse_args()
    document: dict[str, Any] = {"rows": [], "notes": {}, "predictions": []}
    if args.out.exists():
        document = json.loads(args.out.read_text())
    if args.page:
        write_text(DOCS, page(document))
        return
    for name in args.dataset:
        parts = parts_of(name, args.preset, args.data_dir)
        _note(document, parts, args.preset)
        for remedy in args.remedies:
            result = trained(parts, remedy, range(args.seeds), CellStore(args.members))
            new = list(rows(parts, remedy, result, args.preset, args.inception))
            place = (name, args.preset, remedy)
            kept = [r for r in document["rows"] if (r["data"], r["preset"], r["remedy"]) != place]
            document["rows"] = kept + new
            document["version"], document["machine"] = linvae.__version__, machine("cpu")
            write_text(args.out, json.dumps(document, indent=1) + "\n")
            print(name, remedy, [r["active_share"] for r in new], flush=True)


def _note(document: dict[str, Any], parts: Parts, preset: str) -> None:
    size = f"{parts.train.n_samples} to train, {parts.test.n_samples} held out"
    document["notes"][f"{parts.name} {preset}"] = f"{parts.train.describe()}; {size}"
    old = [
        p for p in document["predictions"] if (p["data"], p.get("preset")) != (parts.name, preset)
    ]
    document["predictions"] = old + [p | {"preset": preset} for p in predictions(parts)]


if __name__ == "__main__":
    main()
