"""The page in a browser: what it shows, what it asks for, and who can read it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from test_comparison import hvae_comparison, vae_comparison, with_estimates, with_training

from linvae import drawing
from linvae.diagnosis import diagnose
from linvae.diagnosis.page import write_diagnosis_report
from linvae.plots import FIGURES, save_figures
from linvae.report import write_report

if TYPE_CHECKING:
    from playwright.sync_api import Page

TEMPLATES = Path(__file__).parents[1] / "linvae" / "templates"
LIGHT, DARK = "rgb(252, 252, 251)", "rgb(21, 23, 26)"
READABLE = 4.5  # least contrast of text that WCAG 2.2 calls readable (level AA)


@pytest.fixture(scope="module")
def pages(tmp_path_factory, browser) -> dict[str, Path]:
    """Reports with every figure; of one level with the evidence beside its thresholds.

    Small pictures and no PDFs, which the page does not show: a third of the time.
    """
    models = {
        "vae": with_training(with_estimates(vae_comparison())),
        "hvae": with_training(hvae_comparison()),
    }
    folders = {name: tmp_path_factory.mktemp(name) for name in models}
    save = drawing.save_figure
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "RESOLUTION", 80)
        patch.setattr(drawing, "save_figure", lambda f, p: p.suffix == ".png" and save(f, p))
        return {
            name: write_report(comparison, folders[name], save_figures(comparison, folders[name]))
            for name, comparison in models.items()
        }


@pytest.fixture(params=["vae", "hvae"])
def opened(request, pages, browser_page) -> Iterator[Page]:
    """A report in the light scheme; it must have asked for nothing but itself."""
    path = pages[request.param]
    asked: list[str] = []
    browser_page.on("request", lambda r: asked.append(r.url))
    browser_page.emulate_media(color_scheme="light")
    browser_page.goto(path.as_uri())
    yield browser_page
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]


def _ground(page: Page) -> str:
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_every_figure_is_there_with_its_key_numbers(opened):
    seen = opened.eval_on_selector_all(
        "figure img", "all => all.map(i => [i.complete, i.naturalWidth, i.naturalHeight, i.alt])"
    )
    assert len(seen) == len(FIGURES)
    for complete, width, height, words in seen:
        assert complete and width > 400 and height > 100
        assert re.search(r"\d", words) and words.endswith(".")


def test_headings_are_in_order(opened):
    levels = opened.eval_on_selector_all(
        "h1, h2, h3, h4, h5, h6", "all => all.map(h => +h.tagName[1])"
    )
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert len(levels) >= 7


def test_colours_follow_the_system_and_the_reader(opened):
    assert _ground(opened) == LIGHT
    opened.emulate_media(color_scheme="dark")
    assert _ground(opened) == DARK
    opened.get_by_label("light").check()
    assert _ground(opened) == LIGHT
    opened.emulate_media(color_scheme="light")
    opened.keyboard.press("ArrowRight")  # the keyboard is on the choice: the next is "dark"
    assert _ground(opened) == DARK
    opened.get_by_label("of the system").check()
    assert _ground(opened) == LIGHT


def test_keyboard_reaches_everything_and_is_seen_where_it_is(opened):
    """Tab after Tab: first the link that skips, then every table and figure that can scroll."""
    opened.keyboard.press("Tab")
    skip = opened.locator(":focus")
    assert skip.inner_text() == "Skip to the verdict" and skip.bounding_box()["x"] > 0
    reached, regions = [], opened.locator("[role=region][tabindex='0']").count()
    for _ in range(100):
        opened.keyboard.press("Tab")
        here = opened.evaluate(
            "(e => [e.tagName, e.getAttribute('aria-labelledby'),"
            " getComputedStyle(e).outlineStyle])(document.activeElement)"
        )
        if here[0] == "BODY":
            break
        assert here[2] != "none", here
        reached.append(here[1])
    names = [name for name in reached if name]
    assert len(names) == len(set(names)) == regions
    assert {"table-thresholds", "table-settings", "figure-phases", "figure-training"} <= set(names)


def test_skip_link_goes_to_the_verdict(opened):
    opened.keyboard.press("Tab")
    opened.keyboard.press("Enter")
    assert opened.url.endswith("#verdict")
    assert opened.locator("#verdict").bounding_box()["y"] == pytest.approx(0, abs=60)


@pytest.mark.parametrize("width", [320, 400, 1000])
def test_nothing_runs_off_the_page(opened, width):
    """What is wider scrolls on its own."""
    opened.set_viewport_size({"width": width, "height": 800})
    assert opened.evaluate("document.documentElement.scrollWidth") <= width


def test_paper_is_light_and_has_no_controls(opened):
    opened.get_by_label("dark").check()
    opened.emulate_media(media="print")
    assert _ground(opened) == LIGHT
    hidden = opened.locator("nav, .scheme, .skip").all()
    assert len(hidden) == 4 and not any(part.is_visible() for part in hidden)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_violation(opened, scheme):
    """Landmarks, names, contrast as drawn and some ninety rules more, by another's program."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="linvae[browser]")
    opened.emulate_media(color_scheme=scheme)
    found = axe.Axe().run(opened)
    assert found.violations_count == 0, found.generate_report()
    assert len(found.response["passes"]) > 20


# --- contrast, from the style sheet ---------------------------------------------------------------

COLOUR = re.compile(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)")


def _luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.2."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _contrast(one: str, other: str) -> float:
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_of_known_colours():
    assert _contrast("#000000", "#ffffff") == pytest.approx(21)
    assert _contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.005)  # the known last grey


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_colour_of_words_can_be_read(scheme):
    text = (TEMPLATES / "page.html").read_text()
    colours = {name: both[scheme] for name, *both in COLOUR.findall(text)}
    words = set(colours) - {"page", "raised", "line"}
    assert words == {"ink", "quiet", "agrees", "differs", "note"}
    pairs = [(name, "page") for name in sorted(words)] + [("ink", "raised")]
    faint = {pair: _contrast(*(colours[name] for name in pair)) for pair in pairs}
    assert {pair: ratio for pair, ratio in faint.items() if ratio < READABLE} == {}


# --- the page of a diagnosis ----------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_of_a_diagnosis(browser_page, tmp_path, scheme):
    """A dead encoder: verdict, picture with words, every unit, and what axe says of it all."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="linvae[browser]")
    samples = np.random.default_rng(0).normal(size=(400, 3)) * [2.0, 1.0, 0.5]
    found = diagnose(lambda y: (np.zeros((len(y), 2)), np.zeros((len(y), 2))), samples, beta=1.0)
    figure = drawing.save_drawing(found.draw(), "diagnosis", "KL per unit", tmp_path)
    path = write_diagnosis_report(found, figure, tmp_path, "linvae diagnose 'a <b>.pt'")
    browser_page.emulate_media(color_scheme=scheme)
    browser_page.goto(path.as_uri())
    assert found.verdict in browser_page.title()
    assert browser_page.locator("#verdict + p").inner_text() == found.sentence
    assert browser_page.locator("img").get_attribute("alt") == found.draw().alt
    units, modes = (
        [row.split("\t") for row in section.locator("tbody tr").all_inner_texts()]
        for section in browser_page.locator("section:has(table)").all()
    )
    assert [(row[0], row[-1]) for row in units] == [(str(u.unit), u.verdict) for u in found.units]
    assert [row[0] for row in modes] == [str(m.mode) for m in found.modes]
    missing = [row[-1] == "missing" for row in modes]
    assert (
        missing == [m.missing for m in found.modes] == [True, False]
    )  # theta^2 = 4, 1; beta s = 1
    assert browser_page.locator("code").inner_text() == "linvae diagnose 'a <b>.pt'"
    words = browser_page.inner_text("main")
    assert all(unit.advice in words for unit in found.units)
    result = axe.Axe().run(browser_page)
    assert result.violations_count == 0, result.generate_report()
