"""Queues between greenlets.

`Empty` and `Full` are the standard library's. `JoinableQueue` is a name of `Queue`.
"""
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

JoinableQueue = Queue
#: A queue without bound and without tasks.
UnboundQueue = SimpleQueue
