// The page of a memfast service: it asks the API that everybody asks, and shows the answers as text.

const EVERY_MS = 2000; // between looks at the numbers
const KEPT = 150; // points of a chart
const ASK_MS = 10000; // the longest wait for an answer
const PAGE = 20; // memories a page
const LONG = 400; // characters of a memory that are shown at once

const at = (id) => document.getElementById(id);
const views = ["now", "search", "memories"];
const history = { rate: [], p95: [] };
let cursor = null;
let listedUser = "";
let timer = 0;
let turn = 0; // of the looks: only the newest one goes on

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
  let answer, text;
  try {
    answer = await fetch(path, {
      method, headers, body: body === undefined ? undefined : JSON.stringify(body), signal: AbortSignal.timeout(ASK_MS),
    });
    text = await answer.text();
  } catch {
    throw new Refused(0, "The service does not answer.");
  }
  const value = text && (answer.headers.get("content-type") || "").includes("json") ? JSON.parse(text) : null;
  if (answer.status === 401 && key === sessionStorage.getItem("key")) openDoor(Boolean(key)); // not of an earlier key
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

/** Set a text that is read aloud when it changes, and only then. */
function tell(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function fail(error, where = at("trouble")) {
  if (error.status === 401) return; // the door is open
  tell(where, error.message);
  where.hidden = !error.message;
}

const number = (value, places = 1) => value.toLocaleString("en", { maximumFractionDigits: places });
const fixed = (value, places) => value.toLocaleString("en", { minimumFractionDigits: places, maximumFractionDigits: places });
const percent = (share) => `${number(share * 100)} %`;
const milliseconds = (ms) => fixed(ms, ms < 10 ? 2 : ms < 100 ? 1 : 0);
const plural = (count, one, many) => `${number(count, 0)} ${count === 1 ? one : many}`;

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let place = 0;
  for (; bytes >= 1024 && place < units.length - 1; place++) bytes /= 1024;
  return `${place ? fixed(bytes, bytes < 100 ? 1 : 0) : bytes} ${units[place]}`;
}

function duration(seconds) {
  if (seconds < 60) return `${fixed(seconds, seconds < 10 ? 1 : 0)} s`;
  const whole = Math.round(seconds);
  const parts = [[Math.floor(whole / 86400), "d"], [Math.floor(whole / 3600) % 24, "h"], [Math.floor(whole / 60) % 60, "min"], [whole % 60, "s"]];
  const first = parts.findIndex(([count]) => count);
  return parts.slice(first, first + 2).filter(([count]) => count).map((part) => part.join(" ")).join(" ");
}

/** A time as people of this browser's place read it, with the exact one behind it. */
function when(text) {
  const time = new Date(text);
  return make("time", { dateTime: text, title: text }, time.toLocaleString("sv", { dateStyle: "short", timeStyle: "short" }));
}

// --- now

function card(name, value, state = "") {
  return make("div", { className: "card" }, make("dt", {}, name), make("dd", { className: state }, value));
}

/** A row of a table: a head, and cells that are a text, an element, or words that stand on the left. */
function row(head, ...cells) {
  return make("tr", {}, make("th", { scope: "row" }, head), ...cells.map((cell) => (
    cell && cell.words !== undefined ? make("td", { className: "words" }, cell.words) : make("td", {}, cell))));
}

const words = (text) => ({ words: text });

/** Rows of a table, or what is to be said when there are none. */
function fill(id, rows, none) {
  const columns = at(id).closest("table").querySelectorAll("thead th").length;
  at(id).replaceChildren(...(rows.length ? rows : [make("tr", {}, make("td", { colSpan: columns, className: "none" }, none))]));
}

function bar(share, width) {
  const element = make("span", { className: "bar" });
  element.style.width = `${Math.max(1, Math.round(share * width))}px`;
  return element;
}

function draw(name, points, shown) {
  const svg = "http://www.w3.org/2000/svg";
  const top = Math.max(...points, 1e-9);
  const line = document.createElementNS(svg, "polyline");
  const drawn = points.length === 1 ? [points[0], points[0]] : points;
  const step = 300 / (drawn.length - 1);
  line.setAttribute("points", drawn.map((value, place) => `${place * step},${76 - (value / top) * 68}`).join(" "));
  const chart = at(`chart-${name}`);
  chart.replaceChildren(line);
  at(`most-${name}`).textContent = `now ${shown(points.at(-1))}, at most ${shown(Math.max(...points))}`;
  chart.setAttribute("aria-label", at(`most-${name}`).textContent);
}

function keep(points, value) {
  points.push(value);
  if (points.length > KEPT) points.shift();
}

const operation = (each) => (each.route === "other" ? "any other path" : `${each.method === "any" ? "" : each.method} ${each.route}`);
const counted = (counts) => Object.entries(counts).map(([name, count]) => `${name} ${number(count)}`).join(" · ");

function showHealth(health) {
  const good = health.status === "ready" && health.mode === "full";
  tell(at("standing"), `${health.status}, mode ${health.mode}` + (health.mode_reason ? `: ${health.mode_reason}` : ""));
  at("standing").className = good ? "good" : "bad";
  fill("breakers", health.breakers.map(
    (each) => row(each.name, words(make("span", { className: each.state === "closed" ? "good" : "bad" }, each.state)),
                  number(each.opened), number(each.refused))), "There is none.");
}

function showCards(stats, background) {
  const minute = stats.windows[0];
  at("cards").replaceChildren(
    card("requests a second", number(minute.per_second)),
    card("failed", percent(minute.error_rate), minute.error_rate > 0.01 ? "bad" : ""),
    card("slow operations", number(minute.slow), minute.slow ? "bad" : ""),
    card("workers", number(stats.process.workers)),
    card("processors busy", fixed(minute.cpu_cores, 2)),
    card("memory", size(stats.process.resident_bytes)),
    card("warm users", number(stats.process.warm_users)),
    card("warm index", size(stats.process.warm_bytes)),
    card("caches", size(stats.process.cache_bytes)),
    card("connections", `${stats.pool.used} of ${stats.pool.limit}`, stats.pool.waiting ? "bad" : ""),
    card("waiting for one", number(stats.pool.waiting), stats.pool.waiting ? "bad" : ""),
    card("background queue", number(background.background.queued)),
  );
}

function showStages(stages, work) {
  const own = stages.filter((each) => each.work === work);
  fill(`stages-${work}`, own.map((each) => row(each.stage, number(each.times), milliseconds(each.mean_ms), milliseconds(each.p95_ms))),
    `No ${work} had any.`);
}

function showLayers(caches, rates) {
  fill("layers", caches.map((each) => {
    const rate = rates[each.layer];
    const found = rate === undefined ? "–" : make("span", {}, bar(rate, 100), make("span", {}, percent(rate)));
    const aged = (seconds) => (each.entries ? duration(seconds) : "–");
    return row(each.layer === "warm" ? "users in memory" : each.layer, found, aged(each.mean_age_s), aged(each.oldest_age_s),
      number(each.entries), each.limit_bytes ? `${size(each.bytes)} of ${size(each.limit_bytes)}` : size(each.bytes));
  }), "There is none.");
}

function showStats(stats, background) {
  const [minute, five] = stats.windows;
  const search = minute.operations.find((each) => each.route === "/v1/search");
  showCards(stats, background);
  fill("operations", minute.operations.map((each) => row(
    operation(each), fixed(each.per_second, 2), ...[each.mean_ms, each.p50_ms, each.p95_ms, each.p99_ms].map(milliseconds),
    number(each.refused), number(each.failed), number(each.slow), words(counted(each.tiers)))), "Nobody asked anything.");
  const slow = five.operations.filter((each) => each.slow).sort((one, two) => two.slow - one.slow);
  fill("slow", slow.map((each) => row(operation(each), make("span", { className: "bad" }, number(each.slow)), words(counted(each.slow_stages)),
    percent(each.slow / each.requests), milliseconds(each.p99_ms))), "None.");
  showStages(five.stages, "search");
  showStages(five.stages, "write");
  showLayers(stats.caches, five.hit_rates);
  keep(history.rate, minute.per_second);
  keep(history.p95, search ? search.p95_ms : 0);
  draw("rate", history.rate, (value) => number(value, 2));
  draw("p95", history.p95, (value) => `${milliseconds(value)} ms`);
}

/** Look at the numbers now and then, while somebody sees them and may. */
async function look() {
  clearTimeout(timer);
  const mine = ++turn;
  try {
    const health = (await ask("GET", "/v1/health")).value;
    if (mine !== turn) return;
    showHealth(health);
    if (current() === "now" && at("door").hidden && at("without-admin").hidden) await lookInside(mine);
    at("main").classList.remove("old");
    if (mine === turn) fail({ message: "" }, at("trouble"));
  } catch (error) {
    if (mine !== turn) return;
    fail(error);
    if (error.status === 0) {
      tell(at("standing"), "does not answer");
      at("standing").className = "bad";
      at("main").classList.add("old");
      tell(at("trouble"), "The service does not answer. What you see is from before; the page keeps asking.");
    }
  } finally {
    if (mine === turn && !document.hidden) timer = setTimeout(look, EVERY_MS);
  }
}

async function lookInside(mine) {
  try {
    const [stats, background] = await Promise.all([ask("GET", "/v1/stats"), ask("GET", "/v1/background")]);
    if (mine === turn) showStats(stats.value, background.value);
    at("numbers").hidden = false;
  } catch (error) {
    if (error.status !== 403) throw error;
    at("without-admin").hidden = false;
    at("numbers").hidden = true;
  }
}

// --- search

const TIERS = {
  hot: "hot: a finished answer was held, so there are no stages",
  warm: "warm: from the user's memories in memory",
  redis: "redis: an answer that another worker had shared",
  cold: "cold: from PostgreSQL",
};

const LEGS = ["lexical", "vector", "context"];

/** Where a score comes from: what each leg adds, and what else there is. */
function why(scores) {
  const legs = LEGS.filter((leg) => scores[leg]).map((leg) => {
    const { raw, scaled, weight } = scores[leg];
    return row(leg, fixed(raw, 4), fixed(scaled, 4), fixed(weight, 2), fixed(scaled * weight, 4));
  });
  const more = ["convergence", "added"].filter((name) => scores[name]).map((name) => row(name, "", "", "", fixed(scores[name], 4)));
  const { graph } = scores;
  if (graph) more.push(row(`links, ${plural(graph.depth, "step", "steps")} from ${graph.from_id}`, fixed(graph.raw, 4), "", fixed(graph.weight, 2), fixed(graph.score, 4)));
  const heads = ["Leg", "raw", "scaled", "weight", "counts"].map((name) => make("th", { scope: "col" }, name));
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...legs, ...more));
  return make("details", {}, make("summary", {}, "Why it scored so"), make("div", { className: "wide" }, table));
}

function about(memory) {
  const line = make("p", { className: "about" }, memory.kind, " · ", when(memory.created_at), ` · importance ${number(memory.importance, 2)}`);
  line.append(...memory.tags.map((tag) => ` · #${tag}`));
  return line;
}

/** The text of a memory, a long one to be unfolded. */
function told(memory) {
  if (memory.text.length <= LONG) return make("p", {}, memory.text);
  const text = make("p", {}, `${memory.text.slice(0, LONG).trimEnd()}… `);
  const rest = make("button", { type: "button", className: "all", ariaExpanded: "false" }, `Show all ${number(memory.text.length)} characters`);
  rest.onclick = () => text.replaceChildren(memory.text);
  text.append(rest);
  return text;
}

/** The time of each stage, what is left of the whole, and the whole. */
function stages(header) {
  const named = (header || "").split(",").map((part) => part.trim().split(";dur=")).filter((part) => part.length === 2)
    .map(([name, ms]) => [name, Number(ms)]);
  const total = named.find(([name]) => name === "total")?.[1] ?? 0;
  const own = named.filter(([name]) => name !== "total");
  const rest = Math.max(0, total - own.reduce((sum, [, ms]) => sum + ms, 0));
  const rows = own.length ? [...own, ["the rest", rest], ["total", total]] : [["total", total]];
  const table = make("table", { className: "times" }, make("thead", {}, make("tr", {},
    ...["Stage", "", "ms"].map((name) => (name ? make("th", { scope: "col" }, name) : make("td"))))),
    make("tbody", {}, ...rows.map(([name, ms]) => row(name, bar(ms / Math.max(total, 1e-9), 160), fixed(ms, 3)))));
  at("stages").replaceChildren(table);
}

function lookedFor(explain) {
  const terms = Object.entries(explain?.terms ?? {});
  return terms.length ? `, looked for ${terms.map(([term, weight]) => (weight === 1 ? term : `${term} × ${number(weight, 2)}`)).join(", ")}` : "";
}

function hit(found, user) {
  return make("li", {}, make("span", { className: "score", title: "score, 0 to 1" }, fixed(found.score, 4)), told(found), foot(found, user),
    found.scores ? why(found.scores) : "");
}

async function search(event) {
  event.preventDefault();
  const form = new FormData(event.target);
  const question = { ...Object.fromEntries(form), limit: Number(form.get("limit")), explain: true };
  try {
    const { value, headers } = await ask("POST", "/v1/search", question);
    const lacking = value.degraded.length ? `, without ${value.degraded.join(", ")}` : "";
    const tier = headers.get("memfast-tier");
    tell(at("answered"), `${plural(value.results.length, "hit", "hits")}${lacking}${lookedFor(value.explain)}. Answered ${TIERS[tier] ?? tier}; version ${value.version}.`);
    stages(headers.get("server-timing"));
    at("hits").replaceChildren(...value.results.map((found) => hit(found, question.user_id)));
    fail({ message: "" });
  } catch (error) {
    at("answered").textContent = "";
    at("stages").replaceChildren();
    at("hits").replaceChildren();
    fail(error);
  }
}

// --- memories

const place = (id, user) => `/v1/memories/${id}?user_id=${encodeURIComponent(user)}`;

function actions(memory, user) {
  const named = memory.text.slice(0, 40);
  const own = () => line.closest("li");
  const line = make("p", { className: "actions" });
  line.append(
    make("button", { type: "button", ariaLabel: `Edit: ${named}`, onclick: () => edit(memory, user, own()) }, "Edit"),
    make("button", { type: "button", ariaLabel: `Delete: ${named}`, onclick: () => remove(memory, user, own()) }, "Delete"),
  );
  return line;
}

function foot(memory, user) {
  return make("div", { className: "foot" }, about(memory), actions(memory, user));
}

function entry(memory, user) {
  return make("li", {}, told(memory), foot(memory, user));
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
    const shown = at("list").children.length;
    tell(at("listed"), shown ? `${plural(shown, "memory", "memories")} shown${value.has_more ? ", there are more" : ""}` : "This user has no memories.");
    fail({ message: "" });
  } catch (error) {
    fail(error);
  }
}

async function remove(memory, user, item) {
  if (!confirm(`Delete this memory?\n\n${memory.text.slice(0, 200)}`)) return;
  try {
    await ask("DELETE", place(memory.id, user), undefined, { "if-match": `"${memory.version}"` });
    const following = item.nextElementSibling ?? item.previousElementSibling;
    item.remove();
    changed("Deleted.", following);
  } catch (error) {
    fail(error);
  }
}

/** Say what was done where it is seen, and put the focus where the work goes on. */
function changed(text, item) {
  const status = current() === "search" ? at("answered") : at("listed");
  tell(status, text);
  (item?.querySelector(".actions button") ?? status).focus();
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
      const saved = entry(value, user);
      item.replaceWith(saved);
      at("editor").close();
      changed("Saved.", saved);
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
  document.title = `${current()}, memfast`;
  fail({ message: "" });
  look();
}

/** Ask for a key; what was shown to another one goes. */
function openDoor(refused) {
  sessionStorage.removeItem("key");
  at("leave").hidden = true;
  at("main").hidden = true;
  fail({ message: "" });
  if (refused) tell(at("door-trouble"), "The service does not take this key.");
  if (!at("door").hidden) return;
  at("door").hidden = false;
  at("key").focus();
}

at("door").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", at("key").value);
  at("key").value = "";
  enter();
});

/** See whether the service takes the key, and show the rest. */
async function enter() {
  tell(at("door-trouble"), "");
  let refused = false;
  try {
    await ask("GET", "/v1/stats");
  } catch (error) {
    if (error.status === 401) return;
    refused = error.status === 403;
    if (error.status === 0 || error.status >= 500) return fail(error, at("door-trouble")); // else the key was taken
  }
  at("door").hidden = true;
  at("without-admin").hidden = !refused;
  at("numbers").hidden = refused;
  at("main").hidden = false;
  at("leave").hidden = !sessionStorage.getItem("key");
  show();
}

at("skip").addEventListener("click", (event) => {
  event.preventDefault(); // what follows # is the view
  (at("door").hidden ? at("main") : at("key")).focus();
});
at("leave").addEventListener("click", () => {
  for (const id of ["hits", "list", "stages", "answered", "listed"]) at(id).replaceChildren();
  at("more").hidden = true;
  tell(at("door-trouble"), "");
  openDoor(false);
});
at("ask").addEventListener("submit", search);
at("whose").addEventListener("submit", (event) => {
  event.preventDefault();
  list(new FormData(event.target).get("user_id"), false);
});
at("more").addEventListener("click", () => list(listedUser, true));
at("cancel").addEventListener("click", () => at("editor").close());
addEventListener("hashchange", show);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) look();
});
at("leave").hidden = !sessionStorage.getItem("key");
show();
if (current() !== "now") ask("GET", "/v1/stats").catch(() => {}); // whether a key is asked for
