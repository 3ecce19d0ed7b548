"""Spread that depends on the condition: samples have the mean and covariance that are claimed."""

import numpy as np
import pytest

from linvae.data import Heteroscedastic

N = 40_000
MODELS = {
    "turning": Heteroscedastic(0.4, 2.0, noise=0.2, turns=1),
    "twice": Heteroscedastic(1.0, 1.0, noise=0.3, turns=2, target_dim=4),
    "fixed direction": Heteroscedastic(0.1, 3.0, noise=0.1, turns=0, target_dim=2),
    "bent": Heteroscedastic(0.4, 2.0, noise=0.2, bend=1.5),
}


def samples(model):
    data = model.dataset(N, seed=3)
    y, x = data.target.astype(np.float64), data.condition.astype(np.float64)
    return y, x, np.arctan2(x[:, 1], x[:, 0])


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_whitened_at_its_own_condition_every_sample_is_standard_normal(model):
    """Second moments times 1, cos phi, sin phi, cos 2 phi; each within 6 of its standard errors."""
    y, _, phi = samples(model)
    y[:, -1] -= model.bend * np.cos(2 * phi)
    root = np.linalg.cholesky(model.covariances(phi))
    w = np.linalg.solve(root, y[:, :, None])[:, :, 0]
    excess = w[:, :, None] * w[:, None, :] - np.eye(model.target_dim)
    for weight in (np.ones(N), np.cos(phi), np.sin(phi), np.cos(2 * phi)):
        terms = excess * weight[:, None, None]
        assert np.all(np.abs(terms.mean(axis=0)) < 6 * terms.std(axis=0) / np.sqrt(N))


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_top_variance_and_its_mean_over_conditions(model):
    phi = (np.arange(400) + 0.5) * 2 * np.pi / 400
    C, u = model.covariances(phi), model.directions(phi)
    top = model.top_variances(phi)
    np.testing.assert_allclose(np.linalg.eigvalsh(C)[:, -1], top, rtol=1e-12)
    np.testing.assert_allclose(np.einsum("mij,mj->mi", C, u), top[:, None] * u, atol=1e-12)
    assert (top.min(), top.max()) == pytest.approx((model.lowest, model.highest), rel=1e-3)
    rise = (model.lowest + model.highest) / 2 - model.noise
    share = 1.0 if model.turns == 0 else 0.5
    mean = np.linalg.eigvalsh(C.mean(axis=0))[-1]
    assert mean == pytest.approx(model.noise + share * rise, rel=1e-12)


def test_directions_at_known_angles():
    quarter = np.array([0.0, np.pi / 4, np.pi / 2])
    once, twice = (MODELS[name].directions(quarter)[:, :2] for name in ("turning", "twice"))
    half = np.sqrt(0.5)
    np.testing.assert_allclose(once, [[1, 0], [half, half], [0, 1]], atol=1e-15)
    np.testing.assert_allclose(twice, [[1, 0], [0, 1], [-1, 0]], atol=1e-15)


def test_linear_regression_finds_nothing():
    """Not even of a bent mean; covariances within 6 standard errors of 0."""
    y, x, phi = samples(MODELS["bent"])
    products = y[:, :, None] * x[:, None, :]
    assert np.all(np.abs(products.mean(axis=0)) < 6 * products.std(axis=0) / np.sqrt(N))
    slope = np.mean(y[:, -1] * np.cos(2 * phi)) * 2
    assert slope == pytest.approx(1.5, abs=6 * 2 * np.std(y[:, -1] * np.cos(2 * phi)) / np.sqrt(N))


def test_seed_decides_everything():
    model = MODELS["turning"]
    first, again, other = (model.dataset(50, seed=s).sha256 for s in (0, 0, 1))
    assert first == again != other


REFUSED = {
    "below noise": ({"lowest": 0.1, "highest": 1.0, "noise": 0.2}, "noise=0.2, lowest=0.1"),
    "descending": ({"lowest": 2.0, "highest": 1.0}, "must be in ascending order"),
    "nothing": ({"lowest": 0.0, "highest": 0.0, "noise": 0.0}, "the last > 0"),
    "turns": ({"lowest": 1.0, "highest": 1.0, "turns": 0.5}, "turns=0.5 must be an integer >= 0"),
    "dim": ({"lowest": 1.0, "highest": 1.0, "target_dim": 1}, "target_dim=1 must be an integer"),
    "bend": ({"lowest": 1.0, "highest": 1.0, "bend": np.inf}, "bend=inf must be finite"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Heteroscedastic(**options)
