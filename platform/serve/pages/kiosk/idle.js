// Whether anybody is there: after a while without a touch a countdown is shown, at whose end nobody was.

const TOUCHES = ["pointerdown", "keydown", "wheel", "touchmove", "input"];

/** Seconds of the countdown, where there are as many. */
const COUNTDOWN = 20;

export class Idle {
  #seconds;
  #countdown;
  #on;
  #timer = 0;
  #last = performance.now();
  #holds = 0;
  #warns = false;

  /**
   * After `seconds` without a touch; 0 for never. `on.needed()` says whether there is anything to ask about,
   * `on.warn(left, of)` shows the seconds that are left, `on.stay()` takes that away, `on.end()` wipes;
   * `on.answers(event)` says whether a touch answers the question by itself.
   */
  constructor(seconds, on) {
    this.#seconds = seconds;
    this.#countdown = Math.min(COUNTDOWN, seconds / 2);
    this.#on = on;
    if (seconds === 0) return;
    const touched = (event) => {
      if (!this.#warns || !on.answers(event)) this.touch();
    };
    for (const kind of TOUCHES) addEventListener(kind, touched, { passive: true, capture: true });
    document.addEventListener("visibilitychange", () => this.#check());
    this.#check();
  }

  /** Somebody is there. */
  touch() {
    this.#last = performance.now();
    if (this.#warns) {
      this.#warns = false;
      this.#on.stay();
    }
    this.#check();
  }

  /** Nobody is expected to touch anything until `release`. */
  hold() {
    this.#holds += 1;
    this.touch();
  }

  release() {
    this.#holds -= 1;
    this.touch();
  }

  #check() {
    clearTimeout(this.#timer);
    if (this.#seconds === 0) return;
    if (this.#holds > 0) this.#last = performance.now();
    const left = this.#seconds - (performance.now() - this.#last) / 1000;
    if (left <= 0) {
      this.#warns = false;
      this.#last = performance.now();
      this.#on.end();
    } else if (left <= this.#countdown && this.#on.needed()) {
      this.#warns = true;
      this.#on.warn(left, this.#countdown);
    } else {
      this.#warns = false;
    }
    // Often enough that the numbers are right.
    const calm = left > this.#countdown ? left - this.#countdown : left;
    const next = this.#warns ? 250 : Math.min(1000, calm * 1000);
    this.#timer = setTimeout(() => this.#check(), Math.max(next, 50));
  }
}
