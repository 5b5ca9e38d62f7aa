//! The algorithm by which threads hand work to a waiting one and end its wait.
//!
//! A sender pushes under the lock, then rings the bell, unless somebody has since the receiver last emptied the box. The
//! receiver silences the bell, clears that mark, and then empties the box; so a push that comes after the emptying finds
//! the mark cleared, and rings again. A closed box refuses: what it accepted before is given to whoever closes it.
//!
//! `tests/loom_remote.rs` compiles this very file with loom's types in the place of `sync`, and tries all interleavings.

#![forbid(unsafe_code)]

use super::sync::{AtomicBool, Mutex, Ordering};

/// What the receiver waits for.
pub trait Bell {
    /// Ends the receiver's wait, or its next one.
    fn ring(&self);
    /// Takes [`Bell::ring`] back.
    fn silence(&self);
}

/// Work for one thread from all others.
#[derive(Debug)]
pub struct Mailbox<J, B> {
    /// `None` once the box is closed.
    jobs: Mutex<Option<Vec<J>>>,
    has_rung: AtomicBool,
    bell: B,
}

impl<J, B: Bell> Mailbox<J, B> {
    pub fn new(bell: B) -> Self {
        Self { jobs: Mutex::new(Some(Vec::new())), has_rung: AtomicBool::new(false), bell }
    }

    pub fn bell(&self) -> &B {
        &self.bell
    }

    /// Hands a job over, or gives it back if the box is closed.
    pub fn post(&self, job: J) -> Result<(), J> {
        match &mut *self.jobs.lock().expect("pushing does not panic") {
            Some(jobs) => jobs.push(job),
            None => return Err(job),
        }
        self.wake();
        Ok(())
    }

    /// Ends the receiver's wait, if it waits.
    pub fn wake(&self) {
        if !self.has_rung.swap(true, Ordering::AcqRel) {
            self.bell.ring();
        }
    }

    /// Says whether somebody has rung since [`Mailbox::take`].
    pub fn has_rung(&self) -> bool {
        self.has_rung.load(Ordering::Acquire)
    }

    /// Empties the box; for the receiver.
    pub fn take(&self) -> Vec<J> {
        self.bell.silence();
        // A swap, so that all changes of the mark have one order that each thread agrees on.
        self.has_rung.swap(false, Ordering::AcqRel);
        let mut jobs = self.jobs.lock().expect("pushing does not panic");
        jobs.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Closes the box and returns what was left in it; for the receiver.
    pub fn close(&self) -> Vec<J> {
        self.jobs.lock().expect("pushing does not panic").take().unwrap_or_default()
    }
}
