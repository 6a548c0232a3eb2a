"""Checks the arguments of `Server`, and finds the predictor and the accuracies that it uses."""

import numbers

import numpy as np

from anytime_keras.classifier import Classifier
from anytime_keras.evaluation import Curve
from anytime_keras.inference import Predictor
from anytime_keras.serving import policies

FIRST_GUESS, LAST_GUESS = 0.5, 0.9  # accuracies of the first and last exit, where they are unknown


def check(policy, max_batch, max_queue, confidence):
    """Checks the arguments of `Server` that do not depend on the network.

    Raises:
        ValueError: if one is not valid.
    """
    policies.check(policy)
    for name, value in (("max_batch", max_batch), ("max_queue", max_queue)):
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
            raise ValueError(f"`{name}` must be an int, at least 1. Received: {name}={value!r}.")
    number = isinstance(confidence, numbers.Real) and not isinstance(confidence, bool)
    if confidence is not None and not (number and 0 < confidence <= 1):
        raise ValueError(f"`confidence` must be a number from 0 to 1, or None. Received: {confidence!r}.")


def predictor_of(model, options):
    """Returns the predictor of a model, see `Server`; `options` are arguments of `Predictor` for a Keras model."""
    if isinstance(model, (Classifier, Predictor)):
        if options:
            raise ValueError(f"Arguments of `Predictor` fit a Keras model only. Received: {sorted(options)}.")
        return model.predictor if isinstance(model, Classifier) else model
    inputs = getattr(model, "inputs", None)
    if not inputs or any(None in tensor.shape[1:] for tensor in inputs):
        raise ValueError(
            "`model` must be a `Predictor`, a `Classifier` or a functional Keras model with inputs of fixed size. "
            f"Received: {type(model).__name__}. Make a `Predictor` with an example of the size to serve."
        )
    example = [np.zeros((1, *tensor.shape[1:]), tensor.dtype) for tensor in inputs]
    return Predictor(model, example if len(inputs) > 1 else example[0], **options)


def accuracies_of(given, classifier, predictor):
    """Returns the accuracy of each exit: the given ones, those that a classifier knows, or a guess by the costs."""
    if given is not None:
        values = np.asarray(given, object)
        numeric = all(isinstance(value, numbers.Real) and 0 <= value <= 1 for value in values.ravel())
        if values.shape != (len(predictor.exit_names),) or not numeric:
            raise ValueError(
                f"`accuracies` must have a number from 0 to 1 for each of the exits {predictor.exit_names}. "
                f"Received: {given!r}."
            )
        return [float(value) for value in values]
    if classifier is not None and classifier.about.get("curve"):
        known = {point.exit: 1 - point.error for point in Curve.from_dict(classifier.about["curve"])}
        if set(predictor.exit_names) <= set(known):
            return [known[name] for name in predictor.exit_names]
    costs = np.log([cost.with_head for cost in predictor.costs])
    return np.interp(costs, [costs[0], costs[-1]], [FIRST_GUESS, LAST_GUESS]).tolist()
