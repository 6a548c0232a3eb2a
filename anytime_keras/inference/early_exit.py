"""Budgeted batch classification: samples that are sure leave, and the batch shrinks."""

import keras
import numpy as np

from anytime_keras.inference.answers import as_array, probabilities

NEVER_SURE = 2.0  # a threshold that no probability reaches


def classify(engine, inputs, thresholds, temperatures, lock):
    """Runs a batch stage by stage; only samples that are not sure yet go on.

    Args:
        engine: `Engine`.
        inputs: list of tensors, what the first stage takes.
        thresholds: a float for each exit: with at least this confidence, leave. The last one does not count.
        temperatures: a float for each exit.
        lock: held while a stage runs.

    Returns:
        Arrays of logits, shape `(batch, classes)`, of positions of exits and of confidences, each `(batch,)`.
    """
    count = inputs[0].shape[0]
    if not engine.any_size:
        inputs = _rows(inputs, np.arange(count), bucket(count))
    left, rows, carried = np.arange(count), np.arange(count), inputs  # who is still here, and in which rows
    logits, positions, confidence = None, np.zeros(count, int), np.zeros(count, "float32")
    for position in range(len(engine)):
        tensors, rows = (inputs, left) if engine.stages.starts(position) else (carried, rows)
        size = len(rows) if engine.any_size else bucket(len(rows))
        if size < tensors[0].shape[0]:
            tensors, rows = _rows(tensors, rows, size), np.arange(len(rows))
        with lock:
            output, carried = engine.stage(position, tensors, tensors)
            output = as_array(output)[rows]
        sure = probabilities(output, temperatures[position]).max(axis=-1)
        if logits is None:
            logits = np.zeros((count, *output.shape[1:]), output.dtype)
        leaves = (sure >= thresholds[position]) | (position + 1 == len(engine))
        at = left[leaves]
        logits[at], positions[at], confidence[at] = output[leaves], position, sure[leaves]
        left, rows = left[~leaves], rows[~leaves]
        if not len(left):
            break
    return logits, positions, confidence


def all_logits(engine, inputs, lock):
    """Runs a batch through all stages; returns every exit's logits, an array of shape `(exits, batch, classes)`."""
    count, outputs = inputs[0].shape[0], []
    if not engine.any_size:
        inputs = _rows(inputs, np.arange(count), bucket(count))
    carried = inputs
    for position in range(len(engine)):
        with lock:
            output, carried = engine.stage(position, carried, inputs)
            outputs.append(as_array(output)[:count])
    return np.stack(outputs)


def _rows(tensors, rows, size):
    """Takes rows of tensors, and repeats the first to fill up `size`."""
    rows = np.concatenate([rows, np.repeat(rows[:1], size - len(rows))])
    return [keras.ops.take(tensor, rows, axis=0) for tensor in tensors]


def bucket(count):
    """Returns the size of batch in which `count` samples run where every size is compiled: few sizes, little padding.

    >>> [bucket(count) for count in (1, 3, 5, 8, 9, 13, 17, 100)]
    [1, 3, 5, 8, 10, 14, 20, 112]
    """
    step = max((1 << (int(count) - 1).bit_length()) // 8, 1)  # of the next power of two an eighth
    return -(-int(count) // step) * step


def fit_threshold(confidences, macs, average_budget):
    """Finds the confidence at which to leave, the same at all exits, that spends a budget on average.

    One threshold for all: with a bigger budget it can only be higher, and no sample then leaves earlier than before.

    Args:
        confidences: array of shape `(exits, samples)`, of validation data.
        macs: the cost of leaving at each exit, ascending.
        average_budget: float, the most that a sample may cost on average.

    Returns:
        The highest threshold that keeps to the budget: a float, at most `NEVER_SURE`.

    Raises:
        ValueError: if the first exit alone costs more.

    >>> fit_threshold(np.array([[0.9, 0.5, 0.7, 0.6], [1, 1, 1, 1]]), [10, 20], average_budget=15)
    0.7
    """
    macs = np.asarray(macs, float)
    if not average_budget >= macs[0]:
        raise ValueError(
            f"`average_budget` must be at least what the first exit costs, {macs[0]:.0f} MACs. "
            f"Received: {average_budget}."
        )

    def cost(threshold):
        leaves = confidences >= threshold
        leaves[-1] = True
        return macs[leaves.argmax(axis=0)].mean()

    candidates = np.append(np.unique(confidences[:-1]), NEVER_SURE)
    low, high = 0, len(candidates)  # the cost rises with the threshold; at the lowest all leave at the first exit
    while high - low > 1:
        middle = (low + high) // 2
        if cost(candidates[middle]) <= average_budget:
            low = middle
        else:
            high = middle
    return float(candidates[low])
