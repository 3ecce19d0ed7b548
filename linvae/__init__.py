"""linvae predicts posterior collapse before training, checks it after, and says why.

>>> import numpy as np
>>> from linvae import Moments, VAESpec, solve
>>> moments = Moments.from_covariance(np.diag([3.0, 1.0, 0.2]))
>>> solve(VAESpec(latent_dim=2, decoder_variance=0.5), moments).critical_beta.tolist()
[6.0, 2.0, nan]
"""

from linvae.moments import Moments
from linvae.spec import ARVAESpec, CVAESpec, HVAESpec, VAESpec
from linvae.theory import (
    ObjectiveTerms,
    Solution,
    UnboundedObjectiveError,
    objective,
    solve,
)
from linvae.theory.network_bounds import NetworkBounds, network_bounds
from linvae.theory.stability import Stability, critical_correlation, stability
from linvae.theory.universal import UniversalThreshold, universal_threshold
from linvae.version import __version__

__all__ = [
    "ARVAESpec",
    "CVAESpec",
    "HVAESpec",
    "Moments",
    "NetworkBounds",
    "ObjectiveTerms",
    "Solution",
    "Stability",
    "UnboundedObjectiveError",
    "UniversalThreshold",
    "VAESpec",
    "__version__",
    "critical_correlation",
    "network_bounds",
    "objective",
    "solve",
    "stability",
    "universal_threshold",
]
