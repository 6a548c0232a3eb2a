import json

import numpy as np
import pytest

import anytime_keras as ak
from anytime_keras.inference import LatencyTable
from tests.inference import networks


def some_table():
    table = LatencyTable(["a", "b"], [10, 20])
    table.add(1, [[0.1, 0.2, 0.3], [1.0, 1.0, 1.0]], [[0.1] * 3, [0.5, 0.6, 0.7]])
    table.add(8, [[0.8], [8.0]], [[0.8], [7.0]])
    return table


def test_quantiles():
    table = some_table()
    np.testing.assert_allclose(table.quantile(1, 0.5), [0.2, 1.0])
    np.testing.assert_allclose(table.quantile(1, 1.0, stages=True), [0.1, 0.7])
    assert (table.quantile(1, 0.99) >= table.quantile(1, 0.5)).all()
    np.testing.assert_allclose(table.quantile(8, 0.99), [0.8, 8.0])
    lines = repr(table).splitlines()
    assert len(lines) == 6 and lines[2].split()[:3] == ["1", "a", "200.000"]


def test_a_table_is_the_same_when_read_back(tmp_path):
    table, path = some_table(), tmp_path / "latencies.json"
    text = table.to_json(path)
    read = LatencyTable.from_json(path)
    assert read.to_json() == text == path.read_text().rstrip("\n")
    for size in (1, 8):
        np.testing.assert_array_equal(read.quantile(size, 0.9, stages=True), table.quantile(size, 0.9, stages=True))


@pytest.mark.parametrize("key", ["backend", "processor", "devices"])
def test_a_table_of_another_machine_is_refused(key, tmp_path):
    content = json.loads(some_table().to_json())
    content["machine"][key] = "another"
    (tmp_path / "table.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"measured elsewhere: {key} 'another'.*latencies=None"):
        LatencyTable.from_json(tmp_path / "table.json")


@pytest.mark.parametrize("broken", ["", "[]", "{}", '{"exit_names": 3}'])
def test_files_that_are_not_tables_are_refused(broken, tmp_path):
    (tmp_path / "table.json").write_text(broken)
    with pytest.raises(ValueError, match="no table of latencies"):
        LatencyTable.from_json(tmp_path / "table.json")
    content = json.loads(some_table().to_json())
    content["direct"]["1"] = content["direct"]["1"][:1]
    (tmp_path / "table.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="rows of the wrong length"):
        LatencyTable.from_json(tmp_path / "table.json")


def test_a_predictor_accepts_only_tables_of_its_own_network(tmp_path):
    model, path = networks.eleven_exits(3), tmp_path / "table.json"
    x = networks.inputs_for(model, batch=1)
    first = ak.Predictor(model, x)
    first.latencies.to_json(path)
    again = ak.Predictor(model, x, latencies=path)
    assert again.latencies.to_json() == first.latencies.to_json()
    assert again.predict(x, deadline=60).exit == "exit_3"
    for other in (networks.eleven_exits(4), networks.chain([lambda x: x] * 2)):
        with pytest.raises(ValueError, match="another network: exit_names"):
            ak.Predictor(other, x, latencies=path)
    with pytest.raises(ValueError, match="another network: dtype None. Expected bfloat16"):
        ak.Predictor(model, x, dtype="bfloat16", latencies=path)
    first.latencies.macs[0] += 1
    with pytest.raises(ValueError, match="another network: macs"):
        ak.Predictor(model, x, latencies=first.latencies)


def spoil(content, how):
    rows = content["direct"]["1"]
    if how == "nan":
        rows[0][0] = float("nan")
    elif how == "null":
        rows[0][0] = None
    elif how == "negative":
        rows[0] = [-1.0] * 8
    elif how == "zero":
        rows[0] = [0.0] * 8
    elif how == "infinite":
        rows[0][-1] = float("inf")
    elif how == "descending":
        rows[0] = rows[0][::-1]
    elif how == "other quantiles":
        content["quantiles"][0] = 0.01
    elif how == "other sizes":
        del content["stages"]["8"]
    return content


HOW = ["nan", "null", "negative", "zero", "infinite", "descending", "other quantiles", "other sizes"]


@pytest.mark.parametrize("how", HOW)
def test_impossible_times_are_refused(how, tmp_path):
    path = tmp_path / "table.json"
    path.write_text(json.dumps(spoil(json.loads(some_table().to_json()), how)))
    with pytest.raises(ValueError, match="no table of latencies: ValueError.*Expected"):
        LatencyTable.from_json(path)


def test_a_predictor_refuses_objects_that_are_not_tables(tmp_path):
    model = networks.eleven_exits(2)
    x = networks.inputs_for(model, batch=1)
    with pytest.raises(ValueError, match="nowhere.json' is no table of latencies: FileNotFoundError"):
        ak.Predictor(model, x, latencies=tmp_path / "nowhere.json")
    for wrong in ({}, 3, [1.0]):
        with pytest.raises(ValueError, match="a `LatencyTable` or the path of a saved one. Received"):
            ak.Predictor(model, x, latencies=wrong)
    costs = ak.Predictor(model, x).costs
    spoiled = LatencyTable(model.exit_names, [cost.with_head for cost in costs])
    spoiled.add(1, [[float("nan")]] * 2, [[1.0]] * 2)
    with pytest.raises(ValueError, match="no seconds"):
        ak.Predictor(model, x, latencies=spoiled)


def test_a_given_table_is_copied():
    model = networks.eleven_exits(2)
    x = networks.inputs_for(model, batch=1)
    first = ak.Predictor(model, x)
    second = ak.Predictor(model, x, latencies=first.latencies)
    second.prepare(networks.inputs_for(model, batch=3), seconds=0)
    assert list(second.latencies.direct) == [1, 3] and list(first.latencies.direct) == [1]
