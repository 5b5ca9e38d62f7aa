"""`python -m gevent.pywsgi`: processes that share a port, are replaced, loaded anew and drained."""
import concurrent.futures
import contextlib
import inspect
import itertools
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from implementation import run_script
from services import free_port, until

pytestmark = pytest.mark.ours_only("the real gevent's command has one process and two arguments")

APPLICATION = """
import os, time
from pathlib import Path
import gevent

HERE = Path(__file__).parent
VERSION = {version!r}

def application(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        (HERE / "entered").touch()
        while not (HERE / "go").exists():
            time.sleep(0.01)
    if environ["PATH_INFO"] == "/parked":
        (HERE / "entered").touch()
        while not (HERE / "go").exists():
            gevent.sleep(0.01)
    if environ["PATH_INFO"] == "/exit":
        raise SystemExit(3)
    if "wsgi.websocket" in environ:
        for message in environ["wsgi.websocket"]:
            environ["wsgi.websocket"].send(f"{{VERSION}} {{message}}")
        return []
    environ["wsgi.input"].read()
    start_response("200 OK", [])
    return [f"{{VERSION}} {{os.getpid()}} {{environ['wsgi.multiprocess']}}".encode()]

(HERE / f"loaded-{{os.getpid()}}").touch()
"""


class Command:
    """The command, on a free port, with an application in a folder of its own."""

    def __init__(self, folder, *arguments, version="one", **popen):
        self.folder = folder
        self.write(version)
        self.port = free_port()
        self.context = None
        if any(argument.startswith("--certfile") for argument in arguments):
            self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self.context.check_hostname = False
            self.context.verify_mode = ssl.CERT_NONE
        self.output = folder / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gevent.pywsgi", "its_app:application", "-b", f"127.0.0.1:{self.port}",
                 "--log", "off", *arguments],
                cwd=folder, stdin=subprocess.DEVNULL,
                **{"stdout": output, "stderr": output, "env": dict(os.environ, PYTHONDONTWRITEBYTECODE="1"), **popen},
            )

    def write(self, version):
        (self.folder / "its_app.py").write_text(APPLICATION.format(version=version))

    def workers(self):
        pid = self.process.pid
        try:
            return {int(pid) for pid in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
        except FileNotFoundError:
            return set()

    def two_workers(self):
        """Return the workers when there are two that have loaded the application."""
        def loaded():
            found = self.workers()
            return found if len(found) == 2 and all((self.folder / f"loaded-{pid}").exists() for pid in found) else None

        return until(loaded, "two workers")

    def connect(self):
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        return self.context.wrap_socket(sock) if self.context else sock

    def get(self, path="/"):
        """Return the words of the answer's body."""
        with self.connect() as sock:
            return self.ask(sock, path)

    def ask(self, sock, path="/"):
        """Return the words of the answer's body, the last one of the connection."""
        with sock.makefile("rb") as file:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n".encode())
            head, _, body = file.read().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        return body.decode().split()

    def ready(self):
        def answers():
            assert self.process.poll() is None, self.output.read_text()
            try:
                return self.get()
            except ConnectionRefusedError:
                return None

        until(answers, "answer")
        until(lambda: "workers ready" in self.output.read_text(), "ready workers")
        return self

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        workers = self.workers()
        self.process.kill()
        self.process.wait()
        until(lambda: not any(map(is_alive, workers)), "end of the workers")


def is_alive(pid):
    try:
        # A zombie whose parent is gone is somebody else's to bury.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_workers_share_the_port_and_are_replaced_when_they_die(tmp_path):
    with Command(tmp_path, "-w", "2").ready() as command:
        workers = command.two_workers()
        version, pid, multiprocess = command.get()
        assert (version, multiprocess) == ("one", "True")
        assert int(pid) in workers
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        until(lambda: not command.workers() & workers, "end of the old workers")
        assert not command.two_workers() & workers
        assert int(command.get()[1]) not in workers
        assert "was killed by signal 9" in command.output.read_text()


@pytest.mark.parametrize("is_tls", [False, True])
def test_hangup_loads_the_application_anew_without_a_failed_request(tmp_path, certificate, is_tls):
    arguments = [f"--{name}={path}" for name, path in certificate.items()] if is_tls else []
    with contextlib.ExitStack() as stack:
        command = stack.enter_context(Command(tmp_path, "-w", "2", *arguments).ready())
        versions, failures, enough = [], [], threading.Event()

        def ask():
            while not enough.is_set():
                try:
                    versions.append(command.get()[0])
                except Exception as error:
                    failures.append(error)
                    return

        clients = [threading.Thread(target=ask) for _ in range(3)]
        for client in clients:
            client.start()
        try:
            until(lambda: len(versions) > 10, "answers")
            # They have been accepted (over TLS their handshakes are made), and ask when the old workers drain.
            early = [stack.enter_context(command.connect()) for _ in range(6)]
            workers = command.two_workers()
            command.write("two")
            command.process.send_signal(signal.SIGHUP)
            until(lambda: failures or versions[-20:].count("two") == 20, "new version")
            time.sleep(0.3)
            for sock in early:
                versions.append(command.ask(sock)[0])
            until(lambda: not command.workers() & workers, "end of the old workers")
        finally:
            enough.set()
            for client in clients:
                client.join()
        assert not failures
        assert versions[0] == "one"


def test_hangup_with_a_broken_application_keeps_the_old_one(tmp_path):
    with Command(tmp_path, "-w", "2").ready() as command:
        workers = command.two_workers()
        (tmp_path / "its_app.py").write_text("raise RuntimeError('broken')")
        command.process.send_signal(signal.SIGHUP)
        until(lambda: "the old ones stay" in command.output.read_text(), "word of it")
        until(lambda: command.workers() == workers, "end of the new workers")
        assert command.get()[0] == "one"
        command.write("three")
        command.process.send_signal(signal.SIGHUP)
        until(lambda: command.get()[0] == "three", "repaired version")


def full_device(stack):
    return {"stderr": stack.enter_context(Path("/dev/full").open("wb"))}


def pipe_without_reader(stack):
    reader, writer = os.pipe()
    os.close(reader)
    stack.callback(os.close, writer)
    return {"stderr": writer}


def nothing_at_all(stack):
    return {"preexec_fn": lambda: os.close(2)}


@pytest.mark.parametrize("log", [full_device, pipe_without_reader, nothing_at_all])
def test_log_that_takes_nothing_ends_neither_workers_nor_their_parent(tmp_path, log):
    with contextlib.ExitStack() as stack:
        command = stack.enter_context(Command(tmp_path, "-w", "2", "--log", "combined", **log(stack)))

        def version():
            assert command.process.poll() is None
            try:
                return command.get()[0]
            except OSError:
                return None

        until(lambda: version() == "one", "answer")
        killed = command.two_workers().pop()
        os.kill(killed, signal.SIGKILL)
        until(lambda: killed not in command.workers(), "end of the killed worker")
        workers = command.two_workers()
        command.write("two")
        command.process.send_signal(signal.SIGHUP)
        until(lambda: not command.workers() & workers, "end of the old workers")
        until(lambda: version() == "two", "new version")
        command.process.send_signal(signal.SIGTERM)
        assert command.process.wait(30) == 0


def test_exit_in_one_request_leaves_others_their_answers(tmp_path):
    with Command(tmp_path).ready() as command, command.connect() as slow:
        slow.sendall(b"GET /parked HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        until((tmp_path / "entered").exists, "request in work")
        with command.connect() as leaving, leaving.makefile("rb") as file:
            leaving.sendall(b"GET /exit HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
            assert file.read().startswith(b"HTTP/1.1 500 ")
        (tmp_path / "go").touch()
        with slow.makefile("rb") as file:
            assert file.read().startswith(b"HTTP/1.1 200 ")
        until(lambda: "exited with 3" in command.output.read_text(), "word of it")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_drains(tmp_path, number):
    with Command(tmp_path).ready() as command, command.connect() as idle, command.connect() as slow:
        idle.sendall(b"GET / HTTP/1.1\r\nHost: t\r\n\r\n")
        assert idle.recv(1000).startswith(b"HTTP/1.1 200 ")
        slow.sendall(b"GET /slow HTTP/1.1\r\nHost: t\r\n\r\n")
        until((tmp_path / "entered").exists, "request in work")
        command.process.send_signal(number)
        assert idle.recv(1000) == b""
        until(lambda: connection_is_refused(command), "end of accepting")
        (tmp_path / "go").touch()
        with slow.makefile("rb") as file:
            answer = file.read()
        assert answer.startswith(b"HTTP/1.1 200 ") and b"\r\nConnection: close\r\n" in answer
        assert command.process.wait(30) == 0


def connection_is_refused(command):
    try:
        command.connect().close()
    except ConnectionRefusedError:
        return True
    return False


def test_workers_end_with_their_parent(tmp_path):
    with Command(tmp_path, "-w", "2").ready() as command:
        workers = command.two_workers()
        command.process.kill()
        until(lambda: not any(map(is_alive, workers)), "end of the workers")


@pytest.mark.parametrize(("application", "message", "has_traceback"), [
    ("no_such_module:application", r"no module 'no_such_module' in /.*'no_such_module:application'", False),
    ("package.web:application", r"no module 'package.web' in /", False),
    ("shop:app", r"'shop' \(.*/shop.py\) has no 'app'; callables that it has: application, other\n", False),
    ("shop:factory.nothing", r"has no 'factory.nothing'", False),
    ("shop:number", r"'shop:number' is not callable: 7\n", False),
    ("needy:application", r"No module named 'no_such_module'", True),
    ("broken:application", r"RuntimeError: broken", True),
])
def test_application_that_does_not_start_ends_the_command(tmp_path, application, message, has_traceback):
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    (tmp_path / "shop.py").write_text("def application(): pass\n\nother = application\nnumber = 7\nfactory = None\n")
    (tmp_path / "needy.py").write_text("import no_such_module\n")
    (tmp_path / "broken.py").write_text("raise RuntimeError('broken')\n")
    completed = subprocess.run([sys.executable, "-m", "gevent.pywsgi", application, "-b", "127.0.0.1:0"],
                               cwd=tmp_path, capture_output=True, text=True, timeout=50)
    assert completed.returncode == 1
    assert re.search(message, completed.stderr)
    assert ("Traceback" in completed.stderr) == has_traceback
    assert "no worker starts" in completed.stderr


@pytest.mark.parametrize(("arguments", "message"), [
    (["app"], "module:callable"),
    (["a:"], "module:callable"),
    ([":b"], "module:callable"),
    (["a:b", "-b", "unix:"], "has no path"),
    (["a:b", "-w", "many"], "many"),
    (["a:b", "--backlog", "0"], "1 or more"),
    (["a:b", "--stop-timeout", "-1"], "0 or more"),
    (["a:b", "--stop-timeout", "nan"], "finite"),
    (["a:b", "--max-connections", "0"], "max_connections"),
    (["a:b", "--trusted-proxies", "localhost"], "localhost"),
    (["a:b", "--certfile", "nowhere.pem"], "nowhere.pem"),
    (["a:b", "--keyfile", "nowhere.pem"], "--certfile"),
    (["a:b", "-w", "0"], "workers must be"),
    (["a:b", "-b", "nonsense"], "nonsense"),
    (["a:b", "--log", "%z"], "%z"),
    (["a:b", "--header-timeout", "-1"], "header_timeout"),
])
def test_wrong_arguments_are_refused(tmp_path, arguments, message):
    completed = subprocess.run([sys.executable, "-m", "gevent.pywsgi", *arguments],
                               cwd=tmp_path, capture_output=True, text=True, timeout=50)
    assert completed.returncode == 2
    assert message in completed.stderr


def test_certificate_that_does_not_serve_is_refused_with_the_reason(tmp_path, make_certificate):
    first, second = make_certificate(), make_certificate()
    encrypted = str(tmp_path / "encrypted.pem")
    subprocess.run(["openssl", "pkey", "-in", first["keyfile"], "-aes256", "-passout", "pass:x", "-out", encrypted],
                   check=True)
    for certfile, keyfile, message in [
        (first["certfile"], "nowhere.pem", "can't read 'nowhere.pem'"),
        (first["certfile"], second["keyfile"], "is not that of the certificate"),
        (first["certfile"], None, "--keyfile"),
        (first["keyfile"], first["certfile"], "is not a PEM file with a certificate"),
        (first["certfile"], encrypted, "the key is encrypted"),
    ]:
        arguments = [f"--certfile={certfile}", *([] if keyfile is None else [f"--keyfile={keyfile}"])]
        completed = subprocess.run([sys.executable, "-m", "gevent.pywsgi", "a:b", *arguments], cwd=tmp_path,
                                   capture_output=True, text=True, timeout=50, stdin=subprocess.DEVNULL)
        assert completed.returncode == 2
        assert message in completed.stderr


def test_help_explains_every_argument():
    from gevent._pywsgi_command import _parser

    parser = _parser()
    assert "--first-request-timeout" in parser.format_help()
    assert not [action.dest for action in parser._actions if not action.help]


@pytest.mark.parametrize("address", ["127.0.0.1:99999", "unix:no/such/folder"])
def test_address_where_nobody_can_listen_is_told_in_a_line(tmp_path, address):
    completed = subprocess.run([sys.executable, "-m", "gevent.pywsgi", "a:b", "-b", address],
                               cwd=tmp_path, capture_output=True, text=True, timeout=50)
    assert completed.returncode == 1
    assert address in completed.stderr and completed.stderr.count("\n") == 1


def test_hangup_brings_a_renewed_certificate(tmp_path, make_certificate):
    first, second = make_certificate(), make_certificate()
    used = {name: str(tmp_path / name) for name in first}

    def install(paths):
        for name, path in paths.items():
            # As renewing programs do it: the old file is never half of the new one.
            shutil.copyfile(path, tmp_path / "new")
            os.replace(tmp_path / "new", used[name])

    def shown():
        """Return the certificate that the server shows, by its text."""
        with command.connect() as tls:
            certificate = ssl.DER_cert_to_PEM_cert(tls.getpeercert(binary_form=True))
            assert command.ask(tls)
            return certificate

    install(first)
    with Command(tmp_path, "--certfile", used["certfile"], "--keyfile", used["keyfile"]) as command:
        until(lambda: "workers ready" in command.output.read_text(), "ready worker")
        assert shown() == Path(first["certfile"]).read_text()
        install(second)
        assert shown() == Path(first["certfile"]).read_text()
        command.process.send_signal(signal.SIGHUP)

        until(lambda: shown() == Path(second["certfile"]).read_text(), "new certificate")


def test_hangup_with_a_broken_certificate_keeps_the_old_one(tmp_path, certificate):
    used = {name: str(shutil.copy(path, tmp_path / name)) for name, path in certificate.items()}
    arguments = [f"--{name}={path}" for name, path in used.items()]
    with Command(tmp_path, "-w", "2", *arguments).ready() as command:
        for breaks, message in [
            (lambda: Path(used["certfile"]).write_text("half"), "is not a PEM file with a certificate"),
            (lambda: os.unlink(used["certfile"]), "can't read "),
        ]:
            breaks()
            workers = command.two_workers()
            command.process.send_signal(signal.SIGHUP)
            until(lambda text=message: text in command.output.read_text(), "word of it")
            until(lambda old=workers: command.workers() == old, "end of the new workers")
            assert command.get()[0] == "one"
        assert used["certfile"] in command.output.read_text()
        assert "Traceback" not in command.output.read_text()


@pytest.mark.parametrize("is_tls", [False, True])
def test_websockets_are_told_when_their_worker_ends(tmp_path, certificate, is_tls):
    """By the code 1001, going away, of RFC 6455 section 7.4.1."""
    def opened():
        """Return a connection that has sent a message to its worker, and the file of what comes."""
        sock = stack.enter_context(command.connect())
        file = stack.enter_context(sock.makefile("rb"))
        sock.sendall(b"GET / HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                     b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        assert b" 101 " in file.readline()
        assert list(iter(file.readline, b"\r\n"))
        # A text message with a mask that changes nothing.
        sock.sendall(b"\x81\x82\0\0\0\0hi")
        return sock, file

    def bid_farewell(sock, file):
        assert file.read(4) == b"\x88\x02\x03\xe9"
        sock.sendall(b"\x88\x82\0\0\0\0\x03\xe9")
        assert file.read() == b""

    arguments = ["-w", "2"]
    if is_tls:
        arguments += ["--certfile", certificate["certfile"], "--keyfile", certificate["keyfile"]]
    with Command(tmp_path, *arguments).ready() as command, contextlib.ExitStack() as stack:
        former = [opened() for _ in range(6)]
        for _, file in former:
            assert file.read(8) == b"\x81\x06one hi"
        command.write("two")
        command.process.send_signal(signal.SIGHUP)
        for connection in former:
            bid_farewell(*connection)
        until(lambda: command.get()[0] == "two", "new version")
        sock, file = opened()
        assert file.read(8) == b"\x81\x06two hi"
        command.process.send_signal(signal.SIGTERM)
        bid_farewell(sock, file)
        assert command.process.wait(30) == 0


def test_unix_socket_of_the_command(tmp_path):
    path = tmp_path / "socket"
    for _ in range(2):   # the second finds what the first has left
        with Command(tmp_path, "-b", f"unix:{path}", "--backlog", "5") as command:
            def answer():
                assert command.process.poll() is None, command.output.read_text()
                with socket.socket(socket.AF_UNIX) as sock:
                    try:
                        sock.connect(str(path))
                    except OSError:
                        return None
                    sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    with sock.makefile("rb") as file:
                        return file.read()

            assert b"one" in until(answer, "answer")


def test_serve_forever_returns_when_the_workers_have_ended():
    completed = run_script("""
        import os, signal
        import gevent
        from gevent import socket
        from gevent.pywsgi import WSGIServer

        def application(environ, start_response):
            start_response("200 OK", [])
            return []

        def end_when_answered():
            with socket.create_connection(server.address) as sock:
                sock.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
                answer = sock.recv(100)
            # A greenlet goes on in each process that is forked.
            if os.getpid() == first:
                assert answer
                os.kill(first, signal.SIGTERM)

        first = os.getpid()
        server = WSGIServer(("127.0.0.1", 0), application, log=None, workers=2)
        server.init_socket()
        gevent.spawn(end_when_answered)
        server.serve_forever()
        print("returned", server.closed)
    """)
    assert completed.stdout == "returned True\n"


def test_flags_reach_the_server(tmp_path):
    """Each of the command's flags, by what it changes for clients."""
    flags = {
        "--max-request-line": "60", "--max-header-bytes": "300", "--max-header-count": "4", "--max-body-bytes": "10",
        "--header-timeout": "3", "--body-timeout": "3", "--keep-alive-timeout": "3", "--write-timeout": "30",
        "--first-request-timeout": "0.5", "--max-connections": "50", "--backlog": "7", "--server-header": "mine/1",
        "--trusted-proxies": "10.0.0.1,127.0.0.0/8", "--log": "%h %{X-A}i %s", "--stop-timeout": "20",
    }
    arguments = [*itertools.chain(*flags.items()), "--proxy-protocol", "--reuse-port", "--workers", "1"]
    tunnel = b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n"
    ordinary = b"GET / HTTP/1.1\r\nHost: t\r\n"
    with Command(tmp_path, *arguments) as command:

        def answer(request, header=tunnel):
            """Return (status, head) of the last answer of a connection."""
            with command.connect() as sock, sock.makefile("rb") as file:
                sock.sendall(header + request)
                head = file.read().rpartition(b"HTTP/1.1 ")[2]
            return int(head[:3]), head

        def refuses():
            assert command.process.poll() is None, command.output.read_text()
            try:
                return answer(ordinary + b"Connection: close\r\n\r\n")
            except ConnectionRefusedError:
                return None

        status, head = until(refuses, "answer")
        assert status == 200 and b"\r\nServer: mine/1\r\n" in head
        # Another server of the address may share the port.
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            other.bind(("127.0.0.1", command.port))
        assert answer(b"GET /%s HTTP/1.1\r\nHost: t\r\n\r\n" % (b"x" * 60))[0] == 414
        assert answer(ordinary + b"A: %s\r\n\r\n" % (b"x" * 300))[0] == 431
        assert answer(ordinary + b"A: b\r\n" * 4 + b"\r\n")[0] == 431
        assert answer(ordinary + b"Content-Length: 11\r\n\r\n" + b"x" * 11)[0] == 413
        # Without its first line no connection begins.
        with command.connect() as sock, pytest.raises(ConnectionResetError):
            sock.sendall(ordinary + b"\r\n")
            assert sock.recv(1) == b""
            raise ConnectionResetError
        # A head and a body that don't end, and a connection that is idle: at the same time, since each waits.
        with concurrent.futures.ThreadPoolExecutor(3) as executor:
            waiting = [ordinary, ordinary + b"Content-Length: 5\r\n\r\n1", ordinary + b"\r\n"]
            assert [status for status, _ in executor.map(answer, waiting)] == [408, 408, 200]
        # The peer that the first line names is no trusted proxy, this one is.
        for peer, client in (("192.0.2.7", "192.0.2.7"), ("127.0.0.5", "192.0.2.9")):
            header = f"PROXY TCP4 {peer} 192.0.2.8 1 2\r\n".encode()
            request = ordinary + b"X-Forwarded-For: 192.0.2.9\r\nX-A: b\r\nConnection: close\r\n\r\n"
            assert answer(request, header)[0] == 200
            until(lambda client=client: f"{client} b 200\n" in command.output.read_text(), "log")
        command.process.send_signal(signal.SIGTERM)
        assert command.process.wait(30) == 0


def test_documentation_and_help_tell_the_defaults():
    from gevent import pywsgi
    from gevent._pywsgi_command import _parser

    parameters = inspect.signature(pywsgi.WSGIServer).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()
                if parameter.kind is parameter.KEYWORD_ONLY}
    defaults["max_request_line"] = pywsgi.MAX_REQUEST_LINE
    unlike = {"max_header_bytes": 65536, "max_header_count": 100}   # None there
    pages = {"the docstring": pywsgi.WSGIServer.__doc__}
    guide = Path(__file__).resolve().parent.parent / "docs" / "pywsgi.md"
    if guide.exists():
        pages["the guide"] = guide.read_text()
    for name, default in (defaults | unlike).items():
        for page in pages.values():
            assert re.search(rf"[*`]{name}[*`=]|{name}=", page), name
        told = rf"\*{name}\*[^:;]*\(({re.escape(str(default))}|none|the process)[^)]*\)"
        assert re.search(told, pages["the docstring"]), name
    flags = {action.dest: action for action in _parser()._actions}
    assert set(defaults) - set(flags) == {"require_host", "log_format"}, "--log is the flag of the latter"
    for name, default in (defaults | unlike).items():
        if isinstance(default, int | float) and not isinstance(default, bool):
            assert f"({default})" in flags[name].help, name


SUPERVISED = """
import os, signal, sys
import gevent
from gevent import _workers
from gevent.event import Event

class Refusals:
    def __init__(self, calls):
        self.calls, self.count = calls, 0

    def __call__(self, callback, **options):
        self.count += 1
        if self.count in self.calls:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        return fork(callback, **options)

def work(ended, ready):
    ready()
    ended.wait()

lines = []

def report(line):
    lines.append(line.replace(str(os.getpid()), "first"))
    happened.set()

def until(text):
    while not any(text in line for line in lines):
        happened.clear()
        happened.wait()
    lines.clear()

happened = Event()
fork = _workers.os.fork_and_watch
_workers.MIN_LIFE = 0.01
supervisor = _workers.Supervisor(work, 2, 5, report, lambda: None)
first = os.getpid()

def run(steps, refused):
    _workers.os.fork_and_watch = Refusals(refused)

    def guarded():
        if os.getpid() == first:
            steps()
            os.kill(first, signal.SIGTERM)

    gevent.spawn(guarded)
    with gevent.Timeout(30):
        supervisor.run()
    print("ended")
"""


def test_reload_without_room_for_processes_keeps_the_old_workers():
    completed = run_script(SUPERVISED + """
def steps():
    until("workers ready: 2")
    old = set(supervisor.workers)
    os.kill(first, signal.SIGHUP)
    until("the old ones stay")
    while set(supervisor.workers) != old:
        gevent.sleep(0.001)
    os.kill(first, signal.SIGHUP)
    until("workers ready: 2")
    while set(supervisor.workers) & old:
        gevent.sleep(0.001)
    os.kill(max(supervisor.workers), signal.SIGKILL)
    until("no process for a worker")
    until("workers ready: 2")

run(steps, {4, 7})
""")
    assert completed.stdout == "ended\n"


def test_new_workers_stay_when_one_is_replaced_in_vain_while_old_ones_drain():
    completed = run_script(SUPERVISED + """
def work(ended, ready):
    generation = supervisor._generation
    if os.path.exists(broken):
        raise SystemExit(7)
    ready()
    ended.wait()
    if generation == 0:
        # A long answer.
        while not os.path.exists(broken + "-end"):
            gevent.sleep(0.01)

def steps():
    until("workers ready: 2")
    old = set(supervisor.workers)
    os.kill(first, signal.SIGHUP)
    until("workers ready: 2")
    one, other = set(supervisor.workers) - old
    open(broken, "x").close()
    os.kill(one, signal.SIGKILL)
    until("exited with 7")
    assert other in supervisor.workers and not supervisor.workers[other].told
    os.unlink(broken)
    until("workers ready: 2")
    assert other in supervisor.workers and not supervisor.workers[other].told
    open(broken + "-end", "x").close()

import tempfile
with tempfile.TemporaryDirectory() as folder:
    broken = os.path.join(folder, "broken")
    supervisor.work = work
    run(steps, set())
""")
    assert completed.stdout == "ended\n"


def test_start_without_room_for_processes_is_told():
    completed = run_script(SUPERVISED + """
_workers.os.fork_and_watch = Refusals({1})
try:
    supervisor.run()
except SystemExit as error:
    print(lines, error)
""")
    assert completed.stdout == (
        "['no process for a worker: [Errno 11] Resource temporarily unavailable'] no worker starts\n")
