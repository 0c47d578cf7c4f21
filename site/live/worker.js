"use strict";
// The network works here, in a thread of its own, so that the page never freezes. The page sends
// {task, id, ...}; what comes back carries the same id.
let net = null;
let latest = 0;  // the newest sweep; an older one stops when it sees this

const tasks = {
  // The weights, once.
  load({weights, config}) {
    net = assemble(readSafetensors(fromBase64(weights)), config);
    const shown = ({conv, convBias, gamma}) => ({conv, convBias, gamma});
    return {filters: net.stages.map(stage => stage.blocks.map(shown))};
  },
  // A picture becomes what the network sees.
  see({rgba, width, height}) { return {seen: resizeAndCrop(rgba, width, height, net.config)}; },
  // One pass, with every map on the way.
  run({seen, off, patch}) {
    const bytes = patch ? withPatch(seen, net.config, patch) : seen;
    const start = performance.now();
    const trace = forward(net, normalize(bytes, net.config), off);
    return {trace, ms: performance.now() - start, probabilities: softmax(trace.logits)};
  },
  // One pass that tells the probabilities only: for a patch that moves.
  probe(message) {
    const {ms, probabilities} = tasks.run(message);
    return {ms, probabilities};
  },
};

// A patch in every place, one pass each. `watch` is a unit whose change is measured as well: the
// channels of one pixel of a block's output. Between two passes other tasks have their turn.
async function sweep({id, seen, off, side, step, watch}) {
  latest = id;
  const unit = trace => {
    const {stage, block, row, col} = watch, {side: width} = trace.stages[stage];
    const values = trace.stages[stage].blocks[block].output;
    const c = values.length / width ** 2, at = (row * width + col) * c;
    return values.subarray(at, at + c);
  };
  const whole = tasks.run({seen, off}).trace, places = [];
  const before = unit(whole), unhidden = softmax(whole.logits);
  const starts = [], most = net.config.size - side;
  for (let start = 0; start < most; start += step) starts.push(start);
  starts.push(most);  // so that the right and lower edges are hidden, too
  for (const row of starts) for (const col of starts) places.push({row, col, side});
  for (const [at, patch] of places.entries()) {
    await new Promise(resume => setTimeout(resume));
    if (latest !== id) return;
    const {trace, probabilities} = tasks.run({seen, off, patch});
    const change = Math.hypot(...unit(trace).map((v, i) => v - before[i]));
    postMessage({id, patch, unhidden, probabilities, change, done: (at + 1) / places.length});
  }
}

onmessage = ({data}) => {
  if (data.task === "stop") latest = data.id;
  else if (data.task === "sweep") sweep(data);
  else {
    try { postMessage({id: data.id, ...tasks[data.task](data)}); }
    catch (error) { postMessage({id: data.id, error: String(error)}); }
  }
};
