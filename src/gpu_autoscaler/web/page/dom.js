/* What this page does to the document: make nodes, write only what changed, keep order and focus,
   and let times tick. Text from the API becomes text nodes and attributes, never markup. */

const SVG = "http://www.w3.org/2000/svg";

export function el(tag, attributes = {}, ...children) {
  return dress(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return dress(document.createElementNS(SVG, tag), attributes, children);
}

function dress(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") node.addEventListener("click", value);
    else attr(node, name, value);
  }
  node.append(...children); // strings become text nodes
  return node;
}

/* A name that others chose. Isolated, so that right-to-left marks in it turn nothing else around. */
export function name(value = "", attributes = {}) {
  return el("bdi", { class: "given", ...attributes }, value);
}

export function button(label, subject, onclick) {
  // the subject is for those who hear the button alone
  return el(
    "button",
    { type: "button", onclick },
    label,
    el("span", { class: "unseen" }, ` ${subject}`),
  );
}

export const FOLD_ABOVE = 8; // so many stopped instances, or quiet queues, are shown unfolded

/* Fill a <details> only while it is open: folded things cost nothing. */
export function foldable(details, fill) {
  details.addEventListener("toggle", () => details.open && fill());
  return () => details.open && fill();
}

export function text(node, value) {
  if (node.textContent !== value) node.textContent = value;
}

/* null, undefined and false take the attribute away; true sets it without a value. */
export function attr(node, key, value) {
  if (value === null || value === undefined || value === false) {
    if (node.hasAttribute(key)) node.removeAttribute(key);
    return;
  }
  const wanted = value === true ? "" : String(value);
  if (node.getAttribute(key) !== wanted) node.setAttribute(key, wanted);
}

/* Only these two schemes: a task's address could be "javascript:". */
export function link(node, url) {
  const safe = typeof url === "string" && /^https?:\/\//i.test(url);
  attr(node, "href", safe ? url : null);
  attr(node, "rel", safe ? "noopener noreferrer" : null);
  attr(node, "target", safe ? "_blank" : null);
}

/* Make `nodes` the children of `parent`, in this order, touching only what is out of place. */
export function arrange(parent, nodes) {
  const wanted = new Set(nodes);
  // what leaves goes first: then the rest is mostly in place already, and nothing is moved
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  let place = parent.firstElementChild;
  for (const node of nodes) {
    if (node === place) {
      place = place.nextElementSibling;
      continue;
    }
    // a node that is inserted anew loses the focus in it; one that is moved does not
    if (node.isConnected && parent.isConnected && parent.moveBefore) parent.moveBefore(node, place);
    else parent.insertBefore(node, place);
  }
}

/* One row per key, made once and patched when its item is another one than last time. */
export class Rows {
  #rows = new Map();
  #used = new Set();
  #make;

  /* `make(item)` returns {node, patch(item)}. */
  constructor(make) {
    this.#make = make;
  }

  use(key, item) {
    this.#used.add(key);
    let row = this.#rows.get(key);
    if (!row) {
      row = { ...this.#make(item), shown: "" };
      this.#rows.set(key, row);
    }
    const shown = JSON.stringify(item);
    if (row.shown !== shown) {
      row.patch(item);
      row.shown = shown;
    }
    return row.node;
  }

  /* Forget the rows that were not used since the last sweep. */
  sweep() {
    for (const key of this.#rows.keys()) if (!this.#used.has(key)) this.#rows.delete(key);
    this.#used.clear();
  }
}

const MONEY = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });

export const euros = (amount) => (amount === null ? "unknown" : MONEY.format(amount));

/* The daemon's clock, as far as it can be known: replies carry no present time, only the end of
   the last cycle. It is never ahead of the daemon's present, and when it is another one than at
   the last ask, it lies between the two asks. The browser's clock is believed within that. */
export const clock = {
  skew: 0,
  now() {
    return Date.now() + this.skew;
  },
  learn(cycleEndedAt, millisecondsSinceLastAsk) {
    const least = cycleEndedAt - Date.now();
    const most = least + millisecondsSinceLastAsk;
    this.skew = Math.min(Math.max(this.skew, least), most);
  },
};

export function duration(milliseconds) {
  const seconds = Math.max(0, Math.floor(milliseconds / 1000));
  const minutes = Math.floor(seconds / 60);
  const hours = Math.floor(minutes / 60);
  if (seconds < 60) return `${seconds} s`;
  if (minutes < 60) return `${minutes} min`;
  if (hours < 24) return `${hours} h ${String(minutes % 60).padStart(2, "0")} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

const FORMS = {
  for: (at) => duration(clock.now() - at),
  ago: (at) => `${duration(clock.now() - at)} ago`,
  in: (at) => (at > clock.now() ? `in ${duration(at - clock.now())}` : "now due"),
};

const ABSOLUTE = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "long" });

/* A <time> that ticks; `form` is one of FORMS. */
export function moment(form) {
  return el("time", { "data-form": form });
}

export function setMoment(node, iso) {
  if (node.dateTime === iso) return;
  node.dateTime = iso;
  node.at = Date.parse(iso);
  node.title = ABSOLUTE.format(node.at);
  text(node, FORMS[node.dataset.form](node.at));
}

const MOMENTS = document.getElementsByTagName("time"); // live: whatever is on the page

export function tick() {
  for (const node of MOMENTS) if (node.at) text(node, FORMS[node.dataset.form](node.at));
}
