//! `gevent.threadpool.ThreadPool`'s native base: the queue that workers wait at, and who waits for results.
//!
//! ```text
//!   greenlet: spawn/apply ─► Tasks (runtime) ─► worker thread: `_take` (no GIL), the function, `_finish` or `_fail`
//!                 ▲                                                   │
//!                 └── the hub's run queue, pushed under the GIL ◄─────┘
//! ```
//!
//! The loop of a worker is Python (`gevent.threadpool`): no native frame is below a task's function, so CPython may end
//! the thread anywhere when the interpreter exits.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;

use greenrust::hub::{Hub, Remote, WaitingFor, Waker};
use greenrust::thread_pool::{Next, Tasks};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};

use crate::exceptions;
use crate::gil::Gil;
use crate::host;
use crate::hub as py_hub;
use crate::other_threads;
use crate::tracer::PyTracer;

/// How many tasks more than threads may be added without waiting, as in gevent: the next is at hand when one ends.
const SPARE_SLOTS: isize = 1;

/// `_thread.start_new_thread`, before anything patches it.
static START_THREAD: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

thread_local! {
    /// The hub that this worker thread has still to wake, for a result that it has handed in.
    static OWED: Cell<Option<Remote>> = const { Cell::new(None) };
}

fn wake_owed() {
    if let Some(hub) = OWED.take() {
        hub.wake();
    }
}

/// Who is told how a task ended.
enum Receiver {
    /// An `AsyncResult`, in the hub.
    Result(Py<PyAny>),
    /// A greenlet that is parked in `apply`; gone when it has given up.
    Caller(Option<Waker>),
}

struct TaskFields {
    receiver: RefCell<Receiver>,
    outcome: Cell<Option<PyResult<Py<PyAny>>>>,
}

/// One call that a worker thread is to make.
#[pyclass(name = "_Task", module = "gevent._greenrust", frozen)]
pub struct PyTask {
    function: Py<PyAny>,
    args: Py<PyTuple>,
    kwargs: Option<Py<PyDict>>,
    fields: Gil<TaskFields>,
}

#[pymethods]
impl PyTask {
    /// (function, args, kwargs or None)
    #[getter]
    fn call(&self, py: Python<'_>) -> (Py<PyAny>, Py<PyTuple>, Option<Py<PyDict>>) {
        let kwargs = self.kwargs.as_ref().map(|kwargs| kwargs.clone_ref(py));
        (self.function.clone_ref(py), self.args.clone_ref(py), kwargs)
    }
}

struct Fields {
    hub: Cell<*const Hub>,
    hub_object: RefCell<Option<Py<PyAny>>>,
    tasks: RefCell<Arc<Tasks<Py<PyTask>>>>,
    /// Seconds; negative for no limit.
    idle_timeout: Cell<f64>,
    maxsize: Cell<isize>,
    /// How many tasks may be added without waiting; negative after `maxsize` was lowered.
    slots: Cell<isize>,
    workers: Cell<isize>,
    /// Tasks that no worker has ended yet.
    unfinished: Cell<usize>,
    /// Tasks whose outcome has not been handed over yet: those, and those that the hub is still to report.
    undelivered: Cell<usize>,
    forks: Cell<u32>,
    waiting_for_slot: RefCell<VecDeque<Waker>>,
    /// Those who wait in `join`, or for workers to end.
    waiting_for_change: RefCell<Vec<Waker>>,
}

/// ThreadPool(maxsize, hub=None, idle_task_timeout=-1)
///
/// Threads that greenlets leave blocking calls to. `len` is the number of unfinished tasks.
///
/// *maxsize*: the most threads; *hub*: whose greenlets may use it, the calling thread's if None; *idle_task_timeout*:
/// seconds after which an idle thread ends, negative: never.
#[pyclass(name = "ThreadPool", module = "gevent.threadpool", subclass, frozen, weakref)]
pub struct PyThreadPool {
    fields: Gil<Fields>,
}

impl PyThreadPool {
    /// Returns the fields; in the child of a fork, forgets the workers of the parent first.
    fn fields(&self) -> &Fields {
        let fields = &*self.fields;
        let forks = other_threads::forks();
        if fields.forks.replace(forks) != forks {
            // A worker may have held the queue's lock at the moment of the fork.
            std::mem::forget(fields.tasks.replace(Arc::default()));
            if self.is_of_this_thread() {
                for _ in 0..fields.undelivered.get() {
                    Hub::current().release();
                }
            }
            fields.unfinished.set(0);
            fields.undelivered.set(0);
            fields.workers.set(0);
            fields.slots.set(fields.maxsize.get() + SPARE_SLOTS);
        }
        fields
    }

    fn is_of_this_thread(&self) -> bool {
        std::ptr::eq(self.fields.hub.get(), Hub::current())
    }

    fn owner(&self, py: Python<'_>) -> PyResult<&'static Hub> {
        if self.is_of_this_thread() {
            py_hub::ensure(py)
        } else {
            Err(exceptions::invalid_thread_use(py, "a thread pool is used from the thread of its hub only"))
        }
    }

    /// Parks until one more task may be added.
    fn acquire_slot(&self, py: Python<'_>) -> PyResult<()> {
        let fields = self.fields();
        while fields.slots.get() <= 0 {
            let (hub, waker) = host::begin_park(py, WaitingFor::Thread)?;
            fields.waiting_for_slot.borrow_mut().push_back(waker.clone());
            if let Err(error) = host::park(py, hub, &waker, None, true) {
                fields.waiting_for_slot.borrow_mut().retain(|other| *other != waker);
                if waker.was_unparked() && fields.slots.get() > 0 {
                    self.wake_for_slot();
                }
                return Err(error);
            }
        }
        fields.slots.set(fields.slots.get() - 1);
        Ok(())
    }

    fn release_slot(&self) {
        let fields = &*self.fields;
        fields.slots.set(fields.slots.get() + 1);
        if fields.slots.get() > 0 {
            self.wake_for_slot();
        }
    }

    fn wake_for_slot(&self) {
        let mut waiting = self.fields.waiting_for_slot.borrow_mut();
        while let Some(waker) = waiting.pop_front() {
            if waker.unpark() {
                break;
            }
        }
    }

    fn tell_change(&self) {
        let waiting = self.fields.waiting_for_change.take();
        for waker in waiting {
            waker.unpark();
        }
    }

    /// Parks until the last outcome is handed over, or a worker has ended.
    fn wait_for_change(&self, py: Python<'_>) -> PyResult<()> {
        let (hub, waker) = host::begin_park(py, WaitingFor::Thread)?;
        self.fields.waiting_for_change.borrow_mut().push(waker.clone());
        hub.hold();
        let result = host::park(py, hub, &waker, None, true);
        hub.release();
        if result.is_err() {
            self.fields.waiting_for_change.borrow_mut().retain(|other| *other != waker);
        }
        result.map(drop)
    }

    /// Adds a task, for which a slot was acquired.
    fn submit(slf: &Bound<'_, Self>, hub: &Hub, task: &Py<PyTask>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let fields = this.fields();
        fields.unfinished.set(fields.unfinished.get() + 1);
        fields.undelivered.set(fields.undelivered.get() + 1);
        hub.hold();
        let tasks = fields.tasks.borrow().clone();
        tasks.push(task.clone_ref(py));
        let result = Self::adjust_workers(slf);
        if result.is_err() && fields.workers.get() <= 0 {
            // Nobody will ever take it.
            for other in tasks.drain() {
                if !other.is(task) {
                    tasks.push(other);
                }
            }
            fields.unfinished.set(fields.unfinished.get() - 1);
            fields.undelivered.set(fields.undelivered.get() - 1);
            hub.release();
            this.release_slot();
            return result;
        }
        Ok(())
    }

    fn start_worker(slf: &Bound<'_, Self>) -> PyResult<()> {
        let py = slf.py();
        let fields = slf.get().fields();
        fields.workers.set(fields.workers.get() + 1);
        let start = START_THREAD.get(py).expect("set when the module is made").bind(py);
        let result = slf.getattr(intern!(py, "_work")).and_then(|work| start.call1((work, PyTuple::empty(py))));
        if result.is_err() {
            fields.workers.set(fields.workers.get() - 1);
        }
        result.map(drop)
    }

    /// Starts workers if there is more to do than workers, and has those end that are too many.
    fn adjust_workers(slf: &Bound<'_, Self>) -> PyResult<()> {
        let fields = slf.get().fields();
        while fields.workers.get() < fields.maxsize.get() && fields.unfinished.get() as isize > fields.workers.get() {
            Self::start_worker(slf)?;
        }
        let tasks = fields.tasks.borrow().clone();
        let excess = fields.workers.get() - tasks.stopping() as isize - fields.maxsize.get();
        if excess > 0 {
            tasks.stop(excess as usize);
        }
        Ok(())
    }

    fn change_maxsize(slf: &Bound<'_, Self>, maxsize: &Bound<'_, PyAny>) -> PyResult<()> {
        let Ok(wanted) = maxsize.extract::<isize>() else {
            return Err(PyTypeError::new_err(format!("maxsize must be integer: {}", maxsize.repr()?)));
        };
        if wanted < 0 {
            return Err(PyValueError::new_err(format!("maxsize must not be negative: {wanted}")));
        }
        let fields = slf.get().fields();
        let difference = wanted - fields.maxsize.replace(wanted);
        fields.slots.set(fields.slots.get() + difference);
        Self::adjust_workers(slf)?;
        let waiting = fields.waiting_for_slot.borrow().len();
        for _ in 0..waiting.min(usize::try_from(difference).unwrap_or(0)) {
            slf.get().wake_for_slot();
        }
        Ok(())
    }

    /// Notes the end of a task, in the worker's thread. `error` carries who failed, for the report.
    fn end(slf: &Bound<'_, Self>, task: &Bound<'_, PyTask>, outcome: PyResult<Py<PyAny>>, context: Option<Py<PyAny>>) {
        let py = slf.py();
        let this = slf.get();
        let fields = &*this.fields;
        fields.unfinished.set(fields.unfinished.get() - 1);
        // The pool's hub object keeps the hub allocated; a closed hub ignores what is pushed.
        let hub = fields.hub.get();
        if outcome.is_ok() && matches!(&*task.get().fields.receiver.borrow(), Receiver::Caller(_)) {
            Self::deliver(slf, task, outcome);
            return;
        }
        let (pool, task) = (slf.clone().unbind(), task.clone().unbind());
        let deliver = move |_: &Hub| {
            // A closed hub drops the closure instead: it runs in the hub, with the GIL held.
            Python::attach(|py| {
                if let (Err(error), Some(context)) = (&outcome, &context) {
                    py_hub::handle_error(py, Some(context.bind(py)), error.clone_ref(py));
                }
                Self::deliver(pool.bind(py), task.bind(py), outcome);
            });
        };
        crate::host::push_call(py, hub, deliver);
    }

    /// Hands the outcome to whoever waits for it.
    fn deliver(slf: &Bound<'_, Self>, task: &Bound<'_, PyTask>, outcome: PyResult<Py<PyAny>>) {
        let py = slf.py();
        crate::host::release(py, slf.get().fields.hub.get());
        slf.get().release_slot();
        let pool = &*slf.get().fields;
        pool.undelivered.set(pool.undelivered.get() - 1);
        if pool.undelivered.get() == 0 {
            slf.get().tell_change();
        }
        let fields = &task.get().fields;
        let receiver = fields.receiver.replace(Receiver::Caller(None));
        match receiver {
            Receiver::Caller(waker) => {
                if let Some(waker) = waker {
                    fields.outcome.set(Some(outcome));
                    waker.unpark();
                }
            }
            Receiver::Result(result) => {
                let result = result.bind(py);
                let told = match outcome {
                    Ok(value) => result.call_method1(intern!(py, "set"), (value,)),
                    Err(error) => {
                        let info = (error.get_type(py), error.value(py).clone(), error.traceback(py));
                        result.call_method1(intern!(py, "set_exception"), (error.value(py).clone(), info))
                    }
                };
                if let Err(error) = told {
                    py_hub::handle_error(py, Some(result), error);
                }
            }
        }
    }
}

fn make_task(
    function: &Bound<'_, PyAny>,
    args: &Bound<'_, PyTuple>,
    kwargs: Option<&Bound<'_, PyDict>>,
    receiver: Receiver,
) -> PyResult<Py<PyTask>> {
    let task = PyTask {
        function: function.clone().unbind(),
        args: args.clone().unbind(),
        kwargs: kwargs.filter(|kwargs| !kwargs.is_empty()).map(|kwargs| kwargs.clone().unbind()),
        fields: Gil::new(TaskFields { receiver: RefCell::new(receiver), outcome: Cell::new(None) }),
    };
    Py::new(function.py(), task)
}

#[pymethods]
impl PyThreadPool {
    #[new]
    #[pyo3(signature = (*args, **kwargs))]
    fn new(args: &Bound<'_, PyTuple>, kwargs: Option<&Bound<'_, PyDict>>) -> Self {
        let _ = (args, kwargs);
        let fields = Fields {
            hub: Cell::new(std::ptr::null()),
            hub_object: RefCell::default(),
            tasks: RefCell::default(),
            idle_timeout: Cell::new(-1.0),
            maxsize: Cell::new(0),
            slots: Cell::new(SPARE_SLOTS),
            workers: Cell::new(0),
            unfinished: Cell::new(0),
            undelivered: Cell::new(0),
            forks: Cell::new(other_threads::forks()),
            waiting_for_slot: RefCell::default(),
            waiting_for_change: RefCell::default(),
        };
        Self { fields: Gil::new(fields) }
    }

    #[pyo3(signature = (maxsize, hub=None, idle_task_timeout=-1.0))]
    fn __init__(
        slf: &Bound<'_, Self>,
        maxsize: &Bound<'_, PyAny>,
        hub: Option<Bound<'_, PyAny>>,
        idle_task_timeout: f64,
    ) -> PyResult<()> {
        let py = slf.py();
        let hub = match hub {
            Some(hub) => hub,
            None => py_hub::get_hub(py)?,
        };
        let fields = slf.get().fields();
        fields.hub.set(hub.cast::<py_hub::PyHub>()?.as_super().get().raw().hub());
        let old = fields.hub_object.replace(Some(hub.unbind()));
        drop(old);
        fields.idle_timeout.set(idle_task_timeout);
        Self::change_maxsize(slf, maxsize)
    }

    /// The hub whose greenlets may use the pool.
    #[getter]
    fn hub(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.fields().hub_object.borrow().as_ref().map(|hub| hub.clone_ref(py))
    }

    /// The most threads; when more tasks than that are unfinished, adding one waits.
    #[getter]
    fn maxsize(&self) -> isize {
        self.fields().maxsize.get()
    }

    #[setter]
    fn set_maxsize(slf: &Bound<'_, Self>, maxsize: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::change_maxsize(slf, maxsize)
    }

    /// The process that the threads are of: the child's, after a fork.
    #[getter]
    fn pid(&self) -> u32 {
        self.fields();
        std::process::id()
    }

    /// How many tasks no thread has taken yet.
    fn _waiting(&self) -> usize {
        self.fields().tasks.borrow().waiting()
    }

    /// How many threads there are; setting it starts threads, or waits until enough have ended.
    #[getter]
    fn size(&self) -> isize {
        self.fields().workers.get()
    }

    #[setter]
    fn set_size(slf: &Bound<'_, Self>, size: isize) -> PyResult<()> {
        let this = slf.get();
        let fields = this.fields();
        if size < 0 {
            return Err(PyValueError::new_err(format!("Size of the pool cannot be negative: {size}")));
        }
        if size > fields.maxsize.get() {
            let maxsize = fields.maxsize.get();
            let message = format!("Size of the pool cannot be bigger than maxsize: {size} > {maxsize}");
            return Err(PyValueError::new_err(message));
        }
        let tasks = fields.tasks.borrow().clone();
        while fields.workers.get() < size {
            Self::start_worker(slf)?;
        }
        let is_in_hub = Hub::current().hub_greenlet().is_some_and(|hub| Hub::current().is_running(&hub));
        let may_wait = this.is_of_this_thread() && !is_in_hub;
        while fields.workers.get() > size {
            // Anew each time: meanwhile tasks may have been added, and workers started for them.
            let excess = fields.workers.get() - tasks.stopping() as isize - size;
            if excess > 0 {
                tasks.stop(excess as usize);
            }
            if !may_wait {
                break;
            }
            this.wait_for_change(slf.py())?;
        }
        Ok(())
    }

    fn __len__(&self) -> usize {
        self.fields().unfinished.get()
    }

    /// spawn(func, *args, **kwargs) -> AsyncResult
    ///
    /// Has a thread call the function. Waits while more tasks than `maxsize` are unfinished. Switches if it waits.
    #[pyo3(signature = (func, *args, **kwargs))]
    fn spawn<'py>(
        slf: &Bound<'py, Self>,
        func: &Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        static RESULT: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
        let py = slf.py();
        let hub = slf.get().owner(py)?;
        let class =
            RESULT.get_or_try_init(py, || py.import("gevent._greenrust")?.getattr("AsyncResult").map(Bound::unbind))?;
        slf.get().acquire_slot(py)?;
        let made = class.bind(py).call0().and_then(|result| {
            let task = make_task(func, args, kwargs, Receiver::Result(result.clone().unbind()))?;
            Ok((result, task))
        });
        match made {
            Ok((result, task)) => Self::submit(slf, hub, &task).map(|()| result),
            Err(error) => {
                slf.get().release_slot();
                Err(error)
            }
        }
    }

    /// apply(func, args=None, kwds=None) -> what it returns
    ///
    /// Has a thread call the function and waits for it. In any other thread than the hub's, calls it at once. Switches.
    #[pyo3(signature = (func, args=None, kwds=None))]
    fn apply(
        slf: &Bound<'_, Self>,
        func: &Bound<'_, PyAny>,
        args: Option<&Bound<'_, PyAny>>,
        kwds: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let this = slf.get();
        let args = match args {
            None => PyTuple::empty(py),
            Some(args) => match args.cast::<PyTuple>() {
                Ok(args) => args.clone(),
                Err(_) => PyTuple::new(py, args.try_iter()?.collect::<PyResult<Vec<_>>>()?)?,
            },
        };
        if !this.is_of_this_thread() {
            return func.call(&args, kwds).map(Bound::unbind);
        }
        let hub = this.owner(py)?;
        this.acquire_slot(py)?;
        let task = match make_task(func, &args, kwds, Receiver::Caller(None)) {
            Ok(task) => task,
            Err(error) => {
                this.release_slot();
                return Err(error);
            }
        };
        let (_, waker) = match host::begin_park(py, WaitingFor::Thread) {
            Ok(begun) => begun,
            Err(error) => {
                this.release_slot();
                return Err(error);
            }
        };
        task.get().fields.receiver.replace(Receiver::Caller(Some(waker.clone())));
        let submitted = Self::submit(slf, hub, &task);
        if submitted.is_err() {
            // The park that was begun is ended like any other.
            waker.unpark();
        }
        let parked = host::park(py, hub, &waker, None, true);
        task.get().fields.receiver.replace(Receiver::Caller(None));
        submitted?;
        parked?;
        task.get()
            .fields
            .outcome
            .take()
            .unwrap_or_else(|| Err(exceptions::internal("a worker woke its caller without a result")))
    }

    /// Waits until all tasks are finished and their outcomes handed over. Switches if it waits.
    fn join(&self, py: Python<'_>) -> PyResult<()> {
        while self.fields().undelivered.get() > 0 {
            self.wait_for_change(py)?;
        }
        Ok(())
    }

    /// Waits until all tasks are finished and all threads have ended. Switches if it waits.
    fn kill(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::set_size(slf, 0)
    }

    /// Starts threads if tasks wait for one, and has those end that are more than `maxsize`.
    fn adjust(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::adjust_workers(slf)
    }

    /// Waits for a task, in a worker thread; None: the worker is to end, and counts no more.
    fn _take(slf: &Bound<'_, Self>) -> Option<Py<PyTask>> {
        let py = slf.py();
        let fields = slf.get().fields();
        let tasks = fields.tasks.borrow().clone();
        // A thread that has no task is not blocked, whatever it has run before.
        PyTracer::excuse_running(py);
        let idle_timeout = fields.idle_timeout.get();
        let patience = (idle_timeout >= 0.0).then(|| py_hub::duration(idle_timeout));
        let wait = || {
            // The GIL is free by now, so the hub goes on without a detour.
            wake_owed();
            tasks.take(patience)
        };
        loop {
            match other_threads::quiet(py, || py.detach(wait)) {
                Next::Task(task) => return Some(task),
                end => {
                    if tasks.waiting() > 0 {
                        // It came while the GIL was away, and whoever added it counted on this worker.
                        tasks.stop(usize::from(matches!(end, Next::Stop)));
                        continue;
                    }
                    slf.get()._lose_worker();
                    return None;
                }
            }
        }
    }

    /// Counts a worker thread that ends no more.
    fn _lose_worker(&self) {
        wake_owed();
        let fields = &*self.fields;
        fields.workers.set(fields.workers.get() - 1);
        self.tell_change();
    }

    /// Hands in the result of a task, in a worker thread. The hub is woken by the next `_take`.
    fn _finish(slf: &Bound<'_, Self>, task: &Bound<'_, PyTask>, value: Py<PyAny>) {
        let hub = slf.get().fields.hub.get();
        OWED.set(host::defer_wake(slf.py(), hub, || Self::end(slf, task, Ok(value), None)));
    }

    /// Hands in the error of a task, in a worker thread; *context* is for the hub's report.
    fn _fail(slf: &Bound<'_, Self>, task: &Bound<'_, PyTask>, error: Bound<'_, PyAny>, context: Py<PyAny>) {
        Self::end(slf, task, Err(PyErr::from_value(error)), Some(context));
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if self.fields.if_made().is_none() {
            return Ok(());
        }
        match self.fields.hub_object.try_borrow() {
            Ok(hub) => visit.call(&*hub),
            Err(_) => Ok(()),
        }
    }
}

/// Adds the classes to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    START_THREAD.get_or_try_init(py, || py.import("_thread")?.getattr("start_new_thread").map(Bound::unbind))?;
    module.add_class::<PyTask>()?;
    module.add_class::<PyThreadPool>()
}
