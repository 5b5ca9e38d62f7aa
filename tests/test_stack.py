"""Stacks: recursion of every kind inside a greenlet, deep C code, the guard, and small or refused stacks."""
import shutil
import signal
import subprocess

import pytest
from implementation import run_script

# Each kind recurses until CPython itself refuses, in a process of its own.
RECURSIONS = {
    "python": """
        def recurse():
            return recurse()
    """,
    "sorted with key": """
        def key(value):
            return sorted([1], key=key)
        def recurse():
            return key(1)
    """,
    "sorted by __lt__": """
        class Thing:
            def __lt__(self, other):
                return sorted([Thing(), Thing()])
        def recurse():
            return sorted([Thing(), Thing()])
    """,
    "deep repr": """
        nested = []
        for _ in range(200000):
            nested = [nested]
        def recurse():
            return repr(nested)
    """,
    "json": """
        import json
        def recurse():
            return json.loads("[" * 200000)
    """,
    "json dump": """
        import json
        nested = []
        for _ in range(100000):
            nested = [nested]
        def recurse():
            return json.dumps(nested)
    """,
    "getattr": """
        class Thing:
            def __getattr__(self, name):
                return getattr(self, name + "x" if len(name) < 10 else name)
        def recurse():
            return Thing().attribute
    """,
    "map and sum": """
        def recurse(value=0):
            return sum(map(recurse, [1]))
    """,
    "comparison": """
        class Thing:
            def __eq__(self, other):
                return [self] == [Thing()]
            __hash__ = None
        def recurse():
            return Thing() == Thing()
    """,
    "generators": """
        def recurse():
            yield from recurse()
        recurse = (lambda start: lambda: list(start()))(recurse)
    """,
    "exec": """
        def recurse():
            exec("recurse()", globals())
    """,
}


@pytest.mark.parametrize("kind", RECURSIONS)
@pytest.mark.parametrize("where", ["raw", "spawned"])
def test_recursion_in_a_greenlet_ends_in_recursion_error(kind, where):
    import textwrap

    completed = run_script(
        textwrap.dedent(RECURSIONS[kind])
        + textwrap.dedent("""
        import sys, gevent
        order = []

        def run():
            try:
                recurse()
            except RecursionError:
                order.append("refused")
            return gevent.getcurrent()

        def neighbour():
            text = "unharmed"
            gevent.sleep(0)
            order.append(text)

        others = [gevent.spawn(neighbour) for _ in range(3)]
        gevent.sleep(0)
        if sys.argv[1] == "raw":
            lowlevel.greenlet(run).switch()
        else:
            gevent.spawn(run).get()
        gevent.joinall(others)
        # And once more, on a stack that was used before.
        gevent.spawn(run).get()
        print(sorted(order))
        """),
        where,
    )
    assert completed.stdout.strip() == str(sorted(["refused"] * 2 + ["unharmed"] * 3))


def test_compile_of_nested_source_ends_in_an_error_not_a_crash():
    run_script("""
        import gevent
        def run():
            for source in ("(" * 5000 + ")" * 5000, "-" * 100000 + "1", "a" + ".b" * 50000, "[" * 5000):
                try:
                    compile(source, "nested", "eval")
                except (RecursionError, MemoryError, SyntaxError):
                    pass
        gevent.spawn(run).get()
    """)


def test_ordinary_depth_is_not_refused():
    run_script("""
        import gevent, sys
        def depth(n):
            return n and 1 + depth(n - 1)
        assert gevent.spawn(depth, 900).get() == 900
        sys.setrecursionlimit(20000)
        assert gevent.spawn(depth, 15000).get() == 15000
    """)


def test_recursion_depth_is_counted_for_each_greenlet():
    run_script("""
        import gevent
        def dive(n):
            if n:
                return dive(n - 1)
            gevent.sleep(0)
            return "deep"
        # Together far deeper than the limit of 1000.
        jobs = [gevent.spawn(dive, 700) for _ in range(20)]
        assert [job.get() for job in jobs] == ["deep"] * 20
    """)


def test_recursion_error_in_one_greenlet_leaves_the_others_their_depth():
    run_script("""
        import gevent
        def endless():
            return endless()
        def depth(n):
            return n and 1 + depth(n - 1)
        def run():
            for _ in range(5):
                try:
                    endless()
                except RecursionError:
                    gevent.sleep(0)
            return depth(800)
        jobs = [gevent.spawn(run) for _ in range(4)]
        assert [job.get() for job in jobs] == [800] * 4
    """)


def test_long_linked_list_is_freed_in_a_greenlet():
    run_script("""
        import gevent
        class Node:
            def __init__(self, tail):
                self.tail = tail
        def run():
            node = None
            for _ in range(200000):
                node = Node(node)
            gevent.sleep(0)
            del node
            nested = ()
            for _ in range(200000):
                nested = (nested,)
            del nested
            return "freed"
        assert [job.get() for job in [gevent.spawn(run), gevent.spawn(run)]] == ["freed"] * 2
    """)


def test_numpy_computes_in_a_greenlet():
    run_script("""
        import gevent, numpy
        def run(size):
            matrix = numpy.random.default_rng(size).normal(size=(size, size)) + size * numpy.eye(size)
            inverse = numpy.linalg.inv(matrix)
            gevent.sleep(0)
            solved = numpy.linalg.solve(matrix, numpy.eye(size))
            values = numpy.sort(numpy.linalg.svd(matrix, compute_uv=False))
            assert numpy.allclose(matrix @ inverse, numpy.eye(size)) and numpy.allclose(solved, inverse)
            return len(values)
        sizes = [5, 50, 200, 300, 5, 100]
        assert [job.get() for job in [gevent.spawn(run, size) for size in sizes]] == sizes
    """)


def test_regular_expressions_decimals_and_sqlite_in_a_greenlet():
    run_script("""
        import decimal, marshal, pickle, re, sqlite3, gevent
        def run():
            assert re.match("(a|b)*c", "ab" * 20000 + "c")
            with decimal.localcontext() as context:
                context.prec = 2000
                value = decimal.Decimal(2).sqrt()
                gevent.sleep(0)
                assert context.prec == 2000 and len(str(value)) > 1900
            nested = []
            for _ in range(300):
                nested = [nested]
            assert marshal.loads(marshal.dumps(nested)) == pickle.loads(pickle.dumps(nested)) == nested
            with sqlite3.connect(":memory:") as connection:
                expression = "+".join(["1"] * 900)
                assert connection.execute(f"select {expression}").fetchone() == (900,)
            connection.close()
        gevent.joinall([gevent.spawn(run) for _ in range(3)], raise_error=True)
    """)


@pytest.fixture(scope="session")
def deep_c_library(tmp_path_factory):
    """Compile a C function that recurses without asking CPython; give the path of the library."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler, "a C compiler is needed, as for building the project"
    folder = tmp_path_factory.mktemp("deep")
    source = folder / "deep.c"
    source.write_text(
        "int deep(int n) {\n"
        "    volatile char frame[4096];\n"
        "    for (int i = 0; i < 4096; i += 512) frame[i] = (char)n;\n"
        "    return n == 0 ? frame[0] : deep(n - 1) + frame[512];\n"
        "}\n"
    )
    library = folder / "deep.so"
    subprocess.run([compiler, "-O0", "-shared", "-fPIC", "-o", library, source], check=True)
    return library


@pytest.mark.ours_only("the real gevent has no stack of its own for a greenlet, and no guard")
@pytest.mark.parametrize("where", ["main thread", "other thread"])
def test_stack_overflow_dies_at_the_guard_and_names_the_greenlet(deep_c_library, where):
    completed = run_script(
        """
        import ctypes, faulthandler, threading, gevent
        faulthandler.disable()
        library = ctypes.CDLL(sys.argv[1])

        def main():
            def overflow():
                library.deep(1 << 20)
            g = gevent.spawn(overflow)
            g.name = "the-deep-one"
            g.join()

        if sys.argv[2] == "main thread":
            main()
        else:
            thread = threading.Thread(target=main)
            thread.start()
            thread.join()
        print("survived")
        """,
        deep_c_library, where, check=False,
    )
    assert completed.returncode < 0, "the process must die by a signal"
    assert "survived" not in completed.stdout
    assert "stack overflow" in completed.stderr
    assert "the-deep-one" in completed.stderr


def test_c_code_may_use_a_megabyte_of_stack(deep_c_library):
    run_script(
        """
        import ctypes, gevent
        library = ctypes.CDLL(sys.argv[1])
        def run():
            library.deep(250)
            gevent.sleep(0)
            library.deep(250)
        gevent.joinall([gevent.spawn(run) for _ in range(10)], raise_error=True)
        """,
        deep_c_library,
    )


CHAINS = {
    "parents": "g = lowlevel.greenlet(int, v)",
    "results of results": "g = AsyncResult(); g.set(v)",
    "links to results": "g = AsyncResult(); g.rawlink(v or int)",
    "greenlets that return greenlets": "g = gevent.spawn(lambda v: v, v); g.join()",
    "queues in queues": "g = Queue(); g.put(v)",
    "simple queues in simple queues": "g = SimpleQueue(); g.put(v)",
    "a bit of all": "b = AsyncResult(); b.set(gevent.spawn(lambda v: v, v)); b.value.join()\n"
                    "            g = Queue(); g.put(b); b = None",
}


@pytest.mark.ours_only("the real gevent crashes at some")
@pytest.mark.parametrize("kind", CHAINS)
def test_long_chain_of_objects_is_freed(kind):
    # To make a greenlet, its parents are looked through for a circle.
    count = 20_000 if kind == "parents" else 100_000
    completed = run_script(f"""
        import gc, gevent, weakref
        from gevent.event import AsyncResult
        from gevent.queue import Queue, SimpleQueue
        v = None
        freed = []
        for number in range({count}):
            {CHAINS[kind]}
            if number % ({count} // 10) == 0:
                freed.append(weakref.ref(g))
            v = g
        assert all(ref() is not None for ref in freed)
        g = q = v = None
        gc.collect()
        print([ref() for ref in freed])
    """)
    assert completed.stdout == f"{[None] * 10}\n"


@pytest.mark.ours_only("the real gevent crashes")
@pytest.mark.parametrize("how", ["switch('value')", "throw(KeyError('value'))"])
def test_outcome_goes_up_a_long_chain_of_parents(how):
    completed = run_script(f"""
        g = lowlevel.getcurrent()
        for _ in range(20_000):
            g = lowlevel.greenlet(lambda value: value, g)
        try:
            print(g.{how})
        except KeyError as error:
            print(error.args[0])
    """)
    assert completed.stdout == "value\n"


@pytest.mark.ours_only("the real gevent has no such setting")
@pytest.mark.parametrize("size", [1 << 20, 4 << 20, 16 << 20])
def test_stack_size_is_set_by_the_environment(size):
    run_script(
        """
        import gevent
        assert gevent.config.stack_size == int(sys.argv[1])
        def endless():
            return endless()
        def run():
            try:
                endless()
            except RecursionError:
                return "refused"
        assert [job.get() for job in [gevent.spawn(run) for _ in range(3)]] == ["refused"] * 3
        """,
        size, env={"GEVENT_STACK_SIZE": str(size)},
    )


@pytest.mark.ours_only("the real gevent has no such setting")
@pytest.mark.parametrize("kind", ["sorted by __lt__", "deep repr", "comparison"])
def test_small_stacks_refuse_c_recursion_in_time(kind):
    import sys
    import textwrap

    # CPython 3.11 has one counter for both kinds of recursion, which cannot be scaled: 2.5 MiB are the least there.
    size = 3 << 20 if sys.version_info < (3, 12) else 1 << 20
    completed = run_script(
        textwrap.dedent(RECURSIONS[kind])
        + textwrap.dedent("""
        import gevent
        def run():
            try:
                recurse()
            except RecursionError:
                return "refused"
        print(gevent.spawn(run).get())
        """),
        env={"GEVENT_STACK_SIZE": str(size)},
    )
    assert completed.stdout.strip() == "refused"


@pytest.mark.ours_only("the real gevent has no such setting")
@pytest.mark.parametrize("value", ["0", "-1", "text", "4096"])
def test_senseless_stack_size_is_refused_with_its_name(value):
    completed = run_script(
        "import gevent; gevent.spawn(int).get()", env={"GEVENT_STACK_SIZE": value}, check=False
    )
    assert completed.returncode != 0
    assert "stack_size" in completed.stderr.lower()


@pytest.mark.ours_only("the real gevent reserves no address space for stacks")
def test_limited_address_space_shrinks_or_caps_with_an_error_that_names_the_limit():
    completed = run_script("""
        import resource, gevent
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        limit = used + (512 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        started = []
        for _ in range(20000):
            g = gevent.spawn(gevent.sleep, 1000)
            gevent.sleep(0)
            if g.ready():
                assert isinstance(g.exception, MemoryError), g.exception
                assert "RLIMIT_AS" in str(g.exception), g.exception
                break
            started.append(g)
        assert len(started) >= 20, len(started)
        gevent.killall(started)
        assert gevent.spawn(lambda: 5).get() == 5
        print(len(started))
    """)
    assert int(completed.stdout) >= 20


@pytest.mark.ours_only("the real gevent reserves no address space for stacks")
def test_stacks_larger_than_shrunk_ones_serve_again():
    completed = run_script("""
        import resource, gevent
        with open("/proc/self/statm") as file:
            limit = int(file.read().split()[0]) * resource.getpagesize() + (100 << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        gevent.get_hub().exception_stream = None

        def how_many():
            started = []
            while True:
                g = gevent.spawn(gevent.sleep, 1000)
                gevent.sleep(0)
                if g.ready():
                    assert isinstance(g.exception, MemoryError), g.exception
                    break
                started.append(g)
            gevent.killall(started)
            return len(started)

        first = how_many()
        print(first > 5, [how_many() >= first for _ in range(3)])
    """)
    assert completed.stdout == "True [True, True, True]\n"
    assert "stacks shrink" in completed.stderr


@pytest.mark.ours_only("the real gevent reserves no address space for stacks")
def test_hub_that_no_stack_is_left_for_is_refused_by_memory_error():
    completed = run_script("""
        import resource, gevent
        with open("/proc/self/statm") as file:
            limit = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        for _ in range(2):
            try:
                gevent.sleep(0)
            except MemoryError as error:
                print("RLIMIT_AS" in str(error))
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        gevent.sleep(0)
        print(gevent.spawn(int).get())
    """)
    assert completed.stdout.split() == ["True", "True", "0"]


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT])
def test_fatal_signal_that_a_process_sends_ends_this_one(number):
    completed = run_script("""
        import os, resource, gevent
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        gevent.spawn(os.kill, os.getpid(), int(sys.argv[1])).join()
        print("alive")
    """, int(number), check=False)
    assert (completed.returncode, completed.stdout) == (-number, "")


@pytest.mark.ours_only("takes PyPI's greenlet minutes")
def test_hundred_thousand_greenlets_sleep_at_once():
    run_script("""
        import gevent
        from gevent.event import Event
        gate = Event()
        jobs = [gevent.spawn(gate.wait) for _ in range(100_000)]
        gevent.sleep(0)
        gate.set()
        gevent.joinall(jobs)
        assert all(job.value for job in jobs)
    """)
