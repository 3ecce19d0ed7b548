"""Escape of networks from collapse, by the objective's second derivatives where they start.

A network whose last encoder layer e and whose first layer d behind the latent (or last layer of the
decoder) are 0 is collapsed whatever its other weights are, and stationary in e and d. Around it

    objective = const + 1/2 (e, d)' H (e, d) + ...,

so that descent with flow time h per step is (e, d) <- (e, d) - h H (e, d), and an inner loop of m
steps repeats the encoder's half alone. `linear_path` follows these linear maps from the network's
own start, without ever training it: H acts by automatic differentiation of the engine's objective.
Beyond small weights, K = G/(1 + G/K*) as in `linvae.theory.finite_training`, with G the KL of the
linear path and K* = sum log(theta^2/(beta s))/2 that of the linear optimum, or infinite.

`network_speeds` puts the network into the flow of one linear mode instead: descent moves the slope
u of the decoder along the leading mode at |grad u|^2 times the speed of a linear one, and lambda,
the slope of the encoder's mean on the whitened mode, at |grad lambda|^2. With these two numbers and
u, lambda at the start the flow of `linvae.theory.mode_system` applies, with
rho = |grad lambda|^2/|grad u|^2 in the time |grad u|^2 t. What the slopes do not say is left out:
other modes, other features, the speed of the variances.

A Bernoulli decoder at p(y|z=0) has the objective of a Gaussian one of s = 1 in the logits times
root p(1-p), on the residuals (y - p)/root p(1-p): theta^2 is their largest eigenvalue.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from linvae.models import StackedVAE
from linvae.theory.mode_system import ModeSystem, integrate, tolerance
from linvae.train import TrainingData

Array = npt.NDArray[np.float64]
NODES = np.arange(-17.5, 18) / 4  # of the latent's noise: trapezoidal rule, none at relu's kink


@dataclass(frozen=True)
class Small:
    """The layers that are small at the start: of the encoder, and of the decoder."""

    encoder: list[nn.Parameter]
    decoder: list[nn.Parameter]

    @classmethod
    def of(cls, model: StackedVAE) -> Small:
        """Last layer of the encoder, and of the decoder what z meets first or what leaves it."""
        if model.is_linear:
            return cls(model.encoder_parameters(), list(model.decoders.parameters()))
        encoder, decoder = (
            dict(net.named_parameters()) for net in (model.encoders, model.decoders)
        )
        reads_image = model.architecture.decoder == "pixelcnn"
        first = "0.maps__weight" if reads_image else "0.outer"
        last = "0.head" if model.architecture.encoder == "conv" else "0.outer"
        return cls(
            [p for name, p in encoder.items() if name.startswith(last)],
            [p for name, p in decoder.items() if name.startswith(first)],
        )

    @torch.no_grad()
    def scale(self, factor: float) -> None:
        """Multiply all of them."""
        for p in (*self.encoder, *self.decoder):
            p *= factor


def expected_terms(model: StackedVAE, target: Tensor) -> tuple[Tensor, Tensor]:
    """Distortion, over the noise of the latent by quadrature, and rate of a stack of one; nats.

    Draws would be correlated with the samples by chance; a path on fixed draws exploits that.
    """
    nodes = NODES if model.architecture.decoder == "mlp" else np.array([-1.0, 1.0])  # linear in z
    weights = np.exp(-(nodes**2) / 2)
    distortion: Tensor | float = 0.0
    for z, share in zip(nodes, weights / weights.sum(), strict=True):
        noise = torch.full((1, len(target), 1), z, dtype=target.dtype)
        terms = model(target[None], None, [noise])
        distortion = distortion + share * terms.distortion.sum()
    return torch.as_tensor(distortion), terms.rates.sum()


class Curvature:
    """H of the objective of a stack of one at its collapsed point, and that of its rate."""

    def __init__(self, model: StackedVAE, data: TrainingData, beta: float) -> None:
        assert isinstance(data.target, Tensor)
        small = Small.of(model)
        small.scale(0.0)
        self._all, self._encoder = [*small.encoder, *small.decoder], small.encoder
        distortion, rate = expected_terms(model, data.target)
        self._slopes = torch.autograd.grad(distortion + beta * rate, self._all, create_graph=True)
        self._rate = torch.autograd.grad(rate, self._encoder, create_graph=True)
        self.width = sum(p.numel() for p in self._encoder)

    def product(self, x: Tensor) -> Tensor:
        """H x, flat, the encoder's entries first."""
        return _product(self._slopes, self._all, x)

    def rate(self, x: Tensor) -> float:
        """1/2 e' H_rate e, nats."""
        e = x[: self.width]
        return float(e @ _product(self._rate, self._encoder, e)) / 2

    def encoder(self) -> Tensor:
        """H between the encoder's entries, dense."""
        unit = torch.eye(sum(p.numel() for p in self._all), dtype=self._all[0].dtype)
        return torch.stack([self.product(row)[: self.width] for row in unit[: self.width]])


def _product(slopes: Sequence[Tensor], parameters: Sequence[nn.Parameter], x: Tensor) -> Tensor:
    parts = torch.split(x, [p.numel() for p in parameters])
    given = [part.view(p.shape) for part, p in zip(parts, parameters, strict=True)]
    found = torch.autograd.grad(slopes, parameters, given, retain_graph=True)
    return torch.cat([f.flatten() for f in found])


def linear_path(
    model: StackedVAE,
    data: TrainingData,
    beta: float,
    step: float,
    inner: int,
    level: float,
    most: int = 3000,
) -> Array:
    """KL after 0, 1, ... steps of the linear maps until it exceeds `level`, nats.

    `inner`: encoder steps before each of the decoder, 0: joint; `most`: steps at most. The small
    layers of `model` are 0 afterwards.
    """  # fmt: skip
    small = Small.of(model)
    x = torch.cat([p.detach().flatten() for p in (*small.encoder, *small.decoder)])
    H = Curvature(model, data, beta)
    n, own = H.width, H.encoder() if inner else torch.empty(0)
    found = [H.rate(x)]
    while found[-1] <= level and len(found) <= most:
        if inner:
            e, given = x[:n], H.product(x)[:n] - own @ x[:n]
            for _ in range(inner):
                e = e - step * (own @ e + given)
            x = torch.cat([e, x[n:]])
            found.append(H.rate(x))  # where the engine sees it: before the decoder's step
        pull = H.product(x)
        pull[: n if inner else 0] = 0
        x = x - step * pull
        if not inner:
            found.append(H.rate(x))
    return np.array(found)


def saturated(path: Array, final: float) -> Array:
    """K = G/(1 + G/K*)."""
    return path / (1 + path / final)


@dataclass(frozen=True)
class Speeds:
    """Slopes u and lambda at the start, and |grad|^2 of both; see the module."""

    u: float
    lam: float
    decoder: float
    encoder: float

    def time(
        self, theta2: float, s: float, eta2: float, beta: float, level: float, inner: int = 0
    ) -> float:
        """Flow time until KL of the closed form exceeds `level`; infinite where it stays below.

        `inner` encoder steps before each of the decoder: an encoder as many times as fast.
        """
        rho = np.array([max(inner, 1) * self.encoder / self.decoder])
        system = ModeSystem(np.array([theta2]), s, eta2, rho, joint=True)
        b, start = np.array([beta]), np.array([[self.u, self.lam, 0.0]])
        growth = float(system.growth(b)[0])
        if growth <= 0 or math.log(theta2 / (beta * s)) / 2 <= level:
            return math.inf
        times = np.linspace(0, 60 / growth, 6001)
        path = integrate(
            lambda y, _t: system.velocity(y, b), start, 0.0, times, tolerance(start, system)
        )
        above = np.flatnonzero(system.rate(path, b)[:, 0] > level)
        return float(times[above[0]]) / self.decoder if len(above) else math.inf


def network_speeds(model: StackedVAE, data: TrainingData, writes: Tensor, scores: Tensor) -> Speeds:
    """Of a stack of one unit of prior variance 1, by automatic differentiation.

    `writes` (d,): what the decoder's output is projected on, as `scores` (n,) are the samples.
    """
    assert isinstance(data.target, Tensor)
    nodes = torch.as_tensor(NODES, dtype=data.target.dtype)
    mass = torch.softmax(-nodes.square() / 2, 0)
    y = model._scaled(data.target[None, None], None)[1]
    z = nodes.repeat_interleave(len(data))[None, None, :, None]
    given = (z, None, y) if model.architecture.decoder == "pixelcnn" else (z,)
    output = (model.decoders[0](*given)[0, 0] @ writes).view(len(nodes), -1).mean(1)
    u = (mass * nodes * output).sum()
    lam = (model.encode(0, y).mean[0, 0, :, 0] * scores).mean() / scores.square().mean().sqrt()
    return Speeds(u.item(), lam.item(), _norm2(u, model.decoders), _norm2(lam, model.encoders))


def _norm2(value: Tensor, network: nn.Module) -> float:
    slopes: Sequence[Tensor | None] = torch.autograd.grad(
        value, list(network.parameters()), allow_unused=True
    )
    return float(sum(g.square().sum() for g in slopes if g is not None))
