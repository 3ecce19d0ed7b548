"""`linvae diagnose`: a saved encoder and samples in, one table and one sentence out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from linvae.__main__ import main as linvae
from linvae.diagnosis import ALIVE_AS_PREDICTED, OPTIMISATION
from linvae.moments import Moments
from linvae.spec import VAESpec
from linvae.testing import spectrum_data
from linvae.theory import solve

SPEC = VAESpec(2, beta=0.5, decoder_variance=0.2)
OPTIONS = ["--beta", "0.5", "--decoder-variance", "0.2"]


class Encoder(nn.Module):
    """The optimum of `SPEC`; a dead one keeps its first unit only."""

    def __init__(self, weights, dead):
        super().__init__()
        on = torch.tensor([1.0, 0.0 if dead else 1.0])
        log_variance = torch.as_tensor(np.log(np.diag(weights["Sigma"]))).float()
        self.W = nn.Parameter(torch.as_tensor(weights["W"]).float() * on[:, None])
        self.log_variance = nn.Parameter(log_variance * on)

    def forward(self, y):
        mean = y @ self.W.T
        return mean, self.log_variance + 0 * mean


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    data = spectrum_data((4.0, 1.0, 0.25))
    np.save(folder / "y.npy", data)
    weights = solve(SPEC, Moments.from_data(data)).weights
    for name, dead in (("good", False), ("dead", True)):
        script = torch.jit.trace(Encoder(weights, dead), torch.zeros(1, 3))
        script.save(folder / f"{name}.pt")
    decoder = nn.Linear(2, 3, bias=False)
    decoder.weight.data = torch.as_tensor(weights["U"]).float()
    torch.jit.trace(decoder, torch.zeros(1, 2)).save(folder / "decoder.pt")
    return folder


def run(files, name, *options):
    return linvae(["diagnose", str(files / name), "--data", str(files / "y.npy"), *options])


@pytest.mark.parametrize(
    ("name", "verdict"),
    [
        ("good.pt", ALIVE_AS_PREDICTED),
        ("dead.pt", OPTIMISATION),
    ],
    ids=["good", "dead"],
)
def test_verdict_table_and_sentence(files, name, verdict, capsys):
    assert run(files, name, *OPTIONS) == 0
    out = capsys.readouterr().out
    assert out.startswith("data: y.npy: n 1000, dim 3, sha256 ")
    assert "predicted, nats" in out
    assert f"{verdict[0].upper()}{verdict[1:]}. Of 2 units at beta = 0.5" in out


def test_json_and_files(files, tmp_path, capsys):
    options = ["--decoder", str(files / "decoder.pt"), "--out", str(tmp_path / "d"), "--json"]
    assert run(files, "good.pt", *OPTIONS, *options) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "d" / "diagnosis.json").read_text())
    assert {p.name for p in (tmp_path / "d").iterdir()} == {
        "diagnosis.json",
        "diagnosis.png",
        "diagnosis.pdf",
        "report.html",
        "run.toml",
    }
    assert found["verdict"] == ALIVE_AS_PREDICTED
    assert found["n_samples"] == 1000
    gap = found["objective_nats"] - found["linear_objective_nats"]
    assert abs(gap) < 5 * found["objective_error_nats"]
    # log(4/0.1)/2, log(1/0.1)/2
    seen = [unit["observed_nats"] for unit in found["units"]]
    np.testing.assert_allclose(seen, [1.8444, 1.1513], atol=1e-4)


def test_quiet_says_one_sentence_and_unknown_numbers_are_null(files, capsys):
    assert run(files, "good.pt", *OPTIONS, "--quiet") == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert run(files, "good.pt", *OPTIONS, "--json") == 0
    assert json.loads(capsys.readouterr().out)["objective_nats"] is None


def test_a_dataset_by_name_must_fit_the_encoder(files, capsys):
    assert linvae(["diagnose", str(files / "good.pt"), "--dataset", "digits"]) == 2
    error = capsys.readouterr().err
    assert "cannot take a batch of shape (1797, 64) (" in error
    assert len(error.splitlines()) == 1


def test_data_must_be_named(files, capsys):
    with pytest.raises(SystemExit) as stop:
        linvae(["diagnose", str(files / "good.pt")])
    assert stop.value.code == 2
    assert "missing: give --data FILE, or --dataset NAME" in capsys.readouterr().err


def test_every_format_and_a_condition_of_its_own(files, tmp_path, capsys):
    """The same verdict and rates of .npy, .csv and images' worth of axes; a condition is seen."""
    y = np.load(files / "y.npy")
    np.savetxt(tmp_path / "y.csv", y, delimiter=",")
    np.savez(tmp_path / "y.npz", other=y[:9], mine=2 * y[:, None, :])
    found = []
    for options in (
        [str(files / "y.npy")],
        [str(tmp_path / "y.csv")],
        [str(tmp_path / "y.npz"), "--array", "mine", "--scale", "0.5"],
    ):
        run = ["diagnose", str(files / "good.pt"), "--data", *options, *OPTIONS, "--json"]
        assert linvae(run) == 0
        found.append(json.loads(capsys.readouterr().out))
    rates = [[unit["observed_nats"] for unit in one["units"]] for one in found]
    np.testing.assert_allclose(rates[1:], [rates[0]] * 2, rtol=1e-5)
    assert [mode["mode"] for mode in found[0]["modes"]] == [1, 2]
    assert [unit["mode"] for unit in found[0]["units"]] == [1, 2]


class Conditional(nn.Module):
    """Sees both; at the prior."""

    def forward(self, y, x):
        zero = y[:, :1] * 0 * x[:, :1]
        return zero, zero


def test_a_condition_of_a_file_or_of_the_data(files, tmp_path, capsys):
    y = np.load(files / "y.npy")
    torch.jit.trace(Conditional(), (torch.zeros(1, 2), torch.zeros(1, 1))).save(tmp_path / "c.pt")
    np.save(tmp_path / "x.npy", y[:, :1])
    np.save(tmp_path / "t.npy", y[:, 1:])
    np.savez(tmp_path / "both.npz", target=y[:, 1:], condition=y[:, :1])
    x = ["--condition", str(tmp_path / "x.npy")]
    outs = []
    for options in (
        [str(tmp_path / "t.npy"), *x],
        [str(files / "y.npy"), "--condition-dim", "1"],
        [str(tmp_path / "both.npz")],
    ):
        assert linvae(["diagnose", str(tmp_path / "c.pt"), "--data", *options, "--json"]) == 0
        outs.append(capsys.readouterr().out)
    assert outs[0] == outs[1] == outs[2]
    twice = ["--data", str(tmp_path / "both.npz"), *x]
    assert linvae(["diagnose", str(tmp_path / "c.pt"), *twice]) == 2
    assert "has a condition of its own, of 1 columns" in capsys.readouterr().err
    short = tmp_path / "short.npy"
    np.save(short, y[:7, :1])
    run = ["--data", str(tmp_path / "t.npy"), "--condition", str(short)]
    assert linvae(["diagnose", str(tmp_path / "c.pt"), *run]) == 2
    assert "condition has 7 samples but target has 1000" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ["--dataset", "digits"],
        ["--split", "test"],
        ["--max-samples", "5"],
        ["--image-size", "8"],
        ["--download"],
        ["--data-dir", "."],
    ],
    ids=lambda options: options[0],
)
def test_idle_options_of_datasets_are_refused(files, options, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(files, "good.pt", *options)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert (
        f"{options[0]} has no effect with --data: leave it out" in error or "two sources" in error
    )


def test_help_warns_of_programs(capsys):
    with pytest.raises(SystemExit):
        linvae(["diagnose", "--help"])
    assert "run only files that you trust" in capsys.readouterr().out


UNUSABLE = {
    "directory": (lambda p: p.mkdir(), "holds no images"),
    "empty": (lambda p: p.touch(), "not a readable .npy file"),
    "text": (lambda p: p.write_bytes(b"no array"), "not a readable .npy file"),
    "truncated": (lambda p: truncated(p), "not a readable .npy file"),
    "nan": (lambda p: np.save(p, [[1.0, 2.0, np.nan], [0.0, 1.0, 2.0]]), "target[0, 2] = nan must"),
    "one-sample": (lambda p: np.save(p, np.ones((1, 3))), "must have at least 2 samples"),
    "no-samples": (lambda p: np.save(p, np.ones((0, 3))), "must have at least 2 samples"),
    "flat": (lambda p: np.save(p, np.ones(9)), "must have at least 2 axes"),
    "width": (lambda p: np.save(p, np.eye(5)), "cannot take a batch of shape (5, 5)"),
    "objects": (lambda p: np.save(p, np.array([{}, 1]), allow_pickle=True), "not a readable"),
    "words": (lambda p: np.save(p, np.array([["a"], ["b"]])), "must be numbers"),
}


def truncated(path):
    np.save(path, np.ones((9, 3)))
    path.write_bytes(path.read_bytes()[:-50])


@pytest.mark.parametrize(("write", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_unusable_data(files, write, message, tmp_path, capsys):
    write(tmp_path / "bad.npy")
    assert linvae(["diagnose", str(files / "good.pt"), "--data", str(tmp_path / "bad.npy")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("linvae: ") and message in error and len(error.splitlines()) == 1


def test_what_is_missing(files, tmp_path, capsys):
    encoder, data = str(files / "good.pt"), str(files / "y.npy")
    cases = [
        ([encoder, "--data", str(tmp_path / "no.npy")], 3, "does not exist: give the path of a f"),
        ([encoder, "--data", data, "--condition", str(tmp_path / "no.npy")], 3, "does not exist"),
        ([str(tmp_path / "no.pt"), "--data", data], 2, "no.pt does not exist"),
        ([data, "--data", data], 2, "nothing is unpickled here"),
    ]
    for arguments, code, message in cases:
        assert linvae(["diagnose", *arguments]) == code
        assert message in capsys.readouterr().err


def test_trusted_log_variances_go_on(files, tmp_path, capsys):
    class Wide(nn.Module):
        def forward(self, y):
            return 0 * y, 0 * y + 1

    torch.jit.trace(Wide(), torch.zeros(1, 3)).save(tmp_path / "wide.pt")
    arguments = ["diagnose", str(tmp_path / "wide.pt"), "--data", str(files / "y.npy")]
    assert linvae(arguments) == 2
    assert "(--trust-log-variances)" in capsys.readouterr().err
    assert linvae([*arguments, "--trust-log-variances", "--quiet"]) == 0
