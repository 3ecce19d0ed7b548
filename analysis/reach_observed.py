"""Does the decoder's reach move the observed collapse as predicted? Writes reach_observed.json.

    python -m analysis.reach_observed [--data-dir DIR] [--only digits ...] [--members DIR] [--table]

Decoders of growing reach: PixelCNNs of the digits, 8x8 pixels made 0 or 1 at half of the range, by
the radius of all their kernels together; LSTMs of short_yelp's sentences, by their units. One
latent unit each.

Predicted (`linvae.theory.sequences`), from what a collapsed member of the same training predicts of
its own training data, for an encoder that can form any score:

- "fixed": the same pull on every pixel, or at every token on END, the 98 most frequent words and
  all others at once: the family of decoder_reach.json.
- "own": all that this very decoder can do to first order with what z is fed to, other weights as
  they are: the latent's maps of a PixelCNN, gates and first cell of an LSTM (`analysis.own_pulls`);
- "encoder", sentences alone: the same of what is left of the scores where the encoder is linear in
  the last LSTM state of the member at the lowest beta of the ladder.

The first two in sample, which is exact for training on these samples, and the ratio of the same
direction on new ones. Observed, in sample too:

- digits, information control at five set-points (`linvae.metrics.control`) and at 0, where the
  collapsed member is: the end at I = 0 of the line through log beta;
- sentences: an LSTM encoder wakes so late that control runs away, and that trainings from scratch
  collapse far below any threshold (`from_scratch`: nats by beta). So a second training goes on from
  the members of the lowest of these betas, at the constant betas of `LADDER`: the highest that
  leaves more than `ALIVE` nats, and the one above it (`alive_at`, `collapsed_at`). A seed that did
  not wake at the lowest beta tells nothing (alive_at None). The encoder grows with the decoder;
- both: a certificate, the largest (D_0 - D)/rate of any member less three standard errors, D_0 the
  least of the collapsed member and of all members that see z = 0.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import linvae
from analysis.nonlinear_thresholds import finite, markdown
from analysis.own_pulls import (
    Pulls,
    encoder_states,
    lstm_predictions,
    lstm_pulls,
    pixel_probabilities,
    pixelcnn_pulls,
    projected,
)
from linvae.comparison import write_text
from linvae.data import TextDataset, load_dataset, load_text_splits
from linvae.metrics import observe
from linvae.metrics.control import fit_threshold
from linvae.models import Architecture, build_model
from linvae.models.recurrent import SequenceSizes, StackedTextVAE
from linvae.spec import VAESpec
from linvae.theory.reach import frequent_classes
from linvae.theory.sequences import (
    ResidualThreshold,
    residual_threshold,
    token_threshold,
)
from linvae.train import (
    CellStore,
    ConstantBetas,
    InformationControl,
    TrainConfig,
    Trained,
    TrainingData,
    train_cells,
)

Array = npt.NDArray[np.float64]
Row = dict[str, Any]

SET_POINTS = (0.05, 0.1, 0.15, 0.2, 0.3)  # nats
SEEDS = (0, 1)
KERNELS = ((1,), (3,), (3, 3), (5, 3, 3))
HIDDEN = (4, 16, 64)
TRAINED_DIGITS = 1200
SENTENCES, WORDS, NEW_SENTENCES, N_CLASSES = 3000, 500, 1000, 100
PIXEL_CONFIG = TrainConfig(steps=3000, batch_size=32, draws=1)
CHOOSING, CERTIFYING = 2, 8  # passes over the data, two draws each
TEXT_CONFIG = TrainConfig(steps=1500, batch_size=32, draws=1, learning_rate=0.01)
LADDER_CONFIG = TrainConfig(steps=1500, batch_size=32, draws=1, learning_rate=0.005)
SCRATCH = (0.01, 0.2)
LADDER = (0.5, 0.8, 1.2, 1.8, 6.0)
ALIVE = 0.02  # nats, above the noise of idle units


@dataclass(frozen=True, eq=False)
class Case:
    """One decoder: training and new data, how a stack is made, and how it trains."""

    data: str
    decoder: str
    reach: int
    spec: VAESpec
    train: TrainingData
    new: TrainingData
    build: Callable[..., Any]
    config: TrainConfig

    @property
    def name(self) -> str:
        """Words for it."""
        return f"{self.data} {self.decoder} {self.reach}"


def radius(kernels: Sequence[int]) -> int:
    """Rows up and columns aside that the kernels see together, pixels."""
    return sum(kernel // 2 for kernel in kernels)


def digit_cases() -> Iterator[Case]:
    """PixelCNNs from no reach at all, the kernel of one pixel, which sees none before it."""
    dataset = load_dataset("digits")
    black = (dataset.target > 0.5 * dataset.target.max()).astype(np.float32)
    black = np.random.default_rng(0).permutation(black)
    parts = [
        TrainingData.from_arrays(rows, centered=False, image=dataset.image_layout())
        for rows in (black[:TRAINED_DIGITS], black[TRAINED_DIGITS:])
    ]
    spec = VAESpec(1, likelihood="bernoulli")
    for kernels in KERNELS:
        network = Architecture(
            "pixelcnn", encoder="mlp", hidden=64, kernels=kernels, pixel_channels=16,
            batch_norm=False, activation="elu",
        )  # fmt: skip
        build = partial(
            build_model, spec, parts[0].target, architecture=network, image=parts[0].image
        )
        yield Case("digits", "PixelCNN", radius(kernels), spec, *parts, build, PIXEL_CONFIG)


def text_cases(data_dir: Path | None) -> Iterator[Case]:
    """LSTMs of growing size."""
    train, new = sentences(data_dir)
    parts = [TrainingData.from_tokens(part.padded()) for part in (train, new)]
    spec = VAESpec(1, likelihood="multinomial")
    for hidden in HIDDEN:
        sizes = SequenceSizes(embedding=16, hidden=hidden, dropout=0.0)
        build = partial(StackedTextVAE, spec, vocabulary=len(train.vocabulary), sizes=sizes)
        yield Case("short_yelp", "LSTM", hidden, spec, *parts, build, TEXT_CONFIG)


def sentences(data_dir: Path | None) -> tuple[TextDataset, TextDataset]:
    """To train on, and new ones."""
    train, new, _ = load_text_splits(
        "short_yelp", data_dir=data_dir, max_words=WORDS, max_sentences=SENTENCES
    )
    return train, new.subset(NEW_SENTENCES, seed=0)


def trained(case: Case, store: CellStore | None) -> Trained:
    """All seeds; the last point is the collapsed one."""
    if case.data == "digits":
        return _cells(case, (*SET_POINTS, 0.0), _control, case.config, store)
    first = scratch(case, store)
    start = case.build(seeds=SEEDS, n_points=len(LADDER))
    lowest = {name: value[:, :1] for name, value in first.model.state_dict().items() if value.ndim}
    repeated = {k: v.repeat(1, len(LADDER), *[1] * (v.ndim - 2)) for k, v in lowest.items()}
    start.load_state_dict(start.state_dict() | repeated)
    return _cells(case, LADDER, _constant, LADDER_CONFIG, store, start)


def scratch(case: Case, store: CellStore | None) -> Trained:
    """Constant betas from the initial values; the lowest first."""
    return _cells(case, SCRATCH, _constant, case.config, store)


def _control(points: Sequence[float], n_seeds: int) -> InformationControl:
    return InformationControl(points, (1.0,), n_seeds, 0, torch.device("cpu"))


def _constant(points: Sequence[float], n_seeds: int) -> ConstantBetas:
    return ConstantBetas(points, (1.0,), torch.device("cpu"))


def _cells(
    case: Case,
    points: Sequence[float],
    weight: Callable[[Sequence[float], int], Any],
    config: TrainConfig,
    store: CellStore | None,
    start: Any = None,
) -> Trained:
    def tell(step: int) -> None:
        if step % 500 == 0:
            print(f"  {case.name}: {step} of {config.steps} steps", flush=True)

    return train_cells(
        case.spec, case.train, points=points, kl_weight=weight, config=config, seeds=SEEDS,
        store=store, build=case.build, progress=tell, start=start,
    )  # fmt: skip


# --- predicted -----------------------------------------------------------------------------------


def predicted(case: Case, result: Trained, seed: int) -> Row:
    """Of the collapsed member of one seed, both families, on training and on new data."""
    model, member = result.model, (seed, result.model.n_points - 1)
    given, new = case.train.target, case.new.target
    assert isinstance(given, torch.Tensor) and isinstance(new, torch.Tensor)
    if isinstance(model, StackedTextVAE):
        nats, fixed = _fixed_of_text(case, model, member)
        own = [lstm_pulls(model, member, tokens) for tokens in (given, new)]
    else:
        nats, fixed = _fixed_of_pixels(model, member, given, new)
        own = [pixelcnn_pulls(model, member, pixels) for pixels in (given, new)]
    rows = {"fixed": fixed, "own": _row(*_along_own(*own))}
    if isinstance(model, StackedTextVAE):
        scores = projected(own[0].scores, encoder_states(model, (seed, 0), given))
        seen = residual_threshold(scores, own[0].information[None])
        rows["encoder"] = {"critical_beta": round(float(seen.critical_beta[0]), 4)}
    return {"nats": round(nats[0], 3), "new_nats": round(nats[1], 3), "predicted": rows}


def _fixed_of_pixels(
    model: Any, member: tuple[int, int], given: torch.Tensor, new: torch.Tensor
) -> tuple[list[float], Row]:
    """Nats of both parts and the threshold over pulls that are the same whatever came before."""
    nats, parts = [], []
    for pixels in (given, new):
        y, p = np.asarray(pixels, np.float64), pixel_probabilities(model, member, pixels)
        nats.append(-float(np.sum(y * np.log(p) + (1 - y) * np.log1p(-p)) / len(y)))
        parts.append((y - p, p * (1 - p)))
    found = residual_threshold(*parts[0])
    c = found.directions[0]
    (scores, fisher) = parts[1]
    again = residual_threshold((scores @ c)[:, None], (fisher @ c**2)[:, None])
    return nats, _row(found, again)


def _fixed_of_text(
    case: Case, model: StackedTextVAE, member: tuple[int, int]
) -> tuple[list[float], Row]:
    """The same of frequent words; the classes are those of the training part."""
    given, new = (
        lstm_predictions(model, member, torch.as_tensor(part.target))
        for part in (case.train, case.new)
    )
    classes = frequent_classes(np.asarray(case.train.target), model.vocabulary, N_CLASSES)
    indicators = np.eye(N_CLASSES)[classes]
    found = token_threshold(given, embedding=indicators)
    again = token_threshold(new, embedding=(indicators @ found.directions[0])[:, None])
    return [given.nats, new.nats], _row(found, again)


def _along_own(given: Pulls, new: Pulls) -> tuple[ResidualThreshold, ResidualThreshold]:
    """Threshold in sample, and the ratio of its direction on new data."""
    found = residual_threshold(given.scores, given.information[None])
    c = found.directions[0]
    J = np.full((1, 1), c @ new.information @ c)
    return found, residual_threshold((new.scores @ c)[:, None], J)


def _row(found: ResidualThreshold, again: ResidualThreshold) -> Row:
    return {
        "critical_beta": round(float(found.critical_beta[0]), 4),
        "second": round(float(found.critical_beta[1]), 4),
        "directions": len(found.critical_beta),
        "noise_edge": round(found.noise_edge, 4),
        "offset": round(found.offset, 4),
        "on_new": round(float(again.critical_beta[0]), 4),
        "on_new_error": round(again.held_out_standard_error, 4),
    }


# --- observed ------------------------------------------------------------------------------------


def controlled(result: Trained, seed: int) -> Row:
    """The line of one seed's control runs."""
    information, factors, drifts = (
        np.asarray(result.found[name][seed], np.float64)[: len(SET_POINTS)]
        for name in ("information", "factor", "drift")
    )
    threshold, slope = line_of(information, factors)
    return {
        "information": information.round(4).tolist(),
        "betas": factors.round(4).tolist(),
        "drifts": drifts.round(4).tolist(),
        "observed": finite(float(threshold)),
        "slope": finite(float(slope)),
    }


def line_of(information: Array, factors: Array) -> tuple[float, float]:
    """End at I = 0 and slope of log factor, over the runs that reached their set-points."""
    reached = np.abs(information - SET_POINTS) <= 0.02 + 0.1 * np.asarray(SET_POINTS)
    return fit_threshold(information, factors, reached)


def ladder(case: Case, result: Trained, seed: int, store: CellStore | None) -> Row:
    """What constant betas leave of a model that was alive, and what they come to from scratch."""
    rates = observe(result.model, case.train).rates[seed, :, 0]
    first = observe(scratch(case, store).model, case.train).rates[seed, :, 0]
    low, high = bracket_of(rates)
    return {
        "rates": rates.round(4).tolist(),
        "alive_at": low,
        "collapsed_at": high,
        "from_scratch": dict(zip(map(str, SCRATCH), first.round(4).tolist(), strict=True)),
    }


def bracket_of(rates: Sequence[float]) -> tuple[float | None, float | None]:
    """The highest beta of `LADDER` whose member is alive, and the one above it."""
    alive = [i for i, rate in enumerate(rates) if rate > ALIVE]
    if not alive:
        return None, LADDER[0]
    return LADDER[alive[-1]], LADDER[alive[-1] + 1] if alive[-1] + 1 < len(LADDER) else None


def certificates(case: Case, result: Trained) -> tuple[Array, Array, Array]:
    """Bound less three errors, its error, and the rate of the member that gave it; (seeds,).

    Some draws choose the member, others certify it: the best of many ratios is luck in part.
    """
    idle = _idle_distortion(result.model, case.train)
    seen = [observe(result.model, case.train, seed=seed) for seed in range(CHOOSING + CERTIFYING)]
    gains = idle[:, None] - np.array([x.distortion[:, :-1] for x in seen])
    rates = np.array([x.rates[:, :-1, 0] for x in seen])
    ratios = np.where(rates > ALIVE, gains / rates, -np.inf)  # beside 0 it is all noise
    best = ratios[:CHOOSING].mean(axis=0).argmax(axis=1)
    chosen = np.take_along_axis(ratios[CHOOSING:], best[None, :, None], axis=2)[..., 0]
    with np.errstate(invalid="ignore"):  # no member of a seed is alive
        error = chosen.std(axis=0, ddof=1) / np.sqrt(CERTIFYING)
    return chosen.mean(axis=0) - 3 * error, error, rates[0, np.arange(len(best)), best]


@torch.no_grad()
def _idle_distortion(model: Any, data: TrainingData) -> Array:
    """D_0: the least distortion of all members of a seed that see z = 0, (seeds,)."""
    total = torch.zeros(len(model.seeds), model.n_points, dtype=torch.float64)
    for index in torch.arange(len(data)).split(100):
        target, condition = data.take(index[None])
        z = torch.zeros(*total.shape, len(index), model.spec.latent_dim)
        total -= model.log_likelihood_per_sample(z, target, condition).double().sum(-1)
    return np.asarray(total.min(dim=1).values / len(data))


def case_rows(case: Case, store: CellStore | None) -> Iterator[Row]:
    """One row per seed."""
    result = trained(case, store)
    bounds, errors, at = certificates(case, result)
    left = observe(result.model, case.train).rates[:, -1, 0]
    for s, seed in enumerate(SEEDS):
        row = {"data": case.data, "decoder": case.decoder, "reach": case.reach, "seed": seed}
        row |= predicted(case, result, s)
        row |= controlled(result, s) if case.data == "digits" else ladder(case, result, s, store)
        yield row | {
            "certified": finite(float(bounds[s])),
            "certified_error": finite(float(errors[s])),
            "certified_rate": round(float(at[s]), 4),
            "collapsed_rate": round(float(left[s]), 5),
            "n_samples": len(case.train),
            "n_new": len(case.new),
        }


def table(rows: Sequence[Row]) -> str:
    """Markdown, one line per row; observed: the line's end, or the bracket of the ladder."""
    header = (
        "data", "decoder", "reach", "seed", "nats", "new", "fixed", "on new", "own", "on new",
        "observed", "certified",
    )  # fmt: skip
    lines: list[Sequence[str]] = [header, ("---",) * len(header)]
    for row in rows:
        pulls = [
            f"{row['predicted'][family][key]:.3f}"
            for family in ("fixed", "own")
            for key in ("critical_beta", "on_new")
        ]
        if "observed" not in row:
            seen = f"{row['alive_at']} - {row['collapsed_at']}"
        elif row["observed"] is None:
            seen = "no line"
        else:
            seen = f"{row['observed']} ({row['observed'] / float(pulls[0]):.2f} of fixed)"
        names = (str(row[key]) for key in header[:4])
        nats = f"{row['nats']:.2f}", f"{row['new_nats']:.2f}"
        lines.append((*names, *nats, *pulls, seen, str(row["certified"])))
    return markdown(lines)


def main() -> None:
    """Train what is missing and write the rows after every decoder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--only", nargs="+", choices=("digits", "short_yelp"))
    parser.add_argument("--members", type=Path, default=Path("results/reach_observed"))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--table", action="store_true", help="print OUT, train nothing")
    args = parser.parse_args()
    kept = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
    if args.table:
        print(table(kept))
        return
    wanted = args.only or ("digits", "short_yelp")
    cases: list[Case] = list(digit_cases()) if "digits" in wanted else []
    if "short_yelp" in wanted:
        cases += text_cases(args.data_dir)
    store = CellStore(args.members)
    for case in cases:
        kept = [r for r in kept if (r["data"], r["reach"]) != (case.data, case.reach)]
        kept += case_rows(case, store)
        kept.sort(key=lambda r: (r["data"], r["reach"], r["seed"]))
        document = {"version": linvae.__version__, "rows": kept}
        write_text(args.out, json.dumps(document, indent=1) + "\n")
        print(table(kept[-len(SEEDS) :]), flush=True)


if __name__ == "__main__":
    main()
