"""A linear decoder whose hidden layers all read z: what that changes, and what it does not.

    h_1 = V_1 z,   h_l = V_l h_(l-1) + S_l z   (S_l = 0: no skip),   E[y|z] = V_p h_(p-1) = U z

is U z with any U whatever the layers, so **thresholds and optima of `linvae.solve` stay**. What
changes is how fast training leaves collapse (last layer and encoder silent): hidden layers do not
move there to first order, and the last layer makes the weight u of one unit move with a gain
g^2 = |h|^2, h its last hidden layer at z = 1:

    d/dt (u, lambda) = [[-g^2 eta^2/s, g^2 theta/s], [rho theta/s, -rho beta/eta^2]] (u, lambda)

in the symbols of `linvae.theory.mode_system`: g^2 times its growth with rho/g^2 for rho. h is the
sum over the paths from z: with one number a in every place

    plain: g = a^(p-1)      with skips: g = a + ... + a^(p-1), at least a whatever the depth

so that for small weights (growth proportional to g^2) a deep plain decoder waits at collapse for
a^(-2(p-2)) times as long. Weights that keep hidden units at order 1, as ours do, have g = 1 with
skips and without: a linear model then gains nothing from them.

| symbol    | argument       | shape                       | unit                      |
|-----------|----------------|-----------------------------|---------------------------|
| V_1 .. V_(p-1) | layers    | (h_l, h_(l-1)), h_0 = 1     | -                         |
| S_2 .. S_(p-1) | feeds     | (h_l, 1)                    | -                         |
| g^2       | gain           | scalar                      | -                         |
| growth    | what returns   | (modes,), as `escape_rates` | 1/(steps * learning rate) |

One unit; the layers' products with several mix them. Source: ours; skips: Dieng et al. 2019.
Equality that a test checks: the eigenvalues of minus the Hessian of the exact objective over all
matrices of the deep model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from linvae.moments import doubles
from linvae.theory.arguments import checked_numbers, in_doubles
from linvae.theory.mode_system import EncoderWeights, ModeSystem, Update, mode_system

__all__ = ["deep_escape_rates", "hidden_gain"]

Array = npt.NDArray[np.float64]


def hidden_gain(layers: Sequence[npt.ArrayLike], feeds: Sequence[npt.ArrayLike] = ()) -> float:
    """g^2 = |h|^2 of the last hidden layer; `feeds` of every layer but the first, or none.

    Raises ValueError for shapes that do not follow one another.
    """
    matrices = [doubles("layers", layer) for layer in layers]
    if not matrices or (feeds and len(feeds) != len(matrices) - 1):
        raise ValueError(
            f"{len(matrices)} layers and {len(feeds)} feeds in hidden_gain: give at least one "
            "layer, and a feed for every layer but the first, or none"
        )
    h = np.ones((1, 1))
    for i, V in enumerate(matrices):
        if V.ndim != 2 or V.shape[1] != len(h):
            raise ValueError(
                f"layers[{i}] has shape {V.shape} but must have {len(h)} columns in hidden_gain"
            )
        h = V @ h
        if feeds and i:
            S = doubles("feeds", feeds[i - 1])
            if S.shape != h.shape:
                raise ValueError(
                    f"feeds[{i - 1}] has shape {S.shape} but must have {h.shape} in hidden_gain"
                )
            h = h + S
    return float(np.sum(h**2))


@in_doubles
def deep_escape_rates(
    mode_variances: npt.ArrayLike,
    *,
    gain: float,
    beta: npt.ArrayLike = 1.0,
    decoder_variance: float = 1.0,
    prior_variance: float = 1.0,
    update: Update = "joint",
    encoder_weights: EncoderWeights = "raw",
) -> Array:
    """Growth rate of small weights of a deep linear decoder, as `dynamics.escape_rates`.

    `gain`: `hidden_gain` of its hidden layers; 1 is the decoder of one matrix. Raises ValueError as
    `escape_rates`, and for a gain that is not positive. Equality that a test checks: the Hessian.
    """
    g2 = float(checked_numbers("gain", gain, "deep_escape_rates"))
    b = checked_numbers("beta", beta, "deep_escape_rates", zero=True)
    plain = mode_system(mode_variances, decoder_variance, prior_variance, update, encoder_weights)
    own = ModeSystem(plain.theta2, plain.s, plain.eta2, plain.rho / g2, plain.joint)
    return g2 * own.growth(b)
