"""Checks of numbers: what passes, and what the error says."""

from __future__ import annotations

import numpy as np
import pytest

from linvae.theory.arguments import checked_numbers, checked_variances


def test_numbers_keep_shape_and_value():
    found = checked_numbers("beta", [[1, 2]], "f")
    assert found.dtype == np.float64
    assert found.tolist() == [[1.0, 2.0]]
    assert checked_numbers("beta", 0, "f", zero=True) == 0.0
    assert checked_variances(2.0, "f").tolist() == [2.0]


@pytest.mark.parametrize(
    ("value", "zero", "message"),
    [
        (0.0, False, r"beta=0.0 must be finite and > 0 in f"),
        (-1, True, r"beta=-1 must be finite and >= 0 in f"),
        ([1.0, np.nan, -3.0], False, r"beta=nan must be finite and > 0 in f"),
        (np.inf, True, r"beta=inf must be finite"),
    ],
)
def test_first_bad_number_is_shown(value, zero, message):
    with pytest.raises(ValueError, match=message):
        checked_numbers("beta", value, "f", zero=zero)


@pytest.mark.parametrize("value", [[[1.0]], []], ids=["matrix", "empty"])
def test_variances_are_one_dimensional(value):
    with pytest.raises(
        ValueError, match=r"mode_variances has shape .* must be 1-D, \(modes,\), in f"
    ):
        checked_variances(value, "f")
