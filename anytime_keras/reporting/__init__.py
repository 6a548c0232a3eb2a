"""A report on a trained network: the cost and the error of its exits, and how to use them. See `report`."""

from anytime_keras.reporting.report import Report, report

__all__ = ["Report", "report"]
