"""A pool runs five tasks, but never more than two at a time."""

import time

import gevent
from gevent.pool import Pool


def process(task_id):
    """Pretend to work: half a second for task 1, a second for task 2, and so on."""
    print(f"Task {task_id} started")
    gevent.sleep(task_id * 0.5)
    print(f"Task {task_id} finished")
    return task_id * 10


pool = Pool(2)  # room for two greenlets
start = time.time()

# map() waits for all results and returns them in the order of the tasks.
results = pool.map(process, range(1, 6))

print(f"\nAll tasks finished in {time.time() - start:.2f} s")
print(f"Results: {results}")
