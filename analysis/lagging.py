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
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import logsumexp, softmax
from scipy.stats import multivariate_normal

import linvae
from analysis.benchmarks.sweep_speed import machine
from analysis.nonlinear_thresholds import markdown
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
ALONE = "decoder alone"
TRUTH = "the generator itself"
LOOKS = 40  # at the rate of a training, kept in its row
COLLAPSED = 0.5  # nats of KL, below which a model is called so
IDLE = 1000.0  # beta at which no latent of an image is worth anything
PUBLISHED_TABLE = {  # submission: NLL, KL, MI; relative time
    "yahoo": {
        "vae": (328.8, 0.0, 0.0, 1.00), "annealing": (328.6, 0.0, 0.0, None),
        "beta 0.2": (333.1, 18.7, 3.4, None), "beta 0.4": (328.5, 3.8, 2.2, None),
        "beta 0.6": (328.6, 0.1, 0.1, None), "beta 0.8": (328.8, 0.0, 0.0, None),
        "aggressive": (328.0, 5.4, 3.0, 2.20), "aggressive + annealing": (326.6, 6.7, 3.2, None),
        ALONE: (328.1, None, None, None),
    },
    "yelp": {
        "vae": (358.2, 0.0, 0.0, 1.00), "annealing": (358.1, 0.0, 0.0, None),
        "beta 0.2": (360.4, 11.3, 3.3, None), "beta 0.4": (358.8, 4.0, 1.8, None),
        "beta 0.6": (358.1, 0.1, 0.1, None), "beta 0.8": (357.9, 0.0, 0.0, None),
        "aggressive": (357.0, 3.8, 2.6, 3.73), "aggressive + annealing": (355.9, 3.7, 2.3, None),
        ALONE: (357.3, None, None, None),
    },
    "omniglot": {
        "vae": (89.41, 1.5, 1.4, 1.00), "annealing": (89.20, 2.1, 1.9, None),
        "beta 0.2": (105.19, 69.1, 3.9, None), "beta 0.4": (95.89, 28.0, 3.9, None),
        "beta 0.6": (92.16, 20.4, 3.9, None), "beta 0.8": (89.27, 9.6, 3.9, None),
        "aggressive": (89.03, 2.5, 2.2, 2.19), "aggressive + annealing": (89.12, 2.5, 2.2, None),
        ALONE: (89.76, None, None, None),
    },
}  # fmt: skip

ORDER = [*PUBLISHED_TABLE["omniglot"], TRUTH]  # rows of a table


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


def _note(parts: Sequence[TextDataset]) -> str:
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
    what = "; ".join([*(dataset.describe() for dataset in sets), sizes])
    return Parts(name, "image", train, validation, test, build, what)


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
    columns = _language_columns(model, parts) if isinstance(model, StackedLanguageModel) else None
    if columns is None:
        columns = _vae_columns(model, parts, setting)
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


def generator_row(setting: Setting, preset: str, draws: int = 500) -> dict[str, Any]:
    """Of the generator of "synthetic", on the test part before its rare words became unknown:

        log p(y) = log mean_j p(y|z_j) p(z_j)/r(z_j),   z_j ~ r
        I = E_y [sum_j w_j log p(y|z_j) - log p(y)],    w_j the same ratios, their sum 1

    r: a Gaussian of the mean and twice the covariance of the posterior as draws of the prior show
    it. The logarithm of a mean is too low by about half of its relative variance, `nll_bias`.
    """
    generator = synthetic_generator()
    test = generator.draw(SYNTHETIC_SENTENCES["test"], seed=SPLITS.index("test"))[0]
    test = test.subset(_held_out(test, setting), seed=0)
    z = generator.draw(draws, seed=len(SPLITS))[1]
    sentences = (test.taken([i], {"step": "one"}) for i in range(test.n_samples))
    log_p, information, variance = np.array([_exact(generator, y, z) for y in sentences]).T
    found = {
        "nll": -log_p.mean(),
        "nll_bias": variance.mean() / 2,
        "mi_large": information.mean(),
        "mi_large_error": information.std(ddof=1) / test.n_samples**0.5,
    }
    place = {"data": "synthetic", "preset": preset, "remedy": TRUTH, "seed": 0}
    return place | {k: round(float(v), 5) for k, v in found.items()} | {"n_test": test.n_samples}


def _exact(
    generator: TextGenerator, sentence: TextDataset, z: np.ndarray
) -> tuple[float, float, float]:
    """log p(y), information, and relative variance of the mean; `z` from the prior."""
    weights = softmax(generator.log_conditional(sentence, z[None])[0])
    covariance = 2 * np.cov(z.T, aweights=weights) + 1e-3 * np.eye(z.shape[1])
    near = multivariate_normal(weights @ z, covariance)
    z = near.rvs(len(z), random_state=0)
    scores = generator.log_conditional(sentence, z[None])[0]
    ratios = scores + generator.log_prior(z) - near.logpdf(z)
    weights = softmax(ratios)
    log_p = float(logsumexp(ratios)) - math.log(len(z))
    return log_p, float(weights @ scores) - log_p, float((weights**2).sum()) - 1 / len(z)


def _language_columns(model: Any, parts: Parts) -> dict[str, np.ndarray]:
    """Of a language model: its exact likelihood."""
    nll = validate(model, parts.test, 32).objective
    return {"nll": nll, "perplexity": perplexity(-nll, parts.test)}


def page(document: dict[str, Any]) -> str:
    """docs/lagging.md: every table with what it was measured on."""
    found = document["rows"]
    cases = dict.fromkeys((row["data"], row["preset"]) for row in found)
    parts = [PAGE]
    for data, preset in cases:
        note = document["notes"][f"{data} {preset}"]
        shown = [f"## {data}, {preset} preset", verdict(found, data, preset), f"{note}."]
        parts += [*filter(None, shown), table(found, data, preset)]
    return "\n\n".join(parts) + "\n"


PAGE = """# Lagging inference networks: the published comparison, ours beside it

Written by `python -m analysis.lagging --page` from `analysis/lagging.json`; figures in nats per
image or sentence, means over seeds with their range, on the test part. The published columns (He
et al. 2019, submission, one run) are of the whole sets and the published networks: what can be
compared with a small preset is the order of the rows, not their values. NLL by importance sampling;
MI in batches of the training's size, so at most the logarithm of that but for noise, and in large
ones; AU: units whose posterior mean has a variance above 0.01; time: of training all seeds, over
the VAE's, on a machine with other work on it, so good to a third.

![The KL on the way, and NLL against KL in the end](lagging.png)

(`python -m figures --only lagging`.)
A straight rise of the KL on its logarithmic scale is an escape from collapse at a rate: aggressive
training shortens the way (`linvae.theory.dynamics`), the optimum is the same."""


def verdict(found: list[dict[str, Any]], data: str, preset: str) -> str:
    """Who is collapsed, and what information costs or brings; "" without two seeds of both."""
    mine = [row for row in found if (row["data"], row["preset"]) == (data, preset)]
    vae, lagging = (
        {row["seed"]: row for row in mine if row["remedy"] == name}
        for name in ("vae", "aggressive")
    )
    seeds = sorted(set(vae) & set(lagging))
    if len(seeds) < 2:
        return ""
    pairs = [(vae[seed], lagging[seed]) for seed in seeds]
    return f"{_information(pairs)} {_price(pairs)} {_way([before['path'] for before, _ in pairs])}"


Pairs = Sequence[tuple[dict[str, Any], dict[str, Any]]]  # VAE and aggressive, seed by seed


def _information(pairs: Pairs) -> str:
    means = [
        [statistics.fmean(pair[i][key] for pair in pairs) for key in ("kl", "mi_large")]
        for i in (0, 1)
    ]
    state = "is collapsed" if means[0][0] < COLLAPSED else "is not collapsed"
    more = all(own >= 3 * before for before, own in zip(*means, strict=True))
    (kl, mi), (own_kl, own_mi) = ([_number(value) for value in both] for both in means)
    return (
        f"The VAE {state}: KL {kl}, MI {mi} nats. Trained aggressively it has KL {own_kl}, MI "
        f"{own_mi}, {'at least' if more else 'not'} three times both."
    )


def _price(pairs: Pairs) -> str:
    gains = [own["nll"] - before["nll"] for before, own in pairs]
    gain = round(statistics.fmean(gains), 2) + 0.0  # no sign of zero
    error = statistics.stdev(gains) / len(gains) ** 0.5
    before, own = pairs[0]
    return (
        f"Its NLL is {gain:+.2f} nats from the VAE's (standard error {error:.2f}, {len(gains)} "
        f"seeds), its time {own['seconds'] / before['seconds']:.1f} of the VAE's (published: 2.2, "
        "3.7 and 2.2 on Yahoo, Yelp and Omniglot)."
    )


def _way(paths: Sequence[Sequence[tuple[int, float]]]) -> str:
    """Whether VAEs are leaving collapse or stay: the slope of log KL in the second half."""
    found = [1000 * _slope([at for at in one if 2 * at[0] >= one[-1][0]]) for one in paths]
    mean = statistics.fmean(found)
    slopes = f"{mean:+.1f} ({min(found):+.1f} to {max(found):+.1f})"
    says = "does not grow: it stays" if min(found) <= 0 else "grows: it is leaving, slowly"
    return (
        f"In the second half of the VAE's training the logarithm of its KL changes by {slopes} per "
        f"1000 steps, so it {says}."
    )


def _slope(path: Sequence[tuple[int, float]]) -> float:
    """Of log rate against steps, least squares."""
    steps, rates = np.array(path).T
    return float(np.polyfit(steps, np.log(np.maximum(rates, 1e-6)), 1)[0])


def table(found: list[dict[str, Any]], data: str, preset: str) -> str:
    """Markdown: means over seeds with their range, the published ones beside them."""
    header = (
        "remedy", "NLL", "-ELBO", "KL", "MI", "MI, large batches", "AU", "time",
        "encoder steps per decoder step",
        "published NLL", "KL", "MI", "time",
    )  # fmt: skip
    mine = [row for row in found if (row["data"], row["preset"]) == (data, preset)]
    base = [row["seconds"] for row in mine if row["remedy"] == "vae"]
    lines: list[Sequence[str]] = [header, ("---",) * len(header)]
    for name in sorted({row["remedy"] for row in mine}, key=ORDER.index):
        own = [row for row in mine if row["remedy"] == name]
        time = own[0]["seconds"] / base[0] if base and "seconds" in own[0] else None
        inner = [
            row["encoder_steps"] / row["decoder_steps"] for row in own if "encoder_steps" in row
        ]
        published = PUBLISHED_TABLE.get(data, {}).get(name, (None,) * 4)
        lines.append(
            (
                name,
                *(_spread([row[key] for row in own if key in row]) for key in COLUMNS),
                "-" if time is None else f"{time:.2f}",
                _spread(inner),
                *("-" if value is None else str(value) for value in published),
            )
        )  # fmt: skip
    return markdown(lines)


COLUMNS = ("nll", "nelbo", "kl", "mi", "mi_large", "active_units")


def _spread(values: Iterable[float]) -> str:
    seen = list(values)
    if len(seen) < 2:
        return _number(seen[0]) if seen else "-"
    mean, low, high = (_number(f(seen)) for f in (statistics.fmean, min, max))
    return f"{mean} ({low} to {high})"


def _number(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # 0.0: no sign of zero


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
