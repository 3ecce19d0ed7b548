"""Checks of numbers: what passes, and what the error says."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import numpy as np
import pytest

import linvae.theory
from linvae.theory.arguments import (
    check_result,
    check_wholes,
    checked_numbers,
    checked_variances,
    in_doubles,
)
from linvae.theory.dynamics import mode_flow
from linvae.theory.finite_training import escape_times, finite_training_threshold
from linvae.theory.free_bits import free_bits_optimum
from linvae.theory.gaussian_encoder import alive_branch, gaussian_encoder_threshold
from linvae.theory.inverse_lipschitz import idle_beta, inverse_lipschitz_optimum
from linvae.theory.latent_skip import deep_escape_rates
from linvae.theory.penalised import penalised_optimum
from linvae.theory.rate_distortion import rate_distortion_curve
from linvae.theory.spiked_generalisation import spiked_generalisation

FUNCTIONS = {
    "mode_flow": lambda: mode_flow([1.0], times=[-1.0]),
    "escape_times": lambda: escape_times([-1.0]),
    "finite_training_threshold": lambda: finite_training_threshold(
        [1.0], n_steps=1, learning_rate=-1.0
    ),
    "free_bits_optimum": lambda: free_bits_optimum([-1.0], latent_dim=1, floor_nats=0.0),
    "gaussian_encoder_threshold": lambda: gaussian_encoder_threshold(
        [0.0, 1.0], decoder_variance=-1.0
    ),
    "alive_branch": lambda: alive_branch([0.0, 1.0], [-1.0]),
    "inverse_lipschitz_optimum": lambda: inverse_lipschitz_optimum(
        [-1.0], latent_dim=1, inverse_lipschitz=1.0
    ),
    "idle_beta": lambda: idle_beta([-1.0], inverse_lipschitz=1.0),
    "deep_escape_rates": lambda: deep_escape_rates([1.0], gain=-1.0),
    "penalised_optimum": lambda: penalised_optimum([1.0], beta=-1.0),
    "rate_distortion_curve": lambda: rate_distortion_curve([1.0], [-1.0]),
    "spiked_generalisation": lambda: spiked_generalisation(1.0, beta=-1.0, weight_decay=1.0),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_error_names_the_function(name):
    with pytest.raises(ValueError, match=f"=-1.0 must be finite and >=? 0 in {name}$"):
        FUNCTIONS[name]()


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


def test_only_arrays_that_do_not_fit_together_are_said_to():
    @in_doubles
    def added(x, y):
        if len(x) > 2:
            raise ValueError("x is too long")
        return np.add(x, y)

    with pytest.raises(ValueError, match=r"^x is too long$"):
        added([1, 2, 3], [1])
    with pytest.raises(ValueError, match=r"arrays given to added do not fit together: .*broadcast"):
        added([1, 2], [1, 2, 3])
    with pytest.raises(
        ValueError, match="given to added are too large, too small or too far apart"
    ):
        added([1e308], [1e308])


@pytest.mark.parametrize(
    ("function", "x", "y"),
    [(np.multiply, 1e300, 1e300), (np.divide, 1.0, 0.0), (np.subtract, np.inf, np.inf)],
    ids=["overflow", "division", "invalid"],
)
def test_what_doubles_cannot_hold_is_an_error_not_a_warning(function, x, y):
    with pytest.raises(ValueError, match=f"given to {function.__name__} are too large, too small"):
        in_doubles(function)(np.array([x]), np.array([y]))


def test_counts_are_whole_numbers_from_one_on():
    check_wholes("f", n=1, k=np.int64(3))
    for bad in (0, -2, 2.0, 1.5, "3"):
        with pytest.raises(ValueError, match=f"^n={bad!r} must be an integer >= 1 in f$"):
            check_wholes("f", k=1, n=bad)


@pytest.mark.parametrize("shape", [float, lambda x: np.array([0.0, x])], ids=["number", "array"])
def test_results_are_numbers_and_finite_but_where_infinity_means_something(shape):
    check_result("it", shape(1.0))
    check_result("it", shape(np.inf), infinite=True)
    with pytest.raises(FloatingPointError, match="it would be"):
        check_result("it", shape(np.inf))
    for value, infinite in ((np.nan, False), (np.nan, True), (np.inf, False)):
        with pytest.raises(FloatingPointError, match="it would be"):
            check_result("it", shape(value), infinite=infinite)


DEFAULTS = {"decoder_variance": 1.0, "prior_variance": 1.0, "beta": 1.0}


def test_whatever_has_a_default_has_the_same():
    """One unit of data, one of the latent space, the ELBO: what the specifications say too."""
    found = set()
    for info in pkgutil.iter_modules(linvae.theory.__path__):
        module = importlib.import_module(f"linvae.theory.{info.name}")
        for name in module.__all__:
            if inspect.isfunction(function := getattr(module, name)):
                parameters = inspect.signature(function).parameters
                for word in set(parameters) & set(DEFAULTS):
                    assert parameters[word].default in (DEFAULTS[word], inspect.Parameter.empty)
                    found |= {word} if parameters[word].default == DEFAULTS[word] else set()
    assert found == set(DEFAULTS)
