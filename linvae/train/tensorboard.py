"""Training curves in TensorBoard, while members train: an option, and an extra.

    with TensorBoard("runs") as board:
        train(model, data, kl_weight, config, log=board)

One TensorBoard run per member, its name a folder; the tags are the names of the history's values
(`linvae.train.TrainResult`), the step is that of the decoder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["TensorBoard"]

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

    def __call__(self, rows: Iterable[Mapping[str, float]]) -> None:
        """Rows as `train` gives them; runs are named by point and seed."""
        for row in rows:
            self.add(f"point {row['point']:.0f}, seed {row['seed']:.0f}", row)

    def add(self, run: str, row: Mapping[str, float]) -> None:
        """One row of the run of that name."""
        if run not in self._writers:
            self._writers[run] = self._new(str(self.folder / run))
        for name in row.keys() - set(PLACE):
            self._writers[run].add_scalar(name, row[name], int(row["step"]))

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
