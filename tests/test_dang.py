"""The experiments of Dang et al.: predictions against the published closed forms, runs, figures."""

from __future__ import annotations

import csv
import importlib
import json
import math

import numpy as np
import pytest

from analysis.dang import NAMES, correlation, cvae, digits, hierarchy, variances
from analysis.dang.__main__ import MEASURED, deviations, main, read_rows
from analysis.dang.sweep import (
    ACTIVE,
    EPSILON,
    Point,
    Size,
    predicted_collapsed_share,
    predictions,
    sweep_rows,
    theory_rows,
    variance_unit,
)
from linvae import CVAESpec, HVAESpec, Moments, VAESpec, solve
from linvae.data import gaussian, load_dataset
from linvae.models import Architecture

UNIT = 64 / 784
LINEAR = {"linear": Architecture("linear")}
# float64 eigenvalues of the same matrices by two routes, sums of some tens of logarithms
ROUNDING = {"rel": 1e-6, "abs": 1e-6}
PRINTED = {"rel": 1e-4, "abs": 1e-5}  # rows keep five digits


@pytest.fixture(scope="module")
def images():
    return load_dataset("digits")


@pytest.fixture(scope="module")
def quarters():
    return load_dataset("digits", conditional=True)


# --- published closed forms, written again ------------------------------------------------------


def conditional_eigenvalues(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Eigenvalues of E as published, by the residual of least squares; descending."""
    y, x = (np.asarray(v, float) - np.mean(v, axis=0, dtype=float) for v in (y, x))
    residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    return np.linalg.svd(residual, compute_uv=False) ** 2 / len(y)


def theorem_2(theta: np.ndarray, k: int, beta: float, s: float, eta2: float = 1.0) -> dict:
    """Rate, count and distortion of a conditional VAE with learned Sigma."""
    d, top = len(theta), theta[:k]
    active = top >= beta * s
    omega2 = np.maximum(0, top - beta * s) / eta2
    sigma2 = np.where(active, beta * s * eta2 / np.where(active, top, 1), eta2)
    mean2 = np.where(active, eta2 - sigma2, 0)  # variance of the posterior mean
    error = theta.sum() - (omega2 * eta2).sum()
    return {
        (1, "rate_nats"): float(np.sum((sigma2 + mean2) / eta2 - 1 - np.log(sigma2 / eta2)) / 2),
        (1, "active_units"): float(np.sum(mean2 > ACTIVE)),
        (0, "distortion_nats"): float(d / 2 * math.log(2 * math.pi * s) + error / (2 * s)),
    }


def two_level_rates(
    lam: np.ndarray, omega: np.ndarray, w: np.ndarray, noise_1: float, noise_2, s: float, eta2
) -> dict:
    """Rates of both levels, and count of the second, of a published hierarchy."""
    second = lam**2 + noise_1
    gap = (1 - omega * w) ** 2 * second + omega**2 * noise_2
    mean2 = w**2 * second
    rate_1 = (gap / s - 1 - np.log(noise_1 / s)) / 2
    rate_2 = ((noise_2 + mean2) / eta2 - 1 - np.log(noise_2 / eta2)) / 2
    return {
        (1, "rate_nats"): float(rate_1.sum()),
        (2, "rate_nats"): float(rate_2.sum()),
        (1, "active_units"): float(np.sum(lam**2 > ACTIVE * s)),
        (2, "active_units"): float(np.sum(mean2 > ACTIVE * eta2)),
    }


def theorem_3(theta: np.ndarray, b1: float, b2: float, s: float, eta2: float, noise_1: float):
    """sigma_1 fixed, sigma_2 learned."""
    sigma, c2 = math.sqrt(noise_1), s / eta2
    lam2 = noise_1 / (b2 * s) * np.maximum(0, theta**2 - b2 * s)
    omega2 = noise_1 * theta**2 / (b2 * eta2 * s) - b2 / b1 * c2
    if noise_1 >= b2 / b1 * s:
        omega2 = np.maximum((noise_1 - b2 / b1 * s) / eta2, omega2)
    else:
        dead = sigma * theta < b2 * s / math.sqrt(b1)
        alone = np.maximum(0, sigma / math.sqrt(b1) * (theta - math.sqrt(b1) * sigma))
        lam2, omega2 = np.where(dead, alone, lam2), np.where(dead, 0, omega2)
    omega = np.sqrt(omega2)
    below = b1 * omega2 + b2 * c2
    return two_level_rates(
        np.sqrt(lam2), omega, b1 * omega / below, noise_1, b2 * s / below, s, eta2
    )


def theorem_5(theta: np.ndarray, b1: float, b2: float, s: float, eta2, noise_1, noise_2):
    """Both fixed, with the second threshold corrected; two_level_rates, and omega."""
    c, sigma_1, sigma_2 = math.sqrt(s / eta2), math.sqrt(noise_1), math.sqrt(noise_2)
    root = math.sqrt(b1 * b2) * c
    on_noise = max(0.0, math.sqrt(b2) * c * sigma_1 / (math.sqrt(b1) * sigma_2) - b2 / b1 * c**2)
    lam, omega = np.zeros_like(theta), np.full_like(theta, math.sqrt(on_noise))
    for i, t in enumerate(theta):
        enough = t >= b2 * c**2 * noise_2 / (math.sqrt(b1) * sigma_1)
        if t >= math.sqrt(root * sigma_1 * sigma_2) and enough:
            lam[i] = (noise_1 / (root * sigma_2)) ** (1 / 3) * math.sqrt(
                max(0, t ** (4 / 3) - (root * sigma_1 * sigma_2) ** (2 / 3))
            )
            omega[i] = (math.sqrt(b2) * c * sigma_1 / (b1 * noise_2)) ** (1 / 3) * math.sqrt(
                max(0, t ** (2 / 3) - (b2**2 * c**4 * noise_2**2 / (b1 * noise_1)) ** (1 / 3))
            )
        elif math.sqrt(b1) * sigma_1 < math.sqrt(b2) * c * sigma_2:
            lam[i] = math.sqrt(max(0, sigma_1 * (t / math.sqrt(b1) - sigma_1)))
    w = b1 * omega / (b1 * omega**2 + b2 * c**2)
    return two_level_rates(lam, omega, w, noise_1, noise_2, s, eta2), omega


def assert_rows(rows: list, value: float, expected: dict) -> None:
    """Rows of one value have the expected predictions."""
    found = {
        (row["level"], row["quantity"]): row["predicted"] for row in rows if row["value"] == value
    }
    for key, number in expected.items():
        assert found[key] == pytest.approx(number, **PRINTED), (key, value)


# --- predictions --------------------------------------------------------------------------------


def test_cvae_predictions_are_theorem_2(quarters):
    theta = conditional_eigenvalues(quarters.target, quarters.condition)
    sweeps = cvae.sweeps(UNIT, 16)
    rows = theory_rows("cvae", "beta", sweeps["beta"][0], quarters)
    for beta in cvae.BETAS:
        assert_rows(rows, beta, theorem_2(theta, 16, beta, UNIT))
    rows = theory_rows("cvae", "s", sweeps["decoder variance"][0], quarters)
    for deviation in cvae.DEVIATIONS:
        assert_rows(rows, deviation**2, theorem_2(theta, 16, 1.0, UNIT * deviation**2))


def test_predictions_of_a_class_are_theorem_2_on_its_own_samples(quarters):
    one = digits.of_class(quarters, 3, 150)
    assert one.n_samples == 150 and set(quarters.labels[quarters.labels == 3]) == {3}
    theta = conditional_eigenvalues(one.target, one.condition)
    spec = CVAESpec(digits.LATENT_DIM, decoder_variance=UNIT * digits.VARIANCE)
    assert_rows(
        theory_rows("digits", "class", [Point(3, spec)], one), 3,
        theorem_2(theta, digits.LATENT_DIM, 1.0, UNIT * digits.VARIANCE),
    )  # fmt: skip


def test_hierarchy_predictions_are_theorem_3_in_the_published_units_of_the_latents(images):
    y = np.asarray(images.target, float) - images.target.mean(axis=0, dtype=float)
    theta = np.sqrt(np.linalg.svd(y, compute_uv=False)[: hierarchy.LATENT_DIM] ** 2 / len(y))
    regimes = set()
    for name, (points, _) in hierarchy.sweeps(UNIT).items():
        rows = theory_rows("hierarchy", name, points, images)
        for point in points:
            b1, b2 = point.spec.betas
            s = point.spec.decoder_variance
            # eta_enc = eta_dec = 0.5 and sigma_1 = 0.5 as published, in units of UNIT
            expected = theorem_3(theta, b1, b2, s, 0.25 * UNIT, hierarchy.NOISE * UNIT)
            assert_rows(rows, point.value, expected)
            on_noise = b2 / b1 * s <= hierarchy.NOISE * UNIT
            regimes.add("noise" if on_noise else f"data {expected[2, 'active_units'] > 0}")
    assert regimes == {"noise", "data True", "data False"}  # all three of the theorem are visited


def test_population_of_the_correlation_study_is_its_closed_form():
    spec = CVAESpec(8, decoder_variance=0.25)
    for a in (0.0, 0.5, 0.8, 0.9, 1.0):
        found = predictions(spec, correlation.population(a, 8))
        rate = 4 * max(0.0, math.log(max(1 - a**2, 1e-9) / 0.25))
        assert found[1, "rate_nats"] == pytest.approx(rate, **ROUNDING)
        assert found[1, "active_units"] == (8 if 1 - a**2 > 0.25 / 0.99 else 0)


def test_sample_of_the_correlation_study_shares_its_draw_and_follows_theorem_2():
    some, other = correlation.sample(0.5, 8), correlation.sample(0.9, 8)
    np.testing.assert_array_equal(some.target, other.target)
    # 5 standard errors (1 - a^2)/sqrt(n) of a correlation, largest of 8
    n = some.n_samples
    seen = [np.corrcoef(some.target[:, i], some.condition[:, i])[0, 1] for i in range(8)]
    np.testing.assert_allclose(seen, 0.5, atol=5 * 0.75 / math.sqrt(n))
    spec = CVAESpec(8, decoder_variance=0.25)
    theta = conditional_eigenvalues(some.target, some.condition)
    assert_rows(
        theory_rows("c", "sample", [Point(0.5, spec)], some), 0.5, theorem_2(theta, 8, 1.0, 0.25)
    )


def test_fixed_diagonal_predictions_are_theorem_1(images):
    y = np.asarray(images.target, float) - images.target.mean(axis=0, dtype=float)
    theta = np.sqrt(np.linalg.svd(y, compute_uv=False)[:5] ** 2 / len(y))
    for kind, fixed in (("diagonal", variances.DIAGONAL), ("identity", (1.0,) * 5)):
        points = variances.one_level(UNIT)[f"one level, {kind}"][0]
        rows = theory_rows("variances", kind, points, images)
        sigma = np.sqrt(np.sort(fixed))
        for beta in variances.BETAS:
            price = math.sqrt(beta * UNIT)
            lam2 = np.maximum(0, sigma * (theta - price * sigma) / price)
            rate = np.sum(sigma**2 + lam2 - 1 - np.log(sigma**2)) / 2
            assert_rows(
                rows, beta, {(1, "rate_nats"): rate, (1, "active_units"): np.sum(lam2 > ACTIVE)}
            )


def test_fixed_hierarchy_predictions_are_the_corrected_theorem_5(images):
    y = np.asarray(images.target, float) - images.target.mean(axis=0, dtype=float)
    theta = np.sqrt(np.linalg.svd(y, compute_uv=False)[: hierarchy.LATENT_DIM] ** 2 / len(y))
    points = variances.two_levels(UNIT)["hierarchy, fixed"][0]
    rows = theory_rows("variances", "fixed", points, images)
    s, eta2, noise = hierarchy.VARIANCE * UNIT, 0.25 * UNIT, hierarchy.NOISE * UNIT
    differ = 0
    for point in points:
        expected, omega = theorem_5(theta, variances.BETA_1, point.value, s, eta2, noise, eta2)
        assert_rows(rows, point.value, expected)
        corrected, code = (
            variances.second_level_active(
                theta, variances.BETA_1, point.value, s, hierarchy.NOISE / hierarchy.VARIANCE,
                corrected=choice,
            )
            for choice in (True, False)
        )  # fmt: skip
        np.testing.assert_array_equal(corrected, omega > 0)
        differ += int(np.any(corrected != code))
    assert differ >= 2  # the setting tells the two thresholds apart


def test_predicted_collapsed_share_is_that_of_drawn_samples():
    moments = Moments.from_covariance(np.diag([3.0, 1.05, 1.005, 0.5]))
    cases = [
        (VAESpec(4, beta=1.0), 1.0),
        (HVAESpec((3, 3), betas=(1.0, 0.9), encoder_variances=(0.6, None)), 1.0),
    ]
    rng = np.random.default_rng(0)
    n = 200_000
    for spec, eta2 in cases:
        solution = solve(spec, moments)
        r, v = solution.noise_fractions[-1], solution.encoder_variances[-1]
        k = spec.latent_dims[-1]
        mu = rng.standard_normal((n, k)) * np.sqrt(v[:k] * (1 / r[:k] - 1))
        kl = (v[:k] / eta2 + mu**2 / eta2 - 1 - np.log(v[:k] / eta2)) / 2
        share = predicted_collapsed_share(spec, solution)
        assert 0 < share < 1
        # 5 standard errors of a share of n k draws at most
        assert np.mean(kl < EPSILON) == pytest.approx(share, abs=2.5 / math.sqrt(n * k))


# --- trained ------------------------------------------------------------------------------------

SMALL = Size(LINEAR, dataset="digits", steps=600, batch_size=64, seeds=(0, 1), learning_rate=1e-2)


def assert_near(rows: list, share: float, counts: int) -> None:
    """Rates within `share` of the largest predicted one, active units within `counts`."""
    for quantity in ("rate_nats", "active_units"):
        some = [row for row in rows if row["quantity"] == quantity and row["seed"] >= 0]
        assert some
        largest = max(abs(row["predicted"]) for row in some)
        allowed = share * largest if quantity == "rate_nats" else counts
        for row in some:
            assert abs(row["observed"] - row["predicted"]) <= allowed, row


# 5 % below: 600 steps of batches of 64 see 38,400 samples, so the variance of a mode under the
# last 200 steps is off by up to sqrt(2/12,800) = 1.3 %, its rate by half of that in nats; the rest
# is room for convergence. Modes are few and far from their thresholds, where training is slow.


def test_linear_cvae_and_class_are_near_theory():
    data = gaussian((4.0, 2.0), 1000, correlation=(0.6, 0.3), seed=1)
    points = [Point(b, CVAESpec(2, beta=b)) for b in (0.1, 0.5, 4.0)]
    assert_near(sweep_rows("cvae", "beta", points, data, SMALL), 0.05, 0)


def test_linear_hierarchy_is_near_theorem_3():
    data = gaussian((4.0, 0.1), 1000, seed=1)
    points = [
        Point(b, HVAESpec((1, 1), betas=(1.0, b), decoder_variance=0.25,
                          encoder_variances=(1.0, None)))
        for b in (0.5, 2.0, 9.0)
    ]  # fmt: skip
    # counts only: after 600 steps U_2 is at 2.4 of its 5.6 and the exact objective 0.41 nats above
    # its minimum where level 2 lives on noise, so rates are not there yet
    assert_near(sweep_rows("hierarchy", "beta_2", points, data, SMALL), math.inf, 0)


def test_training_decides_between_the_two_second_thresholds_of_theorem_5():
    data = gaussian((4.0, 1.0), 1000, seed=1)  # theta 2, 1
    spec = HVAESpec(
        (1, 1), betas=(4.0, 5.0), decoder_variance=0.25, encoder_variances=(1.0, 1.0)
    )  # thresholds: corrected 1.25, code 5; the first one 1.06
    rows = sweep_rows("variances", "fixed", [Point(5.0, spec)], data, SMALL)
    theta = np.array([2.0, 1.0])
    for corrected, count in ((True, 1), (False, 0)):
        active = variances.second_level_active(theta, 4.0, 5.0, 0.25, 1.0, corrected=corrected)
        assert active.sum() == count
    seen = [r["observed"] for r in rows if (r["level"], r["quantity"]) == (2, "active_units")]
    assert seen == [1, 1]


# --- runs, files, figures -----------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_tiny_run_writes_rows_settings_and_figures(name, tmp_path, monkeypatch):
    short = {"CURVE": 3, "BETAS": (0.5, 2.0), "DEVIATIONS": (0.5, 1.0), "BETAS_1": (0.5, 2.0),
             "BETAS_2": (1.0, 4.0), "VARIANCES": (0.25, 1.0), "CLASSES": (0, 1),
             "CORRELATIONS": (0.0, 0.5), "SAMPLES_PER_DIM": 3.0}  # fmt: skip
    module = importlib.import_module(f"analysis.dang.{name}")
    for constant, value in short.items():
        if hasattr(module, constant):
            same = np.array([0.0, 0.5]) if (name, constant) == ("correlation", "CURVE") else value
            monkeypatch.setattr(module, constant, same)
    arguments = ["--dataset", "digits", "--seeds", "2", "--steps", "3", "--out", str(tmp_path)]
    assert main([name, *arguments]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"{name}.{suffix}" for suffix in ("csv", "json", "pdf", "png")
    ]
    rows = read_rows(name, tmp_path)
    assert {row["experiment"] for row in rows} == {name}
    trained = [row for row in rows if row["architecture"] != "theory"]
    assert {row["seed"] for row in trained} == {0, 1}
    assert {row["architecture"] for row in trained} == set(module.ARCHITECTURES)
    assert all(math.isfinite(row["predicted"]) for row in rows)
    assert all(math.isfinite(row["observed"]) for row in trained)
    assert all(math.isnan(row["observed"]) for row in rows if row["architecture"] == "theory")
    record = json.loads((tmp_path / f"{name}.json").read_text())
    assert record["size"]["steps"] == 3 and record["versions"]["linvae"]


@pytest.mark.parametrize("name", sorted(path.stem for path in MEASURED.glob("*.csv")))
def test_kept_rows_are_small_complete_and_drawn(name, tmp_path):
    for suffix in ("csv", "json"):
        assert (MEASURED / f"{name}.{suffix}").stat().st_size < 100_000
    rows = read_rows(name, MEASURED)
    assert {r["seed"] for r in rows} - {-1} == {0, 1, 2}
    kept = json.loads((MEASURED / f"{name}.json").read_text())
    assert kept["deviations"] == deviations(rows)
    with (MEASURED / f"{name}.csv").open() as stream:
        assert next(csv.reader(stream)) == list(rows[0])
    assert main([name, "--draw", "--out", str(tmp_path)]) == 0
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_deviations_are_of_the_means_over_seeds():
    common = {"architecture": "linear", "setting": "beta", "level": 1, "quantity": "rate_nats"}
    seen = [(0.5, 0, 2.0, 2.5), (0.5, 1, 2.0, 2.1), (1.0, 0, 1.0, 1.0), (1.0, 1, 1.0, math.nan)]
    rows = [common | dict(zip(("value", "seed", "predicted", "observed"), r, strict=True))
            for r in seen]  # fmt: skip
    assert deviations(rows) == [common | {"typical": 0.15, "worst": 0.3, "range": [1.0, 2.0]}]


def test_unknown_experiment_and_missing_data_say_what_to_do(tmp_path, capsys, monkeypatch):
    with pytest.raises(SystemExit) as stop:
        main(["nothing", "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert "experiment 'nothing' must be one of cvae, hierarchy" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"cvae\.csv is missing: python -m analysis\.dang cvae"):
        read_rows("cvae", tmp_path)


def test_units_of_variance():
    assert variance_unit(load_dataset("digits")) == pytest.approx(UNIT)
    assert variance_unit(load_dataset("digits", conditional=True)) == pytest.approx(UNIT)
