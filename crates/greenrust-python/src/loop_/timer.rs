//! Watchers of time.

#![forbid(unsafe_code)]

use std::cell::Cell;

use greenrust::clock::Instant;
use greenrust::hub::TimerAction;
use greenrust::timers::TimerKey;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use super::watcher::{Kind, only_keyword, split_call};
use super::{PyLoop, PyWatcher, attached};
use crate::arguments::{Real, Truth};
use crate::hub::duration;

pub(super) struct State {
    after: f64,
    repeat: Cell<f64>,
    /// The timer in the hub, and its deadline.
    armed: Cell<Option<(TimerKey, Instant)>>,
}

impl State {
    pub(super) fn after(&self) -> f64 {
        self.after
    }
}

/// loop.timer(after, repeat=0.0, ref=True, priority=None)
///
/// Calls its function *after* seconds; then, unless *repeat* is 0, every *repeat* seconds.
#[pyclass(name = "timer", module = "gevent.core", extends = PyWatcher, subclass, frozen)]
pub struct PyTimer {}

fn state<'a>(timer: &'a Bound<'_, PyTimer>) -> &'a State {
    match timer.as_super().get().kind() {
        Kind::Timer(state) => state,
        _ => unreachable!("the class fixes the kind"),
    }
}

/// Starts the timer in the hub.
pub(super) fn arm(watcher: &Bound<'_, PyWatcher>, state: &State, seconds: f64) {
    let hub = watcher.get().owner(watcher.py()).get().hub();
    arm_until(watcher, state, hub.clock().now().after(duration(seconds)));
}

fn arm_until(watcher: &Bound<'_, PyWatcher>, state: &State, deadline: Instant) {
    let hub = watcher.get().owner(watcher.py()).get().hub();
    let kept = watcher.clone().unbind();
    let action = TimerAction::Call(Box::new(move |_| expire(&kept.into_bound(attached()))));
    // The watcher itself keeps the loop alive, as its `ref` can change.
    state.armed.set(Some((hub.add_timer(deadline, action, false), deadline)));
}

pub(super) fn disarm(watcher: &Bound<'_, PyWatcher>, state: &State) {
    if let Some((key, _)) = state.armed.take() {
        watcher.get().owner(watcher.py()).get().hub().remove_timer(key);
    }
}

/// The time is over. Runs in the hub.
fn expire(watcher: &Bound<'_, PyWatcher>) {
    let Kind::Timer(state) = watcher.get().kind() else { return };
    let Some((_, deadline)) = state.armed.take() else { return };
    let repeat = state.repeat.get();
    if repeat > 0.0 {
        // Late rounds do not pile up.
        let now = watcher.get().owner(watcher.py()).get().hub().clock().now();
        arm_until(watcher, state, deadline.after(duration(repeat)).max(now));
    } else {
        PyWatcher::mark_inactive(watcher);
    }
    PyWatcher::fire(watcher, 0x100);
}

#[pymethods]
impl PyTimer {
    #[new]
    #[pyo3(signature = (r#loop, after=Real(0.0), repeat=Real(0.0), r#ref=Truth(true), priority=None))]
    pub(super) fn new(
        r#loop: &Bound<'_, PyLoop>,
        after: Real,
        repeat: Real,
        r#ref: Truth,
        priority: Option<i32>,
    ) -> PyResult<PyClassInitializer<Self>> {
        let (Real(after), Real(repeat)) = (after, repeat);
        if repeat < 0.0 {
            return Err(PyValueError::new_err(format!("repeat must be positive or zero: {repeat:?}")));
        }
        let state = State { after, repeat: Cell::new(repeat), armed: Cell::new(None) };
        let watcher = PyWatcher::new(r#loop, r#ref, priority, Kind::Timer(state));
        Ok(PyClassInitializer::from(watcher).add_subclass(Self {}))
    }

    /// start(callback, *args, update=None)
    ///
    /// Starts the time; *update* is ignored, as the time always counts from now.
    #[pyo3(signature = (*args, **kwargs))]
    fn start(slf: &Bound<'_, Self>, args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
        let (callback, args) = split_call(args)?;
        only_keyword(kwargs, "update")?;
        PyWatcher::begin(slf.as_super(), callback, args, false)
    }

    /// again(callback, *args, update=None)
    ///
    /// Starts the time anew, with *repeat* seconds from now. Without *repeat* it stops an active timer.
    #[pyo3(signature = (*args, **kwargs))]
    fn again(slf: &Bound<'_, Self>, args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> PyResult<()> {
        let (callback, args) = split_call(args)?;
        only_keyword(kwargs, "update")?;
        let watcher = slf.as_super();
        PyWatcher::set_call(watcher, callback, args, false)?;
        let state = state(slf);
        disarm(watcher, state);
        if state.repeat.get() > 0.0 {
            arm(watcher, state, state.repeat.get());
            PyWatcher::mark_active(watcher);
        } else {
            PyWatcher::mark_inactive(watcher);
        }
        Ok(())
    }

    /// The seconds until the first call; while the timer runs, the seconds that are left.
    #[getter]
    fn at(slf: &Bound<'_, Self>) -> f64 {
        let state = state(slf);
        match state.armed.get() {
            None => state.after,
            Some((_, deadline)) => {
                let hub = slf.as_super().get().owner(slf.py()).get().hub();
                deadline.since(hub.clock().now()).as_secs_f64()
            }
        }
    }

    /// The seconds between calls, or 0.
    #[getter]
    fn repeat(slf: &Bound<'_, Self>) -> f64 {
        state(slf).repeat.get()
    }

    #[setter]
    fn set_repeat(slf: &Bound<'_, Self>, value: f64) -> PyResult<()> {
        if value < 0.0 {
            return Err(PyValueError::new_err(format!("repeat must be positive or zero: {value:?}")));
        }
        state(slf).repeat.set(value);
        Ok(())
    }
}
