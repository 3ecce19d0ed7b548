"""Random problems for the acceptance tests: full covariances, every kind of specification.

Each draw is seeded by its kind and number, so an id always means the same problem. Learned betas
never decrease upwards here: where they do there is no minimum (tested on its own).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from linvae.moments import Moments
from linvae.spec import CVAESpec, HVAESpec, VAESpec


@dataclass(frozen=True)
class Problem:
    """A specification, the moments of its data, and the seed of its brute-force starts."""

    id: str
    spec: VAESpec | HVAESpec
    moments: Moments
    seed: int


def random_covariance(rng: np.random.Generator, dim: int) -> np.ndarray:
    """Full covariance of size about 1 with eigenvalues spread over about a factor of 30."""
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    values = np.exp(rng.uniform(-2.0, 1.4, size=dim))
    return (basis * values) @ basis.T


def draw(kind: str, number: int) -> Problem:
    """Problem `number` of `kind`, one of the keys of DRAWS."""
    seed = zlib.crc32(f"{kind}-{number}".encode())
    spec, moments = DRAWS[kind](np.random.default_rng(seed))
    return Problem(f"{kind}-{number}-{_describe(spec, moments)}", spec, moments, seed)


def problems(**counts: int) -> list[Problem]:
    """The first `count` problems of every kind named."""
    return [draw(kind.replace("_", "-"), i) for kind, count in counts.items() for i in range(count)]


def _describe(spec, moments: Moments) -> str:
    shape = f"x{moments.condition_dim}y{moments.target_dim}"
    levels = []
    for k, fixed in zip(spec.latent_dims, spec.encoder_variances, strict=True):
        how = "learned" if fixed is None else "diag" if isinstance(fixed, tuple) else "fixed"
        levels.append(f"{k}{how}")
    learned_s = "-learned_s" if spec.decoder_variance == "learned" else ""
    return f"{shape}-{'-'.join(levels)}{learned_s}"


def _plain(rng: np.random.Generator) -> Moments:
    return Moments.from_covariance(random_covariance(rng, int(rng.integers(2, 6))))


def _conditional(rng: np.random.Generator) -> Moments:
    dx, d = int(rng.integers(1, 4)), int(rng.integers(2, 5))
    return Moments.from_covariance(random_covariance(rng, dx + d), condition_dim=dx)


def _predictable(rng: np.random.Generator) -> Moments:
    """A target that is mostly a linear function of the condition."""
    dx, d = int(rng.integers(2, 5)), int(rng.integers(2, 5))
    condition, noise = random_covariance(rng, dx), 0.05 * random_covariance(rng, d)
    joint = np.vstack([np.eye(dx), rng.normal(size=(d, dx)) / np.sqrt(dx)])
    covariance = joint @ condition @ joint.T
    covariance[dx:, dx:] += noise
    return Moments.from_covariance(covariance, condition_dim=dx)


def _variance(rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(-1.6, 0.6)))


def _one_level(rng: np.random.Generator, moments: Moments, encoder: str):
    latent_dim = int(rng.integers(1, moments.target_dim + 2))
    fixed = {
        "learned": None,
        "fixed": _variance(rng),
        "diagonal": [_variance(rng) for _ in range(latent_dim)],
    }[encoder]
    return {
        "latent_dim": latent_dim,
        "beta": float(np.exp(rng.uniform(-1.0, 1.0))),
        "decoder_variance": float(np.exp(rng.uniform(-2.5, 0.2))),
        "prior_variance": _variance(rng),
        "encoder_variance": fixed,
    }


def _vae(encoder: str):
    def build(rng: np.random.Generator):
        moments = _plain(rng)
        return VAESpec(**_one_level(rng, moments, encoder)), moments

    return build


def _general(encoder: str):
    def build(rng: np.random.Generator):
        moments = _predictable(rng)
        return VAESpec(**_one_level(rng, moments, encoder)), moments

    return build


def _cvae(encoder: str):
    def build(rng: np.random.Generator):
        moments = _conditional(rng)
        return CVAESpec(**_one_level(rng, moments, encoder)), moments

    return build


def _target(encoder: str):
    """One unit, or any number on a scalar target; half of the conditions explain most of it."""

    def build(rng: np.random.Generator):
        moments = _predictable(rng) if rng.random() < 0.5 else _conditional(rng)
        if rng.random() < 0.5:
            dx = moments.condition_dim
            C = moments.covariance[: dx + 1, : dx + 1]
            moments = Moments.from_covariance(C, condition_dim=dx)
        fields = _one_level(rng, moments, encoder)
        if moments.target_dim > 1:
            fields["latent_dim"] = 1
            fields["encoder_variance"] = None if encoder == "learned" else _variance(rng)
        spec = CVAESpec(**fields, encoder_sees="target")
        # at this scale of beta about half of them are alive
        return spec.scale_betas(rng.uniform(0.2, 1.3)), moments

    return build


def _learned_s(base):
    def build(rng: np.random.Generator):
        spec, moments = base("learned")(rng)
        # with no more units than leave a part of the target unexplained there is a minimum
        fields = {
            "latent_dim": int(rng.integers(1, moments.target_dim)),
            "beta": float(np.exp(rng.uniform(-1.2, 0.7))),
            "decoder_variance": "learned",
            "prior_variance": spec.prior_variance,
        }
        return type(spec)(**fields), moments

    return build


def _hierarchy(levels: int, conditional: bool = False, learned: float = 0.4, narrow: bool = False):
    def build(rng: np.random.Generator):
        moments = _conditional(rng) if conditional else _plain(rng)
        dims = rng.integers(1, min(moments.target_dim + 2, 5), size=levels)
        if narrow:  # a level in the middle narrower than both neighbours
            dims = rng.integers(2, 4, size=levels)
            dims[levels // 2] = 1
        is_learned = rng.random(levels) < learned
        betas = np.exp(rng.uniform(-0.9, 0.9, size=levels))
        betas[is_learned] = np.sort(betas[is_learned])
        if is_learned.sum() > 1 and rng.random() < 0.3:
            betas[is_learned] = betas[is_learned][0]  # a continuum of optima
        return HVAESpec(
            dims.tolist(),
            betas=betas.tolist(),
            decoder_variance=float(np.exp(rng.uniform(-2.5, 0.2))),
            prior_variances=[_variance(rng) for _ in range(levels)],
            encoder_variances=[None if free else _variance(rng) for free in is_learned],
        ), moments

    return build


DRAWS = {
    "vae-learned": _vae("learned"),
    "vae-fixed": _vae("fixed"),
    "vae-diagonal": _vae("diagonal"),
    "general-learned": _general("learned"),
    "general-fixed": _general("fixed"),
    "general-diagonal": _general("diagonal"),
    "cvae-learned": _cvae("learned"),
    "cvae-fixed": _cvae("fixed"),
    "cvae-diagonal": _cvae("diagonal"),
    "target-learned": _target("learned"),
    "target-fixed": _target("fixed"),
    "target-diagonal": _target("diagonal"),
    "vae-s": _learned_s(_vae),
    "general-s": _learned_s(_general),
    "cvae-s": _learned_s(_cvae),
    "hvae1": _hierarchy(1),
    "hvae2": _hierarchy(2),
    "hvae3": _hierarchy(3),
    "hvae4": _hierarchy(4),
    "hvae2-all-fixed": _hierarchy(2, learned=0.0),
    "hvae3-all-learned": _hierarchy(3, learned=1.0),
    "hvae3-narrow": _hierarchy(3, narrow=True),
    "chvae1": _hierarchy(1, conditional=True),
    "chvae2": _hierarchy(2, conditional=True),
    "chvae3": _hierarchy(3, conditional=True),
}
