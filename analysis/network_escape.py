"""Escape times of linear VAEs, MLPs and a PixelCNN from collapse: predicted against observed.

Two predictions for every run, both made before it: `path`, by second derivatives at the network's
own start, and `flow`, of one linear mode with the network's speeds (`analysis.local_growth`). The
runs are gradient descent on all samples; "aggressive" has `INNER` encoder steps before each step of
the decoder. A run that has not escaped after `PATIENCE` times the path's steps has none (null).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from analysis.escape_rates import EPSILON, decoder_rows, passage
from analysis.local_growth import Small, linear_path, network_speeds
from linvae import VAESpec
from linvae.data import ImageLayout, gaussian, load_dataset
from linvae.models import Architecture, StackedVAE, build_model
from linvae.train import (
    Aggressive,
    ConstantBetas,
    Remedy,
    RemedyBetas,
    TrainConfig,
    TrainingData,
    train,
)

INNER = 20
START = 0.03  # times the layers that are small, as the engine draws them
PATIENCE = 3.0
MOST_STEPS = 4000
COLLAPSED = TrainConfig(steps=400, batch_size=100, learning_rate=1e-2)  # Adam, latent switched off
DEAD = 1e3  # beta at which no latent lives


@dataclass(frozen=True)
class Case:
    """A network, its data, and in `scores` (n,) and `writes` (d,) the leading mode of both.

    `theta2` and `s` as the network sees them, `critical` the beta of linear theory.
    """

    name: str
    data: TrainingData
    spec: VAESpec
    architecture: Architecture
    learning_rate: float
    theta2: float
    s: float
    writes: Tensor
    scores: Tensor
    image: ImageLayout | None = None
    weights: dict[str, Tensor] | None = None

    @property
    def critical(self) -> float:
        """theta^2/s."""
        return self.theta2 / self.s

    def model(self) -> StackedVAE:
        """At its start."""
        model = build_model(
            self.spec, self.data.target, architecture=self.architecture, image=self.image
        )
        drawn = [p.detach().clone() for p in small_parameters(model)]
        if self.weights:
            model.load_state_dict(self.weights)
        with torch.no_grad():
            for p, value in zip(small_parameters(model), drawn, strict=True):
                p.copy_(START * value)
        return model


def small_parameters(model: StackedVAE) -> list[Tensor]:
    """Of both sides."""
    small = Small.of(model)
    return [*small.encoder, *small.decoder]


def gaussian_case(name: str, y: np.ndarray, s: float, network: str, rate: float) -> Case:
    """`network`: "linear", or the activation of an MLP with 64 hidden units."""
    data = TrainingData.from_arrays(y)
    kind = Architecture("linear") if network == "linear" else Architecture("mlp", 64, 1, network)
    scaled = np.asarray(data.target, dtype=np.float64)
    total = float(np.mean(np.sum(scaled**2, axis=1)))
    scaled = scaled / math.sqrt(total)
    values, vectors = np.linalg.eigh(scaled.T @ scaled / len(scaled))
    writes = torch.as_tensor(vectors[:, -1], dtype=torch.float32)
    return Case(
        f"{name}, {network}", data, VAESpec(1, decoder_variance=s), kind, rate,
        float(values[-1]), s / total, writes,
        torch.as_tensor(scaled @ vectors[:, -1], dtype=torch.float32),
    )  # fmt: skip


def pixelcnn_case(n_samples: int = 200, rate: float = 0.05) -> Case:
    """Digits as gray values; a Bernoulli PixelCNN trained before with its latent switched off."""
    digits = load_dataset("digits")
    data = TrainingData.from_arrays(digits.target[:n_samples], centered=False)
    spec, image = VAESpec(1, likelihood="bernoulli"), digits.image_layout()
    network = Architecture(
        "pixelcnn", hidden=32, activation="tanh", channels=(8,), batch_norm=False,
        kernels=(5, 3), pixel_channels=8,
    )  # fmt: skip
    model = build_model(spec, data.target, architecture=network, image=image)
    Small.of(model).scale(0.0)
    train(model, data, ConstantBetas((DEAD,), (1.0,), data.target.device), COLLAPSED)
    residuals, weight = normalised_residuals(model, data)
    values, vectors = np.linalg.eigh(residuals.T @ residuals / len(residuals))
    leading = vectors[:, -1]
    return Case(
        "digits, pixelcnn", data, spec, network, rate, float(values[-1]), 1.0,
        torch.as_tensor(leading * weight, dtype=torch.float32),
        torch.as_tensor(residuals @ leading, dtype=torch.float32), image,
        {name: value.clone() for name, value in model.state_dict().items()},
    )  # fmt: skip


@torch.no_grad()
def normalised_residuals(model: StackedVAE, data: TrainingData) -> tuple[np.ndarray, np.ndarray]:
    """(y - p)/root mean p(1-p) of the network without its latent, (n, d), and that root, (d,)."""
    y = model._scaled(data.target[None, None], None)[1]
    logits = model.decoders[0](torch.zeros(1, 1, len(data), 1), None, y)[0, 0] + model.offset[0, 0]
    p = torch.sigmoid(logits).double().numpy()
    weight = np.sqrt(np.mean(p * (1 - p), axis=0) + 1e-6)  # some pixels are always 0
    residuals = (np.asarray(data.target, dtype=np.float64) - p) / weight
    return residuals - residuals.mean(axis=0), weight


def measure(case: Case, ratio: float, inner: int) -> dict[str, Any]:
    """Steps until KL = `EPSILON` of one run, and both predictions."""
    beta, step = ratio * case.critical, case.learning_rate / case.model().curvature
    final = -math.log(ratio) / 2
    level = EPSILON / (1 - EPSILON / final)  # of G where K = G/(1 + G/K*) is `EPSILON`
    path = linear_path(case.model(), case.data, beta, step, inner, level, MOST_STEPS)
    by_path = passage(np.arange(len(path)), path, level)
    speeds = network_speeds(case.model(), case.data, case.writes, case.scores)
    by_flow = speeds.time(case.theta2, case.s, 1.0, beta, EPSILON, inner) / step
    longest = by_path if math.isfinite(by_path) else MOST_STEPS / PATIENCE
    model, weight = case.model(), RemedyBetas(
        [Remedy(beta=beta, aggressive=Aggressive(inner, inner, None) if inner else None)],
        (1.0,), 1, case.data.target.device,
    )  # fmt: skip
    config = TrainConfig(
        steps=min(math.ceil(PATIENCE * longest) + 10, MOST_STEPS), batch_size=len(case.data),
        learning_rate=case.learning_rate, optimizer="sgd", momentum=0.0, schedule="constant",
        log_every=1,
    )  # fmt: skip
    result = train(model, case.data, weight, config)
    steps, rates = decoder_rows(result)
    seen = passage(steps, rates)
    found = {"path_steps": by_path, "flow_steps": by_flow, "measured_steps": seen}
    return {
        "network": case.name, "inner_steps": inner, "update": "aggressive" if inner else "joint",
        "beta_over_critical": ratio, "theta2": case.theta2, "decoder_variance": case.s,
        "learning_rate": case.learning_rate, "decoder_speed": speeds.decoder,
        "encoder_speed": speeds.encoder, "start_nats": float(rates[0]),
        "last_nats": float(rates[-1]),
        "steps": config.steps,
    } | {key: value if math.isfinite(value) else None for key, value in found.items()}  # fmt: skip


def cases() -> Iterator[tuple[Case, tuple[float, ...]]]:
    """Networks, and ratios of beta to the critical one of linear theory."""
    y = gaussian((4.0, 2.0, 1.0, 1.0), 1000, seed=1).target
    digits = load_dataset("digits").target[:600]
    yield gaussian_case("gaussian", y, 1.0, "linear", 0.3), (0.5,)
    yield gaussian_case("digits", digits, 0.3, "linear", 0.3), (0.5,)
    yield gaussian_case("gaussian", y, 1.0, "tanh", 0.02), (0.5,)
    yield gaussian_case("gaussian", y, 1.0, "relu", 0.02), (0.5, 0.75)
    yield gaussian_case("digits", digits, 0.3, "relu", 0.02), (0.5,)
    yield pixelcnn_case(), (0.25,)


def rows() -> Iterator[dict[str, Any]]:
    """All runs."""
    for case, ratios in cases():
        for ratio in ratios:
            for inner in (0, INNER):
                yield measure(case, ratio, inner)
