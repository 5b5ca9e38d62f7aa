//! What the connections of one server share: limits, time-outs, and who is connected.
//!
//! A connection is *serving* (a request is in work), *waiting* (its greenlet waits for a request's head), *resting* or
//! *dozing*: no greenlet is its own. An idle connection is a call that the hub makes when bytes arrive, which puts it into
//! the queue of those that a [worker](crate::pywsgi::worker) serves. It rests if the worker that served it last had no reason to
//! stay with it, else it waits. After [`DOZE_AFTER`] it dozes: then its memory is given back, and a timer is set for it.
//!
//! ```text
//! enter ──► ready ──worker──► serving ──no bytes──► resting ──idle──► dozing
//!             ▲                  ⇅                     │      ┌──idle──▲│
//!             │               waiting ─────────────────┼──────┘         │
//!             └────────────────────────────────bytes───┴────────────────┘
//! ```
//!
//! They leave by their end, `keep_alive_timeout`, drain and eviction. A drain lets those that are *owed* an answer, since
//! they never had one or a head has begun, wait on for a while; the others end. Idle connections form a list, the one
//! that waits longest first. When there are `max_connections`, it is closed for the sake of a new one: a client that opens
//! connections and sends nothing keeps nobody out.
//!
//! This file has who is connected, and Python's view; [`idle`] has rest and doze, [`room`] eviction, [`drain`] the end.

#![forbid(unsafe_code)]

mod drain;
mod idle;
mod parameters;
mod room;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::os::fd::RawFd;
use std::time::Duration;

use greenrust::clock::Instant;
use greenrust::http::TrustedProxies;
use greenrust::hub::{Alarm, Hub};
use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use slab::Slab;

use crate::gil::Gil;
use crate::host;
use crate::hub as py_hub;
use crate::pywsgi::environ::Templates;
use crate::pywsgi::handler::{Dozing, Handler};
use crate::pywsgi::log_format::LogFormat;
use crate::websocket::WebSocket;

pub use drain::Awaited;
pub use parameters::Bounds;

use idle::Doze;
use parameters::Options;

/// How long a connection is idle before its greenlet ends.
pub const DOZE_AFTER: Duration = Duration::from_secs(1);

const NONE: usize = usize::MAX;

#[derive(Default)]
struct Entry {
    descriptor: RawFd,
    /// Tells an entry from a later one in its place.
    serial: u64,
    is_waiting: bool,
    /// For what it waited last.
    awaited: Awaited,
    /// Since when it waits; not noted where it will doze before it matters.
    since: Option<Instant>,
    is_evicted: bool,
    /// Times the connection's waits.
    alarm: Option<Alarm>,
    /// The greenlet that serves it.
    greenlet: usize,
    dozing: Option<Doze>,
    /// What the connection has become.
    websocket: Option<Py<WebSocket>>,
    previous: usize,
    next: usize,
}

/// How many handlers of ended connections are kept for new ones.
const SPARE_HANDLERS: usize = 128;

struct Inner {
    bounds: Bounds,
    max_connections: usize,
    server_header: Option<Vec<u8>>,
    log_format: LogFormat,
    trusted: TrustedProxies,
    proxy_protocol: bool,
    /// Whether greenlets are spawned for single connections, and so may end before these do.
    may_doze: Cell<bool>,
    entries: RefCell<Slab<Entry>>,
    /// The entries' keys.
    by_descriptor: RefCell<Vec<usize>>,
    serial: Cell<u64>,
    first_waiting: Cell<usize>,
    last_waiting: Cell<usize>,
    /// Connections that are told to end for the sake of new ones, and haven't yet.
    evicting: Cell<usize>,
    is_draining: Cell<bool>,
    /// Until when a drain waits for what is owed an answer; None for ever.
    drain_deadline: Cell<Option<Instant>>,
    /// Nothing is accepted until there is room.
    is_short: Cell<bool>,
    is_retry_pending: Cell<bool>,
    on_change: RefCell<Option<Py<PyAny>>>,
    /// Handlers that nobody else has any more, with all that belongs to them.
    spare: RefCell<Vec<Py<Handler>>>,
    /// The peer's address that was made a string last.
    host: RefCell<Option<(Ipv4Addr, Py<PyString>)>>,
    /// Environments of requests.
    templates: Templates,
    /// The listener whose connections inherit that small writes are sent at once.
    undelayed_listener: Cell<RawFd>,
    /// Connections that have something to be served, in order.
    ready: RefCell<VecDeque<Dozing>>,
    /// Whether somebody is going to look whether anything is ready: a worker that begins, or a call of the hub's.
    is_worker_due: Cell<bool>,
    /// Whether one could not begin, and another is tried later.
    is_worker_put_off: Cell<bool>,
    /// How many connections rest.
    resting: Cell<usize>,
    is_sweep_pending: Cell<bool>,
}

/// What the connections of a server share. Its parameters are those of `gevent.pywsgi.WSGIServer`.
#[pyclass(name = "WSGIService", module = "gevent._greenrust", frozen)]
pub struct Service {
    inner: Gil<Inner>,
}

/// A connection's place among those of its service; given up when the object goes.
#[pyclass(name = "WSGISeat", module = "gevent._greenrust", frozen)]
pub struct Seat {
    service: Py<Service>,
    key: usize,
    serial: u64,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.service.get().leave(self.key, self.serial);
    }
}

impl Seat {
    /// The service.
    pub fn service(&self) -> &Py<Service> {
        &self.service
    }

    /// The key and serial number of the connection's entry.
    pub fn place(&self) -> (usize, u64) {
        (self.key, self.serial)
    }

    /// Notes which greenlet serves the connection.
    pub fn begin_serving(&self) {
        let running = Hub::current().running().address();
        if let Some(entry) = self.service.get().inner.entries.borrow_mut().get_mut(self.key) {
            entry.greenlet = running;
        }
    }
}

// -- parameters -------------------------------------------------------------------------------------------------------

impl Inner {
    fn new(options: &Options<'_, '_>) -> PyResult<Self> {
        let log_format = match options.text("log_format")? {
            None => LogFormat::Standard,
            Some(text) => LogFormat::parse(&text)
                .map_err(|reason| PyValueError::new_err(format!("log_format is malformed: {reason}: {text:?}")))?,
        };
        let server_header = match options.text("server_header")? {
            None => None,
            Some(value) => {
                let value = value.into_bytes();
                if value.is_empty() || !value.iter().all(|byte| matches!(byte, b' '..=b'~')) {
                    return Err(PyValueError::new_err(format!(
                        "server_header must be printable ASCII, not {:?}",
                        String::from_utf8_lossy(&value)
                    )));
                }
                Some(value)
            }
        };
        Ok(Self {
            bounds: Bounds::from_options(options)?,
            max_connections: options.size("max_connections", 1, usize::MAX)?,
            server_header,
            log_format,
            trusted: options.trusted("trusted_proxies")?,
            proxy_protocol: options.flag("proxy_protocol", false)?,
            may_doze: Cell::new(false),
            entries: RefCell::default(),
            by_descriptor: RefCell::default(),
            serial: Cell::new(0),
            first_waiting: Cell::new(NONE),
            last_waiting: Cell::new(NONE),
            evicting: Cell::new(0),
            is_draining: Cell::new(false),
            drain_deadline: Cell::new(None),
            is_short: Cell::new(false),
            is_retry_pending: Cell::new(false),
            on_change: RefCell::default(),
            spare: RefCell::default(),
            host: RefCell::default(),
            templates: Templates::default(),
            undelayed_listener: Cell::new(-1),
            ready: RefCell::default(),
            is_worker_due: Cell::new(false),
            is_worker_put_off: Cell::new(false),
            resting: Cell::new(0),
            is_sweep_pending: Cell::new(false),
        })
    }

    fn unlink(&self, entries: &mut Slab<Entry>, key: usize) {
        let (previous, next) = match entries.get_mut(key) {
            Some(entry) if entry.is_waiting => {
                entry.is_waiting = false;
                entry.since = None;
                (entry.previous, entry.next)
            }
            _ => return,
        };
        match entries.get_mut(previous) {
            Some(entry) => entry.next = next,
            None => self.first_waiting.set(next),
        }
        match entries.get_mut(next) {
            Some(entry) => entry.previous = previous,
            None => self.last_waiting.set(previous),
        }
    }

    fn has_room(&self) -> bool {
        self.entries.borrow().len() - self.evicting.get() < self.max_connections
    }
}

// -- what connections say ---------------------------------------------------------------------------------------------

impl Service {
    pub fn bounds(&self) -> Bounds {
        self.inner.bounds
    }

    pub fn server_header(&self) -> Option<&[u8]> {
        self.inner.server_header.as_deref()
    }

    pub fn log_format(&self) -> &LogFormat {
        &self.inner.log_format
    }

    /// Whose word about the client is taken.
    pub fn trusted(&self) -> &TrustedProxies {
        &self.inner.trusted
    }

    pub fn expects_proxy_header(&self) -> bool {
        self.inner.proxy_protocol
    }

    #[inline]
    pub fn may_doze(&self) -> bool {
        self.inner.may_doze.get()
    }

    #[inline]
    pub fn is_draining(&self) -> bool {
        self.inner.is_draining.get()
    }

    /// The entry of the connection with this descriptor.
    pub fn find(&self, descriptor: RawFd) -> Option<usize> {
        let index = usize::try_from(descriptor).ok()?;
        self.inner.by_descriptor.borrow().get(index).copied().filter(|&key| key != NONE)
    }

    fn note_descriptor(&self, descriptor: RawFd, key: usize) {
        let Ok(index) = usize::try_from(descriptor) else { return };
        let mut by_descriptor = self.inner.by_descriptor.borrow_mut();
        if by_descriptor.len() <= index {
            by_descriptor.resize(index + 1, NONE);
        }
        by_descriptor[index] = key;
    }

    /// Counts a new connection, until the seat goes.
    pub fn seat(slf: &Bound<'_, Self>, descriptor: RawFd) -> Seat {
        let inner = &*slf.get().inner;
        let serial = inner.serial.get() + 1;
        inner.serial.set(serial);
        let entry = Entry { descriptor, serial, previous: NONE, next: NONE, ..Entry::default() };
        let key = inner.entries.borrow_mut().insert(entry);
        slf.get().note_descriptor(descriptor, key);
        Seat { service: slf.clone().unbind(), key, serial }
    }

    /// Whether there are fewer connections than there may be.
    pub fn has_room(&self) -> bool {
        self.inner.has_room()
    }

    /// Returns the handler of a connection that has ended, if one is kept.
    pub fn take_spare(&self) -> Option<Py<Handler>> {
        self.inner.spare.borrow_mut().pop()
    }

    /// Whether a handler that nobody needs any more is worth keeping.
    pub fn wants_spare(&self) -> bool {
        !self.is_draining() && self.inner.spare.borrow().len() < SPARE_HANDLERS
    }

    /// Keeps a handler for another connection.
    pub fn keep_spare(&self, handler: Py<Handler>) {
        self.inner.spare.borrow_mut().push(handler);
    }

    /// Whether connections of the listener have small writes sent at once already; it is taken for done if not.
    pub fn is_undelayed(&self, listener: RawFd) -> bool {
        self.inner.undelayed_listener.replace(listener) == listener
    }

    /// The environments to copy for requests; None if what is in one depends on more than on the request's fields.
    pub fn templates(&self) -> Option<&Templates> {
        self.inner.trusted.is_empty().then_some(&self.inner.templates)
    }

    /// The string of a peer's address; most come again.
    pub fn host<'py>(&self, py: Python<'py>, address: Ipv4Addr) -> Bound<'py, PyString> {
        if let Some((known, text)) = &*self.inner.host.borrow()
            && *known == address
        {
            return text.bind(py).clone();
        }
        let text = PyString::new(py, &address.to_string());
        let old = self.inner.host.replace(Some((address, text.clone().unbind())));
        drop(old);
        text
    }

    /// Notes by which alarm the connection's waits are timed.
    pub fn set_alarm(&self, key: usize, alarm: &Alarm) {
        if let Some(entry) = self.inner.entries.borrow_mut().get_mut(key) {
            entry.alarm = Some(alarm.clone());
        }
    }

    /// Forgets by which alarm they are timed: that is another connection's from now on.
    pub fn forget_alarm(&self, key: usize) {
        if let Some(entry) = self.inner.entries.borrow_mut().get_mut(key) {
            entry.alarm = None;
        }
    }

    /// Notes which WebSocket the connection has become.
    pub fn set_websocket(&self, key: usize, websocket: Option<Py<WebSocket>>) {
        let mut entries = self.inner.entries.borrow_mut();
        let old = entries.get_mut(key).and_then(|entry| std::mem::replace(&mut entry.websocket, websocket));
        drop(entries);
        drop(old);
    }

    /// Notes that the connection waits for a head, perhaps since when.
    #[inline]
    pub fn note_waiting(&self, key: usize, since: Option<Instant>, awaited: Awaited) {
        let inner = &*self.inner;
        let mut entries = inner.entries.borrow_mut();
        let last = inner.last_waiting.get();
        let Some(entry) = entries.get_mut(key) else { return };
        entry.awaited = awaited;
        entry.since = entry.since.or(since);
        if entry.is_waiting {
            return;
        }
        entry.is_waiting = true;
        entry.previous = last;
        entry.next = NONE;
        inner.last_waiting.set(key);
        match entries.get_mut(last) {
            Some(entry) => entry.next = key,
            None => inner.first_waiting.set(key),
        }
    }

    /// Notes that a request is in work.
    #[inline]
    pub fn note_serving(&self, key: usize) {
        self.inner.unlink(&mut self.inner.entries.borrow_mut(), key);
    }

    /// Whether the connection is to end, for the sake of a new one.
    pub fn is_evicted(&self, key: usize) -> bool {
        self.inner.entries.borrow().get(key).is_some_and(|entry| entry.is_evicted)
    }

    fn leave(&self, key: usize, serial: u64) {
        let inner = &*self.inner;
        let removed = {
            let mut entries = inner.entries.borrow_mut();
            match entries.get(key) {
                Some(entry) if entry.serial == serial => {
                    inner.unlink(&mut entries, key);
                    entries.remove(key)
                }
                _ => return,
            }
        };
        {
            let mut by_descriptor = inner.by_descriptor.borrow_mut();
            if let Some(place) = usize::try_from(removed.descriptor).ok().and_then(|index| by_descriptor.get_mut(index))
                && *place == key
            {
                *place = NONE;
            }
        }
        if removed.dozing.as_ref().is_some_and(Doze::is_rest) {
            inner.resting.set(inner.resting.get() - 1);
        }
        if removed.is_evicted {
            inner.evicting.set(inner.evicting.get() - 1);
        }
        drop(removed);
        if inner.is_draining.get() || (inner.is_short.get() && inner.has_room()) {
            inner.is_short.set(false);
            self.tell();
        }
    }

    /// Has the server told, in its hub, that there are fewer connections.
    fn tell(&self) {
        // Seats end with the GIL held.
        Python::attach(|py| {
            let callback = self.inner.on_change.borrow().as_ref().map(|callback| callback.clone_ref(py));
            if let (Some(callback), Some(hub)) = (callback, Hub::if_current()) {
                hub.push_call(move |_| {
                    Python::attach(|py| {
                        if let Err(error) = callback.call0(py) {
                            py_hub::handle_error(py, None, error);
                        }
                    });
                });
            }
        });
    }
}

#[pymethods]
impl Service {
    #[new]
    fn new(options: &Bound<'_, PyDict>) -> PyResult<Self> {
        Ok(Self { inner: Gil::new(Inner::new(&Options(options))?) })
    }

    /// enter(descriptor) -> WSGISeat
    ///
    /// Counts a new connection, until the seat goes.
    fn enter(slf: &Bound<'_, Self>, descriptor: RawFd) -> PyResult<Py<Seat>> {
        Py::new(slf.py(), Self::seat(slf, descriptor))
    }

    /// begin_handshake(descriptor)
    ///
    /// Notes that the connection waits for a TLS handshake as others wait for a request's head: it may be closed for the
    /// sake of a new one, and when the server is drained.
    fn begin_handshake(&self, py: Python<'_>, descriptor: RawFd) -> PyResult<()> {
        if let Some(key) = self.find(descriptor) {
            self.note_waiting(key, Some(py_hub::ensure(py)?.clock().now()), Awaited::Owed);
        }
        Ok(())
    }

    /// end_handshake(descriptor) -> bool
    ///
    /// Notes that the handshake has ended. False if the connection was to be closed.
    fn end_handshake(&self, descriptor: RawFd) -> bool {
        let Some(key) = self.find(descriptor) else { return true };
        self.note_serving(key);
        !self.is_evicted(key) && !self.is_draining()
    }

    /// make_room() -> bool
    ///
    /// Whether another connection can be taken. If there are `max_connections` already, the one that waits longest for a
    /// head is closed, if it has waited for a second; if there is none, `on_change` is called when there may be room.
    fn make_room(slf: &Bound<'_, Self>) -> PyResult<bool> {
        Self::find_room(slf)
    }

    /// drain(longest=None)
    ///
    /// Closes idle connections, and those in work after their next answer; WebSockets are told that the server goes away.
    /// Who was never answered, or has begun a head, has *longest* seconds for it, or `first_request_timeout` if that is less.
    #[pyo3(signature = (longest=None))]
    fn drain(slf: &Bound<'_, Self>, longest: Option<f64>) -> PyResult<()> {
        Self::begin_drain(slf, longest.map(py_hub::duration))
    }

    /// reopen()
    ///
    /// Ends the draining: connections are kept again.
    fn reopen(&self) {
        self.inner.is_draining.set(false);
        self.inner.undelayed_listener.set(-1);
    }

    /// others() -> int
    ///
    /// The number of connections but that which the calling greenlet serves.
    fn others(&self, py: Python<'_>) -> usize {
        let running = host::runtime(py).running().address();
        self.inner.entries.borrow().iter().filter(|(_, entry)| entry.greenlet != running).count()
    }

    /// The number of connections.
    fn __len__(&self) -> usize {
        self.inner.entries.borrow().len()
    }

    /// A service without connections is one, too.
    fn __bool__(&self) -> bool {
        true
    }

    /// How many connections doze: they are idle, and no greenlet waits for them.
    #[getter]
    fn dozing(&self) -> usize {
        self.inner.entries.borrow().iter().filter(|(_, entry)| entry.dozing.is_some()).count()
    }

    /// Whether the service is being drained.
    #[getter]
    fn draining(&self) -> bool {
        self.is_draining()
    }

    /// Whether idle connections may do without a greenlet.
    #[getter(may_doze)]
    fn get_may_doze(&self) -> bool {
        self.may_doze()
    }

    #[setter(may_doze)]
    fn set_may_doze(&self, may_doze: bool) {
        self.inner.may_doze.set(may_doze);
    }

    /// What is called when there is room again, and, while draining, for each connection that has ended.
    #[getter]
    fn on_change(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.inner.on_change.borrow().as_ref().map(|callback| callback.clone_ref(py))
    }

    #[setter]
    fn set_on_change(&self, callback: Option<Py<PyAny>>) {
        let former = self.inner.on_change.replace(callback);
        drop(former);
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Some(inner) = self.inner.if_made() else { return Ok(()) };
        if let Ok(callback) = inner.on_change.try_borrow() {
            visit.call(&*callback)?;
        }
        if let Ok(entries) = inner.entries.try_borrow() {
            for (_, entry) in entries.iter() {
                if let Some(doze) = &entry.dozing {
                    doze.what.traverse(&visit)?;
                }
                visit.call(&entry.websocket)?;
            }
        }
        inner.templates.traverse(&visit)?;
        if let Ok(ready) = inner.ready.try_borrow() {
            for what in ready.iter() {
                what.traverse(&visit)?;
            }
        }
        if let Ok(spare) = inner.spare.try_borrow() {
            for handler in spare.iter() {
                visit.call(handler)?;
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        let callback = self.inner.on_change.take();
        drop(callback);
        let ready = self.inner.ready.take();
        drop(ready);
        let spare = self.inner.spare.take();
        drop(spare);
        self.inner.templates.clear();
    }
}
