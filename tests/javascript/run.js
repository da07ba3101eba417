// Run the scenarios that are wanted, one after the other, and hand in what came of each.
import { scenarios } from "./scenarios.js";

const LIMIT = 30_000;

// Every socket and request, and whether a token stands where logs keep it.
function overheard() {
  const sockets = [];
  const addresses = [];
  const { WebSocket: Socket, fetch: request } = globalThis;
  globalThis.WebSocket = class extends Socket {
    constructor(address, protocols) {
      super(address, protocols);
      sockets.push(this);
      addresses.push(String(address));
    }
  };
  globalThis.fetch = (address, options) => {
    addresses.push(String(address));
    return request(address, options);
  };
  return { sockets, addresses };
}

// A scenario that waits for what never comes must not keep the others from running.
function within(ms, scenario) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`it did not end within ${ms} ms`)), ms);
  });
  return Promise.race([scenario, late]).finally(() => clearTimeout(timer));
}

export async function run({ here, client }) {
  const post = async (path, what = {}) => {
    const answer = await request(here + path, { method: "POST", body: JSON.stringify(what) });
    if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
    return answer.json();
  };
  const request = globalThis.fetch.bind(globalThis);
  const { sockets, addresses } = overheard();
  const { gateway: url, run, wanted } = await (await request(`${here}/world`)).json();
  const module = await import(client);
  const world = {
    ...module,
    url,
    run,
    sockets,
    control: (what, about) => post(`/control/${what}`, about),
  };
  for (const name of wanted) {
    try {
      await post(`/came/${name}`, { value: (await within(LIMIT, scenarios[name](world))) ?? null });
    } catch (error) {
      await post(`/came/${name}`, { error: String(error.stack ?? error) });
    }
  }
  const open = sockets.filter((socket) => socket.readyState < WebSocket.CLOSING).length;
  await post("/came/ended", { value: { addresses, open } });
}
