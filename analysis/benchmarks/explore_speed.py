"""Speed of one change in the explorer; writes explore_speed.json.

    python analysis/benchmarks/explore_speed.py [--out FILE] [--changes N]

784 dimensions, the default grid, one step of the slider of beta; medians and largest, milliseconds.

| value    | from                   | to                                                           |
|----------|------------------------|--------------------------------------------------------------|
| callback | message of the page    | everything of the answer is set, no browser running          |
| cpu      | the same               | the same, processor time: other work on the machine left out |
| server   | the same               | the same, while Chromium draws                               |
| browser  | the slider's event     | the frame that has the answer: headless Chromium, no GPU     |

Threads of the linear algebra: OMP_NUM_THREADS.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from bokeh.document import Document

from linvae import Moments
from linvae.explorer.page import page
from linvae.explorer.source import Source
from linvae.explorer.state import State, preset

SETTINGS: dict[str, dict[str, str]] = {
    "vae": {"model": "vae"},
    "vae fixed": {"model": "vae", "encoder": "fixed"},
    "cvae": {"model": "cvae"},
    "hvae": {"model": "hvae"},
}
WIDEST = {"latent_dim": 32, "latent_dim_2": 32}
# one step of the slider of beta, and the time until the answer is on the screen
CHANGE = """() => new Promise(done => {
  const beta = document.getElementById("beta");
  const said = Bokeh.documents[0].get_model_by_name("said");
  const begin = performance.now();
  const seen = () => {
    said.properties.data.change.disconnect(seen);
    const server = JSON.parse(said.get_column("text")[0]).milliseconds;
    // after the frame that paints what came before
    requestAnimationFrame(() => setTimeout(() => done([server, performance.now() - begin])));
  };
  said.properties.data.change.connect(seen);
  if (Number(beta.value) > 0.5) beta.value = -1;
  beta.stepUp();
  beta.dispatchEvent(new Event("input", { bubbles: true }));
})"""


def summary(values: list[float]) -> dict[str, float]:
    """Median and largest, two decimals."""
    return {"median_ms": round(statistics.median(values), 2), "largest_ms": round(max(values), 2)}


def measure(opened: Any, changes: int) -> dict[str, Any]:
    """Server's and browser's time of so many steps, the first three left out."""
    times = [opened.evaluate(CHANGE) for _ in range(changes + 3)][3:]
    server, browser = zip(*times, strict=True)
    return {"server": summary(list(server)), "browser": summary(list(browser))}


def callbacks(data: np.ndarray, changes: int) -> dict[str, Any]:
    """The callback of the server in this process: wall and processor time."""
    source = Source.of("data", Moments.from_data(data))
    result = {}
    for name, fields in SETTINGS.items():
        state = State(spectrum="data", **(preset(fields["model"]) | fields))
        document = Document()
        page(state, source)(document)
        wanted = document.get_model_by_name("state")
        wall, cpu = [], []
        for i in range(changes + 3):
            new = dataclasses.asdict(state) | {"beta": 0.5 * 1.02**i}
            text = json.dumps({"request": i, "state": new, "dark": False})
            begin = time.perf_counter(), time.process_time()
            wanted.data = {"text": [text]}
            wall.append(1e3 * (time.perf_counter() - begin[0]))
            cpu.append(1e3 * (time.process_time() - begin[1]))
        result[name] = {"callback": summary(wall[3:]), "cpu": summary(cpu[3:])}
    return result


def choose(opened: Any, fields: dict[str, str]) -> None:
    """Set selects and sliders, and wait for the answer to each."""
    for name, value in fields.items():
        opened.evaluate("delete document.documentElement.dataset.answered")
        opened.evaluate(
            "([id, value]) => { const field = document.getElementById(id); field.value = value;"
            " field.dispatchEvent(new Event('input', { bubbles: true })) }",
            [name, str(value)],
        )
        opened.wait_for_selector("html[data-answered]")


def in_browser(url: str, changes: int) -> dict[str, Any]:
    """All settings, with 8 units a level, and the widest hierarchy."""
    from playwright.sync_api import sync_playwright

    found = next(path for name in ("chromium", "google-chrome") if (path := shutil.which(name)))
    result: dict[str, Any] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--disable-gpu"])
        opened = browser.new_page()
        opened.goto(url)
        opened.wait_for_selector("html[data-answered]")
        for name, fields in SETTINGS.items():
            choose(opened, {"encoder": "learned"} | fields)
            result[name] = measure(opened, changes)
        choose(opened, {name: str(width) for name, width in WIDEST.items()})
        result["hvae, 32 and 32 units"] = measure(opened, changes)
        browser.close()
    return result


def main() -> None:
    """Serve, measure, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--changes", type=int, default=30)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        data = rng.normal(size=(2000, 784)) * np.geomspace(3, 1e-3, 784)
        np.save(f"{folder}/data.npy", data.astype(np.float32))
        command = [sys.executable, "-m", "linvae.explore", "--no-browser"]
        command += ["--data", f"{folder}/data.npy"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        try:
            drawn = in_browser(server.stdout.readline().split()[0], args.changes)
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(60)
    set_here = callbacks(data, args.changes)
    result: dict[str, Any] = {name: set_here.get(name, {}) | times for name, times in drawn.items()}
    result["threads"] = os.environ.get("OMP_NUM_THREADS", "all")
    result["load_average"] = os.getloadavg()[0]
    result["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, numpy {np.__version__}"
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
