//! The body of a request: how it is framed, and where its data lies in the bytes that come in.
//!
//! [`BodyDecoder`] is the state machine of one body. It copies nothing: a call tells which part of its input is data
//! and how much of the input is used up, and the bytes behind the body's end stay with the caller (they are the next
//! request). A chunked body goes through [`ChunkedDecoder`], whose states are the places in
//!
//! ```text
//! 4;name=value␍␊ Wiki ␍␊ ... 0␍␊ Trailer: value␍␊ ␍␊
//! └─chunk line─┘ data        last └trailer line┘ end      RFC 9112 section 7.1
//! ```
//!
//! Chunk extensions and trailers are checked and dropped (RFC 9112 section 7.1.1 and RFC 9110 section 6.5.1 allow
//! both). Content codings are not undone.

#![forbid(unsafe_code)]

use std::fmt;
use std::ops::Range;

use super::syntax::{is_field_byte, is_token_byte};

/// Bytes of a chunk line without its line end. Sixteen digits make the largest size; the rest is for extensions.
const CHUNK_LINE_BYTES: usize = 256;

/// Bytes of all trailer fields with their line ends.
const TRAILER_BYTES: usize = 8192;

/// Number of trailer fields.
const TRAILER_COUNT: usize = 100;

/// How the body of a message is framed (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// There is no body.
    None,
    /// The body has this many bytes.
    Length(u64),
    /// The body comes in chunks.
    Chunked,
}

/// Why a body is refused. After any of them the connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BodyError {
    /// The body is larger than the server wishes to take (RFC 9110 section 15.5.14).
    TooLarge,
    /// The stream ended before the body did (RFC 9112 section 8).
    Truncated,
    /// A chunk size is not hexadecimal digits, or does not fit 64 bits (RFC 9112 section 7.1).
    ChunkSize,
    /// A chunk extension is malformed (RFC 9112 section 7.1.1).
    ChunkExtension,
    /// A chunk line is longer than 256 bytes (RFC 9112 section 7.1.1: a server ought to limit extensions).
    ChunkLineTooLong,
    /// A line does not end by CRLF, or chunk data is longer than its size says (RFC 9112 sections 7.1 and 2.2).
    LineEnd,
    /// A trailer field is malformed (RFC 9112 sections 7.1.2 and 5).
    Trailer,
    /// The trailers take more than 8192 bytes or are more than 100 (RFC 9110 section 5.4, RFC 6585 section 5).
    TrailersTooLarge,
}

impl BodyError {
    /// Returns the status code with which to answer, if an answer can still be sent.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::TooLarge => 413,
            Self::TrailersTooLarge => 431,
            _ => 400,
        }
    }

    /// Returns one phrase that says what is wrong, fit for a log or a response body.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::TooLarge => "body too large",
            Self::Truncated => "stream ended inside the body",
            Self::ChunkSize => "malformed chunk size",
            Self::ChunkExtension => "malformed chunk extension",
            Self::ChunkLineTooLong => "chunk line too long",
            Self::LineEnd => "chunk or line does not end by CRLF",
            Self::Trailer => "malformed trailer field",
            Self::TrailersTooLarge => "trailer fields too large",
        }
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.reason())
    }
}

impl std::error::Error for BodyError {}

/// What a call of `decode` found in its input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// How many bytes of the input are used up. The next call begins behind them.
    pub consumed: usize,
    /// Where in the input there is data of the body; ends at `consumed` if it is not empty.
    pub data: Range<usize>,
}

impl Decoded {
    fn nothing(consumed: usize) -> Self {
        Self { consumed, data: consumed..consumed }
    }
}

/// The decoder of one body of any kind, with a limit on its size.
///
/// # Examples
///
/// ```
/// use greenrust::http::{BodyDecoder, BodyKind};
///
/// let mut input = &b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\nGET / HTTP/1.1"[..];
/// let mut decoder = BodyDecoder::new(BodyKind::Chunked, Some(1 << 20))?;
/// let mut body = Vec::new();
/// while !decoder.is_finished() && !input.is_empty() {
///     let decoded = decoder.decode(input)?;
///     body.extend_from_slice(&input[decoded.data]);
///     input = &input[decoded.consumed..];
/// }
/// assert_eq!(body, b"hello world");
/// assert_eq!(input, b"GET / HTTP/1.1");
/// # Ok::<(), greenrust::http::BodyError>(())
/// ```
#[derive(Clone, Debug)]
pub struct BodyDecoder(Framing);

#[derive(Clone, Debug)]
enum Framing {
    Length { remaining: u64 },
    Chunked(ChunkedDecoder),
}

impl BodyDecoder {
    /// Creates the decoder of a body that may have at most `max_bytes` bytes of data; `None` is no limit.
    ///
    /// # Errors
    ///
    /// [`BodyError::TooLarge`] if the declared length is beyond the limit already.
    pub fn new(kind: BodyKind, max_bytes: Option<u64>) -> Result<Self, BodyError> {
        let max_bytes = max_bytes.unwrap_or(u64::MAX);
        Ok(Self(match kind {
            BodyKind::None => Framing::Length { remaining: 0 },
            BodyKind::Length(length) if length > max_bytes => return Err(BodyError::TooLarge),
            BodyKind::Length(length) => Framing::Length { remaining: length },
            BodyKind::Chunked => Framing::Chunked(ChunkedDecoder::new(max_bytes)),
        }))
    }

    /// Finds the next piece of data in `input`.
    ///
    /// Takes everything up to the end of that piece, of the body, or of the input, whichever comes first. When the
    /// body is finished nothing more is taken.
    ///
    /// # Errors
    ///
    /// Each variant of [`BodyError`] but `Truncated`; again the same on further calls.
    #[inline]
    pub fn decode(&mut self, input: &[u8]) -> Result<Decoded, BodyError> {
        match &mut self.0 {
            Framing::Length { remaining } => {
                let taken = usize::try_from(*remaining).unwrap_or(usize::MAX).min(input.len());
                *remaining -= taken as u64;
                Ok(Decoded { consumed: taken, data: 0..taken })
            }
            Framing::Chunked(decoder) => decoder.decode(input),
        }
    }

    /// Returns whether the whole body has been decoded.
    #[must_use]
    #[inline]
    pub fn is_finished(&self) -> bool {
        match &self.0 {
            Framing::Length { remaining } => *remaining == 0,
            Framing::Chunked(decoder) => decoder.is_finished(),
        }
    }

    /// Returns how many bytes are known to be outstanding: all of a body of known length, the present chunk's of a
    /// chunked body.
    #[must_use]
    pub fn known_remaining(&self) -> u64 {
        match &self.0 {
            Framing::Length { remaining } => *remaining,
            Framing::Chunked(decoder) => decoder.known_remaining(),
        }
    }

    /// Judges the end of the stream.
    ///
    /// # Errors
    ///
    /// [`BodyError::Truncated`] if the body is not finished (RFC 9112 section 8), or the error that `decode`
    /// returned.
    pub fn end_of_stream(&self) -> Result<(), BodyError> {
        match &self.0 {
            Framing::Chunked(ChunkedDecoder { state: State::Failed(error), .. }) => Err(*error),
            _ if self.is_finished() => Ok(()),
            _ => Err(BodyError::Truncated),
        }
    }
}

/// What the next byte of a chunked body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The first digit of a chunk size.
    SizeStart,
    /// A further digit, or what ends the size.
    Size,
    /// White space behind a size or an extension: more of it, or a semicolon.
    ExtensionGap,
    /// Behind a semicolon.
    ExtensionNameStart,
    ExtensionName,
    /// White space behind a name.
    ExtensionNameGap,
    /// Behind an equals sign.
    ExtensionValueStart,
    ExtensionValue,
    ExtensionQuoted,
    /// Behind a backslash.
    ExtensionQuotedPair,
    /// Behind the closing quote.
    ExtensionQuotedEnd,
    /// The line feed of a chunk line.
    ChunkLineFeed,
    /// Data; `ChunkedDecoder::size` bytes of it are outstanding.
    Data,
    DataCarriageReturn,
    DataLineFeed,
    /// The first byte of a trailer line or of the empty line that ends the body.
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLineFeed,
    /// The very last byte.
    EndLineFeed,
    Finished,
    Failed(BodyError),
}

/// The decoder of a chunked body (RFC 9112 section 7.1).
#[derive(Clone, Debug)]
pub struct ChunkedDecoder {
    state: State,
    /// Of the present chunk: the size as far as it was read, then what is outstanding of the data.
    size: u64,
    /// Data bytes that further chunks may bring.
    allowance: u64,
    /// Bytes of the present chunk line, later of the trailers.
    line_bytes: usize,
    trailer_count: usize,
}

impl ChunkedDecoder {
    /// Creates the decoder of a body with at most `max_bytes` bytes of data; `u64::MAX` is no limit.
    #[must_use]
    pub fn new(max_bytes: u64) -> Self {
        Self { state: State::SizeStart, size: 0, allowance: max_bytes, line_bytes: 0, trailer_count: 0 }
    }

    /// Finds the next piece of data in `input`, as [`BodyDecoder::decode`].
    ///
    /// # Errors
    ///
    /// Each variant of [`BodyError`] but `Truncated`; again the same on further calls.
    pub fn decode(&mut self, input: &[u8]) -> Result<Decoded, BodyError> {
        for (position, &byte) in input.iter().enumerate() {
            match self.state {
                State::Data => {
                    let available = input.len() - position;
                    let taken = usize::try_from(self.size).unwrap_or(usize::MAX).min(available);
                    self.size -= taken as u64;
                    if self.size == 0 {
                        self.state = State::DataCarriageReturn;
                    }
                    let end = position + taken;
                    return Ok(Decoded { consumed: end, data: position..end });
                }
                State::Finished => return Ok(Decoded::nothing(position)),
                State::Failed(error) => return Err(error),
                state => match self.next_state(state, byte) {
                    Ok(next) => self.state = next,
                    Err(error) => {
                        self.state = State::Failed(error);
                        return Err(error);
                    }
                },
            }
        }
        Ok(Decoded::nothing(input.len()))
    }

    /// Returns whether the empty line that ends the body has been decoded.
    #[must_use]
    #[inline]
    pub fn is_finished(&self) -> bool {
        self.state == State::Finished
    }

    /// Returns how many bytes of the present chunk's data are outstanding.
    #[must_use]
    pub fn known_remaining(&self) -> u64 {
        if self.state == State::Data { self.size } else { 0 }
    }

    /// Takes one byte of framing.
    fn next_state(&mut self, state: State, byte: u8) -> Result<State, BodyError> {
        match state {
            State::SizeStart
            | State::Size
            | State::ExtensionGap
            | State::ExtensionNameStart
            | State::ExtensionName
            | State::ExtensionNameGap
            | State::ExtensionValueStart
            | State::ExtensionValue
            | State::ExtensionQuoted
            | State::ExtensionQuotedPair
            | State::ExtensionQuotedEnd => {
                let next = match state {
                    State::SizeStart | State::Size => self.size_byte(state, byte)?,
                    _ => extension_byte(state, byte)?,
                };
                if next != State::ChunkLineFeed {
                    // RFC 9112 section 7.1.1: a server ought to limit the length of extensions; leading zeros count
                    // too.
                    self.line_bytes += 1;
                    if self.line_bytes > CHUNK_LINE_BYTES {
                        return Err(BodyError::ChunkLineTooLong);
                    }
                }
                Ok(next)
            }
            State::ChunkLineFeed => {
                expect_line_feed(byte)?;
                self.line_bytes = 0;
                // RFC 9112 section 7.1: the chunk of size zero is the last.
                if self.size == 0 {
                    return Ok(State::TrailerStart);
                }
                // RFC 9110 section 15.5.14: 413 as soon as it is known, not after the data.
                self.allowance = self.allowance.checked_sub(self.size).ok_or(BodyError::TooLarge)?;
                Ok(State::Data)
            }
            // RFC 9112 section 7.1: chunk-data CRLF. Anything else means that size and data disagree.
            State::DataCarriageReturn if byte == b'\r' => Ok(State::DataLineFeed),
            State::DataCarriageReturn => Err(BodyError::LineEnd),
            State::DataLineFeed => expect_line_feed(byte).map(|()| State::SizeStart),
            State::TrailerStart if byte == b'\r' => Ok(State::EndLineFeed),
            State::EndLineFeed => expect_line_feed(byte).map(|()| State::Finished),
            State::TrailerStart | State::TrailerName | State::TrailerValue | State::TrailerLineFeed => {
                // RFC 9110 section 5.4: a server must not be made to wade through any number of fields.
                self.line_bytes += 1;
                self.trailer_count += usize::from(state == State::TrailerStart);
                if self.line_bytes > TRAILER_BYTES || self.trailer_count > TRAILER_COUNT {
                    return Err(BodyError::TrailersTooLarge);
                }
                trailer_byte(state, byte)
            }
            // `decode` deals with these.
            State::Data | State::Finished | State::Failed(_) => Ok(state),
        }
    }

    /// Takes one byte of a chunk size or of what follows it: chunk-size = 1*HEXDIG (RFC 9112 section 7.1).
    fn size_byte(&mut self, state: State, byte: u8) -> Result<State, BodyError> {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b'\r' if state == State::Size => return Ok(State::ChunkLineFeed),
            b';' if state == State::Size => return Ok(State::ExtensionNameStart),
            b' ' | b'\t' if state == State::Size => return Ok(State::ExtensionGap),
            // RFC 9112 section 2.2 would let a server take a lone line feed for the line's end.
            b'\n' if state == State::Size => return Err(BodyError::LineEnd),
            _ => return Err(BodyError::ChunkSize),
        };
        if state == State::SizeStart {
            self.size = 0;
        }
        // RFC 9112 section 7.1: recipients MUST anticipate large numerals and prevent errors by overflow.
        if self.size >> 60 != 0 {
            return Err(BodyError::ChunkSize);
        }
        self.size = self.size << 4 | u64::from(digit);
        Ok(State::Size)
    }
}

fn expect_line_feed(byte: u8) -> Result<(), BodyError> {
    if byte == b'\n' { Ok(()) } else { Err(BodyError::LineEnd) }
}

/// Takes one byte of `*( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] )` (RFC 9112 section 7.1.1).
fn extension_byte(state: State, byte: u8) -> Result<State, BodyError> {
    let token = is_token_byte(byte);
    let next = match (state, byte) {
        (State::ExtensionGap, b' ' | b'\t') => State::ExtensionGap,
        (State::ExtensionNameStart, b' ' | b'\t') => State::ExtensionNameStart,
        (State::ExtensionName | State::ExtensionNameGap, b' ' | b'\t') => State::ExtensionNameGap,
        (State::ExtensionName | State::ExtensionNameGap, b'=') => State::ExtensionValueStart,
        (State::ExtensionValueStart, b' ' | b'\t') => State::ExtensionValueStart,
        (State::ExtensionValueStart, b'"') => State::ExtensionQuoted,
        (State::ExtensionValue | State::ExtensionQuotedEnd, b' ' | b'\t') => State::ExtensionGap,
        // RFC 9110 section 5.6.4: quoted-string.
        (State::ExtensionQuoted, b'"') => State::ExtensionQuotedEnd,
        (State::ExtensionQuoted, b'\\') => State::ExtensionQuotedPair,
        (State::ExtensionQuoted | State::ExtensionQuotedPair, _) if is_field_byte(byte) => State::ExtensionQuoted,
        (State::ExtensionNameStart | State::ExtensionName, _) if token => State::ExtensionName,
        (State::ExtensionValueStart | State::ExtensionValue, _) if token => State::ExtensionValue,
        (
            State::ExtensionGap
            | State::ExtensionName
            | State::ExtensionNameGap
            | State::ExtensionValue
            | State::ExtensionQuotedEnd,
            b';',
        ) => State::ExtensionNameStart,
        (State::ExtensionName | State::ExtensionValue | State::ExtensionQuotedEnd, b'\r') => State::ChunkLineFeed,
        // A recipient that ends the line at a lone line feed inside an extension would see other chunks.
        (_, b'\n') => return Err(BodyError::LineEnd),
        _ => return Err(BodyError::ChunkExtension),
    };
    Ok(next)
}

/// Takes one byte of `field-name ":" OWS field-value OWS CRLF` (RFC 9112 sections 7.1.2 and 5).
fn trailer_byte(state: State, byte: u8) -> Result<State, BodyError> {
    match state {
        State::TrailerStart | State::TrailerName if is_token_byte(byte) => Ok(State::TrailerName),
        State::TrailerName if byte == b':' => Ok(State::TrailerValue),
        State::TrailerValue if is_field_byte(byte) => Ok(State::TrailerValue),
        State::TrailerValue if byte == b'\r' => Ok(State::TrailerLineFeed),
        State::TrailerLineFeed => expect_line_feed(byte).map(|()| State::TrailerStart),
        _ if byte == b'\n' => Err(BodyError::LineEnd),
        _ => Err(BodyError::Trailer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes `input` given in pieces of `step` bytes; returns the data and what lies behind the body.
    fn decode(decoder: &mut BodyDecoder, input: &[u8], step: usize) -> Result<(Vec<u8>, Vec<u8>), BodyError> {
        let mut data = Vec::new();
        let mut position = 0;
        while position < input.len() && !decoder.is_finished() {
            let piece = &input[position..(position + step).min(input.len())];
            let decoded = decoder.decode(piece)?;
            assert!(decoded.consumed > 0, "no progress at {position}");
            data.extend_from_slice(&piece[decoded.data]);
            position += decoded.consumed;
        }
        decoder.end_of_stream()?;
        Ok((data, input[position..].to_vec()))
    }

    fn chunked(input: &[u8]) -> Result<(Vec<u8>, Vec<u8>), BodyError> {
        let whole = decode(&mut BodyDecoder::new(BodyKind::Chunked, None)?, input, usize::MAX / 2);
        for step in 1..=input.len().min(9) {
            let pieces = decode(&mut BodyDecoder::new(BodyKind::Chunked, None)?, input, step);
            assert_eq!(whole, pieces, "{:?} in pieces of {step}", String::from_utf8_lossy(input));
        }
        whole
    }

    #[test]
    fn body_of_known_length_ends_at_its_length() {
        for step in 1..8 {
            let mut decoder = BodyDecoder::new(BodyKind::Length(5), Some(5)).unwrap();
            assert_eq!(decode(&mut decoder, b"helloGET", step), Ok((b"hello".to_vec(), b"GET".to_vec())));
            assert_eq!(decoder.decode(b"GET"), Ok(Decoded { consumed: 0, data: 0..0 }));
        }
    }

    #[test]
    fn no_body_and_empty_body_are_finished_at_once() {
        for kind in [BodyKind::None, BodyKind::Length(0)] {
            let decoder = BodyDecoder::new(kind, Some(0)).unwrap();
            assert!(decoder.is_finished());
            assert_eq!(decoder.end_of_stream(), Ok(()));
        }
    }

    #[test]
    fn end_of_stream_inside_a_body_is_truncation() {
        let mut decoder = BodyDecoder::new(BodyKind::Length(5), None).unwrap();
        assert_eq!(decode(&mut decoder, b"hell", 4), Err(BodyError::Truncated));
        assert_eq!(decoder.known_remaining(), 1);
        let whole = b"3\r\nabc\r\n0\r\nA: b\r\n\r\n";
        for length in 0..whole.len() {
            assert_eq!(chunked(&whole[..length]), Err(BodyError::Truncated), "{length}");
        }
        assert!(chunked(whole).is_ok());
    }

    #[test]
    fn chunks_are_joined_and_what_follows_is_left() {
        assert_eq!(
            chunked(b"4\r\nWiki\r\nA\r\n0123456789\r\n00a\r\n0123456789\r\n000\r\n\r\nGET /"),
            Ok((b"Wiki01234567890123456789".to_vec(), b"GET /".to_vec()))
        );
    }

    #[test]
    fn extensions_and_trailers_are_dropped() {
        for body in [
            "3;a\r\nabc\r\n0\r\n\r\n",
            "3;a=b\r\nabc\r\n0;c\r\n\r\n",
            "3 ; a = b ;c\t;d=\"e;\\\"\\\\ \t\x7e\"\r\nabc\r\n0\r\n\r\n",
            "3;a=\"\" ;b\r\nabc\r\n0\r\n\r\n",
            "3\r\nabc\r\n0\r\nA: b\r\nContent-Length: 7\r\nEmpty:\r\n\r\n",
        ] {
            assert_eq!(chunked(body.as_bytes()), Ok((b"abc".to_vec(), Vec::new())), "{body:?}");
        }
    }

    #[test]
    fn malformed_chunks_are_refused() {
        use BodyError::{ChunkExtension, ChunkSize, LineEnd, Trailer};
        for (body, error) in [
            // RFC 9112 section 7.1: chunk-size = 1*HEXDIG.
            ("\r\n", ChunkSize),
            (";a\r\n", ChunkSize),
            ("-1\r\n", ChunkSize),
            ("+1\r\n", ChunkSize),
            ("0x1\r\n", ChunkSize),
            ("1_0\r\n", ChunkSize),
            (" 1\r\n", ChunkSize),
            ("g\r\n", ChunkSize),
            ("1\0\r\n", ChunkSize),
            ("10000000000000000\r\n", ChunkSize),
            // RFC 9112 section 7.1.1: the syntax of extensions.
            ("1 \r\n", ChunkExtension),
            ("1 1\r\n", ChunkExtension),
            ("1;\r\n", ChunkExtension),
            ("1;;a\r\n", ChunkExtension),
            ("1;a=\r\n", ChunkExtension),
            ("1;a \r\n", ChunkExtension),
            ("1;a b\r\n", ChunkExtension),
            ("1;a=\"b\"c\r\n", ChunkExtension),
            ("1;a=\"b\r\n", ChunkExtension),
            ("1;a\0\r\n", ChunkExtension),
            ("1;a=\"\0\"\r\n", ChunkExtension),
            // RFC 9112 section 2.2: CRLF ends a line, a lone CR or LF does not.
            ("1\na", LineEnd),
            ("1\r\r\n", LineEnd),
            ("1;a\nb\r\n", LineEnd),
            ("1;a=\"\n\"\r\n", LineEnd),
            ("1\r\na\n", LineEnd),
            ("1\r\na0\r\n\r\n", LineEnd),
            ("1\r\nab\r\n0\r\n\r\n", LineEnd),
            ("1\r\na\r0\r\n", LineEnd),
            ("0\r\n\r\r", LineEnd),
            ("0\r\n\n", LineEnd),
            ("0\r\nA: b\n\r\n", LineEnd),
            ("0\r\nA\n\r\n", LineEnd),
            // RFC 9112 sections 5.1 and 5.2, by 7.1.2: trailers are field lines.
            ("0\r\n b\r\n\r\n", Trailer),
            ("0\r\nA: b\r\n c\r\n\r\n", Trailer),
            ("0\r\nA : b\r\n\r\n", Trailer),
            ("0\r\n: b\r\n\r\n", Trailer),
            ("0\r\nA\r\n\r\n", Trailer),
            ("0\r\nA: \0\r\n\r\n", Trailer),
        ] {
            assert_eq!(chunked(body.as_bytes()), Err(error), "{body:?}");
            assert_eq!(error.status(), 400);
        }
    }

    #[test]
    fn largest_size_is_read() {
        let mut decoder = ChunkedDecoder::new(u64::MAX);
        let decoded = decoder.decode(b"ffffffffffffffff\r\nx").unwrap();
        assert_eq!(decoded.data, 18..19);
        assert_eq!(decoder.known_remaining(), u64::MAX - 1);
    }

    #[test]
    fn chunk_line_has_a_limit() {
        let line = |extension: usize| format!("0;{}\r\n\r\n", "a".repeat(extension)).into_bytes();
        assert_eq!(chunked(&line(CHUNK_LINE_BYTES - 2)), Ok((Vec::new(), Vec::new())));
        assert_eq!(chunked(&line(CHUNK_LINE_BYTES - 1)), Err(BodyError::ChunkLineTooLong));
        let zeros = "0".repeat(CHUNK_LINE_BYTES + 1);
        assert_eq!(chunked(zeros.as_bytes()), Err(BodyError::ChunkLineTooLong));
    }

    #[test]
    fn chunk_line_limit_counts_each_line_for_itself() {
        let mut body = format!("1;{}\r\nx\r\n", "a".repeat(200)).repeat(4).into_bytes();
        body.extend_from_slice(b"0\r\n\r\n");
        assert_eq!(chunked(&body), Ok((b"xxxx".to_vec(), Vec::new())));
    }

    #[test]
    fn trailers_have_limits() {
        let trailers = |count: usize, value: usize| {
            let mut body = b"0\r\n".to_vec();
            for _ in 0..count {
                body.extend_from_slice(format!("A:{}\r\n", "b".repeat(value)).as_bytes());
            }
            body.extend_from_slice(b"\r\n");
            chunked(&body).map(|_| ())
        };
        assert_eq!(trailers(1, TRAILER_BYTES - 4), Ok(()));
        assert_eq!(trailers(1, TRAILER_BYTES - 3), Err(BodyError::TrailersTooLarge));
        assert_eq!(trailers(TRAILER_COUNT, 1), Ok(()));
        assert_eq!(trailers(TRAILER_COUNT + 1, 1), Err(BodyError::TrailersTooLarge));
        assert_eq!(BodyError::TrailersTooLarge.status(), 431);
    }

    #[test]
    fn body_beyond_the_limit_is_refused_before_its_data() {
        assert_eq!(BodyDecoder::new(BodyKind::Length(6), Some(5)).unwrap_err(), BodyError::TooLarge);
        assert_eq!(BodyError::TooLarge.status(), 413);
        let mut decoder = BodyDecoder::new(BodyKind::Chunked, Some(5)).unwrap();
        assert_eq!(decode(&mut decoder, b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", 64), Ok((b"abcde".to_vec(), Vec::new())));
        let mut decoder = BodyDecoder::new(BodyKind::Chunked, Some(5)).unwrap();
        assert_eq!(decode(&mut decoder, b"3\r\nabc\r\n3\r\n", 64), Err(BodyError::TooLarge));
        assert_eq!(decoder.decode(b"def"), Err(BodyError::TooLarge), "the error stays");
        assert_eq!(decoder.end_of_stream(), Err(BodyError::TooLarge));
    }
}
