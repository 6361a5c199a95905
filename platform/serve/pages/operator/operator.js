// The operator's page, put together: asks for the server's state once a second and shows it.

import { byId } from "./dom.js";
import { Cache } from "./cache.js";
import { Figures } from "./figures.js";
import { Key } from "./key.js";

const EVERY = 1000;

const figures = new Figures();
const cache = new Cache();
const key = new Key(() => look());
let timer = 0;
let under = new AbortController();
look();

/** Asks once, shows it, and plans the next time; what was asked before is not shown any more. */
async function look() {
  clearTimeout(timer);
  under.abort();
  const own = (under = new AbortController());
  const wait = await ask(own.signal);
  if (wait !== null && !own.signal.aborted) timer = setTimeout(look, wait);
}

/** Asks once; gives the time until the next, or nothing where a key must be given first. */
async function ask(own) {
  // Nobody looks at a page that is hidden.
  if (document.hidden) return EVERY;
  let response, state;
  try {
    const signal = AbortSignal.any([own, AbortSignal.timeout(10_000)]);
    response = await fetch("/operator/state", { headers: key.headers, cache: "no-store", signal });
    if (response.ok) state = await response.json();
  } catch {
    if (!own.aborted) tell("down", "not reachable");
    return EVERY;
  }
  if (own.aborted) return null;
  if (response.status === 401 || response.status === 403) {
    tell("locked", "");
    byId("board").hidden = true;
    key.demand(response.status === 403);
    return null;
  }
  if (!response.ok) {
    tell("down", `refused with status ${response.status}`);
    return 1000 * (Number(response.headers.get("retry-after")) || 5);
  }
  key.fits();
  byId("board").hidden = false;
  tell(state.stage, said(state));
  figures.show(state);
  cache.show(state.experts);
  return EVERY;
}

function said({ stage, silence }) {
  if (stage === "ready" && silence > 10) return `at one batch for ${Math.round(silence)} s`;
  return { ready: "ready", loading: "loading the model", leaving: "about to end" }[stage];
}

function tell(state, text) {
  document.body.dataset.state = state;
  if (byId("state").textContent !== text) byId("state").textContent = text;
}
