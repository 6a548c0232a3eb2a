"""Training: a recipe (plain data) -> strategy (where) -> fit, with logs, checkpoints and exact resumption."""

from anytime_keras.training.cycles import train_cycle
from anytime_keras.training.finetune import finetune
from anytime_keras.training.fit import train
from anytime_keras.training.progress import ProgressBar
from anytime_keras.training.recipe import Recipe
from anytime_keras.training.run import Run
from anytime_keras.training.side_by_side import train_side_by_side
from anytime_keras.training.strategy import choose as choose_strategy

__all__ = ["ProgressBar", "Recipe", "Run", "choose_strategy", "finetune", "train", "train_cycle"]
__all__ += ["train_side_by_side"]
