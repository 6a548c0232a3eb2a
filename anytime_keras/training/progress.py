"""A progress bar for trainings with many exits: Keras's own shows every exit's every number."""

import keras
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class ProgressBar(keras.callbacks.Callback):
    """Shows a bar for each epoch, then a line with the loss and the accuracy of the first, middle and last exit.

    Args:
        epochs: int, all epochs of the training.
        exit_names: names of the exits, earliest first.
        file: where to write; None is standard output.
    """

    def __init__(self, epochs, exit_names, file=None):
        super().__init__()
        self.epochs = epochs
        chosen = [exit_names[0], exit_names[len(exit_names) // 2], exit_names[-1]]
        self.shown = list(dict.fromkeys(chosen))
        self.prefixes = {name: f"{name}_" if len(exit_names) > 1 else "" for name in self.shown}
        self.console = Console(file=file, highlight=False, soft_wrap=True)
        self._bar = None

    def on_epoch_begin(self, epoch, logs=None):
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=self.console,
            transient=True,
            refresh_per_second=4,
        )
        self._task = self._bar.add_task(f"epoch {epoch + 1}/{self.epochs}", total=self.params.get("steps"), text="")
        self._bar.start()

    def on_train_batch_end(self, batch, logs=None):
        self._bar.update(self._task, completed=batch + 1)

    def on_epoch_end(self, epoch, logs=None):
        self._stop()
        logs = logs or {}
        parts = [f"epoch {epoch + 1}/{self.epochs}", f"loss {logs.get('loss', float('nan')):.3f}"]
        for prefix, title in (("", "train"), ("val_", "validation")):
            accuracies = [f"{name} {100 * logs[key]:.1f}%" for name, key in self._keys(prefix) if key in logs]
            if accuracies:
                parts.append(f"{title} " + " ".join(accuracies))
        self.console.print("   ".join(parts))

    def on_train_end(self, logs=None):
        self._stop()

    def _keys(self, prefix):
        return [(name, f"{prefix}{own}accuracy") for name, own in self.prefixes.items()]

    def _stop(self):
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
