"""Inputs at the edge of what has an answer: an exact one, or an error that says why there is none.

Random degenerate problems go through brute force in `test_optimum`; here are exact values, extreme
scales, and the models that came later.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from linvae import CVAESpec, HVAESpec, Moments, VAESpec, objective, solve
from linvae.spec import ARVAESpec
from linvae.theory import UnboundedObjectiveError
from linvae.theory.marginal import log_likelihood
from linvae.theory.rate_distortion import rate_distortion_curve, water_level
from linvae.theory.stability import stability
from linvae.theory.universal import universal_threshold

from .problems import random_covariance

EXACT = 1e-12  # a dozen operations on doubles


def diagonal(*variances: float, condition_dim: int = 0) -> Moments:
    return Moments.from_covariance(np.diag(variances), condition_dim=condition_dim)


MODELS = {
    "learned": VAESpec(2, beta=1.5, decoder_variance=0.25),
    "fixed": VAESpec(2, beta=1.5, decoder_variance=0.25, encoder_variance=0.5),
    "decay": VAESpec(2, beta=1.5, decoder_variance=0.25, weight_decay=0.1),
    "loss": VAESpec(2, beta=1.5, decoder_variance=0.25, latent_reconstruction=0.1),
    "autoregressive": ARVAESpec(2, beta=1.5, decoder_variance=0.25),
    "hierarchy": HVAESpec([2, 2], betas=1.5, decoder_variance=0.25, encoder_variances=[0.5, None]),
}
every_model = pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS.keys())


# --- repeated, absent and superfluous modes -------------------------------------------------------


@every_model
def test_repeated_eigenvalues_are_one_mode_many_times(spec):
    """Twice the objective of one dimension, and every basis of the plane serves."""
    plane, line = diagonal(2.0, 2.0), diagonal(2.0)
    one = spec.with_one_unit()
    found = solve(spec, plane)
    assert found.objective == pytest.approx(2 * solve(one, line).objective, rel=EXACT)
    assert np.ptp(found.noise_fractions, axis=1).max() == 0
    T = np.array([[0.6, -0.8], [0.8, 0.6]])
    turned = {
        name: T @ W if name in ("U", "U1") else W @ T.T if name in ("W", "W1") else W
        for name, W in found.weights.items()
    }
    assert objective(spec, plane, turned).objective == pytest.approx(found.objective, rel=EXACT)


def test_repeated_eigenvalues_of_the_local_threshold():
    found = stability(VAESpec(3), diagonal(2.0, 2.0, 2.0))
    assert found.critical_beta == pytest.approx([2, 2, 2], rel=EXACT)
    assert found.directions @ found.directions.T == pytest.approx(np.eye(3), abs=EXACT)


@pytest.mark.parametrize("name", ["learned", "decay", "autoregressive", "hierarchy"])
def test_direction_without_variance_adds_its_constant(name):
    """d/2 log(2 pi s) per dimension, and a unit that stays where it is at no data."""
    spec = MODELS[name]
    found, line = solve(spec, diagonal(2.0, 0.0)), solve(spec.with_one_unit(), diagonal(2.0))
    nothing = solve(spec.with_one_unit(), diagonal(1e-300))
    assert found.objective == pytest.approx(line.objective + nothing.objective, rel=EXACT)
    assert found.collapsed[0, 1]
    assert found.critical_beta[1] == 0


@pytest.mark.parametrize("units", [3, 50])
@pytest.mark.parametrize("name", ["learned", "decay", "autoregressive", "hierarchy"])
def test_units_far_beyond_the_modes_cost_nothing(name, units):
    spec, moments = MODELS[name], diagonal(2.0, 1.0)
    if isinstance(spec, HVAESpec):
        wide = replace(HVAESpec([2, 2], betas=1.5, decoder_variance=0.25))
        wide, spec = HVAESpec([units, units], betas=1.5, decoder_variance=0.25), wide
    else:
        wide = replace(spec, latent_dim=units)
    found, expected = solve(wide, moments), solve(spec, moments)
    assert found.objective == pytest.approx(expected.objective, rel=EXACT)
    assert found.active_units.tolist() == expected.active_units.tolist()
    assert objective(wide, moments, found.weights).objective == pytest.approx(
        found.objective, rel=1e-10
    )
    assert np.all(found.mode_rates[:, 2:] == 0)


def test_loss_on_superfluous_units_is_what_they_fail_to_reconstruct():
    spec, moments = MODELS["loss"], diagonal(2.0, 1.0)
    found = solve(replace(spec, latent_dim=7), moments)
    assert found.objective == pytest.approx(solve(spec, moments).objective + 5 * 0.05, rel=EXACT)


@pytest.mark.parametrize("name", ["learned", "fixed", "decay", "loss", "autoregressive"])
def test_one_dimension(name):
    """The smallest problem of every model: the threshold in closed form."""
    spec, theta2, s = replace(MODELS[name], latent_dim=1), 2.0, 0.25
    A = theta2 / s + spec.latent_reconstruction
    noise = spec.encoder_variance or 1.0
    local = (A**2 / (noise / s + spec.weight_decay) - spec.weight_decay) / theta2
    moments = diagonal(theta2)
    assert stability(spec, moments).critical_beta == pytest.approx([local], rel=EXACT)
    assert solve(spec, moments).critical_beta == pytest.approx([local], rel=EXACT)


def test_fewer_samples_than_dimensions():
    """n samples span n - 1 directions: the other thresholds are exactly 0, none is noise."""
    y = np.random.default_rng(0).normal(size=(4, 9)) + 100
    moments = Moments.from_data(y)
    found = solve(VAESpec(9, beta=1e-9), moments)
    assert found.active_units.tolist() == [3]
    assert np.count_nonzero(found.critical_beta) == 3
    assert len(stability(VAESpec(1), moments).critical_beta) == 3
    # one innovation per sample, in the order of the coordinates
    innovations = solve(ARVAESpec(9), moments).mode_variances
    assert np.count_nonzero(innovations) == 3
    with pytest.raises(UnboundedObjectiveError, match="explains all of the target's variance"):
        solve(VAESpec(3, decoder_variance="learned"), moments)


def test_fewer_samples_than_the_condition_has_dimensions():
    """The regression fits every sample: nothing is left to explain."""
    rng = np.random.default_rng(1)
    moments = Moments.from_data(rng.normal(size=(5, 3)), rng.normal(size=(5, 8)))
    found = solve(CVAESpec(2), moments)
    assert found.collapsed.all()
    assert found.mode_variances.tolist() == [0.0, 0.0, 0.0]
    assert stability(CVAESpec(2), moments).critical_beta.max() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("sees", ["both", "target"])
def test_condition_of_lower_rank_counts_once(sees):
    """Five copies of one coordinate, in different units, are one coordinate."""
    C = random_covariance(np.random.default_rng(2), 4)
    T = np.zeros((8, 4))
    T[:5, 0], T[5:, 1:] = [1, -2, 0.1, 30, 1], np.eye(3)
    once = Moments.from_covariance(C, condition_dim=1)
    copies = Moments.from_covariance(T @ C @ T.T, condition_dim=5)
    spec = CVAESpec(2, encoder_sees=sees)
    expected, found = (stability(spec, m).critical_beta for m in (once, copies))
    # eigenvalues of a matrix of condition number 1e5
    assert found[:3] == pytest.approx(expected[:3], rel=1e-9)
    if sees == "both":
        assert solve(spec, copies).objective == pytest.approx(
            solve(spec, once).objective, rel=1e-10
        )


# --- at the threshold -----------------------------------------------------------------------------


@pytest.mark.parametrize("theta2", [0.1, 0.3, 1 / 3, 2.0, 7e5])
@pytest.mark.parametrize("s", [0.1, 0.7, 3.0])
def test_exactly_at_the_threshold_every_model_is_collapsed(theta2, s):
    """beta = theta^2/s as a double: on the collapsed side however it is rounded."""
    moments, critical = diagonal(theta2), theta2 / s
    for spec in (
        VAESpec(1, beta=critical, decoder_variance=s),
        VAESpec(1, beta=critical / 0.3, decoder_variance=s, encoder_variance=0.3),
        ARVAESpec(1, beta=critical, decoder_variance=s),
        HVAESpec([1, 1], betas=critical, decoder_variance=s),
    ):
        found = solve(spec, moments)
        assert found.collapsed[0].all()
        assert found.noise_fractions[0].tolist() == [1.0]


@pytest.mark.parametrize("name", ["decay", "loss"])
def test_penalised_model_at_its_own_threshold(name):
    spec, moments = replace(MODELS[name], latent_dim=1), diagonal(2.0)
    critical = float(solve(spec, moments).critical_beta[0])
    at, below = (solve(replace(spec, beta=b), moments) for b in (critical, critical * (1 - 1e-6)))
    assert at.information[0, 0] < 1e-8  # the last bits of the threshold: their square root
    assert not below.collapsed[0, 0]


# --- beta -----------------------------------------------------------------------------------------


@every_model
def test_tiny_beta_keeps_every_mode(spec):
    """The rate of a mode is log(theta^2/(beta s))/2 or more, all of it finite."""
    tiny = spec.scale_betas(1e-12 / 1.5)
    found = solve(tiny, diagonal(2.0, 1.0))
    assert found.active_units[0] == 2
    assert np.isfinite(found.objective)
    at = objective(tiny, diagonal(2.0, 1.0), found.weights)
    assert at.objective == pytest.approx(found.objective, rel=1e-9)
    if type(spec) is VAESpec and not spec.penalised and spec.encoder_variance is None:
        expected = (math.log(2 / 0.25e-12) + math.log(1 / 0.25e-12)) / 2
        assert found.rates[0] == pytest.approx(expected, rel=EXACT)


@pytest.mark.parametrize("beta", [0, 0.0, -1.0, math.inf, math.nan])
def test_beta_of_zero_is_refused(beta):
    for build in (VAESpec, CVAESpec, ARVAESpec):
        with pytest.raises(ValueError, match=r"beta=.* must be a finite number > 0"):
            build(1, beta=beta)
    with pytest.raises(ValueError, match=r"betas\[1\]=.* must be a finite number > 0"):
        HVAESpec([1, 1], betas=[1.0, beta])


# --- learned decoder variance ---------------------------------------------------------------------


@pytest.mark.parametrize("beta", [2.0, 3.0, 50.0])
def test_learned_decoder_variance_with_more_price_than_dimensions(beta):
    """d <= beta k: no mode can pay, since (d - beta) theta^2 <= 0 < beta * the rest."""
    found = solve(VAESpec(1, beta=beta, decoder_variance="learned"), diagonal(5.0, 1e-3))
    assert found.collapsed.all()
    assert found.decoder_variance == pytest.approx(5.001 / 2, rel=EXACT)


def test_learned_decoder_variance_needs_an_exact_fit_to_run_away():
    """d > beta k and nothing left: unbounded; d = beta k: flat; something left: neither."""
    with pytest.raises(UnboundedObjectiveError, match="rank 1 of 2 dimensions, beta=1"):
        solve(VAESpec(1, decoder_variance="learned"), diagonal(3.0, 0.0))
    flat = solve(VAESpec(1, beta=2.0, decoder_variance="learned"), diagonal(3.0, 0.0))
    assert flat.status == "continuum"
    tiny = solve(VAESpec(1, decoder_variance="learned"), diagonal(3.0, 1e-12))
    assert tiny.status == "unique"
    assert tiny.decoder_variance == pytest.approx(1e-12, rel=1e-9)


# --- constant pixels ------------------------------------------------------------------------------


@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_constant_pixel_has_no_threshold(constant):
    y = np.column_stack([[0, 1, 1, 0], np.full(4, constant)])
    moments = Moments.from_data(y)
    found = stability(VAESpec(2, likelihood="bernoulli"), moments)
    assert found.critical_beta.tolist() == [1.0]
    assert found.directions[0].tolist() in ([1.0, 0.0], [-1.0, 0.0])
    assert np.all(np.isfinite(found.escape_rates))
    universal = universal_threshold(y, likelihood="bernoulli")
    assert universal.critical_beta == pytest.approx(1.0, rel=1e-8)
    assert universal.tilt[1] == 0


def test_nothing_but_constant_pixels_is_refused():
    y = np.tile([0.0, 1.0], (5, 1))
    with pytest.raises(ValueError, match="target has zero variance everywhere"):
        Moments.from_data(y)
    with pytest.raises(ValueError, match="target has zero variance everywhere"):
        universal_threshold(y, likelihood="bernoulli")


def test_word_that_never_occurs():
    y = np.array([[1.0, 2, 0], [3, 0, 0], [0, 4, 0], [2, 2, 0]])
    for likelihood in ("poisson", "multinomial"):
        spec = VAESpec(1, likelihood=likelihood)
        whole, without = (
            stability(spec, Moments.from_data(v)).critical_beta for v in (y, y[:, :2])
        )
        assert whole == pytest.approx(without, rel=1e-10)


def test_two_samples_are_the_fewest():
    y = np.array([[1.0, 0.0], [3.0, 0.0]])
    assert solve(VAESpec(2), Moments.from_data(y)).mode_variances.tolist() == [1.0, 0.0]
    assert universal_threshold(y).critical_beta == pytest.approx(1.0, rel=1e-8)
    with pytest.raises(ValueError, match="at least 2"):
        Moments.from_data(y[:1])


# --- scales ---------------------------------------------------------------------------------------

SCALES = pytest.mark.parametrize("scale", [1e-150, 1e-80, 1e-20, 1e20, 1e80, 1e150])
BASE = np.array([[2.0, 0.6], [0.6, 1.0]])


@SCALES
@pytest.mark.parametrize("name", ["learned", "fixed", "loss", "autoregressive", "hierarchy"])
def test_variances_of_any_size(name, scale):
    """Data and decoder variance together: the same solution, the distortion moved by d/2 log."""
    spec = MODELS[name]
    larger = (
        HVAESpec([2, 2], betas=1.5, decoder_variance=0.25 * scale, encoder_variances=[0.5, None])
        if isinstance(spec, HVAESpec)
        else replace(spec, decoder_variance=0.25 * scale)
    )
    moments, plain = Moments.from_covariance(scale * BASE), Moments.from_covariance(BASE)
    found, expected = solve(larger, moments), solve(spec, plain)
    assert found.objective - math.log(scale) == pytest.approx(expected.objective, abs=1e-9)
    assert found.noise_fractions == pytest.approx(expected.noise_fractions, rel=1e-9)
    assert found.critical_beta == pytest.approx(expected.critical_beta, rel=1e-9)
    at = objective(larger, moments, found.weights)
    assert at.objective == pytest.approx(found.objective, abs=1e-9)
    assert at.rates == pytest.approx(expected.rates, abs=1e-9)


@SCALES
def test_variances_of_any_size_with_a_condition(scale):
    C = random_covariance(np.random.default_rng(3), 4)
    plain = Moments.from_covariance(C, condition_dim=2)
    moments = Moments.from_covariance(scale * C, condition_dim=2)
    for sees in ("both", "target"):
        spec = CVAESpec(2, encoder_sees=sees)
        found = stability(replace(spec, decoder_variance=scale), moments).critical_beta
        assert found == pytest.approx(stability(spec, plain).critical_beta, rel=1e-9)
    larger = CVAESpec(2, decoder_variance="learned", beta=0.5)
    with_s = solve(replace(larger, latent_dim=1), moments)
    expected = solve(replace(larger, latent_dim=1), plain)
    assert with_s.decoder_variance == pytest.approx(scale * expected.decoder_variance, rel=1e-9)
    assert with_s.objective - math.log(scale) == pytest.approx(expected.objective, abs=1e-9)


@SCALES
def test_thresholds_alone_at_any_scale(scale):
    """A decoder variance of 1 on data of any size: everything alive, or everything collapsed."""
    moments = Moments.from_covariance(scale * BASE)
    found = solve(VAESpec(2), moments)
    assert np.isfinite(found.objective)
    assert found.active_units[0] == (2 if scale > 1 else 0)
    expected = np.linalg.eigvalsh(BASE)[::-1] * scale
    assert found.critical_beta == pytest.approx(expected, rel=1e-9)
    assert stability(VAESpec(2), moments).critical_beta == pytest.approx(expected, rel=1e-9)
    likelihood = log_likelihood(VAESpec(2), moments, found.weights)
    assert likelihood == pytest.approx(-found.objective, rel=1e-9)


@SCALES
def test_weight_decay_at_any_scale(scale):
    """Latents that grow with the data keep every weight as it is."""
    spec = MODELS["decay"]
    larger = replace(spec, decoder_variance=0.25 * scale, prior_variance=scale)
    found = solve(larger, Moments.from_covariance(scale * BASE))
    expected = solve(spec, Moments.from_covariance(BASE))
    assert found.objective - math.log(scale) == pytest.approx(expected.objective, abs=1e-9)
    assert found.critical_beta == pytest.approx(expected.critical_beta, rel=1e-9)


@SCALES
def test_rate_distortion_at_any_scale(scale):
    curve = rate_distortion_curve(scale * np.array([2.0, 1.0]), 0.5 * scale)
    assert curve.rates == pytest.approx([math.log(8) / 2], rel=EXACT)
    level = water_level(scale * np.array([2.0, 1.0]), rate_nats=math.log(8) / 2)
    assert level == pytest.approx(0.5 * scale, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-75, 1e-30, 1e30, 1e75])
def test_samples_of_any_size(scale):
    """Entries of size `scale`: variances from 1e-150 to 1e150."""
    y = np.random.default_rng(4).exponential(size=(30, 2))
    moments, plain = Moments.from_data(scale * y), Moments.from_data(y)
    expected = solve(VAESpec(2), plain).critical_beta
    assert solve(VAESpec(2), moments).critical_beta / scale**2 == pytest.approx(expected, rel=1e-9)
    found = universal_threshold(scale * y, decoder_variance=scale**2)
    assert found.critical_beta == pytest.approx(universal_threshold(y).critical_beta, rel=1e-7)


def test_squares_that_overflow_are_refused():
    with pytest.raises(ValueError, match="so large that their squares overflow: rescale them"):
        Moments.from_data(np.array([[1e200], [-1e200], [3e200]]))
