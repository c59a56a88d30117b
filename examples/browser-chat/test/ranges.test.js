import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Parts, Ranges } from '../ranges.js';

test('adding gives what is new', () => {
  const ranges = new Ranges();
  assert.deepEqual(ranges.add(5, 9), [[5, 9]]);
  assert.deepEqual(ranges.add(5, 9), []);
  assert.deepEqual(ranges.add(1, 4), [[1, 4]]);
  assert.equal(ranges.count, 1);
  assert.deepEqual(ranges.add(20, 29), [[20, 29]]);
  assert.deepEqual(ranges.add(8, 22), [[10, 19]]);
  assert.deepEqual(ranges.add(3, 2), []);
  assert.deepEqual(ranges.add(40, 41), [[40, 41]]);
  assert.deepEqual(ranges.add(1, 50), [[30, 39], [42, 50]]);
  assert.equal(ranges.size, 50);
  assert.ok(ranges.covers(50) && ranges.covers(0) && !ranges.covers(51));
});

test('a model says the same, whatever comes', () => {
  let seed = 1;
  const random = (below) => {
    seed = (seed * 1103515245 + 12345) % 2147483648;
    return Math.floor(seed / 65536) % below;
  };
  for (let round = 0; round < 200; round++) {
    const [ranges, model] = [new Ranges(), new Set()];
    for (let step = 0; step < 20; step++) {
      const start = 1 + random(40);
      const end = start + random(10) - 1;
      const added = ranges.add(start, end).flatMap(([from, to]) => Array.from({ length: to - from + 1 }, (_, i) => from + i));
      const expected = [];
      for (let at = start; at <= end; at++) if (!model.has(at)) expected.push(at);
      assert.deepEqual(added, expected);
      expected.forEach((at) => model.add(at));
      assert.equal(ranges.size, model.size);
    }
  }
});

test('parts in any order, and twice, are one body', async () => {
  const body = Uint8Array.from({ length: 1000 }, (_, i) => i * 7);
  const parts = new Parts();
  for (const [start, end] of [[501, 600], [1, 100], [51, 550], [900, 1000], [590, 950], [1, 1000]]) {
    parts.add(start, body.subarray(start - 1, end));
  }
  assert.equal(parts.size, 1000);
  assert.ok(parts.covers(1000));
  assert.deepEqual(new Uint8Array(await parts.blob('').arrayBuffer()), body);
});

test('thousands of parts are joined on the way', async () => {
  const parts = new Parts();
  for (let i = 0; i < 1000; i++) parts.add(i * 3 + 1, Uint8Array.of(i, i, i));
  const bytes = new Uint8Array(await parts.blob('').arrayBuffer());
  assert.equal(bytes.length, 3000);
  assert.deepEqual([...bytes.subarray(2994)], [998, 998, 998, 999, 999, 999].map((n) => n & 255));
});
