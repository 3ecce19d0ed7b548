"""Every theory figure: its rows against theory, what is drawn, and the files on disk."""

from __future__ import annotations

import csv
import functools
import itertools
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

import figures
from figures import (
    autoregressive,
    bernoulli,
    beta_sweep,
    correlation,
    escape_time,
    finite_samples,
    hierarchy_levels,
    hierarchy_phases,
    latent_reconstruction,
    rate_distortion,
    skewness,
    weight_decay,
)
from figures.__main__ import main
from figures.style import STYLE, select
from linvae import HVAESpec, Moments, UnboundedObjectiveError, VAESpec, solve, stability
from linvae.data import load_dataset
from linvae.theory.rate_distortion import rate_distortion_curve, water_level

ROOT = Path(__file__).resolve().parents[1]
# the same code on fewer points
SMALL = [
    (beta_sweep, "BETAS", np.array([0.5, 2.0, 6.0, 17.0])),
    (correlation, "CORRELATIONS", np.array([0.0, 0.3, 0.8, 0.95])),
    (hierarchy_phases, "BETAS", np.geomspace(0.25, 32.0, 8)),
    (hierarchy_levels, "THETAS", np.array([0.3, 0.75, 1.1, 10.0])),
    (rate_distortion, "POINTS", 20),
    (autoregressive, "ORDERS", (0, 2, None)),
    (escape_time, "BETAS", np.array([0.4, 0.45, 0.6, 0.7, 0.75, 0.85, 0.9])),
    (latent_reconstruction, "WEIGHTS", np.array([0.0, 0.5, 2.0])),
    (bernoulli, "N_SAMPLES", 300),
    (bernoulli, "DIMS", (1, 4, 6)),
    (bernoulli, "CORRELATIONS", np.array([0.0, 0.4])),
    (finite_samples, "SAMPLES", np.array([100, 400, 1000])),
    (weight_decay, "DECAYS", np.array([0.0, 0.3, 0.6])),
    (weight_decay, "BETAS", np.array([0.05, 0.5])),
    (skewness, "PROBABILITIES", (0.3, 0.1)),
]
OPTIONAL = {  # columns that some rows of these figures have empty, and why they may
    "thresholds": {"observed", "observed_low", "observed_high"},  # no seed gave an estimate
    "shift": {"law_shift", "law_shift_first_component"},  # beyond small skewness there is no law
}


@pytest.fixture(autouse=True, scope="module")
def few_points() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in SMALL:
            patch.setattr(module, name, value)
        yield


@functools.cache
def rows_of(name: str) -> list[dict]:
    return figures.figure_module(name).rows()


@functools.cache
def drawing_of(name: str):
    with mpl.rc_context(STYLE):
        return figures.figure_module(name).draw(rows_of(name))


# --- all figures --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", figures.NAMES)
def test_rows_are_finite_and_not_empty(name):
    rows = rows_of(name)
    assert len(rows) >= 4
    for row in rows:
        for column, value in row.items():
            if isinstance(value, float):
                assert math.isfinite(value), (name, column, row)
            else:
                assert value is not None or column in OPTIONAL.get(name, ()), (name, column, row)


@pytest.mark.parametrize("name", figures.NAMES)
def test_every_panel_has_data_labels_and_a_legend(name):
    figure = drawing_of(name)
    for axes in figure.axes:
        assert axes.lines or axes.collections, name
        assert axes.get_xlabel() or not axes.get_subplotspec().is_last_row(), name
        assert (
            axes.get_ylabel() or not axes.get_subplotspec().is_first_col() or name == "thresholds"
        )
    assert figure.legends or any(axes.get_legend() for axes in figure.axes), name


@pytest.mark.parametrize("name", figures.NAMES)
def test_no_number_of_an_axis_is_written_over_another(name):
    figure = drawing_of(name)
    with mpl.rc_context(STYLE):
        figure.draw_without_rendering()
        renderer = figure.canvas.get_renderer()
        for axes in figure.axes:
            for axis, start, end in ((axes.xaxis, "x0", "x1"), (axes.yaxis, "y0", "y1")):
                low, high = sorted(axis.get_view_interval())
                boxes = [
                    tick.label1.get_window_extent(renderer)
                    for tick in axis.get_major_ticks()
                    if low <= tick.get_loc() <= high and tick.label1.get_text()
                ]
                boxes.sort(key=lambda box: getattr(box, start))
                for one, other in itertools.pairwise(boxes):
                    assert getattr(one, end) <= getattr(other, start) + 1, (name, axis.axis_name)


def test_every_module_of_the_folder_is_a_figure_or_a_helper():
    modules = {path.stem for path in (ROOT / "figures").glob("*.py")}
    assert modules - {"__init__", "__main__", "style", "rows"} == set(figures.NAMES)


# --- files and command line ---------------------------------------------------------------------


def test_only_writes_three_whole_files(tmp_path, capsys):
    assert main(["--only", "thresholds", "--out", str(tmp_path / "new" / "folder")]) == 0
    folder = tmp_path / "new" / "folder"
    assert sorted(p.name for p in folder.iterdir()) == [
        "thresholds.csv", "thresholds.pdf", "thresholds.png",
    ]  # fmt: skip
    assert (folder / "thresholds.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "thresholds.pdf").read_bytes().startswith(b"%PDF")
    with (folder / "thresholds.csv").open(encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == len(rows_of("thresholds"))
    assert lines[0]["dataset"] == rows_of("thresholds")[0]["dataset"]
    assert "thresholds" in capsys.readouterr().out


def test_an_unknown_name_exits_with_2_and_the_list_of_names(tmp_path):
    command = [sys.executable, "-m", "figures", "--only", "nothing", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert all(name in done.stderr for name in figures.NAMES)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="figure 'nothing' must be one of beta_sweep, "):
        figures.figure_module("nothing")


def test_a_file_in_place_of_the_folder_exits_with_2(tmp_path, capsys):
    (tmp_path / "taken").write_text("")
    assert main(["--only", "thresholds", "--out", str(tmp_path / "taken")]) == 2
    assert "taken is not a folder" in capsys.readouterr().err


# --- known values -------------------------------------------------------------------------------


def test_beta_sweep_is_the_solution():
    moments = Moments.from_covariance(np.diag(beta_sweep.MODE_VARIANCES))
    for kind, variance in beta_sweep.ENCODERS.items():
        spec = VAESpec(4, beta=2.0, decoder_variance=0.5, encoder_variance=variance)
        weights = solve(spec, moments).weights
        rows = select(rows_of("beta_sweep"), encoder_variance_is=kind, beta=2.0)
        for name, matrix in (("encoder", "W"), ("decoder", "U")):
            shown = sorted(row[f"{name}_singular_value"] for row in rows)
            # 1e-12: singular values of the same matrix, by norms of columns and by SVD
            np.testing.assert_allclose(
                shown, np.linalg.svd(weights[matrix], compute_uv=False)[::-1], atol=1e-12
            )


def test_correlation_thresholds_have_their_closed_forms():
    s = correlation.DECODER_VARIANCE
    for row in rows_of("correlation"):
        rho2 = row["correlation"] ** 2
        assert row["critical_beta_both"] == pytest.approx((1 - rho2) / s, rel=1e-12)
        assert row["critical_beta_target_local"] == pytest.approx((1 - rho2) ** 2 / s, rel=1e-12)
        # 1 %: ratio and slope are maxima over a grid of noise fractions that starts at 0.999
        if rho2 > 0.5:
            end = (1 - rho2) / (4 * rho2 * s)
            assert row["alive_exists_up_to"] == pytest.approx(end, rel=0.01)
            assert row["critical_beta_target_local"] < row["alive_is_better_up_to"] < end
        else:
            local = row["critical_beta_target_local"]
            assert row["alive_exists_up_to"] == pytest.approx(local, rel=0.01)
            assert row["alive_is_better_up_to"] == pytest.approx(local, rel=0.01)


def test_hierarchy_is_unbounded_exactly_where_solve_raises():
    moments = Moments.from_covariance(np.array([[hierarchy_phases.MODE_VARIANCE]]))
    raised = 0
    for row in rows_of("hierarchy_phases"):
        variances = tuple(
            hierarchy_phases.FIXED if row[level] == "fixed" else None
            for level in ("level_1", "level_2")
        )
        spec = HVAESpec((1, 1), betas=(row["beta_1"], row["beta_2"]), encoder_variances=variances)
        try:
            solve(spec, moments)
            unbounded = False
        except UnboundedObjectiveError:
            unbounded = True
        raised += unbounded
        assert unbounded == (row["phase"] == "unbounded: no optimum")
        both_learned = variances == (None, None)
        assert unbounded == (both_learned and row["beta_1"] > row["beta_2"])
    assert raised == 8 * 7 / 2


def test_levels_wake_one_by_one_where_beta_grows():
    for depth in hierarchy_levels.DEPTHS:
        rows = select(rows_of("hierarchy_levels"), law="beta grows upwards", levels=depth)
        counts = [row["active_levels"] for row in rows]
        assert counts[0] == 0 and counts[-1] == depth and counts == sorted(counts)


def test_trained_points_lie_on_the_frontier():
    digits = Moments.from_data(load_dataset("digits").target)
    variances = np.linalg.eigvalsh(digits.covariance)[::-1]
    unused = variances[16:].sum()
    for row in select(rows_of("rate_distortion"), architecture="linear"):
        level = water_level(variances[:16], rate_nats=row["rate_nats"])
        frontier = rate_distortion_curve(variances[:16], level).squared_errors[0] + unused
        # never below it but by the noise of two draws per sample, and not yet at it by a few per
        # cent: 3,000 steps do not part units that share modes
        assert -0.01 < row["squared_error"] / frontier - 1 < 0.04, row


def test_autoregressive_threshold_falls_to_the_largest_innovation():
    found = select(rows_of("autoregressive"), kind="threshold")
    eigenvalues = select(rows_of("autoregressive"), kind="eigenvalue")
    innovations = select(rows_of("autoregressive"), kind="innovation variance")
    s = autoregressive.DECODER_VARIANCE
    assert found[0]["critical_beta"] == pytest.approx(eigenvalues[0]["variance"] / s, rel=1e-9)
    assert found[-1]["critical_beta"] == pytest.approx(innovations[0]["variance"] / s, rel=1e-9)
    assert found[0]["critical_beta"] > found[1]["critical_beta"] > found[2]["critical_beta"]


def test_reach_leaves_less_to_predict_and_to_observe():
    rows = rows_of("decoder_reach")
    for name in ("ptb", "short_yelp", "yahoo", "mnist", "omniglot"):
        found = {
            row["reach"]: row["critical_beta"] for row in select(rows, source="fitted", data=name)
        }
        assert sorted(found) == [0, 1, 2, 3]
        assert found[0] > found[1] > 1 and found[0] > found[3]
    for source in ("fixed", "own", "observed", "certified"):
        digits = select(rows, source=source, data="digits")
        means = [
            np.mean([row["critical_beta"] for row in digits if row["reach"] == reach])
            for reach in (0, 1, 2, 4)
        ]
        assert means == sorted(means, reverse=True), source
    # predicted of one decoder, each seed by itself: from 5 % too high to 11 % too low
    for own in select(rows, source="own", data="digits"):
        (seen,) = select(
            rows, source="observed", data="digits", reach=own["reach"], seed=own["seed"]
        )
        assert seen["critical_beta"] == pytest.approx(own["critical_beta"], rel=0.15)


def test_simulated_escape_times_follow_the_flow():
    rows = rows_of("escape_time")
    for trained in select(rows, source="trained"):
        if trained["beta"] not in escape_time.BETAS:
            continue
        theory = select(rows, source="theory", update=trained["update"], beta=trained["beta"])
        # joint: seen 0.2 % to 0.6 %, a step (0.02) is up to 0.3 % of the time. Aggressive: seen
        # -1.7 % to 4.5 %; a step grows the weights by up to 2.4 %, 15 encoder steps only come
        # near the best response, and minibatches of 100 have a variance off by 14 %
        tolerance = 0.01 if trained["update"] == "joint" else 0.06
        assert trained["time"] == pytest.approx(theory[0]["time"], rel=tolerance), trained


def test_latent_reconstruction_moves_thresholds_up_and_leaves_the_frontier():
    for mode in (1, 2, 3, 4):
        found = select(rows_of("latent_reconstruction"), kind="threshold", mode=mode)
        betas = [row["critical_beta"] for row in found]
        assert betas == sorted(betas) and betas[0] == pytest.approx(found[0]["mode_variance"])
    for row in select(rows_of("latent_reconstruction"), kind="price"):
        above = row["squared_error_above_frontier"]
        # without the loss the optimum is on the frontier: 1e-9 is rounding
        assert abs(above) < 1e-9 if row["latent_reconstruction"] == 0 else above > 1e-6


def test_bernoulli_thresholds_are_correlation_eigenvalues():
    for row in select(rows_of("bernoulli"), kind="digits"):
        assert row["critical_beta"] == pytest.approx(row["correlation_eigenvalue"], abs=1e-9)
    for row in select(rows_of("bernoulli"), kind="law"):
        expected = 1 + (row["dim"] - 1) * row["correlation"]
        assert row["critical_beta"] == pytest.approx(expected, rel=1e-9)
    for row in select(rows_of("bernoulli"), kind="sample", seed=0):
        assert row["universal_critical_beta"] >= row["critical_beta"] * (1 - 1e-9)


def test_headline_rows_agree_with_their_ratios():
    for row in rows_of("thresholds"):
        if "ratio" in row:
            assert row["ratio"] * row["predicted"] == pytest.approx(row["observed"])
            assert row["ratio_low"] <= row["ratio"] * (1 + 1e-12)
            if row["architecture"] == "linear":
                assert abs(row["ratio"] - 1) < 0.02  # what the estimator promises


def test_finite_sample_limits_are_those_kept_with_the_simulation():
    from figures.rows import kept

    rows = rows_of("finite_samples")
    for simulated in kept("finite_samples")["units"]:
        same = select(
            rows, source="limit", beta=simulated["beta"],
            samples_per_dim=simulated["samples_per_dim"],
        )  # fmt: skip
        assert bool(same) == (simulated["samples_per_dim"] in (0.5, 2))
        for row in same:
            assert row["useful"] == simulated["useful_limit"]
            assert row["spurious"] == pytest.approx(simulated["spurious_limit"], abs=1e-6)


def test_weight_decay_opens_a_window_above_local_stability():
    moments = Moments.from_covariance(np.array([[1.0]]))
    for row in select(rows_of("weight_decay"), kind="threshold", mode_variance=1.0):
        spec = VAESpec(1, weight_decay=row["weight_decay"])
        local = max(float(stability(spec, moments).critical_beta[0]), 0.0)
        assert row["local_critical_beta"] == local
        assert row["first_order"] == (row["weight_decay"] == 0.6)
        if row["first_order"]:
            assert row["global_critical_beta"] > 1.5 * local
        else:
            assert row["global_critical_beta"] == pytest.approx(local, rel=1e-6)


def test_networks_are_certified_above_the_linear_and_below_the_universal_threshold():
    theory = {row["probability"]: row for row in select(rows_of("skewness"), source="theory")}
    for row in theory.values():
        assert row["linear"] <= row["universal"] <= row["universal_upper_bound"]
    trained = select(rows_of("skewness"), source="mlp")
    skewed = [row for row in trained if row["probability"] == 0.1]
    assert len(skewed) == 3
    for row in skewed:
        bound = theory[row["probability"]]
        assert 1.1 * bound["linear"] < row["lower_bound"] < bound["universal_upper_bound"]
