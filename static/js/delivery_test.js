/** The delivery self-test: reads a stream of probes as it arrives, and shows what became of it. */

import { copyWith } from "./clipboard.js";
import { advice, judge, proxyOf, words } from "./delivery.js";
import { fragment } from "./fragments.js";
import { isSignedOut, refusal, SIGNED_OUT } from "./requests.js";

const TOLD = ["server", "via", "x-powered-by", "x-accel-buffering", "content-encoding"];
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 600; // of the timeline's own units

const root = document.querySelector("[data-delivery]");
const part = (name) => root.querySelector(`[data-${name}]`);
const form = part("delivery-form");
let controller = null;

/** Reads the stream to its end, however that comes; gives a record for `judge`. */
async function measure(asked, signal, onEvent) {
  const began = performance.now();
  const now = () => (performance.now() - began) / 1_000;
  const url = `${root.dataset.url}?${new URLSearchParams(asked)}`;
  const answer = await fetch(url, { signal, cache: "no-store", headers: { Accept: "text/event-stream" } });
  const headers = {};
  for (const name of TOLD) {
    if (answer.headers.has(name)) headers[name] = answer.headers.get(name);
  }
  const record = {
    answer,
    status: answer.status,
    type: answer.headers.get("content-type") ?? "",
    headers,
    of: asked.events,
    interval: asked.interval,
    silence: asked.silence,
    events: [],
    end: null,
    endedAt: 0,
    lastByteAt: now(),
  };
  if (answer.status === 200 && record.type.startsWith("text/event-stream")) {
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    try {
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        record.lastByteAt = now();
        const frames = (rest + value).split("\n\n");
        rest = frames.pop();
        for (const frame of frames) take(record, frame, onEvent);
      }
    } catch (error) {
      if (error.name === "AbortError") throw error;
      // Cut: what has come is what there is.
    }
  }
  record.endedAt = now();
  return record;
}

function take(record, frame, onEvent) {
  if (!frame.startsWith("data: ")) return; // a ping
  const told = JSON.parse(frame.slice("data: ".length));
  const event = { sentAt: told.sent_at, arrivedAt: record.lastByteAt };
  if (told.type === "probe_end") record.end = event;
  else record.events.push(event);
  onEvent(record);
}

// ---- showing

function mark(x, y, name) {
  const line = document.createElementNS(SVG, "line");
  for (const [attribute, value] of Object.entries({ x1: x, x2: x, y1: y, y2: y + 18, class: name })) {
    line.setAttribute(attribute, value);
  }
  return line;
}

function drawTimeline(record) {
  const all = [...record.events, ...(record.end ? [record.end] : [])];
  const quickest = Math.min(...all.map(({ sentAt, arrivedAt }) => arrivedAt - sentAt));
  const whole = record.of * record.interval + record.silence;
  const span = Math.max(whole, ...all.map(({ arrivedAt }) => arrivedAt)) * 1.02;
  const x = (value) => (value / span) * WIDTH;
  part("timeline").replaceChildren(
    ...all.map(({ sentAt }) => mark(x(sentAt + quickest), 3, "timeline-sent")),
    ...all.map(({ arrivedAt }) => mark(x(arrivedAt), 27, "timeline-arrived")),
    ...(record.endedAt && !record.end ? [mark(x(record.endedAt), 27, "timeline-cut")] : []),
  );
}

function pair(name, value) {
  const box = document.createElement("div");
  const [term, text] = ["dt", "dd"].map((tag) => document.createElement(tag));
  term.textContent = name;
  text.textContent = value;
  box.append(term, text);
  return box;
}

function showVerdict(record) {
  const found = judge(record);
  const proxy = proxyOf(record.headers);
  const { title, text } = words(found, record);
  const verdict = part("verdict");
  verdict.dataset.state = found.verdict;
  part("verdict-title").textContent = title;
  part("verdict-text").textContent = text;
  const ms = (value) => `${Math.round(value * 1_000)} ms`;
  part("verdict-facts").replaceChildren(
    pair("Events", `${record.events.length} of ${record.of}`),
    pair("Usual delay", ms(found.usualDelay)),
    pair("Longest gap", ms(found.longestGap)),
    pair("Sent by", record.headers.server ?? "unknown"),
    ...(found.encoding ? [pair("Compressed", found.encoding)] : []),
  );
  part("advice").replaceChildren(...advice(found, proxy).map(adviceItem));
  verdict.hidden = false;
}

function adviceItem({ proxy, name, where, lines, isLikely }) {
  const item = fragment("advice").firstElementChild;
  item.open = isLikely;
  item.dataset.proxy = proxy;
  item.querySelector("[data-advice-name]").textContent = isLikely ? `${name}, which seems to stand in between` : name;
  item.querySelector("[data-advice-where]").textContent = where;
  item.querySelector("[data-advice-lines]").textContent = lines;
  item.querySelector("[data-advice-copy]").addEventListener("click", ({ currentTarget }) => copyWith(currentTarget, lines));
  return item;
}

function say(state, title, text = "") {
  part("verdict").dataset.state = state;
  part("verdict-title").textContent = title;
  part("verdict-text").textContent = text;
  part("verdict-facts").replaceChildren();
  part("advice").replaceChildren();
  part("verdict").hidden = false;
}

async function refused(record) {
  if (isSignedOut(record.answer.url, record.status)) return SIGNED_OUT.text.replace(/ Your text.*/, "");
  return refusal(record.status, await record.answer.text(), record.answer.headers.get("Retry-After")).text;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (controller) return;
  const asked = Object.fromEntries([...new FormData(form)].map(([name, value]) => [name, Number(value)]));
  const whole = asked.events * asked.interval + asked.silence;
  controller = new AbortController();
  part("delivery-start").disabled = true;
  part("delivery-stop").disabled = false;
  part("timeline").replaceChildren();
  part("timeline-figure").hidden = false;
  say("running", `Testing, ${whole.toFixed(0)} s`, "Nothing has arrived yet.");
  try {
    const record = await measure(asked, controller.signal, (soFar) => {
      part("verdict-text").textContent = `${soFar.events.length} of ${soFar.of} events have arrived.`;
      drawTimeline(soFar);
    });
    if (record.status === 401 || record.status === 422 || record.status === 429) {
      say("failed", "Not tested", await refused(record));
    } else {
      if (record.events.length) drawTimeline(record);
      showVerdict(record);
    }
  } catch (error) {
    if (error.name === "AbortError") say("stopped", "Stopped");
    else say("failed", "Not tested", refusal(0).text.replace(/ Your text is kept: c/, " C"));
  } finally {
    controller = null;
    part("delivery-start").disabled = false;
    part("delivery-stop").disabled = true;
  }
});

part("delivery-stop").addEventListener("click", () => controller?.abort());
