"""What a trained decoder can do with a latent to first order: scores and information.

A collapsed decoder ignores z. Weights c from z to what it is fed to change its logits by

    z b_t(y_<t),   b_t = sum_i c_i d a_t/d u_i

u the vector that z is added to, other weights as they are. All b of this kind are a linear family
with q directions, and the threshold over it (`linvae.theory.sequences.residual_threshold`) is exact
for this collapsed decoder, for small c and any encoder: scores S_i = sum_t (d a_t/d u_i).r_t,
information F_ij = E sum_t (d a_t/d u_i).F_t (d a_t/d u_j).

LSTM: u = (s, c_0), s added to all gates at every step, h_0 = tanh c_0; q = 5 H. Derivatives go
forward with the recurrence. PixelCNN: u = the latent's maps; q = maps x pixels; forward mode.

| symbol | here                  | shape          | unit                  |
|--------|-----------------------|----------------|-----------------------|
| S      | Pulls.scores          | (n, q)         | nats per unit of c    |
| F      | Pulls.information     | (q, q)         | nats per unit of c^2  |
| p_t    | predicted             | (n, d), (N, V) | probabilities         |

Source: ours. Equalities that tests check: both against differences of the model's own likelihoods
and logits, with weights from z put in.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.func import jvp, vmap

from linvae.models import StackedTextVAE, StackedVAE
from linvae.models.chain import alone
from linvae.theory.sequences import TokenPredictions

__all__ = [
    "Pulls",
    "encoder_states",
    "lstm_predictions",
    "lstm_pulls",
    "pixel_probabilities",
    "pixelcnn_pulls",
    "projected",
]

Array = npt.NDArray[np.float64]
Member = tuple[int, int]  # index of the seed, point
AT_ONCE = 16  # directions of a PixelCNN
SEQUENCES = 250  # at once


@dataclass(frozen=True, eq=False)
class Pulls:
    """Scores of every sample, (n, q), and their mean information, (q, q)."""

    scores: Array
    information: Array


# --- PixelCNN ------------------------------------------------------------------------------------


@torch.no_grad()
def pixel_probabilities(model: StackedVAE, member: Member, pixels: Tensor) -> Array:
    """p_t of pixels (n, d) where the decoder of one member sees z = 0."""
    decoder = _PixelDecoder.of(model, member, pixels)
    return np.asarray(torch.sigmoid(decoder.logits(decoder.idle())))


@torch.no_grad()
def pixelcnn_pulls(model: StackedVAE, member: Member, pixels: Tensor) -> Pulls:
    """Of the maps that z makes, for one member and pixels (n, d)."""
    decoder = _PixelDecoder.of(model, member, pixels)
    maps = decoder.idle()
    p = torch.sigmoid(decoder.logits(maps))
    residuals, weights = pixels.double() - p, (p * (1 - p)).sqrt()

    def along(direction: Tensor) -> Tensor:
        derivative: Tensor = jvp(decoder.logits, (maps,), (direction.expand_as(maps),))[1]
        return derivative

    directions = torch.eye(maps.shape[1], dtype=maps.dtype)
    b = torch.cat([vmap(along)(some) for some in directions.split(AT_ONCE)])  # (q, n, d)
    scores = torch.einsum("qnd,nd->nq", b, residuals)
    weighted = (b * weights).flatten(1)
    return Pulls(np.asarray(scores), np.asarray(weighted @ weighted.T) / len(pixels))


@dataclass(frozen=True, eq=False)
class _PixelDecoder:
    """The network of one member in float64, which is given the latent's maps instead of z."""

    network: nn.Module
    writes: nn.Module
    images: Tensor
    offset: Tensor
    maps_of_zero: Tensor

    @classmethod
    def of(cls, model: StackedVAE, member: Member, pixels: Tensor) -> _PixelDecoder:
        assert model.offset is not None and model.centre is not None  # Bernoulli
        stacked = alone(model.decoders[0], *member)
        network = copy.deepcopy(stacked.member).double().eval()
        values = {
            name: getattr(stacked, name.replace(".", "__"))[0, 0]
            for name, _ in network.named_parameters()
        }
        network.load_state_dict(values)
        maps = network.maps(torch.zeros(1, model.spec.latent_dim, dtype=torch.float64))
        network.maps = nn.Identity()
        seen = (pixels - model.centre) / model.scale
        images = stacked.reads_target(seen.double())
        return cls(network, stacked.writes, images, model.offset[member].double(), maps)

    def idle(self) -> Tensor:
        """The maps of z = 0 for every image, (n, maps x pixels)."""
        return self.maps_of_zero.detach().repeat(len(self.images), 1)

    def logits(self, maps: Tensor) -> Tensor:
        """(n, maps x pixels) -> (n, d)."""
        values: Tensor = self.writes(self.network(maps, None, self.images))
        return values + self.offset


# --- LSTM ----------------------------------------------------------------------------------------


@torch.no_grad()
def lstm_predictions(model: StackedTextVAE, member: Member, tokens: Tensor) -> TokenPredictions:
    """p_t of sequences (n, T) where the decoder of one member sees z = 0."""
    own = model.member(*member)
    dtype = own.decoder.outer.weight.dtype
    z = torch.zeros(1, 1, len(tokens), model.spec.latent_dim, dtype=dtype)
    logits = own.decoder.logits(z, tokens[None, :, :-1])[0, 0].transpose(0, 1)  # (n, T - 1, V)
    there = tokens[:, 1:] >= 0
    p = torch.softmax(logits[there].double(), dim=-1)
    sequence = np.asarray(torch.nonzero(there)[:, 0])
    return TokenPredictions(sequence, np.asarray(tokens[:, 1:][there]), np.asarray(p))


@torch.no_grad()
def lstm_pulls(model: StackedTextVAE, member: Member, tokens: Tensor) -> Pulls:
    """Of gates and first cell, for one member and sequences (n, T), padded after their ends."""
    decoder = _LSTM.of(model, member)
    parts = [decoder.pulls(some) for some in tokens.split(SEQUENCES)]
    scores = torch.cat([scores for scores, _ in parts])
    information = torch.stack([information for _, information in parts]).sum(dim=0)
    return Pulls(np.asarray(scores), np.asarray(information) / len(tokens))


@torch.no_grad()
def encoder_states(model: StackedTextVAE, member: Member, tokens: Tensor) -> Array:
    """The LSTM's last state in the encoder of one member, (n, H): mean and log variance read it."""
    own = model.member(*member).encoder
    states, _ = own.lstm(own.embedding(tokens[None]))
    last = (tokens >= 0).sum(dim=1) - 1
    return np.asarray(states[0, 0][last, torch.arange(len(tokens))], dtype=np.float64)


def projected(scores: Array, features: Array) -> Array:
    """What an encoder that is linear in `features` (n, h) can form of `scores` (n, q), centred.

    It takes the place of S in the criterion: the best mean in their span is proportional to it.
    """
    phi = np.column_stack([np.ones(len(features)), features])
    fitted: Array = phi @ np.linalg.lstsq(phi, scores, rcond=None)[0]
    return fitted - fitted.mean(axis=0)


@dataclass(frozen=True, eq=False)
class _LSTM:
    """The decoder of one member, its weights in float64: names as in `linvae.models.recurrent`."""

    embedding: Tensor  # (V, e)
    from_input: Tensor  # (4 H, e)
    bias: Tensor  # (4 H,)
    recurrent: Tensor  # (4 H, H)
    outer: Tensor  # (V, H)

    @classmethod
    def of(cls, model: StackedTextVAE, member: Member) -> _LSTM:
        decoder = model.decoder
        lstm = decoder.lstm
        values = (
            decoder.embedding.weight, lstm.from_input.weight, lstm.from_input.bias, lstm.weight,
            decoder.outer.weight,
        )  # fmt: skip
        return cls(*(value[member].detach().double() for value in values))

    def pulls(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (n, q) and the sum of their information, (q, q), q = 4 H + H."""
        n, hidden = len(tokens), self.recurrent.shape[1]
        width = 4 * hidden
        h = c = torch.zeros(n, hidden, dtype=torch.float64)
        every = torch.eye(width + hidden, dtype=torch.float64)
        pushed, first = every[:, :width], every[:, width:]
        dh = dc = first.expand(n, -1, -1)  # (n, q, H); h_0 = tanh(c_0) has slope 1 at 0
        scores = torch.zeros(n, width + hidden, dtype=torch.float64)
        information = torch.zeros_like(every)
        for t in range(tokens.shape[1] - 1):
            x = self.embedding[tokens[:, t].clamp(min=0)]
            a = x @ self.from_input.T + self.bias + h @ self.recurrent.T
            h, c, dh, dc = _step(a, c, dh @ self.recurrent.T + pushed, dc)
            residual, F = self._residual(h, tokens[:, t + 1])
            scores += torch.einsum("nqh,nh->nq", dh, residual)
            left, right = (m.transpose(1, 2).flatten(0, 1) for m in (dh @ F, dh))  # (n H, q)
            information += left.T @ right
        return scores, information

    def _residual(self, h: Tensor, following: Tensor) -> tuple[Tensor, Tensor]:
        """W^T r_t, (n, H), and W^T F_t W, (n, H, H), of the output weights W; 0 for padding."""
        W, there = self.outer, (following >= 0).double()[:, None]
        p = torch.softmax(h @ W.T, dim=-1)
        mean = p @ W
        squares = (W[:, :, None] * W[:, None, :]).flatten(1)
        second = torch.unflatten(p @ squares, 1, (W.shape[1], -1))
        F = second - mean[:, :, None] * mean[:, None, :]
        return there * (W[following.clamp(min=0)] - mean), there[..., None] * F


def _step(a: Tensor, c: Tensor, da: Tensor, dc: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """State, cell and their derivatives (n, q, H) after a step with the gates' inputs a and da."""
    g, i, f, o = a.chunk(4, dim=-1)
    g, i, f, o = torch.tanh(g), torch.sigmoid(i), torch.sigmoid(f), torch.sigmoid(o)
    dg, di, df, do = da.chunk(4, dim=-1)
    new = f * c + i * g
    slopes = (i * (1 - g**2), g * i * (1 - i), c * f * (1 - f))
    dnew = f[:, None] * dc
    for slope, derivative in zip(slopes, (dg, di, df), strict=True):
        dnew = dnew + slope[:, None] * derivative
    squashed = torch.tanh(new)
    dh = (squashed * o * (1 - o))[:, None] * do + (o * (1 - squashed**2))[:, None] * dnew
    return o * squashed, new, dh, dnew
