// Whether the server is there: asked now and then, and more often while it is not.

const CALM = 10_000;
const FIRST = 500;
const SLOWEST = 5_000;

export class Watch {
  #on;
  #state = "up";
  #wait = FIRST;
  #timer = 0;

  /** `on(state)` hears of each change: "up", "starting" or "down". */
  constructor(on) {
    this.#on = on;
    this.#plan(0);
  }

  /** Something went wrong: looks at once. */
  look() {
    this.#wait = FIRST;
    this.#plan(0);
  }

  #plan(after) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#ask(), after);
  }

  async #ask() {
    const state = await ask();
    const before = this.#state;
    this.#state = state;
    if (state === "up") {
      this.#wait = FIRST;
      this.#plan(CALM);
    } else {
      this.#plan(this.#wait);
      this.#wait = Math.min(this.#wait * 1.5, SLOWEST);
    }
    if (state !== before) this.#on(state);
  }
}

async function ask() {
  try {
    const response = await fetch("/health", { cache: "no-store", signal: AbortSignal.timeout(5_000) });
    return response.ok ? "up" : "starting";
  } catch {
    return "down";
  }
}
