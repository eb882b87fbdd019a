/** The images of the next message: chosen, pasted or dropped, uploaded one after another, shown in a
 * tray in the message box.
 *
 * The server may put a new message box in the place of the old one; the tray's items outlive it.
 * `attachments:changed` says that there is something else in it; `isNew`, that what was said about
 * it no longer holds.
 */

import { plural } from "./format.js";
import { announce, fragment } from "./fragments.js";
import { csrfToken, post, refusal } from "./requests.js";

/** `{element, name, stored?, request?, error?}`: `stored` is what the server says of one that it has
 * (`id`, `name`, `url`, `width`, `height`), `error` why one cannot be sent. */
let items = [];
let queue = Promise.resolve();

const composer = () => document.querySelector("chat-composer");
const limit = (name) => Number(composer().dataset[name]);

export const count = () => items.length;
export const isUploading = () => items.some(({ stored, error }) => !stored && !error);

/** What the server has, as it can be kept in a draft. */
export const ready = () => items.filter(({ stored }) => stored).map(({ stored }) => stored);

/** Takes what is ready out of the tray, and throws away what failed. */
export function take() {
  const taken = ready();
  items = [];
  changed({ isNew: false });
  return taken;
}

/** Puts back what was taken, before what is there now. */
export function putBack(images) {
  const there = new Set(ready().map(({ id }) => id));
  const returned = images.filter(({ id }) => !there.has(id)).map((image) => made(image.name, image));
  items = [...returned, ...items];
  changed({ isNew: false });
}

export function add(files) {
  const room = limit("imagesMax") - items.filter(({ error }) => !error).length;
  const chosen = [...files];
  if (chosen.length > room) {
    announce("notice", { text: `A message may have ${plural(limit("imagesMax"), "image", "images")} at most.` });
  }
  for (const file of chosen.slice(0, Math.max(room, 0))) {
    const item = made(file.name);
    items.push(item);
    const problem = problemOf(file);
    if (problem) fail(item, problem);
    else queue = queue.then(() => upload(item, file));
  }
  changed();
}

/** What the server would say after the upload, said before it. */
function problemOf(file) {
  if (!composer().dataset.imageTypes.split(",").includes(file.type)) {
    return "Only PNG, JPEG, GIF and WebP images can be attached.";
  }
  if (file.size > limit("imageMaxBytes")) {
    return `An image may have ${Math.floor(limit("imageMaxBytes") / 1024 ** 2)} MB at most.`;
  }
  return null;
}

function made(name, stored = null) {
  const element = fragment("tile").firstElementChild;
  const item = { element, name };
  element.querySelector("[data-tile-name]").textContent = name;
  const button = element.querySelector("[data-tile-remove]");
  button.setAttribute("aria-label", `Remove ${name}`);
  button.addEventListener("click", () => remove(item));
  if (stored) succeed(item, stored);
  return item;
}

function succeed(item, { id, name, url, width, height }) {
  item.stored = { id, name, url, width, height };
  const { element } = item;
  element.classList.add("is-ready");
  element.querySelector("[data-tile-progress]").remove();
  const image = element.querySelector("[data-tile-image]");
  image.alt = name;
  image.title = name;
  // A draft may be older than the image.
  image.addEventListener("error", () => {
    item.stored = null;
    fail(item, "This image is no longer there. Attach it again.");
  });
  image.src = url;
  image.hidden = false;
}

function fail(item, words) {
  const { element } = item;
  item.error = words;
  element.classList.remove("is-ready");
  element.classList.add("is-failed");
  element.querySelector("[data-tile-progress]")?.remove();
  element.querySelector("[data-tile-image]").hidden = true;
  element.querySelector("[data-tile-error]").textContent = words;
  changed();
}

function upload(item, file) {
  if (!items.includes(item)) return null; // removed before its turn came
  const request = new XMLHttpRequest(); // fetch tells nothing of an upload's progress
  item.request = request;
  const progress = item.element.querySelector("[data-tile-progress]");
  request.upload.addEventListener("progress", ({ loaded, total }) => {
    if (loaded < total) progress.value = loaded / total;
    else progress.removeAttribute("value"); // all is there, and now the server is at work on it
  });
  const data = new FormData();
  data.append("file", file);
  request.open("POST", composer().dataset.uploadUrl);
  request.setRequestHeader("X-CSRFToken", csrfToken());
  request.setRequestHeader("Accept", "application/json");
  return new Promise((resolve) => {
    request.addEventListener("loadend", () => {
      if (items.includes(item)) finish(item, request);
      resolve();
    });
    request.send(data);
  });
}

function finish(item, request) {
  if (request.status === 201) succeed(item, JSON.parse(request.responseText));
  else fail(item, problemWith(request));
  changed();
}

function problemWith(request) {
  const { status, responseText } = request;
  if (status === 0) return "The server cannot be reached. Remove this image, and attach it again.";
  if (status === 413 && !responseText.startsWith("{")) return "This image is too large for the server.";
  return refusal(status, responseText, request.getResponseHeader("Retry-After")).text;
}

function remove(item) {
  const place = items.indexOf(item);
  items.splice(place, 1);
  item.request?.abort();
  if (item.stored) post(`${item.stored.url}delete/`).catch(() => {}); // else it goes by itself, after a day
  changed();
  const neighbour = items[place] ?? items[place - 1];
  const next = neighbour?.element.querySelector("[data-tile-remove]") ?? composer().querySelector("[data-prompt]");
  next.focus();
}

function changed({ isNew = true } = {}) {
  draw();
  announce("attachments:changed", { isNew });
}

/** Into the message box that is there now. */
export function draw() {
  const tray = composer().querySelector("[data-tray]");
  const elements = items.map(({ element }) => element);
  // What is there stays where it is: a focused button must not lose its focus.
  for (const child of [...tray.children]) if (!elements.includes(child)) child.remove();
  elements.forEach((element, index) => {
    if (tray.children[index] !== element) tray.insertBefore(element, tray.children[index] ?? null);
  });
  tray.hidden = !items.length;
  composer().querySelector("[data-attachments]").value = ready().map(({ id }) => id).join(",");
}

/** These images as they stand above a question in the transcript. */
export function list(images) {
  const shown = fragment("attachments").firstElementChild;
  for (const { name, url, width, height } of images) {
    const entry = fragment("attachment").firstElementChild;
    const image = entry.querySelector("img");
    entry.querySelector("a").href = url;
    image.src = url;
    image.alt = name;
    image.width = width;
    image.height = height;
    shown.append(entry);
  }
  return shown;
}

/** The images of a question in the transcript, to attach them again. */
export const of = (question) =>
  [...question.querySelectorAll("[data-attachment]")].map((link) => {
    const image = link.querySelector("img");
    return {
      id: link.dataset.attachment,
      name: image.alt,
      url: link.getAttribute("href"),
      width: image.getAttribute("width"),
      height: image.getAttribute("height"),
    };
  });
