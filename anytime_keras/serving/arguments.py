"""Checks the arguments of `Server` and of its requests, and finds the predictor and the accuracies that it uses."""

import math
import numbers
import time

import numpy as np

from anytime_keras._checks import check_number, check_one, check_positive
from anytime_keras.classifier import Classifier
from anytime_keras.evaluation import Curve
from anytime_keras.inference import Predictor
from anytime_keras.serving import policies
from anytime_keras.serving.scheduler import LEAST_URGENT

FIRST_GUESS, LAST_GUESS = 0.5, 0.9  # accuracies of the first and last exit, where they are unknown


def check(policy, max_batch, max_queue, confidence):
    """Raises ValueError if an argument of `Server` is not valid, of those that do not depend on the network."""
    policies.check(policy)
    check_positive(max_batch=max_batch, max_queue=max_queue)
    if confidence is not None:
        check_number("confidence", confidence, "above 0 and at most 1, or None", lambda number: 0 < number <= 1)


def check_request(deadline, priority, on_answer, begin):
    """Raises ValueError if an argument of a request is not valid; see `Server.submit_inputs`."""
    check_number("deadline", deadline, "of seconds above 0", lambda number: number > 0)
    whole = isinstance(priority, numbers.Integral) and not isinstance(priority, bool)
    if not whole or not 0 <= priority <= LEAST_URGENT:
        raise ValueError(f"`priority` must be an int from 0 to {LEAST_URGENT}. Received: priority={priority!r}.")
    if on_answer is not None and not callable(on_answer):
        raise ValueError(f"`on_answer` must be a function of an `Answer`. Received: on_answer={on_answer!r}.")
    if begin is not None and not (isinstance(begin, float) and begin <= time.perf_counter()):
        raise ValueError(f"`begin` must be an earlier moment of `time.perf_counter`. Received: begin={begin!r}.")


def first_acceptable(min_exit, min_accuracy, exit_names, accuracies, last):
    """Returns the position of the first exit that a request accepts, or raises ValueError if it is after `last`."""
    if min_exit is None and min_accuracy is None:
        return 0
    check_one(optional=True, min_exit=min_exit, min_accuracy=min_accuracy)
    if min_exit is not None:
        if not isinstance(min_exit, str) or min_exit not in exit_names:
            raise ValueError(f"`min_exit` must be one of {exit_names}. Received: min_exit={min_exit!r}.")
        position = exit_names.index(min_exit)
    else:
        most = math.floor(1e4 * max(accuracies)) / 1e4
        check_number("min_accuracy", min_accuracy, f"from 0 to {most}", lambda number: 0 <= number <= max(accuracies))
        position = next(place for place, own in enumerate(accuracies) if own >= min_accuracy)
    if position > last:
        raise ValueError(
            f"The server's policy answers at '{exit_names[last]}', so a request cannot ask for a later exit. "
            f"Received: min_exit={min_exit!r}, min_accuracy={min_accuracy!r}."
        )
    return position


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
