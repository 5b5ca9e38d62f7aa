//! The head of a response, as the application gave it and as a handler's attributes show it.
//!
//! `start_response` encodes status and fields at once, since that is also how they are checked. Who looks at
//! `response_headers` gets a list made of them, and from then on the list is what is sent.

#![forbid(unsafe_code)]

use greenrust::http::{ResponseEncoder, ResponseError, Version, is_field_name};
use pyo3::exceptions::{PyTypeError, PyUnicodeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};

use super::text;

/// What the application's fields say that the server would otherwise say itself.
#[derive(Default)]
pub struct Provided {
    pub connection: Option<Py<PyAny>>,
    pub date: Option<Py<PyAny>>,
    pub content_length: Option<Py<PyAny>>,
    /// Whether there is a `Server`.
    pub server: bool,
    /// Whether `Connection` has the option `close`.
    pub closes: bool,
}

fn refused(error: ResponseError, detail: &Bound<'_, PyAny>) -> PyErr {
    let splits = detail.str().is_ok_and(|text| {
        text::bytes_of(&text).is_some_and(|bytes| bytes.iter().any(|byte| matches!(byte, b'\r' | b'\n')))
    });
    let place = match error {
        ResponseError::HeaderName => "header name",
        ResponseError::HeaderValue => "header value",
        _ => "status",
    };
    let message = if splits {
        format!("carriage return or newline in {place}")
    } else {
        format!("malformed {place} of a response")
    };
    PyValueError::new_err((message, detail.clone().unbind()))
}

fn native<'a, 'py>(
    value: &'a Bound<'py, PyAny>,
    what: &str,
    pair: (&Bound<'py, PyAny>, &Bound<'py, PyAny>),
) -> PyResult<&'a Bound<'py, PyString>> {
    value.cast::<PyString>().map_err(|_| {
        let message = format!("The {what} must be a native string");
        PyUnicodeError::new_err((message, pair.0.clone().unbind(), pair.1.clone().unbind()))
    })
}

/// Encodes status and fields into `head`, without the empty line at the end, so that more fields can follow.
///
/// # Errors
///
/// ValueError for what would split or break the response, UnicodeError for what is no latin-1 string.
pub fn encode(head: &mut Vec<u8>, status: &Bound<'_, PyAny>, headers: &Bound<'_, PyAny>) -> PyResult<Provided> {
    let py = status.py();
    let status =
        status.cast::<PyString>().map_err(|_| PyUnicodeError::new_err("The status string must be a native string"))?;
    let bytes = text::bytes_of(status)
        .ok_or_else(|| PyUnicodeError::new_err(("Non-latin1 status", status.clone().unbind())))?;
    head.clear();
    let mut provided = Provided::default();
    let mut encoder =
        ResponseEncoder::with_status(head, Version::Http11, bytes).map_err(|error| refused(error, status))?;
    let mut add = |pair: Bound<'_, PyAny>| -> PyResult<()> {
        let (name, value) = pair_of(&pair)?;
        let name_text = native(&name, "header", (&name, &value))?;
        let value_text = native(&value, "value", (&name, &value))?;
        let (Some(name_bytes), Some(value_bytes)) = (text::bytes_of(name_text), text::bytes_of(value_text)) else {
            let reprs = (name.repr()?.unbind(), value.repr()?.unbind());
            return Err(PyUnicodeError::new_err(("Non-latin1 header", reprs.0, reprs.1)));
        };
        // The server frames the body (PEP 3333, "Handling the Content-Length Header"). An application that hands on the
        // fields of another server's response hands on how that one framed it, too.
        if is_field_name(name_bytes, b"Transfer-Encoding") {
            return Ok(());
        }
        encoder
            .header(name_bytes, value_bytes)
            .map_err(|error| refused(error, if error == ResponseError::HeaderName { &name } else { &value }))?;
        match name_bytes.len() {
            4 if is_field_name(name_bytes, b"Date") => provided.date = Some(value.unbind()),
            6 if is_field_name(name_bytes, b"Server") => provided.server = true,
            10 if is_field_name(name_bytes, b"Connection") => {
                provided.closes |= value_bytes
                    .split(|&byte| byte == b',')
                    .any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"));
                provided.connection = Some(value.unbind());
            }
            14 if is_field_name(name_bytes, b"Content-Length") => {
                // RFC 9112 section 6.3: clients can't know where such a response ends.
                if let Some(length) = &provided.content_length
                    && !length.bind(py).eq(&value)?
                {
                    return Err(PyValueError::new_err(("differing values of Content-Length", value.unbind())));
                }
                provided.content_length = Some(value.unbind());
            }
            _ => {}
        }
        Ok(())
    };
    if let Ok(list) = headers.cast_exact::<PyList>() {
        for pair in list.iter() {
            add(pair)?;
        }
    } else {
        for pair in headers.try_iter()? {
            add(pair?)?;
        }
    }
    encoder.finish();
    head.truncate(head.len() - 2);
    Ok(provided)
}

fn pair_of<'py>(pair: &Bound<'py, PyAny>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    if let Ok(tuple) = pair.cast_exact::<PyTuple>()
        && tuple.len() == 2
    {
        return Ok((tuple.get_item(0)?, tuple.get_item(1)?));
    }
    let items = pair.try_iter()?.collect::<PyResult<Vec<_>>>()?;
    match <[_; 2]>::try_from(items) {
        Ok([name, value]) => Ok((name, value)),
        Err(items) => Err(PyValueError::new_err(format!("a header has a name and a value, not {} items", items.len()))),
    }
}

/// The fields of an encoded head, as the list of pairs of bytes that handlers show.
pub fn list_of<'py>(py: Python<'py>, head: &[u8]) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    let lines = head.split(|&byte| byte == b'\n').skip(1).filter(|line| !line.is_empty());
    for line in lines {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let colon = line.iter().position(|&byte| byte == b':').unwrap_or(line.len());
        let value = line.get(colon + 2..).unwrap_or_default();
        list.append((PyBytes::new(py, &line[..colon]), PyBytes::new(py, value)))?;
    }
    Ok(list)
}

/// The value of a field of an encoded head; the first one's.
pub fn field_of<'a>(head: &'a [u8], name: &str) -> Option<&'a [u8]> {
    head.split(|&byte| byte == b'\n').skip(1).find_map(|line| {
        let colon = line.iter().position(|&byte| byte == b':')?;
        line[..colon].eq_ignore_ascii_case(name.as_bytes()).then(|| line[colon + 1..].trim_ascii())
    })
}

/// The bytes of a status or field that a handler's attribute has: bytes, or a string in latin-1.
pub fn wire_bytes(value: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    if let Ok(bytes) = value.cast::<PyBytes>() {
        return Ok(bytes.as_bytes().to_vec());
    }
    match value.cast::<PyString>().ok().and_then(text::bytes_of) {
        Some(bytes) => Ok(bytes.to_vec()),
        None => Err(PyTypeError::new_err("a response's status and headers are bytes or latin-1 strings")),
    }
}

/// Encodes a head anew from a handler's attributes, as [`encode`] does from the application's arguments.
pub fn encode_attributes(head: &mut Vec<u8>, status: &[u8], headers: &Bound<'_, PyAny>) -> PyResult<()> {
    head.clear();
    let mut encoder = ResponseEncoder::with_status(head, Version::Http11, status)
        .map_err(|error| PyValueError::new_err(error.to_string()))?;
    for pair in headers.try_iter()? {
        let (name, value) = pair_of(&pair?)?;
        encoder
            .header(&wire_bytes(&name)?, &wire_bytes(&value)?)
            .map_err(|error| PyValueError::new_err(error.to_string()))?;
    }
    encoder.finish();
    head.truncate(head.len() - 2);
    Ok(())
}
