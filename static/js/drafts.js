/** What was typed and not sent, for each chat, in localStorage: `{text, attachments, key, print,
 * values}`. */

const KEPT = 60; // drafts; the oldest go first
const PREFIX = "draft:";

export function load(chat) {
  try {
    return JSON.parse(localStorage.getItem(PREFIX + chat)) ?? {};
  } catch {
    return {};
  }
}

export function save(chat, draft) {
  try {
    const isEmpty = !draft.text && !draft.attachments?.length && !Object.keys(draft.values ?? {}).length;
    if (isEmpty) localStorage.removeItem(PREFIX + chat);
    else localStorage.setItem(PREFIX + chat, JSON.stringify({ ...draft, at: Date.now() }));
  } catch {
    prune(); // full, or switched off
  }
}

function prune() {
  try {
    const names = Object.keys(localStorage).filter((name) => name.startsWith(PREFIX));
    const age = (name) => JSON.parse(localStorage.getItem(name))?.at ?? 0;
    names.sort((a, b) => age(b) - age(a));
    for (const name of names.slice(KEPT)) localStorage.removeItem(name);
  } catch {
    // Then there are no drafts.
  }
}

prune();
