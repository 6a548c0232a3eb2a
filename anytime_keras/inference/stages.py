"""A model cut at its exits into stages that share its weights: each computes what its exit needs beyond the last."""

import keras

from anytime_keras import _errors, graph, runtime


class Stages:
    """The stages of a functional model with several outputs.

    Stage k takes what earlier stages leave it, and gives the logits of exit k and what later stages need. Run one after
    the other they compute every call of the graph once, and the same numbers as the whole model. The graph may have any
    form: what crosses from one stage to the next is found by walking it.

    Args:
        model: functional Keras model; its outputs are the exits. A snapshot is not taken: later changes of its weights
            are seen.
        exits: names of the exits to stop at, earliest first; None stops at all.

    Attributes:
        exit_names: the exits that are stopped at, a list of str.
    """

    def __init__(self, model, exits=None):
        if not graph.is_functional(model):
            raise ValueError(
                "Only a functional Keras model can be cut into stages. "
                f"Received: {type(model).__name__}. Build it with `keras.Model(inputs, outputs)` or "
                f"`anytime_keras.AnytimeModel`."
            )
        self.model = graph.functional(model)
        self._outputs = graph.outputs_by_name(self.model)
        self.exit_names = _chosen(exits, list(self._outputs))
        self._cuts = self._cut()
        self._programs = {}

    def __len__(self):
        return len(self.exit_names)

    def _cut(self):
        """Finds, for each stage, the tensors that it takes, and those that it leaves to later stages."""
        made, cuts = list(self.model.inputs), []
        needs = []
        for name in self.exit_names:
            calls = graph.calls(self._outputs[name], made)
            needs.append([tensor for call in calls for tensor in call.input_tensors] + [self._outputs[name]])
            made = made + [tensor for call in calls for tensor in call.output_tensors]
            cuts.append(calls)
        carried, available = [list(self.model.inputs)], {id(tensor): tensor for tensor in self.model.inputs}
        for position, calls in enumerate(cuts):
            available.update((id(tensor), tensor) for call in calls for tensor in call.output_tensors)
            later = {id(tensor) for need in needs[position + 1 :] for tensor in need}
            carried.append([tensor for key, tensor in available.items() if key in later])
        return carried

    def segment(self, first, last, heads=True):
        """Returns the model that goes from before stage `first` to the end of stage `last` (positions, from 0).

        Args:
            first, last: ints.
            heads: bool, whether to answer at the exits in between; the last always answers.

        Returns:
            A functional model from the carried tensors (a list) to a dict with "logits", a list with one entry for each
            exit that answers, and "carried", a list.
        """
        taken = self._cuts[first]
        names = self.exit_names[first : last + 1] if heads else [self.exit_names[last]]
        outputs = {"carried": self._cuts[last + 1], "logits": [self._outputs[name] for name in names]}
        return keras.Model(taken, outputs)

    def program(self, first, last, heads=True):
        """Returns `segment(first, last, heads)` compiled, made once."""
        key = (first, last, heads)
        if key not in self._programs:
            self._programs[key] = runtime.compiled(self.segment(first, last, heads))
        return self._programs[key]

    def start(self, x):
        """Returns the tensors that the first stage takes, for an input in the model's own structure."""
        flat = keras.tree.flatten(x)
        if len(flat) != len(self.model.inputs):
            raise ValueError(f"The model takes {len(self.model.inputs)} inputs. Received: {len(flat)}.")
        tensors = []
        for value, expected in zip(flat, self.model.inputs):
            tensor = keras.ops.convert_to_tensor(value, expected.dtype)
            fits = len(tensor.shape) == len(expected.shape) and all(
                own is None or own == size for size, own in zip(tensor.shape[1:], expected.shape[1:])
            )
            if not fits:
                raise ValueError(
                    f"Input '{expected.name}' must have shape {('batch', *expected.shape[1:])}. Received: shape "
                    f"{tuple(tensor.shape)}."
                )
            tensors.append(tensor)
        return tensors

    def stream(self, x):
        """Yields (exit's name, logits) stage by stage, computing each only when it is asked for."""
        carried = self.start(x)
        for position, name in enumerate(self.exit_names):
            result = self.program(position, position)(carried)
            carried = result["carried"]
            yield name, result["logits"][0]


def _chosen(exits, names):
    if exits is None:
        return names
    chosen = list(exits)
    for name in chosen:
        if name not in names:
            raise ValueError(
                f"`exits` names an exit that the model does not have. Received: {name!r}. "
                f"{_errors.nearest(name, names)}"
            )
    if not chosen or sorted(chosen, key=names.index) != chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"`exits` must name exits in order, each once. Received: {chosen}. The model's: {names}.")
    return chosen
