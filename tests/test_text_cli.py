"""`linvae text`: a model of one's own sentences from the command line, and what it says."""

from __future__ import annotations

import re

import numpy as np
import pytest

from linvae.__main__ import main as linvae
from linvae.text import PRESETS, _collapsed, _preset, main, parser
from linvae.train import TEXT_PRESETS

WORDS = ("red", "green", "blue", "grey")


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    """One word said three times: a latent of four kinds, and nothing else, says it all."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "own.txt"
    lines = [" ".join([WORDS[i]] * 3) for i in rng.integers(0, 4, size=320)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def trained(sentences, tmp_path_factory):
    out = tmp_path_factory.mktemp("model")
    arguments = ["train", "--path", str(sentences), "--out", str(out), "--epochs", "90"]
    sizes = ["--latent-dim", "2", "--embedding", "8", "--hidden", "32", "--learning-rate", "1e-2"]
    sizes += ["--optimizer", "adam", "--batch-size", "32"]
    assert main([*arguments, *sizes, "--beta", "0.05"]) == 0
    return out, [*arguments, *sizes, "--beta", "0.05"]


def test_a_model_reconstructs_what_its_latent_holds(trained, capsys):
    """The word is chosen by the latent alone: greedy and beam say it again."""
    assert main(["reconstruct", str(trained[0]), "red red red", "blue blue blue"]) == 0
    out = capsys.readouterr().out
    for word in ("red", "blue"):
        for how in ("original", "greedy", "beam"):
            assert re.search(rf"{how}\s+{word} {word} {word}\n", out), (how, out)


def test_interpolations_begin_and_end_where_they_are_told_to(trained, capsys):
    arguments = ["interpolate", str(trained[0]), "red red red", "blue blue blue", "--steps", "4"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert "red red red" in lines[2]  # after the heading
    assert "blue blue blue" in lines[-1]


def test_samples_are_sentences_of_the_vocabulary(trained, capsys):
    assert main(["samples", str(trained[0]), "-n", "6"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 2 + 6
    said = {word for line in lines[2:] for word in line.split()[1:]} - {"..."}
    assert said <= set(WORDS)


def test_a_finished_model_is_not_trained_again(trained, capsys, monkeypatch):
    monkeypatch.setattr("linvae.train.cells.train", None)
    assert main(trained[1]) == 0
    out = capsys.readouterr().out
    assert re.search(r"KL \d\.\d+ nats, mutual information", out)
    assert "collapsed" not in out


def test_a_collapsed_model_is_called_so(sentences, tmp_path, capsys):
    arguments = ["train", "--path", str(sentences), "--out", str(tmp_path), "--epochs", "3"]
    sizes = ["--latent-dim", "2", "--embedding", "8", "--hidden", "16", "--beta", "20"]
    sizes += ["--optimizer", "adam"]
    assert linvae(["text", *arguments, *sizes]) == 0
    assert "collapsed: the latent says nothing about the sentences" in capsys.readouterr().out


def test_options_change_one_thing_of_a_preset():
    assert set(PRESETS) == set(TEXT_PRESETS)
    for name, preset in TEXT_PRESETS.items():
        assert _preset(parser().parse_args(["train", "--preset", name])) == preset
    found = _preset(parser().parse_args(["train", "--hidden", "7", "--epochs", "3"]))
    small = TEXT_PRESETS["small"]
    assert (found.sizes.hidden, found.sizes.embedding) == (7, small.sizes.embedding)
    assert found.for_sentences(33).steps == 3 * 3  # batches of 16
    assert found.config == small.config


def test_adam_has_a_rate_of_its_own():
    found = _preset(parser().parse_args(["train", "--optimizer", "adam"])).config
    assert (found.optimizer, found.learning_rate) == ("adam", 2e-3)
    asked = ["train", "--optimizer", "adam", "--learning-rate", "0.1"]
    assert _preset(parser().parse_args(asked)).config.learning_rate == 0.1


def test_a_rate_that_floors_hold_is_no_information():
    held = _collapsed(0.5, "total-free-bits", 1.0)
    assert "its rate is what free bits do not charge for. At beta = 1 a decoder" in held
    assert "try --remedy aggressive, a smaller --beta" in held
    for rate, remedy in ((0.01, "free-bits"), (0.5, "none"), (0.5, "aggressive-annealing")):
        assert "rate" not in _collapsed(rate, remedy, 0.1)  # no floor holds it
    assert "try --remedy total-free-bits, a s" in _collapsed(0.5, "aggressive-annealing", 1.0)
    both = "At beta = 0.1 a decoder that predicts the next word well gains little from it; try "
    both += "--remedy aggressive, --remedy total-free-bits, a smaller --beta"
    assert both in _collapsed(0.01, "none", 0.1)


def test_free_bits_of_texts_are_nats_that_texts_have(sentences, tmp_path, capsys, monkeypatch):
    """The floor that was asked for, or the default of the remedy, is what trains."""
    seen = []

    def first(*args, points, **kwargs):
        seen.append(points[0])
        raise ValueError("seen")

    monkeypatch.setattr("linvae.train.train_cells", first)
    for arguments in (["free-bits"], ["total-free-bits"], ["free-bits", "--floor", "2"], ["none"]):
        out = str(tmp_path)
        main(["train", "--path", str(sentences), "--out", out, "--remedy", *arguments])
    assert [remedy.floors for remedy in seen] == [{"unit": 0.5}, {"total": 3.0}, {"unit": 2.0}, {}]


def test_training_that_diverges_at_its_end_saves_no_model(sentences, tmp_path, capsys):
    """One step: its objective is finite, what it makes of the parameters is not a model."""
    arguments = ["train", "--path", str(sentences), "--out", str(tmp_path), "--epochs", "1"]
    assert main([*arguments, "--batch-size", "999", "--learning-rate", "1e30"]) == 2
    assert "training diverged in its last steps: lower --learning-rate" in capsys.readouterr().err
    assert not (tmp_path / "model.json").exists()


def test_a_sentence_of_the_longest_length_is_whole(trained, capsys):
    """`--max-length` counts words; the end comes after them."""
    assert main(["reconstruct", str(trained[0]), "red red red", "--max-length", "3"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"greedy\s+red red red\n", out), out
    assert main(["reconstruct", str(trained[0]), "red red red", "--max-length", "2"]) == 0
    assert re.search(r"greedy\s+red red red? ?\.\.\.\n", capsys.readouterr().out)


def test_an_impossible_seed_is_named(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--seed", "-1"])
    assert "--seed: '-1' must be an integer >= 0" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["train", "--seed", str(2**63)])
    assert "below 2^63" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train", "--dataset", "yaho"], 2, "did you mean 'yahoo'"),
        (["train", "--path", "missing.txt"], 3, "missing.txt"),
        (["samples", "nowhere"], 2, "the --out folder of `linvae text train`"),
        (["train", "--floor", "2"], 2, "--floor 2 has no effect with --remedy none"),
        (
            ["train", "--max-sentences", "1"],
            2,
            "at least 2 are needed; give more, with --max-sentences",
        ),
    ],
)
def test_errors_are_one_line(arguments, code, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    error = capsys.readouterr().err
    assert error.startswith("linvae: ")
    assert words in error
