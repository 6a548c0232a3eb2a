"""A progress bar for networks with many exits, for which Keras's own prints too many numbers."""

import time

import keras
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from anytime_keras import graph


class ProgressBar(keras.callbacks.Callback):
    """Shows a bar for each epoch, then prints the loss and the accuracies of the first, middle and last exit.

    In a log file or a notebook it prints only the lines.

    Args:
        file: file to write to; None is standard output.
        images: int, training images per epoch; with it, each line includes the speed.
        title: str, printed before each line.
        bar: bool, False only prints lines.
        minutes: float, the length of a run by the clock, which prints a line for each 2% of the time.

    Example:
    >>> import sys, numpy as np, anytime_keras as ak
    >>> model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
    >>> model.compile("sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    >>> x, y = np.zeros((8, 8, 8, 1)), np.zeros(8, int)
    >>> history = model.fit(x, y, callbacks=[ak.training.ProgressBar(sys.stdout)], verbose=0)
    epoch 1/1   loss ...   train exit_1 ...% exit_2 ...% exit_3 ...%
    """

    def __init__(self, file=None, images=None, title="", bar=True, minutes=None):
        super().__init__()
        self.images, self.title, self.bar, self.minutes = images, title, bar, minutes
        self._steps, self._seconds, self._share = 0, 0.0, 0.0  # since the last line; at it
        self._made_of = file, images, title, bar, minutes
        options = dict(file=file, highlight=False, soft_wrap=True)
        self.console = Console(**options)
        if self.console.is_jupyter:  # rich would print HTML, and a widget that is not saved with the notebook
            self.console = Console(**options, force_jupyter=False, force_terminal=False)
        self._bar = None

    def __reduce__(self):
        return type(self), self._made_of  # without the console, which holds locks, and the model

    def set_model(self, model):
        super().set_model(model)
        names = list(graph.outputs_by_name(model))
        shown = dict.fromkeys([names[0], names[len(names) // 2], names[-1]])
        self.prefixes = {name: f"{name}_" if len(names) > 1 else "" for name in shown}

    def on_epoch_begin(self, epoch, logs=None):
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not (self.bar and self.console.is_terminal),
            refresh_per_second=4,
        )
        name = f"epoch {epoch + 1}/{self.params['epochs']}" if self.minutes is None else f"{self._share:.0%}"
        self._task = self._bar.add_task(name, total=self.params.get("steps"))
        self._bar.start()
        self._begun, self._trained = time.perf_counter(), None

    def on_test_begin(self, logs=None):
        self._trained = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self._bar.update(self._task, completed=batch + 1)
        self._done = batch + 1

    def on_epoch_end(self, epoch, logs=None):
        seconds = (self._trained or time.perf_counter()) - self._begun
        self._stop()
        logs = logs or {}
        name, images, steps = f"epoch {epoch + 1}/{self.params['epochs']}", self.images, self.params["steps"]
        if self.minutes is not None:
            self._steps += self._done
            self._seconds += seconds
            if logs["share"] - self._share < 0.02 and logs["share"] < 1:
                return
            name = f"{logs['share']:4.0%} of {self.minutes:g} minutes, epoch {logs['epochs']:.1f}"
            steps, seconds = self._steps, self._seconds
            images = steps * logs["images"] / logs["steps"]
            self._steps, self._seconds, self._share = 0, 0.0, logs["share"]
        parts = [self.title] if self.title else []
        parts += [name, f"loss {logs.get('loss', float('nan')):.3f}"]
        for prefix, title in (("", "train"), ("val_", "validation")):
            keys = {name: f"{prefix}{own}accuracy" for name, own in self.prefixes.items()}
            accuracies = [f"{name} {100 * logs[key]:.1f}%" for name, key in keys.items() if key in logs]
            if accuracies:
                parts.append(f"{title} " + " ".join(accuracies))
        if images:
            parts.append(f"{images / seconds:.0f} images/s, {1e3 * seconds / steps:.2f} ms a step")
        self.console.print("   ".join(parts))

    def on_train_end(self, logs=None):
        self._stop()

    def _stop(self):
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
