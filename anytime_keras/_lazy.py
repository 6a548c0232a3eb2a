"""Modules that are imported when they are first used: a backend needs only its own, and only plots need Matplotlib."""

import importlib
from typing import Any


class _Module:
    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # doctest, `inspect` and `copy` ask every object for such attributes
            raise AttributeError(name)
        return getattr(importlib.import_module(self._name), name)


jax, tf, tfds, torch = map(_Module, ("jax", "tensorflow", "tensorflow_datasets", "torch"))
style = _Module("anytime_keras.evaluation.style")
