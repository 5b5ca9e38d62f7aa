"""Libraries that are written for gevent: bottle's server, geventhttpclient, gipc, grequests and zerorpc; gRPC in its
mode for gevent; and PyPI's greenlet, which SQLAlchemy's asyncio part is written for.

Each call waits at a meeting point for the others, so that calls one after the other never end well.
"""
import subprocess
import sys
import textwrap

from implementation import run_script

# A server in the same process, which answers when ten requests are there.
MEETING = """
    import gevent
    from gevent.event import Event
    from gevent.pywsgi import WSGIServer
    arrived, everybody = [], Event()

    def meet():
        arrived.append(1)
        if len(arrived) == 10:
            everybody.set()
        return b"met" if everybody.wait(30) else b"alone"

    def application(environ, start_response):
        answer = meet()
        start_response("200 OK", [("Content-Length", str(len(answer)))])
        return [answer]

    def serve():
        server = WSGIServer(("127.0.0.1", 0), application, log=None)
        server.start()
        return f"http://127.0.0.1:{server.server_port}/"
"""


def test_bottle_serves_requests_at_once():
    run_script("""
    from gevent import monkey; monkey.patch_all()
    """ + MEETING + """
    import logging, socket, urllib.request
    import bottle

    bottle.route("/")(meet)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    gevent.spawn(bottle.run, server="gevent", host="127.0.0.1", port=port, quiet=True)
    for attempt in range(500):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except ConnectionRefusedError:
            gevent.sleep(0.01)

    def get(number):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=40) as answer:
            return answer.read()

    requests = [gevent.spawn(get, number) for number in range(10)]
    gevent.joinall(requests, raise_error=True)
    assert [request.value for request in requests] == [b"met"] * 10
    """)


def test_grequests_sends_requests_at_once():
    # It patches by itself, and so comes first.
    run_script("""
    import grequests
    """ + MEETING + """
    url = serve()
    answers = grequests.map([grequests.get(url, timeout=40) for number in range(10)])
    assert [answer.text for answer in answers] == ["met"] * 10, answers
    """)


def test_geventhttpclient_sends_requests_at_once():
    run_script(MEETING + """
    from geventhttpclient import HTTPClient

    client = HTTPClient.from_url(serve(), concurrency=10, network_timeout=40, connection_timeout=40)
    requests = [gevent.spawn(lambda: bytes(client.get("/").read())) for number in range(10)]
    gevent.joinall(requests, raise_error=True)
    assert [request.value for request in requests] == [b"met"] * 10
    client.close()
    """)


def test_gipc_talks_with_processes_while_greenlets_run(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("""
import gevent
import gipc

def double(pipe):
    while (number := pipe.get()) is not None:
        pipe.put(number * 2)

def main():
    with gipc.pipe(duplex=True) as (near, far), gipc.pipe(duplex=True) as (second_near, second_far):
        processes = [gipc.start_process(double, args=(end,)) for end in (far, second_far)]
        turns = []

        def talk(pipe, first):
            for number in range(first, first + 20):
                pipe.put(number)
                turns.append(first)
                assert pipe.get() == number * 2
            pipe.put(None)

        # Neither process answers the second greenlet unless the first one lets it run meanwhile.
        waiting = gevent.spawn(second_near.get)
        gevent.joinall([gevent.spawn(talk, near, 0)], raise_error=True)
        assert not waiting.ready()
        second_near.put(50)
        assert waiting.get() == 100
        second_near.put(None)
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0, 0]
    process = gipc.start_process(gevent.sleep, args=(600,))
    process.terminate()
    process.join()
    assert process.exitcode == -15
    print("done")

if __name__ == "__main__":
    main()
""")
    run_script("""
    import subprocess
    done = subprocess.run([sys.executable, sys.argv[1]], capture_output=True, text=True, timeout=40)
    assert (done.stdout, done.stderr, done.returncode) == ("done\\n", "", 0), done
    """, str(program))


def test_zerorpc_answers_calls_at_once(tmp_path):
    run_script(MEETING + """
    import zerorpc

    class Service:
        def meet(self):
            return meet().decode()

        @zerorpc.stream
        def count(self, number):
            return iter(range(number))

    address = "ipc://" + sys.argv[1]
    server = zerorpc.Server(Service(), heartbeat=None)
    server.bind(address)
    running = gevent.spawn(server.run)
    client = zerorpc.Client(address, timeout=40, heartbeat=None)
    assert list(client.count(200)) == list(range(200))
    calls = [gevent.spawn(client.meet) for number in range(10)]
    gevent.joinall(calls, raise_error=True)
    assert [call.value for call in calls] == ["met"] * 10
    client.close()
    server.stop()
    running.join(30)
    assert running.ready()
    server.close()
    """, str(tmp_path / "socket"))


def test_grpc_calls_from_greenlets_wait_at_once():
    # gRPC offers its mode for gevent to clients alone.
    server = textwrap.dedent("""
    import sys, threading
    from concurrent.futures import ThreadPoolExecutor
    import grpc

    everybody = threading.Barrier(10)

    class Handler(grpc.GenericRpcHandler):
        def service(self, details):
            return grpc.unary_unary_rpc_method_handler(self.meet)

        def meet(self, request, context):
            everybody.wait(30)
            return b"met " + request

    server = grpc.server(ThreadPoolExecutor(10))
    server.add_generic_rpc_handlers((Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    """)
    with subprocess.Popen([sys.executable, "-c", server], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            run_script("""
            from gevent import monkey; monkey.patch_all()
            import gevent
            import grpc
            import grpc.experimental.gevent
            grpc.experimental.gevent.init_gevent()

            with grpc.insecure_channel("127.0.0.1:" + sys.argv[1]) as channel:
                call = channel.unary_unary("/meeting/meet")
                greenlets = [gevent.spawn(call, b"%d" % number) for number in range(10)]
                gevent.joinall(greenlets, raise_error=True)
            assert [g.value for g in greenlets] == [b"met %d" % number for number in range(10)]
            """, process.stdout.readline().decode().strip())
        finally:
            process.stdin.close()


ASK_SQLALCHEMY = """
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import create_async_engine

    async def ask():
        engine = create_async_engine("sqlite+aiosqlite://")
        async with engine.connect() as connection:
            answer = (await connection.execute(text("select 5"))).scalar()
        await engine.dispose()
        return answer
"""


def test_sqlalchemys_greenlets_run_in_greenlets():
    run_script("""
    import gevent
    from gevent import aio
    """ + ASK_SQLALCHEMY + """
    assert gevent.spawn(aio.run, ask()).get() == 5
    """)


def test_greenlet_that_was_imported_before_gevent_works_beside_it_and_is_refused_in_its_greenlets():
    # Not by run_script, whose scripts import gevent first.
    script = textwrap.dedent("""
    import asyncio
    import greenlet
    import gevent
    """ + ASK_SQLALCHEMY + """
    assert asyncio.run(ask()) == 5

    def switch():
        inner = greenlet.greenlet(gevent.sleep)
        for method in (inner.switch, inner.throw):
            try:
                method(0)
            except greenlet.error as error:
                assert "Import gevent first" in str(error), error
            else:
                raise AssertionError("switched")
        return "refused"

    greenlets = [gevent.spawn(switch) for _ in range(3)]
    assert [g.get() for g in greenlets] == ["refused"] * 3
    # In the main greenlet it may even wait.
    assert greenlet.greenlet(lambda: (gevent.sleep(0.001), "slept")).switch() == (None, "slept")
    """)
    completed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=50)
    assert completed.returncode == 0, completed.stderr
    assert "imported before gevent" in completed.stderr
