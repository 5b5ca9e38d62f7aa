"""Clients and proxies of the web in a patched program: their requests are under way at the same time.

The meeting point answers the requests of one name when all of them are there: one after the other gets no answer.
"""
import concurrent.futures
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
