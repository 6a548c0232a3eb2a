"""Counts the multiply-accumulates and parameters of each exit on the built model."""

from anytime_keras.cost.exit_costs import ExitCost, ExitCosts, exit_costs
from anytime_keras.cost.rules import macs, register_rule

__all__ = ["ExitCost", "ExitCosts", "exit_costs", "macs", "register_rule"]
