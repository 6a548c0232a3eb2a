"""The reader of exported networks, which runs them without Keras.

`export` assembles these modules, `runtimes`, `answers`, `early_exit` and the decoding of images into one file,
`run_exported.py`, and ships it with each export. They need NumPy and, for image files, Pillow. `assemble` is not
shipped.

Example:
>>> import pathlib, tempfile, numpy as np, anytime_keras as ak
>>> model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
>>> folder = tempfile.TemporaryDirectory()
>>> reader = ak.inference.reader.ExportedModel(ak.export(model, pathlib.Path(folder.name, "digits")))
>>> reader.predict(np.zeros((1, 8, 8, 1), "float32")).exit
'exit_3'
>>> folder.cleanup()
"""

from anytime_keras.inference.reader.exported import ExportedModel

__all__ = ["ExportedModel"]
