"""Lipschitz constants of decoders: matrices, a known derivative, finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from linvae.data import load_dataset
from linvae.metrics import decoder_lipschitz
from linvae.metrics.reencoding import conditions, prior_latents
from linvae.models import Architecture, build_model
from linvae.spec import CVAESpec, HVAESpec, VAESpec
from linvae.train import TrainingData
from tests.metrics.test_observe import model_with, problem


@pytest.mark.parametrize("singular", [(3.0, 0.5), (1.0, 0.01), (20.0, 2.0)])
def test_of_a_matrix_exactly_and_quantiles_of_pairs(singular):
    """The published estimate by the law of |U e|/|e|, e a random direction in the plane.

    The squared ratio is s_2^2 + (s_1^2 - s_2^2) cos^2 of a uniform angle; 10,000 pairs give the
    share below a quantile with a standard error of 0.0022: six of them.
    """
    _, data, _ = problem("vae")
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(5, 2)))[0]
    turn = np.linalg.qr(rng.normal(size=(2, 2)))[0]
    weights = {"W": np.zeros((2, 5)), "U": basis * singular @ turn, "Sigma": np.eye(2)}
    found = decoder_lipschitz(model_with(VAESpec(2), data, weights), data)
    assert found.upper[0, 0] == pytest.approx(singular[0], rel=1e-5)
    # float32 keeps the matrix to 1e-7 of its largest entries
    assert found.lower[0, 0] == pytest.approx(singular[1], abs=1e-6 * singular[0])
    assert found.bi_lipschitz[0, 0] == pytest.approx(max(singular[0], 1 / singular[1]), rel=1e-3)
    high, low = np.square(singular)
    for ratio, share in ((found.pair_upper, 0.95), (found.pair_lower, 0.05)):
        cosine = np.sqrt((ratio[0, 0] ** 2 - low) / (high - low))
        assert 1 - 2 * np.arccos(cosine) / np.pi == pytest.approx(share, abs=6 * 0.0022)
    assert found.published_bi_lipschitz[0, 0] < found.bi_lipschitz[0, 0]


def test_more_units_than_dimensions_leave_a_dead_direction():
    data = TrainingData.from_arrays(np.random.default_rng(0).normal(size=(50, 2)))
    found = decoder_lipschitz(build_model(VAESpec(3), data.target), data)
    assert found.lower[0, 0] == 0
    assert np.isinf(found.bi_lipschitz[0, 0])
    assert found.published_bi_lipschitz[0, 0] <= 1000


def test_a_derivative_known_everywhere():
    """g(z) = a tanh(w z): s(z) = a w/cosh(w z)^2, largest at 0, smallest at the farthest draw."""
    data = TrainingData.from_arrays(np.random.default_rng(1).normal(size=(50, 1)))
    model = build_model(
        VAESpec(1), data.target, architecture=Architecture("mlp", 1, activation="tanh")
    )
    a, w = 0.7, 0.9
    decoder = model.decoders[0]
    with torch.no_grad():
        decoder.inner.weight.fill_(w)
        decoder.outer.weight.fill_(a / model.scale)
    found = decoder_lipschitz(model, data, n_latents=2000)
    # 2,000 draws: one within 0.01 of 0 (all farther with a probability of 1e-7), none beyond 5.5
    assert a * w / np.cosh(0.01 * w) ** 2 < found.upper[0, 0] <= a * w * (1 + 1e-5)
    assert a * w / np.cosh(5.5 * w) ** 2 < found.lower[0, 0] < a * w / np.cosh(2.5 * w) ** 2
    assert found.pair_upper[0, 0] < found.upper[0, 0]


@pytest.mark.parametrize("kind", ["conditional", "bernoulli"])
@pytest.mark.parametrize("network", ["mlp", "conv", "resnet"])
def test_jacobians_of_networks_by_finite_differences(network, kind):
    """Singular values of differences in float64, at the same draws; members side by side."""
    digits = load_dataset("digits", conditional=kind == "conditional")
    data = TrainingData.from_arrays(
        digits.target[:40],
        None if digits.condition is None else digits.condition[:40],
        centered=kind == "conditional",
        image=digits.image_layout(),
    )
    spec = CVAESpec(2) if kind == "conditional" else VAESpec(2, likelihood="bernoulli")
    model = build_model(
        spec, data.target, data.condition, image=data.image, seeds=(0, 1), n_points=1,
        architecture=Architecture(network, 8, activation="tanh", channels=(4, 4)),
    )  # fmt: skip
    found = decoder_lipschitz(model, data, n_latents=5, seed=2)
    z, x = prior_latents(model, 5, 2).double(), conditions(model, data, 5, 2)
    model.double().eval()
    x = None if x is None else x[None].double()
    columns = []
    with torch.no_grad():
        for unit in torch.eye(2, dtype=torch.float64) * 1e-5:
            columns.append((model.decode(z + unit, x) - model.decode(z - unit, x)) / 2e-5)
    values = np.linalg.svd(torch.stack(columns, dim=-1).numpy(), compute_uv=False)
    # float32 against float64
    np.testing.assert_allclose(found.upper, values[..., 0].max(axis=-1), rtol=1e-3)
    np.testing.assert_allclose(found.lower, values[..., 1].min(axis=-1), rtol=1e-3)


def test_hierarchies_are_refused():
    _, data, _ = problem("vae")
    with pytest.raises(ValueError, match="spec has 2 levels but decoder_lipschitz needs one"):
        decoder_lipschitz(build_model(HVAESpec((2, 1)), data.target), data)
