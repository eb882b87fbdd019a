/** The same chat somewhere else: what another tab or another device has started, finished or
 * deleted is taken over here. Runs that still write are followed by their own answers. */

import { isBusy } from "./composer.js";
import { announce } from "./fragments.js";
import { replace } from "./totals.js";

const { chat } = document.querySelector("[data-chat]").dataset;
const transcript = document.querySelector("[data-transcript]");
const tabs = "BroadcastChannel" in window ? new BroadcastChannel("llmchat") : null;
const own = new Set(); // the runs that this tab has started
let activity = document.querySelector(".chat-item:has([aria-current])")?.dataset.activity;
let isOurNews = false; // the next change of it is this tab's own
let isLooking = false;
let isAskedAgain = false;

const OURS = 'chat-answer:is([data-status="running"], [data-status="pending"])';
const isWriting = () => isBusy() || Boolean(transcript.querySelector(OURS));

/** An answer is its run, a message without one is itself. */
function key(entry) {
  const run = entry.querySelector("chat-answer")?.dataset.run;
  return run ? `run ${run}` : `message ${entry.dataset.message}`;
}

/** Whether what stands here still says what the server's does. */
function isSame(entry, next) {
  if (!entry) return false;
  const status = (root) => root.querySelector("chat-answer")?.dataset.status;
  const offers = (root) => root.querySelectorAll("[data-asks-again], [data-continue]").length;
  return status(entry) === status(next) && offers(entry) >= offers(next);
}

const entries = (root) => [...root.querySelectorAll("[data-entry]")];

function takeOver(page) {
  const there = new Map(entries(transcript).map((entry) => [key(entry), entry]));
  let place = transcript.querySelector("[data-welcome]");
  let hasChanged = false;
  for (const next of entries(page.querySelector("[data-transcript]"))) {
    let entry = there.get(key(next));
    there.delete(key(next));
    const isNew = !isSame(entry, next);
    if (isNew) {
      entry?.remove();
      entry = document.importNode(next, true);
      hasChanged = true;
    }
    const follower = place ? place.nextElementSibling : transcript.firstElementChild;
    if (follower !== entry) {
      transcript.insertBefore(entry, follower);
      hasChanged = true;
    }
    if (isNew) window.htmx.process(entry);
    place = entry;
  }
  for (const gone of there.values()) {
    gone.remove();
    hasChanged = true;
  }
  return hasChanged;
}

/** Makes the transcript that of the server, unless this tab itself is at work. */
async function look() {
  isAskedAgain = isLooking;
  if (isLooking || isWriting()) return;
  isLooking = true;
  try {
    const answer = await fetch(location.pathname, { headers: { Accept: "text/html" } });
    if (!answer.ok || answer.redirected) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (isWriting() || !page.querySelector("[data-transcript]")) return;
    replace(page.querySelector("[data-totals]"));
    announce("chat:title", { title: page.querySelector("[data-title-name]").textContent });
    if (takeOver(page)) announce("transcript:changed");
  } catch {
    // Not reachable: the next look may be luckier.
  } finally {
    isLooking = false;
    if (isAskedAgain) look();
  }
}

document.addEventListener("chat:seen", ({ detail }) => {
  const isNews = detail.isRunning || (detail.activity !== activity && !isOurNews);
  activity = detail.activity;
  isOurNews = false;
  if (isNews) look();
});

// An unread refusal: somebody else writes here.
document.addEventListener("notice", ({ detail }) => detail.untilEnd && setTimeout(look));
// What was taken back here is perhaps still kept there, under an earlier answer.
document.addEventListener("run:returned", look);

// Other tabs of this browser need not wait for their next look.

const tell = (type) => tabs?.postMessage({ type, chat });

tabs?.addEventListener("message", ({ data }) => {
  if (data.chat === chat) look();
  announce("chats:changed");
});
document.addEventListener("run:started", ({ detail }) => {
  isOurNews = true;
  if (!detail.isFresh) return;
  own.add(detail.run);
  tell("started");
});
document.addEventListener("run:settled", ({ detail }) => {
  isOurNews = true;
  if (own.delete(detail.run) || !detail.run) tell("ended");
});
document.addEventListener("transcript:changed", ({ detail }) => detail.isOurs && tell("changed"));
document.addEventListener("chat:renamed", () => tell("changed"));
