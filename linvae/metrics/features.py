"""Feature spaces in which sets of images are compared, each with a name that says what it is.

| space             | features of an image                                                      |
|-------------------|---------------------------------------------------------------------------|
| `pixel_space`     | its coordinates along the principal axes of the images                    |
| `trained_space`   | last hidden layer of a small network trained on the images themselves      |
| `inception_space` | what a TorchScript file gives for it, for weights the user has             |

The first two are scaled to a mean variance of 1 per unit and centred, on the images given; numbers
of different spaces cannot be compared. Those of a file are as they come, so that with the published
Inception weights the Fréchet distance is the FID of these images and the kernel distance their KID.

`trained_space` classifies by the labels where there are any: integers (n,), or attributes (n, k) of
0 and 1. Without labels it is an autoencoder with a linear decoder, whose features say what of an
image a squared error sees, which favours models that were trained on one.

Sources: Heusel et al. 2017, Bińkowski et al. 2018 (Inception); features of a classifier trained on
the set itself are used where ImageNet's mean nothing, as for digits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from linvae.data.sheet import as_bytes
from linvae.models import Architecture
from linvae.models.blocks import Network, image_encoder
from linvae.models.script_file import load_script
from linvae.train.data import BatchOrder, stream

__all__ = ["FeatureSpace", "inception_space", "pixel_space", "trained_space"]

Array = npt.NDArray[np.float64]
Images = npt.NDArray[np.float32]
Labels = npt.NDArray[Any]
HELD_OUT = 5  # every fifth image judges the trained network
BATCH, CHUNK = 64, 256


@dataclass(frozen=True, eq=False)
class FeatureSpace:
    """`features`: images (n, H, W, C) in data units -> (n, units), float64; `name`: what they are.

    `held_out`: share of held-out images that its network classifies right, or of their variance
    that it reconstructs; NaN for a space without one.
    """

    name: str
    features: Callable[[Images], Array]
    held_out: float = float("nan")


def pixel_space(images: Images, *, units: int = 32, seed: int = 0) -> FeatureSpace:
    """Principal components of the pixels of images (n, H, W, C)."""
    from sklearn.decomposition import PCA

    flat = images.reshape(len(images), -1).astype(np.float64)
    units = min(units, len(flat) - 1, flat.shape[1])
    fitted = PCA(units, random_state=seed).fit(flat)
    share = fitted.explained_variance_ratio_.sum()
    name = f"first {units} principal components of the pixels, {share:.2f} of their variance"

    def along_axes(some: Images) -> Array:  # PCA.transform would refuse what a diverged model makes
        return np.asarray(some.reshape(len(some), -1) @ fitted.components_.T)

    return _standard(name, along_axes, images)


def trained_space(
    images: Images,
    labels: Labels | None,
    *,
    dataset: str,
    units: int = 64,
    steps: int = 300,
    seed: int = 0,
) -> FeatureSpace:
    """Hidden units of a convolutional network trained on four fifths of images (n, H, W, C).

    `dataset`: its name, for the space's own. Raises ValueError for labels of another form.
    """
    pixels = _Pixels(float(images.mean()), float(images.std()))
    inputs = pixels(images)
    task = _autoencoding(inputs) if labels is None else _classification(labels)
    network = image_encoder(
        stream("feature network", seed),
        Architecture("conv", hidden=units),
        images.shape[1:],
        task.outputs,
    )
    test = torch.arange(len(inputs)) % HELD_OUT == HELD_OUT - 1
    _fit(network, task, inputs, torch.nonzero(~test)[:, 0], steps, seed)
    score = task.score(_outputs(network, inputs[test]), test)
    name = f"{units} hidden units of {task.kind.format(score)} trained on {dataset}"
    features = _standard(name, lambda some: _hidden(network, pixels(some)), images)
    return FeatureSpace(name, features.features, score)


def inception_space(
    path: Path, value_range: tuple[float, float], *, device: str = "cpu"
) -> FeatureSpace:
    """Features that a TorchScript file gives: RGB bytes (n, 3, H, W) -> (n, units).

    `value_range`: black and white in data units; grey images are given three times. A file whose
    network has an argument `return_features`, as NVIDIA's Inception has, is told to. Raises
    ValueError where the file is no TorchScript.
    """
    network: Any = load_script(path, device).eval()
    arguments = [argument.name for argument in network.forward.schema.arguments]
    told = {"return_features": True} if "return_features" in arguments else {}

    @torch.no_grad()
    def features(images: Images) -> Array:
        parts = []
        for start in range(0, len(images), CHUNK):
            shown = as_bytes(images[start : start + CHUNK], *value_range).transpose(0, 3, 1, 2)
            rgb = torch.from_numpy(np.repeat(shown, 3 // shown.shape[1], axis=1))
            parts.append(network(rgb.to(device), **told).double().cpu().flatten(1).numpy())
        return np.concatenate(parts)

    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return FeatureSpace(f"network of {path.name}, sha256 {digest}", features)


def _standard(name: str, raw: Callable[[Images], Array], images: Images) -> FeatureSpace:
    """Features less their mean over `images`, over their root mean variance."""
    seen = raw(images)
    mean, scale = seen.mean(axis=0), np.sqrt(seen.var(axis=0).mean())
    return FeatureSpace(name, lambda some: (raw(some) - mean) / scale)


# --- the network --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pixels:
    """Images (n, H, W, C) -> tensors (n, C, H, W) of unit variance."""

    mean: float
    deviation: float

    def __call__(self, images: Images) -> Tensor:
        scaled = (images.transpose(0, 3, 1, 2) - self.mean) / self.deviation
        return torch.from_numpy(np.ascontiguousarray(scaled, dtype=np.float32))


@dataclass(frozen=True)
class _Task:
    """What the network learns: `loss(outputs, rows)`; `kind` has a place for its score."""

    kind: str
    outputs: int
    loss: Callable[[Tensor, Tensor], Tensor]
    score: Callable[[Tensor, Tensor], float]


def _classification(labels: Labels) -> _Task:
    binary = labels.ndim == 2 and bool(np.isin(labels, (0, 1)).all())
    if labels.ndim != 1 and not binary:
        raise ValueError(
            f"labels of shape {labels.shape} must be classes (n,) or attributes of 0 and 1 (n, k) "
            "in trained_space: choose one column, or give None"
        )
    if binary:
        wanted = torch.from_numpy(labels.astype(np.float32))
        usual = float(torch.maximum(wanted.mean(0), 1 - wanted.mean(0)).mean())
        kind = f"a classifier of {labels.shape[1]} attributes (held-out accuracy {{:.2f}}, "
        return _Task(
            f"{kind}the commoner answers {usual:.2f})",
            labels.shape[1],
            lambda out, rows: F.binary_cross_entropy_with_logits(out, wanted[rows]),
            lambda out, rows: float(((out > 0) == (wanted[rows] > 0.5)).float().mean()),
        )
    classes, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    each = torch.from_numpy(index)
    kind = f"a classifier of {len(classes)} classes (held-out accuracy {{:.2f}}, "
    return _Task(
        f"{kind}the commonest class {counts.max() / len(labels):.2f})",
        len(classes),
        lambda out, rows: F.cross_entropy(out, each[rows]),
        lambda out, rows: float((out.argmax(1) == each[rows]).float().mean()),
    )


def _autoencoding(inputs: Tensor) -> _Task:
    wanted = inputs.flatten(1)

    def share(out: Tensor, rows: Tensor) -> float:
        here = wanted[rows]
        return 1 - float((out - here).square().sum() / (here - here.mean(0)).square().sum())

    return _Task(
        "an autoencoder ({:.2f} of the held-out variance)",
        wanted.shape[1],
        lambda out, rows: F.mse_loss(out, wanted[rows]),
        share,
    )


def _fit(
    network: Network, task: _Task, inputs: Tensor, train: Tensor, steps: int, seed: int
) -> None:
    """An instrument, not a model of the study: one network, Adam, no schedule."""
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    order = BatchOrder(len(train), BATCH, [seed], purpose="feature network order")
    for _ in range(steps):
        rows = train[order.next()[0]]
        optimizer.zero_grad()
        task.loss(network(inputs[rows]), rows).backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def _chunks(inputs: Tensor) -> Iterator[Tensor]:
    return (inputs[i : i + CHUNK] for i in range(0, len(inputs), CHUNK))


@torch.no_grad()
def _outputs(network: Network, inputs: Tensor) -> Tensor:
    return torch.cat([network(some) for some in _chunks(inputs)])


@torch.no_grad()
def _hidden(network: Network, inputs: Tensor) -> Array:
    """The last hidden layer, float64."""
    hidden = torch.cat([network(some, hidden_only=True) for some in _chunks(inputs)])
    return np.asarray(hidden.double().numpy())
