//! Things with numbers that are never given to others.

/// Listeners, or upstreams. Connections and tokens have their numbers, so that of one which is gone leads nowhere.
#[derive(Clone, Debug)]
pub(super) struct Numbered<T> {
    next: usize,
    /// In the order of their numbers.
    all: Vec<(usize, T)>,
}

impl<T> Numbered<T> {
    pub(super) fn new(things: impl IntoIterator<Item = T>) -> Self {
        let all: Vec<_> = things.into_iter().enumerate().collect();
        Self { next: all.len(), all }
    }

    pub(super) fn get(&self, number: usize) -> Option<&T> {
        let at = self.all.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        self.all.get(at).map(|(_, thing)| thing)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.all.iter().map(|(number, thing)| (*number, thing))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut T)> {
        self.all.iter_mut().map(|(number, thing)| (*number, thing))
    }

    /// Adds one, and gives its number.
    pub(super) fn add(&mut self, thing: T) -> usize {
        let number = self.next;
        self.next += 1;
        self.all.push((number, thing));
        number
    }

    /// The number of the next one.
    pub(super) fn next(&self) -> usize {
        self.next
    }

    pub(super) fn retain(&mut self, mut keep: impl FnMut(usize, &T) -> bool) {
        self.all.retain(|(number, thing)| keep(*number, thing));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_given_once() {
        let mut all = Numbered::new(['a', 'b']);
        assert_eq!(all.add('c'), 2);
        all.retain(|_, thing| *thing == 'b');
        assert_eq!((all.get(0), all.get(1), all.get(2)), (None, Some(&'b'), None));
        assert_eq!((all.add('d'), all.next()), (3, 4));
        assert_eq!(all.iter().collect::<Vec<_>>(), [(1, &'b'), (3, &'d')]);
    }
}
