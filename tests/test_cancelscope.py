"""Cancel scopes, as people who know trio's expect them."""
import gc
import threading
import time
import weakref

import gevent
import pytest
from gevent.event import AsyncResult, Event
from gevent.hub import Waiter
from gevent.lock import RLock, Semaphore
from gevent.pool import Pool
from gevent.queue import Queue
from implementation import run_script

pytestmark = pytest.mark.ours_only("gevent has no cancel scopes")

LONG = 60


def test_deadline_ends_the_block_and_the_program_goes_on():
    with gevent.move_on_after(0.01) as scope:
        gevent.sleep(LONG)
        raise AssertionError
    assert scope.cancelled_caught and scope.cancel_called
    gevent.sleep(0)


def test_block_that_ends_in_time_is_not_cancelled():
    with gevent.move_on_after(LONG) as scope:
        gevent.sleep(0)
    assert not scope.cancelled_caught and not scope.cancel_called


def test_cancel_wakes_what_waits():
    with gevent.CancelScope() as scope:
        gevent.spawn(scope.cancel)
        gevent.sleep(LONG)
    assert scope.cancelled_caught


def test_each_wait_in_a_cancelled_scope_raises_anew():
    caught = []
    with gevent.CancelScope() as scope:
        scope.cancel()
        for wait in [gevent.sleep, lambda: gevent.sleep(LONG), Event().wait, AsyncResult().get, Queue().get,
                     Semaphore(0).acquire, Waiter().get, gevent.get_hub().switch, gevent.idle]:
            try:
                wait()
            except gevent.Cancelled as error:
                caught.append(error)
        gevent.sleep(0)
    assert scope.cancelled_caught
    assert len(caught) == 9


def test_call_that_need_not_wait_is_no_checkpoint():
    queue = Queue()
    queue.put(1)
    with gevent.CancelScope() as scope:
        scope.cancel()
        assert queue.get() == 1
    assert scope.cancel_called and not scope.cancelled_caught


def test_scope_cancelled_before_its_block_ends_it_at_the_first_wait():
    scope = gevent.CancelScope()
    scope.cancel()
    reached = []
    with scope:
        reached.append(1)
        gevent.sleep(0)
        reached.append(2)
    assert reached == [1] and scope.cancelled_caught


def test_outermost_cancelled_scope_catches():
    reached = []
    with gevent.CancelScope() as outer:
        with gevent.CancelScope() as inner:
            inner.cancel()
            outer.cancel()
            gevent.sleep(0)
        reached.append("between")
    assert reached == []
    assert outer.cancelled_caught and not inner.cancelled_caught


def test_inner_scope_ends_alone():
    with gevent.CancelScope() as outer:
        with gevent.move_on_after(0) as inner:
            gevent.sleep(LONG)
        gevent.sleep(0)
    assert inner.cancelled_caught and not outer.cancelled_caught


def test_other_exceptions_pass_through_a_cancelled_scope():
    with pytest.raises(KeyError), gevent.CancelScope() as scope:
        scope.cancel()
        try:
            gevent.sleep(0)
        finally:
            raise KeyError("cleanup")
    assert not scope.cancelled_caught


def test_cancelled_is_taken_out_of_an_exception_group():
    with pytest.raises(ExceptionGroup) as caught, gevent.CancelScope() as scope:
        scope.cancel()
        try:
            gevent.sleep(0)
        except gevent.Cancelled as error:
            raise BaseExceptionGroup("both", [error, ValueError("kept")]) from None
    assert scope.cancelled_caught
    assert [repr(error) for error in caught.value.exceptions] == ["ValueError('kept')"]

    with gevent.CancelScope() as scope:
        scope.cancel()
        raise BaseExceptionGroup("only", [gevent.Cancelled()])
    assert scope.cancelled_caught


def test_shield_holds_an_outer_cancellation_back():
    reached = []
    with gevent.CancelScope() as outer:
        outer.cancel()
        with gevent.CancelScope(shield=True):
            gevent.sleep(0)
            reached.append("shielded")
        gevent.sleep(0)
        reached.append("not reached")
    assert reached == ["shielded"] and outer.cancelled_caught


def test_shield_that_is_taken_down_lets_the_cancellation_in():
    with gevent.CancelScope() as outer, gevent.CancelScope(shield=True) as inner:
        outer.cancel()
        gevent.sleep(0)
        inner.shield = False
        gevent.sleep(0)
        raise AssertionError
    assert outer.cancelled_caught and not inner.cancelled_caught


def test_cleanup_may_wait_below_a_shield_with_a_limit():
    steps = []
    with gevent.move_on_after(0.005):
        try:
            gevent.sleep(LONG)
        finally:
            with gevent.move_on_after(LONG, shield=True) as cleanup:
                gevent.sleep(0.005)
                steps.append("cleaned up")
    assert steps == ["cleaned up"] and not cleanup.cancelled_caught


def test_shield_holds_a_kill_back_and_kill_waits_for_it():
    steps = []

    def work():
        with gevent.CancelScope(shield=True):
            gevent.sleep(0.005)
            steps.append("saved")
        gevent.sleep(0)
        steps.append("not reached")

    greenlet = gevent.spawn(work)
    gevent.sleep(0)
    greenlet.kill()
    assert greenlet.dead and isinstance(greenlet.value, gevent.GreenletExit)
    assert steps == ["saved"]


@pytest.mark.parametrize("kill", [
    lambda greenlet: greenlet.kill(KeyError("given")),
    lambda greenlet: gevent.kill(greenlet, KeyError("given")),
    lambda greenlet: gevent.killall([greenlet], KeyError("given")),
])
def test_shield_holds_every_kind_of_kill_back(kill):
    went_on = Event()

    def work():
        with gevent.CancelScope(shield=True):
            gevent.sleep(0)
            gevent.sleep(0)
            went_on.set()
        gevent.sleep(LONG)

    greenlet = gevent.spawn(work)
    gevent.sleep(0)
    kill(greenlet)
    greenlet.join()
    assert went_on.is_set()
    assert repr(greenlet.exception) == "KeyError('given')"


def test_kill_is_not_held_back_without_a_shield():
    def work():
        with gevent.CancelScope():
            gevent.sleep(LONG)

    greenlet = gevent.spawn(work)
    gevent.sleep(0)
    greenlet.kill()
    assert isinstance(greenlet.value, gevent.GreenletExit) and not isinstance(greenlet.value, gevent.Cancelled)


def test_shield_holds_an_outer_timeout_back():
    steps = []
    with pytest.raises(gevent.Timeout) as caught, gevent.Timeout(0.005) as timeout:
        with gevent.CancelScope(shield=True):
            gevent.sleep(0.02)
            steps.append("shielded")
        gevent.sleep(LONG)
    assert caught.value is timeout and steps == ["shielded"]


def test_timeout_below_the_shield_works():
    with gevent.CancelScope(shield=True), pytest.raises(gevent.Timeout), gevent.Timeout(0):
        gevent.sleep(LONG)


def test_timeout_that_was_held_back_and_is_cancelled_never_comes():
    with gevent.Timeout(0.001):
        with gevent.CancelScope(shield=True):
            gevent.sleep(0.01)
    gevent.sleep(0)
    gevent.sleep(0)


def test_timeout_passes_through_a_scope():
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.001), gevent.CancelScope() as scope:
        gevent.sleep(LONG)
    assert not scope.cancelled_caught


def test_with_timeout_inside_a_cancelled_scope_is_cancelled():
    with gevent.CancelScope() as scope:
        scope.cancel()
        gevent.with_timeout(LONG, gevent.sleep, LONG, timeout_value=None)
    assert scope.cancelled_caught


def test_fail_after_raises():
    with pytest.raises(gevent.TooSlowError), gevent.fail_after(0.001) as scope:
        gevent.sleep(LONG)
    assert scope.cancelled_caught
    assert issubclass(gevent.TooSlowError, TimeoutError)
    with gevent.fail_after(LONG):
        gevent.sleep(0)


def test_deadlines_are_those_of_the_monotonic_clock():
    with gevent.move_on_at(time.monotonic() - 1) as scope:
        gevent.sleep(LONG)
    assert scope.cancelled_caught
    with pytest.raises(gevent.TooSlowError), gevent.fail_at(time.monotonic() + 0.001):
        gevent.sleep(LONG)
    with gevent.move_on_after(LONG) as scope:
        assert 0 < scope.deadline - time.monotonic() <= LONG


def test_deadline_can_be_moved():
    with gevent.move_on_after(LONG) as scope:
        scope.deadline = time.monotonic() + 0.001
        gevent.sleep(LONG)
    assert scope.cancelled_caught
    with gevent.move_on_after(0.001) as scope:
        scope.deadline = float("inf")
        gevent.sleep(0.01)
    assert not scope.cancelled_caught


def test_passed_deadline_is_seen_without_a_wait():
    with gevent.move_on_at(time.monotonic() - 1) as scope:
        assert scope.cancel_called
    assert not scope.cancelled_caught


def test_cancelled_wait_leaves_objects_usable():
    queue, semaphore, lock, event, result = Queue(), Semaphore(0), RLock(), Event(), AsyncResult()
    holder = gevent.spawn(lambda: (lock.acquire(), gevent.sleep(0.01), lock.release()))
    gevent.sleep(0)
    for wait in [queue.get, semaphore.acquire, lock.acquire, event.wait, result.get]:
        with gevent.CancelScope() as scope:
            gevent.spawn(scope.cancel)
            wait()
        assert scope.cancelled_caught
    queue.put(1)
    assert queue.get() == 1 and queue.empty()
    semaphore.release()
    assert semaphore.acquire(blocking=False)
    holder.join()
    assert lock.acquire(blocking=False)
    lock.release()
    assert (event.linkcount(), result.linkcount(), semaphore.linkcount()) == (0, 0, 0)


def test_item_that_was_handed_over_is_not_lost():
    queue = Queue()
    got = []
    with gevent.CancelScope() as scope:
        gevent.spawn(lambda: (queue.put("item"), scope.cancel()))
        got.append(queue.get())
        gevent.sleep(0)
    assert got == ["item"] and scope.cancelled_caught


def test_plain_greenlets_are_in_no_scope():
    with gevent.CancelScope() as scope:
        greenlet = gevent.spawn(gevent.sleep, 0.001)
        scope.cancel()
    greenlet.join()
    assert greenlet.value is None


def test_pool_of_a_cancelled_spawner_keeps_its_room():
    pool = Pool(1)
    blocker = pool.spawn(gevent.sleep, 0.005)
    with gevent.CancelScope() as scope:
        gevent.spawn(scope.cancel)
        pool.spawn(gevent.sleep, 0)
    assert scope.cancelled_caught
    blocker.join()
    pool.join()
    assert pool.free_count() == 1


def test_cancel_from_another_thread():
    with gevent.CancelScope() as scope:
        thread = threading.Thread(target=scope.cancel)
        gevent.spawn(thread.start)
        gevent.sleep(LONG)
    thread.join()
    assert scope.cancelled_caught


def test_scope_is_used_once():
    with gevent.CancelScope() as scope, pytest.raises(RuntimeError, match="one 'with' block"):
        scope.__enter__()
    with pytest.raises(RuntimeError, match="one 'with' block"), scope:
        pass


def test_scopes_end_in_the_reverse_order_of_their_beginning():
    outer, inner = gevent.CancelScope(), gevent.CancelScope()
    outer.__enter__()
    inner.__enter__()
    with pytest.raises(RuntimeError, match="before one that was entered in it"):
        outer.__exit__(None, None, None)
    inner.__exit__(None, None, None)
    outer.__exit__(None, None, None)


def test_scope_ends_in_its_own_greenlet():
    with gevent.CancelScope() as scope:
        greenlet = gevent.spawn(scope.__exit__, None, None, None)
        with pytest.raises(RuntimeError, match="in another greenlet"):
            greenlet.get()
    with pytest.raises(RuntimeError, match="has not begun"):
        gevent.CancelScope().__exit__(None, None, None)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        gevent.CancelScope(deadline=float("nan"))
    with pytest.raises(ValueError, match="-1"):
        gevent.move_on_after(-1)
    with pytest.raises(ValueError, match="nan"):
        gevent.fail_after(float("nan"))
    with pytest.raises(TypeError, match="5"):
        gevent.CancelScope(shield=5)
    with pytest.raises(TypeError):
        gevent.CancelScope(5)


def test_scope_of_a_generator_that_is_never_finished_is_freed():
    def generate():
        with gevent.CancelScope() as scope:
            yield weakref.ref(scope)

    def run():
        return next(generate())

    reference = gevent.spawn(run).get()
    gc.collect()
    assert reference() is None


def test_greenlet_that_ends_by_cancelled_is_reported_to_nobody(errors):
    def run():
        raise gevent.Cancelled

    greenlet = gevent.spawn(run)
    greenlet.join()
    assert isinstance(greenlet.value, gevent.Cancelled)
    assert errors.getvalue() == ""


def test_scopes_may_be_nested_deeper_than_the_stack_has_room_for():
    run_script("""
        import gevent
        COUNT = 200_000

        def enter():
            scopes = [gevent.CancelScope() for _ in range(COUNT)]
            for scope in scopes:
                scope.__enter__()
            return scopes

        scopes = enter()
        scopes[0].cancel()
        try:
            gevent.sleep(0)
        except BaseException as error:
            for scope in reversed(scopes):
                caught = scope.__exit__(type(error), error, error.__traceback__)
            assert caught
        gevent.sleep(0)
        # One that ends in its scopes.
        gevent.spawn(lambda: enter() and None).join()
    """)
