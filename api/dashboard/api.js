// The HTTP API of this server: requests, its errors as `ApiError`, and its clock.

const REQUEST_MS = 20_000;

/** What the API refused, or that it did not answer; `status` is 0 then. */
export class ApiError extends Error {
  constructor(status, code, detail, retryAfterS = null, problem = {}) {
    super(detail);
    this.status = status;
    this.code = code;
    this.retryAfterS = retryAfterS;
    this.problem = problem;
  }
}

/** Where the server is, as somebody outside this page must write it. */
export const ADDRESS = location.origin;

/** A path with a query: arrays stand for several of one name; null and empty are left out. */
export function path(base, query = {}) {
  const pairs =
    query instanceof URLSearchParams
      ? [...query]
      : Object.entries(query).flatMap(([name, value]) =>
          (Array.isArray(value) ? value : [value]).map((each) => [name, each]),
        );
  const text = new URLSearchParams(
    pairs.filter(([, value]) => value !== null && value !== undefined && value !== ""),
  ).toString();
  return text ? `${base}?${text}` : base;
}

/** GET a path as JSON. The browser keeps the answer with its ETag and asks again: a 304 costs no body. */
export async function get(where, signal) {
  return json(await ask(where, { cache: "no-cache" }, signal));
}

/** GET a path as text, such as CSV. */
export async function getText(where, signal) {
  return (await ask(where, { cache: "no-cache" }, signal)).text();
}

/** POST a body as JSON. */
export async function post(where, body, signal) {
  const request = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  return json(await ask(where, request, signal));
}

/** GET a path whose refusal is an answer as well (`/readyz`): the problem's members come back with the status. */
export async function getEither(where, signal) {
  try {
    return await get(where, signal);
  } catch (error) {
    if (error instanceof ApiError && error.status === 503 && error.problem.checks) return error.problem;
    throw error;
  }
}

async function ask(where, request, signal) {
  const limit = AbortSignal.timeout(REQUEST_MS);
  let answer;
  try {
    answer = await fetch(where, { ...request, signal: signal ? AbortSignal.any([signal, limit]) : limit });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError(
      0,
      "away",
      limit.aborted
        ? "The server has not answered for 20 seconds."
        : "The server does not answer. Is it still running?",
    );
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

async function refusal(answer) {
  const problem = await answer.json().catch(() => ({}));
  const retryAfterS = Number(answer.headers.get("Retry-After")) || null;
  return new ApiError(
    answer.status,
    problem.code ?? "error",
    problem.detail ?? `${answer.status} ${answer.statusText}`,
    retryAfterS,
    problem,
  );
}

async function json(answer) {
  return parsed(await answer.text());
}

const LARGE = /\d{16}/;

/** JSON whose integers above 2^53 stay exact, as BigInt, where the browser tells how a number was written. */
export function parsed(text) {
  return LARGE.test(text) ? JSON.parse(text, exact) : JSON.parse(text);
}

function exact(key, value, context) {
  const unsafe = typeof value === "number" && Number.isInteger(value) && !Number.isSafeInteger(value);
  return unsafe && /^-?\d+$/.test(context?.source ?? "") ? BigInt(context.source) : value;
}

let ahead = 0;

/** Take note of the server's clock, as an answer that has just come said it. */
export function heardClock(serverNow) {
  ahead = serverNow - Date.now();
}

/** What time it is, by the server's clock as last heard. */
export function now() {
  return Date.now() + ahead;
}
