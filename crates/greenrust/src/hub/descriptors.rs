//! The hub's waits for descriptors: registration, readiness, and parking until it comes.
//!
//! `io.rs` keeps the books; this file parks.

#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::io::Result as IoResult;
use std::os::fd::RawFd;
use std::rc::Rc;

use super::{Alarm, Direction, Hub, LevelKey, Loop, ParkInHub, Remote, Sink, WaitingFor, Wake, io};
use crate::clock::Instant;
use crate::sys::{Events, Interest};

impl Hub {
    pub(super) fn inner_loop(&self) -> IoResult<Rc<Loop>> {
        if let Some(inner) = &*self.inner_loop.borrow() {
            return Ok(inner.clone());
        }
        use std::os::fd::AsFd;
        let remote = self.remote()?;
        let inner = Rc::new(Loop {
            io: RefCell::new(io::Io::new(remote.wakeup().as_fd())?),
            events: RefCell::new(Events::with_capacity(512)),
        });
        *self.inner_loop.borrow_mut() = Some(inner.clone());
        Ok(inner)
    }

    /// Returns the handle by which other threads reach this hub.
    ///
    /// # Errors
    ///
    /// The kernel's, when there is no descriptor left for the wake-up.
    pub fn remote(&self) -> IoResult<Remote> {
        if let Some(remote) = &*self.remote.borrow() {
            return Ok(remote.clone());
        }
        let remote = Remote::new()?;
        *self.remote.borrow_mut() = Some(remote.clone());
        Ok(remote)
    }

    /// Returns the poller's descriptor, which is readable when there are events.
    ///
    /// # Errors
    ///
    /// The kernel's, when there is no descriptor left to make a poller.
    pub fn descriptor(&self) -> IoResult<RawFd> {
        use std::os::fd::{AsFd, AsRawFd};
        Ok(self.inner_loop()?.io.borrow().poller().as_fd().as_raw_fd())
    }

    /// Registers a non-blocking socket of ours for its whole life; a second time does nothing.
    ///
    /// # Errors
    ///
    /// EPERM for what can't be waited for (regular files), EBADF, ENOSPC, EMFILE.
    pub fn register(&self, descriptor: RawFd) -> IoResult<()> {
        self.inner_loop()?.io.borrow_mut().register(descriptor)
    }

    /// Ends a registration, before the descriptor is closed; waiters go on with [`Wake::Closed`].
    pub fn deregister(&self, descriptor: RawFd) {
        let calls = self.inner_loop.borrow().as_ref().map(|inner| inner.io.borrow_mut().deregister(descriptor));
        drop(calls);
    }

    /// Has `call` called in the hub greenlet, once, when the registered socket becomes ready in this direction; at the
    /// next turn if it is. It takes the place of an earlier call, is dropped with the registration, and must not park.
    ///
    /// Unlike a parked greenlet this holds no stack.
    pub fn call_when_ready(&self, descriptor: RawFd, direction: Direction, call: impl FnOnce(&Hub) + 'static) {
        let call: io::ReadyCall = Box::new(call);
        let outcome = match &*self.inner_loop.borrow() {
            Some(inner) => inner.io.borrow_mut().set_call(descriptor, direction, call),
            None => Err(call),
        };
        match outcome {
            Ok(former) => drop(former),
            Err(call) => self.push_call(call),
        }
    }

    /// Takes back what [`Hub::call_when_ready`] was given. Returns false if it is no longer pending.
    pub fn cancel_call(&self, descriptor: RawFd, direction: Direction) -> bool {
        let call =
            self.inner_loop.borrow().as_ref().and_then(|inner| inner.io.borrow_mut().take_call(descriptor, direction));
        call.is_some()
    }

    /// Notes that a system call on a registered socket moved less than it was asked for, so that the next would block.
    #[inline]
    pub fn clear_ready(&self, descriptor: RawFd, direction: Direction) {
        if let Some(inner) = &*self.inner_loop.borrow() {
            inner.io.borrow_mut().clear(descriptor, direction);
        }
    }

    /// Notes that a system call on a registered socket said EAGAIN.
    #[inline]
    pub fn mark_blocked(&self, descriptor: RawFd, direction: Direction) {
        if let Some(inner) = &*self.inner_loop.borrow() {
            inner.io.borrow_mut().mark_blocked(descriptor, direction);
        }
    }

    /// Has those who wait for the registered socket in this direction go on with [`Wake::Closed`].
    pub fn cancel_waiters(&self, descriptor: RawFd, direction: Direction) {
        if let Some(inner) = &*self.inner_loop.borrow() {
            inner.io.borrow_mut().cancel(descriptor, direction);
        }
    }

    /// Says whether a system call on the socket is worth trying: it is not known to block.
    #[inline]
    pub fn is_ready(&self, descriptor: RawFd, direction: Direction) -> bool {
        self.inner_loop.borrow().as_ref().is_none_or(|inner| inner.io.borrow_mut().is_ready(descriptor, direction))
    }

    /// Says whether a greenlet waits for the registered socket in this direction.
    pub fn has_waiter(&self, descriptor: RawFd, direction: Direction) -> bool {
        self.inner_loop.borrow().as_ref().is_some_and(|inner| inner.io.borrow_mut().has_waiter(descriptor, direction))
    }

    /// Parks until the registered socket is ready, at most until `deadline`, which `alarm` keeps if there is one. Register
    /// first, and try the system call first.
    ///
    /// # Errors
    ///
    /// [`ParkInHub`] in the hub greenlet.
    pub fn wait_ready(
        &self,
        descriptor: RawFd,
        direction: Direction,
        deadline: Option<Instant>,
        alarm: Option<&Alarm>,
    ) -> Result<Wake, ParkInHub> {
        if self.is_ready(descriptor, direction) {
            return Ok(Wake::Unparked);
        }
        let waiting_for = match direction {
            Direction::Read => WaitingFor::Read(descriptor),
            Direction::Write => WaitingFor::Write(descriptor),
        };
        let waker = self.begin_park(waiting_for)?;
        let inner = self.inner_loop.borrow().clone().expect("a registered descriptor has made the loop");
        inner.io.borrow_mut().add_waiter(descriptor, direction, waker.clone());
        let wake = match (deadline, alarm) {
            (None, _) => self.park(&waker),
            (Some(deadline), None) => self.park_until(&waker, deadline, true),
            (Some(deadline), Some(alarm)) => alarm.park_until(self, &waker, deadline),
        };
        if !matches!(wake, Wake::Unparked | Wake::Closed) {
            inner.io.borrow_mut().remove_waiter(descriptor, direction, &waker);
        }
        Ok(wake)
    }

    /// Adds a level-triggered wait for a descriptor that is not ours.
    ///
    /// # Errors
    ///
    /// EPERM for what is always ready (regular files), EBADF.
    pub fn add_level(&self, descriptor: RawFd, interest: Interest, sink: Sink) -> IoResult<LevelKey> {
        self.inner_loop()?.io.borrow_mut().add_level(descriptor, interest, sink)
    }

    /// Ends a level-triggered wait.
    pub fn remove_level(&self, key: LevelKey) {
        if let Some(inner) = &*self.inner_loop.borrow() {
            inner.io.borrow_mut().remove_level(key);
        }
    }

    /// Wakes whoever waits level-triggered for a descriptor that is about to be closed; says whether there was one.
    pub fn close_level(&self, descriptor: RawFd) -> bool {
        self.inner_loop.borrow().as_ref().is_some_and(|inner| inner.io.borrow_mut().close_level(descriptor))
    }

    /// Parks until a descriptor that is not ours is ready.
    ///
    /// # Errors
    ///
    /// The outer error is [`ParkInHub`]; the inner one EBADF, or EPERM for what is always ready (regular files).
    pub fn wait_level(
        &self,
        descriptor: RawFd,
        interest: Interest,
        deadline: Option<Instant>,
    ) -> Result<IoResult<Wake>, ParkInHub> {
        let waiting_for = if interest.read { WaitingFor::Read(descriptor) } else { WaitingFor::Write(descriptor) };
        let waker = self.begin_park(waiting_for)?;
        let key = match self.add_level(descriptor, interest, Sink::Waker(waker.clone())) {
            Ok(key) => key,
            Err(error) => {
                waker.greenlet.end_park();
                return Ok(Err(error));
            }
        };
        let wake = match deadline {
            None => self.park(&waker),
            Some(deadline) => self.park_until(&waker, deadline, true),
        };
        if !matches!(wake, Wake::Unparked | Wake::Closed) {
            self.remove_level(key);
        }
        Ok(Ok(wake))
    }
}
