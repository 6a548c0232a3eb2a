"""Fuzzed input from hypothesis: manifests, data sets and command lines. It is used or refused with one clear error."""

import contextlib
import copy
import importlib
import io
import json
import pathlib
import tempfile
import warnings

import hypothesis
import keras
import numpy as np
from hypothesis import strategies as st
from PIL import Image

import anytime_keras as ak
from anytime_keras import commands
from anytime_keras.evaluation.evaluate import batches
from anytime_keras.training import Recipe, devices, scan
from anytime_keras.zoo import catalog
from tests.faults import subjects
from tests.faults.tally import Tally

ODD_TEXT = st.sampled_from(
    ["", "x", "0", "-1", "nan", "none", "null", "../x", "/", "a/b", "\0", "\n", "é", "%2e", "~", "[]", "{}", "x" * 300]
) | st.text(max_size=8)
ODD_NUMBER = st.sampled_from(
    [0, 1, -1, 2, 3, 500, 10**5, 10**9, 10**30, 1.5, 1e308, float("inf"), float("nan"), True, None]
)
ODD = st.recursive(
    ODD_TEXT | ODD_NUMBER,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ODD_TEXT, inner, max_size=3),
    max_leaves=4,
)


def _hunt(strategies, check, count, rng, allowed=(ValueError, OSError)):
    """Calls `check` with drawn arguments; every error that is not allowed is a finding."""
    tally = Tally()

    @hypothesis.seed(int(rng.integers(2**31)))
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(st.tuples(*strategies))
    def hunt(arguments):
        tally.tried += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                check(*arguments)
            except allowed as error:
                assert str(error).strip(), "an error without words"
        tally.survived += 1

    try:
        hunt()
    except Exception as error:
        notes = " ".join(getattr(error, "__notes__", []))
        where = error.__traceback__
        while where.tb_next is not None:
            where = where.tb_next
        place = f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}"
        tally.found.append(f"{type(error).__name__}: {error} at {place}; {notes}"[:2000])
    return tally


# === Manifests ===


@st.composite
def changes(draw, content):
    """Draws a manifest with one to three of its parts changed, removed or extended."""
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        place, way = content, []
        while isinstance(place, (dict, list)) and len(place) and (not way or draw(st.integers(0, 3))):
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            way.append((place, key))
            place = place[key]
        holder, key = way[-1]
        action = draw(st.sampled_from(["set", "set", "delete", "add"]))
        if action == "set":
            holder[key] = draw(ODD)
        elif action == "delete":
            del holder[key]
        elif isinstance(holder, dict):
            holder[draw(ODD_TEXT)] = draw(ODD)
        else:
            holder.append(draw(ODD))
    return content


def manifests(count, rng):
    """Hostile manifests in a zoo: added, shown, listed and loaded, or refused; never built at an arbitrary size."""
    with tempfile.TemporaryDirectory() as folder:
        zoo, path = _zoo(pathlib.Path(folder), rng)
        content = json.loads(path.read_text())
        secret = zoo.parent / "secret.npz"
        secret.write_bytes(b"secret")

        def check(changed):
            catalog._added.clear()
            path.write_text(json.dumps(changed))
            keras.utils.clear_session(free_memory=False)
            ak.zoo.add(zoo)
            manifest = ak.zoo.show("net")
            assert str(manifest) and manifest.to_json()
            ak.zoo.list(trained=True, data="cifar10", weighting="adaloss", architecture="resann")
            for label, entry in manifest.weights.items():
                for file in [*entry.files, *([entry.golden] if entry.golden else [])]:
                    assert ".." not in file.path and not file.path.startswith(("/", "~")), file.path
                model = ak.zoo.load("net", weights=label)
                assert model.count_params() == entry.content["params"] < 10**5

        return _hunt([changes(content)], check, count, rng)


def manifest_texts(count, rng):
    """Random bytes as a manifest or an index."""
    texts = st.binary(max_size=60) | st.recursive(ODD, lambda x: st.lists(x)).map(lambda x: json.dumps(x).encode())
    with tempfile.TemporaryDirectory() as folder:
        zoo, path = _zoo(pathlib.Path(folder), rng)

        def check(text):
            catalog._added.clear()
            path.write_bytes(text)
            ak.zoo.add(zoo)

        return _hunt([texts], check, count, rng)


def _zoo(folder, rng):
    publisher = subjects.Publishing(folder, rng)
    publisher.next = ("net", "data7", 7)
    publisher.deed(lambda: None)
    return publisher.folder, publisher.folder / "manifests" / "net.json"


# === Data ===

DTYPES = ["uint8", "float32", "float64", "float16", "int64", "bool", "complex64", "U3", "O", "M8[s]", ">f4", "u1,f4"]
KEYS = ["x_train", "y_train", "x_test", "y_test", "x_validation", "y_validation", "class_names", "x", "", "../x"]
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 6, 8, 12]), max_size=5).map(tuple)


@st.composite
def odd_arrays(draw):
    """Valid images and labels, some of which are replaced by odd arrays."""
    images, labels = np.random.default_rng(0).random((12, 4, 4, 1), "float32"), np.arange(12) % 3
    arrays = {"x_train": images, "y_train": labels}
    for key in draw(st.lists(st.sampled_from(KEYS), max_size=3)):
        size = draw(SHAPES | st.sampled_from([(12,), (12, 4, 4, 1), (12, 1)]))
        kind = draw(st.sampled_from(DTYPES))
        value = draw(st.sampled_from([0, 1, 2, -1, 255, np.nan, np.inf]))
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            arrays[key] = np.full(size, value).astype(kind if kind != "u1,f4" else "u1,f4")
    return arrays


def npz_files(count, rng):
    """Arrays of any type and shape in an .npz."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "odd.npz"

        def check(arrays, arguments):
            np.savez(path, **{key or "empty": value for key, value in arrays.items()})
            _use(ak.data.load(path, **arguments))

        return _hunt([odd_arrays(), ARGUMENTS], check, count, rng)


ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "batch_size": st.sampled_from([1, 5, 100, 0, None, "3"]),
        "validation": st.sampled_from([0, 0.1, 3, 1.0, -1, "2", float("nan"), 10**9]),
        "test": st.sampled_from([0, 0.5, 2, 11, 12, None]),
        "augment": st.sampled_from([None, "default", "flip", "pad_crop,erase", "mix_up", "x", 3, []]),
        "image_size": st.sampled_from([None, 4, (4, 4), (1, 9), 0, "4", (4,)]),
        "seed": st.sampled_from([0, 7, -1, 2**40]),
        "one_hot": st.booleans(),
        "skip_corrupt": st.booleans(),
    },
)
NAMES = st.sampled_from(["a", "b", "train", "test", "val", "validation", "c.png", ".hidden", "é ü", "wnids.txt"])
CONTENTS = ["image", "image", "other size", "grey", "16 bits", "palette", "alpha", "empty", "random", "cut", "folder"]
FILES = st.tuples(
    st.lists(NAMES, max_size=3),
    st.sampled_from(["1.png", "2.jpg", "3.gif", "4.tif", "5.txt", "6.PNG", "x", "7.webp", "link.png"]),
    st.sampled_from(CONTENTS),
)


def image_folders(count, rng):
    """Folders of images with odd names, kinds, sizes, depths and broken files."""

    def check(files, arguments):
        with tempfile.TemporaryDirectory() as folder:
            for parts, name, content in files:
                _put(pathlib.Path(folder, *parts), name, content)
            _use(ak.data.load(folder, **arguments))

    base = [([split, label], f"{number}.png", "image") for split in ("",) for label in "ab" for number in range(6)]
    folders = st.tuples(st.booleans(), st.lists(FILES, max_size=6)).map(lambda pair: base * pair[0] + pair[1])
    return _hunt([folders, ARGUMENTS], check, count, rng)


def _put(place, name, content):
    with contextlib.suppress(FileExistsError, NotADirectoryError, IsADirectoryError):
        place.mkdir(parents=True, exist_ok=True)
        path = place / name
        if name == "link.png":
            path.symlink_to("nowhere.png")
        elif content == "folder":
            path.mkdir()
        elif content in ("empty", "random"):
            path.write_bytes(b"" if content == "empty" else bytes(range(200)))
        else:
            side = 9 if content == "other size" else 6
            pixels = np.random.default_rng(len(name)).integers(0, 256, (side, side, 3), "uint8")
            image = Image.fromarray(pixels)
            image = {"grey": image.convert("L"), "palette": image.convert("P"), "alpha": image.convert("RGBA")}.get(
                content, image
            )
            if content == "16 bits":
                image = Image.fromarray(pixels[..., 0].astype("uint16") * 257)
            path.write_bytes(_file(image, path.suffix)[: -30 if content == "cut" else None])


def _file(image, suffix):
    """Returns an image's file in the format of its name; PNG if there is none, or it cannot store the image."""
    kind = {".jpg": "jpeg", ".gif": "gif", ".tif": "tiff", ".webp": "webp"}.get(suffix, "png")
    file = io.BytesIO()
    try:
        image.save(file, kind)
    except (OSError, ValueError):  # 16 bits, or transparent pixels
        file = io.BytesIO()
        image.save(file, "png")
    return file.getvalue()


def _use(data):
    """Checks that the batches of a data set are finite, of one shape, and labelled within range."""
    for split in (data.train, data.validation, data.test):
        if split is None:
            continue
        for x, y in batches(split):
            x, y = np.asarray(x), np.asarray(y)
            assert x.shape[1:] == data.image_shape and len(x) == len(y) > 0 and np.isfinite(x).all()
            assert (y >= 0).all() and (y < data.num_classes).all() if y.ndim == 1 else y.shape[1] == data.num_classes
    assert json.dumps(data.describe()) and repr(data)


# === The command line ===

VALUES = [
    *("", "0", "-1", "1", "2", "3", "1.5", "nan", "inf", "-inf", "1e400", "true", "no", "none", "None", "null", "[]"),
    *("{}", "[1]", "../x", "/", "/dev/null", "\0", "é", "\udc80", "a,b", "--", "single_exit:1", "single_exit:x", ":"),
    *('{"num_units": 1}', '{"num_units": "1"}', '{"num_units": null}', '{"num_units": [1], "channels": 1e400}'),
    *('{"dtype": "half"}', '{"name": 3}', '{"input_shape": [8, 8]}', '{"num_classes": -1}', "flip", "pad_crop,flip"),
    *(
        "adaloss",
        "constant",
        "cosine",
        "adamw",
        "sgd",
        "digits",
        "resann",
        "modern",
        "mixed_float16",
        "float64",
        "x.png",
    ),
]


class _Trained(BaseException):
    """Raised where training would begin."""


def command_lines(count, rng):
    """Commands with odd flags and arguments: they work, or exit with a message and a status other than 0."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), contextlib.ExitStack() as stack:
        for holder, name in ((devices.OneDevice, "fit"), (scan, "fit")):
            stack.enter_context(_replaced(holder, name, _trained))
        places = [str(place) for place in _places(pathlib.Path(folder), rng)]
        flags = {name: list(importlib.import_module(f"anytime_keras.commands.{name}").FLAGS) for name in COMMANDS}

        @st.composite
        def lines(draw):
            command = draw(st.sampled_from([*COMMANDS, *COMMANDS, "", "help", "x", "--version"]))
            values = st.sampled_from([*VALUES, *places]) | ODD_TEXT
            line = ["--model=resann", "--num_units=1", "--channels=4"] if command == "train" else []
            if command in ("evaluate", "predict"):
                line = [*places[:1], places[1]][: draw(st.integers(0, 2))]
            for _ in range(draw(st.integers(0, 4))):
                flag = draw(st.sampled_from([*flags.get(command, []), "x", "help", "flagfile", "undefok"]))
                value = draw(st.sampled_from(SAFE[flag] + places) if flag in SAFE else values)
                line.append(draw(st.sampled_from([f"--{flag}={value}"] * 4 + [f"--{flag}", f"--no{flag}", value])))
            return ["anytime-keras", command, *line]

        return _hunt([lines()], _command, count, rng)


COMMANDS = [name for name in commands.COMMANDS if name in ("train", "evaluate", "predict", "zoo", "demo")]
# Names of data sets are looked up in tensorflow-datasets, which is slow and another's; sizes of networks make them.
SAFE = {"dataset": ["digits", "/nowhere", "x.npz", ".", "", "\0"], "folder": ["new", "/dev/null/x", "\0", ""]}
SAFE["images"] = SAFE["epochs"] = ["0", "-1", "1", "x", ""]
SAFE.update(dict.fromkeys(("plot", "json", "picture", "readme"), ["a.png", "no/a.png", "a.json", "", "\0", "a.x"]))


def _command(line):
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            commands.main(line)
        except SystemExit as ended:
            assert ended.code not in (None, 0), f"an error with status {ended.code}"
            message = str(ended.code)
            assert message.startswith("anytime-keras") and len(message) > 20 and "Traceback" not in message, message
        except _Trained:
            pass
        finally:
            keras.utils.clear_session(free_memory=False)
            keras.config.set_dtype_policy("float32")


def _trained(*arguments):
    raise _Trained


@contextlib.contextmanager
def _replaced(holder, name, value):
    before = getattr(holder, name)
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, before)


def _places(folder, rng):
    """The folder of a run, an image, and other files."""
    (folder / "trained").mkdir()
    saving = subjects.Saving(folder / "trained", rng)
    saving.deed(lambda: None)
    Image.fromarray(np.zeros((9, 9), "uint8")).save(folder / "image.png")
    (folder / "broken.png").write_bytes(b"none")
    (folder / "empty").mkdir()
    for name in ("broken.json", "broken.keras", "broken.npz"):
        (folder / name).write_bytes(b"{")
    images, labels = subjects.images()
    np.savez(folder / "good.npz", x_train=images, y_train=labels)
    return [
        folder / "trained",
        folder / "image.png",
        folder / "trained" / "curve.json",
        folder / "trained" / "recipe.json",
        folder / "trained" / "model.keras",
        *(folder / name for name in ("broken.png", "empty", "broken.json", "broken.keras", "broken.npz", "good.npz")),
    ]


# === Recipes ===


def recipe_files(count, rng):
    """Recipes with odd parts: read, and built if network and data are unchanged."""
    with tempfile.TemporaryDirectory() as folder:
        content = Recipe.paper(subjects.MODEL, "digits", epochs=1).to_dict()
        path = pathlib.Path(folder) / "recipe.json"

        def check(changed):
            path.write_text(json.dumps(changed))
            recipe = Recipe.from_json(path)
            if recipe.model == content["model"] and recipe.data == content["data"]:
                recipe.build_model(recipe.load_data())

        return _hunt([changes(content)], check, count, rng)
