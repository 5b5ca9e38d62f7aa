"""Semaphores and locks whose waiters are greenlets."""
from gevent._greenrust import BoundedSemaphore, DummySemaphore, RLock, Semaphore

__all__ = ["Semaphore", "BoundedSemaphore", "DummySemaphore", "RLock"]
