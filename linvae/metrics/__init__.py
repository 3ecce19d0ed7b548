"""What is observed: per-member observations and threshold estimators."""

from linvae.metrics.evidence import ExchangeRatios, exchange_ratios, local_thresholds
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
    "ExchangeRatios",
    "Observation",
    "ThresholdEstimate",
    "estimate_threshold",
    "exchange_ratios",
    "fit_threshold",
    "local_thresholds",
    "observe",
]
