//! Waiting for a request's head: for how long, what ends the wait, and what came of it.

#![forbid(unsafe_code)]

use std::time::Duration;

use greenrust::clock::Instant;
use greenrust::http::{ParseStatus, RequestError, RequestHead, RequestParser};
use greenrust::hub::Direction;
use pyo3::exceptions::{PyOSError, PyTimeoutError};
use pyo3::prelude::*;

use super::{Connection, LARGEST_READ_BYTES, READ_BYTES, READS_IN_A_TURN, Transport, closed};
use crate::hub as py_hub;
use crate::pywsgi::service::{Awaited, DOZE_AFTER};
use crate::pywsgi::worker::Worker;
use crate::socket::Patience;

/// The time-out of waits that have none: an alarm can end only what has a deadline.
const ENDLESS: Duration = Duration::from_secs(1 << 30);

/// What came of looking for a request's head.
pub enum Arrival {
    /// A head is there.
    Head,
    /// The connection ended.
    End,
    /// What is there is no acceptable head.
    Refused(RequestError),
    /// A head has begun, and its rest did not come in time.
    Late,
    /// The connection is idle.
    Idle(Idle),
}

/// How a connection is idle.
#[derive(Clone, Copy)]
pub enum Idle {
    /// From now on, and it may be so for this long.
    Now(Option<Duration>),
    /// Since [`DOZE_AFTER`], and it may be so for this much longer.
    Longer(Option<Duration>),
}

impl Idle {
    /// Whether it is idle from now on, which a connection is only if its worker is untouched.
    pub fn is_rest(self) -> bool {
        matches!(self, Self::Now(_))
    }
}

impl Connection {
    /// Looks for the next request's head, reading as long as it is not whole. Switches.
    ///
    /// A connection `is_new` before its first request; one that `may_doze` is given back as idle after a while, or at once
    /// if it is a worker that looks, which can serve another one meanwhile.
    ///
    /// # Errors
    ///
    /// What reading raises.
    pub fn read_head(
        &self,
        py: Python<'_>,
        is_new: bool,
        may_doze: bool,
        worker: Option<&Worker<'_>>,
    ) -> PyResult<Arrival> {
        let inner = &*self.inner;
        self.forget_head();
        let mut head_deadline = None;
        let mut is_waiting = false;
        loop {
            let status = inner.parser.borrow_mut().parse(&inner.buffer.borrow());
            match status {
                Ok(ParseStatus::Complete { consumed }) => {
                    inner.kept.set(consumed);
                    inner.start.set(consumed);
                    inner.has_head.set(true);
                    self.end_waiting(is_waiting);
                    return Ok(Arrival::Head);
                }
                Ok(ParseStatus::Incomplete) => {}
                Err(error) => {
                    self.end_waiting(is_waiting);
                    return Ok(Arrival::Refused(error));
                }
            }
            let has_begun = inner.parser.borrow().has_partial_head();
            let limit = if is_new { inner.bounds.header_timeout } else { inner.bounds.keep_alive_timeout };
            let may_doze = may_doze && inner.transport.get() == Transport::Descriptor;
            if let Some(worker) = worker
                && may_doze
                && !has_begun
                && self.may_rest(limit)
            {
                match self.receive_if_there(py) {
                    Ok(Some(0)) => {
                        self.end_waiting(is_waiting);
                        return Ok(Arrival::End);
                    }
                    Ok(Some(_)) => continue,
                    Ok(None) if worker.is_untouched() => return Ok(Arrival::Idle(Idle::Now(limit))),
                    Ok(None) => {}
                    Err(error) => {
                        self.end_waiting(is_waiting);
                        return Err(error);
                    }
                }
            }
            is_waiting = true;
            let patience = if has_begun {
                self.head_patience(py, &mut head_deadline)?
            } else {
                self.idle_patience(py, limit, may_doze, Awaited::between_heads(!is_new))?
            };
            let error = match self.fill(py, 0, patience) {
                Ok(0) => {
                    self.end_waiting(true);
                    return Ok(Arrival::End);
                }
                Ok(_) => continue,
                Err(error) => error,
            };
            if !error.is_instance_of::<PyTimeoutError>(py) {
                self.end_waiting(true);
                return Err(error);
            }
            let must_end = match &inner.place {
                Some((service, key)) => service.get().is_draining() || service.get().is_evicted(key.get()),
                None => false,
            };
            let arrival = match () {
                () if has_begun => Arrival::Late,
                () if is_new && self.is_still_owed(py)? => continue,
                // What came in the last moment is answered, with `Connection: close`.
                () if must_end && self.receive_at_once(py)? > 0 => continue,
                () if must_end => Arrival::End,
                () if may_doze && limit.is_none_or(|limit| limit > DOZE_AFTER) => {
                    Arrival::Idle(Idle::Longer(limit.map(|limit| limit - DOZE_AFTER)))
                }
                () => Arrival::End,
            };
            self.end_waiting(true);
            return Ok(arrival);
        }
    }

    /// Whether the connection may do without a greenlet from now on.
    fn may_rest(&self, limit: Option<Duration>) -> bool {
        let inner = &*self.inner;
        limit.is_none_or(|limit| limit > DOZE_AFTER)
            && !inner.at_end.get()
            && inner.reads.get() < READS_IN_A_TURN
            && inner.place.is_some()
            && !self.is_draining()
    }

    /// Reads what is there into the buffer, without waiting. Returns how many bytes came; None if there are none yet.
    fn receive_if_there(&self, py: Python<'_>) -> PyResult<Option<usize>> {
        let hub = py_hub::ensure(py)?;
        self.with_socket(py, |socket| {
            let descriptor = socket.descriptor();
            if descriptor < 0 {
                return Err(closed());
            }
            if socket.is_exhausted(descriptor, Direction::Read) {
                self.inner.reads.set(0);
                return Ok(None);
            }
            let mut offered = 0;
            loop {
                match self.receive_into_buffer(descriptor, READ_BYTES, &mut offered) {
                    Ok(count) => {
                        self.inner.reads.set(self.inner.reads.get() + 1);
                        if count > 0 && count < offered {
                            socket.note_short(descriptor, Direction::Read);
                        }
                        return Ok(Some(count));
                    }
                    Err(libc::EINTR) => {}
                    Err(libc::EAGAIN) => {
                        socket.register(py, hub, descriptor)?;
                        hub.mark_blocked(descriptor, Direction::Read);
                        self.inner.reads.set(0);
                        return Ok(None);
                    }
                    Err(number) => return Err(PyOSError::new_err((number, "the connection failed"))),
                }
            }
        })
    }

    fn end_waiting(&self, is_waiting: bool) {
        if let Some((service, key)) = self.inner.place.as_ref().filter(|_| is_waiting) {
            service.get().note_serving(key.get());
        }
    }

    /// How long to wait for the rest of a head; its deadline is set when it begins.
    fn head_patience(&self, py: Python<'_>, deadline: &mut Option<Instant>) -> PyResult<Patience> {
        if let Some(deadline) = *deadline {
            return Ok(Patience::Until(deadline));
        }
        let now = py_hub::ensure(py)?.clock().now();
        let limit = match &self.inner.place {
            None => self.inner.bounds.header_timeout,
            Some((service, key)) => {
                service.get().note_waiting(key.get(), Some(now), Awaited::Owed);
                Some(self.inner.bounds.header_timeout.unwrap_or(ENDLESS))
            }
        };
        let Some(limit) = limit else { return Ok(Patience::Unlimited) };
        let end = now.after(limit);
        let last = self.last_wait(now, Awaited::Owed);
        Ok(Patience::Until(*deadline.insert(last.map_or(end, |last| last.min(end)))))
    }

    /// How long to wait for the first byte of a head.
    fn idle_patience(
        &self,
        py: Python<'_>,
        limit: Option<Duration>,
        may_doze: bool,
        awaited: Awaited,
    ) -> PyResult<Patience> {
        let Some((service, key)) = &self.inner.place else {
            return Ok(limit.map_or(Patience::Unlimited, Patience::For));
        };
        let service = service.get();
        let is_draining = service.is_draining();
        let now = if may_doze && !is_draining { None } else { Some(py_hub::ensure(py)?.clock().now()) };
        service.note_waiting(key.get(), now, awaited);
        let most = match now {
            None => Some(DOZE_AFTER),
            Some(now) if is_draining => service.last_wait(now, awaited).map(|last| last.since(now)),
            Some(_) => None,
        };
        Ok(match (limit, most) {
            (None, None) => Patience::For(ENDLESS),
            (Some(limit), Some(most)) => Patience::For(limit.min(most)),
            (Some(limit), None) | (None, Some(limit)) => Patience::For(limit),
        })
    }

    /// Whether a drain waits on for a connection that was never answered.
    fn is_still_owed(&self, py: Python<'_>) -> PyResult<bool> {
        let Some((service, key)) = &self.inner.place else { return Ok(false) };
        let service = service.get();
        Ok(service.is_draining()
            && !service.is_evicted(key.get())
            && service.waits_for_owed(py_hub::ensure(py)?.clock().now()))
    }

    /// When a wait that begins now has to end because the server is being drained, if it is.
    fn last_wait(&self, now: Instant, awaited: Awaited) -> Option<Instant> {
        let service = self.inner.place.as_ref().map(|(service, _)| service.get())?;
        if service.is_draining() { service.last_wait(now, awaited) } else { None }
    }

    /// Reads what came since the hub looked last. Returns how many bytes, 0 also where it can't be read.
    fn receive_at_once(&self, py: Python<'_>) -> PyResult<usize> {
        if self.inner.transport.get() != Transport::Descriptor {
            return Ok(0);
        }
        let descriptor = self.with_socket(py, |socket| Ok(socket.descriptor()))?;
        Ok(self.receive_into_buffer(descriptor, READ_BYTES, &mut 0).unwrap_or(0))
    }

    /// Lets go of the head; what is not read yet moves to the buffer's begin.
    pub fn forget_head(&self) {
        let inner = &*self.inner;
        inner.has_head.set(false);
        inner.kept.set(0);
        let mut buffer = inner.buffer.borrow_mut();
        buffer.drain(..inner.start.replace(0));
        if buffer.is_empty() && buffer.capacity() > LARGEST_READ_BYTES {
            *buffer = Vec::with_capacity(READ_BYTES);
        }
    }

    /// Puts bytes back in front of what is not read yet.
    pub fn unread(&self, bytes: &[u8]) {
        self.forget_head();
        self.inner.buffer.borrow_mut().splice(0..0, bytes.iter().copied());
        // The search for a head's end begins anew.
        let mut parser = self.inner.parser.borrow_mut();
        *parser = RequestParser::new(self.inner.bounds.head);
    }

    /// Reads a request line for a handler that looks at it itself. The connection `is_new` before its first request.
    /// Switches.
    pub fn read_request_line(&self, py: Python<'_>, limit: usize, is_new: bool) -> PyResult<Vec<u8>> {
        let bounds = &self.inner.bounds;
        let patience = match (bounds.header_timeout, bounds.keep_alive_timeout) {
            (Some(head), Some(idle)) => Some(head.max(idle)),
            (head, idle) => head.or(idle),
        };
        let is_waiting = self.with_unread(<[u8]>::is_empty);
        let line = if is_waiting {
            self.idle_patience(py, None, false, Awaited::between_heads(!is_new))?;
            self.fill(py, 0, patience.map_or(Patience::Unlimited, Patience::For))
        } else {
            Ok(0)
        };
        // Once it has begun, each byte that comes does not prolong it.
        let line = line.and_then(|_| self.read_line(py, limit, self.line_patience(py)?));
        self.end_waiting(is_waiting);
        line
    }

    fn line_patience(&self, py: Python<'_>) -> PyResult<Patience> {
        let Some(limit) = self.inner.bounds.header_timeout else { return Ok(Patience::Unlimited) };
        Ok(Patience::Until(py_hub::ensure(py)?.clock().now().after(limit)))
    }

    /// Whether a request's head is in the buffer.
    #[inline]
    pub fn has_head(&self) -> bool {
        self.inner.has_head.get()
    }

    /// Gives access to the head of the request in work, and to its bytes behind the target. Must not switch, nor run
    /// Python code that may read from this connection.
    pub fn with_head<R>(&self, function: impl FnOnce(RequestHead<'_>, &[u8]) -> R) -> Option<R> {
        if !self.has_head() {
            return None;
        }
        let parser = self.inner.parser.borrow();
        let buffer = self.inner.buffer.borrow();
        let head = parser.head(&buffer);
        let target = head.target();
        let after = target.as_ptr().addr() - buffer.as_ptr().addr() + target.len() + 1;
        Some(function(head, &buffer[after..self.inner.kept.get()]))
    }
}
