"""Inference lag: closed form against brute force, grid and optimisation against both."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from linvae.metrics import inference_lag
from linvae.metrics.lag import _points, _radii
from linvae.models import Architecture, build_model
from linvae.spec import CVAESpec, HVAESpec, VAESpec
from linvae.theory import solve
from linvae.train import TrainingData
from tests.metrics.test_likelihood import detuned, log_joint_of_network, network
from tests.metrics.test_observe import model_with, problem
from tests.metrics.texts import text_vae, texts

LINEAR = {
    "vae": 0.8,
    "vae-fixed": 1.0,
    "vae-learned-s": 1.0,
    "cvae": 1.2,
}  # and the beta that their spec has


def closed_objective(y, U, s, eta2, beta, mean, log_variance) -> float:
    """F of one sample of a linear decoder, from the definition: E|y - U z|^2 in closed form."""
    v = np.exp(log_variance)
    error = np.sum((y - U @ mean) ** 2) + np.sum(v * np.sum(U**2, axis=0))
    distortion = len(y) / 2 * np.log(2 * np.pi * s) + error / (2 * s)
    rate = np.sum((mean**2 + v) / eta2 - 1 - np.log(v / eta2)) / 2
    return float(distortion + beta * rate)


@pytest.mark.parametrize("beta", [None, 0.3])
@pytest.mark.parametrize("name", LINEAR)
def test_exact_lag_is_what_brute_force_finds(name, beta):
    """Six samples: gap and best mean of every one."""
    spec, data, _, model, weights = detuned(name, by=0.2)
    found = inference_lag(model, data, betas=beta, samples=6)
    assert found.method == "exact"
    U = weights["U1" if name == "cvae" else "U"]
    s = float(weights.get("s", spec.decoder_variance))
    y, x = data.take(torch.as_tensor(found.index))
    W, given = (weights["W"], y) if x is None else (None, None)
    y = y.double().numpy()
    if x is not None:
        x = x.double().numpy()
        means = x @ weights["W1"].T + y @ weights["W2"].T
        y = y - x @ weights["U2"].T
    else:
        means = given.double().numpy() @ W.T
    log_variance = np.log(np.diag(weights["Sigma"]))
    fixed, k = spec.encoder_variance is not None, U.shape[1]
    gaps = []
    for i in range(6):

        def value(free, i=i):
            variances = log_variance if fixed else free[k:]
            return closed_objective(
                y[i], U, s, 1.0, LINEAR[name] if beta is None else beta, free[:k], variances
            )

        own = np.concatenate([means[i], log_variance])
        start = means[i] if fixed else own
        best = minimize(value, start, method="BFGS", options={"gtol": 1e-8})
        np.testing.assert_allclose(found.model_means[0, 0, i], best.x[:k], atol=1e-5)
        gaps.append(value(own) - best.fun)
    np.testing.assert_allclose(found.encoder_means[0, 0], means, atol=1e-5)
    # float32 parameters, of terms that are multiplied by 1/s
    assert found.gaps[0, 0] == pytest.approx(np.mean(gaps), rel=1e-5)
    assert found.errors[0, 0] == pytest.approx(np.std(gaps, ddof=1) / math.sqrt(6), rel=1e-4)


def test_distance_of_means_is_that_of_the_matrices():
    """tr (W - V) C (W - V)^T over eta^2, V the posterior's matrix, of all samples."""
    spec = VAESpec(3, decoder_variance=0.5, prior_variance=2.0)
    _, data, moments = problem("vae")
    weights = solve(spec, moments).weights
    weights = weights | {"W": weights["W"] + 0.1}
    found = inference_lag(model_with(spec, data, weights), data, samples=5000)
    U = weights["U"]
    V = np.linalg.solve(U.T @ U / 0.5 + np.eye(3) / 2, U.T / 0.5)
    off = weights["W"] - V
    assert len(found.index) == len(data)
    expected = math.sqrt(np.trace(off @ moments.covariance @ off.T) / 2)
    assert found.distances[0, 0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("beta", [0.5, 1.0, 2.0])
def test_optimum_has_no_lag(beta):
    """Theory's encoder is its decoder's best response at its own beta, and at no other."""
    _, data, moments = problem("vae")
    spec = VAESpec(4, beta=beta, decoder_variance=0.3)
    model = model_with(spec, data, solve(spec, moments).weights)
    found = inference_lag(model, data)
    assert found.gaps[0, 0] == pytest.approx(0, abs=1e-9)
    assert found.distances[0, 0] == pytest.approx(0, abs=1e-5)
    assert inference_lag(model, data, betas=1.3 * beta).gaps[0, 0] > 0.01


@pytest.mark.parametrize("name", ["vae", "vae-fixed", "cvae"])
def test_optimisation_finds_the_exact_response(name):
    """The points are exact for linear decoders: gaps to rounding, means to a residual of 1e-4."""
    _, data, _, model, _ = detuned(name, by=0.2)
    one = inference_lag(model, data, samples=60)
    other = inference_lag(model, data, samples=60, method="optimised")
    assert one.gaps[0, 0] > 0.3
    assert other.converged.all()
    assert other.gaps[0, 0] == pytest.approx(one.gaps[0, 0], abs=2e-4)
    np.testing.assert_allclose(other.model_means, one.model_means, atol=0.02)
    assert other.distances[0, 0] == pytest.approx(one.distances[0, 0], rel=1e-3)
    np.testing.assert_array_equal(other.index, one.index)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("encoder_variance", [None, 0.3])
def test_grid_and_optimisation_are_exact_on_a_linear_model_of_one_latent(encoder_variance):
    """Two points with their own betas. q* has the best variance, which a fixed one has not."""
    _, data, moments = problem("vae")
    spec = VAESpec(1, decoder_variance=0.5, encoder_variance=encoder_variance, prior_variance=1.5)
    weights = solve(spec, moments).weights
    model = build_model(spec, data.target, n_points=2)
    alone = model_with(spec, data, weights | {"W": 0.8 * weights["W"]})
    with torch.no_grad():
        for mine, value in zip(model.parameters(), alone.parameters(), strict=True):
            mine.copy_(value.expand_as(mine))
    options = {"betas": [[0.6, 2.5]], "samples": 40}
    exact, grid, best = (
        inference_lag(model, data, method=m, **options) for m in ("exact", "grid", "optimised")
    )
    assert np.all(exact.distances > 0.02)
    assert abs(exact.gaps[0, 0] - exact.gaps[0, 1]) > 0.002
    for found in (grid, best):
        np.testing.assert_allclose(found.model_means, exact.model_means, atol=3e-3)
    np.testing.assert_allclose(best.gaps, exact.gaps, atol=2e-4)
    lost = np.zeros(2)
    if encoder_variance is not None:
        beta, U = np.array([0.6, 2.5]), weights["U"]
        scaled = encoder_variance * (np.sum(U**2) / (0.5 * beta) + 1 / 1.5)
        lost = beta / 2 * (scaled - 1 - np.log(scaled))
    np.testing.assert_allclose(grid.gaps[0], exact.gaps[0] + lost, atol=1e-4)


@pytest.mark.parametrize("name", ["mlp-bernoulli", "mlp-conditional", "pixelcnn"])
def test_grid_of_networks_by_hand(name):
    """Mean of p(y|z)^(1/beta) p(z), and beta KL(q||q*), from densities on a fine grid.

    The published grid is off by what the kinks of the activation cost a sum.
    """
    model, data = network(name, std=0.5)
    data = TrainingData(data.target[:5], None if data.condition is None else data.condition[:5])
    beta, eta2, step = 0.7, model.spec.prior_variance, 0.02
    published = inference_lag(model, data, betas=beta)
    assert published.method == "grid"
    found = inference_lag(model, data, betas=beta, step=step / math.sqrt(eta2))
    np.testing.assert_allclose(published.model_means, found.model_means, atol=5e-3)
    prior = torch.distributions.Normal(0.0, math.sqrt(eta2))
    z = torch.arange(-14, 14, step, dtype=torch.float64)
    gaps = []
    for i in range(5):
        log_p = log_joint_of_network(model, data, i, z) - prior.log_prob(z)
        log_q_star = torch.log_softmax(log_p / beta + prior.log_prob(z), dim=-1) - math.log(step)
        means = (log_q_star.exp() * z).sum(-1) * step
        np.testing.assert_allclose(found.model_means[:, :, i, 0], means, atol=2e-6)
        index = torch.tensor([[i]])
        level = model.posterior(*data.take(index))
        q = torch.distributions.Normal(level.mean.double(), (level.log_variance / 2).double().exp())
        density = q.log_prob(z).reshape(2, 2, -1).detach()
        gaps.append(beta * (density.exp() * (density - log_q_star)).sum(-1) * step)
    gaps = torch.stack(gaps, -1).numpy()
    np.testing.assert_allclose(found.gaps, gaps.mean(-1), rtol=5e-3, atol=1e-3)
    errors = gaps.std(-1, ddof=1) / math.sqrt(5)
    np.testing.assert_allclose(found.errors, errors, rtol=1e-2, atol=1e-3)
    assert found.gaps.min() > 0


def test_optimisation_of_a_network_against_brute_force():
    """Two latents, E_q by 20 x 20 nodes of Gauss and Hermite, minimised for every sample.

    The few points of the library choose nearly the same response: the loss is of second order.
    """
    rng = np.random.default_rng(0)
    data = TrainingData.from_arrays(rng.normal(size=(4, 6)))
    spec = VAESpec(2, beta=0.8, decoder_variance=0.3)
    model = build_model(spec, data.target, architecture=Architecture("mlp", hidden=8)).double()
    data = TrainingData(data.target.double(), None)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    found = inference_lag(model, data, draws=64)
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    e = torch.as_tensor(np.stack(np.meshgrid(nodes, nodes), -1).reshape(-1, 2))
    w = torch.as_tensor(np.outer(weights, weights).ravel() / weights.sum() ** 2)
    own = model.posterior(data.target[None], None)
    gaps = []
    for i, y in enumerate(data.target):

        def value(free, y=y):
            q = torch.as_tensor(free)
            z = q[:2] + torch.exp(q[2:] / 2) * e
            output = model.decoders[0](z[None, None])[0, 0] * model.scale
            log_p = torch.distributions.Normal(output, math.sqrt(0.3)).log_prob(y).sum(-1)
            rate = (q[:2] ** 2 + torch.exp(q[2:]) - 1 - q[2:]).sum() / 2
            return float(-(w @ log_p) + 0.8 * rate)

        with torch.no_grad():
            start = torch.cat([own.mean[0, 0, i], own.log_variance[0, 0, i]]).numpy()
            best = minimize(value, start, method="BFGS", options={"gtol": 1e-5})
            gaps.append(value(start) - best.fun)
    assert found.converged.all()
    assert np.mean(gaps) > 0.5
    assert found.gaps[0, 0] == pytest.approx(np.mean(gaps), rel=0.03)


@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_grid_and_optimisation_agree_on_texts(beta):
    """Small weights: the posterior is nearly Gaussian, and an encoder of random weights is behind.

    beta KL(q||q*) is then the loss against the best Gaussian, but for what that itself misses.
    """
    model, data = text_vae(prior_variance=1.5, size=0.45).train(), texts()
    grid = inference_lag(model, data, betas=beta)
    best = inference_lag(model, data, betas=beta, method="optimised")
    assert model.training
    assert (grid.method, best.method) == ("grid", "optimised")
    assert best.converged.all()
    assert np.all(best.gaps > 3 * best.errors)
    assert np.all(grid.gaps > best.gaps - 1e-3)
    np.testing.assert_allclose(best.gaps, grid.gaps, rtol=0.1, atol=5e-3)
    np.testing.assert_allclose(best.model_means, grid.model_means, atol=0.1)
    np.testing.assert_allclose(best.distances, grid.distances, rtol=0.1)


def test_two_latents_of_texts_are_optimised():
    """Started again from the response itself there would be nothing to gain: `residuals`."""
    model, data = text_vae(2, size=0.6), texts()
    found = inference_lag(model, data)
    assert found.method == "optimised"
    assert found.converged.all()
    assert np.all(found.gaps > 0)
    assert found.encoder_means.shape == found.model_means.shape == (2, 2, 40, 2)


@pytest.mark.parametrize(("k", "blocks"), [(1, 4), (2, 3), (5, 1)])
def test_points_are_exact_for_quadratics(k, blocks):
    """Mean 0 and second moment I of every sample, for every sample its own rotation."""
    n = 3
    points = _points(n, k, _radii(k, blocks), torch.Generator().manual_seed(0))
    assert points.shape == (1, 2 * k * blocks * n, k)
    by_sample = points.view(2 * k * blocks, n, k)
    assert by_sample.sum(0).abs().max() < 1e-12
    second = torch.einsum("dni,dnj->nij", by_sample, by_sample) / len(by_sample)
    torch.testing.assert_close(second, torch.eye(k, dtype=torch.float64).expand(n, k, k))
    if k > 1:
        assert not torch.allclose(by_sample[:, 0], by_sample[:, 1])


def test_narrow_posteriors_are_told_and_a_finer_grid_finds_them():
    _, data, moments = problem("vae")
    spec = VAESpec(1, decoder_variance=0.002)
    model = model_with(spec, data, solve(spec, moments).weights)
    exact = inference_lag(model, data, samples=50)
    with pytest.warns(UserWarning, match=r"100.0% of the posteriors are narrower than half"):
        coarse = inference_lag(model, data, samples=50, method="grid")
    fine = inference_lag(model, data, samples=50, method="grid", step=0.02)
    assert np.abs(coarse.model_means - exact.model_means).max() > 0.02
    np.testing.assert_allclose(fine.model_means, exact.model_means, atol=1e-3)


@pytest.mark.parametrize("method", ["exact", "grid", "optimised"])
@pytest.mark.filterwarnings("ignore:.*narrower than half")
def test_member_that_diverged_is_nan_and_leaves_the_others(method):
    data = problem("vae")[1]
    model = build_model(VAESpec(1, decoder_variance=0.5), data.target, n_points=2)
    before = inference_lag(model, data, method=method, samples=20)
    with torch.no_grad():
        model.encoders[0].weight[0, 1] = torch.nan
    found = inference_lag(model, data, method=method, samples=20)
    assert np.isnan(found.gaps[0, 1])
    assert np.isnan(found.distances[0, 1])
    assert found.gaps[0, 0] == pytest.approx(before.gaps[0, 0], abs=1e-4)
    assert found.gaps[0, 0] > 0


def test_refusals():
    data = problem("vae")[1]
    model = build_model(VAESpec(2), data.target)
    deep = build_model(HVAESpec((2, 1)), data.target)
    with pytest.raises(ValueError, match=r"spec has 2 levels but inference_lag needs one"):
        inference_lag(deep, data)
    _, given, _ = problem("general")
    blind = build_model(VAESpec(2), given.target, given.condition)
    with pytest.raises(ValueError, match=r"does not see the target, .*use CVAESpec"):
        inference_lag(blind, given)
    assert inference_lag(build_model(CVAESpec(2), given.target, given.condition), given)
    with pytest.raises(ValueError, match=r"method='grid' needs one latent .*not 2"):
        inference_lag(model, data, method="grid")
    with pytest.raises(ValueError, match=r"method='exact' needs a linear Gaussian decoder"):
        inference_lag(network("mlp")[0], network("mlp")[1], method="exact")
    with pytest.raises(ValueError, match=r"method='newton' must be 'exact', 'grid' or 'optim"):
        inference_lag(model, data, method="newton")
    with pytest.raises(ValueError, match=r"betas=0.0 must be > 0 and of shape \(1, 1\)"):
        inference_lag(model, data, betas=0.0)
    with pytest.raises(ValueError, match=r"samples=1 must be >= 2"):
        inference_lag(model, data, samples=1)
    with pytest.raises(ValueError, match=r"step=0 must be in \(0, 1\]"):
        inference_lag(build_model(VAESpec(1), data.target), data, method="grid", step=0)
