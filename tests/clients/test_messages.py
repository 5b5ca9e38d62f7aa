"""Message queues and remote shells in a patched program: a greenlet that waits for a message lets others send it."""
import textwrap

from implementation import run_script

HEAD = "from gevent import monkey; monkey.patch_all()\nimport gevent\n"


def run(source, *arguments):
    return run_script(HEAD + textwrap.dedent(source), *arguments)


def test_pika(rabbitmq):
    run("""
        import pika
        def connect():
            return pika.BlockingConnection(pika.URLParameters(sys.argv[1]))
        def answer():
            connection = connect()
            channel = connection.channel()
            channel.queue_declare("questions", exclusive=False, auto_delete=True)
            ready.set()
            for method, properties, body in channel.consume("questions", inactivity_timeout=30):
                assert method is not None, "no question came"
                channel.basic_publish("", properties.reply_to, body.upper())
                channel.basic_ack(method.delivery_tag)
                if body == b"end":
                    break
            channel.cancel()
            connection.close()
        from gevent.event import Event
        ready = Event()
        answering = gevent.spawn(answer)
        assert ready.wait(30)

        connection = connect()
        channel = connection.channel()
        replies = channel.queue_declare("", exclusive=True).method.queue
        for word in (b"one", b"two", b"end"):
            channel.basic_publish("", "questions", word, pika.BasicProperties(reply_to=replies))
            _, _, body = next(channel.consume(replies, auto_ack=True, inactivity_timeout=30))
            assert body == word.upper(), body
        channel.cancel()
        connection.close()
        answering.get()
    """, rabbitmq["url"])


def test_kombu(rabbitmq, redis):
    run("""
        import kombu
        for url in sys.argv[1:]:
            with kombu.Connection(url) as receiver, kombu.Connection(url) as sender:
                received = []
                def receive():
                    with receiver.Consumer(kombu.Queue("words", auto_delete=True), no_ack=True,
                                           callbacks=[lambda body, message: received.append(body)]):
                        ready.set()
                        while len(received) < 3:
                            receiver.drain_events(timeout=30)
                from gevent.event import Event
                ready = Event()
                receiving = gevent.spawn(receive)
                assert ready.wait(30)
                with sender.Producer() as producer:
                    for number in range(3):
                        producer.publish({"number": number}, routing_key="words")
                        with gevent.Timeout(30):
                            while len(received) <= number:
                                gevent.sleep(0.001)
                receiving.get()
                assert received == [{"number": number} for number in range(3)]
    """, rabbitmq["url"], redis["url"])


def test_pyzmq_green():
    run("""
        import zmq.green as zmq
        context = zmq.Context()
        server = context.socket(zmq.REP)
        port = server.bind_to_random_port("tcp://127.0.0.1")
        log = []
        def serve():
            for _ in range(9):
                question = server.recv()
                log.append(question)
                server.send(question.upper())
        def ask(name):
            client = context.socket(zmq.REQ)
            client.connect(f"tcp://127.0.0.1:{port}")
            for _ in range(3):
                client.send(name)
                assert client.recv() == name.upper()
            client.close()
        asking = [gevent.spawn(ask, name) for name in (b"a", b"b", b"c")]
        gevent.joinall([*asking, gevent.spawn(serve)], timeout=30, raise_error=True)
        assert sorted(log) == [b"a"] * 3 + [b"b"] * 3 + [b"c"] * 3
        receiver = context.socket(zmq.PULL)
        receiver.bind("inproc://words")
        poller = zmq.Poller()
        poller.register(receiver, zmq.POLLIN)
        polling = gevent.spawn(poller.poll, 30_000)
        gevent.sleep(0)
        sender = context.socket(zmq.PUSH)
        sender.connect("inproc://words")
        sender.send(b"word")
        assert polling.get() == [(receiver, zmq.POLLIN)]
        server.close(); receiver.close(0); sender.close(0)
        context.term()
    """)


def test_paramiko_runs_several_commands_at_once(ssh_server):
    run("""
        import paramiko
        def execute(word):
            with paramiko.SSHClient() as client:
                client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
                client.connect("127.0.0.1", int(sys.argv[1]), username="tester", password="word", allow_agent=False,
                               look_for_keys=False, timeout=30, banner_timeout=30, auth_timeout=30)
                given, output, _ = client.exec_command(word, timeout=30)
                given.write("x")
                given.flush()
                found = output.read().decode()
                return found, output.channel.recv_exit_status()
        jobs = [gevent.spawn(execute, word) for word in ("a", "b", "c")]
        gevent.joinall(jobs, raise_error=True)
        assert [job.value for job in jobs] == [("a", 0), ("b", 0), ("c", 0)]
    """, ssh_server["port"])
