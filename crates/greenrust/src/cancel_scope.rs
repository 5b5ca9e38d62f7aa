//! Cancel scopes: regions of code that can be ended from outside, by a call or by a deadline.
//!
//! Cancelling is *level-triggered*: once a scope is cancelled, every blocking call in it unwinds, not only the next one,
//! until the scope is left. A `Drop` that runs meanwhile may block: it is part of the unwinding. A shielded scope holds
//! back what comes from outside of it (cancelled scopes, kills, timeouts) until it is left.
//!
//! Scopes nest, and those of a [`crate::TaskGroup`]'s greenlets stand below the group's. What [`crate::spawn`] starts is
//! in no scope.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::time::Duration;

use crate::greenlet::{ScopeCancelled, after, end_unwinding};
use crate::hub::{Hub, Scope};

/// A scope's function did not return: the scope was cancelled first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cancelled;

impl fmt::Display for Cancelled {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("the scope was cancelled")
    }
}

impl std::error::Error for Cancelled {}

/// A region of code that can be cancelled. Cloning gives another handle, by which others cancel it.
///
/// ```
/// use greenrust::{CancelScope, sleep, spawn};
/// use std::time::Duration;
///
/// let scope = CancelScope::new();
/// let remote = scope.clone();
/// spawn(move || remote.cancel());
/// assert!(scope.run(|| sleep(Duration::from_secs(60))).is_err());
/// ```
#[derive(Debug, Clone, Default)]
pub struct CancelScope {
    scope: Scope,
    duration: Rc<Cell<Option<Duration>>>,
}

impl CancelScope {
    /// Creates a scope without deadline or shield.
    pub fn new() -> Self {
        Self::default()
    }

    /// Has the scope cancelled when its function has run for `duration`.
    #[must_use = "this is the scope with the deadline"]
    pub fn with_duration(self, duration: Duration) -> Self {
        self.duration.set(Some(duration));
        self
    }

    /// Has the scope hold back what comes from outside of it: cancelled scopes, kills, timeouts.
    #[must_use = "this is the scope with the shield"]
    pub fn shielded(self) -> Self {
        self.scope.set_shield(true);
        self
    }

    /// Cancels the scope; before its function runs, too. Does not switch.
    pub fn cancel(&self) {
        self.scope.cancel();
    }

    /// Says whether the scope was cancelled, or its deadline has passed.
    pub fn is_cancelled(&self) -> bool {
        self.scope.is_cancelled()
    }

    /// Runs `function` in the scope.
    ///
    /// # Errors
    ///
    /// [`Cancelled`] if the scope was cancelled and a blocking call of the function has unwound for that. A function that
    /// returns all the same has a result.
    ///
    /// # Panics
    ///
    /// If the function does; if the scope was used before.
    ///
    /// # Cancellation
    ///
    /// A kill, a timeout or an outer scope unwinds through this one, unless it is shielded: then afterwards.
    pub fn run<T>(&self, function: impl FnOnce() -> T) -> Result<T, Cancelled> {
        assert!(!self.scope.was_entered(), "a cancel scope is used once");
        let hub = Hub::current();
        let greenlet = hub.running();
        greenlet.enter_scope(&self.scope);
        self.scope.set_deadline(hub, self.duration.get().map(after));
        let outcome = catch_unwind(AssertUnwindSafe(function));
        let is_own = self.scope.is_cancelled() && !self.scope.is_reached_from_above();
        assert!(greenlet.leave_scope(&self.scope), "a cancel scope was left in another greenlet");
        self.scope.close(hub);
        match outcome {
            Ok(result) => Ok(result),
            Err(payload) if is_own && payload.is::<ScopeCancelled>() => {
                end_unwinding(&greenlet);
                Err(Cancelled)
            }
            Err(payload) => resume_unwind(payload),
        }
    }
}

/// Runs `function` for no longer than `duration`; None if its time was over first.
///
/// ```
/// use greenrust::{move_on_after, sleep};
/// use std::time::Duration;
///
/// assert_eq!(move_on_after(Duration::from_millis(1), || sleep(Duration::from_secs(60))), None);
/// assert_eq!(move_on_after(Duration::from_secs(60), || 42), Some(42));
/// ```
///
/// Unlike [`crate::Timeout`], it is level-triggered: see [the module](self).
pub fn move_on_after<T>(duration: Duration, function: impl FnOnce() -> T) -> Option<T> {
    CancelScope::new().with_duration(duration).run(function).ok()
}
