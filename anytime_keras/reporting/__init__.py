"""One page about a trained network: what its exits cost and are worth, and what to use when. See `report`."""

from anytime_keras.reporting.report import Report, report

__all__ = ["Report", "report"]
