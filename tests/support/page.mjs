// Open a page in headless Chromium and print what it answers: node page.mjs FOLDER PAGE-AND-QUERY [PICTURE]
// The folder is served with the headers that let a page use several threads.
import { createReadStream, existsSync } from "node:fs";
import { createServer } from "node:http";
import { chromium } from "playwright-core";

const [folder, page, picture] = process.argv.slice(2);
const types = { html: "text/html", mjs: "text/javascript", wasm: "application/wasm", json: "application/json" };
const isolated = { "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp" };
const server = createServer((request, response) => {
  const path = folder + decodeURIComponent(request.url.split("?")[0]);
  if (!existsSync(path)) return response.writeHead(404).end();
  const type = types[path.split(".").at(-1)] ?? "application/octet-stream";
  createReadStream(path).pipe(response.writeHead(200, { "Content-Type": type, ...isolated }));
});
await new Promise((done) => server.listen(0, "127.0.0.1", done));
const quiet = ["disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "disable-component-update"];
const args = ["--no-sandbox", "--disable-sync", ...quiet.map((name) => `--${name}`)];
const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args });
try {
  const tab = await browser.newPage({ viewport: { width: 800, height: 200 } });
  tab.on("pageerror", (error) => console.error(String(error)));
  await tab.goto(`http://127.0.0.1:${server.address().port}/${page}`);
  await tab.waitForFunction(() => document.title === "done", null, { timeout: 240000 });
  if (picture) await tab.screenshot({ path: picture });
  const marks = await tab.evaluate(() => performance.getEntriesByType("mark").map((mark) => [mark.name, mark.startTime]));
  console.log(JSON.stringify({ answer: await tab.textContent("#answer"), marks: Object.fromEntries(marks) }));
} finally {
  await browser.close();
  server.close();
}
