// Which bytes of a message there are (RFC 4975 §5.1: chunks may come in any order, and again).
// Positions count from 1, as in Byte-Range; `end` is the last byte, so an empty range ends before it starts.

/** A set of positions. */
export class Ranges {
  #runs = []; // sorted, disjoint, not adjacent: [start, end]

  /** How many runs there are: what this takes in memory. */
  get count() {
    return this.#runs.length;
  }

  /** How many positions there are. */
  get size() {
    return this.#runs.reduce((sum, [start, end]) => sum + end - start + 1, 0);
  }

  /** Whether all from 1 to `end` are there. */
  covers(end) {
    return end === 0 || (this.#runs.length > 0 && this.#runs[0][0] === 1 && this.#runs[0][1] >= end);
  }

  /** Adds a range; gives those parts of it that are new. */
  add(start, end) {
    if (end < start) return [];
    const runs = this.#runs;
    // Most come in order, so the search begins at the end.
    let first = runs.length;
    while (first > 0 && runs[first - 1][1] >= start - 1) first--;
    const added = [];
    let [from, to] = [start, end];
    let next = start;
    let after = first;
    for (; after < runs.length && runs[after][0] <= end + 1; after++) {
      const [runStart, runEnd] = runs[after];
      if (next < runStart) added.push([next, Math.min(runStart - 1, end)]);
      next = Math.max(next, runEnd + 1);
      from = Math.min(from, runStart);
      to = Math.max(to, runEnd);
    }
    if (next <= end) added.push([next, end]);
    runs.splice(first, after - first, [from, to]);
    return added;
  }
}

/** Small blobs are joined from this number on, so that 1 GiB is not 16384 objects. */
const JOIN = 64;

/** The bytes of a message, as Blobs: the browser keeps them out of the script's memory, on disk if many. */
export class Parts {
  #ranges = new Ranges();
  #segments = []; // sorted, disjoint: { start, end, blobs }

  /** How many bytes there are. */
  size = 0;

  /** How many separate runs there are. */
  get count() {
    return this.#ranges.count;
  }

  /** Whether all from 1 to `end` are there. */
  covers(end) {
    return this.#ranges.covers(end);
  }

  /** Adds bytes that begin at `start`. What was there already stays. */
  add(start, bytes) {
    for (const [from, to] of this.#ranges.add(start, start + bytes.length - 1)) {
      // The Blob is a copy: the WebSocket message, of which `bytes` is a view, can go.
      this.#insert(from, to, new Blob([bytes.subarray(from - start, to - start + 1)]));
      this.size += to - from + 1;
    }
  }

  #insert(start, end, blob) {
    const segments = this.#segments;
    let at = segments.length;
    while (at > 0 && segments[at - 1].start > start) at--;
    const before = segments[at - 1];
    if (before && before.end === start - 1) {
      before.end = end;
      before.blobs.push(blob);
      if (before.blobs.length >= JOIN * 2) before.blobs.splice(0, JOIN, new Blob(before.blobs.slice(0, JOIN)));
      return;
    }
    segments.splice(at, 0, { start, end, blobs: [blob] });
  }

  /** All of it, in order, as one Blob. */
  blob(type) {
    return new Blob(this.#segments.flatMap(({ blobs }) => blobs), { type });
  }
}
