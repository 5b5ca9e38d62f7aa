//! An accepted head, as its reader sees it.

#![forbid(unsafe_code)]

use super::target::split_absolute_form;
use super::{RequestParser, Span, Version};
use crate::http::body::BodyKind;

/// One header field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// The name as it was sent; names are equal irrespective of ASCII case. Never empty.
    pub name: &'a [u8],
    /// The value without white space at its ends; may hold bytes beyond ASCII (RFC 9110 section 5.5).
    pub value: &'a [u8],
}

/// An accepted head, as views into the buffer that was parsed.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    pub(super) parsed: &'a RequestParser,
    pub(super) buffer: &'a [u8],
}

impl<'a> RequestHead<'a> {
    #[inline]
    fn slice(self, span: Span) -> &'a [u8] {
        &self.buffer[span.range()]
    }

    /// What follows the target: white space, version, line end, fields, and what the buffer has behind the head.
    #[inline]
    fn tail(self) -> &'a [u8] {
        &self.buffer[self.parsed.target.end..]
    }

    /// Returns the method, a token. Methods are case-sensitive (RFC 9110 section 9.1).
    #[must_use]
    #[inline]
    pub fn method(self) -> &'a [u8] {
        self.slice(self.parsed.method)
    }

    /// Returns the target as it was sent: visible ASCII or UTF-8, not decoded, without white space and fragment.
    #[must_use]
    #[inline]
    pub fn target(self) -> &'a [u8] {
        self.slice(self.parsed.target)
    }

    /// Returns the target's path, not decoded, and its query without the question mark.
    ///
    /// The path of an absolute-form without one is `/` (RFC 9110 section 4.2.3), that of the asterisk-form is `*`,
    /// that of CONNECT's authority-form is empty.
    #[must_use]
    pub fn path_and_query(self) -> (&'a [u8], Option<&'a [u8]>) {
        let target = self.target();
        let rest = match target {
            [b'/', ..] | b"*" => target,
            _ if self.method() == b"CONNECT" => b"",
            _ => match split_absolute_form(target) {
                Some((_, b"")) => b"/",
                Some((_, rest)) => rest,
                None => target,
            },
        };
        match memchr::memchr(b'?', rest) {
            Some(0) => (b"/", Some(&rest[1..])),
            Some(mark) => (&rest[..mark], Some(&rest[mark + 1..])),
            None => (rest, None),
        }
    }

    /// Returns host and port that the request is for: of the target if this names them, since `Host` is then to be
    /// ignored (RFC 9112 section 3.2.2), else of `Host`. `None` if HTTP/1.0 has neither.
    #[must_use]
    pub fn authority(self) -> Option<&'a [u8]> {
        self.target_authority().or_else(|| self.parsed.host.map(|span| &self.tail()[span.range()]))
    }

    /// Returns host and port of the target, which the absolute-form and CONNECT's authority-form name.
    #[must_use]
    #[inline]
    pub fn target_authority(self) -> Option<&'a [u8]> {
        let target = self.target();
        match target {
            [b'/', ..] | b"*" => None,
            _ if self.method() == b"CONNECT" => Some(target),
            _ => split_absolute_form(target).map(|(authority, _)| authority),
        }
    }

    /// Returns the version.
    #[must_use]
    #[inline]
    pub fn version(self) -> Version {
        self.parsed.version
    }

    /// Returns the fields in the order in which they were sent.
    #[inline]
    pub fn headers(self) -> impl ExactSizeIterator<Item = Header<'a>> + DoubleEndedIterator + Clone {
        let tail = self.tail();
        let spans = self.parsed.headers.iter();
        spans.map(move |span| Header { name: &tail[span.name.range()], value: &tail[span.value.range()] })
    }

    /// Returns the value of the first field of this name, irrespective of case.
    #[must_use]
    pub fn header(self, name: &str) -> Option<&'a [u8]> {
        self.headers().find(|header| header.name.eq_ignore_ascii_case(name.as_bytes())).map(|header| header.value)
    }

    /// Returns how the body is framed (RFC 9112 section 6.3).
    #[must_use]
    #[inline]
    pub fn body_kind(self) -> BodyKind {
        self.parsed.body
    }

    /// Returns the value of `Content-Length`, in bytes.
    #[must_use]
    #[inline]
    pub fn content_length(self) -> Option<u64> {
        match self.parsed.body {
            BodyKind::Length(length) => Some(length),
            BodyKind::None | BodyKind::Chunked => None,
        }
    }

    /// Returns whether the body comes in chunks.
    #[must_use]
    #[inline]
    pub fn is_chunked(self) -> bool {
        self.parsed.body == BodyKind::Chunked
    }

    /// Returns whether a `Connection` field has the option `close`.
    #[must_use]
    #[inline]
    pub fn has_connection_close(self) -> bool {
        self.parsed.connection.close
    }

    /// Returns whether a `Connection` field has the option `keep-alive`.
    #[must_use]
    #[inline]
    pub fn has_connection_keep_alive(self) -> bool {
        self.parsed.connection.keep_alive
    }

    /// Returns whether the client is content with another request on this connection: in 1.1 unless it says `close`,
    /// in 1.0 if it says `keep-alive` and not `close` (RFC 9112 section 9.3).
    #[must_use]
    #[inline]
    pub fn wants_keep_alive(self) -> bool {
        let options = self.parsed.connection;
        !options.close && (self.parsed.version == Version::Http11 || options.keep_alive)
    }

    /// Returns whether the client waits for `100 Continue` before it sends the body: never in 1.0, and never without
    /// a body (RFC 9110 section 10.1.1). A server may omit it when bytes of the body are there already.
    #[must_use]
    #[inline]
    pub fn expects_continue(self) -> bool {
        self.parsed.expects_continue && !matches!(self.parsed.body, BodyKind::None | BodyKind::Length(0))
    }

    /// Returns the first `Upgrade` value if the request asks for an upgrade: version 1.1, and `Connection` has the
    /// option `upgrade` (RFC 9110 section 7.8).
    #[must_use]
    pub fn upgrade(self) -> Option<&'a [u8]> {
        if self.parsed.version == Version::Http11 && self.parsed.connection.upgrade {
            self.parsed.upgrade.map(|span| &self.tail()[span.range()])
        } else {
            None
        }
    }
}
