"""What each exit of a network costs: multiply-accumulates and parameters, counted on the built model."""

from anytime_keras.cost.exit_costs import ExitCost, ExitCosts, exit_costs
from anytime_keras.cost.rules import macs, register_rule

__all__ = ["ExitCost", "ExitCosts", "exit_costs", "macs", "register_rule"]
