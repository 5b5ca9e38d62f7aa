//! Python as the runtime's host: what happens around a switch and around a poll.
//!
//! ```text
//!   leave(from)   thread state -> from.state
//!   ── machine switch ──
//!   arrive(to)    to.state -> thread state; `to` becomes the thread's current object; the trace function is told
//! ```
//!
//! A switch carries a [`Payload`] through the thread's mailbox: the value or exception that the target's own `switch`
//! call gives back. A greenlet that the hub resumes from a park finds the mailbox empty; if it finds something, somebody
//! switched or threw to it by hand.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::time::Duration;

use greenrust::clock::Instant;
use greenrust::hub::{Host, Hub, RawGreenlet, Remote, WaitingFor, Wake, Waker};
use greenrust::wait_queue::WaitError;
use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::hub as py_hub;
use crate::loop_::{PyLoop, signal_wakeup};
use crate::lowlevel::PyGreenlet;
use crate::thread_state;
use crate::tracer::PyTracer;

/// What a raw switch brings to its target.
pub enum Payload {
    /// `switch` returns this.
    Value(Py<PyAny>),
    /// `switch` raises this.
    Throw(Box<PyErr>),
    /// The arguments of a greenlet that starts.
    Start(Py<PyTuple>, Option<Py<PyDict>>),
}

/// An exception that a shield has held back: what the runtime keeps as an interrupt.
pub struct Thrown {
    /// What to raise.
    pub error: PyErr,
    /// Who may take it back: the address of a timeout, or 0.
    pub by: usize,
}

/// What the Python face keeps for each OS thread.
pub struct Thread {
    mailbox: Cell<Option<Payload>>,
    /// The greenlet of the thread's own stack: an owned reference, as nobody else may hold one while it is suspended.
    root: Cell<*mut ffi::PyObject>,
    /// The empty tuple: an owned reference.
    nothing: Cell<*mut ffi::PyObject>,
    /// The greenlet object that runs: an owned reference, or null before the thread's first use.
    current: Cell<*mut ffi::PyObject>,
    /// The thread's `gevent.hub.Hub`: an owned reference, or null.
    pub hub: Cell<*mut ffi::PyObject>,
    /// The loop of a hub that was destroyed without it: the thread's next hub takes it.
    pub kept_loop: Cell<Option<Py<PyLoop>>>,
    trace: Cell<Option<Py<PyAny>>>,
    is_traced: Cell<bool>,
    /// Suspended greenlets that another thread dropped: they are to end here, where their code belongs.
    dropped: RefCell<Vec<Py<PyGreenlet>>>,
    /// Whether Python code may run at the next arrival: there is a trace function, or something in `dropped`.
    arrives_with_care: Cell<bool>,
    /// CPython's record of the thread, as the greenlet that left last saw it.
    state: Cell<thread_state::Running>,
    /// The greenlet object that is being deallocated and ends now, or null: whoever drops it waits for it.
    pub deallocating: Cell<*mut ffi::PyObject>,
    /// The thread's identity, as `threading.get_ident` gives it.
    ident: Cell<u64>,
    /// Whether the thread's end has begun: what is made for the thread from now on is forgotten by it.
    pub is_ending: Cell<bool>,
    /// The list of the thread's greenlets that have begun and not ended.
    first_active: Cell<*mut ffi::PyObject>,
}

thread_local! {
    static THREAD: Thread = const {
        Thread {
            mailbox: Cell::new(None),
            root: Cell::new(std::ptr::null_mut()),
            nothing: Cell::new(std::ptr::null_mut()),
            current: Cell::new(std::ptr::null_mut()),
            hub: Cell::new(std::ptr::null_mut()),
            kept_loop: Cell::new(None),
            trace: Cell::new(None),
            is_traced: Cell::new(false),
            dropped: RefCell::new(Vec::new()),
            arrives_with_care: Cell::new(false),
            state: Cell::new(std::ptr::null_mut()),
            deallocating: Cell::new(std::ptr::null_mut()),
            ident: Cell::new(0),
            is_ending: Cell::new(false),
            first_active: Cell::new(std::ptr::null_mut()),
        }
    };
}

impl Thread {
    /// Gives access to the calling thread's record.
    #[inline]
    pub fn with<R>(function: impl FnOnce(&Thread) -> R) -> R {
        THREAD.with(function)
    }

    /// Returns the record of the hub's thread, which is the calling one; None before the thread's first use.
    #[inline]
    pub fn of(hub: &'static Hub) -> Option<&'static Thread> {
        // SAFETY: null, or the address of this thread's thread-local, which outlives all use of the hub.
        unsafe { hub.host_data().cast::<Thread>().as_ref() }
    }

    /// Returns the empty tuple: what a switch without arguments brings.
    #[inline]
    pub fn nothing<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        // SAFETY: an owned reference since the thread was adopted.
        unsafe { Bound::from_borrowed_ptr(py, self.nothing.get()) }
    }

    /// Says whether the greenlet object at this address is the one that runs.
    pub fn is_current(&self, greenlet: *mut ffi::PyObject) -> bool {
        !greenlet.is_null() && self.current.get() == greenlet
    }

    fn note_care(&self) {
        self.arrives_with_care.set(self.is_traced.get() || !self.dropped.borrow().is_empty());
    }

    fn trace(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let function = self.trace.take();
        let copy = function.as_ref().map(|function| function.clone_ref(py));
        self.trace.set(function);
        copy
    }

    fn set_trace(&self, py: Python<'_>, hub: &Hub, function: Option<Py<PyAny>>) -> Option<Py<PyAny>> {
        // A tracer that only counts needs no calls: the hub counts as well.
        let is_called = function.as_ref().is_some_and(|function| {
            !function.bind(py).cast::<PyTracer>().is_ok_and(|tracer| tracer.get().only_counts())
        });
        // A trace function expects to see the hub between two greenlets.
        hub.set_detour(is_called);
        self.is_traced.set(is_called);
        self.note_care();
        self.trace.replace(function)
    }

    /// Keeps a suspended greenlet of this thread, which another one dropped, until this one can end it. Returns whether
    /// it is the first, so that the thread has to be told.
    pub fn keep_dropped(&self, greenlet: Py<PyGreenlet>) -> bool {
        self.dropped.borrow_mut().push(greenlet);
        self.arrives_with_care.set(true);
        self.dropped.borrow().len() == 1
    }

    /// Puts a payload into the mailbox, for the greenlet that is transferred to next.
    #[inline]
    pub fn send(&self, payload: Payload) {
        self.mailbox.set(Some(payload));
    }

    /// Takes what was sent to the greenlet that runs.
    #[inline]
    pub fn receive(&self) -> Option<Payload> {
        self.mailbox.take()
    }
}

/// Puts a payload into the mailbox, for the greenlet that is transferred to next.
#[inline]
pub fn send(payload: Payload) {
    THREAD.with(|thread| thread.send(payload));
}

/// Takes what was sent to the greenlet that runs.
#[inline]
pub fn receive() -> Option<Payload> {
    THREAD.with(Thread::receive)
}

/// Returns the calling thread's runtime hub, with Python as its host and a greenlet object for the thread's own stack.
#[inline]
pub fn runtime(py: Python<'_>) -> &'static Hub {
    let hub = Hub::current();
    if THREAD.with(|thread| thread.current.get().is_null()) {
        adopt_thread(py, hub);
    }
    hub
}

#[cold]
fn adopt_thread(py: Python<'_>, hub: &'static Hub) {
    static HOST: PythonHost = PythonHost;
    hub.set_host(&HOST);
    let main = PyGreenlet::for_root(py, hub.root().clone());
    hub.root().set_host(main.as_ptr().cast());
    let root = main.clone_ref(py).into_ptr();
    THREAD.with(|thread| {
        thread.current.set(main.into_ptr());
        thread.root.set(root);
        thread.ident.set(py_hub::thread_ident());
        thread.nothing.set(PyTuple::empty(py).into_any().into_ptr());
        // A thread-local stays where it is until the thread ends, and the hub is this thread's.
        hub.set_host_data(std::ptr::from_ref(thread).cast());
    });
    if !THREAD.with(|thread| thread.is_ending.get()) {
        py_hub::end_with_thread(py, hub);
    }
}

/// Forgets what is kept for the calling thread, which is about to end.
pub fn abandon_thread(py: Python<'_>, hub: &Hub) {
    loop {
        hub.set_host_data(std::ptr::null());
        let (held, objects) = THREAD.with(|thread| {
            thread.is_traced.set(false);
            thread.arrives_with_care.set(false);
            thread.first_active.set(std::ptr::null_mut());
            let held = (thread.mailbox.take(), thread.trace.take(), thread.dropped.take(), thread.kept_loop.take());
            let objects =
                [&thread.nothing, &thread.root, &thread.current].map(|held| held.replace(std::ptr::null_mut()));
            (held, objects)
        });
        let was_in_use = !objects[0].is_null();
        drop(held);
        for object in objects {
            // SAFETY: null or an owned reference that the record held.
            drop(unsafe { Bound::from_owned_ptr_or_opt(py, object) });
        }
        if !was_in_use {
            break;
        }
        // A finalizer that has run just now may have asked for the current greenlet: forget what that made, too.
    }
}

/// Returns the greenlet object that runs.
#[inline]
pub fn current(py: Python<'_>) -> Bound<'_, PyGreenlet> {
    runtime(py);
    // SAFETY: `runtime` has made sure that the pointer is an owned reference to a greenlet object.
    unsafe { Bound::from_borrowed_ptr(py, THREAD.with(|thread| thread.current.get())).cast_into_unchecked() }
}

/// Ends the suspended greenlets of the calling thread that other threads have dropped. Python code runs if there are any.
#[inline]
pub fn end_dropped(py: Python<'_>) {
    if THREAD.with(|thread| thread.arrives_with_care.get()) {
        end_dropped_now(py);
    }
}

#[cold]
fn end_dropped_now(py: Python<'_>) {
    // PyO3 puts off the drop of an object, perhaps into another thread, while it counts this one as detached.
    Python::attach(|_| {
        let dropped = THREAD.with(|thread| {
            let dropped = thread.dropped.take();
            thread.note_care();
            dropped
        });
        for greenlet in dropped {
            // The last reference, as a rule: `tp_dealloc` ends it.
            drop(greenlet.into_bound(py));
        }
    });
}

/// Sets the thread's trace function and returns the previous one.
pub fn set_trace(py: Python<'_>, function: Option<Py<PyAny>>) -> Option<Py<PyAny>> {
    let hub = runtime(py);
    THREAD.with(|thread| thread.set_trace(py, hub, function))
}

/// Replaces the trace function of `hub`'s thread, which may be another one, if it is `present`.
pub fn replace_trace_of(py: Python<'_>, hub: &Hub, present: &Bound<'_, PyAny>, function: Option<Py<PyAny>>) {
    // SAFETY: null once that thread has ended, else its record, which it can't touch while this one holds the GIL.
    let Some(thread) = (unsafe { hub.host_data().cast::<Thread>().as_ref() }) else { return };
    if thread.trace(py).is_some_and(|trace| trace.is(present)) {
        drop(thread.set_trace(py, hub, function));
    }
}

/// Returns the identity of `hub`'s thread, unless that has ended.
pub fn thread_ident_of(_py: Python<'_>, hub: &Hub) -> Option<u64> {
    // SAFETY: as in `replace_trace_of`.
    unsafe { hub.host_data().cast::<Thread>().as_ref() }.map(|thread| thread.ident.get())
}

/// Returns the greenlet object that runs in `hub`'s thread, which may be another one.
pub fn current_of(py: Python<'_>, hub: &Hub) -> Option<Py<PyAny>> {
    // SAFETY: as in `replace_trace_of`.
    let thread = unsafe { hub.host_data().cast::<Thread>().as_ref() }?;
    // SAFETY: null or an owned reference.
    unsafe { Bound::from_borrowed_ptr_or_opt(py, thread.current.get()) }.map(Bound::unbind)
}

/// Returns the thread's trace function.
pub fn trace(py: Python<'_>) -> Option<Py<PyAny>> {
    THREAD.with(|thread| thread.trace(py))
}

/// Parks the running greenlet until `waker` is used or `deadline` passes.
///
/// Returns why it goes on, never [`Wake::Foreign`] or [`Wake::Interrupted`]: these are errors here, the exception that
/// was thrown in, or `InvalidSwitchError` for a switch by hand.
///
/// # Errors
///
/// Whatever is thrown into the greenlet meanwhile: `GreenletExit`, `Timeout`, ...
pub fn park(
    py: Python<'_>,
    hub: &Hub,
    waker: &Waker,
    deadline: Option<greenrust::clock::Instant>,
    keep_alive_timer: bool,
) -> PyResult<Wake> {
    let wake = keep_alive(py, || match deadline {
        None => hub.park(waker),
        Some(deadline) => hub.park_until(waker, deadline, keep_alive_timer),
    });
    settle(py, wake)
}

/// Parks the running greenlet until the registered socket is ready: see [`Hub::wait_ready`].
///
/// # Errors
///
/// `BlockingSwitchOutError` in the hub greenlet; whatever is thrown into the greenlet meanwhile.
pub fn wait_ready(
    py: Python<'_>,
    hub: &Hub,
    descriptor: i32,
    direction: greenrust::hub::Direction,
    deadline: Option<greenrust::clock::Instant>,
    alarm: Option<&greenrust::hub::Alarm>,
) -> PyResult<Wake> {
    // As in `park`.
    let _own = THREAD.with(|thread| {
        // SAFETY: an owned reference, as in `current`.
        unsafe { Bound::from_borrowed_ptr(py, thread.current.get()) }
    });
    match hub.wait_ready(descriptor, direction, deadline, alarm) {
        Ok(wake) => settle(py, wake),
        Err(_) => Err(crate::exceptions::blocking_switch_out(py)),
    }
}

/// Turns the end of a park that the runtime did itself into a result: see [`park`].
#[inline]
pub fn settle(py: Python<'_>, wake: Wake) -> PyResult<Wake> {
    match wake {
        Wake::Unparked | Wake::TimedOut | Wake::Closed => Ok(wake),
        Wake::Foreign => Err(interruption(py)),
        Wake::Interrupted => Err(cancellation(py)),
    }
}

/// Returns the exception that ended a park.
#[cold]
#[inline(never)]
fn interruption(py: Python<'_>) -> PyErr {
    match receive() {
        Some(Payload::Throw(error)) => note_thrown(py, *error),
        Some(Payload::Value(value)) => crate::exceptions::invalid_switch(py, &value),
        Some(Payload::Start(..)) | None => PyRuntimeError::new_err("a parked greenlet was resumed without a reason"),
    }
}

/// Returns the exception for which the runtime has ended a park: what a shield had held back, or the end of all waits in
/// a cancelled scope.
#[cold]
#[inline(never)]
fn cancellation(py: Python<'_>) -> PyErr {
    let interrupt = Hub::current().running().take_interrupt().map(|interrupt| interrupt.downcast::<Thrown>());
    match interrupt {
        Some(Ok(thrown)) => note_thrown(py, thrown.error),
        Some(Err(_)) => crate::exceptions::internal("an interrupt of another face reached a Python program's wait"),
        None => crate::exceptions::Cancelled::new_err(()),
    }
}

/// Notes in the cancel scope of the running greenlet, if it is in one, what was thrown into it. Returns it.
pub fn note_thrown(py: Python<'_>, error: PyErr) -> PyErr {
    if let Some(scope) = Hub::current().running().scope() {
        scope.set_mark(thrown_mark(error.value(py)));
    }
    error
}

/// Returns a number by which an exception that was thrown is told from others: made of its address and of its type's, as
/// holding the exception itself would keep frames alive.
pub fn thrown_mark(exception: &Bound<'_, PyAny>) -> usize {
    exception.as_ptr() as usize ^ (exception.get_type().as_ptr() as usize).rotate_left(16)
}

/// Runs `wait`, a blocking call of one of the runtime's cores. The thread's hub must exist: [`py_hub::ensure`].
///
/// Returns `None` if its deadline passed first.
///
/// # Errors
///
/// As [`park`], and `BlockingSwitchOutError` in the hub greenlet.
#[inline]
pub fn block<R>(py: Python<'_>, wait: impl FnOnce() -> Result<R, WaitError>) -> PyResult<Option<R>> {
    match keep_alive(py, wait) {
        Ok(result) => Ok(Some(result)),
        Err(error) => settle_error(py, error).map(|()| None),
    }
}

/// Runs `wait`, which may park, with a reference to the running greenlet's object: nobody else needs to hold it then.
#[inline(always)]
pub fn keep_alive<R>(_py: Python<'_>, wait: impl FnOnce() -> R) -> R {
    let own = THREAD.with(|thread| thread.current.get());
    // SAFETY: an owned reference, as in `current`; given back below.
    unsafe { ffi::Py_INCREF(own) };
    let result = wait();
    // SAFETY: taken above. The thread's record holds another reference, so nothing runs here.
    unsafe { ffi::Py_DECREF(own) };
    result
}

/// Turns a core's failure into an exception; a deadline that passed is none.
#[cold]
pub fn settle_error(py: Python<'_>, error: WaitError) -> PyResult<()> {
    match error {
        WaitError::TimedOut => Ok(()),
        WaitError::ParkInHub => Err(crate::exceptions::blocking_switch_out(py)),
        WaitError::Closed => Err(crate::exceptions::internal("no descriptor was waited for")),
        WaitError::Interrupted => settle(py, Wake::Interrupted).map(drop),
        WaitError::Foreign => settle(py, Wake::Foreign).map(drop),
    }
}

/// Begins a park: see [`Hub::begin_park`]. Makes the thread's hub if need be.
///
/// # Errors
///
/// `BlockingSwitchOutError` in the hub greenlet.
#[inline]
pub fn begin_park(py: Python<'_>, waiting_for: WaitingFor) -> PyResult<(&'static Hub, Waker)> {
    let hub = py_hub::ensure(py)?;
    match hub.begin_park(waiting_for) {
        Ok(waker) => Ok((hub, waker)),
        Err(_) => Err(crate::exceptions::blocking_switch_out(py)),
    }
}

/// Lets the other greenlets that are ready go first, for a greenlet that has run for long: the hub looks whether it is time
/// to poll. In the hub greenlet, which cannot wait, it does nothing.
///
/// # Errors
///
/// What is thrown into the greenlet meanwhile.
pub fn take_turn(py: Python<'_>) -> PyResult<()> {
    let hub = py_hub::ensure(py)?;
    let Ok(waker) = hub.begin_park(WaitingFor::Turn) else { return Ok(()) };
    if !waker.greenlet().has_interrupt() {
        waker.unpark();
    }
    hub.end_turn();
    park(py, hub, &waker, None, true).map(drop)
}

/// How long a greenlet answers what a peer has sent ahead, or makes what a quick peer takes at once.
const TURN: Duration = Duration::from_millis(1);

/// As [`take_turn`], but only if no greenlet has left another one for longer than [`TURN`], as far as earlier calls tell: for
/// loops that need not wait as long as a peer keeps them busy.
///
/// # Errors
///
/// What is thrown into the greenlet meanwhile.
pub fn take_turn_if_due(py: Python<'_>) -> PyResult<()> {
    thread_local! {
        /// The hub's number of switches at a call, and when that was.
        static RUN: Cell<Option<(u64, Instant)>> = const { Cell::new(None) };
    }
    let hub = py_hub::ensure(py)?;
    let now = hub.clock().now();
    match RUN.get() {
        Some((switches, began)) if switches == hub.switches() => {
            if now.since(began) < TURN {
                return Ok(());
            }
            take_turn(py)?;
            RUN.set(Some((hub.switches(), hub.clock().now())));
        }
        _ => RUN.set(Some((hub.switches(), now))),
    }
    Ok(())
}

/// Has another thread's hub, or this thread's, run `call`. The caller sees to it that the hub is allocated.
///
/// A hub that was closed drops the call.
pub fn push_call(_py: Python<'_>, hub: *const Hub, call: impl FnOnce(&Hub) + 'static) {
    // SAFETY: allocated, says the caller; the GIL, which `_py` stands for, keeps its thread from running meanwhile.
    unsafe { &*hub }.push_call(call);
}

/// Ends another hub's wait for events, if it waits. The caller sees to it that the hub is allocated.
pub fn end_poll(_py: Python<'_>, hub: *const Hub) {
    // SAFETY: as in `push_call`.
    unsafe { &*hub }.end_poll();
}

/// Runs `work`, which wakes greenlets of another thread's hub: see [`Hub::defer_wake`]. The caller sees to it that the hub is
/// allocated.
pub fn defer_wake(_py: Python<'_>, hub: *const Hub, work: impl FnOnce()) -> Option<Remote> {
    // SAFETY: as in `push_call`.
    unsafe { &*hub }.defer_wake(work)
}

/// Counts those of the hubs, which are other threads', for which nobody has left anything to do. The caller sees to it that
/// they are allocated.
pub fn count_starving(_py: Python<'_>, hubs: &[*const Hub]) -> usize {
    // SAFETY: as in `push_call`.
    hubs.iter().filter(|hub| !unsafe { &***hub }.has_work()).count()
}

/// Takes one `hold` of another thread's hub, or this thread's, back. The caller sees to it that the hub is allocated.
pub fn release(_py: Python<'_>, hub: *const Hub) {
    // SAFETY: as in `push_call`.
    unsafe { &*hub }.release();
}

/// Python, as the runtime sees it.
struct PythonHost;

fn object(greenlet: &RawGreenlet) -> &PyGreenlet {
    // SAFETY: the host pointer of every greenlet in this process is its greenlet object, set before it can run. The
    // object is alive while the greenlet runs, is parked (its stack holds it) or is being switched to (the caller does).
    unsafe {
        let any: *mut ffi::PyObject = greenlet.host().cast();
        PyGreenlet::from_pointer(any)
    }
}

/// Returns the record of the calling thread, which is that of a greenlet that leaves or arrives.
#[inline]
fn record(greenlet: &RawGreenlet) -> &'static Thread {
    // SAFETY: the greenlet's hub is the calling thread's, and has its host's data since the thread was adopted.
    unsafe { &*(*greenlet.hub()).host_data().cast::<Thread>() }
}

impl Host for PythonHost {
    #[inline]
    fn leave(&self, from: &RawGreenlet) {
        let state = thread_state::running();
        record(from).state.set(state);
        object(from).state.save(state);
    }

    #[inline]
    fn arrive(&self, to: &RawGreenlet) {
        // Whoever left just now, in this thread, has looked it up.
        object(to).state.load(record(to).state.get());
        become_current(to);
    }

    fn begin(&self, greenlet: &RawGreenlet) {
        let stack = greenlet.stack().expect("it runs");
        object(greenlet).state.begin(&stack);
        enter_list(greenlet);
        become_current(greenlet);
    }

    fn end(&self, greenlet: &RawGreenlet) {
        leave_list(greenlet);
        object(greenlet).state.end();
    }

    fn announce(&self, waker: &Waker) -> bool {
        // SAFETY: greenlets park with the GIL held.
        let py = unsafe { Python::assume_attached() };
        let Some(object) = PyGreenlet::object_of(py, waker.greenlet()) else { return true };
        let error = match object.call_method0(pyo3::intern!(py, "switch_out")) {
            Ok(_) if waker.is_of_latest_park() => return true,
            // Whoever would end this park has been told to end another one.
            Ok(_) => crate::exceptions::wait_in_switch_out(py, &object),
            Err(error) => error,
        };
        send(Payload::Throw(Box::new(error)));
        false
    }

    fn accompany(&self, suspend: &mut dyn FnMut()) {
        // SAFETY: greenlets park with the GIL held.
        crate::aio::accompany(unsafe { Python::assume_attached() }, suspend);
    }

    fn poll(&self, wait: &mut dyn FnMut()) {
        // SAFETY: the GIL is held, and is held again when the call returns; nothing of Python's is touched between.
        unsafe {
            let saved = ffi::PyEval_SaveThread();
            wait();
            ffi::PyEval_RestoreThread(saved);
        }
    }

    fn before_poll(&self) -> bool {
        py_hub::before_poll()
    }

    #[inline]
    fn patience(&self) -> Option<Duration> {
        signal_wakeup::patience()
    }

    fn before_long_wait(&self) {
        py_hub::before_long_wait();
    }

    fn after_long_wait(&self) {
        py_hub::after_long_wait();
    }

    fn after_poll(&self) {
        py_hub::after_poll();
    }

    fn idle(&self) -> bool {
        py_hub::idle()
    }

    fn report(&self, panic: Box<dyn Any + Send>) {
        // A panic is a defect of ours: say so, and go on.
        eprintln!("greenrust: a callback of the hub panicked: {}", message_of(&*panic));
    }

    fn crash_name(&self, greenlet: &RawGreenlet, buffer: &mut [u8]) -> usize {
        object(greenlet).crash_name(buffer)
    }
}

/// Makes `to` the thread's current greenlet.
#[inline]
fn become_current(to: &RawGreenlet) {
    let arrived: *mut ffi::PyObject = to.host().cast();
    // SAFETY: the GIL is held; `object` says why the object is alive.
    unsafe { ffi::Py_INCREF(arrived) };
    let (left, needs_care) = THREAD.with(|thread| {
        (thread.current.replace(arrived), thread.arrives_with_care.get() || thread.hub.get() == arrived)
    });
    // SAFETY: `left` is the owned reference that `current` held.
    if needs_care || unsafe { ffi::Py_REFCNT(left) } == 1 {
        arrive_with_care(left, arrived);
    } else {
        // SAFETY: not the last reference, so nothing runs.
        unsafe { ffi::Py_DECREF(left) };
    }
}

/// An arrival at which Python code may run: the trace function, the hub's report of what was thrown into it, the end
/// of a greenlet that nobody refers to any more.
#[cold]
fn arrive_with_care(left: *mut ffi::PyObject, arrived: *mut ffi::PyObject) {
    // SAFETY: switches happen with the GIL held.
    let py = unsafe { Python::assume_attached() };
    // What is in flight must be neither lost nor seen by switches that such code makes.
    let mut payload = receive();
    // SAFETY: the owned reference that `current` held is given to `left`.
    let left = unsafe { Bound::from_owned_ptr(py, left) };
    let (is_traced, is_hub) = THREAD.with(|thread| (thread.is_traced.get(), thread.hub.get() == arrived));
    if is_traced {
        // SAFETY: alive: `become_current` has just taken a reference to it.
        let arrived = unsafe { Bound::from_borrowed_ptr(py, arrived) };
        payload = tell_trace(&left, &arrived, payload);
    }
    if is_hub {
        payload = match payload {
            Some(Payload::Throw(error)) => {
                py_hub::handle_error_in_hub(py, &left, *error).map(|end| Payload::Throw(Box::new(end)))
            }
            // The hub ignores values; the arguments of its own start are for its body.
            Some(Payload::Value(_)) => None,
            other => other,
        };
    }
    drop(left);
    end_dropped(py);
    THREAD.with(|thread| thread.mailbox.set(payload));
}

/// Tells the trace function of an arrival for which no stack is switched: at the running greenlet, or at one that is
/// ended before it has begun. `left` is the running one if None. Returns what arrives: what the function raises, if it does.
pub fn tell_of_arrival(
    left: Option<&Bound<'_, PyGreenlet>>,
    arrived: &Bound<'_, PyGreenlet>,
    payload: Payload,
) -> Payload {
    if !THREAD.with(|thread| thread.is_traced.get()) {
        return payload;
    }
    let py = arrived.py();
    let left = left.cloned().unwrap_or_else(|| current(py));
    let told = tell_trace(left.as_any(), arrived.as_any(), Some(payload));
    told.unwrap_or_else(|| Payload::Value(py.None()))
}

fn tell_trace(left: &Bound<'_, PyAny>, arrived: &Bound<'_, PyAny>, payload: Option<Payload>) -> Option<Payload> {
    let py = left.py();
    let Some(function) = trace(py) else { return payload };
    let event = if matches!(payload, Some(Payload::Throw(_))) { "throw" } else { "switch" };
    match function.call1(py, (event, (left, arrived))) {
        Ok(_) => payload,
        Err(error) => {
            drop(set_trace(py, None));
            Some(Payload::Throw(Box::new(error)))
        }
    }
}

/// Turns a panic of ours, which would end the process if it left a greenlet, into an exception of the greenlet's. What
/// panicked has said so on stderr.
pub fn survive<R>(call: impl FnOnce() -> PyResult<R>) -> PyResult<R> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let message = format!("greenrust has a defect, please report it: {}", message_of(&*panic));
        Err(PyRuntimeError::new_err(message))
    })
}

fn message_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

// -- the greenlets that have begun and not ended, as a list through the objects -------------------------------------

/// A greenlet object's place in its thread's list. The list owns no references.
pub struct ListPlace {
    previous: Cell<*mut ffi::PyObject>,
    next: Cell<*mut ffi::PyObject>,
}

impl Default for ListPlace {
    fn default() -> Self {
        Self { previous: Cell::new(std::ptr::null_mut()), next: Cell::new(std::ptr::null_mut()) }
    }
}

/// Enters the greenlet that begins into the list.
fn enter_list(greenlet: &RawGreenlet) {
    let this: *mut ffi::PyObject = greenlet.host().cast();
    let first = THREAD.with(|thread| thread.first_active.replace(this));
    object(greenlet).place.next.set(first);
    object(greenlet).place.previous.set(std::ptr::null_mut());
    if !first.is_null() {
        // SAFETY: what stands in the list is alive: it leaves the list when it ends.
        unsafe { PyGreenlet::from_pointer(first) }.place.previous.set(this);
    }
}

/// Takes the greenlet that ends out of the list.
fn leave_list(greenlet: &RawGreenlet) {
    let place = &object(greenlet).place;
    let (previous, next) = (place.previous.get(), place.next.get());
    if previous.is_null() {
        THREAD.with(|thread| thread.first_active.set(next));
    } else {
        // SAFETY: as in `enter_list`.
        unsafe { PyGreenlet::from_pointer(previous) }.place.next.set(next);
    }
    if !next.is_null() {
        // SAFETY: as in `enter_list`.
        unsafe { PyGreenlet::from_pointer(next) }.place.previous.set(previous);
    }
}

/// Returns the calling thread's greenlets that have begun and not ended, the latest first; not the thread's own.
pub fn active_greenlets(py: Python<'_>) -> Vec<Bound<'_, PyGreenlet>> {
    let mut found = Vec::new();
    let mut place = THREAD.with(|thread| thread.first_active.get());
    while !place.is_null() {
        // SAFETY: as in `enter_list`; the type is known.
        let greenlet: Bound<'_, PyGreenlet> = unsafe { Bound::from_borrowed_ptr(py, place).cast_into_unchecked() };
        place = greenlet.get().place.next.get();
        found.push(greenlet);
    }
    found
}
