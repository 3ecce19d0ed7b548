"""Sequences from the decoders of a stack: greedy, sampled and beam search, of all members at once.

    log p(y|z) = sum_t log p(y_t | y_<t, z)

A sequence begins with `start`, which is given, and is over at `end`, whose probability counts, or
after `max_length` tokens. A `Decoded` has the same log probability whatever chose its tokens: the
model's own, not that of a temperature or of what was left after `forbid`.

| symbol | argument   | shape                              | unit             |
|--------|------------|------------------------------------|------------------|
| z      | `z`        | (n_seeds, n_points, rows, k)       | of the prior     |
| y      | `.tokens`  | (n_seeds, n_points, rows, T)       | token, or PADDING |

Random numbers depend on `seed`, the model's seed and the row, and all points of a seed share them:
a member decodes in a stack as it does alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from linvae.data.vocabulary import END, START, UNKNOWN
from linvae.models.recurrent import PADDING, StackedLanguageModel, StackedTextVAE

__all__ = [
    "END",
    "START",
    "UNKNOWN",
    "Decode",
    "Decoded",
    "TextModel",
    "beam",
    "between",
    "greedy",
    "interpolate",
    "prior_latents",
    "reconstruct",
    "sample",
]

TextModel = StackedTextVAE | StackedLanguageModel
State = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Decoded:
    """One sequence per member and row.

    | field             | shape                        | meaning                                  |
    |-------------------|------------------------------|------------------------------------------|
    | `tokens`          | (n_seeds, n_points, rows, T) | without `start`; PADDING after `end`     |
    | `log_probability` | (n_seeds, n_points, rows)    | log p(y|z) of the model, `end` included, |
    |                   |                              | nats                                     |
    | `finished`        | (n_seeds, n_points, rows)    | False where `max_length` cut it short    |

    -log_probability is `SequenceDecoder.cross_entropy` of `start` and `tokens`, finished or not.
    """

    tokens: Tensor
    log_probability: Tensor
    finished: Tensor


Decode = Callable[[StackedTextVAE, Tensor], Decoded]  # partial(beam, max_length=30, width=5)


@torch.no_grad()
def greedy(
    model: TextModel,
    z: Tensor | None,
    max_length: int,
    *,
    rows: int | None = None,
    start: int = START,
    end: int = END,
    forbid: Sequence[int] = (),
) -> Decoded:
    """The most probable token at every step.

    `z`: None for a language model, which takes `rows` (1) instead. `forbid`: tokens never chosen.
    Raises ValueError for a `z` that is not the model's and for tokens outside the vocabulary.
    """
    run = _Run(model, z, max_length, rows, start, end, tuple(forbid))
    return _one_by_one(run, lambda log_p: log_p.argmax(-1))


@torch.no_grad()
def sample(
    model: TextModel,
    z: Tensor | None,
    max_length: int,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    rows: int | None = None,
    start: int = START,
    end: int = END,
    forbid: Sequence[int] = (),
) -> Decoded:
    """Every token drawn from p(y_t | y_<t, z)^(1/temperature), truncated and normalised.

    First `forbid`, then the `top_k` most probable, then of these the fewest that together have a
    share `top_p` (Holtzman et al., ICLR 2020). Temperature 1 without them samples p(y|z);
    temperature -> 0 and `top_k=1` are `greedy`. Other arguments and errors as there.
    """
    run = _Run(model, z, max_length, rows, start, end, tuple(forbid))
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(
            f"temperature={temperature} must be above 0 in sample: use greedy for its limit at 0"
        )
    if top_k is not None:
        _at_least("top_k", top_k, 1, "sample")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p} must be above 0 and at most 1 in sample, or None")
    streams = _streams(model, seed, "words")

    def choose(log_p: Tensor) -> Tensor:
        parts = [torch.rand(run.rows, generator=g, dtype=torch.float64) for g in streams]
        uniform = torch.stack(parts)[:, None].to(log_p.device)
        lower = log_p.double() - log_p.double().amax(-1, keepdim=True)  # 0 at any temperature
        probability = torch.softmax(lower / temperature, dim=-1)
        return _drawn(probability, uniform, top_k, top_p)

    return _one_by_one(run, choose)


@torch.no_grad()
def beam(
    model: TextModel,
    z: Tensor | None,
    max_length: int,
    *,
    width: int,
    length_penalty: float = 0.0,
    rows: int | None = None,
    start: int = START,
    end: int = END,
    forbid: Sequence[int] = (),
) -> Decoded:
    """The best of the sequences that are among the `width` best at every step.

    score = log p(y_1 ... y_t | z) / t^length_penalty, t the number of tokens, `end` included; 0
    looks for the most probable sequence, more favours long ones. `width=1` is `greedy`; a width of
    vocabulary^max_length leaves nothing out. Other arguments and errors as in `greedy`.
    """
    run = _Run(model, z, max_length, rows, start, end, tuple(forbid))
    _at_least("width", width, 1, "beam")
    if not 0 <= length_penalty < math.inf:
        raise ValueError(
            f"length_penalty={length_penalty} must be at least 0 in beam: 0 is the plain log "
            "probability"
        )
    beams = _Beams.first(run)
    for _ in range(run.max_length):
        beams = beams.extended(run, width, length_penalty)
        if beams.settled(run.max_length, length_penalty):
            break
    return beams.best(length_penalty)


@torch.no_grad()
def reconstruct(
    model: StackedTextVAE, tokens: Tensor, decode: Decode, *, seed: int | None = None
) -> Decoded:
    """`decode` from the posterior of `tokens` (n_seeds, batch, T): its mean, or with `seed` a draw.

    Rows are the sequences of the batch. Raises ValueError for a language model.
    """
    return decode(model, _posterior(model, tokens, seed))


@torch.no_grad()
def interpolate(
    model: StackedTextVAE,
    a_tokens: Tensor,
    b_tokens: Tensor,
    steps: int,
    decode: Decode,
    *,
    spherical: bool = False,
) -> Decoded:
    """`decode` from `steps` latents between the posterior means of a and b, both included.

    Row b * steps + i is step i of pair b. Raises ValueError for a language model, batches of
    different sizes, and fewer than 2 steps.
    """
    a, b = (_posterior(model, tokens, None) for tokens in (a_tokens, b_tokens))
    if a.shape != b.shape:
        raise ValueError(
            f"a_tokens has {a.shape[2]} sequences and b_tokens {b.shape[2]}: interpolate goes "
            "between pairs, give as many of one as of the other"
        )
    return decode(model, between(a, b, steps, spherical=spherical).flatten(2, 3))


def between(a: Tensor, b: Tensor, steps: int, *, spherical: bool = False) -> Tensor:
    """`steps` latents from a to b, (..., k) -> (..., steps, k).

    z(t) = (1 - t) a + t b at t = 0, 1/(steps - 1), ..., 1. Spherical: the direction turns by equal
    angles t w, where w is the angle from a to b, and the length goes linearly,

        z(t) = ((1 - t) |a| + t |b|) (sin((1 - t) w) a/|a| + sin(t w) b/|b|) / sin(w)

    and where that names no direction (a or b is 0, or they point the same or opposite ways) it is
    linear. Raises ValueError for fewer than 2 steps.
    """
    _at_least("steps", steps, 2, "between")
    t = torch.linspace(0, 1, steps, dtype=a.dtype, device=a.device)[:, None]
    a, b = a[..., None, :], b[..., None, :]
    straight = torch.lerp(a, b, t)
    if not spherical:
        return straight
    a_length, b_length = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    a_unit, b_unit = a / a_length, b / b_length
    # twice the arc tangent: precise at all angles, where the arc cosine is not
    difference, total = (v.norm(dim=-1, keepdim=True) for v in (a_unit - b_unit, a_unit + b_unit))
    angle = 2 * torch.atan2(difference, total)
    turned = torch.sin((1 - t) * angle) * a_unit + torch.sin(t * angle) * b_unit
    turned = torch.lerp(a_length, b_length, t) * turned / torch.sin(angle)
    smallest = 100 * torch.finfo(a.dtype).eps
    return torch.where(torch.sin(angle) > smallest, turned, straight)  # nan counts as small


def prior_latents(model: StackedTextVAE, rows: int, *, seed: int = 0) -> Tensor:
    """`rows` draws of z from the prior, (n_seeds, n_points, rows, k), the same for all points.

    Decoded with `sample` they are sequences of the model. Raises ValueError for a language model.
    """
    _check_latents(model, "prior_latents")
    _at_least("rows", rows, 1, "prior_latents")
    noise = _noise(model, rows, seed, "prior") * math.sqrt(model.spec.prior_variance)
    return noise.expand(-1, model.n_points, -1, -1)


# --- one token at a time ------------------------------------------------------------------------


class _Run:
    """Model, latents and rules of one decoding, checked."""

    def __init__(
        self,
        model: TextModel,
        z: Tensor | None,
        max_length: int,
        rows: int | None,
        start: int,
        end: int,
        forbid: tuple[int, ...],
    ) -> None:
        _at_least("max_length", max_length, 1, "decoding")
        _check_vocabulary(model.vocabulary, start, end, forbid)
        self.rows = _rows(model, z, rows)
        self.decoder, self.z = model.decoder, z
        self.max_length, self.start, self.end = max_length, start, end
        self.shape = len(model.seeds), model.n_points, self.rows
        self.device = model.decoder.outer.weight.device
        self.forbidden = torch.tensor(forbid, dtype=torch.long, device=self.device)

    def step(self, tokens: Tensor, state: State | None) -> tuple[Tensor, State]:
        """log p of the next token, (n_seeds, n_points, rows, vocabulary), and the state.

        `tokens` may have several rows for each of the run's, one after the other.
        """
        z = self.z
        if z is not None:
            z = z.repeat_interleave(tokens.shape[2] // self.rows, dim=2)
        logits, state = self.decoder.step(z, tokens, state)
        log_p = torch.log_softmax(logits, dim=-1)
        if bool(torch.isnan(log_p).any()):
            raise ValueError(
                "the model's log probabilities are not numbers: its training diverged; train it "
                "again with a lower learning rate"
            )
        return log_p, state

    def allowed(self, log_p: Tensor) -> Tensor:
        """-inf for what is forbidden."""
        return log_p.index_fill(-1, self.forbidden, -math.inf)


def _one_by_one(run: _Run, choose: Callable[[Tensor], Tensor]) -> Decoded:
    """`choose` picks the next tokens from their log probabilities, until all rows are finished."""
    token = torch.full(run.shape, run.start, device=run.device)
    finished = torch.zeros(run.shape, dtype=torch.bool, device=run.device)
    state, total, tokens = None, torch.zeros((), device=run.device), []
    for _ in range(run.max_length):
        log_p, state = run.step(token, state)
        token = choose(run.allowed(log_p))
        chosen = log_p.gather(-1, token[..., None])[..., 0]
        total = total + chosen.masked_fill(finished, 0)
        tokens.append(token.masked_fill(finished, PADDING))
        finished = finished | (token == run.end)
        if bool(finished.all()):
            break
    return Decoded(torch.stack(tokens, dim=-1), total, finished)


def _drawn(probability: Tensor, uniform: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Tokens by inversion: the first whose cumulative probability exceeds that share of all."""
    order = None
    if top_k is not None or top_p is not None:
        probability, order = probability.sort(dim=-1, descending=True, stable=True)
        if top_k is not None:
            probability[..., top_k:] = 0
        if top_p is not None:
            before = probability.cumsum(-1) - probability
            share = top_p * probability.sum(-1, keepdim=True)
            probability = probability.masked_fill(before >= share, 0)
    reached = probability.cumsum(-1)
    # right: a token of probability 0 is never the first to exceed anything
    place = torch.searchsorted(reached, uniform[..., None] * reached[..., -1:], right=True)
    return (place if order is None else order.gather(-1, place))[..., 0]


# --- beams --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Beams:
    """The best sequences so far of every row; all but `state` (n_seeds, n_points, rows, beams).

    `tokens` has a last axis of steps, `state` has rows * beams rows. A beam of log probability -inf
    holds a forbidden token and is there for want of others.
    """

    tokens: Tensor
    log_probability: Tensor
    length: Tensor
    finished: Tensor
    last: Tensor
    state: State | None = None

    @classmethod
    def first(cls, run: _Run) -> _Beams:
        """The start token alone."""
        last = torch.full((*run.shape, 1), run.start, device=run.device)
        nothing = torch.zeros_like(last)
        log_p = torch.zeros(last.shape, dtype=run.decoder.outer.weight.dtype, device=run.device)
        return cls(nothing[..., None][..., :0], log_p, nothing, nothing.bool(), last)

    def extended(self, run: _Run, width: int, penalty: float) -> _Beams:
        """The `width` best among all sequences one token longer, and those that are finished."""
        beams = self.last.shape[3]
        log_p, state = run.step(self.last.flatten(2), self.state)
        log_p = torch.unflatten(run.allowed(log_p), 2, (-1, beams))
        vocabulary = log_p.shape[-1]
        # what is finished goes on in one way, at no cost: `end` again
        stays = torch.full_like(log_p[0, 0, 0, 0], -math.inf)
        stays[run.end] = 0
        total = self.log_probability[..., None] + log_p.where(~self.finished[..., None], stays)
        length = self.length + ~self.finished
        scores = _score(total, length[..., None], penalty).flatten(3)
        best = scores.topk(min(width, beams * vocabulary)).indices
        parent, token = best // vocabulary, best % vocabulary
        finished = self.finished.gather(3, parent)
        new = token.masked_fill(finished, PADDING)[..., None]
        return _Beams(
            torch.cat([_taken(self.tokens, parent), new], dim=-1),
            total.flatten(3).gather(3, best),
            length.gather(3, parent),
            finished | (token == run.end),
            token,
            _follow(state, parent, beams),
        )

    def settled(self, max_length: int, penalty: float) -> bool:
        """True where in every row no unfinished beam can come to match the best finished one.

        Its log probability will not grow, nor its length beyond `max_length`.
        """
        scores = _score(self.log_probability, self.length, penalty)
        hope = self.log_probability / max_length**penalty
        best = scores.masked_fill(~self.finished, -math.inf).amax(-1)
        return bool((best > hope.masked_fill(self.finished, -math.inf).amax(-1)).all())

    def best(self, penalty: float) -> Decoded:
        """The beam of the highest score of every row, no longer than the longest of them."""
        index = _score(self.log_probability, self.length, penalty).argmax(-1, keepdim=True)
        length = int(self.length.gather(3, index).max())
        return Decoded(
            _taken(self.tokens, index)[..., 0, :length],
            self.log_probability.gather(3, index)[..., 0],
            self.finished.gather(3, index)[..., 0],
        )


def _score(log_probability: Tensor, length: Tensor, penalty: float) -> Tensor:
    """log p / length^penalty."""
    return log_probability / length.to(log_probability.dtype) ** penalty


def _taken(values: Tensor, index: Tensor) -> Tensor:
    """Beams `index` (..., beams) of `values` (n_seeds, n_points, rows, beams, features)."""
    return values.take_along_dim(index[..., None], dim=3)


def _follow(state: State, parent: Tensor, beams: int) -> State:
    """The states from which the beams with these parents go on."""
    h, c = (_taken(torch.unflatten(part, 2, (-1, beams)), parent).flatten(2, 3) for part in state)
    return h, c


# --- random numbers and latents -----------------------------------------------------------------


def _streams(model: TextModel, seed: int, purpose: str) -> list[torch.Generator]:
    """A stream of random numbers for every seed of the model, on the CPU: alike on all devices."""
    _at_least("seed", seed, 0, "decoding")
    sequences = [np.random.SeedSequence([own, seed, *purpose.encode()]) for own in model.seeds]
    return [torch.Generator().manual_seed(int(s.generate_state(1)[0])) for s in sequences]


def _noise(model: StackedTextVAE, rows: int, seed: int, purpose: str) -> Tensor:
    """Standard normal, (n_seeds, 1, rows, k), as the model's parameters are."""
    shape = rows, model.spec.latent_dim
    draws = [
        torch.randn(shape, generator=g, dtype=torch.float64) for g in _streams(model, seed, purpose)
    ]
    return torch.stack(draws)[:, None].to(model.decoder.outer.weight)


def _posterior(model: StackedTextVAE, tokens: Tensor, seed: int | None) -> Tensor:
    """Mean of q(z|y), or a draw, (n_seeds, n_points, batch, k)."""
    _check_latents(model, "the posterior")
    level = model.encoder(tokens)
    if seed is None:
        mean: Tensor = level.mean
        return mean
    drawn: Tensor = level.sample(_noise(model, tokens.shape[1], seed, "posterior"))
    return drawn


# --- checks -------------------------------------------------------------------------------------


def _at_least(name: str, value: int, bound: int, where: str) -> None:
    if not isinstance(value, int) or value < bound:
        raise ValueError(f"{name}={value!r} must be an integer of at least {bound} in {where}")


def _check_vocabulary(vocabulary: int, start: int, end: int, forbid: tuple[int, ...]) -> None:
    named = [("start", start), ("end", end), *(("forbid", token) for token in forbid)]
    for name, token in named:
        if not 0 <= token < vocabulary:
            raise ValueError(
                f"{name}: token {token} must be between 0 and {vocabulary - 1}, the last of this "
                "model's vocabulary, in decoding"
            )
    if len(set(forbid)) == vocabulary:
        raise ValueError(f"forbid names all {vocabulary} tokens: leave one to decode")


def _check_latents(model: TextModel, where: str) -> None:
    if not isinstance(model, StackedTextVAE):
        raise ValueError(
            f"{type(model).__name__} has no latents for {where}: give a StackedTextVAE, or decode "
            "the language model with z=None"
        )


def _rows(model: TextModel, z: Tensor | None, rows: int | None) -> int:
    """How many sequences each member decodes."""
    if not isinstance(model, StackedTextVAE):
        if z is not None:
            raise ValueError(
                f"z of shape {tuple(z.shape)} was given to a language model, which has no latents: "
                "give z=None, and rows"
            )
        _at_least("rows", 1 if rows is None else rows, 1, "decoding")
        return 1 if rows is None else rows
    k, members = model.spec.latent_dim, (len(model.seeds), model.n_points)
    shape = f"({members[0]}, {members[1]}, rows, {k})"
    if z is None:
        raise ValueError(
            f"z=None is for a language model: give a text VAE latents of shape {shape}, from "
            "prior_latents for example"
        )
    if rows is not None:
        raise ValueError(f"rows={rows} is for a language model: z of a text VAE has its own rows")
    if z.ndim != 4 or z.shape[:2] != members or z.shape[3] != k or z.shape[2] < 1:
        raise ValueError(
            f"z has shape {tuple(z.shape)} and must have {shape}, rows at least 1, in decoding: "
            "n_seeds, n_points, rows and latent_dim of the model"
        )
    return z.shape[2]
