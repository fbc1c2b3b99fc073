// anywidget's package is an AMD module: it hands a factory to `define`. Catch it here.
globalThis.define = (_, factory) => {
  globalThis.smartcityAnywidget = factory;
  delete globalThis.define;
};
