"""linvae predicts posterior collapse before training, checks it after, and says why.

>>> import numpy as np
>>> from linvae import Moments, VAESpec, solve
>>> moments = Moments.from_covariance(np.diag([3.0, 1.0, 0.2]))
>>> solve(VAESpec(latent_dim=2, decoder_variance=0.5), moments).critical_beta.tolist()
[6.0, 2.0, nan]

Names are loaded when they are first asked for: `import linvae` takes no scipy, so that every
`--help` answers at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from linvae.version import __version__

if TYPE_CHECKING:
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

_HOMES = {
    "Moments": "moments",
    **dict.fromkeys(("ARVAESpec", "CVAESpec", "HVAESpec", "VAESpec"), "spec"),
    **dict.fromkeys(
        ("ObjectiveTerms", "Solution", "UnboundedObjectiveError", "objective", "solve"), "theory"
    ),
    **dict.fromkeys(("NetworkBounds", "network_bounds"), "theory.network_bounds"),
    **dict.fromkeys(("Stability", "critical_correlation", "stability"), "theory.stability"),
    **dict.fromkeys(("UniversalThreshold", "universal_threshold"), "theory.universal"),
}


def __getattr__(name: str) -> Any:
    """A public name, or one of the modules behind them, imported now."""
    if name in _HOMES:
        value = getattr(import_module(f"linvae.{_HOMES[name]}"), name)
        return globals().setdefault(name, value)
    if name in ("moments", "spec", "theory"):
        return import_module(f"linvae.{name}")
    raise AttributeError(f"module 'linvae' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, whether they are loaded yet or not."""
    return sorted({*globals(), *__all__})
