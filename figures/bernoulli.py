"""Binary data: the threshold of the collapsed point is the top eigenvalue of the correlations."""

from __future__ import annotations

import numpy as np

from figures.style import (
    LOOKS,
    Canvas,
    Row,
    Rows,
    legend,
    line,
    panels,
    select,
    spread_points,
    title,
)
from linvae import Moments, VAESpec, stability, universal_threshold
from linvae.data import load_dataset

DIMS = (1, 4, 16)
PROBABILITY = 0.3
CORRELATIONS = np.linspace(0.0, 0.9, 46)
SAMPLED = (0.0, 0.2, 0.4, 0.6)
N_SAMPLES, SEEDS = 1000, (0, 1, 2)


def rows() -> list[Row]:
    """Spectrum of the binarised digits; thresholds of the one-factor family, exact and sampled."""
    binary = (load_dataset("digits").target > 0.5).astype(float)
    binary = binary[:, binary.std(axis=0) > 0]
    found = _spectrum(binary)
    for d in DIMS:
        for rho in CORRELATIONS if d > 1 else CORRELATIONS[:1]:
            correlation = (1 - rho) * np.eye(d) + rho * np.ones((d, d))
            moments = Moments.from_covariance(
                correlation * PROBABILITY * (1 - PROBABILITY), mean=np.full(d, PROBABILITY)
            )
            found.append(_family_row("law", d, float(rho), -1, moments))
    for d in DIMS[1:]:
        for rho in SAMPLED:
            for seed in SEEDS:
                x = one_factor(d, rho, seed)
                row = _family_row("sample", d, rho, seed, Moments.from_data(x))
                if seed == SEEDS[0]:
                    bound = universal_threshold(x, likelihood="bernoulli")
                    row["universal_critical_beta"] = bound.critical_beta
                found.append(row)
    return found


def one_factor(d: int, rho: float, seed: int) -> np.ndarray:
    """(n, d) binary samples, each pair with correlation rho: some copy one common bit."""
    rng = np.random.default_rng(seed)
    common = rng.random((N_SAMPLES, 1)) < PROBABILITY
    own = rng.random((N_SAMPLES, d)) < PROBABILITY
    return np.where(rng.random((N_SAMPLES, d)) < np.sqrt(rho), common, own).astype(float)


def _spectrum(binary: np.ndarray) -> list[Row]:
    spec = VAESpec(binary.shape[1], likelihood="bernoulli")
    critical = stability(spec, Moments.from_data(binary)).critical_beta
    correlations = np.linalg.eigvalsh(np.corrcoef(binary.T))[::-1]
    return [
        {"kind": "digits", "mode": i, "critical_beta": float(b), "correlation_eigenvalue": float(v)}
        for i, (b, v) in enumerate(zip(critical, correlations, strict=True), 1)
    ]


def _family_row(kind: str, d: int, rho: float, seed: int, moments: Moments) -> Row:
    found = stability(VAESpec(d, likelihood="bernoulli"), moments)
    return {"kind": kind, "dim": d, "correlation": rho, "seed": seed,
            "critical_beta": float(found.critical_beta[0])}  # fmt: skip


def draw(rows: Rows) -> Canvas:
    """Spectrum of the digits, and thresholds of two families."""
    figure, (left, right) = panels(2, size=(9.2, 4.2))
    digits = select(rows, kind="digits")
    line(left, digits, "mode", "correlation_eigenvalue", label="eigenvalue of the correlations")
    left.plot(
        [row["mode"] for row in digits], [row["critical_beta"] for row in digits],
        color=LOOKS[1][0], marker="s", mfc="none", ms=4, ls="none",
        label=r"critical $\beta$, Bernoulli decoder",
    )  # fmt: skip
    left.set_yscale("log")
    left.set_yticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "5"])
    left.minorticks_off()
    left.set_xlabel("mode, in descending order")
    left.set_ylabel(r"eigenvalue, critical $\beta$ (log scale)")
    left.legend(loc="upper right")
    title(left, "binarised digits")
    line(right, [{"rho": 0, "b": 1}, {"rho": 0.9, "b": 1}], "rho", "b", label="independent bits")
    for look, d in enumerate(DIMS[1:]):
        law = select(rows, kind="law", dim=d)
        label = f"one factor, {d} bits, linear threshold"
        line(right, law, "correlation", "critical_beta", look=look, label=label)
        sample = select(rows, kind="sample", dim=d)
        spread_points(right, sample, "correlation", "critical_beta", look,
                      label=f"{d} bits, samples")  # fmt: skip
        bounds = select(sample, seed=SEEDS[0])
        spread_points(right, bounds, "correlation", "universal_critical_beta", look, ms=7,
                      marker="x+"[look], label=f"{d} bits, universal threshold")  # fmt: skip
    right.set_xlabel("correlation of each pair of bits")
    right.set_ylabel(r"critical $\beta$")
    right.set_ylim(bottom=0)
    title(right, f"{N_SAMPLES} samples, bits of probability {PROBABILITY:g}")
    legend(figure, right, columns=3)
    return figure
