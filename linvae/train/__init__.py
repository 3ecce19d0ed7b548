"""Training: data on the device or streamed, KL weights, one loop, stop and resume, memory."""

from linvae.train.cells import CellStore, Trained, train_cells
from linvae.train.checkpoint import Checkpoint
from linvae.train.config import TrainConfig
from linvae.train.data import TrainingData, pick_device
from linvae.train.kl_weight import ConstantBetas, InformationControl
from linvae.train.loop import DivergedError, Log, TrainResult, train
from linvae.train.memory import MemoryPrediction, predict_memory
from linvae.train.parts import copies
from linvae.train.remedies import (
    REMEDIES,
    WARMUPS,
    Adaptive,
    Aggressive,
    Annealing,
    Cyclical,
    Exponential,
    Remedy,
    RemedyBetas,
    named_remedy,
)
from linvae.train.run import BlownUp, BlowUpWarning, Diverged, Stopped
from linvae.train.tensorboard import TensorBoard
from linvae.train.text_presets import TEXT_PRESETS, TextPreset
from linvae.train.validation import Plateau

__all__ = [
    "REMEDIES",
    "TEXT_PRESETS",
    "WARMUPS",
    "Adaptive",
    "Aggressive",
    "Annealing",
    "BlowUpWarning",
    "BlownUp",
    "CellStore",
    "Checkpoint",
    "ConstantBetas",
    "Cyclical",
    "Diverged",
    "DivergedError",
    "Exponential",
    "InformationControl",
    "Log",
    "MemoryPrediction",
    "Plateau",
    "Remedy",
    "RemedyBetas",
    "Stopped",
    "TensorBoard",
    "TextPreset",
    "TrainConfig",
    "TrainResult",
    "Trained",
    "TrainingData",
    "copies",
    "named_remedy",
    "pick_device",
    "predict_memory",
    "train",
    "train_cells",
]
