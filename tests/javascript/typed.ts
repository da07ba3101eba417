// What a page in TypeScript may write, and what its compiler has to refuse.
import {
  Wakestream,
  WakestreamError,
  type AgentPage,
  type AnyMessage,
  type StepMessage,
  type Subscription,
} from "../../gateway/static/wakestream.js";

export const wake = new Wakestream({
  url: new URL("https://wake.example.org"),
  getToken: async () => "a token",
  onConnection: (state, error) => console.log(state, error?.retryAfter?.toFixed()),
});

export async function all(): Promise<string[]> {
  const page: AgentPage = await wake.list({ status: ["running", "paused"], limit: 10 });
  return page.items.map((agent) => `${agent.id} ${agent.token_usage.total} ${agent.error?.type}`);
}

export async function reactions(id: string, signal: AbortSignal): Promise<Subscription> {
  await wake.input(id, { decision: "approve" }, { request: "r1", signal });
  return wake.subscribe(id, {
    after: "0",
    kinds: ["step.completed", "delta"],
    signal,
    onStep: (message: StepMessage) => message.payload.tool_calls.map((call) => call.arguments),
    onStatus: ({ payload }) => payload.request?.question.length,
    onMessage: (message) => told(message),
    onError: (error) => console.log(error.status + (error.retryAfter ?? 0), error.code, error.detail),
  });
}

function told(message: AnyMessage): number | string {
  switch (message.type) {
    case "delta":
      return message.payload.offset + message.payload.try;
    case "log":
      return message.payload.level;
    default:
      return message.payload.version;
  }
}

export async function caught(): Promise<number> {
  try {
    await wake.kill("an-id", { reason: "enough", user: "ada" });
  } catch (error) {
    if (error instanceof WakestreamError && error.status === 429) return error.retryAfter ?? 0;
  }
  return 0;
}

// @ts-expect-error - no such status
wake.list({ status: "done" });
// @ts-expect-error - an input is needed
wake.start({ agent_type: "explorer" });
// @ts-expect-error - no such kind
wake.subscribe("*", { kinds: ["steps"] });
// @ts-expect-error - a URL is needed
new Wakestream({ token: "a token" });
// @ts-expect-error - the last cursor is for reading
reactions("an-id", new AbortController().signal).then((one) => (one.cursor = "0"));
// @ts-expect-error - a token of numbers
new Wakestream({ url: "https://wake.example.org", token: 7 });
