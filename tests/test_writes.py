"""Commands write where they are told to, whatever the environment says."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

COMMANDS = {
    "predict": ("predict", "--data", "y.npy"),
    "predict, a dataset": ("predict", "--dataset", "digits"),
    "list": ("data", "list"),
    "verify": ("data", "verify", "mnist"),
    "a set that is missing": ("predict", "--dataset", "mnist"),
    "completion": ("completion", "bash"),
}
FOLDERS = ("data", "home", "cache", "temporary", "here")


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_what_only_reads_writes_nowhere(command, tmp_path):
    folders = {name: tmp_path / name for name in FOLDERS}
    for folder in folders.values():
        folder.mkdir()
    np.save(folders["here"] / "y.npy", np.random.default_rng(0).normal(size=(50, 3)))
    environment = os.environ | {
        "LINVAE_DATA": str(folders["data"]),
        "HOME": str(folders["home"]),
        "XDG_CACHE_HOME": str(folders["cache"]),
        "TMPDIR": str(folders["temporary"]),
        "MPLCONFIGDIR": str(folders["home"]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    run = [sys.executable, "-m", "linvae", *command]
    subprocess.run(run, cwd=folders["here"], env=environment, capture_output=True, timeout=120)
    left = [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()]
    assert left == ["here/y.npy"]


@pytest.mark.parametrize("name", ["LINVAE_DATA", "--data-dir"])
def test_a_data_root_that_is_named_is_not_made(name, tmp_path):
    """A wrong name of the data folder makes no folder of that name."""
    folder = tmp_path / "typing error"
    option = ["--data-dir", str(folder)] if name == "--data-dir" else []
    environment = os.environ | {"LINVAE_DATA": str(folder), "HOME": str(tmp_path)}
    run = [sys.executable, "-m", "linvae", "data", "verify", "mnist", *option]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 3 and str(folder) in done.stderr
    assert not folder.exists()
