"""The latent reconstruction loss in the training: its value, its gradients, its blow-up."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.func import functional_call

from linvae.data import gaussian
from linvae.models import Architecture, build_model
from linvae.models.reconstruction import Routing, with_latent_error
from linvae.models.recurrent import SequenceSizes, StackedTextVAE
from linvae.moments import Moments
from linvae.spec import CVAESpec, HVAESpec, LatentReconstruction, VAESpec
from linvae.theory.elbo import objective
from linvae.train import (
    Adaptive,
    Annealing,
    BlowUpWarning,
    Checkpoint,
    Exponential,
    Plateau,
    Remedy,
    RemedyBetas,
    TrainConfig,
    TrainingData,
    named_remedy,
    train,
)
from linvae.train.data import Noise

CPU = torch.device("cpu")
SPEC = VAESpec(2, decoder_variance=0.5, prior_variance=2.0)
NETWORKS = {
    "linear": Architecture("linear"),
    "mlp": Architecture("mlp", hidden=6),
    "normalised": Architecture("mlp", hidden=6, batch_norm=True),
}
ROUTES = [
    LatentReconstruction(0.7, source, detach, share)
    for source, detach, share in itertools.product(
        ("prior", "posterior", "mean", "posterior-to-mean"),
        ("none", "input", "target", "both"),
        (1.0, 0.25),
    )
]


def make_data(n=60, spectrum=(4.0, 2.0, 1.0, 0.5)):
    return TrainingData.from_arrays(gaussian(spectrum, n, seed=2).target)


def one_pass(architecture, losses, *, spec=SPEC, seeds=(3, 5), data=None):
    """A stack with its terms on one batch, and what they were made of."""
    data = make_data() if data is None else data
    model = build_model(
        spec, data.target, architecture=architecture, seeds=seeds, n_points=len(losses)
    )
    with torch.no_grad():  # away from the start, where every gradient is small
        for p in model.parameters():
            p += 0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    target = data.target[None, :24].expand(len(seeds), -1, -1)
    noise = Noise((2,), seeds, CPU).next(24)
    prior = Noise((2,), seeds, CPU, 1, "prior", scale=2**0.5).next(24)[0]
    terms = model(target, None, noise, Routing.of(losses, CPU), prior)
    return model, terms, (target, noise, prior)


def by_hand(model, seed, point, loss, inputs):
    """gamma/2 E|mu(dec(z)) - t|^2 of one member, stop-gradients by hand; encoder's share apart."""
    target, noise, prior = (value[0] if isinstance(value, list) else value for value in inputs)
    level = model.posterior(target, None)
    mean = level.mean[seed, point]
    drawn = mean + (level.log_variance[seed, point] / 2).exp() * noise[seed, :24]
    z = {"prior": prior[seed], "mean": mean}.get(loss.source, drawn)
    t = mean if loss.source == "posterior-to-mean" else z
    z = z.detach() if loss.detach in ("input", "both") else z
    t = t.detach() if loss.detach in ("target", "both") else t
    wide = z.expand(len(model.seeds), model.n_points, -1, -1)
    states = [{k: b.clone() for k, b in n.named_buffers()} for n in (model.decoders[0],)]
    decoded = functional_call(model.decoders[0], states[0], (wide,))
    state = {k: b.clone() for k, b in model.encoders[0].named_buffers()}
    back = functional_call(model.encoders[0], state, (decoded,))[seed, point, :, :2]
    return loss.weight / 2 * (back - t).square().sum(-1).mean()


def gradients(model, value):
    model.zero_grad()
    value.backward()
    return {k: torch.zeros_like(p) if p.grad is None else p.grad for k, p in
            model.named_parameters()}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_every_route_has_the_gradient_written_by_hand(name):
    """All 32 in one stack: value, decoder's gradient, and the encoder's times its share."""
    model, terms, inputs = one_pass(NETWORKS[name], ROUTES)
    gammas = torch.tensor([loss.weight for loss in ROUTES])
    found = gradients(model, (gammas / 2 * terms.latent_error).sum())
    for point, loss in enumerate(ROUTES):
        expected = by_hand(model, 1, point, loss, inputs)
        error = loss.weight / 2 * terms.latent_error[1, point]
        # float32: products of some tens of terms
        torch.testing.assert_close(error, expected, rtol=1e-5, atol=1e-7)
        for key, grad in gradients(model, expected).items():
            own = grad[1, point]
            factor = 1.0 if key.startswith("decoders") else loss.encoder_share
            got = found[key][1, point]
            size = float(own.abs().max()) + 1e-6
            torch.testing.assert_close(got, factor * own, rtol=1e-4, atol=1e-5 * size)


def test_a_point_without_the_loss_has_none_of_it():
    model, terms, _ = one_pass(NETWORKS["mlp"], [None, LatentReconstruction(1.0)])
    assert torch.equal(terms.latent_error[:, 0], torch.zeros(2))
    found = gradients(model, terms.latent_error.sum())
    assert all(not bool(grad[:, 0].any()) for grad in found.values())


def test_value_is_that_of_theory():
    """z with the moments of the prior exactly: gamma/2 eta^2 |W U - 1|^2 of one unit."""
    spec = replace(SPEC, latent_dim=1)
    data = make_data()
    model = build_model(spec, data.target, seeds=(3,))
    routing = Routing.of([LatentReconstruction(0.7, "prior")], CPU)
    noise = Noise((1,), (3,), CPU).next(24)
    prior = Noise((1,), (3,), CPU, 1, "prior", scale=2**0.5).next(24)[0]
    terms, latents = model.forward_with_latents(data.target[None, :24], None, noise)
    batch = (data.target[None, :24], None)
    seen = with_latent_error(model, routing, terms, latents[0], prior, batch).latent_error
    moments = Moments.from_data(np.asarray(data.target))
    theory = objective(replace(spec, latent_reconstruction=0.7), moments, model.weights(0, 0))
    assert float(seen.detach()) * 0.7 / 2 == pytest.approx(theory.penalty, rel=1e-5)


def test_running_statistics_are_those_of_the_data_alone():
    model, *_ = one_pass(NETWORKS["normalised"], [None])
    other, *_ = one_pass(NETWORKS["normalised"], [LatentReconstruction(1.0, "prior")])
    for (key, a), (_, b) in zip(model.named_buffers(), other.named_buffers(), strict=True):
        assert torch.equal(a, b), key


def test_condition_is_read_as_it_is():
    """A conditional model decodes and encodes beside its own condition: theory's penalty."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 2))
    y = x @ rng.normal(size=(2, 3)) + rng.normal(size=(40, 3))
    data = TrainingData.from_arrays(y, x)
    spec = CVAESpec(1, latent_reconstruction=0.0)
    model = build_model(spec, data.target, data.condition, seeds=(1,))
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    ones = torch.ones(1, 40, 1)
    pairs = torch.cat([ones, -ones], dim=1)  # beside every condition both: z is independent of it
    target, condition = (v[None].repeat(1, 2, 1) for v in (data.target, data.condition))
    routing = Routing.of([LatentReconstruction(2.0, "prior")], CPU)
    noise = Noise((1,), (1,), CPU).next(80)
    terms = model(target, condition, noise, routing, pairs)
    moments = Moments.from_data(np.asarray(data.target), np.asarray(data.condition))
    weights = model.weights(0, 0)
    theory = objective(replace(spec, latent_reconstruction=2.0), moments, weights)
    assert float(terms.latent_error.detach()) == pytest.approx(theory.penalty, rel=1e-5)


# --- training -----------------------------------------------------------------------------------

STEPS = 40
REMEDIES = [
    Remedy(),
    Remedy(beta=0.1, latent_reconstruction=LatentReconstruction(0.5, "prior")),
    Remedy(latent_reconstruction=LatentReconstruction(0.5), warmup=Annealing(20)),
    Remedy(latent_reconstruction=LatentReconstruction(0.5, "mean"), warmup=Exponential(20)),
    Remedy(latent_reconstruction=LatentReconstruction(0.5), warmup=Adaptive(1.0)),
]


def stopped_at(step):
    """Progress that interrupts the run as soon as so many steps are done."""

    def progress(done):
        if done >= step:
            raise KeyboardInterrupt

    return progress


def trained(remedies, config, *, architecture=NETWORKS["mlp"], **options):
    data = make_data()
    model = build_model(
        SPEC, data.target, architecture=architecture, seeds=(3, 5), n_points=len(remedies)
    )
    weight = RemedyBetas(remedies, SPEC.betas, 2, CPU)
    return model, train(model, data, weight, config, **options), weight


@pytest.mark.parametrize("plateau", [None, Plateau()], ids=["together", "own ways"])
@pytest.mark.parametrize("name", NETWORKS)
def test_stack_is_its_members(name, plateau):
    """Every remedy alone and beside the others, within the rounding of batched products."""
    config = TrainConfig(steps=STEPS, batch_size=20, plateau=plateau)
    stack, _, _ = trained(REMEDIES, config, architecture=NETWORKS[name])
    for point, remedy in enumerate(REMEDIES):
        alone, _, _ = trained([remedy], config, architecture=NETWORKS[name])
        for key, value in alone.state_dict().items():
            torch.testing.assert_close(
                stack.state_dict()[key][:, [point]], value, rtol=1e-4, atol=1e-5
            )


def test_weights_rise_as_they_say():
    weight = RemedyBetas(REMEDIES, SPEC.betas, 1, CPU)
    data = make_data()
    model = build_model(SPEC, data.target, n_points=len(REMEDIES))
    seen = []
    for _ in range(21):
        seen.append(weight.gammas()[0])
        terms = model(data.target[None], None, Noise((2,), (0,), CPU).next(60))
        weight.observe(terms, 0.0)
    first, half, last = (torch.stack(seen)[[0, 10, 20], :4]).tolist()
    assert first == [0, 0.5, 0, 0]
    assert half == pytest.approx([0, 0.5, 0.25, 0.5 * (2**0.5 - 1)])
    assert last == [0, 0.5, 0.5, 0.5]
    rate = float(terms.rates[0, 4].sum().detach())
    assert float(weight.gammas()[0, 4]) == pytest.approx(0.5 / (1 + np.exp(rate - 1)))
    assert float(seen[0][4]) == pytest.approx(0.5 / (1 + np.exp(-1)))  # no rate yet: collapse


def test_goes_on_as_if_never_stopped(tmp_path):
    """Streams of the prior's draws, steps and rates of the warm-ups are in the checkpoint."""
    config = TrainConfig(steps=STEPS, batch_size=20, log_every=1)
    whole, _, _ = trained(REMEDIES, config)
    path = Checkpoint(tmp_path / "run.safetensors", every_steps=7)
    with pytest.raises(KeyboardInterrupt):
        trained(REMEDIES, config, checkpoint=path, progress=stopped_at(23))
    again, _, _ = trained(REMEDIES, config, checkpoint=path)
    for key, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


# --- text ---------------------------------------------------------------------------------------

TEXT = VAESpec(2, likelihood="multinomial")
TOKENS = torch.tensor([[0, 3, 5, 1, -1], [0, 4, 4, 2, 1], [0, 2, 1, -1, -1], [0, 5, 3, 3, 1]])


def text_stack(n_points, seeds=(3, 5)):
    sizes = SequenceSizes(4, 5)
    return StackedTextVAE(TEXT, vocabulary=6, sizes=sizes, seeds=seeds, n_points=n_points)


def test_expected_tokens_that_are_certain_are_the_tokens():
    model = text_stack(2)
    following = TOKENS[:, 1:].clamp(min=0).T
    certain = torch.nn.functional.one_hot(following, 6).float().expand(2, 2, -1, -1, -1)
    read, seen = model.encoder(TOKENS[None]), model.encoder(TOKENS[None], certain)
    torch.testing.assert_close(seen.mean, read.mean)


def test_sentence_is_read_back_as_what_is_expected_of_each_word():
    """One sentence of one member at a time, its probabilities by steps of the decoder."""
    model, z = text_stack(1, seeds=(3,)), torch.tensor([[0.7, -1.2]])
    for sentence in TOKENS:
        words = sentence[sentence >= 0][None, None]
        state, vectors = None, [model.encoder.embedding(words[..., :1])]
        for t in range(words.shape[-1] - 1):
            logits, state = model.decoder.step(z[None, None], words[..., t][None], state)
            probabilities = logits.softmax(-1)
            vectors.append((probabilities @ model.encoder.embedding.weight)[:, :, None])
        states, _ = model.encoder.lstm(torch.cat(vectors, dim=2))
        expected = model.encoder.outer(states[:, :, -1])[..., :2]
        padded = torch.full((1, 1, 5), -1)
        padded[..., : words.shape[-1]] = words
        seen = model.re_encode(z[None, None], padded, None, torch.ones(1, 1, 1, 1))
        torch.testing.assert_close(seen, expected)


def test_text_trains_with_the_loss_alone_as_in_a_stack():
    data = TrainingData(TOKENS, None)
    remedies = [Remedy(), Remedy(latent_reconstruction=LatentReconstruction(2.0))]
    config = TrainConfig(steps=20, batch_size=2, learning_rate=0.05)

    def trained_texts(remedies):
        model = text_stack(len(remedies))
        train(model, data, RemedyBetas(remedies, TEXT.betas, 2, CPU), config)
        return model.state_dict()

    both = trained_texts(remedies)
    for point, remedy in enumerate(remedies):
        for key, value in trained_texts([remedy]).items():
            if value.ndim:  # not the number of dropout's calls
                part = both[key][:, [point]]
                torch.testing.assert_close(part, value, rtol=1e-4, atol=1e-5)
    moved = both["encoder.outer.weight"]
    assert not torch.allclose(moved[:, 0], moved[:, 1], atol=1e-3)


def test_drawing_from_the_prior_needs_a_decoder_of_z_alone():
    loss = LatentReconstruction(2.0, "prior")
    weight = RemedyBetas([Remedy(latent_reconstruction=loss)], TEXT.betas, 1, CPU)
    message = "source='prior' needs a decoder that sees z alone.*use source='posterior'"
    with pytest.raises(ValueError, match=message):
        train(text_stack(1, (3,)), TrainingData(TOKENS, None), weight, TrainConfig(steps=1))


# --- blow-up ------------------------------------------------------------------------------------


def blown_up(times=1e3, log_every=10, **options):
    """Two points, of which the second starts with means so many times too large."""
    data = make_data()
    model = build_model(SPEC, data.target, architecture=NETWORKS["mlp"], seeds=(3, 5), n_points=2)
    with torch.no_grad():
        for p in model.encoders[0].outer.parameters():
            p[:, 1, :2] *= times
    weight = RemedyBetas([Remedy(), Remedy(beta=2.0)], SPEC.betas, 2, CPU)
    config = TrainConfig(steps=40, batch_size=20, learning_rate=1e-6, log_every=log_every)
    return train(model, data, weight, config, **options)


@pytest.mark.filterwarnings("ignore::linvae.train.BlowUpWarning")  # of the other seed
def test_blow_up_is_named_with_its_remedy():
    """beta times the rate, over the squared norm of the data by 2 s; the others are none."""
    with pytest.warns(BlowUpWarning, match=r"the latent scale of seed 3 point 1 blew up: a rate"):
        result = blown_up()
    assert {(b.seed, b.point, b.step) for b in result.blown_up} == {(3, 1, 10), (5, 1, 10)}
    found = result.blown_up[0]
    rate = next(r for r in result.history if (r["step"], r["seed"], r["point"]) == (10, 3, 1))
    assert found.rate_nats == pytest.approx(rate["rate_nats"])
    collapse = float(make_data().target.square().sum(-1).mean()) / (2 * 0.5)
    assert found.ratio == pytest.approx(2 * found.rate_nats / collapse, rel=1e-5)
    assert f"{found.ratio:.3g} times what collapse does" in found.text
    for way_out in ("clip_norm=1", "learning rate", "detach='both'", "encoder_share=1e-4"):
        assert way_out in found.text


@pytest.mark.filterwarnings("ignore::linvae.train.BlowUpWarning")
def test_blow_up_is_remembered_by_a_checkpoint(tmp_path):
    path = Checkpoint(tmp_path / "run.safetensors", every_steps=5)
    with pytest.raises(KeyboardInterrupt):
        blown_up(checkpoint=path, progress=stopped_at(30))
    assert len(blown_up(checkpoint=path).blown_up) == 2


@pytest.mark.filterwarnings("ignore::linvae.train.BlowUpWarning")
def test_rates_beyond_all_numbers_are_a_blow_up_and_a_divergence(tmp_path):
    """Means of 1e25: their squares overflow; both are told, by a checkpoint too."""
    path = Checkpoint(tmp_path / "run.safetensors", every_steps=5)
    with pytest.raises(KeyboardInterrupt):
        blown_up(1e25, 1, checkpoint=path, progress=stopped_at(30))
    result = blown_up(1e25, 1, checkpoint=path)
    assert {(b.seed, b.point, b.rate_nats) for b in result.blown_up} == {
        (3, 1, float("inf")), (5, 1, float("inf")),
    }  # fmt: skip
    assert {(d.seed, d.point) for d in result.diverged} == {(3, 1), (5, 1)}


def test_rates_of_a_fixed_variance_are_no_blow_up():
    """The collapsed model pays them too: two units of variance 1e-12 have 26 nats at least."""
    spec = VAESpec(2, beta=10.0, decoder_variance=0.5, encoder_variance=1e-12)
    data = make_data()
    model = build_model(spec, data.target)
    result = train(
        model, data, RemedyBetas([Remedy()], spec.betas, 1, CPU), TrainConfig(steps=5, log_every=1)
    )
    rate, collapse = result.history[0]["rate_nats"], float(model.collapse_cost_nats())
    assert 10 * rate > 2 * 10 * collapse  # with half of the floor off it would be one
    assert result.blown_up == ()


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (HVAESpec((2, 1)), "StackedVAE needs one level of latents"),
        (VAESpec(2), "needs an encoder that sees the target"),
    ],
)
def test_models_without_this_loss_are_refused(spec, message):
    rng = np.random.default_rng(0)
    data = TrainingData.from_arrays(rng.normal(size=(20, 3)), rng.normal(size=(20, 2)))
    model = build_model(spec, data.target, data.condition)
    weight = RemedyBetas(
        [Remedy(latent_reconstruction=LatentReconstruction(1))], spec.betas, 1, CPU
    )
    with pytest.raises(ValueError, match=message):
        train(model, data, weight, TrainConfig(steps=1))


def test_names_and_their_refusals():
    loss = LatentReconstruction(2.0, "prior")
    named = named_remedy("latent-reconstruction", 100, reconstruction=loss, warmup="exponential")
    assert named == Remedy(latent_reconstruction=loss, warmup=Exponential(50))
    assert named_remedy("latent-reconstruction", 100).latent_reconstruction.weight == 0.2
    with pytest.raises(ValueError, match="warmup='slow' must be one of none, linear, exponential"):
        named_remedy("latent-reconstruction", 100, warmup="slow")
    with pytest.raises(ValueError, match=r"warmup=.* needs a latent_reconstruction in Remedy"):
        Remedy(warmup=Annealing(3))
    with pytest.raises(ValueError, match="warmup_steps=0 must be an integer >= 1 in Exponential"):
        Exponential(0)
    with pytest.raises(ValueError, match="centre_nats=nan must be a finite number"):
        Adaptive(float("nan"))
