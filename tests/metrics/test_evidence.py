"""Certificate against closed forms and brute force, on weights put in by hand."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from linvae.data import ImageLayout, gaussian
from linvae.metrics import ExchangeRatios, exchange_ratios, has_certificate, rates_at_collapse
from linvae.metrics.evidence import (
    MOST_STRATA,
    REPEATS,
    SURE,
    _of_unit_moment,
    _ratio,
    _terms_of_strata,
    enough_strata,
    evidence,
    needs_collapsed,
    stratified_noise,
    terms_of_draws,
)
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
    assert error[0] in found.errors[0]


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


def test_the_draws_that_choose_do_not_certify():
    """The first member is chosen though the other looks better where it is certified."""
    found = ExchangeRatios(
        np.array([[0.7, 0.95], [0.5, np.nan]]),
        np.array([[0.01, 0.001], [0.2, 0]]),
        np.array([[0.65, 0.6], [-np.inf, -np.inf]]),
        np.ones((2, 2)),
        np.ones(2),
    )
    best, error = found.best()
    assert best[0] == pytest.approx(0.67)
    assert error[0] == 0.01
    assert np.isnan(best[1])


def equal_members(n_points: int, share: float = 0.9):
    """Of 40 samples, all at the optimum of one share of the threshold."""
    dataset, data = data_of(n=40)
    spec = VAESpec(1, decoder_variance=S)
    model = build_model(spec, data.target, n_points=n_points)
    put_optimum(model, spec, Moments.from_data(dataset.target), [share] * n_points)
    return model, data


def test_only_the_chosen_member_is_certified_by_other_draws():
    model, data = equal_members(3)
    with torch.no_grad():  # smaller decoders save less
        model.decoders[0].weight[0, :2] *= torch.tensor([0.5, 0.9])[:, None, None]
    found = exchange_ratios(model, data)
    idle = np.array([mean_of_squares(data) / (2 * S) + 1.5 * np.log(2 * np.pi * S)])
    plain = _ratio(model, data, *terms_of_draws(model, data), idle)
    other = _ratio(model, data, *_terms_of_strata(model, data), idle)
    assert found.choice[0].argmax() == 2
    assert found.factors[0, :2] == pytest.approx(plain[0][0, :2], rel=1e-9)
    assert found.factors[0, 2] == pytest.approx(other[0][0, 2], rel=1e-9)
    assert plain[0][0, 2] != other[0][0, 2]
    assert found.errors[0, 2] == pytest.approx(other[1][0, 2], rel=1e-9)


def mean_of_squares(data: TrainingData) -> float:
    return float(data.take(torch.arange(len(data)))[0].double().square().sum(1).mean())


def test_noisy_ratio_chooses_nothing():
    """A rate of 5e-6 nats: the rounding of 3 nats is 60 % of it."""
    model, data = equal_members(5, share=0.99999)
    found = exchange_ratios(model, data)
    assert np.all(found.choice == -np.inf)
    assert np.isnan(found.best()[0]).all()


def test_many_samples_need_few_strata():
    """120 000 pairs in all, of 8 repeats: 1875 samples need the most, and none needs no draw."""
    counts = {1: 8, 1875: 8, 2764: 6, 10_000: 2, 15_000: 1, 60_000: 1}
    assert {n: enough_strata(n) for n in counts} == counts


def test_many_samples_are_certified_by_few_draws_of_each(monkeypatch):
    model, data = equal_members(1)  # of 40 samples
    monkeypatch.setattr(sys.modules["linvae.metrics.evidence"], "CERTIFYING", 40 * REPEATS * 3)
    passes, forward = [], model.forward

    def counted(*batch):
        passes.append(1)
        return forward(*batch)

    monkeypatch.setattr(model, "forward", counted)
    assert len(_terms_of_strata(model, data)[0]) == REPEATS
    assert len(passes) == REPEATS * 3


@pytest.mark.parametrize("strata", [1, 2, MOST_STRATA])
def test_strata_are_standard_normal_and_cover_every_interval_once(strata):
    n, width = 4000, 2
    noise = stratified_noise(strata, n, width, repeat=3)
    shares = torch.special.erf(noise.abs() / 2**0.5)  # P(|noise| < it)
    places = (shares * strata).long().sort(dim=0).values
    assert torch.equal(places, torch.arange(strata)[:, None, None].expand(-1, n, width))
    for draw in noise:  # each alone: moments within 4 standard errors, and independent columns
        for power, expected in ((1, 0.0), (2, 1.0), (4, 3.0)):
            powers = draw**power
            error = powers.std(dim=0) / n**0.5
            assert ((powers.mean(dim=0) - expected).abs() < 4 * error).all()
        assert abs(torch.corrcoef(draw.T)[0, 1]) < 4 / n**0.5
        assert abs(torch.corrcoef(draw.square().T)[0, 1]) < 4 / n**0.5
    other = stratified_noise(strata, n, width, repeat=4)
    assert abs(torch.corrcoef(torch.stack([noise[0, :, 0], other[0, :, 0]]))[0, 1]) < 4 / n**0.5


@pytest.mark.parametrize("strata", [1, MOST_STRATA])
def test_error_of_the_strata_is_honest(strata):
    """As often beyond `SURE` errors as Student's law with 7 degrees of freedom says, 1 %.

    Mean of tanh(a + noise)^2 over samples, known by quadrature: of 600 certificates 6, standard
    error 2.4, on either side.
    """
    a = torch.linspace(-1.5, 1.5, 30, dtype=torch.float64)[:, None]
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    exact = np.tanh(a.numpy() + nodes) ** 2 @ weights / weights.sum()
    scores = []
    for certificate in range(600):
        found = []
        for repeat in range(certificate * REPEATS, (certificate + 1) * REPEATS):
            noise = _of_unit_moment(stratified_noise(strata, len(a), 1, repeat))
            both = torch.tanh(a + torch.stack([noise, -noise])) ** 2
            found.append(float(both.mean()))
        scores.append((np.mean(found) - exact.mean()) / (np.std(found, ddof=1) / REPEATS**0.5))
    for beyond in (np.sum(np.array(scores) > SURE), np.sum(np.array(scores) < -SURE)):
        assert 0 <= beyond <= 15
    assert 0.8 < np.median(np.abs(scores)) / 0.711 < 1.2  # Student's median


def test_strata_take_most_of_the_error_away():
    """Networks far from linear, against 5000 equally likely values of the noise of each sample."""
    _, data = data_of(n=20)
    network = Architecture("mlp", hidden=6, activation="tanh")
    spec = VAESpec(1, decoder_variance=S)
    model = build_model(spec, data.target, architecture=network, seeds=range(12))
    with torch.no_grad():
        for name, values in model.named_parameters():
            if "outer" in name:
                values *= 10
    found = _terms_of_strata(model, data)[0][..., 0]
    assert len(np.unique(found[:, 0])) == REPEATS  # no noise twice
    nodes = torch.special.ndtri((torch.arange(5000) + 0.5) / 5000)
    nodes = nodes / nodes.square().mean().sqrt()
    y = data.take(torch.arange(len(data))[None])[0]
    with torch.no_grad():
        noise = nodes.repeat_interleave(len(data))[None, :, None]
        exact = model(y, None, [noise]).distortion[:, 0].double().numpy()
    error = found.std(axis=0, ddof=1) / REPEATS**0.5
    # all see the same noise; beyond 8 errors is one network in 10 000
    assert np.abs((found.mean(axis=0) - exact) / error).max() < 8
    plain = terms_of_draws(model, data)[0][..., 0].std(axis=0, ddof=1) / MOST_STRATA**0.5
    assert np.median(found.std(axis=0, ddof=1) / plain) < 1 / 3  # of as many plain draws


def test_ratios_of_two_stacks_are_against_the_lower_collapsed_distortion():
    """f = saved/paid: 0.3 nats less saved by those that were judged against a worse regression."""
    one = ExchangeRatios(
        np.array([[2.0, 1.0]]), np.full((1, 2), 0.1), np.array([[1.9, -np.inf]]),
        np.array([[0.6, 0.5]]), np.array([10.0]),
    )  # fmt: skip
    two = ExchangeRatios(
        np.array([[1.8]]), np.full((1, 1), 0.1), np.array([[1.7]]), np.array([[0.4]]),
        np.array([9.7]),
    )  # fmt: skip
    for joined in (one.and_those_of(two), two.and_those_of(one)):
        assert sorted(joined.factors[0]) == pytest.approx([1.0 - 0.6, 2.0 - 0.5, 1.8])
        assert joined.best()[0][0] == pytest.approx(1.8 - SURE * 0.1)
        assert joined.idle.tolist() == [9.7]


def test_better_regression_is_not_taken_for_information():
    """A collapsed network that has not learnt all of its condition, beside one that has.

    Against the former alone a member with a rate of 0.02 nats saves more than any latent could.
    """
    dataset, data = data_of((3.0, 1.0, 0.3), n=2000, conditional=True)
    spec = CVAESpec(1, decoder_variance=S)
    moments = Moments.from_data(dataset.target, dataset.condition)
    critical = solve(spec, moments).critical_beta[0]
    at = solve(spec.scale_betas(0.95 * critical), moments).weights
    model = build_model(spec, data.target, data.condition, n_points=2)
    with torch.no_grad():
        for point, learnt in enumerate((1.0, 0.9)):
            seen = np.hstack([at["W1"] * model.condition_scale, at["W2"] * model.scale])
            told = np.hstack(
                [at["U1"] / model.scale, learnt * at["U2"] * model.condition_scale / model.scale]
            )
            model.encoders[0].weight[0, point] = torch.as_tensor((1 - point) * seen)
            model.decoders[0].weight[0, point] = torch.as_tensor(told)
            model.log_variances[0][0, point] = float(np.log(at["Sigma"][0, 0])) * (1 - point)
        model.decoders[0].weight[0, 1, :, 0] = 0
    fooled = exchange_ratios(model, data, terms_of_draws(model, data)[0].mean(axis=0)[0, 1])
    assert fooled.best()[0][0] > 1.2 * critical
    best = evidence(model, data, collapsed=1)[0].best()[0][0]
    # the logarithmic mean of 0.95 and 1, against the first member's own regression
    assert best == pytest.approx(0.9747 * critical, rel=0.01)


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

HIERARCHIES = {
    "learned": HVAESpec((1, 1), betas=(0.8, 1.1), decoder_variance=S),
    "fixed below": HVAESpec(
        (1, 1), betas=(1.0, 0.4), prior_variances=(0.6, 1.3), encoder_variances=(0.9, None)
    ),
    "nothing to code": HVAESpec((1, 1), betas=(1.0, 2.0), encoder_variances=(0.5, None)),
    "fixed above": HVAESpec((1, 1), betas=(1.0, 1.4), encoder_variances=(None, 0.7)),
    "both fixed": HVAESpec((1, 1), betas=(2.0, 0.5), encoder_variances=(1.4, 0.3)),
    "three": HVAESpec((1, 1, 1), betas=(2.0, 1.5, 0.8), encoder_variances=(1.2, 0.9, None)),
    "pinned": HVAESpec((1, 1, 1), betas=(1.0, 3.0, 1.5), encoder_variances=(None, 0.9, None)),
    "two units": HVAESpec((2, 2), betas=(1.0, 0.4), encoder_variances=(0.9, None)),
}


@pytest.mark.parametrize("spec", HIERARCHIES.values(), ids=HIERARCHIES.keys())
def test_least_rates_are_those_of_the_best_linear_hierarchy(spec):
    """Data of next to no variance leave level 1 nothing to carry but its own noise."""
    nothing = Moments.from_covariance(1e-9 * np.eye(max(spec.latent_dims)))
    found = solve(spec, nothing)
    # of the order of the variance that is left
    assert rates_at_collapse(spec) == pytest.approx(found.rates @ spec.betas, abs=1e-7)


@pytest.mark.parametrize("spec", [
    HVAESpec((1, 3), betas=(2.0, 0.5), encoder_variances=(1.4, 0.3)),
    HVAESpec((4, 1, 2), betas=(2.0, 1.5, 0.8), encoder_variances=(1.2, 0.9, 0.2)),
    HVAESpec((2, 1, 2), betas=(1.0, 1.5, 0.2), encoder_variances=(None, 2.0, 0.8)),
])  # fmt: skip
def test_least_rates_are_the_least_that_information_allows(spec):
    """The bound on every R_l, minimised over all I_l >= 0 by brute force; widths differ."""
    terms = zip(spec.betas, spec.latent_dims, spec.encoder_variances, strict=True)
    levels = [(b, k, v) for b, k, v in terms]

    def paid(upper: np.ndarray) -> float:
        t = -np.diff([0.0, *upper, 0.0])  # I_l - I_(l+1)
        return sum(
            b * (x if v is None else k / 2 * (v * np.exp(2 * x / k) - 1 - np.log(v)))
            for x, (b, k, v) in zip(t, levels, strict=True)
        )

    start = np.full(len(levels) - 1, 0.3)
    best = minimize(paid, start, bounds=[(0, None)] * len(start), options={"ftol": 1e-14})
    assert best.x.max() > 0.1  # something is coded
    assert rates_at_collapse(spec) == pytest.approx(best.fun, abs=1e-8)


def test_least_rates_are_those_of_the_best_channel():
    """Blahut-Arimoto: any channel from a Gaussian z_1 to any code, not Gaussian ones alone."""
    spec = HIERARCHIES["fixed below"]
    (sigma2, _), (eta2, _), (b1, b2) = spec.encoder_variances, spec.prior_variances, spec.betas
    z = np.linspace(-5, 5, 161) * np.sqrt(sigma2)
    source = np.exp(-(z**2) / (2 * sigma2))
    source /= source.sum()
    kernel = np.exp(-b1 / b2 * (z[:, None] - z) ** 2 / (2 * eta2))
    used = np.full(len(z), 1 / len(z))
    for _ in range(3000):
        used = used * ((source / (kernel @ used)) @ kernel)
    # min over channels of b1 E (z - code)^2/(2 eta^2) + b2 I(z; code)
    best = -b2 * source @ np.log(kernel @ used)
    idle = b1 / 2 * (-1 - np.log(sigma2 / eta2))
    # codes on a grid of 0.06 are as good as free ones to its square
    assert rates_at_collapse(spec) == pytest.approx(best + idle, abs=1e-3)


NETWORKS = {
    "fixed below": (HIERARCHIES["fixed below"], 0.01),
    "both fixed": (HIERARCHIES["both fixed"], 0.01),
    "three": (HIERARCHIES["three"], 0.02),
    "narrow above": (HVAESpec((2, 1), betas=(1.0, 0.4), encoder_variances=(0.9, None)), 0.3),
    "wide above": (HVAESpec((1, 2), betas=(2.0, 0.5), encoder_variances=(1.4, 0.3)), 0.3),
}


@pytest.mark.parametrize(("spec", "room"), NETWORKS.values(), ids=NETWORKS.keys())
def test_no_network_has_lower_rates(spec, room):
    """Trained for nothing else, on data that do not vary, they come close but not below."""
    y = torch.zeros(1, 2)
    network = Architecture("mlp", hidden=12, activation="tanh")
    model = build_model(spec, y, architecture=network, seeds=range(4))
    betas, generator = torch.tensor(spec.betas), torch.Generator().manual_seed(0)

    def paid(draws: int) -> torch.Tensor:
        noise = [torch.randn(4, draws, k, generator=generator) for k in spec.latent_dims]
        return model(y[None].expand(4, -1, -1), None, noise).rates @ betas

    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 300)
    for _ in range(300):
        optimiser.zero_grad()
        paid(128).sum().backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        found = torch.stack([paid(20_000) for _ in range(10)]).double()[..., 0]
    mean, error = found.mean(0).numpy(), found.std(0).numpy() / np.sqrt(10)
    least = rates_at_collapse(spec)
    assert np.all(mean > least - 4 * error)
    assert mean.min() < least + room


def test_levels_that_read_the_data_pay_each_for_its_own_variance():
    """With skip none codes the noise of another: sigma^2/eta^2 - 1 - log of it, times beta/2."""
    spec = HVAESpec((2, 1), betas=(1.0, 0.4), encoder_variances=(0.9, 0.5))
    expected = 2 * (0.9 - 1 - np.log(0.9)) / 2 + 0.4 * (0.5 - 1 - np.log(0.5)) / 2
    assert rates_at_collapse(spec, skip=True) == pytest.approx(expected)
    assert rates_at_collapse(spec) < expected
    # betas that fall upwards are no harm there
    falling = HVAESpec((1, 1), betas=(1.0, 0.5))
    assert rates_at_collapse(falling) == -np.inf
    assert rates_at_collapse(falling, skip=True) == 0


def put_chain(model, spec, moments, shares) -> list[float]:
    """Members at the linear optimum of `shares` of level 1's threshold; their exact f_x."""
    critical = solve(spec, moments).level_critical_betas[0, 0] / spec.betas[0]
    exact = []
    idle = float(solve(spec.scale_betas(2 * critical), moments).distortion)
    for point, share in enumerate(shares):
        found = solve(spec.scale_betas(share * critical), moments)
        scales = (model.scale, 1.0)
        with torch.no_grad():
            for level, scale in enumerate(scales):
                at = {n: found.weights[f"{n}{level + 1}"] for n in ("W", "U", "Sigma")}
                model.encoders[level].weight[0, point] = torch.as_tensor(at["W"] * scale)
                model.decoders[level].weight[0, point] = torch.as_tensor(at["U"] / scale)
                variance = torch.tensor(np.diag(at["Sigma"]))
                model.log_variances[level][0, point] = torch.log(variance)
        paid = found.rates @ spec.betas - rates_at_collapse(spec)
        exact.append((idle - float(found.distortion)) / paid)
    return exact


@pytest.mark.parametrize("spec", [
    HVAESpec((1, 1), betas=(1.0, 1.3), decoder_variance=S),
    HVAESpec((1, 1), betas=(1.0, 0.4), decoder_variance=S, encoder_variances=(0.9, None)),
    HVAESpec((1, 1), betas=(1.0, 2.0), decoder_variance=S, encoder_variances=(0.4, None)),
    HVAESpec((1, 1), betas=(1.0, 0.7), decoder_variance=S, encoder_variances=(0.6, 1.5)),
])  # fmt: skip
def test_certificate_of_linear_hierarchies_comes_to_the_threshold_from_below(spec):
    dataset, data = data_of(n=2000)
    moments = Moments.from_data(dataset.target)
    critical = solve(spec, moments).level_critical_betas[0, 0] / spec.betas[0]
    shares = np.array([0.3, 0.6, 0.9, 0.99])
    model = build_model(spec, data.target, n_points=4)
    exact = np.array(put_chain(model, spec, moments, shares))
    assert np.all(exact < critical)
    assert np.all(exact >= shares * critical)  # at an optimum no member is beaten by collapse
    found = exchange_ratios(model, data)
    # of 4 members; 5 errors, which are themselves known to a quarter from 8 draws
    assert np.all(np.abs(found.factors[0] - exact) < 5 * found.errors[0])
    assert np.all(found.errors[0, :2] < 0.02 * critical)
    best, _ = found.best()
    assert 0.5 * critical < best[0] < critical


def test_certificate_is_one_of_level_one_alone():
    """NaN for levels above, for betas that have no least rate, and in `evidence` beside a line."""
    _, data = data_of()
    spec = HVAESpec((1, 1), betas=(1.0, 1.5))
    assert has_certificate(spec, level=1)
    assert not has_certificate(spec, level=2)
    assert not has_certificate(spec)
    assert not has_certificate(HVAESpec((1, 1), betas=(1.0, 0.5)), level=1)
    model = build_model(spec, data.target, n_points=2)
    assert np.isnan(evidence(model, data, 1, level=2)[0].factors).all()
    ratios, point = evidence(model, data, 1, level=1)
    assert ratios.factors.shape == (1, 2)
    assert np.isnan(point.thresholds).all()


def test_collapsed_member_is_needed_for_its_own_threshold_and_for_conditions():
    network, masked = Architecture("mlp"), Architecture("pixelcnn")
    assert needs_collapsed(VAESpec(1), network, conditional=False)
    assert not needs_collapsed(VAESpec(1, likelihood="bernoulli"), network, conditional=False)
    assert needs_collapsed(VAESpec(1, likelihood="bernoulli"), masked, conditional=False)
    assert not needs_collapsed(HVAESpec((1, 1)), network, conditional=False, level=1)
    assert needs_collapsed(HVAESpec((1, 1)), network, conditional=True, level=1)
    assert not needs_collapsed(HVAESpec((1, 1)), network, conditional=True, level=2)
    assert not needs_collapsed(VAESpec(1, decoder_variance="learned"), network, conditional=True)


# --- other likelihoods, refusals ------------------------------------------------------------------


@pytest.mark.parametrize("grey", [False, True])
def test_bernoulli_certificate_is_against_the_entropy_of_the_means(grey):
    """D_0 by the brute force of a constant decoder; D and R from their definitions."""
    rng = np.random.default_rng(5)
    t = rng.standard_normal((400, 1))
    odds = 3 * t * [1.0, -0.7, 0.4] + [0.2, -1.0, 1.5]
    probability = 1 / (1 + np.exp(-odds))
    target = probability if grey else (rng.random((400, 3)) < probability).astype(float)
    data = TrainingData.from_arrays(target, centered=False)
    spec = VAESpec(1, beta=1.4, likelihood="bernoulli", encoder_variance=0.3)
    model = build_model(spec, data.target, n_points=2)
    weights = torch.tensor([[1.2], [-0.8], [0.5]])
    with torch.no_grad():
        model.encoders[0].weight[0, 0] = weights.T
        model.decoders[0].weight[0, 0] = weights
    found = exchange_ratios(model, data)
    mean = target.mean(axis=0)
    constants = np.linspace(0.001, 0.999, 4001)[:, None]
    losses = -mean * np.log(constants) - (1 - mean) * np.log(1 - constants)
    idle = losses.min(axis=0).sum()
    mu = (target - mean) @ weights.numpy()[:, 0] / model.scale
    zeta, share = np.polynomial.hermite_e.hermegauss(40)
    z = mu[:, None] + np.sqrt(0.3) * zeta
    offsets = model.offset[0, 0].detach().numpy()
    logits = z[..., None] * weights.numpy()[:, 0] + offsets
    error = np.logaddexp(0, logits) - target[:, None] * logits
    distortion = (error.sum(-1) @ share).mean() / share.sum()
    expected = (idle - distortion) / (1.4 * np.mean(mu**2) / 2)
    assert found.errors[0, 0] < 0.01 * expected
    # 5 errors of 8 draws; the grid of constants is off by 1e-8
    assert found.factors[0, 0] == pytest.approx(expected, abs=5 * found.errors[0, 0])
    assert np.isnan(evidence(model, data, 1)[1].thresholds).all()


def test_refusals():
    _, data = data_of()
    _, conditional = data_of(conditional=True)
    unbounded = build_model(HVAESpec((1, 1), betas=(1.0, 0.5)), data.target)
    learned = build_model(VAESpec(1, decoder_variance="learned"), data.target)
    for model in (unbounded, learned):
        with pytest.raises(ValueError, match="must have a Gaussian or Bernoulli likelihood, a fix"):
            exchange_ratios(model, data)
        ratios, point = evidence(model, data, collapsed=0)
        found = (ratios.factors, ratios.errors, point.thresholds, point.residuals)
        assert all(np.isnan(values).all() for values in found)
    model = build_model(CVAESpec(1), conditional.target, conditional.condition)
    with pytest.raises(ValueError, match="collapsed_distortion is None but the data have a cond"):
        exchange_ratios(model, conditional)


@pytest.mark.parametrize("n", [37, 600])  # less than a part, and more
def test_convolutions_are_evaluated_some_rows_at_a_time(n, monkeypatch):
    """The same noise for every sample, however few go through the networks together."""
    values = np.random.default_rng(0).normal(size=(n, 16))
    data = TrainingData.from_arrays(values, image=ImageLayout((4, 4, 1)))
    network, spec = (
        Architecture("conv", channels=(2,)),
        HVAESpec((2, 1), encoder_variances=(0.3, None)),
    )
    model = build_model(spec, data.target, architecture=network, n_points=3, image=data.image)
    whole = terms_of_draws(model, data)
    module = sys.modules["linvae.metrics.observe"]
    monkeypatch.setattr(module, "VALUES", 5 * 3 * 16 + 1)  # 5 samples of 3 members
    seen, forward = [], model.forward

    def noted(target, *rest):
        seen.append(target.shape[1])
        return forward(target, *rest)

    monkeypatch.setattr(model, "forward", noted)
    pieces = terms_of_draws(model, data)
    assert max(seen) == 5
    assert sum(seen) == n * len(whole[0])
    for one, other in zip(whole, pieces, strict=True):
        assert other == pytest.approx(one, rel=1e-6, abs=1e-7)  # float32 terms


@pytest.mark.parametrize(("n", "draws"), [(100, 16), (3000, 10), (10_000, 4)])
def test_more_samples_need_fewer_draws(n, draws):
    """30 000 pairs choose, and at least four means tell their error."""
    target = np.random.default_rng(0).normal(size=(n, 2))
    data = TrainingData.from_arrays(target)
    model = build_model(VAESpec(1), data.target, n_points=3)
    distortions, rates = terms_of_draws(model, data)
    assert (distortions.shape, rates.shape) == ((draws, 1, 3), (draws, 1, 3, 1))
