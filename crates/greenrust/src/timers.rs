//! Deadlines: an indexed 4-ary heap.
//!
//! The heap holds (deadline, sequence, slot); each slot knows its place in the heap, so that a timer in the middle is
//! removed in O(log n). Most timers of a program are time-outs: set far ahead, cancelled soon. Such a timer is added at
//! the end of the heap and seldom moves, and is removed from there: both are O(1) in practice.
//!
//! Timers of one deadline expire in the order in which they were added. The clock is not read here.

#![forbid(unsafe_code)]

use slab::Slab;

use crate::clock::Instant;

/// Identifies a pending timer. It is valid until the timer expires or is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerKey {
    slot: u32,
    sequence: u64,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    deadline: Instant,
    sequence: u64,
    slot: u32,
}

impl Entry {
    #[inline]
    fn is_before(&self, other: &Entry) -> bool {
        (self.deadline, self.sequence) < (other.deadline, other.sequence)
    }
}

#[derive(Debug)]
struct Slot<T> {
    position: u32,
    sequence: u64,
    payload: T,
}

/// Pending timers with a payload each.
#[derive(Debug)]
pub struct Timers<T> {
    heap: Vec<Entry>,
    slots: Slab<Slot<T>>,
    sequence: u64,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self { heap: Vec::new(), slots: Slab::new(), sequence: 0 }
    }
}

impl<T> Timers<T> {
    /// Returns how many timers are pending.
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// Says whether no timer is pending.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Returns the earliest deadline.
    #[inline]
    pub fn earliest(&self) -> Option<Instant> {
        self.heap.first().map(|entry| entry.deadline)
    }

    /// Adds a timer.
    ///
    /// # Panics
    ///
    /// With more than 2³² timers pending.
    #[inline]
    pub fn add(&mut self, deadline: Instant, payload: T) -> TimerKey {
        self.sequence += 1;
        let sequence = self.sequence;
        let position = self.heap.len();
        let slot = self.slots.insert(Slot { position: position as u32, sequence, payload });
        let slot = u32::try_from(slot).expect("fewer than 2^32 timers");
        self.heap.push(Entry { deadline, sequence, slot });
        self.sift_up(position);
        TimerKey { slot, sequence }
    }

    /// Removes a pending timer and returns its payload; `None` if it has expired or was removed before.
    #[inline]
    pub fn remove(&mut self, key: TimerKey) -> Option<T> {
        let slot = self.slots.get(key.slot as usize)?;
        if slot.sequence != key.sequence {
            return None;
        }
        let position = slot.position as usize;
        Some(self.take(position))
    }

    /// Returns the payload of a pending timer.
    pub fn get(&self, key: TimerKey) -> Option<&T> {
        self.slots.get(key.slot as usize).filter(|slot| slot.sequence == key.sequence).map(|slot| &slot.payload)
    }

    /// Removes the earliest timer if its deadline is not after `now`.
    #[inline]
    pub fn pop_expired(&mut self, now: Instant) -> Option<T> {
        if self.heap.first()?.deadline > now {
            return None;
        }
        Some(self.take(0))
    }

    /// Takes all pending timers out. The keys of earlier timers stay invalid.
    pub fn take_all(&mut self) -> Self {
        let sequence = self.sequence;
        std::mem::replace(self, Self { sequence, ..Self::default() })
    }

    /// Returns the payloads of all pending timers, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().map(|(_, slot)| &slot.payload)
    }

    fn take(&mut self, position: usize) -> T {
        let entry = self.heap.swap_remove(position);
        if position < self.heap.len() {
            self.place(position);
            self.sift_down(position);
            self.sift_up(position);
        }
        self.slots.remove(entry.slot as usize).payload
    }

    #[inline]
    fn place(&mut self, position: usize) {
        let slot = self.heap[position].slot as usize;
        self.slots[slot].position = position as u32;
    }

    #[inline]
    fn sift_up(&mut self, mut position: usize) {
        while position > 0 {
            let parent = (position - 1) / 4;
            if !self.heap[position].is_before(&self.heap[parent]) {
                break;
            }
            self.heap.swap(position, parent);
            self.place(position);
            position = parent;
        }
        self.place(position);
    }

    fn sift_down(&mut self, mut position: usize) {
        loop {
            let first = position * 4 + 1;
            let children = first..(first + 4).min(self.heap.len());
            let Some(least) = children.reduce(|a, b| if self.heap[b].is_before(&self.heap[a]) { b } else { a }) else {
                break;
            };
            if !self.heap[least].is_before(&self.heap[position]) {
                break;
            }
            self.heap.swap(position, least);
            self.place(position);
            position = least;
        }
        self.place(position);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use proptest::prelude::*;
    use std::time::Duration;

    #[derive(Debug, Clone)]
    enum Step {
        Add(u16),
        Remove(usize),
        Expire(u16),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => any::<u16>().prop_map(Step::Add),
            2 => any::<usize>().prop_map(Step::Remove),
            1 => any::<u16>().prop_map(Step::Expire),
        ];
        prop::collection::vec(step, 0..300)
    }

    proptest! {
        #[test]
        fn timers_behave_like_a_sorted_list(steps in steps()) {
            let origin = Clock::mock().now();
            let at = |time: u16| origin.after(Duration::from_nanos(u64::from(time)));
            let mut timers = Timers::default();
            let mut model: Vec<(u16, usize, TimerKey)> = Vec::new();
            let mut gone = Vec::new();
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Add(time) => model.push((time, number, timers.add(at(time), number))),
                    Step::Remove(index) if !model.is_empty() => {
                        let (_, payload, key) = model.remove(index % model.len());
                        prop_assert_eq!(timers.get(key), Some(&payload));
                        prop_assert_eq!(timers.remove(key), Some(payload));
                        gone.push(key);
                    }
                    Step::Remove(_) => {}
                    Step::Expire(now) => {
                        model.sort_by_key(|&(time, payload, _)| (time, payload));
                        while model.first().is_some_and(|&(time, ..)| time <= now) {
                            let (_, payload, key) = model.remove(0);
                            prop_assert_eq!(timers.pop_expired(at(now)), Some(payload));
                            gone.push(key);
                        }
                        prop_assert_eq!(timers.pop_expired(at(now)), None);
                    }
                }
                prop_assert_eq!(timers.len(), model.len());
                prop_assert_eq!(timers.earliest(), model.iter().map(|&(time, ..)| at(time)).min());
            }
            for key in gone {
                prop_assert_eq!(timers.remove(key), None);
            }
        }
    }
}
