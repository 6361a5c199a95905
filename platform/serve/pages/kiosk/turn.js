// A question and its answer, as they stand in the conversation.

import { button, element } from "./dom.js";
import { Markdown } from "./markdown.js";

export class Turn {
  #texts;
  #answer;
  #said = element("div", { class: "said" });
  #markdown;
  #waiting;
  #thoughts = null;
  #text = "";
  #thought = "";
  #isPlanned = false;

  constructor(question, texts) {
    this.#texts = texts;
    this.#markdown = new Markdown(this.#said, texts);
    const ripples = element("i", { "aria-hidden": "true" }, element("b"), element("b"), element("b"));
    this.#waiting = element("p", { class: "waiting" }, ripples, element("span", {}, texts.waiting));
    this.#answer = element("div", { class: "answer", role: "group", "aria-label": texts.answered }, this.#waiting);
    const asked = element("p", { class: "question", dir: "auto" },
      element("span", { class: "unseen" }, `${texts.asked}: `), question);
    this.element = element("article", { class: "turn" }, asked, this.#answer);
  }

  /** What was said so far. */
  get text() {
    return this.#text;
  }

  /** The words of what was said, without Markdown's marks. */
  get words() {
    this.#draw();
    return this.#said.innerText;
  }

  /** The model says more. */
  say(piece, drawn) {
    this.#text += piece;
    if (this.#text.trim() !== "" && !this.#said.isConnected) {
      this.#waiting.remove();
      this.#answer.append(this.#said);
      if (this.#thoughts) this.#thoughts.firstElementChild.textContent = this.#texts.thoughts;
    }
    this.#plan(drawn);
  }

  /** The model thinks more. */
  think(piece, drawn) {
    this.#thought += piece;
    if (!this.#thoughts) {
      const summary = element("summary", {}, this.#texts.thinking);
      this.#thoughts = element("details", { class: "thoughts" }, summary, element("p", { dir: "auto" }));
      this.#answer.prepend(this.#thoughts);
    }
    this.#plan(drawn);
  }

  /** It is over, with something to say about it, and perhaps something to do. */
  end(note = "", { alert = false, again = null } = {}) {
    this.#draw();
    this.#waiting.remove();
    if (this.#thoughts) this.#thoughts.firstElementChild.textContent = this.#texts.thoughts;
    if (note === "") return;
    const ending = element("div", { class: alert ? "ending alert" : "ending" }, element("p", {}, note));
    if (again) ending.append(button(this.#texts.again, again, { class: "plain" }));
    this.#answer.append(ending);
  }

  /** Draws before the next frame, however many pieces come until then. */
  #plan(drawn) {
    if (this.#isPlanned) return;
    this.#isPlanned = true;
    requestAnimationFrame(() => {
      this.#draw();
      drawn?.();
    });
  }

  #draw() {
    this.#isPlanned = false;
    if (this.#thoughts) this.#thoughts.lastElementChild.textContent = this.#thought.trim();
    this.#markdown.show(this.#text);
  }
}
