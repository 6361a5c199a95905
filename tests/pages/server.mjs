// `rill serve` with the built-in model, behind a proxy that can hold answers back and break connections:
// what takes time in the world takes as long here as a test says.

import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";

export class Served {
  /** Files of the server: kiosk.toml and others. */
  folder = mkdtempSync(join(tmpdir(), "rill-pages-"));
  /** Bodies of the conversations that were asked. */
  asked = [];
  /** While this is set, nothing of an answer passes but its first words. */
  holds = false;
  #arguments;
  #port = 0;
  #child = null;
  #held = [];
  #proxy = createServer((from, to) => this.#pass(from, to));

  /** Starts a server with files, by name, and further arguments. */
  static async start(files = {}, args = []) {
    const served = new Served();
    for (const [name, text] of Object.entries(files)) writeFileSync(join(served.folder, name), text);
    served.#arguments = args.map((argument) => argument.replace("FOLDER", served.folder));
    await served.revive();
    served.#proxy.listen(0, "127.0.0.1");
    await once(served.#proxy, "listening");
    return served;
  }

  /** Where a browser asks. */
  get url() {
    return `http://127.0.0.1:${this.#proxy.address().port}`;
  }

  /** Starts the server, again where it was before. */
  async revive() {
    const listen = ["--listen", `127.0.0.1:${this.#port}`];
    const serve = ["serve", ...listen, "--ram", "256MiB", "-c", "1024", ...this.#arguments];
    this.#child = spawn(program(), serve, { stdio: ["ignore", "ignore", "pipe"] });
    const said = [];
    for await (const line of createInterface({ input: this.#child.stderr })) {
      said.push(line);
      const at = /listening at http:\/\/127\.0\.0\.1:(\d+)/.exec(line);
      if (at) this.#port = Number(at[1]);
      if (line.trim().endsWith("ready")) return;
    }
    throw new Error(`the server did not start:\n${said.join("\n")}`);
  }

  /** Ends the server without a word, in the middle of whatever it is at. */
  async kill() {
    this.#child.kill("SIGKILL");
    await once(this.#child, "exit");
    this.#release((to) => to.destroy());
  }

  /** Lets answers through that were held back. */
  release() {
    this.holds = false;
    this.#release((to, rest) => rest.pipe(to));
  }

  #release(each) {
    for (const { to, rest } of this.#held.splice(0)) each(to, rest);
  }

  /** The server's own answer to a GET. */
  async get(path, headers = {}) {
    const answer = await fetch(`http://127.0.0.1:${this.#port}${path}`, { headers });
    return { status: answer.status, headers: answer.headers, text: await answer.text() };
  }

  async stop() {
    this.#proxy.close();
    this.#proxy.closeAllConnections();
    this.#child.kill("SIGKILL");
    rmSync(this.folder, { recursive: true });
  }

  #pass(from, to) {
    const { method, url, headers } = from;
    const isChat = url === "/kiosk/chat";
    const onward = request({ port: this.#port, host: "127.0.0.1", method, path: url, headers }, (answer) => {
      to.writeHead(answer.statusCode, answer.headers);
      if (!isChat || !this.holds) {
        answer.pipe(to);
        answer.on("error", () => to.destroy());
        return;
      }
      let said = "";
      const hear = (data) => {
        to.write(data);
        said += data;
        if (!said.includes('"content":"') || said.split('"content":"').length < 4) return;
        answer.off("data", hear);
        answer.pause();
        this.#held.push({ to, rest: answer });
      };
      answer.on("data", hear);
      answer.on("error", () => to.destroy());
    });
    onward.on("error", () => to.destroy());
    to.on("close", () => onward.destroy());
    if (isChat) {
      let body = "";
      from.on("data", (data) => (body += data));
      from.on("end", () => this.asked.push(JSON.parse(body)));
    }
    from.pipe(onward);
  }
}

/** Runs the program to its end; gives what it printed. */
export function rill(...args) {
  return execFileSync(program(), args, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
}

let path = process.env.RILL_PROGRAM ?? null;

/** The program: the one that RILL_PROGRAM names, or built when it is needed first. */
function program() {
  if (path === null) {
    const build = ["build", "--quiet", "--package", "rill-linux", "--bin", "rill", "--message-format", "json"];
    const said = execFileSync("cargo", build, { encoding: "utf8", maxBuffer: 1 << 28, stdio: ["ignore", "pipe", "inherit"] });
    const made = said.trim().split("\n").map((line) => JSON.parse(line).executable);
    path = made.findLast((executable) => executable?.endsWith("/rill"));
  }
  return path;
}

/** An answer as the server would stream it, for what the built-in model does not say. */
export function stream(pieces, reason = "stop") {
  const chunk = (delta, finish_reason = null) =>
    `data: ${JSON.stringify({ choices: [{ index: 0, delta, finish_reason }] })}\n\n`;
  return [...pieces.map((piece) => chunk(piece)), chunk({}, reason), "data: [DONE]\n\n"].join("");
}
