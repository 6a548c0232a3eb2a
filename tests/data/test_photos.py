import importlib.util

import numpy as np

import anytime_keras as ak

OPTIONAL = importlib.util.find_spec


def test_photos_are_colour_images_of_installed_packages(monkeypatch):
    photos = ak.data.photos()
    assert all(photo.dtype == np.uint8 and photo.ndim == 3 and photo.shape[-1] == 3 for photo in photos.values())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "skimage" else OPTIONAL(name))
    assert list(ak.data.photos()) == ["flower", "palace", "officer"]
