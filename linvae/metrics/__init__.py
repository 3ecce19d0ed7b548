"""What is observed: per-member observations and threshold estimators."""

from linvae.metrics.bracket import Bracket, Branch, bracket_threshold
from linvae.metrics.control import (
    CONTROL_BATCH_SIZE,
    LONGER,
    SET_POINTS,
    SETTLED,
    fit_threshold,
)
from linvae.metrics.evidence import (
    ExchangeRatios,
    exchange_ratios,
    has_certificate,
    rates_at_collapse,
)
from linvae.metrics.information import (
    MutualInformation,
    mutual_information,
    published_mutual_information,
)
from linvae.metrics.lag import InferenceLag, inference_lag
from linvae.metrics.likelihood import (
    ImportanceWeighted,
    importance_weighted_likelihood,
    perplexity,
)
from linvae.metrics.lipschitz import LipschitzConstants, decoder_lipschitz
from linvae.metrics.local_collapse import LocalCollapse, local_collapse, sample_rates
from linvae.metrics.local_threshold import (
    CollapsedPoint,
    collapsed_point,
    has_local,
    local_thresholds,
)
from linvae.metrics.naive import naive_crossing, naive_threshold
from linvae.metrics.observe import Observation, observe
from linvae.metrics.reencoding import Identifiability, identifiability, latent_cell_rates
from linvae.metrics.threshold import ThresholdEstimate, estimate_threshold

__all__ = [
    "CONTROL_BATCH_SIZE",
    "LONGER",
    "SETTLED",
    "SET_POINTS",
    "Bracket",
    "Branch",
    "CollapsedPoint",
    "ExchangeRatios",
    "Identifiability",
    "ImportanceWeighted",
    "InferenceLag",
    "LipschitzConstants",
    "LocalCollapse",
    "MutualInformation",
    "Observation",
    "ThresholdEstimate",
    "bracket_threshold",
    "collapsed_point",
    "decoder_lipschitz",
    "estimate_threshold",
    "exchange_ratios",
    "fit_threshold",
    "has_certificate",
    "has_local",
    "identifiability",
    "importance_weighted_likelihood",
    "inference_lag",
    "latent_cell_rates",
    "local_collapse",
    "local_thresholds",
    "mutual_information",
    "naive_crossing",
    "naive_threshold",
    "observe",
    "perplexity",
    "published_mutual_information",
    "rates_at_collapse",
    "sample_rates",
]
