// A script of its own, run before the page's.
import jquery from "jquery";

globalThis.smartcityJquery = jquery;
