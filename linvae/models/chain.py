"""Trained counterparts of every spec: a stack of chains v -> z_1 -> ... -> z_L -> y.

    q(z_1|v) = N(f_1(v), Sigma_1)    q(z_l|z_{l-1}) = N(f_l(z_{l-1}), Sigma_l)
    p(y|z_1, x) = N(g_1(z_1, x), s I)    p(z_{l-1}|z_l) = N(g_l(z_l), eta_{l-1}^2 I)

`architecture="linear"`: f and g are theory's matrices, no biases (the data are centred), one
learned variance per unit; `weights(seed, point)` returns them under theory's names, so that
`linvae.theory.objective` reads them. In all other architectures (`linvae.models.architecture`) f
and g are networks and a learned variance depends on the input; with `skip` every f_l sees v, not
z_{l-1}. The data are divided by their root total variance inside the model, which changes the
parametrisation and nothing else.

`likelihood="bernoulli"`: p(y|z) has the log odds g_1(z) + offset, one offset per coordinate, which
starts at the log odds of the means. The data are not centred; what the networks see of them is.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from linvae.data import ImageLayout
from linvae.models.architecture import Architecture
from linvae.models.blocks import Doubling
from linvae.models.layers import StackedLinear, StackedMLP, StackShape, by_point
from linvae.models.members import Collection, StackedMembers
from linvae.models.networks import Networks
from linvae.models.reconstruction import ReEncoder, aside
from linvae.objectives import (
    GaussianLevel,
    Terms,
    bernoulli_error,
    gaussian_distortion,
    gaussian_rate_per_unit,
)
from linvae.spec import ARVAESpec, CVAESpec, HVAESpec, LinearSpec, VAESpec

__all__ = ["Rows", "StackedVAE", "alone", "build_model", "mean_square"]

Array = npt.NDArray[np.float64]
CHUNK = 512  # rows at a time in sums over all samples: no float64 copy of the data


class Rows(Protocol):
    """What is read of training data: a tensor (n, d), or rows that are fetched when asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, d)."""

    @property
    def device(self) -> torch.device:
        """Where the rows are when taken."""

    def __len__(self) -> int:
        """Number of rows."""

    def __getitem__(self, index: slice) -> Tensor:
        """Some rows."""


class StackedVAE(ReEncoder):
    """`n_seeds` x `n_points` VAEs of one spec and architecture; see the module's docstring."""

    centre: Tensor | None
    condition_centre: Tensor | None

    def __init__(
        self,
        spec: LinearSpec,
        *,
        target_dim: int,
        condition_dim: int = 0,
        scale: float = 1.0,
        condition_scale: float = 1.0,
        architecture: str | Architecture = "linear",
        image: ImageLayout | None = None,
        seeds: Sequence[int] = (0,),
        n_points: int = 1,
    ) -> None:
        super().__init__()
        self.spec, self.architecture = spec, Architecture.of(architecture)
        _refuse_untrained(spec, self.architecture)
        self.target_dim, self.condition_dim, self.image = target_dim, condition_dim, image
        self.scale, self.condition_scale = scale, condition_scale
        stack = StackShape(seeds, n_points)
        self.seeds, self.n_points = stack.seeds, n_points
        self.encoder_sees_target = condition_dim == 0 or isinstance(spec, CVAESpec | HVAESpec)
        self.decoder_sees_condition = condition_dim > 0 and self.encoder_sees_target
        target_only = isinstance(spec, CVAESpec) and spec.encoder_sees == "target"
        self.encoder_sees_condition = condition_dim > 0 and not target_only
        sees = self._seen(image)
        binary = self.is_bernoulli
        pixel_gain, unit = math.sqrt(target_dim), 1.0 if binary else scale
        networks = Networks(stack, self.architecture, image, pixel_gain, not binary, unit)
        self.encoders = nn.ModuleList()
        self.decoders = nn.ModuleList()
        self.log_variances = nn.ParameterList()
        both = self.encoder_sees_condition and self.encoder_sees_target
        for level, k in enumerate(spec.latent_dims):
            per_input = not self.is_linear and spec.encoder_variances[level] is None
            below = spec.latent_dims[level - 1] if level else target_dim
            reads = sees if self._reads_data(level) else below
            norm = math.sqrt(1 + both if self._reads_data(level) else below)
            self.encoders.append(networks.encoder(reads, k * (1 + per_input), norm))
            if level:
                self.decoders.append(networks.upper_decoder(k, below))
            else:
                extra = condition_dim * self.decoder_sees_condition
                self.decoders.append(networks.decoder(k, extra, below))
            self.log_variances.append(stack.constant(k))
        self.log_s = stack.constant() if spec.decoder_variance == "learned" else None
        self.offset = stack.constant(target_dim) if binary else None
        # shared by all members and known from the data: no part of a member's state
        centre = torch.zeros(target_dim) if binary else None
        self.register_buffer("centre", centre, persistent=False)
        centre = torch.zeros(condition_dim) if binary and condition_dim else None
        self.register_buffer("condition_centre", centre, persistent=False)

    @property
    def is_linear(self) -> bool:
        """True where the networks are matrices, theory's own."""
        return self.architecture.name == "linear"

    @property
    def is_bernoulli(self) -> bool:
        """True where p(y|z) is Bernoulli: decoders give logits, data are in [0, 1]."""
        return _likelihood(self.spec) == "bernoulli"

    @property
    def is_autoregressive(self) -> bool:
        """True where the decoder reads the past of the target."""
        return self.architecture.decoder == "pixelcnn"

    def _reads_data(self, level: int) -> bool:
        """True where the encoder of a level sees the data, not the level below."""
        return level == 0 or self.architecture.skip

    def _seen(self, image: ImageLayout | None) -> int | tuple[int, ...]:
        """What an encoder that reads the data sees: indices of pixels, or how many values."""
        if not self.architecture.needs_image:
            seen = self.condition_dim * self.encoder_sees_condition
            return seen + self.target_dim * self.encoder_sees_target
        image = _image_for(self.architecture, image, self.target_dim, self.condition_dim)
        seen_pixels = tuple(image.condition or ()) if self.encoder_sees_condition else ()
        return seen_pixels + (image.target_index if self.encoder_sees_target else ())

    def level_parameters(self, level: int) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """Of the decoder of one level (from 0), and of its encoder with its variances."""
        encoder = [*self.encoders[level].parameters(), self.log_variances[level]]
        return list(self.decoders[level].parameters()), encoder

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Of the encoders of all levels; the others are the decoders'."""
        return [p for level in range(len(self.encoders)) for p in self.level_parameters(level)[1]]

    def encode(self, level: int, below: Tensor) -> GaussianLevel:
        """q(z_l | what is below)."""
        out = self.encoders[level](below).to(below.dtype)  # where the products are bfloat16
        fixed = self.spec.encoder_variances[level]
        if fixed is not None:
            variance = torch.as_tensor(fixed, dtype=out.dtype, device=out.device)
            return GaussianLevel(out, torch.log(variance).expand_as(out))
        if self.is_linear:
            return GaussianLevel(out, self.log_variances[level][:, :, None].expand_as(out))
        mean, log_variance = out.chunk(2, dim=-1)
        return GaussianLevel(mean, log_variance)

    def forward_with_latents(
        self, target: Tensor, condition: Tensor | None, noise: Sequence[Tensor]
    ) -> tuple[Terms, list[Tensor]]:
        """Objective terms on one batch, and the sampled latents of every level.

        `target` (n_seeds, batch, d) and `condition` (n_seeds, batch, dx): centred, data units,
        shared by all points, or (n_seeds, n_points, batch, ...) where each member has its own;
        `noise`: standard normal, one (n_seeds, draws * batch, k_l) per level, shared by all
        points: `draws` latents of every sample.
        """
        x, y = self._inputs(target, condition)
        levels, latents = self._sampled(self._joined(x, y), noise)
        distortion = self._distortion(latents[0], x, y, by_point(target))
        rates = [r.mean(-2) for r in self.rates_per_unit(levels, latents)]
        return Terms(distortion, tuple(rates), tuple(levels)), latents

    def sample_latents(
        self, target: Tensor, condition: Tensor | None, noise: Sequence[Tensor]
    ) -> tuple[list[GaussianLevel], list[Tensor]]:
        """q of every level and its latents; arguments as in `forward_with_latents`."""
        return self._sampled(self._joined(*self._inputs(target, condition)), noise)

    def posterior(self, target: Tensor, condition: Tensor | None) -> GaussianLevel:
        """q(z_1|v) of one batch; arguments as in `forward_with_latents`."""
        return self.encode(0, self._joined(*self._inputs(target, condition)))

    def re_encode(
        self, z: Tensor, target: Tensor, condition: Tensor | None, encoder_share: Tensor
    ) -> Tensor:
        """Mean of q(z_1|v) where v holds the decoder's mean of z in place of the target.

        `z` (n_seeds, n_points, batch, k); target and condition as in `forward_with_latents`; an
        autoregressive decoder reads the target's past. `encoder_share`: of the gradient of the
        encoder's parameters, (1, n_points, 1, 1).
        """
        x, y = self._inputs(target, condition)
        shared = x if self.decoder_sees_condition else None
        past = (y,) if self.is_autoregressive else ()
        decoded = aside(self.decoders[0], z, shared, *past)
        if self.is_bernoulli:
            assert self.offset is not None and self.centre is not None
            decoded = torch.sigmoid(decoded + self.offset[:, :, None]) - self.centre
            decoded = decoded / self.scale
        if x is not None:
            x = x.expand(*decoded.shape[:3], -1)
        out: Tensor = aside(self.encoders[0], self._joined(x, decoded), share=encoder_share)
        return out[..., : self.spec.latent_dims[0]].to(z.dtype)

    def log_likelihood_per_sample(
        self, latent: Tensor, target: Tensor, condition: Tensor | None
    ) -> Tensor:
        """log p(target|z_1, x) in nats, (n_seeds, n_points, draws * batch), for given z_1.

        `latent` (n_seeds, n_points, draws * batch, k_1); the others as in `forward_with_latents`.
        """
        x, y = self._inputs(target, condition)
        return -self._nats(latent, x, y, by_point(target))

    def prior_latents(self, noise: Sequence[Tensor]) -> Tensor:
        """z_1 of the prior's chain, from the top level down, (n_seeds, n_points, rows, k_1).

        `noise`: standard normal, one (n_seeds or 1, rows, k_l) per level, shared by all points, or
        (n_seeds, n_points, rows, k_l) where each member has its own.
        """
        latent: Tensor | None = None
        for level in reversed(range(len(self.spec.latent_dims))):
            drawn = by_point(noise[level]).expand(len(self.seeds), self.n_points, -1, -1)
            drawn = drawn * math.sqrt(self.spec.prior_variances[level])
            latent = drawn if latent is None else self.decoders[level + 1](latent) + drawn
        assert latent is not None  # a spec has at least one level
        return latent

    def decode(self, latent: Tensor, condition: Tensor | None) -> Tensor:
        """Mean of p(y|z_1, x), in units of the target given, (n_seeds, n_points, rows, d).

        Arguments as in `log_likelihood_per_sample`. ValueError where the decoder is autoregressive.
        """
        if self.is_autoregressive:
            raise ValueError(
                f"decoder={self.architecture.decoder!r} has no mean of the target given z: each of "
                "its pixels depends on those before; use decoder='conv' or 'mlp'"
            )
        x = None if condition is None else self._scaled_condition(by_point(condition))
        output: Tensor = self.decoders[0](latent, x if self.decoder_sees_condition else None)
        if self.offset is None:
            return output * self.scale
        return torch.sigmoid(output + self.offset[:, :, None])

    def _sampled(
        self, data: Tensor, noise: Sequence[Tensor]
    ) -> tuple[list[GaussianLevel], list[Tensor]]:
        draws = noise[0].shape[1] // data.shape[2]
        levels: list[GaussianLevel] = []
        latents: list[Tensor] = []
        for level in range(len(self.spec.latent_dims)):
            if self._reads_data(level):
                levels.append(self.encode(level, data).repeat(draws))
            else:
                levels.append(self.encode(level, latents[-1]))
            latents.append(levels[-1].sample(noise[level][:, None]))
        return levels, latents

    def _inputs(self, target: Tensor, condition: Tensor | None) -> tuple[Tensor | None, Tensor]:
        """`_scaled` of a batch, with an axis for the points."""
        return self._scaled(by_point(target), None if condition is None else by_point(condition))

    def _scaled(self, target: Tensor, condition: Tensor | None) -> tuple[Tensor | None, Tensor]:
        """Condition and target as the networks see them: centred, of norm about 1."""
        if self.centre is not None:
            target = target - self.centre
        return self._scaled_condition(condition), target / self.scale

    def _scaled_condition(self, condition: Tensor | None) -> Tensor | None:
        if condition is not None and self.condition_centre is not None:
            condition = condition - self.condition_centre
        return None if condition is None else condition / self.condition_scale

    def _joined(self, x: Tensor | None, y: Tensor) -> Tensor:
        """What an encoder that reads the data is given."""
        return _join(
            x if self.encoder_sees_condition else None, y if self.encoder_sees_target else None
        )

    def _distortion(self, latent: Tensor, x: Tensor | None, y: Tensor, target: Tensor) -> Tensor:
        """E[-log p(target|z_1, x)], mean over rows, (n_seeds, n_points)."""
        return self._nats(latent, x, y, target).mean(-1)

    def _nats(self, latent: Tensor, x: Tensor | None, y: Tensor, target: Tensor) -> Tensor:
        """-log p(target|z_1, x) of every row, (n_seeds, n_points, draws * batch)."""
        if self.is_bernoulli:
            return self._bernoulli_error(latent, x, y, target)
        error = self.squared_error(latent, x, y) * self.scale**2
        s = self.decoder_variance()
        return gaussian_distortion(error, self.target_dim, s[..., None] if s.ndim else s)

    def distortion_without_latent(self, target: Tensor, condition: Tensor | None) -> Tensor:
        """The same where the decoder sees z_1 = 0 whatever the data are: a collapsed model."""
        x, y = self._inputs(target, condition)
        shape = (len(self.seeds), self.n_points, target.shape[-2], self.spec.latent_dims[0])
        return self._distortion(y.new_zeros(shape), x, y, by_point(target))

    def _bernoulli_error(
        self, latent: Tensor, x: Tensor | None, y: Tensor, target: Tensor
    ) -> Tensor:
        """-log p(target|z_1, x), (n_seeds, n_points, draws * batch)."""
        decoder, shared = self.decoders[0], x if self.decoder_sees_condition else None
        assert self.offset is not None
        output = (
            decoder(latent, shared, y)
            if self.architecture.decoder == "pixelcnn"
            else decoder(latent, shared)
        )
        logits = output + self.offset[:, :, None]
        return bernoulli_error(logits, target.repeat(1, 1, latent.shape[2] // target.shape[2], 1))

    def decoder_variance(self) -> Tensor:
        """s in data units^2: of each member where learned, else one number."""
        if self.log_s is not None:  # starts at the mean variance of a scaled coordinate
            return torch.exp(self.log_s) * (self.scale**2 / self.target_dim)
        return torch.tensor(float(self.spec.decoder_variance))

    def collapse_cost_nats(self) -> Tensor:
        """What a collapsed model pays beyond a perfect one, nats per sample, of each member.

        scale^2/(2 s), s that of each where it is learned; with a Bernoulli likelihood at most
        log 2 per coordinate.
        """
        if self.is_bernoulli:
            return torch.tensor(self.target_dim * math.log(2))
        return self.scale**2 / (2 * self.decoder_variance())

    @property
    def curvature(self) -> float:
        """Of the distortion in the scaled output: scale^2/s; of its start where s is learned."""
        s = self.spec.decoder_variance
        return self.target_dim if s == "learned" else self.scale**2 / float(s)

    def squared_error(self, latent: Tensor, x: Tensor | None, y: Tensor) -> Tensor:
        """|y - mean of p(y|z_1, x)|^2 in scaled units, (n_seeds, n_points, draws * batch)."""
        decoder = cast(StackedLinear | StackedMLP | StackedMembers, self.decoders[0])
        return decoder.squared_error(latent, y, x if self.decoder_sees_condition else None)

    def rates_per_unit(
        self, levels: Sequence[GaussianLevel], latents: Sequence[Tensor]
    ) -> list[Tensor]:
        """Rate of every level, sample and unit, nats: [(n_seeds, n_points, batch, k_l)]."""
        rates = []
        for level, q in enumerate(levels):
            if level + 1 < len(levels):
                square = (latents[level] - self.decoders[level + 1](latents[level + 1])).square()
            else:
                square = q.mean.square() + torch.exp(q.log_variance)
            rates.append(gaussian_rate_per_unit(q, square, self.spec.prior_variances[level]))
        return rates

    def encoder_features(
        self, target: Tensor, condition: Tensor | None, seed_index: int, point: int
    ) -> tuple[Tensor, Tensor]:
        """What one member of one level has for some rows, before its encoder's last layer.

        The last hidden layer phi (n, h), and the target less the output at z = 0, (n, d), data
        units. A linear network has its input itself.
        """
        x, y = self._scaled(
            target[None, None], None if condition is None else condition[None, None]
        )
        phi = alone(self.encoders[0], seed_index, point).hidden(self._joined(x, y), None)
        idle = torch.zeros_like(y[..., :1]).expand(*y.shape[:-1], self.spec.latent_dims[0])
        decoder = alone(self.decoders[0], seed_index, point)
        output = decoder(idle, x if self.decoder_sees_condition else None)
        return phi[0, 0], ((y - output) * self.scale)[0, 0]

    def decoder_features(
        self, latents: Tensor, condition: Tensor | None, seed_index: int, point: int
    ) -> Tensor:
        """The decoder's last hidden layer at every z (m,) and condition, (m, n, ...); n 1 without.

        Of a layer that positions share, the patches that it sees, (m, n, positions, q).
        """
        n, given = 1, None
        if condition is not None and self.decoder_sees_condition:
            n, given = len(condition), (condition / self.condition_scale)[None, None]
        z = latents.repeat_interleave(n)[None, None, :, None]
        decoder = alone(self.decoders[0], seed_index, point)
        psi: Tensor = decoder.hidden(z, given)[0, 0]
        if self.architecture.decoder == "conv":
            psi = self._shared_layer.patches(psi)
        return torch.unflatten(psi, 0, (len(latents), n))

    def decoder_sources(self) -> Tensor:
        """Row of weights, patch and channel of every coordinate of the target, (3, d)."""
        layer, index = self._shared_layer, cast(Collection, self.decoders[0].writes).index
        row, patch = layer.sources()
        channel = torch.arange(len(row))[:, None, None].expand_as(row)
        return torch.stack([row, patch, channel]).flatten(1).to(index.device)[:, index]

    @property
    def _shared_layer(self) -> Doubling:
        """The last layer of a decoder of images, whose weights all positions share."""
        return cast(Doubling, cast(StackedMembers, self.decoders[0]).member.head)

    @torch.no_grad()
    def start_at_means(self, target: Rows, condition: Rows | None) -> None:
        """Bernoulli: encoders see centred data, and the offsets start at the log odds of the means.

        A coordinate that is never 1 counts as half a one, so that the odds are finite.
        """
        assert self.offset is not None
        mean, n = _mean(target), len(target)
        self.offset.copy_(torch.logit((n * mean + 0.5) / (n + 1)))
        self.centre = mean.to(self.offset.dtype)
        if condition is not None:
            self.condition_centre = _mean(condition).to(self.offset.dtype)

    def weights(self, seed_index: int, point: int) -> dict[str, npt.NDArray[np.float64]]:
        """Matrices of one linear member in data units, names as in `linvae.theory.elbo`."""
        if not self.is_linear:
            raise ValueError(
                f"architecture={self.architecture.name!r} has no matrices: use 'linear'"
            )

        levels = range(len(self.spec.latent_dims))
        W = [_member(self.encoders[i].weight, seed_index, point) for i in levels]
        U = [_member(self.decoders[i].weight, seed_index, point) for i in levels]
        Sigma = [np.diag(self._variance(i, seed_index, point)) for i in levels]
        dx, k = self.condition_dim, self.spec.latent_dims[0]
        seen = dx if self.encoder_sees_condition else 0
        on_x, on_y = W[0][:, :seen] / self.condition_scale, W[0][:, seen:] / self.scale
        unit = 1.0 if self.is_bernoulli else self.scale  # logits are no data
        on_z, from_x = U[0][:, :k] * unit, U[0][:, k:] * self.scale / self.condition_scale
        s = self.decoder_variance().expand(len(self.seeds), self.n_points)
        learned = {} if self.log_s is None else {"s": _member(s, seed_index, point)}
        if self.offset is not None:
            learned["offset"] = _member(self.offset, seed_index, point)
        if isinstance(self.spec, CVAESpec):
            named = {"W2": on_y, "U1": on_z, "U2": from_x, "Sigma": Sigma[0]} | learned
            return named | ({"W1": on_x} if self.encoder_sees_condition else {})
        if not isinstance(self.spec, HVAESpec):
            return {"W": on_y if dx == 0 else on_x, "U": on_z, "Sigma": Sigma[0]} | learned
        named = {"W1": on_y, "U1": on_z} | ({"A": on_x, "B": from_x} if dx else {})
        for i in levels:
            named |= {f"Sigma{i + 1}": Sigma[i]}
            named |= {f"W{i + 1}": W[i], f"U{i + 1}": U[i]} if i else {}
        return named

    def _variance(self, level: int, seed_index: int, point: int) -> npt.NDArray[np.float64]:
        fixed = self.spec.encoder_variances[level]
        if fixed is None:
            return np.exp(_member(self.log_variances[level], seed_index, point))
        return np.broadcast_to(np.asarray(fixed, float), self.spec.latent_dims[level])


def build_model(
    spec: LinearSpec,
    target: Rows,
    condition: Rows | None = None,
    *,
    architecture: str | Architecture = "linear",
    image: ImageLayout | None = None,
    seeds: Sequence[int] = (0,),
    n_points: int = 1,
) -> StackedVAE:
    """A stack for training data: `target` (n, d), `condition` (n, dx) or None.

    They are centred, except with a Bernoulli likelihood, whose target is in [0, 1]. `image` says
    which pixel each coordinate is, for the architectures that need to know.
    """
    architecture, binary = Architecture.of(architecture), _likelihood(spec) == "bernoulli"
    if binary:
        _check_binary(target)
    scale = _root_total_variance(target, centred=not binary)
    condition_scale = 1.0
    if condition is not None and architecture.needs_image:
        condition_scale = scale  # parts of one image
    elif condition is not None:
        condition_scale = _root_total_variance(condition, centred=not binary)
    model = StackedVAE(
        spec,
        target_dim=target.shape[1],
        condition_dim=0 if condition is None else condition.shape[1],
        scale=scale,
        condition_scale=condition_scale,
        architecture=architecture,
        image=image,
        seeds=seeds,
        n_points=n_points,
    )
    if binary:
        model.start_at_means(target, condition)
    return model.to(target.device)


def _likelihood(spec: LinearSpec) -> str:
    return spec.likelihood if isinstance(spec, VAESpec) else "gaussian"


def _refuse_untrained(spec: LinearSpec, architecture: Architecture) -> None:
    """ValueError for what theory knows and no network here trains yet."""
    if isinstance(spec, ARVAESpec) and (architecture.decoder != "pixelcnn" or spec.order):
        raise ValueError(
            f"ARVAESpec with order={spec.order} and architecture={architecture.name!r} has no "
            "network: architecture='pixelcnn' at order=None has one"
        )
    if isinstance(spec, VAESpec) and (
        spec.penalised or spec.likelihood not in ("gaussian", "bernoulli")
    ):
        raise ValueError(
            f"likelihood={spec.likelihood!r}, latent_reconstruction={spec.latent_reconstruction}, "
            f"weight_decay={spec.weight_decay} are not trained yet: networks need "
            "likelihood='gaussian' or 'bernoulli' and no penalty"
        )


def _check_binary(target: Rows) -> None:
    low = min(float(part.min()) for part in _chunks(target))
    high = max(float(part.max()) for part in _chunks(target))
    if low < 0 or high > 1:
        raise ValueError(
            f"target has values from {low:g} to {high:g} but likelihood='bernoulli' needs them "
            "between 0 and 1: scale them, and make TrainingData with centered=False"
        )


def _image_for(
    architecture: Architecture, image: ImageLayout | None, target_dim: int, condition_dim: int
) -> ImageLayout:
    """The layout that a network of images needs, or ValueError."""
    if image is None:
        raise ValueError(
            f"architecture={architecture.name!r} needs to know which pixel each coordinate is, and "
            "image is None: pass Dataset.image_layout() of data that are images and were not "
            "rotated to their span, or use 'linear' or 'mlp'"
        )
    image.check(target_dim, condition_dim)
    if condition_dim and image.condition is None:
        raise ValueError(
            f"architecture={architecture.name!r} reads a condition as part of the image, and here "
            "it is none: use a quarter task, or 'linear' or 'mlp'"
        )
    return image


def alone(network: nn.Module, seed_index: int, point: int) -> Any:
    """The network of one member as a stack of one, sharing its values."""
    own = copy.copy(network)
    own._modules = {
        name: alone(module, seed_index, point) for name, module in network.named_children()
    }
    if isinstance(network, StackedMembers):  # other buffers are the same for all members
        own._buffers = {
            name: None if b is None else b[seed_index, point][None, None]
            for name, b in network._buffers.items()
        }
    own._parameters = {
        name: None if p is None else nn.Parameter(p[seed_index, point][None, None], False)
        for name, p in network._parameters.items()
    }
    return own


def _member(values: Any, seed_index: int, point: int) -> npt.NDArray[np.float64]:
    """The entries of one member, float64 on the CPU."""
    return np.asarray(values[seed_index, point].detach().cpu(), dtype=np.float64)


def mean_square(data: Rows, centre: Tensor | None = None) -> float:
    """Mean over the rows of their squared distance from `centre` (0), in float64."""
    shift = 0.0 if centre is None else centre
    return sum(float((part - shift).square().sum()) for part in _chunks(data)) / len(data)


def _mean(data: Rows) -> Tensor:
    """Mean of the rows, float64."""
    return torch.stack([part.sum(0) for part in _chunks(data)]).sum(0) / len(data)


def _chunks(data: Rows) -> Iterator[Tensor]:
    """All rows, some at a time, float64."""
    return (data[i : i + CHUNK].double() for i in range(0, len(data), CHUNK))


def _root_total_variance(data: Rows, *, centred: bool = True) -> float:
    total = mean_square(data, None if centred else _mean(data))
    return math.sqrt(total) if total > 0 else 1.0


def _join(x: Tensor | None, y: Tensor | None) -> Tensor:
    parts = [part for part in (x, y) if part is not None]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
