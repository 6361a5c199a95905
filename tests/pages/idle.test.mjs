// The page for visitors, left alone.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Browser, fitsFingers, isAccessible, picture } from "./browser.mjs";
import { Served } from "./server.mjs";

let browser, served;

before(async () => {
  served = await Served.start({ "kiosk.toml": 'idle = 4\nprompts = ["Where is the lift?"]' }, ["--kiosk", "FOLDER/kiosk.toml"]);
  browser = await Browser.open();
});

after(async () => {
  await Promise.all([browser?.close(), served?.stop()]);
});

/** A page whose time stands still but where a test lets it go on. */
async function frozen(options) {
  const page = await browser.page(served.url, { ...options, clock: true });
  await page.locator("[data-view=start]").waitFor();
  await page.clock.pauseAt(Date.now() + 60_000);
  return page;
}

/** Asks a question and has the answer. */
async function ask(page) {
  await page.getByRole("button", { name: "Where is the lift?" }).click();
  await page.locator("#send:not([hidden])").waitFor();
}

/** Nobody does anything, until it is asked whether somebody is there. */
async function wait(page) {
  await page.clock.runFor(2_500);
  await page.locator("dialog[open]").waitFor();
}

/** A page with a conversation, about to be wiped. */
async function leftAlone(options) {
  const page = await frozen(options);
  await ask(page);
  await wait(page);
  return page;
}

/** Nothing of a conversation is anywhere. */
async function isWiped(page) {
  await page.locator("dialog:not([open])").waitFor({ state: "attached" });
  await page.locator("[data-view=start]").waitFor();
  const left = await page.evaluate(() => ({
    turns: document.querySelectorAll(".turn").length,
    field: document.getElementById("question").value,
    open: document.querySelectorAll("dialog[open]").length,
    kept: localStorage.length + sessionStorage.length + document.cookie.length,
  }));
  assert.deepEqual(left, { turns: 0, field: "", open: 0, kept: 0 });
}

test("nobody is there: the conversation is wiped", async () => {
  const page = await frozen();
  await ask(page);
  await page.locator("#question").fill("half a quest");
  await wait(page);
  await page.clock.runFor(2_500);
  await isWiped(page);
  // The next visitor begins from nothing.
  await ask(page);
  assert.equal(served.asked.at(-1).messages.length, 1);
  await page.done();
});

test("what was begun to be written is wiped too", async () => {
  const page = await frozen();
  await page.locator("#question").fill("half a quest");
  await wait(page);
  await page.clock.runFor(2_500);
  await isWiped(page);
  await page.done();
});

test("who is there stays, or starts over", async () => {
  const page = await leftAlone({ screen: "phone" });
  await page.getByRole("button", { name: "Yes, continue" }).click();
  await page.locator("dialog:not([open])").waitFor({ state: "attached" });
  assert.equal(await page.locator(".turn").count(), 1);
  await wait(page);
  await page.locator("dialog").getByRole("button", { name: "Start over" }).click();
  await isWiped(page);
  await page.done();
});

test("with a keyboard it can be answered as well", async () => {
  const page = await leftAlone();
  await page.keyboard.press("Tab");
  assert.equal(await page.locator("#idle-over").evaluate((place) => place === document.activeElement), true);
  await page.keyboard.press("Enter");
  await isWiped(page);
  await page.done();
});

test("nothing is wiped while an answer comes", async () => {
  const page = await browser.page(served.url, { clock: true });
  served.holds = true;
  await page.getByRole("button", { name: "Where is the lift?" }).click();
  await page.locator(".said").waitFor();
  // What would have happened within ten minutes has happened.
  await page.clock.runFor(600_000);
  assert.equal(await page.locator("dialog[open]").count(), 0);
  assert.equal(await page.locator(".turn").count(), 1);
  served.release();
  await page.locator("#send:not([hidden])").waitFor();
  await page.clock.runFor(10_000);
  await isWiped(page);
  await page.done();
});

for (const [screen, scheme] of [["kiosk", "light"], ["phone", "dark"]]) {
  test(`the question whether somebody is there, on a ${screen}, ${scheme}`, async () => {
    const page = await leftAlone({ screen, scheme });
    await fitsFingers(page);
    await isAccessible(page);
    await picture(page, `idle-${screen}-${scheme}`);
    await page.done();
  });
}
