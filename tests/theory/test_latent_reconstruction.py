"""Latent reconstruction in every routing: thresholds, growth rates and rests against the flow.

The flow and its Jacobian are those of `analysis.latent_reconstruction_stability`: second moments of
the matrices and automatic differentiation.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from analysis import latent_reconstruction_stability as numerical
from linvae.spec import LATENT_SOURCES, LatentReconstruction
from linvae.theory.latent_reconstruction import (
    collapsed_encoder_variance,
    reconstruction_critical_beta,
    reconstruction_growth_rates,
    reconstruction_rest,
)
from linvae.theory.penalised import local_critical_beta, penalised_optimum

DETACHED = ("none", "input", "target", "both")
NUMBERS = {"decoder_variance": 0.7, "prior_variance": 1.3}
# the same numbers by other operations: sums of about 100 products, eigenvalues of blocks of size 4
SAME = 1e-11


@pytest.mark.parametrize("number", range(numerical.PROBLEMS))
@pytest.mark.parametrize("source", ["prior", "posterior"])
def test_every_mode_is_unstable_just_below_and_stable_just_above(source, number):
    problem = numerical.draw(number)
    found = numerical.measure(problem, LatentReconstruction(problem.weight, source))
    assert found.holds.all()
    assert max(found.gap, found.off) < SAME


@pytest.mark.parametrize("routing", [*itertools.product(LATENT_SOURCES, DETACHED)])
def test_every_routing(routing):
    for number, share in enumerate((0.3, 1e-4, 0.0)):
        problem = numerical.draw(number)
        loss = LatentReconstruction(problem.weight, *routing, share)
        found = numerical.measure(problem, loss)
        assert found.holds.all()
        assert max(found.gap, found.off) < SAME


def test_which_routings_have_the_same_threshold():
    theta2 = np.geomspace(0.05, 20, 9)

    def critical(source: str, detach: str, share: float) -> np.ndarray:
        loss = LatentReconstruction(0.8, source, detach, share)
        return reconstruction_critical_beta(theta2, loss, **NUMBERS)

    for share in (1.0, 0.2, 0.0):
        prior = critical("prior", "none", share)
        attached = critical("posterior", "none", share)
        means = critical("mean", "none", share)
        assert np.all(attached < prior) == (share > 0)
        for detach in DETACHED:
            assert np.array_equal(critical("prior", detach, share), prior)
            drawn = critical("posterior", detach, share)
            assert np.array_equal(drawn, attached if detach in ("none", "input") else prior)
            for source in ("mean", "posterior-to-mean"):
                plain = theta2 / NUMBERS["decoder_variance"]
                expected = means if detach in ("none", "input") else plain
                assert np.array_equal(critical(source, detach, share), expected)


def test_no_weight_is_the_plain_threshold():
    theta2 = np.array([3.0, 1.0, 0.2])
    for source, detach in itertools.product(LATENT_SOURCES, DETACHED):
        loss = LatentReconstruction(0.0, source, detach)
        found = reconstruction_critical_beta(theta2, loss, **NUMBERS)
        assert found == pytest.approx(theta2 / NUMBERS["decoder_variance"], rel=1e-15)


def test_a_share_of_nothing_gives_the_square_root_of_the_gain():
    theta2 = np.array([3.0, 1.0, 0.2])
    plain = theta2 / NUMBERS["decoder_variance"]
    for source, detach in (("prior", "none"), ("posterior", "both"), ("posterior", "none")):
        both, one = (
            reconstruction_critical_beta(
                theta2, LatentReconstruction(0.4, source, detach, share), **NUMBERS
            )
            for share in (1.0, 0.0)
        )
        gain = one / plain
        if detach == "none" and source == "posterior":
            assert np.all(both / plain < gain**2)  # the encoder's variance shrinks
        else:
            assert both / plain == pytest.approx(gain**2, rel=1e-14)


def test_prior_is_the_theory_of_penalties():
    theta2 = np.array([5.0, 1.0, 0.3, 0.02])
    loss = LatentReconstruction(0.9, "prior")
    found = reconstruction_critical_beta(theta2, loss, **NUMBERS)
    expected = local_critical_beta(theta2, latent_reconstruction=0.9, **NUMBERS)
    assert found == pytest.approx(expected, rel=1e-14)
    for beta in (0.1, 1.5, 5.0):
        rest = reconstruction_rest(theta2, loss, beta=beta, **NUMBERS)
        optimum = penalised_optimum(theta2, beta=beta, latent_reconstruction=0.9, **NUMBERS)
        assert rest.decoder == pytest.approx(optimum.decoder, rel=1e-12)
        assert rest.encoder == pytest.approx(optimum.encoder, rel=1e-12)
        assert rest.encoder_variances == pytest.approx(optimum.encoder_variance, rel=1e-12)


def test_without_data_the_loss_alone_moves_the_unit():
    """theta = 0: always, as long as it reaches both weights; and the copy is then perfect."""
    for source, detach, share, expected in (
        ("prior", "none", 1.0, math.inf),
        ("posterior", "none", 1e-4, math.inf),
        ("posterior", "both", 0.0, 0.0),
        ("posterior", "none", 0.0, 0.0),
        ("prior", "none", 0.0, 0.0),
        ("mean", "none", 1.0, 0.0),
        ("posterior-to-mean", "both", 1.0, 0.0),
    ):
        loss = LatentReconstruction(0.5, source, detach, share)
        assert reconstruction_critical_beta(0.0, loss, **NUMBERS) == expected
        rate = reconstruction_growth_rates(0.0, loss, beta=2.0, **NUMBERS)
        assert (rate > 0) == (expected > 0)
    assert reconstruction_critical_beta(1e-310, LatentReconstruction(0.5), **NUMBERS) == math.inf
    rest = reconstruction_rest(0.0, LatentReconstruction(0.5), beta=2.0, **NUMBERS)
    assert (rest.lost, rest.decoder, rest.encoder) == (0, 0, math.inf)
    assert (rest.noise_fractions, rest.rates_nats, rest.squared_errors) == (1, 0, 0)
    for loss in (LatentReconstruction(0.5, encoder_share=0.0), LatentReconstruction(0.0)):
        rest = reconstruction_rest([0.0, 9.0], loss, beta=2.0, **NUMBERS)
        assert (rest.lost[0], rest.decoder[0], rest.encoder[0]) == (1, 0, 0)
        assert rest.lost[1] < 1


RESTS = [
    (source, detach, share)
    for source, detach in (
        ("prior", "none"),
        *(("posterior", d) for d in ("none", "input", "both")),
    )
    for share in (1.0, 0.3, 0.0)
]


def _one_mode(number: int) -> tuple[numerical.Problem, float]:
    rng = np.random.default_rng(number)
    theta2, s, eta2, weight, beta = 3 ** rng.uniform(-1.5, 1.5, size=5)
    return numerical.Problem(np.array([[theta2]]), 1, s, eta2, weight), beta


@pytest.mark.parametrize("routing", RESTS)
def test_the_flow_stays_at_the_rest_and_returns_to_it(routing):
    """Alive and collapsed ones: the flow vanishes there and its Jacobian decays."""
    alive = 0
    for number in range(8):
        problem, beta = _one_mode(number)
        loss = LatentReconstruction(problem.weight, *routing)
        theta2 = problem.covariance[0]
        rest = reconstruction_rest(theta2, loss, beta=beta, **problem.variances)
        critical = reconstruction_critical_beta(theta2, loss, **problem.variances)
        assert (rest.noise_fractions < 1) == (beta < critical)
        alive += int(beta < critical[0])
        at = np.stack([rest.encoder, rest.decoder, np.log(rest.encoder_variances)])[:, 0]
        x, beta = torch.tensor(at), torch.tensor(beta)
        flow = numerical.flow(problem, loss, x, beta).numpy()
        J = torch.func.jacfwd(lambda y: numerical.flow(problem, loss, y, beta))(x).numpy()  # noqa: B023
        # x is found to the last bit; forces are differences of numbers of the Jacobian's size
        assert np.abs(flow).max() < 1e-12 * np.abs(J).max()
        assert np.linalg.eigvals(J).real.max() < 0
    assert 0 < alive < 8


@pytest.mark.parametrize("routing", RESTS)
def test_a_unit_rests_away_from_collapse_exactly_below_its_threshold(routing):
    """Numbers up to e^12 apart, by the closed form of the threshold; not within 1e-6 of it."""
    rng = np.random.default_rng(0)
    for _ in range(15):
        weight, beta, s, eta2 = np.exp(rng.uniform(-3, 3, size=4))
        loss, theta2 = LatentReconstruction(weight, *routing), np.exp(rng.uniform(-6, 6, size=20))
        given = {"decoder_variance": s, "prior_variance": eta2}
        rest = reconstruction_rest(theta2, loss, beta=beta, **given)
        critical = reconstruction_critical_beta(theta2, loss, **given)
        clear = np.abs(critical / beta - 1) > 1e-6
        assert np.array_equal((rest.lost < 1)[clear], (beta < critical)[clear])


def test_rates_and_errors_of_the_rest_are_those_of_its_weights():
    theta2, loss = np.array([4.0, 1.0, 0.3]), LatentReconstruction(0.8, "posterior", "input", 0.4)
    rest = reconstruction_rest(theta2, loss, beta=1.1, **NUMBERS)
    u, w, v = rest.decoder, rest.encoder, rest.encoder_variances
    eta2 = NUMBERS["prior_variance"]
    rates = ((w**2 * theta2 + v) / eta2 - 1 - np.log(v / eta2)) / 2
    assert rest.rates_nats == pytest.approx(rates, rel=1e-12, abs=1e-14)
    assert rest.squared_errors == pytest.approx(theta2 * (1 - u * w) ** 2 + u**2 * v, rel=1e-12)
    assert rest.mean_variances == pytest.approx(w**2 * theta2, rel=1e-12)
    assert [row["mode"] for row in rest.to_rows()] == [1, 2, 3]


def test_no_second_optimum_of_the_posterior_source():
    """Its objective over a fine grid of u w has one minimum, and that is the rest."""
    rng = np.random.default_rng(5)
    q = np.concatenate([np.geomspace(1e-6, 0.5, 400), 1 - np.geomspace(0.5, 1e-6, 400)[1:]])
    for P, b, g in np.exp(rng.uniform(-4, 4, size=(300, 3))):
        root = 2 * np.sqrt(b / P) / (q + np.sqrt(q**2 + 4 * b / P))
        r = root**2
        noise = P * q**2 * r / (1 - r)
        F = P * (1 - q) ** 2 + noise - b * np.log(r) + b * np.log1p(g / b * (1 - q) ** 2)
        minima = np.flatnonzero((F[1:-1] < F[:-2]) & (F[1:-1] < F[2:])) + 1
        rest = reconstruction_rest(
            P, LatentReconstruction(g), beta=b, decoder_variance=1.0, prior_variance=1.0
        )
        found = 1 - float(rest.lost)
        assert len(minima) <= 1
        for i in minima:
            assert q[i - 1] <= found <= q[i + 1]
            assert g * rest.lost**2 / b <= 1 / 3
        if len(minima) == 0:  # at an end of the grid
            assert found < 1e-5 or found > 1 - 1e-5


def test_detached_everywhere_the_posterior_source_rests_where_prior_does():
    theta2 = np.array([4.0, 1.0, 0.3])
    rests = [
        reconstruction_rest(theta2, LatentReconstruction(0.8, *which), beta=1.1, **NUMBERS)
        for which in (("prior", "none"), ("posterior", "both"))
    ]
    for name in ("decoder", "encoder", "encoder_variances"):
        assert getattr(rests[0], name) == pytest.approx(getattr(rests[1], name), rel=1e-12)


@pytest.mark.parametrize(
    ("loss", "shown"),
    [
        (LatentReconstruction(1, "mean"), "source='mean'"),
        (LatentReconstruction(1, "posterior", "target"), "detach='target'"),
        (LatentReconstruction(1, "prior", "none", 2.0), r"encoder_share=2\.0"),
    ],
)
def test_rests_that_are_not_known_are_refused(loss, shown):
    with pytest.raises(ValueError, match=rf"{shown}.* no known rest: use source 'prior', or"):
        reconstruction_rest(1.0, loss, beta=1.0, **NUMBERS)


@pytest.mark.parametrize("name", ["decoder_variance", "prior_variance"])
def test_numbers_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}=0 must be finite and > 0 in linvae.theory.late"):
        reconstruction_critical_beta(1.0, LatentReconstruction(1), **NUMBERS | {name: 0})
    with pytest.raises(ValueError, match=r"mode_variances=-1\.0 must be finite and >= 0"):
        reconstruction_critical_beta([-1.0, 1.0], LatentReconstruction(1), **NUMBERS)
    with pytest.raises(ValueError, match="beta=nan must be finite"):
        collapsed_encoder_variance(LatentReconstruction(1), beta=np.nan, prior_variance=1.0)
