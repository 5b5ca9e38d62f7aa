//! What all watchers have in common: a function that the loop calls when something happens.
//!
//! Life: made → active (`start`) → inactive (`stop`, or by itself, as a timer that has fired) and again. While it is
//! active the loop keeps it, and with `ref` it keeps the loop alive. An event makes it *pending*; the call follows from
//! the run queue. Stopping takes back what is pending.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};

use pyo3::exceptions::{PyAttributeError, PyTypeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::rounds::List;
use super::{PyLoop, attached, child, io, not_callable, signal, stat, timer};
use crate::arguments::Truth;
use crate::gil::Gil;

/// What a watcher watches, with its state in the hub.
pub(super) enum Kind {
    Io(io::State),
    Timer(timer::State),
    Signal(signal::State),
    Child(child::State),
    Stat(stat::State),
    /// The rounds of the loop.
    Turn(List),
    /// Nothing: it is sent to.
    Async,
}

struct Fields {
    owner: Py<PyLoop>,
    callback: RefCell<Option<Py<PyAny>>>,
    args: RefCell<Option<Py<PyTuple>>>,
    keep_alive: Cell<bool>,
    priority: Cell<i32>,
    active: Cell<bool>,
    pending: Cell<bool>,
    events: Cell<u32>,
    /// Whether the function's first argument is to be the number of the events.
    pass_events: Cell<bool>,
    kind: Kind,
}

/// The base of all watchers. The loop's methods make them.
#[pyclass(name = "watcher", module = "gevent.core", subclass, frozen, weakref)]
pub struct PyWatcher {
    fields: Gil<Fields>,
}

impl PyWatcher {
    pub(super) fn new(owner: &Bound<'_, PyLoop>, keep_alive: Truth, priority: Option<i32>, kind: Kind) -> Self {
        Self {
            fields: Gil::new(Fields {
                owner: owner.clone().unbind(),
                callback: RefCell::new(None),
                args: RefCell::new(None),
                keep_alive: Cell::new(keep_alive.0),
                priority: Cell::new(priority.unwrap_or(0)),
                active: Cell::new(false),
                pending: Cell::new(false),
                events: Cell::new(0),
                pass_events: Cell::new(false),
                kind,
            }),
        }
    }

    pub(super) fn kind(&self) -> &Kind {
        &self.fields.kind
    }

    /// Returns the watcher's loop.
    pub(super) fn owner<'a, 'py>(&'a self, py: Python<'py>) -> &'a Bound<'py, PyLoop> {
        self.fields.owner.bind(py)
    }

    pub(super) fn is_active(&self) -> bool {
        self.fields.active.get()
    }

    /// Sets what is called, and starts the watch if it is not active.
    pub(super) fn begin(
        slf: &Bound<'_, Self>,
        callback: Bound<'_, PyAny>,
        args: Bound<'_, PyTuple>,
        pass_events: bool,
    ) -> PyResult<()> {
        Self::set_call(slf, callback, args, pass_events)?;
        if let Err(error) = Self::activate(slf) {
            slf.get().forget_call();
            return Err(error);
        }
        Ok(())
    }

    /// Sets what is called.
    pub(super) fn set_call(
        slf: &Bound<'_, Self>,
        callback: Bound<'_, PyAny>,
        args: Bound<'_, PyTuple>,
        pass_events: bool,
    ) -> PyResult<()> {
        let fields = &slf.get().fields;
        fields.owner.get().check_open()?;
        if !callback.is_callable() {
            return Err(not_callable(&callback));
        }
        fields.pass_events.set(pass_events);
        let old = (fields.callback.replace(Some(callback.unbind())), fields.args.replace(Some(args.unbind())));
        drop(old);
        Ok(())
    }

    fn forget_call(&self) {
        let old = (self.fields.callback.take(), self.fields.args.take());
        drop(old);
    }

    /// Starts the watch, if it is not active.
    pub(super) fn activate(slf: &Bound<'_, Self>) -> PyResult<()> {
        let fields = &slf.get().fields;
        if fields.active.get() {
            return Ok(());
        }
        match &fields.kind {
            Kind::Io(state) => io::arm(slf, state)?,
            Kind::Timer(state) => timer::arm(slf, state, state.after()),
            Kind::Signal(state) => signal::arm(slf, state)?,
            Kind::Child(state) => child::arm(slf, state)?,
            Kind::Stat(state) => stat::arm(slf, state),
            Kind::Turn(list) => fields.owner.get().rounds().add(*list, slf),
            Kind::Async => {}
        }
        Self::mark_active(slf);
        Ok(())
    }

    pub(super) fn mark_active(slf: &Bound<'_, Self>) {
        let fields = &slf.get().fields;
        let owner = fields.owner.get();
        if fields.active.replace(true) {
            return;
        }
        owner.fields.active.borrow_mut().insert(slf.as_ptr() as usize, slf.clone().unbind());
        if fields.keep_alive.get() {
            owner.hold();
        }
        owner.poke();
    }

    /// Notes that the watch is over, whatever was in the hub is gone already.
    pub(super) fn mark_inactive(slf: &Bound<'_, Self>) {
        let fields = &slf.get().fields;
        if !fields.active.replace(false) {
            return;
        }
        let owner = fields.owner.get();
        let kept = owner.fields.active.borrow_mut().remove(&(slf.as_ptr() as usize));
        drop(kept);
        if fields.keep_alive.get() {
            owner.release();
        }
    }

    /// Ends the watch.
    pub(super) fn halt(slf: &Bound<'_, Self>) {
        let fields = &slf.get().fields;
        fields.pending.set(false);
        if fields.active.get() {
            match &fields.kind {
                Kind::Io(state) => io::disarm(slf, state),
                Kind::Timer(state) => timer::disarm(slf, state),
                Kind::Signal(state) => signal::disarm(slf, state),
                Kind::Child(state) => child::disarm(slf, state),
                Kind::Stat(state) => stat::disarm(slf, state),
                Kind::Turn(list) => fields.owner.get().rounds().remove(*list, slf),
                Kind::Async => {}
            }
            Self::mark_inactive(slf);
        }
    }

    /// Has the hub call the watcher's function soon. May be called where nothing else may happen.
    pub(super) fn feed_soon(slf: &Bound<'_, Self>, events: u32) {
        let fields = &slf.get().fields;
        if fields.pending.replace(true) {
            fields.events.set(fields.events.get() | events);
            return;
        }
        fields.events.set(events);
        let watcher = slf.clone().unbind();
        fields.owner.get().hub().push_call(move |_| {
            let watcher = watcher.into_bound(attached());
            if watcher.get().fields.pending.replace(false) {
                Self::fire(&watcher, watcher.get().fields.events.get());
            }
        });
    }

    /// As [`Self::feed_soon`], where a call that was due may have been forgotten with the hub's queue.
    pub(super) fn feed_anew(slf: &Bound<'_, Self>, events: u32) {
        slf.get().fields.pending.set(false);
        Self::feed_soon(slf, events);
    }

    /// Calls the watcher's function. Runs in the hub.
    pub(super) fn fire(slf: &Bound<'_, Self>, events: u32) {
        let py = slf.py();
        let fields = &slf.get().fields;
        let owner = fields.owner.bind(py);
        let callback = fields.callback.borrow().as_ref().map(|callback| callback.clone_ref(py));
        if let Some(callback) = callback {
            let args = fields.args.borrow().as_ref().map(|args| args.clone_ref(py));
            let args = args.map_or_else(|| PyTuple::empty(py), |args| args.into_bound(py));
            if let Err(error) = Self::call(&callback, args, fields.pass_events.get().then_some(events)) {
                PyLoop::report(owner, slf.as_any(), error);
                if matches!(fields.kind, Kind::Io(_)) {
                    // What failed once would fail at every round while the descriptor is ready.
                    Self::halt(slf);
                }
            }
        }
        if !fields.active.get() {
            slf.get().forget_call();
        } else if let Kind::Io(state) = &fields.kind
            && state.is_always_ready()
        {
            Self::feed_soon(slf, state.events());
        }
        owner.get().settle();
    }

    fn call(callback: &Py<PyAny>, args: Bound<'_, PyTuple>, events: Option<u32>) -> PyResult<()> {
        let py = args.py();
        let callback = callback.bind(py);
        match events {
            None if args.is_empty() => callback.call0(),
            None => callback.call1(args),
            Some(events) => {
                let events = events.into_pyobject(py)?.into_any();
                callback.call1(PyTuple::new(py, std::iter::once(events).chain(args.iter()).collect::<Vec<_>>())?)
            }
        }
        .map(drop)
    }

    /// What the repr says besides the state.
    fn details(&self) -> String {
        match &self.fields.kind {
            Kind::Io(state) => state.details(),
            Kind::Child(state) => state.details(),
            _ => String::new(),
        }
    }
}

/// Takes the function to call from the arguments of `start`.
pub(super) fn split_call<'py>(args: &Bound<'py, PyTuple>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
    match args.get_item(0) {
        Ok(callback) => Ok((callback, args.get_slice(1, args.len()))),
        Err(_) => Err(PyTypeError::new_err("start() takes at least 1 positional argument (0 given)")),
    }
}

/// Takes a keyword argument; refuses all others.
pub(super) fn only_keyword<'py>(
    kwargs: Option<&Bound<'py, PyDict>>,
    name: &str,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let mut found = None;
    for (key, value) in kwargs.into_iter().flat_map(|kwargs| kwargs.iter()) {
        if !key.eq(name)? {
            return Err(PyTypeError::new_err(format!("unexpected keyword argument {}", key.repr()?)));
        }
        found = Some(value);
    }
    Ok(found)
}

#[pymethods]
impl PyWatcher {
    /// start(callback, *args)
    ///
    /// Has the loop call `callback(*args)` at every event, in the hub, where it must not block.
    #[pyo3(signature = (*args, **kwargs))]
    fn start(slf: &Bound<'_, Self>, args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
        let (callback, args) = split_call(args)?;
        only_keyword(kwargs, "")?;
        Self::begin(slf, callback, args, false)
    }

    /// Ends the watch and forgets what was to be called.
    pub(super) fn stop(slf: &Bound<'_, Self>) {
        Self::halt(slf);
        slf.get().forget_call();
        slf.get().fields.owner.get().settle();
    }

    /// Ends the watch for good.
    fn close(slf: &Bound<'_, Self>) {
        Self::stop(slf);
    }

    /// feed(revents, callback, *args)
    ///
    /// Has the loop call `callback(*args)` soon, as if the event had happened.
    #[pyo3(signature = (revents, *args))]
    fn feed(slf: &Bound<'_, Self>, revents: u32, args: &Bound<'_, PyTuple>) -> PyResult<()> {
        let (callback, args) = split_call(args)?;
        Self::set_call(slf, callback, args, false)?;
        Self::feed_soon(slf, revents);
        Ok(())
    }

    /// The loop that the watcher belongs to.
    #[getter(r#loop)]
    fn get_loop(&self, py: Python<'_>) -> Py<PyLoop> {
        self.fields.owner.clone_ref(py)
    }

    /// Whether the watcher was started and not stopped.
    #[getter]
    fn active(&self) -> bool {
        self.is_active()
    }

    /// Whether its function is about to be called.
    #[getter]
    fn pending(&self) -> bool {
        self.fields.pending.get()
    }

    /// Whether the watcher keeps the loop alive while it is active.
    #[getter]
    fn r#ref(&self) -> bool {
        self.fields.keep_alive.get()
    }

    #[setter]
    fn set_ref(&self, value: Truth) -> PyResult<()> {
        let Truth(value) = value;
        let owner = self.fields.owner.get();
        owner.check_open()?;
        if self.fields.keep_alive.replace(value) != value && self.fields.active.get() {
            if value {
                owner.hold();
            } else {
                owner.release();
                owner.settle();
            }
        }
        Ok(())
    }

    /// The priority; kept for reading, the order is that of the events.
    #[getter]
    fn priority(&self) -> i32 {
        self.fields.priority.get()
    }

    #[setter]
    fn set_priority(&self, value: i32) -> PyResult<()> {
        if self.fields.active.get() {
            return Err(PyAttributeError::new_err("Cannot set priority of an active watcher"));
        }
        self.fields.priority.set(value);
        Ok(())
    }

    /// What is called, or None.
    #[getter]
    fn callback(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.fields.callback.borrow().as_ref().map(|callback| callback.clone_ref(py))
    }

    #[setter]
    fn set_callback(&self, callback: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        if let Some(callback) = &callback
            && !callback.is_callable()
        {
            return Err(not_callable(callback));
        }
        let old = self.fields.callback.replace(callback.map(Bound::unbind));
        drop(old);
        Ok(())
    }

    /// The arguments of the call, a tuple, or None.
    #[getter]
    fn args(&self, py: Python<'_>) -> Option<Py<PyTuple>> {
        self.fields.args.borrow().as_ref().map(|args| args.clone_ref(py))
    }

    #[setter]
    fn set_args(&self, args: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        let args = match args {
            None => None,
            Some(args) => match args.cast_into::<PyTuple>() {
                Ok(args) => Some(args.unbind()),
                Err(error) => {
                    let other = error.into_inner();
                    return Err(PyTypeError::new_err(format!("Expected tuple, got {}", other.get_type().name()?)));
                }
            },
        };
        let old = self.fields.args.replace(args);
        drop(old);
        Ok(())
    }

    fn _format(&self) -> String {
        self.details()
    }

    fn __enter__<'py>(slf: &Bound<'py, Self>) -> Bound<'py, Self> {
        slf.clone()
    }

    fn __exit__(
        slf: &Bound<'_, Self>,
        _kind: &Bound<'_, PyAny>,
        _value: &Bound<'_, PyAny>,
        _traceback: &Bound<'_, PyAny>,
    ) {
        Self::stop(slf);
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let py = slf.py();
        let this = slf.get();
        let mut text = format!("<{} at {:#x}", slf.get_type().name()?, slf.as_ptr() as usize);
        text.push_str(&slf.call_method0(pyo3::intern!(py, "_format"))?.str()?.to_string());
        if this.active() {
            text.push_str(" active");
        }
        if this.pending() {
            text.push_str(" pending");
        }
        if let Some(callback) = this.callback(py) {
            text.push_str(&format!(" callback={}", callback.bind(py).repr()?));
        }
        if let Some(args) = this.args(py) {
            text.push_str(&format!(" args={}", args.bind(py).repr()?));
        }
        text.push('>');
        Ok(text)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if self.fields.if_made().is_none() {
            return Ok(());
        }
        visit.call(&self.fields.owner)?;
        if let Ok(callback) = self.fields.callback.try_borrow() {
            visit.call(&*callback)?;
        }
        if let Ok(args) = self.fields.args.try_borrow() {
            visit.call(&*args)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        self.forget_call();
    }
}
