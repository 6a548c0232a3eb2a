"""uvicorn's server, which here bounds request heads and answers every request that has arrived before it stops."""

import asyncio
import re
import select
import time

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MOST_HEAD = 2**16  # bytes of a request's first line and headers, not counting those read together with its start
SLOWEST_HEAD = 10.0  # seconds in which a head must arrive
MOST_REST = 2**24  # bytes of a body that are still read after the request was answered, so that the client sees this
MOST_PIPELINED = 64  # requests of a connection that wait while an earlier one is answered
LAST_CONNECTIONS = 5.0  # most seconds for accepting the connections that wait when the server stops
LAST_REQUESTS = 0.5  # seconds in which open connections may then still send a request
# A request with this header would lose its body, because the parser expects another protocol after the head. Clients
# that also speak HTTP/2 send it.
UPGRADE = re.compile(rb"\r\nupgrade:[^\r\n]*", re.IGNORECASE)


class Protocol(HttpToolsProtocol):
    """Closes connections whose request line and headers are too long or arrive too slowly.

    The same holds for the trailers after a body, and for the rest of a request that was answered before all of it
    arrived. If more than `MOST_PIPELINED` requests wait, it answers these and closes the connection.
    """

    _incoming = 0  # bytes that are being parsed
    _in_head = True
    _rest = 0  # bytes of the body since the answer

    def connection_made(self, transport):
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc):
        self._timer.cancel()
        super().connection_lost(exc)

    def on_message_begin(self):
        if len(self.pipeline) >= MOST_PIPELINED:
            raise OverflowError("too many pipelined requests")  # ends the parsing; uvicorn calls `send_400_response`
        self._timer.cancel()
        self._wait_for_head()
        self._head = -self._incoming  # does not count them: they may begin with the previous body
        self._rest, self._in_head = 0, True
        super().on_message_begin()

    def on_header(self, name, value):
        if self._in_head:  # trailers must not replace headers
            super().on_header(name, value)

    def on_headers_complete(self):
        self._timer.cancel()
        self._in_head = False
        self._head = -self._incoming
        super().on_headers_complete()

    def on_body(self, body):
        self._head = -self._incoming
        super().on_body(body)
        if self.cycle.response_complete:
            self._rest += len(body)
            if self._rest > MOST_REST:
                self.transport.close()

    def on_message_complete(self):
        self._head, self._in_head = None, True
        super().on_message_complete()

    def on_response_complete(self):
        super().on_response_complete()
        if self.cycle.response_complete and self.cycle.more_body:  # arriving data stops uvicorn's own timer
            self._timer.cancel()
            self._timer = self.loop.call_later(SLOWEST_HEAD, self.transport.close)

    def data_received(self, data):
        if self._in_head:
            head, end, rest = data.partition(b"\r\n\r\n")
            data = UPGRADE.sub(b"", head) + end + rest
        self._incoming = len(data)
        super().data_received(data)
        if self._head is not None:
            self._head += len(data)
            if self._head > MOST_HEAD:
                self._refuse(b"431 Request Header Fields Too Large")

    def send_400_response(self, msg):
        if self.pipeline or self.cycle and not (self.cycle.response_complete or self.cycle.more_body):
            self.shutdown()  # closes the connection after the answers to the requests before
        else:
            super().send_400_response(msg)

    def _wait_for_head(self):
        self._head = 0  # bytes of a head or of trailers so far; None between requests
        self._timer = self.loop.call_later(SLOWEST_HEAD, self._refuse, b"408 Request Timeout")

    def _refuse(self, status):
        if self.cycle is None or self.cycle.response_complete:  # otherwise it would be inside the previous answer
            self.transport.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        self.transport.close()


class Server(uvicorn.Server):
    """Before it stops, answers all requests that have arrived, also on connections that it has not yet accepted."""

    async def shutdown(self, sockets):
        end, idle = time.monotonic() + LAST_CONNECTIONS, 0  # passes of the loop in which no connection waited
        while time.monotonic() < end:
            idle = 0 if select.select(sockets, [], [], 0)[0] else idle + 1
            if idle == 2:  # asyncio starts a connection one pass after accepting it, if its server is still open
                break
            await asyncio.sleep(0)
        for listening in [*self.servers, *sockets]:
            listening.close()
        await asyncio.sleep(LAST_REQUESTS)  # reads the requests of accepted connections
        await super().shutdown(sockets)


def server(app, **options):
    """Creates a `Server`; start it with its method `run(sockets=[bound])`.

    Args:
        app: ASGI application.
        **options: arguments of `uvicorn.Config`.

    Returns:
        A `Server`.
    """
    return Server(uvicorn.Config(app, http=Protocol, ws="none", log_level="warning", access_log=False, **options))
