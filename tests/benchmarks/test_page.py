import json
import shutil

from tests.benchmarks import page


def test_the_committed_page_is_that_of_the_committed_results(tmp_path):
    folder = shutil.copytree(page.FOLDER, tmp_path / "results")
    assert page.write(folder).read_text() == (page.FOLDER / "README.md").read_text()


def test_aims_are_compared_with_what_was_measured(tmp_path):
    machine = {"date": "2026-01-02", "devices": ["cpu:0"]}
    table = {"machine": machine}
    for exits, own, again in ((5, 1.2, 0.9), (27, 1.005, 1.003), (51, 1.005, 0.9)):
        table[f"{exits}_exits"] = {"adaloss": {"ratio": own}, "again": {"ratio": again}}
    (tmp_path / "weighting_tensorflow.json").write_text(json.dumps({**table, "commit": "0123456789+changes"}))
    (tmp_path / "startup_jax.json").write_text(json.dumps({"import": {"ratio": 1.1}, "machine": machine}))
    (tmp_path / "throughput.json").write_text(json.dumps({"msdnet_step4": {"ratio": 0.985}, "machine": machine}))
    rows = {tuple(line.split(" | ")[:2]): line for line in page.lines(tmp_path)}
    rows = [line for line in rows.values() if "not measured" not in line and "noise: " not in line]
    assert [row.split(" | ")[2:] for row in rows] == [
        ["1.2", "at most 1.01, missed", "2026-01-02 0123456+changes |"],
        ["1.005", "at most 1.01, met", "2026-01-02 0123456+changes |"],
        ["1.005", "at most 1.01, within noise", "2026-01-02 0123456+changes |"],
        ["0.985", "at least 1, missed", "2026-01-02  |"],
        ["1.1", "at most 1.15, met", "2026-01-02  |"],
    ]
    assert "Measured on: cpu. The targets for a GPU" in page.write(tmp_path).read_text()
    content = {"msdnet_step4": {"ratio": 1.1}, "machine": {**machine, "devices": ["cuda:0"]}, "note": "by night"}
    (tmp_path / "throughput.json").write_text(json.dumps(content))
    text = page.write(tmp_path).read_text()
    assert "| 1.1 | at least 1.2, missed |" in text and "- throughput: by night.\n" in text
    assert "Measured on: cpu, cuda.\n" in text
