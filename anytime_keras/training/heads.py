"""Trains the heads of a network on the features that its other layers compute, which are computed once."""

import time

import keras
import numpy as np

from anytime_keras import graph, runtime
from anytime_keras.models import AnytimeModel
from anytime_keras.models.heads import DROPOUT

MOST_BYTES = 2**30  # of the features in memory
MOST_PASSES = 16  # over the training images, each augmented differently, whose features are computed
MOST_EPOCHS = 30  # over these features
LEAST_STEPS = 100  # taken even if the time is up, since compiling takes longer than they do
FEATURES_SHARE = 0.5  # of the time, in which features are computed


def train_heads(model, data, seconds, optimizer, loss, verbose=False):
    """Trains the heads of an `AnytimeModel` on a `DataSet`, and leaves all other layers unchanged.

    The exits' losses have equal weights: heads share no parameters, so a weighting would only scale learning rates.
    A head consists of the layers whose names are the exit's, or begin with it and an underscore. Their inputs are
    computed once, for several augmented copies of each training image. Training the heads takes at most `seconds`,
    except for a minimum: one pass over the images, if their features fit into memory, and a few steps.
    """
    begin = time.monotonic()
    frozen, heads = split(model)
    features, labels = _features(frozen, data, begin + FEATURES_SHARE * seconds)
    heads.compile(optimizer, loss)
    stop = _Stop(begin + seconds)
    heads.fit(features, labels, data.batch_size, MOST_EPOCHS, verbose=0, callbacks=[stop], shuffle=True)
    graph.forget(graph.calls(heads.outputs))
    if verbose:
        print(
            f"trained the heads for {stop.steps} steps on the features of {len(labels)} augmented images in "
            f"{time.monotonic() - begin:.0f} s"
        )


class _Stop(keras.callbacks.Callback):
    """Stops training at a time of `time.monotonic`, but not before `LEAST_STEPS`."""

    def __init__(self, deadline):
        super().__init__()
        self.deadline, self.steps = deadline, 0

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        if self.steps >= LEAST_STEPS and time.monotonic() > self.deadline:
            self.model.stop_training = True


def split(model):
    """Splits an `AnytimeModel` into a model that computes the heads' inputs, and an `AnytimeModel` of the heads."""
    outputs = graph.outputs_by_name(model)
    features, values = [], {}
    made = set()  # ids of the tensors that the heads compute
    for call in graph.calls(list(outputs.values()), model.inputs):
        in_head = graph.in_named_head(call.operation, model.exit_names)
        # An operation must be repeated in training if it has weights or is random.
        trained = getattr(call.operation, "weights", None) or isinstance(call.operation, DROPOUT)
        reads = any(id(tensor) in made for tensor in call.input_tensors)
        if not reads and not (in_head and trained):
            continue
        for tensor in call.input_tensors:
            if id(tensor) not in values:
                features.append(tensor)
                values[id(tensor)] = keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype)
        graph.replay([call], values)
        made.update(id(tensor) for tensor in call.output_tensors)
    heads = AnytimeModel(
        [values[id(tensor)] for tensor in features], {name: values[id(tensor)] for name, tensor in outputs.items()}
    )
    return keras.Model(model.input, features), heads


def _features(frozen, data, deadline):
    """Returns a list of arrays of features of augmented training images, and their labels."""
    forward = runtime.compiled(frozen)
    parts, labels, size = [], [], 0
    passes = MOST_PASSES * data.pipeline("train").whole_steps
    for step, (images, truth) in enumerate(data.training_stream(whole=True)):
        found = runtime.finish(forward(images))
        parts.append(found)
        labels.append(keras.ops.convert_to_numpy(truth))
        size += sum(array.nbytes for array in found)
        first = step + 1 < data.pipeline("train").whole_steps
        full = 2 * (size + size / (step + 1)) > MOST_BYTES  # joining the parts takes their size again
        if step + 1 == passes or full or (time.monotonic() > deadline and not first):
            break
    return [np.concatenate(arrays) for arrays in zip(*parts)], np.concatenate(labels)
