"""What the decoder alone says about the data: exact marginal likelihood, and the gap of the ELBO.

Integrating the latents of `linvae.theory.elbo` from the top down, P_L = eta_L^2 I,

    P_l = U_{l+1} P_{l+1} U_{l+1}^T + eta_l^2 I          covariance of z_l under the model
    y - B v ~ N(0, s I + U_1 P_1 U_1^T)                  the marginal of the data

so E log p(y|x) = -1/2 [ d log 2 pi + log det K + tr K^-1 Cov(y - B v) ], K that covariance. With
G G^T = U_1 P_1 U_1^T, G the noises of all levels side by side, K has the left singular vectors q_i
of G and the eigenvalues s + g_i^2: s is never added to what rounding would lose it in. In
autoregressive decoders I - B is unit lower triangular on y, with determinant 1. Centred data; on
moments with `centered=False` the model has mean 0.

| symbol | argument          | shape         | unit       |
|--------|-------------------|---------------|------------|
| U, B, s| weights           | as in `elbo`  | -          |
| -      | log_likelihood    | scalar        | nats/sample|
| -      | elbo_gap          | scalar        | nats/sample|

`elbo_gap` = log likelihood minus ELBO = E KL(q(z|y) || p(z|y)): never negative, zero at the optimum
of one level with learned encoder variance and beta = 1 (a test checks both).
Source: Tipping & Bishop 1999, eq. 4 (one level); Lucas et al. 2019.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from linvae.moments import Moments
from linvae.spec import LinearSpec
from linvae.theory.elbo import Chain, chain_terms, refuse_other_likelihoods

__all__ = ["elbo_gap", "log_likelihood"]


def log_likelihood(
    spec: LinearSpec, moments: Moments, weights: Mapping[str, npt.ArrayLike]
) -> float:
    """E log p(y|x) of the linear decoder, nats per sample; betas and encoder do not matter.

    `weights` as in `linvae.objective`, with the same errors. Equality that a test checks: for a
    VAESpec it is the mean log density of N(mean, s I + eta^2 U U^T).
    """
    refuse_other_likelihoods(spec, "log_likelihood")
    return _log_likelihood(spec, moments, Chain.from_weights(spec, moments, weights))


def elbo_gap(spec: LinearSpec, moments: Moments, weights: Mapping[str, npt.ArrayLike]) -> float:
    """Log likelihood minus ELBO, nats per sample: the price of the encoder, whatever beta was.

    `weights` and errors as in `linvae.objective`. Equality that a test checks: 0 at `solve`'s
    optimum of one level with learned encoder variance and beta = 1.
    """
    refuse_other_likelihoods(spec, "elbo_gap")
    chain = Chain.from_weights(spec, moments, weights)
    terms = chain_terms(spec, moments, chain)
    negative_elbo = terms.distortion + float(np.sum(terms.rates))
    return negative_elbo + _log_likelihood(spec, moments, chain)


def _log_likelihood(spec: LinearSpec, moments: Moments, chain: Chain) -> float:
    d, dx = moments.target_dim, moments.condition_dim
    P_root = np.sqrt(spec.prior_variances[-1]) * np.eye(spec.latent_dims[-1])
    for U, eta2 in zip(chain.U[:0:-1], spec.prior_variances[-2::-1], strict=True):
        P_root = np.concatenate([U @ P_root, np.sqrt(eta2) * np.eye(len(U))], axis=1)
    G = chain.U[0] @ P_root
    Q, g, _ = np.linalg.svd(G, full_matrices=G.shape[1] < d)
    K = np.full(d, chain.s)  # its eigenvalues
    K[: len(g)] += g**2
    residual = -chain.skip
    residual[:, dx:] += np.eye(d)
    scatter = residual @ moments.covariance @ residual.T
    along = np.sum(Q * (scatter @ Q), axis=0)  # q_i^T Cov(y - B v) q_i
    return float(-(d * np.log(2 * np.pi) + np.sum(np.log(K) + along / K)) / 2)
