//! `gevent.Greenlet`: a greenlet that the hub schedules, with a result, links, and a place in the spawn tree.
//!
//! Life: made → scheduled (`start`) → begun → ended, or cancelled before it began. Its parent is the hub, so nothing is
//! sent to anyone when it ends: the result stays in the object, and links are told in a later turn of the loop.

pub mod joinall;
pub mod raw;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use greenrust::clock::Instant;
use greenrust::context::State;
use greenrust::hub::{Hub, TimerAction, WaitingFor, Wake, Waker};
use greenrust::timers::TimerKey;
use pyo3::exceptions::{PyBaseException, PyTypeError};
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple, PyType, PyWeakrefReference};

use crate::arguments::{Real, Truth};
use crate::exceptions::{Cancelled, GreenletExit};
use crate::fastcall::{Arguments, FastMethod, guard};
use crate::gil::Gil;
use crate::host::{self, Payload, Thrown};
use crate::hub as py_hub;
use crate::lowlevel::{self, PyGreenlet};
use crate::spawn_tree::SpawnStack;
use crate::timeout::Limit;

#[derive(Clone, Copy)]
enum Start {
    Never,
    Scheduled,
    Later(TimerKey),
    Cancelled,
    Begun,
}

enum Outcome {
    Pending,
    Value(Py<PyAny>),
    Error { value: Py<PyBaseException>, traceback: Option<Py<PyAny>> },
}

/// Type, value and traceback, as `sys.exc_info` gives them.
type ExceptionTriple = (Py<PyType>, Py<PyBaseException>, Option<Py<PyAny>>);

/// Whom to tell of the end.
enum Link {
    /// A greenlet parked in `join` or `get`.
    Waker(Waker),
    /// A greenlet parked in `joinall`.
    Joiner(Rc<Joiner>),
    /// A callable, called in the hub.
    Raw(Py<PyAny>),
    /// A callable, called in a greenlet of its own; for every end, or only for success or failure.
    Spawned(Py<PyAny>, Option<bool>),
}

/// A `joinall` that waits for several greenlets.
struct Joiner {
    waker: Waker,
    missing: Cell<usize>,
    done: RefCell<Vec<Py<PyAny>>>,
}

struct Fields {
    function: RefCell<Option<Py<PyAny>>>,
    args: RefCell<Option<Py<PyTuple>>>,
    kwargs: RefCell<Option<Py<PyDict>>>,
    outcome: RefCell<Outcome>,
    links: RefCell<Vec<Link>>,
    links_scheduled: Cell<bool>,
    start: Cell<Start>,
    name: RefCell<Option<Py<PyAny>>>,
    ident: Cell<Option<u64>>,
    spawning_greenlet: RefCell<Option<Py<PyAny>>>,
    spawn_tree_locals: RefCell<Option<Py<PyAny>>>,
    spawning_stack: RefCell<SpawnStack>,
    description: RefCell<Option<String>>,
    /// Whether an error is for somebody else to report than the hub.
    is_supervised: Cell<bool>,
}

/// Greenlet(run=None, *args, **kwargs)
///
/// A unit of work that the hub schedules. *run* is called with the arguments; without it, `_run` of a subclass is.
#[pyclass(name = "Greenlet", module = "gevent._greenrust", extends = PyGreenlet, subclass, frozen)]
pub struct PyGeventGreenlet {
    fields: Gil<Fields>,
}

static TRACK_TREE: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(true);

/// Turns the recording of who spawned whom, and where, on or off (`GEVENT_TRACK_GREENLET_TREE`).
#[pyfunction]
pub fn set_track_greenlet_tree(on: bool) {
    TRACK_TREE.store(on, std::sync::atomic::Ordering::Relaxed);
}

static HAS_SPAWN_CALLBACKS: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
static SPAWN_CALLBACK_SET: pyo3::sync::PyOnceLock<Py<pyo3::types::PySet>> = pyo3::sync::PyOnceLock::new();

fn call_spawn_callbacks(greenlet: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = greenlet.py();
    let Some(callbacks) = SPAWN_CALLBACK_SET.get(py) else { return Ok(()) };
    let copies: Vec<_> = callbacks.bind(py).iter().collect();
    for callback in copies {
        callback.call1((greenlet,))?;
    }
    Ok(())
}

// -- what the lower layers call ----------------------------------------------------------------------------------

/// Runs what the hub has scheduled: on the new greenlet's own stack.
pub fn run_scheduled(object: &Bound<'_, PyGreenlet>) -> PyResult<Py<PyAny>> {
    let py = object.py();
    let is_plain = object.as_any().get_type().is(PyType::new::<PyGeventGreenlet>(py));
    if !is_plain {
        return run_scheduled_other(object);
    }
    // SAFETY: whoever scheduled the start took a reference for the time until it begins.
    drop(unsafe { Bound::from_owned_ptr(py, object.as_ptr()) });
    object.get().mark_begun();
    // SAFETY: its type was just compared.
    PyGeventGreenlet::run_and_report(unsafe { object.as_any().cast_unchecked() });
    Ok(py.None())
}

#[inline(never)]
fn run_scheduled_other(object: &Bound<'_, PyGreenlet>) -> PyResult<Py<PyAny>> {
    let py = object.py();
    if py_hub::get_hub_if_exists(py).is_some_and(|hub| hub.is(object)) {
        // Nobody schedules the hub: the first greenlet that has nobody else to give way to starts it.
        let run = object.as_any().getattr(pyo3::intern!(py, "run"))?;
        object.get().mark_begun();
        return run.call0().map(Bound::unbind);
    }
    // SAFETY: whoever scheduled the start took a reference for the time until it begins.
    drop(unsafe { Bound::from_owned_ptr(py, object.as_ptr()) });
    if object.as_any().is_instance_of::<PyGeventGreenlet>() {
        // A subclass may override run() itself, though that was never supported.
        let run = object.as_any().getattr(pyo3::intern!(py, "run"))?;
        object.get().mark_begun();
        return run.call0().map(Bound::unbind);
    }
    raw::spawned_raw(object)
}

/// The start of a greenlet was refused for want of memory.
pub fn refused(object: &Bound<'_, PyAny>, error: PyErr) {
    if let Ok(greenlet) = object.cast::<PyGeventGreenlet>() {
        greenlet.get().fields.start.set(Start::Begun);
        greenlet.get().fields.free();
        PyGeventGreenlet::report_error(greenlet, error);
    } else {
        py_hub::handle_error(object.py(), Some(object), error);
    }
}

/// Returns the greenlet's own name for the message of a crash; async-signal-safe.
pub fn crash_label(greenlet: &PyGreenlet) -> Option<&str> {
    let pointer: *mut ffi::PyObject = greenlet.raw().host().cast();
    // SAFETY: the object is alive, as its code runs; only memory is read.
    unsafe {
        let py = Python::assume_attached();
        let object: std::mem::ManuallyDrop<Bound<'_, PyAny>> =
            std::mem::ManuallyDrop::new(Bound::from_borrowed_ptr(py, pointer));
        let greenlet = object.cast::<PyGeventGreenlet>().ok()?;
        let name = (*greenlet.get().fields.name.as_ptr()).as_ref()?;
        let mut length: ffi::Py_ssize_t = 0;
        let data = ffi::PyUnicode_AsUTF8AndSize(name.as_ptr(), &mut length);
        if data.is_null() {
            return None;
        }
        std::str::from_utf8(std::slice::from_raw_parts(data.cast::<u8>(), length as usize)).ok()
    }
}

fn schedule(hub: &Hub, greenlet: &Bound<'_, PyGreenlet>) {
    // Held for the run queue; given up when the greenlet begins, or can't.
    std::mem::forget(greenlet.clone().unbind());
    hub.push_start(greenlet.get().raw().clone());
}

fn hub_object(py: Python<'_>) -> PyResult<Py<PyGreenlet>> {
    Ok(py_hub::get_hub(py)?.cast_into::<PyGreenlet>()?.unbind())
}

/// Returns the locals that a child of `spawner` shares; makes them if the spawner has none yet.
fn tree_locals_for_child(spawner: &Bound<'_, PyGreenlet>) -> PyResult<Option<Py<PyAny>>> {
    let py = spawner.py();
    if let Ok(greenlet) = spawner.cast::<PyGeventGreenlet>() {
        return greenlet.get().fields.tree_locals(py).map(Some);
    }
    if spawner.get().parent_of(py).is_none() {
        // The main greenlet's children get a tree each.
        return Ok(None);
    }
    let name = pyo3::intern!(py, "spawn_tree_locals");
    match spawner.as_any().getattr(name) {
        Ok(locals) => Ok(Some(locals.unbind())),
        Err(_) => {
            let locals = PyDict::new(py).into_any();
            spawner.as_any().setattr(name, &locals)?;
            Ok(Some(locals.unbind()))
        }
    }
}

// -- the class -----------------------------------------------------------------------------------------------------

impl Fields {
    fn free(&self) {
        let old = (self.function.take(), self.args.take(), self.kwargs.take());
        drop(old);
    }

    fn tree_locals(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if let Some(locals) = &*self.spawn_tree_locals.borrow() {
            return Ok(locals.clone_ref(py));
        }
        let locals = PyDict::new(py).into_any().unbind();
        self.spawn_tree_locals.replace(Some(locals.clone_ref(py)));
        Ok(locals)
    }

    fn is_pending(&self) -> bool {
        matches!(&*self.outcome.borrow(), Outcome::Pending)
    }
}

impl PyGeventGreenlet {
    /// Leaves the report of an error to who looks at the greenlet's outcome.
    pub fn set_supervised(&self) {
        self.fields.is_supervised.set(true);
    }

    fn make(
        py: Python<'_>,
        function: Option<Py<PyAny>>,
        args: Py<PyTuple>,
        kwargs: Option<Py<PyDict>>,
    ) -> PyResult<PyClassInitializer<Self>> {
        py_hub::ensure(py)?;
        let parent = hub_object(py)?;
        let fields = Fields {
            function: RefCell::new(function),
            args: RefCell::new(Some(args)),
            kwargs: RefCell::new(kwargs),
            outcome: RefCell::new(Outcome::Pending),
            links: RefCell::new(Vec::new()),
            links_scheduled: Cell::new(false),
            start: Cell::new(Start::Never),
            name: RefCell::new(None),
            ident: Cell::new(None),
            spawning_greenlet: RefCell::new(None),
            spawn_tree_locals: RefCell::new(None),
            spawning_stack: RefCell::new(SpawnStack::default()),
            description: RefCell::new(None),
            is_supervised: Cell::new(false),
        };
        if TRACK_TREE.load(std::sync::atomic::Ordering::Relaxed) {
            let spawner = host::current(py);
            fields.spawning_greenlet.replace(Some(PyWeakrefReference::new(spawner.as_any())?.into_any().unbind()));
            fields.spawn_tree_locals.replace(tree_locals_for_child(&spawner)?);
            fields.spawning_stack.replace(SpawnStack::capture(py));
        }
        Ok(PyClassInitializer::from(PyGreenlet::unstarted(py, None, Some(parent)))
            .add_subclass(PyGeventGreenlet { fields: Gil::new(fields) }))
    }

    /// Whether nobody has given the greenlet a name or a number, linked anything to it, or has set its part of a `local`.
    pub fn is_unmarked(slf: &Bound<'_, Self>) -> bool {
        let fields = &slf.get().fields;
        fields.name.borrow().is_none()
            && fields.ident.get().is_none()
            && fields.links.borrow().is_empty()
            && !fields.is_supervised.get()
            && slf.as_super().get().locals().is_empty()
    }

    /// Makes and schedules a plain Greenlet.
    pub fn spawn_plain<'py>(
        py: Python<'py>,
        function: Bound<'py, PyAny>,
        args: Bound<'py, PyTuple>,
        kwargs: Option<Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, Self>> {
        if !function.is_callable() {
            return Err(not_callable(&function));
        }
        let made = Self::make(py, Some(function.unbind()), args.unbind(), kwargs.map(Bound::unbind))?;
        let greenlet = Bound::new(py, made)?;
        PyGreenlet::bind_object(greenlet.as_super());
        Self::begin_start(&greenlet)?;
        Ok(greenlet)
    }

    fn begin_start(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        if !matches!(this.fields.start.get(), Start::Never) {
            return Ok(());
        }
        if HAS_SPAWN_CALLBACKS.load(std::sync::atomic::Ordering::Relaxed) {
            call_spawn_callbacks(slf.as_any())?;
        }
        this.fields.start.set(Start::Scheduled);
        if slf.as_super().get().raw().host().is_null() {
            PyGreenlet::bind_object(slf.as_super());
        }
        // SAFETY: its hub stays allocated while the greenlet exists; the GIL guards it.
        schedule(unsafe { &*slf.as_super().get().raw().hub() }, slf.as_super());
        Ok(())
    }

    fn cancel_start(&self, raw: &PyGreenlet) {
        match self.fields.start.get() {
            Start::Never => {
                self.fields.start.set(Start::Cancelled);
                raw.abandon();
            }
            Start::Later(key) => {
                // SAFETY: as in `begin_start`.
                unsafe { (*raw.raw().hub()).remove_timer(key) };
                self.fields.start.set(Start::Cancelled);
                raw.abandon();
            }
            Start::Scheduled => {
                self.fields.start.set(Start::Cancelled);
                raw.abandon();
            }
            Start::Cancelled | Start::Begun => {}
        }
    }

    /// Runs the function and keeps its result. Nothing leaves this call but by the object.
    fn run_and_report(slf: &Bound<'_, Self>) {
        let fields = &slf.get().fields;
        fields.start.set(Start::Begun);
        let is_cancelled = slf.as_super().get().raw().is_cancelled();
        let outcome = if is_cancelled { Err(Cancelled::new_err(())) } else { Self::call_function(slf) };
        match outcome {
            Ok(value) => Self::report_result(slf, value.unbind()),
            Err(error) => Self::report_error(slf, error),
        }
        fields.free();
    }

    /// Calls the function with its arguments, which the object keeps meanwhile.
    fn call_function<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let fields = &slf.get().fields;
        let own = fields.function.borrow().as_ref().map(|function| function.bind(py).clone());
        let function = match own {
            Some(function) => function,
            None => slf.as_any().getattr(pyo3::intern!(py, "_run"))?,
        };
        let args = fields.args.borrow().as_ref().map(|args| args.bind(py).clone());
        let kwargs = fields.kwargs.borrow().as_ref().map(|kwargs| kwargs.bind(py).clone());
        // SAFETY: all three are alive during the call; a new reference or NULL with an exception comes back.
        unsafe {
            let result = match (&args, &kwargs) {
                (Some(args), kwargs) => ffi::PyObject_Call(
                    function.as_ptr(),
                    args.as_ptr(),
                    kwargs.as_ref().map_or(std::ptr::null_mut(), |kwargs| kwargs.as_ptr()),
                ),
                (None, _) => ffi::PyObject_CallNoArgs(function.as_ptr()),
            };
            Bound::from_owned_ptr_or_err(py, result)
        }
    }

    #[inline(never)]
    fn report_result(slf: &Bound<'_, Self>, value: Py<PyAny>) {
        let fields = &slf.get().fields;
        let old = fields.outcome.replace(Outcome::Value(value));
        drop(old);
        Self::schedule_links(slf);
    }

    #[inline(never)]
    fn report_error(slf: &Bound<'_, Self>, error: PyErr) {
        let py = slf.py();
        if error.is_instance_of::<GreenletExit>(py) {
            Self::report_result(slf, error.into_value(py).into_any());
            return;
        }
        let fields = &slf.get().fields;
        let value = error.value(py).clone().unbind();
        let traceback = error.traceback(py).map(|traceback| traceback.into_any().unbind());
        let old = fields.outcome.replace(Outcome::Error { value, traceback });
        drop(old);
        Self::schedule_links(slf);
        if !fields.is_supervised.get() {
            py_hub::handle_error(py, Some(slf.as_any()), error);
        }
    }

    /// Has the links told. Parked greenlets are woken by themselves; anything else takes one callback of the hub.
    fn schedule_links(slf: &Bound<'_, Self>) {
        let fields = &slf.get().fields;
        if fields.links.borrow().is_empty() || fields.links_scheduled.get() {
            return;
        }
        if fields.links.borrow().iter().all(|link| matches!(link, Link::Waker(_) | Link::Joiner(_))) {
            Self::tell_links(slf);
            return;
        }
        fields.links_scheduled.set(true);
        let greenlet = slf.clone().unbind();
        // SAFETY: as in `begin_start`.
        let hub = unsafe { &*slf.as_super().get().raw().hub() };
        hub.push_call(move |_| {
            // SAFETY: hubs run with the GIL held.
            let py = unsafe { Python::assume_attached() };
            let greenlet = greenlet.into_bound(py);
            greenlet.get().fields.links_scheduled.set(false);
            Self::tell_links(&greenlet);
        });
    }

    fn tell_links(slf: &Bound<'_, Self>) {
        let py = slf.py();
        loop {
            let link = {
                let mut links = slf.get().fields.links.borrow_mut();
                if links.is_empty() {
                    return;
                }
                links.remove(0)
            };
            let outcome = match link {
                Link::Waker(waker) => {
                    waker.unpark();
                    Ok(())
                }
                Link::Joiner(joiner) => {
                    joiner.done.borrow_mut().push(slf.clone().unbind().into_any());
                    let missing = joiner.missing.get().saturating_sub(1);
                    joiner.missing.set(missing);
                    if missing == 0 {
                        joiner.waker.unpark();
                    }
                    Ok(())
                }
                Link::Raw(callback) => callback.bind(py).call1((slf,)).map(drop).map_err(|error| (error, callback)),
                Link::Spawned(callback, only) => {
                    if only.is_none_or(|wanted| wanted == slf.get().is_successful()) {
                        call_in_greenlet(slf, &callback).map_err(|error| (error, callback))
                    } else {
                        Ok(())
                    }
                }
            };
            if let Err((error, callback)) = outcome {
                let context = PyTuple::new(py, [callback.bind(py), slf.as_any()]).map(Bound::into_any);
                py_hub::handle_error(py, context.as_ref().ok(), error);
            }
        }
    }

    fn is_successful(&self) -> bool {
        matches!(&*self.fields.outcome.borrow(), Outcome::Value(_))
    }

    fn is_ready(slf: &Bound<'_, Self>) -> bool {
        !slf.get().fields.is_pending() || Self::is_dead(slf)
    }

    fn is_dead(slf: &Bound<'_, Self>) -> bool {
        slf.as_super().get().raw().state() == State::Finished
    }

    /// What `kill` does to a greenlet that has not begun. Returns true if it is dead now.
    fn end_before_start(slf: &Bound<'_, Self>, exception: &Bound<'_, PyAny>) -> PyResult<bool> {
        let fields = &slf.get().fields;
        if matches!(fields.start.get(), Start::Begun) || slf.as_super().get().raw().state() == State::Started {
            return Ok(Self::is_dead(slf));
        }
        slf.get().cancel_start(slf.as_super().get());
        fields.free();
        if fields.is_pending() {
            let error = killing_error(slf.py(), exception)?;
            Self::report_error(slf, error);
        }
        Ok(true)
    }

    fn outcome_result(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        match &*slf.get().fields.outcome.borrow() {
            Outcome::Value(value) => Ok(value.clone_ref(py)),
            Outcome::Error { value, traceback } => {
                let value = value.bind(py).clone();
                if let Some(traceback) = traceback {
                    value.setattr(pyo3::intern!(py, "__traceback__"), traceback)?;
                }
                Err(PyErr::from_value(value.into_any()))
            }
            Outcome::Pending => Ok(py.None()),
        }
    }

    /// Parks until the greenlet has ended. Returns false if the time was over first.
    fn wait_for_end(slf: &Bound<'_, Self>, deadline: Option<Instant>) -> PyResult<bool> {
        let py = slf.py();
        let (hub, waker) = host::begin_park(py, WaitingFor::Join(Some(slf.as_super().get().raw().serial())))?;
        slf.get().fields.links.borrow_mut().push(Link::Waker(waker.clone()));
        let result = host::park(py, hub, &waker, deadline, true);
        match result {
            Ok(Wake::Unparked) => Ok(true),
            other => {
                slf.get()
                    .fields
                    .links
                    .borrow_mut()
                    .retain(|link| !matches!(link, Link::Waker(linked) if *linked == waker));
                other.map(|_| false)
            }
        }
    }

    fn add_link(slf: &Bound<'_, Self>, link: Link) {
        slf.get().fields.links.borrow_mut().push(link);
        if Self::is_ready(slf) {
            Self::schedule_links(slf);
        }
    }

    fn get_name<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        if let Some(name) = &*slf.get().fields.name.borrow() {
            return Ok(name.bind(py).clone());
        }
        let ident = slf.as_any().getattr(pyo3::intern!(py, "minimal_ident"))?;
        Ok(PyString::new(py, &format!("Greenlet-{ident}")).into_any())
    }

    fn describe(slf: &Bound<'_, Self>) -> PyResult<String> {
        let py = slf.py();
        let fields = &slf.get().fields;
        if let Some(description) = &*fields.description.borrow() {
            return Ok(description.clone());
        }
        let slot = fields.function.borrow().as_ref().map(|function| function.clone_ref(py).into_bound(py));
        let function = match slot {
            Some(function) => function,
            None => slf.as_any().getattr(pyo3::intern!(py, "_run"))?,
        };
        let owner =
            function.getattr("__self__").ok().filter(|owner| !owner.is_none() && !owner.is_instance_of::<PyModule>());
        let mut text = match owner {
            Some(owner) if owner.is(slf) => "_run".to_owned(),
            Some(_) => function.repr()?.to_string(),
            None => match function.getattr("__name__").and_then(|name| name.extract::<String>()) {
                Ok(name) if !name.is_empty() => name,
                _ => function.repr()?.to_string(),
            },
        };
        let shorten =
            |value: &Bound<'_, PyAny>| -> PyResult<String> { Ok(value.repr()?.to_string().chars().take(50).collect()) };
        let mut parts = Vec::new();
        let args = fields.args.borrow().as_ref().map(|args| args.clone_ref(py));
        let kwargs = fields.kwargs.borrow().as_ref().map(|kwargs| kwargs.clone_ref(py));
        for value in args.iter().flat_map(|args| args.bind(py).iter()) {
            parts.push(shorten(&value)?);
        }
        for (key, value) in kwargs.iter().flat_map(|kwargs| kwargs.bind(py).iter()) {
            parts.push(format!("{}={}", key.str()?, shorten(&value)?));
        }
        if !parts.is_empty() {
            text.push_str(&format!("({})", parts.join(", ")));
        }
        fields.description.replace(Some(text.clone()));
        Ok(text)
    }
}

fn not_callable(run: &Bound<'_, PyAny>) -> PyErr {
    let run = run.repr().map_or_else(|_| "an object".to_owned(), |text| text.to_string());
    PyTypeError::new_err(format!("The run argument or self._run must be callable, not {run}"))
}

/// Calls a link's callback with its source, in a greenlet of its own that starts at once.
fn call_in_greenlet(source: &Bound<'_, PyGeventGreenlet>, callback: &Py<PyAny>) -> PyResult<()> {
    let py = source.py();
    let parent = hub_object(py)?;
    let greenlet = Bound::new(py, PyGreenlet::unstarted(py, Some(callback.clone_ref(py)), Some(parent)))?;
    PyGreenlet::bind_object(&greenlet);
    PyGreenlet::enter(&greenlet, Payload::Start(PyTuple::new(py, [source])?.unbind(), None)).map(drop)
}

/// The exception that `kill(exception)` stands for: a class, an instance, or a (type, value, traceback) triple.
fn killing_error(py: Python<'_>, exception: &Bound<'_, PyAny>) -> PyResult<PyErr> {
    if let Some(triple) = as_triple(exception) {
        let (kind, value) = (triple.get_item(0)?, triple.get_item(1)?);
        if value.is_instance_of::<PyBaseException>() {
            return Ok(PyErr::from_value(value));
        }
        return lowlevel::thrown(py, Some(&kind), Some(&value), None);
    }
    match lowlevel::thrown(py, Some(exception), None, None) {
        Ok(error) => Ok(error),
        // Something that can't be raised still kills.
        Err(_) => Ok(PyErr::from_value(PyType::new::<PyBaseException>(py).call1((exception,))?)),
    }
}

fn as_triple<'a, 'py>(exception: &'a Bound<'py, PyAny>) -> Option<&'a Bound<'py, PyTuple>> {
    exception.cast::<PyTuple>().ok().filter(|triple| triple.len() == 3)
}

/// Throws into a greenlet, from the hub, or when its shield ends; reports what comes back.
fn throw_from_hub(greenlet: &Bound<'_, PyAny>, exception: &Bound<'_, PyAny>) {
    let py = greenlet.py();
    if let Ok(target) = greenlet.cast::<PyGreenlet>()
        && target.get().raw().shield_against(None).is_some()
    {
        match killing_error(py, exception) {
            Ok(error) => target.get().raw().interrupt_from(None, Box::new(Thrown { error, by: 0 })),
            Err(error) => py_hub::handle_error(py, Some(greenlet), error),
        }
        return;
    }
    let throw = pyo3::intern!(py, "throw");
    let result = match as_triple(exception) {
        Some(triple) => greenlet.call_method1(throw, triple.clone()),
        None => greenlet.call_method1(throw, (exception,)),
    };
    if let Err(error) = result {
        py_hub::handle_error(py, Some(greenlet), error);
    }
}

/// Reads a time-out argument: None, or seconds.
pub fn deadline(hub: &Hub, timeout: Option<f64>) -> Option<Instant> {
    timeout.map(|seconds| hub.clock().now().after(py_hub::duration(seconds)))
}

#[pymethods]
impl PyGeventGreenlet {
    #[new]
    #[pyo3(signature = (*args, **kwargs))]
    fn new(
        py: Python<'_>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<PyClassInitializer<Self>> {
        // The arguments are __init__'s: subclasses have signatures of their own.
        let _ = (args, kwargs);
        Self::make(py, None, PyTuple::empty(py).unbind(), None)
    }

    #[pyo3(signature = (run=None, *args, **kwargs))]
    fn __init__(
        slf: &Bound<'_, Self>,
        run: Option<Bound<'_, PyAny>>,
        args: Bound<'_, PyTuple>,
        kwargs: Option<Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let py = slf.py();
        PyGreenlet::bind_object(slf.as_super());
        let fields = &slf.get().fields;
        match run.filter(|run| !run.is_none()) {
            Some(run) if run.is_callable() => drop(fields.function.replace(Some(run.unbind()))),
            Some(run) => return Err(not_callable(&run)),
            None => {
                let run = slf.as_any().getattr(pyo3::intern!(py, "_run"))?;
                if !run.is_callable() {
                    return Err(not_callable(&run));
                }
            }
        }
        let old = (fields.args.replace(Some(args.unbind())), fields.kwargs.replace(kwargs.map(Bound::unbind)));
        drop(old);
        Ok(())
    }

    /// spawn_later(seconds, function, *args, **kwargs) -> a Greenlet that starts after *seconds* (a float)
    #[classmethod]
    #[pyo3(signature = (seconds, *args, **kwargs))]
    fn spawn_later<'py>(
        cls: &Bound<'py, PyType>,
        seconds: Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = cls.py();
        let has_run = match &kwargs {
            Some(kwargs) => kwargs.contains("run")?,
            None => false,
        };
        if cls.is(PyType::new::<PyGeventGreenlet>(py)) && args.is_empty() && !has_run {
            return Err(PyTypeError::new_err("spawn_later() needs a function to run after the seconds"));
        }
        let greenlet = cls.call(args, kwargs.as_ref())?;
        greenlet.call_method1(pyo3::intern!(py, "start_later"), (seconds,))?;
        Ok(greenlet)
    }

    /// Has `callback(greenlet)` called whenever a Greenlet is started.
    #[staticmethod]
    fn add_spawn_callback(py: Python<'_>, callback: Py<PyAny>) -> PyResult<()> {
        let set = SPAWN_CALLBACK_SET.get_or_try_init(py, || pyo3::types::PySet::empty(py).map(Bound::unbind))?;
        set.bind(py).add(callback)?;
        HAS_SPAWN_CALLBACKS.store(true, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }

    /// Takes a callback of `add_spawn_callback` back.
    #[staticmethod]
    fn remove_spawn_callback(py: Python<'_>, callback: Py<PyAny>) -> PyResult<()> {
        if let Some(set) = SPAWN_CALLBACK_SET.get(py) {
            set.bind(py).discard(callback)?;
            HAS_SPAWN_CALLBACKS.store(!set.bind(py).is_empty(), std::sync::atomic::Ordering::Relaxed);
        }
        Ok(())
    }

    /// Schedules the greenlet to start in this turn of the loop; a second time does nothing.
    fn start(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::begin_start(slf)
    }

    /// start_later(seconds): schedules the greenlet to start after *seconds* (a float).
    fn start_later(slf: &Bound<'_, Self>, seconds: Real) -> PyResult<()> {
        let Real(seconds) = seconds;
        let this = slf.get();
        if !matches!(this.fields.start.get(), Start::Never) {
            return Ok(());
        }
        if HAS_SPAWN_CALLBACKS.load(std::sync::atomic::Ordering::Relaxed) {
            call_spawn_callbacks(slf.as_any())?;
        }
        // SAFETY: as in `begin_start`.
        let hub = unsafe { &*slf.as_super().get().raw().hub() };
        let greenlet = slf.clone().unbind();
        let action = TimerAction::Call(Box::new(move |hub: &Hub| {
            // SAFETY: hubs run with the GIL held.
            let py = unsafe { Python::assume_attached() };
            let greenlet = greenlet.into_bound(py);
            greenlet.get().fields.start.set(Start::Scheduled);
            schedule(hub, greenlet.as_super());
        }));
        let key = hub.add_timer(hub.clock().now().after(py_hub::duration(seconds)), action, true);
        this.fields.start.set(Start::Later(key));
        Ok(())
    }

    /// What the greenlet does once it runs; the hub's business.
    fn run(slf: &Bound<'_, Self>) {
        Self::run_and_report(slf);
    }

    /// What the greenlet is to run; subclasses override it.
    #[getter]
    fn _run<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        if let Some(function) = &*slf.get().fields.function.borrow() {
            return Ok(function.bind(py).clone());
        }
        slf.as_any().getattr(pyo3::intern!(py, "_do_nothing"))
    }

    #[setter(_run)]
    fn set_function(&self, function: Option<Py<PyAny>>) {
        let old = self.fields.function.replace(function);
        drop(old);
    }

    #[deleter(_run)]
    fn delete_function(&self) {
        let old = self.fields.function.take();
        drop(old);
    }

    /// What a Greenlet without a function runs.
    #[pyo3(signature = (*_args, **_kwargs))]
    fn _do_nothing(&self, _args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) {}

    /// The positional arguments of the function; empty once it has ended.
    #[getter]
    fn args<'py>(&self, py: Python<'py>) -> Bound<'py, PyTuple> {
        match &*self.fields.args.borrow() {
            Some(args) => args.bind(py).clone(),
            None => PyTuple::empty(py),
        }
    }

    #[setter]
    fn set_args(&self, args: Py<PyTuple>) {
        let old = self.fields.args.replace(Some(args));
        drop(old);
    }

    /// The keyword arguments of the function; empty once it has ended.
    #[getter]
    fn kwargs<'py>(&self, py: Python<'py>) -> Bound<'py, PyDict> {
        if let Some(kwargs) = &*self.fields.kwargs.borrow() {
            return kwargs.bind(py).clone();
        }
        let made = PyDict::new(py);
        self.fields.kwargs.replace(Some(made.clone().unbind()));
        made
    }

    #[setter]
    fn set_kwargs(&self, kwargs: Py<PyDict>) {
        let old = self.fields.kwargs.replace(Some(kwargs));
        drop(old);
    }

    /// The function's result; None while it runs or if it failed.
    #[getter]
    fn value(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        match &*self.fields.outcome.borrow() {
            Outcome::Value(value) => Some(value.clone_ref(py)),
            _ => None,
        }
    }

    /// The exception that ended the function, or None.
    #[getter]
    fn exception(&self, py: Python<'_>) -> Option<Py<PyBaseException>> {
        match &*self.fields.outcome.borrow() {
            Outcome::Error { value, .. } => Some(value.clone_ref(py)),
            _ => None,
        }
    }

    /// (type, value, traceback) of the exception that ended the function, or None.
    #[getter]
    fn exc_info(&self, py: Python<'_>) -> Option<ExceptionTriple> {
        match &*self.fields.outcome.borrow() {
            Outcome::Error { value, traceback } => Some((
                value.bind(py).get_type().unbind(),
                value.clone_ref(py),
                traceback.as_ref().map(|traceback| traceback.clone_ref(py)),
            )),
            _ => None,
        }
    }

    fn _raise_exception(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::outcome_result(slf).map(drop)
    }

    /// The loop of the greenlet's hub.
    #[getter(r#loop)]
    fn loop_getter<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        slf.as_any().getattr("parent")?.getattr("loop")
    }

    /// True once the greenlet has ended, or can never run.
    #[getter]
    fn dead(slf: &Bound<'_, Self>) -> bool {
        Self::is_dead(slf)
    }

    /// True from its start to its end.
    #[getter]
    fn started(slf: &Bound<'_, Self>) -> bool {
        slf.get().__bool__()
    }

    fn __bool__(&self) -> bool {
        !matches!(self.fields.start.get(), Start::Never) && self.fields.is_pending()
    }

    /// ready() -> whether the greenlet has ended
    fn ready(slf: &Bound<'_, Self>) -> bool {
        Self::is_ready(slf)
    }

    /// successful() -> whether it has ended without an error; an exit by GreenletExit is none
    fn successful(&self) -> bool {
        self.is_successful()
    }

    /// get(block=True, timeout=None) -> the function's result
    ///
    /// Waits for it, at most *timeout* seconds; re-raises its exception. Raises Timeout when the time is over, or at once
    /// if *block* is false. Switches.
    #[pyo3(signature = (block=Truth(true), timeout=None), text_signature = "($self, block=True, timeout=None)")]
    fn get(slf: &Bound<'_, Self>, block: Truth, timeout: Option<Limit<'_>>) -> PyResult<Py<PyAny>> {
        if !Self::is_ready(slf) {
            if !block.0 {
                return Err(Limit::expired(slf.py(), None));
            }
            let hub = py_hub::ensure(slf.py())?;
            let limit = timeout.as_ref();
            if !Limit::apply(limit, |seconds| Self::wait_for_end(slf, deadline(hub, seconds)))? {
                return Err(Limit::expired(slf.py(), limit));
            }
        }
        Self::outcome_result(slf)
    }

    /// join(timeout=None): waits until the greenlet has ended, at most *timeout* seconds. Returns None always. Switches.
    #[pyo3(signature = (timeout=None))]
    fn join(slf: &Bound<'_, Self>, timeout: Option<Limit<'_>>) -> PyResult<()> {
        if Self::is_ready(slf) {
            return Ok(());
        }
        let hub = py_hub::ensure(slf.py())?;
        Limit::apply_quietly(timeout.as_ref(), false, |seconds| Self::wait_for_end(slf, deadline(hub, seconds)))
            .map(drop)
    }

    /// kill(exception=GreenletExit, block=True, timeout=None)
    ///
    /// Has the hub throw *exception* into the greenlet; with *block* waits, at most *timeout* seconds, until it has
    /// ended. One that has not begun never runs. Switches if *block*.
    #[pyo3(
        signature = (exception=None, block=Truth(true), timeout=None),
        text_signature = "($self, exception=None, block=True, timeout=None)"
    )]
    fn kill(
        slf: &Bound<'_, Self>,
        exception: Option<Bound<'_, PyAny>>,
        block: Truth,
        timeout: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        let exception = exception.unwrap_or_else(|| PyType::new::<GreenletExit>(py).into_any());
        if Self::end_before_start(slf, &exception)? || Self::is_ready(slf) {
            return Ok(());
        }
        // SAFETY: as in `begin_start`.
        let hub = unsafe { &*slf.as_super().get().raw().hub() };
        let greenlet = slf.clone().into_any().unbind();
        let exception = exception.unbind();
        if !block.0 {
            hub.push_call(move |_| {
                // SAFETY: hubs run with the GIL held.
                let py = unsafe { Python::assume_attached() };
                throw_from_hub(greenlet.bind(py), exception.bind(py));
            });
            return Ok(());
        }
        let (own_hub, waker) = host::begin_park(py, WaitingFor::Join(Some(slf.as_super().get().raw().serial())))?;
        let thrown = waker.clone();
        hub.push_call(move |_| {
            // SAFETY: as above.
            let py = unsafe { Python::assume_attached() };
            throw_from_hub(greenlet.bind(py), exception.bind(py));
            thrown.unpark();
        });
        host::park(py, own_hub, &waker, None, true)?;
        if slf.get_type().is(PyType::new::<Self>(py)) {
            Self::join(slf, timeout.map(|timeout| timeout.extract()).transpose()?)
        } else {
            slf.call_method1(pyo3::intern!(py, "join"), (timeout,)).map(drop)
        }
    }

    fn _maybe_kill_before_start(slf: &Bound<'_, Self>, exception: &Bound<'_, PyAny>) -> PyResult<bool> {
        Self::end_before_start(slf, exception)
    }

    /// throw(*args): throws into the greenlet now, as the raw greenlet does; one that has not begun never runs.
    #[pyo3(signature = (*args))]
    fn throw<'py>(slf: &Bound<'py, Self>, args: &Bound<'py, PyTuple>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let argument = |index: usize| args.get_item(index).ok();
        let (kind, value, traceback) = (argument(0), argument(1), argument(2));
        let state = slf.as_super().get().raw().state();
        if state == State::Started {
            let error = lowlevel::thrown(py, kind.as_ref(), value.as_ref(), traceback.as_ref())?;
            return PyGreenlet::enter(slf.as_super(), Payload::Throw(Box::new(error)));
        }
        let exit = PyType::new::<GreenletExit>(py).into_any();
        let exception = if args.len() == 3 { args.clone().into_any() } else { kind.unwrap_or(exit) };
        Self::end_before_start(slf, &exception)?;
        Ok(py.None())
    }

    /// has_links() -> whether somebody waits for the end
    fn has_links(&self) -> bool {
        !self.fields.links.borrow().is_empty()
    }

    /// rawlink(callback): has `callback(greenlet)` called in the hub at the end; it must neither switch nor raise.
    fn rawlink(slf: &Bound<'_, Self>, callback: Bound<'_, PyAny>) -> PyResult<()> {
        if !callback.is_callable() {
            return Err(PyTypeError::new_err(format!("Expected callable: {}", callback.repr()?)));
        }
        Self::add_link(slf, Link::Raw(callback.unbind()));
        Ok(())
    }

    /// link(callback): has `callback(greenlet)` called at the end, in a greenlet of its own.
    #[pyo3(signature = (callback, SpawnedLink=None))]
    #[allow(non_snake_case)]
    fn link(slf: &Bound<'_, Self>, callback: Bound<'_, PyAny>, SpawnedLink: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        if let Some(wrapper) = SpawnedLink {
            return Self::rawlink(slf, wrapper.call1((callback,))?);
        }
        Self::link_spawned(slf, callback, None)
    }

    /// link_value(callback): as link, if the greenlet ends without an error.
    #[pyo3(signature = (callback, SpawnedLink=None))]
    #[allow(non_snake_case)]
    fn link_value(
        slf: &Bound<'_, Self>,
        callback: Bound<'_, PyAny>,
        SpawnedLink: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        match SpawnedLink {
            Some(wrapper) => Self::rawlink(slf, wrapper.call1((callback,))?),
            None => Self::link_spawned(slf, callback, Some(true)),
        }
    }

    /// link_exception(callback): as link, if the greenlet ends with an error.
    #[pyo3(signature = (callback, SpawnedLink=None))]
    #[allow(non_snake_case)]
    fn link_exception(
        slf: &Bound<'_, Self>,
        callback: Bound<'_, PyAny>,
        SpawnedLink: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        match SpawnedLink {
            Some(wrapper) => Self::rawlink(slf, wrapper.call1((callback,))?),
            None => Self::link_spawned(slf, callback, Some(false)),
        }
    }

    /// unlink(callback): takes back the first link of this callback.
    fn unlink(slf: &Bound<'_, Self>, callback: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let known: Vec<Option<Py<PyAny>>> = slf
            .get()
            .fields
            .links
            .borrow()
            .iter()
            .map(|link| match link {
                Link::Raw(known) | Link::Spawned(known, _) => Some(known.clone_ref(py)),
                Link::Waker(_) | Link::Joiner(_) => None,
            })
            .collect();
        for (position, known) in known.iter().enumerate() {
            if let Some(known) = known
                && known.bind(py).eq(callback)?
            {
                // Comparing may run code, but a link's place changes only at the front, by the hub.
                let mut links = slf.get().fields.links.borrow_mut();
                let removed = (position < links.len()).then(|| links.remove(position));
                drop(links);
                drop(removed);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes all links back.
    fn unlink_all(&self) {
        let old = std::mem::take(&mut *self.fields.links.borrow_mut());
        drop(old);
    }

    fn __enter__<'py>(slf: &Bound<'py, Self>) -> Bound<'py, Self> {
        slf.clone()
    }

    fn __exit__(slf: &Bound<'_, Self>, t: Bound<'_, PyAny>, v: Bound<'_, PyAny>, tb: Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        if t.is_none() {
            let joined = slf.call_method0(pyo3::intern!(py, "join"));
            slf.call_method0(pyo3::intern!(py, "kill"))?;
            joined.map(drop)
        } else {
            slf.call_method1(pyo3::intern!(py, "kill"), ((t, v, tb),)).map(drop)
        }
    }

    /// The greenlet's name: `Greenlet-N` unless one was given.
    #[getter]
    fn name<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::get_name(slf)
    }

    #[setter]
    fn set_name(&self, name: Py<PyAny>) {
        let old = self.fields.name.replace(Some(name));
        drop(old);
    }

    /// A small number that no other living greenlet of the hub has.
    #[getter]
    fn minimal_ident(slf: &Bound<'_, Self>) -> PyResult<u64> {
        if let Some(ident) = slf.get().fields.ident.get() {
            return Ok(ident);
        }
        let registry = slf.as_any().getattr("parent")?.getattr("ident_registry")?;
        let ident: u64 = registry.call_method1("get_ident", (slf,))?.extract()?;
        slf.get().fields.ident.set(Some(ident));
        Ok(ident)
    }

    /// A weak reference to the greenlet that made this one; None if not tracked.
    #[getter]
    fn spawning_greenlet(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.fields.spawning_greenlet.borrow().as_ref().map(|spawner| spawner.clone_ref(py))
    }

    #[setter]
    fn set_spawning_greenlet(&self, spawner: Option<Py<PyAny>>) {
        let old = self.fields.spawning_greenlet.replace(spawner);
        drop(old);
    }

    /// A dictionary that all greenlets of a spawn tree share.
    #[getter]
    fn spawn_tree_locals(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        if self.fields.spawning_greenlet.borrow().is_none() && self.fields.spawn_tree_locals.borrow().is_none() {
            return Ok(None);
        }
        self.fields.tree_locals(py).map(Some)
    }

    #[setter]
    fn set_spawn_tree_locals(&self, locals: Option<Py<PyAny>>) {
        let old = self.fields.spawn_tree_locals.replace(locals);
        drop(old);
    }

    /// The stack at which the greenlet was made, as a chain of frame-like objects; None if not tracked.
    #[getter]
    fn spawning_stack(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.fields.spawning_stack.borrow().to_frames(py)
    }

    /// How many frames of it are kept.
    #[classattr]
    fn spawning_stack_limit() -> usize {
        crate::spawn_tree::LIMIT
    }

    #[classmethod]
    fn __class_getitem__<'py>(cls: &Bound<'py, PyType>, item: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        crate::queue::generic_alias(cls, item)
    }

    fn _formatinfo(slf: &Bound<'_, Self>) -> PyResult<String> {
        Self::describe(slf)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let py = slf.py();
        let class = slf.get_type().name()?;
        let is_named = slf.get().fields.name.borrow().is_some() || slf.get().fields.ident.get().is_some();
        let name = if is_named { format!(" \"{}\" ", Self::get_name(slf)?.str()?) } else { " ".to_owned() };
        let mut text = format!("<{class}{name}at {:#x}", slf.as_ptr() as usize);
        // A lock that is an argument may show its owner: this greenlet.
        // SAFETY: a valid object, and the GIL is held.
        match unsafe { ffi::Py_ReprEnter(slf.as_ptr()) } {
            0 => {}
            1 => return Ok(text + ": ...>"),
            _ => return Err(PyErr::fetch(py)),
        }
        let info = slf.call_method0(pyo3::intern!(py, "_formatinfo")).and_then(|info| info.str());
        // SAFETY: as above, once for each `Py_ReprEnter` that returned 0.
        unsafe { ffi::Py_ReprLeave(slf.as_ptr()) };
        let info = info?.to_string();
        if !info.is_empty() {
            text.push_str(&format!(": {info}"));
        }
        text.push('>');
        Ok(text)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if self.fields.if_made().is_none() {
            return Ok(());
        }
        let fields = &*self.fields;
        if let Ok(value) = fields.function.try_borrow() {
            visit.call(&*value)?;
        }
        if let Ok(value) = fields.args.try_borrow() {
            visit.call(&*value)?;
        }
        if let Ok(value) = fields.kwargs.try_borrow() {
            visit.call(&*value)?;
        }
        if let Ok(value) = fields.spawn_tree_locals.try_borrow() {
            visit.call(&*value)?;
        }
        if let Ok(value) = fields.spawning_greenlet.try_borrow() {
            visit.call(&*value)?;
        }
        if let Ok(outcome) = fields.outcome.try_borrow() {
            match &*outcome {
                Outcome::Pending => {}
                Outcome::Value(value) => visit.call(value)?,
                Outcome::Error { value, traceback } => {
                    visit.call(value)?;
                    visit.call(traceback)?;
                }
            }
        }
        if let Ok(links) = fields.links.try_borrow() {
            for link in &*links {
                if let Link::Raw(callback) | Link::Spawned(callback, _) = link {
                    visit.call(callback)?;
                }
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        self.fields.free();
        drop(self.fields.spawn_tree_locals.take());
        drop(std::mem::take(&mut *self.fields.links.borrow_mut()));
        let old = self.fields.outcome.replace(Outcome::Pending);
        drop(old);
    }
}

/// spawn(function, *args, **kwargs) -> a Greenlet that is scheduled to start in this turn of the loop
pub static SPAWN: FastMethod = FastMethod::class_method(
    c"spawn",
    c"spawn(function, *args, **kwargs)\n\nMake a greenlet that calls the function, and schedule it to start in this turn \
      of the loop.\nRaises TypeError at once if the function is not callable. Does not switch.",
    spawn_method,
);

unsafe extern "C" fn spawn_method(
    class: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: CPython calls a class method with the GIL held and the class.
    let (py, class) = unsafe {
        let py = Python::assume_attached();
        (py, Borrowed::from_ptr(py, class).cast_unchecked::<PyType>())
    };
    guard(py, || {
        // SAFETY: as CPython passed them.
        let arguments = unsafe { Arguments::new(args, count, names) };
        let keywords = arguments.keywords()?;
        // None stands for the `_run` of the class.
        if count > 0 && !arguments.get(0).is_none() && class.is(PyType::new::<PyGeventGreenlet>(py)) {
            let function = arguments.get(0);
            let greenlet = PyGeventGreenlet::spawn_plain(py, function, arguments.tuple_from(1)?, keywords)?;
            return Ok(greenlet.into_ptr());
        }
        let greenlet = class.call(arguments.tuple_from(0)?, keywords.as_ref())?;
        greenlet.call_method0(pyo3::intern!(py, "start"))?;
        Ok(greenlet.into_ptr())
    })
}

impl PyGeventGreenlet {
    fn link_spawned(slf: &Bound<'_, Self>, callback: Bound<'_, PyAny>, only: Option<bool>) -> PyResult<()> {
        if !callback.is_callable() {
            return Err(PyTypeError::new_err(format!("Expected callable: {}", callback.repr()?)));
        }
        Self::add_link(slf, Link::Spawned(callback.unbind(), only));
        Ok(())
    }
}

lowlevel::ending_dealloc!(gevent_greenlet_dealloc, GEVENT_GREENLET_DEALLOC);
