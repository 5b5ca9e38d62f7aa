//! Cancel scopes and task groups, as Rust programs use them.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use greenrust::event::Event;
use greenrust::hub::Hub;
use greenrust::{
    CancelScope, Cancelled, GreenletError, TaskFailure, TaskGroup, Timeout, move_on_after, sleep, spawn, yield_now,
};

const LONG: Duration = Duration::from_secs(3600);

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

#[test]
fn a_deadline_ends_the_scope_and_nothing_else() {
    let hub = Hub::with_mock_clock();
    let start = hub.clock().now();
    assert_eq!(move_on_after(seconds(1), || sleep(LONG)), None);
    assert_eq!(hub.clock().now().since(start), seconds(1));
    sleep(seconds(1));
    assert_eq!(move_on_after(seconds(5), || 5), Some(5));
}

#[test]
fn every_blocking_call_in_a_cancelled_scope_unwinds() {
    Hub::with_mock_clock();
    let scope = CancelScope::new();
    let remote = scope.clone();
    let caught = Cell::new(0);
    let outcome = scope.run(|| {
        remote.cancel();
        for _ in 0..3 {
            if catch_unwind(AssertUnwindSafe(|| sleep(LONG))).is_err() {
                caught.set(caught.get() + 1);
            }
        }
        yield_now();
        unreachable!("a turn is a wait, too");
    });
    assert_eq!((outcome, caught.get()), (Err(Cancelled), 3));
    yield_now();
}

#[test]
fn a_scope_that_was_cancelled_before_it_runs_ends_at_its_first_wait() {
    let scope = CancelScope::new();
    scope.cancel();
    assert_eq!(scope.run(|| 1), Ok(1));
    let scope = CancelScope::new();
    scope.cancel();
    assert_eq!(scope.run(yield_now), Err(Cancelled));
}

#[test]
fn the_outermost_cancelled_scope_catches() {
    let outer = CancelScope::new();
    let remote = outer.clone();
    let went_on = Rc::new(Cell::new(false));
    let noted = went_on.clone();
    let outcome = outer.run(move || {
        let inner = CancelScope::new();
        inner.cancel();
        remote.cancel();
        let _ = inner.run(yield_now);
        noted.set(true);
    });
    assert_eq!((outcome, went_on.get()), (Err(Cancelled), false));
}

#[test]
fn a_shield_holds_back_scopes_kills_and_timeouts_until_it_ends() {
    let hub = Hub::with_mock_clock();
    let steps = Rc::new(RefCell::new(Vec::new()));
    let log = steps.clone();
    let greenlet = spawn(move || {
        let _ = CancelScope::new().shielded().run(|| {
            sleep(seconds(2));
            log.borrow_mut().push("shielded part done");
        });
        yield_now();
        log.borrow_mut().push("not reached");
    });
    yield_now();
    greenlet.kill();
    assert!(matches!(greenlet.get(), Err(GreenletError::Killed)));
    assert_eq!(*steps.borrow(), ["shielded part done"]);

    let start = hub.clock().now();
    let limited = Timeout::run(seconds(1), || {
        let inside = CancelScope::new().shielded().run(|| {
            sleep(seconds(2));
            Timeout::run(seconds(1), || sleep(LONG)).is_err()
        });
        assert_eq!(inside, Ok(true), "a timeout behind the shield works");
        sleep(LONG);
    });
    assert!(limited.is_err());
    assert_eq!(hub.clock().now().since(start), seconds(3));

    let moved_on = move_on_after(seconds(1), || {
        let _ = CancelScope::new().shielded().run(|| sleep(seconds(5)));
        sleep(LONG);
    });
    assert_eq!(moved_on, None);
}

#[test]
fn a_drop_may_wait_while_a_cancelled_scope_unwinds() {
    struct Waits(Rc<Cell<bool>>);
    impl Drop for Waits {
        fn drop(&mut self) {
            sleep(seconds(1));
            self.0.set(true);
        }
    }
    Hub::with_mock_clock();
    let has_waited = Rc::new(Cell::new(false));
    let guard = has_waited.clone();
    assert_eq!(
        move_on_after(seconds(1), move || {
            let _waits = Waits(guard);
            sleep(LONG);
        }),
        None
    );
    assert!(has_waited.get());
}

#[test]
fn a_cancelled_wait_leaves_the_object_usable() {
    Hub::with_mock_clock();
    let queue = Rc::new(greenrust::queue::Queue::unbounded());
    assert_eq!(move_on_after(seconds(1), || queue.get()), None);
    queue.put(7).unwrap();
    assert_eq!(queue.get(), Ok(7));
}

#[test]
fn a_group_waits_for_its_tasks() {
    let hub = Hub::with_mock_clock();
    let start = hub.clock().now();
    let outcome = TaskGroup::<()>::run(|group| {
        let task = group.spawn(|| {
            sleep(seconds(3));
            Ok(3)
        });
        let inner = group.clone();
        group.spawn(move || {
            inner.spawn(|| {
                sleep(seconds(5));
                Ok(())
            });
            Ok(())
        });
        Ok(task)
    });
    assert_eq!(hub.clock().now().since(start), seconds(5));
    assert_eq!(outcome.unwrap().get().unwrap(), Some(3));
}

#[test]
fn the_first_failure_cancels_tasks_and_body() {
    let hub = Hub::with_mock_clock();
    let start = hub.clock().now();
    let steps = Rc::new(RefCell::new(Vec::new()));
    let (log, other) = (steps.clone(), steps.clone());
    let outcome = TaskGroup::<&str>::run(move |group| -> Result<(), _> {
        group.spawn(move || {
            sleep(LONG);
            log.borrow_mut().push("not reached");
            Ok(())
        });
        group.spawn(|| -> Result<(), _> {
            sleep(seconds(1));
            Err("first")
        });
        sleep(LONG);
        other.borrow_mut().push("not reached either");
        Ok(())
    });
    assert_eq!(outcome.unwrap_err().failures, [TaskFailure::Failed("first")]);
    assert_eq!(hub.clock().now().since(start), seconds(1));
    assert!(steps.borrow().is_empty());
}

#[test]
fn panics_are_failures_and_an_unstarted_task_of_a_cancelled_group_never_runs() {
    let outcome = TaskGroup::<&str>::run(|group| -> Result<(), _> {
        group.spawn(|| -> Result<(), _> { panic!("broken") });
        group.spawn(|| -> Result<(), _> { panic!("never started") });
        Err("body")
    });
    assert_eq!(outcome.unwrap_err().failures, [TaskFailure::Failed("body")]);
    let outcome = TaskGroup::<&str>::run(|group| {
        group.spawn(|| -> Result<(), _> { panic!("broken") });
        Ok(())
    });
    assert_eq!(outcome.unwrap_err().failures, [TaskFailure::Panicked("broken".to_owned())]);
}

#[test]
fn a_kill_and_a_timeout_from_outside_come_when_the_tasks_have_ended() {
    struct Ends(Rc<Cell<bool>>);
    impl Drop for Ends {
        fn drop(&mut self) {
            sleep(seconds(1));
            self.0.set(true);
        }
    }
    Hub::with_mock_clock();
    for by_kill in [true, false] {
        let has_ended = Rc::new(Cell::new(false));
        let guard = has_ended.clone();
        let body = move || {
            let _ = TaskGroup::<()>::run(|group| {
                group.spawn(move || {
                    let _ends = Ends(guard);
                    sleep(LONG);
                    Ok(())
                });
                Ok(())
            });
            unreachable!("the group does not swallow what comes from outside");
        };
        if by_kill {
            let greenlet = spawn(body);
            sleep(seconds(1));
            greenlet.kill();
            assert!(matches!(greenlet.get(), Err(GreenletError::Killed)));
        } else {
            assert!(Timeout::run(seconds(1), body).is_err());
        }
        assert!(has_ended.get());
        yield_now();
    }
}

#[test]
fn a_cancelled_group_without_failures_has_no_result() {
    let event = Rc::new(Event::new());
    let waited = event.clone();
    let outcome = TaskGroup::<()>::run(move |group| {
        group.spawn(move || {
            waited.wait();
            Ok(())
        });
        group.cancel();
        yield_now();
        Ok(())
    });
    assert!(outcome.unwrap_err().failures.is_empty());
    event.set();
}

#[test]
fn an_outer_scope_reaches_the_tasks() {
    let hub = Hub::with_mock_clock();
    let start = hub.clock().now();
    let outcome = move_on_after(seconds(2), || {
        TaskGroup::<()>::run(|group| {
            for _ in 0..10 {
                group.spawn(|| {
                    sleep(LONG);
                    Ok(())
                });
            }
            Ok(())
        })
    });
    assert_eq!(outcome, None);
    assert_eq!(hub.clock().now().since(start), seconds(2));
}

#[test]
#[should_panic(expected = "the task group has ended")]
fn a_group_that_has_ended_takes_no_task() {
    let group = TaskGroup::<()>::run(|group| Ok(group.clone())).unwrap();
    group.spawn(|| Ok(()));
}
