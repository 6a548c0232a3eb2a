"""Loads a data set (name, folder or arrays) as batches of (image, label); handles splits, seeds and augmentation."""

from anytime_keras.data.augment import STEPS as AUGMENTATION_STEPS
from anytime_keras.data.load import DataSet, load
from anytime_keras.data.parts import pack
from anytime_keras.data.photos import photos
from anytime_keras.data.pick import pick
from anytime_keras.data.sources import defaults, names

__all__ = ["AUGMENTATION_STEPS", "DataSet", "defaults", "load", "names", "pack", "photos", "pick"]
