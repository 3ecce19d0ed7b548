"""Certificate and local threshold against closed forms, on weights put in by hand."""

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


@pytest.mark.parametrize("conditional", [False, True])
def test_local_threshold_of_a_linear_network_is_that_of_its_data(conditional):
    """With a condition: of the residual that its own decoder leaves, here all of the target."""
    dataset, data = data_of(conditional=conditional)
    spec = (CVAESpec if conditional else VAESpec)(1, beta=2.0, decoder_variance=S)
    model = build_model(spec, data.target, data.condition, seeds=(3, 5))
    if conditional:
        with torch.no_grad():
            model.decoders[0].weight.zero_()
    found = local_thresholds(model, data, 0)
    top = np.linalg.eigvalsh(np.cov(dataset.target.T, ddof=0))[-1]
    # the ridge takes RIDGE of the largest variance from the smaller ones
    assert found == pytest.approx(np.full(2, top / (S * 2.0)), rel=1e-4)


def test_local_threshold_counts_what_the_hidden_layers_carry():
    """phi = relu(+-y_2) explains y_2 alone; psi = relu(z) carries (1/4)/(1/2 - 1/(2 pi)) of z."""
    dataset, data = data_of()
    spec = VAESpec(1, decoder_variance=S)
    model = build_model(spec, data.target, architecture=Architecture("mlp", hidden=2))
    encoder, decoder = model.encoders[0], model.decoders[0]
    with torch.no_grad():
        encoder.inner.weight.zero_()
        encoder.inner.weight[0, 0, :, 1] = torch.tensor([1.0, -1.0])
        encoder.inner.bias.zero_()
        decoder.inner.weight[0, 0, :, 0] = torch.tensor([1.0, 0.0])
        decoder.inner.bias.zero_()
    explained = np.linalg.eigvalsh(_explained_by_second(dataset.target))[-1]
    share = 0.25 / (0.5 - 1 / (2 * np.pi))
    # 512 quantiles stand for the normal law: its tails are cut at 3.1
    found = collapsed_point(model, data, 0)
    assert found.thresholds[0] == pytest.approx(share * explained / S, rel=5e-3)
    # what is there to explain is more than what y_2 explains of it
    top = np.linalg.eigvalsh(np.cov(dataset.target.T, ddof=0))[-1]
    assert found.residuals[0] == pytest.approx(top / S, rel=1e-5)
    assert explained < 0.9 * top


def _explained_by_second(target: np.ndarray) -> np.ndarray:
    y = target - target.mean(axis=0)
    features = np.column_stack([np.maximum(y[:, 1], 0), np.maximum(-y[:, 1], 0)])
    features = features - features.mean(axis=0)
    fitted = features @ np.linalg.lstsq(features, y, rcond=None)[0]
    return fitted.T @ fitted / len(y)


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


def test_refusals():
    _, data = data_of()
    _, conditional = data_of(conditional=True)
    deep = build_model(HVAESpec((1, 1)), data.target)
    with pytest.raises(
        ValueError, match="must have one level, a Gaussian likelihood and a fixed decoder "
    ):
        exchange_ratios(deep, data)
    model = build_model(CVAESpec(1), conditional.target, conditional.condition)
    with pytest.raises(ValueError, match="collapsed_distortion is None but the data have a cond"):
        exchange_ratios(model, conditional)
    wide = build_model(VAESpec(2), data.target)
    with pytest.raises(ValueError, match=r"latent_dims=\(2,\) must be \(1,\) in collapsed_point"):
        local_thresholds(wide, data, 0)


PIXELS = Architecture("conv", hidden=4, channels=(3,), kernels=(3, 3), pixel_channels=4)


@pytest.mark.parametrize("decoder", ["conv", "pixelcnn"])
def test_decoders_of_images_have_no_local_threshold_yet(decoder):
    """Refused by name, and left out of the evidence beside a line."""
    dataset, _ = data_of((4.0, 2.0, 1.0, 0.5), n=40)
    data = TrainingData.from_arrays(dataset.target, image=ImageLayout((2, 2, 1)))
    network = replace(PIXELS, decoder=decoder)
    model = build_model(VAESpec(1), data.target, architecture=network, image=data.image, n_points=2)
    with pytest.raises(ValueError, match=f"decoder='{decoder}' has a last layer that all posit"):
        local_thresholds(model, data, 0)
    ratios, point = evidence(model, data, collapsed=1)
    assert ratios.factors.shape == (1, 2)
    assert np.isnan(point.thresholds[0])


def test_autoregressive_decoder_needs_a_collapsed_network():
    """What predicts each pixel from those before it beats every constant without any latent."""
    dataset, _ = data_of((4.0, 2.0, 1.0, 0.5), n=40)
    data = TrainingData.from_arrays(dataset.target, image=ImageLayout((2, 2, 1)))
    network = replace(PIXELS, decoder="pixelcnn")
    model = build_model(VAESpec(1), data.target, architecture=network, image=data.image)
    with pytest.raises(ValueError, match="collapsed_distortion is None but the decoder sees the t"):
        exchange_ratios(model, data)


def test_bernoulli_has_no_gaussian_evidence():
    dataset, _ = data_of()
    target = (dataset.target > 0).astype(float)
    data = TrainingData.from_arrays(target, centered=False)
    model = build_model(VAESpec(1, likelihood="bernoulli"), data.target)
    ratios, point = evidence(model, data, collapsed=0)
    found = (ratios.factors, ratios.errors, point.thresholds, point.residuals)
    assert all(np.isnan(values).all() for values in found)
    with pytest.raises(ValueError, match="must have one level, a Gaussian likelihood"):
        exchange_ratios(model, data)
