"""From a photo to a label: `Classifier` decodes images, runs an anytime network and names the classes."""

from anytime_keras.classifier.answers import LabeledAnswer
from anytime_keras.classifier.classifier import Classifier

__all__ = ["Classifier", "LabeledAnswer"]
