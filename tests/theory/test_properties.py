"""What must hold for every model on every data set, on problems drawn by hypothesis.

Symmetries, monotonicity, reductions of one model to another, thresholds, global optimality.
Properties that do not hold have their smallest counter-example in `test_not_*`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from linvae import CVAESpec, HVAESpec, Moments, VAESpec, objective, solve
from linvae.spec import ARVAESpec
from linvae.theory.marginal import elbo_gap
from linvae.theory.modes import autoregression, mode_decomposition
from linvae.theory.penalised import is_first_order, solve_penalised
from linvae.theory.rate_distortion import rate_distortion_curve
from linvae.theory.stability import stability
from linvae.theory.universal import universal_threshold
from linvae.theory.vae import solve_one_level

from .strategies import (
    HIERARCHIES,
    LOCAL,
    LOCAL_IN_ORDER,
    PENALISED,
    SOLVED,
    WITHOUT_DECAY,
    Case,
    any_of,
    hierarchies,
    one_level,
    orthogonal,
    perturbed,
    replaced,
    transformed,
    variance,
    well_conditioned,
)

# Spectra lie within a factor of 100 and mixing matrices have condition numbers below 10, so
# regressions and eigenvalues lose at most four digits of sixteen.
SAME = 1e-9
# Next to its threshold the noise fraction of a penalised mode answers to rounding with the inverse
# of the distance to it: square root of 1e-16 at worst.
CLOSE = 1e-6
ROUNDING = 1e-10  # differences of objectives of size 1 to 100

# --- comparisons ----------------------------------------------------------------------------------


def assert_same_optimum(found, expected, shift: float = 0.0, tolerance: float = SAME) -> None:
    """The same numbers mode by mode, objective and distortion apart by `shift`."""
    size = max(1.0, abs(expected.objective))
    assert found.objective - shift == pytest.approx(expected.objective, abs=SAME * size)
    assert found.distortion - shift == pytest.approx(expected.distortion, abs=tolerance * size)
    assert found.rates == pytest.approx(expected.rates, abs=tolerance)
    assert found.noise_fractions == pytest.approx(expected.noise_fractions, abs=tolerance)
    assert np.array_equal(found.active_units, expected.active_units)
    assert_same_thresholds(found.level_critical_betas, expected.level_critical_betas)


def assert_same_thresholds(found: np.ndarray, expected: np.ndarray) -> None:
    """Positive thresholds; one that is not there counts as 0."""
    n = max(found.shape[-1], expected.shape[-1])
    left, right = (
        np.pad(np.maximum(np.nan_to_num(v, posinf=np.inf), 0), [(0, 0), (0, n - v.shape[-1])])
        for v in (np.atleast_2d(found), np.atleast_2d(expected))
    )
    np.testing.assert_allclose(left, right, rtol=1e-8, atol=1e-9)


def tolerance_of(case: Case) -> float:
    return CLOSE if getattr(case.spec, "penalised", False) else SAME


# --- symmetries -----------------------------------------------------------------------------------


@given(case=any_of([kind for kind in SOLVED if kind != "ar"]))
def test_rotation_of_the_target_changes_nothing(case):
    turned = transformed(case.moments, orthogonal(case.rng(), case.moments.target_dim))
    expected = solve(case.spec, case.moments)
    assert_same_optimum(solve(case.spec, turned), expected, tolerance=tolerance_of(case))


@given(case=any_of([kind for kind in SOLVED if kind != "ar"]))
def test_order_of_the_coordinates_changes_nothing(case):
    P = np.eye(case.moments.target_dim)[case.rng().permutation(case.moments.target_dim)]
    expected = solve(case.spec, case.moments)
    found = solve(case.spec, transformed(case.moments, P))
    assert_same_optimum(found, expected, tolerance=tolerance_of(case))


@given(case=any_of([*SOLVED, "ar 1"]), far=st.floats(-1e9, 1e9))
def test_mean_and_signs_of_the_coordinates_change_nothing(case, far):
    """Of every model, the autoregressive one too."""
    C, dx = case.moments.covariance, case.moments.condition_dim
    signs = case.rng().choice([-1.0, 1.0], size=len(C))
    other = Moments.from_covariance(
        C * np.outer(signs, signs), condition_dim=dx, mean=np.full(len(C), far)
    )
    expected = stability_or_none(case.spec, case.moments)
    if expected is not None:
        assert_same_thresholds(stability_or_none(case.spec, other), expected)
    if getattr(case.spec, "order", None) != 1:
        found = solve(case.spec, other)
        assert_same_optimum(found, solve(case.spec, case.moments), tolerance=tolerance_of(case))


def stability_or_none(spec, moments: Moments) -> np.ndarray | None:
    """Its thresholds, where the decoder variance is given."""
    learned = spec.decoder_variance == "learned"
    return None if learned else stability(spec, moments).critical_beta


@given(case=any_of(LOCAL))
def test_rotation_of_the_target_leaves_the_local_threshold(case):
    turned = transformed(case.moments, orthogonal(case.rng(), case.moments.target_dim))
    expected = stability(case.spec, case.moments).critical_beta
    assert_same_thresholds(stability(case.spec, turned).critical_beta, expected)


@given(case=any_of([kind for kind in SOLVED if kind.startswith(("general", "both", "chvae"))]))
def test_linear_map_of_the_condition_changes_nothing(case):
    A = well_conditioned(case.rng(), case.moments.condition_dim)
    found = solve(case.spec, transformed(case.moments, on_condition=A))
    assert_same_optimum(found, solve(case.spec, case.moments))


@given(case=any_of(["target", "target fixed", "target kappa", "both", "both gamma", "general"]))
def test_linear_map_of_the_condition_leaves_the_local_threshold(case):
    """With weight decay only where the encoder does not see the condition: W1 is priced."""
    A = well_conditioned(case.rng(), case.moments.condition_dim)
    found = stability(case.spec, transformed(case.moments, on_condition=A)).critical_beta
    assert_same_thresholds(found, stability(case.spec, case.moments).critical_beta)


@given(case=any_of(WITHOUT_DECAY), factor=st.floats(0.05, 20))
def test_scale_of_data_and_decoder_variance(case, factor):
    """y -> a y, s -> a^2 s adds d log a to the distortion; thresholds and rates stay."""
    d = case.moments.target_dim
    spec = case.spec
    if spec.decoder_variance != "learned":
        spec = replaced(spec, decoder_variance=factor**2 * spec.decoder_variance)
    found = solve(spec, transformed(case.moments, factor * np.eye(d)))
    expected = solve(case.spec, case.moments)
    assert_same_optimum(found, expected, d * math.log(factor), tolerance_of(case))


@given(
    case=any_of(["vae kappa", "vae gamma kappa", "vae kappa diagonal"]), factor=st.floats(0.05, 20)
)
def test_scale_with_weight_decay(case, factor):
    """W and U stay as they are if the latents grow with the data.

    y -> a y, s -> a^2 s, eta^2 -> a^2 eta^2, fixed Sigma -> a^2 Sigma, gamma -> gamma/a^2, and
    kappa stays: the objective grows by d log a.
    """
    d, square = case.moments.target_dim, factor**2
    fixed = case.spec.encoder_variance
    spec = replace(
        case.spec,
        decoder_variance=square * case.spec.decoder_variance,
        prior_variance=square * case.spec.prior_variance,
        encoder_variance=fixed and np.multiply(square, fixed).tolist(),
        latent_reconstruction=case.spec.latent_reconstruction / square,
    )
    found = solve(spec, transformed(case.moments, factor * np.eye(d)))
    expected = solve(case.spec, case.moments)
    assert_same_optimum(found, expected, d * math.log(factor), CLOSE)


@given(case=any_of(WITHOUT_DECAY), factors=st.lists(st.floats(0.05, 20), min_size=4, max_size=4))
def test_unit_of_the_latents_changes_nothing(case, factors):
    """z_l -> c_l z_l: eta_l^2 and fixed Sigma_l by c_l^2, gamma by 1/c^2."""
    squares = np.square(factors)[: len(case.spec.latent_dims)]
    if isinstance(case.spec, HVAESpec):
        spec = replaced(
            case.spec,
            prior_variances=(squares * case.spec.prior_variances).tolist(),
            encoder_variances=[
                v and float(c * v)
                for c, v in zip(squares, case.spec.encoder_variances, strict=True)
            ],
        )
    else:
        c, fixed = float(squares[0]), case.spec.encoder_variance
        scaled = fixed and (tuple(c * v for v in fixed) if isinstance(fixed, tuple) else c * fixed)
        spec = replace(
            case.spec,
            prior_variance=c * case.spec.prior_variance,
            encoder_variance=scaled,
            latent_reconstruction=case.spec.latent_reconstruction / c,
        )
    expected = solve(case.spec, case.moments)
    found = solve(spec, case.moments)
    assert_same_optimum(found, expected, tolerance=tolerance_of(case))


@given(
    case=any_of(
        ["vae learned", "vae s", "general learned", "both learned", "both s", *HIERARCHIES, "ar"]
    ),
    factor=st.floats(0.01, 100),
)
def test_prior_variance_of_a_learned_level_never_enters(case, factor):
    spec = case.spec
    if isinstance(spec, HVAESpec):
        pairs = zip(spec.prior_variances, spec.encoder_variances, strict=True)
        changed = [eta2 * factor if v is None else eta2 for eta2, v in pairs]
        spec = replaced(spec, prior_variances=changed)
    else:
        spec = replace(spec, prior_variance=factor * spec.prior_variance)
    assert_same_optimum(solve(spec, case.moments), solve(case.spec, case.moments))


@given(case=any_of(["target", "ar 1"]), factor=st.floats(0.01, 100))
def test_prior_variance_does_not_enter_the_local_threshold(case, factor):
    other = replace(case.spec, prior_variance=factor * case.spec.prior_variance)
    expected = stability(case.spec, case.moments).critical_beta
    assert_same_thresholds(stability(other, case.moments).critical_beta, expected)


# --- discrete data --------------------------------------------------------------------------------


@st.composite
def counts(draw, highest: int) -> np.ndarray:
    """Samples (n, d) with entries up to `highest`; constant columns are among them."""
    d, n = draw(st.integers(1, 4)), draw(st.integers(2, 8))
    rows = draw(
        st.lists(st.lists(st.integers(0, highest), min_size=d, max_size=d), min_size=n, max_size=n)
    )
    y = np.array(rows, dtype=float)
    assume(np.ptp(y, axis=0).any())
    return y


def local(y: np.ndarray, likelihood: str, **fields) -> np.ndarray:
    spec = VAESpec(2, likelihood=likelihood, **fields)
    return stability(spec, Moments.from_data(y)).critical_beta


LIKELIHOODS = pytest.mark.parametrize(
    ("likelihood", "highest"), [("bernoulli", 1), ("poisson", 6), ("multinomial", 6)]
)


@LIKELIHOODS
@given(draw=st.data())
def test_discrete_data_in_any_order(likelihood, highest, draw):
    """Samples and coordinates permuted, every sample twice, and any prior variance."""
    y = draw.draw(counts(highest))
    rng = np.random.default_rng(0)
    other = rng.permutation(np.concatenate([y, y]))[:, rng.permutation(y.shape[1])]
    found = local(other, likelihood, prior_variance=draw.draw(variance))
    assert_same_thresholds(found, local(y, likelihood))


@given(y=counts(1), flip=st.integers(0, 15))
def test_negative_of_a_binary_pixel_changes_nothing(y, flip):
    flipped = [bool(flip >> i & 1) for i in range(y.shape[1])]
    found = local(np.where(flipped, 1 - y, y), "bernoulli")
    assert_same_thresholds(found, local(y, "bernoulli"))


@given(y=counts(1), factor=st.floats(0.1, 10))
def test_correlations_of_binary_pixels_are_all_that_counts(y, factor):
    """Trace of the thresholds = number of pixels that vary; factor: Poisson grows with counts."""
    assert local(y, "bernoulli").sum() == pytest.approx(np.sum(np.ptp(y, axis=0) > 0), rel=1e-9)
    # F and C scale by a and a^2
    scaled = local(factor * y, "poisson")
    assert_same_thresholds(scaled, factor * local(y, "poisson"))


@given(case=one_level("vae learned"), mean=st.floats(0.2, 5))
def test_equal_means_are_a_gaussian_decoder(case, mean):
    """F = s I: Poisson with all means s, Bernoulli with all probabilities 1/2 (s = 4 Cov/C)."""
    C, d = case.moments.covariance, case.moments.target_dim
    for likelihood, m, fisher in (("poisson", mean, mean), ("bernoulli", 0.5, 0.25)):
        moments = Moments.from_covariance(C, mean=np.full(d, m))
        found = stability(VAESpec(1, likelihood=likelihood), moments).critical_beta
        plain = stability(VAESpec(1, decoder_variance=fisher), moments).critical_beta
        assert_same_thresholds(found, plain)


# --- monotonicity ---------------------------------------------------------------------------------

FACTORS = (0.2, 0.6, 0.9, 1.0, 1.0 + 1e-9, 1.1, 1.7, 5.0)


def sweep(case: Case) -> list:
    return [solve(case.spec.scale_betas(f), case.moments) for f in FACTORS]


def falls(values) -> bool:
    return bool(np.all(np.diff(np.asarray(values, dtype=float), axis=0) <= ROUNDING))


def rises(values) -> bool:
    return falls(-np.asarray(values, dtype=float))


@given(case=any_of(SOLVED))
def test_larger_betas_never_wake_anything(case):
    """All betas by one factor: every rate, active units and information fall.

    Distortion (with penalties: their sum) rises, and the objective is concave in the factor.
    """
    found = sweep(case)
    assert falls([s.rates for s in found])
    assert falls([s.active_units for s in found])
    assert rises([s.noise_fractions for s in found])
    assert rises([s.distortion + s.penalty for s in found])
    slopes = np.diff([s.objective for s in found]) / np.diff(FACTORS)
    assert falls(slopes[[0, 1, 2, 4, 5, 6]])  # without the interval of 1e-9, rounding over it


@given(case=any_of([kind for kind in SOLVED if "hvae" not in kind]))
def test_larger_beta_never_lowers_the_objective(case):
    assert rises([s.objective for s in sweep(case)])


@pytest.mark.parametrize("levels", [2, 3, 4])
@given(draw=st.data())
def test_larger_betas_raise_a_hierarchy_whose_betas_do_not_fall_upwards(levels, draw):
    """sum beta_l rate_l is then a sum of KL divergences: of the levels from l up, for every l."""
    assert rises([s.objective for s in sweep(draw.draw(hierarchies(levels, rising=True)))])


def test_not_where_an_upper_beta_is_smaller():
    """rate_1 alone is no KL divergence: with beta_2 small it is -1/2 (1 + log(Sigma_1/eta_1^2))."""
    spec = HVAESpec([1, 1], betas=[1.0, 0.01], encoder_variances=[4.0, None])
    moments = Moments.from_covariance([[1.0]])
    one, two = (solve(spec.scale_betas(f), moments) for f in (1.0, 2.0))
    assert one.rates[0] < 0
    assert two.objective < one.objective - 0.5


@given(
    case=any_of(
        [f"{model} learned" for model in ("vae", "general", "both")] + ["vae s", "vae kappa", "ar"]
    )
)
def test_one_more_unit_never_hurts(case):
    d = case.moments.target_dim
    most = d - 1 if case.spec.decoder_variance == "learned" else d + 2
    dims = range(case.spec.latent_dim, most + 1)
    assert falls([solve(replace(case.spec, latent_dim=k), case.moments).objective for k in dims])


@pytest.mark.parametrize("levels", [1, 2, 3])
@given(draw=st.data())
def test_wider_learned_level_never_hurts(levels, draw):
    case = draw.draw(hierarchies(levels))
    before = solve(case.spec, case.moments).objective
    for level, fixed in enumerate(case.spec.encoder_variances):
        if fixed is None:
            dims = list(case.spec.latent_dims)
            dims[level] += 1
            after = solve(replaced(case.spec, latent_dims=tuple(dims)), case.moments).objective
            assert after <= before + ROUNDING


def test_not_with_a_fixed_variance_or_a_loss_on_every_unit():
    """An idle unit pays its own rate, or gamma eta^2/2 for a latent that is not reconstructed."""
    moments = Moments.from_covariance(np.eye(1))
    fixed = [solve(VAESpec(k, encoder_variance=0.1), moments).objective for k in (1, 2)]
    assert fixed[1] - fixed[0] == pytest.approx((0.1 - 1 - math.log(0.1)) / 2, rel=1e-12)
    loss = [solve(VAESpec(k, latent_reconstruction=0.4), moments).objective for k in (1, 2)]
    assert loss[1] - loss[0] == pytest.approx(0.2, rel=1e-12)


# --- reductions -----------------------------------------------------------------------------------


def with_useless_condition(moments: Moments, dim: int = 2) -> Moments:
    d = moments.target_dim
    C = np.zeros((dim + d, dim + d))
    C[:dim, :dim], C[dim:, dim:] = np.diag(np.arange(1.0, dim + 1)), moments.covariance
    return Moments.from_covariance(C, condition_dim=dim)


def conditional(spec: VAESpec, **fields) -> CVAESpec:
    return CVAESpec(**{f.name: getattr(spec, f.name) for f in dataclasses.fields(spec)}, **fields)


@given(case=any_of(["vae learned", "vae fixed", "vae diagonal", "vae s"]))
def test_useless_condition_is_no_condition(case):
    found = solve(conditional(case.spec), with_useless_condition(case.moments))
    assert_same_optimum(found, solve(case.spec, case.moments))


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
@given(draw=st.data())
def test_useless_condition_of_a_hierarchy(levels, draw):
    case = draw.draw(hierarchies(levels))
    found = solve(case.spec, with_useless_condition(case.moments))
    assert_same_optimum(found, solve(case.spec, case.moments))


@given(
    case=any_of(
        ["vae learned", "vae fixed", "vae diagonal", "vae kappa", "vae gamma", "vae gamma kappa"]
    ),
    sees=st.sampled_from(["both", "target"]),
)
def test_useless_condition_leaves_the_local_threshold(case, sees):
    spec = conditional(case.spec, encoder_sees=sees)
    found = stability(spec, with_useless_condition(case.moments)).critical_beta
    assert_same_thresholds(found, stability(case.spec, case.moments).critical_beta)


@given(case=any_of(["both learned", "both fixed", "chvae2", "chvae3"]))
def test_condition_that_explains_everything_leaves_nothing(case):
    """y = B x: level 1 carries nothing of any mode, and thresholds are 0."""
    d, dx = case.moments.target_dim, case.moments.condition_dim
    C_x = case.moments.covariance[:dx, :dx]
    joint = np.vstack([np.eye(dx), case.rng().normal(size=(d, dx))])
    C = joint @ C_x @ joint.T
    moments = Moments.from_covariance((C + C.T) / 2, condition_dim=dx)
    found = solve(case.spec, moments)
    assert found.collapsed[0].all()
    assert np.nan_to_num(found.critical_beta).max() == 0


@given(case=any_of(["vae learned", "vae fixed", "vae diagonal", "vae s"]))
def test_general_model_given_the_target_is_the_vae(case):
    C = np.tile(case.moments.covariance, (2, 2))
    twice = Moments.from_covariance(C, condition_dim=case.moments.target_dim)
    assert_same_optimum(solve(case.spec, twice), solve(case.spec, case.moments))


@given(case=any_of(["vae learned", "vae fixed"]))
def test_one_level_is_the_vae(case):
    spec = HVAESpec(
        [case.spec.latent_dim],
        betas=case.spec.beta,
        decoder_variance=case.spec.decoder_variance,
        prior_variances=case.spec.prior_variance,
        encoder_variances=[case.spec.encoder_variance],
    )
    assert_same_optimum(solve(spec, case.moments), solve(case.spec, case.moments))


@pytest.mark.parametrize("levels", [2, 3, 4])
@given(draw=st.data())
def test_collapsed_upper_level_leaves_the_lower_hierarchy(levels, draw):
    """What it still costs is its own rate at W = U = 0."""
    case = draw.draw(hierarchies(levels))
    spec = case.spec
    fields = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec)}
    price = spec.betas[:-1]
    # an upper level that costs more than anything it could say
    spec = HVAESpec(**(fields | {"betas": (*price, 1e4)}))
    found = solve(spec, case.moments)
    assume(found.collapsed[-1].all())
    cut = {name: value[:-1] for name, value in fields.items() if isinstance(value, tuple)}
    lower = solve(HVAESpec(**(fields | cut)), case.moments)
    fixed, eta2 = spec.encoder_variances[-1], spec.prior_variances[-1]
    ratio = 1.0 if fixed is None else fixed / eta2
    rest = 1e4 * spec.latent_dims[-1] / 2 * (ratio - 1 - math.log(ratio))
    # rounding of the price, up to 1e5
    assert found.objective - rest == pytest.approx(lower.objective, abs=1e-8)
    assert found.rates[:-1] == pytest.approx(lower.rates, abs=SAME)
    n = lower.noise_fractions.shape[1]
    assert found.noise_fractions[:-1, :n] == pytest.approx(lower.noise_fractions, abs=SAME)


@given(case=any_of(["vae learned", "vae fixed", "vae diagonal"]))
def test_penalties_of_weight_zero_are_none(case):
    """Through the code of the penalised model, which needs a penalty where there are no data."""
    modes = mode_decomposition(case.spec, case.moments)
    assume(modes.variances.all())
    found, expected = solve_penalised(case.spec, modes), solve_one_level(case.spec, modes)
    assert found.noise_fractions == pytest.approx(expected.noise_fractions, abs=CLOSE)
    assert found.critical_scale == pytest.approx(expected.critical_scale, rel=SAME, nan_ok=True)


@given(case=one_level("ar 0"))
def test_autoregression_of_order_zero_is_the_vae(case):
    names = [f.name for f in dataclasses.fields(VAESpec)]
    plain = VAESpec(**{name: getattr(case.spec, name) for name in names})
    assert_same_optimum(solve(case.spec, case.moments), solve(plain, case.moments))


@given(case=one_level("ar"))
def test_autoregression_on_independent_coordinates_is_the_vae(case):
    names = [f.name for f in dataclasses.fields(VAESpec)]
    plain = VAESpec(**{name: getattr(case.spec, name) for name in names})
    C = np.diag(np.diag(case.moments.covariance))
    moments = Moments.from_covariance(C)
    assert_same_optimum(solve(case.spec, moments), solve(plain, moments))


@given(case=one_level("ar"))
def test_stronger_decoder_is_never_worse_and_collapses_no_later(case):
    """An autoregressive decoder contains the plain one; its top innovation is below lambda_max."""
    names = [f.name for f in dataclasses.fields(VAESpec)]
    plain = VAESpec(**{name: getattr(case.spec, name) for name in names})
    strong, weak = solve(case.spec, case.moments), solve(plain, case.moments)
    assert strong.objective <= weak.objective + ROUNDING
    assert strong.critical_beta[0] <= weak.critical_beta[0] * (1 + SAME)


@given(case=one_level("vae learned"))
def test_rate_distortion_curve_at_one_water_level(case):
    found = solve(case.spec, case.moments)
    s, d = case.spec.decoder_variance, case.moments.target_dim
    theta2 = found.mode_variances[:d]
    curve = rate_distortion_curve(theta2, case.spec.beta * s, latent_dim=case.spec.latent_dim)
    assert curve.rates[0] == pytest.approx(found.rates[0], abs=SAME)
    error = 2 * s * (found.distortion - d / 2 * math.log(2 * math.pi * s))
    assert curve.squared_errors[0] == pytest.approx(error, abs=SAME)


# --- thresholds -----------------------------------------------------------------------------------

THRESHOLDS = [kind for kind in SOLVED if " s" not in kind]
FIRST_ORDER = "target one"  # jumps wherever x explains much of y: tests/theory/test_target_encoder


def positive_thresholds(case: Case) -> list[tuple[int, int, float]]:
    """(level, mode, beta of level 1), at most four of them."""
    critical = solve(case.spec, case.moments).level_critical_betas
    found = [
        (level, mode, float(value))
        for (level, mode), value in np.ndenumerate(critical)
        if math.isfinite(value) and value > 1e-6
    ]
    return found[:4]


def at_level_1_beta(case: Case, value: float):
    """The solution at all betas scaled so that the first is `value`."""
    return solve(case.spec.scale_betas(value / case.spec.betas[0]), case.moments)


@given(case=any_of(THRESHOLDS))
def test_alive_below_every_threshold_and_collapsed_above(case):
    for level, mode, critical in positive_thresholds(case):
        assert not at_level_1_beta(case, 0.999 * critical).collapsed[level, mode]
        assert at_level_1_beta(case, 1.001 * critical).collapsed[level, mode]


@given(case=any_of([kind for kind in THRESHOLDS if kind != FIRST_ORDER]))
def test_collapse_is_continuous_with_a_jump_of_the_slope(case):
    """The information of the mode falls to 0 linearly in beta, and stays there.

    1e-6 and 2e-6 below the threshold the ratio is 2, to the relative distance times a curvature
    of order 1 or, next to a first-order transition, 1000. Modes inside `is_first_order` jump.
    """
    decay = getattr(case.spec, "weight_decay", 0.0)
    jumps = np.zeros(20, dtype=bool)
    if decay and case.spec.encoder_variance is None:
        theta2 = solve(case.spec, case.moments).mode_variances
        jumps[: len(theta2)] = is_first_order(
            theta2,
            decoder_variance=case.spec.decoder_variance,
            prior_variance=case.spec.prior_variance,
            latent_reconstruction=case.spec.latent_reconstruction,
            weight_decay=decay,
        )
    for level, mode, critical in positive_thresholds(case):
        near, far = (at_level_1_beta(case, critical * (1 - e)) for e in (1e-6, 2e-6))
        above = at_level_1_beta(case, critical * (1 + 1e-6))
        assert above.information[level, mode] == 0
        assert near.objective == pytest.approx(above.objective, rel=1e-2, abs=1e-2)
        if jumps[mode]:
            continue
        ratio = far.information[level, mode] / near.information[level, mode]
        assert ratio == pytest.approx(2, rel=0.02 if decay else 2e-3)


@given(kappa=st.floats(0.05, 2), s=variance, eta2=variance, share=st.floats(0.2, 2))
def test_only_weight_decay_in_its_window_makes_a_jump(kappa, s, eta2, share):
    """theta^4/s^2 between kappa (x + kappa) and 2 kappa (x + kappa)^2/(x + 2 kappa), x = eta^2/s.

    `share` is the position in the window. A continuous transition has lost all but 1e-6 of beta
    times a slope below 1e3 outside [0.9, 1.1]; a jump there is above 1e-3.
    """
    assume(abs(share - 1) > 0.1)
    x = eta2 / s
    low, high = kappa * (x + kappa), 2 * kappa * (x + kappa) ** 2 / (x + 2 * kappa)
    moments = Moments.from_covariance([[s * math.sqrt(low + share * (high - low))]])
    spec = VAESpec(1, decoder_variance=s, prior_variance=eta2, weight_decay=kappa)
    critical = float(solve(spec, moments).critical_beta[0])
    below, above = (solve(replace(spec, beta=critical * (1 + e)), moments) for e in (-1e-6, 1e-6))
    assert above.collapsed.all()
    assert bool(below.information[0, 0] > 1e-3) is (share < 1)
    numbers = {"decoder_variance": s, "prior_variance": eta2, "weight_decay": kappa}
    assert is_first_order(moments.covariance[0], **numbers)[0] == (share < 1)
    local_one = stability(spec, moments).critical_beta[0]
    assert bool(critical > local_one * (1 + SAME)) is (share < 1)


@given(case=any_of(["vae s", "both s", "general s"]))
def test_threshold_with_a_learned_decoder_variance(case):
    """Mode i collapses at beta = d theta_i^2/(i theta_i^2 + all that is beyond mode i)."""
    modes = mode_decomposition(case.spec, case.moments)
    theta2, d = modes.variances, case.moments.target_dim
    for i in range(case.spec.latent_dim):
        beyond = float(theta2[i + 1 :].sum()) + modes.unexplained
        if theta2[i] < 1e-6 or beyond < 1e-6:
            continue
        critical = d * theta2[i] / ((i + 1) * theta2[i] + beyond)
        below, above = (
            solve(replace(case.spec, beta=critical * f), case.moments) for f in (0.999, 1.001)
        )
        assert not below.collapsed[0, i]
        assert above.collapsed[0, i]
        assert below.objective == pytest.approx(above.objective, abs=0.05)


@given(case=any_of([k for k in THRESHOLDS if "kappa" not in k and k != FIRST_ORDER]))
def test_local_threshold_is_the_global_one(case):
    """The largest of all modes: with a loss it need not be that of the largest variance."""
    top = np.nan_to_num(solve(case.spec, case.moments).critical_beta).max()
    found = np.append(stability(case.spec, case.moments).critical_beta, 0.0).max()
    assert found == pytest.approx(top, rel=1e-8, abs=1e-9)


@given(case=any_of([FIRST_ORDER, *(kind for kind in PENALISED if "kappa" in kind)]))
def test_local_threshold_is_never_above_the_global_one(case):
    top = np.nan_to_num(solve(case.spec, case.moments).critical_beta).max()
    assert stability(case.spec, case.moments).critical_beta[0] <= top + 1e-9


@given(case=any_of(["target", "target kappa"]))
def test_encoder_that_sees_less_collapses_no_later(case):
    less = stability(case.spec, case.moments).critical_beta[0]
    more = stability(replace(case.spec, encoder_sees="both"), case.moments).critical_beta[0]
    assert less <= more + SAME


@given(case=any_of(LOCAL + LOCAL_IN_ORDER + ["general", "both", "vae gamma kappa", "vae diagonal"]))
def test_curvature_of_the_objective_changes_sign_at_the_local_threshold(case):
    """The exact objective itself, one unit; below a negative threshold nothing escapes."""
    critical = float(stability(case.spec, case.moments).critical_beta[0])
    if critical > 1e-4:
        low, high = (
            lowest_curvature(replace(case.spec, beta=f * critical), case.moments)
            for f in (0.97, 1.03)
        )
        assert low < 0
        assert high > -ROUNDING
    else:
        assert lowest_curvature(replace(case.spec, beta=2e-4), case.moments) > -ROUNDING


@given(case=any_of([*THRESHOLDS, *LOCAL, *LOCAL_IN_ORDER]), unit=st.sampled_from([1.0, 1e-2, 1e3]))
def test_as_many_rates_are_positive_as_directions_are_unstable(case, unit):
    """In any unit of the data, except within 1e-6 of a threshold, where both are rounding.

    Directions without data are left out: their rate is the rounding of the fastest decay.
    """
    assume(np.linalg.eigvalsh(case.moments.covariance)[0] > 1e-3)
    spec = case.spec
    if not getattr(spec, "penalised", False):
        spec = replaced(spec, decoder_variance=unit**2 * spec.decoder_variance)
        case = replace(
            case, moments=transformed(case.moments, unit * np.eye(case.moments.target_dim))
        )
    found = stability(spec, case.moments)
    assume(np.all(np.abs(found.critical_beta / spec.betas[0] - 1) > 1e-6))
    assert np.sum(found.escape_rates > 0) == found.unstable_directions


@pytest.mark.parametrize(("sees", "decay"), [("target", 0.0), ("both", 0.5)])
def test_loss_of_a_conditional_model_prices_what_the_condition_decodes_to(sees, decay):
    """Unit variances, correlation 0.8, gamma = 1: "target" has 1.36^2 - 0.64, not 1.36^2."""
    moments = Moments.from_covariance([[1, 0.8], [0.8, 1]], condition_dim=1)
    spec = CVAESpec(1, encoder_sees=sees, latent_reconstruction=1.0, weight_decay=decay)
    critical = float(stability(spec, moments).critical_beta[0])
    assert lowest_curvature(replace(spec, beta=0.999 * critical), moments) < 0


def lowest_curvature(spec: VAESpec, moments: Moments) -> float:
    """Lowest eigenvalue of the Hessian of `objective` over (u, w) of one unit, collapsed.

    Along a ray the objective is c + q t^2 + r t^4: two values give q exactly.
    """
    spec = spec.with_one_unit()
    start = objective_of_unit(spec, moments, np.zeros(moments.target_dim + seen(spec, moments)))

    def half(x: np.ndarray) -> float:
        near, far = (objective_of_unit(spec, moments, t * x) - start for t in (0.5, 1.0))
        return (16 * near - far) / 3

    axes = np.eye(moments.target_dim + seen(spec, moments))
    own = np.array([half(e) for e in axes])
    hessian = np.diag(2 * own)
    for i, j in zip(*np.triu_indices(len(axes), 1), strict=True):
        hessian[i, j] = hessian[j, i] = half(axes[i] + axes[j]) - own[i] - own[j]
    return float(np.linalg.eigvalsh(hessian)[0])


def seen(spec: VAESpec, moments: Moments) -> int:
    """Number of coordinates that the encoder sees."""
    d, dx = moments.target_dim, moments.condition_dim
    if isinstance(spec, CVAESpec):
        return d + dx if spec.encoder_sees == "both" else d
    return dx or d


def objective_of_unit(spec: VAESpec, moments: Moments, vector: np.ndarray) -> float:
    d, dx = moments.target_dim, moments.condition_dim
    u, w = vector[:d, None], vector[None, d:]
    v = spec.prior_variance if spec.encoder_variance is None else spec.encoder_variance
    weights = {"Sigma": np.array([[v]])}
    if isinstance(spec, CVAESpec):
        on_x = w[:, :-d] if spec.encoder_sees == "both" else np.zeros((1, dx))
        weights |= {"W1": on_x, "W2": w[:, -d:], "U1": u, "U2": moments.regression}
    else:
        weights |= {"W": w, "U": u}
        weights |= {"B": autoregression(spec, moments)[0]} if isinstance(spec, ARVAESpec) else {}
    return objective(spec, moments, weights).objective


# --- global optimality ----------------------------------------------------------------------------


@given(case=any_of(SOLVED), size=st.sampled_from([1e-4, 0.01, 0.1, 0.5]))
def test_no_perturbed_weights_do_better(case, size):
    found = solve(case.spec, case.moments)
    moved = perturbed(case, found.weights, size)
    value = objective(case.spec, case.moments, moved).objective
    assert value >= found.objective - ROUNDING * max(1, abs(found.objective))
    at = objective(case.spec, case.moments, found.weights)
    assert at.objective == pytest.approx(found.objective, rel=ROUNDING, abs=ROUNDING)


@given(case=any_of([kind for kind in SOLVED if kind not in PENALISED]))
def test_elbo_is_never_above_the_likelihood(case):
    weights = perturbed(case, solve(case.spec, case.moments).weights, 0.3)
    assert elbo_gap(case.spec, case.moments, weights) >= -ROUNDING


# --- every architecture ---------------------------------------------------------------------------

few = settings(max_examples=max(1, settings.default.max_examples // 30))  # a search each


@pytest.mark.parametrize(
    ("likelihood", "highest"), [("gaussian", 4), ("bernoulli", 1), ("poisson", 4)]
)
@given(draw=st.data())
@few
def test_universal_threshold_is_above_the_linear_one(likelihood, highest, draw):
    """And the linear one is that of `stability`; the bound is above both."""
    y = draw.draw(counts(highest))
    found = universal_threshold(y, likelihood=likelihood)
    assert found.critical_beta >= found.linear_critical_beta
    assert found.critical_beta_upper_bound >= found.critical_beta * (1 - SAME)
    linear = local(y, likelihood).max()
    assert found.linear_critical_beta == pytest.approx(linear, rel=1e-9)


@given(y=counts(4), factor=st.floats(0.1, 10), shift=st.floats(-10, 10))
@few
def test_universal_threshold_has_no_unit_and_no_origin(y, factor, shift):
    found = universal_threshold(y, decoder_variance=0.5)
    other = universal_threshold(factor * y + shift, decoder_variance=0.5 * factor**2)
    # the search stops at gains of 1e-12; rounding of the shifted data moves flat maxima by 1e-8
    assert other.critical_beta == pytest.approx(found.critical_beta, rel=1e-7)
    assert other.linear_critical_beta == pytest.approx(found.linear_critical_beta, rel=1e-9)
