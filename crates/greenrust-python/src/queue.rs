//! `gevent.queue`: `SimpleQueue`, `Queue`, `LifoQueue` and `PriorityQueue`.
//!
//! The waiting is the runtime's, with barging: as in gevent, whoever runs takes the item or the room that is there. The
//! items are in a [`PyStore`]:
//!
//! ```text
//!   first in, first out: native, until somebody looks at the attribute `queue`; from then on the deque that it shows
//!   the others:          a list, which is the attribute `queue`
//! ```
//!
//! A subclass may override `_init`, `_put`, `_get`, `_peek`, `_qsize` and `_create_queue`. Which of them are overridden
//! is looked up when an object is made; the others cost no call of Python.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use greenrust::hub::RawGreenlet;
use greenrust::queue::{Peek, Queue, QueueError, Store};
use greenrust::wait_queue::{Barging, WaitError};
use pyo3::exceptions::{PyDeprecationWarning, PyException, PyIndexError, PyStopIteration, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyList, PyString, PyTuple, PyType};

use crate::arguments::Truth;
use crate::fastcall::{Arguments, FastMethod, Method};
use crate::gil::Gil;
use crate::greenlet::deadline;
use crate::host;
use crate::hub as py_hub;
use crate::lowlevel::PyGreenlet;
use crate::nesting;
use crate::other_threads::Turn;
use crate::timeout::Limit;

pyo3::create_exception!(gevent.queue, ShutDown, PyException, "The queue was shut down.");

static SHUT_DOWN: PyOnceLock<Py<PyType>> = PyOnceLock::new();

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    // The standard library has the exception since 3.13.
    let shut_down = match py.import("queue")?.getattr_opt("ShutDown")? {
        Some(class) => class.cast_into::<PyType>()?,
        None => py.get_type::<ShutDown>(),
    };
    module.add("ShutDown", SHUT_DOWN.get_or_init(py, || shut_down.unbind()))?;
    module.add_class::<PySimpleQueue>()?;
    module.add_class::<PyQueue>()?;
    module.add_class::<PyLifoQueue>()?;
    module.add_class::<PyPriorityQueue>()?;
    for method in [&PUT, &GET] {
        // CPython 3.11 and later call a method best that is the object's class's own.
        method.add_to(&py.get_type::<PySimpleQueue>())?;
        method.add_to(&py.get_type::<PyQueue>())?;
    }
    Ok(())
}

/// Returns `module.name`, imported once.
fn imported<'py>(
    py: Python<'py>,
    cell: &'static PyOnceLock<Py<PyAny>>,
    module: &str,
    name: &str,
) -> PyResult<&'py Bound<'py, PyAny>> {
    Ok(cell.get_or_try_init(py, || py.import(module)?.getattr(name).map(Bound::unbind))?.bind(py))
}

fn raised(py: Python<'_>, cell: &'static PyOnceLock<Py<PyAny>>, name: &str) -> PyErr {
    match imported(py, cell, "queue", name).and_then(|class| class.call0()) {
        Ok(instance) => PyErr::from_value(instance),
        Err(error) => error,
    }
}

/// `queue.Full`.
#[cold]
pub fn full(py: Python<'_>) -> PyErr {
    static FULL: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    raised(py, &FULL, "Full")
}

/// `queue.Empty`.
#[cold]
pub fn empty(py: Python<'_>) -> PyErr {
    static EMPTY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    raised(py, &EMPTY, "Empty")
}

#[cold]
fn shut_down(py: Python<'_>) -> PyErr {
    match SHUT_DOWN.get(py).expect("set by register").bind(py).call0() {
        Ok(instance) => PyErr::from_value(instance),
        Err(error) => error,
    }
}

/// `types.GenericAlias(class, item)`: what `Queue[int]` is.
pub fn generic_alias<'py>(class: &Bound<'py, PyType>, item: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    static ALIAS: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    imported(class.py(), &ALIAS, "types", "GenericAlias")?.call1((class, item))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Fifo,
    Lifo,
    Priority,
}

/// Which hooks a subclass overrides.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Hooks {
    put: bool,
    get: bool,
    peek: bool,
    len: bool,
    init: bool,
    create: bool,
}

impl Hooks {
    /// Looks at a class; `own` is the native class that it derives from.
    fn of(class: &Bound<'_, PyType>, own: &Bound<'_, PyType>) -> PyResult<Self> {
        if class.is(own) {
            return Ok(Self::default());
        }
        let is_overridden = |name: &str| -> PyResult<bool> {
            let name = PyString::intern(class.py(), name);
            Ok(!class.getattr(&name)?.is(&own.getattr(&name)?))
        };
        Ok(Self {
            put: is_overridden("_put")?,
            get: is_overridden("_get")?,
            peek: is_overridden("_peek")?,
            len: is_overridden("_qsize")?,
            init: is_overridden("_init")?,
            create: is_overridden("_create_queue")?,
        })
    }
}

enum Items {
    /// First in, first out, and never looked at from Python.
    Native(VecDeque<Py<PyAny>>),
    /// The attribute `queue`.
    Object(Py<PyAny>),
}

/// Where the items are.
struct PyStore {
    order: Order,
    hooks: Cell<Hooks>,
    items: RefCell<Items>,
    /// Comparing items runs Python code, in which another thread may come along.
    turn: Turn,
    /// The queue object, which this is a part of.
    owner: Cell<*mut ffi::PyObject>,
}

impl Drop for PyStore {
    fn drop(&mut self) {
        if let Items::Native(items) = self.items.replace(Items::Native(VecDeque::new())) {
            items.into_iter().for_each(nesting::free);
        }
    }
}

impl PyStore {
    fn new(order: Order) -> Self {
        Self {
            order,
            hooks: Cell::default(),
            items: RefCell::new(Items::Native(VecDeque::new())),
            turn: Turn::default(),
            owner: Cell::new(std::ptr::null_mut()),
        }
    }

    fn py<'py>(&self) -> Python<'py> {
        // SAFETY: queues are used with the GIL held; see `crate::gil`.
        unsafe { Python::assume_attached() }
    }

    /// Calls a hook of the subclass. What was thrown into this greenlet meanwhile waits until the hook is done: the
    /// hook may switch.
    fn call_hook<'py, A>(&self, name: &Bound<'py, PyString>, args: A) -> PyResult<Bound<'py, PyAny>>
    where
        A: pyo3::call::PyCallArgs<'py>,
    {
        let _turn = self.turn.take(name.py());
        let thrown = host::receive();
        // SAFETY: the queue object is alive while a method of its part runs.
        let owner = unsafe { Bound::from_borrowed_ptr(name.py(), self.owner.get()) };
        let result = owner.call_method1(name, args);
        if let Some(thrown) = thrown {
            host::send(thrown);
        }
        result
    }

    /// Says whether all operations are native: no hook is overridden, and nobody has looked at the attribute `queue`.
    #[inline]
    fn runs_no_python(&self) -> bool {
        self.hooks.get() == Hooks::default() && matches!(*self.items.borrow(), Items::Native(_))
    }

    fn object<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
        match &*self.items.borrow() {
            Items::Native(_) => None,
            Items::Object(object) => Some(object.bind(py).clone()),
        }
    }

    /// Returns the attribute `queue`; from now on the items are in it.
    fn show<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        static DEQUE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        if let Some(object) = self.object(py) {
            return Ok(object);
        }
        let object = imported(py, &DEQUE, "collections", "deque")?.call0()?;
        // Making the deque may have run a finalizer that uses this queue; appending to it runs none.
        if let Some(object) = self.object(py) {
            return Ok(object);
        }
        let items = self.items.replace(Items::Object(object.clone().unbind()));
        if let Items::Native(items) = items {
            for item in items {
                object.call_method1(pyo3::intern!(py, "append"), (item,))?;
            }
        }
        Ok(object)
    }

    fn set(&self, object: Py<PyAny>) {
        let old = self.items.replace(Items::Object(object));
        drop(old);
    }

    /// What `_create_queue` does unless it is overridden.
    fn create<'py>(&self, py: Python<'py>, items: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        static DEQUE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        static HEAPIFY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        if self.order == Order::Fifo {
            return imported(py, &DEQUE, "collections", "deque")?.call1((items,));
        }
        let list = PyList::empty(py);
        for item in items.try_iter()? {
            list.append(item?)?;
        }
        if self.order == Order::Priority {
            imported(py, &HEAPIFY, "heapq", "heapify")?.call1((&list,))?;
        }
        Ok(list.into_any())
    }

    /// What `_put` does unless it is overridden.
    fn own_put(&self, item: Py<PyAny>) -> PyResult<()> {
        static PUSH: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        if let Items::Native(items) = &mut *self.items.borrow_mut() {
            items.push_back(item);
            return Ok(());
        }
        let py = self.py();
        let _turn = self.turn.take(py);
        let Some(object) = self.object(py) else { return Ok(()) };
        match self.order {
            Order::Priority => {
                imported(py, &PUSH, "heapq", "heappush")?.call1((object, item))?;
            }
            Order::Fifo | Order::Lifo => match object.cast_exact::<PyList>() {
                Ok(list) => list.append(item)?,
                Err(_) => drop(object.call_method1(pyo3::intern!(py, "append"), (item,))?),
            },
        }
        Ok(())
    }

    /// What `_get` does unless it is overridden.
    fn own_get(&self) -> PyResult<Option<Py<PyAny>>> {
        static POP: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        if let Items::Native(items) = &mut *self.items.borrow_mut() {
            return Ok(items.pop_front());
        }
        let py = self.py();
        let _turn = self.turn.take(py);
        let object = self.show(py)?;
        let item = match self.order {
            Order::Fifo => object.call_method0(pyo3::intern!(py, "popleft")),
            Order::Lifo => object.call_method0(pyo3::intern!(py, "pop")),
            Order::Priority => imported(py, &POP, "heapq", "heappop")?.call1((&object,)),
        };
        if_there(py, item, || object.len())
    }

    /// What `_peek` does unless it is overridden.
    fn own_peek(&self) -> PyResult<Option<Py<PyAny>>> {
        let py = self.py();
        if let Items::Native(items) = &*self.items.borrow() {
            return Ok(items.front().map(|item| item.clone_ref(py)));
        }
        let _turn = self.turn.take(py);
        let object = self.show(py)?;
        if_there(py, object.get_item(if self.order == Order::Lifo { -1 } else { 0 }), || object.len())
    }

    /// What `_qsize` does unless it is overridden.
    fn own_len(&self) -> PyResult<usize> {
        if let Items::Native(items) = &*self.items.borrow() {
            return Ok(items.len());
        }
        self.object(self.py()).map_or(Ok(0), |object| object.len())
    }
}

/// Returns the item that was taken; none if it was not because another thread, or a finalizer, has taken the last one
/// after the queue had counted it.
fn if_there(
    py: Python<'_>,
    item: PyResult<Bound<'_, PyAny>>,
    len: impl FnOnce() -> PyResult<usize>,
) -> PyResult<Option<Py<PyAny>>> {
    match item {
        Ok(item) => Ok(Some(item.unbind())),
        Err(error) => {
            if error.is_instance_of::<PyIndexError>(py) && len()? == 0 {
                Ok(None)
            } else {
                Err(error)
            }
        }
    }
}

#[cold]
fn nothing_there() -> PyErr {
    PyIndexError::new_err("the queue is empty")
}

impl Store<Py<PyAny>> for PyStore {
    type Error = PyErr;

    #[inline]
    fn put(&self, item: Py<PyAny>) -> PyResult<()> {
        if self.hooks.get().put {
            return self.call_hook(pyo3::intern!(self.py(), "_put"), (item,)).map(drop);
        }
        self.own_put(item)
    }

    #[inline]
    fn get(&self) -> PyResult<Option<Py<PyAny>>> {
        if self.hooks.get().get {
            return if_there(self.py(), self.call_hook(pyo3::intern!(self.py(), "_get"), ()), || self.len());
        }
        self.own_get()
    }

    #[inline]
    fn len(&self) -> PyResult<usize> {
        if self.hooks.get().len {
            return self.call_hook(pyo3::intern!(self.py(), "_qsize"), ())?.extract();
        }
        self.own_len()
    }

    #[inline]
    fn counts_tasks(&self) -> bool {
        // `_put` of ours counts, if the override calls it.
        !self.hooks.get().put
    }
}

impl Peek<Py<PyAny>> for PyStore {
    fn peek(&self) -> PyResult<Option<Py<PyAny>>> {
        if self.hooks.get().peek {
            return if_there(self.py(), self.call_hook(pyo3::intern!(self.py(), "_peek"), ()), || self.len());
        }
        self.own_peek()
    }
}

type Core = Queue<Py<PyAny>, PyStore>;

/// SimpleQueue(maxsize=None, items=())
///
/// A queue, first in, first out. With *maxsize* a put waits while it holds so many items; None, 0 and negative numbers
/// are no limit. It begins with *items*.
#[pyclass(name = "SimpleQueue", module = "gevent.queue", frozen, subclass, weakref)]
pub struct PySimpleQueue {
    queue: Gil<Core>,
}

fn capacity(maxsize: Option<isize>) -> Option<usize> {
    maxsize.and_then(|size| usize::try_from(size).ok()).filter(|size| *size > 0)
}

fn refuse_negative(timeout: Option<&Limit<'_>>) -> PyResult<()> {
    if let Some(Limit::Seconds(seconds, _)) = timeout
        && *seconds < 0.0
    {
        return Err(PyValueError::new_err(format!("'timeout' must be a non-negative number, not {seconds}")));
    }
    Ok(())
}

/// Why a call that was to wait did not succeed.
#[cold]
fn failure(py: Python<'_>, error: QueueError<PyErr>, nothing: fn(Python<'_>) -> PyErr) -> PyErr {
    match error {
        QueueError::Store(error) => error,
        QueueError::ShutDown => shut_down(py),
        // The hub can't wait.
        QueueError::Empty | QueueError::Full | QueueError::Wait(WaitError::TimedOut | WaitError::ParkInHub) => {
            nothing(py)
        }
        QueueError::Wait(error) => host::settle_error(py, error).err().unwrap_or_else(|| nothing(py)),
    }
}

fn result(outcome: Result<(), QueueError<PyErr>>, py: Python<'_>) -> PyResult<()> {
    outcome.map_err(|error| failure(py, error, empty))
}

impl PySimpleQueue {
    fn of(order: Order) -> Self {
        Self { queue: Gil::new(Core::with_store(PyStore::new(order), None).with_barging(Barging::Allowed)) }
    }

    /// What every `__init__` does; `own` is the native class that the object's derives from.
    fn set_up<'py>(
        slf: &Bound<'py, Self>,
        own: &Bound<'py, PyType>,
        maxsize: Option<isize>,
        items: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let py = slf.py();
        if maxsize == Some(0) {
            PyErr::warn(
                py,
                &py.get_type::<PyDeprecationWarning>(),
                c"Queue(0) now equivalent to Queue(None); if you want a channel, use Channel",
                1,
            )?;
        }
        let queue = &slf.get().queue;
        let limit = capacity(maxsize);
        result(queue.set_capacity(limit), py)?;
        let store = queue.store();
        store.owner.set(slf.as_ptr());
        let hooks = Hooks::of(&slf.get_type(), own)?;
        store.hooks.set(hooks);
        let items = match items {
            Some(items) if items.is_truthy()? => Some(items),
            _ => None,
        };
        if hooks.init {
            let name = pyo3::intern!(py, "_init");
            // The hook of the standard library's queues takes the size alone.
            match items {
                Some(items) => slf.call_method1(name, (limit, items))?,
                None => slf.call_method1(name, (limit,))?,
            };
            return Ok(());
        }
        if store.order == Order::Fifo && !hooks.create {
            let mut native = VecDeque::new();
            if let Some(items) = items {
                for item in items.try_iter()? {
                    native.push_back(item?.unbind());
                }
            }
            let old = store.items.replace(Items::Native(native));
            drop(old);
            return Ok(());
        }
        Self::create_items(slf, items)
    }

    /// What `_init` does unless it is overridden.
    fn create_items<'py>(slf: &Bound<'py, Self>, items: Option<&Bound<'py, PyAny>>) -> PyResult<()> {
        let py = slf.py();
        let store = slf.get().queue.store();
        let none = PyTuple::empty(py).into_any();
        let items = items.unwrap_or(&none);
        let object = if store.hooks.get().create {
            slf.call_method1(pyo3::intern!(py, "_create_queue"), (items,))?
        } else {
            store.create(py, items)?
        };
        store.set(object.unbind());
        Ok(())
    }

    fn insert(&self, py: Python<'_>, item: Py<PyAny>, block: bool, timeout: Option<Limit<'_>>) -> PyResult<()> {
        let queue = &*self.queue;
        if timeout.is_some() && block && !queue.is_full_core().map_err(|error| failure(py, error, full))? {
            refuse_negative(timeout.as_ref())?;
        }
        let mut item = Some(item);
        match queue.try_put_core(&mut item) {
            Ok(()) => return Ok(()),
            Err(QueueError::Full) if block => {}
            Err(error) => return Err(failure(py, error, full)),
        }
        let hub = py_hub::ensure(py)?;
        Limit::apply(timeout.as_ref(), |seconds| {
            let end = deadline(hub, seconds);
            host::keep_alive(py, || queue.put_core(&mut item, end)).map_err(|error| failure(py, error, full))
        })
    }

    fn remove(&self, py: Python<'_>, block: bool, timeout: Option<Limit<'_>>) -> PyResult<Py<PyAny>> {
        let queue = &*self.queue;
        match queue.try_get_core() {
            Ok(item) => return Ok(item),
            Err(QueueError::Empty) if block => {}
            Err(error) => return Err(failure(py, error, empty)),
        }
        refuse_negative(timeout.as_ref())?;
        let hub = py_hub::ensure(py)?;
        Limit::apply(timeout.as_ref(), |seconds| {
            let end = deadline(hub, seconds);
            host::keep_alive(py, || queue.get_core(end)).map_err(|error| failure(py, error, empty))
        })
    }

    fn len(&self, py: Python<'_>) -> PyResult<usize> {
        self.queue.len_core().map_err(|error| failure(py, error, empty))
    }

    fn format(slf: &Bound<'_, Self>) -> PyResult<String> {
        let py = slf.py();
        let queue = &slf.get().queue;
        let mut text = String::new();
        if let Some(capacity) = queue.capacity() {
            text.push_str(&format!(" maxsize={capacity}"));
        }
        let items = queue.store().show(py)?;
        if items.is_truthy()? {
            text.push_str(&format!(" queue={}", items.repr()?));
        }
        for (name, count) in [("getters", queue.waiting_getters()), ("putters", queue.waiting_putters())] {
            if count > 0 {
                text.push_str(&format!(" {name}[{count}]"));
            }
        }
        if slf.is_instance_of::<PyQueue>() && queue.unfinished_tasks() > 0 {
            text.push_str(&format!(" tasks={}", queue.unfinished_tasks()));
        }
        Ok(text)
    }
}

fn objects<'py>(py: Python<'py>, greenlets: Vec<RawGreenlet>) -> Vec<Bound<'py, PyGreenlet>> {
    greenlets.iter().filter_map(|greenlet| PyGreenlet::object_of(py, greenlet)).collect()
}

#[pymethods]
impl PySimpleQueue {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        // The arguments are __init__'s: subclasses have signatures of their own.
        Self::of(Order::Fifo)
    }

    #[pyo3(signature = (maxsize=None, items=None, _warn_depth=2))]
    fn __init__<'py>(
        slf: &Bound<'py, Self>,
        maxsize: Option<isize>,
        items: Option<Bound<'py, PyAny>>,
        _warn_depth: u32,
    ) -> PyResult<()> {
        Self::set_up(slf, &PyType::new::<PySimpleQueue>(slf.py()), maxsize, items.as_ref())
    }

    #[classmethod]
    fn __class_getitem__<'py>(cls: &Bound<'py, PyType>, item: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        generic_alias(cls, item)
    }

    // -- the hooks, as they are unless they are overridden

    #[pyo3(signature = (maxsize, items=None))]
    fn _init<'py>(
        slf: &Bound<'py, Self>,
        maxsize: &Bound<'py, PyAny>,
        items: Option<Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let _ = maxsize;
        Self::create_items(slf, items.as_ref())
    }

    #[pyo3(signature = (items=None))]
    fn _create_queue<'py>(&self, py: Python<'py>, items: Option<Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyAny>> {
        self.queue.store().create(py, &items.unwrap_or_else(|| PyTuple::empty(py).into_any()))
    }

    fn _put(&self, item: Py<PyAny>) -> PyResult<()> {
        self.queue.store().own_put(item)?;
        self.queue.add_task();
        Ok(())
    }

    fn _get(&self) -> PyResult<Py<PyAny>> {
        self.queue.store().own_get()?.ok_or_else(nothing_there)
    }

    fn _peek(&self) -> PyResult<Py<PyAny>> {
        self.queue.store().own_peek()?.ok_or_else(nothing_there)
    }

    fn _qsize(&self) -> PyResult<usize> {
        self.queue.store().own_len()
    }

    // -- attributes

    /// The items: a deque, or a list in queues of another order.
    #[getter]
    fn queue<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.queue.store().show(py)
    }

    #[setter]
    fn set_queue(&self, items: Py<PyAny>) {
        self.queue.store().set(items);
    }

    /// The hub of the calling thread.
    #[getter]
    fn hub<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        py_hub::get_hub(py)
    }

    /// How many items there can be; None if any number. Setting it lets those go on who wait for room.
    #[getter]
    fn maxsize(&self) -> Option<usize> {
        self.queue.capacity()
    }

    #[setter]
    fn set_maxsize(&self, py: Python<'_>, maxsize: Option<isize>) -> PyResult<()> {
        result(self.queue.set_capacity(capacity(maxsize)), py)
    }

    /// Whether the queue was shut down.
    #[getter]
    fn is_shutdown(&self) -> bool {
        self.queue.is_shut_down()
    }

    /// The greenlets that wait for an item.
    #[getter]
    fn getters<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyGreenlet>> {
        objects(py, self.queue.getters())
    }

    /// The greenlets that wait for room.
    #[getter]
    fn putters<'py>(&self, py: Python<'py>) -> Vec<Bound<'py, PyGreenlet>> {
        objects(py, self.queue.putters())
    }

    // -- methods

    /// copy() -> a queue of the same class, size and items
    fn copy<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let items = slf.get().queue(slf.py())?;
        if slf.is_instance_of::<PyQueue>() {
            return slf.get_type().call1((slf.get().maxsize(), items, slf.get().queue.unfinished_tasks()));
        }
        slf.get_type().call1((slf.get().maxsize(), items))
    }

    /// qsize() -> how many items there are
    fn qsize(&self, py: Python<'_>) -> PyResult<usize> {
        self.len(py)
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.len(py)
    }

    fn __bool__(&self) -> bool {
        true
    }

    /// empty() -> whether there are no items
    fn empty(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.len(py)? == 0)
    }

    /// full() -> whether a put would wait
    fn full(&self, py: Python<'_>) -> PyResult<bool> {
        self.queue.is_full_core().map_err(|error| failure(py, error, full))
    }

    /// put_nowait(item): puts if there is room, else raises Full. Does not switch.
    fn put_nowait(slf: &Bound<'_, Self>, item: Py<PyAny>) -> PyResult<()> {
        slf.get().insert(slf.py(), item, false, None)
    }

    /// get_nowait() -> the next item, removed; raises Empty if there is none. Does not switch.
    fn get_nowait(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.remove(py, false, None)
    }

    /// peek(block=True, timeout=None) -> the next item, which stays in the queue
    ///
    /// Waits and raises as `get` does.
    #[pyo3(signature = (block=Truth(true), timeout=None))]
    fn peek(&self, py: Python<'_>, block: Truth, timeout: Option<Limit<'_>>) -> PyResult<Py<PyAny>> {
        let queue = &*self.queue;
        match queue.try_peek_core() {
            Ok(item) => return Ok(item),
            Err(QueueError::Empty) if block.0 => {}
            Err(error) => return Err(failure(py, error, empty)),
        }
        refuse_negative(timeout.as_ref())?;
        let hub = py_hub::ensure(py)?;
        Limit::apply(timeout.as_ref(), |seconds| {
            let end = deadline(hub, seconds);
            host::keep_alive(py, || queue.peek_core(end)).map_err(|error| failure(py, error, empty))
        })
    }

    /// peek_nowait() -> the next item, which stays in the queue; raises Empty if there is none. Does not switch.
    fn peek_nowait(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        self.peek(py, Truth(false), None)
    }

    fn __iter__<'py>(slf: &Bound<'py, Self>) -> Bound<'py, Self> {
        slf.clone()
    }

    /// Gets an item; ends when that is the class StopIteration.
    fn __next__(slf: &Bound<'_, Self>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let item = slf.call_method0(pyo3::intern!(py, "get"))?;
        if item.is(py.get_type::<PyStopIteration>()) {
            return Err(PyStopIteration::new_err(()));
        }
        Ok(item.unbind())
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        Ok(format!("<{} at {:#x}{}>", slf.get_type().name()?, slf.as_ptr() as usize, Self::format(slf)?))
    }

    fn __str__(slf: &Bound<'_, Self>) -> PyResult<String> {
        Ok(format!("<{}{}>", slf.get_type().name()?, Self::format(slf)?))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if self.queue.if_made().is_none() {
            return Ok(());
        }
        if let Ok(items) = self.queue.store().items.try_borrow() {
            match &*items {
                Items::Native(items) => {
                    for item in items {
                        visit.call(item)?;
                    }
                }
                Items::Object(object) => visit.call(object)?,
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        let old = self.queue.store().items.replace(Items::Native(VecDeque::new()));
        drop(old);
    }
}

static PUT: FastMethod = FastMethod::of::<Put>(
    c"put",
    c"put($self, item, block=..., timeout=None)\n--\n\nput(item, block=True, timeout=None)\n\n\
      Puts *item* into the queue; if it is full, waits for room, at most *timeout* seconds (a float), unless *block* is\n\
      false. Raises Full if there was none, ShutDown after `shutdown`, ValueError for a negative *timeout* when there is\n\
      room. Switches only if the queue is full.",
);

struct Put;

impl Method for Put {
    type Class = PySimpleQueue;

    #[inline]
    fn quick<'py>(slf: &Bound<'py, PySimpleQueue>, arguments: &Arguments<'py>) -> Option<Bound<'py, PyAny>> {
        let py = slf.py();
        let queue = &slf.get().queue;
        let mut item = Some(arguments.only().filter(|_| queue.store().runs_no_python())?.unbind());
        let result = queue.try_put_core(&mut item);
        drop(item.map(|item| item.into_bound(py)));
        result.is_ok().then(|| py.None().into_bound(py))
    }

    fn call<'py>(slf: &Bound<'py, PySimpleQueue>, arguments: &Arguments<'py>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let [item, block, timeout] = arguments.bind("put", ["item", "block", "timeout"])?;
        let Some(item) = item else {
            return Err(PyTypeError::new_err("put() missing 1 required positional argument: 'item'"));
        };
        let (block, timeout) = waiting(block, timeout)?;
        slf.get().insert(py, item.unbind(), block, timeout)?;
        Ok(py.None().into_bound(py))
    }
}

static GET: FastMethod = FastMethod::of::<Get>(
    c"get",
    c"get($self, block=..., timeout=None)\n--\n\nget(block=True, timeout=None) -> the next item, removed\n\n\
      Waits for one, at most *timeout* seconds (a float), unless *block* is false. Raises Empty if there was none,\n\
      ShutDown after `shutdown`. Switches only if the queue is empty.",
);

struct Get;

impl Method for Get {
    type Class = PySimpleQueue;

    #[inline]
    fn quick<'py>(slf: &Bound<'py, PySimpleQueue>, arguments: &Arguments<'py>) -> Option<Bound<'py, PyAny>> {
        let queue = &slf.get().queue;
        if !arguments.is_empty() || !queue.store().runs_no_python() {
            return None;
        }
        queue.try_get_core().ok().map(|item| item.into_bound(slf.py()))
    }

    fn call<'py>(slf: &Bound<'py, PySimpleQueue>, arguments: &Arguments<'py>) -> PyResult<Bound<'py, PyAny>> {
        let [block, timeout] = arguments.bind("get", ["block", "timeout"])?;
        let (block, timeout) = waiting(block, timeout)?;
        slf.get().remove(slf.py(), block, timeout).map(|item| item.into_bound(slf.py()))
    }
}

/// Reads the arguments that say whether and how long to wait.
fn waiting<'py>(
    block: Option<Bound<'py, PyAny>>,
    timeout: Option<Bound<'py, PyAny>>,
) -> PyResult<(bool, Option<Limit<'py>>)> {
    let block = block.map_or(Ok(true), |flag| flag.is_truthy())?;
    let timeout = timeout.map_or(Ok(None), |seconds| seconds.extract())?;
    Ok((block, timeout))
}

/// Queue(maxsize=None, items=(), unfinished_tasks=None)
///
/// A `SimpleQueue` that counts tasks: each put is one, until `task_done` reports it. *items* count as unfinished, unless
/// *unfinished_tasks* says how many do.
#[pyclass(name = "Queue", module = "gevent.queue", extends = PySimpleQueue, frozen, subclass)]
pub struct PyQueue {}

impl PyQueue {
    fn set_up<'py>(
        slf: &Bound<'py, Self>,
        own: &Bound<'py, PyType>,
        maxsize: Option<isize>,
        items: Option<Bound<'py, PyAny>>,
        unfinished_tasks: Option<usize>,
    ) -> PyResult<()> {
        let simple = slf.as_super();
        PySimpleQueue::set_up(simple, own, maxsize, items.as_ref())?;
        let tasks = match (unfinished_tasks, items) {
            (Some(count), _) if count > 0 => count,
            (_, Some(items)) if items.is_truthy()? => items.len()?,
            _ => 0,
        };
        simple.get().queue.set_unfinished_tasks(tasks);
        Ok(())
    }
}

#[pymethods]
impl PyQueue {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> PyClassInitializer<Self> {
        PyClassInitializer::from(PySimpleQueue::of(Order::Fifo)).add_subclass(Self {})
    }

    #[pyo3(signature = (maxsize=None, items=None, unfinished_tasks=None))]
    fn __init__<'py>(
        slf: &Bound<'py, Self>,
        maxsize: Option<isize>,
        items: Option<Bound<'py, PyAny>>,
        unfinished_tasks: Option<usize>,
    ) -> PyResult<()> {
        Self::set_up(slf, &PyType::new::<PyQueue>(slf.py()), maxsize, items, unfinished_tasks)
    }

    /// How many items were put and not reported by `task_done`.
    #[getter]
    fn unfinished_tasks(slf: &Bound<'_, Self>) -> usize {
        slf.as_super().get().queue.unfinished_tasks()
    }

    #[setter]
    fn set_unfinished_tasks(slf: &Bound<'_, Self>, count: Bound<'_, PyAny>) -> PyResult<()> {
        let count = count.extract().map_err(|_| PyTypeError::new_err("unfinished_tasks must be a number of tasks"))?;
        slf.as_super().get().queue.set_unfinished_tasks(count);
        Ok(())
    }

    /// task_done(): reports one item that was got as done. Raises ValueError if there is none. Does not switch.
    fn task_done(slf: &Bound<'_, Self>) -> PyResult<()> {
        slf.as_super().get().queue.task_done().map_err(|_| PyValueError::new_err("task_done() called too many times"))
    }

    /// join(timeout=None) -> True; False if *timeout* (seconds, a float) passed first
    ///
    /// Waits until every item that was put is reported done. Switches only if there are unfinished tasks.
    #[pyo3(signature = (timeout=None))]
    fn join(slf: &Bound<'_, Self>, timeout: Option<Limit<'_>>) -> PyResult<bool> {
        let py = slf.py();
        let queue = &slf.as_super().get().queue;
        if queue.unfinished_tasks() == 0 {
            return Ok(true);
        }
        let hub = py_hub::ensure(py)?;
        Limit::apply_quietly(timeout.as_ref(), false, |seconds| {
            let end = deadline(hub, seconds);
            Ok(host::block(py, || queue.join_core(end))?.is_some())
        })
    }

    /// shutdown(immediate=False)
    ///
    /// Has puts raise ShutDown from now on, and gets once the queue is empty. Greenlets that wait are woken to raise it.
    /// With *immediate* the items are dropped and count as done. Does not switch.
    #[pyo3(signature = (immediate=Truth(false)))]
    fn shutdown(slf: &Bound<'_, Self>, immediate: Truth) -> PyResult<()> {
        result(slf.as_super().get().queue.shut_down_core(immediate.0), slf.py())
    }
}

/// LifoQueue(maxsize=None, items=(), unfinished_tasks=None)
///
/// A `Queue` that gives the item that was put last first.
#[pyclass(name = "LifoQueue", module = "gevent.queue", extends = PyQueue, frozen, subclass)]
pub struct PyLifoQueue {}

#[pymethods]
impl PyLifoQueue {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> PyClassInitializer<Self> {
        PyClassInitializer::from(PySimpleQueue::of(Order::Lifo)).add_subclass(PyQueue {}).add_subclass(Self {})
    }

    #[pyo3(signature = (maxsize=None, items=None, unfinished_tasks=None))]
    fn __init__<'py>(
        slf: &Bound<'py, Self>,
        maxsize: Option<isize>,
        items: Option<Bound<'py, PyAny>>,
        unfinished_tasks: Option<usize>,
    ) -> PyResult<()> {
        PyQueue::set_up(slf.as_super(), &PyType::new::<PyLifoQueue>(slf.py()), maxsize, items, unfinished_tasks)
    }
}

/// PriorityQueue(maxsize=None, items=(), unfinished_tasks=None)
///
/// A `Queue` that gives the least item first; often they are (priority, data) tuples.
#[pyclass(name = "PriorityQueue", module = "gevent.queue", extends = PyQueue, frozen, subclass)]
pub struct PyPriorityQueue {}

#[pymethods]
impl PyPriorityQueue {
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(_args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) -> PyClassInitializer<Self> {
        PyClassInitializer::from(PySimpleQueue::of(Order::Priority)).add_subclass(PyQueue {}).add_subclass(Self {})
    }

    #[pyo3(signature = (maxsize=None, items=None, unfinished_tasks=None))]
    fn __init__<'py>(
        slf: &Bound<'py, Self>,
        maxsize: Option<isize>,
        items: Option<Bound<'py, PyAny>>,
        unfinished_tasks: Option<usize>,
    ) -> PyResult<()> {
        PyQueue::set_up(slf.as_super(), &PyType::new::<PyPriorityQueue>(slf.py()), maxsize, items, unfinished_tasks)
    }
}
