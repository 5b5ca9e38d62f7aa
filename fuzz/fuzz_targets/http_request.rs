//! Request heads: no input panics, a verdict does not depend on how the bytes are split, and an accepted head has one
//! reading only.
//!
//! `cargo +nightly fuzz run http_request`

#![no_main]

use greenrust::http::{ParseStatus, RequestError, RequestParser};
use libfuzzer_sys::fuzz_target;

/// Parses `bytes` as reads of `step` bytes would bring them.
fn parse(bytes: &[u8], step: usize) -> (RequestParser, Result<ParseStatus, RequestError>) {
    let mut parser = RequestParser::default();
    let mut end = 0;
    loop {
        end = (end + step).min(bytes.len());
        let status = parser.parse(&bytes[..end]);
        if status != Ok(ParseStatus::Incomplete) || end == bytes.len() {
            return (parser, status);
        }
    }
}

fuzz_target!(|input: (u8, &[u8])| {
    let (step, bytes) = input;
    let (parser, status) = parse(bytes, usize::MAX / 2);
    assert_eq!(status, parse(bytes, usize::from(step).max(1)).1);
    let Ok(ParseStatus::Complete { consumed }) = status else {
        return;
    };
    let head = parser.head(bytes);
    assert!(!head.method().is_empty() && !head.target().is_empty());
    let _ = (head.path_and_query(), head.authority(), head.upgrade());
    for header in head.headers() {
        assert!(!header.name.is_empty());
        assert!(
            !header
                .value
                .iter()
                .any(|byte| matches!(byte, b'\r' | b'\n' | 0))
        );
    }
    let lines = bytes[..consumed].trim_ascii_start();
    let line_ends = lines.windows(2).filter(|pair| pair == b"\r\n").count();
    assert_eq!(
        lines.iter().filter(|&&byte| byte == b'\n').count(),
        line_ends
    );
    assert_eq!(head.headers().len(), line_ends - 2);
});
