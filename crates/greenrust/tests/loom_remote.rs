//! Every interleaving of threads that hand work to a hub: no wake-up and no work is lost.
//!
//! The file under test is the hub's own, compiled here with loom's types.

#[path = "../src/hub/remote/mailbox.rs"]
mod mailbox;

mod sync {
    pub(super) use loom::sync::Mutex;
    pub(super) use loom::sync::atomic::{AtomicBool, Ordering};
}

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use mailbox::{Bell, Mailbox};

/// A descriptor that is readable while it has rung, and a poller that waits for it.
#[derive(Default)]
struct Descriptor {
    is_readable: Mutex<bool>,
    changed: Condvar,
}

impl Bell for Descriptor {
    fn ring(&self) {
        let mut is_readable = self.is_readable.lock().unwrap();
        *is_readable = true;
        self.changed.notify_one();
        drop(is_readable);
    }

    fn silence(&self) {
        *self.is_readable.lock().unwrap() = false;
    }
}

impl Descriptor {
    fn poll(&self) {
        let mut is_readable = self.is_readable.lock().unwrap();
        while !*is_readable {
            is_readable = self.changed.wait(is_readable).unwrap();
        }
    }
}

type Shared = Arc<Mailbox<u32, Descriptor>>;

/// Tries the interleavings in which no thread is preempted more than three times, which is where such errors show.
fn model(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(test);
}

fn mailbox() -> Shared {
    Arc::new(Mailbox::new(Descriptor::default()))
}

#[test]
fn a_receiver_that_waits_gets_every_job_in_its_senders_order() {
    model(|| {
        let shared = mailbox();
        let senders = [vec![10, 11], vec![20]].map(|jobs| {
            let shared = shared.clone();
            thread::spawn(move || {
                for job in jobs {
                    assert_eq!(shared.post(job), Ok(()));
                }
            })
        });
        let mut received = Vec::new();
        // A wake-up that is lost leaves this thread waiting for ever, which loom reports.
        while received.len() < 3 {
            shared.bell().poll();
            received.extend(shared.take());
        }
        for sender in senders {
            sender.join().unwrap();
        }
        let position = |job| received.iter().position(|&other| other == job).unwrap();
        assert!(position(10) < position(11) && position(20) < 3);
    });
}

#[test]
fn a_wake_up_without_a_job_ends_a_wait() {
    model(|| {
        let shared = mailbox();
        let sender = {
            let shared = shared.clone();
            thread::spawn(move || shared.wake())
        };
        shared.bell().poll();
        assert!(shared.take().is_empty());
        sender.join().unwrap();
        assert!(!shared.has_rung());
    });
}

/// What a host's global lock orders: the run queue, and whether the hub waits for events.
#[derive(Default)]
struct UnderHostsLock {
    queue: Vec<u32>,
    polling: bool,
}

/// Pushes as `Hub::push` does, in another thread that holds the host's lock; with `deferred`, as in `Hub::defer_wake`.
fn push(lock: &Mutex<UnderHostsLock>, shared: &Shared, item: u32, deferred: bool) {
    let mut guard = lock.lock().unwrap();
    guard.queue.push(item);
    let is_owed = guard.polling;
    if is_owed && !deferred {
        shared.wake();
    }
    drop(guard);
    if is_owed && deferred {
        shared.wake();
    }
}

#[test]
fn a_hub_misses_nothing_that_other_threads_push_under_the_hosts_lock() {
    model(|| {
        let shared = mailbox();
        let lock = Arc::new(Mutex::new(UnderHostsLock::default()));
        let pushers = [(1, false), (2, true)].map(|(item, deferred)| {
            let (lock, shared) = (lock.clone(), shared.clone());
            thread::spawn(move || push(&lock, &shared, item, deferred))
        });
        let mut received = Vec::new();
        let mut guard = lock.lock().unwrap();
        loop {
            received.append(&mut guard.queue);
            if received.len() == 2 {
                break;
            }
            // As `Hub::poll`: the lock is given up around the wait only.
            guard.polling = true;
            drop(guard);
            shared.bell().poll();
            guard = lock.lock().unwrap();
            guard.polling = false;
            drop(shared.take());
        }
        drop(guard);
        for pusher in pushers {
            pusher.join().unwrap();
        }
        received.sort_unstable();
        assert_eq!(received, [1, 2]);
    });
}

#[test]
fn a_job_is_refused_or_handed_over_when_the_receiver_goes_away() {
    model(|| {
        let shared = mailbox();
        let sender = {
            let shared = shared.clone();
            thread::spawn(move || [1, 2].map(|job| shared.post(job).is_ok()))
        };
        let mut received = shared.take();
        received.extend(shared.close());
        let accepted = sender.join().unwrap();
        assert_eq!(received.len(), accepted.iter().filter(|&&accepted| accepted).count());
        assert!(accepted[0] || !accepted[1], "refused once, refused for ever");
        assert!(shared.take().is_empty());
    });
}
