"use strict";
// Without this script every sample is there all the same; only the filters are not.
const form = document.querySelector(".find");
const [text, suite, label, model, flagged, count] = ["text", "suite", "label", "model", "flagged", "count"]
  .map((name) => document.getElementById(`find-${name}`));
const cards = [...document.querySelectorAll("#samples .card")];
const words = cards.map((card) => card.textContent.toLocaleLowerCase());

function filter() {
  const wanted = text.value.toLocaleLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  cards.forEach((card, i) => {
    let fitting = 0;
    for (const reply of card.querySelectorAll("[data-model]")) {
      reply.hidden = model.value !== "" && reply.dataset.model !== model.value;
      fitting += !reply.hidden && (!flagged.checked || reply.hasAttribute("data-flagged"));
    }
    const fits =
      fitting > 0 &&
      (suite.value === "" || card.dataset.suite === suite.value) &&
      (label.value === "" || card.dataset.label === label.value) &&
      wanted.every((word) => words[i].includes(word));
    card.hidden = !fits;
    shown += fits;
  });
  count.textContent = `${shown} of ${cards.length} shown`;
}

form.addEventListener("input", filter);
form.hidden = false;
filter();

// Paper cannot be clicked: all is printed, and then closed again.
let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  for (const details of closed) details.open = true;
});
addEventListener("afterprint", () => {
  for (const details of closed) details.open = false;
});
