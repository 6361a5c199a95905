// The page for visitors, put together.

import { byId } from "./dom.js";
import { Composer } from "./composer.js";
import { Conversation } from "./conversation.js";
import { Idle } from "./idle.js";
import { Start } from "./start.js";
import { Texts } from "./texts.js";
import { Watch } from "./watch.js";

/** Questions that are offered below an answer. */
const FURTHER = 3;

const settings = await read();
const texts = new Texts(settings);
const start = new Start(texts, ask);
const composer = new Composer({ ask, stop: () => conversation.stop() });
const conversation = new Conversation(texts, { begin, end, lost: () => watch.look(), say });
const watch = new Watch(changed);
const idle = new Idle(settings.idle, { needed, warn, stay, end: over, answers });
/** Whether the server has other pages now. */
let isOld = false;

byId("over").addEventListener("click", over);
byId("idle-stay").addEventListener("click", () => idle.touch());
byId("idle-over").addEventListener("click", () => {
  idle.touch();
  over();
});
byId("idle").addEventListener("cancel", () => idle.touch());
// Nothing comes back with the browser's "back".
addEventListener("pageshow", (event) => event.persisted && over());
view("start");
start.show();

/** What the kiosk's owner said; asked for until the server answers. */
async function read() {
  for (;;) {
    const response = await fetch("/kiosk/settings", { cache: "no-store" }).catch(() => null);
    if (response?.ok) return response.json();
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

function view(name) {
  document.body.dataset.view = name;
  byId("start").hidden = name !== "start";
  byId("talk").hidden = name !== "talk";
  byId("over").hidden = name !== "talk";
}

function ask(question) {
  view("talk");
  composer.clear();
  byId("further").hidden = true;
  conversation.ask(question);
}

function begin() {
  idle.hold();
  composer.isBusy = true;
  composer.focus();
}

function end() {
  idle.release();
  composer.isBusy = false;
  const further = texts.prompts.filter((prompt) => !conversation.asked.includes(prompt)).slice(0, FURTHER);
  byId("further").replaceChildren(...start.questions(further));
  byId("further").hidden = further.length === 0;
}

/** Wipes everything: the page is as nobody had ever been there. */
function over() {
  stay();
  if (conversation.isBusy) idle.release();
  const had = needed();
  conversation.wipe();
  composer.clear();
  composer.isBusy = false;
  byId("further").hidden = true;
  byId("further").replaceChildren();
  if (isOld) {
    location.reload();
    return;
  }
  texts.use(texts.first);
  start.show();
  view("start");
  scrollTo({ top: 0 });
  say(had ? texts.wiped : "");
  document.activeElement?.blur?.();
}

/** Whether there is anything that nobody else should see. */
function needed() {
  return !conversation.isEmpty || !composer.isEmpty;
}

function warn(left, of) {
  byId("idle-left").textContent = Math.ceil(left);
  byId("idle-ring").style.strokeDashoffset = 1 - left / of;
  if (!byId("idle").open) byId("idle").showModal();
}

function stay() {
  if (byId("idle").open) byId("idle").close();
}

/** Whether a touch answers the question by itself: a button, or a key that leads to one. */
function answers({ target, key }) {
  return Boolean(target.closest?.("button")) || ["Tab", "Shift", "Enter", " "].includes(key);
}

/** Has a text read out by a screen reader. */
function say(text) {
  byId("said").textContent = text;
}

/** The server went, or came back. */
async function changed(state) {
  document.body.dataset.server = state;
  byId("notice").textContent = state === "up" ? "" : texts[state];
  if (state !== "up") return;
  say(texts.back);
  const now = await read();
  isOld = now.version !== settings.version;
  if (isOld && !needed()) location.reload();
}
