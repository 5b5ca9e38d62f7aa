"""What programs set on a pywsgi server, and what its small classes do: logs, environments, ways to spawn."""
import _socket
import copy
import errno
import io
import itertools
import logging
import pickle
import re
import sys
import wsgiref.validate

import gevent
import gevent.event
import pytest
from gevent import socket
from gevent.pywsgi import Environ, LoggingLogAdapter, SecureEnviron, WSGIHandler, WSGISecureEnviron, WSGIServer
from http_client import Client, TLSClient, hello


@pytest.fixture
def logger():
    """Return a logger of our own, whose `records` are kept."""
    class Keeper(logging.Handler):
        def emit(self, record):
            logger.records.append((record.levelno, record.getMessage()))

    logger = logging.Logger("its own")
    logger.records = []
    logger.addHandler(Keeper())
    return logger


def ask(server, head=b"GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"):
    """Return all that the server answers."""
    with Client(server) as client:
        client.send(head)
        return client.file.read()


# -- logs -----------------------------------------------------------------------------------------------------------


def test_loggers_get_records_without_line_ends(serve, logger):
    def application(environ, start_response):
        environ["wsgi.errors"].write("said by the application\n")
        environ["wsgi.errors"].writelines(["one\n", "two\n"])
        environ["wsgi.errors"].flush()
        return hello(environ, start_response)

    server = serve(application, log=logger, error_log=logger)
    assert type(server.log) is type(server.error_log) is LoggingLogAdapter
    ask(server)
    while len(logger.records) < 4:
        gevent.sleep(0.001)
    errors, [(level, line)] = logger.records[:3], logger.records[3:]
    assert errors == [(logging.ERROR, "said by the application"), (logging.ERROR, "one"), (logging.ERROR, "two")]
    assert level == logging.INFO
    assert re.fullmatch(r'127\.0\.0\.1 - - \[[\d-]{10} [\d:]{8}\] "GET / HTTP/1\.1" 200 \d+ \d+\.\d{6}', line)


def test_what_a_client_does_wrong_is_logged_as_an_error(serve, logger):
    ask(serve(hello, error_log=logger), b"nonsense\r\n\r\n")
    [(level, message)] = logger.records
    assert level == logging.ERROR and "nonsense" in message


def test_adapter_is_the_logger_for_all_else(logger):
    adapter = LoggingLogAdapter(logger, logging.WARNING)
    adapter.write("a\n")
    adapter.writelines(["b", "c\n"])
    adapter.flush()
    assert logger.records == [(logging.WARNING, message) for message in "abc"]
    assert adapter.name == "its own"
    adapter.disabled = True
    assert logger.disabled is True
    del adapter.disabled
    assert "disabled" not in vars(logger)
    with pytest.raises(AttributeError):
        adapter.nothing  # noqa: B018


def test_logs_may_be_files_and_nothing(capfd):
    file = io.StringIO()
    server = WSGIServer(("127.0.0.1", 0), hello, log=file, error_log=None)
    assert server.log is file
    server.error_log.write("lost")
    server.error_log.writelines(["lost"])
    server.error_log.flush()
    server = WSGIServer(("127.0.0.1", 0), hello)
    assert server.log is server.error_log is sys.stderr
    assert capfd.readouterr() == ("", "")


def test_percent_signs_do_no_harm_to_the_log(serve):
    log = io.StringIO()
    server = serve(hello, log=log, error_log=(errors := io.StringIO()))
    ask(server, b"GET /%s%d%(x)s?%n HTTP/1.0\r\n\r\n")
    ask(server, b"GET%s%d\r\n\r\n")
    while log.getvalue().count("\n") < 2:
        gevent.sleep(0.001)
    assert '"GET /%s%d%(x)s?%n HTTP/1.0" 200' in log.getvalue()
    assert "%s%d" in errors.getvalue()


# -- environments ---------------------------------------------------------------------------------------------------


def test_environ_is_a_dict_that_copies_to_its_class_and_pickles_to_a_plain_one():
    environ = Environ(a=1)
    assert isinstance(environ, dict) and environ == {"a": 1}
    assert type(environ.copy()) is Environ and environ.copy() == environ
    for plain in (pickle.loads(pickle.dumps(environ)), copy.copy(environ), copy.deepcopy(environ)):
        assert type(plain) is dict and plain == {"a": 1}


def test_secure_environ_shows_what_it_is_told():
    environ = SecureEnviron(visible="yes", secret="password")
    assert "2" in repr(environ) and "password" not in repr(environ) + str(environ) and "visible" not in repr(environ)
    environ.whitelist_keys = ("visible",)
    assert repr(environ) == str(environ) == "{'visible': 'yes', 'secret': '<MASKED>'}"
    environ.print_masked_keys = False
    assert repr(environ) == "{'visible': 'yes', (hidden keys: 1)}"
    environ.secure_repr = False
    assert repr(environ) == "{'visible': 'yes', 'secret': 'password'}"
    with pytest.raises(AttributeError):
        environ.nothing  # noqa: B018
    environ = WSGISecureEnviron(HTTP_HOST="h", REMOTE_ADDR="a", REMOTE_PORT="1", HTTP_COOKIE="secret")
    assert repr(environ) == "{'HTTP_HOST': 'h', 'REMOTE_ADDR': 'a', 'REMOTE_PORT': '1', (hidden keys: 1)}"


def test_errors_are_reported_with_a_masked_environment(serve, errors):
    def application(environ, start_response):
        raise ValueError("it fails")

    class Handler(WSGIHandler):
        pass

    server = serve(application, handler_class=Handler)
    for _ in range(2):
        assert b" 500 " in ask(server, b"GET / HTTP/1.0\r\nHost: shown\r\nCookie: secret\r\n\r\n")
        assert "shown" in errors.getvalue() and "secret" not in errors.getvalue()
        errors.truncate(0)
    server.secure_environ_class = SecureEnviron
    ask(server, b"GET / HTTP/1.0\r\nHost: shown\r\n\r\n")
    assert "it fails" in errors.getvalue() and "'shown'" not in errors.getvalue()


def test_environments_are_of_the_class_that_a_server_has(serve):
    seen = []

    class Server(WSGIServer):
        environ_class = SecureEnviron
        base_env = dict(WSGIServer.base_env, mine="base")

    def application(environ, start_response):
        seen.append(environ)
        return hello(environ, start_response)

    server = Server(("127.0.0.1", 0), application, log=None, environ={"mine too": "given"})
    server.start()
    try:
        ask(server)
        ask(server)
    finally:
        server.stop()
    first, second = seen
    assert type(first) is type(second) is SecureEnviron and first is not second
    assert (first["mine"], first["mine too"], first["REQUEST_METHOD"]) == ("base", "given", "GET")
    assert type(server.get_environ()) is SecureEnviron


def test_environment_of_a_server_is_made_of_what_it_is_given(serve):
    errors = io.StringIO()
    server = WSGIServer(("127.0.0.1", 0), hello, environ={"SERVER_NAME": "shop.test", "wsgi.errors": errors})
    server.init_socket()
    try:
        environ = server.get_environ()
        assert environ["SERVER_NAME"] == "shop.test" and environ["SERVER_PORT"] == str(server.server_port)
        assert environ["wsgi.errors"] is errors
        assert environ is not server.environ
        server.set_environ({"SCRIPT_NAME": "/shop"})
        assert server.get_environ()["SCRIPT_NAME"] == "/shop"
    finally:
        server.close()
    server = serve(hello)
    assert server.environ["SERVER_NAME"] == socket.getfqdn("127.0.0.1")
    assert server.environ["wsgi.errors"] is server.error_log


def test_one_of_several_processes_accepts_one_connection_at_a_time(serve):
    assert serve(hello).max_accept > 1
    assert serve(hello, environ={"wsgi.multiprocess": True}).max_accept == 1


# -- errors of sockets ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "ignored", "is_told"), [
    (errno.EPIPE, None, False), (errno.ECONNRESET, None, False), (errno.EIO, None, True), (errno.EPIPE, (), True),
    (errno.EIO, (errno.EIO,), False),
])
def test_errors_of_sockets_are_told_unless_they_are_to_be_ignored(serve, errors, number, ignored, is_told):
    class Handler(WSGIHandler):
        pass

    if ignored is not None:
        Handler.ignored_socket_errors = ignored

    def application(environ, start_response):
        raise OSError(number, "from the socket")

    answer = ask(serve(application, handler_class=Handler))
    assert ("from the socket" in errors.getvalue()) == is_told
    assert (b" 500 " in answer) == is_told
    assert is_told or answer == b""


# -- ways to spawn --------------------------------------------------------------------------------------------------


def test_handler_may_run_in_the_hub_if_it_need_not_wait(serve):
    server = serve(hello, spawn=None)
    client = _socket.socket()
    client.connect(server.address)
    # Without a switch: the request is there before the connection is accepted.
    client.sendall(b"GET / HTTP/1.0\r\n\r\n")
    with socket.socket(fileno=client.detach()) as sock, sock.makefile("rb") as file:
        assert file.read().endswith(b"\r\n\r\nhello")


def test_pool_bounds_how_many_are_served_at_once(serve):
    present, most, go = [], [], gevent.event.Event()

    def application(environ, start_response):
        present.append(1)
        most.append(len(present))
        go.wait()
        present.pop()
        return hello(environ, start_response)

    server = serve(application, spawn=2)
    asking = [gevent.spawn(ask, server) for _ in range(6)]
    while len(present) < 2:
        gevent.sleep(0.001)
    gevent.sleep(0.02)
    go.set()
    gevent.joinall(asking, timeout=30, raise_error=True)
    assert all(job.value.endswith(b"hello") for job in asking) and max(most) == 2


# -- PEP 3333, by the standard library's validator ------------------------------------------------------------------


def validated(file):
    """Return an application of many kinds of answers, between which and the server stands `wsgiref.validate`."""
    def application(environ, start_response):
        body, path = environ["wsgi.input"], environ["PATH_INFO"]
        headers = [("Content-Type", "text/plain")]
        if path == "/read":
            data = body.read(1000)
            start_response("200 OK", [*headers, ("Content-Length", str(len(data)))])
            return [data]
        if path == "/line":
            start_response("200 OK", headers)
            return [body.readline(), b"|", body.readline(3), b"|", body.read(2)]
        if path == "/lines":
            start_response("200 OK", headers)
            return body.readlines()
        if path == "/iterates":
            start_response("200 OK", headers)
            return list(body)
        if path == "/generator":
            start_response("200 OK", headers)
            return (part for part in (b"a", b"", b"bc"))
        if path == "/writes":
            write = start_response("200 OK", headers)
            write(b"one")
            write(b"two")
            return [b"three"]
        if path == "/replaced":
            start_response("200 OK", headers)
            try:
                raise ValueError
            except ValueError:
                start_response("503 Busy", headers, sys.exc_info())
            return [b"busy"]
        if path == "/file":
            start_response("200 OK", headers)
            return environ["wsgi.file_wrapper"](open(file, "rb"))
        environ["wsgi.errors"].writelines(["said ", "aloud\n"])
        environ["wsgi.errors"].flush()
        start_response({"/304": "304 Not Modified", "/204": "204 No Content"}[path], [])
        return []

    return wsgiref.validate.validator(application)


@pytest.mark.ours_only("gevent answers HEAD with a body")
@pytest.mark.filterwarnings("error::wsgiref.validate.WSGIWarning")
@pytest.mark.parametrize("is_tls", [False, True])
@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_validator_has_nothing_to_say(serve, errors, certificate, tmp_path, version, is_tls):
    file = tmp_path / "file"
    file.write_bytes(b"f" * 100_000)
    server = serve(validated(file), **certificate if is_tls else {})
    whole = b"ab\ncdefg\nhij"
    answers = {
        b"/read": whole, b"/line": b"ab\n|cde|fg", b"/lines": whole, b"/iterates": whole, b"/generator": b"abc",
        b"/writes": b"onetwothree", b"/replaced": b"busy", b"/file": b"f" * 100_000, b"/204": b"", b"/304": b"",
    }
    bodies = {b"GET": [b"\r\n"], b"HEAD": [b"\r\n"], b"POST": [b"Content-Length: 12\r\n\r\n" + whole]}
    if version == b"1.1":
        bodies[b"POST"].append(b"Transfer-Encoding: chunked\r\n\r\n5\r\nab\ncd\r\n7\r\nefg\nhij\r\n0\r\n\r\n")
    for method, path in itertools.product(bodies, answers):
        for body in bodies[method]:
            with (TLSClient if is_tls else Client)(server) as client:
                line = b"%s %s?a=%%E9 HTTP/%s" % (method, path, version)
                client.send(line + b"\r\nHost: t\r\nConnection: close\r\n" + body)
                status, _, answer = client.answer(head_only=method == b"HEAD" or path in (b"/204", b"/304"))
                assert status == {b"/replaced": 503, b"/204": 204, b"/304": 304}.get(path, 200)
                if method == b"POST":
                    assert answer == answers[path]
                assert client.at_end()
    assert errors.getvalue() == ""
    said = server.error_log.getvalue()
    assert said and said.replace("said aloud\n", "") == ""
