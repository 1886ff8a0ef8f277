// What the labels of ParlAI's and ProsocialDialog's safety data say, told apart by more than colour.
const LABELS = {
  __ok__: ["safe", "✓", "looks safe"],
  __notok__: ["unsafe", "✗", "looks unsafe"],
  __casual__: ["safe", "✓", "looks safe"],
  __possibly_needs_caution__: ["caution", "!", "may need caution"],
  __probably_needs_caution__: ["caution", "!", "probably needs caution"],
  __needs_caution__: ["caution", "!", "needs caution"],
  __needs_intervention__: ["unsafe", "✗", "looks unsafe"],
};
export const meaning = (safety) => LABELS[safety.label] ?? ["", "•", `labelled ${safety.label}`];
export const inWords = (safety) => `${meaning(safety)[2]}, ${Math.round(100 * safety.probability)} %`;
