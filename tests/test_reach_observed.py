"""Observed collapse against reach: pulls against differences, and the rows that are kept."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis import reach_observed
from analysis.own_pulls import (
    encoder_states,
    lstm_predictions,
    lstm_pulls,
    pixel_probabilities,
    pixelcnn_pulls,
    projected,
)
from analysis.reach_observed import (
    SEEDS,
    SET_POINTS,
    Case,
    bracket_of,
    case_rows,
    certificates,
    digit_cases,
    line_of,
    radius,
)
from linvae import Moments, VAESpec, stability
from linvae.data import load_dataset
from linvae.metrics import observe
from linvae.models import Architecture, build_model
from linvae.models.recurrent import SequenceSizes, StackedTextVAE
from linvae.train import TrainConfig, TrainingData

KEPT = Path(reach_observed.__file__).with_suffix(".json")
MEMBER, STEP = (1, 0), 1e-5
TOKENS = torch.tensor([[0, 3, 5, 2, 1], [0, 4, 1, -1, -1], [0, 5, 5, 1, -1], [0, 1, -1, -1, -1]])
DIGITS = load_dataset("digits")
PIXELS = torch.as_tensor((DIGITS.target[::90] > 0.5).astype(np.float32))


def drawn(model, scale):
    """Every parameter of every member at random, float64."""
    generator = torch.Generator().manual_seed(7)
    model.double()
    for value in model.parameters():
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float64)
        value.data = scale * noise
    return model


def lstm():
    spec = VAESpec(1, likelihood="multinomial")
    sizes = SequenceSizes(embedding=2, hidden=3, dropout=0.0)
    return drawn(StackedTextVAE(spec, vocabulary=6, sizes=sizes, seeds=(3, 8), n_points=2), 0.7)


def pixelcnn(kernels):
    network = Architecture(
        "pixelcnn", encoder="mlp", kernels=kernels, pixel_channels=4, batch_norm=False,
        activation="elu",
    )  # fmt: skip
    spec, image = VAESpec(1, likelihood="bernoulli"), DIGITS.image_layout()
    model = build_model(spec, PIXELS, architecture=network, image=image, seeds=(3, 8), n_points=2)
    model = drawn(model, 0.5)
    model.centre = model.centre.double()
    return model


def likelihoods(model, target, z):
    """log p(y|z) of one member at one z."""
    latent = torch.full((2, 2, len(target), 1), z, dtype=torch.float64)
    with torch.no_grad():
        return model.log_likelihood_per_sample(latent, target[None], None)[MEMBER].numpy()


def slope_of(model, target, z=STEP):
    """d log p(y|z)/dz at 0, of every sample."""
    return (likelihoods(model, target, z) - likelihoods(model, target, -z)) / (2 * z)


@pytest.mark.parametrize("direction", range(3))
def test_lstm_pulls_are_what_weights_from_z_do(direction):
    model = lstm()
    c = np.random.default_rng(direction).normal(size=15)
    found = lstm_pulls(model, MEMBER, TOKENS)
    decoder = model.decoder
    decoder.lstm.from_shared.weight.data[MEMBER] = torch.as_tensor(c[:12, None])
    decoder.first_cell.weight.data[MEMBER] = torch.as_tensor(c[12:, None])
    # differences of the fourth order in 1e-5, of double precision
    assert found.scores @ c == pytest.approx(slope_of(model, TOKENS), rel=1e-7, abs=1e-9)
    z = torch.full((2, 2, 4, 1), STEP, dtype=torch.float64)
    with torch.no_grad():
        ahead, behind = (
            decoder.logits(sign * z, TOKENS[None, :, :-1])[MEMBER].transpose(0, 1)
            for sign in (1, -1)
        )
    b, p = (ahead - behind) / (2 * STEP), torch.softmax((ahead + behind) / 2, dim=-1)
    variances = (p * b**2).sum(-1) - (p * b).sum(-1) ** 2
    J = float(variances[TOKENS[:, 1:] >= 0].sum()) / len(TOKENS)
    assert c @ found.information @ c == pytest.approx(J, rel=1e-7)


def test_lstm_predictions_are_those_of_a_latent_at_zero():
    model = lstm()
    p = lstm_predictions(model, MEMBER, TOKENS)
    assert p.nats == pytest.approx(-likelihoods(model, TOKENS, 0.0).mean(), rel=1e-12)
    assert p.sequence.tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 2, 3]


def test_encoder_states_are_what_means_are_made_of():
    model = lstm()
    weight = model.encoder.outer.weight[MEMBER].detach().numpy()
    mean = encoder_states(model, MEMBER, TOKENS) @ weight[0]
    with torch.no_grad():
        expected = model.posterior(TOKENS[None], None).mean[MEMBER][:, 0].numpy()
    assert mean == pytest.approx(expected, rel=1e-12)


def test_projected_scores_are_those_of_the_best_linear_encoder():
    """min over means m in the span of E[(m - S)^2], by the normal equations."""
    rng = np.random.default_rng(0)
    phi, S = rng.normal(size=(50, 3)), rng.normal(size=(50, 2)) + 4
    centred = phi - phi.mean(axis=0)
    expected = centred @ np.linalg.solve(centred.T @ centred, centred.T @ S)
    assert projected(S, phi) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kernels", [(1,), (3,), (5, 3, 3)])
def test_pixelcnn_pulls_are_what_weights_from_z_do(kernels):
    model = pixelcnn(kernels)
    maps = model.decoders[0]
    found = pixelcnn_pulls(model, MEMBER, PIXELS)
    c = torch.randn(128, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    maps.maps__weight.data[MEMBER] = c[:, None]
    scores = slope_of(model, PIXELS.double())
    assert found.scores @ c.numpy() == pytest.approx(scores, rel=1e-6, abs=1e-8)
    p = []
    for sign in (1, -1):
        maps.maps__bias.data[MEMBER] += sign * STEP * c
        p.append(pixel_probabilities(model, MEMBER, PIXELS))
        maps.maps__bias.data[MEMBER] -= sign * STEP * c
    slope, middle = (p[0] - p[1]) / (2 * STEP), (p[0] + p[1]) / 2
    J = np.sum(slope**2 / (middle * (1 - middle))) / len(PIXELS)
    assert c.numpy() @ found.information @ c.numpy() == pytest.approx(J, rel=1e-6)


@pytest.mark.parametrize("kernels", [(1,), (3,), (3, 3), (5, 3, 3)])
def test_radius_is_how_far_a_decoder_sees(kernels):
    model = pixelcnn(kernels)
    y = PIXELS.double().numpy()
    p = pixel_probabilities(model, MEMBER, PIXELS)
    log_p = np.sum(y * np.log(p) + (1 - y) * np.log1p(-p), axis=1)
    assert log_p == pytest.approx(likelihoods(model, PIXELS.double(), 0.0), rel=1e-12)
    flipped = np.repeat(y[:1], 65, axis=0)
    flipped[np.arange(64), np.arange(64)] = 1 - y[0]
    p = pixel_probabilities(model, MEMBER, torch.as_tensor(flipped))
    pixel, moved = np.nonzero(np.abs(p[:64] - p[64]) > 1e-12)
    assert np.all(moved > pixel)  # later pixels alone
    far = np.abs(np.stack(np.unravel_index(moved, (8, 8))) - np.unravel_index(pixel, (8, 8)))
    assert far.max(initial=0) == radius(kernels)


@pytest.fixture(scope="module")
def small():
    """A decoder of the digits after a few steps."""
    case = list(digit_cases())[1]
    target = replace(case.train, target=case.train.target[:60])
    config = TrainConfig(steps=20, batch_size=16, draws=1)
    return replace(case, train=target, new=target, config=config)


def test_certificate_is_the_exchange_ratio_of_one_member(small, monkeypatch):
    monkeypatch.setattr(reach_observed, "ALIVE", 0.0)
    result = reach_observed.trained(small, None)
    bounds, errors, rates = certificates(small, result)
    zero = torch.zeros(2, len(SET_POINTS) + 1, 60, 1)
    with torch.no_grad():
        idle = -result.model.log_likelihood_per_sample(zero, small.train.target[None], None)
    D0 = idle.mean(-1).min(dim=1).values.numpy()
    seen = [observe(result.model, small.train, seed=seed) for seed in range(10)]
    for s in range(len(SEEDS)):  # float32: D0 is summed in another order
        ratios = np.array([(D0[s] - x.distortion[s]) / x.rates[s, :, 0] for x in seen])
        best = ratios[:2, :-1].mean(axis=0).argmax()
        assert errors[s] == pytest.approx(np.std(ratios[2:, best], ddof=1) / 8**0.5, rel=1e-3)
        expected = ratios[2:, best].mean() - 3 * errors[s]
        assert bounds[s] == pytest.approx(expected, abs=3e-4)
        assert rates[s] == pytest.approx(seen[0].rates[s, best, 0])


def test_members_without_information_certify_nothing(small, monkeypatch):
    monkeypatch.setattr(reach_observed, "ALIVE", 10.0)
    rows = list(case_rows(small, None))
    assert [row["certified"] for row in rows] == [None, None]


def test_rows_of_a_small_case_have_all_that_is_kept(small):
    rows = list(case_rows(small, None))
    assert [row["seed"] for row in rows] == list(SEEDS)
    assert set(rows[0]) == set(kept_rows("digits")[0])
    json.dumps(rows)  # plain numbers


@pytest.mark.parametrize(
    ("alive", "expected"), [(0, (None, 0.5)), (3, (1.2, 1.8)), (5, (6.0, None))]
)
def test_bracket_is_the_last_alive_and_the_next(alive, expected):
    assert bracket_of([0.5] * alive + [0.001] * (5 - alive)) == expected


@pytest.fixture
def few_words(monkeypatch):
    """LSTMs of sentences that an urn drew, a few steps of training."""
    case = toy_text_case()
    monkeypatch.setattr(reach_observed, "LADDER_CONFIG", case.config)
    monkeypatch.setattr(reach_observed, "N_CLASSES", 4)
    return case


def toy_text_case():
    rng = np.random.default_rng(0)
    tokens = np.full((40, 7), -1)
    for row in tokens:
        n = rng.integers(1, 6)
        row[0], row[n + 1] = 0, 1
        row[1 : n + 1] = rng.integers(2, 6, size=n)
    data = TrainingData.from_tokens(tokens)
    spec = VAESpec(1, likelihood="multinomial")
    sizes = SequenceSizes(embedding=2, hidden=2, dropout=0.0)
    build = partial(StackedTextVAE, spec, vocabulary=6, sizes=sizes)
    config = TrainConfig(steps=3, batch_size=16, draws=1)
    return Case("short_yelp", "LSTM", 2, spec, data, data, build, config)


def test_second_training_goes_on_from_the_lowest_beta(few_words, monkeypatch):
    starts = []
    original = reach_observed.train_cells

    def watched(*args, **options):
        starts.append(options["start"])
        return original(*args, **options)

    monkeypatch.setattr(reach_observed, "train_cells", watched)
    rows = list(case_rows(few_words, None))
    assert set(rows[0]) == set(kept_rows("short_yelp")[0])
    first = reach_observed.scratch(few_words, None).model.state_dict()
    for name, value in starts[1].state_dict().items():
        if value.ndim:
            assert torch.equal(value, first[name][:, :1].expand_as(value))


# --- kept rows -----------------------------------------------------------------------------------


def kept_rows(data):
    return [row for row in json.loads(KEPT.read_text())["rows"] if row["data"] == data]


def test_kept_thresholds_are_the_lines_of_their_runs():
    for row in kept_rows("digits"):
        threshold, slope = line_of(np.array(row["information"]), np.array(row["betas"]))
        assert row["observed"] == pytest.approx(threshold, rel=1e-3)  # four decimals are kept
        assert row["slope"] == pytest.approx(slope, abs=0.01)


def test_kept_brackets_are_those_of_their_rates():
    for row in kept_rows("short_yelp"):
        assert bracket_of(row["rates"]) == (row["alive_at"], row["collapsed_at"])


def test_kept_prediction_without_reach_is_that_of_the_data():
    (parts,) = {case.train.target for case in list(digit_cases())[:1]}
    y = parts.double().numpy()
    spec = VAESpec(1, likelihood="bernoulli")
    varies = y.std(axis=0) > 0
    expected = stability(spec, Moments.from_data(y[:, varies])).critical_beta[0]
    for row in kept_rows("digits"):
        if row["reach"] == 0:
            # the offsets have been trained, not computed
            assert row["predicted"]["fixed"]["critical_beta"] == pytest.approx(expected, rel=0.02)
