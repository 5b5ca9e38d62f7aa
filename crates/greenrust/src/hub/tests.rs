//! The hub's behaviour, with a mock clock.

#![forbid(unsafe_code)]

use super::*;
use crate::sys::Interest;

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

fn spawn(hub: &Hub, body: impl FnOnce() + 'static) -> RawGreenlet {
    let greenlet = RawGreenlet::new(hub, Box::new(Closure(body)));
    hub.push_start(greenlet.clone());
    greenlet
}

fn sleep(hub: &Hub, seconds: u64) -> Wake {
    let waker = hub.begin_park(WaitingFor::Sleep).unwrap();
    hub.park_until(&waker, hub.clock().now().after(Duration::from_secs(seconds)), true)
}

/// Each test in a thread of its own, as a hub belongs to a thread.
fn in_thread(test: impl FnOnce(&'static Hub) + Send + 'static) {
    std::thread::spawn(|| test(Hub::with_mock_clock())).join().unwrap();
}

#[test]
fn greenlets_take_turns_in_the_order_of_their_start() {
    in_thread(|hub| {
        let log = Rc::new(RefCell::new(Vec::new()));
        for name in ["a", "b", "c"] {
            let log = log.clone();
            spawn(hub, move || {
                for round in 0..3 {
                    log.borrow_mut().push((name, round));
                    assert_eq!(Hub::current().yield_now(), Ok(Wake::Unparked));
                }
            });
        }
        assert_eq!(sleep(hub, 1), Wake::TimedOut);
        let expected: Vec<_> = (0..3).flat_map(|round| ["a", "b", "c"].map(|name| (name, round))).collect();
        assert_eq!(*log.borrow(), expected);
    });
}

#[test]
fn sleepers_wake_by_deadline_without_real_time_passing() {
    in_thread(|hub| {
        let log = Rc::new(RefCell::new(Vec::new()));
        for seconds in [300, 100, 200] {
            let log = log.clone();
            spawn(hub, move || {
                sleep(Hub::current(), seconds);
                log.borrow_mut().push(seconds);
            });
        }
        sleep(hub, 1000);
        assert_eq!(*log.borrow(), [100, 200, 300]);
    });
}

#[test]
fn a_late_wakeup_is_refused() {
    in_thread(|hub| {
        let waker = hub.begin_park(WaitingFor::Turn).unwrap();
        assert!(waker.unpark());
        assert!(!waker.unpark());
        assert_eq!(hub.park(&waker), Wake::Unparked);
        assert!(!waker.unpark());
    });
}

#[test]
fn a_callback_runs_in_the_hub_greenlet_where_nothing_may_park() {
    in_thread(|hub| {
        let seen = Rc::new(Cell::new(None));
        let answer = seen.clone();
        hub.push_call(move |hub| answer.set(Some(hub.begin_park(WaitingFor::Turn).is_err())));
        hub.yield_now().unwrap();
        hub.yield_now().unwrap();
        assert_eq!(seen.get(), Some(true));
    });
}

#[test]
fn the_root_is_interrupted_when_nothing_can_wake_it() {
    in_thread(|hub| {
        let waker = hub.begin_park(WaitingFor::Object("Event", 0)).unwrap();
        assert_eq!(hub.park(&waker), Wake::Interrupted);
        assert!(hub.root().take_interrupt().unwrap().is::<LoopExit>());
    });
}

#[test]
fn the_loop_ends_after_a_callback_that_was_the_last_to_run() {
    in_thread(|hub| {
        hub.push_call(|_| {});
        let waker = hub.begin_park(WaitingFor::Object("Event", 0)).unwrap();
        assert_eq!(hub.park(&waker), Wake::Interrupted);
        assert!(hub.root().take_interrupt().unwrap().is::<LoopExit>());
    });
}

#[test]
fn another_thread_wakes_a_waiting_hub() {
    in_thread(|hub| {
        let remote = hub.remote().unwrap();
        hub.hold();
        let waker = hub.begin_park(WaitingFor::Thread).unwrap();
        thread_local! { static WAKER: RefCell<Option<Waker>> = const { RefCell::new(None) }; }
        WAKER.set(Some(waker.clone()));
        let sender = std::thread::spawn(move || {
            assert!(remote.post(|_| {
                WAKER.take().unwrap().unpark();
            }));
        });
        assert_eq!(hub.park(&waker), Wake::Unparked);
        hub.release();
        sender.join().unwrap();
    });
}

#[test]
fn an_interrupt_is_delivered_once_at_a_park_and_a_given_wakeup_is_not_lost() {
    in_thread(|hub| {
        let log = Rc::new(RefCell::new(Vec::new()));
        let slot: Rc<RefCell<Option<Waker>>> = Rc::default();
        let greenlet = {
            let (log, slot) = (log.clone(), slot.clone());
            spawn(hub, move || {
                let hub = Hub::current();
                for _ in 0..3 {
                    let waker = hub.begin_park(WaitingFor::Turn).unwrap();
                    *slot.borrow_mut() = Some(waker.clone());
                    let wake = hub.park(&waker);
                    log.borrow_mut().push(wake);
                    if wake == Wake::Interrupted {
                        hub.running().take_interrupt().unwrap();
                    }
                }
            })
        };
        hub.yield_now().unwrap();
        assert!(slot.take().unwrap().unpark());
        greenlet.interrupt(Box::new("interrupt"));
        hub.yield_now().unwrap();
        assert_eq!(*log.borrow(), [Wake::Unparked, Wake::Interrupted]);
        assert!(slot.take().unwrap().unpark());
        hub.yield_now().unwrap();
        assert_eq!(greenlet.state(), State::Finished);
    });
}

#[test]
fn closing_a_registered_socket_wakes_its_waiter() {
    in_thread(|hub| {
        use std::os::fd::AsRawFd;
        let (one, _two) = std::os::unix::net::UnixStream::pair().unwrap();
        one.set_nonblocking(true).unwrap();
        let descriptor = one.as_raw_fd();
        hub.register(descriptor).unwrap();
        let seen = Rc::new(Cell::new(None));
        let answer = seen.clone();
        spawn(hub, move || {
            answer.set(Some(Hub::current().wait_ready(descriptor, Direction::Read, None).unwrap()));
        });
        hub.yield_now().unwrap();
        assert!(hub.has_waiter(descriptor, Direction::Read));
        hub.deregister(descriptor);
        hub.yield_now().unwrap();
        assert_eq!(seen.get(), Some(Wake::Closed));
    });
}

#[test]
fn a_foreign_descriptor_is_waited_for_by_level() {
    in_thread(|hub| {
        use std::io::Write;
        use std::os::fd::AsRawFd;
        let (one, mut two) = std::os::unix::net::UnixStream::pair().unwrap();
        let interest = Interest { read: true, write: false };
        spawn(hub, move || {
            two.write_all(b"x").unwrap();
            std::mem::forget(two);
        });
        for _ in 0..2 {
            assert_eq!(hub.wait_level(one.as_raw_fd(), interest, None).unwrap().unwrap(), Wake::Unparked);
        }
        assert!(hub.wait_level(-1, interest, None).unwrap().is_err());
    });
}
