"""gevent.local.local: values of each greenlet."""
import gc
import weakref

import gevent
import pytest
from gevent.local import local


def test_each_greenlet_sees_its_own_values():
    storage = local()
    storage.value = "main"

    def run(value):
        assert not hasattr(storage, "value")
        storage.value = value
        gevent.sleep(0)
        return storage.value

    jobs = [gevent.spawn(run, number) for number in range(10)]
    assert [job.get() for job in jobs] == list(range(10))
    assert storage.value == "main"


def test_values_can_be_deleted():
    storage = local()
    storage.value = 1
    del storage.value
    with pytest.raises(AttributeError):
        storage.value  # noqa: B018 - the access is the test
    with pytest.raises(AttributeError):
        del storage.value


def test_init_of_a_subclass_runs_for_each_greenlet():
    class Storage(local):
        def __init__(self, start):
            self.values = [start]

    storage = Storage(5)
    storage.values.append("main")
    assert gevent.spawn(lambda: storage.values).get() == [5]
    assert storage.values == [5, "main"]


def test_arguments_without_an_init_are_refused():
    with pytest.raises(TypeError):
        local(1)


def test_dict_is_of_the_greenlet():
    storage = local()
    storage.value = 1
    assert storage.__dict__ == {"value": 1}
    assert gevent.spawn(lambda: dict(storage.__dict__)).get() == {}


def test_slots_are_shared():
    class Storage(local):
        __slots__ = ("shared",)

    storage = Storage()
    storage.shared = 1
    assert gevent.spawn(lambda: storage.shared).get() == 1


def test_properties_and_methods_of_a_subclass():
    class Storage(local):
        number = 2

        @property
        def double(self):
            return self.number * 2

        def method(self):
            return self.number

    storage = Storage()
    storage.number = 5
    assert (storage.double, storage.method()) == (10, 5)
    assert gevent.spawn(lambda: (storage.double, storage.method())).get() == (4, 2)


def test_values_end_with_their_greenlet():
    class Thing:
        pass

    storage, references = local(), []

    def run():
        storage.thing = Thing()
        references.append(weakref.ref(storage.thing))
        gevent.sleep(0)

    gevent.joinall([gevent.spawn(run) for _ in range(5)])
    gevent.sleep(0)
    gc.collect()
    assert [reference() for reference in references] == [None] * 5


def test_values_end_with_the_local():
    class Thing:
        pass

    storage = local()
    storage.thing = Thing()
    reference = weakref.ref(storage.thing)
    del storage
    gc.collect()
    assert reference() is None


def test_missing_attribute_is_named_with_the_class():
    class Mine(local):
        pass

    with pytest.raises(AttributeError, match=r"^'Mine' object has no attribute 'color'$") as caught:
        Mine().color  # noqa: B018
    assert caught.value.name == "color"
    with pytest.raises(AttributeError, match=r"local' object has no attribute 'color'$"):
        local().color  # noqa: B018
