// Requests to the service this page came from. A key is never kept here: the cookie can't be read by scripts.

let csrf = null;

export class Refused extends Error {
  constructor(status, text, retryAfter) {
    super(text);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (csrf) headers["x-csrf-token"] = csrf;
  let response;
  try {
    response = await fetch(path, { ...options, headers, credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The service doesn't answer. Is it still running?");
  }
  if (response.ok) return response;
  let text = `The service answered ${response.status}.`;
  try {
    text = (await response.json()).error || text;
  } catch { /* no JSON came */ }
  throw new Refused(response.status, text, Number(response.headers.get("retry-after")) || null);
}

const asJson = (value) => ({ method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(value) });

export async function whoami() {
  const who = await (await ask("session")).json();
  csrf = who.csrf;
  return who;
}

export async function signIn(key) {
  const who = await (await ask("session", asJson({ key }))).json();
  csrf = who.csrf;
  return who;
}

export async function signOut() {
  await ask("session", { method: "DELETE" });
  csrf = null;
}

export const collections = async () => (await ask("collections")).json();
export const facets = async (request, signal) => (await ask("facets", { ...asJson(request), signal })).json();
export const record = async (id, collection) =>
  (await ask(`records/${id}?collection=${encodeURIComponent(collection)}`)).json();

// A busy service says when to come again: that is done twice before the user is told.
export async function search(request, file, signal, tries = 2) {
  const form = new FormData();
  form.set("query", JSON.stringify(request));
  if (file) form.set("image", file);
  try {
    return await (await ask("search", file ? { method: "POST", body: form, signal } : { ...asJson(request), signal })).json();
  } catch (error) {
    if (!(error instanceof Refused && [429, 503].includes(error.status) && tries)) throw error;
    await new Promise((done) => setTimeout(done, 1000 * (error.retryAfter || 1)));
    return search(request, file, signal, tries - 1);
  }
}

export async function preview(file, collection) {
  const form = new FormData();
  form.set("image", file);
  const response = await ask(`preview?collection=${encodeURIComponent(collection)}`, { method: "POST", body: form });
  const [width, height] = response.headers.get("x-image-size").split("x").map(Number);
  return { url: URL.createObjectURL(await response.blob()), width, height };
}

const place = (kind, id, collection) => `${kind}?collection=${encodeURIComponent(collection)}`.replace("ID", id);
export const thumbnail = (id, collection) => place("thumbnails/ID.jpg", id, collection);
export const image = (id, collection) => place("images/ID", id, collection);

// Why an image can't be shown: the browser only says that it couldn't.
export async function reason(url) {
  try {
    await ask(url);
    return null;
  } catch (error) {
    return error;
  }
}
