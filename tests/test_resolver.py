"""Look-ups of names: the resolvers, and the native one against a real name server."""
import importlib
import json
import platform
import re
import socket as stdlib
import subprocess
import sys
import threading

import gevent
import gevent.event
import gevent.os
import pytest
import services
import system_resolver
from gevent import socket
from gevent.resolver import AbstractResolver, ares, blocking, thread
from implementation import IS_GREENRUST, run_script

if IS_GREENRUST:
    from gevent.resolver import dnspython, native

native_only = pytest.mark.ours_only("the native resolver is greenrust's")
FEW_OPEN_SOCKETS = 20

RECORDS = [
    "--host-record=a.test,192.0.2.1,2001:db8::1",
    "--host-record=v4.test,192.0.2.4",
    "--host-record=v6.test,2001:db8::6",
    "--cname=alias.test,v4.test",
    "--cname=chain.test,alias.test",
    "--txt-record=text.test,no address",
    "--host-record=deep.sub.test,192.0.2.9",
    "--host-record=deep.er.sub.test,192.0.2.10",
    "--host-record=under_score.test,192.0.2.33",
    "--host-record=xn--bcher-kva.test,192.0.2.34",
    "--host-record=here.test,127.0.0.1",
    "--address=/many.test/192.0.2.77",
    "--host-record=fleeting.test,192.0.2.88,0",
    *[f"--host-record=multi.test,192.0.2.{number}" for number in (21, 22, 23)],
    # More than a datagram has room for.
    *[f"--host-record=big.test,198.51.100.{number}" for number in range(1, 151)],
]


class NameServer:
    """A dnsmasq on a loopback port; it answers NXDOMAIN for what is not among its records below test."""

    def __init__(self, folder, records=RECORDS):
        self.records = records
        self.port = services.free_port()
        self.log = folder / "log"

    def command(self):
        return [
            services.find_program("dnsmasq"), "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv",
            "--no-hosts", "--pid-file=", "--user=", "--group=", f"--port={self.port}", "--listen-address=127.0.0.1",
            "--bind-interfaces", "--local=/test/", "--local=/2.0.192.in-addr.arpa/", "--local-ttl=300", *self.records,
            "--log-queries", f"--log-facility={self.log}",
        ]

    def is_ready(self):
        with stdlib.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def questions(self, name):
        """Return the kinds of record for which `name`, in whatever case, was asked for, in order."""
        asked = rf"(?:query|auth)\[(\w+)\] {re.escape(name)} from"
        return re.findall(asked, self.log.read_text(), re.IGNORECASE)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    name_server = NameServer(tmp_path_factory.mktemp("dnsmasq"))
    with services.start(name_server.command(), name_server.is_ready):
        yield name_server


@pytest.fixture
def make():
    """Return a function that makes a resolver which is closed at the end."""
    made = []

    def make(class_, **arguments):
        made.append(class_(**arguments))
        return made[-1]

    yield make
    for resolver in made:
        resolver.close()
    gevent.sleep(0)   # the real one closes in a callback of the loop


@pytest.fixture
def resolver(server, make):
    """The resolver that has the same class and arguments in both: `ares`."""
    return make(ares.Resolver, servers=["127.0.0.1"], udp_port=server.port, tcp_port=server.port)


@pytest.fixture
def native_resolver(server, make):
    return make(native.Resolver, servers=[f"127.0.0.1:{server.port}"])


@pytest.fixture
def silent():
    """A name server that says nothing by itself: a bound UDP socket of ours, and a function that answers a question."""
    with socket.socket(type=socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        yield listener


def reply(question, address="192.0.2.99"):
    """Return an answer with one IPv4 address, without the extensions of the question."""
    end = question.index(b"\0", 12) + 5
    record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(address)
    return question[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + question[12:end] + record


def raised_by(function, *arguments):
    with pytest.raises((socket.gaierror, socket.herror)) as info:
        function(*arguments)
    return info.value


# -- choice and settings ------------------------------------------------------------------------------------------


def class_chosen_by(**environment):
    script = "import gevent; kind = type(gevent.get_hub().resolver); print(kind.__module__ + '.' + kind.__qualname__)"
    return run_script(script, env=environment).stdout.strip()


@pytest.mark.parametrize(("value", "expected"), [
    ("thread", "gevent.resolver.thread.Resolver"),
    ("block", "gevent.resolver.blocking.Resolver"),
    ("ares", "gevent.resolver.ares.Resolver"),
    ("no.such.module,nonsense,ares,thread", "gevent.resolver.ares.Resolver"),
    ("gevent.resolver.blocking.Resolver", "gevent.resolver.blocking.Resolver"),
])
def test_environment_chooses_the_resolver(value, expected):
    assert class_chosen_by(GEVENT_RESOLVER=value) == expected


@pytest.mark.ours_only("the real one needs the package dnspython, and has no native resolver")
@pytest.mark.parametrize("value", ["native", "dnspython"])
def test_environment_chooses_the_native_resolver(value):
    assert class_chosen_by(GEVENT_RESOLVER=value) == f"gevent.resolver.{value}.Resolver"


def test_threads_are_the_default():
    assert class_chosen_by(GEVENT_RESOLVER="thread") == "gevent.resolver.thread.Resolver"
    assert isinstance(gevent.get_hub().resolver, thread.Resolver)


def reimported(name):
    sys.modules.pop(name, None)
    return importlib.import_module(name)


def test_old_module_names_have_the_resolvers():
    with pytest.warns(DeprecationWarning, match="gevent.resolver_ares is deprecated"):
        resolver_ares = reimported("gevent.resolver_ares")
    with pytest.warns(DeprecationWarning, match="gevent.resolver_thread is deprecated"):
        resolver_thread = reimported("gevent.resolver_thread")
    assert resolver_ares.Resolver is ares.Resolver
    assert resolver_thread.Resolver is thread.Resolver


@pytest.mark.parametrize("variables", [
    {"GEVENTARES_SERVERS": "127.0.0.1", "GEVENTARES_UDP_PORT": "{port}", "GEVENTARES_TCP_PORT": "{port}",
     "GEVENTARES_TRIES": "2", "GEVENTARES_TIMEOUT": "60", "GEVENTARES_NDOTS": "1"},
    {"GEVENT_RESOLVER_NAMESERVERS": "127.0.0.1", "GEVENTARES_UDP_PORT": "{port}", "GEVENTARES_TCP_PORT": "{port}"},
])
def test_environment_configures_the_resolver_ares(server, variables):
    if not IS_GREENRUST and "GEVENTARES_TRIES" in variables:
        variables = {key: value for key, value in variables.items() if "PORT" in key or "SERVERS" in key}
    script = """
        from gevent import config
        # c-ares takes numbers as such alone.
        for name in ("ares_udp_port", "ares_tcp_port"):
            setattr(config, name, int(getattr(config, name)))
        from gevent import socket
        print(socket.gethostbyname("v4.test"))
    """ if not IS_GREENRUST else """
        from gevent import socket
        print(socket.gethostbyname("v4.test"))
    """
    environment = {key: value.format(port=server.port) for key, value in variables.items()}
    assert run_script(script, env={"GEVENT_RESOLVER": "ares", **environment}).stdout.strip() == "192.0.2.4"


@native_only
@pytest.mark.parametrize("name", ["native", "dnspython", "ares"])
def test_environment_names_servers_and_time(server, name):
    script = """
        from gevent import socket
        print(socket.gethostbyname("v4.test"))
    """
    environment = {"GEVENT_RESOLVER": name, "GEVENT_RESOLVER_TIMEOUT": "60",
                   "GEVENT_RESOLVER_NAMESERVERS": f"127.0.0.1:{server.port}"}
    assert run_script(script, env=environment).stdout.strip() == "192.0.2.4"


def test_resolver_of_the_hub_can_be_replaced():
    class Resolver(blocking.Resolver):
        def gethostbyname(self, hostname):
            return f"address of {hostname}"

    hub = gevent.get_hub()
    before = hub.resolver
    hub.resolver = Resolver()
    try:
        assert socket.gethostbyname("x.test") == "address of x.test"
    finally:
        hub.resolver = before
    assert socket.gethostbyname("127.0.0.1") == "127.0.0.1"


@native_only
@pytest.mark.parametrize(("arguments", "message"), [
    ({"servers": ["nonsense"]}, "nonsense"),
    ({"servers": "192.0.2.1,192.0.2.1:99999"}, "99999"),
    ({"timeout": 0}, "timeout"),
    ({"timeout": float("nan")}, "timeout"),
    ({"lifetime": -1}, "lifetime"),
    ({"tries": 0}, "tries"),
    ({"udp_port": 65536}, "65536"),
    ({"ndots": -1}, "ndots"),
])
def test_wrong_settings_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        native.Resolver(**arguments)


class Own(AbstractResolver):
    """A resolver of a program, which notes what it is asked."""

    def __init__(self, hub=None):
        self.asked = []

    def _getaddrinfo(self, *arguments):
        self.asked.append(arguments)
        return [(2, 1, 6, "", ("192.0.2.1", 80)), (10, 1, 6, "", ("2001:db8::1", 80, 0, 0))]

    def _gethostbyname_ex(self, *arguments):
        self.asked.append(arguments)
        return "name.test", ["alias.test"], ["192.0.2.2"]

    def _gethostbyaddr(self, *arguments):
        self.asked.append(arguments)
        return "host.test", [], ["192.0.2.3"]

    def _getnameinfo(self, *arguments):
        self.asked.append(arguments)
        return "host.test", "http"


def test_resolver_of_a_program_is_asked_for_names_as_bytes():
    own = Own()
    assert own.getaddrinfo("b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.test", 80, 2)[1][4][0] == "2001:db8::1"
    assert own.gethostbyname("name.test") == "192.0.2.2"
    assert own.gethostbyname_ex(b"name.test", 10) == ("name.test", ["alias.test"], ["192.0.2.2"])
    assert own.gethostbyname("") == "192.0.2.2"
    assert own.gethostbyaddr("192.0.2.9")[0] == "host.test"
    assert own.getnameinfo(("192.0.2.9", 80), 8) == ("host.test", "http")
    assert own.asked == [
        (b"xn--bcher-kva.test", 80, 2, 0, 0, 0), (b"name.test", 2), (b"name.test", 10), (b"0.0.0.0", 2),
        (b"192.0.2.9",), (b"192.0.2.9", 80, ("192.0.2.9", 80), 8),
    ]


def test_resolver_of_a_program_is_not_asked_for_what_needs_no_asking():
    own = Own()
    assert own.getaddrinfo("127.0.0.1", 80, 0, 1) == stdlib.getaddrinfo("127.0.0.1", 80, 0, 1)
    numeric = ("192.0.2.1", 80, 0, 1, 0, stdlib.AI_NUMERICHOST)
    assert own.getaddrinfo(*numeric) == stdlib.getaddrinfo(*numeric)
    assert own.getaddrinfo(None, 80) == stdlib.getaddrinfo(None, 80)
    assert own.gethostbyname("127.0.0.1") == "127.0.0.1" and own.gethostbyname("<broadcast>") == "255.255.255.255"
    assert own.gethostbyname_ex("127.0.0.1") == stdlib.gethostbyname_ex("127.0.0.1")
    assert own.gethostbyaddr("127.0.0.1") == stdlib.gethostbyaddr("127.0.0.1")
    with pytest.raises(stdlib.gaierror, match="Name or service not known"):
        own.getaddrinfo("name.test", 80, flags=stdlib.AI_NUMERICHOST)
    assert own.asked == []


@pytest.mark.parametrize(("name", "arguments", "error"), [
    ("getaddrinfo", (1, 80), TypeError),
    ("getaddrinfo", ("a" * 70, 80), UnicodeError),
    ("gethostbyname", (1,), TypeError),
    ("gethostbyaddr", (1,), TypeError),
    ("getnameinfo", ("name", 0), TypeError),
    ("getnameinfo", (("192.0.2.1", "80"), 0), TypeError),
    ("getnameinfo", (("192.0.2.1", 80), "0"), TypeError),
])
def test_resolver_of_a_program_is_not_asked_nonsense(name, arguments, error):
    own = Own()
    with pytest.raises(error):
        getattr(own, name)(*arguments)
    assert own.asked == []
    with pytest.raises(NotImplementedError):
        AbstractResolver().getaddrinfo("name.test", 80)


def refusal(resolver, name):
    with pytest.raises(stdlib.gaierror) as caught:
        resolver.gethostbyname(name)
    return caught.value.errno


@native_only
def test_flags_of_the_resolver_ares_say_how_it_asks(server, make, tmp_path):
    PRIMARY, IGNTC, NORECURSE, NOSEARCH = 2, 4, 8, 32
    files = {"resolv_conf": str(tmp_path / "resolv.conf")}
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\nsearch sub.test\noptions attempts:1\n")

    def make_ares(flags, servers=("127.0.0.1",), **arguments):
        return make(ares.Resolver, flags=flags, servers=servers, udp_port=server.port, tcp_port=server.port, **files,
                    **arguments)

    assert make_ares(0).gethostbyname("deep") == "192.0.2.9"
    assert refusal(make_ares(NOSEARCH), "deep") in (stdlib.EAI_NONAME, stdlib.EAI_AGAIN)
    # What a datagram has no room for is fetched by TCP, or left out.
    assert len(make_ares(0).gethostbyname_ex("big.test")[2]) == 150
    try:
        found = len(make_ares(IGNTC).gethostbyname_ex("big.test")[2])
    except stdlib.gaierror:
        found = 0   # a server may leave out all that it would have to cut
    assert found < 150
    # dnsmasq answers what it knows itself, and nobody is behind it.
    assert make_ares(NORECURSE).gethostbyname("v4.test") == "192.0.2.4"
    with stdlib.socket(type=stdlib.SOCK_DGRAM) as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{closed.getsockname()[1]}"
    servers = [nobody, f"127.0.0.1:{server.port}"]
    assert make_ares(0, servers, tries=1).gethostbyname("v4.test") == "192.0.2.4"
    assert refusal(make_ares(PRIMARY, servers, tries=1), "v4.test") == stdlib.EAI_AGAIN


@native_only
def test_question_says_whether_the_server_may_ask_others(make):
    for recursive in (True, False):
        with socket.socket(type=socket.SOCK_DGRAM) as name_server:
            name_server.bind(("127.0.0.1", 0))
            resolver = make(native.Resolver, servers=[f"127.0.0.1:{name_server.getsockname()[1]}"], recursive=recursive)
            asking = gevent.spawn(resolver.gethostbyname, "v4.test")
            question = name_server.recv(512)
            asking.kill()
        # RFC 1035, section 4.1.1: the bit RD.
        assert bool(question[2] & 1) is recursive


@native_only
def test_unknown_arguments_are_refused():
    for class_ in (native.Resolver, ares.Resolver, dnspython.Resolver):
        with pytest.raises(TypeError):
            class_(nonsense=1)


@native_only
def test_repr_names_the_servers(make):
    assert "192.0.2.1:53" in repr(make(native.Resolver, servers=["192.0.2.1"]))


# -- answers ------------------------------------------------------------------------------------------------------


def test_functions_give_what_the_server_says(resolver):
    found = resolver.getaddrinfo("v4.test", 80, socket.AF_INET, socket.SOCK_STREAM)
    assert [entry[4] for entry in found] == [("192.0.2.4", 80)]
    assert resolver.gethostbyname("v4.test") == "192.0.2.4"
    assert resolver.gethostbyname_ex("alias.test")[2] == ["192.0.2.4"]
    assert resolver.gethostbyaddr("192.0.2.4")[0] == "v4.test"
    assert resolver.getnameinfo(("192.0.2.4", 80), 0)[0] == "v4.test"
    assert resolver.getaddrinfo("v6.test", 80, socket.AF_INET6, socket.SOCK_STREAM)[0][4][0] == "2001:db8::6"


def test_name_that_is_not_there_is_a_gaierror(resolver):
    assert raised_by(resolver.gethostbyname, "none.test").args[0] == socket.EAI_NONAME
    assert isinstance(raised_by(resolver.getaddrinfo, "none.test", 80), socket.gaierror)


def test_answer_that_is_too_long_for_a_datagram_comes_over_tcp(resolver):
    found = resolver.getaddrinfo("big.test", 80, socket.AF_INET, socket.SOCK_STREAM)
    assert {entry[4][0] for entry in found} == {f"198.51.100.{number}" for number in range(1, 151)}


def test_connection_goes_to_the_address_of_a_name(resolver):
    hub = gevent.get_hub()
    before = hub.resolver
    hub.resolver = resolver
    try:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            accepting = gevent.spawn(listener.accept)
            with socket.create_connection(("here.test", listener.getsockname()[1])) as client:
                accepted, _ = accepting.get()
                accepted.close()
                assert client.getpeername()[0] == "127.0.0.1"
    finally:
        hub.resolver = before


@pytest.mark.parametrize("class_", [thread.Resolver, ares.Resolver])
def test_failed_look_up_is_its_callers_affair(make, errors, class_):
    """The hub reports it neither for the pool, nor for a greenlet that it ends."""
    resolver = make(class_)
    assert isinstance(raised_by(resolver.getaddrinfo, "none.invalid", "no such service"), socket.gaierror)
    if class_ is thread.Resolver:
        gevent.spawn(resolver.getaddrinfo, "none.invalid", "no such service").join()
    assert errors.getvalue() == ""


NAMES = [
    "a.test", "A.Test", "a.test.", "v4.test", "v6.test", "deep", "deep.er", "text.test", "none.test",
    "under_score.test", "bücher.test", "nodots", "outside.example.", "192.0.2.1", "192.0.2.99", "198.51.100.1",
    "127.0.0.1", "127.1", "0x7f.1", "1.2.3", "::1", "fe80::1%lo", "fe80::1%none", "2001:db8::6", "300.1.1.1",
    "1.2.3.4.5", "<broadcast>", "255.255.255.255", "0.0.0.0", "a b.test", "a$b.test", "-a.test", "a-.test", "a..test",
    ".a.test", ".", "..", "a" * 63 + ".test", "a" * 64 + ".test", "ä" * 70 + ".test", ("a" * 60 + ".") * 4 + "test",
    "a\u2024test", "", None, 5,
]
AI = stdlib
QUESTIONS = [
    *[[function, [name]] for name in [*NAMES, "alias.test", "chain.test"]
      for function in ("gethostbyname", "gethostbyname_ex", "gethostbyaddr")
      if (function, name) != ("gethostbyname_ex", "<broadcast>")],   # glibc asks servers for it
    *[["getaddrinfo", [name, *rest]] for name in [*NAMES, "alias.test", "chain.test", "multi.test"] for rest in (
        [80], [None, AI.AF_INET, AI.SOCK_STREAM],
        ["http", AI.AF_INET6, AI.SOCK_STREAM, 0, AI.AI_V4MAPPED],
        ["http", AI.AF_INET6, AI.SOCK_STREAM, 0, AI.AI_V4MAPPED | AI.AI_ALL],
        ["domain", 0, 0, 0, AI.AI_PASSIVE | AI.AI_ADDRCONFIG],
        [1, 0, 0, 0, AI.AI_NUMERICHOST],
    )],
    *[["getaddrinfo", [name, "domain", AI.AF_INET6, AI.SOCK_DGRAM]] for name in NAMES],
    # With AI_CANONNAME glibc takes another way, on which it asks servers for names that are none.
    *[["getaddrinfo", [name, 80, AI.AF_INET, AI.SOCK_STREAM, 0, AI.AI_CANONNAME]]
      for name in [*NAMES, "alias.test", "chain.test", "multi.test"]
      if name not in ("300.1.1.1", "1.2.3.4.5", "<broadcast>")],
    *[["getaddrinfo", ["a.test", *rest]] for rest in (
        ["no such service"], [-1], [70000], ["99999"], [1.5], [2 ** 70], [""], ["0"], ["-1"], [80, 99],
        [80, AI.AF_UNIX], [80, 0, 99], [80, 0, AI.SOCK_RAW], [80, 0, AI.SOCK_SEQPACKET], [80, 0, 0, AI.IPPROTO_UDP],
        [80, 0, AI.SOCK_STREAM, AI.IPPROTO_UDP], [80, 0, 0, AI.IPPROTO_SCTP], [80, 0, 0, 0, AI.AI_NUMERICSERV],
        ["http", 0, 0, 0, AI.AI_NUMERICSERV], [80, 0, 0, 0, 1 << 20], ["http", 0, AI.SOCK_DGRAM],
        ["http", 0, AI.SOCK_RAW], [80, "x"], [80, 0, 0, 0, "x"],
    )],
    *[["getaddrinfo", arguments] for arguments in (
        [None, None], [None, "http"], [None, 80, 0, 0, 0, AI.AI_PASSIVE], ["none.test", "no such service"],
        ["::1", 80, AI.AF_INET], ["127.0.0.1", 80, AI.AF_INET6],
    )],
    *[["getnameinfo", [address, flags]]
      for address in (
        ["192.0.2.1", 80], ["192.0.2.4", 53], ["192.0.2.99", 80], ["198.51.100.1", 80], ["2001:db8::6", 80],
        ["2001:db8::6", 80, 0, 0], ["::1", 22, 0, 0], ["fe80::1%lo", 22], ["fe80::1", 22, 0, 1],
        ["::ffff:192.0.2.1", 80], ["0.0.0.0", 80], ["", 80], ["192.0.2.1"], ["192.0.2.1", 80, 0], ["192.0.2.1", -1],
        ["192.0.2.1", 70000], ["::1", 22, 2 ** 21, 0], "x", ["192.0.2.1", "http"], [None, 80], 5,
      )
      for flags in (
        0, AI.NI_NUMERICHOST, AI.NI_NUMERICSERV, AI.NI_NAMEREQD, AI.NI_DGRAM, AI.NI_NOFQDN,
        AI.NI_NUMERICHOST | AI.NI_NAMEREQD, AI.NI_NUMERICHOST | AI.NI_NUMERICSERV, 1 << 20, "x", 1.5,
      )],
]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc" or sys.maxsize < 2 ** 32,
                    reason="only glibc's state on 64-bit systems can be given the port of a server")
@native_only
def test_results_and_errors_are_the_systems(server, native_resolver, monkeypatch):
    """Each function, with good and bad arguments, against glibc asking the same server."""
    monkeypatch.setenv("LOCALDOMAIN", "sub.test")
    system = subprocess.run(
        [sys.executable, system_resolver.__file__, str(server.port)], input=json.dumps(QUESTIONS), text=True,
        capture_output=True, check=True, timeout=50,
    )
    differences = [
        f"{function}{arguments}: the system {expected}, ours {ours}"
        for (function, arguments), expected in zip(QUESTIONS, json.loads(system.stdout), strict=True)
        if (ours := system_resolver.outcome(getattr(native_resolver, function), arguments)) != expected
    ]
    assert not differences, "\n".join(differences)


# -- what a look-up does not do -------------------------------------------------------------------------------------


@native_only
def test_answers_from_digits_and_from_the_hosts_file_need_no_server(silent, make, tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text("192.0.2.50 filed.test filed\n")
    resolver = make(native.Resolver, servers=[f"127.0.0.1:{silent.getsockname()[1]}"], hosts=str(hosts))
    assert resolver.gethostbyname("192.0.2.1") == "192.0.2.1"
    assert resolver.gethostbyname_ex("filed") == ("filed.test", ["filed"], ["192.0.2.50"])
    assert resolver.gethostbyaddr("192.0.2.50") == ("filed.test", ["filed"], ["192.0.2.50"])
    assert resolver.gethostbyname("any.localhost") == "127.0.0.1"
    silent.setblocking(False)
    with pytest.raises(BlockingIOError):
        silent.recv(1)


@native_only
def test_answer_is_kept_for_its_time_to_live(server, native_resolver):
    for _ in range(3):
        assert native_resolver.gethostbyname("V4.test") == "192.0.2.4"
        assert native_resolver.gethostbyname("fleeting.test") == "192.0.2.88"
    assert len(server.questions("fleeting.test")) == 3
    before = len(server.questions("V4.test"))
    native_resolver.gethostbyname("v4.TEST")
    assert len(server.questions("V4.test")) == before
    native_resolver._native.forget()
    native_resolver.gethostbyname("V4.test")
    assert len(server.questions("V4.test")) == before + 1


@native_only
def test_absence_is_remembered_if_the_server_says_for_how_long(tmp_path, make):
    # Where dnsmasq has the authority for a zone, it adds the zone's SOA record, of whose minimum that is the time.
    records = ["--auth-server=ns.zone.test,127.0.0.1", "--auth-zone=zone.test", "--host-record=a.zone.test,192.0.2.1"]
    authority = NameServer(tmp_path, records)
    with services.start(authority.command(), authority.is_ready):
        resolver = make(native.Resolver, servers=[f"127.0.0.1:{authority.port}"])
        for _ in range(3):
            assert raised_by(resolver.gethostbyname, "none.zone.test.").args[0] == socket.EAI_NONAME
            assert raised_by(resolver.getaddrinfo, "a.zone.test.", 80, socket.AF_INET6).args[0] == socket.EAI_NODATA
        assert authority.questions("none.zone.test") == ["A"]
        assert authority.questions("a.zone.test") == ["AAAA"]


@native_only
def test_files_are_read_anew_when_they_change(server, make, tmp_path):
    hosts, resolv_conf = tmp_path / "hosts", tmp_path / "resolv.conf"
    hosts.write_text("192.0.2.50 filed.test\n")
    resolv_conf.write_text("search nowhere.test\n")
    resolver = make(
        native.Resolver, servers=[f"127.0.0.1:{server.port}"], hosts=str(hosts), resolv_conf=str(resolv_conf))
    assert resolver.gethostbyname("filed.test") == "192.0.2.50"
    assert raised_by(resolver.gethostbyname, "deep").args[0] in (socket.EAI_NONAME, socket.EAI_AGAIN)

    def replace(path, text):
        new = tmp_path / "new"
        new.write_text(text)
        new.rename(path)

    replace(hosts, "192.0.2.51 filed.test\n")
    replace(resolv_conf, "search sub.test\n")
    assert resolver.gethostbyname("filed.test") == "192.0.2.51"
    assert resolver.gethostbyname("deep") == "192.0.2.9"


@native_only
def test_same_question_is_asked_once_for_all_who_wait(silent, make):
    resolver = make(native.Resolver, servers=[f"127.0.0.1:{silent.getsockname()[1]}"], timeout=600)
    waiting = [gevent.spawn(resolver.gethostbyname, "one.test") for _ in range(50)]
    question, address = silent.recvfrom(1000)
    silent.sendto(reply(question), address)
    assert {greenlet.get() for greenlet in waiting} == {"192.0.2.99"}
    silent.setblocking(False)
    with pytest.raises(BlockingIOError):
        silent.recv(1)


# -- waiting ------------------------------------------------------------------------------------------------------


def at_silent(silent, make, **arguments):
    """Return a resolver that asks `silent`, and waits for it for long."""
    return make(ares.Resolver, servers=["127.0.0.1"], udp_port=silent.getsockname()[1], timeout=600, **arguments)


def test_others_run_while_a_look_up_waits(silent, make):
    resolver = at_silent(silent, make)
    looking = gevent.spawn(resolver.gethostbyname, "slow.test.")
    question, address = silent.recvfrom(1000)
    assert not looking.ready()
    silent.sendto(reply(question), address)
    assert looking.get() == "192.0.2.99"


@pytest.mark.parametrize(
    "function", ["getaddrinfo", "gethostbyname", "gethostbyname_ex", "gethostbyaddr", "getnameinfo"])
def test_wait_ends_by_kill(silent, make, function):
    resolver = at_silent(silent, make)
    arguments = {"getaddrinfo": ("slow.test.", 80), "gethostbyaddr": ("192.0.2.1",),
                 "getnameinfo": (("192.0.2.1", 80), 0)}.get(function, ("slow.test.",))
    looking = gevent.spawn(getattr(resolver, function), *arguments)
    silent.recvfrom(1000)
    looking.kill()
    assert isinstance(looking.value, gevent.GreenletExit)


def test_wait_ends_by_timeout(silent, make):
    resolver = at_silent(silent, make)
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.01):
        resolver.gethostbyname("slow.test.")


@native_only
def test_look_up_goes_on_after_a_kill_and_its_answer_is_kept(silent, make):
    resolver = at_silent(silent, make)
    looking = gevent.spawn(resolver.gethostbyname, "slow.test.")
    question, address = silent.recvfrom(1000)
    looking.kill()
    looking = gevent.spawn(resolver.gethostbyname, "slow.test.")
    gevent.idle()
    silent.sendto(reply(question), address)
    assert looking.get() == "192.0.2.99"
    assert resolver.gethostbyname("slow.test.") == "192.0.2.99"


@native_only
def test_look_up_has_a_lifetime(silent, make):
    resolver = at_silent(silent, make, lifetime=0.01)
    assert raised_by(resolver.getaddrinfo, "slow.test.", 80).args == (
        socket.EAI_AGAIN, "Temporary failure in name resolution")


@native_only
def test_servers_that_are_silent_are_given_up(silent, make):
    port = silent.getsockname()[1]
    resolver = make(native.Resolver, servers=[f"127.0.0.1:{port}"], timeout=0.01, tries=3)
    assert raised_by(resolver.gethostbyname, "slow.test.").args[0] == socket.EAI_AGAIN
    assert len([silent.recv(1000) for _ in range(3)]) == 3
    assert raised_by(resolver.gethostbyaddr, "192.0.2.1").args == (2, "Host name lookup failure")


@native_only
def test_close_ends_the_waits_and_the_resolver_can_be_used_again(silent, make):
    resolver = at_silent(silent, make)
    looking = gevent.spawn(raised_by, resolver.gethostbyname, "slow.test.")
    silent.recvfrom(1000)
    resolver.close()
    assert looking.get().args[0] == socket.EAI_AGAIN
    assert resolver._native.load() == (0, 0)
    looking = gevent.spawn(resolver.gethostbyname, "slow.test.")
    question, address = silent.recvfrom(1000)
    silent.sendto(reply(question), address)
    assert looking.get() == "192.0.2.99"


@native_only
def test_thousands_at_once_need_few_sockets(server, native_resolver):
    most = 0

    def look_up(number):
        nonlocal most
        found = native_resolver.gethostbyname(f"host{number}.many.test")
        most = max(most, native_resolver._native.load()[1])
        return found

    greenlets = [gevent.spawn(look_up, number) for number in range(3000)]
    assert {greenlet.get() for greenlet in greenlets} == {"192.0.2.77"}
    assert 0 < most < FEW_OPEN_SOCKETS


@native_only
def test_waiting_look_up_keeps_the_loop_alive():
    run_script("""
        import gevent, socket
        from gevent.resolver.native import Resolver
        silent = socket.socket(type=socket.SOCK_DGRAM)
        silent.bind(("127.0.0.1", 0))
        resolver = Resolver(servers=[f"127.0.0.1:{silent.getsockname()[1]}"], timeout=0.01, tries=2)
        looking = gevent.spawn(resolver.gethostbyname, "slow.test.")
        looking.join()   # no LoopExit
        assert looking.exception.args[0] == socket.EAI_AGAIN
        print("done")
    """)


# -- threads and processes ------------------------------------------------------------------------------------------


@native_only
def test_each_thread_has_a_resolver_of_its_own(server, native_resolver):
    found, errors = [], []

    def run():
        own = native.Resolver(servers=[f"127.0.0.1:{server.port}"])
        found.append(own.gethostbyname("v4.test"))
        try:
            native_resolver.gethostbyname("v4.test")
        except RuntimeError as error:
            errors.append(type(error).__name__)
        with pytest.raises(RuntimeError):
            native.Resolver(hub=hub)
        own.close()
        gevent.get_hub().destroy(destroy_loop=True)

    hub = gevent.get_hub()
    worker = threading.Thread(target=run)
    worker.start()
    worker.join()
    assert found == ["192.0.2.4"]
    assert errors == ["InvalidThreadUseError"]


@native_only
def test_thread_may_end_with_its_resolver_in_use(silent):
    port = silent.getsockname()[1]

    def run():
        own = native.Resolver(servers=[f"127.0.0.1:{port}"], timeout=600)
        gevent.spawn(own.gethostbyname, "slow.test.")
        gevent.sleep(0)

    worker = threading.Thread(target=run)
    worker.start()
    worker.join()


@native_only
def test_both_processes_go_on_after_a_fork(server):
    run_script("""
        import os
        import gevent
        import gevent.os
        from gevent import socket
        from gevent.resolver.native import Resolver

        silent = socket.socket(type=socket.SOCK_DGRAM)
        silent.bind(("127.0.0.1", 0))
        hub = gevent.get_hub()
        hub.resolver = Resolver(servers=[f"127.0.0.1:{silent.getsockname()[1]}"], timeout=600)
        other = Resolver(servers=[f"127.0.0.1:{sys.argv[1]}"])
        assert other.gethostbyname("v4.test") == "192.0.2.4"
        waiting = gevent.spawn(socket.gethostbyname, "slow.test.")
        first, parent = silent.recvfrom(1000)
        pid = gevent.os.fork()
        if not pid:
            # What waited is asked anew, from another port.
            assert waiting.get() == "192.0.2.11"
            assert other.gethostbyname("deep.sub.test.") == "192.0.2.9"
            os._exit(7)
        second, child = silent.recvfrom(1000)
        assert child != parent

        def answer(question, last):
            end = question.index(b"\\0", 12) + 5
            record = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4" + bytes([192, 0, 2, last])
            return question[:2] + b"\\x81\\x80\\0\\1\\0\\1\\0\\0\\0\\0" + question[12:end] + record

        silent.sendto(answer(second, 11), child)
        assert os.waitstatus_to_exitcode(gevent.os.waitpid(pid, 0)[1]) == 7
        silent.sendto(answer(first, 10), parent)
        assert waiting.get() == "192.0.2.10"
        assert other.gethostbyname("deep.er.sub.test.") == "192.0.2.10"
    """, server.port)


@native_only
def test_hub_that_is_destroyed_closes_its_resolver(server):
    run_script("""
        import gevent, os
        from gevent import socket
        assert socket.gethostbyname("v4.test") == "192.0.2.4"
        hub = gevent.get_hub()
        hub.destroy()
        assert hub._resolver is None
        assert socket.gethostbyname("v4.test") == "192.0.2.4"
    """, env={"GEVENT_RESOLVER": "native", "GEVENT_RESOLVER_NAMESERVERS": f"127.0.0.1:{server.port}"})


@native_only
def test_patched_program_resolves_without_threads(server):
    run_script("""
        from gevent import monkey
        monkey.patch_all()
        import gevent, socket, threading
        listener = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(("here.test", listener.getsockname()[1]))
        assert socket.getfqdn("192.0.2.4") == "v4.test"
        assert gevent.get_hub()._threadpool is None
        print(client.getpeername())
    """, env={"GEVENT_RESOLVER": "native", "GEVENT_RESOLVER_NAMESERVERS": f"127.0.0.1:{server.port}"})
