"""gevent's private modules that programs import all the same: aliases, made when they are imported.

gevent keeps its parts in modules such as `gevent._compat` or `gevent._hub_primitives`, and programs (its own test
helpers among them) take names from there. The parts are elsewhere here, and `ALIASES` says where. `AliasFinder` is
asked after the finders of real files. A name that is not in the table raises ImportError or AttributeError; new code
has no reason to use any of them.
"""
import importlib
import importlib.machinery
import sys
from types import ModuleType
from typing import Any

__all__ = ["ALIASES", "AliasFinder"]

_HERE = "gevent._private_names"
_NATIVE = "gevent._greenrust"

_SOCKET = {
    "gevent.socket": "* wait cancel_wait cancel_wait_ex wait_read wait_write wait_readwrite timeout_default=_MISSING",
    "errno": "EINVAL EWOULDBLOCK EINPROGRESS EALREADY EAGAIN EISCONN EBADF EHOSTUNREACH ECONNREFUSED",
    "os": "strerror",
    _NATIVE: "get_hub Timeout",
    _HERE: "string_types integer_types exc_clear _get_memory=get_memory _wait_on_socket=wait_on_socket "
           "_resolve_addr=resolve_addr __socket__=stdlib_socket is_windows=WIN is_macos=OSX",
    "_socket": "_realsocket=socket _SocketError=error",
}

#: Alias module -> module that has the names -> the names. `new=old` renames, `*` stands for all names of `__all__` and,
#: of a module that lists none, for all public ones.
ALIASES: dict[str, dict[str, str]] = {
    "gevent._abstract_linkable": {
        _NATIVE: "getcurrent get_hub_if_exists greenlet_error=error",
        _HERE: "get_hub_noargs thread_mod_name",
    },
    "gevent._compat": {
        _HERE: "PY311 PY312 PY313 PY314 PYPY WIN LINUX OSX MAC PURE_PYTHON GLOBAL_PURE_PYTHON=PURE_PYTHON string_types "
               "integer_types text_type native_path_types hostname_types thread_mod_name iteritems itervalues xrange "
               "izip reraise exc_clear",
        "gevent._monitor": "get_this_psutil_process",
        "_imp": "imp_acquire_lock=acquire_lock imp_release_lock=release_lock",
        "abc": "ABC",
        "io": "NativeStrIO=StringIO",
        "os": "PathLike fspath _fspath=fspath fsencode fsdecode",
        "time": "perf_counter monotonic get_clock_info",
    },
    "gevent._fileobjectcommon": {
        "gevent.fileobject": "FileObjectBase FileObjectBlock FileObjectClosed FileObjectThread",
        "gevent.lock": "Semaphore DummySemaphore",
        "gevent.socket": "cancel_wait_ex",
        "errno": "EBADF",
        "io": "FileIO",
        "os": "fspath",
        _NATIVE: "get_hub",
        _HERE: "integer_types reraise OpenDescriptor",
    },
    "gevent._fileobjectposix": {
        "gevent.fileobject": "FileObjectBase FileObjectPosix GreenFileDescriptorIO=_NonBlockingRaw",
        "gevent.socket": "cancel_wait_ex wait_on_watcher=wait",
        "gevent.os": "make_nonblocking",
        "io": "BytesIO DEFAULT_BUFFER_SIZE FileIO RawIOBase UnsupportedOperation",
        "os": "_read=read _write=write _close=close",
        _NATIVE: "get_hub",
        _HERE: "reraise OpenDescriptor GreenOpenDescriptor",
    },
    "gevent._greenlet_primitives": {
        _NATIVE: "getcurrent SwitchOutGreenletWithLoop=greenlet get_reachable_greenlets",
        _HERE: "get_memory",
    },
    "gevent._hub_local": {
        _NATIVE: "get_hub get_hub_class get_hub_if_exists set_hub set_default_hub_class",
        _HERE: "get_hub_noargs get_loop",
    },
    "gevent._hub_primitives": {
        "gevent.hub": "iwait_on_objects=iwait wait_on_objects=wait WaitOperationsGreenlet=Hub",
        "gevent.socket": "wait_on_watcher=wait wait_read wait_write wait_readwrite",
        "gevent.exceptions": "ConcurrentObjectUseError",
        _NATIVE: "Waiter getcurrent SwitchOutGreenletWithLoop=greenlet",
        _HERE: "get_hub_noargs wait_on_socket _NONE",
    },
    "gevent._ident": {"gevent.hub": "IdentRegistry=_IdentRegistry", _HERE: "ValuedWeakRef"},
    "gevent._imap": {"gevent.pool": "IMap IMapUnordered", _NATIVE: "Greenlet Semaphore"},
    "gevent._patcher": {_HERE: "MAPPING"},
    "gevent._semaphore": {_NATIVE: "Semaphore BoundedSemaphore get_hub get_hub_if_exists"},
    "gevent._socket3": _SOCKET,
    "gevent._socketcommon": _SOCKET,
    "gevent._threading": {
        "_thread": "start_new_thread Lock=allocate_lock get_thread_ident=get_ident",
        _HERE: "thread_mod_name acquire_with_timeout EmptyTimeout Queue",
    },
    "gevent._util": {
        "functools": "WRAPPER_ASSIGNMENTS WRAPPER_UPDATES update_wrapper",
        _HERE: "_NONE iteritems readproperty Lazy LazyOnClass copy_globals gmctime",
    },
    "gevent._waiter": {_NATIVE: "Waiter getcurrent", _HERE: "get_hub_noargs"},
    "gevent.resolver._hostsfile": {_HERE: "HostsFile"},
    "gevent.libev": {},
    "gevent.libev.corecext": {"gevent.core": "*"},
}


def _source_names(source: ModuleType, names: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in names.split():
        if word == "*":
            every = getattr(source, "__all__", None) or [name for name in vars(source) if not name.startswith("_")]
            found.update({name: name for name in every})
        else:
            new, _, old = word.partition("=")
            found[new] = old or new
    return found


class AliasFinder:
    """Makes the modules of `ALIASES` when they are imported."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        """Return the spec of an alias module, or None."""
        if fullname not in ALIASES:
            return None
        is_package = any(name.startswith(fullname + ".") for name in ALIASES)
        return importlib.machinery.ModuleSpec(fullname, self, origin=__name__, is_package=is_package)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """Leave it to the import system to make an empty module."""

    def exec_module(self, module: ModuleType) -> None:
        """Fill an alias module with its names."""
        for source_name, names in ALIASES[module.__name__].items():
            source = importlib.import_module(source_name)
            for new, old in _source_names(source, names).items():
                setattr(module, new, getattr(source, old))

    @classmethod
    def install(cls) -> None:
        """Let imports find the alias modules, after everything else."""
        sys.meta_path.append(cls())
