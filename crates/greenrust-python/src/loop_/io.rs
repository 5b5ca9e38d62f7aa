//! Watchers of descriptors, level-triggered.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::os::fd::RawFd;
use std::rc::Rc;

use greenrust::hub::{LevelKey, Sink};
use greenrust::sys::Interest;
use pyo3::exceptions::{PyAttributeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::watcher::{Kind, only_keyword, split_call};
use super::{PyLoop, PyWatcher, attached};
use crate::arguments::Truth;
use crate::exceptions;

pub(super) const READ: u32 = 1;
pub(super) const WRITE: u32 = 2;
/// libev's mark for "the descriptor was set", which programs pass through.
const IOFDSET: u32 = 0x80;

pub(super) struct State {
    descriptor: Cell<RawFd>,
    events: Cell<u32>,
    armed: Cell<Option<LevelKey>>,
    /// A regular file, which the poller refuses because it is always ready.
    always_ready: Cell<bool>,
}

impl State {
    pub(super) fn events(&self) -> u32 {
        self.events.get()
    }

    pub(super) fn is_always_ready(&self) -> bool {
        self.always_ready.get()
    }

    pub(super) fn details(&self) -> String {
        format!(" fd={} events={}", self.descriptor.get(), events_text(self.events.get()))
    }
}

fn events_text(events: u32) -> String {
    let names: Vec<&str> = [(READ, "READ"), (WRITE, "WRITE")]
        .into_iter()
        .filter_map(|(flag, name)| (events & flag != 0).then_some(name))
        .collect();
    if names.is_empty() { "0".to_owned() } else { names.join("|") }
}

fn checked_events(events: u32) -> PyResult<u32> {
    if events & !(READ | WRITE | IOFDSET) != 0 {
        return Err(PyValueError::new_err(format!("illegal event mask: {events}")));
    }
    Ok(events & (READ | WRITE))
}

/// Checks the number of a descriptor.
pub fn checked_descriptor(descriptor: RawFd) -> PyResult<RawFd> {
    if descriptor < 0 {
        return Err(PyValueError::new_err(format!("fd must be non-negative: {descriptor}")));
    }
    Ok(descriptor)
}

pub(super) fn arm(watcher: &Bound<'_, PyWatcher>, state: &State) -> PyResult<()> {
    let events = state.events.get();
    let interest = Interest { read: events & READ != 0, write: events & WRITE != 0 };
    let kept = watcher.clone().unbind();
    let sink = Sink::Watcher(Rc::new(move |ready: Interest| {
        let events = if ready.read { READ } else { 0 } | if ready.write { WRITE } else { 0 };
        PyWatcher::feed_soon(kept.bind(attached()), events);
    }));
    let hub = watcher.get().owner(watcher.py()).get().hub();
    state.always_ready.set(false);
    match hub.add_level(state.descriptor.get(), interest, sink) {
        Ok(key) => state.armed.set(Some(key)),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            state.always_ready.set(true);
            PyWatcher::feed_soon(watcher, events);
        }
        Err(error) => return Err(exceptions::os_error(&error)),
    }
    Ok(())
}

pub(super) fn disarm(watcher: &Bound<'_, PyWatcher>, state: &State) {
    state.always_ready.set(false);
    if let Some(key) = state.armed.take() {
        watcher.get().owner(watcher.py()).get().hub().remove_level(key);
    }
}

/// loop.io(fd, events, ref=True, priority=None)
///
/// Calls its function in every round in which the descriptor is ready. *events*: 1 to read, 2 to write, 3 either.
#[pyclass(name = "io", module = "gevent.core", extends = PyWatcher, subclass, frozen)]
pub struct PyIo {}

fn state<'a>(io: &'a Bound<'_, PyIo>) -> &'a State {
    match io.as_super().get().kind() {
        Kind::Io(state) => state,
        _ => unreachable!("the class fixes the kind"),
    }
}

fn check_inactive(io: &Bound<'_, PyIo>, attribute: &str) -> PyResult<()> {
    if io.as_super().get().is_active() {
        return Err(PyAttributeError::new_err(format!(
            "'io' watcher attribute '{attribute}' is read-only while watcher is active"
        )));
    }
    Ok(())
}

#[pymethods]
impl PyIo {
    #[new]
    #[pyo3(signature = (r#loop, fd, events, r#ref=Truth(true), priority=None))]
    pub(super) fn new(
        r#loop: &Bound<'_, PyLoop>,
        fd: i32,
        events: u32,
        r#ref: Truth,
        priority: Option<i32>,
    ) -> PyResult<PyClassInitializer<Self>> {
        let state = State {
            descriptor: Cell::new(checked_descriptor(fd)?),
            events: Cell::new(checked_events(events)?),
            armed: Cell::new(None),
            always_ready: Cell::new(false),
        };
        let watcher = PyWatcher::new(r#loop, r#ref, priority, Kind::Io(state));
        Ok(PyClassInitializer::from(watcher).add_subclass(Self {}))
    }

    /// start(callback, *args, pass_events=False)
    ///
    /// Starts the watch. With *pass_events* the function's first argument is the number of the events.
    /// Raises OSError for a descriptor that is not open.
    #[pyo3(signature = (*args, **kwargs))]
    fn start(slf: &Bound<'_, Self>, args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
        let (callback, args) = split_call(args)?;
        let pass_events = match only_keyword(kwargs, "pass_events")? {
            Some(value) => value.is_truthy()?,
            None => false,
        };
        PyWatcher::begin(slf.as_super(), callback, args, pass_events)
    }

    /// The descriptor.
    #[getter]
    fn fd(slf: &Bound<'_, Self>) -> i32 {
        state(slf).descriptor.get()
    }

    #[setter]
    fn set_fd(slf: &Bound<'_, Self>, value: i32) -> PyResult<()> {
        check_inactive(slf, "fd")?;
        state(slf).descriptor.set(checked_descriptor(value)?);
        Ok(())
    }

    /// What is waited for: 1 to read, 2 to write, 3 either.
    #[getter]
    fn events(slf: &Bound<'_, Self>) -> u32 {
        state(slf).events.get()
    }

    #[setter]
    fn set_events(slf: &Bound<'_, Self>, value: u32) -> PyResult<()> {
        check_inactive(slf, "events")?;
        state(slf).events.set(checked_events(value)?);
        Ok(())
    }

    /// The events as text.
    #[getter]
    fn events_str(slf: &Bound<'_, Self>) -> String {
        events_text(state(slf).events.get())
    }
}
