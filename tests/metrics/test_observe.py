"""Observation of a model whose weights are theory's optimum gives theory's numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from linvae.data import gaussian
from linvae.metrics import observe
from linvae.models import build_model
from linvae.moments import Moments
from linvae.spec import CVAESpec, HVAESpec, VAESpec
from linvae.theory import solve
from linvae.theory.observables import active_unit_counts, collapsed_unit_counts
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
    # Exact where only the encoder enters (float32 sums: 1e-5); where latents are sampled the error
    # of 2400 draws: a squared latent difference has relative error sqrt(2/1200) = 4 %, but its
    # second moments are matched, which leaves the cross terms with the level below: 0.03 nats is
    # six times the largest seen.
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
