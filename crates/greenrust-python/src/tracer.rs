//! Who watches whether a thread switches: the native base of `gevent._tracer`'s classes.
//!
//! A tracer is a trace function, as `settrace` takes it, that only counts. Its own class does nothing else, so the thread
//! that it watches needs not call it: the runtime counts switches anyway, and the tracer looks when it is asked. Switches
//! then go their usual way and cost nothing more. As soon as somebody wants to be called (another function stands behind
//! the tracer, or a subclass has a `_trace` of its own), the thread is traced as for any other function.
//!
//! A tracer may be asked in any thread: the GIL orders that with the switches.

use std::cell::{Cell, RefCell};

use greenrust::hub::{Hub, RawGreenlet};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::gil::Gil;
use crate::host;
use crate::lowlevel::PyGreenlet;

/// Adds the class to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyTracer>()
}

struct Fields {
    /// The root of the thread that is watched: keeps its hub allocated.
    root: RawGreenlet,
    previous: RefCell<Option<Py<PyAny>>>,
    /// Whether nobody behind the tracer has to be called.
    only_counts: Cell<bool>,
    is_killed: Cell<bool>,
    /// How often the tracer was called since it was asked last.
    calls: Cell<u64>,
    /// The hub's count of switches when the tracer was asked last.
    switches: Cell<u64>,
    /// The greenlet that the tracer was told of last, and the hub's count of switches then.
    told: RefCell<Option<Py<PyAny>>>,
    told_at: Cell<u64>,
}

/// GreenletTracer()
///
/// Watches whether the calling thread switches, from now on until `kill`.
#[pyclass(name = "GreenletTracer", module = "gevent._greenrust", subclass, frozen, dict, weakref)]
pub struct PyTracer {
    fields: Gil<Fields>,
}

impl Fields {
    /// Returns the watched thread's hub.
    fn hub(&self) -> &Hub {
        // SAFETY: the root greenlet keeps its hub allocated; the GIL is held.
        unsafe { &*self.root.hub() }
    }

    fn tell(&self, active: Option<Py<PyAny>>) {
        self.told_at.set(self.hub().switches());
        let old = self.told.replace(active);
        drop(old);
    }

    /// Returns the greenlet that runs in the watched thread, as far as the tracer knows; None before the first switch.
    fn active(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        if self.only_counts.get() && !self.is_killed.get() && self.hub().switches() != self.told_at.get() {
            return host::current_of(py, self.hub());
        }
        self.told.borrow().as_ref().map(|active| active.clone_ref(py))
    }

    fn count(&self) -> u64 {
        let counted = if self.only_counts.get() && !self.is_killed.get() {
            self.hub().switches().wrapping_sub(self.switches.get())
        } else {
            0
        };
        counted.wrapping_add(self.calls.get())
    }
}

impl PyTracer {
    /// Says whether a thread that has this tracer as its trace function need not call it.
    pub fn only_counts(&self) -> bool {
        self.fields.only_counts.get()
    }

    /// Has the tracers that watch the calling thread take no notice of the greenlet that runs, until it switches: it
    /// waits for work, which is no fault.
    pub fn excuse_running(py: Python<'_>) {
        let mut function = host::trace(py);
        while let Some(tracer) = function.as_ref().and_then(|function| function.bind(py).cast::<PyTracer>().ok()) {
            tracer.get().fields.tell(None);
            let next = tracer.get().previous_trace_function(py);
            function = next;
        }
    }

    fn has_own_trace(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let py = slf.py();
        let class = slf.get_type();
        if class.is(PyType::new::<PyTracer>(py)) {
            return Ok(false);
        }
        let base = PyType::new::<PyTracer>(py);
        for name in [pyo3::intern!(py, "_trace"), pyo3::intern!(py, "__call__")] {
            if !class.getattr(name)?.is(&base.getattr(name)?) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[pymethods]
impl PyTracer {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(py: Python<'_>, _args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        // The arguments are __init__'s: subclasses have signatures of their own.
        let hub = host::runtime(py);
        Self {
            fields: Gil::new(Fields {
                root: hub.root().clone(),
                previous: RefCell::new(None),
                only_counts: Cell::new(false),
                is_killed: Cell::new(false),
                calls: Cell::new(0),
                switches: Cell::new(hub.switches()),
                told: RefCell::new(None),
                told_at: Cell::new(hub.switches()),
            }),
        }
    }

    fn __init__(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let fields = &slf.get().fields;
        let previous = host::trace(py);
        let is_quiet = match &previous {
            None => true,
            Some(function) => function.bind(py).cast::<PyTracer>().is_ok_and(|tracer| tracer.get().only_counts()),
        };
        fields.only_counts.set(is_quiet && !Self::has_own_trace(slf)?);
        let old = fields.previous.replace(previous);
        drop(old);
        drop(host::set_trace(py, Some(slf.clone().into_any().unbind())));
        Ok(())
    }

    /// The trace function that was there before, which is called as well; None if there was none.
    #[getter]
    fn previous_trace_function(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.fields.previous.borrow().as_ref().map(|previous| previous.clone_ref(py))
    }

    /// How often the thread has switched since the tracer was asked last.
    #[getter]
    fn greenlet_switch_counter(&self) -> u64 {
        self.fields.count()
    }

    /// The greenlet that was switched to last; None before the first switch, and if it is not to be watched.
    #[getter]
    fn active_greenlet(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.fields.active(py)
    }

    /// Takes note of a switch: what `settrace` asks of a trace function.
    fn __call__(slf: &Bound<'_, Self>, event: &Bound<'_, PyAny>, args: &Bound<'_, PyAny>) -> PyResult<()> {
        slf.call_method1(pyo3::intern!(slf.py(), "_trace"), (event, args)).map(drop)
    }

    /// What a call does; a subclass that overrides it has the thread really traced.
    fn _trace(&self, py: Python<'_>, event: &Bound<'_, PyAny>, args: &Bound<'_, PyAny>) -> PyResult<()> {
        let fields = &self.fields;
        fields.calls.set(fields.calls.get().wrapping_add(1));
        let is_switch = event.eq(pyo3::intern!(py, "switch"))? || event.eq(pyo3::intern!(py, "throw"))?;
        fields.tell(if is_switch { Some(args.get_item(1)?.unbind()) } else { None });
        match self.previous_trace_function(py) {
            Some(previous) => previous.call1(py, (event, args)).map(drop),
            None => Ok(()),
        }
    }

    /// kill(): stops watching; the trace function that was there before comes back.
    fn kill(slf: &Bound<'_, Self>) {
        let py = slf.py();
        let fields = &slf.get().fields;
        if fields.is_killed.get() {
            return;
        }
        let active = fields.active(py);
        fields.calls.set(fields.count());
        fields.is_killed.set(true);
        fields.tell(active);
        // Those before that have been killed meanwhile don't come back.
        let mut previous = fields.previous.take();
        while let Some(tracer) = previous.as_ref().and_then(|function| function.bind(py).cast::<PyTracer>().ok())
            && tracer.get().fields.is_killed.get()
        {
            let next = tracer.get().previous_trace_function(py);
            previous = next;
        }
        host::replace_trace_of(py, fields.hub(), slf.as_any(), previous);
    }

    /// did_block_hub(hub) -> False, or (True, the greenlet that runs without having switched since the last call)
    ///
    /// The hub itself is no such greenlet, as it waits for events.
    fn did_block_hub<'py>(&self, py: Python<'py>, hub: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let fields = &self.fields;
        let has_switched = fields.count() != 0;
        fields.calls.set(0);
        fields.switches.set(fields.hub().switches());
        match fields.active(py) {
            Some(active) if !has_switched && !active.is(hub) => Ok((true, active).into_pyobject(py)?.into_any()),
            _ => Ok(false.into_pyobject(py)?.to_owned().into_any()),
        }
    }

    /// ignore_current_greenlet_blocking(): takes no notice of the greenlet that runs, until the next switch.
    fn ignore_current_greenlet_blocking(&self) {
        self.fields.tell(None);
    }

    /// monitor_current_greenlet_blocking(): takes notice of the greenlet that calls, as if it had been switched to.
    fn monitor_current_greenlet_blocking(&self, py: Python<'_>) {
        let current: Bound<'_, PyGreenlet> = host::current(py);
        self.fields.tell(Some(current.into_any().unbind()));
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(fields) = self.fields.if_made() else { return Ok(()) };
        if let Ok(previous) = fields.previous.try_borrow() {
            visit.call(&*previous)?;
        }
        match fields.told.try_borrow() {
            Ok(told) => visit.call(&*told),
            Err(_) => Ok(()),
        }
    }

    fn __clear__(&self) {
        let held = (self.fields.previous.take(), self.fields.told.take());
        drop(held);
    }
}
