"""The output of `ProgressBar` in a terminal, a file and a notebook."""

import copy
import io
import pickle

import keras
import numpy as np
import pytest
from rich import console

import anytime_keras as ak


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(scope="module")
def model():
    """A network with three exits that is compiled once for all tests."""
    features = keras.Input((4,))
    exits = {name: keras.layers.Dense(10, name=name)(features) for name in ("exit_1", "exit_2", "exit_3")}
    model = ak.AnytimeModel(features, exits)
    model.compile("sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    return model


X, Y = np.zeros((16, 4)), np.arange(16) % 10


def written(model, file):
    bar = ak.training.ProgressBar(file, images=16, title="small")
    model.fit(X, Y, batch_size=8, epochs=2, validation_data=(X, Y), callbacks=[bar], verbose=0)
    return file.getvalue()


def check_lines(lines):
    assert len(lines) == 2
    for number, line in enumerate(lines, 1):
        assert line.startswith(f"small   epoch {number}/2   loss ")
        assert line.count("exit_1 ") == line.count("exit_2 ") == line.count("exit_3 ") == 2, "train and validation"
        assert "images/s" in line and "ms a step" in line


def test_a_used_progress_bar_can_be_copied(model):
    bar = ak.training.ProgressBar(title="small", images=16)
    model.fit(X, Y, batch_size=8, callbacks=[bar], verbose=0)
    for copied in (copy.deepcopy(bar), pickle.loads(pickle.dumps(bar))):
        assert (copied.title, copied.images) == ("small", 16)
        model.fit(X, Y, batch_size=8, callbacks=[copied], verbose=0)


def test_a_file_gets_a_line_for_each_epoch(model):
    check_lines(written(model, io.StringIO()).splitlines())


@pytest.mark.parametrize("color", [None, "1"])
def test_a_notebook_gets_lines_and_no_widget(model, monkeypatch, color):
    """Notebook kernels show colours but are not a terminal."""
    monkeypatch.setattr(console, "_is_jupyter", lambda: True)
    if color:
        monkeypatch.setenv("FORCE_COLOR", color)
    text = written(model, io.StringIO())
    assert "\x1b" not in text
    check_lines(text.splitlines())


def test_a_terminal_gets_a_bar_and_then_a_line(model, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    text = written(model, Terminal())
    assert "epoch 1/2" in text and "━" in text and "2/2" in text and "\x1b[2K" in text
    assert "small   epoch 2/2   loss " in text
