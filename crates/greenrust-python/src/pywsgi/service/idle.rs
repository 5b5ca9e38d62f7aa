//! Connections without a greenlet: those that are idle, and those that are ready and wait for a [worker](worker).

#![forbid(unsafe_code)]

use std::os::fd::RawFd;
use std::time::Duration;

use greenrust::clock::Instant;
use greenrust::hub::{Direction, Hub, TimerAction};
use greenrust::timers::TimerKey;
use pyo3::prelude::*;

use super::{DOZE_AFTER, Service};
use crate::hub as py_hub;
use crate::pywsgi::connection::Idle;
use crate::pywsgi::handler::Dozing;
use crate::pywsgi::worker;

/// The least time between two looks at who has rested for so long.
const SWEEP_PAUSE: Duration = Duration::from_millis(100);

/// After which time another worker is tried when one could not begin.
const RETRY_AFTER: Duration = Duration::from_millis(100);

pub(super) struct Doze {
    pub what: Dozing,
    timer: Option<TimerKey>,
    /// Whether it only rests, and for how long it may be idle from the begin of that.
    rests: Option<Option<Duration>>,
}

impl Doze {
    /// Whether it only rests: nothing of its memory is given back yet.
    pub fn is_rest(&self) -> bool {
        self.rests.is_some()
    }
}

impl Service {
    /// Lets the connection with the place `(key, serial)` be idle, without a greenlet. `what` holds its seat.
    pub fn lay_down(slf: &Bound<'_, Self>, (key, serial): (usize, u64), what: Dozing, idle: Idle) -> PyResult<()> {
        let py = slf.py();
        let hub = py_hub::ensure(py)?;
        let inner = &*slf.get().inner;
        let awaited = what.awaited(py);
        let (since, doze) = match idle {
            Idle::Now(limit) => (Some(hub.clock().now()), Doze { what, timer: None, rests: Some(limit) }),
            Idle::Longer(longest) => {
                if let Some(handler) = what.handler(py) {
                    handler.get().release_memory(py);
                }
                let timer = longest.map(|longest| Self::time_doze(slf, hub, key, serial, longest));
                (None, Doze { what, timer, rests: None })
            }
        };
        let descriptor = {
            let mut entries = inner.entries.borrow_mut();
            let Some(entry) = entries.get_mut(key).filter(|entry| entry.serial == serial) else { return Ok(()) };
            entry.greenlet = 0;
            entry.dozing = Some(doze);
            entry.descriptor
        };
        slf.get().note_waiting(key, since, awaited);
        if let Some(since) = since {
            inner.resting.set(inner.resting.get() + 1);
            if !inner.is_sweep_pending.get() {
                Self::sweep_at(slf, hub, since.after(DOZE_AFTER));
            }
        }
        let service = slf.clone().unbind();
        hub.call_when_ready(descriptor, Direction::Read, move |_| {
            Python::attach(|py| Self::rouse(service.bind(py), key, serial));
        });
        Ok(())
    }

    fn time_doze(slf: &Bound<'_, Self>, hub: &Hub, key: usize, serial: u64, longest: Duration) -> TimerKey {
        let service = slf.clone().unbind();
        let action = TimerAction::Call(Box::new(move |_| {
            Python::attach(|py| {
                service.bind(py).get().end_doze(py, key, serial);
            });
        }));
        hub.add_timer(hub.clock().now().after(longest), action, false)
    }

    fn sweep_at(slf: &Bound<'_, Self>, hub: &Hub, instant: Instant) {
        slf.get().inner.is_sweep_pending.set(true);
        let service = slf.clone().unbind();
        let action = TimerAction::Call(Box::new(move |hub| {
            Python::attach(|py| Self::sweep(service.bind(py), hub));
        }));
        hub.add_timer(instant, action, false);
    }

    /// Has the connections doze that have rested for long enough: one timer for all of them.
    fn sweep(slf: &Bound<'_, Self>, hub: &Hub) {
        let py = slf.py();
        let inner = &*slf.get().inner;
        inner.is_sweep_pending.set(false);
        let now = hub.clock().now();
        let mut due = Vec::new();
        let mut oldest = None;
        {
            let entries = inner.entries.borrow();
            let mut missing = inner.resting.get();
            let mut key = inner.last_waiting.get();
            while missing > 0 {
                let Some(entry) = entries.get(key) else { break };
                if let Some(Doze { what, rests: Some(limit), .. }) = &entry.dozing {
                    missing -= 1;
                    let rested = now.since(entry.since.unwrap_or(now));
                    if rested >= DOZE_AFTER {
                        due.push((
                            key,
                            entry.serial,
                            what.handler(py),
                            limit.map(|limit| limit.saturating_sub(rested)),
                        ));
                    } else {
                        oldest = entry.since;
                    }
                }
                key = entry.previous;
            }
        }
        for (key, serial, handler, longest) in due {
            if let Some(handler) = handler {
                handler.get().release_memory(py);
            }
            let mut entries = inner.entries.borrow_mut();
            // It may have been roused, or have ended, while its memory was given back.
            let entry = entries.get_mut(key).filter(|entry| entry.serial == serial);
            if let Some(doze) = entry.and_then(|entry| entry.dozing.as_mut()).filter(|doze| doze.is_rest()) {
                doze.rests = None;
                doze.timer = longest.map(|longest| Self::time_doze(slf, hub, key, serial, longest));
                inner.resting.set(inner.resting.get() - 1);
            }
        }
        if let Some(oldest) = oldest {
            Self::sweep_at(slf, hub, oldest.after(DOZE_AFTER).max(now.after(SWEEP_PAUSE)));
        }
    }

    /// Whether the connection rests.
    pub(super) fn rests(&self, key: usize) -> bool {
        let entries = self.inner.entries.borrow();
        let doze = entries.get(key).and_then(|entry| entry.dozing.as_ref());
        doze.is_some_and(Doze::is_rest)
    }

    /// Whether the connection is idle without a greenlet.
    pub(super) fn dozes(&self, key: usize) -> bool {
        self.inner.entries.borrow().get(key).is_some_and(|entry| entry.dozing.is_some())
    }

    /// Ends a doze and returns what was kept for its end.
    fn take_doze(&self, key: usize, serial: u64) -> Option<(Dozing, RawFd)> {
        let inner = &*self.inner;
        let mut entries = inner.entries.borrow_mut();
        let entry = entries.get_mut(key).filter(|entry| entry.serial == serial)?;
        let Doze { what, timer, rests } = entry.dozing.take()?;
        let descriptor = entry.descriptor;
        inner.unlink(&mut entries, key);
        drop(entries);
        if rests.is_some() {
            inner.resting.set(inner.resting.get() - 1);
        }
        if let Some(timer) = timer {
            Hub::if_current()?.remove_timer(timer);
        }
        Some((what, descriptor))
    }

    /// Has a connection that does without a greenlet served on.
    pub(super) fn rouse(slf: &Bound<'_, Self>, key: usize, serial: u64) {
        if let Some((what, _)) = slf.get().take_doze(key, serial) {
            Self::push_ready(slf, what);
        }
    }

    /// Has a worker serve the connection, after those that came before.
    pub fn push_ready(slf: &Bound<'_, Self>, what: Dozing) {
        slf.get().inner.ready.borrow_mut().push_back(what);
        Self::call_worker(slf);
    }

    /// Returns the connection that is served next. If there are others, another worker begins with them as soon as the
    /// running one waits for anything.
    pub fn next_ready(slf: &Bound<'_, Self>) -> Option<Dozing> {
        let inner = &*slf.get().inner;
        let (next, has_more) = {
            let mut ready = inner.ready.borrow_mut();
            (ready.pop_front()?, !ready.is_empty())
        };
        if has_more && !inner.is_worker_due.replace(true) {
            let service = slf.clone().unbind();
            Hub::current().push_call(move |_| {
                Python::attach(|py| {
                    let service = service.bind(py);
                    let inner = &*service.get().inner;
                    inner.is_worker_due.set(false);
                    if !inner.ready.borrow().is_empty() {
                        Self::call_worker(service);
                    }
                });
            });
        }
        Some(next)
    }

    fn call_worker(slf: &Bound<'_, Self>) {
        if slf.get().inner.is_worker_due.replace(true) {
            return;
        }
        if let Err(error) = worker::spawn(slf) {
            py_hub::handle_error(slf.py(), None, error);
            Self::put_off_worker(slf);
        }
    }

    /// Notes that a worker begins.
    pub fn begin_work(&self) {
        self.inner.is_worker_due.set(false);
    }

    /// Notes that a worker could not begin, for want of memory for instance: those who wait for it are left to the workers
    /// that run, and to another one after a pause.
    pub fn put_off_worker(slf: &Bound<'_, Self>) {
        let inner = &*slf.get().inner;
        let Some(hub) = Hub::if_current() else { return };
        // One is due until then: nobody else tries.
        inner.is_worker_due.set(true);
        if inner.is_worker_put_off.replace(true) {
            return;
        }
        let service = slf.clone().unbind();
        let action = TimerAction::Call(Box::new(move |_| {
            Python::attach(|py| {
                let service = service.bind(py);
                let inner = &*service.get().inner;
                inner.is_worker_put_off.set(false);
                inner.is_worker_due.set(false);
                if !inner.ready.borrow().is_empty() {
                    Self::call_worker(service);
                }
            });
        }));
        hub.add_timer(hub.clock().now().after(RETRY_AFTER), action, false);
    }

    /// Closes a dozing connection.
    pub(super) fn end_doze(&self, py: Python<'_>, key: usize, serial: u64) -> bool {
        let Some((what, descriptor)) = self.take_doze(key, serial) else { return false };
        if let Some(hub) = Hub::if_current() {
            hub.cancel_call(descriptor, Direction::Read);
        }
        what.close(py);
        // The seat may live on for a while, in a greenlet that has ended.
        self.leave(key, serial);
        true
    }
}
