"""Three waits of a second each, all at once: one second in total."""

import time

import gevent


def answer(number):
    gevent.sleep(1)
    return number * number


start = time.monotonic()
greenlets = [gevent.spawn(answer, number) for number in (1, 2, 3)]
print([greenlet.get() for greenlet in greenlets])
print(f"{time.monotonic() - start:.0f} second")
