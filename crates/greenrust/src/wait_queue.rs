//! Greenlets that wait for one thing, in the order of their arrival.
//!
//! Every blocking object has a [`WaitQueue`]. Invariants:
//! - A waiter is woken at most once, and whoever wakes it knows whether it was: [`WaitQueue::wake_one`] passes over
//!   those whose wait has ended for another reason (a timeout, a kill) and that have not left the queue yet.
//! - A wait that fails tells whether its waiter had been woken before ([`Abandoned::was_woken`]): what was given with
//!   the wake-up (a permit, an item) then belongs to the next one in line, and is never lost.
//! - An empty queue that nobody ever waited in has allocated nothing. No borrow outlives a method.
//!
//! A waiter may belong to another thread's hub if the host lets threads share objects under a lock of its own.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;

use crate::clock::Instant;
use crate::hub::{Hub, ParkInHub, RawGreenlet, WaitingFor, Wake, Waker};

/// Why a blocking call of a core ended without what it waited for.
///
/// The methods that Rust programs use turn these into an unwinding or a panic; see [`crate::greenlet`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitError {
    /// The deadline passed first.
    TimedOut,
    /// An interrupt is to be delivered: `RawGreenlet::take_interrupt`.
    Interrupted,
    /// The host transferred to the greenlet by itself; it knows why.
    Foreign,
    /// The descriptor that was waited for is being closed.
    Closed,
    /// The call came from the hub greenlet, where nothing may block.
    ParkInHub,
}

impl fmt::Display for WaitError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            WaitError::TimedOut => "the wait timed out",
            WaitError::Interrupted => "the wait was interrupted",
            WaitError::Foreign => "a raw switch ended the wait",
            WaitError::Closed => "the descriptor was closed during the wait",
            WaitError::ParkInHub => "the hub greenlet must not block",
        })
    }
}

impl std::error::Error for WaitError {}

impl From<ParkInHub> for WaitError {
    fn from(_: ParkInHub) -> Self {
        WaitError::ParkInHub
    }
}

impl WaitError {
    /// Returns the error that a wake-up means, none for [`Wake::Unparked`].
    #[inline]
    pub fn check(wake: Wake) -> Result<(), WaitError> {
        match wake {
            Wake::Unparked => Ok(()),
            Wake::TimedOut => Err(WaitError::TimedOut),
            Wake::Closed => Err(WaitError::Closed),
            Wake::Interrupted => Err(WaitError::Interrupted),
            Wake::Foreign => Err(WaitError::Foreign),
        }
    }
}

/// The time given for something was over before it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedOut;

impl fmt::Display for TimedOut {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("timed out")
    }
}

impl std::error::Error for TimedOut {}

impl From<TimedOut> for std::io::Error {
    fn from(error: TimedOut) -> Self {
        std::io::Error::new(std::io::ErrorKind::TimedOut, error)
    }
}

/// A wait that ended without a wake-up, or whose wake-up can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abandoned {
    /// Why.
    pub error: WaitError,
    /// Whether the waiter had been woken nevertheless, before a raw switch took its place. What came with the wake-up
    /// is to be passed on.
    pub was_woken: bool,
}

/// Parked greenlets, first in, first out.
#[derive(Debug, Default)]
pub struct WaitQueue {
    waiters: RefCell<Waiters>,
}

/// Most objects are waited for by one greenlet at a time, which needs no allocation.
#[derive(Debug)]
enum Waiters {
    One(Option<Waker>),
    Many(VecDeque<Waker>),
}

impl Default for Waiters {
    fn default() -> Self {
        Waiters::One(None)
    }
}

impl Waiters {
    /// Makes room for any number.
    #[cold]
    fn grow(&mut self) -> &mut VecDeque<Waker> {
        if let Waiters::One(waiter) = self {
            *self = Waiters::Many(waiter.take().into_iter().collect());
        }
        match self {
            Waiters::Many(wakers) => wakers,
            Waiters::One(_) => unreachable!("replaced above"),
        }
    }
}

impl WaitQueue {
    /// Creates an empty queue, without an allocation.
    pub const fn new() -> Self {
        Self { waiters: RefCell::new(Waiters::One(None)) }
    }

    /// Returns how many waiters stand in the queue, including those whose wait has ended and who have not left yet.
    #[inline]
    pub fn len(&self) -> usize {
        match &*self.waiters.borrow() {
            Waiters::One(waiter) => usize::from(waiter.is_some()),
            Waiters::Many(wakers) => wakers.len(),
        }
    }

    /// Says whether nobody stands in the queue.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a waiter behind all others.
    #[inline]
    pub fn push(&self, waker: Waker) {
        match &mut *self.waiters.borrow_mut() {
            Waiters::One(waiter @ None) => *waiter = Some(waker),
            Waiters::Many(wakers) => wakers.push_back(waker),
            full => full.grow().push_back(waker),
        }
    }

    /// Adds a waiter before all others: one that was woken, came too late, and keeps its place.
    pub fn push_front(&self, waker: Waker) {
        match &mut *self.waiters.borrow_mut() {
            Waiters::One(waiter @ None) => *waiter = Some(waker),
            waiters => waiters.grow().push_front(waker),
        }
    }

    /// Removes a waiter; returns false if it does not stand in the queue any more.
    pub fn remove(&self, waker: &Waker) -> bool {
        let mut waiters = self.waiters.borrow_mut();
        let wakers = match &mut *waiters {
            Waiters::One(waiter) => return waiter.take_if(|other| other == waker).is_some(),
            Waiters::Many(wakers) => wakers,
        };
        // Many waiters that end at once mostly leave in the order of their arrival, or in the reverse of it.
        let position = if wakers.back() == Some(waker) {
            wakers.len() - 1
        } else {
            match wakers.iter().position(|other| other == waker) {
                Some(position) => position,
                None => return false,
            }
        };
        wakers.remove(position);
        true
    }

    #[inline]
    fn pop(&self) -> Option<Waker> {
        match &mut *self.waiters.borrow_mut() {
            Waiters::One(waiter) => waiter.take(),
            Waiters::Many(wakers) => wakers.pop_front(),
        }
    }

    /// Returns the greenlets that stand in the queue and whose wait has not ended.
    pub fn greenlets(&self) -> Vec<RawGreenlet> {
        let waiting = |waker: &Waker| waker.is_waiting().then(|| waker.greenlet().clone());
        match &*self.waiters.borrow() {
            Waiters::One(waiter) => waiter.iter().filter_map(waiting).collect(),
            Waiters::Many(wakers) => wakers.iter().filter_map(waiting).collect(),
        }
    }

    /// Wakes the first waiter whose wait has not ended. Returns false if there is none. Does not switch.
    #[inline]
    pub fn wake_one(&self) -> bool {
        while let Some(waker) = self.pop() {
            if waker.unpark() {
                return true;
            }
        }
        false
    }

    /// Wakes all waiters, in order, and returns how many there were. Does not switch.
    pub fn wake_all(&self) -> usize {
        let mut woken = 0;
        while self.wake_one() {
            woken += 1;
        }
        woken
    }

    /// Parks the running greenlet in the queue until it is woken or `deadline` passes.
    ///
    /// # Errors
    ///
    /// [`Abandoned`] when it was not woken, or was, and then switched to by the host. The waiter has left the queue.
    ///
    /// # Switches
    ///
    /// Always, except in the hub greenlet and with an interrupt pending.
    #[inline]
    pub fn wait(&self, waiting_for: WaitingFor, deadline: Option<Instant>) -> Result<(), Abandoned> {
        self.wait_at(waiting_for, deadline, false)
    }

    /// As [`WaitQueue::wait`]; `in_front` puts the waiter before all others.
    pub fn wait_at(&self, waiting_for: WaitingFor, deadline: Option<Instant>, in_front: bool) -> Result<(), Abandoned> {
        let hub = Hub::current();
        let waker = hub.begin_park(waiting_for).map_err(|error| Abandoned { error: error.into(), was_woken: false })?;
        if in_front {
            self.push_front(waker.clone());
        } else {
            self.push(waker.clone());
        }
        let wake = match deadline {
            None => hub.park(&waker),
            Some(deadline) => hub.park_until(&waker, deadline, true),
        };
        WaitError::check(wake).map_err(|error| {
            let was_woken = waker.was_unparked();
            if !was_woken {
                self.remove(&waker);
            }
            Abandoned { error, was_woken }
        })
    }
}

/// Whether a newcomer may take what was promised to a waiter that was woken and has not run since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Barging {
    /// First come, first served: a newcomer leaves what is promised alone.
    #[default]
    Refused,
    /// A newcomer takes what is there, which saves a switch; who was robbed waits on, in front of all others. Nobody
    /// waits while there is something to take.
    Allowed,
}

/// Waiters who are woken by promises: each is woken for one thing that is there, takes it when it runs, and waits on in
/// front if somebody else has taken it.
#[derive(Debug, Default)]
pub(crate) struct PromiseQueue {
    pub(crate) waiters: WaitQueue,
    /// How many were woken and have not run since.
    promised: Cell<usize>,
}

impl PromiseQueue {
    pub(crate) const fn new() -> Self {
        Self { waiters: WaitQueue::new(), promised: Cell::new(0) }
    }

    #[inline]
    pub(crate) fn promised(&self) -> usize {
        self.promised.get()
    }

    /// Promises what is `available` to those who wait, in order. Says whether anybody was woken.
    #[inline]
    pub(crate) fn promise(&self, available: usize) -> bool {
        let before = self.promised.get();
        while self.promised.get() < available && self.waiters.wake_one() {
            self.promised.set(self.promised.get() + 1);
        }
        self.promised.get() != before
    }

    pub(crate) fn wake_all(&self) {
        self.promised.set(self.promised.get() + self.waiters.wake_all());
    }

    /// Waits for a promise, which is used up on return.
    pub(crate) fn wait(
        &self,
        waiting_for: WaitingFor,
        deadline: Option<Instant>,
        in_front: bool,
    ) -> Result<(), WaitError> {
        let outcome = self.waiters.wait_at(waiting_for, deadline, in_front);
        if outcome.is_ok() || outcome.is_err_and(|abandoned| abandoned.was_woken) {
            self.promised.set(self.promised.get() - 1);
        }
        outcome.map_err(|abandoned| abandoned.error)
    }
}
