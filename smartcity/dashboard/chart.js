// One plotly.js for all charts of a page: the page's own, or the kernel's copy where there is none.
function plotly(model) {
  window.smartcityPlotly ??= window.Plotly ? Promise.resolve(window.Plotly) : new Promise((resolve, reject) => {
    model.on("msg:custom", (content, buffers) => {
      if (content !== "plotly") return;
      const script = document.createElement("script");
      script.src = URL.createObjectURL(new Blob([buffers[0]], { type: "text/javascript" }));
      script.onload = () => resolve(window.Plotly);
      script.onerror = reject;
      document.head.append(script);
    });
    model.send("plotly");
  });
  return window.smartcityPlotly;
}

function render({ model, el }) {
  const place = document.createElement("div");
  const caption = document.createElement("p");
  place.className = "smartcity-chart";
  caption.className = "smartcity-caption";
  el.append(place, caption);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const draw = async () => {
    const library = await plotly(model);
    const figure = structuredClone(model.get("figure"));
    const color = getComputedStyle(el).color;
    figure.layout.font = { ...figure.layout.font, color };
    figure.layout.autosize = true;
    if (el.clientWidth < 480) {
      figure.layout.margin = { ...figure.layout.margin, l: 44, r: 8 };
      for (const trace of figure.data) if (trace.type === "heatmap") trace.showscale = false;
    }
    caption.textContent = figure.layout.meta.summary;
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", `${figure.layout.title.text}. ${figure.layout.meta.summary}`);
    await library.react(place, figure.data, figure.layout, { responsive: true, displayModeBar: false });
  };
  const resized = new ResizeObserver(() => window.Plotly && place.data && window.Plotly.Plots.resize(place));
  resized.observe(el);
  model.on("change:figure", draw);
  dark.addEventListener("change", draw);
  requestAnimationFrame(draw);
  return () => { resized.disconnect(); dark.removeEventListener("change", draw); window.Plotly?.purge(place); };
}

export default { render };
