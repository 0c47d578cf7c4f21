"use strict";
// The opened block: seven operations, each with the numbers of this picture. One pixel and one
// channel are chosen; maps show the channel everywhere, bars show all channels at the pixel.

function makeStrip() {
  const {kernel} = config, square = `${kernel} x ${kernel}`;
  const map = (id, words) => `<figure><canvas id="${id}" tabindex="0" role="application"
    aria-label="Map: ${words}"></canvas>
    <figcaption>${words}</figcaption></figure>`;
  const bars = (id, words) => `<canvas id="${id}" class="bars" role="img"
    aria-label="Bars: ${words}"></canvas>
    <p class="hint">${words}</p>`;
  $("strip").innerHTML = `
  <div class="card wide"><h3>1. Depthwise ${square} <span id="cost-conv"></span></h3>
    <div class="maps">${map("map-input", "this channel, coming in")}
      <figure><canvas id="filter" role="img" aria-label="The filter of this channel"></canvas>
        <figcaption>× its filter</figcaption></figure>
      ${map("map-conv", "= going out")}</div>
    <p class="terms" id="terms"></p>
    <p>Each channel has a filter of its own and sees only its own map. The window moves over the
    map; in every place ${kernel ** 2} products are added up. Only here do pixels meet
    neighbors.</p>
    <div class="buttons"><button id="slide">Slide the window</button>
      <span class="hint">below zero<span class="legend" id="legend"></span>above</span></div></div>
  <div class="card"><h3>2. Layer norm <span id="shape-norm"></span></h3>
    ${bars("bars-conv", "before: all channels of this pixel, and their mean")}
    ${bars("bars-norm", "after")}
    <p id="norm-said"></p></div>
  <div class="card"><h3>3. Linear <span id="shape-widen"></span></h3>
    ${bars("bars-wide", "the hidden units of this pixel")}
    <p id="widen-said"></p></div>
  <div class="card"><h3>4. GELU</h3>
    <canvas id="curve" class="bars" role="img" aria-label="The curve of GELU"></canvas>
    <p id="gelu-said"></p></div>
  <div class="card"><h3>5. Linear <span id="shape-narrow"></span></h3>
    ${bars("bars-narrow", "the channels of this pixel again")}
    <h3 style="margin-top:10px">6. Layer scale</h3>
    ${bars("bars-scaled", "times a learned number each")}
    <p id="scale-said"></p></div>
  <div class="card wide"><h3>7. Plus the input <span>the residual connection</span></h3>
    <div class="maps">${map("map-before", "what came in")}
      ${map("map-scaled", "+ what the block adds")}
      ${map("map-output", "= what goes on")}</div>
    <p id="sum-said"></p></div>`;
  for (const canvas of $("strip").querySelectorAll("canvas[tabindex]")) followPixel(canvas);
}

// A pointer or the arrow keys choose the pixel.
function followPixel(canvas) {
  const at = event => {
    if (!state.trace) return;
    const {left, top, width} = canvas.getBoundingClientRect();
    const cell = width / state.trace.stages[state.open.stage].side;
    const row = Math.floor((event.clientY - top) / cell);
    choosePixel(row, Math.floor((event.clientX - left) / cell));
  };
  canvas.onpointermove = event => { if (!sliding) at(event); };
  canvas.onpointerdown = at;
  canvas.onkeydown = event => {
    const moves = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]};
    if (!moves[event.key] || !state.trace) return;
    event.preventDefault();
    choosePixel(state.open.row + moves[event.key][0], state.open.col + moves[event.key][1]);
    const {row, col} = state.open;
    say(`Row ${row}, column ${col}: ${canvas.dataset.value}`);
  };
}

function choosePixel(row, col) {
  const {side} = state.trace.stages[state.open.stage];
  const within = v => Math.min(side - 1, Math.max(0, v));
  if (within(row) === state.open.row && within(col) === state.open.col) return;
  Object.assign(state.open, {row: within(row), col: within(col)});
  drawBlock();
  drawPictures();
}

function openBlock(stage, block) {
  stopSliding();
  const {side} = state.trace.stages[stage], old = state.trace.stages[state.open.stage].side;
  const moved = v => Math.min(side - 1, Math.floor((v + 0.5) * side / old));
  Object.assign(state.open, {stage, block, row: moved(state.open.row), col: moved(state.open.col)});
  chooseStrongest();
  drawWay();
  drawBlock();
  drawPictures();
}

// The list of channels, strongest first, and the strongest chosen.
function chooseStrongest() {
  const {stage, block} = state.open;
  const order = strongest(state.trace.stages[stage].blocks[block].conv, config.dims[stage]);
  $("channel").replaceChildren(...order.map(k => new Option(k, k)));
  state.open.channel = order[0];
  if (state.open.row === null) {
    const middle = Math.floor(state.trace.stages[stage].side / 2);
    Object.assign(state.open, {row: middle, col: middle});
  }
}

function number(v) { return v.toFixed(2).replace("-", "−"); }

// The sum of the window, largest terms first: every term is a number of the map times one of the
// filter. The last row is what the network itself got.
function drawSum(trace, weights, side) {
  const {row, col, channel} = state.open, {kernel} = config, reach = (kernel - 1) / 2;
  const c = weights.convBias.length, terms = [];
  for (let dy = -reach; dy <= reach; dy++)
    for (let dx = -reach; dx <= reach; dx++) {
      const inside = row + dy >= 0 && row + dy < side && col + dx >= 0 && col + dx < side;
      if (!inside) continue;
      const value = trace.input[((row + dy) * side + col + dx) * c + channel];
      const weight = weights.conv[((dy + reach) * kernel + dx + reach) * c + channel];
      terms.push({value, weight, product: value * weight});
    }
  terms.sort((a, b) => Math.abs(b.product) - Math.abs(a.product));
  const rest = terms.slice(4).reduce((sum, term) => sum + term.product, 0);
  const words = terms.slice(0, 4).map(t => `${number(t.value)}<i>×</i>${number(t.weight)}`);
  words.push(`${number(rest)} <i>from ${Math.max(0, terms.length - 4)} more</i>`);
  words.push(`${number(weights.convBias[channel])} <i>bias</i>`);
  const sum = number(trace.conv[(row * side + col) * c + channel]);
  $("terms").innerHTML = `${words.join(" <i>+</i> ")} <i>=</i> <b>${sum}</b>`;
}

function drawBlock() {
  const {stage, block, channel, row, col} = state.open;
  const {side, blocks} = state.trace.stages[stage], trace = blocks[block];
  const weights = state.filters[stage][block], c = config.dims[stage], {kernel} = config;
  const pixel = row * side + col, isOff = state.off.blocks.includes(`${stage}.${block}`);
  $("channel").value = channel;
  $("block-title").textContent = `Stage ${stage + 1}, block ${block + 1}`;
  $("block-said").textContent = `${side} x ${side} pixels, ${c} channels, `
    + `${millions(multiplyAdds(config)[stage + 1].each)} multiply-adds. Shown: channel ${channel}. `
    + fieldWords(state.open)
    + (isOff ? " This block is switched off: its input goes on as it is." : "");
  $("cost-conv").textContent = `${kernel ** 2} weights a channel`;
  $("shape-norm").textContent = `${c} numbers`;
  $("shape-widen").textContent = `${c} → ${4 * c}`;
  $("shape-narrow").textContent = `${4 * c} → ${c}`;

  const mark = color("mark"), reach = (kernel - 1) / 2;
  const one = {row, col, rows: 1, cols: 1, color: mark};
  const window = {row: row - reach, col: col - reach, rows: kernel, cols: kernel, color: mark};
  const map = (id, values, name, options) => {
    const numbers = channelOf(values, c, channel);
    drawMap($(id), numbers, options);
    $(id).dataset.value = `${name} ${number(numbers[pixel])}`;
    $(id).setAttribute("aria-label", `${name}, channel ${channel}, ${side} x ${side}. `
      + `Arrow keys move the pixel. Here: ${number(numbers[pixel])}`);
  };
  const top = largest(channelOf(trace.output, c, channel));
  map("map-input", trace.input, "Input", {frames: [state.off.depthwise ? one : window]});
  const until = sliding && pixel;
  map("map-conv", trace.conv, "After the convolution", {frames: [one], until});
  map("map-before", trace.input, "Input", {top, frames: [one]});
  map("map-scaled", trace.scaled, "What the block adds", {top, frames: [one]});
  map("map-output", trace.output, "Output", {top, frames: [one]});
  $("legend").style.background = `linear-gradient(90deg, ${[-1, -0.5, 0, 0.5, 1].map(
    v => css(signed(v))).join(", ")})`;
  const taps = Float32Array.from({length: kernel ** 2}, (_, a) => weights.conv[a * c + channel]);
  drawMap($("filter"), taps);
  $("filter").setAttribute("aria-label",
    `The filter of channel ${channel}: ${[...taps].map(number).join(", ")}`);
  drawSum(trace, weights, side);
  drawVectors(trace, weights, c, pixel);
}

// Everything that happens to one pixel alone: norm, widening, GELU, narrowing, layer scale.
function drawVectors(trace, weights, c, pixel) {
  const {channel} = state.open;
  const [conv, norm, narrow, scaled, input] = ["conv", "norm", "narrow", "scaled", "input"].map(
    name => pixelOf(trace[name], c, pixel));
  const [wide, active] = [trace.wide, trace.active].map(map => pixelOf(map, 4 * c, pixel));
  const mean = conv.reduce((a, b) => a + b) / c;
  const deviation = Math.sqrt(conv.reduce((a, b) => a + (b - mean) ** 2, 0) / c);
  const bars = (id, values, name, options) => {
    drawBars($(id), values, {mark: channel, ...options});
    $(id).setAttribute("aria-label",
      `${name}: ${values.length} bars, up to ${number(largest(values))}`);
  };
  bars("bars-conv", conv, "Before layer norm", {lines: [mean]});
  bars("bars-norm", norm, "After layer norm");
  $("norm-said").textContent = `The mean, ${number(mean)}, goes away; the rest is divided by the `
    + `standard deviation, ${number(deviation)}. Then each channel has a learned scale and shift. `
    + "Batch norm would use this channel in other pictures instead.";
  bars("bars-wide", wide, "Hidden units", {mark: -1, height: 150});
  $("widen-said").textContent = `Each of ${4 * c} hidden units weighs all ${c} channels of this `
    + "pixel. Here channels meet; pixels do not.";
  drawCurve($("curve"), gelu, wide);
  const on = wide.filter(v => v > 0).length;
  $("curve").setAttribute("aria-label",
    `The curve of GELU with ${wide.length} dots, ${on} of them above zero`);
  $("gelu-said").textContent = `The only bend in the block. ${on} of ${4 * c} units are above `
    + "zero and pass; the others are pressed to almost nothing. The largest comes out at "
    + `${number(Math.max(...active))}.`;
  const top = Math.max(largest(narrow), largest(scaled));
  bars("bars-narrow", narrow, "After the second linear layer", {top, height: 56});
  bars("bars-scaled", scaled, "After layer scale", {top, height: 56});
  $("scale-said").textContent = !weights.gamma ? "This network has none."
    : state.off.layerScale ? "Switched off: the numbers pass as they are."
    : `For channel ${channel}: × ${number(weights.gamma[channel])}.`;
  const length = v => Math.hypot(...v);
  $("sum-said").textContent = "The block only adds to what came in. Over all channels of "
    + `this pixel, what it adds is ${number(length(scaled) / length(input))} times as long as what `
    + "came in. "
    + `Channel ${channel}: ${number(input[channel])} + ${number(scaled[channel])} = `
    + `${number(input[channel] + scaled[channel])}.`;
}

// The window slides over the map by itself, and the map that comes out fills up behind it.
let sliding = null;
function stopSliding() {
  clearInterval(sliding);
  sliding = null;
  $("slide").textContent = "Slide the window";
}

function slideOn() {
  const {side} = state.trace.stages[state.open.stage];
  const next = state.open.row * side + state.open.col + 1;
  if (next === side ** 2) stopSliding();
  choosePixel(Math.floor(next / side) % side, next % side);
}

$("channel").onchange = event => { state.open.channel = Number(event.target.value); drawBlock(); };
for (const [id, step] of [["before", -1], ["after", 1]])
  $(id).onclick = () => {
    if (!state.trace) return;
    const all = config.depths.flatMap((depth, s) => Array.from({length: depth}, (_, b) => [s, b]));
    const at = all.findIndex(([s, b]) => s === state.open.stage && b === state.open.block);
    openBlock(...all[(at + step + all.length) % all.length]);
  };

makeStrip();
$("slide").onclick = () => {
  if (sliding) { stopSliding(); return drawBlock(); }
  if (!state.trace) return;
  sliding = setInterval(slideOn, 2400 / state.trace.stages[state.open.stage].side);
  choosePixel(0, 0);
  $("slide").textContent = "Stop";
};
