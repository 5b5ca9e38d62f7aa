//! The class as Python sees it.

use greenrust::context::State;
use pyo3::exceptions::{PyBaseException, PyTypeError};
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

use super::links::Link;
use super::spawning::{self, not_callable};
use super::{ExceptionTriple, Outcome, PyGeventGreenlet, Start, deadline};
use crate::arguments::{Real, Truth};
use crate::exceptions::GreenletExit;
use crate::host::Payload;
use crate::hub as py_hub;
use crate::lowlevel::{self, PyGreenlet};
use crate::timeout::Limit;

#[pymethods]
impl PyGeventGreenlet {
    #[new]
    #[pyo3(signature = (*args, **kwargs))]
    fn new(
        py: Python<'_>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<PyClassInitializer<Self>> {
        // The arguments are __init__'s: subclasses have signatures of their own.
        let _ = (args, kwargs);
        Self::make(py, None, PyTuple::empty(py).unbind(), None)
    }

    #[pyo3(signature = (run=None, *args, **kwargs))]
    fn __init__(
        slf: &Bound<'_, Self>,
        run: Option<Bound<'_, PyAny>>,
        args: Bound<'_, PyTuple>,
        kwargs: Option<Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let py = slf.py();
        PyGreenlet::bind_object(slf.as_super());
        let fields = &slf.get().fields;
        match run.filter(|run| !run.is_none()) {
            Some(run) if run.is_callable() => drop(fields.function.replace(Some(run.unbind()))),
            Some(run) => return Err(not_callable(&run)),
            None => {
                let run = slf.as_any().getattr(pyo3::intern!(py, "_run"))?;
                if !run.is_callable() {
                    return Err(not_callable(&run));
                }
            }
        }
        let old = (fields.args.replace(Some(args.unbind())), fields.kwargs.replace(kwargs.map(Bound::unbind)));
        drop(old);
        Ok(())
    }

    /// spawn_later(seconds, function, *args, **kwargs) -> a Greenlet that starts after *seconds* (a float)
    #[classmethod]
    #[pyo3(signature = (seconds, *args, **kwargs))]
    fn spawn_later<'py>(
        cls: &Bound<'py, PyType>,
        seconds: Bound<'py, PyAny>,
        args: &Bound<'py, PyTuple>,
        kwargs: Option<Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = cls.py();
        let has_run = match &kwargs {
            Some(kwargs) => kwargs.contains("run")?,
            None => false,
        };
        if cls.is(PyType::new::<PyGeventGreenlet>(py)) && args.is_empty() && !has_run {
            return Err(PyTypeError::new_err("spawn_later() needs a function to run after the seconds"));
        }
        let greenlet = cls.call(args, kwargs.as_ref())?;
        greenlet.call_method1(pyo3::intern!(py, "start_later"), (seconds,))?;
        Ok(greenlet)
    }

    /// Has `callback(greenlet)` called whenever a Greenlet is started.
    #[staticmethod]
    fn add_spawn_callback(py: Python<'_>, callback: Py<PyAny>) -> PyResult<()> {
        spawning::add_callback(py, callback)
    }

    /// Takes a callback of `add_spawn_callback` back.
    #[staticmethod]
    fn remove_spawn_callback(py: Python<'_>, callback: Py<PyAny>) -> PyResult<()> {
        spawning::remove_callback(py, callback)
    }

    /// Schedules the greenlet to start in this turn of the loop; a second time does nothing.
    fn start(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::begin_start(slf)
    }

    /// start_later(seconds): schedules the greenlet to start after *seconds* (a float).
    fn start_later(slf: &Bound<'_, Self>, seconds: Real) -> PyResult<()> {
        let Real(seconds) = seconds;
        Self::begin_start_later(slf, py_hub::duration(seconds))
    }

    /// What the greenlet does once it runs; the hub's business.
    fn run(slf: &Bound<'_, Self>) {
        Self::run_and_report(slf);
    }

    /// What the greenlet is to run; subclasses override it.
    #[getter]
    fn _run<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        if let Some(function) = &*slf.get().fields.function.borrow() {
            return Ok(function.bind(py).clone());
        }
        slf.as_any().getattr(pyo3::intern!(py, "_do_nothing"))
    }

    #[setter(_run)]
    fn set_function(&self, function: Option<Py<PyAny>>) {
        let old = self.fields.function.replace(function);
        drop(old);
    }

    #[deleter(_run)]
    fn delete_function(&self) {
        let old = self.fields.function.take();
        drop(old);
    }

    /// What a Greenlet without a function runs.
    #[pyo3(signature = (*_args, **_kwargs))]
    fn _do_nothing(&self, _args: &Bound<'_, PyTuple>, _kwargs: Option<&Bound<'_, PyDict>>) {}

    /// The positional arguments of the function; empty once it has ended.
    #[getter]
    fn args<'py>(&self, py: Python<'py>) -> Bound<'py, PyTuple> {
        match &*self.fields.args.borrow() {
            Some(args) => args.bind(py).clone(),
            None => PyTuple::empty(py),
        }
    }

    #[setter]
    fn set_args(&self, args: Py<PyTuple>) {
        let old = self.fields.args.replace(Some(args));
        drop(old);
    }

    /// The keyword arguments of the function; empty once it has ended.
    #[getter]
    fn kwargs<'py>(&self, py: Python<'py>) -> Bound<'py, PyDict> {
        if let Some(kwargs) = &*self.fields.kwargs.borrow() {
            return kwargs.bind(py).clone();
        }
        let made = PyDict::new(py);
        self.fields.kwargs.replace(Some(made.clone().unbind()));
        made
    }

    #[setter]
    fn set_kwargs(&self, kwargs: Py<PyDict>) {
        let old = self.fields.kwargs.replace(Some(kwargs));
        drop(old);
    }

    /// The function's result; None while it runs or if it failed.
    #[getter]
    fn value(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        match &*self.fields.outcome.borrow() {
            Outcome::Value(value) => Some(value.clone_ref(py)),
            _ => None,
        }
    }

    /// The exception that ended the function, or None.
    #[getter]
    fn exception(&self, py: Python<'_>) -> Option<Py<PyBaseException>> {
        match &*self.fields.outcome.borrow() {
            Outcome::Error { value, .. } => Some(value.clone_ref(py)),
            _ => None,
        }
    }

    /// (type, value, traceback) of the exception that ended the function, or None.
    #[getter]
    fn exc_info(&self, py: Python<'_>) -> Option<ExceptionTriple> {
        match &*self.fields.outcome.borrow() {
            Outcome::Error { value, traceback } => Some((
                value.bind(py).get_type().unbind(),
                value.clone_ref(py),
                traceback.as_ref().map(|traceback| traceback.clone_ref(py)),
            )),
            _ => None,
        }
    }

    fn _raise_exception(slf: &Bound<'_, Self>) -> PyResult<()> {
        Self::outcome_result(slf).map(drop)
    }

    /// The loop of the greenlet's hub.
    #[getter(r#loop)]
    fn loop_getter<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        slf.as_any().getattr("parent")?.getattr("loop")
    }

    /// True once the greenlet has ended, or can never run.
    #[getter]
    fn dead(slf: &Bound<'_, Self>) -> bool {
        Self::is_dead(slf)
    }

    /// True from its start to its end.
    #[getter]
    fn started(slf: &Bound<'_, Self>) -> bool {
        slf.get().__bool__()
    }

    fn __bool__(&self) -> bool {
        !matches!(self.fields.start.get(), Start::Never) && self.fields.is_pending()
    }

    /// ready() -> whether the greenlet has ended
    fn ready(slf: &Bound<'_, Self>) -> bool {
        Self::is_ready(slf)
    }

    /// successful() -> whether it has ended without an error; an exit by GreenletExit is none
    fn successful(&self) -> bool {
        self.is_successful()
    }

    /// get(block=True, timeout=None) -> the function's result
    ///
    /// Waits for it, at most *timeout* seconds; re-raises its exception. Raises Timeout when the time is over, or at once
    /// if *block* is false. Switches.
    #[pyo3(signature = (block=Truth(true), timeout=None), text_signature = "($self, block=True, timeout=None)")]
    fn get(slf: &Bound<'_, Self>, block: Truth, timeout: Option<Limit<'_>>) -> PyResult<Py<PyAny>> {
        if !Self::is_ready(slf) {
            if !block.0 {
                return Err(Limit::expired(slf.py(), None));
            }
            let hub = py_hub::ensure(slf.py())?;
            let limit = timeout.as_ref();
            if !Limit::apply(limit, |seconds| Self::wait_for_end(slf, deadline(hub, seconds)))? {
                return Err(Limit::expired(slf.py(), limit));
            }
        }
        Self::outcome_result(slf)
    }

    /// join(timeout=None): waits until the greenlet has ended, at most *timeout* seconds. Returns None always. Switches.
    #[pyo3(signature = (timeout=None))]
    fn join(slf: &Bound<'_, Self>, timeout: Option<Limit<'_>>) -> PyResult<()> {
        if Self::is_ready(slf) {
            return Ok(());
        }
        let hub = py_hub::ensure(slf.py())?;
        Limit::apply_quietly(timeout.as_ref(), false, |seconds| Self::wait_for_end(slf, deadline(hub, seconds)))
            .map(drop)
    }

    /// kill(exception=GreenletExit, block=True, timeout=None)
    ///
    /// Has the hub throw *exception* into the greenlet; with *block* waits, at most *timeout* seconds, until it has
    /// ended. One that has not begun never runs. Switches if *block*.
    #[pyo3(
        signature = (exception=None, block=Truth(true), timeout=None),
        text_signature = "($self, exception=None, block=True, timeout=None)"
    )]
    fn kill(
        slf: &Bound<'_, Self>,
        exception: Option<Bound<'_, PyAny>>,
        block: Truth,
        timeout: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let exception = exception.unwrap_or_else(|| PyType::new::<GreenletExit>(slf.py()).into_any());
        if !Self::kill_begun(slf, exception, block.0)? || !block.0 {
            return Ok(());
        }
        if slf.get_type().is(PyType::new::<Self>(slf.py())) {
            Self::join(slf, timeout.map(|timeout| timeout.extract()).transpose()?)
        } else {
            slf.call_method1(pyo3::intern!(slf.py(), "join"), (timeout,)).map(drop)
        }
    }

    fn _maybe_kill_before_start(slf: &Bound<'_, Self>, exception: &Bound<'_, PyAny>) -> PyResult<bool> {
        Self::end_before_start(slf, exception)
    }

    /// throw(*args): throws into the greenlet now, as the raw greenlet does; one that has not begun never runs.
    #[pyo3(signature = (*args))]
    fn throw<'py>(slf: &Bound<'py, Self>, args: &Bound<'py, PyTuple>) -> PyResult<Py<PyAny>> {
        let py = slf.py();
        let argument = |index: usize| args.get_item(index).ok();
        let (kind, value, traceback) = (argument(0), argument(1), argument(2));
        let state = slf.as_super().get().raw().state();
        if state == State::Started {
            let error = lowlevel::thrown(py, kind.as_ref(), value.as_ref(), traceback.as_ref())?;
            return PyGreenlet::enter(slf.as_super(), Payload::Throw(Box::new(error)));
        }
        let exit = PyType::new::<GreenletExit>(py).into_any();
        let exception = if args.len() == 3 { args.clone().into_any() } else { kind.unwrap_or(exit) };
        Self::end_before_start(slf, &exception)?;
        Ok(py.None())
    }

    /// has_links() -> whether somebody waits for the end
    fn has_links(&self) -> bool {
        !self.fields.links.borrow().is_empty()
    }

    /// rawlink(callback): has `callback(greenlet)` called in the hub at the end; it must neither switch nor raise.
    fn rawlink(slf: &Bound<'_, Self>, callback: Bound<'_, PyAny>) -> PyResult<()> {
        if !callback.is_callable() {
            return Err(PyTypeError::new_err(format!("Expected callable: {}", callback.repr()?)));
        }
        Self::add_link(slf, Link::Raw(callback.unbind()));
        Ok(())
    }

    /// link(callback): has `callback(greenlet)` called at the end, in a greenlet of its own.
    #[pyo3(signature = (callback, SpawnedLink=None))]
    #[allow(non_snake_case)]
    fn link(slf: &Bound<'_, Self>, callback: Bound<'_, PyAny>, SpawnedLink: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        if let Some(wrapper) = SpawnedLink {
            return Self::rawlink(slf, wrapper.call1((callback,))?);
        }
        Self::link_spawned(slf, callback, None)
    }

    /// link_value(callback): as link, if the greenlet ends without an error.
    #[pyo3(signature = (callback, SpawnedLink=None))]
    #[allow(non_snake_case)]
    fn link_value(
        slf: &Bound<'_, Self>,
        callback: Bound<'_, PyAny>,
        SpawnedLink: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        match SpawnedLink {
            Some(wrapper) => Self::rawlink(slf, wrapper.call1((callback,))?),
            None => Self::link_spawned(slf, callback, Some(true)),
        }
    }

    /// link_exception(callback): as link, if the greenlet ends with an error.
    #[pyo3(signature = (callback, SpawnedLink=None))]
    #[allow(non_snake_case)]
    fn link_exception(
        slf: &Bound<'_, Self>,
        callback: Bound<'_, PyAny>,
        SpawnedLink: Option<Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        match SpawnedLink {
            Some(wrapper) => Self::rawlink(slf, wrapper.call1((callback,))?),
            None => Self::link_spawned(slf, callback, Some(false)),
        }
    }

    /// unlink(callback): takes back the first link of this callback.
    fn unlink(slf: &Bound<'_, Self>, callback: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        let known: Vec<Option<Py<PyAny>>> = slf
            .get()
            .fields
            .links
            .borrow()
            .iter()
            .map(|link| match link {
                Link::Raw(known) | Link::Spawned(known, _) => Some(known.clone_ref(py)),
                Link::Waker(_) | Link::Joiner(_) => None,
            })
            .collect();
        for (position, known) in known.iter().enumerate() {
            if let Some(known) = known
                && known.bind(py).eq(callback)?
            {
                // Comparing may run code, but a link's place changes only at the front, by the hub.
                let mut links = slf.get().fields.links.borrow_mut();
                let removed = (position < links.len()).then(|| links.remove(position));
                drop(links);
                drop(removed);
                return Ok(());
            }
        }
        Ok(())
    }

    /// Takes all links back.
    fn unlink_all(&self) {
        let old = std::mem::take(&mut *self.fields.links.borrow_mut());
        drop(old);
    }

    fn __enter__<'py>(slf: &Bound<'py, Self>) -> Bound<'py, Self> {
        slf.clone()
    }

    fn __exit__(slf: &Bound<'_, Self>, t: Bound<'_, PyAny>, v: Bound<'_, PyAny>, tb: Bound<'_, PyAny>) -> PyResult<()> {
        let py = slf.py();
        if t.is_none() {
            let joined = slf.call_method0(pyo3::intern!(py, "join"));
            slf.call_method0(pyo3::intern!(py, "kill"))?;
            joined.map(drop)
        } else {
            slf.call_method1(pyo3::intern!(py, "kill"), ((t, v, tb),)).map(drop)
        }
    }

    /// The greenlet's name: `Greenlet-N` unless one was given.
    #[getter]
    fn name<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        Self::get_name(slf)
    }

    #[setter]
    fn set_name(&self, name: Py<PyAny>) {
        let old = self.fields.name.replace(Some(name));
        drop(old);
    }

    /// A small number that no other living greenlet of the hub has.
    #[getter]
    fn minimal_ident(slf: &Bound<'_, Self>) -> PyResult<u64> {
        if let Some(ident) = slf.get().fields.ident.get() {
            return Ok(ident);
        }
        let registry = slf.as_any().getattr("parent")?.getattr("ident_registry")?;
        let ident: u64 = registry.call_method1("get_ident", (slf,))?.extract()?;
        slf.get().fields.ident.set(Some(ident));
        Ok(ident)
    }

    /// A weak reference to the greenlet that made this one; None if not tracked.
    #[getter]
    fn spawning_greenlet(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.fields.spawning_greenlet.borrow().as_ref().map(|spawner| spawner.clone_ref(py))
    }

    #[setter]
    fn set_spawning_greenlet(&self, spawner: Option<Py<PyAny>>) {
        let old = self.fields.spawning_greenlet.replace(spawner);
        drop(old);
    }

    /// A dictionary that all greenlets of a spawn tree share.
    #[getter]
    fn spawn_tree_locals(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        if self.fields.spawning_greenlet.borrow().is_none() && self.fields.spawn_tree_locals.borrow().is_none() {
            return Ok(None);
        }
        self.fields.tree_locals(py).map(Some)
    }

    #[setter]
    fn set_spawn_tree_locals(&self, locals: Option<Py<PyAny>>) {
        let old = self.fields.spawn_tree_locals.replace(locals);
        drop(old);
    }

    /// The stack at which the greenlet was made, as a chain of frame-like objects; None if not tracked.
    #[getter]
    fn spawning_stack(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        self.fields.spawning_stack.borrow().to_frames(py)
    }

    /// How many frames of it are kept.
    #[classattr]
    fn spawning_stack_limit() -> usize {
        crate::spawn_tree::LIMIT
    }

    #[classmethod]
    fn __class_getitem__<'py>(cls: &Bound<'py, PyType>, item: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        crate::queue::generic_alias(cls, item)
    }

    fn _formatinfo(slf: &Bound<'_, Self>) -> PyResult<String> {
        Self::describe(slf)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let py = slf.py();
        let class = slf.get_type().name()?;
        let is_named = slf.get().fields.name.borrow().is_some() || slf.get().fields.ident.get().is_some();
        let name = if is_named { format!(" \"{}\" ", Self::get_name(slf)?.str()?) } else { " ".to_owned() };
        let mut text = format!("<{class}{name}at {:#x}", slf.as_ptr() as usize);
        // A lock that is an argument may show its owner: this greenlet.
        // SAFETY: a valid object, and the GIL is held.
        match unsafe { ffi::Py_ReprEnter(slf.as_ptr()) } {
            0 => {}
            1 => return Ok(text + ": ...>"),
            _ => return Err(PyErr::fetch(py)),
        }
        let info = slf.call_method0(pyo3::intern!(py, "_formatinfo")).and_then(|info| info.str());
        // SAFETY: as above, once for each `Py_ReprEnter` that returned 0.
        unsafe { ffi::Py_ReprLeave(slf.as_ptr()) };
        let info = info?.to_string();
        if !info.is_empty() {
            text.push_str(&format!(": {info}"));
        }
        text.push('>');
        Ok(text)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if self.fields.if_made().is_none() {
            return Ok(());
        }
        let fields = &*self.fields;
        if let Ok(value) = fields.function.try_borrow() {
            visit.call(&*value)?;
        }
        if let Ok(value) = fields.args.try_borrow() {
            visit.call(&*value)?;
        }
        if let Ok(value) = fields.kwargs.try_borrow() {
            visit.call(&*value)?;
        }
        if let Ok(value) = fields.spawn_tree_locals.try_borrow() {
            visit.call(&*value)?;
        }
        if let Ok(value) = fields.spawning_greenlet.try_borrow() {
            visit.call(&*value)?;
        }
        if let Ok(outcome) = fields.outcome.try_borrow() {
            match &*outcome {
                Outcome::Pending => {}
                Outcome::Value(value) => visit.call(value)?,
                Outcome::Error { value, traceback } => {
                    visit.call(value)?;
                    visit.call(traceback)?;
                }
            }
        }
        if let Ok(links) = fields.links.try_borrow() {
            for link in &*links {
                if let Link::Raw(callback) | Link::Spawned(callback, _) = link {
                    visit.call(callback)?;
                }
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        self.fields.free();
        drop(self.fields.spawn_tree_locals.take());
        drop(std::mem::take(&mut *self.fields.links.borrow_mut()));
        let old = self.fields.outcome.replace(Outcome::Pending);
        drop(old);
    }
}
