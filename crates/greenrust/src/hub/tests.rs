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
            answer.set(Some(Hub::current().wait_ready(descriptor, Direction::Read, None, None).unwrap()));
        });
        hub.yield_now().unwrap();
        assert!(hub.has_waiter(descriptor, Direction::Read));
        hub.deregister(descriptor);
        hub.yield_now().unwrap();
        assert_eq!(seen.get(), Some(Wake::Closed));
    });
}

#[test]
fn who_runs_for_long_and_ends_its_turn_lets_the_hub_poll() {
    for ends in [false, true] {
        in_thread(move |hub| {
            use std::io::Write;
            use std::os::fd::AsRawFd;
            // Once the hub looks at the time, the next look finds the interval over.
            hub.set_switch_interval(Duration::ZERO);
            let (one, mut two) = std::os::unix::net::UnixStream::pair().unwrap();
            one.set_nonblocking(true).unwrap();
            let descriptor = one.as_raw_fd();
            hub.register(descriptor).unwrap();
            let is_served = Rc::new(Cell::new(false));
            let served = is_served.clone();
            spawn(hub, move || {
                Hub::current().wait_ready(descriptor, Direction::Read, None, None).unwrap();
                served.set(true);
            });
            while !hub.has_waiter(descriptor, Direction::Read) {
                hub.yield_now().unwrap();
            }
            two.write_all(b"x").unwrap();
            let mut turns = 0;
            while !is_served.get() {
                turns += 1;
                if ends {
                    hub.end_turn();
                }
                hub.yield_now().unwrap();
            }
            assert_eq!(turns <= 4, ends, "{turns} turns");
        });
    }
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

#[test]
fn one_descriptor_is_waited_for_by_level_and_by_edge_whichever_comes_first() {
    in_thread(|hub| {
        use std::io::{Read, Write};
        use std::os::fd::AsRawFd;
        let interest = Interest { read: true, write: false };
        for is_edge_first in [false, true] {
            let (mut one, mut other) = std::os::unix::net::UnixStream::pair().unwrap();
            let descriptor = one.as_raw_fd();
            let woken = Rc::new(Cell::new(0));
            let by_edge = {
                let woken = woken.clone();
                move || {
                    let hub = Hub::current();
                    hub.register(descriptor).unwrap();
                    hub.mark_blocked(descriptor, Direction::Read);
                    assert_eq!(hub.wait_ready(descriptor, Direction::Read, None, None), Ok(Wake::Unparked));
                    woken.set(woken.get() + 1);
                }
            };
            let by_level = {
                let woken = woken.clone();
                move || {
                    let wake = Hub::current().wait_level(descriptor, interest, None).unwrap().unwrap();
                    assert_eq!(wake, Wake::Unparked);
                    woken.set(woken.get() + 1);
                }
            };
            if is_edge_first {
                spawn(hub, by_edge);
                spawn(hub, by_level);
            } else {
                spawn(hub, by_level);
                spawn(hub, by_edge);
            }
            sleep(hub, 1);
            other.write_all(b"x").unwrap();
            sleep(hub, 1);
            assert_eq!(woken.get(), 2, "edge first: {is_edge_first}");
            // Unread data wake who waits by level again.
            assert_eq!(hub.wait_level(descriptor, interest, None).unwrap().unwrap(), Wake::Unparked);
            one.read_exact(&mut [0]).unwrap();
            hub.deregister(descriptor);
        }
    });
}

fn park_with(hub: &Hub, alarm: &Alarm, seconds: u64, slot: &RefCell<Option<Waker>>) -> (Wake, u64) {
    let waker = hub.begin_park(WaitingFor::Sleep).unwrap();
    *slot.borrow_mut() = Some(waker.clone());
    let before = hub.clock().now();
    let wake = alarm.park_until(hub, &waker, before.after(Duration::from_secs(seconds)));
    (wake, hub.clock().now().since(before).as_secs())
}

#[test]
fn an_alarm_sets_one_timer_for_many_waits_and_ends_the_last_in_time() {
    in_thread(|hub| {
        let alarm = Alarm::new();
        let slot = Rc::new(RefCell::new(None));
        let greenlet = spawn(hub, {
            let (alarm, slot) = (alarm.clone(), slot.clone());
            move || {
                let hub = Hub::current();
                for _ in 0..5 {
                    assert_eq!(park_with(hub, &alarm, 10, &slot), (Wake::Unparked, 1));
                }
                // Begun in the fifth second: the timer of the first wait expires in the tenth, and moves on.
                assert_eq!(park_with(hub, &alarm, 10, &slot), (Wake::TimedOut, 10));
                assert_eq!(hub.timers.borrow().len(), 1, "the root's");
                // A deadline that comes before the timer's is kept, too.
                let waker = hub.begin_park(WaitingFor::Sleep).unwrap();
                waker.unpark();
                let distant = hub.clock().now().after(Duration::from_secs(100));
                assert_eq!(alarm.park_until(hub, &waker, distant), Wake::Unparked);
                assert_eq!(park_with(hub, &alarm, 3, &slot), (Wake::TimedOut, 3));
            }
        });
        for _ in 0..5 {
            assert_eq!(sleep(hub, 1), Wake::TimedOut);
            assert_eq!(hub.timers.borrow().len(), 1, "the alarm's");
            assert!(slot.take().unwrap().unpark());
        }
        assert_eq!(sleep(hub, 60), Wake::TimedOut);
        assert_eq!(greenlet.state(), State::Finished);
        alarm.cancel(hub);
        assert_eq!(hub.timers.borrow().len(), 0);
    });
}

#[test]
fn an_alarm_is_hastened_and_a_dropped_one_does_nothing() {
    in_thread(|hub| {
        let alarm = Alarm::new();
        let other = alarm.clone();
        spawn(hub, move || {
            assert_eq!(park_with(Hub::current(), &other, 100, &RefCell::default()), (Wake::TimedOut, 2))
        });
        assert_eq!(sleep(hub, 1), Wake::TimedOut);
        let soon = hub.clock().now().after(Duration::from_secs(1));
        alarm.hasten(hub, soon);
        alarm.hasten(hub, soon.after(Duration::from_secs(1)));
        assert_eq!(sleep(hub, 5), Wake::TimedOut);
        alarm.hasten(hub, soon);
        drop(alarm);
        assert_eq!(sleep(hub, 200), Wake::TimedOut);
    });
}

#[test]
fn a_call_is_made_once_when_the_socket_is_ready_and_never_after_its_end() {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    in_thread(|hub| {
        let (near, mut far) = std::os::unix::net::UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let descriptor = near.as_raw_fd();
        let calls = Rc::new(Cell::new(0));
        let count = || {
            let calls = calls.clone();
            move |_: &Hub| calls.set(calls.get() + 1)
        };
        hub.register(descriptor).unwrap();
        hub.call_when_ready(descriptor, Direction::Read, count());
        assert!(hub.is_alive());
        assert_eq!(sleep(hub, 1), Wake::TimedOut);
        assert_eq!(calls.get(), 0);
        far.write_all(b"x").unwrap();
        assert_eq!(sleep(hub, 1), Wake::TimedOut);
        assert_eq!(calls.get(), 1);
        // Known to be ready: at the next turn.
        hub.call_when_ready(descriptor, Direction::Read, count());
        assert_eq!(sleep(hub, 1), Wake::TimedOut);
        assert_eq!(calls.get(), 2);
        hub.clear_ready(descriptor, Direction::Read);
        hub.call_when_ready(descriptor, Direction::Read, count());
        assert!(hub.cancel_call(descriptor, Direction::Read));
        assert!(!hub.cancel_call(descriptor, Direction::Read));
        hub.call_when_ready(descriptor, Direction::Read, count());
        hub.deregister(descriptor);
        far.write_all(b"x").unwrap();
        assert_eq!(sleep(hub, 1), Wake::TimedOut);
        assert_eq!((calls.get(), Rc::strong_count(&calls)), (2, 1));
        assert!(!hub.is_alive());
    });
}

#[test]
fn only_the_running_greenlet_goes_on_when_the_others_are_left_behind() {
    in_thread(|hub| {
        let log = Rc::new(RefCell::new(Vec::new()));
        let note = |name: &'static str| {
            let log = log.clone();
            move || log.borrow_mut().push(name)
        };
        let (awake, late) = (note("slept"), note("called late"));
        let sleeper = spawn(hub, move || {
            sleep(Hub::current(), 5);
            awake();
        });
        let (ready, gate) = (note("unparked"), Rc::new(RefCell::new(None)));
        let door = gate.clone();
        let waiter = spawn(hub, move || {
            let waker = Hub::current().begin_park(WaitingFor::Object("Event", 0)).unwrap();
            *door.borrow_mut() = Some(waker.clone());
            Hub::current().park(&waker);
            ready();
        });
        assert_eq!(sleep(hub, 1), Wake::TimedOut);
        spawn(hub, note("started"));
        let call = note("called");
        hub.push_call(move |_| call());
        hub.add_timer(
            hub.clock().now().after(Duration::from_secs(5)),
            TimerAction::Call(Box::new(move |_| late())),
            true,
        );

        hub.leave_behind(&[hub.running(), sleeper, waiter]);

        assert!(!gate.borrow().as_ref().unwrap().unpark());
        assert!(!hub.is_alive());
        spawn(hub, note("mine"));
        assert_eq!(sleep(hub, 10), Wake::TimedOut);
        assert_eq!(*log.borrow(), ["mine"]);
    });
}
