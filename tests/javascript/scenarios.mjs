// What an unmodified AWS SDK for JavaScript gets from a server. It runs every scenario below and prints a JSON line for
// each: its name, and what came of it.
//
//     node scenarios.mjs URL default|http1

import {
  BedrockClient,
  GetFoundationModelCommand,
  ListFoundationModelsCommand,
  ListGuardrailsCommand,
  paginateListInferenceProfiles,
} from "@aws-sdk/client-bedrock";
import {
  BedrockRuntimeClient,
  ConverseCommand,
  ConverseStreamCommand,
  CountTokensCommand,
  InvokeModelCommand,
  InvokeModelWithResponseStreamCommand,
} from "@aws-sdk/client-bedrock-runtime";
import { NodeHttpHandler } from "@smithy/node-http-handler";

const [endpoint, transport] = process.argv.slice(2);
const SONNET = "us.anthropic.claude-sonnet-4-6";
const ARN = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/";
const SCHEMA = {
  type: "object",
  properties: { service: { enum: ["checkout", "search"] }, minutes: { type: "integer" } },
  required: ["service", "minutes"],
  additionalProperties: false,
};
const ADD = {
  name: "add",
  inputSchema: { json: { type: "object", properties: { a: { type: "integer" }, b: { type: "integer" } } } },
};
const toolConfig = { tools: [{ toolSpec: ADD }] };
const image = { image: { format: "png", source: { bytes: new Uint8Array([137, 80, 78, 71]) } } };
const inferenceConfig = { maxTokens: 60, temperature: 0 };

function client(Kind) {
  return new Kind({
    region: "us-east-1",
    endpoint,
    credentials: { accessKeyId: "id", secretAccessKey: "key" },
    maxAttempts: 1,
    ...(transport === "http1" && { requestHandler: new NodeHttpHandler() }),
  });
}

function asked(text, more = {}) {
  return { modelId: SONNET, messages: [{ role: "user", content: [{ text }] }], ...more };
}

// Read a stream: its text, its events by kind, the input of its tool calls, and the error that ended it.
async function read(stream) {
  const got = { text: "", kinds: [], input: "" };
  try {
    for await (const event of stream) {
      const [[kind, value]] = Object.entries(event);
      got.kinds.push(kind);
      got.text += value.delta?.text ?? "";
      got.input += value.delta?.toolUse?.input ?? "";
      got.stop ??= value.stopReason;
      got.usage ??= value.usage;
    }
  } catch (error) {
    got.error = told(error);
  }
  return got;
}

function told(error) {
  const { httpStatusCode: status, requestId } = error.$metadata ?? {};
  return { name: error.name, message: error.message, status, requestId };
}

async function within(milliseconds, promise) {
  let timer;
  const late = new Promise((settle) => (timer = setTimeout(settle, milliseconds, { unsettled: true })));
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

const decoded = (bytes) => JSON.parse(new TextDecoder().decode(bytes));
const native = { modelId: SONNET, contentType: "application/json" };
const body = JSON.stringify({
  anthropic_version: "bedrock-2023-05-31",
  max_tokens: 100,
  messages: [{ role: "user", content: "one two three" }],
});

const scenarios = {
  async converse(runtime) {
    const { output, stopReason, usage, $metadata } = await runtime.send(new ConverseCommand(asked("one two three")));
    return { content: output.message.content, stopReason, usage, requestId: $metadata.requestId };
  },
  async stream(runtime) {
    return read((await runtime.send(new ConverseStreamCommand(asked("one two three")))).stream);
  },
  async many(runtime) {
    const one = async (number) => {
      const { stream } = await runtime.send(new ConverseStreamCommand(asked(`number ${number}`)));
      return (await read(stream)).text;
    };
    return Promise.all([...Array(20).keys()].map(one));
  },
  async arn(runtime) {
    const { output } = await runtime.send(new ConverseCommand(asked("here", { modelId: `${ARN}abc` })));
    return output.message.content;
  },
  async tools(runtime) {
    const question = asked("add");
    const first = await runtime.send(new ConverseCommand({ ...question, toolConfig }));
    const { toolUse } = first.output.message.content.find((block) => block.toolUse);
    const sum = toolUse.input.a + toolUse.input.b;
    const toolResult = { toolUseId: toolUse.toolUseId, content: [{ json: { sum } }] };
    const messages = [...question.messages, first.output.message, { role: "user", content: [{ toolResult }] }];
    const last = await runtime.send(new ConverseCommand({ ...question, messages, toolConfig }));
    const { stream } = await runtime.send(new ConverseStreamCommand({ ...question, toolConfig }));
    return { stop: first.stopReason, said: last.output.message.content, streamed: await read(stream) };
  },
  async structured(runtime) {
    const jsonSchema = { schema: JSON.stringify(SCHEMA) };
    const outputConfig = { textFormat: { type: "json_schema", structure: { jsonSchema } } };
    const modelId = "us.anthropic.claude-haiku-4-5-20251001-v1:0";
    const request = asked("Write a haiku about rain. No JSON, please.", { modelId, inferenceConfig, outputConfig });
    const whole = await runtime.send(new ConverseCommand(request));
    const { stream } = await runtime.send(new ConverseStreamCommand(request));
    return [whole.output.message.content[0].text, (await read(stream)).text];
  },
  async native(runtime) {
    const whole = await runtime.send(new InvokeModelCommand({ ...native, body }));
    const streamed = await runtime.send(new InvokeModelWithResponseStreamCommand({ ...native, body }));
    const events = [];
    for await (const { chunk } of streamed.body) events.push(decoded(chunk.bytes));
    return { whole: decoded(whole.body), text: events.map((event) => event.delta?.text ?? "").join("") };
  },
  async count(runtime) {
    const { messages } = asked("one two three");
    const modelId = "anthropic.claude-sonnet-4-20250514-v1:0";
    return (await runtime.send(new CountTokensCommand({ modelId, input: { converse: { messages } } }))).inputTokens;
  },
  async control() {
    const control = client(BedrockClient);
    const { modelSummaries } = await control.send(new ListFoundationModelsCommand({ byProvider: "anthropic" }));
    const [{ modelArn: modelIdentifier, modelId }] = modelSummaries;
    const { modelDetails } = await control.send(new GetFoundationModelCommand({ modelIdentifier }));
    const pages = [];
    for await (const page of paginateListInferenceProfiles({ client: control, pageSize: 7 }, {})) {
      pages.push(page.inferenceProfileSummaries.length);
    }
    const unknown = await control.send(new ListGuardrailsCommand({})).catch(told);
    control.destroy();
    return { same: modelDetails.modelId === modelId, pages, unknown };
  },
  async refusals(runtime) {
    const requests = {
      base: asked("hi", { modelId: "amazon.nova-2-lite-v1:0" }),
      conversation: asked("hi", { messages: [] }),
      constraint: asked("hi", { inferenceConfig: { temperature: 2 } }),
      image: asked("hi", { modelId: "us.amazon.nova-micro-v1:0", messages: [{ role: "user", content: [image] }] }),
    };
    const got = {};
    for (const [name, request] of Object.entries(requests)) {
      got[name] = [await runtime.send(new ConverseCommand(request)).catch(told)];
      got[name].push(await runtime.send(new ConverseStreamCommand(request)).catch(told));
    }
    return got;
  },
  // Every exception that the server has a fault of, by a model id of that name.
  async exceptions(runtime) {
    const names = ["Throttling", "ServiceUnavailable", "InternalServer", "ModelTimeout", "ModelError", "ModelNotReady"];
    names.push("Validation", "AccessDenied", "ResourceNotFound", "ExpiredToken", "UnrecognizedClient");
    const got = {};
    for (const name of names) {
      const request = asked("hi", { modelId: `${ARN}${name}Exception` });
      got[`${name}Exception`] = await runtime.send(new ConverseCommand(request)).catch(told);
    }
    return got;
  },
  async exceptionsInStreams(runtime) {
    const got = {};
    for (const name of ["Throttling", "ServiceUnavailable", "InternalServer", "ModelStreamError", "Validation"]) {
      const request = asked("one two three four", { modelId: `${ARN}stream-${name}Exception` });
      got[`${name}Exception`] = await read((await runtime.send(new ConverseStreamCommand(request))).stream);
    }
    return got;
  },
  async broken(runtime) {
    const got = {};
    for (const name of ["truncate", "hangup", "reset", "bad-crc"]) {
      const request = asked("one two three four", { modelId: `${ARN}${name}` });
      const sent = runtime.send(new ConverseStreamCommand(request)).then(({ stream }) => read(stream));
      // Over HTTP/2 the SDK may never learn that the connection ended, where the end came soon after the beginning.
      got[name] = await within(2000, sent.catch((error) => ({ error: told(error) })));
    }
    return got;
  },
  // The stream goes on when another request comes: its first word must have left by then.
  async incremental(runtime) {
    const { stream } = await runtime.send(new ConverseStreamCommand(asked("pause")));
    const words = [];
    for await (const event of stream) {
      const text = event.contentBlockDelta?.delta.text;
      if (text) words.push(text);
      if (text === "before") await runtime.send(new ConverseCommand(asked("go on")));
    }
    return words;
  },
  async hangupOnStream(runtime) {
    const controller = new AbortController();
    const { stream } = await runtime.send(new ConverseStreamCommand(asked("forever")), {
      abortSignal: controller.signal,
    });
    let count = 0;
    try {
      for await (const event of stream) if (event && ++count === 3) break;
    } catch (error) {
      return told(error);
    }
    controller.abort();
    return { count, closed: await closed() };
  },
  async hangupOnCall(runtime) {
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 200);
    const sent = runtime.send(new ConverseCommand(asked("forever")), { abortSignal: controller.signal });
    return { error: (await sent.catch(told)).name, closed: await closed() };
  },
};

// Whether the server has closed the endless answer within a second; asked over a connection of its own.
async function closed() {
  const other = client(BedrockRuntimeClient);
  const { output } = await other.send(new ConverseCommand(asked("closed?")));
  other.destroy();
  return output.message.content[0].text;
}

for (const [name, scenario] of Object.entries(scenarios)) {
  const runtime = client(BedrockRuntimeClient);
  const result = await scenario(runtime).catch((error) => ({ failed: told(error), stack: error.stack }));
  console.log(JSON.stringify({ name, result }));
  runtime.destroy();
}
