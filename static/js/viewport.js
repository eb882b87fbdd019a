/** Keeps the message box above the keyboard where the keyboard only covers the page (iOS). */

const viewport = window.visualViewport;

function fit() {
  const isCovered = innerHeight - viewport.height > 120 && viewport.scale === 1;
  const root = document.documentElement;
  if (isCovered) {
    root.style.setProperty("--app-height", `${viewport.height}px`);
    scrollTo(0, 0);
  } else {
    root.style.removeProperty("--app-height");
  }
}

viewport?.addEventListener("resize", fit);
