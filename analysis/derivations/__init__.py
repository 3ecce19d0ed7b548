"""Derivations of the theory with sympy, one file per theorem family.

Each module derives stationarity, the optimum and the threshold of its model from the objective,
second-order conditions included, as a list of steps to read (`python -m analysis.derivations`).
`derive(objective)` of a module runs it; a step that does not hold raises `DerivationError`.
"""

FAMILIES = (
    "vae",
    "fixed",
    "cvae",
    "decoder_variance",
    "hvae",
    "remedies",
    "reconstruction",
    "autoregressive",
    "sequences",
    "families",
    "dynamics",
)
