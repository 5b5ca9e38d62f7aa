//! The WSGI environment of a request (PEP 3333, "environ Variables"; RFC 3875 section 4.1).
//!
//! Clients send the same fields again and again. So a server remembers fields that have come twice, with the environment
//! made of them; when both they and the server's own environment are as they were, the next environment is a copy in
//! which method, path, query, the client's address and the input are set.

use std::cell::{Cell, RefCell};

use greenrust::http::{BodyKind, RequestHead, Version};
use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::text;

/// Fields longer than this are not remembered, bytes.
const REMEMBERED_BYTES: usize = 4096;

/// How many environments a server remembers; at some 3 KiB each.
const REMEMBERED: usize = 128;

/// An environment to copy.
struct Template {
    /// The server's own environment as it was.
    server: Vec<(Py<PyAny>, Py<PyAny>)>,
    /// What followed the target in the request: version and fields.
    fields: Vec<u8>,
    environ: Py<PyDict>,
    has_remote: bool,
    /// It was of use since something else wanted its place.
    is_used: Cell<bool>,
}

enum Place {
    Empty,
    /// Fields with this hash have come once.
    Seen(u64),
    Known(Box<Template>),
}

/// The environments that a server remembers. Each has one place where it can be, by the hash of its fields.
#[derive(Default)]
pub struct Templates(RefCell<Vec<Place>>);

/// Multiplies and rotates, a word at a time. What collides costs a comparison, or a place.
fn hash_of(fields: &[u8]) -> u64 {
    let mut hash = fields.len() as u64;
    let (words, rest) = fields.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    for word in words.iter().chain([&last]) {
        hash = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
    hash
}

impl Template {
    /// Whether the server's environment has the same objects as it had.
    fn is_of(&self, server: &Bound<'_, PyDict>) -> bool {
        let mut position = 0;
        let (mut key, mut value) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: a live dictionary, which nobody changes meanwhile; keys and values are only compared.
        self.server.len() == server.len()
            && self.server.iter().all(|known| unsafe {
                ffi::PyDict_Next(server.as_ptr(), &raw mut position, &raw mut key, &raw mut value) != 0
                    && known.0.as_ptr() == key
                    && known.1.as_ptr() == value
            })
    }
}

impl Templates {
    /// Returns the remembered environment if it would be made of these parts again: nobody may change it.
    pub fn find<'py>(
        &self,
        server: &Bound<'py, PyDict>,
        fields: &[u8],
        has_remote: bool,
    ) -> Option<Bound<'py, PyDict>> {
        let places = self.0.borrow();
        match places.get(hash_of(fields) as usize % REMEMBERED)? {
            Place::Known(template)
                if template.fields == fields && template.has_remote == has_remote && template.is_of(server) =>
            {
                template.is_used.set(true);
                Some(template.environ.bind(server.py()).clone())
            }
            _ => None,
        }
    }

    /// Remembers the environment that was made of a server's and a head's fields, if it is worth it.
    pub fn note(
        &self,
        server: &Bound<'_, PyDict>,
        fields: Vec<u8>,
        has_remote: bool,
        environ: &Bound<'_, PyDict>,
    ) -> PyResult<()> {
        if fields.len() > REMEMBERED_BYTES {
            return Ok(());
        }
        let hash = hash_of(&fields);
        let index = hash as usize % REMEMBERED;
        {
            let mut places = self.0.borrow_mut();
            if places.is_empty() {
                places.resize_with(REMEMBERED, || Place::Empty);
            }
            match &places[index] {
                Place::Known(template) if template.is_used.replace(false) => return Ok(()),
                Place::Seen(seen) if *seen == hash => {}
                _ => {
                    let old = std::mem::replace(&mut places[index], Place::Seen(hash));
                    drop(places);
                    drop(old);
                    return Ok(());
                }
            }
        }
        // The application gets the other one, and we keep what it can't change.
        let copy = environ.copy()?;
        copy.set_item(intern!(environ.py(), "wsgi.input"), environ.py().None())?;
        let template = Template {
            server: server.iter().map(|(key, value)| (key.unbind(), value.unbind())).collect(),
            fields,
            environ: copy.unbind(),
            has_remote,
            is_used: Cell::new(false),
        };
        let old = std::mem::replace(&mut self.0.borrow_mut()[index], Place::Known(Box::new(template)));
        drop(old);
        Ok(())
    }

    /// Forgets all.
    pub fn clear(&self) {
        let places = self.0.take();
        drop(places);
    }

    /// Shows the garbage collector what is held.
    pub fn traverse(&self, visit: &pyo3::gc::PyVisit<'_>) -> Result<(), pyo3::gc::PyTraverseError> {
        let Ok(places) = self.0.try_borrow() else { return Ok(()) };
        for place in places.iter() {
            if let Place::Known(template) = place {
                for (key, value) in &template.server {
                    visit.call(key)?;
                    visit.call(value)?;
                }
                visit.call(&template.environ)?;
            }
        }
        Ok(())
    }
}

/// The string of a method; common ones are made once.
pub fn method<'py>(py: Python<'py>, method: &[u8]) -> Bound<'py, PyString> {
    match method {
        b"GET" => intern!(py, "GET").clone(),
        b"POST" => intern!(py, "POST").clone(),
        b"HEAD" => intern!(py, "HEAD").clone(),
        b"PUT" => intern!(py, "PUT").clone(),
        b"DELETE" => intern!(py, "DELETE").clone(),
        b"PATCH" => intern!(py, "PATCH").clone(),
        b"OPTIONS" => intern!(py, "OPTIONS").clone(),
        other => text::latin1(py, other),
    }
}

/// The string of a version.
pub fn version(py: Python<'_>, version: Version) -> &Bound<'_, PyString> {
    match version {
        Version::Http10 => intern!(py, "HTTP/1.0"),
        Version::Http11 => intern!(py, "HTTP/1.1"),
    }
}

/// Sets PATH_INFO, percent-decoded, and QUERY_STRING, as sent.
pub fn set_path(environ: &Bound<'_, PyDict>, path: &[u8], query: &[u8]) -> PyResult<()> {
    let py = environ.py();
    environ.set_item(intern!(py, "PATH_INFO"), text::latin1(py, &text::percent_decode(path)))?;
    environ.set_item(intern!(py, "QUERY_STRING"), text::latin1(py, query))
}

/// Sets the variables of a head's fields.
pub fn set_fields(environ: &Bound<'_, PyDict>, head: RequestHead<'_>) -> PyResult<()> {
    let py = environ.py();
    for header in head.headers() {
        if let Some(key) = text::environ_key(py, header.name) {
            add_field(environ, key, text::latin1(py, header.value))?;
        }
    }
    Ok(())
}

/// Sets the variable of one field; the values of several of one name are joined (RFC 9110 section 5.3; cookies by a
/// semicolon, RFC 9113 section 8.2.3).
pub fn add_field(environ: &Bound<'_, PyDict>, key: Bound<'_, PyString>, value: Bound<'_, PyString>) -> PyResult<()> {
    let py = environ.py();
    let before = environ.len();
    // SAFETY: three live objects; the result is borrowed from the dictionary, or null with an exception set.
    let there = unsafe {
        let there = ffi::PyDict_SetDefault(environ.as_ptr(), key.as_ptr(), value.as_ptr());
        Bound::from_borrowed_ptr_or_err(py, there)?
    };
    if environ.len() != before {
        return Ok(());
    }
    if key.is(intern!(py, "CONTENT_TYPE")) || key.is(intern!(py, "CONTENT_LENGTH")) {
        return Ok(());
    }
    let is_cookie = key.contains("COOKIE")?;
    let separator = if is_cookie { intern!(py, "; ") } else { intern!(py, ",") };
    environ.set_item(key, there.add(separator)?.add(value)?)
}

/// Sets HTTP_HOST to the host that the target names, if it does: `Host` is then to be ignored (RFC 9112 section 3.2.2),
/// or two servers in a row would disagree on whom the request is for.
pub fn set_host_of_target(environ: &Bound<'_, PyDict>, head: RequestHead<'_>) -> PyResult<()> {
    let py = environ.py();
    match head.target_authority() {
        Some(authority) => environ.set_item(intern!(py, "HTTP_HOST"), text::latin1(py, authority)),
        None => Ok(()),
    }
}

/// Whether `wsgi.input` is to be the connection itself: the request asks to leave HTTP. One with a body has to be read
/// to its end first (RFC 9110 section 7.8), so its input is the body, as of other requests; by the same section `Upgrade`
/// in HTTP/1.0 is to be ignored.
pub fn asks_for_upgrade(head: RequestHead<'_>) -> bool {
    if !has_no_body(head) || head.version() == Version::Http10 {
        return false;
    }
    head.header("connection").is_some_and(|value| value.eq_ignore_ascii_case(b"upgrade"))
        || head.header("upgrade").is_some_and(|value| value.eq_ignore_ascii_case(b"websocket"))
}

/// Whether the request's environment may be remembered: it has no body, whose object differs each time, and its target
/// tells nothing but path and query.
pub fn is_repeatable(head: RequestHead<'_>) -> bool {
    has_no_body(head) && !asks_for_upgrade(head) && head.target_authority().is_none()
}

fn has_no_body(head: RequestHead<'_>) -> bool {
    matches!(head.body_kind(), BodyKind::None | BodyKind::Length(0))
}
