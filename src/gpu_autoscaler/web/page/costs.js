/* What a period has cost: drawn to be looked at, with a table for each drawing. */

import { el, euros, name, svg, text } from "./dom.js";

const USES = ["busy", "boot", "idle", "stopped"];
const ON = ["busy", "boot", "idle"];
const WORDS = { busy: "busy", boot: "booting", idle: "idle", stopped: "stopped, disk only" };
const BARS = 8; // users, projects, queues: the others are one bar
const TASKS = 30;
const DAY = 86_400_000; // ms
const NUMBER = new Intl.NumberFormat("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const DATE = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
const WEEKDAY = new Intl.DateTimeFormat("en-GB", { weekday: "short", timeZone: "UTC" });

const byId = (id) => document.getElementById(id);
const since = new URLSearchParams(location.search).get("since") ?? "7d";
const percent = (share) => `${Math.round(share * 100)}%`;
const hours = (of, uses = USES) => uses.reduce((sum, use) => sum + of.hours[use], 0);

async function ask(path) {
  let reply;
  try {
    reply = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(90_000) });
  } catch {
    throw new Error("The daemon does not answer.");
  }
  const body = await reply.json().catch(() => ({}));
  if (!reply.ok) throw new Error(body.error ?? `The daemon answers with an error (${reply.status}).`);
  return body;
}

const costs = (by) => ask(`/api/v1/costs?since=${encodeURIComponent(since)}&by=${by}`);

/* A figure of the headline. */
function figure(label, value, unit, note = "") {
  const said = el("dd", {}, el("b", {}, value), el("span", {}, unit), el("small", {}, note));
  return el("div", {}, el("dt", {}, label), said);
}

function headline(report) {
  const { total, always_on: on } = report;
  text(byId("fleet"), report.fleet);
  document.title = `${report.fleet} costs · GPU autoscaler`;
  const last = DATE.format(Date.parse(report.until) - 1);
  const soFar = Date.parse(report.until) > Date.now() ? ", so far" : "";
  text(byId("period"), `${DATE.format(Date.parse(report.since))} to ${last}${soFar} (UTC)`);
  const ran = total.tasks === 1 ? "1 task" : `${total.tasks} tasks`;
  const figures = [
    figure("Spent", euros(total.eur), " EUR", `${NUMBER.format(hours(total, ON))} h on, ${ran}`),
    figure("Overhead", percent(report.overhead_share), "", "booting, idle and stopped"),
  ];
  if (on) {
    const machines = Object.entries(on.machines).map(([type, n]) => `${n} x ${type}`);
    const less = on.saved_eur < 0 ? ["Dearer than always on", -on.saved_eur] : ["Saved", on.saved_eur];
    const share = on.saved_eur < 0 ? "" : `${percent(on.saved_share)} of `;
    const note = `${share}${euros(on.eur)} always on: ${machines.join(", ")}`;
    figures.push(figure(less[0], euros(less[1]), " EUR", note));
  }
  const floor = `above the ${NUMBER.format(total.hours.busy)} h of work`;
  figures.push(figure("On without work", NUMBER.format(report.hours_above_floor), " h", floor));
  byId("headline").querySelector("dl").replaceChildren(...figures);
}

/* Every day of the period up to today, also those that cost nothing. */
function everyDay(report) {
  const rows = new Map(report.rows.map((row) => [row.key, row]));
  const nothing = Object.fromEntries(USES.map((use) => [use, 0]));
  const end = Math.min(Date.parse(report.until), Math.max(Date.now(), Date.parse(report.since) + 1));
  const days = [];
  const first = Math.floor(Date.parse(report.since) / DAY) * DAY;
  for (let at = first; at < end; at += DAY) {
    const key = new Date(at).toISOString().slice(0, 10);
    days.push({ at, ...(rows.get(key) ?? { key, eur: 0, eur_by_use: nothing, hours: nothing }) });
  }
  return days;
}

/* A round number, so that about four of them are the highest bar. */
function stepTo(most) {
  const power = 10 ** Math.floor(Math.log10(most / 4));
  return [1, 2, 5, 10].map((n) => n * power).find((step) => most / step <= 5);
}

/* Stacked bars; drawn for the width that there is, so that text keeps its size. */
function drawDays(report, budget) {
  const chart = byId("days").querySelector(".chart");
  if (!chart.clientWidth) return; // not laid out
  const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
  const [width, height] = [chart.clientWidth, rem * (innerWidth < 640 ? 12 : 16)];
  const days = everyDay(report);
  const most = Math.max(...days.map((day) => day.eur), budget?.eur ?? 0, 0.01);
  const step = stepTo(most);
  const widest = `${Math.ceil(most / step) * step}`.length;
  const [left, top, bottom] = [rem * (0.75 + 0.5 * widest), rem * 1.25, height - rem * 2.25];
  const y = (eur) => bottom - ((bottom - top) * eur) / (Math.ceil(most / step) * step);
  const slot = (width - left) / days.length;
  const bar = Math.min(slot * 0.72, rem * 4);
  const nodes = [];
  for (let n = 0; n <= Math.ceil(most / step); n++) {
    const at = Math.round(y(n * step)) + 0.5;
    nodes.push(svg("path", { class: "grid", d: `M${left} ${at}H${width}` }));
    const label = { x: left - rem * 0.4, y: at + rem * 0.25, "text-anchor": "end" };
    nodes.push(svg("text", label, String(Number((n * step).toPrecision(6)))));
  }
  const every = Math.ceil((rem * 3.25) / slot); // so that dates have room
  days.forEach((day, n) => {
    const x = left + slot * n + (slot - bar) / 2;
    let below = 0;
    const parts = USES.filter((use) => day.eur_by_use[use] > 0).map((use) => {
      const [from, to] = [y(below), y((below += day.eur_by_use[use]))];
      const place = { x, y: to, width: bar, height: Math.max(from - to - 0.75, 0.5) };
      return svg("rect", { class: `fill-${use}`, ...place });
    });
    const said = USES.map((use) => `${WORDS[use]} ${euros(day.eur_by_use[use])}`).join(", ");
    nodes.push(svg("g", {}, svg("title", {}, `${day.key}: ${euros(day.eur)} EUR (${said})`), ...parts));
    const middle = { x: x + bar / 2, "text-anchor": "middle" };
    if (day.eur > 0 && slot > rem * 2.25)
      nodes.push(svg("text", { class: "sum", ...middle, y: y(day.eur) - rem * 0.3 }, String(Math.round(day.eur))));
    if (n % every) return;
    nodes.push(svg("text", { ...middle, y: bottom + rem }, DATE.format(day.at)));
    nodes.push(svg("text", { ...middle, y: bottom + rem * 2 }, WEEKDAY.format(day.at)));
  });
  if (budget) {
    const at = y(budget.eur);
    nodes.push(svg("path", { class: "budget", d: `M${left} ${at}H${width}` }));
    const label = { class: "budget-name", x: width, y: at - rem * 0.35, "text-anchor": "end" };
    nodes.push(svg("text", label, `budget ${euros(budget.eur)} a day`));
  }
  const peak = days.reduce((a, b) => (b.eur > a.eur ? b : a));
  const told =
    `Euros a day from ${days[0].key} to ${days.at(-1).key}; ` +
    `most on ${peak.key}: ${euros(peak.eur)}. The table below has the figures.`;
  const box = { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": told };
  chart.replaceChildren(svg("svg", box, ...nodes));
}

function table(into, columns, rows, total) {
  const cells = (tag, values) =>
    values.map((value, n) => el(tag, { class: columns[n][1] || null }, value ?? ""));
  into.replaceChildren(
    el("thead", {}, el("tr", {}, ...cells("th", columns.map(([label]) => label)))),
    el("tbody", {}, ...rows.map((row) => el("tr", {}, ...cells("td", row)))),
    el("tfoot", {}, el("tr", {}, ...cells("td", total))),
  );
}

function tableOfDays(report) {
  const number = (of) => [euros(of.eur), ...USES.map((use) => euros(of.eur_by_use[use]))];
  table(
    byId("days").querySelector("table"),
    [["Day", ""], ...["EUR", ...USES.map((use) => WORDS[use])].map((label) => [label, "number"])],
    everyDay(report).map((day) => [day.key, ...number(day)]),
    ["Total", ...number(report.total)],
  );
}

/* Horizontal bars of what users, projects or queues cost; overhead where it is apart. */
function shares(label, report) {
  const rows = report.rows.slice(0, BARS).map(({ name: called, eur }) => ({ called, eur }));
  const others = report.rows.slice(BARS);
  const rest = others.reduce((sum, row) => sum + row.eur, 0);
  if (others.length) rows.push({ called: `${others.length} others`, eur: rest, apart: true });
  const overhead = report.overhead.reduce((sum, row) => sum + row.eur, 0);
  if (overhead) rows.push({ called: "overhead", eur: overhead, apart: true });
  const most = Math.max(...rows.map((row) => row.eur), 0.01);
  const items = rows.map(({ called, eur, apart }) => {
    const share = report.total.eur ? ` (${percent(eur / report.total.eur)})` : "";
    const fill = apart ? "fill-stopped" : "fill-busy";
    return el(
      "li",
      { class: apart ? "apart" : null },
      apart ? el("span", {}, called) : name(called),
      el("span", { class: "eur" }, euros(eur), el("small", {}, share)),
      svg(
        "svg",
        { viewBox: "0 0 100 1", preserveAspectRatio: "none", "aria-hidden": "true" },
        svg("rect", { class: fill, width: Math.max((100 * eur) / most, 0.3), height: 1 }),
      ),
    );
  });
  const heading = el("h2", {}, `By ${label} `, el("small", {}, "EUR"));
  return el("section", { class: "panel" }, heading, el("ul", { class: "bars", role: "list" }, ...items));
}

function tasks(report) {
  const figures = (of) => [NUMBER.format(hours(of)), euros(of.eur)];
  const shown = report.rows
    .slice(0, TASKS)
    .map((row) => [name(row.name), row.project || "-", row.user || "-", ...figures(row)]);
  const hidden = report.rows.slice(TASKS);
  if (hidden.length) {
    const sum = (of) => hidden.reduce((all, row) => all + of(row), 0);
    const label = `${hidden.length} more, as gpu-autoscaler cost --by task tells`;
    shown.push([label, "", "", NUMBER.format(sum(hours)), euros(sum((row) => row.eur))]);
  }
  for (const row of report.overhead)
    shown.push([`Overhead: ${WORDS[row.key]}`, "", "", ...figures(row)]);
  table(
    byId("tasks").querySelector("table"),
    [["Task", ""], ["Project", "wide"], ["User", ""], ["Hours", "number wide"], ["EUR", "number"]],
    shown,
    ["Total", "", "", ...figures(report.total)],
  );
}

function legend() {
  const keys = USES.map((use) =>
    el(
      "span",
      {},
      svg("svg", { viewBox: "0 0 1 1" }, svg("rect", { class: `fill-${use}`, width: 1, height: 1 })),
      WORDS[use],
    ),
  );
  byId("days").querySelector(".legend").replaceChildren(...keys);
}

async function show() {
  for (const each of document.querySelectorAll("nav a"))
    if (new URL(each.href).searchParams.get("since") === since) each.setAttribute("aria-current", "page");
  const days = await costs("day");
  headline(days);
  // the budget of the whole fleet alone can be a line over bars of the whole fleet
  const status = await ask("/api/v1/status").catch(() => ({}));
  const budget = status.budgets?.find(({ queue, per }) => queue === "" && per === "day");
  byId("days").hidden = false;
  legend();
  tableOfDays(days);
  new ResizeObserver(() => drawDays(days, budget)).observe(byId("days").querySelector(".chart"));
  const of = { user: await costs("user"), project: await costs("project"), queue: await costs("queue") };
  byId("shares").hidden = false;
  byId("shares").replaceChildren(...Object.entries(of).map(([label, report]) => shares(label, report)));
  tasks(await costs("task"));
  byId("tasks").hidden = false;
  byId("notes").hidden = days.warnings.length === 0;
  byId("notes").querySelector("ul").replaceChildren(...days.warnings.map((each) => el("li", {}, each)));
}

show().catch((error) => {
  const trouble = byId("trouble");
  text(trouble, error.message);
  trouble.hidden = false;
  if (byId("fleet").textContent === "…") text(byId("period"), "");
});
