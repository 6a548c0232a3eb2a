"""Exports of anytime networks to other runtimes, and the reader that runs them. See `export` and `ExportedModel`."""

from anytime_keras.export.export import export
from anytime_keras.export.reader import ExportedModel

__all__ = ["ExportedModel", "export"]
