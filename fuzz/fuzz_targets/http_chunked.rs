//! Chunked bodies: no input panics, each call gets on, and neither data nor verdict depends on how the bytes are split.
//!
//! `cargo +nightly fuzz run http_chunked`

#![no_main]

use greenrust::http::{BodyDecoder, BodyError, BodyKind};
use libfuzzer_sys::fuzz_target;

/// Decodes `bytes` in pieces of `step` bytes; returns the data and where the body ends.
fn decode(bytes: &[u8], step: usize, max_bytes: u64) -> Result<(Vec<u8>, usize), BodyError> {
    let mut decoder = BodyDecoder::new(BodyKind::Chunked, Some(max_bytes))?;
    let mut data = Vec::new();
    let mut position = 0;
    while position < bytes.len() && !decoder.is_finished() {
        let piece = &bytes[position..(position + step).min(bytes.len())];
        let decoded = decoder.decode(piece)?;
        assert!(decoded.consumed > 0);
        data.extend_from_slice(&piece[decoded.data]);
        position += decoded.consumed;
    }
    decoder.end_of_stream()?;
    Ok((data, position))
}

fuzz_target!(|input: (u8, u16, &[u8])| {
    let (step, max_bytes, bytes) = input;
    let whole = decode(bytes, usize::MAX / 2, max_bytes.into());
    assert_eq!(
        whole,
        decode(bytes, usize::from(step).max(1), max_bytes.into())
    );
    if let Ok((data, end)) = whole {
        assert!(data.len() <= usize::from(max_bytes));
        assert!(bytes[..end].ends_with(b"\r\n"));
    }
});
