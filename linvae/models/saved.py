"""A trained text model as a folder: what it is, its parameters and its words.

| file                | content                                                          |
|---------------------|------------------------------------------------------------------|
| `model.json`        | format, kind, spec, sizes, seeds, points, sha256 of all three     |
| `state.safetensors` | parameters and buffers of all members, no pickle                 |
| `vocabulary.txt`    | one word per line, UTF-8; line k + 1 is token k                  |

`model.json` is written last: a folder that was left half written, or whose files are not of one
model, does not load.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from linvae.comparison import write_bytes
from linvae.models.recurrent import SequenceSizes, StackedLanguageModel, StackedTextVAE
from linvae.spec import VAESpec

__all__ = ["Words", "load_text_model", "save_text_model"]

FORMATS = (1, 2)  # 1, which is read only, has no sha256 of model.json itself
MODEL, STATE, VOCABULARY = "model.json", "state.safetensors", "vocabulary.txt"
KINDS: Mapping[str, type[StackedTextVAE] | type[StackedLanguageModel]] = {
    "vae": StackedTextVAE,
    "language-model": StackedLanguageModel,
}


class Words(Protocol):
    """What is saved of a vocabulary."""

    @property
    def words(self) -> tuple[str, ...]:
        """The word of every token."""


def save_text_model(
    folder: Path, model: StackedTextVAE | StackedLanguageModel, vocabulary: Words
) -> None:
    """Write `model` and its words into `folder`, which is made; every file at once or not at all.

    Raises ValueError for a vocabulary of another size or a word with a line break, OSError where
    the folder cannot be written.
    """
    words = vocabulary.words
    _check_words(words, model.vocabulary)
    tensors = {name: v.detach().cpu().contiguous() for name, v in model.state_dict().items()}
    files = {
        STATE: save(tensors),
        VOCABULARY: "".join(f"{word}\n" for word in words).encode(),
    }
    description = _description(model) | {"sha256": {n: _sha256(v) for n, v in files.items()}}
    description["own_sha256"] = _sha256(json.dumps(description).encode())
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_bytes(folder / name, content)
    write_bytes(folder / MODEL, (json.dumps(description, indent=2) + "\n").encode())


def load_text_model(
    folder: Path,
) -> tuple[StackedTextVAE | StackedLanguageModel, tuple[str, ...]]:
    """The model that `save_text_model` wrote, on the CPU and in `eval()`, and its words.

    Bit for bit the one that was saved. Raises FileNotFoundError where a file is missing, ValueError
    for another format and for damaged files.
    """
    try:
        files = {name: (folder / name).read_bytes() for name in (MODEL, STATE, VOCABULARY)}
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(
            f"{folder} is no saved text model: {error.filename} is missing; give the --out folder "
            "of `linvae text train`, or another that save_text_model wrote"
        ) from error
    description = _read_description(folder, files[MODEL])
    for name, sha256 in description["sha256"].items():
        if _sha256(files[name]) != sha256:
            raise _damaged(folder / name, f"its sha256 is not the one in {MODEL}")
    words = tuple(files[VOCABULARY].decode().split("\n")[:-1])
    try:
        state = load(files[STATE])
    except SafetensorError as error:
        raise _damaged(folder / STATE, str(error)) from error
    model = _built(folder, description, state)
    _check_words(words, model.vocabulary)
    return model, words


def _description(model: StackedTextVAE | StackedLanguageModel) -> dict[str, Any]:
    (kind,) = (kind for kind, made in KINDS.items() if type(model) is made)
    return {
        "format": FORMATS[-1],
        "kind": kind,
        "spec": dataclasses.asdict(model.spec),
        "vocabulary": model.vocabulary,
        "sizes": dataclasses.asdict(model.sizes),
        "seeds": list(model.seeds),
        "n_points": model.n_points,
    }


def _read_description(folder: Path, content: bytes) -> dict[str, Any]:
    """What `model.json` says, of this format."""
    try:
        description: dict[str, Any] = json.loads(content)
        found = description["format"]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _damaged(folder / MODEL, "it is no JSON with a format") from error
    if found not in FORMATS:
        raise ValueError(
            f"{folder} has format {found} and this linvae reads formats 1 and 2: load it with the "
            "version that wrote it, or train again"
        )
    own = description.pop("own_sha256", "")
    if (found != 1 or own) and _sha256(json.dumps(description).encode()) != own:
        raise _damaged(folder / MODEL, "its sha256 is not the one in it")
    sha256 = description.get("sha256")
    if not isinstance(sha256, dict) or set(sha256) != {STATE, VOCABULARY}:
        raise _damaged(folder / MODEL, f"it has no sha256 of {STATE} and {VOCABULARY}")
    return description


def _built(
    folder: Path, description: dict[str, Any], state: dict[str, Tensor]
) -> StackedTextVAE | StackedLanguageModel:
    """The model with this state, whose tensors become its own: any type is kept."""
    if description.get("kind") not in tuple(KINDS):  # also of what has no hash
        raise ValueError(
            f"{folder} has a model of kind {description.get('kind')!r}, this linvae knows "
            f"{', '.join(KINDS)}: load it with the version that wrote it"
        )
    try:
        with torch.device("meta"):  # shapes alone: the file may declare more than it holds
            model = KINDS[description["kind"]](
                VAESpec(**description["spec"]),
                vocabulary=description["vocabulary"],
                sizes=SequenceSizes(**description["sizes"]),
                seeds=description["seeds"],
                n_points=description["n_points"],
            )
        nn.Module.load_state_dict(model, state, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _damaged(folder / MODEL, f"it does not describe {STATE}: {error}") from error
    return model.eval()


def _check_words(words: tuple[str, ...], size: int) -> None:
    if len(words) != size:
        raise ValueError(
            f"the vocabulary has {len(words)} words and the model {size} tokens: give the one it "
            "was trained with"
        )
    for k, word in enumerate(words):
        if "\n" in word:
            raise ValueError(f"words[{k}]={word!r} has a line break: {VOCABULARY} has one per line")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(
        f"{path} is damaged or not of this model ({why}): put a copy of the folder back, or save "
        "the model again"
    )
