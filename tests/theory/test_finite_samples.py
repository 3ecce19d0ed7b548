"""Finite samples: spikes and bulk, the sample's optimum on the population, weight decay."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import minimize
from sklearn.datasets import load_digits

from linvae.moments import Moments
from linvae.spec import VAESpec
from linvae.theory import finite_samples as fs
from linvae.theory import objective, solve
from linvae.theory.penalised import penalised_critical_beta, penalised_optimum

from .problems import random_covariance

ASPECTS = [0.2, 0.5, 1.0, 2.0, 4.0]
STANDARD_ERRORS = 5.0  # 100 comparisons: a true formula fails once in 10,000 runs


def _spiked_sample(rng, n: int, eigenvalues: np.ndarray) -> np.ndarray:
    """Uncentred sample covariance of independent coordinates with these variances."""
    x = rng.normal(size=(n, len(eigenvalues))) * np.sqrt(eigenvalues)
    return x.T @ x / n


def _descending(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, vectors = np.linalg.eigh(covariance)
    return np.maximum(values[::-1], 0.0), vectors[:, ::-1]


# --- spikes and bulk ---------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", ASPECTS)
@pytest.mark.parametrize("strength", [1.5, 2.0, 3.0, 6.0])
def test_visible_spike(gamma, strength):
    """`strength` = tau/sqrt(gamma); d = 100, 40 samples; population eigenvalue v (1 + tau)."""
    d, v, draws = 100, 0.7, 40
    n, rng = round(d / gamma), np.random.default_rng(int(1000 * gamma + 10 * strength))
    tau = strength * np.sqrt(gamma)
    population = np.full(d, v)
    population[0] *= 1 + tau
    found = []
    for _ in range(draws):
        values, vectors = _descending(_spiked_sample(rng, n, population))
        q = vectors[:, 0]
        found.append([values[0], q[0] ** 2, q @ (population * q)])
    mean, error = np.mean(found, axis=0), np.std(found, axis=0) / np.sqrt(draws)
    expected = np.array([
        fs.sample_eigenvalue(population[0], v, gamma),
        fs.overlap(population[0], v, gamma),
        fs.population_variance(fs.sample_eigenvalue(population[0], v, gamma), v, gamma),
    ])  # fmt: skip
    # the limit is off by O(1/d), with a factor that grows next to the transition
    bias = expected * 2 / d / (1 - 1 / strength**2)
    assert np.all(np.abs(mean - expected) < STANDARD_ERRORS * error + bias)


@pytest.mark.parametrize("gamma", ASPECTS)
@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_drowned_spike(gamma, strength):
    d, v, draws = 100, 0.7, 40
    n, rng = round(d / gamma), np.random.default_rng(int(1000 * gamma + 10 * strength))
    population = np.full(d, v)
    population[0] *= 1 + strength * np.sqrt(gamma)
    found = []
    for _ in range(draws):
        values, vectors = _descending(_spiked_sample(rng, n, population))
        found.append([values[0], vectors[0, 0] ** 2])
    top, a = np.mean(found, axis=0)
    edge = fs.sample_eigenvalue(population[0], v, gamma)
    assert edge == fs.bulk_edges(v, gamma)[1]
    # Tracy-Widom: the top stays within a few d^(-2/3) of the edge; the overlap is of order 1/d
    assert abs(top - edge) < 2 * edge * min(d, n) ** (-2 / 3)
    assert fs.overlap(population[0], v, gamma) == 0.0
    assert a < 10 / d


def test_spike_maps_invert_each_other():
    rng = np.random.default_rng(0)
    gamma, v = np.exp(rng.uniform(-3, 2, 200)), np.exp(rng.uniform(-3, 3, 200))
    tau = np.sqrt(gamma) * (1 + np.exp(rng.uniform(-4, 4, 200)))
    sample = fs.sample_eigenvalue(v * (1 + tau), v, gamma)
    # a square root of differences of size 1e-2 and more next to the transition
    np.testing.assert_allclose(fs.debiased_eigenvalue(sample, v, gamma), v * (1 + tau), rtol=1e-11)
    p = fs.population_variance(sample, v, gamma)
    a = fs.overlap(v * (1 + tau), v, gamma)
    np.testing.assert_allclose(p, v * (1 + tau * a), rtol=1e-11)
    np.testing.assert_allclose(p, sample / (1 + gamma / tau) ** 2, rtol=1e-11)


def test_spike_maps_at_their_limits():
    assert fs.sample_eigenvalue(3.0, 1.0, 0.0) == 3.0  # samples without end
    assert fs.overlap(3.0, 1.0, 0.0) == 1.0
    assert fs.overlap(1.0, 1.0, 0.0) == 0.0  # no spike, no direction
    assert fs.overlap(2.0, 1.0, 1.0) == 0.0  # exactly at the transition
    assert fs.sample_eigenvalue(2.0, 1.0, 1.0) == 4.0
    np.testing.assert_array_equal(fs.debiased_eigenvalue([0.0, 1.0, 4.0], 1.0, 1.0), 1.0)
    np.testing.assert_array_equal(fs.population_variance([0.0, 1.0, 4.0], 1.0, 1.0), 1.0)
    just_above = fs.population_variance(4.0 + 1e-9, 1.0, 1.0)
    assert just_above == pytest.approx(1.0, abs=1e-4)  # continuous, with a root: 3e-5


@pytest.mark.parametrize("gamma", [0.05, *ASPECTS, 20.0])
def test_bulk_is_the_integral_of_its_density(gamma):
    low, high = fs.bulk_edges(1.0, gamma)

    def share(angle: float) -> float:  # x = low + (high - low) sin^2: no singular edges
        x = low + (high - low) * np.sin(angle) ** 2
        slope = (high - low) * np.sin(2 * angle)
        return np.sqrt((high - x) * (x - low)) / (2 * np.pi * gamma * x) * slope * max(1.0, gamma)

    for angle in np.linspace(0.1, np.pi / 2, 7):
        x = low + (high - low) * np.sin(angle) ** 2
        # both to rounding
        assert fs.bulk_cdf(2.5 * x, 2.5, gamma) == pytest.approx(
            quad(share, 0, angle)[0], abs=1e-10
        )
    np.testing.assert_array_equal(fs.bulk_cdf([low / 2, high * 2], 1.0, gamma), [0.0, 1.0])


# --- the optimum of the sample, on the population ------------------------------------------------


def _two_moments(seed: int):
    """Any population, a small sample of it, and a model."""
    rng = np.random.default_rng(seed)
    d = int(rng.integers(2, 7))
    population = random_covariance(rng, d)
    n = int(rng.integers(2, 12))
    x = rng.normal(size=(n, d)) @ np.linalg.cholesky(population).T
    sample = Moments.from_data(x, centered=bool(seed % 2))
    numbers = {
        "latent_dim": int(rng.integers(1, d + 3)),
        "beta": float(np.exp(rng.uniform(-2, 1))),
        "decoder_variance": float(np.exp(rng.uniform(-2, 1))),
    }
    return Moments.from_covariance(population), sample, numbers, float(np.exp(rng.uniform(-1, 1)))


def _along(sample: Moments, population: Moments) -> tuple[np.ndarray, np.ndarray]:
    values, vectors = _descending(sample.covariance)
    return values, np.sum(vectors * (population.covariance @ vectors), axis=0)


@pytest.mark.parametrize("seed", range(100))
def test_held_out_terms_are_the_exact_objective_of_the_trained_weights(seed):
    population, sample, numbers, eta2 = _two_moments(seed)
    spec = VAESpec(**numbers, prior_variance=eta2)
    expected = objective(spec, population, solve(spec, sample).weights)
    found = fs.held_out_terms(*_along(sample, population), **numbers)
    # sums of at most 10 terms of size up to 1/s = 7, and one eigen-decomposition
    assert found.distortion == pytest.approx(expected.distortion, abs=1e-10)
    assert found.rates == pytest.approx(expected.rates, abs=1e-10)
    assert found.objective == pytest.approx(expected.objective, abs=1e-10)


@pytest.mark.parametrize("seed", range(0, 100, 5))
def test_held_out_terms_on_the_sample_itself_are_the_solution(seed):
    _, sample, numbers, _ = _two_moments(seed)
    theta2 = _descending(sample.covariance)[0]
    found = fs.held_out_terms(theta2, theta2, **numbers)
    assert found.objective == pytest.approx(solve(VAESpec(**numbers), sample).objective, abs=1e-10)


@pytest.mark.parametrize("seed", range(0, 100, 2))
def test_gains_are_what_the_exact_objective_loses_without_the_unit(seed):
    population, sample, numbers, _ = _two_moments(seed)
    spec, theta2_p = VAESpec(**numbers), _along(sample, population)
    weights = solve(spec, sample).weights
    with_unit = objective(spec, population, weights).objective
    keys = {key: numbers[key] for key in ("beta", "decoder_variance")}
    gains = fs.held_out_gains(*theta2_p, **keys)
    for unit in range(min(spec.latent_dim, sample.target_dim)):
        without = {name: matrix.copy() for name, matrix in weights.items()}
        without["W"][unit], without["U"][:, unit] = 0.0, 0.0
        without["Sigma"][unit, unit] = spec.prior_variance
        lost = objective(spec, population, without).objective - with_unit
        assert gains[unit] == pytest.approx(lost, abs=1e-10)


def test_held_out_threshold_is_where_the_gain_changes_sign():
    rng = np.random.default_rng(3)
    theta2 = np.exp(rng.uniform(-2, 2, 200))
    p = theta2 * rng.uniform(0.01, 0.99, 200)
    critical = fs.held_out_critical_beta(theta2, p, decoder_variance=0.4)
    assert np.all(critical < theta2 / 0.4)
    for i in range(200):  # each beta is its own
        signs = [
            np.sign(fs.held_out_gains(theta2[[i]], p[[i]], beta=b, decoder_variance=0.4)[0])
            for b in (critical[i] * (1 - 1e-6), critical[i] * (1 + 1e-6))
        ]
        assert signs == [1.0, -1.0]


def test_held_out_threshold_at_its_limits():
    found = fs.held_out_critical_beta(
        [2.0, 2.0, 2.0, 0.0], [0.0, 2.0, 3.0, 1.0], decoder_variance=0.5
    )
    np.testing.assert_array_equal(found, [0.0, 4.0, 4.0, 0.0])


@pytest.mark.parametrize("gamma", [0.2, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("beta", [0.9, 1.5, 4.0])
def test_limit_of_the_held_out_terms(gamma, beta):
    """Two spikes; p and theta^2 of the spikes from the limit, the bulk from noise alone."""
    d, s, v, k, draws = 200, 0.5, 0.8, 3, 6
    n, rng = round(d / gamma), np.random.default_rng(int(100 * gamma + 10 * beta))
    population = np.full(d, v)
    population[:2] = v * (1 + np.sqrt(gamma) * np.array([6.0, 3.0]))
    spec, truth = VAESpec(k, beta=beta, decoder_variance=s), Moments.from_covariance(
        np.diag(population)
    )  # fmt: skip
    found = []
    for _ in range(draws):
        sample = Moments.from_covariance(_spiked_sample(rng, n, population), n_samples=n)
        terms = objective(spec, truth, solve(spec, sample).weights)
        found.append([terms.objective, terms.distortion, terms.rates[0]])
    theta2 = np.full(d, float(fs.bulk_edges(v, gamma)[1]))
    theta2[:2] = fs.sample_eigenvalue(population[:2], v, gamma)
    p = fs.population_variance(theta2, v, gamma)
    limit = fs.held_out_terms(
        theta2, p, latent_dim=k, beta=beta, decoder_variance=s, total_variance=population.sum()
    )
    mean, error = np.mean(found, axis=0), np.std(found, axis=0) / np.sqrt(draws)
    off = np.abs(mean - [limit.objective, limit.distortion, limit.rates[0]])
    # the third unit sits d^(-2/3) = 3 % below the edge: its rate is off by 1.5 %, its share of
    # the distortion by that times p/s; the distortion is about d/2
    assert np.all(off < STANDARD_ERRORS * error + [0.06, 0.06, 0.06])


@pytest.mark.parametrize("gamma", [0.2, 0.5, 2.0])
@pytest.mark.parametrize("level", [0.5, 1.0, 1.8, 3.0])
def test_expected_active_units(gamma, level):
    d, v, draws = 200, 1.0, 10
    n, rng = round(d / gamma), np.random.default_rng(int(100 * gamma + 10 * level))
    population = np.full(d, v)
    population[:3] = v * (1 + np.sqrt(gamma) * np.array([8.0, 4.0, 0.5]))
    numbers = {"beta": level, "decoder_variance": 1.0, "latent_dim": 60}
    useful, spurious = fs.expected_active_units(population[:3], v, dim=d, n_samples=n, **numbers)
    counts = []
    for _ in range(draws):
        values = _descending(_spiked_sample(rng, n, population))[0]
        counts.append(np.sum(values[:60] > level))
    edge = float(fs.bulk_edges(v, gamma)[1])
    assert useful == np.sum(fs.sample_eigenvalue(population[:2], v, gamma) > max(level, edge))
    # eigenvalues are rigid: counts move by less than 1, and the drowned spike adds less than 1
    assert abs(np.mean(counts) - useful - spurious) < 1.0
    assert 0 <= spurious <= 60 - useful


# --- noise level, spikes, and the split ----------------------------------------------------------


@pytest.mark.parametrize(("d", "n"), [(40, 80), (100, 50), (60, 600)])
def test_false_alarms_on_pure_noise(d, n):
    rng, draws = np.random.default_rng(d), 200
    estimates = [
        fs.estimate_noise(
            _descending(_spiked_sample(rng, n, np.full(d, 3.0)))[0], n, centered=False
        )
        for _ in range(draws)
    ]
    # three standard errors of a share of 1 % in 200
    assert np.mean([e.n_spikes > 0 for e in estimates]) <= 0.01 + 3 * np.sqrt(0.01 / draws)
    assert all(e.applies for e in estimates)
    levels = np.array([e.noise_variance for e in estimates])
    # the mean of n d squares: standard deviation v sqrt(2/(n d))
    assert np.abs(levels / 3.0 - 1).max() < STANDARD_ERRORS * np.sqrt(2 / (n * d))


@pytest.mark.parametrize("gamma", ASPECTS)
def test_visible_spikes_are_counted_and_removed(gamma):
    d, draws = 200, 8
    n, rng = round(d / gamma), np.random.default_rng(int(10 * gamma))
    population = np.full(d, 0.5)
    population[:3] = 0.5 * (1 + np.sqrt(gamma) * np.array([50.0, 8.0, 4.0]))
    for _ in range(draws):
        values = _descending(_spiked_sample(rng, n, population))[0]
        found = fs.estimate_noise(values, n, centered=False)
        assert found.n_spikes == 3
        assert found.applies
        # as for pure noise, plus the fluctuation of what the spikes took: of order 1/d
        allowed = STANDARD_ERRORS * np.sqrt(2 / (n * d)) + 1 / d
        assert found.noise_variance == pytest.approx(0.5, rel=allowed)


def test_images_and_coloured_noise_are_refused():
    digits = Moments.from_data(load_digits().data)
    found = fs.estimate_noise(digits)
    assert not found.applies
    assert found.bulk_distance > 4 * found.allowed_distance
    rng = np.random.default_rng(2)
    coloured = _descending(_spiked_sample(rng, 400, np.linspace(0.5, 1.5, 200)))[0]
    assert not fs.estimate_noise(coloured, 400, centered=False).applies


def _split_of_a_sample(beta: float, latent_dim: int = 10):
    rng, d, n = np.random.default_rng(5), 150, 300
    population = np.full(d, 1.0)
    population[:3] = [9.0, 5.0, 3.5]
    x = rng.normal(size=(n, d)) * np.sqrt(population)
    moments = Moments.from_data(x + 2.0)
    split = fs.active_unit_split(moments, beta=beta, decoder_variance=0.5, latent_dim=latent_dim)
    return moments, population, split


@pytest.mark.parametrize("beta", [1.0, 4.5, 8.0, 14.0, 40.0])
def test_split_of_active_units(beta):
    moments, population, split = _split_of_a_sample(beta)
    solution = solve(VAESpec(10, beta=beta, decoder_variance=0.5), moments)
    np.testing.assert_allclose(split.mode_variances, solution.mode_variances, rtol=1e-12)
    assert split.useful_units + split.spurious_units == solution.active_units[0]
    spike = np.arange(150) < 3
    np.testing.assert_array_equal(split.useful, spike & ~solution.collapsed[0])
    # the noise is 1 and its bulk ends at 2.9: beta s = 2.25 leaves some of it active
    assert (split.spurious_units > 0) == (beta < 5)
    # a spike's sample eigenvalue has a relative standard error sqrt(2/n) = 8 %
    np.testing.assert_allclose(split.debiased_critical_beta[:3], population[:3] / 0.5, rtol=0.25)
    np.testing.assert_allclose(split.debiased_critical_beta[3:], 1 / 0.5, rtol=0.05)
    assert np.all(split.debiased_critical_beta[:3] < split.critical_beta[:3])


def test_costs_of_the_units_of_a_sample():
    """Units next to their threshold cost: the estimated gains against the exact ones."""
    moments, population, split = _split_of_a_sample(4.5)
    truth = Moments.from_covariance(np.diag(population))
    exact = fs.held_out_gains(*_along(moments, truth), beta=4.5, decoder_variance=0.5)[:10]
    p = split.population_variances[:10]
    # a spike's sample variance has a relative standard error sqrt(2/n); the bulk's directions
    # hold a share 1/d of what the spikes lost, 14.5/150 at most; both over 2 s = 1
    allowed = np.where(np.arange(10) < 3, 3 * np.sqrt(2 / 300) * p, 0.1)
    assert np.all(np.abs(split.held_out_gains[:10] - exact) < allowed)
    assert np.all(exact[split.spurious[:10]] < 0)
    assert np.all(split.held_out_gains[split.spurious] < 0)
    assert split.costly_units == np.sum(split.held_out_gains < 0) >= split.spurious_units


def test_split_from_eigenvalues_is_that_from_moments():
    moments, _, split = _split_of_a_sample(4.5)
    values = np.linalg.eigvalsh(moments.covariance)
    again = fs.active_unit_split(values, 300, beta=4.5, decoder_variance=0.5, latent_dim=10)
    np.testing.assert_allclose(again.held_out_gains, split.held_out_gains, rtol=1e-12)
    assert len(split.to_rows()) == 150
    assert split.to_rows()[0]["useful"] is True
    assert split.noise.to_rows()[0]["n_spikes"] == 3


# --- weight decay --------------------------------------------------------------------------------


def _decay_problem(seed: int) -> dict[str, float]:
    """Half of them near the threshold of strong decay, where the transition is of first order."""
    rng = np.random.default_rng(seed)
    theta2, s, eta2 = np.exp(rng.uniform(-1, 1.5, size=3))
    share = rng.uniform(0.0, 0.3) if seed % 2 else rng.uniform(0.3, 0.95)
    kappa = share * theta2 / s
    top = float(penalised_critical_beta(
        theta2, weight_decay=kappa, decoder_variance=s, prior_variance=eta2
    ))  # fmt: skip
    return {"theta2": theta2, "s": s, "eta2": eta2, "kappa": kappa, "critical": top,
            "beta": top * rng.uniform(0.3, 1.1)}  # fmt: skip


def _cost(x: np.ndarray, q: dict[str, float]) -> float:
    u, w, log_variance = x
    variance = np.exp(log_variance)
    second_moment = w**2 * q["theta2"] + variance
    error = q["theta2"] - 2 * u * w * q["theta2"] + u**2 * second_moment
    ratio = variance / q["eta2"]
    rate = (second_moment / q["eta2"] - 1 - np.log(ratio)) / 2
    return error / (2 * q["s"]) + q["beta"] * rate + q["kappa"] / 2 * (u**2 + w**2)


def _slope(x: np.ndarray, q: dict[str, float]) -> np.ndarray:
    u, w, log_variance = x
    T, s, variance, price = q["theta2"], q["s"], np.exp(log_variance), q["beta"] / q["eta2"]
    along_u = (u * (w**2 * T + variance) - w * T) / s + q["kappa"] * u
    along_w = (u**2 * w * T - u * T) / s + price * w * T + q["kappa"] * w
    return np.array([along_u, along_w, variance * (u**2 / s + price) / 2 - q["beta"] / 2])


def _brute_force(q: dict[str, float]) -> float:
    """Gain over the collapsed point of the best of several minimisations."""
    collapsed = np.array([0.0, 0.0, np.log(q["eta2"])])
    u = np.sqrt(q["theta2"] / q["eta2"]) * np.array([0.1, 0.4, 0.9])
    starts = [np.array([a, 1 / a, np.log(q["eta2"] * b)]) for a in u for b in (1e-3, 0.3)]
    options = {"ftol": 1e-16, "gtol": 1e-10, "maxiter": 2000}
    best = min(
        minimize(_cost, start, (q,), jac=_slope, method="L-BFGS-B", options=options).fun
        for start in starts
    )
    return _cost(collapsed, q) - best


def _solved(q: dict[str, float], **changes: float):
    q = q | changes
    return penalised_optimum(q["theta2"], beta=q["beta"], weight_decay=q["kappa"],
                                   decoder_variance=q["s"], prior_variance=q["eta2"])  # fmt: skip


@pytest.mark.parametrize("seed", range(100))
def test_weight_decay_optimum_is_the_minimum(seed):
    q = _decay_problem(seed)
    found = _solved(q)
    # L-BFGS stops at a slope of 1e-8 or less, so within 1e-10 of the minimum where it is not flat
    assert float(found.gain_nats) == pytest.approx(max(_brute_force(q), 0.0), abs=1e-9)
    x = np.array([found.decoder, found.encoder, np.log(found.encoder_variance)])
    collapsed = _cost(np.array([0.0, 0.0, np.log(q["eta2"])]), q)
    assert collapsed - _cost(x, q) == pytest.approx(float(found.gain_nats), abs=1e-12)
    assert bool(found.collapsed) == (q["beta"] > q["critical"])


@pytest.mark.parametrize("seed", range(0, 100, 9))
def test_collapse_with_weight_decay(seed):
    q = _decay_problem(seed)
    assert _brute_force(q | {"beta": 0.98 * q["critical"]}) > 0
    assert _brute_force(q | {"beta": 1.02 * q["critical"]}) < 1e-12
    # never below the end of stability of the collapsed point
    k = q["kappa"] * q["s"] / q["eta2"]
    local = q["theta2"] / (q["s"] * (1 + k)) - q["kappa"] * q["eta2"] / q["theta2"]
    assert q["critical"] >= local * (1 - 1e-12)


def test_strong_weight_decay_makes_the_transition_first_order():
    """Continuous while y < 1 + 2 k at the end of stability; theta = eta = s = 1: k < 0.4516."""
    for kappa, first_order in ((0.3, False), (0.45, False), (0.453, True), (0.6, True)):
        local = 1 / (1 + kappa) - kappa
        top = float(penalised_critical_beta(1.0, weight_decay=kappa))
        below = penalised_optimum(1.0, beta=top * (1 - 1e-9), weight_decay=kappa)
        assert (top > local + 1e-6) == first_order
        # it jumps by 0.05 at 0.453; where it does not, it is a root of the distance 1e-9
        assert (float(below.decoder) > 0.01) == first_order
    assert penalised_critical_beta(1.0, weight_decay=1.0) == 0.0
    # the collapsed point is stable at any beta from k = (sqrt 5 - 1)/2 on, the optimum is not
    assert penalised_critical_beta(1.0, weight_decay=0.63) > 0.05


def test_weight_decay_optimum_on_the_full_covariance():
    """All entries of U, W and Sigma free, two units: the optimum still decouples into modes."""
    rng = np.random.default_rng(8)
    for _ in range(4):
        C, k = random_covariance(rng, 4), 2
        theta2 = np.linalg.eigvalsh(C)[::-1]
        beta, kappa, s = 0.3 * theta2[1], 0.2 * theta2[1], 0.7

        def cost(x, C=C, k=k, beta=beta, kappa=kappa, s=s):
            U, W = x[:8].reshape(4, k), x[8:16].reshape(k, 4)
            L = np.array([[np.exp(x[16]), 0.0], [x[17], np.exp(x[18])]])
            S, E = L @ L.T, np.eye(4) - U @ W
            error = np.trace(E @ C @ E.T) + np.trace(U @ S @ U.T)
            rate = (np.trace(W @ C @ W.T + S) - k) / 2 - x[16] - x[18]
            return error / (2 * s) + beta * rate + kappa / 2 * np.sum(x[:16] ** 2)

        best = min(
            minimize(cost, rng.normal(size=19) * 0.5, method="BFGS", options={"gtol": 1e-7}).fun
            for _ in range(4)
        )
        gains = penalised_optimum(
            theta2[:k], beta=beta, weight_decay=kappa, decoder_variance=s
        ).gain_nats
        # numerical gradients: 1e-7 from the minimum, squared
        assert np.trace(C) / (2 * s) - gains.sum() == pytest.approx(best, abs=1e-8)


def test_no_weight_decay_is_the_plain_optimum():
    theta2 = np.array([5.0, 2.0, 2.0, 0.6, 0.3, 0.0])
    found = penalised_optimum(theta2, beta=0.75, weight_decay=0.0, decoder_variance=0.8)
    solution = solve(
        VAESpec(6, beta=0.75, decoder_variance=0.8), Moments.from_covariance(np.diag(theta2))
    )
    np.testing.assert_allclose(found.encoder_variance, solution.encoder_variances[0], rtol=1e-12)
    np.testing.assert_allclose(
        found.decoder, np.linalg.svd(solution.weights["U"], compute_uv=False), atol=1e-12
    )
    np.testing.assert_array_equal(found.collapsed, solution.collapsed[0])
    assert len(found.to_rows()) == 6


# --- the model of Ichikawa & Hukushima ------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.4, 1.6, 4.0])
@pytest.mark.parametrize(("beta", "decay"), [(1.0, 1.0), (0.5, 0.1), (1.5, 0.5)])
def test_generalisation_error_of_simulated_samples(alpha, beta, decay):
    N, draws, rng = 200, 12, np.random.default_rng(int(10 * alpha + beta))
    n, direction = round(alpha * N), np.full(N, 1 / np.sqrt(N))
    found = []
    for _ in range(draws):
        x = rng.normal(size=(n, 1)) * direction + rng.normal(size=(n, N))
        values, vectors = _descending(x.T @ x / n)
        u = penalised_optimum(values[0], beta=beta, weight_decay=decay / alpha).decoder
        found.append(1 - 2 * u * abs(vectors[:, 0] @ direction) + u**2)
    limit = fs.spiked_generalisation(alpha, beta=beta, weight_decay=decay)
    error = np.std(found) / np.sqrt(draws)
    # next to the transition, alpha = 1, the overlap of a drowned spike is of order N^(-1/3) = 0.17
    bias = 0.3 if alpha < 1 else 0.03
    assert abs(np.mean(found) - limit.generalisation_error) < STANDARD_ERRORS * error + bias


def test_collapse_whatever_the_number_of_samples():
    """rho = eta = 1: with lambda = 1 the threshold rises to rho + eta; with none it falls to it."""
    alpha = np.exp(np.linspace(-3, 12, 400))
    decayed = fs.spiked_generalisation(alpha, beta=2.0, weight_decay=1.0)
    assert np.all(decayed.critical_beta < 2.0)
    np.testing.assert_array_equal(decayed.generalisation_error, 1.0)
    above = alpha[alpha > 1]
    # theta^2/(1 + kappa) - kappa/theta^2 = 2 - 1/(2 (alpha + 1)): the transition is continuous
    expected = 2 - 1 / (2 * (above + 1))
    np.testing.assert_allclose(decayed.critical_beta[alpha > 1], expected, rtol=1e-9)
    free = fs.spiked_generalisation(alpha, beta=2.0, weight_decay=0.0)
    assert np.all(free.critical_beta > 2.0)  # small samples look larger than they are
    assert np.all(free.generalisation_error[(alpha > 1) & (alpha < 3)] > 0.5)


def test_generalisation_terms_are_the_exact_objective():
    """Gain and rate on the population, from the weights, on the limit's own covariance."""
    alpha, decay, beta = 2.5, 0.6, 0.8
    found = fs.spiked_generalisation(alpha, beta=beta, weight_decay=decay)
    a = float(fs.overlap(2.0, 1.0, 1 / alpha))
    optimum = penalised_optimum(found.mode_variance, beta=beta, weight_decay=decay / alpha)
    population = Moments.from_covariance(np.eye(2) + np.diag([1.0, 0.0]))
    q = np.array([[np.sqrt(a)], [np.sqrt(1 - a)]])
    weights = {"U": q * optimum.decoder, "W": q.T * optimum.encoder,
               "Sigma": np.reshape(optimum.encoder_variance, (1, 1))}  # fmt: skip
    terms = objective(VAESpec(1, beta=beta), population, weights)
    dead = {"U": 0 * q, "W": 0 * q.T, "Sigma": np.eye(1)}
    collapsed = objective(VAESpec(1, beta=beta), population, dead)
    assert found.held_out_rate == pytest.approx(terms.rates[0], abs=1e-12)
    assert found.held_out_gain == pytest.approx(collapsed.objective - terms.objective, abs=1e-12)
    error_saved = 2 * (collapsed.distortion - terms.distortion)
    assert found.held_out_error == pytest.approx(1 - error_saved, abs=1e-12)
    assert found.to_rows()[0]["samples_per_dim"] == alpha


# --- errors --------------------------------------------------------------------------------------

ERRORS = [
    (lambda: fs.sample_eigenvalue(0.5, 1.0, 0.5), "population_eigenvalue=0.5 must be at least"),
    (lambda: fs.sample_eigenvalue(2.0, 0.0, 0.5), "noise_variance=0.0 must be finite and > 0"),
    (lambda: fs.overlap(2.0, 1.0, -1.0), "aspect_ratio=-1.0 must be finite and >= 0"),
    (lambda: fs.estimate_noise(np.ones(30)), "n_samples=None must be an integer >= 3"),
    (lambda: fs.estimate_noise(np.zeros(30), 9), "must have some variance"),
    (lambda: fs.estimate_noise(np.eye(3), 9), r"data has shape \(3, 3\)"),
    (lambda: fs.estimate_noise(np.ones(30), 9, false_alarm=1.0), "false_alarm=1.0 must be"),
    (
        lambda: fs.estimate_noise(Moments.from_covariance(np.eye(3), condition_dim=1), 9),
        "condition_dim=1",
    ),
    (
        lambda: fs.held_out_gains([1.0], [1.0, 2.0], beta=1.0, decoder_variance=1.0),
        r"population_variances has shape \(2,\) but mode_variances has \(1,\)",
    ),
    (
        lambda: fs.held_out_gains([1.0], [1.0], beta=0.0, decoder_variance=1.0),
        "beta=0.0 must be finite and > 0",
    ),
    (
        lambda: penalised_optimum(1.0, beta=1.0, weight_decay=-1.0),
        "weight_decay=-1.0 must be finite and >= 0",
    ),
    (
        lambda: fs.spiked_generalisation(0.0, beta=1.0, weight_decay=1.0),
        "samples_per_dim=0.0 must be finite and > 0",
    ),
]


@pytest.mark.parametrize(("call", "message"), ERRORS, ids=[message for _, message in ERRORS])
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
