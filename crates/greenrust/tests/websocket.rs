//! A connection's reaction to frames, case by case as the Autobahn test suite groups them, and to any splitting of its input.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};
use greenrust::websocket::{Connection, DeflateParameters, Event, Options, ProtocolError, SendError};
use proptest::prelude::*;

const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CONTINUE: u8 = 0x0;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;
const FINAL: u8 = 0x80;
const RSV1: u8 = 0x40;

/// A client's frame, masked.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..126 => bytes.push(0x80 | length as u8),
        length @ 126..65536 => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

fn close_payload(code: u16, reason: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes(), reason].concat()
}

/// What was received, in a form that can be kept and compared.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(u16, String),
    Error(ProtocolError),
}

/// Gives `input` to the connection in pieces of the sizes given, the rest at once.
fn receive(connection: &mut Connection, input: &[u8], sizes: &[usize]) -> (Vec<Seen>, Vec<u8>) {
    let (mut seen, mut output) = (Vec::new(), Vec::new());
    let mut rest = input;
    let mut sizes = sizes.iter();
    while !rest.is_empty() {
        let size = sizes.next().map_or(rest.len(), |&size| size.clamp(1, rest.len()));
        let (piece, behind) = rest.split_at(size);
        rest = behind;
        let mut pending = piece;
        // What a step leaves of a piece, a head that is not whole, comes again with the next.
        let mut carried: Vec<u8>;
        loop {
            let mut used = 0;
            let event = connection.receive(pending, &mut used, &mut output);
            match event {
                Ok(Some(event)) => seen.push(match event {
                    Event::Text(text) => Seen::Text(text.to_owned()),
                    Event::Binary(data) => Seen::Binary(data.to_vec()),
                    Event::Ping(data) => Seen::Ping(data.to_vec()),
                    Event::Pong(data) => Seen::Pong(data.to_vec()),
                    Event::Close(code, reason) => Seen::Close(code, reason.to_owned()),
                }),
                Ok(None) => {
                    if used < pending.len() && !rest.is_empty() {
                        carried = [&pending[used..], &rest[..1]].concat();
                        rest = &rest[1..];
                        pending = Box::leak(std::mem::take(&mut carried).into_boxed_slice());
                        continue;
                    }
                    break;
                }
                Err(error) => {
                    seen.push(Seen::Error(error));
                    return (seen, output);
                }
            }
            pending = &pending[used..];
        }
    }
    (seen, output)
}

fn plain() -> Connection {
    Connection::new(Options::default(), None)
}

/// Runs frames through a connection three times: whole, byte by byte, and in pieces of 3.
fn check(name: &str, input: &[u8], expected: &[Seen], answer: &[u8]) {
    for sizes in [vec![], vec![1; input.len()], vec![3; input.len()]] {
        let (seen, output) = receive(&mut plain(), input, &sizes);
        assert_eq!(seen, expected, "{name} in pieces of {:?}", sizes.first());
        assert_eq!(output, answer, "{name}: answer in pieces of {:?}", sizes.first());
    }
}

fn server_close(code: u16, reason: &str) -> Vec<u8> {
    let payload = close_payload(code, reason.as_bytes());
    [&[0x88, payload.len() as u8][..], &payload].concat()
}

fn check_refused(name: &str, input: &[u8], before: &[Seen], error: ProtocolError) {
    let expected = [before, &[Seen::Error(error)]].concat();
    for sizes in [vec![], vec![1; input.len()]] {
        let (seen, output) = receive(&mut plain(), input, &sizes);
        assert_eq!(seen, expected, "{name}");
        assert!(output.ends_with(&server_close(error.close_code(), error.reason())), "{name}: {output:?}");
    }
}

#[test]
fn messages_of_every_length_form_arrive() {
    // Autobahn 1.1 and 1.2.
    for length in [0, 1, 125, 126, 127, 128, 65535, 65536, 300_000] {
        let text = "*".repeat(length);
        let expected = [Seen::Text(text.clone())];
        assert_eq!(receive(&mut plain(), &frame(FINAL | TEXT, text.as_bytes()), &[]).0, expected);
        let data = vec![0xfe; length];
        let (seen, _) = receive(&mut plain(), &frame(FINAL | BINARY, &data), &[1000; 400]);
        assert_eq!(seen, [Seen::Binary(data)], "{length}");
    }
}

#[test]
fn pings_are_answered_at_once_and_pongs_reported() {
    // Autobahn 2.
    check("empty ping", &frame(FINAL | PING, b""), &[Seen::Ping(vec![])], &[0x8a, 0]);
    let payload = [0xfe; 125];
    let answer = [&[0x8a, 125][..], &payload].concat();
    check("longest ping", &frame(FINAL | PING, &payload), &[Seen::Ping(payload.to_vec())], &answer);
    check("unsolicited pong", &frame(FINAL | PONG, b"x"), &[Seen::Pong(b"x".to_vec())], b"");
    check_refused("ping of 126 bytes", &frame(FINAL | PING, &[0; 126]), &[], ProtocolError::Control);
    check_refused("fragmented ping", &frame(PING, b"x"), &[], ProtocolError::Control);
}

#[test]
fn reserved_bits_and_opcodes_are_refused() {
    // Autobahn 3 and 4.
    for bits in [0x10, 0x20, 0x30, RSV1, 0x70] {
        for opcode in [TEXT, BINARY, PING, CLOSE] {
            check_refused("reserved bits", &frame(FINAL | bits | opcode, b"x"), &[], ProtocolError::ReservedBits);
        }
    }
    for opcode in [0x3, 0x4, 0x7, 0xb, 0xc, 0xf] {
        check_refused("reserved opcode", &frame(FINAL | opcode, b""), &[], ProtocolError::Opcode);
    }
    let good = frame(FINAL | TEXT, b"good");
    let after = [good, frame(FINAL | 0x5, b"")].concat();
    check_refused("opcode after a message", &after, &[Seen::Text("good".into())], ProtocolError::Opcode);
}

#[test]
fn fragments_are_joined_and_control_frames_may_come_between() {
    // Autobahn 5.
    let joined = [frame(TEXT, b"frag"), frame(CONTINUE, b""), frame(FINAL | CONTINUE, b"ment")].concat();
    check("fragments", &joined, &[Seen::Text("fragment".into())], b"");
    let between = [frame(TEXT, b"frag"), frame(FINAL | PING, b"p"), frame(FINAL | CONTINUE, b"ment")].concat();
    check("ping between", &between, &[Seen::Ping(b"p".to_vec()), Seen::Text("fragment".into())], &[0x8a, 1, b'p']);
    check_refused("nothing to continue", &frame(FINAL | CONTINUE, b"x"), &[], ProtocolError::Fragmentation);
    check_refused("nothing to continue yet", &frame(CONTINUE, b"x"), &[], ProtocolError::Fragmentation);
    let inside = [frame(TEXT, b"frag"), frame(FINAL | TEXT, b"other")].concat();
    check_refused("message inside a message", &inside, &[], ProtocolError::Fragmentation);
    let again = [frame(TEXT, b"a"), frame(FINAL | CONTINUE, b"b"), frame(FINAL | CONTINUE, b"c")].concat();
    check_refused("after the end", &again, &[Seen::Text("ab".into())], ProtocolError::Fragmentation);
}

#[test]
fn text_is_checked_as_it_arrives() {
    // Autobahn 6.
    let text = "Hello-µ@ßöäüàá-UTF-8!!";
    let bytes = text.as_bytes();
    for split in 0..=bytes.len() {
        let input = [frame(TEXT, &bytes[..split]), frame(FINAL | CONTINUE, &bytes[split..])].concat();
        check("split anywhere", &input, &[Seen::Text(text.into())], b"");
    }
    for bad in [
        &b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited"[..], // a surrogate
        b"\xf4\x90\x80\x80",                                                    // beyond U+10FFFF
        b"\xc0\xaf",                                                            // overlong
        b"\xf8\x88\x80\x80\x80",
        b"\x80",
        b"\xfe\xff",
    ] {
        check_refused("no UTF-8", &frame(FINAL | TEXT, bad), &[], ProtocolError::Utf8);
    }
    check_refused("cut character", &frame(FINAL | TEXT, b"\xce\xba\xe1"), &[], ProtocolError::Utf8);
    // The message goes on, and is refused all the same.
    check_refused("before the end", &frame(TEXT, b"\xf4\x90"), &[], ProtocolError::Utf8);
    for good in ["\u{0}", "\u{7f}", "\u{7ff}", "\u{ffff}", "\u{10ffff}", "\u{fffe}", "\u{e000}"] {
        check("any character", &frame(FINAL | TEXT, good.as_bytes()), &[Seen::Text(good.into())], b"");
    }
}

#[test]
fn closes_are_answered_and_end_the_reading() {
    // Autobahn 7.
    check("without a code", &frame(FINAL | CLOSE, b""), &[Seen::Close(1005, String::new())], &[0x88, 0]);
    let input = [frame(FINAL | CLOSE, &close_payload(1000, b"bye")), frame(FINAL | TEXT, b"late")].concat();
    check("with a reason", &input, &[Seen::Close(1000, "bye".into())], &server_close(1000, ""));
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
        let input = frame(FINAL | CLOSE, &close_payload(code, b""));
        check("code that may be sent", &input, &[Seen::Close(code, String::new())], &server_close(code, ""));
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
        check_refused("other code", &frame(FINAL | CLOSE, &close_payload(code, b"")), &[], ProtocolError::Close);
    }
    check_refused("half a code", &frame(FINAL | CLOSE, b"\x03"), &[], ProtocolError::Close);
    let bad_reason = close_payload(1000, b"\xce\xba\xe1");
    check_refused("reason without UTF-8", &frame(FINAL | CLOSE, &bad_reason), &[], ProtocolError::Utf8);
    check_refused("too long", &frame(FINAL | CLOSE, &close_payload(1000, &[b'x'; 124])), &[], ProtocolError::Control);
    let longest = close_payload(1000, &[b'x'; 123]);
    check("longest", &frame(FINAL | CLOSE, &longest), &[Seen::Close(1000, "x".repeat(123))], &server_close(1000, ""));
}

#[test]
fn frames_must_be_masked_and_lengths_minimal() {
    for input in [&[0x81, 0x01, b'x'][..], &[0x81, 0x00], &[0x89, 0x7e]] {
        let (seen, _) = receive(&mut plain(), input, &[]);
        assert_eq!(seen, [Seen::Error(ProtocolError::Unmasked)], "{input:?}");
    }
    for input in [
        [&[0x82, 0xfe, 0, 125, 0, 0, 0, 0][..], &[0; 125]].concat(),
        [&[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0][..], &[0; 65535]].concat(),
        vec![0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        let (seen, _) = receive(&mut plain(), &input, &[]);
        assert_eq!(seen, [Seen::Error(ProtocolError::Length)]);
    }
}

#[test]
fn message_size_is_limited_by_the_head_already() {
    let options = Options { max_message_size: 1000, ..Options::default() };
    let mut connection = Connection::new(options.clone(), None);
    let fits = frame(FINAL | BINARY, &[1; 1000]);
    assert_eq!(receive(&mut connection, &fits, &[]).0, [Seen::Binary(vec![1; 1000])]);
    let head = &frame(FINAL | BINARY, &[1; 1001])[..8];
    assert_eq!(receive(&mut connection, head, &[]).0, [Seen::Error(ProtocolError::TooLarge)]);
    let mut connection = Connection::new(options, None);
    let input = [frame(BINARY, &[1; 600]), frame(CONTINUE, &[1; 400]), frame(CONTINUE, &[1; 1])].concat();
    let (seen, output) = receive(&mut connection, &input, &[]);
    assert_eq!(seen, [Seen::Error(ProtocolError::TooLarge)]);
    assert_eq!(output, server_close(1009, "message too large"));
}

#[test]
fn nothing_follows_a_close() {
    let mut connection = plain();
    let mut output = Vec::new();
    assert_eq!(connection.close(1006, "", &mut output), Err(SendError::CloseCode));
    assert_eq!(connection.close(1000, &"x".repeat(124), &mut output), Err(SendError::TooLong));
    assert_eq!(connection.ping(&[0; 126], &mut output), Err(SendError::TooLong));
    assert!(output.is_empty());
    connection.close(4000, "why", &mut output).unwrap();
    assert_eq!(output, server_close(4000, "why"));
    output.clear();
    connection.close(1000, "again", &mut output).unwrap();
    assert_eq!(connection.send_text("late", &mut output), Err(SendError::Closed));
    assert_eq!(connection.send_binary(b"late", &mut output), Err(SendError::Closed));
    assert_eq!(connection.ping(b"", &mut output), Err(SendError::Closed));
    assert!(output.is_empty());
    // The peer may still send what was on its way, and then answers the close.
    let input = [frame(FINAL | TEXT, b"sent before"), frame(FINAL | CLOSE, &close_payload(4000, b""))].concat();
    let (seen, output) = receive(&mut connection, &input, &[]);
    assert_eq!(seen, [Seen::Text("sent before".into()), Seen::Close(4000, String::new())]);
    assert!(output.is_empty());
    assert!(connection.is_finished());
}

// -- compression (Autobahn 12 and 13) -----------------------------------------------------------------------

fn parameters(alone: bool, bits: u8) -> DeflateParameters {
    DeflateParameters {
        server_no_context_takeover: alone,
        client_no_context_takeover: alone,
        server_max_window_bits: bits,
        client_max_window_bits: bits,
    }
}

/// The client's side of compression, by zlib directly.
struct Client {
    compress: Compress,
    decompress: Decompress,
    alone: bool,
}

impl Client {
    fn new(alone: bool, bits: u8) -> Self {
        Self {
            compress: Compress::new_with_window_bits(Compression::default(), false, bits),
            decompress: Decompress::new_with_window_bits(false, bits),
            alone,
        }
    }

    fn compress(&mut self, data: &[u8]) -> Vec<u8> {
        if data.is_empty() {
            // RFC 7692 section 7.2.3.6; zlib writes nothing when it is flushed twice in a row.
            return vec![0];
        }
        let mut output = Vec::with_capacity(data.len() + 1024);
        self.compress.compress_vec(data, &mut output, FlushCompress::Sync).unwrap();
        assert!(output.ends_with(&[0, 0, 0xff, 0xff]));
        output.truncate(output.len() - 4);
        if self.alone {
            self.compress.reset();
        }
        output
    }

    fn inflate(&mut self, data: &[u8], size: usize) -> Vec<u8> {
        let input = [data, &[0, 0, 0xff, 0xff]].concat();
        let mut output = Vec::with_capacity(size + 1024);
        self.decompress.decompress_vec(&input, &mut output, FlushDecompress::Sync).unwrap();
        if self.alone {
            self.decompress.reset(false);
        }
        output
    }
}

/// The payload of a server's frame, and its first byte.
fn payload_of(frame: &[u8]) -> (u8, &[u8]) {
    let start = match frame[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    (frame[0], &frame[start..])
}

#[test]
fn compressed_messages_go_both_ways_in_every_window() {
    for alone in [false, true] {
        for bits in 9..=15 {
            let mut connection = Connection::new(Options::default(), Some(parameters(alone, bits)));
            let mut client = Client::new(alone, bits);
            for size in [0, 1, 16, 64, 1000, 8192, 131_072] {
                let text: String = (0..size).map(|number| char::from(b'a' + (number * number % 23) as u8)).collect();
                let input = frame(FINAL | RSV1 | TEXT, &client.compress(text.as_bytes()));
                assert_eq!(receive(&mut connection, &input, &[7; 50]).0, [Seen::Text(text.clone())]);
                let mut output = Vec::new();
                connection.send_text(&text, &mut output).unwrap();
                let (first, payload) = payload_of(&output);
                if size < 64 {
                    assert_eq!((first, payload), (FINAL | TEXT, text.as_bytes()));
                } else {
                    assert_eq!(first, FINAL | RSV1 | TEXT);
                    assert_eq!(client.inflate(payload, size), text.as_bytes());
                }
            }
        }
    }
}

#[test]
fn compressed_fragments_and_plain_messages_mix() {
    let mut connection = Connection::new(Options::default(), Some(parameters(false, 15)));
    let mut client = Client::new(false, 15);
    let compressed = client.compress(b"fragmented and compressed");
    let (left, right) = compressed.split_at(5);
    let input = [
        frame(RSV1 | TEXT, left),
        frame(FINAL | PING, b"p"),
        frame(CONTINUE, right),
        frame(FINAL | CONTINUE, b""),
        frame(FINAL | TEXT, b"plain"),
    ]
    .concat();
    let expected =
        [Seen::Ping(b"p".to_vec()), Seen::Text("fragmented and compressed".into()), Seen::Text("plain".into())];
    assert_eq!(receive(&mut connection, &input, &[]).0, expected);
    let bit_inside = [frame(RSV1 | TEXT, left), frame(FINAL | RSV1 | CONTINUE, right)].concat();
    assert_eq!(receive(&mut connection, &bit_inside, &[]).0, [Seen::Error(ProtocolError::ReservedBits)]);
}

#[test]
fn final_block_may_end_a_message() {
    // RFC 7692 section 7.2.3.4: "Hello" in a block with BFINAL set, and the byte 0 that the sender adds.
    let mut connection = Connection::new(Options::default(), Some(parameters(false, 15)));
    let payload = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00];
    let input = frame(FINAL | RSV1 | TEXT, &payload);
    let again = [input.clone(), input].concat();
    let hello = Seen::Text("Hello".into());
    assert_eq!(receive(&mut connection, &again, &[]).0, [hello.clone(), hello]);
}

#[test]
fn inflating_stops_at_the_limit() {
    let options = Options { max_message_size: 100_000, ..Options::default() };
    let mut client = Client::new(true, 15);
    let fits = client.compress(&[b'x'; 100_000]);
    let mut connection = Connection::new(options.clone(), Some(parameters(true, 15)));
    let (seen, _) = receive(&mut connection, &frame(FINAL | RSV1 | BINARY, &fits), &[]);
    assert_eq!(seen, [Seen::Binary(vec![b'x'; 100_000])]);
    let bomb = client.compress(&vec![0; 50 << 20]);
    let (seen, output) = receive(&mut connection, &frame(FINAL | RSV1 | BINARY, &bomb), &[]);
    assert_eq!(seen, [Seen::Error(ProtocolError::TooLarge)]);
    assert_eq!(output, server_close(1009, "message too large"));
}

#[test]
fn malformed_compressed_data_is_refused() {
    let mut connection = Connection::new(Options::default(), Some(parameters(false, 15)));
    let input = frame(FINAL | RSV1 | TEXT, &[0xff; 20]);
    assert_eq!(receive(&mut connection, &input, &[]).0, [Seen::Error(ProtocolError::Deflate)]);
}

proptest! {
    #[test]
    fn any_messages_arrive_in_any_pieces(
        messages in prop::collection::vec((any::<bool>(), ".{0,300}", 0usize..4), 1..8),
        sizes in prop::collection::vec(1usize..200, 0..40),
        compresses in any::<bool>(),
    ) {
        let agreed = compresses.then(|| parameters(false, 12));
        let mut connection = Connection::new(Options::default(), agreed);
        let mut client = Client::new(false, 12);
        let (mut input, mut expected) = (Vec::new(), Vec::new());
        for (is_text, text, cuts) in &messages {
            let opcode = if *is_text { TEXT } else { BINARY };
            let payload = if compresses { client.compress(text.as_bytes()) } else { text.as_bytes().to_vec() };
            let bit = if compresses { RSV1 } else { 0 };
            let size = (payload.len() / (cuts + 1)).max(1);
            let mut pieces: Vec<&[u8]> = payload.chunks(size).collect();
            if pieces.is_empty() {
                pieces.push(b"");
            }
            for (number, piece) in pieces.iter().enumerate() {
                let first = if number == 0 { opcode | bit } else { CONTINUE };
                let last = if number + 1 == pieces.len() { FINAL } else { 0 };
                input.extend(frame(first | last, piece));
            }
            expected.push(if *is_text { Seen::Text(text.clone()) } else { Seen::Binary(text.as_bytes().to_vec()) });
        }
        let (seen, output) = receive(&mut connection, &input, &sizes);
        prop_assert_eq!(seen, expected);
        prop_assert!(output.is_empty());
    }

    #[test]
    fn no_bytes_make_it_panic(input in prop::collection::vec(any::<u8>(), 0..400), compresses in any::<bool>()) {
        let options = Options { max_message_size: 1000, ..Options::default() };
        let mut connection = Connection::new(options, compresses.then(|| parameters(false, 10)));
        receive(&mut connection, &input, &[5, 1, 30]);
    }
}
