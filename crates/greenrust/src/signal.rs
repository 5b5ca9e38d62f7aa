//! Signals, as something that a greenlet waits for.

#![forbid(unsafe_code)]

use std::io::{self, Read};
use std::os::unix::net;

use signal_hook::SigId;

use crate::socket::UnixStream;

/// Takes note of a signal, from its creation until it is dropped. Meanwhile the signal does not end the process.
///
/// ```no_run
/// use greenrust::signal::{SIGINT, Signal};
///
/// let mut interrupt = Signal::new(SIGINT)?;
/// interrupt.wait()?;
/// println!("stopping");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Signal {
    stream: UnixStream,
    registration: SigId,
}

pub use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};

impl Signal {
    /// Begins to take note of the signal of this number.
    ///
    /// # Errors
    ///
    /// The kernel's; EINVAL for a number that is no signal.
    ///
    /// # Panics
    ///
    /// For signals that can't be handled: SIGKILL, SIGSTOP, SIGSEGV, SIGFPE, SIGILL.
    pub fn new(signal: i32) -> io::Result<Self> {
        // The handler writes a byte; what arrives in a burst may be seen once.
        let (receiver, sender) = net::UnixStream::pair()?;
        let registration = signal_hook::low_level::pipe::register(signal, sender)?;
        Ok(Self { stream: UnixStream::from_std(receiver)?, registration })
    }

    /// Waits until the signal has arrived since the last call.
    ///
    /// # Errors
    ///
    /// The kernel's.
    ///
    /// # Switches
    ///
    /// Unless it has arrived already.
    pub fn wait(&mut self) -> io::Result<()> {
        self.stream.read(&mut [0; 64]).map(drop)
    }
}

impl Drop for Signal {
    fn drop(&mut self) {
        signal_hook::low_level::unregister(self.registration);
    }
}
