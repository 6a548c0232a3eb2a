import json
import os
import subprocess
import sys

import numpy as np
import pytest

import anytime_keras as ak
from tests import checks

# Name -> its arguments and its number of exits.
SMALL = {
    "resann": (dict(name="resann", num_units=1, channels=4, input_shape=(8, 8, 3)), 3),
    "bottleneck": (dict(name="resann26", blocks=(1, 2), channels=4, exit_every=1, input_shape=(32, 32, 3)), 3),
    "denseann": (dict(name="denseann", depth=10, growth_rate=4, exit_every=1, input_shape=(8, 8, 3)), 3),
    "denseann_ilsvrc": (
        dict(name="denseann121", blocks=(1, 1), growth_rate=4, exit_every=1, first_exit=1, dropout=0.1)
        | dict(input_shape=(32, 32, 3)),
        2,
    ),
    "msdnet": (
        dict(name="msdnet38", blocks=(3, 2), exit_every=2, first_exit=2, growth_rate=4, factors=(1, 2), stem="small")
        | dict(input_shape=(16, 16, 3)),
        2,
    ),
    "msdnet_published": (
        dict(name="msdnet_step4", num_exits=2, base=1, step=1, steps="growing", growth_rate=4, channels=4)
        | dict(factors=(1, 2), input_shape=(32, 32, 3)),
        2,
    ),
}
# Networks that `preset="authors_code"` changes.
WITH_PRESETS = ("resann", "bottleneck", "denseann")


def small(kind, **changes):
    config, _ = SMALL[kind]
    return ak.models.build(**{**config, "num_classes": 5, **changes})


@pytest.mark.long
@pytest.mark.parametrize(
    "kind, preset", [(kind, None) for kind in SMALL] + [(kind, "authors_code") for kind in WITH_PRESETS]
)
def test_common_checks(kind, preset, tmp_path):
    changes = {} if preset is None else {"preset": preset}
    checks.check_family(lambda **more: small(kind, **changes, **more), SMALL[kind][1], 5, tmp_path)


ON_THE_OTHER_BACKEND = """
import pathlib, sys
import keras, numpy as np
import anytime_keras
from tests import checks
assert keras.backend.backend() == "jax"
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.keras")):
    saved = np.load(path.with_suffix(".npz"))
    answers = checks.answers(keras.saving.load_model(path), saved["x"])
    for name, values in answers.items():
        np.testing.assert_allclose(values, saved[name], rtol=1e-4, atol=1e-4 * np.abs(saved[name]).max(), err_msg=path)
    print(path.stem, len(answers))
"""


@pytest.mark.long
@pytest.mark.tensorflow
def test_both_backends_give_equal_outputs_from_the_same_weights(tmp_path):
    expected = []
    for kind, (_, num_exits) in sorted(SMALL.items()):
        model = small(kind)
        checks.scramble(model)
        x = checks.some_input(model)
        answers = checks.answers(model, x)
        assert all(np.abs(values).max() > 1e-2 for values in answers.values()), "zeros would be equal anywhere"
        model.save(tmp_path / f"{kind}.keras")
        np.savez(tmp_path / f"{kind}.npz", x=x, **answers)
        expected.append(f"{kind} {num_exits}")
    run = subprocess.run(
        [sys.executable, "-c", ON_THE_OTHER_BACKEND, str(tmp_path)],
        env={**os.environ, **checks.on_jax()},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.splitlines() == expected


def test_every_name_has_a_family_and_valid_arguments():
    for name in ak.models.names():
        with pytest.raises(ValueError, match=f"'{name}' has no argument `colour`"):
            ak.models.build(name, colour="red")
        with pytest.raises(ValueError, match="num_classes=0"):
            needed = dict(resann=dict(num_units=1, channels=4), denseann=dict(depth=10))
            needed["msdnet"] = dict(blocks=(2, 2), exit_every=2)
            ak.models.build(name, num_classes=0, **needed.get(name, {}))


def test_a_preset_is_refused_where_there_is_none_and_when_unknown():
    with pytest.raises(ValueError, match="'msdnet_step4' has no argument `preset`"):
        ak.models.build("msdnet_step4", preset="paper")
    for kind in (*WITH_PRESETS, "msdnet"):
        with pytest.raises(ValueError, match="must be one of 'paper', 'authors_code'.*Did you mean 'paper'"):
            small(kind, preset="papers")


@pytest.mark.parametrize("kind", list(SMALL))
def test_counts_may_be_numpy_integers_but_sizes_not_booleans(kind):
    def numpys(value):
        if isinstance(value, tuple):
            return tuple(map(numpys, value))
        return np.int64(value) if type(value) is int else value

    config = {key: numpys(value) for key, value in SMALL[kind][0].items()}
    model = ak.models.build(**config, num_classes=np.int32(5))
    assert json.dumps(model.get_config()) == json.dumps({**small(kind).get_config(), "name": model.name})
    with pytest.raises(ValueError, match=r"`input_shape`.*\(True, 8, 3\)"):
        small(kind, input_shape=(True, 8, 3))


@pytest.mark.parametrize(
    "kind, change, message",
    [
        ("denseann", dict(reduction=0.01), "`reduction`.*reduction=0.01.*12"),
        ("msdnet", dict(reduction=0.01), "`reduction`.*reduction=0.01"),
        ("msdnet_published", dict(reduction=0.01, num_exits=3), "`reduction`.*reduction=0.01"),
        ("msdnet", dict(growth_rate=1, factors=(2, 1)), r"`growth_rate`.*growth_rate=1, factors=\(2, 1\)"),
        ("msdnet_published", dict(growth_rate=1, factors=(1, 1)), r"`growth_rate`.*growth_rate=1"),
    ],
)
def test_no_layer_is_left_without_channels(kind, change, message):
    with pytest.raises(ValueError, match=message):
        small(kind, **change)
