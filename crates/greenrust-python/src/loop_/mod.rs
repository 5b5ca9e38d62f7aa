//! `hub.loop`: the ILoop interface over the runtime's hub.
//!
//! A loop object owns nothing that runs: callbacks go into the hub's run queue, timers and descriptors into the hub. It
//! keeps the books: which watchers are active, how many of them keep the loop alive, who is told of errors.
//!
//! - Callbacks and greenlets share one queue, first in, first out. Watchers' priorities are kept and shown, but what is
//!   ready runs in the order in which it became so.
//! - A *private* loop, `loop(default=False)`, has no poller of its own: its watchers are in the thread's hub, and run
//!   whenever that runs. Its `run` waits until none of *its* watchers and callbacks are left.
//! - `run` in a greenlet other than the hub parks that greenlet and lets the hub run; in the hub greenlet (in a callback)
//!   it ticks the hub itself.
//! - Any thread that holds the GIL may call the methods; the watchers' functions run in the loop's own thread.

mod callback;
mod child;
mod flags;
mod io;
mod rounds;
mod signal;
pub mod signal_wakeup;
mod stat;
mod switch_interval;
mod timer;
mod turns;
mod wait;
mod watcher;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use greenrust::hub::{Body, Hub, RawGreenlet, WaitingFor, Waker};
use greenrust::stack::StackError;
use pyo3::exceptions::{PyAttributeError, PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple, PyType};

use crate::arguments::{Integer, Real, Truth};
use crate::exceptions;
use crate::gil::Gil;
use crate::host;
use crate::hub as py_hub;

use callback::PyCallback;
use rounds::Rounds;

pub use rounds::{after_fork, after_poll, before_poll, end_thread, idle, repeat_fork_watchers, wake_runners};
pub use wait::{cancel_wait, wait_watcher};
pub use watcher::PyWatcher;

struct Fields {
    /// A greenlet that never starts: it keeps the hub's memory for as long as the loop object exists.
    anchor: RawGreenlet,
    is_private: bool,
    is_default: bool,
    flags: Option<Py<PyAny>>,
    rounds: Rc<Rounds>,
    /// The active watchers, by address: the loop keeps them.
    active: RefCell<HashMap<usize, Py<PyWatcher>>>,
    /// How many active watchers (and calls of `ref`) keep the loop alive.
    references: Cell<isize>,
    /// How many callbacks wait in the run queue.
    callbacks: Cell<usize>,
    is_destroyed: Cell<bool>,
    error_handler: RefCell<Option<Py<PyAny>>>,
    /// Greenlets that wait in `run` until this private loop has nothing left.
    runners: RefCell<Vec<Waker>>,
}

/// loop(flags=None, default=None, ptr=None)
///
/// A thread's event loop. Without *default*, or with True, it is one more object for the loop of the thread's hub; with
/// False a private one, whose watchers run whenever the hub does, and whose `run` waits for them alone.
///
/// *flags* are kept for reading; *ptr* is ignored.
#[pyclass(name = "loop", module = "gevent.core", subclass, frozen, weakref)]
pub struct PyLoop {
    fields: Gil<Fields>,
}

/// The body of a greenlet that never runs.
struct Never;

impl Body for Never {
    fn run(self: Box<Self>, _greenlet: &RawGreenlet) -> RawGreenlet {
        unreachable!("nobody starts it")
    }

    fn refused(self: Box<Self>, _greenlet: &RawGreenlet, _error: StackError) {}
}

/// Returns Python, inside what the hub calls.
fn attached<'py>() -> Python<'py> {
    // SAFETY: hubs run with the GIL held.
    unsafe { Python::assume_attached() }
}

fn not_callable(object: &Bound<'_, PyAny>) -> PyErr {
    match object.repr() {
        Ok(text) => PyTypeError::new_err(format!("Expected callable, not {text}")),
        Err(error) => error,
    }
}

fn is_main_thread(py: Python<'_>) -> bool {
    let ask = || -> PyResult<bool> {
        let threading = py.import("threading")?;
        let main: u64 = threading.call_method0("main_thread")?.getattr("ident")?.extract()?;
        // SAFETY: a plain call.
        Ok(main == unsafe { pyo3::ffi::PyThread_get_thread_ident() } as u64)
    };
    ask().unwrap_or(false)
}

impl PyLoop {
    /// Makes the loop object of the calling thread's hub.
    pub fn for_thread(py: Python<'_>) -> Self {
        switch_interval::apply(py, host::runtime(py));
        Self::make(py, None, false)
    }

    fn make(py: Python<'_>, flags: Option<Py<PyAny>>, is_private: bool) -> Self {
        let hub = host::runtime(py);
        Self {
            fields: Gil::new(Fields {
                anchor: RawGreenlet::new(hub, Box::new(Never)),
                is_private,
                is_default: !is_private && is_main_thread(py),
                flags,
                rounds: Rounds::of_thread(),
                active: RefCell::default(),
                references: Cell::new(0),
                callbacks: Cell::new(0),
                is_destroyed: Cell::new(false),
                error_handler: RefCell::new(None),
                runners: RefCell::default(),
            }),
        }
    }

    /// Whether `destroy` was called.
    pub fn is_destroyed(&self) -> bool {
        self.fields.is_destroyed.get()
    }

    fn hub(&self) -> &Hub {
        // SAFETY: the anchor keeps the hub's memory; the GIL keeps its thread from using it meanwhile.
        unsafe { &*self.fields.anchor.hub() }
    }

    fn rounds(&self) -> &Rounds {
        &self.fields.rounds
    }

    fn check_open(&self) -> PyResult<()> {
        if self.fields.is_destroyed.get() {
            return Err(PyValueError::new_err("operation on destroyed loop"));
        }
        Ok(())
    }

    fn is_of_this_thread(&self) -> bool {
        std::ptr::eq(self.hub(), Hub::current())
    }

    /// Ends the wait of a hub in another thread, which must look at what was just added to it.
    fn poke(&self) {
        if !self.is_of_this_thread()
            && let Ok(remote) = self.hub().remote()
        {
            remote.wake();
        }
    }

    /// Keeps the loop alive until [`PyLoop::release`].
    fn hold(&self) {
        self.fields.references.set(self.fields.references.get() + 1);
        self.hub().hold();
    }

    fn release(&self) {
        self.fields.references.set(self.fields.references.get() - 1);
        self.hub().release();
    }

    /// Says whether a private loop has nothing left to run.
    fn is_exhausted(&self) -> bool {
        self.fields.is_destroyed.get() || (self.fields.references.get() <= 0 && self.fields.callbacks.get() == 0)
    }

    /// Wakes those who wait for a private loop, if it has nothing left.
    fn settle(&self) {
        if self.fields.is_private && self.is_exhausted() {
            self.end_runs();
        }
    }

    fn end_runs(&self) {
        for waker in self.fields.runners.take() {
            waker.unpark();
        }
    }

    /// Reports an error of a watcher's or callback's function. Runs in the hub.
    fn report(slf: &Bound<'_, Self>, context: &Bound<'_, PyAny>, error: PyErr) {
        let py = slf.py();
        if py_hub::is_end_of_thread(py, &error) {
            return;
        }
        let (kind, value, traceback) = (error.get_type(py), error.value(py).clone(), error.traceback(py));
        let arguments = (context, kind, value, traceback);
        if let Err(failure) = slf.as_any().call_method1(pyo3::intern!(py, "handle_error"), arguments) {
            py_hub::settle_failure(py, Some(context), failure);
        }
    }

    fn schedule<'py>(slf: &Bound<'py, Self>, args: &Bound<'py, PyTuple>) -> PyResult<Bound<'py, PyCallback>> {
        let py = slf.py();
        let this = slf.get();
        this.check_open()?;
        let Ok(function) = args.get_item(0) else {
            return Err(PyTypeError::new_err("run_callback() takes at least 1 positional argument (0 given)"));
        };
        let callback = PyCallback::new(function.unbind(), args.get_slice(1, args.len()).unbind());
        let callback = Bound::new(py, callback)?;
        this.fields.callbacks.set(this.fields.callbacks.get() + 1);
        let (owner, scheduled) = (slf.clone().unbind(), callback.clone().unbind());
        this.hub().push_call(move |_| {
            let py = attached();
            let owner = owner.bind(py);
            let this = owner.get();
            if !this.fields.is_destroyed.get() {
                this.fields.callbacks.set(this.fields.callbacks.get() - 1);
                PyCallback::run(scheduled.bind(py), owner);
                this.settle();
            }
        });
        Ok(callback)
    }

    /// Runs the hub from inside one of its callbacks.
    fn run_nested(&self, nowait: bool, once: bool) {
        let hub = self.hub();
        if !self.fields.is_private || nowait || once {
            hub.run(once, nowait);
            return;
        }
        while !self.is_exhausted() {
            hub.run(true, false);
        }
    }

    /// Parks the running greenlet until the loop has nothing left, or for one round.
    fn run_parked(&self, py: Python<'_>, nowait: bool, once: bool) -> PyResult<()> {
        if self.fields.is_private && !nowait && !once && self.is_exhausted() {
            return Ok(());
        }
        let (hub, waker) = host::begin_park(py, WaitingFor::Hub)?;
        let rounds = &self.fields.rounds;
        if nowait || once {
            rounds.add_tick(waker.clone(), nowait);
        } else if self.fields.is_private {
            self.fields.runners.borrow_mut().push(waker.clone());
        } else {
            rounds.add_runner(waker.clone());
        }
        let result = host::park(py, hub, &waker, None, true);
        rounds.forget(&waker);
        self.fields.runners.borrow_mut().retain(|other| *other != waker);
        result.map(drop)
    }
}

#[pymethods]
impl PyLoop {
    /// The lowest priority of watchers.
    #[classattr]
    const MINPRI: i32 = -2;
    /// The highest priority of watchers.
    #[classattr]
    const MAXPRI: i32 = 2;
    /// How fine timers are, in seconds.
    #[classattr]
    #[pyo3(name = "approx_timer_resolution")]
    const APPROX_TIMER_RESOLUTION: f64 = 0.00001;

    #[new]
    #[pyo3(signature = (flags=None, default=None, ptr=None))]
    fn new(py: Python<'_>, flags: Option<Py<PyAny>>, default: Option<bool>, ptr: Option<Py<PyAny>>) -> PyResult<Self> {
        let _ = ptr;
        if let Some(flags) = &flags {
            flags::bits(flags.bind(py))?;
        }
        Ok(Self::make(py, flags, default == Some(false)))
    }

    /// The class of all watchers.
    #[classattr]
    #[pyo3(name = "WatcherType")]
    fn watcher_type(py: Python<'_>) -> Py<PyType> {
        py.get_type::<PyWatcher>().unbind()
    }

    // -- running ----------------------------------------------------------------------------------------------

    /// run(nowait=False, once=False)
    ///
    /// Runs the loop until nothing keeps it alive. *once*: for one round; *nowait*: for one round that does not wait for
    /// events. In a greenlet other than the hub it switches: other greenlets run meanwhile.
    #[pyo3(signature = (nowait=false, once=false))]
    fn run(&self, py: Python<'_>, nowait: bool, once: bool) -> PyResult<()> {
        self.check_open()?;
        if !self.is_of_this_thread() {
            return Err(exceptions::invalid_thread_use(py, "this loop belongs to another thread"));
        }
        let hub = self.hub();
        if hub.hub_greenlet().is_some_and(|greenlet| hub.is_running(&greenlet)) {
            self.run_nested(nowait, once);
            Ok(())
        } else {
            self.run_parked(py, nowait, once)
        }
    }

    /// break_(how=1)
    ///
    /// Makes `run` return soon.
    #[pyo3(signature = (how=1))]
    fn break_(&self, how: i32) {
        let _ = how;
        if self.fields.is_private {
            self.end_runs();
        } else {
            self.hub().stop();
        }
    }

    /// Ends the loop: its watchers are stopped, its callbacks forgotten. Returns True, or None if it was destroyed already.
    fn destroy(&self, py: Python<'_>) -> Option<bool> {
        if self.fields.is_destroyed.get() {
            return None;
        }
        let active = self.fields.active.take();
        for watcher in active.into_values() {
            PyWatcher::halt(watcher.bind(py));
        }
        while self.fields.references.get() > 0 {
            self.release();
        }
        self.fields.is_destroyed.set(true);
        self.fields.callbacks.set(0);
        self.end_runs();
        drop(self.fields.error_handler.take());
        Some(true)
    }

    /// Makes the loop usable in the child of a fork, and schedules the functions of `fork` watchers.
    ///
    /// Raises OSError if there is no descriptor left.
    fn reinit(&self, py: Python<'_>) -> PyResult<()> {
        if self.fields.is_destroyed.get() {
            return Ok(());
        }
        self.hub().reinit_after_fork().map_err(|error| exceptions::os_error(&error))?;
        after_fork(py, self.hub());
        Ok(())
    }

    // -- time -------------------------------------------------------------------------------------------------

    /// The time of day in seconds since the epoch.
    fn now(&self) -> f64 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64()
    }

    /// Does nothing: `now` is never old.
    fn update_now(&self) {}

    /// Does nothing: `now` is never old.
    fn update(&self) {}

    // -- callbacks --------------------------------------------------------------------------------------------

    /// run_callback(func, *args) -> callback
    ///
    /// Has the loop call `func(*args)` soon, in the hub, where it must not block. Does not switch.
    #[pyo3(signature = (*func_and_args))]
    fn run_callback<'py>(
        slf: &Bound<'py, Self>,
        func_and_args: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyCallback>> {
        Self::schedule(slf, func_and_args)
    }

    /// run_callback_threadsafe(func, *args) -> callback
    ///
    /// As `run_callback`; from any thread.
    #[pyo3(signature = (*func_and_args))]
    fn run_callback_threadsafe<'py>(
        slf: &Bound<'py, Self>,
        func_and_args: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyCallback>> {
        Self::schedule(slf, func_and_args)
    }

    // -- watchers ---------------------------------------------------------------------------------------------

    /// io(fd, events, ref=True, priority=None) -> a watcher of a descriptor; *events*: 1 to read, 2 to write, 3 both
    #[pyo3(signature = (fd, events, r#ref=Truth(true), priority=None))]
    fn io<'py>(
        slf: &Bound<'py, Self>,
        fd: Integer<i32>,
        events: u32,
        r#ref: Truth,
        priority: Option<i32>,
    ) -> PyResult<Bound<'py, io::PyIo>> {
        Bound::new(slf.py(), io::PyIo::new(slf, fd.0, events, r#ref, priority)?)
    }

    /// closing_fd(fd) -> whether a watcher or a greenlet waited for it
    ///
    /// Ends the waits for a descriptor that is about to be closed. Watchers are called as if it were ready.
    fn closing_fd(&self, fd: Integer<i32>) -> bool {
        self.hub().close_level(fd.0)
    }

    /// timer(after, repeat=0.0, ref=True, priority=None) -> a watcher of time, in seconds
    #[pyo3(signature = (after, repeat=Real(0.0), r#ref=Truth(true), priority=None))]
    fn timer<'py>(
        slf: &Bound<'py, Self>,
        after: Real,
        repeat: Real,
        r#ref: Truth,
        priority: Option<i32>,
    ) -> PyResult<Bound<'py, timer::PyTimer>> {
        Bound::new(slf.py(), timer::PyTimer::new(slf, after, repeat, r#ref, priority)?)
    }

    /// idle(ref=True, priority=None) -> a watcher that is called in every round with nothing else to do
    #[pyo3(signature = (r#ref=Truth(true), priority=None))]
    fn idle<'py>(slf: &Bound<'py, Self>, r#ref: Truth, priority: Option<i32>) -> PyResult<Bound<'py, turns::PyIdle>> {
        Bound::new(slf.py(), turns::PyIdle::new(slf, r#ref, priority))
    }

    /// prepare(ref=True, priority=None) -> a watcher that is called before each wait for events
    #[pyo3(signature = (r#ref=Truth(true), priority=None))]
    fn prepare<'py>(
        slf: &Bound<'py, Self>,
        r#ref: Truth,
        priority: Option<i32>,
    ) -> PyResult<Bound<'py, turns::PyPrepare>> {
        Bound::new(slf.py(), turns::PyPrepare::new(slf, r#ref, priority))
    }

    /// check(ref=True, priority=None) -> a watcher that is called after each wait for events
    #[pyo3(signature = (r#ref=Truth(true), priority=None))]
    fn check<'py>(slf: &Bound<'py, Self>, r#ref: Truth, priority: Option<i32>) -> PyResult<Bound<'py, turns::PyCheck>> {
        Bound::new(slf.py(), turns::PyCheck::new(slf, r#ref, priority))
    }

    /// fork(ref=True, priority=None) -> a watcher that is called in the child of a fork
    #[pyo3(signature = (r#ref=Truth(true), priority=None))]
    fn fork<'py>(slf: &Bound<'py, Self>, r#ref: Truth, priority: Option<i32>) -> PyResult<Bound<'py, turns::PyFork>> {
        Bound::new(slf.py(), turns::PyFork::new(slf, r#ref, priority))
    }

    /// async_(ref=True, priority=None) -> a watcher that any thread can send to
    #[pyo3(signature = (r#ref=Truth(true), priority=None))]
    fn async_<'py>(
        slf: &Bound<'py, Self>,
        r#ref: Truth,
        priority: Option<i32>,
    ) -> PyResult<Bound<'py, turns::PyAsync>> {
        Bound::new(slf.py(), turns::PyAsync::new(slf, r#ref, priority))
    }

    /// The old name of `async_`.
    #[pyo3(name = "async", signature = (r#ref=Truth(true), priority=None))]
    fn async_old<'py>(
        slf: &Bound<'py, Self>,
        r#ref: Truth,
        priority: Option<i32>,
    ) -> PyResult<Bound<'py, turns::PyAsync>> {
        Self::async_(slf, r#ref, priority)
    }

    /// signal(signum, ref=True, priority=None) -> a watcher of a signal
    #[pyo3(signature = (signum, r#ref=Truth(true), priority=None))]
    fn signal<'py>(
        slf: &Bound<'py, Self>,
        signum: Integer<i32>,
        r#ref: Truth,
        priority: Option<i32>,
    ) -> PyResult<Bound<'py, signal::PySignal>> {
        Bound::new(slf.py(), signal::PySignal::new(slf, signum.0, r#ref, priority)?)
    }

    /// child(pid, trace=0, ref=True, priority=None) -> a watcher of a child process; *pid* 0: of every child
    #[pyo3(signature = (pid, trace=0, r#ref=Truth(true), priority=None))]
    fn child<'py>(
        slf: &Bound<'py, Self>,
        pid: Integer<i32>,
        trace: i32,
        r#ref: Truth,
        priority: Option<i32>,
    ) -> PyResult<Bound<'py, child::PyChild>> {
        Bound::new(slf.py(), child::PyChild::new(slf, pid.0, trace, r#ref, priority)?)
    }

    /// stat(path, interval=0.0, ref=True, priority=None) -> a watcher of a file's attributes
    #[pyo3(signature = (path, interval=0.0, r#ref=Truth(true), priority=None))]
    fn stat<'py>(
        slf: &Bound<'py, Self>,
        path: Bound<'py, PyString>,
        interval: f64,
        r#ref: Truth,
        priority: Option<i32>,
    ) -> PyResult<Bound<'py, stat::PyStat>> {
        Bound::new(slf.py(), stat::PyStat::new(slf, path, interval, r#ref, priority))
    }

    // -- errors -----------------------------------------------------------------------------------------------

    /// An object whose `handle_error(context, type, value, tb)` is told of errors; None: the hub is.
    #[getter]
    fn error_handler(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.fields.error_handler.borrow().as_ref().map(|handler| handler.clone_ref(py))
    }

    #[setter]
    fn set_error_handler(&self, handler: Option<Py<PyAny>>) {
        let old = self.fields.error_handler.replace(handler);
        drop(old);
    }

    /// handle_error(context, type, value, tb)
    ///
    /// Passes an error on to `error_handler`, else to the hub; a private loop without a handler prints it and ends `run`.
    #[pyo3(signature = (context, r#type, value, tb))]
    fn handle_error(
        &self,
        py: Python<'_>,
        context: Option<&Bound<'_, PyAny>>,
        r#type: Bound<'_, PyAny>,
        value: Bound<'_, PyAny>,
        tb: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let name = pyo3::intern!(py, "handle_error");
        if let Some(handler) = self.error_handler(py) {
            return handler.bind(py).call_method1(name, (context, r#type, value, tb)).map(drop);
        }
        if !self.fields.is_private
            && let Some(hub) = py_hub::get_hub_if_exists(py)
        {
            return hub.call_method1(name, (context, r#type, value, tb)).map(drop);
        }
        py.import("traceback")?.call_method1("print_exception", (r#type, value, tb))?;
        self.end_runs();
        Ok(())
    }

    // -- libev's extras ---------------------------------------------------------------------------------------

    /// Whether this is the main thread's hub's loop.
    #[getter]
    fn default(&self) -> bool {
        self.fields.is_default && !self.fields.is_destroyed.get()
    }

    /// Keeps the loop alive until `unref` is called as often.
    fn r#ref(&self) -> PyResult<()> {
        self.check_open()?;
        self.hold();
        Ok(())
    }

    /// Takes one `ref` back.
    fn unref(&self) -> PyResult<()> {
        self.check_open()?;
        self.release();
        self.settle();
        Ok(())
    }

    /// The name of the system's poller that is used.
    #[getter]
    fn backend(&self) -> PyResult<&'static str> {
        self.check_open()?;
        Ok("epoll")
    }

    /// libev's number of the poller.
    #[getter]
    fn backend_int(&self) -> PyResult<u32> {
        self.check_open()?;
        Ok(4)
    }

    /// The flags that the loop was made with, as a list of names.
    #[getter]
    fn origflags<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        self.check_open()?;
        match &self.fields.flags {
            None => Ok(Vec::new()),
            Some(flags) => flags::names(flags.bind(py)),
        }
    }

    /// libev's number for the flags that the loop was made with.
    #[getter]
    fn origflags_int(&self, py: Python<'_>) -> PyResult<u32> {
        self.check_open()?;
        self.fields.flags.as_ref().map_or(Ok(0), |flags| flags::bits(flags.bind(py)))
    }

    /// Raises AttributeError: signals do not come by a descriptor.
    #[getter]
    fn sigfd(&self) -> PyResult<i32> {
        Err(PyAttributeError::new_err("sigfd"))
    }

    /// 0: signals are not kept for later.
    #[getter]
    fn sig_pending(&self) -> PyResult<u32> {
        self.check_open()?;
        Ok(0)
    }

    /// How many rounds the loop has made.
    #[getter]
    fn iteration(&self) -> PyResult<u64> {
        self.check_open()?;
        Ok(self.fields.rounds.iteration())
    }

    /// 1 in a callback, 0 outside.
    #[getter]
    fn depth(&self) -> PyResult<u32> {
        self.check_open()?;
        let hub = self.hub();
        Ok(u32::from(hub.hub_greenlet().is_some_and(|greenlet| hub.is_running(&greenlet))))
    }

    /// How many watchers and calls of `ref` keep the loop alive.
    #[getter]
    fn activecnt(&self) -> PyResult<isize> {
        self.check_open()?;
        Ok(self.fields.references.get())
    }

    /// How many callbacks wait to be called.
    #[getter]
    fn pendingcnt(&self) -> PyResult<usize> {
        self.check_open()?;
        Ok(self.fields.callbacks.get())
    }

    /// The descriptor of the poller, which is readable when there are events.
    fn fileno(&self) -> PyResult<i32> {
        self.check_open()?;
        self.hub().descriptor().map_err(|error| exceptions::os_error(&error))
    }

    /// A number that tells this loop from others.
    #[getter]
    fn ptr(&self) -> usize {
        std::ptr::from_ref(self.hub()) as usize
    }

    /// Does nothing: the loop checks itself as it goes.
    fn verify(&self) -> PyResult<()> {
        self.check_open()
    }

    /// Does nothing: children are watched without SIGCHLD.
    fn install_sigchld(&self) {}

    /// Does nothing: children are watched without SIGCHLD.
    fn reset_sigchld(&self) {}

    fn _format(&self) -> String {
        if self.fields.is_destroyed.get() {
            return "destroyed".to_owned();
        }
        let default = if self.default() { " default" } else { "" };
        let private = if self.fields.is_private { " private" } else { "" };
        let (pending, references) = (self.fields.callbacks.get(), self.fields.references.get());
        let descriptor = self.fileno().map_or_else(|_| String::new(), |descriptor| format!(" fileno={descriptor}"));
        format!("epoll{default}{private} pending={pending} ref={references}{descriptor}")
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        Ok(format!("<{} at {:#x} {}>", slf.get_type().name()?, slf.as_ptr() as usize, slf.get()._format()))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if self.fields.if_made().is_none() {
            return Ok(());
        }
        match self.fields.error_handler.try_borrow() {
            Ok(handler) => visit.call(&*handler),
            Err(_) => Ok(()),
        }
    }

    fn __clear__(&self) {
        drop(self.fields.error_handler.take());
    }
}

/// Adds the module's classes to the native module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyLoop>()?;
    module.add_class::<PyCallback>()?;
    module.add_class::<PyWatcher>()?;
    module.add_class::<io::PyIo>()?;
    module.add_class::<timer::PyTimer>()?;
    module.add_class::<signal::PySignal>()?;
    module.add_class::<child::PyChild>()?;
    module.add_function(wrap_pyfunction!(child::tell_child_watchers, module)?)?;
    module.add_class::<stat::PyStat>()?;
    module.add_class::<turns::PyPrepare>()?;
    module.add_class::<turns::PyCheck>()?;
    module.add_class::<turns::PyIdle>()?;
    module.add_class::<turns::PyFork>()?;
    module.add_class::<turns::PyAsync>()?;
    switch_interval::register(module)?;
    wait::register(module)
}
