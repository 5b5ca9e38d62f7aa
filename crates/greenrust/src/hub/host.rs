//! What the runtime asks of the language that it runs under.
//!
//! The runtime knows nothing of Python. It calls a host around each switch, around each poll, and when something goes
//! wrong where nobody waits for the answer. The plain host, for Rust programs, does next to nothing.

#![forbid(unsafe_code)]

use std::any::Any;
use std::time::Duration;

use super::{RawGreenlet, Waker};

/// The language above the runtime.
pub trait Host {
    /// Saves what belongs to `from`: control is about to leave it.
    fn leave(&self, from: &RawGreenlet);

    /// Restores what belongs to `to`: control has come back to it.
    fn arrive(&self, to: &RawGreenlet);

    /// Prepares a greenlet that runs for the first time, on its own stack.
    fn begin(&self, greenlet: &RawGreenlet);

    /// Takes leave of a greenlet whose body has returned, on its own stack.
    fn end(&self, greenlet: &RawGreenlet);

    /// Runs in a greenlet that is about to park, if [`RawGreenlet::set_announced`] is on for it. Returns false to have the
    /// park end at once with [`Wake::Foreign`](super::Wake::Foreign): the host knows why.
    fn announce(&self, _waker: &Waker) -> bool {
        true
    }

    /// Performs the park of a greenlet for which [`Hub::set_accompanied`](super::Hub::set_accompanied) is on: puts aside
    /// what belongs to it, suspends, and takes it up again.
    fn accompany(&self, suspend: &mut dyn FnMut()) {
        suspend();
    }

    /// Performs a wait that may block, while nothing of the host's is needed.
    fn poll(&self, wait: &mut dyn FnMut());

    /// Runs before the hub waits for events. Returns true if it made work, so that the hub must not block.
    fn before_poll(&self) -> bool;

    /// Returns how long the hub may wait before it calls [`Host::before_long_wait`]; None if it need not.
    fn patience(&self) -> Option<Duration> {
        None
    }

    /// Runs when a wait has lasted for the host's patience, before it goes on. May make work, which ends the wait.
    fn before_long_wait(&self) {}

    /// Runs after a wait that [`Host::before_long_wait`] was called in, before [`Host::after_poll`].
    fn after_long_wait(&self) {}

    /// Runs after the hub has waited for events, before any of them is acted upon.
    fn after_poll(&self);

    /// Runs when the hub has nothing else to do. Returns true if it did something.
    fn idle(&self) -> bool;

    /// Reports a panic of a callback that ran in the hub.
    fn report(&self, panic: Box<dyn Any + Send>);

    /// Writes a greenlet's name for the message of a crash; async-signal-safe. Returns the length.
    fn crash_name(&self, greenlet: &RawGreenlet, buffer: &mut [u8]) -> usize;
}

/// The host of a program that is Rust alone.
#[derive(Debug, Default)]
pub struct PlainHost;

impl Host for PlainHost {
    fn leave(&self, _from: &RawGreenlet) {}

    fn arrive(&self, _to: &RawGreenlet) {}

    fn begin(&self, _greenlet: &RawGreenlet) {}

    fn end(&self, _greenlet: &RawGreenlet) {}

    fn poll(&self, wait: &mut dyn FnMut()) {
        wait();
    }

    fn before_poll(&self) -> bool {
        false
    }

    fn after_poll(&self) {}

    fn idle(&self) -> bool {
        false
    }

    fn report(&self, _panic: Box<dyn Any + Send>) {
        // The panic hook has printed it already; the hub goes on.
    }

    fn crash_name(&self, greenlet: &RawGreenlet, buffer: &mut [u8]) -> usize {
        use std::io::Write;
        let room = buffer.len();
        let mut rest = buffer;
        // Formatting an integer into a slice allocates nothing.
        let _ = write!(rest, "greenlet {:#x}", greenlet.address());
        room - rest.len()
    }
}
