"""The reader of exported networks, which runs them without Keras.

`export` assembles these modules, `runtimes`, `answers`, `early_exit`, `thresholds` and the decoding of images into one
file, `run_exported.py`, and ships it with each export. They need NumPy and, for image files, Pillow. `assemble` is not
shipped.
"""

from anytime_keras.export.reader.exported import ExportedModel

__all__ = ["ExportedModel"]
