// Bundle the page's script and styles into the template's static folder; `make frontend` runs this.
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

const target = "../smartcity/dashboard/share/voila/templates/smartcity/static/made";
const sources = ["package-lock.json", "build.mjs", "src/page.js", "src/amd.js", "src/early.js", "src/jquery.js", "src/plotly.js"];
const digest = createHash("sha256");
for (const path of sources) digest.update(readFileSync(path));
const version = digest.digest("hex");

// html-manager can also host widgets of ipywidgets 7; ours are of 8, so theirs stay out.
const no_old_widgets = {
  name: "no-old-widgets",
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^@jupyter-widgets\/(base|controls)7/ }, ({ path }) => ({ path, namespace: "none" }));
    onLoad({ filter: /.*/, namespace: "none" }, () => ({ contents: "" }));
  },
};

// jQuery tries out what throws as it starts; each time the browser reads all of the script it is in.
const jquery_apart = {
  name: "jquery-apart",
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^jquery$/ }, ({ importer }) => importer.endsWith("src/jquery.js") ? undefined : { path: "jquery", namespace: "apart" });
    onLoad({ filter: /.*/, namespace: "apart" }, () => ({ contents: "module.exports = globalThis.smartcityJquery;" }));
  },
};

rmSync(target, { recursive: true, force: true });
mkdirSync(target, { recursive: true });
await build({
  entryPoints: ["src/page.js", "src/early.js", "src/jquery.js", "src/plotly.js"],
  outdir: target,
  bundle: true,
  minify: true,
  format: "iife",
  target: ["chrome111", "firefox113", "safari16.4"],
  plugins: [no_old_widgets, jquery_apart],
  external: ["ws"], // for Node alone
  pure: ["console.debug"], // it costs more than it tells
  define: { global: "globalThis", "process.env.NODE_ENV": '"production"' },
  loader: { ".svg": "dataurl", ".woff": "empty", ".woff2": "empty", ".ttf": "empty", ".eot": "empty" },
  legalComments: "linked",
  banner: { js: `/* made by frontend/build.mjs from sources ${version} */` },
});
rmSync(`${target}/plotly.css`); // for maps
// The template asks for this version, so browsers may keep what they have for good.
writeFileSync(`${target}/version.txt`, version.slice(0, 12));
