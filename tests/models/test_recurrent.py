"""Stacked LSTMs against torch's own, one member at a time, and the text VAE built of them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from linvae.models import recurrent
from linvae.models.layers import StackShape
from linvae.models.recurrent import (
    PADDING,
    PUBLISHED,
    PUBLISHED_LATENT_DIM,
    SMALL,
    TOY_LATENT_DIM,
    SequenceDecoder,
    SequenceSizes,
    StackedDropout,
    StackedEmbedding,
    StackedLanguageModel,
    StackedLSTM,
    StackedTextVAE,
    pad,
)
from linvae.spec import CVAESpec, VAESpec
from linvae.train import ConstantBetas, TrainConfig, TrainingData, train

SPEC = VAESpec(2, beta=0.7, prior_variance=1.5, likelihood="multinomial")
TINY = SequenceSizes(embedding=3, hidden=4, dropout=0.5)
VOCABULARY, SEEDS, POINTS, BATCH, T, DRAWS = 6, (3, 8), 2, 5, 7, 2
MEMBERS = list(itertools.product(range(len(SEEDS)), range(POINTS)))
# float64, sums of at most a few hundred terms of order 1
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def enlarged(module: nn.Module) -> nn.Module:
    """In float64, every member with weights of its own and so large that all gates are at work."""
    module = module.double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(0.7 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return module


def sequences(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCABULARY, (len(SEEDS), BATCH, T), generator=generator)


def normal(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def torch_lstm(lstm: StackedLSTM, s: int, p: int) -> tuple[nn.LSTM, list[Tensor]]:
    """torch.nn.LSTM of one member, and that member's weights as leaves of their own."""
    parts = [lstm.from_input.weight, lstm.weight, lstm.from_input.bias]
    if lstm.from_shared is not None:
        parts.append(lstm.from_shared.weight)
    leaves = [part[s, p].detach().clone().requires_grad_() for part in parts]
    hidden = leaves[1].shape[1]
    g, i, f, o = torch.arange(4 * hidden).view(4, hidden)
    order = torch.cat([i, f, g, o])  # rows in torch's order
    from_input = torch.cat([leaves[0], *leaves[3:]], dim=1)[order]
    own = nn.LSTM(from_input.shape[1], hidden, dtype=torch.float64)
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        del own._parameters[name]
    own.weight_ih_l0, own.weight_hh_l0 = from_input, leaves[1][order]
    own.bias_ih_l0, own.bias_hh_l0 = leaves[2][order], torch.zeros_like(leaves[2])
    own._flat_weights = [getattr(own, name) for name in own._flat_weights_names]
    return own, leaves


@pytest.mark.parametrize("own_inputs", [False, True], ids=["shared-inputs", "own-inputs"])
@pytest.mark.parametrize("with_state", [False, True], ids=["plain", "state-and-constant-inputs"])
def test_lstm_is_torchs_for_every_member(own_inputs, with_state):
    """Outputs, last cell and all gradients, of the inputs too."""
    stack = StackShape(SEEDS, POINTS)
    lstm = enlarged(StackedLSTM(stack, 3, 4, d_shared=2 if with_state else 0))
    x = normal(2, POINTS if own_inputs else 1, T, BATCH, 3).requires_grad_()
    rows = BATCH * (DRAWS if with_state else 1)
    extra = [normal(2, POINTS, rows, k).requires_grad_() for k in (2, 4, 4)] if with_state else []
    states, last = lstm(x, extra[0], (extra[1], extra[2])) if with_state else lstm(x)
    a, b = normal(*states.shape), normal(*last.shape)
    ((states * a).sum() + (last * b).sum()).backward()
    gradient = torch.zeros_like(x)
    for s, p in MEMBERS:
        own, leaves = torch_lstm(lstm, s, p)
        inputs = x[s, p if own_inputs else 0].detach().clone().requires_grad_()
        given = [v[s, p].detach().clone().requires_grad_() for v in extra]
        if with_state:
            every_step = given[0].expand(T, -1, -1)
            both = torch.cat([inputs.repeat(1, DRAWS, 1), every_step], dim=-1)
            expected, (_, cell) = own(both, (given[1][None], given[2][None]))
        else:
            expected, (_, cell) = own(inputs)
        torch.testing.assert_close(states[s, p], expected, **EXACT)
        torch.testing.assert_close(last[s, p], cell[0], **EXACT)
        ((expected * a[s, p]).sum() + (cell[0] * b[s, p]).sum()).backward()
        gradient[s, p if own_inputs else 0] += inputs.grad
        parameters = [lstm.from_input.weight, lstm.weight, lstm.from_input.bias]
        parameters += [lstm.from_shared.weight, *extra] if with_state else []
        for mine, theirs in zip(parameters, leaves + given, strict=True):
            torch.testing.assert_close(mine.grad[s, p], theirs.grad, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(x.grad, gradient, rtol=1e-11, atol=1e-12)


def text_vae(sizes: SequenceSizes = TINY) -> StackedTextVAE:
    model = StackedTextVAE(SPEC, vocabulary=VOCABULARY, sizes=sizes, seeds=SEEDS, n_points=POINTS)
    return enlarged(model)


def masks_of(dropout: StackedDropout, shape: tuple[int, ...], call: int) -> Tensor:
    """What the layer multiplies by at its n-th call, (n_seeds, *shape)."""
    dropout.calls.fill_(call)
    ones = torch.ones(len(SEEDS), 1, *shape, dtype=torch.float64)
    return dropout(ones, shape[1])[:, 0]


def objective_alone(
    model: StackedTextVAE, s: int, p: int, tokens: Tensor, noise: Tensor, masks: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """The objective of one member, as one would write it for one VAE; and its weights."""
    enc, dec = model.encoder, model.decoder
    modules = [enc.embedding, enc.outer, dec.embedding, dec.first_cell, dec.outer]
    leaves = [m.weight[s, p].detach().clone().requires_grad_() for m in modules]
    enc_table, enc_out, dec_table, first_cell, dec_out = leaves
    encoder, enc_leaves = torch_lstm(enc.lstm, s, p)
    decoder, dec_leaves = torch_lstm(dec.lstm, s, p)
    _, (h, _) = encoder(functional.embedding(tokens.T, enc_table))
    mean, log_variance = (h[0] @ enc_out.T).chunk(2, dim=-1)
    total = torch.zeros((), dtype=torch.float64)
    for draw in noise.chunk(DRAWS):
        z = mean + torch.exp(log_variance / 2) * draw
        words = functional.embedding(tokens.T[:-1], dec_table) * masks[0]
        c = z @ first_cell.T
        inputs = torch.cat([words, z.expand(T - 1, -1, -1)], dim=-1)
        out, _ = decoder(inputs, (torch.tanh(c)[None], c[None]))
        log_p = torch.log_softmax((out * masks[1]) @ dec_out.T, dim=-1)
        picked = log_p.gather(-1, tokens.T[1:, :, None])
        total = total - picked.sum() / (DRAWS * BATCH)
    q = torch.distributions.Normal(mean, torch.exp(log_variance / 2))
    prior_std = torch.tensor(SPEC.prior_variance, dtype=torch.float64).sqrt()
    prior = torch.distributions.Normal(torch.zeros_like(prior_std), prior_std)
    rate = torch.distributions.kl_divergence(q, prior).sum() / BATCH
    return total + SPEC.beta * rate, leaves + enc_leaves + dec_leaves


def parameters_in_order(model: StackedTextVAE) -> list[Tensor]:
    enc, dec = model.encoder, model.decoder
    modules = [enc.embedding, enc.outer, dec.embedding, dec.first_cell, dec.outer]
    lstms = [
        [lstm.from_input.weight, lstm.weight, lstm.from_input.bias] for lstm in (enc.lstm, dec.lstm)
    ]
    return [m.weight for m in modules] + lstms[0] + lstms[1] + [dec.lstm.from_shared.weight]


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "computed-again"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "dropout"])
def test_objective_and_gradient_are_those_of_members_alone(training, kept, monkeypatch):
    """Also with the scores in parts of 3 rows, kept for the gradient or computed again."""
    monkeypatch.setattr(recurrent, "LOGITS_AT_ONCE", 3 * len(MEMBERS) * VOCABULARY)
    monkeypatch.setattr(recurrent, "LOGITS_KEPT", 10**6 if kept else 0)
    model = text_vae().train(training)
    tokens, noise = sequences(), normal(len(SEEDS), DRAWS * BATCH, 2)
    if training:
        shapes = [(T - 1, BATCH, width) for width in (TINY.embedding, TINY.hidden)]
        drops = (model.decoder.dropout_in, model.decoder.dropout_out)
        masks = [masks_of(d, shape, 9) for d, shape in zip(drops, shapes, strict=True)]
        for dropout in drops:
            dropout.calls.fill_(9)
    else:
        masks = [torch.ones(len(SEEDS), 1, 1, 1, dtype=torch.float64)] * 2
    found = model(tokens, None, [noise]).objective(torch.tensor([SPEC.beta], dtype=torch.float64))
    found.sum().backward()
    assert len(parameters_in_order(model)) == len(list(model.parameters()))
    for s, p in MEMBERS:
        own_masks = [m[s] for m in masks]
        expected, leaves = objective_alone(model, s, p, tokens[s], noise[s], own_masks)
        torch.testing.assert_close(found[s, p], expected, **EXACT)
        expected.backward()
        for mine, theirs in zip(parameters_in_order(model), leaves, strict=True):
            torch.testing.assert_close(mine.grad[s, p], theirs.grad, rtol=1e-10, atol=1e-12)


def test_padding_changes_nothing():
    """A sequence padded to any length has the mean, rate, cross entropy and gradient of itself."""
    model = text_vae().eval()
    tokens = sequences()
    lengths = torch.tensor([[7, 2, 4, 6, 3], [3, 5, 7, 2, 2]])
    padded = pad(tokens, lengths)
    assert torch.equal((padded != PADDING).sum(-1), lengths)
    noise = normal(len(SEEDS), BATCH, 2)
    level = model.encoder(padded)
    z = level.sample(noise[:, None])
    nats = model.decoder.cross_entropy(z, padded)
    weights = normal(*nats.shape)
    gradients = torch.autograd.grad(
        (nats * weights).sum() + level.mean.sum(), list(model.parameters())
    )
    sums = [torch.zeros_like(p) for p in model.parameters()]
    for s, b in itertools.product(range(len(SEEDS)), range(BATCH)):
        # every seed gets the sequence, one of them is looked at
        alone = tokens[s, b, : lengths[s, b]].expand(len(SEEDS), 1, -1)
        q = model.encoder(alone)
        own = model.decoder.cross_entropy(z[:, :, b : b + 1], alone)
        torch.testing.assert_close(q.mean[s, :, 0], level.mean[s, :, b], **EXACT)
        torch.testing.assert_close(q.log_variance[s, :, 0], level.log_variance[s, :, b], **EXACT)
        torch.testing.assert_close(own[s, :, 0], nats[s, :, b], **EXACT)
        own = model.decoder.cross_entropy(q.sample(noise[:, None, b : b + 1]), alone)
        total = (own[s, :, 0] * weights[s, :, b]).sum() + q.mean[s].sum()
        for have, more in zip(
            sums, torch.autograd.grad(total, list(model.parameters())), strict=True
        ):
            have += more
    for mine, theirs in zip(gradients, sums, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_padding_is_exact():
    """Bit for bit: more padding gives the same numbers, in float32 too."""
    model = StackedTextVAE(SPEC, vocabulary=VOCABULARY, sizes=TINY, seeds=SEEDS).eval()
    tokens = sequences()
    longer = torch.cat([tokens, torch.full_like(tokens, PADDING)], dim=-1)
    short, long = model.encoder(tokens), model.encoder(longer)
    assert torch.equal(short.mean, long.mean)
    assert torch.equal(short.log_variance, long.log_variance)


@pytest.mark.parametrize("latent_dim", [0, 2], ids=["language-model", "vae"])
def test_a_step_sees_no_later_token(latent_dim):
    """Scores up to step t are bit for bit the same whatever follows, and those after t are not."""
    stack = StackShape(SEEDS, POINTS)
    decoder = enlarged(SequenceDecoder(stack, VOCABULARY, latent_dim, TINY)).eval()
    z = normal(len(SEEDS), POINTS, BATCH, latent_dim) if latent_dim else None
    tokens = sequences()
    before = decoder.logits(z, tokens)
    for t in range(T):
        changed = tokens.clone()
        changed[..., t] = (changed[..., t] + 1) % VOCABULARY
        after = decoder.logits(z, changed)
        assert torch.equal(before[:, :, :t], after[:, :, :t])
        assert not torch.isclose(before[:, :, t], after[:, :, t]).all(-1).any()


def test_scores_and_cross_entropy_agree():
    model = text_vae().eval()
    tokens, z = sequences(), normal(len(SEEDS), POINTS, BATCH, 2)
    log_p = torch.log_softmax(model.decoder.logits(z, tokens), dim=-1)
    index = tokens.mT[:, None, 1:, :, None].expand(-1, POINTS, -1, -1, 1)
    expected = -log_p[:, :, :-1].gather(-1, index)[..., 0].sum(2)
    torch.testing.assert_close(model.decoder.cross_entropy(z, tokens), expected, **EXACT)


def test_untrained_decoder_is_almost_uniform():
    """With weights of 0.01, log p(y|z) is (T - 1) log(1/V) up to their size, start token free."""
    model = StackedTextVAE(SPEC, vocabulary=VOCABULARY, seeds=SEEDS, n_points=POINTS)
    terms = model(sequences(), None, [torch.randn(len(SEEDS), BATCH, 2)])
    expected = torch.full((len(SEEDS), POINTS), (T - 1) * math.log(VOCABULARY))
    # 50 outputs below 0.01 with dropout's factor 2, times weights below 0.01: scores below 0.01
    torch.testing.assert_close(terms.distortion, expected, rtol=0, atol=2 * (T - 1) * 0.01)


PARAMETERS = {
    # embeddings + LSTM (4 gates, inputs + states + bias) + bias-free maps
    "published": (
        PUBLISHED,
        PUBLISHED_LATENT_DIM,
        20_000,
        (20_000 * 512 + 4 * 1024 * (512 + 1024 + 1) + 1024 * 64)
        + (20_000 * 512 + 4 * 1024 * (512 + 32 + 1024 + 1) + 32 * 1024 + 1024 * 20_000),
    ),
    "toy": (
        SMALL,
        TOY_LATENT_DIM,
        1_000,
        (1_000 * 50 + 4 * 50 * (50 + 50 + 1) + 50 * 2)
        + (1_000 * 50 + 4 * 50 * (50 + 1 + 50 + 1) + 1 * 50 + 50 * 1_000),
    ),
}


@pytest.mark.parametrize("case", PARAMETERS.values(), ids=PARAMETERS.keys())
def test_number_of_parameters(case, monkeypatch):
    sizes, latent_dim, vocabulary, expected = case
    shapes: list[int] = []
    monkeypatch.setattr(  # count without 400 MB of values
        StackShape, "uniform", lambda self, *shape, bound: shapes.append(math.prod(shape))
    )
    StackedTextVAE(
        VAESpec(latent_dim, likelihood="multinomial"), vocabulary=vocabulary, sizes=sizes
    )
    assert sum(shapes) == expected
    assert sizes.dropout == 0.5


def test_initial_values():
    """Uniform within 0.01, embeddings 0.1: bounds, and variances of bound^2 / 3."""
    model = StackedTextVAE(SPEC, vocabulary=500, seeds=(0,))
    for name, values in model.named_parameters():
        bound = 0.1 if "embedding" in name else 0.01
        values = values.detach()
        assert float(values.abs().max()) <= bound, name
        n = values.numel()
        # a uniform's square has variance 4/45 bound^4: 4 standard errors of the mean square
        error = 4 * math.sqrt(4 / 45 / n) * bound**2
        assert abs(float(values.square().mean()) - bound**2 / 3) < error, name
        assert float(values.std()) > 0, name


def test_initial_values_depend_on_the_seed_only():
    alone = StackedTextVAE(SPEC, vocabulary=VOCABULARY, sizes=TINY, seeds=(8,))
    among = dict(_stack().named_parameters())
    for name, values in alone.named_parameters():
        assert torch.equal(values[0, 0], among[name][1, 1]), name
        assert not torch.equal(values[0, 0], among[name][0, 1]), name


def _stack() -> StackedTextVAE:
    return StackedTextVAE(SPEC, vocabulary=VOCABULARY, sizes=TINY, seeds=SEEDS, n_points=POINTS)


def test_dropout_masks():
    """Zeros in a share `rate`, mean kept, shared by points and draws, new with seed and call."""
    rate, shape = 0.3, (T, BATCH, 400)
    drop = StackedDropout(StackShape(SEEDS, POINTS), rate, "inputs")
    x = torch.ones(len(SEEDS), POINTS, T, DRAWS * BATCH, 400)
    first, second = drop(x, BATCH), drop(x, BATCH)
    entries = math.prod(shape)
    error = 4 * math.sqrt(rate * (1 - rate) / entries)  # of a share of independent entries
    for values in (first, second):
        assert abs(float((values[0, 0, :, :BATCH] == 0).double().mean()) - rate) < error
        kept = values[values != 0]
        torch.testing.assert_close(kept, torch.full_like(kept, 1 / (1 - rate)))
        assert torch.equal(values[:, 0], values[:, 1])
        assert torch.equal(values[..., :BATCH, :], values[..., BATCH:, :])
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])
    other = StackedDropout(StackShape(SEEDS, POINTS), rate, "outputs")
    assert not torch.equal(first, other(x, BATCH))
    alone = StackedDropout(StackShape(SEEDS[1:], 1), rate, "inputs")
    assert torch.equal(alone(x[1:, :1], BATCH)[0, 0], first[1, 1])
    assert drop.eval()(x, BATCH) is x


def test_dropout_goes_on_from_a_state_dict():
    first, resumed = _stack(), _stack()
    tokens, noise = sequences(), [torch.randn(len(SEEDS), BATCH, 2)]
    first(tokens, None, noise)
    resumed.load_state_dict(first.state_dict())
    later = [model(tokens, None, noise).distortion for model in (first, resumed)]
    assert torch.equal(*later)
    assert not torch.equal(later[0], _stack()(tokens, None, noise).distortion)


def corpus(n: int = 60) -> TrainingData:
    generator = torch.Generator().manual_seed(5)
    tokens = torch.randint(1, VOCABULARY, (n, T), generator=generator)
    tokens[:, 0] = 0
    return TrainingData(tokens, None)


def trained(seeds: tuple[int, ...], factors: list[float], steps: int) -> StackedTextVAE:
    model = StackedTextVAE(
        SPEC, vocabulary=VOCABULARY, sizes=TINY, seeds=seeds, n_points=len(factors)
    )
    betas = ConstantBetas(factors, SPEC.betas, torch.device("cpu"))
    config = TrainConfig(steps=steps, batch_size=8, learning_rate=1e-2, log_every=steps)
    train(model, corpus(), betas, config)
    return model


def test_stack_is_its_members_alone():
    """200 steps with dropout: one member alone gives what it gives in a stack, 1e-5 relative."""
    together, alone = trained(SEEDS, [0.5, 2.0], 200), trained(SEEDS[1:], [2.0], 200)
    among = dict(together.named_parameters())
    start = dict(_stack().named_parameters())
    for name, values in alone.named_parameters():
        mine, scale = among[name][1, 1].detach(), float(values.detach().abs().max())
        assert float((mine - values.detach()[0, 0]).abs().max()) < 1e-5 * scale, name
        assert not torch.allclose(mine, start[name][1, 1], rtol=0.1), name


def test_members_do_not_see_each_other():
    """The gradient of one member's terms is zero on all others."""
    model = _stack()
    terms = model(sequences(), None, [torch.randn(len(SEEDS), DRAWS * BATCH, 2)])
    (terms.distortion[1, 0] + terms.rates[1, 0].sum()).backward()
    for name, parameter in model.named_parameters():
        touched = parameter.grad.flatten(2).abs().sum(-1) > 0
        assert touched.tolist() == [[False, False], [True, False]], name


def test_latent_carries_the_topic_of_a_text():
    """Eight kinds of text in equal shares, each one word over and over: the entropy is log 8.

    By Gibbs' inequality no language model goes below that, nor does the distortion of a collapsed
    VAE, nor distortion + rate, a bound on -log p(y), at any beta. So an objective far below it,
    here with beta 0.1, means that z carries the word.
    """
    kinds, entropy = 8, math.log(8)
    words = torch.arange(1, kinds + 1)[:, None].expand(-1, 2)
    data = TrainingData(torch.cat([torch.zeros(kinds, 1, dtype=torch.long), words], 1), None)
    spec = VAESpec(2, beta=0.1, likelihood="multinomial")
    sizes = SequenceSizes(embedding=8, hidden=16, dropout=0.0)
    config = TrainConfig(steps=200, batch_size=kinds, learning_rate=2e-2, log_every=200)
    betas = ConstantBetas([1.0], spec.betas, torch.device("cpu"))
    noise = torch.randn(2, 100 * kinds, 2, generator=torch.Generator().manual_seed(0))
    found = []
    for kind in (StackedTextVAE, StackedLanguageModel):
        model = kind(spec, vocabulary=kinds + 1, sizes=sizes, seeds=(0, 1))
        train(model, data, betas, config)
        with torch.no_grad():
            found.append(model(data.target.expand(2, -1, -1), None, [noise]))
    vae, alone = found
    # every text once: no sampling error, only rounding; 0.05 is what training leaves
    assert bool((alone.distortion >= entropy - 1e-5).all())
    assert bool((alone.distortion < entropy + 0.05).all())
    assert alone.rates.abs().max() == 0
    assert bool((vae.objective(torch.tensor([0.1])) < entropy / 2).all())
    assert bool((vae.distortion + vae.rates[..., 0] > entropy).all())


ERRORS = {
    "token": ([[[0, 6]]], torch.long, r"tokens: 6 must be between 0 and 5"),
    "negative": ([[[0, -2]]], torch.long, r"tokens: -2 must be between 0 and 5"),
    "empty": ([[[-1, -1]]], torch.long, r"padding \(-1\) at the end of a sequence only"),
    "gap": ([[[0, -1, 2]]], torch.long, r"tokens: 2 must .* at the end of a sequence only"),
    "float": ([[[0, 1]]], torch.float, r"tokens are torch.float32 of shape \(1, 1, 2\), but must"),
    "shape": ([[0, 1]], torch.long, r"shape \(1, 2\), but must be torch.int64 .* \(1, batch, T\)"),
    "no-steps": ([[[]]], torch.long, r"shape \(1, 1, 0\), but must .* T >= 1"),
}


@pytest.mark.parametrize("case", ERRORS.values(), ids=ERRORS.keys())
def test_what_is_no_text_is_refused(case):
    values, dtype, message = case
    embedding = StackedEmbedding(StackShape((0,), 2), VOCABULARY, 3)
    with pytest.raises(ValueError, match=message):
        embedding(torch.tensor(values, dtype=dtype))


SPECS = {
    "gaussian": (VAESpec(1), "likelihood='gaussian'.*needs likelihood='multinomial'"),
    "fixed": (
        VAESpec(1, likelihood="multinomial", encoder_variance=0.5),
        "encoder_variance=0.5.* a learned encoder variance",
    ),
    "conditional": (CVAESpec(1), "CVAESpec has no text VAE: use VAESpec"),
}


@pytest.mark.parametrize("case", SPECS.values(), ids=SPECS.keys())
@pytest.mark.parametrize("kind", [StackedTextVAE, StackedLanguageModel])
def test_other_models_are_refused(kind, case):
    spec, message = case
    with pytest.raises(ValueError, match=message):
        kind(spec, vocabulary=VOCABULARY)


def test_conditions_are_refused():
    with pytest.raises(ValueError, match="condition: a text VAE has none"):
        _stack()(sequences(), torch.zeros(2, BATCH, 1), [torch.zeros(2, BATCH, 2)])


def test_a_latent_is_needed():
    with pytest.raises(ValueError, match="z=None is for a decoder with latent_dim=0"):
        _stack().decoder.cross_entropy(None, sequences())


SIZES = {
    "hidden": ((3, 0, 0.5), "hidden=0 must be an integer >= 1 in SequenceSizes"),
    "embedding": ((1.5, 3, 0.5), "embedding=1.5 must be an integer >= 1 in SequenceSizes"),
    "dropout": ((3, 3, 1.0), r"dropout=1.0 must be in \[0, 1\) in SequenceSizes"),
}


@pytest.mark.parametrize("case", SIZES.values(), ids=SIZES.keys())
def test_impossible_sizes(case):
    values, message = case
    with pytest.raises(ValueError, match=message):
        SequenceSizes(*values)
