// The page of `prosocial chat`. The conversation has the form that
// parlai_prosocial/chat/transcript.py describes, and lives in this tab.

import { ask } from "./dialogs.js";
import { button, byId, make, say, textOf } from "./elements.js";
import { inWords, meaning } from "./labels.js";
import { linesOf, post, tellEnded } from "./server.js";

const list = byId("turns"), message = byId("message");
const STORED = "prosocial chat";
let state = { models: [], classifier: null, turns: [], replaced: [] };
let largest = Infinity; // bytes of a message
const running = new Set(), writing = new WeakSet();

const shown = (reply) => reply.versions[reply.shown];
const isLast = (turn) => turn === state.turns.at(-1);

// Talking to the server

async function write(turn, index, again) {
  const reply = turn.replies[index];
  const version = { text: "", rots: [], safety: null, edited: false, flag: null };
  const before = reply.shown;
  const control = new AbortController();
  reply.versions.push(version);
  reply.shown = reply.versions.length - 1;
  writing.add(reply);
  running.add(control);
  const place = render(turn, index);
  busy();
  try {
    const content = { model: index, turns: [...turn.context, turn.message], again };
    const { signal } = control;
    let last = {};
    for await (last of linesOf(await post("reply", content, signal), signal)) {
      if (last.error) throw new Error(last.error);
      Object.assign(version, last);
      place.querySelector(".text").textContent = version.text;
      place.querySelector(".waiting").textContent = "writing";
    }
    if (!("safety" in last)) throw new Error("it broke off");
    announce(turn, index, version);
  } catch (error) {
    if (!version.text) {
      reply.versions.pop();
      reply.shown = Math.min(before, reply.versions.length - 1);
    }
    say(control.signal.aborted ? "Stopped." : `No reply: ${error.message}`);
  } finally {
    running.delete(control);
    writing.delete(reply);
    const drawn = render(turn, index);
    busy();
    // Only now has the turn its labels and buttons, and its full height.
    if (isLast(turn)) list.lastElementChild.scrollIntoView({ block: "end" });
    // Back to where the keys were, unless a message has been begun in the meantime.
    if (again && document.activeElement === message && !message.value) {
      drawn.querySelector('[data-key="Regenerate"]')?.focus();
    }
    store();
  }
}

function announce(turn, index, version) {
  const safety = version.safety ? ` It ${inWords(version.safety)}.` : "";
  const text = version.text.length > 300 ? `${version.text.slice(0, 300)}…` : version.text;
  byId("heard").textContent = `${state.models[index]} replied: ${text || "nothing."}${safety}`;
}

async function send(text, context) {
  const turn = {
    context,
    message: text,
    safety: null,
    replies: state.models.map(() => ({ versions: [], shown: -1 })),
    chosen: 0,
  };
  state.turns.push(turn);
  renderAll();
  list.lastElementChild.scrollIntoView({ block: "end" });
  const judging = state.classifier
    ? post("judge", { turns: [...context, text] }).then((r) => r.json()).then((safety) => {
        turn.safety = safety;
        list.children[state.turns.indexOf(turn)]?.querySelector(".mine")
          ?.replaceWith(messageOf(turn));
      })
    : null;
  await Promise.allSettled([judging, ...state.models.map((_, i) => write(turn, i, false))]);
  if (isLast(turn)) list.lastElementChild.scrollIntoView({ block: "end" }); // with its last label
  store();
}

// Drawing

function labelOf(safety) {
  const [kind, sign] = meaning(safety);
  const mark = make("span", { textContent: sign });
  mark.setAttribute("aria-hidden", "true");
  return make("p", { className: `label ${kind}` }, mark, ` ${inWords(safety)}`);
}

function messageOf(turn) {
  const number = state.turns.indexOf(turn) + 1;
  const article = make("article", { className: "mine" });
  article.append(make("h3", { textContent: `You, turn ${number}` }), textOf(turn.message));
  if (turn.safety) article.append(labelOf(turn.safety));
  if (isLast(turn) && !running.size) {
    const edit = button("Edit", `Edit your message of turn ${number}`, () => editMessage(turn));
    article.append(make("div", { className: "actions" }, edit));
  }
  return article;
}

function replyOf(turn, index) {
  const reply = turn.replies[index], version = shown(reply), model = state.models[index];
  const number = state.turns.indexOf(turn) + 1, of = `${model}, turn ${number}`;
  const article = make("article", { className: index === turn.chosen ? "chosen" : "" });
  article.append(make("h3", { textContent: of }));
  article.setAttribute("aria-busy", writing.has(reply));
  for (const rot of version?.rots ?? []) {
    article.append(make("p", { className: "rot", dir: "auto", textContent: `Rule of thumb: ${rot}` }));
  }
  article.append(textOf(version?.text ?? ""));
  if (writing.has(reply)) {
    article.append(make("p", { className: "waiting", textContent: "waiting for the model" }));
    return article;
  }
  if (version?.safety) article.append(labelOf(version.safety));
  const notes = [];
  if (version?.edited) notes.push("edited by you");
  if (reply.versions.length > 1) notes.push(`version ${reply.shown + 1} of ${reply.versions.length}`);
  if (notes.length) article.append(make("p", { className: "note", textContent: notes.join(", ") }));
  if (version?.flag) {
    const { reason, note, better } = version.flag;
    const parts = [`Flagged as ${reason}`, note, better && `A fitting reply: ${better}`];
    article.append(make("p", { className: "flagged", dir: "auto", textContent: parts.filter(Boolean).join(". ") }));
  }
  if (state.models.length > 1 && version && index === turn.chosen) {
    article.append(make("p", { className: "kept", textContent: "➜ The conversation goes on with this." }));
  }
  const actions = make("div", { className: "actions" });
  if (isLast(turn)) {
    if (state.models.length > 1 && version) {
      const chosen = index === turn.chosen;
      actions.append(button("Go on with this", `Go on with this: the reply of ${of}`,
        () => { turn.chosen = index; changed(turn); }, chosen));
    }
    actions.append(button("Regenerate", `Regenerate the reply of ${of}`, () => write(turn, index, true)));
    if (reply.versions.length > 1) {
      actions.append(button("Other version", `Other version of the reply of ${of}`, () => {
        reply.shown = (reply.shown + 1) % reply.versions.length;
        changed(turn);
        say(`Version ${reply.shown + 1}: ${shown(reply).text}`);
      }));
    }
    if (version) actions.append(button("Edit", `Edit the reply of ${of}`, () => editReply(turn, index)));
  }
  if (version) {
    actions.append(version.flag
      ? button("Unflag", `Unflag the reply of ${of}`,
          () => { version.flag = null; changed(turn); say("The flag is gone."); })
      : button("Flag", `Flag the reply of ${of}`, () => flag(turn, version)));
  }
  article.append(actions);
  return article;
}

function render(turn, index) {
  const place = list.children[state.turns.indexOf(turn)]?.querySelectorAll(".replies > article")[index];
  const article = replyOf(turn, index);
  const key = place?.contains(document.activeElement) && document.activeElement.dataset.key;
  place?.replaceWith(article);
  if (key) (article.querySelector(`[data-key="${key}"]`) ?? message).focus();
  return article;
}

function renderAll() {
  const active = document.activeElement, item = active?.closest?.("#turns > li");
  const at = item && [...list.children].indexOf(item), key = active?.dataset?.key;
  const column = item && [...item.querySelectorAll("article")].indexOf(active.closest("article"));
  byId("empty").hidden = state.turns.length > 0;
  list.className = state.models.length > 1 ? "two" : "one";
  list.replaceChildren(...state.turns.map((turn) => {
    const replies = make("div", { className: "replies" });
    replies.append(...turn.replies.map((_, index) => replyOf(turn, index)));
    return make("li", {}, messageOf(turn), replies);
  }));
  const article = key && list.children[at]?.querySelectorAll("article")[column];
  if (key) (article?.querySelector(`[data-key="${key}"]`) ?? message).focus();
}

function changed() {
  renderAll();
  store();
}

function busy() {
  byId("stop").hidden = !running.size;
  for (const id of ["send", "anew", "export-own", "export-conversations"]) {
    byId(id).disabled = running.size > 0;
  }
  const last = state.turns.at(-1);
  if (last) list.lastElementChild?.querySelector(".mine")?.replaceWith(messageOf(last));
}

// What people do to a turn

const clean = (text) => text.trim().toWellFormed();

async function flag(turn, version) {
  byId("flagged").textContent = version.text;
  const typed = await ask(byId("flag-dialog"), version, { reason: "unsafe", note: "", better: "" });
  if (!typed) return;
  const { reason, note, better } = typed;
  version.flag = { reason, note: clean(note), better: clean(better) };
  changed();
  say(`Flagged as ${version.flag.reason}.`);
}

async function edit(subject, text) {
  const edited = clean((await ask(byId("edit-dialog"), subject, { edited: text }))?.edited ?? "");
  return edited && edited !== text ? edited : null;
}

async function editReply(turn, index) {
  const reply = turn.replies[index], edited = await edit(shown(reply), shown(reply).text);
  if (edited === null) return;
  reply.versions.push({ text: edited, rots: [], safety: null, edited: true, flag: null });
  reply.shown = reply.versions.length - 1;
  if (state.classifier) {
    const turns = [...turn.context, turn.message, edited];
    shown(reply).safety = await (await post("judge", { turns })).json();
  }
  changed();
  say("The reply is edited.");
}

async function editMessage(turn) {
  const edited = await edit(turn, turn.message);
  if (edited === null) return;
  state.replaced.push(state.turns.pop()); // its flags still count
  await send(edited, turn.context);
}

// Keeping and exporting

function store() {
  try {
    sessionStorage.setItem(STORED, JSON.stringify(state));
  } catch {
    say("This conversation is too long to outlive a reload of the page; export it.");
  }
}

function save(name, text) {
  const link = make("a", { download: name, href: URL.createObjectURL(new Blob([text])) });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function exportAs(path, name, tell) {
  const day = new Date().toISOString().slice(0, 19).replaceAll(":", "-");
  try {
    const answer = await (await post(path, state)).json();
    if (answer.text) save(`${name}-${day}.jsonl`, answer.text);
    say(tell(answer));
  } catch (error) {
    say(`Not exported: ${error.message}`);
  }
}

byId("export-conversations").onclick = () => exportAs("export/conversations", "conversation",
  ({ turns }) => `Exported ${turns} turns as a ParlAI conversation.`);
byId("export-own").onclick = () => exportAs("export/own", "training-rows",
  ({ rows, left_out }) => `Exported ${rows} rows of flagged and edited replies.` + (left_out
    ? ` ${left_out} flagged replies are left out: their turns have no fitting reply.` : ""));
byId("anew").onclick = () => {
  if (state.turns.length && !confirm("Start a new conversation? Anything not exported is lost.")) return;
  state = { ...state, turns: [], replaced: [] };
  changed();
  message.focus();
  say("A new conversation.");
};
byId("stop").onclick = () => { for (const control of running) control.abort(); };
byId("composer").onsubmit = (event) => {
  event.preventDefault();
  const text = clean(message.value);
  if (!text || running.size) return;
  if (new TextEncoder().encode(text).length > largest) {
    say(`Your message is longer than ${largest.toLocaleString("en")} bytes; shorten it.`);
    return;
  }
  const last = state.turns.at(-1), reply = last && shown(last.replies[last.chosen]);
  if (last && !reply) {
    say("The last turn has no reply to continue from; regenerate it or edit your message.");
    return;
  }
  message.value = "";
  message.focus();
  say("");
  send(text, last ? [...last.context, last.message, reply.text] : []);
};
message.onkeydown = (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    byId("composer").requestSubmit();
  }
};

for (const example of byId("empty").querySelectorAll("button")) {
  example.onclick = () => {
    message.value = example.textContent;
    byId("composer").requestSubmit();
  };
}
// What has focus, and what a turn ends with, is not to hide behind what stays in place.
const inPlace = { scrollPaddingTop: byId("toolbar"), scrollPaddingBottom: byId("composer") };
const observer = new ResizeObserver(() => {
  for (const [side, element] of Object.entries(inPlace)) {
    document.documentElement.style[side] = `${element.offsetHeight + 8}px`;
  }
});
Object.values(inPlace).forEach((element) => observer.observe(element));
setInterval(() => {
  fetch("setup").then((answer) => tellEnded(!answer.ok), () => tellEnded(true));
}, 5000);

const { largest_turn, ...setup } = await (await fetch("setup")).json();
largest = largest_turn;
const stored = JSON.parse(sessionStorage.getItem(STORED) ?? "null");
state = stored && String(stored.models) === String(setup.models) ? { ...stored, ...setup } : { ...state, ...setup };
byId("about").textContent = `With ${setup.models.join(" and ")}. `
  + (setup.classifier ? `Labels by ${setup.classifier}.` : "No labels, since no classifier was given.");
byId("worth").hidden = !setup.classifier;
renderAll();
message.focus();
