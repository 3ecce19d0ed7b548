"""From which beta on no network of a model's kind can gain by leaving collapse.

`linvae.theory.universal` bounds every model whose rate is at least the information I that its
decoder uses. An encoder variance that is held fixed makes information cheaper, by a known factor:

    total rate - its value at collapse >= phi I,      so total collapse is the optimum from
    beta = beta_u/phi

| model                                                              | phi                     |
|--------------------------------------------------------------------|-------------------------|
| one level, encoder variances free                                  | 1                       |
| one level, encoder variances fixed to diag(sigma_i^2)              | min_i sigma_i^2/eta^2   |
| hierarchy, betas not falling upwards, all encoder variances free   | 1                       |
| the same, that of level 1 fixed to sigma_1^2 <= eta_1^2            | sigma_1^2/eta_1^2       |

for **any** networks in place of all matrices, beta the one of level 1.

One level, fixed: the rate exceeds that of collapse by E|mu|^2/(2 eta^2), and by the capacity of
Gaussian channels I <= sum_i E mu_i^2/(2 sigma_i^2).
Hierarchy: with betas that do not fall, sum_l beta_l rate_l >= beta_1 E KL(q(z_1|y) || p(z_1)), and
p(z_1) is a mixture of N(., eta_1^2 I), whatever the levels above. Fixed: let A = z_1 be mu with
noise of variance sigma_1^2, A' the same mu with noise of variance eta_1^2, and k the number of
units. -log p has second derivatives of at most 1/eta_1^2, so

    E[-log p(A)] >= E[-log p(A')] - k (1 - phi)/2 >= h(A') - k (1 - phi)/2

and the rate exceeds that of collapse, k (phi - 1 - log phi)/2, by at least I(mu; A'). That is at
least phi I(mu; A), for information is concave in the signal-to-noise ratio (Guo, Shamai & Verdu
2005).

With a condition, only decoders B x + g(z) with B **held** at the linear regression are covered, g
any network. One that trains B as well can take out a few samples by z and fit the others better (a
test has one alive 15 times beyond the bound), one that mixes both can follow each x on its own.

| symbol | here             | shape   | unit       |
|--------|------------------|---------|------------|
| y      | target           | (n, d)  | data units |
| x      | condition        | (n, dx) | its units  |
| beta_u | critical_beta of the universal threshold | scalar | - |
| phi    | 1/factor         | scalar  | -          |

Source: ours. Equality that a test checks: `linear` of the bounds = `solve`'s critical beta of
level 1, whose own factor is the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from linvae.moments import doubles
from linvae.spec import ARVAESpec, CVAESpec, HVAESpec, LinearSpec, VAESpec
from linvae.theory.arguments import check_spec, in_doubles
from linvae.theory.universal import universal_threshold

__all__ = ["NetworkBounds", "network_bounds"]

Scope = Literal["any network", "any decoder that adds to the fixed regression"]


@dataclass(frozen=True)
class NetworkBounds:
    """Total collapse as beta of level 1 rises: linear <= found <= proven.

    | field                   | meaning                                                  | unit    |
    |-------------------------|----------------------------------------------------------|---------|
    | linear                  | below: linear networks are alive                         | -       |
    | found                   | largest beta found where leaving collapse may still pay  | -       |
    | proven                  | above: it never does, on these samples                   | -       |
    | held_out                | `found`, from one half of the samples on the other       | -       |
    | held_out_standard_error | of that value                                            | -       |
    | effective_samples       | that `found` rests on                                    | samples |
    | scope                   | which networks                                           |         |
    """

    linear: float
    found: float
    proven: float
    held_out: float
    held_out_standard_error: float
    effective_samples: float
    scope: Scope

    def to_rows(self) -> list[dict[str, Any]]:
        """One row."""
        return [dict(vars(self))]


@in_doubles
def network_bounds(
    spec: LinearSpec, target: npt.ArrayLike, condition: npt.ArrayLike | None = None
) -> NetworkBounds | None:
    """The bounds of `spec` on samples; None where none is known.

    None with penalties, likelihoods other than gaussian, a learned decoder variance, a decoder that
    sees other coordinates, an encoder that sees the condition only, and hierarchies outside the
    module's table. Raises ValueError as `universal_threshold`, for another type than a
    specification, for a CVAESpec without a condition, and for labels as condition.
    """
    check_spec(spec)
    if isinstance(spec, CVAESpec) and condition is None:
        raise ValueError("condition is None but CVAESpec needs one: give it, or use VAESpec")
    numbers = None if condition is None else doubles("condition", condition)
    if numbers is not None and numbers.ndim != 2:
        raise ValueError(
            f"condition has shape {numbers.shape} but must be (n, dx) numbers: for labels, "
            "integers (n,), call universal_threshold, which bounds every group"
        )
    factor = _factor(spec)
    if factor is None or (type(spec) is VAESpec and condition is not None):
        return None
    bound = universal_threshold(
        target, decoder_variance=float(spec.decoder_variance), condition=numbers
    )
    return NetworkBounds(
        linear=factor * bound.linear_critical_beta,
        found=factor * bound.critical_beta,
        proven=factor * bound.critical_beta_upper_bound,
        held_out=factor * bound.held_out_critical_beta,
        held_out_standard_error=factor * bound.held_out_standard_error,
        effective_samples=bound.effective_samples,
        scope="any network" if condition is None else get_args(Scope)[1],
    )


def _factor(spec: LinearSpec) -> float | None:
    """1/phi of the module's table."""
    if isinstance(spec, HVAESpec):
        return _factor_of_hierarchy(spec)
    if not isinstance(spec, VAESpec) or isinstance(spec, ARVAESpec):
        return None
    if spec.penalised or spec.likelihood != "gaussian" or spec.decoder_variance == "learned":
        return None
    if isinstance(spec, CVAESpec) and spec.encoder_sees == "target":
        return None  # z then carries the condition as well: its linear threshold is another
    fixed = spec.encoder_variance
    return 1.0 if fixed is None else spec.prior_variance / float(np.min(fixed))


def _factor_of_hierarchy(spec: HVAESpec) -> float | None:
    first, *above = spec.encoder_variances
    if any(v is not None for v in above) or np.any(np.diff(spec.betas) < 0):
        return None
    ratio = 1.0 if first is None else spec.prior_variances[0] / first
    return ratio if ratio >= 1 else None
