/** The stream test: one run without a chat, and what can be measured of it while it arrives. */

import { count, money, seconds } from "./format.js";
import { isSignedOut, post, refusal, SIGNED_OUT } from "./requests.js";
import { follow } from "./stream.js";

const TICK = 100; // ms
const KEPT_GAPS = 500; // of which the usual one is told
const BARS = 120; // in the chart
const SVG = "http://www.w3.org/2000/svg";
const SIZE = { width: 600, height: 48 }; // of the chart's own units

const root = document.querySelector("[data-stream-test]");
const part = (name) => root.querySelector(`[data-${name}]`);
const form = part("test-form");
const output = part("output");
let test = null; // the one that is shown

function blank() {
  return {
    began: performance.now(),
    firstAt: null,
    lastAt: null,
    endedAt: null,
    chunks: 0,
    tokens: 0,
    gaps: [],
    longest: 0,
    state: "Starting",
    speed: null,
    unseen: [], // text that is not in the page yet
    stopFollowing: null,
    stopUrl: "",
    isStopped: false,
  };
}

// ---- drawing

function figure(name, text) {
  const place = root.querySelector(`[data-figure="${name}"]`);
  if (place.textContent !== text) place.textContent = text;
}

function median(values) {
  const sorted = [...values].sort((one, other) => one - other);
  return sorted[sorted.length >> 1];
}

const ms = (value) => `${Math.round(value)} ms`;

function draw() {
  if (!test) return;
  const { began, firstAt, endedAt, chunks, tokens, gaps, longest, state, unseen } = test;
  const now = endedAt ?? performance.now();
  figure("state", state);
  figure("first", firstAt === null ? "–" : seconds((firstAt - began) / 1_000, 2));
  figure("duration", seconds((now - began) / 1_000, 1));
  figure("chunks", count(chunks));
  figure("tokens", `${endedAt && !test.isEstimated ? "" : "≈"}${count(tokens)}`);
  const speed = test.speed ?? (firstAt !== null && now > firstAt + 200 ? tokens / ((now - firstAt) / 1_000) : null);
  figure("speed", speed === null ? "–" : speed.toFixed(1));
  figure("gap", gaps.length ? ms(median(gaps)) : "–");
  figure("longest", gaps.length ? ms(longest) : "–");
  drawGaps(gaps.slice(-BARS));
  if (unseen.length) {
    const isAtEnd = output.scrollHeight - output.clientHeight - output.scrollTop < 24;
    output.append(unseen.splice(0).join(""));
    if (isAtEnd) output.scrollTop = output.scrollHeight;
  }
}

function drawGaps(gaps) {
  const highest = Math.max(...gaps, 1);
  const step = SIZE.width / BARS;
  part("gaps").replaceChildren(
    ...gaps.map((gap, index) => {
      const bar = document.createElementNS(SVG, "rect");
      const height = Math.max(1, (gap / highest) * SIZE.height);
      const box = { x: index * step, y: SIZE.height - height, width: step * 0.7, height };
      for (const [name, value] of Object.entries(box)) bar.setAttribute(name, value.toFixed(2));
      return bar;
    }),
  );
  part("gaps-text").textContent = gaps.length
    ? `Time between two chunks as they arrive here; the last ${gaps.length}, up to ${ms(highest)}`
    : "Time between two chunks as they arrive here";
}

function alarm(text, link) {
  part("alert").hidden = !text;
  const place = part("alert-text");
  place.textContent = text;
  if (!link) return;
  const element = document.createElement("a");
  Object.assign(element, { href: link.href, textContent: link.label });
  place.append(" ", element);
}

function setBusy(isBusy) {
  part("start").disabled = isBusy;
  part("stop").disabled = !isBusy;
}

function clear() {
  test?.stopFollowing?.();
  test = null;
  alarm("");
  output.replaceChildren();
  part("details").hidden = true;
  for (const place of root.querySelectorAll("[data-error]")) place.textContent = "";
  for (const [name, text] of [["state", "Ready"], ["chunks", "0"], ["tokens", "0"]]) figure(name, text);
  for (const name of ["first", "duration", "speed", "gap", "longest"]) figure(name, "–");
  drawGaps([]);
  setBusy(false);
}

// ---- what comes

function takeChunk(event) {
  const now = performance.now();
  if (test.firstAt === null) {
    test.firstAt = now;
  } else {
    const gap = now - test.lastAt;
    test.gaps.push(gap);
    if (test.gaps.length > KEPT_GAPS) test.gaps.shift();
    test.longest = Math.max(test.longest, gap);
  }
  test.lastAt = now;
  test.chunks += 1;
  test.tokens = event.tokens;
  test.state = "Streaming";
  test.unseen.push(event.content);
}

function take(event, number) {
  switch (event.type) {
    case "metadata":
      if (number === 1 && test.chunks) restart();
      test.state = "Waiting";
      break;
    case "chunk":
      takeChunk(event);
      break;
    case "reasoning":
      test.state = "Thinking";
      break;
    case "retry":
      test.state = `Trying again, ${event.attempt} of ${event.max_attempts}`;
      break;
    case "done":
      finish(event.stopped ? "Stopped" : "Done", event.metrics);
      break;
    case "error":
      finish("Failed");
      alarm(`${event.code}: ${event.message}`);
      break;
  }
}

/** A crash of the server took what was shown last: it tells all anew. */
function restart() {
  output.replaceChildren();
  Object.assign(test, { firstAt: null, lastAt: null, chunks: 0, tokens: 0, gaps: [], longest: 0, unseen: [] });
}

function finish(state, metrics) {
  test.state = state;
  test.endedAt = performance.now();
  if (metrics) {
    test.isEstimated = metrics.estimated;
    test.tokens = metrics.completion_tokens ?? test.tokens;
    test.speed = metrics.tokens_per_second;
    if (metrics.cost_usd !== null) test.state = `${state}, ${money(metrics.cost_usd)}`;
  }
  setBusy(false);
  draw();
}

// ---- starting and stopping

function showRefusal(status, body, retryAfter) {
  let errors = {};
  try {
    errors = JSON.parse(body).errors ?? {};
  } catch {
    // Not of our making: the words for its status do.
  }
  let isPlaced = false;
  for (const [name, texts] of Object.entries(errors)) {
    const place = root.querySelector(`[data-error="${name}"]`);
    if (!place) continue;
    place.textContent = texts.join(" ");
    isPlaced = true;
  }
  const { text, link } = status === 401 ? SIGNED_OUT : refusal(status, body, retryAfter);
  if (!isPlaced) alarm(text, link);
}

async function start() {
  clear();
  const mine = blank();
  test = mine;
  setBusy(true);
  draw();
  const fields = new FormData(form);
  fields.delete("csrfmiddlewaretoken");
  fields.set("idempotency_key", crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`);
  let answer;
  let body = "";
  try {
    answer = await post(form.action, { body: fields });
    body = await answer.text();
  } catch {
    answer = null;
  }
  if (test !== mine) return;
  if (!answer?.ok || isSignedOut(answer.url, answer.status)) {
    finish("Not started");
    showRefusal(answer ? (answer.ok ? 401 : answer.status) : 0, body, answer?.headers.get("Retry-After"));
    return;
  }
  const told = JSON.parse(body);
  mine.stopUrl = told.stop_url;
  part("details").href = told.inspector_url;
  part("details").hidden = false;
  if (mine.isStopped) stop(); // it was pressed before there was anything to stop
  mine.stopFollowing = follow(told.events_url, {
    onEvent: (event, number) => test === mine && take(event, number),
    onConnection: (state) => {
      if (test === mine && state === "polling") alarm("The stream does not come through, so the page asks every second instead. Test the delivery below.");
    },
  });
}

async function stop() {
  test.isStopped = true;
  part("stop").disabled = true;
  if (!test.stopUrl) return;
  const answer = await post(test.stopUrl).catch(() => null);
  if (answer?.ok) return; // its end comes as an event
  part("stop").disabled = false;
  alarm(refusal(answer?.status ?? 0, answer ? await answer.text() : "", answer?.headers.get("Retry-After")).text);
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (!part("start").disabled) start();
});
part("stop").addEventListener("click", stop);
part("clear").addEventListener("click", () => {
  if (test && !test.endedAt && test.stopUrl) stop();
  clear();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !part("stop").disabled) stop();
});
setInterval(() => test && !test.endedAt && draw(), TICK);
