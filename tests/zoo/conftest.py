"""A zoo with one tiny network in a folder, and a local server for it that can misbehave."""

import contextlib
import http.server
import pathlib
import shutil
import threading
import time

import pytest

import anytime_keras as ak
from anytime_keras.zoo import catalog, places
from tests.checks import scramble

NAME = "tiny_adaloss"


@pytest.fixture(autouse=True)
def of_its_own(tmp_path, monkeypatch):
    """A separate cache, and no zoo except the checkout's."""
    monkeypatch.setenv("ANYTIME_KERAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ANYTIME_KERAS_ZOO", raising=False)
    monkeypatch.setattr(catalog, "_added", [])
    places.site.cache_clear()


@pytest.fixture(scope="session")
def digits():
    return ak.data.load("digits", augment=None)


@pytest.fixture(scope="session")
def tiny():
    """A network with weights that no initialiser returns."""
    model = ak.models.build("resann", num_units=1, channels=4, input_shape=(8, 8, 1), num_classes=10)
    scramble(model)
    model.inference = {"temperatures": {"exit_3": 1.5}}
    return model


@pytest.fixture(scope="session")
def published(tiny, digits, tmp_path_factory):
    """The folder of a zoo; tests change copies."""
    folder = tmp_path_factory.mktemp("published")
    ak.zoo.publish(tiny, NAME, digits, folder=folder, weighting={"name": "adaloss"}, epochs=3, images=3882, minutes=0.5)
    return folder


@pytest.fixture
def zoo(published, tmp_path):
    return pathlib.Path(shutil.copytree(published, tmp_path / "zoo"))


class _Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.asked.append(self.path)
        how, content = next((server.bad[end] for end in server.bad if self.path.endswith(end)), (None, b""))
        if how is None:
            super().do_GET()
        elif how == "status":
            self.send_error(content)
        elif how == "redirect":
            self.send_response(302)
            self.send_header("Location", content)
            self.end_headers()
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(10**12 if how == "drip" else len(content)))
            self.end_headers()
            self.wfile.write(content if how == "send" else content[: len(content) // 2])
            if how == "stall":
                self.wfile.flush()
                time.sleep(4)
            elif how == "drip":
                with contextlib.suppress(OSError):
                    for byte in content[len(content) // 2 :]:
                        self.wfile.write(bytes([byte]))
                        time.sleep(0.05)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(zoo):
    """Gives out `zoo`. `bad[end of a path]` is ("status", code), ("redirect", url), ("send", other content), or
    ("stall", "cut" or "drip", content), of which half is sent, and by "drip" the rest byte by byte, as the
    begin of far more."""
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *arguments: _Handler(*arguments, directory=str(zoo))
    )
    server.asked, server.bad = [], {}
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    server.stop = lambda: (server.shutdown(), server.server_close(), thread.join())
    yield server
    if thread.is_alive():
        server.stop()


@pytest.fixture
def site(server, monkeypatch):
    """The server as the zoo of `ANYTIME_KERAS_ZOO`."""
    monkeypatch.setenv("ANYTIME_KERAS_ZOO", server.url)
    return server
