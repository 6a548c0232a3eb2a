"""Measures serving policies under load, and writes `results/serving.json` and `results/serving.png`.

    python -m tests.benchmarks.serving                                     # hours: everything that the issue lists
    python -m tests.benchmarks.serving --seconds=2 --arrivals=poisson,gamma --networks=resann5x16_adaloss
    python -m tests.benchmarks.serving --seconds=1.5 --loads=0.4,0.95,1.3,4 --statics=exit_1,exit_3,exit_5 --minutes=12

Another process sends requests at random moments, whether or not earlier ones were answered (open loop). Loads are
multiples of the last exit's capacity: the requests per second that it receives and answers from a full queue, measured
before each group of rows. Each policy gets the same arrivals on the same prepared network, in turns; with `--rounds`
several times, because a machine's speed may change within seconds. Where the system permits it, the sending process has
priority, so that the network does not delay it: its clients would be elsewhere. `sent_late_ms` is the 99% quantile of
its delays.

`right` is the share of all requests that got a right answer in time: the sum of the answering exits' accuracies on test
data over the number asked; with `--images`, an .npz with `x_test` and `y_test`, also the share of labels that were
right.

With `--simulate`, the policies run in virtual time on three machines, with the accuracies and costs of resann5x16 and
stage times that vary by 10%, and `results/serving_simulated.json` is written: on the first machine a batch takes as
long as its requests one by one; on the second, a batch of 8 takes 2.4 times as long as one request; the third is the
first with a network of 2 ms, where the server's own work per batch, request and stage counts, everything takes 20%
longer than the scheduler's table says, and each request that arrives prolongs the running stage by 60 us.

`--again` measures only those rows of `results/serving.json` again in which a static exit was better than `value` by
more than half a point, and writes `results/serving_again.json`. With more `--rounds`, it shows whether the difference
was noise.

`--minutes` leaves out the rows that would take longer, alike for each network. While it runs, the rows so far are in a
file beside the result that ends in `.part.json`.

Also measures the answers in time at 80% of the first exit's capacity, beside those of the policy "exit_1", what HTTP
adds to an answer without load, and how long a decision takes.
"""

import contextlib
import http.client
import json
import math
import multiprocessing
import os
import socket
import sys
import threading
import time

import numpy as np

import anytime_keras as ak
from anytime_keras.commands import serve
from anytime_keras.evaluation import style
from anytime_keras.serving import Overloaded, Scheduler, Server, arrival_times, plots
from tests.benchmarks import measuring
from tests.benchmarks.serving_simulated import LEAST_DIFFERENCE, aims, decisions, difference, simulated

LOADS = (0.4, 0.8, 0.95, 1.3, 2.0, 4.0)
FACTORS = (2, 10)  # deadlines, in times of the last exit
POOL = 64  # different images
FLOOD = 512  # requests at once, to measure a capacity


def send(connection):
    """Runs in another process: sends (number, moment) at each of the moments that it receives, then how late it was.

    A tuple is a request by HTTP, to be repeated: port, path, body, headers, count. Its seconds are sent back.
    """
    with contextlib.suppress(PermissionError, AttributeError):  # the network must not delay it: clients are elsewhere
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    while (moments := connection.recv()) is not None:
        if isinstance(moments, tuple):
            connection.send(ask(*moments))
            continue
        begin, late = time.perf_counter() + 0.1, []
        for number, moment in enumerate(moments):
            if (wait := begin + moment - time.perf_counter()) > 0:
                time.sleep(wait)
            late.append(time.perf_counter() - begin - moment)
            connection.send((number, begin + moment))
        connection.send(1e3 * float(np.quantile([0.0, *late], 0.99)))


def ask(port, path, body, headers, count):
    """Sends requests by HTTP one after the other; returns the seconds of each."""
    connection, seconds = http.client.HTTPConnection("127.0.0.1", port), []
    for _ in range(count):
        begin = time.perf_counter()
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        response.read()
        assert response.status == 200, response.status
        seconds.append(time.perf_counter() - begin)
    connection.close()
    return seconds


class Bench:
    """A server whose policy can be replaced, and a process that loads it."""

    def __init__(self, name, engine, max_batch, images):
        self.classifier = ak.Classifier.from_preset(name, **({"engine": engine} if engine else {}))
        self.server = Server(self.classifier, max_batch=max_batch)
        shape, rng = self.classifier.preprocessor.image_shape, np.random.default_rng(0)
        raw, self.labels = rng.integers(0, 256, (POOL, *shape), "uint8"), None
        if images is not None:
            with np.load(images) as arrays:
                chosen = rng.choice(len(arrays["x_test"]), 1000, replace=False)
                raw, self.labels = arrays["x_test"][chosen], np.ravel(arrays["y_test"])[chosen]
        self.inputs = self.classifier.preprocessor(raw)
        self.connection, theirs = multiprocessing.Pipe()
        self.sender = multiprocessing.get_context("spawn").Process(target=send, args=(theirs,), daemon=True)
        self.sender.start()

    def last_seconds(self):
        """Returns the usual seconds of one request to the last exit."""
        times = self.server.times
        return (times.rows[1][-1] if times.straight is None else times.straight[1]) * times.usual

    def capacity(self, policy, seconds=1.5):
        """Returns the requests per second that a static policy answers from a full queue, receiving them as well."""
        count, spent = 0, 0.0
        while spent < seconds:
            done, _ = self._load(policy, [0.0] * FLOOD, 60.0)
            count, spent = count + len(done), spent + max(taken for _, taken, _ in done)
        return count / spent

    def _use(self, policy):
        server = self.server
        with server._changed:
            times = server.times
            server._scheduler = Scheduler(times, server.accuracies, policy, time.perf_counter, max_queue=1024)

    def run(self, policy, moments, deadline):
        """Sends one load; returns a dict of what came of it."""
        before = self.server.stats.snapshot()
        done, late_ms = self._load(policy, list(map(float, moments)), deadline)
        in_time = [(number, answer) for number, taken, answer in done if answer is not None and taken <= deadline]
        table = self._table(done, in_time, len(moments), self.server.stats.snapshot(), before)
        return {**table, "sent_late_ms": late_ms}

    def _load(self, policy, moments, deadline):
        """Sends requests; returns a list of (number, seconds, answer or None), and how late they were sent in ms."""
        server, done = self.server, []
        self._use(policy)
        self.connection.send(moments)

        def finished(number, asked):
            def note(future):
                taken = time.perf_counter() - asked
                done.append((number, taken, None if future.exception() else future.result()))

            return note

        while isinstance(message := self.connection.recv(), tuple):
            number, asked = message
            try:
                image = self.inputs[number % len(self.inputs)]
                server.submit_inputs(image, deadline, begin=asked).add_done_callback(finished(number, asked))
            except Overloaded:
                done.append((number, 0.0, None))
        end = time.monotonic() + 30
        while len(done) < len(moments) and time.monotonic() < end:
            time.sleep(0.01)
        return done, message

    def _table(self, done, in_time, asked, after, before):
        gained = sum(self.server.accuracies[answer.position] for _, answer in in_time)
        table = {
            "asked": asked,
            "answered": len(done),
            "in_time": len(in_time) / asked,
            "accuracy": gained / max(len(in_time), 1),
            "right": gained / asked,
            "refused": (after["refused"] + after["expired"] - before["refused"] - before["expired"]) / asked,
            "busy_seconds": after["compute_seconds"] - before["compute_seconds"],
        }
        if self.labels is not None:
            right = sum(int(answer.classes[0] == self.labels[number % len(self.labels)]) for number, answer in in_time)
            table["right_labels"] = right / asked
        return table

    def close(self):
        self.connection.send(None)
        self.sender.join()
        self.server.close()


def chosen_rows(flags, name):
    """Yields lists of (arrivals, factor, load) whose loads are multiples of the same measured capacity."""
    if flags.again:
        before = json.loads((measuring.RESULTS / "serving.json").read_text())["networks"][name]["rows"]
        rows = [row for row in before if difference(row) < LEAST_DIFFERENCE]
        yield from ([(row["arrivals"], row["factor"], row["load"])] for row in rows)
        return
    for arrivals in flags.arrivals.split(","):
        for factor in map(float, flags.factors.split(",")):
            yield [(arrivals, factor, load) for load in map(float, flags.loads.split(","))]


def compare(bench, flags, policies, groups, end=math.inf):
    """Yields a row for each arrival process, deadline and load until a moment, with a result for each policy."""
    rng, found = np.random.default_rng(0), 0
    for group in groups:
        capacity, usual = bench.capacity("last"), bench.last_seconds()
        for arrivals, factor, load in group:
            if found and time.monotonic() + len(policies) * flags.rounds * flags.seconds > end:
                return
            found += 1
            runs = {policy: [] for policy in policies}
            for number in range(flags.rounds):
                moments = arrival_times(arrivals, load * capacity, flags.seconds, seed=1 + number)
                for policy in map(str, rng.permutation(policies)):
                    runs[policy].append(bench.run(policy, moments, factor * usual))
            yield {
                "arrivals": arrivals,
                "deadline_ms": 1e3 * factor * usual,
                "factor": factor,
                "load": load,
                "capacity": capacity,
                "policies": {policy: pooled(runs[policy]) for policy in policies},
            }


def pooled(runs):
    """Combines the rounds of a policy; `rights` are the shares right and in time of each, which show the noise."""
    asked = sum(run["asked"] for run in runs)
    shares = [name for name in ("in_time", "right", "right_labels", "refused") if name in runs[0]]
    table = {name: sum(run[name] * run["asked"] for run in runs) / asked for name in shares}
    totals = {name: sum(run[name] for run in runs) for name in ("asked", "answered", "busy_seconds")}
    accuracy, late = table["right"] / max(table["in_time"], 1e-9), max(run["sent_late_ms"] for run in runs)
    return {**totals, **table, "accuracy": accuracy, "sent_late_ms": late, "rights": [run["right"] for run in runs]}


def lightly_loaded(bench, seconds, rounds):
    """Returns what came of loads at 80% of the first exit's capacity, and what "exit_1" achieved in turns with it."""
    rate, deadline = 0.8 * bench.capacity("exit_1"), 10 * bench.last_seconds()
    runs = {"value": [], "exit_1": []}
    for number in range(rounds):
        for policy in runs:
            runs[policy].append(bench.run(policy, arrival_times("poisson", rate, seconds, seed=number), deadline))
    return {**pooled(runs["value"]), "exit_1": pooled(runs["exit_1"])}


def over_http(bench, seconds):
    """Returns the median milliseconds through HTTP, through `Server` and of the predictor alone, in turns."""
    from anytime_keras.serving import http as serving_http
    from anytime_keras.serving import web

    image = np.zeros((1, *bench.classifier.preprocessor.image_shape), "uint8")
    spec = {"name": "image", "shape": list(image.shape), "datatype": "UINT8"}
    head = json.dumps({"inputs": [{**spec, "parameters": {"binary_data_size": image.size}}]}).encode()
    bound = socket.create_server(("127.0.0.1", 0))
    server = web.server(serving_http.app({"network": bench.server}, default_deadline=5.0), lifespan="off")
    thread = threading.Thread(target=lambda: server.run(sockets=[bound]))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port, headers = bound.getsockname()[1], {"Inference-Header-Content-Length": str(len(head))}
    inputs, taken = bench.classifier.preprocessor(image), {"http": [], "server": [], "predictor": []}
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds or len(taken["http"]) < 100:
        bench.connection.send((port, "/v2/models/network/infer", head + image.tobytes(), headers, 20))
        taken["http"] += bench.connection.recv()
        for _ in range(20):
            start = time.perf_counter()
            bench.server.submit_inputs(inputs, 5.0).result()
            middle = time.perf_counter()
            bench.classifier.predictor.predict(inputs)
            taken["server"].append(middle - start)
            taken["predictor"].append(time.perf_counter() - middle)
    server.should_exit = True
    thread.join()
    medians = {name: 1e3 * float(np.median(times)) for name, times in taken.items()}
    return {**medians, "difference": medians["http"] - medians["predictor"]}


def plot(networks, path):
    """Draws load against the share right and in time, for each network, arrival process and deadline."""
    groups = {}
    for name, content in networks.items():
        for row in content["rows"]:
            for policy, result in row["policies"].items():
                group = groups.setdefault((name, row["arrivals"], row["factor"]), {})
                group.setdefault(policy, {})[row["load"]] = result["right"]
    columns = min(len(groups), 4)
    lines = -(-len(groups) // columns)
    figure = style.picture(4.2 * columns, 3.2 * lines)
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axis, ((name, arrivals, factor), results) in zip(axes.flat, groups.items()):
        plots.draw_loads(axis, results)
        axis.set_title(f"{name}\n{arrivals}, deadline {factor:g} x last exit", fontsize=9)
    for row in axes:
        row[0].set_ylabel("right and in time (%)")
    axes[0, 0].legend(fontsize=7, frameon=False)
    style.save(figure, path)


def measured(flags):
    """Returns the measurements of each network."""
    sys.setswitchinterval(serve.SWITCH_SECONDS)  # as in a server
    networks, names, begin = {}, flags.networks.split(","), time.monotonic()
    for number, name in enumerate(names, start=1):
        end = math.inf if flags.minutes is None else begin + 60 * flags.minutes * number / len(names)
        bench = Bench(name, flags.engine, flags.max_batch, flags.images)
        exits = [f"exit_{number}" for number in range(1, len(bench.server.exit_names) + 1)]
        policies = ["value", "slack", "last", *(flags.statics.split(",") if flags.statics else exits)]
        rows = []
        groups, rest = chosen_rows(flags, name), (3 + 2 * flags.rounds) * flags.seconds
        for row in compare(bench, flags, policies, groups, end - rest):
            right = {policy: round(result["right"], 3) for policy, result in row["policies"].items()}
            print(name, row["arrivals"], row["factor"], row["load"], f"{row['capacity']:.0f}/s", right, flush=True)
            rows.append(row)
            (flags.out or measuring.RESULTS / "serving").with_suffix(".part.json").write_text(json.dumps({name: rows}))
        networks[name] = {
            "engine": bench.classifier.predictor.engine,
            "accuracies": bench.server.accuracies,
            "stage_ms": (1e3 * bench.server.times.table[[1, flags.max_batch]]).tolist(),
            "straight_ms": [1e3 * seconds for seconds in bench.server.times.straight or []],
            "aims": aims(rows),
            "first_exit_80": lightly_loaded(bench, flags.seconds, flags.rounds),
            "http": over_http(bench, flags.seconds),
            "rows": rows,
        }
        bench.close()
    return networks


def main():
    parser = measuring.parser(__doc__, seconds=10)
    parser.add_argument("--networks", default="resann5x16_adaloss,msdnet_cifar_10exits_adaloss")
    parser.add_argument("--arrivals", default="poisson,gamma,step,afternoon")
    parser.add_argument("--factors", default=",".join(map(str, FACTORS)))
    parser.add_argument("--loads", default=",".join(map(str, LOADS)))
    parser.add_argument("--statics", default=None, help="comma-separated, such as exit_1,exit_4; by default all exits")
    parser.add_argument("--engine", default=None)
    parser.add_argument("--max_batch", type=int, default=8)
    parser.add_argument("--images", default=None, help="an .npz with x_test and y_test of the networks' data")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each policy, in turns, which are combined")
    parser.add_argument("--simulate", action="store_true", help="in virtual time")
    parser.add_argument("--again", action="store_true", help="only the rows of `serving.json` that missed the aim")
    parser.add_argument("--minutes", type=float, default=None, help="of all networks together")
    flags = parser.parse_args()
    name = "serving_simulated" if flags.simulate else "serving_again" if flags.again else "serving"
    networks = simulated(flags) if flags.simulate else measured(flags)
    if not flags.again:
        plot(networks, (flags.out or measuring.RESULTS / name).with_suffix(".png"))
    (flags.out or measuring.RESULTS / "serving").with_suffix(".part.json").unlink(missing_ok=True)
    measuring.write(name, flags, {"decision": decisions(), "networks": networks})


if __name__ == "__main__":
    main()
