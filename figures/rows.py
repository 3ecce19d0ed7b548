"""Rows kept under analysis/, read for the figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["kept"]

ANALYSIS = Path(__file__).resolve().parents[1] / "analysis"


def kept(name: str) -> Any:
    """Content of analysis/NAME.json; FileNotFoundError says which script writes it."""
    path = ANALYSIS / f"{name}.json"
    if not path.exists():
        script = "figure_runs.py --thresholds" if name == "thresholds" else f"{name}.py"
        raise FileNotFoundError(f"{path} is missing: python analysis/{script} writes it")
    return json.loads(path.read_text(encoding="utf-8"))
