"""Anytime neural networks in Keras: a crude answer early, better ones as the budget allows.

Reference: [Hu, Dey, Hebert, Bagnell, AAAI 2019](https://arxiv.org/abs/1708.06832).
"""

import os
import sys

if os.path.basename(sys.argv[0]) in ("anytime-keras", "-m"):  # at the command line, TensorFlow's greeting is noise
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from anytime_keras import cost, data, evaluation, graph, models, training, weighting  # noqa: E402
from anytime_keras.evaluation import Curve, evaluate  # noqa: E402
from anytime_keras.models import AnytimeModel  # noqa: E402
from anytime_keras.version import __version__  # noqa: E402
from anytime_keras.weighting import AdaLoss, AdaLossWeighting, LossWeighting, SingleExit  # noqa: E402

__all__ = [
    "AdaLoss",
    "AdaLossWeighting",
    "AnytimeModel",
    "Curve",
    "LossWeighting",
    "SingleExit",
    "__version__",
    "cost",
    "data",
    "evaluate",
    "evaluation",
    "graph",
    "models",
    "training",
    "weighting",
]
