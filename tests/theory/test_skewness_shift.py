"""The law of small skewness: the numerical threshold tends to it; moments are those of data."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize

from linvae.theory.gaussian_encoder import _Problem, gaussian_encoder_threshold
from linvae.theory.skewness_shift import SHARES, _quartic, skewness_shift, skewness_shift_of


def rare_event(p: float, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """0 or 1 with probability p, and noise of that share of the variance: nodes and weights."""
    z, w = np.polynomial.hermite_e.hermegauss(12)
    z, w = math.sqrt(noise * p * (1 - p)) * z, w / w.sum()
    y, w = np.concatenate([z, 1 + z]), np.concatenate([(1 - p) * w, p * w])
    t = y - w @ y
    return t / math.sqrt(w @ t**2), w


def on_a_curve(t: np.ndarray, w: np.ndarray, share: float, ratio: float) -> tuple:
    """(t, e): e has variance `ratio`, that share of it along t^2; the rest a fair coin."""
    skew = w @ t**3
    bend = t**2 - 1 - skew * t
    bend /= math.sqrt(w @ bend**2)
    bend, t, w = np.repeat(bend, 2), np.repeat(t, 2), np.repeat(w, 2) / 2
    coin = np.tile([1.0, -1.0], len(t) // 2)
    e = math.sqrt(share) * bend + math.sqrt(1 - share) * coin
    return np.stack([t, math.sqrt(ratio) * e], axis=1), w, float(w @ (t**2 * e))


# --- against the numerical threshold -------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "noise"), [(0.45, 0.1), (0.4, 1.0), (0.3, 3.0)], ids=["kurt-1.4", "kurt-2.5", "kurt-2.9"]
)
def test_the_threshold_tends_to_the_law(p, noise):
    """The relative error is of order skewness^2; its factor is 0.26 to 0.4 on these laws."""
    t, w = rare_event(p, noise)
    skew = float(w @ t**3)
    law = skewness_shift(skew, float(w @ t**4))
    found = gaussian_encoder_threshold(t, weights=w)
    assert 0 < law.shift - found.shift < 0.5 * skew**2 * law.shift
    assert law.information == pytest.approx(found.information, rel=2 * skew**2)


@pytest.mark.parametrize(("share", "ratio"), [(0.2, 0.3), (0.3, 0.5)])
def test_other_components_that_bend_along(share, ratio):
    """Without them the law is off by 7 and 26 %, with them by 0.7 and 1 %."""
    t, w = rare_event(0.45, 0.3)
    y, w, coupling = on_a_curve(t, w, share, ratio)
    moments = float(w @ y[:, 0] ** 3), float(w @ y[:, 0] ** 4)
    found = gaussian_encoder_threshold(y, weights=w).shift
    assert skewness_shift(*moments).shift < 0.95 * found
    assert skewness_shift(*moments, [ratio], [coupling]).shift == pytest.approx(found, rel=0.012)


def best_gain_along(y: np.ndarray, w: np.ndarray, a: float, g: float) -> float:
    """Of all encoders with E[mu t] = a, E[log v t] = g at the linear threshold; lambda_1/s."""
    problem = _Problem.of(y, w)
    t, zero = problem.y @ problem.axes[:, 0] / math.sqrt(problem.linear), np.zeros(len(y))
    root, value = np.tile(problem.root, 2), problem.gain_at(problem.linear)
    along = np.stack([np.append(w * t, zero), np.append(zero, w * t)]) / root

    def fall(x):
        height, slope = value(x)
        off = along @ x - [a, g]
        return 10 * off @ off - height, 20 * off @ along - slope

    start, options = np.append(a * t, g * t) * root, {"maxiter": 1000, "ftol": 1e-16, "gtol": 1e-11}
    return value(minimize(fall, start, jac=True, method="L-BFGS-B", options=options).x)[0] / 2


@pytest.mark.parametrize("u", [0.0, 0.3, 0.7, 1.0])
def test_the_quartic_is_what_the_best_encoder_along_the_two_directions_loses(u):
    """A law without skewness: -Q is all there is in fourth order, the next is sixth."""
    t, w = rare_event(0.5, 0.3)
    y, w, coupling = on_a_curve(t, w, 0.3, 0.5)
    moments = float(w @ y[:, 0] ** 4), np.array([0.5]), np.array([coupling])
    expected = float(np.interp(u, SHARES, _quartic(*moments)))
    small = (0.05, 0.1)
    lost = [-best_gain_along(y, w, e * (1 - u) ** 0.5, e * (2 * u) ** 0.5) / e**4 for e in small]
    # the sixth order is taken out; the eighth is 0.05^2 times it, a few parts in 10^4
    assert (4 * lost[0] - lost[1]) / 3 == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("kurtosis", "gap"), [(4.6, False), (5.4, True)])
def test_kurtosis_alone_opens_a_gap_above_five(kurtosis, gap):
    """0, or +-1, as rarely as the kurtosis says."""
    y, w = np.array([0.0, 1.0, -1.0]), np.array([1 - 1 / kurtosis, *[0.5 / kurtosis] * 2])
    found = gaussian_encoder_threshold(y, weights=w)
    assert (found.shift > 1e-3) == gap
    law = skewness_shift(0.0, kurtosis)
    assert math.isnan(law.shift) == gap


# --- closed form ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kurtosis", [3.0, 3.5, 4.8])
def test_closed_form_of_one_component(kurtosis):
    law = skewness_shift(0.6, kurtosis)
    assert law.shift == pytest.approx(2 / 9 * 0.36 / (5 - kurtosis), rel=1e-12)
    assert law.information == pytest.approx(0.36 / (9 * (5 - kurtosis) ** 2), rel=1e-12)


def test_the_closed_form_is_close_below_kurtosis_three():
    ratios = [skewness_shift(0.1, k).shift / (2 / 900 / (5 - k)) for k in (1.1, 1.5, 2.0, 2.5)]
    assert 1 <= min(ratios) <= max(ratios) < 1.01


def test_samples_give_their_moments():
    rng = np.random.default_rng(0)
    y = rng.gamma(20.0, size=(500, 3)) * [2.0, 1.0, 0.5]
    y = y @ np.linalg.qr(rng.normal(size=(3, 3)))[0] + 7
    law = skewness_shift_of(y)
    left, values, _ = np.linalg.svd(y - y.mean(axis=0), full_matrices=False)
    scores = left * math.sqrt(500)
    sign = np.sign(np.mean(scores[:, 0] ** 3)) * np.sign(law.skewness)
    assert law.skewness == pytest.approx(sign * np.mean(scores[:, 0] ** 3), rel=1e-9)
    assert law.kurtosis == pytest.approx(np.mean(scores[:, 0] ** 4), rel=1e-9)
    assert law.variance_ratios == pytest.approx((values[1:] / values[0]) ** 2, rel=1e-9)
    couplings = scores[:, 1:].T @ scores[:, 0] ** 2 / 500
    assert np.abs(law.couplings) == pytest.approx(np.abs(couplings), rel=1e-6)


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((1.0, 1.5), r"kurtosis=1\.5 with skewness=1\.0: no law has one below"),
        ((0.0, -0.2), "not the excess"),
        ((0.0, 3.0, [0.5], [0.1, 0.2]), r"shape \(1,\) but couplings \(2,\)"),
        ((0.0, 3.0, [1.0], [0.1]), "two equal leading eigenvalues"),
        ((0.0, 3.0, [0.0], [0.1]), "must be above 0 and below 1"),
    ],
)
def test_impossible_moments(arguments, words):
    with pytest.raises(ValueError, match=words):
        skewness_shift(*arguments)


@pytest.mark.parametrize(
    ("target", "words"),
    [(np.zeros(3), "zero variance"), ([np.nan, 1.0], "finite"), (np.ones((2, 2, 2)), "shape")],
)
def test_impossible_samples(target, words):
    with pytest.raises(ValueError, match=words):
        skewness_shift_of(target)


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_units_of_the_samples_change_nothing(unit):
    y = np.random.default_rng(1).gamma(5.0, size=(200, 2)) * [2.0, 1.0]
    law, same = skewness_shift_of(y), skewness_shift_of(unit * y)
    assert same.shift == pytest.approx(law.shift, rel=1e-9)
    assert same.variance_ratios == pytest.approx(law.variance_ratios, rel=1e-9)


def test_one_coordinate_may_come_as_numbers():
    y = np.random.default_rng(2).gamma(20.0, size=300)
    t = (y - y.mean()) / y.std()
    expected = skewness_shift(float(np.mean(t**3)), float(np.mean(t**4)))
    found = skewness_shift_of(y)
    assert found.shift == pytest.approx(expected.shift, rel=1e-9)
    assert len(found.variance_ratios) == 0


def test_at_kurtosis_five_there_is_no_law():
    """Q is 0 at u = 1."""
    law = skewness_shift(0.3, 5.0)
    assert math.isnan(law.shift)
    assert math.isnan(law.information)
