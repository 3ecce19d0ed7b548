"""Advice against root finding on the solver, and against the solver at what was advised."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import block_diag
from scipy.optimize import brentq

from linvae import ARVAESpec, CVAESpec, HVAESpec, Moments, VAESpec, solve
from linvae.theory.advice import (
    keep_units,
    level_order,
    mode_correlations,
    reach_error,
    reach_rate,
    search_beta,
)
from linvae.theory.modes import mode_decomposition
from linvae.theory.vae import learned_critical_betas
from tests.theory.problems import random_covariance

S, BETA = 0.3, 0.7
SPECTRUM = np.array([3.0, 1.2, 0.9, 0.4, 0.05])
PLAIN = Moments.from_covariance(np.diag(SPECTRUM))


def conditional() -> Moments:
    return Moments.from_covariance(random_covariance(np.random.default_rng(5), 7), condition_dim=3)


CASES = {
    "vae": (VAESpec(5, beta=BETA, decoder_variance=S), PLAIN),
    "narrow": (VAESpec(3, beta=BETA, decoder_variance=S), PLAIN),
    "wide": (VAESpec(9, beta=BETA, decoder_variance=S), PLAIN),
    "cvae": (CVAESpec(3, beta=BETA, decoder_variance=S), conditional()),
    "sees-condition-only": (VAESpec(2, beta=BETA, decoder_variance=S), conditional()),
}
both = pytest.mark.parametrize(("spec", "moments"), CASES.values(), ids=CASES.keys())


def error_of(spec, solution, moments) -> float:
    """Mean squared error out of the distortion in nats."""
    s = spec.decoder_variance
    return 2 * s * (solution.distortion - moments.target_dim / 2 * np.log(2 * np.pi * s))


def at(spec, advice, knob):
    """The spec with the advised value of one knob, the other as it was."""
    return replace(spec, **{knob: getattr(advice, knob)})


@both
def test_interval_of_units_is_where_the_solver_has_them(spec, moments):
    rank = np.count_nonzero(solve(spec, moments).mode_variances)
    for units in range(min(spec.latent_dim, rank) + 1):
        advice = keep_units(spec, moments, units)
        assert advice.active_units == units
        for knob, (low, high) in (
            ("beta", advice.beta_range),
            ("decoder_variance", advice.decoder_variance_range),
        ):
            # a part in 1e9 is far above rounding, far below the gaps of these spectra
            inside = [
                max(low, 1e-6) * (1 + 1e-9),
                getattr(advice, knob),
                min(high, 1e6) / (1 + 1e-9),
            ]
            for value in inside:
                assert solve(replace(spec, **{knob: value}), moments).active_units[0] == units
            if low > 0:
                below = replace(spec, **{knob: low * (1 - 1e-9)})
                assert solve(below, moments).active_units[0] == units + 1
            if high < np.inf:
                above = replace(spec, **{knob: high * (1 + 1e-9)})
                assert solve(above, moments).active_units[0] == units - 1


def test_suggestion_is_the_geometric_mean_and_lies_inside_open_ends():
    spec = CASES["vae"][0]
    assert keep_units(spec, PLAIN, 2).beta == pytest.approx(np.sqrt(1.2 * 0.9) / S)
    assert keep_units(spec, PLAIN, 0).beta == pytest.approx(2 * 3.0 / S)
    assert keep_units(spec, PLAIN, 5).beta == pytest.approx(0.05 / 2 / S)
    assert keep_units(spec, PLAIN, 0).beta_range == (pytest.approx(3.0 / S), np.inf)


@both
@pytest.mark.parametrize("knob", ["beta", "decoder_variance"])
@pytest.mark.parametrize("rate", [0.01, 0.4, 2.0, 11.0])
def test_rate_is_the_root_of_the_solver(spec, moments, knob, rate):
    def excess(log_value: float) -> float:
        changed = replace(spec, **{knob: float(np.exp(log_value))})
        return solve(changed, moments).rates[0] - rate

    advice = reach_rate(spec, moments, rate)
    root = np.exp(brentq(excess, -20, 5, xtol=1e-13, rtol=1e-14))
    # brentq ends within 1e-13 of the logarithm, plus the rounding of a rate of some nats
    assert getattr(advice, knob) == pytest.approx(root, rel=1e-11)
    assert advice.rate_nats == pytest.approx(rate, rel=1e-11)
    assert solve(at(spec, advice, knob), moments).active_units[0] == advice.active_units


@both
@pytest.mark.parametrize("knob", ["beta", "decoder_variance"])
@pytest.mark.parametrize("share", [1e-3, 0.2, 0.7, 0.999])
def test_error_is_the_root_of_the_solver(spec, moments, knob, share):
    def error(log_value: float) -> float:
        changed = replace(spec, **{knob: float(np.exp(log_value))})
        return error_of(changed, solve(changed, moments), moments)

    least, most = error(-25.0), error(10.0)
    asked = least + share * (most - least)
    root = np.exp(brentq(lambda x: error(x) - asked, -25, 10, xtol=1e-13, rtol=1e-14))
    advice = reach_error(spec, moments, asked)
    # the error is made of parts of size `most`: 1e-15 of them over the share that w makes up
    assert getattr(advice, knob) == pytest.approx(root, rel=1e-11 / share)
    assert advice.squared_error == pytest.approx(asked, rel=1e-12)
    assert advice.rate_nats == pytest.approx(
        solve(at(spec, advice, knob), moments).rates[0], rel=1e-9
    )


def test_the_ends_of_what_can_be_reached():
    spec = CASES["narrow"][0]
    assert reach_rate(spec, PLAIN, 0.0).beta == pytest.approx(3.0 / S)
    assert reach_error(spec, PLAIN, float(SPECTRUM.sum())).beta == pytest.approx(3.0 / S)
    rows = reach_rate(spec, PLAIN, 1.0).to_rows()
    assert rows[0]["beta_low"] == rows[0]["beta"] == rows[0]["beta_high"]


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_critical_correlation_of_a_mode_is_the_root_of_the_solver(mode):
    moments = conditional()
    spec = CVAESpec(4, beta=BETA, decoder_variance=S)
    found = mode_correlations(spec, moments)
    _, basis = np.linalg.eigh(moments.residual_covariance)
    q = basis[:, ::-1][:, mode]
    onto = np.zeros((4, 7))  # (x, y) -> (x, q y)
    onto[:3, :3], onto[3, 3:] = np.eye(3), q
    joint = onto @ moments.covariance @ onto.T

    def threshold(scale: float) -> float:
        c = joint.copy()
        c[:3, 3] *= scale
        c[3, :3] *= scale
        one = Moments.from_covariance(c, condition_dim=3)
        return solve(CVAESpec(1, beta=BETA, decoder_variance=S), one).critical_beta[0]

    explained = joint[3, :3] @ np.linalg.solve(joint[:3, :3], joint[:3, 3])
    assert found.correlations[mode] == pytest.approx(np.sqrt(explained / joint[3, 3]), rel=1e-9)
    most = 0.999 / found.correlations[mode]
    scale = brentq(lambda t: threshold(t) - BETA, 0, most, xtol=1e-13)
    assert scale * found.correlations[mode] == pytest.approx(
        found.critical_correlations[mode], rel=1e-9
    )


@pytest.mark.parametrize("unit", [1e-8, 1e8])
def test_units_of_the_data_change_no_correlation(unit):
    moments, spec = conditional(), CVAESpec(4, beta=BETA, decoder_variance=S)
    scaled = Moments.from_covariance(unit * moments.covariance, condition_dim=3)
    found = mode_correlations(replace(spec, decoder_variance=S * unit), scaled)
    expected = mode_correlations(spec, moments)
    np.testing.assert_allclose(found.correlations, expected.correlations, rtol=1e-9)
    np.testing.assert_allclose(
        found.critical_correlations, expected.critical_correlations, rtol=1e-9
    )


def test_direction_without_variance_has_no_correlation():
    c = np.diag([1.0, 2.0, 0.0])
    found = mode_correlations(CVAESpec(2), Moments.from_covariance(c, condition_dim=1))
    assert np.isnan(found.correlations[1]) and np.isnan(found.critical_correlations[1])
    assert found.to_rows()[0] == {
        "mode": 1,
        "target_variance": 2.0,
        "correlation": 0.0,
        "critical_correlation": np.sqrt(0.5),
    }


def test_direction_without_variance_but_for_rounding_has_no_correlation():
    """Four turned coordinates of rank 2: the variance of the others is 1e-17, of either sign."""
    for seed in range(10):
        maps = np.random.default_rng(seed).normal(size=(4, 2))
        c = block_diag([[1.0]], maps @ maps.T)
        found = mode_correlations(CVAESpec(2), Moments.from_covariance(c, condition_dim=1))
        assert np.isnan(found.target_variances).tolist() == [False, False, True, True]
        np.testing.assert_allclose(found.correlations[:2], 0.0, atol=1e-6)  # sqrt of 1e-12


def hierarchy(number: int) -> HVAESpec:
    """Two to four levels, fixed and learned variances, betas that do not fall upwards."""
    rng = np.random.default_rng(number)
    levels = int(rng.integers(2, 5))
    return HVAESpec(
        rng.integers(1, 5, size=levels).tolist(),
        betas=np.sort(np.exp(rng.uniform(-1, 1, size=levels))).tolist(),
        decoder_variance=0.2,
        prior_variances=np.exp(rng.uniform(-1, 1, size=levels)).tolist(),
        encoder_variances=[
            None if rng.random() < 0.4 else rng.uniform(0.1, 2) for _ in range(levels)
        ],
    )


@pytest.mark.parametrize("number", range(60))
def test_levels_die_where_and_in_the_order_that_is_said(number):
    spec = hierarchy(number)
    found = level_order(spec, PLAIN)
    alive = {}
    for level, beta in enumerate(found.critical_betas):
        for factor in (0.99, 1.01):
            scale = factor * (beta if 0 < beta < np.inf else 1.0) / spec.betas[0]
            units = solve(spec.scale_betas(scale), PLAIN).active_units
            alive[level, factor] = bool(units[level])
    for level, reason in enumerate(found.reasons):
        expected = {"noise": (True, True), "never": (False, False)}.get(reason, (True, False))
        assert (alive[level, 0.99], alive[level, 1.01]) == expected
    ordered = [found.critical_betas[level - 1] for level in found.order]
    assert ordered == sorted(ordered)


@pytest.mark.parametrize("number", range(60))
def test_no_level_that_data_keep_alive_outlives_one_below(number):
    betas = level_order(hierarchy(number), PLAIN).critical_betas
    fed = betas[(betas > 0) & (betas < np.inf)]
    assert all(above <= below * (1 + 1e-12) for below, above in itertools.pairwise(fed))


def test_reasons_of_known_hierarchies():
    both_fixed = HVAESpec((1, 1), betas=(1.0, 2.0), encoder_variances=(1.0, 1.0))
    assert level_order(both_fixed, PLAIN).reasons == ("data", "price")
    learned = HVAESpec((1, 1), betas=(1.0, 1.0), encoder_variances=(0.25, None))
    assert level_order(learned, PLAIN).order == (2, 1)
    noisy = HVAESpec((1, 1), encoder_variances=(4.0, 0.5))
    assert level_order(noisy, PLAIN).reasons == ("data", "noise")
    twins = level_order(HVAESpec((1, 1), encoder_variances=(1.0, 1.0)), PLAIN)
    assert twins.reasons == ("data", "starved")
    assert twins.order == (2, 1)
    assert twins.critical_betas == pytest.approx([3.0, 3.0])
    blocked = level_order(HVAESpec((1, 1), encoder_variances=(None, 2.0)), PLAIN)
    assert [row["reason"] for row in blocked.to_rows()] == ["data", "never"]
    assert [row["level"] for row in blocked.to_rows()] == [1, 2]
    assert [row["dies"] for row in blocked.to_rows()] == [2, 1]


REFUSED = {
    "many-units": (keep_units, CASES["narrow"][0], 4, "units=4 must be between 0 and 3 in keep"),
    "negative": (keep_units, CASES["vae"][0], -1, "units=-1 must be between 0 and 5"),
    "low-error": (reach_error, CASES["narrow"][0], 0.45, "must be above 0.45, what 3 latent units"),
    "high-error": (reach_error, CASES["vae"][0], 5.6, "at most 5.55, that of the collapsed model"),
    "no-error": (reach_error, CASES["vae"][0], np.nan, "squared_error=nan must be above 0"),
    "rate": (reach_rate, CASES["vae"][0], -1.0, "rate_nats=-1.0 must be finite and >= 0"),
    "much": (reach_rate, CASES["vae"][0], 1e6, "rate_nats=1000000.0 needs a water level below the"),
    "fixed": (
        reach_rate,
        VAESpec(2, encoder_variance=1.0),
        1.0,
        "is not one that beta . decoder_variance",
    ),
    "learned": (keep_units, VAESpec(2, decoder_variance="learned"), 1, "which keep_units needs"),
    "decay": (reach_error, VAESpec(2, weight_decay=0.1), 1.0, "and no penalty; search over solve"),
    "hierarchy": (reach_rate, HVAESpec((2, 2)), 1.0, "HVAESpec.* is not one that beta"),
    "binary": (reach_rate, VAESpec(2, likelihood="bernoulli"), 1.0, "which reach_rate needs: a"),
    "target": (reach_rate, CVAESpec(2, encoder_sees="target"), 1.0, "or CVAESpec that sees both"),
    "autoregressive": (reach_rate, ARVAESpec(2), 1.0, "is not one that beta"),
}


@pytest.mark.parametrize(("advise", "spec", "asked", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_advised_is_refused(advise, spec, asked, words):
    with pytest.raises(ValueError, match=words):
        advise(spec, PLAIN, asked)


def test_equal_modes_collapse_together():
    twins = Moments.from_covariance(np.diag([2.0, 1.0, 1.0, 0.5]))
    words = "units=2: no beta keeps exactly so many, since modes 2 and 3 have one variance, 1,"
    with pytest.raises(ValueError, match=words):
        keep_units(VAESpec(4), twins, 2)
    assert keep_units(VAESpec(2), twins, 2).high == pytest.approx(1.0)  # mode 3 has no unit


def test_other_models_are_refused():
    with pytest.raises(ValueError, match="must be a CVAESpec in mode_correlations"):
        mode_correlations(VAESpec(2), PLAIN)
    with pytest.raises(ValueError, match="must be an HVAESpec in level_order"):
        level_order(VAESpec(2), PLAIN)


SEARCHED = {
    "closed": (VAESpec(4, beta=BETA, decoder_variance=S), PLAIN),
    "learned": (VAESpec(3, beta=BETA, decoder_variance="learned"), PLAIN),
    "learned-cvae": (CVAESpec(2, decoder_variance="learned"), conditional()),
    "fixed": (VAESpec(4, decoder_variance=S, encoder_variance=0.3), PLAIN),
    "diagonal": (VAESpec(2, decoder_variance=S, encoder_variance=(0.2, 0.6)), PLAIN),
    "hvae": (
        HVAESpec.markovian((3, 3), decoder_variance=S, encoder_variances=(S / 2, None)), PLAIN
    ),
    "hvae-learned": (HVAESpec((3, 2), betas=(0.5, 0.9), decoder_variance=S), PLAIN),
}  # fmt: skip


@pytest.mark.parametrize(("spec", "moments"), SEARCHED.values(), ids=SEARCHED)
def test_searched_betas_have_what_was_asked(spec, moments):
    """`solve` there; 1e-6 is what the search grants itself."""
    now = solve(spec.scale_betas(0.8), moments)
    rate, error = float(now.rates.sum()), now.squared_error
    for asked in ({"rate_nats": rate}, {"squared_error": error}):
        found = search_beta(spec, moments, **asked)
        assert found.beta == pytest.approx(0.8 * spec.betas[0], rel=1e-5)
        seen = solve(spec.scale_betas(found.beta / spec.betas[0]), moments)
        assert found.rates_nats == pytest.approx(seen.rates.tolist(), rel=1e-9)
        (row,) = found.to_rows()
        assert row["rate_nats"] == pytest.approx(seen.rates.sum(), rel=1e-9)
        assert (row["beta_low"], row["beta_high"]) == (found.beta, found.beta)
    for units in range(min(2, now.active_units[0]) + 1):
        found = search_beta(spec, moments, units=units)
        for edge, kept in ((found.low * 1.001, True), (found.high * 0.999, True),
                           (found.low * 0.999, False), (found.high * 1.001, False)):  # fmt: skip
            if 0 < edge < np.inf:
                there = solve(spec.scale_betas(edge / spec.betas[0]), moments, allow_unbounded=True)
                assert (there.active_units[0] == units) == kept


@both
def test_the_search_agrees_with_the_closed_forms(spec, moments):
    pairs = [
        (keep_units(spec, moments, 1), search_beta(spec, moments, units=1)),
        (reach_rate(spec, moments, 0.7), search_beta(spec, moments, rate_nats=0.7)),
    ]
    error = pairs[1][0].squared_error
    pairs.append(
        (reach_error(spec, moments, error), search_beta(spec, moments, squared_error=error))
    )
    for closed, found in pairs:
        np.testing.assert_allclose(
            (found.beta, found.low, found.high), (closed.beta, *closed.beta_range), rtol=1e-9
        )


@pytest.mark.parametrize("name", ["learned", "learned-cvae"])
def test_learned_thresholds_are_where_units_leave(name):
    spec, moments = SEARCHED[name]
    critical = learned_critical_betas(spec, mode_decomposition(spec, moments))
    assert np.all(np.diff(critical) < 0)
    for i, beta in enumerate(critical):
        counts = [
            solve(replace(spec, beta=beta * f), moments).active_units[0] for f in (0.999, 1.001)
        ]
        assert counts == [i + 1, i]
        assert search_beta(spec, moments, units=i).low == pytest.approx(beta, rel=1e-9)


def test_what_no_beta_has_is_refused():
    spec = VAESpec(4, decoder_variance=S, encoder_variance=0.3)
    equal = Moments.from_covariance(np.diag([2.0, 2.0, 1.0]))
    with pytest.raises(
        ValueError, match=r"units=1: no beta of VAESpec.* nearest; .* jumps over it"
    ):
        search_beta(spec, equal, units=1)
    for error in (99.0, 0.01):  # more than all variance, and less than that without a unit
        with pytest.raises(ValueError, match=rf"squared_error={error}: no beta .* data; the opt"):
            search_beta(spec, PLAIN, squared_error=error)
    for asked in ({"rate_nats": -1}, {"rate_nats": 0}, {"units": -1}, {"units": np.inf}):
        ((name, value),) = asked.items()
        with pytest.raises(ValueError, match=f"{name}={value} must be a finite number > 0"):
            search_beta(spec, PLAIN, **asked)
    with pytest.raises(ValueError, match="needs exactly one of units, rate_nats, squared_error"):
        search_beta(spec, PLAIN, units=1, rate_nats=1.0)


def test_what_an_optimum_jumps_over_is_refused_with_the_nearest_beta():
    """All modes with a unit and s learned: no optimum below beta = 1, all 4 units at it.

    There s is the last mode's variance, 0.05, and five times that is left.
    """
    spec = VAESpec(5, beta=0.8, decoder_variance="learned")
    rate = np.log(SPECTRUM / SPECTRUM[-1]).sum() / 2
    for asked in ({"rate_nats": 1.5 * rate}, {"squared_error": 0.2}):
        with pytest.raises(ValueError, match=r"no beta of .* on these data; beta = 1 is nearest;"):
            search_beta(spec, PLAIN, **asked)
    assert search_beta(spec, PLAIN, units=4).low == pytest.approx(1.0, rel=1e-9)
    assert search_beta(spec, PLAIN, squared_error=0.2501).rates_nats == pytest.approx(
        [rate], rel=1e-2
    )


def test_where_nothing_is_left_no_beta_is_better_than_another():
    """The condition explains all: no unit at any beta, and the way that is said."""
    moments = Moments.from_covariance(np.ones((2, 2)), condition_dim=1)
    spec = CVAESpec(2, beta=0.7)
    for ask in (
        lambda: keep_units(spec, moments, 0),
        lambda: reach_rate(spec, moments, 1.0),
        lambda: reach_error(spec, moments, 1.0),
    ):
        with pytest.raises(ValueError, match="no mode has any variance, so no unit is active"):
            ask()
    found = search_beta(spec, moments, units=0)
    assert (found.beta, found.low, found.high, found.active_units) == (0.7, 0.0, np.inf, (0,))
