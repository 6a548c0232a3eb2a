"""Anytime networks: the model with ordered, named exits, and the zoo's model families."""

from anytime_keras.models.anytime_model import AnytimeModel, Exit
from anytime_keras.models.convert import to_anytime
from anytime_keras.models.denseann import DenseANN
from anytime_keras.models.equilibrium import GradientScale, gradient_equilibrium
from anytime_keras.models.from_pytorch import from_pytorch
from anytime_keras.models.heads import with_classes
from anytime_keras.models.msdnet import MSDNet
from anytime_keras.models.msdnet_published import PublishedMSDNet
from anytime_keras.models.registry import build, linear_ensemble, names
from anytime_keras.models.resann import BottleneckResANN, ResANN

__all__ = ["AnytimeModel", "BottleneckResANN", "DenseANN", "Exit", "GradientScale", "MSDNet", "PublishedMSDNet"]
__all__ += ["ResANN", "build", "from_pytorch", "gradient_equilibrium", "linear_ensemble", "names", "to_anytime"]
__all__ += ["with_classes"]
