"""Serve networks by HTTP; under load, earlier exits answer so that deadlines are kept.

  anytime-keras serve resann5x16_adaloss --port=8000
  curl --data-binary @cat.jpg "http://127.0.0.1:8000/v1/classify?deadline_ms=20"

Arguments: networks, each a name of the zoo, the folder of a training, of a saved preset or of an exported set, a .keras
file, or hf://user/model. The page http://127.0.0.1:8000/ shows the load. On SIGTERM the server answers the requests
that it has accepted and stops. Needs pip install 'anytime-keras[serve]'.
"""

import contextlib
import gc
import math
import os
import signal
import socket
import sys

from absl import flags

import anytime_keras as ak
from anytime_keras._errors import explained
from anytime_keras.inference.engines import choice
from anytime_keras.serving import arguments as server_arguments

FLAGS = flags.FlagValues()
_own = dict(flag_values=FLAGS)
flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; 0.0.0.0 is reachable from other machines.", **_own)
flags.DEFINE_integer("port", 8000, "Port to listen on; 0 picks a free one.", lower_bound=0, upper_bound=65535, **_own)
flags.DEFINE_string("policy", "value", "How exits are chosen: value, slack, last, or exit_1, exit_2, ...", **_own)
flags.DEFINE_float("deadline_ms", 100.0, "Deadline of requests that give none.", lower_bound=0.1, **_own)
flags.DEFINE_integer("max_batch", 8, "Largest batch size.", lower_bound=1, **_own)
flags.DEFINE_integer("max_queue", 1024, "Largest number of waiting requests.", lower_bound=1, **_own)
flags.DEFINE_float("confidence", None, "Answer at the first exit that is at least this confident.", **_own)
flags.DEFINE_string("weights", "default", "For names of the zoo, the label of the weights.", **_own)
flags.DEFINE_string("engine", None, "Runtime of the networks. Default: that of `ak.Predictor`.", **_own)
BACKLOG = 2048  # connections that wait to be accepted
SWITCH_SECONDS = 0.0005  # the thread that runs a network must not wait long for the interpreter


def run(flags, arguments):
    if not arguments:
        raise ValueError("Name a network: anytime-keras serve resann5x16_adaloss")
    names = [os.path.basename(os.path.abspath(argument)) for argument in arguments]  # also of `.`
    if len(set(names)) < len(names):
        raise ValueError(f"Networks must have different names. Received: {names}.")
    _check(flags)
    with explained("", ImportError, end=". Install the server's packages: pip install 'anytime-keras[serve]'"):
        from anytime_keras.serving import http, web
    with _bound(flags.host, flags.port) as bound:
        servers = {name: _server(argument, flags) for name, argument in zip(names, arguments)}
        sys.setswitchinterval(SWITCH_SECONDS)
        gc.collect()
        gc.freeze()  # later collections do not visit the networks' many objects, which would pause all answers
        _allow_connections()
        app = http.app(servers, flags.deadline_ms / 1e3)
        host = f"[{flags.host}]" if ":" in flags.host else flags.host  # an IPv6 address
        print(f"serving {', '.join(names)} on http://{host}:{bound.getsockname()[1]}/", flush=True)
        # uvicorn raises the signal that stopped it again at the end, which must not be an error.
        signal.signal(signal.SIGTERM, lambda *_: None)
        web.server(app, backlog=BACKLOG, timeout_graceful_shutdown=90).run(sockets=[bound])


def _check(flags):
    """Checks the flags before networks are loaded, which takes long."""
    if not math.isfinite(flags.deadline_ms):
        raise ValueError(f"--deadline_ms must be a number of milliseconds. Received: {flags.deadline_ms}.")
    server_arguments.check(flags.policy, flags.max_batch, flags.max_queue, flags.confidence)
    choice.check(flags.engine or "auto", None)


def _bound(host, port):
    """Returns a listening socket, made before the networks are prepared, so that a port in use is reported at once.

    Two sockets may be bound to a port until one listens. Connections wait until the networks are prepared.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
        return socket.create_server(address, family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]  # `create_server` repeats the address
        raise ValueError(f"Cannot listen on --host={host} --port={port}: {reason}.") from error


def _server(name, flags):
    options = {} if flags.engine is None else {"engine": flags.engine}
    classifier = ak.Classifier.from_preset(name, flags.weights, **options)
    own = {name: flags[name].value for name in ("policy", "max_batch", "max_queue", "confidence")}
    return ak.serving.Server(classifier, **own)


def _allow_connections():
    """Raises this process's limit of open files to the most that the system allows."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit
        return
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS may report no limit and accept less
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
