//! The parameters of a server, and what connections need of them. A wrong one is refused by an error that
//! names it, what it may be, and the value.

#![forbid(unsafe_code)]

use std::time::Duration;

use greenrust::http::{RequestLimits, TrustedProxies};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyDict, PyString};

use crate::hub as py_hub;

pub struct Options<'a, 'py>(pub &'a Bound<'py, PyDict>);

impl<'py> Options<'_, 'py> {
    /// Returns the option if it was given and is not None.
    fn get(&self, name: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
        Ok(self.0.get_item(name)?.filter(|value| !value.is_none()))
    }

    fn wrong_type(name: &str, wanted: &str, value: &Bound<'_, PyAny>) -> PyErr {
        match value.repr() {
            Ok(repr) => PyTypeError::new_err(format!("{name} must be {wanted}, not {repr}")),
            Err(error) => error,
        }
    }

    fn wrong_value(name: &str, wanted: &str, value: &Bound<'_, PyAny>) -> PyErr {
        match value.repr() {
            Ok(repr) => PyValueError::new_err(format!("{name} must be {wanted}, not {repr}")),
            Err(error) => error,
        }
    }

    pub fn seconds(&self, name: &str) -> PyResult<Option<Duration>> {
        const WANTED: &str = "a number of seconds more than 0, or None for no limit";
        let Some(value) = self.get(name)? else { return Ok(None) };
        let seconds = match value.extract::<f64>() {
            Ok(seconds) if !value.is_instance_of::<PyBool>() => seconds,
            _ => return Err(Self::wrong_type(name, WANTED, &value)),
        };
        if !seconds.is_finite() || seconds <= 0.0 {
            return Err(Self::wrong_value(name, WANTED, &value));
        }
        Ok(Some(py_hub::duration(seconds)))
    }

    pub fn number(&self, name: &str, least: u64) -> PyResult<Option<u64>> {
        let Some(value) = self.get(name)? else { return Ok(None) };
        let wanted = format!("an integer of {least} or more");
        if value.is_instance_of::<PyBool>() || !value.is_instance_of::<pyo3::types::PyInt>() {
            return Err(Self::wrong_type(name, &wanted, &value));
        }
        match value.extract::<u64>() {
            Ok(number) if number >= least => Ok(Some(number)),
            _ => Err(Self::wrong_value(name, &wanted, &value)),
        }
    }

    pub fn flag(&self, name: &str, default: bool) -> PyResult<bool> {
        match self.get(name)? {
            None => Ok(default),
            Some(value) => match value.cast::<PyBool>() {
                Ok(flag) => Ok(flag.is_true()),
                Err(_) => Err(Self::wrong_type(name, "True or False", &value)),
            },
        }
    }

    pub fn text(&self, name: &str) -> PyResult<Option<String>> {
        match self.get(name)? {
            None => Ok(None),
            Some(value) => match value.cast::<PyString>() {
                Ok(text) => Ok(Some(text.to_string())),
                Err(_) => Err(Self::wrong_type(name, "a string or None", &value)),
            },
        }
    }

    /// Sizes are at most as large as memory.
    pub fn size(&self, name: &str, least: u64, default: usize) -> PyResult<usize> {
        Ok(self.number(name, least)?.map_or(default, |number| usize::try_from(number).unwrap_or(usize::MAX)))
    }

    pub fn trusted(&self, name: &str) -> PyResult<TrustedProxies> {
        let mut trusted = TrustedProxies::default();
        let Some(value) = self.get(name)? else { return Ok(trusted) };
        let wanted = "a list of addresses and networks, '*' or 'unix'";
        let one = value.cast::<PyString>().is_ok();
        let texts: Vec<String> = if one {
            value.to_string().split(',').map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()).collect()
        } else {
            let items = value.try_iter().map_err(|_| Self::wrong_type(name, wanted, &value))?;
            items.map(|item| Ok(item?.str()?.to_string())).collect::<PyResult<_>>()?
        };
        for text in texts {
            trusted
                .add(&text)
                .map_err(|reason| PyValueError::new_err(format!("{name} has an item that is {reason}: {text:?}")))?;
        }
        Ok(trusted)
    }
}

/// What a connection needs to know, by value.
#[derive(Clone, Copy)]
pub struct Bounds {
    pub head: RequestLimits,
    /// The largest body of a request, bytes.
    pub body_bytes: Option<u64>,
    /// From the begin of a connection, or a head's first byte, to its last one.
    pub header_timeout: Option<Duration>,
    /// Between two pieces of a body.
    pub body_timeout: Option<Duration>,
    /// Without any byte taken by the peer.
    pub write_timeout: Option<Duration>,
    /// Between two requests.
    pub keep_alive_timeout: Option<Duration>,
    /// From the begin of a drain, for what is owed an answer.
    pub first_request_timeout: Option<Duration>,
}

impl Bounds {
    /// What holds for a handler whose server is none of ours.
    pub const DEFAULT: Self = Self {
        head: RequestLimits::DEFAULT,
        body_bytes: None,
        header_timeout: None,
        body_timeout: None,
        write_timeout: None,
        keep_alive_timeout: None,
        first_request_timeout: None,
    };

    pub(super) fn from_options(options: &Options<'_, '_>) -> PyResult<Self> {
        let default = RequestLimits::DEFAULT;
        Ok(Self {
            head: RequestLimits {
                request_line_bytes: options.size("max_request_line", 16, default.request_line_bytes)?,
                header_bytes: options.size("max_header_bytes", 16, default.header_bytes)?,
                header_count: options.size("max_header_count", 1, default.header_count)?,
                requires_host: options.flag("require_host", true)?,
            },
            body_bytes: options.number("max_body_bytes", 0)?,
            header_timeout: options.seconds("header_timeout")?,
            body_timeout: options.seconds("body_timeout")?,
            write_timeout: options.seconds("write_timeout")?,
            keep_alive_timeout: options.seconds("keep_alive_timeout")?,
            first_request_timeout: options.seconds("first_request_timeout")?,
        })
    }
}
