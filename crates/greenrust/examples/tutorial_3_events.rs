//! One greenlet waits for an event that another one sets.

use std::rc::Rc;
use std::time::Duration;

use greenrust::event::Event;
use greenrust::{joinall, sleep, spawn};

/// Waits until somebody sets the event.
fn waiter(event: &Event) {
    println!("Waiter: waiting for the event...");
    event.wait(); // suspends this greenlet until event.set()
    println!("Waiter: the event is set, going on.");
}

/// Sets the event after three seconds.
fn setter(event: &Event) {
    println!("Setter: will set the event in 3 seconds...");
    sleep(Duration::from_secs(3));
    println!("Setter: setting the event!");
    event.set();
}

fn main() {
    // Both greenlets own the event. They belong to one thread, so an Rc will do; threads would need an Arc.
    let event = Rc::new(Event::new());
    let for_waiter = Rc::clone(&event);

    joinall(&[spawn(move || waiter(&for_waiter)), spawn(move || setter(&event))]);
}
