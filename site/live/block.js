"use strict";
// The opened block: seven operations, each with the numbers of this picture. One pixel and one
// channel are chosen; maps show the channel everywhere, bars show all channels at the pixel.

// A pointer or the arrow keys choose the pixel.
function followPixel(canvas) {
  const at = event => {
    if (!state.trace) return;
    const {left, top, width} = canvas.getBoundingClientRect();
    const cell = width / state.trace.stages[state.open.stage].side;
    const row = Math.floor((event.clientY - top) / cell);
    choosePixel(row, Math.floor((event.clientX - left) / cell));
  };
  canvas.onpointermove = event => { if (!sliding && hasMoved(event)) at(event); };
  canvas.onpointerdown = event => { stopSliding(); at(event); };
  canvas.onkeydown = event => {
    const moves = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]};
    if (!moves[event.key] || !state.trace) return;
    event.preventDefault();
    stopSliding();
    choosePixel(state.open.row + moves[event.key][0], state.open.col + moves[event.key][1]);
    const {row, col} = state.open;
    say(`Row ${row + 1}, column ${col + 1}: ${canvas.dataset.value}`);
  };
}

// A page that scrolls under a resting mouse sends moves, too, which are none.
function hasMoved(event) { return event.movementX !== 0 || event.movementY !== 0; }

function choosePixel(row, col) {
  const {side} = state.trace.stages[state.open.stage];
  const within = v => Math.min(side - 1, Math.max(0, v));
  if (within(row) === state.open.row && within(col) === state.open.col) return;
  Object.assign(state.open, {row: within(row), col: within(col)});
  forgetUnit();
  drawBlock();
  drawPictures();
}

function openBlock(stage, block, channel = null) {
  stopSliding();
  const {side} = state.trace.stages[stage], old = state.trace.stages[state.open.stage].side;
  const moved = v => Math.min(side - 1, Math.floor((v + 0.5) * side / old));
  Object.assign(state.open, {stage, block, row: moved(state.open.row), col: moved(state.open.col)});
  forgetUnit();
  chooseStrongest();
  if (channel !== null) state.open.channel = channel;
  drawWay();
  drawBlock();
  drawPictures();
}

// The list of channels, the strongest apart, and the strongest of all chosen.
function chooseStrongest() {
  const {stage, block} = state.open, c = config.dims[stage];
  const order = strongest(state.trace.stages[stage].blocks[block].conv, c);
  const group = (label, channels) => {
    const element = Object.assign(document.createElement("optgroup"), {label});
    element.append(...channels.map(k => new Option(k, k)));
    return element;
  };
  $("channel").replaceChildren(group("strongest first", order.slice(0, 9)),
                               group(`all ${c}`, Array.from({length: c}, (_, k) => k)));
  state.open.channel = order[0];
  if (state.open.row === null) {
    const middle = Math.floor(state.trace.stages[stage].side / 2);
    Object.assign(state.open, {row: middle, col: middle});
  }
}

// All that the panels need: the sizes, the chosen place and channel, the maps and the weights.
function opened() {
  const {stage, block, channel, row, col} = state.open;
  const {side, blocks} = state.trace.stages[stage];
  return {stage, block, channel, row, col, side, c: config.dims[stage], pixel: row * side + col,
          trace: blocks[block], weights: state.filters[stage][block],
          isOff: state.off.blocks.includes(`${stage}.${block}`)};
}

function drawBlock() {
  const at = opened();
  drawHead(at);
  drawConvolution(at);
  drawNorm(at);
  drawHidden(at);
  drawNarrow(at);
  drawSum(at);
}

function drawHead({stage, block, channel, side, c, isOff}) {
  $("channel").value = channel;
  $("block-title").textContent = `Stage ${stage + 1}, block ${block + 1}`;
  $("block-said").textContent = `${side} x ${side} pixels, ${c} channels, `
    + `${millions(multiplyAdds(config)[stage + 1].each)} multiply-adds. Shown: channel ${channel}. `
    + fieldWords(state.open)
    + (isOff ? " This block is switched off: what comes in goes on as it is." : "");
  for (let panel = 1; panel < 6; panel++) $(`panel-${panel}`).classList.toggle("off", isOff);
  $("cost-conv").textContent = `${config.kernel ** 2} weights a channel`;
  $("shape-norm").textContent = `${c} values a pixel`;
  $("shape-widen").textContent = `${c} → ${4 * c}`;
  $("shape-narrow").textContent = `${4 * c} → ${c}`;
  $("before").disabled = stage === 0 && block === 0;
  $("after").disabled = stage === config.depths.length - 1 && block === config.depths[stage] - 1;
}

// One map of the chosen channel, which tells its number at the chosen pixel.
function drawChannel(id, values, name, {c, channel, side, pixel}, options) {
  const numbers = channelOf(values, c, channel);
  drawMap($(id), numbers, options);
  $(id).dataset.value = `${name} ${number(numbers[pixel])}`;
  $(id).setAttribute("aria-label", `${name}, channel ${channel}, ${side} x ${side}. `
    + `Arrow keys move the pixel. Here: ${number(numbers[pixel])}`);
}

function frameHere({row, col}, reach = 0) {
  const long = 2 * reach + 1;
  return {row: row - reach, col: col - reach, rows: long, cols: long, color: color("mark")};
}

// The first panel. Switched off, a depthwise convolution hands on what came in.
function drawConvolution(chosen) {
  const at = atWindow(chosen);
  const {trace, weights, c, channel, pixel} = at, {kernel} = config, off = state.off.depthwise;
  const reach = (kernel - 1) / 2;
  drawChannel("map-input", trace.input, "Input", at, {frames: [frameHere(at, off ? 0 : reach)]});
  drawChannel("map-conv", trace.conv, "After the convolution", at,
              {frames: [frameHere(at)], until: sliding?.pixel ?? null});
  const stops = [-1, -0.5, 0, 0.5, 1].map(v => css(signed(v)));
  $("legend").style.background = `linear-gradient(90deg, ${stops.join(", ")})`;
  const taps = Float32Array.from({length: kernel ** 2}, (_, a) => weights.conv[a * c + channel]);
  drawMap($("filter"), taps);
  $("filter").classList.toggle("off", off);
  $("filter").setAttribute("aria-label", off ? "The filter is switched off"
    : `The filter of channel ${channel}: ${[...taps].map(number).join(", ")}`);
  $("slide").disabled = off;
  if (off) {
    $("terms").innerHTML = `<i>switched off: out = in</i> = <b>${
      number(trace.input[pixel * c + channel])}</b>`;
    $("conv-said").textContent = "The depthwise convolutions are switched off: no pixel meets a "
      + "neighbor here.";
  } else {
    writeTerms(at);
    $("conv-said").textContent = sliding ? `The window has come to ${placeWords(at)}. All other `
      + `panels stay at the chosen pixel, ${placeWords(chosen)}.` : convolutionWords(at);
  }
}

// The sum of the window, largest terms first: every term is a number of the map times one of the
// filter. The last number is what the network itself got, and the many small terms are what is
// left: so they take up what the printed ones lose in rounding.
function writeTerms({trace, weights, side, row, col, channel, c, pixel}) {
  const {kernel} = config, reach = (kernel - 1) / 2, terms = [];
  for (let dy = -reach; dy <= reach; dy++)
    for (let dx = -reach; dx <= reach; dx++) {
      const inside = row + dy >= 0 && row + dy < side && col + dx >= 0 && col + dx < side;
      if (!inside) continue;
      const value = trace.input[((row + dy) * side + col + dx) * c + channel];
      const weight = weights.conv[((dy + reach) * kernel + dx + reach) * c + channel];
      terms.push({value, weight, product: value * weight});
    }
  terms.sort((a, b) => Math.abs(b.product) - Math.abs(a.product));
  const shown = terms.slice(0, 4), sum = trace.conv[pixel * c + channel];
  const bias = weights.convBias[channel];
  const rest = rounded(sum) - rounded(bias)
    - shown.reduce((all, {value, weight}) => all + rounded(value) * rounded(weight), 0);
  const words = shown.map(t => `${number(t.value)}<i>×</i>${number(t.weight)}`);
  const more = terms.length - shown.length;
  words.push(`${number(rest)} <i>from ${more ? `${more} more and ` : ""}rounding</i>`);
  words.push(`${number(bias)} <i>bias</i>`);
  $("terms").innerHTML = `${words.join(" <i>+</i> ")} <i>=</i> <b>${number(sum)}</b>`;
}

function convolutionWords({side, row, col}) {
  const {kernel} = config, reach = (kernel - 1) / 2, all = kernel ** 2;
  const inside = at => Math.min(side, at + reach + 1) - Math.max(0, at - reach);
  const beyond = all - inside(row) * inside(col);
  return "Each channel has a filter of its own and sees only its own map. "
    + `The window moves over the map; in every place ${all} products are added up, and the bias, `
    + "a learned number. "
    + (beyond ? `Here ${beyond} of the ${all} lie beyond the border and count as 0. ` : "")
    + "Only here do pixels meet neighbors.";
}

// Bars of one pixel, and the line below them.
function drawVector(id, values, name, words, options = {}) {
  drawBars($(id), values, {mark: state.open.channel, ...options});
  $(id).bars = values;
  $(id).dataset.words = $(`${id}-words`).textContent = words;
  $(id).setAttribute("aria-label",
    `${name}: ${values.length} bars, up to ${number(largest(values))}. Arrow keys tell each.`);
}

function drawNorm({trace, c, pixel, channel}) {
  const [conv, norm] = [trace.conv, trace.norm].map(map => pixelOf(map, c, pixel));
  const mean = conv.reduce((a, b) => a + b) / c;
  const deviation = Math.sqrt(conv.reduce((a, b) => a + (b - mean) ** 2, 0) / c);
  const top = Math.max(largest(conv), largest(norm));
  drawVector("bars-conv", conv, "Before layer norm",
    `before: all channels; upright line: channel ${channel}, line across: the mean`,
    {top, lines: [mean]});
  drawVector("bars-norm", norm, "After layer norm", "after, drawn to the same scale", {top});
  $("norm-said").textContent = `The mean, ${number(mean)}, goes away; the rest is divided by the `
    + `standard deviation, ${number(deviation)}. Then each channel has a learned scale and shift.`;
}

function drawHidden({trace, c, pixel}) {
  const [wide, active] = [trace.wide, trace.active].map(map => pixelOf(map, 4 * c, pixel));
  drawVector("bars-wide", wide, "Hidden units", "the hidden units of this pixel",
    {mark: -1, height: 120});
  $("widen-said").textContent = `Each of ${4 * c} hidden units weighs all ${c} channels of this `
    + "pixel. Here channels meet; pixels do not.";
  drawCurve($("curve"), gelu, wide);
  const on = wide.filter(v => v > 0).length;
  $("curve").setAttribute("aria-label",
    `The curve of GELU with ${wide.length} dots, ${on} of them above zero`);
  $("gelu-said").textContent = `The only bend in the block; a dot for each unit. ${on} of ${4 * c} `
    + "are above zero and pass, the large ones almost unchanged. The others come out between "
    + `−0.17 and 0. The largest comes out at ${number(Math.max(...active))}.`;
}

function drawNarrow({trace, weights, c, pixel, channel}) {
  const narrow = pixelOf(trace.narrow, c, pixel), {gamma} = weights;
  drawVector("bars-narrow", narrow, "After the second linear layer",
    `the channels of this pixel again; upright line: channel ${channel}`, {height: 56});
  $("bars-gamma").classList.toggle("off", state.off.layerScale || !gamma);
  drawVector("bars-gamma", gamma || new Float32Array(c).fill(1), "Layer scale",
    "a learned factor for each channel", {height: 56});
  const after = trace.scaled[pixel * c + channel];
  $("scale-said").textContent = !gamma ? "This network has none."
    : state.off.layerScale ? "Switched off: the numbers pass as they are."
    : `Channel ${channel}: ${number(narrow[channel])} × ${factor(gamma[channel])} = `
      + `${number(after)}.`;
}

// The last panel. A block that is switched off adds nothing.
function drawSum(at) {
  const {trace, c, channel, pixel, isOff} = at;
  const top = largest(channelOf(trace.output, c, channel)), frames = [frameHere(at)];
  drawChannel("map-before", trace.input, "Input", at, {top, frames});
  drawChannel("map-scaled", trace.scaled, isOff ? "What the block would add" : "What the block adds",
              at, {top, frames});
  drawChannel("map-output", trace.output, "Output", at, {top, frames});
  $("map-scaled").classList.toggle("off", isOff);
  $("map-scaled-words").textContent = isOff ? "not added: the block is off"
                                            : "+ what the block adds";
  const [input, scaled, output] = [trace.input, trace.scaled, trace.output].map(
    map => pixelOf(map, c, pixel));
  const share = number(Math.hypot(...scaled) / Math.hypot(...input));
  $("sum-said").textContent = isOff
    ? `Channel ${channel} stays ${number(output[channel])} (the block would add `
      + `${number(scaled[channel])}, but is switched off).`
    : "The block only adds to what came in. Over all channels of this pixel, what it adds is "
      + `${share} times as long as what came in. Channel ${channel}: `
      + `${sumWords(input[channel], scaled[channel], output[channel])}.`;
}

$("channel").onchange = event => {
  state.open.channel = Number(event.target.value);
  forgetUnit();
  drawBlock();
  drawPictures();
};
for (const [id, step] of [["before", -1], ["after", 1]])
  $(id).onclick = () => {
    if (!state.trace) return;
    const all = config.depths.flatMap((depth, s) => Array.from({length: depth}, (_, b) => [s, b]));
    const at = all.findIndex(([s, b]) => s === state.open.stage && b === state.open.block);
    openBlock(...all[at + step]);
    if ($(id).disabled) $("block-title").focus({preventScroll: true});  // the end of the row
  };

makeStrip();
