"""What a `Classifier` needs to know of its network: a functional Keras model, an `EANN` or an exported set."""

import inspect

import numpy as np

from anytime_keras import _errors
from anytime_keras.classifier import sets
from anytime_keras.cost import exit_costs
from anytime_keras.export.reader import ExportedModel
from anytime_keras.inference import EANN, Predictor, engines
from anytime_keras.inference.stages import chosen_exits

OPTIONS = [name for name in inspect.signature(Predictor).parameters if name not in ("model", "example")]


def first(model):
    """Returns the first member of an ensemble, or the model itself."""
    return model.members[0] if isinstance(model, EANN) else model


def check_options(options):
    """Raises TypeError unless all options are arguments of `Predictor`."""
    for name in options:
        if name not in OPTIONS:
            raise TypeError(f"`Classifier` has no option `{name}`. {_errors.nearest(name, OPTIONS)}")


def check_exits(costs, options):
    """Raises ValueError unless the options `engine` and `exits` fit a Keras model or an ensemble."""
    engines.choice.check(options.get("engine", "auto"), options.get("num_threads"))
    chosen_exits(options.get("exits"), [cost.exit for cost in costs])


def check(name, model, preprocessor, class_names):
    """Raises ValueError unless a network takes the images of a preprocessor and has the given classes."""
    if isinstance(model, ExportedModel):
        shape, *others = [tuple(spec["shape"][1:]) for spec in model.description["inputs"]]
        classes = sets.num_classes(model)
    else:
        shape, *others = [tuple(tensor.shape[1:]) for tensor in first(model).inputs]
        classes = first(model).outputs[-1].shape[-1]
    wanted = preprocessor.image_shape
    if others or len(shape) != 3 or any(side not in (None, want) for side, want in zip(shape, wanted)):
        raise ValueError(
            f"`preprocessor` must return the inputs of '{name}', shape {shape}. Received: a preprocessor for {wanted}."
        )
    if len(class_names) != classes:
        raise ValueError(
            f"`class_names` must name the {classes} classes of '{name}'. Received: {len(class_names)} names."
        )


def costs(model, image_shape):
    """Returns the cost of each exit that a `Predictor` can answer with, a list."""
    if isinstance(model, ExportedModel):
        return model.costs
    if isinstance(model, EANN):
        stages = model.stages()
        return stages.costs(stages.start(np.zeros((1, *image_shape), "float32")))
    return exit_costs(model)
