/* The time line of an instance: twelve hours back, one ahead. Each state has a shape of its own,
   so that it can be told without its colour: what works is full, what waits is half, what comes
   or goes is hatched, what is off is a thin line, what needs somebody is cross-hatched. */

import { attr, clock, duration, svg } from "./dom.js";

const MINUTE = 60_000;
const HOUR = 60 * MINUTE;
const PAST = 12 * HOUR;
const AHEAD = 1 * HOUR;

/* Units of the drawing: 24 of them are as high as a track, 16 are one rem. */
const HEIGHT = 24;
const UNITS_PER_REM = 16;
const SHORTEST = 1.5; // a state of seconds is still a mark

/* By state: its kind (shape and colour) and the word for it. */
const STATES = {
  provisioning: ["booting", "being made"],
  starting: ["booting", "starting"],
  initializing: ["booting", "booting"],
  idle: ["idle", "idle"],
  running_task: ["busy", "busy"],
  lost: ["trouble", "lost"],
  quarantined: ["trouble", "quarantined"],
  stopping: ["leaving", "stopping"],
  stopped: ["off", "stopped"],
  stopped_in_place: ["trouble", "stopped in place"],
  deleting: ["leaving", "deleting"],
  unknown: ["trouble", "unknown"],
  gone: ["off", "gone"],
};

export const KINDS = {
  busy: { top: 2, word: "busy" },
  idle: { top: 12, word: "idle" },
  booting: { top: 6, word: "booting", hatched: true },
  leaving: { top: 14, word: "going off", hatched: true },
  off: { top: 19, word: "stopped" },
  trouble: { top: 2, word: "in trouble", hatched: true },
};
const BOTTOM = 22;

/* A state this page has no word for is shown as it is called, as something to look at. */
export const kindOf = (state) => (Object.hasOwn(STATES, state) ? STATES[state][0] : "trouble");
export const wordFor = (state) =>
  Object.hasOwn(STATES, state) ? STATES[state][1] : String(state).replaceAll("_", " ");

const box = (from, to, top) =>
  `M${from.toFixed(1)} ${top}H${to.toFixed(1)}V${BOTTOM}H${from.toFixed(1)}z`;

function shape(kind, d) {
  const fill = KINDS[kind].hatched ? { fill: `url(#hatch-${kind})` } : {};
  return svg("path", { class: `kind ${kind}`, d, ...fill });
}

/* The sign of a kind beside words: the same shape as on the track. */
export function swatch() {
  return svg("svg", { class: "swatch", viewBox: "0 0 20 24", "aria-hidden": "true" });
}

export function setSwatch(node, kind) {
  if (node.dataset.kind === kind) return;
  node.dataset.kind = kind;
  node.replaceChildren(shape(kind, box(1, 19, KINDS[kind].top)));
}

/* All tracks are as wide as the axis; the page tells when that changes. */
export class Scale {
  units = 0;

  /* Returns whether it is another one than before. */
  measure(pixels) {
    const rem = Number.parseFloat(getComputedStyle(document.documentElement).fontSize);
    const units = Math.round((pixels / rem) * UNITS_PER_REM);
    const changed = units !== this.units;
    this.units = units;
    return changed;
  }

  /* Where a time (ms) stands; now is twelve thirteenths from the left. */
  x(at) {
    const share = (at - clock.now() + PAST) / (PAST + AHEAD);
    return Math.min(Math.max(share, 0), 1) * this.units;
  }

  time(x) {
    return clock.now() - PAST + (x / this.units) * (PAST + AHEAD);
  }

  get viewBox() {
    return `0 0 ${this.units} ${HEIGHT}`;
  }
}

/* Whole hours of the reader's own day that fall on the track. */
function hours(step) {
  const first = new Date(clock.now() - PAST);
  first.setMinutes(0, 0, 0);
  const found = [];
  for (let at = first.getTime() + HOUR; at <= clock.now() + AHEAD; at += HOUR) {
    if (new Date(at).getHours() % step === 0) found.push(at);
  }
  return found;
}

function stepFor(scale) {
  const hour = scale.units / ((PAST + AHEAD) / HOUR);
  return [1, 2, 3, 6, 12].find((step) => step * hour >= 48) ?? 12; // room for "14:00"
}

export function drawAxis(node, scale) {
  attr(node, "viewBox", scale.viewBox);
  const now = scale.x(clock.now());
  const labels = hours(stepFor(scale)).flatMap((at) => {
    const x = scale.x(at);
    if (Math.abs(x - now) < 36 || x < 18 || x > scale.units - 18) return [];
    const label = `${String(new Date(at).getHours()).padStart(2, "0")}:00`;
    return [svg("text", { x: x.toFixed(1), y: 16 }, label)];
  });
  node.replaceChildren(...labels, svg("text", { x: now.toFixed(1), y: 16, class: "now" }, "now"));
}

/* [{state, kind, since, from, to}] in ms: `from` and `to` clipped to what the track shows. */
export function stretches(timeline) {
  const now = clock.now();
  return timeline
    .map(({ state, since }, i) => ({
      state,
      kind: kindOf(state),
      since: Date.parse(since),
      from: Math.max(Date.parse(since), now - PAST),
      to: Math.min(i + 1 < timeline.length ? Date.parse(timeline[i + 1].since) : now, now),
    }))
    .filter(({ from, to, kind }) => to >= from && kind in KINDS);
}

/* One path per kind, not one element per stretch: a thousand tracks stay light. */
export function drawTrack(node, instance, scale) {
  attr(node, "viewBox", scale.viewBox);
  const grid = hours(stepFor(scale)).map((at) => `M${scale.x(at).toFixed(1)} 0V${HEIGHT}`);
  const parts = [svg("path", { class: "grid", d: grid.join("") })];
  const boxes = new Map();
  for (const { kind, from, to } of stretches(instance.timeline)) {
    const left = scale.x(from);
    const right = Math.max(scale.x(to), left + SHORTEST);
    boxes.set(kind, (boxes.get(kind) ?? "") + box(left, right, KINDS[kind].top));
  }
  for (const [kind, d] of boxes) parts.push(shape(kind, d));
  const now = scale.x(clock.now());
  if (instance.next) parts.push(...nextStep(now, Date.parse(instance.next.at), scale));
  parts.push(svg("path", { class: "now", d: `M${now.toFixed(1)} 0V${HEIGHT}` }));
  node.replaceChildren(...parts);
  attr(node, "aria-label", summary(instance));
}

/* A line from now to the step, and a diamond where it happens; an arrow when that is later than
   the track goes. */
function nextStep(now, at, scale) {
  const end = Math.min(Math.max(scale.x(at), now + 6), scale.units - 4).toFixed(1);
  const later = at > clock.now() + AHEAD;
  const mark = later ? `M${end} 7l4 5-4 5z` : `M${end} 7l4 5-4 5-4-5z`;
  return [
    svg("path", { class: "way", d: `M${now.toFixed(1)} 12H${end}` }),
    svg("path", { class: "step", d: mark }),
  ];
}

function summary(instance) {
  const sums = new Map();
  for (const { state, from, to } of stretches(instance.timeline)) {
    sums.set(state, (sums.get(state) ?? 0) + to - from);
  }
  const parts = [...sums].map(([state, length]) => `${wordFor(state)} ${duration(length)}`);
  return `Last 12 hours: ${parts.join(", ") || "not seen"}`;
}
