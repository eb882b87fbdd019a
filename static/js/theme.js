/** Light, dark or as the system has it: kept in a cookie, so that the server sends the right page. */

const THEMES = ["light", "dark", "system"];
const YEAR = 31_536_000; // s

function kept() {
  const found = /(?:^|;\s*)theme=(\w+)/.exec(document.cookie)?.[1];
  return THEMES.includes(found) ? found : "system";
}

function apply(theme) {
  document.documentElement.dataset.theme = theme;
  document.querySelector('meta[name="color-scheme"]').content =
    theme === "system" ? "light dark" : theme;
  for (const input of document.querySelectorAll("[data-theme-switch] input")) {
    input.checked = input.value === theme;
  }
}

document.addEventListener("change", ({ target }) => {
  if (!target.closest?.("[data-theme-switch]")) return;
  const secure = location.protocol === "https:" ? "; Secure" : "";
  document.cookie = `theme=${target.value}; Path=/; Max-Age=${YEAR}; SameSite=Lax${secure}`;
  apply(target.value);
});
// Also when the page comes back from the browser's cache, or another tab has chosen.
addEventListener("pageshow", () => apply(kept()));
document.addEventListener("visibilitychange", () => apply(kept()));
apply(kept());
