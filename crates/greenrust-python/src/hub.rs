//! The hub as a Python object: `gevent.hub.Hub`'s native base, one for each thread, and its part in the loop.
//!
//! The Python class adds what is rarely run: reports, the thread pool, the resolver. The loop itself is the runtime's.

use std::cell::{Cell, RefCell};

use greenrust::context::State;
use greenrust::hub::{Hub, RunEnd, WaitingFor};
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::arguments::Real;
use crate::exceptions::{self, GreenletExit};
use crate::fastcall::{Arguments, FastFunction, Function};
use crate::gil::Gil;
use crate::host::{self, Payload, Thread};
use crate::loop_;
use crate::lowlevel::{self, PyGreenlet};
use crate::other_threads::{self, Patience};
use crate::run_info;
use crate::thread_state;

/// Native base of gevent.hub.Hub: the greenlet that runs a thread's event loop.
#[pyclass(name = "Hub", module = "gevent._greenrust", extends = PyGreenlet, subclass, frozen)]
pub struct PyHub {
    thread_ident: u64,
    loop_object: Gil<RefCell<Option<Py<loop_::PyLoop>>>>,
    is_destroyed: Gil<Cell<bool>>,
    awaits_threads: Gil<Cell<bool>>,
}

static DEFAULT_CLASS: PyOnceLock<Gil<RefCell<Option<Py<PyType>>>>> = PyOnceLock::new();

fn default_class(py: Python<'_>) -> PyResult<Py<PyType>> {
    let slot = DEFAULT_CLASS.get_or_init(py, || Gil::new(RefCell::new(None)));
    let known = slot.borrow().as_ref().map(|class| class.clone_ref(py));
    match known {
        Some(class) => Ok(class),
        None => {
            let class = py.import("gevent.hub")?.getattr("Hub")?.cast_into::<PyType>()?.unbind();
            slot.replace(Some(class.clone_ref(py)));
            Ok(class)
        }
    }
}

/// Makes sure that the thread has a hub, and returns the runtime's.
#[inline]
pub fn ensure(py: Python<'_>) -> PyResult<&'static Hub> {
    let hub = host::runtime(py);
    if Thread::with(|thread| thread.hub.get().is_null()) {
        make(py)?;
    }
    Ok(hub)
}

#[cold]
fn make(py: Python<'_>) -> PyResult<()> {
    let object = default_class(py)?.bind(py).call0()?;
    if Thread::with(|thread| thread.hub.get().is_null()) {
        set_hub(py, Some(object.cast_into::<PyHub>()?))?;
    }
    Ok(())
}

/// Returns the thread's hub; makes it if there is none.
#[pyfunction]
pub fn get_hub(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    ensure(py)?;
    Ok(get_hub_if_exists(py).expect("just made"))
}

/// Returns the thread's hub, or None.
#[pyfunction]
pub fn get_hub_if_exists(py: Python<'_>) -> Option<Bound<'_, PyAny>> {
    // SAFETY: null or an owned reference.
    unsafe { Bound::from_borrowed_ptr_or_opt(py, Thread::with(|thread| thread.hub.get())) }
}

/// Makes `hub` the thread's hub; None forgets the present one.
#[pyfunction]
#[pyo3(signature = (hub))]
pub fn set_hub(py: Python<'_>, hub: Option<Bound<'_, PyHub>>) -> PyResult<()> {
    let runtime = host::runtime(py);
    let raw = hub.as_ref().map(|hub| hub.as_super().get().raw().clone());
    if raw.as_ref().is_some_and(|raw| !std::ptr::eq(raw.hub(), runtime)) {
        return Err(exceptions::invalid_thread_use(py, "this hub belongs to another thread"));
    }
    if raw.is_some() {
        runtime.reserve_loop_stack().map_err(|error| exceptions::no_stack(&error))?;
    }
    runtime.set_hub_greenlet(raw);
    let old = Thread::with(|thread| thread.hub.replace(hub.map_or(std::ptr::null_mut(), |hub| hub.into_ptr())));
    // SAFETY: null or the owned reference that the record held.
    drop(unsafe { Bound::from_owned_ptr_or_opt(py, old) });
    Ok(())
}

/// Sets the class of hubs that are made from now on.
#[pyfunction]
pub fn set_default_hub_class(py: Python<'_>, hub_class: Py<PyType>) {
    let slot = DEFAULT_CLASS.get_or_init(py, || Gil::new(RefCell::new(None)));
    let old = slot.replace(Some(hub_class));
    drop(old);
}

/// Returns the class of hubs that are made from now on.
#[pyfunction]
pub fn get_hub_class(py: Python<'_>) -> PyResult<Py<PyType>> {
    default_class(py)
}

#[pymethods]
impl PyHub {
    #[new]
    #[pyo3(signature = (*args, **kwargs))]
    fn new(
        py: Python<'_>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<PyClassInitializer<Self>> {
        let _ = (args, kwargs);
        let runtime = host::runtime(py);
        // SAFETY: `runtime` has given the root greenlet its object.
        let root: Bound<'_, PyGreenlet> =
            unsafe { Bound::from_borrowed_ptr(py, runtime.root().host().cast()).cast_into_unchecked() };
        let greenlet = PyGreenlet::unstarted(py, None, Some(root.unbind()));
        let thread_ident = thread_ident();
        Ok(PyClassInitializer::from(greenlet).add_subclass(PyHub {
            thread_ident,
            loop_object: Gil::default(),
            is_destroyed: Gil::default(),
            awaits_threads: Gil::new(Cell::new(true)),
        }))
    }

    #[pyo3(signature = (*args, **kwargs))]
    fn __init__(slf: &Bound<'_, Self>, args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
        let _ = (args, kwargs);
        let py = slf.py();
        PyGreenlet::bind_object(slf.as_super());
        // A hub that can't have a poller is of no use: say so now, not at some later wait.
        host::runtime(py).descriptor().map_err(|error| exceptions::os_error(&error))?;
        // Made here, in the thread that the hub belongs to; others may ask for it.
        let kept = Thread::with(|thread| thread.kept_loop.take()).filter(|kept| !kept.get().is_destroyed());
        let loop_object = match kept {
            Some(kept) => kept,
            None => Py::new(py, loop_::PyLoop::for_thread(py))?,
        };
        let old = slf.get().loop_object.replace(Some(loop_object));
        drop(old);
        if get_hub_if_exists(py).is_none() {
            set_hub(py, Some(slf.clone()))?;
        }
        Ok(())
    }

    /// Whether the hub has been of use yet. Its greenlet itself begins when nobody else can go on.
    fn __bool__(slf: &Bound<'_, Self>) -> bool {
        let greenlet = slf.as_super().get();
        greenlet.is_active() || greenlet.hub().switches() > 0
    }

    /// The thread that the hub belongs to, as `threading.get_ident` gives it.
    #[getter]
    fn thread_ident(&self) -> u64 {
        self.thread_ident
    }

    /// The hub's `loop`: watchers and callbacks.
    #[getter(r#loop)]
    fn loop_getter(&self, py: Python<'_>) -> Option<Py<loop_::PyLoop>> {
        if self.is_destroyed.get() {
            return None;
        }
        self.loop_object.borrow().as_ref().map(|existing| existing.clone_ref(py))
    }

    /// Parts the hub from its loop: `loop` is None from now on. With `keep`, the thread's next hub has that loop again.
    fn forget_loop(&self, keep: bool) {
        self.is_destroyed.set(true);
        let own = self.loop_object.take();
        if keep && self.thread_ident == thread_ident() {
            drop(Thread::with(|thread| thread.kept_loop.replace(own)));
        }
    }

    /// switch() -> what somebody switches back with
    ///
    /// Suspends the running greenlet and lets the loop go on.
    fn switch(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let is_own = Thread::with(|thread| thread.hub.get() == slf.as_ptr());
        if is_own {
            if let Ok(hook) = host::current(py).getattr(pyo3::intern!(py, "switch_out")) {
                hook.call0()?;
            }
            return lowlevel::switch_to_hub(py);
        }
        PyGreenlet::enter(slf.as_super(), Payload::Start(PyTuple::empty(py).unbind(), None))
    }

    /// Whether a loop that has nothing left waits for other threads, as long as there are some: they may wake a greenlet.
    #[getter]
    fn awaits_threads(&self) -> bool {
        self.awaits_threads.get()
    }

    #[setter]
    fn set_awaits_threads(&self, flag: bool) {
        self.awaits_threads.set(flag);
    }

    /// Runs the loop until nothing is left that could wake anyone. Called in the hub greenlet.
    fn run_loop(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let runtime = host::runtime(py);
        let patience = Patience::default();
        let mut end = runtime.run(false, false);
        loop {
            if end == RunEnd::Stopped
                && let Some(Payload::Throw(error)) = host::receive()
            {
                // The hub was destroyed, or its thread ends.
                return Err(*error);
            }
            if Thread::with(|thread| thread.is_ending.get()) {
                // What was thrown in ended a callback that had switched away.
                return Err(GreenletExit::new_err(()));
            }
            // Those who called `loop.run` go on, and may give the loop something to do.
            let is_over = !runtime.is_alive() && !loop_::wake_runners();
            end = if !is_over {
                runtime.run(false, false)
            } else if !slf.get().awaits_threads.get() {
                break;
            } else if let Some(end) = other_threads::wait(py, runtime, &patience) {
                end
            } else {
                break;
            };
        }
        match runtime.take_error() {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// Runs the loop; when nothing is left to do, raises LoopExit in the parent, and again if it comes back.
    fn run(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        loop {
            Self::run_loop(slf)?;
            let message = format!("This operation would block forever\n{}", run_info::describe_waiters(py)?);
            let exit = exceptions::loop_exit(py, message);
            let Some(parent) = slf.as_super().get().parent_of(py) else { return Err(exit) };
            PyGreenlet::enter(parent.bind(py), Payload::Throw(Box::new(exit)))?;
        }
    }

    /// wait(watcher)
    ///
    /// Starts the watcher, parks the running greenlet until it fires, and stops it.
    fn wait(&self, watcher: &Bound<'_, PyAny>) -> PyResult<()> {
        loop_::wait_watcher(watcher)
    }

    /// cancel_wait(watcher, error, close_watcher=False)
    ///
    /// Has the greenlet that waits for the watcher raise *error*, soon; then the watcher is closed if asked to. Nothing
    /// happens if *watcher* is None, or nobody waits. Does not switch.
    #[pyo3(signature = (watcher, error, close_watcher=false))]
    fn cancel_wait(
        slf: &Bound<'_, Self>,
        watcher: &Bound<'_, PyAny>,
        error: &Bound<'_, PyAny>,
        close_watcher: bool,
    ) -> PyResult<()> {
        loop_::cancel_wait(slf.as_any(), watcher, error, close_watcher)
    }

    /// One line for each greenlet of this thread that waits: who, and for what.
    fn describe_waiters(&self, py: Python<'_>) -> PyResult<String> {
        run_info::describe_waiters(py)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if self.loop_object.if_made().is_none() {
            return Ok(());
        }
        match self.loop_object.try_borrow() {
            Ok(object) => visit.call(&*object),
            Err(_) => Ok(()),
        }
    }
}

/// sleep(seconds=0, ref=True): parks the running greenlet for a time; 0 gives every other ready greenlet a turn.
///
/// *seconds*: a float; a negative one returns after a turn, like 0. *ref*: whether the sleep keeps the loop alive.
/// Defined by hand, without PyO3's frames: it stands at the bottom of most suspended greenlets' stacks.
pub static SLEEP: FastFunction = FastFunction::of::<Sleep>(
    c"sleep",
    c"sleep(seconds=0, ref=True)\n--\n\nPark the running greenlet for *seconds* (a float); 0 gives every other ready \
      greenlet a turn.\nWith *ref* false, the sleep does not keep the loop alive. Switches.",
);

/// The body of [`SLEEP`].
pub struct Sleep;

impl Function for Sleep {
    #[inline]
    fn call(py: Python<'_>, arguments: &Arguments<'_>) -> PyResult<()> {
        sleep(py, arguments)
    }
}

fn sleep(py: Python<'_>, call: &Arguments<'_>) -> PyResult<()> {
    let (mut seconds, mut keep_alive) = (0.0, true);
    if !call.is_empty() {
        let [first, second] = call.bind("sleep", ["seconds", "ref"])?;
        if let Some(value) = first {
            seconds = value.extract::<Real>()?.0;
        }
        if let Some(value) = second {
            keep_alive = value.is_truthy()?;
        }
    }
    if seconds > 0.0 {
        let (hub, waker) = host::begin_park(py, WaitingFor::Sleep)?;
        let deadline = hub.clock().now().after(duration(seconds));
        host::park(py, hub, &waker, Some(deadline), keep_alive)?;
    } else {
        let (hub, waker) = host::begin_park(py, WaitingFor::Turn)?;
        if !waker.greenlet().has_interrupt() {
            waker.unpark();
        }
        host::park(py, hub, &waker, None, true)?;
    }
    Ok(())
}

/// Turns Python's seconds into a duration; negative is zero, too large or not a number is for ever.
#[inline]
pub fn duration(seconds: f64) -> std::time::Duration {
    if seconds <= 0.0 {
        return std::time::Duration::ZERO;
    }
    std::time::Duration::try_from_secs_f64(seconds).unwrap_or(std::time::Duration::MAX)
}

/// Gives the hub of a fork's child pollers of its own: it would share, and disturb, the parent's.
#[pyfunction]
pub fn after_fork_in_child(py: Python<'_>) -> PyResult<()> {
    let runtime = host::runtime(py);
    crate::socket::forget_other_hubs(runtime);
    other_threads::after_fork();
    runtime.reinit_after_fork().map_err(|error| exceptions::os_error(&error))?;
    loop_::after_fork(py, runtime);
    Ok(())
}

/// leave_behind(greenlets): have only the running greenlet go on in the child of a fork.
///
/// What the thread's hub had scheduled is forgotten, and nothing wakes *greenlets* any more; they are kept as they are,
/// for good, so that no code of theirs runs. The signals that the hub watches for stay, and fork watchers are called.
#[pyfunction]
pub fn leave_behind(py: Python<'_>, greenlets: Vec<Bound<'_, PyGreenlet>>) {
    let runtime = host::runtime(py);
    let hub_greenlet = runtime.hub_greenlet();
    let others: Vec<_> = greenlets
        .iter()
        .map(|greenlet| greenlet.get().raw().clone())
        .filter(|raw| std::ptr::eq(raw.hub(), runtime) && !hub_greenlet.as_ref().is_some_and(|hub| hub.is(raw)))
        .collect();
    runtime.leave_behind(&others);
    std::mem::forget(others);
    for greenlet in greenlets {
        std::mem::forget(greenlet.unbind());
    }
    loop_::repeat_fork_watchers(py, runtime);
}

/// Says whether an error is only the end of the thread, which ends what its hub does.
pub fn is_end_of_thread(py: Python<'_>, error: &PyErr) -> bool {
    Thread::with(|thread| thread.is_ending.get()) && error.is_instance_of::<GreenletExit>(py)
}

/// Hands an exception to the hub's `handle_error(context, type, value, traceback)`.
pub fn handle_error(py: Python<'_>, context: Option<&Bound<'_, PyAny>>, error: PyErr) {
    if is_end_of_thread(py, &error) {
        return;
    }
    if let Err(failure) = try_handle_error(py, context, error) {
        settle_failure(py, context, failure);
    }
}

/// Deals with what a handler of errors has raised itself.
pub fn settle_failure(py: Python<'_>, context: Option<&Bound<'_, PyAny>>, failure: PyErr) {
    let is_in_hub = Thread::with(|thread| thread.is_current(thread.hub.get()));
    if is_in_hub && exceptions::is_hub_destroyed(py, &failure) {
        // It was thrown into a callback that had switched away. `run_loop` finds it.
        host::runtime(py).stop();
        host::send(Payload::Throw(Box::new(failure)));
    } else {
        failure.write_unraisable(py, context);
    }
}

/// As [`handle_error`], in the hub: the handler may end the hub by raising `HubDestroyed`, which is returned.
pub fn handle_error_in_hub(py: Python<'_>, context: &Bound<'_, PyAny>, error: PyErr) -> Option<PyErr> {
    let failure = try_handle_error(py, Some(context), error).err()?;
    if exceptions::is_hub_destroyed(py, &failure) {
        host::runtime(py).stop();
        return Some(failure);
    }
    failure.write_unraisable(py, Some(context));
    None
}

fn try_handle_error(py: Python<'_>, context: Option<&Bound<'_, PyAny>>, error: PyErr) -> PyResult<()> {
    let Some(hub) = get_hub_if_exists(py) else { return Err(error) };
    let (kind, value, traceback) = (error.get_type(py), error.value(py).clone(), error.traceback(py));
    hub.call_method1(pyo3::intern!(py, "handle_error"), (context, kind, value, traceback)).map(drop)
}

/// The host's part before a wait: prepare watchers.
pub fn before_poll() -> bool {
    // SAFETY: the hub calls its host with the GIL held.
    let py = unsafe { Python::assume_attached() };
    loop_::before_poll(py)
}

/// The host's part before a wait that may be long: Python's signal handlers, none of which may be missed.
pub fn before_long_wait() {
    // SAFETY: as above.
    let py = unsafe { Python::assume_attached() };
    run_signal_handlers(py);
    loop_::signal_wakeup::set(py, host::runtime(py));
    run_signal_handlers(py);
}

/// The host's part after a wait that may have been long.
pub fn after_long_wait() {
    // SAFETY: as above.
    let py = unsafe { Python::assume_attached() };
    loop_::signal_wakeup::restore(py);
}

/// The host's part after a wait: Python's signal handlers, check watchers.
pub fn after_poll() {
    // SAFETY: as above.
    let py = unsafe { Python::assume_attached() };
    run_signal_handlers(py);
    loop_::after_poll(py);
}

fn run_signal_handlers(py: Python<'_>) {
    if let Err(error) = py.check_signals() {
        handle_error(py, None, error);
    }
}

/// The host's part when nothing else is to do: idle watchers.
pub fn idle() -> bool {
    // SAFETY: as above.
    let py = unsafe { Python::assume_attached() };
    loop_::idle(py)
}

/// Returns the calling thread's identity, as `threading.get_ident` gives it.
#[inline]
pub fn thread_ident() -> u64 {
    // SAFETY: a plain query.
    unsafe { ffi::PyThread_get_thread_ident() as u64 }
}

/// Has `hub`, a thread's hub object, run `call` in its loop; nothing happens if that thread has ended. Any thread may.
pub fn call_soon(hub: &Bound<'_, PyAny>, call: impl FnOnce(Python<'_>) + 'static) {
    let Ok(hub) = hub.cast::<PyHub>() else { return };
    // That thread gives the GIL up only where its hub's queue may grow.
    hub.as_super().get().hub().push_call(move |_| {
        // SAFETY: hubs run with the GIL held.
        call(unsafe { Python::assume_attached() });
    });
}

/// Has the thread of a suspended greenlet that nobody refers to end it there: at its next call of a greenlet function, in
/// its loop, or at its end, whatever comes first.
pub fn end_in_its_thread(greenlet: &Bound<'_, PyGreenlet>) {
    // SAFETY: the object keeps its thread's hub allocated, and the GIL keeps that thread from running meanwhile. The
    // host's data is a record of that thread, which takes it back before it ends.
    let (hub, thread) = unsafe {
        let hub = &*greenlet.get().raw().hub();
        (hub, hub.host_data().cast::<Thread>().as_ref())
    };
    let Some(thread) = thread else { return };
    if thread.keep_dropped(greenlet.clone().unbind()) {
        hub.push_call(|_| {
            // SAFETY: hubs run with the GIL held.
            host::end_dropped(unsafe { Python::assume_attached() });
        });
    }
}

/// Arranges that the thread's greenlets end, and its hub goes, when the thread does: while Python code can still run.
///
/// A capsule in the thread state's dictionary is destroyed when CPython clears that state.
pub fn end_with_thread(py: Python<'_>, hub: &Hub) {
    // SAFETY: the GIL is held; the dictionary is borrowed; a failure leaves the thread without the arrangement.
    unsafe {
        let dictionary = ffi::PyThreadState_GetDict();
        if dictionary.is_null() {
            return;
        }
        let capsule =
            ffi::PyCapsule_New(std::ptr::from_ref(hub).cast_mut().cast(), THREAD_CAPSULE.as_ptr(), Some(thread_ends));
        if capsule.is_null() || ffi::PyDict_SetItemString(dictionary, THREAD_CAPSULE.as_ptr(), capsule) != 0 {
            ffi::PyErr_Clear();
        }
        ffi::Py_XDECREF(capsule);
    }
    let _ = py;
}

const THREAD_CAPSULE: &std::ffi::CStr = c"gevent._greenrust.thread";

unsafe extern "C" fn thread_ends(capsule: *mut ffi::PyObject) {
    // SAFETY: a destructor runs with the GIL held.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: made with this name; the content is the hub of the thread whose dictionary goes.
    let ending: *const Hub = unsafe { ffi::PyCapsule_GetPointer(capsule, THREAD_CAPSULE.as_ptr()).cast() };
    let runtime = match Hub::if_current() {
        Some(runtime) if std::ptr::eq(runtime, ending) => runtime,
        _ => {
            // A fork's child, or the main thread at the end of the process, clears the states of threads that are gone.
            // SAFETY: a hub under a host lives until its thread's end retires it, which is this function's part.
            unsafe { (*ending).disown() };
            return;
        }
    };
    if is_finalizing() || !runtime.is_running(runtime.root()) {
        // Python code can't be relied upon any more: everything is left as it is.
        crate::socket::forget_hub(runtime);
        return;
    }
    Thread::with(|thread| thread.is_ending.set(true));
    let pending = PyErr::take(py);
    // SAFETY: null or the owned reference that the record held.
    let hub =
        unsafe { Bound::from_owned_ptr_or_opt(py, Thread::with(|thread| thread.hub.replace(std::ptr::null_mut()))) };
    for greenlet in host::active_greenlets(py) {
        if hub.as_ref().is_none_or(|hub| !hub.is(&greenlet)) {
            end_here(&greenlet);
        }
    }
    if let Some(hub) = &hub
        && let Ok(greenlet) = hub.cast::<PyGreenlet>()
    {
        runtime.stop();
        end_here(greenlet);
    }
    host::end_dropped(py);
    crate::socket::forget_hub(runtime);
    loop_::end_thread(runtime);
    drop(hub);
    host::abandon_thread(py, runtime);
    // SAFETY: the root greenlet runs, as was checked; the GIL is held.
    unsafe { runtime.retire() };
    Thread::with(|thread| thread.is_ending.set(false));
    if let Some(pending) = pending {
        pending.restore(py);
    }
}

/// Ends a suspended greenlet of a thread that is about to end. One that refuses is left behind.
fn end_here(greenlet: &Bound<'_, PyGreenlet>) {
    let py = greenlet.py();
    // Control shall come back here, not go to whoever was to be its successor.
    if greenlet.get().raw().state() == State::Started && PyGreenlet::adopt(greenlet, host::current(py)).is_ok() {
        let exit = Payload::Throw(Box::new(GreenletExit::new_err(())));
        if let Err(error) = PyGreenlet::enter(greenlet, exit) {
            error.write_unraisable(py, Some(greenlet.as_any()));
        }
    }
}

fn is_finalizing() -> bool {
    // SAFETY: a plain query.
    unsafe { ffi::Py_IsInitialized() == 0 || thread_state::is_finalizing() }
}
