//! A connection's requests, one after the other: no input panics, each step gets on, and where one request ends and the
//! next begins does not depend on how the bytes are split.
//!
//! `scripts/fuzz http_connection`

#![no_main]

use greenrust::http::{BodyDecoder, BodyKind, ParseStatus, RequestParser};
use libfuzzer_sys::fuzz_target;

/// Takes at most this much of a body, in bytes.
const MAX_BODY: u64 = 1 << 16;

/// What a server makes of a connection's bytes: a line for each head, body and refusal.
///
/// `step` is how many bytes each read brings.
fn serve(bytes: &[u8], step: usize) -> Vec<String> {
    let mut told = Vec::new();
    let mut start = 0;
    loop {
        let mut parser = RequestParser::default();
        let mut end = start;
        let (consumed, kind, ends) = loop {
            end = (end + step).min(bytes.len());
            match parser.parse(&bytes[start..end]) {
                Ok(ParseStatus::Complete { consumed }) => {
                    let head = parser.head(&bytes[start..end]);
                    let ends = !head.wants_keep_alive() || head.upgrade().is_some();
                    told.push(format!(
                        "{:?} {:?} {:?}",
                        head.method(),
                        head.target(),
                        head.body_kind()
                    ));
                    break (consumed, head.body_kind(), ends);
                }
                Ok(ParseStatus::Incomplete) if end < bytes.len() => {}
                Ok(ParseStatus::Incomplete) => return told,
                Err(error) => {
                    told.push(format!("{error:?}"));
                    return told;
                }
            }
        };
        start += consumed;
        let mut decoder = match BodyDecoder::new(kind, Some(MAX_BODY)) {
            Ok(decoder) => decoder,
            Err(error) => {
                told.push(format!("{error:?}"));
                return told;
            }
        };
        let mut body = Vec::new();
        while !decoder.is_finished() {
            let piece = &bytes[start..(start + step).min(bytes.len())];
            if piece.is_empty() {
                assert!(decoder.end_of_stream().is_err() || kind == BodyKind::None);
                return told;
            }
            match decoder.decode(piece) {
                Ok(decoded) => {
                    assert!(decoded.consumed > 0);
                    body.extend_from_slice(&piece[decoded.data]);
                    start += decoded.consumed;
                }
                Err(error) => {
                    told.push(format!("{error:?}"));
                    return told;
                }
            }
        }
        assert!(body.len() as u64 <= MAX_BODY);
        told.push(format!("{body:?}"));
        if ends {
            return told;
        }
    }
}

fuzz_target!(|input: (u8, &[u8])| {
    let (step, bytes) = input;
    let whole = serve(bytes, usize::MAX / 2);
    assert_eq!(whole, serve(bytes, usize::from(step).max(1)));
});
