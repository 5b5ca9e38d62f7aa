//! Reading into the buffer, and from it.

use std::os::fd::RawFd;

use greenrust::hub::Direction;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::{Connection, LARGEST_READ_BYTES, READ_BYTES, READS_IN_A_TURN, Transport, outcome, with_timeout};
use crate::host;
use crate::socket::{Deadline, Patience};

impl Connection {
    /// Reads more into the buffer, about `wanted` bytes. Returns how many came; none at the end of the stream.
    ///
    /// Switches if nothing is there yet, for as long as the patience lasts and the socket's own time-out allows.
    pub fn fill(&self, py: Python<'_>, wanted: usize, patience: Patience) -> PyResult<usize> {
        let inner = &*self.inner;
        if inner.at_end.get() || inner.is_closed.get() {
            return Ok(0);
        }
        let room = wanted.clamp(READ_BYTES, LARGEST_READ_BYTES);
        let count = match inner.transport.get() {
            Transport::Descriptor => self.receive(py, room, patience)?,
            Transport::Methods => {
                let socket = self.socket(py)?;
                let data = with_timeout(&socket, patience, || socket.call_method1(intern!(py, "recv"), (room,)))?;
                self.append(data.cast::<PyBytes>()?.as_bytes())
            }
            Transport::File => {
                let file = inner.file.borrow().as_ref().map(|file| file.bind(py).clone());
                let Some(file) = file else { return Ok(0) };
                // A line or the wanted part of a body: no more, since it can't be given back.
                let data = if wanted == 0 {
                    file.call_method1(intern!(py, "readline"), (LARGEST_READ_BYTES,))?
                } else {
                    file.call_method1(intern!(py, "read"), (wanted,))?
                };
                self.append(data.cast::<PyBytes>()?.as_bytes())
            }
        };
        if count == 0 {
            inner.at_end.set(true);
        }
        Ok(count)
    }

    /// Makes room behind the bytes that are still needed.
    fn make_room(&self, buffer: &mut Vec<u8>, room: usize) {
        let (kept, start) = (self.inner.kept.get(), self.inner.start.get());
        if start == buffer.len() {
            buffer.truncate(kept);
            self.inner.start.set(kept);
        } else if start > kept && buffer.capacity() - buffer.len() < room {
            buffer.drain(kept..start);
            self.inner.start.set(kept);
        }
        buffer.reserve(room);
    }

    fn append(&self, data: &[u8]) -> usize {
        let mut buffer = self.inner.buffer.borrow_mut();
        self.make_room(&mut buffer, data.len());
        buffer.extend_from_slice(data);
        data.len()
    }

    fn receive(&self, py: Python<'_>, room: usize, patience: Patience) -> PyResult<usize> {
        let reads = self.inner.reads.get() + 1;
        self.inner.reads.set(reads);
        if reads > READS_IN_A_TURN {
            self.inner.reads.set(0);
            host::take_turn(py)?;
        }
        let mut deadline = Deadline::with_patience(patience, &self.inner.alarm);
        self.with_socket(py, |socket| {
            let mut offered = 0;
            let count = socket.run(py, Direction::Read, 0, &mut deadline, |descriptor| {
                self.receive_into_buffer(descriptor, room, &mut offered)
            })?;
            if count > 0 && count < offered {
                // Nothing is left: the next read may park without another call.
                socket.note_short(socket.descriptor(), Direction::Read);
            }
            Ok(count)
        })
    }

    /// Receives once, with `room` for that at least; `offered` is the room that there was.
    pub(super) fn receive_into_buffer(
        &self,
        descriptor: RawFd,
        room: usize,
        offered: &mut usize,
    ) -> Result<usize, i32> {
        let mut buffer = self.inner.buffer.borrow_mut();
        self.make_room(&mut buffer, room);
        let spare = buffer.spare_capacity_mut();
        *offered = spare.len();
        // SAFETY: the kernel writes at most as many bytes as the spare room has.
        let count = outcome(unsafe { libc::recv(descriptor, spare.as_mut_ptr().cast(), spare.len(), 0) })?;
        let filled = buffer.len() + count;
        // SAFETY: the kernel has initialized that many bytes behind the old length.
        unsafe { buffer.set_len(filled) };
        Ok(count)
    }

    /// Gives access to what has been received and not been read.
    #[inline]
    pub fn with_unread<R>(&self, function: impl FnOnce(&[u8]) -> R) -> R {
        function(&self.inner.buffer.borrow()[self.inner.start.get()..])
    }

    /// Counts bytes of [`with_unread`](Self::with_unread) as read.
    #[inline]
    pub fn consume(&self, count: usize) {
        self.inner.start.set(self.inner.start.get() + count);
    }

    /// Reads up to and with the next line feed, at most `limit` bytes. Switches.
    pub fn read_line(&self, py: Python<'_>, limit: usize, patience: Patience) -> PyResult<Vec<u8>> {
        let mut line = Vec::new();
        loop {
            let left = limit - line.len();
            let (taken, is_whole) = self.with_unread(|unread| {
                let piece = &unread[..unread.len().min(left)];
                let end = piece.iter().position(|&byte| byte == b'\n').map(|place| place + 1);
                let taken = end.unwrap_or(piece.len());
                line.extend_from_slice(&piece[..taken]);
                (taken, end.is_some() || taken == left)
            });
            self.consume(taken);
            if is_whole || self.fill(py, 0, patience)? == 0 {
                return Ok(line);
            }
        }
    }

    /// How long a read of a body waits.
    pub fn body_patience(&self) -> Patience {
        self.inner.bounds.body_timeout.map_or(Patience::Unlimited, Patience::For)
    }

    /// The largest body that is taken, bytes.
    pub fn most_body_bytes(&self) -> Option<u64> {
        self.inner.bounds.body_bytes
    }

    /// Lets go of the room for the next request; it is made anew when that comes.
    pub fn release_memory(&self) {
        self.forget_head();
        self.inner.buffer.borrow_mut().shrink_to_fit();
        self.inner.parser.borrow_mut().release_memory();
    }

    /// Lets go of a buffer that had to grow.
    pub fn release_large(&self) {
        let mut buffer = self.inner.buffer.borrow_mut();
        if buffer.capacity() > 4 * READ_BYTES {
            *buffer = Vec::with_capacity(READ_BYTES);
        }
    }
}
