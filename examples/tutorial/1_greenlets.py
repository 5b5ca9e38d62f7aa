"""Three greenlets take turns: while one sleeps, the others run."""

import gevent


def task(name):
    """Count from 0 to 2, one step a second."""
    for step in range(3):
        print(f"{name}: {step}")
        # Suspends this greenlet alone; an unpatched time.sleep() would stop all three.
        gevent.sleep(1)


# Three greenlets. None has run yet: they start when this one first waits.
g1 = gevent.spawn(task, "Task 1")
g2 = gevent.spawn(task, "Task 2")
g3 = gevent.spawn(task, "Task 3")

# Wait until all three have finished.
gevent.joinall([g1, g2, g3])
