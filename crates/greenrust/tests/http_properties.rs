//! Properties of the HTTP module that hold for every input: how bytes are split does not matter, what is encoded is
//! decoded again, and an independent parser reads what is written.

#![forbid(unsafe_code)]

use std::num::NonZeroUsize;

use greenrust::http::{
    BodyDecoder, BodyError, BodyKind, CHUNK_END, LAST_CHUNK, ParseStatus, RequestError, RequestParser, ResponseEncoder,
    Version, encode_chunk_head,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

const TOKEN: &str = "[-!#$%&'*+.^_`|~0-9A-Za-z]{1,20}";

/// A field value without white space at its ends, in which bytes beyond ASCII stand too.
fn field_value() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![8 => 0x21..=0x7eu8, 1 => 0x80..=0xffu8, 1 => select(&b" \t"[..])];
    vec(byte, 0..60).prop_map(|value| value.trim_ascii().to_vec())
}

prop_compose! {
    fn good_request()(
        empty_lines in 0..=2usize,
        method in "[A-BD-Z][A-Z]{0,10}",
        path in "[-/._~a-zA-Z0-9%?&=]{0,80}",
        // The prefix keeps the names apart from those that the parser interprets.
        fields in vec((TOKEN.prop_map(|name| format!("X-{name}")), field_value()), 0..12),
        framing in select(&["", "Content-Length: 12\r\n", "Transfer-Encoding: chunked\r\n"][..]),
    ) -> Vec<u8> {
        let mut bytes = "\r\n".repeat(empty_lines).into_bytes();
        bytes.extend_from_slice(format!("{method} /{path} HTTP/1.1\r\nHost: example.org\r\n{framing}").as_bytes());
        for (name, value) in fields {
            bytes.extend_from_slice(&[name.as_bytes(), b": ", &value, b"\r\n"].concat());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes
    }
}

/// A good request with some bytes replaced, put in or taken out: most are malformed, each in another way.
fn damaged_request() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![3 => select(&b"\r\n \t:,\0/"[..]), 1 => any::<u8>()];
    (good_request(), vec((any::<Index>(), byte, 0..3u8), 1..4)).prop_map(|(mut bytes, damages)| {
        for (index, byte, kind) in damages {
            let position = index.index(bytes.len());
            match kind {
                0 => bytes[position] = byte,
                1 => bytes.insert(position, byte),
                _ => drop(bytes.remove(position)),
            }
        }
        bytes
    })
}

fn encode_chunks(chunks: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for chunk in chunks {
        if let Some(size) = NonZeroUsize::new(chunk.len()) {
            encode_chunk_head(&mut bytes, size);
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(CHUNK_END);
        }
    }
    bytes.extend_from_slice(LAST_CHUNK);
    bytes
}

fn damaged_chunks() -> impl Strategy<Value = Vec<u8>> {
    (vec(vec(any::<u8>(), 1..9), 0..4), any::<Index>(), any::<u8>()).prop_map(|(chunks, index, byte)| {
        let mut bytes = encode_chunks(&chunks);
        let position = index.index(bytes.len());
        bytes[position] = byte;
        bytes
    })
}

fn sorted_ends(splits: &[Index], length: usize) -> Vec<usize> {
    let mut ends: Vec<_> = splits.iter().map(|split| split.index(length + 1)).collect();
    ends.sort_unstable();
    ends.push(length);
    ends
}

/// All that a parsed head tells.
fn describe(parser: &RequestParser, bytes: &[u8]) -> String {
    let head = parser.head(bytes);
    let line = (head.method(), head.target(), head.version(), head.path_and_query(), head.authority());
    let decisions = (head.body_kind(), head.wants_keep_alive(), head.expects_continue(), head.upgrade());
    format!("{line:?} {decisions:?} {:?}", head.headers().collect::<Vec<_>>())
}

/// Parses `bytes` as they come in, split at `splits`.
fn parse(bytes: &[u8], splits: &[Index]) -> Result<(ParseStatus, Option<String>), RequestError> {
    let mut parser = RequestParser::default();
    for end in sorted_ends(splits, bytes.len()) {
        // A buffer of its own each time: the parser must not rely on where the bytes lie.
        let piece = bytes[..end].to_vec();
        let status = parser.parse(&piece)?;
        if status != ParseStatus::Incomplete {
            return Ok((status, Some(describe(&parser, &piece))));
        }
    }
    Ok((ParseStatus::Incomplete, None))
}

/// Decodes `bytes` split at `splits`; returns the data and where the body ends.
fn decode(kind: BodyKind, bytes: &[u8], splits: &[Index]) -> Result<(Vec<u8>, usize), BodyError> {
    let mut decoder = BodyDecoder::new(kind, None)?;
    let mut data = Vec::new();
    let mut position = 0;
    for end in sorted_ends(splits, bytes.len()) {
        while position < end && !decoder.is_finished() {
            let piece = &bytes[position..end];
            let decoded = decoder.decode(piece)?;
            assert!(decoded.consumed > 0, "no progress");
            data.extend_from_slice(&piece[decoded.data]);
            position += decoded.consumed;
        }
    }
    decoder.end_of_stream()?;
    Ok((data, position))
}

proptest! {
    #[test]
    fn good_request_is_accepted_however_it_is_split(bytes in good_request(), splits in vec(any::<Index>(), 0..6)) {
        let whole = parse(&bytes, &[]);
        let status = whole.clone().map(|(status, _)| status);
        prop_assert_eq!(status, Ok(ParseStatus::Complete { consumed: bytes.len() }));
        prop_assert_eq!(whole, parse(&bytes, &splits));
    }

    #[test]
    fn damaged_request_gets_one_verdict_however_it_is_split(
        bytes in damaged_request(),
        splits in vec(any::<Index>(), 0..6),
    ) {
        prop_assert_eq!(parse(&bytes, &[]), parse(&bytes, &splits));
    }

    #[test]
    fn bytes_behind_the_head_change_nothing(bytes in good_request(), rest in vec(any::<u8>(), 0..40)) {
        let alone = parse(&bytes, &[]);
        prop_assert_eq!(alone, parse(&[bytes, rest].concat(), &[]));
    }

    #[test]
    fn accepted_head_has_no_other_reading(bytes in damaged_request()) {
        let mut parser = RequestParser::default();
        if let Ok(ParseStatus::Complete { consumed }) = parser.parse(&bytes) {
            // Whoever ends lines at CRLF, at LF or at CR, and heads at the first empty line, finds the same lines.
            let head = bytes[..consumed].trim_ascii_start();
            let pairs = head.windows(2).filter(|pair| pair == b"\r\n").count();
            prop_assert_eq!(head.windows(4).position(|window| window == b"\r\n\r\n"), Some(head.len() - 4));
            prop_assert_eq!(head.iter().filter(|&&byte| byte == b'\n').count(), pairs);
            prop_assert_eq!(head.iter().filter(|&&byte| byte == b'\r').count(), pairs);
            prop_assert_eq!(parser.head(&bytes).headers().len(), pairs - 2);
        }
    }

    #[test]
    fn chunks_give_back_the_data_however_they_are_split(
        chunks in vec(vec(any::<u8>(), 0..40), 0..10),
        rest in vec(any::<u8>(), 0..10),
        splits in vec(any::<Index>(), 0..9),
    ) {
        let bytes = encode_chunks(&chunks);
        let length = bytes.len();
        let stream = [bytes, rest].concat();
        prop_assert_eq!(decode(BodyKind::Chunked, &stream, &splits), Ok((chunks.concat(), length)));
    }

    #[test]
    fn damaged_chunks_get_one_verdict_however_they_are_split(
        bytes in damaged_chunks(),
        splits in vec(any::<Index>(), 0..6),
    ) {
        prop_assert_eq!(decode(BodyKind::Chunked, &bytes, &[]), decode(BodyKind::Chunked, &bytes, &splits));
    }

    #[test]
    fn body_of_known_length_ends_there(
        stream in vec(any::<u8>(), 0..60),
        length in 0..40usize,
        splits in vec(any::<Index>(), 0..6),
    ) {
        let expected =
            stream.get(..length).map(|data| (data.to_vec(), length)).ok_or(BodyError::Truncated);
        prop_assert_eq!(decode(BodyKind::Length(length as u64), &stream, &splits), expected);
    }

    #[test]
    fn httparse_reads_what_the_encoder_writes(
        code in 100..=999u16,
        reason in proptest::option::of("[ -~]{0,30}"),
        fields in vec((TOKEN, field_value()), 0..20),
        length in any::<u64>(),
    ) {
        let mut out = b"earlier".to_vec();
        let status = reason.as_ref().map(|reason| format!("{code} {reason}"));
        let mut head = match &status {
            Some(status) => ResponseEncoder::with_status(&mut out, Version::Http11, status.as_bytes()),
            None => ResponseEncoder::new(&mut out, Version::Http11, code),
        }.unwrap();
        for (name, value) in &fields {
            head.header(name.as_bytes(), value).unwrap();
        }
        head.content_length(length);
        head.finish();

        let mut storage = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut storage);
        let written = out.strip_prefix(b"earlier").unwrap();
        prop_assert_eq!(response.parse(written), Ok(httparse::Status::Complete(written.len())));
        prop_assert_eq!((response.version, response.code), (Some(1), Some(code)));
        if let Some(reason) = &reason {
            prop_assert_eq!(response.reason, Some(reason.as_str()));
        }
        let read: Vec<_> = response.headers.iter().map(|field| (field.name.to_owned(), field.value.to_vec())).collect();
        let mut expected = fields;
        expected.push(("Content-Length".to_owned(), length.to_string().into_bytes()));
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn encoder_writes_no_line_that_was_not_asked_for(
        status in "[1-9][0-9]{2}( [a-z\r\n\0]{0,4})?",
        name in "[a-z\r\n\0: ]{0,4}",
        value in vec(prop_oneof![any::<u8>(), select(&b"\r\n\0"[..])], 0..4),
    ) {
        let mut out = Vec::new();
        let written = ResponseEncoder::with_status(&mut out, Version::Http11, status.as_bytes()).and_then(|mut head| {
            head.header(name.as_bytes(), &value)?;
            head.finish();
            Ok(())
        });
        let line_ends = out.iter().filter(|byte| matches!(byte, b'\r' | b'\n' | 0)).count();
        prop_assert_eq!(line_ends, if written.is_ok() { 6 } else { 0 });
        prop_assert_eq!(out.is_empty(), written.is_err());
    }
}
