"""Any input of the declared types: an answer without a warning, or a ValueError in our own words.

Numbers that are not finite, far too large or denormal, arrays of any type and shape, matrices that
are no covariance, nonsense in every field. Our own words: the error comes from a `raise` of linvae,
not from a library below it.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import pkgutil
import traceback
import warnings
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import linvae.theory
from linvae import CVAESpec, HVAESpec, Moments, VAESpec, objective, solve, stability
from linvae.spec import LATENT_SOURCES, ARVAESpec, LatentReconstruction
from linvae.theory import UnboundedObjectiveError


def answer(call: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """What `call` returns, or None where it refuses in its own words; warnings are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return call(*arguments, **named)
        except ValueError as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            assert type(error) in (ValueError, UnboundedObjectiveError)
            assert "/linvae/" in last.filename, f"{last.filename} says: {error}"
            assert str(last.line).startswith("raise "), f"{last.line} says: {error}"
            assert len(str(error)) > 20
            return None


# --- draws ----------------------------------------------------------------------------------------

EXTREME = [0.0, -0.0, -1.0, math.nan, math.inf, -math.inf, 5e-324, 1e-310, 1e-160, 1e160, 1.7e308]
number = st.sampled_from([1.0, 0.5, *EXTREME]) | st.floats()
whole = st.sampled_from([1, 2, 3, 0, -1, 7, 40])
NONSENSE = [
    None, True, False, "", "1", "learned", b"1", 1j, 10**400, -(10**400), Fraction(1, 3),
    Decimal("NaN"), Decimal(2), [], [1.0], [[1.0]], (None,), {}, {1.0}, object(), len, float,
    np.array(1.0), np.array([1.0, 2.0]), np.array([]), np.float16(0.5), np.int8(3), np.uint64(2),
    np.bool_(True), np.datetime64("2020"), np.array([True, False]), range(2), range(0),
    [[0, 0], [1, 0]], [["a", "b"], ["c", "d"]], [[], [0]], [[], ["a"]], np.eye(2, k=-1, dtype=bool),
]  # fmt: skip
nonsense = st.sampled_from(NONSENSE)  # few enough that every one is tried
numbers = number | whole | st.lists(number, max_size=3)
TYPES = ["f8", "f4", "f2", "g", "i8", "i1", "u8", "u1", "?", "c16", "U3", "O", "M8[s]", "V4"]
NO_ARRAYS = [
    [[1.0], [1.0, 2.0]],
    [None, None],
    [["a", "b"]],
    None,
    {},
    "text",
    [[10**400]],
    object(),
]


def of_type(values: np.ndarray, kind: str) -> np.ndarray:
    """The array in another type; what does not fit is whatever NumPy makes of it."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind in ("V4", "M8[s]"):
            return np.zeros(values.shape, kind)
        return values.astype(kind)


@st.composite
def arrays(draw, ndim: int | None = None, square: bool = False) -> Any:
    """Doubles, most often; any type; nested lists that are no array."""
    kind = draw(st.sampled_from(["plain", "plain", "extreme", "extreme", "typed", "none"]))
    if kind == "none":
        return draw(st.sampled_from(NO_ARRAYS))
    ndim = draw(st.integers(0, 3)) if ndim is None or draw(st.integers(0, 9)) == 9 else ndim
    shape = tuple(draw(st.integers(0 if i else 1, 4)) for i in range(ndim))
    if square and ndim:
        shape = (shape[0],) * ndim
    entry = number if kind == "extreme" else st.floats(0, 3)
    size = math.prod(shape)
    values = np.array(draw(st.lists(entry, min_size=size, max_size=size))).reshape(shape)
    if square and ndim == 2 and draw(st.booleans()):
        with np.errstate(all="ignore"):
            values = values @ values.T
    return of_type(values, draw(st.sampled_from(TYPES))) if kind == "typed" else values


# --- specifications -------------------------------------------------------------------------------

SPECS = (VAESpec, CVAESpec, ARVAESpec, HVAESpec, LatentReconstruction)
FIELDS = [(kind, f.name) for kind in SPECS for f in dataclasses.fields(kind) if f.name != "_"]
SMALLEST = {HVAESpec: {"latent_dims": (2, 1)}, LatentReconstruction: {}}


@pytest.mark.parametrize(
    ("kind", "name"), FIELDS, ids=[f"{kind.__name__}-{name}" for kind, name in FIELDS]
)
@pytest.mark.parametrize("values", [nonsense, numbers], ids=["nonsense", "numbers"])
@given(draw=st.data())
def test_any_value_of_a_field(kind, name, values, draw):
    """Accepted values are plain Python: they compare, hash, and make the same record again."""
    fields = SMALLEST.get(kind, {"latent_dim": 2}) | {name: draw.draw(values)}
    found = answer(kind, **fields)
    if found is not None:
        stored = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
        again = kind(**{n: v for n, v in stored.items() if n != "_"})
        assert again == found
        assert hash(again) == hash(found)
        assert all(type(v) in (int, float, str, tuple, type(None)) for v in stored.values())


@given(kind=st.sampled_from(SPECS), draw=st.data())
def test_any_values_of_all_fields(kind, draw):
    names = [f.name for f in dataclasses.fields(kind)]
    given = [n for n in names if n.startswith("latent_dim") or draw.draw(st.booleans())]
    answer(kind, **{name: draw.draw(nonsense | numbers, name) for name in given})


@given(spec=st.sampled_from([VAESpec(2), CVAESpec(2), HVAESpec([2, 1])]), factor=number)
def test_betas_scaled_by_anything(spec, factor):
    answer(spec.scale_betas, factor)


# --- moments --------------------------------------------------------------------------------------


def assert_moments(found: Moments | None) -> None:
    """Finite, symmetric, of the stated shapes."""
    if found is not None:
        n = found.condition_dim + found.target_dim
        assert found.mean.shape == (n,)
        assert found.covariance.shape == (n, n)
        assert found.mean.dtype == found.covariance.dtype == np.float64
        assert np.all(np.isfinite(found.mean))
        assert np.all(np.isfinite(found.covariance))
        assert np.array_equal(found.covariance, found.covariance.T)
        for name in ("regression", "explained_covariance", "residual_covariance"):
            part = answer(getattr, found, name)
            assert part is None or np.all(np.isfinite(part)), name
        assert len(found.to_rows()) == n


@given(target=arrays(2), condition=st.none() | arrays(2), centered=st.booleans())
def test_moments_of_anything(target, condition, centered):
    assert_moments(answer(Moments.from_data, target, condition, centered=centered))


@given(batches=st.lists(arrays(2) | st.tuples(arrays(2), arrays(2)), max_size=3))
def test_moments_of_any_batches(batches):
    assert_moments(answer(Moments.from_batches, batches))


@given(
    covariance=arrays(2, square=True),
    condition_dim=st.just(0) | nonsense | whole,
    mean=st.none() | arrays(1),
    n_samples=st.none() | nonsense | whole,
)
def test_any_matrix_as_covariance(covariance, condition_dim, mean, n_samples):
    named = {"condition_dim": condition_dim, "mean": mean, "n_samples": n_samples}
    assert_moments(answer(Moments.from_covariance, covariance, **named))


# --- theory: accepted specifications on accepted moments ------------------------------------------

POSITIVE = [5e-324, 1e-310, 1e-160, 1e-20, 1e20, 1e160, 1.7e308]
positive = st.sampled_from([1.0, 0.5]) | st.sampled_from(POSITIVE) | st.floats(1e-3, 1e3)
positive |= st.floats(0, exclude_min=True, allow_infinity=False)
zero = st.just(0.0)
width = st.integers(1, 4)


@st.composite
def specs(draw) -> Any:
    """Any combination of fields that the specifications accept."""
    kind = draw(st.sampled_from([VAESpec, CVAESpec, ARVAESpec, HVAESpec]))
    if kind is HVAESpec:
        dims = draw(st.lists(width, min_size=1, max_size=3))
        each = {"min_size": len(dims), "max_size": len(dims)}
        return HVAESpec(
            dims,
            betas=draw(st.lists(positive, **each)),
            decoder_variance=draw(positive),
            prior_variances=draw(st.lists(positive, **each)),
            encoder_variances=draw(st.lists(st.none() | positive, **each)),
        )
    k = draw(width)
    fields = {
        "beta": positive,
        "decoder_variance": positive | st.just("learned"),
        "prior_variance": positive,
        "encoder_variance": st.none() | positive | st.lists(positive, min_size=k, max_size=k),
        "latent_reconstruction": zero | positive,
        "weight_decay": zero | positive,
        "likelihood": st.sampled_from(["gaussian", "bernoulli", "poisson", "multinomial"]),
    }
    if kind is CVAESpec:
        fields["encoder_sees"] = st.sampled_from(["both", "target"])
    if kind is ARVAESpec:
        fields["order"] = st.none() | st.integers(0, 3)
    chosen = draw(st.lists(st.sampled_from(sorted(fields)), max_size=3, unique=True))
    spec = answer(kind, k, **{name: draw(fields[name]) for name in chosen})
    return kind(k) if spec is None else spec


@st.composite
def any_moments(draw) -> Moments:
    """Of drawn factors in extreme units: any rank and condition number, any mean."""
    d, dx = draw(st.integers(1, 3)), draw(st.integers(0, 2))
    size = (d + dx) ** 2
    entries = st.integers(-3, 3) | st.floats(-3, 3)
    factor = np.array(draw(st.lists(entries, min_size=size, max_size=size)), dtype=float)
    factor = factor.reshape(d + dx, -1)
    units = np.sqrt(np.array(draw(st.lists(positive, min_size=d + dx, max_size=d + dx))))
    factor *= draw(st.sampled_from([units[:1], units]))[:, None]
    mean = draw(st.none() | st.lists(st.floats(-1e160, 1e160) | st.floats(0, 1), min_size=d + dx,
                                     max_size=d + dx))  # fmt: skip
    with np.errstate(all="ignore"):
        covariance = factor @ factor.T
    found = answer(Moments.from_covariance, covariance, condition_dim=dx, mean=mean)
    return Moments.from_covariance(np.eye(d + dx), condition_dim=dx) if found is None else found


@given(spec=specs(), moments=any_moments())
def test_solution_of_any_spec_on_any_moments(spec, moments):
    """Finite numbers, but for the values that the record says are NaN or infinite."""
    found = answer(solve, spec, moments)
    if found is not None:
        for name in ("objective", "distortion", "rates", "mode_variances", "mode_rates", "penalty"):
            assert np.all(np.isfinite(getattr(found, name))), name
        assert np.all((found.noise_fractions >= 0) & (found.noise_fractions <= 1))
        assert np.all(np.diff(found.mode_variances) <= 0)
        again = answer(objective, spec, moments, found.weights)
        assert again is None or np.isfinite(again.objective)


@given(spec=specs(), moments=any_moments())
def test_stability_of_any_spec_on_any_moments(spec, moments):
    found = answer(stability, spec, moments)
    if found is not None:
        assert not np.any(np.isnan(found.critical_beta))
        for name in ("directions", "escape_rates"):
            assert np.all(np.isfinite(getattr(found, name))), name
        assert 0 <= found.unstable_directions <= len(found.critical_beta)


# --- every public function of the theory ----------------------------------------------------------


# steps of others, called with what those have checked, or made to raise
INNER = ("check_result", "training_scale", "weight_pair")


def functions() -> list[Callable[..., Any]]:
    """Those whose arguments are all specifications, moments, numbers, words and array-likes."""
    found = []
    for module in pkgutil.iter_modules(linvae.theory.__path__):
        home = importlib.import_module(f"linvae.theory.{module.name}")
        for name in home.__all__:
            function = getattr(home, name)
            if (
                name not in INNER
                and inspect.isfunction(function)
                and all(p in DRAWN for p in parameters(function))
            ):
                found.append(function)
    return found


def parameters(function: Callable[..., Any]) -> list[str]:
    """Annotations as they are written, but for the defaults' `None`."""
    given = inspect.signature(function).parameters.values()
    return [str(p.annotation).removesuffix(" | None") for p in given]


def spec_of(*kinds: type) -> st.SearchStrategy[Any]:
    return specs().filter(lambda spec: isinstance(spec, kinds))


weights = st.dictionaries(st.sampled_from(["W", "U", "Sigma", "s"]), arrays(2), max_size=4)
word = st.sampled_from(["raw", "joint", "unit", "both", "prior", "gaussian", "bernoulli", ""])
DRAWN: dict[str, st.SearchStrategy[Any]] = {
    "LinearSpec": specs(),
    "VAESpec": spec_of(VAESpec),
    "CVAESpec": spec_of(CVAESpec),
    "ARVAESpec": spec_of(ARVAESpec),
    "HVAESpec": spec_of(HVAESpec),
    "LatentReconstruction": st.builds(
        LatentReconstruction,
        st.floats(0, 1e3),
        source=st.sampled_from(LATENT_SOURCES),
        detach=st.sampled_from(["none", "input", "target", "both"]),
        encoder_share=st.sampled_from([0.0, 1e-4, 1.0]),
    ),
    "Moments": any_moments(),
    "Moments | npt.ArrayLike": any_moments() | arrays(2) | arrays(1),
    "npt.ArrayLike": arrays(1) | arrays(2) | number,
    "Sequence[float]": arrays(1),
    "Sequence[npt.ArrayLike]": st.lists(arrays(2), max_size=2),
    "Mapping[str, npt.ArrayLike]": weights,
    "StartWeights": number | arrays(1),
    "Schedule": number,
    "float": number,
    "int": whole,
    "bool": st.booleans(),
    "str": word,
    **dict.fromkeys(["Likelihood", "Update", "EncoderWeights", "Latents"], word),
    "Literal['unit', 'total']": word,
}
FUNCTIONS = functions()
few = settings(max_examples=max(1, settings.default.max_examples // 10))  # of so many functions


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__module__[14:] + f"-{f.__name__}")
@given(draw=st.data())
@few
def test_any_arguments_of_a_function(function, draw):
    named = {}
    for p, kind in zip(inspect.signature(function).parameters.values(), parameters(function),
                       strict=True):  # fmt: skip
        if p.default is not inspect.Parameter.empty and draw.draw(st.booleans()):
            continue
        values = st.integers(0, 9) if p.name == "seed" else DRAWN[kind]
        named[p.name] = draw.draw(values, p.name)
    answer(function, **named)
