"""What every test shares: the choice of the implementation, and the checks that a test leaves nothing behind."""
import gc
import io
import os
import signal
import subprocess

import gevent
import pytest
from gevent.pywsgi import WSGIServer
from implementation import IS_GREENRUST, NAME, lowlevel


def pytest_addoption(parser):
    parser.addoption(
        "--implementation", choices=("gevent", "greenrust"),
        help="fail unless this is the gevent that is installed",
    )


def pytest_report_header(config):
    return f"implementation: {NAME} {gevent.__version__} ({os.path.dirname(gevent.__file__)})"


def pytest_configure(config):
    # A shell that starts us in the background has SIGINT ignored, which child processes would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    expected = config.getoption("--implementation")
    if expected and expected != NAME:
        raise pytest.UsageError(f"expected {expected}, but {NAME} is installed: {gevent.__file__}")


def pytest_collection_modifyitems(config, items):
    """On the real gevent, leave out what holds for greenrust alone; each such mark gives its reason."""
    for item in items:
        for mark in item.iter_markers():
            if mark.name in ("ours_only", "leaves_suspended") and not mark.args:
                raise pytest.UsageError(f"{item.nodeid}: the mark {mark.name} needs a reason")
    if not IS_GREENRUST:
        left_out = [item for item in items if item.get_closest_marker("ours_only")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("ours_only")]


def open_descriptors():
    """Return {descriptor: what it refers to} of this process."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:   # the descriptor of the listing itself
            continue
    return found


def root_of(g):
    """Return the last ancestor of the greenlet `g`: the root of the thread that it belongs to."""
    while g.parent is not None:
        g = g.parent
    return g


def suspended_greenlets():
    """Return the greenlets of this thread that run or are suspended, but for the hub and the root."""
    here = root_of(lowlevel.getcurrent())
    return [
        thing for thing in gc.get_objects()
        if isinstance(thing, lowlevel.greenlet)
        and thing and not thing.dead and not isinstance(thing, gevent.hub.Hub)
        and thing.parent is not None and root_of(thing) is here
    ]


def what_is_left(known, before, may_suspend):
    """Return the suspended greenlets and the open descriptors that are not among `known` and `before`."""
    gc.collect()
    greenlets = [] if may_suspend else [g for g in suspended_greenlets() if id(g) not in known]
    return greenlets, {fd: what for fd, what in open_descriptors().items() if fd not in before}


@pytest.fixture(scope="session", autouse=True)
def warm():
    """Let the descriptors that a hub keeps open exist before anything is counted."""
    hub = gevent.get_hub()
    gevent.sleep(0.001)
    hub.threadpool.apply(int)
    # pytest and all modules of tests are loaded. Each test looks through the objects that the collector knows, and has
    # them collected: that took more time than the tests did.
    gc.collect()
    gc.freeze()
    return hub


@pytest.fixture(autouse=True)
def nothing_left_behind(warm, request):
    """Fail the test that leaves descriptors open or greenlets suspended."""
    before = open_descriptors()
    known = {id(g) for g in suspended_greenlets()}
    yield
    may_suspend = request.node.get_closest_marker("leaves_suspended") is not None
    # A server notices only after a moment that its client has gone.
    for pause in (0, 0.001, 0.01, 0.1, 1):
        if not any(what_is_left(known, before, may_suspend)):
            return
        gevent.sleep(pause)
    greenlets, descriptors = what_is_left(known, before, may_suspend)
    assert not greenlets, f"suspended greenlets left behind: {greenlets}"
    assert not descriptors, f"descriptors left open: {descriptors}"


@pytest.fixture
def errors(monkeypatch):
    """Collect what the hub prints: a file object with getvalue()."""
    stream = io.StringIO()
    monkeypatch.setattr(gevent.get_hub(), "exception_stream", stream, raising=False)
    return stream


@pytest.fixture
def serve():
    """Return a function that starts a WSGIServer on a free port; all are stopped at the end.

    It takes the application, WSGIServer's options, and `websocket_options`, the attribute of that name. Nothing is
    logged, and errors go to `server.error_log`, a file object with getvalue(), unless the options say otherwise.
    """
    servers = []

    def start(application, *, websocket_options=None, **options):
        options.setdefault("log", None)
        options.setdefault("error_log", io.StringIO())
        server = WSGIServer(("127.0.0.1", 0), application, **options)
        if websocket_options is not None:
            server.websocket_options = websocket_options
        server.start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop(timeout=1)


@pytest.fixture(scope="session")
def make_certificate(tmp_path_factory):
    """Return a function that makes a certificate of localhost and 127.0.0.1, and its key.

    It returns their paths, as servers' arguments.
    """
    def make():
        folder = tmp_path_factory.mktemp("certificate")
        key, certificate = folder / "key.pem", folder / "certificate.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost",
             "-keyout", key, "-out", certificate],
            check=True, capture_output=True,
        )
        return {"keyfile": str(key), "certfile": str(certificate)}

    return make


@pytest.fixture(scope="session")
def certificate(make_certificate):
    """Return the paths of a certificate of localhost and 127.0.0.1, and of its key, as servers' arguments."""
    return make_certificate()
