//! The `greenlet` class: a flow of control with a stack of its own, which anybody may switch to.
//!
//! The whole API of PyPI's greenlet module, over the runtime's contexts. A suspended greenlet that nobody refers to is
//! ended by throwing `GreenletExit` into it; one that waits in the hub is kept by its own stack.
//!
//! This file has what a greenlet consists of, and what others may ask; [`switching`], [`running`] and [`deallocation`] have
//! its life, [`class`] Python's view.

mod class;
mod deallocation;
mod running;
mod switching;

use std::cell::{Cell, RefCell};
use std::time::Duration;

use greenrust::context::State;
use greenrust::hub::{HeldBy, Hub, RawGreenlet, Serial, WaitingFor};
use pyo3::exceptions::PyAttributeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyType};

use crate::gil::Gil;
use crate::host;
use crate::local;
use crate::thread_state::ThreadState;

pub(crate) use deallocation::ending_dealloc;
pub use deallocation::{end_and_deallocate, install_dealloc};
pub use switching::{SWITCH, switch_to_hub, thrown};

use running::PythonBody;

/// What the object keeps besides the saved thread state.
struct Fields {
    raw: RawGreenlet,
    /// What to run: gone once it has started.
    run: RefCell<Option<Py<PyAny>>>,
    parent: RefCell<Option<Py<PyGreenlet>>>,
    is_root: bool,
    /// Whether the first switch found it: then an exception out of `run` is on its way to the parent.
    begun: Cell<bool>,
    /// The `local` objects that have a dictionary for this greenlet.
    locals: local::Owned,
}

/// greenlet(run=None, parent=None)
///
/// A flow of control with a stack of its own. It starts at the first `switch`, and ends when `run` returns.
///
/// *run*: a callable; its result, or exception, goes to the parent. *parent*: a greenlet; the current one if None.
#[pyclass(name = "greenlet", module = "gevent.lowlevel", subclass, frozen, weakref, dict)]
pub struct PyGreenlet {
    pub(crate) state: Gil<ThreadState>,
    pub(crate) place: Gil<host::ListPlace>,
    fields: Gil<Fields>,
}

/// What a suspended greenlet waits for.
pub struct Wait {
    pub waiting_for: WaitingFor,
    /// Who can end the wait, as far as it is known.
    pub awaited: Awaited,
    /// How long it has lasted.
    pub lasts: Duration,
}

/// Who can end a wait.
pub enum Awaited {
    Unknown,
    /// A greenlet, by ending.
    Greenlet(Serial),
    /// A greenlet, by giving a lock up.
    HolderOfLock(Serial),
    /// A thread that has no hub, by giving a lock up.
    Thread,
}

impl PyGreenlet {
    /// Makes the object of a thread's own stack.
    pub fn for_root(py: Python<'_>, raw: RawGreenlet) -> Py<PyGreenlet> {
        let greenlet = PyGreenlet::with_raw(raw, None, None, true);
        Py::new(py, greenlet).expect("the module's classes are ready")
    }

    fn with_raw(raw: RawGreenlet, run: Option<Py<PyAny>>, parent: Option<Py<PyGreenlet>>, is_root: bool) -> Self {
        Self {
            state: Gil::new(ThreadState::default()),
            place: Gil::default(),
            fields: Gil::new(Fields {
                raw,
                run: RefCell::new(run),
                parent: RefCell::new(parent),
                is_root,
                begun: Cell::new(is_root),
                locals: local::Owned::default(),
            }),
        }
    }

    /// Makes an unstarted greenlet; [`PyGreenlet::bind_object`] must follow once it has an address.
    pub fn unstarted(py: Python<'_>, run: Option<Py<PyAny>>, parent: Option<Py<PyGreenlet>>) -> Self {
        let hub = host::runtime(py);
        let raw = RawGreenlet::new(hub, Box::new(PythonBody));
        Self::with_raw(raw, run, parent, false)
    }

    /// Tells the runtime where the object is.
    pub fn bind_object(object: &Bound<'_, PyGreenlet>) {
        object.get().fields.raw.set_host(object.as_ptr().cast());
    }

    /// # Safety
    ///
    /// `pointer` is a greenlet object that outlives the result.
    pub unsafe fn from_pointer<'a>(pointer: *mut ffi::PyObject) -> &'a PyGreenlet {
        // SAFETY: the class is frozen, so its content may be shared; the caller guarantees type and life.
        unsafe {
            let object = Borrowed::from_ptr(Python::assume_attached(), pointer).cast_unchecked::<PyGreenlet>();
            &*std::ptr::from_ref(object.get())
        }
    }

    /// Returns the object of a runtime greenlet, if there still is one.
    pub fn object_of<'py>(py: Python<'py>, raw: &RawGreenlet) -> Option<Bound<'py, PyGreenlet>> {
        // SAFETY: the host pointer of a greenlet of this process is its object, or null once that is gone.
        unsafe { Bound::from_borrowed_ptr_or_opt(py, raw.host().cast()) }
            // SAFETY: as above.
            .map(|object| unsafe { object.cast_into_unchecked() })
    }

    /// Returns the dictionary of the instance's attributes.
    fn attributes<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyDict>> {
        Ok(slf.getattr(pyo3::intern!(slf.py(), "__dict__"))?.cast_into()?)
    }

    /// Returns the runtime's greenlet.
    #[inline]
    pub fn raw(&self) -> &RawGreenlet {
        &self.fields.raw
    }

    /// Returns the list of the `local` objects that have a dictionary for this greenlet.
    #[inline]
    pub fn locals(&self) -> &local::Owned {
        &self.fields.locals
    }

    /// Replaces what the greenlet will run.
    pub fn set_run_slot(&self, run: Option<Py<PyAny>>) {
        let old = self.fields.run.replace(run);
        drop(old);
    }

    /// Looks up what an unstarted greenlet shall run: an attribute of the object, or of a subclass.
    fn find_run(&self, object: &Bound<'_, PyGreenlet>) -> PyResult<Py<PyAny>> {
        let py = object.py();
        if object.get_type().is(PyType::new::<PyGreenlet>(py)) {
            let run = self.fields.run.borrow().as_ref().map(|run| run.clone_ref(py));
            return run.ok_or_else(|| PyAttributeError::new_err("run"));
        }
        object.getattr(pyo3::intern!(py, "run")).map(Bound::unbind)
    }

    /// Takes what was put into the `run` slot.
    pub fn take_slot(&self) -> Option<Py<PyAny>> {
        self.fields.run.take()
    }

    /// Notes that the greenlet has begun to run.
    pub fn mark_begun(&self) {
        self.fields.begun.set(true);
    }

    /// Makes sure that an unstarted greenlet never runs.
    pub fn abandon(&self) {
        if self.fields.raw.state() == State::Unstarted {
            drop(self.fields.raw.abandon());
            self.fields.begun.set(true);
        }
    }

    /// Says whether the greenlet has begun to run (or was made to end before it could).
    pub fn has_begun(&self) -> bool {
        self.fields.begun.get() || self.fields.raw.state() != State::Unstarted
    }

    /// Returns the parent.
    pub fn parent_of(&self, py: Python<'_>) -> Option<Py<PyGreenlet>> {
        self.fields.parent.borrow().as_ref().map(|parent| parent.clone_ref(py))
    }

    /// Makes `parent` the parent, whatever it was.
    pub fn adopt(object: &Bound<'_, PyGreenlet>, parent: Bound<'_, PyGreenlet>) -> PyResult<()> {
        Self::set_parent(object, parent.into_any())
    }

    /// Says whether this is the greenlet of a thread's own stack.
    pub fn is_root(&self) -> bool {
        self.fields.is_root
    }

    /// Says whether the greenlet has begun and not ended.
    pub fn is_active(&self) -> bool {
        self.fields.raw.state() == State::Started && !self.has_lost_its_thread()
    }

    /// Returns the hub that the greenlet belongs to.
    #[inline]
    pub fn hub(&self) -> &Hub {
        // SAFETY: a greenlet keeps its hub allocated, and the GIL is held.
        unsafe { &*self.fields.raw.hub() }
    }

    /// Says whether the greenlet was started in a thread that has ended.
    fn has_lost_its_thread(&self) -> bool {
        self.fields.raw.state() != State::Unstarted && self.hub().is_closed()
    }

    /// Says whether the greenlet runs, in its own thread: in others, that is the one which gave up the GIL there.
    pub fn is_running(&self) -> bool {
        self.is_active() && self.hub().is_running(&self.fields.raw)
    }

    /// Returns the identity of the thread in which the greenlet runs, if it does.
    pub fn running_thread(&self, py: Python<'_>) -> Option<u64> {
        self.is_running().then(|| host::thread_ident_of(py, self.hub())).flatten()
    }

    /// Returns what a suspended greenlet waits for, whatever thread it belongs to; None unless it has begun and is
    /// suspended.
    pub fn wait(&self, _py: Python<'_>) -> Option<Wait> {
        let raw = &self.fields.raw;
        if !self.is_active() || self.is_running() {
            return None;
        }
        let waiting_for = raw.waiting_for();
        let awaited = match waiting_for {
            WaitingFor::Join(Some(serial)) => Awaited::Greenlet(serial),
            // SAFETY: a lock notes its holder in itself, and is there as long as somebody waits for it; whoever changes
            // that holds the GIL, as this thread does.
            WaitingFor::Lock(_, holder) => match unsafe { (*holder).get() } {
                HeldBy::Greenlet(serial) => Awaited::HolderOfLock(serial),
                HeldBy::Thread => Awaited::Thread,
                HeldBy::Unknown => Awaited::Unknown,
            },
            _ => Awaited::Unknown,
        };
        let now = self.hub().clock().now();
        Some(Wait { waiting_for, awaited, lasts: now.since(raw.waiting_since()) })
    }

    /// Returns the hub of the thread that the greenlet belongs to: where it was started, or where its parent belongs.
    fn thread_hub(&self) -> *const Hub {
        let mut hub = self.fields.raw.hub();
        if self.fields.raw.state() != State::Unstarted {
            return hub;
        }
        let mut ancestor = self.fields.parent.as_ptr();
        // SAFETY: no code runs here, so nobody replaces a parent meanwhile; each greenlet holds its own.
        while let Some(parent) = unsafe { &*ancestor } {
            let fields = &parent.get().fields;
            hub = fields.raw.hub();
            if fields.raw.state() != State::Unstarted {
                break;
            }
            ancestor = fields.parent.as_ptr();
        }
        hub
    }

    fn is_of_this_thread(&self) -> bool {
        std::ptr::eq(self.fields.raw.hub(), Hub::current())
    }

    /// Writes the name for the message of a crash; async-signal-safe.
    pub fn crash_name(&self, buffer: &mut [u8]) -> usize {
        use std::io::Write;
        let room = buffer.len();
        let mut rest = buffer;
        let _ = match crate::greenlet::crash_label(self) {
            Some(name) => write!(rest, "greenlet {name:?} ({:#x})", self.fields.raw.host() as usize),
            None => write!(rest, "greenlet {:#x}", self.fields.raw.host() as usize),
        };
        room - rest.len()
    }

    fn frame(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        if !self.is_active() || self.is_running() {
            return None;
        }
        self.state.frame(py)
    }
}

impl Drop for PyGreenlet {
    fn drop(&mut self) {
        // What is saved of the thread state is owned only as far as it can be dropped here: the context.
        self.state.set_context(None);
        self.fields.locals.free(self.fields.raw.host().cast());
        // Others may hold the runtime's greenlet (the owner of a lock).
        self.fields.raw.set_host(std::ptr::null_mut());
    }
}

/// The greenlet that runs.
#[pyfunction]
pub fn getcurrent(py: Python<'_>) -> Bound<'_, PyGreenlet> {
    host::end_dropped(py);
    host::current(py)
}

/// settrace(callback) -> previous callback
///
/// Has `callback(event, (origin, target))` called after each switch of this thread; None ends that.
#[pyfunction]
pub fn settrace(py: Python<'_>, callback: Option<Py<PyAny>>) -> Option<Py<PyAny>> {
    host::set_trace(py, callback)
}

/// The trace function of this thread, or None.
#[pyfunction]
pub fn gettrace(py: Python<'_>) -> Option<Py<PyAny>> {
    host::trace(py)
}

// -- switch, as a method with the fast calling convention --------------------------------------------------------
//
// PyO3 gives a method with `*args` the calling convention that packs a tuple for each call. `switch` is what programs on
// raw greenlets spend their time in, so it is defined by hand.

ending_dealloc!(greenlet_dealloc, GREENLET_DEALLOC);
