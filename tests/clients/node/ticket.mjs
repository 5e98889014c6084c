// What the clients are asked for: all of it from short lists, so that a tiny model comes to an end.
export const question = "A child's ticket for the Amber Line, please.";
export const schema = {
  type: "object",
  properties: { line: { type: "string", enum: ["amber", "cobalt"] }, child: { type: "boolean" } },
  required: ["line", "child"],
  additionalProperties: false,
};
export const forced = (answer) => ({ guided_choice: [answer] });
