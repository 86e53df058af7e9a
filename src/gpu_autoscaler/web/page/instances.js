/* The instances, one row each: who, in which state, its time line, what comes next, and what one
   can do about it. */

import {
  FOLD_ABOVE,
  Rows,
  arrange,
  button,
  clock,
  duration,
  el,
  euros,
  foldable,
  link,
  moment,
  name,
  setMoment,
  svg,
  text,
} from "./dom.js";
import {
  KINDS,
  Scale,
  drawAxis,
  drawTrack,
  kindOf,
  setSwatch,
  stretches,
  swatch,
  wordFor,
} from "./timeline.js";

const FEW = 60; // rows that are laid out also while they are out of sight
const CLOCK_TIME = new Intl.DateTimeFormat("en-GB", { timeStyle: "short" });

const scale = new Scale();

export function instances(handlers) {
  const section = document.getElementById("instances");
  const axis = section.querySelector(".axis .track");
  const [shown, folded] = section.querySelectorAll("ul");
  const details = section.querySelector(".folded");
  const drawn = new Map(); // by name: draws its track anew
  const rows = new Rows(({ name: key }) => instanceRow(key, handlers, drawn));
  let off = [];
  let on = [];
  const place = () => {
    section.classList.toggle("many", on.length > FEW || off.length > FEW);
    const use = (instance) => rows.use(instance.name, instance);
    arrange(shown, on.map(use));
    if (details.open) arrange(folded, off.map(use));
    rows.sweep();
    const here = new Set([...on, ...off].map((instance) => instance.name));
    for (const key of drawn.keys()) if (!here.has(key)) drawn.delete(key);
  };
  const redraw = () => {
    drawAxis(axis, scale);
    for (const draw of drawn.values()) draw();
  };
  foldable(details, place);
  legend(section.querySelector(".legend"));
  new ResizeObserver(([{ contentRect }]) => {
    if (contentRect.width && scale.measure(contentRect.width)) redraw();
  }).observe(axis);
  return {
    redraw,
    show(status) {
      if (!status) return;
      const isOff = ({ state }) => kindOf(state) === "off";
      off = status.instances.filter(isOff);
      if (off.length <= FOLD_ABOVE) off = [];
      on = off.length ? status.instances.filter((instance) => !isOff(instance)) : status.instances;
      section.querySelector(".axis").hidden = status.instances.length === 0;
      if (scale.measure(axis.getBoundingClientRect().width)) redraw();
      place();
      details.hidden = off.length === 0;
      text(details.querySelector("summary"), `${off.length} stopped instances`);
      const empty = section.querySelector(".empty");
      empty.hidden = status.instances.length > 0;
      text(empty, "The fleet has no instance. One is made when a task waits.");
    },
  };
}

function legend(node) {
  for (const kind of Object.keys(KINDS)) {
    const sign = swatch();
    setSwatch(sign, kind);
    node.append(el("span", {}, sign, KINDS[kind].word), " ");
  }
}

function instanceRow(key, handlers, drawn) {
  const [queue, place] = [name(), el("span")];
  const sign = swatch();
  const state = el("b");
  const since = moment("for");
  const anchor = el("a", {}, name());
  const taskSince = moment("for");
  const task = el("span", { class: "task" }, anchor, " ", el("small", {}, taskSince));
  const because = el("span");
  const track = svg("svg", { class: "track", role: "img" });
  const step = el("span");
  const due = moment("in");
  const next = el("span", {}, step, " ", due);
  const handsOff = el("span", { class: "hands-off" });
  const why = button("Why?", key, () => handlers.why("instance", key, key, instance));
  const deeds = new Map(
    ["keep", "release", "stop"].map((verb) => {
      const label = verb[0].toUpperCase() + verb.slice(1);
      return [verb, button(label, key, () => handlers.deed(verb, key))];
    }),
  );
  const node = el(
    "li",
    { class: "instance columns" },
    el("div", { class: "who" }, el("h3", {}, name(key)), el("p", {}, queue, place)),
    el("div", { class: "state" }, el("p", {}, sign, state, " ", since), el("p", {}, task, because)),
    track,
    el(
      "div",
      { class: "next" },
      el("p", {}, next, " ", handsOff),
      el("p", { class: "actions" }, why, ...deeds.values()),
    ),
  );
  let instance;
  const draw = () => drawTrack(track, instance, scale);
  track.addEventListener("pointermove", (event) => pointAt(event, track, instance));
  return {
    node,
    patch(now) {
      instance = now;
      const kind = kindOf(now.state);
      node.dataset.kind = kind;
      const sameName = now.queue === now.type; // most queues are called as what they launch
      text(queue, now.queue);
      const price = now.eur_per_hour === null ? "" : ` · ${euros(now.eur_per_hour)}\u00a0EUR/h`;
      text(place, `${sameName ? "" : ` · ${now.type}`} in ${now.zone}${price}`);
      setSwatch(sign, kind);
      text(state, wordFor(now.state));
      setMoment(since, now.since);
      task.hidden = !now.task;
      because.hidden = Boolean(now.task);
      text(because, now.because);
      if (now.task) {
        text(anchor.firstChild, now.task.name);
        link(anchor, now.task.url);
        setMoment(taskSince, now.task.since);
        // not twice the same: it matters when the instance went from one task to the next
        taskSince.hidden = Math.abs(Date.parse(now.task.since) - Date.parse(now.since)) < 60_000;
      }
      next.hidden = !now.next;
      if (now.next) {
        text(step, now.next.what);
        setMoment(due, now.next.at);
      }
      text(handsOff, now.hands_off);
      for (const [verb, deed] of deeds) {
        const gone = !now.actions.includes(verb);
        if (gone && deed === document.activeElement) why.focus(); // else the focus falls to the top
        deed.hidden = gone;
      }
      drawn.set(key, draw);
      draw();
    },
  };
}

/* What the mouse is over, as the drawing's title; keyboards and touch find it under "Why?". */
function pointAt(event, track, instance) {
  const area = track.getBoundingClientRect();
  const at = scale.time(((event.clientX - area.left) / area.width) * scale.units);
  const found = stretches(instance.timeline).find(({ from, to }) => from <= at && at < to);
  let title = track.querySelector("title");
  if (!title) track.prepend((title = svg("title")));
  text(title, found ? stretchText(found) : "");
}

export function stretchText({ state, since, to }) {
  const end = to >= clock.now() - 1000 ? "now" : CLOCK_TIME.format(to);
  return `${wordFor(state)} from ${CLOCK_TIME.format(since)} to ${end} (${duration(to - since)})`;
}
