//! Semaphores and locks between greenlets.
//!
//! A permit that is released while somebody waits is *promised* to the first waiter, which is woken and takes it at its
//! turn. By default nobody who comes later can take it first. With [`Barging::Allowed`] whoever runs may: a greenlet that
//! releases and acquires in a loop then keeps the permit without a switch, and who was robbed waits on in front.
//! Invariant: while a permit is neither taken nor promised, nobody waits.
//!
//! Methods whose names end in `_core` never unwind and know of no face; they report why they failed. The others are for
//! Rust programs: they unwind on a kill or a timeout, as [`crate::greenlet`] tells.

#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::fmt;
use std::time::Duration;

use crate::clock::Instant;
use crate::greenlet::{after, blocking};
use crate::hub::{HeldBy, Holder, Hub, RawGreenlet, WaitingFor};
use crate::wait_queue::{Barging, PromiseQueue, TimedOut, WaitError};

/// A counter of permits; first come, first served.
///
/// One that was made with a single permit is taken for a lock: it notes who took that permit last.
#[derive(Debug)]
#[repr(C)]
pub struct Semaphore {
    /// First, so that its address is the semaphore's.
    holder: Holder,
    permits: Cell<usize>,
    line: PromiseQueue,
    barging: Barging,
}

impl Semaphore {
    /// Creates a semaphore with so many permits.
    pub const fn new(permits: usize) -> Self {
        Self::with_barging(permits, Barging::Refused)
    }

    /// Creates a semaphore with so many permits, and says who may take one that is promised.
    pub const fn with_barging(permits: usize, barging: Barging) -> Self {
        Self { holder: Holder::new(permits), permits: Cell::new(permits), line: PromiseQueue::new(), barging }
    }

    /// Returns how many permits a newcomer could take.
    #[inline]
    pub fn permits(&self) -> usize {
        match self.barging {
            Barging::Allowed => self.permits.get(),
            Barging::Refused => self.permits.get().saturating_sub(self.line.promised()),
        }
    }

    /// Says whether a newcomer could take no permit.
    #[inline]
    pub fn is_locked(&self) -> bool {
        self.permits() == 0
    }

    /// Returns who took the only permit of a semaphore that was made with one, and has not given it back.
    pub fn holder(&self) -> HeldBy {
        self.holder.get()
    }

    /// Returns how many greenlets wait for a permit.
    pub fn waiting(&self) -> usize {
        self.line.waiters.len()
    }

    /// Takes a permit if one is free. Does not switch.
    #[inline]
    pub fn try_acquire_core(&self) -> bool {
        if self.permits() == 0 {
            return false;
        }
        self.permits.set(self.permits.get() - 1);
        self.holder.take();
        true
    }

    /// Takes a permit; waits for one until `deadline`.
    ///
    /// # Errors
    ///
    /// [`WaitError`]: no permit was taken, and none is lost.
    ///
    /// # Switches
    ///
    /// Only if no permit is free.
    #[inline]
    pub fn acquire_core(&self, deadline: Option<Instant>) -> Result<(), WaitError> {
        if self.try_acquire_core() {
            return Ok(());
        }
        self.wait_for_permit("Semaphore", deadline)
    }

    fn wait_for_permit(&self, kind: &'static str, deadline: Option<Instant>) -> Result<(), WaitError> {
        let mut was_robbed = false;
        loop {
            self.wait_in_line(kind, deadline, was_robbed)?;
            let permits = self.permits.get();
            if permits > 0 {
                self.permits.set(permits - 1);
                self.holder.take();
                return Ok(());
            }
            was_robbed = true;
        }
    }

    fn wait_in_line(&self, kind: &'static str, deadline: Option<Instant>, in_front: bool) -> Result<(), WaitError> {
        self.line.wait(WaitingFor::Lock(kind, &raw const self.holder), deadline, in_front).inspect_err(|_| {
            // What was promised goes to the next.
            self.line.promise(self.permits.get());
        })
    }

    /// Waits until a permit could be taken, or until `deadline`, and takes none.
    ///
    /// # Errors
    ///
    /// [`WaitError`].
    ///
    /// # Switches
    ///
    /// Only if no permit is free.
    pub fn wait_core(&self, deadline: Option<Instant>) -> Result<(), WaitError> {
        if self.permits() > 0 {
            return Ok(());
        }
        self.wait_in_line("Semaphore", deadline, false)?;
        // The promise was used up, the permit was not.
        self.line.promise(self.permits.get());
        Ok(())
    }

    /// Gives a permit back: to the first waiter, else to whoever comes next. Returns whether somebody was woken for it.
    /// Does not switch.
    #[inline]
    pub fn release(&self) -> bool {
        self.permits.set(self.permits.get() + 1);
        self.holder.give_up();
        !self.line.waiters.is_empty() && self.line.promise(self.permits.get())
    }

    /// Makes so many permits free, whoever holds some: for the child of a fork, where other threads' greenlets are gone.
    pub fn reset(&self, permits: usize) {
        self.permits.set(permits);
        self.holder.reset(permits);
        self.line.promise(permits);
    }

    /// Sets how many permits are free, and wakes as many who wait. Does not switch.
    pub fn set_permits(&self, permits: usize) {
        if permits > self.permits.get() {
            self.holder.give_up();
        }
        self.permits.set(permits);
        self.line.promise(permits);
    }

    /// Takes a permit; waits for one. Dropping the [`Permit`] gives it back.
    ///
    /// ```
    /// use greenrust::lock::Semaphore;
    ///
    /// let semaphore = Semaphore::new(1);
    /// let permit = semaphore.acquire();
    /// assert!(semaphore.try_acquire().is_none());
    /// drop(permit);
    /// assert_eq!(semaphore.permits(), 1);
    /// ```
    ///
    /// # Switches
    ///
    /// Only if no permit is free.
    pub fn acquire(&self) -> Permit<'_> {
        let _ = blocking(|| self.acquire_core(None));
        Permit { semaphore: self }
    }

    /// Takes a permit; waits for one, no longer than `duration`.
    ///
    /// # Errors
    ///
    /// [`TimedOut`].
    ///
    /// # Switches
    ///
    /// Only if no permit is free.
    pub fn acquire_timeout(&self, duration: Duration) -> Result<Permit<'_>, TimedOut> {
        let deadline = after(duration);
        match blocking(|| self.acquire_core(Some(deadline))) {
            Ok(()) => Ok(Permit { semaphore: self }),
            Err(_) => Err(TimedOut),
        }
    }

    /// Takes a permit if one is free. Does not switch.
    pub fn try_acquire(&self) -> Option<Permit<'_>> {
        self.try_acquire_core().then(|| Permit { semaphore: self })
    }
}

/// A permit that is taken. Dropping it gives it back.
#[derive(Debug)]
#[must_use = "a permit that is dropped is given back at once"]
pub struct Permit<'a> {
    semaphore: &'a Semaphore,
}

impl Permit<'_> {
    /// Keeps the permit taken: somebody else will call [`Semaphore::release`].
    pub fn forget(self) {
        std::mem::forget(self);
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.semaphore.release();
    }
}

/// A permit was given back that nobody had taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyReleases;

impl fmt::Display for TooManyReleases {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("released more often than acquired")
    }
}

impl std::error::Error for TooManyReleases {}

/// A semaphore that never has more permits than it began with.
#[derive(Debug)]
pub struct BoundedSemaphore {
    semaphore: Semaphore,
    initial: usize,
}

impl BoundedSemaphore {
    /// Creates a semaphore with so many permits.
    pub const fn new(permits: usize) -> Self {
        Self { semaphore: Semaphore::new(permits), initial: permits }
    }

    /// Returns the semaphore, for everything but a release.
    #[inline]
    pub fn semaphore(&self) -> &Semaphore {
        &self.semaphore
    }

    /// Gives a permit back, as [`Semaphore::release`].
    ///
    /// # Errors
    ///
    /// [`TooManyReleases`] when all permits are free already; nothing changes.
    #[inline]
    pub fn release(&self) -> Result<bool, TooManyReleases> {
        if self.semaphore.permits() >= self.initial {
            return Err(TooManyReleases);
        }
        Ok(self.semaphore.release())
    }
}

/// A greenlet tried to release a lock that it does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotOwner;

impl fmt::Display for NotOwner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the running greenlet does not hold the lock")
    }
}

impl std::error::Error for NotOwner {}

/// A lock that its owner, a greenlet, can take again.
#[derive(Debug)]
pub struct RLock {
    lock: Semaphore,
    /// The handle keeps the owner's identity from being reused, should it end with the lock held.
    owner: RefCell<Option<RawGreenlet>>,
    count: Cell<usize>,
}

impl Default for RLock {
    fn default() -> Self {
        Self::new()
    }
}

impl RLock {
    /// Creates a free lock.
    pub const fn new() -> Self {
        Self::with_barging(Barging::Refused)
    }

    /// Creates a free lock, and says who may take it when it is promised.
    pub const fn with_barging(barging: Barging) -> Self {
        Self { lock: Semaphore::with_barging(1, barging), owner: RefCell::new(None), count: Cell::new(0) }
    }

    /// Says whether the running greenlet holds the lock.
    #[inline]
    pub fn is_owned(&self) -> bool {
        self.owner.borrow().as_ref().is_some_and(|owner| Hub::current().is_running(owner))
    }

    /// Returns the greenlet that holds the lock.
    pub fn owner(&self) -> Option<RawGreenlet> {
        self.owner.borrow().clone()
    }

    /// Returns how many times the owner has taken the lock; 0 if it is free.
    pub fn count(&self) -> usize {
        self.count.get()
    }

    /// Says whether anybody holds the lock, or is about to: it may have been handed over to a greenlet that has not run
    /// since.
    pub fn is_locked(&self) -> bool {
        self.lock.is_locked()
    }

    /// Takes the lock if it is free or the running greenlet's. Does not switch.
    #[inline]
    pub fn try_acquire_core(&self) -> bool {
        if self.is_owned() {
            self.count.set(self.count.get() + 1);
            return true;
        }
        if self.lock.try_acquire_core() {
            self.own(1);
            return true;
        }
        false
    }

    /// Takes the lock; waits for it until `deadline`.
    ///
    /// # Errors
    ///
    /// [`WaitError`]: the lock was not taken.
    ///
    /// # Switches
    ///
    /// Only if another greenlet holds the lock.
    #[inline]
    pub fn acquire_core(&self, deadline: Option<Instant>) -> Result<(), WaitError> {
        if self.try_acquire_core() {
            return Ok(());
        }
        self.lock.wait_for_permit("RLock", deadline)?;
        self.own(1);
        Ok(())
    }

    fn own(&self, count: usize) {
        let previous = self.owner.replace(Some(Hub::current().running()));
        debug_assert!(previous.is_none());
        self.count.set(count);
    }

    /// Undoes one acquisition of the running greenlet; with the last one the lock goes to the first waiter.
    ///
    /// # Errors
    ///
    /// [`NotOwner`]; nothing changes.
    #[inline]
    pub fn release(&self) -> Result<(), NotOwner> {
        if !self.is_owned() {
            return Err(NotOwner);
        }
        let count = self.count.get() - 1;
        self.count.set(count);
        if count == 0 {
            self.give_up();
        }
        Ok(())
    }

    /// Undoes all acquisitions of the running greenlet, as a condition variable does before it waits, and returns how
    /// many there were.
    ///
    /// # Errors
    ///
    /// [`NotOwner`]; nothing changes.
    pub fn release_all(&self) -> Result<usize, NotOwner> {
        if !self.is_owned() {
            return Err(NotOwner);
        }
        let count = self.count.replace(0);
        self.give_up();
        Ok(count)
    }

    /// Takes the lock as often as [`RLock::release_all`] had released it.
    ///
    /// # Errors
    ///
    /// [`WaitError`]: the lock was not taken.
    pub fn acquire_all_core(&self, count: usize, deadline: Option<Instant>) -> Result<(), WaitError> {
        self.acquire_core(deadline)?;
        self.count.set(self.count.get() - 1 + count);
        Ok(())
    }

    /// Takes the lock; waits for it. Dropping the guard undoes it.
    ///
    /// # Switches
    ///
    /// Only if another greenlet holds the lock.
    pub fn acquire(&self) -> RLockGuard<'_> {
        let _ = blocking(|| self.acquire_core(None));
        RLockGuard { lock: self }
    }

    /// Takes the lock; waits for it, no longer than `duration`.
    ///
    /// # Errors
    ///
    /// [`TimedOut`].
    ///
    /// # Switches
    ///
    /// Only if another greenlet holds the lock.
    pub fn acquire_timeout(&self, duration: Duration) -> Result<RLockGuard<'_>, TimedOut> {
        let deadline = after(duration);
        match blocking(|| self.acquire_core(Some(deadline))) {
            Ok(()) => Ok(RLockGuard { lock: self }),
            Err(_) => Err(TimedOut),
        }
    }

    fn give_up(&self) {
        let owner = self.owner.take();
        self.lock.release();
        drop(owner);
    }

    /// Makes the lock free, whoever holds it: for the child of a fork, where the other threads' greenlets are gone.
    pub fn reset(&self) {
        self.owner.take();
        self.count.set(0);
        if self.lock.is_locked() {
            self.lock.release();
        }
    }
}

/// A lock that is taken, by the greenlet that took it. Dropping the guard undoes that.
#[derive(Debug)]
#[must_use = "a guard that is dropped releases the lock at once"]
pub struct RLockGuard<'a> {
    lock: &'a RLock,
}

impl Drop for RLockGuard<'_> {
    fn drop(&mut self) {
        // A guard can be moved into another greenlet, which has no right to release; the lock then stays taken.
        let _ = self.lock.release();
    }
}
