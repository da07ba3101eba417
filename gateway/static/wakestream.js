// Wakestream from JavaScript: in browsers and in node from 22 on, without dependencies.
//
//   import { Wakestream } from "https://wake.example.org/static/wakestream.js";
//   const wake = new Wakestream({ url: "https://wake.example.org", getToken });
//   const { id } = await wake.start({ agent_type: "explorer", input: "Look around." });
//   wake.subscribe(id, { after: "0", onStep: (step) => console.log(step.payload.text) });
//
// What is called, given and answered is written down in wakestream.d.ts.

/** @import * as t from "./wakestream.d.ts" */

const TIMEOUT = 60_000; // ms: twice what a gateway takes at most
const RETRIES = 4;
const FIRST = 250; // ms before the first other try
const LONGEST = 15_000; // ms between tries
const BUSY = new Set([502, 503, 504]); // of a gateway that cannot now, or of a proxy before it
const ID = /^[A-Za-z0-9_-]{1,64}$/;

/** @implements {t.WakestreamError} */
export class WakestreamError extends Error {
  /**
   * @param {string} detail
   * @param {{status?: number, code: string, retryAfter?: number, problem?: object, cause?: unknown}} about
   */
  constructor(detail, { status = 0, code, retryAfter, problem, cause }) {
    super(detail, { cause });
    this.name = "WakestreamError";
    this.status = status;
    this.code = code;
    this.detail = detail;
    this.retryAfter = retryAfter;
    this.problem = problem;
  }
}

/** How long to wait between tries: longer each time, and never all clients at once. */
class Patience {
  #first;
  #longest;
  #tries = 0;

  /** @param {{first?: number, longest?: number}} backoff */
  constructor({ first = FIRST, longest = LONGEST } = {}) {
    this.#first = first;
    this.#longest = longest;
  }

  get tries() {
    return this.#tries;
  }

  /** Milliseconds until the next try. */
  next() {
    const whole = Math.min(this.#longest, this.#first * 2 ** this.#tries++);
    return whole * (0.5 + Math.random() / 2);
  }

  /** It went well: begin again with short waits. */
  rest() {
    this.#tries = 0;
  }
}

/** The token: given once, or asked for, and asked for again once it is not good any more. */
class Token {
  /** @type {() => string | Promise<string>} */
  #ask;
  /** @type {Promise<string> | undefined} */
  #asked;
  #renewable;

  /** @param {t.Options} options */
  constructor({ token, getToken }) {
    if ((token === undefined) === (getToken === undefined)) {
      throw new TypeError("give one of token and getToken");
    }
    this.#renewable = getToken !== undefined;
    this.#ask = getToken ?? (() => /** @type {string} */ (token));
  }

  /**
   * All who need it meanwhile wait for the same answer.
   * @returns {Promise<string>}
   */
  get() {
    const asked = (this.#asked ??= Promise.resolve().then(this.#ask));
    asked.catch(() => this.#forget(asked));
    return asked;
  }

  /**
   * For a call, which may be given up meanwhile. Throws as all that a call throws.
   * @param {AbortSignal} [signal]
   */
  async forCall(signal) {
    try {
      return await unless(signal, this.get());
    } catch (cause) {
      signal?.throwIfAborted();
      throw tokenless(cause);
    }
  }

  /**
   * A token was refused: whether another can be had.
   * @param {string} token
   */
  async refused(token) {
    const asked = this.#asked;
    if (asked && (await asked.catch(() => token)) === token) this.#forget(asked);
    return this.#renewable;
  }

  /** @param {Promise<string>} asked */
  #forget(asked) {
    if (this.#asked === asked) this.#asked = undefined;
  }
}

/**
 * Wait; ends early, without an error, when `signal` does.
 * @param {number} ms
 * @param {AbortSignal} [signal]
 * @returns {Promise<void>}
 */
function sleep(ms, signal) {
  return new Promise((resolve) => {
    if (signal?.aborted) return resolve();
    const end = () => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", end);
      resolve();
    };
    const timer = setTimeout(end, ms);
    signal?.addEventListener("abort", end);
  });
}

/**
 * What `promise` comes to, or what `signal` says if that is first.
 * @template T
 * @param {AbortSignal | undefined} signal
 * @param {Promise<T>} promise
 * @returns {Promise<T>}
 */
function unless(signal, promise) {
  if (!signal) return promise;
  return new Promise((resolve, reject) => {
    const end = () => reject(signal.reason);
    signal.addEventListener("abort", end);
    const left = () => signal.removeEventListener("abort", end);
    promise.finally(left).then(resolve, reject);
  });
}

/** @param {unknown} cause */
function tokenless(cause) {
  return new WakestreamError("getToken failed", { code: "no_token", cause });
}

/**
 * What went wrong with a request, as the gateway or a proxy said it.
 * @param {Response} response
 * @param {string} text
 */
function problemOf(response, text) {
  /** @type {{code?: string, detail?: string, retry_after?: number} | undefined} */
  let problem;
  if (response.headers.get("Content-Type")?.startsWith("application/problem+json")) {
    problem = parsed(text);
  }
  const after = problem?.retry_after ?? Number(response.headers.get("Retry-After") || NaN);
  return new WakestreamError(problem?.detail ?? `HTTP ${response.status}`, {
    status: response.status,
    code: problem?.code ?? "error",
    retryAfter: Number.isFinite(after) ? after : undefined,
    problem,
  });
}

/** @param {string} text */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new WakestreamError("the answer is not JSON", { code: "unreadable", cause });
  }
}

/** @param {unknown} cause */
function unreachable(cause) {
  const why = cause instanceof Error ? cause.message : String(cause);
  return new WakestreamError(`the gateway cannot be reached: ${why}`, {
    code: "unreachable",
    cause,
  });
}

/**
 * The query of a request; arrays are given several times, what is undefined not at all.
 * @param {Record<string, unknown>} values
 */
function queryOf(values) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one === undefined || one === null) continue;
      query.append(name, one instanceof Date ? one.toISOString() : String(one));
    }
  }
  return query.size ? `?${query}` : "";
}

/** @param {string} id */
function pathOf(id) {
  if (!ID.test(id)) throw new TypeError(`${JSON.stringify(id)} is no id of an execution`);
  return `/api/agents/${id}`;
}

/** A key that nobody else has; `randomUUID` is for pages over HTTPS only. */
function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Requests to the gateway. */
class Requests {
  #url;
  #token;
  #timeout;
  #retries;
  #backoff;

  /**
   * @param {string} url
   * @param {Token} token
   * @param {t.Options} options
   */
  constructor(url, token, { timeout = TIMEOUT, retries = RETRIES, backoff }) {
    this.#url = url;
    this.#token = token;
    this.#timeout = timeout;
    this.#retries = retries;
    this.#backoff = backoff;
  }

  /**
   * Ask until it is answered: under the same key, a command that is asked for twice takes
   * effect once.
   * @param {string} method
   * @param {string} path
   * @param {{query?: object, body?: unknown, key?: string, signal?: AbortSignal}} what
   */
  async ask(method, path, { query = {}, body, key, signal }) {
    const target = this.#url + path + queryOf({ ...query });
    const content = body === undefined ? undefined : JSON.stringify(body);
    const patience = new Patience(this.#backoff);
    for (let renewed = false; ; ) {
      signal?.throwIfAborted();
      const token = await this.#token.forCall(signal);
      const answer = await this.#once(target, { method, content, key, signal, token });
      if (!(answer instanceof WakestreamError)) return answer;
      if (answer.status === 401 && !renewed && (await this.#token.refused(token))) {
        renewed = true; // refused before anything was done: asking again is safe
        continue;
      }
      const passing = answer.code === "unreachable" || BUSY.has(answer.status);
      if (!passing || patience.tries >= this.#retries) throw answer;
      await sleep(Math.max(patience.next(), 1000 * (answer.retryAfter ?? 0)), signal);
    }
  }

  /**
   * @param {string} target
   * @param {{method: string, content?: string, key?: string, signal?: AbortSignal, token: string}} what
   */
  async #once(target, { method, content, key, signal, token }) {
    const headers = new Headers({ Authorization: `Bearer ${token}` });
    if (content !== undefined) headers.set("Content-Type", "application/json");
    if (key !== undefined) headers.set("Idempotency-Key", key);
    const limit = AbortSignal.timeout(this.#timeout);
    try {
      const response = await fetch(target, {
        method,
        headers,
        body: content,
        signal: signal ? AbortSignal.any([signal, limit]) : limit,
        credentials: "omit",
        redirect: "error", // a token is for this gateway only
      });
      const text = await response.text();
      if (!response.ok) return problemOf(response, text);
      return text ? parsed(text) : undefined;
    } catch (error) {
      if (error instanceof WakestreamError) throw error;
      signal?.throwIfAborted();
      return unreachable(error);
    }
  }
}

// ── the feed ─────────────────────────────────────────────────────────────────

/** @type {Set<t.Kind>} */
const KINDS = new Set(["step.completed", "status.changed", "tool.completed", "log", "delta"]);
const PROTOCOL = "wake.v1";
const ALL = "*";
const OPENING = 15_000; // ms until a connection that does not open is given up
const BEAT = 15_000; // ms: silent twice as long, the gateway is asked whether it is there
const EXPIRED = 4401; // this token is good no more, or never was
const VIOLATIONS = new Set([1002, 1003, 1007, 1008]); // ours: trying again would not help
const PASSING = new Set(["unavailable", "outcome_unknown"]);
/** @type {Record<string, number>} */
const STATUSES = {
  unauthorized: 401,
  forbidden: 403,
  not_found: 404,
  deleted: 404,
  invalid_input: 422,
  limit_reached: 429,
  corrupt: 500,
  unknown_event: 500,
};
const SPEAKING = 1000; // executions of which it is remembered how far what they say was heard
const WHOLE = Infinity; // in place of a message's number in its commit: all of them
const CURSOR = /^([0-9]{1,15})(?:\.([0-9]{1,6}))?-([0-9]{1,15})$/;

/** How far somebody has come: in the events, and in the log lines. */
class Cursor {
  /**
   * @param {number} position
   * @param {number} index
   * @param {number} line
   */
  constructor(position, index, line) {
    this.position = position;
    this.index = index;
    this.line = line;
  }

  /** @param {string} text */
  static parse(text) {
    if (text === "0") return new Cursor(0, WHOLE, 0);
    const found = CURSOR.exec(text);
    if (!found) throw new TypeError(`${JSON.stringify(text)} is no cursor`);
    const index = found[2] === undefined ? WHOLE : Number(found[2]);
    return new Cursor(Number(found[1]), index, Number(found[3]));
  }

  toString() {
    const part = this.index === WHOLE ? "" : `.${this.index}`;
    return `${this.position}${part}-${this.line}`;
  }

  /**
   * Negative if this one is further back in the events.
   * @param {Cursor} other
   */
  #place(other) {
    if (this.position !== other.position) return this.position - other.position;
    return this.index === other.index ? 0 : this.index - other.index;
  }

  /**
   * Whether a message with this cursor is new to whoever is at `other`.
   * @param {t.Kind} kind
   * @param {Cursor} other
   */
  beyond(kind, other) {
    return kind === "log" ? this.line > other.line : this.#place(other) > 0;
  }

  /** @param {Cursor} other */
  covers(other) {
    return this.#place(other) >= 0 && this.line >= other.line;
  }

  /**
   * All that either of two has had.
   * @param {Cursor} other
   */
  and(other) {
    const ahead = this.#place(other) < 0 ? other : this;
    return new Cursor(ahead.position, ahead.index, Math.max(this.line, other.line));
  }

  /**
   * Only what both of two have had.
   * @param {Cursor} other
   */
  or(other) {
    const behind = this.#place(other) < 0 ? this : other;
    return new Cursor(behind.position, behind.index, Math.min(this.line, other.line));
  }
}

/** How far what models say was heard, so that no piece comes twice. */
class Heard {
  /** @type {Map<string, {place: string, end: number}>} */
  #heard = new Map();

  /**
   * What is new of a piece: after a reconnect all that was said so far comes at once.
   * @param {t.DeltaMessage} message
   */
  take(message) {
    const { execution, payload } = message;
    const place = [payload.step, payload.attempt, payload.try].join();
    const before = this.#heard.get(execution);
    const had = before?.place === place ? before.end : 0;
    const characters = Array.from(payload.text); // code points, as offsets are counted
    const end = payload.offset + characters.length;
    if (end <= had) return undefined;
    this.#heard.delete(execution); // the newest last
    this.#heard.set(execution, { place, end });
    for (const oldest of this.#heard.keys()) {
      if (this.#heard.size <= SPEAKING) break;
      this.#heard.delete(oldest);
    }
    if (payload.offset >= had) return message;
    const text = characters.slice(had - payload.offset).join("");
    return { ...message, payload: { ...payload, offset: had, text } };
  }
}

/**
 * One call of `subscribe`.
 * @implements {t.Subscription}
 */
class Watch {
  /** @type {Cursor | undefined} Undefined until it is known what "from now on" is. */
  at;
  /** It has just begun: how its execution stands is yet to be told. */
  fresh = false;
  /** The gateway knows its execution: it was subscribed to by itself. */
  known = false;
  #heard = new Heard();
  #handlers;
  #leave;
  #active = true;

  /**
   * @param {string} execution
   * @param {t.SubscribeOptions} options
   * @param {(watch: Watch) => void} leave
   */
  constructor(execution, options, leave) {
    if (execution !== ALL && !ID.test(execution)) {
      throw new TypeError(`${JSON.stringify(execution)} is no id of an execution, nor "*"`);
    }
    this.execution = execution;
    this.user = options.user ?? "";
    this.kinds = kindsOf(options);
    this.at = options.after === undefined ? undefined : Cursor.parse(String(options.after));
    this.#handlers = options;
    this.#leave = leave;
  }

  get active() {
    return this.#active;
  }

  get cursor() {
    return this.at?.toString();
  }

  unsubscribe() {
    if (!this.#active) return;
    this.#active = false;
    this.#leave(this);
  }

  /** @param {WakestreamError} error */
  fail(error) {
    if (!this.#active) return;
    this.#active = false;
    call(this.#handlers.onError, error);
  }

  /**
   * The gateway answered. Who had nowhere to begin begins here, with how things stand.
   * @param {Cursor} at
   */
  begin(at) {
    this.known = true;
    if (this.at) return;
    this.at = at;
    this.fresh = this.execution !== ALL;
  }

  /** @param {Cursor} at */
  reach(at) {
    this.at = this.at?.and(at);
  }

  /**
   * Note a message; whether it is to be handed out: it was not had before, and is wanted.
   * @param {t.AnyMessage} message
   * @param {Cursor} at
   */
  note(message, at) {
    const before = this.at;
    if (!before) return false;
    const { type } = message;
    if (type === "status") return false;
    const missing = type === "delta" || at.beyond(type, before);
    if (type !== "delta") this.at = before.and(at);
    if (this.execution !== ALL && message.execution !== this.execution) return false;
    if (type === "status.changed") this.fresh = false;
    return missing && this.kinds.has(type);
  }

  /**
   * How its execution stands, for whoever has just begun.
   * @param {t.StatusMessage} message
   */
  greet(message) {
    if (!this.fresh) return;
    this.fresh = false;
    if (this.kinds.has("status.changed")) this.hand(message);
  }

  /** @param {t.AnyMessage} message */
  hand(message) {
    if (!this.#active) return;
    const handlers = this.#handlers;
    switch (message.type) {
      case "step.completed":
        call(handlers.onStep, message);
        break;
      case "status":
      case "status.changed":
        call(handlers.onStatus, message);
        break;
      case "tool.completed":
        call(handlers.onTool, message);
        break;
      case "log":
        call(handlers.onLog, message);
        break;
      default: {
        const piece = this.#heard.take(message);
        if (!piece) return;
        message = piece;
        call(handlers.onDelta, piece);
      }
    }
    if (this.#active) call(handlers.onMessage, message);
  }
}

/**
 * Call a handler; its mistake is the page's own, and stops no other.
 * @template T
 * @param {((value: T) => void) | undefined} handler
 * @param {T} value
 */
function call(handler, value) {
  try {
    handler?.(value);
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}

/**
 * @param {t.SubscribeOptions} options
 * @returns {Set<t.Kind>}
 */
function kindsOf(options) {
  if (options.kinds) {
    const unknown = options.kinds.find((kind) => !KINDS.has(kind));
    if (unknown !== undefined) throw new TypeError(`there is no kind ${JSON.stringify(unknown)}`);
    return new Set(options.kinds);
  }
  if (options.onMessage) return KINDS;
  /** @type {[t.Kind, unknown][]} */
  const handlers = [
    ["step.completed", options.onStep],
    ["status.changed", options.onStatus],
    ["tool.completed", options.onTool],
    ["log", options.onLog],
    ["delta", options.onDelta],
  ];
  return new Set(handlers.filter(([, handler]) => handler).map(([kind]) => kind));
}

/**
 * How far all of these have come; undefined if one has yet to begin.
 * @param {Watch[]} watches
 */
function hindmost(watches) {
  const cursors = watches.map((watch) => watch.at);
  return cursors.reduce((least, one) => one && least && least.or(one), cursors[0]);
}

/** What the gateway sends on this connection: one execution, or all of a user's. */
class Topic {
  /** What comes is of this order, and not of one before. */
  begun = false;
  at;

  /**
   * @param {string} order
   * @param {Set<t.Kind>} kinds
   * @param {Cursor | undefined} from Undefined: from now on.
   */
  constructor(order, kinds, from) {
    this.order = order;
    this.kinds = kinds;
    this.at = from;
  }

  /**
   * Whether what comes is enough for all of these.
   * @param {Watch[]} watches
   */
  fits(watches) {
    const { at } = this;
    if (watches.some(({ kinds }) => [...kinds].some((kind) => !this.kinds.has(kind)))) return false;
    return at === undefined || watches.every((watch) => watch.at?.covers(at));
  }
}

/**
 * How a connection came to its end.
 * @typedef {{code: number, reason: string}} End
 */

/** One websocket for all subscriptions; it is there as long as there are any. */
class Feed {
  #url;
  #token;
  #options;
  /** @type {Set<Watch>} */
  #watches = new Set();
  /** @type {Map<string, Topic>} By `user/execution`. */
  #topics = new Map();
  #running = false;
  #ready = false;
  #renewed = false;
  #user = "";
  #orders = 0;
  /** @type {((order: object) => void) | undefined} */
  #send;
  /** @type {((end: End) => void) | undefined} */
  #end;
  /** @type {AbortController | undefined} Ends the wait for the next try. */
  #waiting;

  /**
   * @param {string} url
   * @param {Token} token
   * @param {t.Options} options
   */
  constructor(url, token, options) {
    this.#url = `${url.replace(/^http/, "ws")}/ws`;
    this.#token = token;
    this.#options = options;
  }

  // ── who watches ────────────────────────────────────────────────────────────

  /**
   * @param {string} execution
   * @param {t.SubscribeOptions} options
   */
  subscribe(execution, options) {
    const watch = new Watch(execution, options, (one) => this.#leave(one));
    const { signal } = options;
    if (signal?.aborted) {
      watch.unsubscribe();
      return watch;
    }
    signal?.addEventListener("abort", () => watch.unsubscribe(), { once: true });
    this.#watches.add(watch);
    this.#arrange();
    if (!this.#running) this.#run();
    return watch;
  }

  /** @param {Watch} watch */
  #leave(watch) {
    if (!this.#watches.delete(watch)) return;
    this.#arrange();
    queueMicrotask(() => this.#rest()); // who subscribes to something else next keeps it open
  }

  /** Close the connection if nobody watches any more. */
  #rest() {
    if (this.#watches.size) return;
    this.#end?.({ code: 1000, reason: "nothing is watched" });
    this.#waiting?.abort();
  }

  close() {
    for (const watch of [...this.#watches]) watch.unsubscribe();
  }

  /**
   * End subscriptions by an error.
   * @param {WakestreamError} error
   * @param {Watch[]} [watches]
   */
  #fail(error, watches = [...this.#watches]) {
    for (const watch of watches) this.#watches.delete(watch);
    for (const watch of watches) watch.fail(error);
    this.#arrange();
    this.#rest();
  }

  // ── the connection ─────────────────────────────────────────────────────────

  /** Connect again and again, for as long as anything is watched. */
  async #run() {
    this.#running = true;
    const patience = new Patience(this.#options.backoff);
    while (this.#watches.size) {
      const lost = await this.#once(patience);
      if (lost && this.#watches.size) await this.#wait(patience.next());
    }
    this.#running = false;
    this.#tell("closed");
  }

  /**
   * One connection from its beginning to its end: whether to wait before the next.
   * @param {Patience} patience
   */
  async #once(patience) {
    let token;
    try {
      token = await this.#token.get();
    } catch (cause) {
      this.#tell("lost", tokenless(cause));
      return true;
    }
    let end;
    try {
      end = await this.#connection(token);
    } catch (cause) {
      this.#fail(unreachable(cause)); // a page over HTTPS may not open this: it never will
      return false;
    }
    const was = this.#ready;
    this.#ready = false;
    this.#topics.clear();
    if (!this.#watches.size) return false;
    if (was) patience.rest();
    const error = errorOf(end);
    this.#tell("lost", error);
    if (end.code === EXPIRED) return await this.#expired(token, was, error);
    this.#renewed = false;
    if (VIOLATIONS.has(end.code) && !was) this.#fail(error);
    return true;
  }

  /**
   * Get another token, unless none can be had or the one that was got is no good.
   * @param {string} token
   * @param {boolean} was
   * @param {WakestreamError} error
   */
  async #expired(token, was, error) {
    const renewable = await this.#token.refused(token);
    if (!renewable || (!was && this.#renewed)) {
      this.#renewed = false;
      this.#fail(error);
    } else {
      this.#renewed = !was;
    }
    return was; // or tokens that live for a moment would make it spin
  }

  /** @param {number} ms */
  async #wait(ms) {
    const waiting = (this.#waiting = new AbortController());
    const now = () => waiting.abort(); // the network is back
    globalThis.addEventListener?.("online", now);
    await sleep(ms, waiting.signal);
    globalThis.removeEventListener?.("online", now);
    this.#waiting = undefined;
  }

  /**
   * Open a websocket and do what it says until it ends.
   * @param {string} token
   * @returns {Promise<End>}
   */
  #connection(token) {
    return new Promise((resolve) => {
      if (!this.#watches.size) return resolve({ code: 1000, reason: "" });
      const socket = new WebSocket(this.#url, [PROTOCOL]);
      let silent = 0;
      const opening = setTimeout(() => end({ code: 0, reason: "it does not open" }), OPENING);
      const beat = setInterval(() => {
        if (silent++ === 1) this.#send?.({ type: "ping" });
        else if (silent > 2) end({ code: 0, reason: "it is silent" });
      }, this.#options.heartbeat ?? BEAT);
      /** @param {End} how */
      const end = ({ code, reason }) => {
        clearTimeout(opening);
        clearInterval(beat);
        this.#send = this.#end = undefined;
        socket.onopen = socket.onmessage = socket.onclose = null;
        socket.close();
        resolve({ code, reason });
      };
      this.#end = end;
      socket.onopen = () => {
        this.#send = (order) => socket.send(JSON.stringify(order));
        this.#send({ type: "auth", token }); // never in the address: those are logged
      };
      socket.onmessage = ({ data }) => {
        silent = 0;
        clearTimeout(opening);
        this.#heard(JSON.parse(data));
      };
      socket.onclose = end;
    });
  }

  /**
   * @param {"open" | "lost" | "closed"} state
   * @param {WakestreamError} [error]
   */
  #tell(state, error) {
    call(() => this.#options.onConnection?.(state, error), undefined);
  }

  // ── what is asked for ──────────────────────────────────────────────────────

  /**
   * Ask for what is needed and not there, and for nothing twice: an execution comes by
   * itself or with all of its user's. Orders are done in order, so none waits for another.
   */
  #arrange() {
    if (!this.#ready) return;
    const needed = this.#needed();
    for (const key of this.#topics.keys()) if (!needed.has(key)) this.#drop(key);
    for (const key of needed) {
      const topic = this.#topics.get(key);
      if (topic?.fits(this.#watching(key))) continue;
      if (topic) this.#drop(key);
      this.#ask(key);
    }
  }

  /** The topics that are needed now. */
  #needed() {
    const users = new Set(Array.from(this.#watches, (watch) => this.#userOf(watch)));
    return new Set(Array.from(users).flatMap((user) => this.#neededOf(user)));
  }

  /**
   * Where all of a user's are watched, an execution whose watcher is further back, has yet
   * to begin, or may name one that is not there, comes first, by itself; meanwhile those who
   * watch all wait where they are.
   * @param {string} user
   */
  #neededOf(user) {
    const watches = [...this.#watches].filter((watch) => this.#userOf(watch) === user);
    const whole = watches.filter((watch) => watch.execution === ALL);
    if (!whole.length) return watches.map((watch) => keyOf(user, watch.execution));
    const least = hindmost(whole);
    const first = watches.filter(
      ({ execution, at, known }) => least && execution !== ALL && !(known && at?.covers(least)),
    );
    return first.length
      ? first.map((watch) => keyOf(user, watch.execution))
      : [keyOf(user, ALL)];
  }

  /** @param {Watch} watch */
  #userOf(watch) {
    return watch.user || this.#user;
  }

  /**
   * Who gets what comes for a topic.
   * @param {string} key
   */
  #watching(key) {
    const [user, execution] = key.split("/");
    return [...this.#watches].filter(
      (watch) =>
        this.#userOf(watch) === user && (execution === ALL || watch.execution === execution),
    );
  }

  /** @param {string} key */
  #ask(key) {
    const watches = this.#watching(key);
    const from = key.endsWith(ALL)
      ? hindmost(watches.filter((watch) => watch.execution === ALL))
      : hindmost(watches);
    const wanted = new Set(watches.flatMap((watch) => [...watch.kinds]));
    if (!wanted.size) wanted.add("status.changed"); // one at least has to be named
    const order = this.#order("subscribe", key, { after: from?.toString(), kinds: [...wanted] });
    this.#topics.set(key, new Topic(order, wanted, from));
  }

  /** @param {string} key */
  #drop(key) {
    this.#topics.delete(key);
    this.#order("unsubscribe", key);
  }

  /**
   * @param {string} type
   * @param {string} key
   * @param {object} [more]
   */
  #order(type, key, more) {
    const [user, execution] = key.split("/");
    const id = String(++this.#orders);
    this.#send?.({ type, id, execution, user: user === this.#user ? undefined : user, ...more });
    return id;
  }

  // ── what comes ─────────────────────────────────────────────────────────────

  /** @param {any} message */
  #heard(message) {
    if (message.type === "ready") {
      this.#ready = true;
      this.#user = message.user;
      this.#tell("open");
      this.#arrange();
    } else if (KINDS.has(message.type)) {
      this.#deliver(message);
    } else if (message.type === "status") {
      const key = keyOf(message.user, message.execution);
      for (const watch of this.#watching(key)) if (watch.execution !== ALL) watch.greet(message);
    } else if (message.id !== undefined) {
      const [key, topic] = [...this.#topics].find(([, one]) => one.order === message.id) ?? [];
      if (key !== undefined && topic) this.#answered(key, topic, message);
    }
  }

  /**
   * An answer to the order that asked for a topic.
   * @param {string} key
   * @param {Topic} topic
   * @param {{type: string, cursor: string, code: string, message: string}} answer
   */
  #answered(key, topic, { type, cursor, code, message }) {
    if (type === "error") {
      this.#topics.delete(key);
      const error = new WakestreamError(message, { code, status: STATUSES[code] ?? 0 });
      if (PASSING.has(code)) this.#later();
      else this.#fail(error, this.#watching(key).filter((one) => key.endsWith(`/${one.execution}`)));
      return;
    }
    const at = Cursor.parse(cursor);
    if (type === "subscribed") {
      topic.begun = true;
      topic.at = at;
      for (const watch of this.#watching(key)) {
        if (key === keyOf(this.#userOf(watch), watch.execution)) watch.begin(at);
      }
    } else if (type === "live") {
      topic.at = topic.at?.and(at);
      for (const watch of this.#watching(key)) watch.reach(at);
    }
    this.#arrange();
  }

  /** The gateway cannot now: ask again. */
  async #later() {
    await sleep(new Patience(this.#options.backoff).next());
    this.#arrange();
  }

  /**
   * What comes for a topic that is asked for anew is of before: it comes again.
   * @param {t.AnyMessage} message
   */
  #deliver(message) {
    const at = Cursor.parse(message.cursor);
    const keys = [keyOf(message.user, message.execution), keyOf(message.user, ALL)];
    const key = keys.find((one) => this.#topics.has(one)) ?? "";
    const topic = this.#topics.get(key);
    if (!topic || !topic.begun) return;
    if (message.type !== "delta") topic.at = topic.at?.and(at);
    // all have it before a handler can subscribe, unsubscribe or fail
    const takers = this.#watching(key).filter((watch) => watch.note(message, at));
    for (const watch of takers) watch.hand(message);
  }
}

/**
 * @param {string} user
 * @param {string} execution
 */
function keyOf(user, execution) {
  return `${user}/${execution}`;
}

/** @param {End} end */
function errorOf({ code, reason }) {
  const why = reason || (code ? `it was closed (${code})` : "it was cut");
  if (code === EXPIRED) return new WakestreamError(why, { code: "unauthorized", status: 401 });
  return new WakestreamError(`the feed: ${why}`, {
    code: VIOLATIONS.has(code) ? "refused" : "unreachable",
  });
}

// ── the client ───────────────────────────────────────────────────────────────

/** @implements {t.Wakestream} */
export class Wakestream {
  #requests;
  #feed;

  /** @param {t.Options} options */
  constructor(options) {
    const url = addressOf(options.url);
    const token = new Token(options);
    this.#requests = new Requests(url, token, options);
    this.#feed = new Feed(url, token, options);
  }

  /**
   * @param {t.Start} what
   * @param {{signal?: AbortSignal, idempotencyKey?: string}} [options]
   * @returns {Promise<t.Accepted | t.Queued>}
   */
  start(what, { signal, idempotencyKey } = {}) {
    const key = what.options?.idempotency_key ? undefined : (idempotencyKey ?? newKey());
    return this.#requests.ask("POST", "/api/agents", { body: what, key, signal });
  }

  /**
   * @param {t.Listing} [listing]
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<t.AgentPage>}
   */
  list({ metadata = {}, ...rest } = {}, { signal } = {}) {
    const pairs = Object.entries(metadata).map(([name, value]) => `${name}:${value}`);
    return this.#read("/api/agents", { ...rest, metadata: pairs }, signal);
  }

  /**
   * @param {string} id
   * @param {t.CallOptions & {logs?: number}} [options]
   * @returns {Promise<t.AgentDetail>}
   */
  async get(id, { signal, ...query } = {}) {
    return this.#read(pathOf(id), query, signal);
  }

  /**
   * @param {string} id
   * @param {t.CallOptions} [options]
   */
  async pause(id, options) {
    return this.#command(id, "pause", options);
  }

  /**
   * @param {string} id
   * @param {t.CallOptions} [options]
   */
  async resume(id, options) {
    return this.#command(id, "resume", options);
  }

  /**
   * @param {string} id
   * @param {t.CallOptions & {reason?: string}} [options]
   */
  async cancel(id, { reason, ...options } = {}) {
    return this.#command(id, "cancel", options, { reason });
  }

  /**
   * @param {string} id
   * @param {t.CallOptions & {reason?: string}} [options]
   * @returns {Promise<t.Accepted | t.Queued>}
   */
  async kill(id, { signal, ...query } = {}) {
    return this.#requests.ask("DELETE", pathOf(id), { query, key: newKey(), signal });
  }

  /**
   * @param {string} id
   * @param {unknown} answer
   * @param {t.CallOptions & {request?: string}} [options]
   */
  async input(id, answer, { request, ...options } = {}) {
    return this.#command(id, "input", options, { answer, request });
  }

  /**
   * @param {string} id
   * @param {t.CallOptions & {reason?: string}} [options]
   */
  async retry(id, { reason, ...options } = {}) {
    return this.#command(id, "retry", options, { reason });
  }

  /**
   * @param {string} id
   * @param {t.CallOptions & {after_id?: number, level?: t.Level, limit?: number}} [options]
   * @returns {Promise<t.LogPage>}
   */
  async logs(id, { signal, ...query } = {}) {
    return this.#read(`${pathOf(id)}/logs`, query, signal);
  }

  /**
   * @param {string} id
   * @param {t.CallOptions & {after?: number, limit?: number}} [options]
   * @returns {Promise<t.HistoryPage>}
   */
  async events(id, { signal, ...query } = {}) {
    return this.#read(`${pathOf(id)}/events`, query, signal);
  }

  /**
   * @param {{signal?: AbortSignal}} [options]
   * @returns {Promise<t.Limits>}
   */
  limits({ signal } = {}) {
    return this.#read("/api/limits", {}, signal);
  }

  /**
   * @param {string} execution
   * @param {t.SubscribeOptions} options
   * @returns {t.Subscription}
   */
  subscribe(execution, options) {
    return this.#feed.subscribe(execution, options);
  }

  close() {
    this.#feed.close();
  }

  /**
   * @param {string} path
   * @param {object} query
   * @param {AbortSignal} [signal]
   */
  #read(path, query, signal) {
    return this.#requests.ask("GET", path, { query, signal });
  }

  /**
   * Asked again after a resume of somebody's, a pause of before does not pause anew: the
   * key says that it is the same.
   * @param {string} id
   * @param {string} verb
   * @param {t.CallOptions} [options]
   * @param {object} [body]
   * @returns {Promise<t.Accepted | t.Queued>}
   */
  #command(id, verb, { signal, ...query } = {}, body) {
    const path = `${pathOf(id)}/${verb}`;
    return this.#requests.ask("POST", path, { query, body, key: newKey(), signal });
  }
}

/**
 * Where a gateway is, without a slash at its end.
 * @param {string | URL} given
 */
function addressOf(given) {
  const url = new URL(given);
  if (!/^https?:$/.test(url.protocol)) throw new TypeError(`${url.protocol} is not http: or https:`);
  if (url.search || url.hash || url.username || url.password) {
    throw new TypeError("the address of a gateway has no query, no fragment and no login");
  }
  return url.origin + url.pathname.replace(/\/+$/, "");
}
