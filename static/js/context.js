/** Shows which messages the next request takes along, what does not fit, and what is left of the
 * person's budgets. */

import { count, plural } from "./format.js";

const WAIT = 350; // ms
const TYPING_WAIT = 800; // ms without a key, before what is typed is counted
let timer = 0;
let latest = 0;

const REASONS = {
  window: "it does not fit the context window",
  limit: "it is beyond the limit of earlier messages",
  failed: "it failed",
};

function mark(included, leftOut) {
  const reasons = new Map(leftOut.map(({ id, reason }) => [String(id), reason]));
  const ids = new Set(included.map(String));
  for (const entry of document.querySelectorAll("[data-transcript] [data-message]")) {
    const id = entry.dataset.message;
    entry.classList.toggle("in-context", ids.has(id));
    if (reasons.has(id)) entry.title = `Not sent with the next message: ${REASONS[reasons.get(id)]}`;
    else entry.removeAttribute("title");
  }
}

function tell({ included, left_out: leftOut, input_tokens: tokens, context_window: room }) {
  const line = document.querySelector("[data-context-line]");
  const dropped = leftOut.filter(({ reason }) => reason === "window").length;
  const facts = [];
  if (included.length || tokens) {
    facts.push(
      included.length
        ? `Sends ${plural(included.length, "earlier message", "earlier messages")}`
        : "Sends no earlier messages",
    );
    facts.push(`≈${count(tokens)}${room ? ` of ${count(room)}` : ""} tokens`);
  }
  if (dropped) facts.push(`${plural(dropped, "oldest does", "oldest do")} not fit`);
  line.textContent = facts.join(" · ");
  line.classList.toggle("is-warning", dropped > 0);
}

async function look() {
  const composer = document.querySelector("chat-composer");
  const form = document.getElementById("composer-form");
  if (!composer || !form?.elements.configuration_id?.value) return; // nobody to send it to
  latest += 1;
  const own = latest;
  const url = new URL(composer.dataset.contextUrl, location.href);
  const data = new FormData(form);
  for (const name of ["configuration_id", "context_limit", "max_tokens"]) {
    const value = data.get(name);
    if (value) url.searchParams.set(name, value);
  }
  if (document.querySelector("[data-budget]")) {
    url.searchParams.set("prompt_characters", String(data.get("prompt") ?? "").length);
  }
  try {
    const answer = await fetch(url, { headers: { Accept: "application/json" } });
    if (!answer.ok || answer.redirected) return; // a value is out of bounds, or we are signed out
    const context = await answer.json();
    if (own !== latest) return;
    mark(context.included, context.left_out);
    tell(context);
    document.querySelector("[data-budget-slot]").innerHTML = context.budget;
  } catch {
    // Not reachable: the marks stay as they are until the next look.
  }
}

export function lookSoon(wait = WAIT) {
  clearTimeout(timer);
  timer = setTimeout(look, wait);
}

for (const name of ["run:settled", "composer:changed", "transcript:changed"]) {
  document.addEventListener(name, () => lookSoon());
}
document.addEventListener("input", ({ target }) => {
  if (target.matches?.("[data-prompt]") && document.querySelector("[data-budget]")) lookSoon(TYPING_WAIT);
});
lookSoon();
