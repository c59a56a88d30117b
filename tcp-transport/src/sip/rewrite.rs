//! Changes to a head that leave the rest of its bytes where they are.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::head::Head;

/// A list of changes to one head. See the [module](super) for an example.
///
/// It keeps its memory: one `Rewrite` for many messages allocates only while their slices are still
/// on their way.
#[derive(Debug, Default)]
pub struct Rewrite {
    edits: Vec<Edit>,
    text: BytesMut,
}

#[derive(Clone, Debug)]
struct Edit {
    at: Range<usize>,
    text: Range<usize>,
}

impl Rewrite {
    /// Puts `text` before the byte at `at`; after what was put there before.
    pub fn insert(&mut self, at: usize, text: &[u8]) {
        self.replace(at..at, text);
    }

    /// Takes the bytes of `range` away.
    pub fn delete(&mut self, range: Range<usize>) {
        self.replace(range, b"");
    }

    /// Puts `text` in the place of the bytes of `range`. Where two ranges overlap, the one that begins
    /// first takes its bytes, and the other what is left of its own.
    pub fn replace(&mut self, range: Range<usize>, text: &[u8]) {
        let start = self.text.len();
        self.text.extend_from_slice(text);
        self.edits.push(Edit { at: range, text: start..self.text.len() });
    }

    /// Forgets all changes.
    pub fn clear(&mut self) {
        self.edits.clear();
        self.text.clear();
    }

    /// Appends the changed head to `out`, as slices of the old one with the new text between them, and
    /// forgets the changes.
    pub fn apply(&mut self, head: &Head, out: &mut Vec<Bytes>) {
        self.apply_to(head.bytes(), out);
    }

    /// As [`apply`](Self::apply), for any bytes.
    pub fn apply_to(&mut self, bytes: &Bytes, out: &mut Vec<Bytes>) {
        let text = self.text.split().freeze();
        // Stable: what was put in one place stays in the order in which it was put there.
        self.edits.sort_by_key(|edit| edit.at.start);
        let mut done = 0;
        for edit in self.edits.drain(..) {
            let start = edit.at.start.clamp(done, bytes.len());
            if start > done {
                out.push(bytes.slice(done..start));
            }
            if !edit.text.is_empty() {
                out.push(text.slice(edit.text));
            }
            done = edit.at.end.clamp(start, bytes.len());
        }
        if done < bytes.len() {
            out.push(bytes.slice(done..));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(bytes: &'static [u8], edits: &[(Range<usize>, &str)]) -> String {
        let mut rewrite = Rewrite::default();
        for (range, text) in edits {
            rewrite.replace(range.clone(), text.as_bytes());
        }
        let mut out = Vec::new();
        rewrite.apply_to(&Bytes::from_static(bytes), &mut out);
        assert!(out.iter().all(|slice| !slice.is_empty()));
        String::from_utf8(out.concat()).unwrap()
    }

    #[test]
    fn changes_are_applied_by_place_and_in_order() {
        assert_eq!(applied(b"0123456789", &[]), "0123456789");
        assert_eq!(
            applied(b"0123456789", &[(8..9, ""), (0..0, "a"), (0..0, "b"), (3..5, "xyz")]),
            "ab012xyz5679"
        );
        assert_eq!(applied(b"0123456789", &[(10..10, "end"), (0..10, "")]), "end");
    }

    #[test]
    fn overlaps_and_places_outside_lose_nothing_else() {
        assert_eq!(applied(b"0123456789", &[(2..6, "a"), (4..8, "b")]), "01ab89");
        assert_eq!(applied(b"0123456789", &[(2..6, "a"), (3..4, "b")]), "01ab6789");
        assert_eq!(applied(b"0123456789", &[(20..30, "a")]), "0123456789a");
    }

    #[test]
    fn the_bytes_that_stay_are_not_copied() {
        let bytes = Bytes::from(b"0123456789".to_vec());
        let mut rewrite = Rewrite::default();
        rewrite.insert(5, b"x");
        let mut out = Vec::new();
        rewrite.apply_to(&bytes, &mut out);
        assert_eq!((out[0].as_ptr(), out[2].as_ptr()), (bytes.as_ptr(), bytes[5..].as_ptr()));
    }
}
