//! Character classes and small rules that requests, bodies and responses share (RFC 9110 section 5.6).

#![forbid(unsafe_code)]

const fn token_bytes() -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(
            byte as u8,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9'
                | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|'
                | b'~'
        );
        byte += 1;
    }
    table
}

static TOKEN_BYTES: [bool; 256] = token_bytes();

/// Whether `byte` is a `tchar` (RFC 9110 section 5.6.2).
#[inline]
pub(super) fn is_token_byte(byte: u8) -> bool {
    TOKEN_BYTES[usize::from(byte)]
}

/// Whether `bytes` is a `token`: one or more `tchar` (RFC 9110 section 5.6.2).
#[must_use]
#[inline]
pub fn is_token(bytes: &[u8]) -> bool {
    // Without an early exit there is one branch for all bytes.
    !bytes.is_empty() && bytes.iter().fold(true, |valid, &byte| valid & is_token_byte(byte))
}

/// Whether `name` is the field name `known`, irrespective of case (RFC 9110 section 5.1). Most are spelled as `known`.
#[inline]
pub fn is_field_name(name: &[u8], known: &[u8]) -> bool {
    name == known || name.eq_ignore_ascii_case(known)
}

/// Whether `byte` may stand in a field value or a reason phrase: HTAB, SP, VCHAR or obs-text (RFC 9110 section 5.5).
#[inline]
pub(super) fn is_field_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// Whether each byte may stand in a field value (RFC 9110 section 5.5). White space at the ends is let through.
#[inline]
pub(super) fn is_field_value(bytes: &[u8]) -> bool {
    // Without an early exit the loop becomes vector instructions.
    bytes.iter().fold(true, |valid, &byte| valid & is_field_byte(byte))
}

/// Takes SP and HTAB off both ends (`OWS`, RFC 9110 section 5.6.3).
#[inline]
pub(super) fn trim_whitespace(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// Reads `1*DIGIT`, such as the value of `Content-Length` (RFC 9110 section 8.6), as a number; `None` for anything else, a
/// sign or an underscore included, and beyond `u64`.
#[must_use]
#[inline]
pub fn parse_decimal(bytes: &[u8]) -> Option<u64> {
    if bytes.is_empty() {
        return None;
    }
    bytes.iter().try_fold(0u64, |number, &byte| {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_is_digits_only_and_fits_u64() {
        assert_eq!(parse_decimal(b"0"), Some(0));
        assert_eq!(parse_decimal(b"007"), Some(7));
        assert_eq!(parse_decimal(b"18446744073709551615"), Some(u64::MAX));
        for wrong in [&b""[..], b"18446744073709551616", b"+1", b"-1", b"1_0", b"1 0", b"0x1", b"1.0", b"\xb2"] {
            assert_eq!(parse_decimal(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn token_excludes_delimiters_controls_and_bytes_beyond_ascii() {
        assert!(is_token(b"Content-Length"));
        assert!(is_token(b"!#$%&'*+-.^_`|~09azAZ"));
        assert!(!is_token(b""));
        for byte in (0..=b' ').chain(*b"\"(),/:;<=>?@[\\]{}").chain(0x7f..=0xff) {
            assert!(!is_token(&[b'a', byte]), "{byte:#x}");
        }
    }

    #[test]
    fn field_value_excludes_controls_but_tab() {
        assert!(is_field_value(b"a\tb \x80\xff~"));
        for byte in (0..b' ').filter(|&byte| byte != b'\t').chain([0x7f]) {
            assert!(!is_field_value(&[b'a', byte, b'b']), "{byte:#x}");
        }
    }

    #[test]
    fn whitespace_goes_from_the_ends_only() {
        assert_eq!(trim_whitespace(b" \ta b\t "), b"a b");
        assert_eq!(trim_whitespace(b" \t "), b"");
    }
}
