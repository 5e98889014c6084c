// Texts word by word: which words of one are in another.

const SEGMENTER = new Intl.Segmenter(undefined, { granularity: "word" });
// Words that are everywhere: that an answer has them as well tells nothing.
const COMMON = new Set(
  ("a an and are as at be but by for from has have he her his i in is it its not of on or she that the their them " +
    "they this to was were which who will with you your what when where how do does").split(" "),
);

/** The words of a text that tell something, in one spelling. */
export function wordsOf(text) {
  const words = new Set();
  for (const { segment, isWordLike } of SEGMENTER.segment(text)) {
    if (isWordLike && !COMMON.has(spelling(segment))) words.add(spelling(segment));
  }
  return words;
}

/** The text in pieces [{text, marked}]: marked are the words for which `wanted` is true. */
export function pieces(text, wanted) {
  const found = [];
  for (const { segment, isWordLike } of SEGMENTER.segment(text)) {
    const marked = Boolean(isWordLike) && wanted(spelling(segment));
    const last = found.at(-1);
    if (last && last.marked === marked) last.text += segment;
    else found.push({ text: segment, marked });
  }
  return found;
}

function spelling(word) {
  return word.normalize("NFKC").toLowerCase();
}
