"""asyncio in greenlets and greenlets in asyncio: `gevent.aio`."""
import asyncio
import contextvars
import gc
import os
import re
import signal
import sys
import textwrap
import threading
import traceback
import warnings
import weakref

import gevent
import gevent.socket
import pytest
from gevent.event import AsyncResult, Event
from implementation import IS_GREENRUST, run_script

if IS_GREENRUST:
    from gevent import aio

pytestmark = pytest.mark.ours_only("gevent does not speak to asyncio")

LONG = 60
variable = contextvars.ContextVar("variable", default="default")


def when_started(function):
    """Start a greenlet that runs the coroutine function with an Event; return it once the Event is set."""
    started = Event()
    g = gevent.spawn(lambda: aio.run(function(started)))
    assert started.wait(LONG)
    return g


# -- run: coroutines in greenlets -------------------------------------------------------------------------------------


def test_run_returns_the_result_or_raises_the_error():
    async def add(a, b):
        await asyncio.sleep(0)
        return a + b

    async def fail():
        await asyncio.sleep(0)
        raise LookupError("no such page")

    assert aio.run(add(1, 2)) == 3
    with pytest.raises(LookupError, match="no such page") as caught:
        aio.run(fail())
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "fail"


def test_other_greenlets_run_while_one_awaits():
    go = Event()
    order = []

    async def main():
        order.append("awaits")
        await aio.wait(gevent.spawn(go.wait))
        order.append("goes on")

    def other():
        order.append("other")
        go.set()

    gevent.spawn(other)
    aio.run(main())
    assert sorted(order[:2]) == ["awaits", "other"]
    assert order[2:] == ["goes on"]


@pytest.mark.parametrize("blocking", [False, True])
def test_loops_of_several_greenlets_do_not_see_each_other(blocking):
    """A coroutine may even block its greenlet: who runs meanwhile sees no loop, or its own."""
    meeting = [Event() for _ in range(5)]

    async def main(number):
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        hooks = sys.get_asyncgen_hooks()
        meeting[number].set()
        for event in meeting:
            if blocking:
                event.wait()
            else:
                await aio.to_greenlet(event.wait)
        assert asyncio.get_running_loop() is loop
        assert asyncio.current_task() is task
        assert sys.get_asyncgen_hooks() == hooks
        return loop

    greenlets = [gevent.spawn(lambda number=number: aio.run(main(number))) for number in range(5)]
    for event in meeting:
        event.wait()
        assert asyncio._get_running_loop() is None
        assert sys.get_asyncgen_hooks() == (None, None)
    gevent.joinall(greenlets, raise_error=True)
    assert len({id(g.value) for g in greenlets}) == 5
    assert sys.get_asyncgen_hooks() == (None, None)


@pytest.mark.parametrize("wait", ["turn", "timer", "socket"])
def test_loop_that_always_has_work_does_not_keep_others_waiting(wait):
    done = []

    def other():
        if wait == "timer":
            gevent.sleep(0.001)
        elif wait == "socket":
            here, there = gevent.socket.socketpair()
            with here, there:
                gevent.spawn(there.send, b"x")
                here.recv(1)
        else:
            gevent.sleep(0)
        done.append(True)

    async def main():
        while not done:
            await asyncio.sleep(0)

    g = gevent.spawn(other)
    aio.run(main())
    g.join()


def test_loop_that_always_has_work_can_be_killed():
    async def main(started):
        started.set()
        while True:
            await asyncio.sleep(0)

    g = when_started(main)
    g.kill()
    assert isinstance(g.value, gevent.GreenletExit)


def test_run_in_a_coroutine_is_refused():
    async def inner():
        pass

    async def main():
        with pytest.raises(RuntimeError, match="cannot be called from a running event loop"):
            aio.run(inner())
        # But a greenlet of its own is another place.
        return await aio.to_greenlet(lambda: aio.run(aio.to_greenlet(int)))

    assert aio.run(main()) == 0


@pytest.mark.parametrize("thing", [None, 5, len, asyncio.sleep])
def test_run_takes_what_can_be_awaited_only(thing):
    with pytest.raises(TypeError, match="takes a coroutine, not"):
        aio.run(thing)


def test_run_takes_any_awaitable():
    class Thing:
        def __await__(self):
            yield from asyncio.sleep(0).__await__()
            return "awaited"

    assert aio.run(Thing()) == "awaited"


def test_context_of_the_caller_is_copied():
    async def main():
        assert variable.get() == "outer"
        variable.set("inner")
        await asyncio.sleep(0)
        return await aio.to_greenlet(variable.get)

    token = variable.set("outer")
    try:
        assert aio.run(main()) == "inner"
        assert variable.get() == "outer"
    finally:
        variable.reset(token)


def test_debug_and_loop_factory():
    class Loop(aio.EventLoop):
        pass

    async def main():
        return asyncio.get_running_loop()

    loop = aio.run(main(), debug=True, loop_factory=Loop)
    assert type(loop) is Loop
    assert loop.get_debug()
    assert loop.is_closed()


def test_tasks_that_are_left_are_cancelled_and_generators_closed():
    ended, kept = [], []

    async def numbers():
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            ended.append("generator")

    async def work():
        try:
            await asyncio.sleep(LONG)
        finally:
            await asyncio.sleep(0)
            ended.append("task")

    async def main():
        kept.append(asyncio.create_task(work()))
        generator = numbers()
        await anext(generator)
        return generator

    assert aio.run(main()) is not None
    assert ended == ["task", "generator"]


# -- what is thrown into a greenlet that runs a coroutine -------------------------------------------------------------


@pytest.fixture
def cleanup():
    """A coroutine function that waits, and takes its time to clean up."""
    class Cleanup:
        started = may_end = ended = None

        def __init__(self):
            self.started, self.may_end, self.ended = Event(), Event(), False

        async def __call__(self, when_started=int):
            try:
                self.started.set()
                when_started()
                await asyncio.sleep(LONG)
            finally:
                await aio.to_greenlet(self.may_end.wait)
                self.ended = True

    return Cleanup()


def test_kill_cancels_the_coroutine_and_waits_for_its_cleanup(cleanup):
    g = gevent.spawn(lambda: aio.run(cleanup()))
    cleanup.started.wait()
    g.kill(block=False)
    gevent.sleep(0)
    g.kill(block=False)     # a second one waits, too
    for _ in range(20):
        gevent.sleep(0)
    assert not g.dead
    cleanup.may_end.set()
    g.join()
    assert cleanup.ended
    assert isinstance(g.value, gevent.GreenletExit)


def test_timeout_cancels_the_coroutine_and_waits_for_its_cleanup(cleanup):
    gevent.spawn(lambda: (cleanup.started.wait(), cleanup.may_end.set()))
    timeout = gevent.Timeout(0.001)
    with pytest.raises(gevent.Timeout) as caught:
        aio.run(cleanup(timeout.start))
    assert caught.value is timeout
    assert cleanup.ended


def test_cancelled_scope_cancels_the_coroutine_and_waits_for_its_cleanup(cleanup):
    with gevent.CancelScope() as scope:
        def cancel():
            cleanup.started.wait()
            scope.cancel()
            gevent.sleep(0)
            cleanup.may_end.set()

        gevent.spawn(cancel)
        aio.run(cleanup())
        pytest.fail("unreachable")
    assert scope.cancelled_caught
    assert cleanup.ended


def test_failing_cleanup_is_reported(cleanup):
    reported = []

    async def main(started):
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))
        try:
            started.set()
            await asyncio.sleep(LONG)
        finally:
            raise LookupError("in cleanup")

    g = when_started(main)
    g.kill()
    assert isinstance(g.value, gevent.GreenletExit)
    assert [repr(context["exception"]) for context in reported] == ["LookupError('in cleanup')"]


def test_kill_before_the_start_does_not_run_anything():
    async def main():
        pytest.fail("unreachable")

    coroutine = main()
    g = gevent.spawn(aio.run, coroutine)
    g.kill()
    coroutine.close()
    assert isinstance(g.value, gevent.GreenletExit)


def test_scope_of_greenlets_is_not_held_across_an_await():
    async def main():
        with gevent.CancelScope() as scope:
            scope.cancel()
            # It ends waits of its greenlet, but this one is the loop's.
            await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="was held across an await of asyncio"):
        aio.run(main())
    with gevent.move_on_after(0):
        gevent.sleep(LONG)


def test_cancelled_coroutine_raises_cancelled_error():
    async def main():
        asyncio.current_task().cancel()
        await asyncio.sleep(LONG)

    with pytest.raises(asyncio.CancelledError):
        aio.run(main())


@pytest.mark.parametrize("patch", [False, True])
def test_sigint_in_the_main_greenlet_cancels_the_coroutine(patch):
    completed = run_script(f"""
        if {patch}:
            from gevent import monkey
            monkey.patch_all()
        import asyncio, os, signal
        from gevent import aio

        async def main():
            asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGINT)
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                await asyncio.sleep(0)
                print("cleaned up")
                raise

        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            aio.run(main())
        except KeyboardInterrupt:
            print("interrupted", signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    """)
    assert completed.stdout == "cleaned up\ninterrupted True\n"
    assert completed.stderr == ""


# -- wait, as_future, to_greenlet: greenlets in coroutines ------------------------------------------------------------


def test_wait_gives_the_value_of_a_greenlet_and_of_a_result():
    async def main():
        result = AsyncResult()
        gevent.spawn(result.set, "result")
        ended = gevent.spawn(lambda: "ended before")
        ended.join()
        return await asyncio.gather(
            aio.wait(gevent.spawn(lambda: "value")), aio.as_future(result), aio.wait(ended), aio.wait(result))

    assert aio.run(main()) == ["value", "result", "ended before", "result"]


def fail():
    raise LookupError("no such page")


@pytest.mark.parametrize("how", ["greenlet", "result", "to_greenlet"])
def test_errors_arrive_with_their_traceback(how, errors):
    async def main():
        if how == "greenlet":
            await aio.wait(gevent.spawn(fail))
        elif how == "to_greenlet":
            await aio.to_greenlet(fail)
        else:
            result = AsyncResult()
            gevent.spawn(fail).link(result)
            await aio.wait(result)

    with pytest.raises(LookupError, match="no such page") as caught:
        aio.run(main())
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "fail"
    # The hub reports what nobody may see, but not what was given to the caller.
    assert ("LookupError" in errors.getvalue()) == (how != "to_greenlet")


def test_stop_iteration_becomes_a_runtime_error():
    async def main():
        await aio.to_greenlet(next, iter(()))

    with pytest.raises(RuntimeError, match="StopIteration") as caught:
        aio.run(main())
    assert isinstance(caught.value.__cause__, StopIteration)


def test_cancelled_await_kills_the_greenlet_and_waits_for_it():
    ended = []

    def work(started):
        try:
            started.set()
            gevent.sleep(LONG)
        finally:
            gevent.sleep(0)
            ended.append("greenlet")

    async def main():
        started = Event()
        task = asyncio.create_task(aio.to_greenlet(work, started))
        await aio.to_greenlet(started.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        ended.append("task")
        started.clear()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as timeout:
                g = gevent.spawn(work, started)
                await aio.to_greenlet(started.wait)
                timeout.reschedule(asyncio.get_running_loop().time())
                await aio.wait(g)
        ended.append("timeout")

    aio.run(main())
    assert ended == ["greenlet", "task", "greenlet", "timeout"]


def test_greenlet_that_ends_by_a_value_though_it_was_cancelled_gives_it():
    def stubborn(started):
        try:
            started.set()
            gevent.sleep(LONG)
        except gevent.GreenletExit:
            return "a value"

    async def main():
        started = Event()
        future = aio.as_future(gevent.spawn(stubborn, started))
        await aio.to_greenlet(started.wait)
        assert future.cancel()
        assert await future == "a value"
        assert not future.cancel()

    aio.run(main())


def test_killed_greenlet_cancels_who_awaits_it():
    async def main():
        g = gevent.spawn(gevent.sleep, LONG)
        gevent.spawn(g.kill)
        await aio.wait(g)

    with pytest.raises(asyncio.CancelledError):
        aio.run(main())


def test_result_is_left_as_it_is_by_a_cancelled_await():
    async def main():
        result = AsyncResult()
        future = aio.as_future(result)
        future.cancel()
        assert future.cancelled()
        result.set("value")
        assert await aio.wait(result) == "value"
        assert result.linkcount() == 0

    aio.run(main())


def test_shield_and_gather_and_task_group():
    async def main():
        ended = Event()
        g = gevent.spawn(ended.wait)
        outer = asyncio.shield(aio.as_future(g))
        outer.cancel()
        await asyncio.sleep(0)
        assert not g.dead
        ended.set()
        await aio.wait(g)

        stuck = gevent.spawn(gevent.sleep, LONG)
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(aio.wait(stuck))
                group.create_task(aio.to_greenlet(fail))
        assert [repr(error) for error in caught.value.exceptions] == ["LookupError('no such page')"]
        assert stuck.dead

    aio.run(main())


def test_greenlets_of_another_thread_can_be_awaited():
    started, box = threading.Event(), []

    def thread():
        g = gevent.spawn(lambda: gevent.sleep(0.001) or "value")
        other = gevent.spawn(gevent.sleep, LONG)
        box.extend([g, other])
        started.set()
        gevent.joinall(box[:2])
        gevent.wait()     # until the links are called

    worker = threading.Thread(target=thread)
    worker.start()
    started.wait()

    async def main():
        assert await aio.wait(box[0]) == "value"
        future = aio.as_future(box[1])
        future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future

    aio.run(main())
    worker.join()


def test_awaiting_makes_no_sense_without_a_loop_or_of_other_things():
    with pytest.raises(RuntimeError, match="no running event loop"):
        aio.as_future(AsyncResult())

    async def main():
        for thing in (None, 5, object()):
            with pytest.raises(TypeError, match="a Greenlet or an AsyncResult is needed, not"):
                aio.as_future(thing)

    aio.run(main())


def test_works_in_a_loop_of_asyncios_own():
    """A greenlet's thread can even run a loop that blocks it, if the greenlets are those of another thread."""
    box, started = [], threading.Event()

    def thread():
        box.append(gevent.spawn(lambda: gevent.sleep(0.001) or "value"))
        started.set()
        box[0].join()
        gevent.wait()     # until the links are called

    worker = threading.Thread(target=thread)
    worker.start()
    started.wait()
    assert asyncio.run(aio.wait(box[0])) == "value"
    worker.join()
    # The thread has ended with its hub.
    assert asyncio.run(aio.wait(box[0])) == "value"


# -- run_coroutine: a loop that runs elsewhere ------------------------------------------------------------------------


class Background:
    """A loop that runs in a greenlet of its own, or in a thread, until the block ends."""

    def __init__(self, where):
        self.where = where

    def __enter__(self):
        started = threading.Event() if self.where == "thread" else Event()

        def serve():
            self.loop = aio.EventLoop()
            self.loop.call_soon(started.set)
            self.loop.run_forever()
            self.loop.close()

        if self.where == "thread":
            self.server = threading.Thread(target=serve)
            self.server.start()
        else:
            self.server = gevent.spawn(serve)
        started.wait()
        return self.loop

    def __exit__(self, *error):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.server.join()


@pytest.mark.parametrize("where", ["greenlet", "thread"])
def test_run_coroutine_waits_for_a_loop_elsewhere(where):
    async def double(number):
        await asyncio.sleep(0)
        assert variable.get() == "mine"
        if number == 7:
            raise LookupError(number)
        return 2 * number, asyncio.get_running_loop()

    with Background(where) as loop:
        token = variable.set("mine")
        assert aio.run_coroutine(double(2), loop) == (4, loop)
        with pytest.raises(LookupError, match="7"):
            aio.run_coroutine(double(7), loop)
        variable.reset(token)

        async def wait(started):
            try:
                started.set()
                await asyncio.sleep(LONG)
            finally:
                ended.append(True)

        ended, started = [], Event()
        g = gevent.spawn(aio.run_coroutine, wait(started), loop)
        started.wait()
        g.kill()
        assert ended == [True]

        async def inside():
            aio.run_coroutine(double(1), loop)

        with pytest.raises(RuntimeError, match="would wait for the loop that calls it"):
            aio.run_coroutine(inside(), loop)
    with pytest.raises(RuntimeError, match="closed"):
        aio.run_coroutine(double(1), loop)


# -- the loop ---------------------------------------------------------------------------------------------------------


def test_loop_is_used_as_any_other():
    loop = aio.new_event_loop()
    try:
        assert isinstance(loop, asyncio.SelectorEventLoop)
        assert loop.run_until_complete(asyncio.sleep(0, "value")) == "value"
        with asyncio.Runner(loop_factory=aio.EventLoop) as runner:
            assert runner.run(asyncio.sleep(0, "value")) == "value"
    finally:
        loop.close()


def test_policy_makes_such_loops():
    completed = run_script("""
        import asyncio, warnings
        from gevent import aio

        async def main():
            return type(asyncio.get_running_loop())

        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(aio.EventLoopPolicy())
        assert asyncio.run(main()) is aio.EventLoop
    """)
    assert completed.stderr == ""


def test_other_greenlets_of_the_thread_may_call_the_loop():
    async def main(started):
        future = asyncio.get_running_loop().create_future()
        started.set()
        futures.append(future)
        return await future

    futures = []
    g = when_started(main)
    while not futures:
        gevent.sleep(0)
    gevent.sleep(0.001)
    futures[0].set_result("value")
    assert g.get() == "value"

    loop = aio.EventLoop()
    g = gevent.spawn(loop.run_forever)
    gevent.sleep(0.001)
    loop.call_later(0, loop.stop)
    g.join()
    g = gevent.spawn(loop.run_forever)
    gevent.sleep(0.001)
    loop.stop()
    g.join()
    loop.close()


def test_debug_mode_tells_threads_apart_not_greenlets():
    problems = []

    async def main():
        loop = asyncio.get_running_loop()

        def elsewhere():
            try:
                loop.call_soon(int)
            except RuntimeError as error:
                problems.append(str(error))

        await loop.run_in_executor(None, elsewhere)
        await aio.to_greenlet(loop.call_soon, int)

    aio.run(main(), debug=True)
    assert len(problems) == 1 and "Non-thread-safe operation" in problems[0]


def test_interrupted_loop_can_be_run_anew():
    loop = aio.EventLoop()
    future = loop.create_future()
    task = loop.create_task(asyncio.wait_for(future, LONG))
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.001):
        loop.run_until_complete(task)
    assert not loop.is_running()
    assert not task.done()
    future.set_result("value")
    assert loop.run_until_complete(task) == "value"
    loop.close()


def test_calls_in_threads():
    async def main():
        loop = asyncio.get_running_loop()
        here = threading.get_ident()
        assert await loop.run_in_executor(None, threading.get_ident) != here
        assert await asyncio.to_thread(variable.get) == "default"
        with pytest.raises(LookupError):
            await loop.run_in_executor(None, fail)

        future = loop.create_future()

        def answer():
            loop.call_soon_threadsafe(future.set_result, "from a thread")

        await loop.run_in_executor(None, answer)
        assert await future == "from a thread"

        async def nothing():
            return "ran in the loop"

        def ask():
            return asyncio.run_coroutine_threadsafe(nothing(), loop).result(LONG)

        assert await asyncio.to_thread(ask) == "ran in the loop"
        # More than there are threads; those that are cancelled before their turn never run.
        go = threading.Event()
        ran = []
        waiting = [loop.run_in_executor(None, lambda: go.wait(LONG) and ran.append(True)) for _ in range(40)]
        waiting[-1].cancel()
        go.set()
        await asyncio.wait(waiting[:-1])
        assert len(ran) == 39
        await loop.shutdown_default_executor()
        with pytest.raises(RuntimeError, match="shutdown"):
            loop.run_in_executor(None, int)

    aio.run(main())


def test_executor_of_the_program_is_used():
    from concurrent.futures import ThreadPoolExecutor

    async def main():
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, thread_name_prefix="mine") as executor:
            assert (await loop.run_in_executor(executor, threading.current_thread)).name.startswith("mine")
        loop.set_default_executor(ThreadPoolExecutor(1, thread_name_prefix="default"))
        assert (await asyncio.to_thread(threading.current_thread)).name.startswith("default")

    aio.run(main())


def test_signal_handlers():
    async def main():
        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()
        loop.add_signal_handler(signal.SIGUSR1, arrived.set)
        os.kill(os.getpid(), signal.SIGUSR1)
        await arrived.wait()
        assert loop.remove_signal_handler(signal.SIGUSR1)
        assert not loop.remove_signal_handler(signal.SIGUSR1)
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
        with pytest.raises(ValueError, match="invalid signal number 1000"):
            loop.add_signal_handler(1000, arrived.set)
        with pytest.raises(RuntimeError, match="cannot be caught"):
            loop.add_signal_handler(signal.SIGKILL, arrived.set)
        with pytest.raises(TypeError):
            loop.add_signal_handler(signal.SIGUSR1, main)
        with pytest.raises(RuntimeError):
            await asyncio.to_thread(loop.add_signal_handler, signal.SIGUSR1, arrived.set)
        # What is left is removed with the loop.
        loop.add_signal_handler(signal.SIGUSR1, arrived.set)

    aio.run(main())
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL
    assert signal.set_wakeup_fd(-1) == -1


def test_kills_of_loops_leave_no_reference():
    async def main(started):
        started.set()
        await asyncio.sleep(LONG)

    loops = []

    class Loop(aio.EventLoop):
        def __init__(self):
            super().__init__()
            loops.append(weakref.ref(self))

    started = Event()
    g = gevent.spawn(lambda: aio.run(main(started), loop_factory=Loop))
    started.wait()
    g.kill()
    del g
    gc.collect()
    assert loops[0]() is None


def test_unclosed_loop_warns():
    loop = aio.EventLoop()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        del loop
        gc.collect()
    assert any(issubclass(warning.category, ResourceWarning) for warning in seen)


# -- sockets, TLS, subprocesses; patched and not ----------------------------------------------------------------------


PROGRAMS = {
    "streams": """
        async def serve(reader, writer):
            while line := await reader.readline():
                writer.write(line.upper())
                await writer.drain()
            writer.close()

        async def talk(port, text):
            reader, writer = await asyncio.open_connection("localhost", port, ssl=client_context)
            writer.write(text.encode() + b"\\n")
            answer = await reader.readline()
            writer.close()
            await writer.wait_closed()
            return answer.decode().strip()

        async def main():
            server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context)
            async with server:
                port = server.sockets[0].getsockname()[1]
                print(await asyncio.gather(*(talk(port, f"line {number}") for number in range(3))))
                # A greenlet, through gevent's own sockets.
                print(await aio.to_greenlet(green_client, port))

        def green_client(port):
            sock = gevent.socket.create_connection(("127.0.0.1", port))
            if client_context:
                sock = gevent.ssl.create_default_context(cafile=certificate).wrap_socket(
                    sock, server_hostname="localhost")
            sock.sendall(b"green\\n")
            answer = sock.makefile().readline().strip()
            sock.close()
            return answer

        # prints: ['LINE 0', 'LINE 1', 'LINE 2']
        # prints: GREEN
    """,
    "big": """
        SIZE = 8 << 20

        class Server(asyncio.Protocol):
            def connection_made(self, transport):
                transport.write(b"x" * SIZE)
                transport.close()

        async def main():
            loop = asyncio.get_running_loop()
            server = await loop.create_server(Server, "127.0.0.1", 0, ssl=server_context)
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", server.sockets[0].getsockname()[1], ssl=client_context)
            print(len(await reader.read()) == SIZE)
            writer.close()
            server.close()
            await server.wait_closed()

        # prints: True
    """,
    "subprocess": """
        async def main():
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", "import sys; print(sys.stdin.read()[::-1]); sys.exit(3)",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
            out, _ = await process.communicate(b"x" * 200_000 + b"y")
            print(out[:2], len(out), process.returncode)
            process = await asyncio.create_subprocess_shell("exec sleep 60")
            process.terminate()
            print(await process.wait())
            # Beside gevent's own.
            own = gevent.subprocess.Popen(["true"])
            process = await asyncio.create_subprocess_exec("false")
            print(await process.wait(), await aio.to_greenlet(own.wait))

        # prints: b'yx' 200002 3
        # prints: -15
        # prints: 1 0
    """,
    "datagrams": """
        class Echo(asyncio.DatagramProtocol):
            def connection_made(self, transport):
                self.transport = transport

            def datagram_received(self, data, address):
                self.transport.sendto(data.upper(), address)

        class Ask(asyncio.DatagramProtocol):
            def __init__(self, answer):
                self.answer = answer

            def connection_made(self, transport):
                transport.sendto(b"hello")

            def datagram_received(self, data, address):
                self.answer.set_result(data)

        async def main():
            loop = asyncio.get_running_loop()
            server, _ = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
            answer = loop.create_future()
            client, _ = await loop.create_datagram_endpoint(
                lambda: Ask(answer), remote_addr=server.get_extra_info("sockname"))
            print(await answer)
            client.close()
            server.close()

        # prints: b'HELLO'
    """,
    "threads": """
        import threading

        async def main():
            loop = asyncio.get_running_loop()
            future = loop.create_future()
            await asyncio.to_thread(loop.call_soon_threadsafe, future.set_result, "from a thread")
            print(await future)

            async def add(a, b):
                return a + b

            print(await asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(add(1, 2), loop).result(60)))
            print(await aio.to_greenlet(aio.run_coroutine, add(3, 4), loop))

        # prints: from a thread
        # prints: 3
        # prints: 7
    """,
}


@pytest.mark.parametrize("patch", [False, True], ids=["plain", "patched"])
@pytest.mark.parametrize("name, tls", [
    ("streams", False), ("streams", True), ("big", False), ("big", True), ("subprocess", False), ("datagrams", False),
    ("threads", False),
])
def test_program(name, tls, patch, certificate):
    head = f"""
        if {patch}:
            from gevent import monkey
            monkey.patch_all()
        import asyncio
        import ssl
        import gevent, gevent.socket, gevent.ssl, gevent.subprocess
        from gevent import aio
        certificate, key = sys.argv[1:]
        server_context = client_context = None
        if {tls}:
            server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            server_context.load_cert_chain(certificate, key)
            client_context = ssl.create_default_context(cafile=certificate)
    """
    source = PROGRAMS[name]
    expected = re.findall(r"# prints: (.*)$", source, re.MULTILINE)
    source += """
        ticks = 0
        def tick():
            global ticks
            while True:
                ticks += 1
                gevent.sleep(0.001)

        gevent.spawn(tick)
        aio.run(main())
        assert ticks
        # And in two greenlets at the same time, without a word.
        print = lambda *words: None
        gevent.joinall([gevent.spawn(lambda: aio.run(main())) for _ in range(2)], raise_error=True)
    """
    completed = run_script("\n".join(map(textwrap.dedent, (head, source))), certificate["certfile"],
                           certificate["keyfile"], flags=("-W", "always::ResourceWarning"))
    assert completed.stdout.splitlines() == expected
    assert completed.stderr == ""


# -- libraries --------------------------------------------------------------------------------------------------------

LIBRARIES = """
    if {patch}:
        from gevent import monkey
        monkey.patch_all()
    import asyncio
    import ssl
    import aiohttp, httpx
    from aiohttp import web
    import gevent
    from gevent import aio
    from gevent.event import Event

    certificate, key = sys.argv[1:]
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_context.load_cert_chain(certificate, key)
    client_context = ssl.create_default_context(cafile=certificate)

    async def answer(request):
        body = await request.text()
        # A handler waits for a greenlet.
        return web.json_response(await aio.to_greenlet(dict, path=request.path, body=body))

    async def chat(request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data.upper())
        return socket

    ports, ready, stop = [], Event(), Event()

    def serve():
        async def main():
            application = web.Application()
            application.router.add_get("/chat", chat)
            application.router.add_route("*", "/{{tail:.*}}", answer)
            runner = web.AppRunner(application)
            await runner.setup()
            for context in (None, server_context):
                site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
                await site.start()
                ports.append(site._server.sockets[0].getsockname()[1])
            ready.set()
            await aio.to_greenlet(stop.wait)
            await runner.cleanup()
        aio.run(main())

    server = gevent.spawn(serve)
    assert ready.wait(30)

    def with_httpx(number):
        async def main():
            async with httpx.AsyncClient(verify=client_context) as client:
                answers = await asyncio.gather(*(
                    client.post(f"{{url}}/page/{{n}}", content=f"body {{number}}") for n in range(5)
                    for url in (f"http://localhost:{{ports[0]}}", f"https://localhost:{{ports[1]}}")))
                return [answer.json() for answer in answers]
        return aio.run(main())

    def with_aiohttp(number):
        async def main():
            async with aiohttp.ClientSession() as session:
                async def get(url, n):
                    async with session.post(f"{{url}}/page/{{n}}", data=f"body {{number}}",
                                            ssl=client_context) as answer:
                        return await answer.json()
                found = await asyncio.gather(*(
                    get(url, n) for n in range(5)
                    for url in (f"http://localhost:{{ports[0]}}", f"https://localhost:{{ports[1]}}")))
                async with session.ws_connect(f"http://localhost:{{ports[0]}}/chat") as socket:
                    await socket.send_str("hello")
                    assert await socket.receive_str() == "HELLO"
                return found
        return aio.run(main())

    for function in (with_httpx, with_aiohttp):
        greenlets = [gevent.spawn(function, number) for number in range(4)]
        gevent.joinall(greenlets, raise_error=True)
        for number, g in enumerate(greenlets):
            assert g.value == [{{"path": f"/page/{{n}}", "body": f"body {{number}}"}} for n in range(5) for _ in "12"]
    stop.set()
    server.get()
    print("ended")
"""


@pytest.mark.parametrize("patch", [False, True], ids=["plain", "patched"])
def test_httpx_and_aiohttp(patch, certificate):
    pytest.importorskip("aiohttp")
    pytest.importorskip("httpx")
    completed = run_script(LIBRARIES.format(patch=patch), certificate["certfile"], certificate["keyfile"])
    assert completed.stdout == "ended\n"
    assert completed.stderr == ""
