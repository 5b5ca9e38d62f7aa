"""Errors that nobody catches: printed on the hub's stream with a traceback, and the others go on."""
import io
import re

import gevent
import gevent.lock
import gevent.pool
import pytest
from gevent.hub import get_hub
from implementation import run_script


def fail_somewhere():
    raise ValueError("a clear text")


def test_unhandled_error_is_printed_with_traceback_and_greenlet(errors):
    g = gevent.spawn(fail_somewhere)
    g.join()
    text = errors.getvalue()
    assert "Traceback (most recent call last)" in text
    assert "in fail_somewhere" in text
    assert "ValueError: a clear text" in text
    assert re.search(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ <Greenlet .* failed with ValueError$", text, re.MULTILINE)


def test_the_others_go_on_after_an_error(errors):
    order = []

    def run(number):
        gevent.sleep(0)
        if number % 2:
            raise ValueError(number)
        order.append(number)

    gevent.joinall([gevent.spawn(run, number) for number in range(10)])
    assert order == [0, 2, 4, 6, 8]
    assert errors.getvalue().count("failed with ValueError") == 5


def test_each_error_has_its_own_traceback(errors):
    def run(depth):
        if depth:
            run(depth - 1)
        gevent.sleep(0)
        raise KeyError(depth)

    gevent.joinall([gevent.spawn(run, depth) for depth in (0, 2)])
    assert errors.getvalue().count("Traceback (most recent call last)") == 2


def test_greenlet_exit_is_not_printed(errors):
    def run():
        raise gevent.GreenletExit

    gevent.spawn(run).join()
    sleeping = gevent.spawn(gevent.sleep, 1000)
    gevent.sleep(0)
    sleeping.kill()
    assert errors.getvalue() == ""


def test_error_of_a_raw_greenlet_is_printed(errors):
    gevent.spawn_raw(fail_somewhere)
    gevent.sleep(0)
    gevent.sleep(0)
    assert "ValueError: a clear text" in errors.getvalue()


def test_no_stream_prints_nothing(capfd, monkeypatch):
    monkeypatch.setattr(get_hub(), "exception_stream", None, raising=False)
    gevent.spawn(fail_somewhere).join()
    assert capfd.readouterr().err == ""


def test_default_stream_is_standard_error():
    completed = run_script("""
        import gevent
        def fail_somewhere():
            raise ValueError("a clear text")
        gevent.spawn(fail_somewhere).join()
        print("goes on")
    """)
    assert completed.stdout.strip() == "goes on"
    assert "ValueError: a clear text" in completed.stderr


def test_broken_stream_does_not_stop_the_hub(monkeypatch):
    class Broken(io.StringIO):
        def write(self, text):
            raise OSError("broken")

    monkeypatch.setattr(get_hub(), "exception_stream", Broken(), raising=False)
    monkeypatch.setattr("sys.unraisablehook", lambda arguments: None)
    gevent.spawn(fail_somewhere).join()
    assert gevent.spawn(lambda: 5).get() == 5


def test_error_raised_in_main_by_get_names_the_place(errors):
    with pytest.raises(ValueError) as caught:
        gevent.spawn(fail_somewhere).get()
    assert "fail_somewhere" in [entry.name for entry in caught.traceback]


def test_system_exit_is_raised_in_main():
    completed = run_script("""
        import gevent
        def run():
            raise SystemExit(5)
        try:
            gevent.spawn(run)
            gevent.sleep(1000)
        except SystemExit as exit:
            print("main got", exit.code)
    """)
    assert completed.stdout.strip() == "main got 5"


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: gevent.spawn("text"), TypeError),
        (lambda: gevent.Timeout("text").start(), (TypeError, ValueError)),
        (lambda: gevent.pool.Pool(-1), ValueError),
        (lambda: gevent.lock.Semaphore(-1), ValueError),
        (lambda: gevent.get_hub().loop.timer(0, -1), ValueError),
        (lambda: gevent.get_hub().loop.io(-1, 1), ValueError),
    ],
)
def test_wrong_arguments_are_refused_at_the_call(call, error):

    with pytest.raises(error):
        call()


@pytest.mark.ours_only("the real gevent has no native code that panics")
@pytest.mark.parametrize("spawn", ["gevent.spawn", "gevent.spawn_raw"])
def test_panic_of_native_code_ends_its_greenlet_alone(spawn):
    completed = run_script(f"""
        import gevent
        # What PyO3 makes of a panic, and what becomes a panic again when it reaches native code.
        panic = next(kind for kind in BaseException.__subclasses__() if kind.__name__ == "PanicException")

        def fail():
            raise panic("broken")

        {spawn}(fail)
        gevent.sleep(0.01)
        print("goes on")
    """)
    assert completed.stdout == "goes on\n"
    assert "RuntimeError: greenrust has a defect, please report it: broken" in completed.stderr
