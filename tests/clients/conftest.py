"""The servers of this folder's tests, started once for all of them when the first test asks."""
import contextlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
import servers


def server(start):
    """Make a fixture of the context manager `start`."""

    @pytest.fixture(scope="session", name=start.__name__)
    def fixture():
        # Not pytest's folder: servers that run as a user of their own could not reach it.
        folder = Path(tempfile.mkdtemp(prefix="greenrust-"))
        folder.chmod(0o755)
        try:
            with start(folder) as address:
                yield address
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    return fixture


meeting_point = server(servers.meeting_point)
websocket_server = server(servers.websocket_server)
ssh_server = server(servers.ssh_server)
redis = server(servers.redis)
postgresql = server(servers.postgresql)
mariadb = server(servers.mariadb)
rabbitmq = server(servers.rabbitmq)


def pytest_collection_modifyitems(items):
    """Leave time for the start of a server, which the first test that needs it waits for."""
    for item in items:
        item.add_marker(pytest.mark.timeout(240))


@pytest.fixture
def nginx(tmp_path):
    """Start nginx before the server on a port: a function that returns the address."""
    with contextlib.ExitStack() as stack:
        yield lambda upstream: stack.enter_context(servers.nginx(tmp_path, upstream))


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    """Have clients talk to the loopback interface alone, whatever the machine is set to."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name in [name for name in os.environ if name.startswith("GEVENT")]:
        monkeypatch.delenv(name)
