"""Two runs in one folder, and runs that are stopped: the second is refused, the first goes on."""

from __future__ import annotations

import shutil
import signal

import pytest

from linvae.result_folder import LOCK, alone_in

from . import watched
from .test_full_disk import PREDICT, one_line
from .test_kills import contents, start, undisturbed  # noqa: F401 (a fixture)


def other(folder) -> watched.Command:
    """A command of another kind into the same folder."""
    return watched.forked([*PREDICT, "--latent-dim", "3"], folder)


@pytest.mark.parametrize("second", [start, other], ids=["same", "other"])
def test_the_second_run_is_refused_and_names_the_first(second, undisturbed, tmp_path):  # noqa: F811
    folder = tmp_path / "run"
    first = start(folder)
    assert first.wait_for("training")
    refused = second(folder)
    assert refused.wait() == 2
    assert one_line(refused) == (
        f"linvae: out='out': another run of linvae (process {first.process}) writes there; wait "
        "until it has ended, or choose another result folder"
    )
    assert first.wait() == 0, first.said()
    assert contents(folder / "out") == undisturbed


def test_of_runs_that_start_together_those_that_are_not_refused_are_right(tmp_path):
    alone = watched.forked(PREDICT, tmp_path / "alone")
    assert alone.wait() == 0
    expected = contents(tmp_path / "alone" / "out")
    folder = tmp_path / "run"
    for _ in range(3):
        commands = [watched.forked(PREDICT, folder) for _ in range(4)]
        codes = [command.wait() for command in commands]
        assert set(codes) <= {0, 2}
        assert 0 in codes
        for command in commands:
            assert not command.code or "choose another result folder" in one_line(command)
        assert contents(folder / "out") == expected


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -15)])
def test_a_run_that_is_stopped_goes_on(number, code, undisturbed, tmp_path):  # noqa: F811
    """By Ctrl-C with a word and 130, by SIGTERM as any process; no lock is in the way then."""
    folder = tmp_path / "run"
    first = start(folder)
    assert first.wait_for("checkpoint")
    assert first.kill(number) == code
    if code == 130:
        words = "linvae: interrupted; given again, training goes on from what is stored"
        assert one_line(first) == words
    assert not (folder / "out").exists() or set(contents(folder / "out")) <= {LOCK}
    again = start(folder)
    assert again.wait() == 0, again.said()
    assert contents(folder / "out") == undisturbed


def test_the_lock_of_a_process_that_is_gone_is_free(tmp_path):
    """Its file may still be there, with its number in it."""
    (tmp_path / LOCK).write_text("1")
    (tmp_path / ".unfinished-left").mkdir()
    (tmp_path / ".unfinished-left" / "rate.png").touch()
    (tmp_path / "notes.txt").write_text("mine")
    refused = pytest.raises(ValueError, match="another run of linvae")
    with alone_in(tmp_path), refused, alone_in(tmp_path):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_that_is_replaced_during_a_run_keeps_its_error(tmp_path):
    """The lock is gone with the folder; what is said is what went wrong."""
    folder = tmp_path / "out"
    with pytest.raises(KeyError, match="what went wrong"), alone_in(folder):
        shutil.rmtree(folder)
        folder.write_text("a file")
        raise KeyError("what went wrong")
