//! What `gevent.util.format_run_info` has to know of the runtime: which greenlets there are, and what they wait for.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::time::Duration;

use greenrust::hub::{Serial, WaitingFor};
use pyo3::prelude::*;
use pyo3::types::PyList;

use crate::host;
use crate::hub::PyHub;
use crate::lowlevel::{Awaited, PyGreenlet, Wait};

/// Waits that are shorter are shown without their length: it says nothing about a program that is stuck.
const SHORTEST_SHOWN: Duration = Duration::from_millis(100);

/// Adds the functions to the module.
pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(get_reachable_greenlets, module)?)?;
    module.add_function(wrap_pyfunction!(describe_waits, module)?)?;
    module.add_function(wrap_pyfunction!(running_thread, module)?)
}

/// running_thread(greenlet) -> the ident of the thread in which it runs, or None
///
/// In other threads than the calling one, that is the greenlet which gave up the GIL there.
#[pyfunction]
fn running_thread(greenlet: &Bound<'_, PyGreenlet>) -> Option<u64> {
    greenlet.get().running_thread(greenlet.py())
}

/// get_reachable_greenlets() -> the greenlets that the garbage collector knows
///
/// Without those that have a true attribute `greenlet_tree_is_ignored`.
#[pyfunction]
fn get_reachable_greenlets(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    let found = PyList::empty(py);
    for object in py.import("gc")?.call_method0("get_objects")?.cast_into::<PyList>()?.iter() {
        // Other objects may not be whole yet, and are not touched.
        if object.cast::<PyGreenlet>().is_err() {
            continue;
        }
        let is_ignored = object.getattr_opt(pyo3::intern!(py, "greenlet_tree_is_ignored"))?;
        if !is_ignored.map_or(Ok(false), |mark| mark.is_truthy())? {
            found.append(object)?;
        }
    }
    Ok(found)
}

/// Lists the greenlets of the calling thread that wait: a line for each, and one for each circle of them.
pub fn describe_waiters(py: Python<'_>) -> PyResult<String> {
    Ok(describe(py, host::active_greenlets(py))?.join("\n"))
}

/// describe_waits() -> lines that say what each suspended greenlet of the process waits for, and who waits in a circle
#[pyfunction]
fn describe_waits(py: Python<'_>) -> PyResult<Vec<String>> {
    let reachable = get_reachable_greenlets(py)?;
    describe(py, reachable.iter().filter_map(|object| object.cast_into::<PyGreenlet>().ok()).collect())
}

/// One of the greenlets that wait.
struct Waiter {
    name: String,
    serial: Serial,
    wait: Wait,
}

impl Waiter {
    /// Returns who alone can end the wait, if that is a greenlet.
    fn awaits(&self) -> Option<Serial> {
        match self.wait.awaited {
            Awaited::Greenlet(serial) | Awaited::HolderOfLock(serial) => Some(serial),
            Awaited::Unknown | Awaited::Thread => None,
        }
    }
}

fn describe(py: Python<'_>, greenlets: Vec<Bound<'_, PyGreenlet>>) -> PyResult<Vec<String>> {
    // Before any name is asked for, as that may run code of the program, and switch.
    let mut found = Vec::new();
    let mut names = HashMap::new();
    for greenlet in greenlets {
        let (serial, wait) = (greenlet.get().raw().serial(), greenlet.get().wait(py));
        found.push((greenlet, serial, wait));
    }
    let mut waiters = Vec::new();
    for (greenlet, serial, wait) in found {
        // A greenlet whose name can't be had must not keep the others from being shown.
        let name = match greenlet.repr() {
            Ok(name) => name.to_string(),
            Err(_) => format!("<{} at {:#x}>", greenlet.get_type().name()?, greenlet.as_ptr() as usize),
        };
        names.insert(serial, name.clone());
        // A hub waits for events, which is no news.
        if let Some(wait) = wait
            && greenlet.cast::<PyHub>().is_err()
        {
            waiters.push(Waiter { name, serial, wait });
        }
    }
    let name_of = |serial: Serial| names.get(&serial).map_or("a greenlet that is gone", String::as_str);
    let mut lines = Vec::new();
    for Waiter { name, wait, .. } in &waiters {
        let reason = match (wait.waiting_for, &wait.awaited) {
            (WaitingFor::Nothing, _) => "a switch".to_owned(),
            (_, Awaited::Greenlet(serial)) => format!("{} to end", name_of(*serial)),
            (lock, Awaited::HolderOfLock(serial)) => format!("{lock}, held by {}", name_of(*serial)),
            (lock, Awaited::Thread) => format!("{lock}, held by a thread without greenlets"),
            (reason, Awaited::Unknown) => reason.to_string(),
        };
        let lasts = if wait.lasts < SHORTEST_SHOWN || wait.waiting_for == WaitingFor::Nothing {
            String::new()
        } else {
            format!(", for {:.1} s", wait.lasts.as_secs_f64())
        };
        lines.push(format!("{name} waits for {reason}{lasts}"));
    }
    for circle in circles(&waiters) {
        let members: Vec<_> = circle.iter().map(|&place| waiters[place].name.as_str()).collect();
        lines.push(format!(
            "Deadlock: {} waits for itself{}",
            members[0],
            match members.len() {
                1 => String::new(),
                _ => format!(", by way of {}", members[1..].join(", ")),
            }
        ));
    }
    Ok(lines)
}

/// Finds the circles of waiters each of which waits for the next; returns their places in `waiters`.
fn circles(waiters: &[Waiter]) -> Vec<Vec<usize>> {
    let places: HashMap<_, _> = waiters.iter().enumerate().map(|(place, waiter)| (waiter.serial, place)).collect();
    let next = |place: usize| waiters[place].awaits().and_then(|serial| places.get(&serial).copied());
    // From which start each waiter was met first: nobody awaits more than one, so each is followed once.
    let mut met: Vec<Option<usize>> = vec![None; waiters.len()];
    let mut found = Vec::new();
    for start in 0..waiters.len() {
        let mut place = start;
        while met[place].is_none() {
            met[place] = Some(start);
            match next(place) {
                Some(other) => place = other,
                None => break,
            }
        }
        if met[place] == Some(start)
            && let Some(other) = next(place)
            && met[other] == Some(start)
        {
            let mut circle = vec![place];
            let mut member = other;
            while member != place {
                circle.push(member);
                let Some(following) = next(member) else { break };
                member = following;
            }
            if member == place && found.iter().all(|known: &Vec<usize>| !known.contains(&place)) {
                found.push(circle);
            }
        }
    }
    found
}
