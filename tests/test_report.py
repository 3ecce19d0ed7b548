"""Verdicts word by word; tables in 100 columns; a page that needs nothing but itself."""

from __future__ import annotations

import base64
import io
import math
import os
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console
from test_comparison import (
    INF,
    NAN,
    SPECTRUM,
    SWEEP,
    hvae_comparison,
    vae_comparison,
    with_estimates,
)

from linvae.comparison import Comparison, Estimate, Row
from linvae.report import Verdict, how_sure, render_text, tables, verdicts, write_report
from linvae.verdicts import cause

PREDICTS = "linear theory predicts total collapse of omniglot at beta = 1.426 (decoder variance 1)"
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def _verdict(comparison: Comparison, claim: str) -> Verdict:
    return next(v for v in verdicts(comparison) if v.claim == claim)


def _replace(comparison: Comparison, change) -> Comparison:
    """The comparison with `change(row)` for every row."""
    return Comparison(comparison.settings, tuple(change(row) for row in comparison.rows))


# --- verdicts: linear threshold ------------------------------------------------------------------


def test_linear_threshold_within_two_percent_agrees():
    assert _verdict(vae_comparison(), "threshold, linear") == Verdict(
        "agrees",
        "threshold, linear",
        f"{PREDICTS}; observed 1.422 (1.416-1.427), linear, 2 seeds, 0.997 of the prediction.",
    )


@pytest.mark.parametrize(
    ("ratio", "level"),
    [(0.981, "agrees"), (1.019, "agrees"), (0.979, "differs"), (1.021, "differs")],
)
def test_two_percent_is_the_edge(ratio, level):
    assert _verdict(vae_comparison(linear=(ratio,)), "threshold, linear").level == level


@pytest.mark.parametrize(("line", "bends"), [(0.88, True), (0.995, False), (1.02, True)])
def test_law_that_bends_is_named_before_the_training_is_blamed(line, bends):
    found = _verdict(vae_comparison(linear=(0.9,), slope=-3.0, line=line), "threshold, linear")
    assert found.level == "differs"
    assert ("where the law bends" in found.why) is bends
    assert ("under-training" in found.why) is not bends
    if bends:
        assert f"ends {line - 1:+.1%} from the threshold" in found.why


def test_slope_off_by_more_than_15_percent_means_under_training():
    found = _verdict(vae_comparison(linear=(0.9,), slope=-3.0), "threshold, linear")
    assert found == Verdict(
        "differs",
        "threshold, linear",
        f"{PREDICTS}; observed 1.283, linear, 1 seed, 0.900 of the prediction.",
        "the fit slope -3.00 per nat is not the -2.00 of the linear theory, a sign of "
        "under-training; try more steps",
    )


@pytest.mark.parametrize(("slope", "flagged"), [(-2.28, False), (-2.32, True), (-1.68, True)])
def test_fifteen_percent_is_the_edge(slope, flagged):
    why = _verdict(vae_comparison(slope=slope), "threshold, linear").why
    assert ("under-training" in why) is flagged


def test_difference_without_a_sign_of_under_training():
    found = _verdict(vae_comparison(linear=(0.9, 0.91)), "threshold, linear")
    assert (found.level, found.why) == (
        "differs",
        "no sign of under-training; repeat with more seeds and twice the steps",
    )


def _miss_two_set_points(row: Row) -> Row:
    missed = row.quantity == "factor_at_information" and row.information_nats < 0.06
    return Row(**{**vars(row), "observed": NAN}) if missed else row


def test_missed_set_points_are_counted():
    comparison = _replace(vae_comparison(linear=(0.9, 0.91)), _miss_two_set_points)
    assert _verdict(comparison, "threshold, linear").why == (
        "2 of 12 control runs did not reach their set-point; try more steps"
    )


def test_failed_estimate_is_named():
    comparison = vae_comparison(linear=(NAN, NAN), mlp=(NAN,))
    text = f"{PREDICTS}; no threshold could be estimated from the training."
    why = "no control run gave a usable fit"
    assert verdicts(comparison)[:2] == [
        Verdict("differs", "threshold, linear", text, why),
        Verdict("note", "threshold, mlp", text, why),
    ]


# --- verdicts: nonlinear threshold ---------------------------------------------------------------

SKEWED = (
    "skewed leading component (1.20): a nonlinear network can stay alive above the linear "
    "threshold (first-order transition)"
)
REGRESSES = "the network regresses the target on the condition better than the linear theory"
FEATURES = "the encoder's features and the training time limit what a nonlinear unit picks up"
CURVED = (
    "a nonlinear unit codes a curve, other components with the leading one, so its line (-1.30 per "
    "nat, linear theory -2.00) bends and its end at information 0 is less certain"
)
REASONS = {
    "above-skewed": (1.1, {"leading_skewness": -0.7}, SKEWED.replace("1.20", "-0.70")),
    "at-1-skewed": (1.0, {"leading_skewness": 1.2}, ""),
    "above-little-skew": (1.1, {"leading_skewness": 0.49}, CURVED),
    "above-unknown-skew": (1.1, {"leading_skewness": None}, CURVED),
    "above-nan-skew": (1.1, {"leading_skewness": NAN}, CURVED),
    "below-cvae": (0.9, {"model": "cvae", "mlp_slope": -2.2}, REGRESSES),
    "below-vae": (0.9, {"mlp_slope": -2.2}, FEATURES),
    "below-skewed": (0.9, {"leading_skewness": 1.2, "mlp_slope": -1.8}, FEATURES),
    "below-curved": (0.9, {"leading_skewness": 1.2}, CURVED),
    "at-1": (1.0, {}, ""),
}


@pytest.mark.parametrize(("ratio", "settings", "why"), REASONS.values(), ids=REASONS.keys())
def test_nonlinear_threshold_has_the_reason_of_its_sign(ratio, settings, why):
    assert _verdict(vae_comparison(mlp=(ratio,), **settings), "threshold, mlp").why == why


def test_nonlinear_threshold_is_always_a_locator():
    assert _verdict(vae_comparison(), "threshold, mlp") == Verdict(
        "note",
        "threshold, mlp",
        "locator, empirical: the mlp network collapses near beta = 1.483 (1.455-1.512), 2 seeds, "
        "1.040 of the linear prediction 1.426.",
        CURVED,
    )


CERTAIN = "every collapsed network (certain)"
EMPIRICAL = "the collapsed network of the same training (empirical)"


@pytest.mark.parametrize(
    ("kind", "ratio", "against", "too_low"),
    [
        ("certain", 1.04, CERTAIN, ""),
        ("empirical", 1.04, EMPIRICAL, ""),
        ("certain", 0.9, CERTAIN, ", so the line ends too low"),
        ("empirical", 0.9, EMPIRICAL, ""),  # D_0 may be too high
    ],
)
def test_evidence_follows_the_locator(kind, ratio, against, too_low):
    """Certified by the best seed, with the largest error; local by mean and range."""
    certificate = Estimate.of_seeds("certificate", (1.38, 1.41), runs=1, seconds=1.0, kind=kind)
    records = [{"architecture": "mlp", "level": 1} | certificate.to_record()]
    comparison = vae_comparison(mlp=(ratio,), estimates=records)
    seen = {
        "certified_beta": (1.38, 1.41),
        "certified_error": (0.01, 0.02),
        "local_beta": (1.3, 1.4),
    }
    extra = tuple(
        Row(quantity, "mlp", 1, 1, NAN, NAN, seed, NAN, value)
        for quantity, values in seen.items()
        for seed, value in enumerate(values)
    )
    found = _verdict(Comparison(comparison.settings, comparison.rows + extra), "threshold, mlp")
    assert found.text.endswith(
        f" A trained network beats {against} up to beta = 1.410{too_low}, Monte-Carlo error "
        "0.020; the collapsed one is unstable below 1.350 (1.300-1.400) (local)."
    )


# --- verdicts: branches, free energy, causes ------------------------------------------------------


def _cause(mlp: float, settings: dict | None = None, slope: float = -2.0, **changes):
    drawn = vae_comparison(mlp=(mlp,), mlp_slope=slope, **(settings or {}))
    comparison = with_estimates(drawn, **changes)
    return cause(comparison, next(t for t in comparison.thresholds() if t.architecture == "mlp"))


CAUSES = {
    "inside": (1.01, {}, {}, None, ""),
    "regression": (
        0.9, {}, {"residual": 0.88, "local": 0.87}, ("regression", 0.88),
        "threshold of 1.255, 0.880 of the prediction",
    ),
    "features": (
        0.9, {}, {"residual": 0.99, "local": 0.891}, ("features", 0.9), "can use 0.900 of what is",
    ),
    "both": (
        0.45, {}, {"residual": 0.9, "local": 0.45}, ("features", 0.5),
        "from beta = 0.6417 on; better regression of the target",
    ),
    "features-that-came": (
        0.93, {}, {"local": 0.891, "drift": 0.03}, ("time", 1 / 6), "training time: log beta of 2",
    ),
    "line-below": (0.9, {}, {"slope": -1.3, "drift": 0.03}, ("line", -1.3), "; training time: log"),
    "twice-the-steps": (
        0.9, {}, {"doubled": 0.936}, ("time", 1.04), "twice the steps give 1.040 of it",
    ),
    "drift": (
        0.9, {}, {"drift": 0.03}, ("time", 1 / 6),
        "log beta of 2 of 12 control runs still drifts, by up to 3.0%",
    ),
    "drift-disproved": (0.9, {}, {"drift": 0.03, "doubled": 0.9}, ("unknown", 0.9), "features and"),
    "unknown": (0.9, {}, {}, ("unknown", 0.9), "features and the training time"),
    "bound": (
        5.0, {"bounds_of_any_network": "BOUNDS"}, {}, ("bound", 6.7), "which no network can pass",
    ),
    "transient": (
        1.1, {"leading_skewness": 1.2}, {}, ("time", 1.1),
        "2 networks alive above the prediction are worse than collapse, none is better",
    ),
    "skewness": (
        1.1, {"leading_skewness": 1.2}, {"energies": (-1, -1, -1, 0), "certified": 1.045},
        ("skewness", 1.2), "(first-order transition), and one beats collapse at 1.045 of it",
    ),
    "skewness-unproved": (
        1.1, {"leading_skewness": -1.2}, {"energies": (-1, -1, -1, 0)}, ("skewness", -1.2),
        "(first-order transition)",
    ),
    "skewness-conditional": (
        1.1, {"leading_skewness": 1.2, "model": "cvae"}, {"energies": (-1, -1, -1, 0)},
        ("skewness", 1.2), "and so can one where the residual's spread varies with the condition",
    ),
    "skewness-law": (
        1.1, {"leading_skewness": 0.6, "skewness_shift": 0.048}, {"energies": (-1, -1, -1, 0)},
        ("skewness", 0.6), "), by +4.8% by the law of small skewness for this component alone",
    ),
    "line": (
        1.1, {}, {"energies": (0, 0, 0, 0), "slope": -1.3}, ("line", -1.3), "codes a curve",
    ),
    "drift-above": (
        1.1, {}, {"energies": (0, 0, 0, 0), "drift": 0.03}, ("time", 1 / 6), "still drifts, by up",
    ),
    "unknown-above": (1.1, {}, {"energies": (0, 0, 0, 0)}, ("unknown", 1.1), "no bend of the line"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("ratio", "settings", "changes", "found", "words"), CAUSES.values(), ids=CAUSES.keys()
)
def test_cause_is_named_with_its_number(ratio, settings, changes, found, words):
    settings = {k: BOUNDS if v == "BOUNDS" else v for k, v in settings.items()}
    got = _cause(ratio, settings, **changes)
    if found is None:
        assert got is None
        return
    assert got.name == found[0]
    assert got.number == pytest.approx(found[1])
    assert words in got.text


def test_verdict_tells_branches_and_free_energies():
    text = _verdict(with_estimates(vae_comparison()), "threshold, mlp").text
    assert text.endswith(
        " Networks that started collapsed leave collapse up to beta = 1.355, those that started "
        "alive are dead from 1.455 on (empirical). Free energy: alive beats collapse of the same "
        "training up to beta = 1.383; 2 runs at 1.483 are alive and worse than it: transients."
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"growing": 0.3}, "(empirical; still drifting)"),
        ({"growing": 0.1}, "(empirical)."),
        ({"high": INF}, "are still alive at the highest beta tried (empirical)"),
        ({"low": NAN}, "Networks that started collapsed never leave collapse, those"),
        (
            {"high": 0.96},
            "are dead from 1.369 on (empirical; dead below the certified 1.383: the branch was too "
            "short)",
        ),
    ],
)
def test_branches_without_an_end_or_at_rest(changes, words):
    comparison = with_estimates(vae_comparison(), **changes)
    assert words in _verdict(comparison, "threshold, mlp").text


def test_branches_of_some_seeds_that_never_leave_collapse():
    comparison = with_estimates(vae_comparison())
    rows = [r for r in comparison.rows if (r.quantity, r.seed) != ("bracket_low", 1)]
    text = _verdict(Comparison(comparison.settings, tuple(rows)), "threshold, mlp").text
    assert "leave collapse up to beta = 1.355 in 1 of 2 seeds, those" in text


def test_bounds_name_the_cause_of_what_lies_below():
    comparison = with_estimates(
        vae_comparison(mlp=(0.9,), bounds_of_any_network=BOUNDS), residual=0.88, local=0.87
    )
    why = _verdict(comparison, "bounds of any network").why
    assert why.startswith("mlp below: better regression of the target")


def test_table_says_what_is_certain():
    table = how_sure(with_estimates(vae_comparison()))
    assert table.header[3:6] == ("kind", "beta (seeds)", "bracket")
    assert [row[3] for row in table.rows if row[2] == "exchange ratio"] == ["certain"] * 2
    assert [row[3] for row in table.rows if row[2] == "two branches"] == ["empirical"] * 2
    certified = next(row for row in table.rows if row[2] == "exchange ratio")
    assert certified[4:] == (f"1.426 ({0.98 * SPECTRUM[0]:.3f}-1.426)", "above 1.383", "14", "3.21")
    assert how_sure(vae_comparison()) is None


@pytest.mark.parametrize("width", [80, 200])
def test_what_seconds_are_is_said_where_they_stand(width):
    console = Console(record=True, width=width, file=io.StringIO())
    render_text(with_estimates(vae_comparison()), console)
    shown = " ".join(console.export_text().split())
    assert ("runs that several methods share count for each" in shown) == (width == 200)


# --- verdicts: bounds of any network -------------------------------------------------------------

BOUNDS = {
    "linear": 1.426,
    "found": 5.1,
    "proven": 6.7,
    "effective_samples": 1.04,
    "held_out": 0.59,
    "held_out_standard_error": 0.08,
    "scope": "any network",
}
BOUNDED = {
    "inside": ((1.02, 1.06), {}, "agrees", "memory of single samples"),
    "noise": ((1.02,), {"effective_samples": 189.0}, "agrees", "within sampling noise"),
    "no-held-out": ((1.02,), {"held_out": NAN, "effective_samples": 9}, "agrees", "sampling noise"),
    "confirmed": ((1.02, 1.06), {"held_out": 2.1}, "agrees", "a gap that new samples confirm"),
    "within-noise": ((1.02,), {"held_out": 1.5}, "agrees", "memory of single samples"),
    "below-linear": ((0.9, 0.95), {}, "note", "1.0 effective samples"),
    "impossible": ((5.0, 5.2), {}, "differs", "mlp above a proven bound: the run has not settled"),
}


@pytest.mark.parametrize(("mlp", "changes", "level", "why"), BOUNDED.values(), ids=BOUNDED.keys())
def test_observed_thresholds_stand_beside_their_bounds(mlp, changes, level, why):
    comparison = vae_comparison(mlp=mlp, bounds_of_any_network=BOUNDS | changes)
    verdict = _verdict(comparison, "bounds of any network")
    assert verdict.level == level
    assert verdict.text.startswith("linear 1.426, observed linear 1.422, mlp ")
    assert "universal between 5.100 (found) and 6.700 (proven): above it" in verdict.text
    assert why in verdict.why
    held_out = (BOUNDS | changes)["held_out"]
    knows = "the linear one, on all samples, knows those it is evaluated on"
    assert (knows in verdict.why) == (held_out < BOUNDS["linear"] and level != "differs")


def test_bounds_of_decoders_that_add_do_not_bind_a_network_that_mixes():
    scope = "any decoder that adds to the fixed regression"
    comparison = vae_comparison(mlp=(9.0,), bounds_of_any_network=BOUNDS | {"scope": scope})
    verdict = _verdict(comparison, f"bounds of {scope}")
    assert verdict.level == "agrees"  # the mlp above the proven bound is no contradiction
    assert "(one that trains it too, or mixes both, is not bound) by leaving" in verdict.text


def test_bounds_without_observation_are_a_note():
    comparison = vae_comparison(linear=(NAN,), mlp=(NAN,), bounds_of_any_network=BOUNDS)
    verdict = _verdict(comparison, "bounds of any network")
    assert (verdict.level, verdict.why) == ("note", "no threshold was observed")


def test_no_bounds_no_verdict():
    claims = [v.claim for v in verdicts(vae_comparison(bounds_of_any_network=None))]
    assert "bounds of any network" not in claims


# --- verdicts: levels, counts, rates -------------------------------------------------------------


def test_one_verdict_per_level_and_architecture_lower_levels_first():
    claims = [v.claim for v in verdicts(hvae_comparison())]
    assert claims == [
        "threshold of level 1, linear",
        "threshold of level 1, mlp",
        "threshold of level 2, linear",
        "threshold of level 2, mlp",
        "active units, linear",
        "active units, mlp",
        "rate, linear",
    ]
    text = _verdict(hvae_comparison(), "threshold of level 2, linear").text
    assert text.startswith(
        "linear theory predicts collapse of level 2 of omniglot at beta = 0.9000 (decoder variance"
    )


CERTAIN = {
    "active": (
        INF, None, "agrees",
        "linear theory predicts that level 2 never collapses: it is active on encoder noise alone, "
        "whatever the data; observed active in 16 of 16 runs of the sweep.",
    ),
    "active-missed": (
        INF, 0, "differs",
        "linear theory predicts that level 2 never collapses: it is active on encoder noise alone, "
        "whatever the data; observed active in 0 of 16 runs of the sweep.",
    ),
    "never": (
        0.0, None, "agrees",
        "linear theory predicts that level 2 is never active: it is collapsed at every beta, "
        "whatever the data; observed collapsed in 16 of 16 runs of the sweep.",
    ),
    "never-missed": (
        0.0, 1, "differs",
        "linear theory predicts that level 2 is never active: it is collapsed at every beta, "
        "whatever the data; observed collapsed in 0 of 16 runs of the sweep.",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("upper", "active", "level", "text"), CERTAIN.values(), ids=CERTAIN.keys())
def test_level_without_a_finite_threshold(upper, active, level, text):
    found = _verdict(hvae_comparison(upper, active), "threshold of level 2, linear")
    assert (found.level, found.text) == (level, text)


def test_level_that_theory_says_nothing_about():
    found = _verdict(hvae_comparison(NAN), "threshold of level 2, linear")
    assert found.level == "note"
    assert found.text == "linear theory has no threshold here; none was estimated."


def _more_units(row: Row, by: float) -> Row:
    low = row.quantity == "active_units" and row.beta < 0.8 and row.seed == 0
    return Row(**{**vars(row), "observed": row.predicted + by}) if low else row


@pytest.mark.parametrize(
    ("by", "linear", "mlp", "share", "why"),
    [
        (1, "agrees", "agrees", "16 of 16", ""),
        (
            3,
            "differs",
            "note",
            "13 of 16",
            "more units than predicted: the posterior means of units",
        ),
        (-3, "differs", "note", "13 of 16", "fewer units than predicted"),
    ],
)
def test_active_units_within_one(by, linear, mlp, share, why):
    comparison = _replace(vae_comparison(), lambda row: _more_units(row, by))
    for architecture, level in (("linear", linear), ("mlp", mlp)):
        found = _verdict(comparison, f"active units, {architecture}")
        assert found.level == level
        assert f"is within 1 of theory in {share} runs of the sweep" in found.text
        assert found.why.startswith(why)
        assert bool(found.why) == bool(why)


def test_rate_of_linear_networks_away_from_the_threshold():
    """1.3 and 1.5 are within 10 % of 1.426; of the eight betas six remain."""
    assert _verdict(vae_comparison(), "rate, linear") == Verdict(
        "agrees",
        "rate, linear",
        "away from the threshold the rate of the linear network is at most 0.0069 nats from "
        "theory at 6 betas; worst at beta = 0.35: 2.16 observed, 2.17 predicted.",
    )


def _rate_off(row: Row, beta: float) -> Row:
    off = row.quantity == "rate_nats" and row.architecture == "linear" and row.beta == beta
    return Row(**{**vars(row), "observed": row.observed - 0.12}) if off else row


@pytest.mark.parametrize(("beta", "level"), [(0.75, "differs"), (1.3, "agrees")])
def test_rate_counts_only_away_from_the_threshold(beta, level):
    comparison = _replace(vae_comparison(), lambda row: _rate_off(row, beta))
    found = _verdict(comparison, "rate, linear")
    assert found.level == level
    assert ("at beta = 0.75" in found.text) is (level == "differs")


# --- terminal ------------------------------------------------------------------------------------

EDGES = {
    "vae": vae_comparison(),
    "failed": vae_comparison(linear=(NAN, NAN), mlp=(NAN,)),
    "hvae": hvae_comparison(),
    "inf": hvae_comparison(INF),
    "never": hvae_comparison(0.0),
    "nan": hvae_comparison(NAN),
    "estimates": with_estimates(vae_comparison()),
}


def _printed(comparison: Comparison, width: int = 100) -> str:
    stream = io.StringIO()
    render_text(comparison, Console(file=stream, width=width))
    return stream.getvalue()


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("comparison", EDGES.values(), ids=EDGES.keys())
def test_terminal_shows_every_number_in_its_width(comparison, width):
    text = _printed(comparison, width)
    thresholds, sweeps = tables(comparison, wide=width >= 98)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text and "nan" not in text
    assert "\x1b" not in text  # plain when piped
    lines = [" ".join(line.split()) for line in text.splitlines()]
    for table in (thresholds, *sweeps):
        for row in table.rows:
            assert " ".join(row) in lines
    sure = how_sure(comparison, wide=width >= 98)
    for row in sure.rows if sure else ():
        assert " ".join(row) in lines


def test_sweep_table_has_means_and_ranges():
    _, (sweep,) = tables(vae_comparison())
    assert sweep.header == ("beta", "beta / critical", "rate theory", "rate linear", "rate mlp",
                            "units theory", "units linear", "units mlp")  # fmt: skip
    assert len(sweep.rows) == len(SWEEP)
    assert sweep.rows[0] == ("0.35", "0.245", "2.17", "2.16 (2.15-2.17)", "2.32 (2.30-2.33)",
                             "6", "5.5 (5-6)", "6")  # fmt: skip


def test_noise_around_zero_has_no_sign():
    def noisy(row: Row) -> Row:
        return Row(**{**vars(row), "observed": -1e-5}) if row.quantity == "rate_nats" else row

    _, (sweep,) = tables(_replace(vae_comparison(), noisy))
    assert {row[3] for row in sweep.rows} == {"0.000"}


def test_threshold_table_names_what_is_no_number():
    rows = [tables(hvae_comparison(upper))[0].rows[2] for upper in (INF, 0.0, NAN)]
    assert [row[2] for row in rows] == ["inf", "0", "-"]
    assert all(row[3:] == ("-", "-", "-", "-", "0") for row in rows)


def test_terminal_says_how_long_it_took_and_names_the_data():
    text = _printed(vae_comparison())
    assert "omniglot: n 5840, dim 784, sha256 9f578524b6ce" in text
    assert text.rstrip().endswith("linear 9.8, total 74.1")


# --- page ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Picture:
    name: str
    title: str
    alt: str
    png_path: Path


class Page(HTMLParser):
    """Elements with their attributes, and what was left open or closed twice."""

    VOID = ("meta", "img", "br", "hr", "link", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def _page(comparison: Comparison, folder: Path, pictures: int = 2) -> tuple[str, Page]:
    folder.mkdir(exist_ok=True)
    (folder / "pixel.png").write_bytes(PIXEL)
    figures = [
        Picture(f"f{i}", f"Title {i}", f'Alt "{i}" & <b>', folder / "pixel.png")
        for i in range(pictures)
    ]
    text = write_report(comparison, folder, figures).read_text(encoding="utf-8")
    return text, Page(text)


@pytest.mark.parametrize("comparison", EDGES.values(), ids=EDGES.keys())
def test_page_is_well_formed_and_needs_no_other_file(comparison, tmp_path):
    text, page = _page(comparison, tmp_path)
    assert page.open == []
    assert not page.all("script") and not page.all("link")
    assert "http:" not in text and "https:" not in text and "url(" not in text
    assert all(a["href"].startswith("#") for a in page.all("a"))
    assert all(a["src"].startswith("data:image/png;base64,") for a in page.all("img"))
    assert "nan" not in page.words.split() and "None." not in page.words


def test_page_can_be_read_by_screen_reader_and_keyboard(tmp_path):
    text, page = _page(hvae_comparison(), tmp_path)
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == 1
    assert len(page.all("table")) == len(page.all("caption")) == 4
    assert all(a.get("scope") in ("col", "row") for a in page.all("th"))
    assert len(page.all("th")) > 20
    ids = [a["id"] for _, a in page.found if "id" in a]
    assert len(ids) == len(set(ids))
    references = [a["href"][1:] for a in page.all("a")]
    references += [a["aria-labelledby"] for _, a in page.found if "aria-labelledby" in a]
    assert set(references) <= set(ids)
    scrollable = [a for a in page.all("div") if a.get("class") == "scroll"]
    assert len(scrollable) == 4 + 2 and all(a["tabindex"] == "0" for a in scrollable)
    assert text.index('class="skip"') < text.index("<h1>")


def test_page_shows_every_figure_with_its_words(tmp_path):
    _, page = _page(vae_comparison(), tmp_path)
    pictures = page.all("img")
    assert [a["alt"] for a in pictures] == ['Alt "0" & <b>', 'Alt "1" & <b>']
    assert all(base64.b64decode(a["src"].split(",")[1]) == PIXEL for a in pictures)
    assert "Figure 2. Title 1" in page.words


def test_page_shows_verdicts_settings_and_how_to_repeat(tmp_path):
    comparison = vae_comparison()
    _, page = _page(comparison, tmp_path)
    words = " ".join(page.words.split())
    for verdict in verdicts(comparison):
        assert verdict.text[1:] in words and verdict.why in words
    for expected in (
        "Verdict: 4 agree, 0 differ, 1 to note",
        "The small train split <one> & only.",
        "scale: factor = 1/255",
        "subset: n = 5840, seed = 0",
        "0.05, 0.1, 0.15, 0.2, 0.25, 0.3",
        comparison.settings["command"],
        comparison.settings["citations"][0],
        comparison.settings["data_sha256"],
    ):
        assert expected in words


def test_page_without_figures_has_no_figure_section(tmp_path):
    text, page = _page(vae_comparison(), tmp_path, pictures=0)
    assert not page.all("img") and 'id="figures"' not in text


def test_page_escapes_names(tmp_path):
    text, page = _page(vae_comparison(dataset="<script>alert(1)</script>"), tmp_path)
    assert not page.all("script")
    assert "&lt;script&gt;alert(1)" in text


def test_page_is_ascii_so_that_no_encoding_can_break_it(tmp_path):
    comparison = vae_comparison(dataset="Omniglöt β")
    path = write_report(comparison, tmp_path)
    assert path.read_bytes().isascii()
    assert "Omniglöt β" in Page(path.read_text()).words


def test_report_reads_what_was_written(tmp_path):
    """The page made from the files is the page made from memory."""
    comparison = vae_comparison(leading_skewness=NAN)
    comparison.write(tmp_path / "rows")
    again = Comparison.read(tmp_path / "rows")
    assert verdicts(again) == verdicts(comparison)
    assert math.isnan(comparison.settings["leading_skewness"])


def test_failed_write_leaves_the_old_page(tmp_path, monkeypatch):
    path = write_report(vae_comparison(), tmp_path)
    before = path.read_bytes()

    def refuse(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        write_report(hvae_comparison(), tmp_path)
    assert path.read_bytes() == before


def test_missing_figure_writes_no_page(tmp_path):
    lost = Picture("lost", "Lost", "Lost.", tmp_path / "lost.png")
    with pytest.raises(FileNotFoundError):
        write_report(vae_comparison(), tmp_path / "out", [lost])
    assert not (tmp_path / "out" / "report.html").exists()


def test_printed_threshold_is_the_mean_of_the_seeds_not_the_middle_of_their_range():
    """Three seeds off centre: mean 1.01, middle of range and mean 1.013."""
    comparison = vae_comparison(linear=(1.0, 1.0, 1.03), mlp=(1.0, 1.0, 1.0))
    (row,) = [t for t in comparison.thresholds() if t.architecture == "linear"]
    cell = tables(comparison)[0].rows[0][3]
    assert cell.startswith(f"{row.predicted * 1.01:#.4g} ")
