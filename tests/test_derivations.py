"""The derivations of `analysis.derivations`: they hold, they agree with `linvae`, they can fail.

Each result is turned into a function and compared at random points with `solve`, which knows
nothing of sympy. Where only local stability is known (remedies, autoregressive decoder,
exponential families, an encoder of the target only, dynamics) the oracle is a numerical Hessian of
the objective: from `linvae.theory.objective` where it covers the model, else written here.
"""

from __future__ import annotations

import importlib
import itertools
import math
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import sympy as sp
from scipy.integrate import solve_ivp
from scipy.optimize import brentq, minimize

from linvae.moments import Moments
from linvae.spec import CVAESpec, HVAESpec, LatentReconstruction, VAESpec
from linvae.theory import objective, solve
from linvae.theory.latent_reconstruction import reconstruction_critical_beta
from linvae.theory.mixed_units import copying_critical_beta
from linvae.theory.sequences import ResidualThreshold, residual_threshold

sys.path.insert(0, str(Path(__file__).parents[1]))  # analysis is not installed with the package

from analysis.derivations import FAMILIES, __main__
from analysis.derivations.steps import Derivation, DerivationError, expectation, theta, u, v, w

# results of solve and of the lambdified formulas: the same numbers by other operations
SAME = 1e-11
# a threshold is compared by the sign of the lowest eigenvalue this far to either side; central
# differences of step 1e-3 err by 1e-6 of the curvature, a thousandth of the distance
BESIDE = 1e-2
N = 20  # random points per comparison


def module(name: str):
    return importlib.import_module(f"analysis.derivations.{name}")


@cache
def derived(name: str) -> Derivation:
    return module(name).derive()


@cache
def function(name: str, result: str):
    expression = derived(name).results[result]
    symbols = sorted(expression.free_symbols, key=str)
    return [str(x) for x in symbols], sp.lambdify(symbols, expression, "math")


def value(name: str, result: str, **numbers: float) -> float:
    """A result of a derivation at a point; numbers it does not depend on are ignored."""
    symbols, f = function(name, result)
    return f(*(numbers[x] for x in symbols))


def points(seed: int, *names: str) -> list[dict[str, float]]:
    """N random points, every number log-uniform in (0.3, 3)."""
    rng = np.random.default_rng(seed)
    draws = 3 ** rng.uniform(-1, 1, size=(N, len(names)))
    return [dict(zip(names, draw, strict=True)) for draw in draws.tolist()]


def hessian(f, at: np.ndarray, step: float = 1e-3) -> np.ndarray:
    """Central second differences of a smooth function of size about 1."""
    steps = step * np.eye(len(at))
    H = np.empty((len(at), len(at)))
    for i, j in itertools.product(range(len(at)), repeat=2):
        a, b = steps[i], steps[j]
        H[i, j] = (f(at + a + b) - f(at + a - b) - f(at - a + b) + f(at - a - b)) / (4 * step**2)
    return H


def assert_threshold(lowest_eigenvalue, critical: float) -> None:
    """`lowest_eigenvalue(beta)` of the collapsed point changes sign at `critical`."""
    assert lowest_eigenvalue(critical * (1 + BESIDE)) > 0
    assert lowest_eigenvalue(critical * (1 - BESIDE)) < 0


# --- they hold --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_derivation_holds(name):
    derivation = derived(name)
    assert sum(step.checked for step in derivation.steps) >= 15
    assert derivation.steps[0].checked is False  # it starts from what is given, the objective
    assert derivation.results


def test_command_prints_steps_and_exits_with_0(capsys):
    assert __main__.main(["decoder_variance"]) == 0
    printed = capsys.readouterr().out
    assert "[checked] optimal decoder variance" in printed
    assert "rest/(-beta*k_a + d)" in printed


def test_command_names_the_failed_step_and_exits_with_1(capsys, monkeypatch):
    def fail():
        raise DerivationError("VAE: step 'critical beta' does not hold: derived 1, claimed 2")

    monkeypatch.setattr(module("vae"), "derive", fail)
    assert __main__.main(["vae", "decoder_variance"]) == 1
    captured = capsys.readouterr()
    assert "FAILED vae: VAE: step 'critical beta' does not hold" in captured.err
    assert "optimal decoder variance" in captured.out  # the rest still ran


def test_command_refuses_an_unknown_family(capsys):
    with pytest.raises(SystemExit) as stop:
        __main__.main(["vea"])
    assert stop.value.code == 2
    assert "unknown family 'vea': choose from vae" in capsys.readouterr().err


# --- they can fail: a wrong objective -----------------------------------------------------------


def _wrong(name: str, change):
    """The module's objective with its expression changed."""
    right = module(name).objective
    return lambda *arguments: change(right(*arguments))


def _double_rate(F):
    names = {str(x): x for x in F.free_symbols}
    weight = names.get("beta", names.get("beta1"))
    return F.subs(weight, 2 * weight)


def _without_noise(F):
    """The decoder's part of the encoder noise, u^2 v/(2 s), left out."""
    return F - sp.diff(F.subs(w, 0), u, 2) * u**2 / 2


def _covariance_twice(F):
    return F.subs(module("autoregressive").d1, 2 * module("autoregressive").d1)


def _correlation_squared(F):
    return F.subs(module("cvae").rho, module("cvae").rho ** 2)


def _upper_noise_left_out(F):
    h = module("hvae")
    return F - h.beta1 * h.u2**2 * h.v2 / (2 * h.eta1**2)


def _wider_prior(F):
    h = module("hvae")
    return F.subs(h.eta2, h.eta1)


def _without_density_constant(F):
    return F - sp.log(2 * sp.pi * module("vae").s) / 2


def _half_decay(F):
    r = module("remedies")
    return F.subs(r.kappa, r.kappa / 2)


def _double_reconstruction(F):
    r = module("remedies")
    return F.subs(r.gamma, 2 * r.gamma)


def _double_loss(F):
    r = module("reconstruction")
    return F.subs(r.gamma, 2 * r.gamma)


def _double_mean(F):
    f = module("families")
    return F.subs(f.m1, 2 * f.m1)


def _law_swapped(F):
    """What follows a 0 follows a 1."""
    q = module("sequences")
    return F.subs({q.g0: q.g1, q.g1: q.g0}, simultaneous=True)


def _order_confused(order, latent_dim):
    return module("autoregressive").objective(1 - order, latent_dim)


WRONG = {
    "vae-rate-twice": ("vae", _double_rate),
    "vae-no-decoder-noise": ("vae", _without_noise),
    "vae-deviation-for-variance": ("vae", lambda F: F.subs(v, v**2)),
    "vae-mode-variance-halved": ("vae", lambda F: F.subs(theta, theta / sp.sqrt(2))),
    "fixed-rate-twice": ("fixed", _double_rate),
    "fixed-no-decoder-noise": ("fixed", _without_noise),
    "cvae-rate-twice": ("cvae", _double_rate),
    "cvae-correlation-squared": ("cvae", _correlation_squared),
    "decoder-variance-rate-twice": ("decoder_variance", _double_rate),
    "decoder-variance-no-constant": ("decoder_variance", _without_density_constant),
    "hvae-rate-1-twice": ("hvae", _double_rate),
    "hvae-no-upper-noise": ("hvae", _upper_noise_left_out),
    "hvae-priors-mixed-up": ("hvae", _wider_prior),
    "remedies-half-decay": ("remedies", _half_decay),
    "remedies-double-reconstruction": ("remedies", _double_reconstruction),
    "reconstruction-rate-twice": ("reconstruction", _double_rate),
    "reconstruction-double-loss": ("reconstruction", _double_loss),
    "autoregressive-rate-twice": ("autoregressive", _double_rate),
    "autoregressive-covariance": ("autoregressive", _covariance_twice),
    "sequences-rate-twice": ("sequences", _double_rate),
    "sequences-law-swapped": ("sequences", _law_swapped),
    "families-rate-twice": ("families", _double_rate),
    "families-mean-twice": ("families", _double_mean),
    "dynamics-rate-twice": ("dynamics", _double_rate),
    "dynamics-no-decoder-noise": ("dynamics", _without_noise),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG.keys())
def test_wrong_objective_fails(case):
    name, change = case
    with pytest.raises(DerivationError, match=r"step '.*' does not hold"):
        module(name).derive(_wrong(name, change))


def test_decoder_order_confused_fails():
    with pytest.raises(DerivationError, match="dF/da = 0' does not hold: expected one solution"):
        module("autoregressive").derive(_order_confused)


def test_every_family_has_a_wrong_objective():
    assert {name for name, _ in WRONG.values()} == set(FAMILIES)


def test_expectation_refuses_what_second_moments_do_not_tell():
    with pytest.raises(DerivationError, match="degree 4 needs more than second moments"):
        expectation(theta**4, {theta: 1})


def test_a_false_equation_and_a_negative_number_fail():
    d = Derivation("check", "none")
    with pytest.raises(
        DerivationError, match="check: step 'sum' does not hold: derived 2, claimed"
    ):
        d.equal("sum", sp.Integer(2), sp.Integer(3))
    with pytest.raises(DerivationError, match="u is not known to be positive"):
        d.positive("sign", u)
    assert d.steps == []


# --- they agree with linvae: optima -------------------------------------------------------------


def _diagonal(*variances: float) -> Moments:
    return Moments.from_covariance(np.diag(variances))


@pytest.mark.parametrize("p", points(1, "theta", "beta", "s", "eta"), ids=lambda p: "")
def test_vae_is_solve(p):
    spec = VAESpec(1, beta=p["beta"], decoder_variance=p["s"], prior_variance=p["eta"] ** 2)
    solution = solve(spec, _diagonal(p["theta"] ** 2))
    active = bool(p["theta"] ** 2 > p["beta"] * p["s"])
    assert bool(solution.active_units[0]) is active
    assert solution.critical_beta[0] == pytest.approx(value("vae", "critical_beta", **p), rel=SAME)
    expected = value("vae", "objective_active" if active else "objective_collapsed", **p)
    assert solution.objective == pytest.approx(expected, abs=SAME)
    if not active:
        return
    found = {
        "decoder_weight_squared": solution.weights["U"][0, 0] ** 2,
        "encoder_over_decoder_weight": solution.weights["W"][0, 0] / solution.weights["U"][0, 0],
        "encoder_variance": solution.encoder_variances[0, 0],
        "rate": solution.rates[0],
        "mean_squared_error": 2 * p["s"] * (solution.distortion - _density(p["s"])),
        "mean_variance": solution.weights["W"][0, 0] ** 2 * p["theta"] ** 2,
    }
    for result, number in found.items():
        assert number == pytest.approx(value("vae", result, **p), abs=SAME), result


def _density(s: float, d: int = 1) -> float:
    return d / 2 * math.log(2 * math.pi * s)


@pytest.mark.parametrize("p", points(2, "theta", "beta", "s", "eta", "sigma"), ids=lambda p: "")
def test_fixed_is_solve(p):
    spec = VAESpec(
        1, beta=p["beta"], decoder_variance=p["s"], prior_variance=p["eta"] ** 2,
        encoder_variance=p["sigma"] ** 2,
    )  # fmt: skip
    solution = solve(spec, _diagonal(p["theta"] ** 2))
    critical = value("fixed", "critical_beta", **p)
    assert solution.critical_beta[0] == pytest.approx(critical, rel=SAME)
    active = p["beta"] < critical
    expected = value("fixed", "objective_active" if active else "objective_collapsed", **p)
    assert solution.objective == pytest.approx(expected, abs=SAME)
    if active:
        U, W = solution.weights["U"][0, 0], solution.weights["W"][0, 0]
        omega2 = value("fixed", "decoder_weight_squared", **p)
        assert np.square(U) == pytest.approx(omega2, rel=SAME)
        lambda2 = value("fixed", "whitened_encoder_weight_squared", **p)
        assert (W * p["theta"]) ** 2 == pytest.approx(lambda2, rel=SAME)


@pytest.mark.parametrize("p", points(3, "beta", "s", "a", "b", "c", "d"), ids=lambda p: "")
def test_pairing_is_solve(p):
    """solve, given two units in any order, saves what the straight pairing saves."""
    thetas, sigmas = sorted((p["a"], p["b"])), sorted((p["c"], p["d"]), reverse=True)
    spec = VAESpec(
        2, beta=p["beta"], decoder_variance=p["s"], encoder_variance=tuple(x**2 for x in sigmas)
    )
    moments = _diagonal(*(x**2 for x in thetas))
    saved = 0.0
    for t, sigma in zip(thetas, sigmas, strict=True):
        number = {"theta": t, "sigma": sigma, "beta": p["beta"], "s": p["s"], "eta": 1.0}
        if p["beta"] < value("fixed", "critical_beta", **number):
            saved += value("fixed", "saved_times_2s", **number) / (2 * p["s"])
    U, W, Sigma = np.zeros((2, 2)), np.zeros((2, 2)), np.diag([x**2 for x in sigmas])
    collapsed = objective(spec, moments, {"U": U, "W": W, "Sigma": Sigma}).objective
    assert collapsed - solve(spec, moments).objective == pytest.approx(saved, abs=SAME)


def _with_correlation(p: dict[str, float]) -> dict[str, float]:
    """rho from the last number, log-uniform in (0.3, 3): between 0.05 and 0.95."""
    return p | {"rho": 0.5 + 0.45 * math.log(p["r"], 3)}


def _pair(p: dict[str, float]) -> Moments:
    covariance = p["rho"] * math.sqrt(p["X"] * p["Y"])
    return Moments.from_covariance([[p["X"], covariance], [covariance, p["Y"]]], condition_dim=1)


@pytest.mark.parametrize("p", points(4, "X", "Y", "beta", "s", "r"), ids=lambda p: "")
def test_cvae_is_solve(p):
    p = _with_correlation(p)
    solution = solve(CVAESpec(1, beta=p["beta"], decoder_variance=p["s"]), _pair(p))
    theta2 = value("cvae", "mode_variance", **p)
    assert solution.mode_variances[0] == pytest.approx(theta2, rel=SAME)
    assert solution.critical_beta[0] == pytest.approx(value("cvae", "critical_beta", **p), rel=SAME)
    active = p["rho"] ** 2 < value("cvae", "critical_correlation_squared", **p)
    assert bool(solution.active_units[0]) is active


def _target_only(p: dict[str, float]):
    """Objective of an encoder that does not see x, of (u, b, w, log v) at any beta."""
    moments = _pair(p)

    def f(x: np.ndarray, beta: float) -> float:
        weights = {"W1": [[0.0]], "W2": [[x[2]]], "U1": [[x[0]]], "U2": [[x[1]]],
                   "Sigma": [[math.exp(x[3])]]}  # fmt: skip
        spec = CVAESpec(1, beta=beta, decoder_variance=p["s"], prior_variance=p["eta"] ** 2)
        return objective(spec, moments, weights).objective

    return f


@pytest.mark.parametrize("p", points(5, "X", "Y", "s", "r", "eta")[:8], ids=lambda p: "")
def test_encoder_of_the_target_only(p):
    p = _with_correlation(p)
    f = _target_only(p)
    at = np.array([0.0, p["rho"] * math.sqrt(p["Y"] / p["X"]), 0.0, 2 * math.log(p["eta"])])
    assert_threshold(
        lambda beta: np.linalg.eigvalsh(hessian(lambda x: f(x, beta), at))[0],
        value("cvae", "critical_beta_target_only", **p),
    )


@pytest.mark.parametrize("p", points(7, "X", "Y", "s", "r", "eta")[:8], ids=lambda p: "")
def test_derived_gain_of_an_encoder_of_the_target_is_that_of_solve(p):
    """At the T of the optimum: what its objective lies below that of the collapsed point."""
    p = _with_correlation(p)
    fields = {"decoder_variance": p["s"], "prior_variance": p["eta"] ** 2, "encoder_sees": "target"}
    critical = solve(CVAESpec(1, **fields), _pair(p)).critical_beta[0]
    spec = CVAESpec(1, beta=0.6 * critical, **fields)
    found, dead = solve(spec, _pair(p)), solve(spec.scale_betas(2), _pair(p))
    T = p["eta"] ** 2 * float(found.weights["U1"][0, 0]) ** 2 / (spec.beta * p["s"])
    gain = value("cvae", "gain_target_only", beta=spec.beta, T=T, **p)
    assert dead.objective - found.objective == pytest.approx(gain, rel=SAME)


@pytest.mark.parametrize("rho", [0.8, 0.9, 0.95])
def test_target_only_stays_active_beyond_its_stability_threshold(rho):
    """First-order transition: an active minimum 2 % below the derived end, none 2 % above."""
    p = {"X": 1.0, "Y": 1.0, "rho": rho, "s": 0.1, "eta": 1.0}
    f, last = _target_only(p), value("cvae", "last_active_beta_target_only", **p)
    assert last > 1.05 * value("cvae", "critical_beta_target_only", **p)

    def decoder_weight(end: float) -> float:
        x = np.array([1.0, 0.0, 1.0, -1.0])
        for beta in np.linspace(0.2 * last, end, 20):  # follow the active minimum upwards
            x = minimize(f, x, args=(beta,), method="BFGS", options={"gtol": 1e-7}).x
        return abs(x[0])

    assert decoder_weight(0.98 * last) > 0.1
    assert decoder_weight(1.02 * last) < 1e-3  # the minimiser stops at a gradient of 1e-7


@pytest.mark.parametrize("p", points(6, "beta", "a", "b", "c", "d"), ids=lambda p: "")
def test_learned_decoder_variance_is_solve(p):
    variances = [p[x] for x in "abcd"]
    beta = p["beta"] / 2  # up to 1.5: one or two units of four dimensions
    solution = solve(VAESpec(2, beta=beta, decoder_variance="learned"), _diagonal(*variances))
    active = int(solution.active_units[0])
    rest = sum(sorted(variances)[: 4 - active])
    expected = value("decoder_variance", "decoder_variance", beta=beta, d=4, k_a=active, rest=rest)
    assert solution.decoder_variance == pytest.approx(expected, rel=SAME)


HVAE = ("theta", "beta1", "beta2", "eta1", "eta2", "s", "sigma1", "sigma2")


def _hierarchy(p: dict[str, float], *encoder_variances: float | None):
    spec = HVAESpec(
        (1, 1), betas=(p["beta1"], p["beta2"]), decoder_variance=p["s"],
        prior_variances=(p["eta1"] ** 2, p["eta2"] ** 2), encoder_variances=encoder_variances,
    )  # fmt: skip
    return solve(spec, _diagonal(p["theta"] ** 2))


@pytest.mark.parametrize("p", points(7, *HVAE), ids=lambda p: "")
def test_hierarchy_reduced_objective_is_solve(p):
    solution = _hierarchy(p, p["sigma1"] ** 2, p["sigma2"] ** 2)
    (r1,), (r2,) = solution.noise_fractions
    (m1,), (m2,) = solution.encoder_variances / solution.noise_fractions
    twice = value("hvae", "twice_objective", **p, r1=r1, r2=r2, m1=m1, m2=m2)
    assert solution.objective == pytest.approx(twice / 2, abs=SAME)


@pytest.mark.parametrize("p", points(8, *HVAE), ids=lambda p: "")
def test_hierarchy_upper_learned_thresholds_are_solve(p):
    """On either side of every threshold in theta^2, 1e-6 away."""
    lower, upper, data = (
        value("hvae", name, **p)
        for name in ("z1_threshold_lower", "z1_threshold_upper", "z2_data_threshold")
    )
    on_noise = p["sigma1"] ** 2 > value("hvae", "z2_noise_threshold", **p)
    for theta2 in (x * side for x in (lower, upper, data) for side in (1 - 1e-6, 1 + 1e-6)):
        collapsed = _hierarchy(p | {"theta": theta2**0.5}, p["sigma1"] ** 2, None).collapsed
        assert bool(collapsed[0, 0]) is (theta2 <= min(lower, upper))
        assert bool(collapsed[1, 0]) is not (on_noise or theta2 > data)


@pytest.mark.parametrize("p", points(9, *HVAE), ids=lambda p: "")
@pytest.mark.parametrize("theorem", ["theorem_3", "theorem_5"])
def test_hierarchy_singular_values_are_solve(p, theorem):
    """Both levels active (theta^2 above every threshold), eta1^2 = s as published."""
    p = p | {"eta1": math.sqrt(p["s"])}
    names = {
        "theorem_3": ("z1_threshold_lower", "z1_threshold_upper", "z2_data_threshold"),
        "theorem_5": ("both_threshold_1", "both_threshold_2"),
    }[theorem]
    p["theta"] = math.sqrt(1.3 * max(value("hvae", name, **p) for name in names))
    upper = None if theorem == "theorem_3" else p["sigma2"] ** 2
    solution = _hierarchy(p, p["sigma1"] ** 2, upper)
    assert solution.active_units.tolist() == [1, 1]
    W1, U2 = solution.weights["W1"][0, 0], solution.weights["U2"][0, 0]
    lambda2, omega2 = (value("hvae", f"{x}_squared_{theorem}", **p) for x in ("lambda", "omega"))
    assert (W1 * p["theta"]) ** 2 == pytest.approx(lambda2, rel=1e-10)  # differences of roots
    assert np.square(U2) == pytest.approx(omega2, rel=1e-10)


@pytest.mark.parametrize("p", points(10, *HVAE), ids=lambda p: "")
def test_hierarchy_both_fixed_thresholds_are_solve(p):
    first, second = (value("hvae", f"both_threshold_{i}", **p) for i in (1, 2))
    for theta2 in (x * side for x in (first, second) for side in (1 - 1e-6, 1 + 1e-6)):
        solution = _hierarchy(p | {"theta": theta2**0.5}, p["sigma1"] ** 2, p["sigma2"] ** 2)
        both = not solution.collapsed.any()
        assert both is (theta2 > max(first, second))


@pytest.mark.parametrize("p", points(11, *HVAE), ids=lambda p: "")
def test_hierarchy_all_learned_is_solve(p):
    p = p | {"beta2": p["beta1"] * 1.2}
    solution = _hierarchy(p, None, None)
    r1 = min(1.0, value("hvae", "r1_all_learned", **p))
    assert solution.noise_fractions[:, 0] == pytest.approx([r1, 1.0], rel=SAME)


# --- they agree with numerical Hessians: local stability ----------------------------------------


def _vae_objective(p: dict[str, float], x: np.ndarray, beta: float) -> float:
    """The VAE's objective of (u, w, log v)."""
    spec = VAESpec(1, beta=beta, decoder_variance=p["s"], prior_variance=p["eta"] ** 2)
    weights = {"U": [[x[0]]], "W": [[x[1]]], "Sigma": [[math.exp(x[2])]]}
    return objective(spec, _diagonal(p["theta"] ** 2), weights).objective


def _reconstruction_prior(p, x):
    return p["gamma"] / 2 * p["eta"] ** 2 * (x[0] * x[1] - 1) ** 2


def _reconstruction_posterior(p, x):
    second_moment = p["theta"] ** 2 * x[1] ** 2 + math.exp(x[2])
    return p["gamma"] / 2 * second_moment * (x[0] * x[1] - 1) ** 2


def _decay(p, x):
    return p["kappa"] / 2 * (x[0] ** 2 + x[1] ** 2)


def _lowest(p, extra, beta: float) -> float:
    """Lowest eigenvalue where u = w = 0 and v is optimal there."""
    f = lambda x: _vae_objective(p, x, beta) + extra(p, x)  # noqa: E731
    reconstruction = p["gamma"] if extra is _reconstruction_posterior else 0.0
    v0 = 1 / (1 / p["eta"] ** 2 + reconstruction / beta)
    at = np.array([0.0, 0.0, math.log(v0)])
    step = np.array([0.0, 0.0, 1e-4])
    slope = (f(at + step) - f(at - step)) / 2e-4
    assert abs(slope) < 1e-6  # stationary: the error of the difference is 1e-8
    return np.linalg.eigvalsh(hessian(f, at))[0]


REMEDY = ("theta", "s", "eta", "gamma", "kappa")


@pytest.mark.parametrize("p", points(12, *REMEDY)[:8], ids=lambda p: "")
def test_latent_reconstruction_prior_threshold(p):
    critical = value("remedies", "critical_beta_prior", **p)
    assert_threshold(lambda beta: _lowest(p, _reconstruction_prior, beta), critical)


@pytest.mark.parametrize("p", points(13, *REMEDY)[:8], ids=lambda p: "")
def test_latent_reconstruction_posterior_threshold(p):
    determinant = lambda beta: value("remedies", "determinant_posterior", beta=beta, **p)  # noqa: E731
    floor = p["gamma"] * p["eta"] ** 2  # the threshold is above it, and the only one
    critical = brentq(determinant, floor, 1e4, xtol=1e-12)
    assert all(determinant(beta) < 0 for beta in np.linspace(1e-3, critical * 0.999, 50))
    assert_threshold(lambda beta: _lowest(p, _reconstruction_posterior, beta), critical)
    v0 = value("remedies", "collapsed_variance_posterior", beta=critical, **p)
    assert v0 == pytest.approx(1 / (1 / p["eta"] ** 2 + p["gamma"] / critical), rel=SAME)


@pytest.mark.parametrize("p", points(17, *REMEDY, "f")[:8], ids=lambda p: "")
def test_thresholds_of_every_routing_are_those_of_the_theory(p):
    """Zeros of the determinants, against linvae."""
    theta2, numbers = p["theta"] ** 2, {"decoder_variance": p["s"], "prior_variance": p["eta"] ** 2}
    for source, label in (("prior", "prior"), ("posterior", "posterior"), ("mean", "mean")):
        loss = LatentReconstruction(p["gamma"], source, encoder_share=p["f"])
        critical = float(reconstruction_critical_beta(theta2, loss, **numbers))
        at = lambda beta, label=label: value(  # noqa: E731
            "reconstruction", f"determinant_{label}", **p, beta=beta
        )
        assert at(critical * (1 + BESIDE)) > 0
        if critical > 0:
            size = max(abs(at(critical / 2)), abs(at(critical * 2)))
            assert abs(at(critical)) < SAME * size
            assert at(critical * (1 - BESIDE)) < 0


@pytest.mark.parametrize("p", points(18, "theta1", "s", "gamma", "eta"), ids=lambda p: "")
def test_beta_at_which_data_leave_a_unit_is_that_of_the_theory(p):
    p = p | {"theta2": 0.3 * min(p["theta1"], p["gamma"] * p["eta"] ** 2 * p["s"] / p["theta1"])}
    found = copying_critical_beta(
        p["theta1"] ** 2,
        p["theta2"] ** 2,
        LatentReconstruction(p["gamma"], "prior"),
        decoder_variance=p["s"],
        prior_variance=p["eta"] ** 2,
    )
    assert found == pytest.approx(value("reconstruction", "critical_beta_copy", **p), rel=SAME)


@pytest.mark.parametrize("p", points(14, *REMEDY)[:8], ids=lambda p: "")
def test_weight_decay_threshold(p):
    largest = value("remedies", "largest_weight_decay", **p)
    p = p | {"kappa": 0.6 * largest}
    critical = value("remedies", "critical_beta_weight_decay", **p)
    assert_threshold(lambda beta: _lowest(p, _decay, beta), critical)
    beyond = p | {"kappa": 1.05 * largest}
    assert value("remedies", "critical_beta_weight_decay", **beyond) < 0
    assert _lowest(beyond, _decay, 1e-3) > 0  # collapsed even for a beta of nearly 0


def _autoregressive(p: dict[str, float], order: int, beta: float) -> float:
    """Lowest eigenvalue of the numerical Hessian in (U, W, a), one unit, v the prior's."""
    C = np.array([[p["d1"], p["l"] * p["d1"]], [p["l"] * p["d1"], p["l"] ** 2 * p["d1"] + p["d2"]]])

    def f(x: np.ndarray) -> float:
        U, W, A = x[:2, None], x[None, 2:4], np.zeros((2, 2))
        A[1, 0] = x[4] if order else 0.0
        error = np.eye(2) - A - U @ W
        square = np.trace(error @ C @ error.T) + p["eta"] ** 2 * np.sum(U**2)
        rate = (W @ C @ W.T)[0, 0] / (2 * p["eta"] ** 2)  # v = eta^2: nothing else
        return square / (2 * p["s"]) + beta * rate

    variables = np.array([0.0, 0.0, 0.0, 0.0, p["l"]])
    return np.linalg.eigvalsh(hessian(f, variables)[: 4 + order, : 4 + order])[0]


AUTOREGRESSIVE = points(15, "d1", "d2", "l", "s", "eta")[:10]


@pytest.mark.parametrize("p", AUTOREGRESSIVE, ids=lambda p: "")
def test_full_order_threshold_is_the_largest_innovation(p):
    critical = max(value("autoregressive", f"critical_beta_{i}", **p) for i in (1, 2))
    assert_threshold(lambda beta: _autoregressive(p, 1, beta), critical)


@pytest.mark.parametrize("p", AUTOREGRESSIVE, ids=lambda p: "")
def test_order_zero_threshold_is_the_vae(p):
    critical = value("autoregressive", "critical_beta_order_0", **p)
    assert_threshold(lambda beta: _autoregressive(p, 0, beta), critical)
    spec = VAESpec(1, decoder_variance=p["s"])
    C = [[p["d1"], p["l"] * p["d1"]], [p["l"] * p["d1"], p["l"] ** 2 * p["d1"] + p["d2"]]]
    plain = solve(spec, Moments.from_covariance(C)).critical_beta[0]
    assert critical == pytest.approx(plain, rel=1e-10)  # root of a sum of squares


def _two_tokens(p: dict[str, float], predicted, tie) -> ResidualThreshold:
    """The population of two binary tokens, sequences weighted; `predicted`: of 1 at (1, 20, 21)."""
    scores, fisher = [], []
    for y1, y2 in itertools.product((0, 1), repeat=2):
        g = p["g1"] if y1 else p["g0"]
        weight = 4 * (p["p"] if y1 else 1 - p["p"]) * (g if y2 else 1 - g)
        shown = np.array([1, 1 - y1, y1])
        scores.append(math.sqrt(weight) * shown * (np.array([y1, y2, y2]) - predicted) @ tie)
        variances = np.diag(shown * predicted * (1 - predicted))
        fisher.append(weight * tie.T @ variances @ tie)
    return residual_threshold(scores, fisher, centered=False)


@pytest.mark.parametrize(
    "r", points(14, "p", "g0", "g1", "q1", "alpha", "others"), ids=lambda p: ""
)
def test_two_binary_tokens_are_residual_thresholds(r):
    p = {name: 1 / (1 + number) for name, number in r.items()}
    names = {key: p[key] for key in ("p", "g0", "g1", "q1")}
    free, by_place = np.eye(3), np.array([[1, 0], [0, 1], [0, 1]])
    true = np.array([p["p"], p["g0"], p["g1"]])
    found = _two_tokens(p, true, free).critical_beta
    assert found == pytest.approx(value("sequences", "critical_beta_true"), abs=1e-9)
    marginal = p["p"] * p["g1"] + (1 - p["p"]) * p["g0"]
    blind = _two_tokens(p, np.array([p["p"], marginal, marginal]), by_place).critical_beta[0]
    assert blind == pytest.approx(value("sequences", "critical_beta_no_reach", **names), rel=1e-9)
    off = _two_tokens(p, np.array([p["q1"], *true[1:]]), free[:, :1])
    expected = value("sequences", "critical_beta_off", **names)
    assert off.critical_beta == pytest.approx([expected], rel=1e-9)
    A = r["alpha"] + r["others"]
    urn = {"p": r["alpha"] / A, "g0": r["alpha"] / (A + 1), "g1": (r["alpha"] + 1) / (A + 1)}
    alike = _two_tokens(urn, np.full(3, urn["p"]), np.ones((3, 1))).critical_beta
    expected = value("sequences", "critical_beta_urn", alpha=r["alpha"], others=r["others"])
    assert alike == pytest.approx([expected], rel=1e-9)


NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(40)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def _law(family: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A discrete law of two coordinates: values (states, 2) and probabilities."""
    if family == "bernoulli":
        values = np.array(list(itertools.product((0, 1), repeat=2)), dtype=float)
    elif family == "poisson":
        values = rng.integers(0, 6, size=(6, 2)).astype(float)
    elif family == "multinomial":
        values = np.array([(i, j) for i in range(5) for j in range(5 - i)], dtype=float)  # n = 4
    else:
        values = rng.normal(size=(6, 2))
    return values, rng.dirichlet(np.ones(len(values)))


def _partition(family: str, x: np.ndarray, s: float) -> np.ndarray:
    return {
        "bernoulli": lambda: np.sum(np.log1p(np.exp(x)), axis=-1),
        "poisson": lambda: np.sum(np.exp(x), axis=-1),
        "multinomial": lambda: 4 * np.log1p(np.sum(np.exp(x), axis=-1)),
        "gaussian": lambda: s / 2 * np.sum(x**2, axis=-1),
    }[family]()


def _fitted(family: str, mean: np.ndarray, s: float) -> np.ndarray:
    return {
        "bernoulli": lambda: np.log(mean / (1 - mean)),
        "poisson": lambda: np.log(mean),
        "multinomial": lambda: np.log(mean / (4 - mean.sum())),
        "gaussian": lambda: mean / s,
    }[family]()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("family", ["gaussian", "bernoulli", "poisson", "multinomial"])
def test_exponential_family_threshold(family, seed):
    """Exact objective: a sum over the states of the data, quadrature over the latent."""
    values, probabilities = _law(family, np.random.default_rng(seed))
    mean = probabilities @ values
    centred = values - mean
    C = (centred.T * probabilities) @ centred
    s, eta = 0.7, 1.3
    b = _fitted(family, mean, s)

    def f(x: np.ndarray, beta: float) -> float:
        mu = centred @ x[2:4]
        z = mu[:, None] + eta * NODES  # v = eta^2
        parameters = b + x[4:6] + z[..., None] * x[:2]
        fit = _partition(family, parameters, s) - np.sum(values[:, None] * parameters, axis=-1)
        return float(probabilities @ (fit @ WEIGHTS + beta * mu**2 / (2 * eta**2)))

    numbers = {"c11": C[0, 0], "c12": C[0, 1], "c22": C[1, 1], "m1": mean[0], "m2": mean[1],
               "n": 4, "s": s}  # fmt: skip
    at = [value("families", f"characteristic_{family}", beta=x, **numbers) for x in (-1, 0, 1)]
    critical = max(np.roots([(at[0] + at[2]) / 2 - at[1], (at[2] - at[0]) / 2, at[1]]))

    def lowest(beta: float) -> float:
        return np.linalg.eigvalsh(hessian(lambda x: f(x, beta), np.zeros(6)))[0]

    assert_threshold(lowest, float(critical))


# --- dynamics -------------------------------------------------------------------------------------

DYNAMICS = points(16, "theta", "beta", "s", "eta")


@pytest.mark.parametrize("p", DYNAMICS, ids=lambda p: "")
def test_escape_rates_are_eigenvalues_of_the_numerical_flow(p):
    at = np.array([0.0, 0.0, 2 * math.log(p["eta"])])
    H = hessian(lambda x: _vae_objective(p, x, p["beta"]), at)[:2, :2]
    to_whitened = np.diag([1.0, 1 / p["theta"]])
    flows = {"raw": -H, "joint": -to_whitened @ H @ to_whitened}
    for name, J in flows.items():
        rate = value("dynamics", f"escape_rate_{name}", **p)
        # second differences of step 1e-3 of quadratic and quartic terms
        assert np.linalg.eigvalsh(J)[-1] == pytest.approx(rate, abs=1e-4 * np.abs(J).max())
    aggressive = -(H[0, 0] - H[0, 1] ** 2 / H[1, 1])
    expected = value("dynamics", "escape_rate_aggressive", **p)
    assert aggressive == pytest.approx(expected, abs=1e-4 * H[0, 0] * (1 + abs(expected)))
    rates = [value("dynamics", f"escape_rate_{x}", **p) for x in ("joint", "raw", "aggressive")]
    assert all((rate > 0) is bool(p["theta"] ** 2 > p["beta"] * p["s"]) for rate in rates)


def test_gradient_flow_escapes_at_the_derived_rate():
    """The nonlinear flow in (u, w, v), started 1e-5 from collapse, grows at the raw rate."""
    p = {"theta": 1.2, "beta": 1.0, "s": 0.25, "eta": 1.0}
    vae = module("vae")
    F = vae.objective().subs({vae.theta: 1.2, vae.beta: 1, vae.s: 0.25, vae.eta: 1})
    gradient = sp.lambdify((u, w, v), [-sp.diff(F, x) for x in (u, w, v)], "math")
    start = [1e-5, 1e-5, 1.0]
    times = np.linspace(1.0, 2.0, 20)  # the decaying direction is gone, |u| is still below 0.03
    path = solve_ivp(lambda t, x: gradient(*x), (0, 2), start, t_eval=times, rtol=1e-10, atol=1e-14)
    slope = np.polyfit(times, np.log(path.y[0]), 1)[0]
    # saturation removes u^2 (below 1e-4) of the rate
    assert slope == pytest.approx(value("dynamics", "escape_rate_raw", **p), rel=1e-3)


def test_example_of_aggressive_training():
    p = {"theta": 1.2, "beta": 1.0, "s": 0.25, "eta": 1.0}
    joint, aggressive = (
        value("dynamics", f"escape_rate_{x}", **p) for x in ("joint", "aggressive")
    )
    assert (joint, aggressive) == pytest.approx((2.529, 19.04), abs=5e-4)
