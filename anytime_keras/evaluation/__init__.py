"""Measures a network's exits: error against cost, against latency, and against other networks."""

from anytime_keras.evaluation.answer_plots import plot_answers, plot_photos
from anytime_keras.evaluation.calibration import Calibration
from anytime_keras.evaluation.curve import Curve, CurvePoint
from anytime_keras.evaluation.evaluate import evaluate, latencies
from anytime_keras.evaluation.monotonicity import Monotonicity
from anytime_keras.evaluation.plots import plot_curves, plot_increases, plot_weights
from anytime_keras.evaluation.samples import Samples

__all__ = ["Calibration", "Curve", "CurvePoint", "Monotonicity", "Samples", "evaluate", "latencies", "plot_answers"]
__all__ += ["plot_curves", "plot_increases", "plot_photos", "plot_weights"]
