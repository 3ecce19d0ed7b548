"""LSTM encoders and decoders for stacks of VAEs of token sequences, and their language model.

    q(z|y) = N(mean, variance) from the last state of an LSTM over y
    p(y|z) = prod_t p(y_t | y_<t, z), an LSTM that sees z beside every token

Sizes, initial values and dropout as in He et al. (ICLR 2019). Every sequence begins with a start
token, which is given: its probability is no part of p(y|z). Tokens are integers of shape
(n_seeds, batch, T), shared by all points of a seed; activations (n_seeds, n_points, T, batch,
features), since a recurrence reads one step of all sequences at a time. Batches are meant to come
from buckets of equal length; where they do not, `PADDING` fills the end of the shorter sequences
and changes nothing: no later state is read, no padded token scored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from linvae.data import PADDING
from linvae.models.chain import alone
from linvae.models.layers import StackedLinear, StackShape, by_point, evaluating
from linvae.models.reconstruction import ReEncoder, aside
from linvae.objectives import GaussianLevel, Terms, gaussian_rate_per_unit
from linvae.spec import VAESpec

if TYPE_CHECKING:
    from typing import Self

# grad * (1 - y^2) and grad * y (1 - y) from outputs y, one kernel each
tanh_backward = torch.ops.aten.tanh_backward
sigmoid_backward = torch.ops.aten.sigmoid_backward

__all__ = [
    "PADDING",
    "PUBLISHED",
    "PUBLISHED_LATENT_DIM",
    "SMALL",
    "TOY_LATENT_DIM",
    "SequenceDecoder",
    "SequenceEncoder",
    "SequenceSizes",
    "StackedDropout",
    "StackedEmbedding",
    "StackedLSTM",
    "StackedLanguageModel",
    "StackedTextVAE",
    "pad",
]

WEIGHT_BOUND, EMBEDDING_BOUND = 0.01, 0.1  # initial values are uniform between -bound and bound
LONGEST = 200  # tokens of a published sequence
LOGITS_AT_ONCE = 2**22  # entries of all members, 16 MiB: larger tensors are slower on a CPU
LOGITS_KEPT = 2**28  # entries, 1 GiB: above, they are computed again for the gradient


@dataclass(frozen=True)
class SequenceSizes:
    """Sizes of the networks of a sequence model: encoder and decoder have the same.

    | field     | meaning                                                  |
    |-----------|----------------------------------------------------------|
    | embedding | dimensions of a token's embedding                        |
    | hidden    | units of the one LSTM layer                              |
    | dropout   | rate on the decoder's embeddings and on its LSTM outputs |
    """

    embedding: int
    hidden: int
    dropout: float = 0.5

    def __post_init__(self) -> None:
        """Refuse impossible sizes."""
        for name in ("embedding", "hidden"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} must be an integer >= 1 in SequenceSizes")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout!r} must be in [0, 1) in SequenceSizes")


PUBLISHED, PUBLISHED_LATENT_DIM = SequenceSizes(embedding=512, hidden=1024), 32  # Yahoo and Yelp
SMALL, TOY_LATENT_DIM = SequenceSizes(embedding=50, hidden=50), 1  # the published toy


class UniformLinear(StackedLinear):
    """A `StackedLinear` whose initial values, bias included, are uniform within WEIGHT_BOUND."""

    def __init__(self, stack: StackShape, d_in: int, d_out: int, *, bias: bool = False) -> None:
        nn.Module.__init__(self)
        self.weight = stack.uniform(d_out, d_in, bound=WEIGHT_BOUND)
        self.bias = stack.uniform(d_out, bound=WEIGHT_BOUND) if bias else None


class StackedEmbedding(nn.Module):
    """A table of `vocabulary` vectors for every member, (n_seeds, n_points, vocabulary, dim)."""

    def __init__(self, stack: StackShape, vocabulary: int, dim: int) -> None:
        super().__init__()
        self.weight = stack.uniform(vocabulary, dim, bound=EMBEDDING_BOUND)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n_seeds, batch, T) -> (n_seeds, n_points, T, batch, dim); padding gets a token's vector.

        Tokens may have an axis of points, (n_seeds, n_points, batch, T), as everywhere here; those
        of one seed are those of all. Raises ValueError for what is no token of the vocabulary.
        """
        seeds, _, vocabulary, _ = self.weight.shape
        _check_tokens(tokens, seeds, vocabulary)
        return self.of_members(by_point(tokens).mT)

    def expected(self, probabilities: Tensor) -> Tensor:
        """Mean vector under probabilities of tokens, (n_seeds, n_points, T, batch, vocabulary)."""
        mean = probabilities.flatten(2, 3) @ self.weight
        return mean.view(*probabilities.shape[:4], -1)

    def of_members(self, tokens: Tensor) -> Tensor:
        """The same of (n_seeds, n_points or 1, T, batch), where members may differ; unchecked."""
        seeds, points, vocabulary, _ = self.weight.shape
        members = torch.arange(seeds * points, device=tokens.device).view(seeds, points, 1, 1)
        rows = tokens.clamp(min=0) + members * vocabulary
        return functional.embedding(rows, self.weight.flatten(0, 2))


class StackedLSTM(nn.Module):
    """One LSTM layer: (g, i, f, o) = W x_t + V s + U h_{t-1} + b,

        c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g)    h_t = sigmoid(o) tanh(c_t)

    x_t: the inputs of a step; s: `d_shared` inputs that are the same at every step, whose product
    is computed once. Rows of the weights are in the order g, i, f, o (torch's is i, f, g, o), and b
    is one vector (torch has two, of which only the sum matters).
    """

    def __init__(self, stack: StackShape, d_in: int, hidden: int, *, d_shared: int = 0) -> None:
        super().__init__()
        self.from_input = UniformLinear(stack, d_in, 4 * hidden, bias=True)
        self.from_shared = UniformLinear(stack, d_shared, 4 * hidden) if d_shared else None
        self.weight = stack.uniform(4 * hidden, hidden, bound=WEIGHT_BOUND)

    def forward(
        self,
        x: Tensor,
        shared: Tensor | None = None,
        state: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """All h_t, (n_seeds, n_points, T, rows, hidden), and the last c, without the T.

        `x` (n_seeds, n_points or 1, T, batch, d_in); `shared` (n_seeds, n_points, rows, d_shared)
        with rows a multiple of batch: several draws of every sequence, one after the other;
        `state`: h_0 and c_0, (n_seeds, n_points, rows, hidden), zero where None.
        """
        seeds, points, _, hidden = self.weight.shape
        steps, batch = x.shape[2:4]
        gates = self.from_input(x.flatten(2, 3)).view(seeds, points, steps, 1, batch, -1)
        if self.from_shared is not None and shared is not None:
            gates = gates + self.from_shared(shared).view(seeds, points, 1, -1, batch, 4 * hidden)
        gates = gates.reshape(seeds * points, steps, -1, 4 * hidden)
        if state is None:
            h = c = gates.new_zeros(seeds * points, gates.shape[2], hidden)
        else:
            h, c = (part.flatten(0, 1) for part in state)
        states, last = recurrence(gates, self.weight.flatten(0, 1), h, c)
        shape = seeds, points
        return states.view(*shape, *states.shape[1:]), last.view(*shape, *last.shape[1:])


class _Recurrence(torch.autograd.Function):
    """The steps of an LSTM, one batched product each, with its backward pass written out.

    Recorded operation by operation, a step would cost about 40 small kernels; here it is 20. What a
    step reads often lies together, time first; the rest lies as the layers around it have it.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, h: Tensor, c: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`inputs` (members, T, rows, 4 hidden) -> (members, T, rows, hidden), last cell."""
        members, steps, rows, width = inputs.shape
        hidden = width // 4
        gates = inputs.new_empty(steps, members, rows, width)
        cells = inputs.new_empty(steps + 1, members, rows, hidden)
        tanh_cells = torch.empty_like(cells[1:])
        states = inputs.new_empty(members, steps + 1, rows, hidden)
        states[:, 0], cells[0] = h, c
        transposed = weight.mT.contiguous()
        sigmoids = gates[..., hidden:].unbind(0)
        for t, (g, i, f, o) in enumerate(_by_step(gates, 0)):
            torch.bmm(h, transposed, out=gates[t]).add_(inputs[:, t])
            g.tanh_()
            sigmoids[t].sigmoid_()
            torch.mul(f, cells[t], out=cells[t + 1]).addcmul_(i, g)
            torch.tanh(cells[t + 1], out=tanh_cells[t])
            h = torch.mul(o, tanh_cells[t], out=states[:, t + 1])
        ctx.save_for_backward(gates, cells, tanh_cells, states, weight)
        return states[:, 1:], cells[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Gradients of inputs, weight, h_0 and c_0 from those of all h_t and the last c."""
        gates, cells, tanh_cells, states, weight = ctx.saved_tensors
        hidden = cells.shape[-1]
        d_states, d_cell = grads[0], grads[1].clone()
        d_state = torch.zeros_like(d_cell)
        d_inputs = gates.new_empty(gates.transpose(0, 1).shape)
        d_parts, sigmoids = _by_step(d_inputs, 1), gates[..., hidden:]
        for t, (g, i, f, o) in reversed(list(enumerate(_by_step(gates, 0)))):
            d_g, d_i, d_f, d_o = d_parts[t]
            d_state += d_states[:, t]
            torch.mul(d_state, tanh_cells[t], out=d_o)
            d_cell += tanh_backward(d_state * o, tanh_cells[t])
            torch.mul(d_cell, g, out=d_i)
            torch.mul(d_cell, cells[t], out=d_f)
            tanh_backward(d_cell * i, g, grad_input=d_g)
            d_sigmoids = d_inputs[:, t, :, hidden:]
            sigmoid_backward(d_sigmoids, sigmoids[t], grad_input=d_sigmoids)
            d_cell *= f
            torch.bmm(d_inputs[:, t], weight, out=d_state)
        d_weight = d_inputs.flatten(1, 2).mT @ states[:, :-1].flatten(1, 2)
        return d_inputs, d_weight, d_state, d_cell


recurrence: Callable[..., tuple[Tensor, Tensor]] = _Recurrence.apply


def _by_step(gates: Tensor, time: int) -> list[tuple[Tensor, ...]]:
    """Views of g, i, f and o at every step; `time` is the axis of steps."""
    parts = (part.unbind(time) for part in gates.chunk(4, dim=-1))
    return list(zip(*parts, strict=True))


class StackedDropout(nn.Module):
    """Dropout whose masks depend on seed, `purpose` and number of the call, and on nothing else.

    All points of a seed have the same mask, as they have the same batches and noise, so that a
    member's result does not depend on what else is in the stack. The number of the call is a
    buffer: training that goes on from a `state_dict` draws what it would have drawn.
    """

    calls: Tensor

    def __init__(self, stack: StackShape, rate: float, purpose: str) -> None:
        super().__init__()
        self.seeds, self.rate, self.purpose = stack.seeds, rate, purpose
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor, batch: int) -> Tensor:
        """In training a share `rate` of x becomes 0 and the rest grows by 1/(1 - rate).

        x (n_seeds, n_points, T, rows, features), rows a multiple of `batch`: all draws of a
        sequence have its mask.
        """
        if not self.training or self.rate == 0:
            return x
        call = int(self.calls)
        self.calls += 1
        by_draw = x.view(*x.shape[:3], -1, batch, x.shape[4])
        shape = (x.shape[2], 1, batch, x.shape[4])
        masks = torch.stack([self._mask(seed, call, shape, x) for seed in self.seeds])
        return (by_draw * masks[:, None]).flatten(3, 4)

    def _mask(self, seed: int, call: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
        entropy = np.random.SeedSequence([seed, call, *self.purpose.encode()])
        generator = torch.Generator(like.device).manual_seed(int(entropy.generate_state(1)[0]))
        kept = torch.rand(shape, generator=generator, device=like.device) >= self.rate
        return kept.to(like.dtype) / (1 - self.rate)


class SequenceEncoder(nn.Module):
    """q(z|y): embeddings -> LSTM -> its last state -> bias-free map to mean and log variance."""

    def __init__(
        self, stack: StackShape, vocabulary: int, latent_dim: int, sizes: SequenceSizes
    ) -> None:
        super().__init__()
        self.embedding = StackedEmbedding(stack, vocabulary, sizes.embedding)
        self.lstm = StackedLSTM(stack, sizes.embedding, sizes.hidden)
        self.outer = UniformLinear(stack, sizes.hidden, 2 * latent_dim)

    def forward(self, tokens: Tensor, expected: Tensor | None = None) -> GaussianLevel:
        """q(z|y) of `tokens` (n_seeds, batch, T); the last state is the one before any padding.

        `expected`: probabilities of all tokens but the first, (n_seeds, n_points, T - 1, batch,
        vocabulary), whose mean embeddings are read in place of theirs.
        """
        embedded = self.embedding(tokens if expected is None else tokens[..., :1])
        if expected is not None:
            embedded = torch.cat([embedded, self.embedding.expected(expected)], dim=2)
        states, _ = self.lstm(embedded)
        last = (by_point(tokens) != PADDING).sum(-1) - 1
        index = last[:, :, None, :, None].expand(*states.shape[:2], 1, *states.shape[3:])
        mean, log_variance = self.outer(states.gather(2, index)[:, :, 0]).chunk(2, dim=-1)
        return GaussianLevel(mean, log_variance)


class SequenceDecoder(nn.Module):
    """p(y|z): an LSTM over (embedding of y_{t-1}, z), with c_0 = C z and h_0 = tanh(c_0).

    C and the output layer have no biases. Dropout on embeddings and outputs, the same for all draws
    of a sequence. `latent_dim=0`: the LSTM language model p(y), with h_0 = c_0 = 0.
    """

    def __init__(
        self, stack: StackShape, vocabulary: int, latent_dim: int, sizes: SequenceSizes
    ) -> None:
        super().__init__()
        self.embedding = StackedEmbedding(stack, vocabulary, sizes.embedding)
        self.lstm = StackedLSTM(stack, sizes.embedding, sizes.hidden, d_shared=latent_dim)
        self.first_cell = UniformLinear(stack, latent_dim, sizes.hidden) if latent_dim else None
        self.outer = UniformLinear(stack, sizes.hidden, vocabulary)
        self.dropout_in = StackedDropout(stack, sizes.dropout, "embeddings")
        self.dropout_out = StackedDropout(stack, sizes.dropout, "outputs")

    def logits(self, z: Tensor | None, tokens: Tensor) -> Tensor:
        """Of the token after each of `tokens`, (n_seeds, n_points, T, rows, vocabulary).

        `z` (n_seeds, n_points, rows, latent_dim), None for the language model; `tokens`
        (n_seeds, batch, T) with rows a multiple of batch, several draws one after the other.
        """
        states = self._states(z, tokens)
        scores: Tensor = self.outer(states.flatten(2, 3))
        return scores.view(*states.shape[:4], -1)

    def step(
        self, z: Tensor | None, tokens: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Logits of the token after `tokens`, (n_seeds, n_points, rows, vocabulary), and the state.

        `tokens` (n_seeds, n_points, rows): one of every row, unchecked; `z` as in `logits`;
        `state`: what the step before returned, None at the first. T steps give `logits` of the T
        tokens, always without dropout.
        """
        initial = self._initial(z) if state is None else state
        states, c = self.lstm(self.embedding.of_members(tokens[:, :, None]), z, initial)
        h = states[:, :, 0]
        return self.outer(h), (h, c)

    def cross_entropy(self, z: Tensor | None, tokens: Tensor) -> Tensor:
        """-log p(y_2 ... y_T | y_1, z) in nats, teacher forced, (n_seeds, n_points, rows).

        Arguments as in `logits`. Beyond `LOGITS_KEPT` entries the scores are computed once more for
        the gradient instead of being kept.
        """
        states = self._states(z, tokens[..., :-1])
        seeds, points, steps, rows, _ = states.shape
        following = by_point(tokens)[..., 1:].mT
        following = following.repeat(1, 1, 1, rows // tokens.shape[-2]).flatten(2)
        vocabularies = seeds * points * self.outer.weight.shape[2]  # entries of one row
        size = max(1, LOGITS_AT_ONCE // vocabularies)
        parts = zip(
            torch.split(states.flatten(2, 3), size, dim=2),
            torch.split(following, size, dim=2),
            strict=True,
        )
        if vocabularies * steps * rows <= LOGITS_KEPT:
            nats = [self._nats(*part) for part in parts]
        else:
            nats = [checkpoint(self._nats, *part, use_reentrant=False) for part in parts]
        return torch.cat(nats, dim=2).view(seeds, points, steps, rows).sum(2)

    def _states(self, z: Tensor | None, tokens: Tensor) -> Tensor:
        """The LSTM's outputs after each of `tokens`, with dropout."""
        batch = tokens.shape[-2]
        initial = self._initial(z)
        states, _ = self.lstm(self.dropout_in(self.embedding(tokens), batch), z, initial)
        dropped: Tensor = self.dropout_out(states, batch)
        return dropped

    def _initial(self, z: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """h_0 = tanh(c_0) and c_0 = C z; None, which is zero, of the language model."""
        if self.first_cell is None:
            return None
        if z is None:
            raise ValueError("z=None is for a decoder with latent_dim=0, the language model")
        c = self.first_cell(z)
        return torch.tanh(c), c

    def _nats(self, states: Tensor, following: Tensor) -> Tensor:
        """-log p(following | states), 0 for padding, (n_seeds, n_points, rows)."""
        logits = self.outer(states)
        targets = following.expand(logits.shape[:-1])
        nats = functional.cross_entropy(
            logits.flatten(0, 2), targets.flatten(), ignore_index=PADDING, reduction="none"
        )
        return nats.view(targets.shape)


class _StackOfTexts(nn.Module):
    """What the stacks of this module are made with; `_build` makes their networks."""

    def __init__(
        self,
        spec: VAESpec,
        *,
        vocabulary: int,
        sizes: SequenceSizes = SMALL,
        seeds: Sequence[int] = (0,),
        n_points: int = 1,
    ) -> None:
        super().__init__()
        _check_spec(spec)
        stack = StackShape(seeds, n_points)
        self.spec, self.sizes, self.vocabulary = spec, sizes, vocabulary
        self.seeds, self.n_points = stack.seeds, n_points
        self._build(stack)

    @property
    def architecture(self) -> SequenceSizes:
        """Sizes of the networks."""
        return self.sizes

    @property
    def curvature(self) -> float:
        """1: learning rates of SGD are in units of the parameters themselves."""
        return 1.0

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Of the encoder; the others are the decoder's."""
        return []

    is_autoregressive = True

    def collapse_cost_nats(self) -> Tensor:
        """More than a collapsed model pays: `LONGEST` tokens, each as likely as any other."""
        return torch.tensor(LONGEST * math.log(self.vocabulary))

    def _build(self, stack: StackShape) -> None:
        raise NotImplementedError

    def member(self, seed_index: int, point: int) -> Self:
        """One member as a stack of one, in `eval()`, sharing its values: to be read, not trained.

        Raises IndexError for a member that there is not.
        """
        if not (0 <= seed_index < len(self.seeds) and 0 <= point < self.n_points):
            raise IndexError(
                f"member ({seed_index}, {point}) must be below ({len(self.seeds)}, "
                f"{self.n_points}), the seeds and points of this {type(self).__name__}"
            )
        own: Self = alone(self, seed_index, point)
        own.seeds, own.n_points = (self.seeds[seed_index],), 1
        return own.eval()


class StackedTextVAE(ReEncoder, _StackOfTexts):
    """`n_seeds` x `n_points` VAEs of token sequences; `linvae.train.train` trains them.

    The target of a batch is its tokens (n_seeds, batch, T), start token first; there is no
    condition. Distortion: E[-log p(y_2 ... y_T | y_1, z)], nats per sequence. `eval()` ends the
    dropout.

    `spec`: a `VAESpec` with `likelihood="multinomial"` and a learned encoder variance. Raises
    ValueError for any other. Source: He et al. (ICLR 2019).
    """

    def _build(self, stack: StackShape) -> None:
        sizes, k = self.sizes, self.spec.latent_dim
        self.encoder = SequenceEncoder(stack, self.vocabulary, k, sizes)
        self.decoder = SequenceDecoder(stack, self.vocabulary, k, sizes)

    def encoder_parameters(self) -> list[nn.Parameter]:
        """Of the encoder; the others are the decoder's."""
        return list(self.encoder.parameters())

    def re_encode(
        self, z: Tensor, target: Tensor, condition: Tensor | None, encoder_share: Tensor
    ) -> Tensor:
        """Mean of q(z|.) at what the decoder expects of every token, given z and those before it.

        A sentence that is drawn has no gradient; the decoder's probabilities of each next token,
        teacher forced, have one, and the encoder reads their mean embedding. So it sees what the
        true past says as well as what z says. Without dropout. Arguments as in
        `StackedVAE.re_encode`; all logits are kept.
        """
        _refuse_condition(condition)
        with evaluating(self.decoder):
            logits = self.decoder.logits(z, target[..., :-1])
        level: GaussianLevel = aside(
            self.encoder, target, torch.softmax(logits, dim=-1), share=encoder_share
        )
        return level.mean

    def forward_with_latents(
        self, target: Tensor, condition: Tensor | None, noise: Sequence[Tensor]
    ) -> tuple[Terms, list[Tensor]]:
        """Objective terms on one batch of tokens, and the sampled latents of the one level.

        `noise`: one standard normal (n_seeds, draws * batch, k), shared by all points.
        """
        levels, latents = self.sample_latents(target, condition, noise)
        distortion = -self.log_likelihood_per_sample(latents[0], target, condition).mean(-1)
        rates = self.rates_per_unit(levels, latents)[0].mean(-2)
        return Terms(distortion, (rates,), tuple(levels)), latents

    def sample_latents(
        self, target: Tensor, condition: Tensor | None, noise: Sequence[Tensor]
    ) -> tuple[list[GaussianLevel], list[Tensor]]:
        """q(z|y) and its latents; arguments as in `forward_with_latents`."""
        level = self.posterior(target, condition).repeat(noise[0].shape[1] // target.shape[-2])
        return [level], [level.sample(noise[0][:, None])]

    def posterior(self, target: Tensor, condition: Tensor | None) -> GaussianLevel:
        """q(z|y) of one batch of tokens."""
        _refuse_condition(condition)
        level: GaussianLevel = self.encoder(target)
        return level

    def log_likelihood_per_sample(
        self, latent: Tensor, target: Tensor, condition: Tensor | None
    ) -> Tensor:
        """log p(y_2 ... y_T | y_1, z) in nats, (n_seeds, n_points, rows), for given z.

        `latent` (n_seeds, n_points, rows, k), rows a multiple of the batch.
        """
        _refuse_condition(condition)
        return -self.decoder.cross_entropy(latent, target)

    def rates_per_unit(
        self, levels: Sequence[GaussianLevel], latents: Sequence[Tensor]
    ) -> list[Tensor]:
        """Rate of every sequence and unit, nats: [(n_seeds, n_points, rows, k)]."""
        (q,) = levels
        square = q.mean.square() + torch.exp(q.log_variance)
        prior_variance = q.mean.new_tensor(self.spec.prior_variance)
        return [gaussian_rate_per_unit(q, square, prior_variance)]


class StackedLanguageModel(_StackOfTexts):
    """The decoder of `StackedTextVAE` without z: the LSTM language model of the same sizes.

    It trains in the same loop as a VAE that has collapsed for good: its level is the prior and its
    rate 0, whatever `spec` is. The noise is not used.
    """

    def _build(self, stack: StackShape) -> None:
        self.decoder = SequenceDecoder(stack, self.vocabulary, 0, self.sizes)

    def forward(self, target: Tensor, condition: Tensor | None, noise: Sequence[Tensor]) -> Terms:
        """Objective terms on one batch of tokens, as in `StackedTextVAE`; `noise` is not used."""
        _refuse_condition(condition)
        nats = self.decoder.cross_entropy(None, target)
        mean = nats.new_zeros(*nats.shape, self.spec.latent_dim)
        prior = GaussianLevel(mean, torch.full_like(mean, math.log(self.spec.prior_variance)))
        return Terms(nats.mean(-1), (torch.zeros_like(mean[..., 0, :]),), (prior,))

    def forward_with_latents(
        self, target: Tensor, condition: Tensor | None, noise: Sequence[Tensor]
    ) -> tuple[Terms, list[Tensor]]:
        """The same, and latents drawn from the prior."""
        terms = self(target, condition, noise)
        level = terms.levels[0].repeat(noise[0].shape[1] // target.shape[-2])
        return terms, [level.sample(noise[0][:, None])]


def pad(tokens: Tensor, lengths: Tensor) -> Tensor:
    """`tokens` (..., T) with everything after the first `lengths` (...) of them made `PADDING`."""
    steps = torch.arange(tokens.shape[-1], device=tokens.device)
    return tokens.masked_fill(steps >= lengths[..., None], PADDING)


def _check_spec(spec: VAESpec) -> None:
    """ValueError for what theory knows and no sequence model here trains."""
    if type(spec) is not VAESpec:
        raise ValueError(f"{type(spec).__name__} has no text VAE: use VAESpec")
    if spec.likelihood != "multinomial" or spec.penalised or spec.encoder_variance is not None:
        raise ValueError(
            f"likelihood={spec.likelihood!r}, encoder_variance={spec.encoder_variance}, "
            f"latent_reconstruction={spec.latent_reconstruction}, weight_decay="
            f"{spec.weight_decay}: a text VAE needs likelihood='multinomial', a learned encoder "
            "variance (None) and no penalty"
        )


def _refuse_condition(condition: Tensor | None) -> None:
    if condition is not None:
        raise ValueError("condition: a text VAE has none, train it on data without one")


def _check_tokens(tokens: Tensor, seeds: int, vocabulary: int) -> None:
    """ValueError unless these are sequences of tokens with padding at their ends only."""
    integers, allowed = tokens.dtype == torch.long, (1, seeds)
    shaped = tokens.ndim in (3, 4) and tokens.shape[0] in allowed and tokens.shape[-1] >= 1
    if not (integers and shaped):
        raise ValueError(
            f"tokens are {tokens.dtype} of shape {tuple(tokens.shape)}, but must be torch.int64 of "
            f"shape ({seeds}, batch, T), T >= 1 (a decoder needs one more: it is given the first)"
        )
    padded = tokens == PADDING
    wrong = (tokens < PADDING) | (tokens >= vocabulary)
    wrong[..., 0] |= padded[..., 0]
    wrong[..., 1:] |= padded[..., :-1] & ~padded[..., 1:]
    if bool(wrong.any()):
        raise ValueError(
            f"tokens: {int(tokens[wrong][0])} must be between 0 and {vocabulary - 1}, with padding "
            f"({PADDING}) at the end of a sequence only"
        )
