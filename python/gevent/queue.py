"""Queues between greenlets.

`Empty` and `Full` are the standard library's. `JoinableQueue` is a name of `Queue`.
"""
import queue as _stdlib
from queue import Empty, Full

from gevent._greenrust import Channel, LifoQueue, PriorityQueue, Queue, ShutDown, SimpleQueue

__all__ = [
    "Queue",
    "JoinableQueue",
    "PriorityQueue",
    "LifoQueue",
    "SimpleQueue",
    "Channel",
    "Empty",
    "Full",
    "ShutDown",
]

__implements__ = ["Queue", "PriorityQueue", "LifoQueue", "SimpleQueue"]
__imports__ = ["Empty", "Full"]
__extensions__ = ["JoinableQueue", "Channel"]
# CPython 3.13 has the class; before, it is our own.
(__imports__ if hasattr(_stdlib, "ShutDown") else __extensions__).append("ShutDown")

JoinableQueue = Queue
#: A queue without bound and without tasks.
UnboundQueue = SimpleQueue
