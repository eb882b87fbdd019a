/** Follows the end of the transcript while the reader is there; else counts what is new. */

import { plural } from "./format.js";

const NEAR = 32; // px that still count as the bottom
const frame = document.querySelector("[data-scroll]");
const content = document.querySelector("[data-transcript]");
const button = document.querySelector("[data-to-bottom]");
const label = button.querySelector("[data-to-bottom-label]");

let isFollowing = true;
let lastTop = 0;
let fresh = 0;

const distance = () => frame.scrollHeight - frame.clientHeight - frame.scrollTop;

function show() {
  button.hidden = isFollowing || distance() < NEAR;
  label.textContent = fresh ? `${plural(fresh, "new block", "new blocks")}` : "To the bottom";
}

export function follow() {
  isFollowing = true;
  fresh = 0;
  frame.scrollTop = frame.scrollHeight;
  lastTop = frame.scrollTop;
  show();
}

function release() {
  if (!isFollowing) return;
  isFollowing = false;
  fresh = 0;
  show();
}

frame.addEventListener("scroll", () => {
  // Only a way up is the reader's: ours go down, and growth moves nothing.
  const isUp = frame.scrollTop < lastTop - 1;
  lastTop = frame.scrollTop;
  if (distance() < NEAR) {
    isFollowing = true;
    fresh = 0;
  } else if (isUp) {
    isFollowing = false;
  }
  show();
}, { passive: true });
frame.addEventListener("wheel", ({ deltaY }) => deltaY < 0 && distance() > -1 && frame.scrollTop > 0 && release(), { passive: true });
button.addEventListener("click", () => {
  follow();
  frame.focus({ preventScroll: true });
});

const sizes = new ResizeObserver(() => {
  if (isFollowing) {
    frame.scrollTop = frame.scrollHeight;
    lastTop = frame.scrollTop;
  }
  show();
});
sizes.observe(content);
sizes.observe(frame);

document.addEventListener("answer:block", () => {
  if (isFollowing) return;
  fresh += 1;
  show();
});
document.addEventListener("run:pending", follow);

const target = location.hash.length > 1 && document.getElementById(location.hash.slice(1));
if (target && content.contains(target)) isFollowing = false;
else follow();
