//! permessage-deflate: what is agreed on (RFC 7692 section 7.1), compressing and inflating (section 7.2).
//!
//! A context is made when the first compressed message needs it: connections that exchange short messages, or whose peers
//! never compress, hold none. With windows of 4 KiB one that compresses takes 144 KiB, one that inflates 12.

#![forbid(unsafe_code)]

use std::fmt;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::connection::{Options, ProtocolError};
use super::handshake::elements;

/// What ends each message's compressed data, and is not sent (RFC 7692 section 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// How much an output grows at least before more is asked of zlib, bytes.
const ROOM: usize = 4096;

/// What both sides agreed on. Shown as the value of `Sec-WebSocket-Extensions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeflateParameters {
    /// Each message that the server sends is compressed for itself.
    pub server_no_context_takeover: bool,
    /// Each message that the client sends is compressed for itself.
    pub client_no_context_takeover: bool,
    /// The server's window is at most 2 to this power, bytes.
    pub server_max_window_bits: u8,
    /// The client's window is at most 2 to this power, bytes.
    pub client_max_window_bits: u8,
}

impl DeflateParameters {
    /// Returns what is agreed to of one offer, or None if it is none of this extension, or not a valid one.
    pub(super) fn agree_to(offer: &[u8], options: &Options) -> Option<Self> {
        let mut parts = elements(offer, b';');
        if !parts.next()?.eq_ignore_ascii_case(b"permessage-deflate") {
            return None;
        }
        let (mut server_alone, mut client_alone) = (false, false);
        let (mut server_bits, mut client_bits) = (None, None);
        for part in parts {
            let mut halves = part.splitn(2, |&byte| byte == b'=').map(<[u8]>::trim_ascii);
            let name = halves.next()?;
            let value = halves.next();
            let is_new = match (name, value) {
                (b"server_no_context_takeover", None) => !std::mem::replace(&mut server_alone, true),
                (b"client_no_context_takeover", None) => !std::mem::replace(&mut client_alone, true),
                (b"server_max_window_bits", Some(value)) => server_bits.replace(window_bits(value)?).is_none(),
                (b"client_max_window_bits", None) => client_bits.replace(15).is_none(),
                (b"client_max_window_bits", Some(value)) => client_bits.replace(window_bits(value)?).is_none(),
                _ => return None,
            };
            if !is_new {
                return None;
            }
        }
        let server_max_window_bits = server_bits.unwrap_or(15).min(options.window_bits);
        if server_max_window_bits < 9 {
            return None;
        }
        Some(Self {
            server_no_context_takeover: server_alone || !options.keeps_context,
            client_no_context_takeover: client_alone || !options.keeps_context,
            server_max_window_bits,
            // A client that did not say that it understands the parameter must not be sent it.
            client_max_window_bits: client_bits.map_or(15, |bits| bits.min(options.window_bits)),
        })
    }
}

/// A decimal number from 8 to 15 without leading zeros; quotes around it are allowed (RFC 7692 section 5.2).
fn window_bits(value: &[u8]) -> Option<u8> {
    let value = value.strip_prefix(b"\"").map_or(Some(value), |rest| rest.strip_suffix(b"\""))?;
    match value {
        [digit @ b'8'..=b'9'] => Some(digit - b'0'),
        [b'1', digit @ b'0'..=b'5'] => Some(10 + digit - b'0'),
        _ => None,
    }
}

impl fmt::Display for DeflateParameters {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("permessage-deflate")?;
        if self.server_no_context_takeover {
            formatter.write_str("; server_no_context_takeover")?;
        }
        if self.client_no_context_takeover {
            formatter.write_str("; client_no_context_takeover")?;
        }
        if self.server_max_window_bits < 15 {
            write!(formatter, "; server_max_window_bits={}", self.server_max_window_bits)?;
        }
        if self.client_max_window_bits < 15 {
            write!(formatter, "; client_max_window_bits={}", self.client_max_window_bits)?;
        }
        Ok(())
    }
}

/// Compresses what is sent and inflates what comes.
pub(super) struct Deflate {
    parameters: DeflateParameters,
    level: Compression,
    compressor: Option<Compress>,
    inflator: Option<Decompress>,
}

impl Deflate {
    pub(super) fn new(parameters: DeflateParameters, level: u32) -> Self {
        Self { parameters, level: Compression::new(level), compressor: None, inflator: None }
    }

    /// Appends the compressed message to `output`.
    pub(super) fn compress(&mut self, message: &[u8], output: &mut Vec<u8>) {
        let (level, bits) = (self.level, self.parameters.server_max_window_bits);
        let compressor = self.compressor.get_or_insert_with(|| Compress::new_with_window_bits(level, false, bits));
        let mut rest = message;
        loop {
            output.reserve(ROOM.max(rest.len() / 2));
            let before = compressor.total_in();
            let status = compressor.compress_vec(rest, output, FlushCompress::Sync);
            // It fails only if it is used wrongly: after its stream's end, which is never asked for.
            debug_assert!(status.is_ok(), "{status:?}");
            rest = &rest[(compressor.total_in() - before) as usize..];
            // With room left, all has been flushed.
            if rest.is_empty() && output.len() < output.capacity() {
                break;
            }
            if status.is_err() {
                break;
            }
        }
        debug_assert!(output.ends_with(&TAIL));
        output.truncate(output.len() - TAIL.len());
        if self.parameters.server_no_context_takeover {
            compressor.reset();
        }
    }

    /// Appends what `data`, a part of a compressed message, inflates to. `most` is how long `output` may become.
    pub(super) fn inflate(&mut self, data: &[u8], output: &mut Vec<u8>, most: usize) -> Result<(), ProtocolError> {
        let bits = self.parameters.client_max_window_bits.max(9);
        let inflator = self.inflator.get_or_insert_with(|| Decompress::new_with_window_bits(false, bits));
        let mut rest = data;
        loop {
            output.reserve(ROOM);
            let before = (inflator.total_in(), output.len());
            let status = inflator.decompress_vec(rest, output, FlushDecompress::Sync);
            let status = status.map_err(|_| ProtocolError::Deflate)?;
            rest = &rest[(inflator.total_in() - before.0) as usize..];
            if output.len() > most {
                return Err(ProtocolError::TooLarge);
            }
            match status {
                // A block may be the stream's last; what follows is a new stream (RFC 7692 section 7.2.3.4).
                Status::StreamEnd => inflator.reset(false),
                // Neither read nor written: it waits for more.
                Status::BufError if output.len() == before.1 => return Ok(()),
                Status::Ok | Status::BufError => {}
            }
            // With room left, all that was read is written.
            if rest.is_empty() && output.len() < output.capacity() {
                return Ok(());
            }
        }
    }

    /// Ends a compressed message.
    pub(super) fn finish(&mut self, output: &mut Vec<u8>, most: usize) -> Result<(), ProtocolError> {
        self.inflate(&TAIL, output, most)?;
        if self.parameters.client_no_context_takeover
            && let Some(inflator) = &mut self.inflator
        {
            inflator.reset(false);
        }
        Ok(())
    }
}
