// Before anything is painted: the reader's own choice of light or dark, and of language.
const kept = (name) => {
  try {
    return localStorage.getItem(`smartcity-${name}`);
  } catch {
    return null; // storage is switched off
  }
};
const root = document.documentElement;
const page = new URLSearchParams(location.search).get("page");
if (page) root.dataset.page = page;

// Charts take a moment to load: begin at once, or when the page has come to rest.
const source = document.currentScript.src.replace("early.js", "plotly.js");
globalThis.smartcityPlotly = new Promise((resolve, reject) => {
  const load = () => {
    const script = document.createElement("script");
    script.src = source;
    script.onload = () => resolve(globalThis.Plotly);
    script.onerror = () => reject(new Error("plotly.js could not be loaded"));
    document.head.append(script);
  };
  if (page && page !== "overview" && page !== "reports") load();
  else addEventListener("load", () => setTimeout(load, 500));
});
if (["light", "dark"].includes(kept("theme"))) root.dataset.theme = kept("theme");
