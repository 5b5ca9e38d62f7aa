//! The server's side of HTTP/1.1 without any input or output.
//!
//! This module owns the *syntax* and the *framing* of messages: where a request's head ends, what it says about the
//! body and the connection, where each piece of the body lies, how a response's head and chunks are spelled, and
//! whether the connection may carry another request. Bytes come in as slices and go out into a caller's `Vec<u8>`.
//!
//! ```text
//! bytes read ──► RequestParser::parse ──► RequestHead (views into the same bytes)
//!                       │ BodyKind
//!                       ▼
//! bytes read ──► BodyDecoder::decode ──► ranges of data, then finished
//!
//! response_body_kind, keeps_alive ──► ResponseEncoder ──► bytes to write   (DateCache gives `Date`)
//!                                     encode_chunk_head
//! ```
//!
//! # Invariants
//!
//! * A message that two implementations could frame differently is refused, and the connection must then be closed
//!   (RFC 9112 section 11.2, request smuggling). Each check names the section that it enforces.
//! * Nothing grows with what a peer sends: lines, heads, field counts, chunk lines and trailers have limits, and no
//!   byte of a head is searched twice for its end, so a head that trickles in costs no more than one that comes at
//!   once.
//! * Nothing is allocated for a request or a field once a [`RequestParser`] has seen a head of that many fields.
//! * What is refused leaves no trace in the output: a response head that is not finished is taken back.
//!
//! # What it does not do
//!
//! It reads no clock and no socket, has no time-outs, decodes no percent-encoding, undoes no content coding, and
//! leaves `100 Continue` to the caller, who knows when the body is first wanted. It never switches.

#![forbid(unsafe_code)]

mod body;
mod date;
mod forwarded;
mod proxy_protocol;
mod request;
mod response;
mod syntax;

pub use body::{BodyDecoder, BodyError, BodyKind, ChunkedDecoder, Decoded};
pub use date::DateCache;
pub use forwarded::{TrustedProxies, forwarded_scheme};
pub use proxy_protocol::{ProxyHeader, parse_proxy_header};
pub use request::{Header, ParseStatus, RequestError, RequestHead, RequestLimits, RequestParser, Version};
pub use response::{
    CHUNK_END, LAST_CHUNK, ResponseBodyKind, ResponseEncoder, ResponseError, allows_content_length, connection_field,
    encode_chunk_head, forbids_body, keeps_alive, reason_phrase, response_body_kind,
};
pub use syntax::{is_field_name, is_token, parse_decimal};
