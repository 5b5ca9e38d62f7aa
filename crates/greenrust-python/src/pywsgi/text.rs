//! Between bytes of the wire and Python's strings: WSGI's "native strings" are latin-1 (PEP 3333, "Unicode Issues").

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyString;
use pyo3::types::string::PyStringData;

use crate::gil::Gil;

/// Names that are remembered; what is beyond (a client that makes names up) is made anew each time.
const REMEMBERED_NAMES: usize = 512;

/// Makes a string of bytes, each of which becomes the character of its number.
#[inline]
pub fn latin1<'py>(py: Python<'py>, bytes: &[u8]) -> Bound<'py, PyString> {
    // SAFETY: the pointer and length are of one slice; the call returns a new reference or null for lack of memory.
    unsafe {
        let text =
            ffi::PyUnicode_DecodeLatin1(bytes.as_ptr().cast(), bytes.len() as ffi::Py_ssize_t, c"strict".as_ptr());
        Bound::from_owned_ptr(py, text).cast_into_unchecked()
    }
}

/// Returns the bytes of a string in latin-1; None if it has characters beyond.
#[inline]
pub fn bytes_of<'a>(text: &'a Bound<'_, PyString>) -> Option<&'a [u8]> {
    // SAFETY: strings don't change, and the reference keeps the string alive.
    match unsafe { text.data() } {
        Ok(PyStringData::Ucs1(bytes)) => Some(bytes),
        _ => None,
    }
}

/// Undoes percent-encoding; what is no `%` with two hexadecimal digits stays as it is (as `urllib.parse.unquote`).
pub fn percent_decode(bytes: &[u8]) -> Cow<'_, [u8]> {
    if !bytes.contains(&b'%') {
        return Cow::Borrowed(bytes);
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        match tail {
            [high, low, after @ ..] if *first == b'%' => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => {
                    decoded.push(high << 4 | low);
                    rest = after;
                }
                _ => {
                    decoded.push(b'%');
                    rest = tail;
                }
            },
            _ => {
                decoded.push(*first);
                rest = tail;
            }
        }
    }
    Cow::Owned(decoded)
}

/// The string of a number.
pub fn decimal(py: Python<'_>, mut number: u64) -> Bound<'_, PyString> {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return latin1(py, &digits[start..]);
        }
    }
}

/// The environ key of a request field, `HTTP_` and the name in capitals; None for names with an underscore, which could
/// pass for one with a dash, and for `Proxy`: what is run with the environment of a CGI program takes HTTP_PROXY for the
/// proxy of its own requests (CVE-2016-5385 and others, "httpoxy"), and no standard has that field.
///
/// `CONTENT_TYPE` and `CONTENT_LENGTH` have no prefix (RFC 3875 section 4.1).
pub fn environ_key<'py>(py: Python<'py>, name: &[u8]) -> Option<Bound<'py, PyString>> {
    type Names = Gil<RefCell<HashMap<Box<[u8]>, Option<Py<PyString>>>>>;
    static NAMES: PyOnceLock<Names> = PyOnceLock::new();
    let names = NAMES.get_or_init(py, || Gil::new(RefCell::new(HashMap::new())));
    if let Some(known) = names.borrow().get(name) {
        return known.as_ref().map(|key| key.bind(py).clone());
    }
    let key = make_key(py, name);
    let mut names = names.borrow_mut();
    if names.len() < REMEMBERED_NAMES {
        names.insert(name.into(), key.clone().map(Bound::unbind));
    }
    key
}

fn make_key<'py>(py: Python<'py>, name: &[u8]) -> Option<Bound<'py, PyString>> {
    if name.contains(&b'_') || name.eq_ignore_ascii_case(b"proxy") {
        return None;
    }
    let mut key = String::with_capacity(name.len() + 5);
    if !name.eq_ignore_ascii_case(b"content-type") && !name.eq_ignore_ascii_case(b"content-length") {
        key.push_str("HTTP_");
    }
    key.extend(name.iter().map(|&byte| if byte == b'-' { '_' } else { char::from(byte.to_ascii_uppercase()) }));
    Some(PyString::intern(py, &key))
}

#[cfg(test)]
mod tests {
    use super::percent_decode;

    #[test]
    fn percent_decoding_leaves_what_is_not_encoded() {
        for (encoded, decoded) in [
            (&b"/a"[..], &b"/a"[..]),
            (b"/%41%c3%A9", b"/A\xc3\xa9"),
            (b"%", b"%"),
            (b"%4", b"%4"),
            (b"%zz%41", b"%zzA"),
            (b"%%41", b"%A"),
        ] {
            assert_eq!(&*percent_decode(encoded), decoded);
        }
    }
}
