"""How training went: a thin history of every member, as one array."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["CURVE_COLUMNS", "CURVE_POINTS", "training_curves"]

CURVE_COLUMNS = ("step", "distortion_nats", "rate_nats", "objective_nats")
CURVE_POINTS = 50  # of one member, so that curves of jobs of any length can be joined


def training_curves(
    history: Sequence[Mapping[str, float]], seeds: Sequence[int], n_points: int
) -> npt.NDArray[np.float64]:
    """Rows of `TrainResult.history` as (n_seeds, n_points, CURVE_POINTS, CURVE_COLUMNS).

    Of one batch each. Of a member with more rows every so many, the last among them; one with fewer
    has NaN at the end, and so has a value that an older store did not keep.
    """
    shape = (len(seeds), n_points, CURVE_POINTS, len(CURVE_COLUMNS))
    found = np.full(shape, np.nan)
    place = {seed: i for i, seed in enumerate(seeds)}
    members: dict[tuple[int, int], list[list[float]]] = {}
    for row in history:
        member = place[int(row["seed"])], int(row["point"])
        members.setdefault(member, []).append([row.get(name, np.nan) for name in CURVE_COLUMNS])
    for member, rows in members.items():
        every = -(-len(rows) // CURVE_POINTS)
        kept = rows[::-1][::every][::-1]
        found[member][: len(kept)] = kept
    return found
