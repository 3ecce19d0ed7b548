"""The torch objective, averaged over plain noise, is theory's exact objective at any weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from linvae.data import gaussian
from linvae.models import build_model
from linvae.moments import Moments
from linvae.spec import CVAESpec, HVAESpec, VAESpec
from linvae.theory import objective
from linvae.train import TrainingData

SAMPLES, TARGET_DIM, CONDITION_DIM = 40, 4, 2
DRAWS, PASSES = 25, 60  # latents of each sample per pass; passes, from which the errors come
# Sums of some hundred float32 terms of one sign: far below 1e-5 relative.
ROUNDING = 1e-5

PLAIN = {
    "vae-learned": VAESpec(3, beta=0.7, decoder_variance=0.5, prior_variance=1.7),
    "vae-fixed": VAESpec(3, decoder_variance=0.5, prior_variance=0.6, encoder_variance=0.3),
    "vae-diagonal": VAESpec(3, beta=2.0, encoder_variance=(0.2, 0.9, 1.8)),
    "vae-learned-s": VAESpec(2, beta=0.7, decoder_variance="learned"),
    "hvae2": HVAESpec((3, 2), betas=(0.6, 1.3), decoder_variance=0.4, prior_variances=(0.5, 2.0)),
    "hvae2-fixed": HVAESpec((2, 3), betas=(1.2, 0.4), encoder_variances=(0.3, 0.8)),
    "hvae3": HVAESpec(
        (2, 3, 1),
        betas=(0.6, 1.3, 0.9),
        decoder_variance=0.4,
        prior_variances=(0.5, 2.0, 1.4),
        encoder_variances=(None, 0.6, None),
    ),
}
CONDITIONAL = {
    "general": VAESpec(3, beta=0.7, decoder_variance=0.5, prior_variance=1.7),
    "general-fixed": VAESpec(2, decoder_variance=0.5, encoder_variance=0.3),
    "general-learned-s": VAESpec(2, decoder_variance="learned"),
    "cvae": CVAESpec(3, beta=0.7, decoder_variance=0.5, prior_variance=1.7),
    "cvae-target": CVAESpec(3, beta=0.7, decoder_variance=0.5, encoder_sees="target"),
    "cvae-diagonal": CVAESpec(2, encoder_variance=(0.2, 0.9)),
    "cvae-learned-s": CVAESpec(2, beta=1.5, decoder_variance="learned"),
    "conditional-hvae2": HVAESpec((3, 2), betas=(0.6, 1.3), decoder_variance=0.4),
    "conditional-hvae3": HVAESpec((2, 2, 3), prior_variances=(0.5, 2.0, 1.4)),
}
CASES = PLAIN | CONDITIONAL


def data_for(name: str) -> tuple[TrainingData, Moments]:
    """Skewed, correlated data with a mean, its condition ten times as large as its target."""
    raw = gaussian(
        [3.0, 1.0, 0.4, 0.1],
        SAMPLES,
        correlation=[0.7, 0.4, 0.0, 0.0],
        condition_dim=CONDITION_DIM,
        seed=4,
        exact=False,
    )
    target = np.exp(raw.target / 3) + 0.5
    condition = 10 * raw.condition - 3 if name in CONDITIONAL else None
    data = TrainingData.from_arrays(target, condition)
    return data, Moments.from_data(target, condition)


def random_stack(spec, data: TrainingData, seed: int = 0):
    """Two seeds and two points, every parameter of every member random, not small."""
    model = build_model(spec, data.target, data.condition, seeds=(3, 5), n_points=2)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.6 * torch.randn(parameter.shape, generator=generator))
    return model


@torch.no_grad()
def sampled_terms(model, data: TrainingData) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error of (distortion, rates ..., objective), (seeds, points, terms)."""
    generator = torch.Generator().manual_seed(11)
    index = torch.arange(len(data)).expand(len(model.seeds), -1)
    target, condition = data.take(index)
    betas = torch.tensor(model.spec.betas)
    passes = []
    for _ in range(PASSES):
        noise = [
            torch.randn(len(model.seeds), DRAWS * len(data), k, generator=generator)
            for k in model.spec.latent_dims
        ]
        terms = model(target, condition, noise)
        every = [terms.distortion[..., None], terms.rates, terms.objective(betas)[..., None]]
        passes.append(torch.cat(every, dim=-1).double().numpy())
    values = np.array(passes)
    return values.mean(0), values.std(0, ddof=1) / np.sqrt(PASSES)


def exact_terms(spec, moments: Moments, weights) -> np.ndarray:
    exact = objective(spec, moments, weights)
    return np.array([exact.distortion, *exact.rates, exact.objective])


@pytest.mark.parametrize("name", CASES)
def test_sampled_objective_is_the_exact_one(name):
    data, moments = data_for(name)
    spec = CASES[name]
    model = random_stack(spec, data)
    mean, error = sampled_terms(model, data)
    exact = np.array(
        [[exact_terms(spec, moments, model.weights(s, p)) for p in (0, 1)] for s in (0, 1)]
    )
    allowed = 6 * error + ROUNDING * (1 + np.abs(exact))
    assert np.all(np.abs(mean - exact) < allowed), (mean - exact) / allowed
    # the errors are small enough to tell: 5 % of a distortion or rate would be seen
    assert np.all(allowed < 0.05 * (1 + np.abs(exact)))


@pytest.mark.parametrize("name", ["vae-learned", "cvae", "hvae2"])
def test_members_differ(name):
    """The four comparisons above are four, and a mix-up of members would be seen."""
    data, moments = data_for(name)
    model = random_stack(CASES[name], data)
    values = [
        exact_terms(CASES[name], moments, model.weights(s, p))[-1] for s in (0, 1) for p in (0, 1)
    ]
    assert np.min(np.abs(np.subtract.outer(values, values) + np.eye(4) * 99)) > 0.05
