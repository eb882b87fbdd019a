/** Requests to our own server: the CSRF token, and what its refusals mean in words. */

import { announce } from "./fragments.js";

/** The cookie's token is newer than the page's when the person signed in again in another tab. */
export function csrfToken() {
  const cookie = /(?:^|;\s*)csrftoken=([^;]+)/.exec(document.cookie)?.[1];
  return cookie ?? JSON.parse(document.body.getAttribute("hx-headers") ?? "{}")["X-CSRFToken"];
}

export function post(url, options = {}) {
  return fetch(url, {
    method: "POST",
    ...options,
    headers: { "X-CSRFToken": csrfToken(), Accept: "application/json" },
  });
}

/** A request that ended at the sign-in page: the session is over. */
export function isSignedOut(responseUrl, status) {
  return status === 401 || /\/accounts\/login\/$/.test(new URL(responseUrl, location.href).pathname);
}

export const SIGNED_OUT = {
  text: "You are signed out. Your text is kept here: sign in again, then send it.",
  link: {
    label: "Sign in",
    href: `/accounts/login/?next=${encodeURIComponent(location.pathname)}`,
  },
};

/** What to say about a refused request. `body` is its text, JSON or not. A notice with `untilEnd`
 * is about the run of this chat, and goes with it. */
export function refusal(status, body, retryAfter) {
  if (status === 401) return SIGNED_OUT;
  const wait = Number(retryAfter) > 0 ? ` Try again in ${Math.ceil(Number(retryAfter))} s.` : "";
  let answer;
  try {
    answer = JSON.parse(body);
  } catch {
    answer = {};
  }
  if (answer.error?.message) {
    const untilEnd = answer.error.code === "RUN_IN_PROGRESS";
    const isSaid = /\bseconds?\b|\d s\b|\bresets? on\b/.test(answer.error.message);
    return { text: answer.error.message + (isSaid ? "" : wait), untilEnd };
  }
  if (answer.errors) return { text: Object.values(answer.errors).flat().join(" ") };
  const reload = { label: "Reload", href: location.href };
  switch (status) {
    case 0:
      return { text: "The server cannot be reached. Your text is kept: check the connection, then try again." };
    case 403:
      return { text: "The page is out of date. Reload it, then try again. Your text is kept.", link: reload };
    case 404:
      return { text: "This chat, message or model no longer exists.", link: reload };
    case 409:
      return { text: "An answer is already being written in this chat. Wait for it, or stop it.", untilEnd: true };
    case 413:
      return { text: "The message is too large for the server. Shorten it, then send it again." };
    case 429:
      return { text: `Too many requests.${wait || " Wait a moment, then try again."}` };
    case 503:
      return { text: `The server is busy or restarting.${wait || " Try again in a moment."}` };
    default:
      return { text: `The server failed (${status}). Your text is kept: try again.` };
  }
}

document.addEventListener("htmx:configRequest", ({ detail }) => {
  detail.headers["X-CSRFToken"] = csrfToken();
});

// A sign-in page is never put into a part of this one.
document.addEventListener("htmx:beforeSwap", (event) => {
  const { xhr } = event.detail;
  if (!xhr.responseURL || !isSignedOut(xhr.responseURL, xhr.status)) return;
  event.detail.shouldSwap = false;
  event.detail.isError = true;
});

document.addEventListener("htmx:responseError", ({ detail }) => {
  const { xhr } = detail;
  if (isSignedOut(xhr.responseURL, xhr.status)) announce("notice", SIGNED_OUT);
  else announce("notice", refusal(xhr.status, xhr.responseText, xhr.getResponseHeader("Retry-After")));
});

for (const name of ["htmx:sendError", "htmx:timeout"]) {
  document.addEventListener(name, () => announce("notice", refusal(0)));
}
