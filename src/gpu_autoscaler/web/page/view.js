/* What is on the page: the daemon's state as nodes, patched in place by key, so that nothing
   flickers and the focus stays. Each part is made once; its patch writes what changed.
   The instances have a file of their own. */

import {
  FOLD_ABOVE,
  Rows,
  arrange,
  attr,
  button,
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
import { instances } from "./instances.js";
import { KINDS, kindOf } from "./timeline.js";

const SEVERITIES = ["error", "warning", "info"];

const byId = (id) => document.getElementById(id);

/* `handlers`: deed(verb, name) asks and acts; why(kind, key, title) explains. */
export function createView(handlers) {
  const parts = [problems(), figures(), queues(handlers), instances(handlers), decisions()];
  return {
    /* `own`: problems that only the page knows of, such as a daemon that does not answer. */
    show(status, own) {
      const focused = document.activeElement;
      const broken = parts.flatMap((part) => failure(() => part.show(status, own)));
      // a daemon of another version, or a mistake here: the rest is shown, and it is not hidden
      if (broken.length) parts[0].show(status, [...own, UNREADABLE]);
      // a row that changed its list was taken out for a moment, and lost it
      if (focused.isConnected && focused !== document.activeElement)
        focused.focus({ preventScroll: true });
    },
    /* The same state some time later, or at another width. */
    redraw() {
      for (const part of parts) part.redraw?.();
    },
  };
}

const UNREADABLE = {
  severity: "error",
  subject: "This page",
  text: "It cannot show everything that the daemon said. Reload it.",
};

function failure(work) {
  try {
    work();
    return [];
  } catch (error) {
    console.error(error);
    return [error];
  }
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
      arrange(
        section.querySelector("ul"),
        all.map((one) => rows.use(key(one), one)),
      );
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
  const budgetRows = new Rows(budgetRow);
  waiting.note.append("oldest for ", oldest);
  return {
    show(status) {
      if (!status) return;
      const tasks = status.queues.reduce((sum, queue) => sum + queue.waiting, 0);
      const since = status.queues.map((queue) => queue.oldest_since).filter(Boolean);
      text(waiting.value, String(tasks));
      waiting.note.hidden = since.length === 0;
      if (since.length)
        setMoment(
          oldest,
          since.reduce((a, b) => (Date.parse(a) < Date.parse(b) ? a : b)),
        );

      const kinds = Object.keys(KINDS).map((kind) => {
        const n = status.instances.filter(({ state }) => kindOf(state) === kind).length;
        return n ? `${n} ${KINDS[kind].word}`.replaceAll(" ", "\u00a0") : ""; // breaks between them
      });
      // the queues' own count: it knows of launches that no listing shows yet
      text(billed.value, String(status.queues.reduce((sum, queue) => sum + queue.billed, 0)));
      text(billed.note, kinds.filter(Boolean).join(" · "));

      const { eur_per_hour, month, spent_eur, saved_eur, prices_read_at } = status.money;
      const called = new Date(`${month}-15T12:00:00Z`).toLocaleDateString("en", { month: "long" });
      text(now.value, euros(eur_per_hour));
      now.value.title = prices_read_at ? `by Scaleway's prices of ${prices_read_at}` : "";
      text(spent.term, `Spent in ${called}`);
      text(spent.value, euros(spent_eur));
      text(saved.term, `Saved in ${called}`);
      text(saved.value, euros(saved_eur));

      const { budgets = [] } = status; // a daemon of an older version has none
      arrange(
        byId("budgets"),
        budgets.map((budget) => budgetRows.use(`${budget.queue} ${budget.per}`, budget)),
      );
      budgetRows.sweep();
      byId("budgets").hidden = budgets.length === 0;

      const asleep = status.instances.every(({ state }) => kindOf(state) === "off");
      const quiet = byId("quiet");
      quiet.hidden = !(asleep && tasks === 0);
      text(quiet, `No task waits. No machine runs. ${euros(eur_per_hour)} EUR/h.`);
    },
  };
}

function budgetRow() {
  const bar = svg("rect", { height: 1 });
  const box = { class: "share", viewBox: "0 0 100 1", preserveAspectRatio: "none" };
  const called = name();
  const said = el("span");
  const held = el("strong");
  const until = moment("in");
  const rest = el("small", {}, " next one ", until);
  return {
    node: el("li", {}, svg("svg", { ...box, "aria-hidden": "true" }, bar), called, said, held, rest),
    patch({ name: budget, eur, spent_eur, projected_eur, until: end, holds }) {
      attr(bar, "width", Math.min(100, (100 * spent_eur) / eur));
      attr(bar, "class", spent_eur >= eur ? "full" : null);
      text(called, `Budget of ${budget}`);
      text(said, `: ${euros(spent_eur)} spent, ${euros(projected_eur)} by its end if all goes on`);
      text(held, holds ? "; used up: nothing is launched, what runs finishes" : "");
      setMoment(until, end);
    },
  };
}

function queues(handlers) {
  const section = byId("queues");
  const rows = new Rows(({ name: key }) => queueRow(key, handlers));
  const [shown, folded] = section.querySelectorAll("ul");
  const details = section.querySelector(".folded");
  let quiet = [];
  let open = [];
  const place = () => {
    const use = (queue) => rows.use(queue.name, queue);
    arrange(shown, open.map(use));
    if (details.open) arrange(folded, quiet.map(use));
    rows.sweep();
  };
  foldable(details, place);
  return {
    show(status) {
      if (!status) return;
      const isQuiet = (queue) => !queue.waiting && !queue.paused_since;
      quiet = status.queues.filter(isQuiet);
      if (quiet.length <= FOLD_ABOVE) quiet = [];
      open = quiet.length ? status.queues.filter((queue) => !isQuiet(queue)) : status.queues;
      place();
      details.hidden = quiet.length === 0;
      text(details.querySelector("summary"), `${quiet.length} more queues, where no task waits`);
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
    el(
      "p",
      { class: "actions" },
      button("Why?", key, () => handlers.why("queue", key, key)),
      pause,
      resume,
    ),
  );
  return {
    node,
    patch(now) {
      queue = now;
      text(waiting, now.waiting ? `${now.waiting} waiting` : "none waits");
      attr(node, "data-waits", now.waiting > 0);
      age.hidden = !now.oldest_since;
      if (now.oldest_since) setMoment(oldest, now.oldest_since);
      text(
        numbers,
        `${now.billed} of ${now.max_instances} billed · ${now.busy} busy · ${now.capacity} ready or booting`,
      );
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
      if (first)
        summary.replaceChildren(
          "Next: ",
          name(first.name),
          others > 0 ? `, and ${others} more` : "",
        );
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
  if (others)
    paths.push(svg("path", { class: "kind others", d: draw(busy + capacity, others, 2) }));
  node.replaceChildren(...paths);
}

function decisions() {
  const section = byId("decisions");
  const rows = new Rows(() => {
    const [at, subject, verb, because, reason] = [
      moment("ago"),
      name(),
      el("b"),
      el("span"),
      el("code"),
    ];
    return {
      node: el(
        "li",
        {},
        el("p", {}, verb, " ", subject, " ", el("small", {}, at)),
        el("p", {}, because, " ", reason),
      ),
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
      arrange(
        section.querySelector("ol"),
        status.decisions.map((one) => rows.use(key(one), one)),
      );
      rows.sweep();
      const empty = section.querySelector(".empty");
      empty.hidden = status.decisions.length > 0;
      text(empty, "Nothing was decided yet that changed something.");
    },
  };
}
