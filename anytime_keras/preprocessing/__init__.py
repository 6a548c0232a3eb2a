"""Turns raw images (files, Pillow images, arrays of any size) into a network's inputs. See `Preprocessor`."""

from anytime_keras.preprocessing.layers import ReverseChannels, ShortSideResizing
from anytime_keras.preprocessing.preprocessor import Preprocessor, of_pretrained

__all__ = ["Preprocessor", "ReverseChannels", "ShortSideResizing", "of_pretrained"]
