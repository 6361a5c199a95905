// What a visitor writes into, and the button that sends it or stops the answer.

import { byId } from "./dom.js";

export class Composer {
  #field = byId("question");
  #send = byId("send");
  #stop = byId("stop");

  /** `on.ask(question)` and `on.stop()` hear of what the visitor wants. */
  constructor(on) {
    byId("ask").addEventListener("submit", (event) => {
      event.preventDefault();
      const question = this.#field.value.trim();
      if (question !== "" && !this.#send.hidden) on.ask(question);
    });
    this.#field.addEventListener("input", () => this.#judge());
    this.#field.addEventListener("keydown", (event) => {
      // While characters are composed, Enter chooses one of them.
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      byId("ask").requestSubmit();
    });
    this.#stop.addEventListener("click", () => on.stop());
  }

  /** Whether something stands in it. */
  get isEmpty() {
    return this.#field.value === "";
  }

  /** Empties it. */
  clear() {
    this.#field.value = "";
    this.#judge();
  }

  /** Whether an answer is under way, which can be stopped. */
  set isBusy(busy) {
    const hadFocus = [this.#send, this.#stop].includes(document.activeElement);
    this.#send.hidden = busy;
    this.#stop.hidden = !busy;
    if (hadFocus) this.focus();
  }

  /** Where a visitor writes on, unless that would bring up a keyboard on the screen. */
  focus() {
    if (matchMedia("(pointer: fine)").matches) this.#field.focus({ preventScroll: true });
    else document.activeElement?.blur?.();
  }

  #judge() {
    this.#send.disabled = this.#field.value.trim() === "";
  }
}
