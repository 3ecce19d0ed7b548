"""The comparison of He et al. on a tiny set of each kind, and its page."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from analysis import lagging, lagging_page
from linvae.data import TextGenerator, load_dataset
from linvae.data.text_synthetic import log_likelihood
from linvae.models import Architecture
from linvae.models.recurrent import SequenceSizes

DOCUMENT = Path(lagging.__file__).with_suffix(".json")


@pytest.fixture
def tiny(monkeypatch):
    """Networks and epochs of a second."""
    text, image = (
        replace(setting, config=replace(setting.config, batch_size=12), epochs=2, draws=4)
        for setting in (lagging.SETTINGS[kind, "small"] for kind in ("text", "image"))
    )
    text = replace(text, networks=SequenceSizes(4, 6), latent_dim=2, most=96, held_out=20, words=20)
    network = Architecture("pixelcnn", channels=(2,), hidden=4, kernels=(3, 3), pixel_channels=4)
    image = replace(image, networks=network, most=160)
    settings = {("text", "small"): text, ("image", "small"): image}
    monkeypatch.setattr(lagging, "SETTINGS", settings)


@pytest.mark.parametrize("name", ["synthetic", "digits"])
def test_all_rows_of_a_tiny_comparison(name, tiny, tmp_path, monkeypatch):
    """Measured again from the members that were kept: the same rows, nothing trained."""
    out, members = tmp_path / "rows.json", tmp_path / "members"
    names = ["vae", "beta 0.4", "aggressive + annealing", lagging.ALONE]
    arguments = ["--dataset", name, "--seeds", "2", "--out", str(out), "--members", str(members)]
    monkeypatch.setattr(sys, "argv", ["lagging", *arguments, "--remedies", *names])
    lagging.main()
    document = json.loads(out.read_text())
    rows = document["rows"]
    assert [row["remedy"] for row in rows] == [n for n in names for _ in range(2)]
    for row in rows:
        assert row["nll"] > 0
        if "kl" in row:
            assert row["mi"] < math.log(13) + 4 * row["mi_error"]  # batches of 12 or 13
            assert row["mi_large"] <= row["kl"] + 4 * row["mi_large_error"] + 1e-4
        if row["remedy"].startswith("aggressive"):
            assert row["encoder_steps"] > 2 * row["decoder_steps"]
    gained = [row["nelbo"] - row["nll"] for row in rows if "kl" in row]
    assert min(gained) > -1e-4  # five decimals are kept
    assert max(gained) > 0.01  # where the decoder listens weights differ
    monkeypatch.setattr("linvae.train.cells.train", None)
    lagging.main()
    assert json.loads(out.read_text())["rows"] == rows
    text = lagging_page.table(rows, name, "small")
    assert len(text.splitlines()) == 2 + len(names)


def test_whole_image_sets_are_all_splits_divided_as_omniglot_is(monkeypatch):
    digits = load_dataset("digits")
    splits = {"a": digits.subset(100, seed=0), "b": digits.subset(60, seed=1)}
    monkeypatch.setattr(lagging, "SOURCES", {"toy": SimpleNamespace(splits=tuple(splits))})
    monkeypatch.setattr(lagging, "load_dataset", lambda name, *, split, **_: splits[split])
    setting = lagging.SETTINGS["image", "published"]
    parts = lagging.image_parts("toy", setting, None, torch.device("cpu"))
    assert (len(parts.test), len(parts.validation), len(parts.train)) == (40, 6, 114)
    every = np.concatenate([part.target for part in splits.values()])
    counts = Counter(row.tobytes() for row in every.astype(np.float32))
    found = Counter(row.numpy().tobytes() for row in parts.train.target)
    assert not found - counts
    for part in (parts.test, parts.validation):
        assert set(part.target.unique().tolist()) == {0.0, 1.0}
    assert "6 to validate, 40 to test" in parts.note


def test_what_is_no_row_is_refused_before_anything_is_read(monkeypatch, capsys):
    for arguments in (["--remedies", "vae", "foo"], ["--dataset", "yahooo"]):
        monkeypatch.setattr(sys, "argv", ["lagging", *arguments])
        with pytest.raises(SystemExit):
            lagging.main()
        assert "invalid choice" in capsys.readouterr().err


@pytest.mark.parametrize("prior", ["normal", "mixture"])
def test_what_the_generator_has_itself(prior, tiny, monkeypatch):
    """log p(y) as by quadrature; I as the mean of log p(y|z) - log p(y) at the z of each sentence.

    Four standard errors: of a log-mean with the stated variance; of the mean over sentences.
    """
    generator = TextGenerator.random(
        vocabulary_size=12, length=4, hidden=6, latent_scale=3, prior=prior, seed=1
    )
    drawn, said, at_own = generator.draw(300, seed=2)
    z = generator.draw(200, seed=3)[1]
    one = {"step": "one"}
    found = [lagging._exact(generator, drawn.taken([i], one), z, said[i]) for i in range(300)]
    log_p, information, variance = np.array(found).T
    exact = log_likelihood(generator, drawn.taken(range(30), {"step": "few"}))
    assert (abs(log_p[:30] - exact) < 4 * np.sqrt(variance[:30]) + 1e-3).all()
    gap = at_own - log_p - information
    assert abs(gap.mean()) < 4 * gap.std(ddof=1) / 300**0.5
    assert information.mean() > 0.3

    monkeypatch.setattr(lagging, "synthetic_generator", lambda: generator)
    row = lagging.generator_row(lagging.SETTINGS["text", "small"], "small")
    assert row["n_test"] == 20
    own = generator.draw(1000, seed=2)[0].subset(20, seed=0)
    nll = -log_likelihood(generator, own).mean()
    # all sentences have the same draws of the prior: their errors need not average out
    assert row["nll"] == pytest.approx(nll, abs=4 * (2 * row["nll_bias"]) ** 0.5 + 1e-3)
    shown = lagging_page.table([row], "synthetic", "small").splitlines()
    assert shown[-1].startswith("| the generator")


def test_a_path_is_even_in_steps_and_ends_at_the_end():
    """Of inner loops many rows have one step: the last is the one that counts."""
    history = [
        {"step": i // 2, "seed": seed, "rate_nats": i / 10 + seed}
        for i in range(2000)
        for seed in (0, 1)
    ]
    found = lagging.path(history, 1)
    assert len(found) == lagging.LOOKS
    assert found[0] == (0, 1.1)
    assert found[-1] == (999, 200.9)
    assert {b - a for (a, _), (b, _) in pairwise(found)} <= {25, 26}


def test_the_verdict_is_that_of_the_rows():
    """Gains of -2, 0 and -1 nats: standard error 1/sqrt(3), and 4.30 of them are 2.48."""

    def row(remedy, seed, nll, kl, seconds):
        place = {"data": "x", "preset": "small", "remedy": remedy, "seed": seed}
        rising = [(step, 1e-3 * math.exp(step / 200)) for step in range(0, 1001, 50)]
        numbers = {"nll": nll, "kl": kl, "mi_large": kl / 2, "seconds": seconds}
        return place | numbers | {"path": rising}

    rows = [row("vae", seed, 40 + seed, 0.02, 10) for seed in (0, 1, 2)]
    assert lagging_page.verdict(rows, "x", "small") == ""
    rows += [
        row("aggressive", seed, 40 + seed - gain, 1.5, 25) for seed, gain in enumerate((2, 0, 1))
    ]
    rows += [row("beta 0.8", seed, 39.5, 1.0, 9) for seed in (0, 1, 2)]
    found = lagging_page.verdict(rows, "x", "small")
    assert found.startswith("The VAE is collapsed: KL 0.02, MI 0.01 nats. Trained aggressively it ")
    assert "KL 1.50, MI 0.75. Its NLL is -1.00 nats from the VAE's (95 % interval of the" in found
    assert "over 3 seeds -3.48 to +1.48, which does not tell them apart), its time 2.5" in found
    assert "The lowest NLL of the table is that of beta 0.8, 39.50." in found
    assert "changes by +5.0 (+5.0 to +5.0) per 1000 steps: it rises in all seeds" in found
    alone = lagging_page.verdict([*rows, row("decoder alone", 0, 39.8, 0, 1)], "x", "small")
    assert "that of beta 0.8, 39.50 (decoder alone: 39.80)." in alone

    def with_paths(*falls):
        paths = [[(step, math.exp(-fall * step / 900)) for step in (0, 500, 900)] for fall in falls]
        changed = [{**one, "path": paths[one["seed"]]} for one in rows]
        return lagging_page.verdict(changed, "x", "small")

    assert "it falls in all seeds: nothing leads out of collapse in so" in with_paths(1, 1, 1)
    assert "it rises in some seeds and falls in others" in with_paths(1, 1, -1)
    alive = [{**one, "kl": 2.0} for one in rows]
    assert "second half" not in lagging_page.verdict(alive, "x", "small")


def test_remedies_are_those_of_the_published_table():
    names = [*lagging.remedies(lagging.SETTINGS["text", "small"], 10), lagging.ALONE]
    for published in lagging_page.PUBLISHED_TABLE.values():
        assert sorted(published) == sorted(names)
    found = lagging.remedies(lagging.SETTINGS["text", "published"], 100)
    assert found["annealing"].schedule.warmup_steps == 1000
    assert found["beta 0.4"].beta == 0.4
    assert found["aggressive + annealing"].aggressive.window == 15


@pytest.mark.skipif(not DOCUMENT.exists(), reason="nothing measured yet")
def test_the_page_says_what_was_measured():
    assert lagging.DOCS.read_text(encoding="utf-8") == lagging_page.page(
        json.loads(DOCUMENT.read_text())
    )
