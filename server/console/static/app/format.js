// Numbers, times and what others wrote, as the page writes them.

export const percent = (share) => (share === null || share === undefined ? "–" : `${Math.round(share * 100)} %`);

export const decimal = (value) => value.toFixed(2);

export const milliseconds = (value) =>
  value === null ? "–" : value < 10 ? `${value.toFixed(1)} ms` : value < 10_000 ? `${Math.round(value)} ms` : `${Math.round(value / 1000)} s`;

export const count = (number, one, many = `${one}s`) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

const CLOCK = new Intl.DateTimeFormat(undefined, { dateStyle: "short", timeStyle: "medium" });

export const time = (unixSeconds) => CLOCK.format(unixSeconds * 1000);

// What would turn around the text behind it as well.
const DIRECTIONS = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

/** A name or a question within a sentence of ours. */
export const quoted = (text) => text.replace(DIRECTIONS, "");

/** JSON in one line, in which nothing is hidden. */
export const json = (value) =>
  JSON.stringify(value).replace(DIRECTIONS, (mark) => `\\u${mark.charCodeAt(0).toString(16).padStart(4, "0")}`);
