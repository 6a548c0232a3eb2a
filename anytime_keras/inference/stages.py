"""`Stages`: a model cut at its exits into stages that share its weights, without repeated computation."""

import keras
import numpy as np

from anytime_keras import _errors, graph
from anytime_keras.cost import exit_costs


class Stages:
    """Cuts a functional model with several outputs into stages, one per exit.

    Stage k takes tensors from earlier stages, and returns the logits of exit k and the tensors that later stages need.
    Run in order, the stages compute each call of the graph once and give the same results as the whole model. Any graph
    is supported, because the tensors that cross from one stage to the next are found by walking it.

    Args:
        model: functional Keras model whose outputs are the exits. The stages share its weights, so later changes of
            the weights take effect.
        exits: names of the exits to use, earliest first; None uses all.

    Attributes:
        exit_names: list of str, the exits in use.

    Example:
    >>> import anytime_keras as ak
    >>> model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
    >>> stages = ak.inference.Stages(model, exits=["exit_1", "exit_3"])
    >>> len(stages), list(stages.segment(0).output)
    (2, ['carried', 'logits'])
    """

    def __init__(self, model, exits=None):
        graph.check_functional(model)
        self.model = graph.opened(model)
        self._outputs = graph.outputs_by_name(self.model)
        self.exit_names = chosen_exits(exits, list(self._outputs))
        self._cuts = self._cut()

    def __len__(self):
        return len(self.exit_names)

    @property
    def inputs(self):
        """The network's input tensors, a list."""
        return self.model.inputs

    def at(self, exits):
        """Returns the stages of the same network for other exits."""
        return type(self)(self.model, exits)

    def members(self):
        """Lists the networks in order: pairs of a model, and a dict from an exit's name to the name of the output."""
        return [(self.model, {name: name for name in self.exit_names})]

    def _cut(self):
        """Returns the tensors at each cut: item k is what stage k takes, item k + 1 what it passes on."""
        made, cuts = list(self.model.inputs), []
        needs = []
        for name in self.exit_names:
            calls = graph.calls(self._outputs[name], made)
            masks = [mask for call in calls for mask in map(_mask, call.input_tensors) if mask is not None]
            calls = graph.calls([self._outputs[name], *masks], made)
            read = [tensor for call in calls for tensor in call.input_tensors]
            needs.append([*read, *masks, self._outputs[name]])
            made = made + [tensor for call in calls for tensor in call.output_tensors]
            cuts.append(calls)
        carried, available = [list(self.model.inputs)], {id(tensor): tensor for tensor in self.model.inputs}
        for position, calls in enumerate(cuts):
            available.update((id(tensor), tensor) for call in calls for tensor in call.output_tensors)
            later = {id(tensor) for need in needs[position + 1 :] for tensor in need}
            carried.append([tensor for key, tensor in available.items() if key in later])
        return carried

    def ends(self, position):
        """Returns the tensors of the network at the ends of a stage, without building its model.

        Returns:
            A tuple of a list, what the stage takes; its logits; and a list, what it passes to later stages. The
            tensors are those of `segment` if Keras attached masks to what the stage takes.
        """
        given = self._cuts[position]
        if any(_mask(tensor) is not None for tensor in given):
            segment = self.segment(position)
            return list(segment.inputs), segment.output["logits"], segment.output["carried"]
        return given, self._outputs[self.exit_names[position]], self._cuts[position + 1]

    def segment(self, position, head=True):
        """Returns one stage as a model.

        Args:
            position: int, from 0.
            head: bool, whether to include the exit's head; without it the stage only returns "carried".

        Returns:
            A functional model that shares the layers of the whole model. It takes a list of tensors, and returns a dict
            with "carried", the list of tensors for later stages, and "logits" if `head`.
        """
        outputs = {"carried": self._cuts[position + 1]}
        if head:
            outputs["logits"] = self._outputs[self.exit_names[position]]
        # `keras.Model(tensors, outputs)` disconnects the graph if a tensor is both an input and an output (Keras 3.15),
        # so repeat the calls on new inputs.
        given = self._cuts[position]
        inputs = [keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype) for tensor in given]
        values = {id(tensor): new for tensor, new in zip(given, inputs)}
        for tensor in given:
            if id(_mask(tensor)) in values:
                values[id(tensor)] = WithMask()([values[id(tensor)], values[id(_mask(tensor))]])
        graph.replay(graph.calls(outputs, given), values)
        return keras.Model(inputs, keras.tree.map_structure(lambda tensor: values[id(tensor)], outputs))

    def ends_in_sigmoid(self, position):
        """Returns whether an exit ends in a sigmoid, which makes each output an independent probability."""
        return graph.ends_in_sigmoid(self._outputs[self.exit_names[position]])

    def starts(self, position):
        """Returns whether a stage takes the network's input and no tensors of earlier stages."""
        return position == 0

    def start(self, x):
        """Converts an input in the model's structure to the list of tensors that the first stage takes.

        Raises:
            ValueError: if the input does not fit the model, or is empty.
        """
        values = self._in_order(x)
        if len(values) != len(self.inputs):
            raise ValueError(f"The model takes {len(self.inputs)} inputs. Received: {len(values)}.")
        tensors = []
        for value, expected in zip(values, self.inputs):
            what = f"Input '{expected.name}' must be an array of numbers. Received: {type(value).__name__}; "
            with _errors.explained(what, Exception):  # backends raise different types
                tensor = keras.ops.convert_to_tensor(value, expected.dtype)
            sizes = zip(tensor.shape, expected.shape)
            if len(tensor.shape) != len(expected.shape) or any(own not in (None, size) for size, own in sizes):
                raise ValueError(
                    f"Input '{expected.name}' must have shape {('batch', *expected.shape[1:])}. Received: shape "
                    f"{tuple(tensor.shape)}."
                )
            tensors.append(tensor)
        sizes = {tensor.shape[0] for tensor in tensors}
        if len(sizes) > 1 or 0 in sizes:
            raise ValueError(f"Inputs must be one batch of a sample or more. Received: batches of {sorted(sizes)}.")
        return tensors

    def size(self, started):
        """Returns the batch size, or the shapes of all inputs if other axes are dynamic too. Latency depends on it.

        Args:
            started: list of tensors, the result of `start` for an input.
        """
        if any(None in tensor.shape[1:] for tensor in self.inputs):
            return tuple(tuple(tensor.shape) for tensor in started)
        return started[0].shape[0]

    def _in_order(self, x):
        """Returns the inputs as a list in the model's order; a dict may also be keyed by input names."""
        if not isinstance(x, dict):
            several = isinstance(x, (list, tuple)) and len(self.inputs) > 1
            return keras.tree.flatten([_whole(value) for value in x] if several else _whole(x))
        given = self.model.input
        names = list(given) if isinstance(given, dict) else [tensor.name for tensor in self.inputs]
        if set(x) != set(names):
            raise ValueError(f"The model takes the inputs {names}. Received: {list(x)}.")
        in_order = keras.tree.flatten({name: name for name in names}) if isinstance(given, dict) else names
        return [_whole(x[name]) for name in in_order]

    def costs(self, started):
        """Counts the cost of each exit in use, excluding the heads of unused exits.

        Args:
            started: list of tensors, the result of `start` for an input. Its shapes replace dynamic dimensions.

        Returns:
            A list of `ExitCost`.
        """
        outputs = {name: self._outputs[name] for name in self.exit_names}
        shapes = [tuple(tensor.shape[1:]) for tensor in started]
        return exit_costs(keras.Model(self.inputs, outputs), input_shape=shapes)


def stages_of(model, dtype):
    """Cuts a model at all its exits."""
    if not isinstance(model, keras.Model) and hasattr(model, "stages"):
        return model.stages(dtype=dtype)
    stages = Stages(model)
    if len(stages) < 2:
        raise ValueError(
            f"`model` must have two exits or more to be anytime. Received: model '{model.name}' with one output. "
            "Give it exits with `anytime_keras.to_anytime`."
        )
    return stages if dtype is None else Stages(in_dtype(stages.model, dtype))


def evenly(stages, example, most):
    """Chooses at most `most` exits, evenly spaced by cost, including the first and the last."""
    if len(stages) <= most:
        return list(stages.exit_names)
    macs = np.array([cost.with_head for cost in stages.costs(stages.start(example))], float)
    nearest = {int(np.abs(macs - target).argmin()) for target in np.linspace(macs[0], macs[-1], most)}
    return [stages.exit_names[position] for position in sorted(nearest | {0, len(macs) - 1})]


def _mask(tensor):
    """Returns the mask that Keras attached to a symbolic tensor (itself a tensor of the graph), or None."""
    return getattr(tensor, "_keras_mask", None)


class WithMask(keras.Layer):
    """Reattaches a mask to a tensor, because tensors lose their masks between stages.

    Most layers receive masks as arguments of their call; a layer of another precision reads it from the tensor.
    """

    def __init__(self):
        super().__init__(autocast=False)
        self.supports_masking = True

    def call(self, inputs):
        return inputs[0]

    def compute_mask(self, inputs, previous_mask):
        return inputs[1]


def in_dtype(model, dtype):
    """Copies a functional model, including its weights, to another dtype policy.

    Args:
        model: functional model.
        dtype: dtype policy for all layers, such as `"bfloat16"`.

    Returns:
        A functional model with a dict of outputs.
    """
    policy = keras.dtype_policies.serialize(keras.dtype_policies.get(dtype))

    def copy(layer):
        config = layer.get_config()
        if isinstance(layer, keras.layers.Lambda):  # Keras refuses functions from files, but this is the user's own
            return type(layer).from_config(_under(policy, config), safe_mode=False)
        # Plain operations have no dtype policy.
        return type(layer).from_config(_under(policy, config) if isinstance(layer, keras.Layer) else config)

    plain = keras.Model(model.input, graph.outputs_by_name(model))
    clone = keras.models.clone_model(plain, clone_function=copy, recursive=True)
    for layer, original in zip(graph.sublayers(clone), graph.sublayers(plain)):
        _check_copy(layer, original)
    for layer, original in zip(clone.layers, plain.layers, strict=True):
        for variable, value in zip(layer.variables, original.variables, strict=True):
            variable.assign(keras.ops.cast(value, variable.dtype))
    return clone


def _check_copy(copied, original):
    """Raises if the config of a third-party layer left out a number, which its copy then has by default."""
    if not graph.is_foreign(original):
        return
    for name, value in vars(original).items():
        plain = isinstance(value, (bool, int, float)) and not name.startswith("_")
        if plain and getattr(copied, name, value) != value:
            raise ValueError(
                f"`dtype` copies each layer through its config. Expected: {name}={value} in the copy of "
                f"'{original.name}', a {type(original).__name__}. Received: {name}={getattr(copied, name)}. Return "
                f"`{name}` from the layer's `get_config`, or leave `dtype` out."
            )


def _under(policy, config):
    """Sets the dtype policy in the config of a layer and its nested layers.

    Initializers are set to zeros, because the values are assigned later and some initializers lack some dtypes.
    """
    if isinstance(config, (list, tuple)):
        return type(config)(_under(policy, value) for value in config)
    if not isinstance(config, dict) or config.get("class_name") in ("InputLayer", "__keras_tensor__"):
        return config
    changed = {}
    for key, value in config.items():
        if key == "dtype" and keras.backend.is_float_dtype(keras.dtype_policies.get(value).compute_dtype):
            changed[key] = policy
        elif key.endswith("initializer") and value is not None:
            changed[key] = "zeros"
        else:
            changed[key] = _under(policy, value)
    return changed


def _whole(value):
    """Converts nested lists of numbers to an array; returns other values, such as lists of arrays, unchanged."""
    if not isinstance(value, (list, tuple)) or any(hasattr(leaf, "shape") for leaf in keras.tree.flatten(value)):
        return value
    with _errors.explained("An input must be an array of numbers. Received: lists that form none; ", ValueError):
        return np.asarray(value)


def chosen_exits(exits, names):
    """Returns the names of the exits to use, in order, or all if `exits` is None; raises ValueError for others."""
    if exits is None:
        return names
    if not isinstance(exits, (list, tuple)) or not all(isinstance(name, str) for name in exits):
        raise ValueError(f"`exits` must be a list of names, such as `['exit_1', 'exit_3']`. Received: {exits!r}.")
    chosen = list(exits)
    _errors.check_known(chosen, names, "`exits` names an exit that the model does not have. Received: '{}'.")
    if not chosen or sorted(chosen, key=names.index) != chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"`exits` must name exits in order, each once. Received: {chosen}. The model's: {names}.")
    return chosen
