"use strict";
// Without this script every sample is there all the same; only the search is not.
const form = document.querySelector(".find");
if (form) {
  const [text, flagged, count] = ["#find-text", "#find-flagged", "#find-count"].map((id) =>
    document.querySelector(id),
  );
  const cards = [...document.querySelectorAll("#samples .card")];
  const words = cards.map((card) => card.textContent.toLocaleLowerCase());
  const filter = () => {
    const wanted = text.value.toLocaleLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    cards.forEach((card, i) => {
      const fits =
        (!flagged.checked || card.hasAttribute("data-flagged")) &&
        wanted.every((word) => words[i].includes(word));
      card.hidden = !fits;
      shown += fits;
    });
    count.textContent = `${shown} of ${cards.length} shown`;
  };
  form.addEventListener("input", filter);
  form.hidden = false;
  filter();
}
