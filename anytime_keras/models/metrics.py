"""Copies metrics, so that each exit has its own."""

import copy

import keras

from anytime_keras._errors import explained


def copy_metric(metric):
    """Returns a copy of a metric with separate state; raises ValueError if an attribute cannot be copied.

    Keras copies a metric through `get_config`, which need not contain every argument. This function copies the
    attributes: it creates new variables and nested metrics and shares layers and losses.
    """
    received = f"`metrics` for all exits must be metrics that can be copied. Received: {metric!r}, which cannot: "
    remedy = ". Pass `metrics` as a dict with a list of new metrics for each exit."
    with explained(received, Exception, end=remedy):
        copied = _copy(metric, {})
        if len(copied.variables) != len(metric.variables):
            raise RuntimeError("it has variables that none of its attributes holds")
    return copied


def _copy(value, copies):
    """Copies a value; `copies` maps the `id` of each original to its copy, as for `copy.deepcopy`."""
    if id(value) in copies:
        return copies[id(value)]
    if isinstance(value, keras.metrics.Metric):
        copies[id(value)] = copied = object.__new__(type(value))
        keras.metrics.Metric.__init__(copied, dtype=value.dtype, name=value.name)
        attributes = {name: held for name, held in vars(value).items() if name not in vars(copied)}
        for name, held in attributes.items():
            setattr(copied, name, _copy(held, copies))
        return copied
    if isinstance(value, keras.Variable):
        names = ("dtype", "trainable", "aggregation", "synchronization", "name")
        options = {name: getattr(value, name) for name in names}
        copies[id(value)] = keras.Variable(keras.ops.convert_to_numpy(value), **options)
        return copies[id(value)]
    if isinstance(value, (keras.Layer, keras.losses.Loss)):
        return value
    if isinstance(value, dict):
        return {key: _copy(held, copies) for key, held in value.items()}
    if type(value) is tuple:
        return tuple(_copy(held, copies) for held in value)
    if isinstance(value, list):
        return [_copy(held, copies) for held in value]
    return copy.deepcopy(value, copies)
