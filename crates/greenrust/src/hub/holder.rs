//! Who holds a lock: noted by the lock itself, so that a program that is stuck can be explained.
//!
//! The note is a number, not a reference: it keeps nobody alive, and a greenlet that ended with the lock held is not
//! taken for a later one at the same address. It costs a lock one store each time it is taken.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::num::NonZeroU64;

use super::Hub;
use super::raw::Serial;

/// Who holds a lock, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldBy {
    /// Nobody, or one of several: a semaphore with more than one permit doesn't know who has them.
    Unknown,
    /// The greenlet that took it last.
    Greenlet(Serial),
    /// A thread that has no hub.
    Thread,
}

/// A lock's note of who holds it.
#[derive(Debug)]
#[repr(transparent)]
pub struct Holder(Cell<u64>);

const NOBODY: u64 = 0;
const THREAD: u64 = u64::MAX;
const NOT_NOTED: u64 = u64::MAX - 1;

impl Holder {
    /// Creates the note of a lock with so many permits; with one alone, whoever has it is *the* holder.
    pub const fn new(permits: usize) -> Self {
        Self(Cell::new(if permits == 1 { NOBODY } else { NOT_NOTED }))
    }

    /// Begins anew, as [`Holder::new`].
    pub fn reset(&self, permits: usize) {
        self.0.set(Self::new(permits).0.get());
    }

    /// Notes that the running greenlet has taken the lock.
    #[inline]
    pub fn take(&self) {
        if self.0.get() != NOT_NOTED {
            self.0.set(Hub::if_current().map_or(THREAD, |hub| hub.running_serial().get()));
        }
    }

    /// Notes that the lock was given up.
    #[inline]
    pub fn give_up(&self) {
        if self.0.get() != NOT_NOTED {
            self.0.set(NOBODY);
        }
    }

    /// Returns who holds the lock.
    pub fn get(&self) -> HeldBy {
        match self.0.get() {
            THREAD => HeldBy::Thread,
            NOT_NOTED => HeldBy::Unknown,
            number => NonZeroU64::new(number).map_or(HeldBy::Unknown, |number| HeldBy::Greenlet(Serial::new(number))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_with_one_permit_notes_who_took_it_until_it_is_given_up() {
        let holder = Holder::new(1);
        assert_eq!(holder.get(), HeldBy::Unknown);
        holder.take();
        assert_eq!(holder.get(), HeldBy::Thread);
        holder.give_up();
        let hub = Hub::current();
        holder.take();
        assert_eq!(holder.get(), HeldBy::Greenlet(hub.root().serial()));
        holder.give_up();
        assert_eq!(holder.get(), HeldBy::Unknown);
    }

    #[test]
    fn a_semaphore_with_several_permits_has_no_holder() {
        let holder = Holder::new(2);
        holder.take();
        assert_eq!(holder.get(), HeldBy::Unknown);
        holder.reset(1);
        holder.take();
        assert_eq!(holder.get(), HeldBy::Thread);
    }
}
