//! Watchers of child processes.
//!
//! A child is watched by a descriptor of the process (pidfd), which becomes readable when it ends: in any thread, and
//! without SIGCHLD. Where the kernel gives none, and for "any child" (pid 0), the children are looked at after SIGCHLD;
//! the program's own handler of it is called all the same.
//!
//! Whoever reaps a child tells all watchers of it, in all threads, as the status can be had only once.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;

use greenrust::hub::{LevelKey, Sink};
use greenrust::sys::Interest;
use pyo3::prelude::*;

use super::rounds::List;
use super::watcher::Kind;
use super::{PyLoop, PyWatcher, attached, signal};
use crate::arguments::Truth;
use crate::exceptions;
use crate::gil::Gil;

/// libev's number of the event.
const CHILD: u32 = 0x800;

/// How the end of a child is noticed.
enum Source {
    /// Not active, or the child has ended.
    None,
    /// By a descriptor of the process.
    Descriptor(LevelKey, OwnedFd),
    /// By SIGCHLD; with the count of the signal that was seen last.
    Signal(u64),
}

pub(super) struct State {
    pid: i32,
    ended: Cell<(i32, i32)>,
    source: RefCell<Source>,
}

impl State {
    pub(super) fn details(&self) -> String {
        let (_, status) = self.ended.get();
        format!(" pid={} rstatus={status}", self.pid)
    }
}

/// The active watchers of all threads.
static WATCHERS: Gil<RefCell<Vec<Py<PyWatcher>>>> = Gil::new(RefCell::new(Vec::new()));

fn state_of<'a>(watcher: &'a Bound<'_, PyWatcher>) -> &'a State {
    match watcher.get().kind() {
        Kind::Child(state) => state,
        _ => unreachable!("only children are listed"),
    }
}

/// Opens a descriptor of a process.
fn open_process(pid: i32) -> std::io::Result<OwnedFd> {
    // SAFETY: a plain system call; what it returns is a new descriptor, closed on exec, or -1.
    unsafe {
        let descriptor = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        if descriptor < 0 {
            return Err(std::io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(descriptor as i32))
    }
}

pub(super) fn arm(watcher: &Bound<'_, PyWatcher>, state: &State) -> PyResult<()> {
    let owner = watcher.get().owner(watcher.py()).get();
    let hub = owner.hub();
    let opened = if state.pid > 0 { open_process(state.pid).ok() } else { None };
    let opened = opened.and_then(|process| {
        let kept = watcher.clone().unbind();
        let sink = Sink::Watcher(Rc::new(move |_| {
            let py = attached();
            let ended = kept.clone_ref(py);
            kept.get().owner(py).get().hub().push_call(move |_| reap(ended.bind(attached())));
        }));
        let key = hub.add_level(process.as_raw_fd(), Interest { read: true, write: false }, sink).ok()?;
        Some(Source::Descriptor(key, process))
    });
    let source = match opened {
        Some(source) => source,
        None => {
            signal::attend(hub, libc::SIGCHLD)?;
            owner.rounds().add(List::Child, watcher);
            // It may have ended before.
            let kept = watcher.clone().unbind();
            hub.push_call(move |_| reap(kept.bind(attached())));
            Source::Signal(signal::arrived(libc::SIGCHLD))
        }
    };
    state.source.replace(source);
    WATCHERS.borrow_mut().push(watcher.clone().unbind());
    Ok(())
}

pub(super) fn disarm(watcher: &Bound<'_, PyWatcher>, state: &State) {
    close_source(watcher, state);
    let listed = {
        let mut watchers = WATCHERS.borrow_mut();
        let place = watchers.iter().position(|other| other.is(watcher));
        place.map(|place| watchers.swap_remove(place))
    };
    drop(listed);
}

fn close_source(watcher: &Bound<'_, PyWatcher>, state: &State) {
    let owner = watcher.get().owner(watcher.py()).get();
    match state.source.replace(Source::None) {
        Source::None => {}
        Source::Descriptor(key, process) => {
            owner.hub().remove_level(key);
            drop(process);
        }
        Source::Signal(_) => {
            owner.rounds().remove(List::Child, watcher);
            signal::neglect(owner.hub(), libc::SIGCHLD);
        }
    }
}

/// Looks at the watcher's child, if SIGCHLD has arrived.
pub(super) fn look(watcher: &Bound<'_, PyWatcher>) {
    let arrived = signal::arrived(libc::SIGCHLD);
    let is_new = match &mut *state_of(watcher).source.borrow_mut() {
        Source::Signal(seen) => std::mem::replace(seen, arrived) != arrived,
        _ => false,
    };
    if is_new {
        let kept = watcher.clone().unbind();
        let owner = watcher.get().owner(watcher.py()).get();
        owner.hub().push_call(move |_| reap(kept.bind(attached())));
    }
}

/// Asks the system for the status of the watcher's child. Runs in the hub.
fn reap(watcher: &Bound<'_, PyWatcher>) {
    let state = state_of(watcher);
    if matches!(&*state.source.borrow(), Source::None) {
        return;
    }
    let mut status = 0;
    let wanted = if state.pid == 0 { -1 } else { state.pid };
    // SAFETY: a plain system call.
    let pid = unsafe { libc::waitpid(wanted, &mut status, libc::WNOHANG) };
    if pid > 0 {
        tell_child_watchers(watcher.py(), pid, status);
        if state.pid == 0 {
            // There may be more; the watchers' functions come before.
            let kept = watcher.clone().unbind();
            let owner = watcher.get().owner(watcher.py()).get();
            owner.hub().push_call(move |_| reap(kept.bind(attached())));
        }
    } else if pid < 0
        && state.pid != 0
        && matches!(&*state.source.borrow(), Source::Descriptor(..))
        && std::io::Error::last_os_error().raw_os_error() == Some(libc::ECHILD)
    {
        // It has ended, and somebody else has taken its status, which is lost: 0, as CPython's subprocess has it.
        tell_child_watchers(watcher.py(), state.pid, 0);
    }
}

/// tell_child_watchers(pid, status)
///
/// Tell the watchers of the child process *pid*, in all threads, that it has ended. Whoever takes its *status* from the
/// system calls this, so that it is not lost to the others. Does not switch.
#[pyfunction]
pub(super) fn tell_child_watchers(py: Python<'_>, pid: i32, status: i32) {
    let watchers: Vec<_> = WATCHERS.borrow().iter().map(|watcher| watcher.bind(py).clone()).collect();
    for watcher in watchers {
        let state = state_of(&watcher);
        if state.pid != pid && state.pid != 0 {
            continue;
        }
        state.ended.set((pid, status));
        if state.pid == pid {
            close_source(&watcher, state);
        }
        PyWatcher::feed_soon(&watcher, CHILD);
    }
}

/// In the child of a fork: the parent's children are not ours.
pub(super) fn after_fork(py: Python<'_>) {
    let watchers = WATCHERS.take();
    for watcher in watchers {
        let watcher = watcher.into_bound(py);
        if watcher.get().owner(py).get().is_of_this_thread() {
            close_source(&watcher, state_of(&watcher));
        }
    }
}

/// loop.child(pid, trace=0, ref=True, priority=None)
///
/// Calls its function when the child process ends, and takes its status; with *pid* 0 for every child. In any thread.
/// A child whose status was taken by somebody else has `rstatus` 0.
#[pyclass(name = "child", module = "gevent.core", extends = PyWatcher, subclass, frozen)]
pub struct PyChild {}

#[pymethods]
impl PyChild {
    #[new]
    #[pyo3(signature = (r#loop, pid, trace=0, r#ref=Truth(true), priority=None))]
    pub(super) fn new(
        r#loop: &Bound<'_, PyLoop>,
        pid: i32,
        trace: i32,
        r#ref: Truth,
        priority: Option<i32>,
    ) -> PyResult<PyClassInitializer<Self>> {
        if trace != 0 {
            return Err(pyo3::exceptions::PyNotImplementedError::new_err(
                "child watchers tell of the end of a process only; trace must be 0",
            ));
        }
        if pid < 0 {
            return Err(exceptions::os_error(&std::io::Error::from_raw_os_error(libc::EINVAL)));
        }
        let kind = Kind::Child(State { pid, ended: Cell::new((0, 0)), source: RefCell::new(Source::None) });
        Ok(PyClassInitializer::from(PyWatcher::new(r#loop, r#ref, priority, kind)).add_subclass(Self {}))
    }

    /// The process that is watched; 0 for any child.
    #[getter]
    fn pid(slf: &Bound<'_, Self>) -> i32 {
        state_of(slf.as_super()).pid
    }

    /// The process that ended last.
    #[getter]
    fn rpid(slf: &Bound<'_, Self>) -> i32 {
        state_of(slf.as_super()).ended.get().0
    }

    #[setter]
    fn set_rpid(slf: &Bound<'_, Self>, value: i32) {
        let ended = &state_of(slf.as_super()).ended;
        ended.set((value, ended.get().1));
    }

    /// Its status, as `os.waitpid` gives it.
    #[getter]
    fn rstatus(slf: &Bound<'_, Self>) -> i32 {
        state_of(slf.as_super()).ended.get().1
    }

    #[setter]
    fn set_rstatus(slf: &Bound<'_, Self>, value: i32) {
        let ended = &state_of(slf.as_super()).ended;
        ended.set((ended.get().0, value));
    }
}
