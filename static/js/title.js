/** The chat's title: changed in place, and taken over when the server has made one. */

import { announce } from "./fragments.js";

const title = () => document.querySelector("[data-title]");

function edit(isEditing) {
  const box = title();
  const form = box.querySelector("[data-title-form]");
  form.hidden = !isEditing;
  box.querySelector(".title-text").hidden = isEditing;
  box.classList.toggle("is-editing", isEditing);
  if (!isEditing) return;
  const input = form.elements.title;
  input.value = input.defaultValue;
  input.focus();
  input.select();
}

function close() {
  edit(false);
  title().querySelector("[data-title-edit]").focus({ preventScroll: true });
}

document.addEventListener("click", ({ target }) => {
  if (target.closest?.("[data-title-edit]")) edit(true);
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || !event.target.matches?.(".title-input")) return;
  event.preventDefault();
  close();
});

// Leaving the field keeps what was typed, as in a list of files.
document.addEventListener("focusout", ({ target }) => {
  if (!target.matches?.(".title-input") || target.form.hidden || target.form.isSent) return;
  if (target.value.trim() && target.value !== target.defaultValue) target.form.requestSubmit();
  else edit(false);
});

document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.matches("[data-title-form]")) return;
  form.isSent = true;
  if (form.elements.title.value.trim() && form.elements.title.value !== form.elements.title.defaultValue) return;
  event.preventDefault();
  event.stopPropagation();
  form.isSent = false;
  close();
}, true);

document.addEventListener("htmx:beforeSwap", ({ detail, target }) => {
  if (target.id !== "chat-title" || detail.xhr.status !== 422) return;
  // Refused: the field stays open with what was typed.
  detail.shouldSwap = false;
  detail.isError = true;
});

document.addEventListener("htmx:responseError", ({ detail }) => {
  if (detail.requestConfig.elt.matches("[data-title-form]")) detail.requestConfig.elt.isSent = false;
});

// The form itself is gone by then: the event says whose it is.
document.addEventListener("htmx:afterRequest", ({ detail }) => {
  if (!detail.requestConfig.elt.matches("[data-title-form]") || !detail.successful) return;
  const name = title().querySelector("[data-title-name]").textContent;
  document.title = `${name} · llmchat`;
  announce("chat:renamed", { title: name });
});

document.addEventListener("chat:title", ({ detail }) => {
  const box = title();
  if (box.classList.contains("is-editing")) return;
  const name = box.querySelector("[data-title-name]");
  if (name.textContent === detail.title) return;
  name.textContent = detail.title;
  box.querySelector(".title-input").defaultValue = detail.title;
  document.title = `${detail.title} · llmchat`;
});
