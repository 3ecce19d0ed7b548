"""`python -m linvae.diagnose ENCODER`: is this collapse the one that theory predicts?

load -> moments -> encode -> one table, one sentence, one picture (`linvae.diagnosis`). Exit code
0 = ran, whatever the verdict; 2 = usage or unusable input; 3 = data missing.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from linvae.cli import (
    Parser,
    add_output_arguments,
    add_own_data_arguments,
    data_lines,
    exit_codes,
    open_source,
    positive_float,
    refuse_idle_data,
    write_run_file,
)
from linvae.result_folder import all_or_nothing, alone_in, check_writable

if TYPE_CHECKING:
    from linvae.data import Dataset
    from linvae.data.own import OwnData
    from linvae.diagnosis import Diagnosis

EXAMPLES = """\
ENCODER and --decoder are files of TorchScript (.pt, .ts) or ONNX (.onnx). The encoder takes samples
(n, d), float32, scaled as in its training, and returns (mean, log_variance), (n, k) each:
  torch.jit.trace(encoder, batch).save("encoder.pt")
A TorchScript file is a program, which can do what you can: run only files that you trust.

examples:
  python -m linvae.diagnose encoder.pt --data samples.npy --beta 1 --decoder-variance 0.1
  python -m linvae.diagnose encoder.onnx --dataset mnist --beta 4 --out results/diagnosis
  python -m linvae.diagnose encoder.pt --data y.npy --condition x.npy --decoder decoder.pt --json
"""


def parser() -> Parser:
    """All options, with units and defaults."""
    p = Parser(
        prog="linvae diagnose",
        description="Observed against predicted KL of every unit of a trained encoder, and why.",
        examples=EXAMPLES,
        config=True,
    )
    p.add_argument("encoder", type=Path, help="file of the trained encoder, see below")
    add_own_data_arguments(p, default="none: that, or --data")
    p.add_argument(
        "--condition",
        type=Path,
        help="what encoder and decoder see besides: a file as --data (default: none)",
    )
    p.add_argument(
        "--decoder", type=Path, help="its file: the objective is compared too (default: none)"
    )
    p.add_argument("--beta", type=positive_float, default=1.0, help="weight on KL, default 1")
    p.add_argument(
        "--decoder-variance",
        type=positive_float,
        default=1.0,
        help="variance of p(y|z), data units squared (default 1; 0.5 where the loss is the summed "
        "squared error itself)",
    )
    p.add_argument(
        "--prior-variance", type=positive_float, default=1.0, help="latent units^2, default 1"
    )
    p.add_argument(
        "--encoder-variance", type=positive_float, help="latent units^2 (default: learned)"
    )
    p.add_argument(
        "--trust-log-variances",
        action="store_true",
        help="go on where the log-variances look like variances (default: refuse)",
    )
    p.add_argument(
        "--out",
        type=Path,
        help="folder for report.html, diagnosis.json and pictures (default: none)",
    )
    add_output_arguments(
        p, json="print diagnosis.json instead of the table", quiet="print the sentence only"
    )
    p.set_defaults(model="vae")  # of datasets: a condition comes as a file
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    with exit_codes(arguments) as status:
        p = parser()
        args = p.parse_args(arguments)
        if not (args.data or args.dataset):
            p.error("the data of the training are missing: give --data FILE, or --dataset NAME")
        refuse_idle_data(p, args)
        if args.out:
            check_writable(args.out)
        data = open_source(args)
        target, condition = _arrays(args, data)
        from linvae.diagnosis import diagnose  # with torch: seconds, so after the checks

        found = diagnose(
            args.encoder,
            target,
            condition=condition,
            beta=args.beta,
            decoder_variance=args.decoder_variance,
            prior_variance=args.prior_variance,
            encoder_variance=args.encoder_variance,
            decoder=args.decoder,
            trust_log_variances=args.trust_log_variances,
        )
        if args.out:
            command = shlex.join(["python", "-m", "linvae.diagnose", *arguments])
            _write(found, args, command)
        _show(found, args, data)
    return status.code


def _arrays(args: argparse.Namespace, data: Dataset | OwnData) -> tuple[Any, Any]:
    """Target and condition, the latter of a file of its own where there is one."""
    from linvae.data.own import OwnData, open_own_data

    target, condition = data.arrays() if isinstance(data, OwnData) else (data.target, None)
    if not args.condition:
        return target, condition
    if condition is not None:
        raise ValueError(
            f"--condition {args.condition}: {args.data} has a condition of its own, of "
            f"{condition.shape[1]} columns; leave one of them out"
        )
    given, more = open_own_data(args.condition).arrays()
    if more is not None:
        raise ValueError(f"--condition {args.condition} holds two arrays: store the one alone")
    return target, given


def _write(found: Diagnosis, args: argparse.Namespace, command: str) -> None:
    """All files or none, and run.toml that makes them again."""
    from linvae.comparison import write_text
    from linvae.diagnosis.page import write_diagnosis_report
    from linvae.drawing import save_drawing

    title = "Observed against predicted KL per unit"
    with (
        alone_in(args.out),
        all_or_nothing(args.out, outputs=("diagnosis", "report", "run")) as staged,
    ):
        write_text(staged / "diagnosis.json", _json(found) + "\n")
        figure = save_drawing(found.draw(), "diagnosis", title, staged)
        write_diagnosis_report(found, figure, staged, command)
        write_run_file(staged, "linvae diagnose", args)


def _show(found: Diagnosis, args: argparse.Namespace, data: Dataset | OwnData) -> None:
    if args.json:
        print(_json(found))
        return
    if not args.quiet:
        from linvae.report import terminal

        print(data_lines(data))
        terminal(piped_width=120).print(found.table())
    print(found.sentence)


def _json(found: Diagnosis) -> str:
    """All numbers; null where there is none."""
    from linvae.comparison import json_text

    content: dict[str, Any] = {
        "verdict": found.verdict,
        "sentence": found.sentence,
        "predicted_rate_nats": found.predicted_rate,
        "observed_rate_nats": found.observed_rate,
        "predicted_active_units": found.predicted_active_units,
        "observed_active_units": found.observed_active_units,
        "linear_objective_nats": found.linear.objective,
        "objective_nats": found.objective_nats,
        "objective_error_nats": found.objective_error,
        "fitting_beta": found.fitting_beta,
        "n_samples": found.n_samples,
    }
    content["units"] = found.to_rows()
    content["modes"] = [asdict(mode) for mode in found.modes]
    return json_text(content)


if __name__ == "__main__":
    sys.exit(main())
