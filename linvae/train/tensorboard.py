"""Training curves in TensorBoard, while members train: an option, and an extra.

    with TensorBoard("runs") as board:
        train(model, data, kl_weight, config, log=board)

One TensorBoard run per member, its name a folder; the tags are the names of the history's values
(`linvae.train.TrainResult`), the step is that of the decoder. Points that an earlier call wrote
into the same folder are not written again: members of a store log all that they have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["TensorBoard"]

Point = tuple[str, int, bytes]
PLACE = ("step", "seed", "point")  # of a row: where it belongs, not what it holds


class TensorBoard:
    """Writes rows of histories below `folder`; raises ValueError where its package is missing."""

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
            raise ValueError(
                'logs for TensorBoard need its package: pip install "linvae[tensorboard]"'
            ) from error
        self.folder = Path(folder)
        self._new: Any = SummaryWriter
        self._writers: dict[str, Any] = {}
        self._there: dict[str, set[Point]] = {}

    def __call__(self, rows: Iterable[Mapping[str, float]]) -> None:
        """Rows as `train` gives them; runs are named by point and seed."""
        for row in rows:
            self.add(f"point {row['point']:.0f}, seed {row['seed']:.0f}", row)

    def add(self, run: str, row: Mapping[str, float]) -> None:
        """One row of the run of that name, but for what was there before."""
        if run not in self._there:
            self._there[run] = _points(self.folder / run)
        step = int(row["step"])
        for name in row.keys() - set(PLACE):
            if _point(name, step, row[name]) not in self._there[run]:
                self._writer(run).add_scalar(name, row[name], step)

    def _writer(self, run: str) -> Any:
        if run not in self._writers:
            self._writers[run] = self._new(str(self.folder / run))
        return self._writers[run]

    def close(self) -> None:
        """Write what is left."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()

    def __enter__(self) -> TensorBoard:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()


def _point(name: str, step: int, value: float) -> Point:
    """As event files have it, in float32; bytes, so that NaN is itself."""
    return name, step, np.float32(value).tobytes()


def _points(folder: Path) -> set[Point]:
    """What the event files of a run hold."""
    if not folder.exists():
        return set()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()  # 0: all of them
    return {
        _point(name, event.step, event.value)
        for name in events.Tags()["scalars"]
        for event in events.Scalars(name)
    }
