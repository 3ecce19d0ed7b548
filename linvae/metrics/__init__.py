"""What is observed: per-member observations and threshold estimators."""

from linvae.metrics.observe import Observation, observe
from linvae.metrics.threshold import (
    CONTROL_BATCH_SIZE,
    SET_POINTS,
    ThresholdEstimate,
    estimate_threshold,
    fit_threshold,
)

__all__ = [
    "CONTROL_BATCH_SIZE",
    "SET_POINTS",
    "Observation",
    "ThresholdEstimate",
    "estimate_threshold",
    "fit_threshold",
    "observe",
]
