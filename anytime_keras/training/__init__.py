"""Training: a recipe (plain data) -> fit, with logs, checkpoints and exact resumption."""

from anytime_keras.training.fit import Run, train
from anytime_keras.training.progress import ProgressBar
from anytime_keras.training.recipe import Recipe
from anytime_keras.training.side_by_side import train_side_by_side

__all__ = ["ProgressBar", "Recipe", "Run", "train", "train_side_by_side"]
