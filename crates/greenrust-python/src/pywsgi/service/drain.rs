//! The end: who may still bring a request, until when, and how waits are ended.

#![forbid(unsafe_code)]

use std::time::Duration;

use greenrust::clock::Instant;
use greenrust::hub::{Direction, Hub, TimerAction};
use pyo3::prelude::*;

use super::Service;
use crate::hub as py_hub;
use crate::websocket::WebSocket;

/// How long an idle connection of a server that is being drained may still bring the request that is on its way.
const LAST_REQUEST_PATIENCE: Duration = Duration::from_millis(100);

/// What a connection waits for.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Awaited {
    /// Another request: the client has had an answer to each that it sent.
    #[default]
    Another,
    /// What it is owed an answer to: its first request, or the rest of a head.
    Owed,
}

impl Awaited {
    /// What a connection without a begun head waits for.
    pub fn between_heads(has_served: bool) -> Self {
        if has_served { Self::Another } else { Self::Owed }
    }
}

impl Service {
    /// Ends idle connections, and has those in work end after their next answer; what is owed an answer has `longest`.
    pub(super) fn begin_drain(slf: &Bound<'_, Self>, longest: Option<Duration>) -> PyResult<()> {
        let py = slf.py();
        let this = slf.get();
        let inner = &*this.inner;
        inner.is_draining.set(true);
        let spare = inner.spare.take();
        drop(spare);
        inner.templates.clear();
        let hub = py_hub::ensure(py)?;
        let now = hub.clock().now();
        let bounds = &inner.bounds;
        let longest = [longest, bounds.first_request_timeout, bounds.header_timeout].into_iter().flatten().min();
        inner.drain_deadline.set(longest.map(|longest| now.after(longest)));
        let (waiting, websockets): (Vec<_>, Vec<_>) = {
            let entries = inner.entries.borrow();
            let waiting = entries.iter().filter(|(_, entry)| entry.is_waiting);
            let websockets = entries.iter().filter_map(|(_, entry)| entry.websocket.as_ref());
            (
                waiting.map(|(key, entry)| (key, entry.serial, entry.awaited)).collect(),
                websockets.map(|websocket| websocket.bind(py).clone()).collect(),
            )
        };
        for websocket in websockets {
            WebSocket::spawn_going_away(&websocket)?;
        }
        for (key, serial, awaited) in waiting {
            if this.rests(key) || (awaited == Awaited::Owed && this.dozes(key)) {
                // The request that is on its way has yet to come.
                let descriptor = inner.entries.borrow().get(key).map_or(-1, |entry| entry.descriptor);
                hub.cancel_call(descriptor, Direction::Read);
                Self::rouse(slf, key, serial);
            } else if !this.end_doze(py, key, serial)
                && let Some(deadline) = this.last_wait(now, awaited)
            {
                Self::hasten(slf, hub, key, serial, deadline);
            }
        }
        Ok(())
    }

    /// Until when a connection may wait on while the server is being drained; None for ever.
    pub fn last_wait(&self, now: Instant, awaited: Awaited) -> Option<Instant> {
        let soon = now.after(LAST_REQUEST_PATIENCE);
        match awaited {
            Awaited::Another => Some(soon),
            Awaited::Owed => self.inner.drain_deadline.get().map(|deadline| deadline.max(soon)),
        }
    }

    /// Whether a drain still waits for what is owed an answer.
    pub fn waits_for_owed(&self, now: Instant) -> bool {
        self.inner.drain_deadline.get().is_none_or(|deadline| now < deadline)
    }

    /// Has a waiting connection's greenlet look up, at `deadline` at the latest.
    pub(super) fn hasten(slf: &Bound<'_, Self>, hub: &Hub, key: usize, serial: u64, deadline: Instant) {
        let alarm = match slf.get().inner.entries.borrow().get(key) {
            Some(entry) if entry.serial == serial => entry.alarm.clone(),
            _ => return,
        };
        if let Some(alarm) = alarm {
            alarm.hasten(hub, deadline);
            return;
        }
        // It waits in a method of its socket, a TLS socket's for instance.
        if deadline <= hub.clock().now() {
            slf.get().interrupt(hub, key, serial);
            return;
        }
        let service = slf.clone().unbind();
        let action = TimerAction::Call(Box::new(move |hub| service.get().interrupt(hub, key, serial)));
        hub.add_timer(deadline, action, false);
    }

    /// Ends the wait of a connection that waits in a method of its socket.
    fn interrupt(&self, hub: &Hub, key: usize, serial: u64) {
        let descriptor = match self.inner.entries.borrow().get(key) {
            Some(entry) if entry.serial == serial && entry.is_waiting => entry.descriptor,
            _ => return,
        };
        hub.cancel_waiters(descriptor, Direction::Read);
    }
}
