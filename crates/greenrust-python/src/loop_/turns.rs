//! Watchers without a state of their own: `prepare`, `check`, `idle` and `fork`, which the rounds of the loop concern,
//! and `async_`, which is sent to.

#![forbid(unsafe_code)]

use pyo3::prelude::*;

use super::rounds::List;
use super::watcher::Kind;
use super::{PyLoop, PyWatcher};
use crate::arguments::Truth;

macro_rules! turn_watcher {
    ($class:ident, $name:literal, $kind:expr, $text:literal) => {
        #[doc = $text]
        #[pyclass(name = $name, module = "gevent.core", extends = PyWatcher, subclass, frozen)]
        pub struct $class {}

        #[pymethods]
        impl $class {
            #[new]
            #[pyo3(signature = (r#loop, r#ref=Truth(true), priority=None))]
            pub(super) fn new(
                r#loop: &Bound<'_, PyLoop>,
                r#ref: Truth,
                priority: Option<i32>,
            ) -> PyClassInitializer<Self> {
                PyClassInitializer::from(PyWatcher::new(r#loop, r#ref, priority, $kind)).add_subclass(Self {})
            }
        }
    };
}

turn_watcher!(
    PyPrepare,
    "prepare",
    Kind::Turn(List::Prepare),
    "loop.prepare(ref=True, priority=None): calls its function before the loop waits for events."
);
turn_watcher!(
    PyCheck,
    "check",
    Kind::Turn(List::Check),
    "loop.check(ref=True, priority=None): calls its function after the loop has waited for events."
);
turn_watcher!(
    PyIdle,
    "idle",
    Kind::Turn(List::Idle),
    "loop.idle(ref=True, priority=None): calls its function in every round that has nothing else to do."
);
turn_watcher!(
    PyFork,
    "fork",
    Kind::Turn(List::Fork),
    "loop.fork(ref=True, priority=None): calls its function in the child of a fork."
);

/// loop.async_(ref=True, priority=None): calls its function after `send`, which any thread may call.
#[pyclass(name = "async_", module = "gevent.core", extends = PyWatcher, subclass, frozen)]
pub struct PyAsync {}

#[pymethods]
impl PyAsync {
    #[new]
    #[pyo3(signature = (r#loop, r#ref=Truth(true), priority=None))]
    pub(super) fn new(r#loop: &Bound<'_, PyLoop>, r#ref: Truth, priority: Option<i32>) -> PyClassInitializer<Self> {
        PyClassInitializer::from(PyWatcher::new(r#loop, r#ref, priority, Kind::Async)).add_subclass(Self {})
    }

    /// Has the loop call the function soon. Several sends before that make one call. Any thread may send.
    fn send(slf: &Bound<'_, Self>) {
        let watcher = slf.as_super();
        if watcher.get().is_active() {
            PyWatcher::feed_soon(watcher, 0);
        }
    }

    /// As `send`; takes an argument, so that it can be linked.
    fn send_ignoring_arg(slf: &Bound<'_, Self>, _ignored: &Bound<'_, PyAny>) {
        Self::send(slf);
    }
}
