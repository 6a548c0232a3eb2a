"""Exported sets accept raw images, because they contain the model's preprocessing."""

import importlib.util
import json
import math
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import anytime_keras as ak
from anytime_keras.export.reader import ExportedModel
from anytime_keras.export.reader.description import fingerprint
from anytime_keras.preprocessing import Preprocessor
from tests.checks import scramble

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def model():
    model = ak.models.build("resann", num_units=1, channels=4, input_shape=(16, 16, 3), num_classes=3)
    scramble(model)
    model.preprocessor = Preprocessor((16, 16, 3), [0.4, 0.5, 0.6], 0.25, short_side=18)
    model.class_names = ["cat", "dog", "fox"]
    return model


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    return ak.export(model, tmp_path_factory.mktemp("sets") / "set")


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    small = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), "uint8"))
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    small.resize((50, 40), Image.BICUBIC).save(path)
    return path


def expected(model, photo):
    return model.predict(model.preprocessor(photo), verbose=0)


def close(found, wanted, atol=1e-4):
    assert list(found) == list(wanted)
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, atol=atol)


def check_reader(reader, model, photo):
    pixels = np.asarray(Image.open(photo))
    for raw in (photo, str(photo), Image.open(photo), pixels, pixels[None], [photo], [pixels], [pixels[None]]):
        close(reader.whole(raw), expected(model, photo))
    close(reader.whole(model.preprocessor(photo)), expected(model, photo))
    answer = reader.predict(photo)
    assert reader.class_names[answer.classes[0]] == ak.Classifier(model)(photo).label
    np.testing.assert_allclose(answer.logits, expected(model, photo)["exit_3"], rtol=1e-4, atol=1e-4)
    reader.calibrate(pixels, repeats=1)
    assert reader.predict(pixels, deadline=60).exit == "exit_3"
    assert [answer.exit for answer in reader.stream(pixels)] == ["exit_1", "exit_2", "exit_3"]


def test_the_reader_takes_raw_images(model, exported, photo):
    reader = ExportedModel(exported)
    check_reader(reader, model, photo)
    (spec,) = reader.description["inputs"]
    close(reader.whole({spec["key"]: np.asarray(Image.open(photo))[None]}), expected(model, photo))
    with pytest.raises(ValueError, match="no image 'cat.png'"):
        reader.predict("cat.png")


@pytest.mark.long
@pytest.mark.parametrize("format", [pytest.param("litert"), pytest.param("onnx", marks=pytest.mark.long)])
def test_sets_for_other_runtimes_take_raw_images(model, photo, tmp_path, format):
    pytest.importorskip({"litert": "ai_edge_litert", "onnx": "tf2onnx"}[format])
    reader = ExportedModel(ak.export(model, tmp_path / format, format))
    check_reader(reader, model, photo)


def test_a_saved_model_has_a_signature_for_raw_images(model, exported, photo):
    import tensorflow as tf

    serve = tf.saved_model.load(str(exported / "saved_model")).signatures["serving_raw"]
    pixels = np.asarray(Image.open(photo))
    for batch in (pixels[None], np.stack([pixels, pixels]), pixels[None, :30, :20], pixels[None, :16, :16]):
        found = {name: value.numpy() for name, value in serve(images=tf.constant(batch)).items()}
        on_device = model.predict(model.preprocessor(tf.constant(batch)), verbose=0)
        close({name: found[name] for name in on_device}, on_device)
        on_host = model.predict(model.preprocessor(batch), verbose=0)
        close({name: found[name] for name in on_host}, on_host, atol=0.05)  # the two round resized images differently


@pytest.mark.long
def test_a_set_is_a_preset_of_the_classifier(model, exported, photo, tmp_path):
    classifier, original = ak.Classifier.from_preset(exported), ak.Classifier(model)
    assert classifier.class_names == original.class_names and "3 exits" in repr(classifier)
    top = original(photo).top(3)
    assert classifier(photo).top(3) == [(label, pytest.approx(sure, abs=1e-4)) for label, sure in top]
    assert classifier(photo, deadline=60).exit == "exit_3" and classifier(photo, deadline=0.0).late
    assert classifier(photo, budget=classifier.costs[1].with_head).exit == "exit_2"
    assert classifier(photo, until=lambda answer: True).exit == "exit_1"
    assert [answer.exit for answer in classifier.stream(photo)] == ["exit_1", "exit_2", "exit_3"]
    assert len(classifier.predict([photo] * 5, batch_size=2).labels) == 5
    assert ak.Classifier.from_preset(exported, engine="tensorflow")(photo).label == top[0][0]
    for wrong in ({"engine": "onnx"}, {"exits": ["exit_1"]}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}.*export the network"):
            ak.Classifier.from_preset(exported, **wrong)
    for wrong in ({"deadline": "soon"}, {"budget": "little"}, {"budget": math.nan}, {"until": 3}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            classifier(photo, **wrong)
    with pytest.raises(ValueError, match="Received: 1 names"):
        ak.Classifier.from_preset(exported, class_names=["cat"])
    with pytest.raises(ValueError, match="Copy that folder"):
        classifier.save_to_preset(tmp_path / "preset")
    with pytest.raises(ValueError, match="Received: \\['exits'\\]"):
        ak.Classifier.from_preset(exported, exits=["exit_1"])(photo)


@pytest.mark.long
def test_a_set_with_a_fixed_batch_size_classifies_any_number_of_images(model, photo, tmp_path):
    classifier = ak.Classifier.from_preset(ak.export(model, tmp_path / "set", batch_size=2))
    photos = [photo, *np.random.default_rng(0).integers(0, 256, (4, 9, 8, 3), "uint8")]
    expected = ak.Classifier(model)(photos).logits
    for count in (1, 2, 5):
        answer = classifier(photos[:count], deadline=60)
        np.testing.assert_allclose(answer.logits, expected[:count], rtol=1e-3, atol=1e-3)
        assert len(list(classifier.stream(photos[:count]))) == 3
    np.testing.assert_allclose(classifier.predict(photos).logits, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.long
def test_the_shipped_reader_decodes_images_without_keras(exported, photo):
    script = f"""
import sys
sys.modules["keras"] = sys.modules["anytime_keras"] = None
sys.path.insert(0, {str(exported)!r})
from run_exported import ExportedModel
reader = ExportedModel()
print(reader.class_names[reader.predict({str(photo)!r}).classes[0]])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0 and done.stdout.strip() in ("cat", "dog", "fox"), done.stderr[-2000:]


def test_the_shipped_reader_needs_pillow_for_raw_images_only(exported, model, photo, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    spec = importlib.util.spec_from_file_location("without_pillow", exported / "run_exported.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "without_pillow", module)
    spec.loader.exec_module(module)
    reader = module.ExportedModel(exported)
    pixels = np.zeros((1, 16, 16, 3), "float32")
    assert reader.predict(pixels).exit == "exit_3"
    with pytest.raises(ImportError, match="pip install pillow"):
        reader.predict(str(photo))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda d: d["preprocessing"].update(std=[0.0, 1.0, 1.0]), "std"),
        (lambda d: d["preprocessing"].update(sharpen=True), "sharpen"),
    ],
)
def test_a_changed_preprocessing_is_refused(exported, tmp_path, change, message):
    description = json.loads((exported / "exported.json").read_text())
    change(description)
    description["sha256"] = fingerprint(description)
    folder = shutil.copytree(exported, tmp_path / "changed")
    (folder / "exported.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match=message):
        ExportedModel(folder)


def test_networks_without_preprocessing_are_exported_without_it(tmp_path):
    model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=3)
    path = ak.export(model, tmp_path / "set", parts="stages")
    reader = ExportedModel(path)
    assert reader.preprocessor is None and reader.class_names is None
    with pytest.raises(ValueError, match="does not contain its preprocessor"):
        ak.Classifier.from_preset(path)
