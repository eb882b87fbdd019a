/** Copying: an answer as Markdown, a block of code, a part of the inspector. */

const SHOWN = 1_800; // ms

/** `text` may be a promise: Safari allows the clipboard only within the click itself. */
export async function copy(text) {
  const waiting = Promise.resolve(text);
  if (navigator.clipboard?.write && window.ClipboardItem) {
    const blob = waiting.then((value) => new Blob([value], { type: "text/plain" }));
    try {
      await navigator.clipboard.write([new ClipboardItem({ "text/plain": blob })]);
      return;
    } catch (error) {
      if (!navigator.clipboard.writeText) throw error;
    }
    await navigator.clipboard.writeText(await waiting);
    return;
  }
  copyBySelection(await waiting);
}

/** Without HTTPS, as on a home network, browsers have no clipboard: the old way still works. */
function copyBySelection(text) {
  const area = document.createElement("textarea");
  const focused = document.activeElement;
  area.value = text;
  area.className = "visually-hidden";
  document.body.append(area);
  area.select();
  const isDone = document.execCommand("copy");
  area.remove();
  focused?.focus();
  if (!isDone) throw new Error("The browser did not allow copying.");
}

/** Copies, and says so on the button. */
export async function copyWith(button, text) {
  const label = button.querySelector("[data-copy-label]") ?? (button.childElementCount ? null : button);
  button.dataset.label ??= label?.textContent ?? button.getAttribute("aria-label") ?? "";
  const say = (words) => {
    if (label) label.textContent = words;
    else button.setAttribute("aria-label", words);
  };
  let isDone = true;
  try {
    await copy(text);
  } catch {
    isDone = false;
  }
  button.classList.toggle("is-copied", isDone);
  say(isDone ? "Copied" : "Not copied");
  clearTimeout(button.copyTimer);
  button.copyTimer = setTimeout(() => {
    button.classList.remove("is-copied");
    say(button.dataset.label);
  }, SHOWN);
}

export async function raw(url) {
  const answer = await fetch(url, { headers: { Accept: "text/plain" } });
  if (!answer.ok || answer.redirected) throw new Error(`The text could not be read: ${answer.status}.`);
  return answer.text();
}

export function codeOf(block) {
  return block.querySelector("code").textContent.replace(/\n$/, "");
}

function partText(part) {
  if (part.matches("table")) {
    return [...part.rows].map((row) => [...row.cells].map((cell) => cell.innerText).join("\t")).join("\n");
  }
  if (part.matches("dl")) {
    return [...part.children].map((pair) => [...pair.children].map((item) => item.textContent).join(": ")).join("\n");
  }
  return part.textContent;
}

document.addEventListener("click", (event) => {
  const button = event.target.closest?.("[data-copy-url], [data-copy-code], [data-copy-from]");
  if (!button) return;
  if ("copyUrl" in button.dataset) {
    copyWith(button, raw(button.dataset.copyUrl));
  } else if ("copyCode" in button.dataset) {
    copyWith(button, codeOf(button.closest(".code-block")));
  } else {
    const part = button
      .closest(".inspector, [data-copy-root]")
      .querySelector(`[data-copy-text="${button.dataset.copyFrom}"]`);
    copyWith(button, partText(part));
  }
});
