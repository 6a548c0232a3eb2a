"""Serving under load: answers by each request's deadline, a worse answer before a late one. See `Server`."""

from anytime_keras.serving import ray_app
from anytime_keras.serving.plots import plot_loads
from anytime_keras.serving.scheduler import Overloaded, Request, Scheduler
from anytime_keras.serving.server import Server
from anytime_keras.serving.simulate import Outcome, arrival_times, simulate
from anytime_keras.serving.stats import Stats
from anytime_keras.serving.times import StageTimes

__all__ = ["Outcome", "Overloaded", "Request", "Scheduler", "Server", "StageTimes", "Stats", "arrival_times"]
__all__ += ["plot_loads", "ray_app", "simulate"]
