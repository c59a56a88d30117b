//! The heads before: what of a head is as it was in the one before it need not be parsed again.
//!
//! On one connection most messages differ from the one before in their transaction id, Message-ID and Byte-Range only;
//! the chunks of a file in even less. So one request and one response are kept as they were, and a line of the next one
//! that is the same as the line at its place, byte for byte, is taken over from there. What is taken over is what parsing
//! would give: the line stands at the same place among the header fields, and was found good under the same limits.

use std::ops::Range;

use super::Limits;
use crate::head::{Field, Head, Hop, Layout, StartLine};

/// A head longer than this is not kept.
const LONGEST: usize = 2048;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Memory {
    request: Option<Known>,
    response: Option<Known>,
    /// A layout to be filled.
    spare: Option<Box<Layout>>,
    /// The last number given to paths.
    paths: u64,
}

/// A head that was parsed.
#[derive(Debug)]
struct Known {
    layout: Box<Layout>,
    /// Its bytes, which do not keep those alive that were read with it.
    bytes: Vec<u8>,
}

impl Memory {
    fn of(&self, start: StartLine) -> &Option<Known> {
        match start {
            StartLine::Response(_) => &self.response,
            _ => &self.request,
        }
    }

    /// Takes a head back, to compare the next one with.
    pub(super) fn recycle(&mut self, head: Head) {
        let Head { bytes, layout } = head;
        if bytes.len() > LONGEST {
            self.spare = Some(layout);
            return;
        }
        let place = match layout.start {
            StartLine::Response(_) => &mut self.response,
            _ => &mut self.request,
        };
        match place {
            Some(known) => {
                known.bytes.clear();
                known.bytes.extend_from_slice(&bytes);
                let before = std::mem::replace(&mut known.layout, layout);
                self.spare = Some(before);
            }
            None => *place = Some(Known { layout, bytes: bytes.to_vec() }),
        }
    }

    /// Gives all of it back to the allocator. Numbers of paths are not given again.
    pub(super) fn forget(&mut self) {
        *self = Self { paths: self.paths, ..Self::default() };
    }

    /// A layout to be filled.
    pub(super) fn blank(&mut self) -> Box<Layout> {
        self.spare.take().unwrap_or_default()
    }

    /// Takes over the header line at `start` of `buf` if it is the one of the head before, at that place; gives where
    /// the next line starts.
    pub(super) fn known_line(
        &self,
        layout: &mut Layout,
        buf: &[u8],
        start: usize,
        limits: &Limits,
    ) -> Option<usize> {
        let index = layout.fields.len();
        if index >= limits.headers {
            return None;
        }
        let known = self.of(layout.start).as_ref()?;
        let field = known.layout.fields.get(index)?;
        let line = &known.bytes[field.line.start as usize..field.line.end as usize];
        if !buf[start..].starts_with(line) {
            return None;
        }
        // By as much as the start line and the lines before are longer or shorter.
        let shift = (start as u32).wrapping_sub(field.line.start);
        let moved = |range: &Range<u32>| range.start.wrapping_add(shift)..range.end.wrapping_add(shift);
        let path = match index {
            0 => Some((&mut layout.to_path, &known.layout.to_path)),
            1 => Some((&mut layout.from_path, &known.layout.from_path)),
            _ => None,
        };
        if let Some((hops, hops_of)) = path {
            hops.extend(hops_of.iter().map(|hop| Hop { at: moved(&hop.at), parts: hop.parts.clone() }));
            // Another head may have been recycled between the two.
            if index == 0 || layout.paths == known.layout.paths {
                layout.known_paths += 1;
            }
            layout.paths = known.layout.paths;
        }
        layout.fields.push(Field {
            name: field.name,
            line: moved(&field.line),
            name_len: field.name_len,
            value: moved(&field.value),
        });
        Some(start + line.len())
    }

    /// Numbers the paths of a head that is complete: those of the head before have the same number if they are the same.
    pub(super) fn number(&mut self, layout: &mut Layout) {
        if layout.known_paths < 2 {
            self.paths += 1;
            layout.paths = self.paths;
        }
    }
}
