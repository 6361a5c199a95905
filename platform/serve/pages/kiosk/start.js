// The start screen: the languages, and questions to begin with.

import { button, byId, element } from "./dom.js";
import { Texts } from "./texts.js";

export class Start {
  #texts;
  #ask;

  /** `ask(question)` is called with a question that was touched. */
  constructor(texts, ask) {
    this.#texts = texts;
    this.#ask = ask;
  }

  /** Shows it in the language that the texts have now. */
  show() {
    const texts = this.#texts;
    byId("welcome").textContent = texts.welcome;
    byId("prompts").replaceChildren(...this.questions(texts.prompts));
    const choices = texts.choices.map((language) =>
      button(Texts.nameOf(language), () => this.#speak(language), {
        lang: language,
        "aria-current": language === texts.current && "true",
      }));
    byId("languages").replaceChildren(...choices);
    byId("languages").hidden = choices.length < 2;
  }

  /** Questions as a list's items. */
  questions(prompts) {
    return prompts.map((prompt) => element("li", {}, button(prompt, () => this.#ask(prompt), { dir: "auto" })));
  }

  #speak(language) {
    this.#texts.use(language);
    this.show();
    byId("languages").querySelector("[aria-current]").focus();
  }
}
