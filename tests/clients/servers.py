"""The real servers that clients talk to, each on free ports of the loopback interface with data in a folder of its own.

Each function is a context manager that takes that folder and gives the server's address as a dictionary.
"""
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import services

HERE = Path(__file__).resolve().parent
IS_ROOT = os.geteuid() == 0


def accepts(port):
    """Say whether something listens on the port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def as_user(name, folder):
    """Return what has Popen run as the user `name`, who is given the folder: some servers refuse to run as root."""
    if not IS_ROOT:
        return {}
    shutil.chown(folder, name, name)
    return {"user": name, "group": name, "extra_groups": []}


def python_server(name, *arguments):
    """Run a server of this folder, which prints nothing of interest, in a Python without patching."""
    port = services.free_port()
    command = [sys.executable, HERE / name, port, *arguments]
    return port, services.start([str(part) for part in command], lambda: accepts(port), patience=60)


@contextlib.contextmanager
def meeting_point(folder):
    port, server = python_server("meeting_server.py")
    with server:
        yield {"port": port, "url": f"http://127.0.0.1:{port}"}


@contextlib.contextmanager
def websocket_server(folder):
    port, server = python_server("websocket_server.py")
    with server:
        yield {"port": port}


@contextlib.contextmanager
def ssh_server(folder):
    port, server = python_server("ssh_server.py")
    with server:
        yield {"port": port}


@contextlib.contextmanager
def redis(folder):
    port = services.free_port()
    command = [services.find_program("redis-server"), "--port", port, "--bind", "127.0.0.1", "--save", "",
               "--appendonly", "no", "--dir", folder]
    with services.start([str(part) for part in command], lambda: accepts(port)):
        yield {"port": port, "url": f"redis://127.0.0.1:{port}/0"}


@contextlib.contextmanager
def postgresql(folder):
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    programs = max(versions, key=lambda path: int(path.parts[-3]), default=None)
    if programs is None:
        services.find_program("initdb")
    programs = Path(programs or services.find_program("initdb")).parent
    port, data = services.free_port(), folder / "data"
    user = as_user("postgres", folder)
    subprocess.run(
        [programs / "initdb", "-D", data, "-U", "tester", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"],
        check=True, cwd=folder, stdout=subprocess.DEVNULL, **user,
    )
    command = [programs / "postgres", "-D", data, "-p", port, "-k", folder, "-c", "listen_addresses=127.0.0.1",
               "-c", "fsync=off"]

    def is_ready():
        status = subprocess.run(
            [programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)], check=False, cwd=folder
        )
        return status.returncode == 0

    command = [str(part) for part in command]
    with services.start(command, is_ready, patience=60, end_by=signal.SIGINT, cwd=folder, **user):
        yield {"port": port, "dsn": f"host=127.0.0.1 port={port} user=tester dbname=postgres"}


@contextlib.contextmanager
def mariadb(folder):
    port, data, door = services.free_port(), folder / "data", folder / "socket"
    user = as_user("mysql", folder)
    subprocess.run(
        [services.find_program("mariadb-install-db"), "--no-defaults", f"--datadir={data}", "--skip-test-db",
         "--auth-root-authentication-method=normal"],
        check=True, cwd=folder, stdout=subprocess.DEVNULL, **user,
    )
    command = [services.find_program("mariadbd"), "--no-defaults", f"--datadir={data}", f"--port={port}",
               "--bind-address=127.0.0.1", f"--socket={door}", f"--pid-file={folder / 'pid'}", "--skip-name-resolve",
               "--innodb-flush-log-at-trx-commit=0"]
    with services.start(command, lambda: accepts(port), patience=60, cwd=folder, **user):
        subprocess.run(
            [services.find_program("mariadb"), "--no-defaults", "-uroot", "-S", door, "-e",
             "create database tests; create user tester@'127.0.0.1' identified by 'word'; "
             "grant all on *.* to tester@'127.0.0.1'"],
            check=True,
        )
        yield {"port": port, "user": "tester", "password": "word", "database": "tests"}


@contextlib.contextmanager
def rabbitmq(folder):
    node, mapper, distribution = (services.free_port() for _ in range(3))
    user = as_user("rabbitmq", folder)
    (folder / "plugins").write_text("[].\n")
    environment = dict(
        os.environ, HOME=str(folder), ERL_EPMD_PORT=str(mapper), ERL_EPMD_ADDRESS="127.0.0.1",
        RABBITMQ_NODENAME=f"tests{node}@localhost", RABBITMQ_NODE_IP_ADDRESS="127.0.0.1",
        RABBITMQ_NODE_PORT=str(node), RABBITMQ_DIST_PORT=str(distribution),
        RABBITMQ_MNESIA_BASE=str(folder / "mnesia"), RABBITMQ_LOG_BASE=str(folder / "log"),
        RABBITMQ_ENABLED_PLUGINS_FILE=str(folder / "plugins"), RABBITMQ_PID_FILE=str(folder / "pid"),
        RABBITMQ_CONFIG_FILE=str(folder / "none"), RABBITMQ_CONF_ENV_FILE=str(folder / "none"),
        RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS="+S 1:1 -kernel inet_dist_use_interface {127,0,0,1}",
    )
    # Erlang's register of nodes would be started in the background, and stay.
    register = services.start(
        [services.find_program("epmd"), "-address", "127.0.0.1", "-port", str(mapper)], lambda: accepts(mapper),
        env=environment, cwd=folder, **user,
    )
    # The program of the same name on PATH wants to be root.
    program = "/usr/lib/rabbitmq/bin/rabbitmq-server"
    if not os.path.exists(program):
        program = services.find_program("rabbitmq-server")
    with register, services.start(
        [program], lambda: accepts(node), patience=120, env=environment, cwd=folder, **user
    ):
        yield {"port": node, "url": f"amqp://guest:guest@127.0.0.1:{node}/%2F"}


@contextlib.contextmanager
def nginx(folder, upstream):
    """Run nginx as a reverse proxy of the server on the port `upstream`."""
    port = services.free_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(f"""
        daemon off;
        {'user root;' if IS_ROOT else ''}
        pid {folder}/pid;
        error_log stderr;
        worker_processes 1;
        events {{ worker_connections 256; }}
        http {{
            access_log off;
            client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
            uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
            upstream application {{ server 127.0.0.1:{upstream}; keepalive 32; }}
            server {{
                listen 127.0.0.1:{port};
                location / {{
                    proxy_pass http://application;
                    proxy_http_version 1.1;
                    proxy_set_header Connection "";
                    proxy_next_upstream off;
                }}
            }}
        }}
    """)
    command = [services.find_program("nginx"), "-c", str(configuration), "-e", "stderr", "-p", str(folder)]
    with services.start(command, lambda: accepts(port)):
        yield {"port": port, "url": f"http://127.0.0.1:{port}"}


def meetings(url):
    """Return how many meetings have taken place at the meeting point."""
    with urllib.request.urlopen(url + "/meetings", timeout=10) as answer:
        return int(answer.read())
