"""What a running program is doing, as text: its threads, and the trees of its greenlets."""
import pprint
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import Any

from gevent._greenrust import describe_waits, get_reachable_greenlets, getcurrent, greenlet, running_thread
from gevent.local import all_local_dicts_for_greenlet
from gevent.monkey.api import get_original

__all__ = ["GreenletTree", "format_run_info", "print_run_info", "print_run_info_on_signal"]

#: A line of a tree: whether it is a detail of the greenlet (else the head of a child), and the text.
_Row = tuple[bool, str]


def _is_ready(target: Any) -> bool:
    ready = getattr(target, "ready", None)
    return ready is not None and bool(ready())


def _spawner_of(target: Any) -> Any:
    """Return the greenlet that has spawned *target*, or None."""
    reference = getattr(target, "spawning_greenlet", None)
    return None if reference is None else reference()


def _root_of(target: Any) -> Any:
    """Return the last parent of *target*: what its thread runs on, or what says that it is a root."""
    while target.parent is not None and not getattr(target, "greenlet_tree_is_root", False):
        target = target.parent
    return target


def _children_first(root: "GreenletTree") -> Iterator["GreenletTree"]:
    """Yield *root* and all below it, each after its children."""
    pending, ordered = [root], []
    while pending:
        tree = pending.pop()
        ordered.append(tree)
        for child in tree.child_trees:
            # A greenlet has a number once somebody has asked for it, and its text shows it only then.
            getattr(child, "minimal_ident", None)
        pending.extend(tree.child_trees)
    return reversed(ordered)


class GreenletTree:
    """A greenlet with those that it has spawned.

    `forest` makes one for each thread, `current_tree` that of the calling thread. `str` of it shows who spawned whom;
    `format` shows more. Attributes of the greenlet are in reach of the tree. The text is meant for people and may
    change.
    """

    #: What `format` shows unless told otherwise.
    DEFAULT_DETAILS: dict[str, Any] = {
        "running_stacks": True,
        "running_stack_limit": None,
        "spawning_stacks": True,
        "locals": True,
    }

    #: The greenlet at the root of the tree.
    greenlet: Any = None
    #: True for the tree of the thread that asked.
    is_current_tree = False

    def __init__(self, greenlet: Any) -> None:
        self.greenlet = greenlet
        self.child_trees: list[GreenletTree] = []

    def add_child(self, tree: "GreenletTree") -> None:
        """Add the tree of a greenlet that this one has spawned."""
        if tree is not self:
            self.child_trees.append(tree)

    @property
    def root(self) -> bool:
        """True when the greenlet has no parent."""
        return self.greenlet.parent is None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.greenlet, name)

    def __str__(self) -> str:
        return self.format(False)

    def format(self, details: Any = True) -> str:
        """Return `format_lines` as one string."""
        return "\n".join(self.format_lines(details))

    def format_lines(self, details: Any = True) -> list[str]:
        """Return lines of text; *details* is False for the names alone, or a dict that changes `DEFAULT_DETAILS`."""
        chosen: dict[str, Any] = {}
        if details:
            chosen = {**self.DEFAULT_DETAILS, **(details if isinstance(details, dict) else {})}
        rows: dict[int, list[_Row]] = {}
        for tree in _children_first(self):
            rows[id(tree)] = tree._rows(chosen, rows)
        return [text for _is_detail, text in rows[id(self)]]

    def _rows(self, details: dict[str, Any], below: dict[int, list[_Row]]) -> list[_Row]:
        """Return the lines of the greenlet and of those below it, whose own lines are in *below* and are used up."""
        rows: list[_Row] = [(False, self._label())]
        if details:
            rows += [(True, f" :    {line}") for line in self._details(details)]
        children = sorted(
            self.child_trees, key=lambda tree: (getattr(tree, "minimal_ident", -1), _is_ready(tree), id(tree.parent))
        )
        for number, child in enumerate(children, 1):
            is_last = number == len(children)
            head, *others = below.pop(id(child))
            rows.append((False, f" +--- {head[1]}"))
            for is_detail, text in others:
                # A rail leads from the greenlet to its last child. The child's own rail would stand beside it.
                if is_detail:
                    rows.append((True, ("      " if is_last else " :    ") + "      " + text[6:]))
                else:
                    rows.append((False, ("     " if is_last else " |   ") + text))
        return rows

    def _label(self) -> str:
        target = self.greenlet
        label = repr(target)
        if target:
            return label
        if not _is_ready(target):
            return label + "; not running"
        label += "; finished"
        if target.value is not None:
            return f"{label} with value {repr(target.value)[:30]}"
        if getattr(target, "exception", None) is not None:
            return f"{label} with exception {target.exception!r}"
        return label

    def _details(self, details: dict[str, Any]) -> Iterator[str]:
        target = self.greenlet
        yield f"Parent: {target.parent!r}"
        monitor = getattr(target, "gevent_monitoring_thread", None)
        if monitor is not None:
            yield f"Monitoring Thread:{monitor()!r}"
        if target and details["running_stacks"]:
            yield "Running:"
            yield from _stack_lines(_frame_of(target), details["running_stack_limit"])
        spawned_at = getattr(target, "spawning_stack", None)
        if spawned_at is not None and details["spawning_stacks"]:
            yield "Spawned at:"
            yield from _stack_lines(spawned_at, None)
        tree_locals = getattr(target, "spawn_tree_locals", None)
        if tree_locals and tree_locals is not getattr(_spawner_of(target), "spawn_tree_locals", None):
            yield "Spawn Tree Locals"
            yield from pprint.pformat(tree_locals).splitlines()
        if details["locals"]:
            yield from _local_lines(target)

    @classmethod
    def _forest(cls) -> tuple[list["GreenletTree"], "GreenletTree"]:
        own_root = _root_of(getcurrent())
        current = cls(own_root)
        current.is_current_tree = True
        trees: dict[greenlet, GreenletTree] = {own_root: current}
        roots: dict[greenlet, GreenletTree] = {own_root: current}
        for target in get_reachable_greenlets():
            spawner = _spawner_of(target)
            if spawner is None:
                # It is not known, or gone.
                spawner = _root_of(target)
            parent = trees.get(spawner)
            if parent is None:
                parent = trees[spawner] = cls(spawner)
                if spawner is _root_of(spawner):
                    roots[spawner] = parent
            # A greenlet may have been met before, as the spawner of another.
            tree = trees.get(target)
            if tree is None:
                tree = trees[target] = cls(target)
            parent.add_child(tree)
        return list(roots.values()), current

    @classmethod
    def forest(cls) -> list["GreenletTree"]:
        """Return the trees of all greenlets that the garbage collector knows: one for each thread."""
        return cls._forest()[0]

    @classmethod
    def current_tree(cls) -> "GreenletTree":
        """Return the tree of the calling thread."""
        return cls._forest()[1]


# It is known by the name of the module that offers it.
GreenletTree.__module__ = "gevent.util"


def _frame_of(target: Any) -> FrameType | None:
    """Return the innermost frame of a greenlet that was started, whatever thread it belongs to."""
    ident = running_thread(target)
    return target.gr_frame if ident is None else sys._current_frames().get(ident)


def _stack_lines(frame: FrameType | None, limit: int | None) -> list[str]:
    return [] if frame is None else "".join(traceback.format_stack(frame, limit)).splitlines()


def _local_lines(target: Any) -> Iterator[str]:
    dictionaries = all_local_dicts_for_greenlet(target)
    if dictionaries:
        yield "Greenlet Locals:"
    for (kind, ident), values in dictionaries:
        if values:
            yield f"  Local {kind} at {ident:#x}"
            yield from f"    {pprint.pformat(values)}".splitlines()


def _is_idle_worker(frame: FrameType) -> bool:
    """Say whether *frame* is that of a thread pool's thread which waits for a task."""
    return frame.f_code.co_name == "_work" and frame.f_globals.get("__name__") == "gevent.threadpool"


def _thread_lines(thread_stacks: bool, limit: int | None, current_thread_ident: int) -> Iterator[str]:
    threads = {thread.ident: thread for thread in threading.enumerate()}
    yield "*" * 80
    yield "* Threads"
    for ident, frame in sys._current_frames().items():
        yield "*" * 80
        thread = threads.get(ident)
        is_idle = thread is None and _is_idle_worker(frame)
        name = "idle threadpool worker" if is_idle else None if thread is None else thread.name
        mark = ") (CURRENT" if ident == current_thread_ident else ""
        yield f"Thread {ident:#x} ({name}{mark})\n"
        if not thread_stacks:
            yield "\t...stack elided..."
        elif not is_idle:
            yield "".join(traceback.format_stack(frame, limit))


def _greenlet_lines(greenlet_stacks: bool, limit: int | None) -> Iterator[str]:
    yield "*" * 80
    yield "* Greenlets"
    yield "*" * 80
    forest = GreenletTree.forest()
    forest.sort(key=lambda tree: "" if tree.is_current_tree else repr(tree.greenlet))
    for tree in forest:
        yield "---- Thread boundary"
        yield from tree.format_lines({"running_stacks": greenlet_stacks, "running_stack_limit": limit})


def _wait_lines() -> Iterator[str]:
    """Yield who waits for what, since when, and who waits in a circle."""
    waits = describe_waits()
    if waits:
        yield "*" * 80
        yield "* Waits"
        yield "*" * 80
        yield from waits


def format_run_info(thread_stacks: bool = True, greenlet_stacks: bool = True, limit: int | None = None,
                    current_thread_ident: int | None = None) -> list[str]:
    """Return lines that show all threads and greenlets of the process. The text is meant for people and may change.

    At the end stands what each waiting greenlet of any thread waits for, for how long, who holds the lock that it
    wants, and which greenlets wait for each other in a circle: gevent does not show that.

    *thread_stacks* and *greenlet_stacks* show stacks, at most *limit* frames of each (None: all). The stacks on which
    greenlets were spawned are always shown. *current_thread_ident* is the thread to be marked as the current one.
    """
    if current_thread_ident is None:
        current_thread_ident = get_original("_thread", "get_ident")()
    return [
        *_thread_lines(thread_stacks, limit, current_thread_ident),
        *_greenlet_lines(greenlet_stacks, limit),
        *_wait_lines(),
    ]


def print_run_info(thread_stacks: bool = True, greenlet_stacks: bool = True, limit: int | None = None,
                   file: Any = None) -> None:
    """Print what `format_run_info` returns to *file* (standard error by default)."""
    lines = format_run_info(thread_stacks=thread_stacks, greenlet_stacks=greenlet_stacks, limit=limit)
    print("\n".join(lines), file=sys.stderr if file is None else file)


def print_run_info_on_signal(signum: int = signal.SIGQUIT, file: Any = None) -> Any:
    """Have the process print what `format_run_info` returns whenever it gets the signal *signum*, and go on.

    *file* is what it is printed to (the process's own standard error by default). Returns the handler before, as
    `signal.signal` does. To be called in the main thread, else raises ValueError. Does not switch.

    The handler runs in the main thread: while that waits in a hub, too, and in a loop of Python code, but not while it
    is in C code that does not return to the interpreter. gevent has no such function.
    """

    def show(_signum: int, _frame: FrameType | None) -> None:
        stream = sys.__stderr__ if file is None else file
        if stream is None:
            return
        try:
            print_run_info(file=stream)
            stream.flush()
        except Exception:
            # What the main thread does at the moment is not to fail for the report of it.
            traceback.print_exc(file=stream)

    return get_original("signal", "signal")(signum, show)


def print_run_info_as_configured(signal_name: str) -> None:
    """Do what the environment variable GEVENT_RUN_INFO_SIGNAL asks for, with its value: ``SIGQUIT``, ``QUIT``, ...

    Raises ValueError if there is no such signal. Warns when it is not called in the main thread.
    """
    name = signal_name.strip().upper()
    signum = getattr(signal, name if name.startswith("SIG") else f"SIG{name}", None)
    if not isinstance(signum, signal.Signals):
        raise ValueError(f"GEVENT_RUN_INFO_SIGNAL must be the name of a signal such as SIGQUIT, not {signal_name!r}")
    try:
        print_run_info_on_signal(signum)
    except (ValueError, OSError) as error:
        warnings.warn(f"GEVENT_RUN_INFO_SIGNAL={signal_name} has no effect: {error}", RuntimeWarning, stacklevel=2)
