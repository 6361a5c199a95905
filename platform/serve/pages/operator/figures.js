// The server's figures: those of now are what was added between two looks.

import { byId, element } from "./dom.js";

/** Looks that the curve of the speed shows. */
const LOOKS = 120;

export class Figures {
  #before = null;
  #speeds = [];

  /** Shows a state of the server. */
  show(state) {
    const before = this.#before?.since === state.since ? this.#before : null;
    this.#before = state;
    const { model, memory } = state;
    byId("model").textContent = model ? `${model.name}, ${bytes(model.bytes)}, context ${number(model.context)}, ${model.kernels}` : "";
    this.#speed(state, before);
    load(state);
    this.#flash(state, before);
    answers(state);
    byId("memory-title").parentElement.hidden = !memory;
    if (memory) showMemory(memory);
  }

  #speed({ engine, seconds }, before) {
    const passed = before ? Math.max(seconds - before.seconds, 0.001) : Infinity;
    const added = (phase) => (engine[phase].tokens - (before?.engine[phase].tokens ?? 0)) / passed;
    const speed = added("answer");
    this.#speeds = [...this.#speeds, speed].slice(-LOOKS);
    byId("speed").textContent = fixed(speed);
    const most = Math.max(...this.#speeds, 1);
    const from = LOOKS - this.#speeds.length;
    const points = this.#speeds.map((value, at) => `${from + at} ${(38 - (36 * value) / most).toFixed(2)}`);
    byId("curve").firstElementChild.setAttribute("d", `M${points.join("L")}`);
    byId("curve").setAttribute("aria-label", `Tokens a second in the last two minutes: at most ${fixed(most)}`);
    const whole = ({ tokens, seconds: time }) => (time > 0 ? `${fixed(tokens / time)} tokens/s` : "–");
    list("speeds", [
      ["prompts now", `${fixed(added("prompt"))} tokens/s`],
      ["answers, at work", whole(engine.answer)],
      ["prompts, at work", whole(engine.prompt)],
      ["tokens known before", number(engine.reused)],
      ["guesses that were right", share(engine.accepted, engine.drafted)],
    ]);
  }

  #flash({ engine, seconds, temperature }, before) {
    const sum = (name, { answer, prompt }) => answer[name] + prompt[name];
    const passed = before ? Math.max(seconds - before.seconds, 0.001) : Infinity;
    const added = (name) => sum(name, engine) - (before ? sum(name, before.engine) : 0);
    byId("flash").textContent = fixed(added("bytes") / passed / 1e6);
    const [hits, misses] = ["hits", "misses"].map((name) => sum(name, engine));
    list("flashes", [
      ["read so far", bytes(sum("bytes", engine))],
      ["waiting for it now", percent(added("waiting") / passed)],
      ["waiting for it, of all work", share(sum("waiting", engine), sum("seconds", engine))],
      ["experts that were in RAM", share(hits, hits + misses)],
      ["temperature of the board", temperature === null ? "not told" : `${fixed(temperature)} °C`],
    ]);
  }
}

function load({ load: { busy, queued, queue }, places, first }) {
  byId("busy").textContent = busy;
  byId("busy-of").textContent = `of ${places?.length ?? "?"} places busy`;
  const seat = (place, at) => {
    const text = place
      ? `${number(place.tokens)} tokens, ${fixed(place.speed)}/s; prompt ${number(place.prompt)}, ${number(place.cached)} known`
      : "free";
    return element("li", { class: place ? "busy" : undefined }, element("b", {}, `Place ${at + 1}`), element("span", {}, text));
  };
  byId("places").replaceChildren(...(places ?? []).map(seat));
  list("loads", [
    ["waiting", `${queued} of ${queue}`],
    ["first token, on average", first.count > 0 ? `${fixed(first.seconds / first.count)} s` : "–"],
  ]);
}

function answers({ answers, responses }) {
  byId("answers").textContent = number(Object.values(answers).reduce((sum, count) => sum + count, 0));
  list("outcomes", [
    ["whole", number(answers.whole)],
    ["cut by a limit", number(answers.cut)],
    ["left by the client", number(answers.left)],
    ["failed", number(answers.failed)],
    ["requests refused (4xx)", number(responses["4xx"])],
    ["requests that failed (5xx)", number(responses["5xx"])],
  ]);
}

function showMemory({ budget, resident, parts }) {
  byId("resident").textContent = resident === null ? bytes(budget) : bytes(resident);
  byId("budget").textContent = resident === null ? "budget" : `in use, of a budget of ${bytes(budget)}`;
  const colour = (at) => `part-${Math.min(at, 5)}`;
  const sorted = parts.toSorted((one, two) => two.bytes - one.bytes);
  byId("bar").replaceChildren(...sorted.map((part, at) => {
    const piece = element("i", { class: colour(at) });
    piece.style.flexBasis = `${(100 * part.bytes) / budget}%`;
    return piece;
  }));
  byId("parts").replaceChildren(...sorted.map((part, at) =>
    element("div", {}, element("dt", {}, element("i", { class: colour(at) }), " ", part.name), element("dd", {}, bytes(part.bytes)))));
}

function list(id, rows) {
  byId(id).replaceChildren(...rows.flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, text)]));
}

const number = (value) => value.toLocaleString("en");
const fixed = (value) => value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 2 : value < 100 ? 1 : 0 });
const percent = (value) => `${fixed(100 * Math.min(value, 1))} %`;
const share = (part, whole) => (whole > 0 ? percent(part / whole) : "–");

function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let at = 0;
  for (; value >= 1024 && at < units.length - 1; at += 1) value /= 1024;
  return `${fixed(value)} ${units[at]}`;
}
