"""Is this collapse the one that theory predicts, or a failure of the training?

A trained encoder is held against the optimum of the linear VAE of the same beta, decoder variance
and latent dimension on the same data (`linvae.solve`), unit by unit:

    observed_j  = mean over the data of KL(q(z_j|x) || p)
    predicted_j = the rate of its mode at the linear optimum

both less what an idle unit costs (nothing, unless the encoder variance is fixed). Units are in no
order and may be rotated. **The mode of a unit** is found from the data: what share of each mode's
variance the means hold (`linvae.theory.held_modes`); units that hold none take the modes that are
left. A mode is **missing** where all units together hold less of it than theory by more than its
tolerance, and less than that in all. Of excess, ranks decide: at every stationary point of a linear
VAE each unit in use carries a mode of its own, so no sum of the largest observed rates exceeds that
of the largest predicted ones. With t_j the tolerance below,

| verdict                                  | where                                               |
|------------------------------------------|-----------------------------------------------------|
| alive beyond the linear theory           | by rank, observed and its sum to that rank exceed   |
|                                          | the predicted ones by more than their tolerances    |
| collapsed below the threshold: optimisation | observed_j < t_j and < predicted_j - t_j         |
| alive, not at the optimum                | otherwise further than t_j from predicted_j         |
| alive in both                            | within t_j, both above `ALIVE` nats                 |
| collapsed as theory predicts             | the rest: mode variance below beta s, or so close   |
|                                          | above it that t_j does not tell                     |

A unit that theory keeps alive is "beyond" too, although collapsed, where units beyond the theory
hold its nats already (the sum to its rank), or where the code **pays**: its objective is below the
linear optimum's, so there is nothing that the collapse has lost. Where it **costs**, nothing is
"beyond". With a `decoder` the objective is the network's. Without one two bounds of any decoder's
are taken instead (`linvae.theory.any_decoder`; with a condition the code costs only where its rate
alone does, since the condition may tell every sample), and where they do not tell, "beyond" says
that it cannot tell: an untrained network may be such a code. Either way a difference counts from
`MARGIN` beta nats on, and from the error of draws and samples.

| symbol  | argument               | shape           | unit                            |
|---------|------------------------|-----------------|---------------------------------|
| y, x    | target, condition      | (n, d), (n, dx) | data units                      |
| beta, s | beta, decoder_variance | scalar          | -, data units^2                 |
| eta^2   | prior_variance         | scalar          | latent units^2                  |
| sigma^2 | encoder_variance       | scalar          | latent units^2, None: learned   |
| t_j     | tolerance_nats         | (k,)            | nats                            |

**Tolerance**: t_j = max(0.1 nats, 5 % of predicted_j) + z se_j. The first term is what compare
grants to training (`linvae.verdicts.RATE_TOLERANCE`). se_j: standard error of observed_j -
predicted_j over independent samples, which both are means of: of the KL of a sample less
a_j (e^2/theta_j^2 - 1), e its score of the mode and a_j = d predicted_j / d log theta_j^2, 1/2 for
a unit in use. z: of all k units any is wrong, on either side, in 1 % of the cases, to first order
in 1/sqrt(n): a lost mode of 0.18 nats is found half the time among 8 units and 1000 samples. On
samples other than those of the training this needs modes further apart than their errors: sample
variances of close modes part by up to 4 sqrt(k/n) in their logarithm (64 equal modes and 2000 fresh
samples: some unit is called off the optimum 8 times in 10). Sums alike.

Rates that are all those of another beta s (two active units or more) are said to be so: the
commonest mistake is to give another beta, or another convention of the loss, than was trained with.

One level, a Gaussian decoder, an encoder that sees the condition if there is one; anything else is
refused, with the call that answers. Errors: ValueError for outputs of an encoder that are no pair
of finite (n, k) arrays, variances where log-variances should be, a learned decoder variance (give
the number that was learned), and as `Moments.from_data` and `VAESpec`. Source: ours; the optimum is
that of `linvae.theory.vae`. Equality that a test checks: the encoder of `solve`'s weights has
observed = predicted, and a mode that it lacks is named.
"""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from linvae.diagnosis.judgement import fitting_beta, judge
from linvae.diagnosis.observed import (
    evidence_of,
    evidence_of_bounds,
    network_objective,
    posteriors,
    refuse_variances,
    scores,
    unit_code,
)
from linvae.diagnosis.records import (
    ALIVE_AS_PREDICTED,
    BEYOND,
    COLLAPSED_AS_PREDICTED,
    OFF_OPTIMUM,
    OPTIMISATION,
    Diagnosis,
    ModeDiagnosis,
    UnitDiagnosis,
)
from linvae.encoders import as_function
from linvae.moments import Moments
from linvae.objectives import GaussianLevel
from linvae.spec import CVAESpec, VAESpec
from linvae.theory import solve

__all__ = [
    "ALIVE_AS_PREDICTED",
    "BEYOND",
    "COLLAPSED_AS_PREDICTED",
    "OFF_OPTIMUM",
    "OPTIMISATION",
    "Diagnosis",
    "ModeDiagnosis",
    "UnitDiagnosis",
    "diagnose",
]

Array = npt.NDArray[np.float64]


def diagnose(
    encoder: Any,
    target: npt.ArrayLike,
    *,
    condition: npt.ArrayLike | None = None,
    beta: float = 1.0,
    decoder_variance: float = 1.0,
    prior_variance: float = 1.0,
    encoder_variance: float | None = None,
    decoder: Any = None,
    likelihood: str = "gaussian",
    encoder_sees: str = "both",
    trust_log_variances: bool = False,
    seed: int = 0,
) -> Diagnosis:
    """Hold a trained encoder against the linear optimum on `target` (n, d); see the module.

    `encoder`: of any kind in `linvae.encoders`; called with batches of the target, and of the
    condition after it, returns means and log-variances, (n, k) each. `decoder`, if there is one:
    latents (n, k), and condition, to the mean of the target; four draws per sample, two of them the
    others reflected, `seed`. Data should be those, or of the kind, that the network was trained on,
    in the same units. `trust_log_variances`: take them even where they look like variances.
    Raises ValueError as the module says.
    """
    _check_model(decoder_variance, likelihood, encoder_sees)
    y = np.asarray(target)
    x = None if condition is None else np.asarray(condition)
    moments = Moments.from_data(y, x)
    mean, log_variance = posteriors(as_function(encoder), y, x)
    if not trust_log_variances and encoder_variance is None:
        refuse_variances(mean, log_variance, prior_variance)
    kind = VAESpec if x is None else CVAESpec
    spec = kind(
        mean.shape[1],
        beta=beta,
        decoder_variance=decoder_variance,
        prior_variance=prior_variance,
        encoder_variance=encoder_variance,
    )
    if encoder_variance is not None:
        _check_fixed(log_variance, encoder_variance)
    solution = solve(spec, moments)
    objective, error = math.nan, math.nan
    if decoder is not None:
        q = GaussianLevel(torch.from_numpy(mean), torch.from_numpy(log_variance))
        objective, error = network_objective(spec, q, as_function(decoder, "decoder"), y, x, seed)
        evidence = evidence_of(spec, solution.objective - objective, error)
    else:
        evidence = evidence_of_bounds(spec, moments, solution, mean, log_variance, y, x, seed)
    code = unit_code(mean, log_variance, spec)
    units, modes = judge(spec, moments, solution, code, scores(spec, moments, y, x), evidence, x)
    fitting = fitting_beta(spec, moments, units)
    return Diagnosis(units, modes, spec, len(y), objective, error, solution, fitting)


def _check_model(decoder_variance: Any, likelihood: str, encoder_sees: str) -> None:
    """Refuse what has no known optimum to be held against, with the call that answers instead."""
    if isinstance(decoder_variance, bool) or not isinstance(decoder_variance, Real):
        raise ValueError(
            f"decoder_variance={decoder_variance!r} must be a number in diagnose: give the value "
            "that the network has learned"
        )
    if likelihood != "gaussian":
        raise ValueError(
            f"likelihood={likelihood!r} must be 'gaussian' in diagnose: of other decoders the "
            "optimum is not known, only when total collapse is stable; hold beta against "
            f"linvae.stability(VAESpec(k, likelihood={likelihood!r}), moments).critical_beta[0]: "
            "collapsed in all units below it is a failure of training"
        )
    if encoder_sees != "both":
        raise ValueError(
            f"encoder_sees={encoder_sees!r} must be 'both' in diagnose: an encoder that does not "
            "see the condition collapses earlier; hold its rate against "
            "linvae.solve(CVAESpec(k, encoder_sees='target', ...), moments).rates (one unit or a "
            "scalar target), or beta against linvae.stability of the same"
        )


def _check_fixed(log_variance: Array, encoder_variance: float) -> None:
    """Refuse an encoder whose variance is not the fixed one; 1 %: it may be kept in float32."""
    low, high = float(np.exp(log_variance.min())), float(np.exp(log_variance.max()))
    if not (low > 0.99 * encoder_variance and high < 1.01 * encoder_variance):
        raise ValueError(
            f"encoder_variance={encoder_variance} is not what the encoder gives: its variances are "
            f"{low:.3g} to {high:.3g} in diagnose; leave it out where they are learned"
        )
