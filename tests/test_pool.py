"""Group and Pool."""
import gevent
import pytest
from gevent.event import Event
from gevent.pool import Group, Pool, PoolFull


def test_group_tracks_its_greenlets():
    group = Group()
    member = group.spawn(gevent.sleep, 0)
    assert member in group and len(group) == 1 and list(group) == [member]
    group.join()
    assert len(group) == 0


def test_group_kill_ends_all():
    group = Group()
    members = [group.spawn(gevent.sleep, 1000) for _ in range(5)]
    gevent.sleep(0)
    group.kill()
    assert all(member.dead for member in members) and len(group) == 0


def test_group_kill_reaches_members_added_while_killing():
    group = Group()

    def run():
        try:
            gevent.sleep(1000)
        finally:
            group.spawn(gevent.sleep, 1000)

    group.spawn(run)
    gevent.sleep(0)
    group.kill()
    assert len(group) == 0


def test_group_join_raises_an_error_when_asked(errors):
    group = Group()
    group.spawn(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        group.join(raise_error=True)


def test_group_killone_discard_and_add():
    group = Group()
    a, b = group.spawn(gevent.sleep, 1000), gevent.spawn(gevent.sleep, 1000)
    group.add(b)
    gevent.sleep(0)
    group.killone(a)
    gevent.sleep(0)
    assert a.dead and list(group) == [b]
    group.discard(b)
    assert len(group) == 0
    b.kill()


@pytest.mark.parametrize("make", [Group, lambda: Pool(2), lambda: Pool(1), Pool])
def test_map_and_its_kin_return_each_result_once(make):
    group = make()

    def double(value):
        gevent.sleep(0.001 * (value % 3))
        return value * 2

    expected = [value * 2 for value in range(10)]
    assert group.map(double, range(10)) == expected
    assert list(group.imap(double, range(10))) == expected
    assert sorted(group.imap_unordered(double, range(10))) == expected
    assert group.map_async(double, range(10)).get() == expected
    assert group.apply(double, (4,)) == 8
    assert group.apply_async(double, (4,)).get() == 8
    group.join()


def test_imap_unordered_gives_results_as_they_come():
    gates = [Event() for _ in range(3)]
    results = Pool(3).imap_unordered(lambda index: gates[index].wait() and index, range(3))
    order = []
    for index in (2, 0, 1):
        gates[index].set()
        order.append(next(results))
    assert order == [2, 0, 1]
    with pytest.raises(StopIteration):
        next(results)


def test_imap_of_several_iterables():
    assert list(Pool(2).imap(lambda a, b: a + b, [1, 2, 3], [10, 20, 30])) == [11, 22, 33]


def test_imap_raises_the_error_of_its_item_in_place(errors):
    results = Pool(2).imap(lambda value: 1 / value, [1, 0, 2])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_imap_with_maxsize_does_not_run_ahead():
    started = []
    results = Pool(10).imap(lambda value: started.append(value) or value, range(10), maxsize=1)
    gevent.sleep(0.01)
    assert len(started) < 10
    assert list(results) == list(range(10))


def test_callbacks_of_apply_and_map():
    results = []
    pool = Pool(2)
    pool.apply_cb(lambda: 1, callback=results.append)
    pool.map_cb(lambda value: value, [1, 2], callback=results.append)
    pool.join()
    gevent.sleep(0)
    gevent.sleep(0)
    assert sorted(results, key=str) == [1, [1, 2]]


def test_map_raises_the_error_of_an_item(errors):
    with pytest.raises(ZeroDivisionError):
        Pool(2).map(lambda value: 1 / value, [1, 0, 2])


def test_pool_never_runs_more_than_its_size():
    pool, running, most = Pool(3), [], []

    def run(number):
        running.append(number)
        most.append(len(running))
        gevent.sleep(0)
        running.remove(number)

    pool.map(run, range(20))
    assert max(most) == 3


def test_tasks_start_when_a_place_is_free():
    order = []
    gates = [Event() for _ in range(3)]

    def run(number):
        order.append(("start", number))
        gates[number].wait()
        order.append(("end", number))

    mapping = gevent.spawn(Pool(2).map, run, range(3))
    # It takes several rounds of the loop, and a busy machine may need longer for them than a sleep.
    while len(order) < 2:
        gevent.sleep(0.001)
    gevent.sleep(0.001)
    assert order == [("start", 0), ("start", 1)]
    gates[0].set()
    while len(order) < 4:
        gevent.sleep(0.001)
    assert order[2:] == [("end", 0), ("start", 2)]
    gates[1].set()
    gates[2].set()
    mapping.get(timeout=1)


def test_full_pool_refuses_without_block_and_after_the_timeout():
    pool = Pool(1)
    holder = pool.spawn(gevent.sleep, 1000)
    assert pool.full() and pool.free_count() == 0
    for options in ({"blocking": False}, {"timeout": 0.001}):
        with pytest.raises(PoolFull):
            pool.add(gevent.Greenlet(int), **options)
    holder.kill()
    gevent.sleep(0)
    assert pool.free_count() == 1


def test_pool_of_own_greenlet_class():
    class Job(gevent.Greenlet):
        pass

    pool = Pool(2, greenlet_class=Job)
    job = pool.spawn(int)
    assert isinstance(job, Job)
    pool.join()


@pytest.mark.parametrize("size", [-1, "x"])
def test_pool_size_must_be_a_count(size):
    with pytest.raises((ValueError, TypeError)):
        Pool(size)


def test_failing_and_killed_members_free_their_places(errors):
    pool = Pool(2)
    pool.spawn(lambda: 1 / 0)
    killed = pool.spawn(gevent.sleep, 1000)
    gevent.sleep(0)
    killed.kill()
    pool.join()
    assert pool.free_count() == 2


def test_kill_while_members_end_by_themselves():
    pool = Pool(2)
    mapping = pool.map_async(gevent.sleep, [0.001] * 6)
    gevent.sleep(0.001)
    with gevent.Timeout(5):
        pool.kill()
        mapping.join()


def test_results_that_wait_for_the_reader_of_imap_are_its_queue():
    pool = Pool(2)
    mapping = pool.imap_unordered(abs, [-1, -2, -3], maxsize=1)
    gevent.sleep(0.001)
    assert len(mapping.queue) <= 2
    assert sorted(mapping) == [1, 2, 3]
