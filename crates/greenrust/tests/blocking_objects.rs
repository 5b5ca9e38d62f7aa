//! What the cores of the blocking objects promise to both faces: order, no barging, and that nothing which was given to
//! a greenlet is lost when the greenlet goes on for another reason.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use greenrust::channel::Channel;
use greenrust::clock::Instant;
use greenrust::context::State;
use greenrust::event::{AsyncResult, Event};
use greenrust::hub::{Body, Hub, RawGreenlet, WaitingFor, Wake};
use greenrust::lock::{BoundedSemaphore, NotOwner, RLock, Semaphore, TooManyReleases};
use greenrust::queue::{Lifo, Queue, QueueError, TooManyTasksDone};
use greenrust::stack::StackError;
use greenrust::wait_queue::WaitError;

struct Closure<F>(F);

impl<F: FnOnce()> Body for Closure<F> {
    fn run(self: Box<Self>, _greenlet: &RawGreenlet) -> RawGreenlet {
        (self.0)();
        Hub::current().next()
    }

    fn refused(self: Box<Self>, _greenlet: &RawGreenlet, error: StackError) {
        panic!("{error}");
    }
}

type Log = Rc<RefCell<Vec<String>>>;

/// A greenlet that writes what its body returns into the log.
fn spawn<T: std::fmt::Debug>(log: &Log, name: &str, body: impl FnOnce() -> T + 'static) -> RawGreenlet {
    let hub = Hub::current();
    let (log, name) = (log.clone(), name.to_owned());
    let greenlet = RawGreenlet::new(
        hub,
        Box::new(Closure(move || {
            let result = body();
            log.borrow_mut().push(format!("{name} {result:?}"));
        })),
    );
    hub.push_start(greenlet.clone());
    greenlet
}

fn take(log: &Log) -> Vec<String> {
    log.take()
}

/// Runs what is ready, the root excepted; no time passes.
fn settle() {
    for _ in 0..4 {
        assert_eq!(Hub::current().yield_now(), Ok(Wake::Unparked));
    }
}

fn pause(seconds: u64) {
    let hub = Hub::current();
    let waker = hub.begin_park(WaitingFor::Sleep).unwrap();
    assert_eq!(hub.park_until(&waker, after(seconds), true), Wake::TimedOut);
}

fn after(seconds: u64) -> Instant {
    Hub::current().clock().now().after(Duration::from_secs(seconds))
}

fn in_thread(test: impl FnOnce(Log) + Send + 'static) {
    std::thread::spawn(|| {
        Hub::with_mock_clock();
        test(Log::default());
    })
    .join()
    .unwrap();
}

/// Transfers to a suspended greenlet as a host does that throws into it.
fn switch_to(greenlet: &RawGreenlet) {
    assert_eq!(greenlet.state(), State::Started);
    // The root comes back by the run queue.
    let hub = Hub::current();
    let waker = hub.begin_park(WaitingFor::Hub).unwrap();
    waker.unpark();
    hub.transfer(greenlet);
}

#[test]
fn a_released_permit_goes_to_the_first_waiter_and_to_nobody_who_comes_later() {
    in_thread(|log| {
        let semaphore = Rc::new(Semaphore::new(1));
        assert!(semaphore.try_acquire_core());
        for name in ["a", "b"] {
            let semaphore = semaphore.clone();
            spawn(&log, name, move || semaphore.acquire_core(None));
        }
        settle();
        assert!(semaphore.release());
        assert!(!semaphore.try_acquire_core(), "the permit is a's");
        settle();
        assert_eq!(take(&log), ["a Ok(())"]);
        assert!(semaphore.release());
        assert_eq!(semaphore.acquire_core(Some(after(1))), Err(WaitError::TimedOut));
        assert_eq!(take(&log), ["b Ok(())"]);
        assert!(!semaphore.release());
        assert_eq!((semaphore.permits(), semaphore.waiting()), (1, 0));
    });
}

#[test]
fn a_permit_given_to_a_greenlet_that_is_switched_to_by_others_goes_to_the_next() {
    in_thread(|log| {
        let semaphore = Rc::new(Semaphore::new(0));
        let [first, _second] = ["a", "b"].map(|name| {
            let semaphore = semaphore.clone();
            spawn(&log, name, move || semaphore.acquire_core(None))
        });
        settle();
        semaphore.release();
        switch_to(&first);
        settle();
        assert_eq!(take(&log), ["a Err(Foreign)", "b Ok(())"]);
        assert_eq!((semaphore.permits(), semaphore.waiting()), (0, 0));
    });
}

#[test]
fn a_waiter_that_timed_out_in_the_same_turn_is_passed_over_and_gains_nothing() {
    in_thread(|log| {
        let semaphore = Rc::new(Semaphore::new(0));
        for (name, seconds) in [("a", 1), ("b", 5)] {
            let semaphore = semaphore.clone();
            spawn(&log, name, move || semaphore.acquire_core(Some(after(seconds))));
        }
        settle();
        let releaser = semaphore.clone();
        // Its timer was added before those of a and b expire: at second 1 it runs before a, which is timed out already.
        let hub = Hub::current();
        hub.add_timer(
            after(1),
            greenrust::hub::TimerAction::Call(Box::new(move |_| {
                releaser.release();
            })),
            true,
        );
        pause(2);
        assert_eq!(take(&log), ["a Err(TimedOut)", "b Ok(())"]);
        assert_eq!((semaphore.permits(), semaphore.waiting()), (0, 0));
    });
}

#[test]
fn an_interrupted_waiter_leaves_the_line() {
    in_thread(|log| {
        let semaphore = Rc::new(Semaphore::new(0));
        let waiter = {
            let semaphore = semaphore.clone();
            spawn(&log, "a", move || semaphore.acquire_core(None))
        };
        settle();
        waiter.interrupt(Box::new("kill"));
        settle();
        assert_eq!(take(&log), ["a Err(Interrupted)"]);
        assert!(!semaphore.release());
        assert_eq!(semaphore.permits(), 1);
    });
}

#[test]
fn a_bounded_semaphore_refuses_a_permit_too_many() {
    in_thread(|_| {
        let semaphore = BoundedSemaphore::new(1);
        assert_eq!(semaphore.release(), Err(TooManyReleases));
        assert!(semaphore.semaphore().try_acquire_core());
        assert_eq!(semaphore.release(), Ok(false));
        assert_eq!(semaphore.release(), Err(TooManyReleases));
    });
}

#[test]
fn a_reentrant_lock_belongs_to_a_greenlet() {
    in_thread(|log| {
        let lock = Rc::new(RLock::new());
        assert_eq!(lock.release(), Err(NotOwner));
        assert_eq!(lock.acquire_core(None), Ok(()));
        assert_eq!(lock.acquire_core(None), Ok(()));
        assert_eq!(lock.count(), 2);
        for name in ["a", "b"] {
            let lock = lock.clone();
            spawn(&log, name, move || {
                assert_eq!(lock.release(), Err(NotOwner));
                assert!(!lock.try_acquire_core());
                lock.acquire_core(None).unwrap();
                assert!(lock.is_owned());
                lock.release()
            });
        }
        settle();
        assert_eq!(lock.release_all(), Ok(2));
        assert!(lock.is_locked(), "handed over to a");
        assert_eq!(lock.acquire_all_core(2, None), Ok(()));
        assert_eq!(take(&log), ["a Ok(())", "b Ok(())"]);
        assert_eq!(lock.count(), 2);
        lock.release().unwrap();
        lock.release().unwrap();
        assert!(!lock.is_locked() && lock.owner().is_none());
    });
}

#[test]
fn a_set_event_releases_all_who_wait_even_if_it_is_cleared_at_once() {
    in_thread(|log| {
        let event = Rc::new(Event::new());
        for name in ["a", "b"] {
            let event = event.clone();
            spawn(&log, name, move || event.wait_core(None));
        }
        settle();
        event.set();
        event.clear();
        settle();
        assert_eq!(take(&log), ["a Ok(())", "b Ok(())"]);
        assert_eq!(event.wait_core(Some(after(3))), Err(WaitError::TimedOut));
        assert_eq!(event.waiting(), 0);
        event.set();
        assert_eq!(event.wait_core(None), Ok(()));
    });
}

#[test]
fn a_result_arrives_at_all_who_wait_and_can_be_replaced() {
    in_thread(|log| {
        let result = Rc::new(AsyncResult::new());
        for name in ["a", "b"] {
            let result = result.clone();
            spawn(&log, name, move || result.get_core(None));
        }
        settle();
        assert!(result.set(7).is_none());
        settle();
        assert_eq!(take(&log), ["a Ok(7)", "b Ok(7)"]);
        assert_eq!(result.set(8).as_deref(), Some(&7));
        assert_eq!(result.get_core(None).as_deref(), Ok(&8));
    });
}

#[test]
fn items_reach_getters_in_the_order_in_which_they_came() {
    in_thread(|log| {
        let queue = Rc::new(Queue::unbounded());
        for name in ["a", "b", "c"] {
            let queue = queue.clone();
            spawn(&log, name, move || queue.get_core(None));
        }
        settle();
        for item in 1..=3 {
            queue.put_core(&mut Some(item), None).unwrap();
        }
        // All three are promised: a blocking get waits behind, and nothing is left for it.
        assert_eq!(queue.get_core(Some(after(1))), Err(QueueError::Wait(WaitError::TimedOut)));
        assert_eq!(take(&log), ["a Ok(1)", "b Ok(2)", "c Ok(3)"]);
        assert_eq!(queue.try_get_core(), Err(QueueError::Empty));
    });
}

#[test]
fn who_is_robbed_by_a_get_that_does_not_wait_keeps_its_place() {
    in_thread(|log| {
        let queue = Rc::new(Queue::unbounded());
        for name in ["a", "b"] {
            let queue = queue.clone();
            spawn(&log, name, move || queue.get_core(None));
        }
        settle();
        queue.try_put_core(&mut Some(1)).unwrap();
        assert_eq!(queue.try_get_core(), Ok(1));
        settle();
        assert!(take(&log).is_empty());
        queue.try_put_core(&mut Some(2)).unwrap();
        queue.try_put_core(&mut Some(3)).unwrap();
        settle();
        assert_eq!(take(&log), ["a Ok(2)", "b Ok(3)"]);
        assert_eq!(queue.waiting_getters(), 0);
    });
}

#[test]
fn an_item_promised_to_a_greenlet_that_is_switched_to_by_others_goes_to_the_next() {
    in_thread(|log| {
        let queue = Rc::new(Queue::unbounded());
        let [first, _second] = ["a", "b"].map(|name| {
            let queue = queue.clone();
            spawn(&log, name, move || queue.get_core(None))
        });
        settle();
        queue.try_put_core(&mut Some(1)).unwrap();
        switch_to(&first);
        settle();
        assert_eq!(take(&log), ["a Err(Wait(Foreign))", "b Ok(1)"]);
    });
}

#[test]
fn a_bounded_queue_makes_putters_wait_their_turn() {
    in_thread(|log| {
        let queue = Rc::new(Queue::bounded(2));
        for item in 1..=5 {
            let queue = queue.clone();
            spawn(&log, &format!("put {item}"), move || queue.put_core(&mut Some(item), None));
        }
        settle();
        assert_eq!(take(&log), ["put 1 Ok(())", "put 2 Ok(())"]);
        assert_eq!(queue.waiting_putters(), 3);
        let mut late = Some(9);
        assert_eq!(queue.try_put_core(&mut late), Err(QueueError::Full));
        assert_eq!(late, Some(9));
        let got: Vec<_> = (0..5).map(|_| queue.get_core(None).unwrap()).collect();
        assert_eq!(got, [1, 2, 3, 4, 5]);
        assert_eq!(take(&log), ["put 3 Ok(())", "put 4 Ok(())", "put 5 Ok(())"]);
        queue.set_capacity(Some(1)).unwrap();
        queue.put_core(&mut late, None).unwrap();
        assert_eq!(queue.put_core(&mut Some(10), Some(after(1))), Err(QueueError::Wait(WaitError::TimedOut)));
        assert_eq!(queue.waiting_putters(), 0);
    });
}

#[test]
fn a_peek_leaves_the_item_and_wakes_the_next() {
    in_thread(|log| {
        let queue = Rc::new(Queue::unbounded());
        for name in ["a", "b"] {
            let queue = queue.clone();
            spawn(&log, name, move || queue.peek_core(None));
        }
        {
            let queue = queue.clone();
            spawn(&log, "c", move || queue.get_core(None));
        }
        settle();
        queue.try_put_core(&mut Some(1)).unwrap();
        settle();
        assert_eq!(take(&log), ["a Ok(1)", "b Ok(1)", "c Ok(1)"]);
        assert_eq!(queue.try_peek_core(), Err(QueueError::Empty));
    });
}

#[test]
fn a_shut_down_queue_gives_what_it_has_and_then_refuses() {
    in_thread(|log| {
        let queue = Rc::new(Queue::bounded(1));
        queue.try_put_core(&mut Some(1)).unwrap();
        {
            let queue = queue.clone();
            spawn(&log, "put", move || queue.put_core(&mut Some(2), None));
        }
        settle();
        queue.shut_down_core(false).unwrap();
        settle();
        assert_eq!(take(&log), ["put Err(ShutDown)"]);
        assert_eq!(queue.get_core(None), Ok(1));
        assert_eq!(queue.get_core(None), Err(QueueError::ShutDown));
        assert_eq!(queue.try_put_core(&mut Some(3)), Err(QueueError::ShutDown));
    });
}

#[test]
fn an_immediate_shutdown_wakes_getters_and_joiners() {
    in_thread(|log| {
        let queue = Rc::new(Queue::<i32>::unbounded());
        {
            let queue = queue.clone();
            spawn(&log, "get", move || queue.get_core(None));
        }
        settle();
        queue.shut_down_core(true).unwrap();
        settle();
        assert_eq!(take(&log), ["get Err(ShutDown)"]);

        let queue = Rc::new(Queue::unbounded());
        queue.try_put_core(&mut Some(1)).unwrap();
        {
            let queue = queue.clone();
            spawn(&log, "join", move || queue.join_core(None));
        }
        settle();
        queue.shut_down_core(true).unwrap();
        settle();
        assert_eq!(take(&log), ["join Ok(())"]);
        assert_eq!(queue.len_core(), Ok(0));
    });
}

#[test]
fn a_join_returns_when_every_task_is_done() {
    in_thread(|log| {
        let queue = Rc::new(Queue::<i32, Lifo<i32>>::default());
        for item in [1, 2] {
            queue.try_put_core(&mut Some(item)).unwrap();
        }
        {
            let queue = queue.clone();
            spawn(&log, "join", move || queue.join_core(None));
        }
        assert_eq!(queue.get_core(None), Ok(2));
        queue.task_done().unwrap();
        settle();
        assert!(take(&log).is_empty());
        queue.task_done().unwrap();
        settle();
        assert_eq!(take(&log), ["join Ok(())"]);
        assert_eq!(queue.task_done(), Err(TooManyTasksDone));
    });
}

#[test]
fn a_put_and_a_get_meet_in_a_channel() {
    in_thread(|log| {
        let channel = Rc::new(Channel::new());
        for item in [1, 2] {
            let channel = channel.clone();
            spawn(&log, "put", move || channel.put_core(&mut Some(item), None));
        }
        settle();
        assert_eq!(channel.balance(), 2);
        assert_eq!(channel.get_core(None), Ok(1));
        assert_eq!(channel.try_get_core(), Some(2));
        assert_eq!(channel.try_get_core(), None);
        settle();
        assert_eq!(take(&log), ["put Ok(())", "put Ok(())"]);
        let mut item = Some(3);
        assert_eq!(channel.put_core(&mut item, Some(after(1))), Err(WaitError::TimedOut));
        assert_eq!((item, channel.balance()), (Some(3), 0));
    });
}

#[test]
fn a_channels_item_is_not_lost_with_its_getter() {
    in_thread(|log| {
        let channel = Rc::new(Channel::new());
        let getter = {
            let channel = channel.clone();
            spawn(&log, "a", move || channel.get_core(None))
        };
        settle();
        assert!(channel.try_put_core(&mut Some(1)));
        switch_to(&getter);
        settle();
        assert_eq!(take(&log), ["a Err(Foreign)"]);
        assert_eq!(channel.get_core(None), Ok(1));
    });
}
