"""Anytime networks: the model with ordered, named exits, and the families that the zoo is made of."""

from anytime_keras.models.anytime_model import AnytimeModel, Exit
from anytime_keras.models.registry import build, names
from anytime_keras.models.resann import ResANN

__all__ = ["AnytimeModel", "Exit", "ResANN", "build", "names"]
