"""Encoders of any framework as one function of NumPy arrays.

    encoder(target (n, d)[, condition (n, dx)]) -> mean (n, k), log-variance (n, k)

| what is given          | how it is called                                                  |
|------------------------|-------------------------------------------------------------------|
| function               | with NumPy arrays, as they are                                    |
| torch module           | with tensors of its type and device, without gradient, evaluating |
| model of pythae        | its `encoder`, on images of `model_config.input_dim`              |
| of torch.export        | the same, its `.module()`, as it was exported                     |
| file of TorchScript    | as a torch module, on the CPU                                     |
| file of ONNX           | with float32, where onnxruntime is installed                      |

Results: a pair, or an object with `embedding` and `log_covariance`, as those of pythae. Nothing is
unpickled here: a model that was saved that way is loaded by who trusts it, and given as an object.
A file of TorchScript is a program all the same, which can write files: run only those you trust.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from linvae.models.layers import evaluating
from linvae.models.script_file import load_script, one_line

__all__ = ["NetworkFunction", "as_arrays", "as_function", "load_network"]

NetworkFunction = Callable[..., Any]
SUFFIXES = {
    ".onnx": "ONNX",
    ".pt": "TorchScript",
    ".ts": "TorchScript",
    ".torchscript": "TorchScript",
}


def as_function(network: Any, name: str = "encoder") -> NetworkFunction:
    """`network`, of any kind in the module's table, as a function of NumPy arrays.

    Raises ValueError for what cannot be called, files of other kinds, and FileNotFoundError.
    """
    if isinstance(network, (str, Path)):
        return load_network(Path(network))
    if hasattr(network, "model_config") and isinstance(getattr(network, name, None), nn.Module):
        shape = tuple(network.model_config.input_dim) if name == "encoder" else None
        return _torch_function(getattr(network, name), shape)
    if isinstance(network, nn.Module):
        return _torch_function(network)
    if callable(network):
        return network  # type: ignore[no-any-return]
    raise ValueError(
        f"{name}={network!r} must be a function of a batch, a torch module, a model of pythae, or "
        "the path of a TorchScript or ONNX file"
    )


def load_network(path: Path) -> NetworkFunction:
    """The network of a TorchScript or ONNX file. Raises ValueError for files of other kinds."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: give the file of a saved network")
    kind = SUFFIXES.get(path.suffix.lower())
    if path.suffix.lower() == ".pt2":
        raise ValueError(
            f"{path} would be unpickled, which can run anything: load it yourself if you trust it "
            "and give torch.export.load(path).module() to linvae.diagnosis.diagnose, or save the "
            "encoder as ONNX or TorchScript"
        )
    if kind is None:
        raise ValueError(
            f"{path} must end in {', '.join(SUFFIXES)}: save the encoder with "
            "torch.jit.trace(encoder, batch).save(path), or load the model yourself and give the "
            "object (nothing is unpickled here)"
        )
    return _onnx_function(path) if kind == "ONNX" else _torch_function(load_script(path))


def _onnx_function(path: Path) -> NetworkFunction:
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(
            f"{path} needs onnxruntime, which is not installed: pip install onnxruntime, or save "
            "the encoder as TorchScript"
        ) from error
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # of the runtime, which has no common kind of its own
        raise ValueError(f"{path} is no ONNX file ({one_line(error)})") from error
    names = [argument.name for argument in session.get_inputs()]

    def run(*batch: Any) -> Any:
        if len(names) != len(batch):
            raise ValueError(
                f"{path} takes {len(names)} inputs ({', '.join(names)}) and {len(batch)} are "
                "given: an encoder takes the target, and the condition after it if there is one; "
                "a decoder the latents, and the condition"
            )
        given = {n: np.asarray(v, dtype=np.float32) for n, v in zip(names, batch, strict=True)}
        with _failing_on(batch, fixed=True):
            return session.run(None, given)

    return run


def _torch_function(network: nn.Module, shape: tuple[int, ...] | None = None) -> NetworkFunction:
    """`network` on tensors of the type and device of its first parameter, rows as `shape`."""
    like = next((p for p in network.parameters() if p.is_floating_point()), torch.zeros(()))
    has_modes = _has_modes(network)
    mode = evaluating if has_modes else nullcontext

    def run(*batch: Any) -> Any:
        tensors = [torch.tensor(np.asarray(v), device=like.device).to(like.dtype) for v in batch]
        if shape is not None:
            tensors[0] = tensors[0].reshape(-1, *shape)
        with torch.no_grad(), mode(network), _failing_on(batch, fixed=not has_modes):
            return as_arrays(network(*tensors))

    return run


def _has_modes(network: nn.Module) -> bool:
    """False for what torch.export made: it stays as it was exported."""
    try:
        network.train(network.training)
    except NotImplementedError:
        return False
    return True


@contextmanager
def _failing_on(batch: tuple[Any, ...], fixed: bool) -> Iterator[None]:
    """What a network, of perhaps a fixed batch, says of one that it cannot take, in one line."""
    try:
        yield
    except Exception as error:  # of any kind that a network raises
        shapes = " and ".join(str(np.shape(v)) for v in batch)
        export = ", or export it with a dynamic batch axis" if fixed else ""
        raise ValueError(
            f"the network cannot take a batch of shape {shapes} ({one_line(error)}): give data of "
            f"the shape that it was trained on, wrap it in a function that reshapes them{export}"
        ) from error


def as_arrays(output: Any) -> Any:
    """What a network returned: tensors as arrays, objects of pythae as their parts."""
    if hasattr(output, "embedding") and hasattr(output, "log_covariance"):
        output = output.embedding, output.log_covariance
    elif hasattr(output, "reconstruction"):
        output = output.reconstruction
    if isinstance(output, Tensor):
        return output.double().cpu().numpy()
    if isinstance(output, (tuple, list)):
        return tuple(as_arrays(part) for part in output)
    return output
