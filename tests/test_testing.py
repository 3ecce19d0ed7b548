"""The assertions pass and fail where they should, and the data are what they say."""

from __future__ import annotations

import doctest
import math
import subprocess
import sys

import numpy as np
import pytest

import linvae.testing
from linvae.data import gaussian
from linvae.testing import (
    assert_no_excess_collapse,
    assert_threshold,
    critical_beta,
    curve_data,
    spectrum_data,
)

DATA = spectrum_data((3.0, 1.0, 0.5))


def test_documented_example_fails_for_the_broken_vae():
    found = doctest.testmod(linvae.testing, optionflags=doctest.ELLIPSIS)
    assert found.attempted == 9
    assert found.failed == 0


def test_spectrum_is_exact():
    """float32 in between: 1e-6."""
    values = np.linalg.eigvalsh(np.cov(DATA.T, ddof=0))
    np.testing.assert_allclose(values, [0.5, 1.0, 3.0], rtol=1e-6)


@pytest.mark.parametrize(("harmonics", "n_samples"), [(1, 3), (3, 7), (3, 1000)])
def test_curve_has_one_variance_in_all_directions(harmonics, n_samples):
    y = curve_data(harmonics, n_samples=n_samples, radius=2.0)
    np.testing.assert_allclose(np.cov(y.T, ddof=0), 2 * np.eye(2 * harmonics), atol=1e-12)
    np.testing.assert_allclose(np.sum(y**2, axis=1), 4.0 * harmonics)


@pytest.mark.parametrize(("harmonics", "n_samples"), [(0, 10), (3, 6)])
def test_curve_that_aliases(harmonics, n_samples):
    with pytest.raises(ValueError, match=f"harmonics={harmonics} and n_samples={n_samples} must"):
        curve_data(harmonics, n_samples=n_samples)


def test_critical_beta_is_variance_over_decoder_variance():
    found = critical_beta(DATA, decoder_variance=0.5)
    np.testing.assert_allclose(found, [6.0, 2.0, 1.0], rtol=1e-6)
    assert len(critical_beta(DATA, latent_dim=2)) == 2
    assert critical_beta(DATA, latent_dim=5).tolist()[3:] == [0.0, 0.0]


def test_critical_beta_with_a_condition():
    """lambda (1 - rho^2)/s, descending."""
    data = gaussian([3.0, 1.0], 500, correlation=[0.9, 0.0], condition_dim=1, seed=0)
    found = critical_beta(data.target, condition=data.condition, decoder_variance=0.5)
    np.testing.assert_allclose(found, [2.0, 1.14], rtol=1e-5)


@pytest.mark.parametrize(("observed", "unit"), [(3.1, 1), (2.9, 1), (1.04, 2)])
def test_threshold_within_tolerance_passes(observed, unit):
    assert_threshold(observed, DATA, relative_tolerance=0.05, unit=unit)


@pytest.mark.parametrize("observed", [3.2, 2.8, math.nan, 6.0])
def test_threshold_outside_tolerance_fails(observed):
    with pytest.raises(AssertionError, match=r"of the predicted critical beta 3(\.0+\d*)? of unit"):
        assert_threshold(observed, DATA, relative_tolerance=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"relative_tolerance": 0.0}, "relative_tolerance=0.0 must be a finite number > 0"),
        ({"relative_tolerance": 0.1, "unit": 4}, "unit=4 must be from 1 to the 3 dimensions"),
    ],
)
def test_threshold_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        assert_threshold(3.0, DATA, **options)


def test_excess_collapse_names_every_unit():
    """Both units are dead at beta = 1, where theory holds log(3)/2 and nothing: one fails."""

    def dead(batch):
        return np.zeros((len(batch), 2)), np.zeros((len(batch), 2))

    with pytest.raises(AssertionError) as caught:
        assert_no_excess_collapse(dead, DATA)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("Collapsed below the threshold: optimisation. Of 2 units")
    assert "predicted 0.549 nats, observed 0.000" in lines[1]
    assert lines[2].endswith("collapsed as theory predicts")
    assert_no_excess_collapse(dead, DATA, beta=3.1)  # above the first threshold: as predicted


def test_pytest_shows_the_test_and_not_our_source(tmp_path):
    """Its own function fails, in a process of its own: nothing of linvae/testing.py is printed."""
    (tmp_path / "test_mine.py").write_text(
        "import numpy as np\n"
        "from linvae.testing import *\n"
        "DATA = spectrum_data((4.0, 1.0, 0.25))\n"
        "def test_threshold():\n"
        "    assert_threshold(9.0, DATA, relative_tolerance=0.1)\n"
        "def test_collapse():\n"
        "    dead = lambda batch: (np.zeros((len(batch), 2)), np.zeros((len(batch), 2)))\n"
        "    assert_no_excess_collapse(dead, DATA)\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n0", "test_mine.py"]
    out = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout
    assert "2 failed" in out and out.count("AssertionError: ") >= 2
    assert "testing.py" not in out and "raise AssertionError" not in out


def test_a_direction_without_variance_has_no_threshold():
    """As one that the data do not have: not a division by 0."""
    data = spectrum_data((4.0, 1.0, 0.0), n_samples=50)
    for unit, text in (
        (3, "has nothing to code"),
        (4, "from 1 to the 3"),
        (1.5, "from 1 to the 3"),
    ):
        with pytest.raises(ValueError, match=text):
            assert_threshold(1.0, data, relative_tolerance=0.1, unit=unit)
