"""Stability of a further unit beside units in use, against the exact objective."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import oracles
import pytest

from linvae import ARVAESpec, CVAESpec, HVAESpec, Moments, VAESpec, objective, solve, stability
from linvae.theory.modes import autoregression

from .problems import draw, random_covariance

KINDS = {
    "vae-learned": 30, "vae-fixed": 10, "vae-diagonal": 10, "general-learned": 10,
    "cvae-learned": 20, "target-learned": 20,
}  # fmt: skip
DRAWN = [(kind, number) for kind, count in KINDS.items() for number in range(count)]


def with_unit(weights: dict, u: np.ndarray, w: np.ndarray, v: float) -> dict:
    """The same weights and one unit more; w acts on what the encoder sees, condition first."""
    k = len(weights["Sigma"])
    joined = dict(weights)
    joined["Sigma"] = np.diag(np.full(k + 1, v))
    joined["Sigma"][:k, :k] = weights["Sigma"]
    decoder = "U1" if "U1" in weights else "U"
    joined[decoder] = np.column_stack([weights[decoder], u])
    if "W" in weights:
        joined["W"] = np.vstack([weights["W"], w])
    else:
        dx = len(w) - weights["W2"].shape[1]
        joined["W2"] = np.vstack([weights["W2"], w[dx:]])
        joined["W1"] = np.vstack([weights["W1"], w[:dx]])
    return joined


def lowest_curvature(spec, moments: Moments, weights: dict) -> float:
    """Of the exact objective over (u, w) of the further unit; quartic on rays, so two values do."""
    d = moments.target_dim
    seen = sum(weights[n].shape[1] for n in ("W", "W1", "W2") if n in weights)
    sees_target = isinstance(spec, CVAESpec) and spec.encoder_sees == "target"
    free = [i for i in range(d + seen) if not (sees_target and d <= i < d + moments.condition_dim)]
    fixed = spec.encoder_variance
    v = spec.prior_variance if fixed is None else float(np.min(fixed))
    units = None if fixed is None else [*np.broadcast_to(fixed, spec.latent_dim), v]
    bigger = replace(spec, latent_dim=spec.latent_dim + 1, encoder_variance=units)

    def value(x: np.ndarray) -> float:
        return objective(bigger, moments, with_unit(weights, x[:d], x[d:], v)).objective

    start = value(np.zeros(d + seen))

    def half(x: np.ndarray) -> float:
        near, far = (value(t * x) - start for t in (0.5, 1.0))
        return (16 * near - far) / 3

    axes = np.eye(d + seen)[free]
    own = np.array([half(e) for e in axes])
    hessian = np.diag(2 * own)
    for i, j in zip(*np.triu_indices(len(axes), 1), strict=True):
        hessian[i, j] = hessian[j, i] = half(axes[i] + axes[j]) - own[i] - own[j]
    return float(np.linalg.eigvalsh(hessian)[0])


def weights_of(kind: str, number: int):
    """A specification, moments, and random weights of its units, the decoder's map of x too."""
    problem = draw(kind, number)
    spec = problem.spec
    if kind.startswith("vae") and number % 5 == 0 and spec.encoder_variance is None:
        spec = replace(spec, weight_decay=0.1)
    weights = oracles.random_weights(spec, problem.moments, seed=number)
    named = oracles.to_names(weights, spec, problem.moments)
    if kind.startswith("target"):
        named["W1"] = np.zeros_like(named["W1"])
    return spec, problem.moments, named


@pytest.mark.parametrize(("kind", "number"), DRAWN, ids=lambda v: str(v))
def test_curvature_of_the_objective_at_any_weights(kind, number):
    """100 problems: the lowest curvature is minus the first escape rate."""
    spec, moments, named = weights_of(kind, number)
    given = {n: W for n, W in named.items() if n != "W1" or spec_sees_both(spec)}
    spec = replace(spec, beta=0.5 * max(stability(spec, moments, given).critical_beta[0], 1e-3))
    found = stability(spec, moments, given).escape_rates[0]
    # differences of objectives of size 1 to 100 leave 1e-13
    lowest = lowest_curvature(spec, moments, named)
    assert found == pytest.approx(-lowest, rel=1e-6, abs=1e-9)


def spec_sees_both(spec) -> bool:
    return isinstance(spec, CVAESpec) and spec.encoder_sees == "both"


@pytest.mark.parametrize("kind", ["vae-learned", "cvae-learned"])
@pytest.mark.parametrize("number", range(10))
def test_next_mode_decides_at_the_optimum(kind, number):
    """theta_i^2/s of the modes without a unit, beta^2 s/theta_i^2 of the one in use."""
    problem = draw(kind, number)
    spec = replace(problem.spec, latent_dim=1)
    solution = solve(spec, problem.moments)
    values = solution.mode_variances / spec.decoder_variance
    if solution.active_units[0]:
        values[0] = spec.beta**2 / values[0]
    found = stability(spec, problem.moments, solution.weights)
    assert found.critical_beta == pytest.approx(np.sort(values)[::-1], rel=1e-9)
    assert found.unstable_directions == np.sum(values > spec.beta)


def test_nothing_is_left_at_the_optimum_of_singular_data():
    B = np.random.default_rng(0).normal(size=(4, 2))
    moments = Moments.from_covariance(B @ B.T)
    spec = VAESpec(2, decoder_variance=1e-10)
    found = stability(spec, moments, solve(spec, moments).weights)
    assert np.all(np.isfinite(found.critical_beta))
    assert found.unstable_directions == 0


@pytest.mark.parametrize("number", range(10))
def test_autoregressive_decoder_with_units_in_use(number):
    rng = np.random.default_rng(number)
    moments = Moments.from_covariance(random_covariance(rng, 3))
    spec = ARVAESpec(2, order=1 if number % 2 else None, decoder_variance=0.3)
    A = autoregression(spec, moments)[0]
    named = {
        "W": rng.normal(size=(2, 3)), "U": rng.normal(size=(3, 2)), "Sigma": np.diag([0.3, 0.8]),
        "B": A + 0.2 * (A != 0),
    }  # fmt: skip
    spec = replace(spec, beta=0.5 * float(stability(spec, moments, named).critical_beta[0]))
    found = stability(spec, moments, named).escape_rates[0]
    assert found == pytest.approx(-lowest_curvature(spec, moments, named), rel=1e-6, abs=1e-9)


def test_autoregressive_decoder_keeps_its_own_map():
    moments = Moments.from_covariance(random_covariance(np.random.default_rng(1), 4))
    spec = ARVAESpec(1, order=1, decoder_variance=0.3)
    idle = {"W": np.zeros((1, 4)), "U": np.zeros((4, 1)), "Sigma": np.eye(1)}
    idle["B"] = autoregression(spec, moments)[0]
    found, expected = stability(spec, moments, idle), stability(spec, moments)
    assert found.critical_beta == pytest.approx(expected.critical_beta, rel=1e-12)


@pytest.mark.parametrize(
    "spec",
    [
        HVAESpec((1, 1), encoder_variances=(0.5, None)),
        VAESpec(1, latent_reconstruction=0.1),
        VAESpec(1, likelihood="bernoulli"),
    ],
)
def test_refusals(spec):
    moments = Moments.from_covariance(np.diag([0.2, 0.1]), mean=[0.3, 0.2])
    with pytest.raises(ValueError, match=r"weights are given but .*VAESpec with likelihood="):
        stability(spec, moments, {})
