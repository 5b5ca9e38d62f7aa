//! TCP and Unix stream sockets whose blocking calls suspend the greenlet.
//!
//! The descriptor is non-blocking in the kernel. A call tries the system call first; if that would block, the socket is
//! registered with the hub (once, edge-triggered, for its whole life) and the greenlet parks. A read that moved less than
//! it could have shows that the socket is drained, so the next one parks without asking the kernel.
//!
//! Several greenlets may use one socket, by reference; one may read while another writes.
//!
//! Kills and timeouts leave a socket usable. Bytes that a call had moved before are reported by nobody: `write_all` that
//! is stopped may have written a part.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::marker::PhantomData;
use std::net::{self, Shutdown, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net as unix;
use std::rc::Rc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::clock::Instant;
use crate::greenlet::{after, blocking};
use crate::hub::{Direction, Hub};
use crate::wait_queue::{TimedOut, WaitError};

/// A non-blocking socket of this thread's hub.
#[derive(Debug)]
struct Nonblocking<S: AsRawFd> {
    socket: S,
    is_registered: Cell<bool>,
    /// A system call has shown that nothing more can be moved until the hub says otherwise.
    is_exhausted: [Cell<bool>; 2],
    timeouts: [Cell<Option<Duration>>; 2],
    /// A registration belongs to the hub of one thread.
    not_send: PhantomData<Rc<()>>,
}

impl<S: AsRawFd> Nonblocking<S> {
    fn new(socket: S) -> Self {
        Self {
            socket,
            is_registered: Cell::new(false),
            is_exhausted: Default::default(),
            timeouts: Default::default(),
            not_send: PhantomData,
        }
    }

    fn deadline(&self, direction: Direction) -> Option<Instant> {
        self.timeouts[direction as usize].get().map(after)
    }

    /// Notes that the direction is exhausted until the kernel reports a change.
    #[inline]
    fn exhaust(&self, direction: Direction) {
        self.is_exhausted[direction as usize].set(true);
        if self.is_registered.get() {
            Hub::current().clear_ready(self.socket.as_raw_fd(), direction);
        }
    }

    /// Parks until the direction is not exhausted any more.
    fn wait(&self, direction: Direction, deadline: Option<Instant>) -> io::Result<()> {
        let hub = Hub::current();
        let descriptor = self.socket.as_raw_fd();
        if !self.is_registered.get() {
            // The kernel reports what is ready already as the first change.
            hub.register(descriptor)?;
            self.is_registered.set(true);
        }
        let outcome = blocking(|| WaitError::check(hub.wait_ready(descriptor, direction, deadline, None)?));
        outcome.map_err(|error| match error {
            WaitError::TimedOut => io::Error::from(TimedOut),
            _ => io::Error::from(Errno::BADF),
        })?;
        self.is_exhausted[direction as usize].set(false);
        Ok(())
    }

    /// Makes a system call until it does not block.
    #[inline]
    fn attempt<T>(
        &self,
        direction: Direction,
        deadline: impl FnOnce() -> Option<Instant>,
        mut call: impl FnMut(&S) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut deadline = Some(deadline);
        let mut until = None;
        loop {
            let is_hopeless = self.is_exhausted[direction as usize].get()
                && self.is_registered.get()
                && !Hub::current().is_ready(self.socket.as_raw_fd(), direction);
            if !is_hopeless {
                match call(&self.socket) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.exhaust(direction),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    other => return other,
                }
            }
            if let Some(deadline) = deadline.take() {
                until = deadline();
            }
            self.wait(direction, until)?;
        }
    }

    fn read(
        &self,
        room: usize,
        deadline: impl FnOnce() -> Option<Instant>,
        call: impl FnMut(&S) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let count = self.attempt(Direction::Read, deadline, call)?;
        if count > 0 && count < room {
            self.exhaust(Direction::Read);
        }
        Ok(count)
    }

    fn write(&self, size: usize, call: impl FnMut(&S) -> io::Result<usize>) -> io::Result<usize> {
        let count = self.attempt(Direction::Write, || self.deadline(Direction::Write), call)?;
        if count < size {
            self.exhaust(Direction::Write);
        }
        Ok(count)
    }
}

impl<S: AsRawFd> Drop for Nonblocking<S> {
    fn drop(&mut self) {
        if self.is_registered.get()
            && let Some(hub) = Hub::if_current()
        {
            hub.deregister(self.socket.as_raw_fd());
        }
    }
}

fn room(buffers: &[IoSliceMut<'_>]) -> usize {
    buffers.iter().map(|buffer| buffer.len()).sum()
}

fn size(buffers: &[IoSlice<'_>]) -> usize {
    buffers.iter().map(|buffer| buffer.len()).sum()
}

/// Writes all bytes of both parts, in as few system calls as the kernel allows.
///
/// # Errors
///
/// Those of writing; [`io::ErrorKind::WriteZero`] if the stream takes nothing more.
pub fn write_all_vectored(stream: &mut impl Write, first: &[u8], second: &[u8]) -> io::Result<()> {
    let mut parts = [IoSlice::new(first), IoSlice::new(second)];
    let mut rest = &mut parts[..];
    // Empty parts at the begin are no bytes to write.
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match stream.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => IoSlice::advance_slices(&mut rest, count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

macro_rules! stream {
    ($name:ident, $inner:ty) => {
        impl $name {
            /// Takes over a socket of the standard library.
            ///
            /// # Errors
            ///
            /// The kernel's, when the socket can't be made non-blocking.
            pub fn from_std(socket: $inner) -> io::Result<Self> {
                socket.set_nonblocking(true)?;
                Ok(Self(Nonblocking::new(socket)))
            }

            /// Limits the time that one read waits for bytes; `None` for no limit.
            pub fn set_read_timeout(&self, timeout: Option<Duration>) {
                self.0.timeouts[Direction::Read as usize].set(timeout);
            }

            /// Limits the time that one write waits for room; `None` for no limit.
            pub fn set_write_timeout(&self, timeout: Option<Duration>) {
                self.0.timeouts[Direction::Write as usize].set(timeout);
            }

            /// Reads what is there, at least a byte; waits for it until `deadline`. Returns 0 at the end of the stream.
            ///
            /// # Errors
            ///
            /// The kernel's; [`io::ErrorKind::TimedOut`].
            ///
            /// # Switches
            ///
            /// Only if nothing is there.
            pub fn read_until(&self, buffer: &mut [u8], deadline: Option<Instant>) -> io::Result<usize> {
                self.0.read(buffer.len(), || deadline, |mut socket| socket.read(buffer))
            }

            /// Ends one direction of the stream, or both; who waits in it goes on.
            ///
            /// # Errors
            ///
            /// The kernel's.
            pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
                self.0.socket.shutdown(how)
            }
        }

        impl Read for &$name {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let deadline = || self.0.deadline(Direction::Read);
                self.0.read(buffer.len(), deadline, |mut socket| socket.read(buffer))
            }

            fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
                let deadline = || self.0.deadline(Direction::Read);
                self.0.read(room(buffers), deadline, |mut socket| socket.read_vectored(buffers))
            }
        }

        impl Write for &$name {
            fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
                self.0.write(buffer.len(), |mut socket| socket.write(buffer))
            }

            fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
                self.0.write(size(buffers), |mut socket| socket.write_vectored(buffers))
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        impl Read for $name {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                (&*self).read(buffer)
            }

            fn read_vectored(&mut self, buffers: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
                (&*self).read_vectored(buffers)
            }
        }

        impl Write for $name {
            fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
                (&*self).write(buffer)
            }

            fn write_vectored(&mut self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
                (&*self).write_vectored(buffers)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }

        impl AsFd for $name {
            fn as_fd(&self) -> BorrowedFd<'_> {
                self.0.socket.as_fd()
            }
        }

        impl AsRawFd for $name {
            fn as_raw_fd(&self) -> RawFd {
                self.0.socket.as_raw_fd()
            }
        }
    };
}

/// A TCP connection. Reading and writing, by the traits of [`std::io`], suspend the greenlet where a blocking socket would
/// block the thread.
#[derive(Debug)]
pub struct TcpStream(Nonblocking<net::TcpStream>);

stream!(TcpStream, net::TcpStream);

impl TcpStream {
    /// Connects to the first of the addresses that accepts.
    ///
    /// A *name* is resolved by the system, which blocks the whole thread meanwhile.
    ///
    /// # Errors
    ///
    /// The last address's error; [`io::ErrorKind::InvalidInput`] if there is no address.
    ///
    /// # Switches
    ///
    /// While the kernel connects.
    ///
    /// # Cancellation
    ///
    /// A kill or a timeout closes the socket.
    pub fn connect(addresses: impl ToSocketAddrs) -> io::Result<Self> {
        let mut last = None;
        for address in addresses.to_socket_addrs()? {
            match Self::connect_to(address) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no address to connect to")))
    }

    fn connect_to(address: SocketAddr) -> io::Result<Self> {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        let outcome = rustix::net::connect(&socket, &address);
        let stream = Self(Nonblocking::new(net::TcpStream::from(socket)));
        match outcome {
            Ok(()) => {}
            Err(Errno::INPROGRESS | Errno::INTR) => {
                stream.0.wait(Direction::Write, None)?;
                sockopt::socket_error(&stream)??;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(stream)
    }

    /// Returns the address of the other end.
    ///
    /// # Errors
    ///
    /// The kernel's, when the connection is gone.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.0.socket.peer_addr()
    }

    /// Returns the address of this end.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.socket.local_addr()
    }

    /// Sends small writes at once (`TCP_NODELAY`).
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn set_nodelay(&self, nodelay: bool) -> io::Result<()> {
        self.0.socket.set_nodelay(nodelay)
    }
}

/// A stream between processes of one machine.
#[derive(Debug)]
pub struct UnixStream(Nonblocking<unix::UnixStream>);

stream!(UnixStream, unix::UnixStream);

impl UnixStream {
    /// Creates two streams that are connected to each other.
    ///
    /// # Errors
    ///
    /// EMFILE and the like.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (one, two) = unix::UnixStream::pair()?;
        Ok((Self::from_std(one)?, Self::from_std(two)?))
    }
}

/// A socket that accepts TCP connections.
#[derive(Debug)]
pub struct TcpListener(Nonblocking<net::TcpListener>);

impl TcpListener {
    /// Listens at the first of the addresses that can be had; port 0 lets the kernel choose.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn bind(addresses: impl ToSocketAddrs) -> io::Result<Self> {
        Self::from_std(net::TcpListener::bind(addresses)?)
    }

    /// Takes over a socket of the standard library.
    ///
    /// # Errors
    ///
    /// The kernel's, when the socket can't be made non-blocking.
    pub fn from_std(socket: net::TcpListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self(Nonblocking::new(socket)))
    }

    /// Returns the address at which the socket listens.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.socket.local_addr()
    }

    /// Accepts a connection; waits for one.
    ///
    /// # Errors
    ///
    /// The kernel's; EMFILE and ENFILE when there is no descriptor left.
    ///
    /// # Switches
    ///
    /// Only if no connection is there.
    pub fn accept(&self) -> io::Result<TcpStream> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket: OwnedFd = self.0.attempt(
            Direction::Read,
            || None,
            |listener| loop {
                match rustix::net::accept_with(listener, flags) {
                    // The client has given up already.
                    Err(Errno::CONNABORTED) => {}
                    other => break other.map_err(io::Error::from),
                }
            },
        )?;
        Ok(TcpStream(Nonblocking::new(net::TcpStream::from(socket))))
    }
}

impl AsFd for TcpListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.socket.as_fd()
    }
}
