//! Who the client is: its address, or what trusted proxies say of it.

#![forbid(unsafe_code)]

use std::net::IpAddr;

use greenrust::http::{RequestHead, forwarded_scheme};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple};

use super::{Handler, This};
use crate::pywsgi::text;

/// REMOTE_ADDR and REMOTE_PORT, if the client's address is a tuple; made once for the connection.
pub(super) fn remote<'py>(slf: This<'_, 'py>) -> PyResult<Option<(Bound<'py, PyString>, Bound<'py, PyString>)>> {
    let py = slf.py();
    let inner = &*slf.get().inner;
    if let Some((address, port)) = &*inner.remote.borrow() {
        return Ok(Some((address.bind(py).clone(), port.bind(py).clone())));
    }
    let (host, port) = if let (Some(peer), Some(service)) = (inner.peer.get(), slf.get().service(py)) {
        (service.get().host(py, *peer.ip()), text::decimal(py, u64::from(peer.port())))
    } else {
        let Some(address) = inner.client_address.get(py).and_then(|address| address.cast_into::<PyTuple>().ok()) else {
            return Ok(None);
        };
        (address.get_item(0)?.str()?, address.get_item(1)?.str()?)
    };
    let old = inner.remote.replace(Some((host.clone().unbind(), port.clone().unbind())));
    drop(old);
    Ok(Some((host, port)))
}

/// The attribute `client_address`.
pub(super) fn client_address_of<'py>(this: &Handler, py: Python<'py>) -> Option<Bound<'py, PyAny>> {
    let inner = &*this.inner;
    if let Some(peer) = inner.peer.get()
        && !inner.client_address.is_set()
    {
        let address = (peer.ip().to_string(), peer.port()).into_pyobject(py).ok()?;
        inner.client_address.set(Some(address.into_any()));
    }
    inner.client_address.get(py)
}

/// The client's address by what trusted proxies say, if there are such.
pub(super) fn forwarded_client(slf: This<'_, '_>) -> Option<IpAddr> {
    let py = slf.py();
    let this = slf.get();
    let service = this.service(py)?;
    let trusted = service.get().trusted();
    if trusted.is_empty() || !trusted.trusts(peer(slf)) {
        return None;
    }
    this.of_head(py, |head, _| trusted.client(fields_of(head, b"x-forwarded-for"))).flatten()
}

/// The address of who is at the other end of the connection; None at a Unix socket.
fn peer(slf: This<'_, '_>) -> Option<IpAddr> {
    let (address, _) = remote(slf).ok().flatten()?;
    // A link-local address may have a zone.
    address.to_string_lossy().split('%').next()?.parse().ok()
}

fn fields_of<'a>(head: RequestHead<'a>, name: &'static [u8]) -> impl DoubleEndedIterator<Item = &'a [u8]> {
    head.headers().filter(move |header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value)
}

/// Puts what trusted proxies say of the client into the environment.
pub(super) fn set_forwarded(slf: This<'_, '_>, environ: &Bound<'_, PyDict>) -> PyResult<()> {
    let py = slf.py();
    let this = slf.get();
    let Some(service) = this.service(py) else { return Ok(()) };
    let trusted = service.get().trusted();
    if trusted.is_empty() || !trusted.trusts(peer(slf)) {
        return Ok(());
    }
    if let Some(client) = forwarded_client(slf) {
        environ.set_item(intern!(py, "REMOTE_ADDR"), client.to_string())?;
        // The port is the proxy's.
        if environ.contains(intern!(py, "REMOTE_PORT"))? {
            environ.del_item(intern!(py, "REMOTE_PORT"))?;
        }
    }
    let scheme = this.of_head(py, |head, _| forwarded_scheme(fields_of(head, b"x-forwarded-proto"))).flatten();
    match scheme {
        Some(scheme) => environ.set_item(intern!(py, "wsgi.url_scheme"), scheme),
        None => Ok(()),
    }
}
