"""Prometheus metrics of servers, computed when they are read."""

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

OUTCOMES = ("in_time", "late", "refused", "expired", "cancelled", "failed")


class Collector:
    """Reads the counters of several servers.

    Args:
        servers: dict from a name to a `Server`.
    """

    def __init__(self, servers):
        self._servers = servers

    def collect(self):
        """Yields the metric families, as `prometheus_client` expects them."""
        states = {name: server.status() for name, server in self._servers.items()}

        def family(kind, name, help, values, label=None):
            metric = kind(f"anytime_{name}", help, labels=["model", *([label] if label else [])])
            for model, state in states.items():
                for key, value in values(state):
                    metric.add_metric([model, *([str(key)] if label else [])], value)
            return metric

        def one(key):
            return lambda state: [(None, state[key])]

        counter, gauge = CounterMetricFamily, GaugeMetricFamily
        yield family(counter, "requests", "Requests by outcome.", lambda s: [(o, s[o]) for o in OUTCOMES], "outcome")
        yield family(counter, "exits", "Answers by exit.", lambda s: zip(s["exit_names"], s["exits"]), "exit")
        yield family(counter, "batches", "Batches by size.", lambda s: s["batches"].items(), "size")
        yield family(counter, "expected_right", "Sum of accuracies of answers in time.", one("expected_right"))
        yield family(counter, "compute_seconds", "Seconds of computation.", one("compute_seconds"))
        yield family(gauge, "waiting_requests", "Requests in the queue.", one("waiting"))
        yield family(gauge, "arrivals_per_second", "Arrival rate.", one("rate"))
        yield family(gauge, "pace", "Seconds per stage relative to those measured at the start.", one("pace"))


def exporter(servers):
    """Returns a function that returns the metrics as bytes in Prometheus's text format."""
    registry = CollectorRegistry()
    registry.register(Collector(servers))
    return lambda: generate_latest(registry)
