// Charts with what they say in words, their numbers as a table and as a file; drawn once they are in sight.
const SHOWN = 200; // rows of a table on the page; the file has them all
const LIBRARY = "smartcity/plotly.min.js"; // our server's copy of all of plotly, for 3D; elsewhere the kernel has one

function load(source) {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = source;
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => reject(new Error("plotly.js could not be loaded"));
    document.head.append(script);
  });
}

/** The kernel's own copy, where no page of ours brings plotly.js. */
function handedOver(model) {
  window.smartcityHanded ??= new Promise((resolve, reject) => {
    model.on("msg:custom", (content, buffers) => {
      if (content === "plotly") load(URL.createObjectURL(new Blob([buffers[0]], { type: "text/javascript" }))).then(resolve, reject);
    });
    model.send("plotly");
  });
  return window.smartcityHanded;
}

/** Plotly for flat charts: the page brings a small one, or else the kernel all of it. */
function flat(model) {
  return window.smartcityPlotly ?? handedOver(model);
}

/** All of plotly, for surfaces; the small one stays what draws the others. */
async function solid(model) {
  const small = await flat(model);
  if (!document.getElementById("live")) return small;
  window.smartcitySolid ??= load(document.getElementById("live").dataset.base + LIBRARY).catch(() => handedOver(model)).finally(() => { window.Plotly = small; });
  return window.smartcitySolid;
}

/** Teach plotly the months and days of the page's language. */
function spoken(library, lang) {
  if (lang && lang !== "en" && library !== spoken[lang]) {
    const say = (form, date) => new Intl.DateTimeFormat(lang, { ...form, timeZone: "UTC" }).format(date);
    const [months, days] = [[...Array(12).keys()].map((n) => Date.UTC(2023, n, 1)), [...Array(7).keys()].map((n) => Date.UTC(2023, 0, 1 + n))];
    const format = { months: months.map((at) => say({ month: "long" }, at)), shortMonths: months.map((at) => say({ month: "short" }, at)), days: days.map((at) => say({ weekday: "long" }, at)), shortDays: days.map((at) => say({ weekday: "short" }, at)), date: "%d.%m.%Y" };
    library.register({ moduleType: "locale", name: lang, dictionary: {}, format });
    spoken[lang] = library;
  }
  return library;
}

const plain = (value) => (value === null || value === undefined || Number.isNaN(value) ? "" : value);
// Times come as plotly takes them.
const cell = (value) => (typeof value === "string" ? value.replace(/^(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(:00(\.0+)?)?/, "$1 $2").replace("<br>", " ") : plain(value));

/** One chart at a time, and between two of them whatever else has to be done. */
function turn() {
  turn.last = (turn.last ?? Promise.resolve()).then(() => new Promise((resolve) => setTimeout(resolve)));
  return turn.last;
}

/** Every number a figure draws, as a header and rows. */
function asTable({ data, layout }, texts) {
  const name = (axis, other) => axis?.title?.text || other;
  const [x, y] = [name(layout.xaxis, "x"), name(layout.yaxis, "y")];
  if (data[0].type === "heatmap") {
    const { x: columns, y: rows, z } = data[0];
    return [[`${y} / ${x}`, ...columns], ...rows.map((row, n) => [row, ...z[n]])];
  }
  const traces = data.filter((trace) => trace.fill !== "toself");
  const bands = data.filter((trace) => trace.fill === "toself");
  const level = (trace) => (trace.orientation === "h" ? [trace.y, trace.x] : [trace.x, trace.y]);
  const keys = [...new Set(traces.flatMap((trace) => level(trace)[0].map(cell)))];
  const columns = traces.map((trace) => new Map(level(trace)[0].map((key, n) => [cell(key), level(trace)[1][n]])));
  const edges = bands.map((trace) => {
    const found = new Map();
    trace.x.forEach((key, n) => { if (key !== null) found.set(cell(key), [...(found.get(cell(key)) ?? []), trace.y[n]]); });
    return found;
  });
  const lying = traces[0].orientation === "h";
  const timed = /^\d{4}-\d\d-\d\d \d/.test(keys[0]);
  const header = [(lying ? layout.yaxis : layout.xaxis)?.title?.text || (timed ? texts.time : texts.item), ...traces.map((trace) => trace.name ?? x), ...bands.flatMap((trace) => [`${trace.name} ↓`, `${trace.name} ↑`])];
  const range = (found, key) => (found.has(key) ? [Math.min(...found.get(key)), Math.max(...found.get(key))] : ["", ""]);
  return [header, ...keys.map((key) => [key, ...columns.map((column) => plain(column.get(key))), ...edges.flatMap((found) => range(found, key))])];
}

function asCsv(rows) {
  const quoted = (value) => (/[",\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value);
  return rows.map((row) => row.map(quoted).join(",")).join("\r\n") + "\r\n";
}

function render({ model, el }) {
  el.classList.add("smartcity-pair");
  const stop = new AbortController();
  const { signal } = stop;
  let cards = [];
  const texts = () => model.get("texts");
  const seen = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) if (isIntersecting) cards.find((card) => card.box === target)?.draw();
  }, { rootMargin: "200px" });

  function card(figure) {
    const { title, meta } = figure.layout;
    const box = document.createElement("figure");
    const place = document.createElement("div");
    const caption = document.createElement("figcaption");
    const name = document.createElement("h4");
    const summary = document.createElement("p");
    box.className = "smartcity-card";
    place.className = "smartcity-chart";
    place.style.minHeight = `${figure.layout.height}px`;
    summary.className = "smartcity-caption";
    name.textContent = title.text;
    summary.textContent = meta.summary;
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", `${title.text}. ${meta.summary}`);
    caption.append(name, summary);
    box.append(caption, place, more(figure));
    let is_drawn = false;
    let is_solid = false;

    async function draw() {
      is_drawn = true;
      const lang = document.documentElement.lang || "en";
      await turn();
      const library = spoken(await (is_solid ? solid(model) : flat(model)), lang);
      await library.react(place, ...dressed(figure, is_solid));
    }

    function dressed({ data, layout }, surface) {
      const color = getComputedStyle(el).color;
      const dress = structuredClone({ ...layout, title: undefined });
      const traces = structuredClone(data);
      dress.font = { ...dress.font, color };
      dress.autosize = true;
      dress.margin = { ...dress.margin, t: traces.length > 1 ? 40 : 12 };
      if (place.clientWidth < 480) {
        dress.margin = { ...dress.margin, l: 44, r: 8 };
        for (const trace of traces) if (trace.type === "heatmap") trace.showscale = false;
      }
      if (surface) {
        const [{ x, y, z, colorscale }] = traces;
        const axis = { color, gridcolor: "rgba(128,140,152,0.4)" };
        traces.splice(0, 1, { type: "surface", x, y: y.map((_, n) => n), z, colorscale, showscale: false });
        dress.scene = { xaxis: { ...axis, title: layout.xaxis?.title }, yaxis: { ...axis, title: { text: "" }, tickvals: y.map((_, n) => n), ticktext: y }, zaxis: { ...axis, title: { text: "" } }, camera: { eye: { x: 1.6, y: 1.6, z: 1.1 }, center: { x: 0, y: 0, z: -0.15 } } };
        dress.margin = { l: 0, r: 0, t: 0, b: 0 };
      }
      return [traces, dress, { responsive: true, displayModeBar: false, locale: document.documentElement.lang || "en" }];
    }

    if (data3d(figure)) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "smartcity-button";
      button.textContent = texts().surface;
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("click", async () => {
        is_solid = !is_solid;
        window.Plotly?.purge(place);
        place.replaceChildren();
        try {
          await draw();
          if (is_solid && !place.querySelector("canvas")) throw new Error("no WebGL");
        } catch {
          is_solid = false;
          place.replaceChildren();
          await draw();
          summary.textContent = `${meta.summary} ${texts().failed}`;
        }
        button.textContent = is_solid ? texts().flat : texts().surface;
        button.setAttribute("aria-pressed", String(is_solid));
      });
      box.querySelector(".smartcity-more").prepend(button);
    }
    seen.observe(box);
    return { box, place, draw: () => is_drawn || draw(), again: () => is_drawn && draw() };
  }

  function data3d({ data, layout }) {
    return data[0].type === "heatmap" && layout.meta.name === "pattern";
  }

  /** The table, written once it is opened, and the file. */
  function more(figure) {
    const box = document.createElement("div");
    const table = document.createElement("details");
    const summary = document.createElement("summary");
    const button = document.createElement("button");
    box.className = "smartcity-more";
    summary.textContent = texts().table;
    button.type = "button";
    button.className = "smartcity-button";
    const hidden = document.createElement("span");
    hidden.className = "smartcity-hidden";
    hidden.textContent = `: ${figure.layout.title.text}`;
    button.append(texts().csv, hidden);
    table.append(summary);
    summary.append(hidden.cloneNode(true));
    table.addEventListener("toggle", () => table.open && table.childElementCount === 1 && table.append(written(figure)));
    button.addEventListener("click", () => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob(["\ufeff", asCsv(asTable(figure, texts()))], { type: "text/csv" }));
      link.download = `smartcity-${figure.layout.meta.name}.csv`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    });
    box.append(button, table);
    return box;
  }

  function written(figure) {
    const [header, ...rows] = asTable(figure, texts());
    const format = new Intl.NumberFormat(document.documentElement.lang || undefined, { maximumFractionDigits: 3 });
    const wide = document.createElement("div");
    const table = wide.appendChild(document.createElement("table"));
    const said = rows.length > SHOWN ? ` ${texts().rows.replace("{shown}", SHOWN).replace("{all}", rows.length)}` : "";
    wide.className = "smartcity-wide";
    wide.tabIndex = 0;
    wide.setAttribute("role", "group");
    wide.setAttribute("aria-label", figure.layout.title.text);
    table.createCaption().textContent = figure.layout.title.text + said;
    const line = (into, cells, tag) => {
      const row = into.insertRow();
      cells.forEach((value, n) => {
        const node = row.appendChild(document.createElement(n && tag === "td" ? "td" : "th"));
        if (node.tagName === "TH") node.scope = tag === "th" ? "col" : "row";
        node.textContent = typeof value === "number" ? format.format(value) : value;
      });
    };
    line(table.createTHead(), header, "th");
    const body = table.createTBody();
    for (const row of rows.slice(0, SHOWN)) line(body, row, "td");
    return wide;
  }

  function write() {
    for (const { place } of cards) window.Plotly?.purge(place);
    cards = model.get("figures").map(card);
    el.replaceChildren(...cards.map(({ box }) => box));
  }

  const again = () => cards.forEach((each) => each.again());
  const resized = new ResizeObserver(() => {
    for (const { place } of cards) if (place.data && place.clientWidth) window.Plotly?.Plots.resize(place);
  });
  resized.observe(el);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again, { signal });
  window.addEventListener("smartcity-theme", again, { signal });
  window.addEventListener("smartcity-draw", ({ detail }) => {
    for (const each of cards) if (each.box.checkVisibility()) detail.push(each.draw());
  }, { signal });
  model.on("change:figures", write);
  write();
  return () => {
    stop.abort();
    resized.disconnect();
    seen.disconnect();
    for (const { place } of cards) window.Plotly?.purge(place);
  };
}

export default { render };
