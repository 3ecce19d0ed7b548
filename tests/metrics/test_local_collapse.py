"""Collapse per sample and per cell: numbers by hand, theory's law for a trained linear VAE."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from linvae.data import Heteroscedastic, gaussian
from linvae.metrics import latent_cell_rates, local_collapse, observe, sample_rates
from linvae.models import Architecture, build_model
from linvae.moments import Moments
from linvae.spec import CVAESpec, HVAESpec, VAESpec
from linvae.theory import solve
from linvae.theory.observables import rate_distribution
from linvae.theory.observables import sample_rates as exact_rates
from linvae.train import ConstantBetas, TrainConfig, TrainingData, train_cells
from tests.metrics.test_observe import SPECS, model_with, optimum, problem

ONE_LEVEL = [name for name, (spec, _) in SPECS.items() if isinstance(spec, VAESpec)]


@pytest.mark.parametrize("name", ONE_LEVEL)
def test_rates_of_samples_are_those_of_theory(name):
    """Float32: 1e-6 of the largest rate."""
    spec, _, data, model = optimum(name)
    x = None if data.condition is None else data.condition.numpy()
    moments = Moments.from_data(data.target.numpy(), x)
    weights = model.weights(0, 0)
    expected = exact_rates(spec, moments, weights, data.target.numpy(), x)
    per_unit = sample_rates(model, data)
    assert per_unit.shape == (1, 1, len(data), spec.latent_dim)
    found = per_unit.sum(-1)[0, 0]
    np.testing.assert_allclose(found, expected, atol=2e-6 * expected.max())
    np.testing.assert_allclose(
        per_unit.mean(axis=2)[0, 0].sum(), observe(model, data).rates[0, 0, 0], rtol=1e-5
    )
    seen = local_collapse(model, data, epsilon=float(np.median(expected)), n_cells=20)
    assert seen.share_of_samples[0, 0] == pytest.approx(0.5, abs=2 / len(data))
    np.testing.assert_allclose(seen.quantiles([0.5])[0, 0, 0], np.median(expected), rtol=1e-5)
    assert (seen.latent_cells is None) == (name == "general")


def means_of(values, mean_of_z) -> tuple:
    """A model of one unit and unit variance whose posterior mean is w . y, and its data."""
    data = TrainingData.from_arrays(np.asarray(values, dtype=float), centered=False)
    d = data.target.shape[1]
    weights = {"W": np.array([mean_of_z]), "U": np.zeros((d, 1)), "Sigma": np.eye(1)}
    return model_with(VAESpec(1), data, weights), data


def test_cells_of_a_grid_by_hand():
    """Corners of a square: the KL (y_1)^2/2 is 0.02 on the right, except one of four at 0.32."""
    right = [[0.2, 0.0], [0.2, 1.0], [0.2, 1.0], [0.8, 1.0], [0.8, 1.0]]
    model, data = means_of([[0.0, 0.0], [0.0, 0.0], [0.0, 1.0], *right], [1.0, 0.0])
    found = local_collapse(model, data, epsilon=0.1, n_cells=4)
    # lower left 3 samples: 0, 0, 0.02; upper left 3: 0, 0.02, 0.02; upper right 2: 0.32
    expected = [0.02 / 3, 0.04 / 3, 0.32]
    np.testing.assert_allclose(found.data_cells[0, 0], expected, rtol=1e-5)
    assert found.share_of_data_cells[0, 0] == pytest.approx(2 / 3)
    assert found.share_of_samples[0, 0] == pytest.approx(6 / 8)
    assert local_collapse(model, data, epsilon=0.01, n_cells=4).share_of_data_cells[0, 0] == (
        pytest.approx(1 / 3)
    )


def test_clusters_are_the_cells_of_other_data():
    """Five far clusters of three dimensions, one of which has a KL: k-means finds them."""
    rng = np.random.default_rng(0)
    centres = 10 * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])
    label = np.repeat(np.arange(5), 30)
    y = centres[label] + 0.1 * rng.normal(size=(150, 3))
    model, data = means_of(y, [0.0, 0.0, 0.01])  # clusters 3 and 4: mean 0.1, KL 0.005
    found = local_collapse(model, data, epsilon=0.004, n_cells=5)
    assert found.data_cells.shape == (1, 1, 5)
    assert found.share_of_data_cells[0, 0] == pytest.approx(3 / 5)
    given = local_collapse(model, data, epsilon=0.004, cells=label)
    np.testing.assert_allclose(np.sort(found.data_cells), np.sort(given.data_cells), rtol=1e-6)
    kl = (0.01 * y[:, 2]) ** 2 / 2
    expected = [kl[label == cell].mean() for cell in range(5)]
    np.testing.assert_allclose(given.data_cells[0, 0], expected, rtol=1e-4)


def test_latent_cells_that_collapse_alone():
    """A relu in front of mu: re-encoded, the left half of the prior is at the prior."""
    data = TrainingData.from_arrays(np.linspace(-1, 1, 50)[:, None])
    model = build_model(VAESpec(1), data.target, architecture="mlp")
    with torch.no_grad():
        for network in (model.encoders[0], model.decoders[0]):
            for parameter in network.parameters():
                parameter.zero_()
        # dec(z) = z as relu(z) - relu(-z); mu(y) = relu(y), log variance 0
        model.decoders[0].inner.weight[..., :2, 0] = torch.tensor([1.0, -1.0])
        model.decoders[0].outer.weight[..., 0, :2] = torch.tensor([1.0, -1.0]) / model.scale
        model.encoders[0].inner.weight[..., 0, 0] = model.scale
        model.encoders[0].outer.weight[..., 0, 0] = 1.0
    found = local_collapse(model, data, epsilon=1e-6, n_cells=40)
    assert found.share_of_latent_cells[0, 0] == 0.5
    np.testing.assert_array_equal(found.latent_cells, latent_cell_rates(model, data, 40))
    assert found.share_of_samples[0, 0] == 0.5


# --- the law of a trained linear VAE --------------------------------------------------------------

SPECTRUM, BETAS = (4.0, 2.0, 1.0, 0.5), (0.3, 0.95)  # 0.95: 5 % below the threshold of a mode


@pytest.fixture(scope="module")
def trained():
    """A linear VAE on data of exact moments, one member for each beta."""
    data = TrainingData.from_arrays(gaussian(SPECTRUM, 4000, seed=1).target)
    spec, config = VAESpec(4), TrainConfig(steps=2500, batch_size=64, learning_rate=2e-2)
    made = train_cells(
        spec,
        data,
        points=BETAS,
        kl_weight=lambda points, n: ConstantBetas(points, spec.betas, data.target.device),
        config=config,
    )
    return made.model, Moments.from_data(data.target.numpy())


@pytest.mark.parametrize("point", range(len(BETAS)), ids=BETAS)
def test_rates_of_a_trained_model_follow_the_exact_law(trained, point):
    """2,000 fresh samples against 2,000 draws of the law: not rejected at 1 %.

    That of a beta 10 % off is: 100 pairs of samples of the two laws were told apart every time.
    """
    model, moments = trained
    fresh = np.random.default_rng(7).multivariate_normal(np.zeros(4), moments.covariance, 2000)
    data = TrainingData.from_arrays(fresh, centered=False)
    found = local_collapse(model, data, n_cells=10).sample_rates[0, point]

    def law(beta):
        spec = VAESpec(4, beta=beta)
        return rate_distribution(spec, solve(spec, moments)).sample(2000, seed=8)

    assert ks_2samp(found, law(BETAS[point])).pvalue > 0.01
    assert ks_2samp(found, law(BETAS[point] * 0.9)).pvalue < 0.01
    assert ks_2samp(found, law(BETAS[point] * 1.1)).pvalue < 0.01


def test_a_conditional_network_lives_where_the_spread_is_large():
    """Spread 0.2 to 1, beta 0.55: above 0.35, where decoders that lean one way die.

    Started alive; what lives on the three eighths of the circle beyond beta is at least half of
    1/2 log(lambda/beta) after some 1,000 steps, and what dies is less than a twentieth of it.
    """
    family, spec = Heteroscedastic(0.2, 1.0), CVAESpec(1)
    made = family.dataset(4000, seed=0)
    data = TrainingData.from_arrays(made.target, made.condition)
    config = TrainConfig(steps=600, batch_size=64, learning_rate=1e-2)
    network, start = Architecture("mlp", hidden=16, depth=2, activation="tanh"), None
    for beta in (0.2, 0.55):
        start = train_cells(
            spec,
            data,
            points=(beta,),
            kl_weight=lambda points, n: ConstantBetas(points, spec.betas, data.target.device),
            config=config,
            architecture=network,
            start=start,
        ).model
    phi = np.arctan2(made.condition[:, 1], made.condition[:, 0])
    eighth = (np.abs(phi) / np.pi * 8).astype(int)
    seen = local_collapse(start, data, epsilon=0.02, cells=eighth).data_cells[0, 0]
    top = family.top_variances(phi)
    predicted = np.log(np.maximum(top / 0.55, 1)) / 2
    expected = np.array([predicted[eighth == i].mean() for i in range(8)])
    assert np.all(seen[:3] > expected[:3] / 2)
    assert np.all(seen[:3] < expected[:3] * 1.5)
    assert np.all(seen[6:] < expected[0] / 20)


def test_members_that_diverged_are_nan():
    _, _, data, model = optimum("vae")
    with torch.no_grad():
        model.encoders[0].weight[0, 0] = torch.nan
    found = local_collapse(model, data, n_cells=10)
    shares = (found.share_of_samples, found.share_of_data_cells, found.share_of_latent_cells)
    assert np.isnan(shares).all()


def test_rows():
    _, _, data, model = optimum("general")
    (row,) = local_collapse(model, data, epsilon=0.3, n_cells=10).to_rows()
    assert row["epsilon_nats"] == 0.3
    assert row["share_of_latent_cells"] is None
    assert row["mean_nats"] == pytest.approx(observe(model, data).rates[0, 0, 0], rel=1e-5)


def test_refusals():
    _, data, _ = problem("vae")
    model = build_model(VAESpec(2), data.target)
    with pytest.raises(ValueError, match=r"epsilon=0 must be a finite number > 0"):
        local_collapse(model, data, epsilon=0)
    with pytest.raises(ValueError, match=r"n_cells=1201 must be between 1 and the 1200 samples"):
        local_collapse(model, data, n_cells=1201)
    with pytest.raises(ValueError, match=r"cells has shape \(3,\) and dtype int64 but must be"):
        local_collapse(model, data, cells=np.arange(3))
    hierarchy = build_model(HVAESpec((2, 1)), data.target)
    with pytest.raises(ValueError, match="spec has 2 levels but sample_rates needs one"):
        sample_rates(hierarchy, data)
    spec, given, _ = problem("cvae")
    assert isinstance(spec, CVAESpec)
    conditional = build_model(spec, given.target, given.condition)
    assert local_collapse(conditional, given, n_cells=16).latent_cells is not None
