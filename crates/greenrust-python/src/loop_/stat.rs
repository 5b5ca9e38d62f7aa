//! Watchers of files' attributes, by looking again and again.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};

use greenrust::hub::TimerAction;
use greenrust::timers::TimerKey;
use pyo3::prelude::*;
use pyo3::types::PyString;

use super::watcher::Kind;
use super::{PyLoop, PyWatcher, attached};
use crate::arguments::Truth;
use crate::hub::duration;

/// The interval if none is given, in seconds, as libev's.
const DEFAULT_INTERVAL: f64 = 5.007_489_1;
/// The shortest interval, in seconds, as libev's.
const SHORTEST_INTERVAL: f64 = 0.107_489_1;
/// libev's number of the event.
const STAT: u32 = 0x1000;

/// What is compared.
const ATTRIBUTES: [&str; 11] = [
    "st_dev",
    "st_ino",
    "st_mode",
    "st_nlink",
    "st_uid",
    "st_gid",
    "st_rdev",
    "st_size",
    "st_atime_ns",
    "st_mtime_ns",
    "st_ctime_ns",
];

pub(super) struct State {
    path: Py<PyString>,
    interval: Cell<f64>,
    present: RefCell<Option<Py<PyAny>>>,
    previous: RefCell<Option<Py<PyAny>>>,
    armed: Cell<Option<TimerKey>>,
}

impl State {
    /// Returns the file's attributes, or None if there is no such file.
    fn look(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let result = py.import("posix").and_then(|posix| posix.call_method1("lstat", (&self.path,)));
        result.ok().map(Bound::unbind)
    }
}

fn differ(py: Python<'_>, one: Option<&Py<PyAny>>, other: Option<&Py<PyAny>>) -> bool {
    match (one, other) {
        (None, None) => false,
        (Some(one), Some(other)) => {
            ATTRIBUTES.iter().any(|name| match (one.bind(py).getattr(*name), other.bind(py).getattr(*name)) {
                (Ok(one), Ok(other)) => one.ne(other).unwrap_or(true),
                _ => true,
            })
        }
        _ => true,
    }
}

pub(super) fn arm(watcher: &Bound<'_, PyWatcher>, state: &State) {
    let interval = state.interval.get();
    if interval != 0.0 && interval < SHORTEST_INTERVAL {
        state.interval.set(SHORTEST_INTERVAL);
    }
    let now = state.look(watcher.py());
    let old = (state.present.replace(now), state.previous.take());
    drop(old);
    arm_timer(watcher, state);
}

fn arm_timer(watcher: &Bound<'_, PyWatcher>, state: &State) {
    let interval = match state.interval.get() {
        0.0 => DEFAULT_INTERVAL,
        interval => interval,
    };
    let hub = watcher.get().owner(watcher.py()).get().hub();
    let kept = watcher.clone().unbind();
    let action = TimerAction::Call(Box::new(move |_| compare(&kept.into_bound(attached()))));
    let deadline = hub.clock().now().after(duration(interval));
    state.armed.set(Some(hub.add_timer(deadline, action, false)));
}

pub(super) fn disarm(watcher: &Bound<'_, PyWatcher>, state: &State) {
    if let Some(key) = state.armed.take() {
        watcher.get().owner(watcher.py()).get().hub().remove_timer(key);
    }
}

/// Looks at the file. Runs in the hub.
fn compare(watcher: &Bound<'_, PyWatcher>) {
    let Kind::Stat(state) = watcher.get().kind() else { return };
    if state.armed.take().is_none() {
        return;
    }
    let py = watcher.py();
    arm_timer(watcher, state);
    let now = state.look(py);
    let before = state.present.borrow().as_ref().map(|attributes| attributes.clone_ref(py));
    if differ(py, before.as_ref(), now.as_ref()) {
        let old = (state.present.replace(now), state.previous.replace(before));
        drop(old);
        PyWatcher::fire(watcher, STAT);
    }
}

/// loop.stat(path, interval=0.0, ref=True, priority=None)
///
/// Calls its function when the attributes of the file at *path* have changed. It looks every *interval* seconds: 0
/// stands for 5, and less than 0.1 is raised to that.
#[pyclass(name = "stat", module = "gevent.core", extends = PyWatcher, subclass, frozen)]
pub struct PyStat {}

fn state<'a>(stat: &'a Bound<'_, PyStat>) -> &'a State {
    match stat.as_super().get().kind() {
        Kind::Stat(state) => state,
        _ => unreachable!("the class fixes the kind"),
    }
}

#[pymethods]
impl PyStat {
    #[new]
    #[pyo3(signature = (r#loop, path, interval=0.0, r#ref=Truth(true), priority=None))]
    pub(super) fn new(
        r#loop: &Bound<'_, PyLoop>,
        path: Bound<'_, PyString>,
        interval: f64,
        r#ref: Truth,
        priority: Option<i32>,
    ) -> PyClassInitializer<Self> {
        let kind = Kind::Stat(State {
            path: path.unbind(),
            interval: Cell::new(interval),
            present: RefCell::new(None),
            previous: RefCell::new(None),
            armed: Cell::new(None),
        });
        PyClassInitializer::from(PyWatcher::new(r#loop, r#ref, priority, kind)).add_subclass(Self {})
    }

    /// The path.
    #[getter]
    fn path(slf: &Bound<'_, Self>) -> Py<PyString> {
        state(slf).path.clone_ref(slf.py())
    }

    /// The path as the system takes it.
    #[getter]
    fn _paths<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        slf.py().import("os")?.call_method1("fsencode", (&state(slf).path,))
    }

    /// The seconds between looks; 0 is the default.
    #[getter]
    fn interval(slf: &Bound<'_, Self>) -> f64 {
        state(slf).interval.get()
    }

    /// The attributes that were seen last, as `os.stat` gives them; None if there was no file.
    #[getter]
    fn attr(slf: &Bound<'_, Self>) -> Option<Py<PyAny>> {
        state(slf).present.borrow().as_ref().map(|attributes| attributes.clone_ref(slf.py()))
    }

    /// The attributes before the last change; None if there was no file.
    #[getter]
    fn prev(slf: &Bound<'_, Self>) -> Option<Py<PyAny>> {
        state(slf).previous.borrow().as_ref().map(|attributes| attributes.clone_ref(slf.py()))
    }
}
