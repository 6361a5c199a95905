// Markdown's blocks: from text to a tree of headings, lists, code, tables, quotes and paragraphs.
//
// What models write, of CommonMark and of GitHub's tables. HTML is text. Time grows with the length of the
// text, whatever is in it.

/** Lists and quotes within each other; what is deeper is a paragraph. */
const DEEPEST = 8;

/** The blocks of a text. Each top one has its `source`, so that what did not change can stay. */
export function blocks(text) {
  return parse(text.replace(/\r\n?/g, "\n").split("\n"), 0);
}

function parse(lines, depth) {
  const found = [];
  let at = 0;
  while (at < lines.length) {
    if (isBlank(lines[at])) {
      at += 1;
      continue;
    }
    const read = fence(lines, at) ?? heading(lines, at) ?? rule(lines, at) ??
      (depth < DEEPEST ? quote(lines, at, depth) ?? list(lines, at, depth) : null) ??
      table(lines, at) ?? paragraph(lines, at);
    found.push({ ...read.block, source: lines.slice(at, read.next).join("\n") });
    at = read.next;
  }
  return found;
}

const isBlank = (line) => line.trim() === "";

/** Columns of white space before a line; a tab is as wide as four. */
function indent(line) {
  let columns = 0;
  for (const character of line) {
    if (character === " ") columns += 1;
    else if (character === "\t") columns += 4;
    else break;
  }
  return columns;
}

/** A line without at most so many columns of its white space. */
function outdent(line, columns) {
  let at = 0;
  for (let gone = 0; gone < columns && at < line.length; at += 1) {
    if (line[at] === " ") gone += 1;
    else if (line[at] === "\t") gone += 4;
    else break;
  }
  return line.slice(at);
}

function fence(lines, at) {
  const open = /^ *(`{3,}|~{3,})(.*)$/.exec(lines[at]);
  if (!open || (open[1][0] === "`" && open[2].includes("`"))) return null;
  const inset = indent(lines[at]);
  const content = [];
  let next = at + 1;
  for (; next < lines.length; next += 1) {
    const line = lines[next].trim();
    // Without an end it goes on to the end of what has come.
    if (line.length >= open[1].length && line === open[1][0].repeat(line.length)) {
      next += 1;
      break;
    }
    content.push(outdent(lines[next], inset));
  }
  return { block: { kind: "code", text: content.join("\n") }, next };
}

function heading(lines, at) {
  const open = /^ {0,3}(#{1,6})(?=[ \t]|$)/.exec(lines[at]);
  if (!open) return null;
  let text = lines[at].slice(open[0].length).trim();
  const bare = withoutTail(text, "#");
  if (bare === "" || bare.endsWith(" ")) text = bare.trim();
  return { block: { kind: "heading", level: open[1].length, text }, next: at + 1 };
}

function withoutTail(text, character) {
  let end = text.length;
  while (end > 0 && text[end - 1] === character) end -= 1;
  return text.slice(0, end);
}

function rule(lines, at) {
  const marks = lines[at].replace(/[ \t]/g, "");
  const is = marks.length >= 3 && "-*_".includes(marks[0]) && marks === marks[0].repeat(marks.length);
  return is ? { block: { kind: "rule" }, next: at + 1 } : null;
}

function quote(lines, at, depth) {
  const content = [];
  let next = at;
  for (; next < lines.length && /^ {0,3}>/.test(lines[next]); next += 1) {
    content.push(lines[next].replace(/^ {0,3}> ?/, ""));
  }
  return next === at ? null : { block: { kind: "quote", blocks: parse(content, depth + 1) }, next };
}

/** The marker that begins a line: what kind of list, its first number, and where its text begins. */
function marker(line) {
  const found = /^( *)([-*+]|(\d{1,9})[.)])(?=[ \t]|$)/.exec(line);
  if (!found) return null;
  const width = found[0].length;
  const rest = line.slice(width);
  const space = indent(rest);
  return {
    kind: found[3] === undefined ? found[2] : found[2].at(-1),
    number: found[3] === undefined ? null : Number(found[3]),
    inset: found[1].length,
    width: width + (isBlank(rest) || space > 4 ? 1 : space),
  };
}

function list(lines, at, depth) {
  const first = marker(lines[at]);
  if (!first || first.inset > 3) return null;
  const items = [];
  let next = at;
  let isLoose = false;
  while (next < lines.length) {
    const own = marker(lines[next]);
    const goesOn = own && own.kind === first.kind && own.inset < first.width && !rule(lines, next);
    if (!goesOn) break;
    const content = [outdent(lines[next].slice(own.inset + markLength(lines[next], own)), own.width)];
    let end = next + 1;
    let blanks = 0;
    for (; end < lines.length; end += 1) {
      const line = lines[end];
      if (isBlank(line)) {
        blanks += 1;
        content.push("");
        continue;
      }
      // Models indent less than they should: two columns are enough for what belongs to an item.
      const isWithin = indent(line) >= Math.min(own.width, own.inset + 2);
      const isLazy = blanks === 0 && !isStart(line);
      if (!isWithin && !isLazy) break;
      if (blanks > 0) isLoose = true;
      blanks = 0;
      content.push(outdent(line, own.width));
    }
    if (blanks > 0) {
      content.length -= blanks;
      // A blank line between two items.
      const after = end < lines.length && marker(lines[end]);
      if (after && after.kind === first.kind && after.inset < first.width) isLoose = true;
    }
    items.push(parse(content, depth + 1));
    next = end;
  }
  if (items.length === 0) return null;
  return { block: { kind: "list", start: first.number, isLoose, items }, next };
}

/** Characters of a line's marker, without what stands before it. */
function markLength(line, { inset }) {
  return /^(?:[-*+]|\d{1,9}[.)])/.exec(line.slice(inset))[0].length;
}

/** Whether a line begins something other than more of a paragraph. */
function isStart(line) {
  const one = [line];
  return Boolean(fence(one, 0) ?? heading(one, 0) ?? rule(one, 0)) || /^ {0,3}>/.test(line) || marker(line) !== null;
}

/** The cells of a row; `\|` is no border. */
function cells(line) {
  const row = line.trim();
  const found = [""];
  for (let at = 0; at < row.length; at += 1) {
    if (row[at] === "\\" && row[at + 1] === "|") {
      found[found.length - 1] += "|";
      at += 1;
    } else if (row[at] === "|") found.push("");
    else found[found.length - 1] += row[at];
  }
  if (row.startsWith("|")) found.shift();
  if (found.length > 1 && isBlank(found.at(-1))) found.pop();
  return found.map((cell) => cell.trim());
}

function table(lines, at) {
  if (!lines[at].includes("|") || at + 1 >= lines.length) return null;
  const head = cells(lines[at]);
  const borders = cells(lines[at + 1]);
  const is = borders.length === head.length && borders.every((cell) => /^:?-+:?$/.test(cell));
  if (!is) return null;
  const aligns = borders.map((cell) => {
    if (!cell.endsWith(":")) return null;
    return cell.startsWith(":") ? "center" : "end";
  });
  const rows = [];
  let next = at + 2;
  for (; next < lines.length && lines[next].includes("|"); next += 1) {
    const row = cells(lines[next]);
    rows.push(head.map((_, column) => row[column] ?? ""));
  }
  return { block: { kind: "table", head, aligns, rows }, next };
}

function paragraph(lines, at) {
  let next = at + 1;
  while (next < lines.length && !isBlank(lines[next]) && !isStart(lines[next]) && !table(lines, next)) next += 1;
  const text = lines.slice(at, next).map((line) => line.trim()).join("\n");
  return { block: { kind: "paragraph", text }, next };
}
