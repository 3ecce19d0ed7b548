"""What is observed: per-member observations and threshold estimators."""

from linvae.metrics.bracket import Bracket, Branch, bracket_threshold
from linvae.metrics.control import (
    CONTROL_BATCH_SIZE,
    LONGER,
    SET_POINTS,
    SETTLED,
    fit_threshold,
)
from linvae.metrics.curves import CURVE_COLUMNS, CURVE_POINTS, training_curves
from linvae.metrics.evidence import (
    ExchangeRatios,
    exchange_ratios,
    has_certificate,
    rates_at_collapse,
)
from linvae.metrics.features import (
    FeatureSpace,
    inception_space,
    pixel_space,
    trained_space,
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
from linvae.metrics.sample_quality import (
    FeatureDistances,
    SampleQuality,
    compare_features,
    sample_quality,
)
from linvae.metrics.samples import (
    Pictures,
    prior_samples,
    reconstruction_sheet,
    reconstructions,
    sample_sheet,
    traversal_sheet,
    traversals,
    unit_rates,
)
from linvae.metrics.threshold import ThresholdEstimate, estimate_threshold

__all__ = [
    "CONTROL_BATCH_SIZE",
    "CURVE_COLUMNS",
    "CURVE_POINTS",
    "LONGER",
    "SETTLED",
    "SET_POINTS",
    "Bracket",
    "Branch",
    "CollapsedPoint",
    "ExchangeRatios",
    "FeatureDistances",
    "FeatureSpace",
    "Identifiability",
    "ImportanceWeighted",
    "InferenceLag",
    "LipschitzConstants",
    "LocalCollapse",
    "MutualInformation",
    "Observation",
    "Pictures",
    "SampleQuality",
    "ThresholdEstimate",
    "bracket_threshold",
    "collapsed_point",
    "compare_features",
    "decoder_lipschitz",
    "estimate_threshold",
    "exchange_ratios",
    "fit_threshold",
    "has_certificate",
    "has_local",
    "identifiability",
    "importance_weighted_likelihood",
    "inception_space",
    "inference_lag",
    "latent_cell_rates",
    "local_collapse",
    "local_thresholds",
    "mutual_information",
    "naive_crossing",
    "naive_threshold",
    "observe",
    "perplexity",
    "pixel_space",
    "prior_samples",
    "published_mutual_information",
    "rates_at_collapse",
    "reconstruction_sheet",
    "reconstructions",
    "sample_quality",
    "sample_rates",
    "sample_sheet",
    "trained_space",
    "training_curves",
    "traversal_sheet",
    "traversals",
    "unit_rates",
]
