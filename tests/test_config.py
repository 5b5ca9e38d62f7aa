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


@pytest.mark.parametrize("variable, value, error", [
    ("GEVENT_BACKEND", "nope", "ValueError: Invalid backend or flag: 'nope'"),
    ("GEVENT_BACKEND", "epoll,nope", "ValueError: Invalid backend or flag: 'nope'"),
    ("GEVENT_LOOP", "nope", "ImportError: Cannot import 'nope'"),
    ("GEVENT_LOOP", "", "ImportError: Cannot import ''"),
])
def test_unknown_loop_or_poller_is_refused_when_the_hub_is_made(variable, value, error):
    script = """
import gevent
for _ in range(2):
    try:
        gevent.get_hub()
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
"""
    lines = run_script(script, env={variable: value}).stdout.splitlines()
    assert sum(line.startswith(error) for line in lines) == 2, lines


@pytest.mark.parametrize("value, names", [("select,poll", ["select", "poll"]), ("epoll", ["epoll"]), ("", [""])])
def test_pollers_are_named_by_a_list(value, names):
    script = "import gevent; print(gevent.config.libev_backend, gevent.get_hub().backend)"
    assert run_script(script, env={"GEVENT_BACKEND": value}).stdout.strip() == f"{names} {names}"
