"""Song, Kim, Lee 2025, "Local posterior collapse and latent reconstruction" (arXiv 2508.12530).

Only the abstract and the authors' code could be read. Loss: total = recon + beta KL + alpha w(t) LR
with recon = |x - xhat|^2 and LR = |z - mu_enc(dec(z))|^2. In the linear model, per mode of variance
theta^2, decoder u, encoder w, encoder variance v and twice the objective,

    theta^2 (1 - u w)^2/s + u^2 v/s + beta (w^2 theta^2 + v - log v - 1) + gamma LR,
    gamma = 2 alpha, s = 1/2.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from scipy.stats import chi2, norm

from linvae.moments import Moments
from linvae.spec import VAESpec
from linvae.theory import solve
from paper_checks.checks import (
    DIFFERENCES,
    ROUNDING,
    Array,
    Finding,
    Paper,
    batch_information,
    critical_beta,
    crossing,
    diagonal,
    hessian,
    kl_by_quadrature,
    largest,
    needs_data,
    not_checkable,
    real_data,
    settings,
)

PAPER = Paper("song2025", "Song et al. 2025")
S = 0.5  # decoder variance of a squared error without 1/2


# --- the loss -----------------------------------------------------------------------------------


@PAPER.claim("loss (code), reconstruction")
def reconstruction() -> Finding:
    """The squared error without 1/2 is a Gaussian decoder of variance 1/2, up to a constant."""
    rng = np.random.default_rng(0)
    error = rng.normal(size=(50, 7)) * np.exp(rng.normal(size=(50, 1)))
    minus_log_p = -norm(scale=math.sqrt(S)).logpdf(error).sum(axis=1)
    constant = 7 / 2 * math.log(2 * math.pi * S)
    gap = float(np.abs(np.sum(error**2, axis=1) + constant - minus_log_p).max())
    critical = solve(VAESpec(1, decoder_variance=S), diagonal([3.0])).critical_beta[0]
    note = f"so a mode of variance 3 dies at beta {critical:.0f}, not 3"
    return Finding(gap, ROUNDING, "nats", note)


@PAPER.claim("loss (code), what the variance 1/2 does to beta")
def critical_beta_of_the_code() -> Finding:
    """The beta of the code has the meaning of a decoder with unit variance."""
    gaps: list[list[float]] = [[], []]
    for q in settings(20):
        found = solve(VAESpec(q.k, decoder_variance=S), q.moments).critical_beta[0]
        for gap, factor in zip(gaps, (1, 2), strict=True):
            gap.append(abs(float(found) / (factor * q.theta[0] ** 2) - 1))
    note = "critical beta is 2 theta^2"
    return Finding(largest(gaps[0]), ROUNDING, "relative", note, corrected=largest(gaps[1]))


def optimal_sigma(mse: float, D: int) -> float:
    """The log-MSE variant of the reconstruction term."""
    return D / 2 * (math.log(2 * math.pi * mse + 1e-5) + 1)


@PAPER.claim("loss (code), log-MSE variant")
def log_mse() -> Finding:
    """(D/2)(log(2 pi mse + 1e-5) + 1) is the Gaussian loss at its best decoder variance."""
    gaps = []
    for mse in np.geomspace(1e-3, 10, 9):
        best = (math.log(2 * math.pi * mse) + mse / mse) / 2  # D/2 (log 2 pi s + mse/s) at s = mse
        around = [(math.log(2 * math.pi * s) + mse / s) / 2 for s in mse * np.array([0.9, 1.1])]
        gaps += [abs(optimal_sigma(mse, 1) - best), max(0.0, best - min(around))]
    return Finding(
        largest(gaps), 1e-3, "nats per pixel", "mse 0.001 to 10; the 1e-5 costs the rest"
    )


@PAPER.claim("loss (code), KL")
def kl_term() -> Finding:
    """KL = 1/2 (mu^2 + sigma^2 - log sigma^2 - 1) per unit."""
    gaps = []
    for mean, deviation in ((0.0, 1.0), (1.3, 0.4), (-0.7, 1.8)):
        claimed = (mean**2 + deviation**2 - 2 * math.log(deviation) - 1) / 2
        gaps.append(abs(kl_by_quadrature(mean, deviation) - claimed))
    return Finding(largest(gaps), 1e-8, "nats", "against numerical integration")


# --- latent reconstruction in the linear model --------------------------------------------------


def lr_term(u: Array, w: Array, v: Array, theta2: float, source: str, prior: float = 1.0) -> Array:
    """E|target - w u z|^2 for the three sources of z in the code."""
    if source == "qzx":  # z from q(z|x), target the mean of q
        return np.asarray((1 - u * w) ** 2 * w**2 * theta2 + (u * w) ** 2 * v)
    second_moment = w**2 * theta2 + v if source == "Ex" else prior
    return np.asarray((1 - u * w) ** 2 * second_moment)


def lr_loss(
    points: Array, beta: float, theta2: float, gamma: float, source: str, prior: float = 1.0
) -> Array:
    """Twice the objective of one mode; numbers: u, w, log v."""
    u, w, log_v = points.T
    v = np.exp(log_v)
    error = theta2 * (1 - u * w) ** 2 + u**2 * v
    total = error / S + beta * (w**2 * theta2 + v - log_v - 1)
    return np.asarray(total + gamma * lr_term(u, w, v, theta2, source, prior))


def collapsed_variance(beta: float, gamma: float, source: str) -> float:
    """Encoder variance of the collapsed point: with 'Ex' the LR term shrinks it below the prior."""
    return beta / (beta + gamma) if source == "Ex" else 1.0


def lr_threshold(theta2: float, gamma: float, source: str, prior: float = 1.0) -> float:
    """Critical beta of the collapsed point, from its curvature in u and w."""
    plain = theta2 / S
    if source == "pz":
        return plain * (1 + gamma * prior / plain) ** 2
    if source == "qzx":
        return plain - gamma
    return crossing(
        lambda b: b * plain - (plain + gamma * collapsed_variance(b, gamma, source)) ** 2, plain
    )


def _lr_gap(theta2: float, gamma: float, source: str, prior: float = 1.0) -> float:
    def loss(points: Array, beta: float) -> Array:
        log_v = math.log(collapsed_variance(beta, gamma, source))
        full = np.column_stack([points, np.full(len(points), log_v)])
        return lr_loss(full, beta, theta2, gamma, source, prior)

    claimed = lr_threshold(theta2, gamma, source, prior)
    return abs(critical_beta(loss, np.zeros(2), claimed) / claimed - 1)


GRID = [(theta2, gamma) for theta2 in (0.3, 1.0, 3.0) for gamma in (0.02, 0.2, 0.5)]


@PAPER.claim("abstract, LR loss against collapse (z from the prior, linear VAE)")
def lr_raises_the_threshold() -> Finding:
    """LR multiplies the critical beta of a mode by (1 + gamma s/theta^2)^2."""
    gaps = [_lr_gap(theta2, gamma, "pz") for theta2, gamma in GRID]
    factors = [lr_threshold(theta2, 0.2, "pz") * S / theta2 for theta2 in (0.03, 0.3, 3.0)]
    note = (
        "alpha 0.1: factor " + ", ".join(f"{f:.2f}" for f in factors) + " at variance 0.03, 0.3, 3:"
        " modes that carry least gain most"
    )
    return Finding(largest(gaps), DIFFERENCES, "relative", note)


@PAPER.claim("loss (code), sampled z as source and target ('Ex', linear VAE)")
def lr_on_samples() -> Finding:
    """With sampled z, the default, LR raises the critical beta of every mode."""
    checked = largest(_lr_gap(theta2, gamma, "Ex") for theta2, gamma in GRID)
    raised = min(lr_threshold(t, g, "Ex") * S / t for t, g in GRID)
    less = largest(1 - lr_threshold(t, g, "Ex") / lr_threshold(t, g, "pz") for t, g in GRID)
    note = (
        f"by a factor {raised:.3f} at least, but up to {less:.0%} less than with z from the prior:"
        f" the term shrinks the collapsed encoder variance to beta/(beta + gamma)"
    )
    gap = max(checked, 1 - raised)
    return Finding(gap, DIFFERENCES, "relative", note)


@PAPER.claim("loss (code), target mu(x) ('qzx', linear VAE)")
def lr_on_means() -> Finding:
    """With mu(x) as the target LR raises the critical beta too."""
    checked = largest(_lr_gap(theta2, gamma, "qzx") for theta2, gamma in GRID)
    lowered = largest(1 - lr_threshold(t, g, "qzx") * S / t for t, g in GRID)
    note = (
        f"it lowers the critical beta to theta^2/s - gamma (curvature gap {checked:.1g}): a "
        "collapsed encoder has nothing to reconstruct"
    )
    return Finding(lowered, 0, "relative fall of the critical beta", note)


@PAPER.claim("loss (code), 'pz'")
def prior_of_the_code() -> Finding:
    """With 'pz', z is drawn from the prior N(0, I)."""
    code = math.exp(0.5)  # log-variance 1 through exp(0.5 log_var)
    drawn = float(np.std(code * np.random.default_rng(4).normal(size=100_000)))
    thresholds = [lr_threshold(0.3, 0.2, "pz", prior) for prior in (1.0, code**2)]
    checked = _lr_gap(0.3, 0.2, "pz", code**2)
    note = (
        f"deviation {code:.3f}, variance e: the LR term weighs {code**2:.2f} times as much; "
        f"critical beta at variance 0.3, alpha 0.1: {thresholds[1]:.3f} instead of "
        f"{thresholds[0]:.3f} (curvature gap {checked:.1g})"
    )
    # 100,000 draws: a relative deviation of 0.2 %
    return Finding(drawn - 1, 0.01, "of the deviation", note, corrected=abs(drawn - code))


def routed_threshold(theta2: float, gamma: float, factor: float) -> float:
    """Critical beta where `factor` times LR's gradient reaches the encoder, z from the prior."""
    plain = theta2 / S
    return (plain + gamma) * (plain + factor * gamma) / plain


@PAPER.claim("training (code), gradient routing (linear VAE)")
def gradient_routing() -> Finding:
    """Factor 0, no gradient of LR on the encoder, means collapse as without LR."""
    theta2, gamma, plain = 0.3, 0.2, 0.3 / S

    def growth(beta: float, factor: float) -> float:
        loss = partial(lr_loss, beta=beta, theta2=theta2, source="pz")
        base = hessian(partial(loss, gamma=0.0), np.zeros(3))[:2, :2]
        lr = hessian(partial(loss, gamma=gamma), np.zeros(3))[:2, :2] - base
        flow = -(base + np.diag([1, factor]) @ lr)
        return float(np.linalg.eigvals(flow).real.max())

    found = {f: crossing(partial(growth, factor=f), plain) for f in (1.0, 1e-4, 0.0)}
    checked = largest(abs(found[f] / routed_threshold(theta2, gamma, f) - 1) for f in found)
    note = (
        "critical beta over theta^2/s at variance 0.3, alpha 0.1: "
        + ", ".join(f"{b / plain:.3f} (factor {f:g})" for f, b in found.items())
        + f"; closed form within {checked:.1g}: the decoder's share alone gives the square root"
    )
    return Finding(found[0.0] / plain - 1, DIFFERENCES, "relative rise at factor 0", note)


# --- schedules ----------------------------------------------------------------------------------


def linear_warm_up(E: int, E0: int = 0) -> Array:
    """w in each epoch, as coded."""
    w, weights = 0.0, []
    for epoch in range(E):
        if epoch >= E0:
            w = min(w + 1 / (E - E0 + 1), 1.0)
        weights.append(w)
    return np.array(weights)


@PAPER.claim("training (code), linear warm-up")
def warm_up() -> Finding:
    """The weight of LR reaches 1 in the last epoch."""
    last = {E: linear_warm_up(E)[-1] for E in (10, 100, 1000)}
    note = "E/(E + 1): " + ", ".join(f"{w:.4f} at E = {E}" for E, w in last.items())
    gaps = [largest(abs(w - goal(E)) for E, w in last.items()) for goal in (lambda _: 1, _share)]
    return Finding(gaps[0], ROUNDING, "", note, corrected=gaps[1])


def _share(epochs: int) -> float:
    return epochs / (epochs + 1)


@PAPER.claim("training (code), other warm-ups")
def other_warm_ups() -> Finding:
    """Exponential warm-up goes from 0 to 1; repeat_linear rises within each repeat."""
    t = np.arange(101)
    exponential = np.exp(t * math.log(2) / 100) - 1
    ends = max(abs(exponential[0]), abs(exponential[-1] - 1))
    repeat = 1 / (t[:10] % 10 + 1)
    adaptive = 1 / (1 + math.exp(5 - 5))
    note = (
        f"exponential ends within {ends:.1g}, its last epoch has {exponential[99]:.3f}; "
        f"repeat_linear falls from {repeat[0]:.0f} to {repeat[-1]:.1f}; kl_adaptive is "
        f"{adaptive} at a KL of 5"
    )
    return Finding(float(max(0, -np.diff(repeat).min())), ROUNDING, "fall of repeat_linear", note)


# --- metrics ------------------------------------------------------------------------------------


def counted(variance: float, batch: int = 50) -> float:
    """Chance that a unit's variance (1/n) within a batch reaches 0.01; Gaussian means."""
    return float(chi2.sf(0.01 * batch / variance, batch - 1))


@PAPER.claim("metrics (code), active units")
def active_units_of_a_batch() -> Finding:
    """AU within batches of 50 is the population statistic with threshold 0.01."""
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(4000, 50)) * math.sqrt(0.009)
    simulated = float(np.mean(draws.var(axis=1) >= 0.01))
    error = math.sqrt(counted(0.009) * (1 - counted(0.009)) / 4000)
    note = (
        f"population variance 0.009, 0.01, 0.011: counted in {counted(0.009):.2f}, "
        f"{counted(0.010):.2f}, {counted(0.011):.2f} of batches instead of 0, 1, 1 (simulation "
        f"within {abs(simulated - counted(0.009)) / error:.1f} standard errors); the first batch "
        "alone, as since July 2025, decides it by one draw"
    )
    return Finding(max(counted(0.009), 1 - counted(0.010)), 0.05, "of a unit", note)


@PAPER.claim("metrics (code), MI")
def information_of_a_batch() -> Finding:
    """MI within batches of 50 estimates the mutual information."""
    rng = np.random.default_rng(1)
    variance, k = math.exp(-2), 20  # 1 nat in each of 20 units
    scale = math.sqrt(1 - variance)
    draws = [batch_information(rng.normal(size=(50, k)) * scale, variance, rng) for _ in range(200)]
    note = f"truth 20 nats, estimate {np.mean(draws):.3f}: never above log 50 = {math.log(50):.3f}"
    gaps = 20 - float(np.mean(draws)), abs(math.log(50) - float(np.mean(draws)))
    return Finding(gaps[0], 0.3, "nats below the truth", note, corrected=gaps[1])


def pooled_nll(recon: float, log_ratio: Array) -> float:
    """The NLL of the code: one reconstruction loss for all, one log-sum-exp over the batch."""
    return recon - float(np.logaddexp.reduce(log_ratio.ravel())) + math.log(log_ratio.shape[1])


@PAPER.claim("metrics (code), NLL")
def nll_of_the_code() -> Finding:
    """The 100-sample NLL is an importance-weighted bound: not below the exact NLL."""
    rng = np.random.default_rng(2)
    variances = 4.0 * 0.7 ** np.arange(10)
    d, found = len(variances), solve(VAESpec(5, decoder_variance=S), diagonal(variances))
    U, W, Sigma = (found.weights[name] for name in ("U", "W", "Sigma"))
    x = rng.normal(size=(50, d)) * np.sqrt(variances)
    noise = rng.normal(size=(50, 100, 5)) * np.sqrt(np.diag(Sigma))
    z = (x @ W.T)[:, None] + noise
    recon = float(np.mean(np.sum((x - z[:, 0] @ U.T) ** 2, axis=1)))
    log_ratio = (np.sum(noise**2 / np.diag(Sigma), axis=2) - np.sum(z**2, axis=2)) / 2
    log_ratio += np.log(np.diag(Sigma)).sum() / 2
    code = pooled_nll(recon, log_ratio) + d / 2 * math.log(2 * math.pi * S)
    cov = S * np.eye(d) + U @ U.T
    square = np.sum(x @ np.linalg.inv(cov) * x, axis=1).mean()
    exact = (d * math.log(2 * math.pi) + np.linalg.slogdet(cov)[1] + square) / 2
    note = f"linear VAE: {code:.2f} nats reported, exact {exact:.2f} (KL {found.rates[0]:.2f})"
    return Finding(max(0.0, exact - code), 0.5, "nats below the exact NLL", note)


@PAPER.claim("metrics (code), Lipschitz constants")
def lipschitz() -> Finding:
    """95 % and 5 % quantiles of |f(z1) - f(z2)|/|z1 - z2| estimate the bi-Lipschitz constant."""
    rng = np.random.default_rng(3)
    low = []
    for singular in ((3.0, 0.5), (1.0, 0.01), (20.0, 2.0)):
        step = rng.normal(size=(20_000, 2))
        ratio = np.linalg.norm(step * singular, axis=1) / np.linalg.norm(step, axis=1)
        estimate = max(np.quantile(ratio, 0.95), 1 / max(np.quantile(ratio, 0.05), 1e-3))
        low.append(1 - estimate / max(singular[0], 1 / singular[1]))
    note = (
        "linear decoders of two units, condition numbers 6, 100, 10: below the true constant by "
        + ", ".join(f"{value:.1%}" for value in low)
    )
    return Finding(largest(low), 0.1, "relative", note)


# --- results ------------------------------------------------------------------------------------

STUDY = {  # beta: (KL, L) at alpha 0, 0.1, 0.2, 0.3, 0.4
    0.1: ((5.70, 193), (128, 9.9), (256, 19.9), (397, 14.2), (407, 7.4)),
    0.2: ((4.85, 190), (64, 7.7), (106, 5.8), (126, 8.6), (289, 8.9)),
    0.3: ((4.27, 121), (29, 6.2), (36, 11.1), (98, 7.6), (77, 5.1)),
    0.4: ((3.92, 144), (4.7, 4.7), (4.5e3, 4.7), (46, 5.9), (47, 4.3)),
    0.5: ((3.99, 209), (4.4, 5.2), (45, 6.4), (76, 7.2), (151, 4.6)),
    0.6: ((3.60, 112), (3.9, 5.4), (1.1e6, 4.0), (28, 4.3), (25, 5.1)),
}
CELLS = {0.1: (0.91, 0.33, 0.00), 0.2: (0.88, 0.86, 0.06), 1.0: (0.81, 0.53, 0.43)}


@PAPER.claim("2-D study (CSV), decoder's constant L(z)")
def lr_lowers_lipschitz() -> Finding:
    """LR cuts L(z) by one to two orders of magnitude."""
    table = np.array([[L for _, L in row] for row in STUDY.values()])
    orders = np.log10(table[:, :1] / table[:, 1:])
    note = f"24 medians of four seeds: {orders.min():.2f} to {orders.max():.2f} orders"
    # medians of four runs that scatter by a factor two: 0.1 orders of slack
    return Finding(float(max(1 - orders.min(), orders.max() - 2)), 0.1, "orders outside", note)


@PAPER.claim("2-D study (CSV), KL")
def lr_raises_kl() -> Finding:
    """LR raises the KL."""
    table = np.array([[kl for kl, _ in row] for row in STUDY.values()])
    factor = float((table[:, 1:] / table[:, :1]).min())
    above = int(np.sum(table[:, 1:] > math.log(10_000)))
    note = (
        f"24 medians, at least {factor:.2f} times; {above} of them above log n = "
        f"{math.log(10_000):.2f} nats, all that can be said about 10,000 points: the rest is "
        "KL(q(z) || p(z)), a posterior off its prior"
    )
    return Finding(1 - factor, 0, "relative fall", note)


@PAPER.claim("2-D study (CSV), share of locally collapsed z-cells")
def lr_lowers_local_collapse() -> Finding:
    """The share of the 256 cells with KL < 0.1 falls with alpha 0, 0.01, 0.1 at every beta."""
    rise = largest(float(np.diff(row).max()) for row in CELLS.values())
    off_grid = largest(abs(v * 256 - round(v * 256)) / 256 for row in CELLS.values() for v in row)
    note = f"one run each; shares are multiples of 1/256 within {off_grid:.3f}"
    return Finding(rise, 0, "rise", note)


@PAPER.claim("2-D study (CSV), blow-ups")
def blow_ups() -> Finding:
    """Single runs reach a KL of 1e14 to 1e21."""
    return not_checkable("a training failure of single runs: needs their networks")


@PAPER.claim("abstract, local posterior collapse")
def local_collapse() -> Finding:
    """Single data points collapse while the unit as a whole does not (linear VAE)."""
    shares = {}
    for ratio in (1.02, 1.1, 1.5, 4.0):
        t = 1 / ratio
        room = (2 * 0.01 - (t - 1 - math.log(t))) / (1 - t)  # of mu^2/(1 - t) below KL 0.01
        shares[ratio] = float(chi2.cdf(max(room, 0), 1))
    found = solve(VAESpec(1), diagonal([1.02]))
    note = (
        "share of points with KL < 0.01 nats by theta^2/(beta s): "
        + ", ".join(f"{ratio:g}: {share:.2f}" for ratio, share in shares.items())
        + f"; active unit of {found.rates[0]:.4f} nats at 1.02"
    )
    return Finding(1 - shares[1.02], 0.5, "of points", note)


@PAPER.claim("second-hand, Fashion-MNIST at beta 0.1")
def fashion_units() -> Finding:
    """Active units rise from 0.13 (VAE) to 0.95 (LR)."""
    data = real_data("fashion-mnist")
    if data is None:
        return needs_data("fashion-mnist")
    moments = Moments.from_data(data.target)
    found = solve(VAESpec(28, beta=0.1, decoder_variance=S), moments)
    ratio = float(found.critical_beta[27]) / 0.1
    return not_checkable(
        f"needs their networks; a linear VAE keeps {int(found.active_units[0])} of 28 units active "
        f"({data.n_samples} images), the last dying at {ratio:.1f} times their beta: beta alone "
        "does not explain 0.13"
    )


LIDVAE_LOGS = {"Fashion-MNIST": (256.3, -256.6, 2.08), "MNIST": (112.1, -112.4, 1.93)}


@PAPER.claim("baseline logs (LIDVAE code)")
def baseline_logs() -> Finding:
    """The importance-weighted log-likelihood is at least minus the test loss."""
    below = {name: -loss - ll for name, (loss, ll, _) in LIDVAE_LOGS.items()}
    discrete = max(kl for *_, kl in LIDVAE_LOGS.values())
    note = (
        "the printed loss holds another quantity, or fewer samples, than the bound; discrete KL "
        f"{discrete} is below log 10 = {math.log(10):.3f}, as it must"
    )
    gap = largest([*below.values(), discrete - math.log(10)])
    return Finding(gap, 0.1, "nats below", note)


@PAPER.claim("training and architectures (code)")
def training_settings() -> Finding:
    """Optimiser, schedules, networks, latent sizes, data, grids of alpha and beta, baselines."""
    return not_checkable("settings; which routing and AU made the tables is not known")


@PAPER.claim("tables of the paper")
def result_tables() -> Finding:
    """MNIST, Fashion-MNIST, Omniglot, CelebA, FFHQ; definition of local collapse."""
    return not_checkable("definitions, theorems and tables could not be read")
