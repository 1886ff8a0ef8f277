// Asking people, in the page's dialogs.

import { byId, say } from "./elements.js";

let asked = 0;
const drafts = new WeakMap(); // of what is flagged or edited -> what was typed and not yet saved

// Resolves to what was typed where it is saved, else null. Escape and the like keep what was typed
// for the next time; only Cancel throws it away.
export function ask(dialog, subject, fields) {
  const opener = document.activeElement, own = ++asked;
  const draft = drafts.get(subject);
  for (const [id, value] of Object.entries(draft ?? fields)) byId(id).value = value;
  if (draft) say("What you typed before is still there.");
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    const closed = () => {
      // The browser tells of a closing late: the dialog may be open again, for the next question.
      if (own === asked && dialog.open) return;
      dialog.removeEventListener("close", closed);
      if (own !== asked) return resolve(null);
      if (opener.isConnected) opener.focus();
      const typed = Object.fromEntries(Object.keys(fields).map((id) => [id, byId(id).value]));
      const changed = Object.keys(fields).some((id) => typed[id] !== fields[id]);
      if (dialog.returnValue || !changed) drafts.delete(subject);
      else drafts.set(subject, typed);
      resolve(dialog.returnValue === "save" ? typed : null);
    };
    dialog.addEventListener("close", closed);
  });
}
