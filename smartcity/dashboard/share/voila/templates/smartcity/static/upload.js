// A visitor's own table: chosen or dropped, read as guessed or told, answered, taken away.
const PATIENCE = 60_000; // ms without a word from the kernel
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") node.className = value;
    else if (value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

/** Write a value as the reader does; a share stands as a percentage, nothing as a dash. */
function shown(value) {
  const language = document.documentElement.lang || undefined;
  if (value === null || value === "") return "–";
  if (typeof value === "number") return new Intl.NumberFormat(language, { maximumFractionDigits: 3 }).format(value);
  if (typeof value !== "object") return String(value);
  return new Intl.NumberFormat(language, { style: "percent", maximumFractionDigits: 2 }).format(value.share);
}

const fill = (text, values) => text.replace(/\{(\w+)\}/g, (gap, name) => (name in values ? shown(values[name]) : gap));

function table(caption, names, rows) {
  const region = element("div", { class: "smartcity-wide", role: "region", "aria-label": caption, tabindex: 0 });
  const head = element("tr", {}, ...names.map((name) => element("th", { scope: "col" }, name)));
  const cell = (value) => {
    const text = shown(value);
    const node = element("td", {}, text);
    if (text.length > 40) node.style.minWidth = "min(22em, 60vw)"; // or it becomes a tower
    return node;
  };
  const body = rows.map(([first, ...rest]) => element("tr", {}, element("th", { scope: "row" }, shown(first)), ...rest.map(cell)));
  region.append(element("table", {}, element("caption", {}, caption), element("thead", {}, head), element("tbody", {}, ...body)));
  return region;
}

function render({ model, el }) {
  const words = model.get("words");
  const choices = model.get("choices");
  // Each widget is a module of its own, so they cannot count themselves.
  const id = `smartcity-upload-${Math.random().toString(36).slice(2)}`;
  const me = `${id}-${Math.random()}`; // the same widget may be shown twice
  let controls = {};
  let drawn = "";
  let patience;
  let parts = [];

  const button = (word, act, extra = "") => {
    const node = element("button", { type: "button", class: `smartcity-button ${extra}`.trim(), "data-key": word }, words[word]);
    node.addEventListener("click", act);
    return node;
  };
  const field = (key, label, control) => {
    control.id = `${id}-${key}`;
    control.dataset.key = key;
    controls[key] = control;
    return element("div", { class: "smartcity-field" }, element("label", { for: control.id }, label), control);
  };

  const file = element("input", { type: "file", accept: ".csv,.tsv,.txt,text/csv", "aria-describedby": `${id}-limit` });
  const limit = fill(words.limit, { size: choices.bytes / 1e6, rows: choices.rows });
  const status = element("p", { role: "status" });
  const alert = element("div", { role: "alert" });
  const noted = element("div");
  const how = element("details", { hidden: true });
  const result = element("div");
  const root = element(
    "div",
    { class: "smartcity-upload" },
    element("p", {}, words.about),
    field("file", words.file, file),
    element("p", { id: `${id}-limit`, class: "smartcity-soft" }, limit),
    element(
      "p",
      {},
      button("sample", () => ask({ kind: "example", name: "sample" }, words.busy, { name: words.sample })),
      " ",
      button("broken", () => ask({ kind: "example", name: "broken" }, words.busy, { name: words.broken })),
      " ",
      button("get_sample", () => take("sample")),
      " ",
      button("get_broken", () => take("broken")),
    ),
    element("p", { class: "smartcity-soft" }, words.examples),
    status,
    alert,
    noted,
    how,
    result,
  );
  el.append(root);
  controls = {};

  function tell(text, wrong = "") {
    status.textContent = text;
    alert.textContent = wrong;
    alert.className = wrong ? "smartcity-warning" : "";
  }

  function rest() {
    clearTimeout(patience);
    result.removeAttribute("aria-busy");
  }

  /** Ask the kernel for something, and say so. */
  function ask(content, text, values = {}, buffers = undefined) {
    tell(fill(text, values));
    result.setAttribute("aria-busy", "true");
    clearTimeout(patience);
    const lost = () => {
      rest();
      tell("", words.lost);
    };
    patience = setTimeout(lost, PATIENCE);
    try {
      model.send(content, undefined, buffers);
    } catch {
      lost();
    }
  }

  async function choose(chosen) {
    if (!chosen) return;
    if (chosen.size > choices.bytes) {
      const sizes = { size: Math.ceil(chosen.size / 1e5) / 10, limit: choices.bytes / 1e6 };
      tell("", `${chosen.name}: ${fill(choices.too_large, sizes)}`);
      return;
    }
    tell(fill(words.busy, { name: chosen.name }));
    try {
      const content = await chosen.arrayBuffer();
      ask({ kind: "file", name: chosen.name }, words.busy, { name: chosen.name }, [content]);
    } catch { // it was moved, or is a folder
      tell("", fill(words.unreadable, { name: chosen.name }));
    }
  }

  const take = (what) => ask({ kind: "download", name: what, to: me }, words.making);

  file.addEventListener("click", () => (file.value = "")); // the same file may be chosen again
  file.addEventListener("change", () => choose(file.files[0]));
  root.addEventListener("dragover", (event) => event.preventDefault());
  root.addEventListener("drop", (event) => {
    event.preventDefault();
    choose(event.dataTransfer.files[0]);
  });

  function select(key, label, options, act) {
    const node = element("select", {}, ...options.map(([value, text]) => element("option", { value }, text)));
    node.addEventListener("change", act);
    return field(key, label, node);
  }

  /** Draw what can be told about the file; once for the same columns, so that nobody loses their place. */
  function lay({ columns, mapping, ...written }) {
    if (drawn !== JSON.stringify(columns)) {
      controls = {};
      const plain = ["delimiter", "decimal", "encoding"].map((key) =>
        select(key, words[key], choices[key].map((value) => [value, words[value]]), (event) => change({ [key]: event.target.value })),
      );
      const header = element("input", { type: "checkbox", "data-key": "header" });
      header.addEventListener("change", () => change({ header: header.checked }));
      controls.header = header;
      plain.push(element("div", { class: "smartcity-field" }, element("label", {}, header, ` ${words.header}`)));
      const options = [["", words.none], ...columns.map((name, n) => [n, name])];
      const fields = choices.fields.map(([name, label, unit, needed]) =>
        select(`column-${name}`, [label, unit, needed && words.needed].filter(Boolean).join(", "), options, choosing),
      );
      how.replaceChildren(
        element("summary", { "data-key": "how" }, words.how),
        element("fieldset", {}, element("legend", {}, words.layout), ...plain),
        element("fieldset", {}, element("legend", {}, words.mapping), ...fields),
      );
      drawn = JSON.stringify(columns);
    }
    for (const key of ["delimiter", "decimal", "encoding"]) controls[key].value = written[key];
    controls.header.checked = written.header;
    for (const [name] of choices.fields) controls[`column-${name}`].value = mapping[name] ?? "";
  }

  const change = (given) => ask({ kind: "layout", ...given }, words.busy, { name: model.get("view").name });

  function choosing() {
    const chosen = choices.fields.map(([name]) => [name, controls[`column-${name}`].value]);
    const mapping = chosen.filter(([, place]) => place !== "").map(([name, place]) => [name, Number(place)]);
    change({ mapping: Object.fromEntries(mapping) });
  }

  function results({ counts, reasons, more_reasons: more, problems, all_problems: all, answers, columns }) {
    const downloads = ["take_csv", "take_xlsx", "take_parquet"].filter(() => counts.answered);
    if (counts.refused) downloads.push("take_refused");
    const bar = element("p", {}, ...downloads.flatMap((word, n) => [button(word, () => take(word.slice(5)), n ? "" : "smartcity-primary"), " "]));
    const drawn = [bar];
    if (counts.answered) {
      drawn.push(table(fill(words.answered, { shown: answers.length, all: counts.answered }), columns, answers));
    }
    if (counts.refused) {
      drawn.push(table(words.reasons, [words.reason, words.times], reasons));
      if (more) drawn.push(element("p", { class: "smartcity-soft" }, fill(words.more_reasons, { count: more })));
      const names = [words.line, words.column, words.value, words.problem];
      drawn.push(table(fill(words.refused, { shown: problems.length, all }), names, problems));
    }
    return drawn;
  }

  /** Show what the kernel says of the file, and keep the place of who is typing. */
  function show() {
    const view = model.get("view");
    const place = root.getRootNode().activeElement;
    const key = root.contains(place) && place.dataset.key;
    rest();
    how.hidden = !view.layout;
    if (view.layout) lay(view.layout);
    const notes = (view.notes ?? []).map(({ text, values }) => element("p", { class: "smartcity-warning" }, fill(text, values)));
    if (view.error || notes.length) how.open = true;
    const clear = button("clear", () => ask({ kind: "clear" }, words.cleared));
    noted.replaceChildren(...notes);
    result.replaceChildren(...(view.counts ? results(view) : []), ...(view.name ? [clear] : []));
    if (view.counts) tell(fill(words.summary, { name: view.name, ...view.counts }));
    else if (view.error) tell("", `${view.name}: ${fill(view.error.text, view.error.values)}`);
    else if (view.turn) {
      tell(words.cleared);
      file.value = "";
    }
    if (key && root.getRootNode().activeElement !== place) {
      (root.querySelector(`[data-key="${key}"]`) ?? file).focus();
    }
  }

  /** Hand a file over once all its parts are there. */
  function receive(content, buffers) {
    if (content?.kind !== "download" || content.to !== me) return;
    if (content.part === 0) parts = [];
    parts.push(buffers[0]);
    if (content.part + 1 < content.parts) return;
    const link = element("a", { href: URL.createObjectURL(new Blob(parts, { type: content.type })), download: content.name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), PATIENCE);
    parts = [];
    rest();
    tell(fill(words.saved, { name: content.name }));
  }

  model.on("change:view", show);
  model.on("msg:custom", receive);
  show();
  return () => {
    clearTimeout(patience);
    model.off("change:view", show);
    model.off("msg:custom", receive);
  };
}

export default { render };
