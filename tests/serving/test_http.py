"""The HTTP server through sockets: the protocol, hostile clients, and a clean stop."""

import asyncio
import concurrent.futures
import gc
import http.client
import io
import json
import re
import shutil
import socket
import struct
import subprocess
import threading
import time
import tracemalloc
import types
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image

pytest.importorskip("starlette")
uvicorn = pytest.importorskip("uvicorn")

from anytime_keras.preprocessing.host import HostPreprocessor  # noqa: E402
from anytime_keras.serving import http as serving_http  # noqa: E402
from anytime_keras.serving import v2  # noqa: E402

NAME = "digits"
INFER = f"/v2/models/{NAME}/infer"


@pytest.fixture(scope="module")
def address(digits):
    """The port of a running server."""
    app = serving_http.app({NAME: digits}, default_deadline=20.0, max_bytes=100_000)
    config = uvicorn.Config(app, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=lambda: server.run(sockets=[bound]))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield bound.getsockname()[1]
    server.should_exit = True
    thread.join()


@pytest.fixture
def ask(address):
    def ask(method, path, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", address, timeout=30)
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response, content

    return ask


@pytest.fixture
def png(image):
    file = io.BytesIO()
    Image.fromarray((image[..., 0] * (255 if image.dtype.kind == "f" else 1)).astype("uint8")).save(file, "PNG")
    return file.getvalue()


def request_of(images, **more):
    data = images.ravel().tolist()
    return {"inputs": [{"name": "image", "shape": list(images.shape), "datatype": "UINT8", "data": data}], **more}


def changed(**fields):
    request = request_of(pixels(1))
    request["inputs"][0].update(fields)
    return request


def pixels(count=2):
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 1), "uint8")


def test_health_and_metadata(ask):
    for path in ("/v2/health/live", "/v2/health/ready", f"/v2/models/{NAME}/ready", f"/v2/models/{NAME}/versions/1"):
        assert ask("GET", path)[0].status == 200
    about = json.loads(ask("GET", f"/v2/models/{NAME}")[1])
    assert about["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 8, 8, 1]}]
    assert about["outputs"][0] == {"name": "logits", "datatype": "FP32", "shape": [-1, 10]}
    assert "binary_tensor_data" in json.loads(ask("GET", "/v2")[1])["extensions"]


def test_tensors_in_json(ask, digits):
    _, content = ask("POST", INFER, json.dumps(request_of(pixels(), id="7")))
    answer = json.loads(content)
    outputs = {output["name"]: output for output in answer["outputs"]}
    expected = digits.classifier(list(pixels())).logits
    np.testing.assert_allclose(np.reshape(outputs["logits"]["data"], (2, 10)), expected, rtol=1e-3, atol=1e-3)
    assert answer["id"] == "7" and answer["parameters"]["exits"] == "exit_6,exit_6"
    assert outputs["exit"]["data"] == [1, 1]


def test_a_least_accuracy_in_json(ask, digits):
    within = f"a number from 0 to {max(digits.accuracies) - 5e-5:.4f}"  # rounded down
    for least, status, text in ((0.5, 200, "exit_6"), (0.999, 400, within)):
        response, content = ask("POST", INFER, json.dumps(request_of(pixels(), parameters={"min_accuracy": least})))
        assert response.status == status and text in content.decode()


def test_tritonclient_talks_to_it(address, digits):
    triton = pytest.importorskip("tritonclient.http")
    client = triton.InferenceServerClient(f"127.0.0.1:{address}")
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(NAME)
    assert client.get_model_metadata(NAME)["platform"] == "anytime_keras"
    given = triton.InferInput("image", [2, 8, 8, 1], "UINT8")
    expected = digits.classifier(list(pixels())).logits
    for binary in (True, False):
        given.set_data_from_numpy(pixels(), binary_data=binary)
        wanted = [triton.InferRequestedOutput("logits", binary_data=binary)]
        for outputs in (wanted, None):
            answer = client.infer(NAME, [given], outputs=outputs, timeout=20_000_000, priority=1)
            np.testing.assert_allclose(answer.as_numpy("logits"), expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(triton.InferenceServerException, match="There is no model 'other'"):
        client.infer("other", [given])
    with pytest.raises(triton.InferenceServerException, match="The deadline cannot be met"):
        client.infer(NAME, [given], timeout=1)
    client.close()


def test_an_image_file_is_classified(ask, png, digits, image):
    response, content = ask("POST", "/v1/classify?top=3&priority=2", png)
    answer = json.loads(content)
    assert response.status == 200 and answer["exit"] == "exit_6" and not answer["late"]
    assert len(answer["predictions"]) == 3 and answer["predictions"][0]["label"] == digits.classifier(image).label


@pytest.mark.parametrize("stream", [0, 1])
def test_the_time_of_an_answer_counts_from_the_start_of_the_request(ask, png, stream):
    start = {"X-Request-Start": f"{time.time() - 5:.3f}"}
    _, content = ask("POST", f"/v1/classify?deadline_ms=60000&stream={stream}", png, **start)
    assert all(float(found) >= 4999 for found in re.findall(r'"milliseconds": ?([0-9.]+)', content.decode()))
    assert b"milliseconds" in content


def test_answers_stream_as_server_sent_events(ask, png):
    response, content = ask("POST", "/v1/classify", png, Accept="text/event-stream")
    assert response.getheader("content-type").startswith("text/event-stream")
    events = re.findall(r"event: (\w+)\ndata: (.*)\n\n", content.decode())
    assert [(kind, json.loads(data)["exit"]) for kind, data in events] == [
        ("answer", "exit_1"),
        ("answer", "exit_6"),
        ("final", "exit_6"),
    ]


def test_null_counts_as_missing(ask):
    for parameters in (None, {"timeout": None, "priority": None, "min_exit": None, "min_accuracy": None}):
        body = json.dumps(request_of(pixels(), parameters=parameters, id=None, outputs=None))
        assert ask("POST", INFER, body)[0].status == 200


def test_thin_images_are_refused_before_they_are_resized(ask, digits):
    thin = np.zeros((1, 1, 3000, 1), "uint8")
    assert ask("POST", INFER, json.dumps(request_of(thin)))[0].status == 200
    with pytest.raises(ValueError, match="Received: 1 of 1 x 262145 pixels, which would become 8 x 2097160. Crop them"):
        digits.inputs_of({"image": np.zeros((1, 1, 2**18 + 1, 1), "uint8")})
    with pytest.raises(ValueError, match="Received: 700 of 1 x 3000"):
        digits.inputs_of({"image": np.repeat(thin, 700, axis=0)})


def test_other_formats_than_jpeg_and_png_are_refused(ask, png):
    image = Image.open(io.BytesIO(png))
    for kind, status in (("PNG", 200), ("JPEG", 200), ("BMP", 400), ("ICO", 400), ("TIFF", 400), ("GIF", 400)):
        file = io.BytesIO()
        image.save(file, kind)
        response, content = ask("POST", "/v1/classify", file.getvalue())
        assert response.status == status, (kind, content)
        assert status == 200 or b"must be a JPEG or PNG" in content


def test_images_whose_deadline_has_passed_are_not_decoded(ask, png, digits, monkeypatch):
    refused = digits.stats.refused
    monkeypatch.setattr(serving_http, "_decoded", lambda *_: pytest.fail("decoded"))
    start = {"X-Request-Start": f"{time.time() - 5:.3f}"}
    response, content = ask("POST", "/v1/classify?deadline_ms=1000", png, **start)
    assert response.status == 503 and b"passed before the image was decoded" in content
    assert digits.stats.refused == refused + 1


def test_images_beyond_those_that_may_wait_are_refused(ask, png, digits, monkeypatch):
    refused = digits.stats.refused
    monkeypatch.setattr(serving_http, "MOST_DECODING", 0)
    response, content = ask("POST", "/v1/classify", png)
    assert response.status == 503 and response.getheader("retry-after") == "1" and b"wait to be decoded" in content
    assert digits.stats.refused == refused + 1


def test_bodies_beyond_those_that_may_arrive_are_refused(ask, png, digits, monkeypatch):
    refused = digits.stats.refused
    monkeypatch.setattr(serving_http, "MOST_ARRIVING", 10)
    response, content = ask("POST", "/v1/classify", png)
    assert response.status == 503 and b"Too many large bodies" in content and digits.stats.refused == refused + 1
    monkeypatch.undo()
    assert ask("POST", "/v1/classify", png)[0].status == 200  # nothing counts as arriving any more


def test_an_unexpected_error_is_answered_in_json(ask, monkeypatch):
    monkeypatch.setattr(v2, "InferRequest", lambda *_: [][1])
    response, content = ask("POST", INFER, b"{}")
    assert response.status == 500 and json.loads(content) == {"error": "The request failed: IndexError."}


def test_requests_that_cannot_be_in_time_get_503_with_retry_after(ask, png):
    response, content = ask("POST", "/v1/classify?deadline_ms=0.001", png)
    assert response.status == 503 and int(response.getheader("retry-after")) >= 1
    assert "The deadline cannot be met" in json.loads(content)["error"]


def test_a_request_displaced_from_a_full_queue_gets_503_with_retry_after(ask, png, digits, monkeypatch):
    monkeypatch.setattr(digits._scheduler, "max_queue", 1)
    running, batches = digits._scheduler.next_batch, []
    monkeypatch.setattr(digits._scheduler, "next_batch", lambda: batches.append(running()) or batches[-1])
    with concurrent.futures.ThreadPoolExecutor(3) as clients:
        with digits._runner.lock:  # which a batch needs
            first = clients.submit(ask, "POST", "/v1/classify", png)
            wait_until(lambda: batches)
            low = clients.submit(ask, "POST", "/v1/classify?priority=9", png)
            wait_until(lambda: digits.waiting)
            waiting = digits._scheduler.waiting[0]
            urgent = clients.submit(ask, "POST", "/v1/classify?priority=1", png)
            wait_until(lambda: waiting not in digits._scheduler.waiting)
    response, content = low.result()
    assert response.status == 503 and int(response.getheader("retry-after")) >= 1 and b"filled the queue" in content
    assert first.result()[0].status == urgent.result()[0].status == 200


def wait_until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_time_spent_in_proxies_counts(ask, png):
    for text in (f"t={time.time() - 5:.3f}", f"{1e3 * (time.time() - 5):.0f}"):
        response, content = ask("POST", "/v1/classify?deadline_ms=3000", png, X_Request_Start=text)
        assert response.status == 503, content
        body = json.dumps(request_of(pixels(), parameters={"timeout": 3_000_000}))
        assert ask("POST", INFER, body, X_Request_Start=text)[0].status == 503
    for text in ("soon", "nan", "0", str(time.time() + 100)):
        assert ask("POST", "/v1/classify", png, X_Request_Start=text)[0].status == 200


def test_metrics_page_and_status(ask, png):
    ask("POST", "/v1/classify", png)
    text = ask("GET", "/metrics")[1].decode()
    assert float(re.search(r'anytime_requests_total\{model="digits",outcome="in_time"\} (\S+)', text)[1]) >= 1
    for name in ("exits_total", "batches_total", "waiting_requests", "compute_seconds_total", "expected_right_total"):
        assert f"anytime_{name}{{" in text
    page = ask("GET", "/")[1].decode()
    assert "<canvas" in page and "http" not in page.replace("http-equiv", ""), "self-contained"
    status = json.loads(ask("GET", "/v1/status")[1])[NAME]
    assert {"in_time", "exits", "rate", "waiting", "accuracies"} <= set(status)


def test_the_page_says_why_a_picture_has_no_answer():
    if shutil.which("node") is None:
        pytest.skip("needs node")
    script = re.search("<script>(.*)</script>", serving_http.PAGE.read_text(), re.DOTALL)[1]
    around = """
        const cells = [], elements = {}, element = () => ({ classList: {}, options: [], files: [{}], value: "a.jpg",
            replaceChildren() {}, insertRow: () => ({ insertCell: () => cells[cells.push({}) - 1] }) });
        const document = { getElementById: (id) => elements[id] ||= element() };
        URL.createObjectURL = () => "";
        const fetch = async () => { throw new Error("no network"); };
        const shown = () => console.log(cells.map((cell) => cell.textContent), [elements.file.value]);
        setTimeout(() => { shown(); process.exit(); }, 99);
    """
    ran = f"{around} (() => {{ {script} elements.file.onchange(); elements.file.onclick(); }})();"
    out = subprocess.run(["node", "-e", ran], capture_output=True, text=True, timeout=60)
    assert out.stdout == "[ 'no answer: no network' ] [ '' ]\n", out.stderr  # and the same file may be chosen again


BAD = {
    "no JSON": (b"{", "must be JSON"),
    "no object": (b"[]", "must be a JSON object"),
    "no inputs": (b"{}", "`inputs` is missing"),
    "deep": (b"[" * 90_000, "must be JSON"),
    "wrong name": (json.dumps({"inputs": [{"name": "x", "shape": [1], "datatype": "UINT8", "data": [1]}]}), "must be"),
    "wrong shape": (json.dumps({"inputs": [{**request_of(pixels())["inputs"][0], "shape": [2, 8, 8, 2]}]}), "of shape"),
    "negative shape": (json.dumps({"inputs": [{**request_of(pixels())["inputs"][0], "shape": [-1]}]}), "positive ints"),
    "huge shape": (json.dumps({"inputs": [{**request_of(pixels())["inputs"][0], "shape": [2**60]}]}), "positive ints"),
    "wrong type": (json.dumps({"inputs": [{**request_of(pixels())["inputs"][0], "datatype": "INT3"}]}), "`datatype`"),
    "words": (
        json.dumps({"inputs": [{**request_of(pixels(1))["inputs"][0], "data": ["a"] * 64}]}),
        "must be numbers of shape",
    ),
    "NaN": (
        json.dumps(
            {"inputs": [{**request_of(pixels(1))["inputs"][0], "datatype": "FP32", "data": [float("nan")] * 64}]}
        ),
        "NaN",
    ),
    "fractions": (
        json.dumps({"inputs": [{**request_of(pixels(1))["inputs"][0], "data": [1.5] * 64}]}),
        "must be whole numbers that fit uint8. Received: [1.5, ",
    ),
    "too large": (json.dumps({"inputs": [{**request_of(pixels(1))["inputs"][0], "data": [256] * 64}]}), "fit uint8"),
    "no text": (json.dumps(changed(name="\ud800", data=[1])), r"`data` of '\ud800' must be numbers"),
    "digits as words": (json.dumps(changed(data=["7"] * 64)), "64 elements of type str"),
    "one long word": (json.dumps(changed(data=["7" * 90_000, 7])), "type int and str"),
    "mixed depth": (json.dumps(changed(data=[[7], 7])), "type int and list"),
    "many axes": (json.dumps(changed(shape=[2**31 - 1] * 5000)), "up to 8 positive"),
    "classification": (
        json.dumps(request_of(pixels(), outputs=[{"name": "exit", "parameters": {"classification": 3}}])),
        "`classification` is not supported",
    ),
    "timeout -1": (json.dumps(request_of(pixels(), parameters={"timeout": -1})), "`timeout` must be"),
    "priority": (json.dumps(request_of(pixels(), parameters={"priority": "high"})), "`priority` must be"),
    "min_exit": (json.dumps(request_of(pixels(), parameters={"min_exit": "exit_99"})), "`min_exit` must be one of"),
    "min_accuracy": (
        json.dumps(request_of(pixels(), parameters={"min_accuracy": "high"})),
        "`min_accuracy` must be a number",
    ),
    "samples": (
        json.dumps({"inputs": [{"name": "image", "shape": [2000, 2, 2, 1], "datatype": "UINT8", "data": [0] * 8000}]}),
        "at most 1024 samples",
    ),
    "outputs": (json.dumps(request_of(pixels(), outputs=[{"name": "labels"}])), "`outputs` must name"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_get_the_protocols_error(ask, name):
    body, message = BAD[name]
    response, content = ask("POST", INFER, body)
    assert response.status == 400 and message in json.loads(content)["error"]
    assert "Traceback" not in content.decode() and ask("GET", "/v2/health/ready")[0].status == 200


def test_bad_binary_tensors_are_named(ask):
    spec = {"name": "image", "shape": [1, 8, 8, 1], "datatype": "UINT8", "parameters": {"binary_data_size": 64}}
    head = json.dumps({"inputs": [spec]}).encode()
    for body, length in ((head + b"x" * 63, len(head)), (head + b"x" * 65, len(head)), (head, 10**9), (head, "x")):
        response, content = ask("POST", INFER, body, Inference_Header_Content_Length=str(length))
        assert response.status == 400, content
    assert ask("POST", INFER, head + b"x" * 64, Inference_Header_Content_Length=str(len(head)))[0].status == 200


def test_bad_images_and_queries_are_named(ask, png):
    for body in (b"", b"no image", png[:40]):
        response, content = ask("POST", "/v1/classify", body)
        assert response.status == 400 and "must be a JPEG or PNG file" in json.loads(content)["error"]
        assert " at 0x" not in content.decode()
    for query in ("deadline_ms=0", "deadline_ms=-1", "deadline_ms=nan", "deadline_ms=x", "priority=1.5", "top=many"):
        response, content = ask("POST", f"/v1/classify?{query}", png)
        assert response.status == 400 and query.split("=")[0] in json.loads(content)["error"]
    assert ask("POST", "/v1/classify?deadline_ms=31536000000", png)[0].status == 200, "a year is shortened"


def test_an_image_with_too_many_pixels_is_refused_before_it_is_decoded(ask):
    file = io.BytesIO()
    Image.new("1", (8000, 5000)).save(file, "PNG")
    assert len(file.getvalue()) < 20_000
    response, content = ask("POST", "/v1/classify", file.getvalue())
    assert response.status == 413 and "at most 33,554,432 pixels. Received: 8000 x 5000" in content.decode()
    huge = b"\x89PNG\r\n\x1a\n"  # more pixels than Pillow opens
    for kind, chunk in ((b"IHDR", struct.pack(">II5B", 60_000, 60_000, 8, 0, 0, 0, 0)), (b"IDAT", bytes(100))):
        huge += struct.pack(">I", len(chunk)) + kind + chunk + struct.pack(">I", zlib.crc32(kind + chunk))
    response, content = ask("POST", "/v1/classify", huge)
    assert response.status == 413 and "at most 33,554,432 pixels. Image size" in content.decode()


def test_large_jpeg_files_are_decoded_at_a_fraction_of_their_size():
    sizes = []

    class Recording(HostPreprocessor):
        def __call__(self, image):
            sizes.append(image.size)
            return super().__call__(image)

    preprocessor = Recording((32, 32, 3))
    server = types.SimpleNamespace(classifier=types.SimpleNamespace(preprocessor=preprocessor))
    coarse = np.random.default_rng(0).integers(0, 256, (16, 20, 3), "uint8")
    picture = Image.fromarray(coarse).resize((800, 640), Image.Resampling.BICUBIC)
    for kind, size, expected in (
        ("JPEG", (800, 640), (200, 160)),  # a quarter has at least 4 times the sides of 40 x 32
        ("JPEG", (300, 240), (300, 240)),
        ("PNG", (800, 640), (800, 640)),
    ):
        file = io.BytesIO()
        picture.resize(size).save(file, kind)
        found = serving_http._decoded(file.getvalue(), server)
        assert sizes.pop() == expected
        np.testing.assert_allclose(found, HostPreprocessor((32, 32, 3))(file.getvalue()), atol=2.01 / 255)


def test_a_turned_jpeg_is_decoded_at_the_size_that_its_upright_image_needs():
    server = types.SimpleNamespace(classifier=types.SimpleNamespace(preprocessor=HostPreprocessor((16, 128, 3))))
    coarse = np.random.default_rng(0).integers(0, 256, (32, 4, 3), "uint8")
    picture, exif = Image.fromarray(coarse).resize((320, 2560), Image.Resampling.BICUBIC), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    file = io.BytesIO()
    picture.save(file, "JPEG", exif=exif)
    expected = HostPreprocessor((16, 128, 3))(file.getvalue())
    np.testing.assert_allclose(serving_http._decoded(file.getvalue(), server), expected, atol=3.01 / 255)


def test_wrong_options_are_refused_before_an_image_is_decoded(ask):
    for query, expected in (("priority=10", "`priority` must be"), ("min_exit=exit_99", "`min_exit` must be one of")):
        response, content = ask("POST", f"/v1/classify?{query}", b"no image")
        assert response.status == 400 and expected in content.decode()


def test_unknown_models_paths_and_methods(ask):
    assert ask("GET", "/v2/models/other")[0].status == 404
    assert ask("GET", f"/v2/models/{NAME}/versions/2")[0].status == 404
    assert ask("GET", "/v2/models/..%2f..%2fetc%2fpasswd")[0].status == 404
    assert ask("GET", "/etc/passwd")[0].status == 404
    assert ask("GET", INFER)[0].status == 405


def test_large_bodies_are_refused_before_they_are_read(ask, address):
    assert ask("POST", INFER, b"x" * 100_001)[0].status == 413
    with socket.create_connection(("127.0.0.1", address)) as client:
        client.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n".encode())
        assert b" 413 " in client.recv(1000)
    with socket.create_connection(("127.0.0.1", address)) as client:
        client.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        answer = b""
        try:
            for _ in range(20):
                client.sendall(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
            answer = client.recv(1000)
        except OSError:
            pass  # closed while the client was sending
        assert b" 200 " not in answer
    assert ask("POST", INFER, b"x", Content_Encoding="gzip")[0].status == 415
    assert ask("GET", "/v2/health/ready")[0].status == 200


def test_a_slow_body_times_out(address, monkeypatch):
    monkeypatch.setattr(serving_http, "SLOWEST_BODY", 0.1)
    with socket.create_connection(("127.0.0.1", address)) as client:
        client.sendall(f"POST {INFER} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{{".encode())
        assert b" 408 " in client.recv(1000)


def test_clients_that_hang_up_or_send_garbage_do_no_harm(ask, address, png):
    head = f"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: {len(png)}\r\n\r\n".encode()
    for sent in (b"", b"\x00\xff\xfe garbage\r\n\r\n", head, head + png[:50], head + png):
        for _ in range(10):
            with socket.create_connection(("127.0.0.1", address)) as client:
                client.sendall(sent)
    assert ask("POST", "/v1/classify", png)[0].status == 200


@pytest.mark.alone
def test_memory_stays_flat_between_hostile_clients(address, digits, png):
    connection = http.client.HTTPConnection("127.0.0.1", address, timeout=30)
    head = f"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: {len(png)}\r\n\r\n".encode()
    statuses = []

    def serve(count):
        for number in range(count):
            deadline = (1, 5000)[number % 2]
            connection.request("POST", f"/v1/classify?deadline_ms={deadline}", png if number % 5 else b"garbage")
            response = connection.getresponse()
            statuses.append(response.status)
            response.read()
            if number % 10 == 0:
                with socket.create_connection(("127.0.0.1", address)) as client:
                    client.sendall((b"\x00garbage\r\n\r\n", head + png[:20], head + png)[number // 10 % 3])

    serve(200)
    gc.collect()
    tracemalloc.start()
    serve(100)
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    serve(700)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    connection.close()
    assert set(statuses) <= {200, 400, 503} and statuses.count(200) > 300
    assert digits.waiting == 0 and grown < 200_000


@pytest.mark.long
def test_two_thousand_open_connections(ask, address, png):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 5000:
        pytest.skip("the system allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    clients = []
    try:
        for _ in range(2000):
            clients.append(socket.create_connection(("127.0.0.1", address), timeout=30))
        clients[0].sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b" 200 " in clients[0].recv(100)
        assert ask("POST", "/v1/classify", png)[0].status == 200
    finally:
        for client in clients:
            client.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_application_closes_its_servers():
    class Fake:
        open = True

        def close(self):
            self.open = False

    fake = Fake()

    async def start_and_stop():
        messages = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

        async def receive():
            return next(messages)

        async def send(message):
            assert message["type"].endswith("complete")

        await serving_http.app({"fake": fake})({"type": "lifespan", "asgi": {}}, receive, send)

    asyncio.run(start_and_stop())
    assert not fake.open
    with pytest.raises(ValueError, match="at least one server"):
        serving_http.app({})


def test_encoding_of_binary_requests_without_a_server():
    array = np.arange(4, dtype="<f4").reshape(1, 4)
    spec = {"name": "x", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}
    head = json.dumps({"inputs": [spec], "parameters": {"timeout": 5000}}).encode()
    parsed = v2.InferRequest(head + array.tobytes(), str(len(head)))
    assert parsed.inputs["x"].tolist() == array.tolist() and parsed.timeout == 0.005
