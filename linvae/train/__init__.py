"""Training: data on the device or streamed, KL weights, one loop, stop and resume, memory."""

from linvae.train.cells import CellStore, Trained, train_cells
from linvae.train.checkpoint import Checkpoint
from linvae.train.data import TrainingData, pick_device
from linvae.train.kl_weight import AnnealedBetas, ConstantBetas, CyclicalBetas, InformationControl
from linvae.train.loop import DivergedError, TrainConfig, TrainResult, train
from linvae.train.memory import MemoryPrediction, predict_memory
from linvae.train.parts import copies
from linvae.train.run import Diverged, Stopped

__all__ = [
    "AnnealedBetas",
    "CellStore",
    "Checkpoint",
    "ConstantBetas",
    "CyclicalBetas",
    "Diverged",
    "DivergedError",
    "InformationControl",
    "MemoryPrediction",
    "Stopped",
    "TrainConfig",
    "TrainResult",
    "Trained",
    "TrainingData",
    "copies",
    "pick_device",
    "predict_memory",
    "train",
    "train_cells",
]
