"""Escape rates measured in the engine: the rule of measurement, small runs, the kept rows."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from analysis.escape_rates import (
    FAMILIES,
    FIRST,
    HIGH,
    LAG,
    LOW,
    Setting,
    all_settings,
    growth_per_step,
    inner_loop_rate,
    loop_length,
    measure,
    passage,
)
from analysis.local_growth import Curvature, Small, linear_path, network_speeds
from analysis.network_escape import gaussian_case
from figures.rows import kept
from linvae.data import gaussian
from linvae.train import TrainResult

# flattened by saturation, as the module derives
SATURATION = HIGH / math.log(HIGH / LOW)
KEPT = 0.05


def setting(update: str, ratio: float = 0.5, family: int = 1) -> Setting:
    return Setting(*FAMILIES[family], ratio, update)


def saturating(growth: float, final: float, n: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    steps = np.arange(n)
    grown = FIRST * final * np.exp(np.minimum(2 * growth * steps, 600))
    return steps, grown / (1 + grown / final)


@pytest.mark.parametrize("growth", [0.01, 0.1])
def test_slope_of_an_exponential_that_saturates(growth):
    found = growth_per_step(*saturating(growth, 0.3), 0.3)
    assert 1 - 2 * SATURATION < found / growth < 1  # least squares weigh the bent end up to twice
    steps = np.arange(2000)
    pure = FIRST * 0.3 * np.exp(np.minimum(2 * growth * steps, 600))
    assert growth_per_step(steps, pure, 0.3) == pytest.approx(growth, rel=1e-12)


def test_too_few_rows_for_a_slope():
    with pytest.raises(
        ValueError, match=r"2 rows have a KL between 0\.0001 and 0\.01 of 0\.3 nats"
    ):
        growth_per_step([0, 1, 2, 3], [1e-7, 1e-4, 1e-3, 0.1], 0.3)


def test_passage_of_an_exponential():
    steps = np.arange(0, 40, 3)
    rates = 1e-4 * np.exp(0.3 * steps)
    assert passage(steps, rates, 0.01) == pytest.approx(math.log(100) / 0.3, rel=1e-12)
    assert passage(steps, rates, 1e9) == math.inf
    assert passage(steps, rates, 1e-5) == 0


def test_length_of_loops_counts_rows_of_encoders():
    rows = [{"step": s, "point": 0, "rate_nats": 0.0} for s in (0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 4)]
    mean, spread = loop_length(TrainResult(rows, 0.0, 4), 0, until=4)
    assert (mean, spread) == (pytest.approx(2.5), pytest.approx(0.5))  # two after 1, three after 2


@pytest.mark.parametrize("ratio", [0.3, 0.7, 0.95])
def test_inner_loops_lie_between_joint_and_aggressive(ratio):
    joint, limit = setting("joint", ratio).rate, setting("aggressive", ratio)
    assert inner_loop_rate(limit, 100_000) == pytest.approx(limit.rate, rel=1e-9)
    rates = [inner_loop_rate(limit, m) for m in (1, 2, 5, 20, 100)]
    assert rates == sorted(rates) and rates[-1] < limit.rate
    # an encoder m times as fast: exact for small steps
    slow = _Slow(limit.spectrum, limit.s, limit.eta2, ratio, "joint")
    assert inner_loop_rate(slow, 1) == pytest.approx(joint, rel=1e-4)
    system = slow.system
    faster = replace(system, rho=7 * system.rho).growth(np.array([slow.beta]))[0]
    assert inner_loop_rate(slow, 7) == pytest.approx(faster, rel=1e-3)


class _Slow(Setting):
    learning_rate = 1e-5


def test_no_inner_loop_pays_in_passes():
    """growth(m rho) <= m growth(rho), whatever the setting."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        spectrum = tuple(np.sort(rng.gamma(1, size=4))[::-1])
        one = Setting(spectrum, rng.gamma(2), rng.gamma(2), rng.uniform(0.05, 0.99), "joint")
        growth = [
            float(replace(one.system, rho=m * one.system.rho).growth(np.array([one.beta]))[0])
            for m in (1, 2, 10, 100)
        ]
        for m, faster in zip((1, 2, 10, 100), growth, strict=True):
            assert faster <= m * growth[0] * (1 + 1e-12)
        assert growth == sorted(growth)


@pytest.mark.parametrize(("update", "family"), [("joint", 1), ("joint", 3), ("aggressive", 2)])
def test_measured_rate_is_the_predicted_one(update, family):
    row = measure(setting(update, 0.5, family))
    low = 2 * SATURATION + (LAG if update == "aggressive" else 0)
    assert -low - 0.002 < row["measured_over_predicted"] - 1 < 0.002
    # the flow of descent in steps of a fifth: its growth is that of a step, its bend another one
    assert row["measured_steps"] == pytest.approx(row["predicted_steps_discrete"], rel=0.06)


# --- second derivatives at the start ------------------------------------------------------------


def linear_case(network: str = "linear"):
    y = gaussian((4.0, 2.0, 1.0, 1.0), 200, seed=1).target
    return gaussian_case("gaussian", y, 1.0, network, 0.3)


def test_curvature_of_the_engine_has_the_escape_rate():
    from linvae.theory.dynamics import escape_rates

    case = linear_case()
    for ratio in (0.3, 0.8):
        model = case.model()
        H = Curvature(model, case.data, ratio * case.critical)
        size = sum(
            p.numel() for side in (Small.of(model).encoder, Small.of(model).decoder) for p in side
        )
        dense = torch.stack([H.product(row) for row in torch.eye(size)])
        rate = escape_rates([case.theta2], beta=ratio * case.critical, decoder_variance=case.s)[0]
        # float32 sums of 200 samples
        assert -float(torch.linalg.eigvalsh(dense)[0]) == pytest.approx(rate, rel=1e-4)
        torch.testing.assert_close(H.encoder(), dense[: H.width, : H.width])


@pytest.mark.parametrize("inner", [0, 4])
def test_linear_path_grows_as_theory_says(inner):
    case = linear_case()
    step = case.learning_rate / case.model().curvature
    path = linear_path(case.model(), case.data, 0.5 * case.critical, step, inner, 1.0)
    found = math.expm1(math.log(path[-1] / path[-6]) / 10) / step

    class Same(Setting):
        learning_rate = case.learning_rate

    update = "aggressive" if inner else "joint"
    same = Same((4.0, 2.0, 1.0, 1.0), 1.0, 1.0, 0.5, update)
    expected = inner_loop_rate(same, inner) if inner else same.rate
    assert found == pytest.approx(expected, rel=1e-3)  # what is left of other modes


def test_speeds_of_a_linear_network_are_one_and_rho():
    case = linear_case()
    speeds = network_speeds(case.model(), case.data, case.writes, case.scores)
    assert speeds.decoder == pytest.approx(1, rel=5e-4)  # 3e-4 lie beyond the last nodes
    assert speeds.encoder == pytest.approx(case.theta2, rel=1e-5)
    model = case.model()
    u = model.weights(0, 0)["U"][:, 0] / model.scale  # in scaled units
    assert speeds.u == pytest.approx(float(case.writes.double().numpy() @ u), rel=5e-4)


def test_an_mlp_has_the_speed_of_its_features():
    """The decoder's outer layer alone: sum over hidden units of E[z h(z)]^2."""
    case = linear_case("tanh")
    model = case.model()
    speeds = network_speeds(model, case.data, case.writes, case.scores)
    z = torch.linspace(-6, 6, 4001)
    mass = torch.softmax(-z.square() / 2, 0)
    h = model.decoders[0].hidden(z[None, None, :, None])[0, 0].detach()
    outer = float(((mass * z) @ h).square().sum())
    assert speeds.decoder == pytest.approx(outer, rel=0.01)  # the inner layer: START squared of it


# --- what is kept -------------------------------------------------------------------------------


def test_at_least_twenty_rates_are_kept_and_within_five_per_cent():
    rows = kept("escape_rates")["rates"]
    assert len(rows) == len(all_settings()) and len(rows) >= 20
    for row, asked in zip(rows, all_settings(), strict=True):
        assert row["predicted_rate"] == pytest.approx(asked.rate, rel=1e-12)
        assert abs(row["measured_rate"] / asked.rate - 1) < KEPT, row
    for update in ("joint", "aggressive"):
        assert sum(row["update"] == update for row in rows) >= 20


def test_kept_units_and_loops():
    record = kept("escape_rates")
    assert all(abs(row["measured_over_predicted"] - 1) < KEPT for row in record["units"])
    for row in record["inner_loops"]:
        assert row["measured_gain_in_decoder_steps"] > 1  # fewer steps of the decoder
        assert row["measured_cost_in_passes"] > 1  # but never less work
    chance = [row for row in record["inner_loops"] if row["batch_size"] == 50]
    for row in chance:
        assert row["encoder_steps_per_decoder_step"] == pytest.approx(row["by_chance"], rel=0.15)


def test_kept_networks_escape_in_the_predicted_order_and_near_the_predicted_time():
    rows = kept("escape_rates")["networks"]
    seen = {(r["network"], r["beta_over_critical"], r["update"]): r["measured_steps"] for r in rows}
    for (network, ratio, update), steps in seen.items():
        if update == "joint":
            assert seen[network, ratio, "aggressive"] < steps
    for row in rows:
        off = abs(math.log(row["measured_steps"] / row["path_steps"]))
        # linear: only saturation is approximated. relu and the PixelCNN: the latent's noise kicks
        # them before they grow, the more, the more steps of the encoder there are
        bound = {"linear": 0.02, "pixelcnn": 1.5}.get(row["network"].split(", ")[1], 0.35)
        assert off < bound, row
