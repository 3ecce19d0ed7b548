"""Schedules, early stop, draws, precision: exact values at the corners."""

from __future__ import annotations

import math

import numpy as np
import pytest
import safetensors.torch
import torch

from linvae.data import ImageLayout, gaussian
from linvae.models import Architecture, build_model
from linvae.objectives import GaussianLevel, Terms
from linvae.spec import VAESpec
from linvae.train import (
    Annealing,
    ConstantBetas,
    Cyclical,
    InformationControl,
    Remedy,
    RemedyBetas,
    Stopped,
    TrainConfig,
    TrainingData,
    train,
)
from linvae.train.checkpoint import content_key
from linvae.train.data import Noise

CPU = torch.device("cpu")
SPEC = VAESpec(2, decoder_variance=0.5)


def setup(architecture="linear", n_points=1, n=64):
    data = TrainingData.from_arrays(gaussian((4.0, 2.0, 1.0, 0.5), n, seed=2).target)
    network = Architecture(architecture, hidden=8)
    model = build_model(SPEC, data.target, architecture=network, seeds=(3,), n_points=n_points)
    return data, model


def constant(*factors):
    return ConstantBetas(factors, SPEC.betas, CPU)


def test_learning_rate_schedules_at_their_corners():
    def at(step, **options):
        return TrainConfig(steps=1000, constant_share=0.4, **options).learning_rate_factor(step)

    assert [at(step, schedule="constant") for step in (0, 400, 999)] == [1, 1, 1]
    assert at(400, schedule="linear") == 1
    assert at(700, schedule="linear") == pytest.approx(0.505)  # half of the way to 0.01
    assert at(1000, schedule="linear") == pytest.approx(0.01)
    assert [at(step, warmup_steps=4) for step in range(5)] == [0.25, 0.5, 0.75, 1, 1]
    assert at(700, warmup_steps=800) == pytest.approx(701 / 800 * 0.505)


def shares(weights, n):
    found = []
    for _ in range(n):
        found.append(float(weights.betas()[0, 1, 0]))
        weights.observe(None, 0.0)
    return found


def scheduled(schedule):
    """Betas of two members, the second with three times those of the spec."""
    return RemedyBetas((Remedy(), Remedy(beta=3.0, schedule=schedule)), (2.0,), 1, CPU)


def test_annealed_betas_rise_to_their_value():
    weights = scheduled(Annealing(warmup_steps=4, start=0.2))
    expected = [6 * share for share in (0.2, 0.4, 0.6, 0.8, 1, 1)]
    assert shares(weights, 6) == pytest.approx(expected)


def test_cyclical_betas_rise_once_per_cycle():
    weights = scheduled(Cyclical(steps=16, cycles=2, ramp=0.5))
    cycle = [0, 1.5, 3, 4.5, 6, 6, 6, 6]
    assert shares(weights, 18) == pytest.approx([*cycle, *cycle, 6, 6])
    flat = scheduled(Cyclical(steps=8, cycles=2, ramp=0.0))
    assert shares(flat, 8) == [6] * 8
    assert float(flat.betas()[0, 0, 0]) == 2  # no schedule of its own


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Annealing(0), "warmup_steps=0 must be an integer >= 1 in Annealing"),
        (lambda: Annealing(3, start=1.5), "start=1.5 must be between 0 and 1 in Annealing"),
        (lambda: Cyclical(9, cycles=0), "cycles=0 must be an integer >= 1 in Cyclical"),
        (lambda: Cyclical(9, ramp=-1), "ramp=-1 must be between 0 and 1 in Cyclical"),
        (lambda: TrainConfig(momentum=1.0), r"momentum=1.0 must be in \[0, 1\) in TrainConfig"),
        (lambda: TrainConfig(clip_norm=0.0), "clip_norm=0.0 must be a finite number > 0, or None"),
        (lambda: TrainConfig(schedule="step"), r"schedule='step' must be one of \('cosine'"),
        (lambda: TrainConfig(precision="fp16"), r"precision='fp16' must be one of \('float32'"),
        (lambda: TrainConfig(draws=3), "draws=3 must be 1 or 2 in TrainConfig"),
        (lambda: TrainConfig(steps=5, warmup_steps=6), "between 0 and steps=5 in TrainConfig"),
        (lambda: TrainConfig(stop_tolerance=0.0), "stop_tolerance=0.0 must be a finite number > 0"),
        (lambda: TrainConfig(stop_window=0), "stop_window=0 must be an integer >= 1"),
    ],
)
def test_bad_options_are_refused_by_name(make, words):
    with pytest.raises(ValueError, match=words):
        make()


STOP = {"steps": 400, "batch_size": 64, "learning_rate": 1e-2, "log_every": 1000}


class Record(ConstantBetas):
    """Parameters and objective after every step."""

    def __init__(self, model, *factors):
        super().__init__(factors, SPEC.betas, CPU)
        self.model, self.seen, self.objectives = model, [], []

    def observe(self, terms, progress, stepped=None):
        self.seen.append([p.detach().clone() for p in self.model.parameters()])
        self.objectives.append(terms.objective(self.betas())[0].detach().double().numpy())


def expected_stop(objectives, tolerance, window):
    """The criterion, written out: the step of every member, 0 where it is never met."""
    means = np.array(objectives).reshape(-1, window, 2).mean(axis=1)
    small = np.abs(np.diff(means, axis=0)) <= tolerance * np.abs(means[:-1])
    return [window * (2 + int(c.argmax())) if c.any() else 0 for c in small.T]


def test_member_that_stopped_keeps_what_it_had_then():
    """Full batches of the mlp; the reference runs on and is watched at every step."""
    data, reference = setup("mlp", 2)
    record = Record(reference, 0.2, 4.0)
    train(reference, data, record, TrainConfig(**STOP))
    at = expected_stop(record.objectives, 0.02, 10)
    assert min(at) > 0
    assert at[0] != at[1]  # else the test does not tell members apart
    _, model = setup("mlp", 2)
    config = TrainConfig(**STOP, stop_tolerance=0.02, stop_window=10)
    result = train(model, data, constant(0.2, 4.0), config)
    assert result.stopped == (Stopped(3, 0, at[0]), Stopped(3, 1, at[1]))
    assert result.steps == max(at)
    last_row = {row["point"]: row["step"] for row in result.history}
    assert last_row == dict(enumerate(at))
    for point, step in enumerate(at):
        for found, then in zip(model.parameters(), record.seen[step - 1], strict=True):
            assert torch.equal(found[0, point], then[0, point])


def test_stop_does_not_depend_on_the_others():
    """Bit for bit in stacks of one size: a batched product has one order of sums per size."""
    config = TrainConfig(**STOP, stop_tolerance=0.02, stop_window=10)
    members = []
    for other in (4.0, 0.01):
        data, model = setup("mlp", 2)
        result = train(model, data, constant(0.2, other), config)
        members.append((result.stopped[0], [p[0, 0] for p in model.parameters()]))
    assert members[0][0] == members[1][0]
    assert all(torch.equal(a, b) for a, b in zip(members[0][1], members[1][1], strict=True))


def test_running_statistics_stop_with_their_member():
    """What a member that stopped first is does not depend on how long the other goes on."""
    values = np.random.default_rng(0).normal(size=(64, 16))
    data = TrainingData.from_arrays(values, image=ImageLayout((4, 4, 1)))
    network = Architecture("conv", channels=(2,), batch_norm=True)
    config = TrainConfig(**STOP, stop_tolerance=0.02, stop_window=10)
    found = []
    for longer in (False, True):
        model = build_model(SPEC, data.target, architecture=network, n_points=2, image=data.image)
        weight = constant(4.0, 0.01 if longer else 4.0)
        stopped = {s.point: s.step for s in train(model, data, weight, config).stopped}
        assert (stopped[1] > stopped[0]) is longer
        found.append({k: v[0, 0] for k, v in model.state_dict().items()})
    assert any("running" in name for name in found[0])
    for name, value in found[0].items():
        assert torch.equal(found[1][name], value), name


def test_moving_betas_do_not_stop():
    """Two windows of 10 with the same betas are there after step 50 + 20 and not before."""
    data, model = setup("mlp")
    config = TrainConfig(**STOP, stop_tolerance=1e3, stop_window=10)
    weights = RemedyBetas((Remedy(schedule=Annealing(50)),), SPEC.betas, 1, CPU)
    assert train(model, data, weights, config).stopped == (Stopped(3, 0, 80),)
    _, model = setup("mlp")
    assert train(model, data, constant(1.0), config).stopped == (Stopped(3, 0, 20),)


def test_control_cannot_stop_early():
    data, model = setup()
    control = InformationControl((0.1,), SPEC.betas, 1, 0, CPU)
    with pytest.raises(ValueError, match=r"stop_tolerance=0\.1 must be None with InformationCont"):
        train(model, data, control, TrainConfig(steps=5, stop_tolerance=0.1))


def of_information(*nats: float) -> Terms:
    """Terms of levels that hold so much: means +-m and variance 1, log(1 + m^2)/2 nats."""
    levels = []
    for held in nats:
        m = math.sqrt(math.expm1(2 * held))
        mean = torch.tensor([m, -m])[None, None, :, None]
        levels.append(GaussianLevel(mean, torch.zeros_like(mean)))
    return Terms(torch.zeros(1, 1), (torch.zeros(1, 1, 1),) * len(nats), tuple(levels))


@pytest.mark.parametrize(
    ("held", "sign"),
    [
        ((0.3, 0.0), -1),  # asleep, room below: lower
        ((1.2, 0.0), 1),  # asleep, but the level below holds more than a nat: higher
        ((1.05, 0.3), 1),  # the larger error is its own
        ((0.9, 0.1), 0),
    ],
)
def test_control_of_an_upper_level_does_not_run_away(held, sign):
    control = InformationControl((0.1,), (1.0, 1.0), 1, 1, CPU, most_below=1.0)
    control.observe(of_information(*held), 0.1)
    log_factor = float(control.state()["log_factor"])
    assert np.sign(round(log_factor, 6)) == sign
    free = InformationControl((0.1,), (1.0, 1.0), 1, 1, CPU)  # no bound: nor is it in its identity
    free.observe(of_information(9.0, 0.0), 0.1)
    assert float(free.state()["log_factor"]) < 0
    assert len({content_key(c.setting(0)) for c in (control, free)}) == 2
    first = InformationControl((0.1,), (1.0, 1.0), 1, 0, CPU)
    first.observe(of_information(5.0, 0.0), 0.1)  # level 1 has none below
    assert float(first.state()["log_factor"]) > 0


def test_control_of_an_upper_level_waits_for_slow_training():
    """As low as a linear level of 1.5 nats, all variances fixed: 4 per nat of level 1, 6 of 2."""
    for level in (1, 2):
        control = InformationControl((0.1,), (1.0,) * 3, 1, level, CPU, most_below=1.5)
        awake = of_information(*[0.9] * level, 0.0)
        for _ in range(2000):  # by up to 0.005 each
            control.observe(awake, 0.1)
        floor = -2 * (level + 1) * 1.5
        assert float(control.state()["log_factor"]) == pytest.approx(floor)
        control.observe(of_information(*[0.0] * (level + 1)), 0.1)  # what was known is forgotten
        control.observe(awake, 0.1)
        assert float(control.state()["log_factor"]) < floor - 0.005


@pytest.mark.parametrize("level", [0, 1])
def test_nothing_holds_a_control_that_has_no_level_awake_below(level):
    control = InformationControl((0.1,), (1.0, 1.0), 1, level, CPU, most_below=1.0)
    for _ in range(2000):
        control.observe(of_information(0.0, 0.0), 0.1)
    assert float(control.state()["log_factor"]) == pytest.approx(-2000 * 0.01 / 2, rel=1e-3)


def test_control_of_an_upper_level_goes_on_where_it_was():
    def control() -> InformationControl:
        return InformationControl((0.1,), (1.0, 1.0), 1, 1, CPU, most_below=1.0)

    whole, first, second = control(), control(), control()
    steps = [of_information(0.0, 0.0)] * 300 + [of_information(0.9, 0.0)] * 1500
    for i, terms in enumerate(steps):
        whole.observe(terms, 0.1)
        (first if i < 400 else second).observe(terms, 0.1)
        if i == 399:
            second.restore(first.state())
    assert torch.equal(whole.state()["log_factor"], second.state()["log_factor"])
    assert float(whole.state()["log_factor"]) == pytest.approx(-1.5 - 4, rel=1e-3)  # floor counts
    safetensors.torch.save(control().state())  # no two share memory, after no step or one
    whole.observe(steps[-1], 0.1)
    safetensors.torch.save(whole.state())


class Compiled:
    """As torch's own: it can be called, and has no truth value."""

    def __init__(self, model):
        self.model, self.calls = model, 0

    def __call__(self, *arguments):
        self.calls += 1
        return self.model(*arguments)

    def __len__(self):
        raise TypeError("no len()")


def test_compiled_forward_pass_is_used(monkeypatch):
    data, model = setup()
    made = []
    monkeypatch.setattr(torch, "compile", lambda m: made.append(Compiled(m)) or made[0])
    train(model, data, constant(1.0), TrainConfig(steps=3, compile=True))
    assert made[0].calls == 3


@pytest.mark.parametrize("architecture", ["linear", "mlp"])
def test_two_draws_are_the_mean_of_one_and_its_mirror(architecture):
    """So one draw, both signs of which are equally likely, has the same expected gradient.

    Equal up to the order of float32 sums.
    """
    data, model = setup(architecture)
    (both,) = Noise((2,), (3,), CPU).next(64)
    (one,) = Noise((2,), (3,), CPU, draws=1).next(64)
    assert torch.equal(both[:, :64], one)
    target = data.target[None]

    def gradient(noise):
        model.zero_grad()
        model(target, None, [noise]).objective(torch.ones(1)).sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    for of_both, plus, minus in zip(gradient(both), gradient(one), gradient(-one), strict=True):
        torch.testing.assert_close((plus + minus) / 2, of_both, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(plus, minus, rtol=1e-3, atol=1e-4) or plus.abs().max() < 1e-3


def test_draws_reach_the_training():
    widths = []

    class Watch(ConstantBetas):
        def observe(self, terms, progress, stepped=None):
            widths.append(terms.levels[0].mean.shape[2])

    for draws in (1, 2):
        data, model = setup()
        config = TrainConfig(steps=1, batch_size=16, draws=draws)
        train(model, data, Watch((1.0,), SPEC.betas, CPU), config)
    assert widths == [16, 32]


def test_bfloat16_keeps_parameters_and_objective_in_float32():
    """Products differ by up to 2^-8 of their size: close to float32 and not equal to it."""
    terms = {}

    class Watch(ConstantBetas):
        def observe(self, found, progress, stepped=None):
            terms[precision] = found

    for precision in ("float32", "bf16"):
        data, model = setup("mlp")
        config = TrainConfig(steps=1, batch_size=64, precision=precision)
        train(model, data, Watch((1.0,), SPEC.betas, CPU), config)
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    exact, rough = terms["float32"], terms["bf16"]
    assert rough.distortion.dtype == rough.rates.dtype == torch.float32
    assert rough.levels[0].mean.dtype == torch.float32
    torch.testing.assert_close(rough.distortion, exact.distortion, rtol=0.02, atol=0)
    assert not torch.equal(rough.levels[0].mean, exact.levels[0].mean)


def test_tf32_is_for_cuda():
    data, model = setup()
    with pytest.raises(ValueError, match="precision='tf32' needs a CUDA device, the data are on"):
        train(model, data, constant(1.0), TrainConfig(steps=1, precision="tf32"))
