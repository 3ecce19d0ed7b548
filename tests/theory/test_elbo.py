"""The exact objective: against samples of the model, an independent implementation, and errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import oracles
import pytest
from scipy.optimize import approx_fprime

from linvae.moments import Moments
from linvae.spec import ARVAESpec, CVAESpec, HVAESpec, VAESpec
from linvae.theory import objective, solve
from linvae.theory.elbo import Chain

from .problems import draw, problems

ONE_OF_EACH = problems(
    vae_learned=2, vae_fixed=1, vae_diagonal=1, general_learned=2, general_diagonal=1,
    cvae_learned=2, cvae_diagonal=1, vae_s=1, general_s=1, cvae_s=1,
    hvae1=1, hvae2=2, hvae3=2, hvae4=1, hvae3_narrow=1, chvae1=1, chvae2=2, chvae3=2,
)  # fmt: skip


@dataclass(frozen=True)
class Record:
    objective: float
    distortion: float
    rates: np.ndarray


def independent_terms(p: oracles.Setting, w: oracles.Weights) -> Record:
    distortion, rates = oracles.terms(p, w)
    return Record(distortion + float(np.dot(p.betas, rates)), distortion, rates)


def skewed_data(moments: Moments, n: int, seed: int) -> np.ndarray:
    """n rows with clearly non-Gaussian entries; the objective must see their moments only."""
    rng = np.random.default_rng(seed)
    mixing = np.linalg.cholesky(moments.covariance)
    return rng.exponential(size=(n, len(mixing))) @ mixing.T


@pytest.mark.parametrize("problem", ONE_OF_EACH, ids=lambda q: q.id)
@pytest.mark.parametrize("where", ["random-weights", "optimum"])
def test_objective_is_the_mean_of_sampled_log_densities(problem, where):
    data = skewed_data(problem.moments, n=40, seed=problem.seed)
    dx = problem.moments.condition_dim
    target, condition = data[:, dx:], data[:, :dx] if dx else None
    moments = Moments.from_data(target, condition)
    if where == "optimum":
        weights = solve(problem.spec, moments).weights
        w = oracles.from_names(weights, problem.spec, moments)
    else:
        w = oracles.random_weights(problem.spec, moments, problem.seed)
        weights = oracles.to_names(w, problem.spec, moments)
    claimed = objective(problem.spec, moments, weights)
    p = oracles.setting_of(problem.spec, moments)
    sampled = oracles.sample_terms(p, w, data - data.mean(axis=0), 20_000, problem.seed)
    oracles.assert_matches_samples(claimed, sampled)


@pytest.mark.parametrize("problem", ONE_OF_EACH, ids=lambda q: q.id)
def test_objective_equals_an_independent_implementation(problem):
    w = oracles.random_weights(problem.spec, problem.moments, problem.seed)
    named = oracles.to_names(w, problem.spec, problem.moments)
    p = oracles.setting_of(problem.spec, problem.moments)
    claimed = objective(problem.spec, problem.moments, named)
    # random weights make terms of size up to 1e3; both sums lose at most 1e-12 of that
    oracles.assert_same_terms(claimed, independent_terms(p, w), tolerance=1e-9)


@pytest.mark.parametrize("problem", ONE_OF_EACH, ids=lambda q: q.id)
def test_gradient_of_the_oracle_equals_finite_differences(problem):
    p = oracles.setting_of(problem.spec, problem.moments)
    packing = oracles.Packing(p)
    vector = packing.start(np.random.default_rng(problem.seed))

    def value(at):
        return oracles.value_and_gradient(p, packing.unpack(at))[0]

    w = packing.unpack(vector)
    analytic = packing.gradient(w, oracles.value_and_gradient(p, w)[1])
    numeric = approx_fprime(vector, value, 1e-6)
    # forward differences: error = step * curvature/2, and the curvatures reach 1e3 here
    np.testing.assert_allclose(analytic, numeric, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("problem", ONE_OF_EACH, ids=lambda q: q.id)
def test_value_that_is_minimised_is_distortion_plus_weighted_rates(problem):
    p = oracles.setting_of(problem.spec, problem.moments)
    w = oracles.random_weights(problem.spec, problem.moments, problem.seed)
    value = oracles.value_and_gradient(p, w)[0]
    # rounding of sums whose terms reach 1e3
    assert value == pytest.approx(independent_terms(p, w).objective, rel=1e-11, abs=1e-10)


def test_without_latents_in_use_the_distortion_is_that_of_the_best_constant():
    moments = Moments.from_covariance([[2.0, 0.3], [0.3, 1.0]])
    weights = {"W": np.zeros((1, 2)), "U": np.zeros((2, 1)), "Sigma": np.eye(1)}
    result = objective(VAESpec(1, decoder_variance=0.5), moments, weights)
    assert result.distortion == pytest.approx(np.log(2 * np.pi * 0.5) + 3.0, rel=1e-15)
    assert result.rates == pytest.approx([0.0], abs=0)


def test_rows_are_the_terms():
    problem = draw("hvae2", 0)
    solution = solve(problem.spec, problem.moments)
    result = objective(problem.spec, problem.moments, solution.weights)
    rows = result.to_rows()
    assert [row["term"] for row in rows] == [
        "objective",
        "distortion",
        "rate_1",
        "rate_2",
        "penalty",
    ]
    values = [result.objective, result.distortion, *result.rates, result.penalty]
    assert [row["nats"] for row in rows] == values


# --- errors -----------------------------------------------------------------------------------

PLAIN = Moments.from_covariance(np.diag([2.0, 1.0, 0.5]))
JOINT = Moments.from_covariance(np.diag([2.0, 1.0, 0.5]), condition_dim=1)
VAE_WEIGHTS = {"W": np.ones((2, 3)), "U": np.ones((3, 2)), "Sigma": np.eye(2)}
CVAE_WEIGHTS = {
    "W1": np.ones((2, 1)), "W2": np.ones((2, 2)), "U1": np.ones((2, 2)), "U2": np.ones((2, 1)),
    "Sigma": np.eye(2),
}  # fmt: skip
HVAE_WEIGHTS = {
    "W1": np.ones((2, 3)), "W2": np.ones((1, 2)), "U1": np.ones((3, 2)), "U2": np.ones((2, 1)),
    "Sigma1": np.eye(2), "Sigma2": np.eye(1),
}  # fmt: skip
CHVAE_WEIGHTS = {
    "W1": np.ones((2, 2)), "U1": np.ones((2, 2)), "Sigma1": np.eye(2), "A": np.ones((2, 1)),
    "B": np.ones((2, 1)),
}  # fmt: skip
LEARNED_S = VAESpec(2, decoder_variance="learned")

BAD_WEIGHTS = {
    "missing-W": (VAESpec(2), PLAIN, VAE_WEIGHTS, {"W": None}, r"lack 'W', which VAESpec needs "
                  r"with shape \(2, 3\): got \['Sigma', 'U'\]"),
    "missing-U2": (CVAESpec(2), JOINT, CVAE_WEIGHTS, {"U2": None}, r"lack 'U2', which CVAESpec"),
    "missing-Sigma2": (HVAESpec([2, 1]), PLAIN, HVAE_WEIGHTS, {"Sigma2": None}, "lack 'Sigma2'"),
    "missing-A": (HVAESpec([2]), JOINT, CHVAE_WEIGHTS, {"A": None}, "lack 'A', which HVAESpec"),
    "missing-B": (HVAESpec([2]), JOINT, CHVAE_WEIGHTS, {"B": None}, "lack 'B', which HVAESpec"),
    "missing-s": (LEARNED_S, PLAIN, VAE_WEIGHTS, {}, r"lack 's', which VAESpec needs with shape"),
    "transposed": (VAESpec(2), PLAIN, VAE_WEIGHTS, {"W": np.ones((3, 2))},
                   r"weights\['W'\] has shape \(3, 2\) but must be finite with shape \(2, 3\)"),
    "nan": (VAESpec(2), PLAIN, VAE_WEIGHTS, {"U": np.full((3, 2), np.nan)}, r"'U'\].*finite"),
    "infinite": (VAESpec(2), PLAIN, VAE_WEIGHTS, {"U": np.full((3, 2), np.inf)}, r"'U'\].*finite"),
    "asymmetric": (VAESpec(2), PLAIN, VAE_WEIGHTS, {"Sigma": [[1.0, 0.5], [0.0, 1.0]]},
                   r"weights\['Sigma'\] is not symmetric in VAESpec"),
    "indefinite": (VAESpec(2), PLAIN, VAE_WEIGHTS, {"Sigma": [[1.0, 2.0], [2.0, 1.0]]},
                   r"weights\['Sigma'\] is not positive definite in VAESpec"),
    "singular": (HVAESpec([2, 1]), PLAIN, HVAE_WEIGHTS, {"Sigma2": [[0.0]]},
                 r"weights\['Sigma2'\] is not positive definite in HVAESpec"),
    "not-the-fixed-variance": (VAESpec(2, encoder_variance=0.3), PLAIN, VAE_WEIGHTS, {},
                               r"differs from the encoder variance 0.3 fixed by VAESpec"),
    "not-a-small-one": (VAESpec(2, encoder_variance=1e-9), PLAIN, VAE_WEIGHTS,
                        {"Sigma": 2e-9 * np.eye(2)}, r"differs from the encoder variance 1e-09"),
    "not-the-fixed-diagonal": (VAESpec(2, encoder_variance=(0.3, 1.0)), PLAIN, VAE_WEIGHTS, {},
                               r"differs from the encoder variance \(0.3, 1.0\) fixed"),
    "zero-s": (LEARNED_S, PLAIN, VAE_WEIGHTS, {"s": 0.0}, r"weights\['s'\]=0.0 must be > 0"),
    "general-model-shape": (VAESpec(2), JOINT, {**VAE_WEIGHTS, "U": np.ones((2, 2))}, {},
                            r"weights\['W'\] has shape \(2, 3\) but .* \(2, 1\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_WEIGHTS.values(), ids=BAD_WEIGHTS.keys())
def test_bad_weights_are_named(case):
    spec, moments, weights, change, message = case
    changed = {k: v for k, v in {**weights, **change}.items() if v is not None}
    with pytest.raises(ValueError, match=message):
        objective(spec, moments, changed)


def test_good_weights_pass_the_same_readers():
    assert np.isfinite(objective(VAESpec(2), PLAIN, VAE_WEIGHTS).objective)
    assert np.isfinite(objective(CVAESpec(2), JOINT, CVAE_WEIGHTS).objective)
    assert np.isfinite(objective(HVAESpec([2, 1]), PLAIN, HVAE_WEIGHTS).objective)
    assert np.isfinite(objective(HVAESpec([2]), JOINT, CHVAE_WEIGHTS).objective)


def test_a_covariance_may_be_symmetric_to_rounding():
    """What products of matrices leave of a 0: 1e-16 of the largest entry, not of itself."""
    rounded = {**VAE_WEIGHTS, "Sigma": [[1.0, 1e-16], [0.0, 1.0]]}
    found = objective(VAESpec(2), PLAIN, rounded).objective
    expected = objective(VAESpec(2), PLAIN, VAE_WEIGHTS).objective
    assert found == pytest.approx(expected, rel=1e-14)
    fixed = VAESpec(2, encoder_variance=1.0)
    assert objective(fixed, PLAIN, rounded).objective == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("problem", ONE_OF_EACH, ids=lambda q: q.id)
def test_chain_gives_back_the_weights_that_it_read(problem):
    named = solve(problem.spec, problem.moments).weights
    chain = Chain.from_weights(problem.spec, problem.moments, named)
    again = chain.to_weights(problem.spec, problem.moments)
    assert again.keys() == named.keys()
    for name, matrix in named.items():
        np.testing.assert_array_equal(again[name], matrix)


NAMES = {
    "vae": (VAESpec(2), PLAIN, "W U Sigma"),
    "learned-s": (LEARNED_S, PLAIN, "W U Sigma s"),
    "general": (VAESpec(1), JOINT, "W U Sigma"),
    "autoregressive": (ARVAESpec(3), PLAIN, "W U Sigma B"),
    "cvae": (CVAESpec(1), JOINT, "W1 W2 U1 U2 Sigma"),
    "hvae": (HVAESpec((2, 1)), PLAIN, "W1 W2 U1 U2 Sigma1 Sigma2"),
    "chvae": (HVAESpec((2, 1)), JOINT, "A B W1 W2 U1 U2 Sigma1 Sigma2"),
}


@pytest.mark.parametrize(("spec", "moments", "names"), NAMES.values(), ids=NAMES.keys())
def test_weights_have_the_names_of_the_table_and_no_others(spec, moments, names):
    assert sorted(solve(spec, moments).weights) == sorted(names.split())
