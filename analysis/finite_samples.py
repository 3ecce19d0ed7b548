"""Useful and spurious units, and the generalisation error, against the number of samples.

    python analysis/finite_samples.py [--out FILE]

Writes finite_samples.json: limits of the spiked covariance model beside simulated samples.
The spiked model, N = 250, alpha = n/N and Adam 1e-3 for 15,000 full-batch steps on weights divided
by sqrt(N) are those of Ichikawa & Hukushima (arXiv 2309.07663), rho = eta = 1.
"""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path

import numpy as np
from scipy.optimize import brentq

import linvae
from linvae.theory.active_units import active_unit_split, expected_active_units
from linvae.theory.penalised import penalised_critical_beta, penalised_optimum
from linvae.theory.spiked_covariance import bulk_edges
from linvae.theory.spiked_generalisation import spiked_generalisation

N = 250
ALPHAS = np.round(np.arange(0.4, 5.21, 0.4), 1)
TRAINED_ALPHAS = (0.4, 1.2, 2.0, 5.2)
SEEDS = range(5)


# --- units --------------------------------------------------------------------------------------


def unit_counts(samples_per_dim: float, beta: float, dim: int = 200) -> dict[str, object]:
    """Active units of 20 on noise of variance 1 and spikes 9, 5, 2; decoder variance 1."""
    n, spikes = round(samples_per_dim * dim), np.array([9.0, 5.0, 2.0])
    population = np.concatenate([spikes, np.ones(dim - 3)])
    model = {"beta": beta, "decoder_variance": 1.0, "latent_dim": 20}
    limit = expected_active_units(spikes, 1.0, dim=dim, n_samples=n, **model)
    counts = []
    for seed in SEEDS:
        x = np.random.default_rng(seed).normal(size=(n, dim)) * np.sqrt(population)
        values = np.linalg.eigvalsh(x.T @ x / n)
        split = active_unit_split(values, n, centered=False, **model)
        counts.append([split.useful_units, split.spurious_units, split.costly_units])
    useful, spurious, costly = np.mean(counts, axis=0).tolist()
    return {
        "samples_per_dim": samples_per_dim,
        "beta": beta,
        "useful": useful,
        "useful_limit": limit[0],
        "spurious": spurious,
        "spurious_limit": limit[1],
        "costly": costly,
    }


# --- the spiked model ---------------------------------------------------------------------------


@functools.cache
def sample_covariance(alpha: float, seed: int) -> np.ndarray:
    """Uncentred covariance of alpha N samples of x = W0 c/sqrt(N) + n, W0 all ones."""
    rng, n = np.random.default_rng(seed), round(alpha * N)
    x = rng.normal(size=(n, 1)) / np.sqrt(N) + rng.normal(size=(n, N))
    return x.T @ x / n


@functools.cache
def top_direction(alpha: float, seed: int) -> tuple[float, float]:
    """Largest sample eigenvalue, and the overlap of its direction with that of W0."""
    values, vectors = np.linalg.eigh(sample_covariance(alpha, seed))
    return float(values[-1]), abs(float(vectors[:, -1].sum())) / float(np.sqrt(N))


def exact_error(alpha: float, seed: int, beta: float, decay: float) -> float:
    """eps_g of the exact optimum on one sample."""
    theta2, m = top_direction(alpha, seed)
    u = float(penalised_optimum(theta2, beta=beta, weight_decay=decay / alpha).decoder)
    return 1 - 2 * u * m + u**2


def train(
    covariance: np.ndarray,
    alpha: float,
    beta: float,
    decay: float,
    *,
    units: int = 1,
    seed: int = 0,
    steps: int = 15_000,
    learning_rate: float = 1e-3,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Full-batch Adam on the published objective: U (N, units), W, encoder variances."""
    rng, root, kappa = np.random.default_rng(1000 + seed), np.sqrt(N), decay / alpha
    size = N * units
    x = np.concatenate([rng.normal(size=2 * size), np.ones(units)])
    first, second = np.zeros_like(x), np.zeros_like(x)
    for step in range(1, steps + 1):
        U, W = x[:size].reshape(N, units) / root, x[size : 2 * size].reshape(units, N) / root
        v, UU, WC = x[2 * size :], U.T @ U, W @ covariance
        along_U = U @ (WC @ W.T + np.diag(v)) - WC.T + kappa * U
        along_W = UU @ WC - U.T @ covariance + beta * WC + kappa * W
        along_v = (np.diag(UU) + beta - beta / v) / 2
        slope = np.concatenate([along_U.ravel() / root, along_W.ravel() / root, along_v])
        first += 0.1 * (slope - first)
        second += 0.001 * (slope**2 - second)
        scale = np.sqrt(second / (1 - 0.999**step)) + 1e-8
        x -= learning_rate * first / (1 - 0.9**step) / scale
    return (
        x[:size].reshape(N, units) / root,
        x[size : 2 * size].reshape(units, N) / root,
        x[2 * size :],
    )


def generalisation(alpha: float, beta: float, decay: float) -> dict[str, object]:
    """eps_g: limit, exact optimum on samples, and training where listed."""
    limit = spiked_generalisation(alpha, beta=beta, weight_decay=decay)
    exact = [exact_error(alpha, seed, beta, decay) for seed in SEEDS]
    row: dict[str, object] = {
        "alpha": alpha,
        "beta": beta,
        "weight_decay": decay,
        "limit": float(limit.generalisation_error),
        "exact_optimum": float(np.mean(exact)),
        "standard_error": float(np.std(exact) / np.sqrt(len(exact))),
        "critical_beta": float(limit.critical_beta),
    }
    if alpha in TRAINED_ALPHAS and decay == 1.0:
        U = train(sample_covariance(alpha, 0), alpha, beta, decay)[0]
        trained = 1 - 2 * abs(float(U.sum())) / np.sqrt(N) + float(np.sum(U**2))
        row |= {"trained": trained, "exact_optimum_of_that_sample": exact[0]}
    return row


# --- the claims ---------------------------------------------------------------------------------


def thresholds(decay: float) -> dict[str, object]:
    """Largest critical beta over all alpha, where it is, and its value for alpha to infinity."""
    alpha = np.exp(np.linspace(np.log(0.02), np.log(1e6), 1000))
    critical = spiked_generalisation(alpha, beta=1.0, weight_decay=decay).critical_beta
    best = int(critical.argmax())
    return {
        "weight_decay": decay,
        "largest_critical_beta": float(critical[best]),
        "at_alpha": float(alpha[best]),
        "critical_beta_without_end": 2.0,
    }


def plateau(beta: float, decay: float = 1.0) -> dict[str, object]:
    """Samples per dimension until eps_g first falls below 0.9, its peak and its end."""
    alpha = np.exp(np.linspace(np.log(0.02), np.log(1e6), 4000))
    error = spiked_generalisation(alpha, beta=beta, weight_decay=decay).generalisation_error
    below = np.flatnonzero(error < 0.9)
    return {
        "beta": beta,
        "alpha_below_0.9": float(alpha[below[0]]) if len(below) else None,
        "largest_error": float(error.max()),
        "final_error": float(error[-1]),
    }


def samples_for_rate(rate: float, excess: float = 0.1) -> dict[str, object]:
    """Alpha at which the held-out error along the spike exceeds the rate-distortion curve by 10 %.

    No decay. The curve: 2 exp(-2 rate) remains of the spike's variance 2.
    """
    ideal = 2 * np.exp(-2 * rate)

    def over(log_alpha: float) -> float:
        alpha = np.exp(log_alpha)

        def missing(log_beta: float) -> float:
            point = spiked_generalisation(alpha, beta=np.exp(log_beta), weight_decay=0.0)
            return float(point.held_out_rate) - rate

        top = float(np.log(spiked_generalisation(alpha, beta=1.0, weight_decay=0.0).critical_beta))
        beta = np.exp(brentq(missing, -15.0, top))
        point = spiked_generalisation(alpha, beta=beta, weight_decay=0.0)
        return (float(point.held_out_error) + 1) / ideal - 1 - excess

    return {"rate_nats": rate, "alpha": float(np.exp(brentq(over, np.log(1.01), np.log(1e7))))}


def superfluous_unit(alpha: float, beta: float, decay: float) -> dict[str, object]:
    """Two units, one spike: does the second carry noise? Limit and one training run."""
    edge = bulk_edges(1.0, 1 / alpha)[1]
    critical = float(penalised_critical_beta(edge, weight_decay=decay / alpha))
    covariance = sample_covariance(alpha, 0)
    values = np.linalg.eigvalsh(covariance)[::-1][:2]
    exact = penalised_optimum(values, beta=beta, weight_decay=decay / alpha).decoder ** 2
    U = train(covariance, alpha, beta, decay, units=2)[0]
    return {
        "alpha": alpha,
        "beta": beta,
        "weight_decay": decay,
        "second_unit_critical_beta_limit": critical,
        "squared_decoder_norms_exact": exact.tolist(),
        "squared_decoder_norms_trained": (np.linalg.svd(U, compute_uv=False) ** 2).tolist(),
    }


def main() -> None:
    """Run everything, print one line per row, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    settings = [(b, d) for b in (0.5, 1.0, 1.5, 1.9, 2.2) for d in (1.0, 0.1)]
    tables = {
        "units": [unit_counts(a, b) for b in (1.5, 2.5, 4.0) for a in (0.5, 1, 2, 4, 8, 16)],
        "thresholds": [thresholds(d) for d in (0.0, 0.1, 0.5, 0.8, 1.0)],
        "plateau": [plateau(b) for b in (0.5, 1.0, 1.25, 1.5, 1.75, 1.9, 1.97, 2.0)],
        "samples_for_rate": [samples_for_rate(r) for r in (0.1, 0.25, 0.5, 1.0, 1.5, 2.0)],
        "superfluous_unit": [
            superfluous_unit(2.0, b, d) for b in (0.5, 1.5, 2.4) for d in (0.0, 1.0)
        ],
        "generalisation": [generalisation(float(a), b, d) for b, d in settings for a in ALPHAS],
    }
    for name, rows in tables.items():
        for row in rows:
            print(name, json.dumps(row))
    versions = {"linvae": linvae.__version__, "numpy": np.__version__}
    args.out.write_text(json.dumps({"versions": versions} | tables, indent=1) + "\n")


if __name__ == "__main__":
    main()
