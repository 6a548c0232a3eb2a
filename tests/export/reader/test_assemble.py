"""Tests of the file that is shipped with exports."""

import ast
import subprocess
import sys

from anytime_keras.export.reader.assemble import assemble


def test_no_name_is_defined_twice():
    names = []
    for node in ast.parse(assemble()).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.append(node.name)
        elif isinstance(node, ast.Assign):
            names.extend(target.id for target in node.targets)
    assert len(names) == len(set(names)), sorted(name for name in set(names) if names.count(name) > 1)
    assert {"ExportedModel", "Answer", "LiteRT", "classify", "main"} <= set(names)


def test_every_name_is_defined_and_every_import_is_used(tmp_path):
    path = tmp_path / "run_exported.py"
    path.write_text(assemble())
    command = [sys.executable, "-m", "flake8", "--isolated", "--max-line-length=120", "--extend-ignore=E203,W503", path]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert found.stdout == "" and found.returncode == 0, found.stdout


def test_importing_it_needs_only_numpy(tmp_path):
    (tmp_path / "run_exported.py").write_text(assemble())
    script = """
import sys
for blocked in ("keras", "anytime_keras", "tensorflow", "ai_edge_litert", "onnxruntime", "openvino"):
    sys.modules[blocked] = None
import run_exported
print(sorted(run_exported.RUNTIMES))
"""
    command = [sys.executable, "-c", script]
    run = subprocess.run(command, cwd=tmp_path, env={}, capture_output=True, text=True, timeout=120)
    assert run.stdout == "['litert', 'onnx', 'openvino', 'saved_model']\n", run.stderr
