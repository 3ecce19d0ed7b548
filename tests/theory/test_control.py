"""Beta as a function of the information of a level, and what a line through it finds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from linvae.metrics import SET_POINTS, fit_threshold
from linvae.moments import Moments
from linvae.spec import CVAESpec, HVAESpec, VAESpec
from linvae.theory import solve
from linvae.theory.control import factor_at_information

PLAIN = Moments.from_covariance(np.diag([3.0, 1.0, 0.5]))
CONDITIONAL = Moments.from_covariance([[2.0, 0.8], [0.8, 1.5]], condition_dim=1)
SPECS = {
    "vae": (VAESpec(1, beta=0.7, decoder_variance=0.4), PLAIN, 1),
    "vae-fixed": (VAESpec(2, encoder_variance=0.3), PLAIN, 1),
    "cvae": (CVAESpec(1, decoder_variance=0.3), CONDITIONAL, 1),
    "hvae-1": (HVAESpec.markovian((1, 1), encoder_variances=(0.5, None)), PLAIN, 1),
    "hvae-2": (HVAESpec.markovian((1, 1), encoder_variances=(0.5, None)), PLAIN, 2),
    "hvae-bends": (HVAESpec.markovian((1, 1), encoder_variances=(0.8, None)), PLAIN, 1),
}


@pytest.mark.parametrize("nats", [1e-3, 0.2, 1.0, 1.5])
@pytest.mark.parametrize("name", SPECS)
def test_the_level_holds_that_information(name, nats):
    spec, moments, level = SPECS[name]
    factor = factor_at_information(spec, moments, level, nats)
    found = solve(spec.scale_betas(factor), moments).information[level - 1].sum()
    assert found == pytest.approx(nats, abs=1e-9)  # the root is good to 1e-13 in log beta


@pytest.mark.parametrize("name", SPECS)
def test_it_starts_at_the_threshold(name):
    spec, moments, level = SPECS[name]
    critical = solve(spec, moments).level_critical_betas[level - 1, 0] / spec.betas[0]
    assert factor_at_information(spec, moments, level, 0.0) == critical
    assert factor_at_information(spec, moments, level, 1e-9) == pytest.approx(critical, rel=1e-7)


@pytest.mark.parametrize(("name", "slope"), [("vae", -2.0), ("cvae", -2.0), ("vae-fixed", -4.0)])
def test_one_level_is_one_line(name, slope):
    spec, moments, level = SPECS[name]
    spec = spec.with_one_unit()
    start = math.log(factor_at_information(spec, moments, level, 0.0))
    for nats in SET_POINTS:
        found = math.log(factor_at_information(spec, moments, level, nats))
        assert found == pytest.approx(start + slope * nats, abs=1e-11)


@pytest.mark.parametrize(
    ("variance", "ratio"), [(0.5, 1.0), (0.6, 0.971), (0.7, 0.907), (0.8, 0.878)]
)
def test_a_line_misses_where_the_law_bends(variance, ratio):
    """The level above collapses at an information between the set-points; ratios to 3 digits."""
    spec = HVAESpec.markovian((1, 1), encoder_variances=(variance, None))
    factors = [factor_at_information(spec, PLAIN, 1, nats) for nats in SET_POINTS]
    line, _ = fit_threshold(np.array(SET_POINTS), np.array(factors), np.ones(6, dtype=bool))
    assert line / solve(spec, PLAIN).critical_beta[0] == pytest.approx(ratio, abs=5e-4)


def test_as_much_as_the_deepest_beta_holds():
    """One unit of slope -2: 20 nats at exp(-40) of the threshold, where the search ends."""
    spec = VAESpec(1, decoder_variance=40.0)
    found = factor_at_information(spec, PLAIN, 1, 19.9)
    assert found == pytest.approx(solve(spec, PLAIN).critical_beta[0] * math.exp(-39.8), rel=1e-9)
    with pytest.raises(ValueError, match=r"nats=20.1 is more than level 1 holds at any beta"):
        factor_at_information(spec, PLAIN, 1, 20.1)


def test_no_threshold_no_factor():
    always = HVAESpec((1, 1), encoder_variances=(2.0, None))  # on encoder noise alone
    assert solve(always, PLAIN).level_critical_betas[1, 0] == math.inf
    assert math.isnan(factor_at_information(always, PLAIN, 2, 0.1))
    assert math.isnan(factor_at_information(VAESpec(1), PLAIN, 1, -0.1))
