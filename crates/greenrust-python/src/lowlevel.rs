//! The `greenlet` class: a flow of control with a stack of its own, which anybody may switch to.
//!
//! The whole API of PyPI's greenlet module, over the runtime's contexts. A suspended greenlet that nobody refers to is
//! ended by throwing `GreenletExit` into it; one that waits in the hub is kept by its own stack.

use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::time::Duration;

use greenrust::context::State;
use greenrust::hub::{Body, HeldBy, Hub, RawGreenlet, Serial, WaitingFor, Wake};
use greenrust::stack::StackError;
use pyo3::exceptions::{PyAttributeError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::exceptions::{self, GreenletError, GreenletExit};
use crate::fastcall::{Arguments, FastMethod, guard};
use crate::gil::Gil;
use crate::host::{self, Payload, Thread};
use crate::hub as py_hub;
use crate::local;
use crate::thread_state::{self, ThreadState};

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

/// The body of every greenlet of the Python face. It has no fields, so boxing it allocates nothing.
struct PythonBody;

impl Body for PythonBody {
    fn run(self: Box<Self>, greenlet: &RawGreenlet) -> RawGreenlet {
        // Before anything else: what PyO3 does at `attach` may run finalizers, which may switch.
        let payload = host::receive();
        // Counts the thread as attached for PyO3, whatever the frames below the first switch did.
        Python::attach(|py| run_to_end(py, greenlet, payload))
    }

    fn refused(self: Box<Self>, greenlet: &RawGreenlet, error: StackError) {
        // SAFETY: as above.
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
        None => crate::greenlet::run_scheduled(object),
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
    let result = run.bind(py).call(args.bind(py), kwargs.map(|kwargs| kwargs.bind(py)));
    result.map(Bound::unbind)
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

    /// Gives an unstarted greenlet its stack, with what it shall run in the slot. Whoever switches sees the errors.
    /// Returns false if it has started meanwhile.
    fn prepare(hub: &Hub, object: &Bound<'_, PyGreenlet>) -> PyResult<bool> {
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

    fn is_active(&self) -> bool {
        self.fields.raw.state() == State::Started && !self.has_lost_its_thread()
    }

    /// Says whether the greenlet was started in a thread that has ended.
    fn has_lost_its_thread(&self) -> bool {
        // SAFETY: a greenlet keeps its hub allocated, and the GIL is held.
        self.fields.raw.state() != State::Unstarted && unsafe { (*self.fields.raw.hub()).is_closed() }
    }

    /// Says whether the greenlet runs, in its own thread: in others, that is the one which gave up the GIL there.
    pub fn is_running(&self) -> bool {
        // SAFETY: as above.
        self.is_active() && unsafe { (*self.fields.raw.hub()).is_running(&self.fields.raw) }
    }

    /// Returns the identity of the thread in which the greenlet runs, if it does.
    pub fn running_thread(&self, py: Python<'_>) -> Option<u64> {
        // SAFETY: as above.
        self.is_running().then(|| host::thread_ident_of(py, unsafe { &*self.fields.raw.hub() })).flatten()
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
        // SAFETY: a greenlet keeps its hub allocated, and the GIL is held.
        let now = unsafe { (*raw.hub()).clock().now() };
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

    fn is_of_this_thread(&self) -> bool {
        std::ptr::eq(self.fields.raw.hub(), Hub::current())
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

/// The error of whoever switches to a greenlet of another thread.
#[cold]
fn other_thread(py: Python<'_>, target: &Py<PyGreenlet>) -> PyErr {
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

#[pymethods]
impl PyGreenlet {
    #[new]
    #[pyo3(signature = (*args, **kwargs))]
    fn new(py: Python<'_>, args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        // Subclasses pass arguments of their own; __init__ looks at them.
        let _ = (args, kwargs);
        let parent = getcurrent(py).unbind();
        Self::unstarted(py, None, Some(parent))
    }

    #[pyo3(signature = (run=Run::Missing, parent=None))]
    fn __init__(slf: &Bound<'_, Self>, run: Run<'_>, parent: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        Self::bind_object(slf);
        if let Run::Given(run) = run {
            slf.get().set_run(run)?;
        }
        if let Some(parent) = parent {
            Self::set_parent(slf, parent)?;
        }
        Ok(())
    }

    /// throw(typ=GreenletExit, val=None, tb=None)
    ///
    /// Continues this greenlet with an exception, raised where it waits. Returns what this one is switched back with.
    #[pyo3(signature = (*args))]
    fn throw(slf: &Bound<'_, Self>, args: &Bound<'_, PyTuple>) -> PyResult<Py<PyAny>> {
        if args.len() > 3 {
            return Err(PyTypeError::new_err(format!("throw() takes at most 3 arguments ({} given)", args.len())));
        }
        let mut given = args.iter();
        let (typ, val, tb) = (given.next(), given.next(), given.next());
        let error = thrown(slf.py(), typ.as_ref(), val.as_ref(), tb.as_ref())?;
        Self::enter(slf, Payload::Throw(Box::new(error)))
    }

    /// True once the greenlet has ended, or its thread has, or it can never run.
    #[getter]
    fn dead(&self) -> bool {
        self.fields.raw.state() == State::Finished || self.has_lost_its_thread()
    }

    /// Called, if it is set or a class defines it, each time before the greenlet waits: when it gives way to the hub.
    ///
    /// What it raises is raised where the greenlet would wait. It must not wait itself.
    #[getter]
    fn switch_out<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let name = pyo3::intern!(slf.py(), "switch_out");
        Self::attributes(slf)?.get_item(name)?.ok_or_else(|| PyAttributeError::new_err("switch_out"))
    }

    #[setter]
    fn set_switch_out(slf: &Bound<'_, Self>, function: Bound<'_, PyAny>) -> PyResult<()> {
        Self::attributes(slf)?.set_item(pyo3::intern!(slf.py(), "switch_out"), function)?;
        slf.get().fields.raw.set_announced(true);
        Ok(())
    }

    #[deleter]
    fn delete_switch_out(slf: &Bound<'_, Self>) -> PyResult<()> {
        let name = pyo3::intern!(slf.py(), "switch_out");
        Self::attributes(slf)?.del_item(name).map_err(|_| PyAttributeError::new_err("switch_out"))?;
        slf.get().fields.raw.set_announced(false);
        Ok(())
    }

    /// What the greenlet shall run; gone once it has started.
    #[getter]
    fn run(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        if self.has_begun() {
            return Err(PyAttributeError::new_err("run"));
        }
        self.fields.run.borrow().as_ref().map(|run| run.clone_ref(py)).ok_or_else(|| PyAttributeError::new_err("run"))
    }

    #[setter]
    fn set_run(&self, run: Bound<'_, PyAny>) -> PyResult<()> {
        if self.has_begun() {
            return Err(PyAttributeError::new_err("run cannot be set after the start of the greenlet"));
        }
        self.set_run_slot(Some(run.unbind()));
        Ok(())
    }

    #[deleter]
    fn delete_run(&self) -> PyResult<()> {
        if self.has_begun() {
            return Err(PyAttributeError::new_err("run cannot be set after the start of the greenlet"));
        }
        self.set_run_slot(None);
        Ok(())
    }

    /// Where the result, or exception, goes when the greenlet ends.
    #[getter]
    fn parent(&self, py: Python<'_>) -> Option<Py<PyGreenlet>> {
        self.parent_of(py)
    }

    #[setter]
    fn set_parent(slf: &Bound<'_, Self>, parent: Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        if this.fields.is_root {
            return Err(PyAttributeError::new_err("cannot set the parent of a main greenlet"));
        }
        let parent = match parent.cast_into::<PyGreenlet>() {
            Ok(parent) => parent,
            Err(error) => {
                // Programs and their tests know this text.
                return Err(PyTypeError::new_err(format!(
                    "GreenletChecker: Expected any type of greenlet, not {}",
                    error.into_inner().get_type().name()?
                )));
            }
        };
        // One that has not started goes to its parent's thread.
        if this.fields.raw.state() != State::Unstarted
            && !std::ptr::eq(this.fields.raw.hub(), parent.get().thread_hub())
        {
            return Err(PyValueError::new_err("parent cannot be on a different thread"));
        }
        let mut ancestor = Some(parent.clone().unbind());
        while let Some(greenlet) = ancestor {
            if greenlet.is(slf) {
                return Err(PyValueError::new_err("cyclic parent chain"));
            }
            ancestor = greenlet.get().parent_of(py);
        }
        let old = this.fields.parent.replace(Some(parent.unbind()));
        drop(old);
        Ok(())
    }

    #[deleter]
    fn delete_parent(&self) -> PyResult<()> {
        Err(PyAttributeError::new_err("can't delete attribute"))
    }

    /// The innermost Python frame of a suspended greenlet; None of one that does not run or has ended.
    #[getter]
    fn gr_frame(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.frame(py)
    }

    /// The `contextvars.Context` that the greenlet runs in, or will, or did; None for an empty one.
    #[getter]
    fn gr_context(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        if self.is_running() {
            if self.is_of_this_thread() {
                return Ok(thread_state::running_context(py));
            }
            return Err(PyValueError::new_err(
                "cannot get context of a greenlet that is running in a different thread",
            ));
        }
        Ok(self.state.context(py))
    }

    #[setter]
    fn set_gr_context(&self, py: Python<'_>, context: Bound<'_, PyAny>) -> PyResult<()> {
        let context = if context.is_none() {
            None
        } else {
            // SAFETY: a type check of a valid object.
            if unsafe { ffi::PyContext_CheckExact(context.as_ptr()) } == 0 {
                return Err(PyTypeError::new_err("greenlet context must be a contextvars.Context or None"));
            }
            Some(context.unbind())
        };
        if !self.is_running() {
            self.state.set_context(context);
        } else if self.is_of_this_thread() {
            host::runtime(py);
            thread_state::set_running_context(context);
        } else {
            return Err(PyValueError::new_err(
                "cannot set context of a greenlet that is running in a different thread",
            ));
        }
        Ok(())
    }

    #[deleter]
    fn delete_gr_context(&self) -> PyResult<()> {
        Err(PyAttributeError::new_err("can't delete context attribute"))
    }

    #[getter]
    fn _stack_saved(&self) -> u64 {
        0
    }

    fn __bool__(&self) -> bool {
        self.is_active()
    }

    fn __getstate__(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        Err(PyTypeError::new_err(format!("cannot serialize '{}' object", slf.get_type().fully_qualified_name()?)))
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let this = slf.get();
        let state = match this.fields.raw.state() {
            _ if this.has_lost_its_thread() => "(thread exited) dead",
            State::Unstarted if this.has_begun() => "dead",
            State::Unstarted => "pending",
            State::Finished => "dead",
            State::Started if this.is_of_this_thread() && this.is_running() => "current active started",
            State::Started => "suspended active started",
        };
        let main = if this.fields.is_root && !this.has_lost_its_thread() { " main" } else { "" };
        // Programs know the class itself by the name of the module that they import it from.
        let class = slf.get_type();
        let name = if class.is(PyType::new::<Self>(slf.py())) {
            "greenlet.greenlet".to_owned()
        } else {
            class.fully_qualified_name()?.to_string()
        };
        Ok(format!(
            "<{name} object at {:#x} (otid={:#x}) {state}{main}>",
            slf.as_ptr() as usize,
            this.fields.raw.hub() as usize,
        ))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if self.fields.if_made().is_none() {
            return Ok(());
        }
        if let Ok(run) = self.fields.run.try_borrow() {
            visit.call(&*run)?;
        }
        if let Ok(parent) = self.fields.parent.try_borrow() {
            visit.call(&*parent)?;
        }
        Ok(())
    }

    fn __clear__(&self) {
        if !self.is_active() {
            drop(self.fields.run.take());
            drop(self.fields.parent.take());
        }
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

/// The argument `run` of the class, where None is a value.
enum Run<'py> {
    Missing,
    Given(Bound<'py, PyAny>),
}

impl<'a, 'py> FromPyObject<'a, 'py> for Run<'py> {
    type Error = std::convert::Infallible;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> Result<Self, Self::Error> {
        Ok(Run::Given(object.to_owned()))
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

type Destructor = unsafe extern "C" fn(*mut ffi::PyObject);

/// Ends a suspended greenlet that nobody refers to: throws `GreenletExit` into it.
fn end_unreferenced(object: &Bound<'_, PyGreenlet>) {
    let py = object.py();
    let this = object.get();
    if !this.is_of_this_thread() {
        py_hub::end_in_its_thread(object);
        return;
    }
    // The pending exception of whoever drops the object is put aside and back.
    let pending = PyErr::take(py);
    // Control comes back here when it has ended.
    let current = host::current(py);
    let parent = this.fields.parent.replace(Some(current.clone().unbind()));
    let error = GreenletExit::new_err(());
    let outer = Thread::with(|thread| thread.deallocating.replace(object.as_ptr()));
    if let Err(error) = PyGreenlet::enter(object, Payload::Throw(Box::new(error))) {
        error.write_unraisable(py, Some(object.as_any()));
    }
    Thread::with(|thread| thread.deallocating.set(outer));
    // One that goes on elsewhere gets its parent back, unless it has chosen another.
    let survives = this.is_active();
    let lent = if survives && this.fields.parent.borrow().as_ref().is_some_and(|parent| parent.is(&current)) {
        this.fields.parent.replace(parent)
    } else {
        parent
    };
    drop(lent);
    // SAFETY: a plain query of a valid object.
    if survives && unsafe { ffi::Py_REFCNT(object.as_ptr()) } == 1 {
        // Nobody refers to it, and it refuses to end. Its frames refer to its object, so that one stays.
        std::mem::forget(object.clone());
        let message = "a greenlet did not end by GreenletExit: it is never collected";
        GreenletError::new_err(message).write_unraisable(py, Some(object.as_any()));
    }
    if let Some(pending) = pending {
        pending.restore(py);
    }
}

/// Deallocates a greenlet object, unless ending its suspended greenlet makes somebody refer to it again.
///
/// Not in `tp_finalize`: the slot belongs to `__del__`, which subclasses may define. The object's dictionary is still
/// there, as it is freed by the class that has it, which is ours.
///
/// # Safety
///
/// Called as `tp_dealloc` of a class that derives from ours, with the GIL held.
pub unsafe fn end_and_deallocate(object: *mut ffi::PyObject, original: Destructor) {
    // SAFETY: the caller's guarantee; the content is untouched until `original` runs.
    let this = unsafe { PyGreenlet::from_pointer(object) };
    let is_suspended = this.is_active() && !this.fields.is_root && !this.fields.raw.host().is_null();
    if is_suspended {
        // SAFETY: the object is brought back to life for as long as its code runs; see the shim.
        let is_needed = unsafe {
            thread_state::resurrect(object);
            Python::attach(|py| end_unreferenced(&Borrowed::from_ptr(py, object).cast_unchecked()));
            thread_state::is_still_referenced(object)
        };
        if is_needed {
            // SAFETY: alive; a subclass's part of the deallocation has hidden it from the collector.
            unsafe {
                if ffi::PyObject_GC_IsTracked(object) == 0 {
                    ffi::PyObject_GC_Track(object.cast());
                }
            }
            return;
        }
    }
    // SAFETY: nobody refers to the object.
    unsafe { original(object) };
}

/// Makes a class end its suspended greenlets when they are deallocated; before any class is derived from it.
pub fn install_dealloc(
    class: &Bound<'_, PyType>,
    original: &'static std::sync::OnceLock<Destructor>,
    ours: Destructor,
) {
    let class = class.as_type_ptr();
    // SAFETY: the type was just made and is not shared yet; slots of a heap type may be set before subclasses copy them.
    unsafe {
        let dealloc = (*class).tp_dealloc.expect("PyO3 sets tp_dealloc");
        original.get_or_init(|| dealloc);
        (*class).tp_dealloc = Some(ours);
        ffi::PyType_Modified(class);
    }
}

/// Defines a `tp_dealloc` that ends a suspended greenlet first.
macro_rules! ending_dealloc {
    ($name:ident, $original:ident) => {
        pub static $original: std::sync::OnceLock<unsafe extern "C" fn(*mut pyo3::ffi::PyObject)> =
            std::sync::OnceLock::new();

        pub unsafe extern "C" fn $name(object: *mut pyo3::ffi::PyObject) {
            // SAFETY: called by CPython as tp_dealloc; the original is the one that it replaced.
            unsafe { crate::lowlevel::end_and_deallocate(object, *$original.get().expect("installed")) }
        }
    };
}
pub(crate) use ending_dealloc;

ending_dealloc!(greenlet_dealloc, GREENLET_DEALLOC);
