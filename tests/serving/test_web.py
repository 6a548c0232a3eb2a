"""The web server: bounded heads of requests, and a stop that answers what has arrived."""

import asyncio
import contextlib
import socket
import threading
import time

import pytest

pytest.importorskip("uvicorn")

from anytime_keras.serving import web  # noqa: E402

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@contextlib.contextmanager
def serving(app=None, **options):
    """A running server and a function that connects to it."""

    async def hello(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    bound = socket.create_server(("127.0.0.1", 0), backlog=500)
    address = bound.getsockname()
    server = web.server(app or hello, lifespan="off", backlog=500, **options)
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
    monkeypatch.setattr(web, "SLOWEST_HEAD", 0.5)
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
        monkeypatch.undo()
        with connect() as client:
            client.sendall(REQUEST)
            assert b" 200 " in client.recv(100)


def test_a_head_that_is_not_slow_may_be_followed_by_a_slow_answer(monkeypatch):
    monkeypatch.setattr(web, "SLOWEST_HEAD", 0.5)

    async def slow(scope, receive, send):
        await asyncio.sleep(0.7)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    with serving(slow) as (_, connect), connect() as client:
        client.sendall(REQUEST)
        assert b" 200 " in client.recv(100)


def test_trailers_do_not_become_headers():
    async def names(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        headers = b" ".join(name for name, _ in scope["headers"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": headers})

    with serving(names) as (_, connect), connect() as client:
        head = b"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        client.sendall(head + b"1\r\na\r\n0\r\nX-Late: 1\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(1000), b""))
    assert b" 200 " in answer and b"transfer-encoding" in answer and b"x-late" not in answer


def test_an_upgrade_to_http2_is_ignored():
    async def echo(scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"got " + body})

    with serving(echo) as (_, connect), connect() as client:
        upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n"
        for pause in (0, 0.2):
            client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\n" + upgrade + b"Content-Length: 14\r\n\r\n")
            time.sleep(pause)
            client.sendall(b"a\r\nUpgrade: b\r\n"[:14])
            answer = b""
            while b"got a\r\nUpgrade: b" not in answer:
                assert (received := client.recv(1000)), answer
                answer += received


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


@pytest.mark.parametrize("loop", ["auto", "asyncio"])
def test_a_stop_answers_connections_that_wait_to_be_accepted_when_it_begins(loop, monkeypatch):
    clients, shutdown = [], web.Server.shutdown

    async def busy(server, sockets):  # clients connect while the loop is busy
        for _ in range(20):
            clients.append(socket.create_connection(sockets[0].getsockname(), timeout=30))
            clients[-1].sendall(REQUEST)
        await shutdown(server, sockets)

    monkeypatch.setattr(web.Server, "shutdown", busy)
    with serving(loop=loop):
        pass
    for client in clients:
        client.settimeout(0)  # the server has stopped
        with client:
            assert b" 200 " in client.recv(1000)


def test_requests_that_wait_behind_another_on_a_connection_are_limited():
    with serving() as (_, connect), connect() as client:
        with contextlib.suppress(ConnectionError):  # closed before the client has sent all
            client.sendall(REQUEST * 2000)
        answer = b"".join(iter(lambda: client.recv(100_000), b""))
    assert answer.count(b"hello") == 1 + web.MOST_PIPELINED


def test_garbage_is_refused_after_the_answer_before():
    async def slow(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello", "more_body": True})
        await asyncio.sleep(0.5)
        await send({"type": "http.response.body", "body": b"world"})

    with serving(slow) as (_, connect):
        for sent, status in ((REQUEST, b" 200 "), (REQUEST[:-2] + b"Transfer-Encoding: chunked\r\n\r\n", b" 400 ")):
            with connect() as client:
                client.sendall(sent + b"garbage\r\n\r\n")
                answer = b"".join(iter(lambda: client.recv(1000), b""))
            assert answer.count(b"HTTP/1.1") == 1 and status in answer and (b"world" in answer) == (status == b" 200 ")


def test_the_rest_of_an_answered_request_must_arrive_in_time(monkeypatch):
    async def hello(scope, receive, send):
        monkeypatch.setattr(web, "SLOWEST_HEAD", 0.3)  # now that the head has arrived
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    begun = REQUEST[:-2] + b"Content-Length: 1000000\r\n\r\n"
    with serving(hello) as (_, connect), connect() as client:
        client.sendall(begun)
        assert b" 200 " in client.recv(1000)
        with pytest.raises(OSError):  # closed by the server
            for _ in range(200):
                client.sendall(b"a")
                time.sleep(0.05)


def closed_after(client, part, times):
    """Returns whether the server closes the connection while the client sends a part again and again."""
    try:
        for _ in range(times):
            client.sendall(part)
    except OSError:
        return True
    return False


def test_the_rest_of_an_answered_request_is_read_up_to_a_limit(monkeypatch):
    monkeypatch.setattr(web, "MOST_REST", 2**20)
    for length, closed in ((2**19, False), (2**30, True)):
        with serving() as (_, connect), connect() as client:
            client.sendall(REQUEST[:-2] + b"Content-Length: %d\r\n\r\n" % length)
            assert b" 200 " in client.recv(1000)
            assert closed_after(client, b"a" * 2**16, min(length // 2**16, 1000)) == closed
            if not closed:
                client.sendall(REQUEST)
                assert b" 200 " in client.recv(1000)


@pytest.mark.parametrize("trailer", [b"X: " + b"a" * 1000 + b"\r\n", b"a" * 1000])
def test_trailers_are_limited_as_heads_are(trailer):
    async def reads(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    begun = REQUEST[:-2] + b"Transfer-Encoding: chunked\r\n\r\n"
    with serving(reads) as (_, connect), connect() as client:
        client.sendall(begun + b"5\r\nhello\r\n" * 50_000 + b"0\r\nX: y\r\n\r\n")
        assert b" 200 " in client.recv(1000)
        client.sendall(begun + b"0\r\nX: ")
        assert closed_after(client, trailer, 100_000)


def test_a_late_head_does_not_interrupt_the_answer_before(monkeypatch):
    monkeypatch.setattr(web, "SLOWEST_HEAD", 0.5)

    async def slow(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello", "more_body": True})
        await asyncio.sleep(1)

    with serving(slow) as (_, connect), connect() as client:
        client.sendall(REQUEST + REQUEST[:10])
        answer = b"".join(iter(lambda: client.recv(1000), b""))
    assert b" 200 " in answer and b" 408 " not in answer


def test_a_body_does_not_count_as_the_head_of_the_next_request(monkeypatch):
    monkeypatch.setattr(web, "MOST_HEAD", 1000)
    with serving() as (_, connect), connect() as client:
        client.sendall(REQUEST[:-2] + b"Content-Length: 5000\r\n\r\n" + b"a" * 5000 + REQUEST[:10])
        time.sleep(0.2)
        client.sendall(REQUEST[10:])
        answer = b""
        while answer.count(b"hello") < 2:
            assert (part := client.recv(1000)), answer
            answer += part
        assert answer.count(b" 200 ") == 2
