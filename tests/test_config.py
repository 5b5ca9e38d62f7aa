"""The settings: `gevent.config` and the environment variables."""
import gevent
import pytest
from implementation import run_script


def from_environment(variable, value, name):
    """Return repr(gevent.config.<name>) in a process with an environment variable."""
    return run_script(f"import gevent; print(repr(gevent.config.{name}))", env={variable: value}).stdout.strip()


def test_unknown_setting_is_an_attribute_error():
    with pytest.raises(AttributeError):
        gevent.config.no_such_setting  # noqa: B018
    with pytest.raises(AttributeError):
        gevent.config.set("no_such_setting", 1)


def test_settings_are_listed():
    assert {"resolver", "threadpool", "loop", "fileobject", "max_blocking_time", "track_greenlet_tree"} <= set(
        dir(gevent.config)
    )


@pytest.mark.parametrize(("value", "expected"), [("1", "True"), ("on", "True"), ("No", "False"), ("", "False")])
def test_boolean_variable(value, expected):
    assert from_environment("GEVENT_TRACK_GREENLET_TREE", value, "track_greenlet_tree") == expected


def test_wrong_boolean_is_refused():
    with pytest.raises(ValueError, match="boolean"):
        gevent.config.settings["track_greenlet_tree"].validate("perhaps")


def test_byte_count_has_units():
    assert from_environment("GEVENT_MONITOR_MEMORY_MAX", "3mb", "max_memory_usage") == str(3 << 20)


def test_importable_setting_takes_the_first_that_can_be_imported():
    assert "block" in from_environment("GEVENT_RESOLVER", "no.such.module,block", "resolver")


def test_importable_setting_takes_a_class():
    run_script("""
        import gevent
        class Resolver:
            def __init__(self, hub=None):
                pass
            def close(self):
                pass
        gevent.config.resolver = Resolver
        assert type(gevent.get_hub().resolver) is Resolver
    """)


def test_name_that_cannot_be_imported_is_refused():
    with pytest.raises(ImportError):
        gevent.config.resolver = "no.such.module"


def test_file_object_is_chosen_by_the_environment():
    run_script(
        "from gevent import fileobject; assert fileobject.FileObject is fileobject.FileObjectThread",
        env={"GEVENT_FILE": "thread"},
    )


def test_nothing_is_negative():
    with pytest.raises(ValueError, match="positive"):
        gevent.config.max_blocking_time = -1
