"use strict";
// Draws numbers on canvases: maps, filters, bars, the curve of GELU. Every function takes a canvas
// and values and knows nothing of the network.

function isDark() { return document.documentElement.dataset.theme === "dark"; }

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
}

// The color of a number between -1 and 1: blue below zero, red above, and the page's own shade at
// zero. Blue and red stay apart for the color-blind, too.
function signed(v) {
  v = Math.max(-1, Math.min(1, v));
  const zero = isDark() ? [24, 27, 33] : [247, 247, 245];
  const full = isDark() ? (v < 0 ? [96, 165, 250] : [255, 122, 89])
                        : (v < 0 ? [33, 102, 172] : [190, 45, 45]);
  const share = Math.abs(v) ** 0.8;
  return zero.map((z, i) => Math.round(z + (full[i] - z) * share));
}

function css(rgb) { return `rgb(${rgb.join(",")})`; }

// A canvas as sharp as the screen; drawing goes on in CSS pixels.
function sharp(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.aspectRatio = `${width} / ${height}`;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  return pen;
}

function largest(values) {
  let top = 1e-12;
  for (const v of values) top = Math.max(top, Math.abs(v));
  return top;
}

// One channel of a map (pixels, channels): its numbers, row by row.
function channelOf(map, channels, channel) {
  const y = new Float32Array(map.length / channels);
  for (let p = 0; p < y.length; p++) y[p] = map[p * channels + channel];
  return y;
}

function pixelOf(map, channels, pixel) {
  return map.subarray(pixel * channels, (pixel + 1) * channels);
}

// The channels of a map, strongest first: those whose numbers vary most from pixel to pixel.
function strongest(map, channels) {
  const sums = new Float64Array(channels), squares = new Float64Array(channels);
  for (let i = 0; i < map.length; i++) {
    sums[i % channels] += map[i];
    squares[i % channels] += map[i] ** 2;
  }
  const n = map.length / channels;
  const spread = i => squares[i] / n - (sums[i] / n) ** 2;
  return Array.from({length: channels}, (_, i) => i).sort((a, b) => spread(b) - spread(a));
}

// A square map of numbers, a cell each. `frames` are outlined: {row, col, rows, cols, color}. Cells
// after `until` stay empty.
function drawMap(canvas, values, {top = largest(values), frames = [], until = null} = {}) {
  const side = Math.round(Math.sqrt(values.length)), size = 160, cell = size / side;
  const pen = sharp(canvas, size, size);
  values.forEach((v, p) => {
    pen.fillStyle = until !== null && p > until ? color("ghost") : css(signed(v / top));
    pen.fillRect(p % side * cell, Math.floor(p / side) * cell, cell + 0.5, cell + 0.5);
  });
  for (const frame of frames) drawFrame(pen, frame, cell, size);
}

function drawFrame(pen, {row, col, rows, cols, color: ink}, cell, size) {
  const left = Math.max(0, col * cell), top = Math.max(0, row * cell);
  const right = Math.min(size, (col + cols) * cell), bottom = Math.min(size, (row + rows) * cell);
  for (const [width, shade] of [[4, isDark() ? "#000" : "#fff"], [2, ink]]) {
    pen.lineWidth = width;
    pen.strokeStyle = shade;
    pen.strokeRect(left + 1.5, top + 1.5, right - left - 3, bottom - top - 3);
  }
}

// Several maps in a grid, one picture element a number; CSS enlarges it.
function drawMontage(canvas, maps, across) {
  const side = Math.round(Math.sqrt(maps[0].length)), gap = 1;
  canvas.width = canvas.height = across * side + (across - 1) * gap;
  const pen = canvas.getContext("2d");
  maps.forEach((values, at) => {
    const image = pen.createImageData(side, side), top = largest(values);
    values.forEach((v, i) => image.data.set([...signed(v / top), 255], i * 4));
    pen.putImageData(image, (at % across) * (side + gap), Math.floor(at / across) * (side + gap));
  });
}

// Bytes of red, green, blue, as they are.
function drawPixels(canvas, bytes, side) {
  canvas.width = canvas.height = side;
  const pen = canvas.getContext("2d"), image = pen.createImageData(side, side);
  for (let p = 0; p < side * side; p++)
    image.data.set([bytes[p * 3], bytes[p * 3 + 1], bytes[p * 3 + 2], 255], p * 4);
  pen.putImageData(image, 0, 0);
}

// A bar for every number, up or down from zero, with the largest number of the scale written at the
// left. `mark` is lit; `lines` are drawn across.
const AXIS = 0.13;  // of the width
function drawBars(canvas, values,
                  {top = largest(values), mark = -1, lines = [], height = 74, axis = AXIS} = {}) {
  const width = 240, middle = height / 2, left = width * axis, step = (width - left) / values.length;
  const pen = sharp(canvas, width, height);
  const y = v => middle - Math.max(-1, Math.min(1, v / top)) * (middle - 3);
  pen.fillStyle = color("faint");
  pen.fillRect(left, middle - 0.5, width - left, 1);
  values.forEach((v, i) => {
    pen.fillStyle = css(signed(v < 0 ? -0.85 : 0.85));
    const wide = Math.max(step - (step > 3 ? 1 : 0), i === mark ? 2.5 : 0.6);
    pen.fillRect(left + i * step, Math.min(y(v), middle), wide, Math.abs(y(v) - middle));
  });
  if (mark >= 0) {
    pen.fillStyle = color("mark");
    pen.fillRect(left + (mark + 0.5) * step - 0.75, 0, 1.5, height);
  }
  pen.fillStyle = color("ink");
  for (const value of lines) pen.fillRect(left, y(value) - 0.5, width - left, 1);
  if (!axis) return;
  const words = top.toPrecision(2);
  writeScale(pen, [[words, 9], ["0", middle + 4], [`−${words}`, height - 1]], left - 4);
}

// Numbers beside an axis, right-aligned at x.
function writeScale(pen, marks, x) {
  pen.fillStyle = color("quiet");
  pen.font = "10px system-ui, sans-serif";
  pen.textAlign = "right";
  for (const [words, y] of marks) pen.fillText(words, x, y);
}

// Which bar lies at a share of the width, from 0 to 1.
function barAt(share, count) {
  const at = Math.floor((share - AXIS) / (1 - AXIS) * count);
  return Math.min(count - 1, Math.max(0, at));
}

// The curve of an activation between -4 and 4, and a dot on it for every number that went in.
function drawCurve(canvas, fn, dots) {
  const width = 240, height = 124;
  const x = v => (v + 4) / 8 * width, y = v => height - 28 - v / 4.4 * 90;
  const pen = sharp(canvas, width, height);
  pen.fillStyle = color("faint");
  pen.fillRect(0, y(0), width, 1);
  pen.fillRect(x(0), 0, 1, height - 14);
  pen.beginPath();
  for (let v = -4; v <= 4; v += 0.05) pen.lineTo(x(v), y(fn(v)));
  pen.strokeStyle = color("quiet");
  pen.lineWidth = 1.5;
  pen.stroke();
  for (const v of dots) {
    const at = Math.max(-4, Math.min(4, v));
    pen.fillStyle = css(signed(v > 0 ? 0.9 : -0.9)).replace(")", ", 0.5)").replace("rgb", "rgba");
    pen.beginPath();
    pen.arc(x(at), y(fn(at)), 2.4, 0, 7);
    pen.fill();
  }
  writeScale(pen, [["−4", height - 2]], 14);
  writeScale(pen, [["4", height - 2]], width);
  writeScale(pen, [["in: 0", height - 2], ["4", y(4) + 4]], x(0) + 10);
}

// The same bytes, three for each pixel, without color.
function inGray(pixels) {
  const gray = new Uint8ClampedArray(pixels.length);
  for (let i = 0; i < pixels.length; i += 3)
    gray.fill(0.2126 * pixels[i] + 0.7152 * pixels[i + 1] + 0.0722 * pixels[i + 2], i, i + 3);
  return gray;
}
