"""What must hold for escape from collapse, for finite runs and for free bits, on drawn problems.

Symmetries, monotonicity, ordering, and the ends of the flow, as in `test_properties.py`. Draws
shrink to one mode of variance 1 at beta = s = eta^2 = 1, which is exactly its threshold; modes
without variance, equal ones and ones at theta^2 = beta s are among them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from linvae import Moments, VAESpec, solve
from linvae.theory.dynamics import escape_rates, mode_flow
from linvae.theory.finite_training import escape_times, finite_training_threshold
from linvae.theory.free_bits import free_bits_optimum

from .strategies import beta, variance
from .test_properties import ROUNDING, SAME

few = settings(max_examples=max(1, settings.default.max_examples // 3))  # an integration each
fewer = settings(max_examples=max(1, settings.default.max_examples // 7))  # searches over them
# The integrator keeps 1e-10 per step; the unstable direction carries that along unchanged in
# relative terms, over some hundred steps.
FLOW = 1e-7
# First passage: a straight line of log K between 2001 points of a growth by exp(10).
PASSAGE = 1e-4
ROOT = 3e-7  # of beta, where the search stops at 1e-7 of its logarithm

JOINT_OR_NOT = st.sampled_from(["joint", "aggressive"])
RAW_OR_NOT = st.sampled_from(["raw", "whitened"])
modes = st.lists(st.sampled_from([1.0, 2.0, 0.5]) | st.floats(0.05, 5), min_size=1, max_size=4).map(
    np.array
)
weight = st.sampled_from([1e-3, 1e-2]) | st.floats(1e-4, 0.03)


@dataclass(frozen=True, eq=False)
class Flow:
    """Mode variances and the numbers of a model and of its updates, named as arguments."""

    theta2: np.ndarray
    beta: float
    s: float
    eta2: float
    update: str
    encoder_weights: str

    @property
    def model(self) -> dict[str, Any]:
        return {"decoder_variance": self.s, "prior_variance": self.eta2, "update": self.update,
                "encoder_weights": self.encoder_weights}  # fmt: skip

    def rates(self) -> np.ndarray:
        return escape_rates(self.theta2, beta=self.beta, **self.model)

    def scaled(self, data: float, latents: float) -> Flow:
        """The same problem for `data` * y and `latents` * z."""
        return replace(
            self, theta2=data**2 * self.theta2, s=data**2 * self.s, eta2=latents**2 * self.eta2
        )


@st.composite
def flows(draw, update=JOINT_OR_NOT, encoder_weights=RAW_OR_NOT) -> Flow:
    """Any modes; the first may be without variance, or exactly at its threshold."""
    theta2, b, s = draw(modes), draw(beta), draw(variance)
    first = draw(st.sampled_from([None, 0.0, b * s]))
    theta2[0] = theta2[0] if first is None else first
    how = [draw(v) if isinstance(v, st.SearchStrategy) else v for v in (update, encoder_weights)]
    return Flow(theta2, b, s, draw(variance), *how)


@st.composite
def alive(draw, update=JOINT_OR_NOT, encoder_weights=RAW_OR_NOT) -> Flow:
    """All modes above their threshold, the least of them by 10 per cent or more."""
    flow = draw(flows(update, encoder_weights))
    theta2 = np.maximum(flow.theta2, 0.05)
    share = draw(st.sampled_from([0.5, 0.9]) | st.floats(0.1, 0.9))
    return replace(flow, theta2=theta2, beta=share * theta2.min() / flow.s)


def ascends(values, slack=ROUNDING) -> bool:
    """Along the first axis, up to a share `slack` of the values; infinite ones may follow."""
    v = np.asarray(values, dtype=float)
    return bool(np.all((v[1:] >= v[:-1] - slack * np.abs(v[:-1])) | np.isposinf(v[1:])))


# --- rates of escape ------------------------------------------------------------------------------


@given(flow=flows())
def test_escape_exactly_above_the_threshold(flow):
    """Whatever the update: the sign of theta^2 - beta s; a raw row without data is never moved."""
    excess = np.sign(flow.theta2 - flow.beta * flow.s)
    still = (flow.update, flow.encoder_weights) == ("joint", "raw")
    expected = np.where(still & (flow.theta2 == 0), 0.0, excess)
    assert np.array_equal(np.sign(flow.rates()), expected)


@given(flow=flows(update="joint"))
def test_joint_rate_is_the_largest_eigenvalue_of_the_docstring_matrix(flow):
    s, eta2 = flow.s, flow.eta2
    for theta2, rate in zip(flow.theta2, flow.rates(), strict=True):
        rho = theta2 if flow.encoder_weights == "raw" else 1.0
        symmetric = np.sqrt(rho * theta2) / s  # of the same eigenvalues
        matrix = [[-eta2 / s, symmetric], [symmetric, -rho * flow.beta / eta2]]
        assert rate == pytest.approx(np.linalg.eigvalsh(matrix)[-1], rel=SAME, abs=ROUNDING)


@given(flow=flows(), factors=st.lists(st.floats(1, 3), min_size=1, max_size=3))
def test_larger_beta_never_speeds_the_escape(flow, factors):
    betas = flow.beta * np.cumprod([1.0, *factors])
    rates = [escape_rates(flow.theta2, beta=b, **flow.model) for b in betas]
    assert ascends(-np.array(rates))


@given(flow=flows())
def test_more_variance_never_slows_what_escapes(flow):
    """Whitened rows: also what decays. Raw ones only above the threshold."""
    theta2 = np.sort(flow.theta2)
    rates = replace(flow, theta2=theta2).rates()
    if flow.encoder_weights == "raw" and flow.update == "joint":
        rates = rates[theta2 >= flow.beta * flow.s]
    assert ascends(rates)


def test_not_below_the_threshold_with_raw_rows():
    """A row that no data move does not decay either: 0, (sqrt(5/4) - 3/2)/2, 0 at unit numbers."""
    rates = escape_rates([0.0, 0.5, 1.0])
    assert rates == pytest.approx([0.0, (math.sqrt(5 / 4) - 1.5) / 2, 0.0], abs=1e-15)


@given(flow=flows())
def test_aggressive_updates_are_never_slower(flow):
    """Neither out of collapse nor back into it: by (|trace| + root)/(2 encoder's own rate) >= 1."""
    joint, aggressive = (replace(flow, update=u).rates() for u in ("joint", "aggressive"))
    assert np.all(np.abs(aggressive) >= np.abs(joint) * (1 - SAME))


def test_not_sooner_from_a_start_in_the_encoder():
    """Aggressive updates forget the encoder's start, from which the decoder learns at once."""
    start = {"start_weights": (1e-12, 0.05), "beta": 0.5}
    joint, aggressive = (escape_times(1.0, update=u, **start)[0] for u in ("joint", "aggressive"))
    assert joint < 0.25 * aggressive


# --- units ----------------------------------------------------------------------------------------

scale = st.sampled_from([1.0, 2.0]) | st.floats(0.3, 3)


@given(flow=flows(update="joint", encoder_weights="raw"), factor=scale, start=weight)
@few
def test_unit_of_data_and_latents_together(flow, factor, start):
    """y -> a y and z -> a z leave raw weights, their gradients and so the whole flow."""
    other = flow.scaled(factor, factor)
    assert other.rates() == pytest.approx(flow.rates(), rel=SAME, abs=ROUNDING)
    times = [0.0, 1.0, 10.0]
    common = {"times": times, "beta": flow.beta, "start_weights": (start, -start / 2)}
    expected, found = (mode_flow(f.theta2, **common, **f.model) for f in (flow, other))
    for name in ("decoder_weights", "encoder_weights", "rate_nats", "objective"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=FLOW, abs=1e-12)
    v = factor**2 * expected.encoder_variances
    assert found.encoder_variances == pytest.approx(v, rel=FLOW)


@given(flow=alive(update="aggressive"), data=scale, latents=scale, start=weight)
@few
def test_unit_of_data_or_latents_with_aggressive_updates(flow, data, latents, start):
    """Only u flows, in data/latents: a clock slower by (a/c)^2."""
    clock, other = (data / latents) ** 2, flow.scaled(data, latents)
    assert other.rates() * clock == pytest.approx(flow.rates(), rel=SAME)
    u = start * data / latents
    found, expected = (
        escape_times(f.theta2, beta=f.beta, start_weights=w, **f.model)
        for f, w in ((other, u), (flow, start))
    )
    assert found == pytest.approx(clock * expected, rel=SAME)
    times = np.array([1.0, 10.0])
    moved = mode_flow(
        other.theta2, times=clock * times, beta=flow.beta, start_weights=u, **other.model
    )
    still = mode_flow(
        flow.theta2, times=times, beta=flow.beta, start_weights=start, **flow.model
    )  # fmt: skip
    assert moved.rate_nats == pytest.approx(still.rate_nats, rel=FLOW)


@given(flow=flows(update="joint", encoder_weights="whitened"), factor=scale)
def test_unit_of_the_data_with_whitened_rows(flow, factor):
    """y -> a y needs z -> sqrt(a) z, for decoder and whitened row to share a clock slower by a."""
    other = flow.scaled(factor, math.sqrt(factor))
    assert other.rates() * factor == pytest.approx(flow.rates(), rel=SAME, abs=ROUNDING)


@pytest.mark.parametrize("weights", ["raw", "whitened"])
def test_not_for_the_data_alone(weights):
    """theta^2 = 2, all else 1, y -> 2 y: raw [[-1, 2], [2, -2]], whitened [[-1, r], [r, -1]]."""
    one, two = (
        escape_rates(2.0 * a**2, decoder_variance=a**2, encoder_weights=weights)[0]
        for a in (1.0, 2.0)
    )
    expected = {
        "raw": ((math.sqrt(17) - 3) / 2, -4.125 + math.sqrt(3.875**2 + 4)),
        "whitened": (math.sqrt(2) - 1, -0.625 + math.sqrt(0.375**2 + 0.5)),
    }
    assert (one, two) == pytest.approx(expected[weights], rel=1e-12)
    assert min(abs(one / two - a) for a in (0.25, 0.5, 1, 2, 4)) > 0.05


# --- the flow -------------------------------------------------------------------------------------


@given(flow=flows(), start=st.tuples(weight, weight))
@few
def test_every_mode_flows_alone_and_either_sign_alike(flow, start):
    """Modes in any order, one by one, both weights of a unit negative."""
    common = {"times": [0.0, 2.0, 8.0], "beta": flow.beta, **flow.model}
    whole = mode_flow(flow.theta2[::-1], start_weights=start, **common)
    for i, theta2 in enumerate(flow.theta2[::-1]):
        alone = mode_flow(theta2, start_weights=(-start[0], -start[1]), **common)
        for name, sign in (
            ("decoder_weights", -1), ("encoder_weights", -1), ("encoder_variances", 1),
            ("rate_nats", 1), ("objective", 1),
        ):  # fmt: skip
            expected = sign * getattr(alone, name)[:, 0]
            assert getattr(whole, name)[:, i] == pytest.approx(expected, rel=FLOW, abs=1e-12)


@given(
    flow=flows(),
    start=st.tuples(st.floats(-1.5, 1.5), st.floats(-1.5, 1.5)),
    v=st.none() | variance,
    falls=st.lists(st.floats(0.3, 1), max_size=2),
)
@few
def test_objective_falls_unless_beta_rises(flow, start, v, falls):
    """d/dt = -|gradient|^2 + K d beta/dt: from any start, for constant or falling betas."""
    betas = flow.beta * np.cumprod([1.0, *falls])
    knots = [(2.0 * (i // 2 + 1), float(b)) for i, b in enumerate(betas)]  # a jump, then a ramp
    found = mode_flow(
        flow.theta2, times=np.linspace(0, 8, 41), beta=knots, start_weights=start,
        start_variance=v, **flow.model,
    )  # fmt: skip
    assert np.all(np.diff(found.objective, axis=0) <= FLOW * (1 + found.objective[:-1]))
    assert np.all(found.rate_nats >= -ROUNDING)


@given(flow=flows(), start=st.tuples(weight, weight), split=st.floats(0.1, 9.9))
@few
def test_flow_can_be_interrupted(flow, start, split):
    common = {"beta": flow.beta, **flow.model}
    whole = mode_flow(flow.theta2, times=[split, 10.0], start_weights=start, **common)
    u, w = whole.decoder_weights[0], whole.encoder_weights[0]
    for i, theta2 in enumerate(flow.theta2):
        second = mode_flow(
            theta2, times=[10.0 - split], start_weights=(u[[i]], w[[i]]),
            start_variance=whole.encoder_variances[0, i], **common,
        )  # fmt: skip
        # an encoder variance of exp(-log1p) has lost 1e-16 of 1, a decaying weight is below 1e-12
        assert second.rate_nats[0, 0] == pytest.approx(whole.rate_nats[1, i], rel=1e-6, abs=1e-12)
        expected = whole.decoder_weights[1, i]
        assert second.decoder_weights[0, 0] == pytest.approx(expected, rel=1e-6, abs=1e-12)


@given(flow=flows(), start=st.tuples(weight, weight))
@fewer
def test_flow_ends_at_the_optimum(flow, start):
    """Modes within 10 per cent of their threshold are left out: too slow to wait for."""
    level = flow.beta * flow.s
    flow = replace(flow, theta2=flow.theta2[np.abs(flow.theta2 / level - 1) > 0.1])
    d = len(flow.theta2)
    assume(flow.theta2.any())
    moving = np.abs(flow.rates()[flow.theta2 > 0])
    end = 60 / min([0.02, *moving])
    found = mode_flow(
        flow.theta2, times=[end], beta=flow.beta, start_weights=start, **flow.model
    )  # fmt: skip
    spec = VAESpec(d, beta=flow.beta, decoder_variance=flow.s, prior_variance=flow.eta2)
    best = solve(spec, Moments.from_covariance(np.diag(flow.theta2)))
    order = np.argsort(-flow.theta2, kind="stable")
    assert found.rate_nats[0, order] == pytest.approx(best.mode_rates[0], abs=FLOW)
    v = best.encoder_variances[0]
    assert found.encoder_variances[0, order] == pytest.approx(v, abs=FLOW)
    constant = d / 2 * math.log(2 * math.pi * flow.s)
    assert found.objective.sum() + constant == pytest.approx(best.objective, abs=FLOW)


# --- passage of a small KL ------------------------------------------------------------------------


@given(flow=alive(), start=st.tuples(weight, weight), factor=st.floats(1, 5))
@few
def test_escape_takes_longer_from_less_to_more_and_at_a_larger_beta(flow, start, factor):
    """Start, epsilon and beta by one factor; infinite where the optimum holds no more."""

    def times(shrink=1.0, epsilon=0.01, b=flow.beta, linearised=False):
        begin = (start[0] / shrink, start[1] / shrink)
        return escape_times(
            flow.theta2, beta=b, start_weights=begin, epsilon_nats=epsilon, linearised=linearised,
            **flow.model,
        )  # fmt: skip

    for linearised in (False, True):
        how = {"linearised": linearised}
        now = times(**how)
        slack = 10 * PASSAGE
        assert ascends([now, times(shrink=factor, **how)], slack)
        assert ascends([now, times(epsilon=0.01 * factor, **how)], slack)
        assert ascends([now, times(b=flow.beta * factor, **how)], slack)
        final = np.log(flow.theta2 / (flow.beta * factor * flow.s)) / 2
        later = times(b=flow.beta * factor, **how)
        assert np.array_equal(np.isfinite(later), (final > 0.01) | (later == 0))  # or began there
        barely = flow.theta2 / flow.s * math.exp(-2 * 0.0099)  # an optimum of 0.0099 nats
        assert np.all(np.isin(times(b=barely, **how), [0, np.inf]))


@given(flow=alive(), start=st.tuples(weight, weight), epsilon=st.floats(0.002, 0.04))
@few
def test_escape_time_is_when_the_flow_is_there(flow, start, epsilon):
    common = {"beta": flow.beta, "start_weights": start, **flow.model}
    for theta2 in flow.theta2:
        time = escape_times(theta2, epsilon_nats=epsilon, **common)[0]
        if time == 0:
            rate = mode_flow(theta2, times=[0.0], **common).rate_nats
            assert rate[0, 0] >= epsilon
        elif math.isfinite(time):
            rate = mode_flow(theta2, times=[0.9 * time, time], **common).rate_nats[:, 0]
            assert rate[0] < epsilon
            assert rate[1] == pytest.approx(epsilon, rel=10 * PASSAGE)


@given(flow=alive(), epsilon=st.sampled_from([1e-2, 1e-3]) | st.floats(1e-4, 1e-2))
@few
def test_linearised_escape_is_late_or_early_by_order_epsilon(flow, epsilon):
    """In units of 1/rate; the start is so small that its decaying part has gone."""
    common = {"beta": flow.beta, "start_weights": 1e-7, "epsilon_nats": epsilon, **flow.model}
    full, linear = (escape_times(flow.theta2, linearised=v, **common) for v in (False, True))
    # encoder and decoder out of step, slow rows of little variance: larger with joint updates
    allowed = (20 if flow.update == "joint" else 3) * epsilon + PASSAGE
    assert np.all(np.abs(full - linear) * flow.rates() < allowed)


# --- what a finite run sees -----------------------------------------------------------------------

FIELDS = ("linearised_beta", "observed_beta")


def seen(flow: Flow, **changes):
    """A run of flow time 6, or that of `changes`; curvatures here are up to 2500, far below 2e4."""
    numbers = {"n_steps": 60_000, "learning_rate": 1e-4, "start_weights": 1e-3} | changes
    return finite_training_threshold(flow.theta2, **numbers, **flow.model)


def two(flow: Flow) -> Flow:
    """The first two modes: each search follows the flow some twenty times."""
    return replace(flow, theta2=flow.theta2[:2])


runs = flows().map(two)


@given(flow=runs, factor=st.integers(2, 4), epsilon=st.sampled_from([0.01, 0.05]))
@fewer
def test_longer_runs_see_more_and_never_all(flow, factor, epsilon):
    """Nor more than infinite training does; steps times learning rate is all that counts."""
    one = seen(flow, epsilon_nats=epsilon)
    more = seen(flow, epsilon_nats=epsilon, n_steps=60_000 * factor)
    first = replace(flow, theta2=flow.theta2[:1])
    smaller = seen(
        first, epsilon_nats=epsilon, n_steps=60_000 * factor, learning_rate=1e-4 / factor
    )  # fmt: skip
    assert one.critical_beta == pytest.approx(flow.theta2 / flow.s, rel=SAME)
    infinite = flow.theta2 / flow.s * math.exp(-2 * epsilon)
    assert one.infinite_training_beta == pytest.approx(infinite, rel=SAME)
    for name in FIELDS:
        short, long, same = (getattr(found, name) for found in (one, more, smaller))
        assert ascends([short, long, infinite], ROOT)
        assert same == pytest.approx(short[:1], rel=ROOT)
        assert np.all(short[flow.theta2 == 0] == 0)


@given(flow=runs, factor=st.floats(1, 5))
@fewer
def test_run_sees_less_of_a_smaller_start_and_of_a_stricter_count(flow, factor):
    one = seen(flow)
    smaller, stricter = (
        seen(flow, start_weights=1e-3 / factor),
        seen(flow, epsilon_nats=factor / 100),
    )
    for name in FIELDS:
        for less in (smaller, stricter):
            assert ascends([getattr(less, name), getattr(one, name)], ROOT)


@given(flow=runs)
@fewer
def test_at_its_threshold_a_run_is_as_long_as_the_escape(flow):
    """Slopes: d log(time)/d log(beta) is of order 1 to 100 here, and times are good to 1e-4."""
    found = seen(flow)
    positive = found.observed_beta > 0
    for name, linearised in zip(FIELDS, (True, False), strict=True):
        b = getattr(found, name)[positive]
        if len(b):
            times = escape_times(
                flow.theta2[positive], beta=b, start_weights=1e-3, linearised=linearised,
                **flow.model,
            )  # fmt: skip
            assert times == pytest.approx(6.0, rel=10 * PASSAGE)


# --- free bits ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Floor:
    theta2: np.ndarray
    units: int
    floor: float
    beta: float
    s: float
    per: str

    def optimum(self):
        return free_bits_optimum(
            self.theta2, latent_dim=self.units, floor_nats=self.floor, beta=self.beta,
            decoder_variance=self.s, per=self.per,
        )  # fmt: skip


@st.composite
def floors(draw) -> Floor:
    flow = draw(flows())
    floor = draw(st.sampled_from([0.0, 0.5]) | st.floats(0, 1.5))
    per = draw(st.sampled_from(["unit", "total"]))
    return Floor(flow.theta2, draw(st.integers(1, 6)), floor, flow.beta, flow.s, per)


@given(case=floors())
def test_no_floor_is_the_plain_model(case):
    assume(case.theta2.any())  # moments without variance are refused
    found = replace(case, floor=0.0).optimum()
    spec = VAESpec(case.units, beta=case.beta, decoder_variance=case.s)
    plain = solve(spec, Moments.from_covariance(np.diag(case.theta2)))
    constant = len(case.theta2) / 2 * math.log(2 * math.pi * case.s)
    assert found.objective + constant == pytest.approx(plain.objective, rel=SAME, abs=ROUNDING)
    assert found.unit_rates_nats == pytest.approx(plain.mode_rates[0, : case.units], abs=SAME)
    errors = (plain.mode_variances * plain.noise_fractions[0])[: len(case.theta2)]
    assert found.squared_errors == pytest.approx(errors, abs=SAME)
    assert found.price_nats == pytest.approx(plain.rates[0], abs=SAME)


@given(case=floors())
def test_floor_is_what_it_says(case):
    """The price and the objective are those of the rates; what a mode tells was paid for."""
    found = case.optimum()
    rates, price = found.unit_rates_nats, found.price_nats
    lowest = [max(r, case.floor) for r in rates]
    assert price == pytest.approx(
        sum(lowest) if case.per == "unit" else max(sum(rates), case.floor), rel=SAME
    )
    value = found.squared_errors.sum() / (2 * case.s) + case.beta * price
    assert found.objective == pytest.approx(value, rel=SAME)
    assert np.all(found.squared_errors <= found.mode_variances * (1 + SAME))
    # mutual information is at most the rate, for any encoder; no floor leaves free bits unused
    assert found.information_nats.sum() <= sum(rates) + ROUNDING
    if case.theta2.any():
        assert np.all(rates >= case.floor - ROUNDING) or case.per == "total"
        assert rates.sum() >= case.floor - ROUNDING


@given(case=floors(), factor=scale)
def test_free_bits_in_any_order_and_any_unit(case, factor):
    found = case.optimum()
    other = replace(case, theta2=factor * case.theta2[::-1], s=factor * case.s).optimum()
    assert other.objective == pytest.approx(found.objective, rel=SAME)
    assert other.mode_variances == pytest.approx(factor * np.sort(case.theta2)[::-1], rel=SAME)
    if len(np.unique(case.theta2)) == len(case.theta2):  # equal modes may share in many ways
        assert other.unit_rates_nats == pytest.approx(found.unit_rates_nats, abs=1e-7)
        assert other.squared_errors == pytest.approx(factor * found.squared_errors, rel=1e-7)


@given(case=floors(), rise=st.floats(0, 0.5))
def test_higher_floor_costs_more_by_no_more_than_its_price(case, rise):
    """Continuous, too: from R to max(R, f + rise) is at most `rise`, unit by unit."""
    low, high = (replace(case, floor=case.floor + r).optimum() for r in (0.0, rise))
    units = case.units if case.per == "unit" else 1
    slack = ROUNDING * (1 + high.objective)
    assert low.objective <= high.objective + slack
    assert high.objective <= low.objective + case.beta * units * rise + slack


def test_not_a_lower_error_by_a_higher_floor():
    """Two equal modes, three units: the idle one has to be paid, so all three share."""
    case = Floor(np.ones(2), units=3, floor=0.0, beta=1.0, s=0.25, per="unit")
    free, floored = case.optimum(), replace(case, floor=0.5).optimum()
    assert free.squared_errors == pytest.approx([0.25, 0.25])
    # power e^(2 f) - 1 of each unit, in equal parts on the two modes
    assert floored.squared_errors == pytest.approx(np.full(2, 1 / (1 + 1.5 * (np.e - 1))), rel=SAME)


@given(case=floors(), rise=st.floats(0.01, 0.5))
def test_total_floor_costs_convexly(case, rise):
    """The rate-distortion function is convex, and so is its least value with max(R, f)."""
    values = [
        replace(case, per="total", floor=case.floor + i * rise).optimum().objective
        for i in range(3)
    ]
    assert values[0] + values[2] >= 2 * values[1] - ROUNDING * (1 + values[2])


@given(case=floors())
def test_total_floor_never_costs_more_than_one_per_unit(case):
    """max(sum R, k f) <= sum max(R, f), equal for one unit."""
    unit = replace(case, per="unit").optimum().objective
    total = replace(case, per="total", floor=case.units * case.floor).optimum().objective
    assert total <= unit * (1 + SAME)
    if case.units == 1:
        assert total == pytest.approx(unit, rel=SAME)


@given(case=floors(), factor=st.floats(1, 4))
def test_larger_beta_never_buys_more_with_a_floor(case, factor):
    """And the least of lines in beta is concave."""
    middle = (1 + factor) / 2
    found = [replace(case, beta=f * case.beta).optimum() for f in (1.0, middle, factor)]
    values, prices = [f.objective for f in found], [f.price_nats for f in found]
    slack = ROUNDING * (1 + values[2])
    assert values[0] <= values[1] + slack <= values[2] + 2 * slack
    assert values[0] + values[2] <= 2 * values[1] + slack
    # equal at a beta where two optima meet, up to rounding of their objectives
    assert ascends([-p for p in prices], 1e-6)


@given(case=floors())
def test_one_more_unit_costs_no_more_than_its_floor(case):
    one, more = case.optimum(), replace(case, units=case.units + 1).optimum()
    allowed = case.beta * case.floor if case.per == "unit" else 0.0
    assert more.objective <= one.objective + allowed + ROUNDING * (1 + one.objective)


@given(case=floors(), above=st.floats(1, 30), seed=st.integers(0, 1000))
@example(case=Floor(np.array([4.3, 4.2]), 5, 0.085, 2.8, 0.33, "unit"), above=1, seed=0)  # a payer
def test_no_other_way_of_sharing_does_better(case, above, seed):
    found = replace(case, per="unit").optimum().objective
    rng = np.random.default_rng(seed)
    for owners in range(min(case.units, len(case.theta2)) + 1):
        for factor in [above, *np.geomspace(1, 100, 13)]:
            for size in (0.0, 0.1):
                value = shared(case, owners, factor, size * rng.normal(size=case.units))
                assert value >= found - ROUNDING * (1 + found)


def shared(case: Floor, owners: int, above: float, noise: np.ndarray) -> float:
    """The objective where `owners` units have a mode each and the others share the rest.

    Signal-to-noise ratios x of units, in some basis, can be those p of modes that majorise them:
    here x is equal for all that share, or that of one is larger, by at most the largest p.
    `above`: power of that one in units of the floor's. `noise`: relative, of p.
    """
    theta2 = np.sort(case.theta2)[::-1]
    m, n = min(case.units, len(theta2)), case.units - owners
    p, free = np.zeros(case.units), math.expm1(2 * case.floor)
    p[:owners] = np.maximum(theta2[:owners] / (case.beta * case.s) - 1, 0)
    theta, power = np.sqrt(theta2[owners:m]), (n - 1 + above) * free
    if theta.any():  # p = max(0, theta * level - 1) spends the power where it saves most
        low, high = 0.0, (1 + power) / theta.max()
        for _ in range(60):
            level = (low + high) / 2
            enough = np.maximum(theta * level - 1, 0).sum() > power
            low, high = (low, level) if enough else (level, high)
        p[owners:m] = np.maximum(theta * low - 1, 0)
    p *= np.exp(noise)
    x = p.copy()
    if n:
        first = p[owners:].sum() - (n - 1) * free
        one_larger = free <= first <= p[owners:].max()
        x[owners:] = [first, *[free] * (n - 1)] if one_larger else p[owners:].mean()
    errors = theta2.copy()
    errors[:m] /= 1 + p[:m]
    rates = np.maximum(np.log1p(x) / 2, case.floor)
    return float(errors.sum() / (2 * case.s) + case.beta * rates.sum())


def test_not_for_nothing():
    """One mode at its threshold, floor 1/2: a second idle unit costs 1/2 and saves less."""
    one, two = (free_bits_optimum(1.0, latent_dim=k, floor_nats=0.5).objective for k in (1, 2))
    assert one == pytest.approx(0.5 + math.exp(-1) / 2, rel=1e-12)
    assert two == pytest.approx(1.0 + 1 / (2 * (2 * math.e - 1)), rel=1e-12)
