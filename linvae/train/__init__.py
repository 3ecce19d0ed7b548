"""Training: data on the device or streamed, KL weights, one loop, memory known before."""

from linvae.train.data import TrainingData, pick_device
from linvae.train.kl_weight import AnnealedBetas, ConstantBetas, CyclicalBetas, InformationControl
from linvae.train.loop import (
    Diverged,
    DivergedError,
    Stopped,
    TrainConfig,
    TrainResult,
    train,
)
from linvae.train.memory import MemoryPrediction, predict_memory
from linvae.train.parts import split_points, train_in_parts

__all__ = [
    "AnnealedBetas",
    "ConstantBetas",
    "CyclicalBetas",
    "Diverged",
    "DivergedError",
    "InformationControl",
    "MemoryPrediction",
    "Stopped",
    "TrainConfig",
    "TrainResult",
    "TrainingData",
    "pick_device",
    "predict_memory",
    "split_points",
    "train",
    "train_in_parts",
]
