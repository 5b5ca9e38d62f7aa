//! A head that differs from the one before in method and target alone.
//!
//! What [`RequestParser::read_head`](super::RequestParser) finds out about version and fields follows from their bytes and
//! the limits, which stay. So a head with the same bytes there needs no second look at them; each byte of method and
//! target is judged as ever. Whatever is out of the ordinary takes the long way.

#![forbid(unsafe_code)]

use super::{RequestParser, Span};
use crate::http::syntax::is_token;

/// Fields longer than this are not remembered, bytes.
const REMEMBERED_BYTES: usize = 2048;

/// No registered method is longer (IANA's Hypertext Transfer Protocol Method Registry); others take the long way.
const LONGEST_METHOD: usize = 18;

/// Bytes of the version behind the target, with white space in between.
const VERSION_BYTES: usize = " HTTP/1.1".len();

const fn target_bytes() -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = b'!';
    while byte <= b'~' {
        // RFC 9112 section 3.2: no form of a target has a fragment.
        table[byte as usize] = byte != b'#';
        byte += 1;
    }
    table
}

static TARGET_BYTES: [bool; 256] = target_bytes();

impl RequestParser {
    /// Remembers what followed the target of an accepted head.
    #[inline]
    pub(super) fn remember(&mut self, tail: &[u8]) {
        if tail.len() <= REMEMBERED_BYTES {
            self.tail.extend_from_slice(tail);
        }
    }

    /// Forgets the head before, and gives its memory back.
    pub fn release_memory(&mut self) {
        self.tail = Vec::new();
    }

    /// Accepts a head at the begin of `buffer` if it equals the one before behind its target, and both method and target
    /// are plain. Returns its length.
    #[inline]
    pub(super) fn repeat(&mut self, buffer: &[u8]) -> Option<usize> {
        // A head of which a part was looked at before takes the long way on.
        if self.tail.is_empty() || self.search.searched > 0 {
            return None;
        }
        let space = buffer.iter().take(LONGEST_METHOD + 1).position(|&byte| byte == b' ')?;
        let method = &buffer[..space];
        let start = space + 1;
        // RFC 9112 section 3.2.1, origin-form: the only one that most methods may have, but CONNECT may not.
        if buffer.get(start) != Some(&b'/') || !is_token(method) || method == b"CONNECT" {
            return None;
        }
        let length = buffer[start..].iter().position(|&byte| !TARGET_BYTES[usize::from(byte)])?;
        let end = start + length;
        if end + VERSION_BYTES > self.limits.request_line_bytes || !buffer[end..].starts_with(&self.tail) {
            return None;
        }
        self.method = Span { start: 0, end: space };
        self.target = Span { start, end };
        Some(end + self.tail.len())
    }
}
