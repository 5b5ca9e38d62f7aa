//! libev's flags of a loop: checked and kept for reading, without effect, as there is one kind of loop.

#![forbid(unsafe_code)]

use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;

/// Name, libev's bit (`ev.h` 4.33), whether it can be chosen on this system.
const FLAGS: [(&str, u32, bool); 12] = [
    ("select", 0x1, true),
    ("poll", 0x2, true),
    ("epoll", 0x4, true),
    ("kqueue", 0x8, false),
    ("port", 0x20, false),
    ("linux_aio", 0x40, true),
    ("linux_iouring", 0x80, true),
    ("noinotify", 0x10_0000, true),
    ("signalfd", 0x20_0000, true),
    ("nosigmask", 0x40_0000, true),
    ("noenv", 0x100_0000, true),
    ("forkcheck", 0x200_0000, true),
];

/// Says whether the object is an empty string: what is left of an environment variable without a value.
fn is_empty(name: &Bound<'_, PyAny>) -> bool {
    name.extract::<String>().is_ok_and(|name| name.trim().is_empty())
}

/// Returns the names in `flags`: an int of bits, a string with commas, or an iterable.
pub(super) fn names<'py>(flags: &Bound<'py, PyAny>) -> PyResult<Vec<Bound<'py, PyAny>>> {
    let py = flags.py();
    let text = |name: &str| name.into_pyobject(py).map(Bound::into_any).map_err(PyErr::from);
    if let Ok(bits) = flags.extract::<u32>() {
        return FLAGS.iter().filter(|(_, bit, _)| bits & bit != 0).map(|(name, _, _)| text(name)).collect();
    }
    match flags.extract::<String>() {
        Ok(names) => names.split([',', ';', ' ']).filter(|name| !name.is_empty()).map(text).collect(),
        Err(_) => match flags.try_iter() {
            Ok(names) => names.filter(|name| !name.as_ref().is_ok_and(is_empty)).collect(),
            Err(_) => Err(PyTypeError::new_err(format!("flags must be a string, a list or an int: {}", flags.repr()?))),
        },
    }
}

/// The bits that stand for pollers.
const BACKENDS: u32 = 0xff;

/// Returns the bits of `flags`; ValueError for an unknown name, and if the system has none of the pollers that are named.
pub(super) fn bits(flags: &Bound<'_, PyAny>) -> PyResult<u32> {
    let mut bits = 0;
    let mut missing = None;
    for name in names(flags)? {
        let known = name.extract::<String>().ok().and_then(|name| FLAGS.iter().find(|flag| flag.0 == name));
        match known {
            Some((_, bit, true)) => bits |= bit,
            Some((name, _, false)) => missing = Some(*name),
            None => {
                let possible: Vec<&str> = FLAGS.iter().map(|flag| flag.0).collect();
                return Err(PyValueError::new_err(format!(
                    "Invalid backend or flag: {}\nPossible values: {}",
                    name.repr()?,
                    possible.join(", ")
                )));
            }
        }
    }
    match missing {
        Some(name) if bits & BACKENDS == 0 => Err(PyValueError::new_err(format!("Unsupported backend: {name}"))),
        _ => Ok(bits),
    }
}
