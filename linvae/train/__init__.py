"""Training: data on the device, KL weights, one loop."""

from linvae.train.data import TrainingData, pick_device
from linvae.train.kl_weight import ConstantBetas, InformationControl
from linvae.train.loop import Diverged, DivergedError, TrainConfig, TrainResult, train

__all__ = [
    "ConstantBetas",
    "Diverged",
    "DivergedError",
    "InformationControl",
    "TrainConfig",
    "TrainResult",
    "TrainingData",
    "pick_device",
    "train",
]
