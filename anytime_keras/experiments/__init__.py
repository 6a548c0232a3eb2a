"""Reproduces the paper's experiments, stores the results as JSON and compares them with the paper's numbers."""

from anytime_keras.experiments.catalog import EXPERIMENTS, Experiment
from anytime_keras.experiments.images import small_images
from anytime_keras.experiments.report import read, reproduce, write_page
from anytime_keras.experiments.runs import Runs
from anytime_keras.experiments.settings import Settings

__all__ = ["EXPERIMENTS", "Experiment", "Runs", "Settings", "read", "reproduce", "small_images", "write_page"]
