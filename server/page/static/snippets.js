// The request of a card as a command and as a program, for a shell and an editor. The key is never in them.

import { address } from "./api.js";

const PLACE = "PICTURE_GOES_HERE";

/** The body of a request: what the page sends, and what the snippets say. `task`: null for the base model. */
export function requestBody({ model, task, picture, question, sampling }, url = picture?.url) {
  const content = picture ? [{ type: "image_url", image_url: { url } }] : [];
  if (question || !picture) content.push({ type: "text", text: question });
  return { model, ...(task ? { task: task.id } : {}), messages: [{ role: "user", content }], ...sampling };
}

/** `data:image/png;base64,` and the like. */
const head = (picture) => picture.url.slice(0, picture.url.indexOf(",") + 1);

/** A command for sh: the body is a here-document, in which the picture's bytes are put by the shell. */
export function asCurl(request) {
  const body = JSON.stringify(requestBody(request, PLACE), null, 2).replace(/[\\$`]/g, "\\$&");
  const { picture, hasKey } = request;
  const lines = [
    `curl -sS ${quoted(address("v1/chat/completions"))} \\`,
    "  -H 'Content-Type: application/json' \\",
    ...(hasKey ? ['  -H "Authorization: Bearer $PASSEPARTOUT_API_KEY" \\'] : []),
    "  -d @- <<JSON",
    picture ? body.replace(PLACE, () => head(picture) + bytesInBase64(picture)) : body,
    "JSON",
  ];
  return `${lines.join("\n")}\n`;
}

function bytesInBase64({ source, name }) {
  const read = source ? `curl -sS ${quoted(source)}` : `cat ${quoted(name)}`;
  return `$(${read} | base64 | tr -d '\\n')`;
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** A program for openai-python. JSON's strings and numbers are Python's too. */
export function asPython(request) {
  const { picture, task, question, model, sampling, hasKey } = request;
  const text = `{"type": "text", "text": ${JSON.stringify(question)}},`;
  const url = picture && `${JSON.stringify(head(picture))} + picture`;
  const key = hasKey ? 'os.environ["PASSEPARTOUT_API_KEY"]' : '"none"';
  const lines = [
    ...imports(request),
    "",
    ...(picture ? [`picture = base64.b64encode(${bytesExpression(picture)}).decode()`] : []),
    `client = OpenAI(base_url=${JSON.stringify(address("v1"))}, api_key=${key})`,
    "answer = client.chat.completions.create(",
    `    model=${JSON.stringify(model)},`,
    '    messages=[{"role": "user", "content": [',
    ...(picture ? [`        {"type": "image_url", "image_url": {"url": ${url}}},`] : []),
    ...(question || !picture ? [`        ${text}`] : []),
    "    ]}],",
    ...Object.entries(sampling).map(([name, value]) => `    ${name}=${value},`),
    ...(task ? [`    extra_body={"task": ${JSON.stringify(task.id)}},`] : []),
    ")",
    "print(answer.choices[0].message.content)",
  ];
  return `${lines.join("\n")}\n`;
}

function imports({ picture, hasKey }) {
  const standard = [
    ...(picture ? ["import base64"] : []),
    ...(hasKey ? ["import os"] : []),
    ...(picture && !picture.source ? ["from pathlib import Path"] : []),
  ];
  const others = [...(picture?.source ? ["import httpx"] : []), "from openai import OpenAI"];
  return standard.length ? [...standard, "", ...others] : others;
}

function bytesExpression({ source, name }) {
  const told = JSON.stringify(source ?? name);
  return source ? `httpx.get(${told}).content` : `Path(${told}).read_bytes()`;
}
