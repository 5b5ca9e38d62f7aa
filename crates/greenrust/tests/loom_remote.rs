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
