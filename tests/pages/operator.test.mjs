// The operator's page.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { Browser, fitsFingers, isAccessible, picture } from "./browser.mjs";
import { Served, rill } from "./server.mjs";

let browser, served, open;
const folder = mkdtempSync(join(tmpdir(), "rill-keys-"));
const keys = {};

before(async () => {
  const file = join(folder, "keys.txt");
  keys.operator = rill("key", file, "house", "--operator").trim();
  keys.visitors = rill("key", file, "visitors").trim();
  served = await Served.start({ "kiosk.toml": 'key = "visitors"\nprompts = ["Where is the lift?"]' },
    ["--kiosk", "FOLDER/kiosk.toml", "--keys", file, "--conversations", "2"]);
  open = await Served.start();
  browser = await Browser.open();
});

after(async () => {
  await Promise.all([browser?.close(), served?.stop(), open?.stop()]);
  rmSync(folder, { recursive: true });
});

/** The page with the key given. */
async function entered(options) {
  const page = await browser.page(`${served.url}/operator`, options);
  await page.getByLabel("Key").fill(keys.operator);
  await page.keyboard.press("Enter");
  await page.locator("#board").waitFor();
  return page;
}

test("a key is needed, kept in the tab and forgotten", async () => {
  const page = await browser.page(`${served.url}/operator`);
  await page.getByLabel("Key").waitFor();
  assert.equal(await page.locator("#board").isVisible(), false);
  await fitsFingers(page);
  await isAccessible(page);
  await picture(page, "operator-key");
  await page.getByLabel("Key").fill("rill-wrong");
  await page.keyboard.press("Enter");
  await page.getByText("does not know this key").waitFor();
  await page.getByLabel("Key").fill(keys.visitors);
  await page.keyboard.press("Enter");
  await page.getByText("is not the operator's").waitFor();
  await page.getByLabel("Key").fill(keys.operator);
  await page.getByRole("button", { name: "Open" }).click();
  await page.locator("#board").waitFor();
  await page.reload();
  await page.locator("#board").waitFor();
  const kept = await page.evaluate(() => [localStorage.length, document.cookie, location.href]);
  assert.deepEqual(kept, [0, "", `${served.url}/operator`]);
  await page.getByRole("button", { name: "Forget the key" }).click();
  await page.getByLabel("Key").waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  await page.done();
});

test("without keys the page of this machine needs none", async () => {
  const page = await browser.page(`${open.url}/operator`);
  await page.locator("#board").waitFor();
  assert.equal(await page.getByRole("button", { name: "Forget the key" }).isVisible(), false);
  await page.done();
});

for (const [screen, scheme] of [["kiosk", "light"], ["kiosk", "dark"], ["phone", "light"], ["phone", "dark"]]) {
  test(`the figures on a ${screen}, ${scheme}`, async () => {
    const page = await entered({ screen, scheme });
    await page.locator("#state").getByText("ready").waitFor();
    await page.locator("#cache canvas").waitFor();
    assert.match(await page.locator("#cache-text").innerText(), /^\d+ of \d+ experts are in RAM, where there is room for \d+;/);
    await page.getByText("expert slots").waitFor();
    await page.locator("summary").click();
    await page.locator("#layers tr").first().waitFor();
    // The picture has as many cells as there are experts, in the colours of what they are.
    const colours = await page.locator("#picture").evaluate((canvas) => {
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      return new Set(new Uint32Array(data.buffer)).size;
    });
    assert.ok(colours > 2, `${colours} colours`);
    await fitsFingers(page);
    await isAccessible(page);
    await picture(page, `operator-${screen}-${scheme}`);
    await page.done();
  });
}

test("an answer under way is seen, and counted when it is over", async () => {
  const page = await entered();
  const whole = page.locator("#outcomes dd").first();
  const before = Number(await whole.innerText());
  const visitor = await browser.page(served.url);
  // Visitors on this machine ask in the name of a key that they do not have.
  await visitor.getByRole("button", { name: "Where is the lift?" }).click();
  await visitor.locator("#send:not([hidden])").waitFor();
  await visitor.locator(".said").waitFor();
  await whole.filter({ hasText: new RegExp(`^${before + 1}$`) }).waitFor();
  assert.match(await page.locator("#speeds dd").nth(1).innerText(), /tokens\/s/);
  await visitor.done();
  await page.done();
});

test("an answer that breaks off is told, and the next is shown", async () => {
  const page = await entered();
  await page.route("**/operator/state", (route) =>
    route.fulfill({ status: 200, contentType: "application/json", body: '{"stage": "rea' }));
  await page.locator("#state").getByText("not reachable").waitFor();
  await page.unroute("**/operator/state");
  await page.locator("#state").getByText("ready").waitFor();
  await page.done();
});

test("a server that goes is told, and its return too", async () => {
  const page = await entered();
  await served.kill();
  await page.locator("#state").getByText("not reachable").waitFor();
  await served.revive();
  await page.locator("#state").getByText("ready").waitFor();
  await page.done();
});
