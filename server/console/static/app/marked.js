// A text with some of its words marked. Texts are never markup: every piece is a text node.

import { html } from "../vendor/htm-preact.js";
import { pieces } from "./words.js";

export function Marked({ text, wanted, tag = "mark" }) {
  return pieces(text, wanted).map((piece) => (piece.marked ? html`<${tag}>${piece.text}</${tag}>` : piece.text));
}
