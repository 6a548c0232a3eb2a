"""The reader of exported networks, which runs them without Keras.

`export` assembles these modules and those listed in `assemble` into one file, `run_exported.py`, and ships it with each
export. They need NumPy and, for image files, Pillow.
"""

from anytime_keras.export.reader.exported import ExportedModel

__all__ = ["ExportedModel"]
