//! Wake-ups and work from other threads.
//!
//! The algorithm, which `tests/loom_remote.rs` checks: a sender pushes under the lock, then raises the wake-up
//! descriptor unless somebody has since the hub last emptied the queue. The hub lowers the descriptor, clears the mark,
//! then empties the queue; so a push that comes after the emptying finds the mark cleared and raises again.

#![forbid(unsafe_code)]

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::Hub;
use crate::sys::Wakeup;

/// Work for another thread's hub.
pub type Job = Box<dyn FnOnce(&Hub) + Send>;

struct Shared {
    jobs: Mutex<Vec<Job>>,
    raised: AtomicBool,
    closed: AtomicBool,
    wakeup: Wakeup,
}

/// A handle by which any thread reaches a hub. It outlives the hub: then jobs are refused.
#[derive(Clone)]
pub struct Remote {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Remote(descriptor {})", self.shared.wakeup.as_raw_fd())
    }
}

impl Remote {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            shared: Arc::new(Shared {
                jobs: Mutex::new(Vec::new()),
                raised: AtomicBool::new(false),
                closed: AtomicBool::new(false),
                wakeup: Wakeup::new()?,
            }),
        })
    }

    /// Has the hub's thread run `job` in its loop. Returns false if the hub is gone. Never blocks for long.
    pub fn post(&self, job: impl FnOnce(&Hub) + Send + 'static) -> bool {
        if self.shared.closed.load(Ordering::Acquire) {
            return false;
        }
        self.shared.jobs.lock().expect("pushing does not panic").push(Box::new(job));
        self.wake();
        true
    }

    /// Ends the hub's wait, if it waits.
    pub fn wake(&self) {
        if !self.shared.raised.swap(true, Ordering::AcqRel) {
            self.shared.wakeup.raise();
        }
    }

    /// Returns the eventfd that ends the hub's wait: a signal handler may write to it as [`Remote::wake`] does.
    pub fn descriptor(&self) -> std::os::fd::RawFd {
        self.shared.wakeup.as_raw_fd()
    }

    pub(super) fn wakeup(&self) -> &Wakeup {
        &self.shared.wakeup
    }

    /// Says whether somebody has raised the wake-up since [`Remote::take`].
    pub(super) fn is_raised(&self) -> bool {
        self.shared.raised.load(Ordering::Acquire)
    }

    pub(super) fn take(&self) -> Vec<Job> {
        self.shared.wakeup.lower();
        self.shared.raised.store(false, Ordering::Release);
        std::mem::take(&mut *self.shared.jobs.lock().expect("pushing does not panic"))
    }

    pub(super) fn close(&self) {
        self.shared.closed.store(true, Ordering::Release);
        drop(self.take());
    }
}
