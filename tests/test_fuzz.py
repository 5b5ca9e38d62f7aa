"""Random switches, throws and kills under the debugging allocator: no crash, no lost greenlet."""
import random

import pytest
from implementation import run_script

RAW = """
    import gc, random
    seed = int(sys.argv[1])
    print("seed", seed, flush=True)
    randomness = random.Random(seed)
    alive = []
    hops = 0

    class Thrown(Exception):
        pass

    def act(depth):
        global hops
        hops += 1
        what = randomness.random()
        if what < 0.55 and alive:
            target = randomness.choice(alive)
            target.switch(hops)
        elif what < 0.65 and alive:
            randomness.choice(alive).throw(Thrown(hops))
        elif what < 0.70 and alive:
            randomness.choice(alive).throw()
        elif what < 0.80 and len(alive) < 60:
            alive.append(lowlevel.greenlet(run))
            alive[-1].switch(depth)
        elif what < 0.85:
            main.switch()
        elif what < 0.88:
            raise Thrown(hops)
        elif what < 0.92:
            sorted([3, 1, 2], key=lambda value: act(depth + 1) or value) if depth < 5 else None
        elif what < 0.96:
            list(generate(depth + 1)) if depth < 5 else None
        elif what < 0.97:
            gc.collect()
        else:
            frame = randomness.choice(alive).gr_frame if alive else None
            while frame is not None:
                frame = frame.f_back

    def generate(depth):
        try:
            for number in range(3):
                act(depth)
                yield number
        except Thrown:
            yield sys.exc_info()[1]

    def run(depth=0, *ignored):
        depth = 0
        text = "local %d" % hops
        try:
            for _ in range(randomness.randrange(1, 30)):
                try:
                    act(depth)
                except Thrown as thrown:
                    assert sys.exc_info()[1] is thrown
                    if randomness.random() < 0.3:
                        raise
                assert text.startswith("local")
        finally:
            if lowlevel.getcurrent() in alive:
                alive.remove(lowlevel.getcurrent())

    main = lowlevel.getcurrent()
    limit = int(sys.argv[2])
    while hops < limit:
        try:
            act(0)
        except Thrown:
            pass
        alive[:] = [g for g in alive if not g.dead]
    rounds = 0
    while alive and rounds < 10000:
        rounds += 1
        g = alive.pop()
        try:
            g.throw()
        except Thrown:
            pass
    gc.collect()
    print("hops", hops)
"""

HUB = """
    import gc, random
    import gevent
    from gevent.event import AsyncResult, Event
    from gevent.lock import Semaphore
    from gevent.queue import Queue
    seed = int(sys.argv[1])
    print("seed", seed, flush=True)
    randomness = random.Random(seed)
    gevent.get_hub().exception_stream = None
    alive, event, semaphore, queue = [], Event(), Semaphore(3), Queue(5)

    class Thrown(Exception):
        pass

    def block():
        what = randomness.randrange(9)
        if what == 0:
            gevent.sleep(0)
        elif what == 1:
            gevent.sleep(randomness.random() * 0.002)
        elif what == 2:
            with semaphore:
                gevent.sleep(0)
        elif what == 3:
            with gevent.Timeout(randomness.random() * 0.002, False):
                queue.get()
        elif what == 4:
            with gevent.Timeout(randomness.random() * 0.002, False):
                queue.put(1)
        elif what == 5:
            with gevent.Timeout(0.001, False):
                event.wait()
        elif what == 6:
            event.set() if randomness.random() < 0.5 else event.clear()
        elif what == 7 and alive:
            randomness.choice(alive).kill(randomness.choice([gevent.GreenletExit, Thrown]), block=False)
        elif what == 8 and alive:
            randomness.choice(alive).join(timeout=0.001)

    def run():
        for _ in range(randomness.randrange(1, 20)):
            try:
                block()
            except Thrown:
                if randomness.random() < 0.5:
                    raise
        if randomness.random() < 0.1:
            raise Thrown

    for _ in range(int(sys.argv[2])):
        while len(alive) < 50:
            alive.append(gevent.spawn(run))
        gevent.sleep(0)
        alive[:] = [g for g in alive if not g.dead]
        if randomness.random() < 0.01:
            gc.collect()
    gevent.killall(alive, timeout=10)
    assert all(g.dead for g in alive)
    assert semaphore.counter == 3, semaphore.counter
    print("done")
"""


@pytest.mark.parametrize("script", ["raw", "hub"])
@pytest.mark.parametrize("seed", [1, 2, "random"])
def test_random_switches_throws_and_kills_under_the_debugging_allocator(script, seed):
    if seed == "random":
        seed = random.SystemRandom().randrange(1 << 32)
    source, amount, last = (RAW, 60_000, "hops") if script == "raw" else (HUB, 600, "done")
    completed = run_script(
        source, seed, amount, env={"PYTHONMALLOC": "debug"}, flags=["-X", "faulthandler", "-X", "dev"], check=False
    )
    assert completed.returncode == 0, f"seed {seed}\n{completed.stdout}\n{completed.stderr}"
    assert completed.stdout.splitlines()[-1].startswith(last)
