//! Requests that are malformed, or that two implementations could read differently, and what each is answered with.
//!
//! Every case names the RFC section that it is about. Each request is parsed whole and byte by byte: the verdict must
//! be the same.

#![forbid(unsafe_code)]

use greenrust::http::RequestError::*;
use greenrust::http::{BodyKind, ParseStatus, RequestError, RequestParser};

/// Parses `bytes` whole and byte by byte; returns the verdict on which both agree.
fn verdict(bytes: &[u8]) -> Result<ParseStatus, RequestError> {
    let whole = RequestParser::default().parse(bytes);
    let mut parser = RequestParser::default();
    let trickled = (0..=bytes.len())
        .map(|length| parser.parse(&bytes[..length]))
        .find(|result| *result != Ok(ParseStatus::Incomplete))
        .unwrap_or(Ok(ParseStatus::Incomplete));
    assert_eq!(whole, trickled, "whole and trickled differ: {:?}", String::from_utf8_lossy(bytes));
    whole
}

/// The rule with its section, what is put into the request, and the answer.
type Case = (&'static str, &'static str, RequestError, u16);

/// Checks that each case, made a request by `request`, is refused as it says.
fn assert_refused(cases: &[Case], request: impl Fn(&str) -> String) {
    for &(rule, part, error, status) in cases {
        assert!(rule.starts_with("RFC "), "{rule}");
        let request = request(part);
        assert_eq!(verdict(request.as_bytes()), Err(error), "{rule}: {request:?}");
        assert_eq!(error.status(), status, "{rule}");
    }
}

/// A request with these field lines behind a good request line and `Host`.
fn with_fields(lines: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: x\r\n{lines}\r\n\r\n")
}

/// A request with this request line and a good `Host`.
fn with_line(line: &str) -> String {
    format!("{line}\r\nHost: x\r\n\r\n")
}

#[test]
fn line_ends_other_than_crlf_are_refused() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("RFC 9112 2.2 bare LF behind the request line", "GET / HTTP/1.1\nHost: x\r\n\r\n", BareLineFeed, 400),
        ("RFC 9112 2.2 bare LF behind a field", "GET / HTTP/1.1\r\nHost: x\n\r\n", BareLineFeed, 400),
        ("RFC 9112 2.2 bare LF as the empty line", "GET / HTTP/1.1\r\nHost: x\r\n\n", BareLineFeed, 400),
        ("RFC 9112 2.2 bare LF before the request line", "\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", BareLineFeed, 400),
        ("RFC 9112 2.2 bare LF hides a field", "GET / HTTP/1.1\r\nHost: x\r\nA: b\nC: d\r\n\r\n", BareLineFeed, 400),
        ("RFC 9112 2.2 bare CR in a value", "GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n", HeaderValue, 400),
        (
            "RFC 9112 2.2 bare CR hides a field",
            "GET / HTTP/1.1\r\nHost: x\rContent-Length: 5\r\n\r\n",
            HeaderValue,
            400,
        ),
        ("RFC 9112 2.2 CR CR LF behind a value", "GET / HTTP/1.1\r\nHost: x\r\r\n\r\n", HeaderValue, 400),
        ("RFC 9112 2.2 CR CR LF behind the request line", "GET / HTTP/1.1\r\r\nHost: x\r\n\r\n", RequestLine, 400),
        ("RFC 9112 2.2 CR CR LF as the empty line", "GET / HTTP/1.1\r\nHost: x\r\n\r\r\n\r\n", HeaderName, 400),
        ("RFC 9112 2.2 bare CR begins a field line", "GET / HTTP/1.1\r\n\rHost: x\r\n\r\n", HeaderName, 400),
        ("RFC 9112 2.2 bare CR before the request line", "\rGET / HTTP/1.1\r\nHost: x\r\n\r\n", RequestLine, 400),
        ("RFC 9112 2.2 too many empty lines", "\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.0\r\n\r\n", EmptyLines, 400),
        ("RFC 9112 2.2 space before the first field", "GET / HTTP/1.1\r\n Host: x\r\n\r\n", FoldedLine, 400),
        ("RFC 9112 2.2 tab before the first field", "GET / HTTP/1.1\r\n\tHost: x\r\n\r\n", FoldedLine, 400),
    ];
    assert_refused(cases, str::to_owned);
}

#[test]
fn malformed_request_lines_are_refused() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("RFC 9112 3 no version (HTTP/0.9)", "GET /", RequestLine, 400),
        ("RFC 9112 3 method alone", "GET", RequestLine, 400),
        ("RFC 9112 3 no target", "GET HTTP/1.1", RequestLine, 400),
        ("RFC 9112 3 empty target", "GET  HTTP/1.1", RequestLine, 400),
        ("RFC 9112 3 two spaces before the target", "GET  / HTTP/1.1", RequestLine, 400),
        ("RFC 9112 3 two spaces behind the target", "GET /  HTTP/1.1", RequestLine, 400),
        ("RFC 9112 3 tab before the target", "GET\t/ HTTP/1.1", RequestLine, 400),
        ("RFC 9112 3 tab behind the target", "GET /\tHTTP/1.1", RequestLine, 400),
        ("RFC 9112 3 space at the end", "GET / HTTP/1.1 ", RequestLine, 400),
        ("RFC 9112 3 space at the begin", " GET / HTTP/1.1", RequestLine, 400),
        ("RFC 9112 3 vertical tab for a space", "GET\x0b/ HTTP/1.1", RequestLine, 400),
        ("RFC 9112 3.1 method is not a token", "GE(T / HTTP/1.1", RequestLine, 400),
        ("RFC 9112 3.1 method begins with a delimiter", "{} / HTTP/1.1", RequestLine, 400),
        ("RFC 9112 3.1 method beyond ASCII", "GÉT / HTTP/1.1", RequestLine, 400),
        ("RFC 9112 3.2 space in the target", "GET /a b HTTP/1.1", RequestLine, 400),
        ("RFC 9112 3.2 NUL in the target", "GET /\0 HTTP/1.1", RequestLine, 400),
        ("RFC 9112 3.2 DEL in the target", "GET /\x7f HTTP/1.1", RequestLine, 400),
        ("RFC 9112 3.2 fragment", "GET /a#b HTTP/1.1", RequestTarget, 400),
        ("RFC 9112 3.2.1 path without slash", "GET a/b HTTP/1.1", RequestTarget, 400),
        ("RFC 9112 3.2.1 query alone", "GET ?a HTTP/1.1", RequestTarget, 400),
        ("RFC 9112 3.2.2 no scheme", "GET ://x/ HTTP/1.1", RequestTarget, 400),
        ("RFC 9112 3.2.2 scheme without slashes", "GET http:/x HTTP/1.1", RequestTarget, 400),
        ("RFC 9110 4.2.1 empty host", "GET http:///a HTTP/1.1", RequestTarget, 400),
        ("RFC 9110 4.2.4 user information", "GET http://a@b/ HTTP/1.1", RequestTarget, 400),
        ("RFC 9112 3.2.3 authority without CONNECT", "GET x:80 HTTP/1.1", RequestTarget, 400),
        ("RFC 9112 3.2.3 CONNECT without port", "CONNECT x HTTP/1.1", RequestTarget, 400),
        ("RFC 9112 3.2.3 CONNECT with an empty port", "CONNECT x: HTTP/1.1", RequestTarget, 400),
        ("RFC 9112 3.2.3 CONNECT with a path", "CONNECT / HTTP/1.1", RequestTarget, 400),
        ("RFC 9112 3.2.4 asterisk without OPTIONS", "GET * HTTP/1.1", RequestTarget, 400),
        ("RFC 9112 2.3 version in lower case", "GET / http/1.1", RequestLine, 400),
        ("RFC 9112 2.3 version without minor", "GET / HTTP/1", RequestLine, 400),
        ("RFC 9112 2.3 two digits", "GET / HTTP/1.10", RequestLine, 400),
        ("RFC 9112 2.3 no digits", "GET / HTTP/x.y", RequestLine, 400),
        ("RFC 9112 2.3 other protocol", "GET / ICY/1.1", RequestLine, 400),
        ("RFC 9110 15.6.6 HTTP/2.0", "GET / HTTP/2.0", UnsupportedVersion, 505),
        ("RFC 9110 15.6.6 HTTP/0.9", "GET / HTTP/0.9", UnsupportedVersion, 505),
        ("RFC 9110 15.6.6 HTTP/1.2", "GET / HTTP/1.2", UnsupportedVersion, 505),
        ("RFC 9113 3.4 preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM", UnsupportedVersion, 505),
    ];
    assert_refused(cases, with_line);
}

#[test]
fn malformed_field_lines_are_refused() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("RFC 9112 5.1 space before the colon", "A : b", WhitespaceBeforeColon, 400),
        ("RFC 9112 5.1 tab before the colon", "A\t: b", WhitespaceBeforeColon, 400),
        ("RFC 9112 5.1 Content-Length with a space", "Content-Length : 5", WhitespaceBeforeColon, 400),
        ("RFC 9112 5.1 Transfer-Encoding with a space", "Transfer-Encoding : chunked", WhitespaceBeforeColon, 400),
        ("RFC 9112 5 no colon", "A", HeaderName, 400),
        ("RFC 9110 5.1 empty name", ": b", HeaderName, 400),
        ("RFC 9110 5.1 delimiter in a name", "A(: b", HeaderName, 400),
        ("RFC 9110 5.1 space in a name", "A b: c", HeaderName, 400),
        ("RFC 9110 5.1 NUL in a name", "A\0: b", HeaderName, 400),
        ("RFC 9110 5.1 name beyond ASCII", "É: b", HeaderName, 400),
        ("RFC 9112 5.2 folded by a space", "A: b\r\n c", FoldedLine, 400),
        ("RFC 9112 5.2 folded by a tab", "A: b\r\n\tc", FoldedLine, 400),
        ("RFC 9112 5.2 folded Transfer-Encoding", "Transfer-Encoding:\r\n chunked", FoldedLine, 400),
        ("RFC 9112 5.2 line of white space", "A: b\r\n ", FoldedLine, 400),
        ("RFC 9110 5.5 NUL in a value", "A: b\0c", HeaderValue, 400),
        ("RFC 9110 5.5 vertical tab", "A: \x0bb", HeaderValue, 400),
        ("RFC 9110 5.5 vertical tab before chunked", "Transfer-Encoding: \x0bchunked", HeaderValue, 400),
        ("RFC 9110 5.5 escape", "A: b\x1b", HeaderValue, 400),
        ("RFC 9110 5.5 DEL", "A: b\x7f", HeaderValue, 400),
    ];
    assert_refused(cases, with_fields);
}

#[test]
fn host_is_needed_once_and_well_formed() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("RFC 9112 3.2 no Host", "GET / HTTP/1.1\r\nA: b", MissingHost, 400),
        ("RFC 9112 3.2 no Host beside absolute-form", "GET http://x/ HTTP/1.1", MissingHost, 400),
        ("RFC 9112 3.2 two Hosts", "GET / HTTP/1.1\r\nHost: x\r\nHost: y", DuplicateHost, 400),
        ("RFC 9112 3.2 two equal Hosts", "GET / HTTP/1.1\r\nHost: x\r\nhOST: x", DuplicateHost, 400),
        ("RFC 9112 3.2 two Hosts, one empty", "GET / HTTP/1.1\r\nHost:\r\nHost: x", DuplicateHost, 400),
        ("RFC 9112 3.2 two Hosts in HTTP/1.0", "GET / HTTP/1.0\r\nHost: x\r\nHost: x", DuplicateHost, 400),
        ("RFC 9112 3.2 path", "GET / HTTP/1.1\r\nHost: x/y", InvalidHost, 400),
        ("RFC 9112 3.2 user information", "GET / HTTP/1.1\r\nHost: a@x", InvalidHost, 400),
        ("RFC 9112 3.2 list", "GET / HTTP/1.1\r\nHost: x, y", InvalidHost, 400),
        ("RFC 9112 3.2 port alone", "GET / HTTP/1.1\r\nHost: :80", InvalidHost, 400),
        ("RFC 9112 3.2 port is no number", "GET / HTTP/1.1\r\nHost: x:80a", InvalidHost, 400),
        ("RFC 9112 3.2 address without brackets", "GET / HTTP/1.1\r\nHost: ::1", InvalidHost, 400),
        ("RFC 9112 3.2 text behind the brackets", "GET / HTTP/1.1\r\nHost: [::1]x", InvalidHost, 400),
    ];
    assert_refused(cases, |head| format!("{head}\r\n\r\n"));
}

#[test]
fn content_length_is_one_number_of_digits() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("RFC 9110 8.6 empty", "", InvalidContentLength, 400),
        ("RFC 9110 8.6 plus sign", "+5", InvalidContentLength, 400),
        ("RFC 9110 8.6 minus sign", "-5", InvalidContentLength, 400),
        ("RFC 9110 8.6 minus zero", "-0", InvalidContentLength, 400),
        ("RFC 9110 8.6 underscore", "1_0", InvalidContentLength, 400),
        ("RFC 9110 8.6 hexadecimal", "0x5", InvalidContentLength, 400),
        ("RFC 9110 8.6 fraction", "5.0", InvalidContentLength, 400),
        ("RFC 9110 8.6 exponent", "5e0", InvalidContentLength, 400),
        ("RFC 9110 8.6 inner space", "5 5", InvalidContentLength, 400),
        ("RFC 9110 8.6 quoted", "\"5\"", InvalidContentLength, 400),
        ("RFC 9110 8.6 parameter", "5;a", InvalidContentLength, 400),
        ("RFC 9110 8.6 digit beyond ASCII", "٥", InvalidContentLength, 400),
        ("RFC 9110 8.6 beyond 64 bits", "18446744073709551616", InvalidContentLength, 400),
        ("RFC 9110 8.6 empty element", "5,", InvalidContentLength, 400),
        ("RFC 9110 8.6 list with text", "5, a", InvalidContentLength, 400),
        ("RFC 9112 6.3 list of unequal lengths", "5, 6", DuplicateContentLength, 400),
        ("RFC 9112 6.3 list of equal lengths", "5, 5", DuplicateContentLength, 400),
        ("RFC 9112 6.3 two unequal fields", "5\r\nContent-Length: 6", DuplicateContentLength, 400),
        ("RFC 9112 6.3 two equal fields", "5\r\ncontent-length: 5", DuplicateContentLength, 400),
    ];
    assert_refused(cases, |value| with_fields(&format!("Content-Length: {value}")));
}

#[test]
fn transfer_encoding_is_chunked_once_and_alone() {
    use ContentLengthWithTransferEncoding as WithLength;
    use InvalidTransferEncoding as Invalid;
    use UnknownTransferCoding as Unknown;
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("RFC 9112 6.1 before Content-Length", "chunked\r\nContent-Length: 0", WithLength, 400),
        ("RFC 9112 6.1 behind Content-Length", "chunked\r\nContent-Length: 5", WithLength, 400),
        ("RFC 9112 6.1 unknown coding with Content-Length", "x\r\nContent-Length: 5", WithLength, 400),
        ("RFC 9112 6.1 unknown coding", "xchunked", Unknown, 501),
        ("RFC 9112 6.1 identity", "identity", Unknown, 501),
        ("RFC 9112 6.1 coding that is not implemented", "gzip, chunked", Unknown, 501),
        ("RFC 9112 6.1 unknown coding with a parameter", "x;a=b, chunked", Unknown, 501),
        ("RFC 9112 6.1 unknown coding in a field before", "x\r\nTransfer-Encoding: chunked", Unknown, 501),
        ("RFC 9112 6.3 chunked not last", "chunked, gzip", ChunkedNotLast, 400),
        ("RFC 9112 6.3 chunked before an unknown coding", "chunked, x", ChunkedNotLast, 400),
        ("RFC 9112 6.3 no chunked", "gzip", ChunkedNotLast, 400),
        ("RFC 9112 6.3 no chunked in a list", "gzip, deflate", ChunkedNotLast, 400),
        ("RFC 9112 6.3 chunked not in the last field", "chunked\r\nTransfer-Encoding: identity", ChunkedNotLast, 400),
        ("RFC 9112 7.1 chunked twice", "chunked, chunked", ChunkedNotLast, 400),
        ("RFC 9112 7.1 chunked in two fields", "chunked\r\nTransfer-Encoding: chunked", ChunkedNotLast, 400),
        ("RFC 9112 7.1 chunked with a parameter", "chunked;a=b", Invalid, 400),
        ("RFC 9112 7.1 chunked with a semicolon", "chunked;", Invalid, 400),
        ("RFC 9112 6.1 empty", "", Invalid, 400),
        ("RFC 9110 5.6.1 empty element behind", "chunked,", Invalid, 400),
        ("RFC 9110 5.6.1 empty element before", ",chunked", Invalid, 400),
        ("RFC 9110 5.6.2 quoted", "\"chunked\"", Invalid, 400),
        ("RFC 9110 5.6.2 not a token", "chunked chunked", Invalid, 400),
    ];
    assert_refused(cases, |value| with_fields(&format!("Transfer-Encoding: {value}")));
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("RFC 9112 6.1 behind Content-Length", "1.1\r\nContent-Length: 5", WithLength, 400),
        ("RFC 9112 6.1 in HTTP/1.0", "1.0", TransferEncodingInHttp10, 400),
        ("RFC 9112 6.1 in HTTP/1.0 with Content-Length", "1.0\r\nContent-Length: 5", WithLength, 400),
    ];
    assert_refused(cases, |head| format!("POST / HTTP/{head}\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"));
}

#[test]
fn unusual_requests_that_are_clear_are_accepted() {
    #[rustfmt::skip]
    let cases = [
        ("RFC 9112 2.2 one empty line before", "\r\nGET / HTTP/1.1\r\nHost: x", BodyKind::None),
        ("RFC 9112 3.2 empty Host", "GET / HTTP/1.1\r\nHost:", BodyKind::None),
        ("RFC 9112 3.2 Host of an IPv6 address", "GET / HTTP/1.1\r\nHost: [::1]:8080 ", BodyKind::None),
        ("RFC 9112 3.2 Host with an empty port", "GET / HTTP/1.1\r\nHost: x:", BodyKind::None),
        ("RFC 9112 3.2 HTTP/1.0 needs no Host", "GET / HTTP/1.0", BodyKind::None),
        ("RFC 9112 3.2.2 absolute-form", "GET http://example.org/a?b HTTP/1.1\r\nHost: x", BodyKind::None),
        ("RFC 9112 3.2.3 authority-form", "CONNECT example.org:443 HTTP/1.1\r\nHost: x", BodyKind::None),
        ("RFC 9112 3.2.4 asterisk-form", "OPTIONS * HTTP/1.1\r\nHost: x", BodyKind::None),
        ("RFC 9112 3.2 text beyond ASCII is tolerated", "GET /日本 HTTP/1.1\r\nHost: x", BodyKind::None),
        ("RFC 9110 9.1 methods are open", "a-method! / HTTP/1.1\r\nHost: x", BodyKind::None),
        ("RFC 9112 5.1 no space behind the colon", "GET / HTTP/1.1\r\nHost:x\r\nA:b", BodyKind::None),
        ("RFC 9110 5.5 empty values", "GET / HTTP/1.1\r\nHost: x\r\nA:\r\nB: \t ", BodyKind::None),
        ("RFC 9110 5.5 tab and text beyond ASCII", "GET / HTTP/1.1\r\nHost: x\r\nA: b\tcé", BodyKind::None),
        ("RFC 9110 8.6 zero", "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0", BodyKind::Length(0)),
        ("RFC 9110 8.6 leading zeros", "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 0005", BodyKind::Length(5)),
        (
            "RFC 9110 8.6 largest",
            "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551615",
            BodyKind::Length(u64::MAX),
        ),
        ("RFC 9110 5.6.3 white space", "GET / HTTP/1.1\r\nHost: x\r\nContent-Length:\t 5 \t", BodyKind::Length(5)),
        ("RFC 9112 7 names have no case", "PUT / HTTP/1.1\r\nHost: x\r\ntRANSFER-eNCODING: CHUNKED", BodyKind::Chunked),
        ("RFC 9110 5.1 an underscore is another name", "PUT / HTTP/1.0\r\nContent_Length: x", BodyKind::None),
    ];
    for (rule, head, body) in cases {
        let bytes = format!("{head}\r\n\r\n").into_bytes();
        assert_eq!(verdict(&bytes), Ok(ParseStatus::Complete { consumed: bytes.len() }), "{rule}: {head:?}");
        let mut parser = RequestParser::default();
        parser.parse(&bytes).unwrap();
        assert_eq!(parser.head(&bytes).body_kind(), body, "{rule}");
    }
}

#[test]
fn bytes_that_are_no_utf8_are_refused_in_targets_and_accepted_in_values() {
    // RFC 9112 3.2: targets are ASCII; RFC 9110 5.5: obs-text in a value is opaque data.
    assert_eq!(verdict(b"GET /\xff HTTP/1.0\r\n\r\n"), Err(RequestLine));
    assert!(verdict(b"GET / HTTP/1.0\r\nA: \xff\xfe\r\n\r\n").is_ok());
}

#[test]
fn each_control_character_is_refused_wherever_it_stands() {
    // RFC 9110 5.5 and 5.6.2, RFC 9112 3: the parser looks at many bytes at once, so the character wanders through
    // every offset of a long value, name and target.
    for control in (0..=0x1f).chain([0x7f]).filter(|byte| !matches!(byte, b'\t' | b'\n' | b'\r')) {
        for offset in 0..70 {
            let mut text = [b'a'; 70];
            text[offset] = control;
            let value = [b"GET / HTTP/1.0\r\nA: ", &text[..], b"\r\n\r\n"].concat();
            assert_eq!(RequestParser::default().parse(&value), Err(HeaderValue), "{control:#x} at {offset}");
            let name = [b"GET / HTTP/1.0\r\n", &text[..], b": a\r\n\r\n"].concat();
            assert_eq!(RequestParser::default().parse(&name), Err(HeaderName), "{control:#x} at {offset}");
            let target = [b"GET /", &text[..], b" HTTP/1.0\r\n\r\n"].concat();
            assert_eq!(RequestParser::default().parse(&target), Err(RequestLine), "{control:#x} at {offset}");
        }
    }
}
