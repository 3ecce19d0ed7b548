"""Training: data on the device, KL weights, one loop, stop and resume."""

from linvae.train.cells import CellStore, Trained, train_cells
from linvae.train.checkpoint import Checkpoint
from linvae.train.data import TrainingData, pick_device
from linvae.train.kl_weight import ConstantBetas, InformationControl
from linvae.train.loop import Diverged, DivergedError, TrainConfig, TrainResult, train

__all__ = [
    "CellStore",
    "Checkpoint",
    "ConstantBetas",
    "Diverged",
    "DivergedError",
    "InformationControl",
    "TrainConfig",
    "TrainResult",
    "Trained",
    "TrainingData",
    "pick_device",
    "train",
    "train_cells",
]
