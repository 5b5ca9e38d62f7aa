//! What the runtime's elementary operations cost: `cargo bench -p greenrust`.
//!
//! Each sample makes [`OPERATIONS`] of the named operation, so a time in microseconds is that of one operation in
//! nanoseconds.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::hint::black_box;
use std::rc::Rc;
use std::time::Duration;

use divan::Bencher;
use divan::counter::ItemsCount;
use greenrust::event::Event;
use greenrust::hub::{Body, Hub, RawGreenlet, TimerAction};
use greenrust::lock::{RLock, Semaphore};
use greenrust::queue::Queue;
use greenrust::stack::StackError;
use greenrust::{Timeout, spawn, yield_now};

const OPERATIONS: u32 = 1000;
const HOUR: Duration = Duration::from_secs(3600);

fn main() {
    divan::main();
}

fn measure(bencher: Bencher<'_, '_>, mut operation: impl FnMut()) {
    bencher.counter(ItemsCount::new(OPERATIONS)).bench_local(|| {
        for _ in 0..OPERATIONS {
            operation();
        }
    });
}

/// A greenlet that goes back to the root whenever it is switched to.
struct Partner;

impl Body for Partner {
    fn run(self: Box<Self>, _greenlet: &RawGreenlet) -> RawGreenlet {
        loop {
            let hub = Hub::current();
            hub.transfer(hub.root());
        }
    }

    fn refused(self: Box<Self>, _greenlet: &RawGreenlet, error: StackError) {
        panic!("{error}");
    }
}

/// There and back is two switches, so half as many round trips are made.
#[divan::bench]
fn raw_switch(bencher: Bencher<'_, '_>) {
    let hub = Hub::current();
    let partner = RawGreenlet::new(hub, Box::new(Partner));
    hub.prepare(&partner).unwrap();
    bencher.counter(ItemsCount::new(OPERATIONS)).bench_local(|| {
        for _ in 0..OPERATIONS / 2 {
            hub.transfer(&partner);
        }
    });
}

/// Eight greenlets take turns; each turn is one operation.
#[divan::bench]
fn yield_through_hub(bencher: Bencher<'_, '_>) {
    let stop = Rc::new(Cell::new(false));
    for _ in 0..7 {
        let stop = stop.clone();
        spawn(move || {
            while !stop.get() {
                yield_now();
            }
        });
    }
    bencher.counter(ItemsCount::new(OPERATIONS)).bench_local(|| {
        for _ in 0..OPERATIONS / 8 {
            yield_now();
        }
    });
    stop.set(true);
    yield_now();
}

#[divan::bench]
fn spawn_and_join(bencher: Bencher<'_, '_>) {
    measure(bencher, || {
        black_box(spawn(|| 1).get().unwrap());
    });
}

#[divan::bench]
fn timer_start_and_cancel(bencher: Bencher<'_, '_>) {
    let hub = Hub::current();
    let greenlet = hub.running();
    measure(bencher, || {
        let waker = greenlet.clone();
        let expire = move |_: &Hub| drop(waker);
        let deadline = hub.clock().now().after(HOUR);
        let key = hub.add_timer(deadline, TimerAction::Call(Box::new(expire)), true);
        black_box(hub.remove_timer(key));
    });
}

#[divan::bench]
fn timeout_of_nothing(bencher: Bencher<'_, '_>) {
    measure(bencher, || {
        black_box(Timeout::run(HOUR, || 1).unwrap());
    });
}

#[divan::bench]
fn semaphore_acquire_and_release(bencher: Bencher<'_, '_>) {
    let semaphore = Semaphore::new(1);
    measure(bencher, || drop(black_box(semaphore.acquire())));
}

#[divan::bench]
fn rlock_acquire_and_release(bencher: Bencher<'_, '_>) {
    let lock = RLock::new();
    measure(bencher, || drop(black_box(lock.acquire())));
}

#[divan::bench]
fn event_wait_when_set(bencher: Bencher<'_, '_>) {
    let event = Event::new();
    event.set();
    measure(bencher, || black_box(&event).wait());
}

#[divan::bench]
fn queue_put_and_get(bencher: Bencher<'_, '_>) {
    let queue = Queue::unbounded();
    measure(bencher, || {
        queue.put(1).unwrap();
        black_box(queue.get().unwrap());
    });
}

/// An item goes to a greenlet that waits for it, and an answer comes back.
#[divan::bench]
fn queue_round_trip(bencher: Bencher<'_, '_>) {
    let (requests, answers) = (Rc::new(Queue::unbounded()), Rc::new(Queue::unbounded()));
    {
        let (requests, answers) = (requests.clone(), answers.clone());
        spawn(move || {
            while let Ok(item) = requests.get() {
                answers.put(item).unwrap();
            }
        });
    }
    measure(bencher, || {
        requests.put(1).unwrap();
        black_box(answers.get().unwrap());
    });
    requests.shut_down();
    yield_now();
}
