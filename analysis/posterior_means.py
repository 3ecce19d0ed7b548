"""Posterior mean space of He et al. (ICLR 2019): where an encoder lags behind its decoder.

    python -m analysis.posterior_means [--out FILE]      writes posterior_means.json, 10 minutes

Of every sample the mean of the model's posterior p(z|y), on a grid, against the mean of q(z|y).
Two toys of one latent, each trained jointly ("basic") and with inner loops ("aggressive") from the
same initial values; both see the same batches. Steps are those of the decoder.

`text`: the published LSTMs, plain gradient descent with rate 1, on sentences of a generator, so
that the true information and likelihood are known. `linear`: y ~ N(0, 1), s = 1/4, whole batches,
small steps: the gradient flow of `linvae.theory.mode_flow`, whose posterior means per unit of y are

    (u/(u^2 + s/eta^2), w)

`clouds`: means in thousandths, of the first 500 samples or, between, of the first 50 of them; the
lag (root mean square difference) and the rate are of these, the information of all samples.
`finals`: information, and on new sentences the importance-weighted likelihood, beside `truth`.

Tried for `text`, one seed, 200 words, sentences of ten; I: nats at the end, truth to 0.1:

| latent_scale | true I | sentences | training   | steps | I                                       |
|--------------|--------|-----------|------------|-------|-----------------------------------------|
| 0.5          | 0.8    | 2000      | basic      | 1000  | 0.00                                    |
| 1            | 1.4    | 2000      | basic      | 1000  | 0.00                                    |
| 2            | 1.8    | 2000      | basic      | 1000  | 0.00                                    |
| 2            | 1.8    | 1000      | basic      | 4000  | 0.00                                    |
| 2            | 1.8    | 1000      | aggressive | 400   | 0.00, inner loops end at 126            |
| 3            | 1.9    | 2000      | basic      | 1500  | 0.00, kept here                         |
| 3            | 1.9    | 2000      | basic      | 2500  | 0.00                                    |
| 3            | 1.9    | 2000      | aggressive | 1500  | 1.08, kept here, inner loops end at 375 |

At scale 2 the rule ended inner loops at step 126, on the noise of an information of about 0: the
encoder's means scattered by 0.003 then. Scale and sentences were changed together; nothing else
was tried, neither Adam nor other seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import norm

import linvae
from linvae import VAESpec
from linvae.comparison import write_text
from linvae.data import SyntheticCorpus, synthetic_corpus
from linvae.metrics import (
    importance_weighted_likelihood,
    inference_lag,
    mutual_information,
    observe,
)
from linvae.models import StackedVAE, build_model
from linvae.models.recurrent import SMALL, TOY_LATENT_DIM, StackedTextVAE
from linvae.objectives import Terms
from linvae.train import Aggressive, Remedy, RemedyBetas, TrainConfig, TrainingData, train

Row = dict[str, Any]
Model = StackedTextVAE | StackedVAE
OUT = Path(__file__).with_suffix(".json")
ALL, FOLLOWED = 500, 50  # points, as published
UPDATES = ("basic", "aggressive")
THOUSAND = 1000


@dataclass(frozen=True)
class TextToy:
    """Corpus and training; `chosen`: steps at which all points are seen, `steps` the last."""

    n: int = 2000
    new: int = 200
    vocabulary: int = 200
    words: int = 10
    latent_scale: float = 3.0
    steps: int = 1500
    chosen: tuple[int, ...] = (10, 40, 150, 1500)
    frames: int = 40
    seed: int = 0


@dataclass(frozen=True)
class LinearToy:
    """Flow time is steps times `rate`; inner loops of up to `most_steps` are near the limit."""

    decoder_variance: float = 0.25
    start: float = 0.02  # of both weights; the encoder's variance begins at the prior's
    rate: float = 0.005
    most_steps: int = 300
    steps: tuple[int, int] = (1000, 120)  # basic, aggressive
    chosen: tuple[tuple[int, ...], ...] = ((1, 200, 350, 1000), (1, 20, 40, 120))
    frames: int = 40


@dataclass(frozen=True)
class Case:
    """One training, and the steps at which it is looked at."""

    toy: str
    update: str
    build: Callable[[], Model]
    data: TrainingData
    config: TrainConfig
    remedy: Remedy
    chosen: tuple[int, ...]
    evenly: Sequence[float]
    validation: TrainingData | None = None

    @property
    def looks(self) -> tuple[int, ...]:
        """0, the `evenly` spread steps rounded, and the chosen."""
        return tuple(sorted({0, *map(round, self.evenly), *self.chosen}))

    def first(self, n: int) -> TrainingData:
        """The first `n` samples, or all."""
        index = torch.arange(min(n, len(self.data)))
        lengths = None if self.data.lengths is None else self.data.lengths[index]
        return TrainingData(*self.data.take(index), lengths=lengths)


class Watched(RemedyBetas):
    """The remedy of one member, and a `look` after every step of its decoder."""

    def __init__(self, remedy: Remedy, model: Model, look: Callable[[int], None]) -> None:
        super().__init__([remedy], model.spec.betas, 1, torch.device("cpu"))
        self._look = look

    def observe(self, terms: Terms, progress: float, stepped: torch.Tensor | None = None) -> None:
        """Count the step and look, if it was the decoder's."""
        super().observe(terms, progress, stepped)
        if stepped is None or bool(stepped.any()):
            self._look(int(self.state()["steps"].item()))


def text_cases(toy: TextToy, corpus: SyntheticCorpus) -> list[Case]:
    """Basic and aggressive training on the sentences of `corpus`, `toy.new` others to validate."""
    spec = VAESpec(TOY_LATENT_DIM, likelihood="multinomial")
    words = len(corpus.dataset.vocabulary)
    config = TrainConfig(
        steps=toy.steps, batch_size=16, learning_rate=1.0, optimizer="sgd", momentum=0.0,
        clip_norm=5.0, schedule="constant", draws=1,
    )  # fmt: skip
    return [
        Case(
            "text", update,
            lambda: StackedTextVAE(spec, vocabulary=words, sizes=SMALL, seeds=(toy.seed,)),
            tokens(corpus), config, remedy, toy.chosen,
            np.geomspace(1, toy.steps, toy.frames).tolist(),
            tokens(SyntheticCorpus.draw(corpus.generator, toy.new, toy.seed + 1)),
        )
        for update, remedy in zip(UPDATES, (Remedy(), Remedy(aggressive=Aggressive(15, falls=1))),
                                  strict=True)
    ]  # fmt: skip


def tokens(corpus: SyntheticCorpus) -> TrainingData:
    return TrainingData.from_tokens(corpus.dataset.padded())


def linear_cases(toy: LinearToy) -> list[Case]:
    """The same on `ALL` quantiles of a normal, of variance 1, in random order."""
    y = norm.ppf((np.random.default_rng(0).permutation(ALL) + 0.5) / ALL)
    data = TrainingData.from_arrays((y / y.std())[:, None])
    remedies = (Remedy(), Remedy(aggressive=Aggressive(15, toy.most_steps, falls=None)))
    return [
        Case(
            "linear", update, lambda: linear_model(toy, data), data,
            TrainConfig(
                steps=steps, batch_size=ALL, optimizer="sgd", momentum=0.0, schedule="constant",
                learning_rate=toy.rate / toy.decoder_variance,  # in units of 1/curvature
            ),
            remedy, chosen, np.linspace(0, steps, toy.frames).tolist(),
        )
        for update, remedy, steps, chosen in zip(
            UPDATES, remedies, toy.steps, toy.chosen, strict=True
        )
    ]  # fmt: skip


def linear_model(toy: LinearToy, data: TrainingData) -> StackedVAE:
    model = build_model(VAESpec(1, decoder_variance=toy.decoder_variance), data.target, seeds=(0,))
    for weight in (*model.encoders.parameters(), *model.decoders.parameters()):
        weight.data.fill_(toy.start)
    return model


def trained(case: Case) -> tuple[Model, list[Row], Row]:
    """Train; the clouds seen on the way, and how many steps were made."""
    model, clouds = case.build(), []

    def look(step: int) -> None:
        if step in case.looks:
            clouds.append(cloud(case, model, step))

    look(0)
    kl_weight = Watched(case.remedy, model, look)
    start = time.process_time()
    result = train(model, case.data, kl_weight, case.config, validation=case.validation)
    counts = {name: int(count.item()) for name, count in result.counts.items()}
    steps = {"toy": case.toy, "update": case.update, "decoder_steps": result.steps} | counts
    return model, clouds, steps | {"cpu_seconds": round(time.process_time() - start, 1)}


def cloud(case: Case, model: Model, step: int) -> Row:
    """Where the points are."""
    some = case.first(ALL if step in case.chosen else FOLLOWED)
    lag = inference_lag(model, some, method="grid", samples=len(some))
    return {
        "toy": case.toy, "update": case.update, "step": step,
        "model_means": thousandths(lag.model_means),
        "encoder_means": thousandths(lag.encoder_means),
        "lag": rounded(lag.distances), "gap_nats": rounded(lag.gaps),
        "rate_nats": rounded(observe(model, some).rates),
        "information_nats": rounded(mutual_information(model, case.data).nats),
    }  # fmt: skip


def thousandths(values: np.ndarray) -> list[int]:
    return np.round(THOUSAND * values.ravel()).astype(int).tolist()


def rounded(value: np.ndarray | float) -> float:
    return round(float(np.asarray(value).item()), 4)


def final(model: Model, case: Case, new: SyntheticCorpus) -> Row:
    """What a trained text model knows, of the sentences it saw and of new ones."""
    information, seen = mutual_information(model, case.data), observe(model, case.data)
    fresh = importance_weighted_likelihood(model, tokens(new))
    return {
        "rate_nats": rounded(seen.rates),
        "active_units": int(seen.active_units.item()),
        "information_nats": rounded(information.nats),
        "information_error": rounded(information.errors),
        "new_rate_nats": rounded(observe(model, tokens(new)).rates),
        "new_log_likelihood": rounded(fresh.log_likelihood),
        "new_log_likelihood_error": rounded(fresh.errors),
        "new_elbo": rounded(fresh.elbo),
    }


def truth(new: SyntheticCorpus) -> Row:
    """The same of the generator: I(y;z) and log p(y), means over these sentences."""
    information, error = new.true_mutual_information()
    likelihood = new.true_log_likelihood()
    return {
        "information_nats": round(information, 4),
        "information_error": round(error, 4),
        "new_log_likelihood": rounded(likelihood.mean()),
        "new_log_likelihood_error": rounded(likelihood.std(ddof=1) / math.sqrt(len(likelihood))),
    }


def measured(text: TextToy, linear: LinearToy) -> Row:
    """Everything that the file holds but versions."""
    corpus = synthetic_corpus(
        text.n, latent_dim=TOY_LATENT_DIM, vocabulary_size=text.vocabulary, length=text.words,
        hidden=SMALL.hidden, latent_scale=text.latent_scale, seed=text.seed,
    )  # fmt: skip
    new = SyntheticCorpus.draw(corpus.generator, text.new, text.seed + 2)
    clouds, finals = [], []
    for case in (*linear_cases(linear), *text_cases(text, corpus)):
        model, seen, counts = trained(case)
        clouds += seen
        finals.append(counts | (final(model, case, new) if case.toy == "text" else {}))
        print(finals[-1], flush=True)
    return {
        "settings": {"text": asdict(text) | {"sizes": asdict(SMALL)}, "linear": asdict(linear)},
        "truth": truth(new),
        "finals": finals,
        "clouds": clouds,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Train all four and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # the stacks are small
    start = time.perf_counter()
    record = measured(TextToy(), LinearToy())
    versions = {"linvae": linvae.__version__, "torch": torch.__version__, "numpy": np.__version__}
    record["settings"] |= {"seconds": round(time.perf_counter() - start), "versions": versions}
    write_text(args.out, dumped(record))


def dumped(record: Row) -> str:
    """JSON with one cloud a line."""
    clouds = ",\n".join(json.dumps(row, separators=(",", ":")) for row in record["clouds"])
    rest = json.dumps({k: v for k, v in record.items() if k != "clouds"}, indent=1)
    return f'{rest[:-2]},\n "clouds": [\n{clouds}\n]}}\n'


if __name__ == "__main__":
    main()
