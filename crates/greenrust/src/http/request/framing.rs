//! The fields that frame a message and hold the connection open: `Content-Length`, `Transfer-Encoding`, `Connection`.

#![forbid(unsafe_code)]

use super::error::RequestError;
use crate::http::body::BodyKind;
use crate::http::syntax::{is_token, parse_decimal, trim_whitespace};

/// The options of the `Connection` fields that a server acts on (RFC 9110 section 7.6.1).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ConnectionOptions {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
}

impl ConnectionOptions {
    #[inline]
    pub(super) fn add(&mut self, value: &[u8]) {
        // RFC 9110 section 7.6.1: options are a list, compared irrespective of case.
        for option in value.split(|&byte| byte == b',').map(trim_whitespace) {
            match option.len() {
                5 => self.close |= option.eq_ignore_ascii_case(b"close"),
                7 => self.upgrade |= option.eq_ignore_ascii_case(b"upgrade"),
                10 => self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive"),
                _ => {}
            }
        }
    }
}

/// The codings of all `Transfer-Encoding` fields, in order.
#[derive(Default)]
pub(super) struct TransferCodings {
    pub(super) present: bool,
    chunked: bool,
    /// A coding that RFC 9112 section 7.2 defines, but that is not implemented.
    compressed: bool,
    unknown: bool,
}

impl TransferCodings {
    pub(super) fn add(&mut self, value: &[u8]) -> Result<(), RequestError> {
        self.present = true;
        for coding in value.split(|&byte| byte == b',').map(trim_whitespace) {
            let name = coding.split(|&byte| byte == b';').next().map(trim_whitespace).unwrap_or_default();
            // RFC 9110 section 10.1.4: transfer-coding = token *( OWS ";" OWS transfer-parameter ). RFC 9110 section
            // 5.6.1.2 tolerates empty list elements; in the field that frames the message they are refused.
            if !is_token(name) {
                return Err(RequestError::InvalidTransferEncoding);
            }
            // RFC 9112 section 7.1: chunked is applied once; section 6.3, rule 4: it is the last coding.
            if self.chunked {
                return Err(RequestError::ChunkedNotLast);
            }
            if name.eq_ignore_ascii_case(b"chunked") {
                // RFC 9112 section 7.1: parameters of chunked SHOULD be treated as an error.
                if name.len() != coding.len() {
                    return Err(RequestError::InvalidTransferEncoding);
                }
                self.chunked = true;
            } else if [&b"gzip"[..], b"x-gzip", b"deflate", b"compress", b"x-compress"]
                .iter()
                .any(|known| name.eq_ignore_ascii_case(known))
            {
                self.compressed = true;
            } else {
                self.unknown = true;
            }
        }
        Ok(())
    }

    pub(super) fn body_kind(&self) -> Result<BodyKind, RequestError> {
        // RFC 9112 section 6.1: a coding that the server does not understand SHOULD be answered with 501.
        if self.unknown || (self.compressed && self.chunked) {
            return Err(RequestError::UnknownTransferCoding);
        }
        // RFC 9112 section 6.3, rule 4: a request whose last coding is known and not chunked MUST be answered with
        // 400.
        if !self.chunked {
            return Err(RequestError::ChunkedNotLast);
        }
        Ok(BodyKind::Chunked)
    }
}

/// Whether `value` is digits, commas and white space: several lengths rather than no length at all.
#[cold]
pub(super) fn is_digit_list(value: &[u8]) -> bool {
    value.split(|&byte| byte == b',').map(trim_whitespace).all(|length| parse_decimal(length).is_some())
}
