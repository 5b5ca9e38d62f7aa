//! Has a signal that Python handles end the hub's wait, whenever it arrives.
//!
//! CPython's handler in the system only notes that a signal has arrived; the function in Python is called later, by
//! whoever asks (`PyErr_CheckSignals`). A system call that waits is interrupted by the signal, but one that begins just
//! after it is not. So during a long wait CPython's wake-up descriptor (`signal.set_wakeup_fd`) is the end of a pipe that
//! the hub waits for. Setting it costs two calls and as many system calls, so short waits do without: there a signal may
//! be noticed as late as [`PATIENCE`].
//!
//! A program that has set a descriptor of its own gets the bytes that arrived in ours meanwhile.
//!
//! Only the main thread's hub does this: Python's handlers run in no other.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use greenrust::hub::{Hub, LevelKey, Sink};
use greenrust::sys::Interest;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::gil::Gil;

/// How long the hub waits before it prepares for a long wait.
const PATIENCE: Duration = Duration::from_millis(10);

/// No descriptor, for CPython.
const NONE: libc::c_int = -1;

struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    /// The hub that waits for `reader`, by its address, and the wait.
    hub: usize,
    wait: LevelKey,
}

struct State {
    pipe: RefCell<Option<Pipe>>,
    /// Whether the pipe is CPython's wake-up descriptor now.
    is_set: Cell<bool>,
    /// The program's own descriptor, whose place the pipe has.
    displaced: Cell<libc::c_int>,
}

/// There is one main thread, and one wake-up descriptor of CPython.
static STATE: Gil<State> =
    Gil::new(State { pipe: RefCell::new(None), is_set: Cell::new(false), displaced: Cell::new(NONE) });

thread_local! {
    /// Whether this is the main thread, once that has been asked.
    static IS_MAIN: Cell<Option<bool>> = const { Cell::new(None) };
}

/// Returns after how long a wait has to be prepared by [`set`]; None if never: signals don't concern this thread.
#[inline]
pub fn patience() -> Option<Duration> {
    is_main_thread().then_some(PATIENCE)
}

/// Opens the descriptors, if this is the main thread: with the others of the loop, as programs count those that are open.
pub(super) fn prepare() {
    if is_main_thread() {
        ensure_pipe(Hub::current());
    }
}

#[inline]
fn is_main_thread() -> bool {
    IS_MAIN.with(Cell::get).unwrap_or_else(look_at_thread)
}

#[cold]
fn look_at_thread() -> bool {
    // SAFETY: plain queries.
    let is_main = unsafe { libc::gettid() == libc::getpid() };
    IS_MAIN.with(|known| known.set(Some(is_main)));
    is_main
}

fn ensure_pipe(hub: &Hub) {
    let mut pipe = STATE.pipe.borrow_mut();
    if pipe.as_ref().is_none_or(|pipe| pipe.hub != std::ptr::from_ref(hub) as usize) {
        // Without a descriptor left, signals are noticed as they are without this.
        *pipe = Pipe::new(hub).ok();
    }
}

/// Makes the pipe CPython's wake-up descriptor: from now on a signal ends the hub's wait. Ask for signals afterwards:
/// those that have come before don't.
pub fn set(py: Python<'_>, hub: &Hub) {
    ensure_pipe(hub);
    let pipe = STATE.pipe.borrow();
    let Some(pipe) = &*pipe else { return };
    // It refuses when the interpreter has another main thread than the process: signals are its hub's concern, then.
    if let Some(before) = set_descriptor(py, pipe.writer.as_raw_fd()) {
        STATE.displaced.set(before);
        STATE.is_set.set(true);
    }
}

/// Gives the program its own descriptor back, and what has arrived for it.
pub fn restore(py: Python<'_>) {
    if !STATE.is_set.replace(false) {
        return;
    }
    let pipe = STATE.pipe.borrow();
    let Some(pipe) = &*pipe else { return };
    let mut displaced = STATE.displaced.get();
    let present = set_descriptor(py, displaced).or_else(|| {
        // The program has closed it meanwhile.
        displaced = NONE;
        set_descriptor(py, NONE)
    });
    if let Some(present) = present
        && present != pipe.writer.as_raw_fd()
    {
        // A handler that has set another descriptor meanwhile has the last word.
        set_descriptor(py, present);
    }
    // At once: the program may close its own at any time.
    drain(pipe.reader.as_raw_fd(), displaced);
}

/// Calls `signal.set_wakeup_fd`. Returns the descriptor before; None if it is refused.
fn set_descriptor(py: Python<'_>, descriptor: libc::c_int) -> Option<libc::c_int> {
    static SET_WAKEUP_FD: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let function = SET_WAKEUP_FD
        .get_or_try_init(py, || PyResult::Ok(py.import("_signal")?.getattr("set_wakeup_fd")?.unbind()))
        .ok()?;
    function.bind(py).call1((descriptor,)).and_then(|before| before.extract()).ok()
}

/// Closes the pipe of a hub that is about to go.
pub(super) fn forget_hub(hub: &Hub) {
    let mut pipe = STATE.pipe.borrow_mut();
    if pipe.as_ref().is_some_and(|pipe| pipe.hub == std::ptr::from_ref(hub) as usize) {
        *pipe = None;
    }
}

/// In the child of a fork: this thread is the main thread now, and the pipe is the parent's.
pub(super) fn after_fork(py: Python<'_>, hub: &Hub) {
    IS_MAIN.with(|known| known.set(None));
    // The hub of another thread may have been waiting.
    restore(py);
    let pipe = STATE.pipe.take();
    if let Some(pipe) = &pipe
        && pipe.hub == std::ptr::from_ref(hub) as usize
    {
        hub.remove_level(pipe.wait);
    }
}

impl Pipe {
    fn new(hub: &Hub) -> std::io::Result<Self> {
        let mut ends = [0; 2];
        // SAFETY: the ends are new and nobody else's.
        let (reader, writer) = unsafe {
            if libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1]))
        };
        let descriptor = reader.as_raw_fd();
        // Emptied when the wait is over.
        let sink = Sink::Watcher(Rc::new(|_| ()));
        let wait = hub.add_level(descriptor, Interest { read: true, write: false }, sink)?;
        Ok(Self { reader, writer, hub: std::ptr::from_ref(hub) as usize, wait })
    }
}

/// Empties the pipe, into `target` if there is one.
fn drain(reader: libc::c_int, target: libc::c_int) {
    let mut bytes = [0u8; 512];
    loop {
        // SAFETY: system calls on a buffer of this function; neither descriptor blocks, as CPython demands it of the
        // target.
        unsafe {
            let count = libc::read(reader, bytes.as_mut_ptr().cast(), bytes.len());
            if count <= 0 {
                return;
            }
            if target != NONE {
                libc::write(target, bytes.as_ptr().cast(), count as usize);
            }
        }
    }
}
