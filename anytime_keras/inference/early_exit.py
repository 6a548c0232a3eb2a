"""Budgeted batch classification with early exit: confident samples leave, and the batch shrinks."""

import bisect

import numpy as np

from anytime_keras.inference.answers import BatchAnswer, probabilities

NEVER_SURE = 2.0  # a threshold that no probability reaches


def classify(engine, batches, thresholds, temperatures, lock, exit_names, macs):
    """Classifies batches of samples and returns one `BatchAnswer`; `macs` are the costs of the exits.

    `batches` are lists of the first stage's inputs. For the other arguments, see `_classify`.
    """
    parts = [_classify(engine, inputs, thresholds, temperatures, lock) for inputs in batches]
    logits, positions, sure, deepest = (np.concatenate(values) for values in zip(*parts))
    exits = [exit_names[position] for position in positions]
    return BatchAnswer(logits, exits, positions, sure, float(np.array(macs, float)[deepest].mean()))


def _classify(engine, inputs, thresholds, temperatures, lock):
    """Runs a batch stage by stage, continuing only with samples below the confidence threshold.

    Args:
        engine: `Engine`.
        inputs: list of tensors, the inputs of the first stage.
        thresholds: a float for each exit. Samples with at least this confidence exit; the last value is ignored.
        temperatures: a float for each exit.
        lock: held while a stage runs.

    Returns:
        A tuple of arrays: logits, shape `(batch, classes)`, exit positions and confidences, shape `(batch,)`, and the
        position of the last stage computed for each sample, shape `(batch,)`. That stage is later than the sample's
        exit if a stage takes tensors that cannot be sliced by sample.
    """
    count = inputs[0].shape[0]
    carried = inputs = _filled(engine, inputs)
    held = np.arange(count)  # the sample of each row of `carried`
    left = rows = held  # the unfinished samples, and their rows
    logits, positions, confidence = None, np.zeros(count, int), np.zeros(count, "float32")
    deepest, size = np.zeros(count, int), inputs[0].shape[0]
    for position in range(len(engine)):
        if engine.starts[position]:
            carried, held, rows, size = inputs, np.arange(count), left, inputs[0].shape[0]
        by_sample = per_sample(engine.takes[position], carried, size)
        smaller = len(left) if engine.any_size else bucket(len(left))
        if by_sample is not None and smaller < size:
            carried = [_rows(engine, value, rows, smaller) if cut else value for value, cut in zip(carried, by_sample)]
            rows, size, held = np.arange(len(left)), smaller, left
        deepest[held if by_sample is None else left] = position
        with lock:
            output, carried = engine.stage(position, carried, carried)
            output = engine.array(output)[rows]
        sure = probabilities(output, temperatures[position], engine.sigmoid[position]).max(axis=-1)
        if logits is None:
            logits = np.zeros((count, *output.shape[1:]), output.dtype)
        leaves = (sure >= thresholds[position]) | (position + 1 == len(engine))
        at = left[leaves]
        logits[at], positions[at], confidence[at] = output[leaves], position, sure[leaves]
        left, rows = left[~leaves], rows[~leaves]
        if not len(left):
            break
    return logits, positions, confidence, deepest


def exit_outputs(engine, inputs, lock):
    """Runs a batch through all stages and returns the logits of each exit, a list of arrays."""
    count, outputs = inputs[0].shape[0], []
    carried = inputs = _filled(engine, inputs)
    for position in range(len(engine)):
        with lock:
            output, carried = engine.stage(position, carried, inputs)
            outputs.append(engine.array(output)[:count])
    return outputs


def _filled(engine, inputs):
    """Pads inputs to a shared compiled batch size, if the engine compiles for each size."""
    count = inputs[0].shape[0]
    if engine.any_size or per_sample(engine.takes[0], inputs, count) is None:
        return inputs
    return [_rows(engine, tensor, np.arange(count), bucket(count)) for tensor in inputs]


def per_sample(shapes, tensors, size):
    """Returns which tensors have one row for each of the batch's `size` samples.

    A tensor of fixed shape is a table shared by all samples. Otherwise, the first axis is the batch axis if it is
    dynamic and as long as the batch, and no other dynamic axis has that length (the axes might have been transposed).

    Returns:
        A list of bools, or None if this cannot be determined.
    """
    by_sample = [None in shape for shape in shapes]
    for shape, tensor in zip(shapes, tensors):
        batch_axes = [axis for axis, length in enumerate(shape) if length is None and tensor.shape[axis] == size]
        if None in shape and batch_axes != [0]:
            return None
    return by_sample if any(by_sample) else None


def _rows(engine, tensor, rows, size):
    """Takes rows of a tensor and pads them to `size` by repeating the first."""
    return engine.take(tensor, np.concatenate([rows, np.repeat(rows[:1], size - len(rows))]))


def bucket(count):
    """Returns the padded batch size for `count` samples, which limits both recompilation and padding.

    >>> [bucket(count) for count in (1, 3, 5, 8, 9, 13, 17, 100)]
    [1, 3, 5, 8, 10, 14, 20, 112]
    """
    step = max((1 << (int(count) - 1).bit_length()) // 8, 1)  # an eighth of the next power of two
    return -(-int(count) // step) * step


def exit_positions(confidences, threshold):
    """Returns the position of the first exit that is confident enough for each sample, or the last's.

    >>> exit_positions(np.array([[0.9, 0.2], [0.5, 0.5], [0.1, 0.1]]), 0.6).tolist()
    [0, 2]
    """
    leaves = confidences >= threshold
    leaves[-1] = True
    return leaves.argmax(axis=0)


def fit_threshold(confidences, macs, average_budget):
    """Fits the confidence threshold, shared by all exits, that meets an average budget.

    A shared threshold grows with the budget, so no sample exits earlier under a larger budget.

    Args:
        confidences: array of shape `(exits, samples)`, on validation data.
        macs: the cost of each exit, ascending.
        average_budget: float, the maximum average cost per sample.

    Returns:
        The highest threshold within the budget: a float, at most `NEVER_SURE`.

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
        return macs[exit_positions(confidences, threshold)].mean()

    candidates = np.append(np.unique(confidences[:-1]), NEVER_SURE)
    # The cost rises with the threshold; at the lowest, all exit at the first.
    return float(candidates[bisect.bisect_right(candidates, average_budget, lo=1, key=cost) - 1])
