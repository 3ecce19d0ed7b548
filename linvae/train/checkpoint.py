"""Files that a run is continued from: what they hold, and when they are refused.

A run is a function of its identity: specification, networks, data, configuration, seeds, KL
weights, version of this package. Given the identity, everything that changes from step to step
(parameters, optimiser moments, orders of the samples, generators, KL weights, history) determines
the rest of it, so that a run that goes on from a file ends with the numbers of one that never
stopped: bit for bit on a CPU with the same number of threads.

A file is one safetensors archive, read without pickle. Its header holds identity and notes as JSON
and a sha256 of them and of all tensors. It is written under a temporary name, flushed to the disk
and renamed, so that under its own name there is a whole file at any moment, whichever process
stops; of two processes that write the same name the last one wins.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import secrets
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from linvae.models import StackedVAE
from linvae.train.data import TrainingData
from linvae.train.kl_weight import KLWeight
from linvae.version import __version__

if TYPE_CHECKING:
    from linvae.train.config import TrainConfig

__all__ = [
    "Checkpoint",
    "content_digest",
    "content_key",
    "member_identity",
    "optimizer_state",
    "read_file",
    "restore_optimizer",
    "stack_identity",
    "study_identity",
    "write_file",
]

Identity = dict[str, Any]
FORMAT = 1  # of the files; one more when their content changes its meaning
TRAINING = 4  # one more when the same arguments train to other numbers
SHARE = 0.02  # of the time, at most, goes into checkpoints written by the clock
STALE_SECONDS = 3600.0  # after which a temporary file belongs to a process that was killed


@dataclass(frozen=True)
class Checkpoint:
    """Where the state of a run is kept, and how often it is written.

    Every `every_seconds`, but never so often that writing takes more than 2 % of the time; where
    `every_steps` is given, after that many steps instead. A run that ends writes its last state
    too; training again with the same arguments then returns its result at once. A file has three
    times the bytes of the parameters with Adam, twice with SGD; most of the time it takes is its
    sha256 (16 members of 784-512-32: 164 MB, 1 s of one core).
    """

    path: Path
    every_seconds: float = 30.0
    every_steps: int | None = None

    def __post_init__(self) -> None:
        """Refuse a rhythm that is none."""
        object.__setattr__(self, "path", Path(self.path))
        if not self.every_seconds >= 0:
            raise ValueError(f"every_seconds={self.every_seconds!r} must be >= 0 in Checkpoint")
        if self.every_steps is not None and self.every_steps < 1:
            raise ValueError(
                f"every_steps={self.every_steps!r} must be an integer >= 1 or None in Checkpoint"
            )

    def due(self, steps: int, seconds: float, last_write_seconds: float) -> bool:
        """Whether to write, `steps` and `seconds` after the last time."""
        if self.every_steps is not None:
            return steps >= self.every_steps
        return seconds >= max(self.every_seconds, last_write_seconds / SHARE)

    def write(
        self, identity: Identity, tensors: Mapping[str, Tensor], notes: dict[str, Any]
    ) -> float:
        """Write the state of the run `identity`, and return the seconds it took."""
        start = time.perf_counter()
        write_file(self.path, "checkpoint", identity, tensors, notes)
        return time.perf_counter() - start

    def read(self, identity: Identity) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and notes of the run `identity`, None where there is no file.

        Raises ValueError for a file that cannot be read or belongs to another run or version, and
        OSError where none could be written: both before the first step, never after an hour.
        """
        check_folder(self.path.parent)
        try:
            tensors, header = read_file(self.path, "checkpoint")
        except FileNotFoundError:
            return None
        check_identity(self.path, header["identity"], identity)
        return tensors, header["notes"]

    def remove(self) -> None:
        """Delete the file, if there is one."""
        self.path.unlink(missing_ok=True)


def study_identity(
    model: StackedVAE,
    data: TrainingData,
    config: TrainConfig,
    validation: TrainingData | None = None,
) -> Identity:
    """What all members of a study share; a member adds its seed and the setting of its KL weight.

    Not in it: device, and what else is in the stack, for neither should change a result; but masks
    of dropout are drawn where they are used, on a GPU others than on a CPU.
    """
    spec: Any = model.spec  # a dataclass of any kind
    return {
        "format": FORMAT,
        "linvae": __version__,
        "training": TRAINING,
        "network": type(model).__name__,
        "spec": {"kind": type(model.spec).__name__} | dataclasses.asdict(spec),
        "architecture": dataclasses.asdict(model.architecture),
        "data_sha256": data.sha256,
        "config": dataclasses.asdict(config),
    } | ({} if validation is None else {"validation_sha256": validation.sha256})


def member_identity(
    study: Identity,
    seed: int,
    setting: dict[str, object],
    start: Mapping[str, Tensor] | None = None,
) -> Identity:
    """The identity of one member: its study, its seed and what sets its KL weight.

    `start`: the parameters it starts from, where its seed alone does not say.
    """
    own: Identity = {} if start is None else {"start_sha256": content_digest(start)}
    return study | {"seed": seed, "kl_weight": setting} | own


def stack_identity(study: Identity, model: StackedVAE, kl_weight: KLWeight) -> Identity:
    """The identity of a run: its study, seeds, KL weights, and the parameters it starts from."""
    settings = [kl_weight.setting(point) for point in range(model.n_points)]
    identity = study | {
        "seeds": list(model.seeds),
        "kl_weights": settings,
        "start_sha256": content_digest(model.state_dict()),
    }
    return _as_json(identity)


def content_key(identity: Identity) -> str:
    """sha256 of the canonical JSON of an identity."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def optimizer_state(model: StackedVAE, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's moments and step counts of every parameter that has a gradient."""
    return {
        f"{name}.{moment}": value
        for name, parameter in model.named_parameters()
        for moment, value in optimizer.state.get(parameter, {}).items()
    }


def restore_optimizer(
    model: StackedVAE, optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]
) -> None:
    """Put what `optimizer_state` gave back in its place."""
    parameters = dict(model.named_parameters())
    for key, value in state.items():
        name, _, moment = key.rpartition(".")
        parameter = parameters[name]
        optimizer.state[parameter][moment] = value.to(parameter.device)


def write_file(
    path: Path,
    kind: str,
    identity: Identity,
    tensors: Mapping[str, Tensor],
    notes: dict[str, Any],
) -> None:
    """Write one safetensors file so that `path` is the old file or the new one at any moment.

    Raises OSError where the folder cannot be written or the disk is full; the old file stays.
    """
    contents = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    header = json.dumps({"format": FORMAT, "kind": kind, "identity": identity, "notes": notes})
    metadata = {"linvae": header, "sha256": content_digest(contents, header)}
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        save_file(contents, temporary, metadata)
        _flush(temporary)
        os.replace(temporary, path)
        if os.name == "posix":  # the new name itself; elsewhere folders cannot be opened
            _flush(path.parent)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"{kind} {path} could not be written ({error}): free space on that disk or make the "
            "folder writable, then start again; what was written before is untouched"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    remove_stale(path.parent, path.name)


def read_file(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors, and header with its identity and notes; the sha256 is checked.

    Raises FileNotFoundError, or ValueError for anything but a whole file of this kind and format.
    """
    with _opened(path, kind) as file:
        text, sha256, header = _header(path, kind, file.metadata())
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    if content_digest(tensors, text) != sha256:
        raise _unreadable(path, kind, "its sha256 is not the one in its header")
    return tensors, header


def read_header(path: Path, kind: str) -> dict[str, Any]:
    """The header alone, unchecked but for kind and format; errors as in `read_file`."""
    with _opened(path, kind) as file:
        return _header(path, kind, file.metadata())[2]


def check_folder(folder: Path) -> None:
    """Make the folder if it is missing; OSError where nothing can be written into it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"nothing can be written into {folder} ({error}): make it writable or give another "
            "folder"
        ) from error


def check_identity(path: Path, found: Identity, wanted: Identity) -> None:
    """ValueError that names every field in which two runs differ."""
    check_version(path, found, wanted)
    differences = list(_differences(found, wanted))
    if differences:
        raise ValueError(
            f"checkpoint {path} belongs to another run: {'; '.join(differences)}; give another "
            "path, or delete the file to start from the beginning"
        )


def check_version(path: Path, found: Identity, wanted: Identity) -> None:
    """ValueError where another version of linvae wrote the file."""
    theirs, ours = found["linvae"], wanted["linvae"]
    if theirs == ours:  # while it is developed the numbers of one version may change
        theirs, ours = (f"{i['linvae']}, training {i.get('training', 1)}" for i in (found, wanted))
    if theirs != ours:
        raise ValueError(
            f"checkpoint {path} was written by linvae {theirs} and this is linvae {ours}, whose "
            f"numbers may differ: finish the run with linvae {theirs}, or delete the file to start "
            "from the beginning"
        )


def _differences(found: Identity, wanted: Identity, prefix: str = "") -> Iterator[str]:
    for name in sorted(found.keys() | wanted.keys()):
        a, b = found.get(name), wanted.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from _differences(a, b, f"{prefix}{name}.")
        elif a != b:
            yield f"{prefix}{name} is {a} in the file and {b} here"


def _opened(path: Path, kind: str) -> Any:
    """The open archive; what is no safetensors file is refused here."""
    if path.is_dir():
        raise _unreadable(path, kind, "it is a folder")
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise _unreadable(path, kind, str(error)) from error


def _header(
    path: Path, kind: str, metadata: dict[str, str] | None
) -> tuple[str, str, dict[str, Any]]:
    """Text, sha256 and content of the header; ValueError where it is not linvae's or this kind."""
    try:
        text, sha256 = (metadata or {})["linvae"], (metadata or {})["sha256"]
        header = json.loads(text)
        form, found = header["format"], header["kind"]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise _unreadable(path, kind, "its header was not written by linvae") from error
    if form != FORMAT:
        raise ValueError(
            f"{found} {path} has format {form} and this linvae {__version__} reads format "
            f"{FORMAT}: finish the run with the version that wrote it, or delete the file to "
            "start from the beginning"
        )
    if found != kind:
        raise _unreadable(path, kind, f"it is a {found}")
    identity = header.get("identity")
    if not (isinstance(identity, dict) and "linvae" in identity and "notes" in header):
        raise _unreadable(path, kind, "its header lacks the identity of the run, or its notes")
    return text, sha256, header


def _unreadable(path: Path, kind: str, why: str) -> ValueError:
    return ValueError(
        f"{kind} {path} cannot be read ({why}): it is cut short, damaged or no {kind} of linvae; "
        "put a copy of it back, or delete it to train from the beginning"
    )


def content_digest(tensors: Mapping[str, Tensor], header: str = "") -> str:
    """sha256 of names, types, shapes and values, after that of `header`."""
    digest = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(_bytes(value))
    return digest.hexdigest()


def _bytes(values: Tensor) -> memoryview:
    flat = values.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def _flush(path: Path) -> None:
    """Have the system write the file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_stale(folder: Path, name: str) -> None:
    """Delete what killed processes left of writing files of that name, which may have wildcards."""
    for left in folder.glob(f"{name}.*.part"):
        try:
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                left.unlink()
        except FileNotFoundError:  # another process was faster
            continue


def _as_json(identity: Identity) -> Identity:
    """As it comes back from a file: tuples are lists."""
    value: Identity = json.loads(json.dumps(identity))
    return value
