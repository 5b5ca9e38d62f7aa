//! Room for new connections: who is closed for their sake.

#![forbid(unsafe_code)]

use std::time::Duration;

use greenrust::clock::Instant;
use greenrust::hub::TimerAction;
use pyo3::prelude::*;

use super::Service;
use crate::hub as py_hub;

/// How long a connection has waited for a head before it may be closed for the sake of a new one.
const EVICTABLE_AFTER: Duration = Duration::from_secs(1);

/// After which time a full server looks again whether some connection has waited long enough.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// How many waiting connections are looked at in search of one to close.
const CANDIDATES: usize = 64;

impl Service {
    /// Whether another connection can be taken, after one was closed if need be. If not, `on_change` is called later.
    pub(super) fn find_room(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let py = slf.py();
        let this = slf.get();
        let inner = &*this.inner;
        if inner.has_room() {
            return Ok(true);
        }
        let hub = py_hub::ensure(py)?;
        let now = hub.clock().now();
        while !inner.has_room() {
            let Some(key) = this.candidate(now) else {
                inner.is_short.set(true);
                if !inner.is_retry_pending.replace(true) {
                    let service = slf.clone().unbind();
                    let action = TimerAction::Call(Box::new(move |_| {
                        let service = service.get();
                        service.inner.is_retry_pending.set(false);
                        service.tell();
                    }));
                    hub.add_timer(now.after(RETRY_AFTER), action, false);
                }
                return Ok(false);
            };
            let serial = inner.entries.borrow()[key].serial;
            if this.end_doze(py, key, serial) {
                continue;
            }
            inner.entries.borrow_mut()[key].is_evicted = true;
            inner.evicting.set(inner.evicting.get() + 1);
            Self::hasten(slf, hub, key, serial, now);
        }
        Ok(true)
    }

    /// Finds a connection to close for the sake of a new one.
    fn candidate(&self, now: Instant) -> Option<usize> {
        let entries = self.inner.entries.borrow();
        let mut key = self.inner.first_waiting.get();
        for _ in 0..CANDIDATES {
            let entry = entries.get(key)?;
            let is_old = entry.since.is_some_and(|since| now.since(since) >= EVICTABLE_AFTER);
            let dozes = entry.dozing.as_ref().is_some_and(|doze| !doze.is_rest());
            if !entry.is_evicted && (dozes || is_old) {
                return Some(key);
            }
            key = entry.next;
        }
        None
    }
}
