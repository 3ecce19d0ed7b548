"""Text models through a folder and back, and folders that are none."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from linvae.models import saved
from linvae.models.recurrent import SequenceSizes, StackedLanguageModel, StackedTextVAE
from linvae.models.saved import load_text_model, save_text_model
from linvae.spec import VAESpec

from .test_decoding import KINDS, text_model

SPEC = VAESpec(2, beta=0.1, prior_variance=1.5, likelihood="multinomial")


@dataclass(frozen=True)
class Vocabulary:
    words: tuple[str, ...] = ("<s>", "</s>", "<unk>", "naïve\u2028 words\r")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_round_trip_is_exact(kind, dtype, tmp_path):
    """Every parameter and buffer, their types, all settings and words; a second save replaces."""
    model = text_model(kind).to(dtype)
    model.decoder.dropout_in.calls.fill_(7)
    folder = tmp_path / "runs" / "model"
    save_text_model(folder, StackedTextVAE(SPEC, vocabulary=4), Vocabulary())
    save_text_model(folder, model.train(), Vocabulary())
    found, words = load_text_model(folder)
    assert words == Vocabulary().words
    assert type(found) is type(model)
    for name in ("spec", "sizes", "vocabulary", "seeds", "n_points"):
        assert getattr(found, name) == getattr(model, name)
    expected = model.state_dict()
    assert found.state_dict().keys() == expected.keys()
    for name, value in found.state_dict().items():
        assert value.dtype == expected[name].dtype
        assert torch.equal(value, expected[name]), name
    assert not any(module.training for module in found.modules())
    assert all(parameter.requires_grad for parameter in found.parameters())
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        (saved.MODEL, saved.STATE, saved.VOCABULARY)
    )


def test_loaded_model_says_the_same(tmp_path):
    model = text_model()
    save_text_model(tmp_path, model, Vocabulary())
    found = load_text_model(tmp_path)[0]
    tokens = torch.tensor([[[0, 3, 2, 1]], [[0, 2, 2, 1]]])
    noise = [torch.ones(2, 1, 2, dtype=torch.float64)]
    assert torch.equal(found(tokens, None, noise).distortion, model(tokens, None, noise).distortion)


def test_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    """No part of a file is ever under its name; a folder of two models does not load."""
    save_text_model(tmp_path, text_model(), Vocabulary())
    before = (tmp_path / saved.MODEL).read_bytes()
    replace = os.replace

    def interrupted(source: str, target: Path) -> None:
        if target.name == saved.MODEL:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_text_model(tmp_path, text_model("language-model"), Vocabulary())
    assert (tmp_path / saved.MODEL).read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 3
    with pytest.raises(ValueError, match=r"state\.safetensors is damaged or not of this model"):
        load_text_model(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    save_text_model(folder, text_model(), Vocabulary())
    return folder


def edited(folder: Path, **changes: object) -> None:
    """Another description, with a sha256 that fits."""
    path = folder / saved.MODEL
    description = json.loads(path.read_text()) | changes
    del description["own_sha256"]
    own = hashlib.sha256(json.dumps(description).encode()).hexdigest()
    path.write_text(json.dumps(description | {"own_sha256": own}))


def test_a_model_without_a_sha256_of_its_description_is_read(whole, tmp_path):
    """Format 1; its other two files have theirs."""
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    description = json.loads((folder / saved.MODEL).read_text()) | {"format": 1}
    with pytest.raises(ValueError, match=r"model\.json is damaged"):
        (folder / saved.MODEL).write_text(json.dumps(description))
        load_text_model(folder)
    del description["own_sha256"]
    (folder / saved.MODEL).write_text(json.dumps(description))
    found, expected = (load_text_model(path)[0].state_dict() for path in (folder, whole))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    cut(folder / saved.STATE)
    with pytest.raises(ValueError, match=r"state\.safetensors is damaged"):
        load_text_model(folder)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGE = {
    "cut-state": (lambda f: cut(f / saved.STATE), r"state\.safetensors is damaged .*sha256"),
    "other-words": (
        lambda f: (f / saved.VOCABULARY).write_text("a\nb\n"),
        r"vocabulary\.txt is damaged .*its sha256 is not the one in model\.json",
    ),
    "no-json": (lambda f: (f / saved.MODEL).write_text("{"), "it is no JSON with a format"),
    "no-object": (lambda f: (f / saved.MODEL).write_text("[1]"), "it is no JSON with a format"),
    "no-sha256": (lambda f: (f / saved.MODEL).write_text('{"format": 2}'), "its sha256 is not the"),
    "format": (lambda f: edited(f, format=3), "has format 3 and this linvae reads formats 1 and 2"),
    "kind": (lambda f: edited(f, kind="gru"), "model of kind 'gru', this linvae knows vae"),
    "seeds": (lambda f: edited(f, seeds=[1]), "it does not describe .*size mismatch"),
    "language-model": (
        lambda f: edited(f, kind="language-model"),
        "it does not describe .*Unexpected key",
    ),
}


@pytest.mark.parametrize("case", DAMAGE.values(), ids=DAMAGE.keys())
def test_damaged_folder(case, whole, tmp_path):
    damage, message = case
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    damage(folder)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        load_text_model(folder)


@pytest.mark.parametrize("name", [saved.MODEL, saved.STATE, saved.VOCABULARY])
def test_missing_file(name, whole, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"is no saved text model: .*{name} is missing"):
        load_text_model(folder)


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere is no saved text model"):
        load_text_model(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a", "b"), "the vocabulary has 2 words and the model 4 tokens"),
        (("a", "b", "c", "d\ne"), r"words\[3\]='d\\ne' has a line break"),
    ],
)
def test_vocabulary_of_another_model(words, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        save_text_model(tmp_path, text_model(), Vocabulary(words))
    assert not list(tmp_path.iterdir())


def test_sizes_are_those_of_the_model(tmp_path):
    """Every field of the sizes comes back, the dropout rate too."""
    sizes = SequenceSizes(embedding=5, hidden=6, dropout=0.25)
    model = StackedLanguageModel(SPEC, vocabulary=4, sizes=sizes, seeds=(4, 2), n_points=3)
    save_text_model(tmp_path, model, Vocabulary())
    found = load_text_model(tmp_path)[0]
    assert found.sizes == sizes
    assert found.seeds == (4, 2)
    assert [d.rate for d in (found.decoder.dropout_in, found.decoder.dropout_out)] == [0.25, 0.25]
