//! The environment of a request, of the server's and of what the head says.

#![forbid(unsafe_code)]

use pyo3::exceptions::PyException;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::class::{command, rfile};
use super::client::{remote, set_forwarded};
use super::{Handler, This};
use crate::pywsgi::connection::Connection;
use crate::pywsgi::input::Input;
use crate::pywsgi::stock::Step;
use crate::pywsgi::{environ, response, text};
use crate::websocket::WebSocket;

pub(super) fn get_environ<'py>(slf: This<'_, 'py>) -> PyResult<Bound<'py, PyAny>> {
    let py = slf.py();
    let this = slf.get();
    let inner = &*this.inner;
    let server = this.server(py)?;
    if this.has(Step::MessageClass) {
        // Its fields count, and it may have changed them.
        slf.getattr(intern!(py, "headers"))?;
    }
    let is_as_sent = !(inner.path.is_set()
        || this.has(Step::ConnectionUpgradeRequested)
        || inner.headers.is_set()
        || inner.command.is_set()
        || inner.request_version.is_set()
        || inner.content_length.is_set());
    let Some(connection) = this.connection(py) else {
        return Err(PyException::new_err("the connection is closed"));
    };
    let base = if inner.copies_server_environ.get() {
        server.getattr(intern!(py, "environ"))?.cast_into_exact::<PyDict>().ok()
    } else {
        None
    };
    let service = this.service(py);
    let shared =
        base.as_ref().filter(|_| is_as_sent).zip(service.as_ref().and_then(|service| service.get().templates()));
    if let Some((base, templates)) = shared {
        let remote = remote(slf)?;
        let known = connection.get().with_head(|head, fields| {
            if head.target_authority().is_some() { None } else { templates.find(base, fields, remote.is_some()) }
        });
        if let Some(known) = known.flatten() {
            let environ = known.copy()?;
            connection.get().with_head(|head, _| {
                environ.set_item(intern!(py, "REQUEST_METHOD"), environ::method(py, head.method()))?;
                let (path, query) = head.path_and_query();
                environ::set_path(&environ, path, query.unwrap_or_default())
            });
            if let Some((address, port)) = remote {
                environ.set_item(intern!(py, "REMOTE_ADDR"), address)?;
                environ.set_item(intern!(py, "REMOTE_PORT"), port)?;
            }
            let input = make_input(this, py, &connection)?;
            environ.set_item(intern!(py, "wsgi.input"), &input)?;
            inner.wsgi_input.set(Some(input));
            return Ok(environ.into_any());
        }
    }
    let environ = match &base {
        Some(base) => base.copy()?.into_any(),
        None => server.call_method0(intern!(py, "get_environ"))?,
    };
    let environ = environ.cast::<PyDict>()?;
    fill_environ(slf, environ)?;
    if let Some((base, templates)) = shared {
        let has_remote = remote(slf)?.is_some();
        let fields = connection.get().with_head(|head, fields| environ::is_repeatable(head).then(|| fields.to_vec()));
        if let Some(fields) = fields.flatten() {
            templates.note(base, fields, has_remote, environ)?;
        }
    }
    Ok(environ.clone().into_any())
}

/// Sets what the request brings into a copy of the server's environment.
fn fill_environ(slf: This<'_, '_>, environ: &Bound<'_, PyDict>) -> PyResult<()> {
    let py = slf.py();
    let this = slf.get();
    let inner = &*this.inner;
    let Some(connection) = this.connection(py) else { return Ok(()) };
    environ.set_item(intern!(py, "REQUEST_METHOD"), command(slf))?;
    environ.set_item(intern!(py, "SCRIPT_NAME"), intern!(py, ""))?;
    match inner.path.get(py) {
        Some(path) => {
            let path = response::wire_bytes(&path)?;
            let mut parts = path.splitn(2, |&byte| byte == b'?');
            let (path, query) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            environ::set_path(environ, path, query)?;
        }
        None => {
            let set = connection.get().with_head(|head, _| {
                let (path, query) = head.path_and_query();
                environ::set_path(environ, path, query.unwrap_or_default())
            });
            set.unwrap_or(Ok(()))?;
        }
    }
    match inner.request_version.get(py) {
        Some(version) => environ.set_item(intern!(py, "SERVER_PROTOCOL"), version)?,
        None => environ.set_item(intern!(py, "SERVER_PROTOCOL"), environ::version(py, this.version(py)))?,
    }
    if let Some((address, port)) = remote(slf)? {
        environ.set_item(intern!(py, "REMOTE_ADDR"), address)?;
        environ.set_item(intern!(py, "REMOTE_PORT"), port)?;
    }
    match inner.headers.get(py) {
        // Somebody looked at the fields, and may have changed them.
        Some(headers) => {
            for pair in headers.call_method0(intern!(py, "items"))?.try_iter()? {
                let (name, value): (Bound<'_, PyAny>, Bound<'_, PyAny>) = pair?.extract()?;
                if let Some(key) = text::environ_key(py, &response::wire_bytes(&name)?) {
                    environ::add_field(environ, key, text::latin1(py, response::wire_bytes(&value)?.trim_ascii()))?;
                }
            }
        }
        None => {
            connection.get().with_head(|head, _| environ::set_fields(environ, head)).unwrap_or(Ok(()))?;
        }
    }
    if !inner.path.is_set() {
        connection.get().with_head(|head, _| environ::set_host_of_target(environ, head)).unwrap_or(Ok(()))?;
    }
    set_forwarded(slf, environ)?;
    let upgrades = if this.has(Step::ConnectionUpgradeRequested) {
        slf.call_method0(intern!(py, "_connection_upgrade_requested"))?.is_truthy()?
    } else {
        connection.get().with_head(|head, _| environ::asks_for_upgrade(head)).unwrap_or(false)
    };
    let input = make_input(this, py, &connection)?;
    inner.wsgi_input.set(Some(input.clone()));
    let shown = if upgrades { rfile(slf).unwrap_or(input) } else { input };
    environ.set_item(intern!(py, "wsgi.input"), shown)?;
    if upgrades {
        offer_websocket(slf, &connection, environ)?;
    }
    // Not of PEP 3333: whether the input ends where the body does.
    environ.set_item(intern!(py, "wsgi.input_terminated"), !upgrades)
}

/// Puts a WebSocket into the environment, if the request asks for one.
#[cold]
fn offer_websocket(slf: This<'_, '_>, connection: &Py<Connection>, environ: &Bound<'_, PyDict>) -> PyResult<()> {
    let py = slf.py();
    let this = slf.get();
    let options = this.server(py)?.getattr_opt(intern!(py, "websocket_options"))?;
    // Of a server of another kind nothing is known.
    let Some(options) = options.filter(|options| !options.is_none()) else { return Ok(()) };
    if let Some(websocket) = WebSocket::offered(slf, connection, environ, &options)? {
        environ.set_item(intern!(py, "wsgi.websocket"), &websocket)?;
        let old = this.inner.websocket.replace(Some(websocket.unbind()));
        drop(old);
    }
    Ok(())
}

fn make_input<'py>(this: &Handler, py: Python<'py>, connection: &Py<Connection>) -> PyResult<Bound<'py, PyAny>> {
    let parts = connection.get().with_head(|head, _| (head.body_kind(), head.expects_continue()));
    let (kind, expects_continue) = parts.unwrap_or((greenrust::http::BodyKind::None, false));
    let is_empty = matches!(kind, greenrust::http::BodyKind::None);
    if is_empty && let Some(input) = this.inner.empty_input.get(py) {
        return Ok(input);
    }
    let input = Bound::new(py, Input::of_request(connection.clone_ref(py), kind, expects_continue))?.into_any();
    if is_empty {
        this.inner.empty_input.set(Some(input.clone()));
    }
    Ok(input)
}
