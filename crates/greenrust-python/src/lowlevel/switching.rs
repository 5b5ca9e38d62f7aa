//! From one greenlet to another: `switch`, `throw`, and what they bring.
//!
//! PyO3 gives a method with `*args` the calling convention that packs a tuple for each call. `switch` is what programs on
//! raw greenlets spend their time in, so it is defined by hand.

use greenrust::context::State;
use greenrust::hub::{Hub, RawGreenlet, WaitingFor, Wake};
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

use super::PyGreenlet;
use crate::exceptions::{self, GreenletError, GreenletExit};
use crate::fastcall::{Arguments, FastMethod, guard};
use crate::host::{self, Payload, Thread};
use crate::hub as py_hub;

impl PyGreenlet {
    /// Gives an unstarted greenlet its stack, with what it shall run in the slot. Whoever switches sees the errors.
    /// Returns false if it has started meanwhile.
    pub(super) fn prepare(hub: &Hub, object: &Bound<'_, PyGreenlet>) -> PyResult<bool> {
        let this = object.get();
        let run = this.find_run(object)?;
        if this.fields.raw.state() != State::Unstarted {
            return Ok(false);
        }
        this.settle_in(object, hub)?;
        this.fields.begun.set(true);
        // What is replaced may have a finalizer that switches: from here on the greenlet counts as begun.
        this.set_run_slot(Some(run));
        if this.fields.raw.state() != State::Unstarted {
            return Ok(false);
        }
        hub.prepare(&this.fields.raw).map_err(|error| exceptions::no_stack(&error))?;
        Ok(true)
    }

    /// Makes an unstarted greenlet one of `hub`'s thread, the calling one, if its parents are. Whoever switches sees the
    /// error.
    fn settle_in(&self, object: &Bound<'_, PyGreenlet>, hub: &Hub) -> PyResult<()> {
        if !std::ptr::eq(self.thread_hub(), hub) {
            return Err(other_thread(object.py(), object.as_unbound()));
        }
        if !std::ptr::eq(self.fields.raw.hub(), hub) {
            self.fields.raw.move_to(hub);
        }
        Ok(())
    }

    /// Switches to the greenlet with a payload. A finished one passes it on to its parent.
    pub fn enter(object: &Bound<'_, PyGreenlet>, payload: Payload) -> PyResult<Py<PyAny>> {
        let py = object.py();
        let hub = host::runtime(py);
        host::end_dropped(py);
        let mut target = object.clone();
        let mut payload = payload;
        // The greenlet that was ended before it had begun, if one was.
        let mut ended: Option<Bound<'_, PyGreenlet>> = None;
        loop {
            let greenlet = target.get();
            let raw = &greenlet.fields.raw;
            if raw.host().is_null() {
                // A subclass's __init__ did not call ours.
                Self::bind_object(&target);
            }
            if !std::ptr::eq(greenlet.thread_hub(), hub) {
                return Err(other_thread(py, target.as_unbound()));
            }
            match raw.state() {
                State::Started => {
                    if hub.is_running(raw) {
                        return deliver(py, Some(host::tell_of_arrival(ended.as_ref(), &target, payload)));
                    }
                    host::send(plain(py, payload)?);
                    break;
                }
                State::Unstarted => {
                    match payload {
                        Payload::Throw(error) => {
                            drop(greenlet.find_run(&target)?);
                            if raw.state() != State::Unstarted {
                                payload = Payload::Throw(error);
                                continue;
                            }
                            // It never runs: the exception goes on to the parent, an exit as a value.
                            greenlet.settle_in(&target, hub)?;
                            drop(raw.abandon());
                            greenlet.fields.begun.set(true);
                            drop(greenlet.fields.run.take());
                            let told = host::tell_of_arrival(ended.as_ref(), &target, Payload::Throw(error));
                            payload = match told {
                                Payload::Throw(error) => as_exit_value(py, *error),
                                other => other,
                            };
                            ended = Some(target.clone());
                        }
                        Payload::Value(_) | Payload::Start(..) => {
                            let (args, kwargs) = match payload {
                                Payload::Start(args, kwargs) => (args, kwargs),
                                Payload::Value(value) => (PyTuple::new(py, [value])?.unbind(), None),
                                Payload::Throw(_) => unreachable!("matched above"),
                            };
                            if !Self::prepare(hub, &target)? {
                                // The look-up of `run` ran code that started it.
                                payload = Payload::Start(args, kwargs);
                                continue;
                            }
                            host::send(Payload::Start(args, kwargs));
                            break;
                        }
                    }
                }
                State::Finished => {
                    if let Payload::Throw(error) = payload {
                        payload = as_exit_value(py, *error);
                    }
                }
            }
            let parent = greenlet.parent_of(py);
            target = match parent {
                Some(parent) => parent.into_bound(py),
                None => return Err(GreenletError::new_err("cannot switch to a dead greenlet without a parent")),
            };
        }
        hub.transfer(&target.get().fields.raw);
        deliver(py, host::receive())
    }
}

/// The error of whoever switches to a greenlet of another thread.
#[cold]
pub(super) fn other_thread(py: Python<'_>, target: &Py<PyGreenlet>) -> PyErr {
    // SAFETY: a greenlet keeps its hub allocated, and so does the parent that this one may come from.
    let hub = unsafe { &*target.get().thread_hub() };
    if hub.is_closed() {
        return GreenletError::new_err("cannot switch to a different thread (which happens to have exited)");
    }
    let name = |raw: &RawGreenlet| {
        let object = PyGreenlet::object_of(py, raw);
        object.and_then(|object| object.repr().ok()).map_or_else(|| "?".to_owned(), |text| text.to_string())
    };
    let (current, expected) = (name(host::runtime(py).root()), name(hub.root()));
    GreenletError::new_err(format!(
        "Cannot switch to a different thread\n\tCurrent:  {current}\n\tExpected: {expected}"
    ))
}

/// An exit thrown at a greenlet that does not run becomes a value for its parent.
fn as_exit_value(py: Python<'_>, error: PyErr) -> Payload {
    if error.is_instance_of::<GreenletExit>(py) {
        Payload::Value(error.into_value(py).into_any())
    } else {
        Payload::Throw(Box::new(error))
    }
}

/// Turns start arguments into the value that `switch` of a greenlet that has started returns.
fn plain(py: Python<'_>, payload: Payload) -> PyResult<Payload> {
    Ok(match payload {
        Payload::Start(args, kwargs) => Payload::Value(switch_value(py, args, kwargs)?),
        other => other,
    })
}

fn switch_value(py: Python<'_>, args: Py<PyTuple>, kwargs: Option<Py<PyDict>>) -> PyResult<Py<PyAny>> {
    let bound = args.bind(py);
    match kwargs {
        Some(kwargs) if !kwargs.bind(py).is_empty() => {
            if bound.is_empty() {
                Ok(kwargs.into_any())
            } else {
                Ok(PyTuple::new(py, [args.into_any(), kwargs.into_any()])?.into_any().unbind())
            }
        }
        _ if bound.len() == 1 => Ok(bound.get_item(0)?.unbind()),
        _ => Ok(args.into_any()),
    }
}

/// Makes what arrived the result of a `switch` call.
#[inline]
fn deliver(py: Python<'_>, payload: Option<Payload>) -> PyResult<Py<PyAny>> {
    match payload {
        Some(Payload::Value(value)) => Ok(value),
        Some(Payload::Throw(error)) => Err(*error),
        Some(Payload::Start(args, kwargs)) => switch_value(py, args, kwargs),
        None => Ok(py.None()),
    }
}

/// Suspends the running greenlet in favour of the hub, as `hub.switch()` does, and returns what it is switched back with.
pub fn switch_to_hub(py: Python<'_>) -> PyResult<Py<PyAny>> {
    let hub = py_hub::ensure(py)?;
    match hub.begin_park(WaitingFor::Hub) {
        Ok(waker) => match hub.park(&waker) {
            Wake::Interrupted => host::settle(py, Wake::Interrupted).map(|_| py.None()),
            _ => deliver(py, host::receive()).map_err(|error| host::note_thrown(py, error)),
        },
        Err(_) => {
            hub.transfer(&hub.next());
            deliver(py, host::receive())
        }
    }
}

/// Builds the exception of a `throw(type, value, traceback)` call.
pub fn thrown(
    py: Python<'_>,
    kind: Option<&Bound<'_, PyAny>>,
    value: Option<&Bound<'_, PyAny>>,
    traceback: Option<&Bound<'_, PyAny>>,
) -> PyResult<PyErr> {
    let default = PyType::new::<GreenletExit>(py).into_any();
    let kind = kind.unwrap_or(&default);
    let value = value.filter(|value| !value.is_none());
    let traceback = traceback.filter(|traceback| !traceback.is_none());
    if traceback.is_some_and(|traceback| !traceback.is_instance_of::<pyo3::types::PyTraceback>()) {
        return Err(PyTypeError::new_err("throw() third argument must be a traceback object"));
    }
    let is_class = kind
        .cast::<PyType>()
        .is_ok_and(|class| class.is_subclass_of::<pyo3::exceptions::PyBaseException>().unwrap_or(false));
    let instance = if is_class {
        match value {
            Some(value) if value.is_instance(kind)? => value.clone(),
            Some(value) => match value.cast::<PyTuple>() {
                Ok(args) => kind.call1(args.clone())?,
                Err(_) => kind.call1((value,))?,
            },
            None => kind.call0()?,
        }
    } else if kind.is_instance_of::<pyo3::exceptions::PyBaseException>() {
        if value.is_some() {
            return Err(PyTypeError::new_err("instance exception may not have a separate value"));
        }
        kind.clone()
    } else {
        return Err(PyTypeError::new_err(format!(
            "exceptions must be classes, or instances, not {}",
            kind.get_type().name()?
        )));
    };
    if let Some(traceback) = traceback {
        instance.setattr("__traceback__", traceback)?;
    }
    if !instance.is_instance_of::<pyo3::exceptions::PyBaseException>() {
        return Err(PyTypeError::new_err(format!(
            "calling {} should have returned an instance of BaseException, not {}",
            kind.repr()?,
            instance.get_type().name()?
        )));
    }
    Ok(PyErr::from_value(instance))
}

pub static SWITCH: FastMethod = FastMethod::method(
    c"switch",
    c"switch(*args, **kwargs)\n\nContinue this greenlet, or start it with the arguments. Returns what this one is \
      switched back with.",
    switch_method,
);

unsafe extern "C" fn switch_method(
    slf: *mut ffi::PyObject,
    args: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: CPython calls methods with the GIL held.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: the method belongs to the class, so its self is an instance; it is alive during the call.
    let object = unsafe { Borrowed::from_ptr(py, slf).cast_unchecked::<PyGreenlet>() };
    let raw = &object.get().fields.raw;
    let hub = Hub::current();
    if names.is_null()
        && raw.state() == State::Started
        && std::ptr::eq(raw.hub(), hub)
        && !hub.is_running(raw)
        && let Some(thread) = Thread::of(hub)
    {
        // SAFETY: `args` holds `count` borrowed references.
        let value = unsafe {
            match count {
                0 => thread.nothing(py),
                1 => Bound::from_borrowed_ptr(py, *args),
                _ => match Arguments::new(args, count, names).tuple_from(0) {
                    Ok(tuple) => tuple.into_any(),
                    Err(error) => {
                        error.restore(py);
                        return std::ptr::null_mut();
                    }
                },
            }
        };
        thread.send(Payload::Value(value.unbind()));
        hub.transfer(raw);
        return match thread.receive() {
            Some(Payload::Value(value)) => value.into_ptr(),
            other => guard(py, || deliver(py, other).map(Py::into_ptr)),
        };
    }
    // Counted as attached: else PyO3 puts off the drop of references.
    Python::attach(|py| {
        guard(py, || {
            // SAFETY: as CPython passed them.
            let arguments = unsafe { Arguments::new(args, count, names) };
            let payload = Payload::Start(arguments.tuple_from(0)?.unbind(), arguments.keywords()?.map(Bound::unbind));
            PyGreenlet::enter(&object, payload).map(Py::into_ptr)
        })
    })
}
