"""Looking into a running program: its threads and greenlets as text, and blocks that must switch."""
import gc
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, Self

from gevent._greenrust import get_hub, getcurrent, gettrace, greenlet, settrace
from gevent.hub import Hub
from gevent.monkey.api import get_original

__all__ = [
    "format_run_info",
    "print_run_info",
    "GreenletTree",
    "wrap_errors",
    "assert_switches",
]


class wrap_errors:
    """Make a function return the exceptions of certain classes instead of raising them.

    ``wrap_errors(errors, function)(*args, **kwargs)`` returns what *function* returns or raises, if the latter is of
    *errors* (a class or a tuple of them).
    """

    def __init__(self, errors: Any, func: Callable[..., Any]) -> None:
        self._errors = errors
        self._func = func

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self._func(*args, **kwargs)
        except self._errors as error:
            return error

    def __str__(self) -> str:
        return str(self._func)

    def __repr__(self) -> str:
        return repr(self._func)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._func, name)


def _stack_lines(frame: FrameType | None, limit: int | None) -> list[str]:
    return [] if frame is None else [line.rstrip() for line in traceback.format_stack(frame, limit)]


class GreenletTree:
    """A greenlet with those that it has spawned; made by `forest` and `current_tree`."""

    #: What `format` shows unless told otherwise.
    DEFAULT_DETAILS = {
        "running_stacks": True,
        "running_stack_limit": None,
        "spawning_stacks": True,
        "locals": True,
    }

    #: True for the tree of the greenlet that asked.
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
        """True when nobody is known to have spawned the greenlet."""
        return self.greenlet is None or self._spawner(self.greenlet) is None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.greenlet, name)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.greenlet!r} with {len(self.child_trees)} children>"

    @staticmethod
    def _spawner(target: Any) -> Any:
        reference = getattr(target, "spawning_greenlet", None)
        if reference is None:
            # Of a raw greenlet only the parent is known.
            return None if isinstance(target, Hub) else getattr(target, "parent", None)
        return reference()

    def format_lines(self, details: Any = True) -> list[str]:
        """Return lines of text; *details* is False for the names alone, or a dict as `DEFAULT_DETAILS`."""
        chosen: dict[str, Any] = {}
        if details:
            chosen = dict(self.DEFAULT_DETAILS)
            if isinstance(details, dict):
                chosen.update(details)
        return list(self._lines(chosen, ""))

    def format(self, details: Any = True) -> str:
        """Return `format_lines` as one string."""
        return "\n".join(self.format_lines(details))

    def __str__(self) -> str:
        return self.format(False)

    def _lines(self, details: dict[str, Any], indent: str) -> Iterator[str]:
        target = self.greenlet
        mark = " <<< current" if target is getcurrent() else ""
        dead = " (dead)" if target.dead else ""
        yield f"{indent}{target!r}{dead}{mark}"
        inner = indent + "|   "
        if details.get("running_stacks") and not target.dead:
            frame = sys._getframe() if target is getcurrent() else target.gr_frame
            stack = _stack_lines(frame, details.get("running_stack_limit"))
            if stack:
                yield inner + "Running:"
                yield from (inner + "  " + part for line in stack for part in line.splitlines())
        if details.get("spawning_stacks"):
            spawned_at = getattr(target, "spawning_stack", None)
            if spawned_at is not None:
                yield inner + "Spawned at:"
                lines = traceback.format_stack(spawned_at)
                yield from (inner + "  " + part for line in lines for part in line.rstrip().splitlines())
        if details.get("locals") and not isinstance(target, Hub):
            tree_locals = getattr(target, "spawn_tree_locals", None)
            if tree_locals and self.root:
                yield f"{inner}Spawn Tree Locals: {tree_locals!r}"
        for child in self.child_trees:
            yield from child._lines(details, indent + "+-- " if not indent else indent + "    ")

    @classmethod
    def forest(cls) -> list["GreenletTree"]:
        """Return the trees of all greenlets that the garbage collector knows, and of the current one."""
        found = {id(obj): obj for obj in gc.get_objects() if isinstance(obj, greenlet)}
        current = getcurrent()
        found.setdefault(id(current), current)
        trees = {ident: cls(target) for ident, target in found.items()}
        roots = []
        for ident, tree in trees.items():
            spawner = cls._spawner(found[ident])
            parent = trees.get(id(spawner)) if spawner is not None else None
            if parent is None or parent is tree:
                roots.append(tree)
            else:
                parent.add_child(tree)
        for root in roots:
            root.is_current_tree = root._contains(current)
        return roots

    def _contains(self, target: Any) -> bool:
        return self.greenlet is target or any(child._contains(target) for child in self.child_trees)

    @classmethod
    def current_tree(cls) -> "GreenletTree | None":
        """Return the tree that the current greenlet is in."""
        return next((tree for tree in cls.forest() if tree.is_current_tree), None)


def format_run_info(thread_stacks: bool = True, greenlet_stacks: bool = True, limit: int | None = None,
                    current_thread_ident: int | None = None) -> list[str]:
    """Return lines that show all threads and greenlets of the process.

    *thread_stacks* and *greenlet_stacks* show stacks, at most *limit* frames of each.
    """
    lines = ["*" * 80, "* Threads"]
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    current = current_thread_ident or get_original("threading", "get_ident")()
    for ident, frame in sys._current_frames().items():
        mark = " (current)" if ident == current else ""
        lines += ["*" * 80, f"Thread {ident:#x}{mark}: {names.get(ident, 'unknown')}"]
        if thread_stacks:
            lines += [f"  {part}" for line in _stack_lines(frame, limit) for part in line.splitlines()]
    lines += ["*" * 80, "* Greenlets", "*" * 80]
    details = {"running_stacks": greenlet_stacks, "running_stack_limit": limit, "spawning_stacks": greenlet_stacks}
    for tree in GreenletTree.forest():
        lines += tree.format_lines(details)
    return lines


def print_run_info(thread_stacks: bool = True, greenlet_stacks: bool = True, limit: int | None = None,
                   file: Any = None) -> None:
    """Print what `format_run_info` returns to *file* (standard error by default)."""
    lines = format_run_info(thread_stacks=thread_stacks, greenlet_stacks=greenlet_stacks, limit=limit)
    print("\n".join(lines), file=file if file is not None else sys.stderr)


class _FailedToSwitch(AssertionError):
    """A block that was to switch did not, or not soon enough."""


class assert_switches:
    """A context whose block must switch.

    Without *max_blocking_time*, it must switch at least once; with it, it must not run for longer than that many
    seconds without switching. With *hub_only*, only switches to the hub count. Raises a subclass of AssertionError.
    """

    def __init__(self, max_blocking_time: float | None = None, hub_only: bool = False) -> None:
        self.max_blocking_time = max_blocking_time
        self.hub_only = hub_only
        self.hub: Any = None
        self.tracer: Any = None

    def __enter__(self) -> Self:
        self.hub = get_hub()
        self._switches = 0
        self._longest = 0.0
        self._since = time.perf_counter()
        self._greenlet = getcurrent()
        self._before = gettrace()
        self.tracer = self._trace
        settrace(self.tracer)
        return self

    def _trace(self, event: str, switch: Any) -> None:
        if self._before is not None:
            self._before(event, switch)
        if event not in ("switch", "throw"):
            return
        origin, target = switch
        if origin is self._greenlet and (target is self.hub or not self.hub_only):
            self._switches += 1
            self._longest = max(self._longest, time.perf_counter() - self._since)
        elif target is self._greenlet:
            self._since = time.perf_counter()

    def __exit__(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> None:
        settrace(self._before)
        self._longest = max(self._longest, time.perf_counter() - self._since)
        self.hub = self.tracer = None
        if t is not None:
            return
        if self.max_blocking_time is None:
            if not self._switches:
                raise _FailedToSwitch("the block did not switch" + (" to the hub" if self.hub_only else ""))
        elif self._longest > self.max_blocking_time:
            raise _FailedToSwitch(
                f"the block ran for {self._longest:.3f} s without switching, more than {self.max_blocking_time} s"
            )
