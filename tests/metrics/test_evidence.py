"""Certificate against closed forms and brute force, on weights put in by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from linvae.data import ImageLayout, gaussian
from linvae.metrics import (
    ExchangeRatios,
    collapsed_point,
    exchange_ratios,
    local_thresholds,
)
from linvae.metrics.evidence import evidence
from linvae.models import Architecture, build_model
from linvae.moments import Moments
from linvae.spec import CVAESpec, HVAESpec, VAESpec
from linvae.theory import solve
from linvae.train import ConstantBetas, TrainConfig, TrainingData, train

CPU = torch.device("cpu")
S = 0.5


def data_of(spectrum=(2.0, 0.7, 0.2), n: int = 600, conditional: bool = False):
    rho = [0.8, 0.4, 0.0] if conditional else 0.0
    found = gaussian(spectrum, n, correlation=rho, condition_dim=3 if conditional else 0, seed=4)
    return found, TrainingData.from_arrays(found.target, found.condition)


def put_optimum(model, spec, moments, shares) -> None:
    """Members at the optimum of `shares` of the threshold."""
    critical = solve(spec, moments).critical_beta[0]
    with torch.no_grad():
        for point, share in enumerate(shares):
            at = solve(spec.scale_betas(share * critical / spec.beta), moments).weights
            for values, matrix in (
                (model.encoders[0].weight, at["W"] * model.scale),
                (model.decoders[0].weight, at["U"] / model.scale),
            ):
                values[0, point] = torch.as_tensor(matrix)
            if spec.encoder_variance is None:
                model.log_variances[0][0, point] = float(np.log(at["Sigma"][0, 0]))


@pytest.mark.parametrize("encoder_variance", [None, 0.4])
def test_exchange_ratio_at_the_optimum_has_a_closed_form(encoder_variance):
    """Learned variance: the logarithmic mean of factor and threshold. Fixed: the geometric mean."""
    dataset, data = data_of()
    spec = VAESpec(1, beta=1.5, decoder_variance=S, encoder_variance=encoder_variance)
    moments = Moments.from_data(dataset.target)
    shares = np.array([0.3, 0.6, 0.9])
    model = build_model(spec, data.target, n_points=3)
    put_optimum(model, spec, moments, shares)
    found = exchange_ratios(model, data)
    critical = solve(spec, moments).critical_beta[0] / spec.beta
    mean = (1 - shares) / -np.log(shares) if encoder_variance is None else np.sqrt(shares)
    # float32 differences of distortions: 1e-6 of 3 nats, over rates of 0.05 nats and more
    assert found.factors[0] == pytest.approx(critical * mean, rel=1e-3)
    assert np.all(found.errors < 0.02 * critical)
    best, error = found.best()
    assert best[0] == pytest.approx(critical * mean[-1], rel=0.02)
    assert best[0] < critical
    assert error[0] == found.errors[0, 2]


def test_collapsed_members_certify_nothing():
    """Rates of 1e-9 nats: both differences are rounding, and their ratio may be anything."""
    dataset, data = data_of()
    spec = VAESpec(1, decoder_variance=S)
    model = build_model(spec, data.target, n_points=40)
    put_optimum(model, spec, Moments.from_data(dataset.target), [0.5] * 40)
    with torch.no_grad():
        sizes = torch.logspace(-5, -2, 40)[:, None, None]
        model.encoders[0].weight[0] *= sizes
        model.decoders[0].weight[0] *= sizes
        model.log_variances[0][0] = torch.log1p(-(sizes[:, 0] ** 2))
    found = exchange_ratios(model, data)
    # at 1e-2 of the weights the rate is 1e-4 nats, the rounding of 3 nats 3e-6
    assert np.nanmax(found.errors / np.abs(found.factors)) > 1
    best = found.best()[0][0]
    critical = solve(spec, Moments.from_data(dataset.target)).critical_beta[0]
    assert np.isnan(best) or best < critical


def test_certificate_of_trained_linear_networks_is_below_the_threshold():
    dataset, data = data_of()
    spec = VAESpec(2, decoder_variance=S)
    critical = solve(spec, Moments.from_data(dataset.target)).critical_beta[0]
    factors = [0.3 * critical, 0.7 * critical, 0.9 * critical, 1.5 * critical]
    model = build_model(spec, data.target, seeds=(0, 1), n_points=4)
    train(model, data, ConstantBetas(factors, spec.betas, CPU), TrainConfig(steps=800))
    best, _ = exchange_ratios(model, data).best()
    assert np.all(best < critical)
    assert np.all(best > 0.7 * critical)  # of 0.9 of it: the logarithmic mean is 0.95


def test_member_that_diverged_certifies_nothing():
    dataset, data = data_of()
    spec = VAESpec(1, decoder_variance=S)
    model = build_model(spec, data.target, n_points=2)
    put_optimum(model, spec, Moments.from_data(dataset.target), [0.5, 0.5])
    with torch.no_grad():
        model.encoders[0].weight[0, 1] = torch.nan
    found = exchange_ratios(model, data)
    assert np.isnan(found.factors[0, 1])
    assert np.isfinite(found.best()[0][0])
    with torch.no_grad():
        model.encoders[0].weight[0, 0] = torch.nan
    assert np.isnan(exchange_ratios(model, data).best()[0][0])


def test_noisy_ratio_certifies_nothing():
    """0.9 with an error of 0.1 is no proof beside 0.7 with 0.01."""
    found = ExchangeRatios(
        np.array([[0.7, 0.95], [0.5, np.nan]]), np.array([[0.01, 0.1], [0.2, 0]])
    )
    best, error = found.best()
    assert best[0] == pytest.approx(0.68)
    assert error[0] == 0.01
    assert np.isnan(best[1])


PIXELS = Architecture("conv", hidden=4, channels=(3,), kernels=(3, 3), pixel_channels=4)


def test_autoregressive_decoder_needs_a_collapsed_network():
    """What predicts each pixel from those before it beats every constant without any latent."""
    dataset, _ = data_of((4.0, 2.0, 1.0, 0.5), n=40)
    data = TrainingData.from_arrays(dataset.target, image=ImageLayout((2, 2, 1)))
    network = replace(PIXELS, decoder="pixelcnn")
    model = build_model(VAESpec(1), data.target, architecture=network, image=data.image)
    with pytest.raises(ValueError, match="collapsed_distortion is None but the decoder sees the t"):
        exchange_ratios(model, data)


# --- hierarchies ----------------------------------------------------------------------------------

FIXED_BELOW = HVAESpec(
    (1, 1), betas=(1.0, 0.4), decoder_variance=S, prior_variances=(0.6, 1.3),
    encoder_variances=(0.9, None),
)  # fmt: skip
HIERARCHIES = {
    "learned": HVAESpec((1, 1), betas=(0.8, 1.1), decoder_variance=S),
    "fixed below": FIXED_BELOW,
    "fixed below, nothing to code": HVAESpec((1, 1), betas=(1.0, 2.0), encoder_variances=(0.5, None)),
    "fixed above": HVAESpec((1, 1), betas=(1.0, 1.4), encoder_variances=(None, 0.7)),
    "both fixed": HVAESpec((1, 1), betas=(2.0, 0.5), encoder_variances=(1.4, 0.3)),
    "three": HVAESpec((1, 1, 1), betas=(2.0, 1.5, 0.8), encoder_variances=(1.2, 0.9, None)),
    "pinned": HVAESpec((1, 1, 1), betas=(1.0, 3.0, 1.5), encoder_variances=(None, 0.9, None)),
    "two units": HVAESpec((2, 2), betas=(1.0, 0.4), encoder_variances=(0.9, None)),
}


@pytest.mark.parametrize("spec", HIERARCHIES.values(), ids=HIERARCHIES.keys())
def test_least_rates_are_those_of_the_best_linear_hierarchy(spec):
    """Data of next to no variance leave level 1 nothing else to carry than its own noise."""
    nothing = Moments.from_covariance(1e-9 * np.eye(max(spec.latent_dims)))
    rates = np.array(solve(spec, nothing).rates)
    assert rates_at_collapse(spec) == pytest.approx(rates @ spec.betas, abs=1e-7)


def chain_cost(spec, weights: np.ndarray, dims) -> float:
    """sum_l beta_l R_l of a linear chain on z_1 ~ N(0, Sigma_1), all matrices by hand."""
