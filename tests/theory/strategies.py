"""Specifications of every family with the moments of their data, drawn by hypothesis.

Draws shrink to diagonal covariances of equal numbers, so degenerate problems are among them. How
many are drawn is said once, by the profiles in `tests/conftest.py`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from linvae import CVAESpec, HVAESpec, Moments, VAESpec
from linvae.spec import ARVAESpec


@dataclass(frozen=True)
class Case:
    """A specification, the moments of its data, and a seed for what a test draws beside them."""

    spec: VAESpec | HVAESpec
    moments: Moments
    seed: int

    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)


def orthogonal(rng: np.random.Generator, dim: int) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(dim, dim)))[0]


@st.composite
def covariances(draw, dim: int, zeros: bool = False) -> np.ndarray:
    """Eigenvalues as drawn, repeated ones and zeros among them; seed 0 is the diagonal matrix."""
    value = st.sampled_from([1.0, 2.0, 0.5]) | st.floats(0.05, 5)
    values = np.array(draw(st.lists(value, min_size=dim, max_size=dim)))
    if zeros and dim > 1 and draw(st.integers(0, 3)) == 3:
        values[0] = 0.0
    seed = draw(st.integers(0, 1000))
    basis = orthogonal(np.random.default_rng(seed), dim) if seed else np.eye(dim)
    C = (basis * values) @ basis.T
    return (C + C.T) / 2


@st.composite
def data(draw, condition: bool = False, zeros: bool = False, least: int = 1) -> Moments:
    d = draw(st.integers(least, 4))
    dx = draw(st.integers(1, 3)) if condition else 0
    C = draw(covariances(d + dx, zeros and not condition))
    return Moments.from_covariance(C, condition_dim=dx)


variance = st.sampled_from([1.0, 0.5]) | st.floats(0.1, 2.0)
beta = st.sampled_from([1.0, 0.5, 2.0]) | st.floats(0.1, 4.0)
penalty = st.sampled_from([0.1, 0.5]) | st.floats(0.02, 1.0)


@st.composite
def one_level(draw, kind: str) -> Case:
    """`kind`: model, encoder variance and remedies, separated by spaces."""
    words = kind.split()
    model, learned_s = words[0], "s" in words
    remedies = {"gamma": "latent_reconstruction", "kappa": "weight_decay"}
    on = {name: draw(penalty) for word, name in remedies.items() if word in words}
    moments = draw(
        data(
            condition=model in ("general", "both", "target"),
            zeros=not learned_s and not on,
            least=2 if learned_s else 1,
        )
    )
    d = moments.target_dim
    k = draw(st.integers(1, d - 1 if learned_s else d if on else d + 1))
    if "one" in words:
        k = 1
    if model == "ar" or "gamma" in words:
        k = d  # one for every innovation, and for every mode that the loss might favour
    fields = {"beta": draw(beta), "prior_variance": draw(variance), **on}
    fields["decoder_variance"] = "learned" if learned_s else draw(variance)
    if "fixed" in words:
        fields["encoder_variance"] = draw(variance)
    if "diagonal" in words:
        fields["encoder_variance"] = draw(st.lists(variance, min_size=k, max_size=k))
    if model in ("both", "target"):
        spec = CVAESpec(k, encoder_sees=model, **fields)
    elif model == "ar":
        order = 0 if "0" in words else 1 if "1" in words else None
        spec = ARVAESpec(k, order=order, **fields)
    else:
        spec = VAESpec(k, **fields)
    return Case(spec, moments, draw(st.integers(0, 1000)))


@st.composite
def hierarchies(draw, levels: int, condition: bool = False, rising: bool = False) -> Case:
    """Any widths and mix of variances; betas of learned levels (or of all) do not fall upwards."""
    moments = draw(data(condition=condition, zeros=True))
    dims = draw(st.lists(st.integers(1, 4), min_size=levels, max_size=levels))
    fixed = draw(st.lists(st.none() | variance, min_size=levels, max_size=levels))
    betas = np.array(draw(st.lists(beta, min_size=levels, max_size=levels)))
    sort = np.array([rising or v is None for v in fixed])
    betas[sort] = np.sort(betas[sort])
    spec = HVAESpec(
        dims,
        betas=betas.tolist(),
        decoder_variance=draw(variance),
        prior_variances=draw(st.lists(variance, min_size=levels, max_size=levels)),
        encoder_variances=fixed,
    )
    return Case(spec, moments, draw(st.integers(0, 1000)))


def cases(kind: str) -> st.SearchStrategy[Case]:
    if kind.startswith(("hvae", "chvae")):
        return hierarchies(int(kind[-1]), kind.startswith("c"))
    return one_level(kind)


ONE_LEVEL = [
    f"{model} {encoder}"
    for model in ("vae", "general", "both")
    for encoder in ("learned", "fixed", "diagonal", "s")
]
HIERARCHIES = ["hvae1", "hvae2", "hvae3", "hvae4", "chvae2", "chvae3"]
PENALISED = ["vae gamma", "vae kappa", "vae gamma kappa", "vae gamma fixed", "vae kappa diagonal"]
AUTOREGRESSIVE = ["ar", "ar 0"]
TARGET = ["target one", "target one fixed"]
SOLVED = ONE_LEVEL + HIERARCHIES + PENALISED + AUTOREGRESSIVE + TARGET
LOCAL = ["target", "target fixed", "target kappa", "both kappa", "both gamma", "general kappa"]
LOCAL_IN_ORDER = ["ar 1", "ar 1 kappa", "ar gamma"]  # depend on the order of the coordinates
WITHOUT_DECAY = [kind for kind in SOLVED if "kappa" not in kind]


def any_of(kinds: list[str]) -> st.SearchStrategy[Case]:
    return st.sampled_from(kinds).flatmap(cases)


# --- what tests do to them -----------------------------------------------------------------------


def transformed(moments: Moments, on_target=None, on_condition=None) -> Moments:
    """The moments of (on_condition x, on_target y)."""
    dx = moments.condition_dim
    T = np.eye(len(moments.mean))
    if on_target is not None:
        T[dx:, dx:] = on_target
    if on_condition is not None:
        T[:dx, :dx] = on_condition
    C = T @ moments.covariance @ T.T
    return Moments.from_covariance((C + C.T) / 2, condition_dim=dx, mean=T @ moments.mean)


def well_conditioned(rng: np.random.Generator, dim: int) -> np.ndarray:
    """A random invertible matrix with condition number 10 at most."""
    return (orthogonal(rng, dim) * rng.uniform(0.4, 4, size=dim)) @ orthogonal(rng, dim)


def replaced(spec, **changes):
    """`dataclasses.replace` for every specification."""
    fields = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec)}
    return type(spec)(**(fields | changes))


def perturbed(case: Case, weights: dict[str, np.ndarray], size: float) -> dict[str, np.ndarray]:
    """Every free number moved by about `size`, covariances by congruence."""
    rng, spec, moved = case.rng(), case.spec, {}
    learned = {f"Sigma{i + 1}": v is None for i, v in enumerate(spec.encoder_variances)}
    learned["Sigma"] = spec.encoder_variances[0] is None
    for name, value in weights.items():
        noise = size * rng.normal(size=value.shape)
        if name == "s":
            moved[name] = value * np.exp(noise)
        elif name.startswith("Sigma"):
            T = np.eye(len(value)) + (noise if learned[name] else 0)
            moved[name] = T @ value @ T.T
        elif name == "B" and isinstance(spec, ARVAESpec):
            mask = np.zeros_like(value)
            for t, columns in enumerate(spec.seen(len(value))):
                mask[t, list(columns)] = 1
            moved[name] = value + noise * mask
        else:
            moved[name] = value + noise
    return moved
