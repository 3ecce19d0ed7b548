"""Mutual information against the Gaussian's closed form, its bias law, and densities by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from linvae.metrics import information as module
from linvae.metrics import (
    mutual_information,
    observe,
    published_mutual_information,
)
from linvae.models import build_model
from linvae.spec import HVAESpec, VAESpec
from linvae.train import TrainingData
from linvae.train.data import stream
from tests.metrics.test_observe import model_with
from tests.metrics.texts import text_vae, texts

COVARIANCE = np.array([[2.0, 0.6, 0.1], [0.6, 1.0, -0.3], [0.1, -0.3, 0.5]])
W = np.array([[0.7, -0.3, 0.2], [0.1, 0.5, -0.6]])


def gaussian_data(n: int, seed: int = 0) -> TrainingData:
    rng = np.random.default_rng(seed)
    target = rng.multivariate_normal(np.zeros(3), COVARIANCE, n)
    return TrainingData.from_arrays(target, centered=False)


def encoder(data: TrainingData, variances, spec=None):
    """A linear model whose encoder is N(W y, diag(variances))."""
    weights = {"W": W, "U": W.T, "Sigma": np.diag(variances)}
    return model_with(spec or VAESpec(2), data, weights)


def exact(variances) -> float:
    M = W @ COVARIANCE @ W.T + np.diag(variances)
    return float(np.linalg.slogdet(M)[1] - np.sum(np.log(variances))) / 2


CASES = {"little": (3.0, 2.0), "some": (0.3, 0.5), "correlated": (0.1, 0.1), "much": (0.02, 0.1)}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("draws", [1, 4])
def test_linear_model_on_gaussian_data_has_the_closed_form(name, draws):
    """Of the population, within 3 standard errors; B = 3000, leading bias taken off."""
    data = gaussian_data(3000)
    found = mutual_information(encoder(data, CASES[name]), data, draws=draws)
    assert found.batch == 3000
    assert not found.capped.any()
    assert found.errors[0, 0] < 0.03
    error = found.nats[0, 0] - found.biases[0, 0] - exact(CASES[name])
    assert abs(error) < 3 * found.errors[0, 0]


@pytest.mark.parametrize("batch", [10, 20, 40, 80])
@pytest.mark.parametrize("estimate", [mutual_information, published_mutual_information])
def test_bias_of_small_batches_is_minus_chi_squared_over_twice_their_size(estimate, batch):
    """chi^2 = exp(2 I) - 1 in a linear model; the next order is below (chi^2/B)^2.

    The stated bias is from r of the same batch, own term in it: too small in size, less so with B.
    """
    data = gaussian_data(40_000)
    variances = (1.0, 0.8)
    found = estimate(encoder(data, variances), data, batch=batch)
    chi2 = math.exp(2 * exact(variances)) - 1
    law, next_order = -chi2 / (2 * batch), (chi2 / batch) ** 2
    error = float(found.errors[0, 0])
    assert 3 * error < 0.04
    assert abs(found.nats[0, 0] - exact(variances) - law) < 3 * error + next_order
    assert (0.7 if batch == 80 else 0.45) < found.biases[0, 0] / law < 1.05
    if batch <= 20:  # the bias is seen
        assert found.nats[0, 0] < exact(variances) - 6 * error


@torch.no_grad()
def by_hand(model, data: TrainingData, seed: int, sizes: list[int]) -> tuple[np.ndarray, ...]:
    """Both estimates from torch's densities of all pairs, batch by batch, with the same draws."""
    model.eval()
    generator = stream("information", seed)
    order = torch.randperm(len(data), generator=generator)
    sampled, closed = [], []
    for index in torch.split(order, sizes):
        level = model.posterior(data.target[index][None], None)
        noise = torch.randn(len(index), level.mean.shape[-1], generator=generator,
                            dtype=torch.float64)  # fmt: skip
        q = torch.distributions.Normal(
            level.mean.double(), torch.exp(level.log_variance.double() / 2)
        )
        z = q.loc + q.scale * noise
        every = torch.distributions.Normal(q.loc[:, :, None], q.scale[:, :, None])
        pairs = every.log_prob(z[:, :, :, None]).sum(-1)
        aggregate = pairs.exp().mean(-1).log()
        sampled.append(q.log_prob(z).sum(-1) - aggregate)
        closed.append(-q.entropy().sum(-1) - aggregate)
    return torch.cat(sampled, 2).numpy(), torch.cat(closed, 2).numpy()


@pytest.mark.parametrize("texts_", [False, True], ids=["linear", "texts"])
def test_both_estimates_by_hand(texts_, monkeypatch):
    """Batches of 14 and 13 of 40 samples, pairs some at a time."""
    data = texts() if texts_ else gaussian_data(40)
    model = text_vae(2).train() if texts_ else encoder(data, (0.1, 0.3))
    monkeypatch.setattr(module, "PAIRS", 100)
    sampled, closed = by_hand(model, data, 7, [14, 13, 13])
    model.train(texts_)
    one = mutual_information(model, data, batch=13, seed=7)
    other = published_mutual_information(model, data, batch=13, seed=7)
    assert model.training == texts_
    assert one.batch == other.batch == 14
    for found, terms in ((one, sampled), (other, closed)):
        np.testing.assert_allclose(found.nats, terms.mean(-1), atol=1e-6)
        errors = terms.std(-1, ddof=1) / math.sqrt(40)
        np.testing.assert_allclose(found.errors, errors, rtol=1e-5)


def test_errors_are_those_of_repeated_data():
    """60 data sets of 300 samples: their spread is known to 9 per cent; 25 per cent allowed."""
    model = encoder(gaussian_data(300), CASES["some"])
    found = [mutual_information(model, gaussian_data(300, s), seed=s) for s in range(60)]
    spread = np.std([f.nats[0, 0] for f in found], ddof=1)
    assert spread == pytest.approx(np.mean([f.errors[0, 0] for f in found]), rel=0.25)


def test_more_draws_lower_the_error():
    data = gaussian_data(500)
    model = encoder(data, CASES["some"])
    one, many = (mutual_information(model, data, draws=d) for d in (1, 16))
    assert many.errors[0, 0] < 0.9 * one.errors[0, 0]


def test_the_cap_and_its_flag():
    """Posteriors that do not overlap: log B exactly, capped. The published noise goes above."""
    data = gaussian_data(64)
    model = encoder(data, (1e-8, 1e-8))
    found = mutual_information(model, data, batch=32)
    assert found.cap_nats == math.log(32)
    assert found.nats[0, 0] == pytest.approx(math.log(32), abs=1e-6)
    assert found.biases[0, 0] == pytest.approx(-31 / 64, abs=1e-6)
    assert found.capped.all()
    published = [published_mutual_information(model, data, seed=s).nats[0, 0] for s in range(20)]
    assert min(published) < found.cap_nats < max(published)
    # sd of the entropy's noise: sqrt(k/2/64) = 1/8
    assert np.std(published) == pytest.approx(1 / 8, rel=0.5)


@pytest.mark.parametrize("variance", [0.3, 0.1, 0.05])
def test_flag_says_where_the_batch_is_too_small(variance):
    """Everywhere the error exceeds 0.1 nats; at all values above log(1 + B/5), as promised."""
    data = gaussian_data(20_000)
    found = mutual_information(encoder(data, (variance, variance)), data, batch=40)
    low = exact((variance, variance)) - found.nats[0, 0]
    assert found.capped[0, 0] == (low > 0.1)
    if found.nats[0, 0] > math.log(1 + 40 / 5):
        assert found.capped[0, 0]


def test_collapsed_model_has_none():
    """Posteriors that are all the same: every term is 0 to rounding."""
    data = gaussian_data(50)
    weights = {"W": 0 * W, "U": 0 * W.T, "Sigma": np.eye(2)}
    found = mutual_information(model_with(VAESpec(2), data, weights), data)
    assert abs(found.nats[0, 0]) < 1e-12
    assert found.biases[0, 0] == pytest.approx(0, abs=1e-12)


def test_level_one_of_a_hierarchy():
    data = gaussian_data(2000)
    spec = HVAESpec((2, 1), encoder_variances=(0.3, None))
    one = {"W1": W, "U1": W.T, "Sigma1": 0.3 * np.eye(2)}
    two = {"W2": np.ones((1, 2)), "U2": np.ones((2, 1)), "Sigma2": np.eye(1)}
    found = mutual_information(model_with(spec, data, one | two), data)
    error = found.nats[0, 0] - found.biases[0, 0] - exact((0.3, 0.3))
    assert abs(error) < 3 * found.errors[0, 0]


def test_information_is_below_the_rate():
    """I_q = rate - KL(q(z)||p(z)), with a prior that the aggregate misses by a known amount."""
    data = gaussian_data(3000)
    variances = (0.3, 0.5)
    model = encoder(data, variances, VAESpec(2, prior_variance=2.0))
    M = W @ COVARIANCE @ W.T + np.diag(variances)
    kl = (np.trace(M) / 2 - 2 - np.linalg.slogdet(M)[1] + 2 * math.log(2)) / 2
    found, rate = mutual_information(model, data), observe(model, data).rates[0, 0, 0]
    # the rate is of the same data: 2 % of it is four of its own standard errors
    assert found.nats[0, 0] == pytest.approx(rate - kl, abs=3 * found.errors[0, 0] + 0.02 * rate)


def test_member_that_diverged_is_nan_and_leaves_the_others():
    data = gaussian_data(50)
    model = build_model(VAESpec(2), data.target, n_points=2)
    before = mutual_information(model, data)
    with torch.no_grad():
        model.encoders[0].weight[0, 1] = torch.nan
    found = mutual_information(model, data)
    assert np.isnan(found.nats[0, 1])
    assert np.isnan(found.errors[0, 1])
    assert found.nats[0, 0] == before.nats[0, 0]


def test_refusals():
    data = gaussian_data(50)
    model = encoder(data, (0.3, 0.3))
    with pytest.raises(ValueError, match=r"batch=51 must be between 2 and the number of .* 50"):
        mutual_information(model, data, batch=51)
    with pytest.raises(ValueError, match=r"batch=1 must be between 2 and .*one sample tells"):
        published_mutual_information(model, data, batch=1)
    with pytest.raises(ValueError, match=r"draws=0 must be >= 1 in mutual_information"):
        mutual_information(model, data, draws=0)


def test_large_data_are_cut_into_equal_batches(monkeypatch):
    """Without a batch: one of all samples up to twice `LARGE`, then several."""
    monkeypatch.setattr(module, "LARGE", 40)
    data = gaussian_data(100)
    model = encoder(data, CASES["some"])
    assert mutual_information(model, data).batch == 50
    small = TrainingData(data.target[:79], None)
    assert mutual_information(model, small).batch == 79
