import keras
import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras.preprocessing import Preprocessor, of_pretrained

# Network of keras.applications -> the module with its `preprocess_input`.
FAST = {"ResNet50": "resnet", "ResNet50V2": "resnet_v2", "VGG16": "vgg16", "MobileNet": "mobilenet"}
FAST |= {"MobileNetV3Small": "mobilenet_v3", "EfficientNetB0": "efficientnet"}
OTHERS = {"ResNet101": "resnet", "VGG19": "vgg19", "MobileNetV2": "mobilenet_v2", "InceptionV3": "inception_v3"}
OTHERS |= {"InceptionResNetV2": "inception_resnet_v2", "Xception": "xception", "NASNetMobile": "nasnet"}
OTHERS |= {"DenseNet121": "densenet", "EfficientNetV2B0": "efficientnet_v2", "ConvNeXtTiny": "convnext"}
OTHERS |= {"NASNetLarge": "nasnet", "EfficientNetV2S": "efficientnet_v2", "MobileNetV3Large": "mobilenet_v3"}


def image(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (1, size, size, 3), "uint8")


@pytest.mark.long
@pytest.mark.tensorflow  # JAX compiles each operation while a network is built
@pytest.mark.parametrize("name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_networks_of_keras_applications_get_their_own_preprocessing(name):
    size = {"NASNetLarge": 331}.get(name, 96)
    model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), include_top=False)
    module = getattr(keras.applications, {**FAST, **OTHERS}[name])
    found = of_pretrained(model)
    pixels = image(size)
    expected = module.preprocess_input(pixels.astype("float32"))
    assert found.short_side == round(size * 256 / 224)
    whole = Preprocessor.from_config({**found.get_config(), "short_side": None})  # crops nothing
    np.testing.assert_allclose(whole(pixels), expected, rtol=1e-4, atol=1e-4)


def functional(name, shape=(8, 8, 3), layers=()):
    inputs = keras.Input(shape)
    x = inputs
    for layer in layers:
        x = layer(x)
    return keras.Model(inputs, keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(x)), name=name)


def test_unknown_networks_get_no_preprocessor():
    assert of_pretrained(functional("my_network")) is None
    assert of_pretrained(functional("resnet50", (8, 8, 4))) is None
    assert of_pretrained(functional("resnet50", (None, None, 3))) is None
    assert of_pretrained(functional("resnet50", (None, None, 3)), (64, 48, 3)).image_shape == (64, 48, 3)
    assert of_pretrained(functional("convnext_tiny")) is None  # include_preprocessing=False
    assert of_pretrained(functional("convnext_tiny", layers=[keras.layers.Rescaling(1 / 255)])).std == 3 * [1 / 255]


def test_a_task_of_keras_hub_gets_its_image_converter():
    hub = pytest.importorskip("keras_hub")
    scale, offset = (0.017, 0.018, 0.019), (-2.1, -2.0, -1.8)
    converter = hub.layers.ImageConverter(image_size=(32, 32), scale=scale, offset=offset)
    shape = (None, None, 3)
    backbone = hub.models.ResNetBackbone([64], [3], [64, 64], [1, 1], [1, 2], "basic_block", image_shape=shape)
    preprocessor = hub.models.ResNetImageClassifierPreprocessor(image_converter=converter)
    task = hub.models.ResNetImageClassifier(backbone, num_classes=3, preprocessor=preprocessor)
    pixels = image(32)
    expected = keras.ops.convert_to_numpy(converter(pixels.astype("float32")))
    np.testing.assert_allclose(of_pretrained(task)(pixels), expected, rtol=1e-4, atol=1e-4)
    model = ak.to_anytime(task, num_exits=2)
    assert model.preprocessor.image_shape == (32, 32, 3)


@pytest.mark.long
def test_a_converted_network_classifies_photos_by_name(tmp_path):
    base = keras.applications.MobileNet(input_shape=(32, 32, 3), alpha=0.25, weights=None, classes=3)
    model = ak.to_anytime(base, num_exits=2)
    classifier = ak.Classifier(model, class_names=["cat", "dog", "fox"])
    photo = image(50)[0]
    inputs = keras.applications.mobilenet.preprocess_input(
        Preprocessor((32, 32, 3), 0.0, 1 / 255, short_side=37)(photo)
    )
    expected = keras.ops.convert_to_numpy(base(inputs))[0]
    answer = classifier(photo)
    assert answer.label == classifier.class_names[expected.argmax()]
    np.testing.assert_allclose(answer.confidence[0], expected.max(), atol=1e-4)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras").preprocessor
    assert again.get_config() == model.preprocessor.get_config()
    own = Preprocessor((32, 32, 3), 0.1, 0.2)
    assert ak.to_anytime(base, num_exits=2, preprocessor=own).preprocessor is own
