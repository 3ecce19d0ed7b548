"""Observation of a model whose weights are theory's optimum gives theory's numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard

from linvae.data import gaussian
from linvae.metrics import observe
from linvae.models import build_model
from linvae.moments import Moments
from linvae.spec import CVAESpec, HVAESpec, VAESpec
from linvae.theory import solve
from linvae.theory.observables import (
    active_unit_counts,
    collapsed_unit_counts,
    sample_rates,
    units_above,
)
from linvae.train import TrainingData
from linvae.train.kl_weight import information

SPECTRUM, SAMPLES = (5.0, 2.0, 0.9, 0.3, 0.1), 1200
SPECS = {
    "vae": (VAESpec(4, beta=0.8, decoder_variance=0.5), False),
    "vae-fixed": (VAESpec(4, decoder_variance=0.5, encoder_variance=0.3), False),
    "vae-learned-s": (VAESpec(3, decoder_variance="learned"), False),
    "general": (VAESpec(3, decoder_variance=0.2), True),
    "cvae": (CVAESpec(3, beta=1.2, decoder_variance=0.5), True),
    "hvae2": (
        HVAESpec.markovian((4, 3), decoder_variance=0.5, encoder_variances=(0.25, None)),
        False,
    ),
    "hvae3": (
        HVAESpec((3, 3, 2), decoder_variance=0.4, encoder_variances=(0.2, 0.5, None)),
        False,
    ),
    "conditional-hvae2": (HVAESpec((3, 2), encoder_variances=(0.2, None)), True),
}


def problem(name: str):
    spec, conditional = SPECS[name]
    rho = [0.8, 0.6, 0.3, 0.0, 0.0] if conditional else 0.0
    dataset = gaussian(
        SPECTRUM, SAMPLES, correlation=rho, condition_dim=3 if conditional else 0, seed=1
    )
    data = TrainingData.from_arrays(dataset.target, dataset.condition)
    return spec, data, Moments.from_data(dataset.target, dataset.condition)


def model_with(spec, data: TrainingData, weights: dict[str, np.ndarray]):
    """A linear model whose `weights(0, 0)` are `weights`: the inverse of that method."""
    model = build_model(spec, data.target, data.condition)
    y, x = model.scale, model.condition_scale
    if isinstance(spec, CVAESpec):
        encoders = [np.hstack([weights["W1"] * x, weights["W2"] * y])]
        decoders = [np.hstack([weights["U1"], weights["U2"] * x]) / y]
        covariances = [weights["Sigma"]]
    elif isinstance(spec, HVAESpec):
        upper = range(2, len(spec.latent_dims) + 1)
        on_y, from_z = [weights["W1"] * y], [weights["U1"] / y]
        if "A" in weights:
            on_y, from_z = [weights["A"] * x, *on_y], [*from_z, weights["B"] * x / y]
        encoders = [np.hstack(on_y), *(weights[f"W{i}"] for i in upper)]
        decoders = [np.hstack(from_z), *(weights[f"U{i}"] for i in upper)]
        covariances = [weights[f"Sigma{i + 1}"] for i in range(len(spec.latent_dims))]
    else:
        encoders = [weights["W"] * (y if data.condition is None else x)]
        decoders, covariances = [weights["U"] / y], [weights["Sigma"]]
    with torch.no_grad():
        for i, (W, U, Sigma) in enumerate(zip(encoders, decoders, covariances, strict=True)):
            model.encoders[i].weight[0, 0] = torch.as_tensor(W)
            model.decoders[i].weight[0, 0] = torch.as_tensor(U)
            if spec.encoder_variances[i] is None:
                model.log_variances[i][0, 0] = torch.as_tensor(np.log(np.diag(Sigma)))
        if "s" in weights:
            dim = data.target.shape[1]
            model.log_s[0, 0] = float(np.log(weights["s"] * dim / y**2))
    return model


def optimum(name: str):
    spec, data, moments = problem(name)
    solution = solve(spec, moments)
    return spec, solution, data, model_with(spec, data, solution.weights)


@pytest.mark.parametrize("name", SPECS)
def test_weights_are_set(name):
    """The helper above and `StackedVAE.weights` are inverse; float32: 2e-6 relative."""
    _, solution, _, model = optimum(name)
    found = model.weights(0, 0)
    assert found.keys() == solution.weights.keys()
    for key, value in solution.weights.items():
        np.testing.assert_allclose(found[key], value, rtol=2e-6, atol=2e-7, err_msg=key)


@pytest.mark.parametrize("name", SPECS)
def test_optimal_model_shows_the_numbers_of_theory(name):
    spec, solution, data, model = optimum(name)
    seen = observe(model, data)
    levels = len(spec.latent_dims)
    # Exact where only the encoder enters (float32 sums: 1e-5). Where latents are sampled, two draws
    # of 1200 samples with matched second moments leave 0.007 nats at most: four times that. The
    # tests below are sharper, with errors from repeated evaluations.
    sampled = levels > 1
    atol = 0.03 if sampled else 1e-5
    np.testing.assert_allclose(seen.rates[0, 0], solution.rates, rtol=1e-5, atol=atol)
    information_of = solution.information.sum(axis=1)
    np.testing.assert_allclose(seen.information[0, 0][0], information_of[0], rtol=1e-5, atol=1e-5)
    for i, k in enumerate(spec.latent_dims):
        best = np.sort(solution.mode_rates[i])[::-1]
        best = np.sort(np.pad(best, (0, max(0, k - len(best))))[:k])[::-1]
        np.testing.assert_allclose(seen.unit_rates[i][0, 0], best, rtol=1e-5, atol=atol)
    assert seen.active_units[0, 0, 0] == active_unit_counts(solution, 0.01)[0]
    assert seen.collapsed_units[0, 0, 0] == collapsed_unit_counts(spec, solution, 0.01, 0.01)[0]


@pytest.mark.parametrize("name", SPECS)
def test_distortion_of_the_optimal_model(name):
    """Within 6 standard errors, from 20 evaluations with other noise; plus float32 rounding.

    One level: the matched second moments leave only the correlations between units.
    """
    _, solution, data, model = optimum(name)
    values = [float(observe(model, data, seed=s).distortion[0, 0]) for s in range(20)]
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    assert error < 0.01
    assert abs(np.mean(values) - solution.distortion) < 6 * error + 1e-4


@pytest.mark.parametrize("name", [n for n in SPECS if "hvae" in n])
def test_rates_of_the_optimal_hierarchy(name):
    """The same for the rates of levels whose prior is sampled from above."""
    _, solution, data, model = optimum(name)
    values = np.array([observe(model, data, seed=s).rates[0, 0] for s in range(20)])
    error = values.std(0, ddof=1) / np.sqrt(len(values))
    assert np.all(np.abs(values.mean(0) - solution.rates) < 6 * error + 1e-4)


@pytest.mark.parametrize("name", ["vae", "cvae", "hvae2"])
def test_every_unit_of_a_collapsed_model_counts_as_collapsed(name):
    spec, data, moments = problem(name)
    spec = spec.scale_betas(10 * solve(spec, moments).critical_beta[0] / spec.betas[0])
    seen = observe(model_with(spec, data, solve(spec, moments).weights), data)
    assert seen.collapsed_units[0, 0].tolist() == list(spec.latent_dims)
    assert seen.active_units[0, 0].tolist() == [0] * len(spec.latent_dims)
    np.testing.assert_allclose(seen.information[0, 0], 0, atol=1e-6)


def test_no_sample_is_dropped_and_order_does_not_matter():
    """1201 samples: two full chunks and a rest. The rate is the mean of what each sample gives."""
    spec, _, moments = problem("vae")
    rng = np.random.default_rng(0)
    data = TrainingData.from_arrays(rng.normal(size=(1201, 5)) ** 3, centered=False)
    model = model_with(spec, data, solve(spec, moments).weights)
    with torch.no_grad():
        level = model.encode(0, data.target[None, None] / model.scale)
    variance = level.log_variance.double().exp()
    kl = (level.mean.double().square() + variance - 1 - level.log_variance.double()) / 2
    expected = float(kl.detach().sum(-1).mean())
    assert observe(model, data).rates[0, 0, 0] == pytest.approx(expected, rel=1e-5)
    flipped = TrainingData(data.target.flip(0), None)
    assert observe(model, flipped).rates[0, 0, 0] == pytest.approx(expected, rel=1e-5)


def test_thresholds_of_the_counts():
    """Two units with KL and mean variance known by hand, mean +-a, variance v."""
    data = TrainingData.from_arrays(np.array([[1.0, 1.0], [-1.0, -1.0]] * 50))
    a, v = np.array([0.2, 0.05]), np.array([1.0, 1.0])
    weights = {"W": np.diag(a), "U": np.zeros((2, 2)), "Sigma": np.diag(v)}
    model = model_with(VAESpec(2), data, weights)
    # mean variances 0.04 and 0.0025; KL a^2/2 = 0.02 and 0.00125 of every sample
    seen = observe(model, data, threshold=0.01, epsilon=0.01)
    assert seen.active_units[0, 0, 0] == 1
    assert seen.collapsed_units[0, 0, 0] == 1
    np.testing.assert_allclose(seen.unit_rates[0][0, 0], [0.02, 0.00125], atol=2e-7)
    loose = observe(model, data, threshold=0.05, epsilon=0.03)
    assert (loose.active_units[0, 0, 0], loose.collapsed_units[0, 0, 0]) == (0, 2)
    strict = observe(model, data, threshold=0.001, epsilon=0.001)
    assert (strict.active_units[0, 0, 0], strict.collapsed_units[0, 0, 0]) == (2, 0)


def test_counts_do_not_depend_on_the_rotation_that_a_fixed_variance_leaves_free():
    """W -> R W, U -> U R' is the same model; units would all look active, axes do not."""
    spec, data, moments = problem("vae-fixed")
    spec = spec.scale_betas(0.5 * solve(spec, moments).critical_beta[0])
    solution = solve(spec, moments)
    rotation = hadamard(4) / 2  # spreads every mode over all units
    weights = solution.weights | {
        "W": rotation @ solution.weights["W"],
        "U": solution.weights["U"] @ rotation.T,
    }
    variances = np.diag(weights["W"] @ moments.covariance @ weights["W"].T)
    assert np.all(variances > 0.01)
    seen = observe(model_with(spec, data, weights), data)
    active = active_unit_counts(solution, 0.01)[0]
    assert 0 < active < 4
    assert seen.active_units[0, 0, 0] == active
    assert seen.collapsed_units[0, 0, 0] == collapsed_unit_counts(spec, solution, 0.01, 0.01)[0]


def test_share_of_samples_in_the_collapse_count():
    """One sample in 50 with a large KL: collapsed at delta = 0.03, not at delta = 0.01."""
    values = np.zeros((50, 2))
    values[0, 0] = 7.0
    data = TrainingData.from_arrays(values, centered=False)
    weights = {"W": np.diag([1.0, 1.0]), "U": np.zeros((2, 2)), "Sigma": np.eye(2)}
    model = model_with(VAESpec(2), data, weights)
    counts = [observe(model, data, delta=d).collapsed_units[0, 0, 0] for d in (0.01, 0.03)]
    assert counts == [1, 2]


def test_share_of_samples_below_is_that_of_their_exact_rates():
    """A cut-off in the widest gap between samples around a third of them: float32 moves none."""
    spec, data, moments = problem("vae")
    weights = solve(spec, moments).weights
    exact = np.sort(sample_rates(spec, moments, weights, np.asarray(data.target)))
    third = len(exact) // 3
    place = third + int(np.argmax(np.diff(exact[third : third + 20])))
    cut = float(exact[place : place + 2].mean())
    seen = observe(model_with(spec, data, weights), data, local_nats=cut).collapsed_share
    assert seen[0, 0, 0] == pytest.approx((place + 1) / len(exact), abs=1e-6)
    assert observe(model_with(spec, data, weights), data, local_nats=2 * cut).collapsed_share > seen


def statistics(mean, second, log_variance) -> torch.Tensor:
    return torch.tensor([mean, second, log_variance], dtype=torch.float64)


@pytest.mark.parametrize(
    ("mean", "second", "log_variance", "nats"),
    [
        ([0.0], [1.0], [0.0], 0.0),
        ([1.0], [5.0], [0.0], np.log(4) / 2),  # spread 4 around a mean of 1
        ([0.0, 0.0], [1.0, 1.0], [-2.0, 0.0], 1.0),
        ([1.0, -2.0], [5.0, 5.0], [0.0, -2.0], np.log(4) / 2 + 1.0),  # units add
    ],
)
def test_information_by_hand(mean, second, log_variance, nats):
    found = information(statistics(mean, second, log_variance))
    assert float(found) == pytest.approx(nats, abs=1e-12)


@pytest.mark.parametrize("encoder_variance", [None, 0.4])
def test_member_that_diverged_is_nan_and_leaves_the_others(encoder_variance):
    spec = VAESpec(2, decoder_variance=0.5, encoder_variance=encoder_variance)
    data = TrainingData.from_arrays(gaussian((3.0, 1.0), 100, seed=1).target)
    model = build_model(spec, data.target, n_points=2)
    before = observe(model, data)
    with torch.no_grad():
        model.encoders[0].weight[0, 1] = torch.nan
    found = observe(model, data)
    assert np.isnan(found.distortion[0, 1])
    assert np.isnan(found.information[0, 1]).all()
    assert found.distortion[0, 0] == before.distortion[0, 0]
    assert (found.active_units[0, 0] == before.active_units[0, 0]).all()


def test_units_above_a_cut_off_are_counted_by_their_rate():
    _, solution, data, model = optimum("vae")
    seen = observe(model, data)
    rates = seen.unit_rates[0][0, 0]
    between = float((rates[0] + rates[1]) / 2)
    assert seen.units_above(between).tolist() == [[[1]]]
    assert seen.units_above(0.05)[0, 0, 0] == units_above(solution, 0.05)[0]
