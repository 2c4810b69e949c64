"""What is known about an answer while it streams: how sure the model is, and how long it will take."""

from edgeai.monitor.guard import Guard
from edgeai.monitor.latency import CloudTimes, TimeModel
from edgeai.monitor.monitor import Monitor
from edgeai.monitor.signals import Features
from edgeai.monitor.watch import Watch

__all__ = ["CloudTimes", "Features", "Guard", "Monitor", "TimeModel", "Watch"]
