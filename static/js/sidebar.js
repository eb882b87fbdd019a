/** The list of chats: fresh after each start and end of a run, after a deletion, and now and then,
 * because other tabs and other devices change it too. */

import { announce } from "./fragments.js";

const PAUSE = 5_000; // ms between looks
const chat = document.querySelector("[data-chat]").dataset.chat;
const place = document.querySelector("[data-sidebar-scroll]");
let timer;
let latest = 0;
let isSignedOut = false;

const list = () => document.querySelector("[data-chat-list]");

/** What is shown of it. Each answer has its own CSRF tokens, which are none of that. */
function shown(root) {
  return root.outerHTML.replace(/(name="csrfmiddlewaretoken" value=")[^"]*/g, "$1");
}

let last = shown(list()); // before htmx marks its elements

export async function refresh() {
  latest += 1;
  const own = latest;
  clearTimeout(timer);
  const answer = await fetch(list().dataset.url, { headers: { "HX-Request": "true", Accept: "text/html" } }).catch(() => null);
  isSignedOut = answer?.status === 401;
  const html = answer?.ok && !answer.redirected ? await answer.text().catch(() => "") : "";
  if (html && own === latest) show(html);
  if (own === latest) watch();
}

function show(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  const next = template.content.querySelector("[data-chat-list]");
  if (!next) return;
  const now = shown(next);
  // Nothing moves under a question that is asked about it.
  if (now !== last && !document.querySelector("dialog[open]")) {
    last = now;
    const focused = place.contains(document.activeElement) ? document.activeElement : null;
    const id = focused?.closest(".chat-item")?.querySelector(".chat-link").id;
    list().replaceWith(document.importNode(next, true));
    window.htmx.process(list());
    const item = id && document.getElementById(id)?.closest(".chat-item");
    if (item) item.querySelector(focused.matches(".chat-delete *") ? ".chat-delete button" : ".chat-link").focus({ preventScroll: true });
  }
  const current = next.querySelector("[aria-current]");
  if (!current) return;
  // A title may have been made from the first words meanwhile.
  announce("chat:title", { title: current.querySelector(".chat-name").textContent });
  const { running, activity } = current.closest(".chat-item").dataset;
  announce("chat:seen", { isRunning: running !== undefined, activity });
}

function watch() {
  clearTimeout(timer);
  if (!document.hidden && !isSignedOut) timer = setTimeout(refresh, PAUSE);
}

for (const name of ["run:started", "run:settled", "chat:renamed", "chats:changed"]) {
  document.addEventListener(name, refresh);
}

document.addEventListener("htmx:afterRequest", ({ detail }) => {
  const form = detail.requestConfig.elt.closest("[data-deletes-chat]");
  if (!form || !detail.successful) return;
  if (form.dataset.deletesChat === chat) location.assign("/");
  else refresh();
});

document.addEventListener("visibilitychange", () => document.hidden || refresh());
addEventListener("focus", refresh);
list().querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
watch();
