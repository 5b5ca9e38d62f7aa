//! Answers that are still good, positive and negative.
//!
//! An answer is kept for the smallest time to live of its records, at most a day; that a name or its address does not
//! exist is kept for what the zone's SOA record says ([RFC 2308, section 5]), at most three hours, and not at all without
//! one. Failures of servers are not kept.
//!
//! [RFC 2308, section 5]: https://www.rfc-editor.org/rfc/rfc2308#section-5

#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use super::message::{Answer, Question};
use crate::clock::Instant;

/// The longest time that records are kept.
pub const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest time that it is remembered that something does not exist.
pub const LONGEST_NEGATIVE: Duration = Duration::from_secs(3 * 60 * 60);
/// How many answers are kept; then the oldest are forgotten.
pub const CAPACITY: usize = 10_000;

#[derive(Debug)]
struct Entry {
    answer: Rc<Answer>,
    expires: Instant,
    /// Tells this entry from an earlier one of the same question.
    serial: u64,
    hits: usize,
}

/// The answers of one resolver.
#[derive(Debug, Default)]
pub struct Cache {
    entries: HashMap<Question, Entry>,
    /// In the order in which they came.
    order: VecDeque<(Question, u64)>,
    serial: u64,
}

impl Cache {
    /// Returns the answer to a question if it is still good, and how often it was asked for before.
    pub fn get(&mut self, question: &Question, now: Instant) -> Option<(Rc<Answer>, usize)> {
        let entry = self.entries.get_mut(question)?;
        if entry.expires <= now {
            self.entries.remove(question);
            return None;
        }
        entry.hits += 1;
        Some((entry.answer.clone(), entry.hits))
    }

    /// Keeps an answer for as long as it says.
    pub fn insert(&mut self, question: Question, answer: Rc<Answer>, now: Instant) {
        let longest = if answer.is_negative() { LONGEST_NEGATIVE } else { LONGEST };
        let duration = Duration::from_secs(answer.ttl.into()).min(longest);
        if duration.is_zero() {
            return;
        }
        self.serial += 1;
        self.order.push_back((question.clone(), self.serial));
        self.entries.insert(question, Entry { answer, expires: now.after(duration), serial: self.serial, hits: 0 });
        // What was replaced or has expired leaves its place in the order behind: at most as many as there are entries.
        while self.entries.len() > CAPACITY || self.order.len() > 2 * CAPACITY {
            let Some((question, serial)) = self.order.pop_front() else { break };
            if self.entries.get(&question).is_some_and(|entry| entry.serial == serial) {
                self.entries.remove(&question);
            }
        }
    }

    /// Forgets all answers.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.order.clear();
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::{Kind, Outcome};
    use super::*;

    fn answer(ttl: u32, outcome: Outcome) -> Rc<Answer> {
        Rc::new(Answer { name: "a.test".to_owned(), aliases: Vec::new(), outcome, ttl })
    }

    fn question(number: usize) -> Question {
        Question::new(&format!("host{number}.test"), Kind::A).unwrap()
    }

    #[test]
    fn an_answer_is_good_for_its_time_to_live() {
        let mut cache = Cache::default();
        let start = Instant::default();
        cache.insert(question(1), answer(30, Outcome::Addresses(Vec::new())), start);
        let upper = Question::new("HOST1.test", Kind::A).unwrap();
        assert!(cache.get(&upper, start.after(Duration::from_secs(29))).is_some());
        assert!(cache.get(&Question::new("host1.test", Kind::Aaaa).unwrap(), start).is_none());
        assert!(cache.get(&question(1), start.after(Duration::from_secs(30))).is_none());
        assert_eq!(cache.len(), 0);
    }

    #[test]
    fn the_time_is_limited_and_zero_means_not_at_all() {
        let mut cache = Cache::default();
        let start = Instant::default();
        cache.insert(question(1), answer(u32::MAX, Outcome::Addresses(Vec::new())), start);
        cache.insert(question(2), answer(u32::MAX, Outcome::NoName), start);
        cache.insert(question(3), answer(0, Outcome::NoData), start);
        assert!(cache.get(&question(3), start).is_none());
        let later = start.after(LONGEST_NEGATIVE);
        assert!(cache.get(&question(2), later).is_none());
        assert!(cache.get(&question(1), later).is_some());
        assert!(cache.get(&question(1), start.after(LONGEST)).is_none());
    }

    #[test]
    fn the_oldest_answers_give_way() {
        let mut cache = Cache::default();
        let start = Instant::default();
        for number in 0..=CAPACITY {
            cache.insert(question(number), answer(60, Outcome::NoData), start);
        }
        assert_eq!(cache.len(), CAPACITY);
        assert!(cache.get(&question(0), start).is_none());
        assert!(cache.get(&question(1), start).is_some());
        for _ in 0..3 * CAPACITY {
            cache.insert(question(1), answer(60, Outcome::NoData), start);
        }
        assert!(cache.order.len() <= 2 * CAPACITY);
        assert!(cache.get(&question(1), start).is_some());
    }
}
