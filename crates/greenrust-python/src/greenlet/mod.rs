//! `gevent.Greenlet`: a greenlet that the hub schedules, with a result, links, and a place in the spawn tree.
//!
//! Life: made → scheduled (`start`) → begun → ended, or cancelled before it began. Its parent is the hub, so nothing is
//! sent to anyone when it ends: the result stays in the object, and links are told in a later turn of the loop.
//!
//! This file has what a greenlet consists of and how its end is waited for; [`spawning`], [`running`], [`killing`] and
//! [`links`] have the steps of its life, [`class`] Python's view. [`raw`] and [`joinall`] are functions beside it.

mod class;
pub mod joinall;
mod killing;
mod links;
pub mod raw;
mod running;
mod spawning;

use std::cell::{Cell, RefCell};

use greenrust::clock::Instant;
use greenrust::context::State;
use greenrust::hub::{Hub, WaitingFor, Wake};
use greenrust::timers::TimerKey;
use pyo3::exceptions::PyBaseException;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple, PyType};

use crate::gil::Gil;
use crate::host;
use crate::hub as py_hub;
use crate::lowlevel::{self, PyGreenlet};
use crate::nesting;
use crate::spawn_tree::SpawnStack;

pub use running::{refused, run_scheduled};
pub use spawning::{SPAWN, set_track_greenlet_tree};

use links::Link;

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

fn hub_object(py: Python<'_>) -> PyResult<Py<PyGreenlet>> {
    Ok(py_hub::get_hub(py)?.cast_into::<PyGreenlet>()?.unbind())
}

impl Drop for Fields {
    fn drop(&mut self) {
        if let Outcome::Value(value) = self.outcome.replace(Outcome::Pending) {
            nesting::free(value);
        }
    }
}

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

    /// Whether nobody has given the greenlet a name or a number, linked anything to it, or has set its part of a `local`.
    pub fn is_unmarked(slf: &Bound<'_, Self>) -> bool {
        let fields = &slf.get().fields;
        fields.name.borrow().is_none()
            && fields.ident.get().is_none()
            && fields.links.borrow().is_empty()
            && !fields.is_supervised.get()
            && slf.as_super().get().locals().is_empty()
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

/// Reads a time-out argument: None, or seconds.
pub fn deadline(hub: &Hub, timeout: Option<f64>) -> Option<Instant> {
    timeout.map(|seconds| hub.clock().now().after(py_hub::duration(seconds)))
}

lowlevel::ending_dealloc!(gevent_greenlet_dealloc, GEVENT_GREENLET_DEALLOC);
