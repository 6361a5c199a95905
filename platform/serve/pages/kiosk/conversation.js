// The conversation: what was said, and the answer under way. It is nowhere but in this page's memory.

import { byId } from "./dom.js";
import { Broken, Refusal, answer } from "./stream.js";
import { Turn } from "./turn.js";

export class Conversation {
  #texts;
  #on;
  #messages = [];
  #under = null;
  #follows = true;

  /**
   * `on.begin()` and `on.end()` hear of each answer, `on.lost()` of a server that does not answer,
   * `on.say(text)` has a text read out.
   */
  constructor(texts, on) {
    this.#texts = texts;
    this.#on = on;
    addEventListener("scroll", () => this.#judge(), { passive: true });
    byId("newest").addEventListener("click", () => this.#follow(true));
  }

  get isEmpty() {
    return byId("turns").childElementCount === 0;
  }

  get isBusy() {
    return this.#under !== null;
  }

  /** Questions so far. */
  get asked() {
    return this.#messages.filter(({ role }) => role === "user").map(({ content }) => content);
  }

  /** Asks a question, unless an answer is under way. */
  async ask(question) {
    if (this.isBusy) return;
    const turn = new Turn(question, this.#texts);
    const under = new AbortController();
    this.#under = under;
    byId("turns").append(turn.element);
    this.#on.begin();
    this.#on.say(this.#texts.writing);
    this.#follow(true);
    const asked = { role: "user", content: question };
    const messages = [...this.#messages, asked];
    const end = await this.#listen(messages, turn, under.signal);
    // Whoever wiped the conversation has taken everything away.
    if (this.#under !== under) return;
    this.#under = null;
    const said = turn.text.trim();
    const own = said === "" ? [] : [asked, { role: "assistant", content: said }];
    this.#messages = [...this.#messages, ...own];
    const again = () => {
      if (this.isBusy) return;
      // What was said in vain is not part of the conversation; what came later is.
      this.#messages = this.#messages.filter((message) => !own.includes(message));
      turn.element.remove();
      this.ask(question);
    };
    turn.end(end.note, { alert: end.alert, again: end.again ? again : null });
    this.#on.say([turn.words, end.note].filter(Boolean).join("\n"));
    this.#on.end();
    if (end.lost) this.#on.lost();
    this.#follow(this.#follows);
  }

  /** Ends the answer under way; what was said stays. */
  stop() {
    this.#under?.abort();
  }

  /** Forgets everything. */
  wipe() {
    const under = this.#under;
    this.#under = null;
    under?.abort();
    this.#messages = [];
    byId("turns").replaceChildren();
    this.#follows = true;
    byId("newest").hidden = true;
  }

  /** Shows an answer as it comes; says how it ended. */
  async #listen(messages, turn, signal) {
    const texts = this.#texts;
    const drawn = () => this.#follow(this.#follows);
    try {
      let ending = null;
      for await (const event of answer(messages, signal)) {
        if (event.text) turn.say(event.text, drawn);
        if (event.thinking) turn.think(event.thinking, drawn);
        ending = event.ending ?? ending;
      }
      if (ending === "length") return { note: texts.cut };
      return turn.text.trim() === "" ? { note: texts.failed, alert: true, again: true } : { note: "" };
    } catch (error) {
      if (signal.aborted) return { note: texts.stopped };
      if (error instanceof Refusal) return this.#refused(error);
      if (!(error instanceof Broken || error instanceof TypeError)) console.error(error);
      return { note: turn.text === "" ? texts.down : texts.lost, alert: true, again: true, lost: true };
    }
  }

  #refused({ status, code }) {
    const texts = this.#texts;
    if (code === "context_length_exceeded") return { note: texts.long, alert: true };
    if (status === 401 || status === 403) return { note: texts.refused, alert: true };
    if (status === 429) return { note: texts.busy, alert: true, again: true };
    if (status === 503) return { note: texts.down, alert: true, again: true, lost: true };
    return { note: texts.failed, alert: true, again: true };
  }

  /** Stays at the newest words while the visitor does; otherwise a button leads there. */
  #follow(follows) {
    this.#follows = follows;
    if (follows) scrollTo({ top: document.documentElement.scrollHeight });
    byId("newest").hidden = follows || this.isEmpty;
  }

  #judge() {
    const { scrollHeight, clientHeight, scrollTop } = document.documentElement;
    this.#follows = scrollHeight - clientHeight - scrollTop < 60;
    byId("newest").hidden = this.#follows || this.isEmpty;
  }
}
