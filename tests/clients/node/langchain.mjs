// LangChain's models: `node langchain.mjs URL MODEL QUESTION ANSWER`. Prints what came of it as JSON.
import { ChatOpenAI, OpenAIEmbeddings } from "@langchain/openai";
import { HumanMessage, ToolMessage } from "@langchain/core/messages";
import { forced, question, schema } from "./ticket.mjs";

const [baseURL, model, who, answer] = process.argv.slice(2);
const fields = { model, apiKey: "none", maxRetries: 0, configuration: { baseURL } };
const chat = new ChatOpenAI(fields);
const found = {};

const telling = new ChatOpenAI({ ...fields, modelKwargs: forced(answer) });
found.said = (await telling.invoke(who)).content;
found.streamed = "";
for await (const part of await telling.stream(who)) found.streamed += part.content;

found.form = await chat.withStructuredOutput(schema, { name: "ticket", method: "jsonSchema" }).invoke(question);

const sell = { type: "function", function: { name: "sell", parameters: schema } };
const bound = chat.bindTools([sell], { tool_choice: "required", parallel_tool_calls: false });
const called = await bound.invoke(question);
found.calls = called.tool_calls.map((call) => call.args);
const sold = called.tool_calls.map((call) => new ToolMessage({ content: "sold", tool_call_id: call.id }));
const short = new ChatOpenAI({ ...fields, maxTokens: 4 });
found.after = typeof (await short.invoke([new HumanMessage(question), called, ...sold])).content;
let whole;
for await (const part of await bound.stream(question)) whole = whole ? whole.concat(part) : part;
found.streamedCalls = whole.tool_calls.map((call) => call.args);

const embeddings = new OpenAIEmbeddings({ ...fields, model: "all-minilm-l6-v2" });
found.dimensions = (await embeddings.embedDocuments(["a tram", "a ferry"])).map((vector) => vector.length);

const responses = new ChatOpenAI({ ...fields, useResponsesApi: true, maxTokens: 4 });
found.response = (await responses.invoke(question)).id;

const asking = new ChatOpenAI({ ...fields, modelKwargs: { knowledge: { min_version: 1e9 } } });
await asking.invoke(question).catch((error) => {
  found.refused = error.message;
});
console.log(JSON.stringify(found));
