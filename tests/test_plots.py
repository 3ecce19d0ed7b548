"""Figures show the rows and nothing else, with legends, words and whole files."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure as Canvas
from test_comparison import (
    INF,
    NAN,
    SET_POINTS,
    SPECTRUM,
    SWEEP,
    hvae_comparison,
    vae_comparison,
    with_estimates,
    with_training,
)

from linvae import drawing, plots
from linvae.comparison import Comparison, Row

NAMES = ["thresholds", "rate", "active_units", "control_fit", "spectrum"]
TRAINED = ["unit_rates", "phases", "training"]  # what needs more than the rows of old
DRAW = {name: getattr(plots, name) for name in NAMES}
EDGES = {
    "vae": vae_comparison(),
    "failed": vae_comparison(linear=(NAN, 1.0), mlp=(NAN, NAN)),
    "all-failed": vae_comparison(linear=(NAN,), mlp=(NAN,)),
    "hvae": hvae_comparison(),
    "inf": hvae_comparison(INF),
    "never": hvae_comparison(0.0),
    "nan": hvae_comparison(NAN),
    "estimates": with_estimates(vae_comparison(), high=INF, low=NAN),
}


def _line(axes, label: str):
    """The one line of that label."""
    (line,) = [line for line in axes.get_lines() if line.get_label() == label]
    return line


def _marks(axes, label: str):
    """Data line, lower and upper ends of the observed points of an architecture."""
    (found,) = [c for c in axes.containers if c.get_label() == label]
    line, _, (bars,) = found
    segments = bars.get_segments()
    return line, [low for (_, low), _ in segments], [high for _, (_, high) in segments]


@pytest.mark.parametrize("quantity", ["rate_nats", "active_units"])
@pytest.mark.parametrize("level", [1, 2])
def test_sweep_shows_the_rows(quantity, level):
    comparison = hvae_comparison()
    draw = plots.rate if quantity == "rate_nats" else plots.active_units
    axes = draw(comparison).figure.axes[level - 1]
    theory = comparison.select(quantity, architecture="theory", level=level)
    line = _line(axes, "theory")
    assert list(line.get_xdata()) == [row.beta for row in theory]
    assert list(line.get_ydata()) == [row.predicted for row in theory]
    assert (line.get_drawstyle() == "steps-mid") is (quantity == "active_units")
    for architecture in ("linear", "mlp"):
        seen = [
            [r.observed for r in comparison.select(
                quantity, architecture=architecture, level=level, beta=beta)]
            for beta in SWEEP
        ]  # fmt: skip
        marks, lows, highs = _marks(axes, architecture)
        assert tuple(marks.get_xdata()) == SWEEP
        assert list(marks.get_ydata()) == pytest.approx([sum(v) / 2 for v in seen])
        assert lows == pytest.approx([min(v) for v in seen])
        assert highs == pytest.approx([max(v) for v in seen])


def test_threshold_is_marked_on_every_level():
    for axes, expected in zip(plots.rate(hvae_comparison()).figure.axes, (1.426, 0.9), strict=True):
        (dotted,) = [line for line in axes.get_lines() if line.get_linestyle() == ":"]
        assert list(dotted.get_xdata()) == [expected, expected]


@pytest.mark.parametrize(
    ("upper", "words"),
    [
        (INF, "predicted: never collapses"),
        (0.0, "predicted: never active"),
        (NAN, "no estimate"),
        (9.0, "predicted: 9"),
    ],
)
def test_threshold_outside_the_panel_is_named(upper, words):
    """A far threshold neither stretches the axis nor goes unsaid."""
    axes = plots.rate(hvae_comparison(upper)).figure.axes[1]
    assert axes.get_title(loc="right") == words
    assert axes.get_xlim()[1] < 3


def test_control_fit_shows_runs_lines_and_intercept():
    comparison = vae_comparison(betas=[2.0])
    (axes,) = plots.control_fit(comparison).figure.axes
    assert axes.get_yscale() == "log"
    rows = comparison.select("factor_at_information", architecture="linear")
    runs = _line(axes, "linear, control runs")
    pairs = sorted((r.information_nats, 2.0 * r.observed) for r in rows)  # factor on betas[0]
    assert list(zip(runs.get_xdata(), runs.get_ydata(), strict=True)) == pairs
    assert len(pairs) == 2 * len(SET_POINTS)
    summary = comparison.thresholds()[0]
    (x0, x1), (y0, y1) = _line(axes, "linear, fit").get_data()
    assert (x0, y0) == (0, summary.observed)
    assert math.log(y1 / y0) / (x1 - x0) == pytest.approx(-2.03)
    theory = _line(axes, "theory")  # theory's own points, at the information measured
    expected = sorted({(r.information_nats, 2.0 * r.predicted) for r in rows})
    assert list(zip(theory.get_xdata(), theory.get_ydata(), strict=True))[1:] == expected
    assert (theory.get_xdata()[0], theory.get_ydata()[0]) == (0, summary.predicted)


def test_thresholds_show_ratio_and_range():
    comparison = vae_comparison()
    (axes,) = plots.thresholds(comparison).figure.axes
    assert list(_line(axes, "theory").get_xdata()) == [1, 1]
    for container, row in zip(axes.containers, comparison.thresholds(), strict=True):
        line, _, (bars,) = container
        assert line.get_xdata()[0] == pytest.approx(row.ratio)
        ((low, _), (high, _)) = bars.get_segments()[0]
        assert (low, high) == pytest.approx((row.low / row.predicted, row.high / row.predicted))
    assert [t.get_text() for t in axes.texts] == [
        "1.422 (1.416-1.427)\nof 1.426",
        "1.483 (1.455-1.512)\nof 1.426",
    ]


def _with_universal(ratio: float, **changes) -> Comparison:
    comparison = with_estimates(vae_comparison(), **changes)
    row = Row("universal_beta", "theory", 1, 0, NAN, NAN, -1, ratio * SPECTRUM[0], NAN)
    return Comparison(comparison.settings, (*comparison.rows, row))


def test_thresholds_show_what_bounds_them():
    """Bracket, certified bound, local value and universal threshold, over the prediction."""
    (axes,) = plots.thresholds(_with_universal(1.3)).figure.axes
    bracket = _line(axes, "bracket of two branches")
    assert list(bracket.get_xdata()) == pytest.approx([0.95, 1.02])
    assert list(_line(axes, "certified lower bound").get_xdata()) == pytest.approx([0.97])
    local = _line(axes, "collapsed network unstable below")
    assert list(local.get_xdata()) == pytest.approx([0.98])
    universal = _line(axes, "universal threshold")
    assert list(universal.get_xdata()) == pytest.approx([1.3, 1.3])
    assert axes.get_xlim()[1] > 1.3
    marks = (bracket, _line(axes, "certified lower bound"), local, universal)
    assert len({(m.get_color(), m.get_marker(), m.get_linestyle()) for m in marks}) == 4


def test_far_universal_threshold_is_named():
    """Drawn, it would squeeze everything else into a corner."""
    (axes,) = plots.thresholds(_with_universal(4.0)).figure.axes
    assert axes.get_title(loc="right") == "universal threshold: 4 \N{RIGHTWARDS ARROW}"
    assert axes.get_xlim()[1] < 1.5


def test_bracket_without_ends_spans_what_was_tried():
    (axes,) = plots.thresholds(_with_universal(1.3, low=NAN, high=INF)).figure.axes
    bracket = _line(axes, "bracket of two branches")
    assert list(bracket.get_xdata()) == pytest.approx([0.9, 1.12])


def test_spectrum_shows_modes_and_water_levels():
    comparison = vae_comparison(decoder_variance=0.5)
    (axes,) = plots.spectrum(comparison).figure.axes
    assert tuple(_line(axes, "mode, theory").get_ydata()) == SPECTRUM
    water = sorted(
        line.get_ydata()[0] for line in axes.get_lines() if line.get_label() != "mode, theory"
    )
    assert water == [0.5 * beta for beta in SWEEP]


@pytest.mark.parametrize(
    "comparison", [hvae_comparison(), vae_comparison(decoder_variance="learned")]
)
def test_no_water_level_where_none_applies(comparison):
    (axes,) = plots.spectrum(comparison).figure.axes
    assert len(axes.get_lines()) == 1


@pytest.mark.parametrize("comparison", EDGES.values(), ids=EDGES.keys())
@pytest.mark.parametrize("name", [n for n in NAMES if n != "control_fit"])
def test_every_figure_has_legend_labels_and_words(name, comparison):
    _has_legend_labels_and_words(DRAW[name](comparison))


@pytest.mark.parametrize("case", sorted(EDGES.keys() - {"all-failed"}))
def test_control_fit_has_legend_labels_and_words(case):
    _has_legend_labels_and_words(plots.control_fit(EDGES[case]))


def _has_legend_labels_and_words(drawing: plots.Drawing) -> None:
    assert isinstance(drawing.figure, Canvas)
    labels = [t.get_text() for legend in drawing.figure.legends for t in legend.get_texts()]
    assert any("theory" in label for label in labels)
    assert len(labels) == len(set(labels))
    assert all(axes.get_xlabel() for axes in drawing.figure.axes)
    assert drawing.alt.endswith(".") and "nan" not in drawing.alt


def test_architectures_differ_in_colour_marker_and_line():
    (axes,) = plots.control_fit(vae_comparison()).figure.axes
    linear, mlp = (_line(axes, f"{name}, control runs") for name in ("linear", "mlp"))
    assert linear.get_color() == "#0072B2" and linear.get_marker() == "o"
    assert mlp.get_color() == "#D55E00" and mlp.get_marker() == "s"
    assert _line(axes, "theory").get_color() == "#000000"
    dashes = {str(_line(axes, f"{name}, fit")._dash_pattern) for name in ("linear", "mlp")}
    assert len(dashes) == 2


def test_words_carry_the_key_numbers():
    comparison = vae_comparison()
    assert plots.thresholds(comparison).alt == (
        "Observed against predicted thresholds: linear 0.997 times the predicted 1.426; "
        "mlp 1.04 times the predicted 1.426."
    )
    assert plots.rate(comparison).alt == (
        "Rate in nats per sample against beta: at beta 0.35 theory 2.17, linear 2.16 (2.15-2.17), "
        "mlp 2.32 (2.30-2.33); at beta 1.8 theory 0, linear 0.00400, mlp 0.00400; "
        "predicted threshold 1.426."
    )
    assert "6 of them are above the water level" in plots.spectrum(comparison).alt


def test_words_begin_with_the_lower_beta():
    """2 before 10, which are the other way round as text."""
    comparison = vae_comparison()
    scaled = {min(b := {r.beta for r in comparison.rows if r.architecture == "linear"
                        and r.quantity == "rate_nats"}): 2.0, max(b): 10.0}  # fmt: skip
    rows = [dataclasses.replace(r, beta=scaled.get(r.beta, r.beta)) for r in comparison.rows]
    rows = [r for r in rows if r.quantity != "rate_nats" or r.beta in (2.0, 10.0)]
    alt = plots.rate(dataclasses.replace(comparison, rows=tuple(rows))).alt
    assert 0 < alt.index("at beta 2 theory") < alt.index("at beta 10 theory")


# --- units, phases, training ----------------------------------------------------------------------


@pytest.mark.parametrize("comparison", [vae_comparison(), hvae_comparison()], ids=["vae", "hvae"])
def test_units_are_shown_as_predicted_and_as_seen(comparison):
    """Three panels, darkest where a unit is idle; every cell is the mean of the seeds."""
    comparison = with_training(comparison)
    panels = [axes for axes in plots.unit_rates(comparison).figure.axes if axes.images]
    assert [axes.get_title(loc="left") for axes in panels] == ["theory", "linear", "mlp"]
    theory, linear, mlp = (axes.images[0].get_array() for axes in panels)
    for unit, beta in [(1, SWEEP[0]), (3, SWEEP[2]), (2, SWEEP[-1])]:
        nats = max(0.0, math.log(SPECTRUM[unit - 1] / beta) / 2)
        cell = unit - 1, SWEEP.index(beta)
        assert theory[cell] == pytest.approx(nats)
        assert linear[cell] == mlp[cell] == pytest.approx(nats + 0.01)  # seeds 0, 1, 2
    for axes in panels:  # one scale for all
        assert axes.images[0].get_clim() == pytest.approx((0.0, theory[0, 0] + 0.01))


def test_units_of_a_network_that_diverged_leave_the_scale_alone():
    comparison = with_training(vae_comparison())
    rows = tuple(
        dataclasses.replace(row, observed=NAN)
        if (row.quantity, row.architecture) == ("unit_rate_nats", "mlp")
        else row
        for row in comparison.rows
    )
    drawn = plots.unit_rates(dataclasses.replace(comparison, rows=rows))
    assert drawn.figure.axes[0].images[0].get_clim()[1] == pytest.approx(0.712, abs=0.001)
    assert "linear 0.712, mlp -" in drawn.alt


def test_phases_have_the_boundaries_and_the_sweep_on_them():
    comparison = with_training(vae_comparison(decoder_variance=2.0))
    axes = plots.phases(comparison).figure.axes[0]
    edge = _line(axes, "predicted: all units dead to the right")
    assert list(edge.get_ydata()) == [0.5, 1.0, 2.0]
    assert list(edge.get_xdata()) == pytest.approx([SPECTRUM[0] / at for at in (0.5, 1.0, 2.0)])
    areas = [c for c in axes.collections if not str(c.get_label()).endswith("active units")]
    assert len(areas) == 3  # one unit after another
    linear, mlp = (
        next(c for c in axes.collections if c.get_label() == f"{name}, active units")
        for name in ("linear", "mlp")
    )
    assert [tuple(point) for point in mlp.get_offsets()] == [(beta, 2.0) for beta in SWEEP]
    assert linear.get_sizes()[0] > 2 * mlp.get_sizes()[0]  # one in the other
    ends = [tuple(c) for c in mlp.get_facecolors()[[0, -1]]]
    grey = mpl.colors.to_rgba(axes.get_facecolor())
    assert ends[1] == grey != ends[0]  # as many as the ground on which they lie


def test_phases_of_a_hierarchy_are_over_both_betas():
    """Never dead is beyond the panel, and the other levels are not stretched by it."""
    comparison = with_training(hvae_comparison())
    never = tuple(
        dataclasses.replace(b, critical_beta=INF) if b.level == 2 else b
        for b in comparison.boundaries
    )
    panels = plots.phases(dataclasses.replace(comparison, boundaries=never)).figure.axes[:2]
    assert [axes.get_title(loc="left") for axes in panels] == ["level 1", "level 2"]
    edge = _line(panels[1], "predicted: all units dead to the right")
    assert min(edge.get_xdata()) > 100 * panels[1].get_xlim()[1]
    assert panels[0].get_xlim() == panels[1].get_xlim() == pytest.approx((0.7 * 0.35, 2 * 1.8))
    marks = next(c for c in panels[0].collections if c.get_label() == "mlp, active units")
    assert {tuple(point)[1] for point in marks.get_offsets()} == {1.5}  # of the spec: betas 1, 1.5


def test_training_is_median_and_range_of_the_seeds_beside_the_optimum():
    comparison = with_training(vae_comparison())
    panels = plots.training(comparison).figure.axes
    assert len(panels) == 6
    titles = [axes.get_title(loc="left").split("= ")[1] for axes in panels[:3]]
    assert titles == ["0.55", "1.5", "1.8"]  # nearest to 0.35, 1 and 1.5 times 1.426
    for axes, offset in ((panels[0], 2), (panels[3], 60)):  # noise 0.1 seed^2 + 1/step
        line = _line(axes, "mlp")
        assert list(line.get_xdata()) == [10, 20, 30, 40]
        assert list(line.get_ydata()) == pytest.approx(
            [offset + 0.1 + 1 / step for step in (10, 20, 30, 40)]
        )
        area = axes.collections[1].get_paths()[0].vertices[:, 1]
        assert (area.min(), area.max()) == pytest.approx((offset + 1 / 40, offset + 0.4 + 1 / 10))
    theory = _line(panels[0], "theory, optimum").get_ydata()
    rows = comparison.select("rate_nats", architecture="mlp", beta=0.55)
    assert list(theory) == [rows[0].predicted] * 2


def test_theory_is_the_plain_optimum_beside_a_remedy():
    """A remedy predicts something else, or nothing: neither moves the theory of the others."""
    plain = with_training(vae_comparison())
    changed = [
        dataclasses.replace(row, architecture="mlp + free-bits", predicted=predicted)
        for predicted in (9.0, NAN)
        for row in plain.select("unit_rate_nats", architecture="mlp")
        + plain.select("rate_nats", architecture="mlp")
    ]
    both = dataclasses.replace(plain, rows=(*plain.rows, *changed))
    alone, beside = (plots.unit_rates(c).figure.axes[0].images[0] for c in (plain, both))
    assert beside.get_array().tolist() == alone.get_array().tolist()
    before, after = (
        _line(plots.training(c).figure.axes[0], "theory, optimum").get_ydata()
        for c in (plain, both)
    )
    assert list(after) == list(before)
    assert "at beta 0.35 theory 2.17, linear 2.16" in plots.rate(both).alt


def test_words_of_the_new_figures_carry_the_key_numbers():
    comparison = with_training(vae_comparison())
    assert plots.phases(comparison).alt == (
        "Beta from which on the leading unit is dead: 2.852 at 0.5, 1.426 at 1, 0.7130 at 2. "
        "The numbers after 'at' are the decoder variance."
    )
    assert "at beta 0.35 theory 0.702, linear 0.712, mlp 0.712" in plots.unit_rates(comparison).alt
    assert "linear 2.13 half way and 2.12 at the end" in plots.training(comparison).alt


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("comparison", EDGES.values(), ids=EDGES.keys())
def test_new_figures_stand_any_threshold(name, comparison):
    drawn = getattr(plots, name)(with_training(comparison))
    assert drawn.alt.endswith(".") and drawn.figure.axes
    assert all(axes.get_ylabel() for axes in drawn.figure.axes[:1])


# --- files ---------------------------------------------------------------------------------------


def test_figures_are_saved_as_png_and_pdf(tmp_path):
    records = plots.save_figures(vae_comparison(), tmp_path / "new" / "folder")
    assert [record.name for record in records] == NAMES
    for record in records:
        assert record.png_path == tmp_path / "new" / "folder" / f"{record.name}.png"
        assert record.png_path.read_bytes().startswith(b"\x89PNG")
        assert record.png_path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
        assert record.title and record.alt
    assert len(list((tmp_path / "new" / "folder").iterdir())) == 2 * len(NAMES)


@pytest.fixture
def unsaved(monkeypatch):
    """Figures are drawn, not written: for tests that look at which there are."""
    monkeypatch.setattr(drawing, "save_figure", lambda figure, path: None)


def test_every_figure_is_drawn_where_all_is_there(tmp_path, unsaved):
    found = plots.save_figures(with_training(vae_comparison()), tmp_path)
    assert [figure.name for figure in found] == list(plots.FIGURES)
    assert set(plots.FIGURES) == {*NAMES, *TRAINED}


def test_figures_without_rows_are_left_out(tmp_path, unsaved):
    assert [f.name for f in plots.save_figures(_spectrum_only(), tmp_path)] == ["spectrum"]


def test_control_fit_is_left_out_where_every_run_missed_its_set_point(tmp_path, unsaved):
    missed = vae_comparison()
    rows = tuple(
        dataclasses.replace(row, observed=NAN) if row.quantity == "factor_at_information" else row
        for row in missed.rows
    )
    comparison = Comparison(missed.settings, rows)
    with pytest.raises(ValueError, match="no control run held its information"):
        plots.control_fit(comparison)
    names = [f.name for f in plots.save_figures(comparison, tmp_path)]
    assert names == [name for name in NAMES if name != "control_fit"]


def test_same_rows_give_the_same_files(tmp_path):
    for run in ("one", "two"):
        plots.save_figures(_spectrum_only(), tmp_path / run)
    for name in ("spectrum.png", "spectrum.pdf"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def _spectrum_only() -> Comparison:
    comparison = vae_comparison()
    return Comparison(comparison.settings, tuple(comparison.select("mode_variance")))


def test_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    plots.save_figures(_spectrum_only(), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(file: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        plots.save_figures(_spectrum_only(), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_drawing_leaves_the_settings_of_matplotlib_alone():
    with mpl.rc_context({"font.size": 23}):
        before = dict(mpl.rcParams)
        plots.spectrum(vae_comparison())
        assert dict(mpl.rcParams) == before


def test_importing_is_light_and_drawing_needs_no_pyplot():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from linvae import plots, report\n"
        "assert 'matplotlib' not in sys.modules and 'jinja2' not in sys.modules\n"
        "from test_comparison import vae_comparison\n"
        "plots.rate(vae_comparison())\n"
        "assert 'matplotlib.pyplot' not in sys.modules and 'torch' not in sys.modules\n"
    )
    folder = str(Path(__file__).parent)
    subprocess.run([sys.executable, "-c", code, folder], check=True, timeout=120)
