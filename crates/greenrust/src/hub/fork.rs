//! The hub in the child of a fork.

#![forbid(unsafe_code)]

use std::io::Result as IoResult;

use super::{Hub, RawGreenlet, Remote};

impl Hub {
    /// Makes the hub usable in the child of a fork, which shares the parent's pollers: registers everything anew.
    ///
    /// # Errors
    ///
    /// The kernel's, when there is no descriptor left.
    pub fn reinit_after_fork(&self) -> IoResult<()> {
        use std::os::fd::AsFd;
        if self.remote.borrow().is_none() {
            return Ok(());
        }
        let remote = Remote::new()?;
        if let Some(inner) = &*self.inner_loop.borrow() {
            inner.io.borrow_mut().reinit(remote.wakeup().as_fd())?;
        }
        *self.remote.borrow_mut() = Some(remote);
        Ok(())
    }

    /// Has only the running greenlet go on in the child of a fork, as only one thread does: what was scheduled is
    /// forgotten, and no wake-up reaches `others` any more. Nothing of theirs is dropped, so nothing of it runs; whoever
    /// calls this keeps their handles for good.
    pub fn leave_behind(&self, others: &[RawGreenlet]) {
        for greenlet in others {
            if !self.is_running(greenlet) {
                greenlet.void_park();
            }
        }
        std::mem::forget(self.queue.take());
        std::mem::forget(self.timers.borrow_mut().take_all());
        self.timer_references.set(0);
        self.disregarded.set(0);
        if let Some(inner) = &*self.inner_loop.borrow() {
            inner.io.borrow_mut().leave_behind();
        }
    }
}
