"""A data set's name, folder or arrays -> batches of (image, label); the home of splits, seeds and augmentation."""

from anytime_keras.data.augment import STEPS as AUGMENTATION_STEPS
from anytime_keras.data.load import DataSet, load
from anytime_keras.data.parts import pack
from anytime_keras.data.pick import pick
from anytime_keras.data.sources import defaults, names

__all__ = ["AUGMENTATION_STEPS", "DataSet", "defaults", "load", "names", "pack", "pick"]
