"use strict";
// From any picture to the network's input, number by number as the Python package does it with
// Pillow: the shorter side is scaled to `size / crop` pixels, and the center is cut out.

// How much a pixel at distance x counts, in pixels of the result: Keys' cubic with a = -0.5.
function bicubic(x) {
  x = Math.abs(x);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  if (x < 2) return ((-0.5 * x + 2.5) * x - 4) * x + 2;
  return 0;
}

// For each of `after` places: the first of `before` pixels that counts, and the weights of the run
// of pixels that begins there. When a picture shrinks, the cubic widens by the same factor, so no
// pixel is passed over: this is the antialiasing. Weights are whole 2^-22, as Pillow has them.
function resamplers(before, after) {
  const scale = before / after, widening = Math.max(scale, 1), reach = 2 * widening;
  return Array.from({length: after}, (_, place) => {
    const center = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - reach + 0.5));
    const end = Math.min(before, Math.trunc(center + reach + 0.5));
    const weights = [];
    for (let i = first; i < end; i++) weights.push(bicubic((i - center + 0.5) / widening));
    const sum = weights.reduce((a, b) => a + b, 0);
    const whole = v => Math.trunc(v * 2 ** 22 + (v < 0 ? -0.5 : 0.5));
    return {first, weights: weights.map(v => whole(v / sum))};
  });
}

function toByte(sum) { return Math.min(255, Math.max(0, Math.floor((sum + 2 ** 21) / 2 ** 22))); }

// Scales one direction: `lines` lines of pixels, the pixels of a line `step` apart.
function resample(x, before, after, lines, lineStep, step, y, outLine, outStep) {
  const places = resamplers(before, after);
  for (let line = 0; line < lines; line++)
    for (let place = 0; place < after; place++) {
      const {first, weights} = places[place];
      for (let c = 0; c < 3; c++) {
        let sum = 0, at = line * lineStep + first * step + c;
        for (let i = 0; i < weights.length; i++, at += step) sum += x[at] * weights[i];
        y[line * outLine + place * outStep + c] = toByte(sum);
      }
    }
  return y;
}

// Scales a picture of 3 bytes a pixel: first the lines, then the columns.
function resize(rgb, width, height, newWidth, newHeight) {
  if (newWidth !== width) {
    const y = new Uint8Array(newWidth * height * 3);
    rgb = resample(rgb, width, newWidth, height, width * 3, 3, y, newWidth * 3, 3);
  }
  if (newHeight === height) return rgb;
  const y = new Uint8Array(newWidth * newHeight * 3), line = newWidth * 3;
  return resample(rgb, height, newHeight, newWidth, 3, line, y, 3, line);
}

// Python rounds halves to the even neighbour.
function roundHalfEven(v) {
  const down = Math.floor(v);
  if (v - down !== 0.5) return Math.round(v);
  return down % 2 ? down + 1 : down;
}

// Where the square that the network sees lies in a picture, after scaling and before.
function fitted(width, height, {size, crop}) {
  const scale = size / crop / Math.min(width, height);
  const newWidth = Math.max(size, roundHalfEven(width * scale));
  const newHeight = Math.max(size, roundHalfEven(height * scale));
  return {newWidth, newHeight, left: Math.floor((newWidth - size) / 2),
          top: Math.floor((newHeight - size) / 2)};
}

// A picture of 4 bytes a pixel, as a canvas gives it -> size * size * 3 bytes: what it sees.
function resizeAndCrop(rgba, width, height, config) {
  const rgb = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4, to += 3) {
    rgb[to] = rgba[from]; rgb[to + 1] = rgba[from + 1]; rgb[to + 2] = rgba[from + 2];
  }
  const {newWidth, newHeight, left, top} = fitted(width, height, config);
  const scaled = resize(rgb, width, height, newWidth, newHeight);
  const seen = new Uint8Array(config.size * config.size * 3);
  for (let row = 0; row < config.size; row++) {
    const from = ((top + row) * newWidth + left) * 3;
    seen.set(scaled.subarray(from, from + config.size * 3), row * config.size * 3);
  }
  return seen;
}

// Bytes to the numbers that go in: (x / 255 - mean) / std, by channel.
function normalize(bytes, {mean, std}) {
  const y = new Float32Array(bytes.length);
  for (let i = 0; i < y.length; i++) y[i] = (bytes[i] / 255 - mean[i % 3]) / std[i % 3];
  return y;
}

// The picture with a square of the mean color, which after normalizing is 0: nothing to see there.
function withPatch(bytes, {size, mean}, {row, col, side}) {
  const y = bytes.slice();
  for (let r = Math.max(0, row); r < Math.min(size, row + side); r++)
    for (let c = Math.max(0, col); c < Math.min(size, col + side); c++)
      for (let i = 0; i < 3; i++) y[(r * size + c) * 3 + i] = Math.round(mean[i] * 255);
  return y;
}
