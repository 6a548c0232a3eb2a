"""Photographs that installed packages contain."""

import importlib.resources
import importlib.util

import numpy as np
from PIL import Image

# From a name to a package and a file in it. scikit-image is optional.
FILES = {
    "flower": ("sklearn.datasets.images", "flower.jpg"),
    "palace": ("sklearn.datasets.images", "china.jpg"),
    "officer": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    "coffee": ("skimage.data", "coffee.png"),
    "rocket": ("skimage.data", "rocket.jpg"),
    "cat": ("skimage.data", "chelsea.png"),
}


def photos():
    """Returns photographs that installed packages contain, for examples that work offline.

    They are uint8 arrays of shape `(height, width, 3)` in a dict by name: three of scikit-learn and Matplotlib, and up
    to three of scikit-image, if that is installed.

    Example:
    >>> import anytime_keras as ak
    >>> photos = ak.data.photos()
    >>> list(photos)[:3], photos["flower"].shape
    (['flower', 'palace', 'officer'], (427, 640, 3))
    """
    found = {}
    for name, (package, file) in FILES.items():
        if importlib.util.find_spec(package.partition(".")[0]) is None:
            continue
        path = importlib.resources.files(package) / file
        if path.is_file():
            with path.open("rb") as opened, Image.open(opened) as image:
                found[name] = np.asarray(image.convert("RGB"))
    return found
