//! The server's side of WebSocket (RFC 6455) without any input or output, permessage-deflate (RFC 7692) included.
//!
//! This module owns the opening handshake's rules, the assembly of messages from frames, and the closing handshake. Bytes
//! come in as slices and go out into a caller's `Vec<u8>`, as in [`http`](crate::http).
//!
//! ```text
//! fields of a GET request ──► Handshake::new ──► Handshake::write_response ──► bytes to write
//!                                  │ into_connection
//!                                  ▼
//! bytes read ──► Connection::receive ──► Event::Text, Event::Binary, ... ; answers to pings and closes ──► bytes to write
//!                Connection::send_text, send_binary, ping, close ────────────────────────────────────────► bytes to write
//! ```
//!
//! Frame heads are spelled and read by the crate tungstenite; its own connection type knows no compression, reads from
//! blocking streams, and buffers whole frames.
//!
//! # Invariants
//!
//! * What RFC 6455 does not allow ends the connection, with the close code that it names: each [`ProtocolError`] says which.
//! * Nothing grows with what a peer sends beyond [`Options::max_message_size`], compressed or not: a frame that announces
//!   more is refused by its head, and inflating stops there.
//! * Text is checked as it arrives, so that a message which is no UTF-8 is refused before its end.
//! * After a close frame nothing is read any more, and after ours nothing but a close is written.
//!
//! It reads no clock and no socket, and never switches.

#![forbid(unsafe_code)]

mod connection;
mod deflate;
mod handshake;

pub use connection::{Connection, Event, Options, ProtocolError, SendError};
pub use deflate::DeflateParameters;
pub use handshake::{Handshake, HandshakeError, HandshakeRequest};
