"""What notebooks show, and data frames: the numbers of the records, nothing else."""

from __future__ import annotations

import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from test_comparison import hvae_comparison, vae_comparison

from linvae import Moments, VAESpec, solve
from linvae.comparison import Comparison
from linvae.diagnosis import diagnose
from linvae.notebook import MOST_ROWS, html_table

MOMENTS = Moments.from_covariance(np.diag([3.0, 1.0, 0.2]))


class Reader(HTMLParser):
    """Cells of a page's tables, row by row; tags must close in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.caption, self._open = "", []
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open[-1] == "caption":
            self.caption += data
        elif self._open[-1] in ("th", "td"):
            self.rows[-1][-1] += data


def test_solution_shows_its_modes():
    solution = solve(VAESpec(latent_dim=2, decoder_variance=0.5), MOMENTS)
    page = Reader(solution._repr_html_())
    assert page.rows[0][:4] == ["level", "mode", "mode variance", "critical beta"]
    assert page.rows[1][:4] == ["1", "1", "3", "6"]
    assert page.rows[3][2:4] == ["0.2", "-"]
    assert [row[-1] for row in page.rows[1:]] == ["no", "no", "yes"]
    assert "status='unique'" in page.caption


def test_solution_is_short_in_a_terminal():
    wide = solve(VAESpec(latent_dim=50), Moments.from_covariance(np.diag(np.arange(60.0) + 1)))
    assert len(repr(wide)) < 400
    assert f"objective={wide.objective:.5g}" in repr(wide)
    assert "weights=['Sigma', 'U', 'W']" in repr(wide)


def test_comparison_is_short_in_a_terminal():
    comparison = vae_comparison()
    shown = repr(comparison)
    assert len(shown) < 300
    assert f"{len(comparison.rows)} rows" in shown
    for t in comparison.thresholds():
        assert f"{t.architecture} level 1: {t.observed:.4g} of {t.predicted:.4g}" in shown


@pytest.mark.parametrize("comparison", [vae_comparison(), hvae_comparison()])
def test_comparison_shows_its_thresholds(comparison):
    page = Reader(comparison._repr_html_())
    shown = [dict(zip(page.rows[0], row, strict=True)) for row in page.rows[1:]]
    expected = comparison.thresholds()
    assert [(r["architecture"], r["level"]) for r in shown] == [
        (t.architecture, str(t.level)) for t in expected
    ]
    assert [r["observed"] for r in shown] == [f"{t.observed:.4g}" for t in expected]


def test_diagnosis_shows_its_units():
    samples = np.random.default_rng(0).normal(size=(100, 3)) * [2.0, 1.0, 0.5]
    found = diagnose(lambda y: (np.zeros((len(y), 2)), np.zeros((len(y), 2))), samples, beta=0.5)
    page = Reader(found._repr_html_())
    assert page.caption == found.sentence
    assert repr(found) == f"Diagnosis({found.sentence!r})"
    assert [row[-1] for row in page.rows[1:]] == [unit.verdict for unit in found.units]


def test_long_tables_say_what_they_leave_out():
    rows = [{"mode": i, "name": "<b>"} for i in range(MOST_ROWS + 3)]
    page = html_table("<i>a</i> & b", rows)
    assert len(Reader(page).rows) == MOST_ROWS + 1
    assert "and 3 more: see to_rows()" in page
    assert "<b>" not in page
    assert Reader(page).caption == "<i>a</i> & b"
    assert "more" not in html_table("", rows[:MOST_ROWS])


def test_comparison_as_a_data_frame(tmp_path):
    pandas = pytest.importorskip("pandas")
    comparison = vae_comparison()
    frame = comparison.to_pandas()
    assert frame.to_dict("records")[5].items() >= {"quantity": comparison.rows[5].quantity}.items()
    assert frame.attrs["dataset"] == comparison.settings["dataset"]
    comparison.write(str(tmp_path))
    assert repr(Comparison.read(str(tmp_path))) == repr(comparison)
    read = pandas.read_csv(tmp_path / "comparison.csv")
    for name in ("predicted", "observed", "beta"):  # the table that the file has
        np.testing.assert_array_equal(frame[name], read[name])


def test_without_pandas_the_way_out_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install pandas, or use to_rows\(\)"):
        vae_comparison().to_pandas()
