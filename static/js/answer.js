/** `<chat-answer>`: one answer. While it is written it follows its run and draws it; at the end it
 * checks what arrived, and takes over the server's foot and those blocks that differ (finished ones
 * are never touched, unless the check has failed: then all are taken over).
 *
 * Its `data-status` is `pending` (sent, not answered yet), `running`, or how the run ended.
 */

import { clear, say } from "./announcer.js";
import * as attachments from "./attachments.js";
import { agrees, isExact } from "./check.js";
import { count, seconds } from "./format.js";
import { announce, fragment } from "./fragments.js";
import { isSignedOut, post, SIGNED_OUT } from "./requests.js";
import { follow } from "./stream.js";
import { add, reload, replace } from "./totals.js";

const TICK = 100; // ms
const FRESH = 15_000; // ms between a send and its first sign, for one clock to serve both
const ATTEMPTS = 6; // to get the finished answer

let sentAt = -Infinity; // on the page's own clock, which is not the server's

document.addEventListener("run:pending", () => {
  sentAt = performance.now();
});

/** HTML as the browser writes it, to compare what came by two ways. */
function normalised(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.innerHTML;
}

/** The words of a block, without those of the buttons in it. */
function spoken(block) {
  const copy = document.importNode(block, true);
  for (const button of copy.querySelectorAll("button")) button.replaceWith(" ");
  return copy.textContent;
}

class ChatAnswer extends HTMLElement {
  connectedCallback() {
    if (this.dataset.status === "pending") this.wait();
    if (this.dataset.status === "running") this.start();
  }

  disconnectedCallback() {
    clearInterval(this.timer);
    this.stopFollowing?.();
    this.stopFollowing = null;
  }

  part(name) {
    return this.querySelector(`[data-${name}]`);
  }

  wait() {
    this.began = performance.now();
    this.model = this.dataset.model ?? document.querySelector("config-picker")?.model ?? "the model";
    this.timer = setInterval(() => this.tick(), TICK);
    this.tick();
  }

  start() {
    const now = performance.now();
    const isFresh = now - sentAt < FRESH;
    const age = Math.max(0, Date.now() - Date.parse(this.dataset.started) || 0);
    this.began = isFresh ? sentAt : now - age;
    sentAt = -Infinity;
    this.model = this.dataset.model;
    this.run = this.dataset.run;
    this.blank();
    this.timer = setInterval(() => this.tick(), TICK);
    this.tick();
    clear();
    announce("run:started", {
      run: this.run,
      chat: document.querySelector("[data-chat]").dataset.chat,
      model: this.model,
      began: this.began,
      isFresh,
      stopUrl: this.dataset.stopUrl,
      inspectorUrl: this.dataset.inspectorUrl,
    });
    this.stopFollowing = follow(this.dataset.eventsUrl, {
      onEvent: (event, number) => this.receive(event, number),
      onConnection: (state) => this.connection(state),
      onRefused: () => this.checkEnd(),
    });
  }

  /** Nothing has come yet. What the server has drawn stays until its blocks come as events: an
   * answer that is continued begins with what it had. */
  blank() {
    this.html = new Map(); // block → the HTML that came for it
    this.closed = new Set();
    this.waitingBlocks = new Set();
    this.openIndex = null; // of a block that is not drawn yet
    this.unspoken = [];
    this.calls = new Map();
    this.tokens = 0;
    this.earlierTokens = -1; // of what it had before this run
    this.keptBlocks = this.part("blocks").childElementCount;
    this.inputTokens = null;
    this.retry = null;
    this.hasBegun = false;
    this.hasText = false;
    this.hasReasoning = false;
    this.reasoningSince = null;
    this.isEnded = false;
  }

  /** The server starts over. */
  reset() {
    this.part("blocks").replaceChildren();
    this.part("tool-calls").replaceChildren();
    this.part("thinking").hidden = true;
    this.blank();
  }

  receive(event, number) {
    if (number === 1 && this.hasBegun) this.reset();
    this.hasBegun = true;
    switch (event.type) {
      case "metadata":
        this.inputTokens = event.input_tokens;
        this.prompt = event.user_prompt;
        this.earlierTokens = event.continues?.tokens ?? -1;
        break;
      case "request_data":
        this.maxTokens = event.parameters?.max_tokens ?? null;
        break;
      case "reasoning":
        this.think(event);
        break;
      case "block":
        this.block(event);
        break;
      case "tool_call":
        this.call(event);
        break;
      case "retry":
        this.retry = { ...event, until: performance.now() + event.delay * 1000 };
        break;
    }
    announce("run:event", { run: this.run, number, event });
    if (event.type === "done" || event.type === "error") this.end(event);
  }

  // Text

  block({ index, html, open, tokens }) {
    const isEarlier = tokens <= this.earlierTokens;
    if (!isEarlier) this.begin(tokens);
    if (!this.html.has(index) && index >= this.keptBlocks) announce("answer:block", { run: this.run, index });
    this.html.set(index, html);
    if (open) this.openIndex = index;
    if (!open && !this.closed.has(index)) {
      this.closed.add(index);
      if (!isEarlier) this.unspoken.push(index);
    }
    this.waitingBlocks.add(index);
    this.drawSoon();
  }

  drawSoon() {
    if (this.isDrawing) return;
    this.isDrawing = true;
    // A hidden tab paints nothing, and gets no frames.
    if (document.hidden) setTimeout(() => this.draw(), 250);
    else requestAnimationFrame(() => this.draw());
  }

  draw() {
    this.isDrawing = false;
    const blocks = this.part("blocks");
    for (const index of [...this.waitingBlocks].sort((a, b) => a - b)) {
      this.put(blocks, index, this.html.get(index));
    }
    this.waitingBlocks.clear();
    if (this.openIndex !== null) {
      // The open block is the last: what stood behind it is in it now.
      while (blocks.childElementCount > this.openIndex + 1) blocks.lastElementChild.remove();
      this.openIndex = null;
    }
    for (const index of this.unspoken) say(spoken(blocks.children[index]));
    this.unspoken = [];
  }

  put(blocks, index, html) {
    while (blocks.childElementCount <= index) {
      const block = document.createElement("div");
      block.className = "block";
      block.dataset.block = blocks.childElementCount;
      blocks.append(block);
    }
    const block = blocks.children[index];
    if (index < this.keptBlocks && block.innerHTML === normalised(html)) return;
    const left = block.querySelector("pre, .table-scroll")?.scrollLeft;
    block.innerHTML = html;
    if (left) block.querySelector("pre, .table-scroll").scrollLeft = left;
  }

  think({ content, tokens, earlier }) {
    const text = this.part("thinking-text");
    if (!this.hasReasoning) {
      this.hasReasoning = true;
      this.part("thinking").hidden = false;
      text.textContent = "";
    }
    if (!earlier) {
      const now = performance.now();
      this.reasoningSince ??= now;
      this.reasoningUntil = now;
    }
    this.tokens = Math.max(this.tokens, tokens ?? 0);
    const isAtEnd = text.scrollHeight - text.clientHeight - text.scrollTop < 16;
    text.append(content);
    if (isAtEnd) text.scrollTop = text.scrollHeight;
  }

  call({ index, name, arguments: piece }) {
    this.begin();
    if (!this.calls.size) this.part("tool-calls").replaceChildren();
    if (!this.calls.has(index)) {
      const call = fragment("tool-call").firstElementChild;
      this.calls.set(index, call);
      this.part("tool-calls").append(call);
    }
    const call = this.calls.get(index);
    if (name) call.querySelector("[data-tool-name]").textContent = name;
    call.querySelector("[data-tool-arguments]").append(piece ?? "");
  }

  // Figures

  /** The first piece of the answer: from here on tokens are counted by time. */
  begin(tokens) {
    if (!this.hasText) {
      this.hasText = true;
      this.retry = null;
      this.since = performance.now();
      this.tokensBefore = tokens ?? this.tokens;
    }
    if (tokens !== undefined) this.tokens = tokens;
  }

  tick() {
    const now = performance.now();
    const elapsed = (now - this.began) / 1000;
    if (this.reasoningSince) {
      const until = this.hasText ? this.reasoningUntil : now;
      this.part("thinking-label").textContent =
        `${this.hasText ? "Thought for" : "Thinking ·"} ${seconds((until - this.reasoningSince) / 1000)}`;
    }
    this.part("waiting").hidden = Boolean(this.hasText);
    this.part("live").hidden = !this.hasText;
    if (this.hasText) this.showFigures(now, elapsed);
    else this.part("waiting-text").textContent = this.waitingText(now, elapsed);
  }

  waitingText(now, elapsed) {
    if (this.retry) {
      const left = Math.max(0, (this.retry.until - now) / 1000);
      const when = left > 0 ? `in ${seconds(left)}` : "now";
      return `${this.retry.code}: attempt ${this.retry.attempt} of ${this.retry.max_attempts} ${when}`;
    }
    const facts = [this.reasoningSince ? `${this.model} is thinking` : `Waiting for ${this.model}`, seconds(elapsed)];
    if (this.inputTokens) facts.push(`≈${count(this.inputTokens)} tokens in`);
    return facts.join(" · ");
  }

  showFigures(now, elapsed) {
    const time = (now - this.since) / 1000;
    const rate = time > 0.5 ? (this.tokens - this.tokensBefore) / time : null;
    const facts = [`${count(this.tokens)} tokens`];
    if (rate) facts.push(`${rate.toFixed(rate < 10 ? 1 : 0)} tokens/s`);
    facts.push(seconds(elapsed));
    this.part("live-text").textContent = facts.join(" · ");
    const progress = this.part("progress");
    progress.hidden = !this.maxTokens;
    if (this.maxTokens) {
      progress.max = this.maxTokens;
      progress.value = Math.min(this.tokens, this.maxTokens);
    }
  }

  connection(state) {
    this.part("connection").hidden = state !== "lost";
    announce("run:connection", { run: this.run, state });
  }

  // The end

  end(event) {
    this.isEnded = true;
    clearInterval(this.timer);
    this.draw();
    this.part("connection")?.toggleAttribute("hidden", true);
    announce("run:ended", { run: this.run, event });
    this.settle(event);
  }

  /** Whether what arrived is what is stored. It is said in the console; and if it is not, it is
   * told to the server, which counts that. */
  async check({ length, view }) {
    if (!view) return true; // from a server that cannot tell yet
    const isAsSent = await agrees(this.html, view);
    const isWhole = isAsSent && view.is_as_stored;
    announce("run:checked", { run: this.run, isWhole, isExact, length });
    if (!isAsSent) post(this.dataset.mismatchUrl, { keepalive: true }).catch(() => {});
    return isWhole;
  }

  /** Asks whether the run is over although its `done` did not reach us. */
  async checkEnd() {
    const answer = await this.result();
    if (!answer) return false;
    if (this.isEnded) return true; // it has reached us meanwhile
    this.isEnded = true;
    clearInterval(this.timer);
    announce("run:ended", { run: this.run, event: null });
    this.finish(answer.html);
    return true;
  }

  /** The finished answer, `{html: null}` where nothing was kept, or null: not yet. */
  async result() {
    const answer = await fetch(this.dataset.resultUrl, { headers: { "HX-Request": "true", Accept: "text/html" } });
    if (answer.status === 204) return { html: null };
    if (isSignedOut(answer.url, answer.status)) announce("notice", SIGNED_OUT);
    if (!answer.ok || answer.redirected) return null;
    const html = await answer.text();
    const status = /data-status="(\w+)"/.exec(html)?.[1];
    return status === "running" ? null : { html };
  }

  async settle(event) {
    const checked = this.check(event).catch(() => true); // what cannot be compared is not repaired
    for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
      const answer = await this.result().catch(() => null);
      const isWhole = await checked;
      if (!this.isConnected) return;
      if (answer) {
        // All of it is read again: nothing that is here is taken for right.
        if (!isWhole) this.html.clear();
        this.finish(answer.html, event);
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, 200 * 2 ** attempt));
    }
    this.finishAlone(event);
  }

  finish(html, event = null) {
    if (html === null) {
      this.takeBack(event);
      return;
    }
    const template = document.createElement("template");
    template.innerHTML = html;
    const next = template.content.querySelector("chat-answer");
    const totals = template.content.querySelector("[data-totals]");
    this.takeBlocks(next.querySelector("[data-blocks]"));
    const isOpen = this.part("thinking").open;
    this.takeOver("thinking", next);
    this.part("thinking").open = isOpen;
    const opened = [...this.part("tool-calls").children].map((call) => call.open);
    this.takeOver("tool-calls", next);
    [...this.part("tool-calls").children].forEach((call, index) => { call.open = opened[index] ?? false; });
    this.takeOver("foot", next);
    window.htmx.process(this.part("foot"));
    this.closest("[data-entry]").dataset.message = next.closest("[data-entry]").dataset.message;
    this.dataset.status = next.dataset.status;
    if (totals) replace(totals);
    else if (event?.metrics) add(event.metrics);
    else reload();
    this.speakEnd(event);
    announce("run:settled", { run: this.run });
  }

  takeOver(name, next) {
    this.part(name).replaceWith(document.importNode(next.querySelector(`[data-${name}]`), true));
  }

  takeBlocks(next) {
    const blocks = this.part("blocks");
    [...next.children].forEach((block, index) => {
      const shown = this.html.get(index);
      if (shown === undefined || normalised(shown) !== block.innerHTML) this.put(blocks, index, block.innerHTML);
    });
    while (blocks.childElementCount > next.childElementCount) blocks.lastElementChild.remove();
  }

  /** Stopped before the first chunk: the question goes back into the box. */
  takeBack(event) {
    const entry = this.closest("[data-entry]");
    const question = document.querySelector(`[data-entry="user"][data-message="${this.dataset.question}"]`);
    const text = this.prompt ?? question?.querySelector("[data-text]")?.textContent ?? "";
    // The end tells which are free again. Where it did not reach us, those that were there are.
    const images = event ? (event.attachments ?? []) : question ? attachments.of(question) : [];
    question?.remove();
    entry.remove();
    announce("prompt:restore", { text, attachments: images });
    if (event?.metrics) add(event.metrics);
    announce("run:settled", { run: this.run });
    announce("run:returned");
  }

  /** The server does not give the finished answer: what is known stays, and says how it ended. */
  finishAlone(event) {
    this.dataset.status = event.type === "error" ? "error" : "done";
    const foot = this.part("foot");
    foot.replaceChildren();
    if (event.type === "error") {
      const failure = fragment("failure");
      failure.querySelector("[data-failure-message]").textContent = event.message;
      failure.querySelector("[data-failure-code]").textContent = event.code;
      foot.append(failure);
    } else {
      foot.textContent = "Reload the page to see tokens and cost.";
    }
    this.speakEnd(event);
    announce("run:settled", { run: this.run });
  }

  speakEnd(event) {
    if (event?.type === "error") say(`Error. ${event.message}`);
    else if (event?.stopped) say("Answer stopped.");
    else say("Answer complete.");
  }
}

customElements.define("chat-answer", ChatAnswer);
