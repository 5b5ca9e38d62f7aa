//! Why a head is refused, and with which status.

#![forbid(unsafe_code)]

use std::fmt;

/// Why a request's head is refused. After any of them the connection must be closed, since what follows in the stream
/// cannot be told apart (RFC 9112 section 9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RequestError {
    /// The request line is not `method SP target SP version` (RFC 9112 section 3).
    RequestLine,
    /// The request line is longer than [`RequestLimits::request_line_bytes`] (RFC 9112 section 3).
    RequestLineTooLong,
    /// The target has none of the four forms, or one that the method does not allow (RFC 9112 section 3.2).
    RequestTarget,
    /// The version is neither HTTP/1.0 nor HTTP/1.1 (RFC 9110 section 15.6.6).
    UnsupportedVersion,
    /// A line ends by a line feed without a carriage return. RFC 9112 section 2.2 lets a server accept it; since not
    /// all do, accepting would make heads ambiguous.
    BareLineFeed,
    /// More than four empty lines precede the request line (RFC 9112 section 2.2).
    EmptyLines,
    /// A field line begins with white space: folding, or white space after the request line (RFC 9112 sections 5.2
    /// and 2.2).
    FoldedLine,
    /// White space stands between a field name and its colon (RFC 9112 section 5.1).
    WhitespaceBeforeColon,
    /// A field line has no colon, or the name is not a token (RFC 9110 section 5.1).
    HeaderName,
    /// A field value has a control character, such as NUL or a lone carriage return (RFC 9110 section 5.5).
    HeaderValue,
    /// The fields take more than [`RequestLimits::header_bytes`] (RFC 9110 section 5.4, RFC 6585 section 5).
    HeadersTooLarge,
    /// There are more fields than [`RequestLimits::header_count`] (RFC 9110 section 5.4, RFC 6585 section 5).
    TooManyHeaders,
    /// An HTTP/1.1 request has no `Host` (RFC 9112 section 3.2).
    MissingHost,
    /// There is more than one `Host` (RFC 9112 section 3.2).
    DuplicateHost,
    /// The value of `Host` is not `uri-host [":" port]` (RFC 9112 section 3.2).
    InvalidHost,
    /// The value of `Content-Length` is not digits only, or does not fit 64 bits (RFC 9112 section 6.3, RFC 9110
    /// section 8.6).
    InvalidContentLength,
    /// There are several `Content-Length` values, be they equal or not (RFC 9112 section 6.3, RFC 9110 section 8.6).
    DuplicateContentLength,
    /// Both `Content-Length` and `Transfer-Encoding` are there (RFC 9112 section 6.1).
    ContentLengthWithTransferEncoding,
    /// An HTTP/1.0 request has `Transfer-Encoding` (RFC 9112 section 6.1).
    TransferEncodingInHttp10,
    /// The value of `Transfer-Encoding` is no list of codings, or `chunked` has parameters (RFC 9112 sections 6.1
    /// and 7.1).
    InvalidTransferEncoding,
    /// `chunked` is not the last coding, or is applied twice (RFC 9112 sections 6.3 and 7.1).
    ChunkedNotLast,
    /// A transfer coding other than `chunked` (RFC 9112 section 6.1).
    UnknownTransferCoding,
}

impl RequestError {
    /// Returns the status code with which to answer.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::RequestLineTooLong => 414,
            Self::HeadersTooLarge | Self::TooManyHeaders => 431,
            Self::UnknownTransferCoding => 501,
            Self::UnsupportedVersion => 505,
            _ => 400,
        }
    }

    /// Returns one phrase that says what is wrong, fit for a log or a response body.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::RequestLine => "malformed request line",
            Self::RequestLineTooLong => "request line too long",
            Self::RequestTarget => "malformed request target",
            Self::UnsupportedVersion => "HTTP version not supported",
            Self::BareLineFeed => "line feed without carriage return",
            Self::EmptyLines => "too many empty lines before the request line",
            Self::FoldedLine => "field line begins with white space",
            Self::WhitespaceBeforeColon => "white space before the colon of a field",
            Self::HeaderName => "malformed field name",
            Self::HeaderValue => "control character in a field value",
            Self::HeadersTooLarge => "header fields too large",
            Self::TooManyHeaders => "too many header fields",
            Self::MissingHost => "Host is missing",
            Self::DuplicateHost => "more than one Host",
            Self::InvalidHost => "malformed Host",
            Self::InvalidContentLength => "malformed Content-Length",
            Self::DuplicateContentLength => "more than one Content-Length",
            Self::ContentLengthWithTransferEncoding => "both Content-Length and Transfer-Encoding",
            Self::TransferEncodingInHttp10 => "Transfer-Encoding in an HTTP/1.0 request",
            Self::InvalidTransferEncoding => "malformed Transfer-Encoding",
            Self::ChunkedNotLast => "chunked is not the last transfer coding, once",
            Self::UnknownTransferCoding => "transfer coding not implemented",
        }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.reason())
    }
}

impl std::error::Error for RequestError {}
