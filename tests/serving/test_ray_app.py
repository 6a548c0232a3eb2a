"""A Ray cluster of two nodes on this machine, one of which is killed under load."""

import collections
import io
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest
from PIL import Image

from anytime_keras.serving import ray_app

URL = "http://127.0.0.1:8765"


def test_presets_are_a_list():
    with pytest.raises(ValueError, match="`presets` must be a list.*Received: 'resann'"):
        ray_app.deployment("resann")


def test_without_ray_an_error_names_the_packages(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'anytime-keras\[serve,ray\]'"):
        ray_app.deployment(["resann"])


@pytest.fixture
def cluster():
    ray = pytest.importorskip("ray")
    serve = pytest.importorskip("ray.serve")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 10**8})
    other = cluster.add_node(num_cpus=1, object_store_memory=10**8)
    ray.init(address=cluster.address, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": 8765})
    yield cluster, other
    serve.shutdown()
    ray.shutdown()
    cluster.shutdown()


def ask(png, deadline_ms):
    try:
        with urllib.request.urlopen(f"{URL}/v1/classify?deadline_ms={deadline_ms}", png, timeout=60) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return "connection"


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore")
def test_every_request_is_answered_although_a_node_dies(cluster):
    from ray import serve

    nodes, other = cluster
    options = {"max_replicas_per_node": 1, "ray_actor_options": {"num_cpus": 0.5}, "health_check_period_s": 1}
    app = ray_app.deployment(["resann2x16_adaloss_digits"], num_replicas=2, ray_options=options, max_batch=2)
    serve.run(app, blocking=False)
    file = io.BytesIO()
    Image.new("L", (8, 8), 128).save(file, "PNG")
    outcomes, threads = [], []
    for number in range(300):
        thread = threading.Thread(target=lambda: outcomes.append(ask(file.getvalue(), deadline_ms=5000)))
        thread.start()
        threads.append(thread)
        if number == 100:
            nodes.remove_node(other, allow_graceful=False)
        time.sleep(0.02)
    for thread in threads:
        thread.join(90)
    counts = collections.Counter(outcomes)
    assert len(outcomes) == 300, "each request ended with an answer or an error"
    assert counts[200] > 150 and set(counts) <= {200, 500, 503, "connection"}, counts
    assert ask(file.getvalue(), 5000) == 200
