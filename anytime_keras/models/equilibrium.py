"""Gradient equilibrium: averages the exits' gradients in the layers that they share, instead of summing them.

Reference: [Li, Zhang, Qi, Yang, Huang, ICCV 2019](https://arxiv.org/abs/1908.06294), section 3.1.
"""

import keras
from keras import ops

from anytime_keras import graph
from anytime_keras.models.anytime_model import AnytimeModel


@keras.saving.register_keras_serializable(package="anytime_keras")
class GradientScale(keras.layers.Layer):
    """The identity, whose gradient in training is multiplied by `factor`.

    Args:
        factor: float.

    Example:
    >>> import keras
    >>> keras.ops.convert_to_numpy(GradientScale(0.5)(keras.ops.convert_to_tensor([3.0]))).tolist()
    [3.0]
    """

    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x, training=False):
        if not training:
            return x  # nothing to export
        kept = ops.stop_gradient(x)
        return kept + self.factor * (x - kept)  # exactly x, because the second term is 0

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


def gradient_equilibrium(model: keras.Model) -> AnytimeModel:
    """Returns the same network with gradients scaled between its stages, so that each layer gets a mean over its exits.

    Without it, the gradient at the first stage is the sum over all n exits. With it, layers that the exits i to n
    depend on get the mean over these exits, `1 / (n - i + 1)` of the sum; an exit's own head gets its whole gradient.
    The outputs are identical. It changes the graph instead of the losses' weights, so it can be combined with any
    weighting.

    The reference scales only the coarsest feature maps of MSDNet, where its exits are; here, all tensors that pass from
    stage to stage are scaled.

    Args:
        model: functional Keras model with several outputs, such as an `AnytimeModel`, not yet compiled.

    Returns:
        An `AnytimeModel` with the same layers, and with `GradientScale` layers between them.

    Raises:
        ValueError: if the model is not functional.

    Example:
    >>> import anytime_keras as ak
    >>> model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
    >>> scaled = gradient_equilibrium(model)
    >>> sorted({round(layer.factor, 3) for layer in scaled.layers if isinstance(layer, GradientScale)})  # of 3 exits
    [0.333, 0.5, 0.667]
    """
    graph.check_functional(model)
    outputs = graph.outputs_by_name(model)
    shares = _shares(model, outputs)
    values = {id(tensor): tensor for tensor in graph.functional(model).inputs}
    made: dict[int, float] = {}  # the share of the call that made a tensor, not an input
    scaled: dict[tuple, keras.KerasTensor] = {}

    def scale(tensor, share):
        factor = made.get(id(tensor), share) / share
        if factor == 1.0:
            return values[id(tensor)]
        key = id(tensor), factor
        if key not in scaled:
            name = f"{graph.producer(tensor).operation.name}_gradient_{len(scaled) + 1}"
            scaled[key] = GradientScale(factor, name=name, dtype=tensor.dtype)(values[id(tensor)])
        return scaled[key]

    for call in graph.calls(list(outputs.values()), model.inputs):
        share = shares[id(call)]
        given = graph.replay([call], {id(tensor): scale(tensor, share) for tensor in call.input_tensors})
        for tensor in call.output_tensors:
            values[id(tensor)], made[id(tensor)] = given[id(tensor)], share
    new = {name: values[id(tensor)] for name, tensor in outputs.items()}
    return AnytimeModel(model.input, new, name=model.name, dtype=getattr(model, "dtype_policy", None))


def _shares(model, outputs):
    """Returns the share of the summed gradients that each call's parameters get, by the call's `id`."""
    last = len(outputs)
    first, users = {}, {}
    for number, tensor in enumerate(outputs.values(), 1):
        for call in graph.calls(tensor, model.inputs):
            first.setdefault(id(call), number)
            users[id(call)] = users.get(id(call), 0) + 1
    # Calls that a single exit depends on are its head, which gets its whole gradient.
    return {call: 1.0 if users[call] == 1 else 1.0 / (last - number + 1) for call, number in first.items()}
