"""Converts a functional Keras model to an anytime model whose last exit is the original output, and saves it."""

from collections.abc import Callable, Sequence

import keras
from keras import layers

from anytime_keras import _errors, graph
from anytime_keras._checks import check_int, check_one
from anytime_keras.cost import rules
from anytime_keras.models import heads, places
from anytime_keras.models.anytime_model import AnytimeModel, BuiltModel
from anytime_keras.preprocessing import Preprocessor, of_pretrained

_FEATURES = (*rules.NORMALIZATIONS, *heads.POOLING.values(), layers.RNN, layers.Bidirectional)
_FEATURES += (layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D)
# Activations used between layers, not on final outputs; in lower case without underscores.
_HIDDEN_ACTIVATIONS = {"relu", "relu6", "leakyrelu", "prelu", "elu", "selu", "celu", "gelu", "glu", "silu", "hardsilu"}
_HIDDEN_ACTIVATIONS |= {"mish", "tanh", "hardtanh", "tanhshrink", "softsign", "squareplus"}


def to_anytime(
    model: keras.Model,
    exits: Sequence[str] | None = None,
    num_exits: int | None = None,
    every: int | None = None,
    head: str | Callable = "pool",
    num_classes: int | None = None,
    input_shape: Sequence | None = None,
    preprocessor: Preprocessor | None = None,
) -> AnytimeModel:
    """Turns a functional Keras model into an anytime model that shares its layers and weights.

    The model's output becomes the last exit, with unchanged values. New heads end in the same activation as the
    model's own head, such as a softmax, so that one loss serves all exits. Training the anytime model trains the
    original. Nested functional models, and layers that only chain blocks, such as keras-hub's `ViTEncoder`, are
    flattened, so that exits can be placed inside them.

    Place the exits with one of `exits`, `num_exits` and `every`. The last two choose among candidate positions where
    the graph is one tensor wide: residual joins, ends of blocks. The exits are named `exit_1`, ... .

    Args:
        model: functional `keras.Model` or built `keras.Sequential` with one output.
        exits: list of the names of layers whose results exits read. The last exit is not named.
        num_exits: int, the number of exits including the last; they divide the model's MACs as evenly as the
            candidates allow.
        every: int, an exit at every `every`-th candidate, plus the last exit.
        head: `"pool"` (global average pooling and a linear layer; features that do not come from an activation are
            normalised first, see `anytime_keras.models.heads.pool_head`), `"msd"` (MSDNet's head: two 3x3
            convolutions of stride 2 before that), or a function `(features, name) -> logits` whose results match the
            model's own output, activation included.
        num_classes: int; None uses the model's own. Required for a model without a head (a backbone), which gets a
            new head on its output as the last exit.
        input_shape: shape without batch axis, or a list of shapes, at which to count MACs if the model leaves sizes
            open. By default open sizes count as 224 in images and 128 in sequences.
        preprocessor: `anytime_keras.preprocessing.Preprocessor` of the model, so that a `Classifier` or `finetune`
            takes photos. None uses the one of `keras.applications` or keras-hub, if the model is from there, see
            `anytime_keras.preprocessing.of_pretrained`.

    Returns:
        `AnytimeModel`, with the `preprocessor` if there is one.

    Raises:
        ValueError: if the model is not functional, if a layer cannot carry an exit (the error says which and why),
            or if a layer's cost cannot be counted (see `anytime_keras.cost.register_rule`).

    Example:
    >>> import keras, anytime_keras as ak
    >>> base = keras.applications.MobileNet(input_shape=(32, 32, 3), alpha=0.25, weights=None, classes=10)
    >>> model = ak.to_anytime(base, num_exits=3)
    >>> model.exit_names
    ['exit_1', 'exit_2', 'exit_3']
    >>> [round(exit.macs / model.exits[-1].macs, 2) for exit in model.exits]
    [0.33, 0.63, 1.0]
    >>> ak.to_anytime(base, exits=["conv_pw_5_relu"]).num_exits
    2
    """
    _check(exits, num_exits, every, head)
    original, model = model, _checked_model(model)
    (output,), opened = graph.flatten(model)
    num_classes = None if num_classes is None else check_int("num_classes", num_classes)
    keeps_head = _keeps_head(model, output, head, num_classes)
    if exits is not None:
        chosen = places.by_layer_name(model, output, opened, list(exits))
    else:
        wanted = 2 if num_exits is None else num_exits - 1
        found, total = places.candidates(model, output, keeps_head, wanted, input_shape)
        chosen = places.every_nth(found, every) if every else places.evenly_by_cost(found, total, num_exits)
    features = [call.output_tensors[0] for call in chosen]
    if not keeps_head:
        features.append(output)
    elif num_classes is None:
        num_classes = output.shape[-1]

    _check_names(output, model, len(features) + keeps_head)
    activations = heads.output_activations(output) if keeps_head and not callable(head) else []
    answers = {}
    for number, x in enumerate(features, start=1):
        name = f"exit_{number}"
        if callable(head):
            answers[name] = _checked_answer(head(x, name), name, output if keeps_head else None)
        else:
            answers[name] = heads.append_activations(heads.HEADS[head](x, name, num_classes), activations, name)
    if keeps_head:
        answers[f"exit_{len(answers) + 1}"] = output
    anytime = ConvertedModel(original, output, answers, name=f"anytime_{model.name}", dtype=model.dtype_policy)
    anytime.preprocessor = of_pretrained(original, input_shape) if preprocessor is None else preprocessor
    return anytime


def _check(exits, num_exits, every, head):
    check_one(exits=exits, num_exits=num_exits, every=every)
    listed = isinstance(exits, (list, tuple)) and len(exits) > 0 and all(isinstance(name, str) for name in exits)
    if exits is not None and not listed:
        raise ValueError(f"`exits` must be a list of layer names. Received: exits={exits!r}.")
    for argument, value, least in (("num_exits", num_exits, 2), ("every", every, 1)):
        if value is not None:
            check_int(argument, value, least)
    if not callable(head) and head not in heads.HEADS:
        raise ValueError(
            "`head` must be 'pool', 'msd' or a function (features, name) -> logits. "
            f"Received: head={head!r}. {_errors.nearest(head, heads.HEADS)}"
        )


def _checked_model(model):
    graph.check_functional(model)
    if not graph.runs_its_graph(model):
        raise ValueError(
            f"`model` must not override `call`. Received: '{model.name}' of type {type(model).__name__}, which does. "
            "Pass `keras.Model(model.inputs, model.outputs)` if the model's graph computes the same."
        )
    inner = graph.functional(model)
    if len(inner.outputs) != 1:
        one = f"output[{list(inner.output)[-1]!r}]" if isinstance(inner.output, dict) else "outputs[0]"
        raise ValueError(
            "`model` must have one output, which becomes the last exit. "
            f"Received: '{model.name}' with outputs {inner.output_names}. "
            f"Choose one: `keras.Model(model.inputs, model.{one})`."
        )
    return inner


def _keeps_head(model, output, head, num_classes):
    """Returns whether the model's output is a prediction (the last exit), not features that still need a head."""
    is_answer = len(output.shape) == 2 and not _is_features(graph.producer(output))
    if num_classes is None:
        if not is_answer and not callable(head):
            raise ValueError(
                "`num_classes` must be given for a model without a head. Received: num_classes=None for "
                f"'{model.name}', whose output of shape {output.shape} holds features, not classes. "
                "Pass the number of classes, or a function as `head` if the output is a prediction."
            )
        return True
    fits = output.shape[-1] == num_classes
    if is_answer and not fits and not graph.is_foreign(graph.producer(output).operation):
        raise ValueError(
            "`num_classes` must equal the number of classes of the model's own head, because all exits share one "
            f"label. Received: num_classes={num_classes} for '{model.name}', whose output has shape {output.shape}. "
            "Leave it out, or build the model without its head (`include_top=False`)."
        )
    return is_answer and fits


def _is_features(call):
    """Returns whether a vector comes from pooling, flattening, normalisation or a hidden layer, not a classifier."""
    while not _is_hidden(call.operation):
        weightless = not getattr(call.operation, "weights", None)
        if not weightless or len(call.input_tensors) != 1:
            return False
        reshapes = len(call.input_tensors[0].shape) > 2
        if reshapes and not heads.squeezes(call):
            return True
        if not reshapes and not isinstance(call.operation, heads.DROPOUT):
            return False
        call = graph.producer(call.input_tensors[0])
    return True


def _is_hidden(operation):
    activation = None if graph.is_foreign(operation) else getattr(operation, "activation", None)
    named = type(operation) if activation is None else activation
    name = getattr(named, "__name__", type(named).__name__)  # an activation may be a layer
    return isinstance(operation, _FEATURES) or name.replace("_", "").lower() in _HIDDEN_ACTIVATIONS


def _checked_answer(answer, name, output):
    expected = "a tensor" if output is None else f"a tensor of shape {output.shape}, as the model's own output"
    if not isinstance(answer, keras.KerasTensor) or (output is not None and answer.shape != output.shape):
        raise ValueError(f"`head` must return {expected}. Received: {answer} for '{name}'.")
    return answer


def _check_names(output, model, num_exits):
    names = {call.operation.name for call in graph.calls(output)} | {tensor.name for tensor in model.inputs}
    for number in range(1, num_exits + 1):
        taken = sorted(name for name in names if name == f"exit_{number}" or name.startswith(f"exit_{number}_"))
        if taken:
            raise ValueError(
                f"The names exit_1 to exit_{num_exits} must be free for the exits. "
                f"Received: model '{model.name}' with layers {taken}. Rename these layers."
            )


@keras.saving.register_keras_serializable(package="anytime_keras")
class ConvertedModel(BuiltModel):
    """The model that `to_anytime` returns; its config contains the original model, serialised by its own class."""

    def __init__(self, original, output, answers, name=None, **kwargs):
        super().__init__(inputs=graph.functional(original).input, outputs=answers, name=name, **kwargs)
        # Not tracked by Keras, because the model already tracks the layers.
        vars(self)["_original"], vars(self)["_output"] = original, output

    def get_config(self):
        answers = graph.outputs_by_name(self)
        new = {name: tensor for name, tensor in answers.items() if tensor is not self._output}
        heads, reads = _apart(new, _tensors(self, self._output))
        original = keras.saving.serialize_keras_object(self._original)
        original.pop("compile_config", None)  # the original is no longer trained on its own
        serialized = keras.saving.serialize_keras_object(heads)
        config = {"original": original, "heads": serialized, "reads": reads, "exits": list(answers), **self._settings()}
        graph.forget(graph.calls(heads.outputs))
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        load = keras.saving.deserialize_keras_object
        original, heads = (load(config.pop(key), custom_objects) for key in ("original", "heads"))
        (output,), _ = graph.flatten(graph.functional(original))
        known = _tensors(graph.functional(original), output)
        values = graph.run(heads, [known[number] for number in config.pop("reads")])
        answers = {name: values[id(tensor)] for name, tensor in graph.outputs_by_name(heads).items()}
        trainable = config.pop("trainable")
        model = cls(original, output, {name: answers.get(name, output) for name in config.pop("exits")}, **config)
        model.trainable = trainable
        return model


def _tensors(model, output):
    """Lists the model's inputs and all tensors on the way to `output`, in the same order before and after saving."""
    return list(model.inputs) + [tensor for call in graph.calls(output) for tensor in call.output_tensors]


def _apart(answers, known):
    """Builds a separate model of the heads, from the tensors `known` of the original to `answers`.

    Returns the model, and the indices of its inputs in `known`: features, and the masks that Keras passes with them.
    """
    place, calls = {id(tensor): number for number, tensor in enumerate(known)}, graph.calls(answers, known)
    read = [tensor for call in calls for tensor in call.input_tensors] + list(answers.values())
    reads = sorted({place[id(tensor)] for tensor in read if id(tensor) in place})
    # `keras.Model(tensors, outputs)` breaks if some of the tensors are inputs and others are not (Keras 3.15), so the
    # calls are repeated on new inputs.
    inputs = [keras.Input(batch_shape=known[number].shape, dtype=known[number].dtype) for number in reads]
    values = graph.replay(calls, {id(known[number]): new for number, new in zip(reads, inputs)})
    return keras.Model(inputs, {name: values[id(tensor)] for name, tensor in answers.items()}), reads
