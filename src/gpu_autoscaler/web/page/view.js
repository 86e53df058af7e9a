/* What is on the page: the daemon's state as nodes, patched in place by key, so that nothing
   flickers and the focus stays. Each part is made once; its patch writes what changed. */

import { Rows, arrange, attr, clock, duration, el, link, moment, name, setMoment, svg, text } from "./dom.js";
import { KINDS, Scale, drawAxis, drawTrack, kindOf, setSwatch, stretches, swatch, wordFor } from "./timeline.js";

const FOLD_ABOVE = 8; // so many stopped instances, or quiet queues, are shown unfolded
const FEW = 60; // rows that are laid out also while they are out of sight
const SEVERITIES = ["error", "warning", "info"];
const MONEY = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const CLOCK_TIME = new Intl.DateTimeFormat("en-GB", { timeStyle: "short" });

const byId = (id) => document.getElementById(id);
const euros = (amount) => (amount === null ? "unknown" : MONEY.format(amount));

const scale = new Scale();

/* `handlers`: deed(verb, name) asks and acts; why(kind, key, title) explains. */
export function createView(handlers) {
  const parts = [problems(), figures(), queues(handlers), instances(handlers), decisions()];
  return {
    /* `own`: problems that only the page knows of, such as a daemon that does not answer. */
    show(status, own) {
      for (const part of parts) part.show(status, own);
    },
    /* The same state some time later, or at another width. */
    redraw() {
      for (const part of parts) part.redraw?.();
    },
  };
}

function button(label, subject, onclick) {
  // the subject is for those who hear the button alone
  return el("button", { type: "button", onclick }, label, el("span", { class: "unseen" }, ` ${subject}`));
}

/* Fill a <details> only while it is open: folded things cost nothing. */
function foldable(details, fill) {
  details.addEventListener("toggle", () => details.open && fill());
  return () => details.open && fill();
}

function problems() {
  const section = byId("problems");
  const rows = new Rows((problem) => {
    const severity = el("strong", { class: "severity" });
    const subject = name();
    const sentence = el("span");
    const since = moment("for");
    const age = el("small", {}, "for ", since);
    return {
      node: el("li", { class: problem.severity }, severity, " ", subject, " ", sentence, " ", age),
      patch(now) {
        text(severity, now.severity);
        text(subject, now.subject);
        text(sentence, now.text);
        age.hidden = !now.since;
        if (now.since) setMoment(since, now.since);
      },
    };
  });
  return {
    show(status, own) {
      const all = [...own, ...(status?.problems ?? [])];
      all.sort((a, b) => SEVERITIES.indexOf(a.severity) - SEVERITIES.indexOf(b.severity));
      const key = ({ severity, subject, text }) => JSON.stringify([severity, subject, text]);
      arrange(section.querySelector("ul"), all.map((one) => rows.use(key(one), one)));
      rows.sweep();
      section.hidden = all.length === 0;
    },
  };
}

function figures() {
  const list = document.querySelector("#figures dl");
  const figure = (label, unit = "") => {
    const [term, value, note] = [el("dt", {}, label), el("b"), el("small")];
    list.append(el("div", {}, term, el("dd", {}, value, unit && el("span", {}, ` ${unit}`), note)));
    return { term, value, note };
  };
  const waiting = figure("Tasks waiting");
  const billed = figure("Instances billed");
  const now = figure("Now", "EUR/h");
  const spent = figure("Spent", "EUR");
  const saved = figure("Saved", "EUR");
  const oldest = moment("for");
  waiting.note.append("oldest for ", oldest);
  return {
    show(status) {
      if (!status) return;
      const tasks = status.queues.reduce((sum, queue) => sum + queue.waiting, 0);
      const since = status.queues.map((queue) => queue.oldest_since).filter(Boolean);
      text(waiting.value, String(tasks));
      waiting.note.hidden = since.length === 0;
      if (since.length) setMoment(oldest, since.reduce((a, b) => (Date.parse(a) < Date.parse(b) ? a : b)));

      const kinds = Object.keys(KINDS).map((kind) => {
        const n = status.instances.filter(({ state }) => kindOf(state) === kind).length;
        return n ? `${n} ${KINDS[kind].word}` : "";
      });
      // the queues' own count: it knows of launches that no listing shows yet
      text(billed.value, String(status.queues.reduce((sum, queue) => sum + queue.billed, 0)));
      text(billed.note, kinds.filter(Boolean).join(" · "));

      const { eur_per_hour, month, spent_eur, saved_eur } = status.money;
      const called = new Date(`${month}-15T12:00:00Z`).toLocaleDateString("en", { month: "long" });
      text(now.value, euros(eur_per_hour));
      text(spent.term, `Spent in ${called}`);
      text(spent.value, euros(spent_eur));
      text(saved.term, `Saved in ${called}`);
      text(saved.value, euros(saved_eur));

      const asleep = status.instances.every(({ state }) => kindOf(state) === "off");
      const quiet = byId("quiet");
      quiet.hidden = !(asleep && tasks === 0);
      text(quiet, `No task waits. No machine runs. ${euros(eur_per_hour)} EUR/h.`);
    },
  };
}

function queues(handlers) {
  const section = byId("queues");
  const rows = new Rows(({ name: key }) => queueRow(key, handlers));
  const [shown, folded] = section.querySelectorAll("ul");
  const details = section.querySelector(".folded");
  let quiet = [];
  let busy = [];
  const place = () => {
    const use = (queue) => rows.use(queue.name, queue);
    arrange(shown, busy.map(use));
    if (details.open) arrange(folded, quiet.map(use));
    rows.sweep();
  };
  foldable(details, place);
  return {
    show(status) {
      if (!status) return;
      const isQuiet = (queue) => !queue.waiting && !queue.billed && !queue.paused_since;
      quiet = status.queues.filter(isQuiet);
      if (quiet.length <= FOLD_ABOVE) quiet = [];
      busy = quiet.length ? status.queues.filter((queue) => !isQuiet(queue)) : status.queues;
      place();
      details.hidden = quiet.length === 0;
      text(details.querySelector("summary"), `${quiet.length} more queues: nothing waits, nothing runs`);
      const empty = section.querySelector(".empty");
      empty.hidden = status.queues.length > 0;
      text(empty, "No queue is configured.");
    },
  };
}

function queueRow(key, handlers) {
  const meter = svg("svg", { class: "meter", "aria-hidden": "true" });
  const numbers = el("span");
  const waiting = el("b");
  const oldest = moment("for");
  const age = el("small", {}, "oldest for ", oldest);
  const because = el("span");
  const reason = el("code");
  const pausedSince = moment("for");
  const paused = el("strong", { class: "paused" }, "paused for ", pausedSince);
  const summary = el("summary");
  const list = el("ol", { role: "list" });
  const details = el("details", { class: "tasks" }, summary, list);
  const pause = button("Pause", key, () => handlers.deed("pause", key));
  const resume = button("Resume", key, () => handlers.deed("resume", key));
  const tasks = new Rows((task) => taskRow(task, handlers));
  let queue;
  const fill = foldable(details, () => {
    const nodes = queue.tasks.map((task) => tasks.use(task.id, task));
    tasks.sweep();
    const more = queue.waiting - queue.tasks.length;
    if (more > 0) nodes.push(el("li", {}, `and ${more} more`));
    arrange(list, nodes);
  });
  const node = el(
    "li",
    { class: "queue" },
    el("h3", {}, name(key)),
    el("p", { class: "waiting" }, waiting, " ", age),
    el("p", { class: "running" }, meter, numbers),
    el("p", { class: "because" }, paused, " ", because, " ", reason),
    details,
    el("p", { class: "actions" }, button("Why?", key, () => handlers.why("queue", key, key)), pause, resume),
  );
  return {
    node,
    patch(now) {
      queue = now;
      text(waiting, now.waiting ? `${now.waiting} waiting` : "none waits");
      attr(node, "data-waits", now.waiting > 0);
      age.hidden = !now.oldest_since;
      if (now.oldest_since) setMoment(oldest, now.oldest_since);
      text(numbers, `${now.billed} of ${now.max_instances} billed · ${now.busy} busy · ${now.capacity} ready or booting`);
      drawMeter(meter, now);
      text(because, now.because);
      text(reason, now.reason);
      paused.hidden = !now.paused_since;
      if (now.paused_since) setMoment(pausedSince, now.paused_since);
      pause.hidden = Boolean(now.paused_since);
      resume.hidden = !now.paused_since;
      details.hidden = now.tasks.length === 0;
      const [first] = now.tasks;
      const others = now.waiting - 1;
      if (first) summary.replaceChildren("Next: ", name(first.name), others > 0 ? `, and ${others} more` : "");
      fill();
    },
  };
}

function taskRow(task, handlers) {
  const anchor = el("a", {}, name(task.name));
  const since = moment("for");
  return {
    node: el(
      "li",
      {},
      anchor,
      el("small", {}, " waits for ", since, " "),
      button("Why?", task.name, () => handlers.why("task", task.id, task.name)),
    ),
    patch(now) {
      text(anchor.firstChild, now.name);
      link(anchor, now.url);
      setMoment(since, now.since);
    },
  };
}

const SLOT = 20;

/* One slot per instance that may be billed, in the shapes of the time line. */
function drawMeter(node, { busy, capacity, billed, max_instances }) {
  const slots = Math.max(max_instances, billed, 1);
  const others = Math.max(billed - busy - capacity, 0);
  attr(node, "viewBox", `0 0 ${slots * SLOT} 24`);
  attr(node, "preserveAspectRatio", slots > 12 ? "none" : "xMinYMid meet");
  const at = (from, n, top) => `M${from * SLOT + 1} ${top}h${n * SLOT - 4}V22h${4 - n * SLOT}z`;
  const each = (from, n, top) => Array.from({ length: n }, (_, i) => at(from + i, 1, top)).join("");
  const draw = slots > 12 ? at : each; // many slots: bars instead
  const paths = [svg("path", { class: "slot", d: draw(0, slots, 2) })];
  if (busy) paths.push(svg("path", { class: "kind busy", d: draw(0, busy, 2) }));
  if (capacity) paths.push(svg("path", { class: "kind idle", d: draw(busy, capacity, 12) }));
  if (others) paths.push(svg("path", { class: "kind others", d: draw(busy + capacity, others, 2) }));
  node.replaceChildren(...paths);
}

function instances(handlers) {
  const section = byId("instances");
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
    el("div", { class: "next" }, el("p", {}, next, " ", handsOff), el("p", { class: "actions" }, why, ...deeds.values())),
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

export function stretchText({ state, from, to }) {
  const begin = CLOCK_TIME.format(from);
  const end = to >= clock.now() - 1000 ? "now" : CLOCK_TIME.format(to);
  return `${wordFor(state)} ${begin} to ${end} (${duration(to - from)})`;
}

function decisions() {
  const section = byId("decisions");
  const rows = new Rows(() => {
    const [at, subject, verb, because, reason] = [moment("ago"), name(), el("b"), el("span"), el("code")];
    return {
      node: el("li", {}, el("p", {}, verb, " ", subject, " ", el("small", {}, at)), el("p", {}, because, " ", reason)),
      patch(now) {
        setMoment(at, now.at);
        text(subject, now.subject);
        text(verb, now.verb);
        text(because, now.because);
        text(reason, now.reason);
      },
    };
  });
  return {
    show(status) {
      if (!status) return;
      const seen = new Map(); // two alike are told apart by their number
      const key = (decision) => {
        const same = JSON.stringify(decision);
        seen.set(same, (seen.get(same) ?? 0) + 1);
        return `${same}${seen.get(same)}`;
      };
      arrange(section.querySelector("ol"), status.decisions.map((one) => rows.use(key(one), one)));
      rows.sweep();
      const empty = section.querySelector(".empty");
      empty.hidden = status.decisions.length > 0;
      text(empty, "Nothing was decided yet that changed something.");
    },
  };
}
