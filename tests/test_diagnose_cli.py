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


def test_what_is_missing_or_broken(files, tmp_path, capsys):
    broken = tmp_path / "broken.npy"
    broken.write_bytes(b"no array")
    encoder, data = str(files / "good.pt"), str(files / "y.npy")
    cases = [
        ([encoder, "--data", str(tmp_path / "no.npy")], 3, "no.npy does not exist"),
        ([encoder, "--data", str(broken)], 2, "is no .npy file of numbers"),
        ([str(tmp_path / "no.pt"), "--data", data], 2, "no.pt does not exist"),
        ([data, "--data", data], 2, "nothing is unpickled here"),
    ]
    for arguments, code, message in cases:
        assert linvae(["diagnose", *arguments]) == code
        assert message in capsys.readouterr().err
