"""The raw greenlet API: switch, throw, parents, frames, exception state, garbage."""
import contextlib
import contextvars
import gc
import sys
import threading
import traceback
import weakref

import gevent
import pytest
from gevent.event import Event
from implementation import lowlevel, run_script

greenlet = lowlevel.greenlet
getcurrent = lowlevel.getcurrent
GreenletExit = lowlevel.GreenletExit


# -- switch -----------------------------------------------------------------------------------------------


def test_switch_passes_values_both_ways_in_order():
    order = []
    main = getcurrent()

    def run(first):
        order.append(first)
        order.append(main.switch("from run"))
        return "returned"

    g = greenlet(run)
    order.append(g.switch("argument"))
    order.append(g.switch("from main"))
    assert order == ["argument", "from run", "from main", "returned"]


@pytest.mark.parametrize(
    ("arguments", "keywords", "received"),
    [
        ((), {}, ()),
        ((1,), {}, 1),
        ((1, 2), {}, (1, 2)),
        (((),), {}, ()),
        ((), {"a": 1}, {"a": 1}),
        ((1,), {"a": 2}, ((1,), {"a": 2})),
    ],
)
def test_switch_packs_its_arguments_by_their_number(arguments, keywords, received):
    result = []

    def run():
        result.append(getcurrent().parent.switch())

    g = greenlet(run)
    g.switch()
    g.switch(*arguments, **keywords)
    assert result == [received]


def test_first_switch_calls_run_with_positional_and_keyword_arguments():
    g = greenlet(lambda *args, **kwargs: (args, kwargs))
    assert g.switch(1, 2, key=3) == ((1, 2), {"key": 3})


def test_two_greenlets_switch_directly_between_each_other():
    order = []

    def ping():
        for number in range(3):
            order.append(("ping", number))
            pong_greenlet.switch()

    def pong():
        for number in range(3):
            order.append(("pong", number))
            ping_greenlet.switch()

    ping_greenlet, pong_greenlet = greenlet(ping), greenlet(pong)
    ping_greenlet.switch()
    assert order == [("ping", 0), ("pong", 0), ("ping", 1), ("pong", 1), ("ping", 2), ("pong", 2)]
    assert ping_greenlet.dead
    pong_greenlet.throw()


def test_switch_to_itself_returns_the_arguments():
    assert getcurrent().switch(1) == 1
    assert getcurrent().switch(1, 2) == (1, 2)
    assert greenlet(lambda: getcurrent().switch("self")).switch() == "self"


def test_nested_greenlets_return_to_their_parents():
    def inner():
        assert getcurrent().parent is outer_greenlet
        return "inner"

    def outer():
        return greenlet(inner).switch() + " outer"

    outer_greenlet = greenlet(outer)
    assert outer_greenlet.switch() == "inner outer"


def test_switch_to_a_dead_greenlet_goes_to_its_parent():
    g = greenlet(lambda: None)
    g.switch()
    assert g.dead
    assert g.switch("back at once") == "back at once"
    assert g.switch() == ()


def test_many_greenlets_keep_their_own_stacks():
    def count(depth, mark):
        if depth:
            return count(depth - 1, mark) + 1
        return getcurrent().parent.switch(mark)

    greenlets = [greenlet(count) for _ in range(200)]
    for number, g in enumerate(greenlets):
        assert g.switch(number % 50, number) == number
    for number, g in reversed(list(enumerate(greenlets))):
        assert g.switch(1000) == 1000 + number % 50
    assert all(g.dead for g in greenlets)


def test_switch_inside_c_calls_keeps_each_c_frame():
    main = getcurrent()

    def run(numbers):
        return sorted(numbers, key=lambda number: main.switch(number))

    a, b = greenlet(run), greenlet(run)
    assert (a.switch([3, 1]), b.switch([30, 10])) == (3, 30)
    assert (a.switch(3), b.switch(-30)) == (1, 10)
    assert (a.switch(1), b.switch(-10)) == ([1, 3], [30, 10])


def test_reentered_generators_keep_their_place_across_switches():
    def numbers(start):
        for number in range(start, start + 3):
            getcurrent().parent.switch(("in generator", number))
            yield number

    def run(start):
        return list(numbers(start))

    a, b = greenlet(run), greenlet(run)
    seen = [a.switch(0), b.switch(10), a.switch(), b.switch(), a.switch(), b.switch()]
    assert [number for _, number in seen] == [0, 10, 1, 11, 2, 12]
    assert a.switch() == [0, 1, 2]
    assert b.switch() == [10, 11, 12]


def test_generator_suspended_by_a_switch_cannot_be_entered_again():
    main = getcurrent()

    def produce():
        main.switch()
        yield 1

    generator = produce()
    g = greenlet(lambda: next(generator))
    g.switch()
    with pytest.raises(ValueError, match="already executing"):
        next(generator)
    assert g.switch() == 1


def test_generator_can_be_advanced_by_different_greenlets():
    generator = iter(number * 2 for number in range(4))
    greenlets = [greenlet(lambda: next(generator)) for _ in range(4)]
    assert [g.switch() for g in greenlets] == [0, 2, 4, 6]


# -- state ------------------------------------------------------------------------------------------------


def test_life_of_a_greenlet_shows_in_bool_and_dead():
    states = []

    def run():
        states.append((bool(g), g.dead))
        getcurrent().parent.switch()

    g = greenlet(run)
    states.append((bool(g), g.dead))
    g.switch()
    states.append((bool(g), g.dead))
    g.switch()
    states.append((bool(g), g.dead))
    assert states == [(False, False), (True, False), (True, False), (False, True)]


def test_run_attribute_is_gone_after_the_start():
    def run():
        assert not hasattr(g, "run")
        getcurrent().parent.switch()

    g = greenlet(run)
    assert g.run is run
    g.switch()
    assert not hasattr(g, "run")
    with pytest.raises(AttributeError):
        g.run = run
    g.switch()


def test_run_can_be_set_and_deleted_before_the_start():
    g = greenlet()
    with pytest.raises(AttributeError):
        g.switch()
    g = greenlet()
    g.run = lambda: "set"
    assert g.switch() == "set"
    g = greenlet(lambda: None)
    del g.run
    assert not hasattr(g, "run")


def test_subclass_may_define_run():
    class Sub(greenlet):
        def run(self, value):
            return self, value

    g = Sub()
    assert g.switch(1) == (g, 1)


def test_subclass_has_attributes_weak_references_and_its_own_init():
    class Sub(greenlet):
        def __init__(self, tag):
            super().__init__(lambda: getcurrent().tag)
            self.tag = tag

    g = Sub("tag")
    reference = weakref.ref(g)
    assert g.switch() == "tag"
    del g
    gc.collect()
    assert reference() is None


def test_greenlet_cannot_be_initialised_with_a_wrong_parent():
    with pytest.raises(TypeError):
        greenlet(lambda: None, parent=42)
    with pytest.raises(TypeError):
        greenlet(lambda: None).parent = "no greenlet"


def test_getcurrent_is_the_running_greenlet():
    main = getcurrent()
    g = greenlet(getcurrent)
    assert g.switch() is g
    assert getcurrent() is main


def test_main_greenlet_has_no_parent_in_each_thread():
    found = []

    def thread():
        found.append((getcurrent().parent, getcurrent()))

    worker = threading.Thread(target=thread)
    worker.start()
    worker.join()
    assert found[0][0] is None
    assert found[0][1] is not getcurrent()


# -- parents ----------------------------------------------------------------------------------------------


def test_parent_is_the_creator_and_can_be_changed():
    a = greenlet(lambda: "a")
    assert a.parent is getcurrent()
    b = greenlet(lambda value: ("b got", value))
    a.parent = b
    assert a.parent is b
    assert a.switch() == ("b got", "a")


def test_parent_cycle_is_refused():
    a, b = greenlet(), greenlet()
    a.parent = b
    with pytest.raises(ValueError, match="cyc"):
        b.parent = a
    with pytest.raises(ValueError, match="cyc"):
        a.parent = a


def test_parent_cannot_be_deleted():
    with pytest.raises(AttributeError):
        del greenlet().parent


def test_result_goes_up_a_chain_of_dead_parents():
    a = greenlet(lambda: None)
    b = greenlet(lambda: "result", parent=a)
    a.switch()
    assert b.switch() == "result"


# -- exceptions -------------------------------------------------------------------------------------------


def test_exception_goes_to_the_parent_with_its_traceback():
    def failing_function():
        raise ValueError("fails")

    g = greenlet(failing_function)
    with pytest.raises(ValueError, match="fails") as caught:
        g.switch()
    assert g.dead
    assert "failing_function" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]


def test_exception_passes_unstarted_and_running_parents():
    order = []

    def middle():
        try:
            inner.switch()
        except KeyError as exception:
            order.append(exception.args)
            raise

    middle_greenlet = greenlet(middle)

    def fail():
        raise KeyError("inner")

    inner = greenlet(fail, parent=middle_greenlet)
    with pytest.raises(KeyError):
        middle_greenlet.switch()
    assert order == [("inner",)]


def test_throw_raises_at_the_suspended_switch():
    def run():
        try:
            getcurrent().parent.switch()
        except ValueError as exception:
            return exception

    g = greenlet(run)
    g.switch()
    thrown = ValueError("thrown")
    assert g.throw(thrown) is thrown


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((ValueError,), ("ValueError", ())),
        ((ValueError, "text"), ("ValueError", ("text",))),
        ((ValueError, ValueError("instance")), ("ValueError", ("instance",))),
        ((ValueError("instance"),), ("ValueError", ("instance",))),
        ((ValueError, None, None), ("ValueError", ())),
    ],
)
def test_throw_accepts_class_instance_and_arguments(arguments, expected):
    def run():
        try:
            getcurrent().parent.switch()
        except Exception as exception:
            return type(exception).__name__, exception.args

    g = greenlet(run)
    g.switch()
    assert g.throw(*arguments) == expected


def test_throw_keeps_the_given_traceback():
    def origin_function():
        raise ValueError

    def run():
        getcurrent().parent.switch()

    try:
        origin_function()
    except ValueError as exception:
        origin = exception
    g = greenlet(run)
    g.switch()
    with pytest.raises(ValueError) as caught:
        g.throw(ValueError, origin, origin.__traceback__)
    assert "origin_function" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]


@pytest.mark.parametrize("arguments", [(42,), ("text",), (None,), (object,), (ValueError("x"), "y")])
def test_throw_refuses_what_is_no_exception(arguments):
    g = greenlet(lambda: None)
    with pytest.raises(TypeError):
        g.throw(*arguments)
    assert not g.dead


def test_throw_without_arguments_ends_a_greenlet_by_greenlet_exit():
    seen = []

    def run():
        try:
            getcurrent().parent.switch()
        except GreenletExit:
            seen.append("exit")
            raise

    g = greenlet(run)
    g.switch()
    result = g.throw()
    assert isinstance(result, GreenletExit)
    assert g.dead
    assert seen == ["exit"]


def test_greenlet_exit_is_a_base_exception_and_its_instance_the_result():
    assert issubclass(GreenletExit, BaseException) and not issubclass(GreenletExit, Exception)
    instance = GreenletExit("value")

    def run():
        raise instance

    assert greenlet(run).switch() is instance


def test_throw_into_an_unstarted_greenlet_kills_it_without_running_it():
    ran = []
    g = greenlet(ran.append)
    with pytest.raises(ValueError, match="never ran"):
        g.throw(ValueError("never ran"))
    assert g.dead
    assert ran == []
    assert isinstance(greenlet(ran.append).throw(), GreenletExit)


def test_throw_into_a_dead_greenlet_raises_in_the_parent():
    g = greenlet(lambda: None)
    g.switch()
    with pytest.raises(ValueError, match="too late"):
        g.throw(ValueError("too late"))
    assert isinstance(g.throw(), GreenletExit)


def test_throw_into_itself_raises_here():
    with pytest.raises(ValueError, match="me"):
        getcurrent().throw(ValueError("me"))


def test_greenlet_may_catch_greenlet_exit_and_go_on():
    def run():
        try:
            getcurrent().parent.switch("first")
        except GreenletExit:
            getcurrent().parent.switch("refuses")
        return "end"

    g = greenlet(run)
    assert g.switch() == "first"
    assert g.throw() == "refuses"
    assert not g.dead
    assert g.switch() == "end"


def test_exc_info_is_of_each_greenlet():
    main = getcurrent()

    def run():
        assert sys.exc_info() == (None, None, None)
        try:
            raise ValueError("in greenlet")
        except ValueError:
            main.switch()
            assert isinstance(sys.exc_info()[1], ValueError)
        main.switch()
        assert sys.exc_info() == (None, None, None)

    g = greenlet(run)
    try:
        raise KeyError("in main")
    except KeyError:
        g.switch()
        assert isinstance(sys.exc_info()[1], KeyError)
    assert sys.exc_info() == (None, None, None)
    g.switch()
    assert sys.exc_info() == (None, None, None)
    try:
        raise IndexError
    except IndexError:
        g.switch()
        assert isinstance(sys.exc_info()[1], IndexError)
    assert g.dead


def test_exc_info_in_a_generator_survives_switches():
    main = getcurrent()

    def produce():
        try:
            raise ValueError("in generator")
        except ValueError as exception:
            main.switch()
            yield sys.exc_info()[1] is exception
        yield sys.exc_info()[1] is None

    g = greenlet(lambda: list(produce()))
    g.switch()
    try:
        raise KeyError
    except KeyError:
        assert g.switch() == [True, True]
        assert isinstance(sys.exc_info()[1], KeyError)


def test_bare_raise_after_switches_raises_the_own_exception():
    main = getcurrent()

    def run(exception):
        try:
            raise exception
        except Exception:
            main.switch()
            raise

    a, b = greenlet(run), greenlet(run)
    a.switch(ValueError("a"))
    b.switch(KeyError("b"))
    with pytest.raises(ValueError, match="a"):
        a.switch()
    with pytest.raises(KeyError, match="b"):
        b.switch()


def test_exception_context_comes_from_the_own_greenlet_alone():
    def run():
        raise ValueError("inner")

    try:
        raise KeyError("outer")
    except KeyError:
        try:
            greenlet(run).switch()
        except ValueError as exception:
            caught = exception
    assert caught.__context__ is None


def test_finally_and_with_blocks_run_when_killed():
    order = []

    @contextlib.contextmanager
    def resource():
        try:
            yield
        finally:
            order.append("with")

    def run():
        try:
            with resource():
                getcurrent().parent.switch()
        finally:
            order.append("finally")

    g = greenlet(run)
    g.switch()
    g.throw()
    assert order == ["with", "finally"]


def test_killed_when_its_last_reference_goes():
    order = []

    def run():
        try:
            getcurrent().parent.switch()
        except GreenletExit:
            order.append("exit")

    g = greenlet(run)
    g.switch()
    del g
    gc.collect()
    assert order == ["exit"]


# -- frames -----------------------------------------------------------------------------------------------


def test_gr_frame_shows_the_suspended_frame_only():
    def inner_function():
        getcurrent().parent.switch()

    def run():
        inner_function()

    g = greenlet(run)
    assert g.gr_frame is None
    g.switch()
    frame = g.gr_frame
    assert frame.f_code.co_name == "inner_function"
    assert frame.f_back.f_code.co_name == "run"
    assert frame.f_back.f_back is None
    names = [entry.name for entry in traceback.extract_stack(frame)]
    assert names == ["run", "inner_function"]
    g.switch()
    assert g.gr_frame is None
    assert frame.f_code.co_name == "inner_function"


def test_gr_frame_of_the_current_greenlet_is_none():
    assert getcurrent().gr_frame is None
    assert greenlet(lambda: getcurrent().gr_frame).switch() is None


def test_stack_inside_a_greenlet_starts_at_its_run():
    def run():
        return [entry.name for entry in traceback.extract_stack()]

    assert greenlet(run).switch() == ["run"]


def test_gr_frame_after_deep_c_recursion_is_walkable():
    def key(number):
        getcurrent().parent.switch()
        return number

    def run():
        sorted([1], key=key)

    g = greenlet(run)
    g.switch()
    assert [frame.name for frame in traceback.extract_stack(g.gr_frame)] == ["run", "key"]
    g.switch()


# -- threads ----------------------------------------------------------------------------------------------


def test_switch_to_a_greenlet_of_another_thread_is_an_error():
    created = []
    created_event, done_event = threading.Event(), threading.Event()

    def thread():
        g = greenlet(lambda: getcurrent().parent.switch())
        g.switch()
        created.append(g)
        created_event.set()
        done_event.wait()
        g.switch()
        created.clear()

    worker = threading.Thread(target=thread)
    worker.start()
    created_event.wait()
    with pytest.raises(lowlevel.error):
        created[0].switch()
    done_event.set()
    worker.join()


# -- garbage ----------------------------------------------------------------------------------------------


def test_unstarted_greenlet_in_a_cycle_is_collected():
    class Run:
        def __call__(self):
            pass

    run = Run()
    run.greenlet = greenlet(run)
    reference = weakref.ref(run)
    del run
    gc.collect()
    assert reference() is None


def test_dead_greenlet_in_a_cycle_is_collected():
    def run():
        pass

    g = greenlet(run)
    g.myself = g
    g.switch()
    reference = weakref.ref(g)
    del g
    gc.collect()
    assert reference() is None


def test_locals_of_a_suspended_greenlet_survive_collections():
    class Thing:
        pass

    def run():
        thing = Thing()
        reference = weakref.ref(thing)
        cycle = [thing]
        cycle.append(cycle)
        getcurrent().parent.switch(reference)
        return thing is reference()

    greenlets = [greenlet(run) for _ in range(500)]
    references = [g.switch() for g in greenlets]
    gc.collect()
    assert all(reference() is not None for reference in references)
    assert all(g.switch() for g in greenlets)
    gc.collect()
    assert all(reference() is None for reference in references)


def test_collection_inside_a_greenlet_while_others_are_suspended():
    def run():
        garbage = []
        for _ in range(20):
            cycle = []
            cycle.append(cycle)
            garbage.append(len(cycle))
            getcurrent().parent.switch()
        gc.collect()
        return sum(garbage)

    greenlets = [greenlet(run) for _ in range(50)]
    for _ in range(20):
        for g in greenlets:
            g.switch()
    assert [g.switch() for g in greenlets] == [20] * 50


def test_objects_end_in_order_when_a_greenlet_returns():
    order = []

    class Thing:
        def __init__(self, name):
            self.name = name

        def __del__(self):
            order.append(self.name)

    def run():
        thing = Thing("local")
        getcurrent().parent.switch()
        return thing.name

    g = greenlet(run)
    g.switch()
    assert order == []
    g.switch()
    gc.collect()
    assert order == ["local"]


# -- gevent's side ----------------------------------------------------------------------------------------


def test_gevent_greenlets_and_hub_are_greenlets():
    assert gevent.getcurrent is getcurrent or gevent.getcurrent() is getcurrent()
    assert issubclass(gevent.Greenlet, greenlet)
    assert isinstance(gevent.get_hub(), greenlet)
    assert gevent.GreenletExit is GreenletExit


def test_raw_greenlet_with_the_hub_as_parent_can_sleep():
    order = []

    def run():
        order.append("before")
        gevent.sleep(0)
        order.append("after")

    g = greenlet(run, parent=gevent.get_hub())
    gevent.get_hub().loop.run_callback(g.switch)
    while not g.dead:
        gevent.sleep(0)
    assert order == ["before", "after"]


def test_import_of_greenlet_gives_the_same_world():
    module = pytest.importorskip("greenlet")
    assert module.getcurrent() is gevent.getcurrent()
    assert gevent.spawn(lambda: module.getcurrent() is gevent.getcurrent()).get()


# -- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, 1, "42", object()])
@pytest.mark.parametrize("state", ["unstarted", "suspended"])
def test_parent_must_be_a_greenlet(value, state):
    g = greenlet(lambda: getcurrent().parent.switch())
    if state == "suspended":
        g.switch()
    with pytest.raises(TypeError, match=f"Expected any type of greenlet, not {type(value).__name__}"):
        g.parent = value
    assert g.parent is getcurrent()
    g.throw()


def test_parent_given_as_none_is_the_current_greenlet():
    assert greenlet(parent=None).parent is getcurrent()
    with pytest.raises(TypeError, match="Expected any type of greenlet, not int"):
        greenlet(None, 1)


def test_parent_and_context_can_not_be_deleted():
    g = greenlet(lambda: None)
    with pytest.raises(AttributeError, match="can't delete attribute"):
        del g.parent
    with pytest.raises(AttributeError, match="can't delete context attribute"):
        del g.gr_context


def test_main_greenlet_takes_no_parent():
    for value in (None, getcurrent()):
        with pytest.raises(AttributeError, match="cannot set the parent of a main greenlet"):
            getcurrent().parent = value
    with pytest.raises(AttributeError, match="can't delete attribute"):
        del getcurrent().parent


def test_context_may_be_set_to_none():
    g = greenlet(lambda: None)
    g.gr_context = contextvars.copy_context()
    g.gr_context = None
    assert g.gr_context is None


def test_run_may_be_none_until_it_is_called():
    g = greenlet(run=None)
    assert g.run is None
    with pytest.raises(TypeError, match="not callable"):
        g.switch()


def test_run_that_is_missing_may_be_deleted():
    g = greenlet()
    del g.run
    assert not hasattr(g, "run")


@pytest.mark.parametrize("thrown", [(), (ValueError,)])
def test_throw_into_a_greenlet_without_run_raises_attribute_error_and_leaves_it_pending(thrown):
    g = greenlet()
    with pytest.raises(AttributeError, match="run"):
        g.throw(*thrown)
    assert not g.dead
    g.run = lambda: "started later"
    assert g.switch() == "started later"


# -- greenlets and threads --------------------------------------------------------------------------------


class OtherThread:
    """A thread that makes greenlets with `make()`, and holds still until it is let go on, step by step."""

    def __init__(self, make, *steps):
        self.made = []
        self._steps = steps
        self._go = [threading.Event() for _ in range(len(steps) + 1)]
        self._done = [threading.Event() for _ in range(len(steps) + 1)]
        self._thread = threading.Thread(target=self._run, args=(make,))
        self._thread.start()
        assert self._done[0].wait(10)

    def _run(self, make):
        make(self.made)
        self._done[0].set()
        for number, step in enumerate(self._steps):
            self._go[number].wait(10)
            step()
            self._done[number + 1].set()
        self._go[-1].wait(10)

    def step(self, number=0):
        self._go[number].set()
        assert self._done[number + 1].wait(10)

    def end(self):
        for event in self._go:
            event.set()
        self._thread.join(10)
        assert not self._thread.is_alive()


def make_suspended(made):
    made.append(greenlet(lambda: getcurrent().parent.switch()))
    made[0].switch()


def test_switch_to_a_suspended_greenlet_of_another_thread_names_both_threads():
    other = OtherThread(make_suspended, lambda: other.made[0].throw())
    try:
        for call in (other.made[0].switch, other.made[0].throw):
            with pytest.raises(lowlevel.error, match=r"(?s)Cannot switch to a different thread.*Current.*Expected"):
                call()
        assert repr(other.made[0]).endswith(" suspended active started>")
        other.step()
    finally:
        other.end()


def test_greenlets_of_a_thread_that_has_ended_are_dead():
    other = OtherThread(lambda made: (make_suspended(made), made.append(getcurrent())))
    other.end()
    gevent.sleep(0.05)   # PyPI's greenlet learns of it a moment later
    getcurrent()
    for g in other.made:
        assert g.dead
        assert not g
        assert g.gr_frame is None
        assert g.gr_context is None
        assert repr(g).endswith(" (thread exited) dead>")
        for call in (g.switch, g.throw):
            with pytest.raises(lowlevel.error, match=r"different thread .which happens to have exited."):
                call()


def test_frame_of_a_greenlet_that_runs_in_another_thread_is_not_shown():
    running, go_on = threading.Event(), threading.Event()
    made = []

    def run():
        made.append(getcurrent())
        running.set()
        go_on.wait(10)

    thread = threading.Thread(target=lambda: greenlet(run).switch())
    thread.start()
    running.wait(10)
    try:
        assert made[0].gr_frame is None
        with pytest.raises(ValueError, match="running in a different thread"):
            made[0].gr_context   # noqa: B018
    finally:
        go_on.set()
        thread.join(10)


def test_frames_of_greenlets_that_are_suspended_in_another_thread_are_shown():
    other = OtherThread(make_suspended, lambda: other.made[0].throw())
    try:
        assert traceback.extract_stack(other.made[0].gr_frame)[-1].name == "<lambda>"
        other.step()
    finally:
        other.end()


@pytest.mark.parametrize("ended", [False, True], ids=["thread runs", "thread ended"])
def test_unstarted_greenlet_goes_to_the_thread_of_its_new_parent(ended):
    other = OtherThread(lambda made: made.append(greenlet(lambda: threading.get_ident())))
    if ended:
        other.end()
    try:
        g = other.made[0]
        g.parent = getcurrent()
        assert g.switch() == threading.get_ident()
        assert g.dead
    finally:
        other.end()


def test_unstarted_greenlet_of_another_thread_is_refused_at_the_switch():
    other = OtherThread(lambda made: made.append(getcurrent()))
    try:
        g = greenlet(lambda: None, parent=other.made[0])
        with pytest.raises(lowlevel.error, match="Cannot switch to a different thread"):
            g.switch()
        g.parent = getcurrent()
        g.switch()
        assert g.dead
    finally:
        other.end()


def test_started_greenlet_stays_in_its_thread():
    other = OtherThread(make_suspended, lambda: other.made[0].throw())
    try:
        with pytest.raises(ValueError, match="parent cannot be on a different thread"):
            other.made[0].parent = getcurrent()
        other.step()
    finally:
        other.end()


def test_look_up_of_run_may_move_the_greenlet_to_another_thread():
    other = OtherThread(make_suspended, lambda: other.made[0].throw())

    class Convoluted(greenlet):
        def __getattribute__(self, name):
            if name == "run":
                self.parent = other.made[0]
            return super().__getattribute__(name)

    try:
        with pytest.raises(lowlevel.error, match="Cannot switch to a different thread"):
            Convoluted(lambda: None).switch()
        other.step()
    finally:
        other.end()


def dropped_in_another_thread(*steps):
    """Drop the last reference to a suspended greenlet here; return its thread and where it notes its end."""
    ended = []

    def run():
        try:
            getcurrent().parent.switch()
        finally:
            ended.append(threading.get_ident())

    def make(made):
        made.extend([greenlet(run), threading.get_ident()])
        made[0].switch()

    other = OtherThread(make, *steps)
    del other.made[0]
    gc.collect()
    assert ended == []
    return other, ended


@pytest.mark.parametrize("call", [getcurrent, greenlet, lambda: greenlet(lambda: None).switch()],
                         ids=["getcurrent", "greenlet", "switch"])
def test_greenlet_dropped_in_another_thread_ends_at_the_next_call_of_its_own(call):
    other, ended = dropped_in_another_thread(call)
    try:
        other.step()
        assert ended == other.made
    finally:
        other.end()


@pytest.mark.ours_only("PyPI's greenlet does not end it where its thread calls nothing of greenlet's before the end")
def test_greenlet_dropped_in_another_thread_ends_with_its_own():
    other, ended = dropped_in_another_thread()
    other.end()
    assert ended == other.made


@pytest.mark.ours_only("gevent's hub does not look at the greenlets that other threads have dropped")
def test_greenlet_dropped_in_another_thread_ends_while_its_own_waits_in_the_loop():
    ended, made = [], []
    ready = threading.Event()

    def thread():
        asynchronous = gevent.get_hub().loop.async_()
        waiter = Event()
        asynchronous.start(waiter.set)

        def run():
            try:
                getcurrent().parent.switch()
            finally:
                ended.append(threading.get_ident())
                waiter.set()

        made.extend([greenlet(run), threading.get_ident(), asynchronous])
        made[0].switch()
        gevent.spawn(ready.set)
        waiter.wait(10)
        asynchronous.close()

    other = threading.Thread(target=thread)
    other.start()
    ready.wait(10)
    del made[0]
    other.join(10)
    assert ended == made[:1]


def test_greenlets_dropped_by_many_threads_leave_no_references_to_their_class():
    class Sub(greenlet):
        pass

    before = sys.getrefcount(Sub)
    threads = []
    for _ in range(20):
        def make(made):
            made.append(Sub(lambda: getcurrent().parent.switch()))
            made[0].switch()
        threads.append(OtherThread(make, getcurrent))
    for other in threads:
        other.made.clear()
    for other in threads:
        other.step()
        other.end()
    gc.collect()
    assert sys.getrefcount(Sub) == before


# -- the end of a greenlet that nobody refers to -----------------------------------------------------------


def test_greenlet_that_survives_its_deallocation_has_its_parent_again():
    main = getcurrent()
    elsewhere = greenlet(lambda value: None)
    seen = []

    def run():
        try:
            main.switch()
        except GreenletExit:
            seen.extend([getcurrent().parent, getcurrent()])
            main.switch()

    g = greenlet(run, parent=elsewhere)
    g.switch()
    del g
    parent, survivor = seen
    seen.clear()
    assert parent is main
    assert survivor.parent is elsewhere
    survivor.switch()
    assert survivor.dead


@pytest.mark.ours_only("PyPI's greenlet leaves the survivor of a subclass untracked")
def test_survivor_of_a_subclass_is_seen_by_the_collector_again():
    main = getcurrent()
    seen = []

    class Sub(greenlet):
        pass

    def run():
        try:
            main.switch()
        except GreenletExit:
            seen.append(getcurrent())
            main.switch()

    Sub(run).switch()
    assert gc.is_tracked(seen[0])
    survivor = weakref.ref(seen[0])
    seen[0].cycle = seen[0]
    seen.pop().switch()
    gc.collect()
    assert survivor() is None


def test_greenlet_that_refuses_to_end_is_kept(monkeypatch, capfd):
    main = getcurrent()
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: sys.stderr.write(f"{unraisable.exc_value}"))
    refused = []

    def run():
        for _ in range(3):
            try:
                main.switch()
            except GreenletExit:
                refused.append(True)
        return "ended"

    g = greenlet(run)
    g.switch()
    address = id(g)
    del g
    assert refused == [True]
    assert "not" in capfd.readouterr().err
    gc.collect()
    # Kept, suspended where it was: its frames are whole.
    kept = [thing for thing in gc.get_objects() if isinstance(thing, greenlet) and id(thing) == address]
    assert len(kept) == 1
    kept[0].switch()
    assert kept[0].switch() == "ended"


def test_arguments_survive_a_finalizer_that_switches_before_the_start():
    main = getcurrent()
    seen = []

    class Callable:
        def __del__(self):
            main.switch("from the finalizer")

    class Sub(greenlet):
        def __getattribute__(self, name):
            return seen.append if name == "run" else super().__getattribute__(name)

    g = Sub(Callable())
    g.switch("argument")
    while not g.dead:
        g.switch()
    assert seen == ["argument"]


def test_fork_leaves_the_greenlets_of_the_forking_thread_alone():
    completed = run_script("""
        import os, threading, gevent
        greenlet, getcurrent = lowlevel.greenlet, lowlevel.getcurrent
        started, done = threading.Event(), threading.Event()
        def other():
            g = greenlet(lambda: getcurrent().parent.switch())
            g.switch()
            started.set()
            done.wait()
        thread = threading.Thread(target=other)
        thread.start()
        started.wait()
        ended = []
        def run():
            try:
                getcurrent().parent.switch()
            except BaseException as error:
                ended.append(error)
        g = greenlet(run)
        g.switch()
        child = os.fork()
        if not child:
            alive = not g.dead and not ended
            g.switch()
            os._exit(0 if alive and g.dead and not ended else 1)
        done.set()
        thread.join()
        g.switch()
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """)
    assert completed.returncode == 0, completed.stderr


@pytest.mark.parametrize("given", [True, False])
def test_context_stays_with_a_greenlet_that_has_ended(given):
    variable = contextvars.ContextVar("variable")
    g = greenlet(lambda: variable.set("value"))
    if given:
        g.gr_context = contextvars.copy_context()
    g.switch()
    assert g.dead and g.gr_context[variable] == "value"
    g.gr_context = None
    assert g.gr_context is None


# -- the C interface --------------------------------------------------------------------------------------


class CInterface:
    """What `greenlet.h` makes of the capsule."""

    def __init__(self):
        import ctypes

        pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
        pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        address = pointer_of(lowlevel._C_API, b"greenlet._C_API")
        self.table = ctypes.cast(address, ctypes.POINTER(ctypes.c_void_p))
        thing, number = ctypes.py_object, ctypes.c_int

        def function(place, result, *arguments):
            return ctypes.PYFUNCTYPE(result, *arguments)(self.table[place])

        self.new = function(3, thing, thing, ctypes.c_void_p)
        self.get_current = function(4, thing)
        self.throw = function(5, thing, thing, thing, thing, thing)
        self.switch = function(6, thing, thing, thing, thing)
        self.switch_bare = function(6, thing, thing, ctypes.c_void_p, ctypes.c_void_p)
        self.set_parent = function(7, number, thing, thing)
        self.is_main, self.is_started, self.is_active = (function(place, number, thing) for place in (8, 9, 10))
        self.get_parent = function(11, thing, thing)


@pytest.fixture(scope="module")
def c():
    return CInterface()


def test_c_interface_names_the_types(c):
    assert [c.table[place] for place in range(3)] == [id(greenlet), id(lowlevel.error), id(GreenletExit)]


def test_c_interface_makes_and_switches_greenlets(c):
    def run(*args, **kwargs):
        return args, kwargs, getcurrent().parent.switch("suspended")

    g = c.new(run, None)
    assert type(g) is greenlet and c.get_parent(g) is getcurrent() is c.get_current()
    assert (c.is_main(g), c.is_started(g), c.is_active(g)) == (0, 0, 0)
    assert c.switch(g, (1, 2), {"three": 3}) == "suspended"
    assert (c.is_started(g), c.is_active(g)) == (1, 1)
    assert c.switch(g, ("back",), None) == ((1, 2), {"three": 3}, "back")
    assert (c.is_started(g), c.is_active(g)) == (1, 0)
    assert c.switch_bare(greenlet(lambda: "without arguments"), None, None) == "without arguments"
    assert c.is_main(getcurrent()) == 1


def test_c_interface_throws_and_changes_parents(c):
    def run():
        try:
            getcurrent().parent.switch()
        except ValueError as error:
            return "caught", error.args

    child, other = greenlet(run), greenlet(lambda value: ("other", value))
    child.switch()
    assert c.set_parent(child, other) == 0 and child.parent is other
    assert c.throw(child, ValueError, "thrown", None) == ("other", ("caught", ("thrown",)))
    with pytest.raises(ValueError, match="cyclic"):
        c.set_parent(other, other)


def test_c_interface_takes_the_methods_of_the_class_itself(c):
    class Sub(greenlet):
        def switch(self, *args):
            raise AssertionError("overridden")

    assert c.switch(Sub(lambda: "switched"), (), None) == "switched"


@pytest.mark.parametrize("call", ["get_parent", "is_main", "is_started", "is_active"])
def test_c_interface_refuses_what_is_no_greenlet(c, call):
    with pytest.raises(TypeError, match="bad argument"):
        getattr(c, call)(object())
