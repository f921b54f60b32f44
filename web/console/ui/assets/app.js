// What pages cannot do without: copying, passkeys, keys. Everything else works
// without this file.
"use strict";

for (const b of document.querySelectorAll("[data-copy]")) {
  if (!navigator.clipboard) break;
  b.hidden = false;
  b.addEventListener("click", async () => {
    await navigator.clipboard.writeText(b.dataset.copy);
    const label = b.querySelector("span");
    const before = label.textContent;
    label.textContent = "Copied";
    document.getElementById("said")?.replaceChildren(label.textContent);
    setTimeout(() => { label.textContent = before; }, 1500);
  });
}

// Secrets are blurred until somebody wants to see them.
for (const pre of document.querySelectorAll("pre[data-secret]")) {
  pre.classList.add("masked");
  const b = document.createElement("button");
  b.type = "button";
  b.className = "quiet";
  b.textContent = "Show";
  b.setAttribute("aria-pressed", "false");
  b.addEventListener("click", () => {
    const masked = pre.classList.toggle("masked");
    b.textContent = masked ? "Show" : "Hide";
    b.setAttribute("aria-pressed", String(!masked));
  });
  pre.parentElement.after(b);
}

// A file of the user's machine is read into the field of a form.
for (const input of document.querySelectorAll("input[data-into]")) {
  input.hidden = false;
  input.addEventListener("change", async () => {
    if (!input.files.length) return;
    const field = document.getElementById(input.dataset.into);
    field.value = await input.files[0].text();
    field.dispatchEvent(new Event("input", { bubbles: true }));
  });
}

// Long work goes on by itself, step by step.
document.querySelector("form[data-continue]")?.requestSubmit();

// Passkeys. The server's options come as JSON with binary values in Base64 for
// URLs (WebAuthn Level 3, sections 5.1.8 and 5.1.9).
const bytes = (s) => Uint8Array.from(atob(s.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
const base64url = (b) => btoa(String.fromCharCode(...new Uint8Array(b))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");

function decoded(options) {
  const o = { ...options.publicKey, challenge: bytes(options.publicKey.challenge) };
  if (o.user) o.user = { ...o.user, id: bytes(o.user.id) };
  for (const list of ["excludeCredentials", "allowCredentials"]) {
    if (o[list]) o[list] = o[list].map((c) => ({ ...c, id: bytes(c.id) }));
  }
  return { publicKey: o };
}

function encoded(credential) {
  const r = credential.response;
  const response = { clientDataJSON: base64url(r.clientDataJSON) };
  for (const name of ["attestationObject", "authenticatorData", "signature", "userHandle"]) {
    if (r[name]) response[name] = base64url(r[name]);
  }
  if (r.getTransports) response.transports = r.getTransports();
  return { id: credential.id, rawId: base64url(credential.rawId), type: credential.type,
    authenticatorAttachment: credential.authenticatorAttachment || undefined,
    clientExtensionResults: credential.getClientExtensionResults(), response };
}

async function post(url, body) {
  const res = await fetch(url, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  const answer = await res.json().catch(() => ({}));
  if (!res.ok) throw new Error(answer.message || "the appliance answered " + res.status);
  return answer;
}

for (const form of document.querySelectorAll("form[data-passkey]")) {
  form.hidden = !window.PublicKeyCredential;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const status = form.querySelector("[role=status]");
    status.textContent = "Waiting for the passkey…";
    try {
      const fields = Object.fromEntries(new FormData(form));
      const begun = await post(form.dataset.begin, { fields });
      const options = decoded(begun.options);
      const credential = form.dataset.passkey === "create"
        ? await navigator.credentials.create(options) : await navigator.credentials.get(options);
      const done = await post(form.dataset.finish, { ceremony: begun.ceremony, response: encoded(credential), fields });
      const again = document.getElementById("again");
      if (again) again.submit(); else location.assign(done.location);
    } catch (e) {
      status.textContent = e.name === "NotAllowedError" ? "The passkey was not used. Try again." : e.message;
    }
  });
}

// Esc closes what is open over the page, and gives the focus back. So does a press beside
// it. Dialogs do it by themselves.
const menus = () => document.querySelectorAll("header details[open], .fold[open]");
document.addEventListener("keydown", (e) => {
  if (e.key !== "Escape" || e.target.closest?.("dialog")) return;
  for (const menu of menus()) {
    const inside = menu.contains(document.activeElement);
    menu.open = false;
    if (inside || document.activeElement === document.body) menu.querySelector("summary").focus();
  }
});
document.addEventListener("click", (e) => {
  for (const menu of menus()) if (!menu.contains(e.target)) menu.open = false;
});

// Keys: / filters, ? helps, g and a letter goes to a page. They do nothing while somebody
// types, nor where they are switched off.
let went = 0;
document.addEventListener("keydown", (e) => {
  if (document.documentElement.dataset.shortcuts === "off" || e.ctrlKey || e.metaKey || e.altKey || e.isComposing) return;
  if (e.target.isContentEditable || e.target.closest?.("input, select, textarea, dialog")) return;
  if (e.key === "?") { document.getElementById("keys")?.showModal(); return; }
  if (e.key === "/") {
    const input = document.querySelector("[data-filter] input");
    if (input) { e.preventDefault(); input.focus(); }
    return;
  }
  if (e.key === "g") { went = e.timeStamp; return; }
  if (e.timeStamp - went < 1500) {
    const link = [...document.querySelectorAll("nav a[data-key]")].find((a) => a.dataset.key === e.key);
    if (link) location.assign(link.href);
  }
});

// Regions that change by themselves are asked for again while somebody looks.
for (const region of document.querySelectorAll("[data-refresh]")) {
  setInterval(async () => {
    if (document.visibilityState !== "visible" || region.contains(document.activeElement)) return;
    const res = await fetch(location.href, { headers: { "Holdfast-Refresh": "1" } }).catch(() => null);
    if (!res || !res.ok || res.redirected) return;
    const page = new DOMParser().parseFromString(await res.text(), "text/html");
    const fresh = page.getElementById(region.id);
    if (fresh) region.replaceChildren(...fresh.childNodes);
  }, region.dataset.refresh * 1000);
}

// The header says how the appliance stands now. An open page asks for it every few seconds, and
// is loaded again when what it shows has changed, unless somebody has typed something into it.
const standing = () => document.getElementById("standing");
const signedOut = document.getElementById("signed-out");
let typed = false;
let answered = new Date();
document.addEventListener("input", (e) => { if (e.target.closest("form")) typed = true; });
signedOut?.addEventListener("cancel", (e) => e.preventDefault());

// keeps says whether loading the page again would lose something.
function keeps() {
  return typed || document.getElementById("changed").hasAttribute("data-posted")
    || document.querySelector("details.folded[open], [data-secret], dialog[open]:not(#signed-out)") !== null;
}

function noAnswer() {
  const badge = standing().querySelector(".badge");
  badge.className = "badge bad";
  badge.lastElementChild.textContent = "No answer since " + answered.toTimeString().slice(0, 8);
  standing().title = "The appliance does not answer. What the page shows may not be true any more.";
}

// Behind a balancer each question may meet another node. Nodes that differ for a while would have
// the page loaded again and again: another node than the page's has that once a minute at most.
const loadedAt = "holdfast-loaded";

function load() {
  sessionStorage.setItem(loadedAt, Date.now());
  location.reload();
}

const soon = (shown, now) => now.dataset.node !== shown.dataset.node && Date.now() - Number(sessionStorage.getItem(loadedAt)) < 60000;

// ask has method POST to stay signed in.
async function ask(method = "GET") {
  const shown = standing();
  const res = await fetch(shown.dataset.ask, { method, headers: { "Holdfast-Refresh": "1" }, signal: AbortSignal.timeout(4000) }).catch(() => null);
  if (res && res.status === 401) {
    idle.close();
    if (!signedOut.open) signedOut.showModal();
    return;
  }
  const text = res && res.ok ? await res.text().catch(() => null) : null;
  const now = text && new DOMParser().parseFromString(text, "text/html").getElementById("standing");
  if (!now) { noAnswer(); return; }
  answered = new Date();
  const same = now.dataset.digest === shown.dataset.digest;
  if (!same && !keeps() && !soon(shown, now)) { load(); return; }
  if (signedOut.open) signedOut.close(); // signed in again, in another tab
  document.getElementById("changed").hidden = same;
  // The link stays the same element: it may have the focus.
  shown.title = now.title;
  shown.dataset.ask = now.dataset.ask;
  if (shown.innerHTML !== now.innerHTML) shown.replaceChildren(...now.childNodes);
  warn(Number(now.dataset.seconds));
}

// Two minutes before a session ends because nobody uses it, a dialog says so, and extends it
// (WCAG 2.2, 2.2.1). Another tab may have used it meanwhile: then the dialog goes.
const idle = document.getElementById("idle");
const warning = 120;

function warn(seconds) {
  if (seconds > warning) { idle.close(); return; }
  idle.querySelector("[data-until]").textContent = new Date(Date.now() + seconds * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  if (!idle.open) idle.showModal();
}

if (standing()) {
  let asking = false;
  const again = async () => {
    if (asking || document.visibilityState !== "visible") return;
    asking = true;
    await ask().finally(() => { asking = false; });
  };
  setInterval(again, 5000);
  document.addEventListener("visibilitychange", again);
  addEventListener("pageshow", (e) => { if (e.persisted) again(); });
  document.getElementById("stay").addEventListener("click", () => ask("POST"));
  idle.addEventListener("cancel", () => ask("POST"));
}
