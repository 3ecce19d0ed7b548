"""Local collapse on eight clusters: a tiny run, the page, and what it says of made-up rows."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest

from analysis import mixture_page, mixture_study
from figures.rows import kept
from linvae.data import gaussian_mixture
from linvae.metrics import observe
from linvae.models import Architecture
from linvae.spec import LatentReconstruction
from linvae.train import BlownUp, Remedy, TrainingData

DOCUMENT = Path(mixture_study.__file__).with_suffix(".json")
BETAS, PLACE = (0.1, 0.3, 0.6), ("beta", "alpha", "detach", "seed")


@pytest.fixture
def tiny(monkeypatch):
    """Networks and data of a second."""
    data = TrainingData.from_arrays(gaussian_mixture(300).target)
    monkeypatch.setattr(mixture_study, "clusters", lambda: data)
    monkeypatch.setattr(mixture_study, "NETWORK", Architecture("mlp", hidden=4))
    monkeypatch.setattr(mixture_study, "BATCH", 150)
    return data


def test_settings_are_twice_the_alphas_with_the_largest_detached_too():
    found = mixture_study.settings()
    assert len(found) == 12
    assert found[0.3, 0.0, "none"] == Remedy(0.3)
    loss = LatentReconstruction(0.8, "posterior", "both")
    assert found[0.1, 0.4, "both"] == Remedy(0.1, latent_reconstruction=loss)
    assert found[0.6, 0.1, "none"].latent_reconstruction == LatentReconstruction(0.2)


def test_a_tiny_run_and_its_page(tiny, tmp_path, monkeypatch):
    """Measured again from the members that were kept: the same rows, nothing trained."""
    out, docs = tmp_path / "rows.json", tmp_path / "page.md"
    files = ["--out", str(out), "--docs", str(docs), "--members", str(tmp_path / "members")]
    monkeypatch.setattr(sys, "argv", ["study", "--steps", "3", "--seeds", "2", *files])
    mixture_study.main()
    document = json.loads(out.read_text())
    assert document["steps"] == 3
    assert [
        tuple(row[k] for k in ("beta", "alpha", "detach", "seed")) for row in document["rows"]
    ] == [(*setting, seed) for setting in mixture_study.settings() for seed in (0, 1)]
    for row in document["rows"]:
        assert row["information_nats"] <= math.log(150) + 0.01
        assert all(0 <= v <= 1 for k, v in row.items() if k.startswith("share"))
    text = docs.read_text()
    assert "Preliminary" in text and "3\nsteps of the 39,063 published, 2 seeds" in text
    monkeypatch.setattr("linvae.train.cells.train", None)
    mixture_study.main()
    assert json.loads(out.read_text()) == document
    monkeypatch.setattr(sys, "argv", ["study", "--page", *files])
    monkeypatch.setattr(mixture_study, "trained", None)
    docs.unlink()
    mixture_study.main()
    assert docs.read_text() == text


def test_rows_stand_at_their_own_setting(tiny, monkeypatch):
    """A stack of one setting alone has the same rate; a blow-up is told of its own member."""
    result = mixture_study.trained(3, (0, 1), None)
    lost = BlownUp(seed=1, point=5, step=2, rate_nats=1e9, ratio=1e6)
    object.__setattr__(result.result, "blown_up", (lost,))
    found = list(mixture_study.rows(result))
    assert [row["blown_up_at"] for row in found] == [2 if i == 11 else None for i in range(24)]
    chosen = (0.3, 0.4, "both")
    only = mixture_study.settings()[chosen]
    monkeypatch.setattr(mixture_study, "settings", lambda: {chosen: only})
    alone = observe(mixture_study.trained(3, (0, 1), None).model, tiny).rates[:, 0, 0]
    same = [r["rate_nats"] for r in found if (r["beta"], r["alpha"], r["detach"]) == chosen]
    assert same == pytest.approx(alone, rel=1e-4)  # rounding of batched products, float32


# --- the page -------------------------------------------------------------------------------------


def made_up(**changes: float) -> list[dict]:
    """Rows of two seeds; `changes`: by column, what the loss adds for each alpha."""
    found = []
    for beta in BETAS:
        for alpha, detach in ((0.0, "none"), (0.1, "none"), (0.4, "none"), (0.4, "both")):
            for seed in (0, 1):
                columns = dict.fromkeys(mixture_page.COLUMNS.values(), 0.5)
                columns |= {"rate_nats": 4.0, "published_bi_lipschitz": 8.0}
                for name, change in changes.items():
                    columns[name] += change * alpha
                place = {"beta": beta, "alpha": alpha, "detach": detach, "seed": seed}
                found.append(place | columns | {"blown_up_at": None})
    return found


def test_the_verdict_is_that_of_the_rows():
    rows = made_up(rate_nats=10.0, published_bi_lipschitz=-10.0, share_of_latent_cells=1.0)
    said = mixture_page.verdict(rows).splitlines()
    assert (
        said[0] == "- L falls with the loss: in 9 of 9 settings (0.500 to 0.875 times that at "
        "alpha 0)."
    )
    assert said[1].startswith("- The KL rises: in 9 of 9 settings (1.25 to 2 times")
    assert said[2] == "- The mutual information rises: no change in any setting."
    assert said[3].startswith("- Fewer z-cells are collapsed: in 0 of 9 settings (0.100 to 0.400")
    assert said[5].startswith("- Latent scales that blow up: 0 of 24 members; the largest KL is 8")
    for row in rows:
        if (row["beta"], row["alpha"], row["detach"]) == (0.3, 0.4, "both"):
            row |= {"published_bi_lipschitz": 9.0, "rate_nats": 1e15, "blown_up_at": 7}
    said = mixture_page.verdict(rows).splitlines()
    assert said[0].endswith("not at beta 0.3 alpha 0.4 detached.")
    assert said[5].startswith("- Latent scales that blow up: 2 of 24 members; the largest KL is 1")


def test_what_is_not_finite_is_infinite():
    rows = made_up()
    rows[0]["rate_nats"] = None
    assert "the largest KL is inf nats" in mixture_page.verdict(rows)


def test_the_table_has_published_numbers_where_there_are_any():
    lines = mixture_page.table(made_up()).splitlines()
    assert len(lines) == 2 + 12
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0][-3:] == ["published KL", "published L", "published z-cells"]
    by_setting = {tuple(row[:2]): row[-3:] for row in cells[2:]}
    assert by_setting["0.1", "0"] == ["5.7", "193", "0.91"]
    assert by_setting["0.1", "0.1"] == ["128", "9.9", "0.00"]
    assert by_setting["0.6", "0.4"] == ["25", "5.1", "-"]
    assert by_setting["0.6", "0.4, detached"] == ["-", "-", "-"]


def test_a_collapsed_unit_has_a_rate():
    """v = beta/(beta + 2 alpha): at beta 0.2, alpha 0.1 half the prior's."""
    assert mixture_page.collapsed_rate(0.2, 0.1) == pytest.approx((math.log(2) - 0.5) / 2)
    assert mixture_page.collapsed_rate(0.2, 0.0) == pytest.approx(0, abs=1e-12)
    said = mixture_page.misleading(made_up(rate_nats=10.0))
    two = 1 / 9 - 1 + math.log(9)
    assert f"- {two:.2f} nats at beta 0.1" in said
    assert "calls none collapsed" in said
    assert "KL less MI is 3.50 nats without the loss, 4.50 to 7.50 with it, and 7.50 with" in said


def test_short_rows_are_preliminary():
    document = {"steps": 9_999, "rows": made_up()}
    prices = kept("reconstruction_price")
    assert "Preliminary" in mixture_page.page(document, prices)
    assert "Preliminary" not in mixture_page.page(document | {"steps": 10_000}, prices)
    assert "published, 2" not in mixture_page.page(document | {"steps": 39_063}, prices)


def test_the_page_says_what_was_measured():
    document = json.loads(DOCUMENT.read_text())
    found = [tuple(r[k] for k in ("beta", "alpha", "detach")) for r in document["rows"]]
    assert list(dict.fromkeys(found)) == list(mixture_study.settings())
    text = mixture_page.page(document, kept("reconstruction_price"))
    assert mixture_study.DOCS.read_text(encoding="utf-8") == text
