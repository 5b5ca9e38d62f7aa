//! Time: instants in nanoseconds of a monotonic clock, real or mock.
//!
//! A [`Clock`] belongs to a hub. The mock clock stands still until a test advances it; a hub with a mock clock never
//! sleeps for a timer, it advances the clock to the earliest one instead, so that tests of time take no time.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::time::Duration;

/// Nanoseconds since an arbitrary origin: a monotonic clock's reading, or a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    /// Later than every instant that a clock shows.
    pub const NEVER: Instant = Instant(u64::MAX);

    /// Returns the instant `duration` later; a duration beyond 584 years gives [`Instant::NEVER`].
    #[inline]
    #[must_use]
    pub fn after(self, duration: Duration) -> Instant {
        let nanoseconds =
            duration.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(duration.subsec_nanos()));
        Instant(self.0.saturating_add(nanoseconds))
    }

    /// Returns how long it is from `earlier` to `self`; zero if it is not earlier.
    #[inline]
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Returns the reading in nanoseconds.
    #[inline]
    pub fn as_nanos(self) -> u64 {
        self.0
    }
}

/// A monotonic clock.
#[derive(Debug)]
pub struct Clock {
    /// The mock's reading; `None` for the real clock.
    mock: Option<Cell<u64>>,
}

impl Clock {
    /// Returns the system's monotonic clock.
    pub const fn real() -> Self {
        Self { mock: None }
    }

    /// Returns a clock that stands still until it is advanced.
    pub const fn mock() -> Self {
        Self { mock: Some(Cell::new(1)) }
    }

    /// Says whether this is a mock clock.
    pub fn is_mock(&self) -> bool {
        self.mock.is_some()
    }

    /// Reads the clock.
    #[inline]
    pub fn now(&self) -> Instant {
        match &self.mock {
            None => {
                let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
                Instant(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
            }
            Some(reading) => Instant(reading.get()),
        }
    }

    /// Moves a mock clock forward to `instant`; a real clock moves by itself.
    pub fn advance_to(&self, instant: Instant) {
        if let Some(reading) = &self.mock {
            reading.set(reading.get().max(instant.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mock_clock_moves_only_when_it_is_advanced_and_never_back() {
        let clock = Clock::mock();
        let start = clock.now();
        assert_eq!(clock.now(), start);
        clock.advance_to(start.after(Duration::from_secs(2)));
        clock.advance_to(start);
        assert_eq!(clock.now().since(start), Duration::from_secs(2));
    }

    #[test]
    fn a_far_deadline_saturates_instead_of_wrapping() {
        assert_eq!(Clock::real().now().after(Duration::MAX), Instant::NEVER);
    }
}
