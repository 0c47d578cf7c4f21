"use strict";
// The road in words: what the fields of a step mean, and why the paper took the step. The steps
// themselves come as data (steps.js).

const FIELDS = {  // field: [its name, what its values mean, or a function that says it]
  depths: ["blocks in stages 1 to 4", value => value.join(", ")],
  width: ["width", value => `${value} channels in stage 1`],
  stem: ["stem", {"conv + pool": "7 x 7 convolution, stride 2, then a pool",
                  patchify: "4 x 4 patches without overlap"}],
  groups: ["a filter reads", {1: "all channels", channels: "one channel (depthwise)"}],
  block: ["order and widths", {bottleneck: "wide, narrow, wide", inverted: "narrow, wide, narrow",
                               "dw first": "depthwise first, then narrow, wide, narrow"}],
  kernel: ["window", value => `${value} x ${value}`],
  act: ["activation", {relu: "ReLU", gelu: "GELU"}],
  acts: ["activations", value => `${value} in a block`],
  norms: ["norms", value => `${value} in a block`],
  norm: ["kind of norm", {bn: "batch norm", ln: "layer norm"}],
  downsample: ["where maps shrink", {"in block": "inside the first block of a stage",
                                     separate: "in layers between the stages"}],
  stem_norm: ["norm after the stem", {true: "yes", false: "no"}],
  head_norm: ["norm before the classifier", {true: "yes", false: "no"}],
  layer_scale: ["layer scale",
    value => value === null ? "none" : `yes, starting at ${value} (training changes it)`],
  init: ["initial weights", {torch: "PyTorch's own", "trunc normal": "truncated normal, 0.02"}],
};

const REASONS = {  // step: why the paper took it
  stage_ratio: "Swin has its blocks in the ratio 1 : 1 : 3 : 1. With 3, 3, 9, 3 the ResNet has it, "
    + "too, and costs about as much as Swin-T.",
  patchify: "A vision transformer cuts the image into patches. A 4 x 4 convolution with stride 4 "
    + "does the same, and is no worse than ResNet's stem.",
  depthwise: "Like attention, a filter for each channel mixes places only; the 1 x 1 convolutions "
    + "mix channels. The network becomes much cheaper and loses accuracy; the next step spends "
    + "what was saved.",
  width: "What was saved is spent: stage 1 becomes as wide as Swin-T's, 96 channels.",
  invert: "A transformer's MLP is four times as wide as its input. Now the block is widest in the "
    + "middle, too, and the network gets cheaper: above all its shortcuts do, where maps shrink.",
  move_up: "In a transformer, attention comes before the MLP. So the depthwise convolution moves "
    + "up, to where the block is narrow. It costs accuracy now and makes large windows cheap.",
  k5: "Attention looks farther than 3 x 3 pixels, and so should a convolution. Where the block is "
    + "narrow, this costs little.",
  k7: "Accuracy grows up to 7 x 7, the size of Swin's windows, and the whole cost hardly does.",
  k9: "To see whether a larger window is better still: it is no better than 7 x 7.",
  k11: "To see whether a larger window is better still: it is no better than 7 x 7.",
  gelu: "Transformers use GELU, a smooth ReLU. Here it changes next to nothing.",
  fewer_act: "A transformer has one activation in its MLP and none elsewhere. Only the one between "
    + "the two 1 x 1 convolutions stays.",
  fewer_norm: "Transformers have fewer norms, too. Only the one before the 1 x 1 convolutions stays.",
  ln: "Layer norm asks no other picture, and transformers use it. In a plain ResNet it does worse "
    + "than batch norm; after all the other changes it does no harm.",
  sep_ds: "Swin shrinks its maps between the stages. Without a norm wherever a map shrinks, "
    + "training diverged; with them, it is stable and gains.",
};

const COUNTS = ["nothing", "one thing", "two things", "three things", "four things", "five things"];

function fieldName(key) { return FIELDS[key][0]; }

function fieldValue(key, value) {
  const say = FIELDS[key][1];
  return typeof say === "function" ? say(value) : say[value];
}
