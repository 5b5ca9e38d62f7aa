"""A task that takes too long is interrupted, and the program goes on."""

import gevent
from gevent import Timeout


def long_task():
    """Take five seconds: more than the caller allows."""
    print("Long task: started")
    gevent.sleep(5)
    print("Long task: finished")  # never printed: the timeout interrupts the sleep


def run_with_timeout():
    """Allow the task two seconds, then do something else instead."""
    try:
        with Timeout(2, TimeoutError("the task took longer than 2 seconds")):
            long_task()
    except TimeoutError as error:
        print(f"Error: {error}")
        print("Doing something else instead")


gevent.spawn(run_with_timeout).join()
