//! Wake-ups and work from other threads.

#![forbid(unsafe_code)]

mod mailbox;

/// What `mailbox` synchronizes with; its test puts loom's in the place.
mod sync {
    pub(super) use std::sync::Mutex;
    pub(super) use std::sync::atomic::{AtomicBool, Ordering};
}

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;

use mailbox::{Bell, Mailbox};

use super::Hub;
use crate::sys::Wakeup;

/// Work for another thread's hub.
pub type Job = Box<dyn FnOnce(&Hub) + Send>;

impl Bell for Wakeup {
    fn ring(&self) {
        self.raise();
    }

    fn silence(&self) {
        self.lower();
    }
}

/// A handle by which any thread reaches a hub. It outlives the hub: then jobs are refused.
#[derive(Clone)]
pub struct Remote {
    mailbox: Arc<Mailbox<Job, Wakeup>>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Remote(descriptor {})", self.descriptor())
    }
}

impl Remote {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { mailbox: Arc::new(Mailbox::new(Wakeup::new()?)) })
    }

    /// Has the hub's thread run `job` in its loop. Returns false if the hub is gone. Never blocks for long.
    pub fn post(&self, job: impl FnOnce(&Hub) + Send + 'static) -> bool {
        self.mailbox.post(Box::new(job)).is_ok()
    }

    /// Ends the hub's wait, if it waits.
    pub fn wake(&self) {
        self.mailbox.wake();
    }

    /// Returns the eventfd that ends the hub's wait: a signal handler may write to it as [`Remote::wake`] does.
    pub fn descriptor(&self) -> RawFd {
        self.wakeup().as_raw_fd()
    }

    pub(super) fn wakeup(&self) -> &Wakeup {
        self.mailbox.bell()
    }

    /// Says whether somebody has raised the wake-up since [`Remote::take`].
    pub(super) fn is_raised(&self) -> bool {
        self.mailbox.has_rung()
    }

    pub(super) fn take(&self) -> Vec<Job> {
        self.mailbox.take()
    }

    pub(super) fn close(&self) {
        drop(self.mailbox.close());
    }
}
