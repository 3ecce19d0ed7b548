"""Networks saved as TorchScript: the one place that loads them.

A file of TorchScript is a program, which can write files: run only those you trust.
"""

from __future__ import annotations

from pathlib import Path

import torch

__all__ = ["load_script", "one_line"]


def load_script(path: Path, device: str = "cpu") -> torch.jit.ScriptModule:
    """The network of a file. Raises ValueError where it is no TorchScript."""
    try:
        return torch.jit.load(path, map_location=device)  # type: ignore[no-any-return, no-untyped-call]
    except Exception as error:  # of any kind: those of C++, translated
        raise ValueError(
            f"{path} is no TorchScript file, or a damaged one; weights or a pickled module are not "
            "enough (nothing is unpickled here): save it with torch.jit.trace(network, batch)"
            ".save(path), or load it yourself and give the object"
        ) from error


def one_line(error: Exception) -> str:
    """What an error says; TorchScript puts it below the traceback."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[-1] if "Traceback" in str(error) else lines[0]
