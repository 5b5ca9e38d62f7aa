//! Timeouts: an upper limit for the time that a piece of code takes.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use crate::greenlet::{Unwind, after, end_unwinding};
use crate::hub::{Hub, Interrupt, TimerAction};

pub use crate::wait_queue::TimedOut;

/// The payload of a timeout's unwinding: which one it was.
struct Expired(u64);

thread_local! {
    static NEXT: Cell<u64> = const { Cell::new(0) };
}

/// Limits the time that a function takes.
///
/// When the time is over, the function's current or next blocking call unwinds, so that what stands on its stack is
/// dropped. A function that never blocks is never stopped.
#[derive(Debug)]
pub struct Timeout {
    _private: (),
}

impl Timeout {
    /// Runs `function`, no longer than `duration`.
    ///
    /// Timeouts nest; each one stops its own function, whichever expires first.
    ///
    /// ```
    /// use greenrust::{Timeout, sleep};
    /// use std::time::Duration;
    ///
    /// let slow = Timeout::run(Duration::from_millis(1), || sleep(Duration::from_secs(60)));
    /// assert!(slow.is_err());
    /// assert_eq!(Timeout::run(Duration::from_secs(60), || 42), Ok(42));
    /// ```
    ///
    /// # Errors
    ///
    /// [`TimedOut`] if the time was over before the function returned and it has been stopped.
    ///
    /// # Panics
    ///
    /// If the function does.
    ///
    /// # Cancellation
    ///
    /// A kill, or an outer timeout, unwinds through this one.
    pub fn run<T>(duration: Duration, function: impl FnOnce() -> T) -> Result<T, TimedOut> {
        let hub = Hub::current();
        let greenlet = hub.running();
        let identity = NEXT.replace(NEXT.get() + 1);
        let timer = {
            let greenlet = greenlet.clone();
            // A shield holds it back, unless the timeout itself is behind that shield.
            let origin = greenlet.scope();
            let expire = move |_: &Hub| {
                greenlet.interrupt_from(origin.as_ref(), Box::new(Unwind(Box::new(Expired(identity)))));
            };
            hub.add_timer(after(duration), TimerAction::Call(Box::new(expire)), true)
        };
        let outcome = catch_unwind(AssertUnwindSafe(function));
        if !hub.remove_timer(timer) {
            // It has expired; unless that is what ended the function, it must not hit what comes after.
            greenlet.retract_interrupt(|interrupt: &Interrupt| {
                interrupt
                    .downcast_ref::<Unwind>()
                    .and_then(|unwind| unwind.0.downcast_ref())
                    .is_some_and(|expired: &Expired| expired.0 == identity)
            });
        }
        match outcome {
            Ok(result) => Ok(result),
            Err(payload) if payload.downcast_ref().is_some_and(|expired: &Expired| expired.0 == identity) => {
                end_unwinding(&greenlet);
                Err(TimedOut)
            }
            Err(payload) => resume_unwind(payload),
        }
    }
}
