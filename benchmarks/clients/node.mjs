// Greedy tokens in onnxruntime-node: node node.mjs FOLDER COUNT < groups.json, a list of batches of rows of token ids.
import { readFileSync } from "node:fs";
import * as ort from "onnxruntime-node";

const [folder, count] = process.argv.slice(2);
const { model } = JSON.parse(readFileSync(`${folder}/genai_config.json`, "utf8"));
const { num_hidden_layers: layers, num_key_value_heads: heads, head_size: size } = model.decoder;
const session = await ort.InferenceSession.create(`${folder}/${model.decoder.filename}`);
const matrix = (rows) => new ort.Tensor("int64", BigInt64Array.from(rows.flat(), BigInt), [rows.length, rows[0].length]);

async function generate(prompts) {
  const batch = prompts.length, feeds = {}, fetches = { logits: null };
  for (let layer = 0; layer < layers; layer++)
    for (const part of ["key", "value"]) {
      const shape = [batch, heads, model.context_length, size];
      const cache = new ort.Tensor("float32", new Float32Array(shape.reduce((a, b) => a * b)), shape);
      feeds[`past_key_values.${layer}.${part}`] = fetches[`present.${layer}.${part}`] = cache;
    }
  let used = prompts.map(() => 0), fresh = prompts;
  const answers = prompts.map(() => []);
  for (let step = 0; step < count; step++) {
    const longest = Math.max(...fresh.map((row) => row.length)), pad = (row, fill) => [...row, ...Array(longest).fill(fill)].slice(0, longest);
    feeds.input_ids = matrix(fresh.map((row) => pad(row, 0)));
    feeds.position_ids = matrix(used.map((start) => [...Array(longest).keys()].map((i) => start + i)));
    used = used.map((start, r) => start + fresh[r].length);
    const total = Math.max(...used);
    feeds.attention_mask = matrix(used.map((end) => [...Array(total).keys()].map((i) => (i < end ? 1 : 0))));
    const { logits } = await session.run(feeds, fetches);
    const vocab = logits.dims.at(-1);
    fresh = answers.map((answer, r) => {
      const row = logits.data.subarray(r * vocab, (r + 1) * vocab);
      const token = row.reduce((best, logit, id) => (logit > row[best] ? id : best), 0);
      answer.push(token);
      return [token];
    });
  }
  return answers;
}

const answers = [];
for (const prompts of JSON.parse(readFileSync(0, "utf8"))) answers.push(...(await generate(prompts)));
console.log(JSON.stringify({ answers, version: ort.env.versions.common }));
