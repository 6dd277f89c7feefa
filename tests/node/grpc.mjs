// @grpc/grpc-js, as a user has it: `node grpc.mjs HOST:PORT KEY`, the CA in GRPC_CA. Prints what came of each call as
// JSON: the answer, or the status of the refusal.
import { readFileSync } from "node:fs";
import grpc from "@grpc/grpc-js";

const [target, key] = process.argv.slice(2);
const client = new grpc.Client(target, grpc.credentials.createSsl(readFileSync(process.env.GRPC_CA)));
const raw = (bytes) => bytes;
const path = (method) => `/test.Service/${method}`;
const metadata = () => {
  const fields = new grpc.Metadata();
  if (key) fields.set("api-key", key);
  return fields;
};
const deadline = () => ({ deadline: Date.now() + 15_000 });

const unary = (method, message) =>
  new Promise((done, failed) => {
    client.makeUnaryRequest(path(method), raw, raw, message, metadata(), deadline(), (error, answer) =>
      error ? failed(error) : done(answer.length));
  });
const streaming = (method, message) =>
  new Promise((done, failed) => {
    let count = 0;
    const call = client.makeServerStreamRequest(path(method), raw, raw, message, metadata(), deadline());
    call.on("data", () => count++).on("end", () => done(count)).on("error", failed);
  });
const uploading = (method, messages) =>
  new Promise((done, failed) => {
    const call = client.makeClientStreamRequest(path(method), raw, raw, metadata(), deadline(), (error, answer) =>
      error ? failed(error) : done(answer.toString()));
    for (const message of messages) call.write(message);
    call.end();
  });

const does = {
  echo: () => unary("Echo", Buffer.alloc(1_000_000)),
  count: () => streaming("Count", Buffer.from("100")),
  join: () => uploading("Join", [Buffer.from("a"), Buffer.from("b")]),
  fail: () => unary("Fail", Buffer.from("größer")),
};
const said = {};
for (const [step, attempt] of Object.entries(does)) {
  try {
    said[step] = await attempt();
  } catch (error) {
    said[step] = `${error.code} ${error.details}`;
  }
}
client.close();
console.log(JSON.stringify(said));
