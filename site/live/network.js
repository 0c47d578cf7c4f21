"use strict";
// ConvNeXt, whole. A map of height h, width w and c channels is one Float32Array; the c numbers of
// a pixel stand side by side in it, so pixel p has places p * c to p * c + c - 1.

// y[p, o] = bias[o] + the sum over i of x[p, i] * weight[o, i]: every output sees every input of
// its own pixel, and nothing of its neighbours. Most of the network's work is done here, so four
// outputs of two pixels are summed at once: each number that is read serves several sums.
function linear(x, weight, bias) {
  const outs = bias.length, ins = weight.length / outs, pixels = x.length / ins;
  const y = new Float32Array(pixels * outs);
  for (let p = 0; p < pixels; p += 2) {
    const at = p * ins, next = p + 1 < pixels ? at + ins : at;  // a last pixel may be alone
    for (let o = 0; o < outs; o += 4) {
      const r0 = o * ins;
      const r1 = o + 1 < outs ? r0 + ins : r0;
      const r2 = o + 2 < outs ? r1 + ins : r0;
      const r3 = o + 3 < outs ? r2 + ins : r0;
      let a0 = 0, a1 = 0, a2 = 0, a3 = 0, b0 = 0, b1 = 0, b2 = 0, b3 = 0;
      for (let i = 0; i < ins; i++) {
        const a = x[at + i], b = x[next + i];
        const w0 = weight[r0 + i], w1 = weight[r1 + i], w2 = weight[r2 + i], w3 = weight[r3 + i];
        a0 += a * w0; a1 += a * w1; a2 += a * w2; a3 += a * w3;
        b0 += b * w0; b1 += b * w1; b2 += b * w2; b3 += b * w3;
      }
      const sums = [a0, a1, a2, a3, b0, b1, b2, b3];
      for (let k = 0; k < 4 && o + k < outs; k++) {
        y[p * outs + o + k] = sums[k] + bias[o + k];
        if (next !== at) y[(p + 1) * outs + o + k] = sums[4 + k] + bias[o + k];
      }
    }
  }
  return y;
}

// A convolution whose stride is its kernel cuts the map into patches that do not overlap, and is a
// linear layer on them. Here the k * k pixels of each patch are laid side by side.
function patches(x, height, width, k) {
  const c = x.length / (height * width);
  const y = new Float32Array(Math.floor(height / k) * Math.floor(width / k) * k * k * c);
  let at = 0;
  for (let row = 0; row + k <= height; row += k)
    for (let col = 0; col + k <= width; col += k)
      for (let down = 0; down < k; down++) {
        const from = ((row + down) * width + col) * c;
        y.set(x.subarray(from, from + k * c), at);
        at += k * c;
      }
  return y;
}

// The depthwise convolution: every channel has a k x k filter of its own, moves it over its own
// map, and sees no other channel. Beyond the border there are zeros, so those places are skipped.
function depthwise(x, height, width, weight, bias) {
  const c = bias.length, k = Math.sqrt(weight.length / c), reach = (k - 1) / 2;
  const y = new Float32Array(x.length);
  for (let row = 0; row < height; row++)
    for (let col = 0; col < width; col++) {
      const out = y.subarray((row * width + col) * c, (row * width + col + 1) * c);
      out.set(bias);
      for (let dy = -reach; dy <= reach; dy++)
        for (let dx = -reach; dx <= reach; dx++) {
          if (row + dy < 0 || row + dy >= height || col + dx < 0 || col + dx >= width) continue;
          const from = ((row + dy) * width + col + dx) * c;
          const tap = ((dy + reach) * k + dx + reach) * c;
          for (let i = 0; i < c; i++) out[i] += x[from + i] * weight[tap + i];
        }
    }
  return y;
}

// The channels of each pixel lose their mean and are divided by their standard deviation; then
// every channel has a scale and a shift of its own.
function layerNorm(x, scale, shift, eps = 1e-6) {
  const c = scale.length, y = new Float32Array(x.length);
  for (let p = 0; p < x.length; p += c) {
    let mean = 0, variance = 0;
    for (let i = 0; i < c; i++) mean += x[p + i] / c;
    for (let i = 0; i < c; i++) variance += (x[p + i] - mean) ** 2 / c;
    const factor = 1 / Math.sqrt(variance + eps);
    for (let i = 0; i < c; i++) y[p + i] = (x[p + i] - mean) * factor * scale[i] + shift[i];
  }
  return y;
}

// The error function, with an error below 1.5e-7 (Abramowitz and Stegun 1964, formula 7.1.26).
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const poly = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t
                + 0.254829592) * t;
  const y = 1 - poly * Math.exp(-x * x);
  return x < 0 ? -y : y;
}

// x, times the probability that a number from the normal distribution is smaller than x.
function gelu(x) { return x * 0.5 * (1 + erf(x * Math.SQRT1_2)); }

function geluOfEach(x) {
  const y = new Float32Array(x.length);
  for (let i = 0; i < x.length; i++) y[i] = gelu(x[i]);
  return y;
}

// Layer scale: each channel times a learned number.
function scaleChannels(x, gamma) {
  const c = gamma.length, y = new Float32Array(x.length);
  for (let i = 0; i < x.length; i++) y[i] = x[i] * gamma[i % c];
  return y;
}

function add(x, branch) {
  const y = new Float32Array(x.length);
  for (let i = 0; i < x.length; i++) y[i] = x[i] + branch[i];
  return y;
}

// One block. Everything on the way is kept, for the page to show.
function block(x, height, width, w, off) {
  const conv = off.depthwise ? x : depthwise(x, height, width, w.conv, w.convBias);
  const norm = layerNorm(conv, w.scale, w.shift);
  const wide = linear(norm, w.widen, w.widenBias);  // c channels become 4 c
  const active = geluOfEach(wide);
  const narrow = linear(active, w.narrow, w.narrowBias);  // and c again
  const scaled = w.gamma && !off.layerScale ? scaleChannels(narrow, w.gamma) : narrow;
  const output = add(x, scaled);  // the residual connection
  return {input: x, conv, norm, wide, active, narrow, scaled, output};
}

// The whole network. `pixels` are size * size * 3 normalized numbers; `off` names parts to leave
// out: {blocks: ["2.5", ...], depthwise: true, layerScale: true}. The answer has the logits and
// every map on the way.
function forward(net, pixels, off = {}) {
  const skipped = new Set(off.blocks || []);
  let side = net.config.size, x = pixels;
  const stages = net.stages.map((stage, s) => {
    const first = s === 0;  // the stem: convolution, then norm; later stages the other way round
    if (!first) x = layerNorm(x, stage.scale, stage.shift);
    x = linear(patches(x, side, side, stage.stride), stage.conv, stage.convBias);
    if (first) x = layerNorm(x, stage.scale, stage.shift);
    side = Math.floor(side / stage.stride);
    const start = x;
    const blocks = stage.blocks.map((weights, b) => {
      const trace = block(x, side, side, weights, off);
      if (skipped.has(`${s}.${b}`)) trace.output = x;  // what it would add is not added
      x = trace.output;
      return trace;
    });
    return {side, start, blocks, output: x};
  });
  const c = net.scale.length;
  const pooled = new Float32Array(c);  // the mean of each channel over the last map
  x.forEach((v, i) => { pooled[i % c] += v / (side * side); });
  const normed = layerNorm(pooled, net.scale, net.shift);
  return {stages, pooled, normed, logits: linear(normed, net.head, net.headBias)};
}

function softmax(logits) {
  const top = Math.max(...logits);
  const powers = Array.from(logits, v => Math.exp(v - top));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map(v => v / sum);
}

// PyTorch keeps a filter as (out, in, rows, columns). We read maps channel by channel within a
// pixel, and so want (out, rows, columns, in).
function channelsLast({shape: [outs, ins, rows, columns], values}) {
  const area = rows * columns, y = new Float32Array(values.length);
  for (let o = 0; o < outs; o++)
    for (let i = 0; i < ins; i++)
      for (let a = 0; a < area; a++) y[(o * area + a) * ins + i] = values[(o * ins + i) * area + a];
  return y;
}

// The depthwise filters (channels, 1, rows, columns) as (rows, columns, channels).
function tapsFirst({shape: [c, , rows, columns], values}) {
  const area = rows * columns, y = new Float32Array(values.length);
  for (let i = 0; i < c; i++)
    for (let a = 0; a < area; a++) y[a * c + i] = values[i * area + a];
  return y;
}

// Sorts the tensors of a file into stages and blocks. The names are those of the authors' code.
function assemble(tensors, config) {
  const get = name => tensors[name].values;
  const stages = config.depths.map((depth, s) => {
    const [conv, norm] = s === 0 ? ["0.0", "0.1"] : [`${s}.1`, `${s}.0`];
    const down = `downsample_layers.`;
    return {
      stride: tensors[`${down}${conv}.weight`].shape[2],
      conv: channelsLast(tensors[`${down}${conv}.weight`]), convBias: get(`${down}${conv}.bias`),
      scale: get(`${down}${norm}.weight`), shift: get(`${down}${norm}.bias`),
      blocks: Array.from({length: depth}, (_, b) => {
        const name = `stages.${s}.${b}.`;
        return {
          conv: tapsFirst(tensors[name + "dwconv.weight"]), convBias: get(name + "dwconv.bias"),
          scale: get(name + "norm.weight"), shift: get(name + "norm.bias"),
          widen: get(name + "pwconv1.weight"), widenBias: get(name + "pwconv1.bias"),
          narrow: get(name + "pwconv2.weight"), narrowBias: get(name + "pwconv2.bias"),
          gamma: tensors[name + "gamma"] ? get(name + "gamma") : null,
        };
      }),
    };
  });
  return {config, stages, scale: get("norm.weight"), shift: get("norm.bias"),
          head: get("head.weight"), headBias: get("head.bias")};
}
