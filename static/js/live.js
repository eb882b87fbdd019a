/** The live board: rows of all runs in flight, drawn from what the server pushes.
 *
 * The server tells only what changed; seconds are counted here. A run that has ended stays for a
 * moment, with how it ended.
 */

import { count, seconds } from "./format.js";
import { announce, fragment } from "./fragments.js";
import { isSignedOut, post, refusal, SIGNED_OUT } from "./requests.js";

const TICK = 1_000; // ms
const LINGER = 4_000; // ms that an ended run is still shown
const FIRST_WAIT = 1_000; // ms before the server is tried again
const LONGEST_WAIT = 15_000;
const SILENT = 4_000; // ms after which a connection that has brought nothing is doubted
const HIDDEN = 60_000; // ms after which a page that nobody sees lets go of its connection

const STATES = {
  waiting: "Waiting",
  thinking: "Thinking",
  streaming: "Streaming",
  stalled: "Stalled",
  running: "Running",
  lost: "Process lost",
  stopping: "Stopping",
  done: "Done",
  stopped: "Stopped",
  error: "Failed",
  interrupted: "Interrupted",
  deleted: "Deleted",
};
const root = document.querySelector("[data-live]");
const part = (name) => root.querySelector(`[data-${name}]`);
const body = part("rows");
const ORIGINS = JSON.parse(root.dataset.origins);
const runs = new Map(); // id → {fields, row, heardAt, isStopping, end, endedAt}
let lastTotal = 0;

// ---- drawing

function age(value) {
  if (value < 60) return `${Math.floor(value)} s`;
  const minutes = Math.floor(value / 60);
  const rest = String(Math.floor(value % 60)).padStart(2, "0");
  if (minutes < 60) return `${minutes}:${rest} min`;
  return `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")} h`;
}

const figure = (value, write) => (value === null ? "–" : write(value));

function set(row, name, text) {
  const cell = row.querySelector(`[data-cell="${name}"]`);
  if (!cell || cell.textContent === text) return;
  cell.textContent = text;
  if (name === "configuration" || name === "model" || name === "user") cell.title = text; // it may be cut
}

function newRow(id) {
  const row = fragment("live-row").querySelector("tr");
  row.dataset.run = id;
  for (const [name, attribute] of [["details", "href"], ["stop", "data-stop"]]) {
    const element = row.querySelector(`[data-${name}]`);
    element.setAttribute(attribute, element.getAttribute(attribute).replace(root.dataset.noRun, id));
  }
  return row;
}

function draw(run) {
  const { fields, row } = run;
  set(row, "user", fields.user ?? "command line");
  set(row, "configuration", fields.configuration);
  set(row, "model", fields.model === fields.configuration ? "" : fields.model);
  set(row, "origin", ORIGINS[fields.origin] ?? fields.origin);
  set(row, "first", figure(fields.time_to_first_chunk, (value) => seconds(value, 2)));
  set(row, "characters", figure(fields.characters, count));
  set(row, "tokens", figure(fields.tokens, (value) => (value ? `≈${count(value)}` : "0")));
  const speed = fields.state === "stalled" ? null : fields.tokens_per_second;
  set(row, "speed", figure(speed, (value) => value.toFixed(1)));
  set(row, "process", fields.process);
  row.querySelector("[data-stop]").setAttribute("aria-label", `Stop ${fields.configuration}${fields.user ? ` of ${fields.user}` : ""}`);
  tick(run);
}

/** What changes by itself. */
function tick(run) {
  const { fields, row } = run;
  const passed = ((run.endedAt ?? performance.now()) - run.heardAt) / 1_000;
  const state = run.end ?? (run.isStopping || fields.is_stopping ? "stopping" : fields.state);
  if (row.dataset.state !== state) row.dataset.state = state;
  set(row, "state", STATES[state] ?? state);
  set(row, "age", age(fields.age + passed));
  let since = "";
  if (state === "stalled") since = `for ${age(fields.silent + passed)}`;
  if (state === "waiting" && fields.attempt > 1) since = `attempt ${fields.attempt}`;
  set(row, "since", since);
}

function drawTotals(total) {
  const live = [...runs.values()].filter((run) => !run.end);
  const of = (...states) => String(live.filter(({ fields }) => states.includes(fields.state)).length);
  const speed = live
    .filter(({ fields }) => fields.state === "streaming" || fields.state === "thinking")
    .reduce((sum, { fields }) => sum + (fields.tokens_per_second ?? 0), 0);
  const figures = {
    all: count(total),
    waiting: of("waiting"),
    streaming: of("streaming", "thinking"),
    stalled: of("stalled", "lost"),
    speed: speed.toFixed(1),
  };
  for (const [name, text] of Object.entries(figures)) {
    root.querySelector(`[data-total="${name}"]`).textContent = text;
  }
  part("live-table").hidden = runs.size === 0;
  part("live-empty").hidden = runs.size > 0;
  const more = part("live-more");
  more.hidden = total <= live.length;
  more.textContent = `The ${count(live.length)} oldest of ${count(total)} are shown.`;
}

// ---- what comes

function take({ whole, total, runs: told, ended }) {
  if (whole) {
    if (runs.size === 0) body.replaceChildren(); // the rows of the page as it was loaded
    const there = new Set(told.map(({ run_id: id }) => id));
    for (const [id, run] of runs) if (!there.has(id) && !run.end) remove(id);
  }
  for (const fields of told) {
    const id = fields.run_id;
    const known = runs.get(id) ?? { row: newRow(id) };
    announce("live:run", { before: known.fields, now: fields });
    Object.assign(known, { fields, heardAt: performance.now() });
    runs.set(id, known);
    if (!known.row.isConnected) body.append(known.row);
    draw(known);
  }
  for (const { run_id: id, status } of ended) {
    const run = runs.get(id);
    if (!run || run.end) continue;
    Object.assign(run, { end: status, endedAt: performance.now() });
    const age = run.fields.age + (run.endedAt - run.heardAt) / 1_000;
    announce("live:end", { last: run.fields, status, age });
    tick(run);
    setTimeout(() => {
      remove(id);
      drawTotals(lastTotal);
    }, LINGER);
  }
  lastTotal = total;
  drawTotals(total);
}

function remove(id) {
  const { row } = runs.get(id) ?? {};
  const hadFocus = row?.contains(document.activeElement);
  row?.remove();
  runs.delete(id);
  if (hadFocus) root.querySelector(".live-frame").focus({ preventScroll: true });
}

// ---- the connection

const CONNECTION = {
  connecting: "Connecting…",
  live: "Live",
  lost: "Connection lost, trying again",
  ended: "Signed out",
};
let source = null;
let failures = 0;
let retryTimer = 0;
let hiddenTimer = 0;
let silentTimer = 0;

function say(state) {
  const place = part("connection");
  if (place.dataset.state === state) return;
  place.dataset.state = state;
  place.textContent = CONNECTION[state];
  announce("live:connection", { state });
}

function connect() {
  clearTimeout(retryTimer);
  source?.close();
  const stream = new EventSource(root.dataset.events);
  source = stream;
  // The server tells all runs at once, so a stream without an event is one that is held back.
  clearTimeout(silentTimer);
  silentTimer = setTimeout(() => {
    const isAlive = stream.readyState === EventSource.OPEN || part("connection").dataset.state === "connecting";
    part("live-silent").hidden = stream !== source || !isAlive;
  }, SILENT);
  stream.onmessage = ({ data }) => {
    if (stream !== source) return;
    clearTimeout(silentTimer);
    part("live-silent").hidden = true;
    failures = 0;
    say("live");
    const event = JSON.parse(data);
    if (event.type === "runs") take(event);
  };
  stream.onerror = async () => {
    if (stream !== source) return;
    say("lost");
    if (stream.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
    if (await isOver()) {
      source = null;
      say("ended");
      alarm(SIGNED_OUT.text.replace(/ Your text.*/, ""), SIGNED_OUT.link);
      return;
    }
    if (stream !== source) return;
    retryTimer = setTimeout(connect, Math.min(FIRST_WAIT * 2 ** failures, LONGEST_WAIT));
    failures += 1;
  };
}

/** Whether the server refuses us because the person is signed out. */
async function isOver() {
  try {
    const answer = await fetch(location.href, { method: "HEAD", headers: { Accept: "application/json" } });
    return isSignedOut(answer.url, answer.status);
  } catch {
    return false;
  }
}

document.addEventListener("visibilitychange", () => {
  clearTimeout(hiddenTimer);
  if (document.hidden) {
    hiddenTimer = setTimeout(() => {
      source?.close();
      source = null;
      say("connecting");
    }, HIDDEN);
  } else if (!source && part("connection").dataset.state !== "ended") {
    connect();
  }
});

addEventListener("pageshow", ({ persisted }) => persisted && connect());
addEventListener("pagehide", () => source?.close());

// ---- stopping

function alarm(text, link) {
  part("live-alert").hidden = !text;
  const place = part("live-alert-text");
  place.textContent = text;
  if (link) {
    const element = document.createElement("a");
    Object.assign(element, { href: link.href, textContent: link.label });
    place.append(" ", element);
  }
}

async function stop(button) {
  const run = runs.get(button.closest("[data-run]").dataset.run);
  button.disabled = true;
  if (run) {
    run.isStopping = true;
    tick(run);
  }
  let answer;
  try {
    answer = await post(button.dataset.stop);
  } catch {
    answer = null;
  }
  if (answer?.ok && !answer.redirected) {
    alarm("");
    return; // the board itself tells the end
  }
  button.disabled = false;
  if (run) {
    run.isStopping = false;
    tick(run);
  }
  const words = refusal(answer?.status ?? 0, answer ? await answer.text() : "", answer?.headers.get("Retry-After"));
  alarm(words.text.replace(/ Your text is kept[^.]*\.?/, ""), words.link);
}

body.addEventListener("click", ({ target }) => {
  const button = target.closest("[data-stop]");
  if (button) stop(button);
});

setInterval(() => runs.forEach(tick), TICK);
connect();
