"""The image table: its page is made of its rows, and says what they say."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from analysis.latent_reconstruction import (
    DOCS,
    REMEDIES,
    Parts,
    Setting,
    _taken,
    rows,
    trained,
)
from analysis.latent_reconstruction_page import NAMES, best, page, predicted_share, table, verdict
from linvae.data import load_dataset
from linvae.metrics import inception_space, sample_quality
from linvae.metrics.samples import Pictures
from linvae.models import Architecture
from linvae.train import TrainConfig

ROWS = DOCS.parents[1] / "analysis" / "latent_reconstruction.json"


def row(remedy, seed, **numbers):
    plain = {"active_share": 0.25, "kl": 2.0, "mi": 1.0, "nll": 100.0, "distortion": 98.0}
    place = {"data": "d", "preset": "small", "beta": 0.1, "blown_up_nats": None}
    return place | plain | {"remedy": remedy, "seed": seed} | numbers


MADE = [
    row("vae", 0), row("vae", 1, active_share=0.5),
    row("lr 1", 0, active_share=1.0, mi=1.5, nll=103.0), row("lr 1", 1, mi=1.0, nll=101.0),
]  # fmt: skip


def test_every_remedy_has_a_name():
    assert set(NAMES) == set(REMEDIES)


def test_table_has_means_ranges_predictions_and_blow_ups():
    theory = [{"remedy": "vae", "beta": 0.1, "active_share": 0.75}]
    rows = [*MADE[:3], row("lr 1", 1, blown_up_nats=1e9, nll=None)]
    lines = table(rows, theory).splitlines()
    assert lines[0].startswith("| remedy | active units | KL | MI | NLL | distortion |")
    assert lines[2].startswith("| VAE | 0.38 (0.25 to 0.50) [0.75] | 2.00 | 1.00 | 100.0 |")
    assert lines[3].startswith("| LR, alpha 1 (1 of 2 blew up) | 1.00 | 2.00 |")
    assert "103.0" in lines[3]  # of the seed that did not
    assert predicted_share(theory, "lr 1", 0.1) == ""


def test_verdict_goes_seed_by_seed():
    text = verdict(MADE)
    assert "0.38 of the units of the VAE are active, 0.62 with LR" in text
    assert "information by +0.25 (+0.00 to +0.50) nats" in text
    assert "NLL by +2.00 (+1.00 to +3.00)" in text
    assert text.endswith("The lowest NLL is that of VAE, 100.0.")
    assert verdict(MADE[:2]) == ""


def test_a_row_without_a_likelihood_is_never_the_best():
    assert "VAE" in best([*MADE[:2], row("skip", 0, nll=None), row("skip", 1, nll=1.0)])


class Brightness(torch.nn.Module):
    """In place of Inception: of the upper half of an image and of the lower one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.double().mean((1, 3))
        half = rows.shape[1] // 2
        return torch.stack([rows[:, :half].mean(1), rows[:, half:].mean(1)], 1)


def test_a_file_of_inception_adds_its_distances(tmp_path):
    """Those of `sample_quality` in its space; nothing else of the row changes."""
    digits = load_dataset("digits").subset(160, seed=0)
    config = TrainConfig(steps=5, batch_size=32)
    setting = Setting(Architecture("mlp", hidden=4), 2, config, None)
    first, second = (_taken(digits, np.arange(n, n + 80)) for n in (0, 80))
    parts = Parts("digits", setting, first, second, (1e3,))
    result = trained(parts, "vae", [0], None)
    file = tmp_path / "brightness.pt"
    torch.jit.script(Brightness()).save(file)
    (plain,), (found,) = (list(rows(parts, "vae", result, "small", at)) for at in (None, file))
    assert found | plain == found
    assert set(found) - set(plain) == {"fid", "kid"}
    pictures = Pictures.of(result.model, second, trained_on=first)
    quality = sample_quality(pictures, inception_space(file, (0.0, 1.0)))
    assert found["fid"] == pytest.approx(quality.frechet_distance[0, 0], abs=1e-5)
    assert found["kid"] == pytest.approx(quality.kernel_distance[0, 0], abs=1e-5)
    text = table([found], [])
    assert "| FID | KID |" in text
    assert "FID" not in table([plain], [])


@pytest.mark.skipif(not ROWS.exists(), reason="no rows yet")
def test_page_is_that_of_the_rows():
    document = json.loads(ROWS.read_text(encoding="utf-8"))
    assert DOCS.read_text(encoding="utf-8") == page(document)
    presets = {r["preset"] for r in document["rows"] if r["data"] == "fashion-mnist"}
    assert {"small", "deep", "deep-fast"} <= presets
