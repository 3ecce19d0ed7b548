"""What must hold for finite samples, single samples, likelihoods and the rate-distortion curve.

Symmetries, monotonicity, bounds and limits, as in `test_properties.py`. Spikes shrink to no spike
at all and samples to gamma = 1, where the bulk reaches 0; spikes exactly at the transition
tau = sqrt(gamma), directions without variance and equal eigenvalues are among the draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from linvae import CVAESpec, HVAESpec, Moments, VAESpec, objective, solve
from linvae.theory.active_units import active_unit_split, expected_active_units
from linvae.theory.held_out import held_out_critical_beta, held_out_gains, held_out_terms
from linvae.theory.marginal import elbo_gap, log_likelihood
from linvae.theory.noise_estimation import estimate_noise, unbiased_spectrum
from linvae.theory.observables import RateDistribution, rate_distribution, sample_rates
from linvae.theory.rate_distortion import rate_distortion_curve, water_level
from linvae.theory.spiked_covariance import (
    bulk_cdf,
    bulk_edges,
    debiased_eigenvalue,
    overlap,
    population_variance,
    sample_eigenvalue,
)
from linvae.theory.spiked_generalisation import spiked_generalisation

from .strategies import (
    ONE_LEVEL,
    any_of,
    beta,
    covariances,
    orthogonal,
    perturbed,
    replaced,
    transformed,
    variance,
)
from .test_properties import ROUNDING, SAME

few = settings(max_examples=max(1, settings.default.max_examples // 3))
# A square root next to the transition: tau and what follows from it move by the root of 1e-15.
TRANSITION = 1e-7

share = st.sampled_from([0.0, 1.0, 0.5]) | st.floats(0, 1)
strength = st.sampled_from([0.0, 1.0, 2.0]) | st.floats(0, 20)  # tau/sqrt(gamma)
aspect = st.sampled_from([1.0, 0.5, 2.0]) | st.floats(0.01, 30)
factor = st.sampled_from([1.0, 2.0]) | st.floats(0.05, 20)
modes = st.lists(
    st.sampled_from([1.0, 2.0, 0.5, 0.0]) | st.floats(0.05, 5), min_size=1, max_size=5
).map(np.array)


def ascends(values, slack=ROUNDING) -> bool:
    """Along the first axis, up to `slack` of the larger of 1 and the value."""
    v = np.asarray(values, dtype=float)
    return bool(np.all(np.diff(v, axis=0) >= -slack * np.maximum(1, np.abs(v[:-1]))))


# --- spikes and bulk ------------------------------------------------------------------------------


@st.composite
def spikes(draw) -> tuple[np.ndarray, float, float]:
    """Population eigenvalues in ascending order, v and gamma."""
    v, gamma = draw(variance), draw(aspect)
    x = np.sort(draw(st.lists(strength, min_size=1, max_size=4)))
    return v * (1 + x * math.sqrt(gamma)), v, gamma


@given(at=spikes())
def test_stronger_spikes_show_more(at):
    population, v, gamma = at
    top = bulk_edges(v, gamma)[1]
    theta2, a = sample_eigenvalue(*at), overlap(*at)
    assert ascends(theta2)
    assert ascends(a)
    assert np.all((a >= 0) & (a <= 1))
    assert np.all(theta2 >= top * (1 - SAME))
    assert np.all(theta2 >= population * (1 - SAME))  # a sample stretches what is already largest
    drowned = population / v - 1 <= math.sqrt(gamma)
    assert np.all(theta2[drowned] == top)
    assert np.all(a[drowned] == 0)
    assert np.all(a[population > v * (1 + 1.001 * math.sqrt(gamma))] > 0)


@given(at=spikes())
def test_visible_spikes_are_read_back(at):
    """The drowned ones come back as noise."""
    population, v, gamma = at
    theta2, a = sample_eigenvalue(*at), overlap(*at)
    visible = population > v * (1 + math.sqrt(gamma) * (1 + 1e-6))
    back = debiased_eigenvalue(theta2, v, gamma)
    assert back[visible] == pytest.approx(population[visible], rel=TRANSITION)
    drowned = population < v * (1 + math.sqrt(gamma) * (1 - 1e-6))
    assert back[drowned] == pytest.approx(v, rel=SAME)
    p = population_variance(theta2, v, gamma)
    assert p == pytest.approx(v + (population - v) * a, rel=1e-6)
    assert np.all(p >= v * (1 - SAME))
    assert np.all(p <= back * (1 + SAME))
    assert np.all(p <= theta2 * (1 + SAME))


@given(values=modes, v=variance, gamma=aspect, more=st.floats(1, 3))
def test_what_is_read_off_a_spectrum_rises_with_it_and_falls_with_gamma(values, v, gamma, more):
    """Fewer samples explain more of any eigenvalue as noise; nothing falls below the noise."""
    values = np.sort(values) * 3
    for function in (debiased_eigenvalue, population_variance):
        found = function(values, v, gamma)
        assert ascends(found)
        assert np.all(found >= v)
        assert np.all(found <= np.maximum(values, v) * (1 + SAME))
        assert ascends([function(values, v, gamma * more), found])
    top = [bulk_edges(v, g)[1] for g in (gamma, gamma * more)]
    assert ascends(top)


@given(at=spikes(), more=st.floats(1, 3))
def test_fewer_samples_stretch_and_turn_a_spike_more(at, more):
    population, v, gamma = at
    for function, sign in ((sample_eigenvalue, 1), (overlap, -1)):
        found = [sign * function(population, v, g) for g in (gamma, more * gamma)]
        assert ascends(found)


@given(at=spikes())
def test_samples_without_end_show_the_truth(at):
    """gamma = 0 exactly, and next to it by as much as gamma."""
    population, v, _ = at
    for gamma in (0.0, 1e-12):
        assert sample_eigenvalue(population, v, gamma) == pytest.approx(population, rel=1e-5)
        for function in (debiased_eigenvalue, population_variance):
            assert function(population, v, gamma) == pytest.approx(population, rel=1e-5)
        a = overlap(population, v, gamma)
        spiked = population > v * (1 + 1e-3)
        assert a[spiked] == pytest.approx(1, abs=1e-5)


@given(at=spikes(), values=modes, factor=factor)
def test_unit_of_the_data_in_the_spiked_model(at, values, factor):
    """Variances go with it, overlaps and shares stay."""
    population, v, gamma = at
    for function in (debiased_eigenvalue, population_variance):
        expected = factor * function(5 * values, v, gamma)
        found = function(factor * 5 * values, factor * v, gamma)
        assert found == pytest.approx(expected, rel=1e-6)
    theta2 = sample_eigenvalue(factor * population, factor * v, gamma)
    assert theta2 == pytest.approx(factor * sample_eigenvalue(*at), rel=SAME)
    assert overlap(factor * population, factor * v, gamma) == pytest.approx(overlap(*at), abs=SAME)
    shares = bulk_cdf(factor * values, factor * v, gamma)
    assert shares == pytest.approx(bulk_cdf(values, v, gamma), abs=1e-8)
    edges = np.array(bulk_edges(factor * v, gamma))
    assert edges == pytest.approx(factor * np.array(bulk_edges(v, gamma)), rel=SAME)


@given(v=variance, gamma=aspect)
def test_bulk_is_a_law_of_mean_v(v, gamma):
    """Between its edges, rising; the mean of all d eigenvalues is v, the zeros among them.

    1201 points that are dense at the edges integrate a smooth function to 1e-5.
    """
    low, high = bulk_edges(v, gamma)
    x = low + (high - low) * (1 - np.cos(np.linspace(0, np.pi, 1201))) / 2
    shares = bulk_cdf(x, v, gamma)
    assert ascends(shares)
    assert shares[0] == pytest.approx(0, abs=1e-6)
    assert shares[-1] == pytest.approx(1, abs=1e-6)
    assert np.all((shares > 0)[2:])
    mean = low + np.trapezoid(1 - shares, x)
    assert mean == pytest.approx(v * max(1, gamma), rel=1e-4)
    assert bulk_cdf([low * 0.999, high * 1.001], v, gamma).tolist() == [0, 1]
    # the non-zero eigenvalues of x x^T/n and x^T x/d differ by the factor d/n
    assert bulk_cdf(x / gamma, v, 1 / gamma) == pytest.approx(shares, abs=1e-7)


# --- the optimum of a sample on the population ----------------------------------------------------


@dataclass(frozen=True, eq=False)
class Trained:
    """Mode variances of a sample, population variances along them, and a model."""

    theta2: np.ndarray
    p: np.ndarray
    units: int
    beta: float
    s: float

    def terms(self, p=None):
        return held_out_terms(
            self.theta2, self.p if p is None else p, latent_dim=self.units, beta=self.beta,
            decoder_variance=self.s,
        )  # fmt: skip

    def gains(self, p=None):
        p = self.p if p is None else p
        return held_out_gains(self.theta2, p, beta=self.beta, decoder_variance=self.s)


@st.composite
def trained(draw) -> Trained:
    """One mode may be exactly at the threshold, and p anything from 0 to above theta^2."""
    theta2, b, s = np.sort(draw(modes))[::-1].copy(), draw(beta), draw(variance)
    if draw(st.booleans()):
        theta2[0] = max(b * s, theta2[0])
    d = len(theta2)
    p = theta2 * draw(st.lists(share | st.just(1.5), min_size=d, max_size=d))
    return Trained(theta2, p, draw(st.integers(1, 6)), b, s)


@given(case=trained())
def test_population_equal_to_the_sample_is_the_solution(case):
    assume(case.theta2.any())
    spec = VAESpec(case.units, beta=case.beta, decoder_variance=case.s)
    best = solve(spec, Moments.from_covariance(np.diag(case.theta2)))
    found = case.terms(case.theta2)
    assert found.objective == pytest.approx(best.objective, rel=SAME)
    assert found.distortion == pytest.approx(best.distortion, rel=SAME)
    assert found.rates == pytest.approx(best.rates, abs=SAME)
    critical = held_out_critical_beta(case.theta2, case.theta2, decoder_variance=case.s)
    expected = best.critical_beta[: len(critical)]
    assert critical[: case.units] == pytest.approx(expected[: case.units], rel=SAME)


@given(case=trained(), at=share)
def test_held_out_terms_are_affine_in_the_population(case, at):
    """As are the gains, which are all that the terms hold beyond those of a collapsed model."""
    middle = at * case.p + (1 - at) * case.theta2
    for numbers in (
        lambda p: np.array(
            [case.terms(p).objective, case.terms(p).distortion, *case.terms(p).rates]
        ),
        case.gains,
    ):
        expected = at * numbers(case.p) + (1 - at) * numbers(case.theta2)
        assert numbers(middle) == pytest.approx(expected, rel=SAME, abs=ROUNDING)
    d = len(case.p)
    collapsed = d / 2 * math.log(2 * math.pi * case.s) + case.p.sum() / (2 * case.s)
    saved = case.gains()[: case.units].sum()
    assert case.terms().objective == pytest.approx(collapsed - saved, rel=SAME, abs=ROUNDING)
    counted = held_out_terms(
        case.theta2, case.p, latent_dim=case.units, beta=case.beta, decoder_variance=case.s,
        total_variance=case.p.sum() + 2,
    )  # fmt: skip
    assert counted.distortion == pytest.approx(case.terms().distortion + 1 / case.s, rel=SAME)
    assert counted.rates == pytest.approx(case.terms().rates, abs=SAME)


@given(case=trained(), factor=factor, seed=st.integers(0, 1000))
def test_held_out_numbers_in_any_order_and_any_unit(case, factor, seed):
    order = np.random.default_rng(seed).permutation(len(case.p))
    other = replace(
        case, theta2=factor * case.theta2[order], p=factor * case.p[order], s=factor * case.s
    )
    # equal modes of the sample with different p: which of them has the unit is arbitrary
    if len(np.unique(case.theta2)) == len(case.theta2) or case.units >= len(case.p):
        shift = len(case.p) / 2 * math.log(factor)
        assert other.terms().objective - shift == pytest.approx(case.terms().objective, abs=1e-8)
        assert other.terms().rates == pytest.approx(case.terms().rates, abs=SAME)
    assert other.gains() == pytest.approx(case.gains()[order], abs=1e-8)
    first, second = (
        held_out_critical_beta(c.theta2, c.p, decoder_variance=c.s) for c in (case, other)
    )
    assert second == pytest.approx(first[order], rel=1e-6)


@given(case=trained())
def test_held_out_threshold_is_never_above_the_one_of_training(case):
    """Equal where the population has as much variance; it rises with p; 0 where p = 0."""
    ends = case.theta2 / case.s
    found = [
        held_out_critical_beta(case.theta2, x * case.theta2, decoder_variance=case.s)
        for x in (0.0, 0.2, 0.6, 0.99, 1.0, 1.7)
    ]
    assert ascends(found)
    assert np.all(found[0] == 0)
    assert np.all(np.array(found[1:4])[:, ends > 0] < ends[ends > 0])
    assert np.all(found[-2] == ends)
    assert np.all(found[-1] == ends)
    assert np.all(held_out_critical_beta(case.theta2, case.p, decoder_variance=case.s) <= ends)


@given(case=trained())
def test_trained_unit_pays_exactly_below_the_held_out_threshold(case):
    critical = held_out_critical_beta(case.theta2, case.p, decoder_variance=case.s)
    for i, b in enumerate(critical):
        for f, sign in ((0.999, 1), (1.001, -1)):
            at = replace(case, theta2=case.theta2[[i]], p=case.p[[i]], beta=float(f * b))
            if b > 1e-6:
                gain = float(at.gains()[0])
                # from theta^2/s on the unit has collapsed and costs nothing
                assert gain * sign > 0 or (gain == 0 and f * b >= case.theta2[i] / case.s)


@given(case=any_of(["vae learned"]), other=covariances(4))
def test_training_on_other_data_never_beats_training_on_these(case, other):
    d = case.moments.target_dim
    C = case.moments.covariance
    values, vectors = np.linalg.eigh(other[:d, :d])
    theta2, basis = values[::-1], vectors[:, ::-1]
    p = np.einsum("ji,jk,ki->i", basis, C, basis)
    spec = case.spec
    found = held_out_terms(
        np.maximum(theta2, 0), np.maximum(p, 0), latent_dim=spec.latent_dim, beta=spec.beta,
        decoder_variance=spec.decoder_variance,
    )  # fmt: skip
    assert found.objective >= solve(spec, case.moments).objective - ROUNDING
    assert found.rates[0] >= -ROUNDING


# --- counts of units ------------------------------------------------------------------------------


@given(at=spikes(), dim=st.integers(5, 60), n=st.integers(5, 200), k=st.integers(1, 20), b=beta)
def test_expected_units_fall_with_beta_and_rise_with_latent_dim(at, dim, n, k, b):
    population, v, _ = at

    def counts(b, k=k, n=n, a=1.0):
        return np.array(expected_active_units(
            a * population, a * v, dim=dim, n_samples=n, beta=b, decoder_variance=a, latent_dim=k
        ))  # fmt: skip

    found = np.array([counts(b * f) for f in (0.5, 1.0, 1.1, 2.0, 5.0)])
    assert ascends(-found)
    assert ascends([counts(b), counts(b, k + 1)])
    assert np.all(found >= 0)
    assert np.all(found.sum(axis=1) <= min(k, dim) + SAME)
    assert np.all(found[:, 0] == found[:, 0].astype(int))
    assert counts(b, a=2.0) == pytest.approx(found[1], abs=1e-6)
    # samples without end: the spikes above beta s, and all of the noise or none of it
    useful, spurious = counts(b, n=10**12)
    seen = population > v * (1 + 1e-4)  # sqrt(gamma) is up to 1e-5 there
    clear = seen | (population == v)
    if np.all(clear) and np.all(np.abs(np.append(population, v) / b - 1) > 1e-4):
        assert useful == min(np.sum(seen & (population > b)), k)
        assert spurious == (min(dim - seen.sum(), k - useful) if v > b else 0)


@st.composite
def spectra(draw) -> tuple[np.ndarray, int]:
    """A sample of noise and spikes, centred, and its number of samples."""
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    d, n = draw(st.integers(8, 40)), draw(st.integers(10, 80))
    scales = np.ones(d)
    spiked = draw(st.lists(st.floats(2, 30), max_size=3))
    scales[: len(spiked)] = np.sqrt(spiked)
    x = rng.normal(size=(n, d)) * scales
    return np.linalg.eigvalsh(np.cov(x.T, bias=True)), n


@given(at=spectra(), factor=factor, b=beta, s=variance, k=st.integers(1, 40))
def test_split_of_units_in_any_order_and_any_unit(at, factor, b, s, k):
    values, n = at
    numbers = {"beta": b, "decoder_variance": s, "latent_dim": k}
    found = active_unit_split(values, n, **numbers)
    other = active_unit_split(
        factor * values[::-1], n, **numbers | {"decoder_variance": factor * s}
    )
    noise, scaled = found.noise, other.noise
    assert scaled.noise_variance == pytest.approx(factor * noise.noise_variance, rel=SAME)
    assert scaled.threshold == pytest.approx(factor * noise.threshold, rel=SAME)
    assert scaled.bulk_distance == pytest.approx(noise.bulk_distance, abs=1e-7)
    assert (scaled.n_spikes, scaled.applies) == (noise.n_spikes, noise.applies)
    for name in ("overlaps", "critical_beta", "held_out_critical_beta", "held_out_gains"):
        assert getattr(other, name) == pytest.approx(getattr(found, name), rel=1e-6, abs=1e-7)
    assert np.array_equal(other.useful, found.useful)
    assert np.array_equal(other.spurious, found.spurious)


@given(at=spectra(), b=beta, s=variance, k=st.integers(1, 40))
def test_split_is_of_the_units_that_training_leaves(at, b, s, k):
    values, n = at
    found = active_unit_split(values, n, beta=b, decoder_variance=s, latent_dim=k)
    moments = Moments.from_covariance(np.diag(np.maximum(values, 0)))
    spec = VAESpec(k, beta=b, decoder_variance=s)
    assert found.useful_units + found.spurious_units == solve(spec, moments).active_units[0]
    assert found.useful_units <= found.noise.n_spikes
    assert np.all(found.held_out_critical_beta <= found.critical_beta)
    v, spikes = found.noise.noise_variance, found.noise.n_spikes
    assert np.all(found.population_variances >= v * (1 - SAME))
    # the noise is the mean of the bulk, without bias, and what the spikes took from it
    rest = found.mode_variances[spikes:].sum() * n / (n - 1)
    assert v * (len(values) - spikes) >= rest * (1 - SAME)


@given(at=spectra(), alarms=st.lists(st.floats(1e-4, 0.5), min_size=2, max_size=2))
def test_more_false_alarms_allowed_find_no_fewer_spikes(at, alarms):
    values, n = at
    few_found, more = (estimate_noise(values, n, false_alarm=a) for a in sorted(alarms))
    assert few_found.n_spikes <= more.n_spikes
    unbiased, freedom = unbiased_spectrum(values, n, None)
    taken, v = unbiased[few_found.n_spikes : more.n_spikes], few_found.noise_variance
    if np.all(taken > bulk_edges(v, len(values) / freedom)[1]):  # else more than noise was taken
        assert more.noise_variance <= v * (1 + SAME)


# --- the model of Ichikawa & Hukushima ------------------------------------------------------------


@given(
    alpha=st.sampled_from([1.0, 0.5]) | st.floats(0.05, 50), b=beta, rho=variance, eta=variance,
    decay=st.sampled_from([0.0, 0.5]) | st.floats(0, 2),
)  # fmt: skip
def test_generalisation_of_one_unit(alpha, b, rho, eta, decay):
    """Bounds with any decay; without, the numbers of one mode of the sample on the population."""
    numbers = {"beta": b, "signal_variance": rho, "noise_variance": eta}
    found = spiked_generalisation(alpha, weight_decay=decay, **numbers)
    a = overlap(rho + eta, eta, 1 / alpha)
    assert found.signal_overlap**2 == pytest.approx(found.decoder_norm * a, rel=SAME, abs=ROUNDING)
    assert found.generalisation_error >= 1 - a - ROUNDING
    assert found.rate >= -ROUNDING
    assert found.held_out_rate >= -ROUNDING
    assert found.held_out_gain <= ((rho + eta) - b - b * math.log((rho + eta) / b)) / 2 + SAME or (
        rho + eta <= b and found.held_out_gain <= ROUNDING
    )
    free = spiked_generalisation(alpha, weight_decay=0.0, **numbers)
    assert found.critical_beta <= free.critical_beta + ROUNDING
    theta2 = sample_eigenvalue(rho + eta, eta, 1 / alpha)
    assert free.critical_beta == pytest.approx(theta2, rel=SAME)
    assert free.decoder_norm == pytest.approx(max(0, theta2 - b), abs=1e-8)
    assert free.rate == pytest.approx(max(0, math.log(theta2 / b) / 2), abs=1e-8)
    p = rho * a + eta
    modes = {"mode_variances": [theta2], "population_variances": [p]}
    gain = held_out_gains(**modes, beta=b, decoder_variance=1.0)[0]
    assert free.held_out_gain == pytest.approx(gain, abs=1e-8)
    terms = held_out_terms(
        **modes, latent_dim=1, beta=b, decoder_variance=1.0, total_variance=rho + eta
    )
    assert free.held_out_rate == pytest.approx(terms.rates[0], abs=1e-8)
    error = 2 * terms.distortion - math.log(2 * math.pi)
    assert free.held_out_error == pytest.approx(error - eta, abs=1e-8)


@given(b=beta, rho=variance, eta=variance, decay=st.floats(0, 2))
def test_generalisation_from_samples_without_end(b, rho, eta, decay):
    """The decay per sample vanishes: the population's own optimum, held out or not."""
    assume(abs((rho + eta) / b - 1) > 1e-3)
    found = spiked_generalisation(
        1e14, beta=b, weight_decay=decay, signal_variance=rho, noise_variance=eta
    )
    u = math.sqrt(max(0, rho + eta - b))
    assert found.signal_overlap == pytest.approx(u, abs=1e-6)
    assert found.generalisation_error == pytest.approx((1 - u) ** 2, abs=1e-6)
    assert found.held_out_rate == pytest.approx(float(found.rate), abs=1e-6)
    assert found.held_out_error == pytest.approx(rho if u == 0 else b - eta, abs=1e-6)


# --- single samples -------------------------------------------------------------------------------


@given(case=any_of([*ONE_LEVEL, "vae gamma", "vae kappa", "both gamma", "ar 0", "ar"]))
def test_mean_of_the_rate_distribution_is_the_rate(case):
    if case.spec.penalised:
        assume(case.moments.condition_dim == 0)
    found = solve(case.spec, case.moments)
    law = rate_distribution(case.spec, found)
    assert law.mean_nats == pytest.approx(found.rates[0], rel=SAME, abs=SAME)
    assert law.floor_nats >= -ROUNDING
    assert np.all(law.scales_nats >= 0)
    if found.collapsed.all():
        assert law.variance_nats2 == 0


scales = st.lists(
    st.sampled_from([1.0, 0.5, 0.0]) | st.floats(0.01, 5), min_size=1, max_size=6
).map(np.array)


@given(a=scales, floor=st.sampled_from([0.0, 0.5]) | st.floats(0, 5), factor=factor)
def test_share_of_samples_below(a, floor, factor):
    """A law on [floor, infinity): rising, with the tails of Cantelli, and unit of the nats."""
    law = RateDistribution(floor, a)
    spread = math.sqrt(law.variance_nats2)
    x = floor + np.array([-0.1, 0.0, 0.01, 0.1, 0.5, 1, 2, 5, 20, 100])
    shares = np.array([law.share_below(float(v)) for v in x])
    assert ascends(shares, 1e-8)
    assert np.all((shares >= 0) & (shares <= 1))
    assert shares[:2].tolist() == [0, 0]
    if not a.any():
        assert np.all(shares[2:] == 1)
        return
    for k in (0.5, 1.0, 2.0, 5.0):
        assert law.share_below(law.mean_nats - k * spread) <= 1 / (1 + k**2) + 1e-8
        assert law.share_below(law.mean_nats + k * spread) >= k**2 / (1 + k**2) - 1e-8
    scaled = RateDistribution(factor * floor, factor * a)
    found = [scaled.share_below(float(factor * v)) for v in x[2:]]
    assert found == pytest.approx(shares[2:], abs=1e-8)
    more = RateDistribution(floor, np.append(a, 0.3))
    silent = RateDistribution(floor, np.append(a, 0.0)[::-1])
    assert silent.share_below(floor + 1) == pytest.approx(law.share_below(floor + 1), abs=1e-8)
    assert more.share_below(floor + 1) <= law.share_below(floor + 1) + 1e-8


@given(a=scales)
@few
def test_share_below_has_the_mean_of_the_law(a):
    """Mean = floor + integral of the share above, by midpoints of the logarithm: good to 5e-3."""
    assume(a.any())
    law = RateDistribution(0.0, a)
    edges = np.exp(np.linspace(math.log(1e-8), math.log(200 * a.max()), 201))
    middle = np.sqrt(edges[1:] * edges[:-1])
    above = np.array([1 - law.share_below(float(v)) for v in middle])
    assert np.sum(above * np.diff(edges)) == pytest.approx(law.mean_nats, rel=5e-3)


@given(case=any_of(["vae learned", "both learned", "vae fixed"]), shift=st.floats(-5, 5))
def test_rates_of_samples(case, shift):
    """Any weights: their mean is the rate; order, origin and a rotation of the latents."""
    rng, k = case.rng(), case.spec.latent_dim
    d, dx = case.moments.target_dim, case.moments.condition_dim
    v = rng.normal(size=(7, dx + d))
    y, x = v[:, dx:], v[:, :dx] if dx else None
    moments = Moments.from_data(y, x)
    weights = perturbed(case, solve(case.spec, case.moments).weights, 0.3)
    found = sample_rates(case.spec, moments, weights, y, x)
    expected = objective(case.spec, moments, weights).rates[0]
    assert found.mean() == pytest.approx(expected, rel=SAME)
    assert np.all(found >= -ROUNDING)
    order = rng.permutation(7)
    permuted = sample_rates(case.spec, moments, weights, y[order], x if x is None else x[order])
    assert permuted == pytest.approx(found[order], rel=SAME)
    moved = Moments.from_data(y + shift, x)
    again = sample_rates(case.spec, moved, weights, y + shift, x)
    assert again == pytest.approx(found, rel=1e-8)
    turned, rotation = dict(weights), orthogonal(rng, k)
    for name in weights:
        if name.startswith("W"):
            turned[name] = rotation @ weights[name]
    turned["Sigma"] = rotation @ weights["Sigma"] @ rotation.T
    if case.spec.encoder_variance is None:  # a fixed one is given in its own basis
        assert sample_rates(case.spec, moments, turned, y, x) == pytest.approx(found, rel=SAME)


# --- the marginal likelihood ----------------------------------------------------------------------

EVERY = [*ONE_LEVEL, "hvae1", "hvae2", "hvae3", "chvae2", "ar", "ar 0"]


def drawn_weights(case):
    return perturbed(case, solve(case.spec, case.moments).weights, 0.3)


@given(case=any_of(EVERY), shrink=st.floats(0.1, 1))
def test_likelihood_is_of_the_decoder_alone(case, shrink):
    """Encoder, its covariance and betas do not enter, nor does a rotation of the top latents."""
    weights = drawn_weights(case)
    expected = log_likelihood(case.spec, case.moments, weights)
    fixed = [v is not None for v in case.spec.encoder_variances]
    other = {
        name: shrink * value
        if name.startswith("W") or (name.startswith("Sigma") and not any(fixed))
        else value
        for name, value in weights.items()
    }
    # the top decoder is the last one on the latents; U2 of a conditional model is on the condition
    top = f"U{len(case.spec.latent_dims)}" if isinstance(case.spec, HVAESpec) else "U"
    top = "U1" if isinstance(case.spec, CVAESpec) else top
    other[top] = weights[top] @ orthogonal(case.rng(), weights[top].shape[1])
    spec = case.spec.scale_betas(1.7)
    found = log_likelihood(spec, case.moments, other)
    assert found == pytest.approx(expected, rel=SAME, abs=SAME)


@given(case=any_of([k for k in EVERY if " s" not in k and "ar" not in k]), factor=factor)
def test_likelihood_and_unit_of_the_data(case, factor):
    """y -> a R y, s -> a^2 s and the decoders along: the density falls by a^d, the gap stays."""
    d = case.moments.target_dim
    weights = drawn_weights(case)
    A = factor * orthogonal(case.rng(), d)
    spec = replaced(case.spec, decoder_variance=factor**2 * case.spec.decoder_variance)
    moments = transformed(case.moments, A)
    # the matrices that end in the target, and the one that starts from it
    to, start = {VAESpec: (("U",), "W"), CVAESpec: (("U1", "U2"), "W2"),
                 HVAESpec: (("U1", "B"), "W1")}[type(case.spec)]  # fmt: skip
    other = weights | {name: A @ weights[name] for name in to if name in weights}
    if type(case.spec) is not VAESpec or not case.moments.condition_dim:
        other[start] = weights[start] @ np.linalg.inv(A)
    expected = log_likelihood(case.spec, case.moments, weights) - d * math.log(factor)
    found = log_likelihood(spec, moments, other)
    assert found == pytest.approx(expected, rel=SAME, abs=1e-8)
    gap = elbo_gap(case.spec, case.moments, weights)
    assert elbo_gap(spec, moments, other) == pytest.approx(gap, rel=1e-8, abs=1e-8)


@given(case=any_of(EVERY))
def test_no_decoder_beats_the_density_of_the_data_themselves(case):
    """-1/2 (d log 2 pi + log det Cov(y|x) + d), the entropy of Gaussian data."""
    moments = case.moments
    d, dx = moments.target_dim, moments.condition_dim
    C = moments.covariance
    rest = C[dx:, dx:]
    if dx:
        rest = rest - C[dx:, :dx] @ np.linalg.solve(C[:dx, :dx], C[:dx, dx:])
    if type(case.spec) is VAESpec and dx:
        rest = C[dx:, dx:]  # that decoder sees nothing of the condition
    assume(np.linalg.eigvalsh(rest)[0] > 1e-6)
    best = -(d * math.log(2 * math.pi) + np.linalg.slogdet(rest)[1] + d) / 2
    assert log_likelihood(case.spec, moments, drawn_weights(case)) <= best + 1e-8


@given(case=any_of(["vae learned", "both learned", "ar"]))
def test_gap_is_the_divergence_from_the_posterior(case):
    """Of N(W v, Sigma) from N(S U^T e/s, S), S = (I/eta^2 + U^T U/s)^-1: 0 for the posterior."""
    spec, moments, weights = case.spec, case.moments, drawn_weights(case)
    d, dx, k = moments.target_dim, moments.condition_dim, spec.latent_dim
    s, C = spec.decoder_variance, moments.covariance
    U = weights["U1" if dx else "U"]
    W = np.concatenate([weights["W1"], weights["W2"]], axis=1) if dx else weights["W"]
    B = np.zeros((d, dx + d))
    if dx:
        B[:, :dx] = weights["U2"]
    if "B" in weights:
        B[:, dx:] = weights["B"]
    to_residual = -B
    to_residual[:, dx:] += np.eye(d)
    S = np.linalg.inv(np.eye(k) / spec.prior_variance + U.T @ U / s)
    best = S @ U.T @ to_residual / s
    off, ratio = W - best, np.linalg.solve(S, weights["Sigma"])
    apart = np.trace(np.linalg.solve(S, off @ C @ off.T))
    expected = (np.trace(ratio) - k - np.linalg.slogdet(ratio)[1] + apart) / 2
    assert elbo_gap(spec, moments, weights) == pytest.approx(expected, rel=1e-8, abs=1e-9)
    posterior = dict(weights, Sigma=S)
    posterior |= {"W1": best[:, :dx], "W2": best[:, dx:]} if dx else {"W": best}
    assert elbo_gap(spec, moments, posterior) == pytest.approx(0, abs=1e-9)


@given(case=any_of(["hvae2", "hvae3"]))
def test_likelihood_of_a_hierarchy_whose_upper_levels_are_silent(case):
    """U2 = 0: one level whose prior is its own noise; what is above costs its KL for nothing."""
    weights = drawn_weights(case)
    weights["U2"] = np.zeros_like(weights["U2"])
    k = case.spec.latent_dims[0]
    plain = VAESpec(
        k, decoder_variance=case.spec.decoder_variance, prior_variance=case.spec.prior_variances[0]
    )
    alone = {"W": weights["W1"], "U": weights["U1"], "Sigma": weights["Sigma1"]}
    found = log_likelihood(case.spec, case.moments, weights)
    assert found == pytest.approx(log_likelihood(plain, case.moments, alone), rel=SAME)
    upper = objective(case.spec, case.moments, weights).rates[1:].sum()
    gap = elbo_gap(plain, case.moments, alone) + upper
    assert elbo_gap(case.spec, case.moments, weights) == pytest.approx(gap, rel=1e-8, abs=1e-9)


# --- rate and distortion --------------------------------------------------------------------------

some = modes.filter(lambda v: bool(v.any()))
levels = st.lists(
    st.sampled_from([1.0, 0.5, 2.0]) | st.floats(0.01, 6), min_size=2, max_size=6
).map(lambda w: np.sort(w))


@given(theta2=some, w=levels, k=st.none() | st.integers(1, 6))
def test_curve_falls_and_is_convex_with_its_water_level_as_slope(theta2, w, k):
    """Every chord has a slope d rate/d error between -1/(2 w) of its two ends."""
    curve = rate_distortion_curve(theta2, w, latent_dim=k)
    rates, errors = curve.rates, curve.squared_errors
    assert ascends(errors)
    assert ascends(-rates)
    assert ascends(-curve.active_modes)
    assert np.all(rates >= 0)
    assert np.all(errors <= theta2.sum() * (1 + SAME))
    rise, fall = np.diff(errors), -np.diff(rates)
    slack = ROUNDING * (1 + rise)
    assert np.all(fall >= rise / (2 * w[1:]) - slack)
    assert np.all(fall <= rise / (2 * w[:-1]) + slack)
    units = len(theta2) if k is None else k
    active = [min(units, int(np.sum(theta2 > level))) for level in w]
    assert curve.active_modes.tolist() == active
    assert np.array_equal(rates > 0, curve.active_modes > 0)


@given(theta2=some, w=levels, factor=factor, seed=st.integers(0, 1000))
def test_curve_in_any_order_and_any_unit(theta2, w, factor, seed):
    order = np.random.default_rng(seed).permutation(len(theta2))
    one, other = (
        rate_distortion_curve(*v) for v in ((theta2, w), (factor * theta2[order], factor * w))
    )
    assert other.rates == pytest.approx(one.rates, abs=SAME)
    assert other.squared_errors == pytest.approx(factor * one.squared_errors, rel=SAME)


@given(theta2=some, w=levels)
def test_more_units_buy_more_at_every_water_level(theta2, w):
    """Rate up, error down, and what is minimised, error/(2 w) + rate, down."""
    curves = [rate_distortion_curve(theta2, w, latent_dim=k) for k in range(1, len(theta2) + 2)]
    assert ascends([c.rates for c in curves])
    assert ascends([-c.squared_errors for c in curves])
    assert ascends([-c.squared_errors / (2 * w) - c.rates for c in curves])
    whole = rate_distortion_curve(theta2, w)
    assert curves[-1].rates == pytest.approx(whole.rates, abs=SAME)


@given(theta2=some, w=levels, rate=st.sampled_from([0.0, 1.0]) | st.floats(0, 20), factor=factor)
def test_water_level_is_the_inverse_of_the_curve(theta2, w, rate, factor):
    level = water_level(theta2, rate_nats=rate)
    assert rate_distortion_curve(theta2, level).rates[0] == pytest.approx(rate, abs=1e-9)
    assert level <= theta2.max() * (1 + SAME)
    assert water_level(factor * theta2, rate_nats=rate) == pytest.approx(factor * level, rel=SAME)
    assert water_level(theta2, rate_nats=rate + 0.1) < level
    curve = rate_distortion_curve(theta2, w)
    for value, spent in zip(w, curve.rates, strict=True):
        back = water_level(theta2, rate_nats=float(spent))
        assert back == pytest.approx(min(value, theta2.max()), rel=SAME)
