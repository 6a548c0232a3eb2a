"""Anytime inference: stages, deadlines, budgets, early exit and ensembles. See `Predictor` and `EANN`."""

from anytime_keras.inference import inflation
from anytime_keras.inference.answers import Answer, BatchAnswer
from anytime_keras.inference.ensemble import EANN, depths
from anytime_keras.inference.jobs import Job
from anytime_keras.inference.latency import LatencyTable
from anytime_keras.inference.parallel import ParallelPredictor
from anytime_keras.inference.predictor import Predictor
from anytime_keras.inference.stages import Stages

__all__ = ["Answer", "BatchAnswer", "EANN", "Job", "LatencyTable", "ParallelPredictor", "Predictor", "Stages", "depths"]
__all__ += ["inflation"]
