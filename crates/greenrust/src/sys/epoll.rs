//! Readiness by epoll, wake-up by eventfd. Linux.
//!
//! Some facts about epoll:
//! - It keys on (descriptor, open file): a dup'd descriptor stays registered after the original is closed, and its
//!   events then carry a number that may belong to somebody else. So registrations end before a descriptor closes.
//! - An edge-triggered registration reports the state at the moment it is made, so nothing is missed by registering
//!   late.
//! - Regular files are refused with EPERM: they are always ready.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::event::epoll;
use rustix::event::{EventfdFlags, Timespec, eventfd};

/// What a waiter wants to know of a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interest {
    /// Data to read, a connection to accept, or the end of the stream.
    pub read: bool,
    /// Room to write, or a connection attempt that has ended.
    pub write: bool,
}

/// What the kernel said of a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    /// The token given at registration.
    pub token: u64,
    /// Reading will not block; also set on errors and hang-ups, which a read reports.
    pub read: bool,
    /// Writing will not block; also set on errors and hang-ups, which a write reports.
    pub write: bool,
    /// The peer has ended its sending: reads will say so, and no further edge may come for them. Also set while urgent
    /// data (RFC 9293, 3.8.5) is pending, as a read stops short at its mark with data left behind it.
    pub read_ended: bool,
    /// The connection failed or is closed both ways: writes will say so, and no further edge may come.
    pub write_ended: bool,
}

/// Room for the events of one wait.
pub struct Events {
    buffer: Vec<epoll::Event>,
}

impl Events {
    /// Creates room for `capacity` events a wait.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { buffer: Vec::with_capacity(capacity) }
    }

    /// Says whether the last wait brought none.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Returns the readiness events of the last wait.
    pub fn iter(&self) -> impl Iterator<Item = Readiness> + '_ {
        self.buffer.iter().map(|event| {
            let flags = event.flags;
            let failed = flags.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP);
            Readiness {
                token: event.data.u64(),
                read: failed || flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::RDHUP),
                write: failed || flags.contains(epoll::EventFlags::OUT),
                read_ended: failed || flags.intersects(epoll::EventFlags::RDHUP | epoll::EventFlags::PRI),
                write_ended: failed,
            }
        })
    }
}

/// An epoll instance.
#[derive(Debug)]
pub struct Poller {
    descriptor: OwnedFd,
}

impl Poller {
    /// Creates a poller.
    ///
    /// # Errors
    ///
    /// The kernel's: EMFILE, ENFILE, ENOMEM.
    pub fn new() -> io::Result<Self> {
        Ok(Self { descriptor: epoll::create(epoll::CreateFlags::CLOEXEC)? })
    }

    /// Registers `descriptor` edge-triggered for both directions: one call for its whole life.
    ///
    /// # Errors
    ///
    /// EPERM for regular files, EBADF, ENOSPC (`fs.epoll.max_user_watches`).
    pub fn register_edge(&self, descriptor: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let flags = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::PRI
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::ET;
        Ok(epoll::add(&self.descriptor, descriptor, epoll::EventData::new_u64(token), flags)?)
    }

    /// Registers `descriptor` level-triggered.
    ///
    /// # Errors
    ///
    /// As [`Poller::register_edge`].
    pub fn register_level(&self, descriptor: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(&self.descriptor, descriptor, epoll::EventData::new_u64(token), level(interest))?)
    }

    /// Changes what is asked of a level-triggered registration.
    ///
    /// # Errors
    ///
    /// ENOENT if it is not registered, EBADF.
    pub fn change_level(&self, descriptor: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(&self.descriptor, descriptor, epoll::EventData::new_u64(token), level(interest))?)
    }

    /// Ends a registration.
    ///
    /// # Errors
    ///
    /// ENOENT if there is none, EBADF if the descriptor is closed already.
    pub fn deregister(&self, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        Ok(epoll::delete(&self.descriptor, descriptor)?)
    }

    /// Waits for events, at most `timeout` (`None`: without limit), and replaces the content of `events`.
    ///
    /// # Errors
    ///
    /// EINTR when a signal arrived.
    pub fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        events.buffer.clear();
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs().min(i32::MAX as u64) as i64,
            tv_nsec: timeout.subsec_nanos() as _,
        });
        let room = rustix::buffer::spare_capacity(&mut events.buffer);
        match epoll::wait(&self.descriptor, room, timeout.as_ref()) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

fn level(interest: Interest) -> epoll::EventFlags {
    let mut flags = epoll::EventFlags::empty();
    if interest.read {
        flags |= epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
    }
    if interest.write {
        flags |= epoll::EventFlags::OUT;
    }
    flags
}

/// A descriptor that any thread, or a signal handler, can make readable.
#[derive(Debug)]
pub struct Wakeup {
    descriptor: OwnedFd,
}

impl Wakeup {
    /// Creates a wake-up that is not raised.
    ///
    /// # Errors
    ///
    /// The kernel's: EMFILE, ENFILE, ENOMEM.
    pub fn new() -> io::Result<Self> {
        Ok(Self { descriptor: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)? })
    }

    /// Makes the descriptor readable. Safe from any thread and from signal handlers.
    pub fn raise(&self) {
        // EAGAIN means that it is readable already.
        let _ = rustix::io::write(&self.descriptor, &1u64.to_ne_bytes());
    }

    /// Makes the descriptor unreadable again.
    pub fn lower(&self) {
        let _ = rustix::io::read(&self.descriptor, &mut [0u8; 8]);
    }

    /// Returns the descriptor's number, for those who raise by `write` themselves.
    pub fn as_raw_fd(&self) -> RawFd {
        self.descriptor.as_raw_fd()
    }
}

impl AsFd for Wakeup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
