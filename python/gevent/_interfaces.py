"""What `hub.loop` and its watchers promise, as interfaces of zope.interface; gevent documents them here.

They are for those who write another loop, or check one: `zope.interface.verify.verifyObject(ILoop, hub.loop)`.
"""
from typing import Any

from zope.interface import Attribute, Interface, classImplements

from gevent import _greenrust

__all__ = ["ICallback", "ILoop", "IWatcher"]


class ILoop(Interface):
    """An event loop. Each method that makes a watcher returns an `IWatcher`, which is still to be started.

    With *ref* False a watcher does not keep the loop alive; *priority* is between -2 and 2.
    """

    default = Attribute("Whether this is the loop of the main thread's hub.")
    approx_timer_resolution = Attribute("The shortest time, in seconds as a float, that a timer can tell from none.")

    def run(nowait=False, once=False):
        """Run until nothing keeps the loop alive; *once*: one round; *nowait*: one round, without waiting."""

    def now():
        """Return the loop's time, in seconds since the epoch: that of its latest look at the clock."""

    def update_now():
        """Have the loop look at the clock."""

    def destroy():
        """Free what the loop holds. It cannot be used afterwards."""

    def io(fd, events, ref=True, priority=None):
        """Watch the descriptor *fd* for reading (*events* 1), writing (2), or both (3)."""

    def closing_fd(fd):
        """Wake who watches *fd*, which is about to be closed. Returns whether anybody does."""

    def timer(after, repeat=0.0, ref=True, priority=None):
        """Call after *after* seconds, then every *repeat* seconds if that is not 0."""

    def signal(signum, ref=True, priority=None):
        """Watch for the signal *signum*."""

    def idle(ref=True, priority=None):
        """Call in each round in which there is nothing else to do."""

    def prepare(ref=True, priority=None):
        """Call in each round before events are waited for."""

    def check(ref=True, priority=None):
        """Call in each round after events were waited for."""

    def fork(ref=True, priority=None):
        """Call in the child of a fork."""

    def async_(ref=True, priority=None):
        """Make a watcher whose method `send` may be called in any thread."""

    def child(pid, trace=0, ref=True):
        """Watch the child process *pid*, 0 for any; with *trace*, its stops as well."""

    def stat(path, interval=0.0, ref=True, priority=None):
        """Look every *interval* seconds (0: as the loop thinks fit) whether the file *path* has changed."""

    def run_callback(func, *args):
        """Call ``func(*args)`` in the loop, soon. Only in the loop's own thread. Returns an `ICallback`."""

    def run_callback_threadsafe(func, *args):
        """As `run_callback`, from any thread."""


class IWatcher(Interface):
    """Has the loop call a function when something happens."""

    def start(callback, *args, **kwargs):
        """Begin to watch: call ``callback(*args)`` in the hub, which must not wait."""

    def stop():
        """Stop watching. It can be started again."""

    def close():
        """Stop watching for good, and free what it holds. Has to be called for each watcher."""


class ICallback(Interface):
    """A function that the loop is to call once."""

    pending = Attribute("Whether the call is still to come.")

    def stop():
        """Take the call back."""

    def close():
        """As `stop`."""


def _declare() -> None:
    implemented: list[tuple[Any, Any]] = [
        (_greenrust.loop, ILoop), (_greenrust.watcher, IWatcher), (_greenrust.callback, ICallback)
    ]
    for implementation, interface in implemented:
        classImplements(implementation, interface)


_declare()
