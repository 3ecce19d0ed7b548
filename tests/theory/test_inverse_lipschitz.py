"""The optimum with a decoder that keeps latents apart, against minimisation over such matrices."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
import torch
from scipy.optimize import minimize

from linvae.moments import Moments
from linvae.spec import VAESpec
from linvae.theory import objective, solve
from linvae.theory.inverse_lipschitz import idle_beta, inverse_lipschitz_optimum

from .problems import random_covariance


def brute_force(C, k, L, beta, s, eta2, seed, starts=6):
    """Least objective over U, W and a diagonal encoder covariance, from the definitions.

    Every U with U^T U >= L^2 I is Q (L I + A A^T) with orthonormal columns in Q (polar form). At
    given U the objective is convex in W and in every variance; both are put at their minimum.
    """
    rng, d = np.random.default_rng(seed), len(C)
    C, eye = torch.tensor(C), torch.eye(k, dtype=torch.float64)

    def value(x):
        v = torch.tensor(x, requires_grad=True)
        columns, A = v[: d * k].view(d, k), v[d * k :].view(k, k)
        U = torch.linalg.qr(columns)[0] @ (L * eye + A @ A.T)
        W = torch.linalg.solve(U.T @ U / s + beta / eta2 * eye, U.T / s)
        variance = beta / (U.square().sum(0) / s + beta / eta2)
        error = torch.eye(d, dtype=torch.float64) - U @ W
        mse = torch.trace(error @ C @ error.T) + (U.square() * variance).sum()
        square = torch.diagonal(W @ C @ W.T) + variance
        rate = (square / eta2 - 1 - (variance / eta2).log()).sum() / 2
        total = mse / (2 * s) + beta * rate
        return total.item(), torch.autograd.grad(total, v)[0].numpy()

    options = {"maxiter": 500, "ftol": 1e-15, "gtol": 1e-9}
    return min(
        minimize(
            value, rng.normal(size=(d + k) * k), jac=True, method="L-BFGS-B", options=options
        ).fun
        for _ in range(starts)
    )


def problem(seed):
    rng = np.random.default_rng(seed)
    d = int(rng.integers(1, 5))
    theta2 = np.exp(rng.uniform(-2, 1.5, size=d))
    theta2[1:][rng.random(d - 1) < 0.2] = 0.0
    numbers = {
        "latent_dim": int(rng.integers(1, d + 1)),
        "inverse_lipschitz": float(np.exp(rng.uniform(-2, 1))) * (rng.random() < 0.9),
        "beta": float(np.exp(rng.uniform(-1.5, 2))),
        "decoder_variance": float(np.exp(rng.uniform(-2, 0.5))),
        "prior_variance": float(np.exp(rng.uniform(-1, 1))),
    }
    return theta2, numbers


def weights(optimum):
    """Its matrices in the basis of the modes."""
    d, k = len(optimum.mode_variances), len(optimum.decoder)
    W, U = np.zeros((k, d)), np.zeros((d, k))
    W[range(k), range(k)], U[range(k), range(k)] = optimum.encoder, optimum.decoder
    return {"W": W, "U": U, "Sigma": np.diag(optimum.encoder_variances)}


@pytest.mark.parametrize("seed", range(16))
def test_optimum_against_brute_force(seed):
    """In a rotated basis; the best start of six is the global minimum."""
    theta2, numbers = problem(seed)
    optimum = inverse_lipschitz_optimum(theta2, **numbers)
    rng = np.random.default_rng(seed + 1000)
    Q = np.linalg.qr(rng.normal(size=(len(theta2), len(theta2))))[0]
    k, L, beta, s, eta2 = numbers.values()
    best = brute_force(Q @ np.diag(theta2) @ Q.T, k, L, beta, s, eta2, seed)
    size = max(1.0, abs(best))
    assert -oracles.ABOVE * size < best - optimum.objective < oracles.RELATIVE_GAP * size


@pytest.mark.parametrize("seed", range(40))
def test_numbers_are_those_of_its_weights(seed):
    """The exact objective of the weights, rates and errors; the bound holds."""
    theta2, numbers = problem(seed)
    optimum = inverse_lipschitz_optimum(theta2, **numbers)
    named, s = weights(optimum), numbers["decoder_variance"]
    spec = VAESpec(
        numbers["latent_dim"], beta=numbers["beta"], decoder_variance=s,
        prior_variance=numbers["prior_variance"],
    )  # fmt: skip
    moments = Moments.from_covariance(np.diag(optimum.mode_variances))
    exact = objective(spec, moments, named)
    constant = len(theta2) / 2 * np.log(2 * np.pi * s)
    assert exact.objective - constant == pytest.approx(optimum.objective, rel=1e-12)
    assert exact.rates.sum() == pytest.approx(optimum.rates_nats.sum(), rel=1e-11, abs=1e-14)
    distortion = optimum.squared_errors.sum() / (2 * s)
    assert exact.distortion - constant == pytest.approx(distortion, rel=1e-11)
    plain = solve(spec, moments).objective
    price = exact.objective - plain
    assert price == pytest.approx(optimum.price_nats.sum(), rel=1e-9, abs=1e-11)
    L = numbers["inverse_lipschitz"]
    singular = np.linalg.svd(named["U"], compute_uv=False)
    assert singular.min() >= L * (1 - 1e-12)
    at_bound = np.isclose(optimum.decoder, L, rtol=1e-12)
    assert (optimum.bound <= at_bound).all()


def test_information_is_that_of_the_joint_gaussian():
    """log det of the correlation of mean and mode, unit by unit."""
    for seed in range(20):
        theta2, numbers = problem(seed)
        found = inverse_lipschitz_optimum(theta2, **numbers)
        for i, (w, v) in enumerate(zip(found.encoder, found.encoder_variances, strict=True)):
            theta2_i = found.mode_variances[i]
            joint = np.array(
                [[theta2_i + 1e-300, w * theta2_i], [w * theta2_i, w**2 * theta2_i + v]]
            )
            expected = -np.log(np.linalg.det(joint) / np.prod(np.diag(joint))) / 2
            if theta2_i > 0:
                assert found.information_nats[i] == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert (found.information_nats <= found.rates_nats + 1e-12).all()
        np.testing.assert_allclose(
            found.mean_variances, found.encoder**2 * found.mode_variances[: len(found.encoder)],
            rtol=1e-12,
        )  # fmt: skip


@pytest.mark.parametrize("seed", range(10))
def test_no_bound_is_the_plain_model(seed):
    covariance = random_covariance(np.random.default_rng(seed), 4)
    moments = Moments.from_covariance(covariance)
    spec = VAESpec(3, beta=1.3, decoder_variance=0.4, prior_variance=0.7)
    plain = solve(spec, moments)
    optimum = inverse_lipschitz_optimum(
        plain.mode_variances, latent_dim=3, inverse_lipschitz=0.0, beta=1.3, decoder_variance=0.4,
        prior_variance=0.7,
    )  # fmt: skip
    np.testing.assert_allclose(optimum.rates_nats, plain.mode_rates[0, :3], rtol=1e-10, atol=1e-13)
    assert not optimum.bound.any()
    assert optimum.price_nats.tolist() == [0.0] * 3


def test_no_unit_collapses_and_none_is_of_use():
    """Far above every threshold: the rate's tail, and a unit without data that says nothing."""
    numbers = {"latent_dim": 2, "inverse_lipschitz": 0.5, "decoder_variance": 0.2}
    for beta in (1e3, 1e4):
        found = inverse_lipschitz_optimum([2.0, 0.0], beta=beta, **numbers)
        assert (found.encoder_variances < 1).all()
        tail = 0.25 * (np.array([2.0, 0.0]) + 0.125) / (2 * (beta * 0.2) ** 2)
        # the next order of the expansion is smaller by 2 L^2/(beta s)
        np.testing.assert_allclose(found.rates_nats, tail, rtol=2 * 0.25 / (beta * 0.2))
        assert found.information_nats[1] == 0 < found.rates_nats[1]
        assert found.bound.all()


def test_bound_acts_from_its_own_beta():
    """(theta^2 - L^2 eta^2)/s, before the mode would collapse; the mode keeps its place."""
    theta2, L, s, eta2 = np.array([3.0, 1.5, 1.0]), 0.6, 0.5, 1.4
    for i, begins in enumerate((theta2 - L**2 * eta2) / s):
        for share in (0.999, 1.001):
            found = inverse_lipschitz_optimum(
                theta2, latent_dim=3, inverse_lipschitz=L, beta=share * begins,
                decoder_variance=s, prior_variance=eta2,
            )  # fmt: skip
            assert found.bound[i] == (share > 1)
            assert (found.price_nats[i] > 0) == (share > 1)


@pytest.mark.parametrize("seed", range(40))
def test_units_count_as_idle_from_idle_beta(seed):
    """The posterior mean has the threshold's variance there, and less beyond."""
    theta2, numbers = problem(seed)
    theta2, k = np.sort(theta2)[::-1], len(theta2)
    given = {n: numbers[n] for n in ("inverse_lipschitz", "decoder_variance", "prior_variance")}
    tau = 0.3 * numbers["prior_variance"] if seed % 2 else 0.01
    found = idle_beta(theta2, threshold=tau, **given)
    for i, beta in enumerate(found):
        at = (beta, 1.01 * beta, 0.99 * beta) if beta > 0 else (1e-6, 1e-6, 1e-6)
        means = [
            inverse_lipschitz_optimum(theta2, latent_dim=k, beta=b, **given).mean_variances[i]
            for b in at
        ]
        if beta > 0:
            assert means[0] == pytest.approx(tau, rel=1e-9)
            assert means[1] < tau < means[2]
        else:
            assert means[0] < tau


def test_rows():
    found = inverse_lipschitz_optimum([1.0, 2.0], latent_dim=1, inverse_lipschitz=3.0)
    (row,) = found.to_rows()
    assert (row["unit"], row["mode_variance"]) == (1, 2.0)
    assert row["bound"] is True
    assert row["rates_nats"] == found.rates_nats[0]
    both = inverse_lipschitz_optimum([1.0, 2.0], latent_dim=2, inverse_lipschitz=0.1).to_rows()
    assert [(row["unit"], row["mode_variance"]) for row in both] == [(1, 2.0), (2, 1.0)]


REFUSED = {
    "more units": ({"latent_dim": 3}, "latent_dim=3 must be at most the 2 modes in inverse_lip"),
    "fraction": ({"latent_dim": 1.5}, "latent_dim=1.5 must be an integer"),
    "negative": ({"inverse_lipschitz": -1.0}, "inverse_lipschitz=-1.0 must be finite and >= 0"),
    "beta": ({"beta": 0.0}, "beta=0.0 must be finite and > 0 in inverse_lipschitz_optimum"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_impossible_numbers_are_refused(case):
    options, message = case
    with pytest.raises(ValueError, match=message):
        inverse_lipschitz_optimum(
            [1.0, 2.0], **({"latent_dim": 1, "inverse_lipschitz": 0.1} | options)
        )
    with pytest.raises(ValueError, match="threshold=0 must be finite and > 0 in idle_beta"):
        idle_beta([1.0], inverse_lipschitz=0.1, threshold=0)
