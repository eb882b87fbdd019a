/** `<chat-composer>`: the message box. Sends, stops, keeps drafts, and says why something failed.
 *
 * The server may put a new one in its place (with the errors of a refused message), so what lasts
 * longer than one box is kept in `state`.
 */

import * as attachments from "./attachments.js";
import * as drafts from "./drafts.js";
import { count, plural } from "./format.js";
import { announce, fragment } from "./fragments.js";
import { isSignedOut, post, refusal } from "./requests.js";
import { reload as reloadTotals } from "./totals.js";

const SAVE_AFTER = 250; // ms
const DOUBLE_CLICK = 400; // ms
const STOP_ATTEMPTS = 10; // while the server has not started the run yet
const hasFieldSizing = CSS.supports("field-sizing", "content");

const state = {
  sent: null, // {text, images, print, key} between a send and its answer
  failed: null, // the same, of a send that got no answer: tried again with the same key
  run: null, // {stopUrl} of the run of this chat
  busySince: Infinity, // since when Stop stands where Send was
  isStopping: false,
  isRetrying: false,
  initial: null, // the chat's own parameters, by name
  again: null, // {typed} while a refused message comes back in a new box
};

function newKey() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // without HTTPS
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

class ChatComposer extends HTMLElement {
  connectedCallback() {
    if (this.form) return;
    this.form = this.querySelector("[data-composer-form]");
    this.prompt = this.part("prompt");
    this.chat = this.dataset.chat;
    this.controls = () => [...this.form.elements].filter((field) => field.matches("[data-parameter], [data-picker-value]"));
    state.initial ??= new Map(this.controls().map((field) => [field.name, field.defaultValue]));
    this.picker = document.querySelector("config-picker");

    this.prompt.addEventListener("input", () => this.typed());
    this.prompt.addEventListener("keydown", (event) => this.key(event));
    // In the capture phase: before htmx, which listens on the form itself.
    this.addEventListener("submit", (event) => this.submit(event), true);
    // Send and Stop share a place: the second click of two belongs to the button that was there.
    this.part("send").addEventListener("click", (event) => event.detail > 1 && event.preventDefault());
    this.part("stop").addEventListener("click", ({ detail }) => {
      if (detail < 2 || performance.now() - state.busySince > DOUBLE_CLICK) stop();
    });
    this.part("parameters-toggle").addEventListener("click", () => this.showParameters(this.part("parameters").hidden));
    this.part("alert-close").addEventListener("click", () => this.tell(null));
    this.part("attach").addEventListener("click", () => this.attach());
    this.part("attach-input").addEventListener("change", ({ target }) => {
      this.take(target.files);
      target.value = ""; // or the same file could not be chosen again
    });
    this.prompt.addEventListener("paste", (event) => this.paste(event));
    this.part("box").addEventListener("click", ({ target }) => {
      if (!target.closest("button, a, textarea")) this.prompt.focus();
    });
    this.form.addEventListener("input", ({ target }) => {
      if (!target.matches("[data-parameter]")) return;
      target.removeAttribute("aria-invalid");
      target.parentElement.querySelector(".errors").replaceChildren();
      this.changed();
    });

    this.restore();
    attachments.draw();
    this.showParameters(!this.part("parameters").hidden || Boolean(this.querySelector("[data-parameter][aria-invalid]")), false);
    this.show();
    this.grow();
    if (matchMedia("(pointer: fine)").matches && !document.querySelector("dialog[open]")) this.prompt.focus();
  }

  part(name) {
    return this.querySelector(`[data-${name}]`);
  }

  // Draft

  restore() {
    const draft = drafts.load(this.chat);
    if (draft.print && draft.key) state.failed ??= { text: draft.text, print: draft.print, key: draft.key };
    if (!this.prompt.value && !state.sent) this.prompt.value = draft.text ?? "";
    if (!attachments.count() && !state.sent && !state.again) attachments.putBack(draft.attachments ?? []);
    for (const field of this.controls()) {
      const value = draft.values?.[field.name];
      if (value === undefined || field.hasAttribute("aria-invalid")) continue;
      if (field.name !== "configuration_id") field.value = value;
      else if (!this.picker?.select(value)) this.picker?.select(state.initial.get(field.name));
    }
    // With the box put in again, its own default is the server's: the picker outside keeps its value.
    this.place();
  }

  /** Changed parameters are kept too, until a send makes them the chat's own. */
  values() {
    const changed = this.controls().filter((field) => field.value !== state.initial.get(field.name));
    return Object.fromEntries(changed.map((field) => [field.name, field.value]));
  }

  save() {
    clearTimeout(this.saving);
    const text = state.sent ? [state.sent.text, this.prompt.value].filter(Boolean).join("\n\n") : this.prompt.value;
    const { print, key } = state.sent ?? state.failed ?? {};
    const images = [...(state.sent?.images ?? []), ...attachments.ready()];
    drafts.save(this.chat, { text, attachments: images, print, key, values: this.values() });
  }

  saveSoon() {
    clearTimeout(this.saving);
    this.saving = setTimeout(() => this.save(), SAVE_AFTER);
  }

  // Typing

  typed() {
    this.part("box").classList.remove("is-invalid");
    this.prompt.removeAttribute("aria-invalid");
    this.part("prompt-errors").replaceChildren();
    this.grow();
    this.show();
    this.saveSoon();
  }

  grow() {
    if (hasFieldSizing) return;
    this.prompt.style.height = "auto";
    this.prompt.style.height = `${this.prompt.scrollHeight}px`;
  }

  place() {
    const end = this.prompt.value.length;
    this.prompt.setSelectionRange(end, end);
  }

  key(event) {
    // 229: the Enter that closes an input method in Safari.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    if (event.altKey) return;
    event.preventDefault();
    this.form.requestSubmit();
  }

  changed() {
    this.show();
    this.saveSoon();
    announce("composer:changed");
  }

  // Images

  /** Why none can be sent, as a sentence; null where they can. */
  get blindness() {
    if (!this.picker?.chosen || this.picker.sees) return null;
    return `${this.picker.chosen.name} cannot see images. Choose another model to send some.`;
  }

  attach() {
    if (this.blindness) this.tell({ text: this.blindness });
    else this.part("attach-input").click();
  }

  take(files) {
    if (!files.length || this.prompt.disabled) return;
    if (this.blindness) return this.tell({ text: this.blindness });
    attachments.add(files);
    if (matchMedia("(pointer: fine)").matches) this.prompt.focus();
  }

  paste(event) {
    const { files, types } = event.clipboardData;
    // Office programs put a picture of the text beside it.
    if (!files.length || types.includes("text/plain")) return;
    event.preventDefault();
    this.take(files);
  }

  /** Whether images can be sent, and what stands in the way of those that are there. */
  showImages() {
    const words = this.blindness;
    const button = this.part("attach");
    button.setAttribute("aria-disabled", String(Boolean(words)));
    button.title = words ?? "Attach images";
    const note = this.part("tray-note");
    note.hidden = !words || !attachments.count();
    note.textContent = note.hidden ? "" : `${this.picker.chosen.name} cannot see images. Choose another model, or remove them.`;
  }

  showParameters(isShown, isAsked = true) {
    this.part("parameters").hidden = !isShown;
    this.part("parameters-toggle").setAttribute("aria-expanded", String(isShown));
    if (isShown && isAsked) this.part("parameters").querySelector("input").focus();
  }

  show() {
    const busy = isBusy();
    if (!busy) state.busySince = Infinity;
    else if (state.busySince === Infinity) state.busySince = performance.now();
    const hadFocus = document.activeElement === this.part(busy ? "send" : "stop");
    this.part("send").hidden = busy;
    this.part("stop").hidden = !busy;
    this.part("stop").disabled = state.isStopping;
    this.part("stop").setAttribute("aria-label", state.isStopping ? "Stopping" : "Stop");
    if (hadFocus) this.prompt.focus();
    const length = [...this.prompt.value].length;
    const most = Number(this.prompt.dataset.max);
    this.part("send").disabled = this.prompt.disabled || !this.prompt.value.trim() || attachments.isUploading();
    this.showImages();
    const counter = this.part("count");
    counter.hidden = length < most * 0.8;
    if (!counter.hidden) counter.textContent = `${count(length)} of ${count(most)}`;
    counter.classList.toggle("is-over", length > most);
    const set = this.controls().filter((field) => field.matches("[data-parameter]") && field.value !== "").length;
    const badge = this.part("parameters-set");
    badge.hidden = !set;
    badge.textContent = set;
    badge.title = `${set} set`;
  }

  tell(notice) {
    this.notice = notice;
    const box = this.part("alert");
    const link = this.part("alert-link");
    box.hidden = !notice;
    if (!notice) return;
    this.part("alert-text").textContent = notice.text;
    link.hidden = !notice.link;
    if (notice.link) {
      link.textContent = notice.link.label;
      link.href = notice.link.href;
    }
  }

  // Sending

  print() {
    const data = new FormData(this.form);
    data.delete("csrfmiddlewaretoken");
    data.delete("idempotency_key");
    return JSON.stringify([...data]);
  }

  submit(event) {
    const text = this.prompt.value;
    const refuse = () => {
      event.preventDefault();
      event.stopPropagation();
    };
    if (state.sent) return refuse();
    if (!text.trim()) {
      refuse();
      return attachments.count() ? this.refuse("Write what to do with the image.") : undefined;
    }
    if (state.run || state.isRetrying) {
      refuse();
      return this.tell({ text: "An answer is being written in this chat. Wait for it, or stop it.", untilEnd: true });
    }
    const over = [...text].length - Number(this.prompt.dataset.max);
    if (over > 0) {
      refuse();
      return this.refuse(`The message is ${plural(over, "character", "characters")} too long. It may have ${count(Number(this.prompt.dataset.max))}.`);
    }
    if (attachments.isUploading()) {
      refuse();
      return this.refuse("An image is still on its way. Send when it is there.");
    }
    if (attachments.count() && this.blindness) {
      refuse();
      return this.prompt.focus(); // the note in the box says why
    }
    this.tell(null);
    const print = this.print();
    const key = state.failed?.print === print ? state.failed.key : newKey();
    this.part("key").value = key;
    this.sending = { text, print, key };
  }

  refuse(words) {
    const item = document.createElement("li");
    item.textContent = words;
    this.part("prompt-errors").replaceChildren(item);
    this.part("box").classList.add("is-invalid");
    this.prompt.setAttribute("aria-invalid", "true");
    this.prompt.focus();
  }

  /** The request is on its way, with its values taken: the box is free for the next message. */
  sent() {
    state.sent = { ...this.sending, images: attachments.take() };
    state.isStopping = false;
    this.prompt.value = "";
    this.grow();
    this.show();
    this.save();
    const pending = fragment("pending");
    const bubble = pending.querySelector("[data-text]");
    bubble.textContent = state.sent.text;
    if (state.sent.images.length) bubble.before(attachments.list(state.sent.images));
    document.querySelector("[data-transcript]").append(pending);
    announce("run:pending");
  }

  /** The message is kept by the server. */
  accepted() {
    state.sent = null;
    state.failed = null;
    for (const field of this.controls()) state.initial.set(field.name, field.value);
    this.show();
    this.save();
  }

  /** Not accepted: the text comes back, before what was typed meanwhile. */
  giveBack({ isLost = false } = {}) {
    const { sent } = state;
    if (!sent) return;
    state.failed = isLost ? sent : null;
    state.sent = null;
    attachments.putBack(sent.images);
    this.put(sent.text);
  }

  put(text) {
    const typed = this.prompt.value.trim() === text.trim() ? "" : this.prompt.value;
    this.prompt.value = [text, typed].filter(Boolean).join("\n\n");
    this.grow();
    this.show();
    this.save();
    this.place();
    this.prompt.focus();
  }
}

const composer = () => document.querySelector("chat-composer");

/** Whether this tab sends, or follows an answer. */
export const isBusy = () => Boolean(state.sent || state.run || state.isRetrying);

const isSend = (element) => element?.matches?.("[data-composer-form]");

function dropPending() {
  for (const entry of document.querySelectorAll("[data-transcript] [data-pending]")) entry.remove();
}

document.addEventListener("htmx:beforeSend", ({ detail }) => {
  if (isSend(detail.requestConfig.elt)) composer().sent();
});

document.addEventListener("htmx:beforeSwap", ({ detail }) => {
  const { xhr, requestConfig } = detail;
  if (!isSend(requestConfig?.elt)) return;
  const isJson = xhr.getResponseHeader("Content-Type")?.includes("json");
  if (xhr.status === 429 && xhr.responseText.includes("<chat-composer")) {
    // Over a budget: the form says so, as it does of bad values.
    detail.shouldSwap = true;
    detail.isError = false;
  }
  if (!detail.shouldSwap) return;
  dropPending();
  if (xhr.status === 422 || xhr.status === 429) {
    // The form with its errors. JSON means that it came from elsewhere, such as a limit.
    if (isJson) {
      detail.shouldSwap = false;
      detail.isError = true;
      composer().giveBack();
      composer().tell(refusal(xhr.status, xhr.responseText));
      return;
    }
    detail.target = composer();
    detail.swapOverride = "outerHTML";
    state.again = { typed: composer().prompt.value, images: state.sent?.images ?? [] };
    state.sent = null;
    return;
  }
  // A repeated send is answered with what is there already.
  const answer = document.createElement("template");
  answer.innerHTML = xhr.responseText;
  for (const entry of answer.content.querySelectorAll("[data-entry][data-message]")) {
    const id = entry.dataset.message;
    if (id) document.querySelector(`[data-transcript] [data-message="${CSS.escape(id)}"]`)?.remove();
  }
  for (const { dataset } of answer.content.querySelectorAll("chat-answer[data-run]")) {
    document.querySelector(`[data-transcript] chat-answer[data-run="${dataset.run}"]`)?.closest("[data-entry]").remove();
  }
  if (answer.content.querySelector("[data-entry]")) composer().accepted();
  else composer().giveBack(); // stopped before anything was kept
});

document.addEventListener("htmx:afterRequest", ({ detail }) => {
  if (!isSend(detail.requestConfig.elt)) return;
  const { xhr } = detail;
  dropPending();
  const box = composer();
  if (state.again) {
    const { typed, images } = state.again;
    state.again = null;
    attachments.putBack(images);
    const refused = box.prompt.value;
    box.prompt.value = typed;
    box.put(refused);
    box.querySelector("[aria-invalid=true]")?.focus();
    announce("composer:changed"); // the new box does not know yet what its message takes along
  } else if (state.sent) {
    // 204: stopped before anything was kept. 0 and 5xx: perhaps stored, so the key stays.
    box.giveBack({ isLost: xhr.status === 0 || xhr.status >= 500 || isSignedOut(xhr.responseURL, xhr.status) });
  } else if (!state.run) {
    whole(); // not streamed: all is there
  }
  state.isStopping = false;
  box.show();
});

/** The finished answer came at once. */
function whole() {
  const answer = [...document.querySelectorAll("[data-transcript] chat-answer")].at(-1);
  announce("answer:whole", { ...answer?.dataset });
  announce("run:settled", {});
  reloadTotals();
}

// Stopping

async function stop() {
  if (state.isStopping || !isBusy()) return;
  state.isStopping = true;
  composer().show();
  try {
    for (let attempt = 0; attempt < STOP_ATTEMPTS; attempt += 1) {
      const url = state.run?.stopUrl ?? composer().dataset.stopUrl;
      const answer = await post(url);
      if (answer.status === 404 && !state.run) {
        await new Promise((resolve) => setTimeout(resolve, 300)); // the first run is not there yet
        continue;
      }
      if (!answer.ok) {
        const words = refusal(answer.status, await answer.text(), answer.headers.get("Retry-After"));
        composer().tell({ ...words, text: words.text.replace(" Your text is kept: try again.", "") });
        break;
      }
      const { stopped } = await answer.json();
      if (stopped || !isBusy()) return; // its end comes by the stream
      await new Promise((resolve) => setTimeout(resolve, 300));
    }
  } catch {
    composer().tell({ text: "The server cannot be reached, so the answer goes on. Try to stop it again." });
  }
  state.isStopping = false;
  composer().show();
}

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.shiftKey || event.defaultPrevented || event.isComposing) return;
  if (document.querySelector("dialog[open], :popover-open, [data-picker-panel]:not([hidden])")) return;
  if (document.documentElement.dataset.drawer) return;
  if (!isBusy()) return;
  event.preventDefault();
  stop();
});

// Runs

document.addEventListener("run:started", ({ detail }) => {
  state.run = { id: detail.run, stopUrl: detail.stopUrl };
  state.isRetrying = false;
  composer().show();
});
document.addEventListener("run:ended", ({ detail }) => {
  if (state.run?.id !== detail.run) return;
  state.run = null;
  state.isStopping = false;
  composer().show();
  if (composer().notice?.untilEnd) composer().tell(null);
});
document.addEventListener("run:pending", ({ detail }) => {
  if (!detail.isRetry) return;
  state.isRetrying = true;
  composer().show();
});
document.addEventListener("run:answered", () => {
  state.isRetrying = false;
  composer().show();
});
document.addEventListener("prompt:restore", ({ detail }) => {
  attachments.putBack(detail.attachments);
  if (detail.text) composer().put(detail.text);
});
document.addEventListener("attachments:changed", ({ detail }) => {
  if (detail.isNew) composer().part("prompt-errors").replaceChildren();
  composer().show();
  composer().saveSoon();
});

// Images may be dropped anywhere in the chat; a file that misses must not replace the page.

const hasFiles = (event) => event.dataTransfer?.types.includes("Files");

for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    const isOver = name !== "drop" && !(name === "dragleave" && !event.relatedTarget);
    composer().part("box").classList.toggle("is-target", isOver);
    if (name === "drop") composer().take(event.dataTransfer.files);
  });
}

document.addEventListener("notice", ({ detail }) => composer()?.tell(detail));

document.addEventListener("change", ({ target }) => {
  if (target.matches?.("[data-picker-value]")) {
    composer().changed();
    composer().prompt.focus();
  }
});
document.addEventListener("click", ({ target }) => {
  const suggestion = target.closest?.("[data-suggestion]");
  if (!suggestion) return;
  composer().prompt.value = suggestion.textContent.trim();
  composer().typed();
  composer().place();
  composer().prompt.focus();
});

for (const name of ["pagehide", "beforeunload"]) addEventListener(name, () => composer()?.save());

customElements.define("chat-composer", ChatComposer);
