import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from anytime_keras import commands

pytest.importorskip("uvicorn")


@pytest.mark.long
@pytest.mark.tensorflow  # starts a process
def test_serve_answers_and_stops_cleanly_on_sigterm():
    command = [sys.executable, "-m", "anytime_keras", "serve", "resann2x16_adaloss_digits", "--port=0", "--max_batch=2"]
    process = subprocess.Popen([*command, "--engine=tensorflow"], stdout=subprocess.PIPE, text=True)
    try:
        port = re.search(r"on http://127\.0\.0\.1:(\d+)/", process.stdout.readline())[1]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready") as answer:
            assert answer.status == 200
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "Name a network"),
        (["resann", "--port=0"], "resann"),
        (["a", "b/a"], "different names"),
        (["a", "a/b/.."], "different names. Received: ['a', 'a']"),
        (["a", "--port=70000"], "port"),
        (["a", "--confidence=0"], "`confidence` must be a number above 0 and at most 1, or None. Received"),
        (["a", "--confidence=nan"], "`confidence`"),
        (["a", "--policy=exit_0"], "'exit_1', 'exit_2', ... Received: policy='exit_0'"),
        (["a", "--deadline_ms=inf"], "--deadline_ms must be a number of milliseconds. Received: inf"),
        (["a", "--engine=litter"], "`engine` must be one of"),
        (["a", "--host=no.such.host.invalid"], "Cannot listen on --host=no.such.host.invalid"),
    ],
)
def test_bad_arguments_end_with_one_line(arguments, message):
    with pytest.raises(SystemExit) as error:
        commands.main(["anytime-keras", "serve", *arguments])
    assert message in str(error.value) and "\n" not in str(error.value).strip()


def test_a_second_server_on_a_port_ends_while_the_first_one_still_loads_its_networks(monkeypatch):
    from anytime_keras import Classifier

    loads = []

    def load(*arguments, **options):
        loads.append(arguments)
        if len(loads) == 1:
            with pytest.raises(SystemExit, match="Cannot listen on --host=127.0.0.1 --port=.*in use"):
                commands.main(["anytime-keras", "serve", "a", f"--port={port}"])
        raise ValueError("loaded")

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(Classifier, "from_preset", load)
    with pytest.raises(SystemExit, match="loaded"):
        commands.main(["anytime-keras", "serve", "a", f"--port={port}"])
    assert len(loads) == 1


def test_a_port_in_use_is_reported_before_networks_are_loaded():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SystemExit, match=r"Cannot listen on --host=127.0.0.1 --port=\d+: [^()]*in use\.$"):
            commands.main(["anytime-keras", "serve", "a", f"--port={taken.getsockname()[1]}"])
