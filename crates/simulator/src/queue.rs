//! What happens when: a calendar of millisecond pages. The order is by time, then by who asked first.

use crate::clock::Micros;
use std::{
    cmp::{Ordering, Reverse},
    collections::{BTreeMap, BinaryHeap},
};

/// Pages that are open at a time; what is later waits in a map.
const PAGES: u64 = 1 << 14;
const PAGE_MICROS_BITS: u32 = 10;

struct Entry<T> {
    at: Micros,
    number: u64,
    what: T,
}

impl<T> PartialEq for Entry<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl<T> Eq for Entry<T> {}
impl<T> PartialOrd for Entry<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Entry<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// A priority queue that stays quick with millions of entries.
pub(crate) struct Queue<T> {
    /// Entries of the page under way.
    now: BinaryHeap<Reverse<Entry<T>>>,
    /// The page under way, counted from the beginning of time.
    page: u64,
    pages: Vec<Vec<Entry<T>>>,
    later: BTreeMap<u64, Vec<Entry<T>>>,
    later_len: usize,
    number: u64,
    len: usize,
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        Self {
            now: BinaryHeap::new(),
            page: 0,
            pages: (0..PAGES).map(|_| Vec::new()).collect(),
            later: BTreeMap::new(),
            later_len: 0,
            number: 0,
            len: 0,
        }
    }

    /// Puts `what` at `at`; the past is the present.
    pub(crate) fn push(&mut self, at: Micros, what: T) {
        self.number += 1;
        self.len += 1;
        let (number, page) = (self.number, at.0 >> PAGE_MICROS_BITS);
        let entry = Entry { at, number, what };
        if page <= self.page {
            self.now.push(Reverse(entry));
        } else if page - self.page < PAGES {
            self.pages[(page % PAGES) as usize].push(entry);
        } else {
            self.later_len += 1;
            self.later.entry(page).or_default().push(entry);
        }
    }

    pub(crate) fn pop(&mut self) -> Option<(Micros, T)> {
        if self.len == 0 {
            return None;
        }
        while self.now.is_empty() {
            self.turn();
        }
        let Reverse(entry) = self.now.pop()?;
        self.len -= 1;
        Some((entry.at, entry.what))
    }

    /// Goes to the next page; over empty ones at once if only what is later is left.
    fn turn(&mut self) {
        let first_later = self.later.first_key_value().map(|(page, _)| *page);
        self.page = match first_later.filter(|_| self.len == self.later_len) {
            Some(page) => page,
            None => self.page + 1,
        };
        let page = std::mem::take(&mut self.pages[(self.page % PAGES) as usize]);
        let late = self.later.remove(&self.page).unwrap_or_default();
        self.later_len -= late.len();
        self.now.extend(page.into_iter().chain(late).map(Reverse));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn comes_out_as_sorting_would_have_it(times in prop::collection::vec((0u64..40_000_000, 0u64..100_000), 1..200)) {
            let (mut queue, mut expected, mut got) = (Queue::new(), Vec::new(), Vec::new());
            let mut now = Micros(0);
            for (number, (at, pops)) in times.iter().enumerate() {
                let at = now.after(Micros(*at));
                queue.push(at, number);
                expected.push((at, number));
                if pops % 3 == 0 {
                    let (at, what) = queue.pop().unwrap();
                    now = at;
                    got.push((at, what));
                }
            }
            while let Some(entry) = queue.pop() {
                got.push(entry);
            }
            prop_assert!(got.windows(2).all(|pair| pair[0].0 <= pair[1].0), "time never goes back");
            prop_assert_eq!(queue.len, 0);
            got.sort();
            expected.sort();
            prop_assert_eq!(got, expected);
        }
    }

    #[test]
    fn equal_times_keep_their_order() {
        let mut queue = Queue::new();
        for number in 0..100 {
            queue.push(Micros::s(3_600), number);
        }
        let order: Vec<i32> = std::iter::from_fn(|| queue.pop()).map(|(_, what)| what).collect();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }
}
