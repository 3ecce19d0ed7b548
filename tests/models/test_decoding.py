"""Decoding against all sequences of a tiny vocabulary, and against plain slow searches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from linvae.models import decoding
from linvae.models.decoding import (
    Decoded,
    TextModel,
    beam,
    between,
    greedy,
    interpolate,
    prior_latents,
    reconstruct,
    sample,
)
from linvae.models.recurrent import (
    PADDING,
    SequenceSizes,
    StackedLanguageModel,
    StackedTextVAE,
)
from linvae.spec import VAESpec

from .test_recurrent import enlarged, normal

SPEC = VAESpec(2, prior_variance=1.5, likelihood="multinomial")
TINY = SequenceSizes(embedding=3, hidden=4)
SEEDS, POINTS, ROWS, VOCABULARY, LENGTH = (3, 8), 2, 5, 4, 4
MEMBERS = list(itertools.product(range(len(SEEDS)), range(POINTS)))
EXACT = {"rtol": 1e-12, "atol": 1e-12}  # float64, sums of a few terms of order 1
KINDS = ["vae", "language-model"]


def text_model(kind: str = "vae", vocabulary: int = VOCABULARY) -> TextModel:
    made = StackedTextVAE if kind == "vae" else StackedLanguageModel
    model = made(SPEC, vocabulary=vocabulary, sizes=TINY, seeds=SEEDS, n_points=POINTS)
    with torch.no_grad():
        enlarged(model).decoder.outer.weight.mul_(3)  # tokens of very different probabilities
    return model.eval()


def latents(model: TextModel, rows: int = ROWS) -> Tensor | None:
    return normal(len(SEEDS), POINTS, rows, 2) if isinstance(model, StackedTextVAE) else None


def rows_of(model: TextModel, rows: int = ROWS) -> dict[str, int]:
    return {} if isinstance(model, StackedTextVAE) else {"rows": rows}


def same(a: Decoded, b: Decoded) -> None:
    assert torch.equal(a.tokens, b.tokens)
    assert torch.equal(a.finished, b.finished)
    torch.testing.assert_close(a.log_probability, b.log_probability, **EXACT)


Prefix = tuple[int, ...]


def next_log_p(model: TextModel, z: Tensor | None, s: int, p: int, row: int):
    """log p(next | prefix) of one member and row by teacher forcing, a table by prefix."""
    prefixes = [q for t in range(LENGTH) for q in itertools.product(range(VOCABULARY), repeat=t)]
    table: dict[Prefix, np.ndarray] = {}
    for length, group in itertools.groupby(prefixes, len):
        some = list(group)
        tokens = torch.tensor([[0, *q] for q in some]).expand(len(SEEDS), -1, -1)
        own = None if z is None else z[:, :, row : row + 1].expand(-1, -1, len(some), -1)
        log_p = torch.log_softmax(model.decoder.logits(own, tokens), -1)[s, p, length]
        table |= dict(zip(some, log_p.detach().numpy(), strict=True))
    return table


def outcomes(table: dict[Prefix, np.ndarray], length: int = LENGTH) -> dict[Prefix, float]:
    """log p of every sequence that ends with token 1, or has `length` tokens and no 1."""
    found: dict[Prefix, float] = {}

    def walk(prefix: Prefix, log_p: float) -> None:
        if len(prefix) == length or (prefix and prefix[-1] == 1):
            found[prefix] = log_p
            return
        for token, more in enumerate(table[prefix]):
            if more > -math.inf:
                walk((*prefix, token), log_p + float(more))

    walk((), 0.0)
    return found


def words(decoded: Decoded, s: int, p: int, row: int) -> Prefix:
    return tuple(t for t in decoded.tokens[s, p, row].tolist() if t != PADDING)


# --- a step -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_the_teacher_forced_logits(kind):
    """Of every member, whose tokens may differ, several rows, and without dropout in training."""
    model = text_model(kind).train()
    z, generator = latents(model), torch.Generator().manual_seed(4)
    tokens = torch.randint(VOCABULARY, (len(SEEDS), POINTS, ROWS, 7), generator=generator)
    state, steps = None, []
    for t in range(tokens.shape[-1]):
        logits, state = model.decoder.step(z, tokens[..., t], state)
        steps.append(logits)
    stepped = torch.stack(steps, dim=2)
    model.eval()
    for p in range(POINTS):
        expected = model.decoder.logits(z, tokens[:, p])
        torch.testing.assert_close(stepped[:, p], expected[:, p], **EXACT)


def test_log_p_of_all_outcomes_sums_to_one():
    model = text_model()
    found = outcomes(next_log_p(model, latents(model), 1, 0, 2))
    assert len(found) == sum(3**t for t in range(LENGTH + 1))
    assert math.fsum(map(math.exp, found.values())) == pytest.approx(1, abs=1e-12)


# --- greedy, beam -------------------------------------------------------------------------------


@pytest.mark.parametrize("forbid", [(), (2, 0)], ids=["all", "forbidden"])
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_takes_the_best_token(kind, forbid):
    model = text_model(kind)
    z = latents(model)
    found = greedy(model, z, LENGTH, forbid=forbid, **rows_of(model))
    lengths = set()
    for (s, p), row in itertools.product(MEMBERS, range(ROWS)):
        table, expected = next_log_p(model, z, s, p, row), ()
        while len(expected) < LENGTH and 1 not in expected:
            log_p = table[expected].copy()
            log_p[list(forbid)] = -math.inf
            expected = (*expected, int(log_p.argmax()))
        assert words(found, s, p, row) == expected
        assert bool(found.finished[s, p, row]) == (1 in expected)
        lengths.add(len(expected))
    assert found.tokens.shape[-1] == max(lengths)
    assert kind != "vae" or len(lengths) > 1


DECODERS: dict[str, Callable[..., Decoded]] = {
    "greedy": greedy,
    "sample": partial(sample, temperature=1.3, top_k=3),
    "beam": partial(beam, width=3, length_penalty=0.5),
}


@pytest.mark.parametrize("decode", DECODERS.values(), ids=DECODERS.keys())
@pytest.mark.parametrize("kind", KINDS)
def test_log_probability_is_the_cross_entropy_of_the_tokens(kind, decode):
    """Also under a temperature, truncation and forbidden tokens: it is the model's own."""
    model = text_model(kind, vocabulary=7)
    z = latents(model)
    found = decode(model, z, 12, forbid=(0, 2), **rows_of(model))
    assert bool(found.finished.any())
    assert not torch.isin(found.tokens, torch.tensor([0, 2])).any()
    ended = (found.tokens == 1).sum(-1)
    assert torch.equal(ended, found.finished.long())
    model.eval()
    for p in range(POINTS):
        tokens = torch.cat([torch.zeros_like(found.tokens[:, p, :, :1]), found.tokens[:, p]], -1)
        nats = model.decoder.cross_entropy(z, tokens)  # refuses padding that is not at the end
        torch.testing.assert_close(-nats[:, p], found.log_probability[:, p], **EXACT)


@pytest.mark.parametrize("forbid", [(), (2,)], ids=["all", "forbidden"])
@pytest.mark.parametrize("penalty", [0.0, 0.7, 2.0])
def test_widest_beam_finds_the_best_of_all_sequences(penalty, forbid):
    model = text_model()
    z = latents(model)
    width = VOCABULARY**LENGTH
    found = beam(model, z, LENGTH, width=width, length_penalty=penalty, forbid=forbid)
    lengths = set()
    for (s, p), row in itertools.product(MEMBERS, range(ROWS)):
        every = outcomes(next_log_p(model, z, s, p, row))
        every = {q: log_p for q, log_p in every.items() if not set(q) & set(forbid)}
        best = max(every, key=lambda q: every[q] / len(q) ** penalty)
        assert words(found, s, p, row) == best
        assert float(found.log_probability[s, p, row]) == pytest.approx(every[best], abs=1e-12)
        lengths.add(len(best))
    assert len(lengths) > 1
    if penalty == 0 and not forbid:  # the search is worth something
        assert (greedy(model, z, LENGTH).log_probability < found.log_probability - 1e-6).any()


def searched(table: dict[Prefix, np.ndarray], width: int, penalty: float) -> Prefix:
    """Beam search of one row, as one would write it, to the last step."""
    beams: list[tuple[Prefix, float]] = [((), 0.0)]
    for _ in range(LENGTH):
        longer = []
        for prefix, log_p in beams:
            if prefix and prefix[-1] == 1:
                longer.append((prefix, log_p))
            else:
                longer += [((*prefix, t), log_p + more) for t, more in enumerate(table[prefix])]
        beams = sorted(longer, key=lambda b: -b[1] / len(b[0]) ** penalty)[:width]
    return beams[0][0]


@pytest.mark.parametrize("width", [2, 3, 6])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_beam_is_a_plain_beam_search(width, penalty):
    """One that never stops early: stopping early changes no result."""
    model = text_model()
    z = latents(model)
    found = beam(model, z, LENGTH, width=width, length_penalty=penalty)
    for (s, p), row in itertools.product(MEMBERS, range(ROWS)):
        expected = searched(next_log_p(model, z, s, p, row), width, penalty)
        assert words(found, s, p, row) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_limits_that_are_greedy(kind):
    """A beam of one, a temperature towards 0, one token, or a share that the first token has."""
    model = text_model(kind, vocabulary=9)
    z, rows = latents(model), rows_of(model)
    expected = greedy(model, z, 10, **rows)
    same(beam(model, z, 10, width=1, **rows), expected)
    same(beam(model, z, 10, width=1, length_penalty=1.0, **rows), expected)
    for options in ({"temperature": 1e-4}, {"top_k": 1}, {"top_p": 1e-6}):
        same(sample(model, z, 10, **options, **rows), expected)


def test_decoding_stops_when_all_are_finished(monkeypatch):
    """A beam once no other can beat the best: after two where all tokens are equally probable."""
    model = text_model()
    with torch.no_grad():
        model.decoder.outer.weight.zero_()
    calls: list[int] = []
    step = model.decoder.step
    monkeypatch.setattr(
        model.decoder, "step", lambda *arguments: (calls.append(1), step(*arguments))[1]
    )
    found = sample(model, latents(model), 500)  # unfinished with a probability of 20 * 0.75^500
    assert bool(found.finished.all())
    assert len(calls) == found.tokens.shape[-1]
    assert int((found.tokens != PADDING).sum(-1).max()) == len(calls)
    calls.clear()
    found = beam(model, latents(model), 500, width=VOCABULARY)
    assert (found.tokens == 1).all()
    assert len(calls) == 2


# --- sampling -----------------------------------------------------------------------------------


def reshaped(
    log_p: np.ndarray, temperature: float, top_k: int | None, top_p: float | None, forbid: Prefix
) -> np.ndarray:
    """What `sample` says that it draws one token from, token by token."""
    p = np.exp(log_p) ** (1 / temperature)
    p[list(forbid)] = 0
    p /= p.sum()
    order = list(np.argsort(-p))
    kept = order[:top_k]
    if top_p is not None:
        n = 1
        while p[kept[:n]].sum() < top_p * p[kept].sum():
            n += 1
        kept = kept[:n]
    out = np.zeros_like(p)
    out[kept] = p[kept] / p[kept].sum()
    return out


SAMPLERS = {
    "plain": {},
    "hot": {"temperature": 2.0},
    "cold": {"temperature": 0.6, "forbid": (2,)},
    "top-k": {"top_k": 2, "temperature": 2.0},
    "top-p": {"top_p": 0.8, "temperature": 2.0},
    "both": {"top_k": 3, "top_p": 0.7, "temperature": 3.0, "forbid": (0,)},
}


@pytest.mark.parametrize("options", SAMPLERS.values(), ids=SAMPLERS.keys())
@pytest.mark.parametrize("kind", KINDS)
def test_sampled_frequencies(kind, options):
    """Of all outcomes, for every member: chi square within 5 standard deviations of its mean."""
    n, model = 4000, text_model(kind)
    one = latents(model, 1)
    z = None if one is None else one.expand(-1, -1, n, -1)
    found = sample(model, z, LENGTH, **options, **rows_of(model, n))
    settings = {"temperature": 1.0, "top_k": None, "top_p": None, "forbid": ()} | options
    for s, p in MEMBERS:
        table = next_log_p(model, one, s, p, 0)
        with np.errstate(divide="ignore"):
            table = {q: np.log(reshaped(log_p, **settings)) for q, log_p in table.items()}
        expected = {q: n * math.exp(log_p) for q, log_p in outcomes(table).items()}
        counts = dict.fromkeys(expected, 0)
        for row in range(n):
            counts[words(found, s, p, row)] += 1  # KeyError: of probability 0
        bins = [(counts[q], e) for q, e in expected.items() if e >= 5]
        rest = (n - sum(c for c, _ in bins), n - sum(e for _, e in bins))
        bins += [rest] if rest[1] >= 5 else []
        chi_square = sum((c - e) ** 2 / e for c, e in bins)
        freedom = len(bins) - 1
        assert freedom >= 1
        assert chi_square < freedom + 5 * math.sqrt(2 * freedom), (s, p, freedom)


def test_inversion_at_its_ends():
    """A uniform of 0 or almost 1 takes a token that has a probability."""
    probability = torch.tensor([0.0, 0.3, 0.0, 0.4, 0.0], dtype=torch.float64).expand(3, -1)
    uniform = torch.tensor([0.0, 3 / 7 + 1e-9, 1 - 2**-53], dtype=torch.float64)
    assert decoding._drawn(probability, uniform, None, None).tolist() == [1, 3, 3]


@pytest.mark.parametrize(
    ("top_k", "top_p", "expected"),
    [
        (None, 0.5, {0, 1}),
        (None, 0.39, {0}),
        (None, 0.41, {0, 1}),
        (2, None, {0, 1}),
        (2, 0.5, {0}),  # 4/7 of the two that are left
        (3, 0.72, {0, 1}),
        (9, 1.0, {0, 1, 2, 3}),
    ],
)
def test_truncation(top_k, top_p, expected):
    """Of probabilities 0.4, 0.3, 0.25, 0.05: what every uniform number together gives."""
    probability = torch.tensor([0.4, 0.3, 0.25, 0.05], dtype=torch.float64).expand(1000, -1)
    uniform = torch.arange(1000, dtype=torch.float64) / 1000
    assert set(decoding._drawn(probability, uniform, top_k, top_p).tolist()) == expected


def test_seeds_of_a_sample():
    model = text_model(vocabulary=9)
    z = latents(model)
    draws = [sample(model, z, 10, seed=seed).log_probability for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.isclose(draws[0], draws[2]).any(-1).all()


# --- members, latents ---------------------------------------------------------------------------


@pytest.mark.parametrize("decode", DECODERS.values(), ids=DECODERS.keys())
@pytest.mark.parametrize("kind", KINDS)
def test_member_decodes_as_it_does_alone(kind, decode):
    model = text_model(kind, vocabulary=9)
    z = latents(model)
    found = decode(model, z, 10, **rows_of(model))
    for s, p in MEMBERS:
        own = model.member(s, p)
        one = None if z is None else z[s, p][None, None]
        alone = decode(own, one, 10, **rows_of(model))
        shortest = alone.tokens.shape[-1]
        assert torch.equal(alone.tokens[0, 0], found.tokens[s, p, :, :shortest])
        assert (found.tokens[s, p, :, shortest:] == PADDING).all()
        torch.testing.assert_close(
            alone.log_probability[0, 0], found.log_probability[s, p], **EXACT
        )


def test_member_is_read_without_dropout():
    """A view of the stack's values that leaves the stack as it was."""
    model = text_model().train()
    own, tokens = model.member(1, 0), torch.zeros(1, 2, 3, dtype=torch.long)
    z = normal(1, 1, 2, 2)
    assert not any(module.training for module in own.modules())
    assert all(module.training for module in model.modules())
    assert torch.equal(own.decoder.logits(z, tokens), own.decoder.logits(z, tokens))
    with torch.no_grad():
        model.decoder.outer.weight.zero_()
    assert not own.decoder.outer.weight.any()
    assert (own.seeds, own.n_points, model.seeds) == ((SEEDS[1],), 1, SEEDS)


@pytest.mark.parametrize("seed", [None, 5], ids=["mean", "draw"])
def test_reconstruction_of_a_member_is_its_own(seed):
    model = text_model(vocabulary=9)
    tokens = torch.randint(9, (2, ROWS, 6), generator=torch.Generator().manual_seed(0))
    decode = partial(beam, max_length=6, width=2)
    found = reconstruct(model, tokens, decode, seed=seed)
    for s, p in MEMBERS:
        alone = reconstruct(model.member(s, p), tokens[s : s + 1], decode, seed=seed)
        torch.testing.assert_close(
            alone.log_probability[0, 0], found.log_probability[s, p], **EXACT
        )
    assert not torch.isclose(found.log_probability[:, 0], found.log_probability[:, 1]).any()


class Recorder:
    """A `Decode` that keeps the latents."""

    def __init__(self) -> None:
        self.z = torch.empty(0)

    def __call__(self, model: StackedTextVAE, z: Tensor) -> Decoded:
        self.z = z
        return greedy(model, z, 3)


def test_reconstruction_reads_the_posterior():
    """Its mean, or draws of mean and variance within 5 standard errors, shared by the points."""
    n, model, record = 4000, text_model(), Recorder()
    tokens = torch.tensor([[0, 3, 2, 1], [0, 2, 2, 1]])[:, None]
    level = model.encoder(tokens)
    reconstruct(model, tokens, record)
    torch.testing.assert_close(record.z, level.mean.detach(), **EXACT)
    reconstruct(model, tokens.expand(-1, n, -1), record, seed=1)
    noise = (record.z - level.mean) / torch.exp(level.log_variance / 2)
    torch.testing.assert_close(noise[:, 0], noise[:, 1], rtol=0, atol=1e-9)
    assert (noise.mean(2).abs() < 5 / math.sqrt(n)).all()
    assert ((noise.square().mean(2) - 1).abs() < 5 * math.sqrt(2 / n)).all()


def test_prior_latents():
    """Variance of the prior, within 5 standard errors; points share them, seeds do not."""
    n, model = 4000, text_model()
    z = prior_latents(model, n, seed=2)
    assert z.shape == (len(SEEDS), POINTS, n, 2)
    assert torch.equal(z[:, 0], z[:, 1])
    assert (z.mean(2).abs() < 5 * math.sqrt(SPEC.prior_variance / n)).all()
    assert ((z.square().mean(2) / SPEC.prior_variance - 1).abs() < 5 * math.sqrt(2 / n)).all()
    assert not torch.isclose(z[0], z[1]).any(1).all()
    assert not torch.isclose(z, prior_latents(model, n)).all(2).any()
    assert torch.equal(prior_latents(model.member(1, 1), n, seed=2)[0, 0], z[1, 1])


@pytest.mark.parametrize("spherical", [False, True])
def test_between(spherical):
    """Equal steps of the difference; or of angle and length, in the plane of a and b."""
    a, b = normal(6, 3), 2 * normal(7, 3)[1:] + 0.3
    z = between(a, b, 5, spherical=spherical)
    torch.testing.assert_close(z[:, 0], a, **EXACT)
    torch.testing.assert_close(z[:, -1], b, **EXACT)
    steps = z.diff(dim=1)
    if not spherical:
        torch.testing.assert_close(steps, ((b - a) / 4)[:, None].expand_as(steps), **EXACT)
        return
    lengths = z.norm(dim=-1)
    equal = ((lengths[:, -1] - lengths[:, 0]) / 4)[:, None].expand(-1, 4)
    torch.testing.assert_close(lengths.diff(dim=1), equal, **EXACT)
    units = z / lengths[..., None]
    angles = torch.acos((units[:, 1:] * units[:, :-1]).sum(-1))
    whole = torch.acos((units[:, -1] * units[:, 0]).sum(-1))
    torch.testing.assert_close(angles, (whole / 4)[:, None].expand_as(angles), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "b", [[0.0, 0.0], [4.0, 6.0], [-2.0, -3.0]], ids=["zero", "same-way", "opposite"]
)
def test_between_is_linear_where_there_is_no_angle(b):
    a, b = torch.tensor([[2.0, 3.0]]), torch.tensor([b])
    for pair in ((a, b), (b, a)):
        straight, turned = (between(*pair, 4, spherical=s) for s in (False, True))
        torch.testing.assert_close(straight, turned)


def test_interpolation_goes_from_one_reconstruction_to_the_other():
    """Step by step within a pair; its ends are the reconstructions."""
    model, record, steps = text_model(vocabulary=9), Recorder(), 5
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randint(9, (2, 2, ROWS, 6), generator=generator)
    decode = partial(greedy, max_length=6)
    interpolate(model, a, b, steps, record)
    means = model.encoder(a).mean, model.encoder(b).mean
    by_pair = record.z.unflatten(2, (ROWS, steps))
    for i in range(steps):
        t = i / (steps - 1)
        torch.testing.assert_close(by_pair[..., i, :], (1 - t) * means[0] + t * means[1], **EXACT)
    for spherical in (False, True):
        found = interpolate(model, a, b, steps, decode, spherical=spherical)
        log_p = found.log_probability.unflatten(2, (ROWS, steps))
        for end, tokens in ((0, a), (-1, b)):
            expected = reconstruct(model, tokens, decode).log_probability
            torch.testing.assert_close(log_p[..., end], expected, **EXACT)


# --- errors -------------------------------------------------------------------------------------

Z = (2, 2, 3, 2)
ERRORS = {
    "max-length": ("vae", Z, {"max_length": 0}, "max_length=0 must be an integer of at least 1"),
    "width": ("vae", Z, {"width": 0}, "width=0 must be an integer of at least 1 in beam"),
    "penalty": ("vae", Z, {"width": 1, "length_penalty": -0.5}, "length_penalty=-0.5 must be at"),
    "cold": ("vae", Z, {"temperature": 0.0}, "temperature=0.0 must be above 0 in sample: use"),
    "negative": ("vae", Z, {"temperature": -1.0}, "temperature=-1.0 must be above 0"),
    "top-k": ("vae", Z, {"top_k": 0}, "top_k=0 must be an integer of at least 1 in sample"),
    "top-p": ("vae", Z, {"top_p": 1.5}, "top_p=1.5 must be above 0 and at most 1 in sample"),
    "seed": ("vae", Z, {"seed": -1}, "seed=-1 must be an integer of at least 0"),
    "latents": ("vae", (2, 2, 3, 5), {}, r"z has shape \(2, 2, 3, 5\) and must have \(2, 2, rows"),
    "members": ("vae", (1, 2, 3, 2), {}, r"z has shape \(1, 2, 3, 2\) and must have \(2, 2, rows"),
    "axes": ("vae", (2, 2, 2), {}, r"z has shape \(2, 2, 2\) and must have \(2, 2, rows, 2\)"),
    "no-rows": ("vae", (2, 2, 0, 2), {}, "rows at least 1"),
    "no-z": ("vae", None, {}, "z=None is for a language model: give a text VAE latents of shape"),
    "rows-and-z": ("vae", Z, {"rows": 3}, "rows=3 is for a language model"),
    "z": ("language-model", Z, {}, "was given to a language model, which has no latents: give z="),
    "rows": ("language-model", None, {"rows": 0}, "rows=0 must be an integer of at least 1"),
    "forbid": ("vae", Z, {"forbid": (4,)}, "forbid: token 4 must be between 0 and 3"),
    "start": ("vae", Z, {"start": -1}, "start: token -1 must be between 0 and 3"),
    "end": ("vae", Z, {"end": 9}, "end: token 9 must be between 0 and 3"),
    "nothing-left": ("vae", Z, {"forbid": (0, 1, 2, 3)}, "forbid names all 4 tokens"),
}


@pytest.mark.parametrize("case", ERRORS.values(), ids=ERRORS.keys())
def test_errors(case):
    kind, shape, options, message = case
    z = None if shape is None else normal(*shape)
    sampling = {"temperature", "top_k", "top_p", "seed"} & options.keys()
    decode = sample if sampling else beam if "width" in options else greedy
    with pytest.raises(ValueError, match=message):
        decode(text_model(kind), z, **{"max_length": 3} | options)


def test_errors_of_latents():
    model, language = text_model(), text_model("language-model")
    tokens = torch.tensor([[[0, 2, 1]], [[0, 3, 1]]])
    decode = partial(greedy, max_length=3)
    for call in (
        lambda: reconstruct(language, tokens, decode),
        lambda: interpolate(language, tokens, tokens, 3, decode),
        lambda: prior_latents(language, 3),
    ):
        with pytest.raises(ValueError, match="StackedLanguageModel has no latents for"):
            call()
    with pytest.raises(ValueError, match="a_tokens has 1 sequences and b_tokens 2"):
        interpolate(model, tokens, tokens.repeat(1, 2, 1), 3, decode)
    with pytest.raises(ValueError, match="steps=1 must be an integer of at least 2"):
        interpolate(model, tokens, tokens, 1, decode)
    with pytest.raises(IndexError, match=r"member \(2, 0\) must be below \(2, 2\)"):
        model.member(2, 0)
