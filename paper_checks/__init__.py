"""Every claim, formula and table of the papers behind linvae, checked again.

`python -m paper_checks` prints the table. One module per paper, one function per claim; a function
computes a gap and the bound it has to meet, and the verdict follows from the two
(`paper_checks.checks.Finding`).
"""

from __future__ import annotations

from paper_checks import (
    dang2024,
    he2019,
    ichikawa2024,
    li2025,
    lucas2019,
    neighbours,
    song2025,
    tipping1999,
    wang2022,
)
from paper_checks.checks import Check, Finding, Paper

__all__ = ["PAPERS", "Check", "Finding", "Paper"]

_MODULES = (
    tipping1999,
    lucas2019,
    wang2022,
    dang2024,
    he2019,
    song2025,
    li2025,
    ichikawa2024,
    neighbours,
)
PAPERS: dict[str, Paper] = {module.PAPER.name: module.PAPER for module in _MODULES}
