// The page for visitors.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { Browser, fitsFingers, isAccessible, picture } from "./browser.mjs";
import { Served, stream } from "./server.mjs";

const KIOSK = `
title = "City Museum"
welcome = "Ask me about the house, its rooms and its hours."
prompts = ["Where is the lift?", "When does the museum close?", "Is there a café?", "Where can I leave my coat?"]
system = "You are the guide of the museum."
idle = 0

[languages.de]
title = "Stadtmuseum"
prompts = ["Wo ist der Aufzug?"]

[languages.en]
[languages.es]
[languages.ar]
title = "متحف المدينة"
`;

let browser, served;

before(async () => {
  served = await Served.start({ "kiosk.toml": KIOSK }, ["--kiosk", "FOLDER/kiosk.toml"]);
  browser = await Browser.open();
});

after(async () => {
  await Promise.all([browser?.close(), served?.stop()]);
});

/** The page, and what is on it. */
async function open(options, from = served) {
  const page = await browser.page(from.url, options);
  await page.locator("[data-view=start]").waitFor();
  return page;
}

/** Waits until the last answer is whole; gives its text. */
async function answered(page) {
  await page.locator("#send:not([hidden])").waitFor();
  return page.locator(".said").last().innerText();
}

/** Shows an answer that the model would not give. */
async function say(page, pieces, question = "Show me") {
  await page.route("**/kiosk/chat", (route) =>
    route.fulfill({ contentType: "text/event-stream", body: stream(pieces) }));
  await page.locator("#question").fill(question);
  await page.locator("#send").click();
  await page.locator("#send:not([hidden])").waitFor();
  await page.unroute("**/kiosk/chat");
}

for (const screen of ["kiosk", "phone"]) {
  for (const scheme of ["light", "dark"]) {
    test(`a conversation on a ${screen}, ${scheme}`, async () => {
      const page = await open({ screen, scheme });
      assert.equal(await page.locator("#start h1").innerText(), "City Museum");
      assert.equal(await page.title(), "City Museum");
      await fitsFingers(page);
      await isAccessible(page);
      await picture(page, `start-${screen}-${scheme}`);

      await page.getByRole("button", { name: "Where is the lift?" }).click();
      const first = await answered(page);
      assert.notEqual(first, "");
      // A screen reader hears it once, whole.
      assert.equal((await page.locator("#said").innerText()).trim(), first.trim());
      await page.locator("#question").fill("When does the museum close?");
      await page.locator("#send").click();
      await page.locator(".turn").nth(1).waitFor();
      await answered(page);
      assert.equal(await page.locator(".turn").count(), 2);
      await fitsFingers(page);
      await isAccessible(page);
      await picture(page, `talk-${screen}-${scheme}`);

      // What was said goes along; what the owner says does not pass through here.
      const { messages, ...rest } = served.asked.at(-1);
      assert.deepEqual(messages.map(({ role }) => role), ["user", "assistant", "user"]);
      assert.deepEqual(rest, {});

      // A question that was not asked is offered; starting over leaves nothing.
      await page.locator("#further button").first().waitFor();
      await page.locator("#over").click();
      await page.locator("[data-view=start]").waitFor();
      assert.equal(await page.locator(".turn").count(), 0);
      await page.done();
    });
  }
}

test("an answer is stopped, and its place is free", async () => {
  const page = await open();
  served.holds = true;
  await page.locator("#question").fill("Tell me everything about the museum");
  await page.keyboard.press("Enter");
  await page.locator(".said").getByText(/\w/).first().waitFor();
  await picture(page, "under-way");
  await isAccessible(page);
  await page.locator("#stop").click();
  await page.locator(".ending").getByText("Stopped.").waitFor();
  served.release();
  const isFree = async () =>
    JSON.parse((await served.get("/slots")).text).every(({ is_processing }) => !is_processing);
  let looks = 0;
  while (!(await isFree())) {
    assert.ok(++looks < 600, "the place of an answer that was stopped is not free");
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  // The next question is answered, and knows what was said.
  await page.getByRole("button", { name: "Is there a café?" }).click();
  await page.locator(".turn").nth(1).locator(".said").waitFor();
  await answered(page);
  assert.equal(served.asked.at(-1).messages.length, 3);
  await page.done();
});

test("a server that goes in the middle of an answer is told, and its return too", async () => {
  const page = await open();
  served.holds = true;
  await page.getByRole("button", { name: "Where is the lift?" }).click();
  await page.locator(".said").getByText(/\w/).first().waitFor();
  await served.kill();
  await page.locator(".ending.alert").getByText("The connection broke").waitFor();
  await page.locator("#notice").getByText("cannot be reached").waitFor();
  await isAccessible(page);
  await picture(page, "dropped");
  // Nobody answers now.
  served.holds = false;
  await page.getByRole("button", { name: "Try again" }).click();
  await page.locator(".ending.alert").getByText("cannot be reached").waitFor();
  assert.equal(await page.locator(".turn").count(), 1);

  await served.revive();
  await page.locator("[data-server=up]").waitFor();
  assert.equal(await page.locator("#notice").innerText(), "");
  await page.getByRole("button", { name: "Try again" }).click();
  await page.locator(".said").waitFor();
  assert.notEqual(await answered(page), "");
  assert.equal(served.asked.at(-1).messages.length, 1);
  await page.done();
});

test("a question that is asked again forgets nothing that was said since", async () => {
  const page = await open();
  const ask = async (question) => {
    await page.locator("#question").fill(question);
    await page.keyboard.press("Enter");
  };
  await page.route("**/kiosk/chat", (route) =>
    route.fulfill({ status: 429, json: { error: { message: "m", code: "queue_full" } } }));
  await ask("Where is the lift?");
  await page.locator(".ending").getByText("Many people").waitFor();
  await page.unroute("**/kiosk/chat");
  await ask("Where is the café?");
  await page.locator(".turn").nth(1).locator(".said").waitFor();
  await answered(page);
  await page.getByRole("button", { name: "Try again" }).click();
  await page.locator(".turn").nth(1).locator(".said").waitFor();
  await answered(page);
  const said = served.asked.at(-1).messages.map(({ role }) => role);
  assert.deepEqual(said, ["user", "assistant", "user"]);
  await page.done();
});

test("it is used with a keyboard alone", async () => {
  const page = await open();
  const focused = () => page.evaluate(() => document.activeElement.innerText || document.activeElement.id);
  await page.keyboard.press("Tab");
  assert.equal(await focused(), "To the question");
  await page.keyboard.press("Enter");
  await page.keyboard.type("Where is the lift?");
  await page.keyboard.press("Shift+Enter");
  await page.keyboard.press("Backspace");
  await page.keyboard.press("Enter");
  await page.locator(".said").waitFor();
  await answered(page);
  // The field has the focus still, and what is offered stands before it.
  assert.equal(await focused(), "question");
  await page.keyboard.press("Shift+Tab");
  await page.keyboard.press("Enter");
  await page.locator(".turn").nth(1).locator(".said").waitFor();
  await answered(page);
  // Back through everything that there is to "Start over".
  for (let presses = 0; (await focused()) !== "Start over"; presses += 1) {
    assert.ok(presses < 20, "it cannot be reached");
    await page.keyboard.press("Shift+Tab");
  }
  await page.keyboard.press("Enter");
  await page.locator("[data-view=start]").waitFor();
  await page.done();
});

test("languages are those of the browser, or chosen, or of the owner", async () => {
  const german = await open({ language: "de-AT" });
  assert.equal(await german.locator("#start h1").innerText(), "Stadtmuseum");
  await german.getByRole("button", { name: "Wo ist der Aufzug?" }).waitFor();
  await german.done();
  const spanish = await open({ language: "es" });
  assert.equal(await spanish.locator("html").getAttribute("lang"), "es");
  await spanish.getByPlaceholder("Su pregunta").waitFor();
  await spanish.done();

  const page = await open({ language: "fr" });
  for (const [screen, size] of [["kiosk", [1920, 1080]], ["phone", [390, 844]]]) {
    await page.setViewportSize({ width: size[0], height: size[1] });
    await page.getByRole("button", { name: "العربية" }).click();
    await page.locator("html[dir=rtl][lang=ar]").waitFor();
    await isAccessible(page);
    await picture(page, `start-${screen}-arabic`);
    await say(page, [{ content: "المصعد **خلف** مكتب التذاكر:\n\n1. الطابق الأول\n2. الطابق الثاني\n\n> ملاحظة: `Lift B`" }],
      "أين المصعد؟");
    const [question, field] = await Promise.all(
      ["#talk .question", "#send"].map((place) => page.locator(place).boundingBox()));
    // Questions are at the left, and so is what sends them.
    assert.ok(question.x < size[0] / 2 && field.x < size[0] / 2);
    const direction = (place) => place.evaluate((shown) => getComputedStyle(shown).direction);
    for (const tag of ["p", "ol", "blockquote"]) assert.equal(await direction(page.locator(`.said ${tag}`).first()), "rtl");
    await fitsFingers(page);
    await isAccessible(page);
    await picture(page, `talk-${screen}-arabic`);
    await page.locator("#over").click();
  }
  // Who starts over starts in the first language.
  assert.equal(await page.locator("html").getAttribute("lang"), "en");
  await page.done();
});

test("Markdown is shown, and nothing in it runs or leads anywhere", async () => {
  const page = await open();
  const text = [
    "# Getting here", "Take **tram 4** or *walk*; ~~bus 7~~ no longer stops. Use `Exit B`.", "",
    "1. First", "   - nested", "   - twice", "2. Second", "", "> Quiet hours", "",
    "| Day | Opens | Closes |", "|---|:-:|--:|", "| Mon | 9 | 17 |", "| Tue \\| Wed | 10 | 18 |", "",
    "```js", "const hours = \"<b>9-17</b>\";", "```", "",
    "[our site](https://museum.example/a) ![plan](https://museum.example/plan.png)", "",
    "<script>alert(1)</script> <img src=x onerror=alert(2)> <a href='javascript:alert(3)'>x</a>", "",
    "[x](javascript:alert(4)) <https://museum.example> &lt;b&gt;", "", "---", "", "**open", "",
    "<iframe src=\"https://museum.example\"></iframe><style>body{display:none}</style>",
  ].join("\n");
  // In pieces of a few characters, as a model says it.
  await say(page, text.match(/[^]{1,7}/g).map((content) => ({ content })));
  const said = page.locator(".said");
  assert.equal(await said.locator("h2").innerText(), "Getting here");
  assert.deepEqual(await said.locator("strong, em, del").allInnerTexts(), ["tram 4", "walk", "bus 7"]);
  assert.equal(await said.locator("ol > li").count(), 2);
  assert.deepEqual(await said.locator("ol ul li").allInnerTexts(), ["nested", "twice"]);
  assert.deepEqual(await said.locator("tbody tr").last().locator("td").allInnerTexts(), ["Tue | Wed", "10", "18"]);
  assert.equal(await said.locator("pre").innerText(), "const hours = \"<b>9-17</b>\";");
  assert.equal(await said.locator("blockquote").innerText(), "Quiet hours");
  assert.equal(await said.locator("hr").count(), 1);
  assert.equal(await said.locator("a, img, script, iframe, style, b, form, input, object, embed").count(), 0);
  const shown = await said.innerText();
  for (const literal of ["<script>alert(1)</script>", "<img src=x onerror=alert(2)>", "(https://museum.example/a)",
    "(javascript:alert(4))", "<https://museum.example>", "&lt;b&gt;", "**open", "<iframe"]) {
    assert.ok(shown.includes(literal), literal);
  }
  const attributes = await said.evaluate((place) =>
    [...place.querySelectorAll("*")].flatMap((inner) => inner.getAttributeNames()));
  const harmless = ["dir", "class", "tabindex", "role", "aria-label", "scope", "data-align", "start"];
  assert.deepEqual(attributes.filter((name) => !harmless.includes(name)), []);
  await isAccessible(page);
  await page.locator(".said").evaluate((place) => place.scrollIntoView());
  await picture(page, "markdown");
  await page.done();
});

test("what is hard to read as Markdown takes no time", async () => {
  const page = await open();
  for (const evil of ["[".repeat(9000), "*a ".repeat(6000), "`".repeat(3) + "` `` ".repeat(3000), "> ".repeat(5000),
    "- ".repeat(5000), "|".repeat(9000) + "\n" + "|-".repeat(9000), "# ".repeat(9000), "**a_".repeat(4000),
    "![](".repeat(4000), "\\".repeat(9000), "1. a\n".repeat(3000), "~~".repeat(9000)]) {
    await say(page, [{ content: evil }]);
  }
  // Blocks are found in a time as long as the text: a step for each pair of characters would take hours.
  const found = await page.evaluate(async () => {
    const { blocks } = await import("/pages/blocks.js");
    const evil = ["> ", "- ", "# ", "1. a\n", "- a\n", "```\n", "|-", "a\n\n", "  ", "> - "];
    return evil.map((text) => [...blocks(text.repeat(500_000 / text.length))].length);
  });
  assert.equal(found.length, 10);
  await page.done();
});

test("thinking is folded", async () => {
  const page = await open();
  await say(page, [{ reasoning_content: "The lift is behind\n" }, { reasoning_content: "the desk." }, { content: "Behind." }]);
  const thoughts = page.locator(".thoughts");
  assert.equal(await thoughts.locator("p").isVisible(), false);
  await fitsFingers(page);
  await thoughts.locator("summary").click();
  assert.equal(await thoughts.locator("p").innerText(), "The lift is behind\nthe desk.");
  assert.equal(await page.locator(".said").innerText(), "Behind.");
  await isAccessible(page);
  await picture(page, "thinking");
  // What was thought is not sent again.
  await page.locator("#question").fill("Why?");
  await page.locator("#send").click();
  await page.locator(".turn").nth(1).locator(".said").waitFor();
  await answered(page);
  assert.deepEqual(served.asked.at(-1).messages[1], { role: "assistant", content: "Behind." });
  await page.done();
});

test("refusals are said in plain words", async () => {
  const page = await open();
  const cases = [[429, "queue_full", "Many people"], [400, "context_length_exceeded", "too long"],
    [401, "invalid_api_key", "may not ask"], [500, null, "could not be answered"]];
  for (const [status, code, expected] of cases) {
    await page.route("**/kiosk/chat", (route) =>
      route.fulfill({ status, json: { error: { message: "m", code } } }));
    await page.locator("#question").fill("What?");
    await page.keyboard.press("Enter");
    await page.locator(".turn").last().locator(".ending").getByText(expected).waitFor();
    await page.unroute("**/kiosk/chat");
  }
  await isAccessible(page);
  await page.done();
});
