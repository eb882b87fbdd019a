/** The list of chats: fresh after each start and end of a run, and after a deletion. */

import { announce } from "./fragments.js";

const BUSY = 4_000; // ms between looks while another chat is being answered
const chat = document.querySelector("[data-chat]").dataset.chat;
let timer;

const list = () => document.querySelector("[data-chat-list]");

export async function refresh() {
  await window.htmx.ajax("GET", list().dataset.url, { target: list(), swap: "outerHTML" });
}

/** Other chats may be at work too: their sign goes when they end. */
function watch() {
  clearTimeout(timer);
  const others = list()?.querySelector("[data-running] .chat-link:not([aria-current])");
  if (!others) return;
  timer = setTimeout(() => (document.hidden ? watch() : refresh()), BUSY);
}

for (const name of ["run:started", "run:settled"]) document.addEventListener(name, refresh);

document.addEventListener("htmx:afterSettle", ({ target }) => {
  if (!target.matches?.("[data-chat-list]") && target.id !== "chat-list") return;
  // A title may have been made from the first words meanwhile.
  const name = list().querySelector("[aria-current] .chat-name");
  if (name) announce("chat:title", { title: name.textContent });
  watch();
});

document.addEventListener("htmx:afterRequest", ({ detail }) => {
  const form = detail.requestConfig.elt.closest("[data-deletes-chat]");
  if (!form || !detail.successful) return;
  if (form.dataset.deletesChat === chat) location.assign("/");
  else refresh();
});

document.addEventListener("chat:renamed", refresh);
document.addEventListener("visibilitychange", () => document.hidden || watch());
list().querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
watch();
