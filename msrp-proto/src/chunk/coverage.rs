//! Which bytes of a message there are.

use std::ops::Range;

/// A set of byte positions, counted from 0, held as sorted runs that neither overlap nor touch.
/// Messages that come in order are one run, whatever their length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    runs: Vec<Range<u64>>,
}

impl Coverage {
    /// Adds a run. An empty one adds nothing.
    pub fn insert(&mut self, run: Range<u64>) {
        if run.is_empty() {
            return;
        }
        // In order, which is nearly always: the last run grows.
        if let Some(last) = self.runs.last_mut()
            && last.end == run.start
        {
            last.end = run.end;
            return;
        }
        // All that the new run overlaps or touches becomes one with it.
        let first = self.runs.partition_point(|held| held.end < run.start);
        let after = self.runs.partition_point(|held| held.start <= run.end);
        let merged = self.runs[first..after]
            .iter()
            .fold(run, |all, held| all.start.min(held.start)..all.end.max(held.end));
        self.runs.splice(first..after, [merged]);
    }

    /// Whether all of the first `len` bytes are there.
    pub fn covers(&self, len: u64) -> bool {
        len == 0 || self.runs.first().is_some_and(|run| run.start == 0 && run.end >= len)
    }

    /// How many bytes are there.
    pub fn count(&self) -> u64 {
        self.runs.iter().map(|run| run.end - run.start).sum()
    }

    /// The position after the last byte that is there.
    pub fn end(&self) -> u64 {
        self.runs.last().map_or(0, |run| run.end)
    }

    /// The runs, in order.
    pub fn runs(&self) -> &[Range<u64>] {
        &self.runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn runs_that_touch_become_one() {
        let mut coverage = Coverage::default();
        for run in [4..6, 0..2, 8..9, 2..4, 6..8, 3..3] {
            coverage.insert(run);
        }
        assert_eq!(coverage.runs(), std::slice::from_ref(&(0..9)));
        assert!(coverage.covers(9) && !coverage.covers(10));
        assert_eq!((coverage.count(), coverage.end()), (9, 9));
    }

    #[test]
    fn the_highest_positions_do_not_overflow() {
        let mut coverage = Coverage::default();
        coverage.insert(u64::MAX - 1..u64::MAX);
        coverage.insert(0..1);
        assert_eq!(coverage.end(), u64::MAX);
        assert!(coverage.covers(1) && !coverage.covers(2));
    }

    proptest! {
        #[test]
        fn it_is_the_set_of_what_was_inserted(runs in prop::collection::vec((0u64..60, 0u64..9), 0..40)) {
            let mut coverage = Coverage::default();
            let mut set = BTreeSet::new();
            for (start, len) in runs {
                coverage.insert(start..start + len);
                set.extend(start..start + len);
                let held: Vec<u64> = coverage.runs().iter().cloned().flatten().collect();
                prop_assert!(held.iter().eq(set.iter()));
                prop_assert!(coverage.runs().windows(2).all(|pair| pair[0].end < pair[1].start));
                prop_assert_eq!(coverage.count(), set.len() as u64);
            }
            for len in 0..70 {
                prop_assert_eq!(coverage.covers(len), (0..len).all(|at| set.contains(&at)));
            }
        }
    }
}
