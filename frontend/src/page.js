// Host the notebook's widgets: their state came with the page, so they are shown before a kernel answers.
import "./amd.js";
import "anywidget";
import * as base from "@jupyter-widgets/base";
import * as controls from "@jupyter-widgets/controls";
import { HTMLManager } from "@jupyter-widgets/html-manager/lib/htmlmanager.js";
import { KernelConnection } from "@jupyterlab/services/lib/kernel/default.js";
import { ServerConnection } from "@jupyterlab/services/lib/serverconnection.js";

const anywidget = globalThis.smartcityAnywidget(base);
const classes = {
  "@jupyter-widgets/base": base,
  "@jupyter-widgets/controls": controls,
  anywidget,
};
const place = document.getElementById("live");
const tell = (state) => window.dispatchEvent(new CustomEvent("smartcity-connection", { detail: state }));

function connect() {
  const { base: baseUrl, kernel: id } = place.dataset;
  const http = new URL(baseUrl, location.href).href;
  const settings = { baseUrl: http, wsUrl: http.replace(/^http/, "ws"), appendToken: false };
  const kernel = new KernelConnection({
    model: { id, name: "python3" },
    serverSettings: ServerConnection.makeSettings(settings),
    commsOverSubshells: "disabled", // the server lets nothing through that would open one
  });
  let was = "connecting";
  kernel.connectionStatusChanged.connect((_, now) => {
    if (now === "connected" || was !== "connecting") tell(now);
    was = now === "connecting" && was === "connecting" ? was : now;
  });
  kernel.statusChanged.connect((_, now) => {
    if (["dead", "restarting", "autorestarting"].includes(now)) tell("disconnected");
  });
  return kernel;
}

class Manager extends HTMLManager {
  constructor(kernel) {
    super();
    this.kernel = kernel;
    kernel.registerCommTarget(this.comm_target_name, (comm, message) =>
      this.handle_comm_open(new base.shims.services.Comm(comm), message),
    );
  }

  // Every widget of the page is alive in the kernel: join its comm, open none.
  async _create_comm(target, id) {
    return new base.shims.services.Comm(this.kernel.createComm(target, id));
  }

  async loadClass(name, module, version) {
    return classes[module]?.[name] ?? super.loadClass(name, module, version);
  }

  async take(states) {
    const files = new URL(place.dataset.files, location.href).href;
    const made = Object.entries(states).map(async ([model_id, { state, ...kind }]) => {
      if (state._esm) state._esm = files + state._esm; // anywidget takes text or an address
      const comm = await this._create_comm(this.comm_target_name, model_id);
      return this.new_model({ ...kind, model_id, comm }, state);
    });
    await Promise.all(made);
  }
}

async function show() {
  const manager = new Manager(connect());
  const { model, states } = JSON.parse(document.getElementById("state").textContent);
  await manager.take(states);
  const view = await manager.create_view(await manager.get_model(model));
  await manager.display_view(view, place);
  await view.displayed;
  document.getElementById("first")?.remove();
  place.hidden = false;
}

// In a turn of its own: who watches requests would have the whole bundle on their stack.
setTimeout(() => show().catch((error) => {
  console.error(error);
  tell("disconnected");
}));
