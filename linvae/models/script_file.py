"""Networks saved as TorchScript: the one place that loads them.

A file of TorchScript is a program, which can write files: run only those you trust.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch

from linvae.data.files import unpacked_limit

__all__ = ["load_script", "one_line"]


def load_script(path: Path, device: str = "cpu") -> torch.jit.ScriptModule:
    """The network of a file. Raises ValueError where it is no TorchScript."""
    try:
        _check_sizes(path)
        return torch.jit.load(path, map_location=device)  # type: ignore[no-any-return, no-untyped-call]
    except Exception as error:  # of any kind: those of C++, translated
        raise ValueError(
            f"{path} is no TorchScript file, or a damaged one; weights or a pickled module are not "
            "enough (nothing is unpickled here): save it with torch.jit.trace(network, batch)"
            ".save(path), or load it yourself and give the object"
        ) from error


def _check_sizes(path: Path) -> None:
    """Refuse an archive whose members declare more than it can hold: torch would allocate it."""
    with zipfile.ZipFile(path) as archive:
        declared = sum(member.file_size for member in archive.infolist())
    if declared > unpacked_limit(path):
        raise ValueError(f"{path} declares {declared} bytes")


def one_line(error: Exception) -> str:
    """What an error says; TorchScript puts it below the traceback."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1] if "Traceback" in str(error) else lines[0]
