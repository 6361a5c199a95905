// The picture of the experts' cache: a row a layer, a cell an expert.

import { byId, element } from "./dom.js";

/** Room for the names of layers, where there is any. */
const LABEL = 64;
const NARROW = 600;

export class Cache {
  #canvas = byId("picture");
  #experts = null;
  #cell = { from: 0, width: 0, height: 0 };

  constructor() {
    new ResizeObserver(() => this.#draw()).observe(this.#canvas.parentElement);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
    this.#canvas.addEventListener("pointermove", (event) => this.#point(event));
    byId("table").addEventListener("toggle", () => this.#table());
    this.#canvas.addEventListener("pointerleave", () => (byId("pointed").textContent = "\u00a0"));
  }

  /** Shows the experts of a state; what was shown stays while the engine cannot be asked. */
  show(experts) {
    if (experts) this.#experts = experts;
    byId("cache").hidden = !this.#experts;
    if (!this.#experts) return;
    const { banks, experts: count, slots, states } = this.#experts;
    const here = counts(states, "r");
    byId("cache-text").textContent =
      `${here} of ${banks * count} experts are in RAM, where there is room for ${slots}; ` +
      `${counts(states, "f")} are on their way. A token uses ${this.#experts.cycle}.`;
    this.#table();
    this.#draw();
  }

  #table() {
    if (!this.#experts || !byId("table").open) return;
    const { banks, experts, states, often, used } = this.#experts;
    const row = (bank) => {
      const range = [bank * experts, (bank + 1) * experts];
      const own = states.slice(...range);
      const rates = often.slice(...range);
      const most = rates.indexOf(Math.max(...rates));
      const last = used.slice(...range).filter(Boolean).length;
      const cells = [counts(own, "r"), counts(own, "f"), last, `expert ${most}: ${rates[most] / 10} % of tokens`];
      return element("tr", {}, element("th", { scope: "row" }, String(bank)), ...cells.map((cell) => element("td", {}, String(cell))));
    };
    byId("layers").replaceChildren(...Array.from({ length: banks }, (_, bank) => row(bank)));
  }

  #draw() {
    if (!this.#experts || byId("cache").hidden) return;
    const { banks, experts, states, often, used } = this.#experts;
    const width = this.#canvas.clientWidth;
    const from = width < NARROW ? 0 : LABEL;
    const across = Math.min(60, (width - from) / experts);
    const cell = { from, width: across, height: Math.min(Math.max(across, 12), 26) };
    this.#cell = cell;
    const height = banks * cell.height;
    const scale = devicePixelRatio;
    Object.assign(this.#canvas, { width: width * scale, height: height * scale });
    this.#canvas.style.height = `${height}px`;
    const pen = this.#canvas.getContext("2d");
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`);
    pen.scale(scale, scale);
    pen.font = `${Math.min(13, cell.height)}px ${getComputedStyle(document.body).fontFamily}`;
    pen.textBaseline = "middle";
    const most = Math.max(...often, 1);
    const gap = across > 8 ? 2 : 1;
    const [wide, high] = [cell.width - gap, cell.height - gap];
    for (let page = 0; page < banks * experts; page += 1) {
      const [x, y] = [from + (page % experts) * cell.width, Math.floor(page / experts) * cell.height];
      const box = () => {
        pen.beginPath();
        pen.roundRect(x + gap / 2, y + gap / 2, wide, high, Math.min(4, across / 5));
      };
      box();
      if (states[page] === "r") {
        pen.globalAlpha = 0.25 + 0.75 * Math.sqrt(often[page] / most);
        pen.fillStyle = colour("accent");
      } else {
        pen.globalAlpha = 0.55;
        pen.fillStyle = colour("line");
      }
      pen.fill();
      pen.globalAlpha = 1;
      const edge = states[page] === "f" ? "alert" : used[page] ? "text" : null;
      if (edge) {
        pen.lineWidth = gap;
        pen.strokeStyle = colour(edge);
        box();
        pen.stroke();
      }
    }
    pen.fillStyle = colour("muted");
    for (let bank = 0; bank < banks && from > 0; bank += 1) {
      pen.fillText(`Layer ${bank}`, 0, (bank + 0.5) * cell.height);
    }
  }

  #point(event) {
    const { banks, experts, states, often } = this.#experts;
    const cell = this.#cell;
    const [expert, bank] = [(event.offsetX - cell.from) / cell.width, event.offsetY / cell.height].map(Math.floor);
    if (expert < 0 || expert >= experts || bank < 0 || bank >= banks) return;
    const page = bank * experts + expert;
    const where = { r: "in RAM", f: "on its way", ".": "on flash" }[states[page]];
    byId("pointed").textContent = `Layer ${bank}, expert ${expert}: ${where}, used by ${often[page] / 10} % of tokens`;
  }
}

function counts(states, which) {
  return states.split(which).length - 1;
}
