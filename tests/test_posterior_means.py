"""Posterior mean space: lines of the flow, the record that is kept, and a small run."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

import figures
from analysis import posterior_means as measured
from figures import posterior_means as drawn
from figures.rows import kept
from figures.style import save_animation, select
from linvae import VAESpec
from linvae.models import StackedVAE
from linvae.theory.dynamics import mode_flow
from linvae.train import Aggressive, Remedy, RemedyBetas, train

ROOT = measured.OUT.parents[1]
S = 0.25
TEXT = measured.TextToy(
    n=48, new=6, vocabulary=8, words=2, latent_scale=1.0, steps=3, chosen=(1, 3), frames=2
)
LINEAR = measured.LinearToy(
    steps=(60, 4), chosen=((5, 60), (1, 4)), frames=4, most_steps=30, rate=0.01
)


@pytest.fixture(scope="module")
def record():
    return kept("posterior_means")


@pytest.fixture(scope="module")
def small():
    return json.loads(measured.dumped(measured.measured(TEXT, LINEAR)))


# --- theory -------------------------------------------------------------------------------------


@pytest.mark.parametrize("update", drawn.FLOWS)
def test_flow_lines_are_the_posteriors_of_a_linear_vae(update):
    """p(z|y) by quadrature of p(y|z) p(z); q(z|y) by a model with the flow's weights."""
    steps, y = np.array([0.0, 100.0, 300.0]), 1.7
    found = select(drawn.flow_rows(update, steps, rate=0.005, s=S, start=0.02), kind="flow")
    flow = mode_flow(
        [1.0], times=steps * 0.005, decoder_variance=S, update=drawn.FLOWS[update],
        start_weights=0.02,
    )  # fmt: skip
    z = np.linspace(-12, 12, 20001)
    for i, row in enumerate(found):
        log_joint = -((y - flow.decoder_weights[i, 0] * z) ** 2) / (2 * S) - z**2 / 2
        p = np.exp(log_joint - log_joint.max())
        assert row["model_mean"] * y == pytest.approx((p * z).sum() / p.sum(), rel=1e-9)
        model = StackedVAE(VAESpec(1, decoder_variance=S), target_dim=1)
        for weight in model.encoders.parameters():
            weight.data.fill_(flow.encoder_weights[i, 0])
        mean = model.posterior(torch.tensor([[[y]]]), None).mean.item()
        assert row["encoder_mean"] * y == pytest.approx(mean, rel=1e-6)  # float32


def test_collapse_is_left_at_the_slope_of_the_growing_direction():
    """Eigenvector of the linearised flow, by numpy; the flow itself stays on it while small."""
    for s in (0.1, 0.25, 0.7):
        values, vectors = np.linalg.eig(np.array([[-1 / s, 1 / s], [1 / s, -1.0]]))
        u, w = vectors[:, values.argmax()]
        assert drawn.escape_slope("basic", s) == pytest.approx(w / (u / s), rel=1e-12)
    flow = mode_flow([1.0], times=[0, 3.0], decoder_variance=S, start_weights=1e-6)
    u, w = flow.decoder_weights[1, 0], flow.encoder_weights[1, 0]
    # 1e-6: the other direction has fallen by exp(-3 (1.8 + 6.8))
    assert w / (u / (u**2 + S)) == pytest.approx(drawn.escape_slope("basic", S), rel=1e-6)


def test_aggressive_flow_never_lags():
    steps = np.linspace(0, 120, 30)
    rows = drawn.flow_rows("aggressive", steps, rate=0.005, s=S, start=0.02)
    for row in select(rows, kind="flow"):
        assert row["model_mean"] == pytest.approx(row["encoder_mean"], rel=1e-12)
    assert select(rows, kind="slope")[0]["slope"] == 1


# --- the record that is kept --------------------------------------------------------------------


def test_points_are_finite_inside_the_panels_and_as_many_as_published(record):
    assert measured.OUT.stat().st_size < 300_000
    for cloud in record["clouds"]:
        reach = 1000 * drawn.REACH[cloud["toy"]]
        for name in ("model_means", "encoder_means"):
            assert len(cloud[name]) in (50, 500)
            assert np.abs(cloud[name]).max() < reach, (cloud["toy"], cloud["update"], cloud["step"])
    for run in drawn.RUNS:
        own = select(record["clouds"], toy=run[0], update=run[1])
        assert sum(len(cloud["model_means"]) == 500 for cloud in own) == 4
        assert [cloud["step"] for cloud in own] == sorted({cloud["step"] for cloud in own})


def test_lags_are_those_of_the_points(record):
    for cloud in record["clouds"]:
        apart = np.subtract(cloud["model_means"], cloud["encoder_means"]) / 1000
        # 6e-4: means are rounded to thousandths, lags to ten thousandths
        assert cloud["lag"] == pytest.approx(math.sqrt(np.mean(apart**2)), abs=6e-4)


def test_linear_points_lie_on_the_flow(record):
    """Basic: 1 % of the largest, from steps of 0.005. Aggressive: one decoder step behind."""
    settings = record["settings"]["linear"]
    y = measured.linear_cases(measured.LinearToy())[0].data.target[:, 0].double().numpy()
    for cloud in select(record["clouds"], toy="linear", update="basic"):
        row = drawn.flow_rows(
            "basic", np.array([float(cloud["step"])]), rate=settings["rate"],
            s=settings["decoder_variance"], start=settings["start"],
        )[0]  # fmt: skip
        own = y[: len(cloud["model_means"])]
        for name in ("model_mean", "encoder_mean"):
            apart = np.array(cloud[f"{name}s"]) / 1000 - row[name] * own
            assert np.abs(apart).max() < 0.01 * np.abs(own).max(), (cloud["step"], name)
    growth = 1 / S * (1 / S - 1)  # of aggressive updates, per unit of flow time
    for cloud in select(record["clouds"], toy="linear", update="aggressive")[1:]:
        slope = np.dot(cloud["encoder_means"], cloud["model_means"]) / np.dot(
            cloud["model_means"], cloud["model_means"]
        )
        # an inner loop leaves a share of what the encoder is behind, a step of the decoder adds g
        left = math.exp(-settings["most_steps"] * settings["rate"])
        g = growth * settings["rate"]
        behind = g / (1 + g - left)
        assert -behind - 0.01 < slope - 1 < 0.01 or cloud["step"] <= 3, cloud["step"]


def test_basic_training_lags_and_aggressive_does_not(record):
    """Scatter of the encoder's means over that of the model's: 1 where nothing lags."""

    def ratios(toy, update, first, last=np.inf):
        own = select(record["clouds"], toy=toy, update=update)
        return [
            np.std(cloud["encoder_means"]) / np.std(cloud["model_means"])
            for cloud in own
            if first <= cloud["step"] <= last
        ]

    assert max(ratios("text", "basic", 10)) < 0.02
    assert min(ratios("text", "aggressive", 29)) > 0.6
    assert max(ratios("linear", "basic", 1, 300)) < 0.5
    assert min(ratios("linear", "aggressive", 3)) > 0.9
    # not from the first step: the model moves before inner loops find where to
    assert max(ratios("text", "aggressive", 11, 17)) < 0.05


def test_basic_training_collapses_and_aggressive_keeps_information(record):
    finals = {(row["toy"], row["update"]): row for row in record["finals"]}
    basic, aggressive = finals["text", "basic"], finals["text", "aggressive"]
    assert abs(basic["information_nats"]) < 1e-3 and basic["active_units"] == 0
    assert aggressive["active_units"] == 1
    assert 1 < aggressive["information_nats"] < record["truth"]["information_nats"]
    likelihoods = [row["new_log_likelihood"] for row in (basic, aggressive, record["truth"])]
    assert likelihoods == sorted(likelihoods)
    for row in (basic, aggressive):
        assert row["new_elbo"] <= row["new_log_likelihood"]


# --- a small run --------------------------------------------------------------------------------


def test_a_small_run_looks_where_it_is_told(small):
    for run in drawn.RUNS:
        clouds = select(small["clouds"], toy=run[0], update=run[1])
        assert clouds[0]["step"] == 0
        toy = TEXT if run[0] == "text" else LINEAR
        i = list(drawn.FLOWS).index(run[1])
        chosen = toy.chosen if run[0] == "text" else toy.chosen[i]
        n = min(TEXT.n, 500) if run[0] == "text" else 500
        for cloud in clouds:
            expected = n if cloud["step"] in chosen else min(50, n)
            assert len(cloud["model_means"]) == len(cloud["encoder_means"]) == expected
        steps = [cloud["step"] for cloud in clouds]
        assert set(chosen) <= set(steps) and steps == sorted(set(steps))  # none in an inner loop
    starts = [select(small["clouds"], toy="text", update=u, step=0)[0] for u in drawn.FLOWS]
    assert starts[0]["encoder_means"] == starts[1]["encoder_means"]  # the same initial values
    for final, steps in zip(small["finals"], (60, 4, 3, 3), strict=True):
        assert final["decoder_steps"] == steps
        assert ("encoder_steps" in final) == (final["update"] == "aggressive")


def test_looking_changes_no_training():
    corpus = measured.synthetic_corpus(
        TEXT.n, latent_dim=1, vocabulary_size=8, length=2, hidden=4, seed=0
    )
    case = measured.text_cases(TEXT, corpus)[1]
    watched, clouds, _ = measured.trained(case)
    alone = case.build()
    remedy = Remedy(aggressive=Aggressive(15, falls=1))
    betas = RemedyBetas([remedy], alone.spec.betas, 1, torch.device("cpu"))
    train(alone, case.data, betas, case.config, validation=case.validation)
    assert len(clouds) == 3
    for one, other in zip(watched.parameters(), alone.parameters(), strict=True):
        assert torch.equal(one, other)


def test_small_linear_run_follows_the_flow(small):
    y = measured.linear_cases(LINEAR)[0].data.target[:, 0].double().numpy()
    cloud = select(small["clouds"], toy="linear", update="basic", step=60)[0]
    row = drawn.flow_rows("basic", np.array([60.0]), rate=0.01, s=S, start=LINEAR.start)[0]
    for name in ("model_mean", "encoder_mean"):
        # 1 %: a step of 0.01 of a flow with rates of 2 and 7; 5e-4: thousandths
        np.testing.assert_allclose(
            np.array(cloud[f"{name}s"]) / 1000, row[name] * y, rtol=0.01, atol=6e-4
        )


def test_followed_points_are_the_first_of_all(small):
    y = measured.linear_cases(LINEAR)[0].data.target[:, 0].double().numpy()
    start = select(small["clouds"], toy="linear", update="basic", step=0)[0]
    # half a thousandth of rounding
    np.testing.assert_allclose(
        np.array(start["encoder_means"]) / 1000, LINEAR.start * y[:50], atol=5.1e-4
    )
    assert measured.thousandths(np.array([[0.1234], [-2.0]])) == [123, -2000]


# --- the animation ------------------------------------------------------------------------------


def test_animation_moves(tmp_path, monkeypatch):
    monkeypatch.setattr(drawn, "FRAMES", 3)
    path = tmp_path / "moving.gif"
    save_animation(drawn.frames(drawn.rows()), path)
    with Image.open(path) as image:
        assert image.n_frames == 3
    assert [p.name for p in tmp_path.iterdir()] == ["moving.gif"]
    assert "posterior_means" in figures.NAMES


def test_the_copy_in_the_documentation_has_all_frames():
    path = ROOT / "docs" / "posterior_means.gif"
    assert path.stat().st_size < 1_500_000
    with Image.open(path) as image:
        assert image.n_frames == drawn.FRAMES
