"""A thin history: the same shape whatever the run, its end always in it."""

from __future__ import annotations

import numpy as np
import pytest

from linvae.metrics import CURVE_COLUMNS, CURVE_POINTS, training_curves


def _history(steps, seed: int = 7, point: int = 0):
    keys = ("distortion_nats", "rate_nats", "objective_nats", "first_beta")
    return [
        {"step": step, "seed": seed, "point": point, **dict.fromkeys(keys, step + seed + point)}
        for step in steps
    ]


@pytest.mark.parametrize("logged", [1, 3, CURVE_POINTS, CURVE_POINTS + 1, 7 * CURVE_POINTS + 2])
def test_curves_are_thinned_to_points_that_are_equally_far_apart(logged):
    curves = training_curves(_history(range(1, logged + 1)), (7,), 1)
    assert curves.shape == (1, 1, CURVE_POINTS, len(CURVE_COLUMNS))
    steps = curves[0, 0, :, 0]
    known = steps[~np.isnan(steps)]
    assert known[-1] == logged and np.isnan(steps[len(known) :]).all()
    assert len(set(np.diff(known))) <= 1
    assert len(known) >= min(logged, CURVE_POINTS // 2)


def test_every_member_has_its_own_rows():
    """Members that end early have fewer; seeds are where their stack has them."""
    history = _history((1, 2), seed=3, point=1) + _history((1, 2, 3), seed=9)
    curves = training_curves(history, (9, 3), 2)
    assert np.isnan(curves[0, 1]).all() and np.isnan(curves[1, 0]).all()
    assert curves[0, 0, :3].tolist() == [[t, t + 9, t + 9, t + 9] for t in (1, 2, 3)]
    assert curves[1, 1, :2].tolist() == [[t, t + 4, t + 4, t + 4] for t in (1, 2)]
    assert np.isnan(curves[1, 1, 2:]).all()


def test_history_of_an_older_store_has_no_objective():
    history = [{k: v for k, v in r.items() if k != "objective_nats"} for r in _history((1, 2))]
    curves = training_curves(history, (7,), 1)[0, 0, :2]
    assert curves[:, :3].tolist() == [[t, t + 7, t + 7] for t in (1, 2)]
    assert np.isnan(curves[:, 3]).all()
