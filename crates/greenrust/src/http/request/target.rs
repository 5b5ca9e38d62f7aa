//! The target of a request, and the authority that it or `Host` names.

#![forbid(unsafe_code)]

/// Whether `target` has a form that `method` allows (RFC 9112 section 3.2). Its characters are visible or UTF-8
/// already.
#[inline]
pub(super) fn is_request_target(method: &[u8], target: &[u8]) -> bool {
    // RFC 9112 section 3.2: no form has a fragment.
    if target.contains(&b'#') {
        return false;
    }
    // RFC 9112 section 3.2.3: CONNECT has the authority-form, with a port, and it alone.
    if method == b"CONNECT" {
        return is_authority(target) && target.last().is_some_and(u8::is_ascii_digit) && port_start(target).is_some();
    }
    match target {
        // RFC 9112 section 3.2.1, origin-form.
        [b'/', ..] => true,
        // RFC 9112 section 3.2.4: the asterisk-form is for OPTIONS.
        b"*" => method == b"OPTIONS",
        // RFC 9112 section 3.2.2, absolute-form.
        _ => split_absolute_form(target).is_some_and(|(authority, _)| is_authority(authority)),
    }
}

/// Splits `scheme://authority rest`, where rest is empty or begins with `/` or `?`.
pub(super) fn split_absolute_form(target: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr::memchr(b':', target)?;
    let (scheme, rest) = target.split_at(colon);
    // RFC 3986 section 3.1.
    let [b'a'..=b'z' | b'A'..=b'Z', tail @ ..] = scheme else {
        return None;
    };
    if !tail.iter().all(|&byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')) {
        return None;
    }
    let rest = rest.strip_prefix(b"://")?;
    let end = rest.iter().position(|&byte| matches!(byte, b'/' | b'?')).unwrap_or(rest.len());
    Some(rest.split_at(end))
}

/// Where the port of an authority begins, behind its colon.
fn port_start(authority: &[u8]) -> Option<usize> {
    let colon = memchr::memrchr(b':', authority)?;
    // In `[::1]` the colons belong to the address.
    if authority.last() == Some(&b']') { None } else { Some(colon + 1) }
}

/// Whether `bytes` is `uri-host [":" port]` with a host that is not empty (RFC 9110 section 7.2, RFC 3986 section
/// 3.2). User information is refused (RFC 9110 section 4.2.4).
pub(super) fn is_authority(bytes: &[u8]) -> bool {
    let (host, port) = match port_start(bytes) {
        Some(start) => (&bytes[..start - 1], &bytes[start..]),
        None => (bytes, &[][..]),
    };
    if !port.iter().all(u8::is_ascii_digit) {
        return false;
    }
    match host {
        // RFC 3986 section 3.2.2: IP-literal = "[" ( IPv6address / IPvFuture ) "]". Python's http.client leaves the zone of
        // a link-local address there, as it is or as RFC 6874 section 2 has it.
        [b'[', address @ .., b']'] => {
            !address.is_empty()
                && address.iter().all(|&byte| {
                    byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'.' | b'-' | b'_' | b'~' | b'%')
                })
        }
        // RFC 3986 section 3.2.2: reg-name = *( unreserved / pct-encoded / sub-delims ).
        [_, ..] => host.iter().all(|&byte| {
            byte.is_ascii_alphanumeric()
                || matches!(
                    byte,
                    b'-' | b'.'
                        | b'_'
                        | b'~'
                        | b'%'
                        | b'!'
                        | b'$'
                        | b'&'
                        | b'\''
                        | b'('
                        | b')'
                        | b'*'
                        | b'+'
                        | b','
                        | b';'
                        | b'='
                )
        }),
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::is_authority;

    #[test]
    fn authority_is_host_and_port() {
        for right in
            ["a", "a:80", "a:", "my_service.local:1", "127.0.0.1", "[::1]", "[::1]:80", "[fe80::1%25eth0]:80", "%41"]
        {
            assert!(is_authority(right.as_bytes()), "{right}");
        }
        for wrong in
            ["", ":80", "a:b", "a:80:80", "::1", "[::1", "[]", "[::1]a", "u@a", "a/b", "a b", "a\\b", "a<b", "é"]
        {
            assert!(!is_authority(wrong.as_bytes()), "{wrong}");
        }
    }
}
