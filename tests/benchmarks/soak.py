"""Soaks a server with good and hostile clients, and writes `results/soak.json`.

    python -m tests.benchmarks.soak --minutes=10
    python -m tests.benchmarks.soak --minutes=1 --requests=2000 --out=/tmp/soak.json

Starts `anytime-keras serve` in a process of its own and sends requests from `--clients` connections at once, until
`--requests` were sent or `--minutes` are over. One request in ten is hostile: its client hangs up before the
answer, sends garbage, half a body, a wrong shape, NaN, an unknown model, a body that is too large or an
impossible deadline.

Contents of the file:
    sent, answered, refused     good requests: sent, answered with 200, refused with 503 and `Retry-After`
    unanswered                  good requests without either, with their errors; must be 0
    late                        answered requests that say so
    hostile                     by kind, how many ended with which status; `None`: closed without one
    mismatched                  hostile requests that did not end as they must
    server                      the server's own counters at the end; nothing may have failed
    megabytes                   the server's memory after each tenth of the run
    growth                      the last of these over that after two tenths, when caches are full; at most 1.1
"""

import asyncio
import collections
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import urllib.request

import numpy as np
import PIL.Image

from tests.benchmarks import measuring

HOSTILE = 0.1
SIDE = 32  # of the images; the server scales them if its network takes others
TIMEOUT = 60.0  # seconds that a client waits for an answer
# What hostile requests end with: a status, or None for a connection that is closed without an answer.
ENDS = {
    "hangs_up": {None},
    "garbage": {400, None},
    "half_a_body": {None, 400, 408},
    "wrong_shape": {400},
    "nan": {400},
    "not_an_image": {400},
    "unknown_model": {404},
    "too_large": {413},
    "no_deadline": {400, 503},
}


class Server:
    """`anytime-keras serve` in a process of its own."""

    def __init__(self, preset, engine):
        command = [sys.executable, "-m", "anytime_keras", "serve", preset, "--port=0", f"--engine={engine}"]
        self.name = preset
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = self._process.stdout.readline()
        self.port = int(re.search(r"http://127\.0\.0\.1:(\d+)/", line)[1])

    def megabytes(self):
        """Returns the resident memory of the process."""
        with open(f"/proc/{self._process.pid}/status") as status:
            return int(re.search(r"VmRSS:\s+(\d+) kB", status.read())[1]) / 1024

    def status(self):
        """Returns the server's counters."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/status") as answer:
            return json.loads(answer.read())[self.name]

    def stop(self):
        """Stops the server by SIGTERM; returns its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(120)


class Clients:
    """Clients that send requests one after the other, each good or hostile.

    Args:
        server: `Server`.
        rng: `random.Random`.
    """

    def __init__(self, server, rng):
        self._server, self._rng = server, rng
        pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), "uint8")
        file = io.BytesIO()
        PIL.Image.fromarray(pixels).save(file, "PNG")
        self._png = file.getvalue()
        self.good, self.late, self.errors = collections.Counter(), 0, collections.Counter()
        self.hostile = {kind: collections.Counter() for kind in ENDS}

    @property
    def sent(self):
        """The number of requests so far."""
        return sum(self.good.values()) + sum(sum(ends.values()) for ends in self.hostile.values())

    async def work(self, most, until):
        """Sends requests until `most` were sent by all clients, or the moment `until`."""
        while self.sent < most and time.monotonic() < until:
            if self._rng.random() < HOSTILE:
                kind = self._rng.choice(list(ENDS))
                self.hostile[kind][await self._hostile(kind)] += 1
            else:
                await self._good()

    async def _good(self):
        deadline = self._rng.choice((5, 20, 100, 1000))
        try:
            status, head, body = await self._ask(f"/v1/classify?deadline_ms={deadline}", self._png)
        except Exception as error:  # counted: none may happen
            self.good["unanswered"] += 1
            self.errors[repr(error)[:100]] += 1
            return
        if status == 200:
            self.good["answered"] += 1
            self.late += json.loads(body)["late"]
        elif status == 503 and b"retry-after" in head.lower():
            self.good["refused"] += 1
        else:
            self.good["unanswered"] += 1
            self.errors[f"{status}: {body[:100]!r}"] += 1

    async def _hostile(self, kind):
        path, body, length, wait = "/v1/classify?deadline_ms=1000", self._png, None, True
        if kind == "garbage":
            return await self._raw(os.urandom(200) + b"\r\n\r\n")
        if kind == "hangs_up":
            wait = False
        elif kind == "half_a_body":
            length, body, wait = len(body), body[: len(body) // 2], False
        elif kind == "not_an_image":
            body = os.urandom(500)
        elif kind == "too_large":
            length, body = 2**30, b"x"
        elif kind == "no_deadline":
            path = f"/v1/classify?deadline_ms={self._rng.choice(('0', '-1', 'nan', '1e-9', 'soon'))}"
        else:
            name = "other" if kind == "unknown_model" else self._server.name
            path, body = f"/v2/models/{name}/infer", self._tensor(kind)
        try:
            return (await self._ask(path, body, length, wait))[0]
        except (ConnectionError, asyncio.IncompleteReadError):
            return None
        except TimeoutError:  # counts as mismatched
            return "no answer"

    def _tensor(self, kind):
        values = [float("nan") if kind == "nan" else 0.5] * (SIDE * SIDE * 3)
        shape = [1, SIDE, SIDE, 3] if kind == "nan" else [1, 7, 7, 3]
        datatype, values = ("FP32", values) if kind == "nan" else ("UINT8", [1] * (7 * 7 * 3 - 1))
        spec = {"name": "image", "shape": shape, "datatype": datatype, "data": values}
        return json.dumps({"inputs": [spec]}).encode()

    async def _ask(self, path, body, length=None, wait=True):
        """Sends a request; returns the status, or None if it hangs up without waiting, the head and the body."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        try:
            length = len(body) if length is None else length
            writer.write(f"POST {path} HTTP/1.1\r\nHost: soak\r\nContent-Length: {length}\r\n\r\n".encode() + body)
            if not wait:
                await asyncio.sleep(self._rng.uniform(0, 0.01))
                return None, b"", b""
            async with asyncio.timeout(TIMEOUT):
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(re.search(rb"content-length: (\d+)", head.lower())[1])
                return int(head.split()[1]), head, await reader.readexactly(size)
        finally:
            writer.close()

    async def _raw(self, content):
        """Sends bytes; returns the status of what comes back, or None if the connection is closed."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        try:
            writer.write(content)
            async with asyncio.timeout(TIMEOUT):
                head = await reader.readline()
            return int(head.split()[1]) if head.startswith(b"HTTP/") else None
        except ConnectionError:
            return None
        except TimeoutError:
            return "no answer"
        finally:
            writer.close()


async def soak(server, clients, flags):
    """Runs the clients; returns the server's megabytes after each tenth of the time or of the requests."""
    begin, seconds, memory = time.monotonic(), 60 * flags.minutes, []

    async def watch():
        for tenth in range(1, 11):
            while clients.sent < tenth * flags.requests / 10 and time.monotonic() < begin + tenth * seconds / 10:
                await asyncio.sleep(0.2)
            memory.append(server.megabytes())
            print(f"{clients.sent} requests, {memory[-1]:.0f} MB", file=sys.stderr, flush=True)

    work = [clients.work(flags.requests, begin + seconds) for _ in range(flags.clients)]
    await asyncio.gather(watch(), *work)
    return memory


def main():
    made = measuring.parser(__doc__, seconds=0)
    made.add_argument("--minutes", type=float, default=60.0)
    made.add_argument("--requests", type=int, default=100_000)
    made.add_argument("--clients", type=int, default=32)
    made.add_argument("--preset", default="resann5x16_adaloss")
    made.add_argument("--engine", default="litert")
    flags = made.parse_args()
    server = Server(flags.preset, flags.engine)
    clients, begin = Clients(server, random.Random(0)), time.monotonic()
    memory = asyncio.run(soak(server, clients, flags))
    seconds, counters = time.monotonic() - begin, server.status()
    wrong = [count for kind, ends in clients.hostile.items() for end, count in ends.items() if end not in ENDS[kind]]
    table = {
        "seconds": seconds,
        "requests": clients.sent,
        "sent": sum(clients.good.values()),
        **{name: clients.good[name] for name in ("answered", "refused", "unanswered")},
        "errors": dict(clients.errors),
        "late": clients.late,
        "hostile": {kind: {str(end): count for end, count in ends.items()} for kind, ends in clients.hostile.items()},
        "mismatched": sum(wrong),
        "server": {name: counters[name] for name in ("in_time", "late", "refused", "expired", "cancelled", "failed")},
        "megabytes": memory,
        "growth": memory[-1] / memory[1],
        "exit_code": server.stop(),
    }
    measuring.write("soak", flags, table)


if __name__ == "__main__":
    main()
