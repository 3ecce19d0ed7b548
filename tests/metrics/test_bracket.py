"""Two branches: the ends by hand, the threshold of linear models inside, what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from linvae.data import gaussian
from linvae.metrics import (
    Bracket,
    Branch,
    ExchangeRatios,
    bracket_threshold,
    estimate_threshold,
)
from linvae.metrics.bracket import EXTENSIONS, POINTS, _not_far, _of_few, bracket_grid
from linvae.metrics.threshold import _bracket_estimate
from linvae.models import build_model
from linvae.moments import Moments
from linvae.spec import CVAESpec, HVAESpec, VAESpec
from linvae.theory import solve
from linvae.train import CellStore, TrainConfig, TrainingData, cells

FACTORS = np.array([0.8, 0.9, 1.0, 1.1])


def branch(*nats: tuple[float, float, float, float], before: float = 1.0) -> Branch:
    """One branch of one seed per row of final K; `before` times that half-way."""
    last = np.array(nats)
    information = np.stack([last, before * last, last, last])
    return Branch(FACTORS, information, np.zeros_like(last), np.ones_like(last))


def made(alive: Branch, collapsed: Branch) -> Bracket:
    none = ExchangeRatios.none((1, 1))
    return Bracket(1, (0,), alive, collapsed, none, 9, 1.0)


def test_ends_and_cut_off():
    found = made(branch((0.2, 0.1, 0.05, 0.001)), branch((0.2, 0.1, 0.002, 0.001)))
    assert found.lows[0] == 0.9
    assert found.highs[0] == pytest.approx(1.1 * np.exp(2 * 0.001))
    assert not found.low_drifting[0]
    assert not found.high_drifting[0]


@pytest.mark.parametrize(
    ("last", "before", "alive"),
    [
        (0.03, 2.0, True),  # falling, but far from dead
        (0.012, 1.1, True),  # small and still: a linear unit 2.4 % below its threshold
        (0.012, 1.5, False),  # small and falling
        (0.004, 1.0, False),  # what noise may hold
        (0.012, 0.5, True),  # small and growing
    ],
)
def test_dead_is_small_and_falling_or_idle(last, before, alive):
    found = branch((last, 0, 0, 0), before=before).alive
    assert found[0, 0] == alive
    assert not found[0, 1:].any()


def test_a_gap_in_the_alive_branch_is_not_its_end():
    found = made(branch((0.2, 0.001, 0.05, 0.001)), branch((0.2, 0, 0, 0)))
    assert found.highs[0] == pytest.approx(1.1 * np.exp(0.002))


def test_ends_that_are_not_there():
    found = made(branch((0.3, 0.2, 0.1, 0.05)), branch((0.0, 0.0, 0.0, 0.0)))
    assert np.isnan(found.lows[0])
    assert found.highs[0] == np.inf


def test_the_upper_end_is_above_the_lower_one():
    """A collapsed branch that lives where the alive one died: an under-trained case."""
    found = made(branch((0.2, 0.001, 0.001, 0.001)), branch((0.2, 0.1, 0.03, 0.0)))
    assert found.lows[0] == 1.0
    assert found.highs[0] == pytest.approx(1.1 * np.exp(0.002))


def test_drift_is_flagged_where_it_moves_an_end():
    growing = made(branch((0.2, 0.1, 0.05, 0.001)), branch((0.2, 0.1, 0.0045, 0.0), before=0.5))
    assert not growing.low_drifting[0]  # 0.0045 nats are noise
    last = np.array([[0.2, 0.03, 0.006, 0.0]])
    before = np.array([[0.2, 0.03, 0.012, 0.0]])
    falling = Branch(FACTORS, np.stack([last, before, last, last]), last, last)
    rising = Branch(FACTORS, np.stack([last, last, last, before]), last, last)
    assert not made(falling, falling).high_drifting[0]  # of 0.03 nothing moved, 0.006 is dead
    assert made(branch((0.1, 0.1, 0.03, 0.0), before=1.3), falling).high_drifting[0]
    assert rising.alive[0].tolist() == [True, True, True, False]
    assert rising.drifting[0].tolist() == [False, False, True, False]


def test_free_energy_tells_better_from_transient():
    last = np.array([[0.2, 0.1, 0.1, 0.001]])
    nats = np.stack([last] * 4)
    found = Branch(FACTORS, nats, np.array([[-0.3, -0.1, 0.3, 0.3]]), np.full((1, 4), 0.1))
    assert found.better[0].tolist() == [True, False, False, False]
    assert found.transient[0].tolist() == [False, False, True, False]


def test_grid_surrounds_what_was_observed():
    grid = bracket_grid([0.9, np.nan, 1.3, np.inf, -1.0])
    assert len(grid) == POINTS
    assert grid[0] == pytest.approx(0.9 / 1.12)
    assert grid[-1] == pytest.approx(1.3 * 1.12)
    assert np.ptp(np.diff(np.log(grid))) < 1e-12
    with pytest.raises(ValueError, match="observed has no finite value: the control runs found no"):
        bracket_grid([np.nan])


def test_what_is_far_below_the_rest_does_not_coarsen_the_grid():
    """A local threshold of 0.0035 beside 0.6 (digits, conditional, convolutions)."""
    assert _not_far([0.59, np.nan, 0.68, 0.0035, np.inf, 0.35]) == [0.59, 0.68, 0.35]
    assert _not_far([np.nan]) == []


def test_two_errors_of_few_draws_are_as_rare_as_two_of_many():
    """Draws without energy: beyond two errors in 2.28 % of 20 000 brackets, standard error 0.11 %.

    Two standard errors of 4 draws would be passed by 7 %.
    """
    rng = np.random.default_rng(0)
    for n in (4, 16):
        draws = rng.normal(size=(n, 20_000))
        error = _of_few(n) * draws.std(axis=0, ddof=1) / np.sqrt(n)
        share = np.mean(draws.mean(axis=0) < -2 * error)
        assert abs(share - 0.02275) < 4 * 0.0011
    assert _of_few(10**6) == pytest.approx(1, abs=1e-5)


def test_bracket_of_seeds_says_where_one_has_no_lower_end():
    one = made(branch((0.2, 0.1, 0.05, 0.001)), branch((0.2, 0.0, 0.0, 0.0)))
    both = replace(
        one,
        seeds=(0, 1),
        alive=branch((0.2, 0.1, 0.05, 0.001), (0.2, 0.1, 0.05, 0.001)),
        collapsed=branch((0.2, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0)),
    )
    assert (_bracket_estimate(one).low, _bracket_estimate(one).seeds) == (0.8, 1)
    assert (_bracket_estimate(both).low, _bracket_estimate(both).seeds) == (-np.inf, 1)


PLAIN = gaussian([4.0, 1.0, 0.3], 300, seed=4)
CONDITIONAL = gaussian([3.0, 1.0, 0.3], 300, correlation=[0.6, 0.2, 0.0], condition_dim=2, seed=3)
TWO_LEVELS = HVAESpec.markovian((1, 1), encoder_variances=(0.5, None))


@pytest.mark.parametrize(
    ("spec", "dataset", "level"),
    [
        (VAESpec(1, decoder_variance=0.5), PLAIN, 1),
        (CVAESpec(1, decoder_variance=0.5), CONDITIONAL, 1),
        (TWO_LEVELS, PLAIN, 2),
    ],
    ids=["vae", "cvae", "hvae-2"],
)
def test_threshold_of_a_linear_model_lies_inside(spec, dataset, level):
    data = TrainingData.from_arrays(dataset.target, dataset.condition)
    # 400 steps leave level 2 asleep, and batches of 64 keep it half awake 2.6 % above
    steps, batch = (400, 64) if level == 1 else (1600, 128)
    config = TrainConfig(steps=steps, batch_size=batch, learning_rate=6e-3)
    found = estimate_threshold(
        spec, data, level=level, seeds=(0,), config=config, bracket=True, settle=False
    )
    moments = Moments.from_data(dataset.target, dataset.condition)
    critical = solve(spec, moments).level_critical_betas[level - 1, 0] / spec.betas[0]
    bracket = found.bracket
    assert bracket.lows[0] < critical < bracket.highs[0]
    # within its grid and drift: two steps, or an end that a longer run would move
    step = bracket.alive.factors[1] / bracket.alive.factors[0]
    narrow = bracket.highs[0] / bracket.lows[0] < step**2 * 1.02
    assert narrow or bracket.low_drifting[0] or bracket.high_drifting[0]
    assert bracket.runs >= 2 * POINTS + 1
    if level == 1:
        # the collapsed branch has settled, the alive one is short of time in so short a run
        settled = bracket.collapsed.free_energies[0, bracket.collapsed.factors < 0.95 * critical]
        assert np.all(settled < 0)
    else:
        assert np.isnan(bracket.alive.free_energies).all()
    kinds = {e.method: e.kind for e in found.estimates()}
    assert kinds["bracket"] == "empirical"
    if isinstance(spec, CVAESpec):
        assert kinds["certificate"] == "empirical"
    elif isinstance(spec, VAESpec):
        assert kinds["certificate"] == "certain"
        assert found.certified_factors[0] < critical


def test_grid_is_extended_while_a_branch_does_not_end():
    """Placed a factor 2 too low and too high: it goes up, and down, until both ends are seen."""
    data = TrainingData.from_arrays(gaussian([3.0, 0.2], 300, seed=0).target)
    config = TrainConfig(steps=300, batch_size=64, learning_rate=6e-3)
    source = build_model(VAESpec(1), data.target, n_points=7)
    for observed in (1.2, 6.0):
        found = bracket_threshold(source, data, config, level=1, observed=[observed])
        assert found.lows[0] < 3.0 < found.highs[0] * 1.05
        beyond = found.alive.factors if observed < 3 else found.collapsed.factors
        assert POINTS < len(beyond) <= POINTS + 3 * EXTENSIONS


SHORT = TrainConfig(steps=120, batch_size=64, learning_rate=6e-3)


def same(found: Bracket, expected: Bracket) -> bool:
    """Bit for bit, the certificate too."""
    pairs = [(found.ratios.factors, expected.ratios.factors)]
    for name in ("alive", "collapsed"):
        one, other = (vars(getattr(b, name)) for b in (found, expected))
        pairs += [(one[key], other[key]) for key in one]
    return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)


def stop_at_60(step: int) -> None:
    if step >= 60:
        raise KeyboardInterrupt


@pytest.mark.parametrize("spec", [VAESpec(1), TWO_LEVELS], ids=["vae", "hvae"])
def test_finished_branches_are_not_trained_again(spec, tmp_path, monkeypatch):
    data = TrainingData.from_arrays(PLAIN.target)
    options = {"seeds": (0, 3), "config": SHORT, "bracket": True, "settle": False}
    alone = estimate_threshold(spec, data, **options)
    store = CellStore(tmp_path)
    kept = estimate_threshold(spec, data, store=store, **options)
    assert same(kept.bracket, alone.bracket)

    def refuse(*args):
        raise AssertionError("trained again")

    monkeypatch.setattr(cells, "train", refuse)
    again = estimate_threshold(spec, data, store=store, **options)
    assert same(again.bracket, alone.bracket)
    assert again.bracket.seconds == pytest.approx(kept.bracket.seconds, rel=1e-9)
    assert again.bracket.seconds > 0


def test_branches_that_were_stopped_go_on(tmp_path):
    """Past a checkpoint and two windows: the statistics before them are not lost."""
    data = TrainingData.from_arrays(PLAIN.target)
    source = build_model(VAESpec(1), data.target, seeds=(0, 3), n_points=2)
    store = CellStore(tmp_path, every_steps=13)
    options = {"level": 1, "observed": [4.0]}
    config = replace(SHORT, log_every=10)
    whole = bracket_threshold(source, data, config, **options)
    with pytest.raises(KeyboardInterrupt):
        bracket_threshold(source, data, config, progress=stop_at_60, store=store, **options)
    steps = []
    found = bracket_threshold(source, data, config, progress=steps.append, store=store, **options)
    assert steps[0] == 60
    assert same(found, whole)


def test_branches_of_another_start_are_other_runs(tmp_path):
    """Neither its members nor its checkpoint are taken, nor is the latter removed."""
    data = TrainingData.from_arrays(PLAIN.target)
    source, other = (
        build_model(VAESpec(1), data.target, seeds=s, n_points=2) for s in ((0,), (1,))
    )
    other.seeds = source.seeds
    config, store = replace(SHORT, log_every=10), CellStore(tmp_path, every_steps=13)
    options = {"level": 1, "observed": [4.0]}
    with pytest.raises(KeyboardInterrupt):
        bracket_threshold(other, data, config, progress=stop_at_60, store=store, **options)
    for _ in range(2):
        found = bracket_threshold(source, data, config, store=store, **options)
        assert same(found, bracket_threshold(source, data, config, **options))
    steps = []
    found = bracket_threshold(other, data, config, progress=steps.append, store=store, **options)
    assert steps[0] == 60
    assert same(found, bracket_threshold(other, data, config, **options))


def test_refusal():
    data = TrainingData.from_arrays(PLAIN.target)
    with pytest.raises(ValueError, match="decoder_variance='learned' has no threshold in beta alo"):
        estimate_threshold(
            VAESpec(1, decoder_variance="learned"), data, bracket=True, seeds=(0,),
            config=TrainConfig(steps=20),
        )  # fmt: skip
