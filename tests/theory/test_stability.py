"""The collapsed point: sign of the exact Hessian just below and just above every threshold."""

from __future__ import annotations

import dataclasses

import autograd_oracle
import numpy as np
import oracles
import pytest
import torch
from scipy.linalg import eigh

from linvae import CVAESpec, HVAESpec, Moments, VAESpec, solve
from linvae.spec import ARVAESpec
from linvae.theory.dynamics import escape_rates
from linvae.theory.stability import (
    _escape_rates,
    _inverse_root,
    critical_correlation,
    generalised_eigenvalues,
    stability,
)

from .problems import draw, random_covariance
from .strategies import replaced

KINDS = ("plain", "general", "both", "target", "full", "order", "decay", "loss")


def _draw(kind: str, number: int) -> tuple[VAESpec, Moments]:
    rng = np.random.default_rng([number, KINDS.index(kind)])
    d, dx = int(rng.integers(2, 4)), int(rng.integers(1, 3))

    def between(low: float, high: float) -> float:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))

    numbers = {"decoder_variance": between(0.2, 1.5), "prior_variance": between(0.4, 2)}
    has_condition = kind in ("general", "both", "target")
    C = random_covariance(rng, d + dx * has_condition)
    moments = Moments.from_covariance(C, condition_dim=dx * has_condition)
    k = int(rng.integers(1, 3))
    if kind in ("both", "target"):
        return CVAESpec(k, encoder_sees=kind, **numbers), moments
    if kind in ("full", "order"):
        return ARVAESpec(k, order=None if kind == "full" else 1, **numbers), moments
    penalties = {"decay": ("weight_decay", 0.02, 0.4), "loss": ("latent_reconstruction", 0.05, 2)}
    if kind in penalties:
        name, low, high = penalties[kind]
        return VAESpec(k, **numbers, **{name: between(low, high)}), moments
    fixed = between(0.2, 1) if rng.random() < 0.5 else None
    return VAESpec(k, encoder_variance=fixed, **numbers), moments


@pytest.mark.parametrize("number", range(13))
@pytest.mark.parametrize("kind", KINDS)
def test_hessian_changes_sign_at_the_threshold(kind, number):
    """Gaussian models, 104 problems: curvature of the exact objective at 0.98 and 1.02 beta."""
    spec, moments = _draw(kind, number)
    critical = stability(spec, moments).critical_beta[0]
    if critical <= 0:  # weight decay keeps it collapsed at every beta
        assert (
            autograd_oracle.collapsed_curvature(
                autograd_oracle.model_of(dataclasses.replace(spec, beta=1e-6), moments)
            )
            >= -1e-9
        )
        return
    for factor, sign in ((0.98, -1), (1.02, 1)):
        at = dataclasses.replace(spec, beta=critical * factor)
        curvature = autograd_oracle.collapsed_curvature(autograd_oracle.model_of(at, moments))
        assert sign * curvature > -1e-9  # the decoder's own map adds positive curvatures only
        assert stability(at, moments).unstable_directions >= (sign < 0)
        if sign < 0:
            assert curvature < 0


@pytest.mark.parametrize("kind", ["plain", "general", "both", "target", "decay", "loss"])
def test_escape_rate_is_the_steepest_descent_of_the_hessian(kind):
    for number in range(5):
        spec, moments = _draw(kind, number)
        critical = stability(spec, moments).critical_beta[0]
        at = dataclasses.replace(spec, beta=0.5 * abs(critical) + 1e-3)
        model = dataclasses.replace(autograd_oracle.model_of(at, moments), k=1)
        model = dataclasses.replace(model, fixed=model.fixed and model.fixed[:1])
        found = stability(at, moments).escape_rates[0]
        # Hessian of the full objective: rounding of second derivatives by autograd is 1e-14
        assert -autograd_oracle.collapsed_curvature(model) == pytest.approx(found, rel=1e-9)


# --- exact special cases ----------------------------------------------------------------------


def test_plain_vae_is_the_spectrum():
    C = random_covariance(np.random.default_rng(0), 5)
    found = stability(VAESpec(2, decoder_variance=0.3), Moments.from_covariance(C))
    values, vectors = np.linalg.eigh(C)
    assert found.critical_beta == pytest.approx(values[::-1] / 0.3, rel=1e-12)
    overlap = np.abs(np.sum(found.directions * vectors[:, ::-1].T, axis=1))
    assert overlap == pytest.approx(1, rel=1e-12)
    assert found.unstable_directions == np.sum(values > 0.3)


def test_models_with_a_known_optimum_agree_with_it():
    """Global and local thresholds are the same where no penalty acts."""
    rng = np.random.default_rng(1)
    joint = Moments.from_covariance(random_covariance(rng, 6), condition_dim=2)
    plain = Moments.from_covariance(random_covariance(rng, 4))
    cases = [
        (VAESpec(4, decoder_variance=0.4), plain),
        (VAESpec(4, decoder_variance=0.4, encoder_variance=0.3), plain),
        (VAESpec(2, decoder_variance=0.4), joint),  # rank 2: it sees two coordinates
        (CVAESpec(4, decoder_variance=0.4), joint),
        (ARVAESpec(4, decoder_variance=0.001), plain),
        (HVAESpec((4, 3), decoder_variance=0.4, encoder_variances=(0.2, None)), plain),
    ]
    for spec, moments in cases:
        expected = solve(spec, moments).critical_beta
        found = stability(spec, moments).critical_beta
        n = min(len(found), np.sum(np.isfinite(expected)))
        assert found[:n] == pytest.approx(expected[:n], rel=1e-9)
        assert n >= 2


def test_encoder_that_sees_the_target_only():
    """Generalised eigenvalues of (Cov(y|x)^2, Cov(y)); scalar: Var(y)(1 - rho^2)^2/s."""
    moments = Moments.from_covariance(
        random_covariance(np.random.default_rng(2), 6), condition_dim=2
    )
    spec = CVAESpec(2, decoder_variance=0.7, encoder_sees="target")
    S, C = moments.residual_covariance, moments.target_covariance
    expected = eigh(S @ S, C, eigvals_only=True)[::-1] / 0.7
    assert stability(spec, moments).critical_beta == pytest.approx(expected, rel=1e-10)
    both = stability(dataclasses.replace(spec, encoder_sees="both"), moments).critical_beta
    assert np.all(stability(spec, moments).critical_beta <= both * (1 + 1e-12))
    rho, variance = 0.6, 2.0
    scalar = Moments.from_covariance(
        [[1, rho * np.sqrt(variance)], [rho * np.sqrt(variance), variance]], condition_dim=1
    )
    found = stability(spec, scalar).critical_beta
    assert found == pytest.approx([variance * (1 - rho**2) ** 2 / 0.7], rel=1e-12)


@pytest.mark.parametrize("sees", ["both", "target"])
def test_critical_correlation_is_where_the_threshold_meets_beta(sees):
    beta, s, variance = 0.8, 0.5, 1.7
    rho = critical_correlation(
        beta=beta, decoder_variance=s, target_variance=variance, encoder_sees=sees
    )
    cross = rho * np.sqrt(variance)
    moments = Moments.from_covariance([[1, cross], [cross, variance]], condition_dim=1)
    spec = CVAESpec(1, decoder_variance=s, encoder_sees=sees)
    assert stability(spec, moments).critical_beta == pytest.approx([beta], rel=1e-12)


def test_no_correlation_is_needed_above_the_unconditional_threshold():
    assert critical_correlation(beta=3.0, decoder_variance=1.0, target_variance=2.0) == 0.0


def test_autoregressive_orders_run_from_the_vae_to_the_innovations():
    C = random_covariance(np.random.default_rng(3), 5)
    moments = Moments.from_covariance(C)
    tops = [stability(ARVAESpec(1, order=m), moments).critical_beta[0] for m in (0, 1, 2, 4)]
    assert tops[0] == pytest.approx(np.linalg.eigvalsh(C)[-1], rel=1e-12)
    innovations = np.diag(np.linalg.cholesky(C)) ** 2
    assert tops[-1] == pytest.approx(innovations.max(), rel=1e-12)
    full = stability(ARVAESpec(1), moments).critical_beta
    assert full == pytest.approx(np.sort(innovations)[::-1], rel=1e-12)


def test_mask_is_any_receptive_field():
    C = random_covariance(np.random.default_rng(4), 4)
    moments = Moments.from_covariance(C)
    lower = np.tril(np.ones((4, 4), dtype=int), -1)
    by_mask = stability(ARVAESpec(1, order=lower), moments).critical_beta
    assert by_mask == pytest.approx(stability(ARVAESpec(1), moments).critical_beta, rel=1e-12)
    far = np.zeros((4, 4), dtype=int)
    far[3, 0] = 1
    residual = C.copy()
    slope = C[3, 0] / C[0, 0]
    T = np.eye(4)
    T[3, 0] = -slope
    residual = T @ C @ T.T
    found = stability(ARVAESpec(1, order=far), moments).critical_beta
    assert found == pytest.approx(np.linalg.eigvalsh(residual)[::-1], rel=1e-10)


# --- exponential families ---------------------------------------------------------------------


def _states(likelihood: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A small exact data set: states (n, 3) and their probabilities."""
    if likelihood == "bernoulli":
        y = np.array(np.meshgrid([0, 1], [0, 1], [0, 1])).reshape(3, -1).T.astype(float)
    elif likelihood == "poisson":
        y = rng.integers(0, 5, size=(8, 3)).astype(float)
    else:
        y = rng.multinomial(6, [0.5, 0.3, 0.2], size=8).astype(float)
        y[:4] *= 2  # totals differ
    return y, rng.dirichlet(np.ones(len(y)))


def _log_likelihood(likelihood: str, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Up to terms without t, (nodes, states)."""
    if likelihood == "bernoulli":
        return (y * t - torch.nn.functional.softplus(t)).sum(-1)
    if likelihood == "poisson":
        return (y * t - torch.exp(t)).sum(-1)
    return (y * torch.log_softmax(t, dim=-1)).sum(-1)


def _discrete(likelihood: str, number: int) -> tuple[np.ndarray, np.ndarray, Moments, VAESpec]:
    """States and probabilities of such a set, its moments and a model of one unit."""
    rng = np.random.default_rng(number)
    y, weight = _states(likelihood, rng)
    mean = weight @ y
    C = (y - mean).T @ (weight[:, None] * (y - mean))
    spec = VAESpec(1, likelihood=likelihood, prior_variance=float(rng.uniform(0.5, 2)))
    return y, weight, Moments.from_covariance(C, mean=mean), spec


def _curvature(spec: VAESpec, y, weight, beta: float) -> float:
    """Lowest Hessian eigenvalue over (U, W) of the objective of one unit, z by quadrature."""
    likelihood, eta2 = spec.likelihood, spec.prior_variance
    nodes, mass = np.polynomial.hermite_e.hermegauss(12)
    nodes, mass = torch.tensor(nodes), torch.tensor(mass / mass.sum())
    Y, p = torch.tensor(y), torch.tensor(weight)
    mean = (p[:, None] * Y).sum(0)
    base = torch.log(mean / (1 - mean)) if likelihood == "bernoulli" else torch.log(mean)

    def value(vector: torch.Tensor) -> torch.Tensor:
        u, w = vector[:3], vector[3:]
        mu = (Y - mean) @ w
        z = mu[None] + np.sqrt(eta2) * nodes[:, None]
        t = base + z[..., None] * u
        distortion = -(mass[:, None] * p * _log_likelihood(likelihood, t, Y)).sum()
        return distortion + beta * (p * mu.square()).sum() / (2 * eta2)

    hessian = torch.autograd.functional.hessian(value, torch.zeros(6, dtype=torch.float64))
    return float(torch.linalg.eigvalsh(hessian)[0])


@pytest.mark.parametrize("number", range(34))
@pytest.mark.parametrize("likelihood", ["bernoulli", "poisson", "multinomial"])
def test_exponential_family_by_quadrature(likelihood, number):
    """102 problems: the exact objective of discrete data, its Hessian at 0.98 and 1.02 beta."""
    y, weight, moments, spec = _discrete(likelihood, number)
    critical = stability(spec, moments).critical_beta[0]
    assert _curvature(spec, y, weight, 0.98 * critical) < 0
    assert _curvature(spec, y, weight, 1.02 * critical) > -1e-10  # rounding


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("likelihood", ["bernoulli", "poisson", "multinomial"])
def test_escape_rate_of_an_exponential_family_by_quadrature(likelihood, number):
    """Lowest curvature of the exact objective of discrete data, at half the threshold."""
    y, weight, moments, spec = _discrete(likelihood, number)
    at = dataclasses.replace(spec, beta=0.5 * stability(spec, moments).critical_beta[0])
    found = stability(at, moments).escape_rates[0]
    # rounding of second derivatives by autograd
    assert found == pytest.approx(-_curvature(spec, y, weight, at.beta), rel=1e-9)


def test_binary_data_have_the_spectrum_of_their_correlations():
    y = (np.random.default_rng(5).random((400, 4)) < [0.2, 0.5, 0.7, 0.4]).astype(float)
    y[:, 1] = np.where(np.arange(400) % 3 == 0, y[:, 0], y[:, 1])
    moments = Moments.from_data(y)
    found = stability(VAESpec(2, likelihood="bernoulli"), moments).critical_beta
    expected = np.linalg.eigvalsh(np.corrcoef(y.T))[::-1]
    assert found == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("likelihood", ["bernoulli", "poisson"])
def test_constant_coordinates_drop_out(likelihood):
    y = (np.random.default_rng(6).random((200, 3)) < 0.4).astype(float)
    padded = np.column_stack([y[:, 0], np.zeros(200), y[:, 1:]])
    if likelihood == "bernoulli":
        padded = np.column_stack([padded, np.ones(200)])
    spec = VAESpec(2, likelihood=likelihood)
    alone = stability(spec, Moments.from_data(y))
    found = stability(spec, Moments.from_data(padded))
    assert found.critical_beta == pytest.approx(alone.critical_beta, rel=1e-10)
    assert np.all(found.directions[:, 1] == 0)


# --- properties -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "decay"])
def test_threshold_scales_with_data_and_decoder_variance_together(kind):
    """y -> a y, s -> a^2 s leaves every threshold alone; weight decay prices W in data units."""
    spec, moments = _draw(kind, 0)
    dx = moments.condition_dim
    scale = np.where(np.arange(len(moments.mean)) < dx, 1.0, 3.0)
    scaled = Moments.from_covariance(moments.covariance * np.outer(scale, scale), condition_dim=dx)
    larger = dataclasses.replace(spec, decoder_variance=9 * spec.decoder_variance)
    expected = stability(spec, moments).critical_beta
    assert stability(larger, scaled).critical_beta == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", ["plain", "both", "target", "decay", "loss"])
def test_threshold_is_invariant_under_rotation_of_the_target(kind):
    spec, moments = _draw(kind, 1)
    dx, d = moments.condition_dim, moments.target_dim
    R = np.eye(dx + d)
    R[dx:, dx:] = np.linalg.qr(np.random.default_rng(0).normal(size=(d, d)))[0]
    rotated = Moments.from_covariance(R @ moments.covariance @ R.T, condition_dim=dx)
    expected = stability(spec, moments).critical_beta
    assert stability(spec, rotated).critical_beta == pytest.approx(expected, rel=1e-9)


def test_autoregressive_decoder_depends_on_the_order_of_coordinates():
    C = np.array([[2.0, 0.9, 0.1], [0.9, 1.0, 0.3], [0.1, 0.3, 0.5]])
    flip = C[::-1, ::-1]
    tops = [stability(ARVAESpec(1), Moments.from_covariance(m)).critical_beta[0] for m in (C, flip)]
    assert abs(tops[0] - tops[1]) > 0.05


def test_useless_condition_is_no_condition():
    C = random_covariance(np.random.default_rng(7), 3)
    joint = np.zeros((5, 5))
    joint[:2, :2], joint[2:, 2:] = np.eye(2), C
    plain = stability(VAESpec(2), Moments.from_covariance(C)).critical_beta
    for sees in ("both", "target"):
        spec = CVAESpec(2, encoder_sees=sees)
        found = stability(spec, Moments.from_covariance(joint, condition_dim=2)).critical_beta
        assert found == pytest.approx(plain, rel=1e-12)


def test_rank_deficient_condition_and_target():
    """A condition given twice, a target direction without variance: finite, and the same."""
    rng = np.random.default_rng(8)
    x, noise = rng.normal(size=(300, 1)), rng.normal(size=(300, 2))
    y = np.column_stack([x[:, 0] + noise[:, 0], noise[:, 1], np.zeros(300)])
    once, twice = Moments.from_data(y, x), Moments.from_data(y, np.column_stack([x, x]))
    for sees in ("both", "target"):
        spec = CVAESpec(1, encoder_sees=sees)
        expected = stability(spec, once).critical_beta
        assert np.all(np.isfinite(expected))
        assert stability(spec, twice).critical_beta[:2] == pytest.approx(expected[:2], rel=1e-9)


def test_latent_reconstruction_without_data_is_never_stable():
    found = stability(
        VAESpec(1, latent_reconstruction=0.1), Moments.from_covariance(np.diag([1.0, 0.0]))
    )
    assert found.critical_beta[0] == np.inf
    assert found.directions[0] == pytest.approx([0, 1])


def test_rows_and_hierarchies():
    moments = Moments.from_covariance(np.diag([2.0, 1.0]))
    rows = stability(VAESpec(1), moments).to_rows()
    assert [row["direction"] for row in rows] == [1, 2]
    assert [row["critical_beta"] for row in rows] == pytest.approx([2.0, 1.0])
    hierarchy = stability(HVAESpec((2, 1), encoder_variances=(0.5, None)), moments)
    assert len(hierarchy.to_rows()) == 2


@pytest.mark.parametrize("kind", ["hvae1", "hvae2", "hvae3", "hvae2-all-fixed", "chvae2"])
@pytest.mark.parametrize("number", range(20))
def test_escape_rate_of_a_hierarchy(kind, number):
    """100 problems: lowest curvature over the weights of all levels, at half the threshold."""
    problem = draw(kind, number)
    critical = stability(problem.spec, problem.moments).critical_beta[0]
    spec = problem.spec.scale_betas(0.5 * critical / problem.spec.betas[0])
    lowest = float(np.linalg.eigvalsh(collapsed_hessian(spec, problem.moments))[0])
    # central differences of the gradient with steps of 1e-5 leave 1e-9 of the curvatures
    assert stability(spec, problem.moments).escape_rates[0] == pytest.approx(-lowest, rel=1e-6)
    at = stability(problem.spec.scale_betas(critical / problem.spec.betas[0]), problem.moments)
    assert abs(at.escape_rates[0]) < 1e-10 * abs(at.escape_rates).max() + 1e-12


@pytest.mark.parametrize(
    ("prior", "noise", "fastest"), [(1.7, 0.5, "bare"), (1.7, 0.6, "bare"), (1.3, 0.6, "copied")]
)
def test_the_fastest_unit_may_be_one_without_a_level_above_or_with(prior, noise, fastest):
    """Level 1 learned and wider than a noisy level 2: both kinds of unit leave at one beta."""
    spec = HVAESpec(
        (3, 1),
        betas=(14.0, 10.0),
        decoder_variance=0.12,
        prior_variances=(prior, 1.0),
        encoder_variances=(None, noise),
    )
    moments = Moments.from_covariance(np.diag([3.4, 2.0, 1.4]))
    lowest = float(np.linalg.eigvalsh(collapsed_hessian(spec, moments))[0])
    assert stability(spec, moments).escape_rates[0] == pytest.approx(-lowest, rel=1e-9)
    alone = {
        "bare": VAESpec(3, beta=14.0, decoder_variance=0.12, prior_variance=prior),
        "copied": replaced(spec, latent_dims=(3, 3)),
    }
    rates = {kind: stability(of, moments).escape_rates[0] for kind, of in alone.items()}
    assert max(rates, key=rates.__getitem__) == fastest
    assert min(rates.values()) < 0.99 * max(rates.values())


def test_directions_of_a_hierarchy_leave_by_the_same_unit():
    """Level 2 narrower, level 1 noisy: unit 1 alone decides for every direction."""
    spec = HVAESpec((2, 1), decoder_variance=1.0, encoder_variances=(1.8, None))
    moments = Moments.from_covariance(np.diag([2.0, 1.9, 0.1]))
    found = stability(spec.scale_betas(1.1), moments)
    assert found.critical_beta == pytest.approx([2.0, 1.9, 0.1], rel=1e-9)
    assert found.unstable_directions == np.sum(found.escape_rates > 0) == 2
    at = stability(spec.scale_betas(1.9), moments)
    assert at.escape_rates[1] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("unit", [1e-6, 1e-3, 1e4, 1e8])
def test_escape_rates_keep_their_digits_in_any_unit(unit):
    """Rates of raw weights against those of the modes, which have no cancellation."""
    C = random_covariance(np.random.default_rng(0), 5) * unit**2
    spec = VAESpec(5, decoder_variance=0.7 * unit**2)
    expected = np.sort(escape_rates(np.linalg.eigvalsh(C), decoder_variance=0.7 * unit**2))[::-1]
    found = stability(spec, Moments.from_covariance(C))
    alive = int(np.sum(expected > 0))
    assert found.unstable_directions == np.sum(found.escape_rates > 0) == alive
    assert found.escape_rates[:alive] == pytest.approx(expected[:alive], rel=1e-9)


@pytest.mark.parametrize("call", [solve, stability])
def test_arguments_of_another_type_are_named(call):
    with pytest.raises(ValueError, match=r"moments is a ndarray .* Moments\.from_data\(target\)"):
        call(VAESpec(1), np.eye(2))
    with pytest.raises(ValueError, match="spec is a Moments but must be a VAESpec"):
        call(Moments.from_covariance(np.eye(2)), VAESpec(1))


def collapsed_hessian(spec, moments: Moments) -> np.ndarray:
    """Hessian of the exact objective, by the oracle's gradient, where no data pass level 1."""
    nothing = Moments.from_covariance(
        1e-300 * moments.covariance, condition_dim=moments.condition_dim
    )
    named = dict(solve(spec, nothing).weights)
    if moments.condition_dim:
        named["B"] = moments.regression
    p = oracles.setting_of(spec, moments)
    packing = oracles.Packing(p)
    vector = packing.pack(oracles.from_names(named, spec, moments))

    def gradient(at: np.ndarray) -> np.ndarray:
        w = packing.unpack(at)
        return packing.gradient(w, oracles.value_and_gradient(p, w)[1])

    step = 1e-5 * np.eye(len(vector))
    columns = np.array([(gradient(vector + h) - gradient(vector - h)) / 2e-5 for h in step])
    return (columns + columns.T) / 2


@pytest.mark.parametrize("s", [1e-4, 0.01, 1.0, 1e4])
def test_singular_covariances_have_finite_thresholds(s):
    """Rank 1, and fewer samples than dimensions: rounding is not taken for an endless threshold."""
    rank_one = np.outer([1, 2, 3.0], [1, 2, 3.0])
    found = stability(VAESpec(1, decoder_variance=s), Moments.from_covariance(rank_one))
    assert found.critical_beta == pytest.approx([14 / s], rel=1e-9)
    y = np.random.default_rng(0).random((30, 64)) * 255
    moments = Moments.from_data(y)
    found = stability(VAESpec(2, decoder_variance=s), moments).critical_beta
    expected = np.linalg.eigvalsh(moments.covariance)[::-1][:29] / s
    assert found[:29] == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("unit", [1e-7, 1.0, 1e7, 1e8])
def test_units_of_the_condition_do_not_matter(unit):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(500, 2))
    y = x * [1.0, 0.5] + rng.normal(size=(500, 2)) * [1.0, 0.7]
    plain, scaled = Moments.from_data(y, x), Moments.from_data(y, x * [1.0, unit])
    for sees in ("both", "target"):
        spec = CVAESpec(2, encoder_sees=sees)
        expected = stability(spec, plain).critical_beta
        assert stability(spec, scaled).critical_beta == pytest.approx(expected, rel=1e-6)
    expected = solve(CVAESpec(2), plain).critical_beta
    assert solve(CVAESpec(2), scaled).critical_beta == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("sees", ["both", "target"])
@pytest.mark.parametrize("number", range(10))
def test_loss_of_a_conditional_model_prices_what_the_encoder_reads_of_the_condition(sees, number):
    """Hessian of the exact objective at 0.98 and 1.02 beta, with gamma and kappa."""
    _, moments = _draw("both", number)
    rng = np.random.default_rng(number)
    spec = CVAESpec(
        1,
        encoder_sees=sees,
        decoder_variance=0.4,
        latent_reconstruction=float(rng.uniform(0.1, 2)),
        weight_decay=0.1 if number % 2 else 0.0,
    )
    critical = stability(spec, moments).critical_beta[0]
    for factor, sign in ((0.98, -1), (1.02, 1)):
        at = dataclasses.replace(spec, beta=critical * factor)
        curvature = autograd_oracle.collapsed_curvature(autograd_oracle.model_of(at, moments))
        assert sign * curvature > -1e-9
        assert sign > 0 or curvature < 0


# --- errors -----------------------------------------------------------------------------------

PLAIN = Moments.from_covariance(np.diag([2.0, 1.0]), mean=[0.4, 0.6])
JOINT = Moments.from_covariance(np.diag([2.0, 1.0]), condition_dim=1)
REFUSED = {
    "learned-s": (VAESpec(1, decoder_variance="learned"), PLAIN, "moves with the weights"),
    "no-condition": (CVAESpec(1), PLAIN, "CVAESpec needs a condition"),
    "ar-condition": (ARVAESpec(1), JOINT, "ARVAESpec takes no condition"),
    "loss-blind": (VAESpec(1, latent_reconstruction=0.1), JOINT, "sees the condition only"),
    "family-condition": (VAESpec(1, likelihood="poisson"), JOINT, "needs centred moments without"),
    "no-mean": (
        VAESpec(1, likelihood="bernoulli"),
        Moments.from_covariance(np.eye(2)),
        "probabilities between 0 and 1, not all zero",
    ),
    "mean-too-large": (
        VAESpec(1, likelihood="bernoulli"),
        Moments.from_covariance(np.eye(2), mean=[0.5, 1.5]),
        "holds 1.5 but likelihood='bernoulli'",
    ),
    "mean-zero": (
        VAESpec(1, likelihood="poisson"),
        Moments.from_covariance(np.eye(2), mean=[0.0, 0.0]),
        "holds 0 but likelihood='poisson'",
    ),
    "mask-size": (ARVAESpec(1, order=[[0, 0, 0], [1, 0, 0], [1, 1, 0]]), PLAIN, "mask of 3 rows"),
    "not-a-spec": ("vae", PLAIN, "must be a VAESpec"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_refusals_name_the_reason(case):
    spec, moments, message = case
    with pytest.raises(ValueError, match=message):
        stability(spec, moments)


def test_solve_points_to_stability_where_the_optimum_is_unknown():
    three = Moments.from_covariance(random_covariance(np.random.default_rng(9), 3))
    cases = [
        (VAESpec(1, likelihood="bernoulli"), PLAIN),
        (CVAESpec(2, encoder_sees="target"), Moments.from_covariance(np.eye(3), condition_dim=1)),
        (ARVAESpec(3, order=1), three),
        (ARVAESpec(3, weight_decay=0.1), three),
        (ARVAESpec(1, decoder_variance=1e-6), three),
    ]
    for spec, moments in cases:
        with pytest.raises(ValueError, match=r"use .*stability\(spec, moments\)"):
            solve(spec, moments)


def test_bad_order_is_refused():
    with pytest.raises(ValueError, match="order=-1 must be None, an integer >= 0 or a mask"):
        ARVAESpec(1, order=-1)
    with pytest.raises(ValueError, match="row 0 of the mask sees coordinate 1"):
        ARVAESpec(1, order=[[0, 1], [1, 0]])
    with pytest.raises(ValueError, match="mask must be square"):
        ARVAESpec(1, order=[[0, 0, 0], [1, 0, 0]])
    with pytest.raises(ValueError, match="ARVAESpec needs encoder_variance=None"):
        ARVAESpec(1, encoder_variance=0.5)
    with pytest.raises(ValueError, match="likelihood='poisson' must be 'gaussian' in ARVAESpec"):
        ARVAESpec(1, likelihood="poisson")


def test_price_of_a_latent_that_is_next_to_nothing_keeps_the_rank():
    """Times the covariance it is below the smallest double: price and covariance stay apart."""
    spec = HVAESpec(
        [1, 1], betas=[1.0, 1e-200], decoder_variance=4049.0, encoder_variances=[1.0, None]
    )
    moments = Moments.from_covariance([[1e-160]])
    expected = solve(spec, moments).critical_beta
    assert stability(spec, moments).critical_beta == pytest.approx(expected, rel=1e-12)


def test_directions_of_two_kinds_of_idle_units_are_as_many():
    """The kind that leaves first had one direction, the other two: the small one was rounded off.

    The noise of the first unit is copied upwards, by the factor that both thresholds share.
    """
    spec = HVAESpec([2, 1], betas=[1.0, 5e-324], encoder_variances=[1.0, 1.0])
    moments = Moments.from_covariance(np.diag([1.0, 9.9e-177]))
    top = solve(spec, moments).critical_beta[0]
    found = stability(spec, moments).critical_beta
    assert found == pytest.approx([top, 9.9e-177 * top], rel=1e-12)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"beta": 0.0}, r"beta=0.0, .* must be finite and > 0 in critical_correlation"),
        ({"target_variance": np.inf}, r"target_variance=inf must be finite and > 0"),
        ({"encoder_sees": "input"}, r"encoder_sees='input' must be 'both' or 'target'"),
    ],
)
def test_a_critical_correlation_of_nothing_is_refused(given, message):
    scalars = {"beta": 0.5, "decoder_variance": 1.0, "target_variance": 2.0}
    with pytest.raises(ValueError, match=message):
        critical_correlation(**scalars | given)


@pytest.mark.parametrize("number", range(5))
def test_rates_of_blocks_that_share_no_multiple_of_one(number):
    """-[[F, -C], [-C^T, W]] as it is written; all diagonal, F not f I."""
    rng = np.random.default_rng(number)
    F, C, W = (np.diag(rng.uniform(0.5, 2.0, 3)) for _ in range(3))
    expected = -np.linalg.eigvalsh(np.block([[F, -C], [-C.T, W]]))
    np.testing.assert_allclose(np.sort(_escape_rates(F, C, W)), np.sort(expected), rtol=1e-12)


@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e12])
def test_root_of_a_pseudo_inverse_beside_small_directions(unit):
    """A direction is rounding by the largest, not by its neighbours, in any unit."""
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    F = turn @ np.diag([1e-17, 1e-8, 1.0]) @ turn.T
    H = _inverse_root(unit * F) * np.sqrt(unit)
    kept = turn[:, 1:]
    # eps of the largest beside 1e-8
    np.testing.assert_allclose(kept.T @ H.T @ H @ kept, np.diag([1e8, 1.0]), rtol=1e-6, atol=1.0)
    assert len(H) == 2


@pytest.mark.parametrize(
    ("likelihood", "mean"), [("bernoulli", -1e-10), ("bernoulli", 1 + 1e-10), ("poisson", -1e-10)]
)
def test_means_outside_by_rounding_are_constant_coordinates(likelihood, mean):
    spec, C = VAESpec(1, likelihood=likelihood), np.diag([0.2, 1e-11, 0.15])
    found = stability(spec, Moments.from_covariance(C, mean=[0.3, mean, 0.8]))
    expected = stability(spec, Moments.from_covariance(C, mean=[0.3, float(mean > 0.5), 0.8]))
    np.testing.assert_array_equal(found.critical_beta, expected.critical_beta)
    np.testing.assert_array_equal(found.escape_rates, expected.escape_rates)


def test_root_of_a_diagonal_keeps_entries_of_any_size():
    """Rounding of a largest is none of coordinates that do not mix."""
    H = _inverse_root(np.diag([1.0, 1e-20, 0.0]))
    np.testing.assert_allclose(H.T @ H, np.diag([1.0, 1e20, 0.0]), rtol=1e-12)


def test_every_direction_without_data_is_unstable_at_every_beta():
    spec = VAESpec(1, latent_reconstruction=0.1)
    found = stability(spec, Moments.from_covariance(np.diag([1.0, 0.0, 0.0])))
    assert found.critical_beta[:2].tolist() == [np.inf, np.inf]
    assert np.isfinite(found.critical_beta[2:]).all()


def test_a_direction_at_its_threshold_is_not_unstable():
    found = stability(VAESpec(1), Moments.from_covariance(np.eye(2)))
    assert found.critical_beta.tolist() == [1.0, 1.0]
    assert found.unstable_directions == 0


@pytest.mark.parametrize("order", [None, 1])
def test_copies_of_an_autoregressive_decoder_pass_through_its_own_map(order):
    """Latent reconstruction beside a decoder that sees the past: Hessian of the exact objective."""
    for number in range(4):
        _, moments = _draw("full", number)
        spec = ARVAESpec(1, order=order, decoder_variance=0.5, latent_reconstruction=0.6)
        at = dataclasses.replace(spec, beta=0.5 * stability(spec, moments).critical_beta[0])
        curvature = autograd_oracle.collapsed_curvature(autograd_oracle.model_of(at, moments))
        assert stability(at, moments).escape_rates[0] == pytest.approx(-curvature, rel=1e-9)


def test_growth_without_a_price_is_endless_only_beyond_the_rounding_of_its_size():
    for size, endless in ((1e12, 0), (1.0, 1)):
        A, B = np.diag([size, 1e-6]), np.diag([1.0, 0.0])
        found, _ = generalised_eigenvalues(A, B, A)
        assert found.tolist() == [np.inf] * endless + [size]


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_directions_have_unit_length_in_any_unit(size):
    C = size * random_covariance(np.random.default_rng(15), 4)
    found = stability(VAESpec(1, decoder_variance=size), Moments.from_covariance(C)).directions
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-12)
