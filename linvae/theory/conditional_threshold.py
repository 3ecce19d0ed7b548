"""Collapse at some conditions and not at others: thresholds of conditional networks.

    p(y|z, x) = N(g(z, x), s I)     q(z|x, y) = N(f(x, y), Sigma(x, y))     p(z) = N(0, eta^2 I)

Both networks see x. If they are free to do anything at every x, the objective is a mean over x of
terms that share nothing,

    objective = E_x F_x,   F_x = the objective of the plain VAE z <-> y on the law of y given x

(a prior that depends on x changes nothing: g can undo it). With C(x) = Cov(y|x) of eigenvalues
lambda_1(x) >= lambda_2(x) ...,

- collapse at x is stable iff lambda_1(x) <= beta s, whatever happens at other x: it is **local**;
- total collapse is stable iff beta >= beta_first = ess sup_x lambda_1(x)/s;
- a decoder h(x) + U z leans one way at every x. Its average over x is all that enters, and it
  collapses from beta_average = lambda_max(E_x C(x))/s <= beta_first on (lambda_max is convex). A
  linear one, h(x) = B x, has besides what B x misses of E[y|x] to explain: its threshold, from
  the linear residual, is at least beta_average and may lie above or below beta_first;
- y normal given x: stable is optimal (the variance proxy of `linvae.theory.universal` is
  lambda_1(x)), the linear VAE on C(x) is the optimum at x, and

      rate(beta) = E_x 1/2 sum_{i <= k} max(0, log(lambda_i(x)/(beta s))).

  Elsewhere these are the numbers of decoders linear in z at each x, and skewness may keep x alive
  beyond them.

With an encoder variance fixed to sigma_i^2 all of it holds with the linear VAE of that variance.
So from beta_average to beta_first the latents live on part of the conditions only, and the rate
goes to 0 faster than linearly: as (beta_first - beta)^(3/2) around a smooth maximum of lambda_1 on
a line, where one unit at one x has (beta_first - beta)/(2 beta).

| symbol       | argument or field       | shape     | unit         |
|--------------|-------------------------|-----------|--------------|
| C(x)         | covariances             | (m, d, d) | data units^2 |
| P(x)         | weights                 | (m,)      | -, sum 1     |
| lambda_1(x)/s| critical_betas          | (m,)      | -            |
| beta_first   | critical_beta           | scalar    | -            |
| beta_average | average_critical_beta   | scalar    | -            |
| rate         | rate, rates             | scalar, (m,) | nats      |

Source: ours; the bound by a supremum over conditions is in `linvae.theory.universal`. Equality that
a test checks: one condition gives `solve` of the CVAE on its moments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from linvae.moments import Moments, doubles
from linvae.spec import CVAESpec, VAESpec
from linvae.theory import solve
from linvae.theory.arguments import checked_numbers

__all__ = ["ConditionalThreshold", "conditional_threshold"]

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ConditionalThreshold:
    """Thresholds of a family of laws of y given x; fields in the module's table.

    `moments`: of every x, None where y has no variance. Equality that a test checks: rate is 0 and
    the share 1 from `critical_beta` on.
    """

    spec: VAESpec
    moments: tuple[Moments | None, ...]
    weights: Array
    critical_betas: Array
    average_critical_beta: float

    @property
    def critical_beta(self) -> float:
        """beta_first: total collapse is stable from it on."""
        return float(self.critical_betas[self.weights > 0].max())

    def share_collapsed(self, beta: float) -> float:
        """Probability of the conditions where all of z is the prior."""
        return float(np.sum(self.weights[self.critical_betas <= beta]))

    def rates(self, beta: float) -> Array:
        """Rate at every x, (m,) nats."""
        spec = self.spec.scale_betas(beta / self.spec.beta)
        return np.array([0.0 if m is None else solve(spec, m).rates[0] for m in self.moments])

    def rate(self, beta: float) -> float:
        """Its mean over x."""
        return float(self.weights @ self.rates(beta))

    def to_rows(self) -> list[dict[str, Any]]:
        """One row per condition."""
        return [
            {"weight": float(w), "critical_beta": float(c)}
            for w, c in zip(self.weights, self.critical_betas, strict=True)
        ]


def conditional_threshold(
    spec: CVAESpec, covariances: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> ConditionalThreshold:
    """Thresholds and rates of unrestricted networks, `covariances` being Cov(y|x) of every x.

    `weights`: probabilities of the conditions up to a factor, None: equal. Raises ValueError for
    another specification than a CVAESpec whose encoder sees both, with penalties or a learned
    decoder variance (one number for all x), for weights that do not fit, and for matrices that are
    no covariances.
    """
    plain = _at_one_condition(spec)
    C = doubles("covariances", covariances)
    if C.ndim != 3 or C.shape[1] != C.shape[2] or C.size == 0:
        raise ValueError(f"covariances has shape {C.shape} but must be (m, d, d), one for each x")
    w = checked_numbers(
        "weights",
        np.ones(len(C)) if weights is None else weights,
        "conditional_threshold",
        zero=True,
    )
    if w.shape != (len(C),) or not w.any():
        raise ValueError(
            f"weights has shape {w.shape} and sum {w.sum():g} but must have shape ({len(C)},), one "
            "for each covariance, and a sum above 0"
        )
    moments = tuple(Moments.from_covariance(c) if c.any() else None for c in C)
    critical = [0.0 if m is None else float(solve(plain, m).critical_beta[0]) for m in moments]
    mean = np.tensordot(w / w.sum(), C, 1)
    average = solve(plain, Moments.from_covariance(mean)).critical_beta[0]
    return ConditionalThreshold(plain, moments, w / w.sum(), np.array(critical), float(average))


def _at_one_condition(spec: CVAESpec) -> VAESpec:
    """The plain VAE that is left where the condition is given."""
    if not isinstance(spec, CVAESpec) or spec.encoder_sees != "both":
        raise ValueError(
            f"spec={spec!r} must be a CVAESpec with encoder_sees='both' in conditional_threshold: "
            "an encoder that does not see the condition ties all conditions together"
        )
    if spec.penalised or spec.decoder_variance == "learned":
        raise ValueError(
            "latent_reconstruction, weight_decay and decoder_variance='learned' tie all conditions "
            "together: leave the first two out and give the variance in conditional_threshold"
        )
    fields = ("latent_dim", "beta", "decoder_variance", "prior_variance", "encoder_variance")
    return VAESpec(**{name: getattr(spec, name) for name in fields})
