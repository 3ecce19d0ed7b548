"""In a browser: it says and marks what `solve` says, by keyboard and mouse."""

from __future__ import annotations

import io
import json
import re
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from linvae import Moments, VAESpec, solve
from linvae.data import load_dataset
from linvae.explorer.curves import curves
from linvae.explorer.page import _round_betas
from linvae.explorer.source import Source
from linvae.explorer.state import CONTROLS, Choice, Slider, State, preset

pytest.importorskip("bokeh", reason='pip install "linvae[explore]"')

from bokeh.document import Document

from linvae.explorer import page as pages

from .served import explorer

DIGITS = Moments.from_data(load_dataset("digits").target)
SOURCE = Source.of("digits", DIGITS)


@pytest.fixture(scope="module")
def url():
    with explorer("--dataset", "digits") as (address, _):
        yield address


@pytest.fixture
def page(browser_page, url):
    """The page, drawn; a request to another host than its own fails the test."""
    asked = []
    browser_page.on("request", lambda request: asked.append(request.url))
    browser_page.on("websocket", lambda socket: asked.append(socket.url))
    browser_page.goto(url)
    settled(browser_page)
    yield browser_page
    hosts = {urlsplit(u).netloc for u in asked if not u.startswith(("data:", "blob:"))}
    assert hosts == {urlsplit(url).netloc}
    assert any(u.startswith("ws://") for u in asked)


def settled(page) -> None:
    """Wait until the last change is answered."""
    page.wait_for_selector("html[data-answered]", timeout=20_000)


def changed(page, act) -> None:
    """Act on the page, and wait for the answer."""
    page.evaluate("delete document.documentElement.dataset.answered")
    act()
    settled(page)


def state(page) -> State:
    """What the page asked for last."""
    (wanted,) = column(page, "state", "text")
    return State.of(json.loads(wanted)["state"])


def column(page, source: str, name: str) -> list:
    """A column of a data source, as the browser has it."""
    found = "([s, c]) => Array.from(Bokeh.documents[0].get_model_by_name(s).get_column(c))"
    return page.evaluate(found, [source, name])


def assert_says(page, expected: State) -> None:
    """Sentences, the marked beta and the curves are those of `curves` at `expected`."""
    assert state(page) == expected
    found = curves(expected, SOURCE)
    assert page.locator("#words p").all_inner_texts() == list(found.words)
    assert column(page, "beta", "x") == [expected.beta]
    assert column(page, "path", "y") == pytest.approx(found.squared_errors.tolist())
    assert column(page, "here", "x") == pytest.approx([found.now.rates.sum()])


def test_it_starts_with_the_data(page):
    assert_says(page, State(spectrum="data"))
    assert "digits [all]: n 1797, dim 64" in page.inner_text("#source")
    edge = solve(VAESpec(8), DIGITS).critical_beta[0]
    assert f"all are collapsed from beta {edge:.4g} on" in page.inner_text("#words")


@pytest.mark.parametrize(
    ("low", "high", "inside"),
    [(0.08, 2.1, [0.1, 0.2, 0.5, 1, 2]), (1e-3, 4e3, [1e-3, 1e-2, 0.1, 1, 10])],
)
def test_betas_on_the_axis_are_round(low, high, inside):
    shown = [tick for tick in _round_betas(low, high) if low <= tick <= high]
    np.testing.assert_allclose(shown[: len(inside)], inside)


def test_figures_are_drawn_in_the_colours_of_their_levels(page):
    changed(page, lambda: page.select_option("#model", "hvae"))
    figures = page.locator("figure").all()
    assert len(figures) == 4
    for drawn in figures:
        with Image.open(io.BytesIO(drawn.screenshot())) as image:
            pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
        for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
            assert np.sum(np.all(pixels == colour, axis=1)) > 20


def test_every_slider_moves_by_keyboard(page):
    changed(page, lambda: page.select_option("#model", "hvae"))
    changed(page, lambda: page.select_option("#encoder_2", "fixed"))
    changed(page, lambda: page.select_option("#spectrum", "power law"))
    sliders = [c for group in CONTROLS.values() for c in group if isinstance(c, Slider)]
    for slider in sliders:
        if "hvae" not in slider.models:
            assert page.locator(f"#{slider.name}").is_hidden()
            continue
        before = getattr(state(page), slider.name)
        page.focus(f"#{slider.name}")
        changed(page, lambda: page.keyboard.press("ArrowLeft"))
        now = state(page)
        assert getattr(now, slider.name) < before
        shown = page.inner_text(f"#{slider.name}-value")
        assert float(shown) == getattr(now, slider.name)
        assert page.get_attribute(f"#{slider.name}", "aria-valuetext") == shown
    assert_says(page, state(page))


def test_cvae_has_sliders_of_its_condition(page):
    changed(page, lambda: page.select_option("#model", "cvae"))
    for name in ("correlation", "condition_dim"):
        page.focus(f"#{name}")
        changed(page, lambda: page.keyboard.press("ArrowRight"))
    now = state(page)
    assert (now.correlation, now.condition_dim) == (0.51, 5)
    assert_says(page, now)
    assert "The condition predicts the strongest mode with correlation" in page.inner_text("#words")


def test_beta_is_dragged_with_the_mouse(page):
    box = page.locator("#beta").bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, middle)
    page.mouse.down()
    for share in np.linspace(0.5, 0.3, 12):
        page.mouse.move(box["x"] + share * box["width"], middle)
    page.mouse.up()
    # everything that was dragged over is asked for in order, and the last of it is what stays
    page.wait_for_function(
        "() => { const model = Bokeh.documents[0].get_model_by_name('state');"
        " const asked = JSON.parse(model.get_column('text')[0]).request;"
        " return document.documentElement.dataset.answered === String(asked) }"
    )
    now = state(page)
    assert 0.01 < now.beta < 0.1
    assert float(page.inner_text("#beta-value")) == now.beta
    assert_says(page, now)


def test_hierarchy_and_fixed_variance(page):
    changed(page, lambda: page.select_option("#model", "hvae"))
    assert_says(page, State(model="hvae", spectrum="data", **preset("hvae")))
    assert "Level 2 dies first, when beta" in page.inner_text("#words")
    assert page.locator("#rows tr").first.inner_text().split() == ["Active", "units", "3", "0"]
    heads, why = page.locator("#heads th"), page.get_by_text("Level 1 starts with a fixed one")
    assert heads.all_inner_texts() == ["level 1", "level 2"]
    spans = page.eval_on_selector_all("#rows td", "cells => cells.map(cell => cell.colSpan)")
    assert spans == [1] * 8 + [2, 2]  # error and waterline are of all levels
    assert why.is_visible()
    changed(page, lambda: page.select_option("#model", "vae"))
    assert heads.count() == 0 and why.is_hidden()
    changed(page, lambda: page.select_option("#encoder", "fixed"))
    assert page.locator("#encoder_variance").is_visible()
    assert_says(page, State(spectrum="data", encoder="fixed"))


def test_no_optimum_is_said_and_nothing_is_drawn(page):
    changed(page, lambda: page.select_option("#model", "hvae"))
    changed(page, lambda: page.select_option("#encoder", "learned"))
    page.focus("#beta")
    changed(page, lambda: page.keyboard.press("ArrowRight"))
    assert page.inner_text("#words").startswith("There is no optimum: the objective has no minimum")
    assert column(page, "path", "y") == []
    changed(page, lambda: page.keyboard.press("ArrowLeft"))
    assert_says(page, State(model="hvae", spectrum="data"))


def test_a_forged_state_is_refused_and_the_page_lives_on(page):
    forged = json.dumps({"request": 99, "state": {"dim": 10**9}, "dark": False})
    send = "text => { Bokeh.documents[0].get_model_by_name('state').data = {text: [text]} }"
    changed(page, lambda: page.evaluate(send, forged))
    assert re.match(r"This setting is refused: dim=1000000000 must", page.inner_text("#words"))
    page.focus("#beta")
    changed(page, lambda: page.keyboard.press("ArrowLeft"))
    assert_says(page, State(spectrum="data", beta=0.977))


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"request": 1e999}', f'{{"request": 1, "state": {{"beta": 1{"0" * 400}}}}}'],
    ids=["deep", "infinite", "huge"],
)
def test_what_is_no_state_is_refused(text):
    """By the session itself: no exception reaches the server, and the next request is answered."""
    document = Document()
    pages.page(State(), None)(document)
    wanted, said = (document.get_model_by_name(name) for name in ("state", "said"))
    wanted.data = {"text": [text]}
    (words,) = json.loads(said.data["text"][0])["words"]
    assert words.startswith("This setting is refused: ")
    asked = {"request": 2, "state": {"beta": 0.5}, "dark": False}
    wanted.data = {"text": [json.dumps(asked)]}
    assert json.loads(said.data["text"][0])["request"] == 2


def test_light_and_dark_are_accessible(page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    ink = "Bokeh.documents[0].get_model_by_name('spectrum').title.text_color"
    rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21aa", "best-practice"]}
    for scheme, colour in (("light", "#1b1c1e"), ("dark", "#e8e8e6")):
        if scheme == "dark":
            changed(page, lambda: page.emulate_media(color_scheme="dark"))
        assert page.evaluate(ink) == colour
        found = axe.run(page, options=rules)
        assert found.violations_count == 0, found.generate_report()


def test_labels_the_announcement_and_a_narrow_window(page):
    for control in (c for group in CONTROLS.values() for c in group):
        role = "combobox" if isinstance(control, Choice) else "slider"
        box = page.locator(f"#{control.name}")
        if box.is_visible():
            named = page.get_by_role(role, name=re.compile("^" + re.escape(control.label)))
            assert box.get_attribute("id") in [n.get_attribute("id") for n in named.all()]
    assert page.get_by_role("status").get_attribute("aria-live") == "polite"  # the one there is
    page.set_viewport_size({"width": 360, "height": 800})
    # the figures follow the width after a moment
    page.wait_for_function("() => document.documentElement.scrollWidth <= 360")
