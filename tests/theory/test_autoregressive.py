"""Autoregressive decoder at full order: the optimum against brute force over W, U, B and Sigma."""

from __future__ import annotations

import dataclasses

import autograd_oracle
import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from linvae import Moments, VAESpec, objective, solve
from linvae.spec import ARVAESpec

from .problems import random_covariance


def _draw(number: int) -> tuple[ARVAESpec, Moments]:
    rng = np.random.default_rng(number)
    d = int(rng.integers(1, 4))
    numbers = np.exp(rng.uniform(np.log([0.3, 0.1, 0.4]), np.log([2, 1, 2])))
    beta, s, eta2 = map(float, numbers)
    moments = Moments.from_covariance(random_covariance(rng, d))
    spec = ARVAESpec(d, beta=beta, decoder_variance=s, prior_variance=eta2)
    active = int(solve(spec, moments).active_units[0])
    return dataclasses.replace(spec, latent_dim=max(1, active)), moments


def _value_and_gradient(spec: ARVAESpec, C: np.ndarray, vector: np.ndarray):
    """The objective of (W, U, B, L), Sigma = L L^T with the logarithm of its diagonal, by hand."""
    (d, _), k, s, eta2 = C.shape, spec.latent_dim, spec.decoder_variance, spec.prior_variance
    W, U, b, lower = np.split(vector, np.cumsum([k * d, k * d, d * (d - 1) // 2]))
    W, U, B, L = W.reshape(k, d), U.reshape(d, k), np.zeros((d, d)), np.zeros((k, k))
    below, triangle, on = np.tril_indices(d, -1), np.tril_indices(k), np.arange(k)
    B[below], L[triangle] = b, lower
    log_diagonal = L[on, on]
    L[on, on] = np.exp(log_diagonal)
    E = np.eye(d) - B - U @ W
    error = np.sum((E @ C) * E) + np.sum((U @ L) ** 2)
    rate = (np.sum((W @ C) * W) + np.sum(L**2)) / eta2 - k + k * np.log(eta2)
    value = d / 2 * np.log(2 * np.pi * s) + error / (2 * s)
    value += spec.beta * (rate / 2 - log_diagonal.sum())
    of_E, of_L = E @ C / s, (U.T @ U / s + spec.beta / eta2 * np.eye(k)) @ L
    of_L[on, on] = of_L[on, on] * L[on, on] - spec.beta
    of_W = spec.beta * W @ C / eta2 - U.T @ of_E
    of_U = U @ L @ L.T / s - of_E @ W.T
    return value, np.concatenate([of_W.ravel(), of_U.ravel(), -of_E[below], of_L[triangle]])


def _lowest(spec: ARVAESpec, C: np.ndarray, seed: int) -> float:
    """L-BFGS from two random starts."""
    rng, (d, _), k = np.random.default_rng(seed), C.shape, spec.latent_dim
    size = 2 * k * d + d * (d - 1) // 2 + k * (k + 1) // 2
    options = {"maxiter": 20_000, "maxfun": 50_000, "ftol": 1e-15, "gtol": 1e-9}
    return min(
        minimize(
            lambda x: _value_and_gradient(spec, C, x), rng.normal(size=size) * rng.uniform(0.2, 1),
            jac=True, method="L-BFGS-B", options=options,
        ).fun
        for _ in range(2)
    )  # fmt: skip


@pytest.mark.parametrize("number", range(10))
def test_oracle_is_the_definition_and_its_derivative(number):
    """By automatic differentiation of the other oracle."""
    spec, moments = _draw(number)
    model = autograd_oracle.model_of(spec, moments)
    point = np.random.default_rng(number).normal(size=sum(model.sizes))
    vector = torch.tensor(point, dtype=torch.float64, requires_grad=True)
    value = autograd_oracle.objective(model, vector)
    (gradient,) = torch.autograd.grad(value, vector)
    found = _value_and_gradient(spec, moments.covariance, point)
    assert found[0] == pytest.approx(value.item(), rel=1e-12)
    np.testing.assert_allclose(found[1], gradient.numpy(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("number", range(100))
def test_solution_is_the_global_minimum(number):
    """With just as many units as innovations above beta s: the fewest that the claim covers."""
    spec, moments = _draw(number)
    solution = solve(spec, moments)
    lowest = _lowest(spec, moments.covariance, number)
    # bounds: see tests/theory/test_penalised.py
    assert solution.objective == pytest.approx(lowest, rel=1e-8, abs=1e-8)
    terms = objective(spec, moments, solution.weights)
    assert terms.objective == pytest.approx(solution.objective, rel=1e-10, abs=1e-10)


def test_order_zero_is_the_plain_vae():
    moments = Moments.from_covariance(random_covariance(np.random.default_rng(0), 4))
    ar, plain = ARVAESpec(2, order=0, beta=0.7), VAESpec(2, beta=0.7)
    assert solve(ar, moments).objective == pytest.approx(solve(plain, moments).objective, rel=1e-14)
    assert solve(ar, moments).critical_beta == pytest.approx(
        solve(plain, moments).critical_beta, rel=1e-14, nan_ok=True
    )


def test_innovations_of_a_singular_covariance():
    """A repeated coordinate has nothing left to explain: innovation 0, by elimination."""
    rng = np.random.default_rng(1)
    y = rng.normal(size=(50, 2))
    moments = Moments.from_data(np.column_stack([y[:, 0], y[:, 0], y[:, 1]]))
    variances = solve(ARVAESpec(3, decoder_variance=0.1), moments).mode_variances
    cov = np.cov(y.T, bias=True)
    expected = sorted([cov[0, 0], cov[1, 1] - cov[0, 1] ** 2 / cov[0, 0], 0.0], reverse=True)
    assert variances == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("width", "innovations"),
    [(0.05, [1.0, 0.0958690, 0.0175006]), (0.1, [1.0, 0.0248805, 0.0012227])],
)
def test_smooth_process_with_a_nearly_singular_covariance(width, innovations):
    """64 points of a Gaussian kernel; the innovations were computed with 80 digits."""
    t = np.linspace(0, 1, 64)
    moments = Moments.from_covariance(np.exp(-((t[:, None] - t) ** 2) / (2 * width**2)))
    spec = ARVAESpec(64, decoder_variance=0.01)
    solution = solve(spec, moments)
    assert solution.mode_variances[:3] == pytest.approx(innovations, rel=1e-4)
    # the weights have a ridge: off by 1e-5 of the variance in each of 64 coordinates, over 2 s
    found = objective(spec, moments, solution.weights).objective
    assert found == pytest.approx(solution.objective, abs=64 * 1e-5 / 0.02)


def test_strong_decoder_collapses_a_chain():
    """A random walk: the VAE's threshold is its top eigenvalue, the decoder's one increment."""
    d = 30
    walk = np.minimum.outer(np.arange(1.0, d + 1), np.arange(1.0, d + 1))
    moments = Moments.from_covariance(walk)
    full = solve(ARVAESpec(d, decoder_variance=0.5), moments)
    assert full.critical_beta == pytest.approx(2.0, rel=1e-9)
    top = 1 / (4 * np.sin(np.pi / (2 * (2 * d + 1))) ** 2)  # known spectrum of min(i, j)
    weak = solve(VAESpec(1, decoder_variance=0.5), moments)
    assert weak.critical_beta[0] == pytest.approx(2 * top, rel=1e-9)


def test_weights_outside_the_order_are_refused():
    moments = Moments.from_covariance(np.eye(2))
    weights = {"W": np.ones((1, 2)), "U": np.ones((2, 1)), "Sigma": np.eye(1)}
    with pytest.raises(ValueError, match=r"weights\['B'\]\[0, 1\] must be 0 in ARVAESpec"):
        objective(ARVAESpec(1), moments, weights | {"B": np.array([[0.0, 1.0], [0.0, 0.0]])})
