"""The wrong way to observe a threshold, kept to show by how much: a grid of betas from scratch.

Train one model per beta from random initial values and call it alive where its largest unit has
KL > eps. The threshold is read between the last beta alive and the first one dead.

1. **Cut-off.** In a linear model KL_1 = log(beta_c/beta)/2, so that KL > eps means
   beta < beta_c exp(-2 eps): low by 2 % at eps = 0.01, by 10 % at 0.05, however long the training.
   `Estimate.value` is what the grid says; multiplied by exp(2 eps) it is corrected, for linear
   models alone: a nonlinear unit carries more nats at the same distance from its threshold.
2. **Time.** Next to the threshold units grow slowly, at a rate proportional to the distance, so
   that a short run reads low; and one so short that idle units have not decayed reads high.
3. **Grid.** The number of betas decides the resolution: 12 over a decade are 20 % apart.

Use `linvae.metrics.estimate_threshold`.

| symbol | here                            | shape                        | unit |
|--------|---------------------------------|------------------------------|------|
| beta   | factors, times the spec's betas | (points,)                    | -    |
| KL_1   | largest_rates                   | (points,)                    | nats |
| eps    | epsilon                         | scalar                       | nats |

Source: Lucas et al. 2019 and Dang et al. 2024 count units this way; the law of the bias is ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from linvae.comparison import Estimate
from linvae.metrics.observe import observe
from linvae.models import Architecture, build_model
from linvae.spec import LinearSpec
from linvae.train import ConstantBetas, TrainConfig, TrainingData, train

__all__ = ["naive_crossing", "naive_threshold"]


def naive_threshold(
    spec: LinearSpec,
    data: TrainingData,
    factors: Sequence[float],
    *,
    architecture: str | Architecture = "linear",
    level: int = 1,
    seeds: Sequence[int] = (0, 1, 2),
    epsilon: float = 0.05,
    corrected: bool = False,
    config: TrainConfig | None = None,
) -> Estimate:
    """The threshold that a grid of `factors` on all betas shows, biased as the module says.

    Its bracket: last alive to first dead, of all seeds. `corrected` multiplies by exp(2 epsilon).
    Raises ValueError for fewer than two factors, factors that are not positive, and as
    `naive_crossing`.
    """
    grid = sorted(float(f) for f in factors)
    if len(grid) < 2 or not grid[0] > 0 or not math.isfinite(grid[-1]):
        raise ValueError(
            f"factors={list(factors)!r} must be two or more finite numbers > 0 in naive_threshold"
        )
    model = build_model(
        spec, data.target, data.condition, architecture=architecture, seeds=seeds,
        n_points=len(grid), image=data.image,
    )  # fmt: skip
    betas = ConstantBetas(grid, spec.betas, data.target.device)
    result = train(model, data, betas, config or TrainConfig())
    rates = observe(model, data).unit_rates[level - 1][..., 0]
    ends = np.array([naive_crossing(grid, row, epsilon) for row in rates])
    if corrected:
        ends = ends * math.exp(2 * epsilon)
    known = np.isfinite(ends).all(axis=1)
    finite = np.sqrt(np.prod(np.where(known[:, None], ends, np.nan), axis=1))
    return Estimate.of_seeds(
        "naive", finite, low=ends[:, 0].min(), high=ends[:, 1].max(),
        runs=len(grid) * len(seeds), seconds=result.seconds,
        note=f"cut-off {epsilon:g} nats{' corrected' if corrected else ''}",
    )  # fmt: skip


def naive_crossing(
    factors: Sequence[float], largest_rates: npt.ArrayLike, epsilon: float
) -> tuple[float, float]:
    """Last factor alive and the one after it; -inf or inf where the grid does not reach.

    `factors` ascending. Raises ValueError for an `epsilon` below 0.
    """
    if not epsilon >= 0:
        raise ValueError(f"epsilon={epsilon!r} must be >= 0 nats in naive_crossing")
    alive = np.flatnonzero(np.asarray(largest_rates) > epsilon)
    last = int(alive[-1]) if len(alive) else -1
    low = float(factors[last]) if last >= 0 else -math.inf
    return low, float(factors[last + 1]) if last + 1 < len(factors) else math.inf
