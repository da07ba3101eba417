// node node.mjs PAGES CLIENT: run the scenarios that the server at PAGES hands out.
import { run } from "./run.js";

const [here, client] = process.argv.slice(2);
await run({ here, client });
