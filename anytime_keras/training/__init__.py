"""Training: a recipe (plain data) -> fit, with logs, checkpoints and exact resumption."""

from anytime_keras.training.fit import Run, train
from anytime_keras.training.recipe import Recipe

__all__ = ["Recipe", "Run", "train"]
