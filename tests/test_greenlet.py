"""gevent.Greenlet and the functions that spawn, join, wait for and kill greenlets."""
import functools
import gc
import io
import traceback
import weakref

import gevent
import pytest
from gevent import Greenlet
from gevent.event import AsyncResult, Event


def fail(exception=None):
    raise exception or ValueError("fails")


# -- order and concurrency --------------------------------------------------------------------------------


def test_spawned_greenlets_run_interleaved_in_the_order_of_spawning():
    order = []

    def run(name):
        for number in range(3):
            order.append((name, number))
            gevent.sleep(0)

    gevent.joinall([gevent.spawn(run, name) for name in "abc"])
    assert order == [(name, number) for number in range(3) for name in "abc"]


def test_spawn_does_not_run_before_the_spawner_waits():
    order = []
    g = gevent.spawn(order.append, "greenlet")
    order.append("spawner")
    g.join()
    assert order == ["spawner", "greenlet"]


def test_sleepers_wake_in_the_order_of_their_deadlines():
    order = []

    def run(seconds):
        gevent.sleep(seconds)
        order.append(seconds)

    gevent.joinall([gevent.spawn(run, seconds) for seconds in (0.03, 0.01, 0.02, 0.001)])
    assert order == [0.001, 0.01, 0.02, 0.03]


def test_equal_deadlines_wake_in_the_order_of_sleeping():
    order = []

    def run(number):
        gevent.sleep(0.01)
        order.append(number)

    gevent.joinall([gevent.spawn(run, number) for number in range(20)])
    assert order == list(range(20))


def test_fifty_sleeping_requests_all_wait_at_once():
    waiting = []
    everyone_waits = Event()

    def request(number):
        waiting.append(number)
        if len(waiting) == 50:
            everyone_waits.set()
        assert everyone_waits.wait(5), "the others do not wait at the same time"
        return number

    jobs = [gevent.spawn(request, number) for number in range(50)]
    assert [job.get() for job in gevent.joinall(jobs)] and [job.value for job in jobs] == list(range(50))


def test_sleep_of_zero_and_less_yields_or_returns_at_once():
    order = []
    g = gevent.spawn(order.append, "other")
    gevent.sleep(0)
    assert order == ["other"]
    g.join()
    gevent.sleep(-1)


@pytest.mark.parametrize("seconds", ["1", None, [], object()])
def test_sleep_refuses_what_is_no_number(seconds):
    with pytest.raises(TypeError):
        gevent.sleep(seconds)


def test_idle_runs_after_the_others_have_nothing_to_do():
    order = []
    gevent.spawn(order.append, "other").start()
    gevent.idle()
    assert order == ["other"]


# -- creation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [gevent.spawn, Greenlet.spawn, functools.partial(gevent.spawn_later, 0), Greenlet])
def test_what_cannot_be_called_is_refused_at_once(make):
    with pytest.raises(TypeError):
        make("not callable")


def test_spawn_passes_arguments_and_keeps_them():
    g = gevent.spawn(lambda *args, **kwargs: (args, kwargs), 1, key=2)
    assert g.args == (1,)
    assert g.kwargs == {"key": 2}
    assert g.get() == ((1,), {"key": 2})


def test_greenlet_runs_only_after_start():
    ran = []
    g = Greenlet(ran.append, "ran")
    gevent.sleep(0)
    assert ran == [] and not g.started
    g.start()
    assert g.started
    g.join()
    assert ran == ["ran"]


def test_spawn_later_waits_before_it_starts():
    order = []
    later = gevent.spawn_later(0.01, order.append, "later")
    gevent.spawn(order.append, "now").join()
    later.join()
    assert order == ["now", "later"]


def test_start_later_can_be_killed_before_the_start():
    ran = []
    g = Greenlet(ran.append, 1)
    g.start_later(1000)
    g.kill()
    assert g.dead and ran == []
    assert isinstance(g.value, gevent.GreenletExit)


def test_spawn_raw_gives_a_plain_greenlet_that_runs():
    done = AsyncResult()
    g = gevent.spawn_raw(lambda value, key: done.set((value, key)), 1, key=2)
    assert not isinstance(g, Greenlet)
    assert done.get(timeout=1) == (1, 2)


def test_subclass_overrides_run_and_str(errors):
    class Job(Greenlet):
        def __init__(self, value):
            super().__init__()
            self.job_value = value

        def _run(self):
            gevent.sleep(0)
            return self.job_value

        def __str__(self):
            return "my job"

    job = Job(5)
    job.start()
    assert job.get() == 5
    assert str(job) == "my job"


def test_current_greenlet_inside_spawn():
    g = gevent.spawn(gevent.getcurrent)
    assert g.get() is g


# -- states -----------------------------------------------------------------------------------------------


def test_life_of_a_greenlet_that_returns():
    g = Greenlet(lambda: "value")
    assert (bool(g), g.started, g.ready(), g.dead, g.successful()) == (False, False, False, False, False)
    g.start()
    assert (bool(g), g.started, g.ready(), g.dead) == (True, True, False, False)
    g.join()
    assert (bool(g), g.started, g.ready(), g.dead, g.successful()) == (False, False, True, True, True)
    assert (g.value, g.exception) == ("value", None)


def test_life_of_a_greenlet_that_fails(errors):
    g = gevent.spawn(fail)
    g.join()
    assert (bool(g), g.ready(), g.successful(), g.value) == (False, True, False, None)
    assert isinstance(g.exception, ValueError)
    assert g.exc_info[0] is ValueError
    assert "fail" in [frame.name for frame in traceback.extract_tb(g.exc_info[2])]


def test_names_and_identities():
    a, b = Greenlet(int), Greenlet(int)
    assert a.minimal_ident != b.minimal_ident
    assert a.name.startswith("Greenlet-")
    a.name = "my name"
    assert "my name" in repr(a)
    assert "Greenlet" in repr(b) and hex(id(b)) in repr(b)


def test_spawn_tree_is_known():
    def parent():
        gevent.getcurrent().spawn_tree_locals["key"] = "value"
        return gevent.spawn(lambda: gevent.getcurrent().spawn_tree_locals["key"]), gevent.getcurrent()

    child, spawner = gevent.spawn(parent).get()
    assert child.get() == "value"
    assert child.spawning_greenlet() is spawner
    assert "parent" in "".join(traceback.format_stack(child.spawning_stack))


# -- get and join -----------------------------------------------------------------------------------------


def test_get_returns_the_value_or_raises_the_exception(errors):
    assert gevent.spawn(lambda: 5).get() == 5
    with pytest.raises(ValueError, match="fails"):
        gevent.spawn(fail).get()


def test_get_raises_the_same_exception_each_time(errors):
    g = gevent.spawn(fail)
    for _ in range(3):
        with pytest.raises(ValueError) as caught:
            g.get()
        assert caught.value is g.exception


def test_get_without_block_raises_timeout_until_ready():
    g = gevent.spawn(lambda: 5)
    with pytest.raises(gevent.Timeout):
        g.get(block=False)
    g.join()
    assert g.get(block=False) == 5


def test_get_and_join_give_up_after_their_timeout():
    g = gevent.spawn(gevent.sleep, 1000)
    with pytest.raises(gevent.Timeout):
        g.get(timeout=0.001)
    assert g.join(timeout=0.001) is None
    assert not g.ready()
    g.kill()


def test_join_does_not_raise_what_the_greenlet_raised(errors):
    g = gevent.spawn(fail)
    assert g.join() is None
    assert not g.successful()


def test_many_wait_for_one():
    gate = Event()
    g = gevent.spawn(lambda: gate.wait() and "value")
    waiters = [gevent.spawn(g.get) for _ in range(10)]
    gevent.sleep(0)
    gate.set()
    assert [waiter.get() for waiter in waiters] == ["value"] * 10


def test_joinall_returns_what_is_ready_within_the_timeout():
    quick, slow = gevent.spawn(int), gevent.spawn(gevent.sleep, 1000)
    assert gevent.joinall([quick, slow], timeout=0.01) == [quick]
    slow.kill()


def test_joinall_with_count_returns_as_soon_as_enough_are_ready():
    slow = gevent.spawn(gevent.sleep, 1000)
    done = gevent.joinall([slow, gevent.spawn(int), gevent.spawn(int)], count=2)
    assert len(done) == 2 and slow not in done
    slow.kill()


def test_joinall_raises_the_first_error_when_asked(errors):
    slow = gevent.spawn(gevent.sleep, 1000)
    with pytest.raises(ValueError, match="fails"):
        gevent.joinall([slow, gevent.spawn(fail)], raise_error=True)
    assert not slow.ready()
    slow.kill()


def test_iwait_yields_objects_as_they_become_ready():
    events = [Event() for _ in range(3)]
    order = [2, 0, 1]

    def setter():
        for index in order:
            events[index].set()
            gevent.sleep(0.001)

    setting = gevent.spawn(setter)
    assert [events.index(event) for event in gevent.iwait(events)] == order
    setting.join()


def test_wait_takes_mixed_objects_and_a_timeout():
    event, result, g = Event(), AsyncResult(), gevent.spawn(gevent.sleep, 1000)
    event.set()
    result.set(1)
    done = gevent.wait([event, result, g], timeout=0.01)
    assert set(map(id, done)) == {id(event), id(result)}
    g.kill()


def test_wait_without_objects_returns_when_nothing_is_left():
    order = []
    gevent.spawn_later(0.001, order.append, 1)
    assert gevent.wait(timeout=5) is True
    assert order == [1]


# -- links ------------------------------------------------------------------------------------------------


def test_links_are_called_with_the_dead_greenlet_in_order():
    order = []
    g = gevent.spawn(int)
    g.link(lambda source: order.append(("first", source)))
    g.link(lambda source: order.append(("second", source)))
    g.join()
    gevent.sleep(0)
    gevent.sleep(0)
    assert order == [("first", g), ("second", g)]


def test_link_to_a_dead_greenlet_is_called_too():
    g = gevent.spawn(int)
    g.join()
    result = AsyncResult()
    g.link(result)
    assert result.get(timeout=1) == 0


def test_link_value_and_link_exception_choose_by_outcome(errors):
    order = []
    good, bad = gevent.spawn(int), gevent.spawn(fail)
    for name, g in (("good", good), ("bad", bad)):
        g.link_value(lambda source, name=name: order.append((name, "value")))
        g.link_exception(lambda source, name=name: order.append((name, "exception")))
    gevent.joinall([good, bad])
    gevent.sleep(0)
    gevent.sleep(0)
    assert sorted(order) == [("bad", "exception"), ("good", "value")]


def test_unlinked_callback_is_not_called():
    order = []
    g = gevent.spawn(int)
    g.link(order.append)
    g.rawlink(order.append)
    assert g.has_links()
    g.unlink(order.append)
    g.unlink_all()
    g.join()
    gevent.sleep(0)
    assert order == []


def test_rawlink_runs_in_the_hub():
    where = []
    g = gevent.spawn(int)
    g.rawlink(lambda source: where.append(gevent.getcurrent()))
    gevent.sleep(0)
    gevent.sleep(0)
    assert where == [gevent.get_hub()]


def test_error_in_a_link_is_printed_and_the_other_links_run(errors):
    order = []
    g = gevent.spawn(int)
    g.rawlink(lambda source: fail(KeyError("in link")))
    g.rawlink(order.append)
    g.join()
    gevent.sleep(0)
    gevent.sleep(0)
    assert order == [g]
    assert "in link" in errors.getvalue()


def test_async_result_as_link_takes_the_exception(errors):
    result = AsyncResult()
    gevent.spawn(fail).link(result)
    with pytest.raises(ValueError, match="fails"):
        result.get(timeout=1)


# -- kill -------------------------------------------------------------------------------------------------


def test_kill_before_the_start_never_runs_it():
    ran = []
    g = gevent.spawn(ran.append, 1)
    g.kill()
    assert ran == [] and g.dead and g.successful()
    assert isinstance(g.value, gevent.GreenletExit)


def test_kill_of_an_unstarted_greenlet_makes_it_dead():
    ran = []
    g = Greenlet(ran.append, 1)
    g.kill()
    g.start()
    gevent.sleep(0)
    assert g.dead and ran == []


def test_kill_of_a_dead_greenlet_does_nothing():
    g = gevent.spawn(lambda: 5)
    g.join()
    g.kill()
    assert g.value == 5


def test_kill_waits_until_the_greenlet_has_cleaned_up():
    order = []

    def run():
        try:
            gevent.sleep(1000)
        finally:
            gevent.sleep(0)
            order.append("cleaned up")

    g = gevent.spawn(run)
    gevent.sleep(0)
    g.kill()
    order.append("kill returned")
    assert order == ["cleaned up", "kill returned"]


def test_kill_without_block_returns_at_once():
    g = gevent.spawn(gevent.sleep, 1000)
    gevent.sleep(0)
    g.kill(block=False)
    assert not g.dead
    g.join(timeout=1)
    assert g.dead


def test_kill_gives_up_after_its_timeout_when_the_greenlet_resists():
    resist = Event()

    def run():
        try:
            gevent.sleep(1000)
        except gevent.GreenletExit:
            resist.wait()

    g = gevent.spawn(run)
    gevent.sleep(0)
    g.kill(timeout=0.001)
    assert not g.dead
    resist.set()
    g.join()


def test_kill_with_an_exception_class_or_instance(errors):
    for exception in (KeyError, KeyError("instance")):
        g = gevent.spawn(gevent.sleep, 1000)
        gevent.sleep(0)
        g.kill(exception)
        assert isinstance(g.exception, KeyError)


def test_killall_of_started_unstarted_dead_and_raw():
    dead = gevent.spawn(int)
    dead.join()
    sleeping = [gevent.spawn(gevent.sleep, 1000) for _ in range(5)]
    raw = gevent.spawn_raw(gevent.sleep, 1000)
    gevent.sleep(0)
    unstarted = Greenlet(int)
    gevent.killall([dead, *sleeping, raw, unstarted], timeout=5)
    assert all(g.dead for g in [dead, *sleeping, raw, unstarted])


def test_greenlet_kills_itself():
    g = gevent.spawn(lambda: gevent.getcurrent().kill())
    g.join(timeout=1)
    assert isinstance(g.value, gevent.GreenletExit)


def test_two_greenlets_kill_each_other():
    def run(other):
        gevent.sleep(0)
        greenlets[other].kill()

    greenlets = [gevent.spawn(run, 1), gevent.spawn(run, 0)]
    gevent.joinall(greenlets, timeout=5)
    assert all(g.dead for g in greenlets)


def test_throw_into_a_started_greenlet_before_it_ran_cancels_it(errors):
    ran = []
    g = gevent.spawn(ran.append, 1)
    g.throw(gevent.GreenletExit)
    gevent.sleep(0)
    assert ran == [] and g.dead


def test_context_manager_joins_or_kills():
    with gevent.spawn(lambda: 5) as g:
        pass
    assert g.value == 5
    with pytest.raises(KeyError):
        with gevent.spawn(gevent.sleep, 1000) as g:
            gevent.sleep(0)
            raise KeyError
    assert g.dead


# -- garbage ----------------------------------------------------------------------------------------------


def test_finished_greenlet_frees_its_arguments_and_itself():
    class Thing:
        pass

    thing = Thing()
    g = gevent.spawn(lambda value: None, thing)
    g.join()
    references = weakref.ref(thing), weakref.ref(g)
    del thing, g
    gevent.sleep(0)
    gc.collect()
    assert [reference() for reference in references] == [None, None]


def test_spawned_greenlet_lives_without_references_until_it_ends():
    order = []

    def run():
        gevent.sleep(0.001)
        gc.collect()
        order.append("ran")

    gevent.spawn(run)
    gc.collect()
    while not order:
        gevent.sleep(0.001)
    assert order == ["ran"]


def test_print_from_greenlets_with_redirected_stdout():
    import contextlib

    stream = io.StringIO()
    with contextlib.redirect_stdout(stream):
        gevent.joinall([gevent.spawn(print, number) for number in range(3)])
    assert stream.getvalue() == "0\n1\n2\n"


def test_has_links_is_a_bool():
    g = gevent.Greenlet(int)
    assert g.has_links() is False
    g.rawlink(print)
    assert g.has_links() is True
    g.unlink_all()
    assert g.has_links() is False


@pytest.mark.ours_only("the real gevent ends in RecursionError")
def test_repr_of_a_greenlet_that_owns_the_lock_it_was_given():
    from gevent.lock import RLock

    lock = RLock()

    def hold(it):
        with it:
            gevent.sleep(0)
            return repr(gevent.getcurrent())

    text = gevent.spawn(hold, lock).get()
    assert text.count("hold") == 1 and "_owner=<Greenlet" in text
    # It shows all the next time as well.
    assert gevent.spawn(hold, lock).get().count("hold") == 1


def test_exit_takes_its_arguments_by_the_names_that_gevent_uses():
    greenlet = gevent.spawn(str, "value")
    greenlet.__exit__(t=None, v=None, tb=None)
    assert greenlet.get() == "value"
