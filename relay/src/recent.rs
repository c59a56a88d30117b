//! A map of bounded size that forgets what was least recently put in.

use std::borrow::Borrow;
use std::hash::Hash;
use std::mem;

use hashbrown::HashMap;

/// At most `capacity` entries, in two generations: when the young one holds half of them, the old one is dropped and
/// the young one becomes old. So what was put in among the last `capacity / 2` is always there, and nothing takes
/// longer than one look into each.
#[derive(Debug)]
pub(crate) struct Recent<K, V> {
    generation: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Eq + Hash, V> Recent<K, V> {
    /// For at most `capacity` entries; at least two.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { generation: (capacity / 2).max(1), young: HashMap::new(), old: HashMap::new() }
    }

    /// Makes it one for `capacity` entries; what is too much for that leaves with what comes.
    pub(crate) fn set_capacity(&mut self, capacity: usize) {
        self.generation = (capacity / 2).max(1);
        if self.young.len() > self.generation {
            self.old = mem::take(&mut self.young);
        }
    }

    /// What is there, as it is.
    pub(crate) fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    /// Puts it in, as the most recent one.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.old.remove(&key);
        if self.young.len() >= self.generation && !self.young.contains_key(&key) {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }

    /// Takes it out.
    pub(crate) fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.young.remove(key).or_else(|| self.old.remove(key))
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_holds_more_and_always_the_most_recent_half() {
        for capacity in [0, 1, 2, 3, 10] {
            let mut recent = Recent::new(capacity);
            for key in 0..100_usize {
                recent.insert(key, key);
                assert!(recent.len() <= capacity.max(2), "{capacity}");
                for known in key.saturating_sub((capacity / 2).max(1) - 1)..=key {
                    assert_eq!(recent.get(&known), Some(&known), "{capacity}");
                }
            }
        }
    }

    #[test]
    fn what_is_put_in_again_is_there_once_and_recent() {
        let mut recent = Recent::new(4);
        for key in [1, 2, 3, 1] {
            recent.insert(key, key * 10);
        }
        assert_eq!((recent.len(), recent.get(&1), recent.get(&2)), (3, Some(&10), Some(&20)));
        recent.insert(4, 40);
        assert_eq!((recent.len(), recent.get(&1), recent.get(&2)), (3, Some(&10), None));
        assert_eq!((recent.remove(&1), recent.remove(&1), recent.len()), (Some(10), None, 2));
    }
}
