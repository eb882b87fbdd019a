/** The admin's form of a configuration: shows the settings of a custom endpoint where they count. */

const NAMED_AUTHS = ["header", "query"];
const FORMATS_WITH_PATHS = ["sse", "ndjson"];
const PATHS = [
  "text_path",
  "cumulative",
  "reasoning_path",
  "finish_path",
  "prompt_tokens_path",
  "completion_tokens_path",
  "error_path",
  "end_marker",
  "end_path",
];

const value = (name) => document.querySelector(`#id_${name}`)?.value;

/** `hidden` is the admin's own class. */
function show(selector, isShown) {
  for (const element of document.querySelectorAll(selector)) {
    element.classList.toggle("hidden", !isShown);
  }
}

function arrange() {
  show(".custom-endpoint", value("kind") === "custom");
  show(".field-request_auth_name", NAMED_AUTHS.includes(value("request_auth")));
  const hasPaths = FORMATS_WITH_PATHS.includes(value("response_format"));
  show(PATHS.map((name) => `.field-response_${name}`).join(), hasPaths);
}

// People who may only look have no boxes to choose in.
if (document.querySelector("#id_kind")) {
  document.addEventListener("change", arrange);
  // Also when the page comes back from the browser's cache, with what was chosen.
  addEventListener("pageshow", arrange);
  arrange();
}
