"""What is published about each file: its checksum and the addresses that offer it.

Checksums of MNIST and Fashion-MNIST are the widely published SHA-256 of the original archives;
those of Omniglot's full sets and of CelebA are the MD5 that torchvision publishes. All files of
Omniglot come from one repository, so its mirrors are two hosts of the same files.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["PUBLISHED", "PublishedFile", "downloadable", "published_checksum"]


@dataclass(frozen=True)
class PublishedFile:
    """One file: its name, "algorithm:hexdigest" and the addresses to try in order."""

    name: str
    checksum: str
    urls: tuple[str, ...] = ()


_MNIST = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_FASHION = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
)
_OMNIGLOT = (
    "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/",
    "https://github.com/brendenlake/omniglot/raw/master/python/",
)


def _offered(mirrors: tuple[str, ...], **checksums: str) -> tuple[PublishedFile, ...]:
    """One PublishedFile per `algorithm:hexdigest`, at every mirror; keys are in `_NAMES`."""
    return tuple(
        PublishedFile(_NAMES[key], checksum, tuple(mirror + _NAMES[key] for mirror in mirrors))
        for key, checksum in checksums.items()
    )


_NAMES = {
    "train_images": "train-images-idx3-ubyte.gz",
    "train_labels": "train-labels-idx1-ubyte.gz",
    "test_images": "t10k-images-idx3-ubyte.gz",
    "test_labels": "t10k-labels-idx1-ubyte.gz",
    "background": "images_background.zip",
    "evaluation": "images_evaluation.zip",
}

# Keyed by the name of the folder that the files live in, the same under every data root.
PUBLISHED: dict[str, tuple[PublishedFile, ...]] = {
    "mnist": _offered(
        _MNIST,
        train_images="sha256:440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        train_labels="sha256:3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        test_images="sha256:8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        test_labels="sha256:f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
    "fashion_mnist": _offered(
        _FASHION,
        train_images="sha256:3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        train_labels="sha256:a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        test_images="sha256:346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        test_labels="sha256:67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
    "omniglot": (
        *_offered(
            _OMNIGLOT,
            background="md5:68d2efa1b9178cc56df9314c21c6e718",
            evaluation="md5:6b91aef0f799c5bb55b94e3f2daec811",
        ),
        # Subsets of the background set: recognised where present, never needed beside it.
        PublishedFile(
            "images_background_small1.zip",
            "sha256:f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4",
        ),
        PublishedFile(
            "images_background_small2.zip",
            "sha256:3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f",
        ),
    ),
    "celeba": (
        PublishedFile("img_align_celeba.zip", "md5:00d2c5bc6d35e252742224ab0c1e8fcb"),
        PublishedFile("list_attr_celeba.txt", "md5:75e246fa4810816ffd6ee81facbd244c"),
        PublishedFile("list_eval_partition.txt", "md5:d32c9cbf5e040fd4025c592c306e6668"),
    ),
}


def downloadable(folder: str) -> tuple[PublishedFile, ...]:
    """Files of the data folder `folder` that have a public address; empty if there are none."""
    return tuple(file for file in PUBLISHED.get(folder, ()) if file.urls)


def published_checksum(path: Path) -> str | None:
    """Published "algorithm:hexdigest" of a file, by its own and its folder's name, or None."""
    for file in PUBLISHED.get(path.parent.name, ()):
        if file.name == path.name:
            return file.checksum
    return None
