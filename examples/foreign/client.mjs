// Start an execution, watch it, pause, resume and cancel it: plain nats.js.
// Nothing of wakestream is imported; docs/subjects.md says what is sent and heard.
//
//   npm ci
//   NATS_URL=nats://127.0.0.1:4222 NATS_USER=alice NATS_PASSWORD=... WAKE_USER=alice \
//     node client.mjs

import { randomUUID } from "node:crypto";
import { connect } from "@nats-io/transport-node";

const user = process.env.WAKE_USER ?? "local";
const prompt = "script:\n" + 'list_dir {"path": "."}\n'.repeat(15) + "say Nobody stopped me.";

// Send a command and print its answer; throws if it is refused.
async function command(client, execution, verb, body = {}) {
  const id = randomUUID(); // sent again under this id, it takes effect once
  const answers = client.subscribe(`answers.${user}.${id}`, { max: 1, timeout: 10_000 });
  const payload = JSON.stringify({ command_id: id, ...body });
  client.publish(`commands.${user}.${execution}.${verb}`, payload);
  for await (const message of answers) {
    const answer = message.json();
    if (!answer.accepted) throw new Error(`${verb}: ${answer.code}: ${answer.message}`);
    console.log(`${verb}: accepted, ${answer.status} at version ${answer.version}`);
  }
}

// Print each commit up to the one that has an event of this type.
async function until(commits, wanted) {
  while (true) {
    const { value: message, done } = await commits.next();
    if (done) throw new Error("the connection was closed");
    const route = message.subject.split(".").at(-1);
    const { version, events } = message.json();
    const types = events.map((event) => event.type);
    console.log(`${String(version).padStart(4)} ${route.padEnd(8)} ${types.join(", ")}`);
    if (types.includes(wanted)) return;
    if (route === "finished") throw new Error(`it ended without ${wanted}`);
  }
}

const client = await connect({
  servers: process.env.NATS_URL ?? "nats://127.0.0.1:4222",
  user: process.env.NATS_USER,
  pass: process.env.NATS_PASSWORD,
});
const execution = randomUUID();

// Follow first, then start: so that no commit is missed.
const feed = client.subscribe(`feed.${user}.${execution}.>`);
const commits = feed[Symbol.asyncIterator]();

await command(client, execution, "start", {
  agent_type: "explorer",
  input: prompt,
  model: "scripted?delay_ms=300",
});
await until(commits, "model_responded.v1");
await command(client, execution, "pause");
await until(commits, "paused.v1");
await command(client, execution, "resume");
await until(commits, "model_responded.v1");
await command(client, execution, "cancel", { reason: "seen enough" });
await until(commits, "cancelled.v1");
await client.close();
