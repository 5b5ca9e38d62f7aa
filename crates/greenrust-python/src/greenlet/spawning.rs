//! How a greenlet is made and scheduled, and what it is told of who spawned it.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use greenrust::hub::{Hub, TimerAction};
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PySet, PyTuple, PyType, PyWeakrefReference};

use super::{Fields, Outcome, PyGeventGreenlet, Start, hub_object};
use crate::fastcall::{Arguments, FastMethod, guard};
use crate::gil::Gil;
use crate::host;
use crate::hub as py_hub;
use crate::lowlevel::PyGreenlet;
use crate::spawn_tree::SpawnStack;

pub(super) static TRACK_TREE: AtomicBool = AtomicBool::new(true);

/// Turns the recording of who spawned whom, and where, on or off (`GEVENT_TRACK_GREENLET_TREE`).
#[pyfunction]
pub fn set_track_greenlet_tree(on: bool) {
    TRACK_TREE.store(on, Ordering::Relaxed);
}

static HAS_CALLBACKS: AtomicBool = AtomicBool::new(false);
static CALLBACKS: PyOnceLock<Py<PySet>> = PyOnceLock::new();

/// Has `callback(greenlet)` called whenever a Greenlet is started.
pub(super) fn add_callback(py: Python<'_>, callback: Py<PyAny>) -> PyResult<()> {
    let callbacks = CALLBACKS.get_or_try_init(py, || PySet::empty(py).map(Bound::unbind))?;
    callbacks.bind(py).add(callback)?;
    HAS_CALLBACKS.store(true, Ordering::Relaxed);
    Ok(())
}

/// Takes a callback back.
pub(super) fn remove_callback(py: Python<'_>, callback: Py<PyAny>) -> PyResult<()> {
    if let Some(callbacks) = CALLBACKS.get(py) {
        callbacks.bind(py).discard(callback)?;
        HAS_CALLBACKS.store(!callbacks.bind(py).is_empty(), Ordering::Relaxed);
    }
    Ok(())
}

fn call_callbacks(greenlet: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = greenlet.py();
    if !HAS_CALLBACKS.load(Ordering::Relaxed) {
        return Ok(());
    }
    let Some(callbacks) = CALLBACKS.get(py) else { return Ok(()) };
    let copies: Vec<_> = callbacks.bind(py).iter().collect();
    for callback in copies {
        callback.call1((greenlet,))?;
    }
    Ok(())
}

/// Returns the locals that a child of `spawner` shares; makes them if the spawner has none yet.
pub(super) fn tree_locals_for_child(spawner: &Bound<'_, PyGreenlet>) -> PyResult<Option<Py<PyAny>>> {
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

pub(super) fn schedule(hub: &Hub, greenlet: &Bound<'_, PyGreenlet>) {
    // Held for the run queue; given up when the greenlet begins, or can't.
    std::mem::forget(greenlet.clone().unbind());
    hub.push_start(greenlet.get().raw().clone());
}

impl PyGeventGreenlet {
    pub(super) fn make(
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
        if TRACK_TREE.load(Ordering::Relaxed) {
            let spawner = host::current(py);
            fields.spawning_greenlet.replace(Some(PyWeakrefReference::new(spawner.as_any())?.into_any().unbind()));
            fields.spawn_tree_locals.replace(tree_locals_for_child(&spawner)?);
            fields.spawning_stack.replace(SpawnStack::capture(py));
        }
        Ok(PyClassInitializer::from(PyGreenlet::unstarted(py, None, Some(parent)))
            .add_subclass(PyGeventGreenlet { fields: Gil::new(fields) }))
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

    pub(super) fn begin_start(slf: &Bound<'_, Self>) -> PyResult<()> {
        let this = slf.get();
        if !matches!(this.fields.start.get(), Start::Never) {
            return Ok(());
        }
        call_callbacks(slf.as_any())?;
        this.fields.start.set(Start::Scheduled);
        if slf.as_super().get().raw().host().is_null() {
            PyGreenlet::bind_object(slf.as_super());
        }
        schedule(slf.as_super().get().hub(), slf.as_super());
        Ok(())
    }

    /// Has the greenlet scheduled when `delay` is over.
    pub(super) fn begin_start_later(slf: &Bound<'_, Self>, delay: Duration) -> PyResult<()> {
        let this = slf.get();
        if !matches!(this.fields.start.get(), Start::Never) {
            return Ok(());
        }
        call_callbacks(slf.as_any())?;
        let hub = slf.as_super().get().hub();
        let greenlet = slf.clone().unbind();
        let action = TimerAction::Call(Box::new(move |hub: &Hub| {
            Python::attach(|py| {
                let greenlet = greenlet.into_bound(py);
                greenlet.get().fields.start.set(Start::Scheduled);
                schedule(hub, greenlet.as_super());
            });
        }));
        let key = hub.add_timer(hub.clock().now().after(delay), action, true);
        this.fields.start.set(Start::Later(key));
        Ok(())
    }

    pub(super) fn cancel_start(&self, raw: &PyGreenlet) {
        match self.fields.start.get() {
            Start::Never => {
                self.fields.start.set(Start::Cancelled);
                raw.abandon();
            }
            Start::Later(key) => {
                raw.hub().remove_timer(key);
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
}

pub(super) fn not_callable(run: &Bound<'_, PyAny>) -> PyErr {
    let run = run.repr().map_or_else(|_| "an object".to_owned(), |text| text.to_string());
    PyTypeError::new_err(format!("The run argument or self._run must be callable, not {run}"))
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
