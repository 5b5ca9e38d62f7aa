//! Writing: parts of memory, files, and the end of it.

use std::io::IoSlice;
use std::os::fd::RawFd;
use std::time::Duration;

use greenrust::hub::Direction;
use pyo3::exceptions::PyTimeoutError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::{Connection, Transport, outcome, with_timeout};
use crate::host;
use crate::hub as py_hub;
use crate::socket::{Deadline, Patience, Socket};
use crate::ssl;

/// What is read at once of bytes that nobody looks at.
const SCRAP_BYTES: usize = 16384;

/// The most that one call has the kernel send of a file, bytes.
const LARGEST_SENT_BYTES: usize = 1 << 20;

/// Such calls in a row after which the other greenlets get a turn.
const SENDS_IN_A_TURN: u32 = 8;

impl Connection {
    /// Sends all parts, in order. Switches while the peer does not take them.
    ///
    /// The parts must stay where they are: Python objects whose buffers are held, or memory of the caller's.
    pub fn send_all(&self, py: Python<'_>, parts: &[&[u8]]) -> PyResult<()> {
        self.send_flagged(py, parts, 0)
    }

    /// Sends all parts, and ends our sending: the last segment says so, in place of one of its own. Switches as `send_all`.
    pub fn send_last(&self, py: Python<'_>, parts: &[&[u8]]) -> PyResult<()> {
        if self.inner.transport.get() != Transport::Descriptor {
            return self.send_all(py, parts);
        }
        // Held back for no longer than until the next call.
        self.send_flagged(py, parts, libc::MSG_MORE)?;
        self.end_sending(py)
    }

    fn end_sending(&self, py: Python<'_>) -> PyResult<()> {
        self.with_socket(py, |socket| {
            // SAFETY: a plain system call; an error does not matter, the connection is about to go.
            unsafe { libc::shutdown(socket.descriptor(), libc::SHUT_WR) };
            Ok(())
        })
    }

    fn send_flagged(&self, py: Python<'_>, parts: &[&[u8]], flags: libc::c_int) -> PyResult<()> {
        if self.inner.transport.get() != Transport::Descriptor {
            let data = match parts {
                [only] => PyBytes::new(py, only),
                _ => PyBytes::new(py, &parts.concat()),
            };
            let socket = self.socket(py)?;
            // TLS has no answer to how much of it went; this is the whole's time-out.
            let patience = self.write_patience();
            let sent = with_timeout(&socket, patience, || socket.call_method1(intern!(py, "sendall"), (data,)));
            match &sent {
                Err(error) if error.is_instance_of::<PyTimeoutError>(py) => self.inner.is_stalled.set(true),
                Err(error) if ssl::is_failure(py, error) => self.inner.has_lost_peer.set(true),
                _ => {}
            }
            return sent.map(|_| ());
        }
        let total: usize = parts.iter().map(|part| part.len()).sum();
        self.with_socket(py, |socket| {
            let mut sent = 0;
            while sent < total {
                let mut deadline = Deadline::with_patience(self.write_patience(), &self.inner.alarm);
                let attempt = |descriptor| send_some(descriptor, parts, sent, flags);
                match socket.run(py, Direction::Write, 0, &mut deadline, attempt) {
                    Ok(count) => sent += count,
                    Err(error) => {
                        if error.is_instance_of::<PyTimeoutError>(py) {
                            self.inner.is_stalled.set(true);
                            forget_unsent(socket.descriptor());
                        }
                        return Err(error);
                    }
                }
            }
            Ok(())
        })
    }

    /// Has the kernel send `count` bytes of a regular file, beginning at `offset`. Returns how many it sent, fewer only at
    /// the file's end; None if the connection, or the file's system, needs another way, and nothing was sent. Switches.
    pub fn send_file(&self, py: Python<'_>, file: RawFd, offset: u64, count: u64) -> PyResult<Option<u64>> {
        if self.inner.transport.get() != Transport::Descriptor {
            return Ok(None);
        }
        let Ok(mut position) = libc::off_t::try_from(offset) else { return Ok(None) };
        let mut sent = 0;
        let mut pieces = 0;
        while sent < count {
            pieces += 1;
            if pieces % SENDS_IN_A_TURN == 0 {
                host::take_turn(py)?;
            }
            let piece = usize::try_from(count - sent).map_or(LARGEST_SENT_BYTES, |left| left.min(LARGEST_SENT_BYTES));
            let outcome = self.with_socket(py, |socket| {
                let mut deadline = Deadline::with_patience(self.write_patience(), &self.inner.alarm);
                let result = socket.run(py, Direction::Write, 0, &mut deadline, |descriptor| {
                    // SAFETY: a system call on two descriptors, and a position that lives on the stack.
                    outcome(unsafe { libc::sendfile(descriptor, file, &raw mut position, piece) })
                });
                if result.as_ref().is_err_and(|error| error.is_instance_of::<PyTimeoutError>(py)) {
                    self.inner.is_stalled.set(true);
                    forget_unsent(socket.descriptor());
                }
                result
            });
            match outcome {
                Ok(0) => break,
                Ok(count) => sent += count as u64,
                Err(error) if sent == 0 && is_unsupported(py, &error) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(sent))
    }

    fn write_patience(&self) -> Patience {
        self.inner.bounds.write_timeout.map_or(Patience::Unlimited, Patience::For)
    }

    /// Whether TLS failed at a write, as it does when the peer is gone.
    pub fn has_lost_peer(&self) -> bool {
        self.inner.has_lost_peer.get()
    }

    /// Whether the peer took nothing for longer than a write may wait.
    pub fn is_stalled(&self) -> bool {
        self.inner.is_stalled.get()
    }

    /// Tells the peer of a TLS connection that nothing follows: else it could not know the end of a response without a
    /// length from an attacker's (RFC 9112 section 9.8). Waits for no answer to that, as a server need not.
    pub fn send_closure_alert(&self, py: Python<'_>) {
        if self.inner.transport.get() != Transport::Methods || self.is_stalled() {
            return;
        }
        let Ok(socket) = self.socket(py) else { return };
        let Ok(Some(tls)) = socket.getattr_opt(intern!(py, "_sslobj")) else { return };
        if !tls.is_none() {
            // It says that it wants to read the answer, or that the connection is gone already.
            let _ = tls.call_method0(intern!(py, "shutdown"));
        }
    }

    /// Ends our sending, and takes what the peer still sends for a while, so that the kernel does not answer it by a
    /// reset which would destroy what we sent (RFC 9112 section 9.6). Switches.
    pub fn linger(&self, py: Python<'_>, most_bytes: usize, longest: Duration) -> PyResult<()> {
        let object = self.socket(py)?;
        let Some(socket) = Socket::from_object(&object).filter(|_| !self.reads_file()) else { return Ok(()) };
        // Over TLS it is not deciphered: nobody is going to look at it.
        self.end_sending(py)?;
        let hub = py_hub::ensure(py)?;
        let end = hub.clock().now().after(longest);
        let mut scrap = vec![0; SCRAP_BYTES];
        let mut taken = 0;
        while taken < most_bytes && hub.clock().now() < end {
            let mut deadline = Deadline::with_patience(Patience::Until(end), &self.inner.alarm);
            let count = socket.run(py, Direction::Read, 0, &mut deadline, |descriptor| {
                // SAFETY: the kernel writes at most as many bytes as the vector has.
                outcome(unsafe { libc::recv(descriptor, scrap.as_mut_ptr().cast(), scrap.len(), 0) })
            })?;
            if count == 0 {
                break;
            }
            taken += count;
        }
        Ok(())
    }
}

/// Whether `sendfile` does not work for a file of this system.
fn is_unsupported(py: Python<'_>, error: &PyErr) -> bool {
    let number = error.value(py).getattr(intern!(py, "errno")).and_then(|number| number.extract::<i32>());
    number.is_ok_and(|number| matches!(number, libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP))
}

/// Has small writes sent at once: a response is written whole, so waiting for more gains nothing. What a listener
/// accepts inherits it (tcp(7)).
pub fn send_without_delay(descriptor: RawFd) {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is an int, whose address and size are given. Unix sockets refuse it, which is fine.
    unsafe {
        libc::setsockopt(
            descriptor,
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            std::ptr::from_ref(&on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}

/// Has the kernel drop what the peer has not taken, when the socket is closed, in place of keeping it and trying on.
fn forget_unsent(descriptor: RawFd) {
    let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the option's value is a `linger`, whose address and size are given. An error leaves it as it is.
    unsafe {
        libc::setsockopt(
            descriptor,
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            std::ptr::from_ref(&at_once).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        );
    }
}

/// Sends once, beginning `sent` bytes into the parts.
fn send_some(descriptor: RawFd, parts: &[&[u8]], sent: usize, flags: libc::c_int) -> Result<usize, i32> {
    let flags = flags | libc::MSG_NOSIGNAL;
    let mut slices = [IoSlice::new(&[]); 4];
    let mut count = 0;
    let mut skip = sent;
    for part in parts {
        if skip >= part.len() {
            skip -= part.len();
            continue;
        }
        slices[count] = IoSlice::new(&part[skip..]);
        count += 1;
        skip = 0;
        if count == slices.len() {
            break;
        }
    }
    let result = if count == 1 {
        // SAFETY: pointer and length are of one slice.
        unsafe { libc::send(descriptor, slices[0].as_ptr().cast(), slices[0].len(), flags) }
    } else {
        // SAFETY: a message of zeros is a message without address and ancillary data.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        // `IoSlice` is guaranteed to have the layout of `iovec`.
        message.msg_iov = slices.as_mut_ptr().cast();
        message.msg_iovlen = count as _;
        // SAFETY: the message points to `count` valid slices.
        unsafe { libc::sendmsg(descriptor, &raw const message, flags) }
    };
    outcome(result)
}
