"""Events (set once or many times, waited for by any number of greenlets) and results that come later."""
from gevent._greenrust import AsyncResult, Event

__all__ = ["Event", "AsyncResult"]
