//! The run of a greenlet, on its own stack: `run` is called, and what comes of it goes to the parent.

use std::mem::ManuallyDrop;

use greenrust::context::State;
use greenrust::hub::{Body, Hub, RawGreenlet};
use greenrust::stack::StackError;
use pyo3::exceptions::PyAttributeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

use super::PyGreenlet;
use super::switching::other_thread;
use crate::exceptions::{self, GreenletExit};
use crate::host::{self, Payload, Thread};
use crate::hub as py_hub;

/// The body of every greenlet of the Python face. It has no fields, so boxing it allocates nothing.
pub(super) struct PythonBody;

impl Body for PythonBody {
    fn run(self: Box<Self>, greenlet: &RawGreenlet) -> RawGreenlet {
        // Before anything else: what PyO3 does at `attach` may run finalizers, which may switch.
        let payload = host::receive();
        // Counts the thread as attached for PyO3, whatever the frames below the first switch did.
        Python::attach(|py| run_to_end(py, greenlet, payload))
    }

    fn refused(self: Box<Self>, greenlet: &RawGreenlet, error: StackError) {
        // SAFETY: the hub begins greenlets with the GIL held.
        let py = unsafe { Python::assume_attached() };
        // SAFETY: whoever scheduled the start took a reference to the object, which is given up here.
        let object: Bound<'_, PyAny> = unsafe { Bound::from_owned_ptr(py, greenlet.host().cast()) };
        crate::greenlet::refused(&object, exceptions::no_stack(&error));
    }
}

/// Runs a greenlet on its own stack and says who goes on.
fn run_to_end(py: Python<'_>, raw: &RawGreenlet, payload: Option<Payload>) -> RawGreenlet {
    // No reference is held here, so that a suspended greenlet which nobody else refers to can be ended.
    // SAFETY: the object is the thread's current one, which holds it while this code runs.
    let object: ManuallyDrop<Bound<'_, PyGreenlet>> =
        ManuallyDrop::new(unsafe { Bound::from_owned_ptr(py, raw.host().cast()).cast_into_unchecked() });
    let object = &*object;
    let hub = Hub::current();
    note_switch_out(object);
    let result = match payload {
        // Scheduled by the hub: a gevent.Greenlet, or spawn_raw.
        None => host::survive(|| crate::greenlet::run_scheduled(object)),
        Some(payload) => run_sent(object, payload),
    };
    object.get().fields.locals.free(object.as_ptr());
    finish(py, hub, object, result)
}

/// Has the parks of a greenlet whose class defines `switch_out` announced by a call of it.
#[inline]
fn note_switch_out(object: &Bound<'_, PyGreenlet>) {
    let py = object.py();
    let class = object.get_type();
    if !class.is(PyType::new::<PyGreenlet>(py)) && !class.is(PyType::new::<crate::greenlet::PyGeventGreenlet>(py)) {
        look_for_switch_out(object, &class);
    }
}

#[inline(never)]
fn look_for_switch_out(object: &Bound<'_, PyGreenlet>, class: &Bound<'_, PyType>) {
    let py = object.py();
    let name = pyo3::intern!(py, "switch_out");
    let is_overridden = match (class.getattr(name), PyType::new::<PyGreenlet>(py).getattr(name)) {
        (Ok(found), Ok(general)) => !found.is(&general),
        _ => false,
    };
    if is_overridden {
        object.get().fields.raw.set_announced(true);
    }
}

/// Runs a greenlet that somebody switched to with arguments.
fn run_sent(object: &Bound<'_, PyGreenlet>, payload: Payload) -> PyResult<Py<PyAny>> {
    match payload {
        Payload::Start(args, kwargs) => call_run(object, &args, kwargs.as_ref()),
        Payload::Throw(error) => Err(*error),
        Payload::Value(_) => Err(exceptions::internal("a greenlet was started without arguments")),
    }
}

fn call_run(object: &Bound<'_, PyGreenlet>, args: &Py<PyTuple>, kwargs: Option<&Py<PyDict>>) -> PyResult<Py<PyAny>> {
    let py = object.py();
    // Whoever prepared the start has put it into the slot.
    let run = object.get().take_slot().ok_or_else(|| PyAttributeError::new_err("run"))?;
    host::survive(|| run.bind(py).call(args.bind(py), kwargs.map(|kwargs| kwargs.bind(py))).map(Bound::unbind))
}

/// Decides who continues after a greenlet has ended with `result`, and sends it the result.
///
/// The ending greenlet's own `parent` field holds the parent's object until that one runs.
#[inline(never)]
fn finish(py: Python<'_>, hub: &Hub, object: &Bound<'_, PyGreenlet>, result: PyResult<Py<PyAny>>) -> RawGreenlet {
    // An exit is no error: it becomes the greenlet's value.
    let result = match result {
        Err(error) if error.is_instance_of::<GreenletExit>(py) => Ok(error.into_value(py).into_any()),
        other => other,
    };
    let mut parent = object.get().fields.parent.borrow().as_ref().map(|parent| parent.clone_ref(py));
    loop {
        let Some(candidate) = parent else {
            // Only a root has no parent, and a root does not end. Its thread's hub is the best that is left.
            return hub.root().clone();
        };
        let fields = &candidate.get().fields;
        let is_hub_in_its_loop = Thread::with(|thread| {
            thread.hub.get() == candidate.as_ptr() && thread.deallocating.get() != object.as_ptr()
        });
        if is_hub_in_its_loop && fields.raw.state() != State::Finished {
            match result {
                // The hub ignores results, so the next greenlet that is ready may as well go on at once.
                Ok(_) => {}
                Err(error) if fields.raw.state() == State::Started => {
                    host::send(Payload::Throw(Box::new(error)));
                    return candidate.get().fields.raw.clone();
                }
                Err(error) => py_hub::handle_error(py, Some(object.as_any()), error),
            }
            return hub.next();
        }
        if !std::ptr::eq(candidate.get().thread_hub(), hub) {
            // An unstarted parent was given a parent of its own in another thread meanwhile.
            host::send(Payload::Throw(Box::new(other_thread(py, &candidate))));
            return hub.root().clone();
        }
        match fields.raw.state() {
            State::Finished => {
                let next = fields.parent.borrow().as_ref().map(|parent| parent.clone_ref(py));
                parent = next;
            }
            State::Unstarted => {
                let payload = match result {
                    Ok(value) => {
                        let args = match PyTuple::new(py, [value]) {
                            Ok(args) => args,
                            Err(_) => PyTuple::empty(py),
                        };
                        Payload::Start(args.unbind(), None)
                    }
                    Err(error) => Payload::Throw(Box::new(error)),
                };
                if let Err(error) = PyGreenlet::prepare(hub, candidate.bind(py)) {
                    host::send(Payload::Throw(Box::new(error)));
                    return hub.root().clone();
                }
                host::send(payload);
                return candidate.get().fields.raw.clone();
            }
            State::Started => {
                match result {
                    Ok(value) => host::send(Payload::Value(value)),
                    Err(error) => host::send(Payload::Throw(Box::new(error))),
                }
                return candidate.get().fields.raw.clone();
            }
        }
    }
}
