// What people do with the client: run in a browser by page.html, in node by node.mjs.
// Each scenario returns what came of it, as JSON; test_javascript.py says what it must be.

const DONE = "script:\nsay Done.\n";
const LOOKS = (times) => `script:\n${'list_dir {"path": "."}\n'.repeat(times)}say Looked.\n`;
const ASKS =
  'script:\nask_user {"question": "Which colour?", "schema": {"enum": ["red", "blue"]}}\nsay Thanks.\n';
const FINAL = new Set(["completed", "failed", "cancelled"]);
const QUICK = { first: 20, longest: 200 };

// A promise, and what keeps or breaks it.
function promised() {
  let kept, broken;
  const promise = new Promise((resolve, reject) => ([kept, broken] = [resolve, reject]));
  return { promise, kept, broken };
}

// Subscribe, and keep what comes; `until` waits for a message.
function watch(wake, execution, options = {}) {
  const messages = [];
  const errors = [];
  const waiting = new Set();
  const look = () => {
    for (const one of [...waiting]) {
      const found = messages.find(one.wanted);
      if (found) one.kept(found);
      else if (errors.length) one.broken(errors[0]);
      else continue;
      waiting.delete(one);
    }
  };
  const { onMessage, ...rest } = options;
  const subscription = wake.subscribe(execution, {
    after: "0",
    onMessage: (message) => {
      messages.push(message);
      onMessage?.(message);
      look();
    },
    onError: (error) => {
      errors.push(error);
      look();
    },
    ...rest,
  });
  const until = (wanted) => {
    const { promise, ...one } = promised();
    waiting.add({ wanted, ...one });
    look();
    return promise;
  };
  const status = (...names) =>
    until((m) => m.type === "status.changed" && names.includes(m.payload.status));
  const of = (type) => messages.filter((message) => message.type === type);
  const statuses = () => of("status.changed").map((message) => message.payload.status);
  return { subscription, messages, errors, until, status, of, statuses };
}

const ended = (seen) => seen.status(...FINAL);

const facts = ({ name, status, code, detail, retryAfter, message }) => ({
  name,
  status,
  code,
  detail,
  retryAfter,
  message,
});

// What a call was refused with.
async function refusal(call) {
  try {
    return { accepted: await call };
  } catch (error) {
    return facts(error);
  }
}

// A client for a user of its own, and the sockets that it opens.
async function client(world, name, { tier = "enterprise", ...more } = {}) {
  const user = `${name}-${world.run}`;
  const token = await world.control("token", { user, tier });
  const options = { url: world.url, token, backoff: QUICK, ...more };
  if (options.getToken) delete options.token;
  const wake = new world.Wakestream(options);
  return { wake, user, token };
}

const start = (wake, input, options = {}, agent_type = "explorer") =>
  wake.start({ agent_type, input, options });

// One that is at work until it is stopped, or for as many steps as that.
const long = (wake, steps = 100, delay = 50) =>
  start(wake, LOOKS(steps), { model: `scripted?delay_ms=${delay}` }, "research");

export const scenarios = {
  // Start, follow, and see every step in order.
  async steps(world) {
    const { wake, user } = await client(world, "steps");
    const steps = [];
    const started = await start(wake, LOOKS(5), { metadata: { colour: "red" } });
    const seen = watch(wake, started.id, { onStep: (message) => steps.push(message.payload.step) });
    const end = await ended(seen);
    const agent = await wake.get(started.id);
    wake.close();
    return {
      user,
      started,
      steps,
      tools: seen.of("tool.completed").map((message) => message.payload.call_id),
      statuses: seen.statuses(),
      end,
      agent,
      whose: [...new Set(seen.messages.map((message) => message.execution))],
    };
  },

  // Pause, resume, cancel: the feed and the answers say the same.
  async signals(world) {
    const { wake } = await client(world, "signals");
    const { id } = await long(wake);
    const seen = watch(wake, id);
    await seen.until((message) => message.type === "step.completed");
    const paused = await wake.pause(id);
    await seen.status("paused");
    const again = await wake.pause(id);
    const standing = (await wake.get(id)).status;
    const before = seen.messages.length;
    const resumed = await wake.resume(id);
    await seen.until((message) => seen.messages.indexOf(message) >= before && message.type === "step.completed");
    const cancelled = await wake.cancel(id, { reason: "seen enough" });
    const end = await ended(seen);
    wake.close();
    return { id, paused, again, standing, resumed, cancelled, end, statuses: seen.statuses() };
  },

  // Kill one that would be at work for another minute.
  async kill(world) {
    const { wake } = await client(world, "kill");
    const { id } = await start(wake, DONE, { model: "scripted?delay_ms=60000" });
    const seen = watch(wake, id);
    await seen.status("running");
    const killed = await wake.kill(id, { reason: "no time" });
    const end = await ended(seen);
    const late = await refusal(wake.resume(id));
    wake.close();
    return { id, killed, end, late };
  },

  // It asks; a wrong answer is refused, the right one lets it go on.
  async input(world) {
    const { wake } = await client(world, "input");
    const { id } = await start(wake, ASKS, {}, "coder");
    const seen = watch(wake, id);
    const asked = await seen.status("awaiting_input");
    const { request } = asked.payload.request;
    const wrong = await refusal(wake.input(id, "green"));
    const taken = await wake.input(id, "blue", { request });
    const end = await ended(seen);
    wake.close();
    return { asked, wrong, taken, end, tools: seen.of("tool.completed") };
  },

  // What failed is tried again; what is done is not.
  async retry(world) {
    const { wake } = await client(world, "retry");
    const failing = await start(wake, "Hello.", { model: "openai-chat:none" });
    const seen = watch(wake, failing.id);
    await seen.status("failed");
    const before = seen.messages.length;
    const retried = await wake.retry(failing.id, { reason: "once more" });
    await seen.until((m) => seen.messages.indexOf(m) >= before && m.payload.status === "failed");
    const done = await start(wake, DONE);
    await ended(watch(wake, done.id));
    const refused = await refusal(wake.retry(done.id));
    wake.close();
    return { retried, statuses: seen.statuses(), refused };
  },

  // Filters, order, pages.
  async list(world) {
    const { wake, user } = await client(world, "list");
    const red = { metadata: { colour: "red: bright" } };
    const ids = [];
    for (const options of [red, {}, red, red]) ids.push((await start(wake, DONE, options)).id);
    const seen = watch(wake, "*");
    for (const id of ids) {
      await seen.until((m) => m.execution === id && FINAL.has(m.payload.status));
    }
    const pages = [];
    for (let cursor = null; ; ) {
      const page = await wake.list({ ...red, limit: 2, order: "asc", cursor });
      pages.push(page.items.map((agent) => agent.id));
      if ((cursor = page.next) === null) break;
    }
    const positions = await Promise.all(ids.map(async (id) => (await wake.get(id)).position));
    const since = await wake.list({
      created_from: new Date(Date.now() - 3_600_000),
      status: ["completed", "failed"],
      min_position: Math.max(...positions), // as new as what was seen
    });
    const paused = await wake.list({ status: "paused" });
    const bad = await refusal(wake.list({ limit: 0 }));
    wake.close();
    return {
      user,
      ids,
      pages,
      since: since.items.map((agent) => [agent.user, agent.status]),
      paused: paused.items,
      bad,
    };
  },

  // Lines, commits and limits, in pieces.
  async reading(world) {
    const { wake } = await client(world, "reading");
    const { id } = await start(wake, LOOKS(3));
    const seen = watch(wake, id);
    await ended(seen);
    const commits = [];
    for (let after = 0; after !== null; ) {
      const page = await wake.events(id, { after, limit: 2 });
      commits.push(...page.items);
      after = page.next;
    }
    const first = await wake.logs(id, { limit: 1 });
    const others = await wake.logs(id, { after_id: first.next, level: "info" });
    wake.close();
    return {
      versions: commits.map((commit) => commit.version),
      last: commits.at(-1).events.map((event) => event.type),
      lines: [...first.items, ...others.items],
      logged: seen.of("log"),
    };
  },

  // The network is cut and the gateway restarted again and again meanwhile.
  async reconnect(world) {
    const states = [];
    const { wake } = await client(world, "reconnect", { onConnection: (state) => states.push(state) });
    const { id } = await long(wake, 60);
    const one = watch(wake, id);
    const all = watch(wake, "*");
    const now = watch(wake, id, { after: undefined });
    const step = (number) => (m) => m.type === "step.completed" && m.payload.step === number;
    for (const [number, what] of [[5, "cut"], [12, "cut"], [20, "restart"], [45, "cut"]]) {
      await one.until(step(number));
      await world.control(what);
    }
    await ended(one);
    await ended(all);
    const commits = [];
    for (let after = 0; after !== null; ) {
      const page = await wake.events(id, { after, limit: 50 });
      commits.push(...page.items);
      after = page.next;
    }
    const { items: lines } = await wake.logs(id, { limit: 1000 });
    await ended(now);
    await one.until(() => one.of("log").length === lines.length);
    wake.close();
    const told = (seen) => ({
      facts: seen.messages
        .filter((message) => message.type !== "log" && message.type !== "delta")
        .map(({ type, payload }) => [type, payload.version, payload.call_id ?? null]),
      lines: seen.of("log").map((message) => message.payload.id),
    });
    return {
      one: told(one),
      all: told(all),
      recorded: commits.map(({ version, events }) => [version, events.map((event) => [event.type, event.call_id ?? null])]),
      lines: lines.map((line) => line.id),
      begun: now.messages[0].type,
      states,
    };
  },

  // Nothing comes any more, and nobody says that the connection is gone.
  async silent(world) {
    const states = [];
    const gone = promised();
    const { wake } = await client(world, "silent", {
      heartbeat: 100,
      onConnection: (state, error) => {
        states.push(state);
        if (state === "lost") gone.kept(error.message);
      },
    });
    const { id } = await long(wake, 30);
    const seen = watch(wake, id);
    await seen.until((message) => message.type === "step.completed");
    await world.control("hole");
    const why = await gone.promise;
    await world.control("mend");
    await ended(seen);
    wake.close();
    return { why, states, steps: seen.of("step.completed").map((m) => m.payload.step) };
  },

  // From one page to the next: another client goes on where this one was.
  async cursors(world) {
    const { wake, token } = await client(world, "cursors");
    const { id } = await start(wake, LOOKS(10));
    const seen = watch(wake, id);
    await ended(seen);
    const middle = seen.of("step.completed")[4];
    wake.close();
    const other = new world.Wakestream({ url: world.url, token });
    const rest = watch(other, id, { after: middle.cursor });
    await ended(rest);
    other.close();
    return {
      whole: seen.of("step.completed").map((message) => message.payload.step),
      rest: rest.of("step.completed").map((message) => message.payload.step),
    };
  },

  // Two subscriptions on one socket; one of them ends.
  async unsubscribe(world) {
    const states = [];
    const sockets = world.sockets.length;
    const { wake } = await client(world, "unsubscribe", { onConnection: (state) => states.push(state) });
    const { id } = await long(wake, 20, 10);
    const short = watch(wake, id, { onStep: () => short.subscription.unsubscribe() });
    const whole = watch(wake, id);
    const steps = watch(wake, id, { kinds: ["step.completed"] });
    await ended(whole);
    await steps.until((message) => message.payload.step === 21);
    const [active, stillActive] = [short.subscription.active, whole.subscription.active];
    whole.subscription.unsubscribe();
    whole.subscription.unsubscribe();
    steps.subscription.unsubscribe();
    return {
      short: short.of("step.completed").length,
      after: short.messages.at(-1).type,
      whole: whole.of("step.completed").length,
      kinds: [...new Set(steps.messages.map((message) => message.type))],
      active,
      stillActive,
      opened: world.sockets.length - sockets,
      states,
    };
  },

  // What is said comes as it is said, nothing twice; then the step has it all. Whoever
  // begins now begins with how things stand.
  async deltas(world) {
    const { wake, user } = await client(world, "deltas");
    const { id } = await start(wake, "script:\nsay One two three.\n", {
      await_event: { event_type: "go" },
    });
    const said = [];
    const told = [];
    const heard = [promised(), promised()];
    const stepped = promised();
    const finished = promised();
    wake.subscribe(id, {
      onStatus: ({ type, payload }) => {
        told.push([type, payload.status]);
        if (FINAL.has(payload.status)) finished.kept();
      },
      onDelta: ({ payload }) => {
        said.push(payload.text);
        heard[said.length - 1].kept();
      },
      onStep: ({ payload }) => stepped.kept(payload.text),
      onError: stepped.broken,
    });
    await world.control("say", { user, id, offset: 0, text: "One 🦆" });
    await heard[0].promise;
    await world.control("cut");
    await world.control("say", { user, id, offset: 5, text: " two" });
    await heard[1].promise;
    await world.control("trigger", { user, event_type: "go" });
    const text = await stepped.promise;
    await finished.promise;
    wake.close();
    return { said, text, told };
  },

  // Any number of subscriptions to the same and to all, come and gone at any time, from
  // anywhere, while the network is cut: each has what is its own, once, in order.
  async together(world) {
    const { wake, user } = await client(world, "together");
    const token = await world.control("token", { user, tier: "enterprise" });
    const chance = (number) => Math.floor(Math.random() * number);
    const ids = [];
    for (const steps of [60, 70]) ids.push((await long(wake, steps, 40)).id);
    const first = watch(wake, "*");
    const watches = [];
    for (let round = 1; round <= 24; round++) {
      await first.until((m) => m.type === "step.completed" && m.payload.step === 2 * round);
      const target = [...ids, "*"][chance(3)];
      const known = first.messages[chance(first.messages.length)].cursor;
      const after = ["0", known, undefined][chance(3)];
      const kinds = chance(3) ? undefined : ["step.completed", "log"];
      watches.push({ target, after, kinds, ...watch(wake, target, { after, kinds }) });
      if (!chance(3)) watches[chance(watches.length)].subscription.unsubscribe();
      if (!chance(6)) await world.control("cut");
    }
    for (const id of ids) await first.until((m) => m.execution === id && FINAL.has(m.payload.status));
    const other = new world.Wakestream({ url: world.url, token, backoff: QUICK });
    const whole = watch(other, "*");
    const lines = new Map();
    for (const id of ids) lines.set(id, (await other.logs(id, { limit: 1000 })).items.at(-1).id);
    const last = whole.until((m) => m.type === "log" && m.payload.id === Math.max(...lines.values()));
    await last;
    await first.until((m) => m.type === "log" && m.payload.id === Math.max(...lines.values()));
    for (const id of ids) await whole.until((m) => m.execution === id && FINAL.has(m.payload.status));
    const names = (messages) =>
      messages
        .filter(({ type }) => type !== "delta" && type !== "status")
        .map(({ type, execution, payload }) => [type, execution, payload.version ?? payload.id, payload.call_id ?? null]);
    const active = watches.filter(({ subscription }) => subscription.active);
    for (const one of active) {
      const ends = one.target === "*" ? ids : [one.target];
      for (const id of ends) {
        await one.until((m) => m.type === "log" && m.payload.id === lines.get(id)).catch(() => {});
        if (!one.kinds) await one.until((m) => m.execution === id && FINAL.has(m.payload.status));
      }
    }
    other.close();
    wake.close();
    return {
      whole: names(whole.messages),
      cursors: whole.messages.map((message) => message.cursor),
      first: names(first.messages),
      watches: watches.map((one) => ({
        target: one.target,
        after: one.after ?? null,
        kinds: one.kinds ?? null,
        active: active.includes(one),
        errors: one.errors.map(facts),
        got: names(one.messages),
      })),
    };
  },

  // A token that expires while the socket is open: another is asked for.
  async expired(world) {
    const user = `expired-${world.run}`;
    let asked = 0;
    const second = promised();
    const getToken = () => {
      if (++asked === 2) second.kept();
      return world.control("token", { user, tier: "enterprise", expiring: asked === 1 });
    };
    const wake = new world.Wakestream({ url: world.url, getToken, backoff: QUICK });
    const { id } = await long(wake);
    const seen = watch(wake, id);
    await second.promise;
    const steps = seen.of("step.completed").length;
    await seen.until(() => seen.of("step.completed").length > steps);
    await wake.cancel(id);
    await ended(seen);
    wake.close();
    return { asked, steps: seen.of("step.completed").map((m) => m.payload.step), errors: seen.errors };
  },

  // One that has expired already is asked for again by the first call.
  async renewed(world) {
    const user = `renewed-${world.run}`;
    let asked = 0;
    const getToken = () => world.control("token", { user, expired: asked++ === 0 });
    const wake = new world.Wakestream({ url: world.url, getToken });
    const pages = await Promise.all([wake.list(), wake.list(), wake.list()]);
    wake.close();
    return { asked, pages: pages.length };
  },

  // A token of nobody's: every call and every subscription says so, once.
  async wrong(world) {
    const wake = new world.Wakestream({ url: world.url, token: "not.a.token", backoff: QUICK });
    const call = await refusal(wake.list());
    const seen = watch(wake, "*");
    await seen.until(() => false).catch(() => {});
    wake.close();
    return { call, errors: seen.errors.map(facts), active: seen.subscription.active };
  },

  // What is not there, and what is another's, cannot be told apart.
  async missing(world) {
    const { wake } = await client(world, "missing");
    const other = await client(world, "other");
    const { id } = await start(other.wake, DONE);
    const good = watch(wake, "*");
    const errors = [];
    for (const name of ["nothing", id]) {
      const seen = watch(wake, name);
      await seen.until(() => false).catch(() => {});
      errors.push({
        get: await refusal(wake.get(name)),
        kill: await refusal(wake.kill(name)),
        feed: seen.errors.map(facts),
      });
    }
    const mine = await start(wake, DONE);
    await good.until((m) => m.execution === mine.id && FINAL.has(m.payload.status));
    const path = await refusal((async () => wake.get("../limits"))());
    wake.close();
    other.wake.close();
    return { errors, good: good.errors.length, path };
  },

  // More starts than a tier allows.
  async limited(world) {
    const { wake, user } = await client(world, "limited", { tier: "free" });
    const { id } = await start(wake, DONE, { model: "scripted?delay_ms=60000" });
    const refused = await refusal(start(wake, DONE));
    const limits = await wake.limits();
    await wake.kill(id);
    const after = await start(wake, DONE);
    wake.close();
    return { user, refused, limits, after };
  },

  // Whoever guesses tokens is slowed down.
  async guesses(world) {
    const refusals = [];
    for (let guess = 0; guess < 11; guess++) {
      const wake = new world.Wakestream({ url: world.url, token: `guess.${guess}` });
      refusals.push(await refusal(wake.list()));
    }
    const { wake } = await client(world, "guesses");
    const { items } = await wake.list();
    wake.close();
    return { refusals, items };
  },

  // Whoever gives up is not kept waiting.
  async abort(world) {
    const { wake } = await client(world, "abort");
    const { id } = await long(wake);
    const before = await refusal(wake.get(id, { signal: AbortSignal.abort() }));
    await world.control("hole");
    const giving = new AbortController();
    const call = refusal(wake.get(id, { signal: giving.signal }));
    giving.abort();
    const during = await call;
    const slow = new world.Wakestream({ url: world.url, token: "any", timeout: 50, retries: 1, backoff: QUICK });
    const late = await refusal(slow.list());
    await world.control("mend");
    const asking = new world.Wakestream({ url: world.url, getToken: () => new Promise(() => {}) });
    const tired = new AbortController();
    const unasked = refusal(asking.list({}, { signal: tired.signal }));
    tired.abort();
    const forever = new Promise((resolve) => setTimeout(resolve, 5000, { name: "it waits on" }));
    const tokenless = await Promise.race([unasked, forever]);
    const ending = new AbortController();
    const seen = watch(wake, id, { signal: ending.signal });
    await seen.until((message) => message.type === "step.completed");
    ending.abort();
    const active = seen.subscription.active;
    await wake.kill(id);
    wake.close();
    return { before: before.name, during: during.name, tokenless: tokenless.name, late, active };
  },

  // The page itself cannot get a token.
  async tokenless(world) {
    const getToken = async () => {
      throw new Error("logged out");
    };
    const wake = new world.Wakestream({ url: world.url, getToken });
    try {
      return { accepted: await wake.limits() };
    } catch (error) {
      return { ...facts(error), cause: error.cause?.message };
    }
  },

  // The answer to a start is lost: asked again, it is the same execution.
  async again(world) {
    const { wake } = await client(world, "again");
    await world.control("deafen");
    const starting = start(wake, DONE);
    await world.control("started", { user: `again-${world.run}` });
    await world.control("cut");
    const { id } = await starting;
    const key = `key-${world.run}`;
    const twice = [];
    for (let time = 0; time < 2; time++) {
      const what = { agent_type: "explorer", input: DONE };
      twice.push((await wake.start(what, { idempotencyKey: key })).id);
    }
    const { items } = await wake.list();
    wake.close();
    return { id, twice, listed: items.map((agent) => agent.id) };
  },

  // A page that nobody allowed: neither calls nor the feed are for it.
  async stranger(world) {
    const lost = promised();
    const { wake } = await client(world, "stranger", {
      retries: 0,
      onConnection: (state, error) => lost.kept({ state, ...facts(error ?? {}) }),
    });
    const call = await refusal(wake.list());
    const { subscription } = watch(wake, "*");
    const feed = await lost.promise;
    wake.close();
    return { call, feed, active: subscription.active };
  },

  // What docs/javascript.md shows.
  async documented(world) {
    const said = [];
    const program = await world.control("documented");
    const AsyncFunction = (async () => {}).constructor;
    const run = new AsyncFunction("Wakestream", "WakestreamError", "console", program);
    await run(world.Wakestream, world.WakestreamError, {
      log: (...words) => said.push(words.join(" ")),
    });
    return said;
  },

  // What is given wrongly is said at once, and nothing is sent.
  async misuse(world) {
    const { Wakestream, url } = world;
    const thrown = (call) => {
      try {
        call();
      } catch (error) {
        return `${error.name}: ${error.message}`;
      }
    };
    const { wake } = await client(world, "misuse");
    const said = [
      thrown(() => new Wakestream({ url })),
      thrown(() => new Wakestream({ url, token: "a", getToken: () => "b" })),
      thrown(() => new Wakestream({ url: "nowhere", token: "a" })),
      thrown(() => new Wakestream({ url: "ftp://host", token: "a" })),
      thrown(() => new Wakestream({ url: `${url}/?token=a`, token: "a" })),
      thrown(() => wake.subscribe("a b", {})),
      thrown(() => wake.subscribe("*", { kinds: ["steps"] })),
      thrown(() => wake.subscribe("*", { after: "the fifth" })),
    ];
    wake.close();
    return said;
  },
};
