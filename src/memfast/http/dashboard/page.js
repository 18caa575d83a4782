// The page of a memfast service: it asks the API that everybody asks, and shows the answers as text.

const EVERY_MS = 2000; // between looks at the numbers
const KEPT = 150; // points of a chart
const ASK_MS = 10000; // the longest wait for an answer
const PAGE = 20; // memories a page

const at = (id) => document.getElementById(id);
const views = ["now", "search", "memories"];
const history = { rate: [], p95: [] };
let cursor = null;
let listedUser = "";
let timer = 0;

class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** Ask the service; gives the parsed body and the headers, or throws Refused with what the problem says. */
async function ask(method, path, body, headers = {}) {
  const key = sessionStorage.getItem("key");
  if (key) headers.authorization = `Bearer ${key}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, {
      method, headers, body: body === undefined ? undefined : JSON.stringify(body), signal: AbortSignal.timeout(ASK_MS),
    });
  } catch {
    throw new Refused(0, "The service does not answer.");
  }
  const text = await answer.text();
  const value = text && (answer.headers.get("content-type") || "").includes("json") ? JSON.parse(text) : null;
  if (answer.status === 401) at("door").hidden = false;
  if (!answer.ok && !(answer.status === 503 && value && value.mode)) {
    throw new Refused(answer.status, (value && (value.detail || value.title)) || `The service answered ${answer.status}.`);
  }
  return { value, headers: answer.headers };
}

/** An element with properties, and children that are elements or text. */
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function fail(error, where = at("trouble")) {
  where.textContent = error.message;
  where.hidden = !error.message;
}

const number = (value, places = 1) => value.toLocaleString("en", { maximumFractionDigits: places });
const percent = (share) => `${number(share * 100)} %`;
const mebibytes = (bytes) => `${number(bytes / 1048576)} MiB`;

// --- now

function card(name, value, state = "") {
  return make("div", { className: "card" }, make("dl", {}, make("dt", {}, name), make("dd", { className: state }, value)));
}

function row(head, ...cells) {
  return make("tr", {}, make("th", { scope: "row" }, head), ...cells.map((cell) => make("td", {}, cell)));
}

function share(value) {
  const bar = make("span", { className: "bar" });
  bar.style.width = `${Math.round(value * 100)}px`;
  return make("span", {}, bar, percent(value));
}

function draw(chart, points, unit) {
  const svg = "http://www.w3.org/2000/svg";
  const top = Math.max(...points, 1e-9);
  const line = document.createElementNS(svg, "polyline");
  const step = 300 / Math.max(points.length - 1, 1);
  line.setAttribute("points", points.map((value, place) => `${place * step},${76 - (value / top) * 60}`).join(" "));
  const label = document.createElementNS(svg, "text");
  label.setAttribute("x", 4);
  label.setAttribute("y", 11);
  label.textContent = `up to ${number(top, 2)} ${unit}`;
  chart.replaceChildren(line, label);
  chart.setAttribute("aria-label", `now ${number(points.at(-1), 2)} ${unit}, at most ${number(top, 2)} ${unit}`);
}

function keep(points, value) {
  points.push(value);
  if (points.length > KEPT) points.shift();
}

function showHealth(health) {
  const good = health.status === "ready" && health.mode === "full";
  at("standing").textContent = `${health.status}, mode ${health.mode}` + (health.mode_reason ? `: ${health.mode_reason}` : "");
  at("standing").className = good ? "good" : "bad";
  at("breakers").replaceChildren(...health.breakers.map(
    (each) => row(each.name, make("span", { className: each.state === "closed" ? "good" : "bad" }, each.state),
                  number(each.opened), number(each.refused))));
}

function showStats(stats, background) {
  const minute = stats.windows[0];
  const five = stats.windows[1];
  const search = minute.operations.find((each) => each.route === "/v1/search");
  at("cards").replaceChildren(
    card("requests a second", number(minute.per_second)),
    card("failed", percent(minute.error_rate), minute.error_rate > 0.01 ? "bad" : ""),
    card("slow operations", number(minute.slow), minute.slow ? "bad" : ""),
    card("workers", number(stats.process.workers)),
    card("processors", number(minute.cpu_cores, 2)),
    card("memory", mebibytes(stats.process.resident_bytes)),
    card("warm users", number(stats.process.warm_users)),
    card("warm index", mebibytes(stats.process.warm_bytes)),
    card("caches", mebibytes(stats.process.cache_bytes)),
    card("connections", `${stats.pool.used} of ${stats.pool.limit}`, stats.pool.waiting ? "bad" : ""),
    card("waiting for one", number(stats.pool.waiting), stats.pool.waiting ? "bad" : ""),
    card("background queue", number(background.background.queued)),
  );
  at("operations").replaceChildren(...minute.operations.map((each) => row(
    `${each.method} ${each.route}`, number(each.per_second, 2), ...[each.mean_ms, each.p50_ms, each.p95_ms, each.p99_ms].map((ms) => number(ms, 2)),
    number(each.refused), number(each.failed),
    Object.entries(each.tiers).map(([tier, count]) => `${tier} ${count}`).join(", "))));
  at("layers").replaceChildren(...Object.entries(five.hit_rates).map(([layer, rate]) => row(layer, share(rate))));
  keep(history.rate, minute.per_second);
  keep(history.p95, search ? search.p95_ms : 0);
  draw(at("chart-rate"), history.rate, "a second");
  draw(at("chart-p95"), history.p95, "ms");
}

async function look() {
  try {
    showHealth((await ask("GET", "/v1/health")).value);
    if (current() === "now") {
      const [stats, background] = await Promise.all([ask("GET", "/v1/stats"), ask("GET", "/v1/background")]);
      showStats(stats.value, background.value);
      at("without-admin").hidden = true;
    }
    fail({ message: "" });
  } catch (error) {
    if (error.status === 403) at("without-admin").hidden = false;
    else if (error.status !== 401) fail(error);
  } finally {
    timer = setTimeout(look, EVERY_MS);
  }
}

// --- search

/** Where a score comes from, as rows of words. */
function why(scores) {
  const parts = Object.entries(scores).flatMap(([name, value]) => {
    if (typeof value === "number") return value ? [`${name} ${number(value, 4)}`] : [];
    return [`${name}: ` + Object.entries(value).map(([key, part]) => `${key} ${typeof part === "number" ? number(part, 4) : part}`).join(", ")];
  });
  return make("details", {}, make("summary", {}, "Why it scored so"), make("ul", {}, ...parts.map((part) => make("li", {}, part))));
}

function about(memory) {
  const facts = [memory.kind, memory.created_at, `importance ${memory.importance}`, ...memory.tags.map((tag) => `#${tag}`)];
  return make("p", { className: "about" }, facts.join(" · "));
}

function stages(header) {
  const named = (header || "").split(",").map((part) => part.trim().split(";dur=")).filter((part) => part.length === 2);
  const total = Math.max(...named.map(([, ms]) => Number(ms)), 1e-9);
  const table = make("table", {}, make("caption", {}, "Time in the service, in milliseconds"),
    make("tbody", {}, ...named.map(([name, ms]) => {
      const bar = make("span", { className: "bar" });
      bar.style.width = `${Math.round((Number(ms) / total) * 150)}px`;
      return row(name, make("span", {}, bar, ms));
    })));
  at("stages").replaceChildren(table);
}

async function search(event) {
  event.preventDefault();
  const form = new FormData(event.target);
  const question = { ...Object.fromEntries(form), limit: Number(form.get("limit")), explain: true };
  try {
    const { value, headers } = await ask("POST", "/v1/search", question);
    const lacking = value.degraded.length ? `, without ${value.degraded.join(", ")}` : "";
    at("answered").textContent = `${value.results.length} hits, answered ${headers.get("memfast-tier")}, version ${value.version}${lacking}`;
    stages(headers.get("server-timing"));
    at("hits").replaceChildren(...value.results.map((hit) => make("li", {},
      make("p", {}, hit.text), about(hit), make("p", { className: "about" }, `score ${hit.score}`), hit.scores ? why(hit.scores) : "",
      actions(hit, question.user_id))));
    fail({ message: "" });
  } catch (error) {
    fail(error);
  }
}

// --- memories

const place = (id, user) => `/v1/memories/${id}?user_id=${encodeURIComponent(user)}`;

function actions(memory, user) {
  const named = memory.text.slice(0, 40);
  const line = make("p", { className: "actions" });
  line.append(
    make("button", { type: "button", ariaLabel: `Edit: ${named}`, onclick: () => edit(memory, user, line.closest("li")) }, "Edit"),
    make("button", { type: "button", ariaLabel: `Delete: ${named}`, onclick: () => remove(memory, user, line.closest("li")) }, "Delete"),
  );
  return line;
}

function entry(memory, user) {
  return make("li", {}, make("p", {}, memory.text), about(memory), actions(memory, user));
}

async function list(user, more) {
  try {
    const following = more && cursor ? `&cursor=${encodeURIComponent(cursor)}` : "";
    const { value } = await ask("GET", `/v1/memories?user_id=${encodeURIComponent(user)}&limit=${PAGE}${following}`);
    if (!more) at("list").replaceChildren();
    at("list").append(...value.memories.map((memory) => entry(memory, user)));
    cursor = value.next_cursor;
    listedUser = user;
    at("more").hidden = !value.has_more;
    at("listed").textContent = `${at("list").children.length} memories shown` + (value.has_more ? ", there are more" : "");
    fail({ message: "" });
  } catch (error) {
    fail(error);
  }
}

async function remove(memory, user, item) {
  if (!confirm(`Delete this memory?\n\n${memory.text.slice(0, 200)}`)) return;
  try {
    await ask("DELETE", place(memory.id, user), undefined, { "if-match": `"${memory.version}"` });
    item.remove();
    at("listed").textContent = "deleted";
  } catch (error) {
    fail(error);
  }
}

function edit(memory, user, item) {
  const form = at("edit");
  form.text.value = memory.text;
  form.kind.value = memory.kind;
  form.tags.value = memory.tags.join(", ");
  form.importance.value = memory.importance;
  fail({ message: "" }, at("edit-trouble"));
  form.onsubmit = async (event) => {
    event.preventDefault();
    const changes = {
      text: form.text.value, kind: form.kind.value, importance: Number(form.importance.value),
      tags: form.tags.value.split(",").map((tag) => tag.trim()).filter(Boolean),
    };
    try {
      const { value } = await ask("PATCH", place(memory.id, user), changes, { "if-match": `"${memory.version}"` });
      item.replaceWith(entry(value, user));
      at("editor").close();
      at("listed").textContent = "saved";
    } catch (error) {
      fail(error, at("edit-trouble"));
    }
  };
  at("editor").showModal();
}

// --- the page

const current = () => (views.includes(location.hash.slice(1)) ? location.hash.slice(1) : "now");

function show() {
  for (const view of views) at(`view-${view}`).hidden = view !== current();
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${current()}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  clearTimeout(timer);
  look();
}

at("door").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", at("key").value);
  at("key").value = "";
  at("door").hidden = true;
  show();
});
at("ask").addEventListener("submit", search);
at("whose").addEventListener("submit", (event) => {
  event.preventDefault();
  list(new FormData(event.target).get("user_id"), false);
});
at("more").addEventListener("click", () => list(listedUser, true));
at("cancel").addEventListener("click", () => at("editor").close());
addEventListener("hashchange", show);
show();
