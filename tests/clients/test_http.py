"""Clients and proxies of the web in a patched program: their requests are under way at the same time.

The meeting point answers the requests of one name when all of them are there: one after the other gets no answer.
"""
import concurrent.futures
import subprocess
import sys
import textwrap
import urllib.request

import pytest
import services
from implementation import run_script
from servers import accepts, meetings

CLIENTS = {
    "requests": """
        import requests
        session = requests.Session()
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=10)
        session.mount("http://", adapter)
        def get(url):
            answer = session.get(url, timeout=30)
            return answer.status_code, answer.text
    """,
    "urllib3": """
        import urllib3
        pool = urllib3.PoolManager(maxsize=10, block=True)
        def get(url):
            answer = pool.request("GET", url, timeout=30)
            return answer.status, answer.data.decode()
    """,
    "httpx": """
        import httpx
        client = httpx.Client(trust_env=False, timeout=30, limits=httpx.Limits(max_connections=10))
        def get(url):
            answer = client.get(url)
            return answer.status_code, answer.text
    """,
    "urllib": """
        import urllib.request
        def get(url):
            with urllib.request.urlopen(url, timeout=30) as answer:
                return answer.status, answer.read().decode()
    """,
}


@pytest.mark.parametrize("name", CLIENTS)
def test_requests_meet_at_the_server(meeting_point, name):
    before = meetings(meeting_point["url"])
    run_script(f"""
        from gevent import monkey; monkey.patch_all()
        import gevent
{CLIENTS[name]}
        url = sys.argv[1] + "/meet?count=10&who=" + sys.argv[2]
        for number in range(2):
            jobs = [gevent.spawn(get, url + str(number)) for _ in range(10)]
            gevent.joinall(jobs, raise_error=True)
            assert [job.value for job in jobs] == [(200, "met")] * 10, [job.value for job in jobs]
    """, meeting_point["url"], name)
    assert meetings(meeting_point["url"]) == before + 2


def test_requests_that_follow_each_other_do_not_meet(meeting_point):
    """What the other tests rely on: without other greenlets the meeting point lets nobody through."""
    run_script("""
        import urllib.error, urllib.request
        try:
            urllib.request.urlopen(sys.argv[1] + "/meet?count=2&who=nobody", timeout=1)
        except TimeoutError:
            sys.exit(0)
        sys.exit("was answered alone")
    """, meeting_point["url"])


def test_websocket_client_receives_in_several_greenlets(websocket_server):
    run_script("""
        from gevent import monkey; monkey.patch_all()
        import gevent, websocket
        def talk(word):
            connection = websocket.create_connection("ws://127.0.0.1:" + sys.argv[1], timeout=30)
            try:
                connection.send(word)
                return connection.recv()
            finally:
                connection.close()
        jobs = [gevent.spawn(talk, word) for word in ("a", "b", "c")]
        gevent.joinall(jobs, raise_error=True)
        assert [job.value for job in jobs] == ["A", "B", "C"]
    """, websocket_server["port"])


SERVER = """
    from gevent import monkey; monkey.patch_all()
    import threading
    from gevent.pywsgi import WSGIServer
    barriers = {}
    def application(environ, start_response):
        barrier = barriers.setdefault(environ["PATH_INFO"], threading.Barrier(8))
        barrier.wait(30)
        body = environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]
    WSGIServer(("127.0.0.1", int(sys.argv[1])), application, log=None).serve_forever()
"""


def test_pywsgi_serves_several_requests_of_nginx_at_once(nginx, tmp_path):
    program = tmp_path / "server.py"
    program.write_text("import sys" + textwrap.dedent(SERVER), encoding="utf-8")
    port = services.free_port()
    with services.start([sys.executable, str(program), str(port)], lambda: accepts(port), patience=30):
        address = nginx(port)["url"]

        def post(number):
            body = str(number).encode() * 100_000
            with urllib.request.urlopen(f"{address}/{number // 8}", body, timeout=30) as answer:
                return answer.read() == body

        with concurrent.futures.ThreadPoolExecutor(8) as executor:
            assert list(executor.map(post, range(24))) == [True] * 24


CURL_SERVER = """
    import sys
    from gevent import monkey; monkey.patch_all()
    from gevent.pywsgi import WSGIServer
    def application(environ, start_response):
        body = environ["wsgi.input"].read()
        start_response("200 OK", [("X-Method", environ["REQUEST_METHOD"])])
        yield from [f"{environ['SERVER_PROTOCOL']} {len(body)} ".encode(), environ["wsgi.url_scheme"].encode()]
    arguments = dict(zip(("certfile", "keyfile"), sys.argv[2:]))
    WSGIServer(("127.0.0.1", int(sys.argv[1])), application, log=None, max_body_bytes=4_000_000,
               **arguments).serve_forever()
"""


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_curl_is_served(tmp_path, make_certificate, scheme):
    program, upload = tmp_path / "server.py", tmp_path / "upload"
    program.write_text(textwrap.dedent(CURL_SERVER), encoding="utf-8")
    upload.write_bytes(b"x" * 3_000_000)
    certificate = make_certificate() if scheme == "https" else {}
    port = services.free_port()
    url = f"{scheme}://localhost:{port}/"

    def curl(*arguments, data=b""):
        """Return (what the server answered, what curl says of it)."""
        ca = ["--cacert", certificate["certfile"]] if certificate else []
        completed = subprocess.run(
            ["curl", "-4", "-sS", "-v", "--max-time", "40", *ca, *arguments],
            input=data, capture_output=True, timeout=50,
        )
        assert completed.returncode == 0, completed.stderr
        return completed.stdout.decode(), completed.stderr.decode()

    arguments = [certificate[name] for name in ("certfile", "keyfile") if certificate]
    with services.start([sys.executable, str(program), str(port), *arguments], lambda: accepts(port), patience=30):
        # The second request is made on the connection of the first.
        answer, _ = curl("-w", " %{num_connects}\n", url, url)
        assert answer.splitlines() == [f"HTTP/1.1 0 {scheme} 1", f"HTTP/1.1 0 {scheme} 0"]
        answer, told = curl("-I", url)
        assert "X-Method: HEAD" in answer and "Transfer-Encoding" not in told.partition("< ")[0]
        assert curl("-0", url)[0] == f"HTTP/1.0 0 {scheme}"
        # It waits for the interim answer: for longer than it may take, if none came.
        answer, told = curl("-H", "Expect: 100-continue", "--expect100-timeout", "60",
                            "--data-binary", f"@{upload}", url)
        assert answer == f"HTTP/1.1 3000000 {scheme}" and "< HTTP/1.1 100 Continue" in told
        assert curl("-T", "-", url, data=b"y" * 200_000)[0] == f"HTTP/1.1 200000 {scheme}"
        assert curl("-F", f"file=@{upload}", url)[0].startswith("HTTP/1.1 3000")
        # A body that is too large is refused before it is sent.
        upload.write_bytes(b"x" * 5_000_000)
        answer, _ = curl("-w", "%{http_code} %{size_upload}", "-H", "Expect: 100-continue", "--expect100-timeout", "60",
                         "--data-binary", f"@{upload}", url)
        assert answer == "413 0"
        # Nobody asked it to wait: the answer arrives though the server does not read all of it.
        answer, _ = curl("-w", "%{http_code}", "-H", "Expect:", "--data-binary", f"@{upload}", url)
        assert answer == "413"
