"""One greenlet waits for an event that another one sets."""

import gevent
from gevent.event import Event

event = Event()


def waiter():
    """Wait until somebody sets the event."""
    print("Waiter: waiting for the event...")
    event.wait()  # suspends this greenlet until event.set()
    print("Waiter: the event is set, going on.")


def setter():
    """Set the event after three seconds."""
    print("Setter: will set the event in 3 seconds...")
    gevent.sleep(3)
    print("Setter: setting the event!")
    event.set()


gevent.joinall(
    [
        gevent.spawn(waiter),
        gevent.spawn(setter),
    ]
)
