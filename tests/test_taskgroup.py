"""Task groups, as people who know asyncio's and trio's expect them."""
import contextvars
import gc
import threading
import weakref

import gevent
import pytest
from gevent.event import Event

pytestmark = pytest.mark.ours_only("gevent has no task groups")

LONG = 60


def fail(error):
    gevent.sleep(0)
    raise error


def errors_of(group_error):
    return [repr(error) for error in group_error.exceptions]


def test_block_ends_when_all_tasks_have_ended():
    ended = []

    def task(name, rounds):
        for _ in range(rounds):
            gevent.sleep(0)
        ended.append(name)
        return name

    with gevent.TaskGroup() as group:
        first = group.spawn(task, "first", 3)
        second = group.create_task(task, "second", rounds=1)
    assert ended == ["second", "first"]
    assert (first.get(), second.get()) == ("first", "second")


def test_empty_group_ends_at_once():
    with gevent.TaskGroup():
        pass


def test_first_failure_cancels_siblings_and_all_errors_come_as_a_group(errors):
    cleaned = []

    def sibling():
        try:
            gevent.sleep(LONG)
        finally:
            cleaned.append("sibling")

    with pytest.raises(ExceptionGroup, match="unhandled errors in a TaskGroup") as caught:
        with gevent.TaskGroup() as group:
            group.spawn(sibling)
            group.spawn(fail, ValueError("first"))
    assert errors_of(caught.value) == ["ValueError('first')"]
    assert cleaned == ["sibling"]
    assert errors.getvalue() == "", "the group's owner has the errors"


def test_failure_cancels_the_body_where_it_waits():
    reached = []
    with pytest.raises(ExceptionGroup) as caught, gevent.TaskGroup() as group:
        group.spawn(fail, ValueError("task"))
        gevent.sleep(LONG)
        reached.append("not reached")
    assert errors_of(caught.value) == ["ValueError('task')"] and reached == []


def test_errors_during_cancellation_are_in_the_group():
    def sibling():
        try:
            gevent.sleep(LONG)
        finally:
            raise KeyError("cleanup")

    with pytest.raises(ExceptionGroup) as caught, gevent.TaskGroup() as group:
        group.spawn(sibling)
        group.spawn(fail, ValueError("first"))
    assert errors_of(caught.value) == ["ValueError('first')", "KeyError('cleanup')"]


def test_failure_of_the_body_cancels_the_tasks_and_is_in_the_group():
    with pytest.raises(ExceptionGroup) as caught, gevent.TaskGroup() as group:
        task = group.spawn(gevent.sleep, LONG)
        gevent.sleep(0)
        raise ValueError("body")
    assert errors_of(caught.value) == ["ValueError('body')"]
    assert isinstance(task.value, gevent.Cancelled)


def test_error_that_is_no_exception_makes_a_base_exception_group():
    class Stop(BaseException):
        pass

    with pytest.raises(BaseExceptionGroup) as caught, gevent.TaskGroup() as group:
        group.spawn(fail, Stop())
    assert not isinstance(caught.value, ExceptionGroup)


def test_except_star_and_traceback():
    try:
        with gevent.TaskGroup() as group:
            group.spawn(fail, ValueError("found"))
    except* ValueError as found:
        (error,) = found.exceptions
        names = []
        traceback = error.__traceback__
        while traceback:
            names.append(traceback.tb_frame.f_code.co_name)
            traceback = traceback.tb_next
        assert names[-1] == "fail"
    else:
        raise AssertionError


def test_task_of_a_cancelled_group_that_has_not_started_never_runs():
    ran = []
    with pytest.raises(ExceptionGroup), gevent.TaskGroup() as group:
        task = group.spawn(ran.append, 1)
        raise ValueError("body")
    assert ran == [] and isinstance(task.value, gevent.Cancelled)


def test_killed_task_is_no_failure():
    with gevent.TaskGroup() as group:
        task = group.spawn(gevent.sleep, LONG)
        other = group.spawn(gevent.sleep, 0)
        gevent.sleep(0)
        task.kill(block=False)
    assert isinstance(task.value, gevent.GreenletExit) and other.successful()


def test_nested_groups():
    steps = []

    def inner():
        with gevent.TaskGroup() as group:
            group.spawn(gevent.sleep, LONG)
            group.spawn(fail, ValueError("inner"))
        steps.append("not reached")

    with pytest.raises(ExceptionGroup) as caught, gevent.TaskGroup() as group:
        group.spawn(inner)
        sibling = group.spawn(gevent.sleep, LONG)
    (nested,) = caught.value.exceptions
    assert isinstance(nested, ExceptionGroup) and errors_of(nested) == ["ValueError('inner')"]
    assert isinstance(sibling.value, gevent.Cancelled) and steps == []


def test_failure_outside_reaches_the_tasks_of_an_inner_group():
    ended = []

    def inner():
        with gevent.TaskGroup() as group:
            task = group.spawn(gevent.sleep, LONG)
            task.rawlink(lambda task: ended.append(type(task.value)))

    with pytest.raises(ExceptionGroup) as caught, gevent.TaskGroup() as group:
        group.spawn(inner)
        gevent.sleep(0)
        gevent.sleep(0)
        raise ValueError("outer body")
    assert errors_of(caught.value) == ["ValueError('outer body')"]
    assert ended == [gevent.Cancelled]


def test_tasks_may_start_tasks_while_the_block_waits():
    order = []

    def second():
        order.append("second")

    def first(group):
        gevent.sleep(0)
        group.spawn(second)
        order.append("first")

    with gevent.TaskGroup() as group:
        group.spawn(first, group)
    assert order == ["first", "second"]


def slow_cleanup(steps):
    try:
        gevent.sleep(LONG)
    finally:
        with gevent.CancelScope(shield=True):
            gevent.sleep(0.002)
        steps.append("task ended")


@pytest.mark.parametrize("waits_in_body", [True, False])
@pytest.mark.parametrize("exception", [None, KeyError("given")])
def test_timeout_from_outside_comes_when_the_tasks_have_ended(waits_in_body, exception):
    steps = []
    timeout = gevent.Timeout(0.002, exception)
    with pytest.raises((gevent.Timeout, KeyError)) as caught, timeout, gevent.TaskGroup() as group:
        group.spawn(slow_cleanup, steps)
        if waits_in_body:
            gevent.sleep(LONG)
    assert caught.value is (exception or timeout)
    assert steps == ["task ended"]


@pytest.mark.parametrize("waits_in_body", [True, False])
@pytest.mark.parametrize("exception", [gevent.GreenletExit, KeyError("given")])
def test_kill_from_outside_comes_when_the_tasks_have_ended(waits_in_body, exception):
    steps = []

    def run():
        with gevent.TaskGroup() as group:
            group.spawn(slow_cleanup, steps)
            if waits_in_body:
                gevent.sleep(LONG)

    greenlet = gevent.spawn(run)
    gevent.sleep(0)
    gevent.sleep(0)
    greenlet.kill(exception)
    assert steps == ["task ended"]
    if isinstance(exception, KeyError):
        assert greenlet.exception is exception
    else:
        assert type(greenlet.value) is gevent.GreenletExit


def test_second_kill_waits_for_the_tasks_too():
    steps = []

    def run():
        with gevent.TaskGroup() as group:
            group.spawn(slow_cleanup, steps)

    greenlet = gevent.spawn(run)
    gevent.sleep(0)
    gevent.sleep(0)
    greenlet.kill(block=False)
    gevent.sleep(0)
    greenlet.kill()
    assert steps == ["task ended"] and greenlet.dead


def test_error_of_a_task_beside_a_kill_is_reported(errors):
    def task():
        try:
            gevent.sleep(LONG)
        finally:
            raise ValueError("in the cleanup")

    def run():
        with gevent.TaskGroup() as group:
            group.spawn(task)

    greenlet = gevent.spawn(run)
    gevent.sleep(0)
    gevent.sleep(0)
    greenlet.kill()
    assert type(greenlet.value) is gevent.GreenletExit
    assert "in the cleanup" in errors.getvalue()


def test_deadline_of_an_outer_scope_ends_the_group():
    with gevent.move_on_after(0.002) as scope, gevent.TaskGroup() as group:
        tasks = [group.spawn(gevent.sleep, LONG) for _ in range(10)]
    assert scope.cancelled_caught and all(isinstance(task.value, gevent.Cancelled) for task in tasks)


def test_errors_of_tasks_go_before_a_cancelled_outer_scope():
    def task():
        try:
            gevent.sleep(LONG)
        finally:
            raise ValueError("cleanup")

    with pytest.raises(ExceptionGroup) as caught, gevent.move_on_after(0.002), gevent.TaskGroup() as group:
        group.spawn(task)
    assert errors_of(caught.value) == ["ValueError('cleanup')"]


def test_group_can_be_cancelled_and_ends_quietly():
    with gevent.TaskGroup() as group:
        task = group.spawn(gevent.sleep, LONG)
        gevent.sleep(0)
        group.cancel()
        gevent.sleep(LONG)
        raise AssertionError
    assert isinstance(task.value, gevent.Cancelled)
    assert group.cancel_scope.cancel_called


def test_shield_of_the_group_protects_body_and_tasks():
    ended = []
    with gevent.CancelScope() as outer:
        with gevent.TaskGroup() as group:
            group.cancel_scope.shield = True
            group.spawn(lambda: (gevent.sleep(0.002), ended.append("task")))
            outer.cancel()
        ended.append("group")
        gevent.sleep(0)
        ended.append("not reached")
    assert ended == ["task", "group"] and outer.cancelled_caught


def test_system_exit_and_keyboard_interrupt_leave_alone():
    for error in [SystemExit(3), KeyboardInterrupt()]:
        with pytest.raises(type(error)) as caught, gevent.TaskGroup() as group:
            group.spawn(fail, error)
            sibling = group.spawn(gevent.sleep, LONG)
        assert caught.value is error and isinstance(sibling.value, gevent.Cancelled)


def test_spawning_where_it_makes_no_sense_is_a_clear_error():
    group = gevent.TaskGroup()
    with pytest.raises(RuntimeError, match="has not been entered"):
        group.spawn(gevent.sleep)
    with group:
        with pytest.raises(TypeError):
            group.spawn("no function")
    with pytest.raises(RuntimeError, match="has ended"):
        group.spawn(gevent.sleep)
    with pytest.raises(RuntimeError, match="one 'with' block"), group:
        pass
    with gevent.TaskGroup() as group:
        group.cancel()
        with pytest.raises(RuntimeError, match="has been cancelled"):
            group.spawn(gevent.sleep)


def test_spawning_from_another_thread_is_a_clear_error():
    refused = []

    def elsewhere():
        try:
            group.spawn(gevent.sleep, LONG)
        except RuntimeError as error:
            refused.append(str(error))

    with gevent.TaskGroup() as group:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert len(refused) == 1 and "takes no task from another thread" in refused[0]


@pytest.mark.parametrize("who", ["body", "task"])
def test_scope_says_whether_the_group_ended_waits(who):
    with gevent.TaskGroup() as group:
        if who == "task":
            group.spawn(gevent.sleep, LONG)
            gevent.sleep(0)
            group.cancel()
        else:
            group.cancel()
            gevent.sleep(LONG)
    assert group.cancel_scope.cancelled_caught

    with gevent.TaskGroup() as group:
        group.cancel()
    assert not group.cancel_scope.cancelled_caught

    # What a scope around it has ended is caught there.
    with gevent.CancelScope() as outer:
        with gevent.TaskGroup() as group:
            if who == "task":
                group.spawn(gevent.sleep, LONG)
            gevent.spawn(outer.cancel)
            if who == "body":
                gevent.sleep(LONG)
    assert outer.cancelled_caught
    assert not group.cancel_scope.cancelled_caught


def test_tasks_run_in_copies_of_the_callers_context():
    variable = contextvars.ContextVar("variable", default="default")

    def task():
        seen = variable.get()
        variable.set("task's own")
        return seen

    def run():
        variable.set("caller's")
        with gevent.TaskGroup() as group:
            seen = group.spawn(task)
        return seen.get(), variable.get()

    assert gevent.spawn(run).get() == ("caller's", "caller's")


def test_wait_for_a_task_in_the_body():
    with gevent.TaskGroup() as group:
        doubled = group.spawn(lambda number: number * 2, 21)
        assert doubled.get() == 42


def test_many_tasks():
    with gevent.TaskGroup() as group:
        tasks = [group.spawn(lambda number=number: (gevent.sleep(0), number)[1]) for number in range(2000)]
    assert sum(task.get() for task in tasks) == sum(range(2000))

    with pytest.raises(ExceptionGroup), gevent.TaskGroup() as group:
        for _ in range(2000):
            group.spawn(gevent.sleep, LONG)
        group.spawn(fail, ValueError())


def test_groups_in_two_threads():
    results = []

    def run():
        with gevent.TaskGroup() as group:
            task = group.spawn(lambda: (gevent.sleep(0.001), "done")[1])
        results.append(task.get())

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["done", "done"]


def test_failed_group_leaves_no_cycle():
    class Marker:
        pass

    def run():
        marker = Marker()
        try:
            with gevent.TaskGroup() as group:
                group.spawn(fail, ValueError())
        except ExceptionGroup:
            pass
        return weakref.ref(group), weakref.ref(marker)

    gc.collect()
    gc.disable()
    try:
        references = gevent.spawn(run).get()
        gevent.sleep(0)
        assert [reference() for reference in references] == [None, None]
    finally:
        gc.enable()


def test_repr_says_the_state():
    group = gevent.TaskGroup()
    assert "has not been entered" in repr(group)
    with group:
        group.spawn(Event().wait)
        assert "tasks=1" in repr(group)
        group.cancel()
    assert "has ended" in repr(group)
