// Asking the server, and telling where it has ended.

import { byId } from "./elements.js";

const ENDED = "the server has ended";

export function tellEnded(ended) {
  byId("ended").textContent = ended
    ? "The server has ended. The conversation is still in this tab: start prosocial chat again with "
      + `--port ${location.port || 80}, and go on here.`
    : "";
}

// What fetch and its readers throw where there is no server is a TypeError.
const orEnded = (signal) => (error) => {
  if (signal?.aborted || !(error instanceof TypeError)) throw error;
  tellEnded(true);
  throw new Error(ENDED);
};

export async function post(path, content, signal) {
  const response = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(content),
    signal,
  }).catch(orEnded(signal));
  if (!response.ok) throw new Error((await response.json()).error);
  return response;
}

export async function* linesOf(response, signal) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read().catch(orEnded(signal));
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) yield JSON.parse(line);
  }
}
