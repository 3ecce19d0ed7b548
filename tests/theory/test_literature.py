"""Published formulas and printed numbers, against `solve`.

Wang & Ziyin 2022, "Posterior collapse of a linear latent variable model" (arXiv 2205.04009);
Dang et al. 2024, "Beyond vanilla variational autoencoders" (arXiv 2306.05023). Singular values:
omega of the decoder, lambda of the encoder times the square root of the covariance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from linvae.moments import Moments
from linvae.spec import CVAESpec, HVAESpec, VAESpec
from linvae.theory import solve

from .problems import random_covariance

# singular values of 4 x 4 matrices of size 1 to 10, through square roots of differences: a value
# of exactly zero comes out as the root of the rounding
ROUNDING = 1e-7


def _diagonal(variances) -> Moments:
    return Moments.from_covariance(np.diag(np.asarray(variances, dtype=float)))


def _regression(zeta) -> Moments:
    """y = diag(zeta) x with x white: the singular values of E[y x^T] Cov(x)^(-1/2) are zeta."""
    Z = np.diag(zeta)
    return Moments.from_covariance(
        np.block([[np.eye(len(zeta)), Z], [Z, Z @ Z]]), condition_dim=len(zeta)
    )


def _root(C: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(C)
    return (vectors * np.sqrt(values)) @ vectors.T


def _singular(matrix: np.ndarray) -> np.ndarray:
    return np.linalg.svd(matrix, compute_uv=False)


def _without_density_constant(solution, d: int) -> float:
    """The published losses leave d/2 log(2 pi s) out."""
    return solution.objective - d / 2 * np.log(2 * np.pi * solution.decoder_variance)


# --- Wang & Ziyin 2022: the theory columns beside their experiments ----------------------------

LINEAR = _diagonal([25, 16, 9, 4, 1])
REGRESSION = _regression([3.2911, 2.9455, 2.4364, 2.2479, 1.7337])
TABLE = [
    # data, latent_dim, beta, L, sigma
    ("linear", LINEAR, 5, 1, 7.287, [0.200, 0.250, 0.333, 0.500, 1]),
    ("linear", LINEAR, 5, 5, 18.401, [0.447, 0.559, 0.745, 1, 1]),
    ("linear", LINEAR, 5, 10, 23.931, [0.632, 0.791, 1, 1, 1]),
    ("linear", LINEAR, 5, 15, 26.315, [0.775, 0.968, 1, 1, 1]),
    ("linear", LINEAR, 5, 20, 27.231, [0.894, 1, 1, 1, 1]),
    ("linear", LINEAR, 5, 25, 27.500, [1, 1, 1, 1, 1]),
    ("squeeze", LINEAR, 3, 5, 18.401, [0.447, 0.559, 0.745]),
    ("squeeze", LINEAR, 3, 20, 27.231, [0.894, 1, 1]),
    ("regression", REGRESSION, 5, 1, 7.022, [0.304, 0.340, 0.410, 0.445, 0.577]),
    ("regression", REGRESSION, 5, 5, 15.269, [0.679, 0.759, 0.918, 0.995, 1]),
    ("regression", REGRESSION, 5, 10, 16.735, [0.961, 1, 1, 1, 1]),
    ("regression", REGRESSION, 5, 15, 16.751, [1, 1, 1, 1, 1]),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]}-latent{row[2]}-beta{row[3]}")
def test_wang_ziyin_theory_columns(row):
    _, moments, latent_dim, beta, loss, sigma = row
    solution = solve(VAESpec(latent_dim, beta=beta), moments)
    # three digits printed; the regression's zeta have four, which moves L by up to 4e-4
    assert _without_density_constant(solution, 5) == pytest.approx(loss, abs=5.1e-4)
    found = np.sqrt(solution.encoder_variances[0, :latent_dim])
    np.testing.assert_allclose(np.sort(found), sigma, atol=5.1e-4)


# centred pixels/255: five largest eigenvalues and the sum of the rest, spread below the fifth
MNIST_TOP = [5.11678773, 3.74132848, 3.25265424, 2.84157334, 2.56707496]
MNIST = _diagonal([*MNIST_TOP, *np.full(40, 35.20561675 / 40)])


@pytest.mark.parametrize(
    ("beta", "modes"), [(1, 5), (2.75, 4), (3, 3), (3.5, 2), (4, 1), (6, 0)], ids=str
)
def test_wang_ziyin_mnist_mode_counts(beta, modes):
    assert solve(VAESpec(5, beta=beta), MNIST).active_units.tolist() == [modes]


@pytest.mark.parametrize(
    ("beta", "loss"),
    [(0.15, 19.15), (1.05, 23.31), (1.95, 25.19), (3.0, 26.06), (4.05, 26.30), (6.0, 26.36)],
    ids=str,
)
def test_wang_ziyin_mnist_linear_loss(beta, loss):
    solution = solve(VAESpec(5, beta=beta), MNIST)
    assert _without_density_constant(solution, 45) == pytest.approx(loss, abs=5.1e-3)


# --- Wang & Ziyin 2022: theorems ----------------------------------------------------------------


@dataclass(frozen=True)
class OneLevel:
    """Random numbers for a one-level model in the notation of the papers."""

    number: int

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.number)
        C = random_covariance(rng, 5)
        k = int(rng.integers(1, 5))
        values = {
            "moments": Moments.from_covariance(C),
            "zeta": np.sqrt(np.linalg.eigvalsh(C)[::-1]),
            "k": k,
            "beta": float(np.exp(rng.uniform(-1, 1))),
            "s": float(np.exp(rng.uniform(-2, 0))),
            "eta2": float(np.exp(rng.uniform(-1, 1))),
            "sigma2": np.exp(rng.uniform(-2, 0.5, size=k)),
        }
        self.__dict__.update(values)

    def spec(self, fixed: bool) -> VAESpec:
        return VAESpec(
            self.k, beta=self.beta, decoder_variance=self.s, prior_variance=self.eta2,
            encoder_variance=self.sigma2 if fixed else None,
        )  # fmt: skip


ONE_LEVEL = [OneLevel(i) for i in range(10)]


def _by_number(case) -> str:
    return str(case.number)


@pytest.mark.parametrize("q", ONE_LEVEL, ids=_by_number)
def test_wang_ziyin_theorem_2(q):
    """Learned Sigma: singular values of decoder and encoder, encoder standard deviations."""
    solution = solve(q.spec(fixed=False), q.moments)
    excess = np.sqrt(np.maximum(0, q.zeta**2 - q.beta * q.s))[: q.k]
    np.testing.assert_allclose(
        _singular(solution.weights["U"]), excess / np.sqrt(q.eta2), atol=ROUNDING
    )
    whitened = solution.weights["W"] @ _root(q.moments.covariance)
    expected = np.sort(np.sqrt(q.eta2) / q.zeta[: q.k] * excess)[::-1]
    np.testing.assert_allclose(_singular(whitened), expected, atol=ROUNDING)
    sigma = np.where(
        q.beta * q.s < q.zeta**2, np.sqrt(q.beta * q.s * q.eta2) / q.zeta, np.sqrt(q.eta2)
    )
    np.testing.assert_allclose(
        np.sqrt(solution.encoder_variances[0, : q.k]), sigma[: q.k], rtol=1e-12
    )


@pytest.mark.parametrize("q", ONE_LEVEL, ids=_by_number)
def test_wang_ziyin_corollary_2(q):
    """Closed-form minimum with learned Sigma."""
    t = q.beta * q.s / q.zeta**2
    gain = np.where(t < 1, q.zeta**2 * (1 + t * (np.log(t) - 1)), 0)[: q.k].sum()
    expected = (np.sum(q.zeta**2) - gain) / (2 * q.s)
    found = _without_density_constant(solve(q.spec(fixed=False), q.moments), 5)
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("q", ONE_LEVEL, ids=_by_number)
def test_wang_ziyin_proposition_2_and_dang_theorem_1(q):
    """Fixed diagonal Sigma: the smallest noise takes the largest singular value."""
    solution = solve(q.spec(fixed=True), q.moments)
    sigma, zeta = np.sqrt(np.sort(q.sigma2)), q.zeta[: q.k]
    eta_ratio = np.sqrt(q.s / q.eta2)
    excess = np.maximum(0, zeta - np.sqrt(q.beta) * sigma * eta_ratio)
    omega = np.sqrt(np.sqrt(q.beta) * eta_ratio / sigma * excess)
    lam = np.sqrt(sigma / (np.sqrt(q.beta) * eta_ratio) * excess)
    whitened = solution.weights["W"] @ _root(q.moments.covariance)
    descending = slice(None, None, -1)
    np.testing.assert_allclose(
        _singular(solution.weights["U"]), np.sort(omega)[descending], atol=ROUNDING
    )
    np.testing.assert_allclose(_singular(whitened), np.sort(lam)[descending], atol=ROUNDING)


@pytest.mark.parametrize("q", ONE_LEVEL, ids=_by_number)
def test_wang_ziyin_corollary_1(q):
    """Minimum of |U V - Z|^2 + tr(U Sigma U^T) + beta s/eta^2 |V|^2 with fixed Sigma."""
    sigma = np.sqrt(np.sort(q.sigma2))
    r = np.sqrt(q.beta * q.s / q.eta2) * sigma
    expected = np.sum(q.zeta**2) - np.sum(np.maximum(0, q.zeta[: q.k] - r) ** 2)
    ratio = q.sigma2 / q.eta2
    constant = q.beta / 2 * np.sum(ratio - 1 - np.log(ratio))
    found = _without_density_constant(solve(q.spec(fixed=True), q.moments), 5) - constant
    assert 2 * q.s * found == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("t", [0.05, 0.5, 0.999])
def test_parts_of_the_rate_of_an_active_mode(t):
    """(1 - t)/2 from the mean and (t - 1 - log t)/2 from the variance, t = beta s/zeta^2."""
    solution = solve(VAESpec(1, decoder_variance=t, prior_variance=3.0), _diagonal([1.0]))
    W, Sigma = solution.weights["W"][0, 0], solution.weights["Sigma"][0, 0]
    mean_part = W**2 / (2 * 3.0)
    assert mean_part == pytest.approx((1 - t) / 2, rel=1e-12)
    variance_part = (Sigma / 3.0 - 1 - np.log(Sigma / 3.0)) / 2
    # the difference of t - 1 and log t loses digits as t goes to 1
    assert variance_part == pytest.approx((t - 1 - np.log(t)) / 2, abs=1e-15)
    assert solution.rates[0] == pytest.approx(-np.log(t) / 2, rel=1e-11)


# --- Dang et al. 2024 --------------------------------------------------------------------------


def _conditional(eigenvalues) -> Moments:
    """Target with the given conditional covariance and a condition that explains some more."""
    d = len(eigenvalues)
    rng = np.random.default_rng(0)
    slope = rng.normal(size=(d, 2))
    basis = np.linalg.qr(rng.normal(size=(d, d)))[0]
    joint = np.vstack([np.eye(2), slope])
    C = joint @ joint.T
    C[2:, 2:] += (basis * eigenvalues) @ basis.T
    return Moments.from_covariance(C, condition_dim=2)


@pytest.mark.parametrize("beta", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("s", [0.25, 1.0])
def test_dang_theorem_2(beta, s):
    """Eigenvalues of the conditional covariance take the place of zeta^2."""
    theta = np.array([3.440, 1.540, 0.899])
    solution = solve(CVAESpec(3, beta=beta, decoder_variance=s), _conditional(theta))
    omega = np.sqrt(np.maximum(0, theta - beta * s))
    sigma = np.where(theta > beta * s, np.sqrt(beta * s / theta), 1.0)
    np.testing.assert_allclose(_singular(solution.weights["U1"]), omega, atol=ROUNDING)
    np.testing.assert_allclose(np.sqrt(solution.encoder_variances[0, :3]), sigma, rtol=1e-9)


def test_dang_theorem_2_with_the_threshold_of_the_published_code():
    """The published code compares with sqrt(beta) eta_dec: 1.1396, above the prior, for mode 2."""
    solution = solve(CVAESpec(3, beta=2.0), _conditional([3.440, 1.540, 0.899]))
    found = np.sqrt(solution.encoder_variances[0, :3])
    np.testing.assert_allclose(found, [0.7625, 1, 1], atol=5e-5)  # four digits
    assert np.sqrt(2 / 1.540) == pytest.approx(1.1396, abs=5e-5)


@dataclass(frozen=True)
class TwoLevels:
    """Random numbers for the published two-level hierarchy."""

    number: int

    def __post_init__(self) -> None:
        rng = np.random.default_rng([77, self.number])
        C = random_covariance(rng, 4)
        values = {
            "moments": Moments.from_covariance(C),
            "theta": np.sqrt(np.linalg.eigvalsh(C)[::-1])[:3],
            "beta1": float(rng.uniform(0.3, 2.5)),
            "beta2": float(rng.uniform(0.3, 2.5)),
            "eta_dec": float(rng.uniform(0.3, 1.6)),
            "eta_enc": float(rng.uniform(0.3, 1.6)),
            "sigma1": float(rng.uniform(0.3, 1.6)),
            "sigma2": float(rng.uniform(0.3, 1.6)),
        }
        self.__dict__.update(values)

    def solve(self, second_fixed: bool):
        spec = HVAESpec.markovian(
            [3, 3],
            betas=[self.beta1, self.beta2],
            decoder_variance=self.eta_dec**2,
            prior_variance=self.eta_enc**2,
            encoder_variances=[self.sigma1**2, self.sigma2**2 if second_fixed else None],
        )
        return solve(spec, self.moments)


TWO_LEVELS = [TwoLevels(i) for i in range(40)]


def _theorem_3(q: TwoLevels, theta: float) -> tuple[str, float, float]:
    """Regime, lambda of V1 and omega of U2."""
    s, eta2, b1, b2 = q.eta_dec**2, q.eta_enc**2, q.beta1, q.beta2
    noise = q.sigma1**2 - b2 / b1 * s
    both = q.sigma1 / (np.sqrt(b2) * q.eta_dec) * np.sqrt(max(0, theta**2 - b2 * s))
    signal = q.sigma1**2 * theta**2 / (b2 * eta2 * s) - s / eta2 * b2 / b1
    if noise >= 0:
        return "noise", both, np.sqrt(max(noise / eta2, signal))
    if q.sigma1 * theta < b2 * s / np.sqrt(b1):
        lam = q.sigma1 / np.sqrt(b1) * (theta - np.sqrt(b1) * q.sigma1)
        return "upper collapsed", np.sqrt(max(0, lam)), 0.0
    return "both active", both, np.sqrt(signal)


def _theorem_5(q: TwoLevels, theta: float, published_code=False) -> tuple[str, float, float]:
    """Regime, lambda of V1 and omega of U2; the second threshold corrected unless told."""
    c, b1, b2, s1, s2 = q.eta_dec / q.eta_enc, q.beta1, q.beta2, q.sigma1, q.sigma2
    first = np.sqrt(np.sqrt(b1 * b2) * c * s1 * s2)
    second = b2 * c**2 * s2**2 / s1 * (np.sqrt(b1) if published_code else 1 / np.sqrt(b1))
    if theta >= first and theta >= second:
        lam = np.cbrt(s1**2 / (np.sqrt(b1 * b2) * c * s2))
        lam *= np.sqrt(theta ** (4 / 3) - np.cbrt(np.sqrt(b1 * b2) * c * s1 * s2) ** 2)
        omega = np.cbrt(np.sqrt(b2) * c * s1 / (b1 * s2**2))
        inside = theta ** (2 / 3) - np.cbrt(b2**2 * c**4 * s2**4 / (b1 * s1**2))
        return "both active", lam, omega * np.sqrt(inside) if inside >= 0 else np.nan
    if np.sqrt(b1) * s1 >= np.sqrt(b2) * c * s2:
        inside = np.sqrt(b2) * c * s1 / (np.sqrt(b1) * s2) - b2 / b1 * c**2
        return "noise", 0.0, np.sqrt(inside)
    if theta < np.sqrt(b1) * s1:
        return "all collapsed", 0.0, 0.0
    return "lower only", np.sqrt(s1 * (theta / np.sqrt(b1) - s1)), 0.0


def _descending(values) -> np.ndarray:
    return np.sort(values)[::-1]


@pytest.mark.parametrize("q", TWO_LEVELS, ids=_by_number)
def test_dang_theorem_3(q):
    solution = q.solve(second_fixed=False)
    _, lam, omega = zip(*(_theorem_3(q, theta) for theta in q.theta), strict=True)
    whitened = solution.weights["W1"] @ _root(q.moments.covariance)
    np.testing.assert_allclose(_singular(whitened), _descending(lam), atol=ROUNDING)
    np.testing.assert_allclose(_singular(solution.weights["U2"]), _descending(omega), atol=ROUNDING)
    # the factors that the theorem leaves to the stationarity conditions
    lam, omega, s = np.array(lam), np.array(omega), q.eta_dec**2
    denominator = q.beta1 * omega**2 + q.beta2 * s / q.eta_enc**2
    np.testing.assert_allclose(
        solution.encoder_variances[1, :3], q.beta2 * s / denominator, rtol=1e-9
    )
    W2, U1 = q.beta1 * omega / denominator, q.theta * lam / (lam**2 + q.sigma1**2)
    np.testing.assert_allclose(_singular(solution.weights["W2"]), _descending(W2), atol=ROUNDING)
    np.testing.assert_allclose(_singular(solution.weights["U1"]), _descending(U1), atol=ROUNDING)


@pytest.mark.parametrize("q", TWO_LEVELS, ids=_by_number)
def test_dang_theorem_5_with_its_second_threshold_corrected(q):
    solution = q.solve(second_fixed=True)
    _, lam, omega = zip(*(_theorem_5(q, theta) for theta in q.theta), strict=True)
    whitened = solution.weights["W1"] @ _root(q.moments.covariance)
    np.testing.assert_allclose(_singular(whitened), _descending(lam), atol=ROUNDING)
    np.testing.assert_allclose(_singular(solution.weights["U2"]), _descending(omega), atol=ROUNDING)


def _regimes(theorem) -> set[str]:
    return {theorem(q, theta)[0] for q in TWO_LEVELS for theta in q.theta}


def test_random_settings_visit_every_regime():
    assert _regimes(_theorem_3) == {"noise", "upper collapsed", "both active"}
    assert _regimes(_theorem_5) == {"both active", "noise", "all collapsed", "lower only"}


def test_dang_theorem_5_as_in_the_published_code_differs():
    """beta_2^2 beta_1 in place of beta_2^2/beta_1: wrong in a good part of the settings."""

    def differs(q: TwoLevels) -> bool:
        right = [_theorem_5(q, theta)[1:] for theta in q.theta]
        theirs = [_theorem_5(q, theta, published_code=True)[1:] for theta in q.theta]
        return not np.allclose(right, theirs, atol=1e-6)

    assert sum(differs(q) for q in TWO_LEVELS) >= 5


@pytest.mark.parametrize("correlation", [0.0, 0.125, 0.25, 0.5, 1.0])
def test_dang_correlation_study(correlation):
    """Target N(0, I), condition = a y + sqrt(1 - a^2) noise: every mode has variance 1 - a^2."""
    a, eye = correlation, np.eye(6)
    moments = Moments.from_covariance(np.block([[eye, a * eye], [a * eye, eye]]), condition_dim=6)
    solution = solve(CVAESpec(6, decoder_variance=0.25), moments)
    np.testing.assert_allclose(solution.mode_variances, 1 - a**2, atol=1e-14)
    assert solution.active_units[0] == (0 if a == 1 else 6)
