"""The local threshold against the Hessian of the exact objective, and against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import functional_call, hessian

from linvae.data import ImageLayout, gaussian
from linvae.metrics import collapsed_point, has_local, local_threshold, local_thresholds
from linvae.models import Architecture, StackedVAE, build_model
from linvae.spec import CVAESpec, HVAESpec, VAESpec
from linvae.train import TrainingData

S, ETA2 = 0.5, 1.3


def data_of(spectrum=(2.0, 0.7, 0.2), n: int = 600, conditional: bool = False):
    rho = [0.8, 0.4, 0.0] if conditional else 0.0
    found = gaussian(spectrum, n, correlation=rho, condition_dim=3 if conditional else 0, seed=4)
    return found, TrainingData.from_arrays(found.target, found.condition)


def images(shape: tuple[int, int, int], conditional: bool, n: int = 10) -> TrainingData:
    """Skewed pixels that depend on each other; the condition is the first row of the image."""
    rng, d = np.random.default_rng(2), math.prod(shape)
    pixels = rng.exponential(size=(n, d)) @ rng.standard_normal((d, d))
    if not conditional:
        return TrainingData.from_arrays(pixels, image=ImageLayout(shape))
    k = shape[1] * shape[2]
    image = ImageLayout(shape, tuple(range(k, d)), tuple(range(k)))
    return TrainingData.from_arrays(pixels[:, k:], pixels[:, :k], image=image)


def head(name: str) -> bool:
    return name.startswith(("head", "outer"))


def collapsed(spec, data, architecture) -> StackedVAE:
    """Heads at 0, the variance that of the prior: a stationary point but for the mean."""
    model = build_model(
        spec, data.target, data.condition, architecture=architecture, image=data.image, seeds=(1,)
    )
    with torch.no_grad():
        for network in (model.encoders[0], model.decoders[0]):
            for name, value in network.named_parameters():
                if head(name):
                    value.zero_()
                elif "bias" in name:  # so that no activation is odd
                    value.add_(0.4 * torch.randn(value.shape, generator=torch.manual_seed(3)))
        if spec.encoder_variance is None:
            bias = [v for n, v in model.encoders[0].named_parameters() if head(n) and "bias" in n]
            bias[0][..., 1] = math.log(spec.prior_variance)
    return model


def hessians(model: StackedVAE, data: TrainingData) -> tuple[np.ndarray, np.ndarray]:
    """Second derivatives of distortion and of the rate by all weights of the last layers.

    z is integrated by the trapezoidal rule, exact for what is smooth on its scale of 0.06.
    """
    model.double()
    zeta = torch.linspace(-6, 6, 201, dtype=torch.float64)
    weights = torch.softmax(-(zeta**2) / 2, 0)
    given = [None if v is None else v.double()[None, None] for v in (data.target, data.condition)]
    x, y = model._scaled(*given)
    shared = x if model.decoder_sees_condition else None
    networks = (model.encoders[0], model.decoders[0])
    heads = [{n: v for n, v in net.named_parameters() if head(n)} for net in networks]
    sizes = [v.numel() for h in heads for v in h.values()]
    eta2, fixed = model.spec.prior_variance, model.spec.encoder_variance

    def terms(values: Tensor) -> Tensor:
        parts = iter(values.split(sizes))
        encoder, decoder = ({n: next(parts).view_as(v) for n, v in h.items()} for h in heads)
        out = functional_call(networks[0], encoder, (model._joined(x, y),))[0, 0]
        log_variance = torch.full_like(out, math.log(fixed)) if fixed else out[:, 1:]
        mean = out[:, :1]
        z = (mean + torch.exp(log_variance / 2) * zeta).T.reshape(1, 1, -1, 1)
        output = functional_call(networks[1], decoder, (z, shared))[0, 0]
        error = (y[0, 0] - output.view(len(zeta), *y.shape[2:])).square().sum(-1).mean(-1)
        rate = (mean**2 + torch.exp(log_variance)) / eta2 - log_variance
        return torch.stack([weights @ error * model.scale**2 / (2 * S), rate.mean() / 2])

    start = torch.cat([v.detach().flatten() for h in heads for v in h.values()])
    found = hessian(terms)(start).detach().numpy()
    model.float()
    return found[0], found[1]


CONV = Architecture("conv", hidden=2, channels=(2,), activation="tanh")
CASES = {
    "mlp": (Architecture("mlp", hidden=4, activation="tanh"), (2, 3, 1), False),
    "mlp with a condition": (Architecture("mlp", hidden=4, activation="tanh"), (2, 3, 1), True),
    "conv": (CONV, (3, 4, 1), False),
    "conv, two channels": (CONV, (2, 3, 2), False),
    "conv with a condition": (CONV, (3, 4, 1), True),
}


@pytest.mark.parametrize("encoder_variance", [None, 0.6])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_smallest_eigenvalue_of_the_hessian_is_zero_there(case, encoder_variance):
    """In all weights and biases of both last layers, at beta just below and just above."""
    architecture, shape, conditional = case
    data = images(shape, conditional)
    spec = (CVAESpec if conditional else VAESpec)(
        1, beta=1.5, decoder_variance=S, prior_variance=ETA2, encoder_variance=encoder_variance
    )
    model = collapsed(spec, data, architecture)
    point = collapsed_point(model, data, 0)
    assert conditional or point.thresholds[0] < point.residuals[0]
    found = 1.5 * point.thresholds[0]
    distortion, rate = hessians(model, data)

    def lowest(beta: float) -> float:
        return np.linalg.eigvalsh(distortion + beta * rate)[0]

    # weights that see nothing but the edge are 0 but for rounding; the ridge takes 1e-6 of the
    # largest variance from directions that have 1e-3 of it, LEFT_OUT 1e-3 of what differs with x
    rounding = 1e-12 * np.abs(distortion).max()
    assert lowest(found * (1 - 1e-3)) < -rounding
    assert lowest(found * (1 + 1e-3)) > -rounding


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


# relu(z) has the Hermite coefficients 1/2 of z and 1/(2 sqrt pi) of (z^2 - 1)/sqrt 2
RELU_VARIANCE = 1 / 2 - 1 / (2 * np.pi)
SHARES = {0.7: 1 / 4 / RELU_VARIANCE, None: (1 / 4 + 1 / (4 * np.pi)) / RELU_VARIANCE}


@pytest.mark.parametrize("encoder_variance", SHARES)
def test_local_threshold_counts_what_the_hidden_layers_carry(encoder_variance):
    """phi = relu(+-y_2) explains y_2 alone; psi = relu(z) carries a share of z.

    And one of z^2 - 1, which a variance that depends on the input can use.
    """
    dataset, data = data_of()
    spec = VAESpec(1, decoder_variance=S, encoder_variance=encoder_variance)
    model = build_model(spec, data.target, architecture=Architecture("mlp", hidden=2))
    encoder, decoder = model.encoders[0], model.decoders[0]
    with torch.no_grad():
        encoder.inner.weight.zero_()
        encoder.inner.weight[0, 0, :, 1] = torch.tensor([1.0, -1.0])
        encoder.inner.bias.zero_()
        decoder.inner.weight[0, 0, :, 0] = torch.tensor([1.0, 0.0])
        decoder.inner.bias.zero_()
    explained = np.linalg.eigvalsh(_explained_by_second(dataset.target))[-1]
    share, variance = SHARES[encoder_variance], encoder_variance or 1.0
    found = collapsed_point(model, data, 0)
    # the trapezoidal rule of 257 points is off by the square of their distance, 0.04, over 12
    assert found.thresholds[0] == pytest.approx(share * explained / S / variance, rel=1e-3)
    # what is there to explain is more than what y_2 explains of it
    top = np.linalg.eigvalsh(np.cov(dataset.target.T, ddof=0))[-1]
    assert found.residuals[0] == pytest.approx(top / S / variance, rel=1e-5)
    assert explained < 0.9 * top


def _explained_by_second(target: np.ndarray) -> np.ndarray:
    y = target - target.mean(axis=0)
    features = np.column_stack([np.maximum(y[:, 1], 0), np.maximum(-y[:, 1], 0)])
    features = features - features.mean(axis=0)
    fitted = features @ np.linalg.lstsq(features, y, rcond=None)[0]
    return fitted.T @ fitted / len(y)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_memory_changes_no_threshold(case, monkeypatch):
    """A few values at a time; and the largest eigenvalues by iteration, as in many dimensions."""
    architecture, shape, conditional = case
    data = images(shape, conditional)
    spec = (CVAESpec if conditional else VAESpec)(1, decoder_variance=S)
    model = collapsed(spec, data, architecture)
    whole = collapsed_point(model, data, 0)
    monkeypatch.setattr(local_threshold, "VALUES", 200)
    monkeypatch.setattr(local_threshold, "DENSE", 0)
    few = collapsed_point(model, data, 0)
    # sums in another order, of float32 residuals
    assert few.thresholds == pytest.approx(whole.thresholds, rel=1e-5)
    assert few.residuals == pytest.approx(whole.residuals, rel=1e-5)


def test_member_that_diverged_has_no_threshold():
    data = images((3, 4, 1), False)
    model = collapsed(VAESpec(1), data, CONV)
    with torch.no_grad():
        next(model.encoders[0].parameters()).fill_(torch.nan)
    assert np.isnan(local_thresholds(model, data, 0)).all()


REFUSED = {
    "two units": (VAESpec(2), "mlp"),
    "hierarchy": (HVAESpec((1, 1)), "mlp"),
    "learned decoder variance": (VAESpec(1, decoder_variance="learned"), "mlp"),
    "another likelihood": (VAESpec(1, likelihood="bernoulli"), "mlp"),
    "autoregressive": (VAESpec(1), "pixelcnn"),
}


@pytest.mark.parametrize(("spec", "architecture"), REFUSED.values(), ids=REFUSED.keys())
def test_refusals(spec, architecture):
    data = images((3, 4, 1), False)
    network = Architecture(architecture, hidden=4, kernels=(3, 3), pixel_channels=4)
    target = (data.target > 0).float()
    model = build_model(spec, target, architecture=network, image=data.image)
    assert not has_local(spec, network)
    assert has_local(VAESpec(1), CONV)
    with pytest.raises(ValueError, match="must have one level of one unit, a Gaussian likelihood"):
        collapsed_point(model, data, 0)
