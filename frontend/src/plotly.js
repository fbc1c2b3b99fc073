// Of plotly.js the kinds of charts the page draws; CUSTOM_BUNDLE.md there tells how.
import Plotly from "plotly.js/lib/core";
import bar from "plotly.js/lib/bar";
import heatmap from "plotly.js/lib/heatmap";

Plotly.register([bar, heatmap]);
globalThis.Plotly = Plotly;
