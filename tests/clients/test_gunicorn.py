"""gunicorn's workers that are built on gevent: loaded anew, replaced and ended while clients ask."""
import http.client
import os
import signal
import ssl
import sys
import threading
from pathlib import Path

import pytest
import services
from services import until
from web_clients import Load, UnixConnection, fetch

APPLICATION = """
import os, time
from pathlib import Path

def application(environ, start_response):
    here = Path(__file__).parent
    if environ["PATH_INFO"] == "/slow":
        (here / "entered").touch()
        while not (here / "go").exists():
            time.sleep(0.01)
    length = len(environ["wsgi.input"].read())
    body = f"VERSION {os.getpid()} {length} {environ['wsgi.url_scheme']}".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


class Gunicorn:
    """gunicorn with workers of a class and an application in a folder of its own, until the block is left.

    It listens on a port, by TLS with a `certificate`, or at a Unix socket in the folder.
    """

    def __init__(self, folder, worker, *arguments, certificate=None, is_unix=False):
        self.folder = folder
        self.write("one")
        self.port = None if is_unix else services.free_port()
        self.context = None
        if certificate:
            self.context = ssl.create_default_context(cafile=certificate["certfile"])
            arguments += ("--certfile", certificate["certfile"], "--keyfile", certificate["keyfile"])
        self.log = folder / "log"
        address = f"unix:{folder}/socket" if is_unix else f"127.0.0.1:{self.port}"
        command = [
            sys.executable, "-m", "gunicorn", "-k", worker, "-b", address, "--log-file", str(self.log),
            "--worker-tmp-dir", str(folder), "--no-control-socket", *arguments, "its_app:application",
        ]
        environment = dict(os.environ, PYTHONDONTWRITEBYTECODE="1")
        self._running = services.start(
            command, self._answers, patience=40, end_within=40, cwd=folder, env=environment
        )

    def write(self, version):
        (self.folder / "its_app.py").write_text(APPLICATION.replace("VERSION", version), encoding="utf-8")

    def connect(self):
        """Return a connection, not yet open, of `http.client`."""
        if self.port is None:
            return UnixConnection(str(self.folder / "socket"))
        if self.context:
            return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=40, context=self.context)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=40)

    def _answers(self):
        connection = self.connect()
        try:
            connection.request("GET", "/", headers={"Connection": "close"})
            return connection.getresponse().status == 200
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        finally:
            connection.close()

    def workers(self):
        """Return the process ids of the workers there are."""
        pid = self.process.pid
        return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}

    def __enter__(self):
        self.process = self._running.__enter__()
        return self

    def __exit__(self, *exc_info):
        self._running.__exit__(*exc_info)
        text = self.log.read_text(encoding="utf-8")
        assert self.process.returncode == 0, text
        assert "Traceback" not in text and "[ERROR]" not in text and "[CRITICAL]" not in text, text


@pytest.mark.parametrize("worker", ["gevent", "gevent_pywsgi"])
def test_reload_under_load_fails_no_request(worker, tmp_path):
    with Gunicorn(tmp_path, worker, "-w", "2") as gunicorn, Load(gunicorn.connect) as load:

        def two_workers(version):
            """Return the workers of a version that have answered, when there are two: one that boots misses signals."""
            found = {int(pid) for answered, pid, *_ in load.answers if answered == version}
            return found if len(found) == 2 else None

        former = until(lambda: two_workers("one"), "workers")
        for version in ("two", "three"):
            gunicorn.write(version)
            gunicorn.process.send_signal(signal.SIGHUP)
            new = until(lambda: two_workers(version), f"workers of version {version}")
            until(lambda: gunicorn.workers() == new, "end of the former workers")
            assert not former & new
            former = new
    assert load.failures == []
    assert {length for _, _, length, _ in load.answers} == {"5000"}


@pytest.mark.parametrize("worker", ["gevent", "gevent_pywsgi"])
@pytest.mark.parametrize("place", ["TLS", "Unix socket"])
def test_reload_under_load_fails_no_request_there_either(worker, place, tmp_path, certificate):
    """The application is loaded once, by the master: workers are new all the same. Each request is logged."""
    where = {"certificate": certificate} if place == "TLS" else {"is_unix": True}
    access = tmp_path / "access"
    with Gunicorn(tmp_path, worker, "-w", "2", "--preload", "--access-logfile", str(access), **where) as gunicorn:
        with Load(gunicorn.connect) as load:

            def workers_but(others):
                found = {int(pid) for _, pid, *_ in load.answers} - others
                return found if len(found) == 2 else None

            former = until(lambda: workers_but(set()), "workers")
            gunicorn.process.send_signal(signal.SIGHUP)
            new = until(lambda: workers_but(former), "new workers")
            until(lambda: gunicorn.workers() == new, "end of the former workers")
        lines = until(lambda: (text := access.read_text()).count("\n") > len(load.answers) and text.splitlines(), "log")
    assert load.failures == []
    assert {tuple(words[2:]) for words in load.answers} == {("5000", "https" if place == "TLS" else "http")}
    assert sum("\"POST / HTTP/1.1\" 200 " in line for line in lines) == len(load.answers)


def test_old_name_of_the_worker(tmp_path):
    with Gunicorn(tmp_path, "gevent_wsgi") as gunicorn:
        status, body = fetch(gunicorn.port, "/", "POST", b"word")
        assert status == 200 and body.split()[2:] == [b"4", b"http"]


@pytest.mark.parametrize("worker", ["gevent", "gevent_pywsgi"])
def test_requests_in_flight_are_answered_when_it_ends(worker, tmp_path):
    answers = []
    with Gunicorn(tmp_path, worker) as gunicorn:
        client = threading.Thread(target=lambda: answers.append(fetch(gunicorn.port, "/slow", "POST", b"word")))
        client.start()
        until((tmp_path / "entered").exists, "request in the application")
        gunicorn.process.send_signal(signal.SIGTERM)

        def is_refused():
            try:
                fetch(gunicorn.port)
            except OSError:
                return True
            return False

        until(is_refused, "refusal of new connections")
        assert answers == []
        (tmp_path / "go").touch()
        client.join()
        assert gunicorn.process.wait(40) == 0
    [(status, body)] = answers
    assert status == 200 and body.split()[2] == b"4", answers


def test_workers_are_replaced_after_so_many_requests_and_none_fails(tmp_path):   # gevent_pywsgi's don't count them
    # A worker that boots when gunicorn ends misses the signal, and is waited for in vain.
    arguments = ["-w", "2", "--max-requests", "20", "--graceful-timeout", "5"]
    with Gunicorn(tmp_path, "gevent", *arguments) as gunicorn, Load(gunicorn.connect) as load:
        until(lambda: len({pid for _, pid, *_ in load.answers}) >= 4, "four workers one after the other")
    assert load.failures == []


def test_connections_beyond_the_limit_of_a_worker_wait(tmp_path):
    """`--worker-connections` bounds the pool; the others are accepted when there is room again."""
    with Gunicorn(tmp_path, "gevent_pywsgi", "--worker-connections", "2") as gunicorn:
        answers = []
        clients = [
            threading.Thread(target=lambda: answers.append(fetch(gunicorn.port, "/slow")[0])) for _ in range(5)
        ]
        for client in clients:
            client.start()
        until((tmp_path / "entered").exists, "request in the application")
        (tmp_path / "go").touch()
        for client in clients:
            client.join()
        assert answers == [200] * 5
