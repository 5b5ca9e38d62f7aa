//! `gevent._greenrust`: the Python face of the greenrust runtime. Glue only: what blocks, schedules or decides is the
//! runtime's.

mod aio;
mod arguments;
mod c_interface;
mod cancel_scope;
mod channel;
mod event;
mod exceptions;
mod fastcall;
mod gil;
mod greenlet;
mod host;
mod hub;
mod links;
mod local;
mod lock;
mod loop_;
mod lowlevel;
mod nesting;
mod other_greenlet;
mod other_threads;
mod pywsgi;
mod queue;
mod resolver;
mod run_info;
mod socket;
mod spawn_tree;
mod ssl;
mod thread_state;
mod threadpool;
mod timeout;
mod tracer;
mod waiter;
mod websocket;

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyType};

/// Sets the size of the stacks of greenlets that are made from now on, in bytes, guard included.
///
/// Raises ValueError, naming the limits, for a size out of range.
#[pyfunction]
fn set_stack_size(size: usize) -> PyResult<()> {
    let minimum = thread_state::MINIMUM_STACK_SIZE;
    if size < minimum {
        let message = format!("stack size {size} is below {minimum} bytes, the least for this CPython");
        return Err(pyo3::exceptions::PyValueError::new_err(message));
    }
    greenrust::stack::set_stack_size(size).map_err(|error| pyo3::exceptions::PyValueError::new_err(error.to_string()))
}

/// The size of the stacks of new greenlets, in bytes, guard included.
#[pyfunction]
fn get_stack_size() -> usize {
    greenrust::stack::stack_size()
}

#[pymodule]
fn _greenrust(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    thread_state::initialize()?;
    greenrust::stack::set_host_area(thread_state::FRAME_AREA);
    lowlevel::install_dealloc(
        &PyType::new::<lowlevel::PyGreenlet>(py),
        &lowlevel::GREENLET_DEALLOC,
        lowlevel::greenlet_dealloc,
    );
    lowlevel::install_dealloc(
        &PyType::new::<greenlet::PyGeventGreenlet>(py),
        &greenlet::GEVENT_GREENLET_DEALLOC,
        greenlet::gevent_greenlet_dealloc,
    );
    lowlevel::SWITCH.add_to(&PyType::new::<lowlevel::PyGreenlet>(py))?;
    greenlet::SPAWN.add_to(&PyType::new::<greenlet::PyGeventGreenlet>(py))?;
    module.add("error", py.get_type::<exceptions::GreenletError>())?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("GreenletExit", py.get_type::<exceptions::GreenletExit>())?;
    module.add_class::<lowlevel::PyGreenlet>()?;
    module.add_class::<greenlet::PyGeventGreenlet>()?;
    module.add_class::<hub::PyHub>()?;
    module.add_class::<timeout::PyTimeout>()?;
    socket::register(module)?;
    ssl::register(module)?;
    run_info::register(module)?;
    threadpool::register(module)?;
    event::register(module)?;
    lock::register(module)?;
    queue::register(module)?;
    channel::register(module)?;
    resolver::register(module)?;
    local::register(module)?;
    tracer::register(module)?;
    waiter::register(module)?;
    cancel_scope::register(module)?;
    aio::register(module)?;
    c_interface::register(module)?;
    other_greenlet::register(module)?;
    for function in [
        wrap_pyfunction!(set_stack_size, module)?,
        wrap_pyfunction!(get_stack_size, module)?,
        wrap_pyfunction!(lowlevel::getcurrent, module)?,
        wrap_pyfunction!(lowlevel::settrace, module)?,
        wrap_pyfunction!(lowlevel::gettrace, module)?,
        wrap_pyfunction!(hub::get_hub, module)?,
        wrap_pyfunction!(hub::get_hub_if_exists, module)?,
        wrap_pyfunction!(hub::set_hub, module)?,
        wrap_pyfunction!(hub::set_default_hub_class, module)?,
        wrap_pyfunction!(hub::get_hub_class, module)?,
        wrap_pyfunction!(hub::leave_behind, module)?,
        wrap_pyfunction!(greenlet::raw::spawn_raw, module)?,
        wrap_pyfunction!(greenlet::joinall::join_greenlets, module)?,
        wrap_pyfunction!(greenlet::set_track_greenlet_tree, module)?,
    ] {
        module.add_function(function)?;
    }
    hub::SLEEP.add_to(module)?;
    // As PyPI's greenlet has it: the module's functions and exceptions are in reach of the class.
    for name in ["getcurrent", "settrace", "gettrace", "error", "GreenletExit"] {
        PyType::new::<lowlevel::PyGreenlet>(py).setattr(name, module.getattr(name)?)?;
    }
    let keywords = PyDict::new(py);
    keywords.set_item("after_in_child", wrap_pyfunction!(hub::after_fork_in_child, module)?)?;
    py.import("os")?.call_method("register_at_fork", (), Some(&keywords))?;
    loop_::register(module)?;
    pywsgi::register(module)?;
    websocket::register(module)?;
    Ok(())
}
