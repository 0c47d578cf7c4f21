"use strict";
// Reads a file of weights. A safetensors file is: eight bytes with the length of a header, the
// header (JSON: name -> type, shape, place), and then all numbers, one tensor after the other.

// The bytes that a base64 text stands for. The weights come as such text, in a script, because
// a page that was opened as a file may load scripts but may not fetch data.
function fromBase64(text) {
  const decoded = atob(text);
  const bytes = new Uint8Array(decoded.length);
  for (let i = 0; i < decoded.length; i++) bytes[i] = decoded.charCodeAt(i);
  return bytes;
}

// What a 16-bit float is worth: 1 bit of sign, 5 of exponent, 10 of fraction.
function halfToNumber(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = (bits & 1023) / 1024;
  if (exponent === 0) return sign * fraction * 2 ** -14;  // very small, or 0
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction) * 2 ** (exponent - 15);
}

// Each of the 65,536 halves is converted once; after that, reading is looking up.
const HALVES = new Float32Array(65536);
for (let bits = 0; bits < 65536; bits++) HALVES[bits] = halfToNumber(bits);

function halves(words) {
  const values = new Float32Array(words.length);
  for (let i = 0; i < words.length; i++) values[i] = HALVES[words[i]];
  return values;
}

// A bfloat16 is the upper half of a 32-bit float.
function bfloats(words) {
  const bits = new Uint32Array(words.length);
  for (let i = 0; i < words.length; i++) bits[i] = words[i] << 16;
  return new Float32Array(bits.buffer);
}

// All tensors of a file: name -> {shape, values}, the values as 32-bit floats.
function readSafetensors(bytes) {
  const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
  const read = {
    F16: part => halves(new Uint16Array(part)),
    BF16: part => bfloats(new Uint16Array(part)),
    F32: part => new Float32Array(part),
  };
  const tensors = {};
  for (const [name, about] of Object.entries(header)) {
    if (name === "__metadata__") continue;
    const {dtype, shape, data_offsets: [start, end]} = about;
    if (!read[dtype]) throw Error(`${name} has type ${dtype}: only F16, BF16 and F32 are read`);
    const part = bytes.buffer.slice(8 + length + start, 8 + length + end);
    tensors[name] = {shape, values: read[dtype](part)};
  }
  return tensors;
}
