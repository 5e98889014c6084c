// Vercel's AI SDK on its defaults, which are /v1/responses: `node ask.mjs URL MODEL`. Prints what came of it as JSON.
import { createOpenAI } from "@ai-sdk/openai";
import { generateObject, generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";

const [url, name] = process.argv.slice(2);
const openai = createOpenAI({ baseURL: url, apiKey: "none" });
const model = openai(name);
// A tiny model has no reason to stop calling.
const providerOptions = { openai: { parallelToolCalls: false } };
const limits = { model, maxRetries: 0, maxOutputTokens: 400, providerOptions };
const ticket = jsonSchema({
  type: "object",
  properties: { line: { enum: ["amber", "cobalt"] }, child: { type: "boolean" } },
  required: ["line", "child"],
  additionalProperties: false,
});
const question = { role: "user", content: "A child's ticket for the Amber Line, please." };
const found = {};

const first = await generateText({ ...limits, maxOutputTokens: 8, messages: [question] });
found.text = typeof first.text;
found.usage = first.usage.outputTokens;

// The answer is sent back by reference: the SDK expects it to be stored.
const messages = [question, ...first.response.messages, { role: "user", content: "And for two?" }];
const second = await generateText({ ...limits, maxOutputTokens: 8, messages });
found.reference = JSON.parse(JSON.stringify(second.request.body)).input.some((item) => item.type === "item_reference");

const streamed = streamText({ ...limits, maxOutputTokens: 8, prompt: question.content });
const types = new Set();
for await (const part of streamed.fullStream) types.add(part.type);
found.streamed = [...types];

found.object = (await generateObject({ ...limits, schema: ticket, prompt: question.content })).object;

const sold = [];
const sell = tool({
  description: "Sell a ticket.",
  inputSchema: ticket,
  execute: async (asked) => {
    sold.push(asked);
    return { sold: true };
  },
});
const steps = { ...limits, prompt: question.content, tools: { sell }, toolChoice: "required", stopWhen: stepCountIs(2) };
found.steps = (await generateText(steps)).steps.length;
const agent = streamText(steps);
await agent.consumeStream();
found.streamedSteps = (await agent.steps).length;
found.sold = sold;

await generateText({ ...limits, prompt: "x", tools: { search: openai.tools.webSearch({}) } }).catch((error) => {
  found.refused = { status: error.statusCode, message: error.message };
});
console.log(JSON.stringify(found));
