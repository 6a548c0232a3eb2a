"""The web server: bounded heads of requests, and a stop that answers what has arrived."""

import contextlib
import socket
import threading
import time

import pytest

pytest.importorskip("uvicorn")

from anytime_keras.serving import web  # noqa: E402

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@contextlib.contextmanager
def serving(app=None):
    """A running server and a function that connects to it."""

    async def hello(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    bound = socket.create_server(("127.0.0.1", 0), backlog=500)
    address = bound.getsockname()
    server = web.server(app or hello, lifespan="off", backlog=500)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield server, lambda: socket.create_connection(address, timeout=30)
    finally:
        server.should_exit = True
        thread.join()


def test_heads_are_answered_408_if_they_are_slow_and_431_if_they_are_long(monkeypatch):
    monkeypatch.setattr(web, "SLOWEST_HEAD", 0.2)
    with serving() as (_, connect):
        for begun in (b"", REQUEST[:10], REQUEST + REQUEST[:10]):
            with connect() as client:
                client.sendall(begun)
                answer = b"".join(iter(lambda: client.recv(1000), b""))
            assert b" 408 " in answer and answer.count(b" 200 ") == begun.count(REQUEST)
        with connect() as client:
            answer = b""
            with contextlib.suppress(OSError):  # closed while the client was sending
                client.sendall(REQUEST[:-2] + b"X: " + b"a" * 5_000_000)
                answer = client.recv(100)
            assert b" 200 " not in answer
        with connect() as client:
            client.sendall(REQUEST)
            assert b" 200 " in client.recv(100)


def test_a_head_that_is_not_slow_may_be_followed_by_a_slow_answer(monkeypatch):
    monkeypatch.setattr(web, "SLOWEST_HEAD", 0.1)

    async def slow(scope, receive, send):
        import asyncio

        await asyncio.sleep(0.3)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    with serving(slow) as (_, connect), connect() as client:
        client.sendall(REQUEST)
        assert b" 200 " in client.recv(100)


def test_a_stop_answers_all_requests_that_have_arrived():
    with serving() as (server, connect):
        clients = [connect() for _ in range(300)]
        for client in clients:
            client.sendall(REQUEST)
        server.should_exit = True
        answers = [client.recv(1000) for client in clients]
        for client in clients:
            client.close()
    assert all(b" 200 " in answer for answer in answers)
    with pytest.raises(OSError):
        connect()
