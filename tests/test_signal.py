"""What `gevent.signal` replaces of the standard library's `signal`."""
import pytest
from implementation import run_script


@pytest.mark.ours_only("the system takes a greenlet's number for the address of a thread, and writes there")
@pytest.mark.parametrize("target", ["main", "thread", "pool worker", "native"])
def test_pthread_kill_takes_the_numbers_of_greenlets(target):
    completed = run_script("""
        from gevent import monkey; monkey.patch_all()
        import signal, threading, gevent
        received, gate = [], threading.Event()
        signal.signal(signal.SIGUSR1, lambda number, frame: received.append(number))
        pool = gevent.get_hub().threadpool
        thread = threading.Thread(target=gate.wait)
        thread.start()
        number = {
            "main": threading.main_thread().ident,
            "thread": thread.ident,
            "pool worker": pool.apply(threading.get_ident),
            "native": monkey.get_original("threading", "get_ident")(),
        }[sys.argv[1]]
        def wait_for(count):
            # A signal for another thread does not end the wait of the main one, which calls the handler.
            while len(received) < count:
                gevent.sleep(0.001)
        with gevent.Timeout(30):
            signal.pthread_kill(number, signal.SIGUSR1)
            wait_for(1)
            pool.apply(signal.pthread_kill, (number, signal.SIGUSR1))
            wait_for(2)
        gate.set()
        thread.join()
        print("received")
    """, target)
    assert completed.stdout.split() == ["received"]
    assert not completed.stderr
