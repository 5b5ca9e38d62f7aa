//! The value of the `Date` field, formatted once a second.
//!
//! [`DateCache`] owns the 29 bytes of an IMF-fixdate (RFC 9110 section 5.6.7) and the second that they tell. It has
//! no clock: the caller passes the current time, so that a mock clock works and one reading serves a whole hub
//! iteration.

#![forbid(unsafe_code)]

use std::io::Write;
use std::time::{Duration, UNIX_EPOCH};

/// The last second of the year 9999, beyond which an IMF-fixdate has no room for the year.
const LAST_SECOND: u64 = 253_402_300_799;

/// The `Date` value of the most recent second asked for.
#[derive(Clone, Debug)]
pub struct DateCache {
    unix_seconds: u64,
    value: [u8; 29],
}

impl DateCache {
    /// Creates a cache that holds the value for `unix_seconds`, seconds since 1970-01-01T00:00:00Z.
    #[must_use]
    pub fn new(unix_seconds: u64) -> Self {
        Self { unix_seconds, value: format_date(unix_seconds) }
    }

    /// Returns the value for `unix_seconds`, formatting only if it is another second than the last time.
    ///
    /// The time may go backwards. A time beyond the year 9999 gives that year's last second.
    #[inline]
    pub fn value_at(&mut self, unix_seconds: u64) -> &[u8; 29] {
        if unix_seconds != self.unix_seconds {
            *self = Self::new(unix_seconds);
        }
        &self.value
    }
}

fn format_date(unix_seconds: u64) -> [u8; 29] {
    let instant = UNIX_EPOCH + Duration::from_secs(unix_seconds.min(LAST_SECOND));
    let mut value = [b' '; 29];
    write!(&mut value[..], "{}", httpdate::HttpDate::from(instant)).expect("an IMF-fixdate has 29 bytes");
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_is_an_imf_fixdate() {
        // The example of RFC 9110 section 5.6.7.
        assert_eq!(DateCache::new(784_111_777).value_at(784_111_777), b"Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(DateCache::new(0).value_at(0), b"Thu, 01 Jan 1970 00:00:00 GMT");
    }

    #[test]
    fn value_follows_the_second_in_both_directions() {
        let mut cache = DateCache::new(784_111_777);
        assert_eq!(cache.value_at(784_111_778), b"Sun, 06 Nov 1994 08:49:38 GMT");
        assert_eq!(cache.value_at(784_111_778), b"Sun, 06 Nov 1994 08:49:38 GMT");
        assert_eq!(cache.value_at(784_111_776), b"Sun, 06 Nov 1994 08:49:36 GMT");
    }

    #[test]
    fn value_stops_at_the_end_of_the_year_9999() {
        let mut cache = DateCache::new(u64::MAX);
        assert_eq!(cache.value_at(u64::MAX), b"Fri, 31 Dec 9999 23:59:59 GMT");
        assert_eq!(cache.value_at(LAST_SECOND), b"Fri, 31 Dec 9999 23:59:59 GMT");
    }
}
