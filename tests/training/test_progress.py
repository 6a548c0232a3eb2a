"""What `ProgressBar` writes to a terminal, a file and a notebook."""

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


def written(file, epochs=2):
    model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
    model.compile("sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    x, y = np.zeros((16, 8, 8, 1)), np.arange(16) % 10
    bar = ak.training.ProgressBar(file, images=16, title="small")
    model.fit(x, y, batch_size=8, epochs=epochs, validation_data=(x, y), callbacks=[bar], verbose=0)
    return file.getvalue()


def check_lines(lines):
    assert len(lines) == 2
    for number, line in enumerate(lines, 1):
        assert line.startswith(f"small   epoch {number}/2   loss ")
        assert line.count("exit_1 ") == line.count("exit_2 ") == line.count("exit_3 ") == 2, "train and validation"
        assert "images/s" in line and "ms a step" in line


def test_a_bar_that_was_used_can_be_copied():
    model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
    model.compile("sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    bar, (x, y) = ak.training.ProgressBar(title="small", images=2), (np.zeros((2, 8, 8, 1)), np.zeros(2, int))
    model.fit(x, y, callbacks=[bar], verbose=0)
    for copied in (copy.deepcopy(bar), pickle.loads(pickle.dumps(bar))):
        assert (copied.title, copied.images) == ("small", 2)
        model.fit(x, y, callbacks=[copied], verbose=0)


def test_a_file_gets_a_line_an_epoch():
    check_lines(written(io.StringIO()).splitlines())


@pytest.mark.parametrize("color", [None, "1"])
def test_a_notebook_gets_the_same_lines_and_no_widget(monkeypatch, color):
    """Kernels of notebooks say that they show colours, and that they are no terminal."""
    monkeypatch.setattr(console, "_is_jupyter", lambda: True)
    if color:
        monkeypatch.setenv("FORCE_COLOR", color)
    text = written(io.StringIO())
    assert "\x1b" not in text
    check_lines(text.splitlines())


def test_a_terminal_gets_a_bar_that_the_line_replaces(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    text = written(Terminal())
    assert "epoch 1/2" in text and "━" in text and "2/2" in text and "\x1b[2K" in text
    assert "small   epoch 2/2   loss " in text
