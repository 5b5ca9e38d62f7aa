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

fn broken_down(seconds: i64, function: unsafe extern "C" fn(*const i64, *mut libc::tm) -> *mut libc::tm) -> libc::tm {
    // SAFETY: a `tm` is plain numbers and a pointer, for which zeros are valid.
    let mut time: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid for the call; the functions are localtime_r and gmtime_r.
    unsafe { function(&raw const seconds, &raw mut time) };
    time
}

/// Appends the local time as Apache's log has it, `10/Oct/2026:13:55:36 -0700`.
pub fn append_log_time(line: &mut Vec<u8>, seconds: i64) {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let time = broken_down(seconds, libc::localtime_r);
    let minutes = time.tm_gmtoff / 60;
    // Writing to a vector can't fail.
    let _ = write!(
        line,
        "{:02}/{}/{:04}:{:02}:{:02}:{:02} {}{:02}{:02}",
        time.tm_mday,
        MONTHS.get(time.tm_mon as usize).unwrap_or(&"???"),
        time.tm_year + 1900,
        time.tm_hour,
        time.tm_min,
        time.tm_sec,
        if minutes < 0 { '-' } else { '+' },
        minutes.abs() / 60,
        minutes.abs() % 60
    );
}

/// Appends the time in UTC with milliseconds (RFC 3339).
pub fn append_utc_time(line: &mut Vec<u8>, seconds: f64) {
    let time = broken_down(seconds as i64, libc::gmtime_r);
    let _ = write!(
        line,
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        time.tm_year + 1900,
        time.tm_mon + 1,
        time.tm_mday,
        time.tm_hour,
        time.tm_min,
        time.tm_sec,
        (seconds.fract() * 1000.0) as u32
    );
}

/// Appends the local time of day, as `2026-09-30 12:00:00`.
fn append_local_time(line: &mut Vec<u8>, seconds: i64) {
    thread_local! {
        static LOCAL: RefCell<(i64, [u8; 19])> = const { RefCell::new((i64::MIN, [0; 19])) };
    }
    LOCAL.with_borrow_mut(|(known, value)| {
        if *known != seconds {
            let time = broken_down(seconds, libc::localtime_r);
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

/// Appends bytes of a latin-1 text, with escapes in place of control characters: a line that ends where a client wants, or
/// moves the cursor of a terminal, would say what did not happen. Else it is as gevent's.
fn append_without_controls(line: &mut Vec<u8>, bytes: &[u8]) {
    let is_control = |byte: &u8| matches!(byte, 0..=0x1f | 0x7f..=0x9f);
    if !bytes.iter().any(is_control) {
        line.extend_from_slice(bytes);
        return;
    }
    for byte in bytes {
        // Writing to a vector can't fail.
        let _ = if is_control(byte) { write!(line, "\\x{byte:02x}") } else { line.write_all(&[*byte]) };
    }
}

/// Makes the line: client, time, request line, status, bytes sent, seconds taken.
pub fn line(client: &[u8], request_line: &[u8], status: &[u8], length: u64, seconds: Option<f64>) -> Vec<u8> {
    let mut line = Vec::with_capacity(96 + request_line.len());
    line.extend_from_slice(if client.is_empty() { b"-" } else { client });
    line.extend_from_slice(b" - - [");
    append_local_time(&mut line, now() as i64);
    line.extend_from_slice(b"] \"");
    append_without_controls(&mut line, request_line);
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
