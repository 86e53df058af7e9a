/* The page's own loop: ask the daemon every few seconds, show what it says, say so when it does
   not answer; and the dialogs in which people act and ask why. */

import { arrange, clock, el, moment, name, setMoment, text, tick } from "./dom.js";
import { stretchText } from "./instances.js";
import { stretches } from "./timeline.js";
import { createView } from "./view.js";

const ASK_EVERY = 5_000; // ms
const PATIENCE = 10_000; // ms until an answer counts as none
const MISSED_INTERVALS = 3; // as /healthz: an older cycle says that the loop is stuck
const SLOWEST_CYCLE = 60; // s

const byId = (id) => document.getElementById(id);

/* What people can do. `what` says beforehand what will happen. */
const DEEDS = {
  reconcile: {
    title: ["Look and decide now?"],
    yes: "Reconcile now",
    path: () => "reconcile",
    what:
      "The daemon looks at ClearML and Scaleway at once instead of at its next interval, " +
      "and does what it decides then.",
  },
  pause: {
    title: ["Pause the queue ", "?"],
    yes: "Pause it",
    path: (queue) => `queues/${queue}/pause`,
    what:
      "No instance is launched for it, and agents take no more of its tasks. Tasks that run " +
      "go on. It lasts until somebody resumes the queue.",
  },
  resume: {
    title: ["Resume the queue ", "?"],
    yes: "Resume it",
    path: (queue) => `queues/${queue}/resume`,
    what: "Agents take its tasks again, and instances are launched for those that wait.",
  },
  keep: {
    title: ["Keep the instance ", "?"],
    yes: "Keep it",
    path: (instance) => `instances/${instance}/keep`,
    what:
      "The daemon does not touch it until the keep ends by itself or somebody releases it. " +
      "It is billed while it is on.",
  },
  release: {
    title: ["Release the instance ", "?"],
    yes: "Release it",
    path: (instance) => `instances/${instance}/release`,
    what: "The daemon manages it again like any other: it may be stopped when it idles, and deleted later.",
  },
  stop: {
    title: ["Stop the instance ", "?"],
    yes: "Stop it",
    path: (instance) => `instances/${instance}/stop`,
    what:
      "It is powered off, after one more look that no task is on it. Its volume stays, so " +
      "that it can be started again.",
  },
};

let status = null; // the last state that the daemon told
let etag = null;
let answeredAt = -Infinity; // when the last ask that was answered began, in ms
let silence = null; // {since, words} while the daemon does not answer
let firstVersion = null;
let timer = 0;
let asks = 0;
let told = new Map(); // problems that were announced: key -> words

const view = createView({ deed: ask, why: explain });

/* One ask: the new state and its tag, or nothing new. Throws when there is no answer. */
async function fetchStatus() {
  const reply = await fetch("/api/v1/status", {
    headers: { Accept: "application/json", ...(etag && { "If-None-Match": etag }) },
    cache: "no-store", // the ETag is handled here
    signal: AbortSignal.timeout(PATIENCE),
  });
  if (reply.status === 304) return {};
  if (reply.status === 401)
    throw new Refusal("The daemon wants the API token as password. Reload this page to give it.");
  if (!reply.ok) throw new Refusal(`The daemon answers with an error (${reply.status}).`);
  return { fresh: await reply.json(), tag: reply.headers.get("ETag") };
}

/* An answer, but not the one that was asked for. */
class Refusal extends Error {}

async function refresh() {
  clearTimeout(timer);
  const mine = ++asks;
  const began = Date.now();
  const outcome = await fetchStatus().catch((error) => ({
    words: error instanceof Refusal ? error.message : "The daemon does not answer.",
  }));
  if (mine !== asks) return; // an action asked anew meanwhile
  if (!document.hidden) timer = setTimeout(refresh, ASK_EVERY);
  const wasSilent = silence !== null;
  if (outcome.words) {
    silence = {
      since: silence?.since ?? new Date(clock.now()).toISOString(),
      words: outcome.words,
    };
  } else {
    const { fresh, tag } = outcome;
    if (fresh) etag = tag; // with the state it belongs to, never before
    if (fresh && fresh.at !== status?.at)
      clock.learn(Date.parse(fresh.at), Date.now() - answeredAt);
    status = fresh ?? status;
    firstVersion ??= status.version;
    answeredAt = began;
    silence = null;
  }
  if (silence || wasSilent || outcome.fresh) show();
}

/* Problems that the daemon cannot tell by itself. */
function ownProblems() {
  const own = [];
  if (silence) {
    const kept = status ? " What is below is the last that it said." : "";
    own.push({
      severity: "error",
      subject: "This page",
      text: `${silence.words}${kept}`,
      since: silence.since,
    });
  } else if (isStuck()) {
    const every = `${status.poll_interval_seconds} s`;
    own.push({
      severity: "error",
      subject: "The loop",
      text: `No cycle has ended lately; one should every ${every}.`,
      since: status.at,
    });
  }
  if (status && status.version !== firstVersion) {
    own.push({
      severity: "info",
      subject: "This page",
      text: `The daemon is version ${status.version} now. Reload to get its page.`,
    });
  }
  return own;
}

function isStuck() {
  if (!status) return false;
  const interval = status.poll_interval_seconds;
  const patience = Math.max(interval * MISSED_INTERVALS, interval + SLOWEST_CYCLE);
  return clock.now() - Date.parse(status.at) > patience * 1000;
}

const looked = moment("ago");
const badges = [
  [(s) => !s.leads, el("span", { class: "badge" }, "stands by: another daemon acts")],
  [(s) => s.dry_run, el("span", { class: "badge" }, "dry run: nothing is changed")],
];

function show() {
  const own = ownProblems();
  document.documentElement.classList.toggle(
    "stale",
    own.some(({ severity }) => severity === "error"),
  );
  if (status) {
    text(byId("fleet"), status.fleet);
    text(byId("version"), status.version);
    arrange(
      byId("badges"),
      badges.filter(([shown]) => shown(status)).map(([, badge]) => badge),
    );
    setMoment(looked, status.at);
    if (!looked.isConnected) byId("looked").replaceChildren("looked ", looked);
  } else {
    text(byId("looked"), silence.words);
  }
  view.show(status, own);
  const problems = [...own, ...(status?.problems ?? [])];
  const n = problems.filter(({ severity }) => severity !== "info").length;
  document.title = `${n ? `(${n}) ` : ""}${status?.fleet ?? ""} GPU autoscaler`.trim();
  announceProblems(problems);
}

/* Once when a problem begins and once when it ends; ages and the rest of the page stay silent. */
function announceProblems(problems) {
  const now = new Map(
    problems.map((p) => [`${p.subject} ${p.text}`, `${p.severity}: ${p.subject}: ${p.text}`]),
  );
  const begun = [...now].filter(([key]) => !told.has(key)).map(([, words]) => words);
  const ended = [...told].filter(([key]) => !now.has(key)).map(([key]) => `No longer: ${key}`);
  told = now;
  if (begun.length || ended.length) announce([...begun, ...ended].join(" "));
}

function announce(words) {
  text(byId("announcer"), words);
}

/* ---- acting: ask, post, say what was done ---- */

const question = byId("confirm");
let asked = null; // {deed, subject} that the open dialog is about

function ask(verb, subject = "") {
  const deed = DEEDS[verb];
  asked = { deed, subject };
  const [before, after] = deed.title;
  byId("confirm-title").replaceChildren(before, ...(after ? [name(subject), after] : []));
  const dry = status?.dry_run ? " (This is a dry run: it will only say what it would do.)" : "";
  text(byId("confirm-what"), deed.what + dry);
  text(byId("confirm-error"), "");
  const yes = question.querySelector(".yes");
  text(yes, deed.yes);
  yes.disabled = false;
  present(question);
}

async function carryOut() {
  const mine = asked;
  const yes = question.querySelector(".yes");
  yes.disabled = true;
  const { done, error } = await post(mine.deed.path(encodeURIComponent(mine.subject)));
  const stillAsking = question.open && asked === mine;
  if (error && stillAsking) {
    text(byId("confirm-error"), error); // an alert: read out by itself
    yes.disabled = false;
    yes.focus();
    return;
  }
  if (stillAsking) question.close();
  tell(error ?? done, Boolean(error));
  refresh();
}

async function post(path) {
  try {
    const reply = await fetch(`/api/v1/${path}`, {
      method: "POST",
      headers: { "X-Requested-With": "gpu-autoscaler" }, // other sites' forms cannot send it
      signal: AbortSignal.timeout(6 * PATIENCE), // a stop looks at ClearML once more
    });
    const { done, error } = await reply.json();
    return reply.ok ? { done: done ?? "Done." } : { error: error ?? `Refused (${reply.status}).` };
  } catch {
    return { error: "The daemon did not answer; whether it was done is not known." };
  }
}

function tell(words, failed) {
  const result = byId("result");
  text(result.querySelector("p"), words);
  result.classList.toggle("refused", failed);
  result.hidden = false;
  announce(words);
}

/* ---- asking why ---- */

const answer = byId("why");
let explaining = null; // the question whose answer is awaited

async function explain(kind, key, title, instance = null) {
  const mine = (explaining = {});
  byId("why-title").replaceChildren(`Why? `, name(title));
  const sentences = answer.querySelector(".sentences");
  const starts = answer.querySelector(".starts");
  sentences.replaceChildren(el("p", {}, "Asking …"));
  starts.replaceChildren();
  showHistory(instance);
  present(answer);
  const { sentences: told, starts_at: startsAt } = await fetchExplanation(key);
  if (explaining !== mine) return; // another one was asked meanwhile
  sentences.replaceChildren(...told.map((sentence) => el("p", {}, sentence)));
  if (startsAt) {
    const at = moment("in");
    setMoment(at, startsAt);
    starts.replaceChildren(
      kind === "task" ? "Expected to start " : "Next start expected ",
      at,
      ".",
    );
  }
}

async function fetchExplanation(key) {
  try {
    const reply = await fetch(`/api/v1/explain/${encodeURIComponent(key)}`, {
      signal: AbortSignal.timeout(PATIENCE),
    });
    const body = await reply.json();
    if (reply.ok) return body;
    return { sentences: [body.error ?? `Refused (${reply.status}).`] };
  } catch {
    return { sentences: ["The daemon does not answer."] };
  }
}

function showHistory(instance) {
  const history = answer.querySelector(".history");
  history.hidden = !instance;
  const lines = instance ? stretches(instance.timeline).reverse() : [];
  arrange(
    history.querySelector("ol"),
    lines.map((stretch) => el("li", {}, stretchText(stretch))),
  );
}

/* ---- dialogs: the focus begins on what changes nothing, and goes back to where it was ---- */

let opener = null;

function present(dialog) {
  opener = document.activeElement;
  dialog.showModal();
  dialog.querySelector(".no").focus();
}

for (const dialog of [question, answer]) {
  dialog.querySelector(".no").addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => {
    explaining = null;
    // the button may be gone by now, "Keep" after a keep: its neighbour takes over
    if (opener?.checkVisibility()) opener.focus();
    else opener?.closest("li")?.querySelector(".actions button")?.focus();
  });
}
question.querySelector(".yes").addEventListener("click", carryOut);
byId("reconcile").addEventListener("click", () => ask("reconcile"));
byId("result")
  .querySelector("button")
  .addEventListener("click", () => {
    byId("result").hidden = true;
    byId("reconcile").focus();
  });

/* ---- time passes ---- */

let drawnAt = 0;
let wasStuck = false;

setInterval(() => {
  if (document.hidden) return;
  tick();
  if (status && isStuck() !== wasStuck) {
    wasStuck = !wasStuck;
    show();
  }
  // by the daemon's clock, which in the demo runs away from the browser's
  if (Math.abs(clock.now() - drawnAt) < 30_000) return;
  drawnAt = clock.now();
  if (status) view.redraw();
}, 1000);

document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(timer);
  else refresh();
});

refresh();
