"""Loads and publishes trained networks, each with a manifest, verified weights and the recipe that trained it."""

from anytime_keras.zoo.catalog import add, show
from anytime_keras.zoo.catalog import list_names as list
from anytime_keras.zoo.ensembles import publish_ensemble
from anytime_keras.zoo.facts import Reported
from anytime_keras.zoo.loading import evaluate, load
from anytime_keras.zoo.manifest import Manifest, Weights
from anytime_keras.zoo.publishing import announce, publish

__all__ = ["Manifest", "Reported", "Weights", "add", "announce", "evaluate", "list", "load", "publish"]
__all__ += ["publish_ensemble", "show"]
