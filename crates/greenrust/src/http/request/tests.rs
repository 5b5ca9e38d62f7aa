//! Tests of the parser of request heads.

#![forbid(unsafe_code)]

use super::*;

fn parse(bytes: &[u8]) -> Result<RequestParser, RequestError> {
    let mut parser = RequestParser::default();
    match parser.parse(bytes)? {
        ParseStatus::Complete { consumed } => assert_eq!(consumed, bytes.len()),
        ParseStatus::Incomplete => panic!("incomplete: {:?}", String::from_utf8_lossy(bytes)),
    }
    Ok(parser)
}

fn with_fields(version: &str, fields: &str) -> Vec<u8> {
    format!("GET / {version}\r\nHost: x\r\n{fields}\r\n").into_bytes()
}

#[test]
fn parts_of_a_head_are_found() {
    let bytes = b"GET /a%20b?c=d&e HTTP/1.1\r\nHost: example.org:8080\r\n\
        Accept:*/*\r\nX-Empty:\r\nX-Tab:\t v w \t\r\n\r\n";
    let parser = parse(bytes).unwrap();
    let head = parser.head(bytes);
    assert_eq!(head.method(), b"GET");
    assert_eq!(head.target(), b"/a%20b?c=d&e");
    assert_eq!(head.path_and_query(), (&b"/a%20b"[..], Some(&b"c=d&e"[..])));
    assert_eq!(head.version(), Version::Http11);
    assert_eq!(head.authority(), Some(&b"example.org:8080"[..]));
    assert_eq!(head.body_kind(), BodyKind::None);
    let fields: Vec<_> = head.headers().map(|header| (header.name, header.value)).collect();
    let expected: [(&[u8], &[u8]); 4] =
        [(b"Host", b"example.org:8080"), (b"Accept", b"*/*"), (b"X-Empty", b""), (b"X-Tab", b"v w")];
    assert_eq!(fields, expected);
    assert_eq!(head.header("x-tab"), Some(&b"v w"[..]));
    assert_eq!(head.header("x-none"), None);
}

#[test]
fn bytes_behind_the_head_are_left_alone() {
    let bytes = b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\nbroken";
    let mut parser = RequestParser::default();
    assert_eq!(parser.parse(bytes), Ok(ParseStatus::Complete { consumed: 28 }));
    assert_eq!(parser.head(bytes).target(), b"/1");
    assert_eq!(parser.parse(&bytes[28..]), Err(RequestError::BareLineFeed));
}

#[test]
fn parser_serves_one_request_after_another_without_traces() {
    let first = b"POST / HTTP/1.0\r\nConnection: keep-alive, upgrade\r\nUpgrade: x\r\nContent-Length: 3\r\n\r\n";
    let second = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut parser = RequestParser::default();
    parser.parse(first).unwrap();
    assert!(parser.head(first).has_connection_keep_alive());
    assert_eq!(parser.head(first).content_length(), Some(3));
    parser.parse(second).unwrap();
    let head = parser.head(second);
    assert!(!head.has_connection_keep_alive());
    assert_eq!(head.body_kind(), BodyKind::None);
    assert_eq!(head.upgrade(), None);
    assert_eq!(head.headers().len(), 1);
}

#[test]
fn parser_begins_anew_after_an_error() {
    let good = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut parser = RequestParser::default();
    assert!(parser.parse(b"GET / HTTP/1.1\r\nHost: x\n").is_err());
    assert!(!parser.has_partial_head());
    assert_eq!(parser.parse(good), Ok(ParseStatus::Complete { consumed: good.len() }));
}

#[test]
fn partial_head_is_told_from_an_idle_connection() {
    let mut parser = RequestParser::default();
    assert_eq!(parser.parse(b""), Ok(ParseStatus::Incomplete));
    assert!(!parser.has_partial_head());
    assert_eq!(parser.parse(b"\r\n"), Ok(ParseStatus::Incomplete));
    assert!(!parser.has_partial_head());
    for partial in [&b"\r\nG"[..], b"\r\nGET / HTTP/1.0\r\n"] {
        assert_eq!(parser.parse(partial), Ok(ParseStatus::Incomplete));
        assert!(parser.has_partial_head());
    }
    parser = RequestParser::default();
    parser.parse(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    assert!(!parser.has_partial_head());
}

#[test]
#[should_panic(expected = "no complete request head")]
fn head_panics_before_a_head_is_complete() {
    let mut parser = RequestParser::default();
    let _ = parser.parse(b"GET / HTTP/1.1\r\n");
    let _ = parser.head(b"GET / HTTP/1.1\r\n");
}

#[test]
fn limits_accept_what_is_at_them_and_refuse_one_more() {
    let limits = RequestLimits { request_line_bytes: 20, header_bytes: 30, header_count: 3, ..RequestLimits::DEFAULT };
    let verdict = |bytes: &[u8]| {
        let mut whole = RequestParser::new(limits);
        let mut trickling = RequestParser::new(limits);
        let whole = whole.parse(bytes);
        let trickled = (0..=bytes.len())
            .map(|length| trickling.parse(&bytes[..length]))
            .find(|result| *result != Ok(ParseStatus::Incomplete))
            .unwrap_or(Ok(ParseStatus::Incomplete));
        assert_eq!(whole, trickled, "{:?}", String::from_utf8_lossy(bytes));
        whole
    };
    assert!(verdict(b"GET /567890 HTTP/1.0\r\n\r\n").is_ok());
    assert_eq!(verdict(b"GET /5678901 HTTP/1.0\r\n\r\n"), Err(RequestError::RequestLineTooLong));
    assert_eq!(verdict(b"GET /5678901 HTTP/1.0"), Ok(ParseStatus::Incomplete), "one byte may be a CR");
    assert_eq!(verdict(b"GET /56789012 HTTP/1.0"), Err(RequestError::RequestLineTooLong));
    assert!(verdict(b"GET / HTTP/1.0\r\nA: 45678901234567890123456\r\n\r\n").is_ok());
    assert_eq!(verdict(b"GET / HTTP/1.0\r\nA: 456789012345678901234567\r\n\r\n"), Err(RequestError::HeadersTooLarge));
    assert!(verdict(b"GET / HTTP/1.0\r\nA:\r\nA:\r\nA:\r\n\r\n").is_ok());
    assert_eq!(verdict(b"GET / HTTP/1.0\r\nA:\r\nA:\r\nA:\r\nA:\r\n\r\n"), Err(RequestError::TooManyHeaders));
    assert_eq!(RequestError::RequestLineTooLong.status(), 414);
    assert_eq!(RequestError::HeadersTooLarge.status(), 431);
    assert_eq!(RequestError::TooManyHeaders.status(), 431);
}

#[test]
fn default_limits_are_those_documented() {
    let head = |target: usize, value: usize, count: usize| {
        let mut bytes = format!("GET /{} HTTP/1.0\r\n", "a".repeat(target)).into_bytes();
        bytes.extend_from_slice(format!("V:{}\r\n", "v".repeat(value)).as_bytes());
        bytes.extend_from_slice("A:\r\n".repeat(count).as_bytes());
        bytes.extend_from_slice(b"\r\n");
        RequestParser::default().parse(&bytes).map(|_| ())
    };
    let line = "GET / HTTP/1.0".len();
    assert_eq!(head(8192 - line, 0, 0), Ok(()));
    assert_eq!(head(8193 - line, 0, 0), Err(RequestError::RequestLineTooLong));
    assert_eq!(head(0, 65536 - 6, 0), Ok(()));
    assert_eq!(head(0, 65537 - 6, 0), Err(RequestError::HeadersTooLarge));
    assert_eq!(head(0, 0, 99), Ok(()));
    assert_eq!(head(0, 0, 100), Err(RequestError::TooManyHeaders));
}

#[test]
fn more_fields_than_fit_the_stack_are_parsed() {
    let limits = RequestLimits { header_count: 1000, ..RequestLimits::default() };
    let mut bytes = b"GET / HTTP/1.0\r\n".to_vec();
    for number in 0..1000 {
        bytes.extend_from_slice(format!("N: {number}\r\n").as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    let mut parser = RequestParser::new(limits);
    assert_eq!(parser.parse(&bytes), Ok(ParseStatus::Complete { consumed: bytes.len() }));
    assert_eq!(parser.head(&bytes).headers().next_back().unwrap().value, b"999");
}

#[test]
fn first_byte_that_starts_no_method_is_refused_at_once() {
    for bytes in [&b"\x16"[..], b"\x00", b" ", b"\t", b":", b"\x80", b"\r\n\x16"] {
        assert_eq!(RequestParser::default().parse(bytes), Err(RequestError::RequestLine), "{bytes:?}");
    }
}

#[test]
fn empty_lines_before_the_request_line_are_skipped_up_to_four() {
    let mut bytes = "\r\n".repeat(4);
    bytes.push_str("GET / HTTP/1.0\r\n\r\n");
    let parser = parse(bytes.as_bytes()).unwrap();
    assert_eq!(parser.head(bytes.as_bytes()).method(), b"GET");
    bytes.insert_str(0, "\r\n");
    assert_eq!(parse(bytes.as_bytes()).unwrap_err(), RequestError::EmptyLines);
}

#[test]
fn persistence_follows_version_and_options() {
    for (version, fields, wanted) in [
        ("HTTP/1.1", "", true),
        ("HTTP/1.1", "Connection: close\r\n", false),
        ("HTTP/1.1", "Connection: Close\r\n", false),
        ("HTTP/1.1", "Connection: foo, ,close ,bar\r\n", false),
        ("HTTP/1.1", "Connection: foo\r\nConnection: close\r\n", false),
        ("HTTP/1.1", "Connection: closed\r\n", true),
        ("HTTP/1.1", "Connection: keep-alive, close\r\n", false),
        ("HTTP/1.0", "", false),
        ("HTTP/1.0", "Connection: Keep-Alive\r\n", true),
        ("HTTP/1.0", "Connection: keep-alive, close\r\n", false),
    ] {
        let bytes = with_fields(version, fields);
        assert_eq!(parse(&bytes).unwrap().head(&bytes).wants_keep_alive(), wanted, "{version} {fields:?}");
    }
}

#[test]
fn continue_is_expected_only_in_http11_with_a_body() {
    for (version, fields, expected) in [
        ("HTTP/1.1", "Expect: 100-continue\r\nContent-Length: 1\r\n", true),
        ("HTTP/1.1", "Expect: 100-Continue\r\nTransfer-Encoding: chunked\r\n", true),
        ("HTTP/1.1", "Expect: 100-continue\r\nContent-Length: 0\r\n", false),
        ("HTTP/1.1", "Expect: 100-continue\r\n", false),
        ("HTTP/1.1", "Expect: something\r\nContent-Length: 1\r\n", false),
        ("HTTP/1.0", "Expect: 100-continue\r\nContent-Length: 1\r\n", false),
    ] {
        let bytes = with_fields(version, fields);
        assert_eq!(parse(&bytes).unwrap().head(&bytes).expects_continue(), expected, "{version} {fields:?}");
    }
}

#[test]
fn upgrade_needs_the_connection_option_and_http11() {
    for (version, fields, upgrade) in [
        ("HTTP/1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\n", Some(&b"websocket"[..])),
        ("HTTP/1.1", "Upgrade: websocket\r\nConnection: keep-alive, upgrade\r\n", Some(b"websocket")),
        ("HTTP/1.1", "Upgrade: websocket\r\n", None),
        ("HTTP/1.1", "Connection: upgrade\r\n", None),
        ("HTTP/1.0", "Connection: Upgrade\r\nUpgrade: websocket\r\n", None),
    ] {
        let bytes = with_fields(version, fields);
        assert_eq!(parse(&bytes).unwrap().head(&bytes).upgrade(), upgrade, "{version} {fields:?}");
    }
}

#[test]
fn target_forms_give_path_query_and_authority() {
    type Parts = (&'static str, Option<&'static str>, &'static str);
    let cases: [(&str, &str, Parts); 8] = [
        ("GET", "/", ("/", None, "h")),
        ("GET", "//a?", ("//a", Some(""), "h")),
        ("GET", "/a?b?c", ("/a", Some("b?c"), "h")),
        ("GET", "http://other:1/a?b", ("/a", Some("b"), "other:1")),
        ("GET", "http://other", ("/", None, "other")),
        ("GET", "http://[::1]?b", ("/", Some("b"), "[::1]")),
        ("OPTIONS", "*", ("*", None, "h")),
        ("CONNECT", "other:443", ("", None, "other:443")),
    ];
    for (method, target, (path, query, authority)) in cases {
        let bytes = format!("{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes();
        let parser = parse(&bytes).unwrap();
        let head = parser.head(&bytes);
        assert_eq!(head.path_and_query(), (path.as_bytes(), query.map(str::as_bytes)), "{target}");
        assert_eq!(head.authority(), Some(authority.as_bytes()), "{target}");
    }
}

/// What a head says, and what is left behind it.
type Verdict = Result<Option<(usize, Vec<u8>, Vec<u8>, String)>, RequestError>;

fn verdict(parser: &mut RequestParser, bytes: &[u8]) -> Verdict {
    match parser.parse(bytes)? {
        ParseStatus::Incomplete => Ok(None),
        ParseStatus::Complete { consumed } => {
            let head = parser.head(bytes);
            let (path, query) = head.path_and_query();
            let fields: Vec<_> = head.headers().collect();
            let facts = (head.version(), head.body_kind(), head.authority(), head.wants_keep_alive(), head.upgrade());
            let more = format!("{path:?} {query:?} {fields:?} {facts:?} {}", head.expects_continue());
            Ok(Some((consumed, head.method().to_vec(), head.target().to_vec(), more)))
        }
    }
}

/// A parser that has accepted a head with these bytes behind its target.
fn parser_after(tail: &str, limits: RequestLimits) -> RequestParser {
    let mut parser = RequestParser::new(limits);
    let before = format!("GET / {tail}");
    assert!(matches!(parser.parse(before.as_bytes()), Ok(ParseStatus::Complete { .. })));
    parser
}

const REPEATED: &str = "HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: y\r\nContent-Length: 3\r\n\r\n";

#[test]
fn repeated_fields_change_no_verdict_on_method_and_target() {
    let limits = RequestLimits { request_line_bytes: 40, ..RequestLimits::DEFAULT };
    let mut lines: Vec<Vec<u8>> = [
        "GET /",
        "POST /a?b=c",
        "CONNECT /",
        "CONNECT x:1",
        "OPTIONS *",
        "GET *",
        "GET http://y/z",
        "GET x",
        "GET",
        "GET  /",
        "GET / ",
        " GET /",
        "\r\nGET /",
        "\r\n\r\n\r\n\r\n\r\nGET /",
        "GET /a b",
        "/",
        "",
        "UPDATEREDIRECTREF /",
        "METHODTHATISTOOLONG /",
        "GET /é",
    ]
    .map(|line| line.as_bytes().to_vec())
    .to_vec();
    lines.extend((20..40).map(|length| [&b"GET /"[..], &b"x".repeat(length - 5)].concat()));
    for byte in 0..=255u8 {
        lines.extend([vec![b'G', byte, b'T', b' ', b'/'], vec![b'G', b' ', b'/', byte, b'x'], vec![byte]]);
        lines.extend([vec![b'G', b' ', byte, b'x'], vec![b'G', byte, b'/']]);
    }
    for line in lines {
        let bytes = [&line[..], b" ", REPEATED.as_bytes(), b"abc"].concat();
        let anew = verdict(&mut RequestParser::new(limits), &bytes);
        assert_eq!(verdict(&mut parser_after(REPEATED, limits), &bytes), anew, "{:?}", String::from_utf8_lossy(&line));
    }
}

#[test]
fn fields_that_differ_anywhere_are_read_anew() {
    let whole = format!("GET /a {REPEATED}");
    for place in 0..whole.len() {
        for byte in [0, b'\n', b' ', b'0', b'x', 0x80] {
            let mut bytes = whole.clone().into_bytes();
            bytes[place] = byte;
            let anew = verdict(&mut RequestParser::default(), &bytes);
            let mut parser = parser_after(REPEATED, RequestLimits::DEFAULT);
            assert_eq!(verdict(&mut parser, &bytes), anew, "{:?}", String::from_utf8_lossy(&bytes));
            // Whatever came, the next head is judged as by a parser that has seen none.
            let next = verdict(&mut RequestParser::default(), whole.as_bytes());
            if anew.as_ref().is_ok_and(Option::is_some) || anew.is_err() {
                assert_eq!(verdict(&mut parser, whole.as_bytes()), next);
            }
        }
    }
}

#[test]
fn repeated_head_in_pieces_is_one_head() {
    let whole = format!("GET /a {REPEATED}");
    let anew = verdict(&mut RequestParser::default(), whole.as_bytes());
    for place in 0..whole.len() {
        let mut parser = parser_after(REPEATED, RequestLimits::DEFAULT);
        assert_eq!(verdict(&mut parser, &whole.as_bytes()[..place]), Ok(None));
        assert_eq!(verdict(&mut parser, whole.as_bytes()), anew);
        assert!(!parser.has_partial_head());
        assert_eq!(verdict(&mut parser, whole.as_bytes()), anew);
    }
}

#[test]
fn nothing_of_what_has_begun_is_left_after_a_reset() {
    let whole = format!("GET /a {REPEATED}");
    let anew = verdict(&mut RequestParser::default(), whole.as_bytes());
    for begun in ["\r\n", "\r\n\r", "GET", "GET / HTTP/1.1\r\nHost: x\r\n"] {
        let mut parser = RequestParser::default();
        assert_eq!(verdict(&mut parser, begun.as_bytes()), Ok(None));
        parser.reset();
        assert!(!parser.has_partial_head());
        assert_eq!(verdict(&mut parser, b""), Ok(None));
        assert_eq!(verdict(&mut parser, whole.as_bytes()), anew);
    }
}
