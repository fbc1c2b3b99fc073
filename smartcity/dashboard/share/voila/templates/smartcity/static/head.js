// The page's head: follows links without loading anew, keeps the view in the address, remembers choices.
const remember = (name, value) => {
  try {
    localStorage.setItem(`smartcity-${name}`, value);
  } catch {
    // storage is switched off: the choice lasts as long as the page
  }
};
const remembered = (name) => {
  try {
    return localStorage.getItem(`smartcity-${name}`);
  } catch {
    return null;
  }
};

/** The language to speak: the reader's own choice, or the first of theirs that the page offers. */
function language(head) {
  const known = [...head.querySelectorAll('[data-choice="language"] option')].map(({ value }) => value);
  const wanted = [remembered("language"), ...navigator.languages].map((tag) => tag?.slice(0, 2));
  return wanted.find((tag) => known.includes(tag)) ?? "en";
}

/** Write UTC times as the reader's clock shows them. */
function localise(root, lang) {
  const times = root.querySelectorAll("time[datetime]:not([title])");
  if (!times.length) return;
  const region = navigator.languages.find((tag) => tag.startsWith(lang)) ?? lang;
  const format = new Intl.DateTimeFormat(region, { dateStyle: "medium", timeStyle: "short" });
  for (const time of times) {
    const at = new Date(time.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    time.title = `${at.toISOString().slice(0, 16).replace("T", " ")} UTC`;
    time.textContent = format.format(at);
  }
}

/** Keep what the page shows now as one file: its own styles, no scripts, inputs as they stand. */
function asFile(root) {
  const copy = root.cloneNode(true);
  const originals = [...root.querySelectorAll("input, select, canvas")];
  [...copy.querySelectorAll("input, select, canvas")].forEach((node, n) => {
    if (node.tagName === "CANVAS") {
      const image = document.createElement("img");
      image.src = originals[n].toDataURL();
      node.replaceWith(image);
    } else {
      node.setAttribute("value", originals[n].value);
      node.setAttribute("disabled", "");
      if (originals[n].checked) node.setAttribute("checked", "");
    }
  });
  for (const node of copy.querySelectorAll("script, .smartcity-tools, .smartcity-nav, .smartcity-upload")) node.remove();
  for (const page of copy.querySelectorAll(".smartcity-page")) {
    if (getComputedStyle(root.querySelector(`.${[...page.classList].find((c) => c.startsWith("smartcity-page-"))}`)).display === "none") page.remove();
  }
  const styles = [...document.styleSheets].flatMap((sheet) => {
    try {
      return [...sheet.cssRules].map((rule) => rule.cssText);
    } catch {
      return []; // a sheet from elsewhere
    }
  });
  const page = document.implementation.createHTMLDocument(document.title);
  page.documentElement.lang = document.documentElement.lang;
  page.documentElement.dataset.theme = document.documentElement.dataset.theme ?? "";
  page.body.className = document.body.className;
  page.head.insertAdjacentHTML("beforeend", '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">');
  const style = page.createElement("style");
  style.textContent = styles.join("\n");
  page.head.append(style);
  page.body.append(copy);
  return new Blob(["<!DOCTYPE html>", page.documentElement.outerHTML], { type: "text/html" });
}

function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function render({ model, el }) {
  const stop = new AbortController();
  const { signal } = stop;
  // In JupyterLab the address is JupyterLab's own.
  const owned = Boolean(document.body.dataset.voila);
  const head = document.createElement("div");
  const notice = document.createElement("div");
  const live = document.createElement("p");
  const shown = document.createElement("style");
  notice.className = "smartcity-notice";
  notice.setAttribute("role", "alert");
  live.className = "smartcity-hidden";
  live.setAttribute("role", "status");
  el.classList.add("smartcity-top");
  el.append(shown, head, notice, live);
  const root = () => el.closest(".smartcity") ?? document.body;

  function turn(page, focus = false) {
    shown.textContent = `.smartcity-page:not(.smartcity-page-${CSS.escape(page)}) { display: none !important; }`;
    for (const link of head.querySelectorAll("a[data-page]")) {
      if (link.dataset.page === page) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    const link = head.querySelector(`a[data-page="${CSS.escape(page)}"]`);
    if (owned && link) document.title = `${link.textContent} · SmartCity`;
    mark();
    window.dispatchEvent(new CustomEvent("smartcity-page", { detail: page }));
    if (focus) root().querySelector(`.smartcity-page-${CSS.escape(page)} h2`)?.focus();
  }

  /** Say which part of the page is the main one; in JupyterLab that is JupyterLab's to say. */
  function mark() {
    if (owned) for (const page of root().querySelectorAll(".smartcity-page")) page.setAttribute("role", "main");
  }

  /** Show a page and let the kernel know; a page there is not is the overview. */
  function go(page, query = {}, focus = false) {
    const known = head.querySelector(`a[data-page="${CSS.escape(page)}"]`) ? page : "overview";
    model.set("page", known);
    if (Object.keys(query).length) model.set("query", query);
    model.save_changes();
    turn(known, focus);
  }

  function read() {
    const { page, ...query } = Object.fromEntries(new URLSearchParams(location.search));
    delete query.token;
    go(page ?? model.get("page"), query);
  }

  function write() {
    head.innerHTML = model.get("html");
    document.documentElement.lang = model.get("language");
    const theme = head.querySelector('[data-choice="theme"]');
    if (theme) theme.value = remembered("theme") ?? "system";
    turn(model.get("page"));
  }

  function colour(theme) {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    window.dispatchEvent(new CustomEvent("smartcity-theme"));
  }

  function say(words, button) {
    notice.replaceChildren();
    if (!words) return;
    notice.append(`⚠ ${words} `);
    if (button) {
      const again = document.createElement("button");
      again.type = "button";
      again.className = "smartcity-button smartcity-primary";
      again.textContent = model.get("texts").again;
      again.addEventListener("click", () => location.reload());
      notice.append(again);
    }
  }

  write();
  colour(remembered("theme") ?? "system");
  if (owned) read();
  if (language(head) !== model.get("language")) {
    model.set("language", language(head));
    model.save_changes();
  }
  model.on("change:html", write);
  model.on("change:page", () => turn(model.get("page")));

  const times = new MutationObserver(() => {
    localise(root(), model.get("language"));
    mark();
  });
  requestAnimationFrame(() => {
    times.observe(root(), { childList: true, subtree: true });
    localise(root(), model.get("language"));
    mark();
    root().addEventListener("click", click, { signal });
    root().addEventListener("smartcity-inputs", keep, { signal });
  });

  function click(event) {
    const link = event.target.closest("a[data-page]");
    if (link && !(event.ctrlKey || event.metaKey || event.shiftKey || event.button)) {
      event.preventDefault();
      if (owned) history.pushState(null, "", link.href);
      go(link.dataset.page, {}, !head.contains(link));
      scrollTo(0, 0);
    }
    const action = event.target.closest("[data-do]")?.dataset.do;
    if (action) act(action);
  }

  async function act(action) {
    const drawn = [];
    window.dispatchEvent(new CustomEvent("smartcity-draw", { detail: drawn })); // those not yet in sight
    await Promise.all(drawn);
    if (action === "print") return print();
    const when = new Date().toISOString().slice(0, 16).replace(/[-:]/g, "");
    download(asFile(root()), `smartcity-${model.get("page")}-${when}.html`);
    live.textContent = model.get("texts").saved;
  }

  /** The address follows the inputs, so that a link or a new load restores them. */
  function keep({ detail }) {
    if (!owned || detail.page !== model.get("page")) return;
    const query = new URLSearchParams({ page: detail.page, ...detail.values });
    clearTimeout(keep.timer);
    keep.timer = setTimeout(() => history.replaceState(null, "", `?${query}`), 250);
  }

  head.addEventListener("change", ({ target }) => {
    const { choice } = target.dataset;
    if (!choice) return;
    remember(choice, target.value);
    if (choice === "theme") return colour(target.value);
    model.set("language", target.value);
    model.save_changes();
  }, { signal });
  if (owned) window.addEventListener("popstate", read, { signal });
  window.addEventListener("smartcity-connection", ({ detail }) => {
    const texts = model.get("texts");
    if (detail === "connected") {
      if (notice.textContent) live.textContent = texts.back;
      say("");
    } else say(detail === "connecting" ? texts.lost : texts.gone, true);
  }, { signal });
  return () => {
    stop.abort();
    times.disconnect();
  };
}

export default { render };
