"""Who is told of switches: `greenlet.settrace`, and the interpreter's own `sys.settrace`."""
import sys

import pytest
from implementation import lowlevel

greenlet = lowlevel.greenlet
getcurrent = lowlevel.getcurrent
GreenletExit = lowlevel.GreenletExit


@pytest.fixture
def tracer():
    """Install a greenlet trace function that records; give the record."""
    events = []

    def trace(event, arguments):
        events.append((event, arguments))

    before = lowlevel.settrace(trace)
    yield events
    lowlevel.settrace(before)


def test_settrace_sees_switches_and_throws(tracer):
    main = getcurrent()
    g = greenlet(lambda: main.switch())
    tracer.clear()
    g.switch()
    with pytest.raises(ValueError):
        g.throw(ValueError)
    lowlevel.settrace(None)
    assert tracer == [
        ("switch", (main, g)),
        ("switch", (g, main)),
        ("throw", (main, g)),
        ("throw", (g, main)),
    ]
    tracer.clear()


def test_settrace_sees_switches_that_leave_no_greenlet(tracer):
    main = getcurrent()
    never, ended, finished = greenlet(len), greenlet(len), greenlet(lambda: None)
    finished.switch()
    parent = greenlet(len)
    child = greenlet(len, parent)
    tracer.clear()
    main.switch()
    with pytest.raises(ValueError):
        main.throw(ValueError)
    with pytest.raises(KeyError):
        never.throw(KeyError)
    assert isinstance(ended.throw(), GreenletExit)
    finished.switch()
    with pytest.raises(KeyError):
        child.throw(KeyError)
    lowlevel.settrace(None)
    assert tracer == [
        ("switch", (main, main)),
        ("throw", (main, main)),
        ("throw", (main, never)),
        ("throw", (never, main)),
        ("throw", (main, ended)),
        ("switch", (ended, main)),
        ("switch", (main, main)),
        ("throw", (main, child)),
        ("throw", (child, parent)),
        ("throw", (parent, main)),
    ]


def test_what_a_trace_function_raises_takes_the_place_of_what_was_thrown():
    def trace(event, arguments):
        raise OSError(event)

    before = lowlevel.settrace(trace)
    try:
        with pytest.raises(OSError, match="throw"):
            greenlet(len).throw(KeyError)
        # It is not called again.
        assert lowlevel.gettrace() is None
        lowlevel.settrace(trace)
        with pytest.raises(OSError, match="switch"):
            getcurrent().switch()
    finally:
        lowlevel.settrace(before)


def test_settrace_returns_the_previous_function():
    def first(event, arguments):
        pass

    before = lowlevel.settrace(first)
    try:
        assert lowlevel.gettrace() is first
        assert lowlevel.settrace(None) is first
        assert lowlevel.gettrace() is None
    finally:
        lowlevel.settrace(before)


def test_exception_in_the_trace_function_raises_and_ends_tracing():
    def trace(event, arguments):
        raise RuntimeError("in trace")

    before = lowlevel.gettrace()
    g = greenlet(lambda: None)
    lowlevel.settrace(trace)
    try:
        with pytest.raises(RuntimeError, match="in trace"):
            g.switch()
        assert lowlevel.gettrace() is None
    finally:
        lowlevel.settrace(before)


def test_sys_settrace_follows_python_calls_inside_a_greenlet():
    called = []

    def trace(frame, event, argument):
        if event == "call":
            called.append(frame.f_code.co_name)

    def traced_function():
        getcurrent().parent.switch()

    g = greenlet(lambda: traced_function())
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        g.switch()
        g.switch()
    finally:
        sys.settrace(before)
    assert "traced_function" in called
