"""Closed forms get the verdict that they have by construction; small trained networks theirs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import hadamard

from linvae.data import gaussian
from linvae.diagnosis import (
    ALIVE_AS_PREDICTED,
    BEYOND,
    COLLAPSED_AS_PREDICTED,
    OPTIMISATION,
    _quantile,
    _verdicts,
    diagnose,
)
from linvae.models import Architecture, build_model
from linvae.moments import Moments
from linvae.spec import CVAESpec, VAESpec
from linvae.testing import curve_data, spectrum_data
from linvae.theory import solve
from linvae.theory.finite_training import escape_times
from linvae.train import ConstantBetas, TrainConfig, TrainingData, train

SPECTRUM, BETA, S = (5.0, 2.0, 0.9, 0.3, 0.1), 0.8, 0.5  # three modes above beta s = 0.4
DATA = spectrum_data(SPECTRUM, n_samples=1200, seed=1)
SPEC = VAESpec(5, beta=BETA, decoder_variance=S)
AT = {"beta": BETA, "decoder_variance": S}


def linear_encoder(solution, keep=None):
    """The encoder of the optimum, centred data; units not in `keep` are at the prior."""
    W, Sigma = solution.weights["W"], np.diag(solution.weights["Sigma"])
    on = np.ones(len(W)) if keep is None else np.isin(np.arange(len(W)), keep)

    def encoder(batch):
        mean = batch @ W.T * on
        return mean, np.log(Sigma) * on + 0 * mean

    return encoder


@pytest.fixture(scope="module")
def optimum():
    return solve(SPEC, Moments.from_data(DATA))


# --- closed forms -------------------------------------------------------------------------------


@pytest.mark.parametrize("eta2", [1.0, 0.3])
def test_rates_of_the_optimum_are_the_predicted_ones(eta2):
    """Exact: sums of 1200 doubles. Verdicts by hand: theta^2 > beta s for the first three."""
    spec = VAESpec(5, beta=BETA, decoder_variance=S, prior_variance=eta2)
    encoder = linear_encoder(solve(spec, Moments.from_data(DATA)))
    found = diagnose(encoder, DATA, **AT, prior_variance=eta2)
    by_hand = [max(0.0, math.log(v / (BETA * S)) / 2) for v in SPECTRUM]
    # float32 data: 1e-7 of the spectrum
    for field in ("predicted_nats", "observed_nats"):
        seen = [getattr(u, field) for u in found.units]
        np.testing.assert_allclose(seen, by_hand, rtol=1e-6, atol=1e-9)
    verdicts = [ALIVE_AS_PREDICTED] * 3 + [COLLAPSED_AS_PREDICTED] * 2
    assert [u.verdict for u in found.units] == verdicts
    assert found.verdict == ALIVE_AS_PREDICTED
    assert (found.predicted_active_units, found.observed_active_units) == (3, 3)
    np.testing.assert_allclose([u.critical_beta for u in found.units], np.array(SPECTRUM) / S, 1e-6)


def test_all_collapsed_as_predicted_says_where_to_go():
    found = diagnose(lambda y: (np.zeros((len(y), 2)),) * 2, DATA, beta=11.0, decoder_variance=S)
    assert {u.verdict for u in found.units} == {COLLAPSED_AS_PREDICTED} == {found.verdict}
    # 5/0.5 and 5/11
    assert "to wake it go below beta = 10.00 or decoder variance = 0.4545" in found.sentence


@pytest.mark.parametrize("lost", range(3))
def test_a_lost_unit_is_optimisation(optimum, lost):
    keep = [j for j in range(5) if j != lost]
    found = diagnose(linear_encoder(optimum, keep), DATA, **AT)
    assert found.verdict == OPTIMISATION
    assert [u.verdict for u in found.units].count(OPTIMISATION) == 1
    unit = found.units[2]
    assert unit.verdict == OPTIMISATION
    expected = [
        escape_times([0.9], **AT, update=update)[0] for update in ("joint", "aggressive")
    ]  # of the mode of the same rank
    np.testing.assert_allclose([unit.escape_time, unit.aggressive_escape_time], expected, 1e-5)
    assert f"steps * learning rate = {expected[0]:.2f}" in unit.advice
    assert "aggressive training of the encoder or KL annealing" in unit.advice


def test_order_of_units_does_not_matter(optimum):
    encoder, order = linear_encoder(optimum), [3, 1, 4, 0, 2]
    found = diagnose(lambda y: tuple(v[:, order] for v in encoder(y)), DATA, **AT)
    assert [u.unit for u in found.units][:3] == [4, 2, 5]
    assert found.verdict == ALIVE_AS_PREDICTED


def test_a_fixed_variance_is_compared_on_principal_axes():
    """Any rotation of an isotropic code is as good; idle units pay their floor and are collapsed.

    Predicted without `mode_rates`: E mean^2/(2 eta^2) of the optimum's encoder, mode by mode.
    """
    fixed = {**AT, "encoder_variance": 0.3, "prior_variance": 0.5}
    spec = VAESpec(4, **fixed)
    solution = solve(spec, Moments.from_data(DATA))
    rotated = hadamard(4) / 2 @ solution.weights["W"]
    log_variance = np.full((len(DATA), 4), math.log(0.3))

    def encoder(batch):
        return batch @ rotated.T, log_variance[: len(batch)]

    found = diagnose(encoder, DATA, **fixed)
    W = solution.weights["W"]
    by_hand = np.diag(W @ np.cov(DATA.T, ddof=0) @ W.T) / (2 * 0.5)
    for field in ("predicted_nats", "observed_nats"):
        seen = [getattr(u, field) for u in found.units]
        np.testing.assert_allclose(seen, np.sort(by_hand)[::-1], rtol=1e-6, atol=1e-9)
    assert found.verdict == ALIVE_AS_PREDICTED


def test_conditional_encoder_sees_both():
    data = gaussian(SPECTRUM, 1200, correlation=[0.9, 0.6, 0.3, 0.0, 0.0], condition_dim=3, seed=1)
    y, x = data.target.astype(float), data.condition.astype(float)
    solution = solve(CVAESpec(3, **AT), Moments.from_data(y, x))
    W1, W2 = solution.weights["W1"], solution.weights["W2"]
    log_variance = np.log(np.diag(solution.weights["Sigma"]))

    def encoder(target, condition):
        mean = condition @ W1.T + target @ W2.T
        return mean, log_variance + 0 * mean

    found = diagnose(encoder, y, condition=x, **AT)
    # lambda (1 - rho^2), descending
    by_hand = [max(0.0, math.log(v / (BETA * S)) / 2) for v in (1.28, 0.95, 0.819)]
    np.testing.assert_allclose([u.observed_nats for u in found.units], by_hand, rtol=1e-5)
    assert found.verdict == ALIVE_AS_PREDICTED
    assert math.isnan(found.units[0].escape_time)


# --- tolerance and rules ------------------------------------------------------------------------


def test_tolerance_has_the_two_errors():
    """sd of a mode in use: 1/sqrt(2 n), here to first order in sqrt(2/n) = 0.04 (2 %)."""
    solution = solve(SPEC, Moments.from_data(DATA))
    found = diagnose(linear_encoder(solution), DATA, **AT)
    mean = DATA @ solution.weights["W"][0]
    error = mean.var() * math.sqrt(np.var(mean**2 / mean.var(), ddof=1)) / 2 / math.sqrt(len(DATA))
    unit = found.units[0]
    assert unit.standard_error == pytest.approx(error, rel=1e-9)
    both = math.sqrt(error**2 + 1 / (2 * len(DATA)))
    assert unit.tolerance_nats == pytest.approx(0.1 + _quantile(5) * both, abs=2e-3)


def test_false_alarms_are_as_rare_as_said():
    """Draws of the normal errors that the tolerance is made of, 20,000 times five units.

    1 % of the draws have a unit outside; 4 standard errors of that share are 0.0028.
    """
    rng = np.random.default_rng(0)
    outside = np.any(np.abs(rng.standard_normal((20_000, 5))) > _quantile(5), axis=1)
    assert outside.mean() == pytest.approx(0.01, abs=0.0028)


A, C, F, B = ALIVE_AS_PREDICTED, COLLAPSED_AS_PREDICTED, OPTIMISATION, BEYOND
RULES = {
    "rotated": ([1.0, 0.3], [0.65, 0.65], [A, A]),
    "merged": ([0.4, 0.4, 0.4, 0.4], [1.0, 0.0, 0.0, 0.0], [B, B, F, F]),
    "dead-in-theory": ([1.0, 0.0], [0.6, 0.4], [A, B]),
    "near-threshold": ([1.0, 0.1], [1.0, 0.0], [A, C]),
    "small-noise": ([1.0, 0.0], [1.0, 0.05], [A, C]),
    "barely-awake": ([1.0, 0.8], [1.0, 0.1], [A, F]),
    "half-awake": ([1.0, 0.8], [1.0, 0.4], [A, A]),
    "noise-hides-nothing": ([1.0, 0.2], [1.21, 0.0], [A, F]),
}


@pytest.mark.parametrize("case", RULES.values(), ids=RULES)
def test_rules(case):
    predicted, observed, expected = (np.array(part) for part in case)
    tolerance = np.full(len(predicted), 0.15)
    slack = np.full(len(predicted), 0.25)
    assert _verdicts(predicted, observed, tolerance, slack) == list(expected)


def test_a_better_objective_excuses_a_collapsed_unit():
    predicted, observed = np.array([1.0, 0.8]), np.array([1.0, 0.0])
    found = _verdicts(predicted, observed, np.full(2, 0.1), np.full(2, 0.1), better=True)
    assert found == [ALIVE_AS_PREDICTED, BEYOND]


def test_a_worse_objective_is_not_beyond_the_theory():
    predicted, observed = np.array([1.0, 0.8, 0.0]), np.array([2.0, 1.0, 0.5])
    errors = np.full(3, 0.1), np.full(3, 0.1)
    assert _verdicts(predicted, observed, *errors) == [BEYOND] * 3
    worse = _verdicts(predicted, observed, *errors, worse=True)
    assert worse == [ALIVE_AS_PREDICTED, ALIVE_AS_PREDICTED, BEYOND]


def test_objective_of_the_optimum_is_the_solution(optimum):
    """Within 5 Monte-Carlo errors; a lost unit is worse by what it was worth, and not excused."""
    U = optimum.weights["U"]
    found = diagnose(linear_encoder(optimum), DATA, **AT, decoder=lambda z: z @ U.T)
    assert 0 < found.objective_error < 0.05
    assert abs(found.objective_nats - optimum.objective) < 5 * found.objective_error
    used = np.array([1, 0, 1, 1, 1])
    encoder = linear_encoder(optimum, [0, 2])
    lost = diagnose(encoder, DATA, **AT, decoder=lambda z: z * used @ U.T)
    r = BETA * S / 2.0
    worth = 2.0 * (1 - r) / (2 * S) + BETA * math.log(r) / 2
    gap = lost.objective_nats - optimum.objective
    assert gap == pytest.approx(worth, abs=5 * lost.objective_error)
    assert lost.verdict == OPTIMISATION
    assert f"against {optimum.objective:.3f}" in lost.sentence


# --- errors -------------------------------------------------------------------------------------

OK = np.zeros((1200, 2))
BROKEN = {
    "one-array": (lambda y: OK, r"returned ndarray but must return a pair"),
    "three": (lambda y: (OK, OK, OK), r"returned 3 parts but must return a pair"),
    "rows": (lambda y: (OK[:7], OK[:7]), r"means of shape \(7, 2\) but must return \(1200, k\)"),
    "flat": (lambda y: (OK[:, 0], OK[:, 0]), r"means of shape \(1200,\)"),
    "latent-dims": (lambda y: (OK, OK[:, :1]), r"log-variances of shape \(1200, 1\) but its means"),
    "nan": (lambda y: (OK * np.nan, OK), r"2400 of 2400 means that are NaN or infinite"),
    "infinite": (lambda y: (OK, OK - np.inf), r"log-variances that are NaN or infinite"),
}


@pytest.mark.parametrize("case", BROKEN.values(), ids=BROKEN)
def test_broken_outputs_are_named(case):
    encoder, message = case
    with pytest.raises(ValueError, match=message):
        diagnose(encoder, DATA)


@pytest.mark.parametrize("power", [1.0, 0.5], ids=["variance", "deviation"])
@pytest.mark.parametrize("beta", [0.01, 0.8, 30.0])
def test_variances_in_place_of_their_logarithms_are_seen(beta, power):
    spec = VAESpec(5, beta=beta, decoder_variance=S)
    encoder = linear_encoder(solve(spec, Moments.from_data(DATA)))

    def mistaken(y):
        mean, log_variance = encoder(y)
        return mean, np.exp(log_variance) ** power

    with pytest.raises(ValueError, match=r"log-variances are all above log\(prior_variance\)=0"):
        diagnose(mistaken, DATA, beta=beta, decoder_variance=S)


def test_a_learned_decoder_variance_is_asked_for():
    with pytest.raises(ValueError, match="give the value that the network has learned"):
        diagnose(lambda y: (OK, OK), DATA, decoder_variance="learned")


def test_decoder_of_another_width():
    with pytest.raises(ValueError, match=r"decoder returned \(1200, 2\) for \(1200, 2\) latents"):
        diagnose(lambda y: (OK, OK), DATA, decoder=lambda z: z)


def test_units_that_change_between_batches():
    def encoder(y):
        return (np.zeros((len(y), 1 + len(y) // 4096)),) * 2

    with pytest.raises(ValueError, match=r"encoder returned \[1, 2\] units in different batches"):
        diagnose(encoder, np.tile(DATA, (4, 1)))


# --- what is shown ------------------------------------------------------------------------------


def test_rows_table_and_picture(optimum):
    found = diagnose(linear_encoder(optimum, [0, 2]), DATA, **AT)
    rows = found.to_rows()
    assert [row["rank"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[2]["verdict"] == OPTIMISATION
    assert rows[2]["advice"] == found.units[2].advice
    table = found.table()
    assert table.row_count == 5
    drawing = found.draw()
    (axes,) = drawing.figure.axes
    assert axes.get_xlabel().endswith("nats (linear optimum)")
    labels = axes.get_legend_handles_labels()[1]
    assert {ALIVE_AS_PREDICTED, OPTIMISATION, COLLAPSED_AS_PREDICTED} < set(labels)
    assert drawing.alt.endswith(found.sentence)


# --- trained networks ---------------------------------------------------------------------------

SEEDS = (0, 1, 2)
CPU = torch.device("cpu")


def trained(y, latent_dim, betas, steps, architecture="linear"):
    """A stack of three seeds per beta, decoder variance 0.1."""
    data = TrainingData.from_arrays(y.astype(np.float32))
    spec = VAESpec(latent_dim, decoder_variance=0.1)
    sizes = {"architecture": architecture, "seeds": SEEDS, "n_points": len(betas)}
    model = build_model(spec, data.target, **sizes)
    config = TrainConfig(steps=steps, batch_size=64, learning_rate=0.02)
    train(model, data, ConstantBetas(betas, spec.betas, CPU), config)
    return model


def member(model, seed, point, mean):
    """Encoder of one member, as a function of arrays."""

    @torch.no_grad()
    def encoder(batch):
        rows = torch.as_tensor(batch - mean, dtype=torch.float32)
        q = model.posterior(rows.expand(len(model.seeds), *rows.shape), None)
        return q.mean[seed, point].numpy(), q.log_variance.expand(q.mean.shape)[seed, point].numpy()

    return encoder


def verdicts_of(model, y, betas):
    """{beta: verdict of every seed}."""
    return {
        beta: [
            diagnose(
                member(model, seed, point, y.mean(axis=0)), y, beta=beta, decoder_variance=0.1
            ).verdict
            for seed in SEEDS
        ]
        for point, beta in enumerate(betas)
    }


def test_linear_models_above_the_threshold_healthy_and_stopped_early():
    """Threshold 4/0.1 = 40: collapsed at 60; all three units alive at 1, but not in 20 steps."""
    y = spectrum_data((4.0, 1.0, 0.25), n_samples=500)
    found = verdicts_of(trained(y, 3, (1.0, 60.0), 1000), y, (1.0, 60.0))
    assert found == {1.0: [ALIVE_AS_PREDICTED] * 3, 60.0: [COLLAPSED_AS_PREDICTED] * 3}
    stopped = verdicts_of(trained(y, 3, (1.0,), 20), y, (1.0,))
    assert stopped == {1.0: [OPTIMISATION] * 3}


def test_a_network_on_a_curve_is_alive_beyond_the_linear_theory():
    """Eight modes of threshold 5: at 4 each is worth log(5/4)/2 = 0.11 nats, the curve far more."""
    y = curve_data(4, n_samples=500)
    network = Architecture("mlp", hidden=32, activation="tanh")
    assert verdicts_of(trained(y, 4, (4.0,), 300, network), y, (4.0,)) == {4.0: [BEYOND] * 3}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_model_of_pythae_trained_by_pythae(seed, tmp_path):
    """Its loss is half the squared error: decoder variance 1. Healthy, stopped early, collapsed.

    The encoder is pythae's own; its decoders end in a sigmoid, which these data do not fit.
    """
    models = pytest.importorskip("pythae.models")
    trainers = pytest.importorskip("pythae.trainers")
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder
    from pythae.pipelines import TrainingPipeline

    class LinearDecoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(3, 3)

        def forward(self, z):
            return ModelOutput(reconstruction=self.linear(z))

    y = spectrum_data((4.0, 1.0, 0.25), n_samples=500).astype(np.float32)
    found = []
    for beta, epochs in ((0.1, 60), (0.1, 1), (6.0, 30)):
        torch.manual_seed(seed)
        config = models.BetaVAEConfig(input_dim=(3,), latent_dim=3, beta=beta)
        model = models.BetaVAE(config, decoder=LinearDecoder())
        settings = trainers.BaseTrainerConfig(
            output_dir=str(tmp_path),
            num_epochs=epochs,
            learning_rate=5e-3 if epochs > 1 else 1e-5,
            per_device_train_batch_size=100,
            seed=seed,
            no_cuda=True,
        )
        TrainingPipeline(training_config=settings, model=model)(train_data=y)
        found.append(diagnose(model, y, beta=beta, decoder=model).verdict)
    assert found == [ALIVE_AS_PREDICTED, OPTIMISATION, COLLAPSED_AS_PREDICTED]


def test_a_fixed_variance_is_that_of_the_encoder():
    y = np.random.default_rng(0).standard_normal((50, 3))
    with pytest.raises(
        ValueError, match=r"its variances are 0\.5 to 0\.5 in diagnose; leave it out"
    ):
        diagnose(lambda v: (v[:, :2], np.full((len(v), 2), math.log(0.5))), y, encoder_variance=1.0)
