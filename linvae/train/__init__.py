"""Training: data on the device, KL weights, one loop."""

from linvae.train.data import TrainingData, pick_device
from linvae.train.kl_weight import ConstantBetas, InformationControl
from linvae.train.loop import DivergedError, TrainConfig, TrainResult, train

__all__ = [
    "ConstantBetas",
    "DivergedError",
    "InformationControl",
    "TrainConfig",
    "TrainResult",
    "TrainingData",
    "pick_device",
    "train",
]
