"""The worst gap of every closed form from its oracle, on more problems than the tests take.

    PYTHONPATH=tests python -m tests.theory.worst_gaps [PROBLEMS]     from the project's folder

100 problems of each formula by default, about ten minutes. Global optima: (solve - lowest of brute
force)/max(1, |objective|), smallest (what the minimiser left) to largest (rounding). Local ones:
relative difference of escape rate and lowest curvature; "wrong" counts curvatures whose sign at
0.98 or 1.02 of the threshold is not the predicted one.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import autograd_oracle
import numpy as np
import oracles

from linvae import objective, solve, stability

from . import test_autoregressive, test_partial_collapse, test_penalised, test_stability
from .problems import DRAWS, draw


def of_brute_force(kind: str, number: int) -> float:
    problem = draw(kind, number)
    found = oracles.brute_force(problem.spec, problem.moments, n_starts=6, seed=problem.seed)
    return _share(solve(problem.spec, problem.moments).objective, found.values.min())


def of_penalties(number: int) -> float:
    spec, moments = test_penalised._draw(number)
    found = oracles.brute_force(spec, moments, n_starts=6, seed=number)
    return _share(solve(spec, moments).objective, found.values.min())


def of_autoregression(number: int) -> float:
    spec, moments = test_autoregressive._draw(number)
    lowest = test_autoregressive._lowest(spec, moments.covariance, number)
    return _share(solve(spec, moments).objective, lowest)


def of_weights(kind: str, number: int) -> float:
    """The objective of the weights of `solve` and its own value, two formulas."""
    problem = draw(kind, number)
    found = solve(problem.spec, problem.moments)
    return _share(
        objective(problem.spec, problem.moments, found.weights).objective, found.objective
    )


def of_curvature(kind: str, number: int) -> float:
    """Relative difference of escape rate and curvature; NaN where a sign is wrong."""
    spec, moments = test_stability._draw(kind, number)
    critical = stability(spec, moments).critical_beta[0]
    if critical <= 0:  # stable at every beta
        low = dataclasses.replace(spec, beta=1e-6)
        return 0.0 if _curvature(low, moments) >= -1e-9 else np.nan
    below, above = (_curvature(dataclasses.replace(spec, beta=f * critical), moments)
                    for f in (0.98, 1.02))  # fmt: skip
    if not (below < 0 and above > -1e-9):
        return np.nan
    half = dataclasses.replace(spec, beta=0.5 * critical)
    return stability(half, moments).escape_rates[0] / -_curvature(half, moments) - 1


def _curvature(spec, moments) -> float:
    model = dataclasses.replace(autograd_oracle.model_of(spec, moments), k=1)
    model = dataclasses.replace(model, fixed=model.fixed and model.fixed[:1])
    return autograd_oracle.collapsed_curvature(model)


def of_hierarchy(kind: str, number: int) -> float:
    problem = draw(kind, number)
    critical = stability(problem.spec, problem.moments).critical_beta[0]
    spec = problem.spec.scale_betas(0.5 * critical / problem.spec.betas[0])
    lowest = float(np.linalg.eigvalsh(test_stability.collapsed_hessian(spec, problem.moments))[0])
    return stability(spec, problem.moments).escape_rates[0] / -lowest - 1


def of_partial_collapse(kind: str, number: int) -> float:
    spec, moments, named = test_partial_collapse.weights_of(kind, number)
    given = {
        n: W for n, W in named.items() if n != "W1" or test_partial_collapse.spec_sees_both(spec)
    }
    beta = 0.5 * max(stability(spec, moments, given).critical_beta[0], 1e-3)
    spec = dataclasses.replace(spec, beta=beta)
    lowest = test_partial_collapse.lowest_curvature(spec, moments, named)
    return stability(spec, moments, given).escape_rates[0] / -lowest - 1


def _share(value: float, reference: float) -> float:
    return (value - reference) / max(1.0, abs(reference))


def formulas() -> dict[str, Callable[[int], float]]:
    """Name of the formula -> gap of problem number i."""
    found: dict[str, Callable[[int], float]] = {}
    found |= {f"optimum, {kind}": partial(of_brute_force, kind) for kind in DRAWS}
    found |= {"optimum, penalties": of_penalties, "optimum, autoregressive": of_autoregression}
    found |= {f"weights, {kind}": partial(of_weights, kind) for kind in DRAWS}
    found |= {f"stability, {kind}": partial(of_curvature, kind) for kind in test_stability.KINDS}
    levels = ("hvae1", "hvae2", "hvae3", "hvae2-all-fixed", "chvae2")
    found |= {f"escape, {kind}": partial(of_hierarchy, kind) for kind in levels}
    partly = test_partial_collapse.KINDS
    found |= {f"partly collapsed, {kind}": partial(of_partial_collapse, kind) for kind in partly}
    return found


def main(n: int) -> None:
    with ProcessPoolExecutor() as pool:
        for name, gap in formulas().items():
            gaps = np.array(list(pool.map(gap, range(n), chunksize=5)))
            wrong = int(np.sum(~np.isfinite(gaps)))
            print(f"{name:32} {n} problems  {np.nanmin(gaps):+.1e} to {np.nanmax(gaps):+.1e}"
                  f"{f'  {wrong} wrong' * bool(wrong)}", flush=True)  # fmt: skip


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
