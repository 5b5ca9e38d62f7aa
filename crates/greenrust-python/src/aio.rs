//! asyncio beside greenlets: what a loop that runs in a greenlet needs of the hub.
//!
//! CPython keeps asyncio's running loop, and from 3.14 on its current task, for each OS thread. Here many greenlets share
//! a thread, and any of them may run a loop. So while a greenlet runs one, its parks are *accompanied*: what belongs to
//! its loop is put aside before it is suspended, and taken up again when it goes on. What it switches to by hand
//! (greenlets of a bridge, such as SQLAlchemy's) is still part of its loop's step, and sees it.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use greenrust::hub::{Hub, LevelKey, Scope, Sink, WaitingFor, Wake, Waker};
use greenrust::sys::Interest;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::exceptions;
use crate::gil::Gil;
use crate::greenlet::deadline;
use crate::host;
use crate::hub as py_hub;

/// Adds the class and the functions to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyLoopWait>()?;
    module.add_function(wrap_pyfunction!(set_companions, module)?)?;
    module.add_function(wrap_pyfunction!(set_accompanied, module)?)
}

static COMPANIONS: PyOnceLock<(Py<PyAny>, Py<PyAny>)> = PyOnceLock::new();

/// set_companions(put_aside, take_up): what an accompanied park calls before, and with its result afterwards.
#[pyfunction]
fn set_companions(py: Python<'_>, put_aside: Py<PyAny>, take_up: Py<PyAny>) {
    let _ = COMPANIONS.set(py, (put_aside, take_up));
}

/// set_accompanied(on) -> the former value: whether parks of who runs now are accompanied.
#[pyfunction]
fn set_accompanied(py: Python<'_>, on: bool) -> bool {
    host::runtime(py).set_accompanied(on)
}

/// Performs a park between the calls of the companions.
pub fn accompany(py: Python<'_>, suspend: &mut dyn FnMut()) {
    let Some((put_aside, take_up)) = COMPANIONS.get(py) else {
        return suspend();
    };
    let aside = put_aside.bind(py).call0();
    suspend();
    let aside = match aside {
        Ok(aside) => aside,
        Err(error) => return error.write_unraisable(py, None),
    };
    // What was sent to the greenlet is not to be seen by switches that a finalizer makes meanwhile.
    let payload = host::receive();
    if let Err(error) = take_up.bind(py).call1((aside,)) {
        error.write_unraisable(py, None);
    }
    if let Some(payload) = payload {
        host::send(payload);
    }
}

/// LoopWait()
///
/// The wait of an event loop that runs in a greenlet: for one descriptor, a time, or a call of `wake`.
#[pyclass(name = "LoopWait", module = "gevent._greenrust", frozen)]
pub struct PyLoopWait {
    fields: Gil<Fields>,
}

/// How many times in a row a loop with work to do goes on without a look at the descriptors and timers of others, when
/// no other greenlet is ready.
const PASSES: u32 = 16;

struct Fields {
    /// How many times in a row nobody else was ready.
    passed: Cell<u32>,
    shared: Rc<Shared>,
    keeps_alive: Cell<bool>,
    /// The hub that the present wait keeps alive.
    held: Cell<Option<*const Hub>>,
    /// The cancel scope that the loop itself runs in.
    scope: RefCell<Option<Scope>>,
}

/// What the hub's watcher of the descriptor needs to know.
#[derive(Default)]
struct Shared {
    waker: RefCell<Option<Waker>>,
    /// The watcher, which stays from wait to wait, and the descriptor that it is for.
    watched: Cell<Option<(LevelKey, i32)>>,
}

impl Shared {
    /// Acts on a descriptor that can be read.
    fn notice(self: &Rc<Self>) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.unpark();
            return;
        }
        // The loop does something else meanwhile: a watcher that stayed would keep the hub from sleeping.
        let shared = Rc::clone(self);
        Hub::current().push_call(move |hub| {
            if shared.waker.borrow().is_none() {
                shared.unwatch(hub);
            }
        });
    }

    fn watch(self: &Rc<Self>, hub: &Hub, fileno: i32) -> std::io::Result<()> {
        if self.watched.get().is_some_and(|(_, watched)| watched == fileno) {
            return Ok(());
        }
        self.unwatch(hub);
        let shared = Rc::clone(self);
        let watcher = Sink::Watcher(Rc::new(move |_| shared.notice()));
        let key = hub.add_level(fileno, Interest { read: true, write: false }, watcher)?;
        self.watched.set(Some((key, fileno)));
        Ok(())
    }

    fn unwatch(&self, hub: &Hub) {
        if let Some((key, _)) = self.watched.take() {
            hub.remove_level(key);
        }
    }
}

impl Fields {
    /// Makes the loop's scope the innermost again.
    fn restore_scope(&self, hub: &Hub) {
        let running = hub.running();
        let scope = self.scope.borrow().clone();
        if running.scope() != scope {
            running.restore_scope(scope.as_ref());
        }
    }

    fn release(&self, py: Python<'_>) {
        if let Some(hub) = self.held.take() {
            host::release(py, hub);
        }
    }
}

#[pymethods]
impl PyLoopWait {
    #[new]
    fn new() -> Self {
        Self {
            fields: Gil::new(Fields {
                passed: Cell::new(0),
                shared: Rc::default(),
                keeps_alive: Cell::new(true),
                held: Cell::new(None),
                scope: RefCell::new(None),
            }),
        }
    }

    /// begin(): notes the cancel scope that the loop runs in. One that a callback leaves open is not the loop's.
    fn begin(&self, py: Python<'_>) {
        let scope = host::runtime(py).running().scope();
        self.fields.scope.replace(scope);
    }

    /// wait(fileno, timeout=None): parks until *fileno* can be read, *timeout* seconds (a float; None: no limit) are over,
    /// or `wake` is called; without any time, others that are ready take their turn. Raises what is thrown into the greenlet. Between `begin` and `end`, in one thread.
    #[pyo3(signature = (fileno, timeout=None))]
    fn wait(&self, py: Python<'_>, fileno: i32, timeout: Option<f64>) -> PyResult<()> {
        let hub = py_hub::ensure(py)?;
        self.fields.restore_scope(hub);
        let passed = self.fields.passed.replace(0);
        if timeout.is_some_and(|seconds| seconds <= 0.0) {
            if hub.queued() == 0 && passed < PASSES && !hub.running().has_interrupt() {
                self.fields.passed.set(passed + 1);
                return Ok(());
            }
            let woken = host::keep_alive(py, || hub.yield_now());
            return woken
                .map_or_else(|_| Err(exceptions::blocking_switch_out(py)), |wake| host::settle(py, wake).map(drop));
        }
        self.fields.shared.watch(hub, fileno).map_err(|error| exceptions::os_error(&error))?;
        let (hub, waker) = host::begin_park(py, WaitingFor::Read(fileno))?;
        if self.fields.keeps_alive.get() {
            hub.hold();
            self.fields.held.set(Some(std::ptr::from_ref(hub)));
        }
        self.fields.shared.waker.replace(Some(waker.clone()));
        let woken = host::park(py, hub, &waker, deadline(hub, timeout), false);
        self.fields.shared.waker.replace(None);
        self.fields.release(py);
        woken.map(|wake| debug_assert!(matches!(wake, Wake::Unparked | Wake::TimedOut)))
    }

    /// end(): the descriptor is not watched any more.
    fn end(&self, py: Python<'_>) {
        let hub = host::runtime(py);
        self.fields.shared.unwatch(hub);
        self.fields.restore_scope(hub);
        self.fields.scope.replace(None);
    }

    /// wake() -> bool: ends the wait; returns whether there is one. Works from all threads. Does not switch.
    fn wake(&self) -> bool {
        let waker = self.fields.shared.waker.borrow().clone();
        if let Some(waker) = &waker {
            waker.unpark();
        }
        waker.is_some()
    }

    /// Whether the wait keeps the hub's loop alive, so that it is not taken for one in which nothing can happen.
    #[getter]
    fn keeps_alive(&self) -> bool {
        self.fields.keeps_alive.get()
    }

    #[setter]
    fn set_keeps_alive(&self, py: Python<'_>, on: bool) {
        self.fields.keeps_alive.set(on);
        if !on {
            self.fields.release(py);
        }
        // A wait that is to keep alive from now on is woken by what happens next, and begins anew.
    }
}
