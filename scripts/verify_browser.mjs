// Runs exported ONNX files in a browser: onnxruntime-web in headless Chromium.
//
//   npm install --prefix DIR onnxruntime-web puppeteer-core @sparticuz/chromium
//   node scripts/verify_browser.mjs DIR FILE.onnx...
//
// Each file is given the images beside it (FILE.check.npz), and must give the logits there: the
// same classes, and differences of at most 1e-3 of the largest logit. Prints a line for each, and
// exits with 1 if one is wrong.

import { createRequire } from "node:module";
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import { pathToFileURL } from "node:url";

const [modules, ...files] = process.argv.slice(2);
if (!modules || files.length === 0) {
  console.error("usage: verify_browser.mjs DIR FILE.onnx...");
  process.exit(2);
}
const require = createRequire(path.resolve(modules, "package.json"));
const load = async (name) => import(pathToFileURL(require.resolve(name)));
const { default: chromium } = await load("@sparticuz/chromium");
const puppeteer = await load("puppeteer-core");
const runtime = path.join(path.resolve(modules), "node_modules/onnxruntime-web/dist");

/** The arrays of an .npz file whose members are stored as they are. */
function arrays(file) {
  const bytes = fs.readFileSync(file);
  const found = {};
  for (let at = 0; bytes.readUInt32LE(at) === 0x04034b50; ) {
    const [size, name, extra] = [bytes.readUInt32LE(at + 18), bytes.readUInt16LE(at + 26), bytes.readUInt16LE(at + 28)];
    const start = at + 30 + name + extra;
    const member = bytes.subarray(start, start + size);
    const header = member.subarray(10, 10 + member.readUInt16LE(8)).toString("latin1");
    const shape = header.match(/'shape': \(([^)]*)\)/)[1].split(",").filter((n) => n.trim()).map(Number);
    const data = member.subarray(10 + member.readUInt16LE(8));
    const numbers = header.includes("u1") ? data : new Float32Array(data.buffer.slice(data.byteOffset, data.byteOffset + data.length));
    found[bytes.subarray(at + 30, at + 30 + name).toString().replace(".npy", "")] = { shape, numbers: Array.from(numbers), bytes: header.includes("u1") };
    at = start + size;
  }
  return found;
}

/** In the browser: the logits of images. */
async function logits(model, images) {
  const ort = await import("/ort/ort.wasm.min.mjs");
  ort.env.wasm.wasmPaths = "/ort/";
  ort.env.wasm.numThreads = 1;
  const session = await ort.InferenceSession.create(model);
  const values = images.bytes ? Uint8Array.from(images.numbers) : Float32Array.from(images.numbers);
  const tensor = new ort.Tensor(images.bytes ? "uint8" : "float32", values, images.shape);
  return Array.from((await session.run({ images: tensor }, ["logits"])).logits.data);
}

const types = { ".mjs": "text/javascript", ".wasm": "application/wasm" };
const server = http.createServer((request, response) => {
  const url = decodeURIComponent(request.url);
  const served = url.startsWith("/ort/") ? path.join(runtime, path.basename(url)) : files[Number(url.slice(1))];
  if (url === "/" || !served || !fs.existsSync(served)) {
    response.writeHead(url === "/" ? 200 : 404, { "content-type": "text/html" }).end("<!doctype html>");
    return;
  }
  response.writeHead(200, { "content-type": types[path.extname(served)] ?? "application/octet-stream" });
  fs.createReadStream(served).pipe(response);
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const browser = await puppeteer.launch({ args: [...chromium.args, "--no-sandbox"], executablePath: await chromium.executablePath(), headless: "shell" });
let good = true;
try {
  const page = await browser.newPage();
  page.setDefaultTimeout(120_000);
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  for (const [number, file] of files.entries()) {
    const check = arrays(file.replace(/\.onnx$/, ".check.npz"));
    const found = await page.evaluate(logits, `/${number}`, check.images);
    const expected = check.logits.numbers;
    const classes = check.logits.shape[1];
    const largest = Math.max(...expected.map(Math.abs));
    const difference = Math.max(...expected.map((value, at) => Math.abs(value - found[at]))) / largest;
    const label = (values, image) => {
      const own = values.slice(image * classes, (image + 1) * classes);
      return own.indexOf(Math.max(...own));
    };
    const images = Array.from({ length: check.logits.shape[0] }, (_, image) => image);
    const same = images.every((image) => label(found, image) === label(expected, image));
    const agrees = found.length === expected.length && same && difference <= 1e-3;
    good &&= agrees;
    console.log(`${file}: ${agrees ? "agrees" : "DIFFERS"} in ${await browser.version()}, by ${difference.toExponential(1)} of the largest logit`);
  }
} finally {
  await browser.close();
  server.close();
}
process.exit(good ? 0 : 1);
