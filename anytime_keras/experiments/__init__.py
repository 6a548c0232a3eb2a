"""Reproduces the paper's experiments, stores the results as JSON and compares them with the paper's numbers."""

from anytime_keras.experiments.catalog import EXPERIMENTS
from anytime_keras.experiments.report import reproduce, write_page

__all__ = ["EXPERIMENTS", "reproduce", "write_page"]
