"""The stages of an exported network as an engine, with the interface that `early_exit` uses."""

import numpy as np


class ExportedStages:
    """Runs the stages of an exported network. Thread-safe.

    `load` is a function from a part's description to a `Part`. Batches of any size run: if the export has a fixed batch
    size, they are cut and padded. For the attributes, see `Engine`.
    """

    any_size = True

    def __init__(self, description, load):
        stages = description["stages"] or []
        self._batch_size = description["batch_size"]
        self._parts = [load(stage) for stage in stages]
        self._logits = [tensor["name"] for stage in stages for tensor in stage["outputs"] if tensor["exit"] is not None]
        tensors = [*description["inputs"], *(tensor for stage in stages for tensor in stage["outputs"])]
        shapes = {tensor["name"]: (None, *tensor["shape"][1:]) for tensor in tensors}
        self._carried = _carried([tensor["name"] for tensor in description["inputs"]], self._parts)
        self.takes = [[shapes[name] for name in names] for names in self._carried[:-1]]
        self.starts = [position == 0 for position in range(len(stages))]
        self.sigmoid = [stage["exit"] in description["sigmoid"] for stage in stages]

    def __len__(self):
        return len(self._parts)

    def stage(self, position, carried, inputs=None):
        """Runs a stage, counted from 0, on the tensors that the previous one returned; the first on the inputs.

        `inputs` is not used, because `carried` contains the inputs as long as a stage needs them. Returns the exit's
        logits, and the list of tensors for the next stage.
        """
        part, values = self._parts[position], dict(zip(self._carried[position], carried))
        values.update(zip(part.outputs, self._run(part, [values[name] for name in part.inputs])))
        return values[self._logits[position]], [values[name] for name in self._carried[position + 1]]

    def _run(self, part, tensors):
        count, size = len(tensors[0]), self._batch_size
        if size is None or count == size:
            return part(tensors)
        results = []
        for start in range(0, count, size):
            rows = np.minimum(np.arange(start, start + size), count - 1)  # repeats the last sample
            results.append(part([self.take(tensor, rows) for tensor in tensors]))
        return [np.concatenate(pieces)[:count] for pieces in zip(*results)]

    def take(self, tensor, rows):
        """Returns rows of a tensor."""
        return np.asarray(tensor)[rows]

    def array(self, tensor):
        """Returns a tensor as an array."""
        return np.asarray(tensor)


def _carried(inputs, parts):
    """Returns the names of the tensors before each stage, and after the last, that the stages from there on take."""
    carried, known = [list(inputs)], list(inputs)
    for position, part in enumerate(parts):
        known += part.outputs
        later = {name for other in parts[position + 1 :] for name in other.inputs}
        carried.append([name for name in known if name in later])
    return carried
