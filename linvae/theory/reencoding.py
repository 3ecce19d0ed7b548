"""What comes back of a latent that is decoded and encoded again: linear models of one level.

z of mean 0 and covariance Z is decoded to its mean y = U z + B x and encoded, z' ~ N(mu, Sigma),

    mu = W_y y + W_x x = T z + N x,      T = W_y U,   N = W_x + W_y B

With J the covariance of (z, x), P = (I, 0), Q = (T, N) and S = Q J Q',

    score            = 1 - E|mu - z|^2/E|z|^2          = 1 - tr (Q - P) J (Q - P)'/tr Z
    linear_score     = 1 - min_A E|A z' - z|^2/E|z|^2  = tr P J Q' (S + Sigma)^-1 Q J P'/tr Z
    KL(q(.|y, x)||p) = floor + sum_i a_i chi^2_1,       a_i eigenvalues of S/(2 eta^2)

for z of the prior, Z = eta^2 I independent of x, or of the aggregate posterior, Z = W C W' + Sigma.
At the optimum of a VAE or CVAE with learned variances both laws are one, N = 0 and T = diag(1 - r),
r_i = beta s/theta_i^2 of active units and 1 of the others:

    score = mean_i (1 - r_i^2)         linear_score = mean_i (1 - r_i)^2/((1 - r_i)^2 + r_i)

| symbol         | argument or field    | shape        | unit                            |
|----------------|----------------------|--------------|---------------------------------|
| W, U, B, Sigma | weights              | as in `elbo` | as in `elbo`                    |
| C              | moments.covariance   | (dx + d)^2   | data units^2                    |
| eta^2          | spec.prior_variance  | scalar       | latent units^2                  |
| score          | score                | scalar       | -, at most 1                    |
| linear_score   | linear_score         | scalar       | -, 0 to 1                       |
| floor, a_i     | RateDistribution     | scalar, (k,) | nats                            |

Source: ours; decoding and encoding again is the idea of the latent reconstruction loss of Song et
al. 2025. Equality that a test checks: the penalty of `objective` is gamma/2 E|mu - z|^2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.linalg import block_diag

from linvae.moments import Moments
from linvae.spec import LinearSpec
from linvae.theory.elbo import Chain, reencoding_maps
from linvae.theory.modes import sees_condition_only
from linvae.theory.observables import RateDistribution, rate_floor, require_one_level

__all__ = ["Identifiability", "identifiability", "reencoded_rate_distribution"]

Array = npt.NDArray[np.float64]
Latents = Literal["prior", "posterior"]


@dataclass(frozen=True)
class Identifiability:
    """Share of E|z|^2 that comes back in mu, and that the best linear map of z' predicts."""

    score: float
    linear_score: float


def identifiability(
    spec: LinearSpec,
    moments: Moments,
    weights: Mapping[str, npt.ArrayLike],
    *,
    latents: Latents = "prior",
) -> Identifiability:
    """Of z from the prior or from the aggregate posterior, for the weights of one level.

    Raises ValueError for several levels, an encoder that does not see the target, other `latents`,
    and as `objective`. Equality that a test checks: the same of drawn z, within standard errors.
    """
    J, Q, chain = _system(spec, moments, weights, latents, "identifiability")
    k = len(Q)
    P, cross = np.eye(*Q.shape), (J @ Q.T)[:k]
    total = float(np.trace(J[:k, :k]))
    missed = float(np.sum(((Q - P) @ J) * (Q - P)))
    told = float(np.sum(np.linalg.solve(Q @ J @ Q.T + chain.Sigma[0], cross.T) * cross.T))
    return Identifiability(1 - missed / total, told / total)


def reencoded_rate_distribution(
    spec: LinearSpec, moments: Moments, weights: Mapping[str, npt.ArrayLike]
) -> RateDistribution:
    """KL(q(z|dec(z)) || p(z)) of z from the prior, x Gaussian; errors as `identifiability`.

    Equality that a test checks: the law of `sample_rates` at decoded draws.
    """
    J, Q, chain = _system(spec, moments, weights, "prior", "reencoded_rate_distribution")
    eta2 = spec.prior_variances[0]
    scales = np.linalg.eigvalsh(Q @ J @ Q.T) / (2 * eta2)
    return RateDistribution(rate_floor(chain, eta2), np.maximum(scales, 0.0)[::-1].copy())


def _system(
    spec: LinearSpec,
    moments: Moments,
    weights: Mapping[str, npt.ArrayLike],
    latents: Latents,
    what: str,
) -> tuple[Array, Array, Chain]:
    """J (k + dx, k + dx), Q (k, k + dx), and the chain of the weights."""
    require_one_level(spec, what)
    if sees_condition_only(spec, moments):
        raise ValueError(
            f"{what} needs an encoder that sees the target, but a VAESpec on moments with a "
            "condition sees the condition only"
        )
    if latents not in ("prior", "posterior"):
        raise ValueError(f"latents={latents!r} must be 'prior' or 'posterior' in {what}")
    chain, dx = Chain.from_weights(spec, moments, weights), moments.condition_dim
    Q = np.concatenate(reencoding_maps(chain, dx), axis=1)
    C = moments.covariance
    if latents == "prior":
        return block_diag(spec.prior_variances[0] * np.eye(len(Q)), C[:dx, :dx]), Q, chain
    both = np.concatenate([chain.encoder, np.eye(dx, len(C))])
    J = both @ C @ both.T
    J[: len(Q), : len(Q)] += chain.Sigma[0]
    return J, Q, chain
