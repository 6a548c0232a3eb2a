"""`Server`: answers many callers with one network, each by its own deadline."""

import concurrent.futures
import contextlib
import math
import os
import threading
import time

from anytime_keras._forks import check_process
from anytime_keras.classifier import Classifier, LabeledAnswer
from anytime_keras.serving import arguments, policies, v2
from anytime_keras.serving.runner import Runner
from anytime_keras.serving.scheduler import Overloaded, Request, Scheduler
from anytime_keras.serving.stats import Stats

LONGEST_DEADLINE = 60.0  # seconds; longer ones are shortened to this
WARM_UP = 10  # runs of each batch size
MARGIN = 0.0002  # seconds between the end of a stage and the answer in the caller's thread
MOST_RESIZED = 2**24  # pixels of the images of a request, after resizing and before cropping
HOPELESS = "The deadline could not be met under this load, or more urgent requests filled the queue."


class Closed(RuntimeError):
    """A server takes no more requests."""


class Server(contextlib.AbstractContextManager):
    """Answers requests by their deadlines: later exits when there is time, earlier ones under load.

    One thread runs the network in batches and decides anew at each exit, by a `Scheduler`, which requests leave with
    the answer they have. A batch runs straight to the last exit, which is faster, if requests that arrive meanwhile can
    wait for that. Requests are refused only if not even the first allowed exit can meet the deadline, or if the queue
    is full of requests at least as urgent. If a batch fails, its requests run one by one, since one input may be the
    cause. `submit` is thread-safe. Close the server, or use it in a `with` statement. Threads that run Python may delay
    the network by `sys.getswitchinterval()`, 5 ms by default; `anytime-keras serve` sets 0.5 ms.

    Args:
        model: `Predictor`, `Classifier` or functional Keras model whose outputs are its exits. A classifier takes raw
            images, others take the network's inputs. A classifier of an exported set runs on the set's runtime.
        accuracies: list of float, the accuracy of each exit in use on validation data. None takes those that a
            classifier knows, or else assumes that accuracy grows with the logarithm of the cost.
        policy: str, see `Scheduler`.
        max_batch: int, the largest batch size.
        max_queue: int, the largest number of waiting requests.
        confidence: float or None. A request leaves at the first exit that is at least this confident.
        **options: arguments of `Predictor` for a Keras model, such as `exits` and `engine`.

    Attributes:
        exit_names: list of str.
        accuracies: list of float.
        stats: `Stats`.

    Raises:
        ValueError: if an argument is not valid.

    Example: cameras that share a network
    >>> import numpy as np, anytime_keras as ak
    >>> model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
    >>> image = np.zeros((8, 8, 1), "float32")
    >>> with ak.serving.Server(model, max_batch=2) as server:
    ...     futures = [server.submit(image, deadline=30) for _ in range(4)]
    ...     answers = [future.result() for future in futures]
    >>> [answer.exit for answer in answers]
    ['exit_3', 'exit_3', 'exit_3', 'exit_3']
    """

    def __init__(
        self, model, accuracies=None, policy="value", max_batch=8, max_queue=1024, confidence=None, **options
    ):
        arguments.check(policy, max_batch, max_queue, confidence)
        self.classifier = model if isinstance(model, Classifier) else None
        predictor = arguments.predictor_of(model, options)
        self._runner = Runner(predictor)
        self.exit_names = self._runner.exit_names
        policies.check(policy, len(self.exit_names))
        self.accuracies = arguments.accuracies_of(accuracies, self.classifier, predictor)
        self._confidence, self._changed, self._closing = None, threading.Condition(), False
        self._free = 0.0  # from when a running stage is timed
        self._pid = os.getpid()
        self.stats = Stats(len(self.exit_names))
        times = self._measured(max_batch)
        self._confidence = confidence
        thresholds = None if confidence is None else [confidence] * len(self.exit_names)
        self._scheduler = Scheduler(times, self.accuracies, policy, time.perf_counter, max_queue, thresholds)
        self._thread = threading.Thread(target=self._work, name="anytime_keras.serving", daemon=True)
        self._thread.start()

    def __exit__(self, *_):
        self.close()

    @property
    def waiting(self):
        """The number of requests that wait."""
        return len(self._scheduler.waiting)

    @property
    def times(self):
        """The measured `StageTimes` of this machine."""
        return self._scheduler.times

    @property
    def inputs(self):
        """What `inputs_of` takes: a dict from each name to a pair of datatype (of the protocol V2) and shape."""
        if self.classifier is not None:
            return {"image": ("UINT8", [-1, *self.classifier.preprocessor.image_shape])}
        types = {name: datatype for datatype, name in v2.DTYPES.items()}
        return {
            tensor.name: (types.get(str(tensor.dtype), "BYTES"), [-1, *(side or -1 for side in tensor.shape[1:])])
            for tensor in self._runner.inputs
        }

    @property
    def num_classes(self):
        """The number of classes, or None."""
        return self._runner.engine.gives[0][-1]

    def inputs_of(self, arrays):
        """Converts a batch of inputs by name to a list with the network's inputs of each sample.

        Args:
            arrays: dict from each name in `inputs` to an array, shape `(samples, ...)`. A classifier takes raw images,
                `"image"`: uint8, or floats from 0 to 1.

        Raises:
            ValueError: if names or shapes are wrong, or there are more samples than `max_queue`.
        """
        if set(arrays) != set(self.inputs):
            raise ValueError(f"`inputs` must be {sorted(self.inputs)}. Received: {sorted(arrays)}.")
        most, count = self._scheduler.max_queue, max(map(len, arrays.values()))
        if count > most:
            raise ValueError(f"A request must have at most {most} samples, as many as may wait. Received: {count}.")
        if self.classifier is not None:
            images = arrays["image"]
            if images.ndim != 4:
                raise ValueError(f"`image` must have shape (samples, height, width, channels), not {images.shape}.")
            self.classifier.preprocessor.resized_size(images.shape[1:3], len(images), MOST_RESIZED)
            images = self.classifier.preprocessor(images)
            return [images[row : row + 1] for row in range(len(images))]
        columns = [arrays[tensor.name] for tensor in self._runner.inputs]
        rows = [[column[row : row + 1] for column in columns] for row in range(len(columns[0]))]
        return rows if len(columns) > 1 else [row[0] for row in rows]

    def resizes(self, arrays):
        """Returns whether `inputs_of` would resize images, which takes longer than converting them."""
        image = arrays.get("image") if self.classifier is not None else None
        return image is not None and image.shape[1:3] != self.classifier.preprocessor.image_shape[:2]

    @property
    def open(self):
        """Whether the server takes requests."""
        return not self._closing and self._thread.is_alive()

    def status(self):
        """Returns the current state as a dict of plain data: counters, queue, arrival rate and pace of the machine."""
        with self._changed:
            rate, waiting, pace = self._scheduler.rate, self.waiting, self._scheduler.times.pace
        state = {"waiting": waiting, "rate": rate, "pace": pace, "exit_names": self.exit_names}
        return {**state, "accuracies": self.accuracies, **self.stats.snapshot()}

    def submit(self, x, deadline=0.02, priority=0, min_exit=None, min_accuracy=None, on_answer=None):
        """Asks for an answer by a deadline. Returns at once.

        Args:
            x: input of one sample, whose batch axis may be left out if the network has a single input; for a
                classifier, a raw image.
            deadline: float, seconds from now, above 0; more than 60 count as 60.
            priority: int from 1 (most urgent) to 9; 0 means 5, the default. More urgent requests are served first.
            min_exit: str, the first acceptable exit. The request fails rather than getting a worse answer.
            min_accuracy: float, the least acceptable accuracy of an exit, as in `accuracies`; instead of `min_exit`.
            on_answer: function that is called with each exit's `Answer` in the server's thread; it must return quickly.
                If it raises an exception, it is not called again, and the future raises the exception.

        Returns:
            A `concurrent.futures.Future` of an `Answer` (a `LabeledAnswer` for a classifier). It raises `Overloaded` if
            the request could not be answered in time after all, or more urgent ones filled the queue. `cancel` removes
            a request that has not begun.

        Raises:
            Overloaded: if the queue is full of requests at least as urgent, or the deadline cannot be met; with an
                estimate, `retry_after`.
            ValueError: if an argument is not valid.
            RuntimeError: if the server is closed, or was made in another process of which this is a fork.
        """
        self.check_request(deadline, priority, min_exit, min_accuracy, on_answer)
        begin = time.perf_counter()
        inputs = x if self.classifier is None else self.classifier.preprocessor(x)
        return self.submit_inputs(inputs, deadline, priority, min_exit, min_accuracy, on_answer, begin)

    def submit_inputs(self, x, deadline=0.02, priority=0, min_exit=None, min_accuracy=None, on_answer=None, begin=None):
        """As `submit`, but takes the network's inputs from a classifier's callers too; see `inputs_of`.

        The deadline and the seconds of the answers count from `begin`, a moment of `time.perf_counter`; None is now.
        """
        check_process(self._pid, "A server")
        least = self.check_request(deadline, priority, min_exit, min_accuracy, on_answer, begin)
        begin = time.perf_counter() if begin is None else begin
        inputs = self._runner.start(x)
        if (shapes := _shapes(inputs)) != self._measured_shapes:
            expected = self._measured_shapes
            raise ValueError(f"Inputs must have the shapes {expected} of the `example`. Received: {shapes}.")
        pending = _Pending(inputs, concurrent.futures.Future(), on_answer)
        end = begin + float(min(deadline, LONGEST_DEADLINE)) - MARGIN
        request = Request(begin, end, int(priority), least, pending)
        with self._changed:
            if self._closing:
                raise Closed("The server is closed and takes no more requests.")
            try:
                removed = self._scheduler.offer(request)
            except Overloaded:
                self.stats.count("refused")
                raise
            self._changed.notify()
        self._fail(removed)
        pending.future.add_done_callback(lambda future: future.cancelled() and self._withdraw(request))
        return pending.future

    def check_request(self, deadline, priority=0, min_exit=None, min_accuracy=None, on_answer=None, begin=None):
        """Raises ValueError if an argument of `submit_inputs` is not valid.

        Returns:
            int, the position of the first acceptable exit.
        """
        arguments.check_request(deadline, priority, on_answer, begin)
        last = self._scheduler.policy.last
        return arguments.first_acceptable(min_exit, min_accuracy, self.exit_names, self.accuracies, last)

    def _withdraw(self, request):
        """Makes room for others when a waiting request is cancelled."""
        with self._changed:
            waited = self._scheduler.withdraw(request)
        if waited:
            self.stats.count("cancelled")

    def close(self):
        """Takes no more requests, answers those that wait, and stops the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _work(self):
        while self._next():
            pass

    def _next(self):
        """Waits for requests and answers a batch of them; returns False when the server is closed and has no more."""
        with self._changed:
            if not self._scheduler.waiting:
                self._changed.wait_for(lambda: self._scheduler.waiting or self._closing)
                self._free = time.perf_counter()
            batch, expired = self._scheduler.next_batch()
            if not batch and not expired and self._closing:
                return False
            watched = not batch or any(request.payload.on_answer for request in batch)
            straight = not watched and self._scheduler.runs_straight(batch)
        if expired:
            self._fail(expired)
        members = [request for request in batch if request.payload.future.set_running_or_notify_cancel()]
        if len(members) < len(batch):
            self.stats.count("cancelled", len(batch) - len(members))
        if members:
            self._run_or_fail(members, straight)
        return True

    def _run_or_fail(self, members, straight):
        """Runs a batch. If that fails, runs its requests one by one, because a single input may be the cause."""
        try:
            self._run(members, straight)
        except BaseException as error:  # the engine's, or SystemExit in a callback; later batches may succeed
            self._free = time.perf_counter()
            for request in [request for request in members if not request.payload.future.done()]:
                if len(members) > 1:
                    self._run_or_fail([request], straight=False)
                else:
                    self.stats.count("failed")
                    _settle(request.payload.future.set_exception, error)

    def _run(self, members, straight):
        """Runs a batch of requests, and delivers the answer of each when it leaves."""
        batch = self._runner.batch([request.payload.inputs for request in members])
        self.stats.ran(len(members))
        while members:
            rows = len(batch)
            logits = batch.straight() if straight else batch.step()
            begin, now = self._free, time.perf_counter()
            self._free = now  # the next batch or stage begins: what follows counts as part of it
            position = batch.position
            sure = None if self._confidence is None else self._runner.confidence(position, logits)
            with self._changed:
                self._scheduler.times.saw(rows, None if straight else position, now - begin)
                leaving = self._scheduler.leaving(members, position, sure)
            self.stats.count("compute_seconds", now - begin)
            gone, kept = set(leaving), []
            for place, request in enumerate(members):
                leaves = request in gone
                if leaves or request.payload.on_answer is not None:
                    self._deliver(request, self._answer(request, position, logits[place : place + 1], now), leaves)
                if not leaves:
                    kept.append(place)
            members = [members[place] for place in kept]
            if members and leaving:
                batch.keep(kept)

    def _measured(self, max_batch):
        """Returns `StageTimes` that include the server's own work, from `submit` to the answers of each batch."""
        example = self._runner.start(self._runner.example)
        self._measured_shapes = _shapes(example)
        times, straight = self._runner.measure(example, _sizes(max_batch))
        inputs, last = example if len(example) > 1 else example[0], times.num_exits

        def seconds(exit, size):
            """Returns the seconds to submit and answer a batch at an exit, beyond those of the network."""
            self._scheduler = Scheduler(times, self.accuracies, f"exit_{exit}", time.perf_counter, max_queue=size)
            spent = []
            for _ in range(WARM_UP):
                begin = time.perf_counter()
                for _ in range(size):
                    self.submit_inputs(inputs, LONGEST_DEADLINE)
                self._next()
                spent.append(time.perf_counter() - begin)
            return max(min(spent) - times.rows[size][exit], 0.0)  # other work on the machine only adds

        first = [seconds(1, size) for size in times.sizes]
        whole = [seconds(last, size) for size in times.sizes]
        per_stage = [max(own - fixed, 0.0) / max(last - 1, 1) for own, fixed in zip(whole, first)]
        self.stats = Stats(len(self.exit_names))
        return times.plus(first, per_stage, straight)

    def _answer(self, request, position, logits, now):
        late = now > request.deadline + MARGIN
        answer = self._runner.answer(position, logits, now - request.arrival, late)
        if self.classifier is not None:
            answer = LabeledAnswer.of(answer, self.classifier.class_names, single=True, seconds=0.0)
        return answer

    def _deliver(self, request, answer, leaves):
        pending = request.payload
        acceptable = answer.position >= request.min_exit
        if pending.on_answer is not None and acceptable and answer.position > pending.position:
            pending.position = answer.position
            try:
                pending.on_answer(answer)
            except BaseException as error:  # even SystemExit must not fail the other requests of the batch
                pending.on_answer, pending.error = None, error
        if leaves and pending.error is not None:
            self.stats.count("failed")
            _settle(pending.future.set_exception, pending.error)
        elif leaves and acceptable:
            self.stats.answered(answer.position, answer.late, self.accuracies[answer.position])
            _settle(pending.future.set_result, answer)
        elif leaves:
            self._fail([request])

    def _fail(self, requests):
        for request in requests:
            if request.payload.future.running() or request.payload.future.set_running_or_notify_cancel():
                self.stats.count("expired")
                _settle(request.payload.future.set_exception, Overloaded(HOPELESS, 0.0))
            else:
                self.stats.count("cancelled")


class _Pending:
    """What the server keeps for a request."""

    __slots__ = ("inputs", "future", "on_answer", "position", "error")

    def __init__(self, inputs, future, on_answer):
        self.inputs, self.future, self.on_answer = inputs, future, on_answer
        self.position = -1  # of the last exit that `on_answer` received; a failed batch starts again
        self.error = None  # raised by `on_answer`


def _settle(set_outcome, outcome):
    """Sets a future's result or exception. `SystemExit` in its callbacks must not end the server's thread."""
    with contextlib.suppress(BaseException):
        set_outcome(outcome)


def _shapes(inputs):
    return [tuple(tensor.shape[1:]) for tensor in inputs]


def _sizes(most):
    """Returns the batch sizes to prepare: the powers of two below `most`, and `most`."""
    return [2**power for power in range(math.ceil(math.log2(most)))] + [most]
