"""The naive grid is biased as its module says: by exp(-2 eps) however long the training."""

from __future__ import annotations

import numpy as np
import pytest

from linvae.data import ImageLayout, gaussian
from linvae.metrics import naive_crossing, naive_threshold, observe
from linvae.models import Architecture, build_model
from linvae.moments import Moments
from linvae.spec import VAESpec
from linvae.theory import solve
from linvae.train import TrainConfig, TrainingData

SPEC = VAESpec(2, decoder_variance=0.5)


def optima(factors: np.ndarray):
    """Largest rates of trained-for-ever linear models: weights of the optimum, observed."""
    dataset = gaussian([2.0, 0.7, 0.2], 400, seed=4)
    moments, data = Moments.from_data(dataset.target), TrainingData.from_arrays(dataset.target)
    model = build_model(SPEC, data.target, n_points=len(factors))
    for i, factor in enumerate(factors):
        at = solve(SPEC.scale_betas(float(factor)), moments).weights
        model.encoders[0].weight.data[0, i] = model.encoders[0].weight.new_tensor(
            at["W"] * model.scale
        )
        model.decoders[0].weight.data[0, i] = model.decoders[0].weight.new_tensor(
            at["U"] / model.scale
        )
        variance = np.log(np.diag(at["Sigma"]))
        model.log_variances[0].data[0, i] = model.log_variances[0].new_tensor(variance)
    critical = solve(SPEC, moments).critical_beta[0] / SPEC.beta
    return observe(model, data).unit_rates[0][0, :, 0], critical


@pytest.mark.parametrize("epsilon", [0.01, 0.05, 0.2])
def test_bias_at_infinite_training_is_the_cut_off(epsilon):
    factors = np.geomspace(2.5, 4.2, 101)
    rates, critical = optima(factors)
    low, high = naive_crossing(factors, rates, epsilon)
    biased = critical * np.exp(-2 * epsilon)
    assert low * (1 - 1e-4) < biased < high * (1 + 1e-4)  # float32 rates
    assert high / low == pytest.approx(factors[1] / factors[0])
    assert not low < critical < high


def test_trained_grid_is_low_and_corrected_less_so():
    dataset = gaussian([2.0, 0.7, 0.2], 400, seed=4)
    data = TrainingData.from_arrays(dataset.target)
    critical = solve(SPEC, Moments.from_data(dataset.target)).critical_beta[0]
    factors = critical * np.geomspace(0.7, 1.2, 12)
    config = TrainConfig(steps=300, batch_size=32, learning_rate=6e-3)
    biased, corrected = (
        naive_threshold(SPEC, data, factors, seeds=(0,), config=config, corrected=c)
        for c in (False, True)
    )
    assert biased.high < critical
    assert corrected.value == pytest.approx(np.exp(0.1) * biased.value)
    assert abs(corrected.value / critical - 1) < abs(biased.value / critical - 1)
    assert (biased.method, biased.kind, biased.runs, biased.seeds) == ("naive", "empirical", 12, 1)
    assert corrected.note == "cut-off 0.05 nats corrected"


def test_networks_of_images_know_their_pixels():
    values = np.random.default_rng(0).normal(size=(40, 16))
    data = TrainingData.from_arrays(values, image=ImageLayout((4, 4, 1)))
    network = Architecture("conv", channels=(2,))
    config = TrainConfig(steps=4, batch_size=8)
    found = naive_threshold(SPEC, data, [0.5, 1], architecture=network, seeds=(0,), config=config)
    assert found.runs == 2


def test_grid_that_does_not_reach():
    assert naive_crossing([1.0, 2.0], [0.0, 0.0], 0.1) == (-np.inf, 1.0)
    assert naive_crossing([1.0, 2.0], [0.3, 0.2], 0.1) == (2.0, np.inf)


@pytest.mark.parametrize("factors", [[1.0], [0.0, 1.0], [1.0, np.inf], []])
def test_refusals(factors):
    data = TrainingData.from_arrays(np.eye(4))
    with pytest.raises(ValueError, match="must be two or more finite numbers > 0 in naive_thresh"):
        naive_threshold(SPEC, data, factors)
    with pytest.raises(ValueError, match=r"epsilon=-0.1 must be >= 0 nats in naive_crossing"):
        naive_crossing([1.0, 2.0], [0.0, 0.0], -0.1)
