"""The comparison of He et al. 2019 (ICLR) on images and texts; writes lagging.json.

    python -m analysis.lagging [--dataset omniglot] [--preset small] [--data-dir DIR] [--page]

VAE, KL annealing, beta 0.2 to 0.8, aggressive training with and without annealing, and the decoder
alone (an LSTM language model; of images a PixelCNN whose latent costs so much that it is idle);
of the synthetic corpus also what its generator has itself.
NLL by importance sampling, KL, mutual information in batches as published, active units, and the
time of training over the VAE's. The small presets are for a CPU and samples of the data; the
published ones are the paper's networks and training, for a GPU and the whole sets. Models and rates
are chosen by validation; the test part is seen once. Finished members are kept (`--members`).

Tried for the small presets before the kept ones, three seeds each:

| data       | networks and training                        | VAE               | aggressive       |
|------------|----------------------------------------------|-------------------|------------------|
| short-yelp | LSTM 64, 8 latents, Adam 2e-3, batches of 32 | KL 0.00, NLL 37.4 | KL 0.01: ends on |
|            |                                              |                   | noise, NLL 37.5  |
| omniglot   | PixelCNN of kernels 7, 5, 5, 3, 3; 40 epochs | KL 0.08, NLL 37.6 | 3 hours: not run |
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import logsumexp, softmax

import linvae
from analysis.benchmarks.sweep_speed import machine
from analysis.lagging_page import ALONE, ORDER, TRUTH, page, table
from linvae.comparison import write_text
from linvae.data import (
    SOURCES,
    Dataset,
    TextDataset,
    TextGenerator,
    dataset_names,
    load_dataset,
    load_text_splits,
    synthetic_generator,
    text_names,
)
from linvae.data.text_loading import SYNTHETIC_SENTENCES
from linvae.data.text_sources import SPLITS
from linvae.metrics import (
    importance_weighted_likelihood,
    mutual_information,
    observe,
    perplexity,
    published_mutual_information,
)
from linvae.models import PRESETS, Architecture, build_model
from linvae.models.recurrent import SequenceSizes, StackedLanguageModel, StackedTextVAE
from linvae.spec import VAESpec
from linvae.train import (
    TEXT_PRESETS,
    Aggressive,
    Annealing,
    CellStore,
    Plateau,
    Remedy,
    RemedyBetas,
    TrainConfig,
    Trained,
    TrainingData,
    pick_device,
    train_cells,
)
from linvae.train.validation import validate

DOCS = Path(__file__).parent.parent / "docs" / "lagging.md"
LOOKS = 40  # at the rate of a training, kept in its row
IDLE = 1000.0  # beta at which no latent of an image is worth anything


@dataclass(frozen=True)
class Setting:
    """Networks, training and evaluation of one preset.

    `config.steps` is what `epochs` come to; `warmup_epochs` and `start` are those of annealing.
    `most`, `held_out`: samples to train on, and to validate and to test on, None: all there are.
    `whole`: images of all splits in one, divided as Omniglot is in the paper, a quarter to test on.
    `words`: of the vocabulary; `image_size`: pixels a side, of sets that have several.
    """

    networks: SequenceSizes | Architecture
    latent_dim: int
    config: TrainConfig
    aggressive: Aggressive
    epochs: int
    warmup_epochs: int = 10
    start: float = 0.1
    draws: int = 500
    most: int | None = None
    held_out: int | None = None
    whole: bool = False
    words: int = 20_000
    image_size: int = 28


ADAM = TrainConfig(
    batch_size=50, learning_rate=1e-3, clip_norm=5.0, draws=1, schedule="constant", binarise=True,
    plateau=Plateau(patience=20, first=0, most=5, against="best"),
)  # fmt: skip
SMALL_PIXELCNN = Architecture(
    "pixelcnn", encoder="resnet", channels=(8, 16), hidden=32, activation="elu", batch_norm=False,
    kernels=(5, 3, 3), pixel_channels=16,
)  # fmt: skip


def text_setting(name: str, **others: Any) -> Setting:
    """Of that preset of the library; `others`: what a comparison has beside it."""
    preset = TEXT_PRESETS[name]
    return Setting(
        preset.sizes, preset.latent_dim, preset.config, preset.aggressive, preset.epochs,
        words=preset.words, **others,
    )  # fmt: skip


SETTINGS = {
    ("text", "published"): text_setting("published"),
    ("text", "small"): text_setting("small", most=4000, held_out=500, draws=200, warmup_epochs=5),
    ("image", "published"): Setting(
        PRESETS["he-omniglot"].architecture,
        32,
        ADAM,
        Aggressive(10, falls=5),
        epochs=1000,
        whole=True,
    ),
    ("image", "small"): Setting(
        SMALL_PIXELCNN,
        8,
        replace(ADAM, plateau=Plateau(3, 8, most=2)),
        Aggressive(10, falls=5),
        epochs=20,
        warmup_epochs=5,
        image_size=14,
        draws=200,
    ),
}


@dataclass(frozen=True, eq=False)
class Parts:
    """Training, validation and test data of one kind, and how a stack for them is made."""

    name: str
    kind: str
    train: TrainingData
    validation: TrainingData
    test: TrainingData
    build: Callable[..., Any]  # build(alone)(seeds=..., n_points=...)
    note: str


def text_parts(name: str, setting: Setting, data_dir: Path | None, device: torch.device) -> Parts:
    """Sentences; the vocabulary is that of the training part."""
    parts = load_text_splits(
        name, data_dir=data_dir, max_words=setting.words, max_sentences=setting.most
    )
    words = len(parts[0].vocabulary)

    def build(alone: bool) -> Callable[..., Any]:
        kind = StackedLanguageModel if alone else StackedTextVAE

        def stack(**members: Any) -> Any:
            made = kind(
                _spec(setting, "multinomial"), vocabulary=words, sizes=_sizes(setting), **members
            )
            return made.to(device)

        return stack

    parts = (parts[0], *(part.subset(_held_out(part, setting), seed=0) for part in parts[1:]))
    train, validation, test = (TrainingData.from_tokens(p.padded(), device) for p in parts)
    return Parts(name, "text", train, validation, test, build, _note(parts))


def _held_out(part: TextDataset, setting: Setting) -> int:
    return min(part.n_samples, setting.held_out or part.n_samples)


def _sizes(setting: Setting) -> SequenceSizes:
    assert isinstance(setting.networks, SequenceSizes)
    return setting.networks


def _spec(setting: Setting, likelihood: Any) -> VAESpec:
    return VAESpec(setting.latent_dim, likelihood=likelihood)


def _note(parts: Sequence[TextDataset] | Sequence[Dataset]) -> str:
    notes = dict.fromkeys(part.note for part in parts if part.note)
    return "; ".join([*(part.describe() for part in parts), *notes])


def image_parts(name: str, setting: Setting, data_dir: Path | None, device: torch.device) -> Parts:
    """Gray values to train on, and one draw of black and white to validate and to test on."""
    size = None if name == "digits" else setting.image_size
    splits = SOURCES[name].splits if setting.whole and name in SOURCES else (None,)
    sets = [load_dataset(name, split=s, data_dir=data_dir, image_size=size) for s in splits]
    gray = np.concatenate([dataset.target for dataset in sets])
    rng = np.random.default_rng(0)
    order = rng.permutation(len(gray))[: setting.most]
    black = (rng.random(gray.shape) < gray).astype(np.float32)
    held = _held_out_images(len(order), setting)
    test, validation, train = (
        _pixels(values[rows], sets[0], device)
        for values, rows in zip((black, black, gray), np.split(order, np.cumsum(held)), strict=True)
    )

    def build(alone: bool) -> Callable[..., Any]:
        return partial(
            build_model, _spec(setting, "bernoulli"), train.target,
            architecture=setting.networks, image=train.image,
        )  # fmt: skip

    sizes = f"{len(train)} to train, {held[1]} to validate, {held[0]} to test, at random"
    return Parts(name, "image", train, validation, test, build, f"{_note(sets)}; {sizes}")


def _held_out_images(n: int, setting: Setting) -> tuple[int, int]:
    """To test and to validate on: a tenth each, or the shares of the published Omniglot."""
    if setting.whole:
        return n // 4, n // 24
    held = setting.held_out or min(1000, n // 10)
    return held, held


def _pixels(values: np.ndarray, dataset: Dataset, device: torch.device) -> TrainingData:
    layout = dataset.image_layout()
    return TrainingData.from_arrays(values, centered=False, image=layout, device=device)


def remedies(setting: Setting, epoch: int) -> dict[str, Remedy]:
    """Rows of the table but for the decoder alone; `epoch` in steps."""
    anneal = Annealing(setting.warmup_epochs * epoch, setting.start)
    inner = setting.aggressive
    return {
        "vae": Remedy(),
        "annealing": Remedy(schedule=anneal),
        **{f"beta {beta}": Remedy(beta=beta) for beta in (0.2, 0.4, 0.6, 0.8)},
        "aggressive": Remedy(aggressive=inner),
        "aggressive + annealing": Remedy(schedule=anneal, aggressive=inner),
    }


def trained(
    parts: Parts, setting: Setting, name: str, seeds: Sequence[int], store: CellStore | None
) -> Trained:
    """A stack of all seeds with one remedy, or of the decoder alone."""
    epoch = -(-len(parts.train) // setting.config.batch_size)
    config = replace(setting.config, steps=setting.epochs * epoch)
    alone = name == ALONE
    remedy = Remedy(beta=IDLE) if alone else remedies(setting, epoch)[name]
    build = parts.build(alone)
    spec = build(seeds=seeds[:1], n_points=1).spec
    device = parts.train.target.device
    return train_cells(
        spec,
        parts.train,
        points=(remedy,),
        kl_weight=lambda points, n: RemedyBetas(points, spec.betas, n, device),
        config=config,
        validation=parts.validation,
        seeds=seeds,
        store=store,
        build=build,
        progress=lambda step: (
            print(f"  {name}: {step} of {config.steps} steps", flush=True)
            if step % (5 * epoch) < 100
            else None
        ),
    )


def rows(
    parts: Parts, setting: Setting, preset: str, name: str, result: Trained
) -> Iterator[dict[str, Any]]:
    """One row per seed: all of it on the test part."""
    model, test = result.model, parts.test
    language = isinstance(model, StackedLanguageModel)
    columns = _language_columns(model, parts) if language else _vae_columns(model, parts, setting)
    for s, seed in enumerate(model.seeds):
        found = {key: round(float(values[s, 0]), 5) for key, values in columns.items()}
        counts = {key: int(values[s, 0]) for key, values in result.found.items()}
        yield {
            "data": parts.name, "preset": preset, "remedy": name, "seed": seed, **found, **counts,
            "seconds": round(result.result.seconds, 1), "n_test": len(test),
            "path": path(result.result.history, seed),
        }  # fmt: skip


def path(history: list[dict[str, float]], seed: int) -> list[tuple[int, float]]:
    """(steps of the decoder, rate of a batch in nats) on the way, evenly in steps, the last too."""
    seen = {int(row["step"]): row["rate_nats"] for row in history if row["seed"] == seed}
    steps = np.array(sorted(seen))
    wanted = np.linspace(0, steps[-1], LOOKS)
    chosen = np.unique(np.searchsorted(steps, wanted))
    return [(int(steps[i]), round(seen[int(steps[i])], 5)) for i in chosen]


def _vae_columns(model: Any, parts: Parts, setting: Setting) -> dict[str, np.ndarray]:
    test = parts.test
    weighted = importance_weighted_likelihood(model, test, samples=setting.draws)
    seen = observe(model, test)
    mi = published_mutual_information(model, test, batch=setting.config.batch_size)
    large = mutual_information(model, test)
    found = {
        "nll": -weighted.log_likelihood,
        "nll_error": weighted.errors,
        "nelbo": -weighted.elbo,
        "few_weights": weighted.few_shares,
        "kl": seen.rates.sum(-1),
        "mi": mi.nats,
        "mi_error": mi.errors,
        "mi_large": large.nats,
        "mi_large_error": large.errors,
        "active_units": seen.active_units.sum(-1),
    }
    if parts.kind == "text":
        found["perplexity"] = perplexity(weighted.log_likelihood, test)
    return found


def generator_row(setting: Setting, preset: str, draws: int = 400) -> dict[str, Any]:
    """Of the generator of "synthetic", on the test part before its rare words became unknown:

        log p(y) = log mean_j p(y|z_j) p(z_j)/r(z_j),   z_j ~ r
        I = E_y [sum_j w_j log p(y|z_j) - log p(y)],    w_j the same ratios, their sum 1

    r: the prior; Gaussians around the latent that said the sentence, which is a draw of its
    posterior; and Gaussians around what both show of that posterior. The logarithm of a mean is too
    low by about half of its relative variance, `nll_bias`.
    """
    generator = synthetic_generator()
    whole, latents, _ = generator.draw(SYNTHETIC_SENTENCES["test"], seed=SPLITS.index("test"))
    said = {whole.sentence(i).tobytes(): latents[i] for i in range(whole.n_samples)}
    test = whole.subset(_held_out(whole, setting), seed=0)
    z = generator.draw(draws, seed=len(SPLITS))[1]
    log_p, information, variance = np.array(
        [
            _exact(generator, test.taken([i], {"step": "one"}), z, said[test.sentence(i).tobytes()])
            for i in range(test.n_samples)
        ]
    ).T
    found = {
        "nll": -log_p.mean(),
        "nll_bias": variance.mean() / 2,
        "mi_large": information.mean(),
        "mi_large_error": information.std(ddof=1) / test.n_samples**0.5,
    }
    place = {"data": "synthetic", "preset": preset, "remedy": TRUTH, "seed": 0}
    return place | {k: round(float(v), 5) for k, v in found.items()} | {"n_test": test.n_samples}


def _exact(
    generator: TextGenerator, sentence: TextDataset, z: np.ndarray, said: np.ndarray
) -> tuple[float, float, float]:
    """log p(y), information, and relative variance of the mean; `z` from the prior."""
    rng = np.random.default_rng(0)
    n = len(z)
    near = [said + spread * rng.normal(size=z.shape) for spread in SPREADS]
    z = np.concatenate([z, *near])
    scores = generator.log_conditional(sentence, z[None])[0]
    weights = softmax(scores + generator.log_prior(z) - _log_first(generator, z, said))
    deviation = np.sqrt(np.trace(np.cov(z.T, aweights=weights)) / z.shape[1])
    spread = max(0.3 * float(deviation), 0.01)
    centres = z[rng.choice(len(z), size=2 * n, p=weights)]
    more = centres + spread * rng.normal(size=centres.shape)
    scores = np.append(scores, generator.log_conditional(sentence, more[None])[0])
    share, z = len(z) / (len(z) + len(more)), np.concatenate([z, more])
    log_r = np.logaddexp(
        _log_first(generator, z, said) + math.log(share),
        _log_around(z, centres, spread) + math.log(1 - share),
    )
    ratios = scores + generator.log_prior(z) - log_r
    weights = softmax(ratios)
    log_p = float(logsumexp(ratios)) - math.log(len(z))
    return log_p, float(weights @ scores) - log_p, float((weights**2).sum()) - 1 / len(z)


SPREADS = (1.0, 0.3, 0.1)  # of the Gaussians around the latent that said a sentence


def _log_first(generator: TextGenerator, z: np.ndarray, said: np.ndarray) -> np.ndarray:
    """log of the density of the first draws: the prior and every spread, equally likely."""
    around = [_log_around(z, said[None], spread) for spread in SPREADS]
    return logsumexp([generator.log_prior(z), *around], axis=0) - math.log(1 + len(SPREADS))


def _log_around(z: np.ndarray, centres: np.ndarray, spread: float) -> np.ndarray:
    """log density of a mixture of Gaussians of that deviation, equally likely."""
    squares = ((z[:, None] - centres) ** 2).sum(-1) / spread**2
    constant = z.shape[1] * math.log(spread * math.sqrt(2 * math.pi)) + math.log(len(centres))
    return np.asarray(logsumexp(-squares / 2, axis=1) - constant)


def _language_columns(model: Any, parts: Parts) -> dict[str, np.ndarray]:
    """Of a language model: its exact likelihood."""
    nll = validate(model, parts.test, 32).objective
    return {"nll": nll, "perplexity": perplexity(-nll, parts.test)}


def main() -> None:
    """Train and evaluate what is missing and write the rows after every remedy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    sets = [*text_names(), *(name for name in dataset_names() if name != "gaussian")]
    parser.add_argument("--dataset", default="omniglot", choices=sets)
    parser.add_argument("--preset", choices=("small", "published"), default="small")
    parser.add_argument("--remedies", nargs="+", choices=ORDER, help="rows; default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--members", type=Path, default=Path("results/lagging"))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--page", action="store_true", help="write docs/lagging.md, train nothing")
    args = parser.parse_args()
    document = json.loads(args.out.read_text()) if args.out.exists() else {"rows": [], "notes": {}}
    if args.page:
        write_text(DOCS, page(document))
        return
    kind = "text" if args.dataset in text_names() else "image"
    setting, device = SETTINGS[kind, args.preset], pick_device(args.device)
    load = text_parts if kind == "text" else image_parts
    parts = load(args.dataset, setting, args.data_dir, device)
    print(parts.note, flush=True)
    document["notes"][f"{args.dataset} {args.preset}"] = parts.note
    seeds = tuple(range(args.seeds))
    for name in args.remedies or (ORDER if args.dataset == "synthetic" else ORDER[:-1]):
        print(name, flush=True)
        if name == TRUTH:
            new = [generator_row(setting, args.preset)]
        else:
            result = trained(parts, setting, name, seeds, CellStore(args.members))
            new = list(rows(parts, setting, args.preset, name, result))
        place = (args.dataset, args.preset, name)
        kept = [r for r in document["rows"] if (r["data"], r["preset"], r["remedy"]) != place]
        document["version"], document["machine"] = linvae.__version__, machine(str(device))
        document["rows"] = kept + new
        write_text(args.out, json.dumps(document, indent=1) + "\n")
        print(table(document["rows"], args.dataset, args.preset), flush=True)


if __name__ == "__main__":
    main()
