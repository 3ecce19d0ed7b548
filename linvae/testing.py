"""Assertions about posterior collapse for the tests of other projects, and data with known answers.

Plain functions: they work under pytest, unittest or a script. In the test suite of a VAE, with
`data` the samples that it was trained on and `encoder` of any kind in `linvae.encoders`,

    def test_no_unit_is_lost():
        assert_no_excess_collapse(encoder, data, beta=1.0, decoder_variance=0.1)

fails where units are collapsed that the linear optimum keeps alive, with the diagnosis as message.
A broken VAE, whose encoder forgets its second unit:

>>> import numpy as np
>>> from linvae.testing import assert_no_excess_collapse, critical_beta, spectrum_data
>>> data = spectrum_data((4.0, 1.0, 0.25), n_samples=2000)
>>> critical_beta(data, decoder_variance=0.1).round(3).tolist()
[40.0, 10.0, 2.5]
>>> axes = np.linalg.svd(data, full_matrices=False)[2]
>>> def encoder(batch):  # the optimum of two units at beta = 1, decoder variance 0.1
...     mean = batch @ axes[:2].T * np.sqrt((1 - np.array([0.025, 0.1])) / np.array([4.0, 1.0]))
...     return mean, np.log([0.025, 0.1]) + 0 * mean
>>> assert_no_excess_collapse(encoder, data, decoder_variance=0.1)
>>> def broken(batch):
...     mean, log_variance = encoder(batch)
...     return mean * [1, 0], log_variance * [1, 0]
>>> assert_no_excess_collapse(broken, data, decoder_variance=0.1)
Traceback (most recent call last):
    ...
AssertionError: Collapsed below the threshold: optimisation. Of 2 units at beta = 1, ...

| data          | eigenvalues of Cov(y)   | linear theory: active up to beta  | a network   |
|---------------|-------------------------|-----------------------------------|-------------|
| spectrum_data | as given                | lambda_i/s                        | the same    |
| curve_data    | radius^2/2, 2 m times   | radius^2/(2 s), all units at once | beyond that |

Gaussian data give a network nothing that a linear model has not; one angle holds the whole curve.

Source: the thresholds are those of `linvae.theory.vae`. Equalities that tests check: spectra of
both data to rounding, the documented failure, and that the encoder of `solve` passes.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from linvae.data import gaussian
from linvae.diagnosis import OPTIMISATION, diagnose
from linvae.moments import Moments
from linvae.spec import CVAESpec, VAESpec
from linvae.theory import solve

__all__ = [
    "assert_no_excess_collapse",
    "assert_threshold",
    "critical_beta",
    "curve_data",
    "spectrum_data",
]

Array = npt.NDArray[np.float64]


def critical_beta(
    data: npt.ArrayLike,
    *,
    decoder_variance: float = 1.0,
    condition: npt.ArrayLike | None = None,
    latent_dim: int | None = None,
) -> Array:
    """Beta at which each unit collapses, descending, (latent_dim,); None: one unit per dimension.

    `data` (n, d), and a `condition` (n, dx) that encoder and decoder see. Above the first all are
    collapsed. Raises ValueError as `Moments.from_data`, `VAESpec` and `solve`.
    """
    moments = Moments.from_data(data, condition)
    kind = VAESpec if condition is None else CVAESpec
    k = moments.target_dim if latent_dim is None else latent_dim
    spec = kind(k, decoder_variance=decoder_variance)
    return solve(spec, moments).critical_beta[:k]


def assert_threshold(
    observed_beta: float,
    data: npt.ArrayLike,
    *,
    relative_tolerance: float,
    decoder_variance: float = 1.0,
    condition: npt.ArrayLike | None = None,
    unit: int = 1,
) -> None:
    """AssertionError unless `observed_beta` is the critical beta of `unit`, the last to collapse 1.

    `relative_tolerance`: of the prediction, which for n Gaussian samples has itself a relative
    standard error of sqrt(2/n). A count of units above e nats sees exp(-2 e) of the threshold.
    Raises ValueError for a tolerance that is not above 0, a unit that the data do not have, and as
    `critical_beta`.
    """
    __tracebackhide__ = True  # pytest shows the line of the test, not ours
    if not 0 < relative_tolerance < math.inf:
        raise ValueError(
            f"relative_tolerance={relative_tolerance!r} must be a finite number > 0 in "
            "assert_threshold, as 0.05 for 5 %"
        )
    thresholds = critical_beta(data, decoder_variance=decoder_variance, condition=condition)
    if unit not in range(1, len(thresholds) + 1):
        raise ValueError(
            f"unit={unit} must be from 1 to the {len(thresholds)} dimensions of data in "
            "assert_threshold"
        )
    predicted = float(thresholds[unit - 1])
    if predicted <= 1e-12 * thresholds[0]:  # rounding of a variance of 0
        raise ValueError(
            f"unit={unit} has nothing to code in assert_threshold: the data have variance in fewer "
            "directions, and it is collapsed at any beta"
        )
    # NaN is no threshold: it fails here too
    if not abs(observed_beta - predicted) <= relative_tolerance * predicted:
        raise AssertionError(
            f"observed_beta={observed_beta:.6g} is {observed_beta / predicted:.4g} of the predicted"
            f" critical beta {predicted:.6g} of unit {unit} (decoder variance "
            f"{decoder_variance:.6g}), beyond relative_tolerance={relative_tolerance}: below it "
            "training is too short or too few units start; above it the network is not linear"
        )


def assert_no_excess_collapse(
    encoder: Any,
    data: npt.ArrayLike,
    *,
    beta: float = 1.0,
    decoder_variance: float = 1.0,
    **options: Any,
) -> None:
    """AssertionError, with the diagnosis, where theory keeps units alive that are collapsed.

    `options`, as `condition` or `decoder`, and all errors: those of `linvae.diagnosis.diagnose`.
    """
    __tracebackhide__ = True
    found = diagnose(encoder, data, beta=beta, decoder_variance=decoder_variance, **options)
    if found.verdict == OPTIMISATION:
        units = [
            f"unit {u.unit}: predicted {u.predicted_nats:.3f} nats, observed {u.observed_nats:.3f} "
            f"(tolerance {u.tolerance_nats:.3f}): {u.verdict}"
            for u in found.units
        ]
        raise AssertionError("\n".join([found.sentence, *units]))


def spectrum_data(
    spectrum: npt.ArrayLike = (4.0, 1.0, 0.25), *, n_samples: int = 1000, seed: int = 0
) -> Array:
    """Gaussian samples (n, d) whose 1/n covariance has exactly these eigenvalues, data units^2."""
    return gaussian(spectrum, n_samples, seed=seed).target.astype(np.float64)


def curve_data(
    harmonics: int = 3, *, n_samples: int = 1000, radius: float = 1.0, seed: int = 0
) -> Array:
    """A closed curve, radius (cos jt, sin jt) for j = 1 ... m, at equal angles t, shuffled.

    (n, 2 m), data units; every eigenvalue of the 1/n covariance is radius^2/2. Raises ValueError
    for a curve without harmonics or n_samples <= 2 m, where angles would alias.
    """
    if harmonics < 1 or n_samples <= 2 * harmonics:
        raise ValueError(
            f"harmonics={harmonics} and n_samples={n_samples} must have harmonics >= 1 and "
            "n_samples > 2 * harmonics in curve_data"
        )
    angles = np.random.default_rng(seed).permutation(n_samples) * (2 * np.pi / n_samples)
    phases = angles[:, None] * np.arange(1, harmonics + 1)
    curve: Array = radius * np.concatenate([np.cos(phases), np.sin(phases)], axis=1)
    return curve
