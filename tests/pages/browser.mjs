// Debian's Chromium without a screen, and what is asked of every page in it.

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import axe from "axe-core";
import { chromium } from "playwright-core";

/** Screens that pages are made for. */
export const SCREENS = {
  kiosk: { viewport: { width: 1920, height: 1080 } },
  phone: { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2 },
};

export class Browser {
  #browser;

  static async open() {
    const browser = new Browser();
    browser.#browser = await chromium.launch({ executablePath: "/usr/bin/chromium", timeout: 180_000 });
    return browser;
  }

  /** A page as a visitor sees it; what it must never do is looked for until `done`. */
  async page(url, { screen = "kiosk", language = "en", scheme = "light", motion = "reduce", clock = false } = {}) {
    const context = await this.#browser.newContext({
      ...SCREENS[screen],
      locale: language,
      colorScheme: scheme,
      reducedMotion: motion,
    });
    // Others use the machine too: what happens late is not wrong.
    context.setDefaultTimeout(60_000);
    // A clock of the test's own, which goes on by itself too.
    if (clock) {
      await context.addInitScript(() => (window.laterIndeed = setTimeout.bind(window)));
      await context.clock.install();
    }
    const page = await context.newPage();
    const wrong = [];
    page.on("pageerror", (error) => wrong.push(String(error)));
    page.on("dialog", (dialog) => wrong.push(`a dialog: ${dialog.message()}`));
    page.on("request", (request) => {
      const asks = request.url();
      if (!asks.startsWith(`${new URL(url).origin}/`)) wrong.push(`a request to ${asks}`);
    });
    page.on("console", (message) => {
      const isNetwork = message.text().startsWith("Failed to load resource");
      if (message.type() === "error" && !isNetwork) wrong.push(message.text());
    });
    page.done = async () => {
      assert.deepEqual(wrong, []);
      await context.close();
    };
    await page.goto(url);
    return page;
  }

  async close() {
    await this.#browser.close();
  }
}

/** Axe finds nothing on the page as it is. */
export async function isAccessible(page) {
  await page.evaluate(axe.source);
  const found = await page.evaluate(async () => {
    const later = setTimeout;
    // Axe goes on when the page's clock stands still.
    window.setTimeout = window.laterIndeed ?? later;
    const results = await axe.run(document, { resultTypes: ["violations"] });
    window.setTimeout = later;
    return results;
  });
  const said = found.violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(" ")}`);
  assert.deepEqual(said, []);
}

/** All that can be touched is large enough for a finger, and nothing is wider than the screen. */
export async function fitsFingers(page) {
  const small = await page.evaluate(() => {
    const shown = [...document.querySelectorAll("button, summary, input, textarea")];
    const boxes = shown.filter((place) => place.checkVisibility()).map((place) => [place, place.getBoundingClientRect()]);
    return boxes.filter(([, box]) => box.width < 48 || box.height < 48).map(([place]) => place.outerHTML);
  });
  assert.deepEqual(small, []);
  const wide = await page.evaluate(() => document.documentElement.scrollWidth);
  assert.ok(wide <= page.viewportSize().width, `the page is ${wide} pixels wide`);
}

/** Keeps a picture of the page for who wants to look, in the folder that SCREENSHOTS names. */
export async function picture(page, name) {
  const folder = process.env.SCREENSHOTS;
  if (!folder) return;
  mkdirSync(folder, { recursive: true });
  await page.screenshot({ path: `${folder}/${name}.png` });
}
