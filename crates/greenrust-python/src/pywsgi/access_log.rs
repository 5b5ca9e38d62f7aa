//! The line that the access log gets for each request, and the time of day for it and for `Date`.

use std::cell::RefCell;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use greenrust::http::DateCache;

/// Seconds since the epoch, with fractions: `time.time()`.
#[inline]
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Gives the value of `Date` for a time to `function`.
pub fn with_date<R>(seconds: f64, function: impl FnOnce(&[u8; 29]) -> R) -> R {
    thread_local! {
        static DATE: RefCell<DateCache> = RefCell::new(DateCache::new(0));
    }
    DATE.with_borrow_mut(|cache| function(cache.value_at(seconds as u64)))
}

/// Appends the local time of day, as `2026-09-30 12:00:00`.
fn append_local_time(line: &mut Vec<u8>, seconds: i64) {
    thread_local! {
        static LOCAL: RefCell<(i64, [u8; 19])> = const { RefCell::new((i64::MIN, [0; 19])) };
    }
    LOCAL.with_borrow_mut(|(known, value)| {
        if *known != seconds {
            // SAFETY: a `tm` is plain numbers and a pointer, for which zeros are valid.
            let mut time: libc::tm = unsafe { std::mem::zeroed() };
            // SAFETY: both pointers are valid for the call.
            unsafe { libc::localtime_r(&raw const seconds, &raw mut time) };
            let written = write!(
                &mut value[..],
                "{:04}-{:02}-{:02} {:02}:{:02}:{:02}",
                time.tm_year + 1900,
                time.tm_mon + 1,
                time.tm_mday,
                time.tm_hour,
                time.tm_min,
                time.tm_sec
            );
            debug_assert!(written.is_ok(), "a date of this millennium has 19 bytes");
            *known = seconds;
        }
        line.extend_from_slice(value);
    });
}

/// Makes the line: client, time, request line, status, bytes sent, seconds taken.
pub fn line(client: &[u8], request_line: &[u8], status: &[u8], length: u64, seconds: Option<f64>) -> Vec<u8> {
    let mut line = Vec::with_capacity(96 + request_line.len());
    line.extend_from_slice(if client.is_empty() { b"-" } else { client });
    line.extend_from_slice(b" - - [");
    append_local_time(&mut line, now() as i64);
    line.extend_from_slice(b"] \"");
    line.extend_from_slice(request_line);
    line.extend_from_slice(b"\" ");
    line.extend_from_slice(status);
    // Writing to a vector can't fail.
    let _ = match (length, seconds) {
        (0, None) => write!(line, " - -"),
        (length, None) => write!(line, " {length} -"),
        (0, Some(seconds)) => write!(line, " - {seconds:.6}"),
        (length, Some(seconds)) => write!(line, " {length} {seconds:.6}"),
    };
    line
}
