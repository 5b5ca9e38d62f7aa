"""Context variables: each greenlet has a context of its own."""
import contextvars
import gc
import sys
import threading

import gevent
import pytest
from gevent.pool import Pool
from implementation import lowlevel

variable = contextvars.ContextVar("variable", default="default")
greenlet = lowlevel.greenlet
getcurrent = lowlevel.getcurrent


@pytest.fixture(autouse=True)
def fresh():
    token = variable.set("main")
    yield
    variable.reset(token)


def test_raw_greenlet_starts_with_an_empty_context():
    assert greenlet(variable.get).switch() == "default"


def test_spawned_greenlet_starts_with_an_empty_context_and_never_leaks_back():
    def run():
        before = variable.get()
        variable.set("child")
        gevent.sleep(0)
        return before, variable.get()

    assert gevent.spawn(run).get() == ("default", "child")
    assert variable.get() == "main"


def test_values_stay_apart_across_interleaved_switches():
    main = getcurrent()

    def run(name):
        variable.set(name)
        for _ in range(5):
            main.switch(variable.get())

    greenlets = {name: greenlet(run) for name in "abc"}
    for name, g in greenlets.items():
        assert g.switch(name) == name
    for _ in range(4):
        for name, g in greenlets.items():
            assert g.switch() == name
            assert variable.get() == "main"
    for g in greenlets.values():
        g.switch()


def test_gr_context_of_a_suspended_greenlet_can_be_read():
    def run():
        variable.set("inside")
        getcurrent().parent.switch()

    g = greenlet(run)
    assert g.gr_context is None
    g.switch()
    assert g.gr_context[variable] == "inside"
    g.switch()
    assert g.dead


def test_gr_context_can_be_set_before_the_start():
    context = contextvars.copy_context()
    context.run(variable.set, "given")
    g = greenlet(variable.get)
    g.gr_context = context
    assert g.gr_context is context
    assert g.switch() == "given"


def test_gr_context_of_a_suspended_greenlet_can_be_replaced():
    g = greenlet(lambda: [getcurrent().parent.switch(), variable.get()])
    g.switch()
    context = contextvars.Context()
    context.run(variable.set, "replaced")
    g.gr_context = context
    assert g.switch()[1] == "replaced"


def test_a_given_context_is_released_once():
    context = contextvars.Context()
    count = sys.getrefcount(context)
    for rounds in range(3):
        g = greenlet(lambda rounds=rounds: [getcurrent().parent.switch() for _ in range(rounds)])
        g.gr_context = context
        while not g.dead:
            g.switch()
        del g
        assert sys.getrefcount(context) == count


def test_context_of_a_thread_outlives_the_greenlet_that_stands_for_it():
    counts = []

    def run():
        g = greenlet(lambda: getcurrent().parent.switch())
        g.switch()
        g.switch()

    def thread():
        counts.append(sys.getrefcount(context))
        worker = threading.Thread(target=context.run, args=(run,))
        worker.start()
        worker.join()

    context = contextvars.Context()
    for _ in range(3):
        thread()
    gc.collect()
    assert counts == [sys.getrefcount(context)] * 3, counts


def test_gr_context_refuses_what_is_no_context():
    with pytest.raises(TypeError):
        greenlet().gr_context = "text"
    with pytest.raises(AttributeError):
        del greenlet().gr_context


def test_context_run_may_switch_inside():
    main = getcurrent()
    context = contextvars.Context()

    def inside():
        variable.set("in context")
        main.switch("switched out")
        return variable.get()

    g = greenlet(lambda: (context.run(inside), variable.get()))
    assert g.switch() == "switched out"
    assert variable.get() == "main"
    assert g.switch() == ("in context", "default")
    assert context[variable] == "in context"


def test_context_entered_in_a_suspended_greenlet_cannot_be_entered_again():
    context = contextvars.Context()
    g = greenlet(lambda: context.run(getcurrent().parent.switch))
    g.switch()
    with pytest.raises(RuntimeError, match="already entered"):
        context.run(int)
    g.switch()
    assert context.run(int) == 0


def test_token_of_another_greenlet_cannot_reset():
    tokens = []
    gevent.spawn(lambda: tokens.append(variable.set("child"))).join()
    with pytest.raises(ValueError):
        variable.reset(tokens[0])


def test_pool_workers_have_contexts_of_their_own():
    def run(number):
        variable.set(number)
        gevent.sleep(0)
        return variable.get()

    assert Pool(3).map(run, range(10)) == list(range(10))
    assert variable.get() == "main"
