//! How often sessions use a link. A client's link has one or two of them, a relay's may have a hundred thousand.

use hashbrown::HashMap;
use smallvec::SmallVec;

/// As many are kept in a list.
const FEW: usize = 8;

/// See the [module](self).
#[derive(Debug)]
pub(super) enum SessionUses {
    Few(SmallVec<[(u128, u32); 1]>),
    Many(Box<HashMap<u128, u32>>),
}

impl Default for SessionUses {
    fn default() -> Self {
        Self::Few(SmallVec::new())
    }
}

impl SessionUses {
    /// The session uses it once more.
    pub(super) fn add(&mut self, session: u128) {
        match self {
            Self::Many(uses) => *uses.entry(session).or_default() += 1,
            Self::Few(uses) => match uses.iter().position(|(known, _)| *known == session) {
                Some(at) => uses[at].1 += 1,
                None if uses.len() < FEW => uses.push((session, 1)),
                None => {
                    let mut many: HashMap<_, _> = uses.drain(..).collect();
                    many.insert(session, 1);
                    *self = Self::Many(Box::new(many));
                }
            },
        }
    }

    /// It uses it once less.
    pub(super) fn remove(&mut self, session: u128) {
        match self {
            Self::Many(uses) => {
                let Some(count) = uses.get_mut(&session) else { return };
                *count -= 1;
                if *count == 0 {
                    uses.remove(&session);
                }
                if uses.is_empty() {
                    *self = Self::default();
                }
            }
            Self::Few(uses) => {
                let Some(at) = uses.iter().position(|(known, _)| *known == session) else { return };
                uses[at].1 -= 1;
                if uses[at].1 == 0 {
                    uses.swap_remove(at);
                }
            }
        }
    }

    /// How many sessions use it.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Few(uses) => uses.len(),
            Self::Many(uses) => uses.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_than_few_are_many() {
        let mut uses = SessionUses::default();
        (0..8).for_each(|session| uses.add(session));
        // Who is there already does not count again.
        uses.add(7);
        assert!(matches!(uses, SessionUses::Few(_)));
        uses.add(8);
        assert!(matches!(uses, SessionUses::Many(_)));
        assert_eq!(uses.len(), 9);
    }

    #[test]
    fn few_and_many_are_counted_alike() {
        let mut uses = SessionUses::default();
        let most = 3 * FEW as u128;
        for _ in 0..2 {
            (0..most).for_each(|session| uses.add(session));
        }
        assert_eq!(uses.len(), most as usize);
        assert!(matches!(uses, SessionUses::Many(_)));
        (0..most).for_each(|session| uses.remove(session));
        assert_eq!(uses.len(), most as usize, "each is used once more");
        uses.remove(most);
        for session in 0..most {
            uses.remove(session);
            assert_eq!(uses.len() as u128, most - 1 - session);
        }
        assert!(matches!(uses, SessionUses::Few(_)), "what is empty is small again");
        uses.add(1);
        uses.add(1);
        uses.remove(1);
        assert_eq!(uses.len(), 1);
        uses.remove(1);
        uses.remove(1);
        assert_eq!(uses.len(), 0);
    }
}
