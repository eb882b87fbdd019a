/** `<config-picker>`: choose a model by typing a part of its name. */

class ConfigPicker extends HTMLElement {
  connectedCallback() {
    if (this.isReady) return;
    this.isReady = true;
    const part = (name) => this.querySelector(`[data-picker-${name}]`);
    this.button = part("button");
    this.panel = part("panel");
    this.search = part("search");
    this.value = part("value");
    this.none = part("none");
    this.options = [...part("list").children];
    this.button.addEventListener("click", () => this.open(this.panel.hidden));
    this.search.addEventListener("input", () => this.filter());
    this.search.addEventListener("keydown", (event) => this.move(event));
    this.panel.addEventListener("click", ({ target }) => {
      const option = target.closest("[role=option]");
      if (option) this.choose(option);
    });
    this.panel.addEventListener("mousedown", (event) => event.target !== this.search && event.preventDefault());
    this.addEventListener("focusout", ({ relatedTarget }) => {
      if (!this.contains(relatedTarget)) this.open(false, { keepFocus: true });
    });
    document.addEventListener("pointerdown", ({ target }) => {
      if (!this.contains(target)) this.open(false, { keepFocus: true });
    });
  }

  get isOpen() {
    return !this.panel.hidden;
  }

  open(isOpen, { keepFocus = false } = {}) {
    if (isOpen === this.isOpen) return;
    this.panel.hidden = !isOpen;
    this.button.setAttribute("aria-expanded", String(isOpen));
    if (isOpen) {
      this.search.value = "";
      this.filter();
      this.activate(this.options.find((option) => option.ariaSelected === "true") ?? this.shown[0]);
      this.search.focus();
    } else if (!keepFocus) {
      this.button.focus();
    }
  }

  get shown() {
    return this.options.filter((option) => !option.hidden);
  }

  filter() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const option of this.options) {
      option.hidden = !words.every((word) => option.dataset.words.includes(word));
    }
    this.none.hidden = this.shown.length > 0;
    this.activate(this.shown[0]);
  }

  activate(option) {
    this.active?.classList.remove("is-active");
    this.active = option;
    option?.classList.add("is-active");
    option?.scrollIntoView({ block: "nearest" });
    this.search.setAttribute("aria-activedescendant", option?.id ?? "");
  }

  move(event) {
    if (event.isComposing) return;
    const { shown } = this;
    const place = shown.indexOf(this.active);
    if (event.key === "ArrowDown") this.activate(shown[(place + 1) % shown.length]);
    else if (event.key === "ArrowUp") this.activate(shown.at(place - 1));
    else if (event.key === "Enter") this.active && this.choose(this.active);
    else if (event.key === "Escape") this.open(false);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  choose(option) {
    this.open(false);
    this.select(option.dataset.value);
    this.value.dispatchEvent(new Event("change", { bubbles: true }));
  }

  /** Shows the configuration with this id as chosen. False if there is none. */
  select(id) {
    const chosen = this.options.find((option) => option.dataset.value === id);
    if (!chosen) return false;
    for (const option of this.options) option.setAttribute("aria-selected", String(option === chosen));
    this.value.value = id;
    const name = this.querySelector("[data-picker-name]");
    const detail = this.querySelector("[data-picker-detail]");
    name.textContent = name.title = chosen.dataset.name;
    detail.textContent = chosen.dataset.short.trim();
    detail.title = chosen.querySelector("[data-facts]").textContent.trim();
    return true;
  }

  get chosen() {
    return this.options.find((option) => option.ariaSelected === "true")?.dataset;
  }

  /** The model's name at the provider. */
  get model() {
    return this.chosen?.model;
  }

  /** Whether images can be sent to it. */
  get sees() {
    return this.chosen?.sees === "true";
  }
}

customElements.define("config-picker", ConfigPicker);
