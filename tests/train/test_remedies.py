"""Remedies against what they are by definition: inner loops, floors, plateaus, one member each."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from linvae.data import gaussian
from linvae.models import Architecture, build_model
from linvae.objectives import Floors, GaussianLevel, Terms, batch_information
from linvae.spec import VAESpec
from linvae.train import (
    Aggressive,
    Annealing,
    Checkpoint,
    Cyclical,
    Plateau,
    Remedy,
    RemedyBetas,
    TrainConfig,
    TrainingData,
    named_remedy,
    train,
)
from linvae.train.data import BatchOrder, Binarisation, Noise
from linvae.train.optimizer import MemberOptimizer, clip_gradients
from linvae.train.validation import PlateauRates, Validated, validate
from linvae.train.walk import MemberWalk
from paper_checks.he2019 import inner_steps

from . import killed

CPU = torch.device("cpu")
SPEC = VAESpec(2, decoder_variance=0.5)
MLP = Architecture("mlp", hidden=6)
PUBLISHED = Aggressive(window=3, most_steps=9, falls=None)


def make_data(n=60):
    return TrainingData.from_arrays(gaussian((4.0, 2.0, 1.0, 0.5), n, seed=2).target)


def trained(remedies, config, *, data=None, seeds=(3, 5), architecture=MLP, **options):
    data = make_data() if data is None else data
    model = build_model(
        SPEC, data.target, architecture=architecture, seeds=seeds, n_points=len(remedies)
    )
    weight = RemedyBetas(remedies, SPEC.betas, len(seeds), CPU)
    return model, train(model, data, weight, config, **options)


# --- the inner loop -----------------------------------------------------------------------------


@pytest.mark.parametrize("window", [10, 15])
@pytest.mark.parametrize("kind", ["noise", "falling", "rising", "rounded"])
def test_inner_loops_are_as_long_as_the_published_code_makes_them(window, kind):
    """Two members with objectives of their own, against the code's loop written out."""
    losses = np.random.default_rng(window).normal(size=(2, 2000))
    if kind == "rounded":
        losses = losses.round(1)  # windows of equal average do not end the loop
    if kind in ("falling", "rising"):
        losses = np.sort(losses)[:, :: 1 if kind == "rising" else -1]
    orders = [BatchOrder(50, 5, (0, 0), purpose=p) for p in ("order", "inner loop")]
    walk = MemberWalk([Aggressive(window, falls=None)] * 2, *orders, 1, most=8)
    taken = np.zeros(2, int)
    lengths = [[], []]
    while not walk.ended(8):
        encoders, decoders = (side[0].numpy() for side in walk.sides())
        objective = torch.tensor(losses[[0, 1], np.minimum(taken, 1999)])[None]
        for i in range(2):
            if decoders[i]:
                lengths[i].append(taken[i])
        assert not (encoders & decoders).any()
        taken += encoders
        walk.observe(objective, walk.next())
    for i in range(2):
        expected, start = [], 0
        for _ in range(8):
            steps = inner_steps(lambda j, i=i, start=start: losses[i, start + j - 1], window)
            start += steps
            expected.append(start)
        assert lengths[i] == expected
    assert walk.encoder_steps.tolist() == [[length[-1] for length in lengths]]


def test_batches_of_the_inner_loop():
    """The first is the decoder's; the others are the next of their own stream."""
    outer, others = (BatchOrder(50, 5, (7,), purpose=p) for p in ("order", "inner loop"))
    orders = [BatchOrder(50, 5, (7,), purpose=p) for p in ("order", "inner loop")]
    walk = MemberWalk([PUBLISHED], *orders, 1, most=3)
    for _ in range(3):
        first = outer.next()[0]
        assert torch.equal(walk.next()[0, 0], first)
        walk.observe(torch.zeros(1, 1), walk.next())
        for _ in range(8):
            assert torch.equal(walk.next()[0, 0], others.next()[0])
            walk.observe(torch.zeros(1, 1), walk.next())  # equal averages: up to the cap
        assert torch.equal(walk.next()[0, 0], first)
        assert [bool(side) for side in walk.sides()] == [False, True]
        walk.observe(torch.zeros(1, 1), walk.next())
    assert walk.ended(3)
    assert walk.encoder_steps.item() == 27


def test_objectives_of_sequences_are_compared_per_word():
    """Windows of 2 with 10 and 30 words: 3 and 5 nats are 0.3 and 1/6 a word, a fall."""
    sizes = torch.tensor([10.0, 30.0])
    orders = [BatchOrder(2, 1, (0,), purpose=p) for p in ("order", "inner loop")]
    walk = MemberWalk([Aggressive(2, falls=None)], *orders, 1, most=1, sizes=sizes)
    for index, nats in ((0, 3.0), (0, 3.0), (1, 5.0), (1, 5.0), (0, 3.0), (0, 3.0)):
        assert [bool(side) for side in walk.sides()] == [True, False]
        walk.observe(torch.full((1, 1), nats), torch.tensor([[[index]]]))
    assert [bool(side) for side in walk.sides()] == [False, True]  # 1/6 -> 0.3: a rise


@pytest.mark.parametrize(
    ("falls", "heard", "epoch"),
    [
        (1, [0.1, 0.4, 0.3, 0.5], 3),  # texts: the first epoch below the one before
        (1, [-0.1, 0.5], 1),  # the first is compared with 0
        (5, [0.3, 0.2, 0.4, 0.1, 0.2, 0.5, 0.4, 0.1, 0.6], 8),  # images: five in all
        (None, [0.5, 0.1, 0.0], None),
    ],
)
def test_the_phase_ends_by_validated_information(falls, heard, epoch):
    orders = [BatchOrder(10, 5, (0,), purpose=p) for p in ("order", "inner loop")]
    walk = MemberWalk([Aggressive(1, 1, falls)], *orders, 1, most=100)
    ended = None
    for number, information in enumerate(heard, start=1):
        while walk.decoder_steps.item() < number * walk.epoch:
            walk.observe(torch.zeros(1, 1), walk.next())
        walk.hear(np.array([[information]]), np.array([[True]]))
        if ended is None and walk.until.item() >= 0:
            ended = number
    assert ended == epoch
    both = [bool(side) for side in walk.sides()] == [True, True]
    assert both is (epoch is not None)


# --- training -----------------------------------------------------------------------------------


def reference(seed, remedy, config, data):
    """One member as the published code trains it: two optimisers, torch's own, a loop in a loop."""
    model = build_model(SPEC, data.target, architecture=MLP, seeds=(seed,), n_points=1)
    encoder = model.encoder_parameters()
    decoder = [p for p in model.parameters() if not any(p is q for q in encoder)]
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.SGD
    rate = config.learning_rate / (model.curvature if config.optimizer == "sgd" else 1)
    extra = {} if config.optimizer == "adam" else {"momentum": config.momentum}
    optimizers = {"encoder": kind(encoder, rate, **extra), "decoder": kind(decoder, rate, **extra)}
    order, others = (
        BatchOrder(len(data), config.batch_size, (seed,), purpose=p)
        for p in ("order", "inner loop")
    )
    noise = Noise(SPEC.latent_dims, (seed,), CPU, config.draws)
    steps = 0

    def step(index, sides, beta):
        model.zero_grad()
        target, _ = data.take(index)
        terms = model(target, None, noise.next(target.shape[1]))
        loss = terms.distortion + beta * terms.rates[..., 0]
        loss.sum().backward()
        if config.clip_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        for side in sides:
            optimizers[side].step()
        return float(loss.detach())

    for outer in range(config.steps):
        for optimizer in optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate * config.learning_rate_factor(outer)
        beta, first = float(_share(remedy, outer)), order.next()
        batch = first
        before, total, taken = 1e4, 0.0, 0
        if remedy.aggressive is None:
            step(first, ("encoder", "decoder"), beta)
            continue
        while taken < remedy.aggressive.most_steps:
            total += step(batch, ("encoder",), beta)
            batch, taken, steps = others.next(), taken + 1, steps + 1
            if taken % remedy.aggressive.window == 0:
                if before < total / remedy.aggressive.window:
                    break
                before, total = total / remedy.aggressive.window, 0.0
        # the next inner loop goes on where the stream is: the last draw was not used
        others._queues[0] = torch.cat([batch[0], others._queues[0]])
        step(first, ("decoder",), beta)
    return model, steps


def _share(remedy, step):
    return remedy.beta * (
        1 if remedy.schedule is None else remedy.schedule.share(torch.tensor(step))
    )


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_a_member_is_what_the_published_loop_makes_of_it(optimizer, clip):
    """Float32 twice, by another path: 1e-5 of the largest parameter after up to 90 steps."""
    remedy = Remedy(beta=0.5, schedule=Annealing(6, 0.1), aggressive=PUBLISHED)
    config = TrainConfig(
        steps=12, batch_size=8, learning_rate=1e-2 if optimizer == "adam" else 0.2,
        optimizer=optimizer, clip_norm=clip,
    )  # fmt: skip
    data = make_data()
    expected, steps = reference(3, remedy, config, data)
    model, result = trained((Remedy(), remedy), config, data=data)
    assert result.counts["encoder_steps"][0].tolist() == [12, steps]
    assert steps > 36  # some loops went on after their second window
    for name, value in expected.state_dict().items():
        found = model.state_dict()[name][0, 1]
        torch.testing.assert_close(found, value[0, 0], rtol=1e-5, atol=1e-5)


REMEDIES = (
    Remedy(),
    Remedy(beta=0.3),
    Remedy(schedule=Annealing(20, 0.1)),
    Remedy(schedule=Cyclical(30, 2)),
    Remedy(aggressive=PUBLISHED),
    Remedy(aggressive=Aggressive(2, 7, falls=1), schedule=Annealing(20)),
    Remedy(floor_nats=0.3),
    Remedy(floor_nats=1.0, floor_per="total"),
)


@pytest.mark.parametrize("plateau", [None, Plateau(patience=1, first=1, most=2)])
def test_a_stack_of_remedies_is_the_single_runs(plateau):
    """The product's sums alone may be in another order: 1e-5, as for plain members."""
    config = TrainConfig(steps=30, batch_size=16, learning_rate=2e-2, plateau=plateau)
    together, result = trained(REMEDIES, config)
    encoder_steps = result.counts["encoder_steps"]
    for i, remedy in enumerate(REMEDIES):
        alone, own = trained((remedy,), config, seeds=(5,))
        for name, value in alone.state_dict().items():
            found = together.state_dict()[name][1, i]
            torch.testing.assert_close(found, value[0, 0], rtol=1e-5, atol=1e-5, msg=name)
        if own.counts:
            assert own.counts["encoder_steps"].item() == encoder_steps[1, i]
            assert own.counts["until"].item() == result.counts["until"][1, i]
    assert (encoder_steps[:, 4] > 2 * encoder_steps[:, 0]).all()


@pytest.mark.parametrize("plateau", [None, Plateau(patience=1, first=1, most=3)])
def test_a_stopped_run_goes_on_with_the_same_bits(plateau, tmp_path):
    """Stopped between any two logs; inner loops, phases, plateaus and what is kept go on."""

    class Stop(Exception):
        pass

    def stop_at(wanted):
        def stop(step):
            if step >= wanted:
                raise Stop

        return stop

    keep = Checkpoint(tmp_path / "run.safetensors", every_steps=killed.EVERY)
    expected = killed.run("adam", "remedies", plateau=plateau)
    for wanted in (8, 19, 33):
        with pytest.raises(Stop):
            stop = stop_at(wanted)
            killed.run("adam", "remedies", plateau=plateau, checkpoint=keep, progress=stop)
        assert keep.path.exists()
    steps = []
    found = killed.run("adam", "remedies", plateau=plateau, checkpoint=keep, progress=steps.append)
    assert steps[0] >= 19
    assert found[2].history == expected[2].history
    for name, value in expected[0].state_dict().items():
        assert torch.equal(found[0].state_dict()[name], value), name
    for name, value in expected[2].counts.items():
        assert torch.equal(found[2].counts[name], value), name


def test_who_ends_early_keeps_its_running_statistics():
    """The plain member ends long before the aggressive one, whose steps go on beside it."""
    network = Architecture("mlp", hidden=6, batch_norm=True)
    config = TrainConfig(steps=20, batch_size=16)
    remedies = (Remedy(), Remedy(aggressive=PUBLISHED))
    together, _ = trained(remedies, config, architecture=network)
    alone, _ = trained(remedies[:1], config, architecture=network)
    names = [name for name in alone.state_dict() if "running" in name]
    assert names
    for name in names:
        found = together.state_dict()[name][:, 0]
        torch.testing.assert_close(found, alone.state_dict()[name][:, 0], rtol=1e-5, atol=1e-6)


class Lost(RemedyBetas):
    """The betas of the first point are infinite from the eleventh step of its decoder on."""

    def betas(self):
        lost = (self._steps > 10) & (torch.arange(self._steps.shape[1]) == 0)
        return torch.where(lost[..., None], math.inf, super().betas())


@pytest.mark.parametrize("plateau", [None, Plateau(patience=1, first=1, most=9)])
def test_a_member_that_is_lost_stays_lost(plateau):
    """Nothing that was kept of others, or with them, is given to it; they are what they are alone.

    With a plateau it has its best parameters, those before.
    """
    remedies = (Remedy(aggressive=Aggressive(1, 1, falls=None)), Remedy(), PUBLISHED_ONLY)
    config = TrainConfig(steps=16, batch_size=16, log_every=1, learning_rate=1e-2, plateau=plateau)
    data = make_data()
    model = build_model(SPEC, data.target, architecture=MLP, seeds=(5,), n_points=3)
    result = train(model, data, Lost(remedies, SPEC.betas, 1, CPU), config)
    assert [(lost.seed, lost.point) for lost in result.diverged] == [(5, 0)]
    finite = torch.isfinite(model.encoders[0].inner.weight[0, 0]).all()
    assert bool(finite) is (plateau is not None)
    alone, _ = trained(remedies[1:2], config, seeds=(5,))
    for name, value in alone.state_dict().items():
        found = model.state_dict()[name][0, 1]
        torch.testing.assert_close(found, value[0, 0], atol=1e-5, rtol=1e-5)


# --- optimiser ----------------------------------------------------------------------------------


class Sides(torch.nn.Module):
    """Two parameters of a stack (2, 3): encoder and decoder."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.encoder = torch.nn.Parameter(torch.randn(2, 3, 4, generator=generator))
        self.decoder = torch.nn.Parameter(torch.randn(2, 3, generator=generator))

    def encoder_parameters(self):
        return [self.encoder]


def gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator)


@pytest.mark.parametrize("kind", ["adam", "sgd", "plain sgd"])
def test_member_optimizer_is_torchs_for_every_member(kind):
    """A member that steps at some steps only is that of torch which sees those gradients only."""
    momentum = 0.9 if kind == "sgd" else 0.0
    model = Sides()
    optimizer = MemberOptimizer(model, kind.split()[-1], 0.1, momentum)
    alone = [[copy.deepcopy(model) for _ in range(3)] for _ in range(2)]

    def torchs(p):
        return torch.optim.Adam([p], 0.1) if kind == "adam" else torch.optim.SGD([p], 0.1, momentum)

    own = [[[torchs(p) for p in m.parameters()] for m in row] for row in alone]
    masks = torch.rand(20, 2, 2, 3, generator=torch.Generator().manual_seed(1)) < 0.6
    for step, mask in enumerate(masks):
        gradients(model, step)
        for group, members in zip(optimizer.param_groups, mask, strict=True):
            group["members"], group["lr"] = members, torch.full((2, 3), 0.1)
        optimizer.step()
        for s, p in np.ndindex(2, 3):
            gradients(alone[s][p], step)
            for side in range(2):
                if mask[side, s, p]:
                    own[s][p][side].step()
    for s, p in np.ndindex(2, 3):
        for found, value in zip(model.parameters(), alone[s][p].parameters(), strict=True):
            torch.testing.assert_close(found[s, p], value[s, p], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_a_forgotten_member_steps_as_the_first_time(kind):
    """Its next step is that of a new optimiser; those of the others are as if nothing was done."""
    model, other, fresh = Sides(), Sides(), Sides()
    optimizers = [MemberOptimizer(m, kind, 0.1, 0.9) for m in (model, other, fresh)]
    for step in range(3):
        for m, optimizer in zip((model, other), optimizers, strict=False):
            gradients(m, step)
            optimizer.step()
    forgotten = torch.zeros(2, 3, dtype=torch.bool)
    forgotten[1, 2] = True
    optimizers[0].forget(forgotten)
    for m, optimizer in zip((model, other, fresh), optimizers, strict=True):
        start = [p.detach().clone() for p in m.parameters()]
        gradients(m, 9)
        optimizer.step()
        m.moves = [p.detach() - s for p, s in zip(m.parameters(), start, strict=True)]
    for moved, plain, new in zip(model.moves, other.moves, fresh.moves, strict=True):
        torch.testing.assert_close(moved[1, 2], new[1, 2])
        assert not torch.allclose(moved[1, 2], plain[1, 2])
        assert torch.equal(moved[~forgotten], plain[~forgotten])


def test_gradients_are_clipped_member_by_member():
    model = Sides()
    gradients(model, 0)
    model.encoder.grad[0, 1] *= 1e-3
    model.decoder.grad[0, 1] *= 1e-3
    before = [p.grad.clone() for p in model.parameters()]
    clip_gradients(model, 0.7)
    for s, p in np.ndindex(2, 3):
        parameters = [torch.nn.Parameter(torch.zeros_like(g[s, p])) for g in before]
        for parameter, g in zip(parameters, before, strict=True):
            parameter.grad = g[s, p].clone()
        torch.nn.utils.clip_grad_norm_(parameters, 0.7)
        for found, expected in zip(model.parameters(), parameters, strict=True):
            torch.testing.assert_close(found.grad[s, p], expected.grad)
    assert torch.equal(model.encoder.grad[0, 1], before[0][0, 1])  # short enough


# --- validation ---------------------------------------------------------------------------------


def published_decays(losses, plateau, *, image):
    """Rate after every epoch, epoch of the parameters in use, until it stops: the codes' rules.

    Epochs are counted from 0 there; images have no first one.
    """
    best = reference = math.inf
    rate, bad, decays, kept, in_use = 1.0, 0, 0, 0, []
    for epoch, loss in enumerate(losses):
        if loss < best:
            best, kept = loss, epoch + 1
        back = False
        if loss > (best if image else reference):
            bad += 1
            if bad >= plateau.patience and (image or epoch >= plateau.first - 1):
                rate, bad, decays, back = rate * plateau.factor, 0, decays + 1, True
                reference = loss
        else:
            bad, reference = 0, loss
        in_use.append((rate, kept if back else epoch + 1))
        if decays == plateau.most:
            break
    return in_use, kept


@pytest.mark.parametrize("image", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_plateaus_are_the_published_ones(seed, image):
    """One stack of two members; a parameter that counts epochs says which of them is in use."""
    plateau = Plateau(patience=2, first=4, factor=0.5, most=3)
    if image:
        plateau = replace(plateau, first=0, against="best")
    losses = np.random.default_rng(seed).normal(size=(2, 40)).cumsum(1) * 0.3
    model = Sides()
    model.encoder = torch.nn.Parameter(torch.zeros(1, 2))
    model.decoder = torch.nn.Parameter(torch.zeros(1, 2))
    rates, running = PlateauRates(plateau, (1, 2)), np.array([[True, True]])
    seen = [[], []]
    for epoch in range(1, 41):
        for member in np.flatnonzero(running[0]):
            model.encoder.data[0, member] = epoch
        _, ended = rates.hear(model, losses[None, :, epoch - 1], running, np.array([[epoch] * 2]))
        for member in np.flatnonzero(running[0]):
            in_use = int(model.encoder[0, member])
            seen[member].append((rates.share[0, member], in_use))
        running &= ~ended
    rates.put_back(model)
    for member in range(2):
        expected, best = published_decays(losses[member], plateau, image=image)
        assert seen[member] == expected
        assert int(model.encoder[0, member]) == best
    assert rates.decays.max() > 0


def test_a_plateau_lowers_the_rate_of_the_training(monkeypatch):
    """Scripted objectives that only rise: after the second epoch nothing moves from the first."""
    seen, forgotten = [], []

    def validated(model, data, batch_size):
        seen.append(model.encoders[0].inner.weight.detach().clone())
        return Validated(np.full((1, 1), float(len(seen))), np.zeros((1, 1)))

    monkeypatch.setattr("linvae.train.loop.validate", validated)
    monkeypatch.setattr(MemberOptimizer, "forget", lambda self, m: forgotten.append(m.item()))
    plateau = Plateau(patience=1, first=0, factor=1e-6, most=2)
    config = TrainConfig(steps=40, batch_size=15, learning_rate=1e-2, plateau=plateau)
    trained((Remedy(),), config, seeds=(5,))
    assert len(seen) == 3  # two decays, then it stops
    assert forgotten == [False, True, True]
    assert float((seen[1] - seen[0]).abs().max()) > 1e-3
    torch.testing.assert_close(seen[2], seen[0], rtol=0, atol=1e-6)


def test_validation_is_the_mean_over_all_samples():
    """Of the objective of one draw, in batches; information of one batch is at most its log."""
    data = make_data(50)
    model, _ = trained((Remedy(),), TrainConfig(steps=300, learning_rate=1e-2), data=data)
    found = validate(model, data, 16)
    noise = Noise(SPEC.latent_dims, model.seeds, CPU, 1, purpose="validation")
    total = information = 0.0
    for start in range(0, 50, 16):
        batch = data.target[start : start + 16].expand(2, -1, -1)
        terms, latents = model.forward_with_latents(batch, None, noise.next(batch.shape[1]))
        share = batch.shape[1] / 50
        total = total + share * (terms.distortion + terms.rates[..., 0])
        information = information + share * batch_information(terms.levels[0], latents[0])
    np.testing.assert_allclose(found.objective, total.detach().numpy(), rtol=1e-6)
    np.testing.assert_allclose(found.information, information.detach().numpy(), rtol=1e-5)
    assert (found.information > 0.1).all()
    assert (found.information < math.log(16)).all()


def test_validation_changes_nothing():
    """Not even running statistics, which a network in training would move."""
    network = Architecture("mlp", hidden=6, batch_norm=True)
    model, _ = trained((Remedy(),), TrainConfig(steps=20), architecture=network)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert any("running" in name for name in before)
    validate(model, make_data(), 16)
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_information_of_a_batch_is_its_definition():
    """Densities one by one from torch.distributions; and log B where all q are far apart."""
    generator = torch.Generator().manual_seed(0)
    mean, log_variance = (2 * torch.randn(2, 1, 7, 3, generator=generator) for _ in range(2))
    level = GaussianLevel(mean, log_variance)
    latents = level.sample(torch.randn(2, 1, 7, 3, generator=generator))
    found = batch_information(level, latents)
    for s in range(2):
        total = 0.0
        for i in range(7):
            qs = [
                torch.distributions.Normal(mean[s, 0, j], (log_variance[s, 0, j] / 2).exp())
                for j in range(7)
            ]
            densities = torch.stack([q.log_prob(latents[s, 0, i]).sum() for q in qs])
            total -= float(qs[i].entropy().sum()) / 7
            total -= float(torch.logsumexp(densities, 0) - math.log(7)) / 7
        assert float(found[s, 0]) == pytest.approx(total, abs=4e-6)  # float32, of 10 nats
    apart = GaussianLevel(torch.arange(7.0).view(1, 1, 7, 1) * 100, torch.zeros(1, 1, 7, 1))
    many = torch.randn(1, 1, 7, 4000, generator=generator)
    nats = [batch_information(apart, apart.mean + many[..., i : i + 1]) for i in range(4000)]
    # E log q is exact and log q(z_i) sampled: variance of z^2/2 is 1/2
    assert float(torch.stack(nats).mean()) == pytest.approx(math.log(7), abs=4 / math.sqrt(56000))


# --- floors, orders, pixels ---------------------------------------------------------------------


def test_floors_are_paid_and_have_no_gradient_below():
    rates = torch.tensor([[[0.1, 0.5], [0.1, 0.5], [0.1, 0.5]]], requires_grad=True)
    terms = Terms(torch.ones(1, 3), (rates,), ())
    floors = Floors(
        torch.tensor([[0.3, -math.inf, -math.inf]]), torch.tensor([[-math.inf, 1.0, -math.inf]])
    )
    members = terms.objective(torch.tensor([2.0]), floors)
    assert members.tolist() == [pytest.approx([1 + 2 * 0.8, 1 + 2 * 1.0, 1 + 2 * 0.6])]
    members.sum().backward()
    assert rates.grad.tolist() == [[[0.0, 2.0], [0.0, 0.0], [2.0, 2.0]]]
    plain = terms.objective(torch.tensor([2.0]))
    assert torch.allclose(plain, torch.full((1, 3), 1 + 2 * 0.6))


def test_batches_of_sequences_are_of_about_one_length():
    """An epoch has every sample at most once; only the borders between lengths need padding."""
    lengths = torch.randint(2, 12, (103,), generator=torch.Generator().manual_seed(0))
    order = BatchOrder(103, 10, (0, 1), lengths)
    left_out = []
    for _ in range(6):
        epoch = torch.stack([order.next() for _ in range(10)])  # (batches, seeds, batch)
        for seed in range(2):
            seen = epoch[:, seed].flatten()
            assert len(set(seen.tolist())) == 100
            batches = lengths[epoch[:, seed]]
            spread = batches.max(1).values - batches.min(1).values
            assert int(spread.sum()) <= 12 - 2 - 1
            firsts = batches[:, 0].tolist()
            assert firsts != sorted(firsts)  # the batches are shuffled
            left_out.append(tuple(sorted(set(range(103)) - set(seen.tolist()))))
    assert len(set(left_out)) > 6


def test_pixels_are_drawn_from_their_gray_values():
    gray = torch.linspace(0, 1, 5).expand(2, 4, 5)
    pixels, again = Binarisation((0, 1)), Binarisation((1,))
    draws = torch.stack([pixels.next(gray) for _ in range(2000)])
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    mean = draws.mean((0, 1, 2))
    error = (gray[0, 0] * (1 - gray[0, 0]) / 16000).sqrt()
    assert ((mean - gray[0, 0]).abs() <= 4.5 * error).all()
    assert torch.equal(draws[0][1:], again.next(gray[1:]))  # a seed's own stream
    points = Binarisation((0, 1)).next(gray[:, None].expand(2, 3, 4, 5))
    assert torch.equal(points, draws[0][:, None].expand(2, 3, 4, 5))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Aggressive(window=0), "window=0 must be an integer >= 1 in Aggressive"),
        (lambda: Aggressive(falls=0), "falls=0 must be an integer >= 1 in Aggressive"),
        (lambda: Remedy(beta=-1.0), "beta=-1.0 must be a finite number >= 0 in Remedy"),
        (lambda: Remedy(floor_nats=math.nan), "floor_nats=nan must be a finite number of nats"),
        (lambda: Remedy(floor_per="level"), "floor_per='level' must be 'unit' or 'total'"),
        (lambda: Plateau(patience=0), "patience=0 must be an integer >= 1 in Plateau"),
        (lambda: Plateau(against="all"), "against='all' must be 'decay' or 'best' in Plateau"),
        (lambda: Plateau(factor=1.0), "factor=1.0 must be between 0 and 1 in Plateau"),
        (lambda: named_remedy("agressive", 10), "remedy='agressive' must be one of none, aggr"),
        (
            lambda: trained((PUBLISHED_ONLY,), TrainConfig(steps=5, stop_tolerance=0.1)),
            "stop_tolerance=0.1 must be None with inner loops or a plateau",
        ),
        (
            lambda: trained((Remedy(),), TrainConfig(steps=5, binarise=True)),
            "binarise=True draws black and white pixels, which need likelihood='bernoulli'",
        ),
    ],
)
def test_impossible_remedies_are_refused_by_name(make, words):
    with pytest.raises(ValueError, match=words):
        make()


PUBLISHED_ONLY = Remedy(aggressive=PUBLISHED)


def test_named_remedies():
    assert named_remedy("none", 100) == Remedy()
    both = named_remedy("aggressive-annealing", 100, window=15, falls=1)
    assert both == Remedy(schedule=Annealing(10, 0.1), aggressive=Aggressive(15, falls=1))
    assert named_remedy("free-bits", 9, floor_nats=0.2) == Remedy(floor_nats=0.2)
    assert named_remedy("total-free-bits", 9, floor_nats=2.0).floors == {"total": 2.0}
    assert named_remedy("cyclical", 40).schedule == Cyclical(20)
