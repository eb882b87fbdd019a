/** "Delete …?" in a dialog of our own, for everything that has `hx-confirm`. */

const dialog = document.querySelector("dialog[data-confirm]");

document.addEventListener("htmx:confirm", (event) => {
  if (!event.detail.question || !dialog) return;
  event.preventDefault();
  dialog.querySelector("[data-confirm-text]").textContent = event.detail.question;
  dialog.querySelector("[data-confirm-button]").textContent =
    event.detail.elt.dataset.confirmLabel ?? "Delete";
  dialog.returnValue = "";
  dialog.onclose = () => {
    if (dialog.returnValue === "confirm") event.detail.issueRequest(true);
  };
  dialog.showModal();
});

// A click beside a dialog closes it.
document.addEventListener("click", ({ target, clientX, clientY }) => {
  if (!(target instanceof HTMLDialogElement) || (clientX === 0 && clientY === 0)) return;
  const box = target.getBoundingClientRect();
  const isInside =
    clientX >= box.left && clientX <= box.right && clientY >= box.top && clientY <= box.bottom;
  if (!isInside) target.close();
});
