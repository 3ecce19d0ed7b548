"""`python -m linvae.text`: train a VAE of sentences, and see what it says.

    train         vocabulary, LSTM VAE, a remedy if asked for; is it collapsed?
    samples       sentences from the prior
    reconstruct   sentences encoded and decoded: greedy, beam, sampled
    interpolate   from one sentence to another

Exit code 0 = ran, 2 = usage or unusable data, 3 = data missing.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linvae.cli import (
    Parser,
    add_output_arguments,
    add_reconstruction_arguments,
    count,
    exit_codes,
    positive_float,
    positive_int,
    print_json,
    progress_bars,
    reconstruction_of,
    refuse_idle_reconstruction,
    write_run_file,
)
from linvae.compare import TRAINING_REMEDIES
from linvae.printable import printable
from linvae.result_folder import all_or_nothing, alone_in, check_writable

if TYPE_CHECKING:
    from linvae.data import TextDataset
    from linvae.text_samples import Settings
    from linvae.train import TextPreset

EXAMPLES = """examples:
  linvae text train --dataset short-yelp --remedy aggressive --out results/yelp
  linvae text samples results/yelp -n 10 --json
  linvae text reconstruct results/yelp "the food was great" "never again"
  linvae text interpolate results/yelp "the food was great" "never again" --steps 5
"""
PRESETS = ("small", "published")  # `linvae.train.TEXT_PRESETS`, which is slow to import
ADAM_RATE = 2e-3
COLLAPSED = 0.1  # nats of information, below which a model is called collapsed
FLOORS = {"free-bits": 0.5, "total-free-bits": 3.0}  # nats, unless asked for


def parser() -> Parser:
    """All subcommands."""
    p = Parser(
        prog="linvae text",
        description="Train a VAE of sentences, and see what it says.",
        examples=EXAMPLES,
    )
    commands = p.add_subparsers(dest="command", required=True)
    _train_arguments(commands.add_parser(
        "train", help="train and save a model", examples=EXAMPLES, config=True
    ))  # fmt: skip
    samples = commands.add_parser("samples", help="sentences from the prior", examples=EXAMPLES)
    _model_arguments(samples)
    samples.add_argument("-n", "--number", type=positive_int, default=5, help="default 5")
    reconstruct = commands.add_parser(
        "reconstruct", help="encode and decode sentences", examples=EXAMPLES
    )
    _model_arguments(reconstruct)
    reconstruct.add_argument("sentences", nargs="+", help="words with spaces between them")
    interpolate = commands.add_parser(
        "interpolate", help="from one sentence to another", examples=EXAMPLES
    )
    _model_arguments(interpolate)
    interpolate.add_argument("first", help="words with spaces between them, of share 0")
    interpolate.add_argument("last", help="likewise, of share 1")
    interpolate.add_argument("--steps", type=positive_int, default=7, help="lines, default 7")
    interpolate.add_argument("--spherical", action="store_true", help="turn, not straight on")
    return p


def _train_arguments(p: argparse.ArgumentParser) -> None:
    source = p.add_mutually_exclusive_group()
    source.add_argument("--dataset", default="synthetic", help="default synthetic; see linvae data")
    source.add_argument(
        "--path",
        type=Path,
        help=("a text file of your own, one sentence per line (default: --dataset)"),
    )
    p.add_argument(
        "--data-dir",
        type=Path,
        help=("folder with the files (default: LINVAE_DATA, then the user cache)"),
    )
    p.add_argument("--max-sentences", type=positive_int, help="of each file (default: all)")
    p.add_argument("--beta", type=positive_float, default=1.0, help="KL weight, default 1")
    p.add_argument("--remedy", choices=("none", *TRAINING_REMEDIES), default="none", metavar="NAME",
                   help=(
        "against collapse, default none; aggressive takes five to ten times as long with the small "
        "preset, two to four with the published one: " + ", ".join(TRAINING_REMEDIES)
    ))  # fmt: skip
    p.add_argument("--floor", type=positive_float, metavar="NATS", help=(
        "of free bits: under the rate of each unit (default {free-bits}), or of all of them "
        "(total-free-bits, default {total-free-bits})".format_map(FLOORS)
    ))  # fmt: skip
    add_reconstruction_arguments(p)
    preset = p.add_argument_group("networks and training")
    preset.add_argument("--preset", choices=PRESETS, default="small", help=(
        "small: for a CPU (default); published: of He et al. 2019, for a GPU. What follows "
        "changes one thing of it"
    ))  # fmt: skip
    preset.add_argument(
        "--words", type=positive_int, help="of the vocabulary; default 1000, published 20000"
    )
    preset.add_argument("--latent-dim", type=positive_int, help="units; default 2, published 32")
    preset.add_argument(
        "--embedding", type=positive_int, help="dimensions; default 50, published 512"
    )
    preset.add_argument(
        "--hidden", type=positive_int, help="LSTM units; default 50, published 1024"
    )
    preset.add_argument("--epochs", type=positive_int, help="at most; default 25, published 100")
    preset.add_argument(
        "--batch-size", type=positive_int, help="sentences; default 16, published 32"
    )
    preset.add_argument("--optimizer", choices=("sgd", "adam"), help="default sgd")
    preset.add_argument("--learning-rate", type=positive_float, help=(
        f"default 1, with adam {ADAM_RATE:g}"
    ))  # fmt: skip
    p.add_argument("--seed", type=count, default=0, help="of everything random, default 0")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default auto)")
    p.add_argument(
        "--tensorboard", type=Path, metavar="FOLDER", help="curves while it trains (default: none)"
    )
    p.add_argument("--out", type=Path, default=Path("results/text"), help=(
        "folder of the model, default results/text"
    ))  # fmt: skip
    add_output_arguments(
        p, json="print what the test part says as JSON", quiet="no progress, no data; the test only"
    )


def _model_arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("model", type=Path, help="folder that `linvae text train` wrote")
    p.add_argument("--max-length", type=positive_int, default=40, help="words at most, default 40")
    p.add_argument("--width", type=positive_int, default=5, help="of the beam, default 5")
    p.add_argument("--temperature", type=positive_float, default=1.0, help=(
        "of what is sampled, no unit, default 1"
    ))  # fmt: skip
    p.add_argument("--top-p", type=positive_float, metavar="SHARE", help=(
        "share of the probability that is sampled from, up to 1 (default: all of it)"
    ))  # fmt: skip
    p.add_argument("--seed", type=count, default=0, help="of what is sampled, default 0")
    add_output_arguments(
        p, json="print names and sentences as JSON", quiet="print the sentences alone"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    with exit_codes(arguments) as status:
        p = parser()
        args = p.parse_args(arguments)
        if args.command == "train":
            refuse_idle_reconstruction(p, args)
            check_writable(args.out)
            with alone_in(args.out):
                _train(args)
        else:
            _say(args)
    return status.code


def _train(args: argparse.Namespace) -> None:
    from linvae.data import load_text_splits
    from linvae.models.recurrent import StackedTextVAE
    from linvae.models.saved import save_text_model
    from linvae.spec import VAESpec
    from linvae.train import (
        CellStore,
        RemedyBetas,
        TensorBoard,
        TrainingData,
        named_remedy,
        pick_device,
        train_cells,
    )

    floor = _floor(args)
    device, preset = pick_device(args.device), _preset(args)
    name = None if args.path else args.dataset
    parts = load_text_splits(
        name, path=args.path, data_dir=args.data_dir, max_words=preset.words,
        max_sentences=args.max_sentences,
    )  # fmt: skip
    silent = args.quiet or args.json
    if not silent:
        print(*(printable(f"{part.describe()}\n  {part.note}") for part in parts), sep="\n")
    _check_test(parts[2])
    data = [TrainingData.from_tokens(part.padded(), device) for part in parts]
    config, inner = preset.for_sentences(len(data[0])), preset.aggressive
    spec = VAESpec(preset.latent_dim, beta=args.beta, likelihood="multinomial")
    words = len(parts[0].vocabulary)
    remedy = named_remedy(
        args.remedy, config.steps, window=inner.window, falls=inner.falls, floor_nats=floor,
        **reconstruction_of(args),
    )  # fmt: skip

    def build(**stack: Any) -> StackedTextVAE:
        return StackedTextVAE(spec, vocabulary=words, sizes=preset.sizes, **stack).to(device)

    with (
        progress_bars(silent) as progress,
        TensorBoard(args.tensorboard) if args.tensorboard else nullcontext() as board,
    ):
        trained = train_cells(
            spec,
            data[0],
            points=(remedy,),
            kl_weight=lambda points, n: RemedyBetas(points, spec.betas, n, device),
            config=config,
            validation=data[1],
            seeds=(args.seed,),
            store=CellStore(args.out / "members"),
            progress=progress and (lambda step: progress("training", step, config.steps)),
            log=board,
            build=build,
        )
    model: Any = trained.model
    found = _evaluated(model, data[2])
    with all_or_nothing(args.out, outputs=("model", "state", "vocabulary", "run")) as staged:
        save_text_model(staged, model, parts[0].vocabulary)
        write_run_file(staged, "linvae text train", args)
    if args.json:
        print_json({"model": str(args.out), **found})
    else:
        print(*_report(found, args.remedy, args.beta), sep="\n")
    if not silent:
        print(f"model: {args.out}")


def _preset(args: argparse.Namespace) -> TextPreset:
    """The preset with what else was asked for."""
    from linvae.train import TEXT_PRESETS

    asked = {name: value for name, value in vars(args).items() if value is not None}
    if args.optimizer == "adam":
        asked.setdefault("learning_rate", ADAM_RATE)

    def changed(record: Any) -> Any:
        own = {field.name for field in fields(record)} & set(asked)
        return replace(record, **{name: asked[name] for name in own})

    preset: TextPreset = changed(TEXT_PRESETS[args.preset])
    return replace(preset, sizes=changed(preset.sizes), config=changed(preset.config))


def _floor(args: argparse.Namespace) -> float:
    """Nats of free bits; refused where the remedy has none."""
    if args.floor is not None and args.remedy not in FLOORS:
        raise ValueError(
            f"--floor {args.floor:g} has no effect with --remedy {args.remedy}: give one of "
            f"{', '.join(FLOORS)}, or leave it out"
        )
    return float(args.floor or FLOORS.get(args.remedy, 0.0))


def _check_test(part: TextDataset) -> None:
    """Refuse before any training what cannot be evaluated after it: information needs two."""
    if part.n_samples < 2:
        raise ValueError(
            f"{part.describe()}: {part.n_samples} sentence(s), and at least 2 are needed; give "
            "more, with --max-sentences at least 2"
        )


def _evaluated(model: Any, test: Any) -> dict[str, Any]:
    """Likelihood, rate and information on the test part."""
    from linvae.metrics import (
        importance_weighted_likelihood,
        mutual_information,
        observe,
        perplexity,
    )

    weighted = importance_weighted_likelihood(model, test, samples=100)
    likelihood = float(weighted.log_likelihood[0, 0])
    seen, information = observe(model, test), mutual_information(model, test)
    if not math.isfinite(likelihood):
        raise ValueError("training diverged in its last steps: lower --learning-rate")
    nats = float(information.nats[0, 0])
    return {
        "negative_log_likelihood_nats": -likelihood,
        "perplexity": float(perplexity(weighted.log_likelihood, test)[0, 0]),
        "rate_nats": float(seen.rates.sum()),
        "information_nats": nats,
        "information_error_nats": float(information.errors[0, 0]),
        "information_cap_nats": float(information.cap_nats),
        "active_units": int(seen.active_units.sum()),
        "units": model.spec.latent_dim,
        "collapsed": nats < COLLAPSED,
    }


def _report(found: dict[str, Any], remedy: str, beta: float) -> list[str]:
    """What was found on the test part, and what it means."""
    lines = [
        f"test: NLL {found['negative_log_likelihood_nats']:.2f} nats per sentence (importance "
        f"sampling, 100 draws), perplexity {found['perplexity']:.1f}",
        f"      KL {found['rate_nats']:.3f} nats, mutual information "
        f"{found['information_nats']:.3f} +- {found['information_error_nats']:.3f} (at most "
        f"{found['information_cap_nats']:.2f}), {found['active_units']} of {found['units']} units "
        "active",
    ]
    return [*lines, _collapsed(found["rate_nats"], remedy, beta)] if found["collapsed"] else lines


def _collapsed(rate: float, remedy: str, beta: float) -> str:
    """What to try where the latent says nothing, though it may have a rate."""
    held = rate >= COLLAPSED and remedy in FLOORS
    why = ", its rate is what free bits do not charge for" if held else ""
    others = (name for name in ("aggressive", "total-free-bits") if name not in remedy)
    advice = ", ".join(f"--remedy {name}" for name in others)
    return (
        f"collapsed: the latent says nothing about the sentences{why}. At beta = {beta:g} a "
        "decoder that predicts the next word well gains little from it; try "
        f"{advice}, a smaller --beta or more sentences"
    )


def _say(args: argparse.Namespace) -> None:
    from linvae.data import Vocabulary
    from linvae.models.recurrent import StackedTextVAE
    from linvae.models.saved import load_text_model
    from linvae.text_samples import interpolation, prior_samples, reconstruction

    model, words = load_text_model(args.model)
    vocabulary, settings = Vocabulary(words), _settings(args)
    if args.command == "samples":
        said = prior_samples(model, vocabulary, args.number, settings=settings)
    elif not isinstance(model, StackedTextVAE):
        raise ValueError(f"model {args.model} is a language model: it has samples only")
    elif args.command == "reconstruct":
        said = reconstruction(model, vocabulary, args.sentences, settings=settings)
    else:
        said = interpolation(
            model, vocabulary, args.first, args.last, steps=args.steps,
            spherical=args.spherical, settings=settings,
        )  # fmt: skip
    if args.json:
        print_json(said.to_rows())
    elif args.quiet:
        print(*(printable(str(row["sentence"])) for row in said.to_rows()), sep="\n")
    else:
        print(*said.lines, sep="\n")


def _settings(args: argparse.Namespace) -> Settings:
    from linvae.text_samples import Settings

    tokens = args.max_length + 1  # the words, and the end
    return Settings(
        max_length=tokens, width=args.width, temperature=args.temperature, top_p=args.top_p,
        seed=args.seed,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
