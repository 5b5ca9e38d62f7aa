//! The run queue against a model: whatever greenlets do, those that are ready run first come, first served.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use greenrust::greenlet::{Joinable, blocking};
use greenrust::hub::{Hub, WaitingFor};
use greenrust::wait_queue::WaitQueue;
use greenrust::{sleep, spawn, yield_now};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Yield,
    /// Starts a greenlet with these steps.
    Spawn(Vec<Step>),
    /// Parks until somebody wakes the one that has waited longest.
    Park,
    WakeOne,
    WakeAll,
    /// Starts a greenlet with these steps and kills it before its first.
    KillUnstarted(Vec<Step>),
}

fn script() -> impl Strategy<Value = Vec<Step>> {
    let leaf =
        prop_oneof![4 => Just(Step::Yield), 2 => Just(Step::Park), 2 => Just(Step::WakeOne), 1 => Just(Step::WakeAll)];
    let step = leaf.prop_recursive(3, 40, 6, |inner| {
        let script = prop::collection::vec(inner, 0..6);
        prop_oneof![3 => script.clone().prop_map(Step::Spawn), 1 => script.prop_map(Step::KillUnstarted)]
    });
    prop::collection::vec(step, 0..12)
}

/// What was done: by which greenlet, in the order of their creation, and which of its steps.
type Log = Vec<(usize, usize)>;

#[derive(Default)]
struct World {
    log: RefCell<Log>,
    created: RefCell<usize>,
    parked: WaitQueue,
}

fn start(world: &Rc<World>, script: Vec<Step>) -> greenrust::Greenlet<()> {
    let identity = world.created.replace_with(|&mut count| count + 1);
    let world = world.clone();
    spawn(move || {
        for (number, step) in script.into_iter().enumerate() {
            world.log.borrow_mut().push((identity, number));
            match step {
                Step::Yield => yield_now(),
                Step::Spawn(script) => drop(start(&world, script)),
                Step::Park => {
                    let _ = blocking(|| world.parked.wait(WaitingFor::Turn, None).map_err(|abandoned| abandoned.error));
                }
                Step::WakeOne => drop(world.parked.wake_one()),
                Step::WakeAll => drop(world.parked.wake_all()),
                Step::KillUnstarted(script) => Joinable::kill_nowait(&start(&world, script)),
            }
        }
    })
}

/// Runs the scripts for real.
fn run(scripts: Vec<Vec<Step>>) -> Log {
    std::thread::spawn(|| {
        Hub::with_mock_clock();
        let world = Rc::new(World::default());
        for script in scripts {
            start(&world, script);
        }
        // With a mock clock, time passes when nobody is ready.
        sleep(Duration::from_secs(1));
        world.log.take()
    })
    .join()
    .unwrap()
}

/// Says what should happen.
fn predict(scripts: Vec<Vec<Step>>) -> Log {
    let mut log = Log::new();
    let mut ready: VecDeque<(usize, usize, VecDeque<Step>)> = VecDeque::new();
    let mut parked = VecDeque::new();
    let mut created = 0;
    for script in scripts {
        ready.push_back((created, 0, script.into()));
        created += 1;
    }
    while let Some((identity, mut number, mut script)) = ready.pop_front() {
        while let Some(step) = script.pop_front() {
            log.push((identity, number));
            number += 1;
            match step {
                Step::Yield => {
                    ready.push_back((identity, number, std::mem::take(&mut script)));
                    break;
                }
                Step::Park => {
                    parked.push_back((identity, number, std::mem::take(&mut script)));
                    break;
                }
                Step::Spawn(script) => {
                    ready.push_back((created, 0, script.into()));
                    created += 1;
                }
                Step::KillUnstarted(_) => created += 1,
                Step::WakeOne => ready.extend(parked.pop_front()),
                Step::WakeAll => ready.append(&mut parked),
            }
        }
    }
    log
}

proptest! {
    #[test]
    fn greenlets_that_are_ready_run_in_the_order_in_which_they_became_so(
        scripts in prop::collection::vec(script(), 1..40)
    ) {
        prop_assert_eq!(run(scripts.clone()), predict(scripts));
    }
}
