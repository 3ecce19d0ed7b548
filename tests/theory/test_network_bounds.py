"""Bounds of any network: the inequality behind them by quadrature, their place against `solve`."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from linvae import ARVAESpec, CVAESpec, HVAESpec, Moments, VAESpec, solve
from linvae.theory.network_bounds import network_bounds
from linvae.theory.universal import universal_threshold

GRID = np.linspace(-14, 14, 5601)  # trapezoids of Gaussians of width >= 0.3: exact to 1e-12


def normal(mean: float, variance: float) -> np.ndarray:
    return np.exp(-((GRID - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)


def mixture(weights: np.ndarray, means: np.ndarray, variance: float) -> np.ndarray:
    return sum(w * normal(m, variance) for w, m in zip(weights, means, strict=True))


def integral(values: np.ndarray) -> float:
    return float(np.trapezoid(values, GRID))


def information(weights: np.ndarray, means: np.ndarray, variance: float) -> float:
    """I(mu; mu + noise), nats."""
    p = mixture(weights, means, variance)
    return -integral(p * np.log(p + 1e-300)) - np.log(2 * np.pi * np.e * variance) / 2


def excess(sigma2: float, eta2: float, code: tuple, prior: tuple) -> float:
    """Rate less that of collapse: means `code` of q(z|y), p(z) a mixture of N(., eta^2)."""
    q, p = mixture(*code, sigma2), mixture(*prior, eta2)
    rate = -integral(q * np.log(p + 1e-300)) - np.log(2 * np.pi * np.e * sigma2) / 2
    phi = sigma2 / eta2
    return rate - (phi - 1 - np.log(phi)) / 2


def drawn(rng: np.random.Generator) -> tuple[float, float, tuple, tuple]:
    eta2 = rng.uniform(0.5, 2)
    code = rng.dirichlet(np.ones(3)), rng.normal(size=3) * rng.uniform(0.05, 2)
    prior = rng.dirichlet(np.ones(4)), rng.normal(size=4) * rng.uniform(0.0, 2)
    return eta2 * rng.uniform(0.2, 1), eta2, code, prior


@pytest.mark.parametrize("seed", range(100))
def test_no_prior_makes_information_cheaper_than_the_factor(seed):
    """Level 1 fixed, any levels above: excess of the rate >= I(mu; A') >= phi I(mu; A)."""
    sigma2, eta2, code, prior = drawn(np.random.default_rng(seed))
    paid, wider = excess(sigma2, eta2, code, prior), information(*code, eta2)
    assert paid >= wider - 1e-9  # quadrature
    assert wider >= sigma2 / eta2 * information(*code, sigma2) - 1e-9


def test_the_factor_is_reached():
    """The cheapest of codes of 0.001 nats or more costs phi to a per cent, and none costs less."""

    def price(x: np.ndarray) -> float:
        weights = np.exp(x[:3] - x[:3].max())
        code = weights / weights.sum(), x[3:6]
        prior = np.array([0.5, 0.5]), x[6:8]
        told = information(*code, 0.5)
        return excess(0.5, 1.0, code, prior) / told if told > 1e-3 else np.inf

    start = np.array([0.0, 0.3, -0.2, 0.5, -0.6, 0.2, 0.3, -0.3])
    found = minimize(price, start, method="Nelder-Mead", options={"maxiter": 2000})
    assert 0.5 - 1e-6 <= found.fun <= 0.51  # quadrature to 1e-9 of 1e-3 nats


def spread(n: int = 400) -> np.ndarray:
    """Skewed in the first direction, so that the bounds differ."""
    rng = np.random.default_rng(2)
    y = rng.normal(size=(n, 3)) * [0.3, 0.8, 0.4]
    y[:, 0] += 2.0 * (rng.random(n) < 0.2)
    return y


COVERED = {
    "vae": VAESpec(2, decoder_variance=0.3),
    "fixed": VAESpec(2, decoder_variance=0.3, prior_variance=2.0, encoder_variance=0.5),
    "diagonal": VAESpec(2, decoder_variance=0.3, encoder_variance=(0.5, 0.25)),
    "levels": HVAESpec((2, 2), decoder_variance=0.3, betas=(1.0, 1.5)),
    "published": HVAESpec.markovian((2, 2), decoder_variance=0.3, encoder_variances=(0.1, None)),
    "three": HVAESpec((2, 2, 1), decoder_variance=0.3, encoder_variances=(0.5, None, None)),
}


@pytest.mark.parametrize("spec", COVERED.values(), ids=COVERED.keys())
def test_linear_bound_is_the_threshold_of_solve(spec):
    y = spread()
    found = network_bounds(spec, y)
    critical = solve(spec, Moments.from_data(y)).critical_beta[0]
    assert found.linear == pytest.approx(critical, rel=1e-9)
    assert 1.01 * found.linear < found.found <= found.proven
    assert found.scope == "any network"
    assert found.to_rows()[0]["found"] == found.found
    plain = universal_threshold(y, decoder_variance=0.3)
    factor = critical / plain.linear_critical_beta
    assert found.found == pytest.approx(factor * plain.critical_beta, rel=1e-9)
    assert found.proven == pytest.approx(factor * plain.critical_beta_upper_bound, rel=1e-9)
    assert found.held_out == pytest.approx(factor * plain.held_out_critical_beta, rel=1e-9)
    error = factor * plain.held_out_standard_error
    assert found.held_out_standard_error == pytest.approx(error, rel=1e-9)


@pytest.mark.parametrize("model", [CVAESpec(2, decoder_variance=0.3), COVERED["published"]])
def test_condition_leaves_decoders_that_add_to_the_regression(model):
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(400, 2)), spread()
    y[:, 1] += x[:, 0]
    found = network_bounds(model, y, x)
    critical = solve(model, Moments.from_data(y, x)).critical_beta[0]
    assert found.linear == pytest.approx(critical, rel=1e-9)
    assert found.scope == "any decoder that adds to the fixed regression"


def test_trained_map_of_the_condition_is_not_bound():
    """One sample of much leverage: a code for it alone lets the decoder fit the others afresh."""
    counts = [1, 16, 73, 128]
    x = np.repeat([28.0, -2, -1, -2], counts)[:, None]
    y = np.repeat([3.0, -2, 2, -2], counts)[:, None]
    bound = network_bounds(CVAESpec(1, decoder_variance=0.1), y, x)

    def error(inputs: np.ndarray) -> float:
        design = np.column_stack([np.ones(len(y)), inputs])
        return float(np.mean((y - design @ np.linalg.lstsq(design, y, rcond=None)[0]) ** 2))

    first = (np.arange(len(y)) == 0).astype(float)[:, None]
    p = 1 / len(y)
    nats = -p * np.log(p) - (1 - p) * np.log1p(-p)
    paid_until = (error(x) - error(np.column_stack([x, first]))) / (2 * 0.1) / nats
    assert paid_until > 10 * bound.proven


UNKNOWN = {
    "penalties": (VAESpec(1, weight_decay=0.1), False),
    "bernoulli": (VAESpec(1, likelihood="bernoulli"), False),
    "learned s": (VAESpec(1, decoder_variance="learned"), False),
    "autoregressive": (ARVAESpec(1), False),
    "encoder sees the condition": (VAESpec(1), True),
    "encoder sees the target": (CVAESpec(1, encoder_sees="target"), True),
    "falling betas": (HVAESpec((1, 1), betas=(1.0, 0.5), encoder_variances=(0.5, None)), False),
    "level 2 fixed": (HVAESpec((1, 1), encoder_variances=(None, 0.5)), False),
    "noisy level 1": (HVAESpec((1, 1), encoder_variances=(1.5, None)), False),
}


@pytest.mark.parametrize(("spec", "conditional"), UNKNOWN.values(), ids=UNKNOWN.keys())
def test_no_number_where_no_bound_is_known(spec, conditional):
    y = spread(40)
    assert network_bounds(spec, y, y[:, :1] if conditional else None) is None


def test_refusals():
    y = spread(40)
    for arguments, message in (
        (("vae", y), "spec is a str but must be a VAESpec"),
        ((CVAESpec(1), y), "condition is None but CVAESpec needs one"),
        ((CVAESpec(1), y, np.arange(40)), r"condition has shape \(40,\) .* call universal_thresh"),
    ):
        with pytest.raises(ValueError, match=message):
            network_bounds(*arguments)


def test_one_level_of_a_hierarchy_may_be_noisy():
    """A single level is plain: sigma^2 > eta^2 makes information dearer."""
    found = network_bounds(VAESpec(1, encoder_variance=2.0), spread())
    assert found.linear == pytest.approx(network_bounds(VAESpec(1), spread()).linear / 2)
