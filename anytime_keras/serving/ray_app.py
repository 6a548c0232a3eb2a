"""The HTTP application as a Ray Serve deployment, for more load than one machine can take. Needs the extra `ray`.

    from ray import serve
    from anytime_keras.serving import ray_app

    serve.run(ray_app.deployment(["resann5x16_adaloss"], num_replicas=2))

Each replica prepares its own networks and schedules its own requests. Ray starts and stops replicas by the number of
requests in progress and replaces those that die; a request that a dying replica had accepted ends with an error. Time
that a request spends before it reaches a replica counts if the client or a proxy in front sends `X-Request-Start`.
"""

import pathlib

from anytime_keras._errors import explained


def deployment(presets, default_deadline=0.1, num_replicas="auto", most_ongoing=64, ray_options=None, **options):
    """Creates a Ray Serve application.

    Args:
        presets: list of str, see `Classifier.from_preset`. Each replica serves all of them.
        default_deadline: float, seconds, for requests that give none.
        num_replicas: int, or `"auto"` to scale by the number of requests in progress.
        most_ongoing: int, the requests in progress at one replica. Others wait in Ray's proxy.
        ray_options: dict of further options of `ray.serve.deployment`, such as
            `{"ray_actor_options": {"num_gpus": 1}}` or `{"autoscaling_config": {...}}`; or None.
        **options: arguments of `Server`.

    Returns:
        A `ray.serve.Application` for `ray.serve.run`.

    Raises:
        ImportError: without Ray: `pip install 'anytime-keras[serve,ray]'`.
        ValueError: if `presets` is not a list of names.
    """
    if isinstance(presets, str) or not presets:
        raise ValueError(f"`presets` must be a list with at least one name. Received: {presets!r}.")
    with explained("", ImportError, end=". Install Ray: pip install 'anytime-keras[serve,ray]'", raised=ImportError):
        from ray import serve

    presets = list(presets)

    def build():
        return application(presets, default_deadline, options)

    settings = {"name": "anytime_keras", "num_replicas": num_replicas, "max_ongoing_requests": most_ongoing}
    return serve.deployment(serve.ingress(build)(), **{**settings, **(ray_options or {})}).bind()


def application(presets, default_deadline, options):
    """Prepares the networks in a replica and returns the ASGI application."""
    from anytime_keras import Classifier
    from anytime_keras.serving import Server, http

    servers = {pathlib.PurePath(preset).name: Server(Classifier.from_preset(preset), **options) for preset in presets}
    return http.app(servers, default_deadline)
