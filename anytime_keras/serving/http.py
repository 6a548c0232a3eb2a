"""`app`: an ASGI application that serves networks by HTTP.

Needs the extra `serve` (Starlette, uvicorn, prometheus-client). No endpoint reads files or loads models by a path.
"""

import asyncio
import concurrent.futures
import contextlib
import io
import json
import math
import pathlib
import re
import time

import PIL.Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from anytime_keras.data import crops
from anytime_keras.serving import metrics, v2
from anytime_keras.serving.scheduler import Overloaded
from anytime_keras.serving.server import MOST_RESIZED, Closed
from anytime_keras.version import __version__

MOST_BYTES = 16 * 2**20
MOST_PIXELS = 2**25  # of an image file; a small file can contain many, which take seconds to decode
SHRUNK = 4  # JPEG files are decoded at 1/2, 1/4 or 1/8 of their size, but at least at this multiple of the resized size
MOST_DECODING = 64  # images that wait to be decoded
MOST_ARRIVING = 2**28  # bytes of all bodies that are arriving
SLOWEST_BODY = 10.0  # seconds in which a body must arrive
WATCHED = 1.0  # seconds; while a request waits longer, the server checks whether the client has disconnected
OLDEST = 60.0  # seconds; older values of `X-Request-Start` are ignored
SMALL, FEW = 2**18, 8  # bytes and samples; larger tensors are converted in a thread
PAGE = pathlib.Path(__file__).with_name("page.html")


def app(servers, default_deadline=0.1, max_bytes=MOST_BYTES):
    """Creates the application.

    Endpoints: the Open Inference Protocol V2 under `/v2`, `POST /v1/classify` for images, `GET /v1/status`,
    `GET /metrics` for Prometheus, and a page at `/`. The application closes the servers when it stops.

    Args:
        servers: dict from a name to a `Server`.
        default_deadline: float, seconds, for requests that give none.
        max_bytes: int, the largest body.

    Returns:
        A `starlette.applications.Starlette`.

    Raises:
        ImportError: without Starlette and prometheus-client: `pip install 'anytime-keras[serve]'`.
    """
    if not servers:
        raise ValueError("`servers` must contain at least one server. Received: {}.")
    api = Api(servers, default_deadline, max_bytes)
    one = "/v2/models/{name}"
    routes = [
        Route("/", api.page),
        Route("/metrics", api.metrics),
        Route("/v1/status", api.status),
        Route("/v1/classify", api.classify, methods=["POST"]),
        Route("/v2", api.about),
        Route("/v2/health/live", api.live),
        Route("/v2/health/ready", api.ready),
    ]
    for path in (one, one + "/versions/{version}"):
        routes += [
            Route(path, api.model),
            Route(path + "/ready", api.model_ready),
            Route(path + "/infer", api.infer, methods=["POST"]),
        ]

    @contextlib.asynccontextmanager
    async def lifespan(_):
        yield
        for server in servers.values():
            await asyncio.to_thread(server.close)
        api.threads.shutdown(wait=False)

    handlers = {ValueError: _error(400), ClientDisconnect: _error(499), Closed: _error(503)}
    handlers |= {Overloaded: _overloaded, HTTPException: _http_error, Exception: _failed}
    application = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    application.router.redirect_slashes = False  # a redirection would repeat the client's `Host`
    return application


def _error(status):
    def respond(request, error):
        return JSONResponse({"error": str(error)[:1000]}, status)

    return respond


def _failed(request, error):
    return JSONResponse({"error": f"The request failed: {type(error).__name__}."}, 500)


def _http_error(request, error):
    return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)


def _overloaded(request, error):
    seconds = math.ceil(max(error.retry_after, 0.001))
    return JSONResponse({"error": str(error), "retry_after": error.retry_after}, 503, {"Retry-After": str(seconds)})


def _refusal(server, message, retry_after):
    """Counts a request that is refused before it reaches a server's queue; returns the error to raise."""
    server.stats.count("refused")
    return Overloaded(message, retry_after)


class Api:
    """The endpoints; see `app`."""

    def __init__(self, servers, default_deadline, max_bytes):
        self._servers, self._default, self._most = servers, default_deadline, max_bytes
        self._metrics = metrics.exporter(servers)
        self.threads = concurrent.futures.ThreadPoolExecutor(2, "anytime_keras.http")
        self._decoding, self._arriving = 0, 0

    def _server(self, name):
        if name is None and len(self._servers) == 1:
            return next(iter(self._servers.items()))
        if name is None:
            raise ValueError(f"Several models are served; name one: ?model=... Served: {sorted(self._servers)}.")
        if name not in self._servers:
            raise HTTPException(404, f"There is no model {name!r:.100}. Served: {sorted(self._servers)}.")
        return name, self._servers[name]

    async def page(self, request):
        return HTMLResponse(PAGE.read_text())

    async def metrics(self, request):
        return Response(self._metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def status(self, request):
        return JSONResponse({name: server.status() for name, server in self._servers.items()})

    async def about(self, request):
        return JSONResponse({"name": "anytime_keras", "version": __version__, "extensions": ["binary_tensor_data"]})

    async def live(self, request):
        return Response(status_code=200)

    async def ready(self, request):
        return Response(status_code=200 if all(server.open for server in self._servers.values()) else 503)

    async def model(self, request):
        name, server = self._named(request)
        return JSONResponse(v2.metadata(name, server.inputs, server.num_classes))

    async def model_ready(self, request):
        return Response(status_code=200 if self._named(request)[1].open else 503)

    def _named(self, request):
        if request.path_params.get("version", "1") != "1":
            raise HTTPException(404, f"There is no version {request.path_params['version']!r:.50}, only '1'.")
        return self._server(request.path_params["name"])

    async def infer(self, request):
        """Answers a request of the Open Inference Protocol; its samples are scheduled one by one."""
        begin = _begun(request)
        name, server = self._named(request)
        body = await self._body(request, server)
        length = request.headers.get("inference-header-content-length")
        parsed = await self._in_thread(len(body) > SMALL, v2.InferRequest, body, length)
        deadline = parsed.timeout or self._default
        options = {name: getattr(parsed, name) for name in ("priority", "min_exit", "min_accuracy")}
        server.check_request(deadline, **options)
        slow = len(body) > SMALL or max(map(len, parsed.inputs.values())) > FEW or server.resizes(parsed.inputs)
        samples = await self._in_thread(slow, server.inputs_of, parsed.inputs)
        futures = []
        try:
            for sample in samples:
                futures.append(server.submit_inputs(sample, deadline, begin=begin, **options))
            answers = [await self._answer(request, future, deadline) for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            raise
        content, length = v2.encode(name, parsed, answers)
        if length is None:
            return Response(content, media_type="application/json")
        headers = {"Inference-Header-Content-Length": str(length)}
        return Response(content, headers=headers, media_type="application/octet-stream")

    async def classify(self, request):
        """Answers for an image file in the body; see `_classify_options`."""
        begin = _begun(request)
        name, server = self._server(request.query_params.get("model"))
        if server.classifier is None:
            raise HTTPException(400, f"'{name}' takes tensors only: POST /v2/models/{name}/infer.")
        deadline, top, options = self._classify_options(request)
        server.check_request(deadline, **options)
        body = await self._body(request, server)
        if not body:
            raise ValueError("The body must be a JPEG or PNG file. Received: an empty body.")
        image = await self._decode(body, server, begin + deadline)
        if "text/event-stream" in request.headers.get("accept", "") or request.query_params.get("stream") == "1":
            return self._stream(server, image, deadline, begin, top, options)
        future = server.submit_inputs(image, deadline, begin=begin, **options)
        return JSONResponse(_plain(await self._answer(request, future, deadline), top))

    async def _decode(self, body, server, end):
        """Returns the network's input of an image file; refuses images that wait for a thread until `end` or longer."""

        def decode():
            if time.perf_counter() > end:
                raise _refusal(server, "The deadline cannot be met. It passed before the image was decoded.", 0.0)
            return _decoded(body, server)

        if self._decoding >= MOST_DECODING:
            raise _refusal(server, f"{self._decoding} images wait to be decoded.", 1.0)
        self._decoding += 1
        try:
            return await self._in_thread(True, decode)
        except (ValueError, OSError) as error:
            reason = re.sub(r" <_io[^>]*>", "", str(error))  # Pillow names the object that held the bytes
            raise ValueError(f"The body must be a JPEG or PNG file. {reason}") from error
        finally:
            self._decoding -= 1

    def _classify_options(self, request):
        """Reads `deadline_ms`, `priority`, `min_exit`, `min_accuracy` and `top` from the query."""

        def number(name, default, kind=float):
            text = request.query_params.get(name)
            try:
                return default if text is None else kind(text)
            except ValueError:
                expected = "an int" if kind is int else "a number"
                raise ValueError(f"`{name}` must be {expected}. Received: {text!r:.50}.") from None

        deadline = number("deadline_ms", 1e3 * self._default) / 1e3
        if not deadline > 0:
            raise ValueError(f"`deadline_ms` must be above 0. Received: {1e3 * deadline:g}.")
        options = {"priority": number("priority", 0, int), "min_exit": request.query_params.get("min_exit")}
        options["min_accuracy"] = number("min_accuracy", None)
        return deadline, max(1, min(number("top", 5, int), 1000)), options

    def _stream(self, server, image, deadline, begin, top, options):
        """Returns each exit's answer as a server-sent event; the last has the name "final"."""
        loop, answers = asyncio.get_running_loop(), asyncio.Queue()

        def put(answer):
            with contextlib.suppress(RuntimeError):  # the loop may have been closed
                loop.call_soon_threadsafe(answers.put_nowait, answer)

        future = server.submit_inputs(image, deadline, begin=begin, on_answer=put, **options)
        future.add_done_callback(put)

        async def events():
            try:
                while (answer := await answers.get()) is not future:
                    yield f"event: answer\ndata: {json.dumps(_plain(answer, top))}\n\n"
                error = future.exception()
                content = {"error": str(error)} if error else _plain(future.result(), top)
                yield f"event: {'error' if error else 'final'}\ndata: {json.dumps(content)}\n\n"
            finally:
                future.cancel()

        return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    async def _answer(self, request, future, deadline):
        """Waits for an answer; cancels the request if the client disconnects during a long wait."""
        waited = asyncio.wrap_future(future)
        while deadline > WATCHED:
            done, _ = await asyncio.wait([waited], timeout=WATCHED)
            if done:
                break
            if await request.is_disconnected():
                future.cancel()
                raise HTTPException(499, "The client closed the connection.")
        return await waited

    async def _body(self, request, server):
        """Reads the body, within `max_bytes` and `SLOWEST_BODY`."""
        length = request.headers.get("content-length", "0")
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise HTTPException(415, "Bodies must not be compressed.")
        if not length.isdecimal() or int(length) > self._most:
            raise HTTPException(413, f"The body must have at most {self._most} bytes. Received: {length[:20]}.")
        body = bytearray()
        try:
            async with asyncio.timeout(SLOWEST_BODY):
                async for part in request.stream():
                    body += part
                    self._arriving += len(part)
                    if len(body) > self._most:
                        raise HTTPException(413, f"The body must have at most {self._most} bytes.")
                    if self._arriving > MOST_ARRIVING:
                        raise _refusal(server, "Too many large bodies are arriving.", 1.0)
        except TimeoutError:
            text = f"The body must arrive within {SLOWEST_BODY:g} seconds."
            raise HTTPException(408, text, {"Connection": "close"}) from None
        finally:
            self._arriving -= len(body)
        return bytes(body)

    async def _in_thread(self, needed, function, *arguments):
        if not needed:
            return function(*arguments)
        return await asyncio.get_running_loop().run_in_executor(self.threads, function, *arguments)


def _begun(request):
    """Returns the moment from which the deadline counts: now, or that of the header `X-Request-Start`.

    The header contains seconds or milliseconds since 1970, as proxies write them, with or without `t=`. It carries the
    deadline through proxies and their queues.
    """
    now = time.perf_counter()
    try:
        moment = float(request.headers.get("x-request-start", "").removeprefix("t="))
    except ValueError:
        return now
    ago = time.time() - (moment / 1e3 if moment > 1e11 else moment)
    return now - ago if 0 <= ago <= OLDEST else now


def _decoded(body, server):
    """Decodes an image file, unless it has more than `MOST_PIXELS`."""
    most = f"Images must have at most {MOST_PIXELS:,} pixels."
    try:
        with PIL.Image.open(io.BytesIO(body), formats=("JPEG", "PNG")) as image:  # reads the header only
            if image.width * image.height > MOST_PIXELS:
                raise HTTPException(413, f"{most} Received: {image.width} x {image.height}.")
            preprocessor = server.classifier.preprocessor
            order = slice(None, None, -1) if crops.swaps_sides(image, "the body") else slice(None)
            try:
                size = preprocessor.resized_size((image.height, image.width)[order], most=MOST_RESIZED)
            except ValueError as error:
                raise HTTPException(400, str(error)) from error
            # A large JPEG is decoded at a fraction of its size, which is several times faster.
            height, width = size[order]
            image.draft(image.mode, (SHRUNK * width, SHRUNK * height))
            return preprocessor(image)
    except PIL.Image.DecompressionBombError as error:
        raise HTTPException(413, f"{most} {error}") from error


def _plain(answer, top):
    """Returns an answer as plain data."""
    return {**answer.to_dict(top), "position": int(answer.position)}
