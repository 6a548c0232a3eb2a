"""Training by the clock: the learning rate, the image size and the end depend on the share of the time that passed."""

import collections
import statistics
import time

import keras

from anytime_keras.training import schedules

ROUND_STEPS = 100  # from one row of the history to the next; the network can be saved between two rows
ROUNDS = 2**31 - 1  # the clock ends the training, not the number of rounds
RESOLUTION = 0.002  # the share of the time between two changes of the learning rate
STEADY = 5  # steps whose median duration is the pace at the beginning
MARGIN = 1.1  # time reserved for evaluating and saving, relative to the time that they are expected to take


class Clock:
    """Measures which share of a run's `minutes` has passed, from 0 to 1.

    Time begins at `begin`. A resumed run had spent `spent` seconds and reached `share` before. The share grows from the
    call of `start` after the first step, which compiles. `reserve` seconds are kept for evaluating and saving.

    >>> seconds = iter([0.0, 10.0, 30.0, 50.0])
    >>> clock = Clock(1, now=lambda: next(seconds))
    >>> clock.start(); clock.reserve = 10.0  # the first step took 10 seconds
    >>> clock.share(), clock.share()  # after 30 and 50 seconds
    (0.5, 1.0)
    """

    def __init__(self, minutes, spent=0.0, share=0.0, begin=None, now=time.monotonic):
        self.now = now
        self.end = (now() if begin is None else begin) + 60 * minutes - spent
        self.reserve = 0.0
        self._before, self._started = share, None

    def start(self):
        self._started = self.now()

    def left(self):
        """Returns the seconds that remain for training."""
        return self.end - self.reserve - self.now()

    def share(self):
        """Returns the share of the training time that has passed, from 0 to 1."""
        if self._started is None:
            return self._before
        whole = self.end - self.reserve - self._started
        passed = (self.now() - self._started) / whole if whole > 0 else 1.0
        return self._before + (1 - self._before) * min(max(passed, 0.0), 1.0)


class ClockCallback(keras.callbacks.Callback):
    """Sets the learning rate and the image size by a clock, and stops in time to evaluate and save.

    Adds the progress to each round's logs. Before the first step it calls `rehearse`, which estimates the seconds that
    evaluating and saving take. `steps` were done before the run was resumed.
    """

    def __init__(self, clock, recipe, data, rehearse, side=None, steps=0):
        super().__init__()
        self.clock, self.recipe, self.rehearse, self.side, self.steps = clock, recipe, rehearse, side, steps
        self._epoch_steps = data.pipeline("train").whole_steps
        self._batch = min(recipe.batch_size, data.sizes["train"])
        self._durations, self._first_duration = collections.deque(maxlen=15), None

    def on_train_begin(self, logs=None):
        self._finish_seconds = self.rehearse()
        self.clock.reserve = MARGIN * self._finish_seconds
        self._compiled = False
        self._set(self.clock.share())

    def on_epoch_begin(self, epoch, logs=None):
        self._round_begin, self._steps_before = self.clock.now(), self.steps

    def on_train_batch_begin(self, batch, logs=None):
        self._begin = self.clock.now()
        share = self.clock.share()
        if share - self._share >= RESOLUTION:
            self._set(share)

    def on_train_batch_end(self, batch, logs=None):
        self.steps = self._steps_before + batch + 1
        if not self._compiled:
            self._compiled = True
            self.clock.start()
            return
        self._durations.append(self.clock.now() - self._begin)
        duration = statistics.median(self._durations)
        if self._first_duration is None and len(self._durations) == STEADY:
            self._first_duration = duration
        if self._first_duration is not None:  # what follows slows down as the steps do
            self.clock.reserve = MARGIN * self._finish_seconds * duration / self._first_duration
        if self.clock.left() < duration / 2:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs):
        logs.update(epochs=self.steps / self._epoch_steps, images=self.steps * self._batch, steps=self.steps)
        logs.update(seconds=self.clock.now() - self._round_begin, share=self.clock.share(), learning_rate=self._rate)
        if self.side is not None:
            logs["side"] = self.side.value

    def _set(self, share):
        self._share, self._rate = share, self.recipe.rate_at(share)
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()  # else Keras's trainer overwrites what is assigned within an epoch
        self.model.optimizer.learning_rate = self._rate
        if self.side is not None:
            self.side.assign(schedules.side_at(self.recipe.sizes, share))
