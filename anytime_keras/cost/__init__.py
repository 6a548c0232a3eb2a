"""Counts the multiply-accumulates and parameters of each exit on the built model."""

from anytime_keras.cost.counting import macs, register_rule
from anytime_keras.cost.exit_costs import ExitCost, ExitCosts, exit_costs

__all__ = ["ExitCost", "ExitCosts", "exit_costs", "macs", "register_rule"]
