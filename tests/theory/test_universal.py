"""The architecture-free threshold: exact special cases, grids, rate-distortion and mixtures."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import expit, logsumexp, ndtri

from linvae.theory.universal import universal_threshold

# The maximiser stops when a step gains less than 1e-12, relatively; the flattest maxima here are
# then good to 1e-9 or so.
EXACT = 1e-8


def skewed(seed: int, n: int = 0, d: int = 2) -> np.ndarray:
    """A few samples of a skewed law with correlated coordinates, far from zero."""
    rng = np.random.default_rng(seed)
    n = n or int(rng.integers(6, 40))
    y = rng.exponential(size=(n, d)) ** rng.uniform(0.5, 1.5)
    return y @ rng.normal(size=(d, d)) + rng.normal(size=d)


def two_point(ones: int, n: int) -> np.ndarray:
    return np.r_[np.ones(ones), np.zeros(n - ones)][:, None]


def two_point_proxy(p: float) -> float:
    return p * (1 - p) if p == 0.5 else (1 - 2 * p) / (2 * math.log((1 - p) / p))


def mean_ratio(y: np.ndarray, t: np.ndarray) -> np.ndarray:
    """2 log E exp(t.(y - mean))/|t|^2 from the definition, one t per row."""
    exponents = t @ (y - y.mean(axis=0)).T
    return 2 * (logsumexp(exponents, axis=1) - math.log(len(y))) / np.sum(t**2, axis=1)


def polar_grid(y: np.ndarray, angles: int = 72, radii: int = 40) -> np.ndarray:
    """Tilts in all directions of the plane, from 0.05 to 30 standard deviations."""
    angle = np.linspace(0, 2 * np.pi, angles, endpoint=False)
    r = np.geomspace(0.05, 30, radii) / math.sqrt(np.linalg.eigvalsh(np.cov(y.T))[-1])
    directions = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return (r[:, None, None] * directions).reshape(-1, 2)


# --- exact special cases -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ones", "n"), [(1, 1000), (1, 50), (3, 10), (4999, 10000), (9, 10), (1, 3)]
)
def test_two_point_law(ones, n):
    found = universal_threshold(two_point(ones, n))
    assert found.variance_proxy == pytest.approx(two_point_proxy(ones / n), rel=EXACT)
    # Bennett's inequality is an equality for two points
    assert found.variance_proxy_upper_bound == pytest.approx(found.variance_proxy, rel=EXACT)


STRICT = {
    "two-point": np.array([-1.0, 1.0]),
    "uniform": np.linspace(-1, 1, 41),
    "gaussian-quantiles": ndtri((np.arange(60) + 0.5) / 60),
}


@pytest.mark.parametrize("name", STRICT)
@pytest.mark.parametrize("ratio", [0.5, 1.0])  # 1: a repeated eigenvalue
def test_strictly_sub_gaussian_laws_have_no_gap(name, ratio):
    """Independent coordinates: the proxy of the vector is the larger of theirs, the variance."""
    values = STRICT[name]
    grid = np.stack(np.meshgrid(values, math.sqrt(ratio) * values), axis=-1).reshape(-1, 2)
    rotation = np.array([[0.8, -0.6], [0.6, 0.8]])
    found = universal_threshold(grid @ rotation)
    variance = np.mean(values**2)
    assert found.variance_proxy == pytest.approx(variance, rel=EXACT)
    assert found.linear_variance == pytest.approx(variance, rel=1e-12)
    assert found.critical_beta == found.linear_critical_beta  # no gap of rounding either
    assert not found.tilt.any()
    if ratio < 1:
        assert abs(found.direction @ rotation[0]) == pytest.approx(1, abs=1e-3)


def test_in_the_limit_of_no_tilt_the_constant_output_is_the_competitor():
    found = universal_threshold(np.array([[-1.0], [1.0], [-1.0], [1.0]]))
    assert found.critical_beta == found.linear_critical_beta == pytest.approx(1.0, rel=1e-14)
    np.testing.assert_array_equal(found.tilt, [0.0])
    np.testing.assert_array_equal(found.output, [0.0])
    assert found.effective_samples == 4
    assert abs(found.direction[0]) == 1


def test_large_gaussian_sample():
    """Population proxy 2; the sample's own maximum over t within about one scale of t.y.

    K at |t| = 1/sd has standard error sqrt((e - 2)/n) = 0.012 for n = 5000, and the maximum runs
    over the few directions of the leading plane: 3 standard errors of 2 K and of lambda_max.
    """
    rng = np.random.default_rng(1)
    found = universal_threshold(rng.normal(size=(5000, 3)) * np.sqrt([2.0, 1.0, 0.5]))
    assert 1 <= found.critical_beta / found.linear_critical_beta < 1.08
    assert found.linear_variance == pytest.approx(2, rel=3 * math.sqrt(2 / 5000))
    # of a variance 2 estimated from each half
    assert found.held_out_standard_error == pytest.approx(2 * math.sqrt(2 / 5000), rel=0.35)
    difference = found.held_out_variance_proxy - 2
    assert abs(difference) < 4 * found.held_out_standard_error


# --- grids over the definition -------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(100))
def test_no_tilt_of_a_grid_is_better_and_the_bound_holds(seed):
    y = skewed(seed)
    found = universal_threshold(y, seed=seed)
    best = mean_ratio(y, polar_grid(y)).max()
    assert found.variance_proxy >= best * (1 - 1e-9)
    # cells of 5 degrees and 18 per cent: the maximum is within 1 per cent of a grid point
    assert found.variance_proxy <= max(best, found.linear_variance) * 1.01
    assert found.linear_variance <= found.variance_proxy <= found.variance_proxy_upper_bound
    if found.tilt.any():
        at_tilt = mean_ratio(y, found.tilt[None])[0]
        assert found.variance_proxy == pytest.approx(at_tilt, rel=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_upper_bound_in_many_dimensions(seed):
    """More dimensions than the grid can hold; heavy tails, so that one sample matters most."""
    rng = np.random.default_rng(seed)
    y = rng.standard_t(3, size=(int(rng.integers(5, 60)), int(rng.integers(3, 40))))
    found = universal_threshold(y)
    alone = np.sum((y - y.mean(axis=0)) ** 2, axis=1).max() / (2 * math.log(len(y)))
    assert found.variance_proxy >= alone * (1 - 1e-12)  # one sample memorised
    assert found.variance_proxy <= found.variance_proxy_upper_bound
    R2 = np.sum((y - y.mean(axis=0)) ** 2, axis=1).max()
    q = R2 / found.linear_variance
    bennett = found.linear_variance * (q - 1 / q) / (2 * math.log(q))
    assert found.variance_proxy_upper_bound <= bennett * (1 + 1e-12)


def test_norms_of_all_samples_sharpen_the_upper_bound():
    """One far sample among many near ones: Bennett's bound alone gives all the largest norm."""
    rng = np.random.default_rng(7)
    y = rng.normal(size=(400, 20)) * np.sqrt(np.r_[3.0, np.ones(19)])
    y[0] *= 2.5
    found = universal_threshold(y)
    q = np.sum((y - y.mean(axis=0)) ** 2, axis=1).max() / found.linear_variance
    bennett = found.linear_variance * (q - 1 / q) / (2 * math.log(q))
    assert found.variance_proxy <= found.variance_proxy_upper_bound < 0.8 * bennett


@pytest.mark.parametrize("seed", range(25))
def test_dual_distortion_saved_per_nat(seed):
    """sup over weights of |m_w|^2/(2 s KL): the tilted weights reach it, no others exceed it."""
    y, s = skewed(seed, n=12), 0.7
    found = universal_threshold(y, decoder_variance=s)
    centred = y - y.mean(axis=0)

    def per_nat(w: np.ndarray) -> np.ndarray:
        divergence = np.sum(w * np.log(np.maximum(w, 1e-300) * len(y)), axis=1)
        return np.sum((w @ centred) ** 2, axis=1) / (2 * s * divergence)

    rng = np.random.default_rng(seed)
    random = np.concatenate([rng.dirichlet(np.full(len(y), a), 500) for a in (0.05, 0.5, 5.0)])
    assert per_nat(random).max() <= found.critical_beta * (1 + 1e-9)
    if found.tilt.any():
        w = np.exp(centred @ found.tilt)
        w /= w.sum()
        # stationary to 1e-6, and so equal to second order
        assert per_nat(w[None])[0] == pytest.approx(found.critical_beta, rel=EXACT)
        np.testing.assert_allclose(found.output, w @ y, rtol=1e-10, atol=1e-12)
        assert found.effective_samples == pytest.approx(1 / np.sum(w**2), rel=1e-9)


# --- what the threshold says: rate-distortion, mixtures ------------------------------------------


def blahut_arimoto(y: np.ndarray, s: float, beta: float) -> tuple[float, float]:
    """Rate-distortion objective less the collapsed one: value reached, and a bound from below.

    min over q of -beta mean log sum_j q_j exp(-(y - c_j)^2/(2 beta s)) over outputs c_j on a grid
    with the mean on it; the bound is the dual one, value - beta log max_j of the update factors.
    """
    values, counts = np.unique(y, return_counts=True)
    p = counts / counts.sum()
    mean = p @ values
    outputs = np.r_[mean, np.linspace(values[0], values[-1], 80)]
    kernel = np.exp(-((values[:, None] - outputs) ** 2) / (2 * beta * s))
    q = np.full(len(outputs), 1 / len(outputs))
    for _ in range(3000):
        q *= p @ (kernel / (kernel @ q)[:, None])
    factor = np.max(p @ (kernel / (kernel @ q)[:, None]))
    collapsed = -beta * p @ np.log(kernel[:, 0])
    gain = -beta * p @ np.log(kernel @ q) - collapsed
    return gain, gain - beta * math.log(factor)


@pytest.mark.parametrize(
    ("ones", "n", "skewness"), [(1, 2, 0.0), (1, 4, 1.0), (1, 10, 2.3)], ids=["0", "1", "2.3"]
)
def test_rate_distortion_collapses_at_the_proxy(ones, n, skewness):
    """Two points with noise of a tenth of their variance, s = 0.3."""
    points = two_point(ones, n)[:, 0]
    noise = ndtri((np.arange(40) + 0.5) / 40)
    noise *= math.sqrt(0.1 * points.var() / noise.var())
    y, s = np.add.outer(points, noise).ravel(), 0.3
    z = (y - y.mean()) / y.std()
    assert np.mean(z**3) == pytest.approx(skewness, abs=0.05)
    found = universal_threshold(y[:, None], decoder_variance=s)
    gains = [blahut_arimoto(y, s, f * found.critical_beta) for f in (0.97, 1.0, 1.03)]
    # below it outputs on two points of the grid are better by 1e-5 and more
    assert gains[0][0] < -1e-5
    for gain, bound in gains[1:]:
        # above it nothing is; 3000 steps leave what the dual bound says, at most 1.2e-5 (at
        # skewness 0, where convergence is slowest)
        assert gain > -1e-9
        assert bound > -3e-5


def em_of_mixture(
    y: np.ndarray, s: float, outputs: np.ndarray, weights: np.ndarray, steps: int
) -> float:
    """Mean log-likelihood that EM reaches for a mixture of N(output_k, s I), less constants."""
    for _ in range(steps):
        joint = np.log(weights) - np.sum((y[:, None] - outputs) ** 2, axis=2) / (2 * s)
        share = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
        weights = np.maximum(share.mean(axis=0), 1e-300)
        outputs = (share.T @ y) / (len(y) * weights[:, None])
    joint = np.log(weights) - np.sum((y[:, None] - outputs) ** 2, axis=2) / (2 * s)
    return float(np.mean(logsumexp(joint, axis=1)))


@pytest.mark.parametrize("seed", range(5))
def test_at_beta_one_a_mixture_of_outputs_beats_one_output_iff_below_the_threshold(seed):
    y = skewed(seed, n=40)
    y -= y.mean(axis=0)
    proxy = universal_threshold(y).variance_proxy
    rng = np.random.default_rng(seed)
    for factor, better in ((0.97, True), (1.03, False)):
        s = factor * proxy
        found = universal_threshold(y, decoder_variance=s)
        assert found.critical_beta == pytest.approx(1 / factor, rel=1e-6)
        one = -np.mean(np.sum(y**2, axis=1)) / (2 * s)
        competitor = s * found.tilt if found.tilt.any() else 0.1 * found.direction
        start = np.stack([np.zeros(2), competitor])
        starts = [(start, np.array([0.999, 0.001]))]
        for _ in range(3):
            starts.append((y[rng.choice(len(y), 3)], rng.dirichlet(np.ones(3))))
        best = max(em_of_mixture(y, s, *start, steps=100) for start in starts)
        # rounding of means of 40 terms of size 1 to 10; gains below the threshold exceed 1e-5
        assert best > one + 1e-8 if better else best <= one + 1e-12


# --- other likelihoods ---------------------------------------------------------------------------


def binary_pairs(counts: tuple[int, int, int, int]) -> np.ndarray:
    """`counts` samples of (0, 0), (0, 1), (1, 0), (1, 1)."""
    return np.repeat(np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), counts, axis=0).astype(float)


def bernoulli_log_ratios(y: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """log p(y|q)/p(y|mean), one row per sample, one column per output q."""
    m = y.mean(axis=0)
    return y @ np.log(outputs / m).T + (1 - y) @ np.log((1 - outputs) / (1 - m)).T


def condition_on(ratios: np.ndarray, beta: float) -> float:
    """The largest E[(p(y|eta)/p(y|eta_0))^(1/beta)] over the outputs."""
    return float(np.exp((logsumexp(ratios / beta, axis=0) - math.log(len(ratios))).max()))


@pytest.mark.parametrize("p", [(0.5, 0.5), (0.1, 0.5), (0.2, 0.7)], ids=str)
def test_independent_binary_coordinates_collapse_at_beta_one(p):
    """The collapsed decoder is the exact law of the data: at beta = 1 all means are 1."""
    counts = [100 * (a if i else 1 - a) * (b if j else 1 - b)
              for a, b in [p] for i in (0, 1) for j in (0, 1)]  # fmt: skip
    found = universal_threshold(
        binary_pairs(tuple(round(c) for c in counts)), likelihood="bernoulli"
    )
    assert found.critical_beta == pytest.approx(1.0, rel=EXACT)
    assert found.linear_critical_beta == pytest.approx(1.0, rel=1e-12)


@pytest.mark.parametrize("seed", range(15))
def test_two_binary_coordinates_by_enumeration(seed):
    """All outputs on a grid of logits: the condition fails below the threshold, holds above."""
    rng = np.random.default_rng(seed)
    y = binary_pairs(tuple(rng.integers(1, 12, 4)))
    found = universal_threshold(y, likelihood="bernoulli")
    logits = np.stack(np.meshgrid(*[np.linspace(-8, 8, 81)] * 2), axis=-1).reshape(-1, 2)
    ratios = bernoulli_log_ratios(y, expit(logits))
    own = bernoulli_log_ratios(
        y, expit(np.log(y.mean(0) / (1 - y.mean(0))) + found.critical_beta * found.tilt)[None]
    )
    # the output found meets the condition with equality, and no other violates it
    assert condition_on(own, found.critical_beta) == pytest.approx(1, abs=1e-10)
    assert condition_on(ratios, found.critical_beta) <= 1 + 1e-10
    nearby = np.concatenate([ratios, own], axis=1)
    # in the limit t -> 0 the grid (spacing 0.2) has to resolve second-order terms
    assert condition_on(nearby, 0.98 * found.critical_beta) > 1
    correlation = abs(np.corrcoef(y.T)[0, 1])
    assert found.linear_critical_beta == pytest.approx(1 + correlation, rel=1e-10)
    assert found.linear_critical_beta <= found.critical_beta <= found.critical_beta_upper_bound


def test_binary_samples_memorised_one_by_one():
    """A sample alone: -log p(y_i|mean)/log n, in many dimensions the whole threshold."""
    y = (np.random.default_rng(0).random((20, 400)) < 0.4).astype(float)
    found = universal_threshold(y, likelihood="bernoulli")
    m = y.mean(axis=0).clip(1e-12, 1 - 1e-12)
    surprise = -(y @ np.log(m) + (1 - y) @ np.log(1 - m))
    # outputs within 1e-13 of 0 and 1, 400 of them
    assert found.critical_beta == pytest.approx(surprise.max() / math.log(20), rel=1e-9)
    assert found.effective_samples == pytest.approx(1, abs=1e-6)


def test_bernoulli_between_zero_and_one_is_the_cross_entropy():
    """Fractional targets vary less than a coin: the linear threshold is var/(m (1 - m))."""
    y = np.array([[0.2], [0.4], [0.6], [0.8]])
    found = universal_threshold(y, likelihood="bernoulli")
    assert found.linear_critical_beta == pytest.approx(0.05 / 0.25, rel=1e-12)
    outputs = expit(np.linspace(-6, 6, 401))[:, None]
    assert condition_on(bernoulli_log_ratios(y, outputs), found.critical_beta) <= 1 + 1e-10


@pytest.mark.parametrize("seed", range(10))
def test_poisson_counts_on_a_grid_of_rates(seed):
    rng = np.random.default_rng(seed)
    y = rng.poisson(rng.gamma(1.0, 3.0, size=(30, 1))).astype(float)
    found = universal_threshold(y, likelihood="poisson")
    m = y.mean()
    eta = np.append(np.geomspace(1e-3, 60, 4000), m * np.exp(found.critical_beta * found.tilt))
    ratios = y * np.log(eta / m) - (eta - m)
    assert condition_on(ratios, found.critical_beta) <= 1 + 1e-10
    # the grid is fine enough to see 1e-3 below the threshold
    assert condition_on(ratios, 0.999 * found.critical_beta) > 1
    assert found.linear_critical_beta == pytest.approx(y.var() / m, rel=1e-12)
    assert found.critical_beta <= found.critical_beta_upper_bound


# --- invariances ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_rotation_shift_and_order_change_nothing(seed):
    y = skewed(seed, n=40, d=4)
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    moved = (y @ rotation + 100.0)[rng.permutation(len(y))]
    before, after = universal_threshold(y), universal_threshold(moved)
    assert after.variance_proxy == pytest.approx(before.variance_proxy, rel=EXACT)
    # rounding of sums at distance 100
    assert after.linear_variance == pytest.approx(before.linear_variance, rel=1e-11)
    assert after.variance_proxy_upper_bound == pytest.approx(
        before.variance_proxy_upper_bound, rel=1e-9
    )
    np.testing.assert_allclose(before.tilt @ rotation, after.tilt, atol=1e-3)  # flat maximum


@pytest.mark.parametrize("scale", [1e-4, 30.0])
def test_scaling_the_data_scales_the_variance(scale):
    y = skewed(3, n=40, d=3)
    before, after = universal_threshold(y), universal_threshold(scale * y)
    assert after.variance_proxy == pytest.approx(scale**2 * before.variance_proxy, rel=EXACT)
    assert after.critical_beta == pytest.approx(scale**2 * before.critical_beta, rel=EXACT)
    assert after.effective_samples == pytest.approx(before.effective_samples, rel=1e-3)


def test_decoder_variance_divides_the_threshold_only():
    y = skewed(4, n=40, d=3)
    one, tenth = universal_threshold(y), universal_threshold(y, decoder_variance=0.1)
    assert tenth.critical_beta == pytest.approx(10 * one.critical_beta, rel=EXACT)
    assert tenth.variance_proxy == pytest.approx(one.variance_proxy, rel=EXACT)
    assert tenth.held_out_critical_beta == pytest.approx(10 * one.held_out_critical_beta, rel=1e-3)


def test_coordinates_without_variance_and_copies_of_samples_change_nothing():
    y = skewed(5, n=40)
    padded = np.insert(np.concatenate([y, y]), 1, 7.0, axis=1)
    before, after = universal_threshold(y), universal_threshold(padded)
    assert after.critical_beta == pytest.approx(before.critical_beta, rel=EXACT)
    assert after.tilt[1] == 0
    assert after.output[1] == 7
    binary = (y > np.median(y)).astype(float)
    constant = np.column_stack([binary, np.ones(40), np.zeros(40)])
    plain = universal_threshold(binary, likelihood="bernoulli")
    assert universal_threshold(constant, likelihood="bernoulli").critical_beta == pytest.approx(
        plain.critical_beta, rel=EXACT
    )


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_same_seed_same_answer_other_seed_same_maximum(likelihood):
    y = (np.random.default_rng(8).random((40, 4)) < 0.3).astype(float)
    first, again, other = (
        universal_threshold(y, likelihood=likelihood, seed=seed) for seed in (0, 0, 1)
    )
    assert again.critical_beta == first.critical_beta
    assert again.held_out_critical_beta == first.held_out_critical_beta
    assert other.critical_beta == pytest.approx(first.critical_beta, rel=EXACT)
    assert other.held_out_critical_beta != first.held_out_critical_beta


# --- finite samples ------------------------------------------------------------------------------


def test_few_samples_in_many_dimensions_are_memorised():
    y = np.random.default_rng(2).normal(size=(60, 500))
    found = universal_threshold(y)
    # along the farthest sample the others are one point but for overlaps, 1/sqrt(500) each
    farthest = np.sum((y - y.mean(axis=0)) ** 2, axis=1).max()
    range2 = farthest * (60 / 59) ** 2
    assert found.variance_proxy == pytest.approx(range2 * two_point_proxy(1 / 60), rel=2e-3)
    assert found.variance_proxy > farthest / (2 * math.log(60))
    assert found.effective_samples == pytest.approx(1, abs=0.05)
    assert found.held_out_variance_proxy < 0.2 * found.variance_proxy
    assert found.linear_variance < found.variance_proxy < found.variance_proxy_upper_bound


def test_held_out_value_of_a_real_gap_survives():
    """Two points with p = 0.1 and noise in 5 dimensions: the gap is in the law, not the sample."""
    rng = np.random.default_rng(3)
    y = 0.3 * rng.normal(size=(4000, 5))
    y[:, 0] += 3.0 * (rng.random(4000) < 0.1)
    found = universal_threshold(y)
    law = 9 * two_point_proxy(0.1) + 0.09  # at most the sum of the proxies
    assert found.effective_samples > 100
    assert found.held_out_variance_proxy > 1.5 * found.linear_variance
    assert abs(found.held_out_variance_proxy - law) < 4 * found.held_out_standard_error + 0.01 * law


def test_standard_error_is_the_spread_of_the_held_out_value():
    """Over 30 samples of one law; 30 values give their spread within 26 per cent (2 sigma)."""
    rng = np.random.default_rng(4)
    results = []
    for _ in range(30):
        y = rng.normal(size=(400, 1)) * 0.3 + (rng.random((400, 1)) < 0.2)
        results.append(universal_threshold(y))
    spread = np.std([r.held_out_critical_beta for r in results])
    stated = np.mean([r.held_out_standard_error for r in results])
    # the tilts of the halves vary too, and the halves are not independent
    assert 0.6 < spread / stated < 1.6


@pytest.mark.parametrize("n", [2, 3])
def test_too_few_samples_to_hold_any_out(n):
    found = universal_threshold(np.arange(n, dtype=float)[:, None])
    assert found.critical_beta >= found.linear_critical_beta > 0
    assert math.isnan(found.held_out_critical_beta)


def test_four_samples_are_enough_to_hold_two_out():
    found = universal_threshold(np.array([[0.0], [1.0], [3.0], [7.0]]))
    assert found.held_out_critical_beta > 0


# --- conditions ----------------------------------------------------------------------------------


def test_labels_give_the_largest_threshold_of_the_groups():
    sets = [skewed(seed, n=20 + seed) for seed in (1, 2, 3)]
    y = np.concatenate([part + 50 * i for i, part in enumerate(sets)])
    labels = np.repeat([7, 2, 5], [len(part) for part in sets])
    found = universal_threshold(y, condition=labels)
    alone = [universal_threshold(part) for part in sets]
    np.testing.assert_array_equal(found.group_labels, [2, 5, 7])
    np.testing.assert_array_equal(found.group_sizes, [22, 23, 21])
    expected = [alone[1].critical_beta, alone[2].critical_beta, alone[0].critical_beta]
    np.testing.assert_allclose(found.group_critical_betas, expected, rtol=EXACT)
    assert found.critical_beta == found.group_critical_betas.max()
    assert found.linear_critical_beta == pytest.approx(
        max(one.linear_critical_beta for one in alone), rel=1e-12
    )
    best = alone[int(np.argmax([one.critical_beta for one in alone]))]
    np.testing.assert_allclose(found.direction, best.direction, atol=1e-3)


def test_groups_of_one_sample_are_collapsed_and_small_groups_not_held_out():
    y = np.array([[0.0], [1.0], [5.0], [9.0]])
    found = universal_threshold(y, condition=[0, 0, 1, 2])
    np.testing.assert_allclose(found.group_critical_betas, [0.25, 0, 0], rtol=1e-12)
    assert found.critical_beta_upper_bound == pytest.approx(0.25, rel=EXACT)
    assert math.isnan(found.held_out_critical_beta)
    assert [row["binding"] for row in found.to_rows()] == [True, False, False]


def test_labels_with_binary_targets():
    independent = binary_pairs((1, 1, 1, 1))
    y = np.concatenate([independent, binary_pairs((3, 1, 1, 3))])
    labels = np.repeat([0, 1], [4, 8])
    found = universal_threshold(y, condition=labels, likelihood="bernoulli")
    assert found.group_critical_betas[0] == pytest.approx(1.0, rel=EXACT)
    assert found.group_critical_betas[1] >= 1.5 * (1 - 1e-9)


def test_continuous_condition_takes_the_linear_prediction_away():
    rng = np.random.default_rng(5)
    x, noise = rng.normal(size=(50, 2)), skewed(6, n=50)
    y = noise + x @ np.array([[3.0, 1.0], [0.0, 2.0]]) + 4.0
    found = universal_threshold(y, condition=x)
    design = np.column_stack([np.ones(50), x])
    projection = np.eye(50) - design @ np.linalg.pinv(design)
    expected = universal_threshold(projection @ noise)
    assert found.critical_beta == pytest.approx(expected.critical_beta, rel=EXACT)
    np.testing.assert_array_equal(found.group_labels, [-1])
    independent = universal_threshold(y, condition=np.zeros((50, 1)))
    assert independent.critical_beta == pytest.approx(
        universal_threshold(y).critical_beta, rel=EXACT
    )


# --- rows and refusals ---------------------------------------------------------------------------


def test_rows_state_the_units_of_the_record():
    found = universal_threshold(skewed(9, n=30), decoder_variance=0.5)
    (row,) = found.to_rows()
    assert row["group"] == -1
    assert row["group_size"] == 30
    assert row["variance_proxy"] == pytest.approx(0.5 * row["critical_beta"], rel=1e-15)
    binary = universal_threshold(binary_pairs((2, 1, 1, 2)), likelihood="bernoulli")
    assert math.isnan(binary.variance_proxy)
    assert math.isnan(binary.held_out_variance_proxy)


Y = np.array([[0.0], [1.0], [1.0]])
REFUSED = {
    "likelihood": ({"likelihood": "laplace"}, "likelihood='laplace' must be 'gaussian', 'bern"),
    "one-sample": ({"target": Y[:1]}, r"shape \(1, 1\) but must be 2-D.*at least 2 samples"),
    "vector": ({"target": Y[:, 0]}, r"shape \(3,\) but must be 2-D"),
    "text": ({"target": [["a"], ["b"]]}, "dtype <U1 but must be numeric"),
    "nan": ({"target": [[0.0], [np.nan]]}, "target contains NaN or infinite"),
    "inf": ({"target": [[0.0], [np.inf]]}, "target contains NaN or infinite"),
    "constant": ({"target": [[3.1], [3.1]]}, "zero variance everywhere: there is nothing"),
    "no-spread": ({"condition": [0, 1, 1]}, "zero variance everywhere given the condition"),
    "exact": ({"condition": 3.7 * Y}, "zero variance everywhere given the condition"),
    "range": (
        {"target": 2 * Y, "likelihood": "bernoulli"},
        r"entries from 0 to 2 but likelihood='bernoulli' needs them in \[0, 1\]",
    ),
    "negative": (
        {"target": -Y, "likelihood": "poisson"},
        r"from -1 to 0 .* needs them in \[0, inf\)",
    ),
    "zero-s": ({"decoder_variance": 0.0}, "decoder_variance=0.0 must be a finite number > 0"),
    "learned": ({"decoder_variance": "learned"}, "decoder_variance='learned' must be.*collapsed"),
    "s-and-bernoulli": (
        {"likelihood": "bernoulli", "decoder_variance": 0.5},
        "decoder_variance=0.5 has no meaning with likelihood='bernoulli'",
    ),
    "length": ({"condition": [0, 1]}, r"condition has shape \(2,\) but target has 3 samples"),
    "float-labels": ({"condition": [0.5, 0.2, 0.1]}, "must be labels, integers.*or continuous"),
    "infinite": ({"condition": np.full((3, 1), np.inf)}, "condition contains NaN or infinite"),
    "continuous-bernoulli": (
        {"condition": np.ones((3, 1)), "likelihood": "bernoulli"},
        "condition is continuous but likelihood='bernoulli'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_argument_and_the_way_out(name):
    arguments, text = REFUSED[name]
    with pytest.raises(ValueError, match=text):
        universal_threshold(**({"target": Y} | arguments))


def test_the_upper_bound_is_that_of_all_groups():
    y, labels = np.concatenate([skewed(0, 30), 3 * skewed(1, 30)]), np.repeat([0, 1], 30)
    bounds = [universal_threshold(y[labels == g]).critical_beta_upper_bound for g in (0, 1)]
    assert bounds[0] != bounds[1]
    found = universal_threshold(y, condition=labels)
    assert found.critical_beta_upper_bound == pytest.approx(max(bounds), rel=1e-9)


@pytest.mark.parametrize("unit", [1e-14, 1e-7, 1e7])
def test_units_of_a_target_with_a_continuous_condition(unit):
    """A coordinate that the condition determines leaves rounding, which is no variance."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(40, 1))
    y = np.concatenate([2 * x, x + rng.exponential(size=(40, 1))], axis=1)
    expected = universal_threshold(y, condition=x).critical_beta
    found = universal_threshold(unit * y, condition=x, decoder_variance=unit**2).critical_beta
    assert found == pytest.approx(expected, rel=1e-7)
    with pytest.raises(ValueError, match="zero variance everywhere given the condition"):
        universal_threshold(unit * y[:, :1], condition=x)


@pytest.mark.parametrize("wide", [0, 1])
def test_held_out_value_is_that_of_the_binding_group(wide):
    """Fair coins of variance 9 and 1, 40 samples each: halves of 20 are that close."""
    labels = np.repeat([0, 1], 40)
    y = np.tile([-1.0, 1.0], 40) * np.where(labels == wide, 3.0, 1.0)
    found = universal_threshold(y[:, None], condition=labels)
    assert found.binding_group == wide
    assert found.held_out_critical_beta == pytest.approx(9, rel=0.2)


def test_a_small_coordinate_is_not_the_rounding_of_a_large_one():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(40, 1))
    y = np.concatenate([1e13 * x, x + rng.exponential(size=(40, 1))], axis=1)
    alone = universal_threshold(y[:, 1:], condition=x).critical_beta
    assert universal_threshold(y, condition=x).critical_beta == pytest.approx(alone, rel=1e-9)


@pytest.mark.parametrize("name", ["target", "condition"])
def test_ragged_lists_are_refused_by_name(name):
    given = {"target": [[1.0], [2.0]], "condition": [0, 0]} | {name: [[1.0], [1.0, 2.0]]}
    with pytest.raises(ValueError, match=f"^{name} must be an array of numbers"):
        universal_threshold(**given)


def test_the_mean_of_a_target_does_not_hide_what_a_condition_leaves():
    """Residuals below 1 beside a mean of 3e12, whose rounding is 5e-4."""
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(40, 1)), rng.uniform(-1, 1, size=(40, 1))
    expected = universal_threshold(y, condition=x).critical_beta
    found = universal_threshold(y + 3e12, condition=x).critical_beta
    assert found == pytest.approx(expected, rel=0.01)


def test_a_sample_that_its_condition_names_leaves_the_others():
    """An indicator: the residual of one sample is 0, those of the others are about their mean."""
    y = np.random.default_rng(7).exponential(size=(30, 1))
    found = universal_threshold(y, condition=np.eye(30)[:, :1])
    rest = y - y[1:].mean()
    rest[0] = 0.0
    assert found.critical_beta == pytest.approx(universal_threshold(rest).critical_beta, rel=EXACT)
