"""Reproduces the paper's experiments, stores the results as JSON and compares them with the paper's numbers."""

from anytime_keras.experiments.experiment import EXPERIMENTS, Experiment, paper
from anytime_keras.experiments.page import write_page
from anytime_keras.experiments.planning import Settings
from anytime_keras.experiments.report import picture, read, reproduce, show
from anytime_keras.experiments.work import Work

__all__ = [
    "EXPERIMENTS",
    "Experiment",
    "Settings",
    "Work",
    "paper",
    "picture",
    "read",
    "reproduce",
    "show",
    "write_page",
]
