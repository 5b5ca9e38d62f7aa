//! Frames to messages and back, and the closing handshake (RFC 6455 sections 5 to 7).

#![forbid(unsafe_code)]

use std::fmt;
use std::io::Cursor;

use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

use super::deflate::{Deflate, DeflateParameters};

/// The longest payload of a control frame, bytes (RFC 6455 section 5.5).
const CONTROL_BYTES: usize = 125;

/// Messages below this size are sent as they are, bytes: compressing them gains little or nothing.
const COMPRESSED_FROM: usize = 64;

/// What a program decides about its WebSockets.
#[derive(Clone, Debug)]
pub struct Options {
    /// The largest message that is taken, bytes after inflating; 1 MiB by default.
    pub max_message_size: usize,
    /// Whether permessage-deflate is agreed to when the client offers it; true by default.
    pub compresses: bool,
    /// How much work compressing is, from 1 to 9; 6 by default, as zlib's.
    pub compression_level: u32,
    /// The windows of compression have at most 2 to this power of bytes, 9 to 15; 12 by default, which compresses short
    /// messages nearly as well as 15 and needs a fraction of the memory.
    pub window_bits: u8,
    /// Whether a message may refer to earlier ones; true by default. Without it, compression holds no memory between
    /// messages that matters, and is worse.
    pub keeps_context: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { max_message_size: 1 << 20, compresses: true, compression_level: 6, window_bits: 12, keeps_context: true }
    }
}

/// Why the connection is to be ended: the peer did what RFC 6455 does not allow, or what was not agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProtocolError {
    /// A reserved bit is set, or a compressed frame came without agreement (section 5.2).
    ReservedBits,
    /// The opcode is a reserved one (section 5.2).
    Opcode,
    /// A length is not given in the fewest bytes, or beyond 63 bits (section 5.2).
    Length,
    /// A frame of the client is not masked (section 5.1).
    Unmasked,
    /// A control frame is fragmented, or longer than 125 bytes (section 5.5).
    Control,
    /// A continuation continues nothing, or a message begins inside another (section 5.4).
    Fragmentation,
    /// A close frame has one byte, or a code that may not be sent (sections 5.5.1 and 7.4).
    Close,
    /// Text is no UTF-8 (section 8.1).
    Utf8,
    /// A message is longer than is taken (section 7.4.1).
    TooLarge,
    /// Compressed data is malformed (RFC 7692 section 7.2.2).
    Deflate,
}

impl ProtocolError {
    /// Returns the code to close with (RFC 6455 section 7.4.1).
    #[must_use]
    pub const fn close_code(self) -> u16 {
        match self {
            Self::Utf8 | Self::Deflate => 1007,
            Self::TooLarge => 1009,
            _ => 1002,
        }
    }

    /// Returns one phrase that says what is wrong, fit for a log and for the close frame.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::ReservedBits => "reserved bit set",
            Self::Opcode => "reserved opcode",
            Self::Length => "malformed length",
            Self::Unmasked => "frame not masked",
            Self::Control => "control frame fragmented or too long",
            Self::Fragmentation => "fragments out of order",
            Self::Close => "malformed close frame",
            Self::Utf8 => "text is not UTF-8",
            Self::TooLarge => "message too large",
            Self::Deflate => "malformed compressed data",
        }
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.reason())
    }
}

impl std::error::Error for ProtocolError {}

/// Why something cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SendError {
    /// A close frame was sent or received: nothing may follow (RFC 6455 section 5.5.1).
    Closed,
    /// A control frame's payload is longer than 125 bytes, a close's reason than 123 (section 5.5).
    TooLong,
    /// The close code may not be sent (section 7.4).
    CloseCode,
}

impl fmt::Display for SendError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Closed => "the WebSocket is closed",
            Self::TooLong => "the payload of a control frame is limited to 125 bytes, the reason of a close to 123",
            Self::CloseCode => "the close code may not be sent: 1000 to 1003, 1007 to 1014, and 3000 to 4999 may",
        })
    }
}

impl std::error::Error for SendError {}

/// What came from the peer.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(&'a [u8]),
    /// A ping, which has been answered.
    Ping(&'a [u8]),
    /// A pong.
    Pong(&'a [u8]),
    /// The peer closes, which has been answered; 1005 if it named no code.
    Close(u16, &'a str),
}

/// The frame whose payload is being received.
struct Incoming {
    header: FrameHeader,
    left: u64,
    /// How much of the payload has been unmasked, modulo 4.
    phase: usize,
}

/// The message whose fragments are being received.
struct Assembly {
    is_text: bool,
    is_compressed: bool,
}

/// What a receiving step came to.
enum Step {
    /// More bytes are needed.
    Starved,
    /// A frame without an event.
    Nothing,
    Text,
    Binary,
    Ping,
    Pong,
    Close(u16),
}

/// A connection after its handshake. See the [module](super).
///
/// # Examples
///
/// A client's masked text frame comes in, and an answer goes out:
///
/// ```
/// use greenrust::websocket::{Connection, Event, Options};
///
/// let mut connection = Connection::new(Options::default(), None);
/// let frame = [0x81, 0x82, 0, 0, 0, 0, b'h', b'i'];
/// let mut used = 0;
/// let mut output = Vec::new();
/// let event = connection.receive(&frame, &mut used, &mut output).unwrap();
/// assert_eq!(event, Some(Event::Text("hi")));
/// assert_eq!(used, frame.len());
/// connection.send_text("hello", &mut output).unwrap();
/// assert_eq!(output, b"\x81\x05hello");
/// ```
pub struct Connection {
    max_message_size: usize,
    deflate: Option<Deflate>,
    incoming: Option<Incoming>,
    assembly: Option<Assembly>,
    /// The message so far, inflated.
    message: Vec<u8>,
    /// How much of the message is known to be UTF-8.
    checked: usize,
    /// The payload of a control frame, which may come between the fragments of a message.
    control: Vec<u8>,
    /// Unmasked bytes that wait to be inflated.
    masked: Vec<u8>,
    close_received: bool,
    close_sent: bool,
}

impl Connection {
    /// Returns a connection for which `deflate` was agreed on.
    #[must_use]
    pub fn new(options: Options, deflate: Option<DeflateParameters>) -> Self {
        Self {
            max_message_size: options.max_message_size,
            deflate: deflate.map(|parameters| Deflate::new(parameters, options.compression_level.clamp(1, 9))),
            incoming: None,
            assembly: None,
            message: Vec::new(),
            checked: 0,
            control: Vec::new(),
            masked: Vec::new(),
            close_received: false,
            close_sent: false,
        }
    }

    /// Takes bytes from `input`, beginning at `used`, up to the first event, and returns it; None if all were taken and
    /// there is none yet. `used` is moved behind what was taken.
    ///
    /// Answers to pings and to a close are appended to `output`. After [`Event::Close`] and after an error nothing is taken
    /// any more; the connection is to be closed when `output` was sent.
    ///
    /// # Errors
    ///
    /// What the peer did wrong. The close frame that tells it so is in `output`.
    pub fn receive<'a>(
        &'a mut self,
        input: &[u8],
        used: &mut usize,
        output: &mut Vec<u8>,
    ) -> Result<Option<Event<'a>>, ProtocolError> {
        loop {
            if self.close_received {
                *used = input.len();
                return Ok(None);
            }
            let step = match self.step(input, used, output) {
                Ok(step) => step,
                Err(error) => {
                    // What follows can't be made sense of.
                    self.close_received = true;
                    self.send_close(Some((error.close_code(), error.reason())), output);
                    return Err(error);
                }
            };
            return Ok(match step {
                Step::Starved => None,
                Step::Nothing => continue,
                // Checked as it came; the check here costs a second look, and saves an `unsafe`.
                Step::Text => match std::str::from_utf8(&self.message) {
                    Ok(text) => Some(Event::Text(text)),
                    Err(_) => return Err(ProtocolError::Utf8),
                },
                Step::Binary => Some(Event::Binary(&self.message)),
                Step::Ping => Some(Event::Ping(&self.control)),
                Step::Pong => Some(Event::Pong(&self.control)),
                Step::Close(code) => {
                    let reason = std::str::from_utf8(self.control.get(2..).unwrap_or_default()).unwrap_or_default();
                    Some(Event::Close(code, reason))
                }
            });
        }
    }

    fn step(&mut self, input: &[u8], used: &mut usize, output: &mut Vec<u8>) -> Result<Step, ProtocolError> {
        let mut incoming = match self.incoming.take() {
            Some(incoming) => incoming,
            None => match self.read_header(&input[*used..])? {
                Some((incoming, length)) => {
                    *used += length;
                    incoming
                }
                None => return Ok(Step::Starved),
            },
        };
        let available = &input[*used..];
        let count = available.len().min(usize::try_from(incoming.left).unwrap_or(usize::MAX));
        self.take_payload(&mut incoming, &available[..count])?;
        *used += count;
        if incoming.left > 0 {
            self.incoming = Some(incoming);
            return Ok(Step::Starved);
        }
        self.end_frame(&incoming.header, output)
    }

    /// Reads a frame's head, and checks all that it tells. Returns its size besides, or None if it is not whole.
    fn read_header(&mut self, input: &[u8]) -> Result<Option<(Incoming, usize)>, ProtocolError> {
        let mut cursor = Cursor::new(input);
        // Its only error is a reserved opcode: a slice's reads do not fail.
        let parsed = FrameHeader::parse(&mut cursor).map_err(|_| ProtocolError::Opcode)?;
        let Some((header, length)) = parsed else {
            // The first bytes may already be wrong, and the rest may never come.
            return match input {
                [first, ..] if first & 0x30 != 0 => Err(ProtocolError::ReservedBits),
                [_, second, ..] if second & 0x80 == 0 => Err(ProtocolError::Unmasked),
                _ => Ok(None),
            };
        };
        let size = usize::try_from(cursor.position()).expect("a frame's head is short");
        if header.rsv2 || header.rsv3 {
            return Err(ProtocolError::ReservedBits);
        }
        if header.mask.is_none() {
            return Err(ProtocolError::Unmasked);
        }
        if size != header.len(length) || length > i64::MAX as u64 {
            return Err(ProtocolError::Length);
        }
        match header.opcode {
            OpCode::Control(_) => {
                if header.rsv1 {
                    return Err(ProtocolError::ReservedBits);
                }
                if !header.is_final || length > CONTROL_BYTES as u64 {
                    return Err(ProtocolError::Control);
                }
                self.control.clear();
            }
            OpCode::Data(Data::Continue) => {
                if self.assembly.is_none() {
                    return Err(ProtocolError::Fragmentation);
                }
                // Only a message's first frame tells that it is compressed (RFC 7692 section 6.1).
                if header.rsv1 {
                    return Err(ProtocolError::ReservedBits);
                }
            }
            OpCode::Data(data) => {
                if self.assembly.is_some() {
                    return Err(ProtocolError::Fragmentation);
                }
                if header.rsv1 && self.deflate.is_none() {
                    return Err(ProtocolError::ReservedBits);
                }
                self.message.clear();
                self.checked = 0;
                self.assembly = Some(Assembly { is_text: data == Data::Text, is_compressed: header.rsv1 });
            }
        }
        if matches!(header.opcode, OpCode::Data(_)) {
            let is_compressed = self.assembly.as_ref().is_some_and(|assembly| assembly.is_compressed);
            let before = if is_compressed { 0 } else { self.message.len() as u64 };
            if before.saturating_add(length) > self.max_message_size as u64 {
                return Err(ProtocolError::TooLarge);
            }
        }
        Ok(Some((Incoming { header, left: length, phase: 0 }, size)))
    }

    fn take_payload(&mut self, incoming: &mut Incoming, payload: &[u8]) -> Result<(), ProtocolError> {
        let mask = incoming.header.mask.unwrap_or_default();
        let phase = incoming.phase;
        incoming.left -= payload.len() as u64;
        incoming.phase = (phase + payload.len()) % 4;
        let assembly = match incoming.header.opcode {
            OpCode::Control(_) => {
                append_unmasked(&mut self.control, payload, mask, phase);
                return Ok(());
            }
            OpCode::Data(_) => self.assembly.as_ref(),
        };
        let (is_text, is_compressed) =
            assembly.map_or((false, false), |assembly| (assembly.is_text, assembly.is_compressed));
        match &mut self.deflate {
            Some(deflate) if is_compressed => {
                self.masked.clear();
                append_unmasked(&mut self.masked, payload, mask, phase);
                deflate.inflate(&self.masked, &mut self.message, self.max_message_size)?;
            }
            _ => append_unmasked(&mut self.message, payload, mask, phase),
        }
        if is_text { self.check_text(false) } else { Ok(()) }
    }

    /// Checks what came of a text since the last time. A character may still be incomplete unless it `is_whole`.
    fn check_text(&mut self, is_whole: bool) -> Result<(), ProtocolError> {
        match std::str::from_utf8(&self.message[self.checked..]) {
            Ok(_) => {
                self.checked = self.message.len();
                Ok(())
            }
            Err(error) if error.error_len().is_none() && !is_whole => {
                self.checked += error.valid_up_to();
                Ok(())
            }
            Err(_) => Err(ProtocolError::Utf8),
        }
    }

    fn end_frame(&mut self, header: &FrameHeader, output: &mut Vec<u8>) -> Result<Step, ProtocolError> {
        match header.opcode {
            OpCode::Data(_) if !header.is_final => Ok(Step::Nothing),
            OpCode::Data(_) => {
                let Some(assembly) = self.assembly.take() else { return Ok(Step::Nothing) };
                if assembly.is_compressed
                    && let Some(deflate) = &mut self.deflate
                {
                    deflate.finish(&mut self.message, self.max_message_size)?;
                }
                if assembly.is_text {
                    self.check_text(true)?;
                    Ok(Step::Text)
                } else {
                    Ok(Step::Binary)
                }
            }
            OpCode::Control(Control::Ping) => {
                if !self.close_sent {
                    append_frame(OpCode::Control(Control::Pong), false, &self.control, output);
                }
                Ok(Step::Ping)
            }
            OpCode::Control(Control::Close) => {
                let code = match self.control[..] {
                    [] => 1005,
                    [_] => return Err(ProtocolError::Close),
                    [high, low, ref reason @ ..] => {
                        let code = u16::from_be_bytes([high, low]);
                        if !may_be_sent(code) {
                            return Err(ProtocolError::Close);
                        }
                        std::str::from_utf8(reason).map_err(|_| ProtocolError::Utf8)?;
                        code
                    }
                };
                self.close_received = true;
                self.send_close((code != 1005).then_some((code, "")), output);
                Ok(Step::Close(code))
            }
            OpCode::Control(_) => Ok(Step::Pong),
        }
    }

    /// Appends a text message.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`].
    pub fn send_text(&mut self, text: &str, output: &mut Vec<u8>) -> Result<(), SendError> {
        self.send(OpCode::Data(Data::Text), text.as_bytes(), output)
    }

    /// Appends a binary message.
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`].
    pub fn send_binary(&mut self, data: &[u8], output: &mut Vec<u8>) -> Result<(), SendError> {
        self.send(OpCode::Data(Data::Binary), data, output)
    }

    fn send(&mut self, opcode: OpCode, data: &[u8], output: &mut Vec<u8>) -> Result<(), SendError> {
        if self.is_closing() {
            return Err(SendError::Closed);
        }
        match &mut self.deflate {
            Some(deflate) if data.len() >= COMPRESSED_FROM => {
                let mut compressed = Vec::new();
                deflate.compress(data, &mut compressed);
                append_frame(opcode, true, &compressed, output);
            }
            _ => append_frame(opcode, false, data, output),
        }
        Ok(())
    }

    /// Appends a ping; the pong that answers it has the same payload.
    ///
    /// # Errors
    ///
    /// [`SendError::TooLong`] for more than 125 bytes, [`SendError::Closed`].
    pub fn ping(&mut self, payload: &[u8], output: &mut Vec<u8>) -> Result<(), SendError> {
        if payload.len() > CONTROL_BYTES {
            return Err(SendError::TooLong);
        }
        if self.is_closing() {
            return Err(SendError::Closed);
        }
        append_frame(OpCode::Control(Control::Ping), false, payload, output);
        Ok(())
    }

    /// Appends a close frame, unless one was sent. What the peer still sends is to be received until [`Event::Close`].
    ///
    /// # Errors
    ///
    /// [`SendError::CloseCode`], [`SendError::TooLong`] for a reason of more than 123 bytes.
    pub fn close(&mut self, code: u16, reason: &str, output: &mut Vec<u8>) -> Result<(), SendError> {
        if !may_be_sent(code) {
            return Err(SendError::CloseCode);
        }
        if reason.len() > CONTROL_BYTES - 2 {
            return Err(SendError::TooLong);
        }
        self.send_close(Some((code, reason)), output);
        Ok(())
    }

    fn send_close(&mut self, close: Option<(u16, &str)>, output: &mut Vec<u8>) {
        if std::mem::replace(&mut self.close_sent, true) {
            return;
        }
        let mut payload = Vec::new();
        if let Some((code, reason)) = close {
            payload.extend_from_slice(&code.to_be_bytes());
            payload.extend_from_slice(reason.as_bytes());
        }
        append_frame(OpCode::Control(Control::Close), false, &payload, output);
    }

    /// Whether a close was sent or received, so that nothing can be sent any more.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.close_sent || self.close_received
    }

    /// Whether the peer's close was received, or an error made its bytes senseless.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.close_received
    }

    /// Lets go of the last message's room if it is large; its event must have been dealt with.
    pub fn trim(&mut self) {
        const KEPT: usize = 1 << 16;
        for buffer in [&mut self.message, &mut self.masked] {
            if buffer.capacity() > KEPT && self.assembly.is_none() {
                *buffer = Vec::new();
            }
        }
    }
}

/// Whether a close code may stand in a close frame (RFC 6455 section 7.4, and the registry it founds).
fn may_be_sent(code: u16) -> bool {
    // 1014 was registered after the crate's list was made.
    code == 1014 || CloseCode::from(code).is_allowed()
}

fn append_frame(opcode: OpCode, is_compressed: bool, payload: &[u8], output: &mut Vec<u8>) {
    let header = FrameHeader { is_final: true, rsv1: is_compressed, opcode, ..FrameHeader::default() };
    let header = FrameHeader { mask: None, ..header };
    let length = payload.len() as u64;
    output.reserve(header.len(length) + payload.len());
    header.format(length, output).expect("a Vec takes all that is written");
    output.extend_from_slice(payload);
}

/// Appends a masked payload, of which `phase` bytes came before (RFC 6455 section 5.3).
fn append_unmasked(target: &mut Vec<u8>, payload: &[u8], mask: [u8; 4], phase: usize) {
    let mask = [mask[phase % 4], mask[(phase + 1) % 4], mask[(phase + 2) % 4], mask[(phase + 3) % 4]];
    let start = target.len();
    target.extend_from_slice(payload);
    let wide = u64::from(u32::from_ne_bytes(mask)) * 0x1_0000_0001;
    let mut words = target[start..].chunks_exact_mut(8);
    for word in &mut words {
        let bytes: [u8; 8] = (&*word).try_into().expect("a chunk of eight");
        word.copy_from_slice(&(u64::from_ne_bytes(bytes) ^ wide).to_ne_bytes());
    }
    for (byte, key) in words.into_remainder().iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}
