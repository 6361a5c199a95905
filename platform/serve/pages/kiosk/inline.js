// Markdown within a paragraph: emphasis, code and links, as a tree. HTML is text.

/** Longer texts are shown as they are. */
const LONGEST = 20_000;
/** Emphasis within emphasis; what is deeper is text. */
const DEEPEST = 12;
/** Longer runs of marks are text. */
const MOST_MARKS = 6;

/** The pieces of a text: strings, and objects with a `kind` and `children` or `text`. */
export function inline(text) {
  return text.length > LONGEST ? [text] : emphasise(scan(text, true));
}

/** A text as a list of strings, finished pieces and runs of marks that may emphasise. */
function scan(text, mayLink) {
  const brackets = mayLink ? matchBrackets(text) : new Map();
  const noEnd = new Set();
  const found = [];
  let at = 0;
  const say = (piece) => {
    if (typeof found.at(-1) === "string") found[found.length - 1] += piece;
    else found.push(piece);
  };
  while (at < text.length) {
    const character = text[at];
    if (character === "\\" && /[!-/:-@[-`{-~]/.test(text[at + 1] ?? "")) {
      say(text[at + 1]);
      at += 2;
    } else if (character === "\n" || (character === "\\" && text[at + 1] === "\n")) {
      found.push({ kind: "break" });
      at += character === "\n" ? 1 : 2;
    } else if (character === "`") {
      const run = runAt(text, at);
      const end = noEnd.has(run.length) ? -1 : endOfCode(text, at + run.length, run.length);
      if (end < 0) {
        noEnd.add(run.length);
        say(run);
        at += run.length;
      } else {
        found.push({ kind: "code", text: trimCode(text.slice(at + run.length, end)) });
        at = end + run.length;
      }
    } else if (character === "[" || (character === "!" && text[at + 1] === "[")) {
      const open = character === "[" ? at : at + 1;
      const link = linkAt(text, open, brackets);
      if (link) {
        // There are no links within links.
        const children = emphasise(scan(text.slice(open + 1, link.close), false));
        found.push({ kind: character === "[" ? "link" : "picture", children, address: link.address });
        at = link.end;
      } else {
        say(text.slice(at, open + 1));
        at = open + 1;
      }
    } else if (character === "*" || character === "_" || character === "~") {
      const run = runAt(text, at);
      if (run.length > MOST_MARKS) say(run);
      else found.push(marks(text, at, run));
      at += run.length;
    } else {
      // All up to the next character that may mean something.
      const next = text.slice(at + 1).search(/[\\\n`[!*_~]/);
      const end = next < 0 ? text.length : at + 1 + next;
      say(text.slice(at, end));
      at = end;
    }
  }
  return found;
}

/** The run of one character that begins at a place. */
function runAt(text, at) {
  let end = at;
  while (text[end] === text[at]) end += 1;
  return text.slice(at, end);
}

function endOfCode(text, from, length) {
  for (let at = text.indexOf("`", from); at >= 0; ) {
    const run = runAt(text, at).length;
    if (run === length) return at;
    at = text.indexOf("`", at + run);
  }
  return -1;
}

/** Code may begin or end with a mark behind a space. */
function trimCode(code) {
  const text = code.replaceAll("\n", " ");
  return text.startsWith(" ") && text.endsWith(" ") && text.trim() !== "" ? text.slice(1, -1) : text;
}

/** For each opening bracket where it is closed. */
function matchBrackets(text) {
  const closed = new Map();
  const open = [];
  for (let at = 0; at < text.length; at += 1) {
    if (text[at] === "\\") at += 1;
    else if (text[at] === "[") open.push(at);
    else if (text[at] === "]" && open.length > 0) closed.set(open.pop(), at);
  }
  return closed;
}

/** The link whose text begins at a bracket. */
function linkAt(text, open, brackets) {
  const close = brackets.get(open);
  if (close === undefined || text[close + 1] !== "(") return null;
  const end = endOfAddress(text, close + 2);
  if (end < 0) return null;
  // What stands behind the address is a title.
  const address = text.slice(close + 2, end).trim().split(/\s/)[0].replace(/^<(.*)>$/, "$1");
  return { close, address, end: end + 1 };
}

/** Where the parenthesis of an address closes. */
function endOfAddress(text, from) {
  let depth = 1;
  for (let at = from; at < text.length && at < from + 2000; at += 1) {
    if (text[at] === "\\") at += 1;
    else if (text[at] === "\n") return -1;
    else if (text[at] === "(") depth += 1;
    else if (text[at] === ")") {
      depth -= 1;
      if (depth === 0) return at;
    }
  }
  return -1;
}

/** A run of marks, and whether emphasis may begin or end there (CommonMark's flanking). */
function marks(text, at, run) {
  const before = text[at - 1] ?? " ";
  const after = text[at + run.length] ?? " ";
  const [spaceBefore, spaceAfter] = [before, after].map((character) => /\s/.test(character));
  const [markBefore, markAfter] = [before, after].map((character) => /[\p{P}\p{S}]/u.test(character));
  const left = !spaceAfter && (!markAfter || spaceBefore || markBefore);
  const right = !spaceBefore && (!markBefore || spaceAfter || markAfter);
  const isWord = run[0] === "_";
  const isPair = run[0] !== "~" || run.length === 2;
  return {
    kind: "marks",
    mark: run[0],
    count: run.length,
    opens: isPair && left && (!isWord || !right || markBefore),
    closes: isPair && right && (!isWord || !left || markAfter),
  };
}

/** Runs of marks made emphasis; those that are left over are text. */
function emphasise(found) {
  // Before these places nothing opens what a mark would close.
  const bottoms = new Map();
  for (let at = 0; at < found.length; at += 1) {
    const close = found[at];
    if (close.kind !== "marks" || !close.closes || close.count === 0) continue;
    let open = at - 1;
    const bottom = bottoms.get(close.mark) ?? -1;
    const fits = (piece) => piece.kind === "marks" && piece.mark === close.mark && piece.opens && piece.count > 0;
    while (open > bottom && !fits(found[open])) open -= 1;
    const depth = 1 + Math.max(0, ...found.slice(open + 1, at).map((piece) => piece.depth ?? 0));
    if (open <= bottom || depth > DEEPEST) {
      bottoms.set(close.mark, at - 1);
      continue;
    }
    const both = Math.min(found[open].count, close.count) >= 2 ? 2 : 1;
    const kind = close.mark === "~" ? "gone" : both === 2 ? "strong" : "stress";
    const children = plain(found.slice(open + 1, at));
    found[open].count -= both;
    close.count -= both;
    found.splice(open + 1, at - open - 1, { kind, children, depth });
    // The closing run stands behind what was made, and may close more.
    at = close.count > 0 ? open + 1 : open + 2;
  }
  return plain(found);
}

/** Marks that mean nothing are text. */
function plain(found) {
  return found
    .map((piece) => (piece.kind === "marks" ? piece.mark.repeat(piece.count) : piece))
    .filter((piece) => piece !== "");
}
