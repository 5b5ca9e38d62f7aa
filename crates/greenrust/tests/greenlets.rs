//! Greenlets, timeouts, locals, and what a kill or a timeout leaves behind.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use greenrust::channel::Channel;
use greenrust::event::{AsyncResult, Event};
use greenrust::greenlet::joinall_timeout;
use greenrust::hub::Hub;
use greenrust::local::Local;
use greenrust::lock::{RLock, Semaphore};
use greenrust::queue::Queue;
use greenrust::{Greenlet, GreenletError, TimedOut, Timeout, joinall, killall, sleep, spawn, spawn_later, yield_now};

const SECOND: Duration = Duration::from_secs(1);

fn in_thread(test: impl FnOnce() + Send + 'static) {
    std::thread::spawn(|| {
        Hub::with_mock_clock();
        test();
    })
    .join()
    .unwrap();
}

/// Calls its function when it is dropped.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

fn elapsed<T>(function: impl FnOnce() -> T) -> (Duration, T) {
    let clock = Hub::current().clock();
    let start = clock.now();
    let result = function();
    (clock.now().since(start), result)
}

#[test]
fn greenlets_run_in_turns_and_sleep_together() {
    in_thread(|| {
        let log = Rc::new(RefCell::new(Vec::new()));
        let greenlets = ["a", "b", "c"].map(|name| {
            let log = log.clone();
            spawn(move || {
                for round in 0..3 {
                    log.borrow_mut().push(format!("{name}{round}"));
                    sleep(SECOND);
                }
            })
        });
        let (time, ()) = elapsed(|| joinall(&greenlets));
        assert_eq!(time, 3 * SECOND);
        assert_eq!(log.borrow().join(" "), "a0 b0 c0 a1 b1 c1 a2 b2 c2");
    });
}

#[test]
fn a_result_or_a_panic_comes_out_of_get_and_others_go_on() {
    in_thread(|| {
        let broken: Greenlet<()> = spawn(|| panic!("on purpose: {}", 1));
        let works = spawn(|| {
            yield_now();
            "result"
        });
        assert_eq!(works.get().unwrap(), "result");
        let error = broken.get().unwrap_err();
        assert!(matches!(&error, GreenletError::Panicked(message) if message == "on purpose: 1"), "{error}");
    });
}

#[test]
fn a_killed_greenlet_drops_what_it_holds() {
    in_thread(|| {
        let dropped = Rc::new(Cell::new(false));
        let greenlet = {
            let dropped = dropped.clone();
            spawn(move || {
                let _held = OnDrop(|| dropped.set(true));
                sleep(SECOND);
                unreachable!("killed while it slept");
            })
        };
        yield_now();
        greenlet.kill();
        assert!(dropped.get() && greenlet.is_ended());
        assert!(matches!(greenlet.get(), Err(GreenletError::Killed)));
    });
}

#[test]
fn a_greenlet_killed_before_its_start_never_runs_and_drops_its_closure() {
    in_thread(|| {
        let held = Rc::new(());
        let greenlets = [
            {
                let held = held.clone();
                spawn(move || unreachable!("{held:?}"))
            },
            {
                let held = held.clone();
                spawn_later(SECOND, move || unreachable!("{held:?}"))
            },
        ];
        killall(&greenlets);
        assert_eq!(Rc::strong_count(&held), 1);
        sleep(2 * SECOND);
        for greenlet in greenlets {
            assert!(matches!(greenlet.get(), Err(GreenletError::Killed)));
        }
    });
}

#[test]
fn a_greenlet_can_kill_itself() {
    in_thread(|| {
        let handle: Rc<RefCell<Option<greenrust::greenlet::AnyGreenlet>>> = Rc::default();
        let greenlet = {
            let handle = handle.clone();
            spawn(move || {
                let itself = handle.borrow().clone().unwrap();
                greenrust::Joinable::kill(&itself);
                unreachable!("dead");
            })
        };
        *handle.borrow_mut() = Some(greenlet.to_any());
        assert!(matches!(greenlet.get(), Err(GreenletError::Killed)));
    });
}

#[test]
fn joining_ends_at_its_timeout() {
    in_thread(|| {
        let greenlets = [1, 5].map(|seconds| spawn(move || sleep(seconds * SECOND)));
        let (time, outcome) = elapsed(|| joinall_timeout(&greenlets, 2 * SECOND));
        assert_eq!((time, outcome), (2 * SECOND, Err(TimedOut)));
        assert_eq!(greenlets[0].join_timeout(SECOND), Ok(()));
        assert_eq!(greenlets[1].join_timeout(SECOND), Err(TimedOut));
        let (time, ()) = elapsed(|| joinall(&greenlets));
        assert_eq!(time, 2 * SECOND);
    });
}

#[test]
fn a_timeout_stops_its_own_function_only() {
    in_thread(|| {
        let inner_first = Timeout::run(5 * SECOND, || {
            let inner = Timeout::run(SECOND, || sleep(9 * SECOND));
            sleep(SECOND);
            inner
        });
        assert_eq!(inner_first, Ok(Err(TimedOut)));
        let outer_first = Timeout::run(SECOND, || {
            let _ = Timeout::run(5 * SECOND, || sleep(9 * SECOND));
            unreachable!("the outer timeout passes through the inner one");
        });
        assert_eq!(outer_first, Err::<(), _>(TimedOut));
        // A timeout that expires when its function is over hits nobody.
        let hub = Hub::current();
        let late = Timeout::run(SECOND, || {
            let clock = hub.clock();
            clock.advance_to(clock.now().after(2 * SECOND));
            7
        });
        assert_eq!(late, Ok(7));
        sleep(5 * SECOND);
    });
}

#[test]
fn a_panic_and_a_kill_pass_through_a_timeout() {
    in_thread(|| {
        let outcome = catch_unwind(AssertUnwindSafe(|| Timeout::run(SECOND, || panic!("on purpose"))));
        assert!(outcome.is_err());
        let greenlet = spawn(|| Timeout::run(9 * SECOND, || sleep(5 * SECOND)));
        yield_now();
        greenlet.kill();
        assert!(matches!(greenlet.get(), Err(GreenletError::Killed)));
        sleep(20 * SECOND);
    });
}

#[test]
fn a_drop_may_block_while_its_greenlet_unwinds_and_no_second_kill_reaches_it() {
    in_thread(|| {
        let log = Rc::new(RefCell::new(Vec::new()));
        let child = Rc::new(spawn(|| sleep(100 * SECOND)));
        let parent = {
            let (log, child) = (log.clone(), child.clone());
            spawn(move || {
                let _guard = OnDrop(|| {
                    child.kill();
                    log.borrow_mut().push("child is dead");
                    sleep(3 * SECOND);
                    log.borrow_mut().push("has slept");
                });
                sleep(100 * SECOND);
            })
        };
        yield_now();
        let (time, ()) = elapsed(|| {
            parent.kill_nowait();
            sleep(SECOND);
            parent.kill();
        });
        assert_eq!(time, 3 * SECOND);
        assert!(child.is_ended());
        assert_eq!(*log.borrow(), ["child is dead", "has slept"]);
    });
}

#[test]
fn a_kill_that_arrives_while_a_timeout_unwinds_is_delivered_after_it() {
    in_thread(|| {
        let log = Rc::new(RefCell::new(Vec::new()));
        let greenlet = {
            let log = log.clone();
            spawn(move || {
                let outcome = Timeout::run(SECOND, || {
                    let _guard = OnDrop(|| sleep(2 * SECOND));
                    sleep(100 * SECOND);
                });
                log.borrow_mut().push(outcome);
                yield_now();
                unreachable!("the kill is due");
            })
        };
        sleep(2 * SECOND);
        greenlet.kill();
        assert_eq!(*log.borrow(), [Err(TimedOut)]);
        assert!(matches!(greenlet.get(), Err(GreenletError::Killed)));
    });
}

#[test]
fn a_greenlet_that_unwinds_does_not_shield_others_from_a_kill() {
    in_thread(|| {
        let victim = Rc::new(spawn(|| {
            loop {
                yield_now();
            }
        }));
        let panicking = {
            let victim = victim.clone();
            spawn(move || {
                let _guard = OnDrop(|| {
                    yield_now();
                    victim.kill();
                });
                panic!("on purpose");
            })
        };
        panicking.join();
        assert!(victim.is_ended());
    });
}

/// A wait that nothing ends, and a check that what was waited for still works.
type Case = (&'static str, Box<dyn Fn()>, Box<dyn Fn()>);

fn cases() -> Vec<Case> {
    fn case<T: 'static>(
        name: &'static str,
        object: T,
        wait: impl Fn(&T) + 'static,
        check: impl Fn(&T) + 'static,
    ) -> Case {
        let object = Rc::new(object);
        let other = object.clone();
        (name, Box::new(move || wait(&object)), Box::new(move || check(&other)))
    }
    let full = Queue::bounded(1);
    full.put(0).unwrap();
    let unfinished = Queue::unbounded();
    unfinished.put(0).unwrap();
    let owned = Rc::new(RLock::new());
    {
        let owned = owned.clone();
        let holder = spawn(move || std::mem::forget(owned.acquire()));
        holder.join();
    }
    vec![
        case("sleep", (), |()| sleep(1000 * SECOND), |()| sleep(SECOND)),
        case(
            "yield_now",
            (),
            |()| loop {
                yield_now();
            },
            |()| yield_now(),
        ),
        case("join", spawn(|| sleep(500 * SECOND)), Greenlet::join, |greenlet| assert!(!greenlet.is_ended())),
        case("Event::wait", Event::new(), Event::wait, |event| {
            assert_eq!(event.waiting(), 0);
            event.set();
            event.wait();
        }),
        case(
            "AsyncResult::get",
            AsyncResult::new(),
            |result| {
                result.get();
            },
            |result| {
                assert_eq!(result.waiting(), 0);
                result.set(1);
                assert_eq!(*result.get(), 1);
            },
        ),
        case(
            "Semaphore::acquire",
            Semaphore::new(0),
            |semaphore| drop(semaphore.acquire()),
            |semaphore| {
                assert_eq!((semaphore.waiting(), semaphore.release()), (0, false));
                drop(semaphore.acquire());
                assert_eq!(semaphore.permits(), 1);
            },
        ),
        case(
            "RLock::acquire",
            owned,
            |lock| drop(lock.acquire()),
            |lock| {
                assert!(lock.is_locked() && !lock.is_owned());
                lock.reset();
                drop(lock.acquire());
            },
        ),
        case(
            "Queue::get",
            Queue::unbounded(),
            |queue| {
                let _ = queue.get();
            },
            |queue| {
                assert_eq!(queue.waiting_getters(), 0);
                queue.put(1).unwrap();
                assert_eq!(queue.get(), Ok(1));
            },
        ),
        case(
            "Queue::peek",
            Queue::<i32>::unbounded(),
            |queue| {
                let _ = queue.peek();
            },
            |queue| assert_eq!(queue.waiting_getters(), 0),
        ),
        case(
            "Queue::put",
            full,
            |queue| {
                let _ = queue.put(1);
            },
            |queue| {
                assert_eq!((queue.waiting_putters(), queue.get()), (0, Ok(0)));
                queue.put(2).unwrap();
                assert_eq!((queue.get(), queue.len()), (Ok(2), 0));
            },
        ),
        case("Queue::join", unfinished, Queue::join, |queue| {
            queue.task_done().unwrap();
            queue.join();
        }),
        case(
            "Channel::get",
            Channel::<i32>::new(),
            |channel| {
                channel.get();
            },
            |channel| assert_eq!(channel.balance(), 0),
        ),
        case(
            "Channel::put",
            Channel::new(),
            |channel| channel.put(1),
            |channel| assert_eq!((channel.balance(), channel.try_get_core()), (0, None)),
        ),
    ]
}

#[test]
fn a_kill_ends_every_blocking_call_and_leaves_the_object_usable() {
    in_thread(|| {
        for (name, wait, check) in cases() {
            let greenlet = spawn(wait);
            yield_now();
            assert!(!greenlet.is_ended(), "{name} waits");
            greenlet.kill();
            assert!(matches!(greenlet.get(), Err(GreenletError::Killed)), "{name} is killed");
            check();
        }
    });
}

#[test]
fn a_timeout_ends_every_blocking_call_and_leaves_the_object_usable() {
    in_thread(|| {
        for (name, wait, check) in cases() {
            if name == "yield_now" {
                // With a mock clock, time does not pass while somebody is ready.
                continue;
            }
            let (time, outcome) = elapsed(|| Timeout::run(SECOND, wait));
            assert_eq!((time, outcome), (SECOND, Err(TimedOut)), "{name}");
            check();
        }
    });
}

#[test]
fn a_wait_that_nothing_can_end_panics_with_a_list_of_who_waits_for_what() {
    in_thread(|| {
        let event = Rc::new(Event::new());
        let semaphore = Semaphore::new(0);
        let waiter = {
            let event = event.clone();
            spawn(move || event.wait())
        };
        let panic = catch_unwind(AssertUnwindSafe(|| drop(semaphore.acquire()))).unwrap_err();
        let message = panic.downcast_ref::<String>().unwrap();
        assert!(message.contains("root greenlet waits for Semaphore at 0x"), "{message}");
        assert!(message.contains("waits for Event at 0x"), "{message}");
        // The program can go on.
        event.set();
        waiter.get().unwrap();
        assert_eq!(semaphore.waiting(), 0);
    });
}

#[test]
fn greenlets_left_at_the_end_of_their_thread_are_killed() {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for delay in [1, 2] {
            let sender = sender.clone();
            spawn(move || {
                let _guard = OnDrop(|| {
                    yield_now();
                    sender.send("suspended").unwrap();
                });
                sleep(delay * 1000 * SECOND);
            });
        }
        yield_now();
        let never = OnDrop(move || sender.send("unstarted").unwrap());
        spawn(move || drop(never));
    })
    .join()
    .unwrap();
    let mut dropped: Vec<_> = receiver.iter().collect();
    dropped.sort_unstable();
    assert_eq!(dropped, ["suspended", "suspended", "unstarted"]);
}

#[test]
fn each_greenlet_has_its_own_local_value_which_ends_with_it() {
    in_thread(|| {
        let held = Rc::new(());
        let for_locals = held.clone();
        let local = Rc::new(Local::new(move || (for_locals.clone(), Cell::new(0))));
        let greenlets = [1, 2].map(|number| {
            let local = local.clone();
            spawn(move || {
                local.get().1.set(number);
                yield_now();
                local.get().1.get()
            })
        });
        yield_now();
        assert_eq!(Rc::strong_count(&held), 4);
        assert_eq!(local.get().1.get(), 0);
        assert_eq!(greenlets.map(|greenlet| greenlet.get().unwrap()), [1, 2]);
        assert_eq!(Rc::strong_count(&held), 3, "the closure's and the root's are left");
    });
}

#[test]
fn a_stopped_greenlet_wakes_its_joiners_in_order() {
    in_thread(|| {
        let log = Rc::new(RefCell::new(Vec::new()));
        let slow = Rc::new(spawn(|| sleep(SECOND)));
        let joiners = ["a", "b"].map(|name| {
            let (log, slow) = (log.clone(), slow.clone());
            spawn(move || {
                slow.join();
                log.borrow_mut().push(name);
            })
        });
        joinall(&joiners);
        assert_eq!(*log.borrow(), ["a", "b"]);
    });
}
