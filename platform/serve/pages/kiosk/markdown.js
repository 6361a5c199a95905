// Markdown as elements of the page. Nothing in it can be followed, loaded or run: links are words with
// their address behind them, pictures are their descriptions, HTML is text.

import { element } from "./dom.js";
import { blocks } from "./blocks.js";
import { inline } from "./inline.js";

/** Shows a growing text: what did not change since the last call stays as it is. */
export class Markdown {
  #place;
  #texts;
  #shown = [];

  constructor(place, texts) {
    this.#place = place;
    this.#texts = texts;
  }

  show(text) {
    const found = blocks(text);
    let same = 0;
    while (same < found.length && found[same].source === this.#shown[same]) same += 1;
    while (this.#place.children.length > same) this.#place.lastElementChild.remove();
    this.#place.append(...found.slice(same).map((block) => this.#block(block)));
    this.#shown = found.map((block) => block.source);
  }

  #block(block) {
    // Each block has the direction of its own text; `auto` does not look into blocks within.
    const dir = "auto";
    switch (block.kind) {
      case "heading":
        return element(`h${Math.min(block.level + 1, 6)}`, { dir }, ...pieces(block.text));
      case "code":
        return element("pre", { dir: "ltr", tabindex: "0", role: "group", "aria-label": this.#texts.code },
          element("code", {}, block.text));
      case "rule":
        return element("hr");
      case "quote":
        return element("blockquote", { dir: direction(block.source) }, ...block.blocks.map((inner) => this.#block(inner)));
      case "list":
        return this.#list(block);
      case "table":
        return this.#table(block);
      default:
        return element("p", { dir }, ...pieces(block.text));
    }
  }

  #list({ start, isLoose, items, source }) {
    const item = (inner) => {
      const parts = inner.flatMap((block) =>
        block.kind === "paragraph" && !isLoose ? pieces(block.text) : [this.#block(block)]);
      return element("li", { dir: "auto" }, ...parts);
    };
    const attributes = start !== null && start !== 1 ? { start } : {};
    return element(start === null ? "ul" : "ol", { dir: direction(source), ...attributes }, ...items.map(item));
  }

  #table({ head, aligns, rows, source }) {
    const row = (tag, cells, more) =>
      element("tr", {}, ...cells.map((cell, column) =>
        element(tag, { dir: "auto", "data-align": aligns[column] ?? undefined, ...more }, ...pieces(cell))));
    const table = element("table", {},
      element("thead", {}, row("th", head, { scope: "col" })),
      element("tbody", {}, ...rows.map((cells) => row("td", cells))));
    return element("div", { class: "table", dir: direction(source), tabindex: "0", role: "group", "aria-label": this.#texts.table }, table);
  }
}

/** The direction of a text: that of its first letter. */
function direction(text) {
  const letter = /\p{L}/u.exec(text)?.[0] ?? "";
  return /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]/.test(letter) ? "rtl" : "ltr";
}

const TAGS = { strong: "strong", stress: "em", gone: "del" };

function pieces(text) {
  return inline(text).flatMap(piece);
}

function piece(found) {
  if (typeof found === "string") return [found];
  switch (found.kind) {
    case "break":
      return [element("br")];
    case "code":
      return [element("code", { dir: "ltr" }, found.text)];
    case "link": {
      const shown = element("span", { class: "link" }, ...found.children.flatMap(piece));
      const isSaid = found.address === "" || shown.textContent === found.address;
      const address = element("bdi", { class: "address" }, `(${found.address})`);
      return isSaid ? [shown] : [shown, " ", address];
    }
    case "picture":
      return found.children.flatMap(piece);
    default:
      return [element(TAGS[found.kind], {}, ...found.children.flatMap(piece))];
  }
}
