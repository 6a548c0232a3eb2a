"""Anytime neural networks in Keras: a crude answer early, better ones as the budget allows.

Reference: [Hu, Dey, Hebert, Bagnell, AAAI 2019](https://arxiv.org/abs/1708.06832).
"""

import os
import sys

if os.path.basename(sys.argv[0]) in ("anytime-keras", "-m"):  # at the command line, TensorFlow's greeting is noise
    from anytime_keras import _quiet  # noqa: F401

from anytime_keras import classifier, cost, data, evaluation, inference, models, preprocessing  # noqa: E402
from anytime_keras import reporting, serving, training, weighting, zoo  # noqa: E402
from anytime_keras.classifier import Classifier  # noqa: E402
from anytime_keras.evaluation import Curve, evaluate  # noqa: E402
from anytime_keras.export import export  # noqa: E402, after the imports of the room with the same name
from anytime_keras.inference import EANN, Predictor  # noqa: E402
from anytime_keras.inference.monotone import monotone  # noqa: E402
from anytime_keras.models import AnytimeModel, linear_ensemble, to_anytime  # noqa: E402
from anytime_keras.reporting import report  # noqa: E402
from anytime_keras.version import __version__  # noqa: E402
from anytime_keras.weighting import AdaLoss, AdaLossWeighting, LossWeighting, SingleExit  # noqa: E402

__all__ = ["AdaLoss", "AdaLossWeighting", "AnytimeModel", "Classifier", "Curve", "EANN", "LossWeighting", "Predictor"]
__all__ += ["SingleExit", "__version__", "classifier", "cost", "data", "evaluate", "evaluation", "export"]
__all__ += ["inference", "linear_ensemble", "models", "monotone", "preprocessing", "report", "reporting", "serving"]
__all__ += ["to_anytime", "training", "weighting", "zoo"]
