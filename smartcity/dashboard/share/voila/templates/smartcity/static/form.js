// What if: native sliders and number fields beside their answer, which follows while they move.
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") node.className = value;
    else if (value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

/** Models learn from single precision: what lies beyond it is noise. */
const shorten = (value) => (typeof value === "number" ? Number(value.toPrecision(6)) : value);

function render({ model, el }) {
  const texts = model.get("texts");
  const numbers = () => new Intl.NumberFormat(document.documentElement.lang || undefined, { maximumFractionDigits: 4 });
  const rows = {};
  // Each widget is a module of its own, so they cannot count themselves.
  const id = `smartcity-form-${Math.random().toString(36).slice(2)}`;

  const shown = element("div", { class: "smartcity-card smartcity-answer", role: "region", "aria-label": texts.answer });
  const live = element("p", { class: "smartcity-hidden", role: "status" });
  const asked = element("form", { class: "smartcity-card smartcity-asked", "aria-labelledby": `${id}-title`, autocomplete: "off" });
  const inputs = element("div", { class: "smartcity-inputs" });
  asked.append(element("h3", { id: `${id}-title` }, texts.title), element("p", { class: "smartcity-soft" }, texts.about), inputs);
  el.classList.add("smartcity-form");
  el.append(shown, live, asked);
  asked.addEventListener("submit", (event) => event.preventDefault());

  function change(name, value) {
    const values = { ...model.get("values"), [name]: value };
    model.set("values", values);
    model.save_changes();
    judge(name, value);
    address(values);
  }

  /** Tell the head what a link to this view has to say: what differs from the usual. */
  function address(values) {
    const usual = Object.fromEntries(model.get("fields").map((field) => [field.name, field.usual]));
    const changed = Object.entries(values).filter(([name, value]) => value !== (usual[name] ?? null));
    const said = Object.fromEntries(changed.map(([name, value]) => [name, value ?? ""]));
    el.dispatchEvent(new CustomEvent("smartcity-inputs", { bubbles: true, detail: { page: model.get("page"), values: said } }));
  }

  /** Say beside an input when it leaves what the model has seen. */
  function judge(name, value) {
    const { field, warning } = rows[name];
    if (!field.seen) return;
    const side = value === null ? "" : value < field.seen[0] ? "below" : value > field.seen[1] ? "above" : "";
    const said = side ? `⚠ ${texts[side]}` : "";
    if (warning.textContent !== said) warning.textContent = said;
  }

  function row(field) {
    const mine = `${id}-${field.name}`;
    const label = `${field.label}, ${field.unit}`;
    const bounds = { min: field.low, max: field.high, step: field.decimals === 0 ? 1 : "any" };
    const exact = element("input", { type: "number", inputmode: "decimal", ...bounds });
    const parts = { field, exact };
    const box = element("div", { class: "smartcity-field" });
    if (!field.seen) { // an option: a number that may be left out
      exact.id = mine;
      box.append(element("label", { for: mine }, field.label, " ", element("span", { class: "smartcity-soft" }, field.unit)), exact);
      exact.addEventListener("input", () => exact.validity.valid && change(field.name, exact.value === "" ? null : exact.valueAsNumber));
      return [box, parts];
    }
    const format = numbers();
    const [low, high] = field.seen;
    const at = (value) => `${(100 * (value - field.min)) / (field.max - field.min)}%`;
    const slider = element("input", { id: mine, type: "range", min: field.min, max: field.max, step: field.step, "aria-describedby": `${mine}-seen` });
    exact.setAttribute("aria-label", `${label}: ${texts.exact}`);
    const seen = texts.seen.replace("{low}", format.format(low)).replace("{high}", format.format(high));
    const ticks = element("span", { class: "smartcity-seen", "aria-hidden": "true" });
    ticks.style.left = at(low);
    ticks.style.width = `calc(${at(high)} - ${at(low)})`;
    const warning = element("strong", { class: "smartcity-outside" });
    box.append(
      element("div", { class: "smartcity-line" }, element("label", { for: mine }, field.label, " ", element("span", { class: "smartcity-soft" }, field.unit)), exact),
      element("div", { class: "smartcity-track" }, ticks, slider),
      element("p", { id: `${mine}-seen`, class: "smartcity-soft" }, seen, " ", warning),
    );
    Object.assign(parts, { slider, warning });
    const speak = (value) => slider.setAttribute("aria-valuetext", `${format.format(value)} ${field.unit}`);
    slider.addEventListener("input", () => {
      exact.value = slider.value;
      speak(slider.valueAsNumber);
      change(field.name, slider.valueAsNumber);
    });
    exact.addEventListener("input", () => {
      if (exact.value === "" || !exact.validity.valid) return;
      slider.value = exact.value;
      speak(exact.valueAsNumber);
      change(field.name, exact.valueAsNumber);
    });
    parts.speak = speak;
    if (field.optional) {
      const missing = element("input", { type: "checkbox" });
      missing.addEventListener("change", () => {
        slider.disabled = exact.disabled = missing.checked;
        change(field.name, missing.checked ? null : slider.valueAsNumber);
      });
      box.append(element("label", { class: "smartcity-missing" }, missing, ` ${texts.missing}`, element("span", { class: "smartcity-hidden" }, `: ${field.label}`)));
      parts.missing = missing;
    }
    return [box, parts];
  }

  /** Let every control show what the kernel was asked. */
  function follow() {
    const values = model.get("values");
    for (const [name, { field, slider, exact, missing, speak }] of Object.entries(rows)) {
      const value = values[name] ?? null;
      if (document.activeElement !== exact) exact.value = shorten(value ?? (field.seen ? field.usual : ""));
      if (!slider) continue;
      if (document.activeElement !== slider) slider.value = value ?? field.usual;
      if (missing) missing.checked = slider.disabled = exact.disabled = value === null;
      speak(slider.valueAsNumber);
      judge(name, value);
    }
  }

  function answer() {
    const [html, said] = model.get("answer");
    shown.innerHTML = html;
    clearTimeout(answer.timer);
    answer.timer = setTimeout(() => {
      if (live.textContent !== said) live.textContent = said;
    }, 700); // told once the hand rests
  }

  for (const field of model.get("fields")) {
    const [box, parts] = row(field);
    rows[field.name] = parts;
    if (field.seen) {
      inputs.append(box);
      continue;
    }
    let more = asked.querySelector("details");
    if (!more) {
      more = element("details", {}, element("summary", {}, texts.options), element("div", { class: "smartcity-inputs" }));
      asked.append(more);
    }
    more.lastChild.append(box);
  }
  const usual = element("button", { type: "button", class: "smartcity-button" }, texts.usual);
  usual.addEventListener("click", () => {
    const values = Object.fromEntries(model.get("fields").filter((field) => field.seen).map((field) => [field.name, field.usual]));
    model.set("values", values);
    model.save_changes();
    follow();
    address(values);
  });
  asked.append(usual);
  follow();
  answer();
  model.on("change:values", follow);
  model.on("change:answer", answer);
}

export default { render };
