"""`python -m analysis.report_picture FOLDER`: docs/report.png, the numbered parts of a report.

Needs playwright and a Chromium. FOLDER holds the report.html of `linvae compare --quick`.
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path

PICTURE = Path(__file__).parents[1] / "docs" / "report.png"
COLOURS = 128  # a quarter of the bytes, and the eye does not see it
MARGIN = 40  # pixels for the numbers, left of the page
PARTS = (  # what docs/report.md says of them, in its order
    "header .quiet",
    "#verdict",
    ".verdicts li:nth-child(1)",
    ".verdicts li:nth-child(2)",
    ".verdicts li:nth-child(3)",
    "#table-thresholds",
    "#table-sure",
    "figcaption",
)


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    page, tops, end = photograph(parser.parse_args().folder / "report.html")
    draw(page, tops, end)


def photograph(report: Path) -> tuple[bytes, list[float], float]:
    """The page as PNG, where its parts begin, and where the first figure ends."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(viewport={"width": 1000, "height": 900}, color_scheme="light")
        page.goto(report.absolute().as_uri())
        boxes = [page.locator(part).first.bounding_box() for part in PARTS]
        figure = page.locator("figure").first.bounding_box()
        picture = page.screenshot(full_page=True)
        browser.close()
    assert figure is not None
    return picture, [box["y"] for box in boxes if box], figure["y"] + figure["height"]


def draw(page: bytes, tops: list[float], end: float) -> None:
    """The page down to its first figure, a number beside every part."""
    import matplotlib.image
    from matplotlib.figure import Figure
    from PIL import Image

    pixels = matplotlib.image.imread(io.BytesIO(page))[: int(end)]
    height, width = pixels.shape[:2]
    canvas = Figure(figsize=((width + MARGIN) / 100, height / 100), dpi=100, facecolor="#fcfcfb")
    axes = canvas.add_axes((0, 0, 1, 1))
    axes.imshow(pixels, extent=(MARGIN, MARGIN + width, height, 0), interpolation="none")
    axes.set(xlim=(0, MARGIN + width), ylim=(height, 0))
    axes.set_axis_off()
    for number, top in enumerate(tops, start=1):
        axes.text(
            MARGIN / 2 + 4, top + 16, str(number), color="white", weight="bold", size=12,
            ha="center", va="center", bbox={"boxstyle": "circle,pad=0.3", "fc": "#00548a", "lw": 0},
        )  # fmt: skip
    canvas.savefig(PICTURE, dpi=100)
    with Image.open(PICTURE) as drawn:
        drawn.quantize(COLOURS).save(PICTURE, optimize=True)


if __name__ == "__main__":
    main()
