//! `gevent.pywsgi`'s native part: a WSGI server's connections, from the socket's bytes to the application and back.
//!
//! ```text
//! accept       new connections, and the reuse of what ended ones leave behind
//! service      what the connections of a server share: limits, time-outs, who is idle
//! handler      the life of a connection and of a request; calls Python only for what a subclass overrides
//!   connection   the bytes: buffered reading, whole writing          (gevent: handler.rfile)
//!   environ      head of the request -> environment
//!   input        body of the request -> wsgi.input
//!   response     status and headers of the application -> head of the response
//!   access_log   the line for each request; log_format: the shapes that it can have
//!   text         latin-1 strings, environment keys
//!   stock        which classes are ours, and so what is overridden
//! ```
//!
//! Syntax and framing are [`greenrust::http`]'s. Each step of a request is one native function. It is at the same time a
//! method of the handler's class, so that a subclass which overrides one step gets the others as they are.

mod accept;
mod access_log;
mod connection;
mod environ;
mod handler;
mod input;
mod log_format;
mod references;
mod response;
mod service;
mod stock;
mod text;
mod worker;

pub use connection::Connection;
pub use handler::Handler;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// format_date_time(timestamp) -> bytes
///
/// The time *timestamp*, seconds since the epoch, as the value of a `Date` field (RFC 9110 section 5.6.7).
#[pyfunction]
fn format_date_time(py: Python<'_>, timestamp: f64) -> Bound<'_, PyBytes> {
    access_log::with_date(timestamp, |value| PyBytes::new(py, value))
}

/// Adds what `gevent.pywsgi` needs to the native module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<handler::Handler>()?;
    module.add_class::<input::Input>()?;
    module.add_class::<connection::Connection>()?;
    module.add_class::<service::Service>()?;
    module.add_class::<service::Seat>()?;
    module.add_function(wrap_pyfunction!(accept::accept_connections, module)?)?;
    module.add_class::<worker::Turn>()?;
    module.add_function(wrap_pyfunction!(worker::serve_ready, module)?)?;
    module.add_function(wrap_pyfunction!(handler::serve_connection, module)?)?;
    module.add_function(wrap_pyfunction!(format_date_time, module)?)?;
    module.add_function(wrap_pyfunction!(stock::set_pywsgi_classes, module)?)
}
