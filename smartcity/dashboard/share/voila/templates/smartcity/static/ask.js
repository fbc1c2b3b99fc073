// Ask for a report: its parameters as native fields, what is wrong beside each, and the command.
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") node.className = value;
    else if (value !== undefined && value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

function render({ model, el }) {
  const texts = model.get("texts");
  const id = `smartcity-ask-${Math.random().toString(36).slice(2)}`;
  const controls = {};
  const problems = {};
  let rest;

  const form = element("form", { class: "smartcity-card smartcity-asked", "aria-labelledby": `${id}-title`, autocomplete: "off", novalidate: true });
  const inputs = element("div", { class: "smartcity-inputs" });
  const command = element("code");
  const box = element("p", { class: "smartcity-command", role: "group", "aria-label": texts.command }, command);
  const copy = element("button", { type: "button", class: "smartcity-button" }, texts.copy);
  const copied = element("span", { class: "smartcity-soft", role: "status" });
  const ask = element("button", { type: "submit", class: "smartcity-button smartcity-primary" }, texts.ask);
  const note = element("p", { role: "status" });
  const line = element("div", { class: "smartcity-more" }, ...(model.get("may_ask") ? [ask] : []), copy, copied);
  form.append(element("h3", { id: `${id}-title` }, texts.title), element("p", { class: "smartcity-soft" }, texts.about), inputs,
    element("p", { class: "smartcity-soft", "aria-hidden": "true" }, texts.command), box, line, note);
  el.append(form);

  function send() {
    clearTimeout(rest);
    model.set("values", Object.fromEntries(Object.entries(controls).map(([name, control]) => [name, control.value])));
    model.save_changes();
  }

  function options(field) {
    return field.choices.map(([value, shown]) => element("option", { value }, shown));
  }

  function row(field) {
    const mine = `${id}-${field.name}`;
    const limits = field.low === null || field.high === null ? "" : texts.range.replace("{low}", format(field.low)).replace("{high}", format(field.high)).replace("{unit}", field.unit).trim();
    const about = { id: mine, "aria-describedby": `${mine}-help ${mine}-problem` };
    const control = field.kind === "choice"
      ? element("select", about, ...options(field))
      : element("input", { ...about, type: field.kind, min: field.low, max: field.high, step: field.kind === "number" && !field.whole ? "any" : null });
    control.value = model.get("values")[field.name] ?? "";
    control.addEventListener(field.kind === "choice" ? "change" : "input", () => {
      clearTimeout(rest);
      rest = setTimeout(send, field.kind === "choice" ? 0 : 300); // once the hand rests
    });
    controls[field.name] = control;
    problems[field.name] = element("strong", { id: `${mine}-problem`, class: "smartcity-outside", role: "status" });
    inputs.append(element("div", { class: "smartcity-field" },
      element("label", { for: mine }, field.label, " ", element("span", { class: "smartcity-soft" }, limits)), control,
      element("p", { id: `${mine}-help`, class: "smartcity-soft" }, field.help), problems[field.name]));
  }

  const format = (value) => new Intl.NumberFormat(document.documentElement.lang || undefined).format(value);

  /** Say what is wrong, and what the rest stands for. */
  function judge() {
    const wrong = model.get("problems");
    for (const [name, place] of Object.entries(problems)) {
      const said = wrong[name] ? `⚠ ${wrong[name]}` : "";
      if (place.textContent !== said) place.textContent = said;
      controls[name].setAttribute("aria-invalid", said ? "true" : "false");
    }
    command.textContent = model.get("command");
    copied.textContent = "";
    ask.disabled = copy.disabled = !model.get("command");
  }

  /** A question has its own sites. */
  function offer() {
    for (const field of model.get("fields")) {
      const control = controls[field.name];
      const offered = [...(control.options ?? [])].map((option) => option.value).join("\n");
      if (field.kind !== "choice" || offered === field.choices.map(([value]) => value).join("\n")) continue;
      const before = control.value;
      control.replaceChildren(...options(field));
      if (field.choices.some(([value]) => value === before)) control.value = before;
      else send();
    }
  }

  copy.addEventListener("click", async () => {
    getSelection().selectAllChildren(command);
    try {
      await navigator.clipboard.writeText(command.textContent);
      copied.textContent = texts.copied;
    } catch { /* not everywhere allowed: it is selected, ready for the keyboard */ }
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (ask.disabled || !model.get("may_ask")) return;
    send();
    model.send("ask");
  });
  model.get("fields").forEach(row);
  judge();
  model.on("change:fields", offer);
  for (const name of ["problems", "command"]) model.on(`change:${name}`, judge);
  model.on("change:note", () => { note.textContent = model.get("note"); });
}

export default { render };
