// The official client: `node openai.mjs URL MODEL QUESTION ANSWER`. Prints what came of it as JSON.
import OpenAI from "openai";
import { forced, question, schema } from "./ticket.mjs";

const [baseURL, model, who, answer] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: question }];
const found = {};

const cited = await client.chat.completions.create({ model, messages: [{ role: "user", content: who }], ...forced(answer) });
found.said = cited.choices[0].message.content;
found.cited = cited.choices[0].message.annotations.map((one) => one.url_citation.url);
found.facts = cited.knowledge.facts.map((fact) => fact.id);

const stream = client.chat.completions.stream({ model, messages: [{ role: "user", content: who }], ...forced(answer) });
found.deltas = 0;
for await (const _ of stream) found.deltas += 1;
found.streamed = await stream.finalContent();

const format = { type: "json_schema", json_schema: { name: "ticket", strict: true, schema } };
found.form = JSON.parse((await client.chat.completions.create({ model, messages, response_format: format })).choices[0].message.content);

const tools = [{ type: "function", function: { name: "sell", parameters: schema } }];
const calling = { model, messages, tools, tool_choice: "required", parallel_tool_calls: false };
const called = (await client.chat.completions.create(calling)).choices[0];
found.reason = called.finish_reason;
found.calls = called.message.tool_calls.map((call) => JSON.parse(call.function.arguments));
const results = called.message.tool_calls.map((call) => ({ role: "tool", tool_call_id: call.id, content: "sold" }));
const after = await client.chat.completions.create({ model, messages: [...messages, called.message, ...results], max_tokens: 4 });
found.after = typeof after.choices[0].message.content;
const last = await client.chat.completions.stream(calling).finalMessage();
found.streamedCalls = last.tool_calls.map((call) => JSON.parse(call.function.arguments));

const embedded = await client.embeddings.create({ model: "all-minilm-l6-v2", input: ["a tram", "a ferry"] });
found.dimensions = embedded.data.map((one) => one.embedding.length);

const first = await client.responses.create({ model, input: question, max_output_tokens: 4 });
const events = await client.responses.create({ model, input: "And for two?", previous_response_id: first.id, max_output_tokens: 4, stream: true });
found.events = [];
for await (const event of events) found.events.push(event.type);
console.log(JSON.stringify(found));
