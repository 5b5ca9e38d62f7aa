//! How long callbacks and ready greenlets may run before the hub looks for events: CPython's switch interval.

#![forbid(unsafe_code)]

use greenrust::hub::Hub;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::arguments::Real;
use crate::host;
use crate::hub::duration;

/// getswitchinterval() -> seconds
///
/// How long callbacks and ready greenlets may run before the hub looks for events; CPython's `sys.getswitchinterval`.
#[pyfunction]
fn getswitchinterval(py: Python<'_>) -> PyResult<f64> {
    py.import("sys")?.call_method0("getswitchinterval")?.extract()
}

/// setswitchinterval(interval)
///
/// Sets it, in seconds, for this thread's hub and those made later, and for CPython's threads, as
/// `sys.setswitchinterval` does. Raises ValueError if it is not positive.
#[pyfunction]
fn setswitchinterval(py: Python<'_>, interval: Real) -> PyResult<()> {
    let Real(interval) = interval;
    if interval <= 0.0 {
        return Err(PyValueError::new_err(format!("switch interval must be strictly positive: {interval}")));
    }
    py.import("sys")?.call_method1("setswitchinterval", (interval,))?;
    host::runtime(py).set_switch_interval(duration(interval));
    Ok(())
}

/// Gives CPython's interval to a hub.
pub(super) fn apply(py: Python<'_>, hub: &Hub) {
    if let Ok(interval) = getswitchinterval(py) {
        hub.set_switch_interval(duration(interval));
    }
}

/// Adds the functions to the native module.
pub(super) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(getswitchinterval, module)?)?;
    module.add_function(wrap_pyfunction!(setswitchinterval, module)?)
}
