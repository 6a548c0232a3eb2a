"""Packages that are imported when they are first used, because a backend needs only its own."""

import importlib
from typing import Any


class _Module:
    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # doctest, `inspect` and `copy` ask every object for such attributes
            raise AttributeError(name)
        return getattr(importlib.import_module(self._name), name)


jax, tf, tfds = map(_Module, ("jax", "tensorflow", "tensorflow_datasets"))
