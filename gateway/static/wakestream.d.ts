/**
 * Wakestream from JavaScript: what is called, what is given, what is answered.
 * Names with underscores are as they go over the wire; times are ISO 8601.
 */

export type Status =
  | "pending"
  | "running"
  | "paused"
  | "awaiting_event"
  | "awaiting_input"
  | "completed"
  | "failed"
  | "cancelled";

export type Level = "debug" | "info" | "warning" | "error";

// ── executions ───────────────────────────────────────────────────────────────

export interface TokenUsage {
  input: number;
  output: number;
  total: number;
  cache_read: number;
  cache_write: number;
}

/** Why it failed; `retryable`: whether a retry could help. */
export interface AgentError {
  type: string;
  message: string;
  retryable: boolean;
}

export interface LogLine {
  id: number;
  at: string;
  level: Level;
  event_type: string;
  message: string;
  by: string;
  context: Record<string, unknown>;
}

/** An execution. A list has 4,000 characters of `input` and `output`, and no `logs`. */
export interface Agent {
  id: string;
  user: string;
  agent_type: string;
  status: Status | "corrupt";
  step_count: number;
  token_usage: TokenUsage;
  input: string;
  output: string | null;
  metadata: Record<string, unknown>;
  created_at: string | null;
  started_at: string | null;
  paused_at: string | null;
  completed_at: string | null;
  updated_at: string | null;
  duration_seconds: number | null;
  logs: LogLine[];
  version: number;
  position: number;
  model: string;
  cost: number;
  finish_reason: string | null;
  error: AgentError | null;
  parent: string | null;
}

/** What an execution waits to be told; `schema` is that of the answer. */
export interface Asked {
  request: string;
  kind: "question" | "approval" | "doubt";
  question: string;
  schema: Record<string, unknown> | null;
  digest: string | null;
  deadline: string | null;
}

export interface AwaitedEvent {
  event_type: string;
  where: Record<string, unknown>;
  deadline: string | null;
}

export interface Task {
  title: string;
  status: string;
}

/** An execution with all that it is. */
export interface AgentDetail extends Agent {
  request: Asked | null;
  awaiting: AwaitedEvent | null;
  scheduled_for: string | null;
  pause_requested: boolean;
  cancel_requested: boolean;
  tasks: Task[];
  notes: Record<string, unknown>;
  children: string[];
}

/** `next` is the `cursor` of the next page; null on the last one. */
export interface AgentPage {
  items: Agent[];
  next: string | null;
  position: number;
}

/** A command took effect. */
export interface Accepted {
  id: string;
  status: Status;
  version: number;
  position: number;
  command_id: string;
}

/** A command is stored, and takes effect as soon as a service takes it. */
export interface Queued {
  id: string;
  command_id: string;
  detail: string;
}

/** `next` is the `after_id` of the lines that follow. */
export interface LogPage {
  items: LogLine[];
  next: number;
}

/** A commit: the events of one decision. */
export interface Commit {
  version: number;
  position: number;
  id: string;
  at: string;
  by: string;
  cause: string | null;
  route: string;
  events: ({ type: string } & Record<string, unknown>)[];
}

/** `next` is the `after` of what follows; null if there is nothing yet. */
export interface HistoryPage {
  items: Commit[];
  next: number | null;
}

/** How far a limit is used; `limit` null: there is none, and nothing is counted. */
export interface Use {
  used: number | null;
  limit: number | null;
  remaining: number | null;
  retry_after: number | null;
}

/** One's own limits: executions at a time, and starts within an hour. */
export interface Limits {
  user: string;
  tier: string | null;
  concurrent: Use;
  hourly: Use;
}

// ── what is asked ────────────────────────────────────────────────────────────

export interface Start {
  agent_type: string;
  input: string;
  options?: StartOptions;
}

export interface StartOptions {
  metadata?: Record<string, unknown>;
  model?: string;
  limits?: { max_steps?: number; max_tokens?: number; max_cost?: number; timeout?: number };
  idempotency_key?: string;
  run_at?: string;
  await_event?: Record<string, unknown>;
}

/** Which executions, and in which order; what is left out is no condition. */
export interface Listing {
  status?: Status | "corrupt" | (Status | "corrupt")[];
  agent_type?: string;
  model?: string;
  parent?: string;
  user?: string;
  text?: string;
  metadata?: Record<string, string>;
  created_from?: string | Date;
  created_to?: string | Date;
  updated_from?: string | Date;
  updated_to?: string | Date;
  sort?: "created_at" | "updated_at" | "completed_at" | "steps" | "tokens" | "cost";
  order?: "asc" | "desc";
  limit?: number;
  cursor?: string | null;
  min_position?: number;
}

/** With every call: `signal` ends it; `user` names somebody else's, for admins. */
export interface CallOptions {
  signal?: AbortSignal;
  user?: string;
}

// ── the feed ─────────────────────────────────────────────────────────────────

export type Kind = "step.completed" | "status.changed" | "tool.completed" | "log" | "delta";

/** A message of the feed; `cursor` is how far it brings whoever has it. */
export interface Message<K extends string, P = unknown> {
  cursor: string;
  type: K;
  user: string;
  execution: string;
  at: string;
  payload: P;
}

export interface ToolCall {
  id: string;
  name: string;
  /** JSON, as the model wrote it. */
  arguments: string;
}

export interface StepCompleted {
  version: number;
  step: number;
  model: string;
  text: string;
  tool_calls: ToolCall[];
  usage: { input?: number; output?: number; cache_read?: number; cache_write?: number };
  cost: number | null;
  latency_ms: number;
  finish_reason: string;
  truncated: boolean;
}

export interface ToolCompleted {
  version: number;
  call_id: string;
  outcome: "success" | "failed" | "denied" | "in_doubt";
  output: string;
  latency_ms: number;
  truncated: boolean;
}

/** What says more is there where it applies. */
export interface StatusChanged {
  version: number;
  status: Status;
  runner?: string;
  attempt?: number;
  reason?: string;
  request?: Partial<Asked> & { request: string; call_id: string; question: string };
  event_type?: string;
  output?: string;
  finish_reason?: string;
  error?: string;
  message?: string;
  retryable?: boolean;
  truncated?: boolean;
}

export type LoggedLine = Omit<LogLine, "at">;

/** A piece of what the model is saying: best effort, the step supersedes it. */
export interface DeltaText {
  step: number;
  attempt: number;
  try: number;
  offset: number;
  text: string;
}

export type StepMessage = Message<"step.completed", StepCompleted>;
/** `status` is how it stands, for whoever begins now; `status.changed` is what happened. */
export type StatusMessage = Message<"status" | "status.changed", StatusChanged>;
export type ToolMessage = Message<"tool.completed", ToolCompleted>;
export type LogMessage = Message<"log", LoggedLine>;
export type DeltaMessage = Message<"delta", DeltaText>;
export type AnyMessage = StepMessage | StatusMessage | ToolMessage | LogMessage | DeltaMessage;

/** What is to be done with what comes. Each message comes once, in order. */
export interface Handlers {
  onStep?: (message: StepMessage) => void;
  onStatus?: (message: StatusMessage) => void;
  onTool?: (message: ToolMessage) => void;
  onLog?: (message: LogMessage) => void;
  onDelta?: (message: DeltaMessage) => void;
  /** Every message, whatever its kind, after the handler of its kind. */
  onMessage?: (message: AnyMessage) => void;
  /** The subscription has ended by this; nothing more comes. */
  onError?: (error: WakestreamError) => void;
}

export interface SubscribeOptions extends Handlers {
  /** A cursor: what comes after it is sent first. `"0"` is the beginning; left out: from now on. */
  after?: string;
  /** Messages that are wanted; left out: those that have a handler, all with `onMessage`. */
  kinds?: Kind[];
  /** Whose execution it is, or whose all; for admins. */
  user?: string;
  /** Ends the subscription. */
  signal?: AbortSignal;
}

export interface Subscription {
  readonly execution: string;
  /** How far it has come; `after` of another subscription goes on from here. */
  readonly cursor: string | undefined;
  /** False once it was unsubscribed, or ended by an error. */
  readonly active: boolean;
  /** Nothing more comes; asking twice is fine. */
  unsubscribe(): void;
}

// ── the client ───────────────────────────────────────────────────────────────

/** What went wrong: problem details (RFC 9457) of the gateway, or that it cannot be reached. */
export class WakestreamError extends Error {
  constructor(
    detail: string,
    about: { status?: number; code: string; retryAfter?: number; problem?: object; cause?: unknown },
  );
  /** The HTTP status; 0 if nothing was answered. */
  readonly status: number;
  /** For programs: `not_found`, `limit_reached`, `unauthorized`, `unreachable` … */
  readonly code: string;
  /** For people. */
  readonly detail: string;
  /** Seconds after which to ask again, if that was said. */
  readonly retryAfter: number | undefined;
  /** The whole answer, if it was problem details. */
  readonly problem: object | undefined;
}

export interface Options {
  /** Where the gateway is: `https://wake.example.org`. */
  url: string | URL;
  /** A token; or `getToken`, which is asked again when one has expired. */
  token?: string;
  getToken?: () => string | Promise<string>;
  /** Told when the feed's connection changes; by `error` it was lost, and it is tried again. */
  onConnection?: (state: "open" | "lost" | "closed", error?: WakestreamError) => void;
  /** Milliseconds that an answer may take (60,000). */
  timeout?: number;
  /** How often what may be asked again is asked again (4). */
  retries?: number;
  /** Milliseconds of silence (15,000), twice of which make it ask whether the gateway is there. */
  heartbeat?: number;
  /** Milliseconds before the first (250) and the longest (15,000) wait for another try. */
  backoff?: { first?: number; longest?: number };
}

export class Wakestream {
  constructor(options: Options);
  /** Starts an agent. Its own retries, and yours with the same `idempotencyKey`, start it once. */
  start(
    what: Start,
    options?: { signal?: AbortSignal; idempotencyKey?: string },
  ): Promise<Accepted | Queued>;
  list(listing?: Listing, options?: { signal?: AbortSignal }): Promise<AgentPage>;
  get(id: string, options?: CallOptions & { logs?: number }): Promise<AgentDetail>;
  pause(id: string, options?: CallOptions): Promise<Accepted | Queued>;
  resume(id: string, options?: CallOptions): Promise<Accepted | Queued>;
  /** Ends it in order: a tool at work gets some seconds. */
  cancel(id: string, options?: CallOptions & { reason?: string }): Promise<Accepted | Queued>;
  /** Ends it at once. */
  kill(id: string, options?: CallOptions & { reason?: string }): Promise<Accepted | Queued>;
  /** Answers what it asks: `request` names which; left out: the one that is open. */
  input(
    id: string,
    answer: unknown,
    options?: CallOptions & { request?: string },
  ): Promise<Accepted | Queued>;
  /** Tries one that failed again. */
  retry(id: string, options?: CallOptions & { reason?: string }): Promise<Accepted | Queued>;
  logs(
    id: string,
    options?: CallOptions & { after_id?: number; level?: Level; limit?: number },
  ): Promise<LogPage>;
  events(
    id: string,
    options?: CallOptions & { after?: number; limit?: number },
  ): Promise<HistoryPage>;
  limits(options?: { signal?: AbortSignal }): Promise<Limits>;
  /** Follows one execution, or all of one's own (`"*"`); all share one connection. */
  subscribe(execution: string, options: SubscribeOptions): Subscription;
  /** Ends all subscriptions and the connection. */
  close(): void;
}
