// The key of who looks: in this tab's memory, sent as `Authorization`, and gone with the tab.

import { byId } from "./dom.js";

const NAME = "rill-key";

export class Key {
  #asked;

  /** `asked()` is called when a key was given. */
  constructor(asked) {
    this.#asked = asked;
    byId("gate").addEventListener("submit", (event) => {
      event.preventDefault();
      sessionStorage.setItem(NAME, byId("key").value.trim());
      byId("key").value = "";
      this.#asked();
    });
    byId("forget").addEventListener("click", () => {
      sessionStorage.removeItem(NAME);
      byId("forget").hidden = true;
      this.#asked();
    });
  }

  /** What a request says of the key. */
  get headers() {
    const key = sessionStorage.getItem(NAME);
    // What is no key cannot be sent as a header.
    return key !== null && /^[\x21-\x7e]+$/.test(key) ? { authorization: `Bearer ${key}` } : {};
  }

  /** The key was taken, or none was needed. */
  fits() {
    byId("gate").hidden = true;
    byId("forget").hidden = sessionStorage.getItem(NAME) === null;
  }

  /** The server takes none but another key; `known` says that this one opens other things. */
  demand(known) {
    const was = sessionStorage.getItem(NAME) !== null;
    sessionStorage.removeItem(NAME);
    const why = known
      ? "This key is not the operator's: “rill key --operator” makes one that is."
      : "The server does not know this key.";
    byId("refused").textContent = was ? why : "";
    byId("forget").hidden = true;
    byId("gate").hidden = false;
    byId("key").focus();
  }
}
