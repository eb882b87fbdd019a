/** The list of chats: fresh after each start and end of a run, and after a deletion. */

import { announce } from "./fragments.js";

const BUSY = 4_000; // ms between looks while another chat is being answered
const chat = document.querySelector("[data-chat]").dataset.chat;
const place = document.querySelector("[data-sidebar-scroll]");
let timer;

const list = () => document.querySelector("[data-chat-list]");

export async function refresh() {
  // `source`, here and elsewhere: htmx lets the requests of one element wait for each other and
  // drops all but the last that wait. Without one, all of a page would stand in one queue.
  await window.htmx.ajax("GET", list().dataset.url, { source: place, target: place, swap: "innerHTML" });
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
  if (target !== place) return;
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
