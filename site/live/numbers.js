"use strict";
// Numbers and lists in words.

// With as many digits behind the point, and no minus before a zero.
function rounded(v, digits = 2) { return Number(v.toFixed(digits)) || 0; }

function number(v, digits = 2) { return rounded(v, digits).toFixed(digits).replace("-", "−"); }

// A learned factor may be tiny: it keeps two digits.
function factor(v) { return Math.abs(v) < 0.01 ? v.toPrecision(2) : number(v); }

function percent(p) { return `${(100 * p).toFixed(p < 0.0995 ? 1 : 0)} %`; }

// A sum of two numbers, with as many digits as it takes for the printed ones to add up.
function sumWords(a, b, sum) {
  const most = 6;  // the network's own numbers have no more
  let digits = 2;
  const printed = () => rounded(rounded(a, digits) + rounded(b, digits), digits);
  while (digits < most && printed() !== rounded(sum, digits)) digits++;
  return `${number(a, digits)} ${b < 0 ? "−" : "+"} ${number(Math.abs(b), digits)} = `
    + number(printed(), digits);
}

// Such as "a, b and c".
function listed(names, last) { return names.join(", ").replace(/, ([^,]*)$/, ` ${last} $1`); }
