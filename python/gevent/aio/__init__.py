"""asyncio and greenlets in one thread, both ways.

`run` runs a coroutine in a greenlet, which waits for it as for anything else: other greenlets go on. `wait`,
`as_future` and `to_greenlet` await greenlets in coroutines, and `run_coroutine` has a greenlet wait for a coroutine in
a loop that runs elsewhere.

All rests on `EventLoop`, asyncio's own loop for sockets with its waiting done by the hub. Any number of greenlets of a
thread may each run one. The real gevent has no such module.
"""
from gevent.aio._future import as_future, to_greenlet, wait
from gevent.aio._loop import EventLoop, EventLoopPolicy, new_event_loop
from gevent.aio._runner import run, run_coroutine

__all__ = [
    "EventLoop",
    "EventLoopPolicy",
    "as_future",
    "new_event_loop",
    "run",
    "run_coroutine",
    "to_greenlet",
    "wait",
]
