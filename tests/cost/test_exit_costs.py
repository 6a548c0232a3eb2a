import math

import keras
import numpy as np
import pytest
from keras import layers

import anytime_keras as ak
from anytime_keras import cost


def of_layer(layer, *shapes):
    inputs = [keras.Input(shape) for shape in shapes]
    model = keras.Model(inputs, layer(*inputs))
    (record,) = cost.exit_costs(model)
    return record.with_all_heads


# Each number is computed by hand: outputs x products for one output.
@pytest.mark.parametrize(
    "layer, shapes, expected",
    [
        (layers.Conv2D(8, 3, padding="same"), [(10, 10, 4)], 100 * 8 * 9 * 4),
        (layers.Conv2D(8, 3), [(10, 10, 4)], 64 * 8 * 9 * 4),
        (layers.Conv2D(8, 3, strides=2, padding="same"), [(7, 9, 4)], 4 * 5 * 8 * 9 * 4),
        (layers.Conv2D(8, 3, dilation_rate=2), [(10, 10, 4)], 36 * 8 * 9 * 4),
        (layers.Conv2D(8, 3, groups=4, padding="same"), [(10, 10, 4)], 100 * 8 * 9 * 1),
        (layers.Conv1D(8, 5, padding="causal"), [(10, 4)], 10 * 8 * 5 * 4),
        (layers.Conv3D(2, (1, 2, 3), padding="same"), [(4, 5, 6, 3)], 120 * 2 * 6 * 3),
        (layers.Conv2DTranspose(8, 3, strides=2, padding="same"), [(5, 5, 4)], 25 * 4 * 9 * 8),
        (layers.Conv1DTranspose(8, 3, strides=2), [(5, 4)], 5 * 4 * 3 * 8),
        (layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2), [(10, 10, 4)], 100 * 8 * 9),
        (layers.DepthwiseConv1D(3), [(10, 4)], 8 * 4 * 3),
        (layers.SeparableConv2D(8, 3, padding="same", depth_multiplier=2), [(10, 10, 4)], 100 * (8 * 9 + 8 * 8)),
        (layers.SeparableConv1D(8, 3, padding="same"), [(10, 4)], 10 * (4 * 3 + 4 * 8)),
        (layers.Dense(7), [(5,)], 35),
        (layers.Dense(7), [(3, 5)], 105),
        (layers.EinsumDense("abc,cd->abd", output_shape=(3, 7)), [(3, 5)], 105),
        (layers.EinsumDense("...x,xy->...y", output_shape=7), [(2, 3, 5)], 210),
        (layers.EinsumDense("abc,cde->abde", output_shape=(3, 2, 4)), [(3, 5)], 3 * 5 * 8),
        (layers.BatchNormalization(), [(10, 10, 4)], 0),
        (layers.LayerNormalization(), [(10, 4)], 0),
        (layers.PReLU(), [(10, 4)], 0),
        (layers.Embedding(100, 8), [(10,)], 0),
        (layers.SimpleRNN(6), [(10, 4)], 10 * 6 * (4 + 6)),
        (layers.GRU(6, return_sequences=True), [(10, 4)], 10 * 3 * 6 * (4 + 6)),
        (layers.LSTM(6), [(10, 4)], 10 * 4 * 6 * (4 + 6)),
        (layers.RNN([layers.LSTMCell(6), layers.GRUCell(5)]), [(10, 4)], 10 * (4 * 6 * 10 + 3 * 5 * 11)),
        (layers.Bidirectional(layers.LSTM(6)), [(10, 4)], 2 * 10 * 4 * 6 * 10),
        (layers.TimeDistributed(layers.Dense(7)), [(10, 5)], 10 * 35),
        (layers.TimeDistributed(layers.Conv2D(2, 3, padding="same")), [(6, 4, 4, 3)], 6 * 16 * 2 * 9 * 3),
        (layers.ConvLSTM2D(5, 3, padding="same"), [(6, 4, 4, 3)], 6 * 16 * 9 * 4 * 5 * (3 + 5)),
        (layers.ConvLSTM1D(5, 3), [(6, 8, 3)], 6 * 6 * 3 * 4 * 5 * (3 + 5)),
        (layers.SpectralNormalization(layers.Dense(7)), [(5,)], 35),
        # targets 10, sources 7, 2 heads of 3 (values of 4), width 8 and 6
        (
            layers.MultiHeadAttention(2, 3, value_dim=4),
            [(10, 8), (7, 6)],
            10 * 8 * 6 + 7 * 6 * 6 + 7 * 6 * 8 + 10 * 8 * 8 + 2 * 10 * 7 * (3 + 4),
        ),
        (
            layers.MultiHeadAttention(2, 3, output_shape=5),
            [(10, 8), (10, 8)],
            3 * 10 * 8 * 6 + 10 * 6 * 5 + 2 * 10 * 10 * 6,
        ),
        (
            layers.MultiHeadAttention(2, 3, attention_axes=2),
            [(4, 5, 8), (4, 5, 8)],
            4 * (4 * 5 * 8 * 6 + 2 * 5 * 5 * 6),
        ),
        (
            layers.GroupQueryAttention(3, 4, 2),
            [(10, 8), (7, 8)],
            10 * 8 * 12 + 2 * 7 * 8 * 6 + 10 * 12 * 8 + 4 * 10 * 7 * 6,
        ),
    ],
)
def test_layers_computed_by_hand(layer, shapes, expected):
    assert of_layer(layer, *shapes) == expected


def test_dot_attention():
    query, value = keras.Input((10, 8)), keras.Input((7, 8))
    model = keras.Model([query, value], layers.Attention()([query, value]))
    assert cost.exit_costs(model)[0].with_all_heads == 2 * 10 * 7 * 8


def test_products_of_activations():
    a, b = keras.Input((4, 5)), keras.Input((5, 6))
    model = keras.Model([a, b], {"matmul": keras.ops.matmul(a, b), "einsum": keras.ops.einsum("bij,bjk->bk", a, b)})
    assert [record.with_head for record in cost.exit_costs(model)] == [120, 120]


def test_the_three_costs_of_each_exit():
    """A shared stem, a body for the second exit, and a head for each exit."""
    image = keras.Input((8, 8, 2))
    stem = layers.Conv2D(3, 1)(image)
    body = layers.Conv2D(5, 1)(stem)
    early = layers.Dense(10, name="early")(layers.GlobalAveragePooling2D()(layers.Conv2D(7, 1)(stem)))
    late = layers.Dense(10, name="late")(layers.Flatten()(body))
    model = ak.AnytimeModel(image, {"early": early, "late": late})
    stem_macs, body_macs, early_head, late_head = 64 * 6, 64 * 15, 64 * 21 + 70, 64 * 5 * 10
    first, last = cost.exit_costs(model)
    assert (first.exit, last.exit) == ("early", "late")
    assert (first.backbone, last.backbone) == (stem_macs, stem_macs + body_macs)
    assert (first.with_head, last.with_head) == (stem_macs + early_head, stem_macs + body_macs + late_head)
    assert (first.with_all_heads, last.with_all_heads) == (
        stem_macs + early_head,
        stem_macs + early_head + body_macs + late_head,
    )
    assert first.params == (2 + 1) * 3 + (3 + 1) * 7 + (7 + 1) * 10
    assert last.params == model.count_params()
    convolutions = cost.exit_costs(model, layers="conv")
    assert [record.with_all_heads for record in convolutions] == [stem_macs + 64 * 21, stem_macs + 64 * 21 + body_macs]
    assert convolutions[-1].params == model.count_params() - (7 + 1) * 10 - (320 + 1) * 10


def test_shared_and_nested_layers():
    shared = layers.Dense(4)
    inner_input = keras.Input((4,))
    inner = keras.Model(inner_input, layers.Dense(6)(shared(inner_input)))
    inputs = keras.Input((4,))
    x = inner(shared(inputs))
    model = keras.Model(inputs, {"a": x, "b": keras.Sequential([layers.Dense(2)])(x)})
    first, last = cost.exit_costs(model)
    assert first.with_head == 16 + (16 + 24)  # the shared layer runs twice
    assert last.with_head == first.with_head + 12
    assert last.params == 20 + 30 + 14  # but is stored once


def test_positions_that_are_moved_into_the_batch_axis_all_count():
    inputs = keras.Input((8, 8, 16))
    x = layers.Dense(10)(keras.ops.reshape(inputs, (-1, 16)))
    x = layers.GlobalAveragePooling1D()(keras.ops.reshape(x, (-1, 64, 10)))
    assert cost.exit_costs(keras.Model(inputs, x))[0].with_all_heads == 64 * 16 * 10


def test_a_batch_that_a_custom_layer_leaves_open_is_one_sample():
    class Open(layers.Layer):
        def call(self, x):
            return x

        def compute_output_shape(self, shape):
            return (None, *shape[1:])

    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(3)(Open()(inputs)))
    assert cost.exit_costs(model)[0].with_all_heads == 12
    assert cost.exit_costs(keras.Model(inputs, model(inputs)))[0].with_all_heads == 12


def test_a_composite_layer_is_counted_by_what_it_calls():
    class Twice(layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(5)
            self.norm = layers.LayerNormalization()

        def call(self, x, training=False):
            return self.dense(self.norm(self.dense(x)))

    layer = Twice()
    assert of_layer(layer, (3, 5)) == 2 * 3 * 25
    assert not layer.dense._inbound_nodes and not layer.norm._outbound_nodes  # counting leaves the model unchanged


def test_a_layer_is_counted_by_the_products_in_its_call():
    class Mixing(layers.Layer):
        def build(self, shape):
            self.mix = self.add_weight(shape=(shape[-1], 7))
            self.scale = self.add_weight(shape=(7,))

        def call(self, x):
            x = keras.ops.matmul(x, self.mix) * self.scale
            scores = keras.ops.einsum("btd,bsd->bts", x, x)
            return keras.ops.softmax(scores) @ x

    assert of_layer(Mixing(), (3, 5)) == 3 * 5 * 7 + 2 * 3 * 3 * 7

    class Weightless(layers.Layer):
        def call(self, x):
            return keras.ops.nn.dot_product_attention(x, x, x)

    assert of_layer(Weightless(), (6, 2, 4)) == 2 * 2 * 6 * 6 * 4


def test_convolutions_written_with_operations():
    class Convolutions(layers.Layer):
        def build(self, shape):
            self.full = self.add_weight(shape=(3, 3, 4, 8))
            self.depthwise = self.add_weight(shape=(3, 3, 4, 2))
            self.pointwise = self.add_weight(shape=(1, 1, 8, 5))
            self.back = self.add_weight(shape=(2, 2, 6, 5))

        def call(self, x):
            full = keras.ops.conv(x, self.full, padding="same")
            deep = keras.ops.depthwise_conv(x, self.depthwise, padding="same")
            both = keras.ops.separable_conv(x, self.depthwise, self.pointwise, padding="same")
            wide = keras.ops.conv_transpose(both, self.back, strides=2)
            return full, deep, wide

    image = keras.Input((6, 6, 4))
    layer = Convolutions()
    layer.build(image.shape)
    expected = 36 * (8 * 9 * 4 + 8 * 9 + (8 * 9 + 8 * 5) + 5 * 4 * 6)
    assert cost.macs(layer, image) == expected


def test_the_dot_layer_contracts_the_axes_it_is_given():
    for axes, shapes, expected in ((1, [(3, 5), (3, 7)], 5 * 7 * 3), ((2, 1), [(4, 3), (3, 7)], 4 * 7 * 3)):
        inputs = [keras.Input(shape) for shape in shapes]
        model = keras.Model(inputs, layers.Dot(axes=axes)(inputs))
        assert cost.exit_costs(model)[0].with_all_heads == expected


def test_a_layer_without_a_rule_is_named_and_a_rule_can_be_registered():
    class Mixing(layers.Layer):
        def build(self, shape):
            self.mix = self.add_weight(shape=(shape[-1], shape[-1]))

        def call(self, x):
            return keras.ops.matmul(x.numpy(), self.mix)  # no symbolic tensor has numbers

        def compute_output_shape(self, shape):
            return shape

    with pytest.raises(ValueError, match="'odd_one' of type Mixing.*register_rule"):
        of_layer(Mixing(name="odd_one"), (5,))
    cost.register_rule(Mixing, lambda layer, inputs, outputs: math.prod(outputs[0]) * inputs[0][-1])
    assert of_layer(Mixing(), (5,)) == 25
    assert of_layer(layers.TimeDistributed(Mixing()), (3, 5)) == 75
    with pytest.raises(TypeError, match="class of Keras layers"):
        cost.register_rule("Mixing", len)
    with pytest.raises(TypeError, match="`rule` must be a function.*Received: 35"):
        cost.register_rule(Mixing, 35)


def test_a_reversed_embedding_is_a_product():
    tokens = keras.Input((7,), dtype="int32")
    embedding = layers.ReversibleEmbedding(100, 8)
    model = keras.Model(tokens, {"vectors": embedding(tokens), "scores": embedding(embedding(tokens), reverse=True)})
    assert [record.with_head for record in cost.exit_costs(model)] == [0, 7 * 8 * 100]


class Doubled(layers.Dense):
    def call(self, x):
        return super().call(x) + keras.ops.matmul(x, self.kernel)


class Renamed(layers.Dense):
    pass


def test_a_subclass_with_its_own_call_is_counted_by_it():
    assert of_layer(Doubled(7), (5,)) == 2 * 35
    assert of_layer(Renamed(7), (5,)) == 35

    class Standardised(layers.Conv2D):
        def call(self, x):
            return keras.ops.conv(x, self.kernel - keras.ops.mean(self.kernel), padding="same")

    image = keras.Input((4, 4, 2))
    model = keras.Model(image, Standardised(3, 3, padding="same")(image))
    for counted in ("all", "conv"):
        assert cost.exit_costs(model, layers=counted)[0].with_all_heads == 16 * 3 * 9 * 2

    class TwiceInTime(layers.TimeDistributed):
        def call(self, x):
            return self.layer(self.layer(x))

    assert of_layer(TwiceInTime(layers.Dense(5)), (3, 5)) == 2 * 3 * 25


def test_attention_with_its_own_call_is_counted_as_attention():
    class Cached(layers.MultiHeadAttention):  # as keras-hub's
        def call(self, query, value, key=None):
            query, key = self._query_dense(query), self._key_dense(value if key is None else key)
            mixed, _ = self._compute_attention(query, key, self._value_dense(value))
            return self._output_dense(mixed)

    assert of_layer(Cached(2, 3), (10, 8), (10, 8)) == of_layer(layers.MultiHeadAttention(2, 3), (10, 8), (10, 8))


def test_a_rule_for_the_class_is_preferred_to_its_call():
    class Sparse(Doubled):
        def call(self, x):
            return super().call(x)

    cost.register_rule(Sparse, lambda layer, inputs, outputs: 1)
    assert of_layer(Sparse(7), (5,)) == 1


def test_a_model_with_its_own_call_is_counted_by_it():
    class Twice(keras.Model):
        def call(self, x):
            return super().call(super().call(x))

    x = keras.Input((4,))
    assert of_layer(Twice(x, layers.Dense(4)(x)), (4,)) == 2 * 16


def test_a_layer_whose_products_are_not_recognized_raises():
    class Hidden(layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 7))

        def call(self, x):
            return keras.ops.sum(keras.ops.expand_dims(x, -1) * self.kernel, axis=-2)

    with pytest.raises(ValueError, match="'unseen' of type Hidden.*without a product that has a rule.*register_rule"):
        of_layer(Hidden(name="unseen"), (5,))
    cost.register_rule(Hidden, lambda layer, inputs, outputs: 35)
    assert of_layer(Hidden(), (5,)) == 35


def test_a_layer_that_looks_up_or_adds_its_weights_is_free():
    class Positions(layers.Layer):
        def build(self, shape):
            self.table = self.add_weight(shape=shape[1:])
            self.scale = self.add_weight(shape=(1, 1, shape[-1]))

        def call(self, x):
            return (x + self.table) * self.scale

    class LookUp(layers.Layer):
        def build(self, shape):
            self.table = self.add_weight(shape=(100, 8))

        def call(self, x):
            return keras.ops.take(self.table, keras.ops.cast(x, "int32"), axis=0)

    assert of_layer(Positions(), (3, 5)) == of_layer(LookUp(), (3,)) == 0


def test_a_rule_for_a_recurrent_cell_gets_the_shapes_of_one_step():
    class Cell(layers.Layer):
        state_size, output_size = [6, 4], 5

        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 5))

        def call(self, x, states):
            return keras.ops.matmul(x, self.kernel), states

    seen = []
    cost.register_rule(Cell, lambda layer, inputs, outputs: seen.append((inputs, outputs)) or math.prod(outputs[0]) * 3)
    assert of_layer(layers.RNN(Cell()), (10, 3)) == 10 * 3 * 5
    assert seen[-1] == ([(1, 3), (1, 6), (1, 4)], [(1, 5), (1, 6), (1, 4)])


def test_open_sizes_raise_an_error_that_asks_for_them():
    image = keras.Input((None, None, 3))
    model = keras.Model(image, layers.Conv2D(2, 3, padding="same", name="conv")(image))
    with pytest.raises(ValueError, match="'conv'.*input_shape"):
        cost.exit_costs(model)
    assert cost.exit_costs(model, input_shape=(4, 5, 3))[0].with_all_heads == 20 * 2 * 27
    with pytest.raises(ValueError, match=r"\(4, 5\)"):
        cost.exit_costs(model, input_shape=(4, 5))


def test_models_that_are_not_functional_are_refused():
    class Subclassed(keras.Model):
        def call(self, x):
            return x

    for model in (Subclassed(), layers.Dense(3), None):
        with pytest.raises(ValueError, match="functional"):
            cost.exit_costs(model)
    with pytest.raises(ValueError, match="'convolutions'"):
        cost.exit_costs(keras.Sequential([keras.Input((3,)), layers.Dense(2)]), layers="convolutions")


def test_the_table_shows_two_times_the_macs():
    model = ak.models.build("resann", num_units=5, channels=16)
    text = str(cost.exit_costs(model, layers="conv"))
    assert "68.862" in text and "137.724" in text and "exit_15" in text


def test_channels_first():
    layer = layers.Conv2D(8, 3, padding="same", data_format="channels_first")
    layer.build((1, 4, 10, 12))
    assert cost.macs(layer, keras.KerasTensor((None, 4, 10, 12))) == 120 * 8 * 9 * 4


def test_macs_do_not_depend_on_the_batch():
    layer = layers.Dense(3)
    layer.build((None, 4))
    assert cost.macs(layer, keras.KerasTensor((None, 4))) == cost.macs(layer, keras.KerasTensor((9, 4))) == 12
    assert np.isscalar(cost.macs(layer, keras.KerasTensor((1, 4))))


def test_layers_that_only_later_exits_need_count_if_not_lazy():
    """Two scales, of which the early exit reads the coarse one, on 4x4 images. Counted by hand."""
    image = keras.Input((4, 4, 1))

    def conv(x, strides=1):
        return keras.layers.Conv2D(2, 1, strides, use_bias=False)(x)

    fine, coarse = conv(image), conv(image, 2)  # 16 * 2 and 4 * 2 MACs
    early = keras.layers.Dense(3, name="early")(keras.layers.Flatten()(coarse))  # 8 * 3
    coarse, fine = keras.layers.Add()([conv(coarse), conv(fine, 2)]), conv(fine)  # 4 * 4 twice; 16 * 4
    joined = keras.layers.Concatenate()([conv(coarse), conv(fine, 2)])  # 4 * 4 twice
    late = keras.layers.Dense(3, name="late")(keras.layers.Flatten()(joined))  # 16 * 3
    model = ak.AnytimeModel(image, {"early": early, "late": late})
    lazy, eager = cost.exit_costs(model), cost.exit_costs(model, lazy=False)
    assert [each.backbone for each in lazy] == [8, 32 + 8 + 2 * 16 + 64 + 2 * 16]
    assert [each.backbone for each in eager] == [8 + 32, lazy[1].backbone]
    assert eager[0].with_head == 8 + 32 + 24 and eager[1] == lazy[1]
    assert eager[0].params == lazy[0].params + 2
