"""Programs that are built on gevent: celery's and locust's workers, and Flask-SocketIO."""
import os
import subprocess
import sys
import textwrap

import pytest
import services
from implementation import run_script
from servers import accepts, meetings

TASKS = """
    import os, threading
    import redis
    from celery import Celery
    app = Celery("tasks", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
    app.conf.update(broker_connection_retry_on_startup=True, worker_prefetch_multiplier=10)
    door = redis.Redis.from_url(os.environ["BROKER"])
    few, many = threading.Barrier(6), threading.Barrier(50)

    @app.task
    def meet(number):
        few.wait(30)
        return number * 2

    @app.task
    def crowd(number):
        many.wait(30)
        return number

    @app.task
    def add(first, second):
        return first + second

    @app.task
    def fail(word):
        raise KeyError(word)

    @app.task
    def wait_at_the_door(number):
        door.rpush("begun", number)
        assert door.blpop("go", 40)
        return number

    @app.task(time_limit=1)
    def sleep_too_long():
        threading.Event().wait()
"""

CELERY = [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-P", "gevent", "-c", "50", "-l", "WARNING",
          "--without-gossip", "--without-mingle"]


@pytest.fixture
def celery(redis, tmp_path):
    """Start a worker with 50 greenlets: a function that runs a program of its clients, and the worker's process."""
    (tmp_path / "tasks.py").write_text(textwrap.dedent(TASKS), encoding="utf-8")
    variables = {"BROKER": redis["url"].replace("/0", "/3"), "PYTHONPATH": str(tmp_path)}
    environment = dict(os.environ, **variables)
    ask = [sys.executable, "-c", "import tasks; sys = __import__('sys'); "
           "sys.exit(not tasks.app.control.ping(timeout=0.5))"]

    def is_ready():
        return subprocess.run(ask, env=environment, cwd=tmp_path, check=False, capture_output=True).returncode == 0

    with services.start(CELERY, is_ready, patience=50, end_within=40, env=environment, cwd=tmp_path) as process:
        yield lambda source, *arguments: run_script(source, *arguments, env=variables, timeout=120), process
    assert process.returncode == 0


def test_celery_runs_tasks_at_once_ends_those_that_it_has_to_and_finishes_the_others(celery):
    run, process = celery
    run("""
        import os, signal
        import celery.exceptions, pytest
        from tasks import add, app, crowd, door, fail, meet, sleep_too_long, wait_at_the_door

        def values(results):
            return [result.get(timeout=60) for result in results]

        assert values([meet.delay(number) for number in range(12)]) == [number * 2 for number in range(12)]
        assert values([crowd.delay(number) for number in range(100)]) == list(range(100))
        assert values([add.delay(number, 1) for number in range(400)]) == list(range(1, 401))
        with pytest.raises(KeyError, match="word"):
            fail.delay("word").get(timeout=60)
        with pytest.raises(celery.exceptions.TimeLimitExceeded):
            sleep_too_long.delay().get(timeout=60)
        begun = wait_at_the_door.delay(1)
        assert door.blpop("begun", 60)
        begun.revoke(terminate=True)
        with pytest.raises(celery.exceptions.TaskRevokedError):
            begun.get(timeout=60)
        # The worker is told to end while tasks run, which it finishes first.
        running = [wait_at_the_door.delay(number) for number in range(20)]
        assert all(door.blpop("begun", 60) for _ in running)
        os.kill(int(sys.argv[1]), signal.SIGTERM)
        door.rpush("go", *range(40))
        assert values(running) == list(range(20))
    """, process.pid)
    assert process.wait(40) == 0


LOCUSTFILE = """
    import gevent
    from locust import FastHttpUser, HttpUser, events

    answered = []

    @events.init.add_listener
    def count_answers(environment, **rest):
        @events.request.add_listener
        def count(**rest):
            answered.append(1)
            if len(answered) == 10:
                gevent.spawn(environment.runner.quit)

    def meet(user):
        with user.client.get("/meet?count=5&who=" + type(user).__name__, catch_response=True) as answer:
            if answer.text != "met":
                answer.failure(answer.text)

    class ByRequests(HttpUser):
        fixed_count, tasks = 5, [meet]
        wait_time = lambda self: 1000

    class ByGevent(FastHttpUser):
        fixed_count, tasks = 5, [meet]
        wait_time = lambda self: 1000
"""


def test_locust_users_meet_at_the_server(meeting_point, tmp_path):
    (tmp_path / "locustfile.py").write_text(textwrap.dedent(LOCUSTFILE), encoding="utf-8")
    before = meetings(meeting_point["url"])
    command = [sys.executable, "-m", "locust", "--headless", "-u", "10", "-r", "10", "-H",
               meeting_point["url"], "--only-summary", "-t", "40s"]
    completed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=58, check=False)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert "Traceback" not in completed.stderr, completed.stderr
    assert meetings(meeting_point["url"]) == before + 2


CHAT = """
    from gevent import monkey; monkey.patch_all()
    import sys, threading
    from flask import Flask
    from flask_socketio import SocketIO
    application = Flask(__name__)
    chat = SocketIO(application, async_mode="gevent")
    barrier = threading.Barrier(6)

    @chat.on("meet")
    def meet(word):
        barrier.wait(30)
        return word.upper()

    chat.run(application, host="127.0.0.1", port=int(sys.argv[1]))
"""


def test_flask_socketio_handles_events_at_once(tmp_path):
    program = tmp_path / "chat.py"
    program.write_text(textwrap.dedent(CHAT), encoding="utf-8")
    port = services.free_port()
    with services.start([sys.executable, str(program), str(port)], lambda: accepts(port), patience=40):
        run_script("""
            from gevent import monkey; monkey.patch_all()
            import gevent, socketio
            def talk(transport, word):
                client = socketio.Client()
                client.connect("http://127.0.0.1:" + sys.argv[1], transports=[transport], wait_timeout=30)
                try:
                    assert client.transport() == transport
                    return client.call("meet", word, timeout=40)
                finally:
                    client.disconnect()
            jobs = [gevent.spawn(talk, transport, word) for transport in ("polling", "websocket") for word in "abc"]
            gevent.joinall(jobs, raise_error=True)
            assert [job.value for job in jobs] == ["A", "B", "C"] * 2
        """, port)
